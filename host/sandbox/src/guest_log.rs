//! What guests say, on its way to the host's log: bounded, escaped, and silent on replay.

use std::sync::Arc;

use backstitch_core::{RunId, limits, printable};

use crate::world::types::Level;

/// Where a store's lines go: `tracing`, target `guest`, with the run and the name of what runs.
#[derive(Debug)]
pub(crate) struct GuestLog {
    run: Option<RunId>,
    name: Arc<str>,
    lines: usize,
    dropped: usize,
    is_muted: bool,
}

impl GuestLog {
    /// The log of a guest that works on `run`. None: it is only being described.
    pub(crate) fn new(run: Option<RunId>, name: Arc<str>) -> Self {
        Self { run, name, lines: 0, dropped: 0, is_muted: false }
    }

    /// Takes lines from now on and emits none.
    pub(crate) fn mute(&mut self) {
        self.is_muted = true;
    }

    /// Emits one line, or counts it if there were too many.
    pub(crate) fn line(&mut self, level: Level, text: &str) {
        if self.lines >= limits::LOG_LINES_PER_ACTIVATION_MAX {
            self.dropped += 1;
            return;
        }
        self.lines += 1;
        self.emit(level, &printable::line_of(text, limits::LOG_LINE_BYTES_MAX));
    }

    /// Closes an activation: says how many lines were too many, and counts anew.
    pub(crate) fn close(&mut self) {
        self.lines = 0;
        let dropped = std::mem::take(&mut self.dropped);
        if dropped > 0 {
            let max = limits::LOG_LINES_PER_ACTIVATION_MAX;
            self.emit(Level::Warn, &format!("{dropped} more lines dropped: an activation may log {max}"));
        }
    }

    fn emit(&self, level: Level, line: &str) {
        if self.is_muted {
            return;
        }
        let run = self.run.map(tracing::field::display);
        let name = &*self.name;
        match level {
            Level::Debug => tracing::debug!(target: "guest", run, name, "{line}"),
            Level::Info => tracing::info!(target: "guest", run, name, "{line}"),
            Level::Warn => tracing::warn!(target: "guest", run, name, "{line}"),
            Level::Error => tracing::error!(target: "guest", run, name, "{line}"),
        }
    }
}
