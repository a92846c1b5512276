//! Frames: the units of a byte stream. The header has a checksum of its own, which is verified
//! before its length is used.
//!
//! ```text
//!   0  [4]  magic "DLG1"
//!   4  u8   kind                 1 hello, 2 refusal, 3 message, 4 piece, 5 ping, 6 pong
//!   5  [3]  zero
//!   8  u32  length of the content, in bytes
//!  12  u32  CRC-32 of the content
//!  16  u32  CRC-32 of bytes 0..16
//!  20  ...  content
//! ```
//!
//! Integers are little-endian. The header, and the kinds 1 and 2, are the same in every version.
//!
//! No frame is longer than 64 KiB. A longer message goes in pieces, so that other frames can go
//! between them: the content of a piece is the length of the whole message (u32) and a part of it,
//! at least one byte. The pieces of a message come in order, and those of the next one after them.
//! A ping carries a number (u64), and a pong that number.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;

use std::io::{self, IoSliceMut, Read};

use bytes::{Buf, Bytes};

const MAGIC: [u8; 4] = *b"DLG1";
pub(crate) const HEADER_BYTES: usize = 20;

/// The longest frame, its header included.
pub(crate) const FRAME_BYTES_MAX: usize = 64 << 10;
/// The longest message that goes in one frame.
pub(crate) const WHOLE_BYTES_MAX: usize = FRAME_BYTES_MAX - HEADER_BYTES;
/// The length of the message, before its part in a piece.
const TOTAL_BYTES: usize = 4;
/// The most of a message that one piece carries.
const PART_BYTES_MAX: usize = WHOLE_BYTES_MAX - TOTAL_BYTES;
/// The longest content of a frame before the handshake.
pub(crate) const HELLO_BYTES_MAX: usize = 1000;
/// The buffer before the handshake.
const HANDSHAKE_BUFFER_BYTES: usize = 1 << 10;
/// Bytes read beyond the current piece: the next header, and small frames.
const AHEAD_BYTES: usize = 4 << 10;
/// The first allocation for a message in pieces: two batches as large as a sequencer makes them.
const GROWTH_BYTES: usize = 2 << 20;

/// The kind of the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Hello = 1,
    Refusal = 2,
    Message = 3,
    /// A part of a message. [`FrameReader`] returns whole messages instead.
    Piece = 4,
    /// Asks whether the peer is alive.
    Ping = 5,
    /// Reports that it is.
    Pong = 6,
}

impl Kind {
    const ALL: [Kind; 6] =
        [Kind::Hello, Kind::Refusal, Kind::Message, Kind::Piece, Kind::Ping, Kind::Pong];
}

/// One frame, complete and verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) content: Bytes,
}

impl Frame {
    /// The number in a ping or pong.
    pub(crate) fn number(&self) -> Option<u64> {
        Some(u64::from_le_bytes(*self.content.first_chunk()?))
    }
}

