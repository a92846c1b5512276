//! Purged segments are used again while others read at full speed: whatever anybody has read stays
//! as it was written.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use dledger::{DLedger, Entry, ReadError};

use crate::rng::Rng;

/// About a hundred segments of 64 KiB.
const ENTRIES: u64 = 4_000;
/// How many the log keeps: a few segments.
const KEPT: u64 = 100;
/// In one of four phases, each of so many entries, only the writer holds on to what it reads, in
/// one all do, in one only the others, and in one none. So some segments are used again, and
/// others have somebody who still reads them, the writer alone among them.
const PHASE: u64 = 500;
const WRITER_HOLDS: [u64; 2] = [0, 1];
const OTHERS_HOLD: [u64; 2] = [1, 2];
/// Appends under way at once. All of them fit a segment.
const UNDER_WAY: u64 = 16;

/// What is appended at `index`. No two have bytes in common, so those of any other would be
/// noticed.
fn payload(index: u64) -> Vec<u8> {
    let mut rng = Rng::from_seed(index);
    let mut bytes = Vec::new();
    for _ in 0..rng.below(400) {
        bytes.extend_from_slice(&rng.draw().to_le_bytes());
    }
    bytes
}

fn assert_as_written(entry: &Entry) {
    assert!(
        entry[..] == payload(entry.index()),
        "entry {} is not what was appended",
        entry.index()
    );
}

/// What one reader holds on to.
struct Held {
    phases: [u64; 2],
    entries: Vec<Entry>,
    /// How many were still held, and as they were, when the log had given them up.
    outlived: u64,
}

impl Held {
    fn in_phases(phases: [u64; 2]) -> Held {
        Held { phases, entries: Vec::new(), outlived: 0 }
    }

    fn take(&mut self, ledger: &DLedger, entry: Entry) {
        assert_as_written(&entry);
        if self.phases.contains(&(entry.index() / PHASE % 4)) {
            self.entries.push(entry);
        } else {
            self.let_go(ledger);
        }
    }

    fn let_go(&mut self, ledger: &DLedger) {
        let first = ledger.committed().start;
        for entry in self.entries.drain(..) {
            assert_as_written(&entry);
            self.outlived += u64::from(entry.index() < first);
        }
    }
}

/// Counts the files that become another segment.
#[derive(Default)]
struct Recycled {
    /// The files at the last look, by the number that the file system knows them by, and which
    /// segment they were last. Open, or it could give the number to another file.
    seen: BTreeMap<u64, (String, File)>,
    count: u64,
}

impl Recycled {
    fn look(&mut self, dir: &Path) {
        let mut before = std::mem::take(&mut self.seen);
        for entry in fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("a name")) {
            let name = entry.file_name().into_string().expect("a name of ours");
            // One that is removed meanwhile is no matter.
            let Ok(file) = File::open(entry.path()) else { continue };
            let number = file.metadata().expect("an open file").ino();
            let last = before.remove(&number).map(|(last, _)| last).unwrap_or_default();
            let is_segment = name.ends_with(".seg");
            self.count += u64::from(is_segment && last.ends_with(".seg") && last != name);
            self.seen.insert(number, (if is_segment { name } else { last }, file));
        }
    }
}

/// Whether everything is appended, or will not be.
#[derive(Default)]
struct Over(AtomicBool);

impl Over {
    fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Ends the readers, also if the writer panics.
struct Writing<'a>(&'a Over);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// Appends everything and purges all but the end of it. Reads what it has appended at once, while
/// its segment still grows.
fn append_and_purge(ledger: &DLedger, dir: &Path) -> (u64, u64) {
    let (mut held, mut recycled) = (Held::in_phases(WRITER_HOLDS), Recycled::default());
    for first in (0..ENTRIES).step_by(UNDER_WAY as usize) {
        let under_way: Vec<_> = (first..first + UNDER_WAY)
            .map(|index| (index, ledger.append_async(payload(index))))
            .collect();
        for (index, future) in under_way {
            assert_eq!(future.wait().expect("a node of its own takes appends").index, index);
        }
        held.take(ledger, ledger.get(first).expect("it is not purged").expect("it is committed"));
        ledger.purge(first.saturating_sub(KEPT)).expect("a node of its own purges");
        recycled.look(dir);
    }
    held.let_go(ledger);
    (held.outlived, recycled.count)
}

/// Gets whatever is there, in any order.
fn get(ledger: &DLedger, over: &Over) {
    let (mut held, mut rng) = (Held::in_phases(OTHERS_HOLD), Rng::from_seed(7));
    while !over.is_over() {
        let there = ledger.committed();
        if there.is_empty() {
            continue;
        }
        match ledger.get(there.start + rng.below(there.end - there.start)) {
            Ok(entry) => held.take(ledger, entry.expect("it is committed")),
            Err(error) => assert!(matches!(error, ReadError::Purged { .. }), "{error}"),
        }
        if held.entries.len() > 100 {
            held.let_go(ledger);
        }
    }
    held.let_go(ledger);
}

/// Reads from the first entry to the last, again and again.
fn read(ledger: &DLedger, over: &Over) {
    let mut held = Held::in_phases(OTHERS_HOLD);
    while !over.is_over() {
        for entry in ledger.read(ledger.committed().start) {
            match entry {
                Ok(entry) => held.take(ledger, entry),
                Err(error) => assert!(matches!(error, ReadError::Purged { .. }), "{error}"),
            }
        }
        held.let_go(ledger);
    }
}

/// Reads what is appended as soon as it is committed.
fn tail(ledger: &DLedger, over: &Over) {
    let mut held = Held::in_phases(OTHERS_HOLD);
    while !over.is_over() {
        // Restarts at the first entry of the log if it was too slow.
        let mut tail = ledger.tail(ledger.committed().start);
        while !over.is_over()
            && let Ok(Some(entry)) = tail.next_timeout(Duration::from_millis(10))
        {
            held.take(ledger, entry);
        }
    }
    held.let_go(ledger);
}

#[test]
fn whatever_is_read_stays_as_it_was_written_while_segments_are_purged_and_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = DLedger::builder(1).dir(dir.path()).segment_bytes(64 << 10).open().unwrap();
    let over = Over::default();
    let (outlived, recycled) = thread::scope(|scope| {
        let writing = Writing(&over);
        for reader in [get, read, tail] {
            let (ledger, over) = (&ledger, &over);
            scope.spawn(move || reader(ledger, over));
        }
        let counts = append_and_purge(&ledger, dir.path());
        drop(writing);
        counts
    });
    eprintln!(
        "{recycled} segments were used again, and {outlived} entries that the writer held outlived \
         theirs"
    );
    assert!(outlived > 0, "nothing was held for longer than the log held it");
    assert!(recycled > 0, "no segment was used again");
    ledger.shutdown().unwrap();
}
