//! What was removed from a log, and why.

/// Why a segment is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Asked,
    Age,
    Bytes,
    DiskUsed,
    DiskForced,
}

impl Reason {
    pub(crate) const OF_POLICIES: [Reason; 4] =
        [Reason::Age, Reason::Bytes, Reason::DiskUsed, Reason::DiskForced];

    /// For the log.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Reason::Asked => "asked for",
            Reason::Age => "older than max_age",
            Reason::Bytes => "beyond max_bytes",
            Reason::DiskUsed => "beyond disk_used",
            Reason::DiskForced => "beyond disk_used_force",
        }
    }
}

/// Segments that were removed from a log, and the space that they took on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemovedSegments {
    /// How many.
    pub segments: u64,
    /// How many bytes of files.
    pub bytes: u64,
}

/// What a node has removed from its log since it was opened, by reason. See
/// [`Status::removed`](crate::Status::removed).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removed {
    /// By [`DLedger::purge`](crate::DLedger::purge).
    pub asked: RemovedSegments,
    /// By [`Retention::max_age`](crate::Retention::max_age).
    pub age: RemovedSegments,
    /// By [`Retention::max_bytes`](crate::Retention::max_bytes).
    pub bytes: RemovedSegments,
    /// By [`Retention::disk_used`](crate::Retention::disk_used).
    pub disk_used: RemovedSegments,
    /// By [`Retention::disk_used_force`](crate::Retention::disk_used_force).
    pub disk_forced: RemovedSegments,
}

impl Removed {
    pub(crate) fn count(&mut self, reason: Reason, bytes: u64) {
        let counted = match reason {
            Reason::Asked => &mut self.asked,
            Reason::Age => &mut self.age,
            Reason::Bytes => &mut self.bytes,
            Reason::DiskUsed => &mut self.disk_used,
            Reason::DiskForced => &mut self.disk_forced,
        };
        counted.segments += 1;
        counted.bytes += bytes;
    }
}
