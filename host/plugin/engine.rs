//! wasmtime with deterministic settings, and the cache of compiled components. Owns what must be the same on every host that folds the same
//! log: NaNs, relaxed SIMD, no threads, fuel.

use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use wasmtime::component::Component;
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::failure::Failure;
use crate::plugin::Digest;

/// Linear memory that a slot keeps resident between instances: measured 11 ns per event instead of 40 at batches of 10,000.
const KEEP_RESIDENT: usize = 32 << 20;
/// The stack of a call, wasmtime's default. Threads that fold have at least 2 MiB.
const STACK: usize = 512 << 10;

/// Makes the engine of a process, for this many instances at once, each with this much memory.
pub fn engine(instances: u32, memory_bytes: u64) -> Result<Engine, Failure> {
    let memory = usize::try_from(memory_bytes)
        .map_err(|_| Failure::unexpected("plugin.memory is larger than this machine's address space"))?;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances * 4)
        .total_memories(instances)
        .total_tables(instances * 4)
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

/// Compiles what `component` returns, or loads it from `cache` if an equal engine compiled it before. A cached file is native code and is
/// trusted, because only the host writes to its folder.
pub(super) fn compile(
    engine: &Engine,
    digest: &Digest,
    component: impl FnOnce() -> Result<Vec<u8>, Failure>,
    cache: Option<&Path>,
) -> Result<Component, Failure> {
    let compile = || {
        let compiled = Component::new(engine, component()?);
        compiled.map_err(|e| Failure::plugin(format!("it does not compile: {e:#}")))
    };
    let Some(folder) = cache else { return compile() };
    let file = cached_file(engine, digest, folder);
    if let Some(component) = cached(engine, &file) {
        return Ok(component);
    }
    let compiled = compile()?;
    if let Err(error) = store(&compiled, &file) {
        tracing::warn!(event = "plugin-cache-failed", file = %file.display(), %error, "cannot cache the compiled plugin");
    }
    Ok(compiled)
}

fn cached_file(engine: &Engine, digest: &Digest, folder: &Path) -> PathBuf {
    struct Sha(Sha256);
    impl Hasher for Sha {
        fn finish(&self) -> u64 {
            0
        }
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
    }
    // The hash covers wasmtime's version, the target and every setting of the engine.
    let mut settings = Sha(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut settings);
    folder.join(format!("{}-{}.cwasm", &digest.0, &super::hex(&settings.0.finalize())[..16]))
}

/// Loads a cached file: a SHA-256, and the code that it is of. Ignores a file that a crash left half written.
fn cached(engine: &Engine, file: &Path) -> Option<Component> {
    let bytes = std::fs::read(file).ok()?;
    let (digest, compiled) = bytes.split_at_checked(32)?;
    if Sha256::digest(compiled).as_slice() != digest {
        return None;
    }
    // SAFETY: written below by an engine of the same version and settings, into a folder that only the host writes.
    unsafe { Component::deserialize(engine, compiled) }.ok()
}

fn store(component: &Component, file: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let folder = file.parent().expect("a cached file is in the cache folder");
    std::fs::create_dir_all(folder)?;
    let compiled = component.serialize()?;
    let bytes = [Sha256::digest(&compiled).as_slice(), &compiled].concat();
    let partial = file.with_extension(format!("{}.partial", std::process::id()));
    std::fs::write(&partial, bytes)?;
    std::fs::rename(&partial, file)?;
    Ok(())
}
