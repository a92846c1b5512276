//! The policy against a plain reading of its rules, on segments drawn at random.

use super::*;
use crate::storage::LogPoint;

const HOUR: Duration = Duration::from_secs(3600);

/// Segments of these bytes and ages in hours, oldest first, each with one entry and one batch. The
/// last one takes more.
fn segments(of: &[(u64, u64)]) -> Vec<SegmentInfo> {
    let point = |at: usize| LogPoint {
        raft_index: 1 + at as u64,
        next_index: at as u64,
        ..LogPoint::INITIAL
    };
    let mut segments: Vec<SegmentInfo> = of
        .iter()
        .enumerate()
        .map(|(at, (bytes, hours))| SegmentInfo {
            age: HOUR * *hours as u32,
            ..SegmentInfo::new(&point(at), &point(at + 1), *bytes)
        })
        .collect();
    if let Some(active) = segments.last_mut() {
        active.is_closed = false;
    }
    segments
}

fn reasons(chosen: &[Chosen]) -> Vec<Reason> {
    chosen.iter().map(|chosen| chosen.reason).collect()
}

const FIVE: [(u64, u64); 5] = [(10, 50), (10, 40), (10, 30), (10, 1), (10, 0)];

#[test]
fn everything_is_kept_without_a_limit() {
    let full = Some(DiskUse::new(1_000, 0));
    assert!(choose(&Retention::keep_all(), &segments(&FIVE), u64::MAX, full).is_empty());
    assert!(Retention::keep_all().due_in(&segments(&FIVE)).is_none());
}

#[test]
fn each_limit_removes_the_oldest_and_says_why() {
    let five = segments(&FIVE);
    let of = |policy: Retention, disk| reasons(&choose(&policy, &five, u64::MAX, disk));
    let keep = Retention::keep_all();
    assert_eq!(of(keep.max_age(HOUR * 40), None), [Reason::Age; 2]);
    assert_eq!(of(keep.max_bytes(50), None), []);
    assert_eq!(of(keep.max_bytes(49), None), [Reason::Bytes]);
    assert_eq!(of(keep.max_bytes(20), None), [Reason::Bytes; 3]);
    let both = keep.max_age(HOUR * 45).max_bytes(35);
    assert_eq!(of(both, None), [Reason::Age, Reason::Bytes], "limits add up");
    // All of the disk is this log.
    let disk = |used, free| Some(DiskUse::new(used, free));
    assert_eq!(of(keep.disk_used(0.5), disk(50, 50)), []);
    assert_eq!(of(keep.disk_used(0.5), disk(50, 20)), [Reason::DiskUsed; 2]);
    assert_eq!(of(keep.disk_used(0.5), None), [], "unknown is not full");
}

#[test]
fn a_young_segment_goes_for_the_disk_only_by_force() {
    let five = segments(&FIVE);
    let full = Some(DiskUse::new(50, 0));
    let of = |policy: Retention| reasons(&choose(&policy, &five, u64::MAX, full));
    let days = Retention::keep_all().max_age(HOUR * 72);
    assert_eq!(of(days.disk_used(0.1)), []);
    assert_eq!(of(days.disk_used(0.1).disk_used_force(0.5)), [Reason::DiskForced; 3]);
}

#[test]
fn logs_that_share_a_disk_remove_their_share_and_at_least_a_segment() {
    let five = segments(&FIVE);
    let policy = Retention::keep_all().disk_used(0.5);
    // 50 of 1,000 used bytes are this log's: its share of the 200 that are too much is 10.
    let count = |used, free| choose(&policy, &five, u64::MAX, Some(DiskUse::new(used, free))).len();
    assert_eq!(count(1_000, 600), 1);
    assert_eq!(count(1_000, 0), 3, "25 of 500");
    assert_eq!(count(1_000, 999), 1, "a single byte too much");
    assert_eq!(count(1_000, 1_000), 0);
}

#[test]
fn never_what_is_not_committed_nor_the_active_segment() {
    let policy = Retention::keep_all().max_bytes(0).max_age(Duration::from_millis(1));
    let mut all = segments(&FIVE);
    assert_eq!(choose(&policy, &all, u64::MAX, None).len(), 4);
    for commit in 0..8 {
        let expected = (commit as usize).saturating_sub(1).min(4);
        assert_eq!(choose(&policy, &all, commit, None).len(), expected, "commit {commit}");
        assert_eq!(choose_below(u64::MAX, &all, commit).len(), expected, "commit {commit}");
    }
    // A closed one without a successor goes too: a quiet log.
    all.last_mut().unwrap().is_closed = true;
    assert_eq!(choose(&policy, &all, u64::MAX, None).len(), 5);
    assert_eq!(choose_below(2, &all, u64::MAX).len(), 2);
}

