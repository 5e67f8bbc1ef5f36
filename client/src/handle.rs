//! One run of a client's host. Adds nothing to what [`Client`] can do, but the id, and the patience to
//! wait for a result longer than one request may.

use std::fmt;
use std::time::{Duration, Instant};

use backstitch_core::{Json, RunStatus};

use crate::client::{Client, ClientError};
use backstitch_wire::SendUpdate;
use backstitch_wire::history::Part;
use backstitch_wire::views::{QueryView, RunDetailView, RunView, UpdateView};

/// A run, by run id or workflow id. Cheap to clone. Making one asks nobody: whether there is such a run
/// is seen at the first call.
///
/// A run id means that very run. A workflow id means the latest run of that name, at each call anew.
///
/// # Errors
///
/// Every call gives a [`ClientError`]; with the code `unknown-run` if there is no such run, and
/// `run-closed` if a message is for one that has closed.
#[derive(Clone, Debug)]
pub struct RunHandle {
    client: Client,
    id: String,
}

impl Client {
    /// The run of this run id or workflow id. Asks nobody.
    pub fn handle(&self, id: impl fmt::Display) -> RunHandle {
        RunHandle { client: self.clone(), id: id.to_string() }
    }
}

impl RunHandle {
    /// The run id or workflow id that it was made with.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The run as soon as it has closed or is parked, or as it is when `timeout` is over: look at its
    /// status. Of one that continues as new, the run that it goes on as.
    pub async fn result(&self, timeout: Duration) -> Result<RunView, ClientError> {
        let deadline = Instant::now().checked_add(timeout);
        let mut id = self.id.clone();
        let mut before = None;
        loop {
            let left = deadline.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()));
            let run = self.client.result(&id, left).await?;
            match run.status {
                RunStatus::Running | RunStatus::Paused if !left.is_zero() => {}
                // Its successor has its workflow id. Seen twice, it has none.
                RunStatus::Continued if before != Some(run.run_id) => {
                    before = Some(run.run_id);
                    id = run.workflow_id;
                }
                _ => return Ok(run),
            }
        }
    }

    /// Where the run stands now.
    pub async fn status(&self) -> Result<RunStatus, ClientError> {
        self.client.result(&self.id, Duration::ZERO).await.map(|run| run.status)
    }

    /// The run with its input and what it waits for. The host goes over its whole ledger for that.
    pub async fn state(&self) -> Result<RunDetailView, ClientError> {
        self.client.run(&self.id).await
    }

    /// Sends a signal. It is kept until the run takes it; sent twice, it counts twice.
    pub async fn signal(&self, name: &str, payload: &Json) -> Result<(), ClientError> {
        self.client.signal(&self.id, name, payload).await
    }

    /// Asks the run about its state, closed or not. Leaves no trace in its ledger. The host refuses with
    /// the code `unknown-query` if the workflow answers none of that name.
    pub async fn query(&self, name: &str, input: &Json) -> Result<QueryView, ClientError> {
        self.client.query(&self.id, name, input).await
    }

    /// Sends an update, and waits for its answer for at most a minute. The host refuses with the code
    /// `update-refused` if the workflow does.
    pub async fn update(&self, update: SendUpdate) -> Result<UpdateView, ClientError> {
        self.client.update(&self.id, update).await
    }

    /// Asks the run to cancel; it may clean up first. The reason is kept in its ledger.
    pub async fn cancel(&self, reason: &str) -> Result<(), ClientError> {
        self.client.cancel(&self.id, reason).await
    }

    /// Stops the run without asking it. The reason is kept in its ledger.
    pub async fn terminate(&self, reason: &str) -> Result<(), ClientError> {
        self.client.terminate(&self.id, reason).await
    }

    /// The run as one document with these parts, as text: [`History`](crate::history::History) reads it.
    pub async fn export(&self, parts: &[Part]) -> Result<Vec<u8>, ClientError> {
        self.client.history(&self.id, parts).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

    fn run(number: u8, status: &str) -> String {
        format!(
            r#"{{"run_id":"00000000-0000-0000-0000-00000000000{number}","workflow_id":"w","generation":0,
                "workflow":"w","digest":"{ZEROS}","status":"{status}","started_at":"x"}}"#
        )
    }

    /// A host that gives these answers, one after the other. What it was asked for comes from the task.
    async fn script(answers: Vec<String>) -> (Client, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let asked = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let mut request = BufReader::new(listener.accept().await.unwrap().0);
                let mut lines = Vec::new();
                while lines.last().is_none_or(|line: &String| line != "\r\n") {
                    let mut line = String::new();
                    request.read_line(&mut line).await.unwrap();
                    lines.push(line);
                }
                let path = lines[0].split(['?', ' ']).nth(1).unwrap();
                asked.push(path.trim_start_matches("/v1/runs/").to_owned());
                let length = answer.len();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{answer}"
                );
                request.write_all(answer.as_bytes()).await.unwrap();
            }
            asked
        });
        (client, asked)
    }

    /// What the scripted host was asked for, once all of its answers are given.
    async fn paths(asked: tokio::task::JoinHandle<Vec<String>>) -> Vec<String> {
        let asked = tokio::time::timeout(Duration::from_secs(20), asked).await;
        asked.expect("every answer is asked for").unwrap()
    }

    #[tokio::test]
    async fn the_result_of_a_run_that_continues_is_that_of_its_last_successor() {
        let answers = [run(1, "running"), run(1, "continued"), run(2, "continued"), run(3, "completed")];
        let (client, asked) = script(answers.to_vec()).await;
        let result = client.handle("first").result(Duration::from_secs(60)).await.unwrap();
        assert_eq!(result.status, RunStatus::Completed);
        assert_eq!(paths(asked).await, ["first/result", "first/result", "w/result", "w/result"]);
    }

    #[tokio::test]
    async fn a_run_that_could_not_continue_is_its_own_result() {
        let (client, asked) = script(vec![run(1, "continued"), run(1, "continued")]).await;
        let result = client.handle("w").result(Duration::MAX).await.unwrap();
        assert_eq!(result.status, RunStatus::Continued);
        assert_eq!(paths(asked).await.len(), 2);
    }

    #[tokio::test]
    async fn a_result_is_not_waited_for_longer_than_was_said() {
        let (client, asked) = script(vec![run(1, "running")]).await;
        let result = client.handle("w").result(Duration::ZERO).await.unwrap();
        assert_eq!(result.status, RunStatus::Running);
        assert_eq!(paths(asked).await, ["w/result"]);
    }
}
