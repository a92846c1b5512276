//! A log in memory: the obviously correct model of a [`Storage`].
//!
//! It holds the log twice. The live image is what readers see; the durable image is what a crash
//! leaves behind; between them stands a journal of the changes that were taken and not yet synced.
//! One function, [`LogState::apply`], makes a change, first to the live image and, when a sync is
//! waited for, in the same order to the durable one. So the durable image is at every moment one
//! that the live image has been, and that is the whole argument for rules 1, 2 and 3 of the
//! contract.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::hash::BuildHasher;
use std::path::PathBuf;
use std::sync::Arc;

use super::{
    Base, Batch, DirectoryIdentity, HardState, LogOwner, LogPoint, LogReader, PendingSync,
    Recovered, Storage, StorageError,
};
use crate::entry::NodeId;
use crate::primitives::{Mutex, RandomState, RwLock};
use crate::role::Membership;

/// A [`Storage`] that lives as long as the process: for tests, and as the model that other storages
/// are compared with.
///
/// It is a handle. A clone is another handle on the same memory, which can be opened once the
/// former one was dropped:
///
/// ```
/// # use dledger::storage::MemoryLog;
/// let disk = MemoryLog::new();
/// let first = disk.clone(); // give this one to a node, drop the node,
/// drop(first);
/// let second = disk.clone(); // and give this one to the node that comes back
/// # drop(second);
/// ```
///
/// Dropping an open handle keeps everything, as the death of a process does;
/// [`crash`](MemoryLog::crash) forgets what was not synced, as the loss of power does.
pub struct MemoryLog {
    disk: Arc<Mutex<SharedMemory>>,
    live: Arc<RwLock<LogState>>,
    /// The incarnation that this handle opened. 0: it has not been opened.
    incarnation: u64,
}

impl MemoryLog {
    /// A new, empty memory.
    pub fn new() -> MemoryLog {
        MemoryLog::on(Arc::default())
    }

    /// Cuts the power: what was not synced is forgotten, and the handle that has the log open takes
    /// no more. Its readers go on with what they saw. The log can be opened again at once.
    pub fn crash(&self) {
        let mut disk = self.disk.lock();
        disk.fail("the power was cut");
        disk.close();
    }

    /// Makes the next sync fail, which is final for the handle that has the log open.
    pub fn fail_next_sync(&self) {
        self.disk.lock().next_sync_fails = true;
    }

    /// While it is full the log refuses whatever would take room, with [`StorageError::Full`].
    pub fn set_full(&self, full: bool) {
        self.disk.lock().full = full;
    }

    fn on(disk: Arc<Mutex<SharedMemory>>) -> MemoryLog {
        MemoryLog { disk, live: Arc::default(), incarnation: 0 }
    }

    /// Takes one change: readers see it when this returns, and the next sync makes it durable.
    fn take(&mut self, change: Change) -> Result<(), StorageError> {
        let mut disk = self.disk.lock();
        disk.writable(self.incarnation)?;
        if disk.full && change.takes_room() {
            return Err(StorageError::Full { path: memory() });
        }
        self.live.write().apply(&change);
        disk.journal.push_back(change);
        Ok(())
    }
}

impl Default for MemoryLog {
    fn default() -> Self {
        MemoryLog::new()
    }
}

/// Another handle on the same memory, not opened yet.
impl Clone for MemoryLog {
    fn clone(&self) -> Self {
        MemoryLog::on(self.disk.clone())
    }
}

impl Drop for MemoryLog {
    fn drop(&mut self) {
        let mut disk = self.disk.lock();
        if disk.open == Some(self.incarnation) {
            disk.close();
        }
    }
}

impl fmt::Debug for MemoryLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let live = self.live.read();
        f.debug_struct("MemoryLog")
            .field("incarnation", &self.incarnation)
            .field("base", &live.base.point)
            .field("last", &live.last())
            .finish()
    }
}

impl Storage for MemoryLog {
    fn open(&mut self, owner: &LogOwner) -> Result<Recovered, StorageError> {
        let mut disk = self.disk.lock();
        if disk.open.is_some() {
            return Err(StorageError::InUse { path: memory() });
        }
        let identity = disk.check_owner(owner)?;
        disk.open = Some(identity.incarnation);
        self.incarnation = identity.incarnation;
        *self.live.write() = disk.durable.clone();
        Ok(disk.durable.recovered(identity))
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(Reader { live: self.live.clone() })
    }

