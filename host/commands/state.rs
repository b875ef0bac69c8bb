//! `keyfold state`: the state of keys as of the last checkpoint, while the host keeps running. Only reads, takes over no lane, and stays
//! with the checkpoint that it opens first.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use object_store::ObjectStore;
use serde_json::{Map, Value, json};
use url::Url;

use crate::commands::cli::groups::StateCommand;
use crate::config::Config;
use crate::deployment::PipelineLog;
use crate::event_time::EventTime;
use crate::failure::{Exit, Failure};
use crate::paths::{is_stream, refuse_pipe_or_device, same_file, sync_name};
use crate::record::{hex, iso};
use crate::report::Output;
use crate::state::backup::{self, Copied};
use crate::state::objects::{Presence, objects, runtime};
use crate::state::reader::{Reader, StoredKey};

/// Characters of a value that a list shows.
const SHOWN: usize = 60;

/// Performs a subcommand; returns its answer.
pub fn perform(command: StateCommand) -> Result<String, Failure> {
    match command {
        StateCommand::List { config, prefix, limit, output } => list(&config.load()?, &prefix, limit, output),
        StateCommand::Get { config, key, output } => get(&config.load()?, &key, output),
        StateCommand::Export { config, out, output } => export(&config.load()?, &out, output),
        StateCommand::Backup { config, to, output } => backup(&config.load()?, &to, output),
        StateCommand::Restore { config, from, output } => restore(&config.load()?, &from, output),
    }
}

/// A lane with a checkpoint.
struct Lane {
    name: String,
    reader: Reader,
    /// Last offset per partition, `partition/offset`.
    up_to: String,
}

/// The lanes of a pipeline that have a checkpoint.
struct Lanes {
    lanes: Vec<Lane>,
    _runtime: tokio::runtime::Runtime,
}

impl Lanes {
    fn open(config: &Config) -> Result<Lanes, Failure> {
        let (runtime, objects) = (runtime()?, objects(&config.state.url)?);
        let mut lanes = Vec::new();
        for name in PipelineLog::new(objects.clone(), runtime.handle().clone()).lanes()? {
            let Some(reader) = Reader::open(&objects, &format!("lanes/{name}"), runtime.handle())? else { continue };
            let Some(checkpoint) = reader.checkpoint() else { continue };
            let next = checkpoint.partitions.iter().map(|(partition, at)| format!("{partition}/{}", at.last.offset));
            let up_to = next.collect::<Vec<_>>().join(", ");
            lanes.push(Lane { name, reader, up_to });
        }
        if lanes.is_empty() {
            let message =
                format!("no checkpoint in state.url {}: the pipeline has not written one yet", config.state.url);
            return Err(Failure::new(Exit::State, message));
        }
        Ok(Lanes { lanes, _runtime: runtime })
    }

    /// Hands over the keys with this prefix, lane by lane, until `take` returns false.
    fn each(&self, prefix: &str, mut take: impl FnMut(&Lane, StoredKey) -> bool) -> Result<(), Failure> {
        let mut more = true;
        for lane in self.lanes.iter() {
            if more {
                lane.reader.each(prefix.as_bytes(), |key| {
                    more = take(lane, key);
                    more
                })?;
            }
        }
        Ok(())
    }
}

fn list(config: &Config, prefix: &str, limit: usize, output: Output) -> Result<String, Failure> {
    let as_json = output == Output::Json;
    let lanes = Lanes::open(config)?;
    let mut lines = Vec::new();
    let mut is_cut = false;
    lanes.each(prefix, |lane, key| {
        is_cut = lines.len() == limit;
        if !is_cut {
            lines.push(if as_json { object(&lane.name, &key).to_string() } else { line(&lane.name, &key) });
        }
        !is_cut
    })?;
    if !as_json {
        for lane in &lanes.lanes {
            lines.push(format!("lane {}: as of the checkpoint after {} (partition/offset)", lane.name, lane.up_to));
        }
        if is_cut {
            lines.push(format!(
                "more than {limit} keys: raise --limit, or write all of them with `keyfold state export`"
            ));
        }
    }
    Ok(lines.join("\n"))
}

