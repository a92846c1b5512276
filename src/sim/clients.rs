//! The hosts: they append, read, wait and hand over leaderships, and write down what they asked for
//! and what they were told.

use std::sync::Arc;
use std::time::Duration;

use super::check::{ANY, History, Invocation, Ledger, NEVER, Operation, Outcome};
use super::commit_probe::CommitProbe;
use super::config::{OperationKind, RunConfig, WISHES};
use super::event_queue::{Micros, ProcessRef};
use super::monitor::{Monitor, TELLING_BYTES, offer_bytes};
use super::node::{Node, Process};
use super::rng::Rng;
use crate::cursor::{self, Cursor};
use crate::engine::Command;
use crate::entry::NodeId;
use crate::error::{AppendError, BarrierError, PurgeError, ReadError, TransferError};
use crate::fork::Home;
use crate::future::{AppendFuture, Appended};
use crate::reply::{Response, reply};

/// Entries that a host reads from its tail at a time.
const TAIL_ENTRIES: usize = 16;

/// What a host wishes that mostly reads.
const READS: [u64; WISHES.len()] = {
    let mut wishes = [0; WISHES.len()];
    (
        wishes[OperationKind::Get as usize],
        wishes[OperationKind::Barrier as usize],
        wishes[OperationKind::Tail as usize],
    ) = (5, 3, 1);
    wishes
};

struct Client {
    /// Whom it turns to.
    node: usize,
    under_way: usize,
    is_reader: bool,
    tail: Option<(ProcessRef, u64, Cursor)>,
}

/// A call that has not returned.
struct PendingCall {
    host: usize,
    /// Its place in the history. Transfers and purges are not written down.
    operation: Option<usize>,
    began: Micros,
    answer: Answer,
}

enum Answer {
    /// `taken`: how often the node had said what it is when it took this. `None` if it did not take
    /// it.
    Append {
        future: AppendFuture,
        first: u64,
        count: u32,
        commit_probe: Arc<CommitProbe>,
        taken: Option<u64>,
    },
    Barrier {
        id: u64,
        answer: Response<Result<u64, BarrierError>>,
        then_get: Option<u64>,
    },
    Transfer(Response<Result<(), TransferError>>),
    Purge(Response<Result<u64, PurgeError>>),
}

impl Answer {
    fn describe(&self) -> String {
        match self {
            Answer::Append { future, .. } => format!("{future:?}"),
            Answer::Barrier { .. } => "a barrier".to_owned(),
            Answer::Transfer(_) => "a transfer".to_owned(),
            Answer::Purge(_) => "a purge".to_owned(),
        }
    }
}

/// See the [module](self).
pub(super) struct Clients {
    clients: Vec<Client>,
    pub(super) history: History,
    /// The calls under way at each node.
    calls: Vec<Vec<PendingCall>>,
    rng: Rng,
    /// The moment in the history.
    stamp: u64,
    barriers: u64,
    /// Appends that began no earlier than this count for `fresh`.
    pub(super) fresh_from: u64,
    /// The first append that began after everything had healed was acknowledged.
    pub(super) fresh: bool,
}

