//! What an engine asks of its storage beside writes: syncs ahead of time, purges, backups; and the clock that it stamps entries with.

use super::*;

#[test]
fn a_storage_that_is_behind_takes_no_appends_until_a_sync_of_its_own_has_succeeded() {
    let mut desk = Desk::alone();
    drop(desk.append("before"));
    desk.turn();
    assert_eq!(desk.syncs.len(), 1);
    desk.refusals.lock().is_behind = true;
    desk.turn();
    assert_eq!(desk.syncs.len(), 2);
    desk.turn();
    assert_eq!(desk.syncs.len(), 2, "one is enough");
    desk.refusals.lock().is_behind = false;
    let waits = desk.append("meanwhile");
    desk.turn();
    let written = |desk: &Desk| desk.shared.status().end_index;
    assert_eq!(written(&desk), 1);
    assert!(desk.sync(), "the one that was begun before");
    desk.turn();
    assert_eq!(written(&desk), 1);
    assert!(desk.sync());
    desk.turn();
    assert_eq!(written(&desk), 2);
    desk.work();
    assert!(outcome(&waits).unwrap().is_ok());
}

#[test]
fn a_purge_waits_until_what_was_written_is_durable() {
    let mut desk = Desk::with(1, Some(Duration::from_secs(1)));
    desk.work();
    drop(desk.append("a"));
    desk.turn();
    drop(desk.append("b"));
    desk.turn();
    let answer = desk.command(|reply| Command::Purge { index: 1, reply });
    desk.turn();
    assert!(desk.engine.purges.len() == 1 && answer.try_recv().is_err());
    assert!(desk.sync());
    desk.turn();
    assert_eq!(answer.try_recv().unwrap().unwrap(), 1);
    // One that is under way when the node is stopped does not hang.
    drop(desk.append("c"));
    desk.turn();
    let answer = desk.command(|reply| Command::Purge { index: 2, reply });
    desk.turn();
    assert!(desk.stop().is_ok());
    assert!(matches!(answer.try_recv(), Ok(Err(PurgeError::Stopped))));
}

#[test]
fn a_backup_reaches_to_the_end_of_what_is_shown_as_committed() {
    let asked_for = |desk: &mut Desk| {
        let answer = desk.command(|reply| Command::Backup { reply });
        desk.turn();
        answer.try_recv().unwrap().map(|_| ()).unwrap_err().to_string()
    };
    let mut desk = Desk::new(3);
    assert!(asked_for(&mut desk).contains("up to 1"), "of an empty log");
    let mut desk = Desk::alone();
    drop(desk.append("a"));
    desk.work();
    drop(desk.append("b"));
    desk.turn();
    assert!(asked_for(&mut desk).contains("up to 3"), "what is not committed is left out");
    assert!(desk.stop().is_ok());
    let answer = desk.command(|reply| Command::Backup { reply });
    desk.turn();
    assert!(matches!(answer.try_recv(), Ok(Err(BackupError::Stopped))));
}

#[test]
fn whoever_has_a_clock_far_behind_the_newest_entry_is_warned() {
    let mut desk = Desk::alone();
    desk.pass(Duration::from_secs(100));
    desk.work();
    drop(desk.append("stamped"));
    desk.work();
    desk.tick();
    assert!(!desk.engine.warned_of_clock);
    let newest = desk.engine.replica.newest_timestamp();
    assert_eq!(newest, desk.shared.reader.entry(0).unwrap().unwrap().timestamp());
    for (behind, is_warned) in [(60_000, false), (60_001, true), (60_000, false)] {
        desk.now.elapsed = desk.engine.next_tick + TICK;
        desk.now.unix_ms = newest - behind;
        desk.work();
        assert_eq!(desk.engine.warned_of_clock, is_warned, "{behind} ms behind");
    }
    // Of a follower too, and before what it was sent is committed.
    let mut desk = Desk::new(2);
    desk.hear("append from=2 to=1 term=2 after=1/1 batch=2/2 commit=1");
    desk.work();
    assert_eq!(desk.engine.replica.newest_timestamp(), 0);
}
