//! The journal of a lane: what the log cannot tell, durable before it has an effect (I4, I10). The frontier, floors, strikes, images, and where
//! the lane began. Small; never deleted with a checkpoint. What the lanes of a pipeline share is in [`crate::deployment`].

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};

use object_store::ObjectStore;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use crate::clock::Clock;
use crate::event_time::AppendTime;
use crate::machine;
use crate::observe::journal_meter::JournalMeter;
use crate::position::{Floor, Frontier, Offset, Partition};
use crate::row::Image;
use crate::state::chained::Chained;
use crate::state::checkpoint::Head;
use crate::state::database::{Change, Database, Error, entries, value};
use crate::state::tenure::Tenure;
use crate::strike::{Strike, StrikeItem};

const FRONTIER: &[u8] = b"frontier";
const FLOOR: &[u8] = b"floor/";
const STRIKE: &[u8] = b"strike/";
const IMAGE: &[u8] = b"image/";
const BEGINNING: &[u8] = b"beginning";
const HEAD: &[u8] = b"head";
/// The number of the write that holds the frontier. Beside it, because earlier versions read the frontier itself.
const FRONTIER_WRITE: &[u8] = b"write-of-frontier";
const SEALS: &[u8] = b"seals";

/// What a lane was told of a deployment: the SHA-256 of each of its objects, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// Of the deployment itself.
    pub order: String,
    /// Of its outcome, if it was decided.
    pub outcome: Option<String>,
    /// Of the verdict on it, if there was one.
    pub verdict: Option<String>,
}

/// Seals by the number of their deployment.
pub type Seals = BTreeMap<u64, Seal>;

/// Where a lane began: what a replay from nothing must find again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beginning {
    /// The first offset read of each partition.
    pub offsets: BTreeMap<Partition, Offset>,
    /// Length of the sink's file at that time, bytes; `None` if the sink is no file.
    pub sink_length: Option<u64>,
    /// Length of the dead-letter file at that time, bytes; `None` if there is none.
    pub letters_length: Option<u64>,
}

/// What a journal holds when it is opened.
#[derive(Debug, Default)]
pub struct Contents {
    /// The last durable frontier.
    pub frontier: Option<Frontier>,
    /// Floors by (partition, offset).
    pub floors: BTreeMap<(Partition, Offset), AppendTime>,
    /// Strikes with their reasons, by deployment.
    pub strikes: BTreeMap<u64, BTreeMap<StrikeItem, String>>,
    /// What the sink held before a deployment on probation wrote there, by deployment.
    pub images: BTreeMap<u64, Vec<Image>>,
    /// Where the lane began; `None` if it never ran before.
    pub beginning: Option<Beginning>,
    /// What the lane was told of the deployments.
    pub seals: Seals,
    /// How much was written.
    pub head: Head,
}

/// The journal of a lane.
pub struct Journal {
    database: Arc<dyn Database>,
    /// The number of strikes so far, which numbers the next one.
    strikes: u64,
    seals: Seals,
    written: Mutex<Written>,
}

/// What was written so far.
#[derive(Default)]
struct Written {
    head: Head,
    floors: HashSet<(Partition, Offset)>,
}

impl Journal {
    /// Opens the journal in the database at its [`path`], and reads all of it.
    pub fn over(database: Arc<dyn Database>) -> Result<(Journal, Contents), Error> {
        let held = &*database;
        let mut contents =
            Contents { frontier: read(held, FRONTIER)?, beginning: read(held, BEGINNING)?, ..Contents::default() };
        for (_, value) in entries(held, FLOOR)? {
            let ((partition, offset), time): ((Partition, Offset), AppendTime) = parse(held.name(), &value)?;
            contents.floors.insert((partition, offset), time);
        }
        let mut strikes = 0;
        for (_, value) in entries(held, STRIKE)? {
            let (item, reason, deployment) = parse(held.name(), &value)?;
            contents.strikes.entry(deployment).or_default().insert(item, reason);
            strikes += 1;
        }
        for (key, value) in entries(held, IMAGE)? {
            let deployment = key.first_chunk().copied().map(u64::from_be_bytes).unwrap_or_default();
            contents.images.entry(deployment).or_default().push(parse(held.name(), &value)?);
        }
        contents.seals = read(held, SEALS)?.unwrap_or_default();
        contents.head = whole(held, &contents, strikes)?;
        let floors = contents.floors.keys().copied().collect();
        let written = Mutex::new(Written { head: contents.head, floors });
        Ok((Journal { database, strikes, seals: contents.seals.clone(), written }, contents))
    }

