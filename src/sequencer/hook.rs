//! The append hook of the host, called for what is about to be given its place.

use crate::append_hook::{AppendHook, Place, call};
use crate::batch::OpenBatch;
use crate::error::AppendError;
use crate::fork::Home;
use crate::primitives::{Mutex, MutexGuard};

use super::line::Work;

/// The largest buffer that is kept for the next entry, in bytes.
const KEPT_BYTES: usize = 1 << 20;

/// A hook, and the lock under which it runs.
pub(super) struct Hooked {
    hook: AppendHook,
    /// Held while an entry is given its place. The buffer of the payload that the hook changes.
    places: Mutex<Vec<u8>>,
    home: Home,
}

/// What a host appends.
#[derive(Clone, Copy)]
pub(super) enum Payload<'a> {
    Entry(&'a [&'a [u8]]),
    Batch(&'a OpenBatch),
}

impl Payload<'_> {
    /// The same, for the line.
    pub(super) fn to_work(self) -> Work {
        match self {
            // Its checksum is that of what the hook makes of it.
            Payload::Entry(parts) => Work::Entry { payload: parts.concat().into(), crc: 0 },
            Payload::Batch(open) => Work::Batch(open.clone()),
        }
    }
}

/// What the hook made of a payload. The bytes of an entry are in the buffer.
pub(super) enum Changed {
    Entry { crc: u32 },
    Batch(OpenBatch),
}

impl Hooked {
    pub(super) fn new(hook: AppendHook, home: Home) -> Hooked {
        Hooked { hook, places: Mutex::new(Vec::new()), home }
    }

    /// From now on no other entry is given a place.
    pub(super) fn lock_places(&self) -> MutexGuard<'_, Vec<u8>> {
        self.places.lock()
    }

    /// Calls the hook for the entry in the buffer.
    pub(super) fn change_entry(
        &self,
        place: &Place,
        buffer: &mut [u8],
    ) -> Result<Changed, AppendError> {
        call(&self.hook, place, buffer, self.home)?;
        Ok(Changed::Entry { crc: crc32fast::hash(buffer) })
    }

    /// Calls the hook for each entry of a batch, the first of which goes to `place`.
    pub(super) fn change_batch(
        &self,
        place: &Place,
        mut open: OpenBatch,
    ) -> Result<Changed, AppendError> {
        let mut index = place.index;
        open.change_each(|offset, payload| {
            let place = Place { index, position: place.position + offset, ..*place };
            index += 1;
            call(&self.hook, &place, payload, self.home)
        })?;
        Ok(Changed::Batch(open))
    }

    pub(super) fn change(
        &self,
        place: &Place,
        payload: Payload<'_>,
        buffer: &mut Vec<u8>,
    ) -> Result<Changed, AppendError> {
        match payload {
            Payload::Entry(parts) => {
                fill(buffer, parts);
                self.change_entry(place, buffer)
            }
            Payload::Batch(open) => self.change_batch(place, open.clone()),
        }
    }
}

/// Puts the payload of an entry into the buffer.
pub(super) fn fill(buffer: &mut Vec<u8>, parts: &[&[u8]]) {
    buffer.clear();
    buffer.shrink_to(KEPT_BYTES);
    parts.iter().for_each(|part| buffer.extend_from_slice(part));
}
