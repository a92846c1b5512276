//! Read barriers (ReadIndex, section 6.4 of the Raft thesis): the callers that wait, the request to
//! the leader, and the commit index to wait for.
//!
//! A request is a round: one exchange of heartbeats, shared by all barriers that wait when it
//! begins. raft-rs drops requests silently (the leader has changed, has not committed in its term
//! yet, or a message was lost), so a request without a response is sent again after a while. It
//! keeps its context: any response to it came after all barriers of the round had begun. With a new
//! context each time, a group whose disks are slower than this interval would never respond.

use super::election::splitmix64;
use super::settings::Settings;

/// A request in progress.
struct ReadIndexRound {
    context: Vec<u8>,
    asked_at: u64,
    waiting: Vec<u64>,
}

/// See the [module](self).
pub(super) struct Barriers {
    node: u64,
    /// Random. It tells the requests of this run of the node from those of earlier runs.
    run_id: u64,
    rounds: u64,
    retry_ticks: u64,
    ticks: u64,
    /// Barriers without a round yet.
    new: Vec<u64>,
    asked: Option<ReadIndexRound>,
    /// Confirmed by the leader, but not committed here yet.
    confirmed: Vec<(u64, Vec<u64>)>,
}

impl Barriers {
    pub(super) fn new(settings: &Settings) -> Barriers {
        Barriers {
            node: settings.node.get(),
            run_id: splitmix64(settings.seed),
            rounds: 0,
            retry_ticks: settings.heartbeat_ticks as u64,
            ticks: 0,
            new: Vec::new(),
            asked: None,
            confirmed: Vec::new(),
        }
    }

    /// The same, without waiting barriers. The count of rounds goes on: a response to an earlier
    /// request may still come, and must not be taken for a response to a new one.
    pub(super) fn reset(&self) -> Barriers {
        Barriers { new: Vec::new(), asked: None, confirmed: Vec::new(), ..*self }
    }

    pub(super) fn wait(&mut self, id: u64) {
        self.new.push(id);
    }

    /// Drops a barrier that is no longer waited for.
    pub(super) fn forget(&mut self, id: u64) {
        let asked = self.asked.iter_mut().map(|round| &mut round.waiting);
        let confirmed = self.confirmed.iter_mut().map(|(_, waiting)| waiting);
        asked
            .chain(confirmed)
            .chain([&mut self.new])
            .for_each(|waiting| waiting.retain(|waits| *waits != id));
        self.asked.take_if(|round| round.waiting.is_empty());
    }

    /// Begins a round if barriers wait for one and none is in progress. Returns its context.
    pub(super) fn ask(&mut self) -> Option<Vec<u8>> {
        if self.asked.is_some() || self.new.is_empty() {
            return None;
        }
        self.rounds += 1;
        let context: Vec<u8> = [self.node, self.run_id, self.rounds]
            .iter()
            .flat_map(|part| part.to_le_bytes())
            .collect();
        self.asked = Some(ReadIndexRound {
            context: context.clone(),
            asked_at: self.ticks,
            waiting: std::mem::take(&mut self.new),
        });
        Some(context)
    }

    /// The leader has changed, so the current round may never be confirmed.
    pub(super) fn ask_again(&mut self) {
        if let Some(mut round) = self.asked.take() {
            self.new.append(&mut round.waiting);
        }
    }

    /// A tick has passed. Returns the context of the current round if its request is due again.
    pub(super) fn tick(&mut self) -> Option<Vec<u8>> {
        self.ticks += 1;
        let round =
            self.asked.as_mut().filter(|round| self.ticks >= round.asked_at + self.retry_ticks)?;
        round.asked_at = self.ticks;
        Some(round.context.clone())
    }

    /// The leader has confirmed a round: its barriers now wait for the commit of `raft_index`.
    pub(super) fn confirm(&mut self, context: &[u8], raft_index: u64) {
        if let Some(round) = self.asked.take_if(|round| round.context == context) {
            self.confirmed.push((raft_index, round.waiting));
        }
    }

    /// Removes and returns the barriers whose index is committed.
    pub(super) fn release(&mut self, commit: u64) -> Vec<u64> {
        let held = self.confirmed.extract_if(.., |(raft_index, _)| *raft_index <= commit);
        held.flat_map(|(_, ids)| ids).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A round is asked again after two ticks.
    fn barriers() -> Barriers {
        Barriers::new(&Settings {
            group: String::new(),
            node: 1.into(),
            election_ticks: 10,
            heartbeat_ticks: 2,
            message_bytes: 1,
            counts_unsynced: false,
            catch_up_bytes: u64::MAX,
            seed: 7,
            new_group_uid: 0,
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
        barriers.confirm(&first, 10);
        assert_eq!(barriers.release(10), [0; 0], "no answer counts twice");
        barriers.confirm(&second, 10);
        assert_eq!(barriers.release(10), [3]);
    }

    #[test]
    fn an_answer_slower_than_the_patience_counts() {
        let mut barriers = barriers();
        barriers.wait(1);
        let asked = barriers.ask().unwrap();
        barriers.wait(2);
        assert_eq!(
            [barriers.tick(), barriers.tick(), barriers.tick()],
            [None, Some(asked.clone()), None]
        );
        barriers.confirm(&asked, 10);
        assert_eq!(barriers.release(10), [1], "and not for a request made after it had begun");
    }

    #[test]
    fn a_life_begun_anew_gives_its_questions_new_names() {
        let mut before = barriers();
        before.wait(1);
        let asked = before.ask().unwrap();
        let mut after = before.reset();
        after.wait(1);
        assert_ne!(after.ask().unwrap(), asked);
    }

    #[test]
    fn a_caller_that_gave_up_is_forgotten_and_without_callers_nothing_is_asked() {
        let mut barriers = barriers();
        barriers.wait(1);
        barriers.ask().unwrap();
        barriers.forget(1);
        assert_eq!([barriers.tick(), barriers.tick(), barriers.tick()], [None, None, None]);
    }
}
