//! Tools for authors of plugins: `keyfold plugin new`, `build`, `check`, `test`, `bench` and `run`. Owns the layout of a plugin's folder; what
//! a plugin is, [`crate::plugin`] says.
//!
//! | path | content |
//! |---|---|
//! | `src/`, `Cargo.toml` or `package.json` | the plugin |
//! | `golden/<case>/` | a golden test: records, and the rows, dead letters and log lines that they must give |
//! | `keyfold.toml` | a pipeline that runs the plugin |
//! | `.keyfold/` | the SDK and the contract, copied from the `keyfold` binary |

use std::path::{Path, PathBuf};

use crate::failure::Failure;

pub mod bench;
pub mod build;
pub mod check;
pub mod golden;
pub mod scaffold;
pub mod trial;

mod child;
mod npm;

/// The language of a plugin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    /// Rust, built by cargo.
    #[default]
    Rust,
    /// JavaScript or TypeScript, built by Node.js.
    Javascript,
}

impl Language {
    /// Returns the file by which a plugin's folder is recognized.
    const fn manifest(self) -> &'static str {
        match self {
            Language::Rust => "Cargo.toml",
            Language::Javascript => "package.json",
        }
    }

    /// Returns the path of the plugin's source, which explains itself.
    pub const fn source(self) -> &'static str {
        match self {
            Language::Rust => "src/lib.rs",
            Language::Javascript => "src/plugin.js",
        }
    }
}

/// Turns an I/O error into a failure that names the file.
fn io_failure(path: &Path) -> impl Fn(std::io::Error) -> Failure {
    let path = path.display().to_string();
    move |error| Failure::config(format!("{path}: {error}"))
}

/// Returns the absolute path of a plugin's folder, and its language.
fn plugin_folder(folder: &Path) -> Result<(PathBuf, Language), Failure> {
    let folder = folder.canonicalize().map_err(io_failure(folder))?;
    let languages = [Language::Rust, Language::Javascript];
    if let Some(language) = languages.into_iter().find(|language| folder.join(language.manifest()).is_file()) {
        return Ok((folder, language));
    }
    let manifests = languages.map(Language::manifest).join(" or ");
    let message = format!(
        "{} is not a plugin's folder: it has no {manifests}; create one with `keyfold plugin new NAME`",
        folder.display()
    );
    Err(Failure::config(message))
}
