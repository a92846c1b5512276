//! Checker: compares a history, the operations of all clients and their results, with the ledger
//! that all replicas agreed on in the end. The check is exact.
//!
//! Linearizability of an append-only log with unique payloads needs no search. Each operation
//! bounds the length of the ledger at some moment within it: at least `lo`, at most `hi`. The
//! real-time order of intervals has no two chains side by side that are not connected, so any
//! contradiction implies one between two operations: one ended before the other began, with a `lo`
//! above the `hi` of the other. One sweep in the order of time finds it, in O(n log n).
//!
//! - **A1** An acknowledged append is in the ledger, at the acknowledged index, unless that was
//!   purged.
//! - **A2** No index is acknowledged twice, no payload is in the ledger twice.
//! - **A3** Each payload of the ledger was offered, and was not rejected as certainly not
//!   committed. Each payload that was read is in the ledger.
//! - **A4** A batch is in the ledger as a whole, or not at all, and is seen so. The appends of one
//!   session keep their order.
//! - **A6, A7** Real time: operations that ended before this one began lie below it. A barrier or a
//!   linearizable read misses nothing.

use std::fmt;

/// Operations of all clients.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// In the order in which they began.
    pub operations: Vec<Operation>,
}

/// One call of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Session: the calls of one client, one after the other, at one process of one node.
    pub session: u32,
    /// Time of the call. All times of a history differ.
    pub began: u64,
    /// Time of the return. [`NEVER`] if unknown.
    pub ended: u64,
    /// The call and its result.
    pub what: Invocation,
}

/// The end of an operation that has none.
pub const NEVER: u64 = u64::MAX;

/// A call and its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// An append of the payloads `first` .. `first + count`, as one batch.
    Append {
        /// The number of the first payload. Payloads are numbered in the order in which they were
        /// offered, over all sessions.
        first: u64,
        /// Number of payloads.
        count: u32,
        /// The outcome.
        outcome: Outcome,
    },
    /// A linearizable point: every append acknowledged before it lies below this index.
    Barrier(u64),
    /// A read of the entry at `index`.
    Get {
        /// The index asked for.
        index: u64,
        /// The payload that was found. `None`: not (yet) there.
        found: Option<u64>,
        /// Whether it was preceded by a barrier, which belongs to the operation. Otherwise it may
        /// lag behind.
        linearizable: bool,
    },
}

/// Outcome of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// At this index; that of the first payload, if it was a batch.
    Acknowledged(u64),
    /// Certainly not committed, now or ever.
    Refused,
    /// Committed or not.
    Unknown,
}

/// The ledger that all replicas agreed on in the end.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// The index of the first known payload. Those below were purged on all nodes.
    pub first: u64,
    /// The number of the payload at each index, from `first` on. [`ANY`]: too short to identify.
    pub payloads: Vec<u64>,
}

/// A payload that may be any.
pub const ANY: u64 = u64::MAX;

/// A violation in a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anomaly {
    /// The name of the check: `A1` to `A7`.
    pub check: &'static str,
    /// The operation, and the contradiction.
    pub what: String,
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.check, self.what)
    }
}

fn ensure(holds: bool, check: &'static str, what: impl FnOnce() -> String) -> Result<(), Anomaly> {
    if holds { Ok(()) } else { Err(Anomaly { check, what: what() }) }
}

/// Checks a history against the final ledger.
///
/// # Errors
/// The first anomaly found.
pub fn check(history: &History, ledger: &Ledger) -> Result<(), Anomaly> {
    let places = Places::of(history, ledger)?;
    for operation in &history.operations {
        check_one(operation, ledger, &places)?;
    }
    check_claims(history)?;
    check_sessions(history, &places)?;
    check_time(history, ledger, &places)
}

impl Ledger {
    fn end(&self) -> u64 {
        self.first + self.payloads.len() as u64
    }

    /// The payload at `index`. [`ANY`] below the first; `None` beyond the end.
    fn at(&self, index: u64) -> Option<u64> {
        match index.checked_sub(self.first) {
            None => Some(ANY),
            Some(place) => self.payloads.get(place as usize).copied(),
        }
    }
}

