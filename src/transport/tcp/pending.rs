//! Inbound connections before the handshake. Anyone can connect, so their number, their lifetime
//! and the bytes read from each are bounded, here and in [`read_frame`](super::stream::read_frame):
//!
//! | resource | bound |
//! |---|---|
//! | pending connections | 64, and 16 per address. A new one evicts the oldest |
//! | evicted, thread not ended | 64. Beyond, new ones wait for the end of such a thread: soon |
//! | time for the hello | 5 s for all of it, also if it comes byte by byte |
//! | bytes per connection | 1 KiB of buffer. The header rejects a frame of more than 1000 bytes |
//!
//! The oldest is evicted, not the newest: a peer sends its hello within a round trip, so silent
//! connections make room for it. IPv6 addresses count by their first 64 bits: one owner has all of
//! such a block.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::connection::InboundConnection;
use crate::primitives::{Condvar, Mutex};

/// Pending connections.
pub(super) const PENDING_MAX: usize = 64;
/// Pending connections from one address.
pub(super) const PENDING_PER_ADDRESS_MAX: usize = 16;
/// Evicted connections whose threads have not ended.
const CLOSING_MAX: usize = 64;

/// See the [module](self).
#[derive(Default)]
pub(super) struct PendingConnections {
    pending: Mutex<Pending>,
    /// Notified when a connection leaves.
    left: Condvar,
}

#[derive(Default)]
struct Pending {
    /// The oldest first.
    waiting: VecDeque<(IpAddr, Arc<InboundConnection>)>,
    /// How many were evicted and have not left yet.
    closing: usize,
}

impl PendingConnections {
    /// Adds a connection; evicts another one if there are too many. Blocks while [`CLOSING_MAX`]
    /// evicted ones have not left: the new one may be a peer, so it is not rejected. They end soon.
    pub(super) fn enter(&self, connection: &Arc<InboundConnection>, address: SocketAddr) {
        let from = address_key(address.ip());
        let mut pending = self.pending.lock();
        while let Some(place) = pending.to_evict(from) {
            if pending.closing < CLOSING_MAX {
                pending.closing += 1;
                if let Some((_, oldest)) = pending.waiting.remove(place) {
                    oldest.close();
                }
                break;
            }
            self.left.wait(&mut pending);
        }
        pending.waiting.push_back((from, connection.clone()));
    }

    /// Removes a connection that was admitted or is closed.
    pub(super) fn leave(&self, connection: &Arc<InboundConnection>) {
        let mut pending = self.pending.lock();
        match pending.waiting.iter().position(|(_, other)| Arc::ptr_eq(other, connection)) {
            Some(place) => drop(pending.waiting.remove(place)),
            None => pending.closing -= 1,
        }
        self.left.notify_all();
    }
}

impl Pending {
    /// The place of the connection that a new one from this address evicts, if there are too many.
    fn to_evict(&self, from: IpAddr) -> Option<usize> {
        let is_same = |(other, _): &(IpAddr, Arc<InboundConnection>)| *other == from;
        if self.waiting.iter().filter(|other| is_same(other)).count() >= PENDING_PER_ADDRESS_MAX {
            return self.waiting.iter().position(is_same);
        }
        Some(0).filter(|_| self.waiting.len() >= PENDING_MAX)
    }
}

/// The part of an address that its owner cannot change at will.
fn address_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn connections(count: usize) -> Vec<Arc<InboundConnection>> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (0..count)
            .map(|_| Arc::new(InboundConnection::new(TcpStream::connect(address).unwrap())))
            .collect()
    }

    fn at(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), 1)
    }

    /// The places of those that were evicted.
    fn closed(connections: &[Arc<InboundConnection>]) -> Vec<usize> {
        (0..connections.len()).filter(|&place| connections[place].is_closed()).collect()
    }

    #[test]
    fn a_new_connection_evicts_the_oldest_if_there_are_too_many() {
        let (pending, connections) = (PendingConnections::default(), connections(PENDING_MAX + 3));
        for (place, connection) in connections.iter().enumerate() {
            pending.enter(connection, at(&format!("10.0.0.{}", place / 4)));
        }
        assert_eq!(closed(&connections), [0, 1, 2]);
        // An evicted one counts until its thread has ended; an admitted one leaves room at once.
        pending.leave(&connections[0]);
        pending.leave(&connections[3]);
        let counted = |pending: &Pending| (pending.waiting.len(), pending.closing);
        assert_eq!(counted(&pending.pending.lock()), (PENDING_MAX - 1, 2));
        pending.enter(&connections[0], at("10.0.0.99"));
        assert_eq!(closed(&connections), [0, 1, 2], "there was room");
    }

    #[test]
    fn one_address_has_a_part_of_the_places_and_no_more() {
        let (pending, connections) =
            (PendingConnections::default(), connections(PENDING_PER_ADDRESS_MAX + 4));
        pending.enter(&connections[0], at("10.0.0.2"));
        for connection in &connections[1..] {
            pending.enter(connection, at("10.0.0.1"));
        }
        assert_eq!(
            closed(&connections),
            [1, 2, 3],
            "the oldest of that address, and none of another"
        );
    }

    /// They were once rejected, and on a busy machine a peer was rejected with them.
    #[test]
    fn a_connection_waits_while_too_many_evicted_ones_have_not_ended() {
        let (pending, connections) =
            (PendingConnections::default(), connections(PENDING_PER_ADDRESS_MAX + CLOSING_MAX + 1));
        let (last, others) = connections.split_last().unwrap();
        others.iter().for_each(|connection| pending.enter(connection, at("10.0.0.1")));
        assert_eq!(closed(&connections).len(), CLOSING_MAX);
        std::thread::scope(|scope| {
            let entering = scope.spawn(|| pending.enter(last, at("10.0.0.1")));
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert_eq!((closed(&connections).len(), entering.is_finished()), (CLOSING_MAX, false));
            pending.leave(&connections[0]);
            entering.join().unwrap();
        });
        assert_eq!(closed(&connections).len(), CLOSING_MAX + 1);
        assert_eq!(pending.pending.lock().waiting.len(), PENDING_PER_ADDRESS_MAX);
    }

    #[test]
    fn an_address_is_what_its_owner_cannot_change_at_will() {
        let same = |one: &str, other: &str| {
            address_key(one.parse().unwrap()) == address_key(other.parse().unwrap())
        };
        assert!(same("2001:db8::1", "2001:db8::ffff:1") && !same("2001:db8::1", "2001:db8:0:1::1"));
        assert!(same("::ffff:10.0.0.1", "10.0.0.1") && !same("10.0.0.1", "10.0.0.2"));
    }
}
