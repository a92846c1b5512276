//! Hosts and one engine at the sequencer, step by step.

#![expect(clippy::unwrap_used, reason = "every part of this is a test")]

use std::thread;
use std::time::Duration;

use super::*;
use crate::batch::{BATCH_HEADER_BYTES, Batch, LogPoint, TABLE_ENTRY_BYTES};
use crate::future::Appended;
use crate::primitives::atomic::{AtomicUsize, Ordering};

/// The cost of an entry of one byte in the window.
const COST: u64 = ENTRY_OVERHEAD + 1;

/// An open sequencer with a window for `entries` of one byte.
fn sequencer(entries: u64) -> Sequencer {
    with_limits(Limits { entry: 10, batch: 100, window: entries * COST })
}

fn with_limits(limits: Limits) -> Sequencer {
    let sequencer = Sequencer::new(limits, || {});
    sequencer.open(1, 0, 0, 0);
    sequencer
}

fn not_leader() -> AppendError {
    AppendError::NotLeader {
        leader: None,
        address: None,
        advertised: None,
        refused: Box::default(),
    }
}

/// The outcome of a resolved future.
fn outcome(future: &AppendFuture) -> Result<Appended, AppendError> {
    future.wait_timeout(Duration::ZERO).expect("it is resolved by now")
}

fn error(future: &AppendFuture) -> AppendError {
    outcome(future).expect_err("it fails")
}

/// The place of the entries of a pending future.
fn place(future: &AppendFuture) -> (u64, u64) {
    assert!(future.wait_timeout(Duration::ZERO).is_none(), "nothing is known of it yet");
    (future.index().unwrap(), future.position().unwrap())
}

/// Takes all batches, as the successors of `before`.
fn taken(sequencer: &Sequencer, now: u64, before: LogPoint) -> (Vec<Batch>, LogPoint) {
    let mut end = before;
    let batches = sequencer.take(now).into_iter().map(|closed| {
        let batch = Batch::new(end.raft_index + 1, end.term, closed.body).unwrap();
        batch.verify().unwrap();
        end = batch.point_after(&end).unwrap();
        assert_eq!(closed.cost, batch.payload_bytes() + u64::from(batch.count()) * ENTRY_OVERHEAD);
        batch
    });
    (batches.collect(), end)
}

fn counts(batches: &[Batch]) -> Vec<u32> {
    batches.iter().map(Batch::count).collect()
}

/// Lets `host` work at the sequencer beside the test.
fn beside<T: Send + 'static>(
    sequencer: &Arc<Sequencer>,
    host: impl FnOnce(&Sequencer) -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let sequencer = sequencer.clone();
    thread::spawn(move || host(&sequencer))
}

/// Long enough for any machine.
fn timeout() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(60))
}

/// Waits until so many hosts wait for room.
fn await_waiters(sequencer: &Sequencer, waiters: usize) {
    let end = Instant::now() + Duration::from_secs(60);
    while sequencer.queue.lock().line.len() != waiters {
        assert!(Instant::now() < end, "there are never {waiters} waiters");
        thread::yield_now();
    }
}

#[test]
fn entries_follow_each_other_in_one_batch_and_a_batch_of_a_host_stays_by_itself() {
    let sequencer = sequencer(100);
    sequencer.open(1, LogPoint::INITIAL.next_index, LogPoint::INITIAL.next_position, 0);
    let futures = [sequencer.append(b"one", None), sequencer.append(b"two", None)];
    let (batch, count) = sequencer.append_batch(["three", "four"], None);
    let last = sequencer.append(b"five", None);
    assert_eq!(count, 2);
    assert_eq!(futures.map(|future| place(&future)), [(0, 0), (1, 3)]);
    assert_eq!([place(&batch), place(&last)], [(2, 6), (4, 15)]);
    let (batches, end) = taken(&sequencer, 7, LogPoint::INITIAL);
    assert_eq!(counts(&batches), [2, 2, 1]);
    assert_eq!(&batches[1].entry(3).unwrap().unwrap()[..], b"four");
    assert_eq!((end.next_index, end.next_position), (5, 19));
    assert!(sequencer.take(7).is_empty());
    assert_eq!(place(&sequencer.append(b"six", None)), (5, 19));
}

