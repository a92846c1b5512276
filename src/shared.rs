//! State shared by the engine and host threads: everything that a host reads without the engine.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::batch::LogPoint;
use crate::entry::NodeId;
use crate::error::BarrierError;
use crate::fork::{FORKED, Home};
use crate::inbox_space::{HostInboxSpace, InboxSpace, NODE_BYTES};
use crate::members::{MemberLog, MembersBoard};
use crate::message::Message;
use crate::primitives::atomic::{AtomicU64, Ordering};
use crate::role::{Member, Membership, Role, Status};
use crate::sequencer::Sequencer;
use crate::status::StatusCell;
use crate::storage::{LogReader, Recovered, StorageError};
use crate::watermark::Watermark;

/// The largest message fits beside many others, so it need not wait until there are none.
const _: () = assert!(Message::BYTES_MAX as u64 + (16 << 20) <= NODE_BYTES);

/// What a message counts in the inbox beyond its bytes and batches.
const INBOX_ENTRY_OVERHEAD: u64 = 256;

/// See the [module](self).
pub(crate) struct NodeShared {
    /// The process with the threads of the node. In a forked child no other field may be used.
    pub(crate) home: Home,
    /// As the node was when it was opened.
    opened: Status,
    /// The text that this node advertises.
    advertised: Option<Arc<str>>,
    pub(crate) sequencer: Sequencer,
    pub(crate) watermark: Watermark,
    pub(crate) reader: Arc<dyn LogReader>,
    pub(crate) status: StatusCell,
    /// Progress of the other members, as of the last tick of the engine.
    pub(crate) members: MembersBoard,
    /// The index after the last entry of the log, committed or not.
    pub(crate) end_index: AtomicU64,
    /// Of messages that wait in the engine's inputs.
    pub(crate) inbox: InboxSpace,
}

impl NodeShared {
    /// The state of a node that was just opened: a follower that knows no leader.
    ///
    /// # Errors
    /// If the recovered commit cannot be read.
    pub(crate) fn new(
        group: &str,
        id: NodeId,
        addresses: &[(NodeId, String)],
        advertised: &str,
        sequencer: Sequencer,
        recovered: &Recovered,
        reader: Arc<dyn LogReader>,
    ) -> Result<NodeShared, StorageError> {
        let committed = reader.point(recovered.hard_state.commit)?.unwrap_or(recovered.base.point);
        let advertised = Some(advertised).filter(|text| !text.is_empty()).map(Arc::from);
        let members = members(&recovered.base.membership, addresses, (id, &advertised));
        let status = Status {
            group: group.to_owned(),
            group_uid: Some(recovered.group_uid).filter(|uid| *uid != 0),
            id,
            role: Role::Follower,
            term: recovered.hard_state.term,
            leader: None,
            members,
            committed: 0..0,
            oldest_position: 0,
            committed_position: 0,
            end_index: 0,
            in_flight_bytes: 0,
            full: None,
            repair: None,
            refused: Vec::new(),
            fault: None,
            asleep: false,
            stopped: false,
        };
        let home = sequencer.home();
        Ok(NodeShared {
            home,
            opened: status.clone(),
            advertised,
            sequencer,
            watermark: Watermark::new(committed.next_index, committed.next_position).within(home),
            reader,
            status: StatusCell::new(status, home),
            members: MembersBoard::default(),
            end_index: AtomicU64::new(recovered.last.next_index),
            inbox: InboxSpace::new(None),
        })
    }

    /// The same, of a node that shares the space for messages with the others of its host.
    pub(crate) fn sharing(self, inbox: Option<Arc<HostInboxSpace>>) -> NodeShared {
        NodeShared { inbox: InboxSpace::new(inbox), ..self }
    }

    /// Whether there is room for a message in the engine's inputs; if so, it is counted.
    pub(crate) fn reserve_inbox(&self, message: &Message) -> bool {
        self.inbox.reserve(inbox_cost(message))
    }

    /// A message has left the inputs.
    pub(crate) fn release_inbox(&self, message: &Message) {
        self.inbox.release(inbox_cost(message));
    }

