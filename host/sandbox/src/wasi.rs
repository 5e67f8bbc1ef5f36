//! The slice of WASI 0.2 that a workflow gets: what a standard library asks for before it does
//! anything, and nothing that could tell two executions apart.
//!
//! | asked for | given |
//! |---|---|
//! | wall and monotonic clock | the time of the event being handled |
//! | randomness, secure or not | the run's own stream |
//! | standard output and error | lines of the log, silent on replay |
//! | environment, arguments, directories, terminals | none |
//! | exit | a trap |
//!
//! Timers, files and sockets are absent, so a component that can reach them is refused when it is
//! deployed, by name. What is here has no state besides the guest's unfinished lines: the only
//! streams are the standard ones, and they are always ready.

use backstitch_core::limits;
use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Linker, LinkerInstance, Lower, Resource, ResourceType};

use crate::host::{Guest, charge};
use crate::stdio::Stream;

/// The functions offered of each interface. Compatible versions are one: `0.2` stands for `0.2.x`.
const OFFERED: [(&str, &[&str]); 17] = [
    ("wasi:cli/environment@0.2", &["get-environment", "get-arguments", "initial-cwd"]),
    ("wasi:cli/exit@0.2", &["exit"]),
    ("wasi:cli/stdin@0.2", &["get-stdin"]),
    ("wasi:cli/stdout@0.2", &["get-stdout"]),
    ("wasi:cli/stderr@0.2", &["get-stderr"]),
    ("wasi:cli/terminal-input@0.2", &["terminal-input"]),
    ("wasi:cli/terminal-output@0.2", &["terminal-output"]),
    ("wasi:cli/terminal-stdin@0.2", &["get-terminal-stdin"]),
    ("wasi:cli/terminal-stdout@0.2", &["get-terminal-stdout"]),
    ("wasi:cli/terminal-stderr@0.2", &["get-terminal-stderr"]),
    ("wasi:clocks/wall-clock@0.2", &["now", "resolution"]),
    ("wasi:clocks/monotonic-clock@0.2", &["now", "resolution"]),
    ("wasi:io/error@0.2", &["error", "[method]error.to-debug-string"]),
    ("wasi:io/poll@0.2", &["pollable", "[method]pollable.ready", "[method]pollable.block"]),
    (
        "wasi:io/streams@0.2",
        &[
            "[method]input-stream.read",
            "[method]input-stream.blocking-read",
            "[method]output-stream.check-write",
            "[method]output-stream.write",
            "[method]output-stream.blocking-write-and-flush",
            "[method]output-stream.flush",
            "[method]output-stream.blocking-flush",
            "[method]output-stream.subscribe",
        ],
    ),
    ("wasi:random/random@0.2", &["get-random-bytes", "get-random-u64"]),
    ("wasi:random/insecure-seed@0.2", &["insecure-seed"]),
];

/// What of an interface a workflow may import.
pub(crate) fn offered(interface: &str) -> &'static [&'static str] {
    OFFERED.iter().find(|(name, _)| *name == interface).map_or(&[], |(_, functions)| functions)
}

type Cx<'a> = StoreContextMut<'a, Guest>;

// Resources of the guest's side. None of them stands for anything of the host: an output stream's
// representation says which of the two it is, the others' say nothing.
enum Error {}
enum Pollable {}
enum InputStream {}
enum OutputStream {}
enum TerminalInput {}
enum TerminalOutput {}

const STDOUT: u32 = 1;
const STDERR: u32 = 2;
/// Stands for the one input stream, which is at its end, and for readiness, which always is.
const NOTHING: u32 = 0;

/// `variant stream-error`. No write ever fails, and whatever is read is at its end.
#[derive(ComponentType, Lower)]
#[component(variant)]
#[allow(dead_code, reason = "the type has it, no stream here makes one")]
enum StreamError {
    #[component(name = "last-operation-failed")]
    LastOperationFailed(Resource<Error>),
    #[component(name = "closed")]
    Closed,
}

