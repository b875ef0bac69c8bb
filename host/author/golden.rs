//! `keyfold plugin test`: golden tests. A case is a folder with records and the output that they must give. The host folds them as it would
//! fold a topic: in batches of several sizes, without its checkpoints, and through kills. The output must be the same each time.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use similar::TextDiff;

use crate::author::child::{self, Ended};
use crate::author::{build, io_failure, plugin_folder};
use crate::clock;
use crate::config::{self, Time};
use crate::failure::Failure;
use crate::lane::law::{self, Chance};
use crate::lane::trial::{self, Found};
use crate::plugin::sandbox::load_plugin;
use crate::plugin::{Fault, Plugin};
use crate::record::Records;
use crate::source::recent::recent;

/// What to test.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Options {
    /// Run only cases whose names contain one of these
    pub cases: Vec<String>,
    /// The plugin's folder
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub folder: PathBuf,
    /// Test this file instead of building the folder
    #[arg(long, value_name = "FILE")]
    pub plugin: Option<PathBuf>,
    /// Write the plugin's output as the expected output
    #[arg(long)]
    pub update: bool,
    /// Print the output of each case, including the plugin's log
    #[arg(short, long)]
    pub verbose: bool,
}

/// The files with expected output, and what they hold.
const EXPECTED: [(&str, &str); 3] =
    [("rows.ndjson", "rows"), ("dead-letters.ndjson", "dead letters"), ("logs.ndjson", "log lines")];
/// The most differing lines that are printed for a case.
const LINES: usize = 40;
/// How often one case is killed.
const KILLS: u32 = 3;
/// The most records that are read; a golden test has fewer.
const RECORDS: u64 = 1_000_000;

/// The output of a host: rows, dead letters, lines of the plugin's log.
#[derive(Clone, Debug, Default, PartialEq)]
struct Given([Vec<String>; 3]);

/// The result of a case as text; an error says what differs.
type Verdict = Result<String, String>;
/// Another way to fold a case, with its name.
type Way<'a> = (&'a str, &'a dyn Fn() -> Result<Verdict, Failure>);

/// The result of one case.
#[derive(Clone, Debug, Serialize)]
pub struct CaseResult {
    /// Name of the case's folder.
    pub case: String,
    /// Whether everything was as expected.
    pub passed: bool,
    /// What was tested, or what differs.
    pub detail: String,
    /// Records, events and firings that were rejected; none if the case failed.
    pub rejected: Option<u64>,
    /// Late events.
    pub late: Option<u64>,
    /// Timers that are open after the last record.
    pub open_timers: Option<u64>,
}

impl std::fmt::Display for CaseResult {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}  {}: {}", if self.passed { "ok  " } else { "FAIL" }, self.case, self.detail)
    }
}

impl CaseResult {
    fn passed(case: String, mut detail: String, found: &Found) -> CaseResult {
        if let Some(unseen) = unseen(found) {
            // The plugin's output may follow in lines of its own.
            let end = detail.find('\n').unwrap_or(detail.len());
            detail.insert_str(end, &format!("; {unseen}"));
        }
        let [rejected, late, open_timers] = [found.rejected, found.late, found.open_timers].map(Some);
        CaseResult { case, passed: true, detail, rejected, late, open_timers }
    }

    fn failed(case: String, detail: String) -> CaseResult {
        CaseResult { case, passed: false, detail, rejected: None, late: None, open_timers: None }
    }
}

/// Returns what a case's rows do not show: what gave none, and what is still to come.
fn unseen(found: &Found) -> Option<String> {
    let counts = [(found.rejected, "rejected"), (found.late, "late"), (found.open_timers, "timers open at the end")];
    let words = counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
    let words = words.collect::<Vec<_>>().join(", ");
    (!words.is_empty()).then_some(words)
}

