//! Every schedule of one completion: a thread that resolves it, and others that wait or poll.

use super::*;
use crate::primitives::{Alarm, thread};
use crate::watermark::Watermark;

fn completion() -> Arc<Completion> {
    Arc::new(Completion::default())
}

fn future_of(completion: &Arc<Completion>) -> AppendFuture {
    AppendFuture::pending(completion.clone(), 4, 40)
}

fn resolver(completion: &Arc<Completion>, outcome: Outcome) -> thread::JoinHandle<()> {
    let completion = completion.clone();
    thread::spawn(move || completion.resolve(outcome))
}

/// The term, or 0 for a failure.
fn told(outcome: &Result<Appended, AppendError>) -> u64 {
    outcome.as_ref().map_or(0, |appended| appended.term)
}

fn poll(future: &mut AppendFuture, alarm: &Arc<Alarm>) -> Poll<Result<Appended, AppendError>> {
    Pin::new(future).poll(&mut Context::from_waker(&Waker::from(alarm.clone())))
}

/// A minimal executor.
fn block_on(mut future: AppendFuture) -> Result<Appended, AppendError> {
    let alarm = Arc::new(Alarm::default());
    loop {
        match poll(&mut future, &alarm) {
            Poll::Ready(outcome) => return outcome,
            Poll::Pending => alarm.sleep(),
        }
    }
}

#[test]
fn of_two_outcomes_all_learn_the_same_one() {
    loom::model(|| {
        let completion = completion();
        let resolvers =
            [resolver(&completion, Ok(7)), resolver(&completion, Err(AppendError::Stopped))];
        let first = told(&future_of(&completion).wait());
        resolvers.into_iter().for_each(|resolver| resolver.join().unwrap());
        assert_eq!(told(&future_of(&completion).wait()), first, "the outcome changed");
        assert!(completion.is_resolved());
    });
}

#[test]
fn every_kind_of_waiter_is_woken() {
    for outcome in [Ok(7), Err(AppendError::Stopped)] {
        loom::model(move || {
            let completion = completion();
            let blocked = thread::spawn({
                let future = future_of(&completion);
                move || told(&future.wait())
            });
            let resolver = resolver(&completion, outcome.clone());
            let term = outcome.clone().unwrap_or(0);
            assert_eq!(told(&block_on(future_of(&completion))), term);
            assert_eq!(blocked.join().unwrap(), term);
            resolver.join().unwrap();
        });
    }
}

#[test]
fn a_future_wakes_the_task_that_polled_it_last() {
    loom::model(|| {
        let completion = completion();
        let resolver = resolver(&completion, Ok(7));
        let mut future = future_of(&completion);
        let (left, joined) = (Arc::new(Alarm::default()), Arc::new(Alarm::default()));
        if poll(&mut future, &left).is_pending() && poll(&mut future, &joined).is_pending() {
            joined.sleep();
            assert!(poll(&mut future, &joined).is_ready(), "woken for nothing");
        }
        resolver.join().unwrap();
    });
}

#[test]
fn two_tasks_of_one_batch_are_both_woken() {
    loom::model(|| {
        let completion = completion();
        let other = thread::spawn({
            let future = future_of(&completion);
            move || told(&block_on(future))
        });
        let resolver = resolver(&completion, Ok(7));
        assert_eq!(told(&block_on(future_of(&completion))), 7);
        assert_eq!(other.join().unwrap(), 7);
        resolver.join().unwrap();
    });
}

#[test]
fn a_wait_that_gives_up_takes_nothing_from_the_next() {
    loom::model(|| {
        let completion = completion();
        let resolver = resolver(&completion, Err(AppendError::Stopped));
        let future = future_of(&completion);
        if let Some(outcome) = future.wait_timeout(Duration::from_millis(5)) {
            assert_eq!(told(&outcome), 0);
        }
        assert!(matches!(future.wait(), Err(AppendError::Stopped)));
        resolver.join().unwrap();
    });
}

/// The engine publishes a commit before it resolves: `get(append()?)` is never `None`, even if the
/// outcome was learned without a lock.
#[test]
fn who_learns_of_a_commit_finds_it_published() {
    loom::model(|| {
        let node = Arc::new((Watermark::new(4, 40), AtomicU64::new(0), Completion::default()));
        let engine = thread::spawn({
            let node = node.clone();
            move || {
                node.1.store(1, Ordering::Relaxed); // the entry
                node.0.publish(5, 50);
                node.2.resolve(Ok(7));
            }
        });
        if node.2.committed().is_some() {
            assert_eq!(
                (node.0.end(), node.1.load(Ordering::Relaxed)),
                (5, 1),
                "resolved before it can be read"
            );
        }
        assert_eq!(node.2.wait().unwrap(), 7);
        assert_eq!(
            (node.0.end(), node.1.load(Ordering::Relaxed)),
            (5, 1),
            "resolved before it can be read"
        );
        engine.join().unwrap();
    });
}
