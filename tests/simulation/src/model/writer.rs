//! The writer of a host: batches, and what it does when a statement fails or its reply is lost. One statement a step, so that
//! others may write in between.
//!
//! | the statement ended with | the next step |
//! |---|---|
//! | a reply | goes on; if the fence was shut, everything is told so, and nothing more is sent |
//! | no reply | looks for a row of the batch, and sends the statement once more if there is none |
//! | an error of the data | sends a half of the batch, until the guilty item is alone and poisoned |
//! | rows that are missing | sends the items of the other runs again; those of these are poisoned |

use std::collections::{HashMap, VecDeque};

use backstitch_core::{RunId, limits};
use backstitch_ledger::{Acks, Append, Batch, Head, Item, Lease, Outcome, PoisonKind};

use super::database::{Database, Mutant};
use super::statement::Appended;

/// What becomes of a statement on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is carried out, and its sender is told.
    Heard,
    /// It is carried out, and its sender is not told.
    Lost,
    /// It never arrives, and its sender is not told that either.
    Never,
}

/// A host's writer.
#[derive(Debug)]
pub struct Writer {
    lease: Lease,
    /// Sent, not received yet.
    queue: VecDeque<Item>,
    /// Received. A batch is its beginning.
    pending: Vec<Item>,
    /// How many of them leave no gap.
    checked: usize,
    /// What is left of a batch that is taken apart.
    isolation: Option<Isolation>,
    /// The statement on its way.
    settling: Option<Settling>,
    gap_tracker: GapTracker,
    is_fenced: bool,
}

#[derive(Debug)]
struct Isolation {
    /// Items, and whether they failed together. The last is next.
    parts: Vec<(Vec<Item>, bool)>,
    later: Vec<Item>,
}

/// A statement whose fate is open.
#[derive(Clone, Copy, Debug)]
struct Settling {
    count: usize,
    /// It may have been committed.
    unknown: bool,
    /// It was sent before, and then found not to be there.
    repeated: bool,
}

enum Settled {
    Committed(Vec<RunId>),
    Fenced,
    Behind(Vec<RunId>),
    Guilty(PoisonKind),
}

impl Writer {
    /// The writer of the host that holds `lease`.
    pub fn new(lease: Lease) -> Self {
        Self {
            lease,
            queue: VecDeque::new(),
            pending: Vec::new(),
            checked: 0,
            isolation: None,
            settling: None,
            gap_tracker: GapTracker::default(),
            is_fenced: false,
        }
    }

    /// Takes an append on.
    pub fn send(&mut self, item: Item) {
        self.queue.push_back(item);
    }

