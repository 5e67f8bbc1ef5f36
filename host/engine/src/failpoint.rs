//! Named places where a test may have this process die by SIGKILL, a reply be lost, or whoever comes by wait.
//!
//! Only builds with debug assertions have them: in a release build [`point`] and [`gate`] are nothing. A test names
//! one place and which visit in `BACKSTITCH_CRASH=place:visit`; production code never sets it.
//!
//! A gate is shut as long as there is a file of its name in the folder `BACKSTITCH_GATES`; who waits there leaves a
//! file `NAME.reached`, and takes one `NAME.pass` to go through.

/// Every place, in the order in which an activation meets them.
pub const POINTS: [&str; 10] = [
    "claim-before",
    "claim-after",
    "activation-middle",
    "append-before",
    "append-sent",
    "append-after",
    "activity-during",
    "activity-done",
    "lease-renewal",
    "takeover-middle",
];

/// Those that a host meets when it looks at a schedule: what is to be done is decided, done, written down.
pub const SCHEDULE_POINTS: [&str; 3] = ["schedule-decided", "schedule-done", "schedule-noted"];

/// Every gate besides the writer's points: a ledger was read, and nobody has it yet.
pub const GATES: [&str; 1] = ["load-after"];

/// What the writer calls at its own points; there `append-sent:drop` loses one reply instead.
#[cfg(debug_assertions)]
pub fn writer_hook() -> Option<backstitch_ledger::HookFn> {
    use std::sync::atomic::{AtomicBool, Ordering};

    let chosen = crate::ambient::variable("BACKSTITCH_CRASH");
    if chosen.is_none() && crate::ambient::variable("BACKSTITCH_GATES").is_none() {
        return None;
    }
    let lost = AtomicBool::new(chosen.as_deref() != Some("append-sent:drop"));
    Some(std::sync::Arc::new(move |place| {
        if place == "append-sent" && !lost.swap(true, Ordering::Relaxed) {
            return backstitch_ledger::Hook::DropReply;
        }
        point(place);
        if shut(place) {
            tokio::task::block_in_place(|| {
                std::thread::sleep(GATE_POLL);
                while shut(place) {
                    std::thread::sleep(GATE_POLL);
                }
            });
        }
        backstitch_ledger::Hook::Go
    }))
}

/// None.
#[cfg(not(debug_assertions))]
pub fn writer_hook() -> Option<backstitch_ledger::HookFn> {
    None
}

/// Dies here if a test asked for it, over this run: `BACKSTITCH_CRASH=guest-of=WORKFLOW_ID` takes every host down that
/// leads it, `attempt-of=WORKFLOW_ID` every host that makes an attempt of its calls.
#[cfg(debug_assertions)]
pub fn over(what: &'static str, workflow_id: &str) {
    use std::sync::LazyLock;

    static CHOSEN: LazyLock<Option<(String, String)>> = LazyLock::new(|| {
        let text = crate::ambient::variable("BACKSTITCH_CRASH")?;
        let (what, workflow_id) = text.split_once('=')?;
        Some((what.to_owned(), workflow_id.to_owned()))
    });
    if CHOSEN.as_ref().is_some_and(|chosen| (chosen.0.as_str(), chosen.1.as_str()) == (what, workflow_id)) {
        die();
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub fn over(_what: &'static str, _workflow_id: &str) {}

/// Nothing may run after this: no destructor, no flush, as when the power fails.
#[cfg(debug_assertions)]
fn die() {
    let me = rustix::process::getpid();
    let _ = rustix::process::kill_process(me, rustix::process::Signal::KILL);
    loop {
        std::thread::park();
    }
}

/// Dies here if a test asked for it.
#[cfg(debug_assertions)]
pub fn point(name: &'static str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    static CHOSEN: LazyLock<Option<(String, AtomicU32)>> = LazyLock::new(|| {
        let text = crate::ambient::variable("BACKSTITCH_CRASH")?;
        let (name, visit) = text.split_once(':').unwrap_or((&text, "1"));
        let visit = visit.parse().ok().filter(|visit| *visit > 0)?;
        Some((name.to_owned(), AtomicU32::new(visit)))
    });
    let mut known = POINTS.iter().chain(&SCHEDULE_POINTS);
    debug_assert!(known.any(|known| *known == name), "{name} is not in the table");
    if let Some((chosen, visits_left)) = &*CHOSEN
        && chosen == name
        && visits_left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        die();
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub fn point(_name: &'static str) {}

/// How often whoever waits at a gate looks whether it is open.
#[cfg(debug_assertions)]
const GATE_POLL: std::time::Duration = std::time::Duration::from_millis(1);

/// Whether a test keeps this gate shut.
#[cfg(debug_assertions)]
fn shut(name: &str) -> bool {
    use std::path::PathBuf;
    use std::sync::LazyLock;

    static GATES: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| crate::ambient::variable("BACKSTITCH_GATES").map(PathBuf::from));
    let shut = |gates: &PathBuf| {
        let is_shut = gates.join(name).exists();
        let reached = gates.join(format!("{name}.reached"));
        let pass = gates.join(format!("{name}.pass"));
        if is_shut && pass.exists() {
            // In this order: whoever sees no pass sees nobody here but the next.
            let _ = std::fs::remove_file(reached);
            let _ = std::fs::remove_file(pass);
            return false;
        }
        if is_shut {
            // For the test to see.
            let _ = std::fs::write(reached, "");
        }
        is_shut
    };
    GATES.as_ref().is_some_and(shut)
}

/// Waits here as long as a test wants it to. The writer's own points are gates too.
#[cfg(debug_assertions)]
pub async fn gate(name: &'static str) {
    debug_assert!(GATES.contains(&name), "{name} is not in the table");
    while shut(name) {
        tokio::time::sleep(GATE_POLL).await;
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub async fn gate(_name: &'static str) {}
