//! Identities. Each is its own type, so that no two can be swapped by accident.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

macro_rules! number {
    ($(#[$meta:meta])* $name:ident($inner:ty)) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Which slice of the database a row lives in. First in every key; one transaction touches one.
    Shard(i16)
}
number! {
    /// Who a run belongs to. Every row carries it.
    TenantId(i32)
}
number! {
    /// Counts the registrations of a host: with the [`HostId`] it is the fence of every write.
    Epoch(i64)
}
number! {
    /// A row's place in its run's ledger: 0, 1, 2 … without a gap.
    Seq(u32)
}
number! {
    /// A command's number in its run, in call order: 0, 1, 2 …
    Op(u32)
}
number! {
    /// Checksum over the previous row's chain and this row.
    Chain(u64)
}

impl TenantId {
    /// The tenant of every installation that has not made another.
    pub const DEFAULT: Self = Self(1);
}

/// Where a statement acts: scalar parameters of every query (the shard rule, DESIGN §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    /// The slice of the database.
    pub shard: Shard,
    /// The owner of the rows.
    pub tenant: TenantId,
}

impl Scope {
    /// One shard, one tenant: what a fresh installation has.
    pub const DEFAULT: Self = Self { shard: Shard(0), tenant: TenantId::DEFAULT };
}

macro_rules! uuid_id {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

uuid_id! {
    /// A lease of tasks to a worker: random, so that knowing it is having been granted it.
    TaskLease
}
uuid_id! {
    /// One run of a workflow. UUID v7: ordered by the time of the start, which partitions the ledger.
    RunId
}
uuid_id! {
    /// One host process. A restarted process is another host.
    HostId
}

impl RunId {
    /// The run that `op` of `parent`, recorded at `at_ms`, starts.
    ///
    /// Derived instead of drawn, so that it need not be stored and a repeated start cannot make a
    /// second child. The shape is UUID v7 (RFC 9562): 48 bits of time, the rest a hash of its origin.
    pub fn derived(parent: Self, op: Op, at_ms: u64) -> Self {
        let mut origin = [0; 20];
        origin[..16].copy_from_slice(parent.0.as_bytes());
        origin[16..].copy_from_slice(&op.0.to_be_bytes());
        let hash = xxh3_128(&origin).to_be_bytes();
        let mut random = [0; 10];
        random.copy_from_slice(&hash[..10]);
        Self(uuid::Builder::from_unix_timestamp_millis(at_ms, &random).into_uuid())
    }
}

/// The inbox item that `op` of `sender`, recorded at `at_ms`, sends: derived, so that a message sent
/// again is the same message. A UUID v7; of one sender and time they are ordered as the ops are.
pub fn message_id(sender: RunId, op: Op, at_ms: u64) -> Uuid {
    // After the time come 12 free bits, then 62: two of byte 2 are the variant's.
    const LOW_BITS: u32 = 6;
    debug_assert!(op.0 >> LOW_BITS < 1 << 12, "more ops than a run may have rows");
    let mut free = [0; 10];
    free.copy_from_slice(&RunId::derived(sender, op, at_ms).0.as_bytes()[6..]);
    free[..2].copy_from_slice(&((op.0 >> LOW_BITS) as u16).to_be_bytes());
    free[2] = (op.0 & ((1 << LOW_BITS) - 1)) as u8;
    uuid::Builder::from_unix_timestamp_millis(at_ms, &free).into_uuid()
}

/// SHA-256 of a component's bytes: what a run is pinned to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The first 12 hex digits: enough for people.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// The text is not 64 hex digits.
#[derive(Debug, thiserror::Error)]
#[error("not a SHA-256 digest: expected 64 hex digits")]
pub struct NotADigest;

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let digits = text.as_bytes();
        // Digits only: `from_str_radix` takes a sign too, and a digest has one text.
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(NotADigest);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| NotADigest)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NotADigest)?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_run_id_depends_on_parent_op_and_time_only() {
        let parent = RunId(Uuid::from_u128(7));
        let child = RunId::derived(parent, Op(3), 1_700_000_000_000);
        assert_eq!(child, RunId::derived(parent, Op(3), 1_700_000_000_000));
        assert_ne!(child, RunId::derived(parent, Op(4), 1_700_000_000_000));
        assert_ne!(child, RunId::derived(RunId(Uuid::from_u128(8)), Op(3), 1_700_000_000_000));
        assert_eq!(child.0.get_version_num(), 7);
        assert!(child < RunId::derived(parent, Op(3), 1_700_000_000_001), "ordered by time");
    }

    #[test]
    fn messages_of_one_activation_are_ordered_as_their_commands() {
        let (sender, at_ms) = (RunId(Uuid::from_u128(7)), 1_700_000_000_000);
        let ids: Vec<Uuid> =
            (0..crate::limits::RUN_ROWS_MAX).map(|op| message_id(sender, Op(op), at_ms)).collect();
        assert!(ids.is_sorted_by(|one, next| one < next));
        assert_eq!(ids[5], message_id(sender, Op(5), at_ms));
        assert_ne!(ids[5], message_id(RunId(Uuid::from_u128(8)), Op(5), at_ms));
        assert!(ids.iter().all(|id| id.get_version_num() == 7 && *id < message_id(sender, Op(0), at_ms + 1)));
    }

    #[test]
    fn a_digest_survives_its_text() {
        let digest = Digest(std::array::from_fn(|i| i as u8 * 7));
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert!("zz".repeat(32).parse::<Digest>().is_err());
        assert!("00".repeat(31).parse::<Digest>().is_err());
        assert!("+f".repeat(32).parse::<Digest>().is_err(), "one digest has one text");
    }
}