/// Shows a key in each lane that has it. A key that is not text is named as [`list`] shows it.
fn get(config: &Config, key: &str, output: Output) -> Result<String, Failure> {
    let as_json = output == Output::Json;
    let lanes = Lanes::open(config)?;
    let mut found = Vec::new();
    for key in [Some(key.as_bytes().to_vec()), unreadable(key)].into_iter().flatten() {
        for lane in &lanes.lanes {
            let Some(stored) = lane.reader.key(&key)? else { continue };
            found.push(if as_json { object(&lane.name, &stored).to_string() } else { page(lane, &stored) });
        }
    }
    if found.is_empty() {
        let message = format!("key {key:?} not found: no lane has state for it as of its last checkpoint");
        return Err(Failure::new(Exit::State, message));
    }
    Ok(found.join("\n"))
}

/// Writes all keys to a file, one JSON object per line; the file appears when it is complete.
fn export(config: &Config, file: &Path, output: Output) -> Result<String, Failure> {
    let refuse = |why: &str| Failure::config(format!("state export: {why}"));
    if is_stream(file) {
        return Err(refuse(
            "what is exported replaces a file once it is complete, so it cannot go to standard output; name a file",
        ));
    }
    refuse_pipe_or_device(file, "what is exported replaces a file once it is complete").map_err(|why| refuse(&why))?;
    if let Some((key, _)) = config.files().into_iter().find(|(_, path)| same_file(path, file)) {
        return Err(refuse(&format!("{} is {key}, which would be replaced; name another file", file.display())));
    }
    let lanes = Lanes::open(config)?;
    let refused = |e: std::io::Error| Failure::new(Exit::Outside, format!("cannot write {}: {e}", file.display()));
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut out = BufWriter::new(tempfile::NamedTempFile::new_in(folder).map_err(refused)?);
    let (mut keys, mut failed) = (0_u64, None);
    lanes.each("", |lane, key| {
        keys += 1;
        failed = writeln!(out, "{}", object(&lane.name, &key)).err();
        failed.is_none()
    })?;
    failed.map_or(Ok(()), Err).map_err(refused)?;
    let whole = out.into_inner().map_err(|e| refused(e.into_error()))?;
    whole.as_file().sync_all().map_err(refused)?;
    whole.persist(file).map_err(|e| refused(e.error))?;
    sync_name(file).map_err(refused)?;
    let checkpoints: Map<String, Value> =
        lanes.lanes.iter().map(|lane| (lane.name.clone(), lane.up_to.clone().into())).collect();
    Ok(output.render(&json!({"keys": keys, "file": file, "lanes": checkpoints}), |_| {
        let up_to: Vec<String> =
            lanes.lanes.iter().map(|lane| format!("lane {} after {}", lane.name, lane.up_to)).collect();
        let up_to = up_to.join("; ");
        format!("{keys} key(s) in {}, as of the checkpoints of {up_to} (partition/offset)", file.display())
    }))
}

fn backup(config: &Config, to: &Url, output: Output) -> Result<String, Failure> {
    let (from, to) = ((&config.state.url, objects(&config.state.url)?), (to, objects(to)?));
    copy(from, to, output)
}

fn restore(config: &Config, from: &Url, output: Output) -> Result<String, Failure> {
    let to = objects(&config.state.url)?;
    let _presence = Presence::exclude(&config.state.url)?;
    copy((from, objects(from)?), (&config.state.url, to), output)
}

