//! What programs are linked with, and what bounds their guests.

use std::sync::Arc;
use std::thread::JoinHandle;

use backstitch_core::Rules;
use wasmtime::Engine;

use crate::egress::Egress;
use crate::engine::EPOCH_TICK;
use crate::guest_time::GuestTime;
use crate::room::Room;

/// What programs are linked with.
#[derive(Clone, Debug)]
pub(crate) struct Means {
    pub(crate) egress: Arc<Egress>,
    /// How long a workflow's guest may compute.
    pub(crate) guest_time: GuestTime,
    /// None: somebody else looks at the clock.
    pub(crate) clock: Option<Arc<Clock>>,
    /// Of which guests have their memory.
    pub(crate) room: Room,
}

/// Moves the epochs of the engines on, for as long as there is a sandbox or a workflow of its.
#[derive(Debug)]
pub(crate) struct Clock {
    stop: Option<std::sync::mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Clock {
    /// Starts the thread.
    pub(crate) fn start<const N: usize>(engines: [&Engine; N]) -> std::io::Result<Self> {
        let engines = engines.map(Engine::clone);
        let (stop, stopped) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("guest-clock".into()).spawn(move || {
            while stopped.recv_timeout(EPOCH_TICK) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                engines.iter().for_each(Engine::increment_epoch);
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It only counts: it cannot have panicked.
            let _ = thread.join();
        }
    }
}

/// What bounds the guests of a workflow's program. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct GuestBounds {
    /// By which their fuel is counted, and that they can notice.
    pub(crate) rules: Rules,
    /// How long they may compute.
    pub(crate) time: GuestTime,
    /// Without which they would not look up.
    pub(crate) clock: Option<Arc<Clock>>,
    /// Of which they have a share.
    pub(crate) room: Room,
}
