//! Repair from peers, as a pure value: which peer a node with a corrupt log asks for which batches,
//! and which of the responses it applies.
//!
//! The node requests the first batches that it lacks, one window at a time, from one peer after the
//! other. It trusts no response: batches are applied only if they are *proved*; then the storage
//! fills them in. A response ends with the sender's log point (see [`FetchResponse`]). If the
//! batches lead to the same log point here, the sender's log is this log with the missing batches
//! in it. Up to which batch that is also what this node held is proved by any of three things
//! behind it:
//!
//! 1. **It is known here.** A header, a footer or an intact record behind the corruption kept the
//!    chain value that the batches lead to.
//! 2. **It is committed.** The sender knows that, and what is committed is unique.
//! 3. **It is of a term as new as the newest that this node has seen.** It is as if the leader of
//!    that term had sent it: this node never acknowledged anything of a later term, what was
//!    committed in an earlier one is in that leader's log, and in its own term there is only one
//!    log.
//!
//! If this log conflicts with batches that a peer knows to be committed, it was never committed
//! from the conflict on: that part is replaced, not filled in. The same holds if a peer has a batch
//! of a later term than this node has seen: the leader of that term had everything that was
//! committed before. Terms alone show a conflict, since they never decrease along a log.
//!
//! If a peer has purged the missing batches, they were committed, and this log may begin later too:
//! the peer sends the log point before its first batch, and this log is truncated to it, even if
//! more is missing behind it. Nothing else is ever given up.
//!
//! A leader of such a term can also report where its log ends. What this node has lost behind that
//! was never committed, and is truncated: it is not of the leader's term, and what was committed in
//! an earlier one is in the leader's log. A peer that does not lead proves nothing by having no
//! more.
//!
//! Batches without a proof are not applied, however long that lasts. A peer that has lost them too,
//! or does not have them, proves nothing. Each request has an id of its own, which the response
//! repeats: an earlier response may have been true only before this node had the batches.

use std::ops::Range;
use std::sync::Arc;

use crate::batch::{Batch, LogPoint};
use crate::entry::NodeId;
use crate::message::{
    BATCHES_MAX, FetchError, FetchRequest, FetchResponse, Message, RepairBody, RepairMessage,
};
use crate::storage::{Corruption, LogReader, Recovered, StorageError};

/// How often the timeout of a peer without a response is doubled. The largest response takes
/// minutes on a slow network, and an election timeout may be a second.
const DOUBLINGS_MAX: u32 = 6;

/// Corrupt ranges closer than so many batches are requested together.
const MERGE_DISTANCE: u64 = 32;

/// A proved step of the repair, for the storage to carry out.
#[derive(Debug, PartialEq)]
pub(crate) enum RepairStep {
    /// The log held these.
    Fill(Vec<Batch>),
    /// Replace the log with these, from the first of them on.
    Replace(Vec<Batch>),
    /// Truncate the head of the log, up to this log point: what lies before is committed, and a
    /// peer has purged it.
    TruncateHead(LogPoint),
}

/// The outcome of a request to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PeerOutcome {
    Silent,
    Lacks(FetchError),
    /// It has batches, without a proof.
    Unproved,
    /// Its response is invalid.
    Wrong,
    /// Its batches are proved, and the storage did not take them.
    NotApplied,
}

struct Peer {
    node: NodeId,
    /// Requests in a row without a response in time. The response may just take longer.
    silences: u32,
    /// The outcome of the last request.
    outcome: Option<PeerOutcome>,
}

struct OpenRequest {
    number: u64,
    peer: usize,
    raft_indexes: Range<u64>,
    ticks_left: usize,
}

/// See the [module](self).
pub(crate) struct Repair {
    node: NodeId,
    peers: Vec<Peer>,
    reader: Arc<dyn LogReader>,
    /// The ticks that a peer has to respond, and the backoff when none could help.
    timeout_ticks: usize,
    /// The bytes of batches in a request.
    window_bytes: u64,
    /// The newest term that this node has seen. It never acknowledged a batch of a later one.
    term: u64,
    commit: u64,
    /// After the last batch that can be read.
    last: LogPoint,
    base: u64,
    corruption: Vec<Corruption>,
    /// The peer of the next request.
    next_peer: usize,
    /// The id of the next request. Its upper half is the incarnation, so no earlier run used it.
    number: u64,
    asked: Option<OpenRequest>,
    backoff_ticks: usize,
    /// Requests in a row without a step.
    failures: usize,
    /// A peer's committed log conflicts with this one before the corruption. The conflict is
    /// searched from here on.
    probe: Option<u64>,
}

