//! Progress while a pipeline catches up: a bar if standard error is a terminal, otherwise a log line now and then. Reads no clock: the
//! caller passes the elapsed time.

use std::sync::LazyLock;

use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A smaller lag is gone before anybody could read about it.
const WORTH_SHOWING: u64 = 20_000;
/// Time between log lines, ms.
const LOG_EVERY_MS: u64 = 10_000;
/// Shortest time over which a rate is measured, ms.
const SAMPLE_MS: u64 = 500;

/// All bars of this process; hidden if standard error is not a terminal.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Writes to standard error without tearing a bar.
pub fn beside<T>(write: impl FnOnce() -> T) -> T {
    BARS.suspend(write)
}

/// Replaces bars by log lines from now on.
pub fn hide() {
    BARS.set_draw_target(ProgressDrawTarget::hidden());
}

/// The progress from the lag at startup to no lag.
#[derive(Debug)]
pub struct Progress {
    worth_showing: bool,
    bar: Option<ProgressBar>,
    pace: Pace,
    next_log_ms: u64,
}

impl Progress {
    /// Starts with this many records to go. A small number is not shown.
    pub fn new(total_lag: u64) -> Progress {
        let worth_showing = total_lag >= WORTH_SHOWING;
        let bar = (worth_showing && !BARS.is_hidden()).then(|| BARS.add(bar(total_lag)));
        Progress { worth_showing, bar, pace: Pace::default(), next_log_ms: LOG_EVERY_MS }
    }

    /// Shows that `done` records are folded since startup, `lag` remain, and `elapsed_ms` have passed.
    pub fn update(&mut self, done: u64, lag: u64, elapsed_ms: u64) {
        self.pace.update(Sample { ms: elapsed_ms, done, lag });
        if let Some(bar) = &self.bar {
            bar.set_length(done.saturating_add(lag));
            bar.set_position(done);
            bar.set_message(self.pace.text());
        } else if self.log_is_due(elapsed_ms) {
            tracing::info!(event = "catching-up", "catching up: {}", self.pace.text());
        }
    }

    /// Ends and removes the bar; tells whether the end was reached.
    pub fn finish(&mut self, caught_up: bool) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
            BARS.remove(&bar);
        }
        if std::mem::take(&mut self.worth_showing) {
            let Sample { done: records, lag, .. } = self.pace.last;
            if caught_up {
                tracing::info!(event = "caught-up", records, "caught up");
            } else {
                tracing::info!(event = "stopped-behind", records, lag, "stopped before it had caught up");
            }
        }
    }

    fn log_is_due(&mut self, elapsed_ms: u64) -> bool {
        let due = self.worth_showing && elapsed_ms >= self.next_log_ms;
        if due {
            self.next_log_ms = elapsed_ms.saturating_add(LOG_EVERY_MS);
        }
        due
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("catching up {bar:30} {msg}").expect("the template is right");
    ProgressBar::new(total).with_style(style)
}

/// The progress at one time.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    ms: u64,
    done: u64,
    lag: u64,
}

/// Rates per second, smoothed.
#[derive(Debug, Default)]
struct Pace {
    measured: Option<Sample>,
    last: Sample,
    /// Records done per second.
    rate: Option<u64>,
    /// Records by which the lag shrinks per second.
    drain: Option<u64>,
}

impl Pace {
    fn update(&mut self, now: Sample) {
        self.last = now;
        let Some(before) = self.measured else {
            self.measured = Some(now);
            return;
        };
        let ms = now.ms.saturating_sub(before.ms);
        if ms < SAMPLE_MS {
            return;
        }
        let per_second = |records: u64| records.saturating_mul(1_000) / ms;
        self.rate = Some(smooth(self.rate, per_second(now.done.saturating_sub(before.done))));
        self.drain = Some(smooth(self.drain, per_second(before.lag.saturating_sub(now.lag))));
        self.measured = Some(now);
    }

