//! What happens to a log, as a function of a seed and of where the log stands: two processes that know both know the same script.

use bytes::Bytes;
use dledger::storage::{Base, Batch, Genesis, HardState, LogReader, Mark, Recovered, Storage, StorageError};
use dledger::{Membership, NodeId};

use crate::dice::Dice;

pub(crate) fn genesis() -> Genesis {
    let membership = Membership::of_voters([1, 2, 3].map(NodeId::from));
    Genesis::new("kernel", 1, 7, membership)
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
            Change::Save(hard_state) => storage.save(*hard_state),
            Change::Remember(peer, directory) => storage.remember(*peer, *directory),
            Change::Purge(index, commit) => storage.purge(*index, *commit),
            Change::Reset(base) => storage.reset(base),
        }
    }
}

/// Where a log stands when a script begins.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) base: Base,
    /// The mark of the base, and the one after every batch.
    pub(crate) marks: Vec<Mark>,
    pub(crate) hard_state: HardState,
}

impl Standing {
    /// A log that was never opened.
    pub(crate) fn fresh() -> Standing {
        let base = Base::new(Mark::GENESIS, genesis().membership);
        Standing { marks: vec![base.mark], base, hard_state: HardState::new(1, None, 1) }
    }

    /// A log that was opened and holds what `recovered` says, of which `commit` is known to be committed.
    pub(crate) fn of(recovered: &Recovered, reader: &dyn LogReader, commit: u64) -> Result<Standing, StorageError> {
        let base = reader.base();
        let last = recovered.last.raft_index;
        let mark = |raft_index| Ok::<Mark, StorageError>(reader.mark(raft_index)?.expect("the log reaches as far as its last mark"));
        let marks = (base.mark.raft_index..=last).map(mark).collect::<Result<_, _>>()?;
        let HardState { term, vote, .. } = recovered.hard_state;
        Ok(Standing { base, marks, hard_state: HardState::new(term, vote, commit) })
    }

    pub(crate) fn last(&self) -> Mark {
        *self.marks.last().expect("there always is the base")
    }
}

/// An endless run of changes, each of which is legal after those before it.
#[derive(Debug)]
pub(crate) struct Script {
    dice: Dice,
    at: Standing,
    /// What must follow at once.
    next: Option<Change>,
}

impl Script {
    pub(crate) fn new(seed: u64, standing: Standing) -> Script {
        Script { dice: Dice::from_seed(seed), at: standing, next: None }
    }

    pub(crate) fn next(&mut self) -> Change {
        if let Some(next) = self.next.take() {
            return next;
        }
        match self.dice.below(24) {
            0..14 => self.append(),
            14..17 => self.cut(),
            17..19 => self.vote(),
            19 => Change::Remember(NodeId::from(2 + self.dice.below(2)), u128::from(self.dice.draw())),
            20..23 => self.purge(),
            _ if self.dice.once_in(4) => self.reset(),
            _ => self.vote(),
        }
    }

    fn append(&mut self) -> Change {
        let term = self.at.hard_state.term;
        let batches = (0..1 + self.dice.below(4)).map(|_| self.batch(term)).collect();
        let uncommitted = self.at.last().raft_index - self.at.hard_state.commit;
        self.at.hard_state.commit += self.dice.below(uncommitted + 1);
        Change::Append(batches, self.at.hard_state.commit)
    }

    fn batch(&mut self, term: u64) -> Batch {
        let count = if self.dice.once_in(10) { 0 } else { 1 + self.dice.below(4) };
        let payloads: Vec<Vec<u8>> = (0..count).map(|_| self.dice.payload()).collect();
        let batch = batch_after(&self.at.last(), term, &payloads);
        self.at.marks.push(batch.mark_after(&self.at.last()).expect("it was made to continue the log"));
        batch
    }

    /// A new leader has another opinion about what is not committed: a new term, and then its batches in place of others.
    fn cut(&mut self) -> Change {
        let state = &mut self.at.hard_state;
        (state.term, state.vote) = (state.term + 1, None);
        let save = Change::Save(*state);
        let (base, committed) = (self.at.marks[0].raft_index, state.commit);
        let kept = committed + self.dice.below(self.at.last().raft_index - committed + 1);
        self.at.marks.truncate((kept - base) as usize + 1);
        let next = self.append();
        self.next = Some(next);
        save
    }

    fn vote(&mut self) -> Change {
        let state = &mut self.at.hard_state;
        (state.term, state.vote) = (state.term + 1, Some(NodeId::from(1 + self.dice.below(3))));
        Change::Save(*state)
    }

    fn purge(&mut self) -> Change {
        let (base, commit) = (self.at.marks[0].raft_index, self.at.hard_state.commit);
        let upto = base + self.dice.below(commit - base + 1);
        Change::Purge(self.at.marks[(upto - base) as usize].next_index, commit)
    }

    fn reset(&mut self) -> Change {
        let last = self.at.last();
        let mut mark = last;
        mark.raft_index += 1 + self.dice.below(100);
        mark.term = self.at.hard_state.term;
        mark.next_index += self.dice.below(100);
        mark.next_position += self.dice.below(10_000);
        mark.timestamp += self.dice.below(10);
        mark.chain = self.dice.draw() as u32;
        self.at.marks = vec![mark];
        self.at.hard_state.commit = mark.raft_index;
        self.at.base.mark = mark;
        Change::Reset(self.at.base.clone())
    }
}

/// A batch that continues the log behind `before`. Without payloads, a control record.
pub(crate) fn batch_after(before: &Mark, term: u64, payloads: &[Vec<u8>]) -> Batch {
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
    let batch = Batch::new(before.raft_index + 1, term, Bytes::from(body)).expect("it has the form of a batch");
    batch.verify().expect("its entries have the form of entries");
    batch
}
