//! The hosts: they append, read, wait and hand over leaderships, and write down what they asked for and what they were told.

use std::sync::Arc;
use std::time::Duration;

use super::agenda::{Micros, Who};
use super::bell::Bell;
use super::chance::Chance;
use super::check::{ANY, History, Ledger, NEVER, Operation, Outcome, What};
use super::node::{Life, Node};
use super::swarm::{Swarm, WISHES, Wish};
use super::watch::{TELLING_BYTES, Watch, offer_bytes};
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
    (wishes[Wish::Get as usize], wishes[Wish::Barrier as usize], wishes[Wish::Tail as usize]) = (5, 3, 1);
    wishes
};

struct Host {
    /// Whom it turns to.
    node: usize,
    under_way: usize,
    is_reader: bool,
    tail: Option<(Who, u64, Cursor)>,
}

/// A call that has not returned.
struct Call {
    host: usize,
    /// Its place in the history. Transfers and purges are not written down.
    operation: Option<usize>,
    began: Micros,
    answer: Answer,
}

enum Answer {
    /// `taken`: how often the node had said what it is when it took this. `None` if it did not take it.
    Append {
        future: AppendFuture,
        first: u64,
        count: u32,
        bell: Arc<Bell>,
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
pub(super) struct Hosts {
    hosts: Vec<Host>,
    pub(super) history: History,
    /// The calls under way at each node.
    calls: Vec<Vec<Call>>,
    chance: Chance,
    /// The moment in the history.
    stamp: u64,
    barriers: u64,
    /// Appends that began no earlier than this count for `fresh`.
    pub(super) fresh_from: u64,
    /// The first append that began after everything had healed was acknowledged.
    pub(super) fresh: bool,
}

impl Hosts {
    pub(super) fn new(swarm: &Swarm, chance: Chance) -> Hosts {
        Hosts {
            hosts: (0..swarm.hosts)
                .map(|n| Host { node: n % swarm.nodes, under_way: 0, is_reader: n + swarm.readers >= swarm.hosts, tail: None })
                .collect(),
            history: History::default(),
            calls: (0..swarm.nodes).map(|_| Vec::new()).collect(),
            chance,
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

    /// One host does something. Returns how long it then thinks, and which node's engine has something to do.
    pub(super) fn act(
        &mut self,
        host: usize,
        now: Micros,
        swarm: &Swarm,
        nodes: &mut [Node],
        watch: &mut Watch,
    ) -> (Micros, Option<usize>) {
        let pause = self.chance.around(swarm.think_mean) + 1;
        let awake = |node: &Node| node.life.is_some() && node.asleep_until <= now;
        let is_reader = self.hosts[host].is_reader;
        if self.chance.percent(2) || !(is_reader || awake(&nodes[self.hosts[host].node])) {
            self.hosts[host].node = self.chance.below(nodes.len() as u64) as usize;
        }
        let at = self.hosts[host].node;
        let wishes = if is_reader && self.chance.percent(80) { &READS } else { &swarm.wishes };
        let (Some(wish), true) = (self.chance.weighted(wishes), awake(&nodes[at])) else { return (pause, None) };
        let Some(life) = &nodes[at].life else { return (pause, None) };
        if self.hosts[host].under_way >= swarm.depth {
            return (pause, None);
        }
        match WISHES[wish] {
            Wish::Append => self.append(host, now, life, swarm, watch, 1),
            Wish::Batch => {
                let count = self.chance.between(2, 8) as u32;
                self.append(host, now, life, swarm, watch, count);
            }
            Wish::TooLarge => self.append_too_large(life, swarm, watch),
            Wish::Get if self.chance.percent(50) => self.get(host, life, watch),
            Wish::Get => {
                let index = self.some_index(watch);
                self.barrier(host, now, life, Some(index));
            }
            Wish::Barrier => self.barrier(host, now, life, None),
            Wish::Tail => self.read_tail(host, life, watch),
            Wish::Transfer => self.transfer(host, now, life, nodes.len() as u64),
            Wish::Purge => self.purge(host, now, life, watch),
        }
        (pause, Some(at))
    }

    fn begin(&mut self, host: usize, life: &Life, what: What) -> usize {
        self.stamp += 1;
        // Of one host and one life: what it asked before, and of whom, is another session.
        let session = (life.number as u32 * self.calls.len() as u32 + self.hosts[host].node as u32) * self.hosts.len() as u32 + host as u32;
        self.history.operations.push(Operation { session, began: self.stamp, ended: NEVER, what });
        self.history.operations.len() - 1
    }

    fn end(&mut self, operation: usize, what: What) {
        self.stamp += 1;
        let operation = &mut self.history.operations[operation];
        operation.ended = self.stamp;
        operation.what = what;
    }

    fn call(&mut self, host: usize, operation: Option<usize>, began: Micros, answer: Answer) {
        let node = self.hosts[host].node;
        self.hosts[host].under_way += 1;
        self.calls[node].push(Call { host, operation, began, answer });
    }

    fn append(&mut self, host: usize, now: Micros, life: &Life, swarm: &Swarm, watch: &mut Watch, count: u32) {
        let first = watch.offered.len() as u64;
        let payloads: Vec<Vec<u8>> = (first..first + u64::from(count))
            .map(|offer| {
                let len = if self.chance.percent(5) { self.chance.below(TELLING_BYTES as u64) } else { self.payload_len(swarm) };
                watch.offered.push(len as u32);
                offer_bytes(offer, len as usize)
            })
            .collect();
        let operation = self.begin(host, life, What::Append { first, count, outcome: Outcome::Unknown });
        let mut future = if count == 1 && self.chance.percent(90) {
            life.shared.sequencer.append(&payloads[0], None)
        } else {
            life.shared.sequencer.append_batch(&payloads, None).0
        };
        watch.note(&[10, first, u64::from(count), future.index().unwrap_or(u64::MAX)], || {
            format!("host {host}: offers {first}+{count} at node {}: {future:?}", self.hosts[host].node + 1)
        });
        let bell = Bell::on(&mut future, &life.shared);
        let taken = future.index().and(life.standings());
        self.call(host, Some(operation), now, Answer::Append { future, first, count, bell, taken });
    }

    fn payload_len(&mut self, swarm: &Swarm) -> u64 {
        let most = swarm.payload_max.min(swarm.entry_bytes);
        if self.chance.percent(10) { most } else { TELLING_BYTES as u64 + self.chance.below(most - TELLING_BYTES as u64 + 1) }
    }

    fn append_too_large(&mut self, life: &Life, swarm: &Swarm, watch: &mut Watch) {
        let outcome = life.shared.sequencer.append(&vec![0; swarm.entry_bytes as usize + 1], None).wait_timeout(Duration::ZERO);
        let refused = matches!(outcome, Some(Err(AppendError::TooLarge { .. })));
        watch.demand(refused, || format!("an append beyond the limit ended with {outcome:?}"));
    }

    /// Somewhere in the ledger, or a little beyond; the end more often than the rest.
    fn some_index(&mut self, watch: &Watch) -> u64 {
        let end = watch.ledger.len() as u64;
        if self.chance.percent(50) { end.saturating_sub(4) + self.chance.below(6) } else { self.chance.below(end + 2) }
    }

    fn get(&mut self, host: usize, life: &Life, watch: &mut Watch) {
        let index = self.some_index(watch);
        let operation = self.begin(host, life, What::Get { index, found: None, linearizable: false });
        self.finish_get(operation, index, false, life, watch);
    }

    fn finish_get(&mut self, operation: usize, index: u64, linearizable: bool, life: &Life, watch: &mut Watch) {
        match cursor::get(&life.shared, index) {
            Ok(found) => {
                let node = self.node_of(life, watch);
                if let Some(entry) = &found {
                    watch.show_entry(node, index, entry);
                }
                watch.note(&[11, index, u64::from(found.is_some())], || format!("get {index}: {found:?}"));
                let found = found.map(|entry| watch.ledger.get(entry.index() as usize).and_then(|shown| shown.payload).unwrap_or(ANY));
                // What cannot be told says only that something is there.
                let what = if found == Some(ANY) {
                    What::Get { index, found: None, linearizable: false }
                } else {
                    What::Get { index, found, linearizable }
                };
                self.end(operation, what);
            }
            Err(ReadError::Purged { .. }) => watch.sightings.saw("reads of what was purged"),
            Err(ReadError::Damaged { .. }) if watch.books[self.node_of(life, watch)].is_damaged => {
                watch.sightings.saw("reads of what was damaged")
            }
            Err(error) => watch.violated(format!("A1: entry {index} cannot be read: {error}")),
        }
    }

    fn node_of(&self, life: &Life, watch: &Watch) -> usize {
        debug_assert!(watch.books.len() == self.calls.len());
        life.shared.status().id.get() as usize - 1
    }

    fn barrier(&mut self, host: usize, now: Micros, life: &Life, then_get: Option<u64>) {
        // Until it is answered it says nothing.
        let operation = self.begin(host, life, What::Get { index: 0, found: None, linearizable: false });
        self.barriers += 1;
        let (reply, answer) = reply(Home::default());
        life.command(Command::Barrier { id: self.barriers, timeout: None, reply });
        self.call(host, Some(operation), now, Answer::Barrier { id: self.barriers, answer, then_get });
    }

    fn transfer(&mut self, host: usize, now: Micros, life: &Life, nodes: u64) {
        let (reply, answer) = reply(Home::default());
        let to = NodeId::from(self.chance.between(1, nodes + u64::from(self.chance.clone().percent(5))));
        life.command(Command::Transfer { to, reply });
        self.call(host, None, now, Answer::Transfer(answer));
    }

    fn purge(&mut self, host: usize, now: Micros, life: &Life, watch: &Watch) {
        let (reply, answer) = reply(Home::default());
        let index = watch.ledger.len() as u64 * self.chance.between(0, 110) / 100;
        life.command(Command::Purge { index, reply });
        self.call(host, None, now, Answer::Purge(answer));
    }

    /// Reads on where this host left off, from the beginning if it has not read at this life of the node.
    fn read_tail(&mut self, host: usize, life: &Life, watch: &mut Watch) {
        let node = self.hosts[host].node;
        let who = Who { node, life: life.number };
        let begin = || {
            let from = life.shared.status().committed.start;
            (who, from, Cursor::new(life.shared.clone(), from))
        };
        let tail = self.hosts[host].tail.take().filter(|(whom, ..)| *whom == who);
        let (_, mut next, mut cursor) = tail.unwrap_or_else(begin);
        for _ in 0..TAIL_ENTRIES {
            match cursor.next() {
                None => break,
                Some(Ok(entry)) => {
                    watch.demand(entry.index() == next, || format!("A4: a tail gives entry {} where {next} is due", entry.index()));
                    watch.show_entry(node, entry.index(), &entry);
                    watch.sightings.saw("entries read by tails");
                    next += 1;
                }
                Some(Err(ReadError::Purged { .. })) => {
                    watch.sightings.saw("tails that were overtaken by a purge");
                    return;
                }
                Some(Err(ReadError::Damaged { .. })) if watch.books[node].is_damaged => return,
                Some(Err(error)) => return watch.violated(format!("A1: a tail ends at entry {next}: {error}")),
            }
        }
        self.hosts[host].tail = Some((who, next, cursor));
    }

    /// Looks after the calls at a node once its engine was driven. Every answer is there as soon as it is given.
    pub(super) fn settle(&mut self, node: usize, now: Micros, life: &Life, swarm: &Swarm, watch: &mut Watch) {
        let calls = std::mem::take(&mut self.calls[node]);
        for call in calls {
            if let Some(call) = self.look(call, now, life, swarm, watch) {
                self.calls[node].push(call);
            }
        }
    }

    /// Takes the answer to a call, or gives the call back.
    fn look(&mut self, call: Call, now: Micros, life: &Life, swarm: &Swarm, watch: &mut Watch) -> Option<Call> {
        let late = now.saturating_sub(call.began) > swarm.append_timeout;
        match &call.answer {
            Answer::Append { future, first, count, bell, taken } => {
                let (first, count) = (*first, *count);
                let outcome = future.wait_timeout(Duration::ZERO);
                let Some(outcome) = outcome else { return Some(call) };
                match &outcome {
                    Ok(appended) => {
                        let readable = bell.end() >= appended.index + u64::from(count);
                        watch.demand(readable, || format!("A1: {appended:?} was acknowledged when {} entries could be read", bell.end()));
                    }
                    // What a leader has given a number it gives up with its leadership, and not before.
                    Err(error) => watch.demand(error.may_have_committed() || taken.is_none() || *taken != life.standings(), || {
                        format!("A4: {future:?} was taken, and is refused by a leader that is still one: {error}")
                    }),
                }
                self.end_append(&call, first, count, outcome, watch);
            }
            Answer::Barrier { id, answer, then_get } => match answer.try_recv() {
                Ok(outcome) => self.end_barrier(&call, *then_get, outcome, life, watch),
                Err(_) if late => {
                    life.command(Command::ForgetBarrier { id: *id });
                    watch.sightings.saw("barriers that timed out");
                }
                Err(_) => return Some(call),
            },
            Answer::Transfer(answer) => match answer.try_recv() {
                Ok(outcome) => watch.sightings.saw(if outcome.is_ok() { "transfers that succeeded" } else { "transfers that failed" }),
                Err(_) => return Some(call),
            },
            Answer::Purge(answer) => {
                if answer.try_recv().is_err() {
                    return Some(call);
                }
            }
        }
        self.hosts[call.host].under_way -= 1;
        None
    }

    fn end_append(&mut self, call: &Call, first: u64, count: u32, outcome: Result<Appended, AppendError>, watch: &mut Watch) {
        let operation = call.operation.expect("every append is written down");
        let told = match &outcome {
            Ok(appended) => {
                for nth in 0..u64::from(count) {
                    let len = watch.offered[(first + nth) as usize];
                    watch.acknowledge(first + nth, len, appended.index + nth, appended.term);
                }
                self.fresh |= self.history.operations[operation].began > self.fresh_from;
                watch.sightings.saw("appends acknowledged");
                Outcome::Acknowledged(appended.index)
            }
            Err(error) if error.may_have_committed() => {
                watch.sightings.saw("appends of unknown outcome");
                Outcome::Unknown
            }
            Err(error) => {
                if let AppendError::NotLeader { leader: Some(leader), .. } = error
                    && !self.hosts[call.host].is_reader
                {
                    self.hosts[call.host].node = leader.get() as usize - 1;
                }
                watch.sightings.saw("appends refused");
                Outcome::Refused
            }
        };
        let number = if let Outcome::Acknowledged(index) = told { index } else { u64::MAX };
        watch.note(&[12, first, number], || format!("host {}: {first}+{count}: {outcome:?}", call.host));
        self.end(operation, What::Append { first, count, outcome: told });
    }

    fn end_barrier(&mut self, call: &Call, then_get: Option<u64>, outcome: Result<u64, BarrierError>, life: &Life, watch: &mut Watch) {
        let operation = call.operation.expect("every barrier is written down");
        let Ok(end) = outcome else { return };
        watch.sightings.saw("barriers");
        watch.note(&[13, end], || format!("host {}: barrier at {end}", call.host));
        match then_get {
            None => self.end(operation, What::Barrier(end)),
            Some(index) => self.finish_get(operation, index, true, life, watch),
        }
    }

    /// A node is gone. What it had answered was answered; the rest nobody knows.
    pub(super) fn bereave(&mut self, node: usize, now: Micros, life: &Life, swarm: &Swarm, watch: &mut Watch) {
        self.settle(node, now, life, swarm, watch);
        for call in std::mem::take(&mut self.calls[node]) {
            self.hosts[call.host].under_way -= 1;
        }
    }

    /// The calls that have waited for longer than any may.
    pub(super) fn overdue(&self, now: Micros, patience: Micros) -> Option<String> {
        let calls = self.calls.iter().enumerate().flat_map(|(node, calls)| calls.iter().map(move |call| (node, call)));
        let late = calls.filter(|(_, call)| now.saturating_sub(call.began) > patience).map(|(node, call)| {
            let what = call.answer.describe();
            format!("{what} has waited for {} ms at node {}", (now - call.began) / 1000, node + 1)
        });
        late.into_iter().next()
    }

    /// A call that a node which does nothing more has not answered.
    pub(super) fn unanswered(&self, node: usize) -> Option<String> {
        self.calls[node].first().map(|call| call.answer.describe())
    }

    pub(super) fn ledger(&self, watch: &Watch) -> Ledger {
        Ledger { first: 0, payloads: watch.ledger.iter().map(|shown| shown.payload.unwrap_or(ANY)).collect() }
    }
}
