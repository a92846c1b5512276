//! The file `state`: the small state that changes. Term, vote and commit hint; the base; the peers;
//! the number of openings.
//!
//! ```text
//! slot 0: generation 4k     [copy][copy]   each copy one checksummed page of 4096 bytes
//! slot 1: generation 4k+1   [copy][copy]
//! slot 2: generation 4k+2   [copy][copy]
//! slot 3: generation 4k+3   [copy][copy]
//! watermark                 [sector]       the newest raft index known to be durable; not synced
//! ```
//!
//! The newest generation with an intact copy is the state. Why that is safe:
//! 1. A slot is written again only when a newer generation than the one in it is durable. So a torn
//!    write costs nothing that was synced.
//! 2. Each generation has two copies. So a bit that flips in one is harmless.
//! 3. The file never changes its length. So a full disk does not keep a node from saving its vote,
//!    or from purging.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::error::is_temporary;
use super::file_io::{read_exact, write_all, write_whole, write_zeros};
use super::format::{DurablePoint, PAGE_BYTES, PageReader, PageWriter};
use super::fs::{Disk, DiskFile};
use crate::entry::NodeId;
use crate::role::Membership;
use crate::storage::{Base, DirectoryIdentity, HardState, LogPoint};

pub(super) const STATE_NAME: &str = "state";

const STATE_MAGIC: &[u8; 4] = b"DLst";
const WATERMARK_MAGIC: &[u8; 4] = b"DLwm";
const SLOTS: u64 = 4;
const SLOT_BYTES: u64 = 2 * PAGE_BYTES as u64;
const WATERMARK_AT: u64 = SLOTS * SLOT_BYTES;
const WATERMARK_BYTES: usize = 512;
const FILE_BYTES: u64 = WATERMARK_AT + PAGE_BYTES as u64;
/// A flag: the log lacks some of what its node has promised to hold.
const INCOMPLETE: u32 = 1;

/// The contents of one generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Metadata {
    /// The id that is part of every checksum in the directory.
    pub(super) directory: u128,
    /// The id under which peers know the directory.
    pub(super) known_as: u128,
    pub(super) is_complete: bool,
    pub(super) incarnation: u64,
    pub(super) hard_state: HardState,
    pub(super) base: Base,
    /// Segments with a lower id are obsolete.
    pub(super) first_segment: u64,
    pub(super) peers: Vec<(NodeId, u128)>,
    /// The unique id of the group. 0: not known yet.
    pub(super) group_uid: u128,
    /// For how long the log has been open: see [`run_clock`](super::run_clock).
    pub(super) ran_ms: u64,
}

impl Metadata {
    /// The state of a log that was never opened.
    pub(super) fn new(directory: u128, membership: Membership, first_position: u64) -> Metadata {
        let hard_state = HardState {
            term: LogPoint::INITIAL.term,
            vote: None,
            commit: LogPoint::INITIAL.raft_index,
        };
        let base = Base { point: LogPoint::initial_at(first_position), membership };
        Metadata {
            directory,
            known_as: directory,
            is_complete: true,
            incarnation: 0,
            hard_state,
            base,
            first_segment: 0,
            peers: Vec::new(),
            group_uid: 0,
            ran_ms: 0,
        }
    }

    pub(super) fn identity(&self) -> DirectoryIdentity {
        DirectoryIdentity {
            directory: self.known_as,
            incarnation: self.incarnation,
            complete: self.is_complete,
        }
    }

    /// `None` if it has more members and peers than fit a page: 491 members, or 163 peers.
    pub(super) fn encode(&self, generation: u64) -> Option<Vec<u8>> {
        let Membership { voters, learners } = &self.base.membership;
        let mut page = PageWriter::new(STATE_MAGIC);
        page.u64(generation).u128(self.directory).u64(self.incarnation);
        page.u64(self.hard_state.term)
            .u64(self.hard_state.vote.map_or(0, NodeId::get))
            .u64(self.hard_state.commit);
        page.u64(self.first_segment).point(&self.base.point);
        page.u32(voters.len() as u32).u32(learners.len() as u32).u32(self.peers.len() as u32);
        page.u32(if self.is_complete { 0 } else { INCOMPLETE }).u128(self.known_as);
        page.u128(self.group_uid).u64(self.ran_ms);
        page.nodes(voters).nodes(learners);
        for (node, directory) in &self.peers {
            page.u64(node.get()).u128(*directory);
        }
        page.finish(PAGE_BYTES)
    }

