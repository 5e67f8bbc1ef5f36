//! JSON and files as given on the command line.
//!
//! A JSON argument is the text itself, `@FILE`, or `-` for stdin. Its bytes are kept; whitespace around
//! the value is not part of it. Everything is read up to a bound, never further.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use backstitch_core::{Json, limits};
use backstitch_server::api::trim;

use super::exit::{CliError, CliResult, Exit};

/// Reads a JSON argument; none is `null`.
pub(super) fn json(argument: Option<&str>) -> CliResult<Json> {
    json_from(argument, io::stdin())
}

fn json_from(argument: Option<&str>, stdin: impl Read) -> CliResult<Json> {
    // A byte more than a payload, for the line break at the end of a file.
    let bytes_max = limits::PAYLOAD_BYTES_MAX as u64 + 1;
    let (text, place) = match argument {
        None => return Ok(Json::null()),
        Some("-") => (bounded(stdin, bytes_max, "stdin")?, "stdin"),
        Some(argument) => match argument.strip_prefix('@') {
            Some(path) => (bounded(open(Path::new(path))?, bytes_max, path)?, path),
            None => (argument.as_bytes().to_vec(), "the argument"),
        },
    };
    let bad = |why: String| {
        CliError::new(Exit::Invalid, "input-invalid", format!("{place} is not JSON"))
            .because(why)
            .hint("write JSON text, such as '{\"n\": 1}', or @FILE, or - for stdin")
    };
    let text = String::from_utf8(text).map_err(|error| bad(format!("not UTF-8: {error}")))?;
    Json::new(trim(&text)).map_err(|error| bad(error.to_string()))
}

/// Reads a component file.
pub(super) fn component(path: &Path) -> CliResult<Vec<u8>> {
    bounded(open(path)?, limits::COMPONENT_BYTES_MAX as u64, &path.display().to_string())
}

/// Opens a file that the caller named.
pub(super) fn open(path: &Path) -> CliResult<File> {
    File::open(path).map_err(|error| {
        CliError::new(Exit::Invalid, "file-unreadable", format!("cannot read {}", path.display()))
            .because(error.to_string())
    })
}

/// Reads a source up to a bound; `place` is what it is called when it has more.
pub(super) fn bounded(source: impl Read, bytes_max: u64, place: &str) -> CliResult<Vec<u8>> {
    let mut bytes = Vec::new();
    let unreadable = |error: io::Error| {
        CliError::new(Exit::Invalid, "file-unreadable", format!("cannot read {place}"))
            .because(error.to_string())
    };
    source.take(bytes_max + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > bytes_max {
        return Err(CliError::new(Exit::Invalid, "file-too-large", format!("{place} is too large"))
            .because(format!("it has more than {bytes_max} bytes, the most that is taken")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_every_source_are_kept() {
        let text = r#"{"b":1.0,"a":[ ],"a":1e400}"#;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("  {text}\r\n")).unwrap();
        let at_file = format!("@{}", file.path().display());
        for argument in [text, &at_file, "-"] {
            let json = json_from(Some(argument), format!("{text}\n").as_bytes()).unwrap();
            assert_eq!(json.as_str(), text, "{argument}");
        }
        assert_eq!(json_from(None, io::empty()).unwrap().as_str(), "null");
    }

    #[test]
    fn what_is_not_json_names_its_place() {
        for (argument, stdin, what) in [
            ("{n:1}", "", "the argument is not JSON"),
            ("-", "", "stdin is not JSON"),
            ("", "", "the argument is not JSON"),
            ("@/nowhere", "", "cannot read /nowhere"),
        ] {
            let error = json_from(Some(argument), stdin.as_bytes()).unwrap_err();
            assert_eq!((error.exit, error.what.as_str()), (Exit::Invalid, what));
        }
    }

    #[test]
    fn an_endless_source_is_read_up_to_the_bound() {
        let error = json_from(Some("-"), io::repeat(b'1')).unwrap_err();
        assert_eq!(error.code, "file-too-large");
    }

    #[test]
    fn a_payload_of_exactly_the_bound_with_a_line_break_is_taken() {
        let text = format!("\"{}\"\n", "x".repeat(limits::PAYLOAD_BYTES_MAX - 2));
        assert!(json_from(Some("-"), text.as_bytes()).is_ok());
    }
}
