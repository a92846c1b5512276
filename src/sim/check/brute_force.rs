//! The checker is compared with one that tries every order: they agree on every history of up to
//! six operations.

use std::collections::BTreeSet;

use super::*;
use crate::sim::rng::Rng;

/// Whether there is any order of the operations that explains the history: each takes place at one
/// moment between its beginning and its end, an append of unknown outcome at any moment after its
/// beginning or never, those of one session one after the other.
fn is_explained(history: &History, ledger: &[u64]) -> bool {
    let operations = &history.operations;
    // An operation that neither bounds nor changes the ledger fits anywhere.
    let counts = |operation: &Operation| match operation.what {
        Invocation::Append { first, outcome: Outcome::Unknown, .. } => ledger.contains(&first),
        Invocation::Append { outcome: Outcome::Refused, .. } => false,
        Invocation::Get { found: None, linearizable: false, .. } => false,
        _ => true,
    };
    let relevant: Vec<Operation> =
        operations.iter().filter(|operation| counts(operation)).copied().collect();
    try_orders(&relevant, ledger, 0, 0)
}

fn try_orders(operations: &[Operation], ledger: &[u64], done: u32, len: u64) -> bool {
    if done.count_ones() as usize == operations.len() {
        return len == ledger.len() as u64;
    }
    let open = |n: &usize| done & 1 << n == 0;
    let ends = |operation: &Operation| match operation.what {
        Invocation::Append { outcome: Outcome::Unknown, .. } => NEVER,
        _ => operation.ended,
    };
    let append = |operation: &Operation| matches!(operation.what, Invocation::Append { .. });
    (0..operations.len()).filter(open).any(|n| {
        let operation = &operations[n];
        let others = || (0..operations.len()).filter(open).map(|other| &operations[other]);
        let is_first = others().all(|other| ends(other) >= operation.began);
        let is_in_turn = !append(operation)
            || others().all(|other| {
                !append(other)
                    || other.session != operation.session
                    || other.began >= operation.began
            });
        is_first
            && is_in_turn
            && take_place(operation, ledger, len)
                .is_some_and(|len| try_orders(operations, ledger, done | 1 << n, len))
    })
}

/// The length of the ledger after an operation takes place when it has the length `len`, if it can.
fn take_place(operation: &Operation, ledger: &[u64], len: u64) -> Option<u64> {
    let there = |index: u64| ledger.get(index as usize).copied().filter(|_| index < len);
    match operation.what {
        Invocation::Append { first, count, outcome } => {
            let told = !matches!(outcome, Outcome::Acknowledged(index) if index != len);
            let fits = (0..u64::from(count))
                .all(|nth| ledger.get((len + nth) as usize) == Some(&(first + nth)));
            (told && fits).then_some(len + u64::from(count))
        }
        Invocation::Barrier(end) => (end == len).then_some(len),
        Invocation::Get { index, found: Some(payload), .. } => {
            (there(index) == Some(payload)).then_some(len)
        }
        Invocation::Get { index, found: None, .. } => (index >= len).then_some(len),
    }
}

/// The ways in which `count` intervals can lie to each other, as (begin, end) of each.
fn interval_orders(count: usize) -> Vec<Vec<(u64, u64)>> {
    fn place(
        left: usize,
        open: &[usize],
        at: u64,
        intervals: &mut Vec<(u64, u64)>,
        found: &mut Vec<Vec<(u64, u64)>>,
    ) {
        if left == 0 && open.is_empty() {
            return found.push(intervals.clone());
        }
        if left > 0 {
            intervals.push((at, NEVER));
            let open = [open, &[intervals.len() - 1]].concat();
            place(left - 1, &open, at + 1, intervals, found);
            intervals.pop();
        }
        for &ending in open {
            let before = std::mem::replace(&mut intervals[ending].1, at);
            let open: Vec<usize> = open.iter().copied().filter(|&other| other != ending).collect();
            place(left, &open, at + 1, intervals, found);
            intervals[ending].1 = before;
        }
    }
    let mut found = Vec::new();
    place(count, &[], 0, &mut Vec::new(), &mut found);
    let mut shapes = BTreeSet::new();
    found.retain(|intervals| shapes.insert(shape(intervals)));
    found
}

