//! A custom transport: channels of the standard library carry encoded messages between nodes of one
//! process. A real one would carry the same bytes between machines. The suite at the end tests it
//! against the contract.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};

use dledger::NodeId;
use dledger::transport::{Inbox, Message, Spawner, Transport, TransportContext, conformance};

/// Messages that may wait for one node. More are dropped.
const QUEUE: usize = 256;

/// The sender, and the encoded message.
type Packet = (NodeId, Vec<u8>);

/// The network that all nodes share: the channel of each.
type Network = Arc<Mutex<Channels>>;
type Channels = HashMap<NodeId, SyncSender<Packet>>;

struct ChannelTransport {
    network: Network,
    context: Option<TransportContext>,
    stopped: Arc<AtomicBool>,
}

impl Transport for ChannelTransport {
    fn start(&mut self, context: TransportContext) -> io::Result<()> {
        let (sender, receiver) = sync_channel(QUEUE);
        self.channels().insert(context.node, sender);
        let (node, inbox, stopped) = (context.node, context.inbox.clone(), self.stopped.clone());
        context.spawner.spawn(format!("receive-{node}"), move || {
            deliver_all(node, &inbox, &receiver, &stopped)
        })?;
        self.context = Some(context);
        Ok(())
    }

    /// Never blocks: a message to a full queue or a stopped node is dropped, and reported.
    fn send(&mut self, messages: &mut Vec<Message>) {
        for message in messages.drain(..) {
            let Some(context) = &self.context else { continue };
            let sender = self.channels().get(&message.to()).cloned();
            let packet = (context.node, message.encode().concat());
            if sender.is_none_or(|sender| sender.try_send(packet).is_err()) {
                context.inbox.unreachable(message.to());
            }
        }
    }

    /// Removes the channel of this node. It closes, which ends the thread that reads from it.
    fn stop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(context) = self.context.take() {
            self.channels().remove(&context.node);
        }
    }
}

impl ChannelTransport {
    fn channels(&self) -> MutexGuard<'_, Channels> {
        self.network.lock().expect("no thread panics while it holds the lock")
    }
}

/// Delivers the messages for `node` until its transport is stopped. Drops what cannot be decoded or
/// has a false sender.
fn deliver_all(node: NodeId, inbox: &Inbox, receiver: &Receiver<Packet>, stopped: &AtomicBool) {
    for (from, bytes) in receiver {
        match Message::decode(bytes.into()) {
            _ if stopped.load(Ordering::Relaxed) => return,
            Ok(message) if message.from() == from && message.to() == node => {
                // A busy node drops it, as a lossy network would.
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
        let network = Network::default();
        let addresses = (1..=nodes).map(|node| format!("channel {node}")).collect();
        conformance::Harness::new(addresses, move |_| {
            Box::new(ChannelTransport {
                network: network.clone(),
                context: None,
                stopped: Arc::default(),
            })
        })
    });
    println!("conformance: ok");
}
