//! What two nodes tell each other before anything else, and who is turned away.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;

use std::collections::HashMap;
use std::sync::Arc;

use super::Seat;
use crate::entry::NodeId;
use crate::role::{ADVERTISED_BYTES_MAX, check_advertised};
use crate::storage::Identity;

/// The version of all that follows a hello.
const PROTOCOL: u32 = 2;
/// The longest name of a group, in bytes.
pub(crate) const GROUP_BYTES_MAX: usize = 63;
/// The most members that a hello names.
pub(crate) const MEMBERS_MAX: usize = 63;
/// A flag: the log of the speaker is not complete, so that it asks to be let in from another data directory.
const INCOMPLETE: u8 = 1;
/// The flags that this version knows.
const FLAGS: u8 = INCOMPLETE;
/// Bytes before the name of the group.
const FIXED_BYTES: usize = 64;

/// The longest hello that is said.
pub(crate) const BYTES_MAX: usize = FIXED_BYTES + GROUP_BYTES_MAX + 8 * MEMBERS_MAX + ADVERTISED_BYTES_MAX;

/// Who speaks, to whom, and from which copy of its disk.
///
/// On the wire: u32 protocol, u64 cluster, u64 from, u64 to, u128 directory, u64 incarnation,
/// u64 nonce, u8 flags, u8 length of the group's name, u8 count of members, u8 length of what is
/// advertised, the name, u64 for each member, ascending, what is advertised; little-endian. The
/// first 28 bytes have this meaning in every version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) cluster: u64,
    pub(crate) group: String,
    /// All members that the speaker was told of, itself included, ascending.
    pub(crate) members: Arc<[NodeId]>,
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) identity: Identity,
    /// Drawn when the transport started. Tells apart two processes that both opened a copy of the same disk.
    pub(crate) nonce: u64,
    /// What its host lets every member know: at most 255 bytes, without control characters.
    pub(crate) advertised: Arc<str>,
}

/// Why a peer is turned away. Sent back to it, so that both sides can say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u8)]
pub(crate) enum Stranger {
    #[error("it speaks another version of the protocol: bring all nodes to versions that understand each other")]
    Protocol = 1,
    #[error("it belongs to another cluster: one of the two addresses is wrong")]
    Cluster = 2,
    #[error("it belongs to another group: one of the two addresses is wrong")]
    Group = 3,
    #[error("it looked for another node here: the address that it has for that node is wrong")]
    Misdirected = 4,
    #[error("it is not a member of the group: name it in the builder of every node")]
    NotAMember = 5,
    #[error(
        "it speaks from another data directory than before, so it may have forgotten its votes: bring that directory back, or set `rejoin_empty` at its builder, with an empty directory. But if the whole group was restored from a backup, the directory that is out of date is that of the node that refuses: open that one so"
    )]
    OtherDirectory = 6,
    #[error("another process speaks for it, from the same data directory or a copy of it: stop one of the two")]
    Twin = 7,
    #[error(
        "its data directory was opened again since, or a copy of it was: it speaks from an old copy, and comes back as a node whose log is not complete"
    )]
    Outlived = 8,
    #[error("its list of members differs: name the same members in the builder of every node")]
    Members = 9,
    #[error("it sends what is not understood here: bring all nodes to versions that understand each other")]
    Unreadable = 10,
    #[error(
        "it speaks from a data directory that is not known here, and was not found so at the \
         address that this node has for it: it is let in once it is. If it is a copy that was opened \
         elsewhere, stop it"
    )]
    Elsewhere = 11,
}

/// How a node comes to hear a hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// In answer to its own, at the address that it has for that peer.
    Out,
    /// On a connection from anywhere.
    In,
}

impl Stranger {
    pub(crate) const ALL: [Stranger; 11] = [
        Stranger::Protocol,
        Stranger::Cluster,
        Stranger::Group,
        Stranger::Misdirected,
        Stranger::NotAMember,
        Stranger::OtherDirectory,
        Stranger::Twin,
        Stranger::Outlived,
        Stranger::Members,
        Stranger::Unreadable,
        Stranger::Elsewhere,
    ];

