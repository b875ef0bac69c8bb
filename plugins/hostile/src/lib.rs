//! A plugin for tests: it misbehaves in ways that the sandbox must survive and the host must detect. The configuration chooses how.
//!
//! # Configuration
//! `{"mode": "ok", "n": 13, "at": "fold", "units": 1000000, "mark": "", "unmigratable": null}`. All keys are optional; these are the defaults.
//! Unknown keys and modes are refused.
//!
//! # Records
//! A payload is one event, `{"key": <string>, "time": <ms>, "v": <integer>}`, or several, `{"events": [<such objects>]}`. Other fields are
//! ignored. Anything else is rejected.
//!
//! # Rows
//! Table `out (k text, n integer, v integer, items text-list)`, primary key (k, n).
//!
//! # Modes
//! Unless its mode says otherwise, an event emits the *plain row*: (key, event time, v, []). The *target* is an event with `v` = `n`.
//!
//! | mode | behaviour |
//! |---|---|
//! | `ok` | emits the plain row |
//! | `multi` | the same as `ok`; a name for tests of records with several events |
//! | `log` | emits the plain row, and logs `event <v> of <key>` at level info |
//! | `trap` | panics with `struck by <v>` on the target |
//! | `loop` | loops forever on the target |
//! | `grow` | allocates without end on the target |
//! | `recurse` | overflows the stack on the target |
//! | `burn` | computes for `units` rounds (about ten instructions each) on the target, then emits the plain row |
//! | `hold` | on every event, fills a vector of `units` KiB byte by byte, as a plugin does that does not know the size, then emits the plain row |
//! | `swell` | the target clears the list, any other event appends an item of `units` KiB to it; then emits the plain row |
//! | `rows` | emits a million rows (key, 0.., v, []) for the target |
//! | `reject` | for the target: puts, appends, sets the timer, emits, and then rejects the event with `rejected <v>` |
//! | `reject-map` | rejects the target's record with `rejected <v>` |
//! | `err` | if the target is in the call, `fold` returns the error `erred on <n>` |
//! | `malformed` | if the target is in the call, returns columns of wrong lengths (a timer is missing) |
//! | `foreign-items` | if the target is in the call, returns rows of events that are not in the call |
//! | `stop-early` | stops the target's key before the target, although no timer is set |
//! | `past-timer` | the target sets a timer for its time + 10 s, and the firing sets a timer for the time at which it fired |
//! | `reject-timer` | the target puts, appends and sets a timer for its time + 10 s; the firing emits a row and is rejected with `rejected timer` |
//! | `std-hashmap` | on every event, items are the numbers 0 to 15 in the order of a std `HashMap` |
//! | `static-counter` | on every event, v is the number of events that the instance has seen |
//! | `tire` | emits the plain row; after `units` events of the instance, v is -1 |
//! | `static-state` | emits the plain row; on every event, count is the number of events that the instance has seen |
//! | `shared-key` | every event emits the row ("all", v mod 7, v, []), so that several keys write rows with the same primary key |
//! | `state` | see below |
//! | `timers` | no plain row. An event sets count to 0 and the timer to its time + 10 s. A firing at t adds 1 to count and emits (key, t, count, []). If count is below 5, it sets the timer to t + 7 s, otherwise it clears the state |
//! | `timer-now` | emits the plain row, and sets a timer at the watermark (without one, at the event's time), which is already due. The firing emits (key, its time, -1, []) |
//! | `timer-zero` | puts v as sum, and sets a timer for 1970, which is already due and has the same time for all events. The firing emits (key, v, v, []) and clears the value. If `v` = `n`, it panics with `struck by <v>`: in the event if `at` is `fold`, in the firing if `at` is `timer` |
//! | `mark` | an event adds 1 to count, emits (key, event time, count, `[mark]`) and sets the timer to its time + 10 s. The firing emits (key, its time, -count, `[mark]`). So every row shows which configuration wrote it |
//! | `reasons` | rejects every event with `units` KiB of text as the reason |
//! | `quote` | rejects every event with its key as the reason |
//! | `empty-items` | on every event, appends `units` times a thousand empty items, then emits the plain row |
//! | `chatter` | on every event, logs `units` KiB of text at level info, then emits the plain row |
//!
//! `at` says where `trap`, `loop`, `grow`, `recurse` and `burn` fail: in `map`, in `fold`, in `timer`, or, for every state, in `migrate`. With `timer`, the target emits its plain row,
//! puts, appends and sets a timer for its time + 10 s, and the firing fails.
//!
//! `state`: an event adds 1 to count and v to sum, appends v as a string, and sets the timer to its time + 20 s. If v mod 5 = 0 (by
//! `rem_euclid`), it then emits (key, event time, count, []) and clears value and list, but not the timer. A firing at t emits
//! (key, t, sum or 0, items) and clears the list, but not the value.
//!
//! # State version 2
//! Built with the feature `second` (the crate `hostile2`), the plugin has state version 2 with another encoding: items end in `'`. `migrate`
//! accepts version 1, adds 1000 to count and appends `'` to items. It panics on a state whose sum is `unmigratable`.

