//! A replicated, append-only log, to be embedded in brokers, queues and metadata stores: append
//! bytes, get a dense index, read them back on every node.
//!
//! Appends go to the leader of a small group of nodes, and are acknowledged once a majority has
//! them on disk. There is no state machine: the log is the state. Raft (tikv's `raft` crate) keeps
//! the replicas in agreement; a segmented log of memory-mapped files keeps the bytes; [`transport`]
//! and [`storage`] are traits that a host can replace.
//!
//! # Quick start
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
//! let index = ledger.append(b"hello")?; // blocks until committed
//! let entry = ledger.get(index)?.expect("committed"); // zero copy, checksum verified
//! assert_eq!(&entry[..], b"hello");
//!
//! let range = ledger.append_batch(["a", "b", "c"])?; // consecutive, all or nothing
//! let pipelined = ledger.append_async("d"); // a future that can also be waited for
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
//! # A group of three
//!
//! Each node names all members, itself included ([`Builder::peer`]), and has a directory of its
//! own. It then speaks TCP, or any [`transport::Transport`] it is given; here the three share a
//! process and a [`transport::MemoryNetwork`].
//!
//! ```
//! use std::time::Duration;
//!
//! use dledger::DLedger;
//! use dledger::transport::MemoryNetwork;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let home = tempfile::tempdir()?;
//! let network = MemoryNetwork::new();
//! let members = [(1, ""), (2, ""), (3, "")]; // this network needs no addresses
//! let open = |id: u64| {
//!     let dir = home.path().join(id.to_string());
//!     DLedger::builder(id).dir(dir).peers(members).transport(network.transport(id.into())).open()
//! };
//! let nodes = [open(1)?, open(2)?, open(3)?];
//!
//! let patience = Duration::from_secs(30);
//! let leader = nodes[0].wait_for_leader(patience).ok_or("no leader")?;
//! let leader = &nodes[leader.get() as usize - 1];
//! leader.wait_for_leader(patience); // others may know of it before it takes appends
//! let index = leader.append("to all of you")?;
//! for node in &nodes {
//!     node.barrier()?;
//!     assert_eq!(&node.get(index)?.expect("acknowledged")[..], b"to all of you");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Appending, and trying again
//!
//! Appends are taken by the leader alone: see [`Status::leader`], [`DLedger::wait_for_leader`] and
//! [`DLedger::watch`]. Elsewhere they fail with [`AppendError::NotLeader`], which names the leader
//! and what its host has told all nodes to find it by ([`Builder::advertise`]), if they are known.
//! Nodes do not pass appends on: a host sends them to the host of the leader by a way of its own.
//! What to do about an error is one question:
//!
//! - [`AppendError::may_have_committed`] is false: the append is not in the ledger and never will
//!   be. Append again, at the leader, or here once there is room.
//! - It is true: the append may be in the ledger, or appear yet. Read the log from the leader
//!   before trying again, or give entries an id and ignore those that stand there twice.
//!
//! # Reading
//!
//! Every node can be read in every role.
//!
//! - [`DLedger::get`] gives one entry, [`DLedger::read`] those from an index up to the newest, and
//!   [`DLedger::tail`] waits for more. [`Tail::next_chunk`] takes many at once.
//! - The payloads are also one stream of bytes: [`DLedger::get_at`] and [`DLedger::read_at`] read
//!   at a position, [`DLedger::index_of`], [`DLedger::position_of`] and [`DLedger::index_at`] (by
//!   time) find places, [`DLedger::positions`] says what is kept.
//! - A follower may lag behind. [`DLedger::barrier`] returns an index below which lies all that was
//!   acknowledged anywhere before the call, and all of that can then be read here.
//! - An [`Entry`] points into the log. One that is kept for long should be
//!   [its own copy](Entry::into_owned), so that a purged segment can be freed.
//! - A node keeps everything, or as much as its [`Retention`] says ([`Builder::retention`]). A
//!   consumer that must not be overtaken reads through a [`Pin`] ([`DLedger::pin`]).
//!
//! # What blocks
//!
//! | call | waits for |
//! |---|---|
//! | `append`, `append_batch` | the window and a majority, up to [`Builder::append_timeout`] each |
//! | `append_in_term`, `append_batch_in_term` | the same |
//! | `append_async`, `append_batch_async` | nothing; [`AppendFuture`] works under any runtime |
//! | `append_when_ready` and every `.._async` | nothing: they give futures, without a runtime |
//! | `wait_for_leader`, [`StatusWatch`], [`RoleChanges`] | a leader, or a change of the status |
//! | `get`, `read`, and reads by position and time | the disk, if what is read is not in memory |
//! | `tail`, [`Tail::next_chunk`] | the next entry, their time-out or the end of the node |
//! | `barrier` | a round of heartbeats, up to [`Builder::append_timeout`] |
//! | `status`, `committed`, `positions`, `role_changes`, `set_retention` | nothing |
//! | `pin` | a purge that is under way: a write to a file |
//! | `transfer_leadership` | another leader, two election timeouts at most |
//! | `purge`, `backup`, `shutdown` | the disk; `shutdown` of a leader also for its successor |
//! | [`Host::open_all`], [`Host::remove`], [`Host::shutdown`] | the disk and the groups concerned |
//!
//! A call that would have to wait for the node on one of its own threads, in a waker for instance,
//! or in an append hook, is refused at once (`CalledFromWaker`). Appends of a node with an
//! [append hook](Builder::append_hook) wait for the hook of those before them.
//!
//! A node of its own has four threads, and TCP adds one for listening and two for each peer. They
//! sleep while there is nothing to do: an idle group wakes for heartbeats only. Where answers come
//! within microseconds and processors are free, threads poll for 20 microseconds before they
//! sleep; [`Builder::spin`] bounds that, or ends it.
//!
//! # Many groups
//!
//! A [`Host`] runs thousands of groups in one process, each of them a [`DLedger`] of its own: they
//! share a directory, a port, one pair of connections to each other process, and a few threads.
//! Groups that are idle sleep. A group of a host is set up by [`Host::group`], which gives a
//! [`Builder`], and behaves as one that stands alone. [`Host::remove`] deletes one; a group that is
//! made again under its name never meets what is left of it ([`Status::group_uid`]).
//!
//! [`guide::broker`] builds a broker on this log, step by step; [`guide::migration`] holds every
//! name of Java DLedger beside its name here.
//!
//! # Errors
//!
//! Each verb has an error type of its own: [`OpenError`], [`AppendError`], [`ReadError`],
//! [`BarrierError`], [`PurgeError`], [`RetentionError`], [`BackupError`], [`TransferError`],
//! [`ShutdownError`]. A full disk and a lack of file handles are no failures: the node steps back,
//! says so in [`Status::full`], and goes on by itself. A fault that it cannot go on with is
//! [`Status::fault`]; damage that it repairs from its peers is [`Status::repair`]; peers
//! that refuse it are in [`Status::refused`]. What it knows of the others, whether they are reached
//! and how far they have come, is in [`Status::members`].
//!
//! # Features
//!
//! - `stream`: [`Tail::into_stream`] and others give a `futures_core::Stream`. Off by default; adds
//!   the crate `futures-core`.
//! - `sim`: a whole cluster in one thread, with virtual time, a bad network and bad disks. Off by
//!   default.
//!
//! # What is guaranteed, and on which assumptions
//!
//! 1. **An acknowledged append is never lost, never moves, never changes.** Under
//!    [`FlushPolicy::Sync`] as long as fewer than a majority of the group's disks lose what they
//!    confirmed to have stored. Under [`FlushPolicy::Async`] the end of any number of processes
//!    loses nothing, but a node that loses power forgets what it had confirmed within one flush
//!    interval: an entry can be lost if the nodes that lost power before they synced it, and those
//!    that had not received it yet, come to a majority.
//! 2. **One order.** Indexes are dense, positions add up, timestamps never decrease, and all of
//!    them are the same on every node, for good.
//! 3. **Real time.** An append that begins after another was acknowledged gets a higher index.
//!    [`DLedger::barrier`] is linearizable on every node; [`DLedger::get`] alone is not: a follower
//!    may lag behind.
//! 4. **An error tells.** [`AppendError::may_have_committed`] is false only if the append is not in
//!    the ledger and never will be. An append for a term ([`DLedger::append_in_term`]) is in the
//!    ledger in that term or not at all.
//! 5. **Damage is reported, not served, and repaired from peers.** Every `get` verifies the
//!    payload's checksum. What was synced and does not read back is an error with file and offset,
//!    never a shorter log. A node that finds its log damaged when it is opened can be read, and
//!    takes no part in its group (it does not vote, acknowledge or lead) until its peers have sent
//!    it exactly what it lost: see [`Status::repair`]. It takes a batch only if it is proved to be
//!    the one that it held, or to be committed; what cannot be proved it waits for. Opening looks
//!    at what is not sealed, and at headers and footers; damage in a sealed segment is an error
//!    when it is read, [`tools::verify`] finds it, and opening with [`Builder::verify_on_open`]
//!    repairs it.
//! 6. **What a node has forgotten is not held against its group.** A node whose disk was lost, put
//!    back to an older copy or restored from a backup, and that knows it
//!    ([`Builder::rejoin_empty`], [`tools::restore`], a leader or peer that knows more), takes no
//!    part until every other member has told it where it stands; then it neither leads nor votes
//!    for anyone whose log lacks what it may have acknowledged, until it holds that itself. A
//!    directory that was put back to an older copy without anyone noticing breaks guarantee 1: it
//!    counts as a disk that lost what it confirmed.
//!
//! Assumed: nodes stop or lie in ways that checksums catch, but are not malicious; a disk keeps
//! what `fdatasync` confirmed, and writes whole sectors of 512 bytes or not at all; no two nodes
//! are given the same id; no other process writes to a log's directory. Safety does not
//! depend on clocks.
//!
//! On Linux the threads are shown as `group/node-work`, of the group as much as fits:
//! `orders/1-engine`.
//!
//! # What is logged
//!
//! Through the `log` crate, and nothing is printed. Each line begins with `group G node N: `.
//!
//! - INFO: what changes, a line for each change. Opening and stopping, votes, leadership and whom
//!   the node follows, purges, a log that begins anew at the leader's first entry ("moved
//!   forward"), the end of a repair or of a full disk, a peer that cannot be reached.
//! - WARN: what a person should look at, though the node goes on by itself: a full disk, a damaged
//!   log, nodes that refuse each other, clocks that are wrong, a [`Pin`] that is released.
//! - ERROR: the node takes no further part, or lost something; [`Status::fault`] says what to do.
//! - DEBUG: single connections and messages, and what tikv's `raft` says (target `dledger::raft`).
//!
//! # Words
//!
//! | | |
//! |---|---|
//! | index | the number of an entry, dense from 0 |
//! | position | the bytes of all payloads before an entry, the same on every node |
//! | batch | what is replicated, written and synced at a time; it fills by itself |
//! | committed | on a majority, and never to change. Readers see nothing else |
//! | leader | announced when the first batch of its own term is committed |

