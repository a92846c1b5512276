//! A network in memory that can lose what is large: entries get lost, and what Raft says about them
//! gets through.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dledger::transport::{MemoryTransport, Message, Transport, TransportContext};

/// Messages of this many bytes get lost. What carries no payload is far smaller.
pub(crate) const LARGE: usize = 1000;

pub(crate) struct LossyTransport {
    pub(crate) inner: MemoryTransport,
    pub(crate) loses: Arc<AtomicBool>,
}

impl Transport for LossyTransport {
    fn start(&mut self, context: TransportContext) -> io::Result<()> {
        self.inner.start(context)
    }

    fn send(&mut self, messages: &mut Vec<Message>) {
        if self.loses.load(Ordering::Relaxed) {
            messages.retain(|message| message.encoded_len() < LARGE);
        }
        self.inner.send(messages);
    }

    fn set_group_uid(&mut self, uid: u128) {
        self.inner.set_group_uid(uid);
    }

    fn stop(&mut self) {
        self.inner.stop();
    }
}
