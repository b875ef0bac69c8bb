//! Checks values against the types of their keys and converts them. Reads the files of secrets, and nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use crate::config::Component;
use crate::config::keys::{self, Absent, KEYS, Key, Kind};
use crate::config::read::{Given, found};
use crate::watched::read_secret;

/// A value of its key's type.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Typed {
    Text(String),
    /// The text of a secret, and the file that it was read from.
    Secret(String, PathBuf),
    Path(PathBuf),
    Component(Component),
    Url(Url),
    Integer(i64),
    Flag(bool),
    Duration(Duration),
    Size(u64),
    Texts(Vec<String>),
    /// Properties, and the files that their secrets were read from.
    Properties(BTreeMap<String, String>, BTreeMap<String, PathBuf>),
    Json(serde_json::Value),
    Empty,
}

/// A value that does not fit its key: the name inside the value if there is one, and the reason.
struct Misfit {
    name: Option<String>,
    reason: String,
}

impl From<String> for Misfit {
    fn from(reason: String) -> Misfit {
        Misfit { name: None, reason }
    }
}

/// Returns the values of all keys that were given or have a default; reports what does not fit to `given`.
pub(super) fn all(given: &mut Given, base: &Path) -> BTreeMap<&'static str, Typed> {
    let mut values = BTreeMap::new();
    for key in KEYS {
        if let Some(value) = one(given, key, base) {
            values.insert(key.path, value);
        }
    }
    values
}

fn one(given: &mut Given, key: &Key, base: &Path) -> Option<Typed> {
    let Some(value) = raw(given, key, base) else { return default(given, key, base) };
    match typed(key.kind, &value, base) {
        Ok(Typed::Text(text)) if key.secret => {
            let file = given.values.get(&format!("{}_file", key.path)).and_then(|path| secret_file(path, base).ok());
            Some(file.map_or_else(|| Typed::Text(text.clone()), |file| Typed::Secret(text.clone(), file)))
        }
        Ok(value) => Some(value),
        Err(misfits) => {
            for misfit in misfits {
                let path = misfit.name.map_or_else(|| key.path.to_owned(), |name| format!("{}.{name}", key.path));
                let origin = if given.has(&path) { given.origin(&path) } else { given.origin(key.path) };
                let reason = if key.secret { format!("expected {}", key.kind.expected()) } else { misfit.reason };
                given.problem(origin, format!("{path}: {reason}"));
            }
            None
        }
    }
}

/// Returns the default of a key that was not given.
fn default(given: &Given, key: &Key, base: &Path) -> Option<Typed> {
    let Absent::Is(text) = key.absent else { return None };
    if given.has(key.path) {
        return None;
    }
    let value: toml::Value = text.parse().expect("defaults are TOML, as a test sees");
    typed(key.kind, &value, base).ok()
}

/// Returns the value as given; a secret may come from its file.
fn raw(given: &mut Given, key: &Key, base: &Path) -> Option<toml::Value> {
    let value = given.values.get(key.path).cloned();
    let file = format!("{}_file", key.path);
    let Some(path) = given.values.get(&file).filter(|_| key.secret).cloned() else { return value };
    let origin = given.origin(&file);
    if value.is_some() {
        let other = given.origin(key.path);
        given.problem(origin, format!("{file}: {} is also set, at {other}; keep one", key.path));
        return None;
    }
    match secret(&path, base) {
        Ok(text) => Some(toml::Value::String(text)),
        Err(reason) => {
            given.problem(origin, format!("{file}: {reason}"));
            None
        }
    }
}

/// Returns the file of a secret.
fn secret_file(path: &toml::Value, base: &Path) -> Result<PathBuf, String> {
    match path {
        toml::Value::String(path) if !path.is_empty() => Ok(base.join(path)),
        other => Err(format!("expected {}, found {}", Kind::Path.expected(), found(other))),
    }
}

/// Returns the content of a secret's file without its trailing newline.
fn secret(path: &toml::Value, base: &Path) -> Result<String, String> {
    read_secret(&secret_file(path, base)?)
}

