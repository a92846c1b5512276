//! Cases of truncation, purge and reset.

use super::driver::{Case, StorageDriver};
use crate::entry::NodeId;
use crate::role::Membership;
use crate::storage::{Base, LogPoint};

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
    let mut driver = case.begin();
    driver.append(&EIGHT);
    if synced_before {
        driver.sync();
    }
    let held = driver.hold();
    driver.next_term();
    driver.append_after(kept, &vec![&[6][..]; tail]);
    driver.unchanged(&held);
    driver.sync();
    let past = driver.close();
    let mut driver = case.reopen(past);
    driver.append(&[&[8]]);
    driver.sync();
    driver.unchanged(&held);
    let past = driver.close();
    case.reopen(past);
}

pub(super) fn cut_upon_cut(case: &mut Case<'_>) {
    let mut driver = case.begin();
    driver.append(&EIGHT);
    let mut all_held = Vec::new();
    for round in 0..40 {
        all_held.push(driver.hold());
        // Every fourth truncation is within the term: the leader sent the same batches again.
        if round % 4 != 3 {
            driver.next_term();
        }
        let kept = 1 + round * 7 % driver.last();
        let tail: [&[usize]; 3] = [&[round as usize], &[], &[2_000]];
        driver.append_after(kept, &tail[..1 + round as usize % 3]);
        if round % 5 == 4 {
            driver.sync();
            let past = driver.close();
            driver = case.reopen(past);
        }
    }
    all_held.iter().for_each(|held| driver.unchanged(held));
}

pub(super) fn purge(case: &mut Case<'_>) {
    for (index, commit) in [
        (0, 41),
        (1, 41),
        (25, 1),
        (25, 12),
        (25, 41),
        (26, 30),
        (50, 41),
        (u64::MAX, 20),
        (u64::MAX, 41),
    ] {
        let mut driver = grown(case);
        let held = driver.hold();
        driver.purge(index, commit);
        driver.purge(index, commit);
        driver.unchanged(&held);
        driver.append(&[&[100], &[], &[3_000]]);
        driver.sync();
        let past = driver.close();
        let mut driver = case.reopen(past);
        driver.purge(index.saturating_add(20), driver.last());
        driver.next_term();
        let kept = driver.log().base().point.raft_index.max(41);
        driver.append_after(kept, &[&[9]]);
        driver.unchanged(&held);
        driver.sync();
        let past = driver.close();
        case.reopen(past);
    }
}

/// Forty batches at raft indexes 2 to 41 with 52 entries; every fourth is a control record.
fn grown(case: &mut Case<'_>) -> StorageDriver {
    let mut driver = case.begin();
    for _ in 0..10 {
        driver.append(&[&[3_000], &[], &[10, 0, 5_000], &[1]]);
        driver.sync();
    }
    driver
}

pub(super) fn reset(case: &mut Case<'_>) {
    let members = |ids: [u64; 2]| Membership {
        voters: ids.map(NodeId::from).into(),
        learners: vec![NodeId::from(9)],
    };
    let far = LogPoint {
        raft_index: 500,
        term: 4,
        next_index: 10_000,
        next_position: 1 << 40,
        timestamp: 77,
        chain: 0xABCD,
    };
    let within = LogPoint {
        raft_index: 5,
        term: 3,
        next_index: 20,
        next_position: 3_000,
        timestamp: 5,
        chain: 1,
    };
    for point in [far, within] {
        for synced_before in [false, true] {
            let mut driver = case.begin();
            driver.append(&EIGHT);
            driver.save_peer(1, 11);
            if synced_before {
                driver.sync();
            }
            let held = driver.hold();
            while driver.hard_state().term < point.term {
                driver.next_term();
            }
            driver.reset(Base { point, membership: members([2, 4]) });
            driver.sync();
            let past = driver.close();
            let mut driver = case.reopen(past);
            driver.append(&[&[1], &[]]);
            driver.append_after(point.raft_index, &[&[2]]);
            driver.unchanged(&held);
            driver.reset(Base {
                point: LogPoint { raft_index: 900, ..point },
                membership: members([4, 5]),
            });
            driver.append(&[&[3]]);
            driver.sync();
            let past = driver.close();
            case.reopen(past);
        }
    }
}
