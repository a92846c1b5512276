//! The places where a node touches the world, with a witness at each: its storage and its transport.
//!
//! Each call may be the last that the process lives to make: a [`Fuse`] ends it there, between two effects.

use std::any::Any;
use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::book::{Book, Taken};
use super::watch::{News, Watch};
use crate::entry::NodeId;
use crate::storage::{Base, Batch, Chore, Genesis, HardState, Identity, LogReader, PendingSync, Recovered, Remedy, Storage, StorageError};
use crate::transport::{Message, Seat, Transport};

/// Ends a process after so many more effects.
#[derive(Clone, Debug)]
pub(super) struct Fuse(Arc<AtomicU64>);

/// What a process that ended so unwinds with.
struct Burnt;

impl Fuse {
    pub(super) fn new() -> Fuse {
        Fuse(Arc::new(AtomicU64::new(u64::MAX)))
    }

    pub(super) fn light(&self, effects: u64) {
        self.0.store(effects, Ordering::Relaxed);
    }

    pub(super) fn is_lit(&self) -> bool {
        self.0.load(Ordering::Relaxed) != u64::MAX
    }

    pub(super) fn put_out(&self) {
        self.light(u64::MAX);
    }

    /// Gets shorter; the process ends here if nothing is left.
    pub(super) fn burn(&self) {
        match self.0.load(Ordering::Relaxed) {
            u64::MAX => {}
            0 => resume_unwind(Box::new(Burnt)),
            left => self.0.store(left - 1, Ordering::Relaxed),
        }
    }

    /// Whether a panic is the end of a fuse, and not of somebody's wits.
    pub(super) fn ended(panic: &(dyn Any + Send)) -> bool {
        panic.is::<Burnt>()
    }
}

/// A storage whose every call is entered in the books.
pub(super) struct Witnessed {
    node: usize,
    storage: Box<dyn Storage>,
    watch: Arc<Mutex<Watch>>,
    fuse: Fuse,
    /// A sync of this life has failed.
    sync_failed: Arc<AtomicBool>,
    /// The power failed before this life began.
    power_failed: bool,
}

impl Witnessed {
    pub(super) fn new(
        node: usize,
        storage: Box<dyn Storage>,
        watch: Arc<Mutex<Watch>>,
        fuse: Fuse,
        sync_failed: Arc<AtomicBool>,
        power_failed: bool,
    ) -> Witnessed {
        Witnessed { node, storage, watch, fuse, sync_failed, power_failed }
    }

    fn attempt_remedy(&self, remedy: Remedy<'_>) -> bool {
        let watch = &mut *self.watch.lock();
        match remedy {
            Remedy::Fill(batches) => watch.fill_in(self.node, batches),
            Remedy::Replace(batches) => {
                watch.sightings.saw("damaged tails replaced");
                let entered = watch.books[self.node].attempt_append(batches);
                entered.unwrap_or_else(|why| watch.violated(format!("A8: node {}: {why}", self.node + 1)));
                true
            }
            Remedy::Rebase(mark) => {
                watch.sightings.saw("damaged logs rebased");
                watch.books[self.node].attempt_rebase(mark)
            }
        }
    }

    /// Whether the log is whole, and what was taken, to the last batch and no further.
    fn is_as_it_was(&self, recovered: &Recovered) -> bool {
        recovered.damage.is_empty() && self.watch.lock().books[self.node].last_mark() == recovered.last
    }

    /// A log that is whole again owes all that it ever owed.
    fn after_mending(&self, recovered: &Recovered) {
        let watch = &mut *self.watch.lock();
        watch.sightings.saw("steps of mending");
        if !recovered.damage.is_empty() {
            return;
        }
        watch.sightings.saw("damaged logs mended");
        let verdict = watch.books[self.node].reopen(recovered, &*self.storage.reader(), self.power_failed);
        if let Err(why) = verdict {
            watch.violated(format!("A1: node {}, mended: {why}", self.node + 1));
        }
        watch.recovered_vote(self.node, recovered.hard_state);
    }

    /// Asks the storage for something that is entered in the book of this node.
    fn ask(
        &mut self,
        attempt: impl FnOnce(&mut Book) -> Result<(), String>,
        ask: impl FnOnce(&mut dyn Storage) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        self.fuse.burn();
        let node = self.node;
        {
            let watch = &mut *self.watch.lock();
            if let Err(why) = attempt(&mut watch.books[node]) {
                watch.violated(format!("A8: node {}: {why}", node + 1));
            }
        }
        let outcome = ask(&mut *self.storage);
        self.enter(&outcome);
        outcome
    }

    fn enter(&self, outcome: &Result<(), StorageError>) {
        let watch = &mut *self.watch.lock();
        let book = &mut watch.books[self.node];
        match outcome {
            Ok(()) if book.take() > 0 => {
                watch.sightings.saw("conflicting tails cut");
                watch.news = Some(News::Gives);
            }
            Ok(()) => {}
            Err(error) if error.is_temporary() => {
                book.refuse();
                let is_full = matches!(error, StorageError::Full { .. });
                watch.sightings.saw(if is_full { "writes that found the disk full" } else { "writes that found no descriptor" });
                watch.news = Some(News::Lacks);
            }
            Err(error) => {
                book.fail();
                watch.note(&[0xd15c, self.node as u64], || format!("node {}: its storage says: {error}", self.node + 1));
            }
        }
    }
}

impl Storage for Witnessed {
    fn open(&mut self, genesis: &Genesis) -> Result<Recovered, StorageError> {
        self.storage.open(genesis)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.storage.reader()
    }

