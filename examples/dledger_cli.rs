//! What a log directory holds, and whether it is sound: `inspect`, `verify` and `dump` over a log that nobody has open, and `backup` and `restore`. No log
//! is changed.
//!
//! ```text
//! cargo run --release --example dledger_cli -- verify DIR [--json]
//! cargo run --release --example dledger_cli -- inspect DIR [--json]
//! cargo run --release --example dledger_cli -- dump DIR [--from N] [--to N] [--json]
//! cargo run --release --example dledger_cli -- backup DIR TO [--json]
//! cargo run --release --example dledger_cli -- restore BACKUP DIR --node N [--whole-group] [--json]
//! ```
//!
//! Exit code 0: sound. 1: damaged, with file and offset. 2: wrong usage. 3: the log could not be looked at. With `--json`, `dump` writes one object a
//! line, the others write one object; payloads are text if they are UTF-8, hexadecimal if not.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write, stderr, stdout};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use dledger::storage::{Damage, Mark, StorageError};
use dledger::tools::{self, Inspection, Progress, Restore, Verification};
use dledger::{Backup, BackupError, Entry};

const USAGE: &str = "usage: dledger_cli verify|inspect DIR [--json]
       dledger_cli dump DIR [--from N] [--to N] [--json]     entries with N <= index < N
       dledger_cli backup DIR TO [--json]                    TO is made, from a closed log
       dledger_cli restore BACKUP DIR --node N [--json]      DIR is made, for node N of the group, which
             [--whole-group]                                 asks the others before it takes part; or no
                                                             node of the group as it was runs ever again";

const SOUND: u8 = 0;
const DAMAGED: u8 = 1;
const WRONG_USAGE: u8 = 2;
const NOT_SEEN: u8 = 3;

struct Request {
    verb: String,
    dir: PathBuf,
    /// Where a backup, or what is restored of it, goes.
    target: PathBuf,
    node: u64,
    whole_group: bool,
    json: bool,
    from: u64,
    to: u64,
}

fn main() -> ExitCode {
    let request = match Request::read(std::env::args().skip(1)) {
        Ok(request) => request,
        Err(reason) => {
            eprintln!("{reason}\n{USAGE}");
            return WRONG_USAGE.into();
        }
    };
    let outcome = match request.verb.as_str() {
        "inspect" => inspect(&request),
        "verify" => verify(&request),
        "dump" => dump(&request),
        _ => copy(&request),
    };
    outcome.unwrap_or_else(|error| tell(&request, &error)).into()
}

