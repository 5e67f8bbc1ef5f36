//! Code around every workflow, activity call and child of a component, written once.
//!
//! An [`Interceptor`] stands between the code that asks and the host that does: it sees what is asked
//! for, may change it, may refuse it, may ask again, and sees what came of it. Registered with
//! [`export_workflows!`](crate::export_workflows), the first of the list outermost.
//!
//! Promises: an interceptor is part of the workflow and as durable, its own activity calls are steps of
//! the run; a call is still a command when it is made, up to the first `.await` of the interceptors
//! around it; what an interceptor itself calls passes by **no** interceptor, so none of them ever meets
//! its own calls. Timers and waits are not intercepted: nothing leaves the run by them.

use crate::author::{self, within};
use crate::error::{Error, Result};
use crate::executor::{self, Root, poll_until_rest};
use crate::hook;
use crate::options::{ActivityOptions, ChildOptions};
use crate::scope::shielded;
use futures::future::LocalBoxFuture;
use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Code around what a workflow is and does. Each function passes on what it is not written for, so
/// that an implementation has only those it needs.
///
/// What awaits before it goes on delays the command by that much: a call that is detached just before
/// the run ends may then never be made.
///
/// Outputs are JSON text: an interceptor serves workflows and activities of every type. It must be
/// deterministic, like the workflow that it is part of.
///
/// ```
/// use backstitch_sdk::testing::TestRun;
/// use backstitch_sdk::{
///     ActivityOptions, Execution, Interceptor, Next, Result, activities, export_workflows,
///     proxy_activities, workflow,
/// };
///
/// #[activities(task_queue = "shared")]
/// trait AuditLog {
///     async fn audit_log(workflow: String, action: String);
/// }
///
/// #[derive(Clone)]
/// struct Audit;
///
/// impl Interceptor for Audit {
///     async fn execute(&self, run: Execution, next: Next<Execution>) -> Result<String> {
///         let log = proxy_activities::<dyn AuditLog>(ActivityOptions::default());
///         let workflow = run.workflow.to_owned();
///         log.audit_log(workflow.clone(), "started".into()).await?;
///         let output = next.run(run).await;
///         let action = if output.is_ok() { "completed" } else { "failed" };
///         log.audit_log(workflow, action.into()).await?;
///         output
///     }
/// }
///
/// #[workflow]
/// async fn greet(name: String) -> Result<String> {
///     Ok(format!("hello, {name}"))
/// }
///
/// export_workflows!(greet; interceptors: [Audit]);
///
/// let run = TestRun::<greet>::new().interceptor(Audit).activity("audit_log", |_| Ok(())).run("Ada");
/// assert_eq!(run.output().unwrap(), "hello, Ada");
/// assert_eq!(
///     run.story(),
///     [r#"activity audit_log ["greet","started"]"#, r#"activity audit_log ["greet","completed"]"#],
/// );
/// ```
pub trait Interceptor: 'static {
    /// Around a whole run. An error may be a [`continue_as_new`](crate::continue_as_new), which is no
    /// failure: [`Error::is_continue_as_new`](crate::Error::is_continue_as_new) tells, and it has to be
    /// returned as it came.
    fn execute(&self, run: Execution, next: Next<Execution>) -> impl Future<Output = Result<String>> {
        next.run(run)
    }

    /// Around a call of an activity: all its attempts together.
    fn activity(&self, call: ActivityCall, next: Next<ActivityCall>) -> impl Future<Output = Result<String>> {
        next.run(call)
    }

    /// Around a child, from its start to its result.
    fn child(&self, call: ChildCall, next: Next<ChildCall>) -> impl Future<Output = Result<String>> {
        next.run(call)
    }
}

/// A run, as an interceptor sees it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Execution {
    /// The workflow's name. To change it changes nothing.
    pub workflow: &'static str,
    /// Its input, as JSON text.
    pub input: String,
}

/// A call of an activity, as an interceptor sees it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ActivityCall {
    /// The activity's name.
    pub name: String,
    /// Its arguments, as the text of a JSON array.
    pub input: String,
    /// How it is called.
    pub options: ActivityOptions,
}

/// A child to be started, as an interceptor sees it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ChildCall {
    /// The name of its workflow.
    pub workflow: String,
    /// Its input, as JSON text.
    pub input: String,
    /// How it is started.
    pub options: ChildOptions,
}