    fn append(&mut self, batches: &[Batch], commit: u64) -> Result<(), StorageError> {
        // Lined up before anything is locked for writing, so that readers are kept out for a few
        // moves of pointers only.
        let records = self.live.read().check_contiguous(batches)?;
        self.take(Change::Append { records, commit })
    }

    fn save_hard_state(&mut self, hard_state: HardState) -> Result<(), StorageError> {
        self.take(Change::Save(hard_state))
    }

    fn reset(&mut self, base: &Base) -> Result<(), StorageError> {
        self.take(Change::Reset(base.clone()))
    }

    fn purge(&mut self, index: u64, commit: u64) -> Result<(), StorageError> {
        self.take(Change::Purge { index, commit })
    }

    fn save_peer(&mut self, peer: NodeId, directory: u128) -> Result<(), StorageError> {
        self.take(Change::Remember(peer, directory))
    }

    fn set_complete(&mut self, complete: bool) -> Result<DirectoryIdentity, StorageError> {
        self.take(Change::SetComplete((!complete).then(draw_directory)))?;
        let identity =
            self.disk.lock().owner.as_ref().map(|(_, identity)| *identity).expect("it is open");
        Ok(self.live.read().known_as(identity))
    }

    fn begin_sync(&mut self) -> Box<dyn PendingSync> {
        let disk = self.disk.lock();
        Box::new(MemorySync {
            disk: self.disk.clone(),
            incarnation: self.incarnation,
            until: disk.taken(),
        })
    }
}

/// What all handles share.
#[derive(Default)]
struct SharedMemory {
    owner: Option<(LogOwner, DirectoryIdentity)>,
    durable: LogState,
    /// Changes that the live image has seen and the durable one has not, oldest first.
    journal: VecDeque<Change>,
    /// How many changes have left the journal, ever.
    settled: u64,
    /// The incarnation that has the log open.
    open: Option<u64>,
    /// Incarnations that came to a bad end, and why.
    failed: HashMap<u64, &'static str>,
    next_sync_fails: bool,
    full: bool,
}

impl SharedMemory {
    /// Compares `owner` with the owner, or makes it the owner of a new log, and counts the opening.
    fn check_owner(&mut self, owner: &LogOwner) -> Result<DirectoryIdentity, StorageError> {
        let Some((known, identity)) = &mut self.owner else {
            let identity =
                DirectoryIdentity { directory: draw_directory(), incarnation: 1, complete: true };
            self.durable = LogState::new(owner.membership.clone());
            self.owner = Some((owner.clone(), identity));
            return Ok(identity);
        };
        if known != owner {
            return Err(StorageError::Mismatch {
                path: memory(),
                expected: owner.to_string(),
                found: known.to_string(),
            });
        }
        identity.incarnation += 1;
        Ok(*identity)
    }

    fn writable(&self, incarnation: u64) -> Result<(), StorageError> {
        if let Some(reason) = self.failed.get(&incarnation) {
            return Err(StorageError::Poisoned(reason.to_string()));
        }
        if self.open != Some(incarnation) {
            return Err(StorageError::Poisoned("it was not opened".into()));
        }
        Ok(())
    }

    /// The number of the newest change.
    fn taken(&self) -> u64 {
        self.settled + self.journal.len() as u64
    }

    /// Makes every change up to number `until` durable.
    fn make_durable(&mut self, until: u64) {
        while self.settled < until
            && let Some(change) = self.journal.pop_front()
        {
            self.durable.apply(&change);
            self.settled += 1;
        }
    }

    /// Poisons the incarnation that has the log open. What it did not sync is lost: nobody can say
    /// what became of it.
    fn fail(&mut self, reason: &'static str) {
        if let Some(incarnation) = self.open {
            self.failed.insert(incarnation, reason);
        }
        self.settled = self.taken();
        self.journal.clear();
    }

    fn close(&mut self) {
        self.make_durable(self.taken());
        self.open = None;
    }
}

/// One batch, and the mark after it.
#[derive(Clone)]
struct Record {
    batch: Batch,
    point: LogPoint,
}

/// Something that was done to the log. It cannot fail any more: what can is found out before.
enum Change {
    Append { records: Vec<Record>, commit: u64 },
    Save(HardState),
    Reset(Base),
    Purge { index: u64, commit: u64 },
    Remember(NodeId, u128),
    SetComplete(Option<u128>),
}

impl Change {
    fn takes_room(&self) -> bool {
        !matches!(self, Change::Purge { .. })
    }
}

