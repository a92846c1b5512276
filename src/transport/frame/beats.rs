//! The content of a frame of beats: heartbeats, and answers to them, of several groups.
//!
//! Each row is u32 slot, u8 kind (1 heartbeat, 2 response), u64 term, u64 commit, u64 term of that
//! batch; little-endian. So an idle group costs 29 bytes where its message takes 108.

use super::{CONTENT_BYTES_MAX, Kind, encode};
use crate::message::{Beat, BeatKind};

const ROW_BYTES: usize = 29;
/// Rows in one frame.
const ROWS_MAX: usize = CONTENT_BYTES_MAX / ROW_BYTES;

/// The rows as frames, concatenated.
pub(crate) fn frames(rows: &[(u32, Beat)]) -> Vec<u8> {
    let content = |rows: &[(u32, Beat)]| rows.iter().flat_map(row).collect();
    rows.chunks(ROWS_MAX).flat_map(|rows| encode(Kind::Beats, content(rows))).collect()
}

fn row((slot, beat): &(u32, Beat)) -> [u8; ROW_BYTES] {
    let mut row = [0; ROW_BYTES];
    row[..4].copy_from_slice(&slot.to_le_bytes());
    row[4] = beat.kind as u8;
    row[5..13].copy_from_slice(&beat.term.to_le_bytes());
    row[13..21].copy_from_slice(&beat.commit.to_le_bytes());
    row[21..].copy_from_slice(&beat.commit_term.to_le_bytes());
    row
}

/// The rows of a content. `None` if it is no whole number of rows, or one is of no known kind.
pub(crate) fn rows(content: &[u8]) -> Option<Vec<(u32, Beat)>> {
    let (rows, []) = content.as_chunks::<ROW_BYTES>() else { return None };
    rows.iter().map(parse).collect()
}

fn parse(row: &[u8; ROW_BYTES]) -> Option<(u32, Beat)> {
    let (slot, rest) = row.split_first_chunk()?;
    let (kind, rest) = rest.split_first()?;
    let (term, rest) = rest.split_first_chunk()?;
    let (commit, commit_term) = rest.split_first_chunk()?;
    let beat = Beat {
        kind: BeatKind::from_code(*kind)?,
        term: u64::from_le_bytes(*term),
        commit: u64::from_le_bytes(*commit),
        commit_term: u64::from_le_bytes(*commit_term.first_chunk()?),
    };
    Some((u32::from_le_bytes(*slot), beat))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{FrameReader, HEADER_BYTES};
    use super::*;
    use crate::message::Message;

    fn read(stream: &[u8]) -> Vec<(u32, Beat)> {
        let (mut reader, mut source, mut read) = (FrameReader::new(), stream, Vec::new());
        reader.set_len_max(1);
        loop {
            while let Some(frame) = reader.next().unwrap() {
                assert_eq!(frame.kind, Kind::Beats);
                read.extend(rows(&frame.content).unwrap());
            }
            if reader.read_from(&mut source).unwrap() == 0 {
                return read;
            }
        }
    }

    /// Slot, whether it is a response, and three numbers.
    type Row = (u32, bool, u64, u64, u64);

    proptest! {
        #[test]
        fn a_message_that_goes_as_a_row_comes_back_as_it_was(
            sent in proptest::collection::vec(
                (any::<u32>(), any::<bool>(), any::<u64>(), any::<u64>(), any::<u64>()), 0..9),
        ) {
            let message = |&(_, is_response, term, commit, commit_term): &Row| {
                let kind = if is_response { BeatKind::Response } else { BeatKind::Heartbeat };
                Message::of_beat(1.into(), 2.into(), &Beat { kind, term, commit, commit_term })
            };
            let rows: Vec<_> =
                sent.iter().map(|one| (one.0, message(one).beat().unwrap())).collect();
            let back = read(&frames(&rows));
            prop_assert_eq!(back.len(), sent.len());
            for ((slot, beat), sent) in back.iter().zip(&sent) {
                prop_assert_eq!(*slot, sent.0);
                prop_assert_eq!(Message::of_beat(1.into(), 2.into(), beat), message(sent));
            }
        }

        #[test]
        fn rows_are_written_in_one_way(bytes in proptest::collection::vec(0..4_u8, 0..64)) {
            if let Some(rows) = rows(&bytes) {
                let frames = frames(&rows);
                prop_assert_eq!(frames.get(HEADER_BYTES..).unwrap_or(&[]), &bytes[..]);
            }
        }
    }

    #[test]
    fn many_rows_go_in_several_frames() {
        let beat = |term| Beat { kind: BeatKind::Heartbeat, term, commit: 1, commit_term: 1 };
        let rows: Vec<_> = (0..10_000).map(|slot| (slot, beat(u64::from(slot)))).collect();
        assert_eq!(read(&frames(&rows)), rows);
    }
}
