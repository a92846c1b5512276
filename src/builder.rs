//! The settings of a ledger, with units, defaults and limits. Invalid settings are rejected before
//! any thread exists.

mod first_position;
mod hooks;
mod retention;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::append_hook::AppendHook;
use crate::batch::{BATCH_HEADER_BYTES, BODY_BYTES_MAX, TABLE_ENTRY_BYTES};
use crate::entry::{NodeId, is_group_name};
use crate::error::OpenError;
use crate::host_parts::HostParts;
use crate::pins::PIN_BYTES_MAX;
use crate::primitives::Mutex;
use crate::retention::Retention;
use crate::role::{Membership, Status, check_advertised};
use crate::sequencer::ENTRY_OVERHEAD;
use crate::spin::{SPIN_DEFAULT, SPIN_MAX};
use crate::storage::{Create, Storage};
use crate::threads::Observers;
use crate::transport::{TcpTransport, Transport};

/// When a batch counts as stored on a replica, and so may count towards its quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FlushPolicy {
    /// Once the operating system confirmed that it is on stable storage (`fdatasync`). An
    /// acknowledged append survives the power failure of all nodes at once, as far as the disks
    /// keep what they confirmed.
    Sync,
    /// Once it is written to the operating system; it is synced in the background every `interval`
    /// (1 ms to 1 h). An acknowledged append survives the end of any number of processes. **A node
    /// that loses power forgets what it had confirmed within the last interval. An acknowledged
    /// entry can be lost if the nodes that lost power before they had synced it, together with
    /// those that had not received it yet, come to a majority of the group.** A node that forgot
    /// comes back and is sent again what it lacks. Term and vote are synced at once all the same,
    /// so there are never two leaders in a term.
    Async {
        /// The time between background syncs.
        interval: Duration,
    },
}

/// Sets up a ledger. Made by [`DLedger::builder`](crate::DLedger::builder).
///
/// A builder can be cloned, to open several ledgers that differ in a few settings, or to open one
/// once more after a failure. [Observers](Self::on_role_change) are shared by the clones. A
/// [storage](Self::storage) or [transport](Self::transport) of the host's own serves one opening
/// alone, and every further one is refused with [`OpenError::Taken`] until it is given another.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let home = tempfile::tempdir()?;
/// use dledger::DLedger;
/// use std::time::Duration;
///
/// let usual = DLedger::builder(1).append_timeout(Duration::from_secs(2));
/// let orders = usual.clone().group("orders").dir(home.path().join("orders")).open()?;
/// let payments = usual.group("payments").dir(home.path().join("payments")).open()?;
/// # orders.append("o")?;
/// # payments.append("p")?;
/// # Ok(())
/// # }
/// ```
///
/// # What the nodes of a group have in common
/// Only the first of these must be the same on all of them. It is checked when they meet: nodes
/// that differ there refuse each other, and [`Status::refused`] says so. Nothing else decides what
/// is committed, and nothing else is checked.
///
/// - `group`, the ids of `peers` and `first_position`: the same, from the first opening on. Each
///   log remembers them.
/// - `heartbeat_interval`, `election_timeout`: may differ for a while, as when they are changed on
///   one node after the other. Only elections depend on them. But a leader whose heartbeats come
///   later than another node's election timeout loses the leadership again and again: raise
///   election timeouts before heartbeat intervals, and lower them after.
/// - `flush`: may differ. What an acknowledged append survives is as strong as the policies of the
///   nodes that make up its majority: with one of them under [`FlushPolicy::Async`], as weak as
///   that.
/// - The addresses of `peers`: may differ, for each node has its own way to another.
/// - All others concern this node alone.
#[must_use = "a builder does nothing until it is opened"]
#[derive(Clone)]
pub struct Builder {
    pub(crate) node: NodeId,
    pub(crate) dir: Option<PathBuf>,
    pub(crate) create: Create,
    pub(crate) rejoin_empty: bool,
    pub(crate) group: String,
    pub(crate) peers: Vec<(NodeId, String)>,
    pub(crate) advertised: String,
    pub(crate) storage: Option<Given<dyn Storage>>,
    pub(crate) transport: Option<Given<dyn Transport>>,
    pub(crate) flush: FlushPolicy,
    pub(crate) segment_bytes: u64,
    pub(crate) verified: bool,
    pub(crate) mapped_segments_max: usize,
    pub(crate) first_position: u64,
    pub(crate) max_entry_bytes: u64,
    pub(crate) max_in_flight_bytes: u64,
    pub(crate) append_timeout: Duration,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) election_timeout: Duration,
    pub(crate) catch_up_bytes_per_second: u64,
    pub(crate) spin: Duration,
    pub(crate) append_hook: Option<AppendHook>,
    pub(crate) retention: Retention,
    pub(crate) pin_bytes_max: u64,
    pub(crate) observers: Observers,
    /// The host whose group this is.
    pub(crate) host: Option<Arc<HostParts>>,
}