type Streamed<T> = Result<T, StreamError>;

/// `record datetime`.
#[derive(ComponentType, Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

/// Offers the slice to a component.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    add_cli(linker)?;
    add_terminals(linker)?;
    add_clocks(linker)?;
    add_random(linker)?;
    add_io(linker)
}

fn add_cli(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut environment = linker.instance("wasi:cli/environment@0.2.0")?;
    free(&mut environment, "get-environment", |()| Ok((Vec::<(String, String)>::new(),)))?;
    free(&mut environment, "get-arguments", |()| Ok((Vec::<String>::new(),)))?;
    free(&mut environment, "initial-cwd", |()| Ok((None::<String>,)))?;
    free(&mut linker.instance("wasi:cli/exit@0.2.0")?, "exit", |(status,): (Result<(), ()>,)| {
        let how = if status.is_ok() { "exit(0)" } else { "exit(1)" };
        Err::<(), _>(wasmtime::format_err!(
            "the workflow called {how}; it must return from `start` or `resume`"
        ))
    })?;
    free(&mut linker.instance("wasi:cli/stdin@0.2.0")?, "get-stdin", |()| {
        Ok((Resource::<InputStream>::new_own(NOTHING),))
    })?;
    free(&mut linker.instance("wasi:cli/stdout@0.2.0")?, "get-stdout", |()| {
        Ok((Resource::<OutputStream>::new_own(STDOUT),))
    })?;
    free(&mut linker.instance("wasi:cli/stderr@0.2.0")?, "get-stderr", |()| {
        Ok((Resource::<OutputStream>::new_own(STDERR),))
    })
}

fn add_terminals(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    resource::<TerminalInput>(&mut linker.instance("wasi:cli/terminal-input@0.2.0")?, "terminal-input")?;
    resource::<TerminalOutput>(&mut linker.instance("wasi:cli/terminal-output@0.2.0")?, "terminal-output")?;
    free(&mut linker.instance("wasi:cli/terminal-stdin@0.2.0")?, "get-terminal-stdin", |()| {
        Ok((None::<Resource<TerminalInput>>,))
    })?;
    free(&mut linker.instance("wasi:cli/terminal-stdout@0.2.0")?, "get-terminal-stdout", |()| {
        Ok((None::<Resource<TerminalOutput>>,))
    })?;
    free(&mut linker.instance("wasi:cli/terminal-stderr@0.2.0")?, "get-terminal-stderr", |()| {
        Ok((None::<Resource<TerminalOutput>>,))
    })
}

fn add_clocks(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    const NANOSECONDS_PER_MS: u64 = 1_000_000;
    let datetime = |ms: u64| Datetime {
        seconds: ms / 1000,
        nanoseconds: u32::try_from(ms % 1000 * NANOSECONDS_PER_MS).expect("less than a second"),
    };
    let mut wall = linker.instance("wasi:clocks/wall-clock@0.2.0")?;
    wall.func_wrap("now", move |mut cx: Cx<'_>, ()| {
        charge(&mut cx, 0)?;
        Ok((datetime(cx.data().replay.now_ms()),))
    })?;
    free(&mut wall, "resolution", move |()| Ok((datetime(1),)))?;
    let mut monotonic = linker.instance("wasi:clocks/monotonic-clock@0.2.0")?;
    monotonic.func_wrap("now", |mut cx: Cx<'_>, ()| {
        charge(&mut cx, 0)?;
        Ok((cx.data().replay.now_ms().saturating_mul(NANOSECONDS_PER_MS),))
    })?;
    free(&mut monotonic, "resolution", |()| Ok((NANOSECONDS_PER_MS,)))
}

