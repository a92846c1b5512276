//! Threads of a model checker, with the missing methods of their handles.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(loom)]
use loom::thread as checked;
#[cfg(shuttle)]
use shuttle::thread as checked;

pub(crate) use checked::{ThreadId, current, yield_now};

pub(crate) struct Builder(checked::Builder);

impl Builder {
    pub(crate) fn new() -> Builder {
        Builder(checked::Builder::new())
    }

    pub(crate) fn name(self, name: String) -> Builder {
        Builder(self.0.name(name))
    }

    pub(crate) fn spawn<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        let finished = Arc::new(AtomicBool::new(false));
        let done = finished.clone();
        let work = move || {
            let outcome = work();
            done.store(true, Ordering::Relaxed);
            outcome
        };
        Ok(JoinHandle { handle: self.0.spawn(work)?, finished })
    }
}

pub(crate) struct JoinHandle<T> {
    handle: checked::JoinHandle<T>,
    finished: Arc<AtomicBool>,
}

impl<T> JoinHandle<T> {
    pub(crate) fn join(self) -> std::thread::Result<T> {
        self.handle.join()
    }

    pub(crate) fn thread(&self) -> &checked::Thread {
        self.handle.thread()
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Relaxed)
    }
}

pub(crate) fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    Builder::new().spawn(work).expect("a checker has threads to give")
}
