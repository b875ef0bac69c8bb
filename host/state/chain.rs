//! A chain: numbered objects under one path, each written once and holding the digest of the one before. Whoever writes the next link owns the
//! chain, so of two hosts that both believe they do, one finds the place taken (I8). Owns how links are named, found, verified and deleted; what
//! a link says is its user's.
//!
//! An owner begins with a link of its own, a claim. A claim lies exactly where its predecessor would write next, so claims are not deleted
//! while others are: however late a former owner wakes up, it finds one in its way. A host that has looked for the end of a chain long ago may
//! write its claim where a link was deleted meanwhile. Later links are there then, so it looks once more, and such a claim counts for nothing.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use twox_hash::XxHash3_64;

use crate::machine::{self, Planted, plants};
use crate::state::database::Error;

/// Folders that SlateDB makes, which earlier builds used.
const FORMER: [&str; 3] = ["manifest", "wal", "compacted"];
/// The format of links.
const FORMAT: u32 = 1;
/// Claims that are kept. A host that slept through as many takeovers would go unnoticed.
const KEPT_CLAIMS: usize = 256;
/// Links that are read at the same time.
const READS: usize = 32;
/// Links that are read at the same time by a host that follows the owner of a chain, to take it over.
const FOLLOWED: usize = 4;
/// Why a link is refused whose successor holds another digest.
const NOT_FOLLOWED: &str = "it is not the one that was followed";
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
    /// The XXH3 of this line without it and of the body, in hexadecimal: nothing else tells of damage to the last link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    check: Option<String>,
}

impl Header {
    /// Its first line, with the check of itself and of the body.
    fn line(&self, body: &[u8]) -> Vec<u8> {
        let json = |header: &Header| {
            let mut line = serde_json::to_vec(header).expect("plain data becomes JSON");
            line.push(b'\n');
            line
        };
        let mut checked = Header { check: None, ..self.clone() };
        checked.check = Some(format!("{:016x}", XxHash3_64::oneshot(&[&json(&checked)[..], body].concat())));
        json(&checked)
    }
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
    /// The links that are there. Those of this owner's that are claims do not count.
    there: BTreeSet<u64>,
    /// The last whole link, if there is one.
    whole: Option<u64>,
}

/// Links that nobody needs any more.
#[derive(Debug)]
pub struct Needless {
    objects: Arc<dyn ObjectStore>,
    path: String,
    numbers: Vec<u64>,
}

impl Needless {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.numbers.len()
    }

    /// Deletes them. What is left after a failure is needless to the next owner too.
    pub async fn delete(self) -> Result<(), Error> {
        let paths: Vec<_> = self.numbers.iter().map(|&number| Ok(location(&self.path, number))).collect();
        let deleted = self.objects.delete_stream(stream::iter(paths).boxed());
        let gone = async |deleted: Result<Path, StoreError>| match deleted {
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(outside(&self.path, &error)),
        };
        deleted.then(gone).try_collect::<()>().await
    }
}

