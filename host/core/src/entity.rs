//! A run's memory: one JSON document that its guest edits by path, each edit a command.
//!
//! The document is a fold over the ledger, so a replay has it again; whoever reads the database finds
//! the latest one in the table `entities`. A path is names separated by dots (`customer.address.city`),
//! with numbers for the elements of arrays; the empty path is the whole document, which begins as `{}`.
//!
//! | edit | of what is missing | of what is there |
//! |---|---|---|
//! | set | made, with the objects on the way | replaced |
//! | merge | as of `{}` | RFC 7396: objects are merged, `null` deletes, all else replaces |
//! | append | an array of one | added at the end of an array |
//! | increment | as of 0 | added to a number |
//! | delete | nothing | removed; the elements of an array after it move up |
//!
//! What does not fit (an increment of a text, a path through a number, a document that grows too large)
//! is an error that changes nothing. Guests hear of it by a code:
//!
//! | code | |
//! |---|---|
//! | `path-too-long` | more than [`limits::ENTITY_PATH_NAMES_MAX`] names |
//! | `no-object` | the path leads through what is neither an object nor an array |
//! | `no-element` | the path names an element that an array does not have |
//! | `no-array`, `no-number` | what is there cannot be appended to, or added to |
//! | `not-finite` | an increment by what is no number, or to one that is too large for any |
//! | `too-large`, `too-deep` | the document would have more than [`limits::ENTITY_BYTES_MAX`] bytes, or nest too deep |
//! | `invalid-value` | the value is JSON, but holds what no document can (a number beyond all) |
//!
//! No row holds it, so codes never change their meaning, and nor do the texts that runs under the first
//! [rules](crate::rules) hear instead.

use serde_json::{Map, Value};

use crate::json::{self, Json, JsonError};
use crate::limits;

/// What is done at a path.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// This is the value now.
    Set(Json),
    /// JSON merge patch.
    Merge(Json),
    /// One more element.
    Append(Json),
    /// A number more, or less.
    Increment(f64),
    /// It is gone.
    Delete,
}

impl Edit {
    /// The name that rows and people read.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Set(_) => "set",
            Self::Merge(_) => "merge",
            Self::Append(_) => "append",
            Self::Increment(_) => "increment",
            Self::Delete => "delete",
        }
    }

    /// The value it carries.
    pub fn value(&self) -> Option<Json> {
        match self {
            Self::Set(value) | Self::Merge(value) | Self::Append(value) => Some(value.clone()),
            Self::Increment(by) => Json::of(by).ok(),
            Self::Delete => None,
        }
    }
}

/// Why an edit cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Unfit {
    /// What guests hear. Append-only.
    pub code: &'static str,
    /// For people, and for guests under the first rules, whose ledgers depend on every byte of it.
    pub text: String,
}

impl Unfit {
    fn new(code: &'static str, text: String) -> Self {
        Self { code, text }
    }
}

/// The document.
#[derive(Clone, Debug, PartialEq)]
pub struct Entity {
    root: Value,
    bytes: usize,
}

impl Default for Entity {
    fn default() -> Self {
        Self { root: Value::Object(Map::new()), bytes: 2 }
    }
}

impl Entity {
    /// The document that `json` says.
    pub fn new(json: &Json) -> Result<Self, String> {
        let root = serde_json::from_str(json.as_str()).map_err(|error| error.to_string())?;
        Self::checked(root).map_err(|unfit| unfit.text)
    }

    /// What is at `path`.
    pub fn get(&self, path: &str) -> Option<Json> {
        let mut here = &self.root;
        for name in names(path) {
            here = match here {
                Value::Object(members) => members.get(name)?,
                Value::Array(elements) => elements.get(index(name)?)?,
                _ => return None,
            };
        }
        Json::of(here).ok()
    }

