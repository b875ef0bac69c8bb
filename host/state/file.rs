//! A file of keyed state: records of keys in key order, in blocks, with an index, a filter and the keys' timers in order. A file is written
//! once. Owns its format; what a record says is [`super::layout`]'s.
//!
//! ```text
//! file     block* timer-block* meta
//! block    (length-of-key length-of-record key record)*
//! timers   (timer (u64, ordered) length-of-key key)*
//! meta     format, index of blocks, index of timer blocks, filter
//! ```
//!
//! A manifest names a file with the digest of its meta, which holds those of its blocks, so bytes that are not those that were written are
//! refused where they are read.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use crate::event_time::EventTime;
use crate::machine;
use crate::state::database::Error;
use crate::state::layout::{self, Corrupt, bytes_of, number, put, put_bytes};

/// The format of files, and of the records in them.
const FORMAT: u64 = 1;
/// Bits of the filter for each key: about one key in a hundred that is not there passes.
const FILTER_BITS: usize = 10;
/// What the first key of a block takes in memory, about.
const FIRST_BYTES: usize = 32;
/// Bits that a key sets.
const FILTER_HASHES: u64 = 7;

/// How large what is written is. In a simulation all is small, so that little state has many files.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// A block, about.
    pub(super) block: usize,
    /// A file, about.
    pub(super) file: usize,
    /// How many runs of about the same size are merged into one.
    pub(super) merged_runs: usize,
}

/// Returns the sizes.
pub(super) fn sizes() -> Sizes {
    match machine::simulated() {
        None => Sizes { block: 8 << 10, file: 32 << 20, merged_runs: 6 },
        Some(_) => Sizes { block: 128, file: 512, merged_runs: 3 },
    }
}

/// What a manifest says of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Its name.
    pub name: String,
    /// Its size, bytes.
    pub size: u64,
    /// Where its meta begins.
    meta: u64,
    /// The digest of the meta, in hexadecimal.
    digest: String,
    /// Its first key.
    #[serde(with = "base64_bytes")]
    first: Vec<u8>,
    /// Its last key.
    #[serde(with = "base64_bytes")]
    last: Vec<u8>,
    /// How many keys it has a record of.
    pub keys: u64,
}

/// Bytes in JSON.
mod base64_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(serde::de::Error::custom)
    }
}

/// Where a block is, and how its bytes are recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
struct BlockAt {
    /// Its first key, or its first timer.
    first: Box<[u8]>,
    at: u64,
    length: u32,
    digest: u64,
}

/// What leads to the records of a file.
#[derive(Debug, Default)]
struct Meta {
    blocks: Vec<BlockAt>,
    timers: Vec<BlockAt>,
    filter: Vec<u8>,
}

/// Returns the hash of a key by which filters know it. It is the same for ever.
pub(super) fn filter_hash(key: &[u8]) -> u64 {
    XxHash3_64::oneshot(key)
}

