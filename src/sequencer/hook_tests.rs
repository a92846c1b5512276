//! The append hook and the term of an append at the sequencer.

#![expect(clippy::unwrap_used, reason = "every part of this is a test")]

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::*;
use crate::append_hook::Place;
use crate::batch::{Batch, LogPoint};

const COST: u64 = ENTRY_OVERHEAD + 1;

type Seen = Arc<Mutex<Vec<(u64, u64, u64, usize)>>>;

/// An open sequencer in term 3, with a window for `entries` of one byte.
fn with_hook(entries: u64, hook: impl Fn(&Place, &mut [u8]) + Send + Sync + 'static) -> Sequencer {
    let limits = Limits { entry: 100, batch: 1000, window: entries * COST };
    let sequencer = Sequencer::new(limits, || {}).calling(Some(Arc::new(hook)));
    sequencer.open(3, 0, 0, 0);
    sequencer
}

/// Writes the low bytes of index, position and term into a payload, as far as it is long enough.
fn stamp(place: &Place, payload: &mut [u8]) {
    for (byte, field) in payload.iter_mut().zip([place.index, place.position, place.term]) {
        *byte = field as u8;
    }
}

/// A sequencer whose hook stamps, and says what it was called for.
fn stamping(entries: u64) -> (Sequencer, Seen) {
    let seen = Seen::default();
    let seen_by_hook = seen.clone();
    let sequencer = with_hook(entries, move |place, payload| {
        seen_by_hook.lock().push((place.index, place.position, place.term, payload.len()));
        stamp(place, payload);
    });
    (sequencer, seen)
}

/// The payloads of all batches that are queued, which are `term`'s and follow `before`.
fn taken(sequencer: &Sequencer, term: u64, before: &mut LogPoint) -> Vec<Vec<u8>> {
    before.term = term;
    let mut payloads = Vec::new();
    for closed in sequencer.take(0) {
        assert_eq!(closed.term, term);
        let batch = Batch::new(before.raft_index + 1, term, closed.body).unwrap();
        batch.verify().unwrap();
        let first = before.next_index;
        *before = batch.point_after(before).unwrap();
        for index in first..before.next_index {
            payloads.push(batch.entry(index).unwrap().unwrap().to_vec());
        }
    }
    payloads
}

fn outcome(future: &AppendFuture) -> AppendError {
    let outcome = future.wait_timeout(Duration::ZERO).expect("it is resolved by now");
    outcome.expect_err("it fails")
}

fn is_wrong(future: &AppendFuture, wanted: u64, term: u64) -> bool {
    let error = outcome(future);
    assert!(!error.may_have_committed());
    matches!(error, AppendError::WrongTerm { wanted: w, term: t } if (w, t) == (wanted, term))
}

fn not_leader() -> AppendError {
    AppendError::NotLeader {
        leader: None,
        address: None,
        advertised: None,
        refused: Box::default(),
    }
}

fn timeout() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(60))
}

fn await_waiters(sequencer: &Sequencer, waiters: usize) {
    let end = Instant::now() + Duration::from_secs(60);
    while sequencer.queue.lock().line.len() != waiters {
        assert!(Instant::now() < end, "there are never {waiters} waiters");
        thread::yield_now();
    }
}

#[test]
fn every_kind_of_append_is_stamped_with_its_place_in_the_order_of_the_log() {
    let (sequencer, seen) = stamping(1000);
    let mut futures = vec![
        sequencer.append(b"abcd", None),
        sequencer.append_parts(&[b"ef", b"", b"gh"], None),
        sequencer.append(b"", None),
        sequencer.append_batch([&b"ijk"[..], b"", b"lmno"], None).0,
    ];
    let Admission::Settled(ready) = sequencer.append_when_ready(b"pqrs") else { panic!() };
    futures.push(ready);
    futures.push(sequencer.append_fenced(&[b"tuv"], Some(3), None));
    assert_eq!(sequencer.append_batch([[0_u8; 4]; 0], None).1, 0, "no entry, no call");
    let places: Vec<_> = futures.iter().map(|f| (f.index(), f.position())).collect();
    let expected = [(0, 0), (1, 4), (2, 8), (3, 8), (6, 15), (7, 19)];
    assert_eq!(places, expected.map(|(index, position)| (Some(index), Some(position))));
    let stamped = taken(&sequencer, 3, &mut LogPoint::INITIAL.clone());
    let expected: [&[u8]; 8] = [
        b"\x00\x00\x03d",
        b"\x01\x04\x03h",
        b"",
        b"\x03\x08\x03",
        b"",
        b"\x05\x0b\x03o",
        b"\x06\x0f\x03s",
        b"\x07\x13\x03",
    ];
    assert_eq!(stamped, expected);
    let seen = seen.lock();
    assert_eq!(
        *seen,
        [
            (0, 0, 3, 4),
            (1, 4, 3, 4),
            (2, 8, 3, 0),
            (3, 8, 3, 3),
            (4, 11, 3, 0),
            (5, 11, 3, 4),
            (6, 15, 3, 4),
            (7, 19, 3, 3)
        ]
    );
}

