//! What a statement asks before it writes: whether the lease lives, and whether the rows that it goes on from are there.

use std::collections::HashSet;

use backstitch_core::{HostId, Row, RunId};
use backstitch_ledger::{Append, Head, Item, Lease};

use super::database::{Database, Mutant, Tables};

impl Database {
    /// Whether the lease lives in its epoch.
    pub(super) fn is_held(&self, lease: Lease) -> bool {
        self.tables().leases.get(&lease.host).is_some_and(|found| {
            (found.epoch == lease.epoch || self.is(Mutant::AppendsUnderAnEarlierEpoch))
                && (!found.dead || self.is(Mutant::AppendsPastADeadLease))
        })
    }

    /// Runs of the batch whose ledgers do not hold the row that their first append follows, or that are not of this host.
    pub(super) fn behind(&self, host: HostId, items: &[Item]) -> Vec<RunId> {
        if self.is(Mutant::AppendsBehindARowThatIsMissing) {
            return Vec::new();
        }
        let mut seen: HashSet<RunId> = HashSet::new();
        let mut behind = Vec::new();
        for Item { append, .. } in items {
            seen.extend(append.new_runs.iter().map(|new| new.run));
            if let Some(head) = append.after
                && seen.insert(append.run)
                && (!self.tables().holds(append.run, head) || !self.owns(host, append.run))
            {
                behind.push(append.run);
            }
        }
        behind
    }

    fn owns(&self, host: HostId, run: RunId) -> bool {
        self.tables().owner(run) == Some(host) || self.is(Mutant::AppendsToARunOfAnother)
    }

    /// The new runs of the batch whose first rows are there just as given.
    pub(super) fn starts_of_ours(&self, items: &[Item]) -> HashSet<RunId> {
        let starts = items.iter().flat_map(|item| &item.append.new_runs);
        let ours = starts.filter(|new| self.tables().holds(new.run, Head::at(&new.first)));
        ours.map(|new| new.run).collect()
    }

    /// How many of the append's own rows are there just as given.
    pub(super) fn rows_there(&self, append: &Append) -> usize {
        append.rows.iter().filter(|row| self.tables().holds(append.run, Head::at(row))).count()
    }
}

impl Tables {
    /// Whether a row with this place and checksum is there.
    pub(super) fn holds(&self, run: RunId, head: Head) -> bool {
        self.row(run, head.seq).is_some_and(|row| row.chain == head.chain)
    }
}

/// Every row of a batch.
pub(super) fn rows_of(items: &[Item]) -> impl Iterator<Item = (&Append, RunId, &Row)> {
    items.iter().flat_map(|Item { append, .. }| {
        let firsts = append.new_runs.iter().map(move |new| (append, new.run, &new.first));
        let further = append
            .new_runs
            .iter()
            .flat_map(move |new| new.further.iter().map(move |row| (append, new.run, row)));
        let own = append.rows.iter().map(move |row| (append, append.run, row));
        firsts.chain(further).chain(own)
    })
}
