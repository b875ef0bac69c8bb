//! The store of objects as one host sees it: requests take time, are lost, or have their effect without an answer.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use keyfold::machine::Planted;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::journals::Journals;
use crate::scheduler::Process;
use crate::states::States;
use crate::table::Table;
use crate::world::{Fault, Letters, Trouble};

/// Where lanes reserve.
const RESERVATIONS: &str = "log/reservations/";

/// The store as one host sees it.
pub(crate) struct SeenObjects {
    pub(crate) inner: Arc<InMemory>,
    pub(crate) journals: Arc<Journals>,
    /// How many reservations were begun.
    pub(crate) reserving: Arc<AtomicUsize>,
    pub(crate) process: Arc<Process>,
    pub(crate) trouble: Trouble,
    /// What manifests of lanes are held against.
    pub(crate) states: Arc<States>,
    pub(crate) table: Arc<Table>,
    pub(crate) letters: Arc<Letters>,
}

/// Whether a lane's manifests are there.
fn is_manifest(location: &Path) -> bool {
    let parts: Vec<_> = location.parts().collect();
    matches!(&parts[..], [lanes, _, manifests, _] if lanes.as_ref() == "lanes" && manifests.as_ref() == "manifests")
}

impl fmt::Debug for SeenObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SeenObjects")
    }
}

impl fmt::Display for SeenObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated objects")
    }
}

/// What is not retried: the host is gone.
fn gone() -> Error {
    Error::InvalidPath { source: object_store::path::Error::EmptySegment { path: "the host was killed".into() } }
}

fn failed(what: &str) -> Error {
    Error::Generic { store: "simulated", source: what.to_owned().into() }
}

impl SeenObjects {
    /// Waits as a request does; whether and how it fails.
    fn begin(&self) -> Result<Fault> {
        self.wait();
        self.process.step();
        if self.process.is_dead() { Err(gone()) } else { Ok(Fault::pick(&self.process, self.trouble.faults)) }
    }

    /// Waits for as long as a request takes to get there, or its answer to come back.
    fn wait(&self) {
        self.process.wait_a_moment();
        self.dawdle(self.trouble.slow);
    }

    /// Waits long, so many times of a hundred.
    fn dawdle(&self, percent: u64) {
        if self.process.below(100) < percent {
            self.process.wait(Duration::from_millis(self.process.below(1_500)));
        }
    }

    /// Waits for the answer.
    fn end<T>(&self, fault: Fault, result: Result<T>) -> Result<T> {
        self.process.step();
        self.wait();
        if self.process.is_dead() {
            return Err(gone());
        }
        if fault == Fault::AnswerLost { Err(failed("the answer was lost")) } else { result }
    }
}

#[async_trait]
impl ObjectStore for SeenObjects {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        if location.as_ref().starts_with(RESERVATIONS) {
            self.reserving.fetch_add(1, Ordering::SeqCst);
            self.dawdle(self.trouble.slow_reservations);
        }
        let fault = self.begin()?;
        self.process.note(&format!("puts {}: {fault:?}", shown(location)));
        if fault == Fault::Lost {
            return Err(failed("the request was lost"));
        }
        let bytes = Bytes::from(payload.clone());
        let put = match self.inner.put_opts(location, payload, opts).await {
            // Two hosts that both believe.
            Err(Error::AlreadyExists { .. })
                if is_manifest(location) && self.process.is_planted(Planted::NoFencing) =>
            {
                Ok(PutResult { e_tag: None, version: None, extensions: object_store::Extensions::default() })
            }
            put => put,
        };
        if put.is_ok() {
            self.journals.put(location, &bytes, &self.process);
            if is_manifest(location) && self.states.check_manifest(&self.process, &bytes, (&self.table, &self.letters))
            {
                self.journals.note_opening();
            }
        }
        self.end(fault, put)
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(failed("nothing is uploaded in parts"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.begin()?;
        if fault == Fault::Lost {
            return Err(failed("the request was lost"));
        }
        let got = self.inner.get_opts(location, options).await;
        self.end(fault, got)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.begin() {
            Err(error) => stream::once(async { Err(error) }).boxed(),
            Ok(Fault::Lost) => stream::once(async { Err(failed("the request was lost")) }).boxed(),
            Ok(_) => self.inner.delete_stream(locations),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.begin() {
            Err(error) => stream::once(async { Err(error) }).boxed(),
            Ok(Fault::None) => {
                let listed = self.inner.list(prefix);
                self.wait();
                listed
            }
            Ok(_) => stream::once(async { Err(failed("the request was lost")) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(failed("nothing is copied"))
    }
}

/// The greatest append time up to which lanes have reserved, ms.
pub(crate) async fn reserved_ms(objects: &InMemory) -> Option<i64> {
    let all: Vec<_> = objects.list(Some(&Path::from(RESERVATIONS))).try_collect().await.ok()?;
    let mut greatest = None;
    for object in all {
        let bytes = objects.get(&object.location).await.ok()?.bytes().await.ok()?;
        let reservation: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
        greatest = greatest.max(reservation["until"].as_i64());
    }
    greatest
}

/// A path without the names that are random.
fn shown(location: &Path) -> String {
    let path = location.to_string();
    match path.strip_prefix(RESERVATIONS).and_then(|rest| rest.split_once('/')) {
        Some((lane, _)) => format!("{RESERVATIONS}{lane}"),
        None => path,
    }
}
