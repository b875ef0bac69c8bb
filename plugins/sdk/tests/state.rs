//! Derived state is read back as it was written, and other bytes are refused.

use keyfold_sdk::{Stored, Timestamp};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Stored)]
enum Phase {
    Open { since: Timestamp, pages: Vec<String>, score: f64 },
    Closed(Option<Box<Phase>>),
    Never,
}

fn bytes(value: &impl Stored) -> Vec<u8> {
    let mut bytes = b"before".to_vec();
    value.write(&mut bytes);
    bytes.split_off(6)
}

fn phases() -> [Phase; 3] {
    let open = Phase::Open { since: Timestamp(-1), pages: vec!["a".into(), "ü".into()], score: 0.5 };
    [open.clone(), Phase::Closed(Some(open.into())), Phase::Never]
}

#[test]
fn state_is_read_back_as_it_was_written() {
    for phase in phases() {
        assert_eq!(Phase::read(&bytes(&phase)), Ok(phase));
    }
    assert_eq!(Timestamp::read(&bytes(&Timestamp(7))), Ok(Timestamp(7)));
    assert_eq!((bool::read(&bytes(&true)), bool::read(&bytes(&false))), (Ok(true), Ok(false)));
}

#[test]
fn missing_extra_and_other_bytes_are_refused() {
    for phase in phases() {
        let mut bytes = bytes(&phase);
        for end in 0..bytes.len() {
            assert!(Phase::read(&bytes[..end]).is_err(), "the first {end} bytes of {phase:?}");
        }
        bytes.push(0);
        assert_eq!(Phase::read(&bytes), Err("1 extra bytes after the value".to_owned()));
    }
    assert!(Phase::read(&[3]).is_err(), "there is no fourth variant");
    assert!(bool::read(&[2]).is_err() && bool::read(&[]).is_err());
}

// The sample in plugins/README.md.
#[derive(Default, Serialize, Deserialize, Stored)]
struct Basket {
    items: Vec<String>,
    paid: Option<u64>,
}

#[test]
fn the_basket_of_the_guide_is_read_back() {
    let basket = Basket { items: vec!["a".into()], paid: Some(7) };
    let read = Basket::read(&bytes(&basket)).expect("it was written");
    assert_eq!((read.items, read.paid), (basket.items, basket.paid));
}

#[derive(Serialize, Deserialize, Stored)]
struct Mixed {
    #[serde(rename = "other \"name\"")]
    pair: (i64, i64),
    by_name: std::collections::BTreeMap<String, Vec<Inner>>,
    tree: Option<Box<Tree>>,
    #[serde(skip)]
    _skipped: u8,
    bytes: [u8; 2],
    wrapped: Wrapped,
}

/// Does not derive `Stored`, and decides the encoding all the same.
#[derive(Serialize, Deserialize)]
struct Inner {
    a: i64,
    b: i64,
}

#[derive(Serialize, Deserialize)]
struct Tree {
    left: Option<Box<Tree>>,
    leaf: char,
}

#[derive(Serialize, Deserialize)]
struct Wrapped(u32);

fn encoding<T: Stored + ?Sized>() -> String {
    T::encoding().expect("it is known")
}

#[test]
fn an_encoding_lists_all_that_decides_it() {
    assert_eq!(
        encoding::<Mixed>(),
        "serde {other \"name\": (i64, i64), by_name: {string => [{a: i64, b: i64}]}, tree: {left: ^1?, leaf: char}?, \
         bytes: (u8, u8), wrapped: u32}"
    );
    assert_eq!(encoding::<Phase>(), "serde <Open{since: i64, pages: [string], score: f64}, Closed(^1?), Never>");
    assert_eq!(
        [encoding::<i64>(), encoding::<Timestamp>(), encoding::<str>(), encoding::<()>()],
        ["i64", "i64", "str", "()"]
    );
}

/// Each change of a type gives other bytes for some value, so it must give another encoding.
#[test]
fn a_change_of_a_type_changes_its_encoding() {
    mod former {
        #[derive(serde::Serialize, serde::Deserialize, keyfold_sdk::Stored)]
        pub(crate) struct Counts {
            _count: i64,
            _last: i64,
        }
    }
    mod swapped {
        #[derive(serde::Serialize, serde::Deserialize, keyfold_sdk::Stored)]
        pub(crate) struct Counts {
            _last: i64,
            _count: i64,
        }
    }
    mod renamed {
        #[derive(serde::Serialize, serde::Deserialize, keyfold_sdk::Stored)]
        pub(crate) struct Other {
            _count: i64,
            _last: i64,
        }
    }
    assert_ne!(encoding::<former::Counts>(), encoding::<swapped::Counts>());
    assert_ne!(encoding::<former::Counts>(), encoding::<i64>());
    assert_eq!(encoding::<former::Counts>(), encoding::<renamed::Other>(), "the type's own name is not stored");
}
