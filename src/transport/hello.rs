//! The handshake of a group: the hello of each side, the checks on it, and the reasons of a
//! rejection.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod group_uid;
pub(crate) mod slots;

use std::collections::HashMap;
use std::sync::Arc;

use super::{RemovedGroups, TransportContext};
use crate::entry::NodeId;
use crate::role::{ADVERTISED_BYTES_MAX, check_advertised};
use crate::storage::DirectoryIdentity;

/// The version of all that follows a hello.
const PROTOCOL: u32 = 3;
/// The longest name of a group, in bytes.
pub(crate) const GROUP_BYTES_MAX: usize = 63;
/// The most members that a hello names.
pub(crate) const MEMBERS_MAX: usize = 63;
/// A flag: the log of the sender is incomplete, so it may come from another data directory.
const INCOMPLETE: u8 = 1;
/// The flags that this version knows.
const FLAGS: u8 = INCOMPLETE;
/// Bytes before the name of the group.
const FIXED_BYTES: usize = 80;

/// The longest valid hello.
pub(crate) const BYTES_MAX: usize =
    FIXED_BYTES + GROUP_BYTES_MAX + 8 * MEMBERS_MAX + ADVERTISED_BYTES_MAX;

/// What a node says of itself for a group: sender, receiver, group, and its data directory.
///
/// On the wire: u32 protocol, u64 cluster, u64 from, u64 to, u128 directory, u64 incarnation, u64
/// nonce, u128 group uid, u8 flags, u8 length of the group's name, u8 count of members, u8 length
/// of the advertised text, the name, u64 for each member, ascending, the advertised text;
/// little-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) cluster: u64,
    pub(crate) group: String,
    /// All members in the configuration of the sender, itself included, ascending.
    pub(crate) members: Arc<[NodeId]>,
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) identity: DirectoryIdentity,
    /// Random, chosen when the transport started. Tells two processes on copies of one directory
    /// apart.
    pub(crate) nonce: u64,
    /// The unique id of the group. 0: the sender does not know it yet.
    pub(crate) group_uid: u128,
    /// The advertised text of its host: at most 255 bytes, without control characters.
    pub(crate) advertised: Arc<str>,
}

/// The incarnation of a directory and the nonce of a process: identifies a process of a node.
pub(crate) type ProcessId = (u64, u64);

/// Why a peer is rejected. Sent to it, so that both sides can report it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub(crate) enum HandshakeRejection {
    #[error(
        "it speaks another version of the protocol: bring all nodes to versions that understand \
         each other"
    )]
    Protocol = 1,
    #[error("it belongs to another cluster: one of the two addresses is wrong")]
    Cluster = 2,
    #[error("it belongs to another group: one of the two addresses is wrong")]
    Group = 3,
    #[error("it looked for another node here: the address that it has for that node is wrong")]
    WrongNode = 4,
    #[error("it is not a member of the group: name it in the builder of every node")]
    NotAMember = 5,
    #[error(
        "it speaks from another data directory than before, so it may have forgotten its votes: \
         bring that directory back, or set `rejoin_empty` at its builder, with an empty directory. \
         But if the whole group was restored from a backup, the directory that is out of date is \
         that of the node that refuses: open that one so"
    )]
    DirectoryChanged = 6,
    #[error(
        "another process speaks for it, from the same data directory or a copy of it: stop one of \
         the two"
    )]
    Duplicate = 7,
    #[error(
        "its data directory was opened again since, or a copy of it was: it speaks from an old \
         copy, and comes back as a node whose log is not complete"
    )]
    OutdatedDirectory = 8,
    #[error("its list of members differs: name the same members in the builder of every node")]
    Members = 9,
    #[error(
        "it sends what is not understood here: bring all nodes to versions that understand each \
         other"
    )]
    Unreadable = 10,
    #[error(
        "it speaks from a data directory that is not known here, and was not found so at the \
         address that this node has for it: it is let in once it is. If it is a copy that was \
         opened elsewhere, stop it"
    )]
    Elsewhere = 11,
    #[error("the group is not open there: open it on that node, or wait until it is")]
    NoSuchGroup = 12,
    #[error(
        "it has a copy of another group of this name: one of the two is left of a group that was \
         removed and made again. Remove the group at the host whose copy is old (`Host::remove`), \
         and open it there anew"
    )]
    OtherGroup = 13,
    #[error(
        "it has a copy of a group that was removed from the host that refuses: remove it at its \
         host too (`Host::remove`), and open it there anew. But if the group is to live on, then \
         remove what was made under its name at the host that refuses, and open it there with \
         `rejoin_empty`"
    )]
    RemovedGroup = 14,
}

/// Who opened the connection of a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// This node, to the configured address of the peer.
    Out,
    /// The peer, from any address.
    In,
}

