//! One instance of a plugin: its store, its limits and its calls. After a fault the instance is dead, and the caller makes a fresh one.

use std::ops::Range;
use std::time::Duration;

use memchr::memmem;
use wasmtime::{AsContextMut, Engine, PoolConcurrencyLimitError, ResourceLimiter, Store, Trap, WasmCoreDump};

use crate::backoff;
use crate::observe::meter::Call;
use crate::plugin::allowance::Allowance;
use crate::plugin::bindings::exports::keyfold::mapper::mapper as wit;
use crate::plugin::columns::lift::{kept, lift_events, lift_fold, lift_states, lift_timers, log_bytes};
use crate::plugin::columns::lower::{MapInput, lower_fold, lower_states, lower_timers};
use crate::plugin::columns::{Changes, Events, FoldInput, TimerInput};
use crate::plugin::{Description, Fault, Input, Limits, Plugin, bindings};
use crate::record::{ByteColumn, Records};

/// The pause between two attempts to get a place in the pool.
const WAIT: Duration = Duration::from_millis(1);
/// After this many pauses, a minute, waiting is given up.
const MOST_WAITS: u32 = 60_000;

/// The data of a store: limits and usage of its guest.
pub(super) struct Guest {
    /// How large it may become in this call.
    memory_bytes: u64,
    /// The largest linear memory of the instance so far, bytes.
    memory: u64,
    refused_growth: bool,
}

impl ResourceLimiter for Guest {
    fn memory_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let allowed = desired as u64 <= self.memory_bytes;
        self.refused_growth |= !allowed;
        if allowed {
            self.memory = self.memory.max(desired as u64);
        }
        Ok(allowed)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= 1 << 20)
    }
}

/// A configured instance.
pub struct Instance<'p> {
    plugin: &'p Plugin,
    store: Store<Guest>,
    guest: bindings::Plugin,
    /// The memory that it had when it was fresh, bytes.
    base: u64,
    /// Whether it was called before.
    used: bool,
}

/// Calls the given instance if there is one, and if that fails, a fresh one. So a failure always comes from a fresh instance, which is then
/// dead, and is never caused by earlier calls.
pub fn call<'p, T>(
    instance: &mut Option<Instance<'p>>,
    plugin: &'p Plugin,
    call: impl Fn(&mut Instance<'p>) -> Result<T, Fault>,
) -> Result<T, Fault> {
    if let Some(used) = instance {
        match call(used) {
            Err(Fault::Plugin(_)) => {}
            result => return result,
        }
    }
    *instance = None; // frees its place in the pool
    // The plugin accepted this configuration at the start and refuses it now: it is not a function of its input.
    let fresh = instance.insert(Instance::new(plugin).map_err(|fault| Fault::Host(fault.text()))?);
    let result = call(fresh);
    if result.is_err() {
        *instance = None;
    }
    result
}

