//! How much memory a host gives to what, unless told otherwise: parts of what its machine, or its group of processes, has.

use backstitch_core::limits;

use crate::ambient;

/// Linear memory of all guests of a host together, unless told otherwise: half of what the machine, or the group of
/// processes that the host is in, has. The other half is for ledgers that are read, the batches of the writer, and
/// the private Postgres.
pub fn guest_memory_bytes_max() -> usize {
    guests_of(memory_bytes())
}

/// Whole ledgers in memory, unless told otherwise: so much for runs that are taken over, and as much for clients. An
/// eighth of the same each, and no more than two of the largest ledgers take. One that is larger than that is read all
/// the same, alone.
pub fn ledger_memory_bytes_max() -> usize {
    ledgers_of(memory_bytes())
}

fn memory_bytes() -> u64 {
    ambient::memory_bytes().unwrap_or(limits::MACHINE_MEMORY_BYTES_DEFAULT)
}

fn guests_of(memory_bytes: u64) -> usize {
    usize::try_from(memory_bytes / 2).unwrap_or(usize::MAX)
}

fn ledgers_of(memory_bytes: u64) -> usize {
    usize::try_from(memory_bytes / 8).unwrap_or(usize::MAX).min(limits::LEDGERS_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_and_ledgers_have_their_shares_of_the_memory_and_leave_a_quarter() {
        for (memory, guests, ledgers) in
            [(1 << 30, 512 << 20, 128 << 20), (4 << 30, 2 << 30, 512 << 20), (64 << 30, 32 << 30, 640 << 20)]
        {
            assert_eq!((guests_of(memory), ledgers_of(memory)), (guests, ledgers), "{memory}");
            assert!(guests + 2 * ledgers <= usize::try_from(memory).unwrap() / 4 * 3);
        }
    }
}
