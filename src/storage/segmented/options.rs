//! Options of the segment files.

/// How a [`SegmentedLog`](super::SegmentedLog) lays out its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentOptions {
    /// The full length of a segment file in bytes, clamped to
    /// [`SegmentOptions::SEGMENT_BYTES_MIN`] to [`SegmentOptions::SEGMENT_BYTES_MAX`]. The first
    /// segment of a log has 128 KiB, or this if it is less; each further one has twice the length
    /// of the one before, up to this. A larger batch gets a segment of its own size. In addition to
    /// the log, up to two spare files of the next length are kept ready. Default: 64 MiB.
    pub segment_bytes: u64,
    /// Whether spare segments are filled with zeros: a sync of what is then written over them takes
    /// about half the time, and the disk writes everything twice. Worth it if every batch is
    /// synced. Default: true.
    pub zero_fill: bool,
    /// Whether opening reads every byte of the log, and not only what is not sealed: then
    /// corruption is found, and can be repaired, wherever it is. Opening then takes time in
    /// proportion to the log, not to its tail. Default: false.
    pub verify_on_open: bool,
    /// The most sealed segments mapped into memory at a time, at least 1. Above it, one that was
    /// not read for long is unmapped. Those that an [`Entry`](crate::Entry) points into stay mapped
    /// and do not count; nor do unsealed ones, of which there are fewer than 16. Default: 256.
    pub mapped_segments_max: usize,
    /// What to do if a log is missing, or exists. Default: [`Create::IfMissing`].
    pub create: Create,
    /// The lower limit of `segment_bytes`. Lower in tests and simulations only.
    pub(crate) segment_bytes_min: u64,
    /// The length of the first segment of a log, unless `segment_bytes` is less. Lower in tests and
    /// simulations only.
    pub(crate) first_segment_bytes: u64,
    /// Number of calls of `next_task` after which a failed sealing or deletion is tried again.
    /// Lower in tests and simulations only.
    pub(crate) retry_calls: u32,
}

/// What opening does if a log is missing, or exists.
///
/// A directory holds a log once one was opened in it, whatever other files it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Create {
    /// Creates a log where there is none. Beware: a file system that is not mounted looks like a
    /// missing log, if its mount point has the name of the log's directory, or of its parent.
    #[default]
    IfMissing,
    /// A log must exist: a directory that is missing, or holds none, is refused with
    /// [`StorageError::NoLog`](crate::storage::StorageError::NoLog), and nothing is created.
    Never,
    /// A log must not exist: a directory that holds one is refused with
    /// [`StorageError::HoldsLog`](crate::storage::StorageError::HoldsLog). Another one is used, or
    /// created.
    New,
}

impl SegmentOptions {
    /// The smallest segment: 64 KiB.
    pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;
    /// The largest segment: 4 GiB.
    pub const SEGMENT_BYTES_MAX: u64 = 4 << 30;

    /// The length of a first segment. With the files `state` and `identity` (44 KiB), a log of a
    /// few entries takes 172 KiB.
    const FIRST_SEGMENT_BYTES: u64 = 128 << 10;

    const DEFAULT: SegmentOptions = SegmentOptions {
        segment_bytes: 64 << 20,
        zero_fill: true,
        verify_on_open: false,
        mapped_segments_max: 256,
        create: Create::IfMissing,
        segment_bytes_min: SegmentOptions::SEGMENT_BYTES_MIN,
        first_segment_bytes: SegmentOptions::FIRST_SEGMENT_BYTES,
        // A minute on an idle node.
        retry_calls: 512,
    };

    /// Options for tests and simulations: a short run fills, maps, unmaps and deletes many
    /// segments. Segments of 8 KiB, which is also the lower limit and the length of the first one;
    /// 2 mapped segments; a retry after 4 calls.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) const fn small() -> SegmentOptions {
        const BYTES: u64 = 8 << 10;
        SegmentOptions {
            segment_bytes: BYTES,
            segment_bytes_min: BYTES,
            first_segment_bytes: BYTES,
            mapped_segments_max: 2,
            retry_calls: 4,
            ..SegmentOptions::DEFAULT
        }
    }

    /// The full length of a segment file: `segment_bytes` within its limits.
    pub(super) fn segment_bytes(&self) -> u64 {
        self.segment_bytes.clamp(self.segment_bytes_min, SegmentOptions::SEGMENT_BYTES_MAX)
    }

    /// The length of the segment that follows one of `last` bytes; without one, of the first of a
    /// log. So a short log takes little space, and one that grows soon has segments of full length.
    pub(super) fn next_segment_bytes(&self, last: Option<u64>) -> u64 {
        let most = self.segment_bytes();
        let first = most.min(self.first_segment_bytes);
        last.map_or(first, |last| last.saturating_mul(2).clamp(first, most))
    }
}

impl Default for SegmentOptions {
    fn default() -> Self {
        SegmentOptions::DEFAULT
    }
}
