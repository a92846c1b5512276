//! Conversions between the types of the Raft library and those of this crate.

use raft::eraftpb::{ConfState, Entry as RaftEntry, Message as RaftMessage, Snapshot};

use crate::batch::Batch;
use crate::entry::NodeId;
use crate::replica::snapshot;
use crate::role::Membership;
use crate::storage::Base;

/// Length of the tag in front of the request context of a peer's read-index request, in bytes.
const REQUEST_TAG_BYTES: usize = size_of::<u64>();

/// A read response with the context of the request, without the tag.
pub(super) fn untagged(mut response: RaftMessage) -> RaftMessage {
    if let Some(context) = response.entries.first_mut() {
        context.data = context.data.slice(REQUEST_TAG_BYTES.min(context.data.len())..);
    }
    response
}

pub(super) fn batch_of(entry: &RaftEntry) -> Result<Batch, crate::batch::BatchError> {
    Batch::new(entry.index, entry.term, entry.data.clone())
}

pub(super) fn entry_of(batch: &Batch) -> RaftEntry {
    RaftEntry {
        index: batch.raft_index(),
        term: batch.term(),
        data: batch.body().clone(),
        ..RaftEntry::default()
    }
}

pub(super) fn conf_state_of(membership: &Membership) -> ConfState {
    let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.get()).collect::<Vec<_>>();
    ConfState::from((ids(&membership.voters), ids(&membership.learners)))
}

/// The unique id of the group that a snapshot carries. 0: none. Its bytes were checked when the
/// message arrived.
pub(super) fn group_uid_of(snapshot: &Snapshot) -> u128 {
    snapshot::group_uid(&snapshot.data)
}

/// The base that a snapshot carries. Its bytes were checked when the message arrived.
pub(super) fn base_of(snapshot: &Snapshot) -> Base {
    let metadata = snapshot.get_metadata();
    let nodes = |ids: &[u64]| ids.iter().copied().map(NodeId::from).collect();
    let conf_state = metadata.get_conf_state();
    Base {
        point: snapshot::decode(metadata.index, metadata.term, &snapshot.data)
            .expect("checked before it was taken"),
        membership: Membership {
            voters: nodes(&conf_state.voters),
            learners: nodes(&conf_state.learners),
        },
    }
}
