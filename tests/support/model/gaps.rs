//! Session windows from their definition, without open sessions, timers or joining: of all events that were accepted, those of a user are
//! sorted by time and cut where two are more than a gap apart. What is late, the lane of the model says.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Effects, Event, Fold, Place};
use crate::support::generate::TestRecord;

/// The accepted events of each user, as time and page, in the order of the lane.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accepted(pub(crate) BTreeMap<Vec<u8>, Vec<(i64, String)>>);

impl Fold for Accepted {
    fn map(&self, record: &TestRecord) -> Result<Vec<Event>, String> {
        let fields: Value =
            serde_json::from_slice(record.value.as_deref().ok_or("tombstone")?).map_err(|error| error.to_string())?;
        let key = fields["user"].as_str().ok_or("user")?.as_bytes().to_vec();
        let value = fields["page"].as_str().ok_or("page")?.to_owned();
        Ok(vec![Event { key, time: fields["time"].as_i64().ok_or("time")?, value }])
    }

    fn on_event(&mut self, event: &Event, _: Place, _: Option<i64>, _: &mut Effects) {
        self.0.entry(event.key.clone()).or_default().push((event.time, event.value.clone()));
    }

    fn on_timer(&mut self, _: &[u8], _: i64, _: &mut Effects) {
        unreachable!("no timer is set");
    }
}

impl Accepted {
    /// The rows of all sessions that end `gap_ms` or more before the watermark, in the order in which they leave: by the time at which
    /// they are due, then by the bytes of the user.
    pub(crate) fn rows(&self, gap_ms: i64, watermark: i64) -> Vec<Value> {
        let mut rows = Vec::new();
        for (user, events) in &self.0 {
            let mut sorted = events.clone();
            // Stable: what is of one time stays in the lane's order.
            sorted.sort_by_key(|(time, _)| *time);
            for session in sorted.chunk_by(|(a, _), (b, _)| b - a <= gap_ms) {
                let (start, end) = (session[0].0, session[session.len() - 1].0);
                if end + gap_ms <= watermark {
                    let pages: Vec<&String> = session.iter().map(|(_, page)| page).collect();
                    let row = json!({
                        "table": "gap_sessions", "user": String::from_utf8_lossy(user), "session_start": instant(start),
                        "session_end": instant(end), "events": session.len(), "pages": pages,
                    });
                    rows.push((end, user, row));
                }
            }
        }
        rows.sort_by(|(a_end, a_user, _), (b_end, b_user, _)| (a_end, a_user).cmp(&(b_end, b_user)));
        rows.into_iter().map(|(_, _, row)| row).collect()
    }

    /// How many events came between two that were more than a gap apart, with at most a gap to either: each joined two sessions.
    pub(crate) fn joining(&self, gap_ms: i64) -> usize {
        let of_user = |events: &Vec<(i64, String)>| {
            let mut before = BTreeSet::new();
            let joins = |&&(time, _): &&(i64, String)| {
                let (lower, upper) = (before.range(..=time).next_back(), before.range(time..).next());
                let joins = lower.zip(upper).is_some_and(|(lower, upper)| {
                    upper - lower > gap_ms && time - lower <= gap_ms && upper - time <= gap_ms
                });
                before.insert(time);
                joins
            };
            events.iter().filter(joins).count()
        };
        self.0.values().map(of_user).sum()
    }

    /// How many events are exactly a gap after the one before them: where `<` and `<=` differ.
    pub(crate) fn at_the_gap(&self, gap_ms: i64) -> usize {
        let of_user = |events: &Vec<(i64, String)>| {
            let times: BTreeSet<i64> = events.iter().map(|(time, _)| *time).collect();
            times.iter().zip(times.iter().skip(1)).filter(|(a, b)| *b - *a == gap_ms).count()
        };
        self.0.values().map(of_user).sum()
    }
}

/// A timestamp as the NDJSON sink writes it.
pub(crate) fn instant(ms: i64) -> String {
    let utc = chrono::DateTime::from_timestamp_millis(ms).expect("generated times are near the present");
    utc.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}
