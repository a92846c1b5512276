//! Style as a test: the borders between the rooms of the crate, and the habits that a reader relies
//! on.
//!
//! Each rule is a function over the sources that says what is wrong with them. The last part of the
//! file plants one offence for each rule and shows that the rule finds it, so that no rule can go
//! blind unnoticed.

#[path = "tidy/scan.rs"]
mod scan;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use scan::Source;

/// Where what stands may be named: raft's and protobuf's types stop here, so that both stay
/// replaceable.
const RAFT_AT_HOME: [&str; 4] =
    ["src/replica/adapter.rs", "src/replica/adapter/", "src/message.rs", "src/message/"];
const SLOG_AT_HOME: [&str; 2] = ["src/replica/adapter.rs", "src/replica/adapter/"];
const UNSAFE_AT_HOME: [&str; 1] = ["src/storage/segmented/mmap.rs"];
const THREADS_AT_HOME: [&str; 2] = ["src/threads.rs", "src/threads/"];
/// What threads meet at comes from one file, so that a checker of threads can put its own in the
/// place of all of it. A simulation, which has one thread, and the suite that a host's transport
/// runs against are no part of a node. Whose turn it is to spin decides nothing.
const PRIMITIVES_AT_HOME: [&str; 6] = [
    "src/primitives.rs",
    "src/primitives/",
    "src/spin.rs",
    "src/spin/",
    "src/transport/conformance.rs",
    "src/sim/",
];
/// Replica, engine, sequencer and storage are given the time: the same input and the same time have
/// the same effects.
const CLOCKS_AT_HOME: [&str; 15] = [
    "src/host.rs",
    "src/members.rs",
    "src/threads.rs",
    "src/threads/",
    "src/primitives/",
    "src/future.rs",
    "src/cursor.rs",
    "src/cursor/",
    "src/watch.rs",
    "src/role_changes.rs",
    "src/reply.rs",
    "src/dledger.rs",
    "src/spin.rs",
    "src/spin/",
    "src/transport/",
];

/// Every room, from the roof down. A room knows itself and the rooms on lines below its own. Rooms
/// on one line do not see each other.
const FLOORS: [&[&str]; 22] = [
    &["lib", "fuzzing"],
    &["host"],
    &["dledger"],
    &["builder"],
    &["host_parts"],
    &["running_node"],
    &["threads", "sim"],
    &["engine", "cursor", "watch", "role_changes"],
    &["shared"],
    &["sequencer", "pins"],
    &["replica", "storage::*", "transport::*", "future"],
    // What the transports have in common.
    &["transport::hello", "transport::frame", "transport::host", "append_hook"],
    &["error", "retention"],
    &["transport"],
    &["storage"],
    &["message", "watermark", "spin", "reply", "status", "role_board", "members", "inbox_space"],
    &["role"],
    &["wakers"],
    &["batch", "owner", "removed"],
    &["log_prefix"],
    &["entry", "search"],
    &["primitives", "fork"],
];

const LINES_MAX: usize = 700;
const WIDTH: usize = 100;
const NAMES_OF_NOTHING: [&str; 10] = [
    "util", "utils", "common", "helper", "helpers", "manager", "managers", "impl", "impls", "misc",
];

type Rule = fn(&[Source]) -> Vec<String>;

/// As wide as `rustfmt.toml` says. It leaves long strings and some comments as they are.
fn no_line_is_wide(sources: &[Source]) -> Vec<String> {
    let wide = |source: &Source| -> Vec<String> {
        let numbered = source.text.lines().zip(1..);
        let wide = numbered.filter(|(line, _)| line.chars().count() > WIDTH);
        wide.map(|(_, number)| format!("{}:{number}: over {WIDTH} columns", source.path)).collect()
    };
    sources.iter().flat_map(wide).collect()
}

