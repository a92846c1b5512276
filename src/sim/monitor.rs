//! Monitor: checks each message that a node sends, each write to its storage and each result for a
//! client, when it happens.
//!
//! Invariants, named as the checks of histories are in [`super::check`]:
//!
//! - **A5** Once a node shows a batch as committed, no node ever shows another in its place: the
//!   log points (term, index, position, timestamp and the chain value over all bytes before) and
//!   the payloads are the same on every node.
//! - **A8** One leader per term; one vote per node and term, across restarts; term and vote never
//!   go back. The claim of a message (a vote, an acknowledgement, a term) is durable when it is
//!   sent. An announced leader knows everything that was acknowledged. A leader has the votes of a
//!   majority in its term.
//! - **A9** Whenever a node shows a commit, a majority of the disks would still hold it after a
//!   power cut at that moment.
//! - **A12** If the nodes have an append hook, each entry carries the mark that the hook made for
//!   its index, position and term, once. An append that asks for a term is in that term, or
//!   nowhere.
//! - **A13** The nodes agree on the unique id of their group: see [`super::group_uids`].
//! - **A14** A node removes only what it may: see [`super::kept`].

use std::collections::{BTreeMap, BTreeSet};

use super::group_uids::GroupUids;
use super::kept::KeptLog;
use super::stamps::stamp;
use super::storage_model::StorageModel;
use super::time::Micros;
use super::trace::{CoverageCounts, Lines, Trace};
use crate::batch::{Batch, LogPoint};
use crate::message::{Message, SenderClaim};
use crate::storage::{HardState, LogReader};

/// One committed entry, as the first node that showed it had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeenEntry {
    /// Which of the offered payloads. `None`: too short to identify.
    pub(crate) payload: Option<u64>,
    pub(crate) len: u32,
    pub(crate) crc: u32,
    /// The lengths of all entries before it.
    position: u64,
    term: u64,
}

impl SeenEntry {
    fn end_position(&self) -> u64 {
        self.position + u64::from(self.len)
    }
}

/// A critical event: a fault right after it is most likely to expose a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// A node campaigns.
    Campaigns,
    /// A node leads, and no other has heard of it yet.
    Leads,
    /// A node has truncated its log, at either end.
    Truncates,
    /// A node has run out of disk space.
    DiskFull,
}

/// Monitor of a run: see the [module](self).
pub(crate) struct Monitor {
    pub(crate) now: Micros,
    pub(crate) models: Vec<StorageModel>,
    /// What each node may remove.
    pub(crate) kept: Vec<KeptLog>,
    pub(crate) coverage: CoverageCounts,
    pub(crate) trace: Trace,
    /// The first violation.
    violation: Option<String>,
    counts_unsynced: bool,
    /// Every entry that was shown as committed, from index 0.
    pub(crate) ledger: Vec<SeenEntry>,
    /// Every committed log point, from [`LogPoint::initial_at`] the first position.
    points: Vec<LogPoint>,
    leaders: BTreeMap<u64, usize>,
    /// The latest critical event that was not taken yet.
    pub(crate) trigger: Option<Trigger>,
    votes: BTreeMap<(usize, u64), u64>,
    /// Terms in which a node that has lost its log counts its vote as given, to an unknown node.
    spent: BTreeSet<(usize, u64)>,
    /// Directory ids of lost disks.
    pub(crate) lost_directories: BTreeSet<u128>,
    /// The index after the last entry that was acknowledged to anyone, by the term of the leader
    /// that acknowledged it.
    acknowledged: BTreeMap<u64, u64>,
    /// The length of every payload that was offered.
    pub(crate) offered: Vec<u32>,
    /// The terms that were asked for, by payload.
    fences: BTreeMap<u64, u64>,
    has_stamps: bool,
    /// Tells the payloads of this group from those of others.
    pub(crate) salt: u64,
    /// See [`super::group_uids`].
    pub(super) group_uids: GroupUids,
}

impl Monitor {
    pub(crate) fn new(
        nodes: usize,
        first_position: u64,
        counts_unsynced: bool,
        lines: Option<Lines>,
    ) -> Monitor {
        Monitor {
            now: 0,
            models: (0..nodes).map(|_| StorageModel::new(first_position)).collect(),
            kept: (0..nodes).map(|_| KeptLog::default()).collect(),
            coverage: CoverageCounts::default(),
            trace: Trace::new(lines),
            violation: None,
            counts_unsynced,
            ledger: Vec::new(),
            points: vec![LogPoint::initial_at(first_position)],
            leaders: BTreeMap::new(),
            trigger: None,
            votes: BTreeMap::new(),
            spent: BTreeSet::new(),
            lost_directories: BTreeSet::new(),
            acknowledged: BTreeMap::new(),
            offered: Vec::new(),
            fences: BTreeMap::new(),
            has_stamps: false,
            salt: 0,
            group_uids: GroupUids::new(nodes),
        }
    }

