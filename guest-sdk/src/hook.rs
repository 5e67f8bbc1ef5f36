//! Hooks: other functions of the workflow that run inside the same run, beside its main function.
//!
//! A hook is a future that the run drives whenever something happens, also while the main function
//! waits for something else. It is as durable as the rest, because everything it does are commands of
//! the same run; the main function and its hooks share memory and are never interrupted between two
//! `.await`s.
//!
//! | the main function | a hook of it |
//! |---|---|
//! | calls [`hook`] | begins at the main function's next `.await` |
//! | waits | goes on as its own outcomes come |
//! | drops the [`Hook`] | goes on; should it fail, the log has it |
//! | returns | is given up where it stands: no code of it runs any more, activities that are under way are not waited for, its children end as their `ParentClose` says |

use crate::author::by_the_same_author;
use crate::error::{Error, Result};
use crate::executor::{self, Root};
use futures::channel::oneshot;
use futures::future::{Fuse, FusedFuture, FutureExt, LocalBoxFuture};
use futures::stream::{FuturesUnordered, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::task::{Context, Poll};

type Task = LocalBoxFuture<'static, ()>;

thread_local! {
    /// Begun since the hooks were last polled.
    static BEGUN: RefCell<Vec<Task>> = const { RefCell::new(Vec::new()) };
    static LINES: RefCell<BTreeMap<String, Line>> = const { RefCell::new(BTreeMap::new()) };
}

/// What was raised under one name, and who waits for it. One of the two is empty.
#[derive(Default)]
struct Line {
    raised: VecDeque<String>,
    waiting: VecDeque<oneshot::Sender<String>>,
}

/// Runs `future` beside the main function, inside the same run. Its result can be awaited; it need not
/// be.
///
/// ```
/// use backstitch_sdk::testing::TestRun;
/// use backstitch_sdk::{Result, hook, show, sleep_for, wait_for, workflow};
///
/// #[workflow(signals("paid"), queries("hours"))]
/// async fn order() -> Result<String> {
///     hook(count_the_hours());
///     wait_for::<String>("paid").await
/// }
///
/// async fn count_the_hours() -> Result<()> {
///     for hours in 1.. {
///         sleep_for("1 hour").await?;
///         show("hours", &hours)?;
///     }
///     Ok(())
/// }
///
/// let run = TestRun::<order>::new().signal("paid", "by card", "150 minutes").run(());
/// assert_eq!(run.output().unwrap(), "by card");
/// assert_eq!(run.query("hours"), Some("2"));
/// ```
pub fn hook<T: 'static>(future: impl Future<Output = Result<T>> + 'static) -> Hook<T> {
    let (ended, outcome) = oneshot::channel();
    begin(async move {
        if let Err(Err(error)) = ended.send(future.await) {
            crate::warn!("a hook that nobody waits for has failed: {error}");
        }
    });
    Hook { outcome }
}

/// A hook that was begun. To await it is to wait for its end; to drop it is to let it go its own way.
#[derive(Debug)]
pub struct Hook<T> {
    outcome: oneshot::Receiver<Result<T>>,
}

impl<T> Future for Hook<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.outcome.poll_unpin(cx).map(|ended| ended.expect("a hook lives as long as whoever waits for it"))
    }
}

impl<T> FusedFuture for Hook<T> {
    fn is_terminated(&self) -> bool {
        self.outcome.is_terminated()
    }
}

