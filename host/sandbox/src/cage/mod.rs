//! What keeps the process that looks at strangers' components to itself.
//!
//! That process reads hostile bytes with parsers and a compiler of a million lines, and runs a component's
//! `describe`. It needs three descriptors, memory and a processor, so that is all it has:
//!
//! | | what it takes away | where |
//! |---|---|---|
//! | resource limits | memory, processor time, files, descriptors, further processes, core dumps | every Unix |
//! | niceness | the host's turn on the processor | every Unix |
//! | parent-death signal | a life after the host | Linux |
//! | not dumpable, no new privileges | being traced by others of its user, programs that make it somebody else | Linux |
//! | Landlock | every file, TCP, signals to others | Linux 5.13 and later, unless it is left out |
//! | seccomp | every system call but those on the list in `linux.rs` | Linux |
//!
//! The first is the floor: a process that cannot have it ends. What else a kernel refuses is left out and told, once
//! in the host's log and by `backstitch doctor`, which has [`probe`] asked: a host on a kernel without Landlock is
//! worse off, not useless.
//!
//! Shut once, before the first byte of a component is read, and never opened again.

#[cfg(target_os = "linux")]
mod linux;
mod report;

use std::io;
use std::net::UdpSocket;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use backstitch_core::limits;
use rustix::process::{Resource, Rlimit, getpriority_process, getrlimit, setpriority_process, setrlimit};

pub use self::report::CageReport;

/// How much a caged process may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Memory that it can write to.
    pub(crate) memory_bytes: u64,
    /// Address space. Reservations count.
    pub(crate) address_bytes: u64,
    /// One file; a linear memory's image is one, in memory.
    pub(crate) file_bytes: u64,
    /// Processor time.
    pub(crate) cpu_seconds: u64,
}

/// Takes everything away. Starts the threads that the compiler works on first, because later there are none.
pub(crate) fn shut(bounds: Bounds) -> io::Result<CageReport> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for (resource, most) in [
        (Resource::As, bounds.address_bytes),
        (Resource::Data, bounds.memory_bytes),
        (Resource::Cpu, bounds.cpu_seconds),
        (Resource::Core, 0),
        (Resource::Fsize, bounds.file_bytes),
        (Resource::Nofile, limits::COMPILE_DESCRIPTORS_MAX),
    ] {
        bound(resource, most)?;
    }
    let mut report = CageReport::default();
    // Nobody waits for a compilation but whoever asked for it.
    let nicer = getpriority_process(None).unwrap_or(0).max(limits::COMPILE_NICENESS);
    if let Err(error) = setpriority_process(None, nicer) {
        report.missing.push(format!("niceness: {error}"));
    }
    #[cfg(target_os = "linux")]
    linux::before_threads(&mut report);
    #[cfg(not(target_os = "linux"))]
    report.missing.push("Landlock and seccomp: this is not Linux".to_owned());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    pool.map_err(io::Error::other)?;
    bound(Resource::Nproc, 0)?;
    #[cfg(target_os = "linux")]
    linux::after_threads(&mut report);
    Ok(report)
}

/// An operator may have set less, which cannot be raised.
fn bound(resource: Resource, most: u64) -> io::Result<()> {
    let most = getrlimit(resource).maximum.map_or(most, |maximum| maximum.min(most));
    Ok(setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?)
}

/// Shuts the cage around this process and tries to get out of it.
pub(crate) fn probe(bounds: Bounds) -> io::Result<CageReport> {
    let mut report = shut(bounds)?;
    let mut tried = |what: &str, worked: bool| {
        if worked {
            report.escapes.push(what.to_owned());
        }
    };
    tried("to read a file", std::fs::File::open("/etc/passwd").is_ok());
    tried("to read its own folder", std::fs::read_dir(".").is_ok());
    tried("to write a file", std::fs::File::create("/tmp/backstitch-escaped").is_ok());
    tried("to open a socket", UdpSocket::bind("127.0.0.1:0").is_ok());
    tried("to open a pair of sockets", std::os::unix::net::UnixStream::pair().is_ok());
    let another = Command::new("/proc/self/exe").arg("--version").spawn();
    tried("to start another process", another.map(|mut child| child.wait()).is_ok());
    tried("to start a thread", std::thread::Builder::new().spawn(|| ()).is_ok());
    // If this works, nobody is left to tell: the missing report does.
    let _ = Command::new("/bin/true").exec();
    Ok(report)
}
