//! Children: who they are, how they start, and what their parents hear if they do not.

use std::sync::Arc;

use backstitch_core::names::check_new_id;
use backstitch_core::{Event, Failure, FailureKind, Json, Op, RunId};
use backstitch_ledger::Append;

use crate::env::Env;
use crate::identity::RunIdentity;
use crate::in_flight::NewRunInFlight;
use crate::on_commit::OnCommit;
use crate::plan::{begin_run, child_options, child_workflow_id, head, may_have_child, taken};
use crate::state::Scheduler;

impl<E: Env> Scheduler<E> {
    /// Who a child will be; or why it cannot be.
    pub(crate) fn child_identity(
        &self,
        parent: RunId,
        op: Op,
        at_ms: u64,
        workflow: &Arc<str>,
        workflow_id: Option<Arc<str>>,
    ) -> Result<RunIdentity, Failure> {
        let slot = &self.slots[&parent];
        let scope = slot.identity.scope;
        may_have_child(&slot.run)?;
        let refused = |problem| Failure::fatal(FailureKind::Application, "invalid-workflow-id", problem);
        workflow_id.as_deref().map_or(Ok(()), |id| check_new_id("workflow id", id)).map_err(refused)?;
        let digest = self.env.workflow(scope, workflow).ok_or_else(|| {
            let message = format!("no deployed component offers the workflow {workflow:?}");
            Failure::fatal(FailureKind::Application, "unknown-workflow", message)
        })?;
        Ok(RunIdentity {
            scope,
            run: RunId::derived(parent, op, at_ms),
            workflow_id: child_workflow_id(parent, op, workflow_id),
            generation: 0,
            workflow: Arc::clone(workflow),
            digest,
            parent: Some((parent, op)),
        })
    }

    pub(crate) fn start_child(
        &mut self,
        parent: RunId,
        identity: Result<RunIdentity, Failure>,
        op: Op,
        input: Json,
        append: &mut Append,
        on_commit: &mut OnCommit,
    ) {
        let slot = &self.slots[&parent];
        let options = child_options(parent, &slot.identity.workflow_id, slot.run.start());
        let options = options.beginning(self.env.new_seed());
        let begun = identity.and_then(|identity| {
            let (new_run, run) = begin_run(&identity, &input, Arc::new(options), self.now.ms)
                .map_err(|problem| Failure::fatal(FailureKind::Application, "invalid-child", problem))?;
            Ok((identity, new_run, run))
        });
        match begun {
            Ok((identity, new_run, run)) => {
                append.new_runs.push(new_run);
                let child = NewRunInFlight { identity, run, input, events: Vec::new(), op: Some(op) };
                on_commit.children.push(child);
            }
            Err(failure) => on_commit.rejected.push((op, failure)),
        }
    }

    /// A run that an append of `parent` started is in the database, or its id was taken.
    pub(crate) fn child_committed(&mut self, parent: RunId, child: NewRunInFlight, refused: &[RunId]) {
        let NewRunInFlight { identity, run, input, events, op } = child;
        let id = identity.run;
        if refused.contains(&id) {
            let failure = taken(&identity.workflow_id);
            match op {
                Some(op) => {
                    let waits = self.slots.get(&parent).is_some_and(|slot| slot.run.open_op(op).is_some());
                    if waits {
                        self.outcome(parent, Event::ChildClosed { op, outcome: Err(failure) }, None, |_| {});
                    }
                }
                None => tracing::error!(run = %parent, %failure, "the run could not continue as new"),
            }
            return;
        }
        if self.slots.contains_key(&id) {
            // A message or timer has found it in the database before its commit was heard of here: it is loaded, and
            // may have gone on.
            return;
        }
        match self.env.program(identity.digest) {
            Some(program) => {
                self.insert(identity, program, run, input);
                if let Some(slot) = self.slots.get_mut(&id) {
                    slot.durable = slot.run.next_seq();
                    slot.sent = head(&slot.run);
                    slot.undelivered = events.into();
                }
                self.has_come(id);
                self.advance(id);
            }
            None => self.load(id),
        }
    }
}
