//! One builder for several openings.

use std::collections::BTreeSet;
use std::sync::Arc;

use dledger::storage::{MemoryLog, StorageError};
use dledger::transport::MemoryNetwork;
use dledger::{Builder, Create, DLedger, OpenError};
use parking_lot::Mutex;

use crate::cluster_of::until;

fn taken(builder: Builder) -> &'static str {
    match builder.open() {
        Err(error @ OpenError::Taken { setting, .. }) => {
            assert!(error.to_string().starts_with(&format!("Builder::{setting}: ")), "{error}");
            setting
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn clones_of_a_builder_open_ledgers_of_their_own_and_share_its_observers() {
    let home = tempfile::tempdir().unwrap();
    let told = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = told.clone();
    let observer = move |status: &dledger::Status| {
        seen.lock().insert(status.group.clone());
    };
    let usual = DLedger::builder(1).on_role_change(observer).create(Create::New);
    let open = |group: &str| usual.clone().group(group).dir(home.path().join(group)).open();
    let (first, second) = (open("first").unwrap(), open("second").unwrap());
    first.append("1").unwrap();
    assert_eq!((first.committed(), second.committed()), (0..1, 0..0));
    let both = BTreeSet::from(["first".to_owned(), "second".to_owned()]);
    until("both to be told of", || (*told.lock() == both).then_some(()));
    first.shutdown().unwrap();
    let again = open("first").unwrap_err();
    assert!(matches!(again, OpenError::Storage(StorageError::HoldsLog { .. })), "{again}");
}

#[test]
fn a_builder_opens_once_more_after_a_failure() {
    let home = tempfile::tempdir().unwrap();
    let builder = DLedger::builder(1).dir(home.path().join("log"));
    let first = builder.clone().open().unwrap();
    let refused = builder.clone().open().unwrap_err();
    assert!(matches!(refused, OpenError::Storage(StorageError::InUse { .. })), "{refused}");
    first.append("kept").unwrap();
    first.shutdown().unwrap();
    assert_eq!(*builder.open().unwrap().get(0).unwrap().unwrap(), *b"kept");
}

#[test]
fn one_builder_opens_every_node_of_a_group() {
    let (home, network) = (tempfile::tempdir().unwrap(), MemoryNetwork::new());
    let group = DLedger::builder(1).peers([1_u64, 2, 3].map(|id| (id, "")));
    let nodes = [1_u64, 2, 3].map(|id| {
        let node = group.clone().node(id).dir(home.path().join(id.to_string()));
        node.transport(network.transport(id.into())).open().unwrap()
    });
    until("an append", || nodes.iter().find_map(|node| node.append("entry").ok()));
    assert_eq!(nodes.each_ref().map(|node| node.status().id.get()), [1, 2, 3]);
}

#[test]
fn a_storage_or_transport_of_the_hosts_own_serves_one_opening() {
    let log = MemoryLog::new();
    let builder = DLedger::builder(1).storage(log.clone());
    let invalid = builder.clone().max_entry_bytes(0).open();
    assert!(matches!(invalid, Err(OpenError::Setting { .. })), "{invalid:?}");
    let ledger = builder.clone().open().expect("what is refused for a setting takes nothing");
    assert_eq!(taken(builder.clone()), "storage");
    ledger.append("kept").unwrap();
    ledger.shutdown().unwrap();
    assert_eq!(taken(builder.clone()), "storage", "the opening is over, and took it for good");

    let network = MemoryNetwork::new();
    let builder = builder.storage(log.clone()).transport(network.transport(1.into()));
    let ledger = builder.clone().open().unwrap();
    assert_eq!(ledger.committed(), 0..1);
    ledger.shutdown().unwrap();
    let builder = builder.storage(log);
    assert_eq!(taken(builder.clone()), "transport");
    let builder = builder.transport(network.transport(1.into()));
    assert_eq!(builder.open().unwrap().committed(), 0..1, "a refusal took no storage");
}

#[test]
fn a_builder_can_be_kept_and_shared() {
    fn keeps<T: Clone + Send + Sync + 'static>() {}
    keeps::<Builder>();
}
