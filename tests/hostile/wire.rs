//! The protocol, written from its description for an attacker.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

pub(crate) const HELLO: u8 = 1;
pub(crate) const REFUSAL: u8 = 2;
pub(crate) const MESSAGE: u8 = 3;
pub(crate) const PIECE: u8 = 4;
pub(crate) const PING: u8 = 5;
pub(crate) const PONG: u8 = 6;
pub(crate) const INTRODUCTION: u8 = 7;
pub(crate) const ACCEPTANCE: u8 = 8;
pub(crate) const DECLINE: u8 = 9;
/// The slot of the group on every connection of the attacker.
const SLOT: u32 = 1;
const HEADER_BYTES: usize = 20;

/// Where nodes listen: at an address from which no peer connects, so that no connection takes the
/// port of a node that is closed for a moment.
pub(crate) const ANYWHERE: &str = "127.0.0.100:0";

/// Timeout for a node to answer or close the connection. Longer than all timeouts of a node.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// A frame with correct checksums.
pub(crate) fn frame(kind: u8, content: &[u8]) -> Vec<u8> {
    [&header(kind, content.len() as u32, crc32fast::hash(content))[..], content].concat()
}

/// A content that belongs to the slot of the group.
pub(crate) fn in_slot(content: &[u8]) -> Vec<u8> {
    [&SLOT.to_le_bytes()[..], content].concat()
}

/// A message frame, whatever its content.
pub(crate) fn message(content: &[u8]) -> Vec<u8> {
    frame(MESSAGE, &in_slot(content))
}

/// A header with a correct checksum and arbitrary fields.
pub(crate) fn header(kind: u8, len: u32, crc: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(b"DLG1");
    header[4] = kind;
    header[8..12].copy_from_slice(&len.to_le_bytes());
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    let own = crc32fast::hash(&header[..16]);
    header[16..].copy_from_slice(&own.to_le_bytes());
    header
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Hello {
    pub(crate) protocol: u32,
    pub(crate) cluster: u64,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) directory: u128,
    pub(crate) incarnation: u64,
    pub(crate) nonce: u64,
    pub(crate) group_uid: u128,
    pub(crate) flags: u8,
    pub(crate) group: Vec<u8>,
    pub(crate) members: Vec<u64>,
    pub(crate) advertised: Vec<u8>,
}

impl Hello {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.protocol.to_le_bytes().to_vec();
        [self.cluster, self.from, self.to]
            .iter()
            .for_each(|number| bytes.extend(number.to_le_bytes()));
        bytes.extend(self.directory.to_le_bytes());
        [self.incarnation, self.nonce].iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        bytes.extend(self.group_uid.to_le_bytes());
        bytes.extend([
            self.flags,
            self.group.len() as u8,
            self.members.len() as u8,
            self.advertised.len() as u8,
        ]);
        bytes.extend(&self.group);
        self.members.iter().for_each(|member| bytes.extend(member.to_le_bytes()));
        bytes.extend(&self.advertised);
        bytes
    }

    /// The hello of a connection, with the same sender, receiver and process.
    pub(crate) fn of_connection(&self) -> Vec<u8> {
        let mut bytes = self.protocol.to_le_bytes().to_vec();
        for number in [0, self.from, self.to, self.nonce] {
            bytes.extend(number.to_le_bytes());
        }
        bytes
    }

    /// All that a node says first.
    pub(crate) fn opening(&self) -> Vec<u8> {
        let introduction = frame(INTRODUCTION, &in_slot(&self.encode()));
        [frame(HELLO, &self.of_connection()), introduction].concat()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Hello {
        let number =
            |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let members_at = 80 + usize::from(bytes[77]);
        let advertised_at = members_at + 8 * usize::from(bytes[78]);
        Hello {
            protocol: number(0) as u32,
            cluster: number(4),
            from: number(12),
            to: number(20),
            directory: u128::from(number(28)) | u128::from(number(36)) << 64,
            incarnation: number(44),
            nonce: number(52),
            group_uid: u128::from(number(60)) | u128::from(number(68)) << 64,
            flags: bytes[76],
            group: bytes[80..members_at].to_vec(),
            members: (0..usize::from(bytes[78])).map(|at| number(members_at + 8 * at)).collect(),
            advertised: bytes[advertised_at..advertised_at + usize::from(bytes[79])].to_vec(),
        }
    }
}

