//! Patience with the database: how often to ask again, and when to say so.

use std::time::Duration;

use backstitch_ledger::LedgerError;

/// Waits that grow from 50 ms to 2 s: soon enough after a restart, rare enough during an outage.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: Duration::from_millis(50) }
    }
}

impl Backoff {
    /// Waits, longer each time.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(Duration::from_secs(2));
    }
}

/// Asks the database until it answers: reading loses nothing by being repeated. Logged when it
/// starts to fail and when it works again.
pub async fn until_answered<T, Asking>(what: &str, ask: impl Fn() -> Asking) -> T
where
    Asking: Future<Output = Result<T, LedgerError>>,
{
    let mut backoff = Backoff::default();
    let mut failing = false;
    loop {
        match ask().await {
            Ok(answer) => {
                if failing {
                    tracing::info!(what, "the database answers again");
                }
                return answer;
            }
            Err(error) => {
                if !failing && !error.is_transient() {
                    tracing::error!(what, %error, "the database's answer cannot be used; asking until it can");
                } else if !failing {
                    tracing::warn!(what, %error, "the database does not answer; asking until it does");
                }
                failing = true;
                backoff.wait().await;
            }
        }
    }
}
