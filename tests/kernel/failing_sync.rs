//! Calls to the system that fail, each at its k-th time: no acknowledgement after it, the node says
//! so, readers go on, and a restart finds all that was acknowledged. `strace` makes them fail, and
//! writes down in which order they failed and acknowledgements were given.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use dledger::{AppendError, DLedger, OpenError};

use crate::actor::{Actor, numbers, say};
use crate::node_subject::node_in;
use crate::rng::Rng;
use crate::volume::{Volume, clear};

/// How often each fault is tried: at the first call of each thread, at the second ..
const TIMES: u64 = 20;

/// So many appends make a log of some segments.
const APPENDS: u64 = 60;

/// How long a node may take to go on after an error that is not final.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What a fault must lead to, if it is met at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The node takes no more part.
    Fault,
    /// It goes on as if nothing had been.
    GoesOn,
    /// Either, depending on what the call was for.
    Either,
    /// The process is gone.
    Killed,
}

#[test]
#[ignore = "needs strace; see main.rs"]
fn a_failed_sync_is_final() {
    at_every_call("fdatasync:error=EIO", Outcome::Fault);
    at_every_call("fdatasync:error=ENOSPC", Outcome::Fault);
    at_every_call("fsync:error=EIO", Outcome::Fault);
}

#[test]
#[ignore = "needs strace; see main.rs"]
fn a_failed_write_is_final() {
    at_every_call("pwritev:error=EIO", Outcome::Either);
    at_every_call("pwritev:retval=0", Outcome::Either);
    at_every_call("rename:error=EIO", Outcome::Fault);
    at_every_call("fallocate:error=EIO", Outcome::Either);
}

#[test]
#[ignore = "needs strace; see main.rs"]
fn a_full_disk_is_not_final() {
    at_every_call("pwritev:error=ENOSPC", Outcome::GoesOn);
    at_every_call("fallocate:error=ENOSPC", Outcome::GoesOn);
    at_every_call("rename:error=ENOSPC", Outcome::GoesOn);
}

#[test]
#[ignore = "needs strace; see main.rs"]
fn an_interrupted_call_is_made_again() {
    at_every_call("pwritev:error=EINTR", Outcome::GoesOn);
    at_every_call("fdatasync:error=EINTR", Outcome::GoesOn);
}

#[test]
#[ignore = "needs strace; see main.rs"]
fn a_kill_at_any_sync_or_write_loses_nothing() {
    at_every_call("fdatasync:signal=KILL", Outcome::Killed);
    at_every_call("fsync:signal=KILL", Outcome::Killed);
    at_every_call("pwritev:signal=KILL", Outcome::Killed);
}

/// The other process: appends one entry at a time, and says what came of it.
pub(crate) fn play(words: &[&str]) {
    let ledger = match quick(Path::new(words[0])).open() {
        Ok(ledger) => ledger,
        Err(error) => return say(&format!("not opened: {error}")),
    };
    say("opened");
    let deadline = Instant::now() + TIMEOUT;
    let mut number = 0;
    while number < APPENDS && Instant::now() < deadline {
        match ledger.append(payload(number)) {
            Ok(index) => say(&format!("committed {number} {index}")),
            Err(error @ (AppendError::StorageFull { .. } | AppendError::NotLeader { .. })) => {
                say(&format!("refused: {error}"));
                thread::sleep(Duration::from_millis(5));
                continue;
            }
            Err(error) => say(&format!("failed: {error}")),
        }
        number += 1;
        if ledger.status().fault.is_some() && number + 3 < APPENDS {
            // A few more, none of which may be acknowledged.
            number = APPENDS - 3;
        }
    }
    say(if ledger.status().fault.is_some() { "fault" } else { "no fault" });
    let read = ledger.read(0).filter(|entry| entry.is_ok()).count() as u64;
    say(if read == ledger.committed().end { "reads go on" } else { "reads fail" });
    let _ = ledger.shutdown();
}

fn quick(dir: &Path) -> dledger::Builder {
    node_in(dir)
        .heartbeat_interval(Duration::from_millis(5))
        .election_timeout(Duration::from_millis(20))
}

fn payload(number: u64) -> Vec<u8> {
    let mut rng = Rng::from_seed(number);
    let len = 2_000 + rng.below(6_000) as usize;
    rng.bytes(len)
}