/// Two files that import each other are one file in two places: neither can be read, tested or
/// replaced alone. What a file re-exports counts for who uses it, not for the file.
fn imports_have_no_circle(sources: &[Source]) -> Vec<String> {
    let modules: BTreeMap<String, &Source> =
        sources.iter().map(|s| (scan::module_of(&s.path).join("::"), s)).collect();
    let names: BTreeSet<String> = modules.keys().cloned().collect();
    let mut imports: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for source in sources {
        let module = scan::module_of(&source.path);
        for path in source.paths.iter().filter(|path| !path.is_shown) {
            let target = resolve(&path.segments, &module, &names);
            if let Some(file) = target.and_then(|target| file_of(target, &modules, &names))
                && file != source.path
            {
                imports.entry(&source.path).or_default().insert(file);
            }
        }
    }
    circles(&imports).into_iter().map(|files| format!("a circle: {}", files.join(", "))).collect()
}

/// The file that defines what a path of the crate leads to, behind re-exports.
fn file_of<'a>(
    mut target: Vec<String>,
    modules: &BTreeMap<String, &'a Source>,
    names: &BTreeSet<String>,
) -> Option<&'a str> {
    for _ in 0..8 {
        let depth = (0..=target.len()).rev().find(|&n| names.contains(&target[..n].join("::")))?;
        let source = modules[&target[..depth].join("::")];
        let Some(item) = target.get(depth) else { return Some(&source.path) };
        let module = scan::module_of(&source.path);
        let shown = source.paths.iter().find(|path| {
            path.is_shown && path.segments.len() > 1 && path.segments.last() == Some(item)
        });
        match shown.and_then(|path| resolve(&path.segments, &module, names)) {
            Some(next) if next != target => target = next,
            _ => return Some(&source.path),
        }
    }
    None
}

/// The sets of files of which each reaches each other one.
fn circles<'a>(imports: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Vec<Vec<&'a str>> {
    let reached = |from: &'a str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(file) = open.pop() {
            for &next in imports.get(file).into_iter().flatten() {
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        seen
    };
    let all: BTreeMap<&str, BTreeSet<&str>> =
        imports.keys().map(|&file| (file, reached(file))).collect();
    let mut found = BTreeSet::new();
    for (&file, reach) in all.iter().filter(|(file, reach)| reach.contains(*file)) {
        let circle =
            reach.iter().filter(|&&other| all.get(other).is_some_and(|back| back.contains(file)));
        found.insert(circle.copied().collect::<Vec<_>>());
    }
    found.into_iter().collect()
}

fn raft_stays_behind_its_border(sources: &[Source]) -> Vec<String> {
    let mut offences = paths_outside(sources, &RAFT_AT_HOME, |path| {
        path.segments
            .iter()
            .any(|word| ["eraftpb", "protobuf", "raft_proto"].contains(&word.as_str()))
            || (path.segments[0] == "raft" && path.segments.len() > 1)
    });
    offences.extend(paths_outside(sources, &SLOG_AT_HOME, |path| path.segments[0] == "slog"));
    offences.extend(imports_of_bare_raft(sources));
    offences
}

/// `use raft;` and `use raft as engine;` open the border without a `::`.
fn imports_of_bare_raft(sources: &[Source]) -> Vec<String> {
    let outside = sources.iter().filter(|source| !is_home(source, &RAFT_AT_HOME));
    let bare = |line: &str| {
        line.trim_start().strip_prefix("use raft").is_some_and(|rest| rest.starts_with([' ', ';']))
    };
    outside.flat_map(|source| lines_with(source, bare)).collect()
}

fn unsafe_lives_in_the_map(sources: &[Source]) -> Vec<String> {
    paths_outside(sources, &UNSAFE_AT_HOME, |path| path.segments == ["unsafe"])
}

fn threads_are_spawned_in_one_file(sources: &[Source]) -> Vec<String> {
    paths_outside(sources, &THREADS_AT_HOME, |path| {
        ["Builder", "spawn", "scope"].iter().any(|verb| follows(&path.segments, "thread", verb))
    })
}

