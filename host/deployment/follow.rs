//! How a lane follows the deployments: it reserves before it folds, learns what is ordered, and has the plugin ready before T. Owns the
//! reservation's pace and the loading, which happens on threads of its own.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use wasmtime::Engine;

use super::{Deployment, Outcome, PipelineLog, iso};
use crate::clock;
use crate::config::Time;
use crate::failure::{Exit, Failure};
use crate::plugin::{self, Plugin};

/// How far a lane reserves past what it is about to fold, while it keeps up with the log.
const LEAST_AHEAD_MS: i64 = 250;
/// The same while it catches up: reservations are then few, and a T in the log's past is seldom wanted.
const MOST_AHEAD_MS: i64 = 3_600_000;

/// What folds a lane: a loaded deployment.
#[derive(Clone)]
pub struct Logic {
    /// Its number.
    pub n: u64,
    /// The plugin, configured.
    pub plugin: Arc<Plugin>,
    /// Event time.
    pub time: Time,
}

/// A deployment that is loaded, is being loaded, or will be.
type Loaded = Arc<OnceLock<Result<Logic, Failure>>>;

/// Loads deployments, each once however many lanes ask.
pub struct Loader {
    log: PipelineLog,
    engine: Engine,
    /// The limit for which the engine was made.
    memory_bytes: u64,
    instances: u32,
    cache: Option<PathBuf>,
    configured: Time,
    loaded: Mutex<BTreeMap<u64, Loaded>>,
}

impl Loader {
    /// A loader of this pipeline's deployments. `engine` was made for `instances` of `memory_bytes` each.
    pub fn new(
        log: PipelineLog,
        (engine, instances, memory_bytes): (Engine, u32, u64),
        cache: Option<PathBuf>,
        configured: Time,
    ) -> Loader {
        Loader { log, engine, memory_bytes, instances, cache, configured, loaded: Mutex::default() }
    }

    /// Takes over what was loaded already.
    pub fn keep(&self, logic: Logic) {
        // One that was loaded before is the same.
        let _ = self.slot(logic.n).set(Ok(logic));
    }

    /// Deployment `n`, loaded now or before.
    pub fn load(&self, n: u64) -> Result<Logic, Failure> {
        self.slot(n).get_or_init(|| self.make(n)).clone()
    }

    fn slot(&self, n: u64) -> Loaded {
        Arc::clone(self.loaded.lock().expect("nobody panics while holding it").entry(n).or_default())
    }

    fn make(&self, n: u64) -> Result<Logic, Failure> {
        let deployment = self.log.deployment(n)?;
        let deployment = deployment.ok_or_else(|| {
            Failure::new(Exit::State, format!("state.url: deployment {n} is missing from the journal"))
        })?;
        let settings = &deployment.settings;
        let bytes = self.log.plugin(&settings.plugin)?;
        let limits = settings.limits();
        let engine = if limits.memory_bytes == self.memory_bytes {
            self.engine.clone()
        } else {
            plugin::engine(self.instances, limits.memory_bytes)?
        };
        let loaded = Plugin::load(&engine, bytes, &settings.config, limits, self.cache.as_deref());
        let plugin = loaded.map_err(|error| {
            let failure = Failure::from(error);
            Failure::new(failure.exit, format!("the plugin of deployment {n} is refused: {}", failure.message))
        })?;
        Ok(Logic { n, plugin: Arc::new(plugin), time: settings.time(self.configured) })
    }

    /// Loads a deployment on a thread of its own, so that it is there when it is needed.
    fn prepare(self: &Arc<Self>, n: u64) {
        let loader = Arc::clone(self);
        let spawned = std::thread::Builder::new().name(format!("deployment-{n}")).spawn(move || {
            let started = clock::instant();
            match loader.load(n) {
                Ok(logic) => {
                    let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                    tracing::info!(
                        deployment = n,
                        digest = logic.plugin.digest.0,
                        millis,
                        "loaded ahead of its instant"
                    );
                }
                Err(failure) => {
                    tracing::error!(deployment = n, %failure, "cannot be loaded: its lanes will halt at its instant")
                }
            }
        });
        if let Err(error) = spawned {
            tracing::warn!(deployment = n, %error, "no thread to load it ahead: it is loaded at its instant");
        }
    }
}

