//! How much of the ledger a node keeps: the policy, and what it removes.
//!
//! [`choose`] is the policy as a pure function: given the segments, how far the log is committed
//! and how full the disk is, it says which segments go, and why. It knows no clock, no file and no
//! pin; the engine asks it.

#[cfg(test)]
mod tests;

use std::time::Duration;

pub(crate) use crate::removed::Reason;
use crate::storage::{DiskUse, SegmentInfo};

/// The active segment is closed once its first batch is as old as this part of the age limit. So an
/// entry of a quiet log is removed at the latest when it is five quarters of the limit old.
const CLOSE_AFTER_PART: u32 = 4;

/// How much of the ledger a node keeps. Without any limit: all of it, which is the default.
///
/// What goes is the oldest, in whole segments ([`segment_bytes`](crate::Builder::segment_bytes)),
/// and only what is committed; the segment that is written to stays. Limits add up: a segment goes
/// as soon as one of them asks for it. What a [`Pin`](crate::Pin) holds stays, within
/// [`Builder::pin_bytes_max`](crate::Builder::pin_bytes_max). Each node keeps to a policy of its
/// own, and nodes of a group may differ: reads at one node may then find an entry that another has
/// removed. A follower that still needs what its leader has removed is moved forward to the
/// leader's first entry, as after a [`purge`](crate::DLedger::purge).
///
/// A node looks at its limits four times a second, and at the disk once a second. One whose group
/// [sleeps](crate::HostBuilder::sleep_after) is woken when a segment becomes too old, and looks at
/// the disk twice a minute. While a log is damaged or not complete
/// ([`Status::repair`](crate::Status::repair)) nothing is removed. It removes without creating a
/// file, so also on a disk that is full. What was removed, and why, is logged at INFO and counted
/// in [`Status::removed`](crate::Status::removed).
///
/// # Age
/// The age of an entry counts from the moment at which *this* node closed the segment that holds
/// it: because it was full, or because its first entry was a quarter of [`max_age`](Self::max_age)
/// old. Timestamps of entries play no part, so a leader whose clock is wrong ages nothing, and
/// keeps nothing from ageing.
///
/// Age is the time for which the ledger was open here since then, by a clock that cannot be set. It
/// goes on over restarts. No wall clock plays a part: one that jumps, by years and either way,
/// while the node runs or while it is down, removes nothing early and keeps nothing longer. The
/// price: time for which the node was down does not count, nor what a process that was killed ran
/// since it last closed a segment. So an entry may stay longer than it should by as much as
/// that, and never goes early.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let home = tempfile::tempdir()?;
/// use dledger::{DLedger, Retention};
/// use std::time::Duration;
///
/// let three_days = Duration::from_secs(3 * 24 * 3600);
/// let ledger = DLedger::builder(1)
///     .dir(home.path().join("log"))
///     .retention(Retention::keep_all().max_age(three_days).disk_used_force(0.9))
///     .open()?;
/// ledger.set_retention(Retention::keep_all().max_bytes(100 << 30))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[must_use = "it has no effect until a builder or a ledger is given it"]
pub struct Retention {
    pub(crate) max_bytes: Option<u64>,
    pub(crate) max_age: Option<Duration>,
    pub(crate) disk_used: Option<f64>,
    pub(crate) disk_used_force: Option<f64>,
}

impl Retention {
    /// Keeps everything: nothing is removed but by [`DLedger::purge`](crate::DLedger::purge).
    pub fn keep_all() -> Retention {
        Retention::default()
    }

    /// Keeps at most so many bytes of segment files, the one that is written to included; at least
    /// that one. Up to two more files may be kept ready for the segments to come.
    pub fn max_bytes(self, bytes: u64) -> Retention {
        Retention { max_bytes: Some(bytes), ..self }
    }

    /// Removes what is older than this, 1 ms to 1,000 years: see [above](Self#age). Entries go with
    /// their segment, so the first ones of it are up to a quarter older when they go.
    pub fn max_age(self, age: Duration) -> Retention {
        Retention { max_age: Some(age), ..self }
    }

    /// While more than this part of the disk is used, by whatever program, removes the oldest, but
    /// nothing that is younger than [`max_age`](Self::max_age). Between 0 and 1. With a `max_age`
    /// it therefore removes nothing that the age limit would not; it is meant for a policy without
    /// one.
    ///
    /// "Used" is what `df` says: blocks that are reserved for the administrator count neither as
    /// used nor as free. Several ledgers that share a disk share the work, by the space that they
    /// take. Without effect where that cannot be known: on Windows, and with a
    /// [storage](crate::Builder::storage) that does not tell it, which a warning says.
    pub fn disk_used(self, ratio: f64) -> Retention {
        Retention { disk_used: Some(ratio), ..self }
    }

    /// While more than this part of the disk is used, removes the oldest, however young it is. As
    /// [`disk_used`](Self::disk_used) otherwise, and not below it.
    pub fn disk_used_force(self, ratio: f64) -> Retention {
        Retention { disk_used_force: Some(ratio), ..self }
    }

