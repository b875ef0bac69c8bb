//! the size of a key's state, which `plugin.state_bytes` limits, before and after calls. Pure.

use crate::plugin::{Changes, END_BYTES, Fault, Limits, change};
use crate::record::ByteColumn;
use crate::state::Slot;

/// Returns the size of a state: the bytes of value and list items, and [`END_BYTES`] for each item.
pub(super) fn bytes(slot: &Slot) -> usize {
    slot.state_bytes() + END_BYTES * slot.items() as usize
}

/// Fails if one of these keys, which a call has changed, has more state than it may: they are in the order of the call.
pub(super) fn check<'s>(
    limits: &Limits,
    slots: impl Iterator<Item = &'s Slot>,
    changes: &Changes,
) -> Result<(), Fault> {
    slots.enumerate().try_for_each(|(i, slot)| within(limits, bytes_after(slot, changes, i)))
}

/// Fails if one of these states, whose value (if it has one) and so many list items are the next of those that `migrate` has returned, is larger
/// than it may be.
pub(crate) fn check_migrated(
    limits: &Limits,
    states: impl Iterator<Item = (bool, usize)>,
    (values, items): (&ByteColumn, &ByteColumn),
) -> Result<(), Fault> {
    let (mut value, mut item) = (0, 0);
    for (has_value, count) in states {
        let end = item + count;
        let mut bytes = list_bytes(items, item..end);
        if has_value {
            bytes += values.get(value).len();
            value += 1;
        }
        item = end;
        within(limits, bytes)?;
    }
    Ok(())
}

fn bytes_after(slot: &Slot, changes: &Changes, i: usize) -> usize {
    let list = slot.item_bytes() + END_BYTES * slot.items() as usize;
    let value = match changes.value_changes[i] {
        change::PUT => changes.values.get(i).len(),
        change::CLEAR => 0,
        _ => slot.state_bytes() - slot.item_bytes(),
    };
    let kept = match changes.list_changes[i] {
        change::CLEAR | change::REPLACE => 0,
        _ => list,
    };
    let added = match changes.list_changes[i] {
        change::PUT | change::REPLACE => list_bytes(&changes.list_items, changes.items_of(i)),
        _ => 0,
    };
    value + kept + added
}

fn list_bytes(items: &ByteColumn, range: std::ops::Range<usize>) -> usize {
    items.start(range.end) - items.start(range.start) + END_BYTES * range.len()
}

fn within(limits: &Limits, bytes: usize) -> Result<(), Fault> {
    if bytes as u64 <= limits.state_bytes {
        return Ok(());
    }
    Err(Fault::Plugin(format!(
        "the key's state would have {bytes} bytes, but plugin.state_bytes is {}",
        limits.state_bytes
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DEFAULT_LIMITS;
    use crate::record::NO_TIME;

    /// A slot with this value and these items.
    fn slot(value: Option<&[u8]>, items: &[&[u8]]) -> Slot {
        let mut slot = Slot::new(b"key", true);
        slot.set_value(value);
        slot.append(items.iter().copied());
        slot
    }

    fn column(items: &[&[u8]]) -> ByteColumn {
        let mut column = ByteColumn::default();
        items.iter().for_each(|item| column.push(item));
        column
    }

    /// Changes of one key by these codes, with this value and these items.
    fn changes(value: u8, put: &[u8], list: u8, items: &[&[u8]]) -> Changes {
        let mut values = ByteColumn::default();
        values.push(put);
        Changes {
            consumed: vec![1],
            value_changes: vec![value],
            values,
            list_changes: vec![list],
            list_ends: vec![u32::try_from(items.len()).expect("few")],
            list_items: column(items),
            timers: vec![NO_TIME],
            rows: Vec::new(),
            rejections: Vec::new(),
        }
    }

    #[test]
    fn a_state_is_counted_as_it_is_after_the_changes() {
        let before = slot(Some(b"12345"), &[b"a", b""]);
        assert_eq!(bytes(&before), 5 + 1 + 2 * END_BYTES);
        let cases = [
            (changes(change::KEEP, b"", change::KEEP, &[]), 14),
            (changes(change::PUT, b"123", change::KEEP, &[]), 12),
            (changes(change::CLEAR, b"", change::KEEP, &[]), 9),
            (changes(change::KEEP, b"", change::PUT, &[b"", b"bc"]), 24),
            (changes(change::KEEP, b"", change::CLEAR, &[]), 5),
            (changes(change::CLEAR, b"", change::REPLACE, &[b"", b"bc"]), 10),
        ];
        for (changes, want) in cases {
            let verdict =
                |state_bytes| check(&Limits { state_bytes, ..DEFAULT_LIMITS }, [&before].into_iter(), &changes);
            assert_eq!(verdict(want), Ok(()), "{changes:?}");
            let reason = verdict(want - 1).expect_err("it has a byte more").text();
            assert!(reason.contains(&format!("{want} bytes, but plugin.state_bytes is {}", want - 1)), "{reason}");
        }
    }

    #[test]
    fn each_migrated_state_is_counted_by_itself() {
        let states = [(false, 1), (true, 0), (true, 2)];
        let values = column(&[b"123456", b"1234567"]);
        let items = column(&[b"1", b"12", b"123"]);
        let verdict = |state_bytes| {
            check_migrated(&Limits { state_bytes, ..DEFAULT_LIMITS }, states.into_iter(), (&values, &items))
        };
        assert_eq!(verdict(7 + 5 + 2 * 4), Ok(()));
        assert!(verdict(7 + 5 + 2 * 4 - 1).is_err_and(|fault| fault.text().contains("20 bytes")));
    }
}