    /// The same, of a group whose hook marks the payloads.
    pub(crate) fn expecting_stamps(self, has_stamps: bool) -> Monitor {
        Monitor { has_stamps, ..self }
    }

    /// A payload is offered for `term` only.
    pub(crate) fn fence(&mut self, offer: u64, term: u64) {
        self.fences.insert(offer, term);
    }

    /// Reports a violation. The first is kept.
    pub(crate) fn violated(&mut self, violation: impl Into<String>) {
        let violation = violation.into();
        self.note(&[0xbad], || format!("VIOLATION {violation}"));
        self.violation.get_or_insert(violation);
    }

    /// The position of the first byte of the group.
    pub(crate) fn first_position(&self) -> u64 {
        self.points[0].next_position
    }

    pub(crate) fn violation(&self) -> Option<&String> {
        self.violation.as_ref()
    }

    pub(crate) fn demand(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.violated(otherwise());
        }
    }

    pub(crate) fn note(&mut self, numbers: &[u64], text: impl FnOnce() -> String) {
        self.trace.note(self.now, numbers, text);
    }

    /// A node sends a message.
    pub(crate) fn check_message(&mut self, node: usize, message: &Message) {
        let (term, to) = (message.term(), message.to());
        let me = node as u64 + 1;
        let is_silent =
            !self.models[node].is_corrupt || matches!(message.promise(), SenderClaim::Nothing);
        self.demand(is_silent, || {
            format!("A8: node {me} takes part, and its log is known to be corrupt: {message:?}")
        });
        let saved = self.models[node].durable_hard_state();
        let vote = saved.vote.map(|vote| vote.get());
        match message.promise() {
            SenderClaim::Leads => {
                let leader = *self.leaders.entry(term).or_insert_with(|| {
                    self.coverage.hit("leader changes");
                    self.trigger = Some(Trigger::Leads);
                    node
                });
                self.demand(leader == node, || {
                    format!("A8: nodes {} and {me} both lead term {term}", leader + 1)
                });
                let votes = 1
                    + (0..self.models.len())
                        .filter(|&other| self.votes.get(&(other, term)) == Some(&me))
                        .count();
                self.demand(votes > self.models.len() / 2, || {
                    format!("A8: node {me} leads term {term} with {votes} votes")
                });
                self.demand(saved.term >= term, || {
                    format!(
                        "A8: node {me} leads term {term} before that term is durable: {message:?}"
                    )
                });
            }
            SenderClaim::Stands => {
                self.trigger = Some(Trigger::Campaigns);
                self.demand(saved.term > term || (saved.term == term && vote == Some(me)), || {
                    format!(
                        "A8: node {me} campaigns in term {term}, and its vote for itself is not \
                         durable"
                    )
                });
            }
            SenderClaim::Votes => {
                self.demand(
                    saved.term > term || (saved.term == term && vote == Some(to.get())),
                    || {
                        format!(
                            "A8: node {me} votes for {to} in term {term}, and that is not durable"
                        )
                    },
                );
                let given = *self.votes.entry((node, term)).or_insert(to.get());
                self.demand(given == to.get(), || {
                    format!("A8: node {me} votes for nodes {given} and {to} in term {term}")
                });
            }
            SenderClaim::Holds(raft_index) => {
                let model = &self.models[node];
                let unsynced = self.counts_unsynced;
                let (held, now) = if unsynced {
                    (model.last(), model.hard_state())
                } else {
                    (model.durable_last(), saved)
                };
                // An acknowledgement to a deposed leader may be late: the new leader may have
                // truncated those batches, and the majority that elected it does not count them.
                self.demand(now.term > term || held >= raft_index, || {
                    format!(
                        "A9: node {me} acknowledges batch {raft_index}, and would hold {held} \
                         after a power cut now"
                    )
                });
                self.demand(saved.term >= term, || {
                    format!("A8: node {me} speaks of term {term} before that term is durable")
                });
            }
            SenderClaim::Term => {
                self.demand(saved.term >= term, || {
                    format!("A8: node {me} speaks of term {term} before that term is durable")
                });
            }
            SenderClaim::Nothing => {}
        }
    }

    /// A node saves its hard state.
    pub(crate) fn save_hard_state(&mut self, node: usize, state: HardState) {
        self.demand_held(node, state.commit);
        if !self.models[node].is_complete()
            && state.vote.is_some_and(|vote| vote.get() == node as u64 + 1)
        {
            self.spent.insert((node, state.term));
        }
    }

    /// A node has recovered its hard state: its vote must be the one that it gave.
    pub(crate) fn check_recovered_vote(&mut self, node: usize, state: HardState) {
        let is_spent = self.spent.contains(&(node, state.term))
            && state.vote.is_some_and(|vote| vote.get() == node as u64 + 1);
        if let (Some(vote), Some(given)) =
            (state.vote.filter(|_| !is_spent), self.votes.get(&(node, state.term)).copied())
        {
            self.demand(vote.get() == given, || {
                format!("A8: node {} restarted with another vote in term {}", node + 1, state.term)
            });
        }
    }

    /// A node shows everything up to batch `commit`, which ends below index `end`, as committed.
    /// The batches up to `seen` were checked before, in the same process. Returns the last batch
    /// that is checked now.
    pub(crate) fn check_committed(
        &mut self,
        node: usize,
        reader: &dyn LogReader,
        end: u64,
        commit: u64,
        seen: u64,
        dying: bool,
    ) -> u64 {
        let me = node + 1;
        let base = reader.base().point;
        let mut top = base;
        for raft_index in (seen + 1).max(base.raft_index)..=commit {
            match reader.point(raft_index) {
                Ok(Some(point)) => {
                    self.check_batch(node, reader, point);
                    top = point;
                }
                other => {
                    self.violated(format!(
                        "A5: node {me} reads {other:?} for batch {raft_index}, which it shows as \
                         committed"
                    ));
                    return seen;
                }
            }
        }
        // A process that crashed may not have shown all of its commit.
        let right = if dying { top.next_index >= end } else { top.next_index == end };
        self.demand(seen == commit || right, || {
            format!("A5: node {me} shows {end} entries, and its commit ends at {top:?}")
        });
        self.demand_quorum(node, &top);
        commit
    }

    /// A corrupt log is given batches. Where they differ from those that it lost, the lost ones
    /// were never committed. Returns whether any differ.
    pub(crate) fn fill_in(&mut self, node: usize, batches: &[Batch]) -> bool {
        let Some(at) = self.models[node].first_difference(batches) else { return false };
        self.coverage.hit("lost batches that others took the place of");
        let lost = self.models[node].point(batches[at].raft_index());
        let committed = self
            .points
            .get((batches[at].raft_index() - LogPoint::INITIAL.raft_index) as usize)
            .copied();
        self.demand(lost.is_none() || committed != lost, || {
            format!("A1: node {}, repaired, gives up {lost:?}", node + 1)
        });
        if let Err(why) = self.models[node].attempt_append(&batches[at..]) {
            self.violated(format!("A8: node {}: {why}", node + 1));
        }
        true
    }

    /// The log point of the newest batch that any node has shown as committed.
    pub(crate) fn newest(&self) -> &LogPoint {
        self.points.last().expect("it begins with one")
    }

    /// A node purges its log up to this point, or installs a snapshot there: it must be committed.
    pub(crate) fn demand_committed(&mut self, node: usize, point: &LogPoint, action: &str) {
        let known = point
            .raft_index
            .checked_sub(LogPoint::INITIAL.raft_index)
            .and_then(|place| self.points.get(place as usize).copied());
        self.demand(known == Some(*point), || {
            format!("A8: node {} {action} {point:?}, where {known:?} is committed", node + 1)
        });
    }

    /// A node saves a commit: its log must hold that batch at this moment.
    pub(crate) fn demand_held(&mut self, node: usize, raft_index: u64) {
        let held = self.models[node].point(raft_index);
        let known = raft_index
            .checked_sub(LogPoint::INITIAL.raft_index)
            .and_then(|place| self.points.get(place as usize).copied());
        let is_held = self.models[node].live_base() > raft_index
            || held.is_some_and(|held| known.is_none_or(|known| known == held));
        self.demand(is_held, || {
            format!(
                "A8: node {} saves that {known:?} is committed, and its log holds {held:?}",
                node + 1
            )
        });
    }

    fn demand_quorum(&mut self, node: usize, top: &LogPoint) {
        let kept = |model: &&StorageModel| {
            if self.counts_unsynced { model.holds(top) } else { model.holds_durably(top) }
        };
        let disks = self.models.iter().filter(kept).count();
        let needed = self.models.len() / 2 + 1;
        self.demand(disks >= needed, || {
            format!(
                "A9: node {} shows batch {} as committed, and {disks} disks would hold it after a \
                 power cut now",
                node + 1,
                top.raft_index
            )
        });
    }

    fn check_batch(&mut self, node: usize, reader: &dyn LogReader, point: LogPoint) {
        let place = (point.raft_index - LogPoint::INITIAL.raft_index) as usize;
        if place > self.points.len() {
            return self.violated(format!(
                "A5: node {} shows batch {}, and no node has shown the one before it",
                node + 1,
                point.raft_index
            ));
        }
        if let Some(known) = self.points.get(place).copied() {
            self.demand(known == point, || {
                format!(
                    "A5: committed batch {}: {known:?} was shown, now node {} shows {point:?}",
                    point.raft_index,
                    node + 1
                )
            });
        } else {
            self.points.push(point);
            let is_control = place > 0 && self.points[place - 1].next_index == point.next_index;
            if is_control && point.raft_index > reader.base().point.raft_index {
                self.check_control_batch(node, reader, point.raft_index);
            }
        }
        // Batches up to the base are no longer kept.
        if place > 0 && point.raft_index > reader.base().point.raft_index {
            self.check_entries(node, reader, point, self.points[place - 1]);
        }
    }

    /// A node shows a batch without entries as committed, as the first node of all.
    fn check_control_batch(&mut self, node: usize, reader: &dyn LogReader, at: u64) {
        let batches = reader.batches(at, at + 1, 1);
        let Ok([batch]) = batches.as_deref() else {
            let me = node + 1;
            return self.violated(format!("A5: node {me} looked for batch {at}, read {batches:?}"));
        };
        let Some(uid) = batch.group_uid() else { return };
        self.coverage.hit("groups named");
        let outcome = self.group_uids.commit(at, uid);
        self.demand_ok(outcome);
    }

    /// A node saves the unique id of its group.
    pub(super) fn save_group_uid(&mut self, node: usize, uid: u128) {
        self.coverage.hit("ids of the group saved");
        self.demand_ok(self.group_uids.check(node, uid, "saves"));
    }

    /// A node announces the unique id of its group: it is durable.
    pub(super) fn announce_group_uid(&mut self, node: usize, uid: u128) {
        self.demand_ok(self.group_uids.check(node, uid, "announces"));
        self.group_uids.announce(node, uid);
    }

    /// A node starts with the unique id of its group, or none.
    pub(super) fn recover_group_uid(&mut self, node: usize, uid: u128) {
        let is_replaced = self.models[node].is_replaced();
        self.demand_ok(self.group_uids.check(node, uid, "recovers"));
        let outcome = self.group_uids.recover(node, uid, is_replaced);
        self.demand_ok(outcome);
        if uid == 0 && self.group_uids.committed != 0 {
            self.coverage.hit("starts without the id of a group that has one");
        }
    }

    fn demand_ok(&mut self, outcome: Result<(), String>) {
        if let Err(why) = outcome {
            self.violated(why);
        }
    }

    fn check_entries(
        &mut self,
        node: usize,
        reader: &dyn LogReader,
        point: LogPoint,
        before: LogPoint,
    ) {
        let (from, mut position) = (before.next_index, before.next_position);
        if from == point.next_index {
            return;
        }
        let batch = match reader.batch_containing(from) {
            Ok(Some(batch)) if batch.raft_index() == point.raft_index => batch,
            other => {
                return self.violated(format!(
                    "A5: node {} looked for batch {} and read {other:?}",
                    node + 1,
                    point.raft_index
                ));
            }
        };
        for index in from..point.next_index {
            match batch.entry(index) {
                Ok(Some(entry)) => {
                    self.check_entry(node, index, point.term, &entry);
                    self.demand(entry.position() == position, || {
                        format!("A5: {entry:?} lies behind {position} bytes")
                    });
                    position += entry.len() as u64;
                }
                other => {
                    return self.violated(format!(
                        "A5: node {} reads {other:?} for committed entry {index}",
                        node + 1
                    ));
                }
            }
        }
    }

    /// A node shows a payload at a committed index.
    pub(crate) fn check_entry(&mut self, node: usize, index: u64, term: u64, payload: &[u8]) {
        let known = self.ledger.get(index as usize).copied();
        let position = match known {
            Some(known) => known.position,
            None => self.ledger.last().map_or(self.first_position(), SeenEntry::end_position),
        };
        let shown = SeenEntry {
            payload: offer_of(payload).map(|offer| offer ^ self.salt),
            len: payload.len() as u32,
            crc: crc32fast::hash(payload),
            position,
            term,
        };
        match known {
            Some(known) => {
                self.demand(known == shown, || {
                    format!(
                        "A5: entry {index} was {known:?}, now node {} shows {shown:?}",
                        node + 1
                    )
                });
            }
            None if index == self.ledger.len() as u64 => {
                self.ledger.push(shown);
                self.demand_offered(index, payload, shown);
            }
            None => self.violated(format!(
                "A4: node {} shows entry {index}, and no node has shown the one before it",
                node + 1
            )),
        }
    }

    fn demand_offered(&mut self, index: u64, payload: &[u8], shown: SeenEntry) {
        let Some(offer) = shown.payload else { return };
        let len = self.offered.get(offer as usize).copied();
        let is_right = len == Some(shown.len) && payload == self.expected(offer, index, shown);
        let (has_stamps, salt) = (self.has_stamps, self.salt);
        self.demand(is_right, || {
            let place = (index, shown.position, shown.term);
            let mut unmarked = payload.to_vec();
            stamp(place, &mut unmarked);
            let offered = offer_bytes(offer ^ salt, payload.len());
            if has_stamps && (payload == offered || unmarked != offered) {
                format!("A12: entry {index} is not marked with its place {place:?}, once")
            } else {
                format!("A3: entry {index} holds {} bytes that no client offered", payload.len())
            }
        });
        let wanted = self.fences.get(&offer).copied();
        self.demand(wanted.is_none_or(|wanted| wanted == shown.term), || {
            format!("A12: entry {index} was appended for term {wanted:?}, and is {shown:?}")
        });
    }

    /// What an entry at this place holds, if it is that payload.
    fn expected(&self, offer: u64, index: u64, at: SeenEntry) -> Vec<u8> {
        let mut bytes = self.offer_bytes(offer, at.len as usize);
        if self.has_stamps && bytes.len() >= NUMBERED_BYTES_MIN {
            stamp((index, at.position, at.term), &mut bytes);
        }
        bytes
    }

    /// The bytes of an offered payload of this group.
    pub(crate) fn offer_bytes(&self, offer: u64, len: usize) -> Vec<u8> {
        offer_bytes(offer ^ self.salt, len)
    }

    /// A node reports to its host that it leads.
    pub(crate) fn announce_leader(&mut self, node: usize, term: u64, committed: u64) {
        let me = node + 1;
        let leader = self.leaders.get(&term).copied().unwrap_or(node);
        self.demand(leader == node, || {
            format!(
                "A8: node {me} is announced as leader of term {term}, which node {} leads",
                leader + 1
            )
        });
        let acknowledged = self.acknowledged.range(..term).map(|(_, end)| *end).max().unwrap_or(0);
        self.demand(committed >= acknowledged, || {
            format!(
                "A8: node {me} is announced as leader and knows {committed} committed entries, \
                 where earlier leaders acknowledged {acknowledged}"
            )
        });
    }

    /// An append is acknowledged at `index`, by the leader of `term`.
    pub(crate) fn acknowledge(&mut self, offer: u64, len: u32, index: u64, term: u64) {
        let end = self.acknowledged.entry(term).or_default();
        *end = index + 1;
        let right = |shown: &SeenEntry| {
            let crc = crc32fast::hash(&self.expected(offer, index, *shown));
            (shown.len, shown.crc, shown.term) == (len, crc, term)
                && shown.payload.is_none_or(|payload| payload == offer)
        };
        match self.ledger.get(index as usize).copied() {
            Some(shown) if right(&shown) => {}
            other => self.violated(format!(
                "A1: payload {offer} was acknowledged at index {index}, where {other:?} is \
                 committed"
            )),
        }
    }
}

/// Payloads of this length or more begin with their number.
pub(crate) const NUMBERED_BYTES_MIN: usize = 8;

/// The bytes of an offered payload.
pub(crate) fn offer_bytes(offer: u64, len: usize) -> Vec<u8> {
    let words = len.div_ceil(8) as u64;
    let mut bytes: Vec<u8> = (0..words)
        .flat_map(|word| {
            if word == 0 { offer } else { crate::replica::splitmix64(offer ^ word << 40) }
                .to_le_bytes()
        })
        .collect();
    bytes.truncate(len);
    bytes
}

fn offer_of(payload: &[u8]) -> Option<u64> {
    payload.first_chunk::<NUMBERED_BYTES_MIN>().map(|bytes| u64::from_le_bytes(*bytes))
}