impl<'p> Instance<'p> {
    /// Makes a fresh, configured instance; measured 11-20 us.
    pub fn new(plugin: &'p Plugin) -> Result<Instance<'p>, Fault> {
        plugin.meter.measure(Call::Configure, || {
            let instance = Instance::configured(plugin);
            let fuel = instance.as_ref().map_or(0, |instance| plugin.limits.fuel - instance.fuel_left());
            instance.iter().for_each(|instance| plugin.meter.memory(instance.store.data().memory));
            (instance, fuel)
        })
    }

    fn configured(plugin: &'p Plugin) -> Result<Instance<'p>, Fault> {
        let (mut store, guest) = instantiate(&plugin.engine, &plugin.pre, plugin.limits)?;
        match guest.keyfold_mapper_mapper().call_configure(&mut store, &plugin.config) {
            Ok(Ok(())) => {
                let base = store.data().memory;
                Ok(Instance { plugin, store, guest, base, used: false })
            }
            Ok(Err(reason)) => {
                Err(Fault::Plugin(format!("it refuses its configuration {}: {}", plugin.config, kept(&reason))))
            }
            Err(e) => Err(match fault(&mut store, &e) {
                Fault::Plugin(reason) => Fault::Plugin(format!("`configure` failed: {reason}")),
                host => host,
            }),
        }
    }

    /// Calls `map-records` with rows `range` of a batch.
    pub fn map(&mut self, records: &Records, range: Range<usize>) -> Result<Events, Fault> {
        self.plugin.notify(|| Input::MapRecords(records, range.clone()));
        self.metered((Call::MapRecords, range.len()), u64::MAX, Events::bytes, |instance| {
            let input = MapInput::new(records, range.clone(), instance.plugin.description.wants_headers);
            let result = instance.guest.keyfold_mapper_mapper().call_map_records(&mut instance.store, input.lower());
            let mut batch = instance.returned(result)?;
            let logged = instance.log(std::mem::take(&mut batch.logs));
            lift_events(batch, range.len(), logged, &instance.plugin.limits)
        })
    }

    /// Calls `fold`.
    pub fn fold(&mut self, input: &FoldInput) -> Result<Changes, Fault> {
        self.plugin.notify(|| Input::Fold(input));
        // What an event puts and the next one of its key clears is nowhere but in the memory (D35).
        let room = |state| self.plugin.limits.state_bytes.saturating_sub(state as u64);
        let room = input.most_state.map_or(u64::MAX, room);
        self.metered((Call::Fold, input.event_times.len()), room, Changes::bytes, |instance| {
            let lowered = lower_fold(input);
            let result = instance.guest.keyfold_mapper_mapper().call_fold(&mut instance.store, lowered);
            let mut batch = instance.returned(result)?;
            let logged = instance.log(std::mem::take(&mut batch.logs));
            lift_fold(batch, input, logged, &instance.plugin.description.tables, &instance.plugin.limits)
        })
    }

    /// Calls `on-timer`.
    pub fn on_timer(&mut self, input: &TimerInput) -> Result<Changes, Fault> {
        self.plugin.notify(|| Input::OnTimer(input));
        self.metered((Call::OnTimer, input.timers.len()), u64::MAX, Changes::bytes, |instance| {
            let lowered = lower_timers(input);
            let result = instance.guest.keyfold_mapper_mapper().call_on_timer(&mut instance.store, lowered);
            let mut batch = instance.returned(result)?;
            let logged = instance.log(std::mem::take(&mut batch.logs));
            lift_timers(batch, input, logged, &instance.plugin.description.tables, &instance.plugin.limits)
        })
    }

    /// Calls `migrate` with value states and list items of an older state version; returns them in the current one.
    pub fn migrate(
        &mut self,
        version: u32,
        values: &ByteColumn,
        items: &ByteColumn,
        states: usize,
    ) -> Result<(ByteColumn, ByteColumn), Fault> {
        self.metered(
            (Call::Migrate, states),
            u64::MAX,
            |(values, items): &(ByteColumn, ByteColumn)| values.data.len() + items.data.len(),
            |instance| {
                let states = lower_states(values, items);
                let result = instance.guest.keyfold_mapper_mapper().call_migrate(&mut instance.store, version, states);
                let batch = instance.returned(result)?;
                lift_states(batch, values.len(), items.len())
            },
        )
    }

    /// Gives a used instance half of the budget: work that it saves because of earlier calls must not let an item pass that fails in a fresh
    /// instance. For the same reason an item that is not alone in a fresh instance gets half of the memory above what the instance began with
    /// (D41).
    fn refuel(&mut self, items: usize, room: u64) -> u64 {
        let limits = self.plugin.limits;
        let fuel = if self.used { limits.fuel / 2 } else { limits.fuel };
        let is_alone = !self.used && items == 1;
        let shared = self.base + limits.memory_bytes.saturating_sub(self.base) / 2;
        self.store.data_mut().memory_bytes = if is_alone { limits.memory_bytes } else { shared.min(room) };
        self.used = true;
        self.store.set_fuel(fuel).expect("the engine consumes fuel");
        fuel
    }

    /// Makes a call with this many items, in at most `room` bytes of memory, and adds its cost to the plugin's meter. `bytes` is asked what it
    /// gave if its plugin is only tried.
    fn metered<T>(
        &mut self,
        (call, items): (Call, usize),
        room: u64,
        bytes: impl FnOnce(&T) -> usize,
        make: impl FnOnce(&mut Self) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let plugin = self.plugin;
        plugin.allowance.as_ref().map_or(Ok(()), Allowance::check)?;
        if self.store.data().memory > room {
            return Err(Fault::Plugin(
                "the plugin has more memory than a call with several events of such a key may use".into(),
            ));
        }
        plugin.meter.measure(call, || {
            let fuel = self.refuel(items, room);
            let mut result = make(self);
            let Guest { memory, memory_bytes, refused_growth } = *self.store.data();
            if refused_growth && memory_bytes < plugin.limits.memory_bytes && result.is_ok() {
                // A plugin can notice that it gets no more, and answer something else: only what it answers alone counts.
                result = Err(Fault::Plugin("the plugin needs more memory than a shared call may use".into()));
            }
            plugin.meter.memory(memory);
            let burnt = fuel - self.fuel_left();
            if let Some(allowance) = &plugin.allowance {
                allowance.spend(burnt, result.as_ref().map_or(0, bytes));
            }
            (result, burnt)
        })
    }

    fn fuel_left(&self) -> u64 {
        self.store.get_fuel().expect("the engine consumes fuel")
    }

    fn returned<T>(&mut self, result: wasmtime::Result<Result<T, String>>) -> Result<T, Fault> {
        match result {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(reason)) => Err(Fault::Plugin(format!("the call returned an error: {}", kept(&reason)))),
            Err(e) => Err(fault(&mut self.store, &e)),
        }
    }

    /// Writes log lines; returns their bytes, which are part of what a call returns.
    fn log(&self, lines: Vec<wit::LogLine>) -> usize {
        let bytes = log_bytes(&lines);
        for wit::LogLine { level, message } in lines {
            let Description { name, version, .. } = &self.plugin.description;
            self.plugin.log.line((name, version), level, &message);
        }
        bytes
    }
}

/// Calls `describe` in an instance of its own.
pub(super) fn describe(
    engine: &Engine,
    pre: &bindings::PluginPre<Guest>,
    limits: Limits,
) -> Result<wit::Description, Fault> {
    let (mut store, guest) = instantiate(engine, pre, limits)?;
    guest.keyfold_mapper_mapper().call_describe(&mut store).map_err(|e| fault(&mut store, &e))
}

/// Instantiates a plugin, waiting for a place in the pool. There may be more lanes than places, but one is freed soon: a thread that has an
/// instance never waits for another.
fn instantiate(
    engine: &Engine,
    pre: &bindings::PluginPre<Guest>,
    limits: Limits,
) -> Result<(Store<Guest>, bindings::Plugin), Fault> {
    for _ in 0..MOST_WAITS {
        let mut store = new_store(engine, limits)?;
        match pre.instantiate(&mut store) {
            Ok(guest) => return Ok((store, guest)),
            Err(e) if e.is::<PoolConcurrencyLimitError>() => backoff::pause(WAIT),
            Err(e) => return Err(fault(&mut store, &e)),
        }
    }
    Err(Fault::Host(format!("no instance became free within {:?}", WAIT * MOST_WAITS)))
}

fn new_store(engine: &Engine, limits: Limits) -> Result<Store<Guest>, Fault> {
    let mut store = Store::new(engine, Guest { memory_bytes: limits.memory_bytes, memory: 0, refused_growth: false });
    store.limiter(|guest| guest);
    store.set_fuel(limits.fuel).map_err(|e| Fault::Host(format!("cannot set the limits of the sandbox: {e:#}")))?;
    // Limits what a result occupies in the host: the guest's memory that it comes from, plus the ends and codes of its columns.
    store.set_hostcall_fuel(usize::try_from(limits.memory_bytes.saturating_mul(2)).unwrap_or(usize::MAX));
    Ok(store)
}

fn fault(store: &mut Store<Guest>, error: &wasmtime::Error) -> Fault {
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => Fault::Plugin("the plugin overflowed its stack".into()),
        Some(Trap::OutOfFuel) => Fault::Plugin("the plugin ran out of fuel (plugin.fuel)".into()),
        Some(trap) => Fault::Plugin(trapped(store, error, trap)),
        None => Fault::Plugin(format!("{error:#}")),
    }
}

