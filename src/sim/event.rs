//! Events of a simulation, and the packets that some of them carry.

use bytes::Bytes;

use super::storage_model::LogState;
use crate::storage::HardState;
use crate::storage::segmented::testing::simulated_disk::DiskImage;
use crate::transport::Message;
use crate::transport::frame::{self, FRAME_BYTES_MAX, FrameReader};
use crate::transport::hello::Hello;

/// One process of one node. An event for an earlier process does not reach a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessRef {
    pub(crate) node: usize,
    pub(crate) process: u64,
}

pub(crate) enum Event {
    /// An engine is due, unless it was driven since.
    Turn(ProcessRef),
    /// The pending sync ends.
    Synced(ProcessRef),
    /// A background task runs.
    BackgroundTask(ProcessRef),
    Packet(Box<Packet>),
    /// A client begins an operation, or none.
    Client(usize),
    /// The processes look which others they hear, and do so again later.
    Watch,
    /// A fault begins, and the next one is scheduled.
    Fault,
    FaultEnd(FaultEnd),
}

/// The end of a fault.
pub(crate) enum FaultEnd {
    /// A node that is down restarts.
    Restart(usize),
    /// A process whose crash point was not reached crashes now.
    Crash(ProcessRef, CrashKind),
    /// These links, each from one node to another, carry messages again.
    Reconnect(Vec<(usize, usize)>),
    /// The disk of a node has free space again.
    Space(usize),
    /// A process can open files again.
    Descriptors(usize),
    /// The disk of a node is as fast as before.
    FastDisk(usize),
    /// The disk of a node is put back to this snapshot.
    RollBack(Box<Snapshot>),
}

/// The disk of a running process at one moment.
pub(crate) struct Snapshot {
    pub(crate) of: ProcessRef,
    pub(crate) image: DiskImage,
    /// Accepted and durable.
    pub(crate) hard_state: HardState,
    /// Accepted.
    pub(crate) log: LogState,
    /// Number of directories that the group had lost.
    pub(crate) lost_directories: usize,
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CrashKind {
    /// Its writes are still in the page cache.
    Killed,
    /// Its unsynced writes may be lost.
    PowerCut,
}

/// One message in flight, as one frame or as several.
#[derive(Clone)]
pub(crate) struct Packet {
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// The hello of the connection that this travels on.
    pub(crate) hello: Hello,
    pub(crate) frame: Bytes,
    pub(crate) is_corrupt: bool,
    /// Made up by the network: every node must reject it.
    pub(crate) is_forged: bool,
    /// Not counted as in flight on its link.
    pub(crate) is_replay: bool,
}

/// The result of reading the frame of a packet.
pub(crate) enum Decoded {
    Message(Message),
    /// Corrupt, and detected.
    Detected,
    /// Corrupt, and not detected.
    Undetected,
}

impl Packet {
    /// Reads the frame, as a connection would.
    pub(crate) fn decode(&self) -> Decoded {
        if !self.is_corrupt && self.frame.len() <= FRAME_BYTES_MAX {
            // The checksum of an intact frame need not be verified.
            return Message::decode(self.frame.slice(frame::HEADER_BYTES + frame::SLOT_BYTES..))
                .map_or(Decoded::Undetected, Decoded::Message);
        }
        let mut reader = FrameReader::new();
        reader.set_len_max(self.frame.len());
        let mut source = &self.frame[..];
        loop {
            match reader.next() {
                Ok(Some(frame)) if !self.is_corrupt => {
                    return Message::decode(frame.content)
                        .map_or(Decoded::Undetected, Decoded::Message);
                }
                Ok(Some(_)) => return Decoded::Undetected,
                Ok(None) if source.is_empty() => return Decoded::Detected,
                Err(_) => return Decoded::Detected,
                Ok(None) => {}
            }
            if reader.read_from(&mut source).is_err() {
                return Decoded::Detected;
            }
        }
    }
}