#[test]
fn a_panic_fails_its_append_or_batch_alone_and_its_place_goes_to_the_next() {
    let sequencer = with_hook(1000, |place, payload| {
        assert!(payload.last() != Some(&b'!'), "no {}", payload.len());
        stamp(place, payload);
    });
    let first = sequencer.append(b"aaaa", None);
    let failed = [
        sequencer.append(b"bb!", None),
        sequencer.append_batch([&b"cccc"[..], b"dd!", b"eeee"], None).0,
    ];
    let Admission::Settled(ready) = sequencer.append_when_ready(b"f!") else { panic!() };
    let last = sequencer.append(b"gggg", None);
    for (future, len) in failed.iter().chain([&ready]).zip([3, 3, 2]) {
        let error = outcome(future);
        assert_eq!(error.to_string(), format!("the append hook panicked: no {len}"));
        assert!(!error.may_have_committed());
        assert_eq!(future.index(), None);
    }
    assert_eq!([first.index(), last.index()], [Some(0), Some(1)]);
    assert_eq!(sequencer.in_flight(), 2 * (4 + ENTRY_OVERHEAD), "what failed takes no room");
    let payloads = taken(&sequencer, 3, &mut LogPoint::INITIAL.clone());
    assert_eq!(payloads, [b"\x00\x00\x03a", b"\x01\x04\x03g"]);
}

/// A panic with a value whose drop panics too.
#[test]
fn a_panic_with_a_value_of_the_host_is_contained() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("once more");
        }
    }
    let sequencer = with_hook(10, |_, _| std::panic::panic_any(Bomb));
    assert!(matches!(outcome(&sequencer.append(b"a", None)), AppendError::HookPanicked { .. }));
}

#[test]
fn waiting_appends_are_stamped_when_they_are_placed_and_a_panic_among_them_delays_none() {
    let sequencer = Arc::new(with_hook(1, |place, payload| {
        assert!(payload.first() != Some(&b'!'));
        stamp(place, payload);
    }));
    let mut end = LogPoint::INITIAL;
    drop(sequencer.append(b"a", None));
    let waiting: Vec<_> = [&b"!"[..], b"b"]
        .into_iter()
        .map(|payload| {
            let host = sequencer.clone();
            let before = sequencer.queue.lock().line.len();
            let thread = thread::spawn(move || host.append(payload, timeout()));
            await_waiters(&sequencer, before + 1);
            thread
        })
        .collect();
    let Admission::Waits(ticket) = sequencer.append_when_ready(b"c") else { panic!() };
    let host = sequencer.clone();
    let batch = thread::spawn(move || host.append_batch([b"d", b"e"], timeout()).0);
    await_waiters(&sequencer, 4);
    assert_eq!(taken(&sequencer, 3, &mut end), [[0]]);
    sequencer.release(COST);
    let mut waiting = waiting.into_iter().map(|thread| thread.join().unwrap());
    assert!(matches!(outcome(&waiting.next().unwrap()), AppendError::HookPanicked { .. }));
    assert_eq!(waiting.next().unwrap().index(), Some(1));
    assert_eq!(taken(&sequencer, 3, &mut end), [[1]]);
    sequencer.release(COST);
    let Poll::Ready(ready) = ticket.poll(Waker::noop()) else { panic!() };
    assert_eq!((ready.index(), ready.position()), (Some(2), Some(2)));
    assert_eq!(taken(&sequencer, 3, &mut end), [[2]]);
    sequencer.release(COST);
    assert_eq!(batch.join().unwrap().index(), Some(3));
    assert_eq!(taken(&sequencer, 3, &mut end), [[3], [4]]);
}

