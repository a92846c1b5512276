//! Fuzzing: any bytes as the stream of a connection.

use super::{
    CONTENT_BYTES_MAX, FrameReader, Frames, HEADER_BYTES, Kind, MAGIC, PARTIAL_MESSAGES_MAX,
    SLOT_BYTES, beats, encode,
};
use crate::fuzzing::FuzzInput;

/// The longest message after the handshake.
const MESSAGE_MAX: usize = 1 << 20;

/// Kind, slot and content.
type Read = Vec<(Kind, u32, Vec<u8>)>;

/// A byte stream either is rejected, or is read as its frames, with messages assembled from pieces,
/// however the reads cut it.
pub fn frame(input: &[u8]) {
    let mut fuzz_input = FuzzInput(input);
    let (how, piece) = (fuzz_input.byte(), usize::from(fuzz_input.u16()));
    let stream = if how & 1 == 0 {
        fuzz_input.0.to_vec()
    } else {
        with_sound_headers(fuzz_input.0.to_vec())
    };
    let is_admitted = how & 2 != 0;
    let frames = read(&stream, piece.max(1), is_admitted);
    assert_eq!(
        frames,
        read(&stream, usize::MAX, is_admitted),
        "what arrives does not depend on how it is cut"
    );
    assert_eq!(frames, read_plainly(&stream, is_admitted), "what arrives is what was sent");
    for (_, _, content) in frames.iter().filter(|(kind, ..)| *kind == Kind::Beats) {
        if let Some(rows) = beats::rows(content).filter(|rows| !rows.is_empty()) {
            let frames = beats::frames(&rows);
            assert_eq!(frames[HEADER_BYTES..], content[..], "rows are written in one way");
        }
    }
}

/// The frames at the start of `stream`.
fn read(stream: &[u8], piece: usize, is_admitted: bool) -> Read {
    let mut reader = FrameReader::new();
    if is_admitted {
        reader.set_len_max(MESSAGE_MAX);
    }
    let mut frames = Vec::new();
    let mut rest = stream;
    loop {
        loop {
            match reader.next() {
                Ok(Some(frame)) => frames.push((frame.kind, frame.slot, frame.content.to_vec())),
                Ok(None) => break,
                Err(_) => return frames,
            }
        }
        let mut arriving = &rest[..piece.min(rest.len())];
        let read = reader.read_from(&mut arriving).expect("a slice can be read");
        if read == 0 {
            return frames;
        }
        rest = &rest[read..];
    }
}

/// The same, from the description alone.
fn read_plainly(mut stream: &[u8], is_admitted: bool) -> Read {
    let frame_max = if is_admitted { CONTENT_BYTES_MAX } else { super::HELLO_BYTES_MAX };
    let message_max = if is_admitted { MESSAGE_MAX } else { 0 };
    let (mut frames, mut partial) = (Vec::new(), Vec::<(u32, usize, Vec<u8>)>::new());
    while let Some((kind, content, rest)) = plain_frame(stream, frame_max) {
        stream = rest;
        if kind != Kind::Piece {
            let (slot, content) = match (kind, plain_number(content)) {
                (Kind::Message, Some(slot)) => slot,
                (Kind::Message, None) => break,
                _ => (0, content),
            };
            frames.push((kind, slot, content.to_vec()));
            continue;
        }
        let Some((slot, content)) = plain_number(content) else { break };
        let Some((total, part)) = plain_number(content) else { break };
        let begun = partial.iter().position(|(other, ..)| *other == slot);
        let others: usize = partial.iter().map(|(_, total, _)| total).sum();
        if begun.is_none()
            && (total as usize + others > message_max || partial.len() >= PARTIAL_MESSAGES_MAX)
        {
            break;
        }
        let (_, whole, mut begin) =
            begun.map_or((slot, total as usize, Vec::new()), |at| partial.remove(at));
        begin.extend_from_slice(part);
        if part.is_empty() || whole != total as usize || begin.len() > whole {
            break;
        }
        match begin.len() == whole {
            true => frames.push((Kind::Message, slot, begin)),
            false => partial.push((slot, whole, begin)),
        }
    }
    frames
}

