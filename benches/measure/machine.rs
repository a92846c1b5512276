//! On what the figures were taken, and what a run used of it. Asks Linux; elsewhere it says that it
//! does not know.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// One line: processor, cores, kernel, file system of `dir`, compiler.
pub(crate) fn describe(dir: &Path) -> String {
    let unknown = || "?".to_owned();
    let cores =
        std::thread::available_parallelism().map_or_else(|_| unknown(), |cores| cores.to_string());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| unknown(), |release| release.trim().to_owned());
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let compiler = Command::new(compiler)
        .arg("--version")
        .output()
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok());
    format!(
        "{}, {cores} cores, Linux {kernel}, {} on {}, {}",
        processor().unwrap_or_else(unknown),
        dir.display(),
        file_system(dir).unwrap_or_else(unknown),
        compiler.map_or_else(unknown, |version| version.trim().to_owned()),
    )
}

fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let model = text.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(model.trim_start_matches([' ', '\t', ':']).to_owned())
}

/// The mount with the longest path that `dir` lies below.
fn file_system(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let below = mounts.lines().filter_map(|line| {
        let (mount, rest) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        dir.starts_with(point).then_some((point.len(), rest.split(' ').next()?))
    });
    below.max().map(|(_, kind)| kind.to_owned())
}

/// What this process has used so far.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    /// By the threads that live now.
    pub(crate) switches: u64,
    /// Anonymous memory, which the mapped log is not.
    pub(crate) resident_bytes: u64,
}

/// Runs `work`. Tells how many cores this process kept busy meanwhile, 0 where the system does not
/// tell.
pub(crate) fn cores_busy<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let (before, began) = (usage(), Instant::now());
    let done = work();
    let (took, after) = (began.elapsed(), usage());
    let cpu = after.zip(before).map_or(Duration::ZERO, |(after, before)| after.cpu - before.cpu);
    (done, cpu.as_secs_f64() / took.as_secs_f64())
}

/// `None` where the system does not tell.
#[cfg(target_os = "linux")]
pub(crate) fn usage() -> Option<Usage> {
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let cpu = Duration::new(u64::try_from(cpu.tv_sec).ok()?, u32::try_from(cpu.tv_nsec).ok()?);
    let own = fs::read_to_string("/proc/self/status").ok()?;
    let resident_bytes = field(&own, "RssAnon:")? << 10;
    let threads = fs::read_dir("/proc/self/task").ok()?;
    let switches = threads.filter_map(|thread| {
        let status = fs::read_to_string(thread.ok()?.path().join("status")).ok()?;
        Some(
            field(&status, "voluntary_ctxt_switches:")?
                + field(&status, "nonvoluntary_ctxt_switches:")?,
        )
    });
    Some(Usage { cpu, switches: switches.sum(), resident_bytes })
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn usage() -> Option<Usage> {
    None
}

/// The processor time of the calling thread, 0 where the system does not tell.
#[cfg(target_os = "linux")]
pub(crate) fn thread_cpu() -> Duration {
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(cpu.tv_sec.unsigned_abs(), cpu.tv_nsec.unsigned_abs() as u32)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn thread_cpu() -> Duration {
    Duration::ZERO
}

#[cfg(target_os = "linux")]
fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The mean number of threads that wanted a processor, in the last 1, 5 and 15 minutes.
pub(crate) fn load() -> Option<String> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    Some(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

/// Lets this process have as many descriptors as it may, and more if the system grants them.
/// Returns how many.
#[cfg(target_os = "linux")]
pub(crate) fn raise_descriptors() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let most = Some(1 << 17).max(now.maximum);
    let asked = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
    // Without the right to it, as many as are allowed.
    if asked.is_err() {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, ..now });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn raise_descriptors() -> u64 {
    u64::MAX
}
