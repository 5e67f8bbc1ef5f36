//! What guests say, on its way to the host's log: bounded, escaped, and silent on replay.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use backstitch_core::{RunId, fault, limits};

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
        self.emit(level, &printable(text, limits::LOG_LINE_BYTES_MAX));
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

/// `text` cut to `bytes_max`, with everything escaped that could move a terminal's cursor, hide what
/// stands next to it or pass for another line of the log.
pub(crate) fn printable(text: &str, bytes_max: usize) -> Cow<'_, str> {
    let deceives = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    if text.len() <= bytes_max && !text.contains(deceives) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len().min(bytes_max));
    for c in text.chars() {
        if line.len() > bytes_max {
            break;
        }
        if deceives(c) {
            write!(line, "{}", c.escape_default()).expect("writing to a string cannot fail");
        } else {
            line.push(c);
        }
    }
    fault::cut(&mut line, bytes_max);
    Cow::Owned(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_forge_a_line_or_move_the_cursor() {
        assert_eq!(printable("größe ✓", 100), "größe ✓");
        assert_eq!(printable("a\nERROR forged\u{1b}[2J", 100), "a\\nERROR forged\\u{1b}[2J");
        assert_eq!(printable("x\u{202e}y", 100), "x\\u{202e}y");
        assert_eq!(printable(&"é".repeat(50), 30), format!("{} …(cut)", "é".repeat(10)));
        assert!(printable(&"\u{1}".repeat(50), 30).len() <= 30);
    }
}
