//! Segments, as retention sees them: their bounds, their ages, and their removal.

use std::time::Duration;

use super::driver::{Case, StorageDriver, broken};
use super::rule::Rule;
use crate::storage::SegmentInfo;

const MINUTE: Duration = Duration::from_secs(60);

pub(super) fn segments(case: &mut Case<'_>) {
    let mut driver = case.begin();
    let mut passed = Duration::ZERO;
    for _ in 0..10 {
        driver.append(&[&[3_000], &[], &[10, 0, 5_000], &[70_000]]);
        driver.sync();
        passed += MINUTE;
        // A wall clock may say anything.
        driver.storage().pass_time(passed, 1_000);
    }
    if check(case, &mut driver, passed).is_empty() {
        return case.staged = false; // the default of the trait tells of none
    }
    let closed = driver.storage().close_segment();
    driver.must(Rule::Segments, "close_segment", closed);
    let oldest = check(case, &mut driver, passed)[0];
    let last = driver.last();
    driver.purge(oldest.end_index, last);
    if oldest.is_closed && driver.log().base().point.raft_index < oldest.last_raft_index {
        broken(case.name, Rule::Purge, "it was closed, committed and durable, and it stayed");
    }
    check(case, &mut driver, passed);
    driver.append(&[&[1], &[]]);
    driver.sync();
    check(case, &mut driver, passed);
    driver.purge(u64::MAX, driver.last());
    check(case, &mut driver, passed);
    let past = driver.close();
    let mut driver = case.reopen(past);
    check(case, &mut driver, passed);
    driver.append(&[&[2]]);
    driver.sync();
    driver.storage().pass_time(MINUTE, u64::MAX);
    check(case, &mut driver, passed + MINUTE);
}

/// The segments, after a check that they are the log.
fn check(case: &Case<'_>, driver: &mut StorageDriver, passed: Duration) -> Vec<SegmentInfo> {
    let found = driver.storage().segments();
    let (base, last) = (driver.log().base().point, driver.log().last());
    let demand = |holds: bool, what: &str| {
        if !holds {
            broken(case.name, Rule::Segments, format!("{what}: {found:?}, log {base:?} {last:?}"));
        }
    };
    let Some((first, end)) = found.first().zip(found.last()) else { return found };
    let begins = (first.first_index, first.first_raft_index);
    demand(begins == (base.next_index, base.raft_index + 1), "the first is not the oldest");
    let ends = (end.end_index, end.last_raft_index);
    demand(ends == (last.next_index, last.raft_index), "the last is not the newest");
    for pair in found.windows(2) {
        let (one, next) = (pair[0], pair[1]);
        let follows = one.end_index == next.first_index
            && one.last_raft_index + 1 == next.first_raft_index
            && one.is_closed;
        demand(follows, "one does not follow the other");
        demand(!next.is_closed || one.age >= next.age, "an older one is younger");
    }
    demand(found.iter().all(|one| one.bytes > 0), "one takes no space");
    demand(found.iter().all(|one| one.age <= passed), "one is older than the log");
    found
}
