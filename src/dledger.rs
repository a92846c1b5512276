//! The handle of a host on its node: append, read, and administration.

mod fencing;
mod following;
mod futures;
mod positions;
mod retention;

use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use self::futures::{AppendWhenReady, CommittedPast, ResponseFuture, ShutdownFuture};
use crate::builder::{Builder, FlushPolicy};
use crate::cursor::{self, Cursor, Tail};
use crate::engine::{Command, Engine, EngineSettings, Input, inbox, rejoin_empty};
use crate::entry::{Entry, NodeId};
use crate::error::{
    AppendError, BarrierError, OpenError, PurgeError, ReadError, ShutdownError, TransferError,
};
use crate::future::AppendFuture;
use crate::host_parts::{GroupClaim, HostParts};
use crate::log_prefix::{LogPrefix, log_prefix};
use crate::primitives::atomic::{AtomicU64, Ordering};
use crate::primitives::channel::{RecvTimeoutError, Sender};
use crate::primitives::{Instant, RandomState};
use crate::replica;
use crate::reply::Response;
use crate::role::{Role, Status};
use crate::running_node::RunningNode;
use crate::sequencer::{Limits, Sequencer};
use crate::shared::NodeShared;
use crate::storage::segmented;
use crate::storage::{
    Backup, BackupError, LogOwner, Recovered, SegmentOptions, SegmentedLog, Storage, StorageError,
};
use crate::threads::{Claim, Queues, Threads};
use crate::transport::{MemoryNetwork, Message, TcpTransport, Transport, TransportContext};
use crate::wakers::is_in_waker;
use crate::watch::{self, StatusWatch};

/// How long the only node of a group may take to become its leader when it is opened. It takes two
/// syncs.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long it waits before it asks whether the disk is full. Only an opening that takes longer
/// asks at all.
const READY_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The longest time that a node which is shut down waits for each of the others to lead. It takes
/// them a round trip and a sync or two.
const HANDOVER_TIMEOUT_MAX: Duration = Duration::from_secs(1);

/// What a message to a follower that catches up carries at most. With the 64 that may be under way
/// to it that is 32 MiB, half of what the TCP transport holds for a peer before it drops. A larger
/// batch goes alone. While a follower keeps up, every batch is a message.
const MESSAGE_BYTES_MAX: u64 = 512 << 10;

/// The least that is worth a message. Less would make even a fast disk slow.
const MESSAGE_BYTES_MIN: u64 = 64 << 10;

/// What a node of a host takes in of appends in a turn, before other groups have theirs.
const HOST_TURN_BYTES: u64 = 1 << 20;

/// What the slowest disk reads in a second, in bytes, on which heartbeats wait no longer for a
/// message that is read than a quarter of their interval. A turn of the engine reads one.
const READ_BYTES_PER_SECOND: f64 = 20e6;

/// A replicated, append-only log: one node's handle on it. Cheap to clone, usable from any thread.
///
/// The node runs until [`shutdown`](Self::shutdown) is called on any clone, or the last clone is
/// dropped.
///
/// Some executors run a task within the waker that a node calls when an append resolves. Calls that
/// wait for the node are refused there at once (`CalledFromWaker` of each error), for the node
/// would wait for itself; all others work as anywhere else. The same holds for a logger that is
/// called on a thread of the node. An observer of changes of role may call anything.
///
/// # Forked children
/// A child that `fork` makes has this handle, but none of the node's threads, and locks in it may
/// never be unlocked. Every call fails there at once (`Forked` of each error) and changes nothing,
/// futures and cursors included; only what a future knew to be committed is told.
/// [`status`](Self::status) says who the node is, and [`committed`](Self::committed) is empty.
/// Dropping what the child has neither waits nor touches a file. The parent goes on undisturbed.
///
/// So a host that becomes a daemon opens its ledger afterwards. A child of a process with other
/// threads opens one of its own only after it has executed a program, for any lock may be lost to
/// it until then. An [`Entry`] that it was given may change there when the parent purges: copy it
/// before the fork ([`Entry::into_owned`]). What forks within a waker or an observer that a node
/// calls must exec or exit in the child: behind a waker the child is aborted, and behind an
/// observer it waits for ever.
#[derive(Clone)]
pub struct DLedger {
    node: Arc<RunningNode>,
}