fn plain_number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<SLOT_BYTES>()?;
    Some((u32::from_le_bytes(*number), rest))
}

fn plain_frame(stream: &[u8], frame_max: usize) -> Option<(Kind, &[u8], &[u8])> {
    let (header, rest) = stream.split_at_checked(HEADER_BYTES)?;
    let field = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let kind = Kind::ALL.into_iter().find(|kind| header[4..8] == [*kind as u8, 0, 0, 0])?;
    let is_sound = header[..4] == MAGIC && field(16) == crc32fast::hash(&header[..16]);
    let len = Some(field(8) as usize).filter(|len| is_sound && *len <= frame_max)?;
    let (content, rest) = rest.split_at_checked(len)?;
    (field(12) == crc32fast::hash(content)).then_some((kind, content, rest))
}

/// `stream` as consecutive frames, with corrected headers: magic number, kind, checksums.
fn with_sound_headers(mut stream: Vec<u8>) -> Vec<u8> {
    let mut at = 0;
    while let Some(header) = stream.get_mut(at..at + HEADER_BYTES) {
        header[..4].copy_from_slice(&MAGIC);
        header[4] = Kind::ALL[usize::from(header[4]) % Kind::ALL.len()] as u8;
        header[5..8].fill(0);
        let len = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let content =
            stream.get(at + HEADER_BYTES..(at + HEADER_BYTES).saturating_add(len)).unwrap_or(&[]);
        let crc = crc32fast::hash(content);
        stream[at + 12..at + 16].copy_from_slice(&crc.to_le_bytes());
        let crc = crc32fast::hash(&stream[at..at + 16]);
        stream[at + 16..at + 20].copy_from_slice(&crc.to_le_bytes());
        at = (at + HEADER_BYTES).saturating_add(len);
        if at > stream.len() {
            break;
        }
    }
    stream
}

#[cfg(test)]
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    use crate::entry::NodeId;
    use crate::storage::DirectoryIdentity;
    use crate::transport::hello::Hello;

    let (from, to) = (NodeId::from(1), NodeId::from(2));
    let identity = DirectoryIdentity { directory: 3, incarnation: 4, complete: true };
    let (group, members) = ("orders".to_owned(), [from, to].into());
    let hello = Hello {
        cluster: 5,
        group,
        members,
        from,
        to,
        identity,
        nonce: 6,
        group_uid: 8,
        advertised: "a".into(),
    }
    .encode();
    let frames = [
        encode(Kind::Hello, hello.clone()),
        encode(Kind::Refusal, vec![3]),
        encode(Kind::Message, vec![0; 600]),
        [encode(Kind::Hello, hello.clone()), encode(Kind::Message, Vec::new())].concat(),
        [pieces(&[300, 200]), encode(Kind::Ping, vec![7; 8]), pieces(&[1, 2, 3])].concat(),
        [pieces(&[30]), pieces(&[20])].concat()[..90].to_vec(),
        Frames::of(9, vec![vec![5; 70_000].into()]).concat(),
        [pieces_of(1, &[30]), pieces_of(2, &[20, 10]), pieces_of(3, &[0])].concat(),
        encode(Kind::Introduction, [&[1, 0, 0, 0][..], &hello].concat()),
        encode(Kind::Beats, vec![1; 42]),
    ];
    let heads = [[0, 1, 0], [1, 7, 0], [2, 0, 1], [3, 255, 255]];
    let streams =
        heads.iter().flat_map(|head| frames.iter().map(move |frame| [&head[..], frame].concat()));
    streams.chain([[&[0, 0, 0][..], &hello].concat()]).collect()
}

/// A message in pieces of these lengths.
#[cfg(test)]
fn pieces(lens: &[u32]) -> Vec<u8> {
    pieces_of(7, lens)
}

#[cfg(test)]
fn pieces_of(slot: u32, lens: &[u32]) -> Vec<u8> {
    let head = [slot.to_le_bytes(), lens.iter().sum::<u32>().to_le_bytes()].concat();
    lens.iter()
        .flat_map(|len| encode(Kind::Piece, [&head[..], &vec![9; *len as usize]].concat()))
        .collect()
}
