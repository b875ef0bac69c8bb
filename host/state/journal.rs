//! What the log cannot tell of a lane, durable before it has an effect: the frontier, floors, strikes, where the log began. Small; never
//! deleted with a checkpoint. `log/lanes/<lane>` is a database with one fenced writer; what the pipeline's lanes share is
//! [`crate::deployment`]'s.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use object_store::ObjectStore;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use crate::position::{Floor, Frontier};
use crate::row::Image;
use crate::state::reader::Reader;
use crate::state::store::{Error, Notes, Store};
use crate::strike::{Strike, StrikeItem};

const FRONTIER: &[u8] = b"frontier";
const FLOOR: &[u8] = b"floor/";
const STRIKE: &[u8] = b"strike/";
const IMAGE: &[u8] = b"image/";
const BEGINNING: &[u8] = b"beginning";

/// Where a lane's life began: what a replay from nothing needs to find again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beginning {
    /// The first offset read of each partition.
    pub offsets: BTreeMap<u32, u64>,
    /// Length that the sink's file had already.
    pub sink_length: Option<u64>,
    /// Length that the dead-letter file had already.
    pub letters_length: Option<u64>,
}

/// What a lane's journal holds at its start.
#[derive(Debug, Default)]
pub struct Contents {
    /// The last durable frontier.
    pub frontier: Option<Frontier>,
    /// Floors by (partition, offset).
    pub floors: BTreeMap<(u32, u64), i64>,
    /// Strikes with their reasons, of each deployment's logic.
    pub strikes: BTreeMap<u64, BTreeMap<StrikeItem, String>>,
    /// What the sink held before a deployment that could be withdrawn wrote there.
    pub images: BTreeMap<u64, Vec<Image>>,
    /// None if this lane never lived before.
    pub beginning: Option<Beginning>,
}

/// The journal of a lane.
pub struct Journal {
    store: Store,
    strikes: u64,
}

impl Journal {
    /// Opens it and reads all of it.
    pub fn open(objects: Arc<dyn ObjectStore>, lane: &str, runtime: Handle) -> Result<(Journal, Contents), Error> {
        let store = Store::open(objects, &format!("log/lanes/{lane}"), runtime)?;
        let mut contents =
            Contents { frontier: read(&store, FRONTIER)?, beginning: read(&store, BEGINNING)?, ..Contents::default() };
        for (_, value) in store.entries(FLOOR)? {
            let ((partition, offset), time): ((u32, u64), i64) = parse(&value)?;
            contents.floors.insert((partition, offset), time);
        }
        let mut strikes = 0;
        for (_, value) in store.entries(STRIKE)? {
            let (item, reason, deployment) = parse(&value)?;
            contents.strikes.entry(deployment).or_default().insert(item, reason);
            strikes += 1;
        }
        for (key, value) in store.entries(IMAGE)? {
            let deployment = key.first_chunk().copied().map(u64::from_be_bytes).unwrap_or_default();
            contents.images.entry(deployment).or_default().push(parse(&value)?);
        }
        Ok((Journal { store, strikes }, contents))
    }

    /// Makes the lane's beginning durable.
    pub fn write_beginning(&self, beginning: &Beginning) -> Result<(), Error> {
        self.store.put([(BEGINNING.to_vec(), json(beginning))])
    }

    /// Makes the frontier durable: before anything leaves that depends on a release on an asked partition's word.
    pub fn write_frontier(&self, frontier: &Frontier) -> Result<(), Error> {
        self.store.put([(FRONTIER.to_vec(), json(frontier))])
    }

    /// Makes floors durable: before their records are folded.
    pub fn write_floors(&self, floors: &[Floor]) -> Result<(), Error> {
        self.store.put(floors.iter().map(|f| {
            let key = [FLOOR, &f.partition.to_be_bytes()[..], &f.offset.to_be_bytes()[..]].concat();
            (key, json(&((f.partition, f.offset), f.append_time)))
        }))
    }

    /// Makes strikes of a deployment's logic durable: before their effect.
    pub fn write_strikes(&mut self, strikes: &[Strike], deployment: u64) -> Result<(), Error> {
        let first = self.strikes;
        self.strikes += strikes.len() as u64;
        self.store.put(strikes.iter().zip(first..).map(|(strike, n)| {
            let key = [STRIKE, &n.to_be_bytes()[..]].concat();
            (key, json(&(&strike.item, &strike.reason, deployment)))
        }))
    }

    /// Where the sink's thread notes what rows of a deployment are about to replace; `known` was noted before.
    pub fn images(&self, deployment: u64, known: &[Image]) -> ImageNotes {
        let known = known.iter().map(|image| (image.table.clone(), image.key.clone())).collect();
        ImageNotes { notes: self.store.notes(), deployment, known }
    }

    /// Forgets what rows of a deployment replaced.
    pub fn forget_images(&self, deployment: u64) -> Result<(), Error> {
        let prefix = [IMAGE, &deployment.to_be_bytes()[..]].concat();
        let keys = self.store.entries(&prefix)?.into_iter().map(|(key, _)| [&prefix[..], &key].concat());
        self.store.delete(keys)
    }

    /// Whether another host has taken over.
    pub fn check_ownership(&self) -> Result<(), Error> {
        self.store.check_ownership()
    }

    /// Closes it.
    pub fn close(self) -> Result<(), Error> {
        self.store.close()
    }
}

/// The offsets with which these lanes began, by partition; reads, and takes no lane over.
pub fn beginnings(
    objects: &Arc<dyn ObjectStore>,
    lanes: &[String],
    runtime: &Handle,
) -> Result<BTreeMap<u32, u64>, Error> {
    let mut offsets = BTreeMap::new();
    for lane in lanes {
        let reader = Reader::open(objects, &format!("log/lanes/{lane}"), runtime)?;
        if let Some(value) = reader.map(|reader| reader.get(BEGINNING)).transpose()?.flatten() {
            offsets.extend(parse::<Beginning>(&value)?.offsets);
        }
    }
    Ok(offsets)
}

/// Images of what a sink holds, noted before rows of a deployment that can be withdrawn replace it: once for each primary key. The journal
/// stores them; reading them from the sink is the writer's.
pub struct ImageNotes {
    notes: Notes,
    deployment: u64,
    known: HashSet<(String, String)>,
}

impl ImageNotes {
    /// Whether this primary key of this table is met for the first time; from now on it is known.
    pub fn is_first(&mut self, table: &str, key: String) -> bool {
        self.known.insert((table.to_owned(), key))
    }

    /// Makes images durable.
    pub fn write(&self, images: &[Image]) -> Result<(), Error> {
        let entry = |image: &Image| {
            let key = [IMAGE, &self.deployment.to_be_bytes(), image.table.as_bytes(), &[0], image.key.as_bytes()];
            (key.concat(), json(image))
        };
        self.notes.put(images.iter().map(entry))
    }
}

fn read<T: for<'de> Deserialize<'de>>(store: &Store, key: &[u8]) -> Result<Option<T>, Error> {
    store.get(key)?.map(|value| parse(&value)).transpose()
}

fn parse<T: for<'de> Deserialize<'de>>(value: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(value)
        .map_err(|e| Error::Unreadable(format!("the journal holds what this keyfold cannot read: {e}")))
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data becomes JSON")
}