/// All that a storage remembers, at one moment.
#[derive(Clone)]
struct LogState {
    base: Base,
    /// The batch with raft index `base.mark.raft_index + 1 + i` stands at `i`.
    records: Vec<Record>,
    hard_state: HardState,
    peers: BTreeMap<NodeId, u128>,
    /// Once it was marked as incomplete: what it is known as since, and whether it is complete
    /// again.
    renounced: Option<(u128, bool)>,
}

impl LogState {
    fn new(membership: Membership) -> LogState {
        let hard_state = HardState {
            term: LogPoint::INITIAL.term,
            vote: None,
            commit: LogPoint::INITIAL.raft_index,
        };
        LogState {
            base: Base { point: LogPoint::INITIAL, membership },
            records: Vec::new(),
            hard_state,
            peers: BTreeMap::new(),
            renounced: None,
        }
    }

    fn last(&self) -> LogPoint {
        self.records.last().map_or(self.base.point, |record| record.point)
    }

    fn known_as(&self, made_as: DirectoryIdentity) -> DirectoryIdentity {
        self.renounced.map_or(made_as, |(directory, complete)| DirectoryIdentity {
            directory,
            complete,
            ..made_as
        })
    }

    /// The commit hint comes back within the log: a crash may have taken the batches that it spoke
    /// of.
    fn recovered(&self, identity: DirectoryIdentity) -> Recovered {
        let last = self.last();
        let commit = self.hard_state.commit.clamp(self.base.point.raft_index, last.raft_index);
        Recovered {
            identity: self.known_as(identity),
            hard_state: HardState { commit, ..self.hard_state },
            base: self.base.clone(),
            last,
            peers: self.peers.iter().map(|(&peer, &directory)| (peer, directory)).collect(),
            corruption: Vec::new(),
        }
    }

    /// Finds the mark after each of `batches`, the first of which may stand anywhere in the log.
    fn check_contiguous(&self, batches: &[Batch]) -> Result<Vec<Record>, StorageError> {
        let Some(first) = batches.first() else { return Ok(Vec::new()) };
        let before = first
            .raft_index()
            .checked_sub(1)
            .and_then(|raft_index| self.point(raft_index).ok().flatten());
        let mut point = before.ok_or_else(|| {
            let (base, last) = (self.base.point.raft_index, self.last().raft_index);
            StorageError::NotContiguous(format!(
                "raft index {} does not follow one of {base} to {last}",
                first.raft_index()
            ))
        })?;
        let mut records = Vec::with_capacity(batches.len());
        for batch in batches {
            point = batch
                .point_after(&point)
                .map_err(|error| StorageError::NotContiguous(format!("{batch:?}: {error}")))?;
            records.push(Record { batch: batch.clone(), point });
        }
        Ok(records)
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Append { records, commit } => {
                if let Some(first) = records.first() {
                    self.records.truncate(
                        (first.point.raft_index - self.base.point.raft_index - 1) as usize,
                    );
                    self.records.extend_from_slice(records);
                }
                self.hard_state.commit = self.hard_state.commit.max(*commit);
            }
            Change::Save(hard_state) => self.hard_state = *hard_state,
            Change::Reset(base) => {
                self.base = base.clone();
                self.records.clear();
            }
            Change::Purge { index, commit } => self.purge(*index, *commit),
            Change::Remember(peer, directory) => {
                self.peers.insert(*peer, *directory);
            }
            Change::SetComplete(None) => {
                self.renounced = self.renounced.map(|(directory, _)| (directory, true))
            }
            Change::SetComplete(Some(directory)) => {
                self.renounced = Some((*directory, false));
                self.peers.clear();
            }
        }
    }

    /// Every batch is a segment of its own here: all are given up that are committed and hold no
    /// entry from `index` on.
    fn purge(&mut self, index: u64, commit: u64) {
        let gone = self.records.partition_point(|record| {
            record.point.next_index <= index && record.point.raft_index <= commit
        });
        if let Some(record) = self.records.drain(..gone).next_back() {
            self.base.point = record.point;
        }
    }

    fn purged(&self) -> StorageError {
        StorageError::Purged { first: self.base.point.next_index }
    }

    fn point(&self, raft_index: u64) -> Result<Option<LogPoint>, StorageError> {
        match raft_index.checked_sub(self.base.point.raft_index) {
            None => Err(self.purged()),
            Some(0) => Ok(Some(self.base.point)),
            Some(n) => Ok(self.records.get(n as usize - 1).map(|record| record.point)),
        }
    }
}

/// Nothing yet: what a handle shows before it is opened.
impl Default for LogState {
    fn default() -> Self {
        LogState::new(Membership::default())
    }
}

