//! Names and ids that users and guests choose: which are taken, and how they are shown in reports.

use std::fmt::{self, Write as _};

use crate::ids::RunId;
use crate::{limits, printable};

/// Checks a name or id that a user or guest chose: 1 to [`limits::NAME_BYTES_MAX`] bytes without
/// control characters (Postgres text holds no NUL, people's terminals no others).
pub fn check_name(what: &str, name: &str) -> Result<(), String> {
    if name.is_empty() {
        Err(format!("an empty {what} name"))
    } else if name.len() > limits::NAME_BYTES_MAX {
        Err(format!("a {what} name of {} bytes; the longest is {}", name.len(), limits::NAME_BYTES_MAX))
    } else if name.chars().any(char::is_control) {
        Err(format!("the {what} name {name:?} holds control characters"))
    } else {
        Ok(())
    }
}

/// Checks a name (see [`check_name`]) by which somebody outside tells things apart: two that look the same are.
pub fn check_visible(what: &str, id: &str) -> Result<(), String> {
    check_name(what, id)?;
    id.chars().find(|c| printable::is_invisible(*c)).map_or(Ok(()), |c| {
        let shown = printable::line(id);
        Err(format!("the {what} {shown:?} holds U+{:04X}, which cannot be seen", u32::from(c)))
    })
}

/// Checks an id that somebody gives to something new: a name (see [`check_name`]) that can be told apart from all
/// others by looking at it, that is reached by a path, and that is not of the kind which this program makes itself. Ids
/// that are there already stay what they are.
pub fn check_new_id(what: &str, id: &str) -> Result<(), String> {
    check_visible(what, id)?;
    let shown = printable::line(id);
    if matches!(id, "." | "..") {
        return Err(format!("the {what} {id:?} is no segment of a URL's path; choose another"));
    }
    if id.parse::<RunId>().is_ok() {
        return Err(format!("the {what} {shown:?} looks like a run id; choose another"));
    }
    let of_a_run = |(run, op): (&str, &str)| run.parse::<RunId>().is_ok() && op.parse::<u32>().is_ok();
    if id.split_once(':').is_some_and(of_a_run) || id.starts_with(IDEMPOTENCY_KEY_PREFIX) {
        return Err(format!("the {what} {shown:?} looks like one that is made here; choose another"));
    }
    Ok(())
}

/// What the workflow ids of starts under a key begin with.
pub const IDEMPOTENCY_KEY_PREFIX: &str = "idempotency-key:";

/// A guest's text on one line of a report: a name is not checked before it is compared.
pub(crate) struct Cut<'a>(pub(crate) &'a str);

impl fmt::Display for Cut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_CHARS: usize = 160;
        let end = self.0.char_indices().nth(SHOWN_CHARS).map(|(end, _)| end);
        let shown = &self.0[..end.unwrap_or(self.0.len())];
        shown.chars().try_for_each(|c| f.write_char(if c.is_control() { ' ' } else { c }))?;
        end.map_or(Ok(()), |_| write!(f, "… {} bytes", self.0.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_id_is_told_apart_by_looking_at_it_and_is_of_no_kind_that_is_made_here() {
        let run = "0199d3f6-7cf4-7000-8000-000000000001";
        for wrong in [
            run,
            &run.replace('-', ""),
            &format!("{{{run}}}"),
            &format!("urn:uuid:{}", run.to_uppercase()),
            &format!("{run}:7"),
            "idempotency-key:k-1",
            ".",
            "..",
            "",
            "a\nb",
            "a\u{9b}b",
            "a\u{200b}b",
            "a\u{202e}b",
            "a\u{feff}",
            "a\u{ad}b",
            "\u{3164}",
        ] {
            assert!(check_new_id("workflow id", wrong).is_err(), "{wrong:?}");
        }
        for right in [
            "order-1",
            "größe/β",
            "...",
            "a.b",
            "x:7",
            "a b",
            "日本",
            &format!("{run}:7:x"),
            &format!("x{run}"),
        ] {
            assert_eq!(check_new_id("workflow id", right), Ok(()), "{right:?}");
        }
        let told = check_visible("signal id", "a\u{202e}b").unwrap_err();
        assert_eq!(told, "the signal id \"a\\\\u{202e}b\" holds U+202E, which cannot be seen");
        assert_eq!(check_visible("signal id", run), Ok(()), "of a message it says nothing");
    }
}
