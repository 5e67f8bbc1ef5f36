//! Children: who they are, how they start, and what their parents hear if they do not.

use std::sync::Arc;

use backstitch_core::names::check_new_id;
use backstitch_core::{Event, Failure, FailureKind, Json, Op, RunId};
use backstitch_ledger::Append;

use super::effects::Effects;
use super::pending::Child;
use super::plan::{begin_run, child_options, child_workflow_id, head, may_have_child, taken};
use super::state::Scheduler;
use crate::ambient;
use crate::identity::Facts;

impl Scheduler {
    /// Who a child will be; or why it cannot be.
    pub(super) fn child_facts(
        &self,
        parent: RunId,
        op: Op,
        at_ms: u64,
        workflow: &Arc<str>,
        workflow_id: Option<Arc<str>>,
    ) -> Result<Facts, Failure> {
        let slot = &self.slots[&parent];
        let scope = slot.facts.scope;
        may_have_child(&slot.run)?;
        let refused = |problem| Failure::fatal(FailureKind::Application, "invalid-workflow-id", problem);
        workflow_id.as_deref().map_or(Ok(()), |id| check_new_id("workflow id", id)).map_err(refused)?;
        let digest = self.tools.programs.workflow(scope, workflow).ok_or_else(|| {
            let message = format!("no deployed component offers the workflow {workflow:?}");
            Failure::fatal(FailureKind::Application, "unknown-workflow", message)
        })?;
        Ok(Facts {
            scope,
            run: RunId::derived(parent, op, at_ms),
            workflow_id: child_workflow_id(parent, op, workflow_id),
            generation: 0,
            workflow: Arc::clone(workflow),
            digest,
            parent: Some((parent, op)),
        })
    }

    pub(super) fn start_child(
        &mut self,
        parent: RunId,
        facts: Result<Facts, Failure>,
        op: Op,
        input: Json,
        append: &mut Append,
        effects: &mut Effects,
    ) {
        let slot = &self.slots[&parent];
        let options = child_options(parent, &slot.facts.workflow_id, slot.run.start());
        let options = options.beginning(ambient::new_seed());
        let begun = facts.and_then(|facts| {
            let (new_run, run) = begin_run(&facts, &input, Arc::new(options), self.tools.clock.now_ms())
                .map_err(|problem| Failure::fatal(FailureKind::Application, "invalid-child", problem))?;
            Ok((facts, new_run, run))
        });
        match begun {
            Ok((facts, new_run, run)) => {
                append.new_runs.push(new_run);
                effects.children.push(Child { facts, run, input, ahead: Vec::new(), op: Some(op) });
            }
            Err(failure) => effects.stillborn.push((op, failure)),
        }
    }

    /// A run that an append of `parent` started is in the database, or its id was taken.
    pub(super) fn child_committed(&mut self, parent: RunId, child: Child, refused: &[RunId]) {
        let Child { facts, run, input, ahead, op } = child;
        let id = facts.run;
        if refused.contains(&id) {
            let failure = taken(&facts.workflow_id);
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
        match self.tools.programs.loaded(facts.digest) {
            Some(program) => {
                self.insert(facts, program, run, input);
                if let Some(slot) = self.slots.get_mut(&id) {
                    slot.durable = slot.run.next_seq();
                    slot.sent = head(&slot.run);
                    slot.ahead = ahead.into();
                }
                self.has_come(id);
                self.advance(id);
            }
            None => self.load(id),
        }
    }
}
