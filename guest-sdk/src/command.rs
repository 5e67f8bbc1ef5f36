//! The commands of a workflow and the future each of them returns.
//!
//! Promises of every function here: the command is given **when it is called**, not at the first
//! poll, so the order of calls in the code is the order of ops in the ledger; what cannot be given (an
//! input that is not JSON, a bad duration) gives no command and fails at its `.await`; and dropping a
//! [`Pending`] whose outcome has not come cancels its op.

use crate::bindings::types;
use crate::definition::Workflow;
use crate::duration::{IntoDuration, millis_rounded_up};
use crate::error::{Error, Result};
use crate::executor;
use crate::interceptor::{self, ActivityCall, ChildCall, Driven, Text};
use crate::options::ChildOptions;
use crate::written::written;
use futures::future::FusedFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The outcome of a command, to be awaited: an activity call, a timer, a signal, a child's result.
///
/// The command has been given already. Dropping a `Pending` whose outcome has not come cancels the
/// command; [`detach`](Self::detach) lets it go on instead. It is `Unpin` and fused, so it can stand
/// in [`select_biased!`](crate::select_biased!) as it is.
#[must_use = "dropping a pending command cancels it: `.await` it, keep it, or `.detach()` it"]
#[derive(Debug)]
pub struct Pending<T> {
    state: State,
    of: Of,
    output: PhantomData<fn() -> T>,
}

#[derive(Debug)]
enum State {
    /// No command was given; the error waits for its `.await`.
    Refused(Error),
    Open(u32),
    /// The command is in the hands of interceptors.
    Intercepted(Driven),
    Done,
}

/// What the command was, for the message when its outcome cannot be read.
#[derive(Debug)]
enum Of {
    Activity(String),
    Timer,
    Signal(String),
    Child(String),
    Message,
}

impl<T> Pending<T> {
    fn new(of: Of, given: Result<u32>) -> Self {
        let state = given.map_or_else(State::Refused, State::Open);
        Self { state, of, output: PhantomData }
    }

    fn intercepted(of: Of, call: Driven) -> Self {
        Self { state: State::Intercepted(call), of, output: PhantomData }
    }

    /// A call of an activity that passes by no interceptor.
    pub(crate) fn activity(name: &str, json: &str, options: &crate::ActivityOptions) -> Self {
        let given = options
            .to_wit()
            .map(|options| executor::schedule(|host| host.proxy_activity(name, json, &options)));
        Self::new(Of::Activity(name.to_owned()), given)
    }

    /// A child whose start passes by no interceptor.
    pub(crate) fn child(workflow: &str, json: &str, options: ChildOptions) -> Self {
        let options = options.into_wit();
        let op = executor::schedule(|host| host.start_child(workflow, json, &options));
        Self::new(Of::Child(workflow.to_owned()), Ok(op))
    }

    /// The outcome as the JSON text it is.
    pub(crate) async fn text(mut self) -> Result<String> {
        std::future::poll_fn(|cx| self.poll_text(cx)).await
    }

    fn poll_text(&mut self, cx: &mut Context<'_>) -> Poll<Result<String>> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Refused(error) => Poll::Ready(Err(error)),
            State::Open(op) => match executor::poll_op(op, cx) {
                Poll::Ready(outcome) => Poll::Ready(outcome.map_err(Error::from_failure)),
                Poll::Pending => {
                    self.state = State::Open(op);
                    Poll::Pending
                }
            },
            State::Intercepted(mut call) => {
                let result = call.poll_text(cx);
                if result.is_pending() {
                    self.state = State::Intercepted(call);
                }
                result
            }
            State::Done => panic!("awaited again after its outcome was taken"),
        }
    }

    /// Lets the command go on with nobody waiting for its outcome: an activity still runs, a child
    /// still follows its [`ParentClose`].
    pub fn detach(mut self) {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Open(op) => executor::leave(op),
            State::Intercepted(call) => call.detach(),
            State::Refused(_) | State::Done => {}
        }
    }
}

impl<T> Pending<T> {
    /// Keeps the command from ending when the run is asked to cancel: what has to be finished all the
    /// same. [`shielded`] does it for all commands of a clean-up.
    ///
    /// ```no_run
    /// # async fn example() -> backstitch_sdk::Result<()> {
    /// # use backstitch_sdk::{ActivityOptions, call_activity};
    /// let receipt: String = call_activity("charge", &(995,), &ActivityOptions::default()).shielded().await?;
    /// # Ok(()) }
    /// ```
    pub fn shielded(self) -> Self {
        if let State::Open(op) = self.state {
            crate::host::with(|host| host.shield(op));
        }
        self
    }
}