struct Reader {
    live: Arc<RwLock<LogState>>,
}

impl LogReader for Reader {
    fn base(&self) -> Base {
        self.live.read().base.clone()
    }

    fn batch_containing(&self, index: u64) -> Result<Option<Batch>, StorageError> {
        let live = self.live.read();
        if index < live.base.point.next_index {
            return Err(live.purged());
        }
        let at = live.records.partition_point(|record| record.point.next_index <= index);
        Ok(live.records.get(at).map(|record| record.batch.clone()))
    }

    fn batches(&self, from: u64, to: u64, bytes_max: u64) -> Result<Vec<Batch>, StorageError> {
        let live = self.live.read();
        let Some(skip) = from.checked_sub(live.base.point.raft_index + 1) else {
            return Err(live.purged());
        };
        let mut bytes = 0;
        let mut batches = Vec::new();
        for record in live
            .records
            .iter()
            .skip(skip as usize)
            .take_while(|record| record.point.raft_index < to)
        {
            bytes += record.batch.body().len() as u64;
            if !batches.is_empty() && bytes > bytes_max {
                break;
            }
            batches.push(record.batch.clone());
        }
        Ok(batches)
    }

    fn point(&self, raft_index: u64) -> Result<Option<LogPoint>, StorageError> {
        self.live.read().point(raft_index)
    }
}

struct MemorySync {
    disk: Arc<Mutex<SharedMemory>>,
    incarnation: u64,
    /// The number of the newest change that it covers.
    until: u64,
}

impl PendingSync for MemorySync {
    fn wait(self: Box<Self>) -> Result<(), StorageError> {
        let mut disk = self.disk.lock();
        if std::mem::take(&mut disk.next_sync_fails) {
            disk.fail("a sync failed");
        }
        if let Some(reason) = disk.failed.get(&self.incarnation) {
            return Err(StorageError::Poisoned(reason.to_string()));
        }
        disk.make_durable(self.until);
        Ok(())
    }
}

/// What errors give as the place.
fn memory() -> PathBuf {
    PathBuf::from("(memory)")
}

/// The keys of a hash map are the only random numbers that the standard library hands out.
fn draw_directory() -> u128 {
    let draw = || u128::from(RandomState::new().hash_one("directory"));
    draw() << 64 | draw()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::OpenBatch;

    fn owner() -> LogOwner {
        LogOwner {
            group: "g".into(),
            node: NodeId::from(1),
            cluster: 7,
            membership: Membership::of_voters([NodeId::from(1)]),
        }
    }

    fn entry_after(point: &LogPoint, payload: &[u8]) -> Batch {
        let mut open = OpenBatch::with_capacity(payload.len());
        open.push(payload, crc32fast::hash(payload));
        Batch::new(point.raft_index + 1, 1, open.close(point.next_index, point.next_position, 0))
            .unwrap()
    }

    #[test]
    fn a_crash_forgets_what_was_not_synced_and_a_drop_forgets_nothing() {
        let disk = MemoryLog::new();
        let mut first = disk.clone();
        let start = first.open(&owner()).unwrap().last;
        let one = entry_after(&start, b"one");
        let two = entry_after(&one.point_after(&start).unwrap(), b"two");
        first.append(&[one], 1).unwrap();
        first.begin_sync().wait().unwrap();
        first.append(std::slice::from_ref(&two), 1).unwrap();
        let reader = first.reader();
        disk.crash();
        assert!(matches!(first.append(&[], 1), Err(StorageError::Poisoned(_))));
        assert_eq!(reader.batch_containing(1).unwrap(), Some(two.clone()), "readers go on");

        let mut second = disk.clone();
        let recovered = second.open(&owner()).unwrap();
        assert_eq!((recovered.last.next_index, recovered.identity.incarnation), (1, 2));
        second.append(&[two], 1).unwrap();
        drop(second);
        assert_eq!(disk.clone().open(&owner()).unwrap().last.next_index, 2);
    }

    #[test]
    fn a_sync_covers_what_was_taken_before_it_and_nothing_later() {
        let disk = MemoryLog::new();
        let mut log = disk.clone();
        let start = log.open(&owner()).unwrap().last;
        let one = entry_after(&start, b"one");
        let two = entry_after(&one.point_after(&start).unwrap(), b"two");
        log.append(&[one], 1).unwrap();
        let sync = log.begin_sync();
        log.append(&[two], 1).unwrap();
        sync.wait().unwrap();
        disk.crash();
        assert_eq!(disk.clone().open(&owner()).unwrap().last.next_index, 1);
    }
}
