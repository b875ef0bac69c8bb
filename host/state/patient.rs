//! An object store that is retried during an outage, as sinks are, and whose availability is published. At startup retries end with the
//! startup timeout; after a request to stop they end soon.
//!
//! An outage lasts until what failed succeeds (D30): on a full disk reads and deletions go on working, and so may other writes.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};

use crate::backoff::{Backoff, Outage};
use crate::{clock, machine};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long requests are retried after a request to stop: less than a host may take to stop.
const AFTER_STOP: Duration = Duration::from_secs(6);

/// An object store whose requests are retried.
#[derive(Clone, Debug)]
pub struct Patient(Arc<Waiting>);

#[derive(Debug)]
struct Waiting {
    inner: Arc<dyn ObjectStore>,
    availability: Mutex<Availability>,
    /// The end of the startup; `None` once it is over.
    until: Mutex<Option<Instant>>,
    stop: Arc<AtomicBool>,
    stopped: OnceLock<Instant>,
}

impl Patient {
    /// Wraps `inner`. Requests are retried until `until`, and without limit after [`Patient::for_ever`]. Its availability is published in
    /// `outage`.
    pub fn new(inner: Arc<dyn ObjectStore>, outage: Arc<Outage>, until: Instant, stop: Arc<AtomicBool>) -> Patient {
        let backoff = Backoff::publishing("state.url", outage);
        let availability = Mutex::new(Availability { backoff, kinds: Default::default() });
        let until = Mutex::new(Some(until));
        Patient(Arc::new(Waiting { inner, availability, until, stop, stopped: OnceLock::new() }))
    }

    /// Ends the startup. From now on every outage is waited for, and so are refused credentials.
    pub fn for_ever(&self) {
        *self.0.until.lock().expect("no thread panics while it holds the lock") = None;
    }
}

/// Kinds of requests. One that succeeds says nothing about those of another kind.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Read,
    Write,
    /// A write in parts, whose parts the caller retries.
    Upload,
    Delete,
}

/// Which kinds of requests fail at the moment. The store is available when none does.
#[derive(Debug)]
struct Availability {
    backoff: Backoff,
    kinds: [Failing; 4],
}

#[derive(Debug, Default)]
struct Failing {
    /// Requests that have failed and are being retried.
    retried: usize,
    /// Whether one has failed since the last one that succeeded while none was being retried.
    is_down: bool,
}

impl Availability {
    fn failed(&mut self, kind: Kind, error: &Error) {
        self.kinds[kind as usize].is_down = true;
        self.backoff.warn(error);
    }

    fn answered(&mut self, kind: Kind) {
        let failing = &mut self.kinds[kind as usize];
        failing.is_down &= failing.retried > 0;
        if !self.kinds.iter().any(|failing| failing.is_down) {
            self.backoff.over();
        }
    }
}

/// A request that is being retried, until it is dropped.
struct Retried<'a>(&'a Waiting, Kind);

impl<'a> Retried<'a> {
    fn new(waiting: &'a Waiting, kind: Kind) -> Retried<'a> {
        waiting.availability().kinds[kind as usize].retried += 1;
        Retried(waiting, kind)
    }
}

impl Drop for Retried<'_> {
    fn drop(&mut self) {
        self.0.availability().kinds[self.1 as usize].retried -= 1;
    }
}