const NOWHERE: u64 = u64::MAX;

/// Index of each payload in the ledger.
struct Places {
    payloads: Vec<u64>,
    /// Start and end of each batch of more than one payload: it is never seen in part.
    batches: Vec<(u64, u64)>,
}

impl Places {
    fn of(history: &History, ledger: &Ledger) -> Result<Places, Anomaly> {
        let offered = |operation: &Operation| match operation.what {
            Invocation::Append { first, count, .. } => first + u64::from(count),
            _ => 0,
        };
        let count = history.operations.iter().map(offered).max().unwrap_or(0);
        let mut places = vec![NOWHERE; count as usize];
        for (place, &payload) in
            ledger.payloads.iter().enumerate().filter(|(_, payload)| **payload != ANY)
        {
            let index = ledger.first + place as u64;
            let known = places.get_mut(payload as usize);
            let known = known.ok_or_else(|| Anomaly {
                check: "A3",
                what: format!("entry {index} holds payload {payload}, which no client offered"),
            })?;
            ensure(*known == NOWHERE, "A2", || {
                format!("payload {payload} is at index {known} and at {index}")
            })?;
            *known = index;
        }
        let mut places = Places { payloads: places, batches: Vec::new() };
        places.batches =
            history.operations.iter().filter_map(|operation| places.of_batch(operation)).collect();
        places.batches.sort_unstable();
        Ok(places)
    }

    fn of_batch(&self, operation: &Operation) -> Option<(u64, u64)> {
        let Invocation::Append { first, count: count @ 2.., outcome } = operation.what else {
            return None;
        };
        self.of_append(first, outcome).map(|start| (start, start + u64::from(count)))
    }

    /// The batch that begins before `index` and ends after it.
    fn batch_around(&self, index: u64) -> Option<(u64, u64)> {
        let at = self.batches.partition_point(|(start, _)| *start < index);
        self.batches[..at].last().copied().filter(|(_, end)| index < *end)
    }

    fn of_payload(&self, payload: u64) -> Option<u64> {
        self.payloads.get(payload as usize).copied().filter(|&place| place != NOWHERE)
    }

    /// The index of an append: as acknowledged, or as found in the ledger.
    fn of_append(&self, first: u64, outcome: Outcome) -> Option<u64> {
        match outcome {
            Outcome::Acknowledged(index) => Some(index),
            Outcome::Refused | Outcome::Unknown => self.of_payload(first),
        }
    }
}

fn check_one(operation: &Operation, ledger: &Ledger, places: &Places) -> Result<(), Anomaly> {
    let show = || format!("{operation:?}");
    match operation.what {
        Invocation::Append { first, count, outcome: Outcome::Acknowledged(index) } => {
            for nth in 0..u64::from(count) {
                let there = ledger.at(index + nth);
                let right = there == Some(first + nth) || there == Some(ANY);
                ensure(right, "A1", || {
                    format!("{}, and index {} holds payload {there:?}", show(), index + nth)
                })?;
            }
            Ok(())
        }
        Invocation::Append { first, count, outcome } => {
            let start = places.of_payload(first);
            ensure(outcome == Outcome::Unknown || start.is_none(), "A3", || {
                format!("{}, and it is at index {start:?}", show())
            })?;
            for nth in 1..u64::from(count) {
                let there = places.of_payload(first + nth);
                // A payload that is too short to identify counts as in its place.
                let whole = there == start.map(|start| start + nth)
                    || (there.is_none()
                        && start.is_some_and(|start| ledger.at(start + nth) == Some(ANY)))
                    || (start.is_none()
                        && there.is_some_and(|there| {
                            there >= nth && ledger.at(there - nth) == Some(ANY)
                        }));
                ensure(whole, "A4", || {
                    format!(
                        "{}: it begins at {start:?}, and payload {} is at {there:?}",
                        show(),
                        first + nth
                    )
                })?;
            }
            Ok(())
        }
        Invocation::Barrier(end) => {
            ensure(end <= ledger.end(), "A1", || {
                format!("{}, and the ledger ends at {}", show(), ledger.end())
            })?;
            ensure(places.batch_around(end).is_none(), "A4", || {
                format!("{} lies within the batch {:?}", show(), places.batch_around(end))
            })
        }
        Invocation::Get { index, found: Some(payload), .. } => {
            let there = ledger.at(index);
            ensure(there == Some(payload) || there == Some(ANY), "A3", || {
                format!("{}, and index {index} holds {there:?}", show())
            })
        }
        Invocation::Get { found: None, .. } => Ok(()),
    }
}

