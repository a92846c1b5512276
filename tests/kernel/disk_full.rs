//! Disks that run full, at every 4 KiB of remaining room: no signal, a typed error, nothing lost,
//! and it goes on when there is room again.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use dledger::storage::{
    Batch, HardState, LogPoint, LogReader, SegmentedLog, Storage, StorageError,
};
use dledger::transport::MemoryNetwork;
use dledger::{AppendError, DLedger, NodeId, OpenError, Role};

use crate::log_script::{batch_after, owner};
use crate::log_subject::log_in;
use crate::node_subject::node_in;
use crate::rng::Rng;
use crate::volume::{Volume, clear};

const STEP_BYTES: u64 = 4 << 10;

/// More than two segments and what goes with them, so that each thing that takes room meets the end
/// of it.
const ROOM_BYTES_MAX: u64 = 320 << 10;

/// How long a node may take to notice that there is room.
const TIMEOUT: Duration = Duration::from_secs(30);

#[test]
#[ignore = "needs root; see main.rs"]
fn a_log_on_tmpfs_takes_no_harm() {
    at_every_step(&Volume::tmpfs(1 << 20), fill_a_log);
}

#[test]
#[ignore = "needs root; see main.rs"]
fn a_log_on_ext4_takes_no_harm() {
    at_every_step(&Volume::ext4(16 << 20), fill_a_log);
}

#[test]
#[ignore = "needs root; see main.rs"]
fn a_node_on_tmpfs_goes_on_when_there_is_room() {
    at_every_step(&Volume::tmpfs(1 << 20), fill_a_node);
}

#[test]
#[ignore = "needs root; see main.rs"]
fn a_node_on_ext4_goes_on_when_there_is_room() {
    at_every_step(&Volume::ext4(16 << 20), fill_a_node);
}

#[test]
#[ignore = "needs root; see main.rs"]
fn a_node_is_opened_or_refused_but_never_broken_on_tmpfs() {
    at_every_step(&Volume::tmpfs(1 << 20), open_a_node);
}

#[test]
#[ignore = "needs root; see main.rs"]
fn a_node_is_opened_or_refused_but_never_broken_on_ext4() {
    at_every_step(&Volume::ext4(16 << 20), open_a_node);
}

#[test]
#[ignore = "needs root; see main.rs"]
fn a_node_alone_opens_to_be_read_on_a_full_tmpfs() {
    at_every_step(&Volume::tmpfs(1 << 20), open_alone);
}

#[test]
#[ignore = "needs root; see main.rs"]
fn a_node_alone_opens_to_be_read_on_a_full_ext4() {
    at_every_step(&Volume::ext4(16 << 20), open_alone);
}

#[test]
#[ignore = "needs root; see main.rs"]
fn a_group_goes_on_without_its_full_leader() {
    let volume = Volume::tmpfs(64 << 20);
    for room in (0..ROOM_BYTES_MAX).step_by(16 * STEP_BYTES as usize) {
        fill_a_leader(&volume, room);
    }
}

fn at_every_step(volume: &Volume, fill: impl Fn(&Volume, &Path, u64)) {
    let began = Instant::now();
    let rooms = (0..=ROOM_BYTES_MAX).step_by(STEP_BYTES as usize);
    let steps = rooms.clone().count();
    for room in rooms {
        let dir = volume.path().join("log");
        clear(&dir);
        fill(volume, &dir, room);
    }
    println!("{steps} steps of 4 KiB in {:.1} s", began.elapsed().as_secs_f64());
}

