//! What a worker does when its host refuses, and when it is stopped. The host is one in memory that does as the
//! test says.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use backstitch_client::ClientError;
use backstitch_client::tasks::{AnswerTask, HeartbeatTask, HeartbeatView, PollTasks, SettledTask, TaskView};
use backstitch_core::{Json, Op};
use backstitch_worker::{Ending, Failure, Port, Worker};
use tokio::sync::Notify;

/// The status of a request with these answers, if it is refused.
type Refuses = fn(&[AnswerTask]) -> Option<u16>;

#[derive(Clone)]
struct Host(Arc<Inner>);

struct Inner {
    /// What the first poll is given, once `hand_out` says so.
    tasks: Mutex<Vec<TaskView>>,
    hand_out: Notify,
    polled: Notify,
    /// How many tasks each poll asked for.
    requested: Mutex<Vec<u32>>,
    /// No answer is taken before there have been so many polls.
    polls_min: usize,
    refuses: Refuses,
    requests: Mutex<Vec<Vec<AnswerTask>>>,
    taken: Mutex<Vec<AnswerTask>>,
    released: Mutex<Vec<String>>,
    heard: Notify,
}

impl Host {
    /// With one task for each of these names, which is its token as well.
    fn new(names: &[&str], refuses: Refuses) -> Self {
        let task = |name: &&str| TaskView {
            token: (*name).to_owned(),
            run_id: "00000000-0000-0000-0000-000000000001".parse().unwrap(),
            workflow_id: String::new(),
            op: Op(0),
            attempt: 1,
            name: (*name).to_owned(),
            task_queue: "q".to_owned(),
            input: Json::new("[]").unwrap(),
            idempotency_key: String::new(),
            lease_ms: 60_000,
            deadline: None,
            heartbeat_details: None,
            traceparent: String::new(),
        };
        Self(Arc::new(Inner {
            tasks: Mutex::new(names.iter().map(task).collect()),
            hand_out: Notify::new(),
            polled: Notify::new(),
            requested: Mutex::default(),
            polls_min: 0,
            refuses,
            requests: Mutex::default(),
            taken: Mutex::default(),
            released: Mutex::default(),
            heard: Notify::new(),
        }))
    }

    /// Has a worker carry out all tasks, until so many answers are taken.
    async fn served(&self, count: usize, run: fn(&str) -> Ending) {
        self.0.hand_out.notify_one();
        let all_taken = async {
            while self.0.taken.lock().unwrap().len() < count {
                self.0.heard.notified().await;
            }
        };
        let worker =
            Worker::new(self.clone()).any_activity(move |context| async move { run(&context.task.name) });
        in_time(worker.run(all_taken)).await.unwrap();
    }

    /// The token of each answer that was taken, and the code of its failure.
    fn taken(&self) -> Vec<(String, Option<String>)> {
        let taken = self.0.taken.lock().unwrap();
        let code = |answer: &AnswerTask| answer.failure.as_ref().map(|failure| failure.code.clone());
        let mut taken: Vec<_> = taken.iter().map(|answer| (answer.token.clone(), code(answer))).collect();
        taken.sort();
        taken
    }

    fn request_sizes(&self) -> Vec<usize> {
        self.0.requests.lock().unwrap().iter().map(Vec::len).collect()
    }
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("it takes too long")
}

fn problem(status: u16) -> ClientError {
    ClientError::Problem { status, code: "no".to_owned(), detail: "never".to_owned() }
}

impl Port for Host {
    async fn poll(&self, poll: PollTasks) -> Result<Vec<TaskView>, ClientError> {
        self.0.requested.lock().unwrap().push(poll.max);
        self.0.polled.notify_one();
        self.0.hand_out.notified().await;
        Ok(std::mem::take(&mut *self.0.tasks.lock().unwrap()))
    }

    async fn heartbeat(&self, _: HeartbeatTask) -> Result<HeartbeatView, ClientError> {
        Ok(HeartbeatView { cancel: false, lease_ms: Some(60_000) })
    }

    async fn settle(&self, answers: Vec<AnswerTask>) -> Result<Vec<SettledTask>, ClientError> {
        while self.0.requested.lock().unwrap().len() < self.0.polls_min {
            self.0.polled.notified().await;
        }
        let refused = (self.0.refuses)(&answers);
        self.0.requests.lock().unwrap().push(answers.clone());
        if let Some(status) = refused {
            return Err(problem(status));
        }
        let settled = answers.iter().map(|_| SettledTask { status: 200, code: None, detail: None }).collect();
        self.0.taken.lock().unwrap().extend(answers);
        self.0.heard.notify_one();
        Ok(settled)
    }

