//! The host as a process: a folder with its configuration and state, a run to the end, or a run that the test watches, stops and kills.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The program under test.
pub(crate) const KEYFOLD: &str = env!("CARGO_BIN_EXE_keyfold");
/// How long a test waits for what must happen; generous, since test machines are slow and shared.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// The built plugin, as the build leaves it beside the program.
pub(crate) fn plugin_file(name: &str) -> String {
    let target = Path::new(KEYFOLD).ancestors().nth(2).expect("the program lies in a profile's folder");
    target.join(format!("plugins/wasm32-unknown-unknown/plugin/{name}.wasm")).to_string_lossy().into_owned()
}

/// A folder that a host runs in. Removed with the value.
#[derive(Debug)]
pub(crate) struct Pipeline {
    dir: tempfile::TempDir,
}

/// How a host ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Its exit code; none if it was killed.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error, as written.
    pub(crate) stderr: String,
}

/// A host that runs. Killed with the value.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Pipeline {
    /// A new folder whose `keyfold.toml` is `config`, with `{dir}` replaced by the folder's path.
    pub(crate) fn new(config: &str) -> Pipeline {
        let dir = tempfile::tempdir().expect("the system has a folder for temporary files");
        let pipeline = Pipeline { dir };
        pipeline.configure(config);
        pipeline
    }

    /// Writes another configuration.
    pub(crate) fn configure(&self, config: &str) {
        let path = self.dir.path().to_str().expect("temporary folders have plain names");
        self.write("keyfold.toml", config.replace("{dir}", path).as_bytes());
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file in the folder.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).expect("the test's folder is writable");
    }

    /// A command of the program, of one word or two, on this folder's configuration, with JSON logs.
    pub(crate) fn command(&self, command: &str, more: &[&str]) -> Command {
        let mut process = Command::new(KEYFOLD);
        process
            .args(command.split(' '))
            .arg("-c")
            .arg(self.path("keyfold.toml"))
            .args(["--log-format", "json"])
            .args(more);
        process.current_dir(self.dir.path()).stdin(Stdio::null());
        process
    }

    /// `keyfold run` until it ends by itself.
    pub(crate) fn run_to_end(&self, more: &[&str]) -> Outcome {
        self.spawn(more).wait(PATIENCE)
    }

    /// Any command until it ends by itself.
    pub(crate) fn call(&self, command: &str, more: &[&str]) -> Outcome {
        self.start(self.command(command, more)).wait(PATIENCE)
    }

    /// `keyfold run`, watched by the test.
    pub(crate) fn spawn(&self, more: &[&str]) -> Running {
        self.start(self.command("run", more))
    }

    /// Starts `command` with its output in files of their own, so that a full pipe never stops it and a kill loses nothing.
    pub(crate) fn start(&self, mut command: Command) -> Running {
        let log = |kind: &str| {
            let file = tempfile::Builder::new().prefix(kind).suffix(".log").tempfile_in(self.dir.path());
            file.expect("the test's folder is writable").keep().expect("the test's folder is writable")
        };
        let ((out, stdout), (err, stderr)): ((File, PathBuf), (File, PathBuf)) = (log("out-"), log("err-"));
        command.env_remove("KEYFOLD_SEED"); // the test's own, and no key
        let child = command.stdout(out).stderr(err).spawn().expect("the program starts");
        Running { child, stdout, stderr }
    }

    /// Deletes the checkpoints as a person would.
    pub(crate) fn delete_checkpoints(&self) {
        let lanes = self.path("state/lanes");
        assert!(lanes.is_dir(), "{} holds checkpoints to delete", lanes.display());
        std::fs::remove_dir_all(lanes).expect("the test's folder is writable");
    }

    /// Moves a file out of the way, for a second run into a new one.
    pub(crate) fn set_aside(&self, name: &str) -> PathBuf {
        let aside =
            tempfile::Builder::new().prefix(name).tempfile_in(self.dir.path()).expect("the test's folder is writable");
        let (_, aside) = aside.keep().expect("the test's folder is writable");
        std::fs::rename(self.path(name), &aside).expect("the file exists");
        aside
    }
}

impl Outcome {
    /// Fails with everything that the host said unless it ended with `code`.
    #[track_caller]
    pub(crate) fn expect_code(&self, code: i32) -> &Outcome {
        assert_eq!(self.code, Some(code), "exit code; the host said:\n{}", self.tail());
        self
    }

    /// Fails unless it ended with one of `codes`.
    #[track_caller]
    pub(crate) fn expect_one_of(&self, codes: &[i32]) -> &Outcome {
        let fits = self.code.is_some_and(|code| codes.contains(&code));
        assert!(fits, "exit code {:?}, not one of {codes:?}; the host said:\n{}", self.code, self.tail());
        self
    }

