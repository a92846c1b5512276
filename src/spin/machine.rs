//! On how many processors of the machine a thread may spin. Asked for rarely: the answer is kept.
//!
//! Linux is asked how many threads can run, and for a quota. Elsewhere only the number of
//! processors is known; a thread that spins there still notices when it has to share its own.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a count of the threads that can run is believed.
const LOAD_INTERVAL: Duration = Duration::from_millis(50);

/// How long the number of processors and the absence of a quota are.
const QUOTA_INTERVAL: Duration = Duration::from_secs(5);

static MACHINE: OnceLock<Machine> = OnceLock::new();

/// What is known. All of it is a hint.
struct Machine {
    began: Instant,
    load: Known,
    usable: Known,
}

/// A number, and until when it is believed.
struct Known {
    value: AtomicUsize,
    until_nanos: AtomicU64,
}

/// How many threads may spin at this moment: on processors without other work, and never on all.
pub(super) fn free_processors() -> usize {
    let new = || Machine { began: Instant::now(), load: Known::new(), usable: Known::new() };
    let machine = MACHINE.get_or_init(new);
    let now = machine.began.elapsed();
    let usable = machine.usable.get(now, QUOTA_INTERVAL, usable_processors);
    match usable {
        0 | 1 => 0,
        _ => free(usable, machine.load.get(now, LOAD_INTERVAL, runnable_threads)),
    }
}

/// The thread that asks is one of those that can run, and goes on running if it may spin.
fn free(processors: usize, runnable: usize) -> usize {
    (processors + 1).saturating_sub(runnable).min(processors.saturating_sub(1))
}

impl Known {
    const fn new() -> Known {
        Known { value: AtomicUsize::new(0), until_nanos: AtomicU64::new(0) }
    }

    /// One thread asks again when it is time; the others take what was known before.
    fn get(&self, now: Duration, interval: Duration, ask: impl FnOnce() -> usize) -> usize {
        let until = self.until_nanos.load(Ordering::Acquire);
        let next = (now + interval).as_nanos() as u64;
        let swap =
            || self.until_nanos.compare_exchange(until, next, Ordering::AcqRel, Ordering::Relaxed);
        if now.as_nanos() as u64 >= until && swap().is_ok() {
            self.value.store(ask(), Ordering::Relaxed);
        }
        self.value.load(Ordering::Relaxed)
    }
}

/// The processors that this process may use; none if a quota limits its time on them, for time
/// that is spun away is taken from the work.
fn usable_processors() -> usize {
    if has_quota() { 0 } else { processors() }
}

/// The processors of the machine that this process may use, at least one.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(target_os = "linux")]
fn runnable_threads() -> usize {
    std::fs::read_to_string("/proc/loadavg").ok().and_then(|text| runnable_in(&text)).unwrap_or(1)
}

#[cfg(target_os = "linux")]
fn has_quota() -> bool {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = |file| std::fs::read_to_string(file).is_ok_and(|text| is_quota(&text));
    quota_files(&groups).into_iter().any(limits)
}

#[cfg(not(target_os = "linux"))]
fn runnable_threads() -> usize {
    1
}

#[cfg(not(target_os = "linux"))]
fn has_quota() -> bool {
    false
}

/// `0.42 0.31 0.25 3/512 4711`: of 512 threads, 3 can run.
#[cfg(any(target_os = "linux", test))]
fn runnable_in(loadavg: &str) -> Option<usize> {
    loadavg.split_whitespace().nth(3)?.split_once('/')?.0.parse().ok()
}

/// Where a quota would stand: of the control group of the process, and of all above it. `groups` is
/// what `/proc/self/cgroup` says.
#[cfg(any(target_os = "linux", test))]
fn quota_files(groups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "cpu.max"),
            _ if controllers.split(',').any(|name| name == "cpu") => {
                ("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us")
            }
            _ => continue,
        };
        let mut path = path.trim_end_matches('/');
        loop {
            files.push(format!("{root}{path}/{file}"));
            let Some((above, _)) = path.rsplit_once('/') else { break };
            path = above;
        }
    }
    files
}

/// `150000 100000` (of version 2) and `150000` are quotas; `max 100000` and `-1` are none.
#[cfg(any(target_os = "linux", test))]
fn is_quota(text: &str) -> bool {
    text.split_whitespace().next().is_some_and(|quota| quota.parse::<u64>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_threads_as_processors_leave_none_to_spin_on() {
        for (processors, runnable, expected) in [
            (1, 1, 0),
            (2, 1, 1),
            (2, 2, 1),
            (2, 3, 0),
            (2, 9, 0),
            (8, 1, 7),
            (8, 4, 5),
            (8, 8, 1),
            (8, 9, 0),
        ] {
            assert_eq!(free(processors, runnable), expected, "{runnable} threads on {processors}");
        }
    }

    #[test]
    fn the_threads_that_can_run_are_found() {
        assert_eq!(runnable_in("9.40 9.15 6.74 8/149 18664\n"), Some(8));
        for nonsense in ["", "1 2 3", "1 2 3 4", "1 2 3 x/4 5"] {
            assert_eq!(runnable_in(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn a_quota_is_told_from_none() {
        for (text, expected) in [
            ("max 100000\n", false),
            ("150000 100000\n", true),
            ("-1\n", false),
            ("50000\n", true),
            ("", false),
            ("x\n", false),
        ] {
            assert_eq!(is_quota(text), expected, "{text}");
        }
    }

    #[test]
    fn quotas_are_looked_for_in_every_group_above() {
        let files = quota_files("3:cpuset:/\n2:cpu,cpuacct:/docker/1\n0::/a/b\nnonsense\n");
        let expected = [
            "/sys/fs/cgroup/cpu/docker/1/cpu.cfs_quota_us",
            "/sys/fs/cgroup/cpu/docker/cpu.cfs_quota_us",
            "/sys/fs/cgroup/cpu/cpu.cfs_quota_us",
            "/sys/fs/cgroup/a/b/cpu.max",
            "/sys/fs/cgroup/a/cpu.max",
            "/sys/fs/cgroup/cpu.max",
        ];
        assert_eq!(files, expected);
        assert_eq!(quota_files("0::/\n"), ["/sys/fs/cgroup/cpu.max"]);
    }

    #[test]
    fn what_is_known_is_asked_for_again_when_it_is_old() {
        let (known, ms) = (Known::new(), Duration::from_millis);
        assert_eq!(known.get(ms(0), ms(50), || 7), 7);
        assert_eq!(known.get(ms(49), ms(50), || panic!("it is known")), 7);
        assert_eq!(known.get(ms(50), ms(50), || 8), 8);
    }
}
