//! What clients saw, and whether a ledger can explain it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use dledger::{AppendError, AppendFuture, Appended, DLedger, Entry};

use crate::cluster_of::Cluster;

/// The appends of one client, in the order in which it made them. Payloads are never repeated.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) acknowledged: Vec<(Vec<u8>, Appended)>,
    /// Failed with `may_have_committed`.
    pub(crate) unknown: Vec<Vec<u8>>,
    /// Failed for certain.
    pub(crate) refused: Vec<Vec<u8>>,
}

impl History {
    /// Takes down how an append ended.
    pub(crate) fn note(&mut self, payload: Vec<u8>, outcome: &Result<Appended, AppendError>) {
        match outcome {
            Ok(appended) => self.acknowledged.push((payload, *appended)),
            Err(error) if error.may_have_committed() => self.unknown.push(payload),
            Err(_) => self.refused.push(payload),
        }
    }

    /// Appends until told to stop, at the node that seems to lead, several at a time.
    /// `acknowledged_end` follows the highest index that was acknowledged, plus one.
    pub(crate) fn make(
        cluster: &Cluster,
        client: u64,
        stop: &AtomicBool,
        acknowledged_end: &AtomicU64,
    ) -> History {
        let mut history = History::default();
        let mut target = client % cluster.ids().count() as u64 + 1;
        for burst in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let hint = cluster
                .find(target)
                .and_then(|ledger| history.burst(&ledger, client, burst, acknowledged_end));
            if let Some(leader) = hint {
                target = leader;
                thread::sleep(Duration::from_millis(1));
            } else if cluster.find(target).is_none() || history.refused_last(client, burst) {
                target = target % cluster.ids().count() as u64 + 1;
                thread::sleep(Duration::from_millis(1));
            }
        }
        history
    }

    /// One to eight appends at once. Gives the leader that a refusal named.
    fn burst(
        &mut self,
        ledger: &DLedger,
        client: u64,
        burst: u64,
        acknowledged_end: &AtomicU64,
    ) -> Option<u64> {
        let payload = |n: u64| format!("client {client} burst {burst} append {n}").into_bytes();
        let futures: Vec<(Vec<u8>, AppendFuture)> =
            (0..1 + burst % 8).map(|n| (payload(n), ledger.append_async(payload(n)))).collect();
        let mut hint = None;
        for (payload, future) in futures {
            let promised = (future.index(), future.position());
            let outcome = future.wait();
            match &outcome {
                Ok(appended) => {
                    assert_eq!(
                        promised,
                        (Some(appended.index), Some(appended.position)),
                        "a promised place is kept"
                    );
                    acknowledged_end.fetch_max(appended.index + 1, Ordering::SeqCst);
                }
                Err(AppendError::NotLeader { leader, .. }) => hint = leader.map(u64::from),
                Err(_) => {}
            }
            self.note(payload, &outcome);
        }
        hint
    }

    fn refused_last(&self, client: u64, burst: u64) -> bool {
        self.refused.last().is_some_and(|payload| {
            payload.starts_with(format!("client {client} burst {burst} ").as_bytes())
        })
    }
}

/// Whether `ledger` explains what the clients saw: every acknowledged append stands at its place,
/// once; every refused one nowhere; every unknown one at most once; nothing else is there; and each
/// client's appends stand in its own order.
#[track_caller]
pub(crate) fn check(ledger: &[Entry], histories: &[History]) {
    let mut places: HashMap<&[u8], &Entry> = HashMap::new();
    for entry in ledger {
        let twice = places.insert(entry, entry);
        assert!(twice.is_none(), "{:?} stands at {twice:?} and at {entry:?}", text(entry));
    }
    let mut invoked: HashSet<&[u8]> = HashSet::new();
    for history in histories {
        for (payload, appended) in &history.acknowledged {
            let entry = ledger.get(appended.index as usize).filter(|entry| ***entry == **payload);
            let entry = entry.unwrap_or_else(|| {
                panic!("{:?} was acknowledged as {appended:?} and is lost", text(payload))
            });
            assert_eq!(
                (entry.position(), entry.term()),
                (appended.position, appended.term),
                "{:?}",
                text(payload)
            );
        }
        for payload in &history.refused {
            let entry = places.get(payload.as_slice());
            assert!(
                entry.is_none(),
                "{:?} was refused for certain and stands at {entry:?}",
                text(payload)
            );
        }
        let in_order =
            history.acknowledged.windows(2).all(|pair| pair[0].1.index < pair[1].1.index);
        assert!(in_order, "a client's appends are acknowledged in its own order");
        invoked.extend(history.acknowledged.iter().map(|(payload, _)| payload.as_slice()));
        invoked.extend(history.unknown.iter().map(Vec::as_slice));
    }
    for entry in ledger {
        assert!(invoked.contains(&**entry), "{:?} was never appended", text(entry));
    }
}

fn text(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).into_owned()
}
