//! The append hook, and appends for one term.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use dledger::storage::MemoryLog;
use dledger::{
    AppendError, BarrierError, Builder, DLedger, Entry, Place, PurgeError, Role, TransferError,
};

use crate::cluster_of::{TransportKind, cluster_of, until};

/// Room for a place at the beginning of a payload.
const PLACE: [u8; 24] = [0; 24];

/// Writes the place into a payload that has room for it.
fn stamp(place: &Place, payload: &mut [u8]) {
    let fields = [place.index, place.position, place.term];
    for (room, field) in payload.as_chunks_mut::<8>().0.iter_mut().zip(fields) {
        *room = field.to_be_bytes();
    }
}

fn is_stamped(entry: &Entry) -> bool {
    let mut payload = [0_u8; 24];
    for (room, field) in payload.as_chunks_mut::<8>().0.iter_mut().zip([
        entry.index(),
        entry.position(),
        entry.term(),
    ]) {
        *room = field.to_be_bytes();
    }
    entry.len() < 24 || entry[..24] == payload
}

fn alone(tune: impl FnOnce(Builder) -> Builder) -> DLedger {
    tune(DLedger::builder(1).storage(MemoryLog::new())).open().expect("a node of its own opens")
}

#[test]
fn every_node_has_what_the_hook_of_the_leader_made_of_each_entry() {
    for wire in [TransportKind::Memory, TransportKind::Tcp] {
        let calls = Arc::new(AtomicU64::new(0));
        let counted = calls.clone();
        let cluster = cluster_of(3)
            .over(wire)
            .with(move |builder| {
                let counted = counted.clone();
                builder.append_hook(move |place, payload| {
                    counted.fetch_add(1, Ordering::Relaxed);
                    stamp(place, payload);
                })
            })
            .open();
        for round in 0..4_u64 {
            let leader = cluster.leader();
            let ledger = cluster.node(leader);
            let body = [round as u8; 3];
            let futures = [
                ledger.append_async(PLACE),
                ledger.append_parts_async(&[&PLACE, &body, b""]),
                ledger.append_async(b"short"),
                ledger.append_batch_async([&PLACE[..], b"", &[0; 30]]),
            ];
            for future in futures {
                let (index, position) = (future.index().unwrap(), future.position().unwrap());
                let appended = future.wait().unwrap();
                assert_eq!((appended.index, appended.position), (index, position));
            }
            ledger.append(PLACE).unwrap();
            ledger.append_parts(&[&PLACE, b"x"]).unwrap();
            ledger.append_batch([PLACE; 20]).unwrap();
            pollster::block_on(ledger.append_when_ready(PLACE)).unwrap();
            let to = cluster.others(leader)[0];
            let _ = ledger.transfer_leadership(to);
        }
        let entries = cluster.agree();
        assert_eq!(entries.len(), 4 * 29);
        assert_eq!(calls.load(Ordering::Relaxed), 4 * 29, "once for each entry, on the leader");
        assert!(entries.iter().all(is_stamped), "{entries:?}");
        for id in cluster.ids() {
            assert!(cluster.node(id).read(0).all(|entry| is_stamped(&entry.unwrap())));
        }
    }
}

#[test]
fn a_panic_in_the_hook_fails_its_append_and_the_node_goes_on() {
    let ledger = alone(|builder| {
        builder.append_hook(|place, payload| {
            assert!(!payload.ends_with(b"!"), "no!");
            stamp(place, payload);
        })
    });
    let is_planned = |error: &AppendError| {
        assert!(!error.may_have_committed());
        matches!(error, AppendError::HookPanicked { message, .. } if message == "no!")
    };
    assert_eq!(ledger.append(PLACE).unwrap(), 0);
    assert!(is_planned(&ledger.append("a!").unwrap_err()));
    assert!(is_planned(&ledger.append_batch(["a", "b", "c!", "d"]).unwrap_err()));
    assert!(is_planned(&ledger.append_async("a!").wait().unwrap_err()));
    assert!(is_planned(&pollster::block_on(ledger.append_when_ready("a!")).unwrap_err()));
    assert_eq!(ledger.append_batch([PLACE, PLACE]).unwrap(), 1..3);
    assert_eq!(ledger.append(PLACE).unwrap(), 3);
    assert!(ledger.read(0).all(|entry| is_stamped(&entry.unwrap())));
    let status = ledger.status();
    assert_eq!((status.role, status.fault, status.in_flight_bytes), (Role::Leader, None, 0));
    ledger.shutdown().unwrap();
}