#[test]
fn held_back_only_what_is_large_wakes_the_engine() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let limits = Limits { entry: 1 << 20, batch: 1 << 20, window: 1 << 30 };
    let sequencer = Sequencer::new(limits, move || {
        counted.fetch_add(1, Ordering::Relaxed);
    });
    sequencer.open(1, 0, 0, 0);
    let calls = || calls.swap(0, Ordering::Relaxed);
    assert!(sequencer.hold());
    drop([sequencer.append(b"small", None), sequencer.append(b"small", None)]);
    assert!(sequencer.hold());
    drop(sequencer.append(b"small", None));
    assert_eq!(calls(), 0);
    drop(sequencer.append(&vec![b'x'; HELD_BYTES], None));
    assert_eq!(calls(), 1);
    drop(sequencer.append(b"small", None));
    assert_eq!(calls(), 0, "it was woken already");
    assert!(!sequencer.hold());
    assert_eq!(sequencer.take(0).len(), 1);
    drop(sequencer.append(b"small", None));
    assert_eq!(calls(), 1, "nothing is held back after a take");
    assert!(sequencer.hold());
    drop(sequencer.append_batch(["of", "a", "host"], None));
    assert_eq!(calls(), 1, "two batches are many");
    sequencer.take(0);
    assert!(sequencer.hold());
    sequencer.take(0);
    drop(sequencer.append(b"small", None));
    assert_eq!(calls(), 1, "also if it was");
    assert!(sequencer.hold());
    sequencer.close(AppendError::Stopped);
    sequencer.open(1, 0, 0, 0);
    drop(sequencer.append(b"small", None));
    assert_eq!(calls(), 1, "nor after a close");
}

#[test]
fn a_batch_is_closed_when_it_is_large() {
    let limits = Limits { entry: 1 << 30, batch: 1 << 30, window: 1 << 30 };
    let sequencer = with_limits(limits);
    let rest = BATCH_TARGET_BYTES - TABLE_ENTRY_BYTES - 1000;
    for bytes in [1000, rest, 1000, rest + 1, 1] {
        place(&sequencer.append(&vec![b'x'; bytes], None));
    }
    assert_eq!(counts(&taken(&sequencer, 0, LogPoint::INITIAL).0), [2, 1, 2]);
}

#[test]
fn entries_without_a_payload_do_not_make_a_batch_without_bound() {
    let sequencer = with_limits(Limits { entry: 1, batch: 1 << 20, window: u64::MAX });
    let appends = 2 * BATCH_TARGET_BYTES / TABLE_ENTRY_BYTES + 1;
    for _ in 0..appends {
        drop(sequencer.append(b"", None));
    }
    let batches = sequencer.take(1);
    let is_small = |batch: &ClosedBatch| {
        batch.body.len() <= BATCH_TARGET_BYTES + BATCH_HEADER_BYTES + TABLE_ENTRY_BYTES
    };
    assert!(batches.iter().all(is_small));
    let counts =
        batches.iter().map(|batch| Batch::new(1, 1, batch.body.clone()).unwrap().count() as usize);
    assert_eq!(counts.sum::<usize>(), appends);
}

