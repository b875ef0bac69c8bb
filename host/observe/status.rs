//! `keyfold status`: how a pipeline is doing, for people and as JSON. It is what a running host's board says or, where none answers, what
//! the last checkpoint of each lane says; each says which.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::failure::Finding;
use crate::observe::board::{Board, Doing, LaneBoard};
use crate::observe::health;
use crate::record::iso;
use crate::strike::Stage;

/// Whose word it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// A running host's, as of now.
    Host,
    /// That of the last checkpoints: no host was asked, or none answered.
    Checkpoint,
}

/// How a pipeline is doing. What is not known is null.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub pipeline: String,
    /// Whose word this is.
    pub word: Word,
    /// Version of the host's keyfold.
    pub version: Option<String>,
    /// How long the host has been up, ms.
    pub up_ms: Option<i64>,
    /// Whether it is alive.
    pub live: Option<bool>,
    /// Whether it is ready.
    pub ready: Option<bool>,
    /// What stands against that, in words.
    pub against: Vec<String>,
    /// Its lanes.
    pub lanes: Vec<LaneStatus>,
}

/// How a lane is doing. What is not known is null; counts are since the start of the host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LaneStatus {
    /// Its name.
    pub lane: String,
    /// The deployment in force.
    pub deployment: Option<u64>,
    /// Its plugin, with the version where a host says it.
    pub plugin: Option<String>,
    /// SHA-256 of the plugin's file, hex.
    pub digest: Option<String>,
    /// What the lane is doing.
    pub doing: Option<String>,
    /// Records folded.
    pub records: Option<u64>,
    /// Rows that left it.
    pub rows: Option<u64>,
    /// Dead letters by stage.
    pub dead_letters: Option<BTreeMap<String, u64>>,
    /// Records of the log that are not folded yet, about.
    pub lag_records: Option<u64>,
    /// How far the last folded record lies behind the clock while others wait, ms.
    pub lag_ms: Option<i64>,
    /// The watermark, ms since 1970.
    pub watermark_ms: Option<i64>,
    /// Append time of the last folded record, ms since 1970.
    pub last_append_time_ms: Option<i64>,
    /// Keys with state.
    pub open_keys: Option<u64>,
    /// Bytes of their state.
    pub state_bytes: Option<u64>,
    /// How long ago all that the lane had done was covered by a checkpoint, ms; of a checkpoint itself, when it was written.
    pub checkpoint_age_ms: Option<i64>,
    /// The next offset of each partition, of a checkpoint.
    pub next: Option<BTreeMap<u32, u64>>,
}

/// How the host with this board is doing.
pub fn of_host(board: &Board, stuck_after: Duration) -> Status {
    let (live, ready) = (health::live(board, stuck_after), health::ready(board));
    let against = live.iter().chain(&ready).filter(|check| matches!(check.finding, Finding::Refused(_)));
    let now_ms = clock::now_ms();
    Status {
        pipeline: board.pipeline.clone(),
        word: Word::Host,
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        up_ms: Some(now_ms.saturating_sub(board.started_ms).max(0)),
        live: Some(health::is_well(&live)),
        ready: Some(health::is_well(&ready)),
        against: against.map(|check| format!("{}: {}", check.subject, check.detail)).collect(),
        lanes: board.lanes().iter().map(|lane| of_lane(lane, now_ms)).collect(),
    }
}

fn of_lane(lane: &LaneBoard, now_ms: i64) -> LaneStatus {
    let (deployed, (doing, _)) = (lane.deployment(), lane.doing());
    let letters = Stage::ALL.into_iter().map(|stage| (stage.name().to_owned(), lane.letters.get(stage)));
    LaneStatus {
        lane: lane.name.clone(),
        deployment: deployed.as_ref().map(|deployed| deployed.n),
        plugin: deployed.as_ref().map(|deployed| format!("{} {}", deployed.plugin, deployed.version)),
        digest: deployed.map(|deployed| deployed.digest),
        doing: (doing != Doing::Off).then(|| doing.name().to_owned()),
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

impl Status {
    /// As JSON.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data becomes JSON")
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pipeline {}: ", self.pipeline)?;
        match self.word {
            Word::Host => {
                let yes = |is: Option<bool>| if is == Some(true) { "" } else { "not " };
                let up = self.up_ms.map(span).unwrap_or_default();
                let version = self.version.as_deref().unwrap_or_default();
                write!(f, "a host, keyfold {version}, up {up}, {}alive, {}ready", yes(self.live), yes(self.ready))?;
            }
            Word::Checkpoint => write!(f, "no host was heard; this is what the last checkpoints say")?,
        }
        self.against.iter().try_for_each(|line| write!(f, "\n  {line}"))?;
        for lane in &self.lanes {
            write!(f, "\n\n{lane}")?;
        }
        if self.lanes.is_empty() {
            write!(f, "\n\nno lane")?;
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
        line("doing", self.doing.clone())?;
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

/// `850 ms`, `12 s`, `3 min`, `5 h`, `4 d`: one unit is enough to see how it is.
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
            doing: Some("gather".into()),
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
            word: Word::Host,
            version: Some("0.1.0".into()),
            up_ms: Some(7_260_000),
            live: Some(true),
            ready: Some(false),
            against: vec!["sink: does not answer, for 12 s".into()],
            lanes: vec![lane],
        };
        let expected = "\
pipeline visits-sessions: a host, keyfold 0.1.0, up 2 h, alive, not ready
  sink: does not answer, for 12 s

lane topic
  deployment    2, visits 0.1.0
  doing         gather
  folded        12,345 records, 678 rows
  lag           42 records, 3 s behind
  watermark     2024-10-02T12:51:48.000Z
  state         9 keys, 2.0 KiB
  checkpoint    850 ms old
  dead letters  map 3, time 1";
        assert_eq!(status.to_string(), expected);
        let read: Status = serde_json::from_str(&status.json()).expect("it was written as JSON");
        assert_eq!(read, status);
    }
}
