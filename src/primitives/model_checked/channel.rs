//! Channels with the interface of `crossbeam-channel`, on a checked lock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use crossbeam_channel::{RecvError, RecvTimeoutError, SendError, TryRecvError};

use super::{Condvar, Instant, Mutex};

struct Pipe<T> {
    ends: Mutex<Ends<T>>,
    /// Signalled when something arrives, or the last sender goes.
    arrived: Condvar,
}

struct Ends<T> {
    waiting: VecDeque<T>,
    senders: usize,
    /// The receiver is gone.
    closed: bool,
}

pub(crate) struct Sender<T>(Arc<Pipe<T>>);

pub(crate) struct Receiver<T>(Arc<Pipe<T>>);

pub(crate) fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    let ends = Mutex::new(Ends { waiting: VecDeque::new(), senders: 1, closed: false });
    let pipe = Arc::new(Pipe { ends, arrived: Condvar::new() });
    (Sender(pipe.clone()), Receiver(pipe))
}

/// Not bounded here: no sender of this crate relies on waiting for room.
pub(crate) fn bounded<T>(_room: usize) -> (Sender<T>, Receiver<T>) {
    unbounded()
}

impl<T> Sender<T> {
    pub(crate) fn send(&self, item: T) -> Result<(), SendError<T>> {
        let mut ends = self.0.ends.lock();
        if ends.closed {
            return Err(SendError(item));
        }
        ends.waiting.push_back(item);
        drop(ends);
        self.0.arrived.notify_one();
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        self.0.ends.lock().senders += 1;
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.ends.lock().senders -= 1;
        self.0.arrived.notify_one();
    }
}

impl<T> Receiver<T> {
    pub(crate) fn recv(&self) -> Result<T, RecvError> {
        let mut ends = self.0.ends.lock();
        loop {
            match ends.take() {
                Ok(item) => return Ok(item),
                Err(TryRecvError::Disconnected) => return Err(RecvError),
                Err(TryRecvError::Empty) => self.0.arrived.wait(&mut ends),
            }
        }
    }

    pub(crate) fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
        let deadline = Instant::now() + timeout;
        let mut ends = self.0.ends.lock();
        loop {
            match ends.take() {
                Ok(item) => return Ok(item),
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty)
                    if self.0.arrived.wait_until(&mut ends, deadline).timed_out() =>
                {
                    return ends.take().map_err(|_| RecvTimeoutError::Timeout);
                }
                Err(TryRecvError::Empty) => {}
            }
        }
    }

    pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
        self.0.ends.lock().take()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.ends.lock().waiting.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = T> + '_ {
        std::iter::from_fn(|| self.recv().ok())
    }

    pub(crate) fn try_iter(&self) -> impl Iterator<Item = T> + '_ {
        std::iter::from_fn(|| self.try_recv().ok())
    }
}

impl<'a, T> IntoIterator for &'a Receiver<T> {
    type Item = T;
    type IntoIter = Box<dyn Iterator<Item = T> + 'a>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

/// Drops the waiting items, so that a request among them resolves without an answer.
impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut ends = self.0.ends.lock();
        ends.closed = true;
        let dropped = std::mem::take(&mut ends.waiting);
        drop(ends);
        drop(dropped);
    }
}

impl<T> Ends<T> {
    fn take(&mut self) -> Result<T, TryRecvError> {
        let none = if self.senders == 0 { TryRecvError::Disconnected } else { TryRecvError::Empty };
        self.waiting.pop_front().ok_or(none)
    }

    fn is_ready(&self) -> bool {
        !self.waiting.is_empty() || self.senders == 0
    }
}

/// Waits for one receiver, without taking anything from it.
#[derive(Default)]
pub(crate) struct Select<'a>(Option<&'a dyn Ready>);

trait Ready {
    fn wait(&self, deadline: Option<Instant>) -> bool;
}

impl<'a> Select<'a> {
    pub(crate) fn new() -> Select<'a> {
        Select(None)
    }

    pub(crate) fn recv<T>(&mut self, receiver: &'a Receiver<T>) -> usize {
        assert!(
            self.0.replace(receiver).is_none(),
            "one receiver is all that this crate selects from"
        );
        0
    }

    pub(crate) fn ready(&mut self) -> usize {
        self.0.expect("something to wait for").wait(None);
        0
    }

    pub(crate) fn ready_deadline(&mut self, deadline: Instant) -> Result<usize, RecvTimeoutError> {
        let ready = self.0.expect("something to wait for").wait(Some(deadline));
        if ready { Ok(0) } else { Err(RecvTimeoutError::Timeout) }
    }
}

impl<T> Ready for Receiver<T> {
    fn wait(&self, deadline: Option<Instant>) -> bool {
        let mut ends = self.0.ends.lock();
        while !ends.is_ready() {
            match deadline {
                None => self.0.arrived.wait(&mut ends),
                Some(deadline) if self.0.arrived.wait_until(&mut ends, deadline).timed_out() => {
                    return ends.is_ready();
                }
                Some(_) => {}
            }
        }
        true
    }
}
