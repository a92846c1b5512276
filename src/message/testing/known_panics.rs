//! Every message that is known to make raft 0.7 panic or to damage a log in silence, by the names
//! of the list that a probe of raft drew up (F: received by a follower, L: by a leader), and
//! whether the gate stops it.

use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType, Message as Inner, MessageType, Snapshot};

use crate::batch::OpenBatch;
use crate::entry::NodeId;
use crate::message::{Message, MessageRejection, ReplicaView};
use crate::role::Membership;

use MessageType::*;

/// The replica that the probe used: node 1 of 1, 2, 3. As a follower of node 2: term 2, batches
/// 1..=10 of terms 1 (up to 5) and 2, committed up to 5. As a leader: term 3, batch 11 is its own,
/// all committed.
fn judge(leads: bool, inner: &Inner) -> Result<(), MessageRejection> {
    judge_at(leads, if leads { 3 } else { 2 }, inner)
}

fn judge_at(leads: bool, term: u64, inner: &Inner) -> Result<(), MessageRejection> {
    let last = if leads { 11 } else { 10 };
    let view = ReplicaView {
        me: NodeId::from(1),
        membership: &Membership::of_voters([1, 2, 3].map(NodeId::from)),
        leads,
        leader: Some(NodeId::from(if leads { 1 } else { 2 })),
        term,
        commit: if leads { 11 } else { 5 },
        last,
        term_at: &|index| {
            (1..=last).contains(&index).then(|| if index <= 5 { 1 } else { 2 + index / 11 })
        },
    };
    Message::new(inner.clone()).check(&view)
}

fn from_2(msg_type: MessageType, term: u64) -> Inner {
    Inner { msg_type, from: 2, to: 1, term, ..Default::default() }
}

fn entry(index: u64, term: u64) -> Entry {
    let mut open = OpenBatch::with_capacity(4);
    open.push(b"data", crc32fast::hash(b"data"));
    Entry { index, term, data: open.close(index, 0, 1), ..Default::default() }
}

fn append(log_term: u64, index: u64, entries: &[Entry]) -> Inner {
    Inner { log_term, index, commit: 10, entries: entries.to_vec().into(), ..from_2(MsgAppend, 2) }
}

fn snapshot(index: u64, voters: &[u64], learners: &[u64]) -> Inner {
    let mut message = from_2(MsgSnapshot, 2);
    let metadata = message.mut_snapshot().mut_metadata();
    (metadata.index, metadata.term) = (index, 2);
    metadata.mut_conf_state().voters = voters.to_vec();
    metadata.mut_conf_state().learners = learners.to_vec();
    message
}

fn refused(name: &str, leads: bool, inner: &Inner) {
    let judged = judge(leads, inner);
    assert!(matches!(judged, Err(MessageRejection::Invalid(_))), "{name}: {judged:?}");
}

fn legal(name: &str, leads: bool, inner: &Inner) {
    assert_eq!(judge(leads, inner), Ok(()), "{name}");
}

#[test]
fn what_a_lost_or_diverged_log_provokes_is_fatal_and_not_a_panic() {
    let f1 = Inner { commit: 11, ..from_2(MsgHeartbeat, 2) };
    assert_eq!(judge(false, &f1), Err(MessageRejection::Regressed { commit: 11, last: 10 }));
    legal("F1, from a term that is over", false, &Inner { term: 1, ..f1 });
    let replaced = Inner { commit: 9, commit_term: 1, ..from_2(MsgHeartbeat, 2) };
    let proof = MessageRejection::Replaced { commit: 9, ours: 2, theirs: 1 };
    assert_eq!(judge(false, &replaced), Err(proof));
    legal("a batch of the same term", false, &Inner { commit_term: 2, ..replaced.clone() });
    legal("a batch of a term that is not known", false, &Inner { commit_term: 0, ..replaced });
    let committed = Inner { commit: 5, commit_term: 2, ..from_2(MsgHeartbeat, 2) };
    let diverged = MessageRejection::Diverged { index: 5, ours: 1, theirs: 2 };
    assert_eq!(judge(false, &committed), Err(diverged));
    let diverged = MessageRejection::Diverged { index: 5, ours: 1, theirs: 2 };
    assert_eq!(judge(false, &append(1, 4, &[entry(5, 2)])), Err(diverged.clone()));
    assert_eq!(judge(false, &append(2, 5, &[])), Err(diverged.clone()));
    let mut conflicting = snapshot(5, &[1, 2, 3], &[]);
    assert_eq!(judge(false, &conflicting), Err(diverged));
    conflicting.term = 1;
    conflicting.mut_snapshot().mut_metadata().term = 1;
    legal("a snapshot of what is here", false, &conflicting);
    legal("a conflict from a term that is over", true, &append(2, 10, &[entry(11, 2)]));
}