/// A sequencer whose hook waits, each time it is called, until the test lets it go on.
struct Slow {
    sequencer: Arc<Sequencer>,
    called: mpsc::Receiver<Place>,
    go_on: mpsc::Sender<()>,
}

fn slow(entries: u64) -> Slow {
    let (calls, called) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel();
    let gate = std::sync::Mutex::new((calls, may_go_on));
    let sequencer = Arc::new(with_hook(entries, move |place, payload| {
        let gate = gate.lock().unwrap();
        gate.0.send(*place).unwrap();
        gate.1.recv_timeout(Duration::from_secs(60)).unwrap();
        stamp(place, payload);
    }));
    Slow { sequencer, called, go_on }
}

impl Slow {
    fn begin(&self, fence: Option<u64>) -> thread::JoinHandle<AppendFuture> {
        let host = self.sequencer.clone();
        thread::spawn(move || host.append_fenced(&[b"abcd"], fence, timeout()))
    }

    fn await_call(&self) -> Place {
        self.called.recv_timeout(Duration::from_secs(60)).unwrap()
    }
}

#[test]
fn the_engine_and_readers_of_the_status_do_not_wait_for_a_hook() {
    let slow = slow(100);
    let append = slow.begin(None);
    slow.await_call();
    assert_eq!(slow.sequencer.in_flight(), 0);
    assert!(slow.sequencer.take(0).is_empty() && slow.sequencer.hold());
    slow.sequencer.pause();
    slow.sequencer.resume();
    slow.go_on.send(()).unwrap();
    assert_eq!(append.join().unwrap().index(), Some(0));
}

#[test]
fn an_append_whose_term_ends_while_its_hook_runs_is_refused() {
    let slow = slow(100);
    let append = slow.begin(None);
    slow.await_call();
    slow.sequencer.close_in(4, not_leader());
    slow.go_on.send(()).unwrap();
    assert!(matches!(outcome(&append.join().unwrap()), AppendError::NotLeader { .. }));
    slow.sequencer.open(5, 0, 0, 0);
    assert!(slow.sequencer.take(0).is_empty());
}

/// The place may be the same in the next term: only the term tells.
#[test]
fn an_append_whose_hook_ran_for_an_earlier_term_is_stamped_anew_or_refused_if_it_was_for_it() {
    for fence in [None, Some(3)] {
        let slow = slow(100);
        let append = slow.begin(fence);
        assert_eq!(slow.await_call().term, 3);
        slow.sequencer.close_in(4, not_leader());
        slow.sequencer.open(5, 0, 0, 0);
        slow.go_on.send(()).unwrap();
        if fence.is_some() {
            assert!(is_wrong(&append.join().unwrap(), 3, 5));
            assert!(slow.sequencer.take(0).is_empty());
        } else {
            assert_eq!(slow.await_call().term, 5);
            slow.go_on.send(()).unwrap();
            assert_eq!(append.join().unwrap().index(), Some(0));
            let payloads = taken(&slow.sequencer, 5, &mut LogPoint::INITIAL.clone());
            assert_eq!(payloads, [b"\0\0\x05d"]);
        }
    }
}

/// The engine serves the line in `release`, and another thread ends the leadership meanwhile.
#[test]
fn a_waiting_append_is_refused_with_the_others_if_the_term_ends_while_its_hook_runs() {
    let slow = slow(1);
    let first = slow.begin(None);
    slow.await_call();
    slow.go_on.send(()).unwrap();
    assert_eq!(first.join().unwrap().index(), Some(0));
    let waiting = [slow.begin(Some(3)), slow.begin(None)];
    await_waiters(&slow.sequencer, 2);
    let cost = slow.sequencer.take(0)[0].cost;
    let engine = slow.sequencer.clone();
    let release = thread::spawn(move || engine.release(cost));
    slow.await_call();
    slow.sequencer.close_in(4, not_leader());
    slow.go_on.send(()).unwrap();
    release.join().unwrap();
    let errors = waiting.map(|thread| outcome(&thread.join().unwrap()));
    let of_kind = |kind: fn(&AppendError) -> bool| errors.iter().filter(|e| kind(e)).count();
    assert_eq!(of_kind(|error| matches!(error, AppendError::WrongTerm { wanted: 3, term: 4 })), 1);
    assert_eq!(of_kind(|error| matches!(error, AppendError::NotLeader { .. })), 1);
    assert_eq!(slow.sequencer.in_flight(), 0);
    slow.sequencer.open(5, 9, 90, 0);
    assert!(slow.sequencer.take(0).is_empty());
}