/// Why bytes are not frames. The next frame cannot be found after this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("what arrives is not of this protocol")]
    Header,
    #[error("a frame of {len} bytes, where at most {len_max} are allowed")]
    TooLong { len: usize, len_max: usize },
    #[error("a piece of a message that does not go on where the last one ended")]
    Piece,
    #[error("a frame was damaged on its way")]
    Checksum,
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// The header of a frame with this content.
pub(crate) fn header(kind: Kind, content: &[Bytes]) -> [u8; HEADER_BYTES] {
    let mut hasher = crc32fast::Hasher::new();
    content.iter().for_each(|part| hasher.update(part));
    let len: usize = content.iter().map(Bytes::len).sum();
    debug_assert!(len <= WHOLE_BYTES_MAX, "a longer message goes in pieces");
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&MAGIC);
    header[4] = kind as u8;
    header[8..12].copy_from_slice(&(len as u32).to_le_bytes());
    header[12..16].copy_from_slice(&hasher.finalize().to_le_bytes());
    let crc = crc32fast::hash(&header[..16]);
    header[16..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// A small frame in one part.
pub(crate) fn encode(kind: Kind, content: Vec<u8>) -> Vec<u8> {
    let content = [Bytes::from(content)];
    [&header(kind, &content)[..], &content[0]].concat()
}

/// A ping or pong.
pub(crate) fn numbered(kind: Kind, number: u64) -> Vec<u8> {
    encode(kind, number.to_le_bytes().to_vec())
}

/// The frames of a message: one, or pieces.
#[derive(Debug)]
pub(crate) struct Frames {
    /// The rest of the message in parts, the last one first.
    parts: Vec<Bytes>,
    left: usize,
    total: usize,
}

impl Frames {
    pub(crate) fn of(mut content: Vec<Bytes>) -> Frames {
        let total = content.iter().map(Bytes::len).sum();
        content.reverse();
        Frames { parts: content, left: total, total }
    }

    /// Whether no frame is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Appends the next frame to `into`, in parts. Returns how many bytes of the message it
    /// carries, or `None` if no frame is left.
    pub(crate) fn next(&mut self, into: &mut Vec<Bytes>) -> Option<usize> {
        if self.parts.is_empty() {
            return None;
        }
        let at = into.len();
        into.push(Bytes::new());
        let whole = self.total <= WHOLE_BYTES_MAX;
        if !whole {
            into.push(Bytes::copy_from_slice(&(self.total as u32).to_le_bytes()));
        }
        let len = self.left.min(if whole { WHOLE_BYTES_MAX } else { PART_BYTES_MAX });
        self.take(len, into);
        let kind = if whole { Kind::Message } else { Kind::Piece };
        into[at] = Bytes::copy_from_slice(&header(kind, &into[at + 1..]));
        Some(len)
    }

    fn take(&mut self, mut len: usize, into: &mut Vec<Bytes>) {
        self.left -= len;
        while let Some(mut part) = self.parts.pop() {
            if part.len() > len {
                into.push(part.split_to(len));
                return self.parts.push(part);
            }
            len -= part.len();
            into.push(part);
        }
    }

    /// All frames, concatenated.
    pub(crate) fn concat(mut self) -> Vec<u8> {
        let mut parts = Vec::new();
        while self.next(&mut parts).is_some() {}
        parts.concat()
    }
}

/// A decoded header.
#[derive(Clone, Copy, Debug)]
struct Header {
    kind: Kind,
    len: usize,
    crc: u32,
}

impl Header {
    fn parse(bytes: &[u8; HEADER_BYTES], len_max: usize) -> Result<Header, FrameError> {
        let field = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let kind =
            Kind::ALL.into_iter().find(|kind| *kind as u8 == bytes[4]).ok_or(FrameError::Header)?;
        if bytes[..4] != MAGIC
            || bytes[5..8] != [0; 3]
            || field(16) != crc32fast::hash(&bytes[..16])
        {
            return Err(FrameError::Header);
        }
        let len = field(8) as usize;
        if len > len_max {
            return Err(FrameError::TooLong { len, len_max });
        }
        Ok(Header { kind, len, crc: field(12) })
    }

    fn check(&self, content: &[&[u8]]) -> Result<(), FrameError> {
        let mut hasher = crc32fast::Hasher::new();
        content.iter().for_each(|part| hasher.update(part));
        if hasher.finalize() != self.crc {
            return Err(FrameError::Checksum);
        }
        Ok(())
    }
}

/// A partial message.
#[derive(Debug)]
struct Assembly {
    total: usize,
    /// As long as the pieces so far, with the current one.
    content: Vec<u8>,
    /// The part of `content` that has arrived.
    arrived: usize,
    /// The current piece, and where its part begins.
    piece: Option<(Header, usize)>,
}

impl Assembly {
    /// Allocates for one more piece: at most twice as much as has arrived, or 2 MiB.
    fn begin(&mut self, header: Header) -> Result<(), FrameError> {
        let (start, len) = (self.arrived, header.len - TOTAL_BYTES);
        if len == 0 || len > self.total - start {
            return Err(FrameError::Piece);
        }
        if start + len > self.content.capacity() {
            let room = self.total.min(start + GROWTH_BYTES.max(start));
            self.content.reserve_exact(room - start);
        }
        // Cleared piece by piece, in the processor's cache: cheaper than a copy of the bytes.
        self.content.resize(start + len, 0);
        self.piece = Some((header, start));
        Ok(())
    }

    /// Verifies and ends the current piece if it is complete. Returns whether it was.
    fn end_piece(&mut self) -> Result<bool, FrameError> {
        let Some((header, start)) = self.piece.filter(|_| self.arrived == self.content.len())
        else {
            return Ok(false);
        };
        header.check(&[&(self.total as u32).to_le_bytes(), &self.content[start..]])?;
        self.piece = None;
        Ok(true)
    }
}

/// Reads frames from a byte stream, and assembles messages from their pieces.
///
/// Each message gets an allocation of its own, of its exact length, so that a payload that is kept
/// keeps no other bytes alive. Small messages are copied there from the buffer. Large ones are read
/// in place; their allocation grows as they arrive, at most to twice that, or 2 MiB.
#[derive(Debug)]
pub(crate) struct FrameReader {
    buffer: Vec<u8>,
    /// The unread part of the buffer.
    start: usize,
    end: usize,
    assembly: Option<Assembly>,
    /// The longest content of a frame, and of a message.
    frame_max: usize,
    message_max: usize,
}

impl FrameReader {
    /// A reader for the handshake: accepts a hello and nothing larger.
    pub(crate) fn new() -> FrameReader {
        let buffer = vec![0; HANDSHAKE_BUFFER_BYTES];
        FrameReader {
            buffer,
            start: 0,
            end: 0,
            assembly: None,
            frame_max: HELLO_BYTES_MAX,
            message_max: 0,
        }
    }

    /// Accepts messages of up to `message_max` bytes, after the handshake.
    pub(crate) fn set_len_max(&mut self, message_max: usize) {
        self.buffer.resize(FRAME_BYTES_MAX, 0);
        (self.frame_max, self.message_max) = (WHOLE_BYTES_MAX, message_max);
    }

    /// Whether a message or frame has arrived in part.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn has_partial_frame(&self) -> bool {
        self.assembly.is_some() || self.start < self.end
    }

    /// Reads once. Returns how many bytes came; 0 at the end of the stream.
    pub(crate) fn read_from(&mut self, source: &mut impl Read) -> io::Result<usize> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let room = match &mut self.assembly {
            None => self.buffer.len(),
            Some(Assembly { piece: Some(_), content, arrived, .. }) => {
                debug_assert_eq!(self.end, 0, "the buffered bytes of a piece were taken");
                let rest = &mut content[*arrived..];
                let (len, ahead) = (rest.len(), &mut self.buffer[..AHEAD_BYTES]);
                let read =
                    source.read_vectored(&mut [IoSliceMut::new(rest), IoSliceMut::new(ahead)])?;
                *arrived += read.min(len);
                self.end = read.saturating_sub(len);
                return Ok(read);
            }
            // The next header only: the content after it is better read in place.
            Some(_) => self.end + AHEAD_BYTES,
        };
        let room = room.min(self.buffer.len());
        let read = source.read(&mut self.buffer[self.end..room])?;
        self.end += read;
        Ok(read)
    }

    /// The next complete frame. A message in pieces comes out as one message.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(assembly) = &mut self.assembly {
                if let Some((_, start)) = assembly.piece {
                    let here =
                        (assembly.content.len() - assembly.arrived).min(self.end - self.start);
                    let (from, to) = (self.start, assembly.arrived);
                    debug_assert!(start <= to);
                    assembly.content[to..to + here]
                        .copy_from_slice(&self.buffer[from..from + here]);
                    assembly.arrived += here;
                    self.start += here;
                    if !assembly.end_piece()? {
                        return Ok(None);
                    }
                }
                if assembly.arrived == assembly.total
                    && let Some(assembly) = self.assembly.take()
                {
                    return Ok(Some(Frame {
                        kind: Kind::Message,
                        content: assembly.content.into(),
                    }));
                }
            }
            let Some(bytes) = self.buffer[self.start..self.end].first_chunk() else {
                return Ok(None);
            };
            let header = Header::parse(bytes, self.frame_max)?;
            if header.kind != Kind::Piece {
                return self.take_whole(header);
            }
            if !self.begin_piece(header)? {
                return Ok(None);
            }
        }
    }

    fn take_whole(&mut self, header: Header) -> Result<Option<Frame>, FrameError> {
        let is_message = header.kind == Kind::Message && self.message_max > 0;
        if is_message && header.len > self.message_max {
            return Err(FrameError::TooLong { len: header.len, len_max: self.message_max });
        }
        let content = self.start + HEADER_BYTES;
        if header.len > self.end - content {
            return Ok(None);
        }
        self.start = content + header.len;
        let content = &self.buffer[content..self.start];
        header.check(&[content])?;
        Ok(Some(Frame { kind: header.kind, content: Bytes::copy_from_slice(content) }))
    }

    /// Begins a piece, if its header and the length of its message are here.
    fn begin_piece(&mut self, header: Header) -> Result<bool, FrameError> {
        let mut behind = &self.buffer[self.start + HEADER_BYTES..self.end];
        if header.len <= TOTAL_BYTES {
            return Err(FrameError::Piece);
        }
        if behind.len() < TOTAL_BYTES {
            return Ok(false);
        }
        let total = behind.get_u32_le() as usize;
        if total > self.message_max {
            return Err(FrameError::TooLong { len: total, len_max: self.message_max });
        }
        let new = || Assembly { total, content: Vec::new(), arrived: 0, piece: None };
        let assembly = self.assembly.get_or_insert_with(new);
        if assembly.total != total {
            return Err(FrameError::Piece);
        }
        assembly.begin(header)?;
        self.start += HEADER_BYTES + TOTAL_BYTES;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 31) as u8).collect()
    }

    /// A message of `len` bytes, in parts of odd lengths.
    fn in_frames(len: usize) -> Vec<u8> {
        let message = Bytes::from(content(len));
        let cut = len / 3 + len % 2;
        Frames::of(vec![message.slice(..cut), Bytes::new(), message.slice(cut..)]).concat()
    }

    /// A source that returns at most that many bytes at a time.
    struct Trickle<'a>(&'a [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let len = into.len().min(self.1);
            self.0.read(&mut into[..len])
        }
    }

    fn read_all(reader: &mut FrameReader, mut source: impl Read) -> Result<Vec<Frame>, FrameError> {
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
        let lens = [0, 1, 500, 65_515, 65_516, 65_517, 131_024, 131_025, 200_000, 3, 1_000_000];
        let stream: Vec<u8> = lens.iter().flat_map(|&len| in_frames(len)).collect();
        for piece in [1, 7, 19, 1000, 64 << 10, usize::MAX] {
            let mut reader = FrameReader::new();
            reader.set_len_max(1_000_000);
            let frames = read_all(&mut reader, Trickle(&stream, piece)).unwrap();
            assert!(
                frames.iter().zip(lens).all(|(frame, len)| frame.content == content(len)),
                "in pieces of {piece}"
            );
            assert_eq!(frames.len(), lens.len());
            assert!(!reader.has_partial_frame());
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let sound = encode(Kind::Message, content(40));
        for bit in 0..sound.len() * 8 {
            let mut damaged = sound.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let mut reader = FrameReader::new();
            assert!(read_all(&mut reader, &damaged[..]).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn an_unknown_peer_cannot_send_more_than_a_hello() {
        let long = encode(Kind::Hello, content(HELLO_BYTES_MAX + 1));
        let refused = FrameError::TooLong { len: HELLO_BYTES_MAX + 1, len_max: HELLO_BYTES_MAX };
        assert_eq!(read_all(&mut FrameReader::new(), &long[..]), Err(refused));
        assert_eq!(
            read_all(&mut FrameReader::new(), &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..]),
            Err(FrameError::Header)
        );
    }

    #[test]
    fn other_frames_go_between_the_pieces_of_a_message() {
        let (message, mut parts) = (Bytes::from(content(300_000)), Vec::new());
        let mut frames = Frames::of(vec![message.clone()]);
        for number in 0.. {
            parts.push(Bytes::from(numbered(Kind::Ping, number)));
            parts.push(Bytes::from(encode(Kind::Message, content(number as usize * 900))));
            if frames.next(&mut parts).is_none() {
                break;
            }
        }
        let stream = parts.concat();
        for piece in [1, 1000, usize::MAX] {
            let mut reader = FrameReader::new();
            reader.set_len_max(300_000);
            let all = read_all(&mut reader, Trickle(&stream, piece)).unwrap();
            let (large, small): (Vec<_>, Vec<_>) =
                all.iter().partition(|frame| frame.content.len() > 100_000);
            assert!(
                large.len() == 1 && large[0].content == message && large[0].kind == Kind::Message
            );
            let numbers: Vec<u64> =
                small.iter().step_by(2).filter_map(|ping| ping.number()).collect();
            assert_eq!(numbers, (0..6).collect::<Vec<_>>());
            let lens: Vec<usize> =
                small.iter().skip(1).step_by(2).map(|frame| frame.content.len()).collect();
            assert_eq!(lens, [0, 900, 1800, 2700, 3600, 4500]);
        }
    }

    fn piece(total: u32, len: usize) -> Vec<u8> {
        encode(Kind::Piece, [&total.to_le_bytes()[..], &content(len)].concat())
    }

    #[test]
    fn pieces_that_make_no_message_are_refused() {
        let read = |stream: Vec<u8>| {
            let mut reader = FrameReader::new();
            reader.set_len_max(1 << 20);
            read_all(&mut reader, &stream[..])
        };
        assert_eq!(read(piece(100, 0)), Err(FrameError::Piece), "it carries nothing");
        assert_eq!(
            read([piece(100, 60), piece(100, 41)].concat()),
            Err(FrameError::Piece),
            "more than the whole"
        );
        assert_eq!(
            read([piece(100, 60), piece(101, 41)].concat()),
            Err(FrameError::Piece),
            "of two messages"
        );
        assert!(matches!(read(piece(2 << 20, 9)), Err(FrameError::TooLong { .. })));
        assert!(read_all(&mut FrameReader::new(), &piece(10, 5)[..]).is_err(), "before a hello");
        assert_eq!(read([piece(100, 60), piece(100, 40)].concat()).unwrap().len(), 1);
    }

    #[test]
    fn room_is_made_only_for_what_arrives() {
        let message = 30 << 20;
        for sent in [0, 10, 1 << 20, 5 << 20, 9 << 20] {
            let mut stream = Frames::of(vec![Bytes::from(vec![0; message])]).concat();
            stream.truncate(HEADER_BYTES + TOTAL_BYTES + sent);
            let mut reader = FrameReader::new();
            reader.set_len_max(32 << 20);
            assert_eq!(read_all(&mut reader, &stream[..]).unwrap(), []);
            let room = reader.assembly.as_ref().map_or(0, |assembly| assembly.content.capacity());
            assert!(room <= sent + sent.max(GROWTH_BYTES), "{sent} bytes sent, room for {room}");
        }
    }
}
