//! An open port: listens, connects to all peers, and takes groups in.

use std::io;
use std::sync::Arc;

use super::address::{check_address, is_reached_from_here_only};
use super::inbound::Inbound;
use super::listener::{AcceptWaker, Listener};
use super::local_group::LocalGroup;
use super::peer_sender::{PeerSender, PeerSenders};
use super::port::{Port, PortSettings};
use super::resolver::Lookup;
use crate::entry::NodeId;
use crate::log_prefix::log_prefix;
use crate::transport::hello::{GROUP_BYTES_MAX, MEMBERS_MAX};
use crate::transport::{DirectoryIdentity, Message, TransportContext};

/// See the [module](self).
pub(super) struct OpenPort {
    port: Arc<Port>,
    senders: Arc<PeerSenders>,
    accept_waker: AcceptWaker,
}

impl OpenPort {
    /// Listens on `address`, and begins to connect.
    pub(super) fn open(
        settings: &PortSettings,
        address: &str,
        lookup: &Lookup,
    ) -> io::Result<OpenPort> {
        let listener = listen(settings.node, address)?;
        let port = Arc::new(Port::new(settings));
        let senders = Arc::new(PeerSenders::new(settings, lookup));
        let accept_waker = listener.accept_waker()?;
        let open = OpenPort { port, senders, accept_waker };
        open.spawn_threads(listener).inspect_err(|_| open.close())?;
        Ok(open)
    }

    fn spawn_threads(&self, listener: Listener) -> io::Result<()> {
        let spawner = &self.port.spawner;
        for (at, sender) in self.senders.all().iter().enumerate() {
            let (port, senders) = (self.port.clone(), self.senders.clone());
            spawner.spawn(format!("to-{}", sender.peer), move || senders.all()[at].run(&port))?;
        }
        let inbound = Arc::new(Inbound::new(self.port.clone(), self.senders.clone()));
        spawner.spawn("accept", move || listener.run(&inbound))
    }

    pub(super) fn node(&self) -> NodeId {
        self.port.node
    }

    /// Takes a group in, and introduces it to its members.
    pub(super) fn join(self: &Arc<OpenPort>, context: &TransportContext) -> io::Result<Membership> {
        let others = || context.addresses.iter().filter(|(node, _)| *node != self.port.node);
        let strangers = others().find(|(node, _)| self.senders.to(*node).is_none());
        if context.node != self.port.node {
            let told =
                format!("this is a port of node {}, not of node {}", self.port.node, context.node);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, told));
        }
        if let Some((stranger, _)) = strangers {
            let told = format!("node {stranger} is no peer of this host: it has no address here");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, told));
        }
        if self.port.is_stopped() {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the port was closed"));
        }
        let group = self.port.join(context)?;
        others().filter_map(|(node, _)| self.senders.to(*node)).for_each(|to| to.join(&group));
        Ok(Membership { port: self.clone(), group, lost: Vec::new() })
    }

    /// Closes the port and its connections. Its threads end soon.
    pub(super) fn close(&self) {
        if !self.port.stop() {
            return;
        }
        self.accept_waker.wake();
        self.senders.all().iter().for_each(PeerSender::stop);
        self.port.close_connections();
    }
}

/// A group on a port.
pub(super) struct Membership {
    port: Arc<OpenPort>,
    group: Arc<LocalGroup>,
    /// The peers of dropped messages. Empty between two calls; kept for its capacity.
    lost: Vec<NodeId>,
}

impl Membership {
    pub(super) fn send(&mut self, messages: &mut Vec<Message>) {
        for message in messages.drain(..) {
            let to = message.to();
            if !self.port.send(&self.group, message) && !self.lost.contains(&to) {
                self.lost.push(to);
            }
        }
        for peer in self.lost.drain(..) {
            self.group.inbox.unreachable(peer);
        }
    }

    pub(super) fn introduce(&self, identity: DirectoryIdentity) {
        if self.group.registry.lock().introduce(identity) {
            self.introduce_again();
        }
    }

    pub(super) fn set_group_uid(&self, uid: u128) {
        if self.group.registry.lock().set_group_uid(uid) {
            self.introduce_again();
        }
    }

    /// Ends all slots. Peers judge the new hello, and this node theirs.
    fn introduce_again(&self) {
        self.port.senders.all().iter().for_each(|to| to.introduce_again(self.group.number));
        self.port.port.give_up_slots(&self.group);
    }

    /// The group leaves its port.
    pub(super) fn leave(&self) {
        self.port.port.leave(&self.group);
        self.port.senders.all().iter().for_each(|to| to.leave(&self.group));
    }

    pub(super) fn port(&self) -> &OpenPort {
        &self.port
    }
}

impl OpenPort {
    /// Queues a message. False if it was dropped because the queue of its peer is full.
    fn send(&self, group: &LocalGroup, message: Message) -> bool {
        let (to, len) = (message.to(), message.encoded_len());
        let Some(sender) = self.senders.to(to).filter(|_| message.from() == self.port.node) else {
            return true;
        };
        if len <= group.message_bytes_max.min(self.port.message_bytes_max) {
            return sender.push(group.number, message, len);
        }
        self.port.log_oversize(len, to);
        true
    }
}

fn listen(node: NodeId, address: &str) -> io::Result<Listener> {
    let listener = Listener::bind(address).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("node {node} could not listen on {address:?}: {error}"),
        )
    })?;
    if listener.address().is_ok_and(|listens| is_reached_from_here_only(address, listens)) {
        log::warn!(
            "{}listens on {address:?}, which stands here for an address that only this machine \
             reaches: peers elsewhere cannot connect. Correct what the name stands for, or listen \
             elsewhere (TcpTransport::listening_on)",
            log_prefix()
        );
    }
    Ok(listener)
}

/// Checks what a group says of itself.
pub(super) fn check_group(context: &TransportContext) -> io::Result<()> {
    if context.group.len() > GROUP_BYTES_MAX {
        return invalid("the name of a group has at most 63 bytes".to_owned());
    }
    context.check_advertised()?;
    if context.addresses.len() > MEMBERS_MAX {
        return invalid("a group has at most 63 members".to_owned());
    }
    Ok(())
}

/// Checks the addresses of the peers of `node`.
pub(super) fn check_peers(node: NodeId, peers: &[(NodeId, String)]) -> io::Result<()> {
    for (peer, address) in peers.iter().filter(|(peer, _)| *peer != node) {
        if let Err(why) = check_address(address, false) {
            return invalid(format!("the address of node {peer}: {why}"));
        }
    }
    Ok(())
}

fn invalid(why: String) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::InvalidInput, why))
}
