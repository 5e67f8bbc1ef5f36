//! How large a component may be, in everything that costs whoever validates, compiles, instantiates or reports it.

use backstitch_core::limits;
use wasmparser::{
    CompositeInnerType, CustomSectionReader, FunctionBody, Instance, KnownCustom, Name, Payload,
    TypeSectionReader,
};

use super::refused::Refused;
use crate::kind::ComponentKind;

/// Sums over all modules of one file.
#[derive(Debug, Default)]
pub(super) struct Counts {
    depth: u32,
    modules: u64,
    types: u64,
    imports: u64,
    exports: u64,
    functions: u64,
    memories: u64,
    memory_pages: u64,
    tables: u64,
    table_elements: u64,
    globals: u64,
    segments: u64,
    instances: u64,
    items: u64,
    custom_sections: u64,
}

impl Counts {
    /// How many modules surround what is being read; 0 in the outermost.
    pub(super) fn depth(&self) -> u32 {
        self.depth
    }

    /// Counts one section. Malformed ones count as far as they can be read: the validator will say
    /// what is wrong with them.
    pub(super) fn add(&mut self, payload: &Payload<'_>) -> Result<(), Refused> {
        use limits as most;
        match payload {
            Payload::ModuleSection { .. } => {
                self.depth += 1;
                add(&mut self.modules, 1_u32, "modules:", most::CORE_MODULES_MAX)
            }
            Payload::End(_) => {
                self.depth = self.depth.saturating_sub(1);
                Ok(())
            }
            Payload::TypeSection(section) => {
                add(&mut self.types, section.count(), "types:", most::COMPONENT_TYPES_MAX)?;
                parameters(section)
            }
            Payload::CoreTypeSection(section) => {
                add(&mut self.types, section.count(), "types:", most::COMPONENT_TYPES_MAX)
            }
            Payload::ComponentTypeSection(section) => {
                add(&mut self.types, section.count(), "types:", most::COMPONENT_TYPES_MAX)
            }
            Payload::ImportSection(section) => {
                add(&mut self.imports, section.count(), "imports:", most::COMPONENT_IMPORTS_MAX)
            }
            Payload::ComponentImportSection(section) => {
                add(&mut self.imports, section.count(), "imports:", most::COMPONENT_IMPORTS_MAX)
            }
            Payload::ExportSection(section) => {
                add(&mut self.exports, section.count(), "exports:", most::COMPONENT_EXPORTS_MAX)
            }
            Payload::ComponentExportSection(section) => {
                add(&mut self.exports, section.count(), "exports:", most::COMPONENT_EXPORTS_MAX)
            }
            Payload::FunctionSection(section) => {
                add(&mut self.functions, section.count(), "functions:", most::COMPONENT_FUNCTIONS_MAX)
            }
            Payload::CodeSectionEntry(body) => function(body),
            Payload::GlobalSection(section) => {
                add(&mut self.globals, section.count(), "globals:", most::COMPONENT_GLOBALS_MAX)
            }
            Payload::ElementSection(section) => {
                add(&mut self.segments, section.count(), "segments:", most::COMPONENT_SEGMENTS_MAX)
            }
            Payload::DataSection(section) => {
                add(&mut self.segments, section.count(), "segments:", most::COMPONENT_SEGMENTS_MAX)
            }
            Payload::ComponentAliasSection(section) => self.items(section.count()),
            Payload::ComponentCanonicalSection(section) => self.items(section.count()),
            Payload::ComponentInstanceSection(section) => self.items(section.count()),
            Payload::MemorySection(_) | Payload::TableSection(_) | Payload::InstanceSection(_) => {
                self.instantiated(payload)
            }
            Payload::CustomSection(section) => {
                add(&mut self.custom_sections, 1_u32, "custom sections:", most::CUSTOM_SECTIONS_MAX)?;
                names(section)
            }
            _ => Ok(()),
        }
    }

    /// What takes room in the pool: the bounds are those of a slot there.
    fn instantiated(&mut self, payload: &Payload<'_>) -> Result<(), Refused> {
        match payload {
            Payload::MemorySection(section) => {
                add(&mut self.memories, section.count(), "memories:", limits::MEMORIES_MAX as u64)?;
                for memory in section.clone().into_iter().flatten() {
                    self.memory_pages = self.memory_pages.saturating_add(memory.initial);
                }
                within("64 KiB pages of memory from the start:", self.memory_pages, memory_pages_max())
            }
            Payload::TableSection(section) => {
                add(&mut self.tables, section.count(), "tables:", limits::TABLES_MAX as u64)?;
                for table in section.clone().into_iter().flatten() {
                    self.table_elements = self.table_elements.saturating_add(table.ty.initial);
                }
                within("table elements:", self.table_elements, limits::TABLE_ELEMENTS_MAX as u64)
            }
            Payload::InstanceSection(section) => {
                self.items(section.count())?;
                let modules = section.clone().into_iter().flatten();
                let modules = modules.filter(|instance| matches!(instance, Instance::Instantiate { .. }));
                let count = modules.count() as u64;
                add(&mut self.instances, count, "core instances:", limits::CORE_INSTANCES_MAX as u64)
            }
            _ => Ok(()),
        }
    }

    fn items(&mut self, count: u32) -> Result<(), Refused> {
        add(&mut self.items, count, "definitions that link its modules:", limits::COMPONENT_ITEMS_MAX)
    }
}

/// Each parameter is one more step of validation and compilation at every place that refers to the type.
fn parameters(section: &TypeSectionReader<'_>) -> Result<(), Refused> {
    for group in section.clone().into_iter().flatten() {
        for ty in group.types() {
            if let CompositeInnerType::Func(ty) = &ty.composite_type.inner {
                let count = ty.params().len().max(ty.results().len()) as u64;
                within("parameters or results of one type:", count, limits::FUNCTION_PARAMS_MAX.into())?;
            }
        }
    }
    Ok(())
}

fn function(body: &FunctionBody<'_>) -> Result<(), Refused> {
    within("bytes of one function:", body.range().len() as u64, limits::FUNCTION_BYTES_MAX.into())?;
    let locals = body.get_locals_reader().into_iter().flatten().flatten();
    let locals = locals.fold(0, |sum: u64, (count, _)| sum.saturating_add(count.into()));
    within("locals of one function:", locals, limits::FUNCTION_LOCALS_MAX.into())
}

/// Those that a backtrace may repeat for each of its frames.
fn names(section: &CustomSectionReader<'_>) -> Result<(), Refused> {
    let KnownCustom::Name(subsections) = section.as_known() else { return Ok(()) };
    let fits = |name: &str| {
        within(
            "bytes of one function's or module's name:",
            name.len() as u64,
            limits::SYMBOL_BYTES_MAX.into(),
        )
    };
    for subsection in subsections.into_iter().map_while(Result::ok) {
        match subsection {
            Name::Module { name, .. } => fits(name)?,
            Name::Function(functions) => {
                for function in functions.into_iter().map_while(Result::ok) {
                    fits(function.name)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
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

fn add(sum: &mut u64, count: impl Into<u64>, what: &'static str, max: impl Into<u64>) -> Result<(), Refused> {
    *sum = sum.saturating_add(count.into());
    within(what, *sum, max.into())
}

fn within(what: &'static str, count: u64, max: u64) -> Result<(), Refused> {
    if count > max { Err(Refused::TooLarge { what: what.into(), count, max }) } else { Ok(()) }
}
