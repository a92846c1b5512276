//! The unique id of a group is saved once, and lasts.

use super::driver::{Case, broken, owner};
use super::rule::Rule;
use crate::batch::LogPoint;
use crate::role::Membership;
use crate::storage::{Base, Recovered, Storage, StorageError};

const UID: u128 = 0xa1b2_c3d4_0000_0001_0000_0000_0000_0002;

pub(super) fn the_unique_id_of_a_group(case: &mut Case<'_>) {
    case.harness.fresh();
    let (mut storage, new) = open(case);
    demand(case, new.group_uid == 0, "a new log has an id");
    demand(case, storage.save_group_uid(UID).is_ok(), "an id could not be saved");
    let (mut storage, known) = reopen(case, storage);
    if known.group_uid == 0 {
        return case.staged = false; // the default of the trait saves none
    }
    demand(case, known.group_uid == UID, "opened again it has another id");
    demand(case, storage.save_group_uid(UID).is_ok(), "the same id was refused");
    for other in [UID + 1, 0] {
        let refused = storage.save_group_uid(other);
        demand(
            case,
            matches!(refused, Err(StorageError::InvalidState(_))),
            "another id was not refused with `InvalidState`",
        );
    }
    let _ = storage.set_complete(false);
    let base = Base { point: LogPoint::INITIAL, membership: Membership::of_voters([owner().node]) };
    demand(case, storage.reset(&base).is_ok(), "it could not be reset");
    let (_storage, again) = reopen(case, storage);
    demand(case, again.group_uid == UID, "reset and opened again it has another id");
}

fn demand(case: &Case<'_>, holds: bool, otherwise: &str) {
    if !holds {
        broken(case.name, Rule::GroupUid, otherwise);
    }
}

fn open(case: &mut Case<'_>) -> (Box<dyn Storage>, Recovered) {
    let mut storage = case.harness.handle();
    let recovered = storage
        .open(&owner())
        .unwrap_or_else(|error| broken(case.name, Rule::Open, format!("it did not open: {error}")));
    (storage, recovered)
}

/// After a crash, if the harness can stage one. The id was synced.
fn reopen(case: &mut Case<'_>, mut storage: Box<dyn Storage>) -> (Box<dyn Storage>, Recovered) {
    demand(case, storage.begin_sync().wait().is_ok(), "it could not be synced");
    case.staged &= case.harness.crash();
    drop(storage);
    open(case)
}
