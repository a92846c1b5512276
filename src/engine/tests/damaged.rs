//! What a node does that begins on a log which cannot be read for now, or is damaged.

use super::*;
use crate::engine::repairing::ANSWERS_MAX;
use crate::message::{Gift, Lack, Want, Word};
use crate::replica::repair::answer;

/// The log of node 1 of nodes 1 to `voters`, which has led, has written three batches of hosts, and has lost power.
fn written(voters: u64) -> MemoryLog {
    let mut desk = if voters == 1 { Desk::alone() } else { Desk::leader() };
    for (at, payload) in ["a", "b", "c"].into_iter().enumerate() {
        drop(desk.append(payload));
        desk.work();
        if voters > 1 {
            desk.hear(&format!("append-answer from=2 to=1 term=2 index={}", at + 3));
            desk.work();
        }
    }
    desk.log.crash();
    desk.log.clone()
}

/// Something beside the batches is damaged: no peer is needed to mend it.
fn beside_batches() -> Vec<Damage> {
    let reason = "as the test wants it".to_owned();
    vec![Damage { path: "(memory)".into(), offset: 0, raft_indexes: 0..0, term: None, chain: None, reason }]
}

/// A batch is damaged.
fn of_batches() -> Vec<Damage> {
    vec![Damage { raft_indexes: 3..4, ..beside_batches().remove(0) }]
}

fn open(voters: u64, damage: Vec<Damage>, prepare: fn(&Reads, &mut Refusals)) -> Result<Desk, StorageError> {
    Desk::open(voters, None, written(voters), damage, prepare)
}

/// The first attempt to mend the log finds no room.
fn mends_late(_: &Reads, refusals: &mut Refusals) {
    (refusals.mend, refusals.is_full) = (true, true);
}

/// Neither more nor less than waiting: it has not failed, and says what it lacks.
fn assert_waits(desk: &Desk) {
    let status = desk.shared.status();
    assert!(status.full.is_some() && status.fault.is_none() && desk.engine.repair.is_some(), "{status:?}");
}

fn assert_whole(desk: &Desk) {
    let status = desk.shared.status();
    assert_eq!((&status.repair, &status.full, &status.fault), (&None, &None, &None));
    assert!(desk.engine.repair.is_none());
}

#[test]
fn an_engine_does_not_begin_on_a_log_that_cannot_be_read_for_now() {
    let begin = |prepare| open(1, Vec::new(), prepare).map(|_| ());
    assert!(begin(|reads, _| reads.lack()).is_err_and(|error| error.is_temporary()));
    assert!(begin(|reads, _| reads.lack_but_for_end()).is_err_and(|error| error.is_temporary()));
    assert!(begin(|reads, _| reads.fail()).is_err_and(|error| !error.is_temporary()));
    let mut desk = open(1, Vec::new(), |_, _| {}).unwrap();
    desk.work();
    assert_eq!((desk.shared.status().role, desk.shared.status().committed), (Role::Leader, 0..3));
}

#[test]
fn a_log_that_finds_no_room_to_be_mended_is_mended_when_there_is_some() {
    for (voters, role) in [(1, Role::Leader), (3, Role::Candidate)] {
        let mut desk = open(voters, beside_batches(), mends_late).unwrap();
        assert_waits(&desk);
        (0..2 * ELECTION_TICKS).for_each(|_| desk.tick());
        assert_whole(&desk);
        (0..2 * ELECTION_TICKS).for_each(|_| desk.tick());
        assert_eq!(desk.shared.status().role, role);
    }
}

/// What was mended is not mended once more: a storage refuses that.
#[test]
fn a_mended_log_that_cannot_be_read_for_now_is_begun_on_when_it_can() {
    for (voters, role) in [(1, Role::Leader), (3, Role::Candidate)] {
        let mut desk = open(voters, beside_batches(), mends_late).unwrap();
        desk.reads.lack_but_for_end();
        for _ in 0..4 * ELECTION_TICKS {
            desk.tick();
            assert_waits(&desk);
        }
        desk.reads.recover();
        (0..2 * ELECTION_TICKS).for_each(|_| desk.tick());
        assert_whole(&desk);
        (0..2 * ELECTION_TICKS).for_each(|_| desk.tick());
        assert_eq!((desk.shared.status().role, desk.shared.status().end_index), (role, 3));
    }
}

#[test]
fn a_node_that_lacks_batches_asks_its_peers_and_has_failed_if_there_are_none() {
    let mut desk = open(1, of_batches(), |_, _| {}).unwrap();
    desk.turn();
    assert!(desk.shared.status().fault.is_some_and(|fault| fault.contains("restore it from a backup")));
    let mut desk = open(3, of_batches(), |_, _| {}).unwrap();
    (0..ELECTION_TICKS).for_each(|_| desk.tick());
    assert!(desk.shared.status().fault.is_none() && desk.shared.status().repair.is_some());
    assert_eq!(desk.sent().len(), 1, "one peer is asked");
}

