//! A Byzantine member: it completes the handshake, then sends arbitrary messages.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dledger::{DLedger, Status};

use crate::group::{Client, Group, LIAR, until};
use crate::memory::Growth;
use crate::rng::Rng;
use crate::wire::{ANYWHERE, HELLO, Hello, Line, MESSAGE, Message, frame, header, message};

/// Frames that are written at once.
const VOLLEY: usize = 64;

/// The terms of false messages.
#[derive(Clone, Copy, PartialEq)]
enum Terms {
    /// Earlier terms, the current one, and impossible ones: none that an election could lead to.
    Implausible,
    Any,
}

/// A message with arbitrary fields, most of them near the truth.
fn lie(from: u64, to: u64, status: &Status, terms: Terms, rng: &mut Rng) -> Vec<u8> {
    let now = status.term;
    let about = status.end_index + now + 1;
    let number = |rng: &mut Rng| match rng.below(8) {
        0 => rng.pick(&[0, 1, 2, u64::MAX, u64::MAX - 1, 1 << 62, (1 << 62) - 1, 1 << 48]),
        1 => rng.draw(),
        _ => (about + rng.below(8)).saturating_sub(rng.below(12)),
    };
    let term = match rng.below(6) {
        0 => {
            let leap = now + (1 << 32) + 1 + rng.below(1000);
            rng.pick(&[0, 1 << 48, u64::MAX, leap])
        }
        1 => rng.below(now),
        2 if terms == Terms::Any => now + 1 + rng.below(3),
        _ => now,
    };
    let kind = 1 + rng.below(12) as u8;
    let mut lie = Message { kind, flags: rng.pick(&[0, 0, 1]), ..Message::default() };
    lie.numbers = [from, to, term, 0, 0, 0, 0, 0, 0, 0];
    (3..10).for_each(|at| lie.numbers[at] = number(rng));
    if rng.once_in(2) {
        // Fields that this kind of message leaves at zero.
        lie.numbers[6..].fill(0);
    }
    lie.numbers[3] = if rng.once_in(2) { now } else { lie.numbers[3] };
    if [1, 11, 12].contains(&kind) {
        let entries = rng.below(3);
        let data = |rng: &mut Rng| rng.pick(&[0, 0, 1, 24, 24, 200]);
        lie.entries = (0..entries)
            .map(|_| {
                (rng.pick(&[0, 0, 0, 1, 2]), now, {
                    let len = data(rng);
                    rng.bytes(len)
                })
            })
            .collect();
    }
    if kind == 9 {
        lie.flags |= 2;
        lie.snapshot = snapshot(number(rng), now, rng);
    }
    if rng.once_in(3) {
        let len = rng.below(65) as usize;
        lie.context = rng.bytes(len);
    }
    if rng.once_in(40) { wish(from, to, about, rng) } else { lie.encode() }
}

