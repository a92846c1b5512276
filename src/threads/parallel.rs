//! Work on many things at the same time, on threads that end afterwards.

use std::io;
use std::sync::Arc;

use crate::primitives::Mutex;
use crate::primitives::atomic::{AtomicUsize, Ordering};
use crate::primitives::thread;

/// Threads at a time: what they do waits for the disk most of the time.
const PARALLEL: usize = 16;

/// Does `work` with each of `items`. The results are in the order of the items.
pub(crate) fn in_parallel<I, T>(
    items: Vec<I>,
    work: impl Fn(&I) -> T + Send + Sync + 'static,
) -> io::Result<Vec<T>>
where
    I: Send + Sync + 'static,
    T: Send + 'static,
{
    let count = items.len();
    let shared = Arc::new((AtomicUsize::new(0), items, work, Mutex::new(Vec::new())));
    let threads = (0..count.min(PARALLEL)).map(|_| {
        let shared = shared.clone();
        thread::Builder::new().name("opening".to_owned()).spawn(move || {
            let (next, items, work, results) = &*shared;
            while let Some((at, item)) = next_of(next, items) {
                let result = work(item);
                results.lock().push((at, result));
            }
        })
    });
    for thread in threads.collect::<io::Result<Vec<_>>>()? {
        let _ = thread.join();
    }
    let mut results = std::mem::take(&mut *shared.3.lock());
    results.sort_by_key(|(at, _)| *at);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

fn next_of<'a, I>(next: &AtomicUsize, items: &'a [I]) -> Option<(usize, &'a I)> {
    let at = next.fetch_add(1, Ordering::Relaxed);
    Some((at, items.get(at)?))
}
