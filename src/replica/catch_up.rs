//! Token bucket for lagging followers.
//!
//! Raft sends a lagging follower as much as it takes, at the expense of appends. So while appends
//! commit, each lagging follower gets a fixed number of bytes a tick, or [`CATCH_UP_RATIO`] of the
//! append rate if that is more: it always converges. Delayed are messages of batches that are
//! committed already, and what queues behind them. To Raft that is a slow network.
//!
//! While nothing commits, nothing is delayed: then there are no appends, or they wait for this very
//! follower.

use std::collections::VecDeque;

use crate::entry::NodeId;
use crate::message::Message;

/// The share of the append rate that a lagging follower gets. The part above one is the rate at
/// which it catches up.
const CATCH_UP_RATIO: (u64, u64) = (5, 4);

/// Messages that are held for one follower. Raft sends 64 without a response, and one more with
/// each heartbeat. Further ones are dropped, and Raft handles that like any loss.
const HELD_MESSAGES_MAX: usize = 128;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct CatchUpPacer {
    /// The least that a follower gets in a tick, in bytes.
    per_tick: u64,
    /// Tokens granted so far, in bytes; and as of the last tick.
    allowed: u64,
    allowed_at_tick: u64,
    commit_at_tick: u64,
    /// Whether anything was committed between the last two ticks. If not, nothing is held.
    is_busy: bool,
    queues: Vec<PeerQueue>,
}

/// The delayed messages of one follower.
#[derive(Debug)]
struct PeerQueue {
    peer: NodeId,
    /// Tokens spent, on the scale of `allowed`. Unused tokens are kept for one tick only.
    sent: u64,
    held: VecDeque<Message>,
}

impl CatchUpPacer {
    /// `per_tick`: the least that a follower gets in a tick, in bytes. With `u64::MAX`
    /// nothing is held.
    pub(super) fn new(per_tick: u64) -> CatchUpPacer {
        CatchUpPacer {
            per_tick,
            allowed: 0,
            allowed_at_tick: 0,
            commit_at_tick: 0,
            is_busy: false,
            queues: Vec::new(),
        }
    }

    /// Grants tokens for appended bytes.
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

    /// Holds the messages that must wait. Returns the others.
    pub(super) fn hold(&mut self, messages: Vec<Message>, commit: u64) -> Vec<Message> {
        if !self.is_busy {
            return messages;
        }
        messages.into_iter().filter_map(|message| self.pass(message, commit)).collect()
    }

    fn pass(&mut self, message: Message, commit: u64) -> Option<Message> {
        let Some((last, bytes)) = message.append() else { return Some(message) };
        let (allowed, saved_max) = (self.allowed, self.per_tick);
        let queue = self.queue(message.to());
        if queue.held.is_empty() {
            let is_late = bytes > 0 && last <= commit;
            queue.sent = queue.sent.max(allowed.saturating_sub(saved_max));
            if !is_late || queue.sent <= allowed {
                queue.sent += if is_late { bytes } else { 0 };
                return Some(message);
            }
        }
        if queue.held.len() < HELD_MESSAGES_MAX {
            queue.held.push_back(message);
        }
        None
    }

    /// Returns the held messages that are due, in order.
    pub(super) fn release(&mut self) -> Vec<Message> {
        let mut released = Vec::new();
        for queue in &mut self.queues {
            while (queue.sent <= self.allowed || !self.is_busy)
                && let Some(message) = queue.held.pop_front()
            {
                queue.sent += message.append().map_or(0, |(_, bytes)| bytes);
                released.push(message);
            }
        }
        released
    }

    /// Messages to `peer` were lost, and Raft probes its log again.
    pub(super) fn forget(&mut self, peer: NodeId) {
        self.queues.retain(|queue| queue.peer != peer);
    }

    /// Drops everything: this node does not lead.
    pub(super) fn clear(&mut self) {
        self.queues.clear();
    }

    fn queue(&mut self, peer: NodeId) -> &mut PeerQueue {
        let at = self.queues.iter().position(|queue| queue.peer == peer).unwrap_or_else(|| {
            self.queues.push(PeerQueue { peer, sent: 0, held: VecDeque::new() });
            self.queues.len() - 1
        });
        &mut self.queues[at]
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
        let mut pacer = CatchUpPacer::new(per_tick);
        pacer.tick(commit);
        pacer
    }

