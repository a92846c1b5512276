//! The steps of a test: fixed workloads and random ones.

use super::super::simulated_disk::Rng;

/// One operation on a log.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Append a batch of each of these, with payloads of these sizes.
    Append(Vec<Vec<usize>>),
    /// The same after the batch so many before the last; the log is truncated there.
    Truncate(u64, Vec<Vec<usize>>),
    /// Append again the first so many of the batches that the last restart lost, as a leader does
    /// for its followers.
    Resend(usize),
    /// A new term, and a vote in it.
    Term,
    /// A batch was committed: so many before the last.
    Commit(u64),
    /// The directory of a peer.
    SavePeer(u64),
    /// The unique id of the group, always the same.
    GroupUid,
    /// Begin a sync.
    Begin,
    /// Wait for the oldest sync that was begun.
    Wait,
    /// Sync, and wait for all.
    Sync,
    /// Purge what is older than so many batches before the last.
    Purge(u64),
    /// Close the active segment.
    Close,
    /// Reset to a base so many raft indexes behind the last.
    Reset(u64),
    /// Run one background task.
    BackgroundTask,
    /// Run all background tasks.
    BackgroundTasks,
    /// Close and open again.
    Reopen,
    /// Kill the process and open again.
    Kill,
    /// Cut the power and open again.
    Crash,
}
/// Random steps.
pub(super) fn random_steps(draws: &mut Rng, count: usize) -> Vec<Step> {
    (0..count).map(|_| random_step(draws)).collect()
}

fn random_step(draws: &mut Rng) -> Step {
    match draws.below(32) {
        0..8 => Step::Append(random_sizes(draws)),
        8..10 => Step::Resend(1 + draws.below(3) as usize),
        10..13 => Step::Truncate(draws.below(6), random_sizes(draws)),
        13..15 => Step::Term,
        15..17 => Step::Commit(draws.below(6)),
        17 => match draws.below(5) {
            4 => Step::GroupUid,
            peer => Step::SavePeer(peer),
        },
        18..20 => Step::Begin,
        20..22 => Step::Wait,
        22..25 => Step::Sync,
        25 => match draws.below(12) {
            8.. => Step::Close,
            back => Step::Purge(back),
        },
        26 => {
            if draws.chance(64) {
                Step::Reset(draws.below(4))
            } else {
                Step::Term
            }
        }
        27 => Step::BackgroundTask,
        28 => Step::BackgroundTasks,
        29 => Step::Reopen,
        30 => Step::Kill,
        _ => Step::Crash,
    }
}

/// Mostly one batch, sometimes a few; sizes at the borders of fields and sectors.
fn random_sizes(draws: &mut Rng) -> Vec<Vec<usize>> {
    const SIZES: [usize; 10] = [0, 1, 7, 8, 100, 384, 500, 512, 2000, 5000];
    let batches = if draws.chance(180) { 1 } else { 1 + draws.below(4) };
    (0..batches)
        .map(|_| (0..draws.below(4)).map(|_| SIZES[draws.below(10) as usize]).collect())
        .collect()
}