/// The log by itself.
fn fill_a_log(volume: &Volume, dir: &Path, room: u64) {
    let mut log = log_in(dir);
    log.open(&owner()).expect("there still is room");
    let mut rng = Rng::from_seed(room);
    let (mut last, mut batches) = (LogPoint::INITIAL, Vec::new());
    let mut ballast = Some(volume.fill_but(room));
    let mut refused = 0;
    for step in 0..200 {
        let more = some_batches(&last, &mut rng);
        match log.append(&more, last.raft_index) {
            Ok(()) => {
                last = more
                    .iter()
                    .fold(last, |point, batch| batch.point_after(&point).expect("they continue"));
                batches.extend(more);
            }
            Err(StorageError::Full { .. }) => refused += 1,
            Err(error) => panic!("with {room} bytes of room, step {step}: {error}"),
        }
        settle(&mut log)
            .unwrap_or_else(|error| panic!("with {room} bytes of room, step {step}: {error}"));
        if refused == 3 && ballast.is_some() {
            let full = HardState::new(5, Some(NodeId::from(2)), last.raft_index);
            log.save_hard_state(full)
                .and_then(|()| settle(&mut log))
                .expect("term and vote are saved on a full disk");
            compare(&*log.reader(), &batches);
            ballast = None;
        } else if ballast.is_none() {
            break;
        }
    }
    assert!(ballast.is_none(), "with {room} bytes of room the disk did not run full");
    assert_eq!(
        refused, 3,
        "with {room} bytes of room, it did not go on at once when there was room again"
    );
    drop(log);
    let mut log = log_in(dir);
    let recovered = log.open(&owner()).expect("a log that met a full disk opens");
    assert_eq!(
        (recovered.last, recovered.hard_state.term, recovered.hard_state.vote),
        (last, 5, Some(NodeId::from(2)))
    );
    compare(&*log.reader(), &batches);
}

fn some_batches(last: &LogPoint, rng: &mut Rng) -> Vec<Batch> {
    let (mut last, count) = (*last, 1 + rng.below(3));
    let one = |_| {
        let payloads: Vec<Vec<u8>> = (0..1 + rng.below(3)).map(|_| rng.payload()).collect();
        let batch = batch_after(&last, 5, &payloads);
        last = batch.point_after(&last).expect("it was made to continue");
        batch
    };
    (0..count).map(one).collect()
}

/// Syncs, and does what there is to do.
fn settle(log: &mut SegmentedLog) -> Result<(), StorageError> {
    log.begin_sync().wait()?;
    while let Some(background_task) = log.next_task() {
        background_task();
    }
    Ok(())
}

fn compare(reader: &dyn LogReader, wanted: &[Batch]) {
    let first = LogPoint::INITIAL.raft_index + 1;
    let found = reader
        .batches(first, first + wanted.len() as u64, u64::MAX)
        .expect("what was written can be read");
    assert!(found == wanted, "{} batches are there, {} were written", found.len(), wanted.len());
}

/// A node that is a group of its own.
fn fill_a_node(volume: &Volume, dir: &Path, room: u64) {
    let ledger = quick(dir).open().expect("there still is room");
    let mut appended = Appended::default();
    let ballast = volume.fill_but(room);
    loop {
        match appended.append(&ledger) {
            // The one that met the end of the room waits until somebody leads again; those after it
            // are told why.
            Ok(())
            | Err(
                AppendError::NotLeader { .. }
                | AppendError::TimedOut(_)
                | AppendError::OutcomeUnknown,
            ) => {}
            Err(AppendError::StorageFull { .. }) => break,
            Err(error) => panic!("with {room} bytes of room: {error}"),
        }
    }
    let status = ledger.status();
    assert!(
        status.full.is_some() && status.fault.is_none(),
        "with {room} bytes of room: {status:?}"
    );
    // It stays so while it tries again now and then, with a new term each time.
    let until = Instant::now() + Duration::from_millis(60);
    while Instant::now() < until {
        match appended.append(&ledger) {
            Ok(())
            | Err(
                AppendError::StorageFull { .. }
                | AppendError::NotLeader { .. }
                | AppendError::TimedOut(_)
                | AppendError::OutcomeUnknown,
            ) => {}
            Err(error) => panic!("with {room} bytes of room: {error}"),
        }
        appended.compare(&ledger);
    }
    drop(ballast);
    appended.append_until_acknowledged(&ledger);
    let status = ledger.status();
    assert!(
        status.full.is_none() && status.fault.is_none() && status.role == Role::Leader,
        "with {room} bytes of room: {status:?}"
    );
    ledger.shutdown().expect("a node that met a full disk closes in good order");
    let ledger = quick(dir).open().expect("a node that met a full disk opens");
    appended.compare(&ledger);
    assert!(ledger.status().term >= status.term);
    ledger.shutdown().expect("a sound node closes in good order");
}

