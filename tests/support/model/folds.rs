//! The plugins' logic for the model: the seed's sessions, and the three shapes of the hostile plugin.

use std::collections::HashMap;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use siphasher::sip::SipHasher24;

use super::{Effects, Event, Fold, Place};
use crate::support::generate::TestRecord;

/// The two forms of a session's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionId {
    /// The seed's own: of the first append time in whole seconds.
    AppendSecond,
    /// The default: of the key and the first record.
    Record,
}

/// `visits`.
#[derive(Clone, Debug)]
pub(crate) struct Visits {
    /// How long after the watermark a session ends.
    pub(crate) session_timeout_ms: i64,
    /// Form of the id.
    pub(crate) session_id: SessionId,
    /// Open sessions: the first record's place and the pages.
    pub(crate) open: HashMap<Vec<u8>, (Place, Vec<String>)>,
}

impl Visits {
    /// With the seed's timeout of 50 s.
    pub(crate) fn new(session_id: SessionId) -> Visits {
        Visits { session_timeout_ms: 50_000, session_id, open: HashMap::new() }
    }
}

impl Fold for Visits {
    fn map(&self, record: &TestRecord) -> Result<Vec<Event>, String> {
        let payload = record.value.as_deref().ok_or("tombstone")?;
        let fields: Value = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        let literals: HashMap<String, Box<RawValue>> =
            serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        let user_id = literals.get("user_id").and_then(|literal| user_id(literal.get())).ok_or("user_id")?;
        let page = fields["page"].as_str().ok_or("page")?;
        let time = event_time(fields["event_time"].as_str().ok_or("event_time")?).ok_or("event_time")?;
        Ok(vec![Event { key: user_id.to_string().into_bytes(), time, value: page.to_owned() }])
    }

    fn on_event(&mut self, event: &Event, place: Place, watermark: Option<i64>, effects: &mut Effects) {
        let (_, pages) = self.open.entry(event.key.clone()).or_insert_with(|| (place, Vec::new()));
        pages.push(event.value.clone());
        effects.timer = Some(watermark.unwrap_or(event.time).saturating_add(self.session_timeout_ms));
    }

    fn on_timer(&mut self, key: &[u8], _time: i64, effects: &mut Effects) {
        let (first, pages) = self.open.remove(key).expect("a session's timer is set while it is open");
        let user_id: i64 = String::from_utf8_lossy(key).parse().expect("the key is a user id in decimal");
        let session_id = session_id(self.session_id, key, first);
        effects.rows.push(json!({"table": "sessions", "session_id": session_id, "user_id": user_id, "pages": pages}));
    }
}

/// SipHash-2-4 with a zero key, as a signed number.
pub(crate) fn session_id(form: SessionId, key: &[u8], first: Place) -> i64 {
    let text = match form {
        SessionId::AppendSecond => (first.append_time.div_euclid(1000) * 1000).to_string().into_bytes(),
        SessionId::Record => {
            let mut bytes = key.to_vec();
            bytes.push(0);
            bytes.extend_from_slice(&first.append_time.to_le_bytes());
            bytes.extend_from_slice(&first.partition.to_le_bytes());
            bytes.extend_from_slice(&first.offset.to_le_bytes());
            bytes.extend_from_slice(&first.index.to_le_bytes());
            bytes
        }
    };
    SipHasher24::new().hash(&text).cast_signed()
}

/// An integer, as it stands or with one zero after the point, as pandas writes it; the generator makes no longer ones. No exponent.
fn user_id(literal: &str) -> Option<i64> {
    let whole = literal.strip_suffix(".0").unwrap_or(literal);
    whole.bytes().all(|b| b == b'-' || b.is_ascii_digit()).then(|| whole.parse().ok()).flatten()
}

/// `YYYY-MM-DDTHH:MM:SS[.digits][Z|+HH:MM|-HH:MM|+HHMM|+HH]`, with `t`, `z` or a space too, as ms since 1970, floored.
pub(crate) fn event_time(text: &str) -> Option<i64> {
    let (instant, rest) = text.split_at_checked(19)?;
    let shape: String = instant.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    if !["0000-00-00T00:00:00", "0000-00-00t00:00:00", "0000-00-00 00:00:00"].contains(&shape.as_str()) {
        return None;
    }
    let leap = instant.ends_with(":60");
    let instant = if leap { format!("{}:59", &instant[..16]) } else { instant.to_owned() };
    let time = chrono::NaiveTime::parse_from_str(&instant[11..], "%H:%M:%S").ok()?;
    let instant = chrono::NaiveDate::parse_from_str(&instant[..10], "%Y-%m-%d").ok()?.and_time(time);
    let (fraction_ms, zone) = fraction(rest)?;
    let second = instant.and_utc().timestamp_millis() - zone_ms(zone)? + if leap { 1_000 } else { 0 };
    (!leap || second.rem_euclid(86_400_000) == 0).then_some(second + fraction_ms)
}