/// Runs the cases and hands each result to `tell`. Returns whether all passed.
pub fn test(options: &Options, mut tell: impl FnMut(&CaseResult)) -> Result<bool, Failure> {
    let (folder, _) = plugin_folder(&options.folder)?;
    let plugin = match &options.plugin {
        Some(file) => file.canonicalize().map_err(io_failure(file))?,
        None => build::build(&folder)?,
    };
    let cases = cases(&folder.join("golden"), &options.cases)?;
    let place = tempfile::tempdir().map_err(io_failure(Path::new("a temporary folder")))?;
    let mut all = true;
    for folder in cases {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let case = Case::new(folder, &plugin, place.path())?;
        let result = match case.verdict(options)? {
            Ok((detail, found)) => CaseResult::passed(name, detail, &found),
            Err(difference) => CaseResult::failed(name, difference),
        };
        all &= result.passed;
        tell(&result);
    }
    Ok(all)
}

fn cases(folder: &Path, wanted: &[String]) -> Result<Vec<PathBuf>, Failure> {
    let entries = fs::read_dir(folder).map_err(io_failure(folder))?;
    let is_wanted = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()))
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.is_dir())
        .filter(is_wanted)
        .collect();
    found.sort();
    if found.is_empty() {
        let message = format!("{}: no case found; a case is a folder that contains records.ndjson", folder.display());
        return Err(Failure::config(message));
    }
    Ok(found)
}

/// A case, and the folder where it runs.
struct Case<'a> {
    folder: PathBuf,
    plugin: PathBuf,
    /// The lines of its records.
    records: Vec<String>,
    /// `[time]` and `[plugin]`.
    settings: toml::Table,
    place: &'a Path,
}

