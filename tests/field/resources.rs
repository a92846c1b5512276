//! A process that has run out of descriptors, memory or maps for a moment, and what a log takes of
//! them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use dledger::storage::StorageError;
use dledger::{AppendError, Builder, DLedger, FlushPolicy, OpenError, ReadError};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::child::KillOnDrop;
use crate::group::{TIMEOUT, eventually, home, leader, three};

const SEGMENT_BYTES: u64 = 64 << 10;

/// One entry of it fills a segment.
static ENTRY: [u8; 56 << 10] = [7; 56 << 10];

const RARELY: FlushPolicy = FlushPolicy::Async { interval: Duration::from_secs(3600) };

fn alone(dir: &Path) -> Builder {
    DLedger::builder(1).dir(dir).segment_bytes(SEGMENT_BYTES)
}

/// A soft limit of this process.
fn set_limit(resource: Resource, to: Option<u64>) {
    let maximum = getrlimit(resource).maximum;
    let limit = Rlimit { current: to.or(maximum), maximum };
    setrlimit(resource, limit).expect("a process may lower its own limits, and raise them again");
}

/// So long no file is opened by this process.
fn without_descriptors<T>(work: impl FnOnce() -> T) -> T {
    set_limit(Resource::Nofile, Some(3));
    let done = work();
    set_limit(Resource::Nofile, None);
    done
}

/// How many segments are mapped.
fn mapped() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains(".seg") || line.contains(".spare")).count()
}

/// How many files of `dir` are open, the directory itself included.
fn open_files(dir: &Path) -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    links.filter(|link| std::fs::read_link(link.path()).is_ok_and(|to| to.starts_with(dir))).count()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn is_out_of_resources(error: &StorageError) -> bool {
    matches!(error, StorageError::OutOfResources { .. })
}

/// Appends until one is refused.
fn refusal(ledger: &DLedger) -> AppendError {
    let mut refusals = (0..1000).filter_map(|_| ledger.append(ENTRY).err());
    refusals.next().expect("something runs out")
}

/// Appends until one is taken, and shows that nothing is wrong any more.
fn recovers(ledger: &DLedger) {
    eventually("it takes appends again", || ledger.append("again").is_ok());
    let status = ledger.status();
    assert_eq!((status.fault, status.full), (None, None));
}

