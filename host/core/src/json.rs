//! JSON as the ledger keeps it: checked text whose bytes never change.

use std::fmt;
use std::sync::Arc;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::limits;

/// Valid JSON text, at most [`limits::PAYLOAD_BYTES_MAX`] long and [`limits::JSON_DEPTH_MAX`] deep.
///
/// The text is kept byte for byte (key order, duplicate keys, digits of numbers): a guest must read
/// on replay exactly what it read live. Cloning shares the text.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Json(Arc<str>);

/// Why a text is not accepted as [`Json`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Larger than a payload may be.
    #[error("{bytes} bytes of JSON; a payload holds at most {max}", max = limits::PAYLOAD_BYTES_MAX)]
    TooLarge {
        /// Length of the text in bytes.
        bytes: usize,
    },
    /// Nested deeper than Postgres and every client can be trusted to parse.
    #[error("JSON nested deeper than {max} levels", max = limits::JSON_DEPTH_MAX)]
    TooDeep,
    /// Not JSON.
    #[error("not JSON: {0}")]
    Syntax(String),
}

impl Json {
    /// The JSON text `null`.
    pub fn null() -> Self {
        Self(Arc::from("null"))
    }

    /// Checks `text` and keeps it as it is.
    pub fn new(text: impl Into<Arc<str>>) -> Result<Self, JsonError> {
        let text = text.into();
        if text.len() > limits::PAYLOAD_BYTES_MAX {
            return Err(JsonError::TooLarge { bytes: text.len() });
        }
        // Before the parse: serde_json skips nested values without a bound on their depth.
        if depth(&text) > limits::JSON_DEPTH_MAX {
            return Err(JsonError::TooDeep);
        }
        serde_json::from_str::<IgnoredAny>(&text).map_err(|error| JsonError::Syntax(error.to_string()))?;
        Ok(Self(text))
    }

    /// The text of `value`, which this program made itself.
    pub fn of(value: &impl Serialize) -> Result<Self, JsonError> {
        let text = serde_json::to_string(value).map_err(|error| JsonError::Syntax(error.to_string()))?;
        Self::new(text)
    }

    /// The bytes, as they came in.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Without whitespace around it, as it would stand inside a larger document.
    pub(crate) fn trimmed(self) -> Self {
        let trimmed = self.0.trim_matches([' ', '\t', '\n', '\r']);
        if trimmed.len() == self.0.len() { self } else { Self(trimmed.into()) }
    }

    /// The shared text.
    pub fn text(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

/// The deepest nesting of brackets outside strings. Exact for JSON, an upper bound for anything else.
pub(crate) fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Json {
    /// Embeds the text as it is.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    /// Keeps the text as it stands in the document.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Self::new(raw.get()).map_err(serde::de::Error::custom)
    }
}

/// Attached JSON of `null` is not the same as none.
pub(crate) fn attached<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Json>, D::Error> {
    Json::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_kept_byte_for_byte() {
        for text in [
            r#"{"b":1,"a":2}"#,
            r#"{"a":1,"a":2}"#,
            "123456789012345678901234567890.000",
            r#""\u0000\ud800""#,
            " [ 1 ,\n2 ] ",
        ] {
            assert_eq!(Json::new(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in ["", "{", "nul", "[1,]", "01", "\"\u{0}\"", "1 2", "{'a':1}", "\"\\x\""] {
            assert!(matches!(Json::new(text), Err(JsonError::Syntax(_))), "{text:?}");
        }
    }

    #[test]
    fn depth_is_bounded_whatever_stands_in_strings() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(Json::new(nested(limits::JSON_DEPTH_MAX)).is_ok());
        assert_eq!(Json::new(nested(limits::JSON_DEPTH_MAX + 1)), Err(JsonError::TooDeep));
        assert_eq!(Json::new(nested(100_000)), Err(JsonError::TooDeep));
        assert!(Json::new(format!("\"\\\"{}\"", "[".repeat(1000))).is_ok());
    }

    #[test]
    fn embedding_keeps_the_bytes_too() {
        let odd = Json::new(r#"{"z":1.0,"a":[ ]}"#).unwrap();
        let document = serde_json::to_string(&vec![odd.clone()]).unwrap();
        assert_eq!(document, r#"[{"z":1.0,"a":[ ]}]"#);
        assert_eq!(serde_json::from_str::<Vec<Json>>(&document).unwrap(), [odd]);
    }
}
