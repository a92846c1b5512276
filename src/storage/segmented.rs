//! The default storage: segments of one directory, written with `pwrite` and read through read-only
//! maps.
//!
//! `format.md` documents every byte. In short: batches are appended to the active segment, a file
//! of fixed length. A full segment is sealed with an index of its records. A conflicting tail is
//! not overwritten: a new segment begins at the cut, and supersedes the older ones from there on.
//! The small state that changes (term, vote, base, peers) is in one file of alternating slots.

mod active_segment;
mod backup;
mod by_position;
mod candidate;
mod corrupt_log;
mod damaged_scan;
#[cfg_attr(not(unix), path = "segmented/directory_by_path.rs")]
mod directory;
mod directory_lock;
mod disk_log;
mod error;
mod file_io;
mod format;
pub(crate) mod fs;
mod host_directory;
mod host_place;
mod identity;
mod log_shared;
mod lookup;
mod map_cache;
mod metadata;
mod mmap;
mod options;
mod preallocate;
mod real_disk;
mod record_index;
mod recovered_log;
mod recovery;
mod retention;
mod rewrite;
mod run_clock;
mod salvage;
mod scan;
mod segment;
mod segment_set;
mod segmented_log;
mod spare;
mod sync;
#[cfg(any(test, fuzzing, feature = "sim"))]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod tools;
mod writer;

#[cfg(any(test, feature = "sim"))]
pub(crate) use disk_log::DiskLog;
pub(crate) use host_directory::HostDirectory;
#[cfg(feature = "sim")]
pub(crate) use host_directory::{Tombstone, Tombstones};
pub(crate) use mmap::home;
pub use options::{Create, SegmentOptions};
pub use segmented_log::SegmentedLog;