impl Desk {
    /// A message about repair comes from node `from`.
    pub(super) fn hear_letter(&self, from: u64, to: u64, word: Word) {
        let letter = Letter { from: NodeId::from(from), to: NodeId::from(to), word };
        let message: Message = letter.into();
        assert!(self.shared.admit(&message));
        self.input(Input::Arrival(Arrival::Message(message)));
    }

    /// The messages about repair that left since this was last asked.
    pub(super) fn letters(&self) -> Vec<Letter> {
        self.sent.lock().messages.drain(..).filter_map(|message| message.letter().cloned()).collect()
    }

    /// Waits until it asks, and lets whom it asks answer as a sound node with the same log does.
    fn answer_next(&mut self) {
        let mut letters = Vec::new();
        for _ in 0..4 * ELECTION_TICKS {
            if letters.is_empty() {
                self.tick();
                letters = self.letters();
            }
        }
        let [Letter { to, word: Word::Want(want), .. }] = &letters[..] else { panic!("{letters:?}") };
        let gift = answer(&*self.shared.reader, 5, None, want, 1 << 20);
        assert!(gift.batches.is_ok());
        self.hear_letter(to.get(), 1, Word::Gift(gift));
        self.turn();
    }
}

#[test]
fn a_node_that_lacks_batches_takes_part_when_a_peer_has_sent_them() {
    let mut desk = open(3, of_batches(), |_, _| {}).unwrap();
    desk.input(Input::Arrival(Arrival::Met { peer: NodeId::from(3), directory: 33 }));
    desk.hear("heartbeat from=2 to=1 term=9");
    desk.work();
    assert_eq!(desk.shared.status().term, 2, "it stands still");
    desk.answer_next();
    assert_whole(&desk);
    assert_eq!((desk.shared.status().role, desk.shared.status().committed), (Role::Follower, 0..2));
    desk.work();
    assert!(desk.stop().is_ok());
    assert_eq!(desk.recovered().peers, [(NodeId::from(3), 33)], "whom it met meanwhile");
}

/// An older copy of the directory that is damaged as well: a peer says what it is only once, and nothing can be written down meanwhile.
#[test]
fn a_node_that_learns_while_it_is_mended_that_its_log_is_an_older_copy_takes_no_part_afterwards() {
    let mut desk = open(3, of_batches(), |_, _| {}).unwrap();
    desk.tick();
    desk.input(Input::Arrival(Arrival::Outlived(NodeId::from(3))));
    desk.work();
    assert!(desk.engine.identity.complete && desk.engine.repair.is_some());
    desk.answer_next();
    assert!(desk.engine.repair.is_none() && desk.engine.rejoin.is_some());
    assert!(!desk.engine.identity.complete && !desk.recovered().identity.complete);
}

#[test]
fn batches_that_find_no_room_are_asked_for_again_and_those_that_cannot_be_written_end_the_part_of_the_node() {
    let mut desk = open(3, of_batches(), |_, _| {}).unwrap();
    desk.fill(|refusals| refusals.mend = true);
    desk.answer_next();
    assert_waits(&desk);
    desk.answer_next();
    assert_whole(&desk);
    let mut desk = open(3, of_batches(), |_, _| {}).unwrap();
    desk.spoil(|refusals| refusals.mend = true);
    desk.answer_next();
    assert!(desk.shared.status().fault.is_some_and(|fault| fault.contains("could not be mended")));
}

#[test]
fn peers_that_want_batches_are_given_so_many_in_a_tick_and_each_its_last_wish_in_the_next() {
    let mut desk = Desk::leader();
    desk.pass(TELL_PAUSE);
    desk.tick();
    let want = |number| Word::Want(Want { number, raft_indexes: 2..3, bytes_max: 1 << 20 });
    let gifts = |desk: &Desk| {
        let given = |letter: Letter| match letter.word {
            Word::Gift(Gift { number, batches, .. }) => (letter.to.get(), number, batches.is_ok()),
            _ => panic!("it wants nothing"),
        };
        desk.letters().into_iter().map(given).collect::<Vec<_>>()
    };
    for number in 0..u64::from(ANSWERS_MAX) + 2 {
        desk.hear_letter(2, 1, want(number));
    }
    desk.hear_letter(3, 1, want(100));
    desk.turn();
    assert_eq!(gifts(&desk), (0..ANSWERS_MAX.into()).map(|number| (2, number, true)).collect::<Vec<_>>());
    desk.tick();
    desk.tick();
    assert_eq!(gifts(&desk), [(2, u64::from(ANSWERS_MAX) + 1, true), (3, 100, true)]);
    // Neither strangers nor itself, and nothing that is for somebody else.
    for (from, to) in [(4, 1), (1, 1), (2, 3)] {
        desk.hear_letter(from, to, want(1));
    }
    desk.hear_letter(2, 1, Word::Gift(Gift { number: 1, commit: 9, batches: Err(Lack::Damaged) }));
    desk.turn();
    assert!(gifts(&desk).is_empty());
}
