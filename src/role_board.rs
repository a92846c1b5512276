//! Changes of role as they are announced, kept for each reader until it has taken them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::task::{Poll, Waker};

use crate::fork::Home;
use crate::primitives::{Condvar, Instant, Mutex};
use crate::role::Status;
use crate::wakers::{Wakers, wake_all};

/// The newest announced status of one node, and who reads all of them. Not to be used in a forked
/// child.
pub(crate) struct RoleBoard {
    board: Mutex<Board>,
    changed: Condvar,
    home: Home,
}

struct Board {
    newest: Arc<Status>,
    /// For each reader, by a number of its own, what it has yet to take. Readers share a status.
    unread: BTreeMap<u64, VecDeque<Arc<Status>>>,
    readers_so_far: u64,
    tasks: Wakers,
}

impl RoleBoard {
    /// `opened` stands for the status until one is announced.
    pub(crate) fn new(opened: Status, home: Home) -> RoleBoard {
        let board = Board {
            newest: Arc::new(opened),
            unread: BTreeMap::new(),
            readers_so_far: 0,
            tasks: Wakers::default(),
        };
        RoleBoard { board: Mutex::new(board), changed: Condvar::new(), home }
    }

    /// Announces a status to all readers.
    pub(crate) fn announce(&self, status: Status) {
        let status = Arc::new(status);
        let mut board = self.board.lock();
        let before = std::mem::replace(&mut board.newest, status.clone());
        board.unread.values_mut().for_each(|unread| unread.push_back(status.clone()));
        let tasks = board.tasks.take();
        let has_readers = !board.unread.is_empty();
        drop(board);
        drop(before);
        if has_readers {
            self.changed.notify_all();
        }
        wake_all(tasks.into_values(), self.home);
    }

    /// A new reader, and the newest status: it is told what is announced after that.
    pub(crate) fn join(&self) -> (u64, Arc<Status>) {
        let mut board = self.board.lock();
        board.readers_so_far += 1;
        let reader = board.readers_so_far;
        board.unread.insert(reader, VecDeque::new());
        (reader, board.newest.clone())
    }

    /// That reader is gone.
    pub(crate) fn leave(&self, reader: u64) {
        let unread = self.board.lock().unread.remove(&reader);
        drop(unread); // without the lock: it may be long
    }

    /// Blocks until there is a status for this reader: the oldest that it has not taken. `None` at
    /// `deadline`.
    pub(crate) fn wait(&self, reader: u64, deadline: Option<Instant>) -> Option<Arc<Status>> {
        let mut board = self.board.lock();
        loop {
            if let Some(status) = board.take(reader) {
                return Some(status);
            }
            match deadline {
                None => self.changed.wait(&mut board),
                Some(deadline) => {
                    if self.changed.wait_until(&mut board, deadline).timed_out() {
                        return board.take(reader);
                    }
                }
            }
        }
    }

    /// The same for a task. While there is none, its waker is registered at `key`.
    pub(crate) fn poll(
        &self,
        reader: u64,
        waker: &Waker,
        key: &mut Option<u64>,
    ) -> Poll<Arc<Status>> {
        let waker = waker.clone();
        let mut board = self.board.lock();
        if let Some(status) = board.take(reader) {
            return Poll::Ready(status);
        }
        let replaced = board.tasks.register(key, waker);
        drop(board);
        drop(replaced);
        Poll::Pending
    }

    /// The task with this key no longer waits.
    pub(crate) fn forget(&self, key: Option<u64>) {
        if key.is_some() && self.home.is_here() {
            let waker = self.board.lock().tasks.remove(key);
            drop(waker);
        }
    }
}

impl Board {
    fn take(&mut self, reader: u64) -> Option<Arc<Status>> {
        self.unread.get_mut(&reader)?.pop_front()
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
