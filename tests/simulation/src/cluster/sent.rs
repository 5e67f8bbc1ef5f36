//! What became of updates and forks, as far as those know it who have asked for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use backstitch_core::{Failure, Json};

use super::checks::Broken;

/// What an update gives.
pub(super) type Answer = Result<Json, Failure>;

/// See the module.
#[derive(Default)]
pub(super) struct Sent {
    /// Clients that wait for their updates.
    pub(super) waiting: usize,
    updates: BTreeMap<Arc<str>, Fate>,
    /// Workflow ids of which a run was reset.
    resets: BTreeSet<String>,
    /// Workflow ids that forks of confluent runs have, and of which run each is the fork: its workflow id and generation.
    pub(super) confluent: Vec<(String, String, u32)>,
}

/// What is known of an update.
#[derive(Default)]
struct Fate {
    workflow_id: String,
    /// A run has it in its inbox, or had.
    is_sent: bool,
    answer: Option<Answer>,
}

impl Sent {
    /// A client begins with an update, and waits until that is over.
    pub(super) fn begins(&mut self, id: &Arc<str>, workflow_id: &str) {
        self.waiting += 1;
        self.updates.entry(Arc::clone(id)).or_default().workflow_id = workflow_id.to_owned();
    }

    /// It waits no longer.
    pub(super) fn ends(&mut self) {
        self.waiting -= 1;
    }

    /// The signal of an update was taken.
    pub(super) fn takes(&mut self, id: &Arc<str>) {
        if let Some(fate) = self.updates.get_mut(id) {
            fate.is_sent = true;
        }
    }

    /// A client hears the answer, which is the same however often it asks.
    pub(super) fn answers(&mut self, id: &Arc<str>, answer: Answer) -> Result<(), Broken> {
        let Some(fate) = self.updates.get_mut(id) else { return Ok(()) };
        match fate.answer.replace(answer) {
            // Of what the new run has made of it.
            _ if self.resets.contains(&fate.workflow_id) => Ok(()),
            Some(earlier) if Some(&earlier) != fate.answer.as_ref() => {
                Err(format!("update {id} was answered {earlier:?}, and then {:?}", fate.answer))
            }
            _ => Ok(()),
        }
    }

    /// A run of this workflow id was reset.
    pub(super) fn resets(&mut self, workflow_id: &str) {
        self.resets.insert(workflow_id.to_owned());
    }

    pub(super) fn is_reset(&self, workflow_id: &str) -> bool {
        self.resets.contains(workflow_id)
    }

    /// What was refused has left no trace, and what was answered is there: `received` and `answered` are in ledgers.
    pub(super) fn is_true(
        &self,
        received: &BTreeSet<Arc<str>>,
        answered: &BTreeMap<Arc<str>, Vec<Answer>>,
        has_lost_commits: bool,
    ) -> Result<(), Broken> {
        for (id, fate) in &self.updates {
            if !fate.is_sent && received.contains(id) {
                return Err(format!("update {id} was sent by nobody, and is in a ledger"));
            }
            let Some(answer) = fate.answer.as_ref().filter(|_| !has_lost_commits) else { continue };
            if !answered.get(id).is_some_and(|all| all.contains(answer)) {
                return Err(format!("the answer to update {id} was told, and is gone: {answer:?}"));
            }
        }
        Ok(())
    }
}
