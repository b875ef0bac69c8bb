//! Traces of batches for an OpenTelemetry collector: a span per batch, with a child span per activity of the lane, sent as OTLP over HTTP in
//! JSON. A lane never waits for the collector: traces that it does not accept are dropped, with a warning now and then.
//!
//! The JSON is written here: it is a page of code, and the usual libraries bring about forty crates and their own HTTP client.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::backoff;
use crate::clock;
use crate::config::Telemetry;
use crate::failure::{Exit, Failure};
use crate::observe::board::Activity;

/// Most traces that wait to be sent.
const WAITING: usize = 256;
/// Most traces in one request.
const MOST_TRACES: usize = 64;
/// How long a trace waits for others in the same request.
const COLLECT: Duration = Duration::from_secs(1);
/// Timeout of a request; the host waits as long for the last one before it ends.
const ANSWER_WAIT: Duration = Duration::from_secs(3);
/// Most spans of one batch: a lane that migrates many keys does so in many steps.
const MOST_SPANS: usize = 256;
/// Time between two warnings.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Sends the traces of lanes to the exporter.
#[derive(Clone, Debug)]
pub struct Tracer {
    out: SyncSender<Trace>,
    sample: u64,
}

/// An activity of a lane with its start and end, by [`clock::uptime_us`].
type Span = (Activity, u64, u64);

/// A batch and everything that followed from it.
#[derive(Debug)]
struct Trace {
    lane: String,
    records: u64,
    spans: Vec<Span>,
}

/// A lane's traces.
#[derive(Debug)]
pub struct Traces {
    tracer: Tracer,
    present: Mutex<Present>,
}

#[derive(Debug, Default)]
struct Present {
    spans: Vec<Span>,
    /// Batches before.
    batches: u64,
    /// Records before.
    records: u64,
}

impl Traces {
    /// Creates the traces of a lane.
    pub fn new(tracer: Tracer) -> Traces {
        Traces { tracer, present: Mutex::default() }
    }

    /// Adds an activity from `since` to `until`.
    pub fn span(&self, activity: Activity, since: u64, until: u64) {
        let mut present = self.present.lock().expect("nobody panics while holding it");
        let is_full = present.spans.len() == MOST_SPANS;
        match present.spans.last_mut() {
            Some((last, _, end)) if *last == activity => *end = until,
            _ if activity == Activity::Off || since == until || is_full => {}
            _ => present.spans.push((activity, since, until)),
        }
    }

    /// Ends a batch. `records` is the total that the lane has folded so far. Idle time is not traced.
    pub fn end(&self, lane: &str, records: u64) {
        let mut present = self.present.lock().expect("nobody panics while holding it");
        let folded = records - std::mem::replace(&mut present.records, records);
        let spans = std::mem::take(&mut present.spans);
        if !spans.iter().any(|(activity, ..)| matches!(activity, Activity::Map | Activity::Fold | Activity::Checkpoint))
        {
            return;
        }
        present.batches += 1;
        if (present.batches - 1).is_multiple_of(self.tracer.sample) {
            // A slow or unavailable collector costs traces, not time.
            let _ = self.tracer.out.try_send(Trace { lane: lane.to_owned(), records: folded, spans });
        }
    }
}

/// The thread that sends traces; it ends when all tracers are gone.
#[derive(Debug)]
pub struct Exporter(JoinHandle<()>);

impl Exporter {
    /// Waits until the last traces are sent, up to the timeout of a request.
    pub fn finish(self) {
        let until = clock::instant() + ANSWER_WAIT;
        while !self.0.is_finished() && clock::instant() < until {
            backoff::pause(Duration::from_millis(5));
        }
    }
}

/// Starts sending traces of this pipeline, if configured.
pub fn start(config: Option<&Telemetry>, pipeline: &str) -> Result<Option<(Tracer, Exporter)>, Failure> {
    let Some(Telemetry { otlp, sample }) = config else { return Ok(None) };
    let (out, inbox) = sync_channel(WAITING);
    let agent = ureq::Agent::config_builder().http_status_as_error(true).timeout_global(Some(ANSWER_WAIT)).build();
    let mut collector = Collector {
        agent: agent.into(),
        url: format!("{otlp}/v1/traces"),
        resource: json!({"attributes": [
            text("service.name", "keyfold"),
            text("service.version", env!("CARGO_PKG_VERSION")),
            text("keyfold.pipeline", pipeline),
        ]}),
        warned: None,
    };
    let thread = std::thread::Builder::new().name("telemetry".into()).spawn(move || collector.serve(&inbox));
    let thread =
        thread.map_err(|e| Failure::new(Exit::Unexpected, format!("cannot start the thread for traces: {e}")))?;
    Ok(Some((Tracer { out, sample: *sample }, Exporter(thread))))
}

/// The collector, as the thread sees it.
struct Collector {
    agent: ureq::Agent,
    url: String,
    resource: Value,
    warned: Option<Instant>,
}