fn digest_of(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

/// The bits of a key in a filter of this many bits.
fn bits(hash: u64, of: u64) -> impl Iterator<Item = usize> {
    let step = (hash >> 32) | 1;
    (0..FILTER_HASHES)
        .map(move |i| usize::try_from(hash.wrapping_add(step.wrapping_mul(i)) % of).expect("a filter is in memory"))
}

// ---- writing

/// A file that is being made. Keys come in order.
pub(super) struct Builder {
    block_size: usize,
    block: Vec<u8>,
    bytes: Vec<u8>,
    meta: Meta,
    hashes: Vec<u64>,
    /// Timers, with where in the file their keys are.
    timers: Vec<(EventTime, Range<usize>)>,
    first_of_block: Vec<u8>,
    first: Option<Vec<u8>>,
    last: Vec<u8>,
}

impl Builder {
    /// Begins a file.
    pub(super) fn new() -> Builder {
        Builder {
            block_size: sizes().block,
            block: Vec::new(),
            bytes: Vec::new(),
            meta: Meta::default(),
            hashes: Vec::new(),
            timers: Vec::new(),
            first_of_block: Vec::new(),
            first: None,
            last: Vec::new(),
        }
    }

    /// Adds a key's record.
    pub(super) fn push(&mut self, key: &[u8], record: &[u8]) -> Result<(), Corrupt> {
        let timer = layout::decode(record)?.timer;
        if self.block.is_empty() {
            self.first_of_block = key.to_vec();
        }
        self.first.get_or_insert_with(|| key.to_vec());
        self.last.clear();
        self.last.extend_from_slice(key);
        self.hashes.push(filter_hash(key));
        put(&mut self.block, key.len() as u64);
        put(&mut self.block, record.len() as u64);
        if let Some(timer) = timer {
            let at = self.size();
            self.timers.push((timer, at..at + key.len()));
        }
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(record);
        if self.block.len() >= self.block_size {
            self.end_block();
        }
        Ok(())
    }

    /// Its size so far, bytes.
    pub(super) fn size(&self) -> usize {
        self.bytes.len() + self.block.len()
    }

    /// Whether it has no record.
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    fn end_block(&mut self) {
        let (at, first) = (self.bytes.len() as u64, std::mem::take(&mut self.first_of_block));
        self.meta.blocks.push(placed(first, at, &self.block));
        self.bytes.append(&mut self.block);
    }

    /// Ends the file. It needs a record.
    pub(super) fn finish(mut self, name: String) -> (FileInfo, Bytes) {
        if !self.block.is_empty() {
            self.end_block();
        }
        let keys = &self.bytes;
        self.timers.sort_unstable_by(|(s, a), (t, b)| (s, &keys[a.clone()]).cmp(&(t, &keys[b.clone()])));
        let mut timers = std::mem::take(&mut self.timers).into_iter().peekable();
        while let Some((first, _)) = timers.peek() {
            let (at, first) = (self.bytes.len(), ordered(*first).to_be_bytes().to_vec());
            while let Some((time, key)) = timers.next_if(|_| self.bytes.len() - at < self.block_size) {
                self.bytes.extend_from_slice(&ordered(time).to_be_bytes());
                put(&mut self.bytes, key.len() as u64);
                self.bytes.extend_from_within(key);
            }
            let block = placed(first, at as u64, &self.bytes[at..]);
            self.meta.timers.push(block);
        }
        self.meta.filter = vec![0; (self.hashes.len() * FILTER_BITS).div_ceil(8)];
        for &hash in &self.hashes {
            bits(hash, self.meta.filter.len() as u64 * 8).for_each(|bit| self.meta.filter[bit / 8] |= 1 << (bit % 8));
        }
        let meta = self.meta.encode();
        let info = FileInfo {
            name,
            size: (self.bytes.len() + meta.len()) as u64,
            meta: self.bytes.len() as u64,
            digest: format!("{:016x}", digest_of(&meta)),
            first: self.first.take().expect("a file has a record"),
            last: std::mem::take(&mut self.last),
            keys: self.hashes.len() as u64,
        };
        self.bytes.extend_from_slice(&meta);
        (info, self.bytes.into())
    }
}

fn placed(first: Vec<u8>, at: u64, block: &[u8]) -> BlockAt {
    let length = u32::try_from(block.len()).expect("a block holds a few records, each below 4 GiB");
    BlockAt { first: first.into(), at, length, digest: digest_of(block) }
}

fn ordered(time: EventTime) -> u64 {
    time.ms().cast_unsigned() ^ (1 << 63)
}

impl Meta {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, FORMAT);
        for index in [&self.blocks, &self.timers] {
            put(&mut out, index.len() as u64);
            for block in index {
                put_bytes(&mut out, &block.first);
                put(&mut out, block.at);
                put(&mut out, u64::from(block.length));
                out.extend_from_slice(&block.digest.to_le_bytes());
            }
        }
        put_bytes(&mut out, &self.filter);
        out
    }

    fn decode(mut rest: &[u8]) -> Result<Meta, String> {
        let format = number(&mut rest).map_err(|e| e.to_string())?;
        if format != FORMAT {
            return Err(format!("it has format {format}, and this version reads format {FORMAT}; run a newer keyfold"));
        }
        let index = |rest: &mut &[u8]| -> Result<Vec<BlockAt>, Corrupt> {
            let count = number(rest)?;
            let mut blocks = Vec::new();
            for _ in 0..count {
                let first = bytes_of(rest)?.into();
                let (at, length) = (number(rest)?, u32::try_from(number(rest)?).map_err(|_| Corrupt)?);
                let digest = rest.split_off(..8).ok_or(Corrupt)?;
                let digest = u64::from_le_bytes(digest.try_into().expect("it has eight bytes"));
                blocks.push(BlockAt { first, at, length, digest });
            }
            Ok(blocks)
        };
        let all = |mut rest: &[u8]| {
            let (blocks, timers) = (index(&mut rest)?, index(&mut rest)?);
            Ok(Meta { blocks, timers, filter: bytes_of(&mut rest)?.to_vec() })
        };
        all(rest).map_err(|e: Corrupt| e.to_string())
    }

    fn may_have(&self, hash: u64) -> bool {
        let all = self.filter.len() as u64 * 8;
        all > 0 && bits(hash, all).all(|bit| self.filter[bit / 8] & (1 << (bit % 8)) != 0)
    }
}

