//! `keyfold run`: from a checked configuration to lanes at work, and back on a signal. Owns what is shared by lanes: engine, plugin, sink,
//! stores, signals.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use object_store::ObjectStore;
use tokio::runtime::Handle;

use crate::backoff;
use crate::clock;
use crate::config::{self, Config};
use crate::deployment::follow::{Loader, Logic, News};
use crate::deployment::{PipelineLog, Standing};
use crate::failure::{Exit, Failure};
use crate::lane::memory::Memory;
use crate::lane::{Lane, Summary};
use crate::machine::{Planted, Thread, plants};
use crate::observe::board::{Board, Phase};
use crate::observe::telemetry;
use crate::pipeline::open::Opening;
use crate::pipeline::share::Share;
use crate::pipeline::world::{Real, World, topic};
use crate::pipeline::{descriptors, stop, threads};
use crate::plugin::Plugin;
use crate::plugin::sandbox::Sandbox;
use crate::rollout::{order, shadow, watch_file};
use crate::row::Table;
use crate::source::log_source::LogSource;
use crate::state::objects::runtime;
use crate::state::patient::Patient;
use crate::state::store::Stores;
use crate::{admin, dead_letter, sink};

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Stop at the ends of the partitions as of the start.
    pub until_end: bool,
    /// Order this plugin's file each time it changes.
    pub watch: Option<PathBuf>,
    /// Where the configuration was read, if it was a file.
    pub file: Option<PathBuf>,
}

/// Runs a pipeline until its source ends or a signal (SIGTERM, SIGINT, SIGHUP) asks to stop.
pub fn run(config: &Config, options: &Options) -> Result<(), Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let (tracer, exporter) = telemetry::start(config.telemetry.as_ref(), &config.name)?.unzip();
    let board = Arc::new(Board::new(&config.name, &stop).traced(tracer));
    let outcome = run_until(config, options, &board, true).map(drop);
    drop(board); // with it ends what the exporter waits for
    exporter.into_iter().for_each(telemetry::Exporter::finish);
    outcome
}

/// Runs a pipeline until its source ends or the board's `stop` is raised; gives what each lane did.
pub fn run_until(
    config: &Config,
    options: &Options,
    board: &Arc<Board>,
    signals: bool,
) -> Result<Vec<Summary>, Failure> {
    let config = &if options.until_end { config.clone().complete() } else { config.clone() };
    if signals {
        stop::on_signals(board)?;
    }
    let runtime = runtime()?;
    let _admin = config.admin.as_ref().map(|admin| serve_admin(config, admin, options, board)).transpose()?;
    let sandbox = Sandbox::new(config)?;
    let plugin = sandbox.load(config)?;
    if let Some(folder) = config.state.url.to_file_path().ok().filter(|_| config.state.url.scheme() == "file") {
        drop(board.state_folder.set(folder));
    }
    let host = Host { config, options, board, sandbox: &sandbox, plugin: &plugin, runtime: runtime.handle() };
    host.run(&(Arc::new(Real::default()) as Arc<dyn World>))
}

/// A host that is about to run a pipeline.
pub struct Host<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// How to run.
    pub options: &'a Options,
    /// What others see of it, and by which it is stopped.
    pub board: &'a Arc<Board>,
    /// What plugins run in.
    pub sandbox: &'a Sandbox,
    /// The configured plugin.
    pub plugin: &'a Arc<Plugin>,
    /// What requests to the store and the sink run on.
    pub runtime: &'a Handle,
}

