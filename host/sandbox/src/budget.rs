//! What one store may take of the host's memory. On every store, without exception.

use backstitch_core::limits;
use wasmtime::{Engine, ResourceLimiter, Store};

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
    /// Growth within the budget that the host could not give. Whether it could must not be visible
    /// to a deterministic guest.
    #[error("the guest's memory could not grow: {0}")]
    Failed(String),
}

impl Budget {
    /// A budget with this much linear memory.
    pub(crate) fn new(memory_bytes_max: usize) -> Self {
        Self { memory_bytes: 0, memory_bytes_max, table_elements: 0 }
    }
}

impl ResourceLimiter for Budget {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            // Its own bound, which WebAssembly lets it handle.
            return Ok(false);
        }
        let wanted = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if wanted > self.memory_bytes_max {
            return Err(OverBudget::Memory { wanted, max: self.memory_bytes_max }.into());
        }
        self.memory_bytes = wanted;
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
