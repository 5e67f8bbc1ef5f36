//! The interface `backstitch:workflow/host`: a workflow's only way out.
//!
//! Every function goes straight to the guest's [`Replay`]. A refusal becomes a trap that keeps it, so
//! that whoever called the guest can tell a divergence from a broken rule. Every call costs fuel: a
//! guest could otherwise keep its thread for hours by handing over megabytes in a loop.

use std::sync::Arc;

use backstitch_core::command::{self, Command};
use backstitch_core::{HistorySize, Op, Replay, Rules, RunId, StartOptions, limits, printable};
use wasmtime::component::{Linker, WasmStr};
use wasmtime::{StoreContextMut, Trap};

use crate::budget::Budget;
use crate::guest_log::GuestLog;
use crate::guest_time::{Meter, Stop};
use crate::means::{Clock, GuestBounds};
use crate::stdio::{Stdio, Stream};
use crate::world::{self, types};

/// The interface's name, as components import it.
pub(crate) const INTERFACE: &str = "backstitch:workflow/host@0.1.0";

/// The interface's functions.
pub(crate) const FUNCTIONS: [&str; 22] = [
    "proxy-activity",
    "sleep-for",
    "wait-for",
    "start-child",
    "cancel",
    "shield",
    "signal-run",
    "cancel-run",
    "answer-update",
    "edit-entity",
    "set-attributes",
    "patched",
    "deprecate-patch",
    "next-event",
    "now-ms",
    "random-u64",
    "entity",
    "info",
    "history-size",
    "is-replaying",
    "log",
    "report-panic",
];

/// Who a run is, as its guest is told.
#[derive(Clone, Debug)]
pub struct RunInfo {
    run: RunId,
    original: RunId,
    workflow_id: Arc<str>,
    workflow: Arc<str>,
    parent_workflow_id: Option<Arc<str>>,
}

impl RunInfo {
    /// Of the run that was started with these options.
    pub fn new(run: RunId, workflow_id: Arc<str>, workflow: Arc<str>, options: &StartOptions) -> Self {
        let parent_workflow_id = options.parent.as_ref().map(|parent| Arc::clone(&parent.workflow_id));
        Self { run, original: options.original(run), workflow_id, workflow, parent_workflow_id }
    }

    /// The run.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// Which workflow of the component.
    pub fn workflow(&self) -> &Arc<str> {
        &self.workflow
    }

    fn lower(&self) -> types::RunInfo {
        types::RunInfo {
            run_id: self.run.to_string(),
            original_run_id: self.original.to_string(),
            workflow_id: self.workflow_id.to_string(),
            workflow: self.workflow.to_string(),
            parent_workflow_id: self.parent_workflow_id.as_deref().map(str::to_owned),
        }
    }
}

/// What a workflow's store carries.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) replay: Replay,
    /// Those of the program, by which its fuel is counted.
    pub(crate) rules: Rules,
    pub(crate) budget: Budget,
    log: GuestLog,
    info: RunInfo,
    /// What a panic hook said just before the trap.
    pub(crate) panic: Option<String>,
    /// Fuel of this activation, without what was spent since the last event.
    pub(crate) fuel_before: u64,
    pub(crate) meter: Meter,
    _clock: Option<Arc<Clock>>,
    stdio: Stdio,
}

impl Guest {
    /// The guest of this run that is driven by `replay`.
    pub(crate) fn new(
        replay: Replay,
        log: GuestLog,
        info: RunInfo,
        bounds: &GuestBounds,
        stop: Stop,
    ) -> Self {
        Self {
            replay,
            rules: bounds.rules,
            info,
            budget: Budget::new(limits::WORKFLOW_MEMORY_BYTES_MAX, bounds.room.share()).privileged(),
            log,
            panic: None,
            fuel_before: 0,
            meter: Meter::new(bounds.time, stop),
            _clock: bounds.clock.clone(),
            stdio: Stdio::default(),
        }
    }

    /// Keeps whatever it says from now on out of the log.
    pub(crate) fn mute(&mut self) {
        self.log.mute();
    }

    /// Logs a line, unless the guest is only repeating itself.
    pub(crate) fn log(&mut self, level: types::Level, text: &str) {
        if !self.replay.is_replaying() {
            self.log.line(level, text);
        }
    }

    /// The same for what it writes to a standard stream.
    pub(crate) fn print(&mut self, stream: Stream, bytes: &[u8]) {
        if !self.replay.is_replaying() {
            self.stdio.write(stream, bytes, &mut self.log);
        }
    }

    /// Ends an activation, as far as the log goes.
    pub(crate) fn close_log(&mut self) {
        self.stdio.flush(&mut self.log);
        self.log.close();
    }
}

type Cx<'a> = StoreContextMut<'a, Guest>;

