//! What a workflow is to the code that starts it: its name, its input, its function.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// A workflow: implemented by [`#[workflow]`](macro@crate::workflow) on a type that has the function's
/// own name, so that `order_workflow` can stand where a type is wanted, as in
/// [`start_child::<order_workflow>`](crate::start_child).
pub trait Workflow {
    /// What clients start it by.
    const NAME: &'static str;
    /// The signals it declares, for tools: waiting for others is not an error.
    const SIGNALS: &'static [&'static str] = &[];
    /// The queries it declares, for tools.
    const QUERIES: &'static [&'static str] = &[];
    /// Its one argument; `()` when it takes none.
    type Input: DeserializeOwned + 'static;
    /// What it returns when all goes well.
    type Output: Serialize;

    /// The function.
    fn run(input: Self::Input) -> impl Future<Output = Result<Self::Output>> + 'static;
}

/// What a workflow function may return: a [`Result`] whose error converts into [`Error`].
#[diagnostic::on_unimplemented(
    message = "a workflow returns `backstitch_sdk::Result<T>`, or a `Result` whose error converts into `backstitch_sdk::Error`",
    label = "this workflow returns `{Self}`"
)]
pub trait WorkflowResult {
    /// The `T` of the `Result`.
    type Output;

    /// The same with the SDK's error.
    fn into_result(self) -> Result<Self::Output>;
}

impl<T, E: Into<Error>> WorkflowResult for Result<T, E> {
    type Output = T;

    fn into_result(self) -> Result<T> {
        self.map_err(Into::into)
    }
}