#[test]
fn an_active_segment_is_closed_at_a_quarter_of_the_age_unless_it_is_empty() {
    let policy = Retention::keep_all().max_age(HOUR * 8);
    let mut active = segments(&[(10, 2)])[0];
    assert!(policy.closes(&active));
    assert!(!Retention::keep_all().closes(&active));
    active.age -= Duration::from_millis(1);
    assert!(!policy.closes(&active));
    assert_eq!(policy.due_in(&[active]), Some(Duration::from_millis(1)));
    active.age = HOUR * 2;
    active.last_raft_index = active.first_raft_index - 1;
    assert!(!policy.closes(&active), "it is empty");
    assert_eq!(policy.due_in(&[active]), None, "nothing ages");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let keep = Retention::keep_all();
    for ratio in [0.0, 1.0, -0.1, 1.5, f64::NAN, f64::INFINITY] {
        assert!(keep.disk_used(ratio).check().is_err(), "{ratio}");
        assert!(keep.disk_used_force(ratio).check().is_err(), "{ratio}");
    }
    assert!(keep.disk_used(0.8).disk_used_force(0.7).check().is_err());
    assert!(keep.max_age(Duration::ZERO).check().is_err());
    assert!(keep.max_age(Duration::MAX).check().is_err());
    assert!(keep.max_bytes(0).max_age(HOUR).disk_used(0.8).disk_used_force(0.8).check().is_ok());
}

/// The rules, one by one, on 20,000 random logs. They say what holds of a choice, not how it is
/// made.
#[test]
fn every_choice_keeps_the_rules() {
    let mut state = 7_u64;
    let mut draw = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for round in 0..20_000 {
        let mut ages: Vec<u64> = (0..draw(12)).map(|_| draw(20)).collect();
        ages.sort_unstable_by(|one, other| other.cmp(one));
        let all = segments(&ages.iter().map(|age| (1 + draw(9), *age)).collect::<Vec<_>>());
        let mut policy = Retention::keep_all();
        if draw(2) == 0 {
            policy = policy.max_age(HOUR * (1 + draw(20) as u32));
        }
        if draw(2) == 0 {
            policy = policy.max_bytes(draw(60));
        }
        if draw(2) == 0 {
            policy = policy.disk_used(0.2);
        }
        if draw(2) == 0 {
            policy = policy.disk_used_force(0.5);
        }
        let log_bytes: u64 = all.iter().map(|segment| segment.bytes).sum();
        let disk = (draw(3) > 0).then(|| DiskUse::new(log_bytes + draw(50), draw(100)));
        let commit = 1 + draw(14);
        let chosen = choose(&policy, &all, commit, disk);
        check(&policy, &all, commit, disk, &chosen)
            .unwrap_or_else(|why| panic!("round {round}: {why}: {policy:?} {disk:?} {chosen:?}"));
    }
}

fn check(
    policy: &Retention,
    all: &[SegmentInfo],
    commit: u64,
    disk: Option<DiskUse>,
    chosen: &[Chosen],
) -> Result<(), String> {
    let demand = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
    let bytes = |segments: &[SegmentInfo]| segments.iter().map(|one| one.bytes).sum::<u64>();
    let kept = &all[chosen.len()..];
    let gone: Vec<SegmentInfo> = chosen.iter().map(|one| one.segment).collect();
    demand(gone == all[..chosen.len()], "not the oldest")?;
    demand(gone.iter().all(|one| one.is_closed), "an active segment goes")?;
    demand(gone.iter().all(|one| one.last_raft_index <= commit), "beyond the commit")?;
    let is_old = |one: &SegmentInfo| policy.max_age.is_some_and(|age| one.age >= age);
    // The last one goes for a reason that held before it went.
    for (at, Chosen { segment, reason }) in chosen.iter().enumerate() {
        let before = bytes(&gone[..at]);
        let too_much = |ratio: Option<f64>| match (ratio, disk) {
            (Some(ratio), Some(disk)) => before < disk.excess(ratio),
            _ => false,
        };
        let holds = match reason {
            Reason::Asked => false,
            Reason::Age => is_old(segment),
            Reason::Bytes => bytes(&all[at..]) > policy.max_bytes.unwrap(),
            Reason::DiskUsed => policy.max_age.is_none() && too_much(policy.disk_used),
            Reason::DiskForced => too_much(policy.disk_used_force),
        };
        demand(holds, "gone without a reason")?;
    }
    // What is kept, and could go, is within the limits.
    let Some(next) = kept.first().filter(|next| next.is_closed && next.last_raft_index <= commit)
    else {
        return Ok(());
    };
    demand(!is_old(next), "an old segment stays")?;
    demand(policy.max_bytes.is_none_or(|most| bytes(kept) <= most), "too many bytes stay")?;
    let is_over =
        |ratio: Option<f64>| ratio.zip(disk).is_some_and(|(ratio, disk)| disk.excess(ratio) > 0);
    let goes_for_disk =
        policy.max_age.is_none() && is_over(policy.disk_used) || is_over(policy.disk_used_force);
    demand(!goes_for_disk || !chosen.is_empty(), "nothing goes, though the disk is too full")
}
