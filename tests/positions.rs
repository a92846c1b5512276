//! Reads by position and by time, beside a plain list of the payloads; and the first position.

#![expect(clippy::unwrap_used, reason = "every part of this is a test")]

#[path = "shared/rng.rs"]
mod rng;

use std::ops::Range;
use std::time::Duration;

use dledger::storage::{MemoryLog, StorageError};
use dledger::{Builder, DLedger, Entry, OpenError, ReadError, Refusal};
use tempfile::TempDir;

use rng::Rng;

const FIRST: u64 = 1 << 40;

/// The ledger as a list. An entry that was purged stays in it.
struct Model {
    entries: Vec<Expected>,
    /// All payloads, one behind the other.
    bytes: Vec<u8>,
    first_position: u64,
    /// Number of purged entries.
    purged: u64,
}

struct Expected {
    payload: Vec<u8>,
    position: u64,
    timestamp: u64,
}

impl Model {
    fn new(first_position: u64) -> Model {
        Model { entries: Vec::new(), bytes: Vec::new(), first_position, purged: 0 }
    }

    fn positions(&self) -> Range<u64> {
        let end = |entry: &Expected| entry.position + entry.payload.len() as u64;
        let before = self.purged.checked_sub(1).map(|last| end(&self.entries[last as usize]));
        before.unwrap_or(self.first_position)..self.entries.last().map_or(self.first_position, end)
    }

    /// The entry that holds this byte.
    fn at(&self, position: u64) -> Option<u64> {
        let holds = |entry: &Expected| {
            position >= entry.position && position < entry.position + entry.payload.len() as u64
        };
        self.entries.iter().position(holds).map(|index| index as u64)
    }

    fn since(&self, timestamp: u64) -> Option<u64> {
        let kept = self.entries.iter().enumerate().skip(self.purged as usize);
        kept.map(|(index, entry)| (index as u64, entry.timestamp))
            .find(|(_, time)| *time >= timestamp)
            .map(|(index, _)| index)
    }

    /// Adds what was appended from here on.
    fn extend(&mut self, ledger: &DLedger, payloads: Vec<Vec<u8>>) {
        for payload in payloads {
            let index = self.entries.len() as u64;
            let entry = ledger.get(index).unwrap().expect("it was committed");
            let position = self.positions().end;
            assert_eq!((&entry[..], entry.position()), (&payload[..], position));
            self.bytes.extend_from_slice(&payload);
            self.entries.push(Expected { payload, position, timestamp: entry.timestamp() });
        }
    }

    fn check_at(&self, ledger: &DLedger, position: u64, max_bytes: usize) {
        let (found, index) = (ledger.get_at(position), ledger.index_of(position));
        let read = ledger.read_at(position, max_bytes);
        let kept = self.positions();
        if position < kept.start {
            let is_purged = |error: &ReadError| {
                matches!(error, ReadError::Purged { first, index, .. }
                    if *first == self.purged && *index == self.purged.saturating_sub(1))
            };
            assert!(is_purged(&found.unwrap_err()) && is_purged(&index.unwrap_err()));
            assert!(is_purged(&read.unwrap_err()), "{position} before {kept:?}");
            return;
        }
        let expected = self.at(position);
        assert_eq!(expected.is_some(), kept.contains(&position));
        assert_eq!(index.unwrap(), expected, "{position} in {kept:?}");
        let (found, read) = (found.unwrap(), read.unwrap());
        let Some(expected) = expected else {
            return assert!(found.is_none() && read.is_none(), "{position} in {kept:?}");
        };
        let (found, read) = (found.expect("it is committed"), read.expect("it is committed"));
        assert_eq!(found, ledger.get(expected).unwrap().unwrap());
        assert!((1..=max_bytes.max(1)).contains(&read.len()), "{} bytes", read.len());
        let offset = (position - self.first_position) as usize;
        assert_eq!(read[..], self.bytes[offset..offset + read.len()], "from {position}");
        let rest = found.len() - (position - found.position()) as usize;
        assert!(read.len() >= rest.min(max_bytes), "an entry lies in one batch");
    }

