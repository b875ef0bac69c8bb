//! Opening lanes: takes each lane's state and journal over, undoes what a withdrawn deployment left, truncates files to what the state covers,
//! starts the sources, and puts the lanes together.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::clock::{self, SystemClock};
use crate::config::{Config, WithdrawnRows};
use crate::deployment::follow::{Follower, Loader, Logic, News};
use crate::deployment::{PipelineLog, Verdict, check_seals, journal_missing};
use crate::failure::{Exit, Failure};
use crate::lane::Lane;
use crate::lane::audit::Auditor;
use crate::lane::core::Core;
use crate::lane::interrupt::{Notice, Signals};
use crate::lane::memory::Memory;
use crate::machine::{Planted, Thread, plants};
use crate::observe::board::Board;
use crate::pipeline::threads;
use crate::pipeline::world::World;
use crate::position::{Offset, Partition};
use crate::sink::writer::{LaneWriter, Writer};
use crate::source::group::{Commits, Grouped};
use crate::source::log_source::{LogSource, Started};
use crate::source::merge::Merge;
use crate::source::{Start, grown};
use crate::state::checkpoint::{Checkpoint, resume_of};
use crate::state::database::Databases;
use crate::state::journal::{self, Beginning, Contents, Journal, Seals};
use crate::state::store::{Store, Stores};
use crate::state::tenure::Tenure;
use crate::{dead_letter, sink};

/// Lanes that are opened at the same time, if there are more.
pub(super) const OPENED_AT_ONCE: usize = 16;

/// What opening a lane needs of the pipeline.
pub(super) struct Opening {
    pub(super) config: Config,
    pub(super) until_end: bool,
    pub(super) deadline: Instant,
    pub(super) log: PipelineLog,
    pub(super) news: Arc<News>,
    /// The deployment that holds from the beginning of the log.
    pub(super) first: u64,
    pub(super) loader: Arc<Loader>,
    pub(super) world: Arc<dyn World>,
    pub(super) databases: Arc<dyn Databases>,
    pub(super) stores: Stores,
    pub(super) source: Arc<LogSource>,
    pub(super) workers: Arc<rayon::ThreadPool>,
    pub(super) board: Arc<Board>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) back: Arc<AtomicBool>,
    pub(super) memory: Arc<Memory>,
    /// By whom lanes tell the group how far they have come, if the host is a member of one.
    pub(super) commits: Option<Arc<dyn Commits>>,
}

/// A lane whose state and journal are open and read.
struct Opened {
    name: String,
    partitions: Vec<Partition>,
    store: Store,
    checkpoint: Option<Checkpoint>,
    journal: Journal,
    contents: Contents,
    tenure: Arc<Tenure>,
}

impl Opening {
    /// All lanes, and the thread that writes for them.
    pub(super) fn lanes(
        self: &Arc<Opening>,
        mut sink: Box<dyn sink::Sink>,
        mut letters: Box<dyn dead_letter::DeadLetterWriter>,
    ) -> Result<(Vec<Lane>, Thread<()>), Failure> {
        let lanes = self.source.lanes(&self.config);
        for partitions in &lanes {
            self.board.lane(&self.source.lane_name(&self.config, partitions));
        }
        let seals = self.log.seals()?; // of the deployments, once for all lanes
        let mut opened = self.each(lanes, move |opening, partitions| opening.lane(partitions, &seals))?;
        self.claim(&mut *sink, &mut *letters)?; // the former owners are fenced by now, and end
        if let [lane] = opened.as_mut_slice() {
            lane.cut_files(&mut *sink, &mut *letters)?;
        }
        // What was written since the first of these lanes began is of this pipeline.
        let ours = |length: fn(&Beginning) -> Option<u64>| {
            opened.iter().filter_map(|lane| lane.contents.beginning.as_ref().and_then(length)).min()
        };
        sink.end_line(ours(|beginning| beginning.sink_length))?;
        letters.end_line(ours(|beginning| beginning.letters_length))?;
        let lengths = (sink.length()?, letters.length()?);
        let (writer, writing) = Writer::start(sink, letters, &self.board)?;
        let assemble = move |opening: &Opening, lane| opening.assemble(lane, &writer, lengths, Arc::default());
        Ok((self.each(opened, assemble)?, writing))
    }

