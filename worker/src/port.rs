//! Where a worker's tasks come from, and where its answers go.

use backstitch_client::tasks::{AnswerTask, HeartbeatTask, HeartbeatView, PollTasks, SettledTask, TaskView};
use backstitch_client::{Client, ClientError};

/// A host, as a worker needs it: over HTTP, or in the same process. What each call promises is said at
/// [`Client`].
pub trait Port: Clone + Send + Sync + 'static {
    /// Waits for tasks.
    fn poll(&self, poll: PollTasks) -> impl Future<Output = Result<Vec<TaskView>, ClientError>> + Send;

    /// Keeps a task.
    fn heartbeat(
        &self,
        beat: HeartbeatTask,
    ) -> impl Future<Output = Result<HeartbeatView, ClientError>> + Send;

    /// Says how tasks ended.
    fn settle(
        &self,
        answers: Vec<AnswerTask>,
    ) -> impl Future<Output = Result<Vec<SettledTask>, ClientError>> + Send;

    /// A task will be answered later.
    fn defer(&self, token: String) -> impl Future<Output = Result<(), ClientError>> + Send;

    /// Gives a task back.
    fn release(&self, token: String) -> impl Future<Output = Result<(), ClientError>> + Send;
}

impl Port for Client {
    async fn poll(&self, poll: PollTasks) -> Result<Vec<TaskView>, ClientError> {
        self.poll_tasks(&poll).await
    }

    async fn heartbeat(&self, beat: HeartbeatTask) -> Result<HeartbeatView, ClientError> {
        self.heartbeat_task(&beat).await
    }

    async fn settle(&self, answers: Vec<AnswerTask>) -> Result<Vec<SettledTask>, ClientError> {
        self.settle_tasks(answers).await
    }

    async fn defer(&self, token: String) -> Result<(), ClientError> {
        self.defer_task(&token).await
    }

    async fn release(&self, token: String) -> Result<(), ClientError> {
        self.release_task(&token).await
    }
}
