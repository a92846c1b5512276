//! A rejection as bytes, from the node that refuses to the one that is refused.

use super::{HandshakeRejection, MEMBERS_MAX, PROTOCOL, PeerRegistry, Rejection, Side, take};
use crate::entry::NodeId;

impl PeerRegistry {
    /// A rejection as bytes: u8 reason, u32 protocol, u128 group uid, u64 for each member,
    /// little-endian; for its first position, that instead of the members. In every version the reason comes first; the
    /// rest is optional.
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
