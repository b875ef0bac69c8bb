//! The configurations and plugins of simulated hosts, and what all simulations of this process share.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use keyfold::config::Config;
use keyfold::plugin::Plugin;
use keyfold::plugin::sandbox::Sandbox;
use tokio::runtime::Runtime;

use crate::plan::Plan;
use crate::support::model::Late;
use crate::support::random::Random;

/// The most workers of a host.
pub(crate) const MOST_WORKERS: usize = 3;

/// What all simulations of this process share, since it costs time and decides nothing.
pub(crate) struct Shared {
    /// What requests run on.
    pub(crate) runtime: Runtime,
    /// What the state is read on by checks, which are no part of a simulated machine.
    pub(crate) reading: Runtime,
    /// What plugins run in, by the number of workers less one.
    sandboxes: Vec<Sandbox>,
    target: PathBuf,
}

impl Shared {
    /// The sandbox with so many workers.
    pub(crate) fn sandbox(&self, workers: usize) -> &Sandbox {
        &self.sandboxes[workers - 1]
    }
}

/// What is shared.
pub(crate) fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        let program = std::env::current_exe().expect("a program has a path");
        let is_target = |folder: &&Path| component(folder, Version::First).exists();
        let target = program.ancestors().find(is_target).expect("the build has made the plugins").to_owned();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("it starts");
        let sandbox = |workers: usize| {
            let settings = format!("[state]\nurl = \"file:///simulated\"\n[run]\nworkers = {workers}");
            let text = toml(&target, &settings, Logic { mark: "mode=ok", version: Version::First }, ("ok", "fold"), "");
            let config = Config::from_toml(&text, "".as_ref(), std::iter::empty()).expect("it is valid");
            Sandbox::new(&config).expect("there is memory for it")
        };
        let sandboxes = (1..=MOST_WORKERS).map(sandbox).collect();
        let reading = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("it starts");
        Shared { runtime, reading, sandboxes, target }
    })
}

/// The versions of the plugin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    /// State version 1.
    #[default]
    First,
    /// State version 2, which migrates.
    Second,
}

/// What a host folds by: the configuration of the plugin, and its version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Logic {
    /// The mark that its rows carry, or `mode=` and another mode.
    pub(crate) mark: &'static str,
    /// The version of the plugin.
    pub(crate) version: Version,
}

impl Logic {
    /// The first version with this mark.
    pub(crate) fn marked(mark: &'static str) -> Logic {
        Logic { mark, version: Version::First }
    }

    /// The plugin in a sandbox with so many workers.
    pub(crate) fn load(self, plan: &Plan, workers: usize) -> Arc<Plugin> {
        let config = config(plan, self, workers, &mut Random::new(0));
        shared().sandbox(workers).load(&config).expect("the plugin takes this configuration")
    }
}

fn component(target: &Path, version: Version) -> PathBuf {
    let name = if version == Version::First { "hostile" } else { "hostile2" };
    target.join(format!("plugins/wasm32-unknown-unknown/plugin/{name}.wasm"))
}

fn toml(target: &Path, settings: &str, logic: Logic, (mode, at): (&str, &str), strikes: &str) -> String {
    let (component, cache) = (component(target, logic.version), target.join("simulation-cache"));
    let (mode, at, mark) = match logic.mark.strip_prefix("mode=") {
        Some(mode) => (mode, "fold", ""),
        None => (mode, at, logic.mark),
    };
    format!(
        "name = \"simulated\"\n[source.kafka]\nbrokers = \"simulated:1\"\ntopic = \"t\"\n{settings}\n[plugin]\ncomponent = {component:?}\n\
         config = {{ mode = {mode:?}, at = {at:?}, mark = {mark:?} }}\ncache = {cache:?}\n{strikes}[sink.discard]\n[dead_letters]\ntopic = \"letters\"\n"
    )
}

/// The settings of a host, as its configuration file says them. What decides no row differs between hosts.
pub(crate) fn config(plan: &Plan, logic: Logic, workers: usize, random: &mut Random) -> Config {
    let time = &plan.time;
    let idle = time.idle_timeout_ms.map_or(String::new(), |ms| format!("idle_timeout = \"{ms}ms\"\n"));
    let late = match time.late {
        Late::Drop if plan.keeps_late => "dead-letter",
        Late::Drop => "drop",
        Late::Process => "process",
    };
    let settings = format!(
        "ordering = {:?}\nhosts = {:?}\n[time]\nout_of_orderness = \"{}ms\"\nlate = {late:?}\nclock_skew = \"{}ms\"\n{idle}[state]\nurl = \"file:///simulated\"\n\
         checkpoint_interval = \"{}ms\"\n[run]\nworkers = {workers}\nbatch_records = {}",
        if plan.by_partition { "partition" } else { "topic" },
        if plan.shared { "many" } else { "one" },
        time.out_of_orderness_ms,
        plan.clock_skew_ms,
        plan.checkpoints_ms + random.below(3_000),
        1 + random.below(60)
    );
    let on_strike = if plan.withdraws_on_strike { "withdraw" } else { "dead-letter" };
    let audit = if random.below(4) == 0 { format!("audit = {}\n", 1 + random.below(10)) } else { String::new() };
    let strikes = format!("on_strike = {on_strike:?}\n{audit}");
    // Hardly any memory for keys, or some, or more than there can be keys.
    let memory = random.pick(&["1B", "2KiB", "512MiB", "512MiB"]);
    let settings = settings.replace("[run]", &format!("memory = \"{memory}\"\n[run]"));
    let text = toml(&shared().target, &settings, logic, (plan.mode.name(), plan.mode.at()), &strikes);
    Config::from_toml(&text, "".as_ref(), std::iter::empty()).expect("it is valid")
}