/// What two arrangements of intervals have in common if every operation can take the part of some
/// other.
fn shape(intervals: &[(u64, u64)]) -> Vec<(usize, usize)> {
    let mut shape = parts(intervals);
    shape.sort_unstable();
    shape
}

/// For each interval how many kinds of pasts and of futures are smaller than its own. Two for which
/// that is the same can change places.
fn parts(intervals: &[(u64, u64)]) -> Vec<(usize, usize)> {
    let past = |n: usize| intervals.iter().filter(|other| other.1 < intervals[n].0).count();
    let future = |n: usize| intervals.iter().filter(|other| other.0 > intervals[n].1).count();
    let pasts: BTreeSet<usize> = (0..intervals.len()).map(past).collect();
    let futures: BTreeSet<usize> = (0..intervals.len()).map(future).collect();
    (0..intervals.len())
        .map(|n| (pasts.range(..past(n)).count(), futures.range(..future(n)).count()))
        .collect()
}

/// What one operation may be, if the ledger holds `len` entries. Places in the ledger stand for
/// payloads until all are chosen.
#[derive(Clone, Copy, Debug)]
enum Role {
    /// Stands at this place, and was told so or not.
    At(u64, Outcome),
    /// Stands nowhere.
    Absent(Outcome),
    Other(Invocation),
}

fn roles(len: u64, also_wrong: bool) -> Vec<Role> {
    let mut roles = Vec::new();
    let told = |right: Option<u64>| {
        let wrong = (0..len)
            .filter(move |index| also_wrong && Some(*index) != right)
            .map(Outcome::Acknowledged);
        let refused = Some(Outcome::Refused).filter(|_| also_wrong);
        right
            .map(Outcome::Acknowledged)
            .into_iter()
            .chain([Outcome::Unknown])
            .chain(refused)
            .chain(wrong)
    };
    for place in 0..len {
        roles.extend(told(Some(place)).map(|outcome| Role::At(place, outcome)));
        roles.push(Role::Other(Invocation::Get {
            index: place,
            found: Some(place),
            linearizable: false,
        }));
    }
    if also_wrong {
        roles.extend(told(None).map(Role::Absent));
    }
    for end in 0..=len {
        roles.push(Role::Other(Invocation::Barrier(end)));
        roles.push(Role::Other(Invocation::Get { index: end, found: None, linearizable: true }));
    }
    roles
}

/// Calls `judge` with every history of these intervals whose operations take such roles, and every
/// place in the ledger belongs to one. Of those that are the same but for two operations that can
/// change places, with one.
fn for_each_history(
    intervals: &[(u64, u64)],
    len: u64,
    also_wrong: bool,
    judge: &mut dyn FnMut(&History, &[u64]),
) {
    fn choose(
        roles: &[Role],
        intervals: &[(u64, u64)],
        chosen: &mut Vec<usize>,
        taken: u32,
        len: u64,
        judge: &mut dyn FnMut(&History, &[u64]),
        twins: &[Option<usize>],
    ) {
        if taken.count_ones() as usize + (intervals.len() - chosen.len()) < len as usize {
            return; // not enough are left to fill the ledger
        }
        if chosen.len() == intervals.len() {
            let chosen: Vec<Role> = chosen.iter().map(|&role| roles[role]).collect();
            let (history, ledger) = enact(intervals, &chosen, len);
            return judge(&history, &ledger);
        }
        let from = twins[chosen.len()].map_or(0, |twin| chosen[twin]);
        for role in from..roles.len() {
            let place = if let Role::At(place, _) = roles[role] { 1 << place } else { 0 };
            if taken & place == 0 {
                chosen.push(role);
                choose(roles, intervals, chosen, taken | place, len, judge, twins);
                chosen.pop();
            }
        }
    }
    let parts = parts(intervals);
    let twins: Vec<_> =
        (0..parts.len()).map(|n| parts[..n].iter().rposition(|part| *part == parts[n])).collect();
    choose(&roles(len, also_wrong), intervals, &mut Vec::new(), 0, len, judge, &twins);
}