    /// Does this with each of a host's lanes, in their order; with some of many at the same time, since most of it is waiting for the store.
    fn each<T: Send + 'static, R: Send + 'static>(
        self: &Arc<Opening>,
        all: Vec<T>,
        work: impl Fn(&Opening, T) -> Result<R, Failure> + Send + Sync + 'static,
    ) -> Result<Vec<R>, Failure> {
        if all.len() <= OPENED_AT_ONCE {
            return all.into_iter().map(|one| work(self, one)).collect();
        }
        let (size, work) = (all.len().div_ceil(OPENED_AT_ONCE), Arc::new(work));
        let mut all = all.into_iter();
        let mut parts = Vec::new();
        while all.len() > 0 {
            let part: Vec<T> = all.by_ref().take(size).collect();
            let (opening, work) = (Arc::clone(self), Arc::clone(&work));
            let body = move || part.into_iter().map(|one| work(&opening, one)).collect::<Result<Vec<R>, Failure>>();
            parts.push(threads::spawn("opening", body)?);
        }
        let done: Vec<Vec<R>> = parts.into_iter().map(threads::join).collect::<Result<_, Failure>>()?;
        Ok(done.into_iter().flatten().collect())
    }

    /// The thread that writes for lanes that are opened one by one. They write no files.
    pub(super) fn writer(
        &self,
        mut sink: Box<dyn sink::Sink>,
        mut letters: Box<dyn dead_letter::DeadLetterWriter>,
    ) -> Result<(Writer, Thread<()>), Failure> {
        self.claim(&mut *sink, &mut *letters)?;
        Writer::start(sink, letters, &self.board)
    }

    /// Opens one lane.
    pub(super) fn one(
        &self,
        partitions: Vec<Partition>,
        writer: &Writer,
        notice: &Arc<Notice>,
    ) -> Result<Lane, Failure> {
        let opened = self.lane(partitions, &self.log.seals()?)?;
        self.assemble(opened, writer, (None, None), Arc::clone(notice))
    }

    fn claim(&self, sink: &mut dyn sink::Sink, letters: &mut dyn dead_letter::DeadLetterWriter) -> Result<(), Failure> {
        sink.claim(self.until())?; // I8
        letters.claim(self.until()) // I8
    }

    /// Until when the outside is waited for: what was done before may have taken long, and a lane may be opened long after the start.
    fn until(&self) -> Instant {
        self.deadline.max(clock::instant() + self.config.run.startup_timeout)
    }

    /// Puts back what withdrawn deployments replaced, and puts the lane together.
    fn assemble(
        &self,
        mut lane: Opened,
        writer: &Writer,
        lengths: (Option<u64>, Option<u64>),
        notice: Arc<Notice>,
    ) -> Result<Lane, Failure> {
        let rows = writer.of_lane(&self.board.lane(&lane.name), Arc::clone(&lane.tenure) as Arc<dyn sink::Owner>);
        self.put_back(&mut lane, &rows)?;
        lane.assemble(self, rows, lengths, &notice)
    }

    /// The state of a lane as this history knows it: without what a withdrawn deployment made, and empty if another history made it.
    fn state(&self, name: &str) -> Result<(Store, Option<Checkpoint>), Failure> {
        let mut store = self.stores.open(&format!("lanes/{name}"))?;
        if let Some(deployment) = store.undo_of()
            && self.log.is_withdrawn(deployment)?
        {
            store.take_back()?; // I10
            tracing::info!(
                event = "state-restored",
                lane = name,
                deployment,
                "state restored to before the withdrawn deployment"
            );
        }
        let checkpoint = store.checkpoint().cloned();
        let Some(n) = checkpoint.as_ref().map(|checkpoint| checkpoint.deployment) else { return Ok((store, None)) };
        if n < self.first {
            store.clear()?;
            tracing::info!(
                event = "lane-reprocessing",
                lane = name,
                deployment = self.first,
                "lane restarts at the beginning of the log: a deployment holds from there"
            );
            return Ok((store, None));
        }
        // If it was withdrawn just now, what takes it back is there, and the lane opens again as soon as it sees the verdict.
        if store.undo_of() != Some(n) && self.log.is_withdrawn(n)? {
            let message = format!(
                "the checkpoint of lane {name} was made by deployment {n}, which was withdrawn, and what takes it back is missing: run \
                 `keyfold reset`, and the next run folds the log from its beginning"
            );
            return Err(Failure::new(Exit::State, message));
        }
        Ok((store, checkpoint))
    }

