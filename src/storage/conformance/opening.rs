//! Cases of opening: the owner of the log, and its identity.

use super::driver::{Case, broken, owner};
use super::rule::Rule;
use crate::entry::NodeId;
use crate::role::Membership;
use crate::storage::{HardState, LogOwner, StorageError};

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