    fn check_index(&self, ledger: &DLedger, index: u64) {
        let position = ledger.position_of(index);
        match self.entries.get(index as usize) {
            Some(_) if index < self.purged => {
                assert!(matches!(position, Err(ReadError::Purged { .. })), "{position:?}");
            }
            entry => assert_eq!(position.unwrap(), entry.map(|entry| entry.position)),
        }
    }

    fn check_time(&self, ledger: &DLedger, timestamp: u64) {
        assert_eq!(ledger.index_at(timestamp).unwrap(), self.since(timestamp), "{timestamp}");
    }

    /// Some reads, half of them at a bound.
    fn check(&self, ledger: &DLedger, rng: &mut Rng) {
        let kept = self.positions();
        assert_eq!(ledger.positions(), kept);
        assert_eq!(ledger.committed(), self.purged..self.entries.len() as u64);
        let bounds = [
            0,
            self.first_position,
            kept.start,
            kept.start + 1,
            kept.start.saturating_sub(1),
            kept.end,
            kept.end + 1,
            kept.end - u64::from(kept.end > 0),
            u64::MAX,
        ];
        for _ in 0..6 {
            let at_entry = self
                .entries
                .get(rng.below(self.entries.len() as u64 + 1) as usize)
                .map_or(kept.end, |entry| (entry.position + rng.below(3)).saturating_sub(1));
            let position = match rng.below(3) {
                0 => rng.pick(&bounds),
                1 => at_entry,
                _ => kept.start + rng.below(kept.end - kept.start + 1),
            };
            self.check_at(ledger, position, rng.pick(&[0, 1, 7, 300, 64 << 10, usize::MAX]));
            self.check_index(ledger, rng.below(self.entries.len() as u64 + 2));
            let time = self
                .entries
                .get(rng.below(self.entries.len() as u64 + 1) as usize)
                .map_or(u64::MAX - 1, |entry| entry.timestamp);
            self.check_time(ledger, rng.pick(&[0, time.saturating_sub(1), time, time + 1]));
        }
    }
}

fn payload(rng: &mut Rng) -> Vec<u8> {
    if rng.once_in(4) { Vec::new() } else { rng.payload() }
}

fn model_run(first_position: u64, mut rng: Rng, open: impl Fn() -> DLedger) {
    let (mut model, mut ledger) = (Model::new(first_position), open());
    model.check(&ledger, &mut rng);
    for _ in 0..150 {
        match rng.below(16) {
            0..6 => {
                let payload = payload(&mut rng);
                ledger.append(&payload).unwrap();
                model.extend(&ledger, vec![payload]);
            }
            6..12 => {
                let payloads: Vec<_> = (0..rng.below(30)).map(|_| payload(&mut rng)).collect();
                ledger.append_batch(&payloads).unwrap();
                model.extend(&ledger, payloads);
            }
            12 => std::thread::sleep(Duration::from_millis(rng.below(4))),
            13 => {
                let below = rng.below(model.entries.len() as u64 + 1);
                model.purged = ledger.purge(below).unwrap();
            }
            _ => {
                ledger.shutdown().unwrap();
                ledger = open();
                // What a crash may bring back, a clean end does not.
                assert_eq!(ledger.committed().start, model.purged);
            }
        }
        model.check(&ledger, &mut rng);
    }
    for index in 0..model.entries.len() as u64 {
        model.check_index(&ledger, index);
        model.check_time(&ledger, model.entries[index as usize].timestamp);
        model.check_at(&ledger, model.entries[index as usize].position, 1 << 20);
    }
}

fn segmented(home: &TempDir) -> Builder {
    DLedger::builder(1).dir(home.path().join("log")).segment_bytes(64 << 10)
}

#[test]
fn a_segmented_log_reads_as_a_list_does() {
    let mut rng = Rng::new();
    for first_position in [0, FIRST] {
        let home = TempDir::new().unwrap();
        model_run(first_position, rng.fork(), || {
            segmented(&home).first_position(first_position).open().unwrap()
        });
    }
}

