//! A seat: a worker that polls, and has its chair.

use std::sync::Arc;

use backstitch_client::tasks::TaskView;
use backstitch_ledger::Taking;
use tokio::time::Instant;

use super::chair::Chair;
use super::{Departure, Desk, PROMISED_WAIT, locked};

/// What a worker that waited has.
pub(crate) enum Woken {
    /// Tasks were handed over: it may leave with them.
    Tasks,
    /// There may be some in the database.
    Look,
    /// Nothing in time.
    Over,
}

/// A worker's place at the desk. What was handed over and not taken goes back when it is dropped.
pub(crate) struct Seat {
    pub(super) desk: Desk,
    pub(super) chair: Arc<Chair>,
    /// Its worker left and comes back to it.
    pub(super) is_kept: bool,
}

impl Seat {
    /// The terms of one handing-out to its worker.
    pub(crate) fn taking(&self) -> Taking {
        self.desk.taking(&self.chair)
    }

    /// How many tasks its worker may look for in the database. The others it takes may be promised meanwhile.
    pub(crate) fn look(&self) -> u32 {
        let shares = self.desk.returns(&self.chair) && self.desk.is_drained(&self.chair);
        let looks_for = {
            let mut state = locked(&self.chair.state);
            let free = state.free().min(state.asked);
            (state.closed, state.looks_for) = (!shares, if shares { free - free / 2 } else { free });
            // Whoever offers from now on is counted behind what the caller has seen.
            state.look = false;
            state.looks_for
        };
        self.desk.refresh(&self.chair);
        looks_for
    }

    /// Its worker leaves with these tasks and those that were handed over. If it has room for more and is one that
    /// comes back, its seat is kept.
    pub(crate) fn leave(mut self, mut tasks: Vec<TaskView>) -> Vec<TaskView> {
        let returns = self.desk.returns(&self.chair);
        let mut state = locked(&self.chair.state);
        let more = (state.asked as usize).saturating_sub(tasks.len()).min(state.tasks.len());
        tasks.extend(state.tasks.drain(..more));
        state.max = state.max.saturating_sub(u32::try_from(tasks.len()).unwrap_or(u32::MAX));
        state.open();
        let has_room = state.max > 0;
        let was_told_to_look = std::mem::take(&mut state.look);
        if has_room && returns {
            self.is_kept = true;
            state.expected = true;
            state.departures += 1;
            self.end_unless_back(state.departures);
        }
        drop(state);
        if self.is_kept {
            self.desk.keep(&self.chair);
        }
        if was_told_to_look {
            // Somebody else may do so sooner; it does when it comes back.
            self.desk.look(&self.chair.queue);
        }
        self.desk.departs(&self.chair, Departure { at: has_room.then(Instant::now), returns });
        tasks
    }

    /// Ends the time for which it is kept.
    fn end_unless_back(&self, departure: u64) {
        let (desk, chair) = (self.desk.clone(), Arc::clone(&self.chair));
        tokio::spawn(async move {
            tokio::time::sleep(desk.inner.return_wait).await;
            let mut state = locked(&chair.state);
            let is_over = state.expected && state.departures == departure;
            state.expected &= !is_over;
            drop(state);
            if is_over {
                drop(Seat { desk, chair, is_kept: false });
            }
        });
    }

    /// Waits for something to do; `seen` offers had been made when there was nothing in the database.
    pub(crate) async fn wait(&self, until: Instant, seen: u64) -> Woken {
        let mut until = until;
        locked(&self.chair.state).open();
        self.desk.refresh(&self.chair);
        // An offer counts itself before it looks for somebody to wake, who has room.
        if self.desk.offers(&self.chair.queue) != seen {
            return Woken::Look;
        }
        let mut enough = usize::MAX;
        loop {
            {
                let mut state = locked(&self.chair.state);
                let enough_now = enough.min(state.asked as usize);
                if state.promised == 0 || state.tasks.len() >= enough_now || Instant::now() >= until {
                    if !state.tasks.is_empty() {
                        return Woken::Tasks;
                    }
                    if std::mem::take(&mut state.look) {
                        return Woken::Look;
                    }
                    if Instant::now() >= until {
                        return Woken::Over;
                    }
                } else if !state.tasks.is_empty() && enough == usize::MAX {
                    // Those that were promised are being committed. What is promised from now on is for the next
                    // time, if there will be one.
                    enough = state.tasks.len() + state.promised as usize;
                    if !self.desk.returns(&self.chair) {
                        state.closed = true;
                    }
                    until = until.min(Instant::now() + PROMISED_WAIT);
                }
            }
            let _ = tokio::time::timeout_at(until, self.chair.changed.notified()).await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        {
            let mut waiting = locked(&self.desk.inner.waiting);
            if let Some(line) = waiting.get_mut(&self.chair.queue) {
                line.leave(&self.chair);
                if line.is_empty() {
                    waiting.remove(&self.chair.queue);
                }
            }
        }
        let mut state = locked(&self.chair.state);
        state.left = true;
        let (tasks, look) = (std::mem::take(&mut state.tasks), state.look);
        drop(state);
        if !tasks.is_empty() {
            (self.desk.inner.give_back)(self.chair.queue.tenant, tasks);
        }
        if look {
            // Somebody else has to.
            self.desk.look(&self.chair.queue);
        }
    }
}
