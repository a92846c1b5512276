//! Tails that are read in chunks: what a chunk holds, and what it tells where there is none.

use std::thread;
use std::time::Duration;

use dledger::{DLedger, Entry, ReadError};

use crate::cluster_of::{Cluster, Disk, TIMEOUT, cluster_of};

const LONG: Duration = Duration::from_secs(3600);
const ANY: usize = usize::MAX;

fn in_files() -> Cluster {
    cluster_of(1).on(Disk::Directory).with(|builder| builder.segment_bytes(64 << 10)).open()
}

fn indexes(chunk: &[Entry]) -> Vec<u64> {
    chunk.iter().map(Entry::index).collect()
}

/// Batches of different sizes, with entries of one length, of none, and of many lengths.
fn fill(ledger: &DLedger) {
    for round in 0..40_usize {
        let length = |nth: usize| match round % 4 {
            0 => 128,
            1 => 0,
            2 => nth * 7 % 300,
            _ => 3000,
        };
        let payloads = (0..1 + round * 5 % 90).map(|nth| vec![(round + nth) as u8; length(nth)]);
        ledger.append_batch(payloads).expect("a node alone takes appends");
    }
}

#[test]
fn chunks_of_any_limits_are_what_single_reads_give() {
    let cluster = in_files();
    let ledger = cluster.node(1);
    fill(&ledger);
    let single: Vec<Entry> = ledger.read(0).map(|entry| entry.unwrap()).collect();
    assert!(single.len() > 1000);
    for (max_entries, max_bytes) in [
        (ANY, ANY),
        (1, ANY),
        (0, 0),
        (7, ANY),
        (100, ANY),
        (ANY, 1000),
        (64, 4000),
        (ANY, 1 << 20),
    ] {
        let (mut tail, mut read) = (ledger.tail(0), Vec::new());
        while read.len() < single.len() {
            let chunk = tail.next_chunk(max_entries, max_bytes, LONG).unwrap();
            let bytes: usize = chunk.iter().map(|entry| entry.len()).sum();
            let limits = format!("{max_entries} entries, {max_bytes} bytes");
            assert!(!chunk.is_empty() && chunk.len() <= max_entries.max(1), "{limits}");
            assert!(bytes <= max_bytes || chunk.len() == 1, "{limits}: {bytes}");
            let next = single.get(read.len() + chunk.len());
            let is_full = chunk.len() == max_entries.max(1)
                || next.is_none_or(|next| bytes + next.len() > max_bytes);
            assert!(is_full, "{limits}: there was room for one more");
            read.extend(chunk);
        }
        assert!(read == single, "{max_entries} entries, {max_bytes} bytes");
        assert!(tail.next_chunk(max_entries, max_bytes, Duration::ZERO).unwrap().is_empty());
    }
}

#[test]
fn chunks_and_single_reads_can_be_mixed() {
    let cluster = in_files();
    let ledger = cluster.node(1);
    fill(&ledger);
    let mut tail = ledger.tail(0);
    let mut next = 0;
    while next < ledger.committed().end - 100 {
        for entry in tail.next_chunk(13, ANY, LONG).unwrap() {
            assert_eq!((entry.index(), &entry), (next, &ledger.get(next).unwrap().unwrap()));
            next += 1;
        }
        for _ in 0..20 {
            let entry = tail.next().unwrap().unwrap();
            assert_eq!((entry.index(), &entry), (next, &ledger.get(next).unwrap().unwrap()));
            next += 1;
        }
    }
    tail.seek(3);
    assert_eq!(indexes(&tail.next_chunk(2, ANY, LONG).unwrap()), [3, 4]);
}

#[test]
fn a_chunk_waits_for_its_first_entry_and_takes_what_was_committed_with_it() {
    let cluster = cluster_of(1).open();
    let ledger = cluster.node(1);
    let mut tail = ledger.tail(0);
    let short = Duration::from_millis(5);
    assert!(tail.next_chunk(ANY, ANY, short).unwrap().is_empty());
    let waiting = thread::spawn(move || (tail.next_chunk(ANY, ANY, LONG).unwrap(), tail));
    thread::sleep(Duration::from_millis(20));
    ledger.append_batch(["a", "b", "c"]).unwrap();
    let (chunk, mut tail) = waiting.join().unwrap();
    assert_eq!(indexes(&chunk), [0, 1, 2]);
    let waiting = thread::spawn(move || (tail.next_chunk(ANY, ANY, LONG), tail));
    thread::sleep(Duration::from_millis(20));
    ledger.shutdown().unwrap();
    let (end, mut tail) = waiting.join().unwrap();
    assert!(matches!(end, Err(ReadError::Stopped)), "{end:?}");
    tail.seek(0);
    assert!(matches!(tail.next_chunk(1, 1, LONG), Err(ReadError::Stopped)));
}

#[test]
fn a_chunk_tells_that_its_first_entry_was_purged_as_long_as_it_is_so() {
    let cluster = in_files();
    let ledger = cluster.node(1);
    fill(&ledger);
    let mut tail = ledger.tail(3);
    let first = ledger.purge(ledger.committed().end).unwrap();
    assert!(first > 3);
    for _ in 0..2 {
        match tail.next_chunk(ANY, ANY, TIMEOUT) {
            Err(ReadError::Purged { index, first: kept, .. }) => {
                assert_eq!((index, kept), (3, first));
            }
            other => panic!("{other:?}"),
        }
    }
    tail.seek(first);
    let rest: Vec<u64> = (first..ledger.committed().end).collect();
    assert_eq!(indexes(&tail.next_chunk(ANY, ANY, LONG).unwrap()), rest);
}
