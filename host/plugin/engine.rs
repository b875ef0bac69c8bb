//! wasmtime with deterministic settings. Owns what must be the same on every host that folds the same log: NaNs, relaxed SIMD, no threads,
//! fuel.

use wasmtime::component::Component;
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::failure::Failure;
use crate::plugin::{caps, component};

/// Linear memory that a slot keeps resident between instances: measured 11 ns per event instead of 40 at batches of 10,000.
const KEEP_RESIDENT: usize = 32 << 20;
/// Core instances, and tables, of one instance of a plugin.
const CORE_INSTANCES: u32 = 4;
const TABLES: u32 = 4;
/// The stack of a call, wasmtime's default. Threads that fold have at least 2 MiB.
const STACK: usize = 512 << 10;

/// Makes the engine of a process, for this many instances at once, each with this much memory.
pub fn engine(instances: u32, memory_bytes: u64) -> Result<Engine, Failure> {
    let memory = usize::try_from(memory_bytes)
        .map_err(|_| Failure::unexpected("plugin.memory is larger than this machine's address space"))?;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances * CORE_INSTANCES)
        .total_memories(instances)
        .total_tables(instances * TABLES)
        // A component that needs more than its share of the pool is refused when it is compiled, and never waited for.
        .max_memories_per_component(1)
        .max_tables_per_component(TABLES)
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memory_size(memory)
        .max_core_instance_size(16 << 20)
        .max_component_instance_size(16 << 20)
        .max_unused_warm_slots(instances)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        // Resets only the pages that were touched, so that a batch of one record costs what it uses.
        .pagemap_scan(Enabled::Auto);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .consume_fuel(true)
        .max_wasm_stack(STACK)
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .coredump_on_trap(true);
    Engine::new(&config).map_err(|e| Failure::unexpected(format!("cannot set up the sandbox: {e:#}")))
}

/// Compiles a plugin's file, after it has looked whether that would cost too much.
pub(super) fn compile(engine: &Engine, bytes: &[u8]) -> Result<Component, Failure> {
    caps::check(bytes)?;
    Component::new(engine, component::wrap(bytes)?).map_err(|e| Failure::plugin(format!("it does not compile: {e:#}")))
}

/// Makes a component of what a process of the same program has compiled.
pub(super) fn take_over(engine: &Engine, compiled: &[u8]) -> Result<Component, Failure> {
    // SAFETY: it comes from a child of this process, which is the same program and had the same settings.
    unsafe { Component::deserialize(engine, compiled) }
        .map_err(|e| Failure::unexpected(format!("cannot load what was compiled: {e:#}")))
}
