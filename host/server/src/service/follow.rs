//! A run's ledger as it grows, for a client that stays: rows as they come, and the run when it has closed.

use std::collections::VecDeque;
use std::time::Duration;

use backstitch_core::{RunId, RunStatus, Scope, Seq, limits};
use backstitch_engine::closings::Closing;
use backstitch_ledger::RunRef;
use backstitch_wire::views::{RowView, RunView};

use super::error::ServiceError;
use super::state::{RESULT_POLL, Service};
use super::views::{row_view, run_view};

/// How soon a ledger that has just grown is looked at again; from there on the waits double, up to
/// [`RESULT_POLL`].
const POLL_MIN: Duration = Duration::from_millis(50);

/// Rows of one check: what a client that stays has in this host's memory.
const POLL_ROWS: u32 = limits::PAGE_ROWS_MAX / 10;
/// Bytes of one check.
const POLL_BYTES: usize = limits::PAGE_BYTES_MAX / 8;

/// What comes next.
pub enum Step {
    /// A row.
    Row(Box<RowView>),
    /// There are no more rows: the run has closed.
    Closed(Box<RunView>),
}

/// A way along a run's ledger.
pub struct Follow {
    service: Service,
    scope: Scope,
    run: RunId,
    from: Seq,
    closing: Closing,
    looked_up: VecDeque<RowView>,
    wait: Duration,
}

impl Service {
    /// Begins at the row `from` of a run. A run that goes on as a new one is followed to its own end.
    pub async fn follow(&self, scope: Scope, id: &str, from: Seq) -> Result<Follow, ServiceError> {
        let run = self.find_id(scope, id).await?;
        // Before the first look: a run that closes after it is not missed.
        let closing = self.closings.of(run);
        let looked_up = VecDeque::new();
        Ok(Follow { service: self.clone(), scope, run, from, closing, looked_up, wait: POLL_MIN })
    }
}

impl Follow {
    /// Waits for what comes next. Dropped half-way, it has lost nothing.
    pub async fn next(&mut self) -> Result<Step, ServiceError> {
        loop {
            if let Some(row) = self.looked_up.pop_front() {
                return Ok(Step::Row(Box::new(row)));
            }
            // First the status, then the rows: a run that is seen closed has all its rows.
            let ledger = &self.service.ledger;
            let status = ledger.run_status(self.scope, self.run).await?;
            let rows = ledger.shown_rows(self.run, self.from, POLL_ROWS, POLL_BYTES).await?.rows;
            if let Some((last, _)) = rows.last() {
                self.from = Seq(last.seq.0 + 1);
                self.looked_up.extend(rows.iter().map(row_view));
                self.wait = POLL_MIN;
                continue;
            }
            if !status.is_some_and(RunStatus::is_open) {
                let run = self.service.info(self.scope, RunRef::Id(self.run)).await?;
                return Ok(Step::Closed(Box::new(run_view(&run)?)));
            }
            let _ = tokio::time::timeout(self.wait, self.closing.heard()).await;
            self.wait = (self.wait * 2).min(RESULT_POLL);
        }
    }
}
