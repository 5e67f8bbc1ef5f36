//! Database checks of the inbox. See `inbox/check.rs` of the ledger crate.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use backstitch_core::inbox::{HEARD_WHEN_PARKED, SIGNALS, UNHEARD_WHEN_PAUSED_OR_DELAYED};
use backstitch_core::{HostId, Op, RunId, RunStatus, limits};
use backstitch_ledger::{InboxItem, Reader};
use uuid::Uuid;

use super::database::{Database, Mutant};
use super::rows::{Message, Run};

/// Runs whose messages nobody has read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// Runs that can hear them.
    pub open: Vec<RunId>,
    /// Runs that have closed since, of hosts that are dead.
    pub closed: Vec<(RunId, RunStatus)>,
    /// Where the walk goes on.
    pub next: Option<Walk>,
}

/// How far a host has come on its walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Whom the messages name; none: nobody.
    owner: Option<HostId>,
    /// Behind this run.
    after: RunId,
}

/// Runs that one step of the walk visits.
const RUNS_AT_ONCE: usize = 500;
/// Messages that one step has name another host.
const TAKEN_IN: usize = limits::CLAIM_ROWS_MAX as usize * 10;
/// The number under which a run's start has its timer.
const START: Op = Op(u32::MAX);

impl Database {
    /// The next runs of `host` that have messages.
    pub fn unread(&mut self, host: HostId, from: Option<Walk>) -> Unread {
        let from = from.unwrap_or(Walk { owner: Some(host), after: RunId(Uuid::nil()) });
        let tables = self.tables();
        let named = tables
            .inbox
            .iter()
            .filter(|((run, _), message)| message.owner == from.owner && *run > from.after);
        let runs: BTreeSet<RunId> = named.map(|((run, _), _)| *run).collect();
        let mut unread = Unread::default();
        for id in runs.iter().take(RUNS_AT_ONCE) {
            unread.next = Some(Walk { after: *id, ..from });
            let Some(run) = tables.runs.get(id) else { continue };
            let is_abandoned = !run.owner.is_some_and(|owner| tables.is_alive(owner));
            match run.status {
                status if status.is_open() && run.owner == Some(host) => unread.open.push(*id),
                status if !status.is_open() && (run.owner == Some(host) || is_abandoned) => {
                    unread.closed.push((*id, status));
                }
                _ => {}
            }
        }
        if runs.len() < RUNS_AT_ONCE {
            let stray = self.next_owner(host, from.owner);
            unread.next = stray.map(|owner| Walk { owner, after: RunId(Uuid::nil()) });
        }
        if from.owner != Some(host) && !self.is(Mutant::TakesNothingIn) {
            self.take_in(host, from.owner, &unread.open);
        }
        unread
    }

    /// Whose messages come next: nobody's behind the host's own, then those of each host that is not alive.
    fn next_owner(&self, host: HostId, named: Option<HostId>) -> Option<Option<HostId>> {
        if self.is(Mutant::PassesStraysBy) {
            return None;
        }
        let tables = self.tables();
        let owners: BTreeSet<Option<HostId>> = tables.inbox.values().map(|message| message.owner).collect();
        let is_first = named == Some(host);
        if is_first && owners.contains(&None) {
            return Some(None);
        }
        let behind = if is_first { None } else { named };
        let mut others = owners.range((Bound::Excluded(behind), Bound::Unbounded)).copied().flatten();
        others.find(|owner| *owner != host && !tables.is_alive(*owner)).map(Some)
    }

    /// Has messages of runs of `host` name it.
    fn take_in(&mut self, host: HostId, named: Option<HostId>, runs: &[RunId]) {
        let inbox = Arc::make_mut(&mut self.commit().inbox).iter_mut();
        let strays = inbox.filter(|((run, _), message)| message.owner == named && runs.contains(run));
        for (_, message) in strays.take(TAKEN_IN) {
            message.owner = Some(host);
        }
    }

    /// The next messages of these runs, as far as they are open and of `host`, and can hear them.
    pub fn inbox_of(
        &self,
        host: HostId,
        readers: &[Reader],
        unreadable: &[Uuid],
        limit: usize,
    ) -> Vec<InboxItem> {
        let each = limit.checked_div(readers.len()).unwrap_or(1).max(1);
        let in_hand: BTreeSet<Uuid> =
            readers.iter().flat_map(|reader| &reader.except).chain(unreadable).copied().collect();
        let is_new = |item: &Uuid| !in_hand.contains(item) || self.is(Mutant::DeliversWhatIsInHand);
        let mut heard = Vec::new();
        for reader in readers {
            let Some(run) = self.tables().runs.get(&reader.run).filter(|run| run.is_open_of(host)) else {
                continue;
            };
            if self.follows_unread(run, &is_new) && !self.is(Mutant::TellsASuccessorTooEarly) {
                continue;
            }
            let hears = |message: &Message| self.hears(reader, run, message.row.kind);
            let messages = self.tables().messages(reader.run);
            let next = messages.filter(|(item, message)| is_new(item) && hears(message)).take(each);
            heard.extend(next.map(|(item_id, message)| InboxItem {
                scope: self.scope(message.tenant),
                run: reader.run,
                item_id,
                message: message.row.clone(),
                at_ms: message.at_ms,
            }));
        }
        heard
    }

    fn hears(&self, reader: &Reader, run: &Run, kind: i16) -> bool {
        let is_held =
            run.status == RunStatus::Paused || self.tables().timers.contains_key(&(reader.run, START));
        (run.status != RunStatus::Parked
            || HEARD_WHEN_PARKED.contains(&kind)
            || self.is(Mutant::TellsAParkedRunAll))
            && (!is_held || !UNHEARD_WHEN_PAUSED_OR_DELAYED.contains(&kind))
            && (!reader.is_full || kind != SIGNALS)
    }

    /// Whether a run before this one has messages still.
    fn follows_unread(&self, run: &Run, is_new: &impl Fn(&Uuid) -> bool) -> bool {
        let first = run.generation.saturating_sub(limits::GENERATIONS_FOLLOWED_MAX);
        self.tables().runs.iter().any(|(id, before)| {
            before.tenant == run.tenant
                && before.workflow_id == run.workflow_id
                && (first..run.generation).contains(&before.generation)
                && self.tables().messages(*id).any(|(item, _)| is_new(&item))
        })
    }
}
