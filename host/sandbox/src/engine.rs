//! The only place that says `wasmtime::Config`: what guests may be made of and how they run.
//!
//! Engines run guests, one for each [`Build`], and a twin of each, without a pool, compiles for it:
//!
//! | | workflows | activities |
//! |---|---|---|
//! | bounded by | fuel, which repeats exactly; then epochs: processor time | epochs: wall time |
//! | host calls | none waits | may await |
//! | memory of one instance | [`limits::WORKFLOW_MEMORY_BYTES_MAX`] | [`limits::ACTIVITY_MEMORY_BYTES_MAX`] |
//!
//! What of WebAssembly a guest may use is [`FEATURES`], and nothing else: a proposal that a later Wasmtime turns on
//! is still off here. Everything that could make two executions differ is off: threads, relaxed SIMD, NaN payloads.
//!
//! The price of an instruction is in the compiled code, so workflows under different [`Rules`] are different code
//! of the same component, and have an engine for each. Only that of the current rules has a pool, which is most of
//! what an engine costs: runs under older ones become fewer, and theirs takes its memory from the system.

use std::num::NonZeroUsize;
use std::time::Duration;

use backstitch_core::{Rules, limits};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Strategy,
    WasmBacktraceDetails, WasmFeatures,
};

use crate::kind::ComponentKind;
use crate::prices;

/// What of WebAssembly guests may use: what the toolchains that we know emit unasked, and SIMD, which they emit when
/// they are told to. Each of these is old, and repeats exactly.
///
/// Off, among others: garbage collection, typed function references and exceptions (code of Wasmtime that is young,
/// and that we leave out of the build: a guest that reached it could end the host), 64-bit and shared memories,
/// several memories in a module, tail calls, everything asynchronous in components.
pub(crate) const FEATURES: WasmFeatures = WasmFeatures::MUTABLE_GLOBAL
    .union(WasmFeatures::SATURATING_FLOAT_TO_INT)
    .union(WasmFeatures::SIGN_EXTENSION)
    // Tables of functions; references to what is the host's (`externref`) are off with the types of the collector.
    .union(WasmFeatures::REFERENCE_TYPES)
    .union(WasmFeatures::MULTI_VALUE)
    .union(WasmFeatures::BULK_MEMORY)
    .union(WasmFeatures::SIMD)
    .union(WasmFeatures::FLOATS)
    .union(WasmFeatures::EXTENDED_CONST)
    .union(WasmFeatures::COMPONENT_MODEL);

/// How often a running guest looks up: the grain of its timeouts, and about the longest time for which
/// a spinning one keeps a thread to itself.
pub(crate) const EPOCH_TICK: Duration = Duration::from_millis(10);

/// Instances beyond the warm ones, or beyond the attempts that have a turn: those that are being replayed to be read,
/// and attempts on the thread of their caller.
pub(crate) const INSTANCES_SLACK: usize = 64;

/// Linear memory that a slot keeps between two guests, so that a small guest's next start pays a
/// `memset` instead of page faults.
const KEEP_RESIDENT_BYTES: usize = 64 << 10;

/// Stack of a guest's fiber: the guest's share, and the host's own calls on top of it.
const ASYNC_STACK_BYTES: usize = limits::WASM_STACK_BYTES + (1 << 20);

/// What a component is compiled for: its world and, where the compiled code depends on them, the rules of its runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Build {
    /// Workflows, under these rules.
    Workflow(Rules),
    /// Activities, which have no fuel.
    Activity,
}

impl Build {
    /// Every one.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 3] =
        [Self::Workflow(Rules::Second), Self::Workflow(Rules::First), Self::Activity];

    /// Of a component of this kind; of workflows, for runs under these rules.
    pub fn new(kind: ComponentKind, rules: Rules) -> Self {
        match kind {
            ComponentKind::Workflow => Self::Workflow(rules),
            ComponentKind::Activity => Self::Activity,
        }
    }

    /// The kind of component.
    pub fn kind(self) -> ComponentKind {
        match self {
            Self::Workflow(_) => ComponentKind::Workflow,
            Self::Activity => ComponentKind::Activity,
        }
    }

