//! The raw disk, measured in the same run: no figure of a synced append means anything without it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tempfile::TempDir;

use super::scratch::scratch;

/// Files are written from their begin to their end, again and again: a write never meets a block
/// that is still on its way to the disk.
const FILE_BYTES: u64 = 16 << 20;

/// A small raw write and sync that takes longer than this at the median tells of a disk, or of
/// neighbours, too restless for figures.
const RESTLESS: Duration = Duration::from_millis(1);

/// Writes and syncs into zeroed files, all at once: what replicas on one disk must do at the least
/// for one append.
pub(crate) struct RawSync {
    files: Vec<File>,
    data: Vec<u8>,
    _dir: TempDir,
}

/// A `pwrite` and an `fdatasync`, again and again.
pub(crate) struct Synced {
    /// Of each file.
    pub(crate) per_second: f64,
    /// Of both calls together, the median.
    pub(crate) p50: Duration,
}

impl RawSync {
    /// `bytes` at a time into each of `files`.
    pub(crate) fn new(files: u64, bytes: usize) -> RawSync {
        let dir = scratch();
        let files = (0..files)
            .map(|file| zeroed_file(&dir.path().join(format!("raw-{file}")), FILE_BYTES))
            .collect();
        RawSync { files, data: vec![0xa5; bytes], _dir: dir }
    }

    pub(crate) fn run(&self, time: Duration) -> Synced {
        let histograms: Vec<Histogram<u64>> = thread::scope(|scope| {
            let writers: Vec<_> = self
                .files
                .iter()
                .map(|file| scope.spawn(|| self.write_and_sync(file, time)))
                .collect();
            writers
                .into_iter()
                .map(|writer| writer.join().expect("a raw write does not panic"))
                .collect()
        });
        let mut latency = Histogram::new(3).expect("three digits are a legal precision");
        histograms.iter().for_each(|one| latency.add(one).expect("it resizes"));
        let per_second = latency.len() as f64 / self.files.len() as f64 / time.as_secs_f64();
        Synced { per_second, p50: Duration::from_nanos(latency.value_at_quantile(0.5)) }
    }

    fn write_and_sync(&self, file: &File, time: Duration) -> Histogram<u64> {
        let mut latency = Histogram::new(3).expect("three digits are a legal precision");
        let bytes = self.data.len() as u64;
        let began = Instant::now();
        let (mut now, mut at) = (began, 0);
        while now - began < time {
            if at + bytes > FILE_BYTES {
                at = 0;
            }
            file.write_all_at(&self.data, at).expect("scratch space can be written");
            file.sync_data().expect("scratch space can be synced");
            at += bytes;
            let after = Instant::now();
            latency.record((after - now).as_nanos() as u64).expect("it resizes");
            now = after;
        }
        latency
    }
}

impl Synced {
    /// Of a write of a few KiB into one file: whether the disk is too restless for figures.
    pub(crate) fn is_restless(&self) -> bool {
        self.p50 > RESTLESS
    }
}

/// A new file of `bytes`, all of them written.
pub(crate) fn zeroed_file(path: &Path, bytes: u64) -> File {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .expect("scratch space can be written");
    let zeros = vec![0; 1 << 20];
    for at in (0..bytes).step_by(zeros.len()) {
        file.write_all_at(&zeros, at).expect("scratch space can be written");
    }
    file.sync_all().expect("scratch space can be synced");
    file
}
