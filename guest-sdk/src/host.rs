//! The seam between the SDK and whoever runs it: the one place that knows whether the host is real.
//!
//! In a component the host is the WIT import. Natively it is whatever
//! [`TestRun`](crate::testing::TestRun) has put in place for this thread; a workflow function called
//! without one panics and says so. Nothing else in the SDK looks at the target.

use crate::bindings::types::{
    ActivityOptions, Attribute, ChildOptions, Edit, Event, Failure, History, Level, RunInfo, Target,
};

/// `interface host`, as a trait. See `wit/workflow.wit` for what each function promises.
pub(crate) trait Host {
    fn proxy_activity(&self, name: &str, input: &str, options: &ActivityOptions) -> u32;
    fn sleep_for(&self, ms: u64) -> u32;
    fn wait_for(&self, signal: &str) -> u32;
    fn start_child(&self, workflow: &str, input: &str, options: &ChildOptions) -> u32;
    fn cancel(&self, op: u32);
    fn shield(&self, op: u32);
    fn signal_run(&self, target: &Target, signal: &str, payload: &str) -> u32;
    fn cancel_run(&self, target: &Target) -> u32;
    fn answer_update(&self, id: &str, outcome: Result<&str, &Failure>);
    fn edit_entity(&self, path: &str, edit: &Edit) -> Result<(), String>;
    fn set_attributes(&self, attributes: &[Attribute]);
    fn entity(&self, path: &str) -> Option<String>;
    fn info(&self) -> RunInfo;
    fn patched(&self, change_id: &str) -> bool;
    fn deprecate_patch(&self, change_id: &str);
    fn history_size(&self) -> History;
    fn is_replaying(&self) -> bool;
    fn next_event(&self) -> Option<Event>;
    fn now_ms(&self) -> u64;
    fn random_u64(&self) -> u64;
    fn log(&self, level: Level, message: &str);
}

#[cfg(target_family = "wasm")]
pub(crate) use component::with;
#[cfg(not(target_family = "wasm"))]
pub(crate) use native::{install, with};

#[cfg(target_family = "wasm")]
mod component {
    use super::*;
    use crate::bindings::workflow::backstitch::workflow::host;

    struct Imported;

    /// Runs `f` with the host of this component.
    pub(crate) fn with<R>(f: impl FnOnce(&(dyn Host + 'static)) -> R) -> R {
        f(&Imported)
    }

    impl Host for Imported {
        fn proxy_activity(&self, name: &str, input: &str, options: &ActivityOptions) -> u32 {
            host::proxy_activity(name, input, options)
        }
        fn sleep_for(&self, ms: u64) -> u32 {
            host::sleep_for(ms)
        }
        fn wait_for(&self, signal: &str) -> u32 {
            host::wait_for(signal)
        }
        fn start_child(&self, workflow: &str, input: &str, options: &ChildOptions) -> u32 {
            host::start_child(workflow, input, options)
        }
        fn cancel(&self, op: u32) {
            host::cancel(op);
        }
        fn shield(&self, op: u32) {
            host::shield(op);
        }
        fn signal_run(&self, target: &Target, signal: &str, payload: &str) -> u32 {
            host::signal_run(target, signal, payload)
        }
        fn cancel_run(&self, target: &Target) -> u32 {
            host::cancel_run(target)
        }
        fn answer_update(&self, id: &str, outcome: Result<&str, &Failure>) {
            host::answer_update(id, outcome);
        }
        fn edit_entity(&self, path: &str, edit: &Edit) -> Result<(), String> {
            host::edit_entity(path, edit)
        }
        fn set_attributes(&self, attributes: &[Attribute]) {
            host::set_attributes(attributes);
        }
        fn entity(&self, path: &str) -> Option<String> {
            host::entity(path)
        }
        fn info(&self) -> RunInfo {
            host::info()
        }
        fn patched(&self, change_id: &str) -> bool {
            host::patched(change_id)
        }
        fn deprecate_patch(&self, change_id: &str) {
            host::deprecate_patch(change_id);
        }
        fn history_size(&self) -> History {
            host::history_size()
        }
        fn is_replaying(&self) -> bool {
            host::is_replaying()
        }
        fn next_event(&self) -> Option<Event> {
            host::next_event()
        }
        fn now_ms(&self) -> u64 {
            host::now_ms()
        }
        fn random_u64(&self) -> u64 {
            host::random_u64()
        }
        fn log(&self, level: Level, message: &str) {
            host::log(level, message);
        }
    }
}

#[cfg(not(target_family = "wasm"))]
mod native {
    use super::Host;
    use std::cell::RefCell;
    use std::rc::Rc;

    thread_local! {
        static CURRENT: RefCell<Option<Rc<dyn Host>>> = const { RefCell::new(None) };
    }

    /// Puts `host` in place for this thread until the guard is dropped.
    pub(crate) fn install(host: Rc<dyn Host>) -> Installed {
        let before = CURRENT.replace(Some(host));
        assert!(before.is_none(), "a test run is already under way on this thread");
        Installed
    }

    pub(crate) struct Installed;

    impl Drop for Installed {
        fn drop(&mut self) {
            CURRENT.set(None);
        }
    }

    /// Runs `f` with the host of this thread.
    pub(crate) fn with<R>(f: impl FnOnce(&(dyn Host + 'static)) -> R) -> R {
        let host = CURRENT.with_borrow(Clone::clone);
        f(&*host.expect("workflow code runs in a component, or natively under `testing::TestRun`"))
    }
}
