//! Times as clients write them.

/// Milliseconds since the epoch of an RFC 3339 time.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let time: jiff::Timestamp = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    u64::try_from(time.as_millisecond()).map_err(|_| "times begin with 1970".to_owned())
}