    /// Whether there is no doubt that it is one, at its own address.
    pub(crate) fn is_of_a_member(self) -> bool {
        matches!(self, Stranger::OtherDirectory | Stranger::Outlived | Stranger::Members)
    }

    pub(crate) fn from_code(code: u8) -> Option<Stranger> {
        Stranger::ALL.into_iter().find(|&stranger| stranger as u8 == code)
    }
}

impl Hello {
    pub(crate) fn new(seat: &Seat, to: NodeId, nonce: u64) -> Hello {
        let mut members: Vec<NodeId> = seat.addresses.iter().map(|(node, _)| *node).collect();
        members.sort_unstable();
        members.dedup();
        Hello {
            cluster: seat.cluster,
            group: seat.group.clone(),
            members: members.into(),
            from: seat.node,
            to,
            identity: seat.identity,
            nonce,
            advertised: seat.advertised.as_str().into(),
        }
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
        let lens = [self.group.len(), self.members.len(), self.advertised.len()];
        let [group, members, advertised] = lens.map(|len| u8::try_from(len).expect("a seat is checked at the start"));
        let flags = if self.identity.complete { 0 } else { INCOMPLETE };
        bytes.extend_from_slice(&[flags, group, members, advertised]);
        bytes.extend_from_slice(self.group.as_bytes());
        self.members.iter().for_each(|member| bytes.extend_from_slice(&member.get().to_le_bytes()));
        bytes.extend_from_slice(self.advertised.as_bytes());
        bytes
    }

    /// Reads what a peer says of itself. Anything that is not understood counts as another version of the protocol.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Hello, Stranger> {
        Hello::fields(bytes).ok_or(Stranger::Protocol)
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
        let [flags, group_bytes, members, advertised_bytes] = take(&mut bytes)?;
        if flags & !FLAGS != 0 {
            return None;
        }
        let (group, mut bytes) = bytes.split_at_checked(usize::from(group_bytes))?;
        let group = std::str::from_utf8(group).ok()?.to_owned();
        let member = |_| Some(NodeId::from(u64::from_le_bytes(take(&mut bytes)?)));
        let members: Arc<[NodeId]> = (0..members).map(member).collect::<Option<_>>()?;
        let is_list = members.len() <= MEMBERS_MAX && members.is_sorted_by(|one, next| one < next);
        let identity = Identity { directory, incarnation, complete: flags & INCOMPLETE == 0 };
        let (advertised, rest) = bytes.split_at_checked(usize::from(advertised_bytes))?;
        let advertised = std::str::from_utf8(advertised).ok().filter(|text| check_advertised(text).is_ok())?.into();
        (is_list && rest.is_empty()).then_some(Hello { cluster, group, members, from, to, identity, nonce, advertised })
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (field, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*field)
}

/// Why one of two nodes refuses the other, in words. The nodes are told apart as "it", who is refused,
/// and whoever says so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Rejection {
    pub(crate) reason: Stranger,
    text: String,
}

/// What is told of either side of a refusal.
struct Side<'a> {
    protocol: u32,
    members: &'a [NodeId],
}

impl Rejection {
    fn new(reason: Stranger, refused: &Side<'_>, by: &Side<'_>) -> Rejection {
        let differs = |what: &str, theirs: String, ours: String, then: &str| format!("{what} ({theirs} instead of {ours}): {then}");
        let (text, parts) = (reason.to_string(), reason.to_string());
        let text = match (reason, parts.split_once(": ")) {
            (Stranger::Protocol, Some((what, then))) if refused.protocol != by.protocol => {
                differs(what, refused.protocol.to_string(), by.protocol.to_string(), then)
            }
            (Stranger::Members, Some((what, then))) => differs(what, list(refused.members), list(by.members), then),
            _ => text,
        };
        Rejection { reason, text }
    }
}

fn list(members: &[NodeId]) -> String {
    let ids: Vec<String> = members.iter().map(|id| id.get().to_string()).collect();
    ids.join(", ")
}

