//! A rejection as bytes, from the node that refuses to the one that is refused.

use super::{HandshakeRejection, MEMBERS_MAX, PROTOCOL, PeerRegistry, Rejection, Side, take};
use crate::entry::NodeId;

impl PeerRegistry {
    /// A rejection as bytes: u8 reason, u32 protocol, u128 group uid, u64 for each member,
    /// little-endian; for its first position, that instead of the members. In every version the
    /// reason comes first; the rest is optional.
    pub(crate) fn refusal(&self, reason: HandshakeRejection) -> Vec<u8> {
        let mut bytes = vec![reason as u8];
        bytes.extend_from_slice(&PROTOCOL.to_le_bytes());
        bytes.extend_from_slice(&self.me.group_uid.to_le_bytes());
        if reason == HandshakeRejection::FirstPosition {
            bytes.extend_from_slice(&self.me.first_position.to_le_bytes());
            return bytes;
        }
        self.me.members.iter().for_each(|id| bytes.extend_from_slice(&id.get().to_le_bytes()));
        bytes
    }

    /// The rejection, by a peer, of this node.
    pub(crate) fn refused_by(&self, refusal: &[u8]) -> Rejection {
        PeerRegistry::read_refusal(refusal, &self.own_side())
    }

    pub(super) fn read_refusal(refusal: &[u8], refused: &Side<'_>) -> Rejection {
        let (code, mut rest) =
            refusal.split_first().map_or((0, refusal), |(code, rest)| (*code, rest));
        let reason = HandshakeRejection::from_code(code).unwrap_or(HandshakeRejection::Protocol);
        let protocol = take(&mut rest).map_or(0, u32::from_le_bytes);
        let group_uid = take(&mut rest).map_or(0, u128::from_le_bytes);
        let mut number = || Some(u64::from_le_bytes(take(&mut rest)?));
        if reason == HandshakeRejection::FirstPosition {
            let first_position = number().unwrap_or_default();
            let by = Side { protocol, group_uid, members: &[], first_position };
            return Rejection::new(reason, refused, &by);
        }
        let member = || number().map(NodeId::from);
        // No group has more. A peer may send a list of any length, and the status would show it.
        let members: Vec<NodeId> = std::iter::from_fn(member).take(MEMBERS_MAX).collect();
        let by = Side { protocol, group_uid, members: &members, first_position: 0 };
        Rejection::new(reason, refused, &by)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Hello, Way};
    use super::*;
    use crate::transport::{Inbox, Spawner, TransportContext};

    fn context(node: u64, first_position: u64) -> TransportContext {
        let addresses = (1..=2).map(|id| (NodeId::from(id), String::new())).collect();
        let no_threads = Spawner::new(|_, _| Err(std::io::ErrorKind::Unsupported.into()));
        let (inbox, node) = (Inbox::new(|_| true), NodeId::from(node));
        let context = TransportContext::new(node, "orders", addresses, inbox, no_threads);
        TransportContext { first_position, cluster: first_position, ..context }
    }

    #[test]
    fn a_first_position_comes_back_as_it_was_and_0_is_not_sent() {
        let hello = |position| Hello::new(&context(2, position), 1.into(), 77);
        for position in [0, 1, 1 << 60] {
            let bytes = hello(position).encode();
            assert_eq!(Hello::decode(&bytes), Ok(hello(position)));
            assert_eq!(bytes.len() - hello(0).encode().len(), if position == 0 { 0 } else { 8 });
            for wrong in [&bytes[..bytes.len() - 1], &[&bytes[..], b"x"].concat()] {
                assert_eq!(Hello::decode(wrong), Err(HandshakeRejection::Protocol));
            }
        }
        let mut zero = hello(1).encode();
        let end = zero.len() - 8;
        zero[end..].fill(0);
        assert_eq!(Hello::decode(&zero), Err(HandshakeRejection::Protocol));
    }

    #[test]
    fn a_node_that_began_at_another_position_is_refused_by_name_on_both_sides() {
        let mut here = PeerRegistry::new(&context(1, 5), 1);
        let there = PeerRegistry::new(&context(2, 6), 2);
        let hello = there.hello_to(1.into());
        let reason = here.admit(&hello, Way::In).unwrap_err();
        assert_eq!(reason, HandshakeRejection::FirstPosition);
        let text = "its group began at another position (6 instead of 5): give the same \
                    `first_position` to the builder of every node";
        assert_eq!(here.rejection(reason, &hello.encode()).to_string(), text);
        assert_eq!(there.refused_by(&here.refusal(reason)).to_string(), text);
        assert_eq!(here.admit(&Hello { first_position: 5, cluster: 5, ..hello }, Way::In), Ok(()));
    }
}
