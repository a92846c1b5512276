//! What a damaged node takes of what it is sent, rule by rule.

mod other_ranges;

use bytes::Bytes;

use super::*;
use crate::batch::OpenBatch;
use crate::role::Membership;
use crate::storage::{Base, DirectoryIdentity, HardState};

/// A log of which some batches are lost, and of those what is still known of them.
#[derive(Debug)]
struct BatchMap {
    batches: Vec<Batch>,
    points: Vec<LogPoint>,
    lost: Vec<u64>,
    known: Vec<u64>,
}

fn bad() -> StorageError {
    StorageError::Corrupt { path: "log".into(), offset: 0, reason: "lost".into() }
}

impl BatchMap {
    /// The batch of raft index n + 2 is `batches[n]`.
    fn new(batches: &[Batch], lost: &[u64], known: &[u64]) -> Arc<BatchMap> {
        let points = points(&LogPoint::INITIAL, batches);
        assert_eq!(points.len(), batches.len());
        Arc::new(BatchMap {
            batches: batches.to_vec(),
            points,
            lost: lost.to_vec(),
            known: known.to_vec(),
        })
    }

    fn recovered(&self, term: u64, commit: u64) -> Recovered {
        let corruption = self
            .lost
            .iter()
            .map(|&raft_index| self.verify_batch(raft_index).unwrap().unwrap())
            .collect();
        let base = Base { point: LogPoint::INITIAL, membership: Membership::default() };
        let last = self
            .points
            .iter()
            .rfind(|point| !self.lost.contains(&point.raft_index))
            .copied()
            .unwrap_or(LogPoint::INITIAL);
        let identity = DirectoryIdentity { directory: 1, incarnation: 1, complete: true };
        Recovered {
            identity,
            hard_state: HardState { term, vote: None, commit },
            base,
            last,
            peers: Vec::new(),
            group_uid: 0,
            corruption,
        }
    }
}

impl LogReader for BatchMap {
    fn base(&self) -> Base {
        Base { point: LogPoint::INITIAL, membership: Membership::default() }
    }

    fn batch_containing(&self, _index: u64) -> Result<Option<Batch>, StorageError> {
        Ok(None)
    }

    fn batches(&self, from: u64, to: u64, _bytes_max: u64) -> Result<Vec<Batch>, StorageError> {
        if self.lost.contains(&from) {
            return Err(bad());
        }
        let all = self.batches.iter().filter(|batch| (from..to).contains(&batch.raft_index()));
        Ok(all.take_while(|batch| !self.lost.contains(&batch.raft_index())).cloned().collect())
    }

    fn point(&self, raft_index: u64) -> Result<Option<LogPoint>, StorageError> {
        match raft_index {
            1 => Ok(Some(LogPoint::INITIAL)),
            _ if self.lost.contains(&raft_index) => Err(bad()),
            _ => Ok(self.points.get(raft_index as usize - 2).copied()),
        }
    }

    fn verify_batch(&self, raft_index: u64) -> Result<Option<Corruption>, StorageError> {
        if !self.lost.contains(&raft_index) {
            return Ok(None);
        }
        let point =
            self.points.get(raft_index as usize - 2).filter(|_| self.known.contains(&raft_index));
        let (term, chain) = point.map(|point| (point.term, point.chain)).unzip();
        Ok(Some(Corruption {
            path: "log".into(),
            offset: 7,
            raft_indexes: raft_index..raft_index + 1,
            term,
            chain,
            reason: "lost".into(),
        }))
    }
}

/// Batches behind `before`, one for each term, with payloads that tell of `salt`.
fn run(before: &LogPoint, terms: &[u64], salt: u8) -> Vec<Batch> {
    let mut point = *before;
    let next = |term: &u64| {
        let mut open = OpenBatch::with_capacity(8);
        open.push(&[salt; 8], crc32fast::hash(&[salt; 8]));
        let body = open.close(point.next_index, point.next_position, 5);
        let batch = Batch::new(point.raft_index + 1, *term, body).unwrap();
        point = batch.point_after(&point).unwrap();
        batch
    };
    terms.iter().map(next).collect()
}