    /// Puts back, in the sink, what rows of withdrawn deployments replaced; forgets what rows of deployments that stay did.
    fn put_back(&self, lane: &mut Opened, writer: &LaneWriter) -> Result<(), Failure> {
        for (deployment, mut images) in std::mem::take(&mut lane.contents.images) {
            let (verdict, is_of_this_history) = (self.log.verdict(deployment)?, deployment >= self.first);
            if is_of_this_history && verdict.is_none() {
                lane.contents.images.insert(deployment, images);
                continue;
            }
            if is_of_this_history && matches!(verdict, Some(Verdict::Withdrawn(_))) {
                if self.config.plugin.withdrawn_rows == WithdrawnRows::List {
                    images.retain(|image| image.row.is_some() || !list(deployment, image));
                }
                let rows = images.len();
                writer.restore(images)?; // I8, I10
                tracing::info!(
                    event = "rows-restored",
                    lane = lane.name,
                    deployment,
                    rows,
                    "rows restored to before the withdrawn deployment"
                );
            }
            lane.journal.forget_images(deployment)?;
        }
        Ok(())
    }

    fn lane(&self, partitions: Vec<Partition>, seals: &Seals) -> Result<Opened, Failure> {
        let name = self.source.lane_name(&self.config, &partitions);
        let (mut journal, contents) = Journal::over(self.databases.open(&journal::path(&name))?)?;
        let mut seals = Cow::Borrowed(seals);
        if contents.seals.iter().any(|(n, told)| seals.get(n) != Some(told)) {
            // The former owner may have been told more in the meantime; now it is fenced.
            seals = Cow::Owned(self.log.seals()?);
            check_seals(&name, &contents.seals, &seals)?;
        }
        let (store, checkpoint) = self.state(&name)?;
        if !plants(Planted::JournalNotConfirmed) {
            journal.confirm()?; // I8
        }
        if checkpoint.is_some() && contents.beginning.is_none() {
            return Err(journal_missing(&format!("log/lanes/{name}")));
        }
        if checkpoint.as_ref().and_then(|c| c.journal).is_some_and(|head| head.writes > contents.head.writes) {
            return Err(journal::lacks(&format!("log/lanes/{name}"), "what the checkpoint of the lane rests on").into());
        }
        journal.write_seals(seals.into_owned())?;
        self.log.own(&name)?;
        let tenure = Arc::new(journal.tenure(Arc::new(SystemClock))?);
        let opened = Opened { name, partitions, store, checkpoint, journal, contents, tenure };
        self.check_frontier(&opened)?;
        Ok(opened)
    }

    /// What was released once must still be there.
    fn check_frontier(&self, lane: &Opened) -> Result<(), Failure> {
        let known = lane.contents.beginning.as_ref().map(|b| b.offsets.keys().copied().collect::<Vec<_>>());
        if known.as_ref().is_some_and(|known| *known != lane.partitions) {
            return Err(Failure::new(Exit::State, grown(&lane.partitions, &known.unwrap_or_default())));
        }
        for (&partition, &next) in lane.contents.frontier.iter().flat_map(|f| &f.next) {
            if self.source.high(partition).is_none_or(|high| high >= next) {
                continue;
            }
            // Another host may have folded on since the topic was looked at; now that the journal is this host's, none does.
            let now = self.world.log(&self.config, self.until())?.high(partition);
            if let Some(high) = now.filter(|&high| high < next) {
                let message = format!(
                    "partition {partition} ends at offset {high}, but records up to {next} were folded before: the topic was truncated or \
                     made anew; give it a pipeline (state.url) of its own"
                );
                return Err(Failure::new(Exit::State, message));
            }
        }
        Ok(())
    }

    fn source(&self, starts: &[Start]) -> Result<Started, Failure> {
        let started = self.source.open(&self.config, starts, self.until_end, self.until())?;
        started.topic_id.iter().try_for_each(|id| self.log.hold_topic(id))?;
        let Some(commits) = &self.commits else { return Ok(started) };
        Ok(Started { source: Box::new(Grouped::new(started.source, Arc::clone(commits))), ..started })
    }
}

impl Opened {
    /// Cuts the files of sink and dead letters back to what the state covers; what is behind is written again.
    fn cut_files(
        &mut self,
        sink: &mut dyn sink::Sink,
        letters: &mut dyn dead_letter::DeadLetterWriter,
    ) -> Result<(), Failure> {
        let (to_sink, to_letters) = match (&self.checkpoint, &self.contents.beginning) {
            (Some(checkpoint), _) => (checkpoint.sink_length, checkpoint.letters_length),
            (None, Some(beginning)) => (beginning.sink_length, beginning.letters_length),
            (None, None) => return Ok(()),
        };
        if let Some(length) = cut("sink", sink.length()?, to_sink)? {
            sink.truncate(length)?;
        }
        if let Some(length) = cut("dead letters", letters.length()?, to_letters)? {
            letters.truncate(length)?;
        }
        Ok(())
    }