impl<'a> Case<'a> {
    fn new(folder: PathBuf, plugin: &Path, place: &'a Path) -> Result<Case<'a>, Failure> {
        let records = folder.join("records.ndjson");
        let records: Vec<String> =
            fs::read_to_string(&records).map_err(io_failure(&records))?.lines().map(str::to_owned).collect();
        let file = folder.join("case.toml");
        let text = if file.exists() { fs::read_to_string(&file).map_err(io_failure(&file))? } else { String::new() };
        let settings: toml::Table =
            text.parse().map_err(|error| Failure::config(format!("{}: {error}", file.display())))?;
        if let Some(key) = settings.keys().find(|key| !["time", "plugin"].contains(&key.as_str())) {
            let message = format!("{}: unknown key {key}; a case may set [time] and [plugin]", file.display());
            return Err(Failure::config(message));
        }
        Ok(Case { folder, plugin: plugin.to_owned(), records, settings, place })
    }

    /// Returns what was tested and what the output does not show, or else what differs.
    fn verdict(&self, options: &Options) -> Result<Result<(String, Found), String>, Failure> {
        let whole = match self.whole()? {
            Ok(whole) => whole,
            Err(failure) => return Ok(Err(failure)),
        };
        let (plugin, time, records) = self.tried()?;
        let as_failure = |fault: Fault| Failure::plugin(fault.text());
        // As before a deployment: the output must not depend on batches, or on earlier calls of an instance.
        if let Some(violation) = law::check(&plugin, time, &records).map_err(as_failure)? {
            return Ok(Err(violation.to_string()));
        }
        if options.update {
            self.update(&whole)?;
        } else if let Some(difference) = self.unexpected(&whole)? {
            return Ok(Err(difference));
        }
        let ways: [Way<'_>; 5] = [
            ("folded in batches of 1", &|| self.again(&whole, 1)),
            ("folded in batches of 7", &|| self.again(&whole, 7)),
            ("stopped at random", &|| self.stopped(&whole)),
            ("replayed", &|| self.replayed(&whole)),
            ("killed", &|| self.killed(&whole)),
        ];
        for (way, run) in ways {
            if let Err(difference) = run()? {
                return Ok(Err(format!("{way}: the output differs\n{difference}")));
            }
        }
        let counts = EXPECTED.iter().zip(&whole.0).map(|((_, what), lines)| format!("{} {what}", lines.len()));
        let mut words = format!(
            "{}; the same when folded whole, in batches of 1 and of 7, stopped at random, replayed, killed",
            counts.collect::<Vec<_>>().join(", ")
        );
        if options.verbose {
            whole.0.iter().flatten().for_each(|line| words.push_str(&format!("\n      {line}")));
        }
        let found = trial::fold(&plugin, time, &records, false).map_err(as_failure)?;
        Ok(Ok((words, found)))
    }

    // ---- expected output

    fn update(&self, whole: &Given) -> Result<(), Failure> {
        for ((file, _), lines) in EXPECTED.iter().zip(&whole.0) {
            let path = self.folder.join(file);
            if lines.is_empty() && *file != EXPECTED[0].0 {
                if path.exists() {
                    fs::remove_file(&path).map_err(io_failure(&path))?;
                }
                continue;
            }
            fs::write(&path, lines.iter().map(|line| format!("{line}\n")).collect::<String>())
                .map_err(io_failure(&path))?;
        }
        Ok(())
    }

    fn unexpected(&self, whole: &Given) -> Result<Option<String>, Failure> {
        if !self.folder.join(EXPECTED[0].0).exists() {
            let words =
                "there is no rows.ndjson to compare with; run `keyfold plugin test --update` and read what it wrote";
            return Ok(Some(words.to_owned()));
        }
        let mut expected = Given::default();
        for ((file, _), lines) in EXPECTED.iter().zip(&mut expected.0) {
            let path = self.folder.join(file);
            if path.exists() {
                let text = fs::read_to_string(&path).map_err(io_failure(&path))?;
                *lines = text.lines().map(|line| normal(line).unwrap_or_else(|| line.to_owned())).collect();
            }
        }
        Ok(difference(&expected, whole))
    }

    // ---- ways

    /// Folds all records in one batch on one thread: the other ways are compared with this.
    fn whole(&self) -> Result<Result<Given, String>, Failure> {
        self.begin(&self.records)?;
        self.host("workers = 1", None)
    }

    fn again(&self, whole: &Given, batch_records: usize) -> Result<Verdict, Failure> {
        self.begin(&self.records)?;
        let given = self.host(&format!("workers = 2\nbatch_records = {batch_records}"), None)?;
        Ok(given.and_then(|given| same(whole, &given)))
    }

    /// Stops at random records, and resumes from the checkpoint.
    fn stopped(&self, whole: &Given) -> Result<Verdict, Failure> {
        self.begin(&[])?;
        let (mut chance, mut end) = (Chance::new(), self.with_all_partitions().saturating_sub(1));
        while end < self.records.len() {
            end = (end + 1 + chance.below(self.records.len() / 3 + 1)).min(self.records.len());
            self.write_records(&self.records[..end])?;
            if let Err(failure) = self.host("workers = 1", None)? {
                return Ok(Err(failure));
            }
        }
        Ok(same(whole, &self.given(Vec::new())?))
    }

    /// Returns how many of the first records contain one of each partition. A pipeline cannot get new partitions later.
    fn with_all_partitions(&self) -> usize {
        let mut seen = BTreeSet::new();
        let partition = |line: &str| serde_json::from_str::<Value>(line).ok()?["partition"].as_u64();
        let firsts = (1..).zip(&self.records).filter(|(_, line)| seen.insert(partition(line)));
        firsts.last().map_or(0, |(count, _)| count)
    }

    /// Folds the records again without checkpoints, into new files.
    fn replayed(&self, whole: &Given) -> Result<Verdict, Failure> {
        self.begin(&self.records)?;
        if let Err(failure) = self.host("workers = 2", None)? {
            return Ok(Err(failure));
        }
        for path in ["state/lanes", "rows.ndjson", "dead-letters.ndjson"] {
            let path = self.place.join(path);
            let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            gone.map_err(io_failure(&path))?;
        }
        let given = self.host("workers = 2", None)?;
        Ok(given.and_then(|given| same(whole, &given)))
    }

    /// Kills the host three times before the end.
    fn killed(&self, whole: &Given) -> Result<Verdict, Failure> {
        let slow = "workers = 1\nbatch_records = 1";
        self.begin(&self.records)?;
        let began = clock::instant();
        if let Err(failure) = self.host(slow, None)? {
            return Ok(Err(failure));
        }
        let (mut chance, lasts) = (Chance::new(), clock::since(began));
        self.begin(&self.records)?;
        for _ in 0..KILLS {
            let moment = lasts.mul_f64(f64::from(u32::try_from(chance.below(1000)).unwrap_or(0)) / 1000.0);
            if let Err(failure) = self.host(slow, Some(moment))? {
                return Ok(Err(failure));
            }
        }
        let given = self.host("workers = 2", None)?;
        Ok(given.and_then(|given| same(whole, &given)))
    }

    /// The plugin, the time settings and the records of the case.
    fn tried(&self) -> Result<(Arc<Plugin>, Time, Records), Failure> {
        self.write_config("workers = 1")?;
        let renamed = |Failure { exit, message, .. }| Failure::new(exit, self.by_the_authors_names(&message));
        let config = config::load(&self.place.join("keyfold.toml"), std::iter::empty()).map_err(renamed)?;
        let (plugin, _) = load_plugin(&config).map_err(renamed)?;
        let records = recent(&config.source, RECORDS, clock::instant() + Duration::from_secs(60));
        Ok((plugin, config.time, records.map_err(renamed)?))
    }

    // ---- the host

    /// Removes everything from earlier runs.
    fn begin(&self, records: &[String]) -> Result<(), Failure> {
        empty(self.place)?;
        self.write_records(records)
    }

    fn write_records(&self, lines: &[String]) -> Result<(), Failure> {
        let path = self.place.join("records.ndjson");
        fs::write(&path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).map_err(io_failure(&path))
    }

    fn write_config(&self, run: &str) -> Result<PathBuf, Failure> {
        let mut plugin = self.settings.get("plugin").and_then(toml::Value::as_table).cloned().unwrap_or_default();
        plugin.insert("component".into(), self.plugin.to_string_lossy().into_owned().into());
        plugin.insert("log_rate".into(), i64::MAX.into()); // every line is compared
        let mut whole = toml::Table::new();
        whole.insert("plugin".into(), plugin.into());
        whole.extend(self.settings.get("time").map(|time| ("time".to_owned(), time.clone())));
        let text = format!(
            "name = \"golden\"\n{whole}\n[source.file]\npath = \"records.ndjson\"\nformat = \"records\"\n[state]\nurl = \"state\"\n\
             checkpoint_interval = \"100ms\"\n[sink.ndjson]\npath = \"rows.ndjson\"\n[dead_letters]\nfile = \"dead-letters.ndjson\"\n[run]\n{run}\n"
        );
        let path = self.place.join("keyfold.toml");
        fs::write(&path, text).map_err(io_failure(&path))?;
        Ok(path)
    }

    /// Runs the host until it ends, or kills it. Returns its output, or its error message.
    fn host(&self, run: &str, kill_after: Option<Duration>) -> Result<Result<Given, String>, Failure> {
        let Ended { failure, logs } = child::run(&self.write_config(run)?, kill_after)?;
        match failure {
            Some(failure) => Ok(Err(self.by_the_authors_names(&failure))),
            None => self.given(logs).map(Ok),
        }
    }

    /// Names the case's own files in a message, instead of the copies that the host was given.
    fn by_the_authors_names(&self, message: &str) -> String {
        let place = self.place.to_string_lossy();
        let file = |name: &str| self.folder.join(name).to_string_lossy().into_owned();
        let generated = format!("{place}/keyfold.toml");
        let text = if message.contains(&generated) { without_lines(message) } else { message.to_owned() };
        let text = text.replace(&generated, &file("case.toml"));
        text.replace(&format!("{place}/records.ndjson"), &file("records.ndjson")).replace(&*place, &file(""))
    }

    fn given(&self, logs: Vec<Value>) -> Result<Given, Failure> {
        let lines = |name: &str| {
            let path = self.place.join(name);
            let text =
                if path.exists() { fs::read_to_string(&path).map_err(io_failure(&path))? } else { String::new() };
            Ok::<_, Failure>(text.lines().filter_map(normal).collect())
        };
        let of_plugin = logs.iter().filter(|line| line["target"] == "keyfold::plugin_log");
        let logs =
            of_plugin.map(|line| json!({"level": line["level"], "message": line["message"]}).to_string()).collect();
        Ok(Given([lines("rows.ndjson")?, lines("dead-letters.ndjson")?, logs]))
    }
}

/// Takes numbers of lines in the generated configuration out of a message: `case.toml` has others.
fn without_lines(text: &str) -> String {
    let bare = |part: &str| {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        rest.strip_prefix(": ").filter(|_| rest.len() < part.len()).map(str::to_owned)
    };
    let mut parts = text.split("line ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| match bare(part) {
        Some(rest) => text + &rest,
        None => text + "line " + part,
    })
}

