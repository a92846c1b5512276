//! What a log directory holds, and whether it is sound: `inspect`, `verify` and `dump` over a log
//! that no process has open, and `backup` and `restore`. No log is changed.
//!
//! ```text
//! cargo run --release --example dledger_cli -- verify DIR [--json]
//! cargo run --release --example dledger_cli -- inspect DIR [--json]
//! cargo run --release --example dledger_cli -- dump DIR [--from N] [--to N] [--json]
//! cargo run --release --example dledger_cli -- backup DIR TO [--json]
//! cargo run --release --example dledger_cli -- restore BACKUP DIR --node N [--whole-group]
//! ```
//!
//! Exit code 0: sound. 1: damaged, with file and offset. 2: wrong usage. 3: nothing came of it, and
//! that is no damage: no log is there, or it is open, or it may not be read. With `--json`, `dump`
//! writes one object a line, the others write one object; payloads are text if they are UTF-8,
//! hexadecimal if not.

use std::io::{Write, stdout};
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dledger::storage::{Corruption, LogPoint, StorageError};
use dledger::tools::{self, Inspection, Progress, Restore, Verification};
use dledger::{Backup, BackupError, Entry};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

/// Inspects, verifies, dumps, backs up and restores logs that are not open.
#[derive(Parser)]
#[command(
    name = "dledger_cli",
    version,
    after_help = "Exit codes:\n  \
                  0  what was asked for is done, and no damage was found\n  \
                  1  the log is damaged: the text says in which file, and where in it\n  \
                  2  wrong usage: nothing was looked at\n  \
                  3  nothing came of it, and that is no damage: the directory does not exist or \
                  holds no log,\n     \
                  the log is open or was written by a newer build, something may not be read or \
                  written, or\n     \
                  is in the way. The text says which"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print JSON: one object, or one object a line (`dump`)
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Read every byte of a log and say whether it is sound
    Verify {
        /// The directory of the log
        dir: PathBuf,
    },
    /// Show what a log holds, without reading all of it
    Inspect {
        /// The directory of the log
        dir: PathBuf,
    },
    /// Print the entries of a log
    Dump {
        /// The directory of the log
        dir: PathBuf,
        /// The first index to print
        #[arg(long, value_name = "INDEX", default_value_t = 0)]
        from: u64,
        /// Stop before this index [default: the end of the log]
        #[arg(long, value_name = "INDEX", default_value_t = u64::MAX, hide_default_value = true)]
        to: u64,
    },
    /// Copy a log to a directory that is made for it
    Backup {
        /// The directory of the log
        dir: PathBuf,
        /// The backup: not there yet, or empty
        to: PathBuf,
    },
    /// Make a directory for a node from a backup
    Restore {
        /// The directory of the backup
        backup: PathBuf,
        /// The directory of the node: not there yet, or empty. Move an old one aside first
        dir: PathBuf,
        /// The id of the node. Unless the whole group is restored, it asks the others before it
        /// takes part
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        node: u64,
        /// Every node is restored from this backup, and none of the old directories is ever
        /// opened again
        #[arg(long)]
        whole_group: bool,
    },
}

const SOUND: u8 = 0;
const DAMAGED: u8 = 1;
const NOT_SEEN: u8 = 3;

fn main() -> ExitCode {
    let Cli { command, json } = Cli::parse(); // exits with code 2 on wrong usage
    let outcome = match command {
        Command::Inspect { dir } => inspect(&dir, json),
        Command::Verify { dir } => verify(&dir, json),
        Command::Dump { dir, from, to } => dump(&dir, from..to, json),
        Command::Backup { dir, to } => copied(tools::backup(&dir, &to), json),
        Command::Restore { backup, dir, node, whole_group } => {
            let scope = if whole_group { Restore::WholeGroup } else { Restore::OneNode };
            copied(tools::restore(&backup, &dir, node, scope), json)
        }
    };
    outcome.unwrap_or_else(|failure| report(&failure, json)).into()
}

