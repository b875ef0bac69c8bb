//! State of an earlier version: a plugin's `migrate` converts it before a key is touched, and between batches for all other keys. By the
//! law of the contract its results do not depend on when it is called, so neither do the rows. If it fails on a state, that is a strike,
//! and the key loses the state.

use std::collections::BTreeMap;

use crate::lane::letters::lost_state;
use crate::lane::quota;
use crate::plugin::{Fault, Instance, Plugin, call};
use crate::record::ByteColumn;
use crate::state::{Shard, Slot, SlotId};
use crate::strike::{Strike, StrikeItem};

/// The approximate number of bytes of state in one call.
const CALL_BYTES: usize = 4 << 20;

/// A state that could not be migrated.
pub(super) struct Lost {
    pub(super) key: Box<[u8]>,
    /// As a dead letter carries it.
    pub(super) state: serde_json::Value,
    pub(super) reason: String,
    /// Its version; none if the journal already holds the strike.
    version: Option<u32>,
}

impl Lost {
    /// Returns the strike, if it is new.
    pub(super) fn strike(&self) -> Option<Strike> {
        let version = self.version?;
        let key = String::from_utf8_lossy(&self.key).into_owned();
        let item = StrikeItem::State { key: key.clone(), version };
        Some(Strike { item, key: Some(key), record: None, reason: self.reason.clone() })
    }
}

/// A plugin, and the journal's strikes of it.
type Logic<'p, 'k> = (&'p Plugin, &'k BTreeMap<StrikeItem, String>);

/// Migrates the state in these slots to the plugin's version. Returns how many keys were migrated, and what was lost.
pub(super) fn bring_up<'p>(
    (plugin, known): Logic<'p, '_>,
    shard: &mut Shard,
    slots: impl IntoIterator<Item = SlotId>,
    instance: &mut Option<Instance<'p>>,
) -> Result<(u64, Vec<Lost>), Fault> {
    let present = plugin.description.state_version;
    let mut former: BTreeMap<u32, Vec<SlotId>> = BTreeMap::new();
    for slot in slots {
        let entry = shard.slot(slot);
        if entry.version == present {
        } else if entry.is_bare() {
            shard.set_version(slot, present);
        } else {
            former.entry(entry.version).or_default().push(slot);
        }
    }
    let mut run = Run { plugin, known, shard, instance, migrated: 0, lost: Vec::new() };
    for (version, slots) in former {
        let mut rest = &slots[..];
        while !rest.is_empty() {
            let (call, behind) = rest.split_at(run.fitting(rest));
            run.migrate(version, call)?;
            rest = behind;
        }
    }
    Ok((run.migrated, run.lost))
}

struct Run<'a, 'p, 'k> {
    plugin: &'p Plugin,
    known: &'k BTreeMap<StrikeItem, String>,
    shard: &'a mut Shard,
    instance: &'a mut Option<Instance<'p>>,
    migrated: u64,
    lost: Vec<Lost>,
}

impl Run<'_, '_, '_> {
    /// Returns how many of these fit into one call: at least one.
    fn fitting(&self, slots: &[SlotId]) -> usize {
        let mut bytes = 0;
        let fits = |slot: &&SlotId| {
            bytes += self.shard.slot(**slot).state_bytes();
            bytes <= CALL_BYTES
        };
        slots.iter().take_while(fits).count().max(1)
    }

    /// Migrates these in one call. If the call fails, each half is tried alone, down to a single state in a fresh instance, whose failure is a
    /// strike.
    fn migrate(&mut self, version: u32, slots: &[SlotId]) -> Result<(), Fault> {
        if !self.known.is_empty()
            && let Some(at) = slots.iter().position(|&slot| self.known_reason(version, slot).is_some())
        {
            let reason = self.known_reason(version, slots[at]).cloned().unwrap_or_default();
            self.lose(slots[at], reason, None);
            self.migrate(version, &slots[..at])?;
            return self.migrate(version, &slots[at + 1..]);
        }
        if slots.is_empty() {
            return Ok(());
        }
        let (mut values, mut items) = (ByteColumn::default(), ByteColumn::default());
        for &slot in slots {
            let slot = self.shard.slot(slot);
            slot.value().iter().for_each(|value| values.push(value));
            slot.list().for_each(|item| items.push(item));
        }
        let migrated = call(self.instance, self.plugin, |instance| {
            let (values, items) = instance.migrate(version, &values, &items, slots.len())?;
            let shape = |slot: &Slot| (slot.value().is_some(), slot.items() as usize);
            let states = slots.iter().map(|&slot| shape(self.shard.slot(slot)));
            quota::check_migrated(&self.plugin.limits, states, (&values, &items))?;
            Ok((values, items))
        });
        match migrated {
            Ok((values, items)) => self.put(slots, &values, &items),
            Err(Fault::Plugin(reason)) if slots.len() == 1 => self.lose(slots[0], reason, Some(version)),
            Err(Fault::Plugin(_)) => {
                let (left, right) = slots.split_at(slots.len() / 2);
                self.migrate(version, left)?;
                self.migrate(version, right)?;
            }
            Err(halt) => return Err(halt),
        }
        Ok(())
    }

    fn known_reason(&self, version: u32, slot: SlotId) -> Option<&String> {
        let key = String::from_utf8_lossy(self.shard.slot(slot).key()).into_owned();
        self.known.get(&StrikeItem::State { key, version })
    }

    fn put(&mut self, slots: &[SlotId], values: &ByteColumn, items: &ByteColumn) {
        self.migrated += slots.len() as u64;
        let (mut value, mut item) = (0, 0);
        for &slot in slots {
            let entry = self.shard.change(slot);
            entry.version = self.plugin.description.state_version;
            if entry.value().is_some() {
                entry.set_value(Some(values.get(value)));
                value += 1;
            }
            let end = item + entry.items() as usize;
            entry.clear_list();
            entry.append((item..end).map(|item| items.get(item)));
            item = end;
            self.shard.settle(slot);
        }
    }

    fn lose(&mut self, slot: SlotId, reason: String, version: Option<u32>) {
        let slot = self.shard.change(slot);
        let (key, state) = (slot.key().into(), lost_state(slot.timer(), slot));
        slot.clear();
        slot.version = self.plugin.description.state_version;
        self.lost.push(Lost { key, state, reason, version });
    }
}
