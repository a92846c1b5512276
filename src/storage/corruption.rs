//! A part of a log that does not read back.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use super::StorageError;

/// A part of the log that was synced and does not read back, with the data that a fetch from a peer
/// needs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Corruption {
    /// The file, or the directory if a file is missing.
    pub path: PathBuf,
    /// The place in the file, in bytes. 0 if a file is missing.
    pub offset: u64,
    /// The corrupt batches. Empty if no batch is affected.
    pub raft_indexes: Range<u64>,
    /// Their term, if it is known.
    pub term: Option<u64>,
    /// The chain value after the last of them, if it is known: it proves fetched batches.
    pub chain: Option<u32>,
    /// The check that failed.
    pub reason: String,
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Corruption { path, offset, raft_indexes, term, reason, .. } = self;
        write!(f, "{} is damaged at offset {offset}: {reason}", path.display())?;
        match raft_indexes.end.saturating_sub(raft_indexes.start) {
            0 => return Ok(()),
            1 => write!(f, " (raft index {}", raft_indexes.start)?,
            _ => write!(f, " (raft indexes {} to {}", raft_indexes.start, raft_indexes.end - 1)?,
        }
        term.map_or(Ok(()), |term| write!(f, ", term {term}"))?;
        f.write_str(")")
    }
}

impl From<&Corruption> for StorageError {
    fn from(corruption: &Corruption) -> StorageError {
        StorageError::Corrupt {
            path: corruption.path.clone(),
            offset: corruption.offset,
            reason: corruption.reason.clone(),
        }
    }
}
