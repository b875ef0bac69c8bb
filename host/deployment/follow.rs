//! How a lane follows the deployments: it reserves before it folds, learns what is ordered, and has the plugin ready before T. Owns the
//! reservation's pace and the loading, which happens on threads of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use wasmtime::Engine;

use crate::clock;
use crate::config::{Config, Time};
use crate::deployment::log::Holder;
use crate::deployment::protocol::{View, probation_end};
use crate::deployment::{Author, Entry, PipelineLog, Rewind, Settings};
use crate::event_time::AppendTime;
use crate::failure::{Exit, Failure};
use crate::machine::{self, Thread};
use crate::plugin::sandbox::Sandbox;
use crate::plugin::{self, Compiling, Plugin};
use crate::position::TopicId;
use crate::record::iso;
use crate::state::journal::Seals;

/// How far a lane reserves past what it is about to fold, while it keeps up with the log.
const LEAST_AHEAD_MS: i64 = 250;
/// The same while it catches up: reservations are then few, and a T in the log's past is seldom wanted.
const MOST_AHEAD_MS: i64 = 3_600_000;
/// How often the journal is looked at for what lanes need not know to fold on.
const LOOK: Duration = Duration::from_millis(250);

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
type Loaded = Arc<Mutex<Option<Result<Logic, Failure>>>>;

/// Loads deployments, each once however many lanes ask.
pub struct Loader {
    log: PipelineLog,
    engine: Engine,
    /// The limit for which the engine was made.
    memory_bytes: u64,
    instances: u32,
    compiling: Compiling,
    configured: Time,
    /// `plugin.tables`
    tables: Option<Vec<String>>,
    loaded: Mutex<BTreeMap<u64, Loaded>>,
}

impl Loader {
    /// A loader of this pipeline's deployments into a sandbox.
    pub(crate) fn of(sandbox: &Sandbox, config: &Config, log: PipelineLog) -> Loader {
        Loader {
            log,
            engine: sandbox.engine.clone(),
            memory_bytes: config.plugin.limits.memory_bytes,
            instances: sandbox.instances,
            compiling: sandbox.compiling.clone(),
            configured: config.time,
            tables: sandbox.tables.clone(),
            loaded: Mutex::default(),
        }
    }

    /// Takes over what was loaded already.
    pub fn keep(&self, logic: Logic) {
        // One that was loaded before is the same.
        machine::lock(&self.slot(logic.n)).get_or_insert(Ok(logic));
    }

    /// Deployment `n`, loaded now or before.
    pub fn load(&self, n: u64) -> Result<Logic, Failure> {
        machine::lock(&self.slot(n)).get_or_insert_with(|| self.make(n)).clone()
    }

    fn slot(&self, n: u64) -> Loaded {
        Arc::clone(self.loaded.lock().expect("nobody panics while holding it").entry(n).or_default())
    }

    fn make(&self, n: u64) -> Result<Logic, Failure> {
        let deployment = self.log.deployment(n)?;
        let deployment = deployment.ok_or_else(|| {
            Failure::new(Exit::State, format!("state.url: deployment {n} is missing from the journal"))
        })?;
        let named = |failure: Failure| {
            Failure::new(failure.exit, format!("the plugin of deployment {n} is refused: {}", failure.message))
        };
        let (plugin, time) = self.load_settings(&deployment.settings, named)?;
        Ok(Logic { n, plugin, time })
    }

    /// The plugin of these settings, and their time; `refused` says of what it is the plugin.
    pub fn load_settings(
        &self,
        settings: &Settings,
        refused: impl Fn(Failure) -> Failure,
    ) -> Result<(Arc<Plugin>, Time), Failure> {
        let bytes = self.log.plugin(&settings.plugin)?;
        let limits = settings.limits();
        let engine = if limits.memory_bytes == self.memory_bytes {
            self.engine.clone()
        } else {
            plugin::engine(self.instances, limits.memory_bytes)?
        };
        let loaded = Plugin::load_with(&engine, bytes, &settings.config, limits, &self.compiling);
        let plugin = loaded.and_then(|plugin| plugin.writing_only(self.tables.as_deref())).map_err(refused)?;
        Ok((Arc::new(plugin), settings.time(self.configured)))
    }

