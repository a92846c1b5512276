//! Every schedule of the queue of a link: who pushes, the thread that writes, who stops or hears of another life of the peer.

use std::sync::Arc;

use super::*;
use crate::primitives::thread::{self, JoinHandle};

fn message(number: u64) -> (Message, usize) {
    let message = Message::specimen(NodeId::from(1), NodeId::from(2), number, 3);
    let len = message.encoded_len();
    (message, len)
}

fn link() -> Arc<Link> {
    Arc::new(Link::new(NodeId::from(2), String::new()))
}

/// Takes messages as the thread that writes does, `most` of them at most. Returns how many.
fn writer(link: &Arc<Link>, most: usize) -> JoinHandle<usize> {
    let link = link.clone();
    thread::spawn(move || {
        let (mut batch, mut taken) = (Vec::new(), 0);
        while taken < most
            && let Some((_, bytes)) = link.take(&mut batch)
        {
            taken += batch.len();
            batch.clear();
            link.queue.lock().bytes -= bytes;
        }
        taken
    })
}

#[test]
fn no_message_is_left_behind() {
    loom::model(|| {
        let link = link();
        let writer = writer(&link, 3);
        let other = thread::spawn({
            let link = link.clone();
            move || {
                let (message, len) = message(0);
                assert!(link.push(message, len));
            }
        });
        for number in 1..3 {
            let (message, len) = message(number);
            assert!(link.push(message, len));
        }
        assert_eq!(writer.join().unwrap(), 3);
        other.join().unwrap();
        assert_eq!(link.queue.lock().bytes, 0);
    });
}

#[test]
fn a_stop_wakes_the_writer() {
    loom::model(|| {
        let link = link();
        let writer = writer(&link, 9);
        let (message, len) = message(0);
        link.push(message, len);
        link.stop();
        assert!(writer.join().unwrap() <= 1);
    });
}

#[test]
fn another_life_of_the_peer_wakes_the_writer() {
    loom::model(|| {
        let link = link();
        link.queue.lock().connected_to = Some((1, 1));
        let writer = writer(&link, 9);
        link.heard_of((2, 2));
        assert_eq!(writer.join().unwrap(), 0);
    });
}