#[test]
fn a_waiting_append_keeps_its_turn_if_the_leadership_is_handed_over_while_its_hook_runs() {
    let slow = slow(1);
    let first = slow.begin(None);
    slow.await_call();
    slow.go_on.send(()).unwrap();
    drop(first.join().unwrap());
    let waiting = slow.begin(Some(3));
    await_waiters(&slow.sequencer, 1);
    let cost = slow.sequencer.take(0)[0].cost;
    let engine = slow.sequencer.clone();
    let release = thread::spawn(move || engine.release(cost));
    slow.await_call();
    slow.sequencer.pause();
    slow.go_on.send(()).unwrap();
    release.join().unwrap();
    assert!(slow.sequencer.take(0).is_empty(), "nothing is queued during a transfer");
    let engine = slow.sequencer.clone();
    let resume = thread::spawn(move || engine.resume());
    slow.await_call();
    slow.go_on.send(()).unwrap();
    resume.join().unwrap();
    assert_eq!(waiting.join().unwrap().index(), Some(1));
}

#[test]
fn a_hook_may_ask_for_the_status_and_gets_its_appends_refused() {
    let ledger: Arc<std::sync::OnceLock<Sequencer>> = Arc::default();
    let (own, ticket) = (ledger.clone(), std::sync::Mutex::new(None));
    let sequencer = with_hook(1, move |place, _| {
        let sequencer = own.get().unwrap();
        assert!(sequencer.in_flight() <= 2 * COST);
        let refused = [
            sequencer.append(b"x", None),
            sequencer.append(b"x", timeout()),
            sequencer.append_batch([b"x"], None).0,
            sequencer.append_fenced(&[b"x"], Some(3), timeout()),
        ];
        let Admission::Settled(ready) = sequencer.append_when_ready(b"x") else { panic!() };
        for future in refused.iter().chain([&ready]) {
            assert!(matches!(outcome(future), AppendError::CalledFromWaker { under_way: false }));
        }
        if let Some(ticket) = ticket.lock().unwrap().take() {
            sequencer.leave(&ticket); // serves nobody now, and does not wait for itself
        }
        assert!(place.index < 3);
    });
    assert!(ledger.set(sequencer).is_ok());
    let sequencer = ledger.get().unwrap();
    let first = sequencer.append(b"a", None);
    assert_eq!(first.index(), Some(0));
    let Admission::Waits(ticket) = sequencer.append_when_ready(b"b") else { panic!() };
    drop(sequencer.take(0));
    sequencer.release(COST);
    let Poll::Ready(second) = ticket.poll(Waker::noop()) else { panic!() };
    assert_eq!(second.index(), Some(1));
}

#[test]
fn every_entry_carries_its_own_place_whoever_appends_and_takes_at_the_same_time() {
    let sequencer = Arc::new(with_hook(8, stamp));
    let hosts: Vec<_> = (0..4)
        .map(|host| {
            let sequencer = sequencer.clone();
            thread::spawn(move || {
                for nth in 0..200 {
                    let payload = [b"abcd"; 3];
                    if (host + nth) % 3 == 0 {
                        drop(sequencer.append_batch(payload, timeout()));
                    } else {
                        payload
                            .iter()
                            .for_each(|payload| drop(sequencer.append(*payload, timeout())));
                    }
                }
            })
        })
        .collect();
    let (mut end, mut index) = (LogPoint::INITIAL, 0_u64);
    while index < 4 * 200 * 3 {
        let payloads = taken(&sequencer, 3, &mut end);
        for payload in &payloads {
            assert_eq!(payload[..], [index as u8, (index * 4) as u8, 3, b'd']);
            index += 1;
        }
        sequencer.release(payloads.len() as u64 * (4 + ENTRY_OVERHEAD));
        thread::yield_now();
    }
    hosts.into_iter().for_each(|host| host.join().unwrap());
    assert_eq!((end.next_index, sequencer.in_flight()), (2400, 0));
}

