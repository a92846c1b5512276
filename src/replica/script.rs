//! Golden scripts: each file of `tests/scripts/replica` proves one fact, and is named after it.
//!
//! A script begins with a comment that states the fact. A line that begins with `>` is a command to
//! a [`Group`]; the lines below it are all its effects, in order: every message, write and sync,
//! and every report to a host. What the transcript does not show did not happen.
//!
//! ```text
//! > nodes 1 2 3 [learners 4]   a new group. At the end, `unsynced`: batches count once they are
//!                              written; `paced`: catch-up of followers is limited; `named`: node
//!                              3 proposes the id 301 for the group, and 302 after a restart
//! > tick 1 [5]                 the clock of node 1 ticks
//! > timeout 1                  it ticks until there is an effect
//! > live 5                     all clocks tick, and all messages arrive, five times
//! > deliver                    all messages arrive until there are none
//! > deliver 1 2                those in flight from 1 to 2 arrive
//! > repeat 1 2                 copies of those in flight from 1 to 2 arrive
//! > together 1 2               those in flight from 1 to 2 arrive in one turn
//! > reverse 1 2                they change their order
//! > drop [1 2]                 messages in flight are lost
//! > cut 1 2 | heal             all later ones between the two are lost | no more
//! > append 1 hello world       node 1 proposes a batch of two entries
//! > barrier 2 | forget 2 1     node 2 begins a barrier | its first barrier is dropped
//! > transfer 1 2 | purge 1 5 | unreachable 1 2
//! > hold 1                     syncs of node 1 wait from now on
//! > synced 1 | release 1       the waiting ones succeed | no sync waits any more
//! > crash 1 | kill 1           the power fails | the process dies
//! > restart 1                  the node comes back
//! > tear 1                     the power fails at the next write of node 1: the disk has the
//!                              batches, but not the hard state
//! > patient 1                  node 1 leaves commits to its next batch, from now on
//! > fill 1                     the disk of node 1 is full for its next batch or snapshot
//! > choke 1                    it is full for the next write, also of term and vote
//! > wipe 1                     a node that is down gets an empty disk
//! > unreadable 1               from now on node 1 cannot read its log
//! > forge append from=1 to=2 ..  a forged message arrives: see `message::testing::forge`
//! > status | log 1
//! > quietly ..                 runs the command without showing its effects
//! ```
//!
//! `DLEDGER_BLESS=1 cargo test --lib scripts` writes the effects into the scripts.

use std::fmt::Write as _;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

mod group;
mod invariants;
mod random_runs;
mod text;

use group::Group;

#[test]
fn scripts_go_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/replica");
    let mut files: Vec<PathBuf> =
        fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|kind| kind == "txt"));
    files.sort();
    assert!(files.len() >= 24, "the scripts are not where they should be: {}", folder.display());
    let only = std::env::var("DLEDGER_SCRIPT").ok();
    files.retain(|file| only.as_ref().is_none_or(|only| file.to_string_lossy().contains(only)));
    let wrong: Vec<String> = files.iter().filter_map(|file| check(file)).collect();
    assert!(
        wrong.is_empty(),
        "{} of {} scripts went otherwise:\n\n{}",
        wrong.len(),
        files.len(),
        wrong.join("\n")
    );
}

/// Plays one script. Gives the difference, if there is one that is not to be written down.
fn check(file: &Path) -> Option<String> {
    let expected = fs::read_to_string(file).unwrap();
    assert!(expected.starts_with("# "), "{}: begins with the fact that it proves", file.display());
    let played = catch_unwind(|| play(&expected))
        .unwrap_or_else(|_| panic!("{} breaks the group", file.display()));
    if played == expected {
        return None;
    }
    if std::env::var_os("DLEDGER_BLESS").is_some() {
        fs::write(file, played).unwrap();
        return None;
    }
    Some(format!("--- {}\n+++ as it went\n{}", file.display(), difference(&expected, &played)))
}

