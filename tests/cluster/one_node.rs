//! A group of one: the whole of the ledger's contract that needs no network.

use std::error::Error;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use dledger::storage::MemoryLog;
use dledger::{
    AppendError, AppendFuture, Appended, BarrierError, Builder, Cursor, DLedger, Entry,
    FlushPolicy, OpenError, ReadError, Role, ShutdownError, Status, Tail, TransferError,
};

use crate::cluster_of::{FLUSHES, TIMEOUT, until, whole};
use crate::gated::{Gate, GatedLog};

const MS: Duration = Duration::from_millis(1);

fn open_one(tune: impl FnOnce(Builder) -> Builder) -> DLedger {
    tune(DLedger::builder(1).storage(MemoryLog::new())).open().expect("a node opens")
}

/// A node whose syncs can be held up. Opens the gate at the end, or it could not be shut down.
struct Gated {
    ledger: DLedger,
    gate: Gate,
}

impl Gated {
    fn open(tune: impl FnOnce(Builder) -> Builder) -> Gated {
        let gate = Gate::default();
        let ledger = open_one(|builder| {
            tune(builder.storage(GatedLog { log: MemoryLog::new(), gate: gate.clone() }))
        });
        Gated { ledger, gate }
    }
}

impl Drop for Gated {
    fn drop(&mut self) {
        self.gate.open();
    }
}

/// The smallest executor there is.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn entries_of_every_size_take_dense_indexes_and_positions_that_sum_their_lengths() {
    for flush in FLUSHES {
        let ledger = open_one(|builder| builder.flush(flush));
        assert_eq!(
            (ledger.status().role, ledger.status().leader, ledger.committed()),
            (Role::Leader, Some(1.into()), 0..0)
        );
        let payloads: Vec<Vec<u8>> = [0, 1, 4095, 4096, 4097, 4 << 20, 0]
            .iter()
            .zip(b'a'..)
            .map(|(len, byte)| vec![byte; *len])
            .collect();
        for (payload, index) in payloads.iter().zip(0..) {
            assert_eq!(ledger.append(payload).unwrap(), index);
            assert_eq!(
                *ledger.get(index).unwrap().expect("what was acknowledged can be read"),
                **payload
            );
            assert_eq!(ledger.get(index + 1).unwrap(), None);
        }
        let entries = whole(&ledger);
        assert_eq!(entries.len(), payloads.len());
        let status = ledger.status();
        assert_eq!((status.committed, status.end_index), (0..7, 7));
        assert_eq!(status.committed_position, 1 + 4095 + 4096 + 4097 + (4 << 20));
        ledger.shutdown().unwrap();
    }
}

#[test]
fn a_batch_is_consecutive_whatever_its_length() {
    let ledger = open_one(|builder| builder);
    let mut end = 0;
    for len in [0, 1, 2, 10_000, 1, 0] {
        let range = ledger.append_batch((0..len).map(|n: u64| n.to_le_bytes())).unwrap();
        assert_eq!(range, end..end + len);
        end += len;
        let future = ledger.append_batch_async((0..len).map(|n: u64| n.to_le_bytes()));
        assert_eq!((future.index(), future.position()), (Some(end), Some(end * 8)));
        let appended = future.wait().unwrap();
        assert_eq!((appended.index, appended.position), (end, end * 8));
        end += len;
    }
    assert_eq!(ledger.committed(), 0..end);
    for entry in whole(&ledger) {
        assert_eq!(entry.len(), 8);
    }
}

#[test]
fn a_batch_of_nothing_is_an_empty_range_and_appends_nothing() {
    let ledger = open_one(|builder| builder);
    ledger.append("before").unwrap();
    assert_eq!(ledger.append_batch([""; 0]).unwrap(), 1..1);
    let nothing = ledger.append_batch_async([""; 0]).wait().unwrap();
    let place = (nothing.index, nothing.position, nothing.term, nothing.timestamp);
    assert_eq!(place, (1, 6, 0, 0));
    assert_eq!(ledger.status().end_index, 1);
    ledger.shutdown().unwrap();
    assert!(matches!(ledger.append_batch([""; 0]), Err(AppendError::Stopped)));
}

