//! A log that fails once, and the smallest executor.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use shuttle::rand::{Rng, thread_rng};

use crate::entry::NodeId;
use crate::primitives::atomic::{AtomicBool, Ordering};
use crate::primitives::{Condvar, Mutex};
use crate::storage::{
    Base, Batch, HardState, LogOwner, LogReader, MemoryLog, PendingSync, Recovered, Storage,
    StorageError,
};

/// What goes wrong, once it is armed, and whether it has.
#[derive(Clone)]
pub(super) struct Fault(Arc<Inner>);

struct Inner {
    kind: u32,
    disk: MemoryLog,
    armed: AtomicBool,
    spent: AtomicBool,
}

const SYNC_PANICS: u32 = 0;
const APPEND_PANICS: u32 = 1;
const SYNC_FAILS: u32 = 2;

impl Fault {
    pub(super) fn draw(disk: &MemoryLog) -> Fault {
        let (armed, spent) = (AtomicBool::new(false), AtomicBool::new(false));
        Fault(Arc::new(Inner {
            kind: thread_rng().gen_range(0..3),
            disk: disk.clone(),
            armed,
            spent,
        }))
    }

    pub(super) fn arm(&self) {
        self.0.armed.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_spent(&self) -> bool {
        self.0.spent.load(Ordering::SeqCst)
    }

    fn panic_if(&self, kind: u32) {
        if self.strikes(kind) {
            panic_in_silence();
        }
    }

    fn strikes(&self, kind: u32) -> bool {
        kind == self.0.kind
            && self.0.armed.load(Ordering::SeqCst)
            && !self.0.spent.swap(true, Ordering::SeqCst)
    }
}

pub(super) struct FaultyLog {
    pub(super) log: MemoryLog,
    pub(super) fault: Fault,
}

impl Storage for FaultyLog {
    fn open(&mut self, owner: &LogOwner) -> Result<Recovered, StorageError> {
        self.log.open(owner)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.log.reader()
    }

    fn append(&mut self, batches: &[Batch], commit: u64) -> Result<(), StorageError> {
        self.fault.panic_if(APPEND_PANICS);
        self.log.append(batches, commit)
    }

    fn save_hard_state(&mut self, hard_state: HardState) -> Result<(), StorageError> {
        self.log.save_hard_state(hard_state)
    }

    fn reset(&mut self, base: &Base) -> Result<(), StorageError> {
        self.log.reset(base)
    }

    fn purge(&mut self, index: u64, commit: u64) -> Result<(), StorageError> {
        self.log.purge(index, commit)
    }

    fn save_peer(&mut self, peer: NodeId, directory: u128) -> Result<(), StorageError> {
        self.log.save_peer(peer, directory)
    }

    fn begin_sync(&mut self) -> Box<dyn PendingSync> {
        Box::new(FaultySync { sync: self.log.begin_sync(), fault: self.fault.clone() })
    }
}

struct FaultySync {
    sync: Box<dyn PendingSync>,
    fault: Fault,
}

impl PendingSync for FaultySync {
    fn wait(self: Box<Self>) -> Result<(), StorageError> {
        self.fault.panic_if(SYNC_PANICS);
        if self.fault.strikes(SYNC_FAILS) {
            self.fault.0.disk.fail_next_sync();
        }
        self.sync.wait()
    }
}

/// A panic that is part of the test, and so no news.
pub(super) fn panic_in_silence() {
    std::panic::resume_unwind(Box::new("on purpose"));
}

/// What a task sleeps on.
#[derive(Default)]
struct Alarm {
    rung: Mutex<bool>,
    wake: Condvar,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        *self.rung.lock() = true;
        self.wake.notify_one();
    }
}

pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    let alarm = Arc::new(Alarm::default());
    let waker = Waker::from(alarm.clone());
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        let mut rung = alarm.rung.lock();
        while !std::mem::take(&mut *rung) {
            alarm.wake.wait(&mut rung);
        }
    }
}

/// A waker that runs its task at once, within the wake.
pub(super) fn waker(task: impl FnOnce() + Send + 'static) -> Waker {
    struct AtOnce(std::sync::Mutex<Option<Box<dyn FnOnce() + Send>>>);
    impl Wake for AtOnce {
        fn wake(self: Arc<Self>) {
            let task = self.0.lock().expect("no thread panics here").take();
            if let Some(task) = task {
                task();
            }
        }
    }
    Waker::from(Arc::new(AtOnce(std::sync::Mutex::new(Some(Box::new(task))))))
}