#[test]
fn what_is_larger_than_its_limit_is_refused_and_what_is_as_large_is_not() {
    let limits = Limits { entry: 10, batch: ENTRY_OVERHEAD + 15, window: 1 << 20 };
    let sequencer = with_limits(limits);
    let too_large = |future: &AppendFuture| match error(future) {
        AppendError::TooLarge { len, limit } => (len, limit),
        error => panic!("{error}"),
    };
    place(&sequencer.append(&[0; 10], None));
    assert_eq!(too_large(&sequencer.append(&[0; 11], None)), (11, 10));
    assert_eq!(too_large(&sequencer.append(&[0; 12], None)), (12, 10));
    assert_eq!(place(&sequencer.append_batch([&[0; 10][..], &[0; 5]], None).0), (1, 10));
    let (future, count) = sequencer.append_batch([&[0; 10][..], &[0; 6]], None);
    assert_eq!((too_large(&future), count), ((ENTRY_OVERHEAD + 16, ENTRY_OVERHEAD + 15), 0));
    let (future, _) = sequencer.append_batch([&[0; 1][..], &[0; 11]], None);
    assert_eq!(too_large(&future), (11, 10));
    let (future, _) = sequencer.append_batch([&[0; 0][..], &[0; 0], &[0; 0]], None);
    assert_eq!(too_large(&future).0, 2 * ENTRY_OVERHEAD);
    assert_eq!(place(&sequencer.append(b"x", None)), (3, 25), "what is refused takes no number");
}

#[test]
fn an_empty_batch_holds_at_once_and_takes_nothing() {
    let sequencer = sequencer(100);
    sequencer.open(1, 3, 5, 0);
    let (future, count) = sequencer.append_batch([""; 0], None);
    let appended = outcome(&future).unwrap();
    assert_eq!((appended.index, appended.position, count), (3, 5, 0));
    assert_eq!((appended.term, appended.timestamp), (0, 0), "nothing was appended");
    assert_eq!(sequencer.in_flight(), 0);
    assert!(sequencer.take(0).is_empty());
    sequencer.close(not_leader());
    assert!(outcome(&sequencer.append_batch([""; 0], None).0).is_err(), "only a leader answers");
}

#[test]
fn a_payload_in_parts_makes_the_same_bytes_as_the_parts_joined() {
    let limits = Limits { entry: 1000, batch: 1000, window: 1 << 20 };
    let (joined, apart) = (with_limits(limits), with_limits(limits));
    let bytes: Vec<u8> = (0..1000).map(|byte| byte as u8).collect();
    let cuts = [0, 0, 1, 7, 7, 64, 500, 1000];
    for len in [0, 1, 63, 64, 65, 1000] {
        let payload = &bytes[..len];
        let ends = cuts.map(|cut| cut.min(len));
        let parts: Vec<&[u8]> = ends.windows(2).map(|ends| &payload[ends[0]..ends[1]]).collect();
        let expected = place(&joined.append(payload, None));
        assert_eq!(place(&apart.append_parts(&parts, None)), expected);
    }
    place(&joined.append(b"", None));
    place(&apart.append_parts(&[], None));
    let (joined, apart) =
        (taken(&joined, 5, LogPoint::INITIAL), taken(&apart, 5, LogPoint::INITIAL));
    assert_eq!(joined, apart);
}

#[test]
fn parts_are_limited_by_their_sum() {
    let sequencer = sequencer(100);
    let limit = [&b"123"[..], b"4567", b"890"];
    place(&sequencer.append_parts(&limit, None));
    let too_large = error(&sequencer.append_parts(&[&limit[..], &[b"!"]].concat(), None));
    assert!(matches!(too_large, AppendError::TooLarge { len: 11, limit: 10 }), "{too_large:?}");
}

#[test]
fn an_append_is_told_the_timestamp_of_its_batch() {
    let sequencer = sequencer(100);
    let (first, second) = (sequencer.append(b"1", None), sequencer.append(b"2", None));
    let closed = sequencer.take(77).remove(0);
    let later = sequencer.append(b"3", None);
    closed.completion.resolve(Ok(4));
    let timestamps = [first, second].map(|future| outcome(&future).unwrap().timestamp);
    assert_eq!(timestamps, [77, 77]);
    let closed = sequencer.take(70).remove(0);
    closed.completion.resolve(Ok(4));
    assert_eq!(later.wait().unwrap().timestamp, 77, "a clock that steps back takes none along");
}