/// Removes everything in a folder.
fn empty(folder: &Path) -> Result<(), Failure> {
    for entry in fs::read_dir(folder).map_err(io_failure(folder))?.filter_map(Result::ok) {
        let path = entry.path();
        let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        gone.map_err(io_failure(&path))?;
    }
    Ok(())
}

/// Returns a line without what depends on the build of the plugin; none if the line is incomplete.
fn normal(line: &str) -> Option<String> {
    let mut value: Value = serde_json::from_str(line).ok()?;
    if let Some(letter) = value.as_object_mut().filter(|object| object.contains_key("stage")) {
        letter.remove("plugin");
        letter.remove("deployment"); // a case has one
    }
    Some(value.to_string())
}

/// Compares rows and dead letters. Log lines may repeat after a restart, so they are not compared.
fn same(whole: &Given, given: &Given) -> Verdict {
    let (mut whole, mut given) = (whole.clone(), given.clone());
    (whole.0[2], given.0[2]) = (Vec::new(), Vec::new());
    difference(&whole, &given).map_or(Ok(String::new()), Err)
}

/// Returns the differences as lines that begin with `-` (expected) and `+` (given); none if there are none.
fn difference(expected: &Given, given: &Given) -> Option<String> {
    let mut text = String::new();
    for ((what, (_, name)), given) in expected.0.iter().zip(&EXPECTED).zip(&given.0) {
        if what == given {
            continue;
        }
        let (before, after) = (what.join("\n"), given.join("\n"));
        text.push_str(&format!("{name} differ: expected (-), given (+)\n"));
        let diff = TextDiff::from_lines(&before, &after);
        let unified = diff.unified_diff().context_radius(1).missing_newline_hint(false).to_string();
        let shown: Vec<&str> = unified.lines().take(LINES).collect();
        shown.iter().for_each(|line| text.push_str(&format!("      {line}\n")));
        if unified.lines().count() > LINES {
            text.push_str("      ...\n");
        }
    }
    (!text.is_empty()).then(|| text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_the_authors_files() {
        let place = Path::new("made/x1");
        let (folder, plugin) = ("counts/golden/first".into(), "counts/counts.wasm".into());
        let case = Case { folder, plugin, records: Vec::new(), settings: toml::Table::new(), place };
        let check = |said: &str, told: &str| assert_eq!(case.by_the_authors_names(said), told);
        check(
            "made/x1/keyfold.toml: line 3: unknown key plugin.fule",
            "counts/golden/first/case.toml: unknown key plugin.fule",
        );
        check(
            "made/x1/keyfold.toml has 2 problems:\n  line 3: a deadline 4\n  line 14: b",
            "counts/golden/first/case.toml has 2 problems:\n  a deadline 4\n  b",
        );
        check("made/x1/records.ndjson: line 7: not JSON", "counts/golden/first/records.ndjson: line 7: not JSON");
    }
}
