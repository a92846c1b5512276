//! How fast a leader gives a follower that lags what it lacks, while hosts append.
//!
//! Raft sends such a follower as much as it takes, and the appends pay for it. Here a message of
//! batches that are committed already is held until the follower may have it, and so is what comes
//! behind it. To Raft that is a network that delivers late.
//!
//! A follower may have so many bytes a tick, or [`CATCH_UP_RATIO`] of what is appended if that is
//! more: it comes nearer whatever the load. While nothing is committed nothing is held, for then
//! nobody appends, or the appends wait for this very follower.

use std::collections::VecDeque;

use crate::entry::NodeId;
use crate::message::Message;

/// What a follower may have of all that is appended. Above one, or it would never arrive; what is
/// above one is what it comes nearer by.
const CATCH_UP_RATIO: (u64, u64) = (5, 4);

/// How many messages are held for one follower. Raft sends 64 without an answer, and one more with
/// each heartbeat. Beyond this they are lost, which Raft finds out as it does of any other.
const HELD_MESSAGES_MAX: usize = 128;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct CatchUpPacer {
    /// What a follower may have in a tick at least, in bytes.
    per_tick: u64,
    /// What one that lagged all the time may have had so far, in bytes; and what it was at the last
    /// tick.
    allowed: u64,
    allowed_at_tick: u64,
    commit_at_tick: u64,
    /// Whether anything was committed between the last two ticks. If not, nothing is held.
    is_busy: bool,
    lanes: Vec<PeerQueue>,
}

/// The way to one follower.
#[derive(Debug)]
struct PeerQueue {
    peer: NodeId,
    /// What it had, as `allowed` counts it: what it did not need is not saved up for it, but for a
    /// tick.
    had: u64,
    held: VecDeque<Message>,
}

impl CatchUpPacer {
    /// `per_tick`: what a follower may have in a tick in any case, in bytes. With `u64::MAX`
    /// nothing is held.
    pub(super) fn new(per_tick: u64) -> CatchUpPacer {
        CatchUpPacer {
            per_tick,
            allowed: 0,
            allowed_at_tick: 0,
            commit_at_tick: 0,
            is_busy: false,
            lanes: Vec::new(),
        }
    }

    /// So many bytes were appended.
    pub(super) fn appended(&mut self, bytes: usize) {
        self.allowed =
            self.allowed.saturating_add(bytes as u64 * CATCH_UP_RATIO.0 / CATCH_UP_RATIO.1);
    }

    /// A tick has passed, and everything up to `commit` is committed.
    pub(super) fn tick(&mut self, commit: u64) {
        self.is_busy = commit > self.commit_at_tick;
        self.commit_at_tick = commit;
        self.allowed = self.allowed.max(self.allowed_at_tick.saturating_add(self.per_tick));
        self.allowed_at_tick = self.allowed;
    }

    /// Keeps back what must wait. Gives the others.
    pub(super) fn hold(&mut self, messages: Vec<Message>, commit: u64) -> Vec<Message> {
        if !self.is_busy {
            return messages;
        }
        messages.into_iter().filter_map(|message| self.pass(message, commit)).collect()
    }

    fn pass(&mut self, message: Message, commit: u64) -> Option<Message> {
        let Some((last, bytes)) = message.append() else { return Some(message) };
        let (allowed, saved_max) = (self.allowed, self.per_tick);
        let lane = self.lane(message.to());
        if lane.held.is_empty() {
            let is_late = bytes > 0 && last <= commit;
            lane.had = lane.had.max(allowed.saturating_sub(saved_max));
            if !is_late || lane.had <= allowed {
                lane.had += if is_late { bytes } else { 0 };
                return Some(message);
            }
        }
        if lane.held.len() < HELD_MESSAGES_MAX {
            lane.held.push_back(message);
        }
        None
    }

    /// What need not wait any longer, in the order in which it came.
    pub(super) fn release(&mut self) -> Vec<Message> {
        let mut released = Vec::new();
        for lane in &mut self.lanes {
            while (lane.had <= self.allowed || !self.is_busy)
                && let Some(message) = lane.held.pop_front()
            {
                lane.had += message.append().map_or(0, |(_, bytes)| bytes);
                released.push(message);
            }
        }
        released
    }

    /// Messages to `peer` were lost, and Raft asks anew what it has.
    pub(super) fn forget(&mut self, peer: NodeId) {
        self.lanes.retain(|lane| lane.peer != peer);
    }

    /// This node does not lead: what it had to say is said by another.
    pub(super) fn clear(&mut self) {
        self.lanes.clear();
    }

