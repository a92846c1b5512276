//! Cases of appends and reads without failures.

use std::sync::Arc;

use super::driver::{Case, StorageDriver, broken};
use super::expected::batch_after;
use super::rule::Rule;
use crate::entry::NodeId;
use crate::storage::{Batch, HardState, LogPoint, LogReader, StorageError};

const MANY: usize = 10_000;

pub(super) fn payloads_of_every_size(case: &mut Case<'_>) {
    let mut driver = case.begin();
    let sizes = [0, 1, 2, 7, 8, 9, 511, 512, 513, 4_095, 4_096, 4_097, 65_536, (1 << 20) + 1];
    for size in sizes {
        driver.append(&[&[size]]);
    }
    driver.append(&[&sizes]);
    driver.append(&[&[0; 100], &[1; 100], &[0]]);
    let many: Vec<usize> = (0..MANY).map(|slot| slot % 50).collect();
    driver.append(&[&many]);
    driver.append(&[&[0; MANY]]);
    let held = driver.hold();
    driver.sync();
    let past = driver.close();
    let driver = case.reopen(past);
    driver.unchanged(&held);
}

pub(super) fn control_records(case: &mut Case<'_>) {
    let mut driver = case.begin();
    driver.append(&[&[]]);
    driver.append(&[&[], &[], &[5, 0, 5], &[], &[9]]);
    driver.next_term();
    driver.append(&[&[], &[1]]);
    driver.append(&[]);
    driver.append(&[&[]]);
    driver.sync();
    let past = driver.close();
    let mut driver = case.reopen(past);
    driver.append(&[&[3]]);
}

pub(super) fn the_bounds_of_a_read(case: &mut Case<'_>) {
    let mut driver = case.begin();
    driver.append(&[&[10], &[], &[5_000, 1], &[0], &[300; 3], &[]]);
    let batches = driver.log().batches();
    for from in 2..=driver.last() + 1 {
        let tail = &batches[from as usize - 2..];
        let sums: Vec<u64> = tail.iter().scan(0, |sum, batch| Some(add(sum, batch))).collect();
        let limits =
            sums.iter().flat_map(|&sum| [sum.saturating_sub(1), sum, sum + 1]).chain([0, u64::MAX]);
        for bytes_max in limits {
            for to in (from..=driver.last() + 2).chain([0, from - 1, u64::MAX]) {
                let below = tail.iter().zip(&sums).take_while(|(batch, _)| batch.raft_index() < to);
                let wanted = below
                    .enumerate()
                    .take_while(|(at, (_, sum))| *at == 0 || **sum <= bytes_max)
                    .count();
                let found =
                    driver.must(Rule::Read, "batches", driver.reader.batches(from, to, bytes_max));
                if found != tail[..wanted] {
                    let tail = &tail[..wanted];
                    broken(
                        case.name,
                        Rule::Read,
                        format!(
                            "batches({from}, {to}, {bytes_max}) gave {found:?} instead of {tail:?}"
                        ),
                    );
                }
            }
        }
    }
}

fn add(sum: &mut u64, batch: &Batch) -> u64 {
    *sum += batch.body().len() as u64;
    *sum
}

pub(super) fn batches_out_of_line(case: &mut Case<'_>) {
    let mut driver = case.begin();
    driver.next_term();
    driver.append(&[&[10], &[], &[20, 30], &[40]]);
    let last = driver.log().last();
    let middle = driver.log().point(4).expect("four batches stand at 2 to 5");
    let good = driver.draw(last.raft_index, &[&[1]]).remove(0);
    for point in [last, middle] {
        for (what, wrong) in [
            ("index is too high", LogPoint { next_index: point.next_index + 1, ..point }),
            ("index is too low", LogPoint { next_index: point.next_index - 1, ..point }),
            ("position is too high", LogPoint { next_position: point.next_position + 1, ..point }),
            ("position is too low", LogPoint { next_position: point.next_position - 1, ..point }),
            ("timestamp is too low", LogPoint { timestamp: 0, ..point }),
        ] {
            refuses(case.name, &mut driver, what, &[batch_after(&wrong, 2, 0, &[1])]);
        }
        refuses(case.name, &mut driver, "term is too low", &[batch_after(&point, 1, 9, &[1])]);
    }
    for (what, raft_index) in [
        ("raft index leaves a gap", last.raft_index + 2),
        ("raft index is that of the base", 1),
        ("raft index is 0", 0),
    ] {
        let point = LogPoint { raft_index: raft_index.wrapping_sub(1), ..last };
        let strayed = batch_after(&LogPoint { raft_index: 1, ..point }, 2, 9, &[1]);
        let strayed =
            Batch::new(raft_index, 2, strayed.body().clone()).expect("only its number was changed");
        refuses(case.name, &mut driver, what, std::slice::from_ref(&strayed));
        refuses(
            case.name,
            &mut driver,
            "second batch does not follow the first",
            &[good.clone(), strayed],
        );
    }
    driver.append(&[&[1], &[2]]);
    driver.sync();
    let past = driver.close();
    case.reopen(past);
}

