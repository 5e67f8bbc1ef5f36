//! The numbers that a guest draws: a function of its ledger, so that a replay draws them again.
//!
//! Row 0 holds 32 random bytes, and the run's numbers are the ChaCha20 stream of that key (RFC 8439's block
//! function with a counter and a stream number of 64 bits each, as its author had it; eight bytes at a time, little
//! endian). Whoever does not know the ledger cannot tell one from chance: guests make tokens of them. A fork has
//! a second key from where it was cut, so that it does not draw what the other run goes on to draw.
//!
//! Stream 0 is the run's. What is drawn while no event is handled is of a stream of its own for each place in the
//! ledger: how often a guest is there depends on batches and questions, which are nobody's input.
//!
//! Runs that began before there were such bytes draw from SplitMix64 over a hash of their id.

use std::fmt;

use chacha20::ChaCha20Rng;
use chacha20::rand_core::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use crate::ids::{RunId, Seq};

/// 32 bytes that nobody can guess. Made by whoever has a source of randomness, kept in row 0, and as secret as a payload:
/// sealed in the database where payloads are, in exports, and [not shown](crate::start::without_seeds) otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Seed(pub [u8; 32]);

impl fmt::Debug for Seed {
    /// Not for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(…)")
    }
}

impl From<Seed> for String {
    fn from(seed: Seed) -> Self {
        use fmt::Write as _;
        seed.0.iter().fold(Self::with_capacity(64), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a string cannot fail");
            text
        })
    }
}

/// The text is not 64 hexadecimal digits.
#[derive(Debug, thiserror::Error)]
#[error("a seed is 64 hexadecimal digits")]
pub struct NotASeed;

impl TryFrom<String> for Seed {
    type Error = NotASeed;

    fn try_from(text: String) -> Result<Self, NotASeed> {
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NotASeed);
        }
        let mut seed = [0; 32];
        for (byte, digits) in seed.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| NotASeed)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| NotASeed)?;
        }
        Ok(Self(seed))
    }
}

/// What a run draws from a row on. Persisted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The first row that is handled with it: 0, or where a fork was cut.
    pub from: Seq,
    /// The key.
    pub seed: Seed,
}

/// Where in an activation a guest draws, besides the handling of an event.
#[derive(Clone, Copy, Debug)]
pub enum Aside {
    /// Nothing is handled: it is being made, or asked.
    ReadOnly = 0,
    /// Before the first event of an activation.
    Waking = 1,
    /// After the last.
    Drained = 2,
}

/// The numbers of one guest.
#[derive(Clone, Debug)]
pub struct Random {
    /// Those that are still to come, the next one last.
    sources: Vec<Source>,
    own: Stream,
    /// None: not drawn from since the guest came to this place.
    aside: Option<Stream>,
    /// Where the guest draws aside: after how many outcomes, and when.
    place: (u64, Aside),
    original: RunId,
}

#[derive(Clone, Debug)]
enum Stream {
    Old(SplitMix64),
    Keyed(Keyed),
}

/// One stream of a key.
#[derive(Debug)]
struct Keyed(Box<ChaCha20Rng>);

impl Keyed {
    fn new(seed: Seed, stream: u64) -> Self {
        let mut numbers = ChaCha20Rng::from_seed(seed.0);
        numbers.set_stream(stream);
        Self(Box::new(numbers))
    }

    fn seed(&self) -> Seed {
        Seed(self.0.get_seed())
    }
}

impl Clone for Keyed {
    /// The crate has none, lest somebody draws the same numbers twice: which is what a replay is for.
    fn clone(&self) -> Self {
        let mut clone = Self::new(self.seed(), self.0.get_stream());
        clone.0.set_word_pos(self.0.get_word_pos());
        clone
    }
}

impl Random {
    /// Of the run that began as `original`. `sources`: what its row 0 says, in the order of the rows.
    pub fn new(original: RunId, sources: &[Source]) -> Self {
        let mut random = Self {
            sources: sources.iter().rev().cloned().collect(),
            own: Stream::Old(SplitMix64::of(original)),
            aside: None,
            place: (0, Aside::ReadOnly),
            original,
        };
        random.reach(Seq(0));
        random
    }

    /// The run's next number.
    pub fn draw(&mut self) -> u64 {
        self.own.next()
    }

    /// A number that the run does not notice.
    pub fn next_aside(&mut self) -> u64 {
        const ASIDES: u64 = 3;
        let (place, aside) = self.place;
        let (own, original) = (&self.own, self.original);
        let stream = self.aside.get_or_insert_with(|| match own {
            Stream::Old(_) => Stream::Old(SplitMix64::aside_of(original)),
            Stream::Keyed(own) => Stream::Keyed(Keyed::new(own.seed(), 1 + place * ASIDES + aside as u64)),
        });
        stream.next()
    }

