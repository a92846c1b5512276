//! A host's own storage, and the suite that judges it: `cargo run --example custom_storage`.
//!
//! A toy that keeps everything in one list. What a real one adds is a disk, and with it something to sync and to purge.

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use dledger::storage::{Base, Batch, Genesis, HardState, Identity, LogReader, Mark, PendingSync, Recovered, Storage, StorageError};
use dledger::{Membership, NodeId, storage::conformance};
use parking_lot::Mutex;

fn main() {
    let not_staged = conformance::check(&mut Handle { notebook: new_notebook(), alive: Arc::default() });
    println!("left out, for want of a disk that can fail: {}", not_staged.join(", "));
    println!("conformance: ok");
}

/// All that one node remembers. It outlives the handles, as a file would.
struct Notebook(Mutex<Pages>);

struct Pages {
    owner: Option<Genesis>,
    /// Lives as long as the handle that has the notebook open.
    user: Weak<()>,
    kept: Recovered,
    /// Each batch and the mark after it.
    log: Vec<(Batch, Mark)>,
}

fn new_notebook() -> Arc<Notebook> {
    let identity = Identity::new(RandomState::new().hash_one("notebook").into(), 0, true);
    let base = Base::new(Mark::GENESIS, Membership::default());
    let kept = Recovered::new(identity, HardState::new(1, None, 1), base, Mark::GENESIS);
    Arc::new(Notebook(Mutex::new(Pages { owner: None, user: Weak::new(), kept, log: Vec::new() })))
}

struct Handle {
    notebook: Arc<Notebook>,
    alive: Arc<()>,
}

impl Storage for Handle {
    fn open(&mut self, genesis: &Genesis) -> Result<Recovered, StorageError> {
        let (mut pages, path) = (self.notebook.0.lock(), PathBuf::from("(notebook)"));
        if pages.user.strong_count() > 0 {
            return Err(StorageError::in_use(path));
        }
        match &pages.owner {
            None => pages.kept.base.membership = genesis.membership.clone(),
            Some(owner) if owner == genesis => {}
            Some(owner) => return Err(StorageError::mismatch(path, genesis, owner)),
        }
        (pages.owner, pages.user) = (Some(genesis.clone()), Arc::downgrade(&self.alive));
        pages.kept.identity.incarnation += 1;
        let mut kept = pages.kept.clone();
        kept.hard_state.commit = kept.hard_state.commit.clamp(kept.base.mark.raft_index, kept.last.raft_index);
        Ok(kept)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.notebook.clone()
    }

    fn append(&mut self, batches: &[Batch], commit: u64) -> Result<(), StorageError> {
        let Some(before) = batches.first().map(|first| first.raft_index().saturating_sub(1)) else { return Ok(()) };
        let nothing = || StorageError::OutOfLine(format!("there is nothing at {before} to follow"));
        let mut mark = self.notebook.mark(before).ok().flatten().ok_or_else(nothing)?;
        let mut tail = Vec::new();
        for batch in batches {
            mark = batch.mark_after(&mark).map_err(|error| StorageError::OutOfLine(error.to_string()))?;
            tail.push((batch.clone(), mark));
        }
        let mut pages = self.notebook.0.lock();
        pages.log.retain(|(_, mark)| mark.raft_index <= before);
        pages.log.append(&mut tail);
        (pages.kept.last, pages.kept.hard_state.commit) = (mark, pages.kept.hard_state.commit.max(commit));
        Ok(())
    }

    fn save(&mut self, hard_state: HardState) -> Result<(), StorageError> {
        self.notebook.0.lock().kept.hard_state = hard_state;
        Ok(())
    }

    fn reset(&mut self, base: &Base) -> Result<(), StorageError> {
        let mut pages = self.notebook.0.lock();
        (pages.log, pages.kept.base, pages.kept.last) = (Vec::new(), base.clone(), base.mark);
        Ok(())
    }

    fn purge(&mut self, _index: u64, _commit: u64) -> Result<(), StorageError> {
        Ok(()) // A storage gives up what it can. This one never can.
    }

    fn remember(&mut self, peer: NodeId, directory: u128) -> Result<(), StorageError> {
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

    fn batch_with(&self, index: u64) -> Result<Option<Batch>, StorageError> {
        let pages = self.0.lock();
        let found = pages.log.iter().find(|(_, mark)| index < mark.next_index);
        let first = pages.kept.base.mark.next_index;
        let batch = || found.map(|(batch, _)| batch.clone());
        if index < first { Err(StorageError::purged(first)) } else { Ok(batch()) }
    }

    fn batches(&self, from: u64, to: u64, bytes_max: u64) -> Result<Vec<Batch>, StorageError> {
        self.mark(from.saturating_sub(1))?; // says whether it is purged
        let mut bytes = 0;
        let fits = |batch: &&Batch| {
            bytes += batch.body().len() as u64;
            batch.raft_index() == from || bytes <= bytes_max
        };
        let pages = self.0.lock();
        let range = pages.log.iter().map(|(batch, _)| batch).filter(|batch| (from..to).contains(&batch.raft_index()));
        Ok(range.take_while(fits).cloned().collect())
    }

    fn mark(&self, raft_index: u64) -> Result<Option<Mark>, StorageError> {
        let pages = self.0.lock();
        let base = pages.kept.base.mark;
        let found = std::iter::once(base).chain(pages.log.iter().map(|(_, mark)| *mark)).find(|mark| mark.raft_index == raft_index);
        let is_kept = raft_index >= base.raft_index;
        if is_kept { Ok(found) } else { Err(StorageError::purged(base.next_index)) }
    }
}

impl conformance::Bench for Handle {
    fn fresh(&mut self) {
        self.notebook = new_notebook();
    }

    fn handle(&mut self) -> Box<dyn Storage> {
        Box::new(Handle { notebook: self.notebook.clone(), alive: Arc::default() })
    }
}
