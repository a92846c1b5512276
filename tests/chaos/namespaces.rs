//! An isolated environment: a process and all that it starts, with mounts, processes and networks
//! that end with it.

use std::env;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Set within such an environment.
const WITHIN: &str = "DLEDGER_CHAOS_WITHIN";

/// Runs the test `name` of this program in an isolated environment, unless this is one. Returns
/// whether it is.
///
/// Mounts, processes and networks of that environment are gone when its first process has ended,
/// however it ends: the kernel sees to that.
pub(crate) fn enter(name: &str) -> bool {
    if env::var_os(WITHIN).is_some() {
        return true;
    }
    let test = env::current_exe().expect("a running program has a path");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]).arg(test);
    command
        .args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"])
        .env(WITHIN, "1");
    let status = command
        .status()
        .unwrap_or_else(|error| panic!("{command:?} could not be started: {error}"));
    assert!(
        status.success(),
        "the test failed within its environment (or could not make one: is this root?)"
    );
    false
}

/// A namespace for each node, on a bridge where this process is too.
pub(crate) fn build(prefix: &str, nodes: u64) {
    // The names of namespaces and the images of disks go where no other process sees them.
    run("mount -t tmpfs tmpfs /run");
    run("mount -t tmpfs tmpfs /dev/shm");
    run("ip link set lo up");
    run("ip link add hub type bridge");
    for node in 1..=nodes {
        run(&format!("ip addr add {prefix}.{}/24 dev hub", 100 + node));
        run(&format!("ip netns add node{node}"));
        run(&format!("ip link add veth{node} type veth peer name eth0 netns node{node}"));
        run(&format!("ip link set veth{node} master hub up"));
        run(&format!("ip -n node{node} link set lo up"));
        run(&format!("ip -n node{node} addr add {prefix}.{node}/24 dev eth0"));
        run(&format!("ip -n node{node} link set eth0 up"));
    }
    run("ip link set hub up");
}

/// What a process is started with to be in the namespace of `node`.
pub(crate) fn entry(node: u64) -> Vec<String> {
    vec!["nsenter".to_owned(), format!("--net=/run/netns/node{node}")]
}

/// What comes to `node` is dropped, from each source with its share, in percent.
pub(crate) fn set_losses(prefix: &str, node: u64, losses: &[(u64, u64)]) {
    let mut rules = "flush ruleset\ntable ip chaos {\nchain in {\n\
        type filter hook input priority 0; policy accept;\n"
        .to_owned();
    for (from, percent) in losses {
        let sources = format!("{prefix}.{from}, {prefix}.{}", 100 + from);
        let chance = if *percent < 100 {
            format!("numgen random mod 100 < {percent} ")
        } else {
            String::new()
        };
        let _ = writeln!(rules, "ip saddr {{ {sources} }} {chance}drop");
    }
    rules.push_str("}\n}\n");
    let words = entry(node);
    let mut nft = Command::new(&words[0])
        .args(&words[1..])
        .args(["nft", "-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("nsenter and nft");
    nft.stdin
        .take()
        .expect("it was piped")
        .write_all(rules.as_bytes())
        .expect("it reads its rules");
    assert!(
        nft.wait().expect("it is a child of ours").success(),
        "nft refused its rules:\n{rules}"
    );
}

fn run(line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{line:?} could not be started: {error}"));
    assert!(
        output.status.success(),
        "{line:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