impl DLedger {
    /// Begins to set up node `id`.
    pub fn builder(id: impl Into<NodeId>) -> Builder {
        Builder::new(id.into())
    }

    /// Appends one payload and blocks until it is committed. Returns its index.
    ///
    /// Waits for room in the window and for the commit, each up to `Builder::append_timeout`. An
    /// empty payload is a legal entry.
    ///
    /// # Errors
    /// Any [`AppendError`]; [`AppendError::may_have_committed`] tells whether it is safe to try
    /// again.
    pub fn append(&self, payload: impl AsRef<[u8]>) -> Result<u64, AppendError> {
        refuse_in_waker(AppendError::CalledFromWaker { under_way: false })?;
        let future = self.node.shared.sequencer.append(payload.as_ref(), Some(self.deadline()));
        self.await_commit(future)
    }

    /// Appends one payload without waiting. The payload is copied before this returns, and appends
    /// of one thread keep their order.
    ///
    /// The future resolves by itself within `Builder::append_timeout`, whether or not anyone waits
    /// for it. If the append is refused at once (no leader here, window full, others wait for room
    /// in it), the future is resolved already. [`append_when_ready`](Self::append_when_ready) waits
    /// for room.
    pub fn append_async(&self, payload: impl AsRef<[u8]>) -> AppendFuture {
        self.node.shared.sequencer.append(payload.as_ref(), None)
    }

    /// Appends one entry whose payload is made of `parts`, one behind the other, as if they had
    /// been joined first: a header and a body, say. They are copied straight to where the entry is
    /// sent from, and nothing is allocated for them. Blocks and returns as [`append`](Self::append)
    /// does. No part, or parts without a byte, make an empty payload.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let home = tempfile::tempdir()?;
    /// # let ledger = dledger::DLedger::builder(1).dir(home.path().join("log")).open()?;
    /// let header = 5_u32.to_le_bytes();
    /// let index = ledger.append_parts(&[&header, b"hello"])?;
    /// assert_eq!(&ledger.get(index)?.expect("committed")[..], b"\x05\0\0\0hello");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`append`](Self::append). The limits hold for the sum of the parts.
    pub fn append_parts(&self, parts: &[&[u8]]) -> Result<u64, AppendError> {
        refuse_in_waker(AppendError::CalledFromWaker { under_way: false })?;
        let future = self.node.shared.sequencer.append_parts(parts, Some(self.deadline()));
        self.await_commit(future)
    }

    /// Appends one entry whose payload is made of `parts`, as [`append_parts`](Self::append_parts)
    /// does, without waiting, as [`append_async`](Self::append_async) does.
    pub fn append_parts_async(&self, parts: &[&[u8]]) -> AppendFuture {
        self.node.shared.sequencer.append_parts(parts, None)
    }

    /// Appends several payloads at consecutive indexes, all or nothing, and blocks until they are
    /// committed. Returns their indexes.
    ///
    /// Without any payload it appends nothing, waits for no commit and returns an empty range,
    /// which begins at the index that the next entry would have taken here at that moment. It is
    /// refused as any append is, where another node leads for instance.
    ///
    /// # Errors
    /// Any [`AppendError`]. [`AppendError::TooLarge`] if the payloads come to more than 16 MiB or
    /// `Builder::max_entry_bytes`, whichever is more; each entry counts 32 bytes beyond its
    /// payload.
    pub fn append_batch<P: AsRef<[u8]>>(
        &self,
        payloads: impl IntoIterator<Item = P>,
    ) -> Result<Range<u64>, AppendError> {
        refuse_in_waker(AppendError::CalledFromWaker { under_way: false })?;
        let (future, count) =
            self.node.shared.sequencer.append_batch(payloads, Some(self.deadline()));
        let start = self.await_commit(future)?;
        Ok(start..start + count)
    }

    /// Appends several payloads as [`append_batch`](Self::append_batch) does, without waiting. The
    /// future tells the place of the first. Without any payload it is resolved at once, if it is
    /// not refused: see [`Appended`](crate::Appended).
    pub fn append_batch_async<P: AsRef<[u8]>>(
        &self,
        payloads: impl IntoIterator<Item = P>,
    ) -> AppendFuture {
        self.node.shared.sequencer.append_batch(payloads, None).0
    }

