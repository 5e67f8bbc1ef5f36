//! Where events of this program go: to stderr, filtered, as text for people or JSON for machines.
//!
//! Stdout belongs to data. The `backstitch::activity` target carries one event for each attempt of an
//! activity that starts, which is what an audit of executions counts.

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
    let events = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => events.with_ansi(colour).try_init(),
        LogFormat::Json => {
            events.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
        }
    }
    .map_err(|_| TelemetryError::Taken)
}

#[cfg(test)]
mod tests {
    use super::*;

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
