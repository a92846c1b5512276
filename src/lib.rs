//! A replicated, append-only log with two verbs, `append` and `get`, to be embedded in brokers, queues and metadata stores.
//!
//! Appends go to the leader of a small group of nodes, and are acknowledged once a majority has them on disk. Every entry gets a dense index, from
//! 0, and every node of the group can read it back. There is no state machine: the log is the state. Raft (tikv's `raft` crate) keeps the replicas
//! in agreement; a segmented log of memory-mapped files keeps the bytes; transport and storage are traits that a host can replace.
//!
//! ```
//! use dledger::DLedger;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let home = tempfile::tempdir()?;
//! # let dir = home.path().join("ledger");
//! // One node, no network: the embedded default.
//! let ledger = DLedger::builder(1).dir(dir).open()?;
//!
//! let index = ledger.append(b"hello")?;                 // blocks until committed
//! let entry = ledger.get(index)?.expect("committed");   // zero copy, checksum verified
//! assert_eq!(&entry[..], b"hello");
//!
//! let range = ledger.append_batch(["a", "b", "c"])?;    // consecutive, all or nothing
//! let pipelined = ledger.append_async("d");             // a future that can also be waited for
//! assert_eq!(pipelined.wait()?.index, range.end);
//!
//! for entry in ledger.read(range.start) {
//!     println!("{}", String::from_utf8_lossy(&entry?));
//! }
//! ledger.shutdown()?;
//! # Ok(())
//! # }
//! ```
//!
//! A node of a larger group names all members, itself included: see [`Builder::peer`]. It then speaks TCP, or any [`transport::Transport`] it is given.
//!
//! # What is guaranteed, and on which assumptions
//!
//! 1. **An acknowledged append is never lost, never moves, never changes.** Under [`FlushPolicy::Sync`] as long as fewer than a majority of the group's disks
//!    lose what they confirmed to have stored. Under [`FlushPolicy::Async`] the end of any number of processes loses nothing, but a node that loses power
//!    forgets what it had confirmed within one flush interval: an entry can be lost if the nodes that lost power before they synced it, and those that
//!    had not received it yet, come to a majority.
//! 2. **One order.** Indexes are dense, positions add up, timestamps never decrease, and all of them are the same on every node, for good.
//! 3. **Real time.** An append that begins after another was acknowledged gets a higher index. [`DLedger::barrier`] is linearizable on every node;
//!    [`DLedger::get`] alone is not: a follower may lag behind.
//! 4. **An error tells.** [`AppendError::may_have_committed`] is false only if the append is not in the ledger and never will be.
//! 5. **Damage is reported, not served, and mended from peers.** Every `get` verifies the payload's checksum. What was synced and does not read back is an
//!    error with file and offset, never a shorter log. A node that finds its log damaged when it is opened can be read, and takes no part in its group
//!    (it does not vote, acknowledge or lead) until its peers have sent it exactly what it lost: see [`Status::repair`]. It takes a batch only if it is proved
//!    to be the one that it held, or to be committed; what nobody can prove it waits for. Opening looks at what is not sealed, and at heads and seals;
//!    damage in the cold part of a log is an error for whoever reads it, [`tools::verify`] finds it, and opening with [`Builder::verify_on_open`] has it mended.
//! 6. **What a node has forgotten is not held against its group.** A node whose disk was lost, put back to an older copy or restored from a backup, and
//!    that knows it ([`Builder::rejoin_empty`], [`tools::restore`], a leader or peer that knows more), takes no part until every other member has told it
//!    where it stands; then it neither leads nor votes for anyone whose log lacks what it may have acknowledged, until it holds that itself. A
//!    directory that was put back to an older copy without anyone noticing breaks guarantee 1: it counts as a disk that lost what it confirmed.
//!
//! Assumed: nodes stop or lie in ways that checksums catch, but are not malicious; a disk keeps what `fdatasync` confirmed, and writes whole sectors of 512
//! bytes or not at all; no two nodes are given the same id; nobody else writes to a log's directory. Clocks may be wrong in any way without harm to safety.
//!
//! # Threads
//!
//! A node has four threads, and TCP adds one for listening and two for each peer. None of them polls: an idle group wakes for heartbeats only. No async
//! runtime is needed: every call that waits for the node has one beside it that gives a future.
//!
//! # The map of the house
//!
//! From the roof down; nothing knows what stands above it.
//!
//! | file | what it is |
//! |---|---|
//! | `dledger.rs`, `builder.rs` | the host's handle, and every setting |
//! | `cursor.rs`, `watch.rs` | how a host reads, and follows the status of its node |
//! | `threads.rs` | the only file that spawns, and the only clock |
//! | `engine.rs`, `engine/` | the corridor: joins replica, storage, transport and hosts, one `turn` at a time; and what a node with a damaged log does instead |
//! | `shared.rs` | what host threads read without asking the engine |
//! | `sequencer.rs` | where appends queue on the leader and become batches |
//! | `replica/` | Raft as a pure value: messages and ticks in, effects out |
//! | [`storage`] | what remembers: the traits, a model in memory, the segmented log |
//! | [`transport`] | what speaks: the trait, a network in memory, TCP |
//! | `message.rs` | one message on its way: codec, and the checks before Raft sees it |
//! | `future.rs`, `role.rs`, `watermark.rs` | the promise of an append; what a node is to its group; how far it is committed |
//! | `status.rs` | the newest status of a node, and who waits for the next |
//! | `reply.rs`, `wakers.rs` | the engine's answer to one request; waking a host's tasks |
//! | `spin.rs` | a short wait on the processor before a long one in the operating system |
//! | `batch.rs`, `entry.rs`, `error.rs` | one batch byte for byte; the words that all share; every way to fail |
//! | `fork.rs` | telling a process from its forked children, which have no threads of a node |
//! | `primitives.rs` | the locks, atomics and channels that threads meet at, or a checker's doubles of them |

#[macro_use]
mod planted;

mod batch;
mod builder;
mod cursor;
mod dledger;
mod engine;
mod entry;
mod error;
mod fork;
mod future;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod message;
mod primitives;
mod replica;
mod reply;
mod role;
mod sequencer;
mod shared;
#[cfg(feature = "sim")]
pub mod sim;
mod spin;
mod status;
pub mod storage;
mod threads;
pub mod transport;
mod wakers;
mod watch;
mod watermark;

pub use builder::{Builder, FlushPolicy};
pub use cursor::{Cursor, Tail};
pub use dledger::{AppendWhenReady, CommittedPast, DLedger, ResponseFuture, ShutdownFuture};
pub use entry::{Entry, NodeId};
pub use error::{AppendError, BarrierError, OpenError, PurgeError, ReadError, ShutdownError, TransferError};
pub use future::{AppendFuture, Appended};
pub use role::{Member, Membership, Refusal, Role, Status};
pub use storage::{Backup, BackupError, Create, tools};
pub use watch::StatusWatch;

/// The programs in the README compile and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
