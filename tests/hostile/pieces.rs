//! Messages in pieces that never make a message.

use std::sync::Arc;

use crate::group::{Client, Group, LIAR, until};
use crate::memory::{Growth, anonymous};
use crate::rng::Rng;
use crate::wire::{Message, PIECE, PING, PONG, frame, in_slot, message};

/// More than the largest message.
const LARGEST: u32 = 96 << 20;
const TOO_LARGE: u32 = 100 << 20;

fn piece(total: u32, part: &[u8]) -> Vec<u8> {
    frame(PIECE, &in_slot(&[&total.to_le_bytes()[..], part].concat()))
}

/// A heartbeat of an earlier term: valid and harmless.
fn heartbeat(to: u64) -> Vec<u8> {
    message(
        &Message { kind: 7, numbers: [LIAR, to, 1, 0, 0, 0, 0, 0, 0, 0], ..Message::default() }
            .encode(),
    )
}

#[test]
fn messages_without_an_end_take_no_more_memory_than_one_message() {
    let (group, mut rng) = (Arc::new(Group::open()), Rng::new());
    (0..20).for_each(|_| group.append());
    let growth = Growth::begin();
    let client = Client::of(&group);
    let id = group.leader();
    // All of the largest message but its last byte; any further piece is too long. On ten
    // connections.
    let before = anonymous();
    for round in 0..10 {
        let mut line = group.admitted(id);
        let (part, mut left) = (rng.bytes(60_000), LARGEST as usize - 1);
        while left > 0 {
            let len = part.len().min(left);
            if line.send(&piece(LARGEST, &part[..len])).is_err() {
                break;
            }
            left -= len;
        }
        assert_eq!(left, 0, "a node takes all that can still become a message");
        line.send(&frame(PING, &(round + 1_u64).to_le_bytes())).expect("the node still listens");
        until("the node to have read all of it", || {
            line.hear().filter(|(kind, content)| *kind == PONG && content[0] > 0)
        });
        let more = anonymous().saturating_sub(before) >> 20;
        assert!(more < 300, "{more} MiB are held for one message of 96 MiB");
        let _ = line.send(&piece(LARGEST, &part[..2]));
        line.await_hanging_up();
    }
    drop(client);
    group.check();
    println!("{} MiB more", growth.check());
}

#[test]
fn what_is_no_piece_ends_the_connection_and_what_goes_between_pieces_is_heard() {
    let (group, mut rng) = (Arc::new(Group::open()), Rng::new());
    (0..20).for_each(|_| group.append());
    let client = Client::of(&group);
    let id = group.leader();
    let begun = piece(1000, &rng.bytes(500));
    let outrages = [
        piece(TOO_LARGE, &[1]),
        piece(u32::MAX, &[1]),
        piece(1000, &[]),
        piece(0, &[]),
        frame(PIECE, &[1, 2, 3]),
        [&begun[..], &piece(1000, &rng.bytes(501))].concat(),
        [&begun[..], &piece(1001, &rng.bytes(100))].concat(),
        // Complete, but not a message.
        [&begun[..], &piece(1000, &rng.bytes(500))].concat(),
    ];
    for outrage in outrages {
        let mut line = group.admitted(id);
        line.send(&heartbeat(id)).expect("the node listens");
        let _ = line.send(&outrage);
        line.await_hanging_up();
    }
    // One byte at a time: slow, and a message in the end. Others go between its pieces.
    let mut line = group.admitted(id);
    let message =
        Message { kind: 7, numbers: [LIAR, id, 1, 0, 0, 0, 0, 0, 0, 0], ..Message::default() }
            .encode();
    for byte in &message {
        line.send(&[piece(message.len() as u32, &[*byte]), heartbeat(id)].concat())
            .expect("the node listens");
    }
    line.end();
    line.await_hanging_up();
    drop(client);
    group.check();
}