fn snapshot(index: u64, term: u64, rng: &mut Rng) -> Vec<u8> {
    let (voters, len) = (rng.below(6), rng.pick(&[0, 8, 40, 48]));
    let mut bytes = [index.to_le_bytes(), term.to_le_bytes()].concat();
    bytes.extend((len as u32).to_le_bytes());
    bytes.extend([voters as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    (1..=voters).for_each(|id| bytes.extend(id.to_le_bytes()));
    bytes.extend(rng.bytes(len));
    bytes
}

/// A fetch request, as of a node with a corrupt log.
fn wish(from: u64, to: u64, about: u64, rng: &mut Rng) -> Vec<u8> {
    let start = 1 + rng.below(about);
    let numbers = [
        from,
        to,
        start,
        start + rng.pick(&[0, 1, 10, 4096, 5000]),
        rng.pick(&[0, 1 << 10, u64::MAX]),
    ];
    [&[1, 13, 0, 0, 0, 0, 0, 0][..], &numbers.map(u64::to_le_bytes).concat()].concat()
}

/// A frame after which the node must close the connection: no message of this peer to this node.
fn outrage(from: u64, to: u64, status: &Status, rng: &mut Rng) -> Vec<u8> {
    let lie = lie(from, to, status, Terms::Implausible, rng);
    let at = rng.below(lie.len() as u64) as usize;
    match rng.below(8) {
        0 => message(&lie[..at]),
        1 => message(&[&lie[..], &[0]].concat()),
        2 => {
            let mut frame = message(&lie);
            let at = rng.below(frame.len() as u64) as usize;
            frame[at] ^= 1 << rng.below(8);
            frame
        }
        3 => frame(MESSAGE, &{ rng.bytes(at) }),
        4 => message(&[&lie[..8], &(from + 1 + rng.below(9)).to_le_bytes(), &lie[16..]].concat()),
        5 => message(&[&lie[..16], &(to + 1 + rng.below(9)).to_le_bytes(), &lie[24..]].concat()),
        6 => header(MESSAGE, rng.pick(&[1 << 16, 1 << 30, u32::MAX]), 0).to_vec(),
        _ => frame(rng.pick(&[HELLO, 2]), &lie),
    }
}

/// Sends `frames` false messages to node `id`, with an invalid frame after some thousand. Returns
/// how often the node closed the connection.
fn bombard(group: &Group, id: u64, frames: u64, rng: &mut Rng) -> u64 {
    let (mut line, mut sent, mut hung_up) = (group.admitted(id), 0, 0);
    while sent < frames {
        let status = group.node(id).status();
        let volley: Vec<u8> = (0..VOLLEY)
            .flat_map(|_| message(&lie(LIAR, id, &status, Terms::Implausible, rng)))
            .collect();
        let offends = rng.once_in(20);
        let last = if offends { outrage(LIAR, id, &status, rng) } else { Vec::new() };
        if line.send(&volley).and_then(|()| line.send(&last)).is_err() || offends {
            // The node has read all before it, and reads no more.
            line.end();
            line.await_hanging_up();
            line = group.admitted(id);
            hung_up += 1;
        }
        sent += VOLLEY as u64;
    }
    line.end();
    line.await_hanging_up();
    hung_up
}

/// Many frames to the leader and to a follower, while an honest client is served.
fn lies_in_terms_that_cannot_be(frames: u64) {
    let (group, mut rng) = (Arc::new(Group::open()), Rng::new());
    (0..50).for_each(|_| group.append());
    let leader = group.leader();
    let growth = Growth::begin();
    let client = Client::of(&group);
    let began = Instant::now();
    let mut most = 0;
    for id in [leader, leader % 3 + 1] {
        let mut left = frames / 2;
        let mut hung_up = 0;
        while left > 0 {
            let share = left.min(100_000);
            hung_up += bombard(&group, id, share, &mut rng);
            left -= share;
            most = most.max(growth.check());
        }
        println!(
            "node {id}: {} frames, {hung_up} times it hung up, {:.0} s since the beginning",
            frames / 2,
            began.elapsed().as_secs_f64()
        );
    }
    drop(client);
    group.check();
    println!(
        "{} appends acknowledged meanwhile; at most {most} MiB more than before",
        group.acknowledged()
    );
}

#[test]
fn a_member_that_lies_disturbs_no_node_unless_it_claims_a_term() {
    lies_in_terms_that_cannot_be(40_000);
}

#[test]
#[ignore = "minutes"]
fn ten_million_lies_disturb_no_node() {
    lies_in_terms_that_cannot_be(10_000_000);
}

/// Node 1 of three, alone with a hostile third whose messages are all false, also about a new term
/// and its leader. Raft trusts a member, so this node may follow, lead, or stop because a message
/// contradicts its log. It never panics, and its committed entries stay.
fn lies_about_everything(frames: u64) {
    let (home, mut rng) =
        (tempfile::tempdir().expect("there is room for temporary files"), Rng::new());
    let listeners: Vec<TcpListener> =
        (0..3).map(|_| TcpListener::bind(ANYWHERE).expect("a free port")).collect();
    let addresses: Vec<String> = listeners
        .iter()
        .map(|listener| listener.local_addr().expect("it is bound").to_string())
        .collect();
    let Ok([_, _, third]) = <[TcpListener; 3]>::try_from(listeners) else {
        panic!("there are three")
    };
    let mut known = fill(home.path(), &addresses);
    let (mut sent, mut runs, mut stopped) = (0, 0, 0);
    while sent < frames {
        let ledger = open_one(1, home.path(), &addresses);
        let theirs = overheard(&third);
        for _ in 0..rng.below(20) + 5 {
            // Each time with a later incarnation.
            let hello = Hello {
                from: 3,
                to: 1,
                directory: 33,
                incarnation: sent + 1,
                nonce: 9,
                ..theirs.clone()
            };
            sent += lie_in_one_life(&ledger, &addresses[0], &hello, &mut rng);
            save_peer(&ledger, &mut known);
        }
        if let Some(fault) = ledger.status().fault {
            assert!(!fault.contains("panicked"), "{fault}");
            stopped += 1;
        }
        let _ = ledger.shutdown();
        runs += 1;
    }
    let ledger = open_one(1, home.path(), &addresses);
    save_peer(&ledger, &mut known);
    assert!(known.keys().copied().eq(ledger.committed()), "no entry was added and none is missing");
    println!(
        "{sent} frames, {runs} runs, {stopped} of them ended because a message contradicted the \
         log; {} entries",
        known.len()
    );
}

/// Nodes 1 and 2 append entries, and are closed again.
fn fill(home: &Path, addresses: &[String]) -> BTreeMap<u64, Vec<u8>> {
    let pair = [1, 2].map(|id| open_one(id, home, addresses));
    for entry in 0..100 {
        until("an append to be acknowledged", || {
            pair.iter().find_map(|node| node.append(format!("honest entry {entry}")).ok())
        });
    }
    let mut known = BTreeMap::new();
    until("node 1 to know all commits", || {
        save_peer(&pair[0], &mut known);
        (known.len() >= 100).then_some(())
    });
    pair.iter().for_each(|node| node.shutdown().expect("a sound node closes in good order"));
    known
}

fn open_one(id: u64, home: &Path, addresses: &[String]) -> DLedger {
    let ms = Duration::from_millis;
    let builder = DLedger::builder(id)
        .dir(home.join(id.to_string()))
        .group("besieged")
        .peers((1..).zip(addresses.iter().cloned()));
    builder
        .heartbeat_interval(ms(10))
        .election_timeout(ms(50))
        .open()
        .expect("a node that was lied to opens")
}

/// Sends `hello` and then false messages. Returns the number of frames.
fn lie_in_one_life(ledger: &DLedger, address: &str, hello: &Hello, rng: &mut Rng) -> u64 {
    let Ok(mut line) = Line::to(address, Ipv4Addr::LOCALHOST) else { return 0 };
    let _ = line.send(&hello.opening());
    // Its own hello, and what it says of the group.
    line.hear();
    line.hear();
    let mut sent = 0;
    for _ in 0..10 {
        let status = ledger.status();
        let volley: Vec<u8> = (0..VOLLEY)
            .flat_map(|_| message(&lie(hello.from, 1, &status, Terms::Any, rng)))
            .collect();
        if line.send(&volley).is_err() {
            break;
        }
        sent += VOLLEY as u64;
    }
    line.end();
    line.hear();
    sent
}

/// The hello of node 1 when it connects.
fn overheard(listener: &TcpListener) -> Hello {
    until("node 1 to connect", || {
        let (stream, _) = listener.accept().ok()?;
        Line(stream).answer(|_| None)
    })
}

/// Committed entries stay as they were.
fn save_peer(ledger: &DLedger, known: &mut BTreeMap<u64, Vec<u8>>) {
    for entry in ledger.read(ledger.committed().start).take(1_000) {
        let entry = entry.expect("it can be read");
        let before = known.entry(entry.index()).or_insert_with(|| entry.to_vec());
        assert!(before[..] == entry[..], "entry {} has changed", entry.index());
    }
}

#[test]
fn members_that_lie_about_everything_make_no_node_panic() {
    lies_about_everything(40_000);
}

#[test]
#[ignore = "minutes"]
fn a_million_lies_about_everything_make_no_node_panic() {
    lies_about_everything(1_000_000);
}