fn add_random(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut random = linker.instance("wasi:random/random@0.2.0")?;
    random.func_wrap("get-random-bytes", |mut cx: Cx<'_>, (length,): (u64,)| {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        wasmtime::ensure!(length <= limits::HOSTCALL_BYTES_MAX, "{length} random bytes at once");
        charge(&mut cx, length)?;
        let replay = &mut cx.data_mut().replay;
        let words = std::iter::repeat_with(|| replay.random_u64()).take(length.div_ceil(8));
        let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
        bytes.truncate(length);
        Ok((bytes,))
    })?;
    random.func_wrap("get-random-u64", |mut cx: Cx<'_>, ()| {
        charge(&mut cx, 0)?;
        Ok((cx.data_mut().replay.random_u64(),))
    })?;
    linker.instance("wasi:random/insecure-seed@0.2.0")?.func_wrap("insecure-seed", |mut cx: Cx<'_>, ()| {
        charge(&mut cx, 0)?;
        let replay = &mut cx.data_mut().replay;
        Ok(((replay.random_u64(), replay.random_u64()),))
    })
}

fn add_io(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut error = linker.instance("wasi:io/error@0.2.0")?;
    resource::<Error>(&mut error, "error")?;
    free(&mut error, "[method]error.to-debug-string", |(_,): (Resource<Error>,)| Ok((String::new(),)))?;
    let mut poll = linker.instance("wasi:io/poll@0.2.0")?;
    resource::<Pollable>(&mut poll, "pollable")?;
    free(&mut poll, "[method]pollable.ready", |(_,): (Resource<Pollable>,)| Ok((true,)))?;
    free(&mut poll, "[method]pollable.block", |(_,): (Resource<Pollable>,)| Ok(()))?;
    let mut streams = linker.instance("wasi:io/streams@0.2.0")?;
    resource::<InputStream>(&mut streams, "input-stream")?;
    resource::<OutputStream>(&mut streams, "output-stream")?;
    for name in ["[method]input-stream.read", "[method]input-stream.blocking-read"] {
        free(&mut streams, name, |(_, _): (Resource<InputStream>, u64)| {
            Ok((Streamed::<Vec<u8>>::Err(StreamError::Closed),))
        })?;
    }
    free(&mut streams, "[method]output-stream.check-write", |(_,): (Resource<OutputStream>,)| {
        Ok((Streamed::Ok(limits::LOG_LINE_BYTES_MAX as u64),))
    })?;
    for name in ["[method]output-stream.write", "[method]output-stream.blocking-write-and-flush"] {
        streams.func_wrap(name, |mut cx: Cx<'_>, (stream, bytes): (Resource<OutputStream>, Vec<u8>)| {
            charge(&mut cx, bytes.len())?;
            let stream = if stream.rep() == STDERR { Stream::Err } else { Stream::Out };
            cx.data_mut().print(stream, &bytes);
            Ok((Streamed::Ok(()),))
        })?;
    }
    for name in ["[method]output-stream.flush", "[method]output-stream.blocking-flush"] {
        free(&mut streams, name, |(_,): (Resource<OutputStream>,)| Ok((Streamed::Ok(()),)))?;
    }
    free(&mut streams, "[method]output-stream.subscribe", |(_,): (Resource<OutputStream>,)| {
        Ok((Resource::<Pollable>::new_own(NOTHING),))
    })
}

/// A function that needs nothing of the guest but the fuel of the call.
fn free<Params, Return>(
    interface: &mut LinkerInstance<'_, Guest>,
    name: &str,
    function: impl Fn(Params) -> wasmtime::Result<Return> + Send + Sync + 'static,
) -> wasmtime::Result<()>
where
    Params: wasmtime::component::ComponentNamedList + wasmtime::component::Lift + 'static,
    Return: wasmtime::component::ComponentNamedList + Lower + 'static,
{
    interface.func_wrap(name, move |mut cx: Cx<'_>, params: Params| {
        charge(&mut cx, 0)?;
        function(params)
    })
}

/// A resource whose end nobody has to hear of.
fn resource<T: 'static>(interface: &mut LinkerInstance<'_, Guest>, name: &str) -> wasmtime::Result<()> {
    interface.resource(name, ResourceType::host::<T>(), |_, _| Ok(()))
}