    /// Whether everything that was sent has been told.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.pending.is_empty() && self.isolation.is_none()
    }

    /// Whether the lease was gone: nothing is written any more.
    pub fn is_fenced(&self) -> bool {
        self.is_fenced
    }

    /// Sends the next statement, if there is something to send, or finds out what became of the last.
    pub fn step(&mut self, database: &mut Database, now_ms: u64, reply: Reply) -> Vec<Acks> {
        let mut told = Vec::new();
        let ready = self.settling.take().or_else(|| self.cut(database, &mut told));
        let Some(mut settling) = ready else { return told };
        match self.attempt(database, now_ms, reply, &mut settling) {
            None => self.settling = Some(settling),
            Some(settled) => self.settled(database, settling.count, settled, &mut told),
        }
        told
    }

    /// The next batch.
    fn cut(&mut self, database: &Database, told: &mut Vec<Acks>) -> Option<Settling> {
        if self.is_fenced {
            self.tell_fenced(told);
            return None;
        }
        while !self.is_idle() {
            if let Some(isolation) = &mut self.isolation {
                let Some((mut items, failed)) = isolation.parts.pop() else {
                    self.pending.append(&mut isolation.later);
                    (self.isolation, self.checked) = (None, 0);
                    continue;
                };
                if failed && items.len() > 1 {
                    let half = items.split_off(items.len() / 2);
                    isolation.parts.push((half, false));
                }
                (self.pending, self.checked) = (items, 0);
                self.drop_gapped(database, told);
            } else {
                let room = limits::BATCH_APPENDS_MAX.saturating_sub(self.pending.len()).min(self.queue.len());
                self.pending.extend(self.queue.drain(..room));
                self.drop_gapped(database, told);
            }
            let count = if self.isolation.is_some() { self.pending.len() } else { self.fitting() };
            if count > 0 {
                return Some(Settling { count, unknown: false, repeated: false });
            }
        }
        None
    }

    fn fitting(&self) -> usize {
        let mut batch = Batch::default();
        let items = self.pending.iter().take(limits::BATCH_APPENDS_MAX);
        items.take_while(|item| batch.fits(&item.append, limits::BATCH_BYTES_MAX)).count()
    }

    /// Poisons pending items that would leave a gap.
    fn drop_gapped(&mut self, database: &Database, told: &mut Vec<Acks>) {
        let (from, tracker) = (std::mem::take(&mut self.checked), &mut self.gap_tracker);
        let is_blind = database.is(Mutant::AppendsBehindALostAppend);
        let leaves_gap =
            |item: &mut Item| (tracker.continues(&item.append) && !is_blind) || !item.append.is_linked();
        let gaps: Vec<u64> = self.pending.extract_if(from.., leaves_gap).map(|item| item.ticket).collect();
        self.checked = self.pending.len();
        if !gaps.is_empty() {
            told.push(Acks { tickets: gaps, outcome: poisoned(PoisonKind::Gap) });
        }
    }

    /// One try; none: the fate of the statement is open.
    fn attempt(
        &self,
        database: &mut Database,
        now_ms: u64,
        reply: Reply,
        settling: &mut Settling,
    ) -> Option<Settled> {
        let items = &self.pending[..settling.count];
        if settling.unknown {
            if let Some(settled) = probe_commit(database, items) {
                return Some(settled);
            }
            (settling.unknown, settling.repeated) = (false, true);
        }
        if reply == Reply::Never {
            settling.unknown = true;
            return None;
        }
        let appended = database.execute(self.lease, items, now_ms);
        if reply == Reply::Lost {
            settling.unknown = true;
            return None;
        }
        Some(match appended {
            Appended::Fenced => Settled::Fenced,
            Appended::Behind(runs) => Settled::Behind(runs),
            Appended::Guilty(kind) => classify_data_error(database, items, kind),
            Appended::Done(mut refused) => {
                if settling.repeated && !database.is(Mutant::RefusesItsOwnStartAfterALostReply) {
                    let ours = database.starts_of_ours(items);
                    refused.retain(|run| !ours.contains(run));
                }
                Settled::Committed(refused)
            }
        })
    }

    fn settled(&mut self, database: &Database, count: usize, settled: Settled, told: &mut Vec<Acks>) {
        match settled {
            Settled::Committed(refused) => {
                let items: Vec<Item> = self.pending.drain(..count).collect();
                self.checked = self.checked.saturating_sub(count);
                if !refused.is_empty() {
                    self.gap_tracker.refused(&items, &refused);
                    self.checked = 0;
                }
                let tickets = items.iter().map(|item| item.ticket).collect();
                told.push(Acks { tickets, outcome: Outcome::Committed { refused } });
            }
            Settled::Fenced => {
                self.is_fenced = true;
                self.tell_fenced(told);
            }
            Settled::Behind(mut runs) => {
                if database.is(Mutant::LeavesTheWholeBatchBehind) {
                    runs.extend(self.pending[..count].iter().map(|item| item.append.run));
                }
                self.leave_behind(count, &runs, told);
                if let Some(isolation) = &mut self.isolation {
                    isolation.parts.push((std::mem::take(&mut self.pending), false));
                }
            }
            Settled::Guilty(kind) if count == 1 => self.poison(0, kind, told),
            Settled::Guilty(kind) if database.is(Mutant::PoisonsAWholeBatch) => {
                (0..count).for_each(|_| self.poison(0, kind, told));
            }
            Settled::Guilty(_) => {
                let later = self.pending.split_off(count);
                let failed = (std::mem::take(&mut self.pending), true);
                match &mut self.isolation {
                    Some(isolation) => isolation.parts.push(failed),
                    None => self.isolation = Some(Isolation { parts: vec![failed], later }),
                }
            }
        }
    }

    fn leave_behind(&mut self, count: usize, runs: &[RunId], told: &mut Vec<Acks>) {
        let mut index = 0;
        for _ in 0..count {
            if runs.contains(&self.pending[index].append.run) {
                self.poison(index, PoisonKind::Behind, told);
            } else {
                index += 1;
            }
        }
    }

    fn poison(&mut self, index: usize, kind: PoisonKind, told: &mut Vec<Acks>) {
        let item = self.pending.remove(index);
        self.gap_tracker.poisoned(&item.append);
        self.checked = 0;
        told.push(Acks { tickets: vec![item.ticket], outcome: poisoned(kind) });
    }

    fn tell_fenced(&mut self, told: &mut Vec<Acks>) {
        let mut items = std::mem::take(&mut self.pending);
        if let Some(isolation) = self.isolation.take() {
            items.extend(isolation.parts.into_iter().rev().flat_map(|(items, _)| items));
            items.extend(isolation.later);
        }
        items.extend(self.queue.drain(..));
        if !items.is_empty() {
            let tickets = items.iter().map(|item| item.ticket).collect();
            told.push(Acks { tickets, outcome: Outcome::Fenced });
        }
    }
}