    /// Loads a deployment on a thread of its own, so that it is there when it is needed.
    fn prepare(self: &Arc<Self>, n: u64) {
        let loader = Arc::clone(self);
        let spawned = machine::spawn(format!("deployment-{n}"), move || {
            let started = clock::instant();
            match loader.load(n) {
                Ok(logic) => {
                    let millis = u64::try_from(clock::since(started).as_millis()).unwrap_or(u64::MAX);
                    tracing::info!(
                        event = "deployment-loaded",
                        deployment = n,
                        digest = logic.plugin.digest.0,
                        millis,
                        "deployment loaded ahead of its instant"
                    );
                }
                Err(failure) => {
                    tracing::error!(event = "deployment-unloadable", deployment = n, %failure, "cannot load the deployment; lanes will halt at its instant")
                }
            }
        });
        if let Err(error) = spawned {
            tracing::warn!(event = "deployment-not-preloaded", deployment = n, %error, "cannot start a thread to load the deployment ahead; loading it at its instant");
        }
    }
}

/// Whether the journal has news. It is read on a thread of its own, for all lanes of a host: a store may take longer for an answer than a
/// lane has for a thousand records.
#[derive(Debug, Default)]
pub struct News {
    heard: AtomicU64,
}

impl News {
    /// Listens until nobody but the listener holds it any more.
    pub fn listen(log: PipelineLog) -> Result<Listening, Failure> {
        let news = Arc::new(News::default());
        let listening = Arc::downgrade(&news);
        let body = move || {
            let (mut next, mut undecided) = (0, Vec::new());
            while let Some(news) = listening.upgrade() {
                if let Err(failure) = news.hear(&log, &mut next, &mut undecided)
                    && Arc::strong_count(&news) > 1
                {
                    tracing::warn!(event = "deployments-unreadable", %failure, "cannot read deployments; retrying");
                }
                drop(news);
                machine::park(LOOK);
            }
        };
        let thread = machine::spawn("news", body);
        let refused = |e| Failure::new(Exit::Unexpected, format!("no thread to listen for deployments: {e}"));
        Ok(Listening { news, thread: Some(thread.map_err(refused)?) })
    }

