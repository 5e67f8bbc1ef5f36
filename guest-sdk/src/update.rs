//! Updates: requests that a client makes of a run and waits for the answer to. Each is refused before it
//! is recorded, or answered; both the request and the answer are rows.
//!
//! An update is a signal `update:NAME` whose payload carries its id. The host asks the query of the same
//! name first, which runs the validator and nothing else.

use crate::command::wait_for;
use crate::error::{Error, Result};
use crate::host;
use futures::FutureExt;
use futures::future::{Fuse, LocalBoxFuture};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What the names of updates begin with where those of signals and queries stand.
pub(crate) const PREFIX: &str = "update:";

/// A request that a client waits for.
#[must_use = "the client waits until it is answered"]
#[derive(Debug)]
pub struct Update<I> {
    id: String,
    /// What the client asks for.
    pub input: I,
}

/// As it comes from the host.
#[derive(Deserialize)]
struct Received {
    id: String,
    input: Box<RawValue>,
}

impl<I> Update<I> {
    /// What the client calls it, or a name that the host made up.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Answers it. A value that cannot be written as JSON becomes a failure.
    pub fn answer(self, outcome: Result<impl Serialize>) {
        answer(&self.id, outcome);
    }
}

fn answer(id: &str, outcome: Result<impl Serialize>) {
    let written =
        outcome.and_then(|value| crate::written::written(&value, || format!("the answer to `{id}`")));
    let outcome = written.map_err(Error::into_failure);
    host::with(|host| host.answer_update(id, outcome.as_deref()));
}

/// Waits for the next update of this name, in the order they came. One whose input is no `I` is answered
/// with the code `invalid-input`, and the wait goes on.
///
/// ```
/// use backstitch_sdk::testing::TestRun;
/// use backstitch_sdk::{Error, Result, export_workflows, validate_update, wait_for_update, workflow};
///
/// #[workflow]
/// async fn cart(limit: u32) -> Result<u32> {
///     validate_update("add", move |count: &u32| match *count {
///         0 => Err(Error::application("nothing", "there is nothing to add")),
///         _ => Ok(()),
///     });
///     let mut total = 0;
///     while total < limit {
///         let update = wait_for_update::<u32>("add").await?;
///         total += update.input;
///         update.answer(Ok(total));
///     }
///     Ok(total)
/// }
///
/// export_workflows!(cart);
///
/// let run = TestRun::<cart>::new().update("add", 2, "1 minute").update("add", 3, "2 minutes").run(5);
/// assert_eq!(run.output().unwrap(), 5);
/// assert_eq!(run.story(), ["wait-for update:add", "answer add 2", "wait-for update:add", "answer add 5"]);
/// ```
pub fn wait_for_update<I: DeserializeOwned + 'static>(
    name: &str,
) -> Fuse<LocalBoxFuture<'static, Result<Update<I>>>> {
    let signal = format!("{PREFIX}{name}");
    let mut received = wait_for::<Received>(&signal);
    async move {
        loop {
            let Received { id, input } = received.await?;
            match serde_json::from_str(input.get()) {
                Ok(input) => return Ok(Update { id, input }),
                Err(error) => {
                    let wanted = std::any::type_name::<I>();
                    let message = format!("the input of the update is not a {wanted}: {error}");
                    answer(&id, Err::<(), _>(Error::application("invalid-input", message).non_retryable()));
                    received = wait_for(&signal);
                }
            }
        }
    }
    .boxed_local()
    .fuse()
}

type Validator = Rc<dyn Fn(&str) -> Result<()>>;

thread_local! {
    static VALIDATORS: RefCell<BTreeMap<String, Validator>> = const { RefCell::new(BTreeMap::new()) };
}

/// Refuses updates of this name, from now on, that the validator fails: they leave no trace. It may look
/// at what the workflow shares with it; a command in it is a fault of the request.
pub fn validate_update<I: DeserializeOwned>(name: &str, validator: impl Fn(&I) -> Result<()> + 'static) {
    let checked = move |input: &str| match serde_json::from_str(input) {
        Ok(input) => validator(&input),
        Err(error) => {
            let wanted = std::any::type_name::<I>();
            Err(Error::application("invalid-input", format!("the input is not a {wanted}: {error}")))
        }
    };
    VALIDATORS.with_borrow_mut(|validators| validators.insert(name.to_owned(), Rc::new(checked)));
}

/// Whether an update would be taken; one that nobody validates is.
pub(crate) fn validate(name: &str, input: &str) -> Result<(), String> {
    let validator = VALIDATORS.with_borrow(|validators| validators.get(name).cloned());
    validator.map_or(Ok(()), |validator| validator(input)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_validator_refuses_what_it_fails_and_what_it_cannot_read() {
        validate_update("rename", |name: &String| match name.is_empty() {
            true => Err(Error::application("empty", "a name has letters")),
            false => Ok(()),
        });
        assert_eq!(validate("rename", r#""x""#), Ok(()));
        assert_eq!(validate("rename", r#""""#), Err("empty: a name has letters".into()));
        assert!(validate("rename", "7").unwrap_err().starts_with("invalid-input: the input is not a"));
        assert_eq!(validate("other", "7"), Ok(()));
    }
}