    /// How much was written so far.
    pub fn head(&self) -> Head {
        machine::lock(&self.written).head
    }

    /// Writes changes, together with what was written so far. Durable on return.
    fn write(&self, mut changes: Vec<Change>, note: impl FnOnce(&mut Written)) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut written = machine::lock(&self.written);
        written.head.writes += 1;
        note(&mut written);
        if written.head.frontier == written.head.writes {
            changes.push((FRONTIER_WRITE.to_vec(), Some(json(&written.head.writes))));
        }
        changes.push((HEAD.to_vec(), Some(json(&written.head))));
        self.database.write(changes)
    }

    /// Fails if another host has opened the journal since this one did. Nothing is written: whoever opens a journal writes its claim where the next
    /// entry of the former owner would be, and nothing is there yet.
    pub fn confirm(&self) -> Result<(), Error> {
        self.database.check_ownership()
    }

    /// Writes what the lane was told of the deployments, if that is new. Durable on return.
    pub fn write_seals(&mut self, seals: Seals) -> Result<(), Error> {
        if self.seals == seals {
            return Ok(());
        }
        self.write(vec![(SEALS.to_vec(), Some(json(&seals)))], |_| ())?;
        self.seals = seals;
        Ok(())
    }

    /// Begins the tenure of the host that has opened the journal: the write timestamps that it may use.
    pub fn tenure(&self, clock: Arc<dyn Clock>) -> Result<Tenure, Error> {
        Tenure::begin(Arc::clone(&self.database), clock)
    }

    /// Writes where the lane began. Durable on return.
    pub fn write_beginning(&self, beginning: &Beginning) -> Result<(), Error> {
        self.write(vec![(BEGINNING.to_vec(), Some(json(beginning)))], |written| written.head.began = true)
    }

    /// Writes the frontier, before anything leaves that depends on the answer of an asked partition. Durable on return.
    pub fn write_frontier(&self, frontier: &Frontier) -> Result<(), Error> {
        let changes = vec![(FRONTIER.to_vec(), Some(json(frontier)))];
        self.write(changes, |written| written.head.frontier = written.head.writes)
    }

    /// Writes floors, before their records are folded. Durable on return.
    pub fn write_floors(&self, floors: &[Floor]) -> Result<(), Error> {
        let entry = |f: &Floor| {
            let key = [FLOOR, &f.partition.0.to_be_bytes()[..], &f.offset.0.to_be_bytes()[..]].concat();
            (key, Some(json(&((f.partition, f.offset), f.append_time))))
        };
        self.write(floors.iter().map(entry).collect(), |written| {
            written.floors.extend(floors.iter().map(|floor| (floor.partition, floor.offset)));
            written.head.floors = written.floors.len() as u64;
        })
    }

    /// Writes strikes of a deployment's logic, before their effect. Durable on return.
    pub fn write_strikes(&mut self, strikes: &[Strike], deployment: u64) -> Result<(), Error> {
        let first = self.strikes;
        self.strikes += strikes.len() as u64;
        let count = self.strikes;
        let entry = |(strike, n): (&Strike, u64)| -> Change {
            let key = [STRIKE, &n.to_be_bytes()[..]].concat();
            (key, Some(json(&(&strike.item, &strike.reason, deployment))))
        };
        self.write(strikes.iter().zip(first..).map(entry).collect(), |written| written.head.strikes = count)
    }

    /// Returns where the sink's thread writes the images that rows of a deployment are about to replace; those in `known` are written already.
    pub fn images(&self, deployment: u64, known: &[Image]) -> ImageNotes {
        let known = known.iter().map(|image| (image.table.clone(), image.key.clone())).collect();
        ImageNotes { database: Arc::clone(&self.database), deployment, known }
    }

    /// Deletes the images of a deployment. Durable on return.
    pub fn forget_images(&self, deployment: u64) -> Result<(), Error> {
        let prefix = [IMAGE, &deployment.to_be_bytes()[..]].concat();
        let keys = entries(&*self.database, &prefix)?.into_iter().map(|(key, _)| [&prefix[..], &key].concat());
        self.database.write(keys.map(|key| (key, None)).collect())
    }

    /// Counts what is written there, from now on.
    pub fn count(&self, meter: &Arc<JournalMeter>) {
        self.database.count(meter);
    }

    /// Closes the journal.
    pub fn close(self) -> Result<(), Error> {
        self.database.close()
    }
}

