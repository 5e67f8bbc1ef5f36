//! What workers ask a host.

use std::time::Duration;

use backstitch_core::{Json, Op};
use backstitch_wire::tasks::{
    ActivityListView, AnswerTask, HeartbeatTask, HeartbeatView, ListActivities, PollTasks, SettleTasks,
    SettledTask, SettledView, TaskFailure, TaskView, TasksView, TokenBody,
};

use crate::client::{Client, ClientError};

/// What a poll may take beyond its own wait.
const POLL_SLACK: Duration = Duration::from_secs(30);

/// A task that is the caller's no more is refused with `stale-token`, one that nobody waits for any more
/// with `task-given-up`: there is nothing left to do about either.
impl Client {
    /// Waits for tasks. What it gives is this worker's until the lease is over: an error leaves open
    /// whether there was something, which then comes back by itself.
    pub async fn poll_tasks(&self, poll: &PollTasks) -> Result<Vec<TaskView>, ClientError> {
        let request = self.post(&["activities:poll"]).json(poll);
        let request = request.timeout(Duration::from_millis(poll.wait_ms) + POLL_SLACK);
        self.give(request).await.map(|view: TasksView| view.tasks)
    }

    /// Keeps a task. May be repeated.
    pub async fn heartbeat_task(&self, heartbeat: &HeartbeatTask) -> Result<HeartbeatView, ClientError> {
        self.give(self.post(&["activities:heartbeat"]).json(heartbeat)).await
    }

    /// Says how a task ended. May be repeated: the same answer counts once.
    pub async fn answer_task(&self, answer: &AnswerTask) -> Result<(), ClientError> {
        let verb = if answer.failure.is_some() { "activities:fail" } else { "activities:complete" };
        self.send(self.post(&[verb]).json(answer)).await.map(drop)
    }

    /// Says how many tasks ended, in one request. May be repeated.
    pub async fn settle_tasks(&self, answers: Vec<AnswerTask>) -> Result<Vec<SettledTask>, ClientError> {
        let request = self.post(&["activities:settle"]).json(&SettleTasks { answers });
        self.give(request).await.map(|view: SettledView| view.results)
    }

    /// The task will be answered later, by whoever has its token: from now on only the bounds of the call
    /// hold. May be repeated.
    pub async fn defer_task(&self, token: &str) -> Result<(), ClientError> {
        self.send(self.post(&["activities:defer"]).json(&TokenBody { token: token.to_owned() }))
            .await
            .map(drop)
    }

    /// Gives a task back: it goes to the next worker, and does not count as an attempt.
    pub async fn release_task(&self, token: &str) -> Result<(), ClientError> {
        let body = TokenBody { token: token.to_owned() };
        self.send(self.post(&["activities:release"]).json(&body)).await.map(drop)
    }

    /// A page of the calls that workers outside may take, or have.
    pub async fn activities(&self, list: &ListActivities) -> Result<ActivityListView, ClientError> {
        self.give(self.get(&["activities"]).query(list)).await
    }

    /// Gives a call this outcome, whoever is at it. Refused with `unknown-activity` if the run does not wait
    /// for it.
    pub async fn complete_activity(&self, run: &str, op: Op, output: &Json) -> Result<(), ClientError> {
        let request = self.post(&["runs", run, "activities", &op.to_string(), "complete"]);
        self.send(crate::client::json(request, output)).await.map(drop)
    }

    /// Fails the attempt of a call that is next or under way, whoever is at it. Refused as
    /// [`complete_activity`](Self::complete_activity) is.
    pub async fn fail_activity(&self, run: &str, op: Op, failure: &TaskFailure) -> Result<(), ClientError> {
        let request = self.post(&["runs", run, "activities", &op.to_string(), "fail"]);
        self.send(request.json(failure)).await.map(drop)
    }

    /// Makes the next attempt of a call now that waits for its time. Refused as
    /// [`complete_activity`](Self::complete_activity) is.
    pub async fn retry_activity(&self, run: &str, op: Op) -> Result<(), ClientError> {
        self.send(self.post(&["runs", run, "activities", &op.to_string(), "retry"])).await.map(drop)
    }
}
