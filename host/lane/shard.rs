//! One shard's part of a batch: groups the events by key, folds them and fires timers. Owns the calls of `fold` and `on-timer`, their
//! halving after a failure, and the place of every row. Keeps I1: what an event or a firing produces does not depend on what shares its
//! batch or its call.

use std::collections::BTreeMap;

use crate::event_time::{EventTime, cell};
use crate::lane::batch::Batch;
use crate::lane::letters::Letter;
use crate::lane::migration::bring_up;
use crate::lane::place::{Place, PlacedRow};
use crate::lane::quota;
use crate::plugin::{Changes, Fault, FoldInput, Instance, Plugin, TimerInput, call, change};
use crate::row::{Origin, Part};
use crate::state::{Shard, SlotId};
use crate::strike::{Overdue, Stage, Strike, StrikeItem};

/// How often one record may fire the timer of one key; the next firing is a strike.
const MAX_FIRINGS: u32 = 10_000;

/// What a shard made of its part of a batch.
#[derive(Debug, Default)]
pub(super) struct ShardOutput {
    pub(super) parts: Vec<Part>,
    pub(super) rows: Vec<PlacedRow>,
    pub(super) letters: Vec<Letter>,
    pub(super) strikes: Vec<Strike>,
    pub(super) firings: u64,
    pub(super) calls: u64,
}

/// A key's events in a batch, and how many of them are folded.
#[derive(Clone, Copy, Debug)]
struct Group {
    slot: SlotId,
    /// The next of its events in `Groups::order`, and the end of them.
    next: u32,
    end: u32,
    /// The first step of the timeline at which a timer of this key can still be due.
    step: usize,
    /// The record of the last folded event.
    folded: Option<u32>,
    /// Firings, at that record, of timers that were already due when they were set.
    overdue: u32,
    /// A record, and the firings counted for it.
    firings: (usize, u32),
}

/// The groups of a shard in one batch. Their memory is reused from batch to batch.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: Vec<Group>,
    /// Events in the order of their groups.
    order: Vec<u32>,
    members: Vec<(u32, u32)>,
    /// The events of the last call of `fold`.
    called: Vec<u32>,
    fold_input: FoldInput,
    timer_input: TimerInput,
}

impl Groups {
    /// Groups the shard's events by key. Returns the slots whose state must be read from the store before the fold.
    pub(super) fn group(&mut self, batch: &Batch, events: &[u32], shard: &mut Shard, complete: bool) -> Vec<SlotId> {
        shard.begin_batch();
        self.groups.clear();
        self.members.clear();
        let mut missing = Vec::new();
        for &event in events {
            let i = event as usize;
            let slot = shard.slot_of(batch.hashes[i], batch.events.keys.get(i), complete);
            let next = count(self.groups.len());
            let group = shard.group_of(slot, next);
            if group == next {
                self.groups.push(Group::of(slot));
                if !shard.slot(slot).loaded {
                    missing.push(slot);
                }
            }
            self.groups[group as usize].end += 1;
            self.members.push((event, group));
        }
        self.lay_out();
        missing
    }

    /// The slots of the groups: keys with events and, after the fold, keys whose timers fired.
    pub(super) fn slots(&self) -> impl Iterator<Item = SlotId> {
        self.groups.iter().map(|group| group.slot)
    }

    /// Sorts the members by group, by counting.
    fn lay_out(&mut self) {
        let mut start = 0;
        for group in &mut self.groups {
            let count = group.end;
            (group.next, group.end) = (start, start);
            start += count;
        }
        self.order.resize(self.members.len(), 0);
        for &(event, group) in &self.members {
            let group = &mut self.groups[group as usize];
            self.order[group.end as usize] = event;
            group.end += 1;
        }
    }
}

/// The run of one shard over one batch.
pub(super) struct Run<'a, 'p> {
    batch: &'a Batch<'a>,
    plugin: &'p Plugin,
    known: &'a BTreeMap<StrikeItem, String>,
    shard: &'a mut Shard,
    groups: &'a mut Groups,
    instance: Option<Instance<'p>>,
    output: ShardOutput,
}

/// A due timer and where its rows belong.
#[derive(Clone, Copy, Debug)]
struct Firing {
    group: u32,
    time: EventTime,
    /// The step of the timeline at which it fires.
    step: usize,
    /// Its number among the overdue firings at its record, if the timer was already due when it was set.
    overdue: Option<u32>,
    place: Place,
}

