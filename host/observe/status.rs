//! The status of a pipeline, as text and as JSON: from the board of a running host or, if none answers, from the last checkpoint of each
//! lane. It says which.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::failure::Finding;
use crate::observe::board::{Activity, Board, LaneBoard};
use crate::observe::health;
use crate::record::iso;
use crate::strike::Stage;

/// Where a status comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provenance {
    /// A running host, as of now.
    Host,
    /// The last checkpoints: no host was asked, or none answered.
    Checkpoint,
}

/// The status of a pipeline. Unknown values are null.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The pipeline's name.
    pub pipeline: String,
    /// Where the status comes from.
    pub provenance: Provenance,
    /// Version of the host's keyfold.
    pub version: Option<String>,
    /// How long the host has been up, ms.
    pub up_ms: Option<i64>,
    /// Whether it is alive.
    pub live: Option<bool>,
    /// Whether it is ready.
    pub ready: Option<bool>,
    /// Why it is not alive or not ready.
    pub problems: Vec<String>,
    /// The lanes.
    pub lanes: Vec<LaneStatus>,
}

/// The status of a lane. Unknown values are null; counts start with the host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LaneStatus {
    /// Its name.
    pub lane: String,
    /// The host that opened the lane last; only from a checkpoint.
    #[serde(default)]
    pub owner: Option<String>,
    /// The deployment in force.
    pub deployment: Option<u64>,
    /// Name and version of its plugin.
    pub plugin: Option<String>,
    /// SHA-256 of the plugin's file, hex.
    pub digest: Option<String>,
    /// What the lane is doing now.
    pub activity: Option<String>,
    /// Records folded.
    pub records: Option<u64>,
    /// Rows emitted.
    pub rows: Option<u64>,
    /// Dead letters by stage.
    pub dead_letters: Option<BTreeMap<String, u64>>,
    /// Records of the log that are not folded yet, approximately.
    pub lag_records: Option<u64>,
    /// Age of the last folded record while others wait, ms.
    pub lag_ms: Option<i64>,
    /// The watermark, ms since 1970.
    pub watermark_ms: Option<i64>,
    /// Append time of the last folded record, ms since 1970.
    pub last_append_time_ms: Option<i64>,
    /// Keys with state.
    pub open_keys: Option<u64>,
    /// Size of their state, bytes.
    pub state_bytes: Option<u64>,
    /// How long ago a checkpoint last covered everything, ms; from a checkpoint, how long ago it was written.
    pub checkpoint_age_ms: Option<i64>,
    /// The next offset of each partition; only from a checkpoint.
    pub next: Option<BTreeMap<u32, u64>>,
}

/// Returns the status of the host with this board.
pub fn of_host(board: &Board, stuck_after: Duration) -> Status {
    let (live, ready) = (health::live(board, stuck_after), health::ready(board));
    let problems = live.iter().chain(&ready).filter(|check| matches!(check.finding, Finding::Refused(_)));
    let now_ms = clock::now_ms();
    Status {
        pipeline: board.pipeline.clone(),
        provenance: Provenance::Host,
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        up_ms: Some(now_ms.saturating_sub(board.started_ms).max(0)),
        live: Some(health::is_well(&live)),
        ready: Some(health::is_well(&ready)),
        problems: problems.map(|check| format!("{}: {}", check.subject, check.detail)).collect(),
        lanes: board.lanes().iter().map(|lane| of_lane(lane, now_ms)).collect(),
    }
}

fn of_lane(lane: &LaneBoard, now_ms: i64) -> LaneStatus {
    let (deployed, (activity, _)) = (lane.deployment(), lane.activity());
    let letters = Stage::ALL.into_iter().map(|stage| (stage.name().to_owned(), lane.letters.get(stage)));
    LaneStatus {
        lane: lane.name.clone(),
        owner: None,
        deployment: deployed.as_ref().map(|deployed| deployed.n),
        plugin: deployed.as_ref().map(|deployed| format!("{} {}", deployed.plugin, deployed.version)),
        digest: deployed.map(|deployed| deployed.digest),
        activity: (activity != Activity::Off).then(|| activity.name().to_owned()),
        records: Some(lane.records.get()),
        rows: Some(lane.rows.get()),
        dead_letters: Some(letters.filter(|(_, count)| *count > 0).collect()),
        lag_records: lane.lag(),
        lag_ms: lane.lag_ms(now_ms),
        watermark_ms: lane.watermark.get(),
        last_append_time_ms: lane.last_append.get(),
        open_keys: Some(lane.keys.get()),
        state_bytes: Some(lane.state_bytes.get()),
        checkpoint_age_ms: lane.covered.get().map(|at| now_ms.saturating_sub(at).max(0)),
        next: None,
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pipeline {}: ", self.pipeline)?;
        match self.provenance {
            Provenance::Host => {
                let yes = |is: Option<bool>| if is == Some(true) { "" } else { "not " };
                let up = self.up_ms.map(span).unwrap_or_default();
                let version = self.version.as_deref().unwrap_or_default();
                write!(f, "a host, keyfold {version}, up {up}, {}alive, {}ready", yes(self.live), yes(self.ready))?;
            }
            Provenance::Checkpoint => write!(f, "no running host answered; this is the state of the last checkpoints")?,
        }
        self.problems.iter().try_for_each(|line| write!(f, "\n  {line}"))?;
        for lane in &self.lanes {
            write!(f, "\n\n{lane}")?;
        }
        if self.lanes.is_empty() {
            write!(f, "\n\nno lanes")?;
        }
        Ok(())
    }
}