#[test]
fn a_payload_in_parts_is_one_entry() {
    let ledger = open_one(|builder| builder.max_entry_bytes(1 << 20));
    let large = vec![7; (1 << 20) - 3];
    let largest = [b"x", &large[..], b"yz"];
    let payloads: [&[&[u8]]; 5] = [&[b"a", b"bc"], &[], &[b"", b""], &[b"one"], &largest];
    for (parts, index) in payloads.into_iter().zip(0..) {
        assert_eq!(ledger.append_parts(parts).unwrap(), 2 * index);
        let appended = ledger.append_parts_async(parts).wait().unwrap();
        assert_eq!(appended.index, 2 * index + 1);
        for index in [2 * index, 2 * index + 1] {
            let entry = ledger.get(index).unwrap().unwrap();
            assert_eq!(*entry, *parts.concat(), "its checksum was right");
        }
    }
    let refused = ledger.append_parts(&[b"xy", &large, b"zz"]).unwrap_err();
    let AppendError::TooLarge { len, limit, .. } = refused else { panic!("{refused:?}") };
    assert_eq!((len, limit), ((1 << 20) + 1, 1 << 20));
    assert_eq!(ledger.committed(), 0..10);
}

#[test]
fn an_append_is_told_what_its_entry_says() {
    let ledger = open_one(|builder| builder);
    let check = |appended: Appended| {
        let entry = ledger.get(appended.index).unwrap().unwrap();
        assert_eq!(entry.timestamp(), appended.timestamp);
        assert_eq!((entry.position(), entry.term()), (appended.position, appended.term));
    };
    check(ledger.append_async("waited for").wait().unwrap());
    check(ledger.append_parts_async(&[b"timed"]).wait_timeout(TIMEOUT).unwrap().unwrap());
    check(block_on(ledger.append_async("awaited")).unwrap());
    let batch = ledger.append_batch_async(["first", "second"]);
    thread::sleep(20 * MS);
    check(batch.wait().unwrap());
    let ended = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    let last = ledger.append_async("now").wait().unwrap().timestamp;
    assert!((ended..ended + 60_000).contains(&last), "milliseconds since 1970: {last}");
}

#[test]
fn what_exceeds_a_limit_is_refused_and_leaves_no_trace() {
    let ledger = open_one(|builder| builder.max_entry_bytes(100));
    let check = |outcome: Result<(), AppendError>, wanted: (u64, u64)| match outcome {
        Err(error @ AppendError::TooLarge { len, limit, .. }) => {
            assert_eq!((len, limit), wanted);
            assert!(!error.may_have_committed());
        }
        other => panic!("expected a refusal, got {other:?}"),
    };
    check(ledger.append([7; 101]).map(drop), (101, 100));
    check(ledger.append_async([7; 101]).wait().map(drop), (101, 100));
    check(ledger.append_batch([&[7; 1][..], &[7; 101]]).map(drop), (101, 100));
    // A batch without bytes still costs something: an endless one ends.
    let endless = ledger.append_batch(std::iter::repeat([0; 0])).unwrap_err();
    assert!(
        matches!(endless, AppendError::TooLarge { limit, .. } if limit == 16 << 20),
        "{endless:?}"
    );
    assert_eq!(ledger.append([7; 100]).unwrap(), 0);
    assert_eq!(ledger.committed(), 0..1);
}

#[test]
fn a_full_window_refuses_who_cannot_wait_and_holds_up_who_can() {
    let Gated { ledger, gate } = &Gated::open(|builder| builder.max_in_flight_bytes(1000));
    gate.shut();
    let first = ledger.append_async([1; 900]);
    let refused = ledger.append_async([2; 100]);
    assert_eq!((refused.index(), refused.position()), (None, None));
    match refused.wait() {
        Err(error @ AppendError::Busy { in_flight, limit, .. }) => {
            assert_eq!(
                (in_flight, limit),
                (932, 1000),
                "an entry counts 32 bytes more than its payload"
            );
            assert!(!error.may_have_committed());
        }
        other => panic!("the window is full, got {other:?}"),
    }
    // Before any other waits: nothing overtakes those that do.
    let fits = ledger.append_async([4; 36]);
    assert_eq!(fits.index(), Some(1));
    thread::scope(|scope| {
        let waits = scope.spawn(|| ledger.append([3; 100]));
        gate.open();
        assert_eq!(waits.join().unwrap().unwrap(), 2);
        assert_eq!((first.wait().unwrap().index, fits.wait().unwrap().index), (0, 1));
    });
    // What is larger than the whole window passes when it is alone.
    assert_eq!(ledger.append([5; 5000]).unwrap(), 3);
}

