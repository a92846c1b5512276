//! Frames: the units of a byte stream. The header has a checksum of its own, which is verified
//! before its length is used.
//!
//! ```text
//!   0  [4]  magic "DLG1"
//!   4  u8   kind                 1 hello, 2 refusal, 3 message, 4 piece, 5 ping, 6 pong,
//!                                7 introduction, 8 acceptance, 9 decline, 10 withdrawal, 11 beats
//!   5  [3]  zero
//!   8  u32  length of the content, in bytes
//!  12  u32  CRC-32 of the content
//!  16  u32  CRC-32 of bytes 0..16
//!  20  ...  content
//! ```
//!
//! Integers are little-endian. The header, and the kinds 1 and 2, are the same in every version.
//!
//! No frame is longer than 64 KiB. A message begins with the slot of its group (u32; see
//! [`hello::slots`](super::hello::slots)). A longer one goes in pieces, so that other frames can go
//! between them: the content of a piece is the slot, the length of the whole message (u32) and a
//! part of it, at least one byte. The pieces of a message come in order, and those of the next one
//! of that slot after them. Messages of several slots may be on their way in pieces at the same
//! time; together they are no longer than the longest message may be. A ping carries a number
//! (u64), and a pong that number.

pub(crate) mod beats;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;

use std::io::{self, IoSliceMut, Read};

use bytes::{Buf, Bytes};

const MAGIC: [u8; 4] = *b"DLG1";
pub(crate) const HEADER_BYTES: usize = 20;

/// The longest frame, its header included.
pub(crate) const FRAME_BYTES_MAX: usize = 64 << 10;
/// The longest content of a frame.
const CONTENT_BYTES_MAX: usize = FRAME_BYTES_MAX - HEADER_BYTES;
/// The slot at the front of a message or a piece.
pub(crate) const SLOT_BYTES: usize = 4;
/// The longest message that goes in one frame.
pub(crate) const WHOLE_BYTES_MAX: usize = CONTENT_BYTES_MAX - SLOT_BYTES;
/// The slot and the length of the message, before its part in a piece.
const PIECE_HEAD_BYTES: usize = SLOT_BYTES + 4;
/// The most of a message that one piece carries.
const PART_BYTES_MAX: usize = CONTENT_BYTES_MAX - PIECE_HEAD_BYTES;
/// The most messages that may be on their way in pieces at the same time.
pub(crate) const PARTIAL_MESSAGES_MAX: usize = 64;
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
    /// The hello of a group, for a new slot.
    Introduction = 7,
    /// The hello of the same group at the other end.
    Acceptance = 8,
    /// The refusal of a slot.
    Decline = 9,
    /// Whoever sends it uses the slot no more.
    Withdrawal = 10,
    /// Heartbeats, and answers to them, of several slots.
    Beats = 11,
}

impl Kind {
    const ALL: [Kind; 11] = [
        Kind::Hello,
        Kind::Refusal,
        Kind::Message,
        Kind::Piece,
        Kind::Ping,
        Kind::Pong,
        Kind::Introduction,
        Kind::Acceptance,
        Kind::Decline,
        Kind::Withdrawal,
        Kind::Beats,
    ];
}

/// One frame, complete and verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    /// The slot of a message. 0 for other kinds.
    pub(crate) slot: u32,
    /// Without the slot.
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
    #[error("a message without the slot of its group")]
    NoSlot,
    #[error("a frame was damaged on its way")]
    Checksum,
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// The header of a frame whose content is `head` and these parts.
fn header(kind: Kind, head: &[u8], parts: &[Bytes]) -> [u8; HEADER_BYTES] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    parts.iter().for_each(|part| hasher.update(part));
    let len = head.len() + parts.iter().map(Bytes::len).sum::<usize>();
    debug_assert!(len <= CONTENT_BYTES_MAX, "a longer message goes in pieces");
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
    [&header(kind, &content, &[])[..], &content].concat()
}

/// A ping or pong.
pub(crate) fn numbered(kind: Kind, number: u64) -> Vec<u8> {
    encode(kind, number.to_le_bytes().to_vec())
}

/// The frames of a message: one, or pieces.
#[derive(Debug)]
pub(crate) struct Frames {
    slot: u32,
    /// The rest of the message in parts, the last one first.
    parts: Vec<Bytes>,
    left: usize,
    total: usize,
}

impl Frames {
    pub(crate) fn of(slot: u32, mut content: Vec<Bytes>) -> Frames {
        let total = content.iter().map(Bytes::len).sum();
        content.reverse();
        Frames { slot, parts: content, left: total, total }
    }

