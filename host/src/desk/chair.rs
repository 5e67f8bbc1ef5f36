//! A chair: what is known of one worker at the desk, and what it has been promised.

use std::sync::{Arc, Mutex};

use backstitch_client::tasks::TaskView;
use tokio::sync::Notify;

use super::{Queue, Wish, locked};

/// A worker that waits, or is expected.
pub(super) struct Chair {
    /// Of all chairs of the desk, it alone has it.
    pub(super) number: u64,
    pub(super) queue: Queue,
    pub(super) wish: Wish,
    pub(super) state: Mutex<State>,
    pub(super) changed: Notify,
}

/// What changes about a chair.
#[derive(Default)]
pub(super) struct State {
    /// Tasks that this poll takes.
    pub(super) asked: u32,
    /// Tasks that the worker takes, now or with its next poll.
    pub(super) max: u32,
    /// Answers that the worker has not heard to have arrived. It may not have counted with them when it said what it
    /// takes.
    pub(super) unheard: u32,
    /// Nothing is promised to it.
    pub(super) closed: bool,
    /// Tasks that it looks for in the database.
    pub(super) looks_for: u32,
    /// Promised and not there yet.
    pub(super) promised: u32,
    pub(super) tasks: Vec<TaskView>,
    /// There is something in the database.
    pub(super) look: bool,
    /// The worker is gone.
    pub(super) left: bool,
    /// The worker is on its way back.
    pub(super) expected: bool,
    /// Counts the times that it left and was expected.
    pub(super) departures: u64,
}

impl State {
    /// Tasks that the worker takes besides those that it has or was promised.
    pub(super) fn free(&self) -> u32 {
        let owed = self.promised.saturating_add(u32::try_from(self.tasks.len()).unwrap_or(u32::MAX));
        self.max.saturating_sub(owed)
    }

    /// Tasks that may be promised to the worker.
    pub(super) fn room(&self) -> u32 {
        if self.closed { 0 } else { self.free().saturating_sub(self.looks_for) }
    }

    /// Whether its worker may be told to look: one that has been told, or has tasks and is about to leave, need not
    /// be, and one that is expected looks when it comes.
    pub(super) fn is_idle(&self) -> bool {
        !self.look && !self.expected && self.tasks.is_empty() && self.room() > 0
    }

    /// Its worker waits, or is expected: all of its room is for promises.
    pub(super) fn open(&mut self) {
        (self.closed, self.looks_for) = (false, 0);
    }
}

impl Chair {
    /// Promises a task to the worker, if it wants more.
    pub(super) fn promise(&self) -> bool {
        let mut state = locked(&self.state);
        let has_room = state.room() > 0;
        state.promised += u32::from(has_room);
        has_room
    }

    /// The worker is back, and wants so many. False: it is somebody else's chair, or the worker's time is over.
    pub(super) fn take_again(&self, max: u32) -> bool {
        let mut state = locked(&self.state);
        let is_kept = std::mem::take(&mut state.expected);
        if is_kept {
            (state.asked, state.max, state.closed) = (max, max.saturating_add(state.unheard), true);
        }
        is_kept
    }

    /// Tells the worker to look into the database, unless it has been told.
    pub(super) fn wake(&self) -> bool {
        let mut state = locked(&self.state);
        let is_idle = state.is_idle();
        if is_idle {
            state.look = true;
            self.changed.notify_one();
        }
        is_idle
    }
}

/// A task that was answered, whose worker does not know that yet.
pub(crate) struct Answered {
    pub(super) chair: Arc<Chair>,
}

impl Drop for Answered {
    fn drop(&mut self) {
        locked(&self.chair.state).unheard -= 1;
    }
}