#[test]
fn who_waits_for_the_window_waits_no_longer_than_the_append_timeout() {
    let Gated { ledger, gate } =
        &Gated::open(|builder| builder.max_in_flight_bytes(100).append_timeout(50 * MS));
    gate.shut();
    let under_way = ledger.append_async([1; 60]);
    let began = Instant::now();
    assert!(matches!(ledger.append([2; 60]), Err(AppendError::Busy { .. })));
    assert!(began.elapsed() >= 50 * MS);
    drop(under_way);
}

#[test]
fn an_append_without_a_confirmation_times_out_and_may_commit_yet() {
    let Gated { ledger, gate } = &Gated::open(|builder| builder.append_timeout(50 * MS));
    gate.shut();
    let future = ledger.append_async("slow");
    let error = ledger.append("slower").unwrap_err();
    assert!(matches!(error, AppendError::TimedOut(_)) && error.may_have_committed(), "{error:?}");
    let error = future.wait().unwrap_err();
    assert!(matches!(error, AppendError::TimedOut(_)) && error.may_have_committed(), "{error:?}");
    assert_eq!(ledger.committed(), 0..0);
    gate.open();
    until("both to commit", || (ledger.committed() == (0..2)).then_some(()));
    // Its own confirmation may come too late where a machine is busy.
    assert_eq!(ledger.append_async("fast").index(), Some(2));
    until("that one to commit, too", || (ledger.committed() == (0..3)).then_some(()));
    let payloads: Vec<String> =
        whole(ledger).iter().map(|entry| String::from_utf8_lossy(entry).into_owned()).collect();
    assert_eq!(payloads, ["slow", "slower", "fast"]);
}

#[test]
fn a_node_without_a_disk_that_answers_gives_no_word_and_takes_none_back() {
    let Gated { ledger, gate } = &Gated::open(|builder| builder);
    gate.shut();
    let future = ledger.append_async("held up");
    assert!(future.wait_timeout(20 * MS).is_none());
    assert_eq!(ledger.get(0).unwrap(), None, "not committed, not shown");
    assert_eq!(ledger.status().end_index, 1, "though it is written");
    gate.open();
    assert_eq!(future.wait_timeout(TIMEOUT).expect("it resolves").unwrap().index, 0);
    assert_eq!(ledger.get(0).unwrap().as_deref(), Some(&b"held up"[..]));
}

#[test]
fn a_ledger_survives_being_closed_and_losing_power() {
    for (flush, power_fails) in [(FLUSHES[0], false), (FLUSHES[0], true), (FLUSHES[1], false)] {
        let memory = MemoryLog::new();
        let open = || {
            DLedger::builder(1).storage(memory.clone()).flush(flush).open().expect("it opens again")
        };
        let mut before: Vec<Entry> = Vec::new();
        for run in 0..4_u64 {
            let ledger = open();
            assert_eq!(whole(&ledger), before);
            for n in 0..10 {
                assert_eq!(ledger.append(format!("run {run} entry {n}")).unwrap(), run * 10 + n);
            }
            before = whole(&ledger);
            assert!(
                before
                    .windows(2)
                    .all(|pair| pair[0].term() < pair[1].term() || pair[1].index() % 10 != 0),
                "each run is a term"
            );
            if power_fails {
                memory.crash();
            } else {
                ledger.shutdown().unwrap();
            }
        }
    }
}

#[test]
fn an_unconfirmed_append_that_lost_power_was_never_acknowledged() {
    let memory = MemoryLog::new();
    let gate = Gate::default();
    let open = || {
        DLedger::builder(1)
            .storage(GatedLog { log: memory.clone(), gate: gate.clone() })
            .open()
            .expect("it opens")
    };
    let ledger = open();
    ledger.append("kept").unwrap();
    gate.shut();
    let future = ledger.append_async("lost");
    until("it to be written", || (ledger.status().end_index == 2).then_some(()));
    memory.crash();
    gate.open();
    let error = future.wait().unwrap_err();
    assert!(error.may_have_committed(), "{error}");
    assert!(matches!(
        ledger.shutdown(),
        Err(ShutdownError::Failed { .. } | ShutdownError::Storage(_))
    ));
    assert_eq!(open().append("again").unwrap(), 1);
}

