//! An object store in memory for tests, which counts what is read and fails as it is told.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// The store.
#[derive(Debug, Default)]
pub(super) struct Scripted {
    inner: InMemory,
    /// The number of reads so far.
    pub(super) reads: AtomicU64,
    /// The number of writes so far.
    pub(super) puts: AtomicU64,
    /// The number of deleted objects so far.
    pub(super) deletes: AtomicU64,
    /// Whether writes fail, as on a full disk.
    pub(super) is_full: AtomicBool,
    /// How a write fails, and how many succeed before.
    fault: Mutex<Option<(u64, Fault)>>,
}

/// How a write fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It has no effect.
    Lost,
    /// It has its effect, and its answer is lost.
    AnswerLost,
    /// Its answer is lost, and the client repeats it without being told to, so that the answer is that of the second attempt.
    Repeated,
}

impl Scripted {
    /// Lets one write fail, after so many others.
    pub(super) fn fail_put(&self, after: u64, fault: Fault) {
        *self.fault.lock().expect("nobody panics while holding it") = Some((after, fault));
    }

    /// Whether the present write fails, and how.
    fn fault(&self) -> Option<Fault> {
        let mut planned = self.fault.lock().expect("nobody panics while holding it");
        match planned.as_mut() {
            Some((0, fault)) => {
                let fault = *fault;
                *planned = None;
                Some(fault)
            }
            Some((after, _)) => {
                *after -= 1;
                None
            }
            None => None,
        }
    }

    fn check_space(&self) -> Result<()> {
        let full = || Error::Generic { store: "scripted", source: "no space left on device".into() };
        if self.is_full.load(Ordering::SeqCst) { Err(full()) } else { Ok(()) }
    }
}

impl fmt::Display for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scripted")
    }
}

#[async_trait]
impl ObjectStore for Scripted {
    async fn put_opts(&self, to: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.check_space()?;
        self.puts.fetch_add(1, Ordering::SeqCst);
        let no_answer = || Error::Generic { store: "scripted", source: "no answer".into() };
        let fault = self.fault();
        if fault == Some(Fault::Lost) {
            return Err(no_answer());
        }
        let put = self.inner.put_opts(to, payload.clone(), options.clone()).await;
        match fault {
            Some(Fault::AnswerLost) => Err(no_answer()),
            Some(Fault::Repeated) => self.inner.put_opts(to, payload, options).await,
            _ => put,
        }
    }

    async fn put_multipart_opts(&self, to: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.check_space()?;
        self.inner.put_multipart_opts(to, options).await
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.inner.get_opts(from, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.deletes.fetch_add(1, Ordering::SeqCst);
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.check_space()?;
        self.inner.copy_opts(from, to, options).await
    }
}
