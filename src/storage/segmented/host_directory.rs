//! Interim.
use std::io;
use std::path::{Path, PathBuf};

use super::options::{Create, SegmentOptions};
use super::segmented_log::SegmentedLog;
use crate::entry::NodeId;
use crate::storage::StorageError;

pub(crate) struct HostDirectory(PathBuf);

impl HostDirectory {
    pub(crate) fn open(
        path: &Path,
        _host: NodeId,
        _create: Create,
    ) -> Result<HostDirectory, StorageError> {
        std::fs::create_dir_all(path.join("groups")).unwrap();
        Ok(HostDirectory(path.join("groups")))
    }

    pub(crate) fn groups(&self) -> io::Result<Vec<String>> {
        std::fs::read_dir(&self.0)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    pub(crate) fn storage(&self, group: &str, options: SegmentOptions) -> SegmentedLog {
        SegmentedLog::new(self.0.join(group), options)
    }

    pub(crate) fn remove(&self, group: &str) -> Result<(), StorageError> {
        std::fs::remove_dir_all(self.0.join(group)).unwrap();
        Ok(())
    }
}