    /// Fails unless the host said each of `words`, whatever the case.
    #[track_caller]
    pub(crate) fn expect_said(&self, words: &[&str]) -> &Outcome {
        let said = format!("{}{}", self.stdout, self.stderr).to_lowercase();
        for word in words {
            assert!(
                said.contains(&word.to_lowercase()),
                "nothing was said of {word:?}; the host said:\n{}",
                self.tail()
            );
        }
        self
    }

    /// The fields of the last log line with this event.
    #[track_caller]
    pub(crate) fn logged(&self, event: &str) -> Value {
        let found = logged(&self.stderr, event).pop();
        found.unwrap_or_else(|| panic!("no log line has the event {event:?}; the host said:\n{}", self.tail()))
    }

    /// The last part of what the host said.
    fn tail(&self) -> String {
        let all = format!("{}\n{}", self.stdout, self.stderr);
        let skip = all.lines().count().saturating_sub(40);
        all.lines().skip(skip).collect::<Vec<_>>().join("\n")
    }
}

impl Running {
    /// Waits until it ends by itself; kills it and fails after `patience`.
    #[track_caller]
    pub(crate) fn wait(mut self, patience: Duration) -> Outcome {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return Outcome { code: status.code(), stdout: text(&self.stdout), stderr: text(&self.stderr) };
            }
            assert!(Instant::now() < deadline, "still running after {patience:?}; it said:\n{}", text(&self.stderr));
            pause();
        }
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// The process's number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) -> Outcome {
        self.child.kill().expect("a child can be killed");
        self.wait(PATIENCE)
    }

    /// `kill -TERM`, then waits for the end.
    #[track_caller]
    pub(crate) fn terminate(self, patience: Duration) -> Outcome {
        self.signal("TERM");
        self.wait(patience)
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        // The shell's own: a bare system has no program of that name.
        let status = Command::new("sh").args(["-c", "kill -\"$0\" \"$1\"", name, &id]).status().expect("sh is there");
        assert!(status.success(), "kill -{name} {id} failed");
    }

    /// Waits until `what` holds; fails after [`PATIENCE`], or when the host ends before.
    #[track_caller]
    pub(crate) fn wait_until(&mut self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            let running = self.is_running();
            assert!(running || holds(), "the host ended before {what}; it said:\n{}", text(&self.stderr));
            assert!(Instant::now() < deadline, "waited in vain until {what}; the host said:\n{}", text(&self.stderr));
            pause();
        }
    }

    /// Waits until `what` holds or the host ends by itself; whether it holds.
    pub(crate) fn wait_until_or_end(&mut self, mut holds: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while self.is_running() {
            if holds() {
                return true;
            }
            assert!(Instant::now() < deadline, "waited in vain; the host said:\n{}", text(&self.stderr));
            pause();
        }
        holds()
    }

    /// Waits for a log line with this event and gives its fields.
    #[track_caller]
    pub(crate) fn wait_logged(&mut self, event: &str) -> Value {
        self.wait_logged_times(event, 1)
    }

    /// Waits until a log line with this event was written so often; the fields of the last.
    #[track_caller]
    pub(crate) fn wait_logged_times(&mut self, event: &str, times: usize) -> Value {
        let path = self.stderr.clone();
        self.wait_until(&format!("it logs {event:?}"), || logged(&text(&path), event).len() >= times);
        logged(&text(&self.stderr), event).pop().expect("just seen")
    }

    /// Standard error so far.
    pub(crate) fn stderr(&self) -> String {
        text(&self.stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Waits until `holds`; fails after [`PATIENCE`].
#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        pause();
    }
}

/// Between two looks at something outside.
fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// The fields of all log lines with this event.
pub(crate) fn logged(stderr: &str, event: &str) -> Vec<Value> {
    logged_by(stderr, "event", event)
}

/// The fields of all log lines with this text in a field.
pub(crate) fn logged_by(stderr: &str, field: &str, text: &str) -> Vec<Value> {
    let lines = stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|fields| fields[field] == text).collect()
}

/// A number among the fields of a log line.
#[track_caller]
pub(crate) fn number(fields: &Value, name: &str) -> u64 {
    fields[name].as_u64().unwrap_or_else(|| panic!("the log line has no number {name}: {fields}"))
}

/// The instant that an order names in its words, ms since 1970: the last number in brackets.
#[track_caller]
pub(crate) fn instant_in(words: &str) -> i64 {
    let found = words.split(['(', ')']).filter_map(|part| part.parse().ok()).next_back();
    found.unwrap_or_else(|| panic!("no instant in {words:?}"))
}