fn plain(entries: u64) -> Sequencer {
    let limits = Limits { entry: 100, batch: 1000, window: entries * COST };
    Sequencer::new(limits, || {})
}

#[test]
fn an_append_for_another_term_than_this_leaders_is_refused_whatever_else_is_the_case() {
    let sequencer = plain(1);
    sequencer.open(3, 0, 0, 0);
    for wanted in [0, 2, 4, u64::MAX] {
        assert!(is_wrong(&sequencer.append_fenced(&[b"a"], Some(wanted), timeout()), wanted, 3));
        let (batch, count) = sequencer.append_batch_fenced([b"a"], Some(wanted), None);
        assert!(is_wrong(&batch, wanted, 3) && count == 0);
        let (nothing, _) = sequencer.append_batch_fenced([[0; 4]; 0], Some(wanted), None);
        assert!(is_wrong(&nothing, wanted, 3));
    }
    drop(sequencer.append_fenced(&[b"a"], Some(3), None));
    // Neither a full window nor a transfer makes a wrong term wait.
    let busy = sequencer.append_fenced(&[b"a"], Some(3), None);
    assert!(matches!(outcome(&busy), AppendError::Busy { .. }));
    assert!(is_wrong(&sequencer.append_fenced(&[b"a"], Some(2), timeout()), 2, 3));
    sequencer.pause();
    assert!(is_wrong(&sequencer.append_fenced(&[b"a"], Some(4), timeout()), 4, 3));
    assert_eq!(sequencer.in_flight(), COST);
}

#[test]
fn a_node_that_does_not_lead_refuses_for_good_what_is_for_a_term_that_has_passed() {
    let sequencer = plain(1).in_term(7);
    let of = |wanted| sequencer.append_fenced(&[b"a"], Some(wanted), timeout());
    assert!(is_wrong(&of(6), 6, 7));
    for wanted in [7, 8] {
        assert!(matches!(outcome(&of(wanted)), AppendError::NotLeader { .. }));
    }
    sequencer.close_in(9, not_leader());
    assert!(is_wrong(&of(8), 8, 9));
    sequencer.close(not_leader());
    assert!(is_wrong(&of(8), 8, 9), "a term is not forgotten");
    sequencer.close(AppendError::StorageFull { reason: String::new() });
    assert!(is_wrong(&of(8), 8, 9));
    sequencer.close(AppendError::Stopped);
    assert!(matches!(outcome(&of(8)), AppendError::Stopped));
}

#[test]
fn an_append_that_waits_for_room_is_compared_with_the_term_in_which_it_is_placed() {
    for ends_by_close in [true, false] {
        let sequencer = Arc::new(plain(1));
        sequencer.open(3, 0, 0, 0);
        drop(sequencer.append(b"a", None));
        let host = sequencer.clone();
        let waiting = thread::spawn(move || host.append_fenced(&[b"b"], Some(3), timeout()));
        await_waiters(&sequencer, 1);
        let cost = sequencer.take(0)[0].cost;
        let term = if ends_by_close {
            sequencer.close_in(4, not_leader());
            4
        } else {
            // No engine does this; the entry would be in a wrong term if one did.
            sequencer.pause();
            sequencer.release(cost);
            sequencer.open(5, 1, 1, 0);
            5
        };
        assert!(is_wrong(&waiting.join().unwrap(), 3, term));
        assert!(sequencer.take(0).is_empty());
    }
}

#[test]
fn a_batch_is_closed_for_the_term_in_which_it_was_queued() {
    let sequencer = plain(10);
    sequencer.open(3, 0, 0, 0);
    let kept = sequencer.append(b"a", None);
    assert_eq!(sequencer.take(0)[0].term, 3);
    let lost = sequencer.append_fenced(&[b"b"], Some(3), None);
    sequencer.close_in(4, not_leader());
    assert!(!outcome(&lost).may_have_committed());
    sequencer.open(6, 1, 1, 0);
    drop(sequencer.append(b"c", None));
    assert_eq!(sequencer.take(0)[0].term, 6);
    assert!(kept.wait_timeout(Duration::ZERO).is_none());
}