#[test]
fn a_failed_sync_ends_the_nodes_part_and_readers_go_on() {
    let memory = MemoryLog::new();
    let ledger = DLedger::builder(1).storage(memory.clone()).open().unwrap();
    ledger.append("before").unwrap();
    memory.fail_next_sync();
    let error = ledger.append("during").unwrap_err();
    assert!(
        matches!(error, AppendError::Unconfirmed { .. }) && error.may_have_committed(),
        "{error:?}"
    );
    assert!(error.to_string().contains("a sync failed"), "it says why: {error}");
    let error = ledger.append("after").unwrap_err();
    assert!(
        matches!(error, AppendError::Failed { .. }) && !error.may_have_committed(),
        "{error:?}"
    );
    assert!(matches!(ledger.barrier(), Err(BarrierError::Failed { .. })));
    assert!(matches!(ledger.transfer_leadership(2), Err(TransferError::Failed { .. })));
    let status = ledger.status();
    assert!(
        status.fault.is_some_and(|fault| fault.contains("sync")) && status.role != Role::Leader
    );
    assert_eq!(ledger.get(0).unwrap().as_deref(), Some(&b"before"[..]));
    assert!(matches!(ledger.shutdown(), Err(ShutdownError::Failed { .. })));
    let ledger = DLedger::builder(1).storage(memory).open().unwrap();
    assert_eq!(ledger.get(0).unwrap().as_deref(), Some(&b"before"[..]));
    let end = ledger.committed().end;
    assert_eq!(ledger.append("again").unwrap(), end);
}

#[test]
fn futures_resolve_under_any_executor() {
    let Gated { ledger, gate } = &Gated::open(|builder| builder);
    gate.shut();
    let futures: Vec<AppendFuture> =
        (0..100).map(|n: u64| ledger.append_async(n.to_le_bytes())).collect();
    assert_eq!(
        futures.iter().map(|future| future.index().unwrap()).collect::<Vec<_>>(),
        (0..100).collect::<Vec<_>>()
    );
    thread::scope(|scope| {
        let all = scope.spawn(|| {
            block_on(async {
                let mut places = Vec::new();
                for future in futures {
                    places.push(future.await.unwrap().index);
                }
                places
            })
        });
        gate.open();
        assert_eq!(all.join().unwrap(), (0..100).collect::<Vec<_>>());
    });
    let refused = block_on(ledger.append_async(vec![0; 5 << 20]));
    assert!(matches!(refused, Err(AppendError::TooLarge { .. })));
}