impl Repair {
    pub(crate) fn new(
        node: NodeId,
        peers: impl Iterator<Item = NodeId>,
        reader: Arc<dyn LogReader>,
        timeout_ticks: usize,
        window_bytes: u64,
        recovered: &Recovered,
    ) -> Repair {
        let peers = peers
            .filter(|peer| *peer != node)
            .map(|node| Peer { node, silences: 0, outcome: None })
            .collect();
        let term = recovered.hard_state.term;
        let mut repair = Repair {
            node,
            peers,
            reader,
            timeout_ticks,
            window_bytes,
            term,
            commit: 0,
            last: recovered.last,
            base: 0,
            corruption: Vec::new(),
            next_peer: 0,
            number: recovered.identity.incarnation << 32,
            asked: None,
            backoff_ticks: 0,
            failures: 0,
            probe: None,
        };
        repair.update(recovered);
        repair
    }

    /// Takes note of the log after a step.
    pub(crate) fn update(&mut self, recovered: &Recovered) {
        self.commit = self.commit.max(recovered.hard_state.commit);
        (self.base, self.last) = (recovered.base.point.raft_index, recovered.last);
        (self.asked, self.probe) = (None, None);
        if self.corruption == recovered.corruption {
            // The step changed nothing.
            self.backoff_ticks = self.timeout_ticks;
            return;
        }
        self.corruption.clone_from(&recovered.corruption);
        (self.failures, self.backoff_ticks) = (0, 0);
        self.peers.iter_mut().for_each(|peer| peer.outcome = None);
    }

    /// The newest raft index that this node knows to be committed.
    pub(crate) fn commit(&self) -> u64 {
        self.commit
    }

    /// A tick has passed.
    pub(crate) fn tick(&mut self) {
        self.backoff_ticks = self.backoff_ticks.saturating_sub(1);
        if let Some(request) = &mut self.asked {
            request.ticks_left = request.ticks_left.saturating_sub(1);
            if request.ticks_left == 0 {
                let peer = request.peer;
                self.peers[peer].silences += 1;
                self.note_failure(peer, PeerOutcome::Silent);
            }
        }
    }

    /// Messages to `peer` were lost, so no response will come.
    pub(crate) fn handle_unreachable(&mut self, peer: NodeId) {
        if let Some(request) =
            self.asked.as_ref().filter(|request| self.peers[request.peer].node == peer)
        {
            let peer = request.peer;
            self.note_failure(peer, PeerOutcome::Silent);
        }
    }

    /// The next request, if one is due.
    pub(crate) fn ask(&mut self) -> Option<Message> {
        if self.asked.is_some() || self.backoff_ticks > 0 || self.peers.is_empty() {
            return None;
        }
        let raft_indexes = self.next_range()?;
        let peer = self.next_peer % self.peers.len();
        let number = self.number;
        self.number += 1;
        let ticks_left = self.timeout_ticks << self.peers[peer].silences.min(DOUBLINGS_MAX);
        self.asked =
            Some(OpenRequest { number, peer, raft_indexes: raft_indexes.clone(), ticks_left });
        let repair_body = RepairBody::FetchRequest(FetchRequest {
            number,
            raft_indexes,
            bytes_max: self.window_bytes,
        });
        Some(RepairMessage { from: self.node, to: self.peers[peer].node, repair_body }.into())
    }

    /// The next range to request: the first corrupt range, those near it, and one batch behind,
    /// which may prove them.
    fn next_range(&self) -> Option<Range<u64>> {
        let mut ranges = self
            .corruption
            .iter()
            .map(|corruption| &corruption.raft_indexes)
            .filter(|range| !range.is_empty());
        let first = ranges.next()?;
        let mut end = first.end;
        for range in ranges.take_while(|range| range.end - first.start < BATCHES_MAX) {
            if range.start > end + MERGE_DISTANCE {
                break;
            }
            end = end.max(range.end);
        }
        let start = self.probe.unwrap_or(first.start);
        Some(start..(end + 1).min(start + BATCHES_MAX))
    }