    pub(super) fn decode(page: &[u8]) -> Option<(u64, Metadata)> {
        let mut page = PageReader::new(page, STATE_MAGIC)?;
        let (generation, directory, incarnation) = (page.u64()?, page.u128()?, page.u64()?);
        let (term, vote, commit) = (page.u64()?, page.u64()?, page.u64()?);
        let hard_state = HardState { term, vote: (vote != 0).then(|| NodeId::from(vote)), commit };
        let (first_segment, point) = (page.u64()?, page.point()?);
        let (voters, learners, peers, flags) = (page.u32()?, page.u32()?, page.u32()?, page.u32()?);
        let (known_as, is_complete) = (page.u128()?, flags & INCOMPLETE == 0);
        let (group_uid, ran_ms) = (page.u128()?, page.u64()?);
        let membership =
            Membership { voters: page.nodes(voters)?, learners: page.nodes(learners)? };
        let peers = (0..peers)
            .map(|_| Some((NodeId::from(page.u64()?), page.u128()?)))
            .collect::<Option<_>>()?;
        let base = Base { point, membership };
        Some((
            generation,
            Metadata {
                directory,
                known_as,
                is_complete,
                incarnation,
                hard_state,
                base,
                first_segment,
                peers,
                group_uid,
                ran_ms,
            },
        ))
    }
}

/// Writes to the file `state` how far the log is durable. Not synced: it is evidence of corruption,
/// and its absence proves nothing. So a full disk, or one that refuses the write for a moment, is
/// no error.
pub(super) fn write_watermark(
    file: &impl DiskFile,
    directory: u128,
    synced: DurablePoint,
) -> io::Result<()> {
    match write_all(file, &mut [IoSlice::new(&watermark(directory, synced))], WATERMARK_AT) {
        Err(error) if is_temporary(&error) => Ok(()),
        written => written,
    }
}

pub(super) fn watermark(directory: u128, synced: DurablePoint) -> Vec<u8> {
    let sector = PageWriter::new(WATERMARK_MAGIC)
        .u128(directory)
        .u64(synced.raft_index)
        .u64(synced.segment)
        .finish(WATERMARK_BYTES);
    sector.expect("40 bytes fit a sector")
}

pub(super) fn decode_watermark(sector: &[u8], directory: u128) -> Option<DurablePoint> {
    let mut page = PageReader::new(sector, WATERMARK_MAGIC)?;
    let theirs = page.u128()?;
    let synced = DurablePoint { raft_index: page.u64()?, segment: page.u64()? };
    (theirs == directory).then_some(synced)
}

/// The open file.
pub(super) struct MetadataFile<D: Disk> {
    pub(super) file: Arc<D::File>,
    pub(super) state: Metadata,
    generation: u64,
    /// For each slot: the change number of the generation in it.
    changes: [u64; SLOTS as usize],
}

/// Why a state could not be written.
#[derive(Debug)]
pub(super) enum WriteError {
    /// It has more members and peers than fit.
    TooLarge,
    Io(io::Error),
}

impl<D: Disk> MetadataFile<D> {
    /// Initializes the file with `state`, durably except for its name. The file is never removed
    /// and created again, for it is locked.
    pub(super) fn fill(file: Arc<D::File>, state: Metadata) -> Result<MetadataFile<D>, WriteError> {
        write_zeros(&*file, 0..FILE_BYTES).map_err(WriteError::Io)?;
        let mut made = MetadataFile::<D> {
            file,
            state: state.clone(),
            generation: 0,
            changes: [0; SLOTS as usize],
        };
        made.write(state, 0)?;
        made.file.sync_data().map_err(WriteError::Io)?;
        Ok(made)
    }

    /// Reads the file. `None` if no generation in it is intact.
    pub(super) fn read(file: Arc<D::File>) -> io::Result<Option<MetadataFile<D>>> {
        let mut newest: Option<(u64, Metadata)> = None;
        let mut page = [0; PAGE_BYTES];
        for copy in 0..2 * SLOTS {
            read_or_zeros(&*file, &mut page, copy * PAGE_BYTES as u64)?;
            let Some(found) = Metadata::decode(&page) else { continue };
            if newest.as_ref().is_none_or(|(generation, _)| *generation < found.0) {
                newest = Some(found);
            }
        }
        Ok(newest.map(|(generation, state)| MetadataFile {
            file,
            state,
            generation,
            changes: [0; SLOTS as usize],
        }))
    }

    /// The watermark, if it is valid.
    pub(super) fn watermark(&self) -> io::Result<Option<DurablePoint>> {
        let mut sector = [0; WATERMARK_BYTES];
        read_or_zeros(&*self.file, &mut sector, WATERMARK_AT)?;
        Ok(decode_watermark(&sector, self.state.directory))
    }

