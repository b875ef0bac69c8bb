//! `keyfold plugin build`: builds a folder's plugin with the author's own tools. This file runs cargo; [`npm`] builds JavaScript.

use std::ffi::OsString;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::author::{Language, io_failure, npm, plugin_folder};
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

/// Returns the plugin's configuration with which a folder's plugin is checked: `plugin.config` of this file or, if none is named, of the
/// folder's `keyfold.toml`.
pub fn configuration(folder: &Path, file: Option<&Path>) -> Result<Value, Failure> {
    let own = folder.join("keyfold.toml");
    let file = match file {
        Some(file) => file,
        None if own.is_file() => &own,
        None => return Ok(Value::Object(serde_json::Map::new())),
    };
    let text = std::fs::read_to_string(file).map_err(io_failure(file))?;
    let wrong = |error: String| Failure::config(format!("{}: {error}", file.display()));
    if file.extension().is_some_and(|extension| extension == "json") {
        return serde_json::from_str(&text).map_err(|error| wrong(format!("not valid JSON: {error}")));
    }
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| wrong(error.to_string()))?;
    let config = table.get("plugin").and_then(|plugin| plugin.get("config"));
    let config = config.cloned().unwrap_or_else(|| toml::Value::Table(toml::Table::new()));
    serde_json::to_value(config).map_err(|error| wrong(error.to_string()))
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
        let hint = format!(
            "if the target is missing, install it with `rustup target add {TARGET}`; if getrandom asks for `wasm_js`, do not enable it, but \
             remove the crate that needs randomness (rand, uuid): a plugin has none"
        );
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
    fn the_configuration_is_that_of_the_named_file_or_of_the_folders_pipeline() {
        let folder = tempfile::tempdir().expect("there is a folder for tests");
        let of =
            |file: Option<&str>| configuration(folder.path(), file.map(|file| folder.path().join(file)).as_deref());
        assert_eq!(of(None).expect("there is no file"), serde_json::json!({}));
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("writable");
        write("keyfold.toml", "name = \"a\"\n[plugin]\nconfig = { ttl = \"24h\", n = 3 }\n");
        write("live.toml", "[plugin.config]\nttl = \"1h\"\n");
        write("one.json", "{\"ttl\": 5}");
        write("wrong.toml", "[plugin");
        assert_eq!(of(None).expect("it is right"), serde_json::json!({"ttl": "24h", "n": 3}));
        assert_eq!(of(Some("live.toml")).expect("it is right"), serde_json::json!({"ttl": "1h"}));
        assert_eq!(of(Some("one.json")).expect("it is right"), serde_json::json!({"ttl": 5}));
        for wrong in ["wrong.toml", "missing.toml"] {
            assert!(of(Some(wrong)).expect_err(wrong).message.contains(wrong));
        }
    }

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