fn trapped(store: &mut Store<Guest>, error: &wasmtime::Error, trap: &Trap) -> String {
    match panic_text(store, error) {
        Some(text) if store.data().refused_growth => {
            format!("the plugin reached its memory limit (plugin.memory) and panicked: {text}")
        }
        Some(text) => format!("the plugin panicked: {text}"),
        None if store.data().refused_growth => "the plugin reached its memory limit (plugin.memory)".into(),
        None => format!("the plugin trapped: {trap}"),
    }
}

/// Returns the text that the SDK's panic hook left in a marked buffer: 16 bytes of marker, u32 length, text.
fn panic_text(store: &mut Store<Guest>, error: &wasmtime::Error) -> Option<String> {
    const MARKER: &[u8; 16] = b"%%KEYFOLD-PANIC%";
    let dump = error.downcast_ref::<WasmCoreDump>()?;
    for memory in dump.memories() {
        let bytes = memory.data(store.as_context_mut());
        for at in memmem::find_iter(bytes, MARKER) {
            let text = at + MARKER.len() + 4;
            let Some(length) = bytes.get(text - 4..text) else { continue };
            let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
            if (1..=1024).contains(&length) {
                return bytes.get(text..text + length).map(|t| String::from_utf8_lossy(t).into_owned());
            }
        }
    }
    None
}