    fn text(&self) -> String {
        let mut text = format!("{} records", HumanCount(self.last.done));
        if let Some(rate) = self.rate {
            text += &format!(", {}/s", HumanCount(rate));
        }
        text += &format!(", lag {}", HumanCount(self.last.lag));
        match self.drain {
            Some(0) if self.last.lag > 0 => text += ", not shrinking",
            Some(drain) if self.last.lag > 0 => {
                text += &format!(", about {} left", time(self.last.lag.div_ceil(drain)))
            }
            Some(_) | None => {}
        }
        text
    }
}

/// Weights the new value by 0.3 and the old one by 0.7.
fn smooth(old: Option<u64>, new: u64) -> u64 {
    old.map_or(new, |old| (old.saturating_mul(7).saturating_add(new.saturating_mul(3))) / 10)
}

/// `58s`, `3m 20s`, `2h 5m`.
fn time(seconds: u64) -> String {
    match (seconds / 3_600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m {seconds}s"),
        (hours, minutes, _) => format!("{hours}h {minutes}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(samples: &[(u64, u64, u64)]) -> String {
        let mut pace = Pace::default();
        for &(ms, done, lag) in samples {
            pace.update(Sample { ms, done, lag });
        }
        pace.text()
    }

    #[test]
    fn before_two_samples_there_is_no_rate() {
        assert_eq!(pace(&[(0, 0, 1_000_000)]), "0 records, lag 1,000,000");
        assert_eq!(pace(&[(0, 0, 1_000_000), (100, 9, 999_991)]), "9 records, lag 999,991");
    }

    #[test]
    fn rate_and_end_come_from_what_was_done() {
        assert_eq!(
            pace(&[(0, 0, 1_000_000), (1_000, 100_000, 900_000)]),
            "100,000 records, 100,000/s, lag 900,000, about 9s left"
        );
    }

    #[test]
    fn the_end_comes_from_the_lag_which_new_records_feed() {
        assert_eq!(
            pace(&[(0, 0, 1_000_000), (1_000, 100_000, 995_000)]),
            "100,000 records, 100,000/s, lag 995,000, about 3m 19s left"
        );
        assert_eq!(
            pace(&[(0, 0, 1_000_000), (1_000, 100_000, 1_000_001)]),
            "100,000 records, 100,000/s, lag 1,000,001, not shrinking"
        );
    }

    #[test]
    fn rates_are_smoothed() {
        assert_eq!(
            pace(&[(0, 0, 300), (1_000, 100, 200), (2_000, 100, 200)]),
            "100 records, 70/s, lag 200, about 3s left"
        );
    }

    #[test]
    fn a_clock_that_jumps_back_does_no_harm() {
        assert_eq!(pace(&[(5_000, 10, 90), (1_000, 20, 80)]), "20 records, lag 80");
    }

    #[test]
    fn without_a_lag_there_is_no_estimate() {
        assert_eq!(pace(&[(0, 0, 100), (1_000, 100, 0)]), "100 records, 100/s, lag 0");
    }

    #[test]
    fn times_have_two_units_at_most() {
        assert_eq!((time(59), time(200), time(7_500)), ("59s".into(), "3m 20s".into(), "2h 5m".into()));
    }

    #[test]
    fn log_lines_come_every_ten_seconds() {
        let mut progress =
            Progress { worth_showing: true, bar: None, pace: Pace::default(), next_log_ms: LOG_EVERY_MS };
        let due: Vec<bool> =
            [0, 9_999, 10_000, 19_999, 20_000, 50_000, 59_999].map(|ms| progress.log_is_due(ms)).into();
        assert_eq!(due, [false, false, true, false, true, true, false]);
    }

    #[test]
    fn a_small_lag_is_not_shown() {
        let mut progress = Progress::new(WORTH_SHOWING - 1);
        assert!(progress.bar.is_none() && !progress.log_is_due(1_000_000));
    }
}
