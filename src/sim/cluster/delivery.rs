//! Delivery of packets, with the handshake of the connections that they travel on.

use super::Cluster;
use crate::sim::event::{Decoded, Event, Packet};
use crate::sim::node::Node;
use crate::transport::hello::{HandshakeRejection, Hello};

impl Cluster {
    pub(super) fn deliver(&mut self, packet: Box<Packet>) {
        let (from, to) = (packet.from, packet.to);
        if self.nodes[to].paused_until > self.queue.now {
            let until = self.nodes[to].paused_until;
            return self.queue.put(until, Event::Packet(packet));
        }
        self.network.arrived(&packet);
        let cut = self.network.is_cut(from, to);
        if !cut && !packet.is_forged && self.is_from_or_to_outdated(&packet) {
            return;
        }
        let mut monitor = self.monitor.lock();
        let Some(process) = self.nodes[to].process.as_mut().filter(|_| !cut) else { return };
        if packet.is_forged && process.connected[from].is_none() {
            return; // a process that has met no peer yet cannot detect a clone
        }
        // A lost directory opens no connection: a peer that has forgotten it would accept it.
        let is_lost = monitor.lost_directories.contains(&packet.hello.identity.directory);
        if is_lost && !packet.is_forged && !process.is_connected(from, &packet.hello) {
            return;
        }
        match process.connect(if packet.is_forged { usize::MAX } else { from }, &packet.hello) {
            Err(rejection) => {
                return monitor.coverage.hit(&format!("handshakes rejected: {rejection}"));
            }
            Ok(()) if packet.is_forged => {
                return monitor.violated(format!(
                    "node {} accepts a forged message: {:?}",
                    to + 1,
                    packet.hello
                ));
            }
            Ok(()) if process.is_stale(from, &packet.hello, &monitor.lost_directories) => {
                return monitor.violated(format!(
                    "node {} accepts a message of an earlier process of node {}: {:?}",
                    to + 1,
                    from + 1,
                    packet.hello
                ));
            }
            Ok(()) => {}
        }
        match packet.decode() {
            Decoded::Detected => monitor.coverage.hit("corrupt frames detected"),
            Decoded::Undetected => monitor.violated(format!(
                "node {} accepts a corrupt frame of node {}",
                to + 1,
                from + 1
            )),
            Decoded::Message(message) => {
                monitor.note(&[6, from as u64, to as u64, message.term()], || {
                    format!("receive {message:?}")
                });
                process.inbox.deliver(message);
                drop(monitor);
                self.wake_engine(to);
            }
        }
    }

    /// Whether a packet is from or to a node with an outdated copy. Such a packet is not delivered:
    /// the other end must reject the connection, and give that reason.
    fn is_from_or_to_outdated(&mut self, packet: &Packet) -> bool {
        let Some(outdated) =
            [packet.from, packet.to].into_iter().find(|node| self.nodes[*node].is_outdated())
        else {
            return false;
        };
        let other = packet.from + packet.to - outdated;
        let (Some(process), Some(peer)) =
            (&self.nodes[outdated].process, &self.nodes[other].process)
        else {
            return outdated == packet.to;
        };
        let hello = process.hello_to(other);
        // It may have learned the id of its group since.
        let as_sent = Hello { group_uid: packet.hello.group_uid, ..hello.clone() };
        if outdated == packet.from && as_sent != packet.hello {
            return false; // an earlier process has sent it
        }
        let decision = peer.check_hello(&hello);
        self.monitor().demand(decision == Err(HandshakeRejection::OutdatedDirectory), || {
            format!(
                "node {} has met a later incarnation of this, and decides {decision:?}: {hello:?}",
                other + 1
            )
        });
        let is_cut = self.network.is_cut(packet.to, packet.from);
        if let Some(process) = self.nodes[outdated].process.as_mut().filter(|_| !is_cut) {
            process.report_outdated(other);
            self.wake_engine(outdated);
        }
        true
    }

    /// Whether every other node has met a later incarnation of this log, and would report it. If
    /// one of them may have forgotten that, the group promises nothing.
    pub(super) fn all_know_later(&self, node: usize) -> bool {
        let Some(process) = &self.nodes[node].process else { return false };
        let knows = |other: &Node| {
            other
                .process
                .as_ref()
                .is_some_and(|peer| peer.knows(node, &process.hello_to(other.number)))
        };
        self.nodes.iter().filter(|other| other.number != node).all(knows)
    }
}