/// Who a hello says it is from, and its version, whatever else is in it.
pub(crate) fn claim(hello: &[u8]) -> Option<(u32, NodeId)> {
    let (protocol, from) = (hello.first_chunk()?, hello.get(12..20)?.first_chunk()?);
    Some((u32::from_le_bytes(*protocol), NodeId::from(u64::from_le_bytes(*from))))
}

/// Whom this node expects, and what it knows of them.
#[derive(Debug)]
pub(crate) struct Acquaintances {
    me: Hello,
    peers: HashMap<NodeId, Acquaintance>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Acquaintance {
    directory: Option<u128>,
    /// The newest life of the peer that was met since this node started: its incarnation and nonce.
    life: (u64, u64),
}

impl Acquaintances {
    pub(crate) fn new(seat: &Seat, nonce: u64) -> Acquaintances {
        let mut peers: HashMap<NodeId, Acquaintance> =
            seat.addresses.iter().filter(|(node, _)| *node != seat.node).map(|(node, _)| (*node, Acquaintance::default())).collect();
        for (node, directory) in &seat.known {
            if let Some(peer) = peers.get_mut(node) {
                peer.directory = Some(*directory);
            }
        }
        Acquaintances { me: Hello::new(seat, seat.node, nonce), peers }
    }

    /// This node speaks so from now on. Returns whether that is from another directory: then it was an older copy, and so may be what it
    /// knows of peers.
    pub(crate) fn introduce(&mut self, identity: Identity) -> bool {
        let is_new = std::mem::replace(&mut self.me.identity, identity).directory != identity.directory;
        if is_new {
            self.peers.values_mut().for_each(|peer| *peer = Acquaintance::default());
        }
        is_new
    }

    /// What this node says to `peer`.
    pub(crate) fn hello_to(&self, peer: NodeId) -> Hello {
        Hello { to: peer, ..self.me.clone() }
    }

    /// Why this node refuses whoever said `hello`, in words.
    pub(crate) fn rejection(&self, reason: Stranger, hello: &[u8]) -> Rejection {
        let protocol = claim(hello).map_or(0, |(protocol, _)| protocol);
        let theirs = Hello::decode(hello).map_or_else(|_| Arc::default(), |hello| hello.members);
        Rejection::new(reason, &Side { protocol, members: &theirs }, &self.own_side())
    }

    /// A refusal as it is sent: u8 reason, u32 protocol, u64 for each member, little-endian. In every
    /// version the reason comes first, and there may be nothing behind it.
    pub(crate) fn refusal(&self, reason: Stranger) -> Vec<u8> {
        let mut bytes = vec![reason as u8];
        bytes.extend_from_slice(&PROTOCOL.to_le_bytes());
        self.me.members.iter().for_each(|id| bytes.extend_from_slice(&id.get().to_le_bytes()));
        bytes
    }

    /// Why a peer refuses this node, in words, as its refusal says.
    pub(crate) fn refused_by(&self, refusal: &[u8]) -> Rejection {
        let (code, mut rest) = refusal.split_first().map_or((0, refusal), |(code, rest)| (*code, rest));
        let reason = Stranger::from_code(code).unwrap_or(Stranger::Protocol);
        let protocol = take(&mut rest).map_or(0, u32::from_le_bytes);
        let member = || Some(NodeId::from(u64::from_le_bytes(take(&mut rest)?)));
        // No group has more. Whoever was let in may send a list of any length, and it would be told.
        let members: Vec<NodeId> = std::iter::from_fn(member).take(MEMBERS_MAX).collect();
        Rejection::new(reason, &self.own_side(), &Side { protocol, members: &members })
    }

    fn own_side(&self) -> Side<'_> {
        Side { protocol: PROTOCOL, members: &self.me.members }
    }