impl Host<'_> {
    /// Runs the pipeline in a world until its source ends or the board's `stop` is raised; returns what each lane did.
    pub fn run(&self, world: &Arc<dyn World>) -> Result<Vec<Summary>, Failure> {
        let Host { config, options, board, sandbox, plugin, runtime } = *self;
        let (stop, deadline) = (board.stop(), clock::instant() + config.run.startup_timeout);
        board.enter(Phase::Starting("reading the journal"));
        let patient = Patient::new(world.objects(config)?, Arc::clone(board.state()), deadline, Arc::clone(stop));
        let objects: Arc<dyn ObjectStore> = Arc::new(patient.clone());
        let databases = world.databases(&objects, runtime);
        let stores = Stores { objects: Arc::clone(&objects), runtime: runtime.clone() };
        let log = PipelineLog::new(Arc::clone(&objects), runtime.clone());
        let store = order::Stored { objects: &objects, log: &log, runtime };
        let standing = log.standing(config, &plugin.digest)?;
        order::allow(config, &standing)?;
        let tables = &plugin.description.tables;
        board.enter(Phase::Starting("connecting to source, sink and dead letters"));
        let mut outside = Outside::open(&**world, config, tables, runtime, deadline)?;
        check_topic(config, &log, &outside.source)?;
        descriptors::ensure(outside.source.lanes(config).len())?;
        board.enter(Phase::Starting("opening lanes"));
        log.begin(config, plugin)?;
        let standing = began(config, &log, plugin, standing)?;
        let loader = Arc::new(Loader::of(sandbox, config, log.clone()));
        let configured = |n| Logic { n, plugin: Arc::clone(plugin), time: config.time };
        match standing {
            Standing::First => return Err(Failure::unexpected("the pipeline has begun without a deployment")),
            Standing::Same(n) => loader.keep(configured(n)),
            Standing::Superseded(n) => warn_of_older_file(n),
            Standing::Changed(_) => order::at_start(config, &store, plugin)?,
        }
        log.remember(config, &plugin.digest)?;
        attend(config, options, (&log, &stores, world), stop)?;
        let listening = News::listen(log.clone())?;
        let memory = Memory::new(config.state.memory_bytes);
        let mut share = if options.until_end { None } else { world.group(config)?.map(Share::new) };
        loop {
            let back = Arc::new(AtomicBool::new(false));
            let opening = Arc::new(Opening {
                config: config.clone(),
                until_end: options.until_end,
                deadline,
                log: log.clone(),
                news: Arc::clone(listening.news()),
                first: log.first()?,
                loader: Arc::clone(&loader),
                world: Arc::clone(world),
                databases: Arc::clone(&databases),
                stores: stores.clone(),
                source: Arc::new(outside.source),
                workers: Arc::clone(&sandbox.workers),
                board: Arc::clone(board),
                stop: Arc::clone(stop),
                back: Arc::clone(&back),
                memory: Arc::clone(&memory),
                commits: share.as_ref().map(Share::commits),
            });
            let (summaries, writing) = match &mut share {
                Some(share) => {
                    let (writer, writing) = opening.writer(outside.sink, outside.letters)?;
                    patient.for_ever();
                    (share.fold(&opening, writer)?, writing)
                }
                None => {
                    let (lanes, writing) = opening.lanes(outside.sink, outside.letters)?;
                    patient.for_ever();
                    tracing::info!(event = "folding", pipeline = config.name, lanes = lanes.len(), "folding");
                    board.enter(Phase::Folding);
                    (work(lanes, stop)?, writing)
                }
            };
            if back.load(Ordering::Relaxed) {
                board.enter(Phase::Rewinding);
            }
            if !back.load(Ordering::Relaxed) || stop.load(Ordering::Relaxed) || !ended(&writing, stop) {
                return Ok(summaries);
            }
            refuse_unrepeatable(config)?;
            outside = Outside::open(&**world, config, tables, runtime, clock::instant() + config.run.startup_timeout)?;
            check_topic(config, &log, &outside.source)?;
        }
    }
}

/// How the configuration stands to what is in force once the pipeline has begun: another host may have begun it just before, with another one.
fn began(config: &Config, log: &PipelineLog, plugin: &Plugin, before: Standing) -> Result<Standing, Failure> {
    if before != Standing::First {
        return Ok(before);
    }
    if plants(Planted::BeginsAsItsOwn) {
        return Ok(Standing::Same(0));
    }
    let standing = log.standing(config, &plugin.digest)?;
    order::allow(config, &standing)?;
    Ok(standing)
}