    /// The document after `edit` at `path`.
    pub fn edited(&self, path: &str, edit: &Edit) -> Result<Self, Unfit> {
        if names(path).count() > limits::ENTITY_PATH_NAMES_MAX {
            let text = format!("a path of more than {} names", limits::ENTITY_PATH_NAMES_MAX);
            return Err(Unfit::new("path-too-long", text));
        }
        let value = |json: &Json| {
            serde_json::from_str(json.as_str()).map_err(|error| {
                // It is JSON, so it is either too deep for a reader or has a number beyond all.
                let is_deep = json::depth(json.as_str()) >= limits::JSON_DEPTH_MAX;
                Unfit::new(if is_deep { "too-deep" } else { "invalid-value" }, error.to_string())
            })
        };
        let mut root = self.root.clone();
        if let Edit::Delete = edit {
            delete(&mut root, path);
            return Self::checked(root);
        }
        let place = reach(&mut root, path)?;
        match edit {
            Edit::Set(json) => *place = value(json)?,
            Edit::Merge(json) => merge(place, value(json)?),
            Edit::Append(json) => match place {
                Value::Array(elements) => elements.push(value(json)?),
                Value::Null => *place = Value::Array(vec![value(json)?]),
                other => {
                    let text = format!("{path:?} is {}, not an array", kind(other));
                    return Err(Unfit::new("no-array", text));
                }
            },
            Edit::Increment(by) => *place = sum(path, place, *by)?,
            Edit::Delete => {}
        }
        Self::checked(root)
    }

    /// Bytes of its text.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its text: members in the order of their names.
    pub fn to_json(&self) -> Json {
        Json::of(&self.root).unwrap_or_else(|_| Json::null())
    }

    fn checked(root: Value) -> Result<Self, Unfit> {
        let json = Json::of(&root).map_err(|error| {
            let code = if matches!(error, JsonError::TooLarge { .. }) { "too-large" } else { "too-deep" };
            Unfit::new(code, error.to_string())
        })?;
        let bytes = json.as_str().len();
        if bytes > limits::ENTITY_BYTES_MAX {
            let text = format!("{bytes} bytes; an entity has at most {}", limits::ENTITY_BYTES_MAX);
            return Err(Unfit::new("too-large", text));
        }
        Ok(Self { root, bytes })
    }
}

fn names(path: &str) -> impl Iterator<Item = &str> {
    path.split('.').filter(move |_| !path.is_empty())
}

/// An element's place. Digits only: `usize` takes a sign too.
fn index(name: &str) -> Option<usize> {
    name.parse().ok().filter(|_| name.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The place that `path` names, made where it is missing. What is made is `null`.
fn reach<'a>(root: &'a mut Value, path: &str) -> Result<&'a mut Value, Unfit> {
    let mut here = root;
    for name in names(path) {
        if here.is_null() {
            *here = Value::Object(Map::new());
        }
        here = match here {
            Value::Object(members) => members.entry(name).or_insert(Value::Null),
            Value::Array(elements) => {
                let length = elements.len();
                index(name).and_then(|index| elements.get_mut(index)).ok_or_else(|| {
                    let text = format!("{path:?}: {name:?} is no element of an array of {length}");
                    Unfit::new("no-element", text)
                })?
            }
            other => {
                let text = format!("{path:?} leads through {}", kind(other));
                return Err(Unfit::new("no-object", text));
            }
        };
    }
    Ok(here)
}

fn delete(root: &mut Value, path: &str) {
    let (way, last) = match path.rsplit_once('.') {
        Some((way, last)) => (way, last),
        None if path.is_empty() => {
            *root = Value::Object(Map::new());
            return;
        }
        None => ("", path),
    };
    let mut here = root;
    for name in names(way) {
        let next = match here {
            Value::Object(members) => members.get_mut(name),
            Value::Array(elements) => index(name).and_then(|index| elements.get_mut(index)),
            _ => None,
        };
        let Some(next) = next else { return };
        here = next;
    }
    match here {
        Value::Object(members) => drop(members.remove(last)),
        Value::Array(elements) => {
            if let Some(index) = index(last).filter(|index| *index < elements.len()) {
                elements.remove(index);
            }
        }
        _ => {}
    }
}

