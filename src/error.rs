//! All errors of the host's calls: whose fault it is, what to do, and whether an append may have
//! committed all the same.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::entry::NodeId;
use crate::fork::FORKED;
use crate::role::{Refusal, grouped};
use crate::storage::StorageError;

/// Why an append was not acknowledged.
///
/// The question that a producer has before it tries again is
/// [`may_have_committed`](AppendError::may_have_committed).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// Another node leads, or none does at the moment. Certainly not committed: append there, or
    /// here again after a while.
    #[error("this node does not lead{}", leads(leader, address, advertised, refused))]
    #[non_exhaustive]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
        /// Where that node is reached by the nodes of its group, as the builder was told.
        address: Option<Arc<str>>,
        /// What that node's host lets others know
        /// ([`Builder::advertise`](crate::Builder::advertise)): where clients are sent. `None` if
        /// it gave nothing.
        advertised: Option<Arc<str>>,
        /// If no leader is known: which peers and this node refuse each other, as
        /// [`Status::refused`](crate::Status::refused) says.
        refused: Box<[Refusal]>,
    },
    /// Too many bytes are under way, or others wait for room already. Certainly not committed: wait
    /// for earlier appends to finish, then try again, or use `append_when_ready`.
    #[error(
        "{in_flight} bytes are under way, the window holds {limit}: wait for earlier appends to \
         finish"
    )]
    #[non_exhaustive]
    Busy {
        /// Bytes that wait for their commit.
        in_flight: u64,
        /// The window: `Builder::max_in_flight_bytes`.
        limit: u64,
    },
    /// This node does not lead in the term that was asked for ([`DLedger::append_in_term`]), and
    /// nothing was appended. Certainly not committed, now or ever. If `wanted` is less than `term`,
    /// no attempt for that term will do better here: whoever it belonged to no longer leads.
    ///
    /// [`DLedger::append_in_term`]: crate::DLedger::append_in_term
    #[error("the append is for term {wanted}, and this node is in term {term}")]
    WrongTerm {
        /// The term that was asked for.
        wanted: u64,
        /// The term in which this node leads, or that it knew when it refused.
        term: u64,
    },
    /// The [append hook](crate::Builder::append_hook) of this node panicked when it was called for
    /// this append, or for an entry of this batch. Not committed: nothing of it was appended, and
    /// the node goes on. What its panic hook printed says where.
    #[error("the append hook panicked: {message}")]
    #[non_exhaustive]
    HookPanicked {
        /// What the panic said.
        message: String,
    },
    /// The payload or batch exceeds a limit, on every node and for ever. Not committed: split it.
    #[error(
        "{len} bytes are more than the limit of {limit}: split the payload or raise the limit on \
         every node"
    )]
    #[non_exhaustive]
    TooLarge {
        /// The size that was refused, in bytes.
        len: u64,
        /// The limit, in bytes: `Builder::max_entry_bytes` for an entry, 16 MiB or that for a
        /// batch, whichever is more.
        limit: u64,
    },
    /// This node lost the leadership or was shut down while the append was under way, and does not
    /// know its outcome: another node decides. It may commit, or may have been committed. Read the
    /// log from the leader before trying again, or make the append idempotent.
    #[error(
        "the outcome is unknown: this node stopped leading while the append was under way. Look \
         whether it is in the log before you append it again"
    )]
    OutcomeUnknown,
    /// This node stopped taking part, because of a fault of its own, while the append was under
    /// way. Otherwise as [`OutcomeUnknown`](Self::OutcomeUnknown).
    #[error(
        "the outcome is unknown: this node failed while the append was under way: {reason}. Look \
         at another node whether it is in the log before you append it again"
    )]
    #[non_exhaustive]
    Unconfirmed {
        /// What happened.
        reason: String,
    },
    /// No quorum confirmed it in time. It is still under way and may commit at any later moment.
    #[error(
        "not confirmed within {}, and may be yet: a quorum of the group is slow or unreachable",
        seconds(*.0)
    )]
    TimedOut(Duration),
    /// This node's disk is full or may not be written to, or its process has no open file or memory
    /// left, and it has given up the leadership until it can write again. Not committed: append at
    /// another node, and give this one what the reason says is lacking. Of what was under way when
    /// it ran out, the only voter of a group says this at once; where others have a vote, they
    /// decide.
    #[error("this node takes no appends for now: {reason}")]
    #[non_exhaustive]
    StorageFull {
        /// What ran out, and what to do.
        reason: String,
    },
    /// It was called within a waker, or elsewhere on a thread of the node (by a logger, say), and
    /// would have to wait for the node. Use the asynchronous calls there, or make the call on
    /// another thread. Within an [append hook](crate::Builder::append_hook) every append is refused
    /// so, of any ledger.
    #[error("{WAKER}{}", if *under_way { "; the append is under way all the same" } else { "" })]
    #[non_exhaustive]
    CalledFromWaker {
        /// Whether the append is under way, and may commit. If not, nothing was appended.
        under_way: bool,
    },
    /// This process is a forked child of the one that opened the ledger. See
    /// [`DLedger`](crate::DLedger#forked-children).
    #[error("{FORKED}{}", if *under_way { BEGUN_BY_PARENT } else { "" })]
    #[non_exhaustive]
    Forked {
        /// Whether the parent had begun the append before it forked: it may have been committed, or
        /// may be yet. If not, nothing was appended.
        under_way: bool,
    },
    /// The ledger was shut down before the append was proposed. Not committed.
    #[error("the ledger was shut down")]
    Stopped,
    /// This node has stopped taking part because of a fault of its own. Not committed: append at
    /// another node.
    #[error("this node takes no appends: {reason}")]
    #[non_exhaustive]
    Failed {
        /// What happened, and what to do.
        reason: String,
    },
}