impl Clients {
    pub(super) fn new(config: &RunConfig, rng: Rng) -> Clients {
        Clients {
            clients: (0..config.clients)
                .map(|n| Client {
                    node: n % config.nodes,
                    under_way: 0,
                    is_reader: n + config.readers >= config.clients,
                    tail: None,
                })
                .collect(),
            history: History::default(),
            calls: (0..config.nodes).map(|_| Vec::new()).collect(),
            rng,
            stamp: 0,
            barriers: 0,
            fresh_from: u64::MAX,
            fresh: false,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.calls.iter().all(Vec::is_empty)
    }

    /// From now on acknowledged appends prove that the group works.
    pub(super) fn expect_progress(&mut self) {
        self.fresh_from = self.stamp;
    }

    /// One host does something. Returns how long it then thinks, and which node's engine has
    /// something to do.
    pub(super) fn act(
        &mut self,
        host: usize,
        now: Micros,
        config: &RunConfig,
        nodes: &mut [Node],
        monitor: &mut Monitor,
    ) -> (Micros, Option<usize>) {
        let pause = self.rng.around(config.think_mean) + 1;
        let awake = |node: &Node| node.process.is_some() && node.asleep_until <= now;
        let is_reader = self.clients[host].is_reader;
        if self.rng.percent(2) || !(is_reader || awake(&nodes[self.clients[host].node])) {
            self.clients[host].node = self.rng.below(nodes.len() as u64) as usize;
        }
        let at = self.clients[host].node;
        let wishes = if is_reader && self.rng.percent(80) { &READS } else { &config.wishes };
        let (Some(wish), true) = (self.rng.weighted(wishes), awake(&nodes[at])) else {
            return (pause, None);
        };
        let Some(process) = &nodes[at].process else { return (pause, None) };
        if self.clients[host].under_way >= config.depth {
            return (pause, None);
        }
        match WISHES[wish] {
            OperationKind::Append => self.append(host, now, process, config, monitor, 1),
            OperationKind::Batch => {
                let count = self.rng.between(2, 8) as u32;
                self.append(host, now, process, config, monitor, count);
            }
            OperationKind::TooLarge => self.append_too_large(process, config, monitor),
            OperationKind::Get if self.rng.percent(50) => self.get(host, process, monitor),
            OperationKind::Get => {
                let index = self.some_index(monitor);
                self.barrier(host, now, process, Some(index));
            }
            OperationKind::Barrier => self.barrier(host, now, process, None),
            OperationKind::Tail => self.read_tail(host, process, monitor),
            OperationKind::Transfer => self.transfer(host, now, process, nodes.len() as u64),
            OperationKind::Purge => self.purge(host, now, process, monitor),
        }
        (pause, Some(at))
    }

    fn begin(&mut self, host: usize, process: &Process, what: Invocation) -> usize {
        self.stamp += 1;
        // Of one host and one life: what it asked before, and of whom, is another session.
        let session = (process.number as u32 * self.calls.len() as u32
            + self.clients[host].node as u32)
            * self.clients.len() as u32
            + host as u32;
        self.history.operations.push(Operation { session, began: self.stamp, ended: NEVER, what });
        self.history.operations.len() - 1
    }

    fn end(&mut self, operation: usize, what: Invocation) {
        self.stamp += 1;
        let operation = &mut self.history.operations[operation];
        operation.ended = self.stamp;
        operation.what = what;
    }

    fn call(&mut self, host: usize, operation: Option<usize>, began: Micros, answer: Answer) {
        let node = self.clients[host].node;
        self.clients[host].under_way += 1;
        self.calls[node].push(PendingCall { host, operation, began, answer });
    }

    fn append(
        &mut self,
        host: usize,
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
                    self.rng.below(TELLING_BYTES as u64)
                } else {
                    self.payload_len(config)
                };
                monitor.offered.push(len as u32);
                offer_bytes(offer, len as usize)
            })
            .collect();
        let operation = self.begin(
            host,
            process,
            Invocation::Append { first, count, outcome: Outcome::Unknown },
        );
        let mut future = if count == 1 && self.rng.percent(90) {
            process.shared.sequencer.append(&payloads[0], None)
        } else {
            process.shared.sequencer.append_batch(&payloads, None).0
        };
        monitor.note(&[10, first, u64::from(count), future.index().unwrap_or(u64::MAX)], || {
            format!(
                "host {host}: offers {first}+{count} at node {}: {future:?}",
                self.clients[host].node + 1
            )
        });
        let commit_probe = CommitProbe::on(&mut future, &process.shared);
        let taken = future.index().and(process.role_states());
        self.call(
            host,
            Some(operation),
            now,
            Answer::Append { future, first, count, commit_probe, taken },
        );
    }

    fn payload_len(&mut self, config: &RunConfig) -> u64 {
        let most = config.payload_max.min(config.entry_bytes);
        if self.rng.percent(10) {
            most
        } else {
            TELLING_BYTES as u64 + self.rng.below(most - TELLING_BYTES as u64 + 1)
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

    /// Somewhere in the ledger, or a little beyond; the end more often than the rest.
    fn some_index(&mut self, monitor: &Monitor) -> u64 {
        let end = monitor.ledger.len() as u64;
        if self.rng.percent(50) {
            end.saturating_sub(4) + self.rng.below(6)
        } else {
            self.rng.below(end + 2)
        }
    }

    fn get(&mut self, host: usize, process: &Process, monitor: &mut Monitor) {
        let index = self.some_index(monitor);
        let operation =
            self.begin(host, process, Invocation::Get { index, found: None, linearizable: false });
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
                    monitor.show_entry(node, index, entry);
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
                // What cannot be told says only that something is there.
                let what = if found == Some(ANY) {
                    Invocation::Get { index, found: None, linearizable: false }
                } else {
                    Invocation::Get { index, found, linearizable }
                };
                self.end(operation, what);
            }
            Err(ReadError::Purged { .. }) => monitor.coverage.saw("reads of what was purged"),
            Err(ReadError::Damaged { .. })
                if monitor.models[self.node_of(process, monitor)].is_damaged =>
            {
                monitor.coverage.saw("reads of what was damaged")
            }
            Err(error) => monitor.violated(format!("A1: entry {index} cannot be read: {error}")),
        }
    }

    fn node_of(&self, process: &Process, monitor: &Monitor) -> usize {
        debug_assert!(monitor.models.len() == self.calls.len());
        process.shared.status().id.get() as usize - 1
    }

    fn barrier(&mut self, host: usize, now: Micros, process: &Process, then_get: Option<u64>) {
        // Until it is answered it says nothing.
        let operation = self.begin(
            host,
            process,
            Invocation::Get { index: 0, found: None, linearizable: false },
        );
        self.barriers += 1;
        let (reply, answer) = reply(Home::default());
        process.command(Command::Barrier { id: self.barriers, timeout: None, reply });
        self.call(
            host,
            Some(operation),
            now,
            Answer::Barrier { id: self.barriers, answer, then_get },
        );
    }

    fn transfer(&mut self, host: usize, now: Micros, process: &Process, nodes: u64) {
        let (reply, answer) = reply(Home::default());
        let to = NodeId::from(self.rng.between(1, nodes + u64::from(self.rng.clone().percent(5))));
        process.command(Command::Transfer { to, reply });
        self.call(host, None, now, Answer::Transfer(answer));
    }

    fn purge(&mut self, host: usize, now: Micros, process: &Process, monitor: &Monitor) {
        let (reply, answer) = reply(Home::default());
        let index = monitor.ledger.len() as u64 * self.rng.between(0, 110) / 100;
        process.command(Command::Purge { index, reply });
        self.call(host, None, now, Answer::Purge(answer));
    }

    /// Reads on where this host left off, from the beginning if it has not read at this life of the
    /// node.
    fn read_tail(&mut self, host: usize, process: &Process, monitor: &mut Monitor) {
        let node = self.clients[host].node;
        let who = ProcessRef { node, process: process.number };
        let begin = || {
            let from = process.shared.status().committed.start;
            (who, from, Cursor::new(process.shared.clone(), from))
        };
        let tail = self.clients[host].tail.take().filter(|(whom, ..)| *whom == who);
        let (_, mut next, mut cursor) = tail.unwrap_or_else(begin);
        for _ in 0..TAIL_ENTRIES {
            match cursor.next() {
                None => break,
                Some(Ok(entry)) => {
                    monitor.demand(entry.index() == next, || {
                        format!("A4: a tail gives entry {} where {next} is due", entry.index())
                    });
                    monitor.show_entry(node, entry.index(), &entry);
                    monitor.coverage.saw("entries read by tails");
                    next += 1;
                }
                Some(Err(ReadError::Purged { .. })) => {
                    monitor.coverage.saw("tails that were overtaken by a purge");
                    return;
                }
                Some(Err(ReadError::Damaged { .. })) if monitor.models[node].is_damaged => return,
                Some(Err(error)) => {
                    return monitor.violated(format!("A1: a tail ends at entry {next}: {error}"));
                }
            }
        }
        self.clients[host].tail = Some((who, next, cursor));
    }

    /// Looks after the calls at a node once its engine was driven. Every answer is there as soon as
    /// it is given.
    pub(super) fn settle(
        &mut self,
        node: usize,
        now: Micros,
        process: &Process,
        config: &RunConfig,
        monitor: &mut Monitor,
    ) {
        let calls = std::mem::take(&mut self.calls[node]);
        for call in calls {
            if let Some(call) = self.look(call, now, process, config, monitor) {
                self.calls[node].push(call);
            }
        }
    }

    /// Takes the answer to a call, or gives the call back.
    fn look(
        &mut self,
        call: PendingCall,
        now: Micros,
        process: &Process,
        config: &RunConfig,
        monitor: &mut Monitor,
    ) -> Option<PendingCall> {
        let late = now.saturating_sub(call.began) > config.append_timeout;
        match &call.answer {
            Answer::Append { future, first, count, commit_probe, taken } => {
                let (first, count) = (*first, *count);
                let outcome = future.wait_timeout(Duration::ZERO);
                let Some(outcome) = outcome else { return Some(call) };
                match &outcome {
                    Ok(appended) => {
                        let readable = commit_probe.end() >= appended.index + u64::from(count);
                        monitor.demand(readable, || format!("A1: {appended:?} was acknowledged when {} entries could be read", commit_probe.end()));
                    }
                    // What a leader has given a number it gives up with its leadership, and not
                    // before.
                    Err(error) => monitor.demand(error.may_have_committed() || taken.is_none() || *taken != process.role_states(), || {
                        format!("A4: {future:?} was taken, and is refused by a leader that is still one: {error}")
                    }),
                }
                self.end_append(&call, first, count, outcome, monitor);
            }
            Answer::Barrier { id, answer, then_get } => match answer.try_recv() {
                Ok(outcome) => self.end_barrier(&call, *then_get, outcome, process, monitor),
                Err(_) if late => {
                    process.command(Command::ForgetBarrier { id: *id });
                    monitor.coverage.saw("barriers that timed out");
                }
                Err(_) => return Some(call),
            },
            Answer::Transfer(answer) => match answer.try_recv() {
                Ok(outcome) => monitor.coverage.saw(if outcome.is_ok() {
                    "transfers that succeeded"
                } else {
                    "transfers that failed"
                }),
                Err(_) => return Some(call),
            },
            Answer::Purge(answer) => {
                if answer.try_recv().is_err() {
                    return Some(call);
                }
            }
        }
        self.clients[call.host].under_way -= 1;
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
        let operation = call.operation.expect("every append is written down");
        let told = match &outcome {
            Ok(appended) => {
                for nth in 0..u64::from(count) {
                    let len = monitor.offered[(first + nth) as usize];
                    monitor.acknowledge(first + nth, len, appended.index + nth, appended.term);
                }
                self.fresh |= self.history.operations[operation].began > self.fresh_from;
                monitor.coverage.saw("appends acknowledged");
                Outcome::Acknowledged(appended.index)
            }
            Err(error) if error.may_have_committed() => {
                monitor.coverage.saw("appends of unknown outcome");
                Outcome::Unknown
            }
            Err(error) => {
                if let AppendError::NotLeader { leader: Some(leader), .. } = error
                    && !self.clients[call.host].is_reader
                {
                    self.clients[call.host].node = leader.get() as usize - 1;
                }
                monitor.coverage.saw("appends refused");
                Outcome::Refused
            }
        };
        let number = if let Outcome::Acknowledged(index) = told { index } else { u64::MAX };
        monitor.note(&[12, first, number], || {
            format!("host {}: {first}+{count}: {outcome:?}", call.host)
        });
        self.end(operation, Invocation::Append { first, count, outcome: told });
    }

    fn end_barrier(
        &mut self,
        call: &PendingCall,
        then_get: Option<u64>,
        outcome: Result<u64, BarrierError>,
        process: &Process,
        monitor: &mut Monitor,
    ) {
        let operation = call.operation.expect("every barrier is written down");
        let Ok(end) = outcome else { return };
        monitor.coverage.saw("barriers");
        monitor.note(&[13, end], || format!("host {}: barrier at {end}", call.host));
        match then_get {
            None => self.end(operation, Invocation::Barrier(end)),
            Some(index) => self.finish_get(operation, index, true, process, monitor),
        }
    }

    /// A node is gone. What it had answered was answered; the rest nobody knows.
    pub(super) fn bereave(
        &mut self,
        node: usize,
        now: Micros,
        process: &Process,
        config: &RunConfig,
        monitor: &mut Monitor,
    ) {
        self.settle(node, now, process, config, monitor);
        for call in std::mem::take(&mut self.calls[node]) {
            self.clients[call.host].under_way -= 1;
        }
    }

    /// The calls that have waited for longer than any may.
    pub(super) fn overdue(&self, now: Micros, patience: Micros) -> Option<String> {
        let calls = self
            .calls
            .iter()
            .enumerate()
            .flat_map(|(node, calls)| calls.iter().map(move |call| (node, call)));
        let late = calls.filter(|(_, call)| now.saturating_sub(call.began) > patience).map(
            |(node, call)| {
                let what = call.answer.describe();
                format!(
                    "{what} has waited for {} ms at node {}",
                    (now - call.began) / 1000,
                    node + 1
                )
            },
        );
        late.into_iter().next()
    }

    /// A call that a node which does nothing more has not answered.
    pub(super) fn unanswered(&self, node: usize) -> Option<String> {
        self.calls[node].first().map(|call| call.answer.describe())
    }

    pub(super) fn ledger(&self, monitor: &Monitor) -> Ledger {
        Ledger {
            first: 0,
            payloads: monitor.ledger.iter().map(|shown| shown.payload.unwrap_or(ANY)).collect(),
        }
    }
}
