//! The journal of a lane after many entries: objects, bytes, requests, the cost of an entry, and the time of the next start.
//!
//! ```text
//! cargo bench --bench journal -- [--entries 86400] [--folder FOLDER]
//! ```
//!
//! An entry is a frontier of four partitions, as a lane at the head of a topic writes it for each batch. The folder is synced, as a host's is; without
//! one, the objects are in memory.

#![expect(clippy::disallowed_methods, reason = "what is measured is the machine's own time")]

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use clap::Parser;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use keyfold::event_time::AppendTime;
use keyfold::position::{Frontier, Offset, Partition, Position};
use keyfold::state::chained::Chained;
use keyfold::state::database::Database;
use keyfold::state::journal::Journal;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};
use tokio::runtime::Runtime;

const PATH: &str = "log/lanes/0";

/// What to measure.
#[derive(Clone, Debug, Parser)]
#[command(about = "The journal of a lane after many entries")]
struct Arguments {
    /// Entries; a day has 86,400 seconds.
    #[arg(long, default_value_t = 86_400)]
    entries: u64,
    /// An empty folder for them.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    let runtime = Runtime::new().expect("threads can be started");
    let inner: Arc<dyn ObjectStore> = match &arguments.folder {
        Some(folder) => Arc::new(LocalFileSystem::new_with_prefix(folder).expect("a folder").with_fsync(true)),
        None => Arc::new(InMemory::new()),
    };
    let store = Arc::new(Counted { inner, puts: AtomicU64::new(0), gets: AtomicU64::new(0), deletes: Arc::default() });
    let objects: Arc<dyn ObjectStore> = Arc::clone(&store) as Arc<dyn ObjectStore>;
    let open = || -> Arc<dyn Database> { Arc::new(Chained::open(&objects, PATH, runtime.handle()).expect("it opens")) };

    let (journal, _) = Journal::over(open()).expect("it opens");
    let (began, cpu, before) = (Instant::now(), cpu_seconds(), store.counts());
    for n in 0..arguments.entries {
        journal.write_frontier(&frontier(n)).expect("it is written");
    }
    let (wall, cpu, [puts, gets, deletes]) = (began.elapsed(), cpu_seconds() - cpu, store.since(before));
    #[expect(clippy::cast_precision_loss, reason = "a count of entries")]
    let each = |total: f64| total / arguments.entries as f64;
    #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
    let requests = |count: u64| each(count as f64);
    println!(
        "{} entries: {:.1} us wall and {:.1} us CPU each",
        arguments.entries,
        each(wall.as_secs_f64() * 1e6),
        each(cpu * 1e6)
    );
    println!(
        "requests for each: {:.4} PUT, {:.4} GET, {:.4} DELETE",
        requests(puts),
        requests(gets),
        requests(deletes)
    );
    drop(journal); // a crash

    let sizes: Vec<u64> = runtime
        .block_on(objects.list(Some(&Path::from(PATH))).map_ok(|object| object.size).try_collect())
        .expect("they are listed");
    println!("then there are {} objects with {} KiB", sizes.len(), sizes.iter().sum::<u64>() / 1024);
    let (began, before) = (Instant::now(), store.counts());
    let (_, contents) = Journal::over(open()).expect("it opens");
    let (wall, [puts, gets, _]) = (began.elapsed(), store.since(before));
    assert_eq!(contents.frontier, arguments.entries.checked_sub(1).map(frontier));
    println!("the next start opens it in {:.1} ms, with {gets} GET and {puts} PUT", wall.as_secs_f64() * 1e3);
}

fn frontier(n: u64) -> Frontier {
    let append_time = AppendTime::at(1_800_000_000_000 + i64::try_from(n).expect("a time"));
    let last = Position { append_time, partition: Partition(0), offset: Offset(n) };
    Frontier { last, next: (0..4).map(|partition| (Partition(partition), Offset(n + 1))).collect() }
}

fn cpu_seconds() -> f64 {
    keyfold::observe::process::read().cpu_seconds.expect("the system tells it")
}

/// A store that counts requests.
#[derive(Debug)]
struct Counted {
    inner: Arc<dyn ObjectStore>,
    puts: AtomicU64,
    gets: AtomicU64,
    deletes: Arc<AtomicU64>,
}

impl Counted {
    fn counts(&self) -> [u64; 3] {
        [&self.puts, &self.gets, &*self.deletes].map(|count| count.load(Ordering::Relaxed))
    }

    fn since(&self, before: [u64; 3]) -> [u64; 3] {
        let now = self.counts();
        [0, 1, 2].map(|at| now[at] - before[at])
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Counted {
    async fn put_opts(&self, to: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.puts.fetch_add(1, Ordering::Relaxed);
        self.inner.put_opts(to, payload, options).await
    }

    async fn put_multipart_opts(&self, to: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.puts.fetch_add(1, Ordering::Relaxed);
        self.inner.put_multipart_opts(to, options).await
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.inner.get_opts(from, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let deletes = Arc::clone(&self.deletes);
        let count = move |location| {
            deletes.fetch_add(1, Ordering::Relaxed);
            location
        };
        self.inner.delete_stream(locations.map(count).boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