    /// Writes how far the log is durable: see [`write_watermark`].
    pub(super) fn write_watermark(&self, synced: DurablePoint) -> io::Result<()> {
        write_watermark(&*self.file, self.state.directory, synced)
    }

    /// Whether the next write would overwrite the last durable generation, if all changes up to
    /// `durable_change` are durable.
    pub(super) fn is_full(&self, durable_change: u64) -> bool {
        let kept = self.generation.wrapping_sub(SLOTS - 2) % SLOTS;
        self.changes[kept as usize] > durable_change
    }

    /// Writes `state` as the next generation, which is change number `change` of the log. The
    /// caller has checked that the file is not [full](MetadataFile::is_full).
    pub(super) fn write(&mut self, state: Metadata, change: u64) -> Result<(), WriteError> {
        let generation = self.generation + 1;
        let page = state.encode(generation).ok_or(WriteError::TooLarge)?;
        let slot = generation % SLOTS;
        write_whole(
            &*self.file,
            &mut [IoSlice::new(&page), IoSlice::new(&page)],
            slot * SLOT_BYTES,
        )
        .map_err(WriteError::Io)?;
        self.changes[slot as usize] = change;
        (self.generation, self.state) = (generation, state);
        Ok(())
    }
}

/// Reads from the file; a page behind its end reads as zeros, which is not a valid page.
fn read_or_zeros(file: &impl DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    match read_exact(file, buffer, offset) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            buffer.fill(0);
            Ok(())
        }
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::super::real_disk::RealDisk;
    use super::*;

    fn state(term: u64) -> Metadata {
        let mut state = Metadata::new(7, Membership::of_voters([1, 2, 3].map(NodeId::from)), 0);
        state.hard_state = HardState { term, vote: Some(NodeId::from(2)), commit: 9 };
        state.peers = vec![(NodeId::from(3), 1 << 100)];
        state.group_uid = 5 << 90;
        state.ran_ms = 1_234_567;
        state
    }

    fn disk() -> (tempfile::TempDir, RealDisk) {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(dir.path().to_path_buf());
        disk.attach(false).unwrap();
        (dir, disk)
    }

    fn create(disk: &RealDisk, state: Metadata) -> MetadataFile<RealDisk> {
        MetadataFile::fill(Arc::new(disk.create(STATE_NAME).unwrap()), state).unwrap()
    }

    fn read(disk: &RealDisk) -> Metadata {
        MetadataFile::<RealDisk>::read(Arc::new(disk.open(STATE_NAME).unwrap()))
            .unwrap()
            .unwrap()
            .state
    }

    #[test]
    fn the_newest_generation_comes_back() {
        let (_dir, disk) = disk();
        let mut file = create(&disk, state(1));
        for term in 2..12 {
            file.write(state(term), 0).unwrap();
            assert_eq!(read(&disk), state(term));
        }
    }

    #[test]
    fn any_one_bad_page_is_survived_and_a_bad_slot_falls_back_by_one_generation() {
        let (dir, disk) = disk();
        let mut file = create(&disk, state(1));
        (2..7).for_each(|term| file.write(state(term), 0).unwrap());
        let path = dir.path().join(STATE_NAME);
        let whole = std::fs::read(&path).unwrap();
        for page in 0..8 {
            let mut bad = whole.clone();
            bad[page * PAGE_BYTES + 33] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert_eq!(read(&disk), state(6), "page {page}");
        }
        let newest = (6 % SLOTS * SLOT_BYTES) as usize;
        let mut torn = whole;
        torn[newest..newest + SLOT_BYTES as usize].fill(0xAA);
        std::fs::write(&path, &torn).unwrap();
        assert_eq!(read(&disk), state(5));
    }

    #[test]
    fn says_that_it_is_full_before_the_last_durable_generation_would_go() {
        let (_dir, disk) = disk();
        let mut file = create(&disk, state(1));
        for change in 1..SLOTS {
            assert!(
                !file.is_full(0),
                "{change} unsynced generations leave the durable one in place"
            );
            file.write(state(change), change).unwrap();
        }
        assert!(file.is_full(0));
        assert!(!file.is_full(1));
    }

    #[test]
    fn more_than_a_page_is_refused() {
        let (_dir, disk) = disk();
        let mut file = create(&disk, state(1));
        let mut large = state(2);
        large.peers = (1..500).map(|node| (NodeId::from(node), 0)).collect();
        assert!(matches!(file.write(large, 0), Err(WriteError::TooLarge)));
        assert_eq!(read(&disk), state(1));
    }
}
