//! A replicated key-value store in a few hundred lines: the log is the truth, the map is what it
//! amounts to.
//!
//! ```text
//! # a tour: three nodes, one of them dies and comes back
//! cargo run --release --example kv_store
//! # the same three nodes, and a prompt
//! cargo run --release --example kv_store -- --interactive
//! # one real node; start the other two in terminals of their own
//! cargo run --release --example kv_store -- --node 1 --dir /tmp/kv-1 \
//!     --peers 1=127.0.0.1:7001,2=127.0.0.1:7002,3=127.0.0.1:7003
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `map.rs` | commands, and the map that they amount to when they are replayed in order |
//! | `node.rs` | one node: a ledger and its map; how to write, and how to read what is not stale |
//! | `cluster.rs` | three nodes in this process; what a client does when the leader goes away |
//! | `tour.rs` | the tour |
//! | `prompt.rs` | the prompt |

mod cluster;
mod map;
mod node;
mod prompt;
mod tour;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use cluster::Cluster;
use node::{Node, Peer};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A replicated key-value store. Without arguments: a tour, in which the leader of three nodes
/// stops and comes back.
#[derive(Parser)]
struct Cli {
    /// Three nodes in this process, and a prompt
    #[arg(long, conflicts_with_all = ["node", "peers", "dir"])]
    interactive: bool,
    /// One real node of a group of processes, and a prompt: its id
    #[arg(long, value_name = "ID", requires_all = ["peers", "dir"])]
    node: Option<u64>,
    /// All nodes of the group, this one included
    #[arg(long, value_name = "ID=HOST:PORT", value_delimiter = ',', requires = "node")]
    peers: Vec<Peer>,
    /// The directory of this node
    #[arg(long, requires = "node")]
    dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kv_store: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(Cli { interactive, node, peers, dir }: Cli) -> Result<()> {
    if let (Some(id), Some(dir)) = (node, dir) {
        return prompt::run(&mut Node::join(id, &peers, &dir)?);
    }
    if interactive {
        let dir = tempfile::tempdir()?;
        return prompt::run(&mut Cluster::start(3, dir.path())?);
    }
    tour::run()
}