/// Offers the interface to a component.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut host = linker.instance(INTERFACE)?;
    host.func_wrap(
        "proxy-activity",
        |cx: Cx<'_>, (name, input, options): (Arc<str>, Arc<str>, types::ActivityOptions)| {
            let mut handed = Handed::of(name.len() + input.len());
            if let Some(retry) = &options.retry {
                handed = handed.and(retry.non_retryable.iter().map(String::len).sum());
                handed = handed.of_late(0, retry.non_retryable.len());
            }
            if let Some(queue) = &options.task_queue {
                handed = handed.of_late(queue.len(), 1);
            }
            command(cx, handed, || world::schedule_activity(name, input, options))
        },
    )?;
    host.func_wrap("sleep-for", |cx: Cx<'_>, (ms,): (u64,)| {
        command(cx, 0, || Ok(Command::StartTimer { ms }))
    })?;
    host.func_wrap("wait-for", |cx: Cx<'_>, (name,): (Arc<str>,)| {
        command(cx, name.len(), || Ok(Command::AwaitSignal { name }))
    })?;
    host.func_wrap(
        "start-child",
        |cx: Cx<'_>, (workflow, input, options): (Arc<str>, Arc<str>, types::ChildOptions)| {
            let mut handed = Handed::of(workflow.len() + input.len());
            if let Some(id) = &options.workflow_id {
                handed = handed.of_late(id.len(), 1);
            }
            command(cx, handed, || world::start_child(workflow, input, options))
        },
    )?;
    host.func_wrap("cancel", |cx: Cx<'_>, (op,): (u32,)| {
        command(cx, 0, || Ok(Command::Cancel { target: Op(op) })).map(|_| ())
    })?;
    host.func_wrap("shield", |cx: Cx<'_>, (op,): (u32,)| {
        command(cx, 0, || Ok(Command::Shield { target: Op(op) })).map(|_| ())
    })?;
    host.func_wrap(
        "signal-run",
        |cx: Cx<'_>, (target, name, payload): (types::Target, Arc<str>, Arc<str>)| {
            let bytes = world::target_bytes(&target) + name.len() + payload.len();
            command(cx, bytes, || world::signal_run(target, name, payload))
        },
    )?;
    host.func_wrap("cancel-run", |cx: Cx<'_>, (target,): (types::Target,)| {
        let bytes = world::target_bytes(&target);
        command(cx, bytes, || Ok(Command::CancelRun { target: world::target(target) }))
    })?;
    host.func_wrap(
        "answer-update",
        |cx: Cx<'_>, (update, outcome): (Arc<str>, Result<Arc<str>, types::Failure>)| {
            let handed = Handed::of(update.len());
            let handed = match &outcome {
                Ok(output) => handed.and(output.len()),
                Err(failure) => handed
                    .and(failure.message.len() + failure.details.as_ref().map_or(0, String::len))
                    .of_late(failure.code.len(), 1),
            };
            command(cx, handed, || world::answer_update(update, outcome)).map(|_| ())
        },
    )?;
    host.func_wrap("next-event", |cx: Cx<'_>, ()| next_event(cx))?;
    add_memory(linker)?;
    add_ambients(linker)
}

/// What a guest says about its run, and about its own code.
fn add_memory(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut host = linker.instance(INTERFACE)?;
    host.func_wrap("edit-entity", |mut cx: Cx<'_>, (path, edit): (Arc<str>, types::Edit)| {
        // All of the document is gone over, whatever is done to it.
        let bytes = cx.data().replay.entity().bytes() + path.len() + world::edit_bytes(&edit);
        charge(&mut cx, bytes)?;
        let edit = world::edit(edit)?;
        Ok((cx.data_mut().replay.edit_entity(path, edit)?,))
    })?;
    host.func_wrap("set-attributes", |mut cx: Cx<'_>, (attributes,): (Vec<types::Attribute>,)| {
        charge(&mut cx, Handed::of(world::attribute_bytes(&attributes)).of_late(0, attributes.len()))?;
        cx.data_mut().replay.set_attributes(world::attributes(attributes)?)?;
        Ok(())
    })?;
    host.func_wrap("patched", |mut cx: Cx<'_>, (change_id,): (Arc<str>,)| {
        charge(&mut cx, change_id.len())?;
        Ok((cx.data_mut().replay.patched(change_id)?,))
    })?;
    host.func_wrap("deprecate-patch", |mut cx: Cx<'_>, (change_id,): (Arc<str>,)| {
        charge(&mut cx, change_id.len())?;
        cx.data_mut().replay.deprecate_patch(change_id)?;
        Ok(())
    })?;
    Ok(())
}

