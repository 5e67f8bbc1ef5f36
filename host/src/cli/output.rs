//! What commands say: data on stdout, everything else on stderr.
//!
//! People get tables, programs get one JSON document. Colour only where a terminal shows it and
//! `NO_COLOR` does not forbid it. Whatever came from a guest or a client is shown without control
//! characters, so that no payload can move the cursor of the terminal that looks at it.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use backstitch_core::{RunStatus, fault};
use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use serde::Serialize;

use super::exit::{CliError, CliResult};
use crate::ambient;

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
        self.line(&text)
    }

    /// A remark for a person. Nothing depends on it.
    pub(super) fn note(self, text: &str) {
        if !self.quiet && !self.json {
            // Not `eprintln`, which panics when stderr is closed.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// An error: the last words of a command.
    pub(super) fn error(self, error: &CliError) {
        if !error.silent {
            let text = if self.json { error.json().to_string() } else { error.text(self.colour_notes) };
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

/// Bytes of data as they are.
pub(super) fn raw(bytes: &[u8]) -> CliResult {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| CliError::output(&error))
}

/// A cell of text that is ours or has been checked.
pub(super) fn cell(text: impl ToString) -> Cell {
    Cell::new(text)
}

/// A cell of text that somebody else chose: printable, and cut.
pub(super) fn foreign(text: &str) -> Cell {
    let mut text = printable(text).replace(['\n', '\t'], " ");
    fault::cut(&mut text, CELL_BYTES_MAX);
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

/// `text` with control characters written out, line breaks and tabs aside.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    // Also the marks that turn writing around: they make one text look like another.
    let is_unsafe = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_unsafe(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_payload_moves_the_cursor() {
        assert_eq!(printable("a\nb\t\"é\""), "a\nb\t\"é\"");
        assert_eq!(printable("\x1b[2J\u{9b}1A\x7f\r"), "\\u{1b}[2J\\u{9b}1A\\u{7f}\\u{d}");
        assert_eq!(printable("\u{202e}txt"), "\\u{202e}txt");
    }

    #[test]
    fn a_table_in_a_pipe_is_plain_and_not_wrapped() {
        let output = Output::plain();
        let long = "x".repeat(100);
        let rows = vec![[status(RunStatus::Failed), foreign(&long)], [cell("y"), optional(None::<u8>)]];
        let table = output.table(["STATUS", "NAME"], rows);
        assert_eq!(table, format!("STATUS  NAME\nfailed  {long}\ny       -"));
    }
}