/// Refuses a journal from which something is missing that later writes tell of, as after a file of it was lost. Returns how much was written.
/// One of an earlier version, or with entries of one, says less than it holds.
fn whole(held: &dyn Database, contents: &Contents, strikes: u64) -> Result<Head, Error> {
    let Some(head) = read::<Head>(held, HEAD)? else { return Ok(Head { strikes, ..Head::default() }) };
    let of_frontier: u64 = read(held, FRONTIER_WRITE)?.unwrap_or_default();
    let missing = [
        ("the last frontier", head.frontier > of_frontier),
        ("floors", head.floors > contents.floors.len() as u64),
        ("strikes", head.strikes > strikes),
        ("where the lane began", head.began && contents.beginning.is_none()),
    ];
    match missing.iter().find(|(_, is_missing)| *is_missing) {
        Some((what, _)) => Err(lacks(held.name(), what)),
        None => Ok(head),
    }
}

/// Why a journal is refused from which something is missing.
pub(crate) fn lacks(name: &str, what: &str) -> Error {
    Error::Unreadable(format!(
        "state.url: the journal {name} lacks {what}: files of it are missing, empty or older than others. Put them back from a copy of log/, or \
         begin anew with another state.url"
    ))
}

/// Reads the offsets with which these lanes began, by partition. No lane is taken over.
pub fn beginnings(
    objects: &Arc<dyn ObjectStore>,
    lanes: &[String],
    runtime: &Handle,
) -> Result<BTreeMap<Partition, Offset>, Error> {
    let mut offsets = BTreeMap::new();
    for lane in lanes {
        let path = path(lane);
        let Some(held) = Chained::reader(objects, &path, runtime)? else { continue };
        if let Some(value) = value(&held, BEGINNING)? {
            offsets.extend(parse::<Beginning>(&path, &value)?.offsets);
        }
    }
    Ok(offsets)
}

/// The journal as the sink's thread uses it: it writes what the sink holds before rows of a deployment on probation replace it, once for each
/// primary key (I10). The writer reads the images from the sink.
pub struct ImageNotes {
    database: Arc<dyn Database>,
    deployment: u64,
    known: HashSet<(String, String)>,
}

impl ImageNotes {
    /// Returns whether this is the first row with this primary key of the table, and remembers the key.
    pub fn is_first(&mut self, table: &str, key: String) -> bool {
        self.known.insert((table.to_owned(), key))
    }

    /// Writes images. Durable on return.
    pub fn write(&self, images: &[Image]) -> Result<(), Error> {
        let entry = |image: &Image| {
            let key = [IMAGE, &self.deployment.to_be_bytes(), image.table.as_bytes(), &[0], image.key.as_bytes()];
            (key.concat(), Some(json(image)))
        };
        self.database.write(images.iter().map(entry).collect())
    }
}

/// Returns the path of a lane's journal.
pub(crate) fn path(lane: &str) -> String {
    format!("log/lanes/{lane}")
}

fn read<T: for<'de> Deserialize<'de>>(database: &dyn Database, key: &[u8]) -> Result<Option<T>, Error> {
    value(database, key)?.map(|value| parse(database.name(), &value)).transpose()
}

fn parse<T: for<'de> Deserialize<'de>>(name: &str, value: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(value).map_err(|e| {
        Error::Unreadable(format!(
            "state.url: cannot read {name}: {e}; run the keyfold version that wrote it, or a newer one"
        ))
    })
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data becomes JSON")
}