/// Every append returns room for one. What is told of a leader is shared, not copied.
const _: () = assert!(size_of::<AppendError>() <= 64);

impl AppendError {
    /// Whether the append may be in the ledger in spite of this error, or appear in it later. If
    /// not, it is safe to try again.
    pub fn may_have_committed(&self) -> bool {
        match self {
            AppendError::OutcomeUnknown => true,
            AppendError::Unconfirmed { .. } => true,
            AppendError::TimedOut(_) => true,
            AppendError::CalledFromWaker { under_way } | AppendError::Forked { under_way } => {
                *under_way
            }
            _ => false,
        }
    }
}

/// Why an entry could not be read.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The entry is not kept on this node: [retention](crate::Retention) or a host
    /// ([`purge`](crate::DLedger::purge)) removed it here, or this node was moved forward past it.
    /// A position below [`Builder::first_position`](crate::Builder::first_position) is refused so,
    /// too; if nothing was removed yet, `index` and `first` are both 0 then.
    ///
    /// A node is moved forward that fell so far behind that its leader had removed what it lacked:
    /// its log begins anew at the leader's first retained entry, which the log tells at INFO. Read
    /// on at `first` ([`Tail::seek`](crate::Tail::seek)), or read what lies before it at a node
    /// that still keeps it.
    #[error(
        "entry {index} is not kept on this node, which was purged or moved forward past it: it \
         keeps the ledger from index {first} on"
    )]
    #[non_exhaustive]
    Purged {
        /// What was asked for. If that was a position: the last index that is not kept, or 0.
        index: u64,
        /// The first index that is kept.
        first: u64,
    },
    /// The bytes on this node's disk have changed since they were written. Other replicas have the
    /// entry; restore this one.
    #[error(
        "entry {index} is damaged on this node: {reason}. Read it at another node. When this one \
         is opened again, it gets from its peers what it lacks; if it has none, restore it from a \
         backup"
    )]
    #[non_exhaustive]
    Damaged {
        /// What was asked for. If that was a position or a time: an index in the damaged part.
        index: u64,
        /// What does not fit.
        reason: String,
    },
    /// The storage could not read.
    #[error(transparent)]
    Storage(StorageError),
    /// This node has stopped taking part because of a fault of its own, so nothing more comes here:
    /// read on at another node. What it had committed can be read.
    #[error("nothing more comes on this node: {reason}")]
    #[non_exhaustive]
    Failed {
        /// What happened, and what to do.
        reason: String,
    },
    /// It was called within a waker, or elsewhere on a thread of the node: make the call on another
    /// thread.
    #[error("{WAKER}")]
    CalledFromWaker,
    /// This process is a forked child of the one that opened the ledger. See
    /// [`DLedger`](crate::DLedger#forked-children).
    #[error("{FORKED}")]
    Forked,
    /// The ledger was shut down.
    #[error("the ledger was shut down")]
    Stopped,
}