    fn lane(&mut self, peer: NodeId) -> &mut PeerQueue {
        let at = self.lanes.iter().position(|lane| lane.peer == peer).unwrap_or_else(|| {
            self.lanes.push(PeerQueue { peer, had: 0, held: VecDeque::new() });
            self.lanes.len() - 1
        });
        &mut self.lanes[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 100;

    /// The message with batch `number` alone.
    fn message(number: u64) -> Message {
        Message::sample(NodeId::from(1), NodeId::from(2), number - 1, BYTES)
    }

    fn numbers(messages: &[Message]) -> Vec<u64> {
        messages.iter().map(|message| message.append().unwrap().0).collect()
    }

    /// Batches 1 to `commit` are committed, in this very tick.
    fn busy(per_tick: u64, commit: u64) -> CatchUpPacer {
        let mut pace = CatchUpPacer::new(per_tick);
        pace.tick(commit);
        pace
    }

    /// The numbers of those that are not held.
    fn sent(
        pace: &mut CatchUpPacer,
        range: std::ops::RangeInclusive<u64>,
        commit: u64,
    ) -> Vec<u64> {
        numbers(&pace.hold(range.map(message).collect(), commit))
    }

    #[test]
    fn who_lags_has_a_quarter_more_than_is_appended_and_in_order() {
        let mut pace = busy(1, 10);
        assert_eq!(sent(&mut pace, 1..=10, 10), [1], "what it may have is less than a batch");
        let mut had = Vec::new();
        for _ in 0..4 {
            pace.appended(BYTES);
            had.extend(numbers(&pace.release()));
        }
        assert_eq!(had, [2, 3, 4, 5, 6], "five for four");
    }

    #[test]
    fn who_lags_has_what_is_allowed_in_a_tick_however_little_is_appended() {
        let mut pace = busy(3 * BYTES as u64, 10);
        assert_eq!(sent(&mut pace, 1..=10, 10), [1, 2, 3, 4]);
        pace.appended(BYTES);
        pace.tick(11);
        assert_eq!(numbers(&pace.release()), [5, 6, 7], "what was appended is part of it");
    }

    #[test]
    fn who_is_level_is_never_held_and_the_newest_waits_behind_what_is_late() {
        let mut pace = busy(1, 10);
        assert_eq!(sent(&mut pace, 11..=20, 10), (11..=20).collect::<Vec<u64>>());
        assert_eq!(sent(&mut pace, 9..=10, 10), [9]);
        assert_eq!(
            sent(&mut pace, 11..=11, 10),
            [0; 0],
            "it would be refused for want of the one before it"
        );
        let others = vec![
            Message::forge(&["heartbeat", "from=1", "to=2"]),
            Message::sample(NodeId::from(1), NodeId::from(3), 4, BYTES),
        ];
        assert_eq!(pace.hold(others, 10).len(), 2, "only the way to that follower is held up");
        pace.appended(10 * BYTES);
        assert_eq!(numbers(&pace.release()), [10, 11]);
    }

    #[test]
    fn what_only_tells_of_a_commit_is_not_late() {
        let mut pace = busy(1, 10);
        assert_eq!(sent(&mut pace, 9..=9, 10), [9]);
        let empty =
            Message::forge(&["append", "from=1", "to=2", "term=1", "after=9/1", "commit=9"]);
        assert_eq!(
            pace.hold(vec![empty], 10).len(),
            1,
            "it takes nothing of what the follower may have"
        );
    }

    #[test]
    fn nothing_is_held_once_nothing_is_committed() {
        let mut pace = busy(1, 10);
        assert_eq!(sent(&mut pace, 1..=3, 10), [1]);
        pace.tick(10);
        assert_eq!(numbers(&pace.release()), [2, 3]);
        assert_eq!(sent(&mut pace, 4..=10, 10), (4..=10).collect::<Vec<u64>>());
    }

    #[test]
    fn what_nobody_needed_is_not_saved_up() {
        let mut pace = busy(1, 10);
        pace.appended(1000 * BYTES);
        assert_eq!(sent(&mut pace, 1..=10, 10), [1]);
    }

    #[test]
    fn what_is_held_is_bounded_and_forgotten_with_its_peer_or_the_leadership() {
        let mut pace = busy(1, 10_000);
        sent(&mut pace, 1..=10_000, 10_000);
        pace.appended(10_000 * BYTES);
        assert_eq!(
            numbers(&pace.release()),
            (2..=HELD_MESSAGES_MAX as u64 + 1).collect::<Vec<u64>>()
        );
        for forget in [|pace: &mut CatchUpPacer| pace.forget(NodeId::from(2)), CatchUpPacer::clear]
        {
            let mut pace = busy(1, 10);
            sent(&mut pace, 1..=10, 10);
            forget(&mut pace);
            pace.tick(10);
            assert!(pace.release().is_empty());
        }
    }

    #[test]
    fn without_a_bound_nothing_is_held() {
        let mut pace = busy(u64::MAX, 10);
        for _ in 0..3 {
            pace.appended(usize::MAX / 8);
            pace.tick(20);
            assert_eq!(sent(&mut pace, 1..=10, 10), (1..=10).collect::<Vec<u64>>());
        }
    }
}
