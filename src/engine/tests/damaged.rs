//! What a node does that begins on a log which cannot be read for now, or is damaged.

use super::*;
use crate::engine::repair::FETCHES_PER_TICK;
use crate::message::{FetchError, FetchRequest, FetchResponse, RepairBody};
use crate::replica::repair::serve_fetch;

/// The log of node 1 of nodes 1 to `voters`, which has led, has written three batches of hosts, and
/// has lost power.
fn written(voters: u64) -> MemoryLog {
    let mut harness = if voters == 1 { Harness::alone() } else { Harness::leader() };
    for (at, payload) in ["a", "b", "c"].into_iter().enumerate() {
        drop(harness.append(payload));
        harness.work();
        if voters > 1 {
            harness.hear(&format!("append-response from=2 to=1 term=2 index={}", at + 3));
            harness.work();
        }
    }
    harness.log.crash();
    harness.log.clone()
}

/// Something beside the batches is damaged: no peer is needed to repair it.
fn beside_batches() -> Vec<Corruption> {
    let reason = "as the test wants it".to_owned();
    vec![Corruption {
        path: "(memory)".into(),
        offset: 0,
        raft_indexes: 0..0,
        term: None,
        chain: None,
        reason,
    }]
}

/// A batch is damaged.
fn of_batches() -> Vec<Corruption> {
    vec![Corruption { raft_indexes: 3..4, ..beside_batches().remove(0) }]
}

fn open(
    voters: u64,
    corruption: Vec<Corruption>,
    prepare: fn(&FailingReader, &mut Refusals),
) -> Result<Harness, StorageError> {
    Harness::open(voters, None, written(voters), corruption, prepare)
}

/// The first attempt to repair the log finds no room.
fn mends_late(_: &FailingReader, refusals: &mut Refusals) {
    (refusals.repair, refusals.is_full) = (true, true);
}

/// Neither more nor less than waiting: it has not failed, and says what it lacks.
fn assert_waits(harness: &Harness) {
    let status = harness.shared.status();
    assert!(
        status.full.is_some() && status.fault.is_none() && harness.engine.repair.is_some(),
        "{status:?}"
    );
}

fn assert_whole(harness: &Harness) {
    let status = harness.shared.status();
    assert_eq!((&status.repair, &status.full, &status.fault), (&None, &None, &None));
    assert!(harness.engine.repair.is_none());
}

#[test]
fn an_engine_does_not_begin_on_a_log_that_cannot_be_read_for_now() {
    let begin = |prepare| open(1, Vec::new(), prepare).map(|_| ());
    assert!(
        begin(|reads, _| reads.run_out_of_resources()).is_err_and(|error| error.is_temporary())
    );
    assert!(begin(|reads, _| reads.run_out_but_at_end()).is_err_and(|error| error.is_temporary()));
    assert!(begin(|reads, _| reads.fail()).is_err_and(|error| !error.is_temporary()));
    let mut harness = open(1, Vec::new(), |_, _| {}).unwrap();
    harness.work();
    assert_eq!(
        (harness.shared.status().role, harness.shared.status().committed),
        (Role::Leader, 0..3)
    );
}

#[test]
fn a_log_that_finds_no_room_to_be_mended_is_mended_when_there_is_some() {
    for (voters, role) in [(1, Role::Leader), (3, Role::Candidate)] {
        let mut harness = open(voters, beside_batches(), mends_late).unwrap();
        assert_waits(&harness);
        (0..2 * ELECTION_TICKS).for_each(|_| harness.tick());
        assert_whole(&harness);
        (0..2 * ELECTION_TICKS).for_each(|_| harness.tick());
        assert_eq!(harness.shared.status().role, role);
    }
}

/// What was repaired is not repaired once more: a storage refuses that.
#[test]
fn a_mended_log_that_cannot_be_read_for_now_is_begun_on_when_it_can() {
    for (voters, role) in [(1, Role::Leader), (3, Role::Candidate)] {
        let mut harness = open(voters, beside_batches(), mends_late).unwrap();
        harness.reads.run_out_but_at_end();
        for _ in 0..4 * ELECTION_TICKS {
            harness.tick();
            assert_waits(&harness);
        }
        harness.reads.recover();
        (0..2 * ELECTION_TICKS).for_each(|_| harness.tick());
        assert_whole(&harness);
        (0..2 * ELECTION_TICKS).for_each(|_| harness.tick());
        assert_eq!((harness.shared.status().role, harness.shared.status().end_index), (role, 3));
    }
}

#[test]
fn a_node_that_lacks_batches_asks_its_peers_and_has_failed_if_there_are_none() {
    let mut harness = open(1, of_batches(), |_, _| {}).unwrap();
    harness.turn();
    assert!(
        harness
            .shared
            .status()
            .fault
            .is_some_and(|fault| fault.contains("restore it from a backup"))
    );
    let mut harness = open(3, of_batches(), |_, _| {}).unwrap();
    (0..ELECTION_TICKS).for_each(|_| harness.tick());
    assert!(harness.shared.status().fault.is_none() && harness.shared.status().repair.is_some());
    assert_eq!(harness.sent().len(), 1, "one peer is asked");
}

