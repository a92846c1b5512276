//! Log in memory: an obviously correct [`Storage`].
//!
//! It holds two states of the log: the live one, for readers, and the durable one, which survives a
//! crash. A queue holds the changes between them, which are not synced yet. One function,
//! [`LogState::apply`], applies each change to the live state, and later, at a sync and in the same
//! order, to the durable one. So the durable state is always an earlier live state. This proves
//! rules 1, 2 and 3 of the contract.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::hash::BuildHasher;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{
    Base, Batch, DirectoryIdentity, HardState, LogOwner, LogPoint, LogReader, PendingSync,
    Recovered, SegmentInfo, Storage, StorageError,
};
use crate::entry::NodeId;
use crate::primitives::{Mutex, RandomState, RwLock};
use crate::role::Membership;

/// A [`Storage`] that lasts as long as the process: for tests, and as the model for other storages.
///
/// It is a handle. A clone is another handle on the same memory, which can be opened once the first
/// was dropped:
///
/// ```
/// # use dledger::storage::MemoryLog;
/// let disk = MemoryLog::new();
/// let first = disk.clone(); // give this one to a node, drop the node,
/// drop(first);
/// let second = disk.clone(); // and give this one to the restarted node
/// # drop(second);
/// ```
///
/// Dropping an open handle keeps all changes, as the end of a process does;
/// [`crash`](MemoryLog::crash) drops the unsynced ones, as a power cut does.
pub struct MemoryLog {
    disk: Arc<Mutex<SharedMemory>>,
    live: Arc<RwLock<LogState>>,
    /// The incarnation that this handle opened. 0: it has not been opened.
    incarnation: u64,
    /// For how long the log had been open when this handle opened it.
    ran_before: Duration,
}

impl MemoryLog {
    /// A new, empty memory.
    pub fn new() -> MemoryLog {
        MemoryLog::on(Arc::default())
    }

    /// Cuts the power: unsynced changes are lost, and the handle that has the log open is poisoned.
    /// Its readers keep what they see. The log can be opened again at once.
    pub fn crash(&self) {
        let mut disk = self.disk.lock();
        disk.fail("the power was cut");
        disk.close();
    }

    /// The next sync fails, which is final for the handle that has the log open.
    pub fn fail_next_sync(&self) {
        self.disk.lock().next_sync_fails = true;
    }

    /// While it is full, the log rejects changes that need space, with [`StorageError::Full`].
    pub fn set_full(&self, full: bool) {
        self.disk.lock().full = full;
    }

    fn on(disk: Arc<Mutex<SharedMemory>>) -> MemoryLog {
        MemoryLog { disk, live: Arc::default(), incarnation: 0, ran_before: Duration::ZERO }
    }

    /// Makes one change: readers see it when this returns, and the next sync makes it durable.
    fn change(&mut self, change: Change) -> Result<(), StorageError> {
        let mut disk = self.disk.lock();
        disk.writable(self.incarnation)?;
        if disk.full && change.needs_space() {
            return Err(StorageError::Full { path: memory() });
        }
        self.live.write().apply(&change);
        disk.unsynced.push_back(change);
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
        self.ran_before = disk.ran;
        *self.live.write() = disk.durable.clone();
        Ok(disk.durable.recovered(identity))
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(Reader { live: self.live.clone() })
    }

    fn append(&mut self, batches: &[Batch], commit: u64) -> Result<(), StorageError> {
        // Checked before the lock for writing is taken, so that readers wait for a few moves of
        // pointers only.
        let ran = self.disk.lock().ran;
        let records = self.live.read().check_contiguous(batches, ran)?;
        self.change(Change::Append { records, commit })
    }

    fn save_hard_state(&mut self, hard_state: HardState) -> Result<(), StorageError> {
        self.change(Change::Save(hard_state))
    }

    fn reset(&mut self, base: &Base) -> Result<(), StorageError> {
        self.change(Change::Reset(base.clone()))
    }

    fn purge(&mut self, index: u64, commit: u64) -> Result<(), StorageError> {
        self.change(Change::Purge { index, commit })
    }

    fn pass_time(&mut self, open_for: Duration, _unix_ms: u64) {
        let mut disk = self.disk.lock();
        disk.ran = disk.ran.max(self.ran_before + open_for);
    }

    fn segments(&self) -> Vec<SegmentInfo> {
        let ran = self.disk.lock().ran;
        self.live.read().segments(ran)
    }

    fn save_peer(&mut self, peer: NodeId, directory: u128) -> Result<(), StorageError> {
        self.change(Change::SavePeer(peer, directory))
    }

