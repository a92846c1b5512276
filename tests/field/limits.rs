//! Limits that differ between nodes, as they do in the course of a rolling restart. They bound what
//! a node's own hosts append, never what it takes from another leader.

use std::fs;
use std::path::Path;
use std::time::Duration;

use dledger::{AppendError, Builder, DLedger, Role};

use crate::group::{TIMEOUT, addresses, eventually, home, leader};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// More than two of the largest batches that the default limit allows.
const LARGE: usize = 40 * MIB;

/// Three nodes over TCP that are opened and closed one by one.
struct Group {
    home: tempfile::TempDir,
    addresses: Vec<String>,
}

impl Group {
    fn new() -> Group {
        Group { home: home(), addresses: addresses(3) }
    }

    fn dir(&self, id: u64) -> std::path::PathBuf {
        self.home.path().join(id.to_string())
    }

    fn open(&self, id: u64, set: impl Fn(Builder) -> Builder) -> DLedger {
        let peers = (1..=3u64).zip(self.addresses.clone());
        // A processor that is busy with 40 MiB in a debug build is not one that is down.
        let builder = DLedger::builder(id)
            .dir(self.dir(id))
            .append_timeout(TIMEOUT)
            .election_timeout(Duration::from_secs(4));
        set(builder.peers(peers)).open().expect("it opens")
    }
}

fn raised(builder: Builder) -> Builder {
    builder.max_entry_bytes(64 * MIB as u64)
}

/// The least of everything.
fn lowest(builder: Builder) -> Builder {
    builder.max_entry_bytes(KIB as u64).segment_bytes(64 * KIB as u64).max_in_flight_bytes(1)
}

/// Lets the node at `to` lead.
fn lead(nodes: &[DLedger], to: usize) {
    eventually("the leadership to go where it shall", || {
        let from = leader(nodes);
        from == to || nodes[from].transfer_leadership(nodes[to].status().id).is_ok()
    });
    eventually("it to lead", || nodes[to].status().role == Role::Leader);
}

/// A payload that no other one of these is like.
fn payload(number: u8, len: usize) -> Vec<u8> {
    let mut payload = vec![number; len];
    payload[len / 2] = !number;
    payload
}

/// Waits until all nodes hold these payloads, and nothing else.
fn all_hold(nodes: &[DLedger], payloads: &[Vec<u8>]) {
    for node in nodes {
        let id = node.status().id;
        eventually("all to hold everything", || node.committed().end >= payloads.len() as u64);
        let entries: Vec<_> = node.read(0).map(|entry| entry.expect("it can be read")).collect();
        assert_eq!(entries.len(), payloads.len(), "node {id}");
        let differs =
            entries.iter().zip(payloads).position(|(entry, payload)| **entry != **payload);
        assert_eq!(differs, None, "an entry of node {id} is not what was appended");
        let status = node.status();
        assert_eq!((status.fault, status.full, status.repair), (None, None, None), "node {id}");
    }
}

/// Changes a byte of the file in `dir` that holds a payload of `LARGE` bytes of `number`.
fn corruption(dir: &Path, number: u8) {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    for path in files.filter(|path| path.extension().is_some_and(|it| it == "seg")) {
        let mut bytes = fs::read(&path).unwrap();
        let run = vec![number; MIB];
        if let Some(at) =
            (0..bytes.len() / MIB).map(|n| n * MIB).find(|at| bytes[*at..].starts_with(&run))
        {
            bytes[at + 100] ^= 1;
            return fs::write(&path, bytes).unwrap();
        }
    }
    panic!("the payload is in no segment");
}

facts! {
    fn what_a_leader_was_allowed_to_append_all_take_and_a_lower_limit_leads_on() {
        let group = Group::new();
        let mut nodes = vec![group.open(1, raised), group.open(2, lowest)];
        lead(&nodes, 0);
        let mut payloads =
            vec![payload(1, 10), payload(2, LARGE), payload(3, 64 * MIB), payload(4, 10)];
        for payload in &payloads {
            nodes[0].append(payload).expect("it is within the limit of who leads");
        }
        // An atomic batch that is larger than one may be where it is sent to.
        let batch: Vec<Vec<u8>> = (5..15).map(|number| payload(number, 6 * MIB)).collect();
        nodes[0].append_batch(&batch).expect("it is within the limit of who leads");
        payloads.extend(batch);
        all_hold(&nodes, &payloads);

        lead(&nodes, 1);
        let refused = nodes[1].append(payload(20, KIB + 1)).unwrap_err();
        assert!(matches!(refused, AppendError::TooLarge { limit: 1024, .. }), "{refused}");
        payloads.push(payload(21, KIB));
        nodes[1].append(payload(21, KIB)).expect("it is within the limit of who leads");

        // The node that was away gets all of it from a leader that could not have appended it.
        nodes.push(group.open(3, lowest));
        payloads.push(payload(22, 10));
        nodes[leader(&nodes)].append(payload(22, 10)).unwrap();
        all_hold(&nodes, &payloads);
    }

    fn a_limit_that_was_lowered_on_all_starves_no_follower() {
        let group = Group::new();
        let mut payloads = vec![payload(1, LARGE), payload(2, 10), payload(3, LARGE)];
        let nodes = [group.open(1, raised), group.open(2, raised)];
        for payload in &payloads {
            nodes[leader(&nodes)].append(payload).unwrap();
        }
        nodes.iter().for_each(|node| node.shutdown().unwrap());
        drop(nodes);
        let nodes = [1, 2, 3].map(|id| group.open(id, |builder| builder));
        payloads.push(payload(4, 10));
        nodes[leader(&nodes)].append(payload(4, 10)).unwrap();
        all_hold(&nodes, &payloads);
    }

    fn a_large_batch_that_was_damaged_comes_back_from_peers_with_a_lower_limit() {
        let group = Group::new();
        let payloads = vec![payload(1, 10), payload(2, LARGE), payload(3, 10)];
        let nodes = [1, 2, 3].map(|id| group.open(id, raised));
        for payload in &payloads {
            nodes[leader(&nodes)].append(payload).unwrap();
        }
        all_hold(&nodes, &payloads);
        nodes.iter().for_each(|node| node.shutdown().unwrap());
        drop(nodes);
        corruption(&group.dir(3), 2);
        let nodes =
            [1, 2, 3].map(|id| group.open(id, |builder| lowest(builder).verify_on_open(id == 3)));
        eventually("the damage to be repaired", || {
            let status = nodes[2].status();
            assert_eq!(status.fault, None);
            status.repair.is_none()
        });
        all_hold(&nodes, &payloads);
    }

    fn many_large_appends_under_way_pass_a_follower_with_the_least_of_everything() {
        let group = Group::new();
        let set = |builder| raised(builder).max_in_flight_bytes(512 * MIB as u64);
        let nodes = [group.open(1, set), group.open(2, lowest), group.open(3, lowest)];
        lead(&nodes, 0);
        let payloads: Vec<Vec<u8>> = (1..=12).map(|number| payload(number, 17 * MIB)).collect();
        let under_way: Vec<_> =
            payloads.iter().map(|payload| nodes[0].append_async(payload)).collect();
        for future in under_way {
            future.wait().expect("it is within the limit of who leads");
        }
        all_hold(&nodes, &payloads);
    }
}
