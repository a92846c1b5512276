//! A consumer that reads through a pin: no entry that it has yet to read is removed.

use std::sync::Arc;

use super::monitor::Monitor;
use super::rng::Rng;
use crate::cursor;
use crate::error::ReadError;
use crate::pins::Pin;
use crate::shared::NodeShared;

/// A consumer on one node: it pins where it reads, reads, and moves the pin.
pub(super) struct PinnedConsumer {
    rng: Rng,
    /// What pins may hold back. `None`: this node has no consumer.
    bytes_max: Option<u64>,
    pin: Option<Pin>,
    /// The log began anew, or was corrupt: that releases pins.
    began_anew: bool,
}

impl PinnedConsumer {
    pub(super) fn new(seed: u64, bytes_max: Option<u64>) -> PinnedConsumer {
        PinnedConsumer { rng: Rng::new(seed).fork(31), bytes_max, pin: None, began_anew: false }
    }

    pub(super) fn note_new_log(&mut self) {
        self.began_anew = true;
    }

    /// After a turn of the engine.
    pub(super) fn step(&mut self, node: usize, shared: &Arc<NodeShared>, monitor: &mut Monitor) {
        let Some(bytes_max) = self.bytes_max else { return };
        if monitor.models[node].is_corrupt {
            self.began_anew = true;
            return;
        }
        let first = shared.reader.base().point.next_index;
        let Some(pin) = &self.pin else {
            if self.rng.percent(5) {
                self.pin = shared.pins.pin(first, &*shared.reader).ok();
                self.began_anew = false;
                monitor.coverage.hit("pins");
            }
            return;
        };
        if pin.is_released() {
            monitor.coverage.hit("pins that were released");
            monitor.demand(self.began_anew || bytes_max < u64::MAX, || {
                format!("A14: node {}: a pin is released for no reason", node + 1)
            });
            self.pin = None;
            return;
        }
        let index = pin.index();
        monitor.demand(first <= index, || {
            format!("A14: node {}: pinned at {index}, and kept from {first} on", node + 1)
        });
        if self.rng.percent(30) {
            match cursor::get(shared, index) {
                Ok(Some(entry)) => {
                    monitor.check_entry(node, index, entry.term(), &entry);
                    monitor.coverage.hit("entries read through a pin");
                    pin.advance(index + 1);
                }
                Err(ReadError::Purged { .. }) => {
                    monitor.violated(format!("A14: node {}: {index} is pinned and gone", node + 1))
                }
                Ok(None) | Err(_) => {}
            }
        }
        if self.rng.percent(1) {
            self.pin = None;
        }
    }
}
