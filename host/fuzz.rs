//! The parsers of what others wrote, each as a function of any bytes. None may panic, and what a parser takes must hold what the host relies
//! on. The tests below try the corpus and a fixed number of changes to it; `tests/fuzz` lets libFuzzer search, on a nightly compiler.

use std::path::Path;

use crate::config::Config;
use crate::failure::Exit;
use crate::state::checkpoint::Checkpoint;
use crate::{admin, dead_letter, plugin, source, state};

#[cfg(test)]
#[path = "../plugins/sdk/tests/mutation/mod.rs"]
mod mutation;

/// A parser that takes any bytes.
pub type Target = fn(&[u8]);

/// Every target, by the name of its corpus in `tests/fuzz/corpus`.
pub const TARGETS: [(&str, Target); 10] = [
    ("component", plugin::fuzz::component),
    ("results", plugin::fuzz::results),
    ("lines", source::file::fuzz::lines),
    ("checkpoint", checkpoint),
    ("layout", state::fuzz::record),
    ("files", state::fuzz::file),
    ("manifests", state::fuzz::manifest),
    ("config", config),
    ("admin", admin::fuzz::documents),
    ("letters", dead_letter::fuzz::letters),
];

/// The target of that name.
///
/// # Panics
///
/// If there is none: a binary of `tests/fuzz` names one that is not here.
pub fn target(name: &str) -> Target {
    TARGETS.iter().find(|(of, _)| *of == name).unwrap_or_else(|| panic!("no target {name}")).1
}

fn checkpoint(bytes: &[u8]) {
    let Ok(checkpoint) = Checkpoint::decode(bytes) else { return };
    assert_eq!(Checkpoint::decode(&checkpoint.encode()).as_ref(), Ok(&checkpoint), "written again, it says the same");
    checkpoint.covered();
}

/// The text of a file; after a zero byte, lines of `NAME=VALUE` are the environment.
fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (file, variables) = text.split_once('\0').unwrap_or((&text, ""));
    let variables = variables.lines().filter_map(|line| line.split_once('='));
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    if let Err(failure) = Config::from_toml(file, Path::new(""), variables) {
        assert_eq!(failure.exit, Exit::Config);
        assert!(!failure.message.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::mutation::Random;
    use super::*;

    /// Changed documents for each document of a corpus.
    const CHANGED: usize = 300;

    fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("is listed").path()).collect();
        files.sort();
        files.into_iter().map(|path| (path.clone(), fs::read(path).expect("can be read"))).collect()
    }

    #[test]
    fn no_document_of_a_corpus_and_no_change_to_it_is_too_much_for_its_parser() {
        for (name, target) in TARGETS {
            let corpus = corpus(name);
            assert!(corpus.len() >= 3, "{name} has a corpus");
            // What occurs anywhere in the corpus, so that a change may make sense, and what occurs nowhere.
            let mut alphabet: Vec<u8> = corpus.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
            alphabet.extend(0..=u8::MAX);
            for (path, bytes) in &corpus {
                println!("{}", path.display()); // shown if it panics
                target(bytes);
                let mut random = Random(0x9e37_79b9_7f4a_7c15);
                for _ in 0..CHANGED {
                    let mut changed = bytes.clone();
                    for _ in 0..=random.below(4) {
                        changed.extend(changed.is_empty().then_some(b'x'));
                        random.mutate(&mut changed, &alphabet);
                    }
                    println!("  {}", changed.escape_ascii());
                    target(&changed);
                }
            }
        }
    }

    #[test]
    fn each_target_has_a_program_for_libfuzzer() {
        let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/Cargo.toml"));
        let manifest = manifest.expect("the manifest of the fuzzers");
        for (name, _) in TARGETS {
            assert!(manifest.contains(&format!("\nname = \"{name}\"\n")), "{name}");
        }
        assert_eq!(manifest.matches("\n[[bin]]\n").count(), TARGETS.len());
    }
}
