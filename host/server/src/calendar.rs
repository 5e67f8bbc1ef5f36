//! When a schedule's times are: cron expressions in their time zones, and intervals.
//!
//! Time zones come from the copy of the IANA database inside this program, never from the machine: hosts of
//! one version agree on every time, and the time is the name of a run.
//!
//! | a cron expression whose hours | clocks go forward | clocks go back |
//! |---|---|---|
//! | begin with `*` (it goes by the clock) | times in the gap do not exist | the hour that is repeated has its times twice |
//! | are given (it goes by the day) | times in the gap are at its end, together once | a repeated time is the first of the two |
//!
//! That is how Vixie cron has it in Debian: nobody's daily job is left out, or done twice.

use backstitch_core::limits;
use backstitch_core::schedule::{Every, Times, When};
use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone, TimeZoneDatabase};

/// The times of a schedule.
pub(crate) struct Calendar {
    rules: Vec<Rule>,
    start_ms: u64,
    end_ms: u64,
}

enum Rule {
    /// By the clock: whenever the clock on the wall shows a matching time.
    Clock(Crontab, TimeZone),
    /// By the day: each matching time once.
    Day(Crontab, TimeZone),
    Every(Every),
}

/// What is wrong with a schedule's times.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CalendarError {
    /// No such zone.
    #[error("there is no time zone {0:?}; give a name of the IANA database, such as Europe/Berlin or UTC")]
    Zone(String),
    /// Not an expression.
    #[error("the cron expression {cron:?}: {why}")]
    Cron {
        /// The expression.
        cron: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Calendar {
    /// Reads what a client has written.
    pub(crate) fn new(when: &When) -> Result<Self, CalendarError> {
        let zone = match when.time_zone.as_deref() {
            None => TimeZone::UTC,
            Some(name) => {
                TimeZoneDatabase::bundled().get(name).map_err(|_| CalendarError::Zone(name.to_owned()))?
            }
        };
        let crons = when.cron.iter().map(|cron| Rule::cron(cron, &zone));
        let every = when.every.iter().map(|every| Ok(Rule::Every(*every)));
        Ok(Self {
            rules: crons.chain(every).collect::<Result<_, _>>()?,
            start_ms: when.start_at_ms.unwrap_or(0),
            end_ms: when.end_at_ms.unwrap_or(limits::TIME_MS_MAX),
        })
    }

    /// The times after `after_ms`, each once: at most [`limits::SCHEDULE_TIMES_MAX`] up to `through_ms`,
    /// and the one that follows them.
    pub(crate) fn ahead(&self, after_ms: u64, through_ms: u64) -> Times {
        let mut times = Times::default();
        for at_ms in self.after(after_ms) {
            let is_last = at_ms > through_ms || times.ms.len() >= limits::SCHEDULE_TIMES_MAX;
            times.ms.push(at_ms);
            if is_last {
                times.more = true;
                break;
            }
        }
        times
    }

    /// The times after `after_ms` up to `through_ms`, at most [`limits::SCHEDULE_TIMES_MAX`].
    pub(crate) fn between(&self, after_ms: u64, through_ms: u64) -> Times {
        let mut ms = self.after(after_ms).take_while(|ms| *ms <= through_ms);
        let first = ms.by_ref().take(limits::SCHEDULE_TIMES_MAX).collect();
        Times { ms: first, more: ms.next().is_some() }
    }

    /// All times after `after_ms`.
    pub(crate) fn after(&self, after_ms: u64) -> impl Iterator<Item = u64> + '_ {
        let from_ms = after_ms.max(self.start_ms.saturating_sub(1));
        // A time at the very epoch comes after no millisecond that there is; nobody can want it.
        let mut next: Vec<Option<u64>> = self.rules.iter().map(|rule| rule.after(from_ms)).collect();
        std::iter::from_fn(move || {
            let soonest = next.iter().flatten().min().copied().filter(|ms| *ms <= self.end_ms)?;
            for (rule, next) in self.rules.iter().zip(&mut next) {
                if *next == Some(soonest) {
                    *next = rule.after(soonest);
                }
            }
            Some(soonest)
        })
    }
}

impl Rule {
    fn cron(text: &str, zone: &TimeZone) -> Result<Self, CalendarError> {
        let bad = |why: String| CalendarError::Cron { cron: text.to_owned(), why };
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [_, hours, ..] = fields[..] else {
            return Err(bad(SHAPE.to_owned()));
        };
        if fields.len() != 5 {
            return Err(bad(SHAPE.to_owned()));
        }
        let mut options = ParseOptions::default();
        options.fallback_timezone_option = FallbackTimezoneOption::UTC;
        let crontab = cronexpr::parse_crontab_with(&fields.join(" "), options)
            .map_err(|error| bad(reason(&error.to_string())))?;
        let by_clock = hours.starts_with('*');
        let zone = zone.clone();
        let rule = if by_clock { Self::Clock(crontab, zone) } else { Self::Day(crontab, zone) };
        if rule.after(0).is_none() {
            return Err(bad("no day is ever such a day".to_owned()));
        }
        Ok(rule)
    }

