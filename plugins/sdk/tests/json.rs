//! A reader that tries `Flat` first and leaves the rest to serde_json gives what serde_json alone gives, for every document.

use std::borrow::Cow;

use keyfold_sdk::json::Flat;
use serde::Deserialize;

mod mutation;

use mutation::Random;

#[derive(Debug, PartialEq, Deserialize)]
struct Action<'a> {
    #[serde(borrow)]
    user: Cow<'a, str>,
    amount: i64,
    new: bool,
}

fn fast(document: &[u8]) -> Option<Action<'_>> {
    let (mut user, mut amount, mut new) = (None, None, None);
    let mut fields = Flat::of(document)?;
    while let Some(name) = fields.name()? {
        match name {
            b"user" => user = Some(fields.text()?),
            b"amount" => amount = Some(fields.integer()?),
            b"new" => new = Some(fields.boolean()?),
            _ => fields.skip()?,
        }
    }
    Some(Action { user: user?.into(), amount: amount?, new: new? })
}

/// What serde_json reads from a document that `Flat` reads.
fn agree(document: &[u8]) -> bool {
    let (fast, slow) = (fast(document), serde_json::from_slice::<Action<'_>>(document));
    let Some(fast) = fast else { return false };
    assert_eq!(slow.map_err(|error| error.to_string()), Ok(fast), "{}", document.escape_ascii());
    true
}

const PLAIN: &str = r#"{"user": "ann", "amount": 12, "new": true, "x": "y", "n": 70, "z": null}"#;

#[test]
fn what_is_accepted_does_not_depend_on_the_reader() {
    assert!(agree(PLAIN.as_bytes()));
    for (part, other) in [
        ("\"ann\"", r#""a\u0062""#),
        ("\"ann\"", "null"),
        ("\"y\"", r#""\"""#),
        ("\"y\"", "[1, {}]"),
        ("\"z\"", "\"user\""),
        ("\"z\"", "\"x\""),
        ("\"z\"", r#""us\u0065r""#),
        ("\"n\"", "\"amount\""),
        ("12", "-0"),
        ("12", "1e3"),
        ("12", "12.0"),
        ("12", "012"),
        ("12", "9223372036854775807"),
        ("12", "9223372036854775808"),
        ("70", "-0"),
        ("70", "-"),
        ("70", "1.5"),
        ("true", "1"),
        ("null}", "null,}"),
        ("null}", "null} x"),
    ] {
        agree(PLAIN.replacen(part, other, 1).as_bytes());
    }
}

/// With a nested value `Flat` gives up, and serde_json decides: the rest of the document must not be judged otherwise without it.
#[test]
fn an_unrelated_field_changes_nothing() {
    let document = r#"{"user": "ann", "user": "bob", "amount": 1, "new": true, "x": 1}"#;
    for document in [
        document.to_owned(),
        document.replace("\"x\": 1", "\"x\": []"),
        document.replace("user\": \"b", "amount\": \"b"),
    ] {
        assert_eq!(fast(document.as_bytes()), None);
        assert!(serde_json::from_str::<Action<'_>>(&document).is_err(), "a duplicate field");
    }
    let twice = r#"{"x": 1, "user": "ann", "amount": 1, "x": 1, "new": true}"#;
    assert_eq!(fast(twice.as_bytes()), None, "whether a name may occur twice is serde_json's to say");
    assert!(serde_json::from_str::<Action<'_>>(twice).is_ok());
}

#[test]
fn the_number_of_fields_is_bounded() {
    let document = |fields: usize| {
        let fields: String = (0..fields).map(|i| format!(r#", "x{i}": {i}"#)).collect();
        PLAIN.replacen(", \"x\": \"y\", \"n\": 70, \"z\": null", &fields, 1)
    };
    assert!(agree(document(29).as_bytes()));
    assert!(!agree(document(30).as_bytes()));
}

#[test]
fn both_agree_on_mutated_documents() {
    let alphabet = b"\"\\{}[]:, \t\n-+.0123eEtrufalsn/xyzab\x00\x1f\x7f\x80\xc3\xa4\xff";
    let seeds = [
        PLAIN.to_owned(),
        PLAIN.replace(' ', ""),
        PLAIN.replace("ann", "/\u{e4}/\u{20ac}/\u{1f600}"),
        PLAIN.replace("\"z\"", "\"user\""),
        PLAIN.replace("\"y\"", "\"a\\\"\\u0041\""),
    ];
    let (mut random, mut read) = (Random(0x9e37_79b9_7f4a_7c15), 0);
    for round in 0..200_000 {
        let mut document = seeds[round % seeds.len()].clone().into_bytes();
        for _ in 0..random.below(4) {
            random.mutate(&mut document, alphabet);
        }
        read += usize::from(agree(&document));
    }
    assert!(read > 30_000, "{read}");
}