/// The functions that leave no rows.
fn add_ambients(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut host = linker.instance(INTERFACE)?;
    host.func_wrap("now-ms", |mut cx: Cx<'_>, ()| {
        charge(&mut cx, 0)?;
        Ok((cx.data().replay.now_ms(),))
    })?;
    host.func_wrap("random-u64", |mut cx: Cx<'_>, ()| {
        charge(&mut cx, 0)?;
        Ok((cx.data_mut().replay.random_u64(),))
    })?;
    host.func_wrap("entity", |mut cx: Cx<'_>, (path,): (Arc<str>,)| {
        let entity = cx.data().replay.entity().get(&path);
        charge(&mut cx, path.len() + entity.as_ref().map_or(0, |entity| entity.as_str().len()))?;
        Ok((entity.map(|entity| entity.text()),))
    })?;
    host.func_wrap("info", |mut cx: Cx<'_>, ()| {
        let info = cx.data().info.lower();
        let parent = info.parent_workflow_id.as_ref().map_or(0, String::len);
        let bytes =
            info.run_id.len() + info.original_run_id.len() + info.workflow_id.len() + info.workflow.len();
        charge(&mut cx, Handed::of(0).of_late(bytes + parent, 0))?;
        Ok((info,))
    })?;
    host.func_wrap("history-size", |mut cx: Cx<'_>, ()| {
        charge(&mut cx, 0)?;
        let HistorySize { rows, bytes } = cx.data().replay.history_size();
        Ok((types::History { rows, bytes },))
    })?;
    host.func_wrap("is-replaying", |mut cx: Cx<'_>, ()| {
        charge(&mut cx, 0)?;
        Ok((cx.data().replay.is_replaying(),))
    })?;
    host.func_wrap("log", |mut cx: Cx<'_>, (level, message): (types::Level, WasmStr)| {
        // Lifted before it is known whether anybody listens: text that is not UTF-8 must trap on
        // replay as it did live.
        let text = message.to_str(&cx)?.into_owned();
        charge(&mut cx, text.len())?;
        cx.data_mut().log(level, &text);
        Ok(())
    })?;
    host.func_wrap("report-panic", |mut cx: Cx<'_>, (mut message,): (String,)| {
        charge(&mut cx, message.len())?;
        printable::cut(&mut message, limits::MESSAGE_BYTES_MAX);
        cx.data_mut().panic = Some(message);
        Ok(())
    })
}

/// What goes from a guest to the host or back in one call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Handed {
    bytes: usize,
    /// What has a price since the second rules: bytes, and parts that are made one by one.
    of_late: (usize, usize),
}

impl Handed {
    /// So many bytes.
    pub(crate) fn of(bytes: usize) -> Self {
        Self { bytes, of_late: (0, 0) }
    }

    fn and(self, bytes: usize) -> Self {
        Self { bytes: self.bytes + bytes, ..self }
    }

    fn of_late(self, bytes: usize, parts: usize) -> Self {
        Self { of_late: (self.of_late.0 + bytes, self.of_late.1 + parts), ..self }
    }

    fn fuel(self, rules: Rules) -> u64 {
        let Self { bytes, of_late: (more, parts) } = self;
        match rules {
            Rules::First => limits::HOSTCALL_FUEL_FIRST.saturating_add(bytes as u64),
            Rules::Second => limits::HOSTCALL_FUEL
                .saturating_add(bytes as u64)
                .saturating_add(more as u64)
                .saturating_add((parts as u64).saturating_mul(limits::HOSTCALL_PART_FUEL)),
        }
    }
}

impl From<usize> for Handed {
    fn from(bytes: usize) -> Self {
        Self::of(bytes)
    }
}

/// Gives a command of the guest, which was handed over with it, to its ledger.
fn command(
    mut cx: Cx<'_>,
    handed: impl Into<Handed>,
    command: impl FnOnce() -> Result<command::Command, backstitch_core::replay::Refusal>,
) -> wasmtime::Result<(u32,)> {
    charge(&mut cx, handed)?;
    let op = cx.data_mut().replay.command(command()?)?;
    Ok((op.0,))
}

fn next_event(mut cx: Cx<'_>) -> wasmtime::Result<(Option<world::Event>,)> {
    charge(&mut cx, 0)?;
    let delivery = cx.data_mut().replay.next_event()?;
    if let Some(delivery) = &delivery {
        // One event, one tank: how many came in a batch cannot change which of them runs dry.
        let tank = cx.data().rules.fuel_per_event();
        let spent = tank.saturating_sub(cx.get_fuel()?);
        cx.data_mut().fuel_before += spent;
        cx.data_mut().meter.next_event();
        let brought = match cx.data().rules {
            Rules::First => 0,
            Rules::Second => world::delivered_bytes(delivery) as u64,
        };
        cx.set_fuel(tank.saturating_sub(brought))?;
    }
    Ok((delivery.map(Into::into),))
}

/// Takes the fuel of one host call that handed over so much.
pub(crate) fn charge(cx: &mut Cx<'_>, handed: impl Into<Handed>) -> wasmtime::Result<()> {
    let cost = handed.into().fuel(cx.data().rules);
    match cx.get_fuel()?.checked_sub(cost) {
        Some(left) => cx.set_fuel(left),
        None => {
            cx.set_fuel(0)?;
            Err(Trap::OutOfFuel.into())
        }
    }
}