impl Harness {
    /// A message about repair comes from node `from`.
    pub(super) fn hear_letter(&self, from: u64, to: u64, repair_body: RepairBody) {
        let repair_message =
            RepairMessage { from: NodeId::from(from), to: NodeId::from(to), repair_body };
        let message: Message = repair_message.into();
        assert!(self.shared.reserve_inbox(&message));
        self.input(Input::TransportEvent(TransportEvent::Message(message)));
    }

    /// The messages about repair that left since this was last asked.
    pub(super) fn repair_messages(&self) -> Vec<RepairMessage> {
        self.sent
            .lock()
            .messages
            .drain(..)
            .filter_map(|message| message.repair_message().cloned())
            .collect()
    }

    /// Waits until it asks, and lets whom it asks answer as a sound node with the same log does.
    fn answer_next(&mut self) {
        let mut repair_messages = Vec::new();
        for _ in 0..4 * ELECTION_TICKS {
            if repair_messages.is_empty() {
                self.tick();
                repair_messages = self.repair_messages();
            }
        }
        let [RepairMessage { to, repair_body: RepairBody::FetchRequest(request), .. }] =
            &repair_messages[..]
        else {
            panic!("{repair_messages:?}")
        };
        let response = serve_fetch(&*self.shared.reader, 5, None, request, 1 << 20);
        assert!(response.batches.is_ok());
        self.hear_letter(to.get(), 1, RepairBody::FetchResponse(response));
        self.turn();
    }
}

#[test]
fn a_node_that_lacks_batches_takes_part_when_a_peer_has_sent_them() {
    let mut harness = open(3, of_batches(), |_, _| {}).unwrap();
    harness.input(Input::TransportEvent(TransportEvent::PeerIdentified {
        peer: NodeId::from(3),
        directory: 33,
    }));
    harness.hear("heartbeat from=2 to=1 term=9");
    harness.work();
    assert_eq!(harness.shared.status().term, 2, "it stands still");
    harness.answer_next();
    assert_whole(&harness);
    assert_eq!(
        (harness.shared.status().role, harness.shared.status().committed),
        (Role::Follower, 0..2)
    );
    harness.work();
    assert!(harness.stop().is_ok());
    assert_eq!(harness.recovered().peers, [(NodeId::from(3), 33)], "whom it met meanwhile");
}

/// An older copy of the directory that is damaged as well: a peer says what it is only once, and
/// nothing can be written down meanwhile.
#[test]
fn a_node_that_learns_while_it_is_mended_that_its_log_is_an_older_copy_takes_no_part_afterwards() {
    let mut harness = open(3, of_batches(), |_, _| {}).unwrap();
    harness.tick();
    harness.input(Input::TransportEvent(TransportEvent::OutdatedDirectory(NodeId::from(3))));
    harness.work();
    assert!(harness.engine.identity.complete && harness.engine.repair.is_some());
    harness.answer_next();
    assert!(harness.engine.repair.is_none() && harness.engine.rejoin.is_some());
    assert!(!harness.engine.identity.complete && !harness.recovered().identity.complete);
}

#[test]
fn batches_for_which_the_disk_is_full_are_fetched_again_and_unwritable_ones_end_the_node() {
    let mut harness = open(3, of_batches(), |_, _| {}).unwrap();
    harness.fill(|refusals| refusals.repair = true);
    harness.answer_next();
    assert_waits(&harness);
    harness.answer_next();
    assert_whole(&harness);
    let mut harness = open(3, of_batches(), |_, _| {}).unwrap();
    harness.spoil(|refusals| refusals.repair = true);
    harness.answer_next();
    assert!(
        harness.shared.status().fault.is_some_and(|fault| fault.contains("could not be repaired"))
    );
}

#[test]
fn peers_that_want_batches_are_given_so_many_in_a_tick_and_each_its_last_wish_in_the_next() {
    let mut harness = Harness::leader();
    harness.pass(COMMIT_NOTICE_DELAY);
    harness.tick();
    let want = |number| {
        RepairBody::FetchRequest(FetchRequest { number, raft_indexes: 2..3, bytes_max: 1 << 20 })
    };
    let responses = |harness: &Harness| {
        let given = |repair_message: RepairMessage| match repair_message.repair_body {
            RepairBody::FetchResponse(FetchResponse { number, batches, .. }) => {
                (repair_message.to.get(), number, batches.is_ok())
            }
            _ => panic!("it wants nothing"),
        };
        harness.repair_messages().into_iter().map(given).collect::<Vec<_>>()
    };
    for number in 0..u64::from(FETCHES_PER_TICK) + 2 {
        harness.hear_letter(2, 1, want(number));
    }
    harness.hear_letter(3, 1, want(100));
    harness.turn();
    assert_eq!(
        responses(&harness),
        (0..FETCHES_PER_TICK.into()).map(|number| (2, number, true)).collect::<Vec<_>>()
    );
    harness.tick();
    harness.tick();
    assert_eq!(responses(&harness), [(2, u64::from(FETCHES_PER_TICK) + 1, true), (3, 100, true)]);
    // Neither strangers nor itself, and nothing that is for another node.
    for (from, to) in [(4, 1), (1, 1), (2, 3)] {
        harness.hear_letter(from, to, want(1));
    }
    harness.hear_letter(
        2,
        1,
        RepairBody::FetchResponse(FetchResponse {
            number: 1,
            commit: 9,
            batches: Err(FetchError::Corrupt),
        }),
    );
    harness.turn();
    assert!(responses(&harness).is_empty());
}