#[test]
fn the_window_is_taken_to_the_last_byte_and_given_back() {
    let sequencer = sequencer(4);
    place(&sequencer.append(b"1", None));
    place(&sequencer.append_batch(["2", "3", "4"], None).0);
    assert_eq!(sequencer.in_flight(), 4 * COST);
    let busy = [sequencer.append(b"", None), sequencer.append_batch(["5"], None).0];
    for future in busy {
        let AppendError::Busy { in_flight, limit } = error(&future) else { panic!("it has room") };
        assert_eq!((in_flight, limit), (4 * COST, 4 * COST));
    }
    let batches = sequencer.take(0);
    assert_eq!(sequencer.in_flight(), 4 * COST, "what is taken is not settled");
    sequencer.release(batches[1].cost);
    assert_eq!(sequencer.in_flight(), COST);
    let batch = sequencer.append_batch(["5", "6", "7"], None).0;
    assert_eq!(place(&batch).0, 4, "there is room for so much again");
    assert!(matches!(error(&sequencer.append(b"", None)), AppendError::Busy { .. }));
    sequencer.release(batches[0].cost);
    assert_eq!(place(&sequencer.append(b"8", None)).0, 7);
}

#[test]
fn what_is_larger_than_the_whole_window_passes_when_it_is_alone() {
    let sequencer = with_limits(Limits { entry: 10, batch: 100, window: 1 });
    let first = sequencer.append(b"1", None);
    assert!(matches!(error(&sequencer.append(b"2", None)), AppendError::Busy { .. }));
    place(&first);
    sequencer.release(sequencer.take(0)[0].cost);
    place(&sequencer.append_batch(["2", "3"], None).0);
}

#[test]
fn timestamps_never_go_back() {
    let sequencer = sequencer(100);
    let mut end = LogPoint::INITIAL;
    let mut times = Vec::new();
    for (opened_at, now) in [(0, 50), (0, 40), (70, 60), (30, 80)] {
        sequencer.open(1, end.next_index, end.next_position, opened_at);
        place(&sequencer.append(b"x", None));
        (_, end) = taken(&sequencer, now, end);
        times.push(end.timestamp);
    }
    assert_eq!(times, [50, 50, 70, 80]);
}

#[test]
fn the_doorbell_is_rung_when_the_queue_turns_from_empty_to_not_empty() {
    let rings = Arc::new(AtomicUsize::new(0));
    let bell = rings.clone();
    let limits = Limits { entry: 10, batch: 100, window: 1000 };
    let sequencer = Sequencer::new(limits, move || {
        bell.fetch_add(1, Ordering::Relaxed);
    });
    let rung = || rings.load(Ordering::Relaxed);
    error(&sequencer.append(b"0", None));
    sequencer.open(1, 0, 0, 0);
    assert_eq!(rung(), 0);
    place(&sequencer.append(b"1", None));
    assert_eq!(rung(), 1);
    place(&sequencer.append(b"2", None));
    place(&sequencer.append_batch(["3"], None).0);
    assert_eq!(rung(), 1);
    sequencer.take(0);
    place(&sequencer.append_batch(["4"], None).0);
    assert_eq!(rung(), 2);
}

#[test]
fn what_is_queued_gives_back_its_room_when_the_gate_closes() {
    let sequencer = sequencer(4);
    let queued = [sequencer.append(b"1", None), sequencer.append_batch(["2", "3", "4"], None).0];
    sequencer.close(not_leader());
    for future in &queued {
        assert!(matches!(error(future), AppendError::NotLeader { .. }));
    }
    assert_eq!(sequencer.in_flight(), 0);
    assert!(sequencer.take(0).is_empty());
    assert!(matches!(error(&sequencer.append(b"5", None)), AppendError::NotLeader { .. }));
    // A window that lost room with every change of the leader would be shut in the end.
    sequencer.open(1, 9, 90, 0);
    assert_eq!(place(&sequencer.append_batch(["1", "2", "3", "4"], None).0), (9, 90));
}