    /// Whether the node that says `hello` may come in. If so it is [known](Self::knows) from now on.
    ///
    /// But for one case: a node whose own log is not complete has forgotten its peers, and one that
    /// comes in from elsewhere may be a copy. To refuse it would refuse the peer itself, which has
    /// yet to find this node in that way. So it comes in, and its directory is not the known one
    /// before the peer is found with it at its address. No node takes part before it has found all.
    pub(crate) fn admit(&mut self, hello: &Hello, way: Way) -> Result<(), Stranger> {
        self.check(hello, way)?;
        let is_found = way == Way::Out || self.me.identity.complete || self.knows(hello);
        if is_found || planted!("whoever comes in takes the place of a known directory") {
            let Identity { directory, incarnation, .. } = hello.identity;
            let known = Acquaintance { directory: Some(directory), life: (incarnation, hello.nonce) };
            self.peers.insert(hello.from, known);
        }
        Ok(())
    }

    /// Whether the directory that the peer speaks from is its known one: to be remembered.
    pub(crate) fn knows(&self, hello: &Hello) -> bool {
        let peer = self.peers.get(&hello.from);
        peer.is_some_and(|peer| peer.directory == Some(hello.identity.directory))
    }

    /// Whether the node that says `hello` may come in, for all that is remembered of it.
    pub(crate) fn check(&self, hello: &Hello, way: Way) -> Result<(), Stranger> {
        if hello.group != self.me.group && !planted!("a node of another group is let in") {
            return Err(Stranger::Group);
        }
        if hello.to != self.me.from {
            return Err(Stranger::Misdirected);
        }
        // Before the number of the cluster, which is made of the name and the members.
        if hello.members != self.me.members {
            return Err(Stranger::Members);
        }
        if hello.cluster != self.me.cluster {
            return Err(Stranger::Cluster);
        }
        let peer = self.peers.get(&hello.from).ok_or(Stranger::NotAMember)?;
        let Identity { directory, incarnation, complete } = hello.identity;
        let must_be_found = !planted!("whoever comes in takes the place of a known directory");
        if peer.directory.is_some_and(|known| known != directory) && !planted!("a wiped disk is let in") {
            // One that is not complete takes the place of the one that was known: it takes no part before all have let it in, and
            // whoever speaks from the other one is turned away from now on. So it must be at the
            // address of that peer: a copy that is opened elsewhere while the peer is down is not.
            return match way {
                _ if complete => Err(Stranger::OtherDirectory),
                Way::In if must_be_found => Err(Stranger::Elsewhere),
                Way::In | Way::Out => Ok(()),
            };
        }
        // The same of a peer that was not met yet: the copy would be the one that is known from then
        // on. The peer lets this node in, for either it knows this directory or its own log is not
        // complete, and so it is found.
        let is_new = peer.directory.is_none() && way == Way::In;
        if is_new && !complete && self.me.identity.complete && must_be_found {
            return Err(Stranger::Elsewhere);
        }
        if incarnation < peer.life.0 && !planted!("an earlier life is let in") {
            return Err(Stranger::Outlived);
        }
        // One of two openings of the same count is that of a copy. Whoever comes second does not know what the first one has done since.
        let is_twin = incarnation == peer.life.0 && hello.nonce != peer.life.1;
        if is_twin && !planted!("the second of two openings of the same count is let in") {
            return Err(Stranger::Outlived);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::{Inbox, Spawner};

    fn seat(node: u64) -> Seat {
        let addresses = (1..=3).map(|id| (NodeId::from(id), String::new())).collect();
        let no_threads = Spawner::new(|_, _| Err(std::io::ErrorKind::Unsupported.into()));
        Seat::new(NodeId::from(node), "orders", addresses, Inbox::new(|_| true), no_threads)
    }

    fn hello() -> Hello {
        Hello { advertised: "broker-2:9876".into(), ..Hello::new(&seat(2), NodeId::from(1), 77) }
    }

    /// One that only hears who comes in.
    struct Incoming(Acquaintances);

    impl Incoming {
        fn admit(&mut self, hello: &Hello) -> Result<(), Stranger> {
            self.0.admit(hello, Way::In)
        }
    }

    #[test]
    fn a_hello_comes_back_as_it_was_and_nothing_shorter_or_longer_does() {
        let bytes = hello().encode();
        assert_eq!(Hello::decode(&bytes), Ok(hello()));
        for len in 0..bytes.len() {
            assert_eq!(Hello::decode(&bytes[..len]), Err(Stranger::Protocol), "{len} bytes");
        }
        assert_eq!(Hello::decode(&[&bytes[..], b"x"].concat()), Err(Stranger::Protocol));
        for protocol in [1, 3] {
            assert_eq!(Hello::decode(&[&[protocol], &bytes[1..]].concat()), Err(Stranger::Protocol));
        }
        for members in [&[3, 2, 1][..], &[1, 1, 2], &[1; 64]] {
            let members = members.iter().map(|id| NodeId::from(*id)).collect();
            assert_eq!(Hello::decode(&Hello { members, ..hello() }.encode()), Err(Stranger::Protocol));
        }
        for advertised in ["", "ä", &"x".repeat(ADVERTISED_BYTES_MAX)] {
            let said = Hello { advertised: advertised.into(), ..hello() };
            assert_eq!(Hello::decode(&said.encode()), Ok(said));
        }
        for forged in ["two\nlines", "\u{1b}[31m", "\u{85}", "\0"] {
            let said = Hello { advertised: forged.into(), ..hello() };
            assert_eq!(Hello::decode(&said.encode()), Err(Stranger::Protocol), "{forged:?}");
        }
        let mut not_utf8 = bytes.clone();
        *not_utf8.last_mut().unwrap() = 0xff;
        assert_eq!(Hello::decode(&not_utf8), Err(Stranger::Protocol));
        let mut unknown_flag = bytes;
        unknown_flag[60] |= 1 << 7;
        assert_eq!(Hello::decode(&unknown_flag), Err(Stranger::Protocol));
    }

    #[test]
    fn only_the_peer_itself_comes_in() {
        let mut known = Incoming(Acquaintances::new(&seat(1), 1));
        assert_eq!(known.admit(&Hello { cluster: 9, ..hello() }), Err(Stranger::Cluster));
        assert_eq!(known.admit(&Hello { group: "other".into(), ..hello() }), Err(Stranger::Group));
        let others: Arc<[NodeId]> = [2, 3].map(NodeId::from).into();
        let differs = Hello { members: others, cluster: 9, ..hello() };
        assert_eq!(known.admit(&differs), Err(Stranger::Members));
        assert_eq!(known.admit(&Hello { to: NodeId::from(3), ..hello() }), Err(Stranger::Misdirected));
        assert_eq!(known.admit(&Hello { from: NodeId::from(4), ..hello() }), Err(Stranger::NotAMember));
        assert_eq!(known.admit(&Hello { from: NodeId::from(1), ..hello() }), Err(Stranger::NotAMember));
        assert_eq!(known.admit(&hello()), Ok(()));
        assert_eq!(known.admit(&hello()), Ok(()));
    }

    #[test]
    fn a_wiped_disk_and_an_old_life_are_turned_away() {
        let mut remembering = seat(1);
        remembering.known = vec![(NodeId::from(2), 55)];
        assert_eq!(Acquaintances::new(&remembering, 1).admit(&hello(), Way::Out), Err(Stranger::OtherDirectory));

        let mut known = Incoming(Acquaintances::new(&seat(1), 1));
        let in_life = |incarnation, nonce| Hello { identity: Identity { directory: 2, incarnation, complete: true }, nonce, ..hello() };
        assert_eq!(known.admit(&in_life(5, 77)), Ok(()));
        assert_eq!(known.admit(&in_life(5, 78)), Err(Stranger::Outlived));
        assert_eq!(known.admit(&in_life(6, 79)), Ok(()));
        assert_eq!(known.admit(&in_life(5, 77)), Err(Stranger::Outlived));
        let from = |directory, complete| Hello { identity: Identity { directory, incarnation: 1, complete }, ..hello() };
        assert_eq!(known.admit(&from(3, true)), Err(Stranger::OtherDirectory));
        assert_eq!(known.admit(&from(3, false)), Err(Stranger::Elsewhere), "it may be a copy");
        assert_eq!(known.admit(&in_life(6, 79)), Ok(()), "and takes nobody's place");
        assert_eq!(known.0.admit(&from(3, false), Way::Out), Ok(()), "it is found where it should be, and takes no part yet");
        assert_eq!(known.admit(&from(3, false)), Ok(()), "by now it is known");
        assert_eq!(known.admit(&in_life(7, 80)), Err(Stranger::OtherDirectory), "its place is taken");
        assert_eq!(known.admit(&from(3, true)), Ok(()), "by now it is complete");
    }

    /// A copy that came in first was the known one, and the peer itself was refused from then on.
    #[test]
    fn a_copy_that_comes_in_before_its_node_does_not_keep_the_node_out() {
        let from = |directory, complete| Hello { identity: Identity { directory, incarnation: 9, complete }, ..hello() };
        let (node, copy) = (from(2, true), from(3, false));
        let mut known = Acquaintances::new(&seat(1), 1);
        assert_eq!(known.admit(&copy, Way::In), Err(Stranger::Elsewhere));
        assert_eq!(known.admit(&node, Way::In), Ok(()), "as in a group that begins");
        assert!(known.knows(&node) && !known.knows(&copy));

        // One that has lost its log lets all in, so that they find it, and knows whom it has found.
        let mut lost = Acquaintances::new(&seat(1), 1);
        lost.me.identity.complete = false;
        for other in [&copy, &from(4, true), &node] {
            assert_eq!(lost.admit(other, Way::In), Ok(()));
            assert!(!lost.knows(other));
        }
        assert_eq!(lost.admit(&node, Way::Out), Ok(()));
        assert!(lost.knows(&node));
        assert_eq!(lost.admit(&from(4, true), Way::In), Err(Stranger::OtherDirectory));
        assert_eq!(lost.admit(&copy, Way::In), Err(Stranger::Elsewhere));
        assert_eq!(lost.admit(&node, Way::In), Ok(()));
        let earlier = Hello { identity: Identity { incarnation: 8, ..node.identity }, ..node };
        assert_eq!(lost.admit(&earlier, Way::In), Err(Stranger::Outlived));
    }

    #[test]
    fn every_reason_survives_the_wire() {
        for stranger in Stranger::ALL {
            assert_eq!(Stranger::from_code(stranger as u8), Some(stranger));
        }
        assert_eq!(Stranger::from_code(0), None);
    }

    #[test]
    fn both_sides_of_a_refusal_say_what_differs() {
        let mut other = seat(2);
        other.addresses.push((NodeId::from(9), String::new()));
        let (ours, theirs) = (Acquaintances::new(&seat(1), 1), Acquaintances::new(&other, 2));
        let hello = theirs.hello_to(NodeId::from(1)).encode();
        let text = "its list of members differs (1, 2, 3, 9 instead of 1, 2, 3): name the same members in the builder of every node";
        assert_eq!(ours.rejection(Stranger::Members, &hello).to_string(), text);
        assert_eq!(theirs.refused_by(&ours.refusal(Stranger::Members)).to_string(), text);
        let old = [&1_u32.to_le_bytes()[..], &hello[4..]].concat();
        assert_eq!(claim(&old), Some((1, NodeId::from(2))));
        assert!(ours.rejection(Stranger::Protocol, &old).to_string().contains("protocol (1 instead of 2): bring"));
        let mut from_later = ours.refusal(Stranger::Protocol);
        from_later[1] = 3;
        assert!(theirs.refused_by(&from_later).to_string().contains("protocol (2 instead of 3): bring"));
        let endless = [&ours.refusal(Stranger::Members)[..], &[7; 60 << 10]].concat();
        assert!(theirs.refused_by(&endless).to_string().len() < 2000, "whoever was let in may say much");
        assert_eq!(theirs.refused_by(&[99]).reason, Stranger::Protocol);
        assert_eq!(theirs.refused_by(&[6]).to_string(), Stranger::OtherDirectory.to_string());
    }
}
