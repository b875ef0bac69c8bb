//! A chain: numbered objects under one path, each written once and holding the digest of the one before. Whoever writes the next link owns the
//! chain, so of two hosts that both believe they do, one finds the place taken (I8). Owns how links are named, found, verified and deleted; what
//! a link says is its user's.
//!
//! An owner begins with a link of its own, a claim. A claim lies exactly where its predecessor would write next, so claims are not deleted
//! while others are: however late a former owner wakes up, it finds one in its way.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::machine;
use crate::state::database::Error;

/// The format of links.
const FORMAT: u32 = 1;
/// Claims that are kept. A host that slept through as many takeovers would go unnoticed.
const KEPT_CLAIMS: usize = 256;
/// Links that are read at the same time.
const READS: usize = 16;
/// How often a chain is looked at again whose links were deleted by its owner while they were read.
const LOOKS: u32 = 16;

/// One link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number; the first is 1.
    pub number: u64,
    /// Whether `body` says all that the links before it say, so that those are no longer needed.
    pub is_whole: bool,
    /// What it says. Empty in a claim that says nothing.
    pub body: Bytes,
}

/// The first line of a link, as JSON. Its body follows.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Header {
    format: u32,
    /// A random name of its owner, so that no two hosts write the same bytes.
    owner: String,
    #[serde(default, skip_serializing_if = "is_false")]
    claim: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    whole: bool,
    /// The SHA-256 of the link before, in hexadecimal; empty in the first.
    before: String,
    /// The numbers of the last claims; in whole links and claims.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    claims: Vec<u64>,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// A chain and its owner's place in it.
#[derive(Debug)]
pub struct Chain {
    objects: Arc<dyn ObjectStore>,
    path: String,
    owner: String,
    /// The number of the next link.
    next: u64,
    /// The digest of the last one.
    digest: String,
    claims: Vec<u64>,
    /// The links that are there, without the kept claims.
    there: BTreeSet<u64>,
    /// The last whole link, if there is one.
    whole: Option<u64>,
}

/// What is read of a chain.
#[derive(Debug, Default)]
struct Found {
    /// From the last whole link on, or from the beginning.
    links: Vec<Link>,
    digest: String,
    claims: Vec<u64>,
    /// All numbers.
    there: BTreeSet<u64>,
}

impl Chain {
    /// Reads the chain at `path` and makes this host its owner, with a claim that says `claim(links)`: a whole body, or none. `links` are those from
    /// the last whole one on, oldest first.
    pub async fn claim(
        objects: &Arc<dyn ObjectStore>,
        path: &str,
        mut claim: impl FnMut(&[Link]) -> Result<Option<Bytes>, Error>,
    ) -> Result<(Chain, Vec<Link>), Error> {
        loop {
            let found = find(objects, path).await?;
            let body = claim(&found.links)?;
            let last = found.there.last().copied().unwrap_or_default();
            let mut chain = Chain {
                objects: Arc::clone(objects),
                path: path.to_owned(),
                owner: format!("{:016x}", machine::random()),
                next: last + 1,
                digest: found.digest,
                claims: found.claims,
                there: found.there,
                whole: found.links.first().filter(|link| link.is_whole).map(|link| link.number),
            };
            chain.claims.push(chain.next);
            let first = chain.claims.len().saturating_sub(KEPT_CLAIMS);
            chain.claims.drain(..first);
            match chain.put(true, body.is_some(), body.unwrap_or_default()).await {
                Err(Error::Fenced(_)) => {} // another host has written meanwhile
                put => return put.map(|()| (chain, found.links)),
            }
        }
    }

    /// Reads the links from the last whole one on, beside the owner.
    pub async fn read(objects: &Arc<dyn ObjectStore>, path: &str) -> Result<Vec<Link>, Error> {
        find(objects, path).await.map(|found| found.links)
    }