fn node(id: u64) -> NodeId {
    NodeId::from(id)
}

fn repair(batch_map: &Arc<BatchMap>, term: u64, commit: u64) -> Repair {
    Repair::new(
        node(1),
        [1, 2, 3].map(node).into_iter(),
        batch_map.clone(),
        4,
        1 << 20,
        &batch_map.recovered(term, commit),
    )
}

fn asked(repair: &mut Repair) -> Option<(u64, Range<u64>)> {
    let message = repair.ask()?;
    match &message.repair_message()?.repair_body {
        RepairBody::FetchRequest(want) => Some((message.to().get(), want.raft_indexes.clone())),
        _ => None,
    }
}

/// The last question, as it came to be asked.
fn want(repair: &Repair, raft_indexes: Range<u64>) -> FetchRequest {
    FetchRequest { number: repair.number - 1, raft_indexes, bytes_max: 1 << 20 }
}

/// What comes of the gift that a sound node with the log `all` would give, committed up to `commit`
/// there.
fn given(repair: &mut Repair, all: &[Batch], commit: u64) -> Option<RepairStep> {
    given_by(repair, all, commit, None)
}

/// The same, by a node that leads up to a raft index, or does not.
fn given_by(
    repair: &mut Repair,
    all: &[Batch],
    commit: u64,
    leader_last_index: Option<u64>,
) -> Option<RepairStep> {
    let (to, raft_indexes) = asked(repair)?;
    let response = serve_fetch(
        &*BatchMap::new(all, &[], &[]),
        commit,
        leader_last_index,
        &want(repair, raft_indexes),
        1 << 20,
    );
    repair.handle_response(node(to), response)
}

fn fill(batches: &[Batch]) -> Option<RepairStep> {
    Some(RepairStep::Fill(batches.to_vec()))
}

#[test]
fn asks_one_peer_after_the_other_and_rests_when_none_could_help() {
    let all = run(&LogPoint::INITIAL, &[1; 9], 1);
    let batch_map = BatchMap::new(&all, &[4, 5, 8], &[]);
    let mut repair = repair(&batch_map, 5, 2);
    assert_eq!(
        asked(&mut repair),
        Some((2, 4..10)),
        "near places together, and one behind that may prove them"
    );
    assert_eq!(asked(&mut repair), None, "one question at a time");
    (0..4).for_each(|_| repair.tick());
    assert_eq!(asked(&mut repair), Some((3, 4..10)));
    repair.handle_response(
        node(2),
        FetchResponse {
            number: repair.number - 1,
            commit: 9,
            batches: Err(FetchError::NotReached),
        },
    );
    assert_eq!(asked(&mut repair), None, "not the peer that was asked");
    assert_eq!(
        repair.handle_response(
            node(3),
            FetchResponse {
                number: repair.number - 1,
                commit: 9,
                batches: Err(FetchError::Corrupt)
            }
        ),
        None
    );
    assert_eq!(asked(&mut repair), None, "no peer could help");
    let account = repair.account();
    for part in [
        "raft index 4",
        "offset 7",
        "2 more places",
        "node 2 does not answer",
        "node 3 is damaged there too",
    ] {
        assert!(account.contains(part), "{part:?} is not in {account:?}");
    }
    (0..4).for_each(|_| repair.tick());
    assert_eq!(asked(&mut repair).map(|(peer, _)| peer), Some(2));
}

#[test]
fn damaged_places_are_asked_for_together_up_to_a_distance() {
    let all = run(&LogPoint::INITIAL, &[1; 50], 1);
    let asked_for = |lost: &[u64]| {
        asked(&mut repair(&BatchMap::new(&all, lost, &[]), 1, 2))
            .map(|(_, raft_indexes)| raft_indexes)
    };
    assert_eq!(asked_for(&[4, 5 + MERGE_DISTANCE]), Some(4..7 + MERGE_DISTANCE));
    assert_eq!(asked_for(&[4, 6 + MERGE_DISTANCE]), Some(4..6));
}

