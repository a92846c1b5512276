//! Directories of version 3, in `tests/golden`. Every later build must open them, and find the same
//! contents.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::super::directory_lock::LogLock;
use super::super::format::{PAGE_BYTES, VERSION, segment_name};
use super::super::fs::Disk;
use super::super::real_disk::RealDisk;
use super::super::spare::SPARE_SUFFIX;
use super::*;

/// A real directory with a fixed random id, so that the same calls make the same bytes.
#[derive(Debug)]
struct SameDisk(RealDisk);

impl Disk for SameDisk {
    type File = File;
    type Lock = LogLock;

    fn attach(&self, may_create: bool) -> Result<(), StorageError> {
        self.0.attach(may_create)
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path(name)
    }
    fn lock(&self) -> io::Result<Option<LogLock>> {
        self.0.lock()
    }
    fn lock_file(&self, lock: &mut LogLock, file: &Arc<File>) -> io::Result<bool> {
        self.0.lock_file(lock, file)
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }
    fn create(&self, name: &str) -> io::Result<File> {
        self.0.create(name)
    }
    fn open(&self, name: &str) -> io::Result<File> {
        self.0.open(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }
    fn holds(&self, name: &str, file: &File) -> io::Result<bool> {
        self.0.holds(name, file)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.0.sync_dir()
    }
    fn random_id(&self) -> u128 {
        0xfeed_f00d_0123_4567_89ab_cdef_0000_0001
    }
}

const GROUP_UID: u128 = 0x0ddb_0a11_0000_0000_0000_0000_0000_0003;

/// What the golden directory holds.
struct Contents {
    batches: Vec<Batch>,
    last: LogPoint,
    hard_state: HardState,
    peers: Vec<(NodeId, u128)>,
}

/// Writes it, in two runs: two sealed segments, a truncation, an active segment; terms, a vote,
/// peers.
fn write(dir: &Path) -> Contents {
    let log = || DiskLog::on(SameDisk(RealDisk::new(dir.to_path_buf())), SMALL);
    let mut point = LogPoint::INITIAL;
    let mut batches =
        vec![batch(&mut point, 1, &[]), batch(&mut point, 1, &[b"one", b"", b"three"])];
    batches.extend(singles(&mut point, 1, 7, 900));

    let mut first_run = log();
    first_run.open(&owner()).unwrap();
    first_run.pass_time(Duration::from_millis(5_000), 1_700_000_000_000);
    for batch in &batches {
        first_run.append(std::slice::from_ref(batch), 2).unwrap();
        sync(&mut first_run);
        run_background_tasks(&mut first_run);
    }
    drop(first_run);

    let mut second_run = log();
    second_run.open(&owner()).unwrap();
    second_run.pass_time(Duration::from_millis(9_000), 1_600_000_000_000);
    second_run.save_peer(NodeId::from(2), 2 << 64).unwrap();
    second_run.save_peer(NodeId::from(3), 3 << 64).unwrap();
    let hard_state = HardState { term: 4, vote: Some(NodeId::from(3)), commit: 6 };
    second_run.save_hard_state(hard_state).unwrap();
    second_run.save_group_uid(GROUP_UID).unwrap();
    batches.truncate(6);
    let mut point =
        batches.iter().fold(LogPoint::INITIAL, |point, batch| batch.point_after(&point).unwrap());
    batches.extend([
        batch(&mut point, 4, &[]),
        batch(&mut point, 4, &[b"after the cut", &[0xff; 32]]),
    ]);
    second_run.append(&batches[6..], 6).unwrap();
    sync(&mut second_run);
    run_background_tasks(&mut second_run);
    Contents {
        batches,
        last: point,
        hard_state,
        peers: vec![(NodeId::from(2), 2 << 64), (NodeId::from(3), 3 << 64)],
    }
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v3")
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files
        .map(|path| {
            (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap())
        })
        .collect()
}

fn copy(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    files(dir)
        .into_iter()
        .for_each(|(name, bytes)| std::fs::write(copy.path().join(name), bytes).unwrap());
    copy
}

#[test]
#[ignore = "writes tests/golden: only when a new version of the format begins"]
fn golden_directory_is_made() {
    std::fs::create_dir_all(golden()).unwrap();
    write(&golden());
}

#[test]
fn the_same_calls_write_the_golden_directory_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    let (written, golden) = (files(dir.path()), files(&golden()));
    assert_eq!(written.keys().collect::<Vec<_>>(), golden.keys().collect::<Vec<_>>());
    // The bytes of a spare behind its header are undefined: zeros in a new one, old records in a
    // recycled one.
    let defined = |name: &str, bytes: &[u8]| {
        if name.ends_with(SPARE_SUFFIX) { bytes[..PAGE_BYTES].to_vec() } else { bytes.to_vec() }
    };
    for (name, bytes) in &golden {
        let (written, bytes) = (defined(name, &written[name]), defined(name, bytes));
        let differs = written.iter().zip(&bytes).position(|(ours, theirs)| ours != theirs);
        assert_eq!((differs, written.len()), (None, bytes.len()), "{name}");
    }
}