    /// The entry at `index`, or `None` if it is not (yet) committed here. Works in every role. What
    /// `append` returned is never `None` on the node that returned it; a follower learns of a
    /// commit a little later (see [`barrier`](Self::barrier)).
    ///
    /// # Errors
    /// [`ReadError::Purged`], [`ReadError::Damaged`], [`ReadError::Storage`],
    /// [`ReadError::Forked`], [`ReadError::Stopped`].
    pub fn get(&self, index: u64) -> Result<Option<Entry>, ReadError> {
        cursor::get(&self.node.shared, index)
    }

    /// Reads what is committed here, from index `from` on. Ends where the commits end at that
    /// moment; a later call of `next` goes on if there is more.
    pub fn read(&self, from: u64) -> Cursor {
        Cursor::new(self.node.shared.clone(), from)
    }

    /// Reads from index `from` on and waits for more. Ends when the node is shut down, and with
    /// [`ReadError::Failed`] on a node that has a fault, once what it committed was read. Waits on
    /// a node that is full or under repair, which goes on by itself. Does not keep the node
    /// running.
    pub fn tail(&self, from: u64) -> Tail {
        Tail::new(self.read(from))
    }

    /// The indexes that can be read here: first retained .. first not (yet) known to be committed.
    /// Nothing can be in a forked child.
    pub fn committed(&self) -> Range<u64> {
        if !self.node.shared.home.is_here() {
            return 0..0;
        }
        let end = self.node.shared.watermark.end();
        self.node.shared.reader.base().point.next_index.min(end)..end
    }