/// The fraction's milliseconds and what follows it.
fn fraction(rest: &str) -> Option<(i64, &str)> {
    let Some(digits) = rest.strip_prefix('.') else { return Some((0, rest)) };
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let (digits, zone) = digits.split_at(end);
    let ms = format!("{digits:0<3}");
    (!digits.is_empty()).then(|| ms[..3].parse().ok()).flatten().map(|ms| (ms, zone))
}

/// How far local time is ahead of UTC.
fn zone_ms(zone: &str) -> Option<i64> {
    let sign = match zone.bytes().next() {
        None => return Some(0),
        Some(b'Z' | b'z') if zone.len() == 1 => return Some(0),
        Some(b'+') => 1,
        Some(b'-') => -1,
        Some(_) => return None,
    };
    let offset = &zone[1..];
    let (hours, minutes) = match offset.split_once(':') {
        Some(parts) => parts,
        None if offset.len() == 2 => (offset, "00"),
        None => offset.split_at_checked(2)?,
    };
    let two_digits =
        |s: &str| (s.len() == 2 && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse::<i64>().ok()).flatten();
    let (hours, minutes) = (two_digits(hours)?, two_digits(minutes)?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes) * 60_000)
}

/// The hostile plugin's modes that fold as any plugin may, in ways that sessions do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A row for each event.
    Ok,
    /// Several keys emit rows of one primary key.
    SharedKey,
    /// Value and list state, reset on their own and together.
    State,
    /// Timers that set timers.
    Timers,
    /// Timers that are due already, so that they fire before the next event of their key in the same record.
    TimerNow,
    /// Rows that carry the configured mark.
    Mark,
    /// A row for each event, but for those of which `v` is 13, on which the plugin panics.
    Trap,
    /// A row for each event; those of which `v` is 13 set a timer, on which the plugin panics.
    TrapTimer,
    /// A row for each event, but for those of which `v` is 13, which the plugin rejects.
    Reject,
}

impl Mode {
    /// The mode of this name.
    pub(crate) fn named(name: &str) -> Mode {
        let all = [
            Mode::Ok,
            Mode::SharedKey,
            Mode::State,
            Mode::Timers,
            Mode::TimerNow,
            Mode::Mark,
            Mode::Trap,
            Mode::Reject,
        ];
        all.into_iter().find(|mode| mode.name() == name).expect("a mode of the model")
    }

    /// Its name in the plugin's configuration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Mode::Ok => "ok",
            Mode::SharedKey => "shared-key",
            Mode::State => "state",
            Mode::Timers => "timers",
            Mode::TimerNow => "timer-now",
            Mode::Mark => "mark",
            Mode::Trap | Mode::TrapTimer => "trap",
            Mode::Reject => "reject",
        }
    }

    /// Where the plugin fails, in its configuration.
    pub(crate) fn at(self) -> &'static str {
        if self == Mode::TrapTimer { "timer" } else { "fold" }
    }
}

/// The mark with which [`Hostile`] is the second version of the plugin.
pub(crate) const SECOND_VERSION: &str = "second version";

/// State of one key.
#[derive(Clone, Debug, Default)]
struct HostileState {
    /// Whether there is a value state.
    present: bool,
    count: i64,
    sum: i64,
    items: Vec<String>,
}

/// `hostile`, as far as it behaves.
#[derive(Clone, Debug)]
pub(crate) struct Hostile {
    mode: Mode,
    /// The mode in which it began.
    first_mode: Mode,
    mark: String,
    /// The plugin's second version: other items.
    second: bool,
    states: HashMap<Vec<u8>, HostileState>,
}

impl Hostile {
    /// In one of its modes.
    pub(crate) fn new(mode: Mode) -> Hostile {
        Hostile { mode, first_mode: mode, mark: String::new(), second: false, states: HashMap::new() }
    }
}

impl Hostile {
    /// Whether it is the plugin's second version.
    pub(crate) fn is_second(&self) -> bool {
        self.second
    }

    /// The keys that have state: count and sum if there is a value, and the list's items.
    pub(crate) fn states(&self) -> impl Iterator<Item = (&[u8], Option<(i64, i64)>, &[String])> {
        let states = self.states.iter().filter(|(_, state)| state.present || !state.items.is_empty());
        states.map(|(key, state)| (&**key, state.present.then_some((state.count, state.sum)), &*state.items))
    }
}