/// Why nothing came of a request.
struct Failure {
    text: String,
    code: u8,
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Failure {
        let code = if matches!(error, StorageError::Corrupt { .. }) { DAMAGED } else { NOT_SEEN };
        Failure { text: error.to_string(), code }
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Failure {
        let code = if matches!(error, BackupError::Damaged { .. }) { DAMAGED } else { NOT_SEEN };
        Failure { text: error.to_string(), code }
    }
}

/// An error in place of what was asked for.
fn report(Failure { text, code }: &Failure, json: bool) -> u8 {
    if json {
        println!("{}", json!({ "error": text }));
    } else {
        eprintln!("{text}");
    }
    *code
}

/// A backup, or what is restored of one.
fn copied(outcome: Result<Backup, BackupError>, json: bool) -> Result<u8, Failure> {
    let Backup { committed, position, end_index, linked_bytes, copied_bytes, .. } = outcome?;
    if json {
        let object = json!({
            "first_index": committed.start,
            "committed": committed.end,
            "position": position,
            "end_index": end_index,
            "linked_bytes": linked_bytes,
            "copied_bytes": copied_bytes,
        });
        println!("{object}");
    } else {
        println!(
            "entries      {}..{end_index}, committed up to {}",
            committed.start, committed.end
        );
        println!("bytes        {linked_bytes} shared, {copied_bytes} copied");
    }
    Ok(SOUND)
}

fn inspect(dir: &Path, json: bool) -> Result<u8, Failure> {
    let found = tools::inspect(dir)?;
    if json {
        let mut object = of_inspection(&found);
        object["damage"] = found.corruption.iter().map(of_damage).collect();
        println!("{object}");
    } else {
        print_inspection(&found);
        print_damage(&found.corruption);
    }
    Ok(if found.corruption.is_empty() { SOUND } else { DAMAGED })
}

fn verify(dir: &Path, json: bool) -> Result<u8, Failure> {
    let bar = progress_bar();
    let found = tools::verify_with(dir, |Progress { done, total }| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let found = found?;
    let Verification { inspection, batches, entries, payload_bytes, corruption, .. } = &found;
    if json {
        let mut object = of_inspection(inspection);
        object["batches"] = json!(batches);
        object["entries"] = json!(entries);
        object["payload_bytes"] = json!(payload_bytes);
        object["damage"] = corruption.iter().map(of_damage).collect();
        println!("{object}");
    } else {
        print_inspection(inspection);
        println!(
            "read         {batches} batches, {entries} entries, {payload_bytes} bytes of payload"
        );
        print_damage(corruption);
    }
    Ok(if corruption.is_empty() { SOUND } else { DAMAGED })
}

/// On the terminal, and nowhere if standard error is none.
fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("[{bar:40}] {percent:>3} %, {eta} left");
    ProgressBar::new(0).with_style(style.expect("the template is valid").progress_chars("## "))
}

fn dump(dir: &Path, indexes: Range<u64>, json: bool) -> Result<u8, Failure> {
    let mut outcome = SOUND;
    let mut out = std::io::BufWriter::new(stdout().lock());
    tools::dump(dir, indexes, |entry| {
        let line = match entry {
            Ok(entry) if json => of_entry(&entry).to_string(),
            Ok(entry) => line_of(&entry),
            Err(error) => {
                outcome = DAMAGED;
                let text = error.to_string();
                if json { json!({ "error": text }).to_string() } else { format!("! {text}") }
            }
        };
        // The reader of the pipe may have seen enough: `| head`.
        if writeln!(out, "{line}").is_ok() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    })?;
    Ok(outcome)
}

fn of_entry(entry: &Entry) -> Value {
    let mut object = json!({
        "index": entry.index(),
        "position": entry.position(),
        "term": entry.term(),
        "timestamp": entry.timestamp(),
    });
    match std::str::from_utf8(entry) {
        Ok(text) => object["text"] = json!(text),
        Err(_) => object["hex"] = json!(hexadecimal(entry)),
    }
    object
}

fn line_of(entry: &Entry) -> String {
    let payload = match std::str::from_utf8(entry) {
        Ok(text) => format!("{text:?}"),
        Err(_) => format!("x{}", hexadecimal(entry)),
    };
    let (index, position, term) = (entry.index(), entry.position(), entry.term());
    format!("{index:>10}  @{position:<12} term {term:<4} {}  {payload}", entry.timestamp())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn print_inspection(found: &Inspection) {
    let (base, last, state) = (&found.base.point, &found.last, &found.hard_state);
    println!("log of       {}", found.owner);
    println!(
        "directory    {:032x}, opened {} times",
        found.identity.directory, found.identity.incarnation
    );
    match found.group_uid {
        0 => println!("group id     not known yet"),
        uid => println!("group id     {uid:032x}"),
    }
    if !found.identity.complete {
        println!(
            "             not complete: its node asks every other member before it takes part"
        );
    }
    let vote = state.vote.map_or("nobody".to_owned(), |node| format!("node {node}"));
    println!(
        "state        term {}, voted for {vote}, committed up to raft index {} or more",
        state.term, state.commit
    );
    println!(
        "entries      {}..{}, {} bytes behind position {}",
        base.next_index,
        last.next_index,
        last.next_position - base.next_position,
        base.next_position
    );
    println!(
        "batches      {}..{}, chain {:08x}",
        base.raft_index + 1,
        last.raft_index + 1,
        last.chain
    );
    for segment in &found.segments {
        let kind = if segment.is_sealed { "sealed" } else { "open" };
        let batches = &segment.raft_indexes;
        println!(
            "  {}  {kind:<6} {:>11} bytes, batches {}..{}, entries from {}",
            segment.name, segment.bytes, batches.start, batches.end, segment.first_index
        );
    }
    found.leftover.iter().for_each(|name| println!("  {name}  left over"));
}

fn print_damage(corruption: &[Corruption]) {
    if corruption.is_empty() {
        println!("no damage found");
    }
    corruption.iter().for_each(|corruption| println!("DAMAGE       {corruption}"));
}

fn of_inspection(found: &Inspection) -> Value {
    let segments = found.segments.iter().map(|segment| {
        json!({
            "name": segment.name,
            "bytes": segment.bytes,
            "sealed": segment.is_sealed,
            "first_raft_index": segment.raft_indexes.start,
            "end_raft_index": segment.raft_indexes.end,
            "first_index": segment.first_index,
        })
    });
    let peers = found.peers.iter().map(
        |(node, directory)| json!({ "node": node.get(), "directory": format!("{directory:032x}") }),
    );
    json!({
        "directory": format!("{:032x}", found.identity.directory),
        "incarnation": found.identity.incarnation,
        "complete": found.identity.complete,
        "group": found.owner.group,
        "group_uid": Some(found.group_uid).filter(|uid| *uid != 0).map(|uid| format!("{uid:032x}")),
        "node": found.owner.node.get(),
        "cluster": found.owner.cluster,
        "term": found.hard_state.term,
        "vote": found.hard_state.vote.map_or(0, |node| node.get()),
        "commit": found.hard_state.commit,
        "base": of_point(&found.base.point),
        "last": of_point(&found.last),
        "peers": peers.collect::<Value>(),
        "segments": segments.collect::<Value>(),
        "leftover": found.leftover,
    })
}

fn of_point(point: &LogPoint) -> Value {
    json!({
        "raft_index": point.raft_index,
        "term": point.term,
        "next_index": point.next_index,
        "next_position": point.next_position,
        "timestamp": point.timestamp,
        "chain": format!("{:08x}", point.chain),
    })
}

fn of_damage(corruption: &Corruption) -> Value {
    let mut object = json!({
        "file": corruption.path.to_string_lossy(),
        "offset": corruption.offset,
        "first_raft_index": corruption.raft_indexes.start,
        "end_raft_index": corruption.raft_indexes.end,
    });
    if let Some(term) = corruption.term {
        object["term"] = json!(term);
    }
    object["reason"] = json!(corruption.reason);
    object
}