#[test]
fn who_does_not_answer_has_twice_the_time_with_the_next_question_and_who_is_unreachable_none() {
    let all = run(&LogPoint::INITIAL, &[1; 9], 1);
    let batch_map = BatchMap::new(&all, &[4], &[4]);
    let mut repair = repair(&batch_map, 5, 2);
    let ticks = |repair: &mut Repair, count| (0..count).for_each(|_| repair.tick());
    assert_eq!(asked(&mut repair).map(|(peer, _)| peer), Some(2));
    ticks(&mut repair, 4);
    assert_eq!(asked(&mut repair).map(|(peer, _)| peer), Some(3));
    repair.handle_unreachable(node(2));
    ticks(&mut repair, 3);
    assert_eq!(asked(&mut repair), None, "it is node 3 that was asked");
    repair.handle_unreachable(node(3));
    ticks(&mut repair, 4);
    let (to, raft_indexes) = asked(&mut repair).expect("they have rested");
    assert_eq!(to, 2);
    // An answer that takes longer than the first one was given.
    ticks(&mut repair, 7);
    let response = serve_fetch(
        &*BatchMap::new(&all, &[], &[]),
        9,
        None,
        &want(&repair, raft_indexes),
        1 << 20,
    );
    assert_eq!(repair.handle_response(node(2), response), fill(&all[2..3]));
}

#[test]
fn takes_what_leads_to_what_is_known_here() {
    let all = run(&LogPoint::INITIAL, &[1; 6], 1);
    for (lost, known) in
        [(&[4][..], &[4][..]), (&[4], &[]), (&[7], &[7]), (&[3, 4, 5], &[]), (&[6, 7], &[7])]
    {
        let batch_map = BatchMap::new(&all, lost, known);
        let taken = given(&mut repair(&batch_map, 9, 1), &all, 1);
        let from = lost[0] as usize - 2;
        assert_eq!(taken, fill(&all[from..from + lost.len()]), "{lost:?}");
    }
}

#[test]
fn several_batches_at_once_may_lead_to_what_is_known() {
    let all = run(&LogPoint::INITIAL, &[1; 6], 1);
    let batch_map = BatchMap::new(&all, &[4, 5], &[]);
    let mut recovered = batch_map.recovered(9, 1);
    let [first, second] = &recovered.corruption[..] else { panic!("two batches are lost") };
    let known = batch_map.points[3];
    let both = first.raft_indexes.start..second.raft_indexes.end;
    recovered.corruption = vec![Corruption {
        raft_indexes: both,
        term: Some(known.term),
        chain: Some(known.chain),
        ..first.clone()
    }];
    let mut mending = Repair::new(
        node(1),
        [1, 2].map(node).into_iter(),
        batch_map.clone(),
        4,
        1 << 20,
        &recovered,
    );
    // Without what follows, which could be read here and would prove them too.
    assert_eq!(given(&mut mending, &all[..4], 1), fill(&all[2..4]));
}

#[test]
fn takes_nothing_that_is_not_proved() {
    let all = run(&LogPoint::INITIAL, &[1; 6], 1);
    // Nothing is known of the last one, no peer knows it to be committed, and a newer term has been
    // seen.
    let batch_map = BatchMap::new(&all, &[7], &[]);
    assert_eq!(given(&mut repair(&batch_map, 2, 1), &all, 6), None);
    // Each of the two other rules by itself.
    assert_eq!(given(&mut repair(&batch_map, 2, 1), &all, 7), fill(&all[5..]));
    assert_eq!(given(&mut repair(&batch_map, 1, 1), &all, 6), fill(&all[5..]));
}

#[test]
fn a_batch_of_a_new_term_proves_those_in_front_of_it() {
    let all = run(&LogPoint::INITIAL, &[1, 1, 1, 1, 1, 3], 1);
    let batch_map = BatchMap::new(&all, &[6, 7], &[]);
    assert_eq!(given(&mut repair(&batch_map, 3, 1), &all, 1), fill(&all[4..]));
    assert_eq!(given(&mut repair(&batch_map, 4, 1), &all, 1), None);
}