fn refuses(case: &str, driver: &mut StorageDriver, what: &str, batches: &[Batch]) {
    match driver.storage.append(batches, 1) {
        Err(StorageError::NotContiguous(_)) => driver.verify(Rule::Append),
        other => broken(
            case,
            Rule::Append,
            format!("a batch whose {what} gave {other:?} instead of OutOfLine"),
        ),
    }
}

pub(super) fn hard_state_and_peers(case: &mut Case<'_>) {
    let mut driver = case.begin();
    driver.append(&[&[10], &[20], &[30]]);
    let states = [
        (2, None, 1),
        (2, Some(3), 2),
        (2, Some(3), 4),
        (3, None, 4),
        (3, Some(2), 4),
        (u64::MAX >> 1, Some(u64::MAX), u64::MAX),
    ];
    for (round, (term, vote, commit)) in states.into_iter().enumerate() {
        driver.save_hard_state(HardState { term, vote: vote.map(NodeId::from), commit });
        driver.save_peer(round as u64 % 2 + 1, u128::MAX - round as u128);
        driver.sync();
        let past = driver.close();
        driver = case.reopen(past);
    }
}

/// Number of reads, and of writes at the same time.
const ROUNDS: u64 = 300;

pub(super) fn readers_beside_the_writer(case: &mut Case<'_>) {
    let mut driver = case.begin();
    driver.append(&[&[100][..]; 20]);
    let (name, reader) = (case.name, driver.reader.clone());
    let (batches, points) = (driver.log().batches(), driver.log().points().collect::<Vec<_>>());
    let look = move || (0..ROUNDS).for_each(|_| look_at(name, &reader, &batches, &points));
    let wait = case.harness.start(Box::new(look));
    for round in 0..ROUNDS {
        driver.next_term();
        driver.append_after(
            21 + round % 5.min(driver.last() - 20),
            &[&[100], &[round as usize], &[]],
        );
        if round % 10 == 0 {
            driver.sync();
        }
    }
    wait();
    let past = driver.close();
    case.reopen(past);
}

/// The first batches never change, and those after them are complete and contiguous at any time.
fn look_at(case: &str, reader: &Arc<dyn LogReader>, batches: &[Batch], points: &[LogPoint]) {
    let found = match reader.batches(2, u64::MAX, u64::MAX) {
        Ok(found) => found,
        Err(error) => broken(case, Rule::Read, format!("beside a writer batches failed: {error}")),
    };
    if !found.starts_with(batches) {
        broken(
            case,
            Rule::Unchanged,
            format!(
                "beside a writer batches gave {found:?}, which does not begin with {batches:?}"
            ),
        );
    }
    for (batch, raft_index) in found.iter().zip(2..) {
        if batch.raft_index() != raft_index || batch.verify().is_err() {
            broken(
                case,
                Rule::Read,
                format!("beside a writer {batch:?} was read, out of order or damaged"),
            );
        }
    }
    for (batch, point) in batches.iter().zip(&points[1..]) {
        let index = batch.first_index().unwrap_or_default();
        let (by_index, by_number) =
            (reader.batch_containing(index), reader.point(point.raft_index));
        if !matches!(&by_index, Ok(Some(found)) if found == batch)
            || !matches!(&by_number, Ok(Some(found)) if found == point)
        {
            broken(
                case,
                Rule::Unchanged,
                format!(
                    "beside a writer {by_index:?} and {by_number:?} were read instead of \
                     {batch:?} and {point:?}"
                ),
            );
        }
    }
}