/// The script with what happens in the place of what was expected. The same script always gives the
/// same.
fn play(script: &str) -> String {
    let mut group = Group::default();
    let mut played = String::new();
    let kept = |line: &&str| line.is_empty() || line.starts_with('#') || line.starts_with('>');
    for line in script.lines().filter(kept) {
        played.push_str(line);
        played.push('\n');
        if let Some(command) = line.strip_prefix("> ") {
            let words: Vec<&str> = command.split_whitespace().collect();
            direct(&mut group, &words);
            for shown in group.shown() {
                writeln!(played, "{shown}").unwrap();
            }
        }
    }
    played
}

fn direct(group: &mut Group, words: &[&str]) {
    let number = |at: usize| {
        words[at].parse::<u64>().unwrap_or_else(|_| panic!("a number is missing: {words:?}"))
    };
    match words {
        ["quietly", rest @ ..] => {
            direct(group, rest);
            group.shown();
        }
        ["nodes", names @ ..] => group.begin(names),
        ["tick", _] => group.tick(number(1), 1),
        ["tick", _, _] => group.tick(number(1), number(2)),
        ["timeout", _] => group.time_out(number(1)),
        ["live", _] => group.live(number(1)),
        ["deliver"] => group.deliver_all(),
        ["deliver", _, _] => group.deliver(number(1), number(2), false),
        ["repeat", _, _] => group.deliver(number(1), number(2), true),
        ["together", _, _] => group.deliver_together(number(1), number(2)),
        ["reverse", _, _] => group.reverse(number(1), number(2)),
        ["drop"] => group.drop(None),
        ["drop", _, _] => group.drop(Some((number(1), number(2)))),
        ["cut", _, _] => group.cut(number(1), number(2)),
        ["heal"] => group.heal(),
        ["append", _, payloads @ ..] => group.append(number(1), payloads),
        ["barrier", _] => group.barrier(number(1)),
        ["forget", _, _] => group.forget(number(1), number(2)),
        ["transfer", _, _] => group.transfer(number(1), number(2)),
        ["purge", _, _] => group.purge(number(1), number(2)),
        ["unreachable", _, _] => group.unreachable(number(1), number(2)),
        ["hold", _] => group.hold(number(1)),
        ["synced", _] => group.synced(number(1)),
        ["release", _] => group.release(number(1)),
        ["crash", _] => group.crash(number(1)),
        ["kill", _] => group.kill(number(1)),
        ["restart", _] => group.restart(number(1)),
        ["tear", _] => group.tear(number(1)),
        ["patient", _] => group.make_patient(number(1)),
        ["fill", _] => group.fill(number(1)),
        ["choke", _] => group.choke(number(1)),
        ["wipe", _] => group.wipe(number(1)),
        ["unreadable", _] => group.break_reads(number(1)),
        ["forge", rest @ ..] => group.forge(rest),
        ["status"] => group.status(),
        ["log", _] => group.log(number(1)),
        _ => panic!("no such command: {words:?}"),
    }
}

/// A unified diff of two texts, by their longest common subsequence of lines.
fn difference(before: &str, after: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    // common[i][j]: how many lines a[i..] and b[j..] have in common
    let mut common = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] = if a[i] == b[j] {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut lines: Vec<(char, &str)> = Vec::new();
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            lines.push((' ', a[i]));
            (i, j) = (i + 1, j + 1);
        } else if i < a.len() && (j == b.len() || common[i + 1][j] >= common[i][j + 1]) {
            lines.push(('-', a[i]));
            i += 1;
        } else {
            lines.push(('+', b[j]));
            j += 1;
        }
    }
    let near = |at: usize| {
        lines[at.saturating_sub(3)..(at + 4).min(lines.len())].iter().any(|(sign, _)| *sign != ' ')
    };
    (0..lines.len())
        .filter(|at| near(*at))
        .fold(String::new(), |text, at| format!("{text}{}{}\n", lines[at].0, lines[at].1))
}

#[test]
fn a_script_that_goes_otherwise_is_shown_as_a_difference() {
    let script = "# A fact.\n\n> nodes 1\n> tick 1\n  1 dances\n";
    let played = play(script);
    assert_eq!(played, play(script));
    let shown = difference(script, &played);
    assert!(shown.contains("-  1 dances\n") && shown.contains("+  1 sync 1\n"), "{shown}");
    assert_eq!(difference(&played, &played), "");
}