    /// Writes the next link; a whole one says all that the chain says. Durable on return. Fails with [`Error::Fenced`] if another host has claimed the
    /// chain; after any other failure it is unknown whether it was written, and the chain must be claimed again.
    pub async fn append(&mut self, is_whole: bool, body: Bytes) -> Result<(), Error> {
        self.put(false, is_whole, body).await
    }

    async fn put(&mut self, is_claim: bool, is_whole: bool, body: Bytes) -> Result<(), Error> {
        let claims = if is_claim || is_whole { self.claims.clone() } else { Vec::new() };
        let (owner, before) = (self.owner.clone(), self.digest.clone());
        let header = Header { format: FORMAT, owner, claim: is_claim, whole: is_whole, before, claims };
        let mut bytes = serde_json::to_vec(&header).expect("plain data becomes JSON");
        bytes.push(b'\n');
        bytes.extend_from_slice(&body);
        let (digest, location) = (digest(&bytes), location(&self.path, self.next));
        match self.objects.put_opts(&location, PutPayload::from(bytes), PutMode::Create.into()).await {
            Ok(_) => {}
            Err(StoreError::AlreadyExists { .. }) => return Err(Error::Fenced(self.path.clone())),
            Err(error) => return Err(outside(&self.path, &error)),
        }
        self.digest = digest;
        if !is_claim {
            self.there.insert(self.next);
        }
        if is_whole {
            self.whole = Some(self.next);
        }
        self.next += 1;
        Ok(())
    }

    /// Fails with [`Error::Fenced`] if another host has claimed the chain since this one wrote to it.
    pub async fn check_ownership(&self) -> Result<(), Error> {
        match self.objects.head(&location(&self.path, self.next)).await {
            Ok(_) => Err(Error::Fenced(self.path.clone())),
            Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(outside(&self.path, &error)),
        }
    }

    /// The number of links that are not needed any more.
    pub fn superfluous(&self) -> usize {
        self.whole.map_or(0, |whole| self.there.range(..whole).count())
    }

    /// Deletes the links before the last whole one, but not the last claims.
    pub async fn prune(&mut self) -> Result<(), Error> {
        let Some(whole) = self.whole else { return Ok(()) };
        let kept: BTreeSet<u64> = self.claims.iter().copied().collect();
        let needless: Vec<u64> = self.there.range(..whole).copied().filter(|number| !kept.contains(number)).collect();
        let paths: Vec<_> = needless.iter().map(|&number| Ok(location(&self.path, number))).collect();
        let deleted = self.objects.delete_stream(stream::iter(paths).boxed());
        let gone = |e| if matches!(e, StoreError::NotFound { .. }) { Ok(()) } else { Err(outside(&self.path, &e)) };
        deleted.map(|deleted| deleted.map(drop).or_else(gone)).try_collect::<()>().await?;
        self.there = self.there.split_off(&whole);
        Ok(())
    }

    /// The path.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The number of the last link.
    pub fn last(&self) -> u64 {
        self.next - 1
    }
}

