//! Bytes on the wire: frames, each with a header whose own checksum is verified before its length is believed.
//!
//! ```text
//!   0  [4]  magic "DLG1"
//!   4  u8   kind                 1 hello, 2 refusal, 3 message
//!   5  [3]  zero
//!   8  u32  length of the content, in bytes
//!  12  u32  CRC-32 of the content
//!  16  u32  CRC-32 of bytes 0..16
//!  20  ...  content
//! ```
//!
//! Integers are little-endian.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;

use std::io::{self, Read};
use std::net::TcpStream;

use bytes::Bytes;

const MAGIC: [u8; 4] = *b"DLG1";
pub(crate) const HEADER_BYTES: usize = 20;

/// The longest content of a frame before the two sides know each other.
pub(crate) const HELLO_BYTES_MAX: usize = 1000;
/// Room to read into before the two sides know each other, and afterwards.
const LOBBY_BUFFER_BYTES: usize = 1 << 10;
const BUFFER_BYTES: usize = 64 << 10;
/// Room for a frame that does not fit into that, before more of it has arrived: two batches as large as a sequencer makes them.
const ROOM_BYTES: usize = 2 << 20;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Hello = 1,
    Refusal = 2,
    Message = 3,
}

/// One frame, complete and sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) content: Bytes,
}

