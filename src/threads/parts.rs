//! The parts of a running node: its threads, and what threads of its host do for it. Its shutdown
//! waits for all of them.

use std::collections::BTreeMap;
use std::io;
use std::task::{Poll, Waker};

use crate::fork::Home;
use crate::primitives::thread::{self, JoinHandle, ThreadId};
use crate::primitives::{Condvar, Mutex};
use crate::wakers::{Wakers, is_in_observer, is_in_waker, wake_all};

/// See the [module](self). Shared by all parts of a node.
pub(super) struct Parts {
    list: Mutex<List>,
    /// Signalled when a part ends.
    ended: Condvar,
    home: Home,
}

/// A part, by a number that no other one of its node has.
pub(super) type PartNumber = u64;

struct Part {
    number: PartNumber,
    /// The thread that works for it at the moment.
    thread: Option<ThreadId>,
}

#[derive(Default)]
struct List {
    /// Those that have not ended, without those that wait in `join` themselves.
    running: Vec<Part>,
    parts_so_far: PartNumber,
    engine: Option<PartNumber>,
    /// The part that calls observers.
    observers: Option<PartNumber>,
    /// Its thread, if it has one of its own.
    observers_thread: Option<ThreadId>,
    /// The threads of this node alone.
    handles: Vec<JoinHandle<()>>,
    /// The node is being shut down: no part is added any more.
    closed: bool,
    /// Tasks that wait until no part is running.
    tasks: Wakers,
}

impl Parts {
    pub(super) fn new(home: Home) -> Parts {
        Parts { list: Mutex::default(), ended: Condvar::new(), home }
    }

    /// Adds a part that runs on a thread of its own, which `spawn` starts.
    pub(super) fn add_thread(
        &self,
        spawn: impl FnOnce(PartNumber) -> io::Result<JoinHandle<()>>,
    ) -> io::Result<PartNumber> {
        let mut list = self.list.lock();
        let number = list.next_number()?;
        list.handles.retain(|handle| !handle.is_finished());
        let handle = spawn(number)?;
        list.running.push(Part { number, thread: Some(handle.thread().id()) });
        list.handles.push(handle);
        Ok(number)
    }

    /// Adds a part that threads of the host run.
    pub(super) fn add_shared(&self) -> io::Result<PartNumber> {
        let mut list = self.list.lock();
        let number = list.next_number()?;
        list.running.push(Part { number, thread: None });
        Ok(number)
    }

    /// That part is the engine.
    pub(super) fn set_engine(&self, number: PartNumber) {
        self.list.lock().engine = Some(number);
    }

    /// That part calls observers.
    pub(super) fn set_observers(&self, number: PartNumber) {
        let mut list = self.list.lock();
        list.observers = Some(number);
        // It is not among those that run while it waits in `join` itself.
        list.observers_thread =
            list.running.iter().find(|part| part.number == number).and_then(|part| part.thread);
    }

    /// This thread works for a shared part from now on.
    pub(super) fn enter(&self, number: PartNumber) {
        self.set_thread(number, Some(thread::current().id()));
    }

    /// No thread works for a shared part now.
    pub(super) fn leave(&self, number: PartNumber) {
        self.set_thread(number, None);
    }

    fn set_thread(&self, number: PartNumber, thread: Option<ThreadId>) {
        let mut list = self.list.lock();
        if let Some(part) = list.running.iter_mut().find(|part| part.number == number) {
            part.thread = thread;
        }
    }

    /// A part has ended.
    pub(super) fn end(&self, number: PartNumber) {
        self.remove(|part| part.number == number);
    }

    fn remove(&self, is_gone: impl Fn(&Part) -> bool) {
        let mut list = self.list.lock();
        list.running.retain(|part| !is_gone(part));
        let tasks = match !list.has_running(Except::Observers) {
            true => list.tasks.take(),
            false => BTreeMap::new(),
        };
        drop(list);
        self.ended.notify_all();
        wake_all(tasks.into_values(), self.home);
    }

    /// What this thread works for at the moment, if that is a part of this node, does not count as
    /// running any more: it is about to wait for the others.
    fn leave_out_caller(&self) {
        let me = thread::current().id();
        self.remove(|part| part.thread == Some(me));
    }

    /// Waits for every part to end; none is added any more. Every caller waits, not only the first.
    /// A part does not wait for its own end, and no other caller waits for it while it waits here.
    /// An observer, of whatever node, does not wait for the observers of this one.
    pub(super) fn join(&self) {
        let me = thread::current().id();
        self.leave_out_caller();
        let mut list = self.list.lock();
        list.closed = true;
        let except = Except::of_caller();
        while list.has_running(except) {
            self.ended.wait(&mut list);
        }
        let others = list.take_handles(except, me);
        drop(list);
        for handle in others {
            // A panic was reported when it happened.
            let _ = handle.join();
        }
    }

    /// [`join`](Self::join) for a task. While it is pending, `waker` is registered at `key`.
    pub(super) fn poll_ended(&self, waker: &Waker, key: &mut Option<u64>) -> Poll<()> {
        if !is_in_waker() {
            // An observer that waits for this does not wait for its own end.
            self.leave_out_caller();
        }
        let waker = waker.clone();
        let mut list = self.list.lock();
        list.closed = true;
        if !list.has_running(Except::of_caller()) {
            return Poll::Ready(());
        }
        let replaced = list.tasks.register(key, waker);
        drop(list);
        drop(replaced);
        Poll::Pending
    }

    /// The task with this key no longer waits.
    pub(super) fn forget(&self, key: Option<u64>) {
        if key.is_some() && self.home.is_here() {
            let waker = self.list.lock().tasks.remove(key);
            drop(waker);
        }
    }

    /// Whether the caller is on the thread that runs the engine, which must not wait for itself.
    /// The engine runs code of the host when it wakes a task.
    pub(super) fn is_engine(&self) -> bool {
        let (list, me) = (self.list.lock(), thread::current().id());
        let is_engine = |part: &Part| Some(part.number) == list.engine;
        list.running.iter().any(|part| is_engine(part) && part.thread == Some(me))
    }
}

/// Which parts a caller does not wait for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Except {
    None,
    Observers,
}

impl Except {
    /// Two observers that wait for each other's end would wait for ever.
    fn of_caller() -> Except {
        if is_in_observer() { Except::Observers } else { Except::None }
    }
}

impl List {
    fn has_running(&self, except: Except) -> bool {
        self.running
            .iter()
            .any(|part| except == Except::None || Some(part.number) != self.observers)
    }

    /// The threads that have ended or end now. Those that the caller does not wait for stay.
    fn take_handles(&mut self, except: Except, me: ThreadId) -> Vec<JoinHandle<()>> {
        let observers = self.observers_thread.filter(|_| except == Except::Observers);
        let (stay, ended) = std::mem::take(&mut self.handles).into_iter().partition(|handle| {
            let id = handle.thread().id();
            id == me || Some(id) == observers
        });
        self.handles = stay;
        ended
    }

    fn next_number(&mut self) -> io::Result<PartNumber> {
        if self.closed {
            return Err(io::Error::other("the node is shutting down"));
        }
        self.parts_so_far += 1;
        Ok(self.parts_so_far)
    }
}
