//! A run as one document: [`History`].

use backstitch_core::{Row, Run, Scope, date};
use backstitch_engine::room::Permit;
use backstitch_ledger::{RunInfo, RunRef};
use backstitch_wire::history::{ChainText, Data, FORMAT, Head, History, Part, State};

use super::error::{ServiceError, internal};
use super::state::Service;

impl Service {
    /// The text of a run's history with these parts. A damaged ledger is exported as it is: whoever
    /// looks into the damage needs it.
    pub async fn history(&self, scope: Scope, id: &str, parts: &[Part]) -> Result<Vec<u8>, ServiceError> {
        self.history_with_permit(scope, id, parts).await.map(|(text, _)| text)
    }

    /// The same, and the room that it takes for as long as it is in memory.
    pub(crate) async fn history_with_permit(
        &self,
        scope: Scope,
        id: &str,
        parts: &[Part],
    ) -> Result<(Vec<u8>, Permit), ServiceError> {
        let mut info = self.find(scope, id).await?;
        let turn = self.turn_to_compute().await;
        let run = info.summary.run;
        // The rows and the text that is made of them.
        let (mut rows, mut permit) = self.whole(run, 2).await?;
        let now = self.info(scope, RunRef::Id(run)).await?;
        if now.head != info.head {
            // It closed meanwhile: its end belongs to it, and nothing follows that.
            drop((rows, permit));
            (rows, permit) = self.whole(run, 2).await?;
            info = now;
        }
        let state = if parts.contains(&Part::State) { Some(self.state(scope, &info, &rows)?) } else { None };
        let parts = parts.to_vec();
        // Its text may be hundreds of megabytes: not for the threads that serve everybody.
        let text =
            tokio::task::spawn_blocking(move || (history(info, rows, state, &parts).text(), permit, turn));
        let (text, permit, _turn) = text.await.map_err(|error| internal(&error))?;
        Ok((text, permit))
    }

    fn state(&self, scope: Scope, info: &RunInfo, rows: &[Row]) -> Result<State, ServiceError> {
        let folded = Run::load_closed(info.summary.run, rows, info.head);
        let fault = info.fault.as_deref().map(serde_json::from_str).transpose();
        Ok(State {
            generation: info.summary.generation,
            parent_run_id: info.summary.parent.map(|(parent, _)| parent),
            attributes: info.summary.attributes.clone().unwrap_or_else(|| "{}".to_owned()),
            entity: info.entity.clone(),
            waits_for: folded.iter().flat_map(|(run, _)| self.waits(scope, run)).collect(),
            signals_kept: folded.as_ref().map_or(0, |(run, _)| run.signals_kept()),
            fault: fault.map_err(|error| internal(&error))?,
            damage: folded.err().map(|corrupt| corrupt.to_string()),
        })
    }
}

fn history(info: RunInfo, rows: Vec<Row>, state: Option<State>, parts: &[Part]) -> History {
    let RunInfo { summary, input, output, error, head, .. } = info;
    let wanted = |part| parts.contains(&part);
    History {
        format: FORMAT.to_owned(),
        run_id: summary.run,
        workflow_id: summary.workflow_id,
        workflow: summary.workflow,
        digest: Some(summary.digest),
        started_at: date::rfc3339(summary.started_ms),
        closed_at: summary.closed_ms.map(date::rfc3339),
        head: head.map(|(rows, chain)| Head { rows, chain: ChainText(chain) }),
        status: wanted(Part::Status).then_some(summary.status),
        data: wanted(Part::Data).then_some(Data { input, output, failure: error }),
        state,
        timeline: wanted(Part::Timeline).then(|| rows.into_iter().map(Into::into).collect()),
    }
}