/// A node that tries again soon.
fn quick(dir: &Path) -> dledger::Builder {
    let ms = Duration::from_millis;
    node_in(dir).heartbeat_interval(ms(2)).election_timeout(ms(10)).append_timeout(ms(500))
}

/// A node that finds the disk full when its directory is made, and when it is opened again. One of
/// three, which does not lead.
fn open_a_node(volume: &Volume, dir: &Path, room: u64) {
    let open = || {
        let transport = MemoryNetwork::new().transport(NodeId::from(1));
        quick(dir)
            .peers((1..=3_u64).map(|id| (id, format!("memory:{id}"))))
            .transport(transport)
            .open()
    };
    for _ in 0..2 {
        let ballast = volume.fill_but(room);
        match open() {
            Ok(ledger) => ledger
                .shutdown()
                .unwrap_or_else(|error| panic!("with {room} bytes of room: {error}")),
            Err(OpenError::Storage(StorageError::Full { .. })) => {}
            Err(error) => panic!("with {room} bytes of room: {error}"),
        }
        drop(ballast);
        let ledger = open()
            .unwrap_or_else(|error| panic!("after an opening with {room} bytes of room: {error}"));
        ledger.shutdown().expect("a sound node closes in good order");
    }
}

/// A node that is a group of its own, and finds the disk full when it is opened again: it opens all
/// the same, for it may be there to be purged.
fn open_alone(volume: &Volume, dir: &Path, room: u64) {
    let mut appended = Appended::default();
    let ledger = quick(dir).open().expect("there still is room");
    (0..3).for_each(|_| appended.append_until_acknowledged(&ledger));
    ledger.shutdown().expect("a sound node closes in good order");
    let ballast = volume.fill_but(room);
    let ledger =
        quick(dir).open().unwrap_or_else(|error| panic!("with {room} bytes of room: {error}"));
    let status = ledger.status();
    assert!(
        status.full.is_some() || status.role == Role::Leader,
        "with {room} bytes of room: {status:?}"
    );
    appended.compare(&ledger);
    drop(ballast);
    appended.append_until_acknowledged(&ledger);
    appended.compare(&ledger);
    ledger.shutdown().expect("a sound node closes in good order");
}

/// What was acknowledged, in the order of the ledger.
#[derive(Default)]
struct Appended {
    payloads: Vec<Vec<u8>>,
    refused: u64,
}

impl Appended {
    /// One append. Whatever the error, it is not there: the next one gets its index.
    fn append(&mut self, ledger: &DLedger) -> Result<(), AppendError> {
        let number = self.payloads.len() as u64;
        let payload = Rng::from_seed(number + (self.refused << 32)).payload();
        match ledger.append(&payload) {
            Ok(index) => {
                assert_eq!(index, number, "what was refused is not there");
                self.payloads.push(payload);
                Ok(())
            }
            Err(error) => {
                self.refused += 1;
                Err(error)
            }
        }
    }