#[test]
fn appends_that_would_tear_the_log_are_refused() {
    legal("the honest one", false, &append(2, 10, &[entry(11, 2), entry(12, 2)]));
    legal(
        "an honest heartbeat of an append",
        false,
        &Inner { commit: 1 << 40, ..append(2, 10, &[]) },
    );
    refused("F2", false, &Inner { commit: 50, ..append(0, 50, &[]) });
    refused("F3", false, &append(0, 50, &[entry(51, 2)]));
    refused("F4", false, &append(2, 10, &[entry(12, 2)]));
    refused("F5", false, &append(2, 10, &[entry(11, 2), entry(13, 2)]));
    refused("F6", false, &append(2, 10, &[entry(9, 1)]));
    refused("F7", false, &append(2, 10, &[entry(0, 2)]));
    refused("F8", false, &append(1, 5, &[entry(4, 2)]));
    refused("F9", false, &append(1, 5, &[entry(6, 2), entry(7, 1)]));
    refused("F9, at the first entry", false, &append(2, 6, &[entry(7, 1)]));
    refused("F10", false, &append(2, 10, &[entry(11, 9)]));
    refused("F11", false, &Inner { term: 0, ..append(2, 10, &[entry(11, 2)]) });
    refused("F12", false, &Inner { from: 99, ..append(2, 10, &[]) });
    refused(
        "F12, from a member that does not lead",
        false,
        &Inner { from: 3, ..append(2, 10, &[]) },
    );
    refused(
        "a heartbeat from a member that does not lead",
        false,
        &Inner { from: 3, ..from_2(MsgHeartbeat, 2) },
    );
    refused("F33", false, &append(0, u64::MAX, &[]));
    refused("F34", false, &append(0, u64::MAX, &[entry(0, 2)]));
    refused("from node 0", false, &Inner { from: 0, ..append(2, 10, &[]) });
    refused("from the node itself", true, &Inner { from: 1, term: 3, ..append(2, 10, &[]) });
    refused("to another", false, &Inner { to: 3, ..append(2, 10, &[]) });
    let control = Entry { index: 1 << 62, term: 2, ..Default::default() };
    refused("an index beyond all sums", false, &append(2, (1 << 62) - 1, &[control]));
    refused("a commit beyond all sums", false, &Inner { commit: 1 << 62, ..append(2, 10, &[]) });
    refused(
        "a snapshot in a heartbeat",
        false,
        &Inner { msg_type: MsgHeartbeat, ..snapshot(100, &[1, 2, 3], &[]) },
    );
}

#[test]
fn appends_of_what_is_not_a_sound_batch_are_refused() {
    let with = |change: fn(&mut Entry)| {
        let mut entry = entry(11, 2);
        change(&mut entry);
        append(2, 10, &[entry])
    };
    legal("a control record", false, &with(|entry| entry.data = Bytes::new()));
    refused("garbage", false, &with(|entry| entry.data = Bytes::from_static(b"garbage")));
    refused(
        "a flipped bit",
        false,
        &with(|entry| {
            entry.data = entry.data.iter().map(|&b| if b == b'd' { b'D' } else { b }).collect()
        }),
    );
    refused(
        "a change of members",
        false,
        &with(|entry| entry.entry_type = EntryType::EntryConfChangeV2),
    );
    refused(
        "an entry with a context",
        false,
        &with(|entry| entry.context = Bytes::from_static(b"x")),
    );
    let strayed = Entry { index: 12, term: 2, ..entry(14, 2) };
    refused(
        "batches that do not continue each other",
        false,
        &append(2, 10, &[entry(11, 2), strayed]),
    );
    legal("a control record between batches", false, &{
        let control = Entry { index: 12, term: 2, ..Default::default() };
        append(2, 10, &[entry(11, 2), control, Entry { index: 13, term: 2, ..entry(12, 2) }])
    });
}

