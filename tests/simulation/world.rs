//! The world around simulated hosts: one broker, one database of rows, one store of objects, one place for dead letters. Each host has its own
//! way to it, which fails as the seed decides, and which ends when the host is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use keyfold::backoff::Outage;
use keyfold::config::{Config, Hosts, KafkaSource, Source};
use keyfold::dead_letter::{DeadLetter, DeadLetterWriter};
use keyfold::failure::Failure;
use keyfold::pipeline::world::World;
use keyfold::position::{Offset, Partition};
use keyfold::row::Table as Declared;
use keyfold::sink::Sink;
use keyfold::source::group::Group;
use keyfold::source::log_source::LogSource;
use keyfold::state::database::Databases;
use keyfold::strike::{Stage, StrikeItem};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tokio::runtime::Handle;

use crate::broker::{Committed, SeenTopic, Topic};
use crate::group::{Coordinator, Membership};
use crate::journals::{Journals, SeenDatabases};
use crate::objects::SeenObjects;
use crate::scheduler::{Process, ProcessId, locked};
use crate::states::States;
use crate::table::{Connection, Table};

/// Everything outside the hosts.
#[derive(Clone)]
pub(crate) struct Outside {
    pub(crate) topic: Arc<Topic>,
    /// The group of the hosts, where they share the lanes.
    pub(crate) coordinator: Arc<Coordinator>,
    pub(crate) table: Arc<Table>,
    pub(crate) letters: Arc<Letters>,
    pub(crate) objects: Arc<InMemory>,
    /// How many reservations of lanes were begun.
    pub(crate) reserving: Arc<AtomicUsize>,
    pub(crate) states: Arc<States>,
    pub(crate) journals: Arc<Journals>,
    /// Whether the database of rows refuses some.
    pub(crate) refuses: bool,
}

impl Outside {
    /// The store of objects as a process sees it.
    pub(crate) fn seen_objects(&self, process: &Arc<Process>, trouble: Trouble) -> SeenObjects {
        SeenObjects {
            inner: Arc::clone(&self.objects),
            journals: Arc::clone(&self.journals),
            reserving: Arc::clone(&self.reserving),
            process: Arc::clone(process),
            trouble,
            states: Arc::clone(&self.states),
            table: Arc::clone(&self.table),
            letters: Arc::clone(&self.letters),
        }
    }

    /// The lanes' journals as a process sees them, which sees the store of objects like this.
    pub(crate) fn seen_databases(&self, process: &Arc<Process>, objects: Arc<dyn ObjectStore>) -> SeenDatabases {
        SeenDatabases { journals: Arc::clone(&self.journals), objects, process: Arc::clone(process) }
    }
}

/// How requests go.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trouble {
    /// Of a thousand requests, how many fail.
    pub(crate) faults: u64,
    /// Of a hundred requests to the store of objects, how many take long to get there, and how many of their answers to come back.
    pub(crate) slow: u64,
    /// Of a hundred reservations of a lane, how many take long to get there besides.
    pub(crate) slow_reservations: u64,
}

/// How a request fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It does not.
    None,
    /// It has no effect, and no answer.
    Lost,
    /// It has its effect, and no answer.
    AnswerLost,
}

impl Fault {
    /// Picks one; `per_mille` of a thousand requests fail.
    pub(crate) fn pick(process: &Process, per_mille: u64) -> Fault {
        match process.below(2_000) {
            n if n < per_mille => Fault::Lost,
            n if n < 2 * per_mille => Fault::AnswerLost,
            _ => Fault::None,
        }
    }
}

/// A step of a host; ends what a dead one does.
pub(crate) fn step(process: &Process) -> Result<(), Failure> {
    process.step();
    dead(process)
}

/// Ends what a dead host does.
pub(crate) fn dead(process: &Process) -> Result<(), Failure> {
    if process.is_dead() { Err(Failure::unexpected("the host was killed")) } else { Ok(()) }
}

impl Process {
    /// Lets other threads run for as long as a request takes.
    pub(crate) fn wait_a_moment(&self) {
        self.wait(Duration::from_micros(100 + self.below(4_000)));
    }

    /// Lets other threads run for a time.
    pub(crate) fn wait(&self, time: Duration) {
        keyfold::machine::Machine::pause(self, time);
    }
}

/// The world as one host sees it.
pub(crate) struct SeenWorld {
    pub(crate) outside: Arc<Outside>,
    pub(crate) process: Arc<Process>,
    pub(crate) trouble: Trouble,
}

impl SeenWorld {
    /// Checks what the host commits.
    fn committed(&self) -> Arc<Committed> {
        let (states, process) = (Arc::clone(&self.outside.states), Arc::clone(&self.process));
        Arc::new(move |next| states.check_commit(&process, next))
    }
}

impl World for SeenWorld {
    fn objects(&self, _: &Config) -> Result<Arc<dyn ObjectStore>, Failure> {
        Ok(Arc::new(self.outside.seen_objects(&self.process, self.trouble)))
    }

