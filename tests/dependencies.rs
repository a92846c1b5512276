//! The crates that `dledger` depends on: none older than the release that repaired a known fault,
//! and no more of them than the README says.

#![cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, unused_imports, reason = "some tests need Linux")
)]

use std::fs;
use std::path::Path;
use std::process::Command;

/// Crate, oldest sound release, and what was wrong before it.
const FLOORS: [(&str, [u64; 3], &str); 4] = [
    ("memmap2", [0, 9, 11], "RUSTSEC-2026-0186: flushing a range was unsound"),
    ("crossbeam-channel", [0, 5, 15], "RUSTSEC-2025-0024: a double free on drop"),
    ("bytes", [1, 11, 1], "RUSTSEC-2026-0007: BytesMut::reserve could overflow"),
    ("rand", [0, 8, 6], "RUSTSEC-2026-0097: unsound with a logger that draws random numbers"),
];

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every (name, version) in the text of a lock file.
fn locked(lock: &str) -> Vec<(String, [u64; 3])> {
    let field = |package: &str, name: &str| {
        let line =
            package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""))?;
        Some(line.trim_end_matches('"').to_owned())
    };
    let packages = lock.split("[[package]]").skip(1);
    packages
        .filter_map(|package| Some((field(package, "name")?, version(&field(package, "version")?))))
        .collect()
}

fn version(text: &str) -> [u64; 3] {
    let mut numbers = text.split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0));
    std::array::from_fn(|_| numbers.next().unwrap_or(0))
}

fn too_old(lock: &str) -> Vec<String> {
    let locked = locked(lock);
    let below = |&(name, floor, fault): &(&str, [u64; 3], &str)| {
        let old = locked.iter().filter(move |(locked, version)| locked == name && *version < floor);
        old.map(move |(name, version)| format!("{name} {version:?}: {fault}")).collect::<Vec<_>>()
    };
    FLOORS.iter().flat_map(below).collect()
}

#[test]
fn no_locked_crate_is_older_than_its_sound_release() {
    let lock = read("Cargo.lock");
    for (name, ..) in FLOORS {
        assert!(
            locked(&lock).iter().any(|(locked, _)| locked == name),
            "{name} is no longer used: drop its floor"
        );
    }
    assert_eq!(too_old(&lock), Vec::<String>::new());
}

#[test]
fn an_unsound_release_is_found() {
    let lock = |version: &str| {
        format!(
            "version = 4\n\n[[package]]\nname = \"memmap2\"\nversion = \"{version}\"\n\
             source = \"registry\"\n"
        )
    };
    assert_eq!(too_old(&lock("0.9.10")).len(), 1);
    assert_eq!(too_old(&lock("0.9.11")).len(), 0);
    assert_eq!(too_old(&lock("1.0.0")).len(), 0);
}

/// How many crates a host builds for this one: normal dependencies and theirs, procedural macros
/// included, on the machine that runs this test.
fn crates_in_a_build() -> usize {
    let tree = [
        "tree",
        "--locked",
        "--offline",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ];
    let output = Command::new(env!("CARGO"))
        .args(tree)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut crates: Vec<&str> = listed.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    crates.sort_unstable();
    crates.dedup();
    crates.len() - 1 // dledger itself
}

#[test]
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn the_readme_counts_the_dependencies_right() {
    let claim = format!("{} crates", crates_in_a_build());
    assert!(read("README.md").contains(&claim), "README.md should say `{claim}`");
}