fn typed(kind: Kind, value: &toml::Value, base: &Path) -> Result<Typed, Vec<Misfit>> {
    let one = |reason: String| vec![Misfit::from(reason)];
    if let toml::Value::String(text) = value
        && matches!(kind, Kind::Path | Kind::Stream | Kind::Component | Kind::Url)
        && let Some(home) = home_of_shells(text)
    {
        return Err(one(format!(
            "{text:?} would be a folder named {home}, since only shells know ~; write the whole path"
        )));
    }
    if let (Kind::Properties, toml::Value::Table(table)) = (kind, value) {
        return properties(table, base);
    }
    if kind == Kind::Json {
        return json("", value).map(Typed::Json).map_err(|misfit| vec![misfit]);
    }
    let fitting = match (kind, value) {
        (Kind::Duration(least, most), toml::Value::String(text)) => return duration(text, least, most).map_err(one),
        (Kind::Size(least, most), toml::Value::String(text)) => return size(text, least, most).map_err(one),
        (Kind::Url, toml::Value::String(text)) if !text.is_empty() => return url(text, base).map_err(one),
        (Kind::Nodes, toml::Value::Array(items)) if !items.is_empty() => return nodes(items).map_err(one),
        (Kind::Choice(words), toml::Value::String(text)) => return choice(words, text).map_err(one),
        (Kind::Texts, toml::Value::Array(items)) => texts(items).map(Typed::Texts),
        (Kind::Integer(least, most), toml::Value::Integer(number)) => {
            (least..=most).contains(number).then_some(Typed::Integer(*number))
        }
        (Kind::Flag, toml::Value::Boolean(flag)) => Some(Typed::Flag(*flag)),
        (Kind::Empty, toml::Value::Table(table)) => return empty(table).map_err(one),
        (kind, toml::Value::String(text)) => from_text(kind, text, base),
        (_, _) => None,
    };
    fitting.ok_or_else(|| one(format!("expected {}, found {}{}", kind.expected(), found(value), hint(kind, value))))
}

/// What a path begins with, also behind a scheme, if a shell takes it for a home folder.
fn home_of_shells(text: &str) -> Option<&str> {
    let path = text.strip_prefix("file://").or_else(|| text.strip_prefix("file:")).unwrap_or(text);
    let (first, is_more) = path.split_once('/').map_or((path, false), |(first, _)| (first, true));
    (first == "~" || (is_more && first.starts_with('~'))).then_some(first)
}

fn empty(table: &toml::Table) -> Result<Typed, String> {
    let names: Vec<&str> = table.keys().map(String::as_str).collect();
    let reason = || format!("expected {}, found {}", Kind::Empty.expected(), names.join(", "));
    if names.is_empty() { Ok(Typed::Empty) } else { Err(reason()) }
}

/// Converts text for the kinds that are plain text.
fn from_text(kind: Kind, text: &str, base: &Path) -> Option<Typed> {
    if text.is_empty() {
        return None;
    }
    match kind {
        Kind::Text => Some(Typed::Text(text.to_owned())),
        Kind::Name(most) => is_name(text, most).then(|| Typed::Text(text.to_owned())),
        Kind::Path => (text != "-").then(|| Typed::Path(base.join(text))),
        Kind::Stream if text == "-" => Some(Typed::Path(PathBuf::from("-"))),
        Kind::Stream => Some(Typed::Path(base.join(text))),
        Kind::Component => Some(Typed::Component(Component::named(text, base))),
        Kind::Url
        | Kind::Integer(..)
        | Kind::Flag
        | Kind::Duration(..)
        | Kind::Size(..)
        | Kind::Choice(_)
        | Kind::Texts
        | Kind::Nodes
        | Kind::Properties
        | Kind::Json
        | Kind::Empty => None,
    }
}

/// Suggests what to write instead.
fn hint(kind: Kind, value: &toml::Value) -> String {
    match (kind, value) {
        (Kind::Duration(..), toml::Value::Integer(number)) if *number >= 0 => {
            format!("; write \"{number}s\" or \"{number}ms\"")
        }
        (Kind::Size(..), toml::Value::Integer(number)) if *number >= 0 => {
            format!("; write \"{number}B\" for bytes")
        }
        (_, _) => String::new(),
    }
}

fn is_name(text: &str, most: usize) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    text.len() <= most && text.chars().all(fits) && text != "." && text != ".."
}

