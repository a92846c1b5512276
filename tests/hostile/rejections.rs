//! Rejected handshakes: wrong cluster, group, receiver and sender; clones, wiped directories,
//! earlier incarnations; and bytes that are no hello.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crate::group::{Client, Group, LIAR, until};
use crate::memory::Growth;
use crate::rng::Rng;
use crate::wire::{
    DECLINE, HELLO, Hello, INTRODUCTION, Line, Message, PING, PONG, REFUSAL, frame, header,
    in_slot, message,
};

/// Reasons to refuse, as the description of the protocol numbers them.
const PROTOCOL: u8 = 1;
const CLUSTER: u8 = 2;
const GROUP: u8 = 3;
const WRONG_NODE: u8 = 4;
const NOT_A_MEMBER: u8 = 5;
const DIRECTORY_CHANGED: u8 = 6;
const DUPLICATE: u8 = 7;
const STALE_INCARNATION: u8 = 8;
const MEMBERS: u8 = 9;
const OTHER_GROUP: u8 = 13;

/// The first bytes of a connection, and the reason for their rejection. `None`: no hello at all, so
/// the node closes the connection, with a reason or without.
struct Approach {
    bytes: Vec<u8>,
    refusal: Option<u8>,
}

fn said(hello: &Hello, refusal: u8) -> Approach {
    Approach { bytes: hello.opening(), refusal: Some(refusal) }
}

/// Hellos of an attacker that claims to be an honest node, whose real hello it knows.
fn pretend(honest: &Hello, rng: &mut Rng) -> Approach {
    let same = honest.clone();
    match rng.below(12) {
        0 => said(&Hello { protocol: rng.pick(&[0, 1, 9, u32::MAX]), ..same }, PROTOCOL),
        1 => said(&Hello { cluster: honest.cluster ^ (1 << rng.below(64)), ..same }, CLUSTER),
        2 => said(
            &Hello {
                group: rng.pick(&[&b""[..], b"besiege", b"besieged2", b"BESIEGED"]).to_vec(),
                ..same
            },
            GROUP,
        ),
        3 => said(&Hello { to: rng.pick(&[0, 2 + honest.to, LIAR, u64::MAX]), ..same }, WRONG_NODE),
        4 => {
            said(&Hello { from: rng.pick(&[0, honest.to, 6, 77, u64::MAX]), ..same }, NOT_A_MEMBER)
        }
        // A wiped or another disk: whatever its incarnation, the directory is not the known one.
        5 => {
            let incarnation = rng.pick(&[0, 1, honest.incarnation, u64::MAX]);
            said(
                &Hello { directory: honest.directory ^ (1 << rng.below(128)), incarnation, ..same },
                DIRECTORY_CHANGED,
            )
        }
        // A clone beside the original, of the same incarnation.
        6 => said(
            &Hello { nonce: honest.nonce.wrapping_add(1 + rng.below(1000)), ..same },
            DUPLICATE,
        ),
        // An earlier incarnation.
        7 => said(&Hello { incarnation: rng.below(honest.incarnation), ..same }, STALE_INCARNATION),
        // Another list of members, whatever the cluster number.
        8 => {
            let members = (1..=6).filter(|id| *id != 1 + rng.below(5)).collect();
            said(&Hello { members, cluster: rng.draw(), ..same }, MEMBERS)
        }
        // Text that could forge a log line, or no text.
        9 => said(
            &Hello {
                advertised: rng.pick(&[&b"two\nlines"[..], b"\x1b[2J", b"\xff"]).to_vec(),
                ..same
            },
            PROTOCOL,
        ),
        // What is left of a group that was removed and made again.
        10 => said(
            &Hello { group_uid: honest.group_uid ^ (1 << rng.below(128)), ..same },
            OTHER_GROUP,
        ),
        _ => said(&Hello { group: vec![0xFF; 1 + rng.below(255) as usize], ..same }, PROTOCOL),
    }
}

