//! Runs a workflow against a script instead of a host, in no time: durations pass by being skipped.
//!
//! Promises: the workflow is driven by the same executor as in a component, one event at a time; its
//! commands are recorded for assertions; and after every run it is **replayed** from the recorded
//! events, all of them in one activation, so that a workflow that is not deterministic fails its test
//! even when its outcome is right. Only for native tests: components do not contain this module.
//!
//! ```
//! use backstitch_sdk::testing::TestRun;
//! use backstitch_sdk::{Error, Result, select_biased, sleep_for, wait_for, workflow};
//!
//! #[workflow]
//! async fn approval(_request: String) -> Result<bool> {
//!     select_biased! {
//!         approved = wait_for::<bool>("manager-approval") => approved,
//!         timed_out = sleep_for("3 days") => { timed_out?; Ok(false) }
//!     }
//! }
//!
//! let run = TestRun::<approval>::new().signal("manager-approval", true, "2 days").run("a desk");
//! assert!(run.output().unwrap());
//! assert_eq!(run.story(), ["wait-for manager-approval", "sleep-for 259200000 ms", "cancel 1"]);
//!
//! let run = TestRun::<approval>::new().run("a desk");
//! assert!(!run.output().unwrap());
//! assert_eq!(run.elapsed(), backstitch_sdk::duration!("3 days"));
//! ```

mod finished;
mod script;
mod sim;

pub use finished::{Command, Ending, Finished};

use crate::activity::{self, ActivityTable};
use crate::bindings::types::Status;
use crate::definition::Workflow;
use crate::duration::IntoDuration;
use crate::error::Result;
use crate::http::{Request, Response};
use crate::interceptor::{self, Interceptor, Link};
use crate::workflow::Definition;
use crate::{executor, host};
use script::{Delayed, Script};
use serde::Serialize;
use serde_json::Value;
pub use sim::context;
use sim::{Driven, Sim};
use std::marker::PhantomData;
use std::rc::Rc;

/// A script for one run: what activities and children answer, and which signals come when.
///
/// Times are counted from the start of the run. A duration text that is none panics, as does a value
/// that cannot be written as JSON: both are bugs of the test.
#[must_use = "nothing happens before `.run(…)`"]
pub struct TestRun<W> {
    script: Script,
    events_per_activation: usize,
    interceptors: Vec<Make>,
    workflow: PhantomData<fn() -> W>,
}

/// Makes an interceptor anew for every time the run is driven.
type Make = Box<dyn Fn() -> Rc<dyn Link>>;

impl<W> std::fmt::Debug for TestRun<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestRun").finish_non_exhaustive()
    }
}

impl<W: Workflow> Default for TestRun<W> {
    fn default() -> Self {
        Self::new()
    }
}

impl<W: Workflow> TestRun<W> {
    /// An empty script: timers fire, nothing else answers.
    pub fn new() -> Self {
        Self {
            script: Script::default(),
            events_per_activation: 1,
            interceptors: Vec::new(),
            workflow: PhantomData,
        }
    }

    /// Answers calls of this activity. The closure gets the arguments as a JSON array and runs once
    /// for each attempt; [`activity::context`] tells which. Retry policies are followed.
    pub fn activity<T: Serialize>(
        mut self,
        name: &str,
        mut body: impl FnMut(Value) -> Result<T> + 'static,
    ) -> Self {
        let body = Box::new(move |input: &str| body(parse(input)).map(|output| write(&output)));
        self.script.activities.insert(name.to_owned(), body);
        self
    }

    /// Answers every activity of an implementation with the implementation itself:
    /// `activity_table!(Warehouse as Inventory)`.
    pub fn activities(mut self, table: ActivityTable) -> Self {
        self.script.tables.push(table);
        self
    }

    /// Lets every attempt at this activity take so long.
    pub fn activity_takes(mut self, name: &str, duration: impl IntoDuration) -> Self {
        self.script.takes_ms.insert(name.to_owned(), millis(duration));
        self
    }

