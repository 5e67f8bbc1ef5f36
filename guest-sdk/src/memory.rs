//! What a run knows about itself and is found by: its entity, its search attributes, its identity.
//!
//! Promises: edits and attributes are commands (one ledger row each, durable together with everything
//! else the activation did) and take effect at once, so that the next line reads what this one wrote;
//! whoever looks from outside sees them as soon as they are durable.

use crate::bindings::types;
use crate::error::{Error, Result};
use crate::host;
use crate::written::written;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::SystemTime;

/// The run's memory: one JSON document that begins as `{}`, is kept with the run, and goes on with it when
/// it continues as new. Hooks, interceptors and queries see the same one.
///
/// A path is names separated by dots, numbers for elements of arrays (`items.0.sku`); the empty path is
/// the whole document. What is missing on the way is made.
///
/// ```no_run
/// # async fn example() -> backstitch_sdk::Result<()> {
/// use backstitch_sdk::entity;
///
/// entity().set("order", &("BOOK-834", 2))?;
/// entity().append("log", &"order taken")?;
/// entity().increment("attempts", 1.0)?;
/// let attempts: Option<u32> = entity().get("attempts")?;
/// # Ok(()) }
/// ```
pub fn entity() -> Entity {
    Entity(())
}

/// See [`entity`].
#[derive(Debug, Clone, Copy)]
pub struct Entity(());

impl Entity {
    /// What is at a path; none: nothing. Fails with the code `invalid-entity` if it is no `T`.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        let Some(json) = self.json(path) else { return Ok(None) };
        serde_json::from_str(&json).map(Some).map_err(|error| {
            let wanted = std::any::type_name::<T>();
            let message = format!("what the entity has at {path:?} is not a {wanted}: {error}");
            Error::application("invalid-entity", message).non_retryable()
        })
    }

    /// What is at a path, as the JSON text it is.
    pub fn json(&self, path: &str) -> Option<String> {
        host::with(|host| host.entity(path))
    }

    /// Puts a value at a path, in place of what is there.
    ///
    /// This and the other edits fail with the code `invalid-edit`, and change nothing, where they do not
    /// fit: a path through a number, an increment of a text, a document of more than 256 KiB.
    pub fn set(&self, path: &str, value: &(impl Serialize + ?Sized)) -> Result<()> {
        edit(path, types::Edit::Set(json(path, value)?))
    }

    /// Merges an object into the one at a path, as RFC 7396 says: members of objects are merged, `null`
    /// deletes, everything else replaces.
    pub fn merge(&self, path: &str, patch: &(impl Serialize + ?Sized)) -> Result<()> {
        edit(path, types::Edit::Merge(json(path, patch)?))
    }

    /// Adds an element at the end of the array at a path.
    pub fn append(&self, path: &str, element: &(impl Serialize + ?Sized)) -> Result<()> {
        edit(path, types::Edit::Append(json(path, element)?))
    }

    /// Adds to the number at a path. Whole numbers stay whole.
    pub fn increment(&self, path: &str, by: f64) -> Result<()> {
        edit(path, types::Edit::Increment(by))
    }

    /// Removes what is at a path; that there is nothing is no error.
    pub fn delete(&self, path: &str) -> Result<()> {
        edit(path, types::Edit::Delete)
    }
}

fn json(path: &str, value: &(impl Serialize + ?Sized)) -> Result<String> {
    written(value, || format!("the value for {path:?} of the entity"))
}

fn edit(path: &str, edit: types::Edit) -> Result<()> {
    host::with(|host| host.edit_entity(path, &edit)).map_err(|problem| {
        Error::application("invalid-edit", format!("the entity cannot be edited at {path:?}: {problem}"))
            .non_retryable()
    })
}

/// What a run is found by under a name: see [`set_attribute`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Attribute {
    /// At most 1,024 bytes.
    Text(String),
    /// Finite.
    Number(f64),
    /// Yes or no.
    Flag(bool),
    /// To the millisecond; times before 1970 count as 1970.
    Time(SystemTime),
}

impl Attribute {
    fn into_wit(self) -> types::AttributeValue {
        match self {
            Self::Text(text) => types::AttributeValue::Text(text),
            Self::Number(number) => types::AttributeValue::Number(number),
            Self::Flag(flag) => types::AttributeValue::Flag(flag),
            Self::Time(time) => {
                let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                types::AttributeValue::TimeMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
        }
    }
}

impl From<&str> for Attribute {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Attribute {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<f64> for Attribute {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<i32> for Attribute {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}

impl From<u32> for Attribute {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<bool> for Attribute {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<SystemTime> for Attribute {
    fn from(time: SystemTime) -> Self {
        Self::Time(time)
    }
}

/// Says under a name what the run is found by: `backstitch run list --where 'attributes.customer = "acme"'`.
/// A run has at most 64 attributes; one more, a number that is not finite or a text that is too long parks it.
///
/// ```no_run
/// # async fn example() -> backstitch_sdk::Result<()> {
/// backstitch_sdk::set_attribute("customer", "acme");
/// backstitch_sdk::set_attribute("due", backstitch_sdk::now() + backstitch_sdk::duration!("30 days"));
/// # Ok(()) }
/// ```
pub fn set_attribute(name: &str, value: impl Into<Attribute>) {
    set_attributes([(name, Some(value.into()))]);
}

/// The run is not found under this name any more.
pub fn remove_attribute(name: &str) {
    set_attributes([(name, None)]);
}

/// Sets several attributes with one command; none removes one.
pub fn set_attributes<'a>(attributes: impl IntoIterator<Item = (&'a str, Option<Attribute>)>) {
    let attribute = |(name, value): (&str, Option<Attribute>)| types::Attribute {
        name: name.to_owned(),
        value: value.map(Attribute::into_wit),
    };
    let attributes: Vec<_> = attributes.into_iter().map(attribute).collect();
    host::with(|host| host.set_attributes(&attributes));
}

/// Who the run is: see [`info`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// The run's own identity. A fork is another run than the one whose rows it repeats, so what must
    /// repeat (an argument of an activity, a workflow id) is made of [`original_run_id`](Self::original_run_id).
    pub run_id: String,
    /// The run that wrote the first row: itself, unless it is a fork.
    pub original_run_id: String,
    /// What its starter called it.
    pub workflow_id: String,
    /// Which workflow.
    pub workflow: String,
    /// The workflow id of the run that started it, if a run did.
    pub parent_workflow_id: Option<String>,
}

/// Who the run is.
///
/// ```no_run
/// # async fn example() -> backstitch_sdk::Result<()> {
/// if let Some(parent) = backstitch_sdk::info().parent_workflow_id {
///     backstitch_sdk::signal_workflow(&parent, "half-way", &()).await?;
/// }
/// # Ok(()) }
/// ```
pub fn info() -> Info {
    let types::RunInfo { run_id, original_run_id, workflow_id, workflow, parent_workflow_id } =
        host::with(host::Host::info);
    Info { run_id, original_run_id, workflow_id, workflow, parent_workflow_id }
}