    /// The members of the group, of which nothing is known yet but what this node itself
    /// advertises.
    pub(crate) fn members_of(
        &self,
        membership: &Membership,
        addresses: &[(NodeId, String)],
    ) -> Vec<Member> {
        members(membership, addresses, (self.opened.id, &self.advertised))
    }

    /// The status. In a forked child: the id of the node, and the fork as its fault. Everything
    /// else may be locked there, by a thread that does not exist.
    pub(crate) fn status(&self) -> Status {
        if !self.home.is_here() {
            return Status { fault: Some(FORKED.to_owned()), ..self.opened.clone() };
        }
        let mut status = self.status.read(Status::clone);
        self.refresh(&mut status);
        status
    }

    /// Why the node no longer takes part.
    pub(crate) fn fault(&self) -> String {
        self.status.read(|status| status.fault.clone()).unwrap_or_default()
    }

    /// The error of a barrier that took longer than `timeout`.
    pub(crate) fn barrier_timed_out(&self, timeout: Duration) -> BarrierError {
        let refused = self.status.read(|status| status.refused.clone());
        match refused.is_empty() {
            true => BarrierError::TimedOut(timeout),
            false => BarrierError::Refused { timeout, refused },
        }
    }

    /// Fills in the parts of a status that change all the time.
    pub(crate) fn refresh(&self, status: &mut Status) {
        let (end, position) = self.watermark.end_and_position();
        let base = self.reader.base().point;
        status.committed = base.next_index.min(end)..end;
        status.oldest_position = base.next_position.min(position);
        status.committed_position = position;
        status.end_index = self.end_index.load(Ordering::Relaxed).max(end);
        status.in_flight_bytes = self.sequencer.in_flight();
        self.fill_in_members(status);
    }

    fn fill_in_members(&self, status: &mut Status) {
        let seen = self.members.read();
        for member in &mut status.members {
            let refusal = status.refused.iter().find(|refusal| refusal.peer == member.id);
            member.refused = refusal.map(|refusal| refusal.reason.clone());
            if member.id == status.id {
                member.end_index = Some(status.end_index);
            } else if let Some(seen) = seen.iter().find(|seen| seen.id == member.id) {
                member.heard = seen.heard;
                member.end_index =
                    seen.log.and_then(|log| Some(self.point(log.confirmed)?.next_index));
                member.in_flight_bytes = seen.log.and_then(|log| self.in_flight_to(log));
            }
        }
    }

    /// Payload bytes of the batches that were sent and not confirmed, as far as they are written
    /// here.
    fn in_flight_to(&self, log: MemberLog) -> Option<u64> {
        if log.sent <= log.confirmed {
            return Some(0);
        }
        let (confirmed, sent) = (self.point(log.confirmed)?, self.point(log.sent)?);
        Some(sent.next_position.saturating_sub(confirmed.next_position))
    }

    /// The log point after a batch. `None` if it is not kept, or cannot be read now: a status does
    /// not fail.
    fn point(&self, raft_index: u64) -> Option<LogPoint> {
        self.reader.point(raft_index).ok().flatten()
    }
}

impl fmt::Debug for NodeShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeShared")
            .field("group", &self.opened.group)
            .field("id", &self.opened.id)
            .finish_non_exhaustive()
    }
}

fn inbox_cost(message: &Message) -> u64 {
    message.memory_bytes() + INBOX_ENTRY_OVERHEAD
}

/// The members of a group and where they are reached, as the builder was told. Nothing is known of
/// them yet, but what this node itself advertises.
fn members(
    membership: &Membership,
    addresses: &[(NodeId, String)],
    own: (NodeId, &Option<Arc<str>>),
) -> Vec<Member> {
    let address = |id| {
        addresses
            .iter()
            .find(|(node, _)| *node == id)
            .map_or_else(String::new, |(_, address)| address.clone())
    };
    let mut members: Vec<Member> = membership
        .voters
        .iter()
        .map(|id| (*id, true))
        .chain(membership.learners.iter().map(|id| (*id, false)))
        .map(|(id, voter)| Member {
            advertised: own.1.clone().filter(|_| id == own.0),
            ..Member::new(id, address(id), voter)
        })
        .collect();
    members.sort_by_key(|member| member.id);
    members
}
