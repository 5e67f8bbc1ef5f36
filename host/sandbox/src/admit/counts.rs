//! How large a component may be, in everything that costs whoever compiles or instantiates it.

use backstitch_core::limits;
use wasmparser::{Instance, Payload};

use super::{ComponentKind, Refused};

/// Sums over all modules and components of one file.
#[derive(Debug, Default)]
pub(super) struct Counts {
    depth: u32,
    functions: u64,
    memories: u64,
    memory_pages: u64,
    tables: u64,
    table_elements: u64,
    instances: u64,
}

impl Counts {
    /// How many components and modules surround what is being read; 0 in the outermost.
    pub(super) fn depth(&self) -> u32 {
        self.depth
    }

    /// Counts one section. Malformed ones count as far as they can be read: the validator will say
    /// what is wrong with them.
    pub(super) fn add(&mut self, payload: &Payload<'_>) -> Result<(), Refused> {
        match payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                self.depth += 1;
                within("components are nested", self.depth.into(), limits::COMPONENT_NESTING_MAX.into())
            }
            Payload::End(_) => {
                self.depth = self.depth.saturating_sub(1);
                Ok(())
            }
            Payload::FunctionSection(section) => {
                self.functions += u64::from(section.count());
                within("functions:", self.functions, limits::COMPONENT_FUNCTIONS_MAX.into())
            }
            Payload::MemorySection(section) => {
                self.memories += u64::from(section.count());
                within("memories:", self.memories, limits::MEMORIES_MAX as u64)?;
                for memory in section.clone().into_iter().flatten() {
                    self.memory_pages = self.memory_pages.saturating_add(memory.initial);
                }
                within("64 KiB pages of memory from the start:", self.memory_pages, memory_pages_max())
            }
            Payload::TableSection(section) => {
                self.tables += u64::from(section.count());
                within("tables:", self.tables, limits::TABLES_MAX as u64)?;
                for table in section.clone().into_iter().flatten() {
                    self.table_elements = self.table_elements.saturating_add(table.ty.initial);
                }
                within("table elements:", self.table_elements, limits::TABLE_ELEMENTS_MAX as u64)
            }
            Payload::InstanceSection(section) => {
                let modules = section.clone().into_iter().flatten();
                let modules = modules.filter(|instance| matches!(instance, Instance::Instantiate { .. }));
                self.instances += modules.count() as u64;
                within("core instances:", self.instances, limits::CORE_INSTANCES_MAX as u64)
            }
            _ => Ok(()),
        }
    }
}

/// What the larger kind may have. Which kind this is, its exports will tell; the budget of its store
/// holds it to its own.
fn memory_pages_max() -> u64 {
    const PAGE_BYTES: usize = 64 << 10;
    let of = |kind| match kind {
        ComponentKind::Workflow => limits::WORKFLOW_MEMORY_BYTES_MAX,
        ComponentKind::Activity => limits::ACTIVITY_MEMORY_BYTES_MAX,
    };
    ComponentKind::ALL.map(|kind| (of(kind) / PAGE_BYTES) as u64).into_iter().max().unwrap_or(0)
}

fn within(what: &'static str, count: u64, max: u64) -> Result<(), Refused> {
    if count > max { Err(Refused::TooLarge { what, count, max }) } else { Ok(()) }
}