fn threads_meet_at_primitives(sources: &[Source]) -> Vec<String> {
    const REPLACED: [&str; 5] = ["Mutex", "RwLock", "Condvar", "OnceLock", "mpsc"];
    paths_outside(sources, &PRIMITIVES_AT_HOME, |path| {
        ["parking_lot", "crossbeam_channel"].contains(&path.segments[0].as_str())
            || follows(&path.segments, "sync", "atomic") && path.segments[0] == "std"
            || path.segments[0] == "std"
                && path.segments.last().is_some_and(|last| REPLACED.contains(&last.as_str()))
            || follows(&path.segments, "std", "thread")
    })
}

fn clocks_are_read_above_the_engine(sources: &[Source]) -> Vec<String> {
    paths_outside(sources, &CLOCKS_AT_HOME, |path| {
        follows(&path.segments, "Instant", "now")
            || follows(&path.segments, "SystemTime", "now")
            || follows(&path.segments, "thread", "sleep")
            || (path.is_method && path.segments == ["elapsed"])
    })
}

fn a_library_does_not_print(sources: &[Source]) -> Vec<String> {
    let printers = ["print", "println", "eprint", "eprintln", "dbg", "todo", "unimplemented"];
    paths_outside(sources, &[], |path| {
        path.is_macro && path.segments.last().is_some_and(|name| printers.contains(&name.as_str()))
    })
}

fn arrows_go_down_only(sources: &[Source]) -> Vec<String> {
    let modules: BTreeSet<String> =
        sources.iter().map(|source| scan::module_of(&source.path).join("::")).collect();
    let mut offences = Vec::new();
    for source in sources {
        let module = scan::module_of(&source.path);
        let here = room(&module, &modules);
        let Some(own_floor) = floor(&here) else {
            offences.push(format!(
                "{}: the room `{here}` stands on no floor: give it a place in FLOORS",
                source.path
            ));
            continue;
        };
        for path in &source.paths {
            let Some(target) = resolve(&path.segments, &module, &modules) else { continue };
            let there = room(&target, &modules);
            if path.is_shown && target.starts_with(&module) {
                continue; // a trait's module is also the public door to what implements it
            }
            if there != here && floor(&there).is_none_or(|floor| floor <= own_floor) {
                offences.push(format!(
                    "{}:{}: `{here}` looks up or sideways to `{there}`",
                    source.path, path.line
                ));
            }
        }
    }
    offences
}

/// Which module a path leads to, from within `module`. `None` if it leads out of the crate.
fn resolve(
    segments: &[String],
    module: &[String],
    modules: &BTreeSet<String>,
) -> Option<Vec<String>> {
    if segments.len() == 1 {
        return None; // `pub(crate)`, `self`
    }
    let supers = segments.iter().take_while(|&word| word == "super").count();
    let (base, rest) = match segments[0].as_str() {
        "crate" => (&module[..0], &segments[1..]),
        "self" => (module, &segments[1..]),
        "super" => (&module[..module.len().saturating_sub(supers)], &segments[supers..]),
        child if modules.contains(&[module, &[child.to_owned()]].concat().join("::")) => {
            (module, segments)
        }
        _ => return None,
    };
    Some([base, rest].concat())
}

/// Storage and transport are two rooms for each: the trait below, and every implementation by
/// itself above it. What is no module is re-exported by `lib`.
fn room(path: &[String], modules: &BTreeSet<String>) -> String {
    match path {
        [first, second, ..]
            if ["storage", "transport"].contains(&first.as_str())
                && modules.contains(&format!("{first}::{second}")) =>
        {
            format!("{first}::{second}")
        }
        [first, ..] if modules.iter().any(|module| module.split("::").next() == Some(first)) => {
            first.clone()
        }
        _ => "lib".to_owned(),
    }
}

