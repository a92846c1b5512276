//! Role of a node, membership of its group, and the status that hosts see.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::entry::NodeId;
use crate::removed::Removed;

/// The role of a node in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// Appends go here. Announced only once the first batch of this leader's own term is committed:
    /// from then on everything that any earlier leader acknowledged is known here.
    Leader,
    /// Copies what the leader sends and serves reads.
    Follower,
    /// Asks for votes, or has won them and waits for its first batch to commit.
    Candidate,
    /// Copies the log without a vote. No builder names such a member yet.
    Learner,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Learner => "learner",
        })
    }
}

/// The nodes that make up a group. Sorted, without repetition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Membership {
    /// Nodes that vote, and whose disks count for a commit.
    pub voters: Vec<NodeId>,
    /// Nodes that copy the log without a vote.
    pub learners: Vec<NodeId>,
}

impl Membership {
    /// A group of these voters and learners. A node that is named as both has a vote.
    pub fn new<V, L>(voters: V, learners: L) -> Membership
    where
        V: IntoIterator<Item = NodeId>,
        L: IntoIterator<Item = NodeId>,
    {
        let (voters, mut learners) = (sorted(voters), sorted(learners));
        learners.retain(|id| !voters.contains(id));
        Membership { voters, learners }
    }

    /// A group of these voters and no learner.
    pub fn of_voters(voters: impl IntoIterator<Item = NodeId>) -> Membership {
        Membership::new(voters, [])
    }

    /// Whether `node` is one of them, with or without a vote.
    pub fn contains(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.learners.contains(&node)
    }
}

fn sorted(ids: impl IntoIterator<Item = NodeId>) -> Vec<NodeId> {
    let mut ids: Vec<NodeId> = ids.into_iter().collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The longest text that a node can [advertise](crate::Builder::advertise), in bytes.
pub(crate) const ADVERTISED_BYTES_MAX: usize = 255;

/// Checks a text that is to be advertised. It is written into logs and errors of other nodes, so it
/// must not be able to forge lines there, nor change how the rest of a line is shown.
pub(crate) fn check_advertised(text: &str) -> Result<(), String> {
    if text.len() > ADVERTISED_BYTES_MAX {
        let len = text.len();
        return Err(format!("{len} bytes are more than the limit of {ADVERTISED_BYTES_MAX}"));
    }
    match text.contains(|c: char| c.is_control() || is_layout_control(c)) {
        true => Err("it may not contain line breaks, marks of text direction or other control \
                     characters"
            .to_owned()),
        false => Ok(()),
    }
}

/// Format characters that break lines, change the order in which text is shown, or (U+FEFF) are
/// not seen.
fn is_layout_control(c: char) -> bool {
    matches!(
        c,
        '\u{061C}'
            | '\u{200E}'..='\u{200F}'
            | '\u{2028}'..='\u{202E}'
            | '\u{2066}'..='\u{2069}'
            | '\u{FEFF}'
    )
}

/// How far a member has come with the log of its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Progress {
    /// It has all that was committed up to about an election timeout ago, at least.
    InStep,
    /// It lacks older entries, and is being sent them.
    CatchingUp,
    /// It lacked what its leader does not keep any more, and was moved forward past that: its log
    /// begins anew at the leader's first retained entry. It catches up from there, and is
    /// [`InStep`](Progress::InStep) afterwards.
    MovedForward,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Progress::InStep => "in step",
            Progress::CatchingUp => "catching up",
            Progress::MovedForward => "moved forward",
        })
    }
}

/// One node of the group, as the node whose [`Status`] this is knows it.
///
/// What is `None` is not known there. Of itself a node tells `id`, `address`, `voter`, `advertised`
/// and `end_index`. What it knows of the others depends on its role:
///
/// | field | on the leader | on any other node |
/// |---|---|---|
/// | `advertised`, `refused` | of every member | of every member |
/// | `heard` | of every member | of every member; regularly of the leader alone |
/// | `reached` | of every member | of members that it tried to reach, or that reached it |
/// | `progress`, `end_index`, `in_flight_bytes` | of members that have responded | of none |
///
/// A node that is stopped or has a fault knows nothing of `reached`, `heard`, `progress`,
/// `end_index` and `in_flight_bytes` of others any more.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// Its number.
    pub id: NodeId,
    /// The address that the builder was given for it. Empty if none was.
    pub address: String,
    /// Whether it has a vote.
    pub voter: bool,
    /// What its host gave to [`Builder::advertise`](crate::Builder::advertise): where its clients
    /// find it, say. At most 255 bytes, without control characters. `None` if that is nothing, or
    /// the two nodes have not been connected since this one was opened, or their transport does not
    /// carry it. It is what that host says: nothing checks whether it is true.
    pub advertised: Option<Arc<str>>,
    /// Whether messages get there. No if the connection to it broke or could not be made, or
    /// messages to it were dropped; yes again once a new connection is made, or when it was heard
    /// and for two seconds nothing to it was lost. Follows within a heartbeat interval.
    pub reached: Option<bool>,
    /// Why one of the two refuses the other: see [`Status::refused`].
    pub refused: Option<String>,
    /// How far it has come with the log. `None` also if it is not reached.
    pub progress: Option<Progress>,
    /// How long ago a message of it arrived, or a connection to or from it was made: when the
    /// status was read, and at most a heartbeat interval too much.
    pub heard: Option<Duration>,
    /// The index after the last entry that it is known to have stored, as its flush policy has it.
    /// `None` also if that lies before what this node keeps. May be a heartbeat interval old.
    pub end_index: Option<u64>,
    /// How many bytes of entries were sent to it, and not yet confirmed by it: payloads, as far as
    /// they are in this node's own log. May be a heartbeat interval old.
    pub in_flight_bytes: Option<u64>,
}

