//! The child's side: shuts its cage, reads a component, answers in frames. What goes wrong with the process itself
//! is told on standard error and by the exit code.

use std::io::{self, Read as _};
use std::process::ExitCode;
use std::sync::Arc;

use backstitch_core::{Fault, Rules, limits};
use serde::Serialize;

use super::frame::{self, Tag};
use super::job::{CompileError, Job, machine_code};
use crate::admit;
use crate::artefact::Artefact;
use crate::cage::{self, Bounds};
use crate::describe;
use crate::described::Described;
use crate::egress::{Egress, EgressConfig};
use crate::engine::{self, Build};
use crate::fault;
use crate::guest_time::GuestTime;
use crate::means::Means;
use crate::program::{Program, link};
use crate::room::Room;

/// The whole of a child, to be called before any thread is started.
pub fn compile_child_main(job: Job) -> ExitCode {
    match carry_out(job) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(job: Job) -> io::Result<()> {
    let mut to = io::stdout().lock();
    let rules = match job {
        Job::Probe => return answer(&mut to, Tag::Report, &cage::probe(bounds())?),
        Job::Component => Rules::CURRENT,
        Job::ComponentOfFirst => Rules::First,
    };
    // It reads its certificate authorities, which are part of the program, and nothing else.
    let egress = Egress::new(EgressConfig::default()).map_err(io::Error::other)?;
    answer(&mut to, Tag::Report, &cage::shut(bounds())?)?;
    let mut bytes = Vec::new();
    io::stdin().lock().take(limits::COMPONENT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    let verdict = admit::admit(&bytes).map(|admitted| admitted.kind);
    answer(&mut to, Tag::Verdict, &verdict)?;
    let Ok(kind) = verdict else { return Ok(()) };
    let build = Build::new(kind, rules);
    let code = match machine_code(build, &bytes) {
        Ok(code) => code,
        Err(error @ CompileError::Host(_)) => return Err(io::Error::other(error)),
        Err(CompileError::Rejected(why)) => return frame::write(&mut to, Tag::Rejected, why.as_bytes()),
        Err(error) => return frame::write(&mut to, Tag::Rejected, error.to_string().as_bytes()),
    };
    frame::write(&mut to, Tag::Code, &code)?;
    answer(&mut to, Tag::Described, &described(build, code, Arc::new(egress)))
}

/// Memory for what is compiled, and address space for the linear memories of what is run, which are reserved whole and
/// filled in part. Their images are files in memory.
fn bounds() -> Bounds {
    const RESERVED_BYTES: u64 = 5 << 30;
    Bounds {
        memory_bytes: limits::COMPILE_MEMORY_BYTES_MAX,
        address_bytes: limits::COMPILE_MEMORY_BYTES_MAX + limits::MEMORIES_MAX as u64 * RESERVED_BYTES,
        file_bytes: limits::ACTIVITY_MEMORY_BYTES_MAX as u64,
        cpu_seconds: cpu_seconds_max(),
    }
}

/// Its threads share the work. The parent watches the clock; this is for a child whose parent is gone.
fn cpu_seconds_max() -> u64 {
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    limits::COMPILE_MS_MAX.div_ceil(1000).saturating_mul(threads)
}

fn answer(to: &mut impl io::Write, tag: Tag, content: &impl Serialize) -> io::Result<()> {
    frame::write(to, tag, &serde_json::to_vec(content)?)
}

/// What the component says of itself. Its own code runs here, and nobody else's data is near.
fn described(build: Build, code: Vec<u8>, egress: Arc<Egress>) -> Result<Vec<Described>, Fault> {
    let unfit = |error: wasmtime::Error| fault::of_instantiation(&error, None);
    let engine = engine::compiler(build).map_err(unfit)?;
    let component = Artefact::vouched(code).load(&engine).map_err(unfit)?;
    // The parent looks at the clock, and the cage at the memory.
    let means = Means { egress, guest_time: GuestTime::default(), clock: None, room: Room::new(usize::MAX) };
    match link(build, &component, &means).map_err(unfit)? {
        Program::Workflow(program) => describe::workflows(&program),
        Program::Activity(program) => {
            // No socket and no clock of the system's: there are no descriptors for them.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let runtime = runtime.expect("a runtime of one thread takes nothing that can fail");
            runtime.block_on(program.describe())
        }
    }
}
