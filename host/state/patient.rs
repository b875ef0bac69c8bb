//! Where state lies, with patience: what does not answer is tried again until it does, as the sinks do it, and others may know of the outage.
//! At the start it has as long as brokers and database have; after an order to stop, a moment.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use slatedb_common::retry::{NonRetryable, should_retry};

use crate::backoff::{Backoff, Outage};
use crate::clock;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long it is waited for after an order to stop: less than a host may take to obey.
const AFTER_STOP: Duration = Duration::from_secs(6);

/// An object store that is waited for.
#[derive(Clone, Debug)]
pub struct Patient(Arc<Waiting>);

#[derive(Debug)]
struct Waiting {
    inner: Arc<dyn ObjectStore>,
    backoff: Mutex<Backoff>,
    /// The end of the start; none once it is over.
    until: Mutex<Option<Instant>>,
    stop: Arc<AtomicBool>,
    stopped: OnceLock<Instant>,
}

impl Patient {
    /// The store `inner`, waited for until then, and for ever after [`Patient::for_ever`]. `outage` is what others know of it.
    pub fn new(inner: Arc<dyn ObjectStore>, outage: Arc<Outage>, until: Instant, stop: Arc<AtomicBool>) -> Patient {
        let backoff = Mutex::new(Backoff::publishing("state.url", outage));
        Patient(Arc::new(Waiting { inner, backoff, until: Mutex::new(Some(until)), stop, stopped: OnceLock::new() }))
    }

    /// The start is over: no outage is too long any more, and lost rights are one.
    pub fn for_ever(&self) {
        *self.0.until.lock().expect("nobody panics while holding it") = None;
    }
}

impl Waiting {
    /// Makes the request until it is answered. Which of its answers are none is [`Waiting::is_answer`]'s.
    async fn answer<T, F: Future<Output = Result<T>>>(&self, mut request: impl FnMut(u32) -> F) -> Result<T> {
        let (mut pause, mut attempt) = (FIRST_PAUSE, 0);
        loop {
            let error = match request(attempt).await {
                Err(error) if !self.is_answer(&error) => error,
                answer => {
                    self.backoff().over();
                    return answer;
                }
            };
            self.backoff().warn(&error);
            if self.has_enough() {
                // The databases would repeat it by themselves, for ever.
                return Err(Error::Generic { store: "state", source: Box::new(NonRetryable(Box::new(error))) });
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            attempt += 1;
        }
    }

    /// Whether the store has said something, and not merely failed. At the start a refusal of rights is an operator's mistake.
    fn is_answer(&self, error: &Error) -> bool {
        match error {
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => self.until().is_some(),
            Error::InvalidPath { .. } => true,
            error => !should_retry(error),
        }
    }

    fn has_enough(&self) -> bool {
        let now = clock::instant();
        let is_late = self.until().is_some_and(|until| now >= until);
        let is_told = self.stop.load(Ordering::Relaxed) && *self.stopped.get_or_init(|| now) + AFTER_STOP <= now;
        is_late || is_told
    }

    fn until(&self) -> Option<Instant> {
        *self.until.lock().expect("nobody panics while holding it")
    }

    fn backoff(&self) -> std::sync::MutexGuard<'_, Backoff> {
        self.backoff.lock().expect("nobody panics while holding it")
    }

    /// After an attempt whose answer was lost, what is there may be what that attempt put.
    async fn is_ours(&self, location: &Path, payload: &PutPayload) -> Result<Option<PutResult>> {
        let found = self.inner.get(location).await?;
        let (e_tag, version) = (found.meta.e_tag.clone(), found.meta.version.clone());
        let is_equal = found.bytes().await? == Bytes::from(payload.clone());
        Ok(is_equal.then_some(PutResult { e_tag, version, extensions: object_store::Extensions::default() }))
    }
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
        self.0.answer(put).await
    }

    /// Parts that fail are the caller's to repeat.
    async fn put_multipart_opts(&self, to: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.0.answer(|_| self.0.inner.put_multipart_opts(to, opts.clone())).await
    }

    /// With its bytes: an outage in the middle of them is waited for too.
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
        self.0.answer(get).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.0.answer(|_| self.0.inner.get_ranges(location, ranges)).await
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
                waiting.answer(gone).await?;
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
        self.0.answer(|_| self.0.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.answer(|_| self.0.inner.copy_opts(from, to, options.clone())).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.0.answer(|_| self.0.inner.rename_opts(from, to, options.clone())).await
    }
}

/// A listing, whole or not at all.
fn listed(waiting: Arc<Waiting>, prefix: Option<Path>, offset: Option<Path>) -> BoxStream<'static, Result<ObjectMeta>> {
    let all = async move {
        let list = |_| match &offset {
            Some(offset) => waiting.inner.list_with_offset(prefix.as_ref(), offset).try_collect::<Vec<_>>(),
            None => waiting.inner.list(prefix.as_ref()).try_collect::<Vec<_>>(),
        };
        let found = waiting.answer(list).await?;
        Ok::<_, Error>(stream::iter(found.into_iter().map(Ok)))
    };
    stream::once(all).try_flatten().boxed()
}

#[cfg(test)]
mod tests {
    use object_store::local::LocalFileSystem;

    use super::*;

    /// A folder that goes away when a file stands where it stood.
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
    async fn an_outage_is_waited_for_and_others_know_of_it() {
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
        assert_eq!(done.expect("it was waited for"), (Bytes::from("1"), 1));
        assert_eq!(place.outage.since_ms(), None);
        assert!(matches!(place.patient.get(&at).await, Err(Error::NotFound { .. })), "what is not there is an answer");
        let exists = place.patient.put_opts(&other, "2".into(), create()).await;
        assert!(matches!(exists, Err(Error::AlreadyExists { .. })), "at the first attempt it is another's");
    }

    #[tokio::test]
    async fn what_a_lost_answer_put_is_not_taken_for_another_s() {
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
    async fn nobody_waits_past_the_start_or_long_after_an_order_to_stop() {
        let place = Place::new(Duration::ZERO);
        place.go();
        let at = Path::from("n");
        let error = place.patient.get(&at).await.expect_err("it is away");
        assert!(!should_retry(&error), "{error}");
        place.patient.for_ever();
        let waits = tokio::time::timeout(Duration::from_millis(300), place.patient.get(&at)).await;
        assert!(waits.is_err(), "it is waited for: {waits:?}");
        place.stop.store(true, Ordering::Relaxed);
        let _ = place.patient.0.stopped.set(clock::instant() - AFTER_STOP);
        place.patient.get(&at).await.expect_err("it is away");
    }
}
