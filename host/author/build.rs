//! `keyfold plugin build`: builds a folder's plugin with the author's own tools. This file runs cargo; [`npm`] builds JavaScript.

use std::ffi::OsString;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::author::{Language, npm, plugin_folder};
use crate::failure::Failure;

/// The compilation target of plugins in Rust.
const TARGET: &str = "wasm32-unknown-unknown";

/// Builds the plugin in `folder`, and returns the file. The tools' output goes to standard error.
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
        let hint = format!("if the target is missing, install it with `rustup target add {TARGET}`");
        return Err(Failure::plugin(format!("{}: the plugin does not build: see above; {hint}", folder.display())));
    }
    built.ok_or_else(|| {
        let message = format!(
            "{}: cargo built no .wasm file; set crate-type = [\"cdylib\", \"rlib\"] under [lib]",
            manifest.display()
        );
        Failure::plugin(message)
    })
}

/// Returns the author's cargo.
pub(super) fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The failure of a cargo that cannot be started.
pub(super) fn cargo_not_run(error: std::io::Error) -> Failure {
    Failure::outside(format!("cannot run cargo: {error}; install Rust from https://rustup.rs"))
}

/// Returns the module that a message of cargo names, if it belongs to this package.
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
    fn the_packages_module_is_found_among_cargos_messages() {
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
