//! What raft-rs is told of the log, and what a rebase must carry.

use raft::GetEntriesContext;
use raft::eraftpb::Snapshot;

use super::*;
use crate::replica::snapshot;
use crate::storage::reads::FailingReader;
use crate::storage::{LogOwner, MemoryLog, Storage};

fn nodes(ids: &[u64]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId::from).collect()
}

fn membership() -> Membership {
    Membership { voters: nodes(&[1, 2, 3]), learners: Vec::new() }
}

/// Control batches behind genesis, from raft index 2 on, of these terms.
fn batches(terms: &[u64]) -> Vec<Batch> {
    let place =
        |(at, term): (usize, &u64)| Batch::new(at as u64 + 2, *term, bytes::Bytes::new()).unwrap();
    terms.iter().enumerate().map(place).collect()
}

/// A log of control batches of these terms; what was recovered from it; and a view of it.
fn log_of(terms: &[u64]) -> (MemoryLog, Recovered, LogView, Arc<FailingReader>) {
    let owner = LogOwner {
        group: "view".to_owned(),
        node: NodeId::from(1),
        cluster: 1,
        membership: membership(),
    };
    let mut log = MemoryLog::new();
    let recovered = log.open(&owner).unwrap();
    let reads = Arc::new(FailingReader::new(log.reader()));
    let mut view = LogView::new(&recovered, 0, reads.clone());
    view.terms = view.terms_from(recovered.hard_state.commit, recovered.last).unwrap();
    let batches = batches(terms);
    if !batches.is_empty() {
        log.append(&batches, 1).unwrap();
    }
    batches.iter().for_each(|batch| view.written(batch));
    (log, recovered, view, reads)
}

fn terms_of(view: &LogView, range: std::ops::Range<u64>) -> Vec<Option<u64>> {
    range.map(|index| raft::Storage::term(view, index).ok()).collect()
}

#[test]
fn terms_are_known_from_the_base_to_the_end_and_are_kept_once_each() {
    let (_log, _, view, _) = log_of(&[2, 2, 2, 3, 3, 5]);
    assert_eq!(
        terms_of(&view, 0..9),
        [None, Some(1), Some(2), Some(2), Some(2), Some(3), Some(3), Some(5), None]
    );
    assert_eq!(view.terms, [(1, 1), (2, 2), (5, 3), (7, 5)]);
    assert!(view.read_error.borrow().is_none());
}

#[test]
fn a_cut_forgets_the_terms_behind_it_and_older_ones_are_looked_up() {
    let (mut log, _, mut view, _) = log_of(&[2, 2, 3, 4]);
    let newer = Batch::new(4, 5, bytes::Bytes::new()).unwrap();
    log.append(std::slice::from_ref(&newer), 1).unwrap();
    view.truncate(4);
    assert_eq!((view.last, terms_of(&view, 3..6)), (3, vec![Some(2), None, None]));
    view.written(&newer);
    assert_eq!(view.terms, [(1, 1), (2, 2), (4, 5)]);
    // As after a restart, when the terms are known from the commit on.
    view.terms = vec![(3, 2), (4, 5)];
    view.truncate(4);
    assert_eq!(view.terms, [(3, 2)]);
    assert_eq!(terms_of(&view, 1..5), [Some(1), Some(2), Some(2), None]);
}

#[test]
fn what_cannot_be_read_is_a_fault_and_what_was_purged_is_none() {
    let (mut log, _, mut view, reads) = log_of(&[2, 3, 4]);
    log.purge(0, 4).unwrap();
    view.terms = vec![(4, 4)];
    reads.fail();
    assert_eq!(
        view.point(1).map(|point| point.raft_index),
        Some(1),
        "the base is known without the log"
    );
    assert!(view.read_error.borrow().is_none());
    assert_eq!(view.term_of(3), None);
    assert!(view.read_error.borrow_mut().take().is_some());
    let entries = || raft::Storage::entries(&view, 2, 4, None, GetEntriesContext::empty(true));
    assert!(
        entries().is_err() && view.read_error.borrow().is_none(),
        "it is not read before its time"
    );
    view.reading.open();
    let entries = entries();
    assert!(matches!(
        entries,
        Err(raft::Error::Store(raft::StorageError::LogTemporarilyUnavailable))
    ));
    assert!(view.read_error.borrow().is_some());
}

