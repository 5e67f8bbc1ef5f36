//! The numbers that a guest draws: a function of its run's id, so that a replay draws them again.

use crate::ids::RunId;

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub(crate) struct SplitMix64(u64);

impl SplitMix64 {
    /// The stream of `run`. Old ledgers depend on every number of it: it never changes.
    pub(crate) fn of(run: RunId) -> Self {
        Self(xxhash_rust::xxh3::xxh3_64(run.0.as_bytes()))
    }

    /// Starts elsewhere: a number that a query has shown is not the run's next one.
    pub(crate) fn aside_of(run: RunId) -> Self {
        Self(!Self::of(run).0)
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_the_published_one() {
        // The authors' reference implementation, seeded with 1234567.
        let mut stream = SplitMix64(1_234_567);
        assert_eq!([stream.next(), stream.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }
}