/// A storage or transport of the host's own. The first opening, of this builder or a clone, takes
/// it.
pub(crate) struct Given<T: ?Sized>(Arc<Mutex<Option<Box<T>>>>);

/// The storage and transport of the host's own that an opening takes, if it was given any.
pub(crate) type Taken = (Option<Box<dyn Storage>>, Option<Box<dyn Transport>>);

impl<T: ?Sized> Given<T> {
    fn new(given: Box<T>) -> Given<T> {
        Given(Arc::new(Mutex::new(Some(given))))
    }
}

impl<T: ?Sized> Clone for Given<T> {
    fn clone(&self) -> Self {
        Given(self.0.clone())
    }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The least that an atomic batch may hold, however small entries are.
const BATCH_BYTES_MIN: u64 = 16 * MIB;

/// The most that `first_position` may be: room for 3 EiB of payloads remains.
const FIRST_POSITION_MAX: u64 = 1 << 60;

/// The most that `max_entry_bytes` may be.
const ENTRY_BYTES_MAX: u64 = 64 * MIB;

/// Whatever a host may append is a batch that every node takes.
const _: () = assert!(
    body_bytes(ENTRY_BYTES_MAX) <= BODY_BYTES_MAX as u64 && BATCH_BYTES_MIN <= ENTRY_BYTES_MAX
);

/// The largest body of a batch whose payloads and entries count no more than `limit`.
const fn body_bytes(limit: u64) -> u64 {
    // The entry that reaches the limit is counted without its overhead.
    BATCH_HEADER_BYTES as u64 + limit + (limit / ENTRY_OVERHEAD + 1) * TABLE_ENTRY_BYTES as u64
}

impl Builder {
    pub(crate) fn new(node: NodeId) -> Builder {
        Builder {
            node,
            dir: None,
            create: Create::IfMissing,
            rejoin_empty: false,
            group: "default".to_owned(),
            peers: Vec::new(),
            advertised: String::new(),
            storage: None,
            transport: None,
            flush: FlushPolicy::Sync,
            segment_bytes: 64 * MIB,
            verified: false,
            mapped_segments_max: 256,
            first_position: 0,
            max_entry_bytes: 4 * MIB,
            max_in_flight_bytes: 64 * MIB,
            append_timeout: Duration::from_secs(5),
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_secs(1),
            catch_up_bytes_per_second: 256 * MIB,
            spin: SPIN_DEFAULT,
            append_hook: None,
            retention: Retention::keep_all(),
            pin_bytes_max: PIN_BYTES_MAX,
            observers: Observers::default(),
            host: None,
        }
    }

    /// Of a group of a host, which has a place for its log, and knows its peers.
    pub(crate) fn of_host(host: Arc<HostParts>, group: String) -> Builder {
        let mut builder = Builder::new(host.id).peers(host.peers.clone()).group(group);
        builder.host = Some(host);
        builder
    }

    /// The number of this node, instead of the one that the builder was made with: for clones that
    /// open several nodes.
    pub fn node(mut self, id: impl Into<NodeId>) -> Builder {
        self.node = id.into();
        self
    }