fn serve_admin(
    config: &Config,
    admin: &config::Admin,
    options: &Options,
    board: &Arc<Board>,
) -> Result<admin::Server, Failure> {
    let server = admin::serve(config, admin, options.file.clone(), board)?;
    let (address, token, tls) = (&server.address, admin.token.is_some(), admin.tls.is_some());
    tracing::info!(event = "admin-api-listening", %address, token, tls, "admin API listening");
    if let Some(address) = &server.probes {
        tracing::info!(event = "probes-listening", %address, "probes and metrics listening");
    }
    Ok(server)
}

fn warn_of_older_file(deployment: u64) {
    tracing::warn!(
        event = "configuration-superseded",
        deployment,
        "configuration file is older than the deployment in force; using the deployment"
    );
}

/// Refuses another topic than the one that the state was built from.
fn check_topic(config: &Config, log: &PipelineLog, source: &LogSource) -> Result<(), Failure> {
    match (topic(config), source.topic_id()) {
        (_, Some(id)) => log.check_topic(id),
        (Some(topic), None) => {
            tracing::info!(
                event = "topic-id-unavailable",
                topic,
                "brokers give topics no ids; a topic deleted and created again under its name is recognised by its records only"
            );
            Ok(())
        }
        (None, None) => Ok(()),
    }
}

/// Starts what is done beside the lanes: watching a file, shadows.
fn attend(
    config: &Config,
    options: &Options,
    (log, stores, world): (&PipelineLog, &Stores, &Arc<dyn World>),
    stop: &Arc<AtomicBool>,
) -> Result<(), Failure> {
    if let Some(file) = &options.watch {
        watch_file::watch(config, file, stop)?;
    }
    if !options.until_end && topic(config).is_some() {
        let (config, log, stores, world) = (config.clone(), log.clone(), stores.clone(), Arc::clone(world));
        let look = Box::new(move |config: &Config, deadline| world.log(config, deadline));
        shadow::follow(shadow::Pipeline { config, log, look, stores }, stop)?;
    }
    Ok(())
}

/// Waits until the writing thread has written what it was given; false if a stop came before.
fn ended(writing: &Thread<()>, stop: &AtomicBool) -> bool {
    while !writing.is_finished() && !stop.load(Ordering::Relaxed) {
        backoff::pause(Duration::from_millis(1));
    }
    writing.is_finished()
}

fn refuse_unrepeatable(config: &Config) -> Result<(), Failure> {
    match &config.source {
        config::Source::File(file) if file.is_standard_input() => {
            let message = "the lanes must go back to an earlier point of the log, and standard input cannot be read again: start anew";
            Err(Failure::new(Exit::State, message))
        }
        _ => Ok(()),
    }
}

/// What a pipeline reads from and writes to.
struct Outside {
    source: LogSource,
    sink: Box<dyn sink::Sink>,
    letters: Box<dyn dead_letter::DeadLetterWriter>,
}

impl Outside {
    fn open(
        world: &dyn World,
        config: &Config,
        tables: &Arc<[Table]>,
        runtime: &Handle,
        deadline: Instant,
    ) -> Result<Outside, Failure> {
        Ok(Outside {
            source: world.log(config, deadline)?,
            sink: world.sink(config, tables, runtime, deadline)?,
            letters: world.letters(config, deadline)?,
        })
    }
}

/// Runs each lane on a thread of its own; a failure of one stops all.
fn work(lanes: Vec<Lane>, stop: &Arc<AtomicBool>) -> Result<Vec<Summary>, Failure> {
    let mut running = Vec::new();
    for lane in lanes {
        let stop = Arc::clone(stop);
        let body = move || lane.run().inspect_err(|_| stop.store(true, Ordering::Relaxed));
        running.push(threads::spawn("lane", body)?);
    }
    running.into_iter().map(threads::join).collect()
}