#[test]
fn within_a_hook_reads_work_and_what_would_wait_is_refused() {
    let handle = Arc::new(OnceLock::<DLedger>::new());
    let within = handle.clone();
    let ledger = alone(|builder| {
        builder.append_hook(move |_, _| {
            let Some(ledger) = within.get() else { return };
            assert!(ledger.get(0).is_ok() && ledger.read(0).next().is_some());
            assert_eq!((ledger.committed().start, ledger.status().role), (0, Role::Leader));
            let of_waker = |error: AppendError| {
                assert!(matches!(error, AppendError::CalledFromWaker { under_way: false, .. }))
            };
            of_waker(ledger.append("x").unwrap_err());
            of_waker(ledger.append_async("x").wait().unwrap_err());
            of_waker(ledger.append_batch(["x"]).unwrap_err());
            of_waker(ledger.append_in_term(1, "x").unwrap_err());
            of_waker(ledger.append_in_term_async(1, "x").wait().unwrap_err());
            of_waker(pollster::block_on(ledger.append_when_ready("x")).unwrap_err());
            assert!(matches!(ledger.barrier(), Err(BarrierError::CalledFromWaker)));
            assert!(matches!(ledger.purge(0), Err(PurgeError::CalledFromWaker)));
            let transfer = ledger.transfer_leadership(1);
            assert!(matches!(transfer, Err(TransferError::CalledFromWaker)));
        })
    });
    ledger.append("first").unwrap();
    assert!(handle.set(ledger.clone()).is_ok());
    assert_eq!(ledger.append("second").unwrap(), 1);
    ledger.shutdown().unwrap();
}

#[test]
fn an_append_for_a_term_is_in_that_term_or_nowhere() {
    let cluster = cluster_of(3).open();
    let leader = cluster.leader();
    let ledger = cluster.node(leader);
    let term = ledger.status().term;
    assert_eq!(ledger.append_in_term(term, "a").unwrap(), 0);
    assert_eq!(ledger.append_batch_in_term(term, ["b", "c"]).unwrap(), 1..3);
    assert_eq!(ledger.append_in_term_async(term, "d").wait().unwrap().term, term);
    let refused = |ledger: &DLedger, wanted: u64| {
        let mut errors = vec![
            ledger.append_in_term(wanted, "no").unwrap_err(),
            ledger.append_batch_in_term(wanted, ["no", "no"]).unwrap_err(),
            ledger.append_in_term_async(wanted, "no").wait().unwrap_err(),
        ];
        assert!(errors.iter().all(|error| !error.may_have_committed()));
        errors.dedup_by_key(|error| error.to_string());
        assert_eq!(errors.len(), 1, "{errors:?}");
        errors.remove(0)
    };
    let is_wrong = |ledger: &DLedger, wanted: u64, term: u64| {
        let error = refused(ledger, wanted);
        let AppendError::WrongTerm { wanted: asked, term: known, .. } = error else {
            panic!("{error}")
        };
        assert_eq!((asked, known), (wanted, term));
    };
    is_wrong(&ledger, term - 1, term);
    is_wrong(&ledger, term + 1, term);
    let other = cluster.node(cluster.others(leader)[0]);
    let error = refused(&other, term);
    assert!(matches!(error, AppendError::NotLeader { .. }), "it leads in that term elsewhere");
    is_wrong(&other, term - 1, term);

    // Away, and back again: the master of the first term has been deposed all the same.
    other.status();
    ledger.transfer_leadership(other.status().id).unwrap();
    until("the old leader to know of the new term", || (ledger.status().term > term).then_some(()));
    is_wrong(&ledger, term, ledger.status().term);
    is_wrong(&other, term, other.status().term);
    other.transfer_leadership(ledger.status().id).unwrap();
    let now = ledger.status().term;
    assert!(ledger.status().role == Role::Leader && now > term);
    is_wrong(&ledger, term, now);
    assert_eq!(ledger.append_in_term(now, "e").unwrap(), 4);
    let entries = cluster.agree();
    assert_eq!(entries.len(), 5);
    assert!(entries.iter().take(4).all(|entry| entry.term() == term) && entries[4].term() == now);
}

/// Masters that keep their term as long as they can, while the leadership goes round.
#[test]
fn whoever_leads_meanwhile_no_entry_is_in_another_term_than_it_was_for() {
    let cluster =
        cluster_of(3).with(|builder| builder.max_in_flight_bytes(200).append_hook(stamp)).open();
    cluster.leader();
    let stop = AtomicBool::new(false);
    let wrong = AtomicU64::new(0);
    thread::scope(|scope| {
        for id in cluster.ids() {
            for _ in 0..2 {
                let (cluster, stop, wrong) = (&cluster, &stop, &wrong);
                scope.spawn(move || {
                    let ledger = cluster.node(id);
                    let mut term = ledger.status().term;
                    while !stop.load(Ordering::Relaxed) {
                        // Behind the place, what it is for.
                        let payload = [&PLACE[..], &term.to_be_bytes()].concat();
                        match ledger.append_in_term(term, &payload) {
                            Ok(index) => {
                                let entry = ledger.get(index).unwrap().unwrap();
                                assert_eq!(entry.term(), term);
                            }
                            Err(AppendError::WrongTerm { wanted, term: now, .. }) => {
                                assert!(wanted == term && now != term);
                                wrong.fetch_add(1, Ordering::Relaxed);
                                term = ledger.status().term;
                            }
                            Err(_) => thread::sleep(Duration::from_millis(1)),
                        }
                    }
                });
            }
        }
        for round in 0..12 {
            let leader = cluster.leader();
            let to = cluster.others(leader)[round % 2];
            let _ = cluster.node(leader).transfer_leadership(to);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let entries = cluster.agree();
    assert!(wrong.load(Ordering::Relaxed) > 0, "no master was deposed");
    for entry in &entries {
        assert!(is_stamped(entry) && entry[24..] == entry.term().to_be_bytes(), "{entry:?}");
    }
}