/// Why a stream of bytes is not one of frames. There is no way to find the next frame after this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("what arrives is not of this protocol")]
    Header,
    #[error("a frame of {len} bytes, where at most {len_max} are allowed")]
    TooLong { len: usize, len_max: usize },
    #[error("a frame was damaged on its way")]
    Checksum,
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// The header of a frame that consists of these pieces.
pub(crate) fn header(kind: Kind, content: &[Bytes]) -> [u8; HEADER_BYTES] {
    let mut hasher = crc32fast::Hasher::new();
    content.iter().for_each(|piece| hasher.update(piece));
    let len: usize = content.iter().map(Bytes::len).sum();
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&MAGIC);
    header[4] = kind as u8;
    header[8..12].copy_from_slice(&u32::try_from(len).expect("the limits of the builder lie below 4 GiB").to_le_bytes());
    header[12..16].copy_from_slice(&hasher.finalize().to_le_bytes());
    let crc = crc32fast::hash(&header[..16]);
    header[16..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// A small frame in one piece.
pub(crate) fn whole(kind: Kind, content: Vec<u8>) -> Vec<u8> {
    let content = [Bytes::from(content)];
    [&header(kind, &content)[..], &content[0]].concat()
}

/// What a header says of its frame.
#[derive(Clone, Copy, Debug)]
struct Header {
    kind: Kind,
    len: usize,
    crc: u32,
}

impl Header {
    fn parse(bytes: &[u8; HEADER_BYTES], len_max: usize) -> Result<Header, FrameError> {
        let field = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let kind = match bytes[4..8] {
            [1, 0, 0, 0] => Kind::Hello,
            [2, 0, 0, 0] => Kind::Refusal,
            [3, 0, 0, 0] => Kind::Message,
            _ => return Err(FrameError::Header),
        };
        if bytes[..4] != MAGIC || field(16) != crc32fast::hash(&bytes[..16]) {
            return Err(FrameError::Header);
        }
        let len = field(8) as usize;
        if len > len_max {
            return Err(FrameError::TooLong { len, len_max });
        }
        Ok(Header { kind, len, crc: field(12) })
    }

    fn frame(&self, content: Vec<u8>) -> Result<Frame, FrameError> {
        if crc32fast::hash(&content) != self.crc && !planted!("a damaged frame is taken") {
            return Err(FrameError::Checksum);
        }
        Ok(Frame { kind: self.kind, content: Bytes::from(content) })
    }
}

/// Where the bytes of frames come from.
pub(crate) trait Source: Read {
    /// Reads once, at most `len` bytes, behind what `content` holds and into the room that it has. Returns how many bytes came.
    fn read_behind(&mut self, content: &mut Vec<u8>, len: usize) -> io::Result<usize> {
        read_and_copy(self, content, len)
    }
}

impl Source for &[u8] {}

impl Source for &TcpStream {
    /// Clears nothing: the operating system says how much of the room it has filled.
    #[cfg(target_os = "linux")]
    fn read_behind(&mut self, content: &mut Vec<u8>, len: usize) -> io::Result<usize> {
        if content.capacity() - content.len() > len {
            return read_and_copy(self, content, len);
        }
        Ok(rustix::io::read(*self, rustix::buffer::spare_capacity(content))?)
    }
}

/// By way of a small buffer, for the room itself would have to be cleared before it is read into.
fn read_and_copy(source: &mut (impl Read + ?Sized), content: &mut Vec<u8>, len: usize) -> io::Result<usize> {
    let mut piece = [0; 16 << 10];
    let len = len.min(content.capacity() - content.len()).min(piece.len());
    let read = source.read(&mut piece[..len])?;
    content.extend_from_slice(&piece[..read]);
    Ok(read)
}

/// Puts frames together from whatever pieces of them arrive.
///
/// The content of a frame gets an allocation of its own, exactly as long as it is, so that a payload that is kept keeps nothing else
/// alive. Small frames are copied there from the buffer; large ones are read in place, into room that is made as they arrive: never
/// more than as much again as has arrived, or 2 MiB.
#[derive(Debug)]
pub(crate) struct FrameReader {
    buffer: Vec<u8>,
    /// The part of the buffer that has been filled and not yet taken.
    start: usize,
    end: usize,
    /// A frame that does not fit into the buffer, and what has arrived of its content.
    large: Option<(Header, Vec<u8>)>,
    len_max: usize,
}

impl FrameReader {
    /// A reader that takes a hello and nothing larger.
    pub(crate) fn new() -> FrameReader {
        FrameReader { buffer: vec![0; LOBBY_BUFFER_BYTES], start: 0, end: 0, large: None, len_max: HELLO_BYTES_MAX }
    }

    /// From now on takes contents of up to `len_max` bytes.
    pub(crate) fn admit(&mut self, len_max: usize) {
        self.buffer.resize(BUFFER_BYTES, 0);
        self.len_max = len_max;
    }

    /// Whether part of a frame has arrived and the rest has not.
    pub(crate) fn is_amid_a_frame(&self) -> bool {
        self.large.is_some() || self.start < self.end
    }

    /// Reads once. Returns how many bytes came; 0 at the end of the stream.
    pub(crate) fn read_from(&mut self, source: &mut impl Source) -> io::Result<usize> {
        if let Some((header, content)) = &mut self.large {
            let arrived = content.len();
            if arrived == content.capacity() {
                content.reserve_exact(header.len.min(arrived + ROOM_BYTES.max(arrived)) - arrived);
            }
            return source.read_behind(content, header.len - arrived);
        }
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let read = source.read(&mut self.buffer[self.end..])?;
        self.end += read;
        Ok(read)
    }

    /// The next frame, if all of it has arrived.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some((header, content)) = self.large.take() {
            if content.len() < header.len {
                self.large = Some((header, content));
                return Ok(None);
            }
            return header.frame(content).map(Some);
        }
        let Some(bytes) = self.buffer[self.start..self.end].first_chunk() else { return Ok(None) };
        let header = Header::parse(bytes, self.len_max)?;
        let content = self.start + HEADER_BYTES;
        if header.len <= self.end - content {
            self.start = content + header.len;
            return header.frame(self.buffer[content..self.start].to_vec()).map(Some);
        }
        if HEADER_BYTES + header.len > self.buffer.len() {
            let mut arrived = Vec::with_capacity(header.len.min(ROOM_BYTES));
            arrived.extend_from_slice(&self.buffer[content..self.end]);
            self.large = Some((header, arrived));
            (self.start, self.end) = (0, 0);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 31) as u8).collect()
    }

    /// A source that gives at most so many bytes at a time.
    struct Trickle<'a>(&'a [u8], usize);

    impl Source for Trickle<'_> {}

    impl Read for Trickle<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let len = into.len().min(self.1);
            self.0.read(&mut into[..len])
        }
    }

    fn read_all(reader: &mut FrameReader, mut source: impl Source) -> Result<Vec<Frame>, FrameError> {
        let mut frames = Vec::new();
        loop {
            while let Some(frame) = reader.next()? {
                frames.push(frame);
            }
            if reader.read_from(&mut source).unwrap() == 0 {
                return Ok(frames);
            }
        }
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let lens = [0, 1, 500, 65_515, 65_516, 65_517, 200_000, 3, 1_000_000];
        let stream: Vec<u8> = lens.iter().flat_map(|&len| whole(Kind::Message, content(len))).collect();
        for piece in [1, 7, 19, 1000, 64 << 10, usize::MAX] {
            let mut reader = FrameReader::new();
            reader.admit(1_000_000);
            let frames = read_all(&mut reader, Trickle(&stream, piece)).unwrap();
            assert!(frames.iter().zip(lens).all(|(frame, len)| frame.content == content(len)), "in pieces of {piece}");
            assert_eq!(frames.len(), lens.len());
            assert!(!reader.is_amid_a_frame());
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let sound = whole(Kind::Message, content(40));
        for bit in 0..sound.len() * 8 {
            let mut damaged = sound.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let mut reader = FrameReader::new();
            assert!(read_all(&mut reader, &damaged[..]).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_stranger_cannot_send_more_than_a_hello() {
        let long = whole(Kind::Hello, content(HELLO_BYTES_MAX + 1));
        let refused = FrameError::TooLong { len: HELLO_BYTES_MAX + 1, len_max: HELLO_BYTES_MAX };
        assert_eq!(read_all(&mut FrameReader::new(), &long[..]), Err(refused));
        assert_eq!(read_all(&mut FrameReader::new(), &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..]), Err(FrameError::Header));
    }

    #[test]
    fn room_is_made_only_for_what_arrives() {
        let claim = header(Kind::Message, &[Bytes::from(vec![0; 30 << 20])]);
        let mut reader = FrameReader::new();
        reader.admit(32 << 20);
        for sent in [0, 10, 1 << 20, 5 << 20, 9 << 20] {
            let stream = [&claim[..], &vec![0; sent]].concat();
            reader.large = None;
            assert_eq!(read_all(&mut reader, &stream[..]).unwrap(), []);
            let room = reader.large.as_ref().map_or(0, |(_, content)| content.capacity());
            assert!(room <= sent + sent.max(ROOM_BYTES), "{sent} bytes sent, room for {room}");
        }
    }
}