/// RFC 7396, section 2, with a list of what is left to do instead of a recursion.
fn merge(target: &mut Value, patch: Value) {
    let mut left = vec![(target, patch)];
    while let Some((target, patch)) = left.pop() {
        let Value::Object(mut patch) = patch else {
            *target = patch;
            continue;
        };
        if !target.is_object() {
            *target = Value::Object(Map::new());
        }
        let Value::Object(members) = target else { continue };
        for (name, value) in &patch {
            if value.is_null() {
                members.remove(name);
            } else if !members.contains_key(name) {
                members.insert(name.clone(), Value::Null);
            }
        }
        for (name, member) in members.iter_mut() {
            if let Some(value) = patch.remove(name) {
                left.push((member, value));
            }
        }
    }
}

/// Whole numbers stay whole as long as 64 bits hold them.
fn sum(path: &str, value: &Value, by: f64) -> Result<Value, Unfit> {
    if !by.is_finite() {
        return Err(Unfit::new("not-finite", format!("an increment by {by}")));
    }
    let before = match value {
        Value::Null => 0.into(),
        Value::Number(number) => number.clone(),
        other => {
            let text = format!("{path:?} is {}, not a number", kind(other));
            return Err(Unfit::new("no-number", text));
        }
    };
    let whole = (by.fract() == 0.0 && by.abs() < 9e15).then_some(by as i64);
    if let Some(sum) = before.as_i64().zip(whole).and_then(|(before, by)| before.checked_add(by)) {
        return Ok(sum.into());
    }
    let sum = before.as_f64().unwrap_or_default() + by;
    serde_json::Number::from_f64(sum)
        .map(Value::Number)
        .ok_or_else(|| Unfit::new("not-finite", format!("{path:?} would be larger than any number")))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Json {
        Json::new(text).unwrap()
    }

    fn entity(text: &str) -> Entity {
        Entity::new(&json(text)).unwrap()
    }

    /// The document after one edit, as text; or the error.
    fn after(before: &str, path: &str, edit: Edit) -> String {
        let edited = entity(before).edited(path, &edit);
        edited.map_or_else(|error| format!("error: {error}"), |entity| entity.to_json().to_string())
    }

    #[test]
    fn every_edit_does_what_the_table_says() {
        let set = |text| Edit::Set(json(text));
        let append = |text| Edit::Append(json(text));
        let merge = |text| Edit::Merge(json(text));
        for (before, path, edit, expected) in [
            ("{}", "a.b", set("1"), r#"{"a":{"b":1}}"#),
            (r#"{"a":[1,2]}"#, "a.1", set("\"x\""), r#"{"a":[1,"x"]}"#),
            (r#"{"a":[1]}"#, "a.1", set("2"), r#"error: "a.1": "1" is no element of an array of 1"#),
            (r#"{"a":[1]}"#, "a.+0", set("2"), r#"error: "a.+0": "+0" is no element of an array of 1"#),
            (r#"{"a":1}"#, "a.b", set("2"), r#"error: "a.b" leads through a number"#),
            (r#"{"a":1}"#, "", set("[]"), "[]"),
            (
                r#"{"a":{"b":1,"c":2}}"#,
                "",
                merge(r#"{"a":{"b":null,"d":{"e":null}}}"#),
                r#"{"a":{"c":2,"d":{}}}"#,
            ),
            (r#"{"a":"b"}"#, "a", merge(r#"{"c":1}"#), r#"{"a":{"c":1}}"#),
            ("{}", "log", append("1"), r#"{"log":[1]}"#),
            (r#"{"log":[1]}"#, "log", append("[2]"), r#"{"log":[1,[2]]}"#),
            (r#"{"log":"x"}"#, "log", append("1"), r#"error: "log" is a text, not an array"#),
            ("{}", "n", Edit::Increment(2.0), r#"{"n":2}"#),
            (r#"{"n":2}"#, "n", Edit::Increment(-0.5), r#"{"n":1.5}"#),
            (r#"{"n":9223372036854775807}"#, "n", Edit::Increment(1.0), r#"{"n":9.223372036854776e+18}"#),
            (r#"{"n":"2"}"#, "n", Edit::Increment(1.0), r#"error: "n" is a text, not a number"#),
            ("{}", "n", Edit::Increment(f64::NAN), "error: an increment by NaN"),
            (r#"{"a":{"b":1}}"#, "a.b", Edit::Delete, r#"{"a":{}}"#),
            (r#"{"a":[1,2,3]}"#, "a.1", Edit::Delete, r#"{"a":[1,3]}"#),
            (r#"{"a":1}"#, "x.y.z", Edit::Delete, r#"{"a":1}"#),
            (r#"{"a":1}"#, "", Edit::Delete, "{}"),
        ] {
            assert_eq!(after(before, path, edit.clone()), expected, "{edit:?} at {path:?} of {before}");
        }
    }

    #[test]
    fn every_refusal_has_its_code() {
        let set = |text| Edit::Set(json(text));
        let long = ["a"; limits::ENTITY_PATH_NAMES_MAX + 1].join(".");
        let large = format!("\"{}\"", "x".repeat(limits::ENTITY_BYTES_MAX));
        let deep = format!("{}{}", "[".repeat(limits::JSON_DEPTH_MAX), "]".repeat(limits::JSON_DEPTH_MAX));
        for (before, path, edit, code) in [
            ("{}", long.as_str(), set("1"), "path-too-long"),
            (r#"{"a":1}"#, "a.b", set("1"), "no-object"),
            (r#"{"a":[]}"#, "a.0", set("1"), "no-element"),
            (r#"{"a":{}}"#, "a", Edit::Append(json("1")), "no-array"),
            (r#"{"a":"1"}"#, "a", Edit::Increment(1.0), "no-number"),
            ("{}", "a", Edit::Increment(f64::INFINITY), "not-finite"),
            (r#"{"a":1e308}"#, "a", Edit::Increment(1e308), "not-finite"),
            ("{}", "a", set(&large), "too-large"),
            ("{}", "a", set(&deep), "too-deep"),
            ("{}", "a", set("1e999"), "invalid-value"),
        ] {
            let unfit = entity(before).edited(path, &edit).unwrap_err();
            assert_eq!(unfit.code, code, "{path:.40}: {unfit}");
        }
    }

    #[test]
    fn members_are_in_the_order_of_their_names_whatever_was_set_first() {
        // A feature of serde_json that some dependency might switch on would change it, and with it
        // what guests of old ledgers read.
        assert_eq!(entity(r#"{"z":1,"a":{"y":1,"b":2}}"#).to_json().as_str(), r#"{"a":{"b":2,"y":1},"z":1}"#);
    }

    #[test]
    fn a_path_reads_what_is_there_and_nothing_else() {
        let entity = entity(r#"{"a":{"b":[10,{"c":null}]},"":0}"#);
        let read = |path| entity.get(path).map(|json| json.to_string());
        assert_eq!(read("a.b.0").as_deref(), Some("10"));
        assert_eq!(read("a.b.1.c").as_deref(), Some("null"));
        assert_eq!([read("a.b.2"), read("a.b.x"), read("a.b.0.z"), read("b")], [const { None }; 4]);
    }

    #[test]
    fn a_document_that_grows_too_large_or_too_deep_stays_as_it_was() {
        let text = format!("\"{}\"", "x".repeat(limits::ENTITY_BYTES_MAX));
        assert!(after("{}", "a", Edit::Set(json(&text))).starts_with("error: "));
        let deep = format!("{}{}", "[".repeat(limits::JSON_DEPTH_MAX), "]".repeat(limits::JSON_DEPTH_MAX));
        assert!(after("{}", "a", Edit::Set(json(&deep))).starts_with("error: "));
        let path = ["a"; limits::ENTITY_PATH_NAMES_MAX + 1].join(".");
        assert!(after("{}", &path, Edit::Set(json("1"))).starts_with("error: "));
    }
}
