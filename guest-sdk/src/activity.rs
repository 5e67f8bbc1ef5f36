//! Activities: where a workflow's decisions meet the world.
//!
//! One trait, annotated with [`#[activities]`](macro@crate::activities), serves both sides. A workflow
//! calls it through [`proxy_activities`]; whoever carries it out implements it and makes a component of
//! the implementation with [`export_activities!`](crate::export_activities). Bodies are `async fn`s
//! that never really wait: whatever they do inside the sandbox is done when it returns, and one that
//! would pend panics with a message instead of hanging.

use crate::ActivityOptions;
use crate::bindings::activity::{ActivityDescription, Context as WitContext};
use crate::bindings::types::Failure;
use crate::error::{Error, Result};
use crate::executor::poll_until_rest;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::cell::RefCell;
use std::task::Poll;
use std::time::{Duration, SystemTime};

/// The workflow's side of a trait of activities: implemented by
/// [`#[activities]`](macro@crate::activities) for `dyn Trait`.
pub trait Activities {
    /// The queue that serves them, when the trait names one.
    const TASK_QUEUE: Option<&'static str>;
    /// A struct with one method for each activity, which returns a [`Pending`](crate::Pending).
    type Proxy;

    /// The proxy, with these options for every call.
    fn proxy(options: ActivityOptions) -> Self::Proxy;
}

/// Activities as local functions: each call of a method of the proxy is a durable step.
///
/// ```
/// use backstitch_sdk::{ActivityOptions, Result, activities, proxy_activities, workflow};
///
/// #[activities(task_queue = "inventory-tasks")]
/// trait Inventory {
///     async fn check_inventory(item_id: String) -> i64;
///     async fn reserve_item(item_id: String, quantity: i64) -> String;
/// }
///
/// #[workflow]
/// async fn reserve_five(item_id: String) -> Result<Option<String>> {
///     let inventory = proxy_activities::<dyn Inventory>(ActivityOptions::default());
///     if inventory.check_inventory(item_id.clone()).await? < 5 {
///         return Ok(None);
///     }
///     let once = ActivityOptions::default().start_to_close("10 seconds");
///     Ok(Some(inventory.with_options(once).reserve_item(item_id, 5).await?))
/// }
/// ```
pub fn proxy_activities<A: Activities + ?Sized>(options: ActivityOptions) -> A::Proxy {
    A::proxy(options.or_task_queue(A::TASK_QUEUE))
}

/// What is known about the attempt under way.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Context {
    /// The run that called.
    pub run_id: String,
    /// The id its client gave it.
    pub workflow_id: String,
    /// Which command of the run this is.
    pub op: u32,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// The same for every attempt of one call: hand it to whatever the activity changes outside,
    /// because an attempt may have run whose outcome was lost.
    pub idempotency_key: String,
    /// When the attempt's outcome stops to matter.
    pub deadline: Option<SystemTime>,
    /// What the last heartbeat of the attempts before said, as the JSON text it is.
    pub heartbeat: Option<String>,
}

impl Context {
    /// What the last heartbeat of the attempts before said, if it has the form asked for: where to go on
    /// from. See [`heartbeat`].
    pub fn heartbeat_details<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(self.heartbeat.as_deref()?).ok()
    }
}