    /// The guest is led past a row.
    pub fn reach(&mut self, row: Seq) {
        while let Some(source) = self.sources.pop_if(|source| source.from <= row) {
            self.own = Stream::Keyed(Keyed::new(source.seed, 0));
        }
    }

    /// The guest has an outcome.
    pub fn deliver(&mut self) {
        self.place.0 += 1;
    }

    /// From here on numbers are drawn aside.
    pub fn turn_aside(&mut self, aside: Aside) {
        self.place.1 = aside;
        if matches!(self.own, Stream::Keyed(_)) {
            self.aside = None;
        }
    }
}

impl Stream {
    fn next(&mut self) -> u64 {
        match self {
            Self::Old(stream) => stream.next(),
            Self::Keyed(stream) => stream.0.next_u64(),
        }
    }
}

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    /// The stream of `run`. Old ledgers depend on every number of it: it never changes.
    fn of(run: RunId) -> Self {
        Self(xxhash_rust::xxh3::xxh3_64(run.0.as_bytes()))
    }

    /// Starts elsewhere: a number that a query has shown is not the run's next one.
    fn aside_of(run: RunId) -> Self {
        Self(!Self::of(run).0)
    }

    /// The next number.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const RUN: RunId = RunId(Uuid::from_u128(1));

    #[test]
    fn the_old_stream_is_the_published_one() {
        // The authors' reference implementation, seeded with 1234567.
        let mut stream = SplitMix64(1_234_567);
        assert_eq!([stream.next(), stream.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn the_keyed_stream_is_the_published_one() {
        // RFC 8439, appendix A.1, vectors 1 and 2: an all-zero key, blocks 0 and 1.
        let source = Source { from: Seq(0), seed: Seed([0; 32]) };
        let mut random = Random::new(RUN, &[source]);
        let numbers: Vec<u64> = (0..9).map(|_| random.draw()).collect();
        assert_eq!(numbers[0].to_le_bytes(), [0x76, 0xb8, 0xe0, 0xad, 0xa0, 0xf1, 0x3d, 0x90]);
        assert_eq!(numbers[6].to_le_bytes(), [0x6a, 0x43, 0xb8, 0xf4, 0x15, 0x18, 0xa1, 0x1c]);
        assert_eq!(numbers[7].to_le_bytes(), [0xc3, 0x87, 0xb6, 0x69, 0xb2, 0xee, 0x65, 0x86]);
        assert_eq!(numbers[8].to_le_bytes(), [0x9f, 0x07, 0xe7, 0xbe, 0x55, 0x51, 0x38, 0x7a]);
    }

    #[test]
    fn what_is_drawn_aside_depends_on_the_place_alone() {
        let sources = [Source { from: Seq(0), seed: Seed([7; 32]) }];
        let mut random = Random::new(RUN, &sources);
        let mut seen = vec![random.next_aside()];
        for aside in [Aside::Waking, Aside::Drained, Aside::ReadOnly] {
            random.turn_aside(aside);
            seen.push(random.next_aside());
            random.turn_aside(aside);
            assert_eq!(Some(&random.next_aside()), seen.last(), "{aside:?}");
        }
        assert_eq!(seen[0], seen[3], "nothing has happened in between");
        random.deliver();
        random.turn_aside(Aside::Waking);
        seen.push(random.next_aside());
        seen.push(random.draw());
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 5, "{seen:?}");
        let mut again = random.clone();
        assert_eq!([again.draw(), again.next_aside()], [random.draw(), random.next_aside()]);
    }

    #[test]
    fn a_fork_draws_its_own_numbers_from_where_it_was_cut() {
        let first = Source { from: Seq(0), seed: Seed([1; 32]) };
        let forked = [first.clone(), Source { from: Seq(5), seed: Seed([2; 32]) }];
        let (mut original, mut fork) = (Random::new(RUN, &[first]), Random::new(RUN, &forked));
        assert_eq!(original.draw(), fork.draw());
        for random in [&mut original, &mut fork] {
            random.reach(Seq(4));
        }
        assert_eq!(original.draw(), fork.draw());
        for random in [&mut original, &mut fork] {
            random.reach(Seq(7));
        }
        assert_ne!(original.draw(), fork.draw());
    }

    #[test]
    fn a_seed_is_written_as_it_is_read_and_never_shown() {
        let seed = Seed(std::array::from_fn(|n| n as u8 * 8));
        let text = serde_json::to_string(&seed).unwrap();
        assert_eq!(serde_json::from_str::<Seed>(&text).unwrap(), seed);
        assert_eq!(format!("{seed:?}"), "Seed(…)");
        for wrong in ["\"\"".to_owned(), text.replace("00", "+0"), text.replace("00", "0g")] {
            assert!(serde_json::from_str::<Seed>(&wrong).is_err(), "{wrong}");
        }
    }
}