impl Member {
    pub(crate) fn new(id: NodeId, address: String, voter: bool) -> Member {
        Member {
            id,
            address,
            voter,
            advertised: None,
            reached: None,
            refused: None,
            progress: None,
            heard: None,
            end_index: None,
            in_flight_bytes: None,
        }
    }
}

/// Two nodes of which one refuses the other: this one, and a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The peer.
    pub peer: NodeId,
    /// Which of the two refuses the other, why, and what to do.
    pub reason: String,
}

impl Refusal {
    pub(crate) fn new(peer: NodeId, reason: String) -> Refusal {
        Refusal { peer, reason }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// One text for each reason: peers that have it in common are named together.
///
/// A transport hands over whole sentences, so two that differ only in the peer that they name have
/// the same reason.
pub(crate) fn grouped(refused: &[Refusal]) -> Vec<String> {
    let mut groups: Vec<(String, Vec<NodeId>)> = Vec::new();
    for Refusal { peer, reason } in refused {
        let reason = without_name(reason, *peer);
        match groups.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, peers)) => peers.push(*peer),
            None => groups.push((reason, vec![*peer])),
        }
    }
    groups.into_iter().map(|(reason, peers)| with_names(&reason, &peers)).collect()
}

/// Stands for the peer. In no text.
const NAME: char = '\0';

fn without_name(reason: &str, peer: NodeId) -> String {
    let name = format!("node {peer}");
    let mut parts = reason.split(&name);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // Not in the middle of the name of node 12.
        if part.starts_with(|next: char| next.is_ascii_digit()) {
            text.push_str(&name)
        } else {
            text.push(NAME)
        }
        text.push_str(part);
    }
    text
}

fn with_names(reason: &str, peers: &[NodeId]) -> String {
    let ids: Vec<String> = peers.iter().map(NodeId::to_string).collect();
    match &ids[..] {
        [first @ .., last] if !first.is_empty() => reason
            .replace(&format!("{NAME} refuses"), &format!("{NAME} refuse"))
            .replace(
                &format!("refuses {NAME}: "),
                &format!("refuses {NAME}, each of them because "),
            )
            .replace(NAME, &format!("nodes {} and {last}", first.join(", "))),
        _ => reason.replace(NAME, &format!("node {}", ids.concat())),
    }
}

