//! Text of a plugin, a record or a person in all that the program says: commands in both formats, logs, probes, metrics and the admin API. It says
//! what it was, and no terminal, log reader, parser or person takes it for anything else.

use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use serde_json::{Value, json};

use super::client::{TOKEN, host_get, posted};
use super::forge::{DESCRIBED, Described, described, that_refuses};
use super::record::obeyed;
use super::{events, hostile, measured, peak_now, pipeline};
use crate::support::generate::{TestRecord, write_records};
use crate::support::host::{KEYFOLD, Outcome, Pipeline, plugin_file};
use crate::support::mock::produce;
use crate::support::scrape::{Host, Metrics};
use crate::support::settings::{ADMIN, Settings};

/// Escape sequences of both kinds, ends of lines, deletion, marks and overrides of direction, and what ends a string.
const EVIL: &str = "k\u{1b}]0;owned\u{7}\u{1b}[2J\r\nFORGED 1\u{202e}\u{9b}31m\u{7f}\u{2028}FORGED\u{61c}\u{85}\"\\";

/// The part of it that is left in a sum of reasons, which is cut and has no digits.
const SUMMED: &str = "m\u{7f}\u{2028}FORGED\u{61c}\u{85}\"";

/// Three records with that as their key, also of their events.
fn evil() -> Vec<TestRecord> {
    let mut records = events([EVIL, "plain", EVIL]);
    records.iter_mut().for_each(|record| record.key = Some(EVIL.as_bytes().to_vec()));
    records
}

/// Fails if a terminal would obey it, or if a part of it looks like a line of its own.
#[track_caller]
fn assert_silent(what: &str, said: &str) {
    assert!(!obeyed(said), "{what}: {said:?}");
    assert!(!said.lines().any(|line| line.trim_start_matches("\u{feff}").starts_with("FORGED")), "{what}: {said}");
}