// ---- reading

/// A file that is read.
#[derive(Debug)]
pub(super) struct File {
    pub(super) info: FileInfo,
    location: Path,
    meta: OnceLock<Meta>,
}

/// A block of records.
#[derive(Clone, Debug)]
pub(super) struct Block(Bytes);

impl File {
    /// The file with this description under a path. Nothing is read yet.
    pub(super) fn new(folder: &str, info: FileInfo) -> Arc<File> {
        let location = Path::from(format!("{folder}/{}", info.name));
        Arc::new(File { info, location, meta: OnceLock::new() })
    }

    /// Whether a key lies between its first and its last.
    pub(super) fn spans(&self, key: &[u8]) -> bool {
        *self.info.first <= *key && *key <= *self.info.last
    }

    /// Its last key.
    pub(super) fn last_key(&self) -> &[u8] {
        &self.info.last
    }

    /// What is kept in memory of it, bytes, about.
    pub(super) fn cached_bytes(&self) -> u64 {
        self.meta.get().map_or(0, |meta| {
            let blocks = meta.blocks.len() + meta.timers.len();
            (blocks * (size_of::<BlockAt>() + FIRST_BYTES) + meta.filter.len()) as u64
        })
    }

    /// Reads index and filter, unless they were read before.
    async fn meta(&self, objects: &dyn ObjectStore) -> Result<&Meta, Error> {
        if let Some(meta) = self.meta.get() {
            return Ok(meta);
        }
        let bytes = self.read(objects, std::slice::from_ref(&(self.info.meta..self.info.size))).await?.remove(0);
        if format!("{:016x}", digest_of(&bytes)) != self.info.digest {
            return Err(self.damaged(&Corrupt));
        }
        let meta = Meta::decode(&bytes).map_err(|e| self.damaged(&e))?;
        Ok(self.meta.get_or_init(|| meta)) // another reader may have been faster
    }

    /// The number of the block in which a key's record is, if the file may have one.
    pub(super) async fn block_of(
        &self,
        objects: &dyn ObjectStore,
        key: &[u8],
        hash: u64,
    ) -> Result<Option<usize>, Error> {
        let meta = self.meta(objects).await?;
        if !meta.may_have(hash) {
            return Ok(None);
        }
        Ok(meta.blocks.partition_point(|block| *block.first <= *key).checked_sub(1))
    }

    /// The numbers of the blocks with keys from `key` on.
    pub(super) async fn blocks_from(&self, objects: &dyn ObjectStore, key: &[u8]) -> Result<Range<usize>, Error> {
        let blocks = &self.meta(objects).await?.blocks;
        Ok(blocks.partition_point(|block| *block.first <= *key).saturating_sub(1)..blocks.len())
    }

    /// Reads blocks, in the order given.
    pub(super) async fn blocks(&self, objects: &dyn ObjectStore, numbers: &[usize]) -> Result<Vec<Block>, Error> {
        let meta = self.meta(objects).await?;
        let places: Vec<&BlockAt> = numbers.iter().map(|&number| &meta.blocks[number]).collect();
        Ok(self.placed(objects, &places).await?.into_iter().map(Block).collect())
    }

    /// How many of these blocks, which follow each other, have about `bytes` together; at least one, if there is one.
    pub(super) async fn fitting(
        &self,
        objects: &dyn ObjectStore,
        range: Range<usize>,
        bytes: u64,
    ) -> Result<Range<usize>, Error> {
        let blocks = &self.meta(objects).await?.blocks;
        let mut sum = 0;
        let fits = |block: &&BlockAt| {
            let before = sum;
            sum += u64::from(block.length);
            before == 0 || sum <= bytes
        };
        let count = blocks[range.clone()].iter().take_while(fits).count();
        Ok(range.start..range.start + count)
    }

