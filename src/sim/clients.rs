//! Clients: they append, read, wait for barriers, purge and transfer leadership, and record their
//! operations in a [`History`].

use std::sync::Arc;
use std::time::Duration;

use super::check::{ANY, History, Invocation, Ledger, NEVER, Operation, Outcome};
use super::commit_probe::CommitProbe;
use super::config::{OPERATION_KINDS, OperationKind, RunConfig};
use super::event::ProcessRef;
use super::monitor::{Monitor, NUMBERED_BYTES_MIN};
use super::node::Node;
use super::positions::check_reads;
use super::process::Process;
use super::rng::Rng;
use super::time::Micros;
use crate::cursor::{self, Cursor};
use crate::engine::Command;
use crate::entry::NodeId;
use crate::error::{AppendError, BarrierError, PurgeError, ReadError, TransferError};
use crate::fork::Home;
use crate::future::{AppendFuture, Appended};
use crate::reply::{Response, reply};

/// Number of entries that a client reads from its tail at a time.
const TAIL_ENTRIES: usize = 16;

/// Operation weights of a client that mostly reads.
const READER_WEIGHTS: [u64; OPERATION_KINDS.len()] = {
    let mut weights = [0; OPERATION_KINDS.len()];
    (
        weights[OperationKind::Get as usize],
        weights[OperationKind::Barrier as usize],
        weights[OperationKind::Tail as usize],
    ) = (5, 3, 1);
    weights
};

struct Client {
    /// The node that it uses.
    node: usize,
    pending: usize,
    is_reader: bool,
    /// The term in which it takes itself for the master's client. It may be long past.
    term: u64,
    tail: Option<(ProcessRef, u64, Cursor)>,
}

/// A call that has not returned.
struct PendingCall {
    client: usize,
    /// Its place in the history. Transfers and purges are not recorded.
    operation: Option<usize>,
    began: Micros,
    reply: Reply,
}

/// Where the result of a call is awaited.
enum Reply {
    /// `accepted`: the number of role states that the node had announced when it accepted the
    /// append. `None` if it rejected it.
    Append {
        future: AppendFuture,
        first: u64,
        count: u32,
        /// The term that it is for.
        fence: Option<u64>,
        probe: Arc<CommitProbe>,
        accepted: Option<u64>,
    },
    Barrier {
        id: u64,
        response: Response<Result<u64, BarrierError>>,
        then_get: Option<u64>,
    },
    Transfer(Response<Result<(), TransferError>>),
    Purge(Response<Result<u64, PurgeError>>),
}

impl Reply {
    fn describe(&self) -> String {
        match self {
            Reply::Append { future, .. } => format!("{future:?}"),
            Reply::Barrier { .. } => "a barrier".to_owned(),
            Reply::Transfer(_) => "a transfer".to_owned(),
            Reply::Purge(_) => "a purge".to_owned(),
        }
    }
}

/// Clients of a run: see the [module](self).
pub(super) struct Clients {
    clients: Vec<Client>,
    pub(super) history: History,
    /// Pending calls, by node.
    calls: Vec<Vec<PendingCall>>,
    rng: Rng,
    /// For the terms of appends.
    terms: Rng,
    /// The time of the history, which only counts.
    stamp: u64,
    barriers: u64,
    /// Appends that began after this prove progress.
    progress_from: u64,
    /// An append that began after healing was acknowledged.
    pub(super) has_progress: bool,
}

