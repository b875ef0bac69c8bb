//! Telling of losses: what a lane rejects, finds late or leaves out, and event times that make all others late. Owns when a log line is due;
//! the tally by reason is `observe/losses.rs`'s.

use std::time::Duration;

use crate::config::Late;
use crate::lane::context::Context;
use crate::lane::core::Output;
use crate::observe;
use crate::record::form::Forms;
use crate::strike::Stage;

/// The shortest time between two lines.
const EVERY: Duration = Duration::from_secs(60);
/// After so many records and events it is judged whether most are lost.
const JUDGED_AT: u64 = 1_000;

/// What a lane has told of.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Records and events so far, and how many of them were lost, until it is judged whether those are most.
    seen: u64,
    lost: u64,
    /// What the payloads are that the plugin rejected, until then.
    forms: Forms,
    judged: bool,
    /// When the last summary was due.
    summed_up: Duration,
    /// When the last watermark jump was told of.
    jumped: Option<Duration>,
}

/// Adds what a batch lost to a tally by reason: its dead letters, and late events that are dropped without one.
pub(super) fn tally(losses: &observe::losses::Losses, output: &Output, late: Late) {
    output.letters.iter().for_each(|letter| losses.add(letter.stage.name(), &letter.reason, 1));
    if late == Late::Drop && output.counts.late > 0 {
        losses.add("late", "the event time is not after the watermark", output.counts.late);
    }
}

impl Losses {
    /// Takes the output of a batch.
    pub(super) fn take(&mut self, context: &Context, output: &Output, late: Late) {
        tally(&context.board.losses, output, late);
        let of_records = |stage| matches!(stage, Stage::Map | Stage::Time | Stage::Fold);
        let lost = output.letters.iter().filter(|letter| of_records(letter.stage)).count() as u64;
        let dropped = if late == Late::Drop { output.counts.late } else { 0 };
        let unmapped = output.letters.iter().filter(|letter| letter.event.is_none()).count() as u64;
        self.seen += output.counts.events + unmapped;
        self.lost += lost + dropped;
        if !self.judged {
            let rejected = output.letters.iter().filter(|letter| letter.stage == Stage::Map);
            rejected.filter_map(|letter| letter.record.get(0).payload).for_each(|payload| self.forms.add(payload));
        }
        if !self.judged && self.seen >= JUDGED_AT {
            self.judge(context);
        }
        self.tell_of_jumps(context, output);
    }

    /// Sums up what was lost, if it is time to.
    pub(super) fn tell(&mut self, context: &Context) {
        let now = context.clock.monotonic();
        if now.saturating_sub(self.summed_up) >= EVERY {
            self.summed_up = now;
            sum_up(context);
        }
    }

    /// Sums up what was lost, at the end of a run.
    pub(super) fn finish(&mut self, context: &Context) {
        if !self.judged {
            self.judge(context);
        }
        sum_up(context);
    }

    fn judge(&mut self, context: &Context) {
        self.judged = true;
        if self.lost * 2 > self.seen {
            tracing::warn!(
                event = "most-records-lost",
                lane = context.name,
                lost = self.lost,
                of = self.seen,
                payloads = self.forms.of_most(self.lost),
                "MOST RECORDS ARE REJECTED OR LATE: the plugin, its configuration or [time] does not fit this log; \
                 see `keyfold dead-letters list --summary`"
            );
        }
    }

    fn tell_of_jumps(&mut self, context: &Context, output: &Output) {
        let Some((origin, jump)) = output.jump else { return };
        if !context.may_log(&mut self.jumped, EVERY) {
            return;
        }
        tracing::warn!(
            event = "watermark-jump",
            lane = context.name,
            partition = origin.partition.0,
            offset = origin.offset.0,
            event_time = jump.event_time,
            append_time = jump.append_time,
            ahead_ms = jump.event_time.saturating_sub(jump.append_time),
            "one event far ahead of its record's append time moved the watermark; events of others may be late now \
             (see time.future_limit)"
        );
    }
}

fn sum_up(context: &Context) {
    if let Some(news) = context.board.losses.news() {
        tracing::warn!(
            event = "records-lost",
            lane = context.name,
            lost = news.lost,
            more = news.more,
            reasons = news.reasons,
            "records or rows were rejected, late or refused"
        );
    }
}
