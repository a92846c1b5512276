//! The slots of an inbound connection: which group a frame is for. Pure: it has no socket and no
//! clock. The simulation of hosts runs it too.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::local_group::LocalGroup;

/// See the [module](self). Invariant: a group has one slot at most.
#[derive(Default)]
pub(crate) struct InboundSlots {
    accepted: BTreeMap<u32, Slot>,
    by_group: BTreeMap<u64, u32>,
    /// The slots that the peer is to be told of.
    given_up: Vec<u32>,
    /// The last slot that the peer has introduced. The next one is higher.
    last: u32,
}

struct Slot {
    group: Arc<LocalGroup>,
    /// The process of the peer, as the hello of the group names it.
    nonce: u64,
}

/// Why a slot in a frame is not one that the peer may name. The connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InvalidSlot {
    /// It was introduced before, on this connection.
    Again,
    /// It was never introduced.
    Unknown,
}

impl InvalidSlot {
    /// What is wrong, as in "the peer has sent ..".
    pub(crate) fn text(self) -> &'static str {
        match self {
            InvalidSlot::Again => "a slot for the second time",
            InvalidSlot::Unknown => "a message for a slot that was not introduced",
        }
    }
}

impl InboundSlots {
    /// The peer introduces a group with this slot. Slots are used once on a connection.
    pub(crate) fn introduce(&mut self, slot: u32) -> Result<(), InvalidSlot> {
        if slot <= self.last {
            return Err(InvalidSlot::Again);
        }
        self.last = slot;
        Ok(())
    }

    /// The group that was introduced with this slot is accepted. An earlier slot of it ends.
    pub(crate) fn accept(&mut self, slot: u32, group: &Arc<LocalGroup>, nonce: u64) {
        self.remove_group(group.number);
        self.accepted.insert(slot, Slot { group: group.clone(), nonce });
        self.by_group.insert(group.number, slot);
    }

    /// The group of an accepted slot.
    pub(crate) fn group(&self, slot: u32) -> Option<Arc<LocalGroup>> {
        self.accepted.get(&slot).map(|slot| slot.group.clone())
    }

    /// The group that a message of this slot is for. `None`: the slot has ended, and the message
    /// was perhaps on its way then.
    pub(crate) fn receiver(&self, slot: u32) -> Result<Option<Arc<LocalGroup>>, InvalidSlot> {
        match self.group(slot) {
            None if !(1..=self.last).contains(&slot) => Err(InvalidSlot::Unknown),
            group => Ok(group),
        }
    }

    /// Whether a group has a slot.
    pub(crate) fn has(&self, group: u64) -> bool {
        self.by_group.contains_key(&group)
    }

    /// Whether a group has a slot for another process of the peer than that of `nonce`.
    pub(crate) fn is_other(&self, group: u64, nonce: u64) -> bool {
        let slot = self.by_group.get(&group).and_then(|slot| self.accepted.get(slot));
        slot.is_some_and(|slot| slot.nonce != nonce)
    }

    /// The groups of the accepted slots.
    pub(crate) fn groups(&self) -> Vec<Arc<LocalGroup>> {
        self.accepted.values().map(|slot| slot.group.clone()).collect()
    }

    /// How many slots are accepted.
    pub(crate) fn len(&self) -> usize {
        self.accepted.len()
    }

    /// Ends a slot: the peer knows, or is told now.
    pub(crate) fn remove(&mut self, slot: u32) {
        if let Some(removed) = self.accepted.remove(&slot) {
            self.by_group.remove(&removed.group.number);
        }
    }

    /// Ends the slot of a group. The peer is to be told. False if it has none.
    pub(crate) fn give_up(&mut self, group: u64) -> bool {
        let slot = self.remove_group(group);
        self.given_up.extend(slot);
        slot.is_some()
    }

    /// The slots that the peer is to be told of.
    pub(crate) fn take_given_up(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.given_up)
    }

    fn remove_group(&mut self, group: u64) -> Option<u32> {
        let slot = self.by_group.remove(&group)?;
        self.accepted.remove(&slot);
        Some(slot)
    }
}
