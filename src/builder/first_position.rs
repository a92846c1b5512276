//! The position at which a new group begins.

use crate::error::OpenError;
use crate::storage::{Recovered, StorageError};

use super::Builder;

impl Builder {
    /// The position of the first byte of a new group, 0 to 2^60, default 0: for a host that goes on
    /// from another log, whose end it names here, so that its positions go on too. Indexes begin at
    /// 0 all the same.
    ///
    /// It belongs to the identity of the group. Every node names the same one at every opening, as
    /// long as the group lives: also with an empty directory
    /// ([`rejoin_empty`](Self::rejoin_empty)), and with a backup. An opening with another one than
    /// the log began with fails with [`StorageError::Mismatch`], which names both. Nodes that
    /// differ refuse each other, and [`Status::refused`](crate::Status::refused) says so on both.
    pub fn first_position(mut self, position: u64) -> Builder {
        self.first_position = position;
        self
    }

    /// A storage of the host's own may not know of it.
    pub(crate) fn check_first_position(&self, recovered: &Recovered) -> Result<(), OpenError> {
        let (base, first) = (recovered.base.point, self.first_position);
        let is_right = match base.next_index {
            0 => base.next_position == first,
            _ => base.next_position >= first,
        };
        if is_right {
            return Ok(());
        }
        Err(OpenError::Storage(StorageError::InvalidState(format!(
            "it begins at position {}, and the group at {first}: a storage begins a new log at the \
             first position of its owner",
            base.next_position
        ))))
    }
}
