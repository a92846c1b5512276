//! Linearizable points that were asked for: who waits, what was asked of the leader, and which commit is to be waited for.
//!
//! A question to the leader is a round: one exchange of heartbeats, shared by all who wait when it begins. raft-rs drops questions silently
//! (the leader has changed, has not committed in its term yet, or a message was lost), so an unanswered question is asked again after a while.
//! An answer may also just be slow, because followers answer heartbeats behind their disks; so earlier rounds stay open, and an answer to any
//! of them counts for all who waited when it began. Were only the newest round to count, a group whose disks are slower than this patience
//! would never answer.

use std::collections::VecDeque;

use super::{Settings, mix};

/// Beyond this the oldest round is given up, and those who wait for it wait for the next: rounds without a quorum do not pile up.
const ROUNDS_MAX: usize = 64;

/// A question under way.
struct Round {
    context: Vec<u8>,
    /// Those who wait since it began, and not since an earlier one.
    waiting: Vec<u64>,
}

/// See the [module](self).
pub(super) struct Barriers {
    node: u64,
    /// Tells the questions of this life of the node from those of an earlier one.
    life: u64,
    rounds_so_far: u64,
    patience_ticks: u64,
    ticks: u64,
    /// When the newest round began.
    asked_at: u64,
    /// Those whom no round covers yet.
    new: Vec<u64>,
    /// Oldest first. Empty if nobody waits in them.
    rounds: VecDeque<Round>,
    /// Answered, but not yet committed here.
    confirmed: Vec<(u64, Vec<u64>)>,
}

impl Barriers {
    pub(super) fn new(settings: &Settings) -> Barriers {
        Barriers {
            node: settings.node.get(),
            life: mix(settings.seed),
            rounds_so_far: 0,
            patience_ticks: settings.heartbeat_ticks as u64,
            ticks: 0,
            asked_at: 0,
            new: Vec::new(),
            rounds: VecDeque::new(),
            confirmed: Vec::new(),
        }
    }

    pub(super) fn wait(&mut self, id: u64) {
        self.new.push(id);
    }

    /// Nobody waits for this one any more.
    pub(super) fn forget(&mut self, id: u64) {
        let lists = self.rounds.iter_mut().map(|round| &mut round.waiting).chain(self.confirmed.iter_mut().map(|(_, waiting)| waiting));
        lists.chain([&mut self.new]).for_each(|waiting| waiting.retain(|waits| *waits != id));
        self.end_idle_rounds();
    }

    /// The context of a new round, if somebody waits for one and none is under way.
    pub(super) fn ask(&mut self) -> Option<Vec<u8>> {
        if self.new.is_empty() || !self.rounds.is_empty() { None } else { Some(self.begin()) }
    }

    /// A tick has passed. The context of another round, if the ones under way are slow.
    pub(super) fn tick(&mut self) -> Option<Vec<u8>> {
        self.ticks += 1;
        let slow = !self.rounds.is_empty() && self.ticks >= self.asked_at + self.patience_ticks;
        slow.then(|| self.begin())
    }

    /// Whom to ask has changed, so the rounds under way may never be answered.
    pub(super) fn ask_again(&mut self) {
        self.new.extend(self.rounds.drain(..).flat_map(|round| round.waiting));
    }

    fn begin(&mut self) -> Vec<u8> {
        self.rounds_so_far += 1;
        self.asked_at = self.ticks;
        let context: Vec<u8> = [self.node, self.life, self.rounds_so_far].iter().flat_map(|word| word.to_le_bytes()).collect();
        self.rounds.push_back(Round { context: context.clone(), waiting: std::mem::take(&mut self.new) });
        if self.rounds.len() > ROUNDS_MAX
            && let Some(oldest) = self.rounds.pop_front()
        {
            self.rounds[0].waiting.extend(oldest.waiting);
        }
        context
    }

