//! Leases. See `leases.rs` of the ledger crate. Its clock is `now_ms`.

use std::sync::Arc;

use backstitch_core::{Epoch, HostId};
use backstitch_ledger::{Lease, OtherHosts, Renewal};

use super::database::{Database, Mutant};
use super::rows;

/// How long a dead host is remembered.
const REMEMBERED_MS: u64 = 3_600_000;

impl Database {
    /// Makes a host's lease, or its next epoch: its open runs belong to nobody then. In Postgres these are three commits, and
    /// another statement may come between them.
    pub fn register(&mut self, host: HostId, lease_ms: u64, now_ms: u64) -> Lease {
        let keeps_runs = self.is(Mutant::KeepsRunsOverARegistration);
        let tables = self.commit();
        let epoch = Epoch(tables.leases.get(&host).map_or(1, |lease| lease.epoch.0 + 1));
        let lease = rows::Lease { epoch, heartbeat_ms: now_ms, lease_ms, dead: false, released: false };
        Arc::make_mut(&mut tables.leases).insert(host, lease);
        if epoch.0 > 1 && !keeps_runs {
            for run in Arc::make_mut(&mut tables.runs).values_mut().filter(|run| run.is_open_of(host)) {
                run.owner = None;
            }
            let messages = Arc::make_mut(&mut tables.inbox).values_mut();
            for message in messages.filter(|message| message.owner == Some(host)) {
                message.owner = None;
            }
        }
        Lease { host, epoch }
    }

    /// Extends a lease that lives.
    pub fn renew(&mut self, lease: Lease, now_ms: u64) -> Renewal {
        let renews_dead = self.is(Mutant::RenewsADeadLease);
        let found = Arc::make_mut(&mut self.commit().leases).get_mut(&lease.host);
        match found.filter(|found| found.epoch == lease.epoch && (!found.dead || renews_dead)) {
            Some(found) => {
                found.heartbeat_ms = now_ms;
                Renewal::Alive
            }
            None => Renewal::Dead,
        }
    }

    /// Gives a lease back.
    pub fn release(&mut self, lease: Lease) {
        let found = Arc::make_mut(&mut self.commit().leases).get_mut(&lease.host);
        if let Some(found) = found.filter(|found| found.epoch == lease.epoch) {
            (found.dead, found.released) = (true, true);
        }
    }

    /// Declares a host dead; whether it was alive.
    pub fn declare_dead(&mut self, host: HostId) -> bool {
        let found = Arc::make_mut(&mut self.commit().leases).get_mut(&host);
        found.is_some_and(|lease| !std::mem::replace(&mut lease.dead, true))
    }

    /// Declares every host dead that has been silent for longer than its lease.
    pub fn declare_overdue_dead(&mut self, now_ms: u64) -> Vec<HostId> {
        let mut dead = Vec::new();
        for (host, lease) in Arc::make_mut(&mut self.commit().leases) {
            if !lease.dead && lease.heartbeat_ms.saturating_add(lease.lease_ms) < now_ms {
                lease.dead = true;
                dead.push(*host);
            }
        }
        dead
    }

    /// What is known of hosts other than this.
    pub fn other_hosts(&self, host: HostId, lost_ms: u64, suspicious: bool, now_ms: u64) -> OtherHosts {
        let others =
            || self.tables().leases.iter().filter(|(other, _)| **other != host).map(|(_, lease)| lease);
        let is_lost = |lease: &rows::Lease| {
            let has_missed =
                (u128::from(lease.heartbeat_ms) + u128::from(lease.lease_ms) * 7 / 10) < u128::from(now_ms);
            !lease.released
                && lease.heartbeat_ms.saturating_add(lost_ms) > now_ms
                && (lease.dead || suspicious || has_missed)
        };
        OtherHosts { alive: others().any(|lease| !lease.dead), lost: others().any(is_lost) }
    }

    /// Forgets hosts that have been dead for an hour and own nothing open; how many.
    pub fn forget_dead(&mut self, now_ms: u64) -> u64 {
        let tables = self.commit();
        let runs = Arc::clone(&tables.runs);
        let leases = Arc::make_mut(&mut tables.leases);
        let before = leases.len();
        leases.retain(|host, lease| {
            !lease.dead
                || lease.heartbeat_ms.saturating_add(REMEMBERED_MS) >= now_ms
                || runs.values().any(|run| run.is_open_of(*host))
        });
        (before - leases.len()) as u64
    }

    /// Whether a lease lives in its epoch.
    pub fn is_alive(&self, lease: Lease) -> bool {
        let found = self.tables().leases.get(&lease.host);
        found.is_some_and(|found| found.epoch == lease.epoch && !found.dead)
    }

    /// The lease of a host as it stands, dead or alive.
    pub fn lease_of(&self, host: HostId) -> Option<Lease> {
        self.tables().leases.get(&host).map(|lease| Lease { host, epoch: lease.epoch })
    }

    /// Makes a host's last heartbeat so much older: for a test whose Postgres has a clock of its own.
    pub fn backdate_lease(&mut self, host: HostId, ms: u64) {
        if let Some(lease) = Arc::make_mut(&mut self.commit().leases).get_mut(&host) {
            lease.heartbeat_ms = lease.heartbeat_ms.saturating_sub(ms);
        }
    }
}
