//! The modes that can be written with the SDK. The crate's documentation describes each of them.

use std::borrow::Cow;
use std::hint::black_box;
use std::sync::atomic::{AtomicI64, Ordering};

use keyfold_sdk::{
    ColumnType, Description, Event, Events, Firing, Key, Level, Mapper, Migrated, Record, Stored, Table,
};
use serde::Deserialize;

/// How the plugin behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the crate's documentation describes them in a table")]
pub enum Mode {
    #[default]
    Ok,
    Multi,
    Log,
    Trap,
    Loop,
    Grow,
    Recurse,
    Burn,
    Rows,
    Reject,
    RejectMap,
    Err,
    Malformed,
    ForeignItems,
    StopEarly,
    PastTimer,
    RejectTimer,
    StdHashmap,
    StaticCounter,
    StaticState,
    Tire,
    Hold,
    Swell,
    SharedKey,
    State,
    Timers,
    TimerNow,
    TimerZero,
    Mark,
    Reasons,
    Quote,
    EmptyItems,
    Chatter,
}

/// Where `trap`, `loop`, `grow`, `recurse` and `burn` fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum At {
    /// In `map-records`.
    Map,
    /// In `fold`.
    #[default]
    Fold,
    /// In `on-timer`.
    Timer,
    /// In `migrate`, with every state.
    Migrate,
}

/// The configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How to behave.
    pub mode: Mode,
    /// The `v` of the target.
    pub n: i64,
    /// Where to fail.
    pub at: At,
    /// Rounds of `burn`, KiB of `hold`, `swell`, `reasons` and `chatter`, events of `tire`, thousands of `empty-items`.
    pub units: u64,
    /// The text that `mark` writes into its rows.
    pub mark: String,
    /// The sum of a state on which the migration panics.
    pub unmigratable: Option<i64>,
}

impl Default for Config {
    fn default() -> Config {
        Config { mode: Mode::Ok, n: 13, at: At::Fold, units: 1_000_000, mark: String::new(), unmigratable: None }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Payload<'a> {
    Many {
        #[serde(borrow)]
        events: Vec<One<'a>>,
    },
    One(#[serde(borrow)] One<'a>),
}

#[derive(Deserialize)]
struct One<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    time: i64,
    v: i64,
}

/// A key's value state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// A number of events or firings.
    pub count: i64,
    /// A sum of `v`.
    pub sum: i64,
}

/// The prefix of a value state of version 2.
const SECOND: &[u8] = if cfg!(feature = "second") { b"second:" } else { b"" };

impl Stored for Counts {
    type Read<'a> = Counts;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(SECOND);
        self.count.write(out);
        self.sum.write(out);
    }

    fn read(bytes: &[u8]) -> Result<Counts, String> {
        Counts::read_first(bytes.strip_prefix(SECOND).ok_or("it is not a state of version 2")?)
    }
}

impl Counts {
    /// Reads the encoding of version 1.
    fn read_first(bytes: &[u8]) -> Result<Counts, String> {
        if bytes.len() != 16 {
            return Err(format!("expected 16 bytes, found {}", bytes.len()));
        }
        let (count, sum) = bytes.split_at_checked(8).ok_or("fewer than 8 bytes")?;
        Ok(Counts { count: i64::read(count)?, sum: i64::read(sum)? })
    }
}

/// The mapper.
pub struct Hostile {
    /// The configuration.
    pub config: Config,
}

const OUT: usize = 0;

impl Mapper for Hostile {
    type Event = i64;
    type Value = Counts;
    type Item = str;

    fn describe() -> Description {
        let out = Table::new("out")
            .key("k", ColumnType::Text)
            .key("n", ColumnType::Integer)
            .column("v", ColumnType::Integer)
            .column("items", ColumnType::TextList);
        let description = Description::new("hostile", env!("CARGO_PKG_VERSION")).table(out);
        if cfg!(feature = "second") { description.state_version(2) } else { description }
    }

    fn configure(config: &str) -> Result<Hostile, String> {
        let config = serde_json::from_str(config).map_err(|error| format!("configuration of hostile: {error}"))?;
        Ok(Hostile { config })
    }

    fn map(&self, record: &Record<'_>, out: &mut Events<'_, Self>) -> Result<(), String> {
        let payload = record.payload.ok_or("payload is missing")?;
        let events = match serde_json::from_slice(payload).map_err(|error| format!("payload: {error}"))? {
            Payload::Many { events } => events,
            Payload::One(event) => vec![event],
        };
        for One { key, time, v } in events {
            self.strike(At::Map, v);
            if self.config.mode == Mode::RejectMap && v == self.config.n {
                return Err(format!("rejected {v}"));
            }
            out.push(&*key, time, &v);
        }
        Ok(())
    }

