//! A purge frees disk space though there are no more appends.

use std::path::Path;
use std::time::Duration;

use dledger::{Builder, DLedger, FlushPolicy};

use crate::group::{eventually, home, leader, three};

const SEGMENT_BYTES: u64 = 64 << 10;

/// Nothing is synced by itself while a fact runs.
const RARELY: FlushPolicy = FlushPolicy::Async { interval: Duration::from_secs(3600) };

fn segments(dir: &Path) -> usize {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".seg")).count()
}

fn fill(ledger: &DLedger) {
    for _ in 0..200 {
        ledger.append([7; 8 << 10]).unwrap();
    }
}

fn alone(home: &Path, flush: FlushPolicy) -> Builder {
    DLedger::builder(1).dir(home.join("log")).segment_bytes(SEGMENT_BYTES).flush(flush)
}

fn frees(flush: FlushPolicy) {
    let home = home();
    let ledger = alone(home.path(), flush).open().unwrap();
    fill(&ledger);
    let dir = home.path().join("log");
    assert!(segments(&dir) > 20);
    let first = ledger.purge(190).unwrap();
    assert!(first > 150, "whole segments below the index are given up: {first}");
    assert_eq!(ledger.committed().start, first);
    eventually("the files go", || segments(&dir) <= 3);
    drop(ledger);
    let again = alone(home.path(), flush).open().unwrap();
    assert_eq!(again.committed(), first..200);
}

facts! {
    fn an_idle_node_frees_what_is_purged() {
        frees(FlushPolicy::Sync);
    }

    fn an_idle_node_that_flushes_rarely_frees_what_is_purged() {
        frees(RARELY);
    }

    fn every_node_of_an_idle_group_frees_what_is_purged() {
        for flush in [FlushPolicy::Sync, RARELY] {
            let home = home();
            let set = |builder: Builder| builder.segment_bytes(SEGMENT_BYTES).flush(flush);
            let nodes = three(home.path(), set);
            fill(&nodes[leader(&nodes)]);
            for (node, id) in nodes.iter().zip(1..) {
                let dir = home.path().join(id.to_string());
                eventually("the follower has it all", || node.committed().end == 200);
                assert!(node.purge(190).unwrap() > 150);
                eventually("the files go", || segments(&dir) <= 3);
            }
        }
    }

    fn purges_that_wait_for_a_sync_are_answered_when_the_node_is_shut_down() {
        let home = home();
        let ledger = alone(home.path(), RARELY).open().unwrap();
        fill(&ledger);
        std::thread::scope(|scope| {
            let purges: Vec<_> = (0..20)
                .map(|at| {
                    scope.spawn({
                        let ledger = ledger.clone();
                        move || drop(ledger.purge(at * 10))
                    })
                })
                .collect();
            ledger.shutdown().unwrap();
            purges.into_iter().for_each(|purge| purge.join().unwrap());
        });
    }
}