    /// Establishes a linearizable point: every append that was acknowledged anywhere before this
    /// call lies below the index that it returns, and can be read here. Works in every role; costs
    /// one round of heartbeats of the leader.
    ///
    /// # Errors
    /// [`BarrierError::TimedOut`] after `Builder::append_timeout` without a leader that has a
    /// quorum, [`BarrierError::Refused`] if refusals are why, and any other [`BarrierError`] as
    /// soon as there is a reason for it.
    pub fn barrier(&self) -> Result<u64, BarrierError> {
        self.refuse_where_none_answers(BarrierError::CalledFromWaker, BarrierError::Forked)?;
        let (id, answer) = self.ask_for_barrier();
        match answer.recv_timeout(self.node.append_timeout) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Timeout) => {
                self.node.command(Command::ForgetBarrier { id });
                Err(self.node.shared.barrier_timed_out(self.node.append_timeout))
            }
            Err(RecvTimeoutError::Disconnected) => Err(BarrierError::Stopped),
        }
    }

    /// Follows the status of this node: the present one, and the newest one after each change.
    /// May be called at any time, also within a waker, and as often as is wished. See
    /// [`StatusWatch`].
    pub fn watch(&self) -> StatusWatch {
        StatusWatch::new(self.node.shared.clone())
    }

    /// Blocks until this node knows who leads its group, for `timeout` at most: the leader, which
    /// may be this node, once it takes appends. `None` if none was known in time, if the node is
    /// stopped or has a fault, and in a forked child. On a thread of the node, within a waker for
    /// instance, it does not wait. [`leader_async`](Self::leader_async) is the same for a task.
    ///
    /// The result is a hint where to send appends, not a promise. The leader may have lost the
    /// leadership when this returns. On a follower it may name a leader that takes appends only a
    /// moment later: followers learn of a leader from its first message, and it takes appends
    /// once the first batch of its term is committed.
    pub fn wait_for_leader(&self, timeout: Duration) -> Option<NodeId> {
        watch::wait_for_leader(&self.node.shared, timeout)
    }

    /// This node's account of itself. In a forked child: who the node is, and the reason why it
    /// does nothing there as its fault.
    pub fn status(&self) -> Status {
        self.node.shared.status()
    }

    /// Hands the leadership to another voter and blocks until that takes appends, or has failed to:
    /// at most two election timeouts. Appends wait meanwhile, up to an election timeout.
    ///
    /// # Errors
    /// Any [`TransferError`]. After [`TransferError::TimedOut`] this node leads, or the one
    /// that the group has elected or elects.
    pub fn transfer_leadership(&self, to: impl Into<NodeId>) -> Result<(), TransferError> {
        self.refuse_where_none_answers(TransferError::CalledFromWaker, TransferError::Forked)?;
        let (reply, answer) = self.node.reply();
        self.node.command(Command::Transfer { to: to.into(), reply });
        answer.recv().unwrap_or(Err(TransferError::Stopped))
    }

    /// Gives up entries below `index` on this node, to free disk space: whole segment files, and
    /// only what is committed and not [pinned](Self::pin), so that some entries below `index` may
    /// stay. Returns the first index that is kept. Each node purges for itself; a follower that
    /// still needs what its leader has purged is moved to the leader's first retained entry.
    /// Entries that were read before stay valid, and each holds the disk space of its segment as
    /// long as it is kept (see [`Entry::into_owned`]). Up to two of the files are not removed but
    /// kept for the segments to come.
    ///
    /// # Errors
    /// Any [`PurgeError`].
    pub fn purge(&self, index: u64) -> Result<u64, PurgeError> {
        self.refuse_where_none_answers(PurgeError::CalledFromWaker, PurgeError::Forked)?;
        let (reply, answer) = self.node.reply();
        self.node.command(Command::Purge { index, reply });
        answer.recv().unwrap_or(Err(PurgeError::Stopped))
    }

    /// Makes a backup of what is committed on this node: the directory `to`, which is not there yet
    /// or empty, outside of every ledger's directory, and whose parent is there. Works in every
    /// role, while appends and purges go on, and also on a node that has a fault or waits for its
    /// peers to repair its log, as long as what is committed can be read. Blocks until the backup
    /// is done, its own calls only: nothing else of the node waits.
    ///
    /// Files of the log that never change are shared with the backup if both are on one file system
    /// (hard links), and the rest is copied; elsewhere all of it is. All of it has been read and
    /// verified when this returns, and is durable. If it fails, or the process or the machine does,
    /// there is no backup at `to`. So a backup costs at least reading the log. One on the same disk
    /// holds against mistakes, not against the loss of the disk: copy it elsewhere, too.
    ///
    /// What it holds is the log from the first entry that was kept up to
    /// [`Backup::committed`]`.end`, as [`tools`](crate::tools) and [`Builder::open`] read it. See
    /// [`tools::restore`](crate::tools::restore) for how a node or a group comes back from it.
    ///
    /// # Errors
    /// Any [`BackupError`] but `InUse` and `NotAMember`. [`DLedger::shutdown`] ends it with
    /// [`BackupError::Stopped`].
    pub fn backup(&self, to: impl AsRef<Path>) -> Result<Backup, BackupError> {
        self.refuse_where_none_answers(BackupError::CalledFromWaker, BackupError::Forked)?;
        let (reply, answer) = self.node.reply();
        self.node.command(Command::Backup { reply });
        let pending = answer.recv().unwrap_or(Err(BackupError::Stopped))?;
        let watermark = &self.node.shared.watermark;
        pending.write(to.as_ref(), &|| watermark.is_closed())
    }

    /// Stops the node, for every clone of this handle: resolves every future, makes the log
    /// durable, closes it and joins every thread. What was not yet acknowledged resolves as
    /// [`AppendError::Stopped`] or, if it had been sent to peers, [`AppendError::OutcomeUnknown`].
    /// Idempotent.
    ///
    /// A leader hands the leadership to another voter first, so that its group need not miss it for
    /// an election timeout before it elects another. Each of them in turn gets a heartbeat interval
    /// to take it, at most 1 s; so it takes the last nodes of a group that much longer to stop. A
    /// node whose last handle is dropped does not do this.
    ///
    /// May be called from an observer; it then waits for no observer, of this node or another one,
    /// but for all else: two observers may shut each other's nodes down. A task that is woken by a
    /// node, this one or another, and runs at once, within the waker, may call it too, or drop the
    /// last handle; it then waits for nothing.
    ///
    /// # Errors
    /// [`ShutdownError`] if the last sync failed, or the node had failed before. It is closed all
    /// the same. [`ShutdownError::Forked`] at once in a forked child, where nothing is done.
    pub fn shutdown(&self) -> Result<(), ShutdownError> {
        if !self.node.shared.home.is_here() {
            return Err(ShutdownError::Forked);
        }
        self.node.shutdown(Some(self.node.handover_timeout))
    }

    fn ask_for_barrier(&self) -> (u64, Response<Result<u64, BarrierError>>) {
        let id = self.next_barrier();
        let (reply, answer) = self.node.reply();
        self.node.command(Command::Barrier { id, timeout: None, reply });
        (id, answer)
    }

    fn next_barrier(&self) -> u64 {
        self.node.next_barrier.fetch_add(1, Ordering::Relaxed)
    }

    /// A call that waits for a node would wait for ever on the thread that wakes for it, and in a
    /// process that has no threads of it.
    fn refuse_where_none_answers<E>(&self, in_waker: E, forked: E) -> Result<(), E> {
        match self.node.shared.home.is_here() {
            false => Err(forked),
            true => refuse_in_waker(in_waker),
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.node.append_timeout
    }

    /// The index at which an append was committed.
    fn await_commit(&self, future: AppendFuture) -> Result<u64, AppendError> {
        match future.wait_timeout(self.node.append_timeout) {
            Some(outcome) => Ok(outcome?.index),
            None => Err(AppendError::TimedOut(self.node.append_timeout)),
        }
    }
}