    /// The leader has answered: whoever waited when this round began waits for the commit of `raft_index`.
    pub(super) fn confirm(&mut self, context: &[u8], raft_index: u64) {
        let Some(at) = self.rounds.iter().position(|round| round.context == context) else { return };
        let waiting = self.rounds.drain(..=at).flat_map(|round| round.waiting).collect();
        self.confirmed.push((raft_index, waiting));
        self.end_idle_rounds();
    }

    /// Those whose point the commit has reached.
    pub(super) fn release(&mut self, commit: u64) -> Vec<u64> {
        let held = self.confirmed.extract_if(.., |(raft_index, _)| *raft_index <= commit);
        held.flat_map(|(_, ids)| ids).collect()
    }

    fn end_idle_rounds(&mut self) {
        if self.rounds.iter().all(|round| round.waiting.is_empty()) {
            self.rounds.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds are asked again after two ticks.
    fn barriers() -> Barriers {
        Barriers::new(&Settings {
            group: String::new(),
            node: 1.into(),
            election_ticks: 10,
            heartbeat_ticks: 2,
            message_bytes: 1,
            counts_unsynced: false,
            seed: 7,
        })
    }

    #[test]
    fn all_who_wait_share_a_round_and_who_comes_later_waits_for_the_next() {
        let mut barriers = barriers();
        assert_eq!(barriers.ask(), None);
        [1, 2].into_iter().for_each(|id| barriers.wait(id));
        let first = barriers.ask().unwrap();
        barriers.wait(3);
        assert_eq!(barriers.ask(), None, "one at a time");
        barriers.confirm(&first, 10);
        assert_eq!(barriers.release(9), [0; 0]);
        assert_eq!(barriers.release(10), [1, 2]);
        let second = barriers.ask().unwrap();
        assert_ne!(first, second);
        barriers.confirm(&second, 10);
        assert_eq!(barriers.release(10), [3]);
    }

    #[test]
    fn an_answer_that_comes_late_counts_for_those_who_waited_when_it_was_asked_for() {
        let mut barriers = barriers();
        barriers.wait(1);
        let first = barriers.ask().unwrap();
        barriers.wait(2);
        assert_eq!(barriers.tick(), None);
        let second = barriers.tick().unwrap();
        barriers.wait(3);
        barriers.confirm(&first, 10);
        assert_eq!(barriers.release(10), [1]);
        barriers.confirm(&second, 11);
        assert_eq!(barriers.release(11), [2]);
        barriers.confirm(&first, 12);
        assert_eq!(barriers.release(12), [0; 0], "no answer counts twice");
        assert!(barriers.ask().is_some(), "and the third asks for itself");
    }

    #[test]
    fn an_answer_to_a_later_round_counts_for_earlier_ones_and_ends_them() {
        let mut barriers = barriers();
        barriers.wait(1);
        barriers.ask().unwrap();
        barriers.tick();
        let second = barriers.tick().unwrap();
        barriers.confirm(&second, 10);
        assert_eq!(barriers.release(10), [1]);
        assert_eq!([barriers.tick(), barriers.tick(), barriers.tick()], [None, None, None]);
    }

    #[test]
    fn rounds_without_an_answer_do_not_pile_up_and_who_gave_up_is_forgotten() {
        let mut barriers = barriers();
        [1, 2].into_iter().for_each(|id| barriers.wait(id));
        let first = barriers.ask().unwrap();
        let newest = (0..1000).filter_map(|_| barriers.tick()).last().unwrap();
        assert_eq!(barriers.rounds.len(), ROUNDS_MAX);
        barriers.confirm(&first, 10);
        assert_eq!(barriers.release(10), [0; 0], "too old to be known");
        barriers.forget(1);
        barriers.confirm(&newest, 10);
        assert_eq!(barriers.release(10), [2]);
        barriers.wait(3);
        barriers.ask().unwrap();
        barriers.forget(3);
        assert!(barriers.rounds.is_empty(), "nobody waits, nothing is asked");
    }
}