    fn append_until_acknowledged(&mut self, ledger: &DLedger) {
        let deadline = Instant::now() + TIMEOUT;
        while let Err(error) = self.append(ledger) {
            assert!(Instant::now() < deadline, "it does not go on although there is room: {error}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn compare(&self, ledger: &DLedger) {
        let committed = ledger.committed();
        assert_eq!(committed, 0..self.payloads.len() as u64);
        for (entry, wanted) in ledger.read(0).zip(&self.payloads) {
            assert!(entry.expect("reads go on")[..] == wanted[..], "an entry has changed");
        }
    }
}

/// One of three, which leads when its disk runs full.
fn fill_a_leader(volume: &Volume, room: u64) {
    clear(&volume.path().join("log"));
    let others = Volume::tmpfs(64 << 20);
    let network = MemoryNetwork::new();
    let open = |id: u64| {
        let dir =
            if id == 1 { volume.path().join("log") } else { others.path().join(id.to_string()) };
        let builder = DLedger::builder(id)
            .dir(dir)
            .segment_bytes(64 << 10)
            .peers((1..=3_u64).map(|id| (id, format!("memory:{id}"))));
        let builder = builder
            .heartbeat_interval(Duration::from_millis(20))
            .election_timeout(Duration::from_millis(200));
        builder.transport(network.transport(NodeId::from(id))).open().expect("there still is room")
    };
    let nodes = [1, 2, 3].map(open);
    let full = &nodes[0];
    until("node 1 to lead", || {
        let leader = nodes.iter().find(|node| node.status().role == Role::Leader)?;
        let _ = leader.transfer_leadership(1);
        (full.status().role == Role::Leader).then_some(())
    });

    let mut acknowledged = Vec::new();
    let ballast = volume.fill_but(room);
    until("another to lead because node 1 is full", || {
        append_somewhere(&nodes, &mut acknowledged);
        let leads = |node: &&DLedger| node.status().role == Role::Leader;
        (full.status().full.is_some() && nodes[1..].iter().find(leads).is_some()).then_some(())
    });
    let before = acknowledged.len();
    until("the others to go on", || {
        append_somewhere(&nodes, &mut acknowledged);
        (acknowledged.len() >= before + 50).then_some(())
    });
    assert!(full.status().fault.is_none(), "{:?}", full.status());
    full.read(0).for_each(|entry| drop(entry.expect("reads go on")));

    drop(ballast);
    until("node 1 to come back", || {
        append_somewhere(&nodes, &mut acknowledged);
        thread::sleep(Duration::from_millis(2));
        let (ends, full) = (nodes.each_ref().map(|node| node.committed().end), full.status().full);
        (full.is_none()
            && ends[0] >= acknowledged.len() as u64
            && ends[0] + 10 > ends[1].max(ends[2]))
        .then_some(())
    });
    until("node 1 to lead again", || {
        nodes.iter().for_each(|node| drop(node.transfer_leadership(1)));
        (full.status().role == Role::Leader).then_some(())
    });
    for (index, payload) in &acknowledged {
        let entry = full
            .get(*index)
            .expect("it can be read")
            .expect("what was acknowledged is in the ledger");
        assert!(entry[..] == payload[..], "with {room} bytes of room, entry {index} has changed");
    }
    println!(
        "{room:6} bytes of room: {} entries acknowledged, {before} of them before node 1 stepped \
         back",
        acknowledged.len()
    );
    nodes.iter().for_each(|node| node.shutdown().expect("a sound node closes in good order"));
}

/// One append at the leader. Whether it was acknowledged or not, the ledger goes on.
fn append_somewhere(nodes: &[DLedger], acknowledged: &mut Vec<(u64, Vec<u8>)>) {
    let payload = Rng::from_seed(acknowledged.len() as u64).payload();
    let Some(leader) = nodes.iter().find(|node| node.status().role == Role::Leader) else {
        return thread::sleep(Duration::from_millis(1));
    };
    if let Ok(index) = leader.append(&payload) {
        acknowledged.push((index, payload));
    }
}

#[track_caller]
fn until(what: &str, mut probe: impl FnMut() -> Option<()>) {
    let deadline = Instant::now() + TIMEOUT;
    while probe().is_none() {
        assert!(Instant::now() < deadline, "waited {TIMEOUT:?} in vain for {what}");
    }
}
