//! Every schedule of the queue of a link: who pushes, the thread that writes, who stops or hears of
//! another life of the peer.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::*;
use crate::primitives::thread::{self, JoinHandle};
use crate::primitives::three_preemptions;

fn message(number: u64) -> (Message, usize) {
    let message = Message::specimen(NodeId::from(1), NodeId::from(2), number, 3);
    let len = message.encoded_len();
    (message, len)
}

fn link() -> Arc<PeerSender> {
    Arc::new(PeerSender::new(NodeId::from(2), String::new(), Arc::new(|_| Ok(Vec::new()))))
}

#[test]
fn no_message_is_left_behind() {
    three_preemptions(|| {
        let link = link();
        let (ours, theirs) = pair();
        let writer = at_work(&link, ours);
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
        other.join().unwrap();
        await_written(&link);
        assert_eq!(link.queue.lock().bytes, 0);
        link.stop();
        writer.join().unwrap();
        assert_eq!(received(theirs).len(), 3);
    });
}

#[test]
fn a_stop_wakes_the_writer() {
    loom::model(|| {
        let link = link();
        let (ours, _theirs) = pair();
        let writer = at_work(&link, ours);
        let (message, len) = message(0);
        link.push(message, len);
        link.stop();
        writer.join().unwrap();
    });
}

#[test]
fn another_life_of_the_peer_wakes_the_writer() {
    loom::model(|| {
        let link = link();
        link.queue.lock().connected_to = Some((1, 1));
        let (ours, theirs) = pair();
        let writer = at_work(&link, ours);
        link.heard_of((2, 2));
        writer.join().unwrap();
        assert!(received(theirs).is_empty());
    });
}

/// Two ends of a connection. Not TCP, so that whatever was written is there to be read at once.
fn pair() -> (TcpStream, TcpStream) {
    let (ours, theirs) = UnixStream::pair().expect("two ends of a connection");
    (OwnedFd::from(ours).into(), OwnedFd::from(theirs).into())
}

/// A connection, with all of it but the hello. What the peer gets can be read once it is closed.
fn connected(link: &PeerSender) -> (TcpStream, TcpStream) {
    let (ours, theirs) = pair();
    let mut queue = link.queue.lock();
    queue.socket = Some(ours.try_clone().expect("a handle").into());
    queue.connected_to = Some((1, 1));
    (ours, theirs)
}

/// The thread that writes, at its work on one connection.
fn at_work(link: &Arc<PeerSender>, stream: TcpStream) -> JoinHandle<()> {
    let link = link.clone();
    thread::spawn(move || {
        let mut outbound = Outbound::new(stream, FrameReader::new()).expect("a connection");
        let _ = link.write(&mut outbound, || ());
    })
}

/// The messages of one who sends. The first is so small that it may be written at once in one
/// piece; the others leave a rest.
fn messages(sender: u64) -> Vec<Message> {
    let of_size = |(number, bytes)| {
        Message::specimen(NodeId::from(1), NodeId::from(2), 10 * sender + number, bytes)
    };
    let messages: Vec<Message> = [(0, 1), (1, 300)].map(of_size).to_vec();
    assert!(
        frame_of(&messages[0]).len() <= WRITE_BYTES_MAX
            && frame_of(&messages[1]).len() > WRITE_BYTES_MAX
    );
    messages
}

fn push_all(link: &PeerSender, messages: &[Message]) {
    messages.iter().for_each(|message| assert!(link.push(message.clone(), message.encoded_len())));
}

/// Lets the thread that writes go on until there is nothing left for it.
fn await_written(link: &PeerSender) {
    let is_done = || {
        let queue = link.queue.lock();
        queue.is_empty() && !queue.is_busy
    };
    while !is_done() {
        thread::yield_now();
    }
}

/// What the peer gets until the connection is closed.
fn received(theirs: TcpStream) -> Vec<Message> {
    let (mut reader, mut received) = (FrameReader::new(), Vec::new());
    reader.admit(1 << 10);
    loop {
        while let Some(frame) = reader.next().expect("whole frames, one behind the other") {
            received.push(Message::decode(frame.content).expect("a message as it was sent"));
        }
        if reader.read_from(&mut &theirs).expect("it was closed in good order") == 0 {
            assert!(!reader.has_partial_frame(), "the rest of a message is missing");
            return received;
        }
    }
}

/// Who sends writes small messages himself, beside the thread that writes what waits. Each arrives
/// whole and once, and those of one sender in order.
#[test]
fn what_is_written_at_once_neither_overtakes_nor_cuts_into_what_waits() {
    three_preemptions(|| {
        let link = link();
        let (ours, theirs) = connected(&link);
        let writer = at_work(&link, ours);
        let (one, other) = (messages(1), messages(2));
        let sender = thread::spawn({
            let (link, other) = (link.clone(), other.clone());
            move || push_all(&link, &other)
        });
        push_all(&link, &one);
        sender.join().unwrap();
        await_written(&link);
        link.stop();
        writer.join().unwrap();
        drop(link);
        let received = received(theirs);
        assert_eq!(received.len(), one.len() + other.len());
        for sent in [one, other] {
            assert_eq!(
                received
                    .iter()
                    .filter(|message| sent.contains(message))
                    .cloned()
                    .collect::<Vec<_>>(),
                sent,
                "out of order"
            );
        }
    });
}

/// The rest of a message whose begin went to a connection that is lost is not for the next one.
#[test]
fn a_connection_begins_with_a_whole_message() {
    loom::model(|| {
        let link = link();
        let lost = connected(&link);
        push_all(&link, &messages(1)[1..]);
        link.hang_up_and_forget();
        drop(lost);
        let (ours, theirs) = connected(&link);
        let writer = at_work(&link, ours);
        push_all(&link, &messages(2));
        await_written(&link);
        link.stop();
        writer.join().unwrap();
        drop(link);
        assert_eq!(received(theirs), messages(2));
    });
}
