//! Every schedule of one announcer and its readers.

use super::*;
use crate::entry::NodeId;
use crate::primitives::{Alarm, thread};
use crate::role::Role;

fn status(term: u64) -> Status {
    Status {
        group: String::new(),
        group_uid: None,
        id: NodeId::from(1),
        role: Role::Follower,
        term,
        leader: None,
        members: Vec::new(),
        committed: 0..0,
        oldest_position: 0,
        committed_position: 0,
        end_index: 0,
        in_flight_bytes: 0,
        full: None,
        repair: None,
        refused: Vec::new(),
        fault: None,
        removed: Default::default(),
        asleep: false,
        stopped: false,
    }
}

/// A board on which terms 1 to 2 are announced, by another thread.
fn board() -> (Arc<RoleBoard>, impl FnOnce()) {
    let board = Arc::new(RoleBoard::new(status(0), Home::default()));
    let announcer = thread::spawn({
        let board = board.clone();
        move || (1..=2).for_each(|term| board.announce(status(term)))
    });
    (board, || announcer.join().unwrap())
}

#[test]
fn who_joins_at_any_moment_is_told_all_that_comes_after_what_it_begins_with() {
    loom::model(|| {
        let (board, end) = board();
        let (reader, first) = board.join();
        for term in first.term + 1..=2 {
            assert_eq!(board.wait(reader, None).unwrap().term, term);
        }
        end();
        board.leave(reader);
        assert!(board.board.lock().unread.is_empty());
    });
}

#[test]
fn a_task_that_reads_all_changes_misses_no_wake() {
    loom::model(|| {
        let (board, end) = board();
        let (reader, first) = board.join();
        let (alarm, mut key) = (Arc::new(Alarm::default()), None);
        let waker = Waker::from(alarm.clone());
        let mut term = first.term;
        while term < 2 {
            match board.poll(reader, &waker, &mut key) {
                Poll::Pending => alarm.sleep(),
                Poll::Ready(status) => {
                    assert_eq!(status.term, term + 1);
                    term += 1;
                }
            }
        }
        board.forget(key);
        end();
    });
}
