//! What an append and a get ask of the allocator once everything runs: a batch may allocate, an
//! entry may not.
//!
//! A counting allocator sees every thread of the process, the node's own among them. So this file
//! holds one test, and nothing runs beside it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::{BTreeSet, VecDeque};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake};

use dledger::transport::MemoryNetwork;
use dledger::{AppendFuture, DLedger, Role};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is passed on to the allocator of the system as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: see above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: see above.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: see above.
        unsafe { System.realloc(place, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `work` allocates for each of `count`.
fn allocations_each(count: u64, work: impl FnOnce()) -> f64 {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    work();
    (ALLOCATIONS.load(Ordering::Relaxed) - before) as f64 / count as f64
}

/// Entries in a batch. Single appends come together to batches too, but how many to one is a matter
/// of time, and a test of time is none.
const BATCH: u64 = 1024;

/// Appends so many batches, with four in flight.
fn append(ledger: &DLedger, in_flight: &mut VecDeque<AppendFuture>, batches: u64) {
    for _ in 0..batches {
        if in_flight.len() == 4 {
            settle(in_flight);
        }
        in_flight.push_back(ledger.append_batch_async([[0x5a; 128]; BATCH as usize]));
    }
    while !in_flight.is_empty() {
        settle(in_flight);
    }
}

fn settle(in_flight: &mut VecDeque<AppendFuture>) {
    let oldest = in_flight.pop_front().expect("something is in flight");
    oldest.wait().expect("a healthy group acknowledges");
}

/// Of a group of `nodes` that runs: how often each allocates for an append, and the leader for a
/// get.
fn allocations_of(ledger: &DLedger, nodes: u64) -> (f64, f64) {
    const GETS: u64 = 10_000;
    let mut in_flight = VecDeque::with_capacity(4);
    append(ledger, &mut in_flight, 20);
    let appending = allocations_each(nodes * 100 * BATCH, || append(ledger, &mut in_flight, 100));
    let get = |index| {
        let entry = ledger.get(index).expect("the log is whole");
        assert_eq!(entry.expect("it is committed").len(), 128);
    };
    get(0);
    let getting =
        allocations_each(GETS, || (0..GETS).for_each(|number| get(number * 7919 % (100 * BATCH))));
    println!(
        "{nodes} nodes: {appending:.4} allocations a node for each append, {getting:.4} for each \
         get"
    );
    (appending, getting)
}

/// Holds up the thread that wakes it, the engine's, until it is let go.
struct Hold {
    is_held: Sender<()>,
    let_go: Mutex<Receiver<()>>,
}

impl Wake for Hold {
    fn wake(self: Arc<Self>) {
        self.is_held.send(()).expect("the test waits for it");
        let _ = self.let_go.lock().expect("no thread panics").recv();
    }
}

/// How often a payload in two parts makes its appender allocate. The engine is held up meanwhile,
/// so that all appends come into one batch, which may allocate.
fn allocations_of_parts(ledger: &DLedger) -> f64 {
    const APPENDS: u64 = 2000;
    let (is_held, held) = channel();
    let (let_go, gone) = channel();
    let waker = Arc::new(Hold { is_held, let_go: Mutex::new(gone) }).into();
    let mut first = ledger.append_async("first");
    while pin!(&mut first).poll(&mut Context::from_waker(&waker)).is_ready() {
        first = ledger.append_async("first"); // it was committed before it was looked at
    }
    held.recv().expect("its waker is called");
    let mut futures = Vec::with_capacity(APPENDS as usize);
    let each = allocations_each(APPENDS, || {
        let append = |_| ledger.append_parts_async(&[&[0x5a; 28], &[0xa5; 100]]);
        futures.extend((0..APPENDS).map(append));
    });
    drop(let_go);
    let appended = futures.into_iter().map(|future| future.wait().expect("it is committed"));
    assert_eq!(appended.map(|it| it.timestamp).collect::<BTreeSet<_>>().len(), 1, "one batch");
    each
}

#[test]
fn entries_do_not_allocate() {
    let dir = tempfile::tempdir().unwrap();
    let alone = DLedger::builder(1).dir(dir.path().join("alone")).open().unwrap();
    let (appending, getting) = allocations_of(&alone, 1);
    assert!(
        appending < 0.05 && getting < 0.05,
        "one node allocates {appending} times for each append, {getting} times for each get"
    );
    let of_parts = allocations_of_parts(&alone);
    assert!(of_parts < 0.05, "a payload in two parts allocates {of_parts} times");
    alone.shutdown().unwrap();

    let network = MemoryNetwork::new();
    let open = |id: u64| {
        let builder = DLedger::builder(id).peers((1..=3_u64).map(|id| (id, format!("node {id}"))));
        builder
            .dir(dir.path().join(format!("{id}")))
            .transport(network.transport(id.into()))
            .open()
            .unwrap()
    };
    let nodes: Vec<DLedger> = (1..=3).map(open).collect();
    let leader = loop {
        match nodes.iter().find(|node| node.status().role == Role::Leader) {
            Some(leader) => break leader,
            None => std::thread::sleep(std::time::Duration::from_millis(5)),
        }
    };
    let (appending, getting) = allocations_of(leader, 3);
    assert!(
        appending < 0.05 && getting < 0.05,
        "three nodes allocate {appending} times each for an append, {getting} times for each get"
    );
}
