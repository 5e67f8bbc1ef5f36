//! From what Wasmtime says to what an operator reads.

use std::fmt::Write as _;

use backstitch_core::replay::Refusal;
use backstitch_core::{Divergence, Fault, FaultKind, limits, printable};
use wasmtime::{FrameInfo, Trap, WasmBacktrace};

use crate::budget::OverBudget;
use crate::guest_time::CutShort;

/// Why a guest stopped, before it is known whom to tell.
#[derive(Debug)]
pub(crate) enum Cause {
    /// It asked for something else than the ledger holds.
    Divergence(Divergence),
    /// Whoever waited for it does no longer.
    Stopped,
    /// Anything else.
    Fault(Fault),
}

/// Reads the error of a call into a guest. `panic` is what its panic hook said.
pub(crate) fn cause(error: &wasmtime::Error, panic: Option<String>) -> Cause {
    let frames = error.downcast_ref::<WasmBacktrace>().map(frames).unwrap_or_default();
    let fault = |kind, message: String| Fault::new(kind, message).with_backtrace(frames.clone());
    if let Some(refusal) = error.downcast_ref::<Refusal>() {
        return match refusal {
            Refusal::Divergence(divergence) => Cause::Divergence(Divergence {
                backtrace: Some(frames).filter(|frames| !frames.is_empty()),
                ..(**divergence).clone()
            }),
            Refusal::Protocol(message) => Cause::Fault(fault(FaultKind::Protocol, message.clone())),
            Refusal::Limit(message) => Cause::Fault(fault(FaultKind::Limit, message.clone())),
        };
    }
    if let Some(over) = error.downcast_ref::<OverBudget>() {
        return Cause::Fault(fault(FaultKind::Memory, over.to_string()));
    }
    match error.downcast_ref::<CutShort>() {
        Some(CutShort::Stopped) => return Cause::Stopped,
        Some(slow @ CutShort::TooSlow { .. }) => {
            return Cause::Fault(fault(FaultKind::TooSlow, slow.to_string()));
        }
        None => {}
    }
    Cause::Fault(match (error.downcast_ref::<Trap>(), panic) {
        (Some(Trap::UnreachableCodeReached), Some(panic)) => fault(FaultKind::Panic, panic),
        (Some(Trap::OutOfFuel), _) => fault(FaultKind::Fuel, out_of_fuel()),
        (Some(Trap::StackOverflow), _) => fault(FaultKind::Stack, stack_overflow()),
        (Some(Trap::AllocationTooLarge), _) => fault(FaultKind::Memory, Trap::AllocationTooLarge.to_string()),
        (Some(trap), _) => fault(FaultKind::Trap, trap.to_string()),
        (None, _) => untyped(error, fault),
    })
}

/// An error that has no type of its own: what a guest handed over breaks the canonical ABI (text
/// that is not UTF-8, a list beyond its memory) or is too much, or a function refused it.
fn untyped(error: &wasmtime::Error, fault: impl FnOnce(FaultKind, String) -> Fault) -> Fault {
    let message = error.root_cause().to_string();
    // Wasmtime keeps the type of this one to itself.
    if message.starts_with("too much data is being copied between the host and the guest") {
        let max = limits::HOSTCALL_BYTES_MAX;
        return fault(FaultKind::Limit, format!("more than {max} bytes handed over in one call"));
    }
    fault(FaultKind::Protocol, message)
}

/// The error of an instance that was not made: its own code's fault, or that of its shape.
pub(crate) fn of_instantiation(error: &wasmtime::Error, panic: Option<String>) -> Fault {
    let is_the_guests = error.is::<Trap>() || error.is::<OverBudget>() || error.is::<CutShort>();
    if is_the_guests || error.is::<WasmBacktrace>() {
        return fault(error, panic);
    }
    Fault::new(FaultKind::Component, format!("no instance can be made of the component: {error:#}"))
}

/// The same for callers to whom nothing can diverge.
pub(crate) fn fault(error: &wasmtime::Error, panic: Option<String>) -> Fault {
    match cause(error, panic) {
        Cause::Fault(fault) => fault,
        Cause::Stopped => Fault::new(FaultKind::TooSlow, CutShort::Stopped.to_string()),
        Cause::Divergence(divergence) => Fault::new(FaultKind::Divergence, divergence.to_string())
            .with_backtrace(divergence.backtrace.unwrap_or_default()),
    }
}

fn out_of_fuel() -> String {
    "used up its units of fuel (about one for each simple instruction) between two events. Loop less, sleep between \
     parts of the work, or move it into an activity"
        .to_owned()
}

fn stack_overflow() -> String {
    format!(
        "the guest's stack of {} KiB is full: recursion without an end, or large values on the stack",
        limits::WASM_STACK_BYTES >> 10
    )
}

/// The guest's frames, innermost first, one to a line. Host frames are never among them, nor are
/// those of nameless modules between named ones: trampolines that link a component together.
pub(crate) fn frames(backtrace: &WasmBacktrace) -> String {
    let is_named = |frame: &&FrameInfo| frame.module().name().is_some() || frame.func_name().is_some();
    let mut frames: Vec<&FrameInfo> = backtrace.frames().iter().filter(is_named).collect();
    if frames.is_empty() {
        frames = backtrace.frames().iter().collect();
    }
    let lines: Vec<String> = frames.into_iter().map(line).collect();
    let mut text = String::new();
    // Recursion is one line, so that it does not hide where it began.
    for same in lines.chunk_by(|one, next| one == next) {
        let _ = match same.len() {
            1 => writeln!(text, "{}", same[0]),
            times => writeln!(text, "{} ({times} times)", same[0]),
        };
    }
    text.truncate(text.trim_end().len());
    text
}

fn line(frame: &FrameInfo) -> String {
    let module = frame.module().name().unwrap_or("guest");
    let function = match frame.func_name() {
        Some(name) => format!("{:#}", rustc_demangle::demangle(name)),
        None => format!("function {}", frame.func_index()),
    };
    // Both names are the guest's.
    printable::line_of(&format!("{module}: {function}"), limits::NAME_BYTES_MAX).into_owned()
}
