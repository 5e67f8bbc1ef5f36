//! Landlock and seccomp, by the crates of their own people: both write kernel structures that we would get wrong.

use std::collections::BTreeMap;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetCreated, RulesetStatus, Scope,
};
use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::report::CageReport;

/// What a process needs that has its three descriptors open and its threads started: to read, to write, to have
/// memory, to run machine code in it, to wait for its threads, to know the time, to end.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_close,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // The image of a linear memory is a file without a name, sealed once it is written.
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    libc::SYS_fcntl,
    libc::SYS_membarrier,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// What is inherited by the threads that are started next.
pub(super) fn before_threads(report: &mut CageReport) {
    let mut or_missing = |what: &str, done: Result<(), String>| {
        if let Err(why) = done {
            report.missing.push(format!("{what}: {why}"));
        }
    };
    // A host that dies before this line closes our standard input, and half a component ends us.
    let signal = set_parent_process_death_signal(Some(Signal::KILL));
    or_missing("parent-death signal", signal.map_err(|error| error.to_string()));
    let dumpable = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    or_missing("not dumpable", dumpable.map_err(|error| error.to_string()));
    or_missing("Landlock", landlock());
}

/// What holds for all threads.
pub(super) fn after_threads(report: &mut CageReport) {
    if let Err(why) = seccomp() {
        report.missing.push(format!("seccomp: {why}"));
    }
}

/// No file, no TCP, no signal to anybody outside, as far as the kernel knows how. It sets `no_new_privs` as well.
fn landlock() -> Result<(), String> {
    // What newer kernels can do beside it is about sockets and processes, which seccomp refuses.
    const KNOWN: ABI = ABI::V6;
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(KNOWN)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(KNOWN)))
        .and_then(Ruleset::create)
        .and_then(RulesetCreated::restrict_self);
    match ruleset.map_err(|error| error.to_string())?.ruleset {
        RulesetStatus::FullyEnforced => Ok(()),
        RulesetStatus::PartiallyEnforced => Err("in part, because the kernel is older than 6.12".to_owned()),
        RulesetStatus::NotEnforced => Err("the kernel has none, or it is switched off".to_owned()),
    }
}

/// Refused calls fail with `EPERM` instead of ending the process: a library that tries something in vain goes on
/// without, and a kernel or a C library that is newer than this list is no outage.
fn seccomp() -> Result<(), String> {
    let told = |error: seccompiler::Error| error.to_string();
    let program = allowing().map_err(|error| error.to_string())?;
    seccompiler::apply_filter_all_threads(&program).map_err(told)
}

fn allowing() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|number| (*number, Vec::new())).collect();
    // A name for a thread or a mapping, and nothing else that `prctl` does.
    let names = [libc::PR_SET_NAME as u64, libc::PR_SET_VMA as u64];
    let names = names.map(|name| argument(0, SeccompCmpArgLen::Dword, name));
    rules.insert(libc::SYS_prctl, names.into_iter().collect::<Result<_, _>>()?);
    // `abort` signals itself; nobody else is signalled.
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![argument(0, SeccompCmpArgLen::Dword, own)?]);
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    SeccompFilter::new(rules, refused, SeccompAction::Allow, arch)?.try_into()
}

fn argument(
    index: u8,
    length: SeccompCmpArgLen,
    value: u64,
) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(index, length, SeccompCmpOp::Eq, value)?])
}
