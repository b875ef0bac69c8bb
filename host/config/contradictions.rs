//! Problems between keys that are valid on their own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::keys::{self, KEYS, Key};
use super::model::{Component, Listen};
use super::read::Given;
use super::value::Typed;
use super::values::Values;
use crate::paths::same_file;

/// Reports all contradictions.
pub(super) fn find(given: &mut Given, values: &Values) {
    source_file(given, values);
    cql_credentials(given);
    dead_letters(given);
    many_hosts(given, values);
    native_code(given, values);
    shared_files(given, values);
    admin(given, values);
    probes(given, values);
    telemetry(given, values);
}

/// The collector is reached by plain HTTP.
fn telemetry(given: &mut Given, values: &Values) {
    let Some(text) = values.text("telemetry.otlp") else { return };
    if !text.starts_with("http://") {
        let message = format!("telemetry.otlp: expected a URL like \"http://collector:4318\", found {text:?}");
        given.problem(given.origin("telemetry.otlp"), message);
    }
}

/// Characters of a token that nobody guesses: 128 random bits in base64.
pub(crate) const LEAST_TOKEN: usize = 22;

/// The admin API listens on loopback, or requires a token.
fn admin(given: &mut Given, values: &Values) {
    if !given.has("admin") {
        return;
    }
    for path in ["admin.tls.certificate", "admin.tls.key"] {
        if given.has("admin.tls") && !given.has(path) && !given.broken.contains("admin.tls") {
            given.problem(given.origin("admin.tls"), format!("{path} is missing: TLS needs a certificate and its key"));
        }
    }
    const TOKENS: [&str; 2] = ["admin.token", "admin.read_token"];
    let token = TOKENS.iter().any(|key| given.has(key) || given.has(&format!("{key}_file")));
    let text = values.text("admin.listen").unwrap_or_default();
    let short = TOKENS.into_iter().find(|key| values.text(key).is_some_and(|token| token.len() < LEAST_TOKEN));
    let [changes, reads] = TOKENS.map(|key| values.text(key));
    if changes.is_some() && changes == reads {
        let message = "admin.read_token is the same as admin.token, so whoever may read could change; take another one";
        return given.problem(given.origin("admin.read_token"), message.to_owned());
    }
    let message = match Listen::parse(&text) {
        Some(Listen::Unix(_)) if given.has("admin.tls") => {
            "admin.tls is of no use on a Unix socket, which permissions of files protect; remove it".to_owned()
        }
        Some(listen) if listen.is_exposed() && short.is_some() => {
            let key = short.unwrap_or_default();
            let origin = given.origin(key);
            let message = format!(
                "{key} has fewer than {LEAST_TOKEN} characters, and admin.listen = {text:?} is not a loopback address; take a \
                 longer one, such as the output of `openssl rand -base64 32`"
            );
            return given.problem(origin, message);
        }
        Some(listen) if !listen.is_exposed() || token => return,
        Some(_) => format!("admin.listen = {text:?} is not a loopback address, so admin.token is required"),
        None => format!(
            "admin.listen: expected an address like \"127.0.0.1:9640\" or a socket like \"unix:/run/keyfold/admin.sock\", found {text:?}"
        ),
    };
    given.problem(given.origin("admin.listen"), message);
}

/// The probes have an address of their own. Port 0 is chosen by the system, so the same one on both sides is no conflict.
fn probes(given: &mut Given, values: &Values) {
    let Some(text) = values.text("admin.probes") else { return };
    let message = match (text.parse::<SocketAddr>(), Listen::parse(&values.text("admin.listen").unwrap_or_default())) {
        (Err(_), _) => format!("admin.probes: expected an address like \"0.0.0.0:8081\", found {text:?}"),
        (Ok(probes), Some(Listen::Tcp(listen))) if probes.port() != 0 && probes == listen => {
            format!("admin.probes and admin.listen are the same address {text:?}; give the probes a port of their own")
        }
        (Ok(_), _) => return,
    };
    given.problem(given.origin("admin.probes"), message);
}

fn source_file(given: &mut Given, values: &Values) {
    let payloads = values.text("source.file.format").as_deref() == Some("payloads");
    let start = given.has("source.file.timestamp_start");
    if given.has("source.file") && payloads && !start {
        let message =
            "source.file.timestamp_start is missing: format = \"payloads\" needs the first line's timestamp in ms";
        given.problem(given.origin("source.file"), message);
    }
    if start && values.text("source.file.format").as_deref() == Some("records") {
        let message =
            "source.file.timestamp_start requires format = \"payloads\"; records carry their own \"timestamp\"";
        given.problem(given.origin("source.file.timestamp_start"), message);
    }
}

fn cql_credentials(given: &mut Given) {
    let password = given.has("sink.cql.password") || given.has("sink.cql.password_file");
    let pairs = [
        ("sink.cql.user", given.has("sink.cql.user"), "sink.cql.password", password),
        (
            "sink.cql.tls.certificate",
            given.has("sink.cql.tls.certificate"),
            "sink.cql.tls.key",
            given.has("sink.cql.tls.key"),
        ),
    ];
    for (one, has_one, other, has_other) in pairs {
        if has_one != has_other {
            let (there, absent) = if has_one { (one, other) } else { (other, one) };
            given.problem(given.origin(there), format!("{there} requires {absent}"));
        }
    }
}