impl Clients {
    pub(super) fn new(config: &RunConfig, rng: Rng) -> Clients {
        Clients {
            clients: (0..config.clients)
                .map(|n| Client {
                    node: n % config.nodes,
                    pending: 0,
                    is_reader: n + config.readers >= config.clients,
                    term: 0,
                    tail: None,
                })
                .collect(),
            history: History::default(),
            calls: (0..config.nodes).map(|_| Vec::new()).collect(),
            terms: rng.fork(1),
            rng,
            stamp: 0,
            barriers: 0,
            progress_from: u64::MAX,
            has_progress: false,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.calls.iter().all(Vec::is_empty)
    }

    /// Acknowledged appends that begin from now on prove that the group works.
    pub(super) fn expect_progress(&mut self) {
        self.progress_from = self.stamp;
        self.has_progress = false;
    }

    /// One client begins an operation, or none. Returns the pause until its next, and the node
    /// whose engine has an input.
    pub(super) fn act(
        &mut self,
        client: usize,
        now: Micros,
        config: &RunConfig,
        nodes: &mut [Node],
        monitor: &mut Monitor,
    ) -> (Micros, Option<usize>) {
        let pause = self.rng.around(config.think_mean) + 1;
        let runs = |node: &Node| node.process.is_some() && node.paused_until <= now;
        let is_reader = self.clients[client].is_reader;
        if self.rng.percent(2) || !(is_reader || runs(&nodes[self.clients[client].node])) {
            self.clients[client].node = self.rng.below(nodes.len() as u64) as usize;
        }
        let at = self.clients[client].node;
        let weights = if is_reader && self.rng.percent(80) {
            &READER_WEIGHTS
        } else {
            &config.operation_weights
        };
        let (Some(kind), true) = (self.rng.weighted(weights), runs(&nodes[at])) else {
            return (pause, None);
        };
        let Some(process) = &nodes[at].process else { return (pause, None) };
        if self.clients[client].pending >= config.depth {
            return (pause, None);
        }
        match OPERATION_KINDS[kind] {
            OperationKind::Append => self.append(client, now, process, config, monitor, 1),
            OperationKind::Batch => {
                let count = self.rng.between(2, 8) as u32;
                self.append(client, now, process, config, monitor, count);
            }
            OperationKind::TooLarge => self.append_too_large(process, config, monitor),
            OperationKind::Get if self.rng.percent(50) => self.get(client, process, monitor),
            OperationKind::Get => {
                let index = self.some_index(monitor);
                self.barrier(client, now, process, Some(index));
            }
            OperationKind::Barrier => self.barrier(client, now, process, None),
            OperationKind::Tail => self.read_tail(client, process, monitor),
            OperationKind::Transfer => self.transfer(client, now, process, nodes.len() as u64),
            OperationKind::Purge => self.purge(client, now, process, monitor),
        }
        (pause, Some(at))
    }

    fn begin(&mut self, client: usize, process: &Process, what: Invocation) -> usize {
        self.stamp += 1;
        // One client and one process: operations at another process are another session.
        let session = (process.number as u32 * self.calls.len() as u32
            + self.clients[client].node as u32)
            * self.clients.len() as u32
            + client as u32;
        self.history.operations.push(Operation { session, began: self.stamp, ended: NEVER, what });
        self.history.operations.len() - 1
    }

    fn end(&mut self, operation: usize, what: Invocation) {
        self.stamp += 1;
        let operation = &mut self.history.operations[operation];
        operation.ended = self.stamp;
        operation.what = what;
    }

    fn call(&mut self, client: usize, operation: Option<usize>, began: Micros, reply: Reply) {
        let node = self.clients[client].node;
        self.clients[client].pending += 1;
        self.calls[node].push(PendingCall { client, operation, began, reply });
    }

    fn append(
        &mut self,
        client: usize,
        now: Micros,
        process: &Process,
        config: &RunConfig,
        monitor: &mut Monitor,
        count: u32,
    ) {
        let first = monitor.offered.len() as u64;
        let payloads: Vec<Vec<u8>> = (first..first + u64::from(count))
            .map(|offer| {
                let len = if self.rng.percent(5) {
                    self.rng.below(NUMBERED_BYTES_MIN as u64)
                } else {
                    self.payload_len(config)
                };
                monitor.offered.push(len as u32);
                monitor.offer_bytes(offer, len as usize)
            })
            .collect();
        let operation = self.begin(
            client,
            process,
            Invocation::Append { first, count, outcome: Outcome::Unknown },
        );
        let fence = self.fence(client, process, config);
        for offer in first..first + u64::from(count) {
            fence.inspect(|term| monitor.fence(offer, *term));
        }
        let sequencer = &process.shared.sequencer;
        let mut future = if count == 1 && self.rng.percent(90) {
            sequencer.append_fenced(&[&payloads[0]], fence, None)
        } else {
            sequencer.append_batch_fenced(&payloads, fence, None).0
        };
        monitor.note(&[10, first, u64::from(count), future.index().unwrap_or(u64::MAX)], || {
            format!(
                "client {client}: offers {first}+{count} for {fence:?} at node {}: {future:?}",
                self.clients[client].node + 1
            )
        });
        let probe = CommitProbe::on(&mut future, &process.shared);
        let accepted = future.index().and(process.role_states());
        self.call(
            client,
            Some(operation),
            now,
            Reply::Append { future, first, count, fence, probe, accepted },
        );
    }

    /// The term that an append is for, if any: that of the node, or the one that the client took
    /// from it or another a while ago, or one beside it.
    fn fence(&mut self, client: usize, process: &Process, config: &RunConfig) -> Option<u64> {
        if !config.fences || self.terms.percent(40) {
            return None;
        }
        let now = process.shared.status.read(|status| status.term);
        let believed = &mut self.clients[client].term;
        if *believed == 0 || self.terms.percent(10) {
            *believed = now;
        }
        Some(match self.terms.below(10) {
            0 => now + 1,
            1 => now.saturating_sub(1),
            2..5 => *believed,
            _ => now,
        })
    }

    fn payload_len(&mut self, config: &RunConfig) -> u64 {
        let most = config.payload_max.min(config.entry_bytes);
        if self.rng.percent(10) {
            most
        } else {
            NUMBERED_BYTES_MIN as u64 + self.rng.below(most - NUMBERED_BYTES_MIN as u64 + 1)
        }
    }

    fn append_too_large(&mut self, process: &Process, config: &RunConfig, monitor: &mut Monitor) {
        let outcome = process
            .shared
            .sequencer
            .append(&vec![0; config.entry_bytes as usize + 1], None)
            .wait_timeout(Duration::ZERO);
        let refused = matches!(outcome, Some(Err(AppendError::TooLarge { .. })));
        monitor.demand(refused, || format!("an append beyond the limit ended with {outcome:?}"));
    }

    /// An index of the ledger, or just after it. Half of them are near the end.
    fn some_index(&mut self, monitor: &Monitor) -> u64 {
        let end = monitor.ledger.len() as u64;
        if self.rng.percent(50) {
            end.saturating_sub(4) + self.rng.below(6)
        } else {
            self.rng.below(end + 2)
        }
    }

    fn get(&mut self, client: usize, process: &Process, monitor: &mut Monitor) {
        let index = self.some_index(monitor);
        let operation = self.begin(
            client,
            process,
            Invocation::Get { index, found: None, linearizable: false },
        );
        self.finish_get(operation, index, false, process, monitor);
    }

    fn finish_get(
        &mut self,
        operation: usize,
        index: u64,
        linearizable: bool,
        process: &Process,
        monitor: &mut Monitor,
    ) {
        match cursor::get(&process.shared, index) {
            Ok(found) => {
                let node = self.node_of(process, monitor);
                if let Some(entry) = &found {
                    monitor.check_entry(node, index, entry.term(), entry);
                    let first_position = monitor.first_position();
                    if let Err(why) = check_reads(&process.shared, entry, first_position) {
                        monitor.violated(format!("A5: node {}: {why}", node + 1));
                    }
                }
                monitor.note(&[11, index, u64::from(found.is_some())], || {
                    format!("get {index}: {found:?}")
                });
                let found = found.map(|entry| {
                    monitor
                        .ledger
                        .get(entry.index() as usize)
                        .and_then(|shown| shown.payload)
                        .unwrap_or(ANY)
                });
                // A payload that is too short to identify proves nothing.
                let what = if found == Some(ANY) {
                    Invocation::Get { index, found: None, linearizable: false }
                } else {
                    Invocation::Get { index, found, linearizable }
                };
                self.end(operation, what);
            }
            Err(ReadError::Purged { .. }) => monitor.coverage.hit("reads of purged entries"),
            Err(ReadError::Damaged { .. })
                if monitor.models[self.node_of(process, monitor)].is_corrupt =>
            {
                monitor.coverage.hit("reads of corrupt entries")
            }
            Err(error) => monitor.violated(format!("A1: entry {index} cannot be read: {error}")),
        }
    }

    fn node_of(&self, process: &Process, monitor: &Monitor) -> usize {
        debug_assert!(monitor.models.len() == self.calls.len());
        process.shared.status().id.get() as usize - 1
    }

    fn barrier(&mut self, client: usize, now: Micros, process: &Process, then_get: Option<u64>) {
        // Without a result it proves nothing.
        let operation = self.begin(
            client,
            process,
            Invocation::Get { index: 0, found: None, linearizable: false },
        );
        self.barriers += 1;
        let (reply, response) = reply(Home::default());
        process.command(Command::Barrier { id: self.barriers, timeout: None, reply });
        self.call(
            client,
            Some(operation),
            now,
            Reply::Barrier { id: self.barriers, response, then_get },
        );
    }

    fn transfer(&mut self, client: usize, now: Micros, process: &Process, nodes: u64) {
        let (reply, response) = reply(Home::default());
        let to = NodeId::from(self.rng.between(1, nodes + u64::from(self.rng.clone().percent(5))));
        process.command(Command::Transfer { to, reply });
        self.call(client, None, now, Reply::Transfer(response));
    }

    fn purge(&mut self, client: usize, now: Micros, process: &Process, monitor: &Monitor) {
        let (reply, response) = reply(Home::default());
        let index = monitor.ledger.len() as u64 * self.rng.between(0, 110) / 100;
        process.command(Command::Purge { index, reply });
        self.call(client, None, now, Reply::Purge(response));
    }

    /// Continues the tail of this client; begins a new one at another process.
    fn read_tail(&mut self, client: usize, process: &Process, monitor: &mut Monitor) {
        let node = self.clients[client].node;
        let at = ProcessRef { node, process: process.number };
        let begin = || {
            let from = process.shared.status().committed.start;
            (at, from, Cursor::new(process.shared.clone(), from))
        };
        let tail = self.clients[client].tail.take().filter(|(begun_at, ..)| *begun_at == at);
        let (_, mut next, mut cursor) = tail.unwrap_or_else(begin);
        for _ in 0..TAIL_ENTRIES {
            match cursor.next() {
                None => break,
                Some(Ok(entry)) => {
                    monitor.demand(entry.index() == next, || {
                        format!("A4: a tail gives entry {} where {next} is due", entry.index())
                    });
                    monitor.check_entry(node, entry.index(), entry.term(), &entry);
                    monitor.coverage.hit("entries read by tails");
                    next += 1;
                }
                Some(Err(ReadError::Purged { .. })) => {
                    monitor.coverage.hit("tails that were overtaken by a purge");
                    return;
                }
                Some(Err(ReadError::Damaged { .. })) if monitor.models[node].is_corrupt => return,
                Some(Err(error)) => {
                    return monitor.violated(format!("A1: a tail ends at entry {next}: {error}"));
                }
            }
        }
        self.clients[client].tail = Some((at, next, cursor));
    }

    /// Takes the results of the calls at a node, after a turn of its engine.
    pub(super) fn take_results(
        &mut self,
        node: usize,
        now: Micros,
        process: &Process,
        config: &RunConfig,
        monitor: &mut Monitor,
    ) {
        let calls = std::mem::take(&mut self.calls[node]);
        for call in calls {
            if let Some(call) = self.take_result(call, now, process, config, monitor) {
                self.calls[node].push(call);
            }
        }
    }

    /// Takes the result of a call, or returns the call if there is none.
    fn take_result(
        &mut self,
        call: PendingCall,
        now: Micros,
        process: &Process,
        config: &RunConfig,
        monitor: &mut Monitor,
    ) -> Option<PendingCall> {
        let is_late = now.saturating_sub(call.began) > config.append_timeout;
        match &call.reply {
            Reply::Append { future, first, count, fence, probe, accepted } => {
                let (first, count) = (*first, *count);
                let outcome = future.wait_timeout(Duration::ZERO);
                let Some(outcome) = outcome else { return Some(call) };
                match &outcome {
                    Ok(appended) => {
                        let is_readable = probe.end() >= appended.index + u64::from(count);
                        monitor.demand(is_readable, || {
                            format!(
                                "A1: {appended:?} was acknowledged when {} entries were readable",
                                probe.end()
                            )
                        });
                    }
                    // A leader drops an accepted append only when it loses its leadership.
                    Err(error) => {
                        let may_reject = error.may_have_committed()
                            || accepted.is_none()
                            || *accepted != process.role_states();
                        monitor.demand(may_reject, || {
                            format!(
                                "A4: {future:?} was accepted, and is rejected by a leader that is \
                                 still one: {error}"
                            )
                        });
                    }
                }
                check_term(*fence, &outcome, monitor);
                self.end_append(&call, first, count, outcome, monitor);
            }
            Reply::Barrier { id, response, then_get } => match response.try_recv() {
                Ok(outcome) => self.end_barrier(&call, *then_get, outcome, process, monitor),
                Err(_) if is_late => {
                    process.command(Command::ForgetBarrier { id: *id });
                    monitor.coverage.hit("barriers that timed out");
                }
                Err(_) => return Some(call),
            },
            Reply::Transfer(response) => match response.try_recv() {
                Ok(outcome) => monitor.coverage.hit(if outcome.is_ok() {
                    "transfers that succeeded"
                } else {
                    "transfers that failed"
                }),
                Err(_) => return Some(call),
            },
            Reply::Purge(response) => {
                if response.try_recv().is_err() {
                    return Some(call);
                }
            }
        }
        self.clients[call.client].pending -= 1;
        None
    }

    fn end_append(
        &mut self,
        call: &PendingCall,
        first: u64,
        count: u32,
        outcome: Result<Appended, AppendError>,
        monitor: &mut Monitor,
    ) {
        let operation = call.operation.expect("every append is recorded");
        let recorded = match &outcome {
            Ok(appended) => {
                for nth in 0..u64::from(count) {
                    let len = monitor.offered[(first + nth) as usize];
                    monitor.acknowledge(first + nth, len, appended.index + nth, appended.term);
                }
                self.has_progress |= self.history.operations[operation].began > self.progress_from;
                monitor.coverage.hit("appends acknowledged");
                Outcome::Acknowledged(appended.index)
            }
            Err(error) if error.may_have_committed() => {
                monitor.coverage.hit("appends of unknown outcome");
                Outcome::Unknown
            }
            Err(error) => {
                if let AppendError::NotLeader { leader: Some(leader), .. } = error
                    && !self.clients[call.client].is_reader
                {
                    self.clients[call.client].node = leader.get() as usize - 1;
                }
                monitor.coverage.hit("appends rejected");
                Outcome::Refused
            }
        };
        let number = if let Outcome::Acknowledged(index) = recorded { index } else { u64::MAX };
        monitor.note(&[12, first, number], || {
            format!("client {}: {first}+{count}: {outcome:?}", call.client)
        });
        self.end(operation, Invocation::Append { first, count, outcome: recorded });
    }

    fn end_barrier(
        &mut self,
        call: &PendingCall,
        then_get: Option<u64>,
        outcome: Result<u64, BarrierError>,
        process: &Process,
        monitor: &mut Monitor,
    ) {
        let operation = call.operation.expect("every barrier is recorded");
        let Ok(end) = outcome else { return };
        monitor.coverage.hit("barriers");
        monitor.note(&[13, end], || format!("client {}: barrier at {end}", call.client));
        match then_get {
            None => self.end(operation, Invocation::Barrier(end)),
            Some(index) => self.finish_get(operation, index, true, process, monitor),
        }
    }

    /// A process has ended. Calls without a result have an unknown outcome.
    pub(super) fn drop_calls(
        &mut self,
        node: usize,
        now: Micros,
        process: &Process,
        config: &RunConfig,
        monitor: &mut Monitor,
    ) {
        self.take_results(node, now, process, config, monitor);
        for call in std::mem::take(&mut self.calls[node]) {
            self.clients[call.client].pending -= 1;
        }
    }

    /// A call that has waited for longer than `limit`.
    pub(super) fn overdue(&self, now: Micros, limit: Micros) -> Option<String> {
        let calls = self
            .calls
            .iter()
            .enumerate()
            .flat_map(|(node, calls)| calls.iter().map(move |call| (node, call)));
        let late =
            calls.filter(|(_, call)| now.saturating_sub(call.began) > limit).map(|(node, call)| {
                let what = call.reply.describe();
                format!(
                    "{what} has waited for {} ms at node {}",
                    (now - call.began) / 1000,
                    node + 1
                )
            });
        late.into_iter().next()
    }

    /// A pending call at this node.
    pub(super) fn unanswered(&self, node: usize) -> Option<String> {
        self.calls[node].first().map(|call| call.reply.describe())
    }

    pub(super) fn ledger(&self, monitor: &Monitor) -> Ledger {
        Ledger {
            first: 0,
            payloads: monitor.ledger.iter().map(|shown| shown.payload.unwrap_or(ANY)).collect(),
        }
    }
}

/// An append for a term is acknowledged in that term, and refused for its term only if that is
/// another one. That it is then in no term follows from the history.
fn check_term(fence: Option<u64>, outcome: &Result<Appended, AppendError>, monitor: &mut Monitor) {
    let (is_right, event) = match (outcome, fence) {
        (Ok(appended), Some(wanted)) => (appended.term == wanted, "appends for a term"),
        (Err(AppendError::WrongTerm { wanted, term, .. }), fence) => {
            (fence == Some(*wanted) && wanted != term, "appends refused for their term")
        }
        (Err(AppendError::HookPanicked { .. }), _) => (true, "appends whose hook panicked"),
        _ => return,
    };
    monitor.coverage.hit(event);
    monitor
        .demand(is_right, || format!("A12: an append for term {fence:?} ended with {outcome:?}"));
}