/// Copies a pipeline from one store to another one, which must not hold one.
fn copy(
    (from, source): (&Url, Arc<dyn ObjectStore>),
    (to, target): (&Url, Arc<dyn ObjectStore>),
    output: Output,
) -> Result<String, Failure> {
    let runtime = runtime()?;
    if !runtime.block_on(backup::is_empty(&target))? {
        let message =
            format!("{to} holds a pipeline, or a part of one: name an empty folder or another path in the bucket");
        return Err(Failure::state(message));
    }
    let lanes = PipelineLog::new(Arc::clone(&source), runtime.handle().clone()).lanes()?;
    let Copied { lanes, objects, bytes } = runtime.block_on(backup::copy(&source, &target, &lanes))?;
    Ok(output.render(&json!({"lanes": lanes, "objects": objects, "bytes": bytes}), |_| {
        let size = bytesize::ByteSize::b(bytes).display().iec();
        format!("copied {lanes} lane(s) with their journals, and {objects} object(s), {size}, from {from} to {to}")
    }))
}

/// Returns a key as JSON. Values are base64, because they are the plugin's bytes.
fn object(lane: &str, key: &StoredKey) -> Value {
    let StoredKey { key, state, version } = key;
    let mut object = Map::new();
    object.insert("lane".into(), lane.into());
    object.insert("key".into(), String::from_utf8_lossy(key).into());
    object.insert("key_base64".into(), STANDARD.encode(key).into());
    object.insert("value_base64".into(), state.value.as_deref().map(|value| STANDARD.encode(value)).into());
    object.insert("list_base64".into(), state.list.iter().map(|item| STANDARD.encode(item)).collect());
    let timer = state.timer.map(EventTime::ms);
    object.insert("timer_ms".into(), timer.into());
    object.insert("timer".into(), timer.map(iso).into());
    object.insert("state_version".into(), (*version).into());
    Value::Object(object)
}

fn line(lane: &str, key: &StoredKey) -> String {
    let StoredKey { key, state, .. } = key;
    let value = state.value.as_deref().map_or_else(|| "no value".into(), |value| format!("value {}", short(value)));
    let timer = state.timer.map_or_else(|| "no timer".into(), |timer| format!("timer {}", iso(timer.ms())));
    format!("{lane}  {}  {value}, list of {}, {timer}", readable(key), state.list.len())
}

fn page(lane: &Lane, key: &StoredKey) -> String {
    let StoredKey { key, state, version } = key;
    let mut lines = vec![
        format!("lane           {} (as of the checkpoint after {})", lane.name, lane.up_to),
        format!("key            {}", readable(key)),
        format!("value          {}", state.value.as_deref().map_or_else(|| "none".into(), readable)),
        format!("timer          {}", state.timer.map_or_else(|| "none".into(), |timer| iso(timer.ms()))),
        format!("state version  {version}"),
        format!("list           {} item(s)", state.list.len()),
    ];
    lines.extend(state.list.iter().map(|item| format!("  {}", readable(item))));
    lines.join("\n")
}

fn short(bytes: &[u8]) -> String {
    let text = readable(bytes);
    match text.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text,
    }
}

/// Returns bytes as text if they are printable, and in hexadecimal digits if not.
fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => format!("0x{}", hex(bytes)),
    }
}

/// Parses what [`readable`] shows in hexadecimal digits.
fn unreadable(shown: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = shown.strip_prefix("0x")?.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_no_text_is_named_as_it_is_shown() {
        for key in [&b"\x00\xff"[..], b"a\nb", &[128; 9]] {
            assert_eq!(unreadable(&readable(key)).as_deref(), Some(key));
        }
        for other in ["1042", "0xf", "0xzz", "0x+1"] {
            assert_eq!(unreadable(other).filter(|key| readable(key) == other), None, "{other}");
        }
    }

    #[test]
    fn text_is_shown_as_text_and_all_else_in_hexadecimal_digits() {
        assert_eq!(readable("séance".as_bytes()), "séance");
        assert_eq!(readable(b"\x00\xff"), "0x00ff");
        assert_eq!(readable(b"a\nb"), "0x610a62");
        assert_eq!(short("x".repeat(61).as_bytes()), format!("{}...", "x".repeat(60)));
    }
}