    async fn defer(&self, _: String) -> Result<(), ClientError> {
        Err(problem(400))
    }

    async fn release(&self, token: String) -> Result<(), ClientError> {
        self.0.released.lock().unwrap().push(token);
        Ok(())
    }
}

fn done(_: &str) -> Ending {
    Ending::Completed(Json::null())
}

#[tokio::test]
async fn answers_that_are_ready_together_go_together() {
    let host = Host::new(&["a", "b", "c"], |_| None);
    host.served(3, done).await;
    assert_eq!(host.request_sizes(), [3]);
}

#[tokio::test]
async fn answers_that_are_refused_or_lost_together_are_told_alone() {
    for refuses in [(|answers| (answers.len() > 1).then_some(413)) as Refuses, |answers| {
        (answers.len() > 1).then_some(503)
    }] {
        let host = Host::new(&["a", "b", "c"], refuses);
        host.served(3, done).await;
        assert_eq!(host.request_sizes(), [3, 1, 1, 1]);
        assert_eq!(host.taken(), ["a", "b", "c"].map(|token| (token.to_owned(), None)));
    }
}

#[tokio::test]
async fn a_long_answer_goes_alone() {
    let host = Host::new(&["a", "b", "c"], |_| None);
    let long = |name: &str| match name {
        "a" => Ending::Completed(Json::of(&"x".repeat(20 << 10)).unwrap()),
        "b" => {
            let details = Some(Json::of(&"x".repeat(20 << 10)).unwrap());
            Ending::Failed(Failure { details, ..Failure::fatal("long", "") })
        }
        _ => Ending::Completed(Json::null()),
    };
    host.served(3, long).await;
    assert_eq!(host.request_sizes(), [1, 1, 1]);
}

#[tokio::test]
async fn what_a_host_refuses_is_told_more_plainly_and_a_lease_that_is_gone_is_left() {
    let host = Host::new(&["gone", "later", "output", "sad"], |answers| match &answers[0] {
        AnswerTask { token, .. } if token == "gone" => Some(409),
        AnswerTask { output: Some(_), .. } => Some(413),
        AnswerTask { failure: Some(failure), .. } if failure.details.is_some() => Some(413),
        _ => None,
    });
    let run = |name: &str| match name {
        "sad" => Ending::Failed(Failure {
            details: Some(Json::null()),
            ..Failure::retryable("sad", "with details")
        }),
        "later" => Ending::Later,
        _ => Ending::Completed(Json::null()),
    };
    host.served(2, run).await;
    let expected = [("output", "bad-output"), ("sad", "sad")];
    assert_eq!(host.taken(), expected.map(|(token, code)| (token.to_owned(), Some(code.to_owned()))));
    let requests = host.0.requests.lock().unwrap();
    let gone = requests.iter().flatten().filter(|answer| answer.token == "gone");
    assert_eq!(gone.count(), 2, "with the others and alone");
}

#[tokio::test]
async fn an_attempt_that_has_ended_keeps_no_place_while_its_answer_is_on_its_way() {
    let mut host = Host::new(&["a"], |_| None);
    Arc::get_mut(&mut host.0).unwrap().polls_min = 2;
    let all_told = async {
        host.0.hand_out.notify_one();
        host.0.heard.notified().await;
    };
    let worker =
        Worker::new(host.clone()).concurrency(1).any_activity(async |context| done(&context.task.name));
    in_time(worker.run(all_told)).await.unwrap();
    assert_eq!(*host.0.requested.lock().unwrap(), [1, 1]);
}

#[tokio::test]
async fn a_task_that_comes_when_its_worker_is_stopped_goes_back() {
    let host = Host::new(&["a"], |_| None);
    let stop = async {
        host.0.polled.notified().await;
        host.0.hand_out.notify_one();
    };
    let worker = Worker::new(host.clone()).any_activity(|_| async { panic!("it is begun") });
    in_time(worker.run(stop)).await.unwrap();
    assert_eq!(*host.0.released.lock().unwrap(), ["a"]);
    assert!(host.request_sizes().is_empty());
}