    fn databases(&self, objects: &Arc<dyn ObjectStore>, _: &Handle) -> Arc<dyn Databases> {
        Arc::new(self.outside.seen_databases(&self.process, Arc::clone(objects)))
    }

    fn log(&self, _: &Config, _: Instant) -> Result<LogSource, Failure> {
        self.process.wait_a_moment();
        step(&self.process)?;
        let process = Arc::clone(&self.process);
        Ok(LogSource::Other(Arc::new(SeenTopic::new(&self.outside.topic, process, self.committed()))))
    }

    fn group(&self, config: &Config) -> Result<Option<Box<dyn Group>>, Failure> {
        let Source::Kafka(KafkaSource { hosts: Hosts::Many, .. }) = &config.source else { return Ok(None) };
        let Outside { coordinator, topic, .. } = &*self.outside;
        Ok(Some(Box::new(Membership::new(coordinator, topic, &self.process, self.committed()))))
    }

    fn sink(&self, _: &Config, _: &Arc<[Declared]>, _: &Handle, _: Instant) -> Result<Box<dyn Sink>, Failure> {
        self.process.wait_a_moment();
        dead(&self.process)?;
        Ok(Box::new(Connection::new(&self.outside, &self.process, self.trouble.faults)))
    }

    fn letters(&self, _: &Config, _: Instant) -> Result<Box<dyn DeadLetterWriter>, Failure> {
        dead(&self.process)?;
        let (letters, process) = (Arc::clone(&self.outside.letters), Arc::clone(&self.process));
        let journals = Arc::clone(&self.outside.journals);
        Ok(Box::new(LetterWriter { letters, process, journals, waiting: Vec::new() }))
    }
}

/// A dead letter, by what it names: stage, partition, offset, event, and the deployment that wrote it.
pub(crate) type Named = (String, u32, u64, Option<u32>, Option<u64>);

/// The dead letters, each at least once.
#[derive(Debug, Default)]
pub(crate) struct Letters {
    stored: Mutex<BTreeMap<Named, BTreeSet<String>>>,
    /// The records of letters that are not stored yet, by process.
    waiting: Mutex<BTreeMap<ProcessId, Vec<(Partition, Offset)>>>,
}

impl Letters {
    /// The letters, with the reasons given.
    pub(crate) fn all(&self) -> BTreeMap<Named, BTreeSet<String>> {
        locked(&self.stored).clone()
    }

    /// The records of letters that a process has written and that are not stored.
    pub(crate) fn waiting(&self, process: ProcessId) -> Vec<(Partition, Offset)> {
        locked(&self.waiting).get(&process).cloned().unwrap_or_default()
    }
}

struct LetterWriter {
    letters: Arc<Letters>,
    process: Arc<Process>,
    journals: Arc<Journals>,
    waiting: Vec<DeadLetter>,
}

impl LetterWriter {
    fn keep(&mut self, count: usize) {
        let mut letters = locked(&self.letters.stored);
        for letter in self.waiting.drain(..count) {
            let record = letter.record.get(0);
            let (stage, at) = (letter.stage.name().to_owned(), (record.partition, record.offset));
            let named = (stage, at.0, at.1, letter.event, letter.deployment);
            letters.entry(named).or_default().insert(letter.reason);
        }
        let of = |letter: &DeadLetter| {
            let record = letter.record.get(0);
            (Partition(record.partition), Offset(record.offset))
        };
        let waiting = self.waiting.iter().map(of).collect();
        locked(&self.letters.waiting).insert(self.process.id, waiting);
    }
}

impl DeadLetterWriter for LetterWriter {
    fn write(&mut self, letters: &[DeadLetter]) -> Result<(), Failure> {
        step(&self.process)?;
        self.process.note(&format!("writes {} dead letters", letters.len()));
        for letter in letters.iter().filter(|letter| letter.stage == Stage::Fold && letter.reason.contains("struck by"))
        {
            let record = letter.record.get(0);
            let (partition, offset) = (Partition(record.partition), Offset(record.offset));
            let event = letter.event.unwrap_or_default();
            self.journals.check_strike(&StrikeItem::Event { partition, offset, event });
        }
        self.waiting.extend_from_slice(letters);
        // Some are stored at once.
        let some = self.process.below(self.waiting.len() as u64 + 1);
        self.keep(usize::try_from(some).expect("a few"));
        step(&self.process)
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.process.wait_a_moment();
        step(&self.process)?;
        self.keep(self.waiting.len());
        step(&self.process)
    }

    fn length(&mut self) -> Result<Option<u64>, Failure> {
        Ok(None)
    }

    fn truncate(&mut self, _: u64) -> Result<(), Failure> {
        Ok(())
    }

    fn outage(&self) -> Arc<Outage> {
        Arc::default()
    }
}
