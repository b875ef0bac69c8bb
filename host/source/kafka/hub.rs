//! One host's reading of one topic, for all its lanes: one client that reads, with a queue for each lane, and one that asks; a few threads that read
//! (`reader.rs`) and one that asks (`asker.rs`). Lanes open and close at any time, from any thread, each for itself.
//!
//! It begins with a look at the topic. The client that reads and the threads begin with the first lane.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rdkafka::Offset as KafkaOffset;
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::RDKafkaErrorCode;

use crate::backoff::{Backoff, Outage};
use crate::clock;
use crate::config::{self, Ordering as LaneOrdering};
use crate::failure::Failure;
use crate::observe::ends::Ends;
use crate::position::{Offset, Partition, TopicId};
use crate::source::Start;
use crate::source::kafka::KafkaSource;
use crate::source::kafka::asker::{Asker, Desk};
use crate::source::kafka::broker::{
    ANSWER_TIMEOUT, Topic, Voice, commit, examine, first_offsets, locked, look, offsets, offsets_by, partitions,
    trimmed, truncated,
};
use crate::source::kafka::emptiness::Ledger;
use crate::source::kafka::identity::Watch;
use crate::source::kafka::mailbox::{Mailbox, Trouble};
use crate::source::kafka::native::{Batch, Bell, Connection, LaneQueue};
use crate::source::kafka::reader::{Reader, Track, Wanted};
use crate::source::kafka::rota::{LaneId, Rota};
use crate::source::kafka::secrets::{self, Secrets};

/// The most threads that read. One lane is read by one at a time, and each reads much faster than a lane folds.
const READERS: usize = 4;
/// How long a reading thread waits for lanes before it looks at the files of its secrets.
const IDLE: Duration = Duration::from_secs(1);
/// How old the ends of the partitions may be when a lane opens.
const FRESH: Duration = Duration::from_secs(1);
/// Names the events that are of no lane.
const CLIENT: LaneId = 0;

/// One host's reading of one topic.
pub struct Hub {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the threads of a hub and its lanes share.
pub(super) struct Shared {
    pub(super) config: config::KafkaSource,
    /// A client that reads nothing.
    pub(super) asking: BaseConsumer<Voice>,
    /// What the topic was when it was looked at first.
    pub(super) watch: Mutex<Watch>,
    pub(super) desk: Desk,
    pub(super) stopped: AtomicBool,
    rota: Arc<Rota>,
    topic: Topic,
    /// The topic as a lane that opens finds it, and when it was looked at.
    latest: Mutex<(Topic, Instant)>,
    /// The reading client, from the first lane on.
    connection: Mutex<Option<Arc<Connection>>>,
    lanes: Mutex<Lanes>,
    /// Whether the leaders answer.
    outage: Arc<Outage>,
}

#[derive(Default)]
struct Lanes {
    open: BTreeMap<LaneId, Arc<Lane>>,
    last: LaneId,
    /// Why no lane can be read any more.
    failure: Option<Failure>,
}

/// What the threads of a hub and one lane share.
pub(super) struct Lane {
    pub(super) id: LaneId,
    /// Ascending.
    pub(super) partitions: Vec<Partition>,
    pub(super) first_offsets: Vec<(Partition, Offset)>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) ledger: Arc<Mutex<Ledger>>,
    pub(super) wanted: Arc<Wanted>,
    pub(super) ends: Arc<Ends>,
    /// None before it is open and once it is closed.
    reader: Mutex<Option<Reader>>,
}

impl Hub {
    /// Looks at the topic. Brokers are waited for until `deadline`; a missing topic and refused credentials are refused at once.
    pub fn inspect(config: &config::KafkaSource, deadline: Instant) -> Result<Hub, Failure> {
        let (asking, topic) = look(config, deadline)?;
        let topic = examine(config, &asking, topic)?;
        Ok(Hub::new(config, asking, topic))
    }

    /// As [`Hub::inspect`], but for rights and timestamps.
    pub(super) fn begin(config: &config::KafkaSource, deadline: Instant) -> Result<Hub, Failure> {
        let (asking, topic) = look(config, deadline)?;
        Ok(Hub::new(config, asking, topic))
    }

