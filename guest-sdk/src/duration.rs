//! Durations as people write them: `"30 days"`, `"5 seconds"`, `"1 hour 30 minutes"`, `"100ms"`.
//!
//! Promises: whole numbers with a unit, one or several in a row, added up; anything else is refused
//! with a reason, never guessed at. Text that is known when the code is written is checked by the
//! compiler through [`duration!`](crate::duration!); text that arrives in an input is checked when it
//! is used and becomes an [`Error`] with the code `invalid-duration`.

use crate::Error;
use std::fmt;
use std::time::Duration;

/// Why a text is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DurationError {
    /// There is nothing in it.
    Empty,
    /// A whole number was expected: signs and fractions are not part of the language.
    ExpectedNumber,
    /// A number stands without its unit.
    MissingUnit,
    /// The word after the number is not a unit.
    UnknownUnit,
    /// More milliseconds than 64 bits hold.
    TooLong,
}

impl DurationError {
    /// The reason, in words.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Empty => "it is empty",
            Self::ExpectedNumber => "expected a whole number such as the 30 in `30 days`",
            Self::MissingUnit => "a number lacks its unit",
            Self::UnknownUnit => {
                "unknown unit (known: ms, s, m, h, d, w, and their names: seconds, minutes …)"
            }
            Self::TooLong => "it does not fit in 64 bits of milliseconds",
        }
    }
}

impl fmt::Display for DurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for DurationError {}

/// What [`sleep_for`](crate::sleep_for) and the options accept: a [`Duration`], or text.
pub trait IntoDuration {
    /// The duration, or an [`Error`] with the code `invalid-duration`, which no retry can cure.
    fn into_duration(self) -> Result<Duration, Error>;
}

impl IntoDuration for Duration {
    fn into_duration(self) -> Result<Duration, Error> {
        Ok(self)
    }
}

impl IntoDuration for &str {
    fn into_duration(self) -> Result<Duration, Error> {
        parse_duration(self).map_err(|reason| {
            Error::application("invalid-duration", format!("{self:?} is not a duration: {reason}"))
                .non_retryable()
        })
    }
}

impl IntoDuration for &String {
    fn into_duration(self) -> Result<Duration, Error> {
        self.as_str().into_duration()
    }
}

impl IntoDuration for String {
    fn into_duration(self) -> Result<Duration, Error> {
        self.as_str().into_duration()
    }
}

/// A duration that the compiler checks.
///
/// ```
/// use std::time::Duration;
/// assert_eq!(backstitch_sdk::duration!("30 days"), Duration::from_secs(30 * 86_400));
/// ```
///
/// ```compile_fail
/// let _ = backstitch_sdk::duration!("30 dyas"); // unknown unit
/// ```
#[macro_export]
macro_rules! duration {
    ($text:literal) => {
        const {
            match $crate::parse_duration($text) {
                Ok(duration) => duration,
                Err(error) => ::std::panic!("{}", error.reason()),
            }
        }
    };
}