fn floor(room: &str) -> Option<usize> {
    let line_of = |name: &str| FLOORS.iter().position(|rooms| rooms.contains(&name));
    line_of(room).or_else(|| line_of(&format!("{}::*", room.split_once("::")?.0)))
}

fn every_file_has_a_name_that_says_something(sources: &[Source]) -> Vec<String> {
    let says_nothing = |path: &str| {
        path.trim_end_matches(".rs").split(['/', '_']).any(|word| NAMES_OF_NOTHING.contains(&word))
    };
    sources
        .iter()
        .filter(|source| says_nothing(&source.path))
        .map(|source| format!("{}: a name for anything", source.path))
        .collect()
}

fn every_file_fits_a_sitting(sources: &[Source]) -> Vec<String> {
    let lines = |source: &Source| source.text.lines().count();
    let long = sources.iter().filter(|source| lines(source) > LINES_MAX);
    long.map(|source| format!("{}: {} lines, of {LINES_MAX} at most", source.path, lines(source)))
        .collect()
}

fn every_file_says_what_it_is(sources: &[Source]) -> Vec<String> {
    let silent = sources.iter().filter(|source| !source.text.starts_with("//! "));
    silent.map(|source| format!("{}: begins without `//! `", source.path)).collect()
}

/// The README shows every example and promises none that is not there.
fn readme_and_examples_agree(readme: &str, examples: &BTreeSet<String>) -> Vec<String> {
    let shown: BTreeSet<String> =
        ["--example ", "examples/"].iter().flat_map(|lead| words_behind(readme, lead)).collect();
    let missing =
        shown.difference(examples).map(|name| format!("README.md: there is no example `{name}`"));
    let hidden = examples
        .difference(&shown)
        .map(|name| format!("README.md: the example `{name}` is not mentioned"));
    missing.chain(hidden).collect()
}

/// The README is also read where the repository's files are not beside it: its links lead to pages.
fn links_to_files(readme: &str) -> Vec<String> {
    let targets = readme.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let to_files =
        targets.filter(|target| !target.starts_with("https://") && !target.starts_with('#'));
    to_files
        .map(|target| format!("README.md: `{target}` leads nowhere outside of the repository"))
        .collect()
}

fn words_behind<'a>(text: &'a str, lead: &str) -> impl Iterator<Item = String> + use<'a> {
    let rests: Vec<&str> =
        text.match_indices(lead).map(|(at, found)| &text[at + found.len()..]).collect();
    let words = rests.into_iter().map(|rest| {
        rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
    });
    words.filter(|word| !word.is_empty()).map(str::to_owned)
}

fn is_home(source: &Source, homes: &[&str]) -> bool {
    homes
        .iter()
        .any(|home| source.path == *home || (home.ends_with('/') && source.path.starts_with(home)))
}

fn follows(segments: &[String], first: &str, second: &str) -> bool {
    segments.windows(2).any(|pair| pair[0] == first && pair[1] == second)
}

fn paths_outside(
    sources: &[Source],
    homes: &[&str],
    offends: impl Fn(&scan::Path) -> bool,
) -> Vec<String> {
    let outside = sources.iter().filter(|source| !is_home(source, homes));
    outside
        .flat_map(|source| {
            source.paths.iter().filter(|path| offends(path)).map(move |path| (source, path))
        })
        .map(|(source, path)| {
            format!(
                "{}:{}: `{}` does not belong here",
                source.path,
                path.line,
                path.segments.join("::")
            )
        })
        .collect()
}

fn lines_with(source: &Source, offends: impl Fn(&str) -> bool) -> Vec<String> {
    let numbered = source.code.lines().enumerate().filter(|(_, line)| offends(line));
    numbered
        .map(|(number, line)| {
            format!("{}:{}: `{}` does not belong here", source.path, number + 1, line.trim())
        })
        .collect()
}