#[test]
fn threads_that_append_together_get_places_of_their_own_in_their_own_order() {
    let ledger = open_one(|builder| builder);
    let places: Vec<Vec<Appended>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8_u64)
            .map(|thread| {
                let ledger = ledger.clone();
                scope.spawn(move || {
                    let futures: Vec<_> = (0..200_u64)
                        .map(|n| {
                            ledger.append_async([thread.to_le_bytes(), n.to_le_bytes()].concat())
                        })
                        .collect();
                    futures.into_iter().map(|future| future.wait().unwrap()).collect()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let entries = whole(&ledger);
    assert_eq!(entries.len(), 1600);
    for (places, thread) in places.iter().zip(0_u64..) {
        assert!(places.windows(2).all(|pair| pair[0].index < pair[1].index));
        for (place, n) in places.iter().zip(0_u64..) {
            let entry = &entries[place.index as usize];
            assert_eq!(**entry, *[thread.to_le_bytes(), n.to_le_bytes()].concat());
            assert_eq!((entry.position(), entry.term()), (place.position, place.term));
        }
    }
}

#[test]
fn a_cursor_ends_where_the_commits_end_and_goes_on_when_there_are_more() {
    let ledger = open_one(|builder| builder);
    ledger.append_batch(["a", "b", "c"]).unwrap();
    let mut cursor = ledger.read(1);
    let mut next = || cursor.next().map(|entry| entry.unwrap().index());
    assert_eq!([next(), next(), next(), next()], [Some(1), Some(2), None, None]);
    ledger.append("d").unwrap();
    assert_eq!([next(), next()], [Some(3), None]);
    let mut beyond = ledger.read(100);
    assert!(beyond.next().is_none());
}

#[test]
fn a_tail_follows_and_ends_with_the_node() {
    let ledger = open_one(|builder| builder);
    let read = thread::spawn({
        let tail = ledger.tail(2);
        move || tail.map(|entry| entry.unwrap().index()).collect::<Vec<_>>()
    });
    for n in 0..100_u64 {
        ledger.append(n.to_le_bytes()).unwrap();
    }
    let mut tail = ledger.tail(98);
    let mut next = |timeout| tail.next_timeout(timeout).unwrap().map(|entry| entry.index());
    assert_eq!([next(TIMEOUT), next(Duration::ZERO), next(10 * MS)], [Some(98), Some(99), None]);
    ledger.append("one more").unwrap();
    assert_eq!(next(Duration::MAX), Some(100));
    ledger.shutdown().unwrap();
    for _ in 0..2 {
        let end = tail.next_timeout(TIMEOUT);
        assert!(matches!(end, Err(ReadError::Stopped)), "{end:?}");
    }
    assert!(tail.next().is_none(), "as an iterator it just ends");
    let seen = read.join().unwrap();
    assert_eq!(
        seen,
        (2..2 + seen.len() as u64).collect::<Vec<_>>(),
        "in order and without a hole, up to the shutdown"
    );
}

#[test]
fn a_barrier_of_the_only_node_stands_at_the_end() {
    let ledger = open_one(|builder| builder);
    for n in 0..20 {
        assert_eq!(ledger.barrier().unwrap(), n);
        ledger.append("entry").unwrap();
    }
}

#[test]
fn entries_outlive_their_ledger() {
    let ledger = open_one(|builder| builder);
    ledger.append("still here").unwrap();
    let entry = ledger.get(0).unwrap().unwrap();
    let payload = entry.payload().clone();
    ledger.shutdown().unwrap();
    assert!(matches!(ledger.get(0), Err(ReadError::Stopped)));
    drop(ledger);
    assert_eq!((&*entry, &*payload), (&b"still here"[..], &b"still here"[..]));
}

#[test]
fn nonsense_is_refused_when_the_ledger_is_opened() {
    let setting = |builder: Builder| match builder.open() {
        Err(OpenError::Setting { setting, reason, .. }) => {
            assert!(!reason.is_empty());
            setting
        }
        Err(other) => panic!("expected a refusal of a setting, got {other}"),
        Ok(_) => panic!("expected a refusal of a setting, and it opened"),
    };
    let good = || DLedger::builder(1).storage(MemoryLog::new());
    assert_eq!(setting(DLedger::builder(1)), "dir");
    assert_eq!(setting(good().group("no/slash")), "group");
    assert_eq!(setting(good().peer(2, "elsewhere")), "peer");
    assert_eq!(setting(good().segment_bytes(1)), "segment_bytes");
    assert_eq!(setting(good().max_entry_bytes(0)), "max_entry_bytes");
    assert_eq!(setting(good().max_in_flight_bytes(0)), "max_in_flight_bytes");
    assert_eq!(setting(good().append_timeout(Duration::ZERO)), "append_timeout");
    assert_eq!(setting(good().heartbeat_interval(Duration::ZERO)), "heartbeat_interval");
    assert_eq!(setting(good().election_timeout(MS)), "election_timeout");
    assert_eq!(setting(good().flush(FlushPolicy::Async { interval: Duration::ZERO })), "flush");
    assert_eq!(setting(good().peer(1, "not an address").peer(2, "127.0.0.1:1")), "peer");
    // An address for documentation (RFC 5737): no machine has it, so no process can listen there.
    let unreachable = good().peer(1, "192.0.2.1:7001").peer(2, "127.0.0.1:1").open();
    assert!(matches!(unreachable, Err(OpenError::Transport(_))), "{unreachable:?}");
}

/// A host keeps a ledger in a struct of its own, without a type parameter, and shares it.
#[test]
fn a_host_can_keep_it_and_share_it() {
    struct Broker {
        ledger: DLedger,
        newest: Option<Entry>,
    }
    let mut broker = Broker { ledger: open_one(|builder| builder), newest: None };
    let index = broker.ledger.append(String::from("anything that is bytes")).unwrap();
    broker.newest = broker.ledger.get(index).unwrap();
    let broker = Arc::new(broker);
    let elsewhere = thread::spawn({
        let broker = broker.clone();
        move || broker.ledger.append(broker.newest.as_ref().unwrap())
    });
    assert_eq!(elsewhere.join().unwrap().unwrap(), 1);
    assert!(format!("{:?}", broker.ledger).contains("Leader"));

    fn shared<T: Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>() {}
    fn told<T: Error + Send + Sync + 'static>() {}
    shared::<(DLedger, Entry, Status, Cursor, Tail, AppendFuture, Appended)>();
    sent::<Builder>();
    told::<AppendError>();
    told::<ReadError>();
    told::<BarrierError>();
    told::<TransferError>();
    told::<OpenError>();
    told::<ShutdownError>();
}