fn location(path: &str, number: u64) -> Path {
    Path::from(format!("{path}/{number:020}"))
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn outside(path: &str, error: &StoreError) -> Error {
    Error::Outside(format!("state.url: cannot read or write {path}: {error}"))
}

/// Reads a chain. Its owner may delete links meanwhile, once newer ones make them needless.
async fn find(objects: &Arc<dyn ObjectStore>, path: &str) -> Result<Found, Error> {
    let mut looks = 0;
    loop {
        let there = numbers(objects, path).await?;
        match read_back(objects, path, &there).await? {
            Read::All(links, digest, claims) => return Ok(Found { links, digest, claims, there }),
            Read::Deleted(number) if looks == LOOKS => return Err(missing(path, number)),
            Read::Deleted(_) => looks += 1,
        }
    }
}

async fn numbers(objects: &Arc<dyn ObjectStore>, path: &str) -> Result<BTreeSet<u64>, Error> {
    let mut found = objects.list(Some(&Path::from(path)));
    let mut numbers = BTreeSet::new();
    while let Some(object) = found.next().await.transpose().map_err(|e| outside(path, &e))? {
        let name = object.location.filename().and_then(|name| name.parse::<u64>().ok());
        numbers.extend(name.filter(|&number| object.location == location(path, number)));
    }
    Ok(numbers)
}

enum Read {
    /// The links that count, the digest of the last one, and the claims.
    All(Vec<Link>, String, Vec<u64>),
    /// This one is not there any more.
    Deleted(u64),
}

/// Reads links from the last one back to a whole one, and checks that each is the one that its successor followed.
async fn read_back(objects: &Arc<dyn ObjectStore>, path: &str, there: &BTreeSet<u64>) -> Result<Read, Error> {
    let (mut links, mut claims, mut last_digest) = (Vec::new(), Vec::new(), String::new());
    let mut expected: Option<(u64, String)> = None; // the number and digest of the link to come
    let ahead = stream::iter(there.iter().rev().copied()).map(|number| async move {
        let got = match objects.get(&location(path, number)).await {
            Ok(got) => got.bytes().await,
            Err(error) => Err(error),
        };
        (number, got)
    });
    let mut ahead = ahead.buffered(READS);
    while let Some((number, got)) = ahead.next().await {
        let bytes = match got {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => return Ok(Read::Deleted(number)),
            Err(error) => return Err(outside(path, &error)),
        };
        let digest = digest(&bytes);
        match &expected {
            None => last_digest.clone_from(&digest),
            Some((wanted, _)) if *wanted != number => return Ok(Read::Deleted(*wanted)),
            Some((_, of)) if *of != digest => return Err(damaged(path, number, "it is not the one that was followed")),
            Some(_) => {}
        }
        let (header, body) = parse(path, number, &bytes)?;
        if claims.is_empty() {
            claims = header.claims;
        }
        links.push(Link { number, is_whole: header.whole, body });
        if header.whole || header.before.is_empty() {
            links.reverse();
            return Ok(Read::All(links, last_digest, claims));
        }
        expected = Some((number - 1, header.before));
    }
    match expected {
        None => Ok(Read::All(links, last_digest, claims)), // there is no link at all
        Some((number, _)) => Ok(Read::Deleted(number)),
    }
}

fn parse(path: &str, number: u64, bytes: &Bytes) -> Result<(Header, Bytes), Error> {
    let end = memchr::memchr(b'\n', bytes).ok_or_else(|| damaged(path, number, "it is incomplete"))?;
    let header: Header =
        serde_json::from_slice(&bytes[..end]).map_err(|e| damaged(path, number, &format!("its first line: {e}")))?;
    if header.format != FORMAT {
        let why =
            format!("it has format {}, and this version reads format {FORMAT}; run a newer keyfold", header.format);
        return Err(damaged(path, number, &why));
    }
    Ok((header, bytes.slice(end + 1..)))
}

/// The body of a link of any bytes.
#[cfg(any(fuzzing, test))]
pub(super) fn body_of(bytes: &Bytes) -> Result<Bytes, Error> {
    parse("fuzz", 1, bytes).map(|(_, body)| body)
}

fn damaged(path: &str, number: u64, why: &str) -> Error {
    Error::Unreadable(format!("state.url: cannot read {}: {why}", location(path, number)))
}

fn missing(path: &str, number: u64) -> Error {
    Error::Unreadable(format!(
        "state.url: {} is missing, which later files of {path} follow: put it back from a copy",
        location(path, number)
    ))
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    const PATH: &str = "log/lanes/0";

    fn store() -> Arc<dyn ObjectStore> {
        Arc::new(InMemory::new())
    }

    async fn claim(objects: &Arc<dyn ObjectStore>) -> (Chain, Vec<String>) {
        let (chain, links) = Chain::claim(objects, PATH, |_| Ok(None)).await.expect("it is readable");
        (chain, said(&links))
    }

    fn said(links: &[Link]) -> Vec<String> {
        let said = links.iter().map(|link| String::from_utf8_lossy(&link.body).into_owned());
        said.filter(|said| !said.is_empty()).collect()
    }

    async fn say(chain: &mut Chain, what: &'static str) -> Result<(), Error> {
        chain.append(false, Bytes::from_static(what.as_bytes())).await
    }

    #[tokio::test]
    async fn what_was_written_is_read_in_order_and_from_the_last_whole_link_on() {
        let objects = store();
        let (mut chain, before) = claim(&objects).await;
        assert!(before.is_empty());
        say(&mut chain, "a").await.expect("it owns the chain");
        say(&mut chain, "b").await.expect("it owns the chain");
        assert_eq!(said(&Chain::read(&objects, PATH).await.expect("it is readable")), ["a", "b"]);
        chain.append(true, Bytes::from_static(b"ab")).await.expect("it owns the chain");
        say(&mut chain, "c").await.expect("it owns the chain");
        assert_eq!(claim(&objects).await.1, ["ab", "c"]);
    }

    #[tokio::test]
    async fn i8_a_former_owner_finds_a_claim_in_its_way_however_late_it_wakes() {
        let objects = store();
        let (mut former, _) = claim(&objects).await;
        say(&mut former, "a").await.expect("it owns the chain");
        for _ in 0..3 {
            let (mut owner, _) = claim(&objects).await;
            for _ in 0..4 {
                owner.append(true, Bytes::from_static(b"all")).await.expect("it owns the chain");
            }
            owner.prune().await.expect("it can delete");
        }
        assert!(matches!(former.check_ownership().await, Err(Error::Fenced(_))));
        assert!(matches!(say(&mut former, "b").await, Err(Error::Fenced(_))));
        assert_eq!(said(&Chain::read(&objects, PATH).await.expect("it is readable")), ["all"]);
    }

    #[tokio::test]
    async fn the_links_before_a_whole_one_are_deleted_but_for_claims() {
        let objects = store();
        drop(claim(&objects).await);
        let (mut chain, _) = claim(&objects).await;
        for what in ["a", "b", "c"] {
            say(&mut chain, what).await.expect("it owns the chain");
        }
        chain.append(true, Bytes::from_static(b"abc")).await.expect("it owns the chain");
        assert_eq!(chain.superfluous(), 4);
        chain.prune().await.expect("it can delete");
        let left = numbers(&objects, PATH).await.expect("they are listed");
        assert_eq!(left.into_iter().collect::<Vec<_>>(), [1, 2, 6], "two claims, and the whole link");
        chain.check_ownership().await.expect("it owns the chain");
    }

    #[tokio::test]
    async fn a_link_that_is_missing_or_was_changed_is_refused() {
        for (number, bytes, why) in [
            (2, None, "00000000000000000002 is missing"),
            (2, Some("{\"format\":1,\"owner\":\"x\",\"before\":\"\"}\na"), "it is not the one that was followed"),
            (3, Some("{\"format\":2,\"owner\":\"x\",\"before\":\"\"}\nb"), "run a newer keyfold"),
            (3, Some("{\"format\":1"), "it is incomplete"),
            (3, Some("nothing\n"), "its first line"),
        ] {
            let objects = store();
            let (mut chain, _) = claim(&objects).await;
            say(&mut chain, "a").await.expect("it owns the chain");
            say(&mut chain, "b").await.expect("it owns the chain");
            match bytes {
                Some(bytes) => drop(objects.put(&location(PATH, number), bytes.into()).await.expect("it is memory")),
                None => objects.delete(&location(PATH, number)).await.expect("it is there"),
            }
            let error = Chain::read(&objects, PATH).await.expect_err("it is refused").to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
