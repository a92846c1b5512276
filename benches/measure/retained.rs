//! Appends with retention at work, beside appends to a log that keeps everything.

use std::time::Duration;

use dledger::Retention;

use super::cluster::{Cluster, Shape};
use super::load::Load;
use super::table::median;

/// What the log may come to.
const MOST: u64 = 128 << 20;
const SEGMENT_BYTES: u64 = 16 << 20;

/// Appends a second of this many bytes: the medians of a log that keeps all, and of one that
/// removes as much as comes, and that of the ratios of both, turn by turn. And how many segments
/// were removed.
pub(crate) fn beside(shape: Shape, bytes: usize, turns: usize, time: Duration) -> Compared {
    let open = |retention: Retention| {
        Cluster::open(shape, |builder| builder.segment_bytes(SEGMENT_BYTES).retention(retention))
    };
    let keeping = open(Retention::keep_all());
    let removing = open(Retention::keep_all().max_bytes(MOST).max_age(Duration::from_secs(3600)));
    let payload = vec![0x5a; bytes];
    let turn = |cluster: &Cluster, time: Duration| {
        let outcome =
            Load::new(&cluster.nodes[cluster.leader()], &payload, 1024).run(u64::MAX, time);
        outcome.appends as f64 / outcome.took.as_secs_f64()
    };
    // Until there is something to remove.
    turn(&removing, 2 * time);
    turn(&keeping, 2 * time);
    let pairs: Vec<(f64, f64)> =
        (0..turns).map(|_| (turn(&keeping, time), turn(&removing, time))).collect();
    let of =
        |figure: &dyn Fn(&(f64, f64)) -> f64| median(&pairs.iter().map(figure).collect::<Vec<_>>());
    Compared {
        keeping: of(&|pair| pair.0),
        removing: of(&|pair| pair.1),
        ratio: of(&|pair| pair.1 / pair.0),
        removed: removing.nodes[removing.leader()].status().removed.bytes.segments,
    }
}

/// See [`beside`].
pub(crate) struct Compared {
    pub(crate) keeping: f64,
    pub(crate) removing: f64,
    pub(crate) ratio: f64,
    pub(crate) removed: u64,
}