/// Runs the other process with a fault at the k-th call of each thread, for each k.
fn at_every_call(fault: &str, outcome: Outcome) {
    let volume = Volume::tmpfs(16 << 20);
    let mut tally: BTreeMap<&str, u64> = BTreeMap::new();
    for k in 1..=TIMES {
        let (dir, trace) = (volume.path().join("log"), volume.path().join("trace"));
        clear(&dir);
        let inject = format!("inject={fault}:when={k}");
        let traced = "trace=fdatasync,fsync,pwritev,rename,fallocate,write";
        let trace_to = trace.to_str().expect("made of letters").to_owned();
        let strace =
            ["strace", "-f", "-Y", "-qq", "-s", "64", "-o", &trace_to, "-e", traced, "-e", &inject];
        let said = Actor::start_under(&strace, &format!("sync {}", dir.display())).hear_out();
        let trace = fs::read_to_string(trace).expect("strace writes it");
        let met = judge(&said, &trace, outcome)
            .unwrap_or_else(|wrong| panic!("{inject}: {wrong}\n{said:#?}"));
        *tally.entry(met).or_default() += 1;
        after_restart(&dir, &said)
            .unwrap_or_else(|wrong| panic!("{inject}, after a restart: {wrong}\n{said:#?}"));
    }
    println!("{fault}: {tally:?}");
}

/// What came of a fault, or what is wrong about it.
fn judge(said: &[String], trace: &str, outcome: Outcome) -> Result<&'static str, String> {
    let has = |line: &str| said.iter().any(|said| said == line);
    if has("reads fail") {
        return Err("what is committed cannot be read any more".to_owned());
    }
    let killed = trace.contains("+++ killed by");
    if killed {
        return if outcome == Outcome::Killed {
            Ok("killed")
        } else {
            Err("it was killed".to_owned())
        };
    }
    let lines: Vec<&str> = trace.lines().collect();
    let Some(first) = lines.iter().position(|line| line.contains("INJECTED")) else {
        return Ok("not met");
    };
    if said.iter().any(|line| line.starts_with("not opened: ")) {
        return if outcome == Outcome::GoesOn && lines[first].contains("EINTR") {
            Err("not opened".to_owned())
        } else {
            Ok("not opened")
        };
    }
    // What fails in a background task is final only if the log counted on it; then the thread that
    // syncs finds out.
    let met = lines
        .iter()
        .position(|line| line.contains("INJECTED") && !line.contains("-tasks>"))
        .unwrap_or(lines.len());
    let after = lines[met..].iter().filter(|line| line.contains("\"committed ")).count();
    if has("fault") {
        // What another thread acknowledged at the same moment had been safe before.
        let told = usize::from(!lines.get(met).is_some_and(|line| line.contains("-sync>")));
        if outcome == Outcome::GoesOn {
            return Err(format!("a fault, but it should go on: {}", lines[first]));
        }
        if after > told {
            return Err(format!("{after} acknowledgements after {}", lines[met]));
        }
        return Ok("fault");
    }
    let acknowledged = said.iter().filter(|line| line.starts_with("committed ")).count() as u64;
    if outcome == Outcome::Fault {
        return Err(format!("no fault after {}", lines[first]));
    }
    if acknowledged < APPENDS {
        return Err(format!("it did not go on after {}", lines[first]));
    }
    Ok("went on")
}

/// All that was acknowledged is there, and the node goes on.
fn after_restart(dir: &Path, said: &[String]) -> Result<(), String> {
    let ledger: DLedger = quick(dir).open().map_err(|error: OpenError| error.to_string())?;
    for numbers in said.iter().filter_map(|line| numbers(line, "committed")) {
        let (number, index) = (numbers[0], numbers[1]);
        match ledger.get(index) {
            Ok(Some(entry)) if entry[..] == payload(number)[..] => {}
            other => {
                return Err(format!(
                    "entry {index} was acknowledged, and is {:?}",
                    other.map(|entry| entry.map(|entry| entry.len()))
                ));
            }
        }
    }
    ledger.append("after the restart").map_err(|error| error.to_string())?;
    ledger.shutdown().map_err(|error| error.to_string())
}