/// Begins a hook and waits until it [`raise`]s `signal`; the hook goes on. When it fails before that,
/// its error is the result; when it ends without it, the error has the code `hook-silent`.
///
/// ```
/// use backstitch_sdk::testing::TestRun;
/// use backstitch_sdk::{
///     ActivityOptions, Result, call_activity, exec_hook, join, raise, workflow,
/// };
///
/// #[workflow]
/// async fn weigh(question: String) -> Result<Vec<String>> {
///     let (hopeful, doubtful) = join!(
///         exec_hook("hopeful", perspective(question.clone(), "hopeful")),
///         exec_hook("doubtful", perspective(question, "doubtful")),
///     );
///     Ok(vec![hopeful?, doubtful?])
/// }
///
/// async fn perspective(question: String, mood: &'static str) -> Result<()> {
///     let options = ActivityOptions::default();
///     let answer: String = call_activity("answer", &(question, mood), &options).await?;
///     raise(mood, &answer)?;
///     call_activity("file_away", &(answer,), &options).await
/// }
///
/// let run = TestRun::<weigh>::new()
///     .activity("answer", |arguments| Ok(if arguments[1] == "hopeful" { "yes" } else { "no" }))
///     .activity("file_away", |_| Ok(()))
///     .run("worth it?");
/// assert_eq!(run.output().unwrap(), ["yes", "no"]);
/// ```
pub fn exec_hook<T: DeserializeOwned + 'static>(
    signal: &str,
    future: impl Future<Output = Result<()>> + 'static,
) -> Fuse<LocalBoxFuture<'static, Result<T>>> {
    let name = signal.to_owned();
    let mut raised = line_up(signal);
    let mut ended = hook(future);
    async move {
        futures::select_biased! {
            json = raised => {
                let json = json.expect("a line lives as long as whoever stands in it");
                serde_json::from_str(&json).map_err(|error| {
                    let message = format!("what was raised as `{name}` is not a {}: {error}", std::any::type_name::<T>());
                    Error::application("invalid-signal", message).non_retryable()
                })
            }
            ended = ended => {
                ended?;
                let message = format!("the hook ended and never raised `{name}`");
                Err(Error::application("hook-silent", message).non_retryable())
            }
        }
    }
    .boxed_local()
    .fuse()
}

/// Hands a value to the [`exec_hook`] that waits for this name in the same run; to the one that has
/// waited longest when there are several. It is kept when nobody waits yet. Nothing leaves the run:
/// for a signal to another one, send it.
pub fn raise(signal: &str, value: &(impl Serialize + ?Sized)) -> Result<()> {
    let mut json = crate::written::written(value, || format!("what is raised as `{signal}`"))?;
    with_line(signal, |line| {
        while let Some(waiting) = line.waiting.pop_front() {
            match waiting.send(json) {
                Ok(()) => return,
                // It does not wait any more.
                Err(back) => json = back,
            }
        }
        line.raised.push_back(json);
    });
    Ok(())
}

fn line_up(signal: &str) -> oneshot::Receiver<String> {
    let (sender, receiver) = oneshot::channel();
    with_line(signal, |line| match line.raised.pop_front() {
        Some(json) => sender.send(json).expect("the receiver is at hand"),
        None => line.waiting.push_back(sender),
    });
    receiver
}

/// An empty line is not kept: names may be made up without end.
fn with_line(signal: &str, f: impl FnOnce(&mut Line)) {
    LINES.with_borrow_mut(|lines| {
        let line = lines.entry(signal.to_owned()).or_default();
        f(line);
        if line.raised.is_empty() && line.waiting.is_empty() {
            lines.remove(signal);
        }
    });
}

/// Has a future driven beside the root until one of the two ends.
pub(crate) fn begin(task: impl Future<Output = ()> + 'static) {
    let task = Box::pin(by_the_same_author(task));
    BEGUN.with_borrow_mut(|begun| begun.push(task));
}

/// Forgets what is begun and what is raised.
pub(crate) fn forget() {
    drop(BEGUN.take());
    drop(LINES.take());
}

/// The root, and its hooks beside it.
pub(crate) fn with_hooks(root: Root) -> Root {
    Box::pin(WithHooks { root, hooks: FuturesUnordered::new() })
}

struct WithHooks {
    root: Root,
    /// Polls what was woken, in the order in which it was woken.
    hooks: FuturesUnordered<Task>,
}

impl Future for WithHooks {
    type Output = Result<String>;

    /// What one of them does wakes the other by real wakers, and whoever polls does so until nothing
    /// is woken any more: all of it is an answer to one event.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(result) = self.root.as_mut().poll(cx) {
            // Without their ops the hooks have nothing to give up: the host sees to what is open.
            executor::leave_all();
            self.hooks.clear();
            forget();
            return Poll::Ready(result);
        }
        loop {
            self.hooks.extend(BEGUN.take());
            let ended = matches!(self.hooks.poll_next_unpin(cx), Poll::Ready(Some(())));
            if !ended && BEGUN.with_borrow(Vec::is_empty) {
                return Poll::Pending;
            }
        }
    }
}