/// Returns the slots whose state has an earlier version.
fn former(plugin: &Plugin, shard: &Shard, slots: impl Iterator<Item = SlotId>) -> Vec<SlotId> {
    let version = plugin.description.state_version;
    slots.filter(|&slot| shard.slot(slot).version != version).collect()
}

impl<'a, 'p> Run<'a, 'p> {
    pub(super) fn new(
        batch: &'a Batch<'a>,
        plugin: &'p Plugin,
        known: &'a BTreeMap<StrikeItem, String>,
        (shard, groups): (&'a mut Shard, &'a mut Groups),
        instance: Option<Instance<'p>>,
    ) -> Run<'a, 'p> {
        Run { batch, plugin, known, shard, groups, instance, output: ShardOutput::default() }
    }

    /// Folds all events and fires all timers that the batch's watermarks make due. Returns the output, and the instance for the next shard
    /// of a small batch.
    pub(super) fn run(mut self) -> Result<(ShardOutput, Option<Instance<'p>>), Fault> {
        let former = former(self.plugin, self.shard, self.groups.slots());
        self.bring_up(former)?;
        let mut pending: Vec<u32> = (0..count(self.groups.groups.len())).collect();
        while !pending.is_empty() {
            if self.known.is_empty() {
                self.fold(&pending)?;
            } else {
                let ready: Vec<u32> = pending.iter().copied().filter(|&g| self.pass_known_strikes(g)).collect();
                self.fold(&ready)?;
            }
            pending.retain(|&g| self.groups.groups[g as usize].next < self.groups.groups[g as usize].end);
            let due: Vec<u32> = pending.iter().copied().filter(|&g| self.is_done_or_due(g)).collect();
            let due: Vec<Firing> = due.into_iter().map(|g| self.before_next_event(g)).collect();
            self.fire(&due)?;
        }
        for i in 0..self.groups.groups.len() {
            self.shard.schedule(self.groups.groups[i].slot);
        }
        self.fire_all_due()?;
        self.groups.slots().for_each(|slot| self.shard.settle(slot));
        Ok((self.output, self.instance))
    }

    /// Migrates state of an earlier version before it is touched.
    fn bring_up(&mut self, former: Vec<SlotId>) -> Result<(), Fault> {
        if former.is_empty() {
            return Ok(());
        }
        let (_, lost) = bring_up((self.plugin, self.known), self.shard, former, &mut self.instance)?;
        for lost in lost {
            self.output.strikes.extend(lost.strike());
            self.output.letters.push(self.batch.lost_letter(lost));
        }
        Ok(())
    }

    // ---- events

    /// Folds the remaining events of these groups: of each group all, or those before the event that its timer must precede.
    fn fold(&mut self, groups: &[u32]) -> Result<(), Fault> {
        if groups.is_empty() {
            return Ok(());
        }
        match self.call_fold(groups, u32::MAX) {
            Ok(changes) => {
                self.apply_fold(groups, changes);
                Ok(())
            }
            Err(Fault::Plugin(_)) if groups.len() > 1 => {
                let (left, right) = groups.split_at(groups.len() / 2);
                self.fold(left)?;
                self.fold(right)
            }
            Err(Fault::Plugin(_)) => self.fold_alone(groups[0]),
            Err(halt) => Err(halt),
        }
    }

    /// Folds one group in ever smaller calls, down to a single event in a fresh instance, whose failure is a strike.
    fn fold_alone(&mut self, group: u32) -> Result<(), Fault> {
        let mut limit = u32::MAX;
        while !self.is_done_or_due(group) && self.pass_known_strikes(group) {
            let Group { next, end, .. } = self.groups.groups[group as usize];
            let count = limit.min(end - next);
            match self.call_fold(&[group], count) {
                Ok(changes) => {
                    self.apply_fold(&[group], changes);
                    limit = u32::MAX;
                }
                Err(Fault::Plugin(reason)) if count == 1 => {
                    self.strike_event(group, reason);
                    limit = u32::MAX;
                }
                Err(Fault::Plugin(_)) => limit = count / 2,
                Err(halt) => return Err(halt),
            }
        }
        Ok(())
    }

    /// Dead-letters the group's next events as long as the journal holds a strike for them and the key's timer is not due. Returns whether the
    /// group has an event to fold next.
    fn pass_known_strikes(&mut self, group: u32) -> bool {
        loop {
            let Group { next, end, .. } = self.groups.groups[group as usize];
            if next == end {
                return false;
            }
            let event = self.groups.order[next as usize];
            let Some(reason) = self.known_strike_of(event) else { return true };
            if self.is_done_or_due(group) {
                return false;
            }
            self.groups.groups[group as usize].next += 1;
            self.output.letters.push(self.batch.event_letter(event, Stage::Fold, reason.clone()));
        }
    }

