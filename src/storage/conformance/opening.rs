//! Cases of opening: the owner of the log, and its identity.

use super::driver::{Case, broken, owner};
use super::expected::batch_after;
use super::rule::Rule;
use crate::batch::LogPoint;
use crate::entry::NodeId;
use crate::role::Membership;
use crate::storage::{HardState, LogOwner, Recovered, Storage, StorageError};

pub(super) fn a_new_log(case: &mut Case<'_>) {
    let first = case.begin();
    let wanted = HardState { term: 1, vote: None, commit: 1 };
    if first.hard_state() != wanted {
        broken(
            case.name,
            Rule::Open,
            format!("a new log has the hard state {:?} instead of {wanted:?}", first.hard_state()),
        );
    }
    let directory = first.identity().directory;
    first.close();
    if case.begin().identity().directory == directory {
        broken(
            case.name,
            Rule::Open,
            format!("two storages were made with the same directory id {directory:x}"),
        );
    }
}

pub(super) fn opened_again(case: &mut Case<'_>) {
    let mut driver = case.begin();
    for round in 0..5 {
        driver.append(&[&[round], &[10, 20]]);
        driver.sync();
        let past = driver.close();
        driver = case.reopen(past);
    }
}

pub(super) fn anothers_log(case: &mut Case<'_>) {
    let mut driver = case.begin();
    driver.append(&[&[100]]);
    driver.sync();
    let mut past = driver.close();
    let voters = |ids: [u64; 3]| Membership::of_voters(ids.map(NodeId::from));
    let learners = vec![NodeId::from(4)];
    for (what, stranger) in [
        ("group", LogOwner { group: "conformance2".into(), ..owner() }),
        ("node", LogOwner { node: NodeId::from(1), ..owner() }),
        ("cluster", LogOwner { cluster: 7, ..owner() }),
        ("first position", LogOwner { first_position: 7, ..owner() }),
        ("voters", LogOwner { membership: voters([1, 2, 4]), ..owner() }),
        (
            "learners",
            LogOwner { membership: Membership { learners, ..voters([1, 2, 3]) }, ..owner() },
        ),
    ] {
        match case.harness.handle().open(&stranger) {
            Err(StorageError::Mismatch { .. }) => {}
            other => broken(
                case.name,
                Rule::Open,
                format!("opened with another {what} it gave {other:?} instead of Mismatch"),
            ),
        }
        past = case.reopen(past).close();
    }
}

pub(super) fn opened_twice(case: &mut Case<'_>) {
    let mut driver = case.begin();
    for _ in 0..2 {
        match case.harness.handle().open(&owner()) {
            Err(StorageError::InUse { .. }) => {}
            other => broken(
                case.name,
                Rule::Open,
                format!("opened while it is open it gave {other:?} instead of InUse"),
            ),
        }
        driver.append(&[&[100]]);
        driver.sync();
    }
    let past = driver.close();
    case.reopen(past);
}

pub(super) fn the_first_position_of_a_group(case: &mut Case<'_>) {
    for first_position in [1, 1 << 40, 1 << 60] {
        case.harness.fresh();
        let here = LogOwner { first_position, ..owner() };
        let begin = LogPoint::initial_at(first_position);
        let (mut storage, recovered) = open(case, &here);
        demand(case, recovered.base.point == begin && recovered.last == begin, &recovered);
        let first = batch_after(&begin, 1, 7, &[3, 0, 5]);
        let taken = storage.append(std::slice::from_ref(&first), 1);
        if taken.is_err() || storage.begin_sync().wait().is_err() {
            broken(case.name, Rule::Append, format!("the first batch gave {taken:?}"));
        }
        let reader = storage.reader();
        let read = (reader.entry_at(first_position), reader.entry_at(first_position + 8));
        if !matches!(&read, (Ok(Some(entry)), Ok(None)) if entry.position() == first_position) {
            broken(case.name, Rule::Read, format!("the bounds of the first batch gave {read:?}"));
        }
        drop((reader, storage));
        for other in [0, first_position + 1] {
            let stranger = LogOwner { first_position: other, ..owner() };
            match case.harness.handle().open(&stranger) {
                Err(StorageError::Mismatch { .. }) => {}
                other => broken(
                    case.name,
                    Rule::Open,
                    format!("opened with another first position it gave {other:?}"),
                ),
            }
        }
        let (_storage, again) = open(case, &here);
        let is_kept = again.base.point == begin && again.last.next_position == first_position + 8;
        demand(case, is_kept, &again);
    }
}

fn demand(case: &Case<'_>, holds: bool, recovered: &Recovered) {
    if !holds {
        let (base, last) = (recovered.base.point, recovered.last);
        broken(
            case.name,
            Rule::Open,
            format!("it was opened with the log from {base:?} to {last:?}"),
        );
    }
}

fn open(case: &mut Case<'_>, owner: &LogOwner) -> (Box<dyn Storage>, Recovered) {
    let mut storage = case.harness.handle();
    let recovered = storage
        .open(owner)
        .unwrap_or_else(|error| broken(case.name, Rule::Open, format!("it did not open: {error}")));
    (storage, recovered)
}