    /// A peer has responded. Returns what the response proves.
    pub(crate) fn handle_response(
        &mut self,
        from: NodeId,
        response: FetchResponse,
    ) -> Option<RepairStep> {
        // Otherwise it does not belong to the last request: it is late, or forged.
        let request = self.asked.take_if(|request| {
            request.number == response.number && self.peers[request.peer].node == from
        })?;
        self.peers[request.peer].silences = 0;
        let verdict = self.evaluate(&request.raft_indexes, response);
        match verdict {
            Ok(repair_step) => Some(repair_step),
            Err(Unproved::Probe(from)) => {
                self.probe = Some(from);
                None
            }
            Err(Unproved::Not(outcome)) => {
                self.note_failure(request.peer, outcome);
                None
            }
        }
    }

    /// The storage did not take the last step.
    pub(crate) fn reject(&mut self, from: NodeId) {
        if let Some(peer) = self.peers.iter().position(|peer| peer.node == from) {
            self.note_failure(peer, PeerOutcome::NotApplied);
        }
    }

    /// Whether no batch is missing, and the local repair of the rest is due again.
    pub(crate) fn can_repair_locally(&mut self) -> bool {
        let is_due = self.backoff_ticks == 0 && self.lowest() == 0;
        if is_due {
            self.backoff_ticks = self.timeout_ticks;
        }
        is_due
    }

    pub(crate) fn has_peers(&self) -> bool {
        !self.peers.is_empty()
    }

    fn note_failure(&mut self, peer: usize, outcome: PeerOutcome) {
        self.asked = None;
        if outcome != PeerOutcome::Silent {
            // Without a response the search for the conflict goes on with the next peer.
            self.probe = None;
        }
        self.peers[peer].outcome = Some(outcome);
        self.next_peer = peer + 1;
        self.failures += 1;
        if self.failures >= self.peers.len() {
            (self.failures, self.backoff_ticks) = (0, self.timeout_ticks);
        }
    }

    fn evaluate(
        &self,
        next_range: &Range<u64>,
        response: FetchResponse,
    ) -> Result<RepairStep, Unproved> {
        let (mut batches, theirs) = match response.batches {
            Ok(given) => given,
            Err(FetchError::Purged(base)) => return self.evaluate_purged(base),
            Err(FetchError::LogEnd(end)) if self.point(end.raft_index) == Some(end) => {
                return self.evaluate_end(next_range, end);
            }
            // This log is longer than one with a later commit: they may conflict long before.
            Err(FetchError::NotReached | FetchError::LogEnd(_))
                if self.probe.is_none()
                    && response.commit > self.commit
                    && self.commit.max(self.base) + 1 < next_range.start =>
            {
                return Err(Unproved::Probe(self.commit.max(self.base) + 1));
            }
            Err(fetch_error) => return Err(Unproved::Not(PeerOutcome::Lacks(fetch_error))),
        };
        let first = batches.first().map_or(0, Batch::raft_index);
        let last = batches.last().map_or(0, Batch::raft_index);
        if first != next_range.start
            || last >= next_range.end
            || batches.iter().any(|batch| batch.verify().is_err())
        {
            return Err(Unproved::Not(PeerOutcome::Wrong));
        }
        let before = self.point(first - 1).ok_or(Unproved::Not(PeerOutcome::Unproved))?;
        let points = points(&before, &batches);
        if points.last() != Some(&theirs) {
            // The same batches behind different log points: the logs conflict before. If the
            // batches of the sender are committed, this log is wrong.
            let is_sound = points.len() < batches.len()
                || points.last().is_some_and(|point| point.raft_index == theirs.raft_index);
            let parted = is_sound
                && response.commit + 1 >= first
                && self.commit + 1 < first
                && self.probe.is_none();
            return Err(if parted {
                Unproved::Probe(self.commit.max(self.base) + 1)
            } else {
                Unproved::Not(PeerOutcome::Wrong)
            });
        }
        let known = |point: &LogPoint| self.known(point.raft_index);
        let other = points
            .iter()
            .position(|point| known(point).is_some_and(|known| known != (point.term, point.chain)));
        if let Some(other) = other {
            let parted = points[other].raft_index;
            if parted <= response.commit && parted > self.commit {
                let committed =
                    points.iter().take_while(|point| point.raft_index <= response.commit).count();
                batches.truncate(committed);
                return Ok(RepairStep::Replace(batches));
            }
            return Err(Unproved::Not(PeerOutcome::Unproved));
        }
        let is_proof = |point: &LogPoint| {
            known(point).is_some() || point.raft_index <= response.commit || point.term >= self.term
        };
        let proved = points.iter().rposition(is_proof).map_or(0, |at| at + 1);
        batches.truncate(proved);
        // Batches behind the end of this log prove those within it. They are not applied: this node
        // gets them when it takes part again.
        let reach = self
            .corruption
            .iter()
            .map(|corruption| corruption.raft_indexes.end.saturating_sub(1))
            .fold(self.last.raft_index, u64::max);
        match points[..proved].iter().rfind(|point| point.raft_index <= reach) {
            None => Err(Unproved::Not(PeerOutcome::Unproved)),
            Some(end) if !self.is_continued_by_log(end) => {
                // The next batches here conflict. They were never committed if the proved ones are
                // committed, or are of a later term.
                let gives_way = end.raft_index <= response.commit || end.term > self.term;
                if gives_way && end.raft_index >= self.commit {
                    Ok(RepairStep::Replace(batches))
                } else {
                    Err(Unproved::Not(PeerOutcome::Unproved))
                }
            }
            Some(_) if self.probe.is_some() && last < self.lowest() => {
                Err(Unproved::Probe(last + 1))
            }
            Some(_) => self.up_to_last_corrupt(batches),
        }
    }