/// Fixed workloads, by name.
pub(super) fn workloads() -> Vec<(&'static str, Vec<Step>)> {
    use Step::*;
    let one = |size| Append(vec![vec![size]]);
    let filled = |count: usize| vec![[one(3000), Sync]; count].concat();
    vec![
        ("the first opening", vec![]),
        (
            "append",
            vec![
                one(100),
                Sync,
                one(700),
                one(0),
                Sync,
                Append(vec![vec![]]),
                Begin,
                one(20),
                Wait,
                one(900),
                Sync,
            ],
        ),
        (
            "a batch of many",
            vec![
                Append(vec![vec![100; 12], vec![], vec![1500, 0, 3]]),
                Sync,
                Append(vec![vec![9]; 6]),
                Begin,
                Wait,
            ],
        ),
        (
            "roll",
            [
                filled(4),
                vec![
                    one(3000),
                    one(3000),
                    one(3000),
                    Sync,
                    BackgroundTasks,
                    one(3000),
                    Sync,
                    one(40_000),
                    Sync,
                    one(9),
                    Sync,
                ],
            ]
            .concat(),
        ),
        (
            "roll into a spare",
            [
                vec![BackgroundTasks],
                filled(3),
                vec![BackgroundTasks],
                filled(3),
                vec![BackgroundTasks],
                filled(4),
            ]
            .concat(),
        ),
        (
            "one append over three segments",
            vec![
                BackgroundTasks,
                Append(vec![vec![5000]; 7]),
                BackgroundTasks,
                Sync,
                BackgroundTasks,
                Append(vec![vec![2500]; 9]),
                Sync,
            ],
        ),
        (
            "conflict",
            vec![
                one(500),
                one(600),
                one(700),
                Sync,
                Term,
                Truncate(2, vec![vec![50], vec![60]]),
                one(70),
                Sync,
                Truncate(1, vec![vec![]]),
                Truncate(1, vec![vec![8]]),
                Sync,
                BackgroundTasks,
            ],
        ),
        (
            "conflict over segments",
            [
                filled(9),
                vec![
                    BackgroundTasks,
                    Term,
                    Truncate(7, vec![vec![100]]),
                    BackgroundTasks,
                    Sync,
                    BackgroundTasks,
                    Term,
                    Truncate(2, vec![vec![], vec![10]]),
                    Begin,
                    one(3),
                    Wait,
                    BackgroundTasks,
                    Sync,
                ],
            ]
            .concat(),
        ),
        (
            "purge",
            [
                filled(12),
                vec![
                    BackgroundTasks,
                    Commit(0),
                    Purge(4),
                    BackgroundTasks,
                    one(10),
                    Sync,
                    BackgroundTasks,
                    Purge(0),
                    Sync,
                    BackgroundTasks,
                    one(11),
                    Sync,
                ],
            ]
            .concat(),
        ),
        (
            "closed, and purged to the end",
            [
                filled(2),
                vec![BackgroundTasks, Commit(0), Close, BackgroundTasks, Purge(0), one(7)],
                vec![Sync, BackgroundTasks, Commit(0), Close, Close, Purge(0), Sync],
                vec![BackgroundTasks, Reopen, one(8), Sync, Close, one(9), Commit(0), Close],
                vec![Purge(0), Sync, Purge(0), Truncate(0, vec![vec![10]]), Sync],
            ]
            .concat(),
        ),
        (
            "purged segments are used again",
            [
                filled(12),
                vec![BackgroundTasks, Commit(0), Purge(2), Sync, BackgroundTasks],
                filled(6),
                vec![BackgroundTasks, Commit(0), Purge(1), Sync, BackgroundTasks],
                filled(5),
            ]
            .concat(),
        ),
        (
            "a sync under way when the log is cut",
            vec![
                one(500),
                Sync,
                one(600),
                one(700),
                Begin,
                Term,
                Truncate(2, vec![vec![50]]),
                Wait,
                one(70),
                Sync,
                one(80),
                Sync,
                Reopen,
                one(9),
                Sync,
            ],
        ),
        // The purge was not durable yet when the log was cut right behind its new base. A crash
        // that kept the new segment and lost the purge was taken for corruption.
        (
            "a cut right behind a purge",
            vec![
                one(5000),
                one(5000),
                one(5000),
                one(5000),
                Sync,
                Commit(2),
                Purge(2),
                Truncate(2, vec![vec![512]]),
                Sync,
                one(9),
                Sync,
                BackgroundTasks,
            ],
        ),
        (
            "hard state",
            vec![
                Term,
                Sync,
                Term,
                Term,
                Begin,
                Term,
                Wait,
                SavePeer(1),
                GroupUid,
                Sync,
                SavePeer(2),
                SavePeer(1),
                Term,
                Term,
                Term,
                Term,
                Term,
                Sync,
            ],
        ),
        (
            "a state of several sectors",
            [
                (0..40).map(SavePeer).collect(),
                vec![Sync, SavePeer(39), Sync, SavePeer(20), SavePeer(38), Term, SavePeer(2), Sync],
                (0..7).map(|peer| SavePeer(5 * peer)).collect(),
                vec![Sync, Term],
            ]
            .concat(),
        ),
        (
            "reset",
            [
                filled(6),
                vec![
                    Reset(5),
                    one(10),
                    Sync,
                    BackgroundTasks,
                    one(20),
                    one(3000),
                    Sync,
                    Term,
                    Reset(0),
                    BackgroundTasks,
                    Sync,
                    one(5),
                    Reset(9),
                    Reset(1),
                    one(6),
                    Sync,
                    BackgroundTasks,
                ],
            ]
            .concat(),
        ),
        (
            "closed and opened",
            vec![
                one(10),
                Term,
                Reopen,
                Reopen,
                one(20),
                Begin,
                one(30),
                Reopen,
                BackgroundTasks,
                one(3000),
                one(30),
                Reopen,
                one(7),
                Sync,
            ],
        ),
        (
            "killed",
            vec![one(10), Sync, one(20), Term, Kill, one(30), one(40), Kill, Kill, one(50), Sync],
        ),
        (
            "crash upon crash",
            vec![
                one(10),
                one(20),
                Term,
                Crash,
                one(30),
                one(40),
                Crash,
                Resend(1),
                Truncate(1, vec![vec![9]]),
                Crash,
                Crash,
                one(50),
                Sync,
            ],
        ),
    ]
}