impl fmt::Debug for DLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DLedger").field("status", &self.status()).finish()
    }
}

impl Builder {
    /// Opens the log, joins the group and returns the handle. The only node of a group is its
    /// leader when this returns; the nodes of a larger group elect one among them once a majority
    /// is open.
    ///
    /// A node whose log is damaged opens too, and can be read. It takes no part in its group until
    /// its peers have sent it what is missing: [`Status::repair`] says what that is. Without peers
    /// it stays so, and [`Status::fault`] says what is damaged and what to do.
    ///
    /// The only node of a group opens also if its disk is too full for it to lead, to be read and
    /// purged: [`Status::full`] says so, and it leads once there is room.
    ///
    /// # Errors
    /// Any [`OpenError`]. Nothing runs and nothing is locked afterwards.
    pub fn open(self) -> Result<DLedger, OpenError> {
        self.check()?;
        let owned_by = LogPrefix::new(&self.group, self.node);
        let _adopted = owned_by.clone().adopt();
        if self.host.as_ref().is_some_and(|host| !host.home.is_here()) {
            return Err(OpenError::Forked);
        }
        if self.host.is_some() {
            refuse_in_waker(OpenError::CalledFromWaker)?;
        }
        let claim = self.host.as_ref().map(|host| host.groups.claim(&self.group)).transpose()?;
        let claim = claim.map(Arc::new);
        let (storage, transport) = self.take_given()?;
        let mut storage = match storage {
            Some(storage) => storage,
            None => Box::new(self.segmented_log()?),
        };
        let owner = LogOwner {
            group: self.group.clone(),
            node: self.node,
            cluster: cluster_id(&self.group, &self.membership().voters, self.first_position),
            membership: self.membership(),
            first_position: self.first_position,
        };
        let mut recovered = storage.open(&owner)?;
        self.check_first_position(&recovered)?;
        self.perhaps_rejoin_empty(&mut *storage, &mut recovered)?;
        let transport = transport.unwrap_or_else(|| self.default_transport());
        let mailboxes = self.host.as_ref().map(|host| host.threads.mailboxes(&owned_by));
        let queues = Queues::new(mailboxes);
        let threads =
            Threads::new(&self.group, self.node, queues.inputs.clone(), segmented::home());
        let started = self.start(&owner, recovered, storage, transport, &threads, queues, &claim);
        if started.is_err() {
            threads.join();
        }
        let ledger = started?;
        let status = ledger.status();
        if status.members.len() == 1 && status.fault.is_none() {
            ledger.await_own_leadership()?;
        }
        Ok(ledger)
    }

    /// Marks an empty log as not complete, if the host asked for that.
    fn perhaps_rejoin_empty(
        &self,
        storage: &mut dyn Storage,
        recovered: &mut Recovered,
    ) -> Result<(), OpenError> {
        if self.rejoin_empty && !rejoin_empty(storage, recovered)? {
            log::info!(
                "{}`rejoin_empty` is without effect, for its log is not empty",
                log_prefix()
            );
        }
        Ok(())
    }

