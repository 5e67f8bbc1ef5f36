//! The memory that all guests of a host have together: one budget of bytes, besides what each may have at most. It is
//! their linear memory, and what the host holds for a workflow's guest that has not awaited it yet.
//!
//! | who wants more than there is | what becomes of it |
//! |---|---|
//! | a workflow's guest | gets it, for there are few that compute at a time; warm guests have to go: [`Room::is_short`] |
//! | an attempt of an activity | waits, and its bounds wait with it |
//! | an attempt on the thread of its caller | is left to be made in the ordinary way |
//!
//! Attempts that hold memory and wait for more could wait for each other. So one of them, the oldest of those that
//! want more than there is, may take the room over by as much as one attempt has at most; when it ends, the next.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// See the module. Clones are one.
#[derive(Clone, Debug)]
pub struct Room {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    bytes_max: usize,
    state: Mutex<State>,
    freed: Notify,
    short: Notify,
}

#[derive(Debug, Default)]
struct State {
    used: usize,
    /// What attempts wait for.
    wanted: usize,
    tickets: u64,
    /// Attempts that wait, by their age.
    waiting: BTreeSet<u64>,
    /// The one that need not.
    privileged: Option<u64>,
}

impl Room {
    /// Room for so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        let (freed, short) = (Notify::new(), Notify::new());
        Self { inner: Arc::new(Inner { bytes_max, state: Mutex::default(), freed, short }) }
    }

    /// Whether guests that only wait should make room.
    pub fn is_short(&self) -> bool {
        let state = self.state();
        state.used.saturating_add(state.wanted) > self.inner.bytes_max
    }

    /// Ends when room has become short since it was last asked.
    pub async fn short(&self) {
        self.inner.short.notified().await;
    }

    /// What guests have now.
    pub fn bytes_used(&self) -> usize {
        self.state().used
    }

    /// For a guest that has nothing yet.
    pub(crate) fn share(&self) -> Share {
        Share { room: self.clone(), bytes: 0, ticket: None }
    }

    /// For an attempt that may wait.
    pub(crate) fn share_of_attempt(&self) -> Share {
        let mut state = self.state();
        let ticket = state.tickets;
        state.tickets += 1;
        drop(state);
        let mut share = self.share();
        share.ticket = Some(ticket);
        share
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is a sum: there is no half of one to be seen.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one guest has of it. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Share {
    room: Room,
    bytes: usize,
    ticket: Option<u64>,
}

/// An attempt that waits for so much; no longer when this is dropped.
struct Wanted<'a>(&'a Room, usize, Option<u64>);

impl Share {
    /// Takes so much more, whether it is there or not.
    pub(crate) fn take(&mut self, bytes: usize) {
        self.room.state().used += bytes;
        self.bytes += bytes;
        if self.room.is_short() {
            self.room.inner.short.notify_one();
        }
    }

    /// Gives so much of it back.
    pub(crate) fn give_back(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.room.state().used -= bytes;
        self.bytes -= bytes;
        self.room.inner.freed.notify_waiters();
    }

    /// Takes so much more if it is there, or if this is the one attempt that need not wait.
    pub(crate) fn try_take(&mut self, bytes: usize) -> bool {
        let mut state = self.room.state();
        if state.used.saturating_add(bytes) > self.room.inner.bytes_max {
            let Some(ticket) = self.ticket else { return false };
            let is_oldest = state.waiting.first().is_none_or(|oldest| ticket <= *oldest);
            if state.privileged.is_none() && is_oldest {
                state.privileged = Some(ticket);
            }
            if state.privileged != Some(ticket) {
                return false;
            }
        }
        state.used += bytes;
        self.bytes += bytes;
        true
    }

    /// Takes so much more as soon as it is there.
    pub(crate) async fn wait_for(&mut self, bytes: usize) {
        let room = self.room.clone();
        let _wanted = Wanted::new(&room, bytes, self.ticket);
        loop {
            let freed = room.inner.freed.notified();
            tokio::pin!(freed);
            // Heard from here on: what is given back in between is not missed.
            freed.as_mut().enable();
            if self.try_take(bytes) {
                return;
            }
            room.inner.short.notify_one();
            freed.await;
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.room.state();
        state.used -= self.bytes;
        if self.ticket.is_some() && state.privileged == self.ticket {
            state.privileged = None;
        }
        drop(state);
        self.room.inner.freed.notify_waiters();
    }
}

impl<'a> Wanted<'a> {
    fn new(room: &'a Room, bytes: usize, ticket: Option<u64>) -> Self {
        let mut state = room.state();
        state.wanted += bytes;
        state.waiting.extend(ticket);
        drop(state);
        Self(room, bytes, ticket)
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.wanted -= self.1;
        if let Some(ticket) = &self.2 {
            state.waiting.remove(ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn who_finds_no_room_waits_but_for_one() {
        let room = Room::new(100);
        let (mut first, mut second, mut third) =
            (room.share_of_attempt(), room.share_of_attempt(), room.share_of_attempt());
        assert!(first.try_take(60) && second.try_take(30));
        assert!(first.try_take(60), "one may take the room over");
        assert!(!second.try_take(30), "and no other as long as it lives");
        let mut cx = Context::from_waker(Waker::noop());
        let mut waiting = pin!(third.wait_for(20));
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        assert!(room.is_short());
        drop(first);
        assert!(waiting.as_mut().poll(&mut cx).is_ready());
        assert!(!room.is_short());
        assert!(second.try_take(500), "it is the one now");
        drop(second);
        assert_eq!(room.bytes_used(), 20);
    }

    #[test]
    fn a_workflow_gets_what_it_wants_and_says_that_room_is_short() {
        let room = Room::new(100);
        let mut guest = room.share();
        guest.take(90);
        assert!(!room.is_short());
        guest.take(20);
        assert!(room.is_short());
        let mut cx = Context::from_waker(Waker::noop());
        assert!(pin!(room.short()).poll(&mut cx).is_ready());
        assert!(!room.share().try_take(1));
        guest.give_back(20);
        assert_eq!((room.is_short(), room.bytes_used()), (false, 90));
        drop(guest);
        assert_eq!((room.is_short(), room.bytes_used()), (false, 0));
    }
}
