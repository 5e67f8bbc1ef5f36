//! Answers on their way to a host: those that are ready together go together.

use backstitch_client::ClientError;
use backstitch_client::tasks::{AnswerTask, SettledTask};
use tokio::sync::{mpsc, oneshot};

use crate::port::Port;

/// Answers of one request. No more wait for the next.
const AT_ONCE_MAX: usize = 100;
/// Bytes of an answer that goes with others: the host's bound on a body holds for all of them.
const SHORT_BYTES_MAX: usize = 10 << 10;

/// An answer, and who waits to hear what became of it.
type Waiting = (AnswerTask, oneshot::Sender<SettledTask>);

/// Where attempts leave what they gave. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Answers(mpsc::Sender<Waiting>);

impl Answers {
    /// Starts the task that sends them. It ends when all clones are gone.
    pub(crate) fn start(port: impl Port) -> Self {
        let (waiting, mut ready) = mpsc::channel(AT_ONCE_MAX);
        tokio::spawn(async move {
            let mut batch = Vec::new();
            while ready.recv_many(&mut batch, AT_ONCE_MAX).await > 0 {
                tokio::spawn(send(port.clone(), std::mem::take(&mut batch)));
                // What is being sent now is company for what comes in the meantime.
                tokio::task::yield_now().await;
            }
        });
        Self(waiting)
    }

    /// Sends an answer once. A request that is refused as a whole tells nothing of its answers: what is said
    /// again goes alone, and so does what is long.
    pub(crate) async fn send(
        &self,
        port: &impl Port,
        answer: AnswerTask,
        again: bool,
    ) -> Result<(), ClientError> {
        let told = if again || bytes(&answer) > SHORT_BYTES_MAX {
            port.settle(vec![answer]).await?.pop()
        } else {
            let (reply, told) = oneshot::channel();
            // Whoever sends them lives as long as this.
            let _ = self.0.send((answer, reply)).await;
            told.await.ok()
        };
        let unknown = || ClientError::Protocol("whether a host took the answer is not known".to_owned());
        ClientError::of_answer(told.ok_or_else(unknown)?)
    }
}

async fn send(port: impl Port, batch: Vec<Waiting>) {
    let (answers, replies): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
    match port.settle(answers).await {
        Ok(results) => replies.into_iter().zip(results).for_each(|(reply, result)| drop(reply.send(result))),
        Err(error) => tracing::warn!(%error, "answers were not taken; each is told again"),
    }
}

fn bytes(answer: &AnswerTask) -> usize {
    let details = answer.failure.as_ref().and_then(|failure| failure.details.as_ref());
    answer.output.iter().chain(details).map(|json| json.as_str().len()).sum()
}