    /// Counts deployments from `next` on, and verdicts on those that are `undecided`.
    fn hear(&self, log: &PipelineLog, next: &mut u64, undecided: &mut Vec<u64>) -> Result<(), Failure> {
        while let Some(entry) = log.entry(*next)? {
            undecided.extend(probation_end(&entry).map(|_| entry.n));
            *next += 1;
            self.heard.fetch_add(1, Ordering::Relaxed);
        }
        let mut at = 0;
        while let Some(&n) = undecided.get(at) {
            if log.verdict(n)?.is_none() {
                at += 1;
            } else {
                undecided.swap_remove(at);
                self.heard.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

/// The thread that listens; its end is waited for, so that it asks no runtime that is gone.
#[derive(Debug)]
pub struct Listening {
    news: Arc<News>,
    thread: Option<Thread<()>>,
}

impl Listening {
    /// What it hears.
    pub fn news(&self) -> &Arc<News> {
        &self.news
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        drop(std::mem::take(&mut self.news));
        if let Some(thread) = self.thread.take() {
            thread.unpark();
            let _ = thread.join();
        }
    }
}

/// A lane's view of the deployments: when to reserve, and what is ahead. What it may fold is decided by the protocol.
pub struct Follower {
    log: PipelineLog,
    loader: Arc<Loader>,
    holder: Holder,
    view: View,
    ahead_ms: i64,
    raised: Instant,
    news: Arc<News>,
    /// How much of the news is known here.
    heard: u64,
    /// How much of them is sealed in the lane's journal; none if that is not known.
    sealed: Option<u64>,
    /// The topic's id, once the journal holds it.
    topic: Option<TopicId>,
}

impl Follower {
    /// Opens the view of a lane in which deployment `in_force` holds, and in whose earlier lives rows of the deployments `written` were written.
    /// Takes over the lane's reservations.
    pub fn open(
        (log, news): (PipelineLog, Arc<News>),
        loader: Arc<Loader>,
        lane: &str,
        (in_force, written): (u64, BTreeSet<u64>),
    ) -> Result<Follower, Failure> {
        let host = format!("{:016x}", machine::random() ^ clock::now_ms().cast_unsigned());
        let holder = Holder { lane: lane.to_owned(), host };
        let (view, learned) = View::open(&log, &holder, in_force, written)?;
        let (ahead_ms, raised) = (LEAST_AHEAD_MS, clock::instant());
        let follower =
            Follower { log, loader, holder, view, ahead_ms, raised, news, heard: 0, sealed: None, topic: None };
        follower.announce(&learned);
        Ok(follower)
    }

    /// Reserves up to `append_time`, and learns what was deployed up to then. Afterwards records up to `append_time` may be folded with the
    /// logic that [`Follower::due`] leaves in force.
    pub fn reserve(&mut self, append_time: i64) -> Result<(), Failure> {
        let wanted = AppendTime::at(append_time);
        if Some(wanted) <= self.view.reserved() {
            return Ok(());
        }
        let now = clock::instant();
        let quick = now.duration_since(self.raised).as_millis() < LEAST_AHEAD_MS.unsigned_abs().into();
        self.ahead_ms = if quick { self.ahead_ms * 2 } else { self.ahead_ms / 2 }.clamp(LEAST_AHEAD_MS, MOST_AHEAD_MS);
        // Never far past the clock: deployers want a T there.
        let most = append_time.max(clock::now_ms()).saturating_add(LEAST_AHEAD_MS);
        let until = AppendTime::at(append_time.saturating_add(self.ahead_ms).min(most));
        self.raised = now;
        let learned = self.view.reserve(&self.log, &self.holder, until)?;
        self.announce(&learned);
        Ok(())
    }

    /// T of the next deployment, if it is at or before `append_time`.
    pub fn due(&self, append_time: i64) -> Option<i64> {
        self.view.due(AppendTime::at(append_time)).map(AppendTime::ms)
    }

    /// Enters the next deployment, which holds from now on. [`Follower::look`] notices if it was withdrawn since it was learned of.
    pub fn enter(&mut self) -> Result<Logic, Failure> {
        let n = self.view.enter();
        self.sealed = None;
        self.loader.load(n)
    }

    /// What the lane's journal is to keep of the deployments, if there is news of them.
    pub fn seals(&mut self) -> Result<Option<Seals>, Failure> {
        let heard = Some(self.news.heard.load(Ordering::Relaxed));
        if heard == self.sealed {
            return Ok(None);
        }
        self.sealed = heard;
        self.log.seals().map(Some)
    }

    /// Refuses another topic than the one from which the state was built.
    pub fn hold_topic(&mut self, id: TopicId) -> Result<(), Failure> {
        if self.topic.as_ref() != Some(&id) {
            self.log.hold_topic(&id)?;
            self.topic = Some(id);
        }
        Ok(())
    }

    /// The deployment in force, if it can still be withdrawn.
    pub fn on_probation(&self) -> Option<u64> {
        self.view.on_probation()
    }

    /// Withdraws the deployment in force because of what happened in this lane; false if it stays.
    pub fn withdraw(&mut self, reason: &str) -> Result<bool, Failure> {
        let author = Author { by: Some(format!("lane {}", self.holder.lane)), reason: Some(reason.to_owned()) };
        self.view.withdraw(&self.log, &author)
    }

    /// Whether the lane may fold records up to `append_time`, or why it must rewind.
    pub fn may_fold(&mut self, append_time: i64) -> Result<Option<Rewind>, Failure> {
        if let Some(n) = self.view.end_probation(&self.log, AppendTime::at(append_time))? {
            tracing::info!(
                event = "probation-over",
                lane = self.holder.lane,
                deployment = n,
                kept = self.view.rewind().is_none(),
                "probation over"
            );
        }
        self.look()
    }

    /// Reads what was deployed and withdrawn, if there is news; why the lane must rewind, if it must.
    pub fn look(&mut self) -> Result<Option<Rewind>, Failure> {
        let heard = self.news.heard.load(Ordering::Relaxed);
        if heard != self.heard {
            self.heard = heard;
            let learned = self.view.learn(&self.log)?;
            self.announce(&learned);
            self.view.read_verdicts(&self.log)?;
        }
        Ok(self.view.rewind())
    }

    /// Logs deployments that are ahead, and begins to load them.
    fn announce(&self, learned: &[Entry]) {
        for Entry { n, deployment, .. } in learned {
            let Some(t) = deployment.t else { continue };
            tracing::info!(
                event = "deployment-ahead",
                lane = self.holder.lane,
                deployment = n,
                plugin = deployment.plugin,
                t,
                at = iso(t),
                by = deployment.by,
                reason = deployment.reason,
                "deployment ahead"
            );
            self.loader.prepare(*n);
        }
    }
}
