//! Complete reads and writes, by as many system calls as needed.

use std::io::{self, IoSlice};
use std::ops::Range;

use super::fs::DiskFile;

/// Writes all of `parts`, in as many calls as needed.
pub(super) fn write_all(
    file: &impl DiskFile,
    parts: &mut [IoSlice<'_>],
    offset: u64,
) -> io::Result<()> {
    write_from(file, parts, offset).map_err(|(_, error)| error)
}

/// Writes all of `parts`, or fails with nothing written if the disk is full. A disk that had space
/// for some of it is reported as broken, not as full: a write that was refused must not be there
/// after a crash, and a part of it would be.
pub(super) fn write_whole(
    file: &impl DiskFile,
    parts: &mut [IoSlice<'_>],
    offset: u64,
) -> io::Result<()> {
    write_from(file, parts, offset).map_err(|(written, error)| match written {
        0 => error,
        written => io::Error::other(format!("{written} bytes were written, and then: {error}")),
    })
}

/// Writes all of `parts`. An error comes with the number of bytes written before it.
fn write_from(
    file: &impl DiskFile,
    mut parts: &mut [IoSlice<'_>],
    offset: u64,
) -> Result<(), (u64, io::Error)> {
    /// The most parts that one call takes on Linux (IOV_MAX).
    const PARTS_MAX: usize = 1024;
    let mut done = 0;
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        let now = parts.len().min(PARTS_MAX);
        match file.write_at(&parts[..now], offset + done) {
            Ok(0) => return Err((done, io::ErrorKind::WriteZero.into())),
            Ok(written) => {
                done += written as u64;
                IoSlice::advance_slices(&mut parts, written);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((done, error)),
        }
    }
    Ok(())
}

/// The most zeros that one call writes; no call crosses a multiple of it.
///
/// Linux can keep what one call brought into memory as one piece (a folio), as far as it is
/// aligned: page faults, writes and syncs then cost by piece, not by page. Larger pieces are harder
/// to get, and threads that wait for the processor or the disk wait for a whole one: about 80
/// microseconds and half a millisecond on a fast machine, and a millisecond more where a hypervisor
/// has to provide each new page first.
const ZERO_CHUNK_BYTES: u64 = 512 << 10;

/// Where the chunk of zeros that begins at `offset` ends.
pub(super) fn zeros_end(offset: u64, end: u64) -> u64 {
    end.min((offset / ZERO_CHUNK_BYTES + 1) * ZERO_CHUNK_BYTES)
}

/// Writes zeros to `range`, so that its blocks are allocated and need not be when they are used.
pub(super) fn write_zeros(file: &impl DiskFile, range: Range<u64>) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut offset = range.start;
    while offset < range.end {
        let end = zeros_end(offset, range.end);
        let part = |at| IoSlice::new(&ZEROS[..ZEROS.len().min((end - at) as usize)]);
        let mut parts: Vec<_> = (offset..end).step_by(ZEROS.len()).map(part).collect();
        write_all(file, &mut parts, offset)?;
        offset = end;
    }
    Ok(())
}

/// Fills `buffer`. An early end of the file is an error.
pub(super) fn read_exact(file: &impl DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    match read_full(file, buffer, offset)? {
        read if read == buffer.len() => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Reads until `buffer` is full or the file ends.
pub(super) fn read_full(file: &impl DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::super::format;
    use super::super::mmap::FileMap;
    use super::*;
    use crate::primitives::Mutex;

    /// A file that records the ranges written.
    #[derive(Default)]
    struct Noting(Mutex<Vec<Range<u64>>>);

    impl DiskFile for Noting {
        type Map = FileMap;

        fn size(&self) -> io::Result<u64> {
            unreachable!()
        }
        fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
            unreachable!()
        }
        fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
            assert!(parts.iter().all(|part| part.iter().all(|byte| *byte == 0)));
            let bytes = parts.iter().map(|part| part.len()).sum();
            self.0.lock().push(offset..offset + bytes as u64);
            Ok(bytes)
        }
        fn allocate(&self, _: u64) -> io::Result<()> {
            unreachable!()
        }
        fn sync_data(&self) -> io::Result<()> {
            unreachable!()
        }
        fn map(&self) -> io::Result<FileMap> {
            unreachable!()
        }
    }

    #[test]
    fn zeros_come_in_pieces_that_are_aligned() {
        const PIECE: u64 = 512 << 10;
        let file = Noting::default();
        write_zeros(&file, format::RECORDS_AT..3 * PIECE + 5).unwrap();
        let written = file.0.lock().clone();
        assert_eq!(
            written,
            [4096..PIECE, PIECE..2 * PIECE, 2 * PIECE..3 * PIECE, 3 * PIECE..3 * PIECE + 5]
        );
    }
}