#![cfg_attr(docsrs, feature(doc_cfg))]

mod append_hook;
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
mod host;
mod host_parts;
mod inbox_space;
mod log_prefix;
mod members;
mod message;
mod pins;
mod primitives;
mod removed;
mod replica;
mod reply;
mod retention;
mod role;
mod role_board;
mod role_changes;
mod running_node;
mod search;
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

pub use append_hook::Place;
pub use builder::{Builder, FlushPolicy};
#[cfg(feature = "stream")]
pub use cursor::{ChunkStream, TailStream};
pub use cursor::{Cursor, Tail};
pub use dledger::{AppendWhenReady, CommittedPast, DLedger, ResponseFuture, ShutdownFuture};
pub use entry::{Entry, NodeId};
pub use error::{
    AppendError, BarrierError, OpenError, PurgeError, ReadError, RetentionError, ShutdownError,
    TransferError,
};
pub use future::{AppendFuture, Appended};
pub use host::{GroupInfo, Host, HostBuilder, RemoveError};
pub use pins::Pin;
pub use removed::{Removed, RemovedSegments};
pub use retention::Retention;
pub use role::{Member, Membership, Progress, Refusal, Role, Status};
#[cfg(feature = "stream")]
pub use role_changes::RoleChangeStream;
pub use role_changes::RoleChanges;
pub use storage::{Backup, BackupError, Create, tools};
pub use watch::StatusWatch;

/// Guides: how to embed the log in a broker, and how to come from Java DLedger.
pub mod guide {
    #[cfg(doc)]
    use super::*;

    #[doc = include_str!("guide/broker.md")]
    pub mod broker {}

    #[doc = include_str!("guide/migration.md")]
    pub mod migration {}
}

/// The programs in the README compile and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
