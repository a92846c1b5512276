//! A whole node that is a group of its own, under power cuts: appends and batches from one thread,
//! pipelined, with purges.

use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use dledger::{AppendFuture, Builder, DLedger};

use crate::actor::{acknowledge, numbers, say, stand_still};
use crate::power_cut::{Acknowledged, Subject};
use crate::rng::Rng;
use crate::volume::clear;

/// How many appends are under way at a time.
const IN_FLIGHT: usize = 32;

/// How many entries are left by a purge.
const KEPT: u64 = 500;

/// A node with the smallest segments that there are.
pub(crate) fn node_in(dir: &Path) -> Builder {
    DLedger::builder(1).dir(dir).segment_bytes(64 << 10)
}

/// One append call of a run: which of its entries come with it, atomically.
struct Call {
    /// How many entries of the run stand before it.
    first: u64,
    payloads: Vec<Vec<u8>>,
}

/// The calls of the run with this seed. A payload begins with the seed and its number.
fn calls(seed: u64) -> impl Iterator<Item = Call> {
    let mut rng = Rng::from_seed(seed);
    let mut first = 0;
    std::iter::repeat_with(move || {
        let count = if rng.once_in(5) { 1 + rng.below(8) } else { 1 };
        let call = Call {
            first,
            payloads: (first..first + count)
                .map(|number| payload(seed, number, &mut rng))
                .collect(),
        };
        first += count;
        call
    })
}

fn payload(seed: u64, number: u64, rng: &mut Rng) -> Vec<u8> {
    let mut payload = [seed, number].map(u64::to_le_bytes).concat();
    payload.extend(rng.payload());
    payload
}

/// The other process: appends until it is killed.
pub(crate) fn play(words: &[&str]) {
    let seed: u64 = words[1].parse().expect("a number");
    let ledger = match node_in(Path::new(words[0])).open() {
        Ok(ledger) => ledger,
        Err(error) => return fail(&error.to_string()),
    };
    say("opened");
    let (futures, waiting) = sync_channel(IN_FLIGHT);
    thread::spawn(move || wait_for_commits(&waiting));
    let mut rng = Rng::from_seed(!seed);
    for call in calls(seed) {
        let count = call.payloads.len();
        let future = if count == 1 {
            ledger.append_async(&call.payloads[0])
        } else {
            ledger.append_batch_async(&call.payloads)
        };
        futures
            .send((call.first + count as u64, future))
            .expect("that thread only ends with this one");
        if rng.once_in(100)
            && let Err(error) = ledger.purge(ledger.committed().end.saturating_sub(KEPT))
        {
            return fail(&error.to_string());
        }
    }
}

fn wait_for_commits(futures: &Receiver<(u64, AppendFuture)>) {
    for (entries, future) in futures {
        match future.wait() {
            Ok(appended) => acknowledge(&format!("committed {entries} {}", appended.index)),
            Err(error) => fail(&error.to_string()),
        }
    }
}

fn fail(error: &str) {
    say(&format!("failed: {error}"));
    stand_still();
}

/// What is known of the ledger between two cuts.
#[derive(Default)]
pub(crate) struct NodeSubject {
    seed: u64,
    /// The first index that is kept, and the checksum and length of every payload from there on.
    first: u64,
    payloads: Vec<(u32, usize)>,
}

impl Subject for NodeSubject {
    fn role(&mut self, dir: &Path, rng: &mut Rng) -> String {
        if rng.once_in(12) {
            clear(dir);
            *self = NodeSubject::default();
        }
        self.seed = rng.draw();
        format!("node {} {}", dir.display(), self.seed)
    }

    fn check(&mut self, dir: &Path, said: &[String]) -> Acknowledged {
        let seed = self.seed;
        let ledger = node_in(dir).open().unwrap_or_else(|error| panic!("{error}; seed {seed}"));
        let before = self.first + self.payloads.len() as u64;
        let committed = said.iter().filter_map(|line| numbers(line, "committed"));
        let mut acknowledged = 0;
        for (entries, index) in committed.map(|numbers| (numbers[0], numbers[1])) {
            assert!(
                before + entries > index && index >= before,
                "entry {index} is not one of this run; seed {seed}"
            );
            acknowledged = entries;
        }
        self.compare(&ledger, before + acknowledged);
        let index = ledger.append("after the cut").expect("a node goes on after a power cut");
        assert_eq!(index, self.first + self.payloads.len() as u64, "seed {seed}");
        self.payloads.push(identity(b"after the cut"));
        ledger.shutdown().expect("a sound node closes without an error");
        Acknowledged { changes: 0, entries: acknowledged }
    }
}

impl NodeSubject {
    /// Reads the whole ledger: what was there before, and of the calls of this run the first ones,
    /// whole, and at least up to `safe`.
    fn compare(&mut self, ledger: &DLedger, safe: u64) {
        let (seed, committed) = (self.seed, ledger.committed());
        let before = self.first + self.payloads.len() as u64;
        assert!(
            committed.end >= safe,
            "{committed:?} is left, but all below {safe} was acknowledged; seed {seed}"
        );
        assert!(
            committed.start >= self.first && committed.start <= committed.end,
            "{committed:?}; seed {seed}"
        );
        let mut ends = vec![before];
        for call in calls(seed) {
            if ends[ends.len() - 1] >= committed.end {
                break;
            }
            ends.push(before + call.first + call.payloads.len() as u64);
            self.payloads.extend(call.payloads.iter().map(|payload| identity(payload)));
        }
        assert!(
            ends.contains(&committed.end),
            "a batch of several entries was torn: {committed:?}; seed {seed}"
        );
        self.payloads.truncate((committed.end - self.first) as usize);
        self.payloads.drain(..(committed.start - self.first) as usize);
        self.first = committed.start;
        for (index, wanted) in (committed.start..).zip(&self.payloads) {
            let entry = ledger
                .get(index)
                .unwrap_or_else(|error| panic!("{error}; seed {seed}"))
                .expect("it is committed");
            assert!(identity(&entry) == *wanted, "entry {index} has changed; seed {seed}");
        }
        assert_eq!(
            ledger.read(committed.start).count() as u64,
            committed.end - committed.start,
            "seed {seed}"
        );
    }
}

/// What is remembered of a payload.
fn identity(payload: &[u8]) -> (u32, usize) {
    (crc32fast::hash(payload), payload.len())
}