    /// Answers the calls of this activity that it has [deferred](activity::defer), so long after each attempt. The
    /// closure gets the token. Without it such calls stay open; retry policies are followed here, too.
    pub fn deferred<T: Serialize>(
        mut self,
        name: &str,
        after: impl IntoDuration,
        mut answer: impl FnMut(&str) -> Result<T> + 'static,
    ) -> Self {
        let answer = Box::new(move |token: &str| answer(token).map(|output| write(&output)));
        self.script.answers.insert(name.to_owned(), (millis(after), answer));
        self
    }

    /// Answers children of this workflow. The closure gets the child's input.
    pub fn child<T: Serialize>(
        mut self,
        workflow: &str,
        mut body: impl FnMut(Value) -> Result<T> + 'static,
    ) -> Self {
        let body = Box::new(move |input: &str| body(parse(input)).map(|output| write(&output)));
        self.script.children.insert(workflow.to_owned(), body);
        self
    }

    /// Sends a signal at a time.
    pub fn signal(mut self, name: &str, payload: impl Serialize, at: impl IntoDuration) -> Self {
        let signal = Delayed::Signal { name: name.to_owned(), payload: write(&payload) };
        self.script.later.push((millis(at), signal));
        self
    }

    /// Sends an update at a time; its id is its name. Validators are not asked: call them as the
    /// functions they are.
    pub fn update(mut self, name: &str, input: impl Serialize, at: impl IntoDuration) -> Self {
        let payload = format!(r#"{{"id":{},"input":{}}}"#, write(&name), write(&input));
        let signal = Delayed::Signal { name: format!("update:{name}"), payload };
        self.script.later.push((millis(at), signal));
        self
    }

    /// Asks the run to stop at a time: every open command then fails as cancelled.
    pub fn cancel(mut self, at: impl IntoDuration) -> Self {
        self.script.later.push((millis(at), Delayed::Cancel));
        self
    }

    /// Plays a run whose ledger went past this change before it was made: `patched` says false.
    pub fn before_change(mut self, change_id: &str) -> Self {
        self.script.unpatched.insert(change_id.to_owned());
        self
    }

    /// Puts an interceptor around the run, inside of those that were put there before, as the list in
    /// [`export_workflows!`](crate::export_workflows) does. The run and its replay have a clone each.
    pub fn interceptor(mut self, interceptor: impl Interceptor + Clone) -> Self {
        self.interceptors.push(Box::new(move || Rc::new(interceptor.clone())));
        self
    }

    /// How many events a single activation may bring; one unless said otherwise. Commands come in the
    /// same order whatever this is: [`story`](Finished::story) proves it.
    ///
    /// # Panics
    /// When it is 0.
    pub fn events_per_activation(mut self, events: usize) -> Self {
        assert!(events > 0, "an activation brings at least one event");
        self.events_per_activation = events;
        self
    }

    /// Runs the workflow until it ends, or until nothing in the script can wake it any more.
    ///
    /// # Panics
    /// When the workflow does; when it calls what the script does not answer; when its replay gives
    /// other commands or ends otherwise.
    pub fn run(self, input: impl Serialize) -> Finished<W::Output> {
        self.run_json(&write(&input))
    }

    /// The same with an input as JSON text, which may be one that the workflow cannot read.
    ///
    /// # Panics
    /// As [`run`](Self::run).
    pub fn run_json(self, input: &str) -> Finished<W::Output> {
        let workflow = &Definition::of::<W>();
        let sim = Rc::new(Sim::live(W::NAME, self.script));
        let around = &self.interceptors;
        let driven = drive(&sim, workflow, input, around, self.events_per_activation);

        let again = Rc::new(sim.replay());
        let replayed = drive(&again, workflow, input, around, usize::MAX);
        sim.assert_same(&again);
        assert_eq!(format!("{driven:?}"), format!("{replayed:?}"), "the workflow ends otherwise on replay");

        sim.finish(driven)
    }
}

fn drive(sim: &Rc<Sim>, workflow: &Definition, input: &str, around: &[Make], events: usize) -> Driven {
    // Dropped in reverse: first the run is forgotten, then its host goes.
    let _host = host::install(Rc::clone(sim) as Rc<dyn host::Host>);
    let _run = Forget;
    interceptor::install(around.iter().map(|make| make()).collect());
    sim.begin_activation();
    let mut status = crate::workflow::start(std::slice::from_ref(workflow), workflow.name(), input);
    while matches!(status, Status::Blocked) && sim.advance(events) {
        sim.begin_activation();
        status = executor::resume();
    }
    Driven { status, shown: crate::workflow::take_shown() }
}

struct Forget;

impl Drop for Forget {
    fn drop(&mut self) {
        executor::discard();
        crate::hook::forget();
        interceptor::install(Vec::new());
        crate::workflow::take_shown();
    }
}

/// Runs an activity's body as the attempt that `context` describes: how an implementation is tested by
/// itself.
///
/// ```
/// use backstitch_sdk::{Result, activity, testing};
///
/// async fn attempts() -> Result<u32> {
///     Ok(activity::context().attempt)
/// }
/// let mut context = testing::context();
/// context.attempt = 3;
/// assert_eq!(testing::run_activity(context, attempts()).unwrap(), 3);
/// ```
pub fn run_activity<T>(context: activity::Context, body: impl Future<Output = Result<T>>) -> Result<T> {
    activity::within(context, || activity::block_on(body))
}

/// The same with an eye on its heartbeats: gives what each said, beside the outcome. From the one of
/// number `given_up_at` on, counted from 1, [`activity::heartbeat`] returns true, and [`activity::defer`] an error.
///
/// ```
/// use backstitch_sdk::{Result, activity, testing};
///
/// async fn count() -> Result<u32> {
///     Ok((1..10).take_while(|n| !activity::heartbeat(n)).last().unwrap_or(0))
/// }
/// let (counted, heartbeats) = testing::watch_activity(testing::context(), Some(4), count());
/// assert_eq!((counted.unwrap(), heartbeats.len()), (3, 4));
/// assert_eq!(heartbeats[3], 4);
/// ```
pub fn watch_activity<T>(
    context: activity::Context,
    given_up_at: Option<usize>,
    body: impl Future<Output = Result<T>>,
) -> (Result<T>, Vec<Value>) {
    let (result, watch) = activity::watched(given_up_at, || run_activity(context, body));
    (result, watch.heartbeats.iter().map(|details| parse(details)).collect())
}

/// Runs `body` with `service` in the place of everything that [`http`](crate::http) could reach.
///
/// ```
/// use backstitch_sdk::http::{Request, Response};
/// use backstitch_sdk::{Result, testing};
///
/// async fn stock() -> Result<u32> {
///     Request::get("https://stock.example.com/desk").send()?.error_for_status()?.json()
/// }
///
/// let service = |request: &Request| {
///     assert_eq!((request.method(), request.url()), ("GET", "https://stock.example.com/desk"));
///     Ok(Response::new(200).with_body("7"))
/// };
/// let stock = testing::with_http(service, || testing::run_activity(testing::context(), stock()));
/// assert_eq!(stock.unwrap(), 7);
/// ```
pub fn with_http<R>(service: impl Fn(&Request) -> Result<Response> + 'static, body: impl FnOnce() -> R) -> R {
    crate::http::served_by(Rc::new(service), body)
}

/// Invokes an activity by name with JSON text, as a host would.
pub fn invoke(table: ActivityTable, name: &str, input: &str, context: activity::Context) -> Result<String> {
    activity::attempt(&[table], name, input, context)
}

fn millis(duration: impl IntoDuration) -> u64 {
    let duration = duration.into_duration().unwrap_or_else(|error| panic!("{error}"));
    crate::duration::millis_rounded_up(duration)
}

fn write(value: &(impl Serialize + ?Sized)) -> String {
    serde_json::to_string(value).expect("a scripted value can be written as JSON")
}

fn parse(json: &str) -> Value {
    serde_json::from_str(json).expect("the SDK writes JSON")
}
