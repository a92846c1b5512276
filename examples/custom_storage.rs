//! A storage of your own, and the conformance suite for it: `cargo run --example custom_storage`.
//!
//! A toy that holds everything in one list. A real one has a disk, and with it syncs and purges.

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use dledger::storage::{
    Base, Batch, DirectoryIdentity, HardState, LogOwner, LogPoint, LogReader, PendingSync,
    Recovered, Storage, StorageError,
};
use dledger::{Membership, NodeId, storage::conformance};
use parking_lot::Mutex;

fn main() {
    let not_staged =
        conformance::run(&mut Handle { notebook: new_notebook(), alive: Arc::default() });
    println!("left out, as there is no disk that can fail: {}", not_staged.join(", "));
    println!("conformance: ok");
}

/// State of one node. It outlives the handles, as a file would.
struct Notebook(Mutex<Pages>);

struct Pages {
    owner: Option<LogOwner>,
    /// Lives as long as the handle that has the notebook open.
    user: Weak<()>,
    kept: Recovered,
    /// Each batch, and the log point after it.
    log: Vec<(Batch, LogPoint)>,
}

fn new_notebook() -> Arc<Notebook> {
    let identity = DirectoryIdentity::new(RandomState::new().hash_one("notebook").into(), 0, true);
    let base = Base::new(LogPoint::INITIAL, Membership::default());
    let kept = Recovered::new(identity, HardState::new(1, None, 1), base, LogPoint::INITIAL);
    Arc::new(Notebook(Mutex::new(Pages { owner: None, user: Weak::new(), kept, log: Vec::new() })))
}

struct Handle {
    notebook: Arc<Notebook>,
    alive: Arc<()>,
}

impl Storage for Handle {
    fn open(&mut self, owner: &LogOwner) -> Result<Recovered, StorageError> {
        let (mut pages, path) = (self.notebook.0.lock(), PathBuf::from("(notebook)"));
        if pages.user.strong_count() > 0 {
            return Err(StorageError::in_use(path));
        }
        match &pages.owner {
            None => {
                pages.kept.base.membership = owner.membership.clone();
                pages.kept.base.point = LogPoint::initial_at(owner.first_position);
                pages.kept.last = pages.kept.base.point;
            }
            Some(known) if known == owner => {}
            Some(known) => return Err(StorageError::mismatch(path, owner, known)),
        }
        (pages.owner, pages.user) = (Some(owner.clone()), Arc::downgrade(&self.alive));
        pages.kept.identity.incarnation += 1;
        let mut kept = pages.kept.clone();
        kept.hard_state.commit =
            kept.hard_state.commit.clamp(kept.base.point.raft_index, kept.last.raft_index);
        Ok(kept)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.notebook.clone()
    }

    fn append(&mut self, batches: &[Batch], commit: u64) -> Result<(), StorageError> {
        let Some(before) = batches.first().map(|first| first.raft_index().saturating_sub(1)) else {
            return Ok(());
        };
        let nothing =
            || StorageError::NotContiguous(format!("there is nothing at {before} to follow"));
        let mut point = self.notebook.point(before).ok().flatten().ok_or_else(nothing)?;
        let mut tail = Vec::new();
        for batch in batches {
            point = batch
                .point_after(&point)
                .map_err(|error| StorageError::NotContiguous(error.to_string()))?;
            tail.push((batch.clone(), point));
        }
        let mut pages = self.notebook.0.lock();
        pages.log.retain(|(_, point)| point.raft_index <= before);
        pages.log.append(&mut tail);
        (pages.kept.last, pages.kept.hard_state.commit) =
            (point, pages.kept.hard_state.commit.max(commit));
        Ok(())
    }

    fn save_hard_state(&mut self, hard_state: HardState) -> Result<(), StorageError> {
        self.notebook.0.lock().kept.hard_state = hard_state;
        Ok(())
    }

    fn reset(&mut self, base: &Base) -> Result<(), StorageError> {
        let mut pages = self.notebook.0.lock();
        (pages.log, pages.kept.base, pages.kept.last) = (Vec::new(), base.clone(), base.point);
        Ok(())
    }

    fn purge(&mut self, _index: u64, _commit: u64) -> Result<(), StorageError> {
        Ok(()) // A storage gives up what it can. This one never can.
    }

    fn save_peer(&mut self, peer: NodeId, directory: u128) -> Result<(), StorageError> {
        let peers = &mut self.notebook.0.lock().kept.peers;
        peers.retain(|(known, _)| *known != peer);
        peers.push((peer, directory));
        Ok(())
    }

    fn begin_sync(&mut self) -> Box<dyn PendingSync> {
        Box::new(()) // nothing is left to be synced
    }
}

impl LogReader for Notebook {
    fn base(&self) -> Base {
        self.0.lock().kept.base.clone()
    }

    fn batch_containing(&self, index: u64) -> Result<Option<Batch>, StorageError> {
        let pages = self.0.lock();
        let found = pages.log.iter().find(|(_, point)| index < point.next_index);
        let first = pages.kept.base.point.next_index;
        let batch = || found.map(|(batch, _)| batch.clone());
        if index < first { Err(StorageError::purged(first)) } else { Ok(batch()) }
    }

    fn batches(&self, from: u64, to: u64, bytes_max: u64) -> Result<Vec<Batch>, StorageError> {
        self.point(from.saturating_sub(1))?; // says whether it is purged
        let mut bytes = 0;
        let fits = |batch: &&Batch| {
            bytes += batch.body().len() as u64;
            batch.raft_index() == from || bytes <= bytes_max
        };
        let pages = self.0.lock();
        let range = pages
            .log
            .iter()
            .map(|(batch, _)| batch)
            .filter(|batch| (from..to).contains(&batch.raft_index()));
        Ok(range.take_while(fits).cloned().collect())
    }

    fn point(&self, raft_index: u64) -> Result<Option<LogPoint>, StorageError> {
        let pages = self.0.lock();
        let base = pages.kept.base.point;
        let found = std::iter::once(base)
            .chain(pages.log.iter().map(|(_, point)| *point))
            .find(|point| point.raft_index == raft_index);
        let is_kept = raft_index >= base.raft_index;
        if is_kept { Ok(found) } else { Err(StorageError::purged(base.next_index)) }
    }
}

impl conformance::Harness for Handle {
    fn fresh(&mut self) {
        self.notebook = new_notebook();
    }

    fn handle(&mut self) -> Box<dyn Storage> {
        Box::new(Handle { notebook: self.notebook.clone(), alive: Arc::default() })
    }
}
