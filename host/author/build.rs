//! `keyfold plugin build`: the folder's plugin by the author's own tools; here by cargo, other languages have files of their own.

use std::ffi::OsString;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::author::{Language, npm, plugin_folder};
use crate::failure::{Exit, Failure};

/// The target of plugins in Rust.
const TARGET: &str = "wasm32-unknown-unknown";

/// Builds the plugin in `folder`, with the tools' own words on standard error; gives the file.
pub fn build(folder: &Path) -> Result<PathBuf, Failure> {
    match plugin_folder(folder)? {
        (folder, Language::Rust) => cargo_build(&folder),
        (folder, Language::Javascript) => npm::build(&folder),
    }
}

fn cargo_build(folder: &Path) -> Result<PathBuf, Failure> {
    let manifest = folder.join("Cargo.toml");
    let mut command = Command::new(cargo());
    command.args(["build", "--release", "--lib", "--target", TARGET, "--message-format=json-render-diagnostics"]);
    command.arg("--manifest-path").arg(&manifest).stdout(Stdio::piped());
    let mut cargo = command.spawn().map_err(cargo_not_run)?;
    let messages = std::io::BufReader::new(cargo.stdout.take().expect("it is piped"));
    let built = messages.lines().map_while(Result::ok).filter_map(|line| artifact(&line, &manifest)).last();
    if !cargo.wait().map_err(cargo_not_run)?.success() {
        let hint = format!("if the target is missing, `rustup target add {TARGET}` installs it");
        return Err(Failure::new(Exit::Plugin, format!("{}: the plugin does not build; {hint}", folder.display())));
    }
    built.ok_or_else(|| {
        let message = format!(
            "{}: cargo made no .wasm file: [lib] needs crate-type = [\"cdylib\", \"rlib\"]",
            manifest.display()
        );
        Failure::new(Exit::Plugin, message)
    })
}

/// The author's cargo.
pub(super) fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

pub(super) fn cargo_not_run(error: std::io::Error) -> Failure {
    Failure::new(Exit::Outside, format!("cargo cannot be run: {error}; https://rustup.rs installs it"))
}

/// The module that a message of cargo names, if it is this package's.
fn artifact(line: &str, manifest: &Path) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    let is_ours = message["reason"] == "compiler-artifact" && message["manifest_path"].as_str() == manifest.to_str();
    let files = message["filenames"].as_array().filter(|_| is_ours)?;
    files.iter().filter_map(Value::as_str).find(|file| file.ends_with(".wasm")).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_of_the_package_is_found_among_the_messages() {
        let manifest = Path::new("/a/Cargo.toml");
        let line = |reason: &str, manifest: &str, file: &str| {
            serde_json::json!({"reason": reason, "manifest_path": manifest, "filenames": ["/a/x.rlib", file]})
                .to_string()
        };
        let of = |line: &str| artifact(line, manifest);
        assert_eq!(of(&line("compiler-artifact", "/a/Cargo.toml", "/a/x.wasm")), Some("/a/x.wasm".into()));
        assert_eq!(of(&line("compiler-artifact", "/b/Cargo.toml", "/a/x.wasm")), None);
        assert_eq!(of(&line("build-finished", "/a/Cargo.toml", "/a/x.wasm")), None);
        assert_eq!(of(&line("compiler-artifact", "/a/Cargo.toml", "/a/x.d")), None);
        assert_eq!(of("warning: not JSON"), None);
    }
}
