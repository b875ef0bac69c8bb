//! The metrics of a host: name, labels, unit, meaning, and how each is read from the boards; and the page in Prometheus' text format. Names,
//! page and reference come from one table.
//!
//! The format is written here: it is a few lines, and a library for it would want to own the numbers, which belong to the boards.

mod state;

use std::fmt::Write as _;
use std::time::Duration;

use crate::backoff::Outage;
use crate::clock;
use crate::event_time::Implausible;
use crate::observe::board::{Activity, Board, LaneBoard};
use crate::observe::health;
use crate::observe::meter::{Call, Cost};
use crate::observe::process;
use crate::printable::printable;
use crate::strike::Stage;

/// The media type of the page.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric.
struct Metric {
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    meaning: &'static str,
    read: Read,
}

/// How a metric is read: once for the host, or once per lane, with the lane's name as the first label.
enum Read {
    Host(fn(&View<'_>, &mut Samples<'_>)),
    Lane(fn(&LaneBoard, &View<'_>, &mut Samples<'_>)),
}

/// The board to read, and the time.
struct View<'a> {
    board: &'a Board,
    stuck_after: Duration,
    now_ms: i64,
}

const LANE: &[&str] = &["lane"];
const PLUGIN: &[&str] = &["lane", "plugin", "version"];
const CALLS: &[&str] = &["lane", "plugin", "version", "function"];
const STAGE: &[&str] = &["lane", "stage"];
const NONE: &[&str] = &[];

