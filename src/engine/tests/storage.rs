//! What an engine asks of its storage beside writes: syncs ahead of time, purges, backups; and the
//! clock that it stamps entries with.

use super::*;

#[test]
fn a_storage_that_is_behind_takes_no_appends_until_a_sync_of_its_own_has_succeeded() {
    let mut harness = Harness::alone();
    drop(harness.append("before"));
    harness.turn();
    assert_eq!(harness.syncs.len(), 1);
    harness.refusals.lock().is_behind = true;
    harness.turn();
    assert_eq!(harness.syncs.len(), 2);
    harness.turn();
    assert_eq!(harness.syncs.len(), 2, "one is enough");
    harness.refusals.lock().is_behind = false;
    let waits = harness.append("meanwhile");
    harness.turn();
    let written = |harness: &Harness| harness.shared.status().end_index;
    assert_eq!(written(&harness), 1);
    assert!(harness.sync(), "the one that was begun before");
    harness.turn();
    assert_eq!(written(&harness), 1);
    assert!(harness.sync());
    harness.turn();
    assert_eq!(written(&harness), 2);
    harness.work();
    assert!(outcome(&waits).unwrap().is_ok());
}

#[test]
fn a_purge_waits_until_what_was_written_is_durable() {
    let mut harness = Harness::with(1, Some(Duration::from_secs(1)));
    harness.work();
    drop(harness.append("a"));
    harness.turn();
    drop(harness.append("b"));
    harness.turn();
    let answer = harness.command(|reply| Command::Purge { index: 1, reply });
    harness.turn();
    assert!(harness.engine.purges.len() == 1 && answer.try_recv().is_err());
    assert!(harness.sync());
    harness.turn();
    assert_eq!(answer.try_recv().unwrap().unwrap(), 1);
    // One that is under way when the node is stopped does not hang.
    drop(harness.append("c"));
    harness.turn();
    let answer = harness.command(|reply| Command::Purge { index: 2, reply });
    harness.turn();
    assert!(harness.stop().is_ok());
    assert!(matches!(answer.try_recv(), Ok(Err(PurgeError::Stopped))));
}

#[test]
fn a_backup_reaches_to_the_end_of_what_is_shown_as_committed() {
    let asked_for = |harness: &mut Harness| {
        let answer = harness.command(|reply| Command::Backup { reply });
        harness.turn();
        answer.try_recv().unwrap().map(|_| ()).unwrap_err().to_string()
    };
    let mut harness = Harness::new(3);
    assert!(asked_for(&mut harness).contains("up to 1"), "of an empty log");
    let mut harness = Harness::alone();
    drop(harness.append("a"));
    harness.work();
    drop(harness.append("b"));
    harness.turn();
    assert!(asked_for(&mut harness).contains("up to 3"), "what is not committed is left out");
    assert!(harness.stop().is_ok());
    let answer = harness.command(|reply| Command::Backup { reply });
    harness.turn();
    assert!(matches!(answer.try_recv(), Ok(Err(BackupError::Stopped))));
}

#[test]
fn a_clock_far_behind_the_newest_entry_is_warned_of() {
    let mut harness = Harness::alone();
    harness.pass(Duration::from_secs(100));
    harness.work();
    drop(harness.append("stamped"));
    harness.work();
    harness.tick();
    assert!(!harness.engine.warned_of_clock);
    let newest = harness.engine.replica.newest_timestamp();
    assert_eq!(newest, harness.shared.reader.entry(0).unwrap().unwrap().timestamp());
    for (behind, is_warned) in [(60_000, false), (60_001, true), (60_000, false)] {
        harness.now.elapsed = harness.engine.next_tick + TICK;
        harness.now.unix_ms = newest - behind;
        harness.work();
        assert_eq!(harness.engine.warned_of_clock, is_warned, "{behind} ms behind");
    }
    // Of a follower too, and before what it was sent is committed.
    let mut harness = Harness::new(2);
    harness.hear("append from=2 to=1 term=2 after=1/1 batch=2/2 commit=1");
    harness.work();
    assert_eq!(harness.engine.replica.newest_timestamp(), 0);
}