/// Bytes that are no hello.
fn babble(honest: &Hello, rng: &mut Rng) -> Approach {
    let hello = frame(HELLO, &honest.of_connection());
    let (flipped, len) = (rng.below(hello.len() as u64) as usize, rng.below(600) as usize);
    let bytes = match rng.below(8) {
        0 => rng.bytes(len),
        1 => {
            let mut bytes = hello;
            bytes[flipped] ^= 1 << rng.below(8);
            bytes
        }
        2 => hello[..flipped].to_vec(),
        3 => {
            header(HELLO, rng.pick(&[1001, 1 << 16, 1 << 30, u32::MAX]), rng.draw() as u32).to_vec()
        }
        4 => message(
            &Message {
                kind: 7,
                numbers: [honest.from, honest.to, 9, 0, 0, 0, 0, 0, 0, 0],
                ..Message::default()
            }
            .encode(),
        ),
        5 => frame(REFUSAL, &[rng.draw() as u8]),
        // After a hello: an introduction of nothing, or in pieces of nothing.
        6 => [hello, frame(INTRODUCTION, &in_slot(&rng.bytes(len.min(512))))].concat(),
        _ => frame(HELLO, &rng.bytes(len.min(512))),
    };
    Approach { bytes, refusal: None }
}

/// Sends it to node `id`; checks that it is rejected for the right reason.
fn approach(group: &Group, id: u64, Approach { bytes, refusal }: &Approach) {
    // On a busy machine an attempt to connect may fail, which is no rejection.
    let answer = until("a connection to be made", || {
        let mut line = Line::to(group.address(id), Ipv4Addr::LOCALHOST).ok()?;
        let _ = line.send(bytes);
        if refusal.is_none() {
            line.end();
        }
        // The processes may know each other: it is the group that is refused.
        let mut answer = line.hear();
        while answer.as_ref().is_some_and(|(kind, _)| [HELLO, PING, PONG].contains(kind)) {
            answer = line.hear();
        }
        Some(answer)
    });
    let answer = answer.map(|(kind, content)| match kind {
        DECLINE => (REFUSAL, content[4..].to_vec()),
        _ => (kind, content),
    });
    match (answer, refusal) {
        (Some((REFUSAL, content)), Some(wanted)) => {
            assert_eq!(content.first(), Some(wanted), "the reason is the right one")
        }
        (None, Some(wanted)) => panic!("the node hung up without a reason; {wanted} was wanted"),
        (Some((REFUSAL, _)) | None, None) => {}
        (Some(answer), _) => panic!("an unknown peer was answered {answer:?}"),
    }
}

/// Many handshakes with the leader and with a follower, while an honest client is served.
fn besiege(approaches: u64) {
    let (group, mut rng) = (Arc::new(Group::open()), Rng::new());
    (0..50).for_each(|_| group.append());
    // From now on each node knows the directory and the incarnation of each other one.
    group.introduce();
    let leader = group.leader();
    let growth = Growth::begin();
    let client = Client::of(&group);
    let counts: Vec<AtomicU64> = (0..=OTHER_GROUP).map(|_| AtomicU64::new(0)).collect();
    for id in [leader, leader % 3 + 1] {
        let honest: Vec<Hello> = (1..=3)
            .filter(|other| *other != id)
            .map(|other| pretended(&group, other, id))
            .collect();
        thread::scope(|scope| {
            for _ in 0..2 {
                let (mut rng, group, honest, counts) = (rng.fork(), &group, &honest, &counts);
                scope.spawn(move || {
                    for _ in 0..approaches / 4 {
                        let honest = &honest[rng.below(2) as usize];
                        let next = if rng.once_in(3) {
                            babble(honest, &mut rng)
                        } else {
                            pretend(honest, &mut rng)
                        };
                        approach(group, id, &next);
                        counts[usize::from(next.refusal.unwrap_or(0))]
                            .fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
    }
    drop(client);
    group.check();
    let counts: Vec<u64> = counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    let expected = (0..=MEMBERS).chain([OTHER_GROUP]);
    assert!(expected.into_iter().all(|reason| counts[usize::from(reason)] > 0), "{counts:?}");
    let growth = growth.check();
    println!(
        "no hello, then by reason, from 1 on: {counts:?}; {} appends acknowledged meanwhile; \
         {growth} MiB more",
        group.acknowledged()
    );
}

/// The hello of honest node `from` to node `to`.
fn pretended(group: &Group, from: u64, to: u64) -> Hello {
    Hello { to, ..group.hello_of(from) }
}

#[test]
fn strangers_are_refused_for_the_right_reason_every_time() {
    besiege(3_000);
}

#[test]
#[ignore = "minutes"]
fn hundreds_of_thousands_of_strangers_are_refused_every_time() {
    besiege(400_000);
}
