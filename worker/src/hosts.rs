//! Several hosts of one database, as one port: whoever answers is kept to, and the next is asked when it does not.
//!
//! Any host takes what is said of a task, whichever has handed it out, and every verb may be repeated: so a question
//! that one host does not answer is put to the next at once. A host that refuses for good speaks for all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use backstitch_client::tasks::{AnswerTask, HeartbeatTask, HeartbeatView, PollTasks, SettledTask, TaskView};
use backstitch_client::{Client, ClientError};

use crate::port::Port;

/// See the module. Cheap to clone: all clones keep to the same host.
#[derive(Clone, Debug)]
pub struct Hosts {
    clients: Arc<[Client]>,
    current: Arc<AtomicUsize>,
}

/// A question to one of them. Dropped without an answer, others are put to the next.
struct Asking<'a> {
    hosts: &'a Hosts,
    index: usize,
    is_answered: bool,
}

impl Hosts {
    /// These, the first of them first.
    ///
    /// # Errors
    ///
    /// [`ClientError::Protocol`] if there is none.
    pub fn new(clients: impl IntoIterator<Item = Client>) -> Result<Self, ClientError> {
        let clients: Arc<[Client]> = clients.into_iter().collect();
        if clients.is_empty() {
            return Err(ClientError::Protocol("a worker needs the address of a host".to_owned()));
        }
        Ok(Self { clients, current: Arc::default() })
    }

    fn asking(&self) -> Asking<'_> {
        let index = self.current.load(Ordering::Relaxed) % self.clients.len();
        Asking { hosts: self, index, is_answered: false }
    }

    /// Asks each once at most, from the one that answered last on.
    async fn ask<T, F>(&self, ask: impl Fn(Client) -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let mut tries = self.clients.len();
        loop {
            let mut asking = self.asking();
            let answer = ask(self.clients[asking.index].clone()).await;
            tries -= 1;
            match answer {
                Err(error) if !error.is_final() => {
                    drop(asking);
                    if tries == 0 {
                        return Err(error);
                    }
                    tracing::warn!(%error, "a host does not do its part; asking the next");
                }
                answer => {
                    asking.is_answered = true;
                    return answer;
                }
            }
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !self.is_answered {
            let next = (self.index + 1) % self.hosts.clients.len();
            // Unless somebody else has gone on already.
            let _ =
                self.hosts.current.compare_exchange(self.index, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

impl Port for Hosts {
    async fn poll(&self, poll: PollTasks) -> Result<Vec<TaskView>, ClientError> {
        self.ask(|client| {
            let poll = poll.clone();
            async move { Port::poll(&client, poll).await }
        })
        .await
    }

    async fn heartbeat(&self, heartbeat: HeartbeatTask) -> Result<HeartbeatView, ClientError> {
        self.ask(|client| {
            let heartbeat = heartbeat.clone();
            async move { Port::heartbeat(&client, heartbeat).await }
        })
        .await
    }

    async fn settle(&self, answers: Vec<AnswerTask>) -> Result<Vec<SettledTask>, ClientError> {
        self.ask(|client| {
            let answers = answers.clone();
            async move { Port::settle(&client, answers).await }
        })
        .await
    }

    async fn defer(&self, token: String) -> Result<(), ClientError> {
        self.ask(|client| {
            let token = token.clone();
            async move { Port::defer(&client, token).await }
        })
        .await
    }

    async fn release(&self, token: String) -> Result<(), ClientError> {
        self.ask(|client| {
            let token = token.clone();
            async move { Port::release(&client, token).await }
        })
        .await
    }
}