    /// The bytes of the message that no frame has carried yet.
    pub(crate) fn left(&self) -> usize {
        self.left
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
        let mut head = [0; PIECE_HEAD_BYTES];
        head[..SLOT_BYTES].copy_from_slice(&self.slot.to_le_bytes());
        head[SLOT_BYTES..].copy_from_slice(&(self.total as u32).to_le_bytes());
        let head = if whole { &head[..SLOT_BYTES] } else { &head[..] };
        let len = self.left.min(if whole { WHOLE_BYTES_MAX } else { PART_BYTES_MAX });
        self.take(len, into);
        let kind = if whole { Kind::Message } else { Kind::Piece };
        into[at] = [&header(kind, head, &into[at + 1..])[..], head].concat().into();
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
    slot: u32,
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
        let (start, len) = (self.arrived, header.len - PIECE_HEAD_BYTES);
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
        let (slot, total) = (self.slot.to_le_bytes(), (self.total as u32).to_le_bytes());
        header.check(&[&slot, &total, &self.content[start..]])?;
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
    /// The partial messages. The last one is that of the newest piece.
    assemblies: Vec<Assembly>,
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
            assemblies: Vec::new(),
            frame_max: HELLO_BYTES_MAX,
            message_max: 0,
        }
    }

    /// Accepts messages of up to `message_max` bytes, after the handshake.
    pub(crate) fn set_len_max(&mut self, message_max: usize) {
        self.buffer.resize(FRAME_BYTES_MAX, 0);
        (self.frame_max, self.message_max) = (CONTENT_BYTES_MAX, message_max);
    }

    /// Drops the partial message of a slot: its sender does not end it.
    pub(crate) fn forget(&mut self, slot: u32) {
        self.assemblies.retain(|assembly| assembly.slot != slot || assembly.piece.is_some());
    }

    /// Whether a message or frame has arrived in part.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn has_partial_frame(&self) -> bool {
        !self.assemblies.is_empty() || self.start < self.end
    }

    /// Reads once. Returns how many bytes came; 0 at the end of the stream.
    pub(crate) fn read_from(&mut self, source: &mut impl Read) -> io::Result<usize> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let room = match self.assemblies.last_mut() {
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
            if let Some(message) = self.take_piece()? {
                return Ok(Some(message));
            }
            if self.is_amid_a_piece() {
                return Ok(None);
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

    fn is_amid_a_piece(&self) -> bool {
        self.assemblies.last().is_some_and(|assembly| assembly.piece.is_some())
    }

    /// Moves what the buffer has of the current piece to its message. Returns the message if it is
    /// complete.
    fn take_piece(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(assembly) = self.assemblies.last_mut().filter(|last| last.piece.is_some()) else {
            return Ok(None);
        };
        let here = (assembly.content.len() - assembly.arrived).min(self.end - self.start);
        let (from, to) = (self.start, assembly.arrived);
        assembly.content[to..to + here].copy_from_slice(&self.buffer[from..from + here]);
        assembly.arrived += here;
        self.start += here;
        if !assembly.end_piece()? || assembly.arrived < assembly.total {
            return Ok(None);
        }
        let message = self.assemblies.pop().map(|assembly| Frame {
            kind: Kind::Message,
            slot: assembly.slot,
            content: assembly.content.into(),
        });
        Ok(message)
    }

    fn take_whole(&mut self, header: Header) -> Result<Option<Frame>, FrameError> {
        let is_message = header.kind == Kind::Message;
        let len_max = self.message_max.saturating_add(SLOT_BYTES);
        if is_message && self.message_max > 0 && header.len > len_max {
            return Err(FrameError::TooLong { len: header.len, len_max });
        }
        let content = self.start + HEADER_BYTES;
        if header.len > self.end - content {
            return Ok(None);
        }
        self.start = content + header.len;
        let mut content = &self.buffer[content..self.start];
        header.check(&[content])?;
        let slot = match content.split_first_chunk() {
            _ if !is_message => 0,
            Some((slot, message)) => {
                content = message;
                u32::from_le_bytes(*slot)
            }
            None => return Err(FrameError::NoSlot),
        };
        Ok(Some(Frame { kind: header.kind, slot, content: Bytes::copy_from_slice(content) }))
    }

    /// Begins a piece, if its header, its slot and the length of its message are here.
    fn begin_piece(&mut self, header: Header) -> Result<bool, FrameError> {
        let mut behind = &self.buffer[self.start + HEADER_BYTES..self.end];
        if header.len <= PIECE_HEAD_BYTES {
            return Err(FrameError::Piece);
        }
        if behind.len() < PIECE_HEAD_BYTES {
            return Ok(false);
        }
        let (slot, total) = (behind.get_u32_le(), behind.get_u32_le() as usize);
        let mut assembly = self.assembly(slot, total)?;
        if assembly.total != total {
            return Err(FrameError::Piece);
        }
        assembly.begin(header)?;
        self.assemblies.push(assembly);
        self.start += HEADER_BYTES + PIECE_HEAD_BYTES;
        Ok(true)
    }

    /// Takes the partial message of a slot, or begins one of `total` bytes, if all partial messages
    /// together stay within the bounds of one.
    fn assembly(&mut self, slot: u32, total: usize) -> Result<Assembly, FrameError> {
        if let Some(at) = self.assemblies.iter().position(|assembly| assembly.slot == slot) {
            return Ok(self.assemblies.remove(at));
        }
        let others: usize = self.assemblies.iter().map(|assembly| assembly.total).sum();
        if total.saturating_add(others) > self.message_max {
            let len_max = self.message_max.saturating_sub(others);
            return Err(FrameError::TooLong { len: total, len_max });
        }
        if self.assemblies.len() >= PARTIAL_MESSAGES_MAX {
            return Err(FrameError::Piece);
        }
        Ok(Assembly { slot, total, content: Vec::new(), arrived: 0, piece: None })
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
        Frames::of(7, vec![message.slice(..cut), Bytes::new(), message.slice(cut..)]).concat()
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
        let lens = [0, 1, 500, 65_511, 65_512, 65_513, 131_016, 131_017, 200_000, 3, 1_000_000];
        let stream: Vec<u8> = lens.iter().flat_map(|&len| in_frames(len)).collect();
        for piece in [1, 7, 19, 1000, 64 << 10, usize::MAX] {
            let mut reader = FrameReader::new();
            reader.set_len_max(1_000_000);
            let frames = read_all(&mut reader, Trickle(&stream, piece)).unwrap();
            assert!(
                frames
                    .iter()
                    .zip(lens)
                    .all(|(frame, len)| frame.slot == 7 && frame.content == content(len)),
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
        let mut frames = Frames::of(1, vec![message.clone()]);
        for number in 0.. {
            parts.push(Bytes::from(numbered(Kind::Ping, number)));
            let other = vec![Bytes::from(content(number as usize * 900))];
            parts.push(Bytes::from(Frames::of(2, other).concat()));
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
        piece_of(1, total, len)
    }

    fn piece_of(slot: u32, total: u32, len: usize) -> Vec<u8> {
        let head = [slot.to_le_bytes(), total.to_le_bytes()].concat();
        encode(Kind::Piece, [head, content(len)].concat())
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
    fn messages_of_several_slots_arrive_in_turns_within_the_bounds_of_one() {
        let messages = [(1, 400_000), (2, 300_000), (3, 200_000)];
        let bytes = |(slot, len): (u32, usize)| Bytes::from(content(len + slot as usize));
        let mut frames: Vec<Frames> =
            messages.iter().map(|&one| Frames::of(one.0, vec![bytes(one)])).collect();
        let mut parts = Vec::new();
        while frames.iter().any(|frames| !frames.is_empty()) {
            for frames in &mut frames {
                let _ = frames.next(&mut parts);
            }
        }
        let stream = parts.concat();
        for cut in [1, 1000, usize::MAX] {
            let mut reader = FrameReader::new();
            reader.set_len_max(1 << 20);
            let mut all = read_all(&mut reader, Trickle(&stream, cut)).unwrap();
            all.sort_by_key(|frame| frame.slot);
            assert!(all.iter().zip(messages).all(|(frame, sent)| frame.content == bytes(sent)));
            assert_eq!((all.len(), reader.has_partial_frame()), (3, false));
        }
        let begun = |slot, total| piece_of(slot, total, 10);
        let mut reader = FrameReader::new();
        reader.set_len_max(1000);
        let two = [begun(1, 600), begun(2, 400)].concat();
        assert_eq!(read_all(&mut reader, &two[..]), Ok(vec![]));
        let third = begun(3, 20);
        assert!(matches!(read_all(&mut reader, &third[..]), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn a_slot_that_is_given_up_leaves_room_for_others() {
        let mut reader = FrameReader::new();
        reader.set_len_max(1000);
        assert_eq!(read_all(&mut reader, &piece_of(1, 1000, 10)[..]), Ok(vec![]));
        reader.forget(1);
        assert!(!reader.has_partial_frame());
        let other = [piece_of(2, 1000, 600), piece_of(2, 1000, 400)].concat();
        assert_eq!(read_all(&mut reader, &other[..]).unwrap().len(), 1);
    }

    #[test]
    fn room_is_made_only_for_what_arrives() {
        let message = 30 << 20;
        for sent in [0, 10, 1 << 20, 5 << 20, 9 << 20] {
            let mut stream = Frames::of(1, vec![Bytes::from(vec![0; message])]).concat();
            stream.truncate(HEADER_BYTES + PIECE_HEAD_BYTES + sent);
            let mut reader = FrameReader::new();
            reader.set_len_max(32 << 20);
            assert_eq!(read_all(&mut reader, &stream[..]).unwrap(), []);
            let room = reader.assemblies.first().map_or(0, |assembly| assembly.content.capacity());
            assert!(room <= sent + sent.max(GROWTH_BYTES), "{sent} bytes sent, room for {room}");
        }
    }
}