/// Why no linearizable point could be established.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BarrierError {
    /// No leader with a quorum answered in time. Try again.
    #[error(
        "no leader with a quorum answered within {}: try again, and see that a majority of the \
         group is running and reached",
        seconds(*.0)
    )]
    TimedOut(Duration),
    /// No leader with a quorum answered in time, and this node and some of its peers refuse each
    /// other.
    #[error("no leader with a quorum answered within {}: {}", seconds(*timeout), reasons(refused))]
    #[non_exhaustive]
    Refused {
        /// How long was waited.
        timeout: Duration,
        /// Who refuses whom, as [`Status::refused`](crate::Status::refused) says.
        refused: Vec<Refusal>,
    },
    /// It was called within a waker, or elsewhere on a thread of the node: make the call on another
    /// thread.
    #[error("{WAKER}")]
    CalledFromWaker,
    /// This process is a forked child of the one that opened the ledger. See
    /// [`DLedger`](crate::DLedger#forked-children).
    #[error("{FORKED}")]
    Forked,
    /// The ledger was shut down.
    #[error("the ledger was shut down")]
    Stopped,
    /// This node has stopped taking part because of a fault of its own.
    #[error("this node answers no barriers: {reason}")]
    #[non_exhaustive]
    Failed {
        /// What happened, and what to do.
        reason: String,
    },
}

/// Why the leadership was not handed over. In every case a leader remains or is elected.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransferError {
    /// Only the leader can hand over.
    #[error("this node does not lead{}", leads(leader, &None, advertised, &[]))]
    #[non_exhaustive]
    NotLeader {
        /// Who leads, as far as this node knows.
        leader: Option<NodeId>,
        /// What that node's host lets others know, as in [`AppendError::NotLeader`].
        advertised: Option<Arc<str>>,
    },
    /// The target is no voter of the group.
    #[error("node {0} has no vote in this group")]
    NotAVoter(NodeId),
    /// The target did not catch up or did not win within an election timeout.
    #[error("node {0} did not take over in time: is it running and reachable?")]
    TimedOut(NodeId),
    /// A later call hands the leadership to this other node instead.
    #[error("a later call hands the leadership to node {0} instead")]
    Superseded(NodeId),
    /// It was called within a waker, or elsewhere on a thread of the node: make the call on another
    /// thread.
    #[error("{WAKER}")]
    CalledFromWaker,
    /// This process is a forked child of the one that opened the ledger. See
    /// [`DLedger`](crate::DLedger#forked-children).
    #[error("{FORKED}")]
    Forked,
    /// The ledger was shut down.
    #[error("the ledger was shut down")]
    Stopped,
    /// This node has stopped taking part because of a fault of its own.
    #[error("this node takes no part: {reason}")]
    #[non_exhaustive]
    Failed {
        /// What happened, and what to do.
        reason: String,
    },
}

/// Why the head of the log was not given up. It is as before.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PurgeError {
    /// The storage could not do it.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// It was called within a waker, or elsewhere on a thread of the node: make the call on another
    /// thread.
    #[error("{WAKER}")]
    CalledFromWaker,
    /// This process is a forked child of the one that opened the ledger. See
    /// [`DLedger`](crate::DLedger#forked-children).
    #[error("{FORKED}")]
    Forked,
    /// The ledger was shut down.
    #[error("the ledger was shut down")]
    Stopped,
    /// This node has stopped taking part because of a fault of its own.
    #[error("this node takes no part: {reason}")]
    #[non_exhaustive]
    Failed {
        /// What happened, and what to do.
        reason: String,
    },
}

/// Why a policy of retention was not accepted. The one before stays in force.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RetentionError {
    /// A limit makes no sense.
    #[error("Retention::{reason}")]
    #[non_exhaustive]
    Setting {
        /// Which one, and why.
        reason: String,
    },
    /// This process is a forked child of the one that opened the ledger. See
    /// [`DLedger`](crate::DLedger#forked-children).
    #[error("{FORKED}")]
    Forked,
    /// The ledger was shut down.
    #[error("the ledger was shut down")]
    Stopped,
}