/// A connection that the hostile side has made or accepted.
pub(crate) struct Line(pub(crate) TcpStream);

impl Line {
    /// Connects, from a source address of this machine.
    pub(crate) fn to(address: &str, from: Ipv4Addr) -> io::Result<Line> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(IpAddr::V4(from), 0).into())?;
        // Closed with a reset: millions of connections must not use up the ports of this machine.
        socket.set_linger(Some(Duration::ZERO))?;
        socket.connect(&address.parse::<SocketAddr>().expect("an address").into())?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Line(stream))
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    pub(crate) fn end(&self) {
        let _ = self.0.shutdown(Shutdown::Write);
    }

    /// Answers the opening of a node as the node that it looks for, and accepts its group with a
    /// hello, if there is one. Returns that of the node.
    pub(crate) fn answer(&mut self, accept: impl Fn(&Hello) -> Option<Hello>) -> Option<Hello> {
        let (HELLO, hello) = self.hear()? else { return None };
        let id = |at: usize| u64::from_le_bytes(hello[at..at + 8].try_into().expect("eight bytes"));
        let own = Hello { protocol: 3, from: id(20), to: id(12), nonce: 9, ..Hello::default() };
        self.send(&frame(HELLO, &own.of_connection())).ok()?;
        let (INTRODUCTION, content) = self.hear()? else { return None };
        let (slot, hello) = content.split_at(4);
        let hello = Hello::decode(hello);
        if let Some(own) = accept(&hello) {
            self.send(&frame(ACCEPTANCE, &[slot, &own.encode()].concat())).ok()?;
        }
        Some(hello)
    }

    /// Reads until the node closes the connection. Before that it sends only pongs and a refusal.
    #[track_caller]
    pub(crate) fn await_hanging_up(&mut self) {
        while let Some((kind, _)) = self.hear() {
            assert!(
                [REFUSAL, DECLINE, PING, PONG].contains(&kind),
                "a node says nothing of kind {kind} on the way in"
            );
        }
    }

    /// The next frame, or `None` if the node has closed the connection.
    #[track_caller]
    pub(crate) fn hear(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut header = [0; HEADER_BYTES];
        self.read(&mut header)?;
        let mut content =
            vec![0; u32::from_le_bytes(header[8..12].try_into().expect("four bytes")) as usize];
        self.read(&mut content)?;
        Some((header[4], content))
    }

    #[track_caller]
    fn read(&mut self, into: &mut [u8]) -> Option<()> {
        match self.0.read_exact(into) {
            Ok(()) => Some(()),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) =>
            {
                panic!("the node neither answers nor hangs up")
            }
            Err(_) => None,
        }
    }
}

/// A message of the group, with arbitrary fields.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) context: Vec<u8>,
    /// from, to, term, log term, index, commit, commit term, reject hint, request snapshot,
    /// priority.
    pub(crate) numbers: [u64; 10],
    pub(crate) snapshot: Vec<u8>,
    /// Type, term, data.
    pub(crate) entries: Vec<(u8, u64, Vec<u8>)>,
}

impl Message {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![1, self.kind, self.flags, self.context.len() as u8];
        bytes.extend((self.entries.len() as u32).to_le_bytes());
        self.numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        bytes.extend(&self.context);
        bytes.extend(&self.snapshot);
        for (kind, term, data) in &self.entries {
            bytes.push(*kind);
            bytes.extend(term.to_le_bytes());
            bytes.extend((data.len() as u32).to_le_bytes());
        }
        self.entries.iter().for_each(|(.., data)| bytes.extend(data));
        bytes
    }
}