impl HandshakeRejection {
    pub(crate) const ALL: [HandshakeRejection; 14] = [
        HandshakeRejection::Protocol,
        HandshakeRejection::Cluster,
        HandshakeRejection::Group,
        HandshakeRejection::WrongNode,
        HandshakeRejection::NotAMember,
        HandshakeRejection::DirectoryChanged,
        HandshakeRejection::Duplicate,
        HandshakeRejection::OutdatedDirectory,
        HandshakeRejection::Members,
        HandshakeRejection::Unreadable,
        HandshakeRejection::Elsewhere,
        HandshakeRejection::NoSuchGroup,
        HandshakeRejection::OtherGroup,
        HandshakeRejection::RemovedGroup,
    ];

    /// Whether it is certainly that of a member, at its own address.
    pub(crate) fn is_of_a_member(self) -> bool {
        matches!(
            self,
            HandshakeRejection::DirectoryChanged
                | HandshakeRejection::OutdatedDirectory
                | HandshakeRejection::OtherGroup
                | HandshakeRejection::RemovedGroup
                | HandshakeRejection::Members
        )
    }

    pub(crate) fn from_code(code: u8) -> Option<HandshakeRejection> {
        HandshakeRejection::ALL.into_iter().find(|&rejection| rejection as u8 == code)
    }
}

impl Hello {
    pub(crate) fn new(context: &TransportContext, to: NodeId, nonce: u64) -> Hello {
        let mut members: Vec<NodeId> = context.addresses.iter().map(|(node, _)| *node).collect();
        members.sort_unstable();
        members.dedup();
        Hello {
            cluster: context.cluster,
            group: context.group.clone(),
            members: members.into(),
            from: context.node,
            to,
            identity: context.identity,
            nonce,
            group_uid: context.group_uid,
            advertised: context.advertised.as_str().into(),
        }
    }

    /// The process that sent it.
    pub(crate) fn process(&self) -> ProcessId {
        (self.identity.incarnation, self.nonce)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let len = FIXED_BYTES + self.group.len() + 8 * self.members.len() + self.advertised.len();
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&PROTOCOL.to_le_bytes());
        for number in [self.cluster, self.from.get(), self.to.get()] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.identity.directory.to_le_bytes());
        for number in [self.identity.incarnation, self.nonce] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.group_uid.to_le_bytes());
        let lens = [self.group.len(), self.members.len(), self.advertised.len()];
        let [group, members, advertised] =
            lens.map(|len| u8::try_from(len).expect("the context is checked at the start"));
        let flags = if self.identity.complete { 0 } else { INCOMPLETE };
        bytes.extend_from_slice(&[flags, group, members, advertised]);
        bytes.extend_from_slice(self.group.as_bytes());
        self.members.iter().for_each(|member| bytes.extend_from_slice(&member.get().to_le_bytes()));
        bytes.extend_from_slice(self.advertised.as_bytes());
        bytes
    }

    /// Decodes a hello. Malformed bytes count as another version of the protocol.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Hello, HandshakeRejection> {
        Hello::fields(bytes).ok_or(HandshakeRejection::Protocol)
    }

    fn fields(mut bytes: &[u8]) -> Option<Hello> {
        if u32::from_le_bytes(take(&mut bytes)?) != PROTOCOL {
            return None;
        }
        let cluster = u64::from_le_bytes(take(&mut bytes)?);
        let from = NodeId::from(u64::from_le_bytes(take(&mut bytes)?));
        let to = NodeId::from(u64::from_le_bytes(take(&mut bytes)?));
        let directory = u128::from_le_bytes(take(&mut bytes)?);
        let incarnation = u64::from_le_bytes(take(&mut bytes)?);
        let nonce = u64::from_le_bytes(take(&mut bytes)?);
        let group_uid = u128::from_le_bytes(take(&mut bytes)?);
        let [flags, group_bytes, members, advertised_bytes] = take(&mut bytes)?;
        if flags & !FLAGS != 0 {
            return None;
        }
        let (group, mut bytes) = bytes.split_at_checked(usize::from(group_bytes))?;
        let group = std::str::from_utf8(group).ok()?.to_owned();
        let member = |_| Some(NodeId::from(u64::from_le_bytes(take(&mut bytes)?)));
        let members: Arc<[NodeId]> = (0..members).map(member).collect::<Option<_>>()?;
        let is_list = members.len() <= MEMBERS_MAX && members.is_sorted_by(|one, next| one < next);
        let identity =
            DirectoryIdentity { directory, incarnation, complete: flags & INCOMPLETE == 0 };
        let (advertised, rest) = bytes.split_at_checked(usize::from(advertised_bytes))?;
        let advertised = std::str::from_utf8(advertised)
            .ok()
            .filter(|text| check_advertised(text).is_ok())?
            .into();
        (is_list && rest.is_empty()).then_some(Hello {
            cluster,
            group,
            members,
            from,
            to,
            identity,
            nonce,
            group_uid,
            advertised,
        })
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (field, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*field)
}

