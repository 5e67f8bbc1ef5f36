//! What a component holds, in its own words: asked once, when it is compiled.
//!
//! The guest runs without a run: its commands trap, its lists are bounded, its names are checked as
//! every other name is.

use std::collections::BTreeSet;
use std::sync::Arc;

use backstitch_core::command::DEFAULT_TASK_QUEUE;
use backstitch_core::names::check_name;
use backstitch_core::replay::Refusal;
use backstitch_core::{Fault, FaultKind, Json, Replay, RunId, StartOptions, limits};

use crate::described::Described;
use crate::fault;
use crate::guest_log::GuestLog;
use crate::guest_time::Stop;
use crate::host::{Guest, RunInfo};
use crate::turns;
use crate::workflow::{Unstarted, WorkflowProgram};
use crate::world;

/// Asks a workflow component. Computes for as long as one tank of fuel lasts, and its time.
pub(crate) fn workflows(program: &WorkflowProgram) -> Result<Vec<Described>, Fault> {
    let nobody = RunId(Default::default());
    let log = GuestLog::new(None, Arc::from("describe"));
    let options = StartOptions::default();
    let info = RunInfo::new(nobody, "".into(), "".into(), &options);
    let guest = Guest::new(Replay::new(nobody, 0, &options), log, info, program.bounds(), Stop::default());
    let started = turns::to_the_end(program.instantiate(guest));
    let (mut store, instance) = started.map_err(|unstarted| match unstarted {
        Unstarted::Fault(fault) => fault,
        other => Fault::new(FaultKind::Component, other.to_string()),
    })?;
    let turn = turns::begin(&mut store);
    let described = turns::to_the_end(turns::measured(&turn, instance.call_describe(&mut store)));
    store.data_mut().close_log();
    let described = described.map_err(|error| fault::fault(&error, store.data_mut().panic.take()))?;
    let described = described.into_iter().map(|workflow| {
        Ok(Described {
            signals: names("signal", workflow.signals)?,
            queries: names("query", workflow.queries)?,
            task_queue: None,
            input_schema: schema(&workflow.name, workflow.input_schema)?,
            output_schema: schema(&workflow.name, workflow.output_schema)?,
            name: workflow.name,
        })
    });
    checked("workflow", described)
}

/// Reads an activity component's answer.
pub(crate) fn activities(
    described: Vec<world::activity::ActivityDescription>,
) -> Result<Vec<Described>, Fault> {
    let described = described.into_iter().map(|activity| {
        let task_queue = activity.task_queue.unwrap_or_else(|| DEFAULT_TASK_QUEUE.to_owned());
        check_name("task queue", &task_queue).map_err(Refusal::Limit)?;
        Ok(Described {
            signals: Vec::new(),
            queries: Vec::new(),
            task_queue: Some(task_queue),
            input_schema: schema(&activity.name, activity.input_schema)?,
            output_schema: schema(&activity.name, activity.output_schema)?,
            name: activity.name,
        })
    });
    checked("activity", described)
}

/// Every description is sound, there are not too many, and no name stands for two things.
fn checked(
    what: &str,
    described: impl ExactSizeIterator<Item = Result<Described, Refusal>>,
) -> Result<Vec<Described>, Fault> {
    if described.len() == 0 {
        return Err(Fault::new(FaultKind::Protocol, format!("describe: the component holds no {what}")));
    }
    if described.len() > limits::COMPONENT_NAMES_MAX {
        let problem = format!(
            "describe: {} of them; a component holds at most {}",
            described.len(),
            limits::COMPONENT_NAMES_MAX
        );
        return Err(Fault::new(FaultKind::Limit, problem));
    }
    let described: Result<Vec<Described>, Refusal> = described.collect();
    let described = described.map_err(|refusal| fault::fault(&refusal.into(), None))?;
    let mut seen = BTreeSet::new();
    for Described { name, .. } in &described {
        check_name(what, name).map_err(|problem| Fault::new(FaultKind::Limit, problem))?;
        if !seen.insert(name) {
            return Err(Fault::new(
                FaultKind::Protocol,
                format!("describe: two {what} entries named {name:?}"),
            ));
        }
    }
    Ok(described)
}

fn names(what: &str, names: Vec<String>) -> Result<Vec<String>, Refusal> {
    if names.len() > limits::COMPONENT_NAMES_MAX {
        return Err(Refusal::Limit(format!("describe: {} {what} names of one workflow", names.len())));
    }
    for name in &names {
        check_name(what, name).map_err(Refusal::Limit)?;
    }
    Ok(names)
}

fn schema(of: &str, text: Option<String>) -> Result<Option<Json>, Refusal> {
    text.map(|text| world::json(&format!("describe: a schema of {of:.64}"), text)).transpose()
}