fn dead_letters(given: &mut Given) {
    let topic = given.has("dead_letters.topic");
    if topic && given.has("dead_letters.file") {
        let message = "dead_letters.topic and dead_letters.file are both set; keep one";
        given.problem(given.origin("dead_letters.topic"), message);
    }
    for path in ["dead_letters.brokers", "dead_letters.properties"] {
        if given.has(path) && !topic {
            given.problem(given.origin(path), format!("{path} requires dead_letters.topic"));
        }
    }
    if topic && !given.has("source.kafka") && !given.has("dead_letters.brokers") {
        let message = "dead_letters.brokers is missing: the source has no brokers for the topic";
        given.problem(given.origin("dead_letters.topic"), message);
    }
}

/// What several hosts share must take the writes of all of them: a file of lines has one writer.
fn many_hosts(given: &mut Given, values: &Values) {
    if values.text("source.kafka.hosts").as_deref() != Some("many") {
        return;
    }
    let origin = given.origin("source.kafka.hosts");
    if given.has("sink.ndjson") {
        let message =
            "source.kafka.hosts = \"many\" requires a sink that several hosts can write: sink.cql or sink.sqlite";
        given.problem(origin.clone(), message);
    }
    if !given.has("dead_letters.topic") {
        let message =
            "source.kafka.hosts = \"many\" requires dead_letters.topic: a file of dead letters has one writer";
        given.problem(origin, message);
    }
}

/// Properties by which librdkafka runs code of others, with what they make it do. OpenSSL loads its engines and providers from files.
const NATIVE_CODE: &[(&str, &str)] = &[
    ("plugin.library.paths", "load native code into this process"),
    ("ssl.engine.", "load native code into this process"),
    ("ssl_engine", "load native code into this process"),
    ("ssl.providers", "load native code into this process"),
    ("sasl.kerberos.kinit.cmd", "run a shell command"),
];

/// Properties whose values librdkafka puts into the shell command of `sasl.kerberos.kinit.cmd`.
const IN_A_COMMAND: &[&str] = &["sasl.kerberos.keytab", "sasl.kerberos.principal", "sasl.kerberos.service.name"];

/// Whoever may write the configuration chooses the plugin, which is sandboxed; nothing else there brings code.
fn native_code(given: &mut Given, values: &Values) {
    for section in ["source.kafka.properties", "dead_letters.properties"] {
        for (name, value) in values.properties(section).unwrap_or_default() {
            let path = format!("{section}.{name}");
            let lower = name.trim().to_lowercase();
            let found = NATIVE_CODE.iter().find(|(start, _)| lower.starts_with(start)).map(|(_, what)| *what);
            if let Some(what) = found {
                given.problem(given.origin(&path), format!("{path} is refused: it makes librdkafka {what}; remove it"));
            }
            let is_plain = value.chars().all(|c| c.is_alphanumeric() || "@/._-:".contains(c));
            if IN_A_COMMAND.contains(&lower.as_str()) && !is_plain {
                let message = format!(
                    "{path} is refused: librdkafka puts it into a shell command, so it may hold only letters, digits and @/._-:"
                );
                given.problem(given.origin(&path), message);
            }
        }
    }
}

/// Keys of files that a host writes.
const WRITTEN: &[&str] = &["sink.sqlite.path", "sink.ndjson.path", "dead_letters.file", "admin.audit_log"];

/// No file is both read and written, and none is written twice, whatever it is called.
fn shared_files(given: &mut Given, values: &Values) {
    let files = files(given, values);
    let is_written = |key: &str| WRITTEN.contains(&key);
    for (at, (key, file)) in files.iter().enumerate() {
        for (other, same) in files[..at].iter().filter(|(other, _)| is_written(key) || is_written(other)) {
            if same_file(file, same) {
                let by = if file == same { String::new() } else { format!(", also called {}", same.display()) };
                let message = format!("{key} and {other} are the same file {}{by}", file.display());
                given.problem(given.origin(key), message);
            }
        }
    }
}

/// The files of the sections that are used, by their keys.
fn files(given: &Given, values: &Values) -> Vec<(String, PathBuf)> {
    let dead_letters = !given.has("dead_letters.topic");
    let is_used = |key: &Key| match key.path {
        "dead_letters.file" => dead_letters,
        path => keys::sections(path).last().is_some_and(|section| given.has(section)),
    };
    let mut files = Vec::new();
    for key in KEYS.iter().filter(|key| is_used(key)) {
        match values.0.get(key.path) {
            Some(Typed::Path(file) | Typed::Component(Component::File(file))) if file != Path::new("-") => {
                files.push((key.path.to_owned(), file.clone()));
            }
            Some(Typed::Secret(_, file)) => files.push((format!("{}_file", key.path), file.clone())),
            Some(Typed::Properties(_, secrets)) => {
                files.extend(secrets.iter().map(|(name, file)| (format!("{}.{name}_file", key.path), file.clone())));
            }
            _ => {}
        }
    }
    files
}
