//! Unbounded channels whose receiver sleeps at once when there is nothing.
//!
//! Those of `std` and `crossbeam-channel` are faster under many senders, but spin before each
//! sleep, about ten microseconds, whatever their user wants. Here messages are few (one for a
//! batch, not for an append), and the waiting thread decides about spinning (`spin.rs`). One lock
//! and one condition are also what a checker of threads can follow.

use std::collections::VecDeque;
pub(crate) use std::sync::mpsc::{RecvError, RecvTimeoutError, SendError, TryRecvError};

use std::sync::Arc;

use super::atomic::{AtomicUsize, Ordering};
use super::{Condvar, Instant, Mutex};

/// A queue that has held more than this gives its memory back once it is empty.
const KEPT: usize = 1024;

struct Pipe<T> {
    queue: Mutex<Queue<T>>,
    /// Signalled when something arrives, or the last sender goes.
    arrived: Condvar,
    /// Called then instead, for a receiver that sleeps elsewhere.
    on_arrival: Option<OnArrival>,
    /// Not behind the lock: in a forked child that may never be unlocked, and senders are dropped
    /// there.
    senders: AtomicUsize,
}

type OnArrival = Box<dyn Fn() + Send + Sync>;

struct Queue<T> {
    waiting: VecDeque<T>,
    /// The receiver is gone.
    closed: bool,
}

/// The end that sends. May be cloned.
pub(crate) struct Sender<T>(Arc<Pipe<T>>);

/// The end that receives. There is one.
pub(crate) struct Receiver<T>(Arc<Pipe<T>>);

pub(crate) fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    channel(None)
}

/// A channel whose receiver never waits. `on_arrival` is called after each item, and when the last
/// sender is gone.
pub(crate) fn unbounded_with<T>(
    on_arrival: impl Fn() + Send + Sync + 'static,
) -> (Sender<T>, Receiver<T>) {
    channel(Some(Box::new(on_arrival)))
}

fn channel<T>(on_arrival: Option<OnArrival>) -> (Sender<T>, Receiver<T>) {
    let queue = Mutex::new(Queue { waiting: VecDeque::new(), closed: false });
    let (arrived, senders) = (Condvar::new(), AtomicUsize::new(1));
    let pipe = Arc::new(Pipe { queue, arrived, on_arrival, senders });
    (Sender(pipe.clone()), Receiver(pipe))
}

impl<T> Pipe<T> {
    fn notify(&self) {
        match &self.on_arrival {
            Some(on_arrival) => on_arrival(),
            None => drop(self.arrived.notify_one()),
        }
    }
}

impl<T> Sender<T> {
    /// Never waits. An item comes back if the receiver is gone.
    pub(crate) fn send(&self, item: T) -> Result<(), SendError<T>> {
        let mut queue = self.0.queue.lock();
        if queue.closed {
            return Err(SendError(item));
        }
        queue.waiting.push_back(item);
        drop(queue);
        self.0.notify();
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            // The receiver looks at the count under the lock before it sleeps: now it has either
            // seen that there is no sender, or it sleeps already and is woken.
            drop(self.0.queue.lock());
            self.0.notify();
        }
    }
}

impl<T> Receiver<T> {
    /// Blocks until there is an item, or there will be none.
    pub(crate) fn recv(&self) -> Result<T, RecvError> {
        let mut queue = self.0.queue.lock();
        loop {
            match self.0.take(&mut queue) {
                Ok(item) => return Ok(item),
                Err(TryRecvError::Disconnected) => return Err(RecvError),
                Err(TryRecvError::Empty) => self.0.arrived.wait(&mut queue),
            }
        }
    }

