//! Where connections wait that have not said who they are: few, and none for long.
//!
//! Anybody can connect; nobody is known before the hello. So what a stranger can take of this node
//! is bounded here and in [`hear`](super::hear):
//!
//! | what | bound |
//! |---|---|
//! | connections in the lobby | 64, of them from one address 16. Who comes when it is full takes the place of the one that has waited longest |
//! | connections that were shown out, and whose threads have not ended | 64. Beyond, nobody is let in until one of them has: that takes no longer than the threads need to run |
//! | time to say hello | 5 s from the beginning to the end of it, however it drips |
//! | bytes read from each | 1 KiB of buffer. A frame of more than 1000 bytes is refused by its header |
//!
//! Who has waited longest leaves, and not who comes last: a peer says hello within a round trip, so
//! a crowd that says nothing makes way for it. An address of IPv6 counts by its first 64 bits, for
//! whoever has one has all of those.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use super::listener::InboundConnection;
use crate::primitives::{Condvar, Mutex};

/// Connections that may wait.
pub(super) const PENDING_MAX: usize = 64;
/// Those of them that come from one address.
pub(super) const LOBBY_PER_ADDRESS_MAX: usize = 16;
/// Connections that may be on their way out, their threads not ended yet.
const CLOSING_MAX: usize = 64;

/// See the [module](self).
#[derive(Default)]
pub(super) struct PendingConnections {
    crowd: Mutex<Pending>,
    /// Somebody has left.
    left: Condvar,
}

#[derive(Default)]
struct Pending {
    /// Who waits, in the order in which they came.
    waiting: VecDeque<(IpAddr, Arc<InboundConnection>)>,
    /// How many were shown out and are not gone yet.
    leaving: usize,
}

impl PendingConnections {
    /// Lets a connection wait here; shows another one out if there are too many. Blocks while even
    /// those that were shown out are too many: a newcomer that is turned away for a crowd may be a
    /// peer. They are on their way, so that ends soon.
    pub(super) fn enter(&self, connection: &Arc<InboundConnection>, address: SocketAddr) {
        let from = address_key(address.ip());
        let mut crowd = self.crowd.lock();
        while let Some(place) = crowd.to_evict(from) {
            if crowd.leaving < CLOSING_MAX {
                crowd.leaving += 1;
                if let Some((_, oldest)) = crowd.waiting.remove(place) {
                    oldest.close();
                }
                break;
            }
            self.left.wait(&mut crowd);
        }
        crowd.waiting.push_back((from, connection.clone()));
    }

    /// A connection waits no more: it was admitted, or is gone.
    pub(super) fn leave(&self, connection: &Arc<InboundConnection>) {
        let mut crowd = self.crowd.lock();
        match crowd.waiting.iter().position(|(_, other)| Arc::ptr_eq(other, connection)) {
            Some(place) => drop(crowd.waiting.remove(place)),
            None => crowd.leaving -= 1,
        }
        self.left.notify_all();
    }
}

impl Pending {
    /// Who has to make way for one that comes from this address, if anybody has.
    fn to_evict(&self, from: IpAddr) -> Option<usize> {
        let is_neighbour = |(other, _): &(IpAddr, Arc<InboundConnection>)| *other == from;
        if self.waiting.iter().filter(|other| is_neighbour(other)).count() >= LOBBY_PER_ADDRESS_MAX
        {
            return self.waiting.iter().position(is_neighbour);
        }
        Some(0).filter(|_| self.waiting.len() >= PENDING_MAX)
    }
}

/// What counts as one address.
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

    /// Which of them were shown out.
    fn closed(connections: &[Arc<InboundConnection>]) -> Vec<usize> {
        (0..connections.len()).filter(|&place| connections[place].is_closed()).collect()
    }

    #[test]
    fn who_comes_to_a_full_lobby_takes_the_place_of_who_has_waited_longest() {
        let (pending, connections) = (PendingConnections::default(), connections(PENDING_MAX + 3));
        for (place, connection) in connections.iter().enumerate() {
            pending.enter(connection, at(&format!("10.0.0.{}", place / 4)));
        }
        assert_eq!(closed(&connections), [0, 1, 2]);
        // One that was shown out leaves its mark until its thread has ended; one that was admitted
        // leaves room.
        pending.leave(&connections[0]);
        pending.leave(&connections[3]);
        let counted = |crowd: &Pending| (crowd.waiting.len(), crowd.leaving);
        assert_eq!(counted(&pending.crowd.lock()), (PENDING_MAX - 1, 2));
        pending.enter(&connections[0], at("10.0.0.99"));
        assert_eq!(closed(&connections), [0, 1, 2], "there was room");
    }

    #[test]
    fn one_address_has_a_part_of_the_lobby_and_no_more() {
        let (pending, connections) =
            (PendingConnections::default(), connections(LOBBY_PER_ADDRESS_MAX + 4));
        pending.enter(&connections[0], at("10.0.0.2"));
        for connection in &connections[1..] {
            pending.enter(connection, at("10.0.0.1"));
        }
        assert_eq!(
            closed(&connections),
            [1, 2, 3],
            "the oldest of that address, and nobody of another"
        );
    }

    /// They were once turned away, and a busy machine turned a peer away with them.
    #[test]
    fn who_comes_when_too_many_are_on_their_way_out_waits_until_one_is_gone() {
        let (pending, connections) =
            (PendingConnections::default(), connections(LOBBY_PER_ADDRESS_MAX + CLOSING_MAX + 1));
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
        assert_eq!(pending.crowd.lock().waiting.len(), LOBBY_PER_ADDRESS_MAX);
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
