//! An operator has what stands beside the ledgers compared with them, some runs at a time: those that are open are told,
//! and their owners do it; what has closed is compared here, and belongs to nobody.

use std::time::Duration;

use backstitch_core::{Message, Projection, Run, RunId, Scope};
use backstitch_ledger::Repairable;
use backstitch_scheduler::projection_of;
use backstitch_wire::views::RepairsView;
use tokio::time::Instant;

use super::error::{ServiceError, internal};
use super::state::Service;

/// Runs that one request looks at.
const RUNS: u32 = 200;
/// How long one request compares closed runs. It finishes the one that it is at.
const COMPARES: Duration = Duration::from_secs(5);

impl Service {
    /// Repairs the next runs of the tenant behind `after`, by their ids; says where to go on. May be repeated.
    pub async fn repair_all(&self, scope: Scope, after: Option<RunId>) -> Result<RepairsView, ServiceError> {
        let found = self.ledger.runs_after(scope, after, RUNS).await?;
        let mut view = RepairsView::default();
        let (mut open, mut closed) = (Vec::new(), Vec::new());
        let until = Instant::now() + COMPARES;
        for run in &found {
            if run.status.is_open() {
                open.push(run.run);
            } else {
                self.compare_closed(scope, run, &mut view).await?;
                closed.push(run.run);
            }
            view.next = Some(run.run);
            if Instant::now() >= until {
                break;
            }
        }
        if !closed.is_empty() {
            view.leftovers = self.ledger.forget_leftovers(&closed).await?;
        }
        if !open.is_empty() {
            let (message, now_ms) = (Message::Repair.to_row(), self.clock.now_ms());
            let posted = self.ledger.post_to_open(scope, &open, &message, now_ms, || self.clock.new_id());
            view.runs = posted.await?;
        }
        let all_seen = view.next == found.last().map(|run| run.run);
        if all_seen && found.len() < RUNS as usize {
            view.next = None;
        }
        Ok(view)
    }

    /// Compares the entity and the attributes of a closed run with its ledger. A damaged ledger says nothing of them.
    async fn compare_closed(
        &self,
        scope: Scope,
        run: &Repairable,
        view: &mut RepairsView,
    ) -> Result<(), ServiceError> {
        let Repairable { run: id, head, .. } = *run;
        let _turn = self.turn_to_compute().await;
        let (rows, permit) = self.whole(id, 1).await?;
        let folded = tokio::task::spawn_blocking(move || {
            let loaded = Run::load_closed(id, &rows, head);
            let projection = loaded.map(|(_, events)| projection_of(id, &Projection::of(&events)));
            (projection, permit)
        });
        let (projection, _permit) = folded.await.map_err(|error| internal(&error))?;
        view.closed += 1;
        match projection {
            Ok(projection) if projection.is_empty() => {}
            Ok(projection) => view.amended += u64::from(self.ledger.amend_closed(scope, &projection).await?),
            Err(corrupt) => {
                tracing::error!(run = %id, %corrupt, "the ledger of a closed run is damaged; nothing is made anew from it");
                view.damaged += 1;
            }
        }
        Ok(())
    }
}