/// No index is acknowledged twice. For payloads that can be identified this follows from the rest.
fn check_claims(history: &History) -> Result<(), Anomaly> {
    let mut claims: Vec<(u64, u64)> = Vec::new();
    for operation in &history.operations {
        if let Invocation::Append { count, outcome: Outcome::Acknowledged(index), .. } =
            operation.what
        {
            claims.push((index, index + u64::from(count)));
        }
    }
    claims.sort_unstable();
    let twice = claims.windows(2).find(|pair| pair[1].0 < pair[0].1);
    ensure(twice.is_none(), "A2", || format!("indexes {twice:?} were acknowledged twice"))
}

/// The appends of one session are in the ledger in the order of their calls.
fn check_sessions(history: &History, places: &Places) -> Result<(), Anomaly> {
    let sessions = history
        .operations
        .iter()
        .map(|operation| operation.session)
        .max()
        .map_or(0, |last| last as usize + 1);
    let mut next = vec![0; sessions];
    for operation in &history.operations {
        let Invocation::Append { first, count, outcome } = operation.what else { continue };
        let Some(index) = places.of_append(first, outcome) else { continue };
        let next = &mut next[operation.session as usize];
        ensure(index >= *next, "A4", || {
            format!("{operation:?} is at index {index}, behind a later append of its session")
        })?;
        *next = index + u64::from(count);
    }
    Ok(())
}

/// Bounds of the length of the ledger at some moment within an operation: at least, and at most.
fn bounds(operation: &Operation, places: &Places) -> (u64, u64) {
    match operation.what {
        Invocation::Append { first, count, outcome } => match places.of_append(first, outcome) {
            Some(index) if outcome == Outcome::Unknown => (0, index),
            Some(index) => (index + u64::from(count), index),
            None => (0, u64::MAX),
        },
        Invocation::Barrier(end) => (end, end),
        Invocation::Get { index, found: Some(_), .. } => {
            (places.batch_around(index + 1).map_or(index + 1, |(_, end)| end), u64::MAX)
        }
        Invocation::Get { index, found: None, linearizable: true } => {
            (0, places.batch_around(index).map_or(index, |(start, _)| start))
        }
        Invocation::Get { found: None, linearizable: false, .. } => (0, u64::MAX),
    }
}

fn check_time(history: &History, ledger: &Ledger, places: &Places) -> Result<(), Anomaly> {
    let operations = &history.operations;
    debug_assert!(operations.is_sorted_by_key(|operation| operation.began));
    let mut by_end: Vec<(u64, u32)> =
        operations.iter().enumerate().map(|(n, operation)| (operation.ended, n as u32)).collect();
    by_end.sort_unstable();
    let mut ended = by_end.into_iter().peekable();
    let mut reached = 0;
    let mut witness = None;
    for operation in operations {
        while let Some((_, n)) = ended.next_if(|(end, _)| *end < operation.began) {
            let (lo, _) = bounds(&operations[n as usize], places);
            if lo > reached {
                (reached, witness) = (lo, Some(n));
            }
        }
        let (_, hi) = bounds(operation, places);
        let check = if matches!(operation.what, Invocation::Append { .. }) { "A6" } else { "A7" };
        ensure(reached <= hi, check, || {
            let before = witness.map(|n| operations[n as usize]);
            format!(
                "{operation:?} began when {before:?} had ended (the ledger ends at {})",
                ledger.end()
            )
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod brute_force;
