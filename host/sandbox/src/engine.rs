//! The only place that says `wasmtime::Config`: what guests may be made of and how they run.
//!
//! Two engines run guests, and a twin of each, without a pool, compiles for it:
//!
//! | | workflows | activities |
//! |---|---|---|
//! | bounded by | fuel, which repeats exactly | epochs: wall time |
//! | host calls | synchronous | may await |
//! | memory of one instance | [`limits::WORKFLOW_MEMORY_BYTES_MAX`] | [`limits::ACTIVITY_MEMORY_BYTES_MAX`] |
//!
//! What of WebAssembly a guest may use is [`FEATURES`], and nothing else: a proposal that a later Wasmtime turns on
//! is still off here. Everything that could make two executions differ is off: threads, relaxed SIMD, NaN payloads.

use std::num::NonZeroUsize;
use std::time::Duration;

use backstitch_core::limits;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OperatorCost, OptLevel, PoolingAllocationConfig,
    Strategy, VariableOperatorCost, WasmBacktraceDetails, WasmFeatures,
};

use crate::admit::ComponentKind;

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

/// How often a running activity looks up: the grain of its timeouts, and the longest time for which
/// a spinning one keeps a tokio worker to itself.
pub(crate) const EPOCH_TICK: Duration = Duration::from_millis(10);

/// Instances beyond the warm ones, or beyond the attempts that have a turn: those that are being replayed to be read,
/// and attempts on the thread of their caller.
pub(crate) const INSTANCES_SLACK: usize = 64;

/// Linear memory that a slot keeps between two guests, so that a small guest's next start pays a
/// `memset` instead of page faults.
const KEEP_RESIDENT_BYTES: usize = 64 << 10;

/// Stack of an activity's fiber: the guest's share, and the host's own calls on top of it.
const ASYNC_STACK_BYTES: usize = limits::WASM_STACK_BYTES + (1 << 20);

/// The engine that runs components of this kind, `instances_max` of them at once.
pub(crate) fn runner(kind: ComponentKind, instances_max: usize) -> wasmtime::Result<Engine> {
    let mut config = config(kind);
    let memory_bytes_max = match kind {
        ComponentKind::Workflow => limits::WORKFLOW_MEMORY_BYTES_MAX,
        ComponentKind::Activity => limits::ACTIVITY_MEMORY_BYTES_MAX,
    };
    let pool = pool(instances_max.saturating_add(INSTANCES_SLACK), memory_bytes_max);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}

/// The engine that compiles components of this kind. It has no pool, because the process that
/// compiles may not reserve terabytes of address space; its artefacts load into [`runner`]'s.
pub(crate) fn compiler(kind: ComponentKind) -> wasmtime::Result<Engine> {
    Engine::new(&config(kind))
}

fn config(kind: ComponentKind) -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .cranelift_nan_canonicalization(true)
        .parallel_compilation(true)
        .wasm_features(FEATURES, true)
        .wasm_features(WasmFeatures::all().difference(FEATURES), false)
        .concurrency_support(false)
        .max_wasm_stack(limits::WASM_STACK_BYTES)
        .wasm_backtrace_max_frames(NonZeroUsize::new(limits::BACKTRACE_FRAMES_MAX))
        // Function names suffice; a guest's DWARF is one more language of its that we would parse.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .memory_init_cow(true);
    match kind {
        ComponentKind::Workflow => {
            config.consume_fuel(true).operator_cost(operator_cost()).epoch_interruption(false)
        }
        ComponentKind::Activity => {
            config.consume_fuel(false).epoch_interruption(true).async_stack_size(ASYNC_STACK_BYTES)
        }
    };
    config
}

/// One unit of fuel for an instruction, except for those that leave compiled code: a refused growth
/// takes as long as a call of the host, and each page that is granted will be cleared.
fn operator_cost() -> OperatorCost {
    let call = u8::try_from(limits::HOSTCALL_FUEL).unwrap_or(u8::MAX);
    OperatorCost {
        MemoryGrow: call,
        TableGrow: call,
        variable: VariableOperatorCost { memory_grow_per_page: u8::MAX, ..VariableOperatorCost::new() },
        ..OperatorCost::default()
    }
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
        for kind in [ComponentKind::Workflow, ComponentKind::Activity] {
            let (compiler, runner) = (compiler(kind).unwrap(), runner(kind, 1).unwrap());
            assert_eq!(compatibility(&compiler), compatibility(&runner), "{kind}");
        }
        let of = |kind| compatibility(&compiler(kind).unwrap());
        assert_ne!(of(ComponentKind::Workflow), of(ComponentKind::Activity));
    }

    #[test]
    fn a_feature_is_on_if_it_is_on_the_list() {
        for kind in ComponentKind::ALL {
            for engine in [compiler(kind).unwrap(), runner(kind, 1).unwrap()] {
                assert_eq!(engine.get_wasm_features(), FEATURES, "{kind}");
            }
        }
    }
}
