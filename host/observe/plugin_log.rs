//! Log lines of plugins: written to the host's log with the plugin's name and version and the lane, up to a rate per lane. Dropped lines
//! are counted and reported now and then. No row depends on it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::clock;

/// A burst may have as many lines as this many seconds allow.
const BURST_SECONDS: u64 = 10;
/// Time between two reports of dropped lines, microseconds.
const TELL_EVERY_US: u64 = 10_000_000;

/// Bytes of a line that are written.
const MOST_BYTES: usize = 8 << 10;

/// The log of a plugin, in one lane or outside of any lane.
#[derive(Debug, Default)]
pub struct Log {
    /// The lane with its limit; none means no limit.
    lane: Option<Limited>,
    /// Whether its lines go nowhere.
    silent: bool,
    written: AtomicU64,
    dropped: AtomicU64,
}

#[derive(Debug)]
struct Limited {
    lane: String,
    bucket: Mutex<Bucket>,
}

impl Log {
    /// Creates the log of a lane's plugin, with a rate in lines per second.
    pub(crate) fn of_lane(lane: &str, lines_per_second: u64) -> Log {
        let bucket = Mutex::new(Bucket::new(lines_per_second, clock::uptime_us()));
        Log { lane: Some(Limited { lane: lane.to_owned(), bucket }), ..Log::default() }
    }

    /// Creates a log whose lines go nowhere: what a plugin says while it is only tried did not happen in the pipeline.
    pub(crate) fn silent() -> Log {
        Log { silent: true, ..Log::default() }
    }

    /// Returns the number of lines written.
    pub fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// Returns the number of lines dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Writes a line of the plugin with this name and version, unless it exceeds the rate.
    pub(crate) fn line(&self, (name, version): (&str, &str), level: u8, message: &str) {
        if self.silent {
            return;
        }
        let lane = self.lane.as_ref().map(|limited| limited.lane.as_str());
        if let Some(Limited { bucket, .. }) = &self.lane {
            let outcome = bucket.lock().expect("nobody panics while holding it").take(clock::uptime_us());
            if let Outcome::Dropped { report } = outcome {
                let dropped = self.dropped.fetch_add(1, Relaxed) + 1;
                if report {
                    let limit = "plugin.log_rate";
                    tracing::warn!(
                        event = "plugin-log-limited",
                        plugin = name,
                        version,
                        lane,
                        dropped,
                        limit,
                        "plugin log rate limit exceeded; lines dropped"
                    );
                }
                return;
            }
        }
        self.written.fetch_add(1, Relaxed);
        let shown = shown(message);
        match level {
            0 => tracing::error!(target: "keyfold::plugin_log", plugin = name, version, lane, "{shown}"),
            1 => tracing::warn!(target: "keyfold::plugin_log", plugin = name, version, lane, "{shown}"),
            2 => tracing::info!(target: "keyfold::plugin_log", plugin = name, version, lane, "{shown}"),
            _ => tracing::debug!(target: "keyfold::plugin_log", plugin = name, version, lane, "{shown}"),
        }
    }
}

/// A line as it is written: the rate counts lines, so a long one is cut.
fn shown(message: &str) -> std::borrow::Cow<'_, str> {
    let kept = &message[..message.floor_char_boundary(MOST_BYTES)];
    if kept.len() == message.len() {
        return message.into();
    }
    format!("{kept}... ({} bytes)", message.len()).into()
}

/// What happens to a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Written,
    /// Whether to report it.
    Dropped {
        report: bool,
    },
}

/// A token bucket: lines that may still be written, filled at a steady rate up to a burst.
#[derive(Debug)]
struct Bucket {
    per_second: u64,
    /// Lines left, in millionths.
    left: u64,
    filled_us: u64,
    told_us: Option<u64>,
}

impl Bucket {
    fn new(per_second: u64, now_us: u64) -> Bucket {
        let left = per_second.saturating_mul(BURST_SECONDS).saturating_mul(1_000_000);
        Bucket { per_second, left, filled_us: now_us, told_us: None }
    }

    fn take(&mut self, now_us: u64) -> Outcome {
        let most = self.per_second.saturating_mul(BURST_SECONDS).saturating_mul(1_000_000);
        let filled = now_us.saturating_sub(self.filled_us).saturating_mul(self.per_second);
        self.left = self.left.saturating_add(filled).min(most);
        self.filled_us = now_us;
        if let Some(left) = self.left.checked_sub(1_000_000) {
            self.left = left;
            return Outcome::Written;
        }
        let report = self.told_us.is_none_or(|told| now_us >= told.saturating_add(TELL_EVERY_US));
        if report {
            self.told_us = Some(now_us);
        }
        Outcome::Dropped { report }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn written(bucket: &mut Bucket, lines: u64, now_us: u64) -> u64 {
        (0..lines).map(|_| u64::from(bucket.take(now_us) == Outcome::Written)).sum()
    }

    #[test]
    fn ten_seconds_lines_may_come_at_once_and_then_as_many_as_time_gives() {
        let mut bucket = Bucket::new(3, 0);
        assert_eq!(written(&mut bucket, 100, 0), 30);
        assert_eq!(written(&mut bucket, 100, SECOND / 2), 1);
        assert_eq!(written(&mut bucket, 100, SECOND), 2, "half a line was left");
        assert_eq!(written(&mut bucket, 100, 1_000 * SECOND), 30);
    }

    #[test]
    fn dropped_lines_are_reported_at_once_and_then_every_ten_seconds() {
        let mut bucket = Bucket::new(1, 0);
        assert_eq!(written(&mut bucket, 10, 0), 10);
        let mut told = |ms: u64| bucket.take(ms * 1_000) == Outcome::Dropped { report: true };
        assert_eq!([0, 100, 900].map(&mut told), [true, false, false]);
        let tells: usize = (0..400_u64).map(|i| usize::from(told(10_000 + i))).sum();
        assert_eq!(tells, 1);
    }

    #[test]
    fn a_long_line_is_cut_and_says_how_long_it_was() {
        assert_eq!(shown("short"), "short");
        let long = "é".repeat(MOST_BYTES);
        let cut = shown(&long);
        assert!(cut.len() < MOST_BYTES + 40 && cut.ends_with("... (16384 bytes)"), "{}", cut.len());
    }

    #[test]
    fn without_a_lane_there_is_no_limit() {
        let log = Log::default();
        let plugin = ("sample", "1");
        (0..20_000).for_each(|_| log.line(plugin, 3, "line"));
        assert_eq!((log.written(), log.dropped()), (20_000, 0));
        let limited = Log::of_lane("topic", 1);
        (0..20).for_each(|_| limited.line(plugin, 3, "line"));
        assert!(limited.written() >= 10 && limited.dropped() >= 1);
        assert_eq!(limited.written() + limited.dropped(), 20);
        let silent = Log::silent();
        silent.line(plugin, 0, "line");
        assert_eq!((silent.written(), silent.dropped()), (0, 0));
    }
}