#[test]
fn another_log_is_not_taken_where_this_one_is_known() {
    let all = run(&LogPoint::INITIAL, &[1; 6], 1);
    let batch_map = BatchMap::new(&all, &[4], &[]);
    let other = [&all[..2], &run(&batch_map.points[1], &[1; 4], 2)].concat();
    assert_eq!(
        given(&mut repair(&batch_map, 1, 1), &other, 3),
        None,
        "not even if it is of the newest term"
    );
    let longer = [&all[..2], &run(&batch_map.points[1], &[2; 4], 2)].concat();
    assert_eq!(given(&mut repair(&batch_map, 1, 1), &longer, 3), None);
}

#[test]
fn what_was_never_committed_gives_way_to_what_is() {
    let all = run(&LogPoint::INITIAL, &[1; 6], 1);
    let batch_map = BatchMap::new(&all, &[4], &[]);
    // Within the damage: what follows it here does not follow on what is committed.
    let other = [&all[..2], &run(&batch_map.points[1], &[2; 4], 2)].concat();
    assert_eq!(
        given(&mut repair(&batch_map, 2, 1), &other, 5),
        Some(RepairStep::Replace(other[2..4].to_vec()))
    );
    assert_eq!(
        given(&mut repair(&batch_map, 2, 1), &other[..3], 4),
        Some(RepairStep::Replace(other[2..3].to_vec()))
    );
    // What this node itself knows to be committed never gives way.
    assert_eq!(given(&mut repair(&batch_map, 2, 5), &other, 5), None);
    // In front of the damage: the place where they part is looked for.
    let earlier = [&all[..1], &run(&batch_map.points[0], &[2; 5], 2)].concat();
    let mut mending = repair(&batch_map, 2, 1);
    assert_eq!(given(&mut mending, &earlier, 5), None);
    assert_eq!(given(&mut mending, &earlier, 5), Some(RepairStep::Replace(earlier[..4].to_vec())));
    let then_asked = |commit, theirs| {
        let mut mending = repair(&batch_map, 2, commit);
        assert_eq!(given(&mut mending, &earlier, theirs), None);
        asked(&mut mending).map(|(peer, raft_indexes)| (peer, raft_indexes.start))
    };
    assert_eq!(then_asked(1, 3), Some((2, 2)), "all that lies in front is committed there");
    assert_eq!(
        then_asked(2, 3),
        Some((2, 3)),
        "they are the same as far as this node knows to be committed"
    );
    assert_eq!(then_asked(1, 2), Some((3, 4)), "not committed there: another peer is asked");
    assert_eq!(then_asked(3, 5), Some((3, 4)), "nor if it would contradict what is committed here");
}

#[test]
fn a_peer_without_the_batches_may_show_that_the_logs_have_parted_if_more_is_committed_there() {
    let all = run(&LogPoint::INITIAL, &[1; 6], 1);
    let batch_map = BatchMap::new(&all, &[4], &[]);
    let then_asked = |commit, theirs| {
        let mut mending = repair(&batch_map, 2, commit);
        let (to, _) = asked(&mut mending).unwrap();
        let response = FetchResponse {
            number: mending.number - 1,
            commit: theirs,
            batches: Err(FetchError::NotReached),
        };
        assert_eq!(mending.handle_response(node(to), response), None);
        asked(&mut mending).map(|(peer, raft_indexes)| (peer, raft_indexes.start))
    };
    assert_eq!(then_asked(1, 2), Some((2, 2)));
    assert_eq!(then_asked(2, 2), Some((3, 4)), "no more than here");
    assert_eq!(then_asked(3, 9), Some((3, 4)), "up to the damage they are the same");
}