impl From<WitContext> for Context {
    fn from(context: WitContext) -> Self {
        let deadline = context.deadline_ms.map(|ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
        Self {
            run_id: context.run_id,
            workflow_id: context.workflow_id,
            op: context.op,
            attempt: context.attempt,
            idempotency_key: context.idempotency_key,
            deadline,
            heartbeat: context.heartbeat_details,
        }
    }
}

thread_local! {
    static CONTEXT: RefCell<Option<Context>> = const { RefCell::new(None) };
}

/// The attempt under way.
///
/// # Panics
/// Outside of an activity: a workflow has no attempt.
pub fn context() -> Context {
    CONTEXT.with_borrow(Clone::clone).expect("`activity::context()` is for the body of an activity")
}

/// Says that the attempt under way is alive, and how far it is: should it fail, the next one is told by
/// [`Context::heartbeat_details`]. Details are JSON of at most 64 KiB; a value that cannot be written as
/// such is noted in its place.
///
/// A call that is bounded by [`ActivityOptions::heartbeat`] fails an attempt that is silent for longer. If
/// such a call is given up, its attempt is not cut short: this returns true from then on, and the attempt
/// had better put away what it has in hand and end. What it returns then is ignored.
///
/// A component that calls this is never carried out together with its caller's step, as one without any
/// imports is: for activities of a few milliseconds a heartbeat only costs.
///
/// ```
/// use backstitch_sdk::{Error, Result, activity, testing};
///
/// # fn import_row(_row: u64) {}
/// async fn import(rows: u64) -> Result<u64> {
///     let done: u64 = activity::context().heartbeat_details().unwrap_or(0);
///     for row in done..rows {
///         import_row(row);
///         if activity::heartbeat(&(row + 1)) {
///             return Err(Error::cancelled("the rest is not wanted any more"));
///         }
///     }
///     Ok(rows - done)
/// }
///
/// let mut context = testing::context();
/// context.heartbeat = Some("40".to_owned());
/// assert_eq!(testing::run_activity(context, import(100)).unwrap(), 60);
/// ```
///
/// # Panics
/// Outside of an activity: a workflow has no attempt.
pub fn heartbeat(details: &(impl Serialize + ?Sized)) -> bool {
    assert!(CONTEXT.with_borrow(Option::is_some), "`activity::heartbeat()` is for the body of an activity");
    let details = serde_json::to_string(details).unwrap_or_else(|error| {
        serde_json::Value::String(format!("details that are not JSON: {error}")).to_string()
    });
    send_heartbeat(details)
}

#[cfg(target_family = "wasm")]
fn send_heartbeat(details: String) -> bool {
    crate::bindings::activity::backstitch::workflow::attempt::heartbeat(Some(&details))
}

#[cfg(not(target_family = "wasm"))]
fn send_heartbeat(details: String) -> bool {
    WATCH.with_borrow_mut(|watch| {
        watch.heartbeats.push(details);
        watch.is_given_up()
    })
}

/// A call that somebody else will answer. See [`defer`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "end the attempt with `.later()`"]
pub struct Deferred {
    token: String,
}

impl Deferred {
    /// What whoever answers the call has to show, in `POST /v1/activities:complete`, `:fail` or `:heartbeat`
    /// of any host: all there is to it, so treat it as a secret.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Ends the attempt and leaves the call open. Return what this gives.
    pub fn later<T>(self) -> Result<T> {
        Err(Error::deferred())
    }
}

/// Leaves the outcome of this call to whoever gets the token: a person, a webhook, another program.
///
/// When this returns, the call is held in the database, and the token is valid on every host: send it
/// away after that. Then end with [`later`](Deferred::later); an output is dropped. An error ends the attempt as
/// always, so that a token which could not be sent is followed by another: the first is worth nothing
/// from then on. If the call was answered before, the error changes nothing. A second call in the same attempt
/// gives the same token.
///
/// The answer is waited for as long as the call's own bounds allow, across hosts. Set
/// [`start_to_close`](ActivityOptions::start_to_close): it also ends a call whose host died before the token was
/// sent, of which no attempt hears. The 60 seconds that it is for others do not count here.
///
/// ```
/// use backstitch_sdk::http::Request;
/// use backstitch_sdk::{Result, activity};
///
/// async fn sign(document: String) -> Result<String> {
///     let call = activity::defer()?;
///     let asked = [document.as_str(), call.token()];
///     Request::post("https://sign.example.com/requests").json(&asked).send()?.error_for_status()?;
///     call.later()
/// }
/// # use backstitch_sdk::{http::Response, testing};
/// # let service = |_: &Request| Ok(Response::new(202));
/// # let asked = testing::with_http(service, || testing::run_activity(testing::context(), sign("a lease".into())));
/// # assert!(asked.unwrap_err().is_deferred());
/// ```
///
/// # Errors
/// `cancelled` if nobody waits for the outcome any more.
///
/// # Panics
/// Outside of an activity: a workflow has no attempt.
pub fn defer() -> Result<Deferred> {
    assert!(CONTEXT.with_borrow(Option::is_some), "`activity::defer()` is for the body of an activity");
    let token = hold().ok_or_else(|| Error::cancelled("nobody waits for this call any more"))?;
    Ok(Deferred { token })
}

#[cfg(target_family = "wasm")]
fn hold() -> Option<String> {
    crate::bindings::activity::backstitch::workflow::attempt::defer()
}

#[cfg(not(target_family = "wasm"))]
fn hold() -> Option<String> {
    let Context { run_id, op, attempt, .. } = context();
    WATCH.with_borrow_mut(|watch| {
        let token = format!("{run_id}.{op}.{attempt}.test");
        watch.deferred = (!watch.is_given_up()).then_some(token);
        watch.deferred.clone()
    })
}

/// The other end of what the attempts of a native test say.
#[cfg(not(target_family = "wasm"))]
#[derive(Default)]
pub(crate) struct Watch {
    pub(crate) heartbeats: Vec<String>,
    /// The token, if the call was deferred.
    pub(crate) deferred: Option<String>,
    given_up_at: Option<usize>,
}

#[cfg(not(target_family = "wasm"))]
impl Watch {
    fn is_given_up(&self) -> bool {
        self.given_up_at.is_some_and(|at| self.heartbeats.len() >= at)
    }
}

#[cfg(not(target_family = "wasm"))]
thread_local! {
    static WATCH: RefCell<Watch> = RefCell::default();
}

/// Runs `f` and gives what was said in it, too. From the heartbeat of this number on, counted from 1, it
/// hears that nobody waits.
#[cfg(not(target_family = "wasm"))]
pub(crate) fn watched<R>(given_up_at: Option<usize>, f: impl FnOnce() -> R) -> (R, Watch) {
    let outer = WATCH.replace(Watch { given_up_at, ..Watch::default() });
    let result = f();
    (result, WATCH.replace(outer))
}

/// Runs `f` as the attempt that `context` describes.
pub(crate) fn within<R>(context: Context, f: impl FnOnce() -> R) -> R {
    let outer = CONTEXT.replace(Some(context));
    let result = f();
    CONTEXT.set(outer);
    result
}

/// The output of an activity's future, now.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    match poll_until_rest(std::pin::pin!(future)) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!(
            "an activity waits for something that nothing in its sandbox can bring about: \
             activity bodies run to their end without pending"
        ),
    }
}