/// Why a ledger could not be opened. Nothing runs and nothing is locked afterwards.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A setting of the builder makes no sense.
    #[error("Builder::{setting}: {reason}")]
    #[non_exhaustive]
    Setting {
        /// The method of the builder.
        setting: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A setting of the builder of a host makes no sense.
    #[error("HostBuilder::{setting}: {reason}")]
    #[non_exhaustive]
    HostSetting {
        /// The method of the builder.
        setting: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The storage or transport of the host's own was taken by an earlier opening of this builder,
    /// or of a clone: one serves one opening, also one that failed. Give this one another.
    #[error(
        "Builder::{setting}: an earlier opening of this builder or a clone of it took what was \
         given: give every opening another one"
    )]
    #[non_exhaustive]
    Taken {
        /// The method of the builder: `storage` or `transport`.
        setting: &'static str,
    },
    /// The storage could not be opened.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The transport could not start: for TCP, the own address could not be bound.
    #[error("the transport could not start: {0}")]
    Transport(#[source] io::Error),
    /// This host has that group open, or is opening, closing or removing it at this moment.
    #[error(
        "group {group} is open in this host already, or is being opened, closed or removed: use \
         the handle that is there, or shut it down first"
    )]
    #[non_exhaustive]
    GroupInUse {
        /// The name of the group.
        group: String,
    },
    /// The host was shut down, or is being shut down.
    #[error("the host of this group is shut down: open the host again first")]
    HostStopped,
    /// The host has as many groups open as the limit of descriptors of the process leaves room for.
    /// Beyond that a group could not write, and peers could not connect.
    #[error(
        "the limit of {limit} open files of this process leaves no room for one more group beside \
         {open}: raise it (`ulimit -n`), two for each group and some hundred for the rest"
    )]
    #[non_exhaustive]
    TooManyGroups {
        /// How many groups are open in this host.
        open: usize,
        /// How many descriptors the process may have.
        limit: u64,
    },
    /// A group of a host was to be opened within a waker, or elsewhere on a thread of a node (by a
    /// logger, say), which the opening might wait for. Nothing was done: open it on another thread.
    /// An observer of changes of role may open groups.
    #[error("{WAKER}")]
    CalledFromWaker,
    /// This process is a forked child of the one that opened the host of this group. Nothing was
    /// done.
    #[error("{FORKED}")]
    Forked,
    /// The operating system granted no thread.
    #[error(
        "a thread could not be started: {0}: raise the limit for threads or processes, or free \
         some memory"
    )]
    Thread(#[source] io::Error),
    /// The only voter of the group did not become its leader: its disk is slow or failing.
    #[error(
        "the node did not become leader of its own group within {}: see whether its disk is slow \
         or failing, then open it again",
        seconds(*.0)
    )]
    NotReady(Duration),
}

/// What went wrong at or before shutdown. The ledger is closed all the same, but for
/// [`Forked`](ShutdownError::Forked).
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShutdownError {
    /// This process is a forked child of the one that opened the ledger. Nothing was done: it goes
    /// on there.
    #[error("{FORKED}")]
    Forked,
    /// The last sync failed, so what was not acknowledged may be missing after a power failure.
    #[error("the last sync failed: {0}")]
    Storage(#[from] StorageError),
    /// The node had stopped taking part before.
    #[error("the node had failed before: {reason}")]
    #[non_exhaustive]
    Failed {
        /// What happened.
        reason: String,
    },
}

/// Added for an append that the parent process had begun.
const BEGUN_BY_PARENT: &str = "; what came of the append is known there alone";

/// Of every call that waits for the node.
const WAKER: &str = "called within a waker or an append hook, on a thread that the answer must \
                     come from: use an asynchronous call, or another thread";

type Text = Option<Arc<str>>;

fn leads(
    leader: &Option<NodeId>,
    address: &Text,
    advertised: &Text,
    refused: &[Refusal],
) -> String {
    match (leader, advertised, address) {
        (Some(leader), Some(advertised), _) => {
            format!(": node {leader} does, which is for clients at {advertised}")
        }
        (Some(leader), None, Some(address)) => format!(": node {leader} at {address} does"),
        (Some(leader), None, None) => format!(": node {leader} does"),
        (None, ..) if !refused.is_empty() => {
            format!(", and no leader is known: {}", reasons(refused))
        }
        (None, ..) => ", and no leader is known: try again soon".to_owned(),
    }
}

fn reasons(refused: &[Refusal]) -> String {
    grouped(refused).join("; ")
}

fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}
