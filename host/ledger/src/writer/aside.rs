//! Appends that wait for a lock which somebody else holds, and what was sent behind them: set aside, so that nobody
//! else's wait with them.
//!
//! One run is tried at a time, the one that was tried longest ago, and only for a moment: the writer has one connection.
//! While none gets through, the tries grow rarer; as soon as one does, the others follow at once.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use backstitch_core::{RunId, limits};
use tokio::time::Instant;

use crate::append::Item;

/// First and longest pause between two tries.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// What is set aside.
#[derive(Default)]
pub(super) struct Aside {
    lines: VecDeque<Line>,
    runs: HashSet<RunId>,
    items: usize,
    next: Option<Instant>,
    pause: Duration,
}

/// The appends of one run, in their order.
pub(super) struct Line {
    pub(super) run: RunId,
    pub(super) items: Vec<Item>,
    /// A statement with the first of them was of unknown fate once.
    pub(super) repeated: bool,
}

impl Aside {
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether no more is taken on until some of it got through.
    pub(super) fn is_full(&self) -> bool {
        self.items >= limits::APPENDS_ASIDE_MAX
    }

    /// Whether anything of a run is set aside.
    pub(super) fn holds(&self, run: RunId) -> bool {
        self.runs.contains(&run)
    }

    /// Sets appends of one run aside, before or behind those of it that are.
    pub(super) fn put(&mut self, items: Vec<Item>, repeated: bool) {
        let Some(run) = items.first().map(|item| item.append.run) else { return };
        self.items += items.len();
        if self.runs.insert(run) {
            tracing::warn!(%run, "an append waits for a lock that somebody else holds; others go on");
            self.lines.push_back(Line { run, items, repeated });
        } else if let Some(line) = self.lines.iter_mut().find(|line| line.run == run) {
            line.items.extend(items);
        }
        if self.next.is_none() {
            self.pause = self.pause.max(PAUSE.0);
            self.next = Some(Instant::now() + self.pause);
        }
    }

    /// Takes out of `pending`, from the place `from` on, what belongs behind something that is set aside.
    pub(super) fn keep_back(&mut self, pending: &mut Vec<Item>, from: usize) {
        if self.runs.is_empty() {
            return;
        }
        for item in pending.extract_if(from.., |item| self.runs.contains(&item.append.run)) {
            self.items += 1;
            let line = self.lines.iter_mut().find(|line| line.run == item.append.run);
            line.expect("each run has a line").items.push(item);
        }
    }

    /// The run whose turn it is, if it is time.
    pub(super) fn take(&mut self) -> Option<Line> {
        if self.next.is_none_or(|next| next > Instant::now()) {
            return None;
        }
        let line = self.lines.pop_front()?;
        self.runs.remove(&line.run);
        self.items -= line.items.len();
        self.next = None;
        Some(line)
    }

    /// What became of the run that was taken: `waits` if it was set aside again.
    pub(super) fn tried(&mut self, waits: bool) {
        self.pause = if waits { (self.pause * 2).clamp(PAUSE.0, PAUSE.1) } else { Duration::ZERO };
        self.next = (!self.lines.is_empty()).then(|| Instant::now() + self.pause);
    }

    /// Ends when it is time for the next try.
    pub(super) async fn due(&self) {
        match self.next {
            Some(next) => tokio::time::sleep_until(next).await,
            None => std::future::pending().await,
        }
    }

    /// All of it.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Item> {
        let lines = std::mem::take(self).lines;
        lines.into_iter().flat_map(|line| line.items)
    }
}
