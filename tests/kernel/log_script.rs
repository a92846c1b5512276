//! What happens to a log, as a function of a seed and of where the log stands: two processes that
//! know both know the same script.

use bytes::Bytes;
use dledger::storage::{
    Base, Batch, HardState, LogOwner, LogPoint, LogReader, Recovered, Storage, StorageError,
};
use dledger::{Membership, NodeId};

use crate::rng::Rng;

pub(crate) fn owner() -> LogOwner {
    let membership = Membership::of_voters([1, 2, 3].map(NodeId::from));
    LogOwner::new("kernel", 1, 7, membership)
}

/// One change of a log.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Append(Vec<Batch>, u64),
    Save(HardState),
    Remember(NodeId, u128),
    Purge(u64, u64),
    Reset(Base),
}

impl Change {
    pub(crate) fn make(&self, storage: &mut dyn Storage) -> Result<(), StorageError> {
        match self {
            Change::Append(batches, commit) => storage.append(batches, *commit),
            Change::Save(hard_state) => storage.save_hard_state(*hard_state),
            Change::Remember(peer, directory) => storage.save_peer(*peer, *directory),
            Change::Purge(index, commit) => storage.purge(*index, *commit),
            Change::Reset(base) => storage.reset(base),
        }
    }
}

/// Where a log stands when a script begins.
#[derive(Clone, Debug)]
pub(crate) struct LogState {
    pub(crate) base: Base,
    /// The log point of the base, and the one after every batch.
    pub(crate) points: Vec<LogPoint>,
    pub(crate) hard_state: HardState,
}

impl LogState {
    /// A log that was never opened.
    pub(crate) fn fresh() -> LogState {
        let base = Base::new(LogPoint::INITIAL, owner().membership);
        LogState { points: vec![base.point], base, hard_state: HardState::new(1, None, 1) }
    }

    /// A log that was opened and holds what `recovered` says, of which `commit` is known to be
    /// committed.
    pub(crate) fn of(
        recovered: &Recovered,
        reader: &dyn LogReader,
        commit: u64,
    ) -> Result<LogState, StorageError> {
        let base = reader.base();
        let last = recovered.last.raft_index;
        let point = |raft_index| {
            Ok::<LogPoint, StorageError>(
                reader.point(raft_index)?.expect("the log reaches as far as its last log point"),
            )
        };
        let points = (base.point.raft_index..=last).map(point).collect::<Result<_, _>>()?;
        let HardState { term, vote, .. } = recovered.hard_state;
        Ok(LogState { base, points, hard_state: HardState::new(term, vote, commit) })
    }

    pub(crate) fn last(&self) -> LogPoint {
        *self.points.last().expect("there always is the base")
    }
}

/// An endless run of changes, each of which is legal after those before it.
#[derive(Debug)]
pub(crate) struct Script {
    rng: Rng,
    at: LogState,
    /// What must follow at once.
    next: Option<Change>,
}

impl Script {
    pub(crate) fn new(seed: u64, state: LogState) -> Script {
        Script { rng: Rng::from_seed(seed), at: state, next: None }
    }

    pub(crate) fn next(&mut self) -> Change {
        if let Some(next) = self.next.take() {
            return next;
        }
        match self.rng.below(24) {
            0..14 => self.append(),
            14..17 => self.cut(),
            17..19 => self.vote(),
            19 => {
                Change::Remember(NodeId::from(2 + self.rng.below(2)), u128::from(self.rng.draw()))
            }
            20..23 => self.purge(),
            _ if self.rng.once_in(4) => self.reset(),
            _ => self.vote(),
        }
    }

    fn append(&mut self) -> Change {
        let term = self.at.hard_state.term;
        let batches = (0..1 + self.rng.below(4)).map(|_| self.batch(term)).collect();
        let uncommitted = self.at.last().raft_index - self.at.hard_state.commit;
        self.at.hard_state.commit += self.rng.below(uncommitted + 1);
        Change::Append(batches, self.at.hard_state.commit)
    }

    fn batch(&mut self, term: u64) -> Batch {
        let count = if self.rng.once_in(10) { 0 } else { 1 + self.rng.below(4) };
        let payloads: Vec<Vec<u8>> = (0..count).map(|_| self.rng.payload()).collect();
        let batch = batch_after(&self.at.last(), term, &payloads);
        self.at
            .points
            .push(batch.point_after(&self.at.last()).expect("it was made to continue the log"));
        batch
    }

    /// A new leader has another opinion about what is not committed: a new term, and then its
    /// batches in place of others.
    fn cut(&mut self) -> Change {
        let state = &mut self.at.hard_state;
        (state.term, state.vote) = (state.term + 1, None);
        let save = Change::Save(*state);
        let (base, committed) = (self.at.points[0].raft_index, state.commit);
        let kept = committed + self.rng.below(self.at.last().raft_index - committed + 1);
        self.at.points.truncate((kept - base) as usize + 1);
        let next = self.append();
        self.next = Some(next);
        save
    }

    fn vote(&mut self) -> Change {
        let state = &mut self.at.hard_state;
        (state.term, state.vote) = (state.term + 1, Some(NodeId::from(1 + self.rng.below(3))));
        Change::Save(*state)
    }

    fn purge(&mut self) -> Change {
        let (base, commit) = (self.at.points[0].raft_index, self.at.hard_state.commit);
        let upto = base + self.rng.below(commit - base + 1);
        Change::Purge(self.at.points[(upto - base) as usize].next_index, commit)
    }

    fn reset(&mut self) -> Change {
        let last = self.at.last();
        let mut point = last;
        point.raft_index += 1 + self.rng.below(100);
        point.term = self.at.hard_state.term;
        point.next_index += self.rng.below(100);
        point.next_position += self.rng.below(10_000);
        point.timestamp += self.rng.below(10);
        point.chain = self.rng.draw() as u32;
        self.at.points = vec![point];
        self.at.hard_state.commit = point.raft_index;
        self.at.base.point = point;
        Change::Reset(self.at.base.clone())
    }
}

/// A batch that continues the log behind `before`. Without payloads, a control record.
pub(crate) fn batch_after(before: &LogPoint, term: u64, payloads: &[Vec<u8>]) -> Batch {
    let mut body = Vec::new();
    if !payloads.is_empty() {
        body.extend_from_slice(&[1, 0, 0, 0]);
        body.extend_from_slice(&(payloads.len() as u32).to_le_bytes());
        [before.next_index, before.next_position, before.timestamp + 1]
            .iter()
            .for_each(|field| body.extend_from_slice(&field.to_le_bytes()));
        payloads.iter().for_each(|payload| body.extend_from_slice(payload));
        let mut end = 0;
        for (payload, index) in payloads.iter().zip(before.next_index..) {
            end += payload.len() as u32;
            // The checksum of a payload is bound to its index.
            let bond = !((index as u32).wrapping_mul(0x9E37_79B1) ^ (index >> 32) as u32);
            body.extend_from_slice(&end.to_le_bytes());
            body.extend_from_slice(&(crc32fast::hash(payload) ^ bond).to_le_bytes());
        }
    }
    let batch = Batch::new(before.raft_index + 1, term, Bytes::from(body))
        .expect("it has the form of a batch");
    batch.verify().expect("its entries have the form of entries");
    batch
}
