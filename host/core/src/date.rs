//! The civil date of a time, and its text.

use crate::limits::TIME_MS_MAX;

/// The milliseconds of a day in UTC, which knows no leap seconds.
const DAY_MS: u64 = 24 * 3600 * 1000;

/// Year, month and day (UTC) of milliseconds since the epoch. Names that are kept are made of it, so it
/// never changes. H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`
/// (<https://howardhinnant.github.io/date_algorithms.html>), for days that are not before 1970.
pub fn civil(ms: u64) -> (u64, u64, u64) {
    let days = ms / DAY_MS + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// Milliseconds since the epoch as RFC 3339 with milliseconds, in UTC; a number where RFC 3339 has no year for them.
pub fn rfc3339(ms: u64) -> String {
    if ms > TIME_MS_MAX {
        return format!("{ms} ms");
    }
    let ((year, month, day), rest) = (civil(ms), ms % DAY_MS);
    let (hour, minute, second, milli) =
        (rest / 3_600_000, rest / 60_000 % 60, rest / 1_000 % 60, rest % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_their_calendar_names() {
        const FIRST_MONDAY_MS: u64 = 4 * DAY_MS;
        assert_eq!(civil(FIRST_MONDAY_MS), (1970, 1, 5));
        assert_eq!(civil(951_782_400_000), (2000, 2, 29));
        assert_eq!(civil(951_782_400_000 + DAY_MS), (2000, 3, 1));
        assert_eq!(civil(1_764_547_200_000 - 1), (2025, 11, 30));
        assert_eq!(civil(4_107_542_400_000), (2100, 3, 1));
    }

    #[test]
    fn a_time_is_as_rfc_3339_has_it() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_799_999, "2000-02-29T23:59:59.999Z"),
            (1_767_225_600_001, "2026-01-01T00:00:00.001Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (TIME_MS_MAX, "9999-12-31T23:59:59.999Z"),
            (TIME_MS_MAX + 1, "253402300800000 ms"),
        ] {
            assert_eq!(rfc3339(ms), text);
        }
    }
}