const METRICS: &[Metric] = &[
    // ---- the host
    host(
        "keyfold_build_info",
        &["pipeline", "version"],
        "always 1; labels carry the pipeline's name and the version of keyfold",
        |view, out| {
            out.value(&[&view.board.pipeline, env!("CARGO_PKG_VERSION")], 1.0);
        },
    ),
    host("keyfold_start_time_seconds", NONE, "start time of the host, Unix time", |view, out| {
        out.value(&[], seconds(view.board.started_ms));
    }),
    Metric {
        kind: Kind::Counter,
        ..host("process_cpu_seconds_total", NONE, "CPU time of the process, user and system", |_, out| {
            out.known(process::read().cpu_seconds)
        })
    },
    host("process_resident_memory_bytes", NONE, "memory that the process occupies", |_, out| {
        out.known(process::read().resident_bytes)
    }),
    host("process_virtual_memory_bytes", NONE, "address space of the process", |_, out| {
        out.known(process::read().virtual_bytes)
    }),
    host("process_open_fds", NONE, "open files of the process", |_, out| out.known(process::read().open_files)),
    host("process_max_fds", NONE, "most open files that the process may have", |_, out| {
        out.known(process::read().most_files)
    }),
    host("process_threads", NONE, "threads of the process", |_, out| out.known(process::read().threads)),
    host("process_start_time_seconds", NONE, "start time of the process, Unix time", |_, out| {
        out.known(process::read().started)
    }),
    host("keyfold_live", NONE, "1 while `/livez` returns 200, else 0", |view, out| {
        out.value(&[], flag(health::is_well(&health::live(view.board, view.stuck_after))));
    }),
    host("keyfold_ready", NONE, "1 while `/readyz` returns 200, else 0", |view, out| {
        out.value(&[], flag(health::is_well(&health::ready(view.board))));
    }),
    // ---- folding
    lane(
        "keyfold_deployment_info",
        Kind::Gauge,
        &["lane", "deployment", "plugin", "version", "digest"],
        "always 1; labels carry the deployment in force and its plugin",
        |lane, _, out| {
            if let Some(deployed) = lane.deployment() {
                out.value(&[&deployed.n.to_string(), &deployed.plugin, &deployed.version, &deployed.digest], 1.0);
            }
        },
    ),
    count("keyfold_records_total", "records folded", |lane, _, out| out.number(lane.records.get())),
    count("keyfold_events_total", "events produced by the plugin's `map-records`", |lane, _, out| {
        out.number(lane.events.get());
    }),
    lane(
        "keyfold_rejected_total",
        Kind::Counter,
        STAGE,
        "records, events and firings that were rejected or hit a limit, and rows that the sink refused, by stage; without late events",
        |lane, _, out| out.stages(&Stage::ALL, |stage| lane.rejected.get(stage)),
    ),
    lane(
        "keyfold_late_total",
        Kind::Counter,
        &["lane", "policy"],
        "late events by policy (`time.late`): `drop` or `dead-letter`",
        |lane, _, out| {
            for (policy, late) in ["drop", "dead-letter"].into_iter().zip(&lane.late) {
                out.value(&[policy], late.get() as f64);
            }
        },
    ),
    lane(
        "keyfold_implausible_timestamps_total",
        Kind::Counter,
        &["lane", "reason"],
        "records read whose timestamp is `missing`, `before-1970` or `after-2099` (`time.implausible`)",
        |lane, _, out| {
            for (reason, count) in Implausible::ALL.into_iter().zip(&lane.implausible) {
                out.value(&[reason.name()], count.get() as f64);
            }
        },
    ),
    count(
        "keyfold_far_timestamps_total",
        "records read whose timestamp is more than a day ahead of the host's clock",
        |lane, _, out| out.number(lane.far_ahead.get()),
    ),
    count(
        "keyfold_watermark_jumps_total",
        "records with an event more than a minute beyond `time.out_of_orderness` ahead of their append time, which moved the watermark by more \
         than a minute",
        |lane, _, out| out.number(lane.jumps.get()),
    ),
    count("keyfold_rows_total", "rows emitted by the lane", |lane, _, out| out.number(lane.rows.get())),
    count("keyfold_firings_total", "timers fired", |lane, _, out| out.number(lane.firings.get())),
    count("keyfold_batches_total", "batches folded", |lane, _, out| out.number(lane.batches.get())),
    lane(
        "keyfold_strikes_total",
        Kind::Counter,
        STAGE,
        "new strikes by stage: items that trapped or exceeded a limit, alone in a fresh instance",
        |lane, _, out| out.stages(OF_PLUGIN, |stage| lane.strikes.get(stage)),
    ),
    count(
        "keyfold_floors_total",
        "records that became visible late and were ordered after records already folded",
        |lane, _, out| {
            out.number(lane.floors.get());
        },
    ),
    count("keyfold_audits_total", "batches audited (`plugin.audit`)", |lane, _, out| out.number(lane.audits.get())),
    count("keyfold_swaps_total", "deployments that took effect", |lane, _, out| out.number(lane.swaps.get())),
    gauge("keyfold_swap_gap_seconds", "longest pause in folding caused by a deployment", |lane, _, out| {
        out.value(&[], micros(lane.longest_gap_us.get()));
    }),
    // ---- progress
    gauge(
        "keyfold_lag_records",
        "records of the log that are not folded yet, approximately; omitted for a file, and while the partitions' leaders do not answer",
        |lane, _, out| {
            out.known(lane.lag().map(|records| records as f64));
        },
    ),
    gauge(
        "keyfold_lag_seconds",
        "age of the last folded record while others wait, by append time; 0 if none waits; omitted as `keyfold_lag_records` is",
        |lane, view, out| out.known(lane.lag_ms(view.now_ms).map(seconds)),
    ),
    gauge(
        "keyfold_log_margin_records",
        "offsets between the first one still in the log and the next to read, of the partition with the fewest: at 0, retention deletes what was not \
         read; omitted for a file",
        |lane, _, out| out.known(lane.ends().and_then(|ends| ends.margin()).map(|margin| margin as f64)),
    ),
    gauge(
        "keyfold_source_up",
        "1 if the partitions' leaders answered the last request, else 0; omitted for a file",
        |lane, _, out| {
            out.known(lane.ends().map(|ends| flag(ends.answered())));
        },
    ),
    gauge("keyfold_last_append_time_seconds", "append time of the last folded record, Unix time", |lane, _, out| {
        out.known(lane.last_append.get().map(seconds));
    }),
    gauge("keyfold_watermark_seconds", "the watermark, Unix time; omitted before the first event", |lane, _, out| {
        out.known(lane.watermark.get().map(seconds));
    }),
    gauge("keyfold_watermark_lag_seconds", "how far the watermark trails the clock", |lane, view, out| {
        out.known(lane.watermark.get().map(|watermark| seconds(view.now_ms.saturating_sub(watermark))));
    }),
    // ---- time
    lane(
        "keyfold_lane_seconds_total",
        Kind::Counter,
        &["lane", "activity"],
        "the lane's time by activity: `gather` (waiting for input), `map`, `fold`, `store` (keys, journal), `write` (waiting for the sink), \
         `checkpoint`",
        |lane, _, out| {
            for activity in Activity::RUNNING {
                out.value(&[activity.name()], micros(lane.spent_us(activity)));
            }
        },
    ),
    gauge(
        "keyfold_stuck_seconds",
        "time without progress, not counting waits for input, sink or state store; `/livez` fails at `admin.stuck_after`",
        |lane, _, out| out.value(&[], micros(lane.without_progress_us())),
    ),
    // ---- sink and dead letters
    count("keyfold_sink_rows_total", "rows acknowledged by the sink", |lane, _, out| out.number(lane.sink_rows.get())),
    lane(
        "keyfold_sink_write_seconds",
        Kind::Histogram,
        LANE,
        "duration of writing the rows of a batch, including outages",
        |lane, _, out| out.histogram(lane),
    ),
    host("keyfold_sink_up", NONE, "0 during an outage of the sink, else 1; omitted before it is open", |view, out| {
        out.up(view.board.outputs().sink.as_deref());
    }),
    Metric {
        kind: Kind::Counter,
        ..host("keyfold_sink_retries_total", NONE, "failed writes to the sink that were retried", |view, out| {
            out.known(view.board.outputs().sink.map(|sink| sink.retries() as f64));
        })
    },
    host(
        "keyfold_sink_queued_batches",
        NONE,
        "batches and checkpoints that wait for the writer thread",
        |view, out| {
            out.value(&[], view.board.queued() as f64);
        },
    ),
    lane("keyfold_dead_letters_total", Kind::Counter, STAGE, "dead letters written, by stage", |lane, _, out| {
        out.stages(&Stage::ALL, |stage| lane.letters.get(stage))
    }),
    host(
        "keyfold_dead_letters_up",
        NONE,
        "0 during an outage of the dead-letter file or topic, else 1",
        |view, out| {
            out.up(view.board.outputs().letters.as_deref());
        },
    ),
    Metric {
        kind: Kind::Counter,
        ..host(
            "keyfold_dead_letters_retries_total",
            NONE,
            "failed writes of dead letters that were retried",
            |view, out| {
                out.known(view.board.outputs().letters.map(|letters| letters.retries() as f64));
            },
        )
    },
    // ---- the plugin
    lane("keyfold_plugin_calls_total", Kind::Counter, CALLS, "calls of the plugin by function", |lane, _, out| {
        out.calls(lane, |cost| cost.calls as f64);
    }),
    lane(
        "keyfold_plugin_failed_calls_total",
        Kind::Counter,
        CALLS,
        "calls that trapped, returned an error or exceeded a limit; each is repeated in halves",
        |lane, _, out| out.calls(lane, |cost| cost.failed as f64),
    ),
    lane(
        "keyfold_plugin_seconds_total",
        Kind::Counter,
        CALLS,
        "time in calls of the plugin, including the transfer of columns",
        |lane, _, out| {
            out.calls(lane, |cost| cost.time.as_secs_f64());
        },
    ),
    lane(
        "keyfold_plugin_fuel_total",
        Kind::Counter,
        CALLS,
        "fuel used by calls of the plugin, about one unit per instruction",
        |lane, _, out| {
            out.calls(lane, |cost| cost.fuel as f64);
        },
    ),
    lane(
        "keyfold_plugin_memory_bytes",
        Kind::Gauge,
        PLUGIN,
        "most memory used by one instance so far",
        |lane, _, out| {
            for same in lane.called() {
                let most = same.iter().map(|called| called.meter.most_memory()).max().unwrap_or_default();
                out.value(&[&same[0].plugin, &same[0].version], most as f64);
            }
        },
    ),
    lane("keyfold_plugin_log_lines_total", Kind::Counter, PLUGIN, "log lines written by the plugin", |lane, _, out| {
        for same in lane.called() {
            let lines: u64 = same.iter().map(|called| called.log.written()).sum();
            out.value(&[&same[0].plugin, &same[0].version], lines as f64);
        }
    }),
    lane(
        "keyfold_plugin_log_lines_dropped_total",
        Kind::Counter,
        PLUGIN,
        "log lines of the plugin dropped because of `plugin.log_rate`",
        |lane, _, out| {
            for same in lane.called() {
                let lines: u64 = same.iter().map(|called| called.log.dropped()).sum();
                out.value(&[&same[0].plugin, &same[0].version], lines as f64);
            }
        },
    ),
];