impl<T: DeserializeOwned> Pending<T> {
    fn decode(&self, json: &str) -> Result<T> {
        serde_json::from_str(json).map_err(|error| {
            let (code, source) = match &self.of {
                Of::Activity(name) => ("invalid-output", format!("the output of activity `{name}`")),
                Of::Child(name) => ("invalid-output", format!("the output of workflow `{name}`")),
                Of::Signal(name) => ("invalid-signal", format!("the payload of signal `{name}`")),
                Of::Timer => ("invalid-output", "the outcome of a timer".to_owned()),
                Of::Message => ("invalid-output", "the outcome of a message".to_owned()),
            };
            let wanted = std::any::type_name::<T>();
            Error::application(code, format!("{source} is not a {wanted}: {error}")).non_retryable()
        })
    }
}

impl<T: DeserializeOwned> Future for Pending<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_text(cx).map(|json| self.decode(&json?))
    }
}

impl<T: DeserializeOwned> FusedFuture for Pending<T> {
    fn is_terminated(&self) -> bool {
        matches!(self.state, State::Done)
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        if let State::Open(op) = self.state {
            executor::abandon(op);
        }
    }
}

/// Calls an activity by name: what a typed proxy does underneath. `input` is usually a tuple or an
/// array, one element for each argument; `()` is none of them, and goes out as `[]`, as a proxy's does.
///
/// Use it for activities that are known only by name, such as those of another language:
/// ```no_run
/// # async fn example() -> backstitch_sdk::Result<()> {
/// use backstitch_sdk::{ActivityOptions, call_activity};
/// let total: f64 = call_activity("sum", &([1.5, 2.5],), &ActivityOptions::default()).await?;
/// # Ok(()) }
/// ```
pub fn call_activity<T>(
    name: &str,
    input: &(impl Serialize + ?Sized),
    options: &crate::ActivityOptions,
) -> Pending<T> {
    let of = Of::Activity(name.to_owned());
    match written(input, || format!("the input of activity `{name}`")) {
        Err(error) => Pending::new(of, Err(error)),
        Ok(json) => {
            // Whoever carries an activity out expects an array.
            let json = if json == "null" { "[]".to_owned() } else { json };
            let last = |call: ActivityCall| -> Text {
                Box::pin(Pending::<()>::activity(&call.name, &call.input, &call.options).text())
            };
            match interceptor::activity(name, &json, options, last) {
                Some(call) => Pending::intercepted(of, call),
                None => Pending::activity(name, &json, options),
            }
        }
    }
}

/// A durable timer: `"30 days"` or a [`Duration`](std::time::Duration), rounded up to milliseconds.
/// The host may restart any number of times meanwhile.
///
/// ```no_run
/// # async fn example() -> backstitch_sdk::Result<()> {
/// backstitch_sdk::sleep_for("30 days").await?;
/// # Ok(()) }
/// ```
pub fn sleep_for(duration: impl IntoDuration) -> Pending<()> {
    let given = duration.into_duration().map(|duration| {
        let ms = millis_rounded_up(duration);
        executor::schedule(|host| host.sleep_for(ms))
    });
    Pending::new(Of::Timer, given)
}

/// Waits for one signal of this name. Signals that came before the wait are kept; each wait takes one,
/// in the order they came. A payload that is no `T` fails with the code `invalid-signal`.
///
/// ```no_run
/// # async fn example() -> backstitch_sdk::Result<()> {
/// #[derive(serde::Deserialize)]
/// struct Approval { approved: bool }
/// let approval = backstitch_sdk::wait_for::<Approval>("manager-approval").await?;
/// # Ok(()) }
/// ```
pub fn wait_for<T>(signal: &str) -> Pending<T> {
    let op = executor::schedule(|host| host.wait_for(signal));
    Pending::new(Of::Signal(signal.to_owned()), Ok(op))
}

/// Starts another workflow; the handle's [`result`](ChildHandle::result) can be awaited.
///
/// ```no_run
/// use backstitch_sdk::{ChildOptions, Result, start_child, workflow};
///
/// #[workflow]
/// async fn validate_order(order_id: String) -> Result<bool> {
///     Ok(order_id.starts_with("order-"))
/// }
///
/// #[workflow]
/// async fn parent(order_id: String) -> Result<bool> {
///     let options = ChildOptions::default().workflow_id(format!("validate-{order_id}"));
///     let validation = start_child::<validate_order>(order_id, options);
///     // … anything else meanwhile …
///     validation.result().await
/// }
/// ```
pub fn start_child<W: Workflow>(input: W::Input, options: ChildOptions) -> ChildHandle<W::Output>
where
    W::Input: Serialize,
{
    start_child_named(W::NAME, &input, options)
}