    fn new(config: &config::KafkaSource, asking: BaseConsumer<Voice>, topic: Topic) -> Hub {
        let shared = Shared {
            config: config.clone(),
            asking,
            watch: Mutex::new(Watch::new(config, &topic.partitions, topic.id.clone())),
            desk: Desk::default(),
            stopped: AtomicBool::new(false),
            rota: Arc::default(),
            latest: Mutex::new((topic.clone(), clock::instant())),
            topic,
            connection: Mutex::new(None),
            lanes: Mutex::default(),
            outage: Arc::default(),
        };
        Hub { shared: Arc::new(shared), threads: Mutex::default() }
    }

    /// The topic as it was found first.
    pub fn topic(&self) -> &Topic {
        &self.shared.topic
    }

    /// Starts to read the partitions of `starts`, which no other lane reads, up to the ends as of now if `until_end`. Brokers are waited for until
    /// `deadline`; a log that does not fit the starts is refused. That the last records are the ones that were folded is told later: another log
    /// fails the source before it delivers anything.
    pub fn open(self: &Arc<Hub>, starts: &[Start], until_end: bool, deadline: Instant) -> Result<KafkaSource, Failure> {
        let (topic, offsets) = self.shared.place(starts, deadline)?;
        let mut placed: Vec<(&Start, Offset)> = starts.iter().zip(offsets).collect();
        placed.sort_unstable_by_key(|(start, _)| start.partition);
        let bounds =
            |partition: Partition| topic.partitions.binary_search(&partition).map(|i| (topic.low[i], topic.high[i]));
        let track = |&(start, first): &(&Start, Offset)| {
            let found = bounds(start.partition).ok();
            // What was trimmed away cannot be compared.
            let last = start.last.clone().filter(|last| found.is_some_and(|(low, _)| last.offset >= low));
            Track::new(start.partition, first, last, found.map(|(_, high)| high).filter(|_| until_end))
        };
        let tracks: Vec<Track> = placed.iter().map(track).collect();
        let first_offsets: Vec<_> = placed.iter().map(|(start, first)| (start.partition, *first)).collect();
        let ends = first_offsets.iter().map(|&(p, first)| (bounds(p).map_or(first, |(_, high)| high), first));
        let ends = Arc::new(Ends::new(ends, Arc::clone(&self.shared.outage)));
        let connection = self.start()?;
        let lane = self.shared.enter(&connection, tracks, first_offsets, ends)?;
        Ok(KafkaSource::new(Arc::clone(self), lane))
    }

    /// The reading client; it and the threads are started by the first lane.
    fn start(&self) -> Result<Arc<Connection>, Failure> {
        let shared = &self.shared;
        let mut connection = locked(&shared.connection);
        if let Some(connection) = &*connection {
            return Ok(Arc::clone(connection));
        }
        let lanes = match shared.config.ordering {
            LaneOrdering::Topic => 1,
            LaneOrdering::Partition => shared.topic.partitions.len(),
        };
        let bell = Bell { rota: Arc::clone(&shared.rota), lane: CLIENT };
        let opened = Arc::new(Connection::open(&shared.config, lanes, bell)?);
        let properties = secrets::fresh(&shared.config.properties, &shared.config.secret_files);
        let secrets =
            |telling| Secrets::new("source.kafka.properties", &properties, &shared.config.secret_files, telling);
        let asker = Asker {
            shared: Arc::clone(shared),
            secrets: secrets(false),
            surveyed: clock::instant(),
            missed: false,
            is_one_away: false,
            outage: Backoff::publishing(format!("topic {}", shared.config.topic), Arc::clone(&shared.outage)),
        };
        let mut threads = locked(&self.threads);
        threads.push(self.spawn("kafka-ask", move |_| asker.run())?);
        let cores = thread::available_parallelism().map_or(1, usize::from);
        for n in 0..lanes.min(READERS).min(cores) {
            let (connection, secrets) = (Arc::clone(&opened), (n == 0).then(|| secrets(true)));
            threads.push(self.spawn("kafka-read", move |shared| shared.read(&connection, secrets))?);
        }
        *connection = Some(Arc::clone(&opened));
        Ok(opened)
    }