    /// Under which rules its workflows are; those of today for activities, which are the same under all.
    pub(crate) fn rules(self) -> Rules {
        match self {
            Self::Workflow(rules) => rules,
            Self::Activity => Rules::CURRENT,
        }
    }
}

/// The engine that runs what is built so, `instances_max` of them at once.
pub(crate) fn runner(build: Build, instances_max: usize) -> wasmtime::Result<Engine> {
    let mut config = config(build);
    let memory_bytes_max = match build {
        Build::Workflow(Rules::CURRENT) => limits::WORKFLOW_MEMORY_BYTES_MAX,
        Build::Workflow(_) => return Engine::new(&config),
        Build::Activity => limits::ACTIVITY_MEMORY_BYTES_MAX,
    };
    let pool = pool(instances_max.saturating_add(INSTANCES_SLACK), memory_bytes_max);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}

/// The engine that compiles. It has no pool, because the process that
/// compiles may not reserve terabytes of address space; its artefacts load into [`runner`]'s.
pub(crate) fn compiler(build: Build) -> wasmtime::Result<Engine> {
    Engine::new(&config(build))
}

/// How guests of this build run, but for where their memory comes from.
pub(crate) fn config(build: Build) -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true)
        .parallel_compilation(true)
        .wasm_features(FEATURES, true)
        .wasm_features(WasmFeatures::all().difference(FEATURES), false)
        .concurrency_support(false)
        .epoch_interruption(true)
        .async_stack_size(ASYNC_STACK_BYTES)
        .max_wasm_stack(limits::WASM_STACK_BYTES)
        .wasm_backtrace_max_frames(NonZeroUsize::new(limits::BACKTRACE_FRAMES_MAX))
        // Function names suffice; a guest's DWARF is one more language of its that we would parse.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .memory_init_cow(true);
    match build {
        Build::Workflow(rules) => config.consume_fuel(true).operator_cost(prices::of(rules)),
        Build::Activity => config.consume_fuel(false),
    };
    config
}

fn pool(instances: usize, memory_bytes_max: usize) -> PoolingAllocationConfig {
    let times = |factor: usize| u32::try_from(instances.saturating_mul(factor)).unwrap_or(u32::MAX);
    let per_component = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let mut pool = PoolingAllocationConfig::new();
    // Each instance may have all that admission lets a component have, so that one that has a place has room: nobody
    // is refused for what others hold.
    pool.total_component_instances(times(1))
        // Counted, not reserved.
        .total_core_instances(times(limits::CORE_INSTANCES_MAX))
        // Reserved as address space, 4 GiB each: 40 TiB of 128 for 5,000 runs.
        .total_memories(times(limits::MEMORIES_MAX))
        .total_tables(times(limits::TABLES_MAX))
        .total_stacks(times(1))
        .max_core_instances_per_component(per_component(limits::CORE_INSTANCES_MAX))
        .max_memories_per_component(per_component(limits::MEMORIES_MAX))
        .max_memories_per_module(per_component(limits::MEMORIES_MAX))
        .max_tables_per_component(per_component(limits::TABLES_MAX))
        .max_tables_per_module(per_component(limits::TABLES_MAX))
        .max_memory_size(memory_bytes_max)
        .table_elements(limits::TABLE_ELEMENTS_MAX)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_RESIDENT_BYTES)
        .pagemap_scan(Enabled::Auto);
    pool
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hash, Hasher};

    use super::*;

    fn compatibility(engine: &Engine) -> u64 {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        hasher.finish()
    }

    #[test]
    fn what_the_compiler_makes_the_runner_takes() {
        for build in Build::ALL {
            let (compiler, runner) = (compiler(build).unwrap(), runner(build, 1).unwrap());
            assert_eq!(compatibility(&compiler), compatibility(&runner), "{build:?}");
        }
        let [current, first, activity] = Build::ALL.map(|build| compatibility(&compiler(build).unwrap()));
        assert!(current != first && first != activity && activity != current);
    }

    #[test]
    fn a_feature_is_on_if_it_is_on_the_list() {
        for build in Build::ALL {
            for engine in [compiler(build).unwrap(), runner(build, 1).unwrap()] {
                assert_eq!(engine.get_wasm_features(), FEATURES, "{build:?}");
            }
        }
    }
}
