//! What commands say: data on stdout, everything else on stderr.
//!
//! People get tables, programs get one JSON document. Colour only where a terminal shows it and
//! `NO_COLOR` does not forbid it. Whatever came from a guest or a client is shown as [`printable`] has it, so that
//! no payload can move the cursor of the terminal that looks at it. Where no terminal looks, payloads are written byte
//! for byte; where one does, as JSON of the same value.

use std::io::{self, IsTerminal, Write};

use backstitch_core::{RunStatus, printable};
use backstitch_engine::ambient;
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use serde::Serialize;

use super::exit::{CliError, CliResult};

/// Longest payload in a table's cell; the document of `--json` has all of it.
const CELL_BYTES_MAX: usize = 120;

/// Where a command's words go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    json: bool,
    quiet: bool,
    colour: bool,
    colour_notes: bool,
}

impl Output {
    /// For this process: looks at its terminal and environment.
    pub(super) fn new(json: bool, quiet: bool) -> Self {
        let allowed = ambient::variable("NO_COLOR").is_none()
            && ambient::variable("TERM").is_none_or(|term| term != "dumb");
        let (stdout, stderr) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        Self { json, quiet, colour: allowed && stdout, colour_notes: allowed && stderr }
    }

    #[cfg(test)]
    pub(super) fn plain() -> Self {
        Self { json: false, quiet: false, colour: false, colour_notes: false }
    }

    /// Whether a program reads.
    pub(super) fn is_json(self) -> bool {
        self.json
    }

    /// Whether stderr is for errors only.
    pub(super) fn is_quiet(self) -> bool {
        self.quiet
    }

    /// Whether stderr may be coloured.
    pub(super) fn colours_notes(self) -> bool {
        self.colour_notes
    }

    /// Whether a person watches stderr: progress bars are worth drawing.
    pub(super) fn is_watched(self) -> bool {
        !self.quiet && !self.json && io::stderr().is_terminal()
    }

    /// The answer: `document` for programs, `text` for people.
    pub(super) fn answer(self, document: &impl Serialize, text: impl FnOnce() -> String) -> CliResult {
        if self.json { self.document(document) } else { self.line(&text()) }
    }

    /// One line of data.
    pub(super) fn line(self, text: &str) -> CliResult {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(|error| CliError::output(&error))
    }

    /// The document of `--json`.
    pub(super) fn document(self, document: &impl Serialize) -> CliResult {
        let text = serde_json::to_string_pretty(document).map_err(|error| CliError::output(&error.into()))?;
        self.json(&text)
    }

    /// JSON text: byte for byte, or what a terminal may be shown of it.
    pub(super) fn json(self, text: &str) -> CliResult {
        if io::stdout().is_terminal() { self.line(&printable::json(text)) } else { self.line(text) }
    }

    /// A remark for a person. Nothing depends on it.
    pub(super) fn note(self, text: &str) {
        if !self.quiet && !self.json {
            // Not `eprintln`, which panics when stderr is closed.
            let _ = writeln!(io::stderr(), "{}", printable::lines(text));
        }
    }

    /// An error: the last words of a command.
    pub(super) fn error(self, error: &CliError) {
        if !error.silent {
            let text = if self.json {
                printable::json(&error.json().to_string()).into_owned()
            } else {
                error.text(self.colour_notes)
            };
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// A table of data.
    pub(super) fn table<const N: usize>(self, titles: [&str; N], rows: Vec<[Cell; N]>) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        if self.colour {
            table.set_content_arrangement(ContentArrangement::Dynamic);
        } else {
            table.force_no_tty();
        }
        table.set_header(titles.map(|title| Cell::new(title).add_attribute(Attribute::Bold)));
        for row in rows {
            table.add_row(row);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }
}

/// JSON text in bytes, as they are, unless a terminal looks at it.
pub(super) fn raw(bytes: &[u8]) -> CliResult {
    let mut stdout = io::stdout().lock();
    let shown = stdout.is_terminal().then(|| String::from_utf8_lossy(bytes));
    let shown = shown.as_ref().map(|text| printable::json(text));
    let bytes = shown.as_ref().map_or(bytes, |text| text.as_bytes());
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| CliError::output(&error))
}

/// A cell of text that is ours or has been checked.
pub(super) fn cell(text: impl ToString) -> Cell {
    Cell::new(text)
}

/// A cell of text that somebody else chose: printable, and cut.
pub(super) fn foreign(text: &str) -> Cell {
    let mut text = printable::line(&text.replace(['\n', '\t'], " ")).into_owned();
    printable::cut(&mut text, CELL_BYTES_MAX);
    Cell::new(text)
}

/// A cell that may be empty.
pub(super) fn optional(value: Option<impl ToString>) -> Cell {
    value.map_or_else(|| Cell::new("-"), Cell::new)
}

/// A status in its colour.
pub(super) fn status(status: RunStatus) -> Cell {
    let colour = match status {
        RunStatus::Running => Color::Blue,
        RunStatus::Completed | RunStatus::Continued => Color::Green,
        RunStatus::Parked | RunStatus::Paused => Color::Yellow,
        RunStatus::Failed | RunStatus::Cancelled | RunStatus::Terminated | RunStatus::TimedOut => Color::Red,
    };
    Cell::new(status.as_str()).fg(colour)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_in_a_pipe_is_plain_and_not_wrapped() {
        let output = Output::plain();
        let long = "x".repeat(100);
        let rows = vec![[status(RunStatus::Failed), foreign(&long)], [cell("y"), optional(None::<u8>)]];
        let table = output.table(["STATUS", "NAME"], rows);
        assert_eq!(table, format!("STATUS  NAME\nfailed  {long}\ny       -"));
    }
}