/// Why nothing came of a request.
struct Failure {
    text: String,
    code: u8,
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Failure {
        let code = if matches!(error, StorageError::Damaged { .. }) { DAMAGED } else { NOT_SEEN };
        Failure { text: error.to_string(), code }
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Failure {
        let code = if matches!(error, BackupError::Damaged { .. }) { DAMAGED } else { NOT_SEEN };
        Failure { text: error.to_string(), code }
    }
}

impl Request {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Request, String> {
        let verbs = ["inspect", "verify", "dump", "backup", "restore"];
        let verb = words.next().filter(|verb| verbs.contains(&verb.as_str())).ok_or("what shall be done?")?;
        let copies = ["backup", "restore"].contains(&verb.as_str());
        let (mut dirs, mut json, mut whole_group) = (Vec::new(), false, false);
        let (mut from, mut to, mut node) = (0, u64::MAX, 0);
        while let Some(word) = words.next() {
            let number = match (word.as_str(), verb.as_str()) {
                ("--from", "dump") => &mut from,
                ("--to", "dump") => &mut to,
                ("--node", "restore") => &mut node,
                ("--json", _) => {
                    json = true;
                    continue;
                }
                ("--whole-group", "restore") => {
                    whole_group = true;
                    continue;
                }
                _ if word.starts_with("--") || dirs.len() > usize::from(copies) => {
                    return Err(format!("what does `{word}` mean?"));
                }
                _ => {
                    dirs.push(PathBuf::from(word));
                    continue;
                }
            };
            let told = words.next().and_then(|number| number.parse().ok());
            *number = told.ok_or_else(|| format!("{word} takes a number"))?;
        }
        let mut dirs = dirs.into_iter();
        let dir = dirs.next().ok_or("which directory?")?;
        let target = dirs.next().or((!copies).then(PathBuf::new)).ok_or("to which directory?")?;
        if verb == "restore" && node == 0 {
            return Err("for which node?".to_owned());
        }
        Ok(Request { verb, dir, target, node, whole_group, json, from, to })
    }
}

/// An error in place of what was asked for.
fn tell(request: &Request, Failure { text, code }: &Failure) -> u8 {
    if request.json {
        println!("{}", Json::default().text("error", text).done());
    } else {
        eprintln!("{text}");
    }
    *code
}

/// A backup, or what is restored of one.
fn copy(request: &Request) -> Result<u8, Failure> {
    let Request { verb, dir, target, node, whole_group, .. } = request;
    let scope = if *whole_group { Restore::WholeGroup } else { Restore::OneNode };
    let Backup { committed, position, end_index, linked_bytes, copied_bytes, .. } = match verb.as_str() {
        "backup" => tools::backup(dir, target)?,
        _ => tools::restore(dir, target, *node, scope)?,
    };
    if request.json {
        let json = Json::default().number("first_index", committed.start).number("committed", committed.end);
        let json = json.number("position", position).number("end_index", end_index);
        println!("{}", json.number("linked_bytes", linked_bytes).number("copied_bytes", copied_bytes).done());
    } else {
        println!("entries      {}..{end_index}, committed up to {}", committed.start, committed.end);
        println!("bytes        {linked_bytes} shared, {copied_bytes} copied");
    }
    Ok(SOUND)
}

fn inspect(request: &Request) -> Result<u8, Failure> {
    let found = tools::inspect(&request.dir)?;
    if request.json {
        println!("{}", of_inspection(&found).list("damage", found.damage.iter().map(of_damage)).done());
    } else {
        print_inspection(&found);
        print_damage(&found.damage);
    }
    Ok(if found.damage.is_empty() { SOUND } else { DAMAGED })
}

fn verify(request: &Request) -> Result<u8, Failure> {
    let mut bar = Bar::new();
    let found = tools::verify_with(&request.dir, |progress| bar.show(progress))?;
    bar.clear();
    let Verification { inspection, batches, entries, payload_bytes, damage, .. } = &found;
    if request.json {
        let json = of_inspection(inspection).number("batches", *batches).number("entries", *entries);
        println!("{}", json.number("payload_bytes", *payload_bytes).list("damage", damage.iter().map(of_damage)).done());
    } else {
        print_inspection(inspection);
        println!("read         {batches} batches, {entries} entries, {payload_bytes} bytes of payload");
        print_damage(damage);
    }
    Ok(if damage.is_empty() { SOUND } else { DAMAGED })
}

fn dump(request: &Request) -> Result<u8, Failure> {
    let mut outcome = SOUND;
    let mut out = std::io::BufWriter::new(stdout().lock());
    tools::dump(&request.dir, request.from..request.to, |entry| {
        let line = match entry {
            Ok(entry) => print_entry(&entry, request.json),
            Err(error) => {
                outcome = DAMAGED;
                if request.json { Json::default().text("error", &error.to_string()).done() } else { format!("! {error}") }
            }
        };
        // Whoever reads may have seen enough: `| head`.
        if writeln!(out, "{line}").is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(outcome)
}

fn print_entry(entry: &Entry, json: bool) -> String {
    let text = std::str::from_utf8(entry).ok();
    if json {
        let json = Json::default().number("index", entry.index()).number("position", entry.position());
        let json = json.number("term", entry.term()).number("timestamp", entry.timestamp());
        return match text {
            Some(text) => json.text("text", text).done(),
            None => json.text("hex", &hexadecimal(entry)).done(),
        };
    }
    let payload = text.map_or_else(|| format!("x{}", hexadecimal(entry)), |text| format!("{text:?}"));
    format!("{:>10}  @{:<12} term {:<4} {}  {payload}", entry.index(), entry.position(), entry.term(), entry.timestamp())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn print_inspection(found: &Inspection) {
    let (base, last, state) = (&found.base.mark, &found.last, &found.hard_state);
    println!("log of       {}", found.genesis);
    println!("directory    {:032x}, opened {} times", found.identity.directory, found.identity.incarnation);
    if !found.identity.complete {
        println!("             not complete: its node asks every other member before it takes part");
    }
    let vote = state.vote.map_or("nobody".to_owned(), |node| format!("node {node}"));
    println!("state        term {}, voted for {vote}, committed up to raft index {} or more", state.term, state.commit);
    println!(
        "entries      {}..{}, {} bytes behind position {}",
        base.next_index,
        last.next_index,
        last.next_position - base.next_position,
        base.next_position
    );
    println!("batches      {}..{}, chain {:08x}", base.raft_index + 1, last.raft_index + 1, last.chain);
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

fn print_damage(damage: &[Damage]) {
    if damage.is_empty() {
        println!("no damage found");
    }
    damage.iter().for_each(|damage| println!("DAMAGE       {damage}"));
}

fn of_inspection(found: &Inspection) -> Json {
    let segments = found.segments.iter().map(|segment| {
        let json = Json::default().text("name", &segment.name).number("bytes", segment.bytes).flag("sealed", segment.is_sealed);
        json.number("first_raft_index", segment.raft_indexes.start)
            .number("end_raft_index", segment.raft_indexes.end)
            .number("first_index", segment.first_index)
    });
    let peers = found
        .peers
        .iter()
        .map(|(node, directory)| Json::default().number("node", node.get()).text("directory", &format!("{directory:032x}")));
    let state = &found.hard_state;
    Json::default()
        .text("directory", &format!("{:032x}", found.identity.directory))
        .number("incarnation", found.identity.incarnation)
        .flag("complete", found.identity.complete)
        .text("group", &found.genesis.group)
        .number("node", found.genesis.node.get())
        .number("cluster", found.genesis.cluster)
        .number("term", state.term)
        .number("vote", state.vote.map_or(0, |node| node.get()))
        .number("commit", state.commit)
        .object("base", of_mark(&found.base.mark))
        .object("last", of_mark(&found.last))
        .list("peers", peers)
        .list("segments", segments)
        .strings("leftover", &found.leftover)
}

fn of_mark(mark: &Mark) -> Json {
    let json = Json::default().number("raft_index", mark.raft_index).number("term", mark.term).number("next_index", mark.next_index);
    json.number("next_position", mark.next_position).number("timestamp", mark.timestamp).text("chain", &format!("{:08x}", mark.chain))
}

fn of_damage(damage: &Damage) -> Json {
    let json = Json::default().text("file", &damage.path.to_string_lossy()).number("offset", damage.offset);
    let json = json.number("first_raft_index", damage.raft_indexes.start).number("end_raft_index", damage.raft_indexes.end);
    let json = damage.term.into_iter().fold(json, |json, term| json.number("term", term));
    json.text("reason", &damage.reason)
}

/// One object of JSON, written from front to back.
#[derive(Default)]
struct Json(String);

impl Json {
    fn number(self, name: &str, value: u64) -> Json {
        self.field(name, &value.to_string())
    }

    fn flag(self, name: &str, value: bool) -> Json {
        self.field(name, &value.to_string())
    }

    fn text(self, name: &str, value: &str) -> Json {
        self.field(name, &quoted(value))
    }

    fn object(self, name: &str, value: Json) -> Json {
        self.field(name, &value.done())
    }

    fn list(self, name: &str, values: impl Iterator<Item = Json>) -> Json {
        self.field(name, &format!("[{}]", values.map(Json::done).collect::<Vec<_>>().join(",")))
    }

    fn strings(self, name: &str, values: &[String]) -> Json {
        self.field(name, &format!("[{}]", values.iter().map(|value| quoted(value)).collect::<Vec<_>>().join(",")))
    }

    fn field(mut self, name: &str, value: &str) -> Json {
        let comma = if self.0.is_empty() { "" } else { "," };
        let _ = write!(self.0, "{comma}{}:{value}", quoted(name));
        self
    }

    fn done(self) -> String {
        format!("{{{}}}", self.0)
    }
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if (c as u32) < 0x20 => drop(write!(quoted, "\\u{:04x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// A bar on the terminal, once the work takes longer than a second.
struct Bar {
    shown: bool,
    begun: Instant,
    next: Instant,
}

impl Bar {
    fn new() -> Bar {
        let begun = Instant::now();
        Bar { shown: false, begun, next: begun + Duration::from_secs(1) }
    }

    fn show(&mut self, Progress { done, total }: Progress) {
        // The clock is not read for each batch.
        if !done.is_multiple_of(64) || Instant::now() < self.next || !stderr().is_terminal() {
            return;
        }
        self.shown = true;
        self.next = Instant::now() + Duration::from_millis(200);
        let part = done as f64 / total.max(1) as f64;
        let left = self.begun.elapsed().mul_f64((1.0 - part) / part.max(1e-9));
        eprint!("\r[{:<40}] {:>3.0} %, {} s left ", "#".repeat((part * 40.0) as usize), part * 100.0, left.as_secs());
    }

    fn clear(&self) {
        if self.shown {
            eprint!("\r{:70}\r", "");
        }
    }
}
