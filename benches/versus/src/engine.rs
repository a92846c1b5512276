//! raft-engine: the log store of TiKV. One node, nothing is replicated.

use std::time::{Duration, Instant};

use raft::eraftpb::Entry;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};
use tempfile::TempDir;

use crate::measure::machine;
use crate::measure::scratch::scratch;
use crate::measure::turn::{Turn, no_latencies};
use crate::subject::Subject;

/// There is one Raft group in it.
const REGION: u64 = 1;

struct Plain;

impl MessageExt for Plain {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

pub(crate) struct RaftEngine {
    engine: Engine,
    next: u64,
    batch: LogBatch,
    _dir: TempDir,
}

impl RaftEngine {
    pub(crate) fn open() -> RaftEngine {
        let dir = scratch();
        let config = Config {
            dir: dir.path().to_str().expect("scratch space has a plain name").to_owned(),
            batch_compression_threshold: ReadableSize::kb(0),
            ..Config::default()
        };
        RaftEngine {
            engine: Engine::open(config).expect("an engine opens in a directory of its own"),
            next: 1,
            batch: LogBatch::default(),
            _dir: dir,
        }
    }

    /// Writes `count` entries at once and syncs them.
    pub(crate) fn write(&mut self, payload: &[u8], count: usize) {
        let entry =
            |index| Entry { index, term: 1, data: payload.to_vec().into(), ..Entry::default() };
        let entries: Vec<Entry> = (self.next..).take(count).map(entry).collect();
        self.batch.add_entries::<Plain>(REGION, &entries).expect("entries continue each other");
        self.engine.write(&mut self.batch, true).expect("scratch space can be written");
        self.next += count as u64;
    }

    pub(crate) fn get(&self, index: u64) -> Entry {
        self.engine
            .get_entry::<Plain>(REGION, index)
            .expect("the log is whole")
            .expect("it was written")
    }
}

impl Subject for RaftEngine {
    /// All that is in flight is written and synced as one batch, which is the best that it can be
    /// asked for.
    fn append(&mut self, bytes: usize, window: usize, time: Duration) -> Turn {
        let payload = vec![0x5a; bytes];
        let mut latency = no_latencies();
        let ((appends, took), cores) = machine::cores_busy(|| {
            let began = Instant::now();
            let (mut now, mut appends) = (began, 0);
            while now - began < time {
                self.write(&payload, window);
                let after = Instant::now();
                latency
                    .record_n((after - now).as_nanos() as u64, window as u64)
                    .expect("it resizes");
                (now, appends) = (after, appends + window);
            }
            (appends, now - began)
        });
        Turn { per_second: appends as f64 / took.as_secs_f64(), latency, cores }
    }

    fn purge(&mut self) {
        self.engine.compact_to(REGION, self.next - 1);
        self.engine.purge_expired_files().expect("scratch space can be tidied");
    }
}

pub(crate) fn open() -> Option<Box<dyn Subject>> {
    Some(Box::new(RaftEngine::open()))
}
