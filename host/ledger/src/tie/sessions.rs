//! What a term asks of the sessions of its host: see [`Tie`](super::Tie).

use super::State;
use crate::connect::Ledger;
use crate::error::LedgerError;
use crate::leases::Lease;
use crate::opening::Opening;

impl Ledger {
    /// From now on every session has to be where this lease is.
    pub fn tie_sessions(&self, lease: Lease) {
        self.tie.0.split.send_replace(false);
        self.tie.set(State::Tied(lease.host));
    }

    /// From now on no session has to be anywhere.
    pub fn untie_sessions(&self) {
        self.tie.set(State::Free);
    }

    /// From now on no session is lent.
    pub fn refuse_sessions(&self) {
        self.tie.set(State::Split);
    }

    /// Ends when sessions that are tied reach different servers.
    pub async fn sessions_split(&self) {
        let mut split = self.tie.0.split.subscribe();
        // Its sender is ours.
        let _ = split.wait_for(|split| *split).await;
    }

    /// Ends when a heartbeat is wanted before its time: a session is not where the last one was.
    pub async fn renewal_wanted(&self) {
        self.tie.0.wanted.notified().await;
    }

    /// Whether new sessions of all sorts are where the lease is that they are tied to. Reads only.
    pub async fn sessions_agree(&self) -> Result<bool, LedgerError> {
        for role in ["pool", "writer"] {
            let opening = Opening::new(&self.options, role)?;
            let mut connection = self.open_first(&opening).await?;
            if !self.tie.is_same(&mut connection).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
