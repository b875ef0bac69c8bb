//! What the sandbox must survive, and what the host must get right: one plugin, whose behaviour is chosen by its configuration.
//!
//! # Configuration
//! `{"mode": "ok", "n": 13, "at": "fold", "units": 1000000, "mark": "", "unmigratable": null}`; all optional, these are the defaults. Unknown keys and modes are refused.
//!
//! # Records
//! A payload is `{"key": <text>, "time": <ms>, "v": <integer>}`, one event, or `{"events": [<such objects>]}`, as many events; further
//! fields are ignored. Anything else is rejected.
//!
//! # Rows
//! Table `out (k text, n integer, v integer, items text-list)`, primary key (k, n).
//!
//! # Modes
//! An event emits the *plain row* (key, event time, v, []) unless its mode says otherwise. "The struck event" is one with `v` = `n`.
//!
//! | mode | what it does |
//! |---|---|
//! | `ok` | the plain row |
//! | `multi` | the same; a name for tests of records with several events |
//! | `log` | the plain row, and a line `event <v> of <key>` at level info |
//! | `trap` | panics with `struck by <v>` on the struck event |
//! | `loop` | never comes back from it |
//! | `grow` | allocates without end on it |
//! | `burn` | works on it for `units` rounds (some ten instructions each), then the plain row |
//! | `rows` | emits a million rows (key, 0.., v, []) for it |
//! | `reject` | puts, appends, sets the timer, emits, and then rejects the struck event with `rejected <v>` |
//! | `reject-map` | rejects its record with `rejected <v>` |
//! | `err` | `fold` errs as a whole, `erred on <n>`, if it is in the call |
//! | `malformed` | columns of wrong lengths (a timer is missing) if it is in the call |
//! | `foreign-items` | rows of events that are not in the call if it is |
//! | `stop-early` | stops its key before it, though no timer is set |
//! | `past-timer` | it sets a timer for its time + 10 s, and the firing sets a timer for the time at which it fired |
//! | `reject-timer` | it puts, appends and sets a timer for its time + 10 s; the firing emits a row and is rejected with `rejected timer` |
//! | `std-hashmap` | items are the numbers 0 to 15 in the order of a std `HashMap`, on every event |
//! | `static-counter` | v is how many events the instance has seen, on every event |
//! | `static-state` | the plain row; the value's count is how many events the instance has seen, on every event |
//! | `shared-key` | the row ("all", v mod 7, v, []), on every event: rows of one primary key from several keys |
//! | `state` | see below |
//! | `timers` | no plain row. An event sets count = 0 and the timer to its time + 10 s. A firing at t adds 1 to count and emits (key, t, count, []); below 5 it sets the timer to t + 7 s, else it clears the state |
//! | `timer-now` | the plain row, and a timer at the watermark (the event's time while there is none): due already. The firing emits (key, its time, -1, []) |
//! | `timer-zero` | puts v as sum, and a timer for 1970: due already, and of one time for all events. The firing emits (key, v, v, []) and clears the value. Of `v` = `n` it panics with `struck by <v>`: the event if `at` is `fold`, the firing if it is `timer` |
//! | `mark` | an event adds 1 to count, emits (key, event time, count, [`mark`]) and sets the timer to its time + 10 s; the firing emits (key, its time, -count, [`mark`]): every row says which configuration made it |
//!
//! `trap`, `loop`, `grow` and `burn` strike where `at` says: in `fold`, in `map`, or in `timer` (there the struck event puts, appends and
//! sets a timer for its time + 10 s beside its plain row, and the firing strikes).
//!
//! `state`: an event adds 1 to count and v to sum, appends v as text, and sets the timer to its time + 20 s. If then v mod 5 = 0 (as
//! `rem_euclid`), it emits (key, event time, count, []) and clears value and list, not the timer. A firing at t emits
//! (key, t, sum or 0, items) and clears the list, not the value.
//!
//! # The second version
//! Built with the feature `second` (the crate `hostile2`) its state has version 2 and other encodings: items end in `'`. `migrate` takes
//! version 1, adds 1000 to count and the `'` to items; a state whose sum is the configuration's `unmigratable` makes it panic.

pub mod modes;

use std::cell::OnceCell;

use keyfold_sdk::glue::{Instance, describe};
use keyfold_sdk::raw::{
    self, ByteColumn, ChangeBatch, EventBatch, FoldBatch, Guest, RecordBatch, StateBatch, TimerBatch,
};
use modes::{Hostile, Mode};

/// The plugin: the SDK's glue, and answers that it would not give.
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

/// Makes of a right answer the wrong one that the mode asks for, if the struck event is in the call.
fn spoil(hostile: &Hostile, batch: &FoldBatch, mut changes: ChangeBatch) -> Result<ChangeBatch, String> {
    let n = hostile.config.n;
    let Some(struck) = (0..batch.event_times.len()).find(|i| number(&batch.event_values, *i) == n) else {
        return Ok(changes);
    };
    match hostile.config.mode {
        Mode::Err => return Err(format!("erred on {n}")),
        Mode::Malformed => drop(changes.timers.pop()),
        Mode::ForeignItems => {
            let events = u32::try_from(batch.event_times.len()).unwrap_or(u32::MAX);
            changes.rows.iter_mut().flat_map(|rows| &mut rows.items).for_each(|item| *item += events);
        }
        Mode::StopEarly => stop_before(struck, batch, &mut changes),
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
