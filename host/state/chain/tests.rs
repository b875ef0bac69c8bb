//! Chains: order, takeovers, deleted links, and damage.

use futures::FutureExt;
use object_store::memory::InMemory;

use super::*;
use crate::state::scripted::{Fault, Scripted};

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

/// What comes of requests to a store in memory, which answers at once.
fn at_once<T>(requests: impl Future<Output = T>) -> T {
    requests.now_or_never().expect("memory answers at once")
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
    let needless = chain.needless();
    assert_eq!((needless.count(), chain.needless().count()), (3, 0), "they are handed over once");
    needless.delete().await.expect("it can delete");
    let left = numbers(&objects, PATH).await.expect("they are listed");
    assert_eq!(left.into_iter().collect::<Vec<_>>(), [1, 2, 6], "two claims, and the whole link");
    chain.check_ownership().await.expect("it owns the chain");
}

#[tokio::test]
async fn what_an_owner_could_not_delete_the_next_one_deletes() {
    let objects = store();
    let (mut chain, _) = claim(&objects).await;
    say(&mut chain, "a").await.expect("it owns the chain");
    chain.append(true, Bytes::from_static(b"a")).await.expect("it owns the chain");
    let (mut chain, _) = claim(&objects).await;
    chain.prune().await.expect("it can delete");
    let left = numbers(&objects, PATH).await.expect("they are listed");
    assert_eq!(left.into_iter().collect::<Vec<_>>(), [1, 3, 4]);
}

#[tokio::test]
async fn i8_a_chain_is_taken_over_from_an_owner_that_writes_all_the_time() {
    let objects = store();
    let (mut owner, _) = claim(&objects).await;
    let mut looks = 0;
    let taken = Chain::claim(&objects, PATH, |_| {
        looks += 1;
        // It writes whenever the other host has looked, until that has looked three times.
        let writes = if looks < 3 { 2 * looks } else { 0 };
        for _ in 0..writes {
            let is_whole = looks == 2;
            at_once(owner.append(is_whole, Bytes::from_static(b"x"))).expect("it owns the chain");
        }
        Ok(None)
    });
    let (chain, links) = taken.await.expect("it takes over");
    assert_eq!((looks, chain.last()), (3, 8), "a claim, two links, four, and a claim");
    assert_eq!(links.iter().map(|link| link.number).collect::<Vec<_>>(), [7], "the last whole one");
    assert!(matches!(say(&mut owner, "y").await, Err(Error::Fenced(_))));
    assert_eq!(chain.claims, [1, 8]);
    let read = Chain::read(&objects, PATH).await.expect("it is readable");
    assert_eq!(read.iter().map(|link| link.number).collect::<Vec<_>>(), [7, 8]);
}

#[tokio::test]
async fn i8_a_claim_that_lies_where_a_link_was_deleted_counts_for_nothing() {
    let objects = store();
    let (mut owner, _) = claim(&objects).await;
    say(&mut owner, "a").await.expect("it owns the chain");
    let mut looks = 0;
    let taken = Chain::claim(&objects, PATH, |links| {
        looks += 1;
        if looks == 1 {
            assert_eq!(said(links), ["a"]);
            // Long after it has looked, its place is free again.
            let goes_on = async {
                say(&mut owner, "b").await?;
                owner.append(true, Bytes::from_static(b"ab")).await?;
                owner.prune().await
            };
            at_once(goes_on).expect("it owns the chain");
        }
        Ok(None)
    });
    let (mut chain, links) = taken.await.expect("it takes over");
    assert_eq!((looks, said(&links)), (2, vec!["ab".to_owned()]));
    assert!(matches!(say(&mut owner, "c").await, Err(Error::Fenced(_))));
    say(&mut chain, "d").await.expect("it owns the chain");
    assert_eq!(said(&Chain::read(&objects, PATH).await.expect("it is readable")), ["ab", "d"]);
    chain.append(true, Bytes::from_static(b"abd")).await.expect("it owns the chain");
    chain.prune().await.expect("it can delete");
    let left = numbers(&objects, PATH).await.expect("they are listed");
    assert_eq!(left.into_iter().collect::<Vec<_>>(), [1, 5, 7], "what counts for nothing is gone");
}

