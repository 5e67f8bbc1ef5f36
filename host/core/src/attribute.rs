//! Search attributes: small typed values that a run says about itself, for listings and searches.
//!
//! A run starts with those of its starter, and its guest changes them by commands. They are kept by
//! name, in the order of the names, so that everything made of them repeats.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::names::check_name;

/// What an attribute says. Persisted: names of variants are append-only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attribute {
    /// At most [`limits::ATTRIBUTE_BYTES_MAX`] long.
    Text(Arc<str>),
    /// Finite.
    Number(f64),
    /// Yes or no.
    Flag(bool),
    /// Milliseconds since the epoch, at most [`limits::TIME_MS_MAX`].
    TimeMs(u64),
}

/// The attributes of a run.
pub type Attributes = BTreeMap<Arc<str>, Attribute>;

/// What is to become of some attributes; none: the attribute goes.
pub type AttributeChanges = BTreeMap<Arc<str>, Option<Attribute>>;

/// Checks a name and what is said under it. The text says which bound it breaks.
pub fn check(name: &str, value: &Attribute) -> Result<(), String> {
    check_name("attribute", name)?;
    match value {
        Attribute::Text(text) if text.len() > limits::ATTRIBUTE_BYTES_MAX => Err(format!(
            "the attribute {name:?} has {} bytes; a text has at most {}",
            text.len(),
            limits::ATTRIBUTE_BYTES_MAX
        )),
        Attribute::Text(text) if text.contains('\0') => {
            Err(format!("the attribute {name:?} holds the character NUL"))
        }
        Attribute::Number(number) if !number.is_finite() => {
            Err(format!("the attribute {name:?} is {number}, which is no number to compare with"))
        }
        Attribute::TimeMs(ms) if *ms > limits::TIME_MS_MAX => {
            Err(format!("the attribute {name:?} is {ms} ms after 1970; times end with the year 9999"))
        }
        _ => Ok(()),
    }
}

/// Applies `changes`. Fails, and changes nothing, if there would be too many.
pub fn apply(attributes: &mut Attributes, changes: &AttributeChanges) -> Result<(), String> {
    let added = changes.iter().filter(|(name, value)| value.is_some() && !attributes.contains_key(*name));
    let gone = changes.iter().filter(|(name, value)| value.is_none() && attributes.contains_key(*name));
    if attributes.len() + added.count() - gone.count() > limits::ATTRIBUTES_MAX {
        return Err(format!("more than {} attributes", limits::ATTRIBUTES_MAX));
    }
    for (name, value) in changes {
        match value {
            Some(value) => attributes.insert(Arc::clone(name), value.clone()),
            None => attributes.remove(name),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_attributes_and_no_more() {
        let mut attributes = Attributes::new();
        let named = |n: usize| (Arc::from(format!("a{n}")), Some(Attribute::Flag(true)));
        apply(&mut attributes, &(0..limits::ATTRIBUTES_MAX).map(named).collect()).unwrap();
        assert!(apply(&mut attributes, &[named(999)].into()).is_err());
        assert_eq!(attributes.len(), limits::ATTRIBUTES_MAX);
        apply(&mut attributes, &[named(999), ("a0".into(), None)].into()).unwrap();
        assert!(attributes.contains_key("a999") && !attributes.contains_key("a0"));
    }

    #[test]
    fn what_cannot_be_compared_or_stored_is_refused() {
        assert!(check("n", &Attribute::Number(f64::NAN)).is_err());
        assert!(check("n", &Attribute::TimeMs(u64::MAX)).is_err());
        assert!(check("n", &Attribute::Text("a\0".into())).is_err());
        assert!(check("n\n", &Attribute::Flag(true)).is_err());
        assert!(check("n", &Attribute::Text("x".repeat(limits::ATTRIBUTE_BYTES_MAX).into())).is_ok());
    }
}
