//! A replicated key-value store in a few hundred lines: the log is the truth, the map is what it amounts to.
//!
//! ```text
//! cargo run --release --example kv_store                      a tour: three nodes, one of them dies and comes back
//! cargo run --release --example kv_store -- --interactive     the same three nodes, and a prompt
//! cargo run --release --example kv_store -- --node 1 --peers 1=127.0.0.1:7001,2=127.0.0.1:7002,3=127.0.0.1:7003 --dir /tmp/kv-1
//!                                                             one real node; start the other two in terminals of their own
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `map.rs` | commands, and the map that they amount to when they are replayed in order |
//! | `node.rs` | one node: a ledger and its map; how to write, and how to read without being stale |
//! | `cluster.rs` | three nodes in this process; what a client does when the leader goes away |
//! | `tour.rs` | the tour |
//! | `prompt.rs` | the prompt |

mod cluster;
mod map;
mod node;
mod prompt;
mod tour;

use std::process::ExitCode;

use cluster::Cluster;
use node::{Node, Peers};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const USAGE: &str = "usage: kv_store [--interactive | --node ID --peers ID=HOST:PORT,... --dir DIRECTORY]";

enum Mode {
    Tour,
    Interactive,
    Node { id: u64, peers: Peers, dir: String },
}

fn main() -> ExitCode {
    let mode = match mode(std::env::args().skip(1)) {
        Ok(mode) => mode,
        Err(mistake) => {
            eprintln!("{mistake}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(mode) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kv_store: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mode: Mode) -> Result<()> {
    match mode {
        Mode::Tour => tour::run(),
        Mode::Interactive => {
            let dir = tempfile::tempdir()?;
            prompt::run(&mut Cluster::start(3, dir.path())?)
        }
        Mode::Node { id, peers, dir } => prompt::run(&mut Node::join(id, &peers, dir.as_ref())?),
    }
}

fn mode(mut args: impl Iterator<Item = String>) -> Result<Mode> {
    let (mut interactive, mut id, mut peers, mut dir) = (false, None, None, None);
    while let Some(flag) = args.next() {
        let mut value = || args.next().ok_or(format!("{flag} needs a value"));
        match flag.as_str() {
            "--interactive" => interactive = true,
            "--node" => id = Some(value()?.parse::<u64>().map_err(|_| "--node needs a number")?),
            "--peers" => peers = Some(node::parse_peers(&value()?)?),
            "--dir" => dir = Some(value()?),
            _ => return Err(format!("what is {flag}?").into()),
        }
    }
    match (interactive, id, peers, dir) {
        (false, None, None, None) => Ok(Mode::Tour),
        (true, None, None, None) => Ok(Mode::Interactive),
        (false, Some(id), Some(peers), Some(dir)) => Ok(Mode::Node { id, peers, dir }),
        _ => Err("--node, --peers and --dir belong together".into()),
    }
}