/// Seed 714231 once ended with a node that stayed damaged for ever. Its group had gone on with
/// another log in place of its unacknowledged end, and that was shorter: what was given was filled
/// in, and of what was damaged behind it no peer had anything.
#[test]
fn what_follows_a_batch_of_a_later_term_is_of_no_older_one() {
    let all = run(&LogPoint::INITIAL, &[2; 6], 1);
    let batch_map = BatchMap::new(&all, &[3, 4, 5], &[]);
    let other = [&all[..1], &run(&batch_map.points[0], &[5; 2], 2)].concat();
    let replaced = Some(RepairStep::Replace(other[1..].to_vec()));
    assert_eq!(
        given(&mut repair(&batch_map, 4, 1), &other, 4),
        replaced,
        "what is intact behind it is of an older term"
    );
    assert_eq!(
        given(&mut repair(&batch_map, 6, 1), &other, 4),
        replaced,
        "whatever terms this node has seen"
    );
    assert_eq!(
        given(&mut repair(&batch_map, 6, 1), &other, 3),
        Some(RepairStep::Replace(other[1..2].to_vec())),
        "as much as is committed"
    );
    assert_eq!(
        given(&mut repair(&batch_map, 5, 1), &other, 1),
        None,
        "nothing says that it is to stay"
    );
    assert_eq!(
        given(&mut repair(&batch_map, 4, 1), &other, 1),
        replaced,
        "but that the leader of a later term had all that was committed"
    );
    assert_eq!(
        given(&mut repair(&batch_map, 4, 5), &other, 4),
        None,
        "but what this node knows to be committed stays"
    );
    // Nothing is intact behind it.
    let batch_map = BatchMap::new(&all, &[3, 4, 5, 6, 7], &[]);
    assert_eq!(
        given(&mut repair(&batch_map, 4, 1), &other, 4),
        replaced,
        "this node was never given anything of that term"
    );
    assert_eq!(
        given(&mut repair(&batch_map, 5, 1), &other, 4),
        fill(&other[1..]),
        "it may have been, and more of it"
    );
    // A log that has only become longer is the same log.
    let longer = [&all[..], &run(&batch_map.points[5], &[5], 2)].concat();
    assert_eq!(given(&mut repair(&batch_map, 4, 1), &longer, 8), fill(&all[1..]));
}

#[test]
fn what_a_hostile_peer_sends_is_refused() {
    let all = run(&LogPoint::INITIAL, &[1; 6], 1);
    let batch_map = BatchMap::new(&all, &[4, 5], &[5]);
    let honest = || (all[2..4].to_vec(), batch_map.points[3]);
    let flipped = |batch: &Batch| {
        let mut body = batch.body().to_vec();
        body[34] ^= 1;
        Batch::new(batch.raft_index(), batch.term(), Bytes::from(body)).unwrap()
    };
    let wrong: Vec<(&str, (Vec<Batch>, LogPoint))> = vec![
        ("nothing", (Vec::new(), batch_map.points[3])),
        ("too early", (all[1..4].to_vec(), batch_map.points[3])),
        ("too late", (all[3..4].to_vec(), batch_map.points[3])),
        ("too much", (all[2..6].to_vec(), batch_map.points[5])),
        ("a gap", (vec![all[2].clone(), all[4].clone()], batch_map.points[4])),
        ("a flipped bit", (vec![flipped(&all[2]), all[3].clone()], batch_map.points[3])),
        ("another mark", (all[2..4].to_vec(), LogPoint { chain: 7, ..batch_map.points[3] })),
        (
            "another term",
            (
                run(&batch_map.points[1], &[9, 9], 1),
                points(&batch_map.points[1], &run(&batch_map.points[1], &[9, 9], 1))[1],
            ),
        ),
        (
            "another payload",
            (
                run(&batch_map.points[1], &[1, 1], 3),
                points(&batch_map.points[1], &run(&batch_map.points[1], &[1, 1], 3))[1],
            ),
        ),
    ];
    for (name, response) in wrong {
        let mut mending = repair(&batch_map, 1, 3);
        let (to, _) = asked(&mut mending).unwrap();
        assert_eq!(
            mending.handle_response(
                node(to),
                FetchResponse { number: mending.number - 1, commit: 3, batches: Ok(response) }
            ),
            None,
            "{name}"
        );
    }
    let mut mending = repair(&batch_map, 1, 3);
    assert_eq!(mending.commit(), 3);
    assert_eq!(
        mending.handle_response(
            node(2),
            FetchResponse { number: mending.number - 1, commit: 9, batches: Ok(honest()) }
        ),
        None,
        "no peer was asked"
    );
    let (to, _) = asked(&mut mending).unwrap();
    assert_eq!(
        mending.handle_response(
            node(9),
            FetchResponse { number: mending.number - 1, commit: 9, batches: Ok(honest()) }
        ),
        None,
        "a stranger"
    );
    assert_eq!(
        mending.handle_response(
            node(to),
            FetchResponse { number: mending.number - 1, commit: 3, batches: Ok(honest()) }
        ),
        fill(&all[2..4])
    );
}

