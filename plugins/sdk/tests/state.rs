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
