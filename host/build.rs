//! Builds the plugin that the host contains (`visits`) and those that its tests need, with the same cargo.
//!
//! They are core modules for `wasm32-unknown-unknown` at `<target folder>/plugins/wasm32-unknown-unknown/plugin/<name>.wasm`, with `_`
//! instead of `-` in the name; the host wraps them into components when it loads them. It gets their paths as `VISITS_WASM` etc.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

const PLUGINS: [&str; 6] = ["visits", "gap-sessions", "rate-alert", "dedup", "hostile", "hostile2"];
const TARGET: &str = "wasm32-unknown-unknown";

/// Variables of the outer build that must not reach the plugins.
const OUTER: [&str; 6] = [
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_TARGET",
];

fn main() {
    let result = plugins_folder().and_then(|folder| {
        build(&folder)?;
        PLUGINS.iter().try_for_each(|name| announce(name, &folder.join(TARGET).join("plugin")))
    });
    if let Err(reason) = result {
        for line in reason.lines() {
            println!("cargo::error={line}");
        }
    }
}

/// Returns `plugins` in the target folder of the outer build; a separate folder, because the outer build holds the lock of its own.
fn plugins_folder() -> Result<PathBuf, String> {
    let out = PathBuf::from(variable("OUT_DIR")?);
    // <target>[/<triple>]/<profile>/build/keyfold-<hash>/out
    let mut target = out.ancestors().nth(4).ok_or("OUT_DIR is not in a target folder")?;
    if target.file_name().is_some_and(|name| Some(name) == env::var_os("TARGET").as_deref()) {
        target = target.parent().unwrap_or(target);
    }
    Ok(target.join("plugins"))
}

fn build(folder: &Path) -> Result<(), String> {
    let first = cargo(folder)?;
    if first.is_ok() {
        return Ok(());
    }
    let said = first.err().unwrap_or_default();
    // E0463: `core` or `std` for the target is not installed.
    if !(said.contains("E0463") && said.contains(TARGET)) {
        return Err(format!("cannot build the plugins:\n{said}"));
    }
    let added = Command::new("rustup").args(["target", "add", TARGET]).status().is_ok_and(|status| status.success());
    if !added {
        return Err(format!(
            "cannot build the plugins: the target {TARGET} is not installed; run `rustup target add {TARGET}`"
        ));
    }
    cargo(folder)?.map_err(|said| format!("cannot build the plugins:\n{said}"))
}

/// Runs cargo; returns its error output if it failed.
fn cargo(folder: &Path) -> Result<Result<(), String>, String> {
    let mut command = Command::new(variable("CARGO")?);
    command.args(["build", "--locked", "--quiet", "--profile", "plugin", "--target", TARGET, "--target-dir"]);
    command.arg(folder);
    for name in PLUGINS {
        command.args(["-p", name]);
    }
    for name in OUTER {
        command.env_remove(name);
    }
    if let Some(flags) = same_paths_everywhere() {
        command.env("CARGO_ENCODED_RUSTFLAGS", flags);
    }
    let output = command.output().map_err(|error| format!("cannot run cargo for the plugins: {error}"))?;
    Ok(if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) })
}

/// Returns flags that remove this machine's cargo home from the plugins: panic messages name source files, and a plugin is identified by the
/// digest of its file.
fn same_paths_everywhere() -> Option<OsString> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")))?;
    let mut flags = OsString::from("--remap-path-prefix=");
    flags.push(home);
    flags.push("=/cargo");
    Some(flags)
}

/// Passes the path of a plugin to the host, and its source files to cargo.
fn announce(name: &str, built: &Path) -> Result<(), String> {
    let file = name.replace('-', "_");
    let wasm = built.join(&file).with_extension("wasm");
    let rule = wasm.with_extension("d");
    let rule = fs::read_to_string(&rule).map_err(|error| format!("{}: {error}", rule.display()))?;
    let sources: Vec<String> = prerequisites(&rule).collect();
    date_by_sources(&wasm, &sources).map_err(|error| format!("{}: {error}", wasm.display()))?;
    println!("cargo::rustc-env={}_WASM={}", file.to_uppercase(), wasm.display());
    println!("cargo::rerun-if-changed={}", wasm.display());
    for source in sources {
        println!("cargo::rerun-if-changed={source}");
    }
    let derive = "plugins/sdk/derive/Cargo.toml";
    for manifest in ["Cargo.toml", "Cargo.lock", "host/build.rs", "plugins/sdk/Cargo.toml", derive] {
        println!("cargo::rerun-if-changed={manifest}");
    }
    println!("cargo::rerun-if-changed=plugins/{name}/Cargo.toml");
    Ok(())
}

/// Sets the time of the built file to that of its newest source. Otherwise it would be newer than this run, which would then run again and
/// compile the host twice. Copies the file first: it is a hard link to one whose time the inner cargo relies on.
fn date_by_sources(wasm: &Path, sources: &[String]) -> std::io::Result<()> {
    let mut newest = SystemTime::UNIX_EPOCH;
    for source in sources {
        newest = newest.max(fs::metadata(source)?.modified()?);
    }
    let bytes = fs::read(wasm)?;
    fs::remove_file(wasm)?;
    fs::write(wasm, bytes)?;
    File::options().write(true).open(wasm)?.set_modified(newest)
}

/// Returns the files after the colon of a make rule, in which a space in a name is `\ `.
fn prerequisites(rule: &str) -> impl Iterator<Item = String> {
    let files = rule.split_once(": ").map_or("", |(_, files)| files).trim_end();
    files.replace("\\ ", "\0").split(' ').map(|file| file.replace('\0', " ")).collect::<Vec<_>>().into_iter()
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("{name} is not set: host/build.rs is run by cargo"))
}
