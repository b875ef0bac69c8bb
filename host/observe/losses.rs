//! What a lane has lost, by reason: rejected, late and refused items. Reads no clock.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

/// Kinds of reasons that are told apart; further ones are counted as one.
const KINDS: usize = 100;
/// Kinds that a summary names.
const NAMED: usize = 5;
/// Characters of a reason that are kept.
const REASON: usize = 160;

/// The tally of a lane. The lane and the writer add to it.
#[derive(Debug, Default)]
pub struct Losses(Mutex<Tally>);

#[derive(Debug, Default)]
struct Tally {
    kinds: BTreeMap<String, u64>,
    other: u64,
    /// How many a summary has told of.
    told: u64,
}

/// What is told in a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// All that was lost since the host started.
    pub lost: u64,
    /// What was lost since the last summary.
    pub more: u64,
    /// The most frequent reasons, each with its number.
    pub reasons: String,
}

impl Losses {
    /// Adds so many items that were lost for this reason, in this stage.
    pub fn add(&self, stage: &str, reason: &str, more: u64) {
        let kind = format!("{stage}: {}", kind(reason));
        let mut tally = self.tally();
        if tally.kinds.len() >= KINDS && !tally.kinds.contains_key(&kind) {
            tally.other += more;
        } else {
            *tally.kinds.entry(kind).or_default() += more;
        }
    }

    /// Returns a summary, if more was lost since the last one.
    pub fn news(&self) -> Option<Summary> {
        let mut tally = self.tally();
        let lost = tally.kinds.values().sum::<u64>() + tally.other;
        let more = lost - tally.told;
        if more == 0 {
            return None;
        }
        tally.told = lost;
        let mut kinds: Vec<(&String, u64)> = tally.kinds.iter().map(|(kind, count)| (kind, *count)).collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let named = kinds.iter().take(NAMED).map(|(kind, count)| format!("{kind} ({count})"));
        let unnamed = kinds.iter().skip(NAMED).map(|(_, count)| count).sum::<u64>() + tally.other;
        let rest = (unnamed > 0).then(|| format!("other reasons ({unnamed})"));
        Some(Summary { lost, more, reasons: named.chain(rest).collect::<Vec<_>>().join("; ") })
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().expect("nobody panics while holding it")
    }
}

/// A reason without what differs from item to item: numbers, and values in quotation marks.
fn kind(reason: &str) -> String {
    let mut kind = String::new();
    let (mut in_number, mut in_value) = (false, false);
    for c in reason.chars() {
        let is_digit = c.is_ascii_digit();
        match c {
            '"' => {
                in_value = !in_value;
                kind.push_str(if in_value { "\"…" } else { "\"" });
            }
            _ if in_value => {}
            _ if is_digit && in_number => {}
            _ if is_digit => kind.push('#'),
            _ => kind.push(c),
        }
        in_number = is_digit;
        if kind.len() > REASON {
            break;
        }
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_that_differ_in_values_only_are_one_kind() {
        assert_eq!(kind("the event time 1727873508000 is not after 17"), "the event time # is not after #");
        assert_eq!(kind("`event_time`: \"yesterday, 12\" is no time"), "`event_time`: \"…\" is no time");
        assert!(kind(&"long ".repeat(1000)).len() < 200);
    }

    #[test]
    fn a_summary_names_the_most_frequent_and_comes_when_there_is_more() {
        let losses = Losses::default();
        assert_eq!(losses.news(), None);
        losses.add("map", "not JSON at 1", 1);
        losses.add("map", "not JSON at 2", 1);
        losses.add("late", "behind the watermark", 5);
        let reasons = "late: behind the watermark (5); map: not JSON at # (2)".to_owned();
        assert_eq!(losses.news(), Some(Summary { lost: 7, more: 7, reasons }));
        assert_eq!(losses.news(), None);
        (0..300).for_each(|i| losses.add("map", &"x".repeat(i), 1));
        let news = losses.news().expect("there is more");
        assert_eq!((news.lost, news.more), (307, 300));
        assert!(news.reasons.contains("other reasons"), "{}", news.reasons);
    }
}