/// All Rust files below `directory` of this crate.
fn sources_in(directory: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut files, mut open) = (Vec::new(), vec![root.join(directory)]);
    while let Some(directory) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for entry in entries {
            let path = entry.expect("a directory that could be opened can be listed").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("sources are UTF-8");
                let path = path
                    .strip_prefix(root)
                    .expect("found below the root")
                    .to_string_lossy()
                    .replace('\\', "/");
                files.push((path, text));
            }
        }
    }
    files.sort();
    scan::read(files)
}

#[track_caller]
fn assert_clean(offences: Vec<String>) {
    assert!(offences.is_empty(), "\n  {}\n", offences.join("\n  "));
}

#[test]
fn raft_and_protobuf_stop_at_the_adapter_and_the_message() {
    assert_clean(raft_stays_behind_its_border(&sources_in("src")));
}

#[test]
fn unsafe_code_is_found_in_one_file() {
    assert_clean(unsafe_lives_in_the_map(&sources_in("src")));
}

#[test]
fn threads_begin_in_one_file() {
    assert_clean(threads_are_spawned_in_one_file(&sources_in("src")));
}

#[test]
fn what_threads_meet_at_comes_from_one_file() {
    assert_clean(threads_meet_at_primitives(&sources_in("src")));
}

#[test]
fn replica_engine_sequencer_and_storage_read_no_clock() {
    assert_clean(clocks_are_read_above_the_engine(&sources_in("src")));
}

#[test]
fn no_room_looks_up_or_sideways() {
    assert_clean(arrows_go_down_only(&sources_in("src")));
}

#[test]
fn files_import_in_one_direction() {
    assert_clean(imports_have_no_circle(&sources_in("src")));
}

#[test]
fn nothing_is_printed() {
    assert_clean(a_library_does_not_print(&sources_in("src")));
}

#[test]
fn files_are_named_introduced_and_short() {
    let sources = sources_in("src");
    assert!(sources.len() > 5, "the sources were not found");
    assert_clean(every_file_has_a_name_that_says_something(&sources));
    assert_clean(every_file_fits_a_sitting(&sources));
    for directory in ["src", "tests", "examples", "benches"] {
        assert_clean(every_file_says_what_it_is(&sources_in(directory)));
        assert_clean(no_line_is_wide(&sources_in(directory)));
    }
}

#[test]
fn the_readme_shows_the_examples_that_there_are() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).expect("the crate has a README");
    let entries = std::fs::read_dir(root.join("examples")).expect("the crate has examples");
    let stem =
        |path: std::path::PathBuf| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let examples = entries
        .filter_map(|entry| {
            stem(entry.expect("a directory that could be opened can be listed").path())
        })
        .collect();
    assert_clean(readme_and_examples_agree(&readme, &examples));
}

#[test]
fn the_readme_links_to_no_file_of_the_repository() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).expect("the crate has a README");
    assert_clean(links_to_files(&readme));
}

mod each_rule_can_fail {
    use super::*;

    /// Files that any rule is content with, so that `resolve` knows the modules.
    const HOUSE: [&str; 17] = [
        "src/lib.rs",
        "src/primitives.rs",
        "src/dledger.rs",
        "src/builder.rs",
        "src/threads.rs",
        "src/engine.rs",
        "src/replica.rs",
        "src/replica/adapter.rs",
        "src/storage.rs",
        "src/storage/memory.rs",
        "src/storage/segmented.rs",
        "src/transport.rs",
        "src/transport/tcp.rs",
        "src/message.rs",
        "src/error.rs",
        "src/batch.rs",
        "src/entry.rs",
    ];

    fn house_with(path: &str, text: &str) -> Vec<Source> {
        let rooms = HOUSE
            .iter()
            .filter(|room| **room != path)
            .map(|room| ((*room).to_owned(), "//! A room.\n".to_owned()));
        scan::read(rooms.chain([(path.to_owned(), text.to_owned())]))
    }

