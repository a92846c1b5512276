//! The handshake of a connection, and what its two ends say of a slot on it.
//!
//! A connection belongs to two processes. Groups have slots on it: whoever dialled introduces a
//! group with a number of its choice, and never uses that number again on this connection.
//!
//! ```text
//! dialler                                        acceptor
//! hello (protocol, from, to, process)      ->
//!                                          <-    hello, or a refusal
//! introduction (slot, hello of the group)  ->
//!                                          <-    acceptance (slot, its hello of the group)
//!                                                or decline (slot, reason)
//! messages, pieces, beats (slot, ..)       ->
//! withdrawal (slot, perhaps a reason)      <->
//! ```
//!
//! Messages go to the acceptor only. A refusal between two nodes concerns one group, so it is that
//! of its slot: the connection and its other slots stay. An acceptor may also decline a slot that
//! it has accepted. A dialler answers that, and a withdrawal, with a withdrawal of its own: it
//! sends nothing more for that slot, and does not end a message that it has sent in part.

use super::{HandshakeRejection, Hello, PROTOCOL, PeerRegistry, Rejection, Side, take};
use crate::entry::NodeId;

/// The first frame of each side of a connection: two processes, named by the ids of their nodes.
///
/// On the wire: u32 protocol, u64 zero, u64 from, u64 to, u64 process; little-endian. In every
/// version the first 28 bytes are the protocol, a number, the sender and the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionHello {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    /// Random, chosen when the process began to listen. Tells the processes of a node apart.
    pub(crate) process: u64,
}

impl ConnectionHello {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = PROTOCOL.to_le_bytes().to_vec();
        for number in [0, self.from.get(), self.to.get(), self.process] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// Decodes a hello. Malformed bytes count as another version of the protocol.
    pub(crate) fn decode(bytes: &[u8]) -> Result<ConnectionHello, HandshakeRejection> {
        ConnectionHello::fields(bytes).ok_or(HandshakeRejection::Protocol)
    }

    fn fields(mut bytes: &[u8]) -> Option<ConnectionHello> {
        let protocol = u32::from_le_bytes(take(&mut bytes)?);
        let mut number = || Some(u64::from_le_bytes(take(&mut bytes)?));
        let [zero, from, to, process] = [number()?, number()?, number()?, number()?];
        let is_sound = protocol == PROTOCOL && zero == 0 && bytes.is_empty();
        is_sound.then_some(ConnectionHello { from: from.into(), to: to.into(), process })
    }
}

/// The slot at the front of a content, and what follows it.
pub(crate) fn split(content: &[u8]) -> Option<(u32, &[u8])> {
    let (slot, rest) = content.split_first_chunk()?;
    Some((u32::from_le_bytes(*slot), rest))
}

/// The content of an introduction or an acceptance.
pub(crate) fn with_hello(slot: u32, hello: &Hello) -> Vec<u8> {
    with_bytes(slot, &hello.encode())
}

/// The content of a decline or a withdrawal. A withdrawal without a reason has an empty refusal.
pub(crate) fn with_bytes(slot: u32, bytes: &[u8]) -> Vec<u8> {
    [&slot.to_le_bytes()[..], bytes].concat()
}

impl Rejection {
    /// The rejection, by this process, of the one that sent `hello`.
    pub(crate) fn of_connection(reason: HandshakeRejection, hello: &[u8]) -> Rejection {
        let protocol = super::claim(hello).map_or(0, |(protocol, _)| protocol);
        let (refused, by) =
            (Side { protocol, group_uid: 0, members: &[] }, Side::of_this_version());
        Rejection::new(reason, &refused, &by)
    }

    /// The rejection, by a peer, of this process: it can be of another node or of another version.
    /// All other reasons are those of a group, which this says nothing of.
    pub(crate) fn by_peer(refusal: &[u8]) -> Rejection {
        let known = HandshakeRejection::WrongNode as u8;
        let reason = refusal.first().copied().filter(|reason| *reason == known);
        let reason = reason.unwrap_or(HandshakeRejection::Protocol as u8);
        let rest = refusal.get(1..5).unwrap_or_default();
        PeerRegistry::read_refusal(&[&[reason], rest].concat(), &Side::of_this_version())
    }

    /// As bytes: see [`PeerRegistry::refusal`]. Names no members.
    pub(crate) fn bytes_of(reason: HandshakeRejection) -> Vec<u8> {
        [&[reason as u8][..], &PROTOCOL.to_le_bytes()].concat()
    }
}

impl Side<'static> {
    fn of_this_version() -> Side<'static> {
        Side { protocol: PROTOCOL, group_uid: 0, members: &[] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> ConnectionHello {
        ConnectionHello { from: 2.into(), to: 1.into(), process: 77 }
    }

    #[test]
    fn a_hello_comes_back_as_it_was_and_nothing_shorter_or_longer_does() {
        let bytes = hello().encode();
        assert_eq!(ConnectionHello::decode(&bytes), Ok(hello()));
        for len in 0..bytes.len() {
            assert!(ConnectionHello::decode(&bytes[..len]).is_err(), "{len} bytes");
        }
        assert!(ConnectionHello::decode(&[&bytes[..], b"x"].concat()).is_err());
        assert!(ConnectionHello::decode(&[&[2], &bytes[1..]].concat()).is_err());
    }

    /// The hello of version 2 was that of its group.
    #[test]
    fn versions_refuse_each_other_by_name() {
        assert_eq!(super::super::claim(&hello().encode()), Some((3, NodeId::from(2))));
        let old = [&2_u32.to_le_bytes()[..], &[7; 60]].concat();
        assert_eq!(ConnectionHello::decode(&old), Err(HandshakeRejection::Protocol));
        let why = Rejection::of_connection(HandshakeRejection::Protocol, &old).to_string();
        assert!(why.contains("protocol (2 instead of 3): bring"), "{why}");
        let refusal = [&[HandshakeRejection::Protocol as u8][..], &2_u32.to_le_bytes()].concat();
        let why = Rejection::by_peer(&refusal).to_string();
        assert!(why.contains("protocol (3 instead of 2): bring"), "{why}");
    }

    /// A group would give its directory up for some of them.
    #[test]
    fn a_process_is_refused_for_no_reason_of_a_group() {
        for reason in HandshakeRejection::ALL {
            let heard = Rejection::by_peer(&Rejection::bytes_of(reason)).reason;
            let own = [HandshakeRejection::Protocol, HandshakeRejection::WrongNode];
            assert_eq!(heard, if own.contains(&reason) { reason } else { own[0] });
        }
        assert_eq!(Rejection::by_peer(&[]).reason, HandshakeRejection::Protocol);
    }

    #[test]
    fn what_is_said_of_a_slot_begins_with_it() {
        let refusal = Rejection::bytes_of(HandshakeRejection::NoSuchGroup);
        let content = with_bytes(5, &refusal);
        assert_eq!(split(&content), Some((5, &refusal[..])));
        assert_eq!(split(&with_bytes(6, &[])), Some((6, &[][..])));
        assert_eq!(split(&content[..3]), None);
    }
}