impl Waiting {
    /// Repeats a request until it is answered ([`Waiting::is_answer`]).
    async fn answer<T, F: Future<Output = Result<T>>>(
        &self,
        kind: Kind,
        mut request: impl FnMut(u32) -> F,
    ) -> Result<T> {
        let (mut pause, mut attempt, mut retried) = (FIRST_PAUSE, 0, None);
        loop {
            let error = match request(attempt).await {
                Err(error) if !self.is_answer(&error) => error,
                answer => {
                    drop(retried);
                    self.availability().answered(kind);
                    return answer;
                }
            };
            retried.get_or_insert_with(|| Retried::new(self, kind));
            self.availability().failed(kind, &error);
            if self.has_enough() {
                return Err(error);
            }
            // Not a blocking pause of `backoff`: other requests share this thread of the runtime.
            match machine::simulated() {
                Some(machine) => machine.pause(pause),
                None => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            attempt += 1;
        }
    }

    /// Returns whether an error is the store's answer rather than an outage. During startup, refused credentials are an operator's mistake.
    fn is_answer(&self, error: &Error) -> bool {
        match error {
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => self.until().is_some(),
            Error::InvalidPath { .. } => true,
            error => is_final(error),
        }
    }

    fn has_enough(&self) -> bool {
        let now = clock::instant();
        let is_late = self.until().is_some_and(|until| now >= until);
        let is_told = self.stop.load(Ordering::Relaxed) && *self.stopped.get_or_init(|| now) + AFTER_STOP <= now;
        is_late || is_told
    }

    fn until(&self) -> Option<Instant> {
        *self.until.lock().expect("no thread panics while it holds the lock")
    }

    fn availability(&self) -> MutexGuard<'_, Availability> {
        self.availability.lock().expect("no thread panics while it holds the lock")
    }

    /// Notes what came of a request that is not retried here.
    fn note<T>(&self, kind: Kind, result: Result<T>) -> Result<T> {
        match &result {
            Ok(_) => self.availability().answered(kind),
            Err(error) => self.availability().failed(kind, error),
        }
        result
    }

    /// Returns the result of an earlier attempt whose answer was lost, if the object is what that attempt put.
    async fn is_ours(&self, location: &Path, payload: &PutPayload) -> Result<Option<PutResult>> {
        let found = match self.inner.get(location).await {
            Err(Error::NotFound { .. }) => return Ok(None), // whoever came later has deleted it
            found => found?,
        };
        let (e_tag, version) = (found.meta.e_tag.clone(), found.meta.version.clone());
        let is_equal = found.bytes().await? == Bytes::from(payload.clone());
        Ok(is_equal.then_some(PutResult { e_tag, version, extensions: object_store::Extensions::default() }))
    }
}

/// Whether the same request would fail in the same way again.
fn is_final(error: &Error) -> bool {
    matches!(
        error,
        Error::AlreadyExists { .. }
            | Error::Precondition { .. }
            | Error::NotModified { .. }
            | Error::NotFound { .. }
            | Error::NotImplemented { .. }
            | Error::NotSupported { .. }
    )
}

