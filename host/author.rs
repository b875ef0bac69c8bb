//! For authors of plugins: a new one in a folder of its own, its build, its golden tests, and a run on the records of standard input. Owns
//! what lies in such a folder, and the commands `keyfold plugin new`, `build`, `check`, `test`, `bench` and `run`; what a plugin is, [`crate::plugin`] says.
//!
//! | in the folder | what it is |
//! |---|---|
//! | `src/`, `Cargo.toml` or `package.json` | the plugin |
//! | `golden/<case>/` | a test: records, and the rows, dead letters and logs that they give |
//! | `keyfold.toml` | a pipeline with it, ready to run |
//! | `.keyfold/` | the SDK and the contract, from the `keyfold` binary |

use std::path::{Path, PathBuf};

use crate::failure::{Exit, Failure};

pub mod bench;
pub mod build;
pub mod check;
pub mod golden;
pub mod scaffold;
pub mod trial;

mod child;
mod npm;

/// What a plugin is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Language {
    /// Rust, built by cargo.
    #[default]
    Rust,
    /// JavaScript or TypeScript, built by Node.js.
    Javascript,
}

impl Language {
    /// The file that says so in a plugin's folder.
    const fn manifest(self) -> &'static str {
        match self {
            Language::Rust => "Cargo.toml",
            Language::Javascript => "package.json",
        }
    }

    /// Where the plugin itself is, with its explanations.
    pub const fn source(self) -> &'static str {
        match self {
            Language::Rust => "src/lib.rs",
            Language::Javascript => "src/plugin.js",
        }
    }
}

/// What an operation on a file of the folder ended with.
fn about(path: &Path) -> impl Fn(std::io::Error) -> Failure {
    let path = path.display().to_string();
    move |error| Failure::new(Exit::Config, format!("{path}: {error}"))
}

/// A folder that holds a plugin, and what that is written in.
fn plugin_folder(folder: &Path) -> Result<(PathBuf, Language), Failure> {
    let folder = folder.canonicalize().map_err(about(folder))?;
    let languages = [Language::Rust, Language::Javascript];
    if let Some(language) = languages.into_iter().find(|language| folder.join(language.manifest()).is_file()) {
        return Ok((folder, language));
    }
    let manifests = languages.map(Language::manifest).join(" and no ");
    let message =
        format!("{} has no {manifests}: `keyfold plugin new NAME` makes a folder with a plugin", folder.display());
    Err(Failure::new(Exit::Config, message))
}
