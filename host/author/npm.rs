//! Builds plugins in JavaScript and TypeScript: npm installs their packages, and node runs the SDK's build script, which makes the component.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::SystemTime;

use crate::failure::Failure;

/// Where npm puts the SDK's build script.
const SCRIPT: &str = "node_modules/keyfold-sdk/build.mjs";

/// Builds the plugin in `folder`, and returns the file.
pub(super) fn build(folder: &Path) -> Result<PathBuf, Failure> {
    if is_stale(folder) {
        install(folder)?;
    }
    if !folder.join(SCRIPT).is_file() {
        let message = format!(
            "{}: the SDK is missing; add \"keyfold-sdk\": \"file:.keyfold/sdk\" to devDependencies, as `keyfold plugin new --lang javascript` does",
            folder.join("package.json").display()
        );
        return Err(Failure::config(message));
    }
    let mut node = Command::new("node");
    node.arg(SCRIPT).stdout(Stdio::piped());
    let built = spawned(node, folder)?.wait_with_output().map_err(not_run("node"))?;
    let file = String::from_utf8_lossy(&built.stdout).trim().to_owned();
    succeeded(built.status, folder, "the plugin does not build")?;
    Ok(file.into())
}

/// Whether `package.json` has changed since npm last installed its packages.
fn is_stale(folder: &Path) -> bool {
    let changed = |name: &str| folder.join(name).metadata().and_then(|file| file.modified()).ok();
    let installed: Option<SystemTime> = changed("node_modules/.package-lock.json");
    installed.is_none() || installed < changed("package.json")
}

fn install(folder: &Path) -> Result<(), Failure> {
    let mut npm = Command::new("npm");
    // Packages of a plugin are sources or finished programs: none needs to run its own script with the author's rights.
    npm.args(["install", "--ignore-scripts", "--no-audit", "--no-fund"]).stdout(std::io::stderr());
    let status = spawned(npm, folder)?.wait().map_err(not_run("npm"))?;
    succeeded(status, folder, "npm cannot install the packages in package.json")
}

fn spawned(mut command: Command, folder: &Path) -> Result<std::process::Child, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.current_dir(folder).stdin(Stdio::null()).spawn().map_err(not_run(&name))
}

fn not_run(program: &str) -> impl Fn(std::io::Error) -> Failure {
    let program = program.to_owned();
    move |error| {
        let hint = "a plugin in JavaScript needs Node.js 20 or later with npm; get it from https://nodejs.org";
        Failure::outside(format!("cannot run {program}: {error}; {hint}"))
    }
}

fn succeeded(status: ExitStatus, folder: &Path, what: &str) -> Result<(), Failure> {
    if status.success() {
        return Ok(());
    }
    Err(Failure::plugin(format!("{}: {what}: see above", folder.display())))
}