    /// Reads the timers from `from` (`None`: the first) up to and including `until`, with their keys, and the time of the next timer.
    pub(super) async fn timers(
        &self,
        objects: &dyn ObjectStore,
        from: Option<EventTime>,
        until: EventTime,
    ) -> Result<(Vec<Vec<u8>>, Option<EventTime>), Error> {
        let blocks = &self.meta(objects).await?.timers;
        let from = from.map_or(0, ordered);
        let first = blocks.partition_point(|block| *block.first < from.to_be_bytes()[..]).saturating_sub(1);
        let end = blocks.partition_point(|block| *block.first <= ordered(until).to_be_bytes()[..]);
        let places: Vec<&BlockAt> = blocks.get(first..(end + 1).min(blocks.len())).unwrap_or_default().iter().collect();
        let (mut due, mut next) = (Vec::new(), None);
        for block in self.placed(objects, &places).await? {
            let mut rest = &block[..];
            while let Some((time, tail)) = rest.split_first_chunk() {
                rest = tail;
                let (time, key) = (u64::from_be_bytes(*time), bytes_of(&mut rest).map_err(|e| self.damaged(&e))?);
                if (from..=ordered(until)).contains(&time) {
                    due.push(key.to_vec());
                } else if time > ordered(until) && next.is_none() {
                    next = EventTime::from_cell((time ^ (1 << 63)).cast_signed());
                }
            }
        }
        Ok((due, next))
    }

    async fn placed(&self, objects: &dyn ObjectStore, places: &[&BlockAt]) -> Result<Vec<Bytes>, Error> {
        let ranges: Vec<Range<u64>> = places.iter().map(|place| place.at..place.at + u64::from(place.length)).collect();
        let blocks = self.read(objects, &ranges).await?;
        match blocks.iter().zip(places).all(|(block, place)| digest_of(block) == place.digest) {
            true => Ok(blocks),
            false => Err(self.damaged(&Corrupt)),
        }
    }

    async fn read(&self, objects: &dyn ObjectStore, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, Error> {
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        let read = match objects.get_ranges(&self.location, ranges).await {
            // An end beyond that of the file: some stores cut it, some refuse.
            Ok(read) if read.iter().zip(ranges).any(|(bytes, range)| bytes.len() as u64 != range.end - range.start) => {
                return Err(self.damaged(&Corrupt));
            }
            read => read,
        };
        match read {
            Ok(read) => Ok(read),
            Err(StoreError::NotFound { .. }) => Err(Error::Unreadable(format!(
                "state.url: {} is missing, which the checkpoint needs: put it back from a copy, or run `keyfold reset` to rebuild the state \
                 from the log",
                self.location
            ))),
            Err(_) if objects.head(&self.location).await.is_ok_and(|found| found.size != self.info.size) => {
                Err(self.damaged(&Corrupt))
            }
            Err(error) => Err(Error::Outside(format!("state.url: cannot read {}: {error}", self.location))),
        }
    }

    /// Why bytes of it are refused.
    pub(super) fn damaged(&self, why: &dyn std::fmt::Display) -> Error {
        Error::Unreadable(format!("state.url: cannot read {}: {why}", self.location))
    }
}

impl Block {
    /// Returns a key's record, if the block has one.
    pub(super) fn record(&self, key: &[u8]) -> Result<Option<Bytes>, Corrupt> {
        let mut at = 0;
        while let Some(entry) = self.entry(at)? {
            if self.0[entry.key.clone()] == *key {
                return Ok(Some(self.0.slice(entry.record)));
            }
            at = entry.record.end;
        }
        Ok(None)
    }

    /// Returns the entry that begins at a place; `None` at the end.
    pub(super) fn entry(&self, at: usize) -> Result<Option<Entry>, Corrupt> {
        let mut rest = &self.0[at..];
        if rest.is_empty() {
            return Ok(None);
        }
        let (key, record) = (number(&mut rest)?, number(&mut rest)?);
        let (key, record) = (usize::try_from(key).map_err(|_| Corrupt)?, usize::try_from(record).map_err(|_| Corrupt)?);
        let start = self.0.len() - rest.len();
        if rest.len() < key.saturating_add(record) {
            return Err(Corrupt);
        }
        Ok(Some(Entry { key: start..start + key, record: start + key..start + key + record }))
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> &Bytes {
        &self.0
    }
}

/// Reads any bytes as the meta of a file, and as a block.
#[cfg(any(fuzzing, test))]
pub(super) fn read_any(bytes: &[u8]) {
    if let Ok(meta) = Meta::decode(bytes) {
        assert_eq!(
            Meta::decode(&meta.encode()).map(|meta| meta.encode()),
            Ok(meta.encode()),
            "written again, it says the same"
        );
        meta.may_have(filter_hash(b"key"));
    }
    let (block, mut at) = (Block(Bytes::copy_from_slice(bytes)), 0);
    while let Ok(Some(entry)) = block.entry(at) {
        assert!(entry.record.end > at, "reading goes on");
        at = entry.record.end;
    }
    let _ = block.record(b"key"); // it may be damaged
}

/// Where a key and its record are in a block.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: Range<usize>,
    pub(super) record: Range<usize>,
}
