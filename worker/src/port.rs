//! Where a worker's tasks come from, and where its answers go.

use backstitch_client::tasks::{AnswerTask, HeartbeatTask, HeartbeatView, PollTasks, SettledTask, TaskView};
use backstitch_client::{Client, ClientError};

/// What a host tells.
type Told<T> = Result<T, ClientError>;

/// A host, as a worker needs it: over HTTP, or in the same process. What each call promises is said at
/// [`Client`].
pub trait Port: Clone + Send + Sync + 'static {
    /// Waits for tasks.
    fn poll(&self, poll: PollTasks) -> impl Future<Output = Told<Vec<TaskView>>> + Send;

    /// Keeps a task.
    fn heartbeat(&self, heartbeat: HeartbeatTask) -> impl Future<Output = Told<HeartbeatView>> + Send;

    /// Says how tasks ended.
    fn settle(&self, answers: Vec<AnswerTask>) -> impl Future<Output = Told<Vec<SettledTask>>> + Send;

    /// A task will be answered later.
    fn defer(&self, token: String) -> impl Future<Output = Told<()>> + Send;

    /// Gives a task back.
    fn release(&self, token: String) -> impl Future<Output = Told<()>> + Send;
}

impl Port for Client {
    async fn poll(&self, poll: PollTasks) -> Told<Vec<TaskView>> {
        self.poll_tasks(&poll).await
    }

    async fn heartbeat(&self, heartbeat: HeartbeatTask) -> Told<HeartbeatView> {
        self.heartbeat_task(&heartbeat).await
    }

    async fn settle(&self, answers: Vec<AnswerTask>) -> Told<Vec<SettledTask>> {
        self.settle_tasks(answers).await
    }

    async fn defer(&self, token: String) -> Told<()> {
        self.defer_task(&token).await
    }

    async fn release(&self, token: String) -> Told<()> {
        self.release_task(&token).await
    }
}