/// Each operation has a session and, if it is an append, the payload of its own number.
fn enact(intervals: &[(u64, u64)], roles: &[Role], len: u64) -> (History, Vec<u64>) {
    let mut ledger = vec![ANY; len as usize];
    for (n, role) in roles.iter().enumerate() {
        if let Role::At(place, _) = role {
            ledger[*place as usize] = n as u64;
        }
    }
    let operations = roles.iter().zip(intervals).enumerate().map(|(n, (role, interval))| {
        let what = match *role {
            Role::At(_, outcome) | Role::Absent(outcome) => {
                Invocation::Append { first: n as u64, count: 1, outcome }
            }
            Role::Other(Invocation::Get { index, found: Some(place), linearizable }) => {
                Invocation::Get { index, found: Some(ledger[place as usize]), linearizable }
            }
            Role::Other(what) => what,
        };
        Operation { session: n as u32, began: interval.0, ended: interval.1, what }
    });
    (History { operations: operations.collect() }, ledger)
}

#[track_caller]
fn agree(history: &History, payloads: &[u64]) -> bool {
    let ledger = Ledger { first: 0, payloads: payloads.to_vec() };
    let verdict = check(history, &ledger);
    let explained = is_explained(history, payloads);
    assert_eq!(verdict.is_ok(), explained, "{verdict:?}: {history:#?} {payloads:?}");
    explained
}

/// Returns how many histories there were, and how many of them were sound.
fn all_histories(count: usize, also_wrong: bool) -> (u64, u64) {
    let (mut all, mut sound) = (0, 0);
    for intervals in interval_orders(count) {
        for len in 0..=count as u64 {
            for_each_history(&intervals, len, also_wrong, &mut |history, ledger| {
                all += 1;
                sound += u64::from(agree(history, ledger));
            });
        }
    }
    (all, sound)
}

#[test]
fn there_are_as_many_interval_orders_as_there_should_be() {
    // Fishburn's numbers (OEIS A022493).
    let counts: Vec<usize> = (1..=6).map(|count| interval_orders(count).len()).collect();
    assert_eq!(counts, [1, 2, 5, 15, 53, 217]);
}

#[test]
fn the_checker_and_the_judge_agree_on_every_small_history() {
    for count in 1..=3 {
        let (all, sound) = all_histories(count, true);
        assert!(sound > 0 && sound < all, "{count}: {sound} of {all}");
    }
    let (all, sound) = all_histories(4, false);
    assert!(all > 50_000 && sound > 1_000, "{sound} of {all}");
}

#[test]
#[ignore = "ten minutes: see the commands of `dledger::sim`"]
fn the_checker_and_the_judge_agree_on_every_history_of_six() {
    let histories = [(4, true), (5, false), (6, false)]
        .map(|(count, also_wrong)| all_histories(count, also_wrong));
    println!("histories and sound ones among them: {histories:?}");
    assert_eq!(histories.map(|(all, _)| all), [979_935, 3_961_854, 386_864_379], "{histories:?}");
}

/// A history as a sound ledger would give it, of `count` operations by several sessions, batches
/// among them.
fn sound_history(rng: &mut Rng, count: u64) -> (History, Ledger) {
    let mut ledger = Ledger::default();
    let (mut operations, mut offered) = (Vec::new(), 0);
    for n in 0..count {
        // It takes place at 16 n, and lies around that.
        let (began, ended) =
            (16 * n - rng.below(5 * 16).min(16 * n), 16 * n + 1 + rng.below(5 * 16));
        let len = ledger.payloads.len() as u64;
        let what = match rng.below(10) {
            0 => Invocation::Barrier(len),
            1 => Invocation::Get { index: len, found: None, linearizable: true },
            2 if len > 0 => {
                let index = rng.below(len);
                Invocation::Get {
                    index,
                    found: Some(ledger.payloads[index as usize]),
                    linearizable: rng.percent(50),
                }
            }
            kind => {
                let pieces = if kind < 5 { rng.between(2, 4) } else { 1 };
                let (first, fate) = (offered, rng.below(10));
                offered += pieces;
                let outcome = match fate {
                    0 => Outcome::Refused,
                    1 | 2 => Outcome::Unknown,
                    _ => Outcome::Acknowledged(len),
                };
                if fate > 1 {
                    ledger.payloads.extend(first..offered);
                }
                Invocation::Append { first, count: pieces as u32, outcome }
            }
        };
        operations.push(Operation { session: n as u32, began, ended, what });
    }
    // No two moments are the same: those of equal time follow each other in any order.
    let mut moments: Vec<(u64, u64, usize, bool)> = Vec::new();
    for (n, operation) in operations.iter().enumerate() {
        moments.push((operation.began, rng.next(), n, true));
        moments.push((operation.ended, rng.next(), n, false));
    }
    moments.sort_unstable();
    for (stamp, (_, _, n, begins)) in moments.into_iter().enumerate() {
        *(if begins { &mut operations[n].began } else { &mut operations[n].ended }) = stamp as u64;
    }
    operations.sort_unstable_by_key(|operation| operation.began);
    (History { operations }, ledger)
}

