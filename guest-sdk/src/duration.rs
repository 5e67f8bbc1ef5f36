//! Durations as people write them: `"30 days"`, `"5 seconds"`, `"1 hour 30 minutes"`, `"100ms"`, and as
//! ISO 8601 does: `"P30D"`, `"PT1H30M"`.
//!
//! Promises: whole numbers with a unit, one or several in a row, added up; anything else is refused
//! with a reason, never guessed at. Text that is known when the code is written is checked by the
//! compiler through [`duration!`](crate::duration!); text that arrives in an input is checked when it
//! is used and becomes an [`Error`] with the code `invalid-duration`.

use crate::error::Error;
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
    /// Years and months, which ISO 8601 has, differ in length.
    Calendar,
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
            Self::Calendar => "years and months differ in length: write weeks or days",
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
/// have no say. Text that begins with a `P` is read as ISO 8601 has it: weeks and days, then a `T` and
/// hours, minutes and seconds, each at most once and the longer before the shorter.
///
/// ```
/// # use std::time::Duration;
/// use backstitch_sdk::{DurationError, parse_duration};
/// assert_eq!(parse_duration("1 hour 30 minutes"), Ok(Duration::from_secs(5_400)));
/// assert_eq!(parse_duration("100ms"), Ok(Duration::from_millis(100)));
/// assert_eq!(parse_duration("P1DT12H"), Ok(Duration::from_secs(36 * 3_600)));
/// assert_eq!(parse_duration("1.5 hours"), Err(DurationError::UnknownUnit));
/// ```
pub const fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let bytes = text.as_bytes();
    let mut total_ms: u64 = 0;
    let mut at = skip_spaces(bytes, 0);
    if at == bytes.len() {
        return Err(DurationError::Empty);
    }
    if bytes[at] == b'P' || bytes[at] == b'p' {
        return parse_iso(bytes, at + 1);
    }
    while at < bytes.len() {
        let (number, after) = match whole_number(bytes, at) {
            Ok(found) => found,
            Err(error) => return Err(error),
        };
        at = skip_spaces(bytes, after);
        let word = at;
        while at < bytes.len() && !bytes[at].is_ascii_digit() && bytes[at] != b' ' {
            at += 1;
        }
        if at == word {
            return Err(DurationError::MissingUnit);
        }
        let Some(unit_ms) = unit_ms(bytes, word, at) else { return Err(DurationError::UnknownUnit) };
        let Some(sum_ms) = plus(total_ms, number, unit_ms) else { return Err(DurationError::TooLong) };
        total_ms = sum_ms;
        at = skip_spaces(bytes, at);
    }
    Ok(Duration::from_millis(total_ms))
}

/// The digits at `at` as a number, and where they end.
const fn whole_number(bytes: &[u8], mut at: usize) -> Result<(u64, usize), DurationError> {
    let digits = at;
    let mut number: u64 = 0;
    while at < bytes.len() && bytes[at].is_ascii_digit() {
        let Some(next) = plus((bytes[at] - b'0') as u64, number, 10) else {
            return Err(DurationError::TooLong);
        };
        number = next;
        at += 1;
    }
    if at == digits { Err(DurationError::ExpectedNumber) } else { Ok((number, at)) }
}

/// `sum + count * each`, when it fits.
const fn plus(sum: u64, count: u64, each: u64) -> Option<u64> {
    match count.checked_mul(each) {
        Some(product) => sum.checked_add(product),
        None => None,
    }
}

/// The designators of ISO 8601 in the order in which they may come. Minutes are those after the `T`.
const ISO_UNITS: [(u8, bool, u64); 5] = [
    (b'W', false, 7 * 86_400_000),
    (b'D', false, 86_400_000),
    (b'H', true, 3_600_000),
    (b'M', true, 60_000),
    (b'S', true, 1_000),
];