fn choice(words: &'static [&'static str], text: &str) -> Result<Typed, String> {
    if let Some(word) = words.iter().find(|word| word.eq_ignore_ascii_case(text)) {
        return Ok(Typed::Text((*word).to_owned()));
    }
    Err(format!("expected {}, found {text:?}", Kind::Choice(words).expected()))
}

fn duration(text: &str, least_ms: u64, most_ms: u64) -> Result<Typed, String> {
    let kind = Kind::Duration(least_ms, most_ms);
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!(
            "expected {}, found {text:?} without a unit; write \"{text}s\" or \"{text}ms\"",
            kind.expected()
        ));
    }
    let day = jiff::SpanRelativeTo::days_are_24_hours();
    let parsed = text.parse::<jiff::Span>().and_then(|span| span.to_duration(day));
    let Ok(parsed) = parsed else { return Err(format!("expected {}, found the text {text:?}", kind.expected())) };
    if parsed.is_negative() {
        return Err(format!("a duration cannot be negative, found {text:?}"));
    }
    if parsed.subsec_nanos() % 1_000_000 != 0 {
        return Err(format!("expected whole milliseconds, found {text:?}"));
    }
    let parsed = parsed.unsigned_abs();
    let bounds = Duration::from_millis(least_ms)..=Duration::from_millis(most_ms);
    if bounds.contains(&parsed) {
        return Ok(Typed::Duration(parsed));
    }
    Err(format!("expected a duration from {} to {}, found {text:?}", time_text(least_ms), time_text(most_ms)))
}

/// Formats a bound, ms, with a unit.
fn time_text(ms: u64) -> String {
    let units = [("d", 24 * 3_600_000), ("h", 3_600_000), ("s", 1_000)];
    let fitting = units.iter().find(|(_, unit)| ms >= *unit && ms.is_multiple_of(*unit));
    fitting.map_or_else(|| format!("{ms}ms"), |(name, unit)| format!("{}{name}", ms / unit))
}

fn size(text: &str, least: u64, most: u64) -> Result<Typed, String> {
    let kind = Kind::Size(least, most);
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!(
            "expected {}, found {text:?} without a unit; write \"{text}B\" for bytes",
            kind.expected()
        ));
    }
    let Ok(parsed) = text.parse::<bytesize::ByteSize>() else {
        return Err(format!("expected {}, found the text {text:?}", kind.expected()));
    };
    if (least..=most).contains(&parsed.as_u64()) {
        return Ok(Typed::Size(parsed.as_u64()));
    }
    let bound = |bytes| bytesize::ByteSize::b(bytes).display().iec().to_string();
    Err(format!("expected a size from {} to {}, found {text:?}", bound(least), bound(most)))
}

/// Converts a URL or a path; `file:` URLs and paths may be relative to `base`.
fn url(text: &str, base: &Path) -> Result<Typed, String> {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    match scheme {
        None => folder(&base.join(text.strip_prefix("file:").unwrap_or(text)), text),
        Some("file") => {
            let path = &text["file://".len()..];
            if path.starts_with('/') || path.starts_with("localhost/") {
                let url = Url::parse(text).map_err(|error| format!("{text:?} is not a URL: {error}"))?;
                return whole(url, text, ", or the path without file://").map(Typed::Url);
            }
            folder(&base.join(path), text)
        }
        Some("s3" | "gs" | "az") => bucket(text),
        Some(other) => Err(format!("expected a folder or a URL of file://, s3://, gs:// or az://, found {other}://")),
    }
}

fn folder(path: &Path, text: &str) -> Result<Typed, String> {
    let path = std::path::absolute(path).map_err(|error| format!("{text:?} is not a folder: {error}"))?;
    Url::from_file_path(&path).map(Typed::Url).map_err(|()| format!("{text:?} is not a folder"))
}

fn bucket(text: &str) -> Result<Typed, String> {
    if !cfg!(feature = "cloud") {
        return Err(format!(
            "{text:?} needs a keyfold built with cloud storage; build one with cargo build --release --features cloud"
        ));
    }
    let url = Url::parse(text).map_err(|error| format!("{text:?} is not a URL: {error}"))?;
    if url.host_str().is_none_or(str::is_empty) {
        return Err(format!("{text:?} has no bucket; write it as \"{}://bucket/folder\"", url.scheme()));
    }
    whole(url, text, "").map(Typed::Url)
}