impl fmt::Display for LaneStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lane {}", self.lane)?;
        let mut line = |name: &str, text: Option<String>| match text {
            Some(text) => write!(f, "\n  {name:<13} {text}"),
            None => Ok(()),
        };
        let number = |n: u64| indicatif::HumanCount(n).to_string();
        let plugin = self.plugin.as_deref().unwrap_or("an unknown plugin");
        line("deployment", self.deployment.map(|n| format!("{n}, {plugin}")))?;
        line("owner", self.owner.clone())?;
        line("activity", self.activity.clone())?;
        line(
            "folded",
            self.records.map(|n| format!("{} records, {} rows", number(n), number(self.rows.unwrap_or(0)))),
        )?;
        let behind = self.lag_ms.filter(|ms| *ms > 0).map(|ms| format!(", {} behind", span(ms))).unwrap_or_default();
        line("lag", self.lag_records.map(|n| format!("{} records{behind}", number(n))))?;
        line("watermark", self.watermark_ms.map(iso))?;
        line("last record", self.last_append_time_ms.map(|ms| format!("appended {}", iso(ms))))?;
        let bytes = |n: u64| bytesize::ByteSize::b(n).display().iec().to_string();
        line("state", self.open_keys.map(|n| format!("{} keys, {}", number(n), bytes(self.state_bytes.unwrap_or(0)))))?;
        line("checkpoint", self.checkpoint_age_ms.map(|ms| format!("{} old", span(ms))))?;
        let offsets = |next: &BTreeMap<u32, u64>| {
            next.iter().map(|(partition, offset)| format!("{partition}: {offset}")).collect::<Vec<_>>().join(", ")
        };
        line("next offsets", self.next.as_ref().map(offsets))?;
        let letters = |letters: &BTreeMap<String, u64>| {
            let stages: Vec<String> = letters.iter().map(|(stage, n)| format!("{stage} {}", number(*n))).collect();
            if stages.is_empty() { "none".to_owned() } else { stages.join(", ") }
        };
        line("dead letters", self.dead_letters.as_ref().map(letters))
    }
}

/// `850 ms`, `12 s`, `3 min`, `5 h`, `4 d`: one unit is precise enough.
fn span(ms: i64) -> String {
    match ms {
        ..1_000 => format!("{ms} ms"),
        1_000..120_000 => format!("{} s", ms / 1_000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_reads_well() {
        let lane = LaneStatus {
            lane: "topic".into(),
            deployment: Some(2),
            plugin: Some("visits 0.1.0".into()),
            activity: Some("gather".into()),
            records: Some(12_345),
            rows: Some(678),
            dead_letters: Some([("map".to_owned(), 3), ("time".to_owned(), 1)].into()),
            lag_records: Some(42),
            lag_ms: Some(3_500),
            watermark_ms: Some(1_727_873_508_000),
            open_keys: Some(9),
            state_bytes: Some(2_048),
            checkpoint_age_ms: Some(850),
            ..LaneStatus::default()
        };
        let status = Status {
            pipeline: "visits-sessions".into(),
            provenance: Provenance::Host,
            version: Some("0.1.0".into()),
            up_ms: Some(7_260_000),
            live: Some(true),
            ready: Some(false),
            problems: vec!["sink: unavailable for 12 s".into()],
            lanes: vec![lane],
        };
        let expected = "\
pipeline visits-sessions: a host, keyfold 0.1.0, up 2 h, alive, not ready
  sink: unavailable for 12 s

lane topic
  deployment    2, visits 0.1.0
  activity      gather
  folded        12,345 records, 678 rows
  lag           42 records, 3 s behind
  watermark     2024-10-02T12:51:48.000Z
  state         9 keys, 2.0 KiB
  checkpoint    850 ms old
  dead letters  map 3, time 1";
        assert_eq!(status.to_string(), expected);
        let read: Status = serde_json::from_str(&serde_json::to_string(&status).expect("plain data becomes JSON"))
            .expect("it was written as JSON");
        assert_eq!(read, status);
    }
}
