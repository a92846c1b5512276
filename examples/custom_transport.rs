//! A transport of one's own: here channels of the standard library, which carry encoded messages
//! between nodes of one process. A real one would carry the same bytes over whatever links its
//! machines. The suite at the end says whether it keeps the contract.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};

use dledger::NodeId;
use dledger::transport::{Inbox, Message, Spawner, Transport, TransportContext, conformance};

/// Messages that may wait for one node. More are dropped.
const QUEUE: usize = 256;

/// What travels: who sends it, and the encoded message.
type Parcel = (NodeId, Vec<u8>);

/// The sorting office that all nodes share: where each of them receives.
type Office = Arc<Mutex<Desks>>;
type Desks = HashMap<NodeId, SyncSender<Parcel>>;

struct ChannelTransport {
    office: Office,
    seat: Option<TransportContext>,
    stopped: Arc<AtomicBool>,
}

impl Transport for ChannelTransport {
    fn start(&mut self, seat: TransportContext) -> io::Result<()> {
        let (sender, receiver) = sync_channel(QUEUE);
        self.desks().insert(seat.node, sender);
        let (node, inbox, stopped) = (seat.node, seat.inbox.clone(), self.stopped.clone());
        seat.spawner.spawn(format!("post-{node}"), move || {
            deliver_all(node, &inbox, &receiver, &stopped)
        })?;
        self.seat = Some(seat);
        Ok(())
    }

    /// Never blocks: a full queue and a node that is not there both lose the message, and the
    /// sender hears of it.
    fn send(&mut self, messages: &mut Vec<Message>) {
        for message in messages.drain(..) {
            let Some(seat) = &self.seat else { continue };
            let sender = self.desks().get(&message.to()).cloned();
            let parcel = (seat.node, message.encode().concat());
            if sender.is_none_or(|sender| sender.try_send(parcel).is_err()) {
                seat.inbox.unreachable(message.to());
            }
        }
    }

    /// Gives up the place of this node. Its channel closes, and with that the thread that reads
    /// from it ends.
    fn stop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(seat) = self.seat.take() {
            self.desks().remove(&seat.node);
        }
    }
}

impl ChannelTransport {
    fn desks(&self) -> MutexGuard<'_, Desks> {
        self.office.lock().expect("nobody panics while looking through the desks")
    }
}

/// Hands over what arrives for `node`, until its transport is stopped. What cannot be read, or is
/// not from whom it says, is dropped.
fn deliver_all(node: NodeId, inbox: &Inbox, receiver: &Receiver<Parcel>, stopped: &AtomicBool) {
    for (from, bytes) in receiver {
        match Message::decode(bytes.into()) {
            _ if stopped.load(Ordering::Relaxed) => return,
            Ok(message) if message.from() == from && message.to() == node => {
                // If the node is too busy to take it, it is lost, as if a network had lost it.
                inbox.deliver(message);
            }
            Ok(message) => {
                eprintln!("node {from} sent a message in the name of another: {message:?}")
            }
            Err(error) => eprintln!("node {from} sent nonsense: {error}"),
        }
    }
}

fn main() {
    let spawner =
        Spawner::new(|name, work| std::thread::Builder::new().name(name).spawn(work).map(drop));
    conformance::run(&spawner, |nodes| {
        let office = Office::default();
        let addresses = (1..=nodes).map(|node| format!("desk {node}")).collect();
        conformance::Harness::new(addresses, move |_| {
            Box::new(ChannelTransport {
                office: office.clone(),
                seat: None,
                stopped: Arc::default(),
            })
        })
    });
    println!("conformance: ok");
}