/// A rejection and its text, in which "it" is the rejected node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Rejection {
    pub(crate) reason: HandshakeRejection,
    text: String,
}

/// One side of a rejection.
struct Side<'a> {
    protocol: u32,
    group_uid: u128,
    members: &'a [NodeId],
}

impl Rejection {
    fn new(reason: HandshakeRejection, refused: &Side<'_>, by: &Side<'_>) -> Rejection {
        let differs = |what: &str, theirs: String, ours: String, then: &str| {
            format!("{what} ({theirs} instead of {ours}): {then}")
        };
        let (text, parts) = (reason.to_string(), reason.to_string());
        let text = match (reason, parts.split_once(": ")) {
            (HandshakeRejection::Protocol, Some((what, then)))
                if refused.protocol != by.protocol =>
            {
                differs(what, refused.protocol.to_string(), by.protocol.to_string(), then)
            }
            (HandshakeRejection::Members, Some((what, then))) => {
                differs(what, list(refused.members), list(by.members), then)
            }
            (
                HandshakeRejection::OtherGroup | HandshakeRejection::RemovedGroup,
                Some((what, then)),
            ) => differs(what, uid_text(refused.group_uid), uid_text(by.group_uid), then),
            _ => text,
        };
        Rejection { reason, text }
    }
}

fn uid_text(uid: u128) -> String {
    if uid == 0 { "none".to_owned() } else { format!("{uid:032x}") }
}

fn list(members: &[NodeId]) -> String {
    let ids: Vec<String> = members.iter().map(|id| id.get().to_string()).collect();
    ids.join(", ")
}

/// The version and the claimed sender of a hello of any version.
pub(crate) fn claim(hello: &[u8]) -> Option<(u32, NodeId)> {
    let (protocol, from) = (hello.first_chunk()?, hello.get(12..20)?.first_chunk()?);
    Some((u32::from_le_bytes(*protocol), NodeId::from(u64::from_le_bytes(*from))))
}

/// The members that this node accepts, and their last known directory and process.
#[derive(Debug)]
pub(crate) struct PeerRegistry {
    me: Hello,
    removed: RemovedGroups,
    peers: HashMap<NodeId, PeerRecord>,
}

#[derive(Clone, Copy, Debug, Default)]
struct PeerRecord {
    directory: Option<u128>,
    /// The newest process of the peer since this node started.
    process: ProcessId,
    /// The unique id of its group. 0: it did not know it.
    group_uid: u128,
}

impl PeerRegistry {
    pub(crate) fn new(context: &TransportContext, nonce: u64) -> PeerRegistry {
        let mut peers: HashMap<NodeId, PeerRecord> = context
            .addresses
            .iter()
            .filter(|(node, _)| *node != context.node)
            .map(|(node, _)| (*node, PeerRecord::default()))
            .collect();
        for (node, directory) in &context.known {
            if let Some(peer) = peers.get_mut(node) {
                peer.directory = Some(*directory);
            }
        }
        let me = Hello::new(context, context.node, nonce);
        PeerRegistry { me, removed: context.removed.clone(), peers }
    }

    /// Sets the identity of this node. Returns whether its directory is another one: then the old
    /// one was an outdated copy, so the records of peers may be outdated too and are cleared.
    pub(crate) fn introduce(&mut self, identity: DirectoryIdentity) -> bool {
        let is_new =
            std::mem::replace(&mut self.me.identity, identity).directory != identity.directory;
        if is_new {
            self.peers.values_mut().for_each(|peer| *peer = PeerRecord::default());
        }
        is_new
    }

    /// The hello of this node to `peer`.
    pub(crate) fn hello_to(&self, peer: NodeId) -> Hello {
        Hello { to: peer, ..self.me.clone() }
    }

    /// The rejection, by this node, of the sender of `hello`.
    pub(crate) fn rejection(&self, reason: HandshakeRejection, hello: &[u8]) -> Rejection {
        let protocol = claim(hello).map_or(0, |(protocol, _)| protocol);
        let (group_uid, members) = Hello::decode(hello)
            .map_or_else(|_| (0, Arc::default()), |hello| (hello.group_uid, hello.members));
        let refused = Side { protocol, group_uid, members: &members };
        Rejection::new(reason, &refused, &self.own_side())
    }

    /// A rejection as bytes: u8 reason, u32 protocol, u128 group uid, u64 for each member,
    /// little-endian. In every version the reason comes first; the rest is optional.
    pub(crate) fn refusal(&self, reason: HandshakeRejection) -> Vec<u8> {
        let mut bytes = vec![reason as u8];
        bytes.extend_from_slice(&PROTOCOL.to_le_bytes());
        bytes.extend_from_slice(&self.me.group_uid.to_le_bytes());
        self.me.members.iter().for_each(|id| bytes.extend_from_slice(&id.get().to_le_bytes()));
        bytes
    }