#[test]
fn random_histories_with_batches_and_sessions_are_judged_alike() {
    let mut rng = Rng::new(3);
    let mut sound = 0;
    for round in 0..20_000 {
        let (mut history, mut ledger) = sound_history(&mut rng, 6);
        for operation in &mut history.operations {
            operation.session = if rng.percent(50) { 0 } else { operation.session + 1 };
        }
        if round % 2 == 0 {
            let victim = rng.below(6) as usize;
            distort(&mut history.operations[victim], &mut rng);
        }
        if round % 7 == 0 && ledger.payloads.len() > 1 {
            let (one, other) =
                (rng.below(ledger.payloads.len() as u64), rng.below(ledger.payloads.len() as u64));
            ledger.payloads.swap(one as usize, other as usize);
        }
        sound += u64::from(agree(&history, &ledger.payloads));
    }
    assert!((2_000..18_000).contains(&sound), "{sound}");
}

fn distort(operation: &mut Operation, rng: &mut Rng) {
    match &mut operation.what {
        Invocation::Append { outcome, .. } => {
            *outcome = *rng.pick(&[
                Outcome::Refused,
                Outcome::Unknown,
                Outcome::Acknowledged(rng.clone().below(4)),
            ])
        }
        Invocation::Barrier(end) => *end = end.saturating_add(rng.below(3)).saturating_sub(1),
        Invocation::Get { index, .. } => {
            *index = index.saturating_add(rng.below(3)).saturating_sub(1)
        }
    }
}

/// Does something to a sound history that must not go unnoticed.
type Anomalous = fn(&mut History, &mut Ledger, &mut Rng) -> Option<()>;

fn some_operation<'a>(
    history: &'a mut History,
    rng: &mut Rng,
    fits: impl Fn(&Invocation) -> bool,
) -> Option<&'a mut Operation> {
    let skip = rng.below(history.operations.len() as u64 / 2) as usize;
    history.operations.iter_mut().skip(skip).find(|operation| fits(&operation.what))
}

fn is_acknowledged(what: &Invocation) -> bool {
    matches!(what, Invocation::Append { outcome: Outcome::Acknowledged(_), .. })
}

