//! What those cost who follow: readers at the tail, and replicas that were away.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dledger::{Builder, DLedger};

use super::cluster::{Cluster, Shape};
use super::lookups::{PAYLOAD, fill};
use super::raw_log::RawLogs;
use super::turn::append;

/// Entries that a reader, or a replica, may lag behind and still be there: a few batches.
const NEAR: u64 = 8 * 1024;

/// What a host keeps that purges as it goes, in entries.
const KEPT: u64 = 64 * 1024;

/// How often it is asked whether a follower is there.
const PIECE: Duration = Duration::from_millis(250);

/// Appends a second with 1,024 in flight, alone and with a reader at the tail, and how far that one
/// was behind in the end.
pub(crate) fn tailed(cluster: &Cluster, time: Duration) -> (f64, f64, u64) {
    let leader = &cluster.nodes[cluster.leader()];
    let payload = [0x5a; PAYLOAD];
    let alone = append(leader, &payload, 1024, time).per_second;
    let (ended, read) = (AtomicBool::new(false), AtomicU64::new(leader.committed().end));
    let follow = |mut tail: dledger::Tail| {
        while !ended.load(Ordering::Relaxed) {
            let next = tail.next_timeout(Duration::from_millis(10));
            if let Some(entry) = next.expect("the log is whole") {
                read.store(entry.index() + 1, Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| follow(leader.tail(leader.committed().end)));
        let tailed = append(leader, &payload, 1024, time).per_second;
        let behind = leader.committed().end.saturating_sub(read.load(Ordering::Relaxed));
        ended.store(true, Ordering::Relaxed);
        (alone, tailed, behind)
    })
}

/// A follower of three that was cut off while `bytes` were appended: how many entries a second it
/// takes once it is back, behind a leader that is idle, and what a raw writer makes durable in a
/// second.
pub(crate) fn caught_up(bytes: u64, file_bytes: u64, time: Duration) -> (f64, f64) {
    let (cluster, leader, follower) = with_one_behind(bytes, |builder| builder);
    let (from, to) = (follower.committed().end, leader.committed().end);
    let took = cluster.purging(KEPT, || {
        let began = Instant::now();
        cluster.network.heal();
        while follower.committed().end < to {
            thread::sleep(Duration::from_micros(200));
        }
        began.elapsed()
    });
    let rate = (to - from) as f64 / took.as_secs_f64();
    (rate, RawLogs::new(1, file_bytes).append(&[0x5a; PAYLOAD], 1024, true, time))
}

/// What the appends come to, in entries a second, behind which a follower catches up.
pub(crate) struct UnderLoad {
    /// What it lacks when it comes back, in bytes of payload.
    pub(crate) behind: u64,
    /// While it is away.
    pub(crate) before: f64,
    /// While it comes nearer.
    pub(crate) during: f64,
    /// Once it is there.
    pub(crate) after: f64,
    /// How long it took. `None` if it was not there in time.
    pub(crate) took: Option<Duration>,
}

/// The same behind a leader that has 1,024 in flight before it is back, and goes on; `set` changes
/// the defaults. It has `patience` to come near.
pub(crate) fn caught_up_under_load(
    bytes: u64,
    set: impl Fn(Builder) -> Builder,
    time: Duration,
    patience: Duration,
) -> UnderLoad {
    let (cluster, leader, follower) = with_one_behind(bytes, set);
    let rate = |time| append(&leader, &[0x5a; PAYLOAD], 1024, time).per_second;
    let before = rate(time);
    cluster.purging(KEPT, || {
        let behind = (leader.committed().end - follower.committed().end) * PAYLOAD as u64;
        let began = Instant::now();
        cluster.network.heal();
        let (mut rates, mut took) = (Vec::new(), None);
        while took.is_none() && began.elapsed() < patience {
            rates.push(rate(PIECE));
            took = (follower.committed().end + NEAR >= leader.committed().end)
                .then(|| began.elapsed());
        }
        let during = rates.iter().sum::<f64>() / rates.len() as f64;
        let after = rate(time);
        UnderLoad { behind, before, during, after, took }
    })
}

/// Three nodes of which one follower lacks `bytes` of payload, and no other node reaches it: the
/// leader, and that follower.
fn with_one_behind(bytes: u64, set: impl Fn(Builder) -> Builder) -> (Cluster, DLedger, DLedger) {
    let cluster = Cluster::open(Shape::Three, set);
    let at = cluster.leader();
    let leader = cluster.nodes[at].clone();
    let away = (at + 1) % cluster.nodes.len();
    let follower = cluster.nodes[away].clone();
    cluster.network.isolate((away as u64 + 1).into());
    fill(&leader, bytes / PAYLOAD as u64);
    (cluster, leader, follower)
}
