//! Validation of a message against the state of the replica: could a correct peer have sent it?
//!
//! Raft trusts its input: about one in three malformed messages makes it panic, and others corrupt
//! the log silently. No message of a correct peer is rejected, however late it arrives, with one
//! exception: see [`Check::read_index`].

use raft::eraftpb::{ConfState, Entry, EntryType, Message as Inner, MessageType};

use super::Message;
use super::wire::{CONTEXT_BYTES_MAX, READ_CONTEXT_BYTES_MAX, SNAPSHOT_DATA_BYTES_MAX, TERM_LIMIT};
use crate::batch::Batch;
use crate::entry::NodeId;
use crate::role::Membership;

/// No term is this far ahead of the own one, so that terms are left for elections.
const TERM_JUMP_MAX: u64 = 1 << 32;
/// No raft index reaches this, so that sums of them never overflow.
const INDEX_LIMIT: u64 = 1 << 62;
/// The context of a vote request whose sender was asked by its leader to campaign.
const TRANSFER: &[u8] = b"CampaignTransfer";

/// The state of the receiving replica, for [`Message::check`]: as Raft sees it, with what is not
/// yet on disk.
pub(crate) struct ReplicaView<'a> {
    pub(crate) me: NodeId,
    pub(crate) membership: &'a Membership,
    /// Whether this node is the leader of `term`, also before it is announced.
    pub(crate) leads: bool,
    /// The leader of `term`, if Raft knows one; this node itself if it leads.
    pub(crate) leader: Option<NodeId>,
    pub(crate) term: u64,
    pub(crate) commit: u64,
    /// The raft index of the last batch of the log.
    pub(crate) last: u64,
    /// The term of the local batch at a raft index, if it is there.
    pub(crate) term_at: &'a dyn Fn(u64) -> Option<u64>,
}

/// Why a message is not given to Raft.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MessageRejection {
    /// No correct peer would send the message, or not now. It is dropped.
    #[error("{0}")]
    Invalid(&'static str),
    /// This node has acknowledged the batch `commit` to the leader, and no longer holds it. Fatal:
    /// this node has lost part of its log.
    #[error(
        "the leader knows this node to hold batch {commit}, but the log ends at {last}: \
         part of the log was lost"
    )]
    Regressed {
        /// The last batch that the leader knows to be here.
        commit: u64,
        /// The last batch that is here.
        last: u64,
    },
    /// This node has acknowledged the batch `commit` to the leader, and holds another one in its
    /// place, which it had replaced by that one. Fatal: this node has lost the end of its log.
    #[error(
        "the leader knows this node to hold batch {commit} of term {theirs}, but the log has one \
         of term {ours} there: part of the log was lost"
    )]
    Replaced {
        /// The last batch that the leader knows to be here.
        commit: u64,
        /// Its term here.
        ours: u64,
        /// Its term in the leader's log.
        theirs: u64,
    },
    /// The leader's log has another batch at an index that is committed here. Fatal: one of the two
    /// logs is wrong.
    #[error(
        "batch {index} is committed here with term {ours}, but the leader has it with term \
         {theirs}: the logs have diverged"
    )]
    Diverged {
        /// The raft index of the batch.
        index: u64,
        /// Its term here.
        ours: u64,
        /// Its term in the leader's log.
        theirs: u64,
    },
}

use MessageRejection::Invalid;

impl MessageRejection {
    /// Whether this node must stop, not just drop the message.
    pub(crate) fn is_fatal(&self) -> bool {
        !matches!(self, Invalid(_))
    }

    /// Whether this node has lost something that it had acknowledged.
    pub(crate) fn proves_loss(&self) -> bool {
        matches!(self, MessageRejection::Regressed { .. } | MessageRejection::Replaced { .. })
    }
}

impl Message {
    /// Validates the message against the state of the receiving replica. Pure; costs one checksum
    /// over the payloads.
    ///
    /// # Errors
    /// Why Raft must not see it.
    pub(crate) fn check(&self, view: &ReplicaView<'_>) -> Result<(), MessageRejection> {
        let message = self.raft().ok_or(Invalid("not for Raft"))?;
        Check { message, view }.all()
    }
}

fn ensure(holds: bool, otherwise: &'static str) -> Result<(), MessageRejection> {
    if holds { Ok(()) } else { Err(Invalid(otherwise)) }
}

struct Check<'a> {
    message: &'a Inner,
    view: &'a ReplicaView<'a>,
}

