//! One answer of the engine to one request of a host, for which a thread or a task waits.

use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::fork::Home;
use crate::primitives::channel::{RecvError, RecvTimeoutError, TryRecvError};
use crate::primitives::{Condvar, Instant, Mutex};
use crate::wakers::wake;

/// What the engine answers with. Dropped without an answer, it says that none will come.
pub(crate) struct Reply<T>(Arc<Slot<T>>);

/// Where the answer arrives. A forked child must not look: the lock may never be unlocked there.
pub(crate) struct Response<T>(Arc<Slot<T>>);

struct Slot<T> {
    state: Mutex<State<T>>,
    arrived: Condvar,
    home: Home,
}

struct State<T> {
    answer: Option<T>,
    /// No answer will come any more.
    is_over: bool,
    waker: Option<Waker>,
}

/// Both ends, for a request of the process at `home`.
pub(crate) fn reply<T>(home: Home) -> (Reply<T>, Response<T>) {
    let state = Mutex::new(State { answer: None, is_over: false, waker: None });
    let slot = Arc::new(Slot { state, arrived: Condvar::new(), home });
    (Reply(slot.clone()), Response(slot))
}

impl<T> Reply<T> {
    /// Sends the answer. It is dropped if the receiver is gone.
    pub(crate) fn send(self, answer: T) {
        self.0.state.lock().answer = Some(answer);
        // The drop wakes the waiter.
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.0.state.lock();
            state.is_over = true;
            state.waker.take()
        };
        self.0.arrived.notify_all();
        if let Some(waker) = waker {
            wake(waker, self.0.home);
        }
    }
}

impl<T> Response<T> {
    /// Blocks until there is an answer, or none will come.
    pub(crate) fn recv(&self) -> Result<T, RecvError> {
        self.0.recv(None).map_err(|_| RecvError)
    }

    /// The same with a timeout.
    pub(crate) fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
        self.0.recv(Instant::now().checked_add(timeout))
    }

    /// The answer, if it is there.
    pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
        let mut state = self.0.state.lock();
        let none = if state.is_over { TryRecvError::Disconnected } else { TryRecvError::Empty };
        state.answer.take().ok_or(none)
    }

    /// The answer, or `None` if none will come. While it is awaited, `waker` is woken for it.
    pub(crate) fn poll(&self, waker: &Waker) -> Poll<Option<T>> {
        let waker = waker.clone();
        let mut state = self.0.state.lock();
        if state.is_over {
            return Poll::Ready(state.answer.take());
        }
        let replaced = state.waker.replace(waker);
        drop(state);
        drop(replaced);
        Poll::Pending
    }
}

impl<T> Slot<T> {
    fn recv(&self, deadline: Option<Instant>) -> Result<T, RecvTimeoutError> {
        let mut state = self.state.lock();
        while !state.is_over {
            match deadline {
                None => self.arrived.wait(&mut state),
                Some(deadline) => {
                    if self.arrived.wait_until(&mut state, deadline).timed_out() {
                        break;
                    }
                }
            }
        }
        let none = match state.is_over {
            true => RecvTimeoutError::Disconnected,
            false => RecvTimeoutError::Timeout,
        };
        state.answer.take().ok_or(none)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_task_and_a_thread_are_woken_by_an_answer_and_by_its_absence() {
        for answer in [Some(7), None] {
            let counter = Arc::new(Counter::default());
            let waker = Waker::from(counter.clone());
            let (to_task, task) = reply(Home::default());
            let (to_thread, thread) = reply(Home::default());
            assert!(task.poll(&waker).is_pending());
            assert!(task.poll(&waker).is_pending());
            assert_eq!(task.try_recv(), Err(TryRecvError::Empty));
            let timed_out = thread.recv_timeout(Duration::from_millis(1));
            assert_eq!(timed_out, Err(RecvTimeoutError::Timeout));
            let blocked = std::thread::spawn(move || thread.recv());
            for end in [to_task, to_thread] {
                match answer {
                    Some(answer) => end.send(answer),
                    None => drop(end),
                }
            }
            assert_eq!(blocked.join().unwrap(), answer.ok_or(RecvError));
            assert_eq!(counter.0.load(Ordering::SeqCst), 1);
            assert_eq!(task.poll(&waker), Poll::Ready(answer));
        }
    }
}
