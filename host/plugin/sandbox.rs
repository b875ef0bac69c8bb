//! The sandbox of a host: one engine, its workers, and the way in which components are compiled. Loads plugins into it.

use std::sync::Arc;

use wasmtime::Engine;

use super::{Compiling, Limits, Plugin};
use crate::config::{Component, Config};
use crate::failure::Failure;
use crate::paths;

/// The built-in plugin `visits`, part of the binary.
pub(crate) const VISITS: &[u8] = include_bytes!(env!("VISITS_WASM"));

/// The workers, and the sandbox in which they run plugins.
pub struct Sandbox {
    pub(crate) workers: Arc<rayon::ThreadPool>,
    pub(crate) engine: Engine,
    pub(crate) instances: u32,
    pub(crate) compiling: Compiling,
    /// `plugin.tables`
    pub(crate) tables: Option<Vec<String>>,
}

impl Sandbox {
    /// Makes the sandbox, sized by the configuration.
    pub fn new(config: &Config) -> Result<Sandbox, Failure> {
        let workers = config.run.workers;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(workers)
            .stack_size(4 << 20)
            .thread_name(|n| format!("worker-{n}"))
            .build();
        let pool = pool.map_err(|e| Failure::unexpected(format!("cannot start the worker threads: {e}")))?;
        // Two deployments during a swap, and one that is being checked.
        let instances = u32::try_from(workers * 3 + 4).unwrap_or(u32::MAX);
        let engine = super::engine(instances, config.plugin.limits.memory_bytes)?;
        let compiling = Compiling { cache: config.plugin.cache.clone(), apart: Some(config.plugin.compile) };
        Ok(Sandbox { workers: Arc::new(pool), engine, instances, compiling, tables: config.plugin.tables.clone() })
    }

    /// Loads the plugin that the configuration names.
    pub fn load(&self, config: &Config) -> Result<Arc<Plugin>, Failure> {
        let (bytes, name) = component(&config.plugin.component)?;
        self.load_bytes(bytes, &name, &config.plugin.config, config.plugin.limits)
    }

    /// Loads the plugin in these bytes. It gets no more memory than the configuration's plugin may use.
    pub fn load_bytes(
        &self,
        bytes: Vec<u8>,
        name: &str,
        settings: &serde_json::Value,
        limits: Limits,
    ) -> Result<Arc<Plugin>, Failure> {
        let loaded = Plugin::load_with(&self.engine, bytes, settings, limits, &self.compiling);
        let allowed = loaded.and_then(|plugin| plugin.writing_only(self.tables.as_deref()));
        let plugin = allowed
            .map_err(|failure| Failure::new(failure.exit, format!("cannot load plugin {name}: {}", failure.message)))?;
        Ok(Arc::new(plugin))
    }
}

/// Makes the workers, and loads the plugin that they run.
pub(crate) fn load_plugin(config: &Config) -> Result<(Arc<Plugin>, Arc<rayon::ThreadPool>), Failure> {
    let sandbox = Sandbox::new(config)?;
    Ok((sandbox.load(config)?, sandbox.workers))
}

/// Reads a component; returns its bytes, and its name for messages.
pub(crate) fn component(component: &Component) -> Result<(Vec<u8>, String), Failure> {
    match component {
        Component::Builtin(name) if name == "visits" => Ok((VISITS.to_vec(), "builtin:visits".into())),
        Component::Builtin(name) => Err(Failure::config(format!(
            "plugin.component: unknown plugin builtin:{name}; the only built-in plugin is builtin:visits"
        ))),
        Component::File(path) => match paths::read(path) {
            Ok(bytes) => Ok((bytes, path.display().to_string())),
            Err(e) => Err(Failure::config(format!("plugin.component: cannot read {}: {e}", path.display()))),
        },
    }
}