    /// The first time after `after_ms`; none in the next years, or before time ends.
    fn after(&self, after_ms: u64) -> Option<u64> {
        let after = |ms| Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok();
        match self {
            Self::Every(every) => Some(every.after(after_ms)).filter(|ms| *ms <= limits::TIME_MS_MAX),
            Self::Clock(crontab, zone) => milliseconds(by_clock(crontab, zone, after(after_ms)?)?),
            Self::Day(crontab, zone) => milliseconds(by_day(crontab, zone, after(after_ms)?)?),
        }
    }
}

const SHAPE: &str = "write five fields: minute, hour, day of month, month, day of week, such as 0 9 * * 1-5";

/// What the library says in three lines (the expression, a mark below it, the reason) in one.
fn reason(error: &str) -> String {
    let mut lines = error.lines().skip(1);
    let (Some(cron), Some(marked)) = (lines.next(), lines.next()) else { return error.to_owned() };
    let (before, reason) = marked.split_once("^ ").unwrap_or(("", marked));
    let place = cron.get(before.len()..).unwrap_or_default();
    format!("{reason}, at {place:?}")
}

/// The next time that the clock of `zone` shows. Between two changes of the clock it is UTC, shifted.
fn by_clock(crontab: &Crontab, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    let mut after = after;
    loop {
        let offset = zone.to_offset(after);
        let next = next_civil(crontab, offset.to_datetime(after))?;
        let next = offset.to_timestamp(next).ok()?;
        match zone.following(after).next().map(|change| change.timestamp()) {
            Some(change) if change <= next => {
                // The change itself has the new offset: a minute of the new time that has just begun is
                // looked for from just before.
                let offset = zone.to_offset(change);
                let before = offset.to_datetime(change).checked_sub(MILLISECOND).ok()?;
                let next = next_civil(crontab, before)?;
                if next == offset.to_datetime(change) {
                    return Some(change);
                }
                after = change;
            }
            _ => return Some(next),
        }
    }
}

/// The next time of a day in `zone`, each once.
fn by_day(crontab: &Crontab, zone: &TimeZone, after: Timestamp) -> Option<Timestamp> {
    let mut civil = zone.to_datetime(after);
    loop {
        civil = next_civil(crontab, civil)?;
        let ambiguous = zone.to_ambiguous_timestamp(civil);
        let time = match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(civil).ok()?,
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(civil).ok()?,
            // Seen with the offset of after the gap, the time is before it.
            AmbiguousOffset::Gap { after, .. } => {
                let before = after.to_timestamp(civil).ok()?;
                zone.following(before).next()?.timestamp()
            }
        };
        // In the second pass of a fold, times of the first one come up again.
        if time > after {
            return Some(time);
        }
    }
}

const MILLISECOND: jiff::SignedDuration = jiff::SignedDuration::from_millis(1);

/// The next match of an expression that knows of no zone.
fn next_civil(crontab: &Crontab, after: DateTime) -> Option<DateTime> {
    let after = Offset::UTC.to_timestamp(after).ok()?;
    let next = crontab.find_next(MakeTimestamp(after)).ok()?;
    Some(next.datetime())
}