    /// What is there now.
    pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
        self.0.take(&mut self.0.queue.lock())
    }

    /// Blocks until there is an item, or there will be none, or the deadline has passed. Takes
    /// nothing. Without a deadline it waits for as long as it takes.
    pub(crate) fn wait_until(&self, deadline: Option<Instant>) {
        let mut queue = self.0.queue.lock();
        while queue.waiting.is_empty() && self.0.senders.load(Ordering::Acquire) > 0 {
            match deadline {
                None => self.0.arrived.wait(&mut queue),
                Some(deadline) if self.0.arrived.wait_until(&mut queue, deadline).timed_out() => {
                    return;
                }
                Some(_) => {}
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.queue.lock().waiting.len()
    }

    /// Whether nothing more will be sent. Something may be there yet.
    pub(crate) fn is_disconnected(&self) -> bool {
        self.0.senders.load(Ordering::Acquire) == 0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Items, until there will be none.
    pub(crate) fn iter(&self) -> impl Iterator<Item = T> + '_ {
        std::iter::from_fn(|| self.recv().ok())
    }

    /// Items, until there is none now.
    pub(crate) fn try_iter(&self) -> impl Iterator<Item = T> + '_ {
        std::iter::from_fn(|| self.try_recv().ok())
    }
}

/// Drops the items that were not received, so that a thread that waits for an answer to one of them
/// learns that there will be none.
impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.closed = true;
        let unheard = std::mem::take(&mut queue.waiting);
        drop(queue);
        drop(unheard);
    }
}

impl<T> Pipe<T> {
    /// What was sent before the last sender went is found first: it was put there under the lock.
    fn take(&self, queue: &mut Queue<T>) -> Result<T, TryRecvError> {
        if let Some(item) = queue.waiting.pop_front() {
            if queue.waiting.is_empty() && queue.waiting.capacity() > KEPT {
                queue.waiting = VecDeque::new();
            }
            return Ok(item);
        }
        let has_senders = self.senders.load(Ordering::Acquire) > 0;
        Err(if has_senders { TryRecvError::Empty } else { TryRecvError::Disconnected })
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn items_come_in_order_and_then_the_end() {
        let (sender, receiver) = unbounded();
        let other = sender.clone();
        let threads = [sender, other].map(|sender| {
            std::thread::spawn(move || (0..1000).for_each(|item| sender.send(item).unwrap()))
        });
        let mut sum = 0;
        while let Ok(item) = receiver.recv() {
            sum += item;
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(sum, 2 * 499_500);
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
        receiver.wait_until(None); // there is nothing to wait for
    }

    #[test]
    fn a_receiver_that_sleeps_is_woken_by_an_item_and_by_the_end() {
        for ends in [false, true] {
            let (sender, receiver) = unbounded();
            let began = Instant::now();
            let waits = std::thread::spawn(move || {
                receiver.wait_until(Some(Instant::now() + Duration::from_secs(20)));
                receiver.recv()
            });
            std::thread::sleep(Duration::from_millis(5));
            if !ends {
                sender.send(7).unwrap();
            }
            drop(sender);
            assert_eq!(waits.join().unwrap().ok(), (!ends).then_some(7));
            assert!(began.elapsed() < Duration::from_secs(20), "it was not woken");
        }
    }

    #[test]
    fn a_deadline_passes_and_an_item_that_waits_is_not_taken() {
        let (sender, receiver) = unbounded();
        receiver.wait_until(Some(Instant::now() + Duration::from_millis(1)));
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        sender.send(7).unwrap();
        receiver.wait_until(None);
        assert_eq!((receiver.len(), receiver.is_empty()), (1, false));
        assert_eq!(receiver.iter().next(), Some(7));
    }

    #[test]
    fn an_item_that_is_not_received_is_dropped_or_comes_back() {
        let (sender, receiver) = unbounded();
        let item = Arc::new(());
        sender.send(item.clone()).unwrap();
        drop(receiver);
        assert_eq!(Arc::strong_count(&item), 1);
        assert!(sender.send(item).is_err());
    }

    #[test]
    fn a_burst_leaves_no_memory_behind() {
        let (sender, receiver) = unbounded();
        (0..2 * KEPT).for_each(|item| sender.send(item).unwrap());
        assert_eq!(receiver.try_iter().count(), 2 * KEPT);
        assert!(receiver.0.queue.lock().waiting.capacity() <= KEPT);
    }
}