    /// Refuses what makes no sense.
    pub(crate) fn check(&self) -> Result<(), String> {
        const AGE_MAX: Duration = Duration::from_secs(1_000 * 365 * 24 * 3600);
        for (name, ratio) in
            [("disk_used", self.disk_used), ("disk_used_force", self.disk_used_force)]
        {
            // Not a number is neither.
            if ratio.is_some_and(|ratio| !(ratio > 0.0 && ratio < 1.0)) {
                return Err(format!("{name}: a part of the disk is between 0 and 1"));
            }
        }
        if let (Some(used), Some(force)) = (self.disk_used, self.disk_used_force)
            && force < used
        {
            return Err(format!("disk_used_force ({force}) is less than disk_used ({used})"));
        }
        match self.max_age {
            Some(age) if age < Duration::from_millis(1) || age > AGE_MAX => {
                Err(format!("max_age: {age:?} is not within 1 ms and 1,000 years"))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn keeps_all(&self) -> bool {
        *self == Retention::default()
    }

    pub(crate) fn goes_by_disk(&self) -> bool {
        self.disk_used.is_some() || self.disk_used_force.is_some()
    }

    /// How old the first batch of a segment may be before the segment is closed.
    pub(crate) fn closes_after(&self) -> Option<Duration> {
        self.max_age.map(|age| age / CLOSE_AFTER_PART)
    }

    /// Whether the active segment is to be closed for its age. An empty one never is.
    pub(crate) fn closes(&self, active: &SegmentInfo) -> bool {
        let holds_any = active.last_raft_index >= active.first_raft_index;
        !active.is_closed
            && holds_any
            && self.closes_after().is_some_and(|after| active.age >= after)
    }

    /// In what time at the latest something is due, if nothing is appended. `None`: never.
    pub(crate) fn due_in(&self, segments: &[SegmentInfo]) -> Option<Duration> {
        let (age, after) = (self.max_age?, self.closes_after()?);
        let oldest = segments.first()?;
        let of_oldest = oldest.is_closed.then(|| age.saturating_sub(oldest.age));
        let active = segments
            .last()
            .filter(|last| !last.is_closed && last.last_raft_index >= last.first_raft_index);
        let of_active = active.map(|active| after.saturating_sub(active.age));
        of_oldest.into_iter().chain(of_active).min()
    }
}

/// A segment that is to be removed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Chosen {
    pub(crate) segment: SegmentInfo,
    pub(crate) reason: Reason,
}

/// Which segments a policy removes: the oldest ones, each with the reason. `segments` are those of
/// the log, oldest first; `commit` is the newest committed raft index; `disk` is given if it was
/// asked since the last removal.
pub(crate) fn choose(
    policy: &Retention,
    segments: &[SegmentInfo],
    commit: u64,
    disk: Option<DiskUse>,
) -> Vec<Chosen> {
    let all: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let budget = |ratio: Option<f64>| share_of_excess(ratio, disk, all);
    let (usual, forced) = (budget(policy.disk_used), budget(policy.disk_used_force));
    let mut removed = 0;
    let mut chosen = Vec::new();
    for segment in segments.iter().take_while(|segment| may_go(segment, commit)) {
        let is_old = policy.max_age.is_some_and(|age| segment.age >= age);
        let reason = if is_old {
            Reason::Age
        } else if policy.max_bytes.is_some_and(|most| all - removed > most) {
            Reason::Bytes
        } else if removed < usual && policy.max_age.is_none() {
            Reason::DiskUsed
        } else if removed < forced {
            Reason::DiskForced
        } else {
            break;
        };
        removed += segment.bytes;
        chosen.push(Chosen { segment: *segment, reason });
    }
    chosen
}

/// The segments that a host asks to remove.
pub(crate) fn choose_below(index: u64, segments: &[SegmentInfo], commit: u64) -> Vec<Chosen> {
    segments
        .iter()
        .take_while(|segment| may_go(segment, commit) && segment.end_index <= index)
        .map(|segment| Chosen { segment: *segment, reason: Reason::Asked })
        .collect()
}

/// Whether a segment may be removed at all.
fn may_go(segment: &SegmentInfo, commit: u64) -> bool {
    segment.is_closed && segment.last_raft_index <= commit
}

/// How many bytes a log of `all` bytes removes, so that no more than `ratio` of the disk is used:
/// its share of what is too much. Other logs see the same disk at the same time, and remove theirs.
fn share_of_excess(ratio: Option<f64>, disk: Option<DiskUse>, all: u64) -> u64 {
    let (Some(ratio), Some(disk)) = (ratio, disk) else { return 0 };
    let excess = disk.excess(ratio);
    let share = excess as f64 * (all as f64 / disk.used.max(1) as f64).min(1.0);
    // At least the oldest segment.
    (share as u64).max(u64::from(excess > 0))
}
