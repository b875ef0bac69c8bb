//! What SlateDB keeps in memory of the files that it reads: their indexes, filters and some blocks. One bounded cache serves all databases
//! of the process. Without it, SlateDB reads and decodes a file's whole index again for every key that it looks up.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use slatedb::Error;
use slatedb::db_cache::moka::{MokaCache, MokaCacheOptions};
use slatedb::db_cache::{CacheFetch, CacheLoader, CachedEntry, CachedKey, DbCache, SplitCache};
use tokio::sync::Mutex;

/// Memory for blocks. Keys that are read together lie together, so little of it is needed.
const BLOCKS: u64 = 32 * 1024 * 1024;
/// Memory for indexes and filters. They are some hundredths of what they lead to, so this serves several gigabytes of state.
const INDEXES: u64 = 96 * 1024 * 1024;
/// How many files' indexes can be loaded at the same time.
const LOADS: usize = 64;

static CACHE: LazyLock<Arc<dyn DbCache>> = LazyLock::new(|| {
    let of = |max_capacity| MokaCache::new_with_opts(MokaCacheOptions { max_capacity, ..MokaCacheOptions::default() });
    let indexes = LoadOnce { cache: of(INDEXES), indexes: Locks::default(), filters: Locks::default() };
    Arc::new(SplitCache::new().with_block_cache(Some(Arc::new(of(BLOCKS)))).with_meta_cache(Some(Arc::new(indexes))))
});

/// Numbers the openings, so that no database sees entries of another one, or of one that was deleted.
static OPENINGS: AtomicU64 = AtomicU64::new(0);

/// Returns the cache, and the number under which a database that is being opened keeps its entries.
pub(super) fn scope() -> (Arc<dyn DbCache>, u64) {
    (Arc::clone(&CACHE), OPENINGS.fetch_add(1, Ordering::Relaxed))
}

/// A cache that loads each index and each filter once, however many reads ask for it at the same time. A lane reads many keys at once, and an
/// index can have megabytes.
struct LoadOnce {
    cache: MokaCache,
    indexes: Locks,
    /// Apart from those of the indexes, since loading a filter may need an index.
    filters: Locks,
}

struct Locks {
    locks: [Mutex<()>; LOADS],
    hasher: RandomState,
}

impl Default for Locks {
    fn default() -> Locks {
        Locks { locks: std::array::from_fn(|_| Mutex::new(())), hasher: RandomState::new() }
    }
}

impl Locks {
    fn of(&self, key: &CachedKey) -> &Mutex<()> {
        let at = self.hasher.hash_one(key) % LOADS as u64;
        &self.locks[usize::try_from(at).expect("it is less than LOADS")]
    }
}

#[async_trait]
impl DbCache for LoadOnce {
    async fn get_block(&self, key: &CachedKey) -> Result<Option<CachedEntry>, Error> {
        self.cache.get_block(key).await
    }

    async fn get_index(&self, key: &CachedKey) -> Result<Option<CachedEntry>, Error> {
        self.cache.get_index(key).await
    }

    async fn get_filter(&self, key: &CachedKey) -> Result<Option<CachedEntry>, Error> {
        self.cache.get_filter(key).await
    }

    async fn get_stats(&self, key: &CachedKey) -> Result<Option<CachedEntry>, Error> {
        self.cache.get_stats(key).await
    }

    async fn insert(&self, key: CachedKey, value: CachedEntry) {
        self.cache.insert(key, value).await;
    }

    async fn remove(&self, key: &CachedKey) {
        self.cache.remove(key).await;
    }

    fn entry_count(&self) -> u64 {
        self.cache.entry_count()
    }

    async fn fetch_index(&self, key: CachedKey, loader: CacheLoader) -> Result<CacheFetch, Error> {
        if let Some(entry) = self.cache.get_index(&key).await? {
            return Ok(CacheFetch::hit(entry));
        }
        let _loading = self.indexes.of(&key).lock().await;
        self.cache.fetch_index(key, loader).await
    }

    async fn fetch_filter(&self, key: CachedKey, loader: CacheLoader) -> Result<CacheFetch, Error> {
        if let Some(entry) = self.cache.get_filter(&key).await? {
            return Ok(CacheFetch::hit(entry));
        }
        let _loading = self.filters.of(&key).lock().await;
        self.cache.fetch_filter(key, loader).await
    }
}
