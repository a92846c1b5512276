//! The least that three replicas on raft-rs can be: a `RawNode` and a file on each of three
//! threads, and nothing else. No host, no reads, no recovery, no handling of failures. Every node
//! writes what it is sent with one `pwrite` and one `fdatasync` before it answers.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use hdrhistogram::Histogram;
use raft::eraftpb::{ConfState, Entry, Message, MessageType};
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole};
use tempfile::TempDir;

use crate::measure::machine;
use crate::measure::raw_sync::zeroed_file;
use crate::measure::scratch::scratch;
use crate::measure::turn::{Turn, no_latencies};
use crate::subject::Subject;

const TICK: Duration = Duration::from_millis(100);
const FILE_BYTES: u64 = 256 << 20;
/// How many entries are kept in memory for followers that lag behind. None does.
const KEPT: u64 = 10_000;

pub(crate) struct BareRaft {
    orders: Sender<Order>,
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    _dir: TempDir,
}

/// What the leader is to do: keep `window` entries in flight until the time has passed, and tell
/// how many were committed.
struct Order {
    payload: Vec<u8>,
    window: usize,
    time: Duration,
    done: Sender<(u64, Duration, Histogram<u64>)>,
}

/// An order being carried out.
struct Work {
    order: Order,
    began: Instant,
    /// When so many entries were proposed, oldest first.
    proposed: VecDeque<(Instant, usize)>,
    in_flight: usize,
    committed: u64,
    latency: Histogram<u64>,
}

struct Node {
    raft: RawNode<MemStorage>,
    inbox: Receiver<Message>,
    peers: Vec<Sender<Message>>,
    file: File,
    at: u64,
    record: Vec<u8>,
    work: Option<Work>,
}

pub(crate) fn open() -> Option<Box<dyn Subject>> {
    let dir = scratch();
    let (peers, inboxes): (Vec<_>, Vec<_>) = (0..3).map(|_| unbounded()).unzip();
    let (orders, order) = bounded(1);
    let ended = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for (id, inbox) in (1..).zip(inboxes) {
        let file = zeroed_file(&dir.path().join(format!("node-{id}")), FILE_BYTES);
        let (peers, order, ended) = (peers.clone(), order.clone(), ended.clone());
        threads.push(std::thread::spawn(move || {
            Node::new(id, inbox, peers, file).run(&order, &ended)
        }));
    }
    Some(Box::new(BareRaft { orders, ended, threads, _dir: dir }))
}

impl Subject for BareRaft {
    fn append(&mut self, bytes: usize, window: usize, time: Duration) -> Turn {
        let (done, answer) = bounded(1);
        let ((committed, took, latency), cores) = machine::cores_busy(|| {
            self.orders
                .send(Order { payload: vec![0x5a; bytes], window, time, done })
                .expect("the leader listens");
            answer.recv().expect("the leader answers")
        });
        Turn { per_second: committed as f64 / took.as_secs_f64(), latency, cores }
    }
}

impl Drop for BareRaft {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

impl Node {
    fn new(id: u64, inbox: Receiver<Message>, peers: Vec<Sender<Message>>, file: File) -> Node {
        let storage = MemStorage::new_with_conf_state(ConfState::from((vec![1, 2, 3], Vec::new())));
        let config = Config {
            id,
            election_tick: 10 * id as usize,
            heartbeat_tick: 1,
            max_size_per_msg: 4 << 20,
            ..Config::default()
        };
        let mut raft =
            RawNode::new(&config, storage, &slog::Logger::root(slog::Discard, slog::o!()))
                .expect("the configuration is sound");
        if id == 1 {
            raft.campaign().expect("it may");
        }
        Node { raft, inbox, peers, file, at: 0, record: Vec::new(), work: None }
    }

    fn run(&mut self, orders: &Receiver<Order>, ended: &AtomicBool) {
        let mut next_tick = Instant::now() + TICK;
        while !ended.load(Ordering::Relaxed) {
            while let Ok(message) = self.inbox.try_recv() {
                self.raft.step(message).expect("peers are sound");
            }
            if Instant::now() >= next_tick {
                self.raft.tick();
                next_tick += TICK;
            }
            if self.raft.raft.state == StateRole::Leader {
                self.lead(orders);
            }
            if self.raft.has_ready() {
                self.handle_ready();
            } else if self.work.is_none() || self.is_full() {
                // It spins a little before it sleeps.
                match self.inbox.recv_timeout(Duration::from_millis(1)) {
                    Ok(message) => self.raft.step(message).expect("peers are sound"),
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
                }
            }
        }
    }