fn out(k: &str, n: i64, v: i64, items: &[String]) -> Value {
    json!({"table": "out", "k": k, "n": n, "v": v, "items": items})
}

impl Fold for Hostile {
    fn map(&self, record: &TestRecord) -> Result<Vec<Event>, String> {
        let fields: Value =
            serde_json::from_slice(record.value.as_deref().ok_or("tombstone")?).map_err(|error| error.to_string())?;
        let event = |fields: &Value| {
            let key = fields["key"].as_str().ok_or("key")?.as_bytes().to_vec();
            let v = fields["v"].as_i64().ok_or("v")?;
            Ok(Event { key, time: fields["time"].as_i64().ok_or("time")?, value: v.to_string() })
        };
        match fields["events"].as_array() {
            Some(events) => events.iter().map(event).collect(),
            None => event(&fields).map(|event| vec![event]),
        }
    }

    fn on_event(&mut self, event: &Event, _place: Place, watermark: Option<i64>, effects: &mut Effects) {
        let v: i64 = event.value.parse().expect("map wrote a number");
        let key = String::from_utf8_lossy(&event.key);
        let state = self.states.entry(event.key.clone()).or_default();
        match self.mode {
            Mode::Trap if v == 13 => effects.struck = true, // as if the event had not been
            Mode::Reject if v == 13 => effects.rejected = true,
            Mode::TrapTimer if v == 13 => {
                (state.present, state.count, state.sum) = (true, 1, v);
                state.items.push(v.to_string());
                effects.rows.push(out(&key, event.time, v, &[]));
                effects.timer = Some(event.time + 10_000);
            }
            Mode::Ok | Mode::Trap | Mode::TrapTimer | Mode::Reject => effects.rows.push(out(&key, event.time, v, &[])),
            Mode::SharedKey => effects.rows.push(out("all", v.rem_euclid(7), v, &[])),
            Mode::State => {
                state.present = true;
                state.count += 1;
                state.sum += v;
                state.items.push(if self.second { format!("{v}'") } else { v.to_string() });
                effects.timer = Some(event.time + 20_000);
                if v % 5 == 0 {
                    effects.rows.push(out(&key, event.time, state.count, &[]));
                    *state = HostileState::default();
                }
            }
            Mode::Timers => {
                (state.present, state.count, state.sum) = (true, 0, 0);
                effects.timer = Some(event.time + 10_000);
            }
            Mode::Mark => {
                (state.present, state.count, state.sum) = (true, state.count + 1, 0);
                effects.rows.push(out(&key, event.time, state.count, std::slice::from_ref(&self.mark)));
                effects.timer = Some(event.time + 10_000);
            }
            Mode::TimerNow => {
                effects.rows.push(out(&key, event.time, v, &[]));
                effects.timer = Some(watermark.unwrap_or(event.time));
            }
        }
    }

    fn on_timer(&mut self, key: &[u8], time: i64, effects: &mut Effects) {
        let text = String::from_utf8_lossy(key);
        let state = self.states.entry(key.to_vec()).or_default();
        match self.mode {
            // They are of a mode that was in force before.
            Mode::Ok | Mode::Trap | Mode::SharedKey | Mode::Reject => {}
            Mode::TrapTimer => {
                *state = HostileState::default();
                effects.struck = true;
            }
            Mode::State => {
                effects.rows.push(out(&text, time, state.sum, &state.items));
                state.items.clear();
            }
            Mode::Timers => {
                (state.present, state.count) = (true, state.count + 1);
                effects.rows.push(out(&text, time, state.count, &[]));
                if state.count < 5 {
                    effects.timer = Some(time + 7_000);
                } else {
                    *state = HostileState::default();
                }
            }
            Mode::Mark => effects.rows.push(out(&text, time, -state.count, std::slice::from_ref(&self.mark))),
            Mode::TimerNow => effects.rows.push(out(&text, time, -1, &[])),
        }
    }

    /// The mark `second version` is the plugin that was built as that: it migrates all state.
    fn configure(&mut self, mark: &str) {
        if let Some(mode) = mark.strip_prefix("mode=") {
            self.mark.clear();
            self.mode = Mode::named(mode);
            return;
        }
        mark.clone_into(&mut self.mark);
        self.mode = self.first_mode;
        if mark == SECOND_VERSION && !self.second {
            self.second = true;
            for state in self.states.values_mut().filter(|state| state.present) {
                state.count += 1000;
            }
            self.states.values_mut().flat_map(|state| &mut state.items).for_each(|item| item.push('\''));
        }
    }
}
