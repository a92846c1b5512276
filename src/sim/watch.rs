//! What the transport of a host knows of the processes of its peers: which are heard, for all
//! groups at once. A sleeping group relies on it.
//!
//! Each process sends beats. A watcher that has heard none of a peer for its patience reports that
//! the peer is down; at the next beat, or at the first beat of another process, that it is up.

use super::rng::Rng;
use super::time::Micros;

/// What a watcher reports of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    Down,
    Up,
}

/// One process that watches one peer.
#[derive(Clone, Default)]
struct Watch {
    /// The number of the watching process.
    watcher: u64,
    /// The number of the process of the peer that was heard last.
    heard: Option<u64>,
    heard_at: Micros,
    /// When this was last looked at. A watcher that is paused does not look.
    looked_at: Micros,
    patience: Micros,
    is_down: bool,
}

/// All watchers: see the [module](self).
pub(crate) struct Watchers {
    rng: Rng,
    nodes: usize,
    election: Micros,
    watches: Vec<Watch>,
}

impl Watchers {
    pub(crate) fn new(nodes: usize, election: Micros, rng: Rng) -> Watchers {
        Watchers { rng, nodes, election, watches: vec![Watch::default(); nodes * nodes] }
    }

    /// Whether the process `watcher` of node `at` has reported that `peer` is down.
    pub(crate) fn is_down(&self, (at, watcher): (usize, u64), peer: usize) -> bool {
        let watch = &self.watches[at * self.nodes + peer];
        watch.watcher == watcher && watch.is_down
    }

    /// The process `watcher` of node `at` looks at node `peer`, whose process `beat` is heard now.
    /// Returns what it reports.
    pub(crate) fn look(
        &mut self,
        now: Micros,
        (at, watcher): (usize, u64),
        peer: usize,
        beat: Option<u64>,
    ) -> Vec<Sign> {
        let watch = &mut self.watches[at * self.nodes + peer];
        if watch.watcher != watcher {
            let patience = self.election / 2 + self.rng.below(self.election);
            *watch = Watch { watcher, heard_at: now, looked_at: now, patience, ..Watch::default() };
        }
        let mut signs = Vec::new();
        // One that was paused may look at its clock before it looks at what has come in.
        let was_paused = now > watch.looked_at + watch.patience && self.rng.percent(30);
        let is_silent = beat.is_none() && now > watch.heard_at + watch.patience;
        if (is_silent || was_paused) && !watch.is_down {
            signs.push(Sign::Down);
            watch.is_down = true;
        }
        watch.looked_at = now;
        if let Some(process) = beat {
            let is_other = watch.heard.is_some_and(|heard| heard != process);
            if watch.is_down || is_other {
                signs.push(Sign::Up);
            }
            (watch.heard, watch.heard_at, watch.is_down) = (Some(process), now, false);
        }
        signs
    }
}
