//! The configuration of a node process.

use std::path::PathBuf;
use std::time::Duration;

use dledger::{Builder, DLedger, FlushPolicy};

pub(crate) const HEARTBEAT: Duration = Duration::from_millis(50);
pub(crate) const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);
/// Short, so that what a stopped process holds up does not hold up the run.
pub(crate) const APPEND_TIMEOUT: Duration = Duration::from_secs(2);

/// How the nodes of a run are set up: drawn from the seed, the same for all of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) seed: u64,
    pub(crate) segment_bytes: u64,
    /// Milliseconds between background syncs; 0: every batch is synced before it counts.
    pub(crate) flush_ms: u64,
}

/// The configuration of one process, passed in an environment variable.
#[derive(Clone, Debug)]
pub(crate) struct ProcessConfig {
    pub(crate) node: u64,
    pub(crate) dir: PathBuf,
    pub(crate) settings: Settings,
    /// The address where this node listens, and those of its peers: every node has its own proxy
    /// to each of the others.
    pub(crate) addresses: Vec<String>,
}

impl ProcessConfig {
    /// In words without blanks.
    pub(crate) fn write(&self) -> String {
        let Settings { seed, segment_bytes, flush_ms } = self.settings;
        let (dir, addresses) = (self.dir.display(), self.addresses.join(" "));
        format!("{} {dir} {seed} {segment_bytes} {flush_ms} {addresses}", self.node)
    }

    pub(crate) fn read(words: &str) -> ProcessConfig {
        let words: Vec<&str> = words.split(' ').collect();
        let number = |at: usize| words[at].parse().expect("a number");
        ProcessConfig {
            node: number(0),
            dir: PathBuf::from(words[1]),
            settings: Settings { seed: number(2), segment_bytes: number(3), flush_ms: number(4) },
            addresses: words[5..].iter().map(|&address| address.to_owned()).collect(),
        }
    }

    pub(crate) fn builder(&self) -> Builder {
        let flush = match self.settings.flush_ms {
            0 => FlushPolicy::Sync,
            ms => FlushPolicy::Async { interval: Duration::from_millis(ms) },
        };
        DLedger::builder(self.node)
            .group("chaos")
            .dir(&self.dir)
            .peers(
                (1..)
                    .zip(&self.addresses)
                    .map(|(id, address)| (id, address.as_str()))
                    .collect::<Vec<(u64, &str)>>(),
            )
            .flush(flush)
            .segment_bytes(self.settings.segment_bytes)
            .heartbeat_interval(HEARTBEAT)
            .election_timeout(ELECTION_TIMEOUT)
            .append_timeout(APPEND_TIMEOUT)
    }
}
