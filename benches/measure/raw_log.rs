//! The ceiling of appends: a log that does nothing but what the bytes ask for, in the same run.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::raw_sync::zeroed_file;
use super::scratch::scratch;

/// What stands before the payloads of one write: a record's header and a batch's.
const HEADER_BYTES: usize = 96 + 32;
/// What each entry takes behind them: where it ends, and its checksum.
const SLOT_BYTES: usize = 8;

/// The bytes of one write that holds `entries` of `payload_bytes` each.
pub(crate) fn record_bytes(entries: usize, payload_bytes: usize) -> usize {
    HEADER_BYTES + entries * (payload_bytes + SLOT_BYTES)
}

/// A raw log that keeps what it writes begins a file of this size when one is full: the crate's
/// default segment.
const KEPT_FILE_BYTES: u64 = 64 << 20;

/// Raw writers, each with a zeroed file that it writes from its begin to its end, again and again.
///
/// A writer is two threads. One copies as many payloads into a batch as the window has room for,
/// with a checksum for each and a table, and writes it with one `pwrite`; the other runs
/// `fdatasync`, which makes room for all that was written before it began. So one half of the
/// window is filled and written while the other half is synced, and nothing is handed over but two
/// numbers.
pub(crate) struct RawLogs {
    files: Vec<Arc<File>>,
    file_bytes: u64,
    _dir: TempDir,
}

impl RawLogs {
    pub(crate) fn new(count: u64, file_bytes: u64) -> RawLogs {
        let dir = scratch();
        let file =
            |number| Arc::new(zeroed_file(&dir.path().join(format!("log-{number}")), file_bytes));
        RawLogs { files: (0..count).map(file).collect(), file_bytes, _dir: dir }
    }

    /// All of them write `payload` again and again for `time`. How many entries a second each one
    /// made durable, or only wrote if not `synced`.
    pub(crate) fn append(
        &self,
        payload: &[u8],
        window: usize,
        synced: bool,
        time: Duration,
    ) -> f64 {
        let places = self.files.iter().map(|file| Place {
            files: Mutex::new(vec![file.clone()]),
            file_bytes: self.file_bytes,
            dir: None,
        });
        append(places.collect(), payload, window, synced, time)
    }

    /// The same by as many logs that keep what they write, each in files of its own which are made
    /// as they are needed.
    pub(crate) fn append_and_keep(
        &self,
        payload: &[u8],
        window: usize,
        synced: bool,
        time: Duration,
    ) -> f64 {
        let place = |_| {
            let dir = scratch();
            Place {
                files: Mutex::new(vec![new_file(&dir)]),
                file_bytes: KEPT_FILE_BYTES,
                dir: Some(dir),
            }
        };
        append(self.files.iter().map(place).collect(), payload, window, synced, time)
    }
}

fn append(places: Vec<Place>, payload: &[u8], window: usize, synced: bool, time: Duration) -> f64 {
    let write = |place| Writer::new(place, window as u64).run(payload, synced, time);
    let rates: Vec<f64> = thread::scope(|scope| {
        let writers: Vec<_> = places.iter().map(|place| scope.spawn(|| write(place))).collect();
        writers
            .into_iter()
            .map(|writer| writer.join().expect("a raw writer does not panic"))
            .collect()
    });
    rates.iter().sum::<f64>() / rates.len() as f64
}

/// Where a writer writes.
struct Place {
    /// The file that is being filled is the last. Those before it are full, and not synced yet.
    files: Mutex<Vec<Arc<File>>>,
    file_bytes: u64,
    /// Where new files are made. If nowhere, a full file is written once more.
    dir: Option<TempDir>,
}

impl Place {
    fn current(&self) -> Arc<File> {
        self.files.lock().expect("no thread panics with it").last().expect("there is one").clone()
    }

    /// The file to go on in when one is full.
    fn next(&self) -> Arc<File> {
        if let Some(dir) = &self.dir {
            let file = new_file(dir);
            self.files.lock().expect("no thread panics with it").push(file);
        }
        self.current()
    }

    fn sync(&self) {
        let files = {
            let mut files = self.files.lock().expect("no thread panics with it");
            let current = files.last().expect("there is one").clone();
            std::mem::replace(&mut *files, vec![current])
        };
        files.iter().for_each(|file| file.sync_data().expect("scratch space can be synced"));
    }
}

fn new_file(dir: &TempDir) -> Arc<File> {
    let file = tempfile::tempfile_in(dir.path()).expect("scratch space can be written");
    #[cfg(target_os = "linux")]
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, KEPT_FILE_BYTES)
        .expect("there is scratch space");
    Arc::new(file)
}

struct Writer<'a> {
    place: &'a Place,
    window: u64,
    /// Entries that the file has.
    written: AtomicU64,
    /// Entries that the disk has. Never more than `written`.
    durable: AtomicU64,
    ended: AtomicBool,
}

impl<'a> Writer<'a> {
    fn new(place: &'a Place, window: u64) -> Writer<'a> {
        Writer {
            place,
            window,
            written: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        }
    }

    fn run(&self, payload: &[u8], synced: bool, time: Duration) -> f64 {
        let began = Instant::now();
        let count = thread::scope(|scope| {
            if synced {
                scope.spawn(|| self.sync());
            }
            self.write(payload, synced, began, time);
            self.ended.store(true, Ordering::Relaxed);
            if synced {
                self.durable.load(Ordering::Acquire)
            } else {
                self.written.load(Ordering::Relaxed)
            }
        });
        count as f64 / time.as_secs_f64()
    }

    fn write(&self, payload: &[u8], synced: bool, began: Instant, time: Duration) {
        let mut batch = Vec::with_capacity(record_bytes(self.window as usize, payload.len()));
        let mut table = Vec::with_capacity(self.window as usize * SLOT_BYTES);
        let (mut file, mut written, mut at) = (self.place.current(), 0, 0);
        while began.elapsed() < time {
            let durable = if synced { self.durable.load(Ordering::Acquire) } else { written };
            let room = self.window - (written - durable);
            if room == 0 {
                thread::yield_now();
                continue;
            }
            fill(&mut batch, &mut table, payload, room);
            if at + batch.len() as u64 > self.place.file_bytes {
                (file, at) = (self.place.next(), 0);
            }
            file.write_all_at(&batch, at).expect("scratch space can be written");
            at += batch.len() as u64;
            written += room;
            self.written.store(written, Ordering::Release);
        }
    }

    fn sync(&self) {
        while !self.ended.load(Ordering::Relaxed) {
            let written = self.written.load(Ordering::Acquire);
            if written == self.durable.load(Ordering::Relaxed) {
                thread::yield_now();
                continue;
            }
            self.place.sync();
            self.durable.store(written, Ordering::Release);
        }
    }
}

/// Makes `batch` one record of `entries` copies of `payload`.
fn fill(batch: &mut Vec<u8>, table: &mut Vec<u8>, payload: &[u8], entries: u64) {
    batch.clear();
    batch.resize(HEADER_BYTES, 0);
    table.clear();
    for _ in 0..entries {
        let payload = black_box(payload);
        batch.extend_from_slice(payload);
        table.extend_from_slice(&(batch.len() as u32).to_le_bytes());
        table.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
    }
    batch.extend_from_slice(table);
}
