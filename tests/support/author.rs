//! An author of a plugin: a folder outside the repository, with nothing of it but the program.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use super::host::{KEYFOLD, Outcome, Pipeline, Running, plugin_file};

/// How long a build, or all that a section of the guide does, may take: on a busy machine, many times as long as what a host does.
pub(crate) const BUILD_PATIENCE: Duration = Duration::from_secs(1_800);

/// A folder that `keyfold plugin new counts` has made.
pub(crate) struct Author {
    parent: Pipeline,
    environment: Vec<(&'static str, String)>,
    /// Authors in Rust build into one folder, where the files of one replace those of another. So there is one such author at a time, in all
    /// tests of this machine; the lock ends with the author.
    _alone: Option<File>,
}

impl Author {
    /// A new one, in the language that these arguments name.
    pub(crate) fn new(language: &[&str]) -> Author {
        let _alone = language.is_empty().then(alone);
        let author = Author { parent: Pipeline::new(""), environment: Vec::new(), _alone };
        let made = author.call(".", &[&["plugin", "new", "counts"], language].concat());
        made.expect_code(0).expect_said(&["counts created"]);
        author
    }

    /// From now on the program finds this in its environment.
    pub(crate) fn set(&mut self, name: &'static str, value: &str) {
        self.environment.push((name, value.to_owned()));
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.parent.path("counts").join(name)
    }

    /// The program in a folder under the author's, to its end.
    pub(crate) fn call(&self, folder: &str, arguments: &[&str]) -> Outcome {
        self.spawn(folder, arguments).wait(BUILD_PATIENCE)
    }

    /// The program in a folder under the author's.
    pub(crate) fn spawn(&self, folder: &str, arguments: &[&str]) -> Running {
        let mut command = Command::new(KEYFOLD);
        command.args(arguments).current_dir(self.parent.path(folder)).stdin(Stdio::null());
        // What the dependencies were built into before is used again.
        command.env("CARGO_TARGET_DIR", built()).env_remove("CARGO_ENCODED_RUSTFLAGS").env_remove("RUSTFLAGS");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.parent.start(command)
    }

    /// A source file with these parts replaced.
    pub(crate) fn change(&self, file: &str, changes: &[(&str, &str)]) {
        let mut text = std::fs::read_to_string(self.path(file)).expect("it was made");
        for (before, after) in changes {
            assert!(text.contains(before), "{before:?} is in {file}");
            text = text.replace(before, after);
        }
        std::fs::write(self.path(file), text).expect("the folder is writable");
    }
}

/// Where authors in Rust build.
fn built() -> PathBuf {
    PathBuf::from(plugin_file("x")).with_file_name("authors")
}

/// Waits until no other author builds there.
fn alone() -> File {
    std::fs::create_dir_all(built()).expect("the target folder is writable");
    let lock = File::create(built().join("one-author.lock")).expect("the target folder is writable");
    lock.lock().expect("the file system has locks");
    lock
}

/// Commands of the guide as a person would give them in this folder, with the program on the path.
pub(crate) fn shell(place: &Pipeline, folder: &str, commands: &str) -> Outcome {
    let programs = std::env::var_os("PATH").unwrap_or_default();
    let path = Path::new(KEYFOLD).parent().into_iter().map(Path::to_owned).chain(std::env::split_paths(&programs));
    let mut shell = Command::new("bash");
    shell.args(["-euxc", commands]).current_dir(place.path(folder)).stdin(Stdio::null());
    shell.env("PATH", std::env::join_paths(path).expect("the folder has a plain name"));
    for name in ["CARGO_TARGET_DIR", "CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS"] {
        shell.env_remove(name);
    }
    place.start(shell).wait(BUILD_PATIENCE)
}

/// Whether there are node and npm. Without them these tests are skipped, and fail where `CI` is set.
pub(crate) fn has_node() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        let runs = |program: &str| {
            let mut command = Command::new(program);
            command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        let has = runs("node") && runs("npm");
        let is_ci = std::env::var("CI").is_ok_and(|ci| !ci.is_empty());
        assert!(has || !is_ci, "there is no node or no npm");
        if !has {
            // Not eprintln!: the test harness would keep it to itself when the test passes.
            let _ = writeln!(std::io::stderr(), "\nSKIPPED: plugins in JavaScript: there is no node or no npm\n");
        }
        has
    })
}