/// One implementation of one trait of activities, as an entry of a component's table. Made by
/// [`activity_table!`](crate::activity_table).
#[derive(Debug, Clone, Copy)]
pub struct ActivityTable {
    #[doc(hidden)]
    pub task_queue: Option<&'static str>,
    #[doc(hidden)]
    pub names: &'static [&'static str],
    #[doc(hidden)]
    pub invoke: fn(name: &str, input: &str) -> Option<Result<String>>,
}

/// The component's `describe`.
pub fn describe(tables: &[ActivityTable]) -> Vec<ActivityDescription> {
    let entry = |table: &ActivityTable, name: &str| ActivityDescription {
        name: name.to_owned(),
        task_queue: table.task_queue.map(str::to_owned),
        input_schema: None,
        output_schema: None,
    };
    tables.iter().flat_map(|table| table.names.iter().map(move |name| entry(table, name))).collect()
}

/// The component's `invoke`.
pub fn invoke(
    tables: &[ActivityTable],
    name: &str,
    input: &str,
    context: WitContext,
) -> Result<String, Failure> {
    #[cfg(target_family = "wasm")]
    crate::panic::install_attempt_hook();
    match attempt(tables, name, input, context.into()) {
        // The host knows that the call is deferred: any output says no more than that this is the end.
        Err(error) if error.is_deferred() => Ok("null".to_owned()),
        outcome => outcome.map_err(Error::into_failure),
    }
}