pub mod modes;

use std::cell::OnceCell;

use keyfold_sdk::glue::{Instance, describe};
use keyfold_sdk::raw::{
    self, ByteColumn, ChangeBatch, EventBatch, FoldBatch, Guest, RecordBatch, StateBatch, TimerBatch,
};
use modes::{Hostile, Mode};

/// The plugin: the SDK's glue, with wrong answers that the glue itself would never give.
pub struct Plugin;

thread_local! {
    static INSTANCE: OnceCell<Instance<Hostile>> = const { OnceCell::new() };
}

fn with<R>(call: impl FnOnce(&Instance<Hostile>) -> Result<R, String>) -> Result<R, String> {
    INSTANCE.with(|instance| call(instance.get().ok_or("configure was not called")?))
}

impl Guest for Plugin {
    fn describe() -> raw::Description {
        keyfold_sdk::panic::keep_text();
        describe::<Hostile>()
    }

    fn configure(config: String) -> Result<(), String> {
        keyfold_sdk::panic::keep_text();
        let instance = Instance::configure(&config)?;
        INSTANCE.with(|cell| cell.set(instance)).map_err(|_| String::from("configure was called twice"))
    }

    fn map_records(records: RecordBatch) -> Result<EventBatch, String> {
        with(|instance| Ok(instance.map_records(&records)))
    }

    fn fold(batch: FoldBatch) -> Result<ChangeBatch, String> {
        with(|instance| {
            let changes = instance.fold(&batch);
            spoil(instance.mapper(), &batch, changes)
        })
    }

    fn on_timer(batch: TimerBatch) -> Result<ChangeBatch, String> {
        with(|instance| Ok(instance.on_timer(&batch)))
    }

    fn migrate(state_version: u32, states: StateBatch) -> Result<StateBatch, String> {
        with(|instance| instance.migrate(state_version, &states))
    }
}

keyfold_sdk::raw_plugin!(Plugin);

/// Turns a correct answer into the wrong one of the mode, if the target is in the call.
fn spoil(hostile: &Hostile, batch: &FoldBatch, mut changes: ChangeBatch) -> Result<ChangeBatch, String> {
    let n = hostile.config.n;
    let Some(target) = (0..batch.event_times.len()).find(|i| number(&batch.event_values, *i) == n) else {
        return Ok(changes);
    };
    match hostile.config.mode {
        Mode::Err => return Err(format!("erred on {n}")),
        Mode::Malformed => drop(changes.timers.pop()),
        Mode::ForeignItems => {
            let events = u32::try_from(batch.event_times.len()).unwrap_or(u32::MAX);
            changes.rows.iter_mut().flat_map(|rows| &mut rows.items).for_each(|item| *item += events);
        }
        Mode::StopEarly => stop_before(target, batch, &mut changes),
        _ => {}
    }
    Ok(changes)
}

fn stop_before(event: usize, batch: &FoldBatch, changes: &mut ChangeBatch) {
    let key = batch.event_ends.partition_point(|end| *end as usize <= event);
    let first = if key == 0 { 0 } else { batch.event_ends[key - 1] as usize };
    changes.consumed[key] = u32::try_from(event - first).unwrap_or(u32::MAX);
}

fn number(values: &ByteColumn, i: usize) -> i64 {
    let start = if i == 0 { 0 } else { values.ends[i - 1] as usize };
    values.data[start..values.ends[i] as usize].try_into().map_or(0, i64::from_le_bytes)
}