/// What follows the `P`.
const fn parse_iso(bytes: &[u8], mut at: usize) -> Result<Duration, DurationError> {
    let end = skip_spaces_back(bytes);
    let mut total_ms: u64 = 0;
    let mut time = false;
    // The next designator that may come.
    let mut unit = 0;
    loop {
        if !time && at < end && bytes[at].eq_ignore_ascii_case(&b'T') {
            time = true;
            at += 1;
        }
        let (number, after) = match whole_number(bytes, at) {
            Ok(found) => found,
            Err(error) => return Err(error),
        };
        if after == end {
            return Err(DurationError::MissingUnit);
        }
        let designator = bytes[after].to_ascii_uppercase();
        if !time && (designator == b'Y' || designator == b'M') {
            return Err(DurationError::Calendar);
        }
        while unit < ISO_UNITS.len() && (ISO_UNITS[unit].0 != designator || ISO_UNITS[unit].1 != time) {
            unit += 1;
        }
        if unit == ISO_UNITS.len() {
            return Err(DurationError::UnknownUnit);
        }
        let Some(sum_ms) = plus(total_ms, number, ISO_UNITS[unit].2) else {
            return Err(DurationError::TooLong);
        };
        total_ms = sum_ms;
        unit += 1;
        at = after + 1;
        if at == end {
            return Ok(Duration::from_millis(total_ms));
        }
    }
}

const fn skip_spaces_back(bytes: &[u8]) -> usize {
    let mut end = bytes.len();
    while end > 0 && bytes[end - 1] == b' ' {
        end -= 1;
    }
    end
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

/// As the host counts.
pub(crate) fn millis_rounded_up(duration: std::time::Duration) -> u64 {
    let ms = duration.as_nanos().div_ceil(1_000_000);
    u64::try_from(ms).unwrap_or(u64::MAX)
}

impl Error {
    /// From an activity: asks for the next attempt no sooner than this, whatever the retry policy of the
    /// call says about delays; how many attempts there are stays the policy's affair. A duration that is
    /// none is an error instead.
    ///
    /// ```
    /// # use backstitch_sdk::Error;
    /// let error = Error::application("too-many-requests", "the bank asks for patience").retry_after("90 seconds");
    /// assert_eq!(error.code(), "too-many-requests");
    /// ```
    #[must_use]
    pub fn retry_after(self, delay: impl IntoDuration) -> Self {
        match delay.into_duration() {
            Ok(delay) => self.with_retry_after_ms(millis_rounded_up(delay)),
            Err(error) => error,
        }
    }
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
    fn iso_8601_is_understood() {
        const DAY: u64 = 86_400_000;
        for (text, ms) in [
            ("PT5S", 5_000),
            ("P30D", 30 * DAY),
            ("P1DT12H", 36 * 3_600_000),
            ("P2W", 14 * DAY),
            ("P1W2DT3H4M5S", 9 * DAY + 3 * 3_600_000 + 4 * 60_000 + 5_000),
            ("PT90M", 5_400_000),
            ("PT0S", 0),
            ("P36525D", 36_525 * DAY),
            (" pt1h ", 3_600_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_iso_8601_has_and_a_timer_has_not_is_refused() {
        for (text, error) in [
            ("P", DurationError::ExpectedNumber),
            ("PT", DurationError::ExpectedNumber),
            ("P1DT", DurationError::ExpectedNumber),
            ("P-1D", DurationError::ExpectedNumber),
            ("P5", DurationError::MissingUnit),
            ("PT5 ", DurationError::MissingUnit),
            ("P1Y", DurationError::Calendar),
            ("P1M", DurationError::Calendar),
            ("P1H", DurationError::UnknownUnit),
            ("PT1D", DurationError::UnknownUnit),
            ("PT0.5S", DurationError::UnknownUnit),
            ("PT5S3M", DurationError::UnknownUnit),
            ("PT5S5S", DurationError::UnknownUnit),
            ("PT1HT1M", DurationError::ExpectedNumber),
            ("P1D 2", DurationError::ExpectedNumber),
            ("PT5 S", DurationError::UnknownUnit),
            ("P99999999999999999W", DurationError::TooLong),
            ("P99999999999999999999D", DurationError::TooLong),
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