/// JSON text that is on its way.
pub(crate) type Text = LocalBoxFuture<'static, Result<String>>;

/// What an interceptor stands before: the next interceptor, and behind the last one the real thing.
pub struct Next<C> {
    chain: Chain,
    at: usize,
    last: Rc<dyn Fn(C) -> Text>,
}

impl<C: Intercepted> Next<C> {
    /// Goes on with `call`, which may be another than the one that came. Dropping the future gives the
    /// call up; calling again asks again, with a new command.
    pub fn run(&self, call: C) -> LocalBoxFuture<'static, Result<String>> {
        let Some(link) = self.chain.get(self.at) else {
            return Box::pin(within(false, (self.last)(call)));
        };
        let next = Self { chain: Rc::clone(&self.chain), at: self.at + 1, last: Rc::clone(&self.last) };
        Box::pin(within(true, call.enter(Rc::clone(link), next)))
    }
}

impl<C> fmt::Debug for Next<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").finish_non_exhaustive()
    }
}

/// The three things that are intercepted. Not to be implemented outside of this crate.
pub trait Intercepted: Sized + 'static {
    #[doc(hidden)]
    fn enter(self, link: Rc<dyn Link>, next: Next<Self>) -> LocalBoxFuture<'static, Result<String>>;
}

impl Intercepted for Execution {
    fn enter(self, link: Rc<dyn Link>, next: Next<Self>) -> Text {
        link.execute(self, next)
    }
}

impl Intercepted for ActivityCall {
    fn enter(self, link: Rc<dyn Link>, next: Next<Self>) -> Text {
        link.activity(self, next)
    }
}

impl Intercepted for ChildCall {
    fn enter(self, link: Rc<dyn Link>, next: Next<Self>) -> Text {
        link.child(self, next)
    }
}

/// [`Interceptor`] as a trait object. Every interceptor is one.
#[doc(hidden)]
pub trait Link {
    fn execute(self: Rc<Self>, run: Execution, next: Next<Execution>) -> Text;
    fn activity(self: Rc<Self>, call: ActivityCall, next: Next<ActivityCall>) -> Text;
    fn child(self: Rc<Self>, call: ChildCall, next: Next<ChildCall>) -> Text;
}

// The blocks hold what the author's futures borrow from, so that they can outlive their caller.
impl<I: Interceptor> Link for I {
    fn execute(self: Rc<Self>, run: Execution, next: Next<Execution>) -> Text {
        Box::pin(async move { Interceptor::execute(&*self, run, next).await })
    }
    fn activity(self: Rc<Self>, call: ActivityCall, next: Next<ActivityCall>) -> Text {
        Box::pin(async move { Interceptor::activity(&*self, call, next).await })
    }
    fn child(self: Rc<Self>, call: ChildCall, next: Next<ChildCall>) -> Text {
        Box::pin(async move { Interceptor::child(&*self, call, next).await })
    }
}

type Chain = Rc<[Rc<dyn Link>]>;

thread_local! {
    static CHAIN: RefCell<Option<Chain>> = const { RefCell::new(None) };
}

/// Puts the interceptors of the run that is about to start in place, the outermost first.
pub fn install(interceptors: Vec<Rc<dyn Link>>) {
    author::reset();
    CHAIN.set((!interceptors.is_empty()).then(|| interceptors.into()));
}

/// The root of a run: the workflow, with `execute` of every interceptor around it.
pub(crate) fn begin(workflow: &'static str, input: &str, begin: fn(&str) -> Result<Root>) -> Result<Root> {
    let Some(chain) = CHAIN.with_borrow(Clone::clone) else { return begin(input) };
    let last = move |run: Execution| match begin(&run.input) {
        Ok(root) => root,
        Err(error) => refused(error),
    };
    Ok(through(chain, last).run(Execution { workflow, input: input.to_owned() }))
}

/// A call of an activity through the interceptors; `last` makes it. None when there are none for it.
pub(crate) fn activity(
    name: &str,
    input: &str,
    options: &ActivityOptions,
    last: fn(ActivityCall) -> Text,
) -> Option<Driven> {
    let next = through(chain_for_calls()?, last);
    let call = ActivityCall { name: name.to_owned(), input: input.to_owned(), options: options.clone() };
    Some(Driven::begin(in_scope(next.run(call))))
}

