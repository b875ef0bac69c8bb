//! For authors of plugins: a new one in a folder of its own, its build, its golden tests, and a run on the records of standard input. Owns
//! what lies in such a folder, and the commands `keyfold plugin new`, `build`, `check`, `test`, `bench` and `run`; what a plugin is, [`crate::plugin`] says.
//!
//! | in the folder | what it is |
//! |---|---|
//! | `src/`, `Cargo.toml` | the plugin |
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

/// What an operation on a file of the folder ended with.
fn about(path: &Path) -> impl Fn(std::io::Error) -> Failure {
    let path = path.display().to_string();
    move |error| Failure::new(Exit::Config, format!("{path}: {error}"))
}

/// A folder that holds a plugin in Rust.
fn plugin_folder(folder: &Path) -> Result<PathBuf, Failure> {
    let folder = folder.canonicalize().map_err(about(folder))?;
    if folder.join("Cargo.toml").is_file() {
        return Ok(folder);
    }
    let message =
        format!("{} has no Cargo.toml: `keyfold plugin new NAME` makes a folder with a plugin", folder.display());
    Err(Failure::new(Exit::Config, message))
}