#[test]
fn votes_and_terms_that_would_poison_the_group_are_refused() {
    let vote = |msg_type, term| Inner {
        from: 3,
        index: 10,
        log_term: 2,
        commit: 5,
        commit_term: 1,
        ..from_2(msg_type, term)
    };
    legal("an honest request", false, &vote(MsgRequestVote, 3));
    legal("a request from a term that is over", true, &vote(MsgRequestVote, 2));
    legal(
        "a transfer",
        true,
        &Inner { context: Bytes::from_static(b"CampaignTransfer"), ..vote(MsgRequestVote, 4) },
    );
    refused("F13, F13b", false, &Inner { log_term: 0, commit_term: 0, ..vote(MsgRequestVote, 0) });
    refused("F13c", false, &Inner { log_term: 0, commit_term: 0, ..vote(MsgRequestPreVote, 0) });
    refused("F18, F18b", false, &from_2(MsgHeartbeat, u64::MAX));
    assert!(
        judge_at(false, (1 << 48) - 1, &from_2(MsgHeartbeat, 1 << 48)).is_err(),
        "a term beyond all elections"
    );
    refused("a term that leaps", false, &from_2(MsgHeartbeat, 1 << 40));
    refused(
        "L13",
        true,
        &Inner {
            context: Bytes::from_static(b"CampaignTransfer"),
            ..vote(MsgRequestVote, u64::MAX)
        },
    );
    refused(
        "a made-up context",
        true,
        &Inner { context: Bytes::from_static(b"Campaign"), ..vote(MsgRequestVote, 4) },
    );
    refused("a log newer than its term", false, &Inner { log_term: 4, ..vote(MsgRequestVote, 3) });
    refused(
        "a commit newer than the log",
        false,
        &Inner { commit_term: 3, ..vote(MsgRequestVote, 3) },
    );
    refused("a commit behind the log", false, &Inner { commit: 11, ..vote(MsgRequestVote, 3) });
    refused("F17", false, &Inner { from: 99, ..from_2(MsgTimeoutNow, 2) });
    refused(
        "F17, from a member that does not lead",
        false,
        &Inner { from: 3, ..from_2(MsgTimeoutNow, 2) },
    );
    legal("F17, from the leader", false, &from_2(MsgTimeoutNow, 2));
    // A peer that lies about what is committed cannot be told from one that does not: Raft trusts
    // members, so the hello admits no others.
    legal("F30", false, &Inner { commit: 10, commit_term: 2, ..vote(MsgRequestVote, 3) });
}

#[test]
fn snapshots_that_would_not_read_back_are_refused() {
    legal("F29", false, &snapshot(100, &[3, 1, 2], &[]));
    refused("F21", false, &from_2(MsgSnapshot, 2));
    refused(
        "F21, empty",
        false,
        &Inner { snapshot: Some(Snapshot::default()).into(), ..from_2(MsgSnapshot, 2) },
    );
    refused("F22", false, &snapshot(100, &[1, 1, 2], &[]));
    refused("F23", false, &snapshot(100, &[1, 2, 3], &[3]));
    refused("F24", false, &snapshot(100, &[], &[1]));
    refused("F27", false, &snapshot(100, &[0, 1, 3], &[]));
    refused("F28", false, &snapshot(u64::MAX, &[1, 2, 3], &[]));
    refused("a group without this node", false, &snapshot(100, &[2, 3], &[]));
    let mut f25 = snapshot(100, &[1, 2], &[]);
    f25.mut_snapshot().mut_metadata().mut_conf_state().learners_next = vec![3];
    refused("F25", false, &f25);
    let mut f26 = snapshot(100, &[1, 2, 3], &[]);
    f26.mut_snapshot().mut_metadata().mut_conf_state().auto_leave = true;
    refused("F26", false, &f26);
    let mut newer = snapshot(100, &[1, 2, 3], &[]);
    newer.mut_snapshot().mut_metadata().term = 3;
    refused("a snapshot newer than its term", false, &newer);
    let mut large = snapshot(100, &[1, 2, 3], &[]);
    large.mut_snapshot().data = Bytes::from(vec![0; (64 << 10) + 1]);
    refused("more state than a snapshot may carry", false, &large);
    refused("L9", true, &Inner { term: 3, ..snapshot(100, &[1, 2, 3], &[]) });
}

