//! Cases about what is taken away: a conflicting tail, the head, the whole log.

use super::trial::{Case, Trial};
use crate::entry::NodeId;
use crate::role::Membership;
use crate::storage::{Base, Mark};

/// Eight batches at raft indexes 2 to 9.
const EIGHT: [&[usize]; 8] = [&[10], &[], &[3_000, 0], &[1], &[5; 20], &[], &[4_096], &[7]];

pub(super) fn a_cut_at_every_point(case: &mut Case<'_>) {
    for kept in 1..=9 {
        for synced_before in [false, true] {
            for tail in [1, 12] {
                cut(case, kept, synced_before, tail);
            }
        }
    }
}

fn cut(case: &mut Case<'_>, kept: u64, synced_before: bool, tail: usize) {
    let mut trial = case.begin();
    trial.append(&EIGHT);
    if synced_before {
        trial.sync();
    }
    let held = trial.hold();
    trial.next_term();
    trial.append_after(kept, &vec![&[6][..]; tail]);
    trial.unchanged(&held);
    trial.sync();
    let past = trial.close();
    let mut trial = case.reopen(past);
    trial.append(&[&[8]]);
    trial.sync();
    trial.unchanged(&held);
    let past = trial.close();
    case.reopen(past);
}

pub(super) fn cut_upon_cut(case: &mut Case<'_>) {
    let mut trial = case.begin();
    trial.append(&EIGHT);
    let mut all_held = Vec::new();
    for round in 0..40 {
        all_held.push(trial.hold());
        // Every fourth cut is within the term: the leader sent again what was there.
        if round % 4 != 3 {
            trial.next_term();
        }
        let kept = 1 + round * 7 % trial.last();
        let tail: [&[usize]; 3] = [&[round as usize], &[], &[2_000]];
        trial.append_after(kept, &tail[..1 + round as usize % 3]);
        if round % 5 == 4 {
            trial.sync();
            let past = trial.close();
            trial = case.reopen(past);
        }
    }
    all_held.iter().for_each(|held| trial.unchanged(held));
}

pub(super) fn purge(case: &mut Case<'_>) {
    for (index, commit) in [(0, 41), (1, 41), (25, 1), (25, 12), (25, 41), (26, 30), (50, 41), (u64::MAX, 20), (u64::MAX, 41)] {
        let mut trial = grown(case);
        let held = trial.hold();
        trial.purge(index, commit);
        trial.purge(index, commit);
        trial.unchanged(&held);
        trial.append(&[&[100], &[], &[3_000]]);
        trial.sync();
        let past = trial.close();
        let mut trial = case.reopen(past);
        trial.purge(index.saturating_add(20), trial.last());
        trial.next_term();
        let kept = trial.log().base().mark.raft_index.max(41);
        trial.append_after(kept, &[&[9]]);
        trial.unchanged(&held);
        trial.sync();
        let past = trial.close();
        case.reopen(past);
    }
}

/// Forty batches at raft indexes 2 to 41 with 52 entries; every fourth is a control record.
fn grown(case: &mut Case<'_>) -> Trial {
    let mut trial = case.begin();
    for _ in 0..10 {
        trial.append(&[&[3_000], &[], &[10, 0, 5_000], &[1]]);
        trial.sync();
    }
    trial
}

pub(super) fn reset(case: &mut Case<'_>) {
    let members = |ids: [u64; 2]| Membership { voters: ids.map(NodeId::from).into(), learners: vec![NodeId::from(9)] };
    let far = Mark { raft_index: 500, term: 4, next_index: 10_000, next_position: 1 << 40, timestamp: 77, chain: 0xABCD };
    let within = Mark { raft_index: 5, term: 3, next_index: 20, next_position: 3_000, timestamp: 5, chain: 1 };
    for mark in [far, within] {
        for synced_before in [false, true] {
            let mut trial = case.begin();
            trial.append(&EIGHT);
            trial.remember(1, 11);
            if synced_before {
                trial.sync();
            }
            let held = trial.hold();
            while trial.hard_state().term < mark.term {
                trial.next_term();
            }
            trial.reset(Base { mark, membership: members([2, 4]) });
            trial.sync();
            let past = trial.close();
            let mut trial = case.reopen(past);
            trial.append(&[&[1], &[]]);
            trial.append_after(mark.raft_index, &[&[2]]);
            trial.unchanged(&held);
            trial.reset(Base { mark: Mark { raft_index: 900, ..mark }, membership: members([4, 5]) });
            trial.append(&[&[3]]);
            trial.sync();
            let past = trial.close();
            case.reopen(past);
        }
    }
}