    #[track_caller]
    fn refuses(rule: Rule, path: &str, text: &str) {
        assert_eq!(
            rule(&house_with(path, text)).len(),
            1,
            "{path}: {text}: {:?}",
            rule(&house_with(path, text))
        );
    }

    #[track_caller]
    fn accepts(rule: Rule, path: &str, text: &str) {
        assert_clean(rule(&house_with(path, text)));
    }

    #[test]
    fn raft_beyond_its_border_is_found() {
        let rule = raft_stays_behind_its_border;
        refuses(rule, "src/engine.rs", "use raft::RawNode;");
        refuses(rule, "src/engine.rs", "use raft as machine;");
        refuses(rule, "src/engine.rs", "fn f(m: raft\n::eraftpb::Message) {}");
        refuses(rule, "src/transport/tcp.rs", "use {std::fmt, protobuf::Message as _};");
        refuses(rule, "src/message.rs", "fn f(log: &slog::Logger) {}");
        accepts(rule, "src/message.rs", "use raft::eraftpb::Message;");
        accepts(rule, "src/replica/adapter.rs", "use protobuf::Message; use slog::Drain;");
        accepts(
            rule,
            "src/engine.rs",
            "// raft::RawNode\nlet raft_index = batch.raft.index(); let text = \"raft::eraftpb\";",
        );
    }

    #[test]
    fn unsafe_outside_the_map_is_found() {
        refuses(unsafe_lives_in_the_map, "src/batch.rs", "fn f() { unsafe { g() } }");
        refuses(unsafe_lives_in_the_map, "src/batch.rs", "unsafe impl Send for X {}");
        accepts(unsafe_lives_in_the_map, "src/storage/segmented/mmap.rs", "unsafe fn f() {}");
        accepts(
            unsafe_lives_in_the_map,
            "src/lib.rs",
            "#![deny(unsafe_code)] /* unsafe /* unsafe */ unsafe */",
        );
    }

    #[test]
    fn a_thread_from_elsewhere_is_found() {
        let rule = threads_are_spawned_in_one_file;
        refuses(rule, "src/engine.rs", "std::thread::spawn(|| ());");
        refuses(rule, "src/engine.rs", "use std::{io, thread::{self, Builder}};");
        refuses(rule, "src/transport/tcp.rs", "thread::scope(|s| ());");
        accepts(rule, "src/threads.rs", "thread::Builder::new()");
        accepts(
            rule,
            "src/engine.rs",
            "#[cfg(test)]\nmod tests {\n fn f() { std::thread::spawn(|| { 1 }); }\n}\n",
        );
        refuses(
            rule,
            "src/engine.rs",
            "#[cfg(test)]\nmod tests { fn f() {} }\nfn g() { std::thread::spawn(h); }",
        );
        accepts(rule, "src/transport/tcp.rs", "spawner.spawn(name, work)");
    }

    #[test]
    fn a_primitive_from_elsewhere_is_found() {
        let rule = threads_meet_at_primitives;
        refuses(rule, "src/engine.rs", "use parking_lot::Mutex;");
        refuses(rule, "src/engine.rs", "fn f(end: &crossbeam_channel::Sender<u64>) {}");
        refuses(rule, "src/engine.rs", "use std::sync::{Arc, atomic::AtomicU64};");
        refuses(rule, "src/engine.rs", "use std::sync::{Arc, OnceLock};");
        refuses(rule, "src/engine.rs", "std::thread::yield_now();");
        accepts(
            rule,
            "src/engine.rs",
            "use crate::primitives::atomic::Ordering; use crate::primitives::{Mutex, thread}; \
             use std::sync::Arc;",
        );
        accepts(rule, "src/sim/witness.rs", "use parking_lot::Mutex;");
    }