const ANOMALIES: [(&str, &str, Anomalous); 12] = [
    ("an acknowledged entry is lost from the end", "A1", |history, ledger, _| {
        let end = |operation: &Operation| match operation.what {
            Invocation::Append { outcome: Outcome::Acknowledged(index), count, .. } => {
                index + u64::from(count)
            }
            _ => 0,
        };
        let last = history.operations.iter().map(end).max()?;
        ledger.payloads.truncate(last.checked_sub(1)? as usize);
        Some(())
    }),
    ("an entry moved", "A1", |history, ledger, rng| {
        let operation = some_operation(history, rng, is_acknowledged)?;
        let Invocation::Append { outcome: Outcome::Acknowledged(index), .. } = operation.what
        else {
            return None;
        };
        ledger.payloads.insert(index as usize, ANY - 1 - index);
        ledger.payloads[index as usize] = 0;
        Some(())
    }),
    ("an entry is there twice", "A2", |_, ledger, rng| {
        let again = ledger.payloads[rng.below(ledger.payloads.len() as u64) as usize];
        ledger.payloads.push(again);
        Some(())
    }),
    ("two appends are acknowledged at one index", "A2", |history, ledger, rng| {
        let operation = some_operation(history, rng, is_acknowledged)?;
        let Invocation::Append { outcome: Outcome::Acknowledged(index), .. } = operation.what
        else {
            return None;
        };
        // Where payloads do not tell which they are.
        ledger.payloads.fill(ANY);
        let at = history.operations.len();
        let stamp = 2 * at as u64;
        let what =
            Invocation::Append { first: 9_999, count: 1, outcome: Outcome::Acknowledged(index) };
        history.operations.push(Operation {
            session: at as u32,
            began: stamp,
            ended: stamp + 1,
            what,
        });
        Some(())
    }),
    ("an entry that no client offered", "A3", |_, ledger, _| {
        ledger.payloads.push(1 << 40);
        Some(())
    }),
    ("a refused append is in the ledger", "A3", |history, ledger, rng| {
        let refused = |what: &Invocation| {
            matches!(what, Invocation::Append { outcome: Outcome::Refused, .. })
        };
        let Invocation::Append { first, .. } = some_operation(history, rng, refused)?.what else {
            return None;
        };
        ledger.payloads.push(first);
        Some(())
    }),
    ("a read finds another payload", "A3", |history, _, rng| {
        let operation = some_operation(history, rng, |what| {
            matches!(what, Invocation::Get { found: Some(_), .. })
        })?;
        let Invocation::Get { found, .. } = &mut operation.what else { return None };
        *found = found.map(|payload| payload ^ 1);
        Some(())
    }),
    ("half a batch is in the ledger", "A4", |history, ledger, rng| {
        let absent = |what: &Invocation| match what {
            Invocation::Append { count: 2.., outcome: Outcome::Unknown, first } => {
                !ledger.payloads.contains(first)
            }
            _ => false,
        };
        let Invocation::Append { first, .. } = some_operation(history, rng, absent)?.what else {
            return None;
        };
        ledger.payloads.push(first);
        Some(())
    }),
    ("appends of one session change places", "A4", |history, _, _| {
        let in_order = |operation: &&mut Operation| is_acknowledged(&operation.what);
        let mut appends: Vec<&mut Operation> =
            history.operations.iter_mut().filter(in_order).collect();
        let index = |operation: &Operation| match operation.what {
            Invocation::Append { outcome: Outcome::Acknowledged(index), .. } => index,
            _ => 0,
        };
        let at = (1..appends.len()).find(|&at| index(appends[at]) < index(appends[at - 1]))?;
        appends[at].session = 777;
        appends[at - 1].session = 777;
        Some(())
    }),
    ("an append that began later comes to stand before", "A6", |history, _, rng| {
        let stamp = 2 * history.operations.len() as u64;
        let operation = some_operation(history, rng, is_acknowledged)?;
        (operation.began, operation.ended) = (stamp, stamp + 1);
        history.operations.sort_unstable_by_key(|operation| operation.began);
        Some(())
    }),
    ("a deposed leader answers a barrier", "A7", |history, ledger, _| {
        let stamp = 2 * history.operations.len() as u64;
        let half = ledger.payloads.len() as u64 / 2;
        let barriers = history.operations.iter().map(|operation| operation.what);
        let what = barriers
            .into_iter()
            .find(|what| matches!(what, Invocation::Barrier(end) if *end < half))?;
        history.operations.push(Operation { session: 0, began: stamp, ended: stamp + 1, what });
        Some(())
    }),
    ("a linearizable read misses an acknowledged entry", "A7", |history, ledger, _| {
        let stamp = 2 * history.operations.len() as u64;
        let what = Invocation::Get {
            index: ledger.payloads.len() as u64 / 2,
            found: None,
            linearizable: true,
        };
        history.operations.push(Operation { session: 0, began: stamp, ended: stamp + 1, what });
        Some(())
    }),
];

#[test]
fn every_planted_anomaly_is_reported_by_its_name() {
    for (name, named, plant) in ANOMALIES {
        let mut planted = 0;
        for seed in 0..50 {
            let mut rng = Rng::new(seed);
            let (mut history, mut ledger) = sound_history(&mut rng, 200);
            assert_eq!(check(&history, &ledger), Ok(()), "seed {seed}");
            if plant(&mut history, &mut ledger, &mut rng).is_none() {
                continue;
            }
            planted += 1;
            let anomaly = check(&history, &ledger).expect_err(name);
            assert!(anomaly.check == named || named == "A1", "{name}: {anomaly}");
        }
        assert!(planted > 20, "{name}: {planted}");
    }
}

#[test]
#[ignore = "a measurement, with 3 GB: see the commands of `dledger::sim`"]
fn ten_million_operations_are_checked() {
    let (history, ledger) = sound_history(&mut Rng::new(1), 10_000_000);
    let began = std::time::Instant::now();
    check(&history, &ledger).unwrap();
    println!("{} operations checked in {:?}", history.operations.len(), began.elapsed());
}