    fn spawn(&self, name: &str, body: impl FnOnce(&Shared) + Send + 'static) -> Result<JoinHandle<()>, Failure> {
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            let end = Ended(&shared);
            body(&shared);
            drop(end);
        });
        thread.map_err(|e| Failure::unexpected(format!("no thread for the source: {e}")))
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.shared.desk.wake();
        let threads = std::mem::take(&mut *locked(&self.threads));
        self.shared.rota.wake(CLIENT, threads.len());
        for thread in threads {
            if thread.join().is_err() {
                tracing::debug!(event = "source-thread-panicked", "source thread panicked");
            }
        }
    }
}

/// Fails the lanes of a thread that ends without a reason.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if !self.0.stopped.load(Ordering::Acquire) {
            let topic = &self.0.config.topic;
            self.0
                .fail(Failure::unexpected(format!("reading topic {topic} has ended without a reason: this is a bug")));
        }
    }
}

impl Shared {
    /// The topic as of now, and where each of `starts` is read from.
    fn place(&self, starts: &[Start], deadline: Instant) -> Result<(Topic, Vec<Offset>), Failure> {
        let mut latest = locked(&self.latest);
        if clock::since(latest.1) < FRESH
            && let Ok(offsets) = first_offsets(&self.config, starts, &latest.0)
        {
            return Ok((latest.0.clone(), offsets));
        }
        let topic = &mut latest.0;
        if starts.iter().any(|start| topic.partitions.binary_search(&start.partition).is_err()) {
            topic.partitions = partitions(&self.asking, &self.config, deadline)?; // it was added since
        }
        topic.low = offsets_by(&self.asking, &self.config, &topic.partitions, KafkaOffset::Beginning, deadline)?;
        topic.high = offsets_by(&self.asking, &self.config, &topic.partitions, KafkaOffset::End, deadline)?;
        latest.1 = clock::instant();
        Ok((latest.0.clone(), first_offsets(&self.config, starts, &latest.0)?))
    }

    /// Takes a lane in, and begins to read it.
    fn enter(
        &self,
        connection: &Arc<Connection>,
        tracks: Vec<Track>,
        first_offsets: Vec<(Partition, Offset)>,
        ends: Arc<Ends>,
    ) -> Result<Arc<Lane>, Failure> {
        let positions: Vec<_> = tracks.iter().map(Track::position).collect();
        let lane = {
            let mut lanes = locked(&self.lanes);
            if let Some(failure) = &lanes.failure {
                return Err(failure.clone());
            }
            let is_read = |p: &Partition| lanes.open.values().any(|lane| lane.partitions.contains(p));
            if let Some((partition, _)) = first_offsets.iter().find(|(partition, _)| is_read(partition)) {
                return Err(Failure::unexpected(format!("a lane reads partition {partition} already: this is a bug")));
            }
            lanes.last += 1;
            let lane = Arc::new(Lane {
                id: lanes.last,
                partitions: first_offsets.iter().map(|(partition, _)| *partition).collect(),
                first_offsets,
                mailbox: Arc::default(),
                ledger: Arc::new(Mutex::new(Ledger::new(positions.clone()))),
                wanted: Arc::default(),
                ends,
                reader: Mutex::new(None),
            });
            lanes.open.insert(lane.id, Arc::clone(&lane));
            lane
        };
        let bell = Bell { rota: Arc::clone(&self.rota), lane: lane.id };
        match LaneQueue::open(connection, &positions, bell) {
            Ok(queue) => *locked(&lane.reader) = Some(Reader::new(queue, self.config.topic.clone(), tracks, &lane)),
            Err(failure) => {
                self.close(&lane);
                return Err(failure);
            }
        }
        self.rota.call(lane.id); // what came before it had a reader
        Ok(lane)
    }

