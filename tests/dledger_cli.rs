//! `examples/dledger_cli` as a process: what it prints, and its exit code.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use dledger::DLedger;

/// `cargo test` builds the examples beside the tests.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a running program has a path");
    let profile =
        test.parent().and_then(Path::parent).expect("tests are built in target/<profile>/deps");
    let program =
        profile.join("examples").join(format!("dledger_cli{}", std::env::consts::EXE_SUFFIX));
    assert!(
        program.exists(),
        "{} is missing: `cargo test` builds it, so does `cargo build --example dledger_cli`",
        program.display()
    );
    program
}

fn run(verb: &str, dir: &Path, options: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } =
        Command::new(program()).arg(verb).arg(dir).args(options).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap())
}

fn ledger(dir: &Path) {
    let ledger = DLedger::builder(1).dir(dir).segment_bytes(64 << 10).open().unwrap();
    for payload in [&b"hello"[..], b"", b"\"quoted\"\n", &[0xff, 0x00]] {
        ledger.append(payload).unwrap();
    }
    ledger.shutdown().unwrap();
}

#[test]
fn a_sound_log_is_shown() {
    let home = tempfile::tempdir().unwrap();
    ledger(home.path());
    for (verb, shows) in [
        ("inspect", "entries      0..4, 16 bytes"),
        ("verify", "4 entries, 16 bytes of payload\nno damage found"),
        ("dump", "\"hello\""),
    ] {
        let (code, text) = run(verb, home.path(), &[]);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains(shows), "{verb}: {text}");
    }
    let (code, text) = run("dump", home.path(), &["--json", "--from", "2", "--to", "4"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((code, lines.len()), (Some(0), 2), "{text}");
    assert!(lines[0].starts_with("{\"index\":2,\"position\":5,"), "{text}");
    assert!(lines[0].ends_with(",\"text\":\"\\\"quoted\\\"\\n\"}"), "{text}");
    assert!(lines[1].ends_with(",\"hex\":\"ff00\"}"), "{text}");
    let (_, text) = run("verify", home.path(), &["--json"]);
    assert!(
        text.starts_with("{\"directory\":\"")
            && text.ends_with("\"entries\":4,\"payload_bytes\":16,\"damage\":[]}\n"),
        "{text}"
    );
}

#[test]
fn a_backup_is_made_and_restored() {
    let home = tempfile::tempdir().unwrap();
    let [log, backup, restored] = ["log", "backup", "restored"].map(|name| home.path().join(name));
    ledger(&log);
    let (code, text) = run("backup", &log, &[backup.to_str().unwrap()]);
    assert!(code == Some(0) && text.contains("entries      0..4, committed up to 4\n"), "{text}");
    let (code, text) =
        run("restore", &backup, &[restored.to_str().unwrap(), "--node", "1", "--json"]);
    assert!(
        code == Some(0) && text.starts_with("{\"first_index\":0,\"committed\":4,\"position\":16,"),
        "{text}"
    );
    for dir in [&backup, &restored] {
        assert!(
            run("inspect", dir, &["--json"]).1.contains("\"complete\":true"),
            "no other node could know more"
        );
        assert_eq!(run("verify", dir, &[]).0, Some(0));
    }
    let (code, text) = run("backup", &log, &[backup.to_str().unwrap()]);
    assert!(code == Some(3) && text.contains("it holds a log"), "{text}");
    assert_eq!(run("backup", &log, &[]).0, Some(2));
    assert_eq!(run("restore", &backup, &["x"]).0, Some(2));
    assert_eq!(run("restore", &backup, &["x", "y", "--node", "1"]).0, Some(2));
    assert_eq!(run("verify", &log, &["x"]).0, Some(2));
}

#[test]
fn damage_is_code_1_with_file_and_offset() {
    let home = tempfile::tempdir().unwrap();
    ledger(home.path());
    let files = std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().path());
    let segment = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .max()
        .unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(5).position(|window| window == b"hello").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    // The record of that entry begins 128 bytes in front of its payload.
    let (code, text) = run("verify", home.path(), &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains(&format!("{} is damaged at offset {}", segment.display(), at - 128)),
        "{text}"
    );
    let (code, text) = run("verify", home.path(), &["--json"]);
    assert!(
        code == Some(1) && text.contains(&format!("\"offset\":{},\"first_raft_index\":", at - 128)),
        "{text}"
    );
    let (code, text) = run("dump", home.path(), &[]);
    assert!(code == Some(1) && text.contains("\"\\\"quoted\\\"\\n\""), "{text}");
}

#[test]
fn help_is_code_0_on_standard_output() {
    for arguments in [&["--help"][..], &["dump", "--help"], &["help", "restore"], &["--version"]] {
        let Output { status, stdout, stderr } =
            Command::new(program()).args(arguments).output().unwrap();
        assert_eq!((status.code(), stderr.len()), (Some(0), 0), "{arguments:?}");
        assert!(String::from_utf8(stdout).unwrap().contains("dledger_cli"), "{arguments:?}");
    }
    let help = Command::new(program()).arg("--help").output().unwrap().stdout;
    let help = String::from_utf8(help).unwrap();
    assert!(
        (0..=3).all(|code| help.contains(&format!("\n  {code}  "))),
        "each code is explained: {help}"
    );
    let Output { status, stdout, .. } = Command::new(program()).output().unwrap();
    assert_eq!((status.code(), stdout.len()), (Some(2), 0), "no command is wrong usage");
}

#[test]
fn wrong_usage_is_code_2_and_what_cannot_be_looked_at_code_3() {
    let home = tempfile::tempdir().unwrap();
    assert_eq!(run("mend", home.path(), &[]).0, Some(2));
    assert_eq!(run("verify", home.path(), &["--from", "3"]).0, Some(2));
    assert_eq!(run("dump", home.path(), &["--from", "x"]).0, Some(2));
    let (code, text) = run("verify", home.path(), &[]);
    assert!(code == Some(3) && text.contains("it holds no log"), "{text}");
    let (missing, to) = (home.path().join("missing"), home.path().join("to"));
    let (code, text) = run("backup", &missing, &[to.to_str().unwrap()]);
    assert!(
        code == Some(3) && text.contains(&format!("{}: it does not exist", missing.display())),
        "{text}"
    );
    let _open = DLedger::builder(1).dir(home.path()).open().unwrap();
    let (code, text) = run("verify", home.path(), &[]);
    assert!(code == Some(3) && text.contains("in use"), "{text}");
}
