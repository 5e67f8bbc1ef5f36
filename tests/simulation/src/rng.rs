//! Numbers drawn from a seed, and a hash of texts: the same on every machine and with every compiler, so that a seed that
//! failed once fails again.
//!
//! No entropy comes in here, and nothing of it is fit for secrets. `std`'s hashers are not used because they promise nothing
//! from one version to the next.

/// A small generator: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The generator of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `n` - 1; 0 if there is none.
    pub fn below(&mut self, n: u64) -> u64 {
        // The high half of the product: no remainder, which would favour the low numbers of a large range.
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// True in `per_mille` of 1,000 cases.
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1_000) < per_mille
    }

    /// One of `all`, which has at least one.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }

    /// A generator of its own: how much is drawn from it changes nothing here.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self(self.next_u64())
    }
}

/// A number that depends on every byte of `text` and on `before`: FNV-1a (Fowler, Noll and Vo) of 64 bits,
/// then mixed, because the low bits of FNV alone differ little.
pub fn hash(before: u64, text: &str) -> u64 {
    Rng::new(fnv_1a(FNV_OFFSET ^ before, text)).next_u64()
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv_1a(begun: u64, text: &str) -> u64 {
    text.bytes().fold(begun, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_and_the_hash_are_the_published_ones() {
        let mut rng = Rng::new(1_234_567);
        assert_eq!([rng.next_u64(), rng.next_u64()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
        let hashes = ["", "a", "foobar"].map(|text| fnv_1a(FNV_OFFSET, text));
        assert_eq!(hashes, [0xcbf2_9ce4_8422_2325, 0xaf63_dc4c_8601_ec8c, 0x8594_4171_f739_67e8]);
    }

    #[test]
    fn every_number_below_a_bound_comes_up_about_as_often() {
        let mut rng = Rng::new(1);
        let mut counts = [0_u32; 7];
        for _ in 0..7_000 {
            counts[rng.below(7) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
        let hits = (0..10_000).filter(|_| rng.chance(250)).count();
        assert!((2_200..2_800).contains(&hits), "{hits}");
        assert_eq!(rng.below(0), 0);
    }

    #[test]
    fn what_is_drawn_from_a_fork_changes_nothing_in_its_origin() {
        let (mut one, mut other) = (Rng::new(5), Rng::new(5));
        let (mut fork, _) = (one.fork(), other.fork());
        let of_fork = fork.next_u64();
        let next = one.next_u64();
        assert_eq!(next, other.next_u64());
        assert_ne!(of_fork, next);
    }

    #[test]
    fn a_hash_depends_on_the_text_and_on_what_came_before() {
        let all =
            [hash(0, ""), hash(0, "a"), hash(1, ""), hash(1, "a"), hash(hash(0, "a"), "b"), hash(0, "ab")];
        let different: std::collections::BTreeSet<u64> = all.into();
        assert_eq!(different.len(), all.len());
    }
}