/// Reads a duration: whole numbers, each with a unit, added up.
///
/// Units: `ms`/`millisecond(s)`, `s`/`sec(s)`/`second(s)`, `m`/`min(s)`/`minute(s)`,
/// `h`/`hr(s)`/`hour(s)`, `d`/`day(s)`, `w`/`week(s)`, in any case. A day is 24 hours: time zones
/// have no say.
///
/// ```
/// # use std::time::Duration;
/// use backstitch_sdk::{DurationError, parse_duration};
/// assert_eq!(parse_duration("1 hour 30 minutes"), Ok(Duration::from_secs(5_400)));
/// assert_eq!(parse_duration("100ms"), Ok(Duration::from_millis(100)));
/// assert_eq!(parse_duration("1.5 hours"), Err(DurationError::UnknownUnit));
/// ```
pub const fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let bytes = text.as_bytes();
    let mut total_ms: u64 = 0;
    let mut at = skip_spaces(bytes, 0);
    if at == bytes.len() {
        return Err(DurationError::Empty);
    }
    while at < bytes.len() {
        let digits = at;
        let mut number: u64 = 0;
        while at < bytes.len() && bytes[at].is_ascii_digit() {
            let Some(tens) = number.checked_mul(10) else { return Err(DurationError::TooLong) };
            let Some(next) = tens.checked_add((bytes[at] - b'0') as u64) else {
                return Err(DurationError::TooLong);
            };
            number = next;
            at += 1;
        }
        if at == digits {
            return Err(DurationError::ExpectedNumber);
        }
        at = skip_spaces(bytes, at);
        let word = at;
        while at < bytes.len() && !bytes[at].is_ascii_digit() && bytes[at] != b' ' {
            at += 1;
        }
        if at == word {
            return Err(DurationError::MissingUnit);
        }
        let Some(unit_ms) = unit_ms(bytes, word, at) else { return Err(DurationError::UnknownUnit) };
        let Some(part_ms) = number.checked_mul(unit_ms) else { return Err(DurationError::TooLong) };
        let Some(sum_ms) = total_ms.checked_add(part_ms) else { return Err(DurationError::TooLong) };
        total_ms = sum_ms;
        at = skip_spaces(bytes, at);
    }
    Ok(Duration::from_millis(total_ms))
}

const fn skip_spaces(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() && bytes[at] == b' ' {
        at += 1;
    }
    at
}

const UNITS: &[(&[&str], u64)] = &[
    (&["ms", "millisecond", "milliseconds"], 1),
    (&["s", "sec", "secs", "second", "seconds"], 1_000),
    (&["m", "min", "mins", "minute", "minutes"], 60_000),
    (&["h", "hr", "hrs", "hour", "hours"], 3_600_000),
    (&["d", "day", "days"], 86_400_000),
    (&["w", "week", "weeks"], 7 * 86_400_000),
];

const fn unit_ms(bytes: &[u8], start: usize, end: usize) -> Option<u64> {
    let mut unit = 0;
    while unit < UNITS.len() {
        let mut name = 0;
        while name < UNITS[unit].0.len() {
            if spells(bytes, start, end, UNITS[unit].0[name].as_bytes()) {
                return Some(UNITS[unit].1);
            }
            name += 1;
        }
        unit += 1;
    }
    None
}

const fn spells(bytes: &[u8], start: usize, end: usize, word: &[u8]) -> bool {
    if end - start != word.len() {
        return false;
    }
    let mut at = 0;
    while at < word.len() {
        if bytes[start + at].to_ascii_lowercase() != word[at] {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_understood() {
        for (text, ms) in [
            ("5 seconds", 5_000),
            ("2 minutes", 120_000),
            ("1 hour", 3_600_000),
            ("30 days", 30 * 86_400_000),
            ("60s", 60_000),
            ("100ms", 100),
            ("0s", 0),
            ("2W", 14 * 86_400_000),
            ("  1h30m ", 5_400_000),
            ("1 Day 2 hours", 93_600_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused_with_its_reason() {
        for (text, error) in [
            ("", DurationError::Empty),
            ("   ", DurationError::Empty),
            ("soon", DurationError::ExpectedNumber),
            ("-5 seconds", DurationError::ExpectedNumber),
            ("5", DurationError::MissingUnit),
            ("5 s 3", DurationError::MissingUnit),
            ("5 dyas", DurationError::UnknownUnit),
            ("1.5h", DurationError::UnknownUnit),
            ("3 …", DurationError::UnknownUnit),
            ("99999999999999999999 s", DurationError::TooLong),
            ("99999999999999999 weeks", DurationError::TooLong),
        ] {
            assert_eq!(parse_duration(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_refusal_names_the_text() {
        let error = "30 dyas".into_duration().expect_err("no such unit");
        assert_eq!(error.code(), "invalid-duration");
        assert!(error.message().contains("30 dyas"), "{error}");
        assert!(!error.is_retryable());
    }
}