    /// Of proved batches, those up to the last that is corrupt here.
    fn up_to_last_corrupt(&self, mut batches: Vec<Batch>) -> Result<RepairStep, Unproved> {
        let is_damaged = |batch: &Batch| {
            self.corruption
                .iter()
                .any(|corruption| corruption.raft_indexes.contains(&batch.raft_index()))
        };
        batches.truncate(batches.iter().rposition(is_damaged).map_or(0, |at| at + 1));
        if batches.is_empty() {
            Err(Unproved::Not(PeerOutcome::Unproved))
        } else {
            Ok(RepairStep::Fill(batches))
        }
    }

    /// A peer has purged the requested batches: its log begins behind `base`, which is committed.
    /// If this log begins there too, some of the corruption is gone, and the rest can be fetched.
    fn evaluate_purged(&self, base: LogPoint) -> Result<RepairStep, Unproved> {
        let lacks = Unproved::Not(PeerOutcome::Lacks(FetchError::Purged(base)));
        let committed = self.point(self.commit);
        let is_beyond = committed.is_none_or(|here| {
            here.next_index <= base.next_index && here.next_position <= base.next_position
        });
        if base.raft_index <= self.base || !(is_beyond || base.raft_index < self.commit) {
            return Err(lacks);
        }
        if self.lowest() <= base.raft_index {
            return Ok(RepairStep::TruncateHead(base));
        }
        // The base is before the corruption, in the search for the conflict.
        match self.point(base.raft_index) {
            Some(here) if here == base && self.probe.is_some() => {
                Err(Unproved::Probe(base.raft_index + 1))
            }
            Some(here) if here != base && base.raft_index > self.commit => {
                Ok(RepairStep::TruncateHead(base))
            }
            _ => Err(lacks),
        }
    }

    /// The log of a leader ends at a log point that this log has too, before the requested range.
    /// Replacing the last batch there truncates what lies behind it.
    fn evaluate_end(&self, next_range: &Range<u64>, end: LogPoint) -> Result<RepairStep, Unproved> {
        let is_proof = end.term >= self.term
            && end.raft_index < next_range.start
            && end.raft_index >= self.commit;
        let last = self.reader.batches(end.raft_index, end.raft_index + 1, 0).unwrap_or_default();
        if is_proof && !last.is_empty() {
            Ok(RepairStep::Replace(last))
        } else {
            Err(Unproved::Not(PeerOutcome::Lacks(FetchError::LogEnd(end))))
        }
    }

    /// The first corrupt raft index.
    fn lowest(&self) -> u64 {
        self.corruption
            .iter()
            .map(|corruption| &corruption.raft_indexes)
            .find(|range| !range.is_empty())
            .map_or(0, |range| range.start)
    }

    /// Term and chain value after a batch as this node still knows them, corrupt or not.
    fn known(&self, raft_index: u64) -> Option<(u64, u32)> {
        if let Some(point) = self.point(raft_index) {
            return Some((point.term, point.chain));
        }
        let told = self
            .corruption
            .iter()
            .find(|corruption| corruption.raft_indexes.end == raft_index + 1)
            .and_then(|corruption| corruption.term.zip(corruption.chain));
        told.or_else(|| {
            self.reader
                .verify_batch(raft_index)
                .ok()
                .flatten()
                .and_then(|corruption| corruption.term.zip(corruption.chain))
        })
    }

    fn point(&self, raft_index: u64) -> Option<LogPoint> {
        self.reader.point(raft_index).ok().flatten()
    }

