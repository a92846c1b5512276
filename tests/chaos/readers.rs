//! A reader for each node: it reads all that the node shows, across restarts, and compares it with
//! the entries of the others.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::cluster::{Cluster, nodes};
use crate::process::Process;
use crate::rng::Rng;

const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a reader that has read all waits.
const PAUSE: Duration = Duration::from_millis(20);
/// How much of what it has read a reader reads again after the node has restarted.
const AGAIN_MAX: u64 = 20_000;

/// Reads until the cluster is closing.
pub(crate) fn start(cluster: &Arc<Cluster>, rng: &mut Rng) -> Vec<JoinHandle<()>> {
    let reader = |node| {
        let (cluster, mut rng) = (cluster.clone(), Rng::from_seed(rng.draw()));
        thread::spawn(move || {
            let (mut next, mut last_process) = (0, None);
            while !cluster.is_closing() {
                let Some(process) = cluster.process(node) else {
                    thread::sleep(PAUSE);
                    continue;
                };
                if last_process.replace(process.number) != Some(process.number) {
                    next = u64::saturating_sub(next, rng.below(AGAIN_MAX));
                }
                match read_some(&cluster, &process, next) {
                    Some(reached) if reached != next => next = reached,
                    _ => thread::sleep(PAUSE),
                }
            }
        })
    };
    nodes().map(reader).collect()
}

/// Reads on from index `from`. Returns where to read next; `None` if there is no answer.
pub(crate) fn read_some(cluster: &Cluster, process: &Process, from: u64) -> Option<u64> {
    let answer = process.ask_and_wait(&format!("read {from}"), TIMEOUT)?;
    if let Some(first) = answer.strip_prefix("purged ") {
        return Some(first.parse().expect("a number"));
    }
    let mut words = answer.split(' ').skip(1);
    let mut shown = Vec::new();
    while let (Some(payload), Some(stamp)) = (words.next(), words.next()) {
        shown.push((payload.parse().expect("a number"), stamp.parse().expect("a number")));
    }
    if let Err(difference) = cluster.seen.add(process.node, from, &shown) {
        cluster.violated(difference);
    }
    Some(from + shown.len() as u64)
}
