//! Random reads of 1 KiB by number, one at a time on one thread, of everything that can be read so.

use std::hint::black_box;
use std::time::{Duration, Instant};

use dledger::DLedger;
use redb::{Database, Durability, TableDefinition};

use crate::engine::RaftEngine;
use crate::measure::lookups::{PAYLOAD, Shuffled, fill, get_each, read_each};
use crate::measure::raw_records::RawRecords;
use crate::measure::scratch::scratch;
use crate::measure::table::median;

/// Entries in one batch, of those that write batches.
const BATCH: u64 = 256;
const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

/// A name, what it verifies, and nanoseconds for each get.
pub(crate) type Row = (&'static str, &'static str, f64);

type Gets<'a> = Box<dyn Fn(Shuffled, usize) -> Duration + 'a>;

/// Fills everything with `bytes` of entries, and takes `turns` turns of `lookups` each, one after
/// the other. Medians.
pub(crate) fn measure(bytes: u64, turns: usize, lookups: usize) -> Vec<Row> {
    let count = bytes / PAYLOAD as u64;
    let dir = scratch();
    let ledger = DLedger::builder(1)
        .dir(dir.path().join("node"))
        .open()
        .expect("a node opens in a directory of its own");
    fill(&ledger, count);
    let records = RawRecords::new(count, PAYLOAD);
    let mut engine = RaftEngine::open();
    for _ in 0..count / BATCH {
        engine.write(&[0x5a; PAYLOAD], BATCH as usize);
    }
    let tree = filled_tree(&dir.path().join("tree"), count);
    let subjects: [(&str, &str, Gets<'_>); 4] = [
        (
            "dledger, one node",
            "a checksum of the entry and of what stands before its batch",
            Box::new(|of, lookups| get_each(&ledger, of.take(lookups))),
        ),
        (
            "a mapped file",
            "a checksum of the entry",
            Box::new(|of, lookups| read_each(&records, of.take(lookups))),
        ),
        (
            "raft-engine",
            "a checksum of the batch, which it decodes",
            Box::new(|of, lookups| {
                timed(of, lookups, |number| drop(black_box(engine.get(number + 1))))
            }),
        ),
        ("redb", "nothing", Box::new(|of, lookups| get_from(&tree, of, lookups))),
    ];
    let mut taken = vec![Vec::new(); subjects.len()];
    for turn in 0..turns as u64 {
        for ((.., gets), taken) in subjects.iter().zip(&mut taken) {
            taken.push(
                gets(Shuffled::new(turn + 1, count), lookups).as_nanos() as f64 / lookups as f64,
            );
        }
    }
    subjects
        .iter()
        .zip(taken)
        .map(|((name, verifies, _), taken)| (*name, *verifies, median(&taken)))
        .collect()
}

fn timed(numbers: Shuffled, lookups: usize, get: impl Fn(u64)) -> Duration {
    let began = Instant::now();
    numbers.take(lookups).for_each(get);
    began.elapsed()
}

fn filled_tree(path: &std::path::Path, count: u64) -> Database {
    let tree = Database::create(path).expect("scratch space can be written");
    for batch in 0..count / BATCH {
        let mut write = tree.begin_write().expect("there is no other writer");
        write.set_durability(Durability::None);
        {
            let mut table = write.open_table(TABLE).expect("it is the only table");
            for number in batch * BATCH..(batch + 1) * BATCH {
                table.insert(number, &[0x5a; PAYLOAD][..]).expect("scratch space can be written");
            }
        }
        write.commit().expect("scratch space can be written");
    }
    tree
}

/// One transaction for all, which is the least that redb asks for.
fn get_from(tree: &Database, numbers: Shuffled, lookups: usize) -> Duration {
    let read = tree.begin_read().expect("it can be read");
    let table = read.open_table(TABLE).expect("it is there");
    timed(numbers, lookups, |number| {
        let value = table.get(number).expect("it can be read").expect("it was put");
        black_box(&value.value()[..]);
    })
}