/// Stages of strikes.
const OF_PLUGIN: &[Stage] = &[Stage::Map, Stage::Fold, Stage::Timer, Stage::Migrate];

const fn host(
    name: &'static str,
    labels: &'static [&'static str],
    meaning: &'static str,
    read: fn(&View<'_>, &mut Samples<'_>),
) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, meaning, read: Read::Host(read) }
}

const fn lane(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    meaning: &'static str,
    read: fn(&LaneBoard, &View<'_>, &mut Samples<'_>),
) -> Metric {
    Metric { name, kind, labels, meaning, read: Read::Lane(read) }
}

const fn count(name: &'static str, meaning: &'static str, read: fn(&LaneBoard, &View<'_>, &mut Samples<'_>)) -> Metric {
    lane(name, Kind::Counter, LANE, meaning, read)
}

const fn gauge(name: &'static str, meaning: &'static str, read: fn(&LaneBoard, &View<'_>, &mut Samples<'_>)) -> Metric {
    lane(name, Kind::Gauge, LANE, meaning, read)
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1e3
}

fn micros(us: u64) -> f64 {
    us as f64 / 1e6
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

/// Returns the page.
pub fn page(board: &Board, stuck_after: Duration) -> String {
    let view = View { board, stuck_after, now_ms: clock::now_ms() };
    let lanes = board.lanes();
    let mut text = String::new();
    for metric in all() {
        let Metric { name, kind, meaning, .. } = metric;
        put(&mut text, format_args!("# HELP {name} {meaning}\n# TYPE {name} {}\n", kind.name()));
        match metric.read {
            Read::Host(read) => read(&view, &mut Samples { metric, lane: None, text: &mut text }),
            Read::Lane(read) => lanes.iter().for_each(|lane| {
                read(lane, &view, &mut Samples { metric, lane: Some(&lane.name), text: &mut text });
            }),
        }
    }
    text
}

/// Returns the reference of all metrics as a Markdown table.
pub fn reference() -> String {
    let mut table = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for Metric { name, kind, labels, meaning, .. } in all() {
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        put(&mut table, format_args!("| `{name}` | {} | {labels} | {meaning} |\n", kind.name()));
    }
    table
}

fn all() -> impl Iterator<Item = &'static Metric> {
    METRICS.iter().chain(state::METRICS)
}