    fn set_complete(&mut self, complete: bool) -> Result<DirectoryIdentity, StorageError> {
        self.change(Change::SetComplete((!complete).then(draw_directory)))?;
        let identity =
            self.disk.lock().owner.as_ref().map(|(_, identity)| *identity).expect("it is open");
        Ok(self.live.read().identity(identity))
    }

    fn save_group_uid(&mut self, uid: u128) -> Result<(), StorageError> {
        self.disk.lock().writable(self.incarnation)?;
        let known = self.live.read().group_uid;
        if <dyn Storage>::check_group_uid(known, uid)? {
            self.change(Change::SaveGroupUid(uid))
        } else {
            Ok(())
        }
    }

    fn begin_sync(&mut self) -> Box<dyn PendingSync> {
        let disk = self.disk.lock();
        Box::new(MemorySync {
            disk: self.disk.clone(),
            incarnation: self.incarnation,
            until: disk.newest_change(),
        })
    }
}

/// What each batch counts beyond its body, in bytes.
const RECORD_OVERHEAD: u64 = 64;

/// What counts as a segment for retention, in bytes.
const SEGMENT_BYTES: u64 = 1 << 10;

/// The memory that all handles share.
#[derive(Default)]
struct SharedMemory {
    owner: Option<(LogOwner, DirectoryIdentity)>,
    durable: LogState,
    /// Changes of the live state that the durable one lacks, oldest first.
    unsynced: VecDeque<Change>,
    /// Number of synced changes, since the beginning.
    synced: u64,
    /// The incarnation that has the log open.
    open: Option<u64>,
    /// Poisoned incarnations, with the reason.
    failed: HashMap<u64, &'static str>,
    next_sync_fails: bool,
    full: bool,
    /// For how long the log was open, over all openings.
    ran: Duration,
}