impl Check<'_> {
    fn all(&self) -> Result<(), MessageRejection> {
        self.endpoints()?;
        self.numbers()?;
        self.payload()?;
        match self.message.msg_type {
            MessageType::MsgAppend => self.append(),
            MessageType::MsgHeartbeat => self.heartbeat(),
            MessageType::MsgSnapshot => self.snapshot(),
            MessageType::MsgAppendResponse => self.append_response(),
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => self.vote_request(),
            MessageType::MsgTimeoutNow | MessageType::MsgReadIndexResp => {
                self.comes_from_the_leader()
            }
            MessageType::MsgReadIndex => self.read_index(),
            MessageType::MsgHeartbeatResponse
            | MessageType::MsgRequestVoteResponse
            | MessageType::MsgRequestPreVoteResponse => Ok(()),
            _ => Err(Invalid("a kind of message that stays inside a node")),
        }
    }

    /// From a member of the group to this node. Raft would follow any sender as leader.
    fn endpoints(&self) -> Result<(), MessageRejection> {
        let from = NodeId::from(self.message.from);
        ensure(NodeId::from(self.message.to) == self.view.me, "for another node")?;
        ensure(from != self.view.me, "from this node itself")?;
        ensure(self.view.membership.contains(from), "from a node that does not belong to the group")
    }

    fn numbers(&self) -> Result<(), MessageRejection> {
        let message = self.message;
        if message.msg_type == MessageType::MsgReadIndex {
            ensure(message.term == 0, "a read request with a term")?;
        } else {
            // Term 0 marks a local message, and skips every comparison of terms.
            ensure(message.term > 0, "without a term")?;
        }
        ensure(message.term < TERM_LIMIT, "a term beyond 2^48")?;
        ensure(
            message.term <= self.view.term.saturating_add(TERM_JUMP_MAX),
            "a term too far ahead",
        )?;
        ensure(
            message.log_term.max(message.commit_term) <= message.term,
            "a batch of a later term than the message",
        )?;
        let indexes = [message.index, message.commit, message.reject_hint];
        ensure(indexes.into_iter().all(|index| index < INDEX_LIMIT), "a raft index beyond 2^62")?;
        ensure(message.request_snapshot == 0, "a request for a snapshot")
    }

    /// Each kind of message has only its own fields.
    fn payload(&self) -> Result<(), MessageRejection> {
        let kind = self.message.msg_type;
        let is_read = matches!(kind, MessageType::MsgReadIndex | MessageType::MsgReadIndexResp);
        if is_read {
            let one_context =
                |entry: &Entry| (1..=READ_CONTEXT_BYTES_MAX).contains(&entry.data.len());
            ensure(
                self.message.entries.len() == 1 && self.message.entries.iter().all(one_context),
                "a read request without its one context",
            )?;
        }
        ensure(
            is_read || kind == MessageType::MsgAppend || self.message.entries.is_empty(),
            "batches outside an append",
        )?;
        ensure(
            self.message.has_snapshot() == (kind == MessageType::MsgSnapshot),
            "a snapshot outside its message, or none inside",
        )?;
        ensure(self.message.context.len() <= CONTEXT_BYTES_MAX, "a context beyond its limit")
    }

    /// Whether the message is of an earlier term. Raft drops it unread, so its leader, its commit
    /// and its log need not match the present state.
    fn is_stale_term(&self) -> bool {
        self.message.term < self.view.term
    }

    /// A term has one leader. This node may not know it yet.
    fn comes_from_the_leader(&self) -> Result<(), MessageRejection> {
        let known = self.view.leader.filter(|_| self.message.term == self.view.term);
        ensure(
            known.is_none_or(|leader| leader == NodeId::from(self.message.from)),
            "from another node than the leader of its term",
        )
    }

    fn append(&self) -> Result<(), MessageRejection> {
        let message = self.message;
        self.comes_from_the_leader()?;
        // Raft takes the term of a missing batch as 0: an append after an index that does not exist
        // would match.
        ensure(
            (message.index == 0) == (message.log_term == 0),
            "an append behind a batch without a term",
        )?;
        ensure(
            message.index + (message.entries.len() as u64) < INDEX_LIMIT,
            "a raft index beyond 2^62",
        )?;
        self.agrees(message.index, message.log_term)?;
        let mut before = (message.index, message.log_term);
        let mut end_index = None;
        for entry in &message.entries {
            ensure(entry.index == before.0 + 1, "an append with a gap")?;
            ensure(
                entry.term >= before.1.max(1) && entry.term <= message.term,
                "an append whose terms are out of order",
            )?;
            self.agrees(entry.index, entry.term)?;
            end_index = check_batch(entry, end_index)?.or(end_index);
            before = (entry.index, entry.term);
        }
        Ok(())
    }

    /// The leader of this or a later term has every batch that is committed here.
    fn agrees(&self, index: u64, theirs: u64) -> Result<(), MessageRejection> {
        if self.is_stale_term() || index > self.view.commit {
            return Ok(());
        }
        match (self.view.term_at)(index) {
            Some(ours) if ours != theirs => Err(MessageRejection::Diverged { index, ours, theirs }),
            _ => Ok(()),
        }
    }

    /// A leader never sends a follower a commit beyond its acknowledgements. It names the term of
    /// that batch: the length of a log says nothing if its end was replaced, and came back.
    fn heartbeat(&self) -> Result<(), MessageRejection> {
        self.comes_from_the_leader()?;
        let (commit, theirs, last) =
            (self.message.commit, self.message.commit_term, self.view.last);
        if self.is_stale_term() {
            return Ok(());
        }
        if commit > last {
            return Err(MessageRejection::Regressed { commit, last });
        }
        if theirs == 0 {
            return Ok(());
        }
        self.agrees(commit, theirs)?;
        match (self.view.term_at)(commit) {
            Some(ours) if ours != theirs => {
                Err(MessageRejection::Replaced { commit, ours, theirs })
            }
            _ => Ok(()),
        }
    }

    fn snapshot(&self) -> Result<(), MessageRejection> {
        self.comes_from_the_leader()?;
        let snapshot = self.message.get_snapshot();
        let metadata = snapshot.get_metadata();
        ensure(snapshot.data.len() <= SNAPSHOT_DATA_BYTES_MAX, "a snapshot beyond its limit")?;
        ensure(metadata.index > 0 && metadata.index < INDEX_LIMIT, "a snapshot of no index")?;
        ensure(
            metadata.term > 0 && metadata.term <= self.message.term,
            "a snapshot of a later term than its message",
        )?;
        self.members(metadata.get_conf_state())?;
        self.agrees(metadata.index, metadata.term)
    }

    /// Raft panics on members that are inconsistent.
    fn members(&self, members: &ConfState) -> Result<(), MessageRejection> {
        let joint = members.auto_leave
            || !members.voters_outgoing.is_empty()
            || !members.learners_next.is_empty();
        ensure(!joint, "a snapshot from the middle of a change of members")?;
        ensure(!members.voters.is_empty(), "a snapshot without a voter")?;
        let mut all: Vec<u64> = members.voters.iter().chain(&members.learners).copied().collect();
        all.sort_unstable();
        ensure(
            all[0] != 0 && all.windows(2).all(|pair| pair[0] != pair[1]),
            "a snapshot that names a member twice, or node 0",
        )?;
        ensure(
            all.binary_search(&self.message.to).is_ok(),
            "a snapshot of a group without this node",
        )
    }

    /// Raft would count an acknowledgement of batches that were never sent towards a commit.
    fn append_response(&self) -> Result<(), MessageRejection> {
        let message = self.message;
        if self.view.leads && message.term == self.view.term {
            ensure(
                message.index <= self.view.last,
                "an acknowledgement of batches that were never sent",
            )?;
            ensure(
                message.reject_hint <= self.view.last,
                "a rejection that points behind the log",
            )?;
        }
        Ok(())
    }

    fn vote_request(&self) -> Result<(), MessageRejection> {
        let message = self.message;
        ensure(message.commit <= message.index, "a candidate that has committed more than it has")?;
        ensure(
            message.commit_term <= message.log_term,
            "a candidate whose terms are out of order",
        )?;
        ensure(
            message.context.is_empty() || &message.context[..] == TRANSFER,
            "a request for a vote with an unknown context",
        )
    }

    /// A follower would forward the request under the name of its sender, which no transport
    /// allows. The sender retries, with the leader that it knows by then.
    fn read_index(&self) -> Result<(), MessageRejection> {
        ensure(self.view.leads, "a read request for the leader")
    }
}

/// Checks that the entry is a valid batch that continues the entries before it. Returns the index
/// after its last entry.
fn check_batch(entry: &Entry, end_index: Option<u64>) -> Result<Option<u64>, MessageRejection> {
    ensure(
        entry.entry_type == EntryType::EntryNormal && entry.context.is_empty(),
        "a kind of batch that this build does not know",
    )?;
    let batch = Batch::new(entry.index, entry.term, entry.data.clone())
        .map_err(|_| Invalid("an append of what is not a batch"))?;
    batch.verify().map_err(|_| Invalid("an append of a corrupt batch"))?;
    let follows = batch.first_index().zip(end_index).is_none_or(|(first, end)| first == end);
    ensure(follows, "an append whose batches do not continue each other")?;
    Ok(batch.end_index())
}