#[tokio::test]
async fn i8_a_host_that_meets_a_claim_that_counts_for_nothing_looks_at_the_whole_chain() {
    let objects = store();
    let (mut owner, _) = claim(&objects).await;
    let (mut first, mut second) = (0, 0);
    let first_late = Chain::claim(&objects, PATH, |_| {
        first += 1;
        if first > 1 {
            return Ok(None);
        }
        let second_late = Chain::claim(&objects, PATH, |_| {
            second += 1;
            if second > 1 {
                return Ok(None);
            }
            // Both have seen the first claim only. Now there are 2 to 5, of which 2 and 4 are deleted.
            at_once(async {
                say(&mut owner, "a").await?;
                let (mut other, _) = claim(&objects).await;
                say(&mut other, "b").await?;
                other.append(true, Bytes::from_static(b"ab")).await?;
                other.prune().await
            })?;
            Ok(None)
        });
        at_once(second_late).map(|_| None)
    });
    let (chain, links) = first_late.await.expect("it takes over");
    assert_eq!((said(&links), chain.claims), (vec!["ab".to_owned()], vec![1, 3, 6, 7]));
}

#[tokio::test]
async fn a_write_that_a_bucket_s_client_has_repeated_is_not_taken_for_that_of_another_host() {
    let scripted = Arc::new(Scripted::default());
    let objects: Arc<dyn ObjectStore> = scripted.clone();
    let (mut chain, _) = claim(&objects).await;
    scripted.fail_put(0, Fault::Repeated);
    say(&mut chain, "a").await.expect("it owns the chain");
    say(&mut chain, "b").await.expect("it owns the chain");
    assert_eq!(said(&Chain::read(&objects, PATH).await.expect("it is readable")), ["a", "b"]);
}

#[tokio::test]
async fn what_an_earlier_build_wrote_is_refused_by_name() {
    for folder in FORMER {
        let objects = store();
        let location = Path::from(format!("{PATH}/{folder}/00000000000000000001.sst"));
        objects.put(&location, "x".into()).await.expect("it is memory");
        let error = Chain::claim(&objects, PATH, |_| Ok(None)).await.expect_err("it is refused").to_string();
        assert!(error.contains(&format!("{PATH}/{folder}")) && error.contains("another state.url"), "{error}");
        Chain::read(&objects, PATH).await.expect_err("it is refused");
    }
}

#[tokio::test]
async fn a_chain_that_is_older_than_all_kept_claims_is_whole() {
    let objects = store();
    for _ in 0..KEPT_CLAIMS + 3 {
        let (mut chain, _) = claim(&objects).await;
        chain.append(true, Bytes::from_static(b"all")).await.expect("it owns the chain");
        chain.prune().await.expect("it can delete");
    }
    assert_eq!(numbers(&objects, PATH).await.expect("they are listed").len(), KEPT_CLAIMS + 1);
    assert_eq!(claim(&objects).await.1, ["all"]);
}

#[tokio::test]
async fn a_link_that_is_missing_or_was_changed_is_refused() {
    for (number, bytes, why) in [
        (2, None, "00000000000000000002 is missing"),
        (2, Some("{\"format\":1,\"owner\":\"x\",\"before\":\"\"}\na"), "it is not the one that was followed"),
        (3, Some("{\"format\":2,\"owner\":\"x\",\"before\":\"\"}\nb"), "run a newer keyfold"),
        (3, Some("{\"format\":1"), "it is incomplete"),
        (3, Some("nothing\n"), "its first line"),
        (3, Some(""), "it is incomplete"),
        (1, None, "00000000000000000001 is missing"),
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

#[tokio::test]
async fn each_bit_of_the_last_link_counts() {
    let objects = store();
    let (mut chain, _) = claim(&objects).await;
    chain.append(true, Bytes::from_static(b"all")).await.expect("it owns the chain");
    let last = location(PATH, 2);
    let whole = objects.get(&last).await.expect("it is there").bytes().await.expect("it is memory");
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        objects.put(&last, bytes.into()).await.expect("it is memory");
        let read = Chain::read(&objects, PATH).await;
        assert!(matches!(read, Err(Error::Unreadable(_))), "bit {bit}: {read:?}");
    }
}
