//! Any bytes, arriving on a connection.

use super::{FrameReader, HEADER_BYTES, Kind, MAGIC, whole};
use crate::fuzzing::Dish;

/// A stream of any bytes either is refused, or comes out as frames that would be written as they came, however it is cut into pieces.
pub fn frame(input: &[u8]) {
    let mut dish = Dish(input);
    let (how, piece) = (dish.byte(), usize::from(dish.u16()));
    let stream = if how & 1 == 0 { dish.0.to_vec() } else { with_sound_headers(dish.0.to_vec()) };
    let len_max = if how & 2 == 0 { None } else { Some(1 << 20) };
    let frames = read(&stream, piece.max(1), len_max);
    assert_eq!(frames, read(&stream, usize::MAX, len_max), "what arrives does not depend on how it is cut");
    assert!(stream.starts_with(&frames.concat()), "frames are written in one way");
}

/// The frames at the start of `stream`, written anew.
fn read(stream: &[u8], piece: usize, len_max: Option<usize>) -> Vec<Vec<u8>> {
    let mut reader = FrameReader::new();
    if let Some(len_max) = len_max {
        reader.admit(len_max);
    }
    let mut frames = Vec::new();
    let mut rest = stream;
    loop {
        loop {
            match reader.next() {
                Ok(Some(frame)) => frames.push(whole(frame.kind, frame.content.to_vec())),
                Ok(None) => break,
                Err(_) => return frames,
            }
        }
        let mut arriving = &rest[..piece.min(rest.len())];
        let read = reader.read_from(&mut arriving).expect("a slice can be read");
        if read == 0 {
            assert_eq!(reader.is_amid_a_frame(), frames.concat().len() < stream.len());
            return frames;
        }
        rest = &rest[read..];
    }
}

/// `stream`, taken for frames one behind the other, with what their headers say put right: magic number, kind, checksums.
fn with_sound_headers(mut stream: Vec<u8>) -> Vec<u8> {
    let mut at = 0;
    while let Some(header) = stream.get_mut(at..at + HEADER_BYTES) {
        header[..4].copy_from_slice(&MAGIC);
        header[4] = [Kind::Hello, Kind::Refusal, Kind::Message][usize::from(header[4] % 3)] as u8;
        header[5..8].fill(0);
        let len = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        let content = stream.get(at + HEADER_BYTES..(at + HEADER_BYTES).saturating_add(len)).unwrap_or(&[]);
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
    use crate::storage::Identity;
    use crate::transport::hello::Hello;

    let (from, to) = (NodeId::from(1), NodeId::from(2));
    let identity = Identity { directory: 3, incarnation: 4 };
    let (group, members) = ("orders".to_owned(), [from, to].into());
    let hello = Hello { cluster: 5, group, members, from, to, flags: 0, identity, nonce: 6 }.encode();
    let frames = [
        whole(Kind::Hello, hello.clone()),
        whole(Kind::Refusal, vec![3]),
        whole(Kind::Message, vec![0; 600]),
        [whole(Kind::Hello, hello.clone()), whole(Kind::Message, Vec::new())].concat(),
    ];
    let heads = [[0, 1, 0], [1, 7, 0], [2, 0, 1], [3, 255, 255]];
    let streams = heads.iter().flat_map(|head| frames.iter().map(move |frame| [&head[..], frame].concat()));
    streams.chain([[&[0, 0, 0][..], &hello].concat()]).collect()
}