    /// Whether the batches of this log behind `point` may continue it, as far as they can be read.
    /// A conflicting batch does not, nor does one of an older term.
    fn is_continued_by_log(&self, point: &LogPoint) -> bool {
        let next = point.raft_index + 1;
        let newest_term =
            if self.last.raft_index > point.raft_index { self.last.term } else { self.term };
        let batch = self
            .reader
            .batches(next, next + 1, 0)
            .ok()
            .and_then(|batches| batches.into_iter().next());
        match (batch, self.point(next)) {
            _ if point.term > newest_term => false,
            (Some(batch), Some(known)) => batch.point_after(point) == Ok(known),
            _ => true,
        }
    }

    /// A text for operators: what is corrupt, and why it still is.
    pub(crate) fn account(&self) -> String {
        let Some(first) = self.corruption.first() else {
            return "nothing is damaged any more".to_owned();
        };
        let more = match self.corruption.len() {
            1 => String::new(),
            count => format!(", and {} more places", count - 1),
        };
        let heard: Vec<String> = self
            .peers
            .iter()
            .filter_map(|peer| Some(format!("node {} {}", peer.node, peer.outcome?.text())))
            .collect();
        let heard = if heard.is_empty() { "asking its peers".to_owned() } else { heard.join(", ") };
        format!(
            "its log is damaged: {first}{more}. What is intact can be read here. The node takes no \
             part until its peers have sent the rest again: {heard}"
        )
    }
}

impl PeerOutcome {
    fn text(self) -> &'static str {
        match self {
            PeerOutcome::Silent => "does not answer",
            PeerOutcome::Lacks(FetchError::Corrupt) => "is damaged there too",
            PeerOutcome::Lacks(FetchError::NotReached | FetchError::LogEnd(_)) => {
                "does not have it"
            }
            PeerOutcome::Lacks(FetchError::Purged(_)) => "has purged it",
            PeerOutcome::Unproved => {
                "has a batch there, and nothing proves yet that it is the same"
            }
            PeerOutcome::Wrong => "has sent what cannot be",
            PeerOutcome::NotApplied => "has sent it, and it could not be put into this log",
        }
    }
}

enum Unproved {
    /// The logs conflict before the requested range: request from here on.
    Probe(u64),
    Not(PeerOutcome),
}

/// The log points after each of `batches` behind `before`, as far as they follow.
fn points(before: &LogPoint, batches: &[Batch]) -> Vec<LogPoint> {
    let mut point = *before;
    batches
        .iter()
        .map_while(|batch| batch.point_after(&point).ok().inspect(|next| point = *next))
        .collect()
}

/// Serves a fetch request with the batches of this log, as far as they are intact.
/// `leader_last_index` is the raft index of the last batch, if this node leads.
pub(crate) fn serve_fetch(
    reader: &dyn LogReader,
    commit: u64,
    leader_last_index: Option<u64>,
    request: &FetchRequest,
    window_bytes: u64,
) -> FetchResponse {
    let Range { start, end } = request.raft_indexes.clone();
    let batches = match reader.batches(
        start,
        end.min(start.saturating_add(BATCHES_MAX)),
        request.bytes_max.min(window_bytes),
    ) {
        Ok(batches) if batches.is_empty() => Err(end_of(reader, start, leader_last_index)),
        Ok(batches) => with_end_point(reader, batches),
        Err(StorageError::Purged { .. }) => Err(FetchError::Purged(reader.base().point)),
        Err(_) => Err(FetchError::Corrupt),
    };
    FetchResponse { number: request.number, commit, batches }
}

/// The error for a log that does not reach `start`. The log of a leader may lack batches that were
/// sent already: then its end is not known here.
fn end_of(reader: &dyn LogReader, start: u64, leader_last_index: Option<u64>) -> FetchError {
    let end = leader_last_index
        .filter(|last| *last < start)
        .and_then(|last| reader.point(last).ok().flatten());
    end.map_or(FetchError::NotReached, FetchError::LogEnd)
}

fn with_end_point(
    reader: &dyn LogReader,
    batches: Vec<Batch>,
) -> Result<(Vec<Batch>, LogPoint), FetchError> {
    let last = batches.last().ok_or(FetchError::NotReached)?.raft_index();
    match reader.point(last) {
        Ok(Some(point)) => Ok((batches, point)),
        // Truncated in between.
        Ok(None) => Err(FetchError::NotReached),
        Err(_) => Err(FetchError::Corrupt),
    }
}

#[cfg(test)]
mod tests;