#[test]
fn a_log_in_memory_reads_as_a_list_does() {
    let seed = Rng::new().draw();
    for first_position in [0, FIRST] {
        let memory = MemoryLog::new();
        model_run(first_position, Rng::from_seed(seed), || {
            let storage = memory.clone();
            DLedger::builder(1).storage(storage).first_position(first_position).open().unwrap()
        });
    }
}

fn place(entry: Option<Entry>) -> Option<(u64, u64)> {
    entry.map(|entry| (entry.index(), entry.position()))
}

#[test]
fn an_empty_ledger_holds_no_byte_and_no_time() {
    for first_position in [0, FIRST] {
        let home = TempDir::new().unwrap();
        let ledger = segmented(&home).first_position(first_position).open().unwrap();
        assert_eq!(ledger.positions(), first_position..first_position);
        for position in [first_position, first_position + 1, u64::MAX] {
            assert_eq!(ledger.get_at(position).unwrap(), None);
            assert_eq!(ledger.index_of(position).unwrap(), None);
            assert_eq!(ledger.read_at(position, 9).unwrap(), None);
        }
        assert_eq!((ledger.position_of(0).unwrap(), ledger.index_at(0).unwrap()), (None, None));
    }
}

#[test]
fn what_lies_before_the_first_position_was_never_here() {
    let home = TempDir::new().unwrap();
    let ledger = segmented(&home).first_position(FIRST).open().unwrap();
    for _ in 0..2 {
        for position in [0, FIRST - 1] {
            let found = ledger.get_at(position);
            assert!(
                matches!(found, Err(ReadError::Purged { index: 0, first: 0, .. })),
                "{found:?}"
            );
            assert!(matches!(ledger.read_at(position, 1), Err(ReadError::Purged { .. })));
        }
        ledger.append("x").unwrap();
    }
    assert_eq!(place(ledger.get_at(FIRST).unwrap()), Some((0, FIRST)));
}

#[test]
fn empty_entries_hold_no_byte_at_either_end_and_between() {
    let home = TempDir::new().unwrap();
    let ledger = segmented(&home).open().unwrap();
    ledger.append_batch(["", "ab", "", "", "c", ""]).unwrap();
    let found: Vec<_> = (0..4).map(|position| ledger.index_of(position).unwrap()).collect();
    assert_eq!(found, [Some(1), Some(1), Some(4), None]);
    let begun: Vec<_> = (0..7).map(|index| ledger.position_of(index).unwrap()).collect();
    assert_eq!(begun, [Some(0), Some(0), Some(2), Some(2), Some(2), Some(3), None]);
    // An entry of its own at the end changes nothing.
    ledger.append("").unwrap();
    assert_eq!((ledger.index_of(3).unwrap(), ledger.read_at(3, 1).unwrap()), (None, None));
    assert_eq!(ledger.position_of(6).unwrap(), Some(3));
    assert_eq!(&ledger.read_at(0, 99).unwrap().unwrap()[..], b"abc");
    assert_eq!(&ledger.read_at(1, 1).unwrap().unwrap()[..], b"b");
    assert_eq!(&ledger.read_at(1, 0).unwrap().unwrap()[..], b"b", "0 counts as 1");
}

#[test]
fn a_read_ends_with_its_batch_and_the_next_goes_on() {
    let home = TempDir::new().unwrap();
    let ledger = segmented(&home).open().unwrap();
    ledger.append_batch(["one", "two"]).unwrap();
    ledger.append_batch(["three"]).unwrap();
    assert_eq!(&ledger.read_at(0, 99).unwrap().unwrap()[..], b"onetwo");
    assert_eq!(&ledger.read_at(6, 99).unwrap().unwrap()[..], b"three");
    assert_eq!(&ledger.read_at(2, 3).unwrap().unwrap()[..], b"etw");
}

#[test]
fn bytes_that_were_read_outlive_the_ledger() {
    let home = TempDir::new().unwrap();
    let ledger = segmented(&home).open().unwrap();
    ledger.append(vec![7; 5_000]).unwrap();
    let bytes = ledger.read_at(0, 4_000).unwrap().unwrap();
    ledger.shutdown().unwrap();
    assert_eq!(bytes, vec![7; 4_000]);
    assert!(matches!(ledger.get_at(0), Err(ReadError::Stopped)));
    assert!(matches!(ledger.read_at(0, 1), Err(ReadError::Stopped)));
    assert!(matches!(ledger.index_at(0), Err(ReadError::Stopped)));
}

