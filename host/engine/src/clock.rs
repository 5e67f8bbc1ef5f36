//! What time it is: the database's time, carried on by this machine's monotonic clock.
//!
//! All hosts of an installation have the same time that way, whatever their own wall clocks say. Nothing of a run, a
//! timer or a schedule comes from a wall clock. It is compared with the database's at each heartbeat all the same, for
//! other things go by it: certificates, signatures, log lines.
//!
//! | the wall clock differs by | the host |
//! |---|---|
//! | up to [`SKEW_WARNED_MS`](limits::SKEW_WARNED_MS) | says nothing |
//! | up to [`SKEW_MS_MAX`](limits::SKEW_MS_MAX) | serves, and warns |
//! | more | gives up its runs, and takes no new ones until it is right again |

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use backstitch_core::{Message, RunId, limits};
use backstitch_ledger::{NewItem, Reading};
use backstitch_scheduler::new_inbox_item;
use tokio::time::Instant;
use uuid::Uuid;

use crate::ambient;

/// The time of one host. Cheap to clone: all clones are one.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    origin: Instant,
    /// The database's time at the origin, in microseconds since the epoch.
    base_us: AtomicU64,
    /// How far the wall clock is ahead, in milliseconds.
    skew_ms: AtomicI64,
    /// Where in time the last identity is, in 4,096ths of a millisecond.
    last_id: Mutex<u64>,
}

/// How a wall clock stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// As the database's, or nearly.
    Right,
    /// To be warned about.
    Off,
    /// Not to be served with.
    Wrong,
}

impl Clock {
    /// A clock that is right from now on.
    pub fn new(reading: &Reading) -> Self {
        let clock = Self(Arc::new(Inner {
            origin: reading.received,
            base_us: AtomicU64::new(reading.at_us),
            skew_ms: AtomicI64::new(0),
            last_id: Mutex::default(),
        }));
        clock.set_by(reading);
        clock
    }

    /// Milliseconds since the epoch. Steps back only if the database's clock does: what must not is made monotonic where
    /// it is used.
    pub fn now_ms(&self) -> u64 {
        self.at(Instant::now()) / 1_000
    }

    fn at(&self, moment: Instant) -> u64 {
        let passed = moment.saturating_duration_since(self.0.origin).as_micros();
        self.0.base_us.load(Ordering::Relaxed).saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }

    /// Corrects it, as little as the reading asks for: the database's clock was read at some time between the question and
    /// the answer.
    pub fn set_by(&self, reading: &Reading) {
        let took = reading.received.saturating_duration_since(reading.sent).as_micros();
        let (first, last) = (reading.at_us, reading.at_us.saturating_add(u64::try_from(took).unwrap_or(0)));
        let shown = self.at(reading.received);
        let right = shown.clamp(first, last);
        let base_us = self.0.base_us.load(Ordering::Relaxed);
        self.0.base_us.store(base_us.saturating_add(right).saturating_sub(shown), Ordering::Relaxed);
        if shown.abs_diff(right) > limits::SKEW_WARNED_MS * 1_000 {
            tracing::warn!(shown_us = shown, right_us = right, "the database's clock has stepped");
        }
        let before = self.standing();
        let skew_ms =
            i64::try_from(ambient::wall_ms()).unwrap_or(i64::MAX).saturating_sub_unsigned(self.now_ms());
        self.0.skew_ms.store(skew_ms, Ordering::Relaxed);
        match self.standing() {
            now if now == before => {}
            Standing::Right => tracing::info!(skew_ms, "this machine's clock is right again"),
            Standing::Off => {
                tracing::warn!(
                    skew_ms,
                    "this machine's clock differs from the database's: does NTP run on both?"
                );
            }
            Standing::Wrong => tracing::error!(skew_ms, "{}", self.wrong().unwrap_or_default()),
        }
    }

    /// How far the wall clock was ahead of the database's at the last reading, in milliseconds.
    pub fn skew_ms(&self) -> i64 {
        self.0.skew_ms.load(Ordering::Relaxed)
    }

