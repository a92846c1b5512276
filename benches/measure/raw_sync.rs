//! The raw disk, measured in the same run: no figure of a synced append means anything without it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::scratch::scratch;

/// Files are written from their begin to their end, again and again: a write never meets a block that is still on its way to the disk.
const FILE_BYTES: u64 = 16 << 20;

/// A small raw write and sync that takes longer than this at the median tells of a disk, or of neighbours, too restless for figures.
const RESTLESS: Duration = Duration::from_millis(1);

/// What a quiet disk may take beyond that for each MiB that is synced at once.
const RESTLESS_PER_MIB: Duration = Duration::from_millis(1);

/// A raw `pwrite` and `fdatasync`, again and again.
pub(crate) struct RawSync {
    /// Of each file.
    pub(crate) per_second: f64,
    /// Bytes, in all files.
    at_once: u64,
    /// Of both calls together, in nanoseconds.
    pub(crate) latency: Histogram<u64>,
}

impl RawSync {
    pub(crate) fn is_restless(&self) -> bool {
        let p50 = Duration::from_nanos(self.latency.value_at_quantile(0.5));
        p50 > RESTLESS + RESTLESS_PER_MIB.mul_f64(self.at_once as f64 / f64::from(1 << 20))
    }
}

/// Writes and syncs `bytes` at a time into each of `files` zeroed files, all at once, for `time`: what replicas on one disk must do at the least.
pub(crate) fn raw_sync(files: u64, bytes: usize, time: Duration) -> RawSync {
    let dir = scratch();
    let paths: Vec<_> = (0..files).map(|file| dir.path().join(format!("raw-{file}"))).collect();
    let zeroed: Vec<File> = paths.iter().map(|path| zeroed_file(path)).collect();
    let histograms: Vec<Histogram<u64>> = thread::scope(|scope| {
        let writers: Vec<_> = zeroed.iter().map(|file| scope.spawn(|| write_and_sync(file, bytes, time))).collect();
        writers.into_iter().map(|writer| writer.join().expect("a raw write does not panic")).collect()
    });
    let mut latency = Histogram::new(3).expect("three digits are a legal precision");
    histograms.iter().for_each(|one| latency.add(one).expect("it resizes"));
    RawSync { at_once: files * bytes as u64, per_second: latency.len() as f64 / files as f64 / time.as_secs_f64(), latency }
}

fn zeroed_file(path: &Path) -> File {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).expect("scratch space can be written");
    let zeros = vec![0; 1 << 20];
    for at in (0..FILE_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, at).expect("scratch space can be written");
    }
    file.sync_all().expect("scratch space can be synced");
    file
}

fn write_and_sync(file: &File, bytes: usize, time: Duration) -> Histogram<u64> {
    let data = vec![0xa5; bytes];
    let mut latency = Histogram::new(3).expect("three digits are a legal precision");
    let began = Instant::now();
    let (mut now, mut at) = (began, 0);
    while now - began < time {
        if at + bytes as u64 > FILE_BYTES {
            at = 0;
        }
        file.write_all_at(&data, at).expect("scratch space can be written");
        file.sync_data().expect("scratch space can be synced");
        at += bytes as u64;
        let after = Instant::now();
        latency.record((after - now).as_nanos() as u64).expect("it resizes");
        now = after;
    }
    latency
}
