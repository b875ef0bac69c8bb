//! the size of a key's state, which `plugin.state_bytes` limits, before and after calls. Pure.

use crate::plugin::{Changes, END_BYTES, Fault, Limits, change};
use crate::record::ByteColumn;
use crate::state::KeyState;

/// Returns the size of a state: the bytes of value and list items, and [`END_BYTES`] for each item.
pub(super) fn bytes(state: &KeyState) -> usize {
    state.value.as_ref().map_or(0, |value| value.len()) + list_bytes(&state.list, 0..state.list.len())
}

/// Fails if one of these keys, which a call has changed, has more state than it may: they are in the order of the call.
pub(super) fn check<'s>(
    limits: &Limits,
    states: impl Iterator<Item = &'s KeyState>,
    changes: &Changes,
) -> Result<(), Fault> {
    states.enumerate().try_for_each(|(i, state)| within(limits, bytes_after(state, changes, i)))
}

/// Fails if one of these states, whose value and list items are the next of those that `migrate` has returned, is larger than it may be.
pub(crate) fn check_migrated<'s>(
    limits: &Limits,
    states: impl Iterator<Item = &'s KeyState>,
    (values, items): (&ByteColumn, &ByteColumn),
) -> Result<(), Fault> {
    let (mut value, mut item) = (0, 0);
    for state in states {
        let end = item + state.list.len();
        let mut bytes = list_bytes(items, item..end);
        if state.value.is_some() {
            bytes += values.get(value).len();
            value += 1;
        }
        item = end;
        within(limits, bytes)?;
    }
    Ok(())
}

fn bytes_after(state: &KeyState, changes: &Changes, i: usize) -> usize {
    let value = match changes.value_changes[i] {
        change::PUT => changes.values.get(i).len(),
        change::CLEAR => 0,
        _ => state.value.as_ref().map_or(0, |value| value.len()),
    };
    let kept = match changes.list_changes[i] {
        change::CLEAR | change::REPLACE => 0,
        _ => list_bytes(&state.list, 0..state.list.len()),
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
    use crate::state::ValueBytes;

    /// A state with this value and these items.
    fn state(value: Option<&[u8]>, items: &[&[u8]]) -> KeyState {
        let mut list = ByteColumn::default();
        items.iter().for_each(|item| list.push(item));
        KeyState { value: value.map(ValueBytes::from_slice), list, timer: None }
    }

    /// Changes of one key by these codes, with this value and these items.
    fn changes(value: u8, put: &[u8], list: u8, items: &[&[u8]]) -> Changes {
        let KeyState { list: list_items, .. } = state(None, items);
        let mut values = ByteColumn::default();
        values.push(put);
        Changes {
            consumed: vec![1],
            value_changes: vec![value],
            values,
            list_changes: vec![list],
            list_ends: vec![u32::try_from(items.len()).expect("few")],
            list_items,
            timers: vec![NO_TIME],
            rows: Vec::new(),
            rejections: Vec::new(),
        }
    }

    #[test]
    fn a_state_is_counted_as_it_is_after_the_changes() {
        let before = state(Some(b"12345"), &[b"a", b""]);
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
        let states = [state(None, &[b"x"]), state(Some(b"x"), &[]), state(Some(b"x"), &[b"x", b"x"])];
        let KeyState { list: values, .. } = state(None, &[b"123456", b"1234567"]);
        let KeyState { list: items, .. } = state(None, &[b"1", b"12", b"123"]);
        let verdict =
            |state_bytes| check_migrated(&Limits { state_bytes, ..DEFAULT_LIMITS }, states.iter(), (&values, &items));
        assert_eq!(verdict(7 + 5 + 2 * 4), Ok(()));
        assert!(verdict(7 + 5 + 2 * 4 - 1).is_err_and(|fault| fault.text().contains("20 bytes")));
    }
}