fn poisoned(kind: PoisonKind) -> Outcome {
    Outcome::Poisoned { kind, message: String::new() }
}

/// Whether a statement of unknown fate was committed; none: it was not, or nothing tells, and it may be repeated.
fn probe_commit(database: &Database, items: &[Item]) -> Option<Settled> {
    let grows = |append: &&Append| !append.rows.is_empty() && !append.starts(append.run);
    let append = items.iter().map(|item| &item.append).find(grows)?;
    if database.rows_there(append) == 0 || database.is(Mutant::RepeatsACommittedStatement) {
        return None;
    }
    Some(Settled::Committed(not_ours(database, items)))
}

/// What an error of the data means: an item whose rows are all there was sent twice.
fn classify_data_error(database: &Database, items: &[Item], kind: PoisonKind) -> Settled {
    if let ([Item { append, .. }], PoisonKind::SeqTaken) = (items, kind)
        && !append.rows.is_empty()
        && !database.is(Mutant::PoisonsWhatWasSentTwice)
        && database.rows_there(append) == append.rows.len()
    {
        return Settled::Committed(not_ours(database, items));
    }
    Settled::Guilty(kind)
}

fn not_ours(database: &Database, items: &[Item]) -> Vec<RunId> {
    let ours = database.starts_of_ours(items);
    let new_runs = items.iter().flat_map(|item| &item.append.new_runs).map(|new| new.run);
    new_runs.filter(|run| !ours.contains(run)).collect()
}

/// Runs that have lost an append: what was sent behind it is not written either.
#[derive(Debug, Default)]
struct GapTracker(HashMap<RunId, Lost>);

#[derive(Clone, Copy, Debug)]
enum Lost {
    /// The start.
    All,
    /// The rows up to this one.
    UpTo(Head),
}

impl GapTracker {
    fn poisoned(&mut self, append: &Append) {
        if append.starts(append.run) {
            self.0.insert(append.run, Lost::All);
        } else if let Some(last) = append.rows.last() {
            self.0.insert(append.run, Lost::UpTo(Head::at(last)));
        }
    }

    fn refused(&mut self, items: &[Item], refused: &[RunId]) {
        let runs =
            items.iter().filter(|item| item.append.starts(item.append.run)).map(|item| item.append.run);
        self.0.extend(runs.filter(|run| refused.contains(run)).map(|run| (run, Lost::All)));
    }

    fn continues(&mut self, append: &Append) -> bool {
        match (self.0.get_mut(&append.run), append.after) {
            (None, _) => false,
            (Some(Lost::All), _) => true,
            (Some(Lost::UpTo(_)), None) => false,
            (Some(Lost::UpTo(end)), Some(after)) if after == *end => {
                *end = append.head().unwrap_or(after);
                true
            }
            (Some(Lost::UpTo(_)), Some(_)) => {
                self.0.remove(&append.run);
                false
            }
        }
    }
}