    fn on_event(&self, key: &mut Key<'_, Self>, event: &Event<'_, Self>) -> Result<(), String> {
        let v = event.value();
        match self.config.mode {
            Mode::State => state_event(key, event.time, v),
            Mode::Timers => {
                key.put(&Counts::default());
                key.set_timer(event.time.saturating_add(10_000));
            }
            Mode::SharedKey => row(key, "all", v.rem_euclid(7), v),
            Mode::StaticCounter => plain_row(key, event.time, count_events()),
            Mode::Tire => {
                let is_tired = count_events().unsigned_abs() > self.config.units;
                plain_row(key, event.time, if is_tired { -1 } else { v });
            }
            Mode::Hold => {
                let mut held = Vec::new();
                (0..self.config.units * 1024).for_each(|i| held.push(black_box(i.to_le_bytes()[0])));
                black_box(held);
                plain_row(key, event.time, v);
            }
            Mode::Swell => {
                if v == self.config.n {
                    key.clear_items();
                } else {
                    key.append(&"s".repeat(usize::try_from(self.config.units * 1024).unwrap_or(usize::MAX)));
                }
                plain_row(key, event.time, v);
            }
            Mode::StaticState => {
                key.put(&Counts { count: count_events(), sum: 0 });
                plain_row(key, event.time, v);
            }
            Mode::StdHashmap => hash_order_row(key, event.time, v),
            Mode::TimerNow => {
                plain_row(key, event.time, v);
                key.set_timer(event.watermark.unwrap_or(event.time));
            }
            Mode::Mark => {
                let count = key.value().unwrap_or_default().count + 1;
                key.put(&Counts { count, sum: 0 });
                key.set_timer(event.time.saturating_add(10_000));
                self.marked_row(key, event.time, count);
            }
            Mode::TimerZero => {
                self.strike(At::Fold, v);
                key.put(&Counts { count: 1, sum: v });
                key.set_timer(0);
            }
            Mode::Reasons => return Err(self.text()),
            Mode::Quote => return Err(key.name().to_owned()),
            Mode::EmptyItems => {
                (0..self.config.units * 1_000).for_each(|_| key.append(""));
                plain_row(key, event.time, v);
            }
            Mode::Chatter => {
                key.log(Level::Info, self.text());
                plain_row(key, event.time, v);
            }
            Mode::Log => {
                let line = format!("event {v} of {}", key.name());
                key.log(Level::Info, line);
                plain_row(key, event.time, v);
            }
            _ if v == self.config.n => return self.target_event(key, event.time, v),
            _ => plain_row(key, event.time, v),
        }
        Ok(())
    }

    fn on_timer(&self, key: &mut Firing<'_, Self>, time: i64) -> Result<(), String> {
        match self.config.mode {
            Mode::State => {
                let (name, sum, items) = (key.name(), key.value().unwrap_or_default().sum, key.items());
                key.row(OUT).text("k", name).integer("n", time).integer("v", sum).texts("items", items).end();
                key.clear_items();
            }
            Mode::Timers => chained_timer(key, time),
            Mode::TimerNow => plain_row(key, time, -1),
            Mode::Mark => {
                let count = key.value().unwrap_or_default().count;
                self.marked_row(key, time, -count);
            }
            Mode::TimerZero => {
                let v = key.value().unwrap_or_default().sum;
                self.strike(At::Timer, v);
                plain_row(key, v, v);
                key.clear();
            }
            Mode::PastTimer => key.set_timer(time),
            Mode::RejectTimer => {
                plain_row(key, time, -1);
                return Err("rejected timer".into());
            }
            _ => self.strike(At::Timer, self.config.n),
        }
        Ok(())
    }

    fn migrate_value(&self, version: u32, old: &[u8], new: &mut Migrated<'_, Counts>) -> Result<(), String> {
        first(version)?;
        let Counts { count, sum } = Counts::read_first(old)?;
        assert!(self.config.unmigratable != Some(sum), "a sum of {sum} is not migrated");
        self.strike(At::Migrate, self.config.n);
        new.put(&Counts { count: count + 1000, sum });
        Ok(())
    }

    fn migrate_item(&self, version: u32, old: &[u8], new: &mut Migrated<'_, str>) -> Result<(), String> {
        first(version)?;
        new.put(&format!("{}'", str::read(old)?));
        Ok(())
    }
}