/// A confirmed deployment that a lane has not reached.
struct Coming {
    n: u64,
    t: i64,
}

/// A lane's view of the deployments.
pub struct Follower {
    log: PipelineLog,
    loader: Arc<Loader>,
    lane: String,
    /// Names this host's reservation among those of others.
    host: String,
    reserved: i64,
    ahead_ms: i64,
    raised: Instant,
    /// The first deployment that was not seen yet.
    next: u64,
    coming: VecDeque<Coming>,
}

impl Follower {
    /// The view of a lane in which deployment `in_force` holds. Takes the lane's reservations over.
    pub fn open(log: PipelineLog, loader: Arc<Loader>, lane: &str, in_force: u64) -> Result<Follower, Failure> {
        let random = RandomState::new().build_hasher().finish();
        let host = format!("{:016x}", random ^ clock::now_ms().cast_unsigned());
        let reserved = log.take_over(lane, &host)?;
        let mut follower = Follower {
            log,
            loader,
            lane: lane.to_owned(),
            host,
            reserved,
            ahead_ms: LEAST_AHEAD_MS,
            raised: clock::instant(),
            next: in_force + 1,
            coming: VecDeque::new(),
        };
        follower.learn()?;
        Ok(follower)
    }

    /// Reserves up to `append_time`, and learns what was ordered up to then. After it, records up to `append_time` may be folded with
    /// the logic that [`Follower::due`] leaves in force.
    pub fn reserve(&mut self, append_time: i64) -> Result<(), Failure> {
        if append_time <= self.reserved {
            return Ok(());
        }
        let now = clock::instant();
        let quick = now.duration_since(self.raised).as_millis() < LEAST_AHEAD_MS.unsigned_abs().into();
        self.ahead_ms = if quick { self.ahead_ms * 2 } else { self.ahead_ms / 2 }.clamp(LEAST_AHEAD_MS, MOST_AHEAD_MS);
        // Never far past the clock: what lies there is what deployers want.
        let most = append_time.max(clock::now_ms()).saturating_add(LEAST_AHEAD_MS);
        self.reserved = append_time.saturating_add(self.ahead_ms).min(most);
        self.raised = now;
        self.log.reserve(&self.lane, &self.host, self.reserved)?;
        self.learn()
    }

    /// T of the next deployment, if it is at or before `append_time`.
    pub fn due(&self, append_time: i64) -> Option<i64> {
        self.coming.front().map(|coming| coming.t).filter(|t| *t <= append_time)
    }

    /// The next deployment, which holds from now on.
    pub fn enter(&mut self) -> Result<Logic, Failure> {
        let coming = self.coming.pop_front().expect("asked only when one is due");
        self.loader.load(coming.n)
    }

    fn learn(&mut self) -> Result<(), Failure> {
        while let Some(deployment) = self.log.deployment(self.next)? {
            let (n, outcome) = (self.next, self.log.outcome(self.next, &deployment)?);
            self.next += 1;
            self.hear(n, &deployment, outcome);
        }
        Ok(())
    }

    fn hear(&mut self, n: u64, deployment: &Deployment, outcome: Outcome) {
        let (Some(t), Outcome::Confirmed) = (deployment.t, outcome) else { return };
        tracing::info!(
            lane = self.lane,
            deployment = n,
            plugin = deployment.plugin,
            t,
            at = iso(t),
            by = deployment.by,
            reason = deployment.reason,
            "deployment ahead"
        );
        self.coming.push_back(Coming { n, t });
        self.loader.prepare(n);
    }
}