/// Returns the names of all metrics.
pub fn names() -> impl Iterator<Item = &'static str> {
    all().map(|metric| metric.name)
}

fn put(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("writing to a string cannot fail");
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// Writes the samples of a metric.
struct Samples<'a> {
    metric: &'a Metric,
    lane: Option<&'a str>,
    text: &'a mut String,
}

impl Samples<'_> {
    /// Writes a sample; `labels` are the values of the labels after the lane's.
    fn value(&mut self, labels: &[&str], value: f64) {
        self.sample("", labels, None, value);
    }

    fn number(&mut self, value: u64) {
        self.value(&[], value as f64);
    }

    /// Writes a sample, if the value is known.
    fn known(&mut self, value: Option<f64>) {
        if let Some(value) = value {
            self.value(&[], value);
        }
    }

    fn up(&mut self, outage: Option<&Outage>) {
        self.known(outage.map(|outage| flag(outage.since_ms().is_none())));
    }

    fn stages(&mut self, stages: &[Stage], count: impl Fn(Stage) -> u64) {
        stages.iter().for_each(|stage| self.value(&[stage.name()], count(*stage) as f64));
    }

    fn calls(&mut self, lane: &LaneBoard, of: impl Fn(&Cost) -> f64) {
        for same in lane.called() {
            for call in Call::ALL {
                let sum = same.iter().map(|called| of(&called.meter.cost(call))).sum();
                self.value(&[&same[0].plugin, &same[0].version, call.name()], sum);
            }
        }
    }

    fn histogram(&mut self, lane: &LaneBoard) {
        let (count, sum_us) = lane.sink_writes.count_and_sum_us();
        for (bound_us, at_most) in lane.sink_writes.buckets() {
            self.sample("_bucket", &[], Some(&micros(bound_us).to_string()), at_most as f64);
        }
        self.sample("_bucket", &[], Some("+Inf"), count as f64);
        self.sample("_sum", &[], None, micros(sum_us));
        self.sample("_count", &[], None, count as f64);
    }

    fn sample(&mut self, suffix: &str, labels: &[&str], bound: Option<&str>, value: f64) {
        let values = self.lane.iter().chain(labels);
        assert_eq!(values.clone().count(), self.metric.labels.len(), "labels of {}", self.metric.name);
        let named = self.metric.labels.iter().zip(values).map(|(name, value)| (*name, *value));
        let pairs: Vec<String> = named
            .chain(bound.map(|bound| ("le", bound)))
            .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
            .collect();
        let pairs = if pairs.is_empty() { String::new() } else { format!("{{{}}}", pairs.join(",")) };
        put(self.text, format_args!("{}{suffix}{pairs} {value}\n", self.metric.name));
    }
}