    fn starts(&self) -> Vec<Start> {
        let start = |&partition: &Partition| {
            let progress = self.checkpoint.as_ref().and_then(|c| c.partitions.get(&partition));
            let beginning = self.contents.beginning.as_ref().and_then(|b| b.offsets.get(&partition).copied());
            let next = progress.map(|p| p.last.offset.next()).or(beginning);
            Start { partition, next, last: progress.map(|p| p.last.clone()) }
        };
        self.partitions.iter().map(start).collect()
    }

    fn assemble(
        self,
        opening: &Opening,
        writer: LaneWriter,
        lengths: (Option<u64>, Option<u64>),
        notice: &Arc<Notice>,
    ) -> Result<Lane, Failure> {
        let starts = self.starts();
        let Started { source, first_offsets, .. } = opening.source(&starts)?;
        let Opened { name, store, checkpoint, journal, mut contents, .. } = self;
        if contents.beginning.is_none() {
            let offsets = first_offsets.iter().copied().collect();
            journal.write_beginning(&Beginning { offsets, sink_length: lengths.0, letters_length: lengths.1 })?;
        }
        let ahead =
            |&(p, first): &(Partition, Offset)| opening.source.high(p).map(|high| high.0.saturating_sub(first.0));
        let backlog = first_offsets.iter().map(ahead).sum::<Option<u64>>();
        let resume = |&(partition, _): &(Partition, Offset)| (partition, resume_of(checkpoint.as_ref(), partition));
        let resumes: Vec<_> = first_offsets.iter().map(resume).collect();
        let in_force = checkpoint.as_ref().map_or(opening.first, |c| c.deployment);
        let logic = opening.loader.load(in_force)?;
        let written = contents.images.keys().copied().collect(); // I10
        let followed = (opening.log.clone(), Arc::clone(&opening.news));
        let deployments = Follower::open(followed, Arc::clone(&opening.loader), &name, (in_force, written))?;
        let last = checkpoint.as_ref().and_then(|c| c.last);
        let merge = Merge::new(&resumes, logic.time.clock_skew_ms, last, contents.frontier, contents.floors);
        let mut core = Core::new(Arc::clone(&logic.plugin), Arc::clone(&opening.workers), logic.time);
        core.strikes = contents.strikes.remove(&in_force).unwrap_or_default();
        if let Some(checkpoint) = &checkpoint {
            core.restore(checkpoint);
        }
        let board = opening.board.lane(&name);
        board.start(source.ends(), core.time);
        log_start(&name, &logic, checkpoint.is_some(), backlog);
        Ok(Lane {
            name,
            source,
            merge,
            core,
            logic,
            deployments,
            store,
            journal,
            writer,
            board,
            log_rate: opening.config.plugin.log_rate,
            strikes: contents.strikes,
            noted: contents.images,
            on_strike: opening.config.plugin.on_strike,
            audit: Auditor::new(opening.config.plugin.audit),
            batch_records: opening.config.run.batch_records,
            checkpoint_interval: opening.config.state.checkpoint_interval,
            lane_bytes: opening.config.state.lane_bytes,
            memory: Arc::clone(&opening.memory),
            clock: Arc::new(SystemClock),
            signals: Signals::new(&opening.stop, &opening.back).with(notice),
            backlog,
        })
    }
}

/// The length to cut a file to, if it is longer.
fn cut(what: &str, is: Option<u64>, covered: Option<u64>) -> Result<Option<u64>, Failure> {
    let (Some(is), Some(covered)) = (is, covered) else { return Ok(None) };
    if is < covered {
        let message = format!(
            "the file of {what} has {is} bytes, the state covers {covered}: it was cut or replaced; put it back, or run `keyfold reset` to \
             write it anew from the beginning of the log"
        );
        return Err(Failure::new(Exit::State, message));
    }
    tracing::info!(event = "file-truncated", file = what, bytes = is - covered, "file truncated to the checkpoint");
    Ok(Some(covered))
}

/// Tells of a row that is left in the sink; true.
fn list(deployment: u64, image: &crate::row::Image) -> bool {
    let (table, key) = (&image.table, &image.key);
    tracing::warn!(
        event = "withdrawn-row-left",
        deployment,
        table,
        key,
        "row written only by the withdrawn deployment left in place"
    );
    true
}

fn log_start(lane: &str, logic: &Logic, from_checkpoint: bool, backlog: Option<u64>) {
    let Logic { n, plugin, .. } = logic;
    tracing::info!(
        event = "lane-started",
        lane,
        from_checkpoint,
        backlog,
        deployment = n,
        plugin = plugin.description.name,
        version = plugin.description.version,
        digest = plugin.digest.0,
        "lane started"
    );
}