    fn is_full(&self) -> bool {
        self.work.as_ref().is_some_and(|work| work.in_flight == work.order.window)
    }

    /// Proposes as many entries as the window has room for, all in one message.
    fn lead(&mut self, orders: &Receiver<Order>) {
        if self.work.is_none()
            && let Ok(order) = orders.try_recv()
        {
            let latency = no_latencies();
            self.work = Some(Work {
                order,
                began: Instant::now(),
                proposed: VecDeque::new(),
                in_flight: 0,
                committed: 0,
                latency,
            });
        }
        let Some(work) = &mut self.work else { return };
        let now = Instant::now();
        if now - work.began >= work.order.time {
            if work.in_flight == 0 {
                let Work { order, began, committed, latency, .. } =
                    self.work.take().expect("it is there");
                order.done.send((committed, began.elapsed(), latency)).expect("somebody waits");
            }
            return;
        }
        let room = work.order.window - work.in_flight;
        if room == 0 {
            return;
        }
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = 1;
        let entry = || Entry { data: work.order.payload.clone().into(), ..Entry::default() };
        message.entries = (0..room).map(|_| entry()).collect();
        self.raft.step(message).expect("a leader takes proposals");
        work.proposed.push_back((now, room));
        work.in_flight += room;
    }

    fn handle_ready(&mut self) {
        let mut ready = self.raft.ready();
        self.send(ready.take_messages());
        self.commit(&ready.take_committed_entries());
        let store = self.raft.raft.raft_log.store.clone();
        if let Some(state) = ready.hs() {
            store.wl().set_hardstate(state.clone());
        }
        if !ready.entries().is_empty() {
            self.write(ready.entries());
            store.wl().append(ready.entries()).expect("entries continue each other");
        }
        if ready.must_sync() {
            self.file.sync_data().expect("scratch space can be synced");
        }
        self.send(ready.take_persisted_messages());
        let mut light = self.raft.advance(ready);
        if let Some(commit) = light.commit_index() {
            store.wl().mut_hard_state().set_commit(commit);
        }
        self.send(light.take_messages());
        self.commit(&light.take_committed_entries());
        self.raft.advance_apply();
        let applied = self.raft.raft.raft_log.applied;
        if applied > 4 * KEPT && applied % 1024 < 64 {
            store.wl().compact(applied - KEPT).expect("what is applied can be given up");
        }
    }

    fn send(&self, messages: Vec<Message>) {
        for message in messages {
            // A node that has ended needs no messages.
            drop(self.peers[message.to as usize - 1].send(message));
        }
    }

    fn write(&mut self, entries: &[Entry]) {
        self.record.clear();
        for entry in entries {
            self.record.extend_from_slice(&(entry.data.len() as u32).to_le_bytes());
            self.record.extend_from_slice(&crc32fast::hash(&entry.data).to_le_bytes());
            self.record.extend_from_slice(&entry.data);
        }
        if self.at + self.record.len() as u64 > FILE_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(&self.record, self.at).expect("scratch space can be written");
        self.at += self.record.len() as u64;
    }

    fn commit(&mut self, entries: &[Entry]) {
        let Some(work) = &mut self.work else { return };
        let mut count = entries.iter().filter(|entry| !entry.data.is_empty()).count();
        work.in_flight -= count;
        let now = Instant::now();
        if now - work.began < work.order.time {
            work.committed += count as u64;
        }
        while count > 0 {
            let (since, proposed) =
                work.proposed.front_mut().expect("what is committed was proposed");
            let settled = count.min(*proposed);
            work.latency
                .record_n((now - *since).as_nanos() as u64, settled as u64)
                .expect("it resizes");
            (count, *proposed) = (count - settled, *proposed - settled);
            if *proposed == 0 {
                work.proposed.pop_front();
            }
        }
    }
}
