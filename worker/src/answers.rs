//! Answers on their way to a host: those that are ready together go together.

use std::pin::Pin;

use backstitch_client::ClientError;
use backstitch_client::tasks::{AnswerTask, SettledTask};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::port::Port;

/// Answers of one request: few enough that the host's bound on a body holds for usual outputs.
const AT_ONCE_MAX: usize = 100;
/// Bytes of outputs in one request.
const BYTES_MAX: usize = 1 << 20;
/// Answers that wait for a request.
const WAITING_MAX: usize = 1_000;

/// Where attempts leave what they gave. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Answers {
    waiting: mpsc::Sender<Answer>,
}

struct Answer {
    answer: AnswerTask,
    reply: oneshot::Sender<Option<SettledTask>>,
}

impl Answers {
    /// Starts the task that sends them. It ends when all clones are gone.
    pub(crate) fn start(port: impl Port) -> (Self, JoinHandle<()>) {
        let (waiting, mut ready) = mpsc::channel::<Answer>(WAITING_MAX);
        let task = tokio::spawn(async move {
            let mut batch = Vec::new();
            while ready.recv_many(&mut batch, AT_ONCE_MAX).await > 0 {
                while !batch.is_empty() {
                    let mut bytes = 0;
                    let fits = batch.iter().take_while(|one| {
                        bytes += one.answer.output.as_ref().map_or(0, |output| output.as_str().len());
                        bytes <= BYTES_MAX
                    });
                    let count = fits.count().max(1);
                    tokio::spawn(send(port.clone(), batch.drain(..count).collect()));
                }
                // What is being sent now is company for what comes in the meantime.
                tokio::task::yield_now().await;
            }
        });
        (Self { waiting }, task)
    }

    /// Sends an answer once. None: it is not known whether a host took it.
    pub(crate) async fn send(&self, answer: AnswerTask) -> Option<SettledTask> {
        let (reply, answered) = oneshot::channel();
        self.waiting.send(Answer { answer, reply }).await.ok()?;
        answered.await.ok().flatten()
    }
}

/// A request that is refused as a whole tells nothing of its answers: each then goes alone.
async fn send(port: impl Port, batch: Vec<Answer>) {
    let answers = batch.iter().map(|one| one.answer.clone()).collect();
    match port.settle(answers).await {
        Ok(results) => {
            for (one, result) in batch.into_iter().zip(results) {
                let _ = one.reply.send(Some(result));
            }
        }
        Err(ClientError::Problem { status, code, detail }) if crate::is_final(status) => {
            let alone = batch.len() == 1;
            for one in batch {
                if alone {
                    let (code, detail) = (Some(code.clone()), Some(detail.clone()));
                    let _ = one.reply.send(Some(SettledTask { status, code, detail }));
                } else {
                    tokio::spawn(send_alone(port.clone(), one));
                }
            }
        }
        Err(error) => tracing::warn!(%error, "answers were not taken; each is told again"),
    }
}

fn send_alone(port: impl Port, one: Answer) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(send(port, vec![one]))
}
