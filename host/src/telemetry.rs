//! Where events of this program go: to stderr, filtered, as text for people or JSON for machines.
//!
//! Stdout belongs to data. The `backstitch::activity` target carries one event for each attempt of an
//! activity that starts, which is what an audit of executions counts.
//!
//! An event is one line, whatever a guest, a client or a service has put into it: what could pass for another line,
//! or move the cursor of whoever reads it, is written out ([`printable`]).

use std::io::{self, Write};

use backstitch_core::printable;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// What is shown unless a filter is given: our own news, and only the complaints of others.
pub const FILTER_DEFAULT: &str = "warn,backstitch=info,backstitch_core=info,backstitch_ledger=info,\
                                  backstitch_sandbox=info,backstitch_worker=info";

/// How events are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One line for people.
    #[default]
    Text,
    /// One JSON object a line, fields at the top level.
    Json,
}

/// Why events cannot be written as asked.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("the log filter {filter:?} cannot be read: {source}")]
    Filter {
        /// As given.
        filter: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// Called twice in one process.
    #[error("events of this process go somewhere already")]
    Taken,
}

/// Sends the events of this process to stderr. `filter` is a list such as `info,backstitch=debug`.
pub fn init(filter: Option<&str>, format: LogFormat, colour: bool) -> Result<(), TelemetryError> {
    let filter = filter.unwrap_or(FILTER_DEFAULT);
    let filter = EnvFilter::try_new(filter)
        .map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })?;
    let writer = move || Lines { to: io::stderr(), format, colour };
    let events = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match format {
        LogFormat::Text => events.with_ansi(colour).try_init(),
        LogFormat::Json => {
            events.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
        }
    }
    .map_err(|_| TelemetryError::Taken)
}

/// Writes events, each of which comes at once and becomes one line.
struct Lines<W> {
    to: W,
    format: LogFormat,
    colour: bool,
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let line = match self.format {
            LogFormat::Text => one_line(text, self.colour),
            LogFormat::Json => printable::json(text).into_owned(),
        };
        // All at once: events of two threads do not mix.
        self.to.write_all(format!("{line}\n").as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// What the log colours with, after an escape. A value can have these too, and do no more with them.
const COLOURS: [&str; 9] = ["[0m", "[1m", "[2m", "[3m", "[31m", "[32m", "[33m", "[34m", "[35m"];

/// One line of text.
fn one_line(text: &str, colour: bool) -> String {
    let mut parts = text.split('\x1b');
    let mut line = parts.next().map(printable::line).unwrap_or_default().into_owned();
    for part in parts {
        let is_colour = colour && COLOURS.iter().any(|colour| part.starts_with(colour));
        line.push_str(if is_colour { "\x1b" } else { "\\u{1b}" });
        line.push_str(&printable::line(part));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: LogFormat, colour: bool, log: impl FnOnce()) -> String {
        use std::sync::{Arc, Mutex};
        #[derive(Clone, Default)]
        struct Shared(Arc<Mutex<Vec<u8>>>);
        impl Write for Shared {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let shared = Shared::default();
        let to = shared.clone();
        let writer = move || Lines { to: to.clone(), format, colour };
        let events = tracing_subscriber::fmt().with_writer(writer);
        match format {
            LogFormat::Text => tracing::subscriber::with_default(events.with_ansi(colour).finish(), log),
            LogFormat::Json => tracing::subscriber::with_default(events.json().finish(), log),
        }
        let bytes = shared.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        const FORGED: &str = "a\nERROR forged\r\u{1b}[2J\u{9b}1A\u{2028}b";
        let log = || tracing::info!(quoted = FORGED, shown = %FORGED, "{FORGED}");
        for (format, colour) in [(LogFormat::Text, false), (LogFormat::Text, true), (LogFormat::Json, false)]
        {
            let line = written(format, colour, log);
            assert_eq!(line.matches('\n').count(), 1, "{line:?}");
            assert!(!line.contains(['\r', '\u{9b}', '\u{2028}']) && !line.contains("\u{1b}[2J"), "{line:?}");
            assert_eq!(line.contains('\u{1b}'), colour, "{line:?}");
            assert_eq!(line.matches("forged").count(), 3, "{line:?}");
        }
    }

    #[test]
    fn the_default_filter_can_be_read() {
        assert!(EnvFilter::try_new(FILTER_DEFAULT).is_ok());
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_an_error_and_not_silence() {
        assert!(matches!(
            init(Some("backstitch=loud"), LogFormat::Text, false),
            Err(TelemetryError::Filter { .. })
        ));
    }
}
