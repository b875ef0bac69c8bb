//! Files of keyed state read in key order, as one: where several have a record of a key, they are put together, the newest first.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use object_store::ObjectStore;

use crate::state::database::Error;
use crate::state::file::{Block, Entry, File};
use crate::state::layout::{self, Corrupt};

/// What is read of a run at a time, bytes.
const READ_AHEAD: u64 = 1 << 20;

/// Files whose keys do not overlap, in key order.
pub(super) type Files = Vec<Arc<File>>;

/// A merge of runs.
pub(super) struct Merge {
    objects: Arc<dyn ObjectStore>,
    /// The newest first.
    sources: Vec<Source>,
}

/// A run as it is read.
struct Source {
    files: VecDeque<Arc<File>>,
    /// Blocks of the first file that were not read yet; none before its index was read.
    unread: Option<Range<usize>>,
    /// Blocks that were read.
    blocks: VecDeque<Block>,
    /// The next entry, in the first of them.
    entry: Option<Entry>,
    /// Where reading begins.
    from: Vec<u8>,
}

impl Merge {
    /// Reads these runs, the newest first, from a key on.
    pub(super) fn new(objects: &Arc<dyn ObjectStore>, runs: impl IntoIterator<Item = Files>, from: &[u8]) -> Merge {
        let source = |files: Files| Source {
            files: files.into_iter().filter(|file| file.last_key() >= from).collect(),
            unread: None,
            blocks: VecDeque::new(),
            entry: None,
            from: from.to_vec(),
        };
        Merge { objects: Arc::clone(objects), sources: runs.into_iter().map(source).collect() }
    }

    /// Returns the next key with its record, which appends or deletes only if no older record was among those read; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<(Vec<u8>, Vec<u8>)>, Error> {
        for source in &mut self.sources {
            source.fill(&*self.objects).await?;
        }
        self.sources.retain(|source| source.entry.is_some());
        let mut least: Vec<usize> = Vec::new();
        for (i, source) in self.sources.iter().enumerate() {
            let order = least.first().map_or(Ordering::Less, |&first| source.key().cmp(self.sources[first].key()));
            match order {
                Ordering::Less => least = vec![i],
                Ordering::Equal => least.push(i),
                Ordering::Greater => {}
            }
        }
        let Some(&newest) = least.first() else { return Ok(None) };
        let (key, mut record) = (self.sources[newest].key().to_vec(), self.sources[newest].record().to_vec());
        for &older in &least[1..] {
            let older = &self.sources[older];
            let both = layout::combine(&record, older.record());
            record = both.map_err(|e| older.damaged(e))?;
        }
        for &source in &least {
            self.sources[source].advance()?;
        }
        Ok(Some((key, record)))
    }
}

impl Source {
    /// Has an entry ready, unless the run is at its end.
    async fn fill(&mut self, objects: &dyn ObjectStore) -> Result<(), Error> {
        while self.entry.is_none() {
            if let Some(block) = self.blocks.front() {
                self.entry = self.first_from(block)?;
                if self.entry.is_none() {
                    self.blocks.pop_front();
                }
                continue;
            }
            let Some(file) = self.files.front() else { return Ok(()) };
            let unread = match self.unread.take() {
                Some(unread) => unread,
                None => file.blocks_from(objects, &self.from).await?,
            };
            if unread.is_empty() {
                self.files.pop_front();
                continue;
            }
            let part = file.fitting(objects, unread.clone(), READ_AHEAD).await?;
            let numbers: Vec<usize> = part.clone().collect();
            self.blocks.extend(file.blocks(objects, &numbers).await?);
            self.unread = Some(part.end..unread.end);
        }
        Ok(())
    }

    /// The first entry of a block at or after the key from which reading begins.
    fn first_from(&self, block: &Block) -> Result<Option<Entry>, Error> {
        let mut at = 0;
        while let Some(entry) = block.entry(at).map_err(|e| self.damaged(e))? {
            if block.bytes()[entry.key.clone()] >= self.from[..] {
                return Ok(Some(entry));
            }
            at = entry.record.end;
        }
        Ok(None)
    }

    fn advance(&mut self) -> Result<(), Error> {
        let Some(entry) = self.entry.take() else { return Ok(()) };
        self.from.clear(); // what follows lies behind it
        self.entry = self.blocks[0].entry(entry.record.end).map_err(|e| self.damaged(e))?;
        if self.entry.is_none() {
            self.blocks.pop_front();
        }
        Ok(())
    }

    fn key(&self) -> &[u8] {
        self.entry.as_ref().map_or(&[], |entry| &self.blocks[0].bytes()[entry.key.clone()])
    }

    fn record(&self) -> &[u8] {
        self.entry.as_ref().map_or(&[], |entry| &self.blocks[0].bytes()[entry.record.clone()])
    }

    fn damaged(&self, why: Corrupt) -> Error {
        match self.files.front() {
            Some(file) => file.damaged(&why),
            None => Error::Unreadable(format!("state.url: cannot read a file of keyed state: {why}")),
        }
    }
}