impl fmt::Display for Patient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Patient({})", self.0.inner)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for Patient {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let put = |attempt| {
            let (payload, opts) = (payload.clone(), opts.clone());
            async move {
                let creates = matches!(opts.mode, PutMode::Create);
                let put = self.0.inner.put_opts(location, payload.clone(), opts).await;
                match put {
                    Err(exists @ Error::AlreadyExists { .. }) if creates && attempt > 0 => {
                        self.0.is_ours(location, &payload).await?.ok_or(exists)
                    }
                    put => put,
                }
            }
        };
        self.0.answer(Kind::Write, put).await
    }

    /// The caller retries parts that fail.
    async fn put_multipart_opts(&self, to: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.0.answer(Kind::Write, |_| self.0.inner.put_multipart_opts(to, opts.clone())).await?;
        Ok(Box::new(Upload { inner, waiting: Arc::clone(&self.0) }))
    }

    /// Reads all bytes, so that an outage while they arrive is retried too.
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let get = |_| async {
            let head = options.head;
            let found = self.0.inner.get_opts(location, options.clone()).await?;
            let (meta, range) = (found.meta.clone(), found.range.clone());
            let (attributes, extensions) = (found.attributes.clone(), found.extensions.clone());
            let bytes = if head { Bytes::new() } else { found.bytes().await? };
            let payload = GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed());
            Ok(GetResult { payload, meta, range, attributes, extensions })
        };
        self.0.answer(Kind::Read, get).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.0.answer(Kind::Read, |_| self.0.inner.get_ranges(location, ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let waiting = Arc::clone(&self.0);
        let delete = move |location: Path| {
            let waiting = Arc::clone(&waiting);
            async move {
                let gone = |attempt| {
                    let deleted = waiting.inner.delete(&location);
                    async move {
                        match deleted.await {
                            Err(Error::NotFound { .. }) if attempt > 0 => Ok(()),
                            deleted => deleted,
                        }
                    }
                };
                waiting.answer(Kind::Delete, gone).await?;
                Ok(location)
            }
        };
        locations.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        listed(Arc::clone(&self.0), prefix.cloned(), None)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        listed(Arc::clone(&self.0), prefix.cloned(), Some(offset.clone()))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.answer(Kind::Read, |_| self.0.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.answer(Kind::Write, |_| self.0.inner.copy_opts(from, to, options.clone())).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.0.answer(Kind::Write, |_| self.0.inner.rename_opts(from, to, options.clone())).await
    }
}

/// A write in parts. What comes of them is published; they are not retried here.
#[derive(Debug)]
struct Upload {
    inner: Box<dyn MultipartUpload>,
    waiting: Arc<Waiting>,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (part, waiting) = (self.inner.put_part(data), Arc::clone(&self.waiting));
        async move { waiting.note(Kind::Upload, part.await) }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let completed = self.inner.complete().await;
        self.waiting.note(Kind::Upload, completed)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

/// Lists completely or not at all.
fn listed(waiting: Arc<Waiting>, prefix: Option<Path>, offset: Option<Path>) -> BoxStream<'static, Result<ObjectMeta>> {
    let all = async move {
        let list = |_| match &offset {
            Some(offset) => waiting.inner.list_with_offset(prefix.as_ref(), offset).try_collect::<Vec<_>>(),
            None => waiting.inner.list(prefix.as_ref()).try_collect::<Vec<_>>(),
        };
        let found = waiting.answer(Kind::Read, list).await?;
        Ok::<_, Error>(stream::iter(found.into_iter().map(Ok)))
    };
    stream::once(all).try_flatten().boxed()
}

#[cfg(test)]
mod tests {
    use object_store::local::LocalFileSystem;

    use super::*;
    use crate::state::scripted::Scripted;

    /// A folder that becomes unavailable: a file takes its place.
    struct Place {
        dir: tempfile::TempDir,
        patient: Patient,
        outage: Arc<Outage>,
        stop: Arc<AtomicBool>,
    }

    impl Place {
        fn new(until: Duration) -> Place {
            let dir = tempfile::tempdir().expect("there is a folder for temporary files");
            std::fs::create_dir(dir.path().join("state")).expect("the folder is new");
            let inner = LocalFileSystem::new_with_prefix(dir.path().join("state")).expect("it is there");
            let (outage, stop) = (Arc::<Outage>::default(), Arc::<AtomicBool>::default());
            let patient =
                Patient::new(Arc::new(inner), Arc::clone(&outage), clock::instant() + until, Arc::clone(&stop));
            Place { dir, patient, outage, stop }
        }

        fn go(&self) {
            std::fs::rename(self.dir.path().join("state"), self.dir.path().join("away")).expect("it is there");
            std::fs::write(self.dir.path().join("state"), "").expect("the folder is writable");
        }

        fn come_back(&self) {
            std::fs::remove_file(self.dir.path().join("state")).expect("it is there");
            std::fs::rename(self.dir.path().join("away"), self.dir.path().join("state")).expect("it is there");
        }

        fn path(&self, name: &str) -> std::path::PathBuf {
            self.dir.path().join("away").join(name)
        }
    }

    const LONG: Duration = Duration::from_secs(3600);

    fn create() -> PutOptions {
        PutOptions::from(PutMode::Create)
    }

    #[tokio::test]
    async fn requests_are_retried_during_an_outage_which_is_published() {
        let place = Place::new(LONG);
        let at = Path::from("a/b");
        place.patient.put(&at, "1".into()).await.expect("the folder is there");
        assert_eq!((place.outage.since_ms(), place.outage.retries()), (None, 0));
        place.go();
        let store = place.patient.clone();
        let other = Path::from("a/c");
        let requests = async {
            let got = store.get(&at).await?.bytes().await?;
            store.put_opts(&other, "2".into(), create()).await?;
            store.delete(&at).await?;
            let left: Vec<ObjectMeta> = store.list(None).try_collect().await?;
            Ok::<_, Error>((got, left.len()))
        };
        let mend = async {
            while place.outage.retries() < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert!(place.outage.since_ms().is_some() && place.outage.available_us() == 0);
            place.come_back();
        };
        let (done, ()) = tokio::join!(requests, mend);
        assert_eq!(done.expect("it was retried"), (Bytes::from("1"), 1));
        assert_eq!(place.outage.since_ms(), None);
        assert!(matches!(place.patient.get(&at).await, Err(Error::NotFound { .. })), "a missing object is an answer");
        let exists = place.patient.put_opts(&other, "2".into(), create()).await;
        assert!(
            matches!(exists, Err(Error::AlreadyExists { .. })),
            "at the first attempt the object is another host's"
        );
    }

    #[tokio::test]
    async fn an_object_whose_put_was_answered_too_late_is_not_taken_for_anothers() {
        for (there, is_ours) in [("mine", true), ("yours", false)] {
            let place = Place::new(LONG);
            place.go();
            let store = place.patient.clone();
            let at = Path::from("n");
            let put = store.put_opts(&at, "mine".into(), create());
            let mend = async {
                while place.outage.retries() == 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                std::fs::write(place.path("n"), there).expect("the folder is writable");
                place.come_back();
            };
            let (put, ()) = tokio::join!(put, mend);
            assert_eq!(put.is_ok(), is_ours, "{there}: {put:?}");
        }
    }

    #[tokio::test]
    async fn a_full_disk_is_an_outage_until_what_failed_is_written() {
        let scripted = Arc::new(Scripted::default());
        let outage = Arc::<Outage>::default();
        let until = clock::instant() + LONG;
        let store = Patient::new(Arc::clone(&scripted) as _, Arc::clone(&outage), until, Arc::default());
        let (old, new) = (Path::from("old"), Path::from("new"));
        store.put(&old, "1".into()).await.expect("there is space");
        scripted.is_full.store(true, Ordering::SeqCst);
        let others = async {
            while outage.retries() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let since = outage.since_ms();
            assert!(since.is_some());
            store.get(&old).await.expect("it can be read");
            store.delete(&old).await.expect("it can be deleted");
            assert_eq!(outage.since_ms(), since, "it is the same outage");
            scripted.is_full.store(false, Ordering::SeqCst);
            // Another write succeeds while the first one is still waiting for its next attempt.
            store.put(&old, "2".into()).await.expect("there is space");
            assert_eq!(outage.since_ms(), since, "it is the same outage");
        };
        let (put, ()) = tokio::join!(store.put(&new, "3".into()), others);
        put.expect("it was retried");
        assert_eq!(outage.since_ms(), None);
    }

    #[tokio::test]
    async fn a_request_that_is_given_up_ends_no_outage() {
        let scripted = Arc::new(Scripted::default());
        let outage = Arc::<Outage>::default();
        let until = clock::instant() + LONG;
        let store = Patient::new(Arc::clone(&scripted) as _, Arc::clone(&outage), until, Arc::default());
        let at = Path::from("n");
        scripted.is_full.store(true, Ordering::SeqCst);
        let given_up = tokio::time::timeout(Duration::from_millis(50), store.put(&at, "1".into())).await;
        assert!(given_up.is_err(), "{given_up:?}");
        assert!(matches!(store.get(&at).await, Err(Error::NotFound { .. })));
        assert!(outage.since_ms().is_some());
        scripted.is_full.store(false, Ordering::SeqCst);
        store.put(&at, "1".into()).await.expect("there is space");
        assert_eq!(outage.since_ms(), None);
    }

    #[tokio::test]
    async fn retries_end_with_the_startup_and_soon_after_a_request_to_stop() {
        let place = Place::new(Duration::ZERO);
        place.go();
        let at = Path::from("n");
        place.patient.get(&at).await.expect_err("it is away");
        place.patient.for_ever();
        let waits = tokio::time::timeout(Duration::from_millis(300), place.patient.get(&at)).await;
        assert!(waits.is_err(), "it is retried: {waits:?}");
        place.stop.store(true, Ordering::Relaxed);
        let _ = place.patient.0.stopped.set(clock::instant() - AFTER_STOP);
        place.patient.get(&at).await.expect_err("it is away");
    }
}
