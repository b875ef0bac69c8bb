//! `keyfold plugin new`: creates a folder with a small working plugin, a golden test, a pipeline, the SDK and the contract.

use std::fs;
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};

use crate::author::{Language, io_failure};
use crate::failure::Failure;

/// Files of a new plugin's folder: path and text. `NAME` stands for the plugin's name, `CRATE` for the name as an identifier.
type Files = [(&'static str, &'static str)];

const RUST: &Files = &[
    ("Cargo.toml", include_str!("rust/manifest.toml")),
    ("clippy.toml", include_str!("rust/clippy.toml")),
    (".gitignore", include_str!("rust/gitignore")),
    ("src/lib.rs", include_str!("rust/lib.rs")),
    ("keyfold.toml", include_str!("rust/keyfold.toml")),
    ("golden/first/dead-letters.ndjson", include_str!("rust/dead-letters.ndjson")),
];
const JAVASCRIPT: &Files = &[
    ("package.json", include_str!("javascript/package.json")),
    ("tsconfig.json", include_str!("javascript/tsconfig.json")),
    (".gitignore", include_str!("javascript/gitignore")),
    ("src/plugin.js", include_str!("javascript/plugin.js")),
    ("keyfold.toml", include_str!("javascript/keyfold.toml")),
    ("golden/first/dead-letters.ndjson", include_str!("javascript/dead-letters.ndjson")),
];
/// The golden test. It is the same for every language.
const GOLDEN: &Files = &[
    ("golden/first/records.ndjson", include_str!("rust/records.ndjson")),
    ("golden/first/rows.ndjson", include_str!("rust/rows.ndjson")),
    ("golden/first/case.toml", include_str!("rust/case.toml")),
];
/// The crates of the Rust SDK: folder, sources, manifest.
static RUST_SDK: [(&str, Dir<'_>, &str); 2] = [
    ("sdk", include_dir!("$CARGO_MANIFEST_DIR/plugins/sdk/src"), include_str!("../../plugins/sdk/Cargo.toml")),
    (
        "sdk/derive",
        include_dir!("$CARGO_MANIFEST_DIR/plugins/sdk/derive/src"),
        include_str!("../../plugins/sdk/derive/Cargo.toml"),
    ),
];
static JAVASCRIPT_SDK: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/plugins/javascript/sdk");
const CONTRACT: &str = include_str!("../../wit/keyfold.wit");

/// Creates the folder `name` in `parent` with a plugin in this language, and returns its path.
pub fn create(parent: &Path, name: &str, language: Language) -> Result<PathBuf, Failure> {
    let fits = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_');
    if !fits {
        let message = format!(
            "NAME: {name:?} is not a valid name; use lower-case letters, digits, `-` and `_`, and begin with a letter"
        );
        return Err(Failure::config(message));
    }
    let folder = parent.join(name);
    if folder.exists() {
        let message = format!("NAME: {} already exists; nothing was changed", folder.display());
        return Err(Failure::config(message));
    }
    let files = match language {
        Language::Rust => RUST,
        Language::Javascript => JAVASCRIPT,
    };
    for (path, text) in files.iter().chain(GOLDEN) {
        write(&folder.join(path), &text.replace("NAME", name).replace("CRATE", &name.replace('-', "_")))?;
    }
    unpack(&folder.join(".keyfold"), language)?;
    Ok(folder)
}

/// Writes the SDK and the contract that this binary was built with.
fn unpack(folder: &Path, language: Language) -> Result<(), Failure> {
    match language {
        Language::Rust => {
            for (name, sources, manifest) in &RUST_SDK {
                unpack_files(sources, &folder.join(name).join("src"))?;
                write(&folder.join(name).join("Cargo.toml"), &alone(manifest))?;
            }
        }
        Language::Javascript => unpack_files(&JAVASCRIPT_SDK, &folder.join("sdk"))?,
    }
    write(&folder.join("sdk/wit/keyfold.wit"), CONTRACT)
}

fn unpack_files(files: &Dir<'_>, to: &Path) -> Result<(), Failure> {
    for file in files.files() {
        write(&to.join(file.path()), file.contents_utf8().unwrap_or_default())?;
    }
    Ok(())
}

/// Returns a manifest that does not inherit from a workspace, without lints and dev-dependencies.
fn alone(manifest: &str) -> String {
    let of_workspace = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("edition", "2024"),
        ("rust-version", env!("CARGO_PKG_RUST_VERSION")),
        ("license", env!("CARGO_PKG_LICENSE")),
        ("repository", env!("CARGO_PKG_REPOSITORY")),
    ];
    let line = |line: &str| {
        let of_workspace = of_workspace.iter().find(|(key, _)| line == format!("{key}.workspace = true"));
        of_workspace.map_or_else(|| format!("{line}\n"), |(key, value)| format!("{key} = \"{value}\"\n"))
    };
    let sections = manifest.split_inclusive('\n').fold(Vec::<String>::new(), |mut sections, line| {
        match sections.last_mut() {
            Some(section) if !line.starts_with('[') => section.push_str(line),
            _ => sections.push(line.to_owned()),
        }
        sections
    });
    let kept = |section: &&String| !["[lints]", "[dev-dependencies]"].iter().any(|name| section.starts_with(name));
    sections.iter().filter(kept).flat_map(|section| section.lines()).map(line).collect()
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(io_failure(folder))?;
    }
    fs::write(path, text).map_err(io_failure(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn the_sdks_manifests_need_no_workspace() {
        for (name, _, manifest) in &RUST_SDK {
            let manifest = alone(manifest);
            assert!(!manifest.contains("workspace"), "{name}: {manifest}");
            let manifest: toml::Table = manifest.parse().expect("it is TOML");
            let of = |key: &str| manifest["package"][key].as_str().map(str::to_owned);
            assert_eq!(of("edition").as_deref(), Some("2024"));
            assert_eq!(of("rust-version").as_deref(), Some(env!("CARGO_PKG_RUST_VERSION")));
            assert!(manifest.contains_key("dependencies") && !manifest.contains_key("dev-dependencies"));
        }
    }

    #[test]
    fn the_contract_is_found_from_where_the_sdk_is_unpacked() {
        let parent = tempfile::tempdir().expect("there is a folder for tests");
        let folder = create(parent.path(), "a-1", Language::Rust).expect("the name is right");
        let lib = fs::read_to_string(folder.join(".keyfold/sdk/src/lib.rs")).expect("it is there");
        assert!(lib.contains("path: \"wit\"") && folder.join(".keyfold/sdk/wit/keyfold.wit").is_file());
        let failure = create(parent.path(), "a-1", Language::Javascript).expect_err("it is there already");
        assert_eq!(failure.exit, Exit::Config);
    }

    /// A symlink in the repository; a checkout without symlinks would have a text file with a path in its place.
    #[test]
    fn the_sdk_packages_the_contract_of_the_host() {
        assert_eq!(include_str!("../../plugins/sdk/wit/keyfold.wit"), CONTRACT);
    }

    #[test]
    fn a_name_that_cargo_would_refuse_is_refused() {
        for name in ["", "A", "1a", "a b", "../a", "a.b"] {
            create(Path::new("."), name, Language::Rust).expect_err(name);
        }
    }
}
