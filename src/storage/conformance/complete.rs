//! Cases of a log that is marked as incomplete, and as complete again.

use super::driver::{Case, broken, owner};
use super::rule::Rule;
use crate::entry::NodeId;
use crate::storage::{Recovered, Storage, StorageError};

pub(super) fn a_log_that_is_not_complete(case: &mut Case<'_>) {
    case.harness.fresh();
    let (mut storage, new) = open(case);
    let peer = NodeId::from(3);
    demand(case, storage.save_peer(peer, 7).is_ok(), "a peer could not be remembered");
    let first = match storage.set_complete(false) {
        Err(StorageError::InvalidState(_)) => return case.staged = false,
        marked => marked.unwrap_or_else(|error| {
            broken(case.name, Rule::Complete, format!("it could not be marked: {error}"))
        }),
    };
    demand(case, !first.complete, "it calls itself complete");
    demand(
        case,
        first.directory != new.identity.directory,
        "it is known by the directory id that it had",
    );
    demand(case, first.incarnation == new.identity.incarnation, "it was not opened again");
    let second = point(case, &mut *storage, false);
    demand(
        case,
        second.directory != first.directory,
        "marked once more it is known by the same directory id",
    );
    let marked = reopen(case, storage);
    demand(case, !marked.1.identity.complete, "opened again it calls itself complete");
    demand(
        case,
        marked.1.identity.directory == second.directory,
        "opened again it has another directory id",
    );
    demand(case, marked.1.peers.is_empty(), "it knows what it knew of its peers");
    let (mut storage, _) = marked;
    demand(case, storage.save_peer(peer, 8).is_ok(), "a peer could not be remembered");
    let whole = point(case, &mut *storage, true);
    demand(
        case,
        whole.complete && whole.directory == second.directory,
        "complete again it has another directory id",
    );
    let (_storage, again) = reopen(case, storage);
    demand(case, again.identity.complete, "opened again it does not call itself complete");
    demand(
        case,
        again.identity.directory == second.directory,
        "opened again it has another directory id",
    );
    demand(case, again.peers == [(peer, 8)], "it has forgotten its peers");
}

fn demand(case: &Case<'_>, holds: bool, otherwise: &str) {
    if !holds {
        broken(case.name, Rule::Complete, otherwise);
    }
}

fn open(case: &mut Case<'_>) -> (Box<dyn Storage>, Recovered) {
    let mut storage = case.harness.handle();
    let recovered = storage
        .open(&owner())
        .unwrap_or_else(|error| broken(case.name, Rule::Open, format!("it did not open: {error}")));
    (storage, recovered)
}

fn point(
    case: &Case<'_>,
    storage: &mut dyn Storage,
    complete: bool,
) -> crate::storage::DirectoryIdentity {
    storage.set_complete(complete).unwrap_or_else(|error| {
        broken(case.name, Rule::Complete, format!("it could not be marked: {error}"))
    })
}

/// After a crash, if the harness can stage one. The mark was synced.
fn reopen(case: &mut Case<'_>, mut storage: Box<dyn Storage>) -> (Box<dyn Storage>, Recovered) {
    demand(case, storage.begin_sync().wait().is_ok(), "it could not be synced");
    case.staged &= case.harness.crash();
    drop(storage);
    open(case)
}