#[test]
fn batches_with_a_point_of_another_place_prove_nothing_not_even_that_logs_have_parted() {
    let all = run(&LogPoint::INITIAL, &[1; 6], 1);
    let batch_map = BatchMap::new(&all, &[4, 5], &[5]);
    let mut mending = repair(&batch_map, 1, 1);
    asked(&mut mending).unwrap();
    let batches = Ok((all[2..4].to_vec(), batch_map.points[5]));
    assert_eq!(
        mending.handle_response(
            node(2),
            FetchResponse { number: mending.number - 1, commit: 9, batches }
        ),
        None
    );
    assert_eq!(asked(&mut mending), Some((3, 4..7)));
}

/// Seed 516367 once ended with a node that stayed damaged for ever: its peers had purged a part of
/// what it lacked, and only of a peer that had purged all of it was a base taken.
/// Seed 3064638 once ended with a node that began to look from the beginning whenever an answer was
/// lost.
#[test]
fn where_logs_part_is_looked_for_one_window_after_the_other() {
    let all = run(&LogPoint::INITIAL, &[1; 9], 1);
    let batch_map = BatchMap::new(&all, &[10], &[]);
    let other = [&all[..6], &run(&batch_map.points[5], &[2; 3], 2)].concat();
    let mut mending = repair(&batch_map, 2, 1);
    let mut asked_for = Vec::new();
    let repair_step = loop {
        let (to, raft_indexes) = asked(&mut mending).unwrap();
        asked_for.push(raft_indexes.start);
        if asked_for.len() == 4 {
            // No answer, from this one.
            (0..4).for_each(|_| mending.tick());
            continue;
        }
        // Two batches fit a message.
        let wanted = raft_indexes.start..raft_indexes.end.min(raft_indexes.start + 2);
        let response = serve_fetch(
            &*BatchMap::new(&other, &[], &[]),
            10,
            None,
            &want(&mending, wanted),
            1 << 20,
        );
        if let Some(repair_step) = mending.handle_response(node(to), response) {
            break repair_step;
        }
        assert!(asked_for.len() < 9, "{asked_for:?}");
    };
    assert_eq!(asked_for, [10, 2, 4, 6, 6, 8]);
    assert_eq!(repair_step, RepairStep::Replace(other[6..8].to_vec()));
}

#[test]
fn a_damaged_node_gives_what_is_intact_and_says_what_is_not() {
    let all = run(&LogPoint::INITIAL, &[1; 6], 1);
    let batch_map = BatchMap::new(&all, &[5], &[]);
    let give = |raft_indexes: Range<u64>| {
        serve_fetch(
            &*batch_map,
            3,
            None,
            &FetchRequest { number: 1, raft_indexes, bytes_max: 1 << 20 },
            1 << 20,
        )
        .batches
    };
    assert_eq!(give(3..8).ok(), Some((all[1..3].to_vec(), batch_map.points[2])));
    assert_eq!(
        give(6..8).ok(),
        Some((all[4..].to_vec(), batch_map.points[5])),
        "though what stands before is damaged"
    );
    assert_eq!(give(5..8).err(), Some(FetchError::Corrupt));
    assert_eq!(give(8..9).err(), Some(FetchError::NotReached));
}