/// The status of a node at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The name of the group.
    pub group: String,
    /// The unique id of the group: a random number that its first leader chose. A group that was
    /// removed and made again under its name has another one. `None` as long as this node does not
    /// know it: until a majority of the members was open together once.
    pub group_uid: Option<u128>,
    /// This node.
    pub id: NodeId,
    /// Its role in the group.
    pub role: Role,
    /// The newest term that it knows of.
    pub term: u64,
    /// The leader of that term, if it knows one. On the leader itself: this node, from the moment
    /// that it is ready.
    pub leader: Option<NodeId>,
    /// All members, this node included, by ascending id, and what is known here of each.
    pub members: Vec<Member>,
    /// The indexes that can be read here: first retained .. first not (yet) known to be committed.
    pub committed: Range<u64>,
    /// The oldest position that can be read here: that of the first retained entry. The sum of the
    /// payload lengths of all entries below `committed.start`, in bytes, after
    /// [`Builder::first_position`](crate::Builder::first_position).
    pub oldest_position: u64,
    /// The newest position, counted likewise up to `committed.end`. It is where the last committed
    /// entry ends.
    pub committed_position: u64,
    /// The index after the last entry in the local log, committed or not.
    pub end_index: u64,
    /// How many bytes of appends of this node's own hosts are under way: those that
    /// [`Builder::max_in_flight_bytes`](crate::Builder::max_in_flight_bytes) bounds. Each entry
    /// counts its payload and 32 bytes.
    pub in_flight_bytes: u64,
    /// What keeps this node from taking appends for now: it lacks room on its disk or may not write
    /// there, or the process has no open file, memory or mapping left for it. It votes as far as it
    /// can remember that, serves reads as far as they need nothing of what is lacking, and goes on
    /// by itself when there is some again. The text says what to do.
    pub full: Option<String>,
    /// What keeps this node from taking part for now: its log is damaged, and its peers are asked
    /// for what is missing. The text says which file, offset, raft index and term, and what the
    /// peers answered. It does not vote, acknowledge or lead; what is intact can be read. It goes
    /// on by itself. Or its log is not complete, since it was lost, put back to an older copy or
    /// restored: the text says whom the node waits for, and once it follows again, that it does not
    /// lead before it has all that it may have acknowledged. See
    /// [`Builder::rejoin_empty`](crate::Builder::rejoin_empty).
    pub repair: Option<String>,
    /// The peers that this node does not talk to because one of the two refuses the other, by
    /// ascending id: another data directory than before, another list of members, another version,
    /// a second process of the same node. Or the peer is talked to, but for an election timeout
    /// this node took nothing of one kind that it sent, batches for instance. The text says who
    /// refuses whom, and what to do. Empty if all is well. A peer leaves the list when it is talked
    /// to again and what it sends is taken, or when neither has tried for ten seconds.
    pub refused: Vec<Refusal>,
    /// Why this node no longer takes part, if it stopped by itself: a failed sync, a damaged log, a
    /// panic. The text says what to do.
    pub fault: Option<String>,
    /// What this node has removed from its log since it was opened, and why: see
    /// [`Retention`](crate::Retention).
    pub removed: Removed,
    /// Whether the node sleeps: its group was idle, and sends nothing until something happens to
    /// it. Role, term and leader stay as they were. Members are not heard of meanwhile, which says
    /// nothing about them.
    pub asleep: bool,
    /// Whether it was shut down: this is its last status.
    pub stopped: bool,
}

impl Status {
    /// What [`refused`](Self::refused) says, one sentence for each reason: peers that have it in
    /// common are named together, as "nodes 2 and 3 refuse this node".
    #[must_use]
    pub fn refusals(&self) -> Vec<String> {
        grouped(&self.refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertised_text_has_no_characters_that_change_how_a_line_is_shown() {
        let refused = ['\u{061C}', '\u{200E}', '\u{200F}', '\u{FEFF}', '\0', '\n', '\u{85}'];
        let ranges = ('\u{2028}'..='\u{202E}').chain('\u{2066}'..='\u{2069}');
        for c in refused.into_iter().chain(ranges) {
            let outcome = check_advertised(&format!("a{c}b"));
            assert!(
                outcome.as_ref().is_err_and(|why| why.contains("control characters")),
                "{}: {outcome:?}",
                c.escape_unicode()
            );
        }
        for taken in ["", "host:1", "a b", "ä", "хост", "主机", "\u{5E9}\u{5E8}", "\u{200D}"]
        {
            assert_eq!(check_advertised(taken), Ok(()), "{taken:?}");
        }
    }

    fn refused(of: &[(u64, &str)]) -> Vec<Refusal> {
        of.iter()
            .map(|(peer, reason)| Refusal::new(NodeId::from(*peer), (*reason).to_owned()))
            .collect()
    }

    #[test]
    fn peers_that_have_a_reason_in_common_are_named_together() {
        let of_us = refused(&[
            (2, "node 2 refuses this node: it is new"),
            (3, "node 3 refuses this node: it is new"),
        ]);
        assert_eq!(grouped(&of_us), ["nodes 2 and 3 refuse this node: it is new"]);
        let of_them = refused(&[
            (1, "this node refuses node 1: it is old; node 1 refuses this node: it is new"),
            (12, "this node refuses node 12: it is old; node 12 refuses this node: it is new"),
            (13, "this node refuses node 13: it is old; node 13 refuses this node: it is new"),
        ]);
        let expected = "this node refuses nodes 1, 12 and 13, each of them because it is old; \
                        nodes 1, 12 and 13 refuse this node: it is new";
        assert_eq!(grouped(&of_them), [expected]);
    }

    #[test]
    fn another_reason_is_another_text_and_says_what_it_said() {
        let told = [
            (1, "node 1 refuses this node: it is new, as node 12 is"),
            (2, "this node takes no batches of node 2: torn"),
        ];
        assert_eq!(grouped(&refused(&told)), told.map(|(_, text)| text));
        let of_another = [
            (1, "node 1 refuses this node: node 12 is it"),
            (3, "node 3 refuses this node: node 12 is it"),
        ];
        assert_eq!(
            grouped(&refused(&of_another)),
            ["nodes 1 and 3 refuse this node: node 12 is it"]
        );
        assert_eq!(grouped(&[]), [""; 0]);
    }
}