/// Whether a string of this document is the text, or has it in it.
fn quotes(value: &Value, text: &str) -> bool {
    match value {
        Value::String(string) => string.contains(text),
        Value::Array(items) => items.iter().any(|item| quotes(item, text)),
        Value::Object(fields) => fields.iter().any(|(name, field)| name.contains(text) || quotes(field, text)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Lines of JSON, of which one at least has the text in it, as it was.
#[track_caller]
fn assert_quoted(what: &str, lines: &str) {
    assert_has(what, lines, EVIL);
}

#[track_caller]
fn assert_has(what: &str, lines: &str, text: &str) {
    let parsed = |line: &str| -> Value {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{what} is not JSON: {error}: {line}"))
    };
    let documents: Vec<Value> = lines.lines().map(parsed).collect();
    assert!(documents.iter().any(|document| quotes(document, text)), "{what}: {lines}");
}

/// Any command of the program in this folder, with this on its standard input.
fn ran(pipeline: &Pipeline, arguments: &[&str], input: Option<&str>) -> Outcome {
    let mut process = Command::new(KEYFOLD);
    process.args(arguments).current_dir(pipeline.path("."));
    process.stdin(input.map_or_else(Stdio::null, |file| {
        std::fs::File::open(pipeline.path(file)).expect("the test has written it").into()
    }));
    let (outcome, peak) =
        measured(&arguments.join(" ").replace(|c: char| c.is_control(), "?"), pipeline.start(process));
    assert!(!outcome.stderr.contains("panicked") && outcome.code.is_some(), "{arguments:?}: {outcome:?}");
    assert!(peak < 600, "{peak} MiB");
    assert_silent(&arguments.join(" "), &outcome.stdout);
    assert_silent(&arguments.join(" "), &outcome.stderr);
    outcome
}

/// A command on the folder's configuration, for people and for programs, whose answer has the text in it.
#[track_caller]
fn both(pipeline: &Pipeline, command: &str, more: &[&str]) {
    let words: Vec<&str> = command.split(' ').chain(["-c", "keyfold.toml"]).chain(more.iter().copied()).collect();
    let said = ran(pipeline, &words, None);
    assert!(said.stdout.contains("owned"), "{command}: {}", said.stdout);
    let said = ran(pipeline, &[&words[..], &["--output", "json"]].concat(), None);
    assert_has(command, &said.stdout, SUMMED);
}

#[test]
fn what_a_run_and_a_replay_say_of_a_record_is_text_in_every_format() {
    for mode in ["log", "quote"] {
        for format in ["human", "json"] {
            let pipeline = pipeline(&hostile(&json!({"mode": mode})), &evil());
            let said = ran(&pipeline, &["run", "-c", "keyfold.toml", "--log-format", format], None);
            said.expect_code(0);
            assert!(said.stderr.contains("owned"), "{mode}: {}", said.stderr);
            if format == "json" {
                assert_has(mode, &said.stderr, SUMMED);
            }
            let said = ran(&pipeline, &["replay", "-c", "keyfold.toml", "--log-format", format], None);
            let (rows, letters) = if mode == "log" { (3, 0) } else { (0, 3) };
            assert_eq!(said.expect_code(0).stdout.lines().count(), rows, "{}", said.stdout);
            assert!(letters == 0 || said.stderr.contains("owned"), "{}", said.stderr);
            if rows > 0 {
                assert_quoted("replay", &said.stdout);
            }
        }
    }
    let mut settings = hostile(&json!({"mode": "ok"}));
    settings.sink = "[sink.ndjson]\npath = \"-\"\nnow = [\"at\\u202e\\u001b[2J\"]".to_owned();
    let pipeline = pipeline(&settings, &evil());
    assert_quoted("rows on standard output", &ran(&pipeline, &["run", "-c", "keyfold.toml"], None).stdout);
    let against = json!({"mode": "mark", "mark": EVIL}).to_string();
    let differs = ran(&pipeline, &["replay", "-c", "keyfold.toml", "--against-config", &against], None);
    assert_quoted("rows that differ", &differs.expect_code(1).stdout);
}

#[test]
fn what_commands_say_of_dead_letters_and_state_is_text_in_every_format() {
    let quoting = pipeline(&hostile(&json!({"mode": "quote"})), &evil());
    quoting.run_to_end(&[]).expect_code(0);
    for (command, more) in
        [("dead-letters list", &[][..]), ("dead-letters list", &["--summary"]), ("check", &[]), ("doctor", &[])]
    {
        both(&quoting, command, more);
    }
    let list = ran(&quoting, &["dead-letters", "list", "-c", "keyfold.toml"], None);
    assert_eq!(list.stdout.lines().count(), 3, "one line a letter: {}", list.stdout);
    let keeping = pipeline(&hostile(&json!({"mode": "mark"})), &evil());
    keeping.run_to_end(&[]).expect_code(0);
    // As text with a last line of where they are from.
    for (output, lines) in [("text", 3), ("json", 2)] {
        let said = ran(&keeping, &["state", "list", "-c", "keyfold.toml", "--output", output], None);
        assert_eq!(said.expect_code(0).stdout.lines().count(), lines, "one line a key: {}", said.stdout);
        ran(&keeping, &["state", "get", "-c", "keyfold.toml", EVIL, "--output", output], None).expect_code(0);
        ran(&keeping, &["state", "get", "-c", "keyfold.toml", "unknown\u{9b}", "--output", output], None);
        ran(&keeping, &["status", "-c", "keyfold.toml", "--output", output], None).expect_code(0);
    }
    let wrong = ran(&keeping, &["status", &format!("--{}", EVIL.replace('\n', ""))], None);
    assert!(wrong.expect_code(2).stderr.contains("FORGED"), "{}", wrong.stderr);
}

#[test]
fn what_a_deployment_says_of_a_plugin_and_of_people_is_text_in_every_format() {
    let pipeline = pipeline(&hostile(&json!({"mode": "ok"})), &evil());
    pipeline.run_to_end(&[]).expect_code(0);
    pipeline.write("attack.wasm", &that_refuses(EVIL));
    both(&pipeline, "deployment create", &["--dry-run", "attack.wasm"]);
    let unknown = json!({"mode": EVIL}).to_string();
    both(&pipeline, "deployment create", &["--dry-run", "--plugin-config", &unknown]);
    let marked = json!({"mode": "mark", "mark": EVIL}).to_string();
    let ordered = ["--plugin-config", &marked, "--reason", EVIL, "--by", EVIL];
    for output in ["text", "json"] {
        let words = ["deployment", "create", "-c", "keyfold.toml", "--output", output];
        ran(&pipeline, &[&words[..], &ordered].concat(), None).expect_code(0);
    }
    both(&pipeline, "deployment list", &[]);
    let withdrawn = ["deployment", "withdraw", "-c", "keyfold.toml", "--reason", EVIL, "--by", EVIL];
    ran(&pipeline, &withdrawn, None).expect_code(0);
    both(&pipeline, "deployment list", &[]);
    let list = ran(&pipeline, &["deployment", "list", "-c", "keyfold.toml"], None);
    assert_eq!(list.stdout.lines().count(), 3, "one line a deployment: {}", list.stdout);
    let shadow = ["deployment", "create", "-c", "keyfold.toml", "--shadow", "--plugin-config", &marked];
    ran(&pipeline, &shadow, None).expect_code(0);
    ran(&pipeline, &["deployment", "shadow", "-c", "keyfold.toml"], None).expect_code(0);
    let told = ran(&pipeline, &["deployment", "shadow", "-c", "keyfold.toml", "--output", "json"], None);
    assert_quoted("deployment shadow", &told.expect_code(0).stdout);
}

#[test]
fn what_an_author_s_commands_say_of_a_plugin_is_text_in_every_format() {
    let folder = Pipeline::new("");
    folder.write("attack.wasm", &that_refuses(EVIL));
    let refused = ran(&folder, &["plugin", "check", "attack.wasm"], None);
    assert!(refused.expect_code(4).stderr.contains("owned"), "{}", refused.stderr);
    let schema = json!({"properties": {"mode": {"description": EVIL}}}).to_string();
    folder.write("described.wasm", &described(&Described { schema: &schema, ..DESCRIBED }));
    assert!(ran(&folder, &["plugin", "check", "described.wasm"], None).expect_code(0).stdout.contains("owned"));
    let checked = ran(&folder, &["plugin", "check", "described.wasm", "--output", "json"], None);
    assert_quoted("plugin check", &checked.expect_code(0).stdout);

    write_records(&folder.path("records.ndjson"), &evil());
    let hostile = plugin_file("hostile");
    for (mode, rows) in [("log", 3), ("quote", 0)] {
        let config = json!({"mode": mode}).to_string();
        let said = ran(&folder, &["plugin", "run", &hostile, "--config", &config], Some("records.ndjson"));
        assert_eq!(said.expect_code(0).stdout.lines().count(), rows, "{}", said.stdout);
        assert!(said.stderr.contains("owned"), "{mode}: {}", said.stderr);
    }
    // A case whose rows are others, and one without any to compare with.
    for (case, expected) in [("other", Some("{}\n")), ("none", None)] {
        let place = folder.path("golden").join(case);
        std::fs::create_dir_all(&place).expect("the test's folder is writable");
        write_records(&place.join("records.ndjson"), &evil());
        std::fs::write(place.join("case.toml"), "[plugin]\nconfig = { mode = \"log\" }\n").expect("writable");
        if let Some(rows) = expected {
            std::fs::write(place.join("rows.ndjson"), rows).expect("writable");
        }
    }
    folder.write("Cargo.toml", b"");
    for output in ["text", "json"] {
        let said = ran(&folder, &["plugin", "test", "--verbose", "--plugin", &hostile, "--output", output], None);
        assert!(said.expect_code(1).stdout.contains("owned"), "{}", said.stdout);
    }
    let said = ran(&folder, &["plugin", "test", "--plugin", "attack.wasm", "--output", "json"], None);
    assert!(said.stdout.contains("owned") || said.stderr.contains("owned"), "{said:?}");
}

/// The values of the labels of a sample, read as Prometheus reads them.
fn labels(sample: &str) -> Vec<String> {
    let Some((_, rest)) = sample.split_once('{') else { return Vec::new() };
    let (mut values, mut rest) = (Vec::new(), rest);
    while let Some((name, quoted)) = rest.split_once("=\"") {
        let name = name.trim_start_matches(',');
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{name} in {sample}");
        let (mut value, mut characters) = (String::new(), quoted.chars());
        loop {
            match characters.next().expect("the value ends") {
                '"' => break,
                '\\' => value.push(match characters.next() {
                    Some('n') => '\n',
                    Some(escaped @ ('"' | '\\')) => escaped,
                    other => panic!("{other:?} is escaped in {sample}"),
                }),
                other => value.push(other),
            }
        }
        values.push(value);
        rest = characters.as_str();
    }
    assert!(rest.starts_with('}'), "{rest} is left of {sample}");
    values
}

/// What stands behind the head of an answer.
fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {answer}")).1
}

#[test]
fn what_a_host_answers_is_escaped_in_documents_probes_and_metrics() {
    const NAME: &str = "x\",plugin=\"y\"} 1 # \\ keyfold_live{ '\\n";
    let cluster: MockCluster<'_, DefaultProducerContext> = MockCluster::new(1).expect("a mock cluster needs nothing");
    let brokers = cluster.bootstrap_servers();
    cluster.create_topic("spoken", 1, 1).expect("a new topic");
    let settings = Settings { plugin: "component = \"attack.wasm\"".to_owned(), ..Settings::default() };
    let more = "token_file = \"token\"\naudit_log = \"audit.ndjson\"\nprobes = \"127.0.0.1:0\"\n";
    let pipeline = Pipeline::new(&format!("{}{ADMIN}{more}", settings.over_kafka(&brokers, "spoken").to_toml()));
    pipeline.write("attack.wasm", &described(&Described { name: NAME, ..DESCRIBED }));
    pipeline.write("token", TOKEN.as_bytes());
    produce(&brokers, "spoken", &evil());
    let mut running = pipeline.spawn(&[]);
    let (host, probes) = (Host::of(&mut running), Host::probes_of(&mut running));
    host.wait_for(&mut running, "keyfold_records_total{lane=\"topic\"}", 3.0);

    let ask = |wanted: &Value| {
        let (status, answer) = posted(&host, "/v1/deployments", TOKEN, wanted);
        assert_silent(&wanted.to_string(), body(&answer));
        assert!(answer.contains("content-type: application/json"), "{answer}");
        (status, body(&answer).to_owned())
    };
    let ordered = json!({"set": {"time.out_of_orderness": "3s"}, "by": EVIL, "reason": EVIL});
    assert_eq!(ask(&ordered).0, 200);
    let refusing = json!({"plugin_base64": STANDARD.encode(that_refuses(EVIL)), "dry_run": true});
    for (wanted, expected) in [
        (refusing, 409),
        (json!({"config": {"mode": EVIL}, "dry_run": true}), 409),
        (json!({EVIL: 1}), 422),
        (json!({"set": {EVIL: "1"}}), 400),
    ] {
        let (status, answer) = ask(&wanted);
        assert_eq!(status, expected, "{answer}");
        assert_quoted(&wanted.to_string(), &answer);
    }
    for path in ["/v1/deployments", "/v1/status"] {
        let (status, answer) = host_get(&host, path);
        assert_eq!(status, 200, "{answer}");
        assert_silent(path, body(&answer));
        let document: Value = serde_json::from_str(body(&answer)).expect("a document");
        assert!(quotes(&document, NAME) && (path == "/v1/status" || quotes(&document, EVIL)), "{answer}");
    }
    let audit = std::fs::read_to_string(pipeline.path("audit.ndjson")).expect("requests were made");
    assert_silent("the audit log", &audit);
    assert_quoted("the audit log", &audit);
    for at in [&host, &probes] {
        for path in ["/livez", "/readyz", "/startupz"] {
            let (_, text) = at.get(path);
            assert_silent(path, &text);
            assert!(text.lines().all(|line| line.starts_with("ok  ")), "{text}");
        }
        let (_, page) = at.get("/metrics");
        assert_silent("/metrics", &page);
        let samples = page.lines().filter(|line| !line.starts_with('#'));
        let named = samples.filter(|sample| labels(sample).iter().any(|label| label == NAME)).count();
        assert!(named > 0, "{page}");
        assert_eq!(Metrics::read(&page).names().filter(|name| *name == "keyfold_live").count(), 1);
    }
    let peak = peak_now(&running).unwrap_or(0);
    println!("answers about a hostile plugin: {peak} MiB");
    assert!(peak < 600, "{peak} MiB");
    let end = running.kill();
    assert_silent("the host's log", &end.stderr);
}