    fn standing(&self) -> Standing {
        match self.skew_ms().unsigned_abs() {
            skew_ms if skew_ms <= limits::SKEW_WARNED_MS => Standing::Right,
            skew_ms if skew_ms <= limits::SKEW_MS_MAX => Standing::Off,
            _ => Standing::Wrong,
        }
    }

    /// Why this host must not serve, if its wall clock is that wrong.
    pub fn wrong(&self) -> Option<String> {
        let skew_ms = self.skew_ms();
        (self.standing() == Standing::Wrong).then(|| {
            let side = if skew_ms > 0 { "ahead of" } else { "behind" };
            format!(
                "this machine's clock is {} s {side} the database's, and at most {} s are allowed: set one of them \
                 right, and have NTP keep both",
                skew_ms.unsigned_abs() / 1_000,
                limits::SKEW_MS_MAX / 1_000
            )
        })
    }

    /// The identity of a run that starts now.
    pub fn new_run_id(&self) -> RunId {
        RunId(self.new_id())
    }

    /// A message that this host sends now, as the inbox of its receiver will have it.
    pub fn new_inbox_item(&self, to: RunId, message: &Message) -> NewItem {
        new_inbox_item(self.new_id(), self.now_ms(), to, message)
    }

    /// The identity of a message that this host sends now, or of what is ordered by time otherwise. Later ones are larger.
    pub fn new_id(&self) -> Uuid {
        let now = place(self.at(Instant::now()));
        let mut last = self.0.last_id.lock().unwrap_or_else(PoisonError::into_inner);
        *last = now.max(*last + 1);
        ambient::id_at(*last)
    }
}

/// The identity of a message that the database's clock dates: in the order of these, whichever hosts accept them.
pub fn id_by_database(at_us: u64) -> Uuid {
    ambient::id_at(place(at_us))
}

/// A time in 4,096ths of a millisecond: what a UUID v7 has room for.
fn place(at_us: u64) -> u64 {
    ((at_us / 1_000) << 12) | ((at_us % 1_000) * 4_096 / 1_000)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn reading(at_us: u64, sent: Instant, took_us: u64) -> Reading {
        Reading { at_us, sent, received: sent + Duration::from_micros(took_us) }
    }

    #[test]
    fn a_clock_is_set_no_further_than_a_reading_says() {
        let begun = Instant::now();
        let clock = Clock::new(&reading(5_000_000, begun, 0));
        assert_eq!(clock.at(begun + Duration::from_millis(7)), 5_007_000);
        let later = begun + Duration::from_secs(1);
        // Within what the reading leaves open, it stays; beyond, it goes to the nearer end.
        clock.set_by(&reading(6_001_000, later, 2_000));
        assert_eq!(clock.at(later), 6_000_000);
        clock.set_by(&reading(6_005_000, later, 2_000));
        assert_eq!(clock.at(later + Duration::from_millis(2)), 6_005_000);
        clock.set_by(&reading(5_000_000, later, 2_000));
        assert_eq!(clock.at(later + Duration::from_millis(2)), 5_002_000);
    }

    #[test]
    fn a_wall_clock_of_another_time_is_noticed() {
        let wall_us = ambient::wall_ms() * 1_000;
        let skewed = |by_us: u64| Clock::new(&reading(wall_us - by_us, Instant::now(), 0));
        assert_eq!(skewed(0).standing(), Standing::Right);
        assert_eq!(skewed(30_000_000).standing(), Standing::Off);
        let wrong = skewed(3_600_000_000);
        assert_eq!(wrong.standing(), Standing::Wrong);
        assert!(wrong.wrong().unwrap().contains("ahead of the database's"), "{:?}", wrong.wrong());
    }

    #[test]
    fn identities_are_in_the_order_of_their_times() {
        let clock = Clock::new(&reading(1_700_000_000_000_000, Instant::now(), 0));
        let made: Vec<Uuid> = (0..10_000).map(|_| clock.new_id()).collect();
        assert!(made.is_sorted());
        assert_eq!(made[0].get_version_num(), 7);
        let dated: Vec<Uuid> = (0..2_000).map(|us| id_by_database(1_700_000_000_000_000 + us)).collect();
        assert!(dated.is_sorted());
        assert_eq!(clock.new_run_id().0.get_timestamp().unwrap().to_unix().0, 1_700_000_000);
    }
}