/// One attempt at the activity `name` of `tables`.
pub(crate) fn attempt(tables: &[ActivityTable], name: &str, input: &str, context: Context) -> Result<String> {
    within(context, || tables.iter().find_map(|table| (table.invoke)(name, input))).unwrap_or_else(|| {
        let names: Vec<_> = tables.iter().flat_map(|table| table.names).copied().collect();
        let message = format!("no activity `{name}` in this component, which holds {}", names.join(", "));
        Err(Error::application("unknown-activity", message).non_retryable())
    })
}

/// Carries out one call: reads the arguments, runs the body, writes what it returned.
pub fn run<I: DeserializeOwned, O: Serialize, F: Future<Output = Result<O>>>(
    name: &str,
    input: &str,
    body: impl FnOnce(I) -> F,
) -> Result<String> {
    let arguments = serde_json::from_str(input).map_err(|error| {
        Error::application("invalid-input", format!("activity `{name}` cannot read its arguments: {error}"))
            .non_retryable()
    })?;
    let output = block_on(body(arguments))?;
    serde_json::to_string(&output).map_err(|error| {
        let message = format!("the output of activity `{name}` cannot be written as JSON: {error}");
        Error::application("invalid-output", message).non_retryable()
    })
}

/// An implementation of activities as a value: `activity_table!(Warehouse as Inventory)`. For
/// [`testing`](crate::testing); components use [`export_activities!`](crate::export_activities).
#[macro_export]
macro_rules! activity_table {
    ($implementer:ty as $activities:path) => {
        <dyn $activities>::__activity_table::<$implementer>()
    };
}

/// Makes a component of activities: expands to the exports `describe` and `invoke`. Once per
/// component, at the crate's root; the crate is a `cdylib`.
///
/// ```
/// use backstitch_sdk::{Error, Result, activities, activity, export_activities};
///
/// #[activities(task_queue = "inventory-tasks")]
/// trait Inventory {
///     async fn check_inventory(item_id: String) -> i64;
/// }
///
/// struct Warehouse;
///
/// impl Inventory for Warehouse {
///     async fn check_inventory(item_id: String) -> Result<i64> {
///         if activity::context().attempt == 1 {
///             return Err(Error::application("busy", "the warehouse is counting its stock"));
///         }
///         Ok(i64::try_from(item_id.len())?)
///     }
/// }
///
/// export_activities!(Warehouse as Inventory);
/// ```
#[macro_export]
macro_rules! export_activities {
    ($($implementer:ty as $activities:path),+ $(,)?) => {
        const _: () = {
            // Outside of a component the list is still checked by the compiler, though nobody reads it.
            #[allow(dead_code)]
            const TABLES: &[$crate::activity::ActivityTable] =
                &[$($crate::activity_table!($implementer as $activities)),+];

            #[cfg(target_family = "wasm")]
            const _: () = {
                use $crate::__private::activity_world;

                struct Component;

                impl activity_world::Guest for Component {
                    fn describe() -> ::std::vec::Vec<activity_world::ActivityDescription> {
                        $crate::__private::describe_activities(TABLES)
                    }
                    fn invoke(
                        name: ::std::string::String,
                        input: ::std::string::String,
                        context: activity_world::Context,
                    ) -> ::std::result::Result<::std::string::String, activity_world::Failure> {
                        $crate::__private::invoke_activity(TABLES, &name, &input, context)
                    }
                }

                activity_world::export_activity_world!(Component with_types_in activity_world);
            };
        };
    };
}