    /// The directory of this node's log. Made if it does not exist; its parent must exist, and is
    /// never made. One directory for each node of each group. Required, unless a
    /// [`storage`](Self::storage) is given.
    ///
    /// The name is looked up once, when the ledger is opened. Whatever becomes of it afterwards (a
    /// change of the working directory, a link that is switched, a directory that is renamed or
    /// mounted over), that directory is read and written as long as the ledger is open, and no
    /// other ledger can be opened in it.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Builder {
        self.dir = Some(dir.into());
        self
    }

    /// What to do about a log that is missing in the directory, or is there. Default
    /// [`Create::IfMissing`]. A host that expects its log to be there says [`Create::Never`]: then
    /// a file system that is not mounted is an error, and not a new, empty log. Without effect on a
    /// storage of the host's own.
    pub fn create(mut self, create: Create) -> Builder {
        self.create = create;
        self
    }

    /// Whether a new, empty log comes back to its group in place of one that was lost: the disk of
    /// this node was replaced, or its directory wiped. Default `false`: then the peers refuse it,
    /// for it has forgotten what it voted for and acknowledged. Without effect on a log in which
    /// anything has happened (one that was only opened, and refused, is empty), so that it may stay
    /// set for as long as the node needs; set for good, it lets a node that loses its log by
    /// mistake come back by itself.
    ///
    /// The node takes no part in votes or commits until *every* other member has told it where it
    /// stands, each once, and is sent the log like any follower. It gives its vote to no candidate
    /// that lacks what may have been committed with its help, nor does it lead without that:
    /// [`Status::repair`](crate::Status::repair) says what it waits for. A restored backup of one
    /// node, and a node that learns that its directory was put back to an older copy, do the same
    /// by themselves.
    ///
    /// What this assumes: nothing that the node was before still runs, and its old directory is
    /// never opened again (a process that does is refused once the members know the new one); and
    /// no second process of this node is started from another empty directory or from a copy at the
    /// same time. If two members come back empty at once, neither is let in: the others do not know
    /// all that the two have promised. Do not set it when a group is begun: then all nodes would
    /// wait for each other.
    ///
    /// In a [`Host`](crate::Host) this is also how a group that was removed here, and lives on at
    /// the other hosts, comes back ([`Host::remove`](crate::Host::remove)).
    ///
    /// What is *not* noticed: a directory that was put back to an older copy, unless a leader still
    /// knows what the node acknowledged, or a peer that has been running since knows a later
    /// opening (under [`FlushPolicy::Async`] only the latter is told, for there a node may lose
    /// what it acknowledged).
    ///
    /// A copy of a directory that is opened elsewhere while its node is down does not take the
    /// place of that node: peers refuse it, and [`Status::refused`](crate::Status::refused) says so
    /// at both ends. A peer takes another directory than the known one only from the address that
    /// it has for the node. A copy that is opened at that address does take its place, and the
    /// original is refused from then on. Never restore a directory behind the back of its node: use
    /// [`tools::restore`](crate::tools::restore), or an empty directory and this.
    pub fn rejoin_empty(mut self, rejoin_empty: bool) -> Builder {
        self.rejoin_empty = rejoin_empty;
        self
    }

    /// The name of the group: 1 to 63 letters, digits, `-` or `_`, beginning with a letter or
    /// digit. Default `default`.
    pub fn group(mut self, group: impl Into<String>) -> Builder {
        self.group = group.into();
        self
    }

    /// Names one member of the group and where it is reached: a host and a port, `10.0.0.1:7001`,
    /// `node-1:7001` or `[2001:db8::1]:7001`. Every member is named, this node included: its own
    /// address is where it listens. At most 63 members. Without any, the node is a group of its
    /// own.
    ///
    /// A node that cannot listen where the others find it, in a container or behind a translation
    /// of addresses, is given a [`transport`](Self::transport) that listens elsewhere:
    /// [`TcpTransport::listening_on`](crate::transport::TcpTransport::listening_on). What address a
    /// node has for a peer is its own affair; members are told apart by their ids.
    pub fn peer(mut self, id: impl Into<NodeId>, address: impl Into<String>) -> Builder {
        self.peers.push((id.into(), address.into()));
        self
    }

