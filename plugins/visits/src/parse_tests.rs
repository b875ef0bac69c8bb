//! The two parsers agree with each other and with serde_json.

use super::*;

#[path = "../../sdk/tests/mutation/mod.rs"]
mod mutation;

use mutation::Random;

const PLAIN: &str = r#"{"user_id": 42, "page": "A.html", "event_time": "2024-10-02T12:51:48"}"#;
const PLAIN_TIME: i64 = 1_727_873_508_000;

fn accepted(document: &str) -> Visit<'_> {
    visit(document.as_bytes()).unwrap_or_else(|reason| panic!("{document}: {reason}"))
}

fn refused(document: &[u8], word: &str) {
    assert_eq!(fast(document), None, "{}", document.escape_ascii());
    let reason = visit(document).expect_err(&document.escape_ascii().to_string());
    assert!(reason.contains(word), "{}: {reason}", document.escape_ascii());
}

#[test]
fn a_plain_document_is_read_without_a_copy() {
    let expected = Visit { user_id: 42, page: Cow::Borrowed("A.html"), event_time: PLAIN_TIME };
    assert_eq!(fast(PLAIN.as_bytes()), Some(expected.clone()));
    assert_eq!(careful(PLAIN.as_bytes()), Ok(expected));
    let padded = format!(" \t\r\n{}\n ", PLAIN.replace(':', " :\n").replace(" :\n51 :\n", ":51:"));
    assert!(fast(padded.as_bytes()).is_some(), "{padded}");
}

