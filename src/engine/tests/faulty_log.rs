//! A log that fails on demand.

use super::*;

/// What a log does at its next write of a kind.
#[derive(Clone, Copy, Default)]
pub(super) struct Refusals {
    pub(super) append: bool,
    pub(super) save: bool,
    pub(super) remember: bool,
    pub(super) set_complete: bool,
    pub(super) purge: bool,
    pub(super) repair: bool,
    /// Not a refusal: it wants a sync ahead of its time.
    pub(super) is_behind: bool,
    /// The disk has no room; or it takes no write at all.
    pub(super) is_full: bool,
    /// Not a refusal: how full the disk is said to be.
    pub(super) disk: Option<DiskUse>,
}

/// A log in memory that refuses calls on demand.
pub(super) struct Log {
    pub(super) memory: MemoryLog,
    pub(super) reads: Arc<FailingReader>,
    pub(super) refusals: Arc<Mutex<Refusals>>,
    /// What is damaged. Without batches of peers only that is repaired which is no batch.
    pub(super) corruption: Vec<Corruption>,
    pub(super) opened: Option<Recovered>,
}

impl Log {
    /// Refuses once if that is wanted.
    fn take(&self, wanted: impl Fn(&mut Refusals) -> &mut bool) -> Result<(), StorageError> {
        let mut refusals = self.refusals.lock();
        let is_full = refusals.is_full;
        if !std::mem::take(wanted(&mut refusals)) {
            return Ok(());
        }
        let path = "(memory)".into();
        Err(if is_full {
            StorageError::Full { path }
        } else {
            StorageError::Poisoned("as the test wants it".to_owned())
        })
    }
}

impl Storage for Log {
    fn open(&mut self, owner: &LogOwner) -> Result<Recovered, StorageError> {
        let recovered = self.memory.open(owner)?;
        self.opened = Some(recovered.clone());
        Ok(Recovered { corruption: self.corruption.clone(), ..recovered })
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.reads.clone()
    }

    fn append(&mut self, batches: &[Batch], commit: u64) -> Result<(), StorageError> {
        self.take(|refusals| &mut refusals.append)?;
        self.memory.append(batches, commit)
    }

    fn save_hard_state(&mut self, hard_state: HardState) -> Result<(), StorageError> {
        self.take(|refusals| &mut refusals.save)?;
        self.memory.save_hard_state(hard_state)
    }

    fn reset(&mut self, base: &Base) -> Result<(), StorageError> {
        self.memory.reset(base)
    }

    fn purge(&mut self, index: u64, commit: u64) -> Result<(), StorageError> {
        self.take(|refusals| &mut refusals.purge)?;
        self.memory.purge(index, commit)
    }

    fn pass_time(&mut self, open_for: Duration, unix_ms: u64) {
        self.memory.pass_time(open_for, unix_ms);
    }

    fn segments(&self) -> Vec<SegmentInfo> {
        self.memory.segments()
    }

    fn close_segment(&mut self) -> Result<(), StorageError> {
        self.memory.close_segment()
    }

    fn disk_probe(&self) -> Option<DiskProbe> {
        let disk = self.refusals.clone();
        Some(Arc::new(move || Ok(disk.lock().disk.unwrap_or(DiskUse::new(0, 1)))))
    }

    fn save_peer(&mut self, peer: NodeId, directory: u128) -> Result<(), StorageError> {
        self.take(|refusals| &mut refusals.remember)?;
        self.memory.save_peer(peer, directory)
    }

    fn set_complete(&mut self, complete: bool) -> Result<DirectoryIdentity, StorageError> {
        self.take(|refusals| &mut refusals.set_complete)?;
        self.memory.set_complete(complete)
    }

    fn begin_sync(&mut self) -> Box<dyn PendingSync> {
        self.memory.begin_sync()
    }

    fn is_behind(&self) -> bool {
        self.refusals.lock().is_behind
    }

    /// Tells what was asked for.
    fn begin_backup(&mut self, commit: u64) -> Result<Box<dyn PendingBackup>, BackupError> {
        Err(StorageError::NotContiguous(format!("up to {commit}")).into())
    }

    fn repair(&mut self, repair_action: RepairAction<'_>) -> Result<Recovered, StorageError> {
        self.take(|refusals| &mut refusals.repair)?;
        let Some(opened) = self.opened.clone().filter(|_| !self.corruption.is_empty()) else {
            return Err(StorageError::InvalidState("nothing is wrong with it".to_owned()));
        };
        let fills = matches!(repair_action, RepairAction::Fill(batches) if !batches.is_empty());
        self.corruption.retain(|corruption| !corruption.raft_indexes.is_empty() && !fills);
        Ok(Recovered { corruption: self.corruption.clone(), ..opened })
    }
}