    #[test]
    fn a_clock_in_the_pure_rooms_is_found() {
        let rule = clocks_are_read_above_the_engine;
        refuses(rule, "src/engine.rs", "let now = std::time::Instant::now();");
        refuses(rule, "src/replica.rs", "let clock: fn() -> SystemTime = SystemTime::now;");
        refuses(rule, "src/storage/memory.rs", "if begun\n.elapsed() > limit {}");
        refuses(rule, "src/storage/segmented.rs", "std::thread::sleep(pause);");
        accepts(rule, "src/threads.rs", "Instant::now()");
        accepts(
            rule,
            "src/engine.rs",
            "fn turn(now: Instant, elapsed: Duration) { now.elapsed + elapsed }",
        );
    }

    #[test]
    fn an_arrow_that_goes_up_is_found() {
        let rule = arrows_go_down_only;
        refuses(rule, "src/entry.rs", "use crate::storage::Batch;");
        refuses(
            rule,
            "src/storage.rs",
            "use std::{fmt, io}; use crate::{entry::NodeId, engine::Engine};",
        );
        refuses(rule, "src/storage.rs", "use segmented::SegmentedLog;");
        refuses(rule, "src/replica.rs", "let log = crate::storage::memory::MemoryLog::new();");
        refuses(rule, "src/storage/memory.rs", "use super::segmented::Disk;");
        refuses(rule, "src/transport/tcp.rs", "use super::super::replica::Replica;");
        refuses(rule, "src/builder.rs", "use crate::{dledger as d};");
        refuses(rule, "src/storage/segmented.rs", "use crate::engine::*;");
        refuses(rule, "src/storage.rs", "pub use crate::transport::tcp::Tcp;");
        refuses(rule, "src/engine.rs", "fn f() -> crate::Role {}");
        refuses(rule, "src/attic.rs", "");
    }

    #[test]
    fn an_arrow_that_goes_down_is_not() {
        let rule = arrows_go_down_only;
        accepts(rule, "src/lib.rs", "pub use dledger::DLedger; pub use crate::entry::Entry;");
        accepts(rule, "src/dledger.rs", "use crate::builder::Builder;\nuse crate::threads;");
        accepts(
            rule,
            "src/replica.rs",
            "mod adapter; use adapter::Adapter; use crate::storage::{LogReader, Mark as Place};",
        );
        accepts(rule, "src/replica/adapter.rs", "use super::Replica; use crate::replica::Effect;");
        accepts(
            rule,
            "src/storage/memory.rs",
            "use super::*; use crate::batch::Batch; pub(crate) fn f(&self) {}",
        );
        accepts(
            rule,
            "src/storage/memory.rs",
            "#[cfg(test)]\nmod tests { use crate::storage::segmented::SegmentedLog; }",
        );
        accepts(
            rule,
            "src/transport.rs",
            "pub mod tcp; pub use tcp::Tcp; pub use crate::storage::Identity; \
             pub(in crate::transport) fn f() {}",
        );
    }

    #[test]
    fn a_module_of_tests_in_a_file_of_its_own_counts_as_tests() {
        let house = |declaration: &str| {
            let files = [
                ("src/engine.rs", declaration),
                ("src/engine/scripts.rs", "use std::thread::spawn;"),
            ];
            threads_are_spawned_in_one_file(&scan::read(
                files.map(|(path, text)| (path.to_owned(), text.to_owned())),
            ))
        };
        assert_clean(house("#[cfg(test)]\nmod scripts;"));
        assert_eq!(house("mod scripts;").len(), 1);
    }

    #[test]
    fn printing_is_found() {
        refuses(a_library_does_not_print, "src/engine.rs", "fn f() { std::println!(\"{}\", 1) }");
        refuses(a_library_does_not_print, "src/engine.rs", "let x = dbg!(y);");
        accepts(
            a_library_does_not_print,
            "src/engine.rs",
            "/// println!(\"x\")\nlog::info!(\"dbg!\"); if print != 1 {}",
        );
    }