    fn append(&mut self, batches: &[Batch], commit: u64) -> Result<(), StorageError> {
        self.ask(|book| book.attempt_append(batches), |storage| storage.append(batches, commit))
    }

    fn save(&mut self, hard_state: HardState) -> Result<(), StorageError> {
        self.watch.lock().save(self.node, hard_state);
        self.ask(|book| book.attempt_save(hard_state), |storage| storage.save(hard_state))
    }

    fn reset(&mut self, base: &Base) -> Result<(), StorageError> {
        let attempt = |book: &mut Book| {
            book.attempt_reset(base.mark);
            Ok(())
        };
        let outcome = self.ask(attempt, |storage| storage.reset(base));
        if outcome.is_ok() {
            let watch = &mut *self.watch.lock();
            watch.sightings.saw("rebases");
            watch.news = Some(News::Gives);
            watch.demand_committed(self.node, &base.mark, "begins its log anew at");
        }
        outcome
    }

    fn purge(&mut self, index: u64, commit: u64) -> Result<(), StorageError> {
        self.fuse.burn();
        let before = self.storage.reader().base().mark;
        let outcome = self.storage.purge(index, commit);
        let after = self.storage.reader().base().mark;
        self.enter(&outcome);
        if after != before {
            let watch = &mut *self.watch.lock();
            watch.sightings.saw("purges");
            watch.news = Some(News::Gives);
            watch.demand(after.raft_index <= commit, || format!("A8: node {}: purged beyond the commit", self.node + 1));
            watch.demand_committed(self.node, &after, "purges up to");
        }
        outcome
    }

    fn remember(&mut self, peer: NodeId, directory: u128) -> Result<(), StorageError> {
        self.fuse.burn();
        self.storage.remember(peer, directory)
    }

    fn set_complete(&mut self, complete: bool) -> Result<Identity, StorageError> {
        self.fuse.burn();
        let outcome = self.storage.set_complete(complete);
        if complete && outcome.is_ok() {
            let watch = &mut *self.watch.lock();
            watch.sightings.saw("logs that were completed");
            watch.books[self.node].complete();
        }
        outcome
    }

    fn mend(&mut self, remedy: Remedy<'_>) -> Result<Recovered, StorageError> {
        self.fuse.burn();
        // Whether the log is asked to become another. If not, what it was asked for when it died may still have been done, or not.
        let is_attempt = self.attempt_remedy(remedy);
        let outcome = self.storage.mend(remedy);
        if let Err(error) = &outcome {
            self.watch.lock().note(&[13, self.node as u64], || format!("node {}: not mended: {error}", self.node + 1));
        }
        // A disk can be found full when the log has become another already, and is only looked at again (seed 3233265).
        if is_attempt && !outcome.as_ref().is_err_and(StorageError::is_temporary) {
            // A segment that nothing proved to take part may do so now that what is in front of it is there again, and wins over what was filled in: then
            // the log is what it was (seed 10014789).
            match &outcome {
                Ok(recovered) if self.is_as_it_was(recovered) => self.watch.lock().books[self.node].refuse(),
                outcome => self.enter(&outcome.as_ref().map(|_| ()).map_err(Clone::clone)),
            }
        }
        if let Ok(recovered) = &outcome {
            self.after_mending(recovered);
        }
        outcome
    }

    fn is_behind(&self) -> bool {
        self.storage.is_behind()
    }

    fn begin_sync(&mut self) -> Box<dyn PendingSync> {
        self.fuse.burn();
        let until = self.watch.lock().books[self.node].taken();
        Box::new(WitnessedSync {
            node: self.node,
            pending: self.storage.begin_sync(),
            until,
            watch: self.watch.clone(),
            sync_failed: self.sync_failed.clone(),
        })
    }

    fn next_chore(&mut self) -> Option<Chore> {
        self.storage.next_chore()
    }
}

struct WitnessedSync {
    node: usize,
    pending: Box<dyn PendingSync>,
    until: Taken,
    watch: Arc<Mutex<Watch>>,
    sync_failed: Arc<AtomicBool>,
}

impl PendingSync for WitnessedSync {
    fn wait(self: Box<Self>) -> Result<(), StorageError> {
        let outcome = self.pending.wait();
        let mut watch = self.watch.lock();
        match &outcome {
            Ok(()) if self.sync_failed.load(Ordering::Relaxed) => {
                watch.violated(format!("node {}: a sync succeeded after one had failed", self.node + 1))
            }
            Ok(()) => watch.books[self.node].settle(&self.until),
            Err(_) => {
                watch.sightings.saw("syncs that failed");
                self.sync_failed.store(true, Ordering::Relaxed);
            }
        }
        outcome
    }
}

/// What an engine takes for its transport. What it sends waits in `outbox` for the network.
pub(super) struct Wire {
    pub(super) node: usize,
    pub(super) outbox: Arc<Mutex<Vec<Message>>>,
    pub(super) watch: Arc<Mutex<Watch>>,
    pub(super) fuse: Fuse,
    pub(super) stopped: bool,
    /// As what the node speaks.
    pub(super) identity: Arc<Mutex<Identity>>,
}

impl Transport for Wire {
    fn start(&mut self, _seat: Seat) -> io::Result<()> {
        Ok(())
    }

    fn send(&mut self, messages: &mut Vec<Message>) {
        for message in messages.drain(..) {
            self.fuse.burn();
            if !self.stopped {
                self.watch.lock().hear(self.node, &message);
                self.outbox.lock().push(message);
            }
        }
    }

    fn introduce(&mut self, identity: Identity) {
        *self.identity.lock() = identity;
    }

    fn stop(&mut self) {
        self.stopped = true;
    }
}