    /// Names several members at once.
    pub fn peers<I, A>(mut self, peers: impl IntoIterator<Item = (I, A)>) -> Builder
    where
        I: Into<NodeId>,
        A: Into<String>,
    {
        self.peers.extend(peers.into_iter().map(|(id, address)| (id.into(), address.into())));
        self
    }

    /// A text that every member of the group gets to know of this node: where the host of this node
    /// serves its clients, `10.0.0.1:9876` say, which is not the address at which the nodes reach
    /// each other. At most 255 bytes, without line breaks, marks of text direction (U+202E for
    /// instance), U+FEFF and control characters; default empty, which is none.
    ///
    /// Nodes tell it each other when they connect, and remember it as long as they run. It is in
    /// [`Member::advertised`](crate::Member::advertised) of every [`Status`], and, of the leader,
    /// in [`AppendError::NotLeader`](crate::AppendError::NotLeader), so that a host can send its
    /// clients there. A node that learns of a leader has its text by then. It may be another one at
    /// each opening. A [`transport`](Self::transport) of the host's own has to carry it
    /// ([`TransportContext::advertised`](crate::transport::TransportContext::advertised)); with one
    /// that does not, it stays unknown.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let home = tempfile::tempdir()?;
    /// # let dir = home.path().join("log");
    /// let builder = dledger::DLedger::builder(1).dir(dir);
    /// let ledger = builder.advertise("broker-1.example:9876").open()?;
    /// let status = ledger.status();
    /// assert_eq!(status.members[0].advertised.as_deref(), Some("broker-1.example:9876"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn advertise(mut self, text: impl Into<String>) -> Builder {
        self.advertised = text.into();
        self
    }

    /// A storage of the host's own instead of the segmented log. `dir` and `segment_bytes` are then
    /// without effect. The first opening of this builder or a clone takes it, whether it succeeds
    /// or not.
    pub fn storage(mut self, storage: impl Storage + 'static) -> Builder {
        self.storage = Some(Given::new(Box::new(storage)));
        self
    }

    /// A transport of the host's own instead of TCP. Addresses may then be anything that it
    /// understands. The first opening of this builder or a clone takes it, whether it succeeds or
    /// not.
    pub fn transport(mut self, transport: impl Transport + 'static) -> Builder {
        self.transport = Some(Given::new(Box::new(transport)));
        self
    }

    /// When a batch counts as stored. Default [`FlushPolicy::Sync`].
    pub fn flush(mut self, flush: FlushPolicy) -> Builder {
        self.flush = flush;
        self
    }

    /// The full size of a segment file, in bytes: 64 KiB to 4 GiB, default 64 MiB. The first
    /// segment of a log has 128 KiB, or this if it is less; each further one is twice as large as
    /// the one before, up to this. A target: a batch that is larger gets a file of its own size.
    /// May differ between nodes and be changed at any opening.
    pub fn segment_bytes(mut self, bytes: u64) -> Builder {
        self.segment_bytes = bytes;
        self
    }

    /// Whether opening reads every byte of the log, and not only the part that is not sealed.
    /// Default false: opening reads the tail only, and damage in a sealed segment is an error when
    /// it is read. If true, opening reads the whole log, and a node of a group repairs all damage
    /// from its peers: so a node recovers that found damage while it ran. Without effect on a
    /// storage of the host's own.
    pub fn verify_on_open(mut self, verify: bool) -> Builder {
        self.verified = verify;
        self
    }

    /// How many sealed segments are mapped into memory at a time, in segments: at least 1, default
    /// 256. It bounds the mappings and the address space that a log takes, however long it is and
    /// however it is read: with segments of 64 MiB the default comes to 16 GiB of address space.
    /// What is read beyond is mapped in place of what was not read for long, which costs some
    /// microseconds a segment.
    ///
    /// Segments that an [`Entry`](crate::Entry) still points into stay mapped and come on top, and
    /// so do those that are not sealed yet: the newest, and under [`FlushPolicy::Async`] a few
    /// more. Besides, a log takes some 400 bytes of memory for each of its segments. At most 16 of
    /// its files are open, and one more for each thread that is mapping one. Without effect on a
    /// storage of the host's own.
    pub fn mapped_segments_max(mut self, segments: usize) -> Builder {
        self.mapped_segments_max = segments;
        self
    }

    /// The largest payload of one entry, in bytes: 1 to 64 MiB, default 4 MiB. The payloads of one
    /// atomic batch may come to 16 MiB, or to this if it is more. Either is read in one piece for a
    /// follower that lacks it, and the leader says nothing meanwhile: keep them below what a disk
    /// reads in half an election timeout.
    ///
    /// Bounds what is appended through this node while it leads, and nothing else: whatever another
    /// leader was allowed to append, this node takes and keeps. So it can be changed at any
    /// opening, one node after the other, and differ between nodes.
    pub fn max_entry_bytes(mut self, bytes: u64) -> Builder {
        self.max_entry_bytes = bytes;
        self
    }

    /// How many bytes of appends may be under way at a time, in bytes: at least 1, default 64 MiB.
    /// Each entry counts its payload and 32 bytes. Beyond it `append` waits and `append_async` is
    /// refused. A single append that is larger passes when it is alone.
    pub fn max_in_flight_bytes(mut self, bytes: u64) -> Builder {
        self.max_in_flight_bytes = bytes;
        self
    }

    /// How long an append or a barrier may take until it fails with `TimedOut`: 1 ms to 1 h,
    /// default 5 s. An append that timed out may commit yet.
    pub fn append_timeout(mut self, timeout: Duration) -> Builder {
        self.append_timeout = timeout;
        self
    }

    /// How often a leader tells its followers that it is there: 2 ms to 1 min, default 100 ms. The
    /// same on every node of the group, but for a while at most.
    ///
    /// For followers that lag, a leader reads as much at a time as takes a quarter of this on a
    /// disk that reads 20 MB a second, between 64 KiB and 512 KiB.
    pub fn heartbeat_interval(mut self, interval: Duration) -> Builder {
        self.heartbeat_interval = interval;
        self
    }

    /// How long a follower waits for its leader before it asks for votes: at least twice the
    /// heartbeat interval, at most 1 h, default 1 s. Each follower waits between this and twice
    /// this, drawn anew each time. The same on every node of the group, but for a while at most.
    pub fn election_timeout(mut self, timeout: Duration) -> Builder {
        self.election_timeout = timeout;
        self
    }

    /// How fast this node, while it leads and hosts append, sends a follower that lags what it
    /// lacks: bytes a second, 1 MiB to `u64::MAX`, default 256 MiB. More ends the time without a
    /// full set of copies sooner, and costs the appends more while it lasts; `u64::MAX` is as much
    /// as the follower takes.
    ///
    /// If five quarters of what is appended are more than this, the follower has that much, so that
    /// it arrives under any load. While nothing is committed it has as much as it takes: then
    /// there are no appends, or they wait for it. Whether anything is, this node asks twice in a
    /// heartbeat interval.
    pub fn catch_up_bytes_per_second(mut self, bytes: u64) -> Builder {
        self.catch_up_bytes_per_second = bytes;
        self
    }

    /// How long the threads of this node, and threads of the host that wait for an append, may spin
    /// before they sleep: poll for what they wait for, and keep a processor busy meanwhile. Zero to
    /// 10 ms, default 20 microseconds. With [`Duration::ZERO`] none ever spins: the right setting
    /// where processor time is dearer than some microseconds of an append.
    ///
    /// A thread that sleeps is woken 25 to 50 microseconds late. A spin saves that if what it waits
    /// for comes sooner: with a very fast disk, or [`FlushPolicy::Async`]. So this is the most that
    /// a thread may do, and it does so only where it pays, whatever is set:
    ///
    /// - A thread whose waits turn out longer than this hardly ever spins (in one of 64 waits).
    /// - Threads of the process spin on processors that are free, and never on all of them. If more
    ///   threads of the machine can run than there are processors, none spins. (Linux; elsewhere
    ///   each thread only notices when it has to share its own processor, and sleeps then.)
    /// - If the control group of the process, or one above it, has a quota of processor time, as
    ///   containers often have, none spins. (Linux. A quota that is set later is noticed within 5
    ///   s.)
    pub fn spin(mut self, spin: Duration) -> Builder {
        self.spin = spin;
        self
    }

    /// Calls `observer` with the status after every change of role, term or leader, and once the
    /// node has stopped: in order, without loss, on a thread apart from the node's own (the groups
    /// of a [`Host`](crate::Host) share a few). A panic in it is contained. While it blocks, later
    /// changes wait; `shutdown` waits for it too. Clones of the builder share it: the ledgers that
    /// they open call it, each for itself.
    pub fn on_role_change(mut self, observer: impl Fn(&Status) + Send + Sync + 'static) -> Builder {
        self.observers.roles.push(Arc::new(observer));
        self
    }

    /// Takes the storage and the transport that the host gave: both, or none.
    ///
    /// # Errors
    /// [`OpenError::Taken`] if an earlier opening took one of them.
    pub(crate) fn take_given(&self) -> Result<Taken, OpenError> {
        // All that lock both do it in this order.
        let mut storage = self.storage.as_ref().map(|given| given.0.lock());
        let mut transport = self.transport.as_ref().map(|given| given.0.lock());
        if storage.as_ref().is_some_and(|given| given.is_none()) {
            return Err(OpenError::Taken { setting: "storage" });
        }
        if transport.as_ref().is_some_and(|given| given.is_none()) {
            return Err(OpenError::Taken { setting: "transport" });
        }
        let storage = storage.as_mut().and_then(|given| given.take());
        Ok((storage, transport.as_mut().and_then(|given| given.take())))
    }

    /// The largest batch body, payloads only.
    pub(crate) fn max_batch_bytes(&self) -> u64 {
        self.max_entry_bytes.max(BATCH_BYTES_MIN)
    }

    pub(crate) fn membership(&self) -> Membership {
        if self.peers.is_empty() {
            return Membership::of_voters([self.node]);
        }
        Membership::of_voters(self.peers.iter().map(|(id, _)| *id))
    }

    /// Refuses what makes no sense, naming the method that set it.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        self.check_members()?;
        self.check_addresses()?;
        check_advertised(&self.advertised).or_else(|why| refuse("advertise", &why))?;
        self.retention.check().or_else(|why| refuse("retention", &why))?;
        if self.host.is_some() {
            self.check_host()?;
        } else if self.dir.is_none() && self.storage.is_none() {
            return refuse("dir", "a ledger needs a directory, or a storage of the host's own");
        }
        if self.storage.is_none() && self.dir.as_ref().is_some_and(|dir| dir.as_os_str().is_empty())
        {
            return refuse("dir", "an empty name is no directory: `.` is the working directory");
        }
        if self.rejoin_empty && self.peers.len() < 2 {
            return refuse(
                "rejoin_empty",
                "the only node of a group has no peer that could send it its log: restore it from \
                 a backup",
            );
        }
        within("first_position", self.first_position, 0, FIRST_POSITION_MAX, "bytes")?;
        within("segment_bytes", self.segment_bytes, 64 * KIB, 4 * GIB, "bytes")?;
        within("max_entry_bytes", self.max_entry_bytes, 1, ENTRY_BYTES_MAX, "bytes")?;
        within("max_in_flight_bytes", self.max_in_flight_bytes, 1, u64::MAX, "bytes")?;
        within(
            "catch_up_bytes_per_second",
            self.catch_up_bytes_per_second,
            MIB,
            u64::MAX,
            "bytes",
        )?;
        within("mapped_segments_max", self.mapped_segments_max as u64, 1, u64::MAX, "segments")?;
        within_time("append_timeout", self.append_timeout, 1, 3_600_000)?;
        within_time("heartbeat_interval", self.heartbeat_interval, 2, 60_000)?;
        within_time("election_timeout", self.election_timeout, 4, 3_600_000)?;
        if self.spin > SPIN_MAX {
            return refuse("spin", &format!("{:?} is more than {SPIN_MAX:?}", self.spin));
        }
        if self.election_timeout < 2 * self.heartbeat_interval {
            return refuse(
                "election_timeout",
                "it must be at least twice the heartbeat interval, or followers revolt between \
                 two heartbeats",
            );
        }
        if let FlushPolicy::Async { interval } = self.flush {
            within_time("flush", interval, 1, 3_600_000)?;
        }
        Ok(())
    }

    /// What a group of a [`Host`](crate::Host) has from it.
    fn check_host(&self) -> Result<(), OpenError> {
        let host = self.host.as_ref().expect("asked for a group of a host only");
        if self.dir.is_some() {
            return refuse("dir", "a group of a host has a place in the directory of the host");
        }
        if self.node != host.id {
            return refuse("node", &format!("in all groups of this host it is node {}", host.id));
        }
        let is_unknown = |id: &NodeId| !host.peers.iter().any(|(peer, _)| peer == id);
        match self.peers.iter().map(|(id, _)| *id).find(is_unknown) {
            Some(id) => refuse("peer", &format!("node {id} is no peer of the host: name it there")),
            None => Ok(()),
        }
    }

    /// A transport of the host's own may understand anything.
    fn check_addresses(&self) -> Result<(), OpenError> {
        if self.transport.is_some() || self.peers.len() < 2 {
            return Ok(());
        }
        let wrong = |(id, address): &(NodeId, String)| {
            TcpTransport::check_address(address, *id == self.node).err().map(|why| (*id, why))
        };
        match self.peers.iter().find_map(wrong) {
            Some((id, why)) => refuse("peer", &format!("node {id}: {why}")),
            None => Ok(()),
        }
    }

    fn check_members(&self) -> Result<(), OpenError> {
        if !is_group_name(&self.group) {
            return refuse(
                "group",
                "a name is 1 to 63 letters, digits, '-' or '_', and begins with a letter or digit",
            );
        }
        if self.node.get() == 0 || self.peers.iter().any(|(id, _)| id.get() == 0) {
            return refuse("peer", "a node id is at least 1");
        }
        let mut ids: Vec<NodeId> = self.peers.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return refuse("peer", &format!("node {} is named twice", twice[0]));
        }
        if !ids.is_empty() && !ids.contains(&self.node) {
            return refuse(
                "peer",
                &format!("every member is named, oneself included: node {} is not", self.node),
            );
        }
        if ids.len() > 63 {
            return refuse("peer", "a group has at most 63 members");
        }
        Ok(())
    }
}

fn refuse(setting: &'static str, reason: &str) -> Result<(), OpenError> {
    Err(OpenError::Setting { setting, reason: reason.to_owned() })
}

fn within(
    setting: &'static str,
    value: u64,
    min: u64,
    max: u64,
    unit: &str,
) -> Result<(), OpenError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        refuse(setting, &format!("{value} is not within {min} and {max} {unit}"))
    }
}

fn within_time(
    setting: &'static str,
    value: Duration,
    min_ms: u64,
    max_ms: u64,
) -> Result<(), OpenError> {
    if (Duration::from_millis(min_ms)..=Duration::from_millis(max_ms)).contains(&value) {
        return Ok(());
    }
    refuse(setting, &format!("{value:?} is not within {min_ms} and {max_ms} milliseconds"))
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("node", &self.node)
            .field("group", &self.group)
            .field("dir", &self.dir)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