/// What is read of a chain.
#[derive(Debug, Default)]
struct Found {
    /// From the last whole link on, or from the beginning.
    links: Vec<Link>,
    /// The number of the last one; 0 if there is none.
    last: u64,
    digest: String,
    claims: Vec<u64>,
    /// The numbers of all links, claims included.
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
        let mut found = find(objects, path).await?;
        loop {
            let body = claim(&found.links)?;
            let next = found.last + 1;
            found.claims.push(next);
            let first = found.claims.len().saturating_sub(KEPT_CLAIMS);
            let mut chain = Chain {
                objects: Arc::clone(objects),
                path: path.to_owned(),
                owner: format!("{:016x}", machine::random()),
                next,
                digest: found.digest.clone(),
                claims: found.claims[first..].to_vec(),
                there: found.there.clone(),
                whole: found.links.first().filter(|link| link.is_whole).map(|link| link.number),
            };
            match chain.put(true, body.is_some(), body.unwrap_or_default()).await {
                Ok(()) if plants(Planted::ClaimUnchecked) || chain.is_at_the_end().await? => {
                    return Ok((chain, found.links));
                }
                Ok(()) => {
                    found = find(objects, path).await?;
                    if found.links.iter().any(|link| link.number == next) {
                        return Err(Error::Fenced(path.to_owned()));
                    }
                }
                // Another host has written meanwhile. Only what is new is read: it may write all the time, and would be ahead again after a longer look.
                Err(Error::Fenced(_)) => {
                    found.claims.pop();
                    if !found.follow(objects, path).await? {
                        found = find(objects, path).await?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Begins a chain with a body that says all, for an owner that is to come. Fails with [`Error::Fenced`] if there is one.
    pub(super) async fn copy(objects: &Arc<dyn ObjectStore>, path: &str, body: Bytes) -> Result<(), Error> {
        let is_empty = |links: &[Link]| match links {
            [] => Ok(Some(body.clone())),
            _ => Err(Error::Fenced(path.to_owned())),
        };
        Chain::claim(objects, path, is_empty).await.map(drop)
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
        let header = Header { format: FORMAT, owner, claim: is_claim, whole: is_whole, before, claims, check: None };
        let mut bytes = header.line(&body);
        bytes.extend_from_slice(&body);
        let (digest, location, bytes) = (digest(&bytes), location(&self.path, self.next), Bytes::from(bytes));
        match self.objects.put_opts(&location, PutPayload::from(bytes.clone()), PutMode::Create.into()).await {
            Ok(_) => {}
            // The client of a bucket retries by itself, and may meet what its lost attempt has written. No other host writes the same bytes.
            Err(StoreError::AlreadyExists { .. }) if self.is_there(&location, &bytes).await? => {}
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

    /// Whether no link follows the last one of this host. A claim that another one follows lies where a link was deleted, or was followed by
    /// another claim since.
    async fn is_at_the_end(&self) -> Result<bool, Error> {
        let mut later =
            self.objects.list_with_offset(Some(&Path::from(&*self.path)), &location(&self.path, self.next - 1));
        while let Some(object) = later.next().await.transpose().map_err(|e| outside(&self.path, &e))? {
            if number_of(&self.path, &object.location).is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether an object is there, with these bytes.
    async fn is_there(&self, location: &Path, bytes: &Bytes) -> Result<bool, Error> {
        match read(&self.objects, location).await {
            Ok(found) => Ok(found == *bytes),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(error) => Err(outside(&self.path, &error)),
        }
    }

    /// Fails with [`Error::Fenced`] if another host has claimed the chain since this one wrote to it.
    pub async fn check_ownership(&self) -> Result<(), Error> {
        self.ownership().await
    }

    /// The question of [`Chain::check_ownership`], to be asked beside the owner.
    pub fn ownership(&self) -> impl Future<Output = Result<(), Error>> + Send + 'static {
        let (objects, path, next) = (Arc::clone(&self.objects), self.path.clone(), location(&self.path, self.next));
        async move {
            match objects.head(&next).await {
                Ok(_) => Err(Error::Fenced(path)),
                Err(StoreError::NotFound { .. }) => Ok(()),
                Err(error) => Err(outside(&path, &error)),
            }
        }
    }

    /// Hands over the links that nobody needs any more: those before the last whole one, without the last claims.
    pub fn needless(&mut self) -> Needless {
        let kept: BTreeSet<u64> = self.claims.iter().copied().collect();
        let whole = self.whole.unwrap_or_default();
        let numbers = self.there.range(..whole).copied().filter(|number| !kept.contains(number)).collect();
        self.there = self.there.split_off(&whole);
        Needless { objects: Arc::clone(&self.objects), path: self.path.clone(), numbers }
    }

    /// Deletes the links that nobody needs any more.
    pub async fn prune(&mut self) -> Result<(), Error> {
        self.needless().delete().await
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

/// The number of the link that lies there.
fn number_of(path: &str, at: &Path) -> Option<u64> {
    at.filename()?.parse().ok().filter(|&number| *at == location(path, number))
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn outside(path: &str, error: &StoreError) -> Error {
    Error::Outside(format!("state.url: cannot read or write {path}: {error}"))
}

async fn read(objects: &Arc<dyn ObjectStore>, location: &Path) -> Result<Bytes, StoreError> {
    objects.get(location).await?.bytes().await
}

impl Found {
    /// Takes in the links that another host has written since. Returns whether there are any, and nothing is missing between them; otherwise links were
    /// deleted meanwhile.
    async fn follow(&mut self, objects: &Arc<dyn ObjectStore>, path: &str) -> Result<bool, Error> {
        let before = self.last;
        let ahead = stream::iter(before + 1..).map(|number| async move {
            let got = read(objects, &location(path, number)).await;
            (number, got)
        });
        let mut ahead = pin!(ahead.buffered(FOLLOWED));
        while let Some((number, got)) = ahead.next().await {
            let bytes = match got {
                Ok(bytes) => bytes,
                Err(StoreError::NotFound { .. }) => break,
                Err(error) => return Err(outside(path, &error)),
            };
            let (header, body) = parse(path, number, &bytes)?;
            if header.before != self.digest {
                return Ok(false); // the one before is a claim that counts for nothing
            }
            if header.whole {
                self.links.clear();
            }
            if !header.claims.is_empty() {
                self.claims = header.claims;
            }
            self.links.push(Link { number, is_whole: header.whole, body });
            self.there.insert(number);
            (self.last, self.digest) = (number, digest(&bytes));
        }
        Ok(self.last > before)
    }
}

/// Reads a chain. Its owner may delete links meanwhile, once newer ones make them needless.
async fn find(objects: &Arc<dyn ObjectStore>, path: &str) -> Result<Found, Error> {
    let mut looks = 0;
    loop {
        let there = numbers(objects, path).await?;
        match read_back(objects, path, &there).await? {
            Read::All(links, digest, claims) => {
                let last = there.last().copied().unwrap_or_default();
                return Ok(Found { links, last, digest, claims, there });
            }
            Read::Deleted(number) if looks == LOOKS => return Err(missing(path, number)),
            Read::Deleted(_) => looks += 1,
        }
    }
}

async fn numbers(objects: &Arc<dyn ObjectStore>, path: &str) -> Result<BTreeSet<u64>, Error> {
    let mut found = objects.list(Some(&Path::from(path)));
    let mut numbers = BTreeSet::new();
    while let Some(object) = found.next().await.transpose().map_err(|e| outside(path, &e))? {
        let within = object.location.prefix_match(&Path::from(path)).and_then(|mut parts| parts.next());
        if let Some(folder) = FORMER.iter().find(|folder| within.as_ref().is_some_and(|part| part.as_ref() == **folder))
        {
            return Err(Error::Unreadable(format!(
                "state.url: {path}/{folder} is of an earlier form of the journal, which this version does not read: begin anew with another state.url"
            )));
        }
        numbers.extend(number_of(path, &object.location));
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
        let got = read(objects, &location(path, number)).await;
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
            Some((_, of)) if *of != digest => return Err(unreadable(path, number, NOT_FOLLOWED)),
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
    let (header, body) = split(path, number, bytes)?;
    match header.line(&body) == bytes[..bytes.len() - body.len()] {
        true => Ok((header, body)),
        false => Err(unreadable(path, number, "it is damaged: put it back from a copy")),
    }
}

fn split(path: &str, number: u64, bytes: &Bytes) -> Result<(Header, Bytes), Error> {
    let end = memchr::memchr(b'\n', bytes).ok_or_else(|| unreadable(path, number, "it is incomplete"))?;
    let header: Header =
        serde_json::from_slice(&bytes[..end]).map_err(|e| unreadable(path, number, &format!("its first line: {e}")))?;
    if header.format != FORMAT {
        let why =
            format!("it has format {}, and this version reads format {FORMAT}; run a newer keyfold", header.format);
        return Err(unreadable(path, number, &why));
    }
    Ok((header, bytes.slice(end + 1..)))
}

/// The body of a link of any bytes.
#[cfg(any(fuzzing, test))]
pub(super) fn body_of(bytes: &Bytes) -> Result<Bytes, Error> {
    split("fuzz", 1, bytes).map(|(_, body)| body)
}

/// Why a link cannot be read.
pub fn unreadable(path: &str, number: u64, why: &str) -> Error {
    Error::Unreadable(format!("state.url: cannot read {}: {why}", location(path, number)))
}

fn missing(path: &str, number: u64) -> Error {
    Error::Unreadable(format!(
        "state.url: {} is missing, which later files of {path} follow: put it back from a copy",
        location(path, number)
    ))
}

#[cfg(test)]
mod tests;