fn escaped(value: &str) -> String {
    printable(value).replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn board() -> Board {
        let board = Board::new("a \"pipeline\"\n", &Arc::default());
        board.lane("topic").records.add(7);
        board.lane("topic").sink_writes.add(2_000);
        board
    }

    #[test]
    fn samples_are_lines_with_escaped_labels() {
        let page = page(&board(), Duration::from_secs(60));
        for line in [
            "# HELP keyfold_records_total records folded",
            "# TYPE keyfold_records_total counter",
            "keyfold_records_total{lane=\"topic\"} 7",
            "keyfold_sink_write_seconds_bucket{lane=\"topic\",le=\"0.001\"} 0",
            "keyfold_sink_write_seconds_bucket{lane=\"topic\",le=\"0.0025\"} 1",
            "keyfold_sink_write_seconds_bucket{lane=\"topic\",le=\"+Inf\"} 1",
            "keyfold_sink_write_seconds_sum{lane=\"topic\"} 0.002",
            "keyfold_sink_write_seconds_count{lane=\"topic\"} 1",
            "keyfold_rejected_total{lane=\"topic\",stage=\"map\"} 0",
            "keyfold_ready 0",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is not in\n{page}");
        }
        let info = format!(
            "keyfold_build_info{{pipeline=\"a \\\"pipeline\\\"\\n\",version=\"{}\"}} 1",
            env!("CARGO_PKG_VERSION")
        );
        assert!(page.lines().any(|found| found == info), "{info} is not in\n{page}");
        assert!(!page.contains("keyfold_watermark_seconds{"), "unknown values are omitted");
    }

    #[test]
    fn names_end_in_their_unit_and_are_unique() {
        let mut seen = std::collections::BTreeSet::new();
        for Metric { name, kind, labels, read, .. } in all() {
            assert!(seen.insert(name), "{name} is defined twice");
            assert!(name.starts_with("keyfold_") || name.starts_with("process_"), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert_eq!(labels.first() == Some(&"lane"), matches!(read, Read::Lane(_)), "{name}");
        }
    }
}
