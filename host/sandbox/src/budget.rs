//! What one store may take of the host's memory. On every store, without exception; what all of them have
//! together is the affair of [`crate::room`].

use std::sync::Arc;

use backstitch_core::limits;
use tokio::time::Instant;
use wasmtime::{Engine, ResourceLimiter, ResourceLimiterAsync, Store};
use wasmtime_wasi::async_trait;

use crate::heartbeat::Heartbeat;
use crate::room::Share;

/// A store with the bounds that do not depend on what it carries. Its [`Budget`] is the caller's to set.
pub(crate) fn bounded<T: 'static>(engine: &Engine, data: T) -> Store<T> {
    let mut store = Store::new(engine, data);
    store.set_hostcall_fuel(limits::HOSTCALL_BYTES_MAX);
    store.set_max_component_handles(limits::RESOURCES_MAX);
    store
}

/// Counts linear memory over all memories of a store, and table elements over all tables.
#[derive(Debug)]
pub(crate) struct Budget {
    memory_bytes: usize,
    memory_bytes_max: usize,
    table_elements: usize,
    /// What the host holds for the guest beside its memory.
    kept_bytes: usize,
    share: Share,
    /// Whether it gets more although there is no room.
    is_privileged: bool,
}

/// A budget whose store waits for room, and its bounds with it.
pub(crate) struct WaitingBudget {
    pub(crate) budget: Budget,
    pub(crate) heartbeat: Arc<Heartbeat>,
}

/// A guest asked for more than its [`Budget`]. Traps, because a guest that is told "no" would go on
/// in another way than one with a larger budget.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OverBudget {
    /// Linear memory.
    #[error("the guest asked for {wanted} bytes of memory in all; it may have {max}. Hold less at a time")]
    Memory {
        /// What it would have had.
        wanted: usize,
        /// What it may have.
        max: usize,
    },
    /// Tables.
    #[error("the guest asked for {wanted} table elements in all; it may have {}", limits::TABLE_ELEMENTS_MAX)]
    Table {
        /// What it would have had.
        wanted: usize,
    },
    /// There is no room on the host now.
    #[error("the host has no room for the guest's memory now")]
    NoRoom,
    /// Growth within the budget that the host could not give. Whether it could must not be visible
    /// to a deterministic guest.
    #[error("the guest's memory could not grow: {0}")]
    Failed(String),
}

impl Budget {
    /// A budget with this much linear memory, which is there.
    pub(crate) fn new(memory_bytes_max: usize, share: Share) -> Self {
        Self {
            memory_bytes: 0,
            memory_bytes_max,
            table_elements: 0,
            kept_bytes: 0,
            share,
            is_privileged: false,
        }
    }

    /// The same for a guest that cannot be told "no" or "later".
    pub(crate) fn privileged(self) -> Self {
        Self { is_privileged: true, ..self }
    }

    /// So much is held for the guest from now on, beside its memory.
    pub(crate) fn keep(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.kept_bytes, bytes);
        match bytes.checked_sub(before) {
            Some(0) => {}
            Some(more) => self.share.take(more),
            None => self.share.give_back(before - bytes),
        }
    }

    /// What a growth asks of the host; none: the guest's own bound refuses it.
    fn growth(
        &self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Result<Option<usize>, OverBudget> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            // Its own bound, which WebAssembly lets it handle.
            return Ok(None);
        }
        let more = desired.saturating_sub(current);
        let wanted = self.memory_bytes.saturating_add(more);
        if wanted > self.memory_bytes_max {
            return Err(OverBudget::Memory { wanted, max: self.memory_bytes_max });
        }
        Ok(Some(more))
    }
}

impl ResourceLimiter for Budget {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let Some(more) = self.growth(current, desired, maximum)? else { return Ok(false) };
        if self.is_privileged {
            self.share.take(more);
        } else if !self.share.try_take(more) {
            return Err(OverBudget::NoRoom.into());
        }
        self.memory_bytes += more;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(OverBudget::Failed(error.to_string()).into())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let wanted = self.table_elements.saturating_add(desired.saturating_sub(current));
        if wanted > limits::TABLE_ELEMENTS_MAX {
            return Err(OverBudget::Table { wanted }.into());
        }
        self.table_elements = wanted;
        Ok(true)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(OverBudget::Failed(error.to_string()).into())
    }

    fn instances(&self) -> usize {
        limits::CORE_INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        limits::TABLES_MAX
    }

    fn memories(&self) -> usize {
        limits::MEMORIES_MAX
    }
}

#[async_trait]
impl ResourceLimiterAsync for WaitingBudget {
    async fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let Self { budget, heartbeat } = self;
        let Some(more) = budget.growth(current, desired, maximum)? else { return Ok(false) };
        if !budget.share.try_take(more) {
            let _standing = heartbeat.stand_still(Instant::now());
            budget.share.wait_for(more).await;
        }
        budget.memory_bytes += more;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.budget.memory_grow_failed(error)
    }

    async fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.budget.table_growing(current, desired, maximum)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.budget.table_grow_failed(error)
    }

    fn instances(&self) -> usize {
        self.budget.instances()
    }

    fn tables(&self) -> usize {
        self.budget.tables()
    }

    fn memories(&self) -> usize {
        self.budget.memories()
    }
}