    fn known_strike_of(&self, event: u32) -> Option<&'a String> {
        if self.known.is_empty() { None } else { self.known.get(&self.batch.event_strike(event)) }
    }

    fn is_done_or_due(&self, group: u32) -> bool {
        let group = &self.groups.groups[group as usize];
        if group.next == group.end {
            return true;
        }
        let timer = self.shard.slot(group.slot).timer();
        timer.is_some_and(|timer| timer.ms() <= self.batch.watermark_of(self.groups.order[group.next as usize]))
    }

    fn call_fold(&mut self, groups: &[u32], max_events: u32) -> Result<Changes, Fault> {
        let Groups { groups: all, order, called, fold_input: input, .. } = &mut *self.groups;
        input.clear();
        called.clear();
        for &g in groups {
            let group = &all[g as usize];
            let slot = self.shard.slot(group.slot);
            input.keys.push(slot.key());
            input.value_present.push(u8::from(slot.value().is_some()));
            input.values.push(slot.value().unwrap_or_default());
            input.timers.push(cell(slot.timer()));
            let end = group.end.min(group.next.saturating_add(max_events));
            for &event in &order[group.next as usize..end as usize] {
                if !self.known.is_empty() && self.known.contains_key(&self.batch.event_strike(event)) {
                    break;
                }
                self.batch.lower_event(event as usize, input);
                called.push(event);
            }
            let first = input.event_ends.last().copied().unwrap_or_default();
            input.event_ends.push(count(called.len()));
            if count(called.len()) - first > 1 {
                input.most_state = input.most_state.max(Some(quota::bytes(slot)));
            }
        }
        self.output.calls += 1;
        call(&mut self.instance, self.plugin, |instance| {
            let changes = instance.fold(&self.groups.fold_input)?;
            let slots = groups.iter().map(|&g| self.shard.slot(self.groups.groups[g as usize].slot));
            quota::check(&self.plugin.limits, slots, &changes)?;
            Ok(changes)
        })
    }

    fn apply_fold(&mut self, groups: &[u32], changes: Changes) {
        for (i, &g) in groups.iter().enumerate() {
            let group = &mut self.groups.groups[g as usize];
            let consumed = changes.consumed[i];
            if consumed > 0 {
                let record =
                    self.batch.events.records[self.groups.order[(group.next + consumed - 1) as usize] as usize];
                if group.folded != Some(record) {
                    (group.folded, group.overdue) = (Some(record), 0);
                }
                group.step = group.step.max(2 * record as usize + 1);
            }
            group.next += consumed;
            apply(self.shard, group.slot, &changes, i, EventTime::from_cell(changes.timers[i]));
        }
        for rejection in &changes.rejections {
            let event = self.groups.called[rejection.item as usize];
            self.output.letters.push(self.batch.event_letter(event, Stage::Fold, rejection.reason.clone()));
        }
        let call = self.output.calls;
        for (part, items) in changes.rows {
            for (row, &item) in items.iter().enumerate() {
                let event = self.groups.called[item as usize];
                let place = self.batch.event_place(event);
                let origin = self.batch.event_origin(event);
                self.output.rows.push(PlacedRow::new(place, None, call, (self.output.parts.len(), row), origin));
            }
            self.output.parts.push(part);
        }
    }

    fn strike_event(&mut self, group: u32, reason: String) {
        let group = &mut self.groups.groups[group as usize];
        let event = self.groups.order[group.next as usize];
        group.next += 1;
        let (item, Origin { partition, offset, .. }) = (self.batch.event_strike(event), self.batch.event_origin(event));
        let key = String::from_utf8_lossy(self.shard.slot(group.slot).key()).into_owned();
        self.output.letters.push(self.batch.event_letter(event, Stage::Fold, reason.clone()));
        let record = Some((partition, offset));
        self.output.strikes.push(Strike { item, key: Some(key), record, reason });
    }

    // ---- timers

    /// Returns the firing that must precede a group's next event. Its place is just before that event if an event of the same record set a
    /// timer that was already due, otherwise among the timers of the step that made it due.
    fn before_next_event(&mut self, g: u32) -> Firing {
        let group = &self.groups.groups[g as usize];
        let event = self.groups.order[group.next as usize];
        let record = self.batch.events.records[event as usize];
        let overdue = group.folded == Some(record) && self.is_overdue(g);
        let firing = self.firing(g);
        if overdue { Firing { place: self.batch.event_place(event).ahead(), ..firing } } else { firing }
    }

    /// Whether a group's timer was already due when it was set, by the last folded event or by a firing at the same record. What fires in an
    /// idle advance is at no record.
    fn is_overdue(&self, g: u32) -> bool {
        let group = &self.groups.groups[g as usize];
        let time = self.shard.slot(group.slot).timer();
        group.folded.is_some_and(|record| {
            group.step <= 2 * record as usize + 1
                && time <= EventTime::from_cell(self.batch.line.before(record as usize))
        })
    }

    /// Returns the firing of a group's due timer, placed among those of the step that made it due.
    fn firing(&mut self, g: u32) -> Firing {
        let overdue = self.is_overdue(g);
        let group = &mut self.groups.groups[g as usize];
        let time = self.shard.slot(group.slot).timer().expect("only a due timer fires");
        let step = self.batch.line.due_step(time, group.step).expect("the timer is due in this batch");
        let overdue = overdue.then_some(group.overdue);
        group.overdue += u32::from(overdue.is_some());
        Firing { group: g, time, step, overdue, place: Place::of_timer(step, time) }
    }

    /// Fires the timers that are due after the last event, of keys with and without events in this batch.
    fn fire_all_due(&mut self) -> Result<(), Fault> {
        let Some(&watermark) = self.batch.line.steps.last() else { return Ok(()) };
        let watermark = EventTime::from_cell(watermark);
        loop {
            let mut slots = Vec::new();
            while let Some(slot) = self.shard.pop_due(watermark) {
                slots.push(slot);
            }
            self.bring_up(former(self.plugin, self.shard, slots.iter().copied()))?;
            // A state that could not be migrated has lost its timer too.
            slots.retain(|&slot| self.shard.slot(slot).timer().is_some());
            let mut due = Vec::with_capacity(slots.len());
            for slot in slots {
                let g = self.group_of(slot);
                due.push(self.firing(g));
            }
            if due.is_empty() {
                return Ok(());
            }
            self.fire(&due)?;
            for firing in due {
                self.shard.schedule(self.groups.groups[firing.group as usize].slot);
            }
        }
    }

    fn group_of(&mut self, slot: SlotId) -> u32 {
        let next = count(self.groups.groups.len());
        let group = self.shard.group_of(slot, next);
        if group == next {
            self.groups.groups.push(Group::of(slot));
        }
        group
    }

    /// Fires these timers, at most one per key.
    fn fire(&mut self, due: &[Firing]) -> Result<(), Fault> {
        let mut allowed = Vec::with_capacity(due.len());
        for &firing in due {
            self.output.firings += 1;
            match self.forbidden(firing) {
                Some(reason) => self.strike_firing(firing, reason),
                None => allowed.push(firing),
            }
        }
        self.fire_halving(&allowed)
    }

    /// Returns why a firing is a strike without a call: the journal holds it, or its key fires endlessly.
    fn forbidden(&mut self, firing: Firing) -> Option<String> {
        let group = &mut self.groups.groups[firing.group as usize];
        let record = firing.step / 2;
        group.firings = if group.firings.0 == record { (record, group.firings.1 + 1) } else { (record, 1) };
        let endless = group.firings.1 > MAX_FIRINGS;
        if let Some(reason) = self.known_strike(firing) {
            return Some(reason);
        }
        if endless {
            let reason = format!("the key's timer fired {MAX_FIRINGS} times at one record");
            self.note_strike(firing, reason.clone());
            return Some(reason);
        }
        None
    }

    fn known_strike(&self, firing: Firing) -> Option<String> {
        if self.known.is_empty() { None } else { self.known.get(&self.timer_strike(firing)).cloned() }
    }

    fn timer_strike(&self, firing: Firing) -> StrikeItem {
        let key = String::from_utf8_lossy(self.shard.slot(self.slot_of(firing)).key()).into_owned();
        let overdue = firing.overdue.map(|n| {
            let Origin { partition, offset, .. } = self.batch.step_origin(firing.step);
            Overdue { partition, offset, firing: n }
        });
        StrikeItem::Timer { key, time: firing.time, overdue }
    }

    fn note_strike(&mut self, firing: Firing, reason: String) {
        let item = self.timer_strike(firing);
        let key = String::from_utf8_lossy(self.shard.slot(self.slot_of(firing)).key()).into_owned();
        let Origin { partition, offset, .. } = self.batch.step_origin(firing.step);
        self.output.strikes.push(Strike { item, key: Some(key), record: Some((partition, offset)), reason });
    }

    fn fire_halving(&mut self, due: &[Firing]) -> Result<(), Fault> {
        if due.is_empty() {
            return Ok(());
        }
        match self.call_timers(due) {
            Ok(changes) => {
                self.apply_timers(due, changes);
                Ok(())
            }
            Err(Fault::Plugin(reason)) if due.len() == 1 => {
                self.note_strike(due[0], reason.clone());
                self.strike_firing(due[0], reason);
                Ok(())
            }
            Err(Fault::Plugin(_)) => {
                let (left, right) = due.split_at(due.len() / 2);
                self.fire_halving(left)?;
                self.fire_halving(right)
            }
            Err(halt) => Err(halt),
        }
    }

    fn call_timers(&mut self, due: &[Firing]) -> Result<Changes, Fault> {
        let Groups { groups: all, timer_input: input, .. } = &mut *self.groups;
        input.clear();
        for firing in due {
            let slot = self.shard.slot(all[firing.group as usize].slot);
            input.keys.push(slot.key());
            input.value_present.push(u8::from(slot.value().is_some()));
            input.values.push(slot.value().unwrap_or_default());
            slot.list().for_each(|item| input.list_items.push(item));
            input.list_ends.push(count(input.list_items.len()));
            input.timers.push(firing.time.ms());
        }
        self.output.calls += 1;
        call(&mut self.instance, self.plugin, |instance| {
            let changes = instance.on_timer(&self.groups.timer_input)?;
            let slots = due.iter().map(|firing| self.groups.groups[firing.group as usize].slot);
            quota::check(&self.plugin.limits, slots.map(|slot| self.shard.slot(slot)), &changes)?;
            Ok(changes)
        })
    }

    fn apply_timers(&mut self, due: &[Firing], changes: Changes) {
        for rejection in &changes.rejections {
            // Before the changes: the dead letter carries the state that is lost.
            self.timer_letter(due[rejection.item as usize], rejection.reason.clone());
        }
        for (i, &firing) in due.iter().enumerate() {
            self.passed(firing);
            apply(self.shard, self.slot_of(firing), &changes, i, EventTime::from_cell(changes.timers[i]));
        }
        let call = self.output.calls;
        for (part, items) in changes.rows {
            for (row, &item) in items.iter().enumerate() {
                let firing = due[item as usize];
                let (slot, origin) = (self.slot_of(firing), self.batch.step_origin(firing.step));
                let (key, at) = ((slot, self.shard.slot(slot).key()), (self.output.parts.len(), row));
                self.output.rows.push(PlacedRow::new(firing.place, Some(key), call, at, origin));
            }
            self.output.parts.push(part);
        }
    }

    /// Dead-letters a firing; the key loses its state and timer.
    fn strike_firing(&mut self, firing: Firing, reason: String) {
        self.timer_letter(firing, reason);
        self.passed(firing);
        self.shard.change(self.slot_of(firing)).clear();
    }

    /// Notes that no timer of this key can be due before this firing.
    fn passed(&mut self, firing: Firing) {
        let group = &mut self.groups.groups[firing.group as usize];
        group.step = group.step.max(firing.step);
    }

    fn timer_letter(&mut self, firing: Firing, reason: String) {
        let slot = self.shard.slot(self.slot_of(firing));
        let letter = self.batch.timer_letter(firing.step, firing.time, firing.place, slot, reason);
        self.output.letters.push(letter);
    }

    fn slot_of(&self, firing: Firing) -> SlotId {
        self.groups.groups[firing.group as usize].slot
    }
}

impl Group {
    fn of(slot: SlotId) -> Group {
        Group { slot, next: 0, end: 0, step: 0, folded: None, overdue: 0, firings: (usize::MAX, 0) }
    }
}

/// Applies a call's changes of its key `i` to the slot.
fn apply(shard: &mut Shard, slot: SlotId, changes: &Changes, i: usize, timer: Option<EventTime>) {
    let (value, list) = (changes.value_changes[i], changes.list_changes[i]);
    if value == change::KEEP && list == change::KEEP && shard.slot(slot).timer() == timer {
        return;
    }
    let slot = shard.change(slot);
    slot.set_timer(timer);
    match value {
        change::PUT => slot.set_value(Some(changes.values.get(i))),
        change::CLEAR => slot.set_value(None),
        _ => {}
    }
    if list == change::CLEAR || list == change::REPLACE {
        slot.clear_list();
    }
    if list == change::PUT || list == change::REPLACE {
        slot.append(changes.items_of(i).map(|item| changes.list_items.get(item)));
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).expect("a batch has fewer than 2^32 of anything")
}