/// Refuses a URL that ends before the text does.
fn whole(url: Url, text: &str, or: &str) -> Result<Url, String> {
    if url.fragment().is_some() || url.query().is_some() {
        return Err(format!("{text:?} has a # or ?, which ends the path of a URL; write %23 or %3F{or}"));
    }
    Ok(url)
}

fn texts(items: &[toml::Value]) -> Option<Vec<String>> {
    items.iter().map(|item| item.as_str().filter(|text| !text.is_empty()).map(str::to_owned)).collect()
}

fn nodes(items: &[toml::Value]) -> Result<Typed, String> {
    let expected = || format!("expected {}", Kind::Nodes.expected());
    let nodes = texts(items).ok_or_else(expected)?;
    nodes.iter().map(|node| with_port(node)).collect::<Result<_, _>>().map(Typed::Texts)
}

/// Returns `host:port`, with the default port if there is none.
fn with_port(node: &str) -> Result<String, String> {
    match node.rsplit_once(':') {
        None => Ok(format!("{node}:{}", keys::CQL_PORT)),
        Some(_) if node.starts_with('[') && node.ends_with(']') => Ok(format!("{node}:{}", keys::CQL_PORT)),
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(node.to_owned()),
        Some(_) => Err(format!("expected nodes such as \"localhost:9042\", found {node:?}")),
    }
}

/// Converts properties to text and reads the files of secrets.
fn properties(table: &toml::Table, base: &Path) -> Result<Typed, Vec<Misfit>> {
    let (mut properties, mut files) = (BTreeMap::new(), BTreeMap::new());
    let mut misfits = Vec::new();
    for (name, value) in table {
        match property(table, name, value, base) {
            Ok((property, text)) => {
                if property != *name {
                    files.extend(secret_file(value, base).map(|file| (property.clone(), file)));
                }
                properties.insert(property, text);
            }
            Err(reason) => misfits.push(Misfit { name: Some(name.clone()), reason }),
        }
    }
    if misfits.is_empty() { Ok(Typed::Properties(properties, files)) } else { Err(misfits) }
}

fn property(table: &toml::Table, name: &str, value: &toml::Value, base: &Path) -> Result<(String, String), String> {
    let secret_name = name.strip_suffix("_file").filter(|name| keys::SECRET_PROPERTIES.contains(name));
    if let Some(secret_name) = secret_name {
        if table.contains_key(secret_name) {
            return Err(format!("{secret_name} is also set; keep one"));
        }
        return Ok((secret_name.to_owned(), secret(value, base)?));
    }
    match value {
        toml::Value::String(text) => Ok((name.to_owned(), text.clone())),
        toml::Value::Integer(number) => Ok((name.to_owned(), number.to_string())),
        toml::Value::Float(number) => Ok((name.to_owned(), number.to_string())),
        toml::Value::Boolean(flag) => Ok((name.to_owned(), flag.to_string())),
        toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
            Err(format!("expected text, a number, true or false, found {}", found(value)))
        }
    }
}

/// Converts a value to JSON; `path` is its place in the whole value.
fn json(path: &str, value: &toml::Value) -> Result<serde_json::Value, Misfit> {
    let misfit = |reason: String| Misfit { name: Some(path.to_owned()).filter(|path| !path.is_empty()), reason };
    Ok(match value {
        toml::Value::String(text) => serde_json::Value::String(text.clone()),
        toml::Value::Integer(number) => serde_json::Value::from(*number),
        toml::Value::Float(number) => serde_json::Number::from_f64(*number)
            .map(serde_json::Value::Number)
            .ok_or_else(|| misfit(format!("JSON cannot represent {number}")))?,
        toml::Value::Boolean(flag) => serde_json::Value::Bool(*flag),
        toml::Value::Datetime(time) => {
            return Err(misfit(format!("JSON has no dates; write it as text, \"{time}\"")));
        }
        toml::Value::Array(items) => {
            serde_json::Value::Array(items.iter().map(|item| json(path, item)).collect::<Result<_, _>>()?)
        }
        toml::Value::Table(table) => {
            let inner = |(name, value): (&String, &toml::Value)| {
                Ok::<_, Misfit>((name.clone(), json(&keys::join(path, name), value)?))
            };
            serde_json::Value::Object(table.iter().map(inner).collect::<Result<_, _>>()?)
        }
    })
}