#[test]
fn the_first_kept_and_the_last_purged_byte_lie_side_by_side() {
    let home = TempDir::new().unwrap();
    let ledger = segmented(&home).first_position(FIRST).open().unwrap();
    (0..40).for_each(|_| _ = ledger.append(vec![1; 8_000]).unwrap());
    let first = ledger.purge(30).unwrap();
    assert!(first > 0);
    let begin = ledger.positions().start;
    assert_eq!(begin, FIRST + first * 8_000);
    assert_eq!(place(ledger.get_at(begin).unwrap()), Some((first, begin)));
    match ledger.get_at(begin - 1) {
        Err(ReadError::Purged { index, first: told, .. }) => {
            assert_eq!((index, told), (first - 1, first));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(ledger.index_at(0).unwrap(), Some(first), "the first one that is kept");
}

#[test]
fn a_damaged_part_does_not_hide_the_rest() {
    let home = TempDir::new().unwrap();
    let ledger = segmented(&home).open().unwrap();
    (0..200).for_each(|at| _ = ledger.append(vec![at; 2_000]).unwrap());
    ledger.shutdown().unwrap();
    // Some bytes in the middle of every second segment.
    let mut names: Vec<_> = std::fs::read_dir(home.path().join("log"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "seg"))
        .collect();
    names.sort();
    for name in names.iter().step_by(2) {
        let mut bytes = std::fs::read(name).unwrap();
        bytes[30_000..36_000].fill(0xee);
        std::fs::write(name, bytes).unwrap();
    }
    let ledger = segmented(&home).open().unwrap();
    let (mut intact, mut damaged) = (0, 0);
    for index in 0..ledger.committed().end {
        let position = index * 2_000 + 1_000;
        match ledger.get(index) {
            Ok(Some(entry)) => {
                assert_eq!(ledger.get_at(position).unwrap(), Some(entry));
                assert_eq!(ledger.read_at(position, 5).unwrap().unwrap(), vec![index as u8; 5]);
                intact += 1;
            }
            Err(ReadError::Damaged { .. }) => {
                let found = ledger.get_at(position);
                assert!(matches!(found, Err(ReadError::Damaged { .. })), "{found:?}");
                damaged += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(intact > 150 && damaged > 3, "{intact} intact, {damaged} damaged");
}

#[test]
fn another_first_position_than_the_log_began_with_is_refused() {
    let home = TempDir::new().unwrap();
    segmented(&home).first_position(FIRST).open().unwrap().append("x").unwrap();
    for other in [0, FIRST + 1] {
        match segmented(&home).first_position(other).open() {
            Err(OpenError::Storage(StorageError::Mismatch { found, .. })) => {
                assert!(found.contains(&format!("first position {FIRST}")), "{found}");
            }
            refused => panic!("{refused:?}"),
        }
    }
    let ledger = segmented(&home).first_position(FIRST).open().unwrap();
    assert_eq!(ledger.positions(), FIRST..FIRST + 1);
    let status = ledger.status();
    assert_eq!((status.oldest_position, status.committed_position), (FIRST, FIRST + 1));
}

#[test]
fn a_first_position_out_of_reach_is_refused() {
    let home = TempDir::new().unwrap();
    let refused = segmented(&home).first_position((1 << 60) + 1).open();
    let setting = "first_position";
    assert!(matches!(refused, Err(OpenError::Setting { setting: at, .. }) if at == setting));
    let ledger = segmented(&home).first_position(1 << 60).open().unwrap();
    ledger.append("last").unwrap();
    assert_eq!(ledger.index_of((1 << 60) + 3).unwrap(), Some(0));
}

#[test]
fn a_backup_goes_on_at_its_positions() {
    let home = TempDir::new().unwrap();
    let ledger = segmented(&home).first_position(FIRST).open().unwrap();
    (0..40).for_each(|_| _ = ledger.append(vec![1; 8_000]).unwrap());
    ledger.purge(20).unwrap();
    let (kept, copy) = (ledger.positions(), home.path().join("copy"));
    ledger.backup(&copy).unwrap();
    let restored = DLedger::builder(1).dir(&copy).segment_bytes(64 << 10);
    assert!(restored.clone().open().is_err(), "it began at another position");
    let restored = restored.first_position(FIRST).open().unwrap();
    assert_eq!(restored.positions(), kept);
    restored.append("on").unwrap();
    assert_eq!(restored.index_of(kept.end).unwrap(), Some(40));
}

fn addresses(count: usize) -> Vec<String> {
    let listeners: Vec<_> =
        (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3_000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what} did not come true");
}

/// A follower that was away is moved forward, and a lost one rejoins: both go on at the positions
/// of the group.
#[test]
fn every_node_of_a_group_has_the_same_positions() {
    let (home, addresses) = (TempDir::new().unwrap(), addresses(3));
    let node = |id: u64| {
        let peers = (1..).zip(&addresses).map(|(id, address): (u64, _)| (id, address.clone()));
        let dir = home.path().join(id.to_string());
        let builder = DLedger::builder(id).dir(dir).peers(peers).segment_bytes(64 << 10);
        builder.first_position(FIRST)
    };
    let open = |id: u64| node(id).open().unwrap();
    let append = |nodes: &[DLedger]| {
        let mut index = None;
        until("an append", || {
            index = nodes.iter().find_map(|node| node.append(vec![5; 8_000]).ok());
            index.is_some()
        });
        index.unwrap()
    };
    let mut nodes = vec![open(1), open(2), open(3)];
    append(&nodes);
    let away = nodes.pop().unwrap();
    away.shutdown().unwrap();
    (0..40).for_each(|_| _ = append(&nodes));
    let all_have = |nodes: &[DLedger], end: u64| {
        until("every node has all", || nodes.iter().all(|node| node.committed().end >= end));
    };
    let end = nodes[0].committed().end.max(nodes[1].committed().end);
    all_have(&nodes, end);
    nodes.iter().for_each(|node| _ = node.purge(30).unwrap());
    nodes.push(open(3));
    all_have(&nodes, end);
    assert!(nodes[2].positions().start > FIRST, "it was moved forward");
    std::fs::remove_dir_all(home.path().join("3")).unwrap_or_default();
    let agree = |nodes: &[DLedger]| {
        for at in [FIRST + 38 * 8_000 + 3, FIRST + end * 8_000 - 1] {
            for node in nodes {
                assert_eq!(node.index_of(at).unwrap(), Some((at - FIRST) / 8_000));
            }
        }
    };
    agree(&nodes);
    let lost = nodes.pop().unwrap();
    lost.shutdown().unwrap_or_default();
    let _ = std::fs::remove_dir_all(home.path().join("3"));
    nodes.push(node(3).rejoin_empty(true).open().unwrap());
    all_have(&nodes, end);
    agree(&nodes);
}

#[test]
fn a_node_that_names_another_first_position_is_refused_by_name() {
    let (home, addresses) = (TempDir::new().unwrap(), addresses(3));
    let open = |id: u64, first_position: u64| {
        let peers = (1..).zip(&addresses).map(|(id, address): (u64, _)| (id, address.clone()));
        let builder = DLedger::builder(id).dir(home.path().join(id.to_string())).peers(peers);
        builder.first_position(first_position).open().unwrap()
    };
    let nodes = [open(1, FIRST), open(2, FIRST), open(3, 9)];
    let says = |node: &DLedger, peer: u64, text: &str| {
        let refused = node.status().refused;
        refused.iter().any(|refusal: &Refusal| {
            refusal.peer.get() == peer && refusal.to_string().contains(text)
        })
    };
    let text = "its group began at another position";
    until("both ends say so", || says(&nodes[0], 3, text) && says(&nodes[2], 1, text));
    assert!(says(&nodes[0], 3, "(9 instead of 1099511627776)"), "{:?}", nodes[0].status().refused);
    until("the others lead on", || nodes[..2].iter().any(|node| node.append("x").is_ok()));
    assert_eq!(nodes[2].committed(), 0..0);
}
