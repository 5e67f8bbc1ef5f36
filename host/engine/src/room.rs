//! Room for whole ledgers in memory: in number for small ones, in bytes for large ones.
//!
//! Nobody knows how large a ledger is before it was read, so a small one is read under a *turn* alone, and what turns out
//! to be larger is dropped and read anew as a large one: page by page, each page once there is room for its bytes. Only
//! one large ledger is read at a time. Whoever has read his waits for nobody, so that what is held is always given back,
//! and nobody waits in a circle.

use std::sync::Arc;

use backstitch_core::{Row, RunId, limits};
use backstitch_ledger::{Ledger, LedgerError, Pages};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What the bytes of a room are counted in: a semaphore's permits are 32 bits.
const UNIT: usize = 1 << 10;

/// Room for ledgers. Cheap to clone: all clones are one.
#[derive(Clone, Debug)]
pub struct Room {
    turns: Arc<Semaphore>,
    reading: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    units: u32,
}

/// A place in a room, given back when it is dropped. It goes wherever the ledger goes.
#[derive(Debug, Default)]
pub struct Permit {
    _turn: Option<OwnedSemaphorePermit>,
    bytes: Option<OwnedSemaphorePermit>,
}

impl Permit {
    /// Whether it is room for bytes.
    pub fn is_large(&self) -> bool {
        self.bytes.is_some()
    }
}

impl Room {
    /// Room for `turns` small ledgers, and `bytes` of large ones.
    pub fn new(turns: usize, bytes: usize) -> Self {
        let units = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX);
        Self {
            turns: Arc::new(Semaphore::new(turns)),
            reading: Arc::new(Semaphore::new(1)),
            bytes: Arc::new(Semaphore::new(units as usize)),
            units,
        }
    }

    /// Waits for a turn: for small ledgers, and for pages.
    pub async fn turn(&self) -> Permit {
        let turn = Arc::clone(&self.turns).acquire_owned().await.expect("never closed");
        Permit { _turn: Some(turn), bytes: None }
    }

    /// A whole ledger, whatever its size, as a takeover reads it: a row at a place that no run has is among them. `copies`:
    /// how often its bytes are to be in memory at once.
    pub async fn read(
        &self,
        ledger: &Ledger,
        run: RunId,
        copies: usize,
    ) -> Result<(Vec<Row>, Permit), LedgerError> {
        let turn = self.turn().await;
        if let Some(rows) = read_small(ledger.pages(run)).await? {
            return Ok((rows, turn));
        }
        drop(turn);
        self.read_large(ledger, run, copies).await
    }

    async fn read_large(
        &self,
        ledger: &Ledger,
        run: RunId,
        copies: usize,
    ) -> Result<(Vec<Row>, Permit), LedgerError> {
        let _reading = Arc::clone(&self.reading).acquire_owned().await.expect("never closed");
        let (mut rows, mut permit) = (Vec::new(), Permit::default());
        let mut pages = ledger.pages(run);
        while let Some((page, bytes)) = pages.next().await? {
            self.widen(&mut permit, copies * bytes).await;
            rows.extend(page);
        }
        Ok((rows, permit))
    }

    /// Waits for room for so many bytes more. Whoever has all of the room has enough.
    async fn widen(&self, permit: &mut Permit, bytes: usize) {
        let has = permit.bytes.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wanted = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let wanted = wanted.min(self.units.saturating_sub(u32::try_from(has).unwrap_or(u32::MAX)));
        let more = Arc::clone(&self.bytes).acquire_many_owned(wanted).await.expect("never closed");
        match &mut permit.bytes {
            Some(bytes) => bytes.merge(more),
            bytes @ None => *bytes = Some(more),
        }
    }
}

/// All rows, if they fit one page.
async fn read_small(mut pages: Pages) -> Result<Option<Vec<Row>>, LedgerError> {
    let (mut rows, mut taken) = (Vec::new(), 0);
    while let Some((page, bytes)) = pages.next().await? {
        taken += bytes;
        if taken > limits::LEDGER_PAGE_BYTES {
            return Ok(None);
        }
        rows.extend(page);
    }
    Ok(Some(rows))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Whether something waits, as long as nobody else does anything.
    async fn waits<T>(waiting: impl Future<Output = T>) -> bool {
        tokio::time::timeout(Duration::from_millis(20), waiting).await.is_err()
    }

    #[tokio::test]
    async fn there_is_room_for_so_many_bytes_until_they_are_given_back() {
        let room = Room::new(1, 10 * UNIT);
        let (mut first, mut second) = (Permit::default(), Permit::default());
        room.widen(&mut first, 4 * UNIT).await;
        room.widen(&mut first, 2 * UNIT + 1).await;
        room.widen(&mut second, 3 * UNIT).await;
        assert!(waits(room.widen(&mut second, UNIT)).await, "the first one has 7, the second 3");
        drop(first);
        room.widen(&mut second, UNIT).await;
        assert!(second.is_large());
    }

    #[tokio::test]
    async fn who_has_all_the_room_has_enough() {
        let room = Room::new(1, 10 * UNIT);
        let mut permit = Permit::default();
        room.widen(&mut permit, 1_000 * UNIT).await;
        room.widen(&mut permit, 1_000 * UNIT).await;
        assert!(waits(room.widen(&mut Permit::default(), 1)).await);
    }

    #[tokio::test]
    async fn small_ledgers_have_turns() {
        let room = Room::new(2, UNIT);
        let (first, _second) = (room.turn().await, room.turn().await);
        assert!(!first.is_large());
        assert!(waits(room.turn()).await);
        drop(first);
        room.turn().await;
    }
}