#[test]
fn a_closed_gate_stays_closed_whatever_a_transfer_does() {
    let sequencer = sequencer(4);
    sequencer.close(AppendError::Stopped);
    sequencer.pause();
    assert!(matches!(error(&sequencer.append(b"1", None)), AppendError::Stopped));
    sequencer.resume();
    assert!(matches!(error(&sequencer.append(b"1", None)), AppendError::Stopped));
}

#[test]
fn a_pause_keeps_what_is_queued_and_lets_nothing_in_until_it_ends() {
    let sequencer = Arc::new(sequencer(4));
    place(&sequencer.append(b"1", None));
    sequencer.pause();
    assert!(matches!(error(&sequencer.append(b"2", None)), AppendError::Busy { .. }));
    let host = beside(&sequencer, |sequencer| place(&sequencer.append(b"2", timeout())));
    await_waiters(&sequencer, 1);
    assert_eq!(counts(&taken(&sequencer, 0, LogPoint::INITIAL).0), [1]);
    sequencer.resume();
    assert_eq!(host.join().unwrap(), (1, 1));
    assert_eq!(sequencer.queue.lock().line.len(), 0);
}

#[test]
fn who_waits_for_room_is_woken_by_room_by_a_leader_and_by_the_end() {
    let sequencer = Arc::new(sequencer(1));
    place(&sequencer.append(b"1", None));
    let cost = sequencer.take(0)[0].cost;
    let host = beside(&sequencer, |sequencer| place(&sequencer.append(b"2", timeout())));
    await_waiters(&sequencer, 1);
    sequencer.release(cost);
    assert_eq!(host.join().unwrap(), (1, 1));

    sequencer.pause();
    let host = beside(&sequencer, |sequencer| place(&sequencer.append(b"x", timeout())));
    await_waiters(&sequencer, 1);
    sequencer.release(sequencer.take(0)[0].cost);
    sequencer.open(1, 5, 5, 0);
    assert_eq!(host.join().unwrap(), (5, 5));

    let host = beside(&sequencer, |sequencer| error(&sequencer.append_batch(["2"], timeout()).0));
    await_waiters(&sequencer, 1);
    sequencer.close(AppendError::Stopped);
    assert!(matches!(host.join().unwrap(), AppendError::Stopped));
}

#[test]
fn who_waits_for_room_until_it_is_too_late_takes_none() {
    let sequencer = sequencer(1);
    place(&sequencer.append(b"1", None));
    let late = Some(Instant::now() + Duration::from_millis(5));
    assert!(matches!(error(&sequencer.append(b"2", late)), AppendError::Busy { .. }));
    let queue = sequencer.queue.lock();
    assert_eq!((queue.line.len(), queue.in_flight, queue.next_index), (0, COST, 1));
}

/// A task that counts its wakes.
#[derive(Default)]
struct Task(AtomicUsize);

impl std::task::Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn ticket(sequencer: &Sequencer, payload: &[u8]) -> Ticket {
    match sequencer.append_when_ready(payload) {
        Admission::Waits(ticket) => ticket,
        Admission::Settled(future) => panic!("it need not wait: {future:?}"),
    }
}

fn served(ticket: &Ticket) -> Option<AppendFuture> {
    match ticket.poll(Waker::noop()) {
        Poll::Ready(future) => Some(future),
        Poll::Pending => None,
    }
}

