//! The file `HOST`: whose directory it is. Written once, as the last step of creating the
//! directory; later only compared.

use std::io::{self, IoSlice};

use super::super::error::{corrupt, failed};
use super::super::file_io::{read_full, write_all};
use super::super::format::{FEATURES, PAGE_BYTES, PageReader, PageWriter, VERSION};
use super::super::fs::{Disk, DiskFile};
use super::super::host_place::{HOST_MAGIC, HOST_NAME};
use crate::entry::NodeId;
use crate::storage::StorageError;

const NEW_NAME: &str = "HOST.tmp";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HostIdentity {
    pub(super) host: NodeId,
    /// A random number: a directory that was copied has the same one.
    pub(super) directory: u128,
}

impl HostIdentity {
    /// Writes two copies, durably, so that one flipped bit does not lock a host out.
    pub(super) fn create<D: Disk>(&self, disk: &D) -> io::Result<()> {
        let page = PageWriter::new(HOST_MAGIC)
            .u32(VERSION)
            .u32(FEATURES)
            .u64(self.host.get())
            .u128(self.directory)
            .finish(PAGE_BYTES)
            .expect("40 bytes fit a page");
        if disk.list()?.iter().any(|name| name == NEW_NAME) {
            disk.remove(NEW_NAME)?;
        }
        let file = disk.create(NEW_NAME)?;
        write_all(&file, &mut [IoSlice::new(&page), IoSlice::new(&page)], 0)?;
        file.sync_data()?;
        disk.sync_dir()?;
        disk.rename(NEW_NAME, HOST_NAME)?;
        disk.sync_dir()
    }

    pub(super) fn read<D: Disk>(disk: &D) -> Result<HostIdentity, StorageError> {
        let mut pages = vec![0; 2 * PAGE_BYTES];
        let read_failed = |error| failed(disk, "read", HOST_NAME, error);
        let file = disk.open(HOST_NAME).map_err(read_failed)?;
        read_full(&file, &mut pages, 0).map_err(read_failed)?;
        let (path, known) = (disk.path(HOST_NAME), VERSION);
        let mut refused =
            corrupt(disk, HOST_NAME, 0, "neither copy of the identity of the host is intact");
        for page in pages.chunks_exact(PAGE_BYTES) {
            match Self::decode(page) {
                Some((VERSION, features, found)) if features & !FEATURES == 0 => return Ok(found),
                Some((VERSION, features, _)) => {
                    let found = features & !FEATURES;
                    refused = StorageError::UnknownFeatures { path: path.clone(), found };
                }
                Some((found, ..)) => {
                    refused = StorageError::UnknownVersion { path: path.clone(), found, known };
                }
                None => {}
            }
        }
        Err(refused)
    }

    /// Version, features, and what they may make unreadable.
    fn decode(page: &[u8]) -> Option<(u32, u32, HostIdentity)> {
        let mut page = PageReader::new(page, HOST_MAGIC)?;
        let (version, features) = (page.u32()?, page.u32()?);
        let (host, directory) = (NodeId::from(page.u64()?), page.u128()?);
        Some((version, features, HostIdentity { host, directory }))
    }
}