/// A start of a child through the interceptors; `last` makes it. None when there are none for it.
pub(crate) fn child(
    workflow: &str,
    input: &str,
    options: &ChildOptions,
    last: fn(ChildCall) -> Text,
) -> Option<Driven> {
    let next = through(chain_for_calls()?, last);
    let call = ChildCall { workflow: workflow.to_owned(), input: input.to_owned(), options: options.clone() };
    Some(Driven::begin(in_scope(next.run(call))))
}

/// A call that is begun in a shielded scope stays in it, wherever it is polled from.
fn in_scope(call: Text) -> Text {
    if executor::is_shielded() { Box::pin(shielded(call)) } else { call }
}

fn chain_for_calls() -> Option<Chain> {
    if author::is_interceptor() { None } else { CHAIN.with_borrow(Clone::clone) }
}

fn through<C>(chain: Chain, last: impl Fn(C) -> Text + 'static) -> Next<C> {
    Next { chain, at: 0, last: Rc::new(last) }
}

/// A call in the hands of interceptors, which go on whether or not anybody waits for it: two calls that
/// are awaited one after the other are under way at the same time, intercepted or not.
///
/// Dropping it drops what the interceptors are at, with the command in it; [`detach`](Self::detach) does
/// not.
pub(crate) struct Driven(Rc<RefCell<Call>>);

enum Call {
    UnderWay {
        /// None while it is being polled.
        text: Option<Text>,
        /// Wakes whoever waits for the outcome.
        awaiting: Option<Waker>,
        /// Wakes [`drive`].
        driving: Option<Waker>,
    },
    Over(Result<String>),
    /// Its outcome was taken, or nobody wants it any more.
    Left,
}

impl Driven {
    /// Runs to the first wait at once: a call is a command when it is made.
    fn begin(mut text: Text) -> Self {
        let call = match poll_until_rest(text.as_mut()) {
            Poll::Ready(result) => return Self(Rc::new(RefCell::new(Call::Over(result)))),
            Poll::Pending => Call::UnderWay { text: Some(text), awaiting: None, driving: None },
        };
        let call = Rc::new(RefCell::new(call));
        let driven = Rc::clone(&call);
        hook::begin(std::future::poll_fn(move |cx| drive(&driven, cx)));
        Self(call)
    }

    pub(crate) fn poll_text(&mut self, cx: &Context<'_>) -> Poll<Result<String>> {
        let mut call = self.0.borrow_mut();
        if let Call::UnderWay { awaiting, .. } = &mut *call {
            *awaiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        match std::mem::replace(&mut *call, Call::Left) {
            Call::Over(result) => Poll::Ready(result),
            Call::UnderWay { .. } | Call::Left => panic!("awaited again after its outcome was taken"),
        }
    }

    /// Lets it go on with nobody waiting.
    pub(crate) fn detach(mut self) {
        // Whatever drives it has the other end.
        self.0 = Rc::new(RefCell::new(Call::Left));
    }
}

impl fmt::Debug for Driven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driven").finish_non_exhaustive()
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        if let Call::UnderWay { text, driving, .. } = self.0.replace(Call::Left) {
            drop(text);
            // So that what drives it ends as well, and not only with the run.
            if let Some(driving) = driving {
                driving.wake();
            }
        }
    }
}

/// Polls a call from beside the root, until it is over or left.
fn drive(call: &RefCell<Call>, cx: &mut Context<'_>) -> Poll<()> {
    let mut text = match &mut *call.borrow_mut() {
        Call::UnderWay { text, driving, .. } => {
            *driving = Some(cx.waker().clone());
            text.take().expect("it is polled from one place")
        }
        Call::Over(_) | Call::Left => return Poll::Ready(()),
    };
    // Not borrowed meanwhile: what is polled may do anything.
    let result = text.as_mut().poll(cx);
    let mut call = call.borrow_mut();
    let Call::UnderWay { text: place, awaiting, .. } = &mut *call else { return Poll::Ready(()) };
    match result {
        Poll::Pending => {
            *place = Some(text);
            Poll::Pending
        }
        Poll::Ready(result) => {
            let awaiting = awaiting.take();
            *call = Call::Over(result);
            drop(call);
            if let Some(awaiting) = awaiting {
                awaiting.wake();
            }
            Poll::Ready(())
        }
    }
}

fn refused(error: Error) -> Text {
    Box::pin(std::future::ready(Err(error)))
}