#[test]
fn acknowledgements_of_what_was_never_sent_are_refused() {
    let ack = |index| Inner { index, ..from_2(MsgAppendResponse, 3) };
    let rejection = |index, reject_hint| Inner { reject: true, reject_hint, ..ack(index) };
    legal("an honest one", true, &ack(11));
    legal("an honest rejection", true, &rejection(11, 10));
    legal("one from a newer term", true, &Inner { term: 4, ..ack(0) });
    legal("one for a leader of a term that is over", true, &Inner { term: 2, ..ack(500) });
    legal("one for a node that no longer leads", false, &Inner { term: 2, ..ack(500) });
    refused("L5, L5b", true, &ack(500));
    refused("L6", true, &ack(u64::MAX));
    refused("L7", true, &rejection(11, u64::MAX));
    refused("L7b", true, &rejection(12, u64::MAX));
    refused("L7b, with a hint just behind the log", true, &rejection(11, 12));
    refused("L8", true, &Inner { request_snapshot: 5, ..rejection(11, 10) });
    refused("L10", true, &Inner { term: 3, ..append(2, 10, &[]) });
    refused("L14", true, &Inner { from: 99, ..ack(11) });
    // Raft looks the context up among those that it waits for, and finds none.
    legal(
        "L12",
        true,
        &Inner { context: Bytes::from_static(b"unknown"), ..from_2(MsgHeartbeatResponse, 3) },
    );
    refused(
        "L12, without bound",
        true,
        &Inner { context: Bytes::from(vec![0; 65]), ..from_2(MsgHeartbeatResponse, 3) },
    );
}

#[test]
fn reads_without_their_ticket_are_refused() {
    let read = |msg_type, term, ticket: usize| {
        let data = Bytes::from(vec![7; ticket]);
        Inner {
            entries: vec![Entry { data, ..Default::default() }].into(),
            ..from_2(msg_type, term)
        }
    };
    legal("an honest request", true, &read(MsgReadIndex, 0, 8));
    legal("an honest answer", false, &read(MsgReadIndexResp, 2, 8));
    // Raft takes the commit of an answer only where its own log has that batch with that term.
    legal("F20", false, &Inner { index: 999, ..read(MsgReadIndexResp, 2, 8) });
    refused("F15", false, &read(MsgReadIndex, 2, 8));
    refused("F15, at a leader", true, &read(MsgReadIndex, 3, 8));
    refused("F15, without a term, at a follower", false, &read(MsgReadIndex, 0, 8));
    refused("F19", false, &from_2(MsgReadIndexResp, 2));
    refused("L1", true, &from_2(MsgReadIndex, 0));
    refused("an empty ticket", true, &read(MsgReadIndex, 0, 0));
    legal("the largest ticket", true, &read(MsgReadIndex, 0, 56));
    refused("a ticket beyond its limit", true, &read(MsgReadIndex, 0, 57));
    refused("batches in a heartbeat", false, &read(MsgHeartbeat, 2, 8));
}

#[test]
fn kinds_that_stay_inside_a_node_are_refused() {
    for (name, leads, kind, term) in [
        ("F14", false, MsgTransferLeader, 2),
        ("F16", false, MsgPropose, 2),
        ("F31", false, MsgHup, 2),
        ("F32", false, MsgUnreachable, 2),
        ("F32", false, MsgCheckQuorum, 2),
        ("L2", true, MsgPropose, 3),
        ("L3, L4", true, MsgPropose, 3),
        ("L11", true, MsgTransferLeader, 3),
        ("a beat", true, MsgBeat, 3),
        ("the fate of a snapshot", true, MsgSnapStatus, 3),
    ] {
        refused(name, leads, &from_2(kind, term));
    }
}
