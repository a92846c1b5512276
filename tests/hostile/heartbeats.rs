//! Measures the delay of heartbeats: a transport that inspects the messages that it delivers.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dledger::transport::{
    Inbox, Message, TcpTransport, Transport, TransportContext, TransportEvent,
};

/// The longest pause between two heartbeats of the same leader so far, and when the last one came.
#[derive(Clone, Default)]
pub(crate) struct Watch(Arc<Mutex<(Duration, Option<Instant>)>>);

impl Watch {
    /// Resets the measurement.
    pub(crate) fn begin(&self) {
        *self.0.lock().expect("no thread panics with it") = Default::default();
    }

    pub(crate) fn longest_pause(&self) -> Duration {
        self.0.lock().expect("no thread panics with it").0
    }

    fn saw(&self, message: &Message) {
        if format!("{message:?}").contains(" heartbeat t") {
            let (mut seen, now) =
                (self.0.lock().expect("no thread panics with it"), Instant::now());
            let pause = seen.1.map_or(Duration::ZERO, |last| now - last);
            *seen = (seen.0.max(pause), Some(now));
        }
    }
}

/// TCP, watched.
pub(crate) struct Watched {
    pub(crate) tcp: TcpTransport,
    pub(crate) watch: Watch,
}

impl Transport for Watched {
    fn start(&mut self, mut context: TransportContext) -> io::Result<()> {
        let (inbox, watch) = (context.inbox.clone(), self.watch.clone());
        context.inbox = Inbox::new(move |arrival| match arrival {
            TransportEvent::Message(message) => {
                watch.saw(&message);
                inbox.deliver(message)
            }
            TransportEvent::Unreachable(peer) => {
                inbox.unreachable(peer);
                true
            }
            TransportEvent::PeerIdentified { peer, directory } => {
                inbox.peer_identified(peer, directory);
                true
            }
            _ => true,
        });
        self.tcp.start(context)
    }

    fn send(&mut self, messages: &mut Vec<Message>) {
        self.tcp.send(messages);
    }

    fn set_group_uid(&mut self, uid: u128) {
        self.tcp.set_group_uid(uid);
    }

    fn stop(&mut self) {
        self.tcp.stop();
    }
}
