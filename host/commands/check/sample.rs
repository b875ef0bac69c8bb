//! What the plugin makes of some records of the source, for `keyfold check` and the doctor: how many would be rejected or late, and why. Nothing is
//! consumed.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use crate::config::{Config, Ordering, Source};
use crate::failure::{Check, Failure};
use crate::lane::trial::{self, Found};
use crate::plugin::Plugin;
use crate::record::Records;
use crate::record::form::Forms;
use crate::source::log_source::LogSource;
use crate::source::recent::{TRIED, recent_of};
use crate::symptom::Symptom;

/// Records of all partitions together, roughly.
const MOST: u64 = 20_000;
/// Records of each partition, however many there are.
const LEAST: u64 = 20;

/// Returns some records of the source that was looked at, unless that takes until the deadline. Of standard input there are none: what is read of it is gone.
pub(crate) fn records(config: &Config, source: &LogSource, deadline: Instant) -> Result<Records, Failure> {
    if matches!(&config.source, Source::File(file) if file.is_standard_input()) {
        return Ok(Records::default());
    }
    let count = (MOST / source.partitions().len().max(1) as u64).clamp(LEAST, TRIED);
    recent_of(&config.source, source, count, deadline)
}

/// Tries the plugin on the records, if there are any.
pub(crate) fn examine(config: &Config, plugin: &Arc<Plugin>, records: &Records) -> Vec<Check> {
    if records.is_empty() {
        return Vec::new();
    }
    match trial::fold(plugin, config.time, records, config.source.ordering() == Ordering::Partition) {
        Ok(found) => {
            let mut forms = Forms::default();
            records.payloads.iter().for_each(|payload| forms.add(payload));
            judge(&found, forms.of_most(found.records))
        }
        Err(fault) => vec![Check::warning("records", format!("not tried: {}", fault.text()))],
    }
}

/// Judges a trial on records of which most have payloads of this form, if they have one that none should have.
fn judge(found: &Found, form: Option<&str>) -> Vec<Check> {
    let Found { records, events, rejected, late, times_empty, times_implausible, .. } = *found;
    let untimely = times_empty + times_implausible;
    let mut detail = format!(
        "{records} sampled records give {events} events; {rejected} would be rejected, {late} would be late, {untimely} have times that cannot be \
         meant"
    );
    if !found.reasons.is_empty() {
        detail.push_str(&format!(": {}", found.reasons));
    }
    let most = if found.loses_most() { "MOST RECORDS WOULD BE REJECTED OR LATE: " } else { "" };
    let is_ahead = found.loses_most() && found.late > found.rejected && found.jumps > 0;
    let cause = match form.filter(|_| found.loses_most()) {
        Some(form) => format!("; most payloads are {form}"),
        None if is_ahead => {
            "; an event far ahead of its record's append time makes others late (see time.future_limit)".to_owned()
        }
        None => String::new(),
    };
    let detail = format!("{most}{detail}{cause}");
    let check = match found.loses_most() {
        true => Check::warning("records", detail).of(Symptom::MostRecordsLost),
        false => Check::fine("records", detail),
    };
    std::iter::once(check.with(json!(found))).chain(untimely_check(found)).collect()
}

fn untimely_check(found: &Found) -> Option<Check> {
    if !found.is_untimely() {
        return None;
    }
    let Found { events, times_empty, times_implausible, .. } = *found;
    let cause = match found.unit() {
        Some(unit) => format!("the plugin reads {unit} as milliseconds?"),
        None if times_empty > times_implausible => "the plugin gives no event times?".to_owned(),
        None => "the plugin reads another unit as milliseconds?".to_owned(),
    };
    let detail = format!(
        "of {events} events, {times_empty} have no time (0), and {times_implausible} are of 1970, though their records are later, or outside the \
         years 1 to 9999: {cause}"
    );
    Some(Check::warning("event times", detail).of(Symptom::EventTimesImplausible))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_losses_are_told_and_most_are_warned_of() {
        let symptoms = |found: &Found| judge(found, None).iter().map(|check| check.symptom).collect::<Vec<_>>();
        let some = Found { records: 10, events: 10, rejected: 1, late: 4, ..Found::default() };
        assert_eq!(symptoms(&some), [None]);
        let most = Found { late: 5, ..some.clone() };
        assert_eq!(symptoms(&most), [Some(Symptom::MostRecordsLost)]);
        let empty = Found { times_empty: 6, ..some };
        assert_eq!(symptoms(&empty), [None, Some(Symptom::EventTimesImplausible)]);
        assert!(judge(&empty, None)[1].detail.ends_with("the plugin gives no event times?"));
        let told = judge(&most, Some("compressed by gzip"));
        assert!(told[0].detail.ends_with("; most payloads are compressed by gzip"), "{}", told[0].detail);
        let figures = judge(&most, None)[0].figures.clone().expect("the line has figures");
        assert_eq!((&figures["records"], &figures["late"]), (&json!(10), &json!(5)));
    }
}