#[test]
fn entries_for_peers_are_whole_and_those_that_are_only_counted_are_not_read() {
    let (mut log, _, mut view, reads) = log_of(&[2, 2]);
    let mut open = crate::batch::OpenBatch::with_capacity(1);
    open.push(b"x", crc32fast::hash(b"x"));
    let batch = Batch::new(4, 3, open.close(0, 0, 0)).unwrap();
    log.append(std::slice::from_ref(&batch), 1).unwrap();
    view.written(&batch);
    let entries = |view: &LogView, low, high, is_patient| {
        view.reading.open();
        let context = GetEntriesContext::empty(is_patient);
        raft::Storage::entries(view, low, high, None, context)
    };
    let whole = entries(&view, 3, 5, true).unwrap();
    assert_eq!(
        whole.iter().map(|entry| (entry.index, entry.term)).collect::<Vec<_>>(),
        [(3, 2), (4, 3)]
    );
    assert_eq!(whole[1].data, batch.body());
    reads.fail();
    let counted = entries(&view, 3, 5, false).unwrap();
    assert_eq!(
        counted.iter().map(|entry| (entry.index, entry.term, entry.data.len())).collect::<Vec<_>>(),
        [(3, 2, 0), (4, 3, 0)]
    );
    for is_patient in [true, false] {
        let compacted = entries(&view, 1, 3, is_patient);
        assert!(matches!(compacted, Err(raft::Error::Store(raft::StorageError::Compacted))));
    }
    assert!(view.read_error.borrow().is_none());
}

#[test]
fn a_snapshot_is_the_base_and_only_for_who_asks_for_no_later_one() {
    let (_log, _, view, _) = log_of(&[2]);
    let snapshot = raft::Storage::snapshot(&view, 1, 2).unwrap();
    assert_eq!(base_of(&snapshot), view.base);
    let later = raft::Storage::snapshot(&view, 2, 2);
    assert!(matches!(
        later,
        Err(raft::Error::Store(raft::StorageError::SnapshotTemporarilyUnavailable))
    ));
}

#[test]
fn a_rebase_that_lies_before_what_is_committed_is_refused() {
    let owner = LogOwner {
        group: "view".to_owned(),
        node: NodeId::from(1),
        cluster: 1,
        membership: membership(),
    };
    let mut log = MemoryLog::new();
    let mut recovered = log.open(&owner).unwrap();
    let here = LogPoint {
        raft_index: 5,
        term: 2,
        next_index: 10,
        next_position: 100,
        timestamp: 1000,
        chain: 7,
    };
    recovered.group_uid = 7;
    recovered.base.point = here;
    recovered.last = here;
    recovered.hard_state.commit = here.raft_index;
    let settings = Settings {
        group: owner.group,
        node: owner.node,
        election_ticks: 10,
        heartbeat_ticks: 2,
        message_bytes: 1,
        counts_unsynced: false,
        catch_up_bytes: u64::MAX,
        seed: 1,
        new_group_uid: 0,
    };
    let core = RaftCore::new(&settings, &recovered, log.reader()).unwrap();
    let is_taken_of = |group_uid: u128, point: LogPoint| {
        let data = snapshot::encode(&point, group_uid).into();
        let mut snapshot = Snapshot { data, ..Snapshot::default() };
        (snapshot.mut_metadata().index, snapshot.mut_metadata().term) =
            (point.raft_index, point.term);
        core.check_snapshot(&snapshot).is_ok()
    };
    let is_taken = |point: LogPoint| is_taken_of(0, point);
    let later = LogPoint { raft_index: 6, ..here };
    assert!(is_taken_of(7, later) && !is_taken_of(8, later), "of this group only");
    assert!(is_taken(here) && is_taken(later));
    assert!(is_taken(LogPoint { next_index: 11, next_position: 101, timestamp: 1001, ..later }));
    assert!(!is_taken(LogPoint { next_index: 9, ..later }));
    assert!(!is_taken(LogPoint { next_position: 99, ..later }));
    assert!(!is_taken(LogPoint { timestamp: 999, ..later }));
    assert!(
        is_taken(LogPoint { raft_index: 4, next_index: 9, ..here }),
        "it is late, and raft-rs takes no notice of it"
    );
    let empty = Snapshot::default();
    assert!(core.check_snapshot(&empty).is_err());
}