    /// The numbers of those that are not held.
    fn sent(
        pacer: &mut CatchUpPacer,
        range: std::ops::RangeInclusive<u64>,
        commit: u64,
    ) -> Vec<u64> {
        numbers(&pacer.hold(range.map(message).collect(), commit))
    }

    #[test]
    fn who_lags_has_a_quarter_more_than_is_appended_and_in_order() {
        let mut pacer = busy(1, 10);
        assert_eq!(sent(&mut pacer, 1..=10, 10), [1], "what it may have is less than a batch");
        let mut had = Vec::new();
        for _ in 0..4 {
            pacer.appended(BYTES);
            had.extend(numbers(&pacer.release()));
        }
        assert_eq!(had, [2, 3, 4, 5, 6], "five for four");
    }

    #[test]
    fn who_lags_has_what_is_allowed_in_a_tick_however_little_is_appended() {
        let mut pacer = busy(3 * BYTES as u64, 10);
        assert_eq!(sent(&mut pacer, 1..=10, 10), [1, 2, 3, 4]);
        pacer.appended(BYTES);
        pacer.tick(11);
        assert_eq!(numbers(&pacer.release()), [5, 6, 7], "what was appended is part of it");
    }

    #[test]
    fn who_is_level_is_never_held_and_the_newest_waits_behind_what_is_late() {
        let mut pacer = busy(1, 10);
        assert_eq!(sent(&mut pacer, 11..=20, 10), (11..=20).collect::<Vec<u64>>());
        assert_eq!(sent(&mut pacer, 9..=10, 10), [9]);
        assert_eq!(
            sent(&mut pacer, 11..=11, 10),
            [0; 0],
            "it would be refused for want of the one before it"
        );
        let others = vec![
            Message::forge(&["heartbeat", "from=1", "to=2"]),
            Message::sample(NodeId::from(1), NodeId::from(3), 4, BYTES),
        ];
        assert_eq!(pacer.hold(others, 10).len(), 2, "only the way to that follower is held up");
        pacer.appended(10 * BYTES);
        assert_eq!(numbers(&pacer.release()), [10, 11]);
    }

    #[test]
    fn what_only_tells_of_a_commit_is_not_late() {
        let mut pacer = busy(1, 10);
        assert_eq!(sent(&mut pacer, 9..=9, 10), [9]);
        let empty =
            Message::forge(&["append", "from=1", "to=2", "term=1", "after=9/1", "commit=9"]);
        assert_eq!(
            pacer.hold(vec![empty], 10).len(),
            1,
            "it takes nothing of what the follower may have"
        );
    }

    #[test]
    fn nothing_is_held_once_nothing_is_committed() {
        let mut pacer = busy(1, 10);
        assert_eq!(sent(&mut pacer, 1..=3, 10), [1]);
        pacer.tick(10);
        assert_eq!(numbers(&pacer.release()), [2, 3]);
        assert_eq!(sent(&mut pacer, 4..=10, 10), (4..=10).collect::<Vec<u64>>());
    }

    #[test]
    fn budget_that_was_not_needed_is_not_saved_up() {
        let mut pacer = busy(1, 10);
        pacer.appended(1000 * BYTES);
        assert_eq!(sent(&mut pacer, 1..=10, 10), [1]);
    }

    #[test]
    fn what_is_held_is_bounded_and_forgotten_with_its_peer_or_the_leadership() {
        let mut pacer = busy(1, 10_000);
        sent(&mut pacer, 1..=10_000, 10_000);
        pacer.appended(10_000 * BYTES);
        assert_eq!(
            numbers(&pacer.release()),
            (2..=HELD_MESSAGES_MAX as u64 + 1).collect::<Vec<u64>>()
        );
        for forget in
            [|pacer: &mut CatchUpPacer| pacer.forget(NodeId::from(2)), CatchUpPacer::clear]
        {
            let mut pacer = busy(1, 10);
            sent(&mut pacer, 1..=10, 10);
            forget(&mut pacer);
            pacer.tick(10);
            assert!(pacer.release().is_empty());
        }
    }

    #[test]
    fn without_a_bound_nothing_is_held() {
        let mut pacer = busy(u64::MAX, 10);
        for _ in 0..3 {
            pacer.appended(usize::MAX / 8);
            pacer.tick(20);
            assert_eq!(sent(&mut pacer, 1..=10, 10), (1..=10).collect::<Vec<u64>>());
        }
    }
}
