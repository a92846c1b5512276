//! The file `identity`: the owner of the log. Written once, as the last step of creating a
//! directory; later only compared.

use std::io::{self, IoSlice};

use super::error::{corrupt, failed};
use super::file_io::{read_full, write_all};
use super::format::{FEATURES, PAGE_BYTES, PageReader, PageWriter, VERSION};
use super::fs::{Disk, DiskFile};
use crate::entry::NodeId;
use crate::role::Membership;
use crate::storage::{LogOwner, StorageError};

pub(super) const IDENTITY_NAME: &str = "identity";
pub(super) const NEW_NAME: &str = "identity.tmp";
const MAGIC: &[u8; 4] = b"DLid";
/// A feature flag of this page alone: the group began at another position than 0, which follows.
/// Without it the page is as builds before this feature wrote it, and they can open the log.
const FIRST_POSITION: u32 = 1;

/// A version or feature of the page that this build does not support.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unsupported {
    Version(u32),
    Features(u32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IdentityFile {
    pub(super) directory: u128,
    pub(super) owner: LogOwner,
}

impl IdentityFile {
    /// Writes two copies, so that one flipped bit does not lock a node out of its log. `Ok(None)`
    /// if it does not fit a page.
    pub(super) fn create<D: Disk>(&self, disk: &D) -> io::Result<Option<()>> {
        let Some(page) = self.encode() else { return Ok(None) };
        if disk.list()?.iter().any(|name| name == NEW_NAME) {
            disk.remove(NEW_NAME)?;
        }
        let file = disk.create(NEW_NAME)?;
        write_all(&file, &mut [IoSlice::new(&page), IoSlice::new(&page)], 0)?;
        file.sync_data()?;
        // Where the identity is durable, everything created before it must be too.
        disk.sync_dir()?;
        disk.rename(NEW_NAME, IDENTITY_NAME)?;
        disk.sync_dir()?;
        Ok(Some(()))
    }

    pub(super) fn read<D: Disk>(disk: &D) -> Result<IdentityFile, StorageError> {
        let pages = Self::pages(disk)?;
        let mut unknown = None;
        for page in pages.chunks_exact(PAGE_BYTES) {
            match Self::decode(page) {
                Some(Ok(identity)) => return Ok(identity),
                Some(Err(newer)) => unknown = Some(newer),
                None => {}
            }
        }
        Err(match unknown {
            Some(Unsupported::Version(found)) => StorageError::UnknownVersion {
                path: disk.path(IDENTITY_NAME),
                found,
                known: VERSION,
            },
            Some(Unsupported::Features(found)) => {
                StorageError::UnknownFeatures { path: disk.path(IDENTITY_NAME), found }
            }
            None => corrupt(disk, IDENTITY_NAME, 0, "neither copy of the identity is intact"),
        })
    }

    /// The offset of the first of the two copies that is not intact, if any.
    pub(super) fn bad_copy<D: Disk>(disk: &D) -> Result<Option<u64>, StorageError> {
        let pages = Self::pages(disk)?;
        let bad = pages
            .chunks_exact(PAGE_BYTES)
            .position(|page| !matches!(Self::decode(page), Some(Ok(_))));
        Ok(bad.map(|at| (at * PAGE_BYTES) as u64))
    }

    fn pages<D: Disk>(disk: &D) -> Result<Vec<u8>, StorageError> {
        let mut pages = vec![0; 2 * PAGE_BYTES];
        let read_failed = |error| failed(disk, "read", IDENTITY_NAME, error);
        let file = disk.open(IDENTITY_NAME).map_err(read_failed)?;
        read_full(&file, &mut pages, 0).map_err(read_failed)?;
        Ok(pages)
    }

    /// Compares with the owner that the caller expects.
    pub(super) fn check<D: Disk>(&self, disk: &D, expected: &LogOwner) -> Result<(), StorageError> {
        if self.owner == *expected {
            return Ok(());
        }
        Err(StorageError::Mismatch {
            path: disk.path(""),
            expected: describe(expected),
            found: describe(&self.owner),
        })
    }

    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let LogOwner { group, node, cluster, membership, first_position } = &self.owner;
        let features = if *first_position > 0 { FIRST_POSITION } else { 0 };
        let mut page = PageWriter::new(MAGIC);
        page.u32(VERSION).u32(features).u128(self.directory).u64(node.get()).u64(*cluster);
        page.u32(group.len() as u32)
            .u32(membership.voters.len() as u32)
            .u32(membership.learners.len() as u32)
            .u32(0);
        page.bytes(group.as_bytes()).nodes(&membership.voters).nodes(&membership.learners);
        if features & FIRST_POSITION != 0 {
            page.u64(*first_position);
        }
        page.finish(PAGE_BYTES)
    }

    /// `Err` if the page is intact, but needs a newer build.
    pub(super) fn decode(page: &[u8]) -> Option<Result<IdentityFile, Unsupported>> {
        let mut page = PageReader::new(page, MAGIC)?;
        let (version, features) = (page.u32()?, page.u32()?);
        if version != VERSION {
            return Some(Err(Unsupported::Version(version)));
        }
        let unknown = features & !(FEATURES | FIRST_POSITION);
        if unknown != 0 {
            return Some(Err(Unsupported::Features(unknown)));
        }
        let (directory, node, cluster) = (page.u128()?, NodeId::from(page.u64()?), page.u64()?);
        let (group, voters, learners, _) = (page.u32()?, page.u32()?, page.u32()?, page.u32()?);
        let group = String::from_utf8(page.bytes(group as usize)?.to_vec()).ok()?;
        let membership =
            Membership { voters: page.nodes(voters)?, learners: page.nodes(learners)? };
        let first_position = if features & FIRST_POSITION != 0 { page.u64()? } else { 0 };
        let owner = LogOwner { group, node, cluster, membership, first_position };
        Some(Ok(IdentityFile { directory, owner }))
    }
}