fn first(version: u32) -> Result<(), String> {
    if cfg!(feature = "second") && version == 1 {
        return Ok(());
    }
    Err(format!("hostile cannot read state of version {version}"))
}

/// Returns an item of the mode `state`.
fn item(v: i64) -> String {
    if cfg!(feature = "second") { format!("{v}'") } else { v.to_string() }
}

impl Hostile {
    /// Handles the target, in the modes that fail on nothing else.
    fn target_event(&self, key: &mut Key<'_, Self>, time: i64, v: i64) -> Result<(), String> {
        self.strike(At::Fold, v);
        let last = if self.config.mode == Mode::Rows { 1_000_000 } else { 0 };
        let name = key.name();
        (0..last).for_each(|i| row(key, name, i, v));
        if last == 0 {
            plain_row(key, time, v);
        }
        let timer_strikes = self.config.at == At::Timer;
        if timer_strikes || matches!(self.config.mode, Mode::PastTimer | Mode::RejectTimer | Mode::Reject) {
            key.put(&Counts { count: 1, sum: v });
            key.append(&v.to_string());
            key.set_timer(time.saturating_add(10_000));
        }
        if self.config.mode == Mode::Reject { Err(format!("rejected {v}")) } else { Ok(()) }
    }

    /// As many KiB as `units` says.
    fn text(&self) -> String {
        "t".repeat(usize::try_from(self.config.units * 1024).unwrap_or(usize::MAX))
    }

    fn marked_row(&self, key: &mut Key<'_, Hostile>, n: i64, v: i64) {
        let name = key.name();
        key.row(OUT).text("k", name).integer("n", n).integer("v", v).texts("items", [&*self.config.mark]).end();
    }

    fn strike(&self, at: At, v: i64) {
        if at != self.config.at || v != self.config.n {
            return;
        }
        match self.config.mode {
            Mode::Trap | Mode::TimerZero => panic!("struck by {v}"),
            Mode::Loop => loop {
                black_box(v);
            },
            Mode::Grow => {
                let mut kept = Vec::new();
                loop {
                    kept.push(black_box(vec![1_u8; 1 << 20]));
                }
            }
            Mode::Recurse => {
                black_box(dive(v.unsigned_abs()));
            }
            Mode::Burn => {
                (0..self.config.units).fold(v, |sum, unit| black_box(sum.wrapping_mul(31)).wrapping_add_unsigned(unit));
            }
            _ => {}
        }
    }
}

/// Calls itself without end; the sum keeps it from becoming a loop.
#[expect(unconditional_recursion, reason = "tests check that this is survived")]
fn dive(depth: u64) -> u64 {
    dive(black_box(depth).wrapping_add(1)).wrapping_add(depth)
}

fn row(key: &mut Key<'_, Hostile>, k: &str, n: i64, v: i64) {
    key.row(OUT).text("k", k).integer("n", n).integer("v", v).texts("items", [""; 0]).end();
}

fn plain_row(key: &mut Key<'_, Hostile>, n: i64, v: i64) {
    let name = key.name();
    row(key, name, n, v);
}

fn count_events() -> i64 {
    static EVENTS: AtomicI64 = AtomicI64::new(0);
    EVENTS.fetch_add(1, Ordering::Relaxed) + 1
}

#[expect(clippy::disallowed_types, reason = "tests check that this is detected")]
fn hash_order_row(key: &mut Key<'_, Hostile>, n: i64, v: i64) {
    let numbers: std::collections::HashMap<i32, ()> = (0..16).map(|i| (i, ())).collect();
    let (name, items) = (key.name(), numbers.into_keys().map(|i| i.to_string()));
    key.row(OUT).text("k", name).integer("n", n).integer("v", v).texts("items", items).end();
}

fn state_event(key: &mut Key<'_, Hostile>, time: i64, v: i64) {
    let Counts { count, sum } = key.value().unwrap_or_default();
    let counts = Counts { count: count + 1, sum: sum.wrapping_add(v) };
    key.put(&counts);
    key.append(&item(v));
    key.set_timer(time.saturating_add(20_000));
    if v.rem_euclid(5) == 0 {
        plain_row(key, time, counts.count);
        key.clear();
    }
}

fn chained_timer(key: &mut Key<'_, Hostile>, time: i64) {
    let Counts { count, sum } = key.value().unwrap_or_default();
    plain_row(key, time, count + 1);
    if count + 1 < 5 {
        key.put(&Counts { count: count + 1, sum });
        key.set_timer(time.saturating_add(7000));
    } else {
        key.clear();
    }
}