    fn segmented_log(&self) -> Result<SegmentedLog, OpenError> {
        let options = SegmentOptions {
            segment_bytes: self.segment_bytes,
            zero_fill: self.flush == FlushPolicy::Sync,
            verify_on_open: self.verified,
            create: self.create,
            mapped_segments_max: self.mapped_segments_max,
            ..SegmentOptions::default()
        };
        let Some(host) = &self.host else {
            return Ok(SegmentedLog::new(self.dir.clone().unwrap_or_default(), options));
        };
        let directory = host.directory().ok_or(OpenError::HostStopped)?;
        host.refuse_if_too_many()?;
        Ok(directory.storage(&self.group, options))
    }

    fn default_transport(&self) -> Box<dyn Transport> {
        if let Some(host) = self.host.as_ref().filter(|_| self.peers.len() > 1) {
            host.transport.group()
        } else if self.peers.len() > 1 {
            Box::new(TcpTransport::new())
        } else {
            Box::new(MemoryNetwork::new().transport(self.node))
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a node meet here, once")]
    fn start(
        self,
        owner: &LogOwner,
        recovered: Recovered,
        storage: Box<dyn Storage>,
        mut transport: Box<dyn Transport>,
        threads: &Threads,
        queues: Queues,
        claim: &Option<Arc<GroupClaim>>,
    ) -> Result<DLedger, OpenError> {
        let Queues { inputs, engine_inputs, work, receivers } = queues;
        let shared = Arc::new(self.shared(&recovered, &*storage, inputs.clone())?);
        transport
            .start(self.transport_context(owner, &recovered, &shared, threads, inputs.clone()))
            .map_err(OpenError::Transport)?;
        let settings = self.engine_settings();
        let engine = Engine::new(
            settings,
            engine_inputs,
            shared.clone(),
            work,
            &recovered,
            storage,
            transport,
        )?;
        // The engine may outlive the last handle. It closes its log before the host ends.
        let host = self.host.as_ref().map(HostParts::keep);
        let claim = claim.clone().map(|claim| Box::new((claim, host)) as Claim);
        threads
            .start(engine, receivers, self.observers, self.spin, claim)
            .map_err(OpenError::Thread)?;
        let node = Arc::new(RunningNode {
            shared,
            inputs,
            threads: threads.clone(),
            append_timeout: self.append_timeout,
            handover_timeout: self.heartbeat_interval.min(HANDOVER_TIMEOUT_MAX),
            next_barrier: AtomicU64::new(0),
            id: self.node,
            host: self.host.as_ref().map(HostParts::keep),
        });
        if let Some(host) = &self.host {
            host.groups.set_running(&self.group, &node);
        }
        Ok(DLedger { node })
    }

    fn shared(
        &self,
        recovered: &Recovered,
        storage: &dyn Storage,
        inputs: Sender<Input>,
    ) -> Result<NodeShared, OpenError> {
        let limits = Limits {
            entry: self.max_entry_bytes,
            batch: self.max_batch_bytes(),
            window: self.max_in_flight_bytes,
        };
        let turn_bytes = self.host.as_ref().map_or(u64::MAX, |_| HOST_TURN_BYTES);
        // If the send fails, the engine is gone, and has closed the sequencer.
        let sequencer = Sequencer::new(limits, move || drop(inputs.send(Input::Appends)));
        let sequencer = sequencer.within(segmented::home()).spinning(self.spin);
        let sequencer = sequencer.with_turns_of(turn_bytes).calling(self.append_hook.clone());
        Ok(NodeShared::new(
            &self.group,
            self.node,
            &self.peers,
            &self.advertised,
            sequencer,
            recovered,
            storage.reader(),
        )?
        .pinning(self.pin_bytes_max)
        .sharing(self.host.as_ref().map(|host| host.inbox.clone())))
    }

    fn transport_context(
        &self,
        owner: &LogOwner,
        recovered: &Recovered,
        shared: &Arc<NodeShared>,
        threads: &Threads,
        inputs: Sender<Input>,
    ) -> TransportContext {
        TransportContext {
            node: self.node,
            group: self.group.clone(),
            cluster: owner.cluster,
            first_position: owner.first_position,
            identity: recovered.identity,
            group_uid: recovered.group_uid,
            removed: self.host.as_ref().map(|host| host.removed_groups()).unwrap_or_default(),
            addresses: self.peers.clone(),
            advertised: self.advertised.clone(),
            known: recovered.peers.clone(),
            message_bytes_max: Message::BYTES_MAX,
            inbox: inbox(shared.clone(), inputs),
            spawner: threads.spawner(),
        }
    }

    fn engine_settings(&self) -> EngineSettings {
        // Two ticks a heartbeat: election timeouts are counted in ticks, and coarse ones collide.
        let tick = self.heartbeat_interval / 2;
        let election_ticks = self.election_timeout.as_nanos().div_ceil(tick.as_nanos()) as usize;
        EngineSettings {
            replica: replica::Settings {
                group: self.group.clone(),
                node: self.node,
                election_ticks,
                heartbeat_ticks: 2,
                message_bytes: message_bytes(self.heartbeat_interval),
                counts_unsynced: matches!(self.flush, FlushPolicy::Async { .. }),
                // Without a bound by the second there is none by the tick.
                catch_up_bytes: match self.catch_up_bytes_per_second {
                    u64::MAX => u64::MAX,
                    bytes => (bytes as f64 * tick.as_secs_f64()) as u64,
                },
                seed: random(),
                new_group_uid: (u128::from(random()) << 64 | u128::from(random())).max(1),
            },
            tick,
            flush_interval: match self.flush {
                FlushPolicy::Sync => None,
                FlushPolicy::Async { interval } => Some(interval),
            },
            append_timeout: self.append_timeout,
            // Its transport does not watch over processes.
            sleep_after: self.host.as_ref().and_then(|host| host.sleep_after),
            addresses: self.peers.clone(),
            retention: self.retention,
        }
    }
}

/// What a message to a follower that catches up carries.
fn message_bytes(heartbeat: Duration) -> u64 {
    let bytes = (heartbeat.as_secs_f64() / 4.0 * READ_BYTES_PER_SECOND) as u64;
    bytes.clamp(MESSAGE_BYTES_MIN, MESSAGE_BYTES_MAX)
}

impl DLedger {
    /// Waits until this node leads its group of one, or has found that there is no room for that.
    fn await_own_leadership(&self) -> Result<(), OpenError> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let failed = |error: BarrierError| {
            Err(OpenError::Storage(StorageError::Poisoned(error.to_string())))
        };
        // The point that a barrier establishes is behind the first batch of this leader's own term.
        let (mut id, mut answer) = self.ask_for_barrier();
        loop {
            match answer.recv_timeout(READY_POLL_INTERVAL) {
                Ok(Ok(_)) if self.status().role == Role::Leader => return Ok(()),
                Ok(Ok(_)) => (id, answer) = self.ask_for_barrier(),
                Ok(Err(error)) => return failed(error),
                Err(RecvTimeoutError::Disconnected) => return failed(BarrierError::Stopped),
                Err(RecvTimeoutError::Timeout) => {
                    let is_full = self.status().full.is_some();
                    if is_full || Instant::now() >= deadline {
                        self.node.command(Command::ForgetBarrier { id });
                        return if is_full {
                            Ok(())
                        } else {
                            Err(OpenError::NotReady(READY_TIMEOUT))
                        };
                    }
                }
            }
        }
    }
}

/// A call that waits for a node would wait for ever on the thread that wakes for it.
fn refuse_in_waker<E>(error: E) -> Result<(), E> {
    if is_in_waker() { Err(error) } else { Ok(()) }
}

/// The id of a group, from its name, first members and, if that is not 0, first position, so that
/// all of them compute the same one. FNV-1a.
fn cluster_id(group: &str, voters: &[NodeId], first_position: u64) -> u64 {
    let ids = voters.iter().flat_map(|id| id.get().to_le_bytes());
    let position = Some(first_position).filter(|&position| position > 0);
    let position =
        position.into_iter().flat_map(|position| [0; 8].into_iter().chain(position.to_le_bytes()));
    group.bytes().chain([0]).chain(ids).chain(position).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A number that no other process draws, from the keys that the standard library seeds its hash
/// maps with.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(all(test, shuttle))]
mod shuttle_tests;