fn milliseconds(time: Timestamp) -> Option<u64> {
    u64::try_from(time.as_millisecond()).ok().filter(|ms| *ms <= limits::TIME_MS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calendar(cron: &[&str], zone: &str) -> Calendar {
        let cron = cron.iter().map(|cron| (*cron).into()).collect();
        Calendar::new(&When { cron, time_zone: Some(zone.into()), ..When::default() }).unwrap()
    }

    fn ms(text: &str) -> u64 {
        milliseconds(text.parse().unwrap()).unwrap()
    }

    /// The next times after `after`, as the zone's clock shows them.
    fn next(cron: &[&str], zone: &str, after: &str, count: usize) -> Vec<String> {
        let tz = TimeZoneDatabase::bundled().get(zone).unwrap();
        let shown = |ms: u64| {
            let zoned = Timestamp::from_millisecond(ms.cast_signed()).unwrap().to_zoned(tz.clone());
            zoned.strftime("%d %H:%M%:z").to_string()
        };
        calendar(cron, zone).after(ms(after)).take(count).map(shown).collect()
    }

    #[test]
    fn a_daily_time_in_a_gap_is_at_its_end_and_once() {
        let times = next(&["30 2 * * *"], "Europe/Berlin", "2026-03-27T12:00:00Z", 3);
        assert_eq!(times, ["28 02:30+01:00", "29 03:00+02:00", "30 02:30+02:00"]);
        let times = next(&["0,30 2,3 * * *"], "Europe/Berlin", "2026-03-28T23:00:00Z", 3);
        assert_eq!(times, ["29 03:00+02:00", "29 03:30+02:00", "30 02:00+02:00"]);
    }

    #[test]
    fn a_daily_time_in_a_fold_is_the_first_of_the_two() {
        let times = next(&["30 2 * * *"], "Europe/Berlin", "2026-10-24T12:00:00Z", 2);
        assert_eq!(times, ["25 02:30+02:00", "26 02:30+01:00"]);
        // Asked in the second pass, and between the two.
        let times = next(&["30 2 * * *"], "Europe/Berlin", "2026-10-25T01:10:00Z", 1);
        assert_eq!(times, ["26 02:30+01:00"]);
        let times = next(&["30 2 * * *"], "Europe/Berlin", "2026-10-25T00:30:00Z", 1);
        assert_eq!(times, ["26 02:30+01:00"]);
    }

    #[test]
    fn what_goes_by_the_clock_goes_on_through_gaps_and_folds() {
        let times = next(&["*/30 * * * *"], "Europe/Berlin", "2026-03-29T00:00:00Z", 4);
        assert_eq!(times, ["29 01:30+01:00", "29 03:00+02:00", "29 03:30+02:00", "29 04:00+02:00"]);
        let times = next(&["30 * * * *"], "Europe/Berlin", "2026-10-24T23:00:00Z", 4);
        assert_eq!(times, ["25 01:30+02:00", "25 02:30+02:00", "25 02:30+01:00", "25 03:30+01:00"]);
        // Half an hour back: the hour in between is shown one and a half times.
        let times = next(&["0,45 * * * *"], "Australia/Lord_Howe", "2026-04-04T14:20:00Z", 4);
        assert_eq!(times, ["05 01:45+11:00", "05 01:45+10:30", "05 02:00+10:30", "05 02:45+10:30"]);
    }

    #[test]
    fn a_day_that_a_zone_leaves_out_is_at_its_end() {
        let times = next(&["0 9 * * *"], "Pacific/Apia", "2011-12-29T12:00:00Z", 3);
        assert_eq!(times, ["29 09:00-10:00", "31 00:00+14:00", "31 09:00+14:00"]);
    }

    #[test]
    fn expressions_and_intervals_make_one_calendar() {
        let when = When {
            cron: vec!["0 0 * * *".into(), "0 */12 * * *".into()],
            every: vec![Every { every_ms: 6 * 3_600_000, offset_ms: 60_000 }],
            start_at_ms: Some(ms("2026-01-01T00:00:00Z")),
            end_at_ms: Some(ms("2026-01-01T12:00:00Z")),
            ..When::default()
        };
        let calendar = Calendar::new(&when).unwrap();
        let all = ["00:00", "00:01", "06:01", "12:00"].map(|time| ms(&format!("2026-01-01T{time}:00Z")));
        assert_eq!(calendar.after(0).collect::<Vec<_>>(), all);
        assert_eq!(calendar.between(all[0], all[2]), Times { ms: all[1..3].to_vec(), more: false });
        assert_eq!(calendar.ahead(all[0], all[1]), Times { ms: all[1..3].to_vec(), more: true });
        assert_eq!(calendar.ahead(all[2], u64::MAX), Times { ms: all[3..].to_vec(), more: false });
    }

    #[test]
    fn a_page_of_times_is_bounded() {
        let calendar = calendar(&["* * * * *"], "UTC");
        let (between, ahead) = (calendar.between(0, u64::MAX), calendar.ahead(0, u64::MAX));
        assert_eq!((between.ms.len(), between.more), (limits::SCHEDULE_TIMES_MAX, true));
        assert_eq!((ahead.ms.len(), ahead.more), (limits::SCHEDULE_TIMES_MAX + 1, true));
    }

    #[test]
    fn what_is_no_expression_says_what_is_wrong() {
        for (cron, why) in [
            ("", "write five fields"),
            ("* * * *", "write five fields"),
            ("0 9 * * * Europe/Berlin", "write five fields"),
            ("60 * * * *", "must be in range 0..=59; found 60, at \"60 * * * *\""),
            ("0 9 * * mo", "malformed expression, at \"mo\""),
            ("0 0 31 2 *", "no day is ever such a day"),
        ] {
            let when = When { cron: vec![cron.into()], ..When::default() };
            let error = Calendar::new(&when).err().unwrap().to_string();
            assert!(error.contains(why), "{cron:?}: {error}");
        }
        for zone in ["Europe/Bärlin", "", "../etc/passwd", "CET+1"] {
            let when = When { time_zone: Some(zone.into()), ..When::default() };
            assert_eq!(Calendar::new(&when).err(), Some(CalendarError::Zone(zone.into())));
        }
    }
}