    /// The rejection, by a peer, of this node.
    pub(crate) fn refused_by(&self, refusal: &[u8]) -> Rejection {
        PeerRegistry::read_refusal(refusal, &self.own_side())
    }

    fn read_refusal(refusal: &[u8], refused: &Side<'_>) -> Rejection {
        let (code, mut rest) =
            refusal.split_first().map_or((0, refusal), |(code, rest)| (*code, rest));
        let reason = HandshakeRejection::from_code(code).unwrap_or(HandshakeRejection::Protocol);
        let protocol = take(&mut rest).map_or(0, u32::from_le_bytes);
        let group_uid = take(&mut rest).map_or(0, u128::from_le_bytes);
        let member = || Some(NodeId::from(u64::from_le_bytes(take(&mut rest)?)));
        // No group has more. A peer may send a list of any length, and the status would show it.
        let members: Vec<NodeId> = std::iter::from_fn(member).take(MEMBERS_MAX).collect();
        Rejection::new(reason, refused, &Side { protocol, group_uid, members: &members })
    }

    fn own_side(&self) -> Side<'_> {
        let Hello { group_uid, members, .. } = &self.me;
        Side { protocol: PROTOCOL, group_uid: *group_uid, members }
    }

    /// Checks a hello. If it is accepted, its directory and process are recorded, except in one
    /// case.
    ///
    /// A node whose own log is not complete has no records of its peers, and an inbound connection
    /// may come from a copy. If it were rejected, so would the peer itself be, which must connect
    /// here before it finds this node. So it is accepted, and recorded only once this node finds
    /// the peer at its address. A node takes no part in its group before it has found all peers.
    pub(crate) fn admit(&mut self, hello: &Hello, way: Way) -> Result<(), HandshakeRejection> {
        self.check(hello, way)?;
        let is_found = way == Way::Out || self.me.identity.complete || self.knows(hello);
        if is_found {
            let known = PeerRecord {
                directory: Some(hello.identity.directory),
                process: hello.process(),
                group_uid: hello.group_uid,
            };
            self.peers.insert(hello.from, known);
        }
        Ok(())
    }

    /// Whether the directory in the hello is the recorded one of its sender, which the storage is
    /// to save.
    pub(crate) fn knows(&self, hello: &Hello) -> bool {
        let peer = self.peers.get(&hello.from);
        peer.is_some_and(|peer| peer.directory == Some(hello.identity.directory))
    }

    /// Checks a hello against the configuration and the record of its sender.
    pub(crate) fn check(&self, hello: &Hello, way: Way) -> Result<(), HandshakeRejection> {
        if hello.group != self.me.group {
            return Err(HandshakeRejection::Group);
        }
        if hello.to != self.me.from {
            return Err(HandshakeRejection::WrongNode);
        }
        // Before the cluster, which is made of the name and the members: a better reason.
        if hello.members != self.me.members {
            return Err(HandshakeRejection::Members);
        }
        if hello.cluster != self.me.cluster {
            return Err(HandshakeRejection::Cluster);
        }
        let peer = self.peers.get(&hello.from).ok_or(HandshakeRejection::NotAMember)?;
        // Before the directory, which is another one in a group that was made again.
        self.check_group_uid(hello)?;
        let DirectoryIdentity { directory, incarnation, complete } = hello.identity;
        let must_be_found = true;
        if peer.directory.is_some_and(|known| known != directory) {
            // An incomplete one replaces the known one: it takes no part in the group before all
            // peers have accepted it, and the known one is rejected from now on. So it must be at
            // the address of that peer, where a copy that is opened elsewhere is not.
            return match way {
                _ if complete => Err(HandshakeRejection::DirectoryChanged),
                Way::In if must_be_found => Err(HandshakeRejection::Elsewhere),
                Way::In | Way::Out => Ok(()),
            };
        }
        // The same for a peer without a record: the copy would be recorded, and the peer itself
        // rejected from then on. The peer accepts this node, since either it has a record of this
        // directory or its own log is not complete. So it is found at its address.
        let is_new = peer.directory.is_none() && way == Way::In;
        if is_new && !complete && self.me.identity.complete && must_be_found {
            return Err(HandshakeRejection::Elsewhere);
        }
        if incarnation < peer.process.0 {
            return Err(HandshakeRejection::OutdatedDirectory);
        }
        // Two processes of one incarnation: one runs on a copy. The second one lacks the writes of
        // the first.
        let is_copy = incarnation == peer.process.0 && hello.nonce != peer.process.1;
        if is_copy {
            return Err(HandshakeRejection::OutdatedDirectory);
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