/// Starts a workflow that is known only by name, such as one of another component.
pub fn start_child_named<T>(
    name: &str,
    input: &(impl Serialize + ?Sized),
    options: ChildOptions,
) -> ChildHandle<T> {
    let of = Of::Child(name.to_owned());
    let workflow_id = options.workflow_id.clone();
    let result = match written(input, || format!("the input of workflow `{name}`")) {
        Err(error) => Pending::new(of, Err(error)),
        Ok(json) => {
            let last = |call: ChildCall| -> Text {
                Box::pin(Pending::<()>::child(&call.workflow, &call.input, call.options).text())
            };
            match interceptor::child(name, &json, &options, last) {
                Some(call) => Pending::intercepted(of, call),
                None => Pending::child(name, &json, options),
            }
        }
    };
    ChildHandle { result, workflow_id }
}

/// Starts another workflow and waits for its result.
pub fn exec_child<W: Workflow>(input: W::Input, options: ChildOptions) -> Pending<W::Output>
where
    W::Input: Serialize,
{
    start_child::<W>(input, options).result()
}

/// A child that has been started. Dropping it cancels the child, as with every pending command.
#[must_use = "dropping the handle cancels the child: await its `result()`, or `.detach()` it"]
#[derive(Debug)]
pub struct ChildHandle<T> {
    result: Pending<T>,
    workflow_id: Option<String>,
}

impl<T> ChildHandle<T> {
    /// The id under which clients and other runs find the child: the one that was asked for, else one that
    /// the host makes of this run and the command. None if there is no child yet, because an interceptor has
    /// not passed its start on, or none at all.
    pub fn workflow_id(&self) -> Option<String> {
        match self.result.state {
            State::Open(op) => {
                Some(self.workflow_id.clone().unwrap_or_else(|| format!("{}:{op}", crate::info().run_id)))
            }
            _ => self.workflow_id.clone(),
        }
    }

    /// Sends the child a signal. Done when the signal is durable in the child's inbox; fails with the
    /// code `run-closed` if the child has ended.
    ///
    /// ```no_run
    /// # use backstitch_sdk::{ChildOptions, Result, start_child_named};
    /// # async fn example() -> Result<()> {
    /// let child = start_child_named::<bool>("approval", &"order-1", ChildOptions::default());
    /// child.signal("manager-approval", &true).await?;
    /// let approved = child.result().await?;
    /// # Ok(()) }
    /// ```
    pub fn signal(&self, name: &str, payload: &(impl Serialize + ?Sized)) -> Pending<()> {
        match self.result.state {
            State::Open(op) => signal_target(&types::Target::Child(op), name, payload),
            _ => Pending::new(Of::Message, Err(not_started())),
        }
    }

    /// Asks the child to cancel, and goes on waiting for what it comes to; dropping the handle asks
    /// too, and waits for nothing.
    pub fn cancel(&self) -> Pending<()> {
        match self.result.state {
            State::Open(op) => {
                let target = types::Target::Child(op);
                Pending::new(Of::Message, Ok(executor::schedule(|host| host.cancel_run(&target))))
            }
            _ => Pending::new(Of::Message, Err(not_started())),
        }
    }

    /// The child's output, or the failure it ended with.
    pub fn result(self) -> Pending<T> {
        self.result
    }

    /// Lets the child go its own way; what becomes of it when this run closes is its [`ParentClose`].
    pub fn detach(self) {
        self.result.detach();
    }
}

/// Sends a signal to the latest run of a workflow id, at most once however often this run is
/// replayed. Done when the signal is durable in that run's inbox; fails with the code `unknown-run` or
/// `run-closed`.
///
/// ```no_run
/// # async fn example() -> backstitch_sdk::Result<()> {
/// backstitch_sdk::signal_workflow("warehouse-7", "stock-arrived", &("BOOK-834", 12)).await?;
/// # Ok(()) }
/// ```
pub fn signal_workflow(workflow_id: &str, name: &str, payload: &(impl Serialize + ?Sized)) -> Pending<()> {
    signal_target(&types::Target::Workflow(workflow_id.to_owned()), name, payload)
}

/// Asks the latest run of a workflow id to cancel. Done when the request is durable; fails as
/// [`signal_workflow`] does.
///
/// ```no_run
/// # async fn example() -> backstitch_sdk::Result<()> {
/// backstitch_sdk::cancel_workflow("reminder-7").await?;
/// # Ok(()) }
/// ```
pub fn cancel_workflow(workflow_id: &str) -> Pending<()> {
    let target = types::Target::Workflow(workflow_id.to_owned());
    Pending::new(Of::Message, Ok(executor::schedule(|host| host.cancel_run(&target))))
}

fn signal_target(target: &types::Target, name: &str, payload: &(impl Serialize + ?Sized)) -> Pending<()> {
    let given = written(payload, || format!("the payload of signal `{name}`"))
        .map(|json| executor::schedule(|host| host.signal_run(target, name, &json)));
    Pending::new(Of::Message, given)
}

fn not_started() -> Error {
    Error::application("run-closed", "the child was not started").non_retryable()
}
