//! Tells where a workflow or an activity panicked. A panic is a trap, a trap parks the run, and what a
//! trap says by itself is a list of addresses: the hook sends file, line and message ahead of it.

use std::panic::PanicHookInfo;

/// Installs the hook. Called by the first activation; a run's instance lives through one of them.
#[cfg(target_family = "wasm")]
pub(crate) fn install_hook() {
    std::panic::set_hook(Box::new(|info| {
        crate::bindings::workflow::backstitch::workflow::host::report_panic(&report(info));
    }));
}

/// The same for an attempt of an activity, whose failure has what is said. Where there is a standard error, it is
/// said there too.
#[cfg(target_family = "wasm")]
pub(crate) fn install_attempt_hook() {
    #[cfg(target_os = "wasi")]
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        crate::bindings::activity::backstitch::workflow::last_words::report_panic(&report(info));
        #[cfg(target_os = "wasi")]
        before(info);
    }));
}

/// `src/lib.rs:12:5: the message`.
#[cfg_attr(not(any(test, target_family = "wasm")), expect(dead_code, reason = "natively only tests use it"))]
fn report(info: &PanicHookInfo<'_>) -> String {
    let message = info.payload_as_str().unwrap_or("a panic whose payload is not text");
    match info.location() {
        Some(location) => format!("{location}: {message}"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_report_names_file_line_and_message() {
        let (reports, received) = mpsc::channel();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            reports.send(report(info)).expect("the receiver outlives the hook");
        }));
        let line = line!() + 1;
        let caught = std::panic::catch_unwind(|| panic!("shelf {} is empty", 7));
        std::panic::set_hook(before);
        assert!(caught.is_err());
        // Other tests may panic meanwhile: theirs are not of this line.
        let here = format!("{}:{line}:", file!());
        let ours = received.try_iter().find(|report| report.starts_with(&here));
        assert!(ours.expect("a report of this line").ends_with(": shelf 7 is empty"));
    }
}
