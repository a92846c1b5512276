//! When the unique id of the group is told.

use super::*;

/// The only node of a group, which proposes the id 7.
fn alone_with_id() -> Harness {
    let mut harness = Harness::new(1);
    let engine = &mut harness.engine;
    engine.settings.replica.new_group_uid = 7;
    let (settings, identity) = (&engine.settings.replica, engine.identity);
    engine.replica.restart(settings, identity, None, engine.shared.reader.clone()).unwrap();
    harness
}

fn told(harness: &Harness) -> Option<u128> {
    harness.shared.status().group_uid
}

#[test]
fn the_id_is_saved_when_its_batch_is_durable_and_told_when_it_is_durable_itself() {
    let mut harness = alone_with_id();
    harness.turn();
    assert!(harness.sync());
    harness.turn();
    assert_eq!(harness.shared.status().role, Role::Leader, "its batch is committed");
    assert_eq!(told(&harness), None);
    assert!(harness.sync(), "of the batch");
    harness.turn();
    assert_eq!((told(&harness), harness.engine.group_uid.found), (None, None), "it is saved");
    assert!(harness.sync(), "of the id");
    harness.turn();
    assert_eq!(told(&harness), Some(7));
    assert_eq!(harness.engine.replica.last_written(), 3, "proposed once");
    harness.work();
    assert_eq!(told(&harness), Some(7));
}