impl SharedMemory {
    /// Compares `owner` with the one of the log, or makes it the owner of a new log, and counts the
    /// opening.
    fn check_owner(&mut self, owner: &LogOwner) -> Result<DirectoryIdentity, StorageError> {
        let Some((known, identity)) = &mut self.owner else {
            let identity =
                DirectoryIdentity { directory: draw_directory(), incarnation: 1, complete: true };
            self.durable = LogState::new(owner.membership.clone(), owner.first_position);
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
    fn newest_change(&self) -> u64 {
        self.synced + self.unsynced.len() as u64
    }

    /// Makes every change up to number `until` durable.
    fn make_durable(&mut self, until: u64) {
        while self.synced < until
            && let Some(change) = self.unsynced.pop_front()
        {
            self.durable.apply(&change);
            self.synced += 1;
        }
    }

    /// Poisons the incarnation that has the log open. Its unsynced changes are lost.
    fn fail(&mut self, reason: &'static str) {
        if let Some(incarnation) = self.open {
            self.failed.insert(incarnation, reason);
        }
        self.synced = self.newest_change();
        self.unsynced.clear();
    }

    fn close(&mut self) {
        self.make_durable(self.newest_change());
        self.open = None;
    }
}

/// One batch, and the log point after it.
#[derive(Clone)]
struct Record {
    batch: Batch,
    point: LogPoint,
    /// For how long the log had been open when it was written.
    written: Duration,
}

/// A change of the log. It cannot fail: it is checked before.
enum Change {
    Append { records: Vec<Record>, commit: u64 },
    Save(HardState),
    Reset(Base),
    Purge { index: u64, commit: u64 },
    SavePeer(NodeId, u128),
    SetComplete(Option<u128>),
    SaveGroupUid(u128),
}

impl Change {
    fn needs_space(&self) -> bool {
        !matches!(self, Change::Purge { .. })
    }
}

/// Full state of a storage.
#[derive(Clone)]
struct LogState {
    base: Base,
    /// The batch with raft index `base.point.raft_index + 1 + i` is at `i`.
    records: Vec<Record>,
    hard_state: HardState,
    peers: BTreeMap<NodeId, u128>,
    /// Set once the log was marked as incomplete: its directory id since then, and whether it is
    /// complete again.
    renewed: Option<(u128, bool)>,
    /// 0: none was saved.
    group_uid: u128,
}

impl LogState {
    fn new(membership: Membership, first_position: u64) -> LogState {
        let hard_state = HardState {
            term: LogPoint::INITIAL.term,
            vote: None,
            commit: LogPoint::INITIAL.raft_index,
        };
        LogState {
            base: Base { point: LogPoint::initial_at(first_position), membership },
            records: Vec::new(),
            hard_state,
            peers: BTreeMap::new(),
            renewed: None,
            group_uid: 0,
        }
    }

    fn last(&self) -> LogPoint {
        self.records.last().map_or(self.base.point, |record| record.point)
    }

    fn identity(&self, original: DirectoryIdentity) -> DirectoryIdentity {
        self.renewed.map_or(original, |(directory, complete)| DirectoryIdentity {
            directory,
            complete,
            ..original
        })
    }

    /// The commit hint is limited to the log: a crash may have lost the batches that it names.
    fn recovered(&self, identity: DirectoryIdentity) -> Recovered {
        let last = self.last();
        let commit = self.hard_state.commit.clamp(self.base.point.raft_index, last.raft_index);
        Recovered {
            identity: self.identity(identity),
            hard_state: HardState { commit, ..self.hard_state },
            base: self.base.clone(),
            last,
            peers: self.peers.iter().map(|(&peer, &directory)| (peer, directory)).collect(),
            group_uid: self.group_uid,
            corruption: Vec::new(),
        }
    }

    /// Computes the log point after each of `batches`. The first may have any raft index of the
    /// log.
    fn check_contiguous(
        &self,
        batches: &[Batch],
        written: Duration,
    ) -> Result<Vec<Record>, StorageError> {
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
            records.push(Record { batch: batch.clone(), point, written });
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
            Change::SavePeer(peer, directory) => {
                self.peers.insert(*peer, *directory);
            }
            Change::SaveGroupUid(uid) => self.group_uid = *uid,
            Change::SetComplete(None) => {
                self.renewed = self.renewed.map(|(directory, _)| (directory, true))
            }
            Change::SetComplete(Some(directory)) => {
                self.renewed = Some((*directory, false));
                self.peers.clear();
            }
        }
    }

    /// Each batch counts as a segment of its own: all that are committed and hold no entry from
    /// `index` on are purged.
    fn purge(&mut self, index: u64, commit: u64) {
        let purged = self.records.partition_point(|record| {
            record.point.next_index <= index && record.point.raft_index <= commit
        });
        if let Some(record) = self.records.drain(..purged).next_back() {
            self.base.point = record.point;
        }
    }

    /// Batches of about [`SEGMENT_BYTES`] together count as a segment, closed with the last of
    /// them, so that there are not too many. All of them may be purged.
    fn segments(&self, ran: Duration) -> Vec<SegmentInfo> {
        let mut segments: Vec<SegmentInfo> = Vec::new();
        let mut before = self.base.point;
        for Record { batch, point, written } in &self.records {
            let bytes = RECORD_OVERHEAD + batch.body().len() as u64;
            let fits = |last: &&mut SegmentInfo| last.bytes + bytes <= SEGMENT_BYTES;
            let mut added = SegmentInfo {
                age: ran.saturating_sub(*written),
                ..SegmentInfo::new(&before, point, bytes)
            };
            match segments.last_mut().filter(fits) {
                Some(last) => {
                    (added.first_index, added.first_raft_index) =
                        (last.first_index, last.first_raft_index);
                    added.bytes += last.bytes;
                    *last = added;
                }
                None => segments.push(added),
            }
            before = *point;
        }
        segments
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

/// The state of a handle that was not opened.
impl Default for LogState {
    fn default() -> Self {
        LogState::new(Membership::default(), 0)
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

    fn batch_at(&self, position: u64) -> Result<Option<Batch>, StorageError> {
        let live = self.live.read();
        if position < live.base.point.next_position {
            return Err(live.purged());
        }
        let at = live.records.partition_point(|record| record.point.next_position <= position);
        Ok(live.records.get(at).map(|record| record.batch.clone()))
    }

    fn first_index_since(&self, timestamp: u64) -> Result<Option<u64>, StorageError> {
        let live = self.live.read();
        let since = live.records.partition_point(|record| record.point.timestamp < timestamp);
        Ok(live.records[since..].iter().find_map(|record| record.batch.first_index()))
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

/// The path in errors.
fn memory() -> PathBuf {
    PathBuf::from("(memory)")
}

/// The standard library has no other random numbers than the keys of a hash map.
fn draw_directory() -> u128 {
    let draw = || u128::from(RandomState::new().hash_one("directory"));
    draw() << 64 | draw()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::OpenBatch;

    fn owner() -> LogOwner {
        LogOwner::new("g", 1, 7, Membership::of_voters([NodeId::from(1)]))
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