fn describe(owner: &LogOwner) -> String {
    let numbers =
        |nodes: &[NodeId]| nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ");
    let LogOwner { group, node, cluster, membership, first_position } = owner;
    let mut text = format!(
        "node {node} of group {group:?}, cluster {cluster}, first voters {}",
        numbers(&membership.voters)
    );
    if !membership.learners.is_empty() {
        text += &format!(", first learners {}", numbers(&membership.learners));
    }
    if *first_position > 0 {
        text += &format!(", first position {first_position}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::real_disk::RealDisk;
    use super::*;

    fn identity() -> IdentityFile {
        let membership = Membership { voters: vec![1.into(), 2.into()], learners: vec![9.into()] };
        IdentityFile {
            directory: 1 << 99,
            owner: LogOwner {
                first_position: 7 << 40,
                ..LogOwner::new("orders", 2, 5, membership)
            },
        }
    }

    #[test]
    fn comes_back_whatever_bit_flips() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(dir.path().to_path_buf());
        disk.attach(false).unwrap();
        identity().create(&disk).unwrap().unwrap();
        assert_eq!(IdentityFile::read(&disk).unwrap(), identity());
        let path = dir.path().join(IDENTITY_NAME);
        let whole = std::fs::read(&path).unwrap();
        for byte in (0..whole.len()).step_by(37) {
            let mut bad = whole.clone();
            bad[byte] ^= 4;
            std::fs::write(&path, bad).unwrap();
            assert_eq!(IdentityFile::read(&disk).unwrap(), identity(), "byte {byte}");
        }
    }

    #[test]
    fn a_version_from_the_future_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::new(dir.path().to_path_buf());
        disk.attach(false).unwrap();
        let page = PageWriter::new(MAGIC).u32(VERSION + 1).finish(PAGE_BYTES).unwrap();
        std::fs::write(dir.path().join(IDENTITY_NAME), page.repeat(2)).unwrap();
        assert!(matches!(
            IdentityFile::read(&disk),
            Err(StorageError::UnknownVersion { found, .. }) if found == VERSION + 1
        ));
    }
}
