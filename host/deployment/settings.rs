//! The settings of a deployment: what decides rows besides the log, as the configuration names it and as the journal stores it.

use serde::{Deserialize, Serialize};

use crate::config::{Config, DEFAULT_LIMITS, ImplausibleTime, Late, Limits, Time};
use crate::plugin::Digest;

/// What decides rows, beside the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The plugin's file.
    pub plugin: Digest,
    /// Its configuration.
    pub config: serde_json::Value,
    /// `time.out_of_orderness`, ms.
    pub out_of_orderness_ms: i64,
    /// `time.late`.
    pub late: String,
    /// `time.future_limit`, ms.
    pub future_limit_ms: i64,
    /// `time.idle_timeout`, ms.
    pub idle_timeout_ms: Option<i64>,
    /// `time.implausible`; deployments from before it have the default.
    #[serde(default = "dead_letter")]
    pub implausible: String,
    /// `plugin.memory`, bytes.
    pub memory_bytes: u64,
    /// `plugin.fuel`.
    pub fuel: u64,
    /// `plugin.output_rows`.
    pub output_rows: u64,
    /// `plugin.output_bytes`.
    pub output_bytes: u64,
    /// `plugin.state_bytes`; deployments from before it have the default.
    #[serde(default = "state_bytes")]
    pub state_bytes: u64,
    /// `plugin.record_bytes`; deployments from before it have the default.
    #[serde(default = "record_bytes")]
    pub record_bytes: u64,
}

impl Settings {
    /// What the configuration asks for, with this plugin.
    pub fn of(config: &Config, plugin: &Digest) -> Settings {
        let (time, limits) = (config.time, config.plugin.limits);
        Settings {
            plugin: plugin.clone(),
            config: config.plugin.config.clone(),
            out_of_orderness_ms: time.out_of_orderness_ms,
            late: late_name(time.late).into(),
            future_limit_ms: time.future_limit_ms,
            idle_timeout_ms: time.idle_timeout_ms,
            implausible: implausible_name(time.implausible).into(),
            memory_bytes: limits.memory_bytes,
            fuel: limits.fuel,
            output_rows: limits.output_rows,
            output_bytes: limits.output_bytes,
            state_bytes: limits.state_bytes,
            record_bytes: limits.record_bytes,
        }
    }

    /// `[time]`, with what decides no row from the configuration.
    pub fn time(&self, configured: Time) -> Time {
        let late = [Late::Drop, Late::DeadLetter, Late::Process].into_iter().find(|late| late_name(*late) == self.late);
        let policies = [ImplausibleTime::DeadLetter, ImplausibleTime::Inherit];
        let implausible = policies.into_iter().find(|policy| implausible_name(*policy) == self.implausible);
        Time {
            out_of_orderness_ms: self.out_of_orderness_ms,
            late: late.unwrap_or(configured.late),
            future_limit_ms: self.future_limit_ms,
            clock_skew_ms: configured.clock_skew_ms,
            idle_timeout_ms: self.idle_timeout_ms,
            implausible: implausible.unwrap_or(configured.implausible),
        }
    }

    /// Limits of one record, event or firing.
    pub fn limits(&self) -> Limits {
        Limits {
            memory_bytes: self.memory_bytes,
            fuel: self.fuel,
            output_rows: self.output_rows,
            output_bytes: self.output_bytes,
            state_bytes: self.state_bytes,
            record_bytes: self.record_bytes,
        }
    }

    /// What differs, as `key: value in force, value configured`.
    pub(super) fn differences(&self, configured: &Settings) -> Vec<String> {
        let (own, other) = (serde_json::to_value(self), serde_json::to_value(configured));
        let (own, other) = (own.expect("plain data"), other.expect("plain data"));
        let fields = own.as_object().expect("a struct").iter();
        let differs = fields.filter(|(key, value)| other.get(key.as_str()) != Some(value));
        differs
            .map(|(key, value)| format!("{}: {value} in force, {} configured", config_key(key), other[key.as_str()]))
            .collect()
    }
}

fn config_key(field: &str) -> &str {
    match field {
        "plugin" => "plugin.component (SHA-256)",
        "config" => "plugin.config",
        "out_of_orderness_ms" => "time.out_of_orderness (ms)",
        "late" => "time.late",
        "future_limit_ms" => "time.future_limit (ms)",
        "idle_timeout_ms" => "time.idle_timeout (ms)",
        "implausible" => "time.implausible",
        "memory_bytes" => "plugin.memory (bytes)",
        "fuel" => "plugin.fuel",
        "output_rows" => "plugin.output_rows",
        "output_bytes" => "plugin.output_bytes",
        "state_bytes" => "plugin.state_bytes (bytes)",
        "record_bytes" => "plugin.record_bytes (bytes)",
        other => other,
    }
}

fn implausible_name(policy: ImplausibleTime) -> &'static str {
    match policy {
        ImplausibleTime::DeadLetter => "dead-letter",
        ImplausibleTime::Inherit => "inherit",
    }
}

fn dead_letter() -> String {
    implausible_name(ImplausibleTime::DeadLetter).to_owned()
}

fn state_bytes() -> u64 {
    DEFAULT_LIMITS.state_bytes
}

fn record_bytes() -> u64 {
    DEFAULT_LIMITS.record_bytes
}

fn late_name(late: Late) -> &'static str {
    match late {
        Late::Drop => "drop",
        Late::DeadLetter => "dead-letter",
        Late::Process => "process",
    }
}
