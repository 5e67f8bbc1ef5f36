//! Workflows as the host meets them: named, started with JSON, described at deploy time, queried.
//!
//! [`#[workflow]`](macro@crate::workflow) implements [`Workflow`];
//! [`export_workflows!`](crate::export_workflows) turns a list of them into a component.

use crate::bindings::types::Status;
use crate::bindings::workflow::WorkflowDescription;
use crate::definition::Workflow;
use crate::error::{Error, Result};
use crate::executor::{self, Root};
use crate::{hook, interceptor};
use serde::Serialize;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Closes this run and goes on as a new one with `input` and an empty ledger: how a workflow lives
/// for years without a ledger that grows for years. Return what it gives.
///
/// ```
/// use backstitch_sdk::{Result, continue_as_new, sleep_for, workflow};
///
/// #[workflow]
/// async fn poller(round: u32) -> Result<()> {
///     sleep_for("1 hour").await?;
///     return continue_as_new(round + 1);
/// }
/// ```
pub fn continue_as_new<T>(input: impl Serialize) -> Result<T> {
    let json = crate::written::written(&input, || "the input to continue with".to_owned())?;
    Err(Error::continue_with(json))
}

/// Answers queries of this name with `value` from now on. Only the run itself can change what it
/// shows; a query never runs workflow code and never leaves a trace in the ledger.
///
/// ```
/// use backstitch_sdk::{Result, show, sleep_for, workflow};
///
/// #[workflow(queries("progress"))]
/// async fn nightly(batches: u32) -> Result<()> {
///     for batch in 0..batches {
///         show("progress", &batch)?;
///         sleep_for("1 day").await?;
///     }
///     Ok(())
/// }
/// ```
pub fn show(query: &str, value: &(impl Serialize + ?Sized)) -> Result<()> {
    let json = serde_json::to_string(value)?;
    SHOWN.with_borrow_mut(|shown| shown.insert(query.to_owned(), json));
    Ok(())
}

thread_local! {
    static SHOWN: RefCell<BTreeMap<String, String>> = const { RefCell::new(BTreeMap::new()) };
}

/// A workflow as an entry of a component's table.
#[derive(Debug, Clone, Copy)]
pub struct Definition {
    name: &'static str,
    signals: &'static [&'static str],
    queries: &'static [&'static str],
    begin: fn(&str) -> Result<Root>,
}

impl Definition {
    /// The entry of `W`.
    pub const fn of<W: Workflow>() -> Self {
        Self { name: W::NAME, signals: W::SIGNALS, queries: W::QUERIES, begin: begin::<W> }
    }

    #[cfg(not(target_family = "wasm"))]
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    fn describe(&self) -> WorkflowDescription {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        WorkflowDescription {
            name: self.name.to_owned(),
            signals: owned(self.signals),
            queries: owned(self.queries),
            input_schema: None,
            output_schema: None,
        }
    }
}

fn begin<W: Workflow>(input: &str) -> Result<Root> {
    let input = serde_json::from_str(input).map_err(|error| {
        Error::application("invalid-input", format!("workflow `{}` cannot read its input: {error}", W::NAME))
            .non_retryable()
    })?;
    Ok(Box::pin(async move {
        let output = W::run(input).await?;
        serde_json::to_string(&output).map_err(|error| {
            let message = format!("the output of workflow `{}` cannot be written as JSON: {error}", W::NAME);
            Error::application("invalid-output", message).non_retryable()
        })
    }))
}

/// The component's `describe`.
pub fn describe(workflows: &[Definition]) -> Vec<WorkflowDescription> {
    workflows.iter().map(Definition::describe).collect()
}

/// The component's `start`.
pub fn start(workflows: &[Definition], workflow: &str, input: &str) -> Status {
    #[cfg(target_family = "wasm")]
    crate::panic::install_hook();
    let Some(definition) = workflows.iter().find(|definition| definition.name == workflow) else {
        let names: Vec<_> = workflows.iter().map(|definition| definition.name).collect();
        let message = format!("no workflow `{workflow}` in this component, which holds {}", names.join(", "));
        return Error::application("unknown-workflow", message).non_retryable().into_status();
    };
    match interceptor::begin(definition.name, input, definition.begin) {
        Ok(root) => executor::start(hook::with_hooks(root)),
        Err(error) => error.into_status(),
    }
}

/// The component's `resume`.
pub fn resume() -> Status {
    executor::resume()
}

/// The component's `query`.
pub fn query(name: &str, input: &str) -> Result<String, String> {
    if let Some(update) = name.strip_prefix(crate::update::PREFIX) {
        return crate::update::validate(update, input).map(|()| "null".to_owned());
    }
    SHOWN
        .with_borrow(|shown| shown.get(name).cloned())
        .ok_or_else(|| format!("nothing has been shown as `{name}`"))
}

/// What a test run has shown, leaving nothing behind for the next.
#[cfg(not(target_family = "wasm"))]
pub(crate) fn take_shown() -> BTreeMap<String, String> {
    SHOWN.take()
}

/// Makes a component of workflows: expands to the exports `describe`, `start`, `resume` and `query`.
/// Once per component, at the crate's root; the crate is a `cdylib`.
///
/// ```
/// use backstitch_sdk::{Result, export_workflows, workflow};
///
/// #[workflow]
/// async fn greet(name: String) -> Result<String> {
///     Ok(format!("hello, {name}"))
/// }
///
/// export_workflows!(greet);
/// ```
///
/// With `export_workflows!(greet; interceptors: [Audit])` every run of the component goes through an
/// [`Interceptor`](crate::Interceptor); of several the first is the outermost. The expressions are
/// evaluated at the start of each run.
#[macro_export]
macro_rules! export_workflows {
    ($($workflow:ty),+ $(,)?) => {
        $crate::export_workflows!($($workflow),+; interceptors: []);
    };
    ($($workflow:ty),+ $(,)?; interceptors: [$($interceptor:expr),* $(,)?] $(,)?) => {
        const _: () = {
            // Outside of a component the list is still checked by the compiler, though nobody reads it.
            #[allow(dead_code)]
            const WORKFLOWS: &[$crate::__private::Definition] =
                &[$($crate::__private::Definition::of::<$workflow>()),+];

            #[allow(dead_code)]
            fn interceptors() -> ::std::vec::Vec<::std::rc::Rc<dyn $crate::__private::Link>> {
                ::std::vec![$(::std::rc::Rc::new($interceptor)),*]
            }

            #[cfg(target_family = "wasm")]
            const _: () = {
                use $crate::__private::workflow_world;

                struct Component;

                impl workflow_world::Guest for Component {
                    fn describe() -> ::std::vec::Vec<workflow_world::WorkflowDescription> {
                        $crate::__private::describe(WORKFLOWS)
                    }
                    fn start(
                        workflow: ::std::string::String,
                        input: ::std::string::String,
                    ) -> workflow_world::Status {
                        $crate::__private::intercept(interceptors());
                        $crate::__private::start(WORKFLOWS, &workflow, &input)
                    }
                    fn resume() -> workflow_world::Status {
                        $crate::__private::resume()
                    }
                    fn query(
                        name: ::std::string::String,
                        input: ::std::string::String,
                    ) -> ::std::result::Result<::std::string::String, ::std::string::String> {
                        $crate::__private::query(&name, &input)
                    }
                }

                workflow_world::export_workflow_world!(Component with_types_in workflow_world);
            };
        };
    };
}