    /// Ends the reading of a lane.
    pub(super) fn close(&self, lane: &Lane) {
        let reader = locked(&lane.reader).take();
        drop(reader); // not with the lock: a thread may come to serve it
        locked(&self.lanes).open.remove(&lane.id); // from now on, others may read its partitions
    }

    /// The lanes that are open.
    pub(super) fn lanes(&self) -> Vec<Arc<Lane>> {
        locked(&self.lanes).open.values().cloned().collect()
    }

    /// Ends the reading of all lanes, for ever.
    pub(super) fn fail(&self, failure: Failure) {
        let mut lanes = locked(&self.lanes);
        lanes.open.values().for_each(|lane| lane.mailbox.fail(Trouble::Known(failure.clone())));
        lanes.failure.get_or_insert(failure);
    }

    /// Why no lane can be read any more.
    pub(super) fn failure(&self) -> Option<Failure> {
        locked(&self.lanes).failure.clone()
    }

    /// Wants the partitions of a lane asked; see [`crate::source::Source::ask`].
    pub(super) fn ask(&self, lane: &Lane, partitions: &[Partition], after_ms: i64) {
        locked(&lane.ledger).wish(partitions, after_ms);
        if !partitions.is_empty() {
            self.desk.call(after_ms);
        }
    }

    /// Calls a thread to read a lane on.
    pub(super) fn call(&self, lane: &Lane) {
        self.rota.call(lane.id);
    }

    /// Sends the offsets on their way, for lag tools.
    pub(super) fn commit(&self, next: &[(Partition, Offset)]) {
        commit(&self.asking, &self.config.topic, next);
    }

    /// The topic's id, if the brokers have said it.
    pub(super) fn topic_id(&self) -> Option<TopicId> {
        locked(&self.watch).id().cloned()
    }

    /// Why a lane's reading ended, with what the brokers say now.
    pub(super) fn explain(&self, trouble: Trouble) -> Failure {
        let (partition, next, text) = match trouble {
            Trouble::Known(failure) => return failure,
            Trouble::OutOfRange { partition, next, text } => (partition, next, text),
        };
        let topic = &self.config.topic;
        let end = |at| offsets(&self.asking, topic, &[partition], at, ANSWER_TIMEOUT).ok().and_then(|told| told[0]);
        let (low, high) = (end(KafkaOffset::Beginning), end(KafkaOffset::End));
        match (low.filter(|low| next < *low), high.filter(|high| next > *high)) {
            (Some(low), _) => Failure::state(trimmed(topic, partition, next, low)),
            (_, Some(high)) => Failure::state(truncated(topic, partition, next, high)),
            (None, None) => Failure::state(format!(
                "topic {topic}, partition {partition}: the log does not hold offset {next}, the next to read: {text}"
            )),
        }
    }

    /// Reads lanes in turn until the hub is gone.
    fn read(&self, connection: &Connection, mut secrets: Option<Secrets>) {
        let mut batch = Batch::new();
        while !self.stopped.load(Ordering::Acquire) {
            if let Some(secrets) = &mut secrets {
                secrets.look(&connection.client);
            }
            let Some(id) = self.rota.next(IDLE) else { continue };
            let more = if id == CLIENT { self.hear(connection, &mut batch) } else { self.serve(id, &mut batch) };
            self.rota.served(id, more);
        }
    }

    /// Takes what the client says that is of no partition. Whether there may be more.
    fn hear(&self, connection: &Connection, batch: &mut Batch) -> bool {
        let filled = connection.events(batch);
        while let Some(event) = batch.next() {
            match event.code() {
                RDKafkaErrorCode::NoError => {}
                RDKafkaErrorCode::Fatal => {
                    self.fail(Failure::unexpected(format!("librdkafka: {}", event.error_text())))
                }
                _ => connection.client.context().complain(&event.error_text()),
            }
        }
        filled > 0
    }

    fn serve(&self, id: LaneId, batch: &mut Batch) -> bool {
        let lane = locked(&self.lanes).open.get(&id).cloned();
        lane.is_some_and(|lane| locked(&lane.reader).as_mut().is_some_and(|reader| reader.serve(batch)))
    }
}