    #[test]
    fn names_lengths_and_beginnings_are_judged() {
        refuses(every_file_has_a_name_that_says_something, "src/storage/sync_manager.rs", "");
        refuses(every_file_has_a_name_that_says_something, "src/util.rs", "");
        accepts(every_file_has_a_name_that_says_something, "src/replica/commonplace.rs", "");
        refuses(every_file_fits_a_sitting, "src/engine.rs", &"\n".repeat(LINES_MAX + 1));
        accepts(every_file_fits_a_sitting, "src/engine.rs", &"\n".repeat(LINES_MAX));
        refuses(every_file_says_what_it_is, "src/engine.rs", "// A room.\n");
    }

    #[test]
    fn a_wide_line_is_found() {
        refuses(no_line_is_wide, "src/engine.rs", &format!("//! {}", "é".repeat(WIDTH - 3)));
        accepts(no_line_is_wide, "src/engine.rs", &format!("//! {}", "é".repeat(WIDTH - 4)));
    }

    #[test]
    fn a_circle_of_imports_is_found() {
        let circles = |files: &[(&str, &str)]| {
            let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
            imports_have_no_circle(&scan::read(files))
        };
        let both = [("src/a.rs", "use crate::b::B;"), ("src/b.rs", "fn f() -> crate::a::A {}")];
        assert_eq!(circles(&both), ["a circle: src/a.rs, src/b.rs"]);
        assert_clean(circles(&both[..1]));
        let three = [
            ("src/a.rs", "use crate::b::B;"),
            ("src/b.rs", "mod c; pub use c::C; fn f(c: c::C) {}"),
            ("src/b/c.rs", "use crate::{d::D, a::A};"),
            ("src/d.rs", "#[cfg(test)] mod tests { use crate::b::c; }"),
        ];
        assert_eq!(circles(&three), ["a circle: src/a.rs, src/b.rs, src/b/c.rs"]);
        let child = [("src/b.rs", "mod c; pub use c::C;"), ("src/b/c.rs", "use super::B;")];
        assert_clean(circles(&child));
        let through = [
            ("src/b.rs", "mod c; mod d; pub use c::C;"),
            ("src/b/c.rs", "use super::d::D;"),
            ("src/b/d.rs", "use super::C;"),
        ];
        assert_eq!(circles(&through), ["a circle: src/b/c.rs, src/b/d.rs"]);
    }

    #[test]
    fn an_example_that_is_not_there_or_not_shown_is_found() {
        let examples = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let readme = "cargo run --example single\n[source](examples/kv_store/main.rs)";
        assert_clean(readme_and_examples_agree(readme, &examples(&["single", "kv_store"])));
        assert_eq!(readme_and_examples_agree(readme, &examples(&["single"])).len(), 1);
        assert_eq!(
            readme_and_examples_agree(readme, &examples(&["single", "kv_store", "custom_storage"]))
                .len(),
            1
        );
    }

    #[test]
    fn a_link_to_a_file_is_found() {
        assert_clean(links_to_files("[a](https://example.com) and [b](#b)"));
        assert_eq!(links_to_files("[a](CHANGELOG.md) [b](../x)").len(), 2);
    }

    #[test]
    fn strings_characters_and_lifetimes_do_not_hide_code() {
        for before in [
            "let c = '\"';",
            "let c = '\\'';",
            "fn f<'a>(x: &'a str) {}",
            "let s = r#\"a\" // \"#;",
            "let s = \"\\\\\";",
            "let b = b'\"';",
        ] {
            refuses(unsafe_lives_in_the_map, "src/batch.rs", &format!("{before} unsafe {{}}"));
        }
        for within in [
            "\"unsafe\"",
            "r\"unsafe\"",
            "br##\"\"# unsafe\"##",
            "\"\\\" unsafe\"",
            "// unsafe",
            "/// unsafe\nfn f() {}",
        ] {
            accepts(unsafe_lives_in_the_map, "src/batch.rs", within);
        }
    }
}