#[test]
fn the_golden_directory_opens_and_goes_on() {
    let expected = write(tempfile::tempdir().unwrap().path());
    let dir = copy(&golden());
    let verified = tools::verify(dir.path()).unwrap();
    assert_eq!(
        (verified.corruption, verified.batches, verified.inspection.last),
        (Vec::new(), 8, expected.last)
    );
    for run in 3..5 {
        let (mut log, recovered) = open(dir.path());
        assert_eq!(
            (recovered.base.point, recovered.last, recovered.corruption),
            (LogPoint::INITIAL, expected.last, Vec::new())
        );
        assert_eq!(
            (recovered.hard_state, recovered.peers, recovered.group_uid),
            (expected.hard_state, expected.peers.clone(), GROUP_UID)
        );
        assert_eq!(
            recovered.identity,
            DirectoryIdentity {
                directory: 0xfeed_f00d_0123_4567_89ab_cdef_0000_0001,
                incarnation: run,
                complete: true
            }
        );
        assert_eq!(contents(&log), expected.batches);
        run_background_tasks(&mut log);
    }
}

/// Changes bytes of the page at `at` in `path`, whose checksum covers `len` bytes, and corrects the
/// checksum.
fn rewrite(path: &Path, at: usize, len: usize, field: usize, value: u32) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at + field..at + field + 4].copy_from_slice(&value.to_le_bytes());
    let crc = crc32fast::hash(&bytes[at + 4..at + len]);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn an_unknown_version_or_feature_is_refused_by_name_and_nothing_is_changed() {
    let tail = files(&golden()).into_keys().rfind(|name| name.ends_with(".seg")).unwrap();
    for (name, field, value) in [
        ("identity", 8, VERSION + 1),
        ("identity", 12, 1 << 31),
        (tail.as_str(), 8, VERSION + 1),
        (tail.as_str(), 12, 1 << 31),
    ] {
        let dir = copy(&golden());
        let path = dir.path().join(name);
        match name {
            "identity" => [0, PAGE_BYTES]
                .into_iter()
                .for_each(|at| rewrite(&path, at, PAGE_BYTES, field, value)),
            _ => rewrite(&path, 0, 32, field, value),
        }
        let before = files(dir.path());
        for refused in [
            DiskLog::new(dir.path(), SMALL).open(&owner()).unwrap_err(),
            tools::inspect(dir.path()).unwrap_err(),
        ] {
            let named = match &refused {
                StorageError::UnknownVersion { path, found, known: VERSION } if field == 8 => {
                    Some((path.clone(), *found))
                }
                StorageError::UnknownFeatures { path, found } if field == 12 => {
                    Some((path.clone(), *found))
                }
                _ => None,
            };
            assert_eq!(named, Some((path.clone(), value)), "{name}: {refused}");
        }
        assert_eq!(files(dir.path()), before);
    }
}

#[test]
fn the_golden_segments_are_named_after_run_and_raft_index() {
    let names: Vec<String> =
        files(&golden()).into_keys().filter(|name| name.ends_with(".seg")).collect();
    assert_eq!(
        names,
        [segment_name(1 << 32, 2), segment_name(1 << 32 | 1, 7), segment_name(2 << 32, 8)]
    );
}