#[test]
fn a_task_that_waits_is_appended_in_its_turn_and_woken_once_it_is_committed() {
    let sequencer = sequencer(2);
    place(&sequencer.append_batch(["1", "2"], None).0);
    let task = Arc::new(Task::default());
    let (third, fourth) = (ticket(&sequencer, b"3"), ticket(&sequencer, b"4"));
    assert!(third.poll(&task.clone().into()).is_pending());
    sequencer.release(sequencer.take(0)[0].cost);
    assert_eq!(task.0.load(Ordering::Relaxed), 0);
    let appended = sequencer.take(0);
    assert_eq!(appended.len(), 1, "both fit into one batch, though neither was polled");
    appended[0].completion.resolve(Ok(1));
    assert_eq!(task.0.load(Ordering::Relaxed), 1);
    let futures = [&third, &fourth].map(|ticket| served(ticket).unwrap());
    assert_eq!(futures.map(|future| outcome(&future).unwrap().index), [2, 3]);
}

#[test]
fn waiting_appends_are_not_overtaken_and_a_large_one_is_not_starved() {
    let sequencer = sequencer(2);
    place(&sequencer.append_batch(["1", "2"], None).0);
    let first = sequencer.take(0);
    let large = ticket(&sequencer, &[b'x'; 9]);
    let small = ticket(&sequencer, b"y");
    sequencer.release(COST);
    let refused = error(&sequencer.append(b"z", None));
    assert!(matches!(refused, AppendError::Busy { .. }), "there is room, but not for it");
    assert!(served(&large).is_none() && served(&small).is_none());
    sequencer.release(first[0].cost - COST);
    assert_eq!((served(&large).unwrap().index(), served(&small).is_some()), (Some(2), false));
}

#[test]
fn who_leaves_the_line_lets_those_behind_go_on() {
    let sequencer = sequencer(2);
    place(&sequencer.append(b"1", None));
    let large = ticket(&sequencer, &[b'x'; 10]);
    let small = ticket(&sequencer, b"2");
    assert!(served(&small).is_none());
    sequencer.leave(&large);
    assert_eq!(served(&small).unwrap().index(), Some(1));
    sequencer.leave(&large);
    let queue = sequencer.queue.lock();
    assert_eq!((queue.line.len(), queue.in_flight, queue.next_index), (0, 2 * COST, 2));
}

#[test]
fn a_gate_that_closes_sends_the_line_away() {
    let sequencer = sequencer(1);
    place(&sequencer.append(b"1", None));
    let (task, waits) = (Arc::new(Task::default()), ticket(&sequencer, b"2"));
    assert!(waits.poll(&task.clone().into()).is_pending());
    sequencer.close(AppendError::Stopped);
    assert_eq!(task.0.load(Ordering::Relaxed), 1);
    assert!(matches!(error(&served(&waits).unwrap()), AppendError::Stopped));
    assert_eq!(sequencer.in_flight(), 0);
    match sequencer.append_when_ready(b"3") {
        Admission::Settled(late) => assert!(matches!(error(&late), AppendError::Stopped)),
        Admission::Waits(_) => panic!("the sequencer never opens again"),
    }
}

/// One group under full load leaves turns to the others.
#[test]
fn an_engine_takes_what_a_turn_may_and_is_woken_for_the_rest() {
    let wakes = Arc::new(AtomicUsize::new(0));
    let bell = wakes.clone();
    let limits = Limits { entry: 1 << 20, batch: 1 << 20, window: 1 << 30 };
    let sequencer = Sequencer::new(limits, move || {
        bell.fetch_add(1, Ordering::Relaxed);
    });
    let sequencer = sequencer.with_turns_of(100);
    sequencer.open(1, 0, 0, 0);
    for payload in [&[b'x'; 200][..], b"a", &[b'y'; 200], b"b"] {
        place(&sequencer.append_batch([payload], None).0);
    }
    assert_eq!(wakes.load(Ordering::Relaxed), 1);
    let mut taken = Vec::new();
    while let batches @ [_, ..] = &sequencer.take(0)[..] {
        taken.push(batches.len());
    }
    assert_eq!(taken, [1, 2, 1], "up to one that reaches the limit");
    assert_eq!(wakes.load(Ordering::Relaxed), 3, "once for each rest");
}