impl Collector {
    fn serve(&mut self, inbox: &Receiver<Trace>) {
        while let Ok(first) = inbox.recv() {
            let (mut traces, until) = (vec![first], clock::instant() + COLLECT);
            while traces.len() < MOST_TRACES {
                match inbox.recv_timeout(until.saturating_duration_since(clock::instant())) {
                    Ok(trace) => traces.push(trace),
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
                }
            }
            self.send(&traces);
        }
    }

    fn send(&mut self, traces: &[Trace]) {
        let spans: Vec<Value> = traces.iter().flat_map(spans).collect();
        let scope = json!({"name": "keyfold", "version": env!("CARGO_PKG_VERSION")});
        let body = json!({"resourceSpans": [
            {"resource": self.resource, "scopeSpans": [{"scope": scope, "spans": spans}]},
        ]});
        let sent = self.agent.post(&self.url).send_json(&body);
        if let Err(error) = sent
            && self.warned.is_none_or(|warned| clock::since(warned) >= WARN_EVERY)
        {
            self.warned = Some(clock::instant());
            tracing::warn!(event = "traces-dropped", url = self.url, traces = traces.len(), %error, "trace collector does not accept traces; dropping them");
        }
    }
}

/// Returns the spans of a batch as OTLP JSON: ids in hex, times in ns since 1970 as text.
fn spans(trace: &Trace) -> Vec<Value> {
    let (Some((_, began, _)), Some((_, _, ended))) = (trace.spans.first(), trace.spans.last()) else {
        return Vec::new();
    };
    let (id, batch) = (format!("{:016x}{:016x}", random(), random()), format!("{:016x}", random()));
    // The time at which the count of microseconds started.
    let origin_us = clock::now_ms() * 1000 - i64::try_from(clock::uptime_us()).unwrap_or(0);
    let ns = |us: u64| (i128::from(origin_us) + i128::from(us)).saturating_mul(1000).to_string();
    let span = |name: &str, (span_id, parent): (&str, Option<&str>), (from, to): (u64, u64), attributes: Value| {
        json!({
            "traceId": id,
            "spanId": span_id,
            "parentSpanId": parent.unwrap_or_default(),
            "name": name,
            "kind": 1,
            "startTimeUnixNano": ns(from),
            "endTimeUnixNano": ns(to),
            "attributes": attributes,
        })
    };
    let records = json!({"key": "keyfold.records", "value": {"intValue": trace.records.to_string()}});
    let attributes = json!([text("keyfold.lane", &trace.lane), records]);
    let mut all = vec![span("batch", (&batch, None), (*began, *ended), attributes)];
    for (activity, from, to) in &trace.spans {
        let id = format!("{:016x}", random());
        all.push(span(activity.name(), (&id, Some(&batch)), (*from, *to), json!([])));
    }
    all
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

/// Returns a random number that is not 0.
fn random() -> u64 {
    RandomState::new().build_hasher().finish().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traces(sample: u64) -> (Traces, Receiver<Trace>) {
        let (out, inbox) = sync_channel(2);
        (Traces::new(Tracer { out, sample }), inbox)
    }

    fn batch(traces: &Traces, records: u64) {
        traces.span(Activity::Gather, 10, 20);
        traces.span(Activity::Map, 20, 30);
        traces.span(Activity::Store, 30, 31);
        traces.span(Activity::Store, 31, 32);
        traces.span(Activity::Fold, 32, 40);
        traces.end("topic", records);
    }

    #[test]
    fn one_in_sample_batches_is_traced_and_idle_time_is_not() {
        let (traces, inbox) = traces(2);
        [3, 5, 9].iter().for_each(|records| batch(&traces, *records));
        traces.span(Activity::Gather, 40, 90);
        traces.end("topic", 9);
        drop(traces);
        let found: Vec<(u64, usize)> = inbox.iter().map(|trace| (trace.records, trace.spans.len())).collect();
        assert_eq!(found, [(3, 4), (4, 4)], "what is done twice in a row is one span");
    }

    #[test]
    fn a_lane_does_not_wait_for_the_collector() {
        let (traces, inbox) = traces(1);
        (1..10).for_each(|records| batch(&traces, records));
        drop(traces);
        assert_eq!(inbox.iter().count(), 2);
    }

    #[test]
    fn spans_are_children_of_their_batch() {
        let (traces, inbox) = traces(1);
        batch(&traces, 3);
        let found = spans(&inbox.recv().expect("it was traced"));
        let names: Vec<&Value> = found.iter().map(|span| &span["name"]).collect();
        assert_eq!(names, ["batch", "gather", "map", "store", "fold"]);
        for span in &found[1..] {
            assert_eq!((&span["traceId"], &span["parentSpanId"]), (&found[0]["traceId"], &found[0]["spanId"]));
        }
        let times = |span: &Value| {
            ["startTimeUnixNano", "endTimeUnixNano"]
                .map(|time| span[time].as_str().and_then(|ns| ns.parse::<i128>().ok()).expect("a number as text"))
        };
        assert_eq!(times(&found[0])[1] - times(&found[0])[0], 30_000);
        assert_eq!(times(&found[2])[0] - times(&found[0])[0], 10_000);
        assert_eq!(found[0]["traceId"].as_str().map(str::len), Some(32));
    }
}
