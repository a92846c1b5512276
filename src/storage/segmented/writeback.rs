//! Has the kernel begin to write a part of a file, and waits for nothing.

use std::fs::File;
use std::io;
use std::num::TryFromIntError;
use std::os::fd::AsRawFd;

/// Begins to write what is dirty of `bytes` from `offset` on. False if it did not, and nothing is lost.
///
/// # Errors
/// Final: what could not even be begun is lost to a later sync, which may say nothing of it.
pub(super) fn begin(file: &File, offset: u64, bytes: u64) -> io::Result<bool> {
    // Into the type that the call takes, which is not the same with every C library.
    let too_large = |_: TryFromIntError| io::Error::from(io::ErrorKind::InvalidInput);
    let (offset, bytes) = (offset.try_into().map_err(too_large)?, bytes.try_into().map_err(too_large)?);
    // To wait would take the error of an earlier write away from the sync that must tell of it. To begin takes none.
    const BEGIN: libc::c_uint = libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: it is given numbers alone, and the descriptor is open as long as `file` is borrowed.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), offset, bytes, BEGIN) } {
        0 => Ok(true),
        _ => match io::Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL | libc::EOPNOTSUPP | libc::EINTR)) => Ok(false),
            error => Err(error),
        },
    }
}