facts! {
    fn a_reader_of_a_long_log_takes_no_more_maps_than_it_may() {
        let home = home();
        let ledger = alone(home.path()).mapped_segments_max(16).open().unwrap();
        for _ in 0..300 {
            ledger.append(ENTRY).unwrap();
        }
        // The newest segment, those that are not sealed yet, and two spares come on top.
        let most = 16 + 1 + 8 + 3;
        let mut seen = 0;
        for entry in ledger.read(0) {
            assert_eq!(*entry.unwrap(), ENTRY);
            seen = seen.max(mapped());
        }
        assert!(seen <= most, "{seen} segments were mapped while all were read in order");
        std::thread::scope(|scope| {
            for seed in 0..4u64 {
                let ledger = &ledger;
                scope.spawn(move || {
                    for at in 0..500 {
                        let index = (at * (97 + 2 * seed) + seed * 31) % 300;
                        assert_eq!(*ledger.get(index).unwrap().unwrap(), ENTRY);
                    }
                });
            }
        });
        let after = mapped();
        assert!(after <= most, "{after} segments are mapped after all were read at random");

        // What somebody keeps comes on top, and stays as it is.
        let kept: Vec<_> = (0..100).map(|index| ledger.get(index).unwrap().unwrap()).collect();
        assert!(mapped() >= 100);
        ledger.purge(200).unwrap();
        for _ in 0..20 {
            ledger.append([9; 56 << 10]).unwrap();
        }
        assert!(kept.iter().all(|entry| **entry == ENTRY[..]));
        let owned: Vec<_> = kept.into_iter().map(dledger::Entry::into_owned).collect();
        let after = mapped();
        assert!(after <= most, "{after} segments are mapped for entries that hold none");
        drop(ledger);
        assert!(owned.iter().all(|entry| **entry == ENTRY[..]));
        assert_eq!(mapped(), 0);
    }

    fn a_node_without_descriptors_steps_back_and_goes_on() {
        for flush in
            [FlushPolicy::Sync, FlushPolicy::Async { interval: Duration::from_millis(20) }, RARELY]
        {
            let home = home();
            let ledger = alone(home.path()).flush(flush).open().unwrap();
            let mut tail = ledger.tail(0);
            let before = ledger.append("before").unwrap();
            let refused = without_descriptors(|| {
                let refused = refusal(&ledger);
                let status = ledger.status();
                assert_eq!(status.fault, None);
                assert!(status.full.is_some_and(|why| why.contains("open files")));
                assert_eq!(*ledger.get(before).unwrap().unwrap(), *b"before");
                refused
            });
            assert!(matches!(refused, AppendError::StorageFull { .. }), "{flush:?}: {refused}");
            recovers(&ledger);
            let end = ledger.committed().end;
            let read: Vec<_> = tail.by_ref().take(end as usize).map(Result::unwrap).collect();
            assert_eq!(*read[end as usize - 1], *b"again");
            ledger.shutdown().unwrap();
            let ledger = alone(home.path()).flush(flush).open().unwrap();
            assert_eq!(ledger.committed(), 0..end);
        }
    }

    fn a_group_without_descriptors_goes_on() {
        let home = home();
        let nodes = three(home.path(), |builder| builder.segment_bytes(SEGMENT_BYTES));
        let leads = leader(&nodes);
        nodes[leads].append("before").unwrap();
        without_descriptors(|| drop(refusal(&nodes[leads])));
        let taken = |node: &DLedger| node.append("again").is_ok();
        eventually("some node takes appends again", || nodes.iter().any(taken));
        let end = nodes.iter().map(|node| node.committed().end).max().unwrap();
        for node in &nodes {
            eventually("all of them go on", || node.committed().end >= end);
            assert_eq!(node.status().fault, None);
        }
    }

    fn a_reader_without_descriptors_is_told_and_goes_on() {
        let home = home();
        let ledger = alone(home.path()).mapped_segments_max(4).open().unwrap();
        for _ in 0..40 {
            ledger.append(ENTRY).unwrap();
        }
        // Segments are sealed a moment after they are full, and read from memory until then.
        eventually("the first segments are sealed", || {
            (0..40).for_each(|index| drop(ledger.get(index)));
            without_descriptors(|| ledger.get(0).is_err())
        });
        let mut cursor = ledger.read(0);
        let mut tail = ledger.tail(1);
        without_descriptors(|| {
            for _ in 0..3 {
                let told = ledger.get(0).unwrap_err();
                assert!(
                    matches!(&told, ReadError::Storage(error) if is_out_of_resources(error)),
                    "{told}"
                );
            }
            let told = cursor.next().unwrap().unwrap_err();
            assert!(
                matches!(&told, ReadError::Storage(error) if is_out_of_resources(error)),
                "{told}"
            );
            assert!(cursor.next().is_none(), "a loop over it ends");
            let told = tail.next().unwrap().unwrap_err();
            assert!(
                matches!(&told, ReadError::Storage(error) if is_out_of_resources(error)),
                "{told}"
            );
        });
        assert_eq!(*ledger.get(0).unwrap().unwrap(), ENTRY);
        assert_eq!(cursor.map(Result::unwrap).count(), 40);
        assert!(tail.next().is_none(), "a loop over it ends");
        assert_eq!(tail.next().unwrap().unwrap().index(), 1);
        assert_eq!(ledger.status().fault, None);
    }

    fn a_ledger_that_is_opened_without_descriptors_says_so_and_leaves_nothing_behind() {
        let home = home();
        let dir = home.path().join("log");
        // One more each time: it runs out in another place of the opening.
        let mut refused = 0;
        let highest = names(Path::new("/proc/self/fd"))
            .iter()
            .filter_map(|name| name.parse::<u64>().ok())
            .max();
        for limit in 3..highest.unwrap() + 20 {
            set_limit(Resource::Nofile, Some(limit));
            let opened = alone(&dir).open();
            set_limit(Resource::Nofile, None);
            match opened {
                Ok(ledger) => recovers(&ledger),
                Err(error) => {
                    refused += 1;
                    let text = error.to_string();
                    assert!(text.contains("open files"), "{text}");
                }
            }
            assert_eq!(open_files(&dir), 0);
        }
        assert!(refused > 1);
        let ledger = alone(&dir).open().unwrap();
        ledger.append("x").unwrap();
    }

    fn a_ledger_that_gets_no_thread_is_refused_and_leaves_nothing_running() {
        let home = home();
        let dir = home.path().join("log");
        drop(alone(&dir).open().unwrap());
        let threads = || names(Path::new("/proc/self/task")).len();
        let (stay, told_to_go) = mpsc::channel::<()>();
        let told_to_go = Arc::new(Mutex::new(told_to_go));
        let size = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find(|line| line.starts_with("VmSize:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
        };
        let mut refused = 0;
        for more in (2..24).map(|pages| pages << 19) {
            // They take the stacks that threads before have left, so that the next thread needs a
            // new one.
            for _ in 0..8 {
                let told_to_go = told_to_go.clone();
                std::thread::spawn(move || {
                    let _ = told_to_go.lock().unwrap().recv();
                });
            }
            let before = threads();
            set_limit(Resource::As, Some(size() + more));
            let opened = alone(&dir).open();
            set_limit(Resource::As, None);
            match opened {
                Ok(ledger) => recovers(&ledger),
                Err(error) => {
                    refused += 1;
                    let is_expected = match &error {
                        OpenError::Thread(_) => true,
                        OpenError::Storage(error) => is_out_of_resources(error),
                        _ => false,
                    };
                    assert!(is_expected, "{error}");
                }
            }
            eventually("its threads end", || threads() == before);
            drop(alone(&dir).open().expect("it is free again"));
        }
        drop(stay);
        assert!(refused > 0, "it never ran out");
    }

    fn few_files_are_open_however_rarely_a_log_is_flushed() {
        let home = home();
        let ledger = alone(home.path()).flush(RARELY).open().unwrap();
        let mut most = 0;
        for _ in 0..300 {
            ledger.append(ENTRY).unwrap();
            most = most.max(open_files(home.path()));
        }
        assert!(most <= 16, "{most} files were open");
        ledger.shutdown().unwrap();
        // The handle on the directory stays for later reads.
        assert!(open_files(home.path()) <= 1);
        drop(ledger);
        assert_eq!(open_files(home.path()), 0);
        let ledger = alone(home.path()).open().unwrap();
        assert_eq!(ledger.committed(), 0..300);
    }

    /// Killed as soon as it has made a file ready, over and over; and at other moments.
    fn a_crash_loop_leaves_no_more_each_time() {
        let home = home();
        let dir = home.path().join("log");
        for run in 0..50u64 {
            let before = if dir.exists() { names(&dir) } else { Vec::new() };
            let mut child = one_run(&dir);
            let began = std::time::Instant::now();
            if run % 2 == 0 {
                let is_new = |name: &String| name.ends_with(".spare") && !before.contains(name);
                while !(dir.exists() && names(&dir).iter().any(is_new)) {
                    assert!(began.elapsed() < TIMEOUT, "no spare is made: {:?}", names(&dir));
                    if child.0.try_wait().unwrap().is_some() {
                        break;
                    }
                }
            } else {
                std::thread::sleep(Duration::from_millis(run * 3));
            }
            drop(child);
        }
        let left = names(&dir);
        let spares = left.iter().filter(|name| name.ends_with(".spare")).count();
        assert!(spares <= 2, "{left:?}");
        assert!(left.len() <= 3 + 2 + 8, "{left:?}");
        let ledger = alone(&dir).open().unwrap();
        ledger.append("x").unwrap();
        eventually("what is left over goes", || {
            names(&dir).iter().filter(|name| name.ends_with(".seg")).count() <= 4
        });
    }

    #[ignore = "one run of a fact above, which starts it"]
    fn a_run_of_a_crash_loop() {
        let Some(dir) = std::env::var_os(RUN) else { return };
        let ledger = alone(&PathBuf::from(dir)).open().unwrap();
        loop {
            ledger.append([1; 100]).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

const RUN: &str = "DLEDGER_FIELD_RUN";

/// A process that opens the log in `dir` and appends to it until it is killed.
fn one_run(dir: &Path) -> KillOnDrop {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "resources::a_run_of_a_crash_loop", "--ignored", "--nocapture"])
        .env(RUN, dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    KillOnDrop(child.unwrap())
}