#[test]
fn fields_can_be_in_any_order_and_among_others() {
    for other in [r#""x""#, r#""äöü €""#, "12", "-0", "true", "false", "null"] {
        let document =
            format!(r#"{{"a":{other},"event_time":"2024-10-02T12:51:48Z","page":"","user_id":-7,"z":{other}}}"#);
        let visit = Visit { user_id: -7, page: Cow::Borrowed(""), event_time: PLAIN_TIME };
        assert_eq!(fast(document.as_bytes()), Some(visit), "{document}");
    }
    for other in ["1.5", "1e999", r#""\u0041\ud800""#, "[1,[2,{}]]", r#"{"user_id":"x","a":[null]}"#] {
        let document = format!(r#"{{"a":{other},"event_time":"2024-10-02T12:51:48Z","page":"p","user_id":-7}}"#);
        assert_eq!(accepted(&document).user_id, -7, "{document}");
    }
}

#[test]
fn the_last_of_duplicate_fields_counts() {
    let document = r#"{"user_id":1,"page":"a","page":"b","event_time":"2024-10-02T12:51:48","user_id":2}"#;
    assert_eq!((accepted(document).user_id, &*accepted(document).page), (2, "b"));
    let document = r#"{"user_id":[1.5,{}],"page":null,"event_time":"never",
        "event_time":"2024-10-02T12:51:48","page":"b","user_id":2}"#;
    assert_eq!((accepted(document).user_id, &*accepted(document).page), (2, "b"));
    refused(br#"{"user_id":1,"user_id":null,"page":"b","event_time":"2024-10-02T12:51:48"}"#, "user_id is null");
}

#[test]
fn escapes_are_read_in_names_and_values() {
    let document =
        r#"{"user\u005fid": 1, "p\u0061ge": "\"\\\/\n\u00e9\ud83d\ude00", "event_time": "2024-10-02T12\u003a51:48"}"#;
    assert_eq!(accepted(document).page, "\"\\/\n\u{e9}\u{1f600}");
    assert_eq!(accepted(document).event_time, PLAIN_TIME);
    let document = PLAIN.replace("A.html", "\\ud800");
    refused(document.as_bytes(), "page");
}

#[test]
fn user_ids_are_integer_literals_of_64_bits() {
    let with = |literal: &str| PLAIN.replace("42", literal);
    for (literal, id) in [
        ("0", 0),
        ("-0", 0),
        ("9223372036854775807", i64::MAX),
        ("-9223372036854775808", i64::MIN),
        ("999999999999999999", 999_999_999_999_999_999),
        ("-1000000000000000000", -1_000_000_000_000_000_000),
        ("42.0", 42),
        ("-7.000", -7),
        ("-0.0", 0),
        ("9223372036854775807.0", i64::MAX),
    ] {
        assert_eq!(accepted(&with(literal)).user_id, id);
    }
    for (literal, word) in [
        ("9223372036854775808", "64 bits"),
        ("-9223372036854775809", "64 bits"),
        ("123456789012345678901234567890", "64 bits"),
        ("\"42\"", "user_id is a string, not an integer"),
        ("42.05", "user_id is a number with a fraction, not an integer"),
        ("42e0", "user_id is a number with an exponent, not an integer"),
        ("42.0e0", "user_id is a number with an exponent, not an integer"),
        ("9223372036854775808.0", "64 bits"),
        ("42.", "not JSON"),
        ("null", "user_id is null"),
        ("true", "user_id is a boolean"),
        ("{}", "user_id is an object"),
        ("[]", "user_id is an array"),
        ("042", "not JSON"),
        ("+42", "not JSON"),
        ("-", "not JSON"),
        ("", "not JSON"),
    ] {
        refused(with(literal).as_bytes(), word);
    }
}

#[test]
fn an_invalid_payload_is_refused_with_its_field() {
    for (document, word) in [
        (&b""[..], "empty"),
        (b" ", "not JSON"),
        (b"hello", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"null", "not a JSON object"),
        (b"[1]", "not a JSON object"),
        (b"\"x\"", "not a JSON object"),
        (b"{}", "missing"),
        (br#"{"page":"a","event_time":"2024-10-02T12:51:48"}"#, "user_id is missing"),
        (br#"{"user_id":1,"event_time":"2024-10-02T12:51:48"}"#, "page is missing"),
        (br#"{"user_id":1,"page":"a"}"#, "event_time is missing"),
        (br#"{"user_id":1,"page":2,"event_time":"2024-10-02T12:51:48"}"#, "page is a number, not a string"),
        (br#"{"user_id":1,"page":null,"event_time":"2024-10-02T12:51:48"}"#, "page is null"),
        (br#"{"user_id":1,"page":"a","event_time":1727873461000}"#, "event_time is a number, not a string"),
        (br#"{"user_id":1,"page":"a","event_time":"yesterday"}"#, "\"yesterday\""),
        (br#"{"user_id":1,"page":"a","event_time":"2024-10-02T12:51:48"} x"#, "not JSON"),
        (br#"{"user_id":1,"page":"a","event_time":"2024-10-02T12:51:48",}"#, "not JSON"),
        (br#"{"user_id":1,"page":"a","event_time":"2024-10-02T12:51:48""#, "not JSON"),
        (b"{\"user_id\":1,\"page\":\"a\nb\",\"event_time\":\"2024-10-02T12:51:48\"}", "not JSON"),
        (b"{\"user_id\":1,\"page\":\"a\xff\",\"event_time\":\"2024-10-02T12:51:48\"}", "not UTF-8"),
        (b"{\"user_id\":1,\"page\":\"a\",\"event_time\":\"2024-10-02T12:51:48\",\"x\":\"\xff\"}", "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
    ] {
        refused(document, word);
    }
}

#[test]
fn deep_and_long_documents_do_no_harm() {
    let deep = format!(r#"{{"x":{}{}}}"#, "[".repeat(1_000_000), "]".repeat(1_000_000));
    refused(deep.as_bytes(), "missing");
    let long = PLAIN.replace("A.html", &"p".repeat(10 << 20));
    assert_eq!(accepted(&long).page.len(), 10 << 20);
    let never = PLAIN.replace("2024-10-02T12:51:48", &"t".repeat(10 << 20));
    assert!(visit(never.as_bytes()).expect_err("no time").len() < 300);
}

/// Parses a document with [`serde_json::Value`]; `None` if that cannot decide.
fn oracle(document: &[u8]) -> Option<Result<(i64, String, i64), ()>> {
    let text = std::str::from_utf8(document).unwrap_or("not JSON");
    // A `Value` has no -0, no numbers beyond a float, no lone surrogates.
    if text.contains("-0") && !text.contains("0-0") || text.contains(['e', 'E', '\\']) && text.contains("999") {
        return None;
    }
    let Ok(value) = serde_json::from_str::<serde_json::Value>(text) else { return Some(Err(())) };
    let visit = || {
        let page = value.get("page")?.as_str()?.to_owned();
        let time = iso_ms(value.get("event_time")?.as_str()?.as_bytes())?;
        Some((value.get("user_id")?.as_i64()?, page, time))
    };
    // A `Value` does not say with which digits a float was written.
    if value.get("user_id").is_some_and(serde_json::Value::is_f64) {
        return None;
    }
    Some(visit().ok_or(()))
}

#[test]
fn the_fast_reader_the_careful_one_and_serde_json_agree_on_mutated_documents() {
    let seeds = [
        PLAIN.to_owned(),
        PLAIN.replace(' ', ""),
        PLAIN.replace("A.html", "/ä/€/\u{1f600}.html"),
        PLAIN.replace('}', r#","extra":"some text","n":-12,"t":true,"f":false,"z":null}"#),
        PLAIN.replace('}', r#","user_id":7,"page":"again","event_time":"2024-02-29T23:59:59.999+01:00"}"#),
        PLAIN.replace('}', r#","nested":{"user_id":[1,2.5e3,{}]},"esc":"a\"\\\u0041"}"#),
    ];
    let alphabet = b"\"\\{}[]:, \t\n\r-+.0123456789eEtrufalsn/u_idpagevm\x00\x1f\x7f\x80\xc3\xa4\xff";
    let (mut random, mut fast_ones, mut good_ones) = (Random(0x9e37_79b9_7f4a_7c15), 0, 0);
    for round in 0..300_000 {
        let mut document = seeds[round % seeds.len()].clone().into_bytes();
        for _ in 0..random.below(4) {
            random.mutate(&mut document, alphabet);
        }
        let (fast, careful) = (fast(&document), careful(&document));
        if let Some(visit) = &fast {
            assert_eq!(careful.as_ref(), Ok(visit), "{}", document.escape_ascii());
        }
        let said = careful.as_ref().map(|visit| (visit.user_id, visit.page.to_string(), visit.event_time));
        if let Some(expected) = oracle(&document) {
            assert_eq!(said.map_err(|_| ()), expected, "{}", document.escape_ascii());
        }
        fast_ones += usize::from(fast.is_some());
        good_ones += usize::from(careful.is_ok());
    }
    assert!(fast_ones > 50_000 && good_ones > fast_ones + 10_000, "{fast_ones} fast, {good_ones} good");
}
