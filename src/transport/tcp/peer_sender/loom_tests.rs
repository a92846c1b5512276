//! Every schedule of the queue of a peer sender: threads that push, the thread that writes, a stop,
//! and a new process of the peer.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::*;
use crate::primitives::thread::{self, JoinHandle};
use crate::primitives::three_preemptions;
use crate::transport::{Inbox, Spawner, TransportContext};

/// The group of all messages, and its slot on every connection.
const GROUP: u64 = 1;
const SLOT: u32 = 1;

fn message(number: u64) -> (Message, usize) {
    let message = Message::sample(NodeId::from(1), NodeId::from(2), number, 3);
    let len = message.encoded_len();
    (message, len)
}

fn context() -> TransportContext {
    let addresses = (1..=2).map(|id| (NodeId::from(id), String::new())).collect();
    let no_threads = Spawner::new(|_, _| Err(io::ErrorKind::Unsupported.into()));
    TransportContext::new(NodeId::from(1), "orders", addresses, Inbox::new(|_| true), no_threads)
}

/// A sender with one group.
fn sender() -> Arc<PeerSender> {
    let sender = PeerSender::new(NodeId::from(2), String::new(), Arc::new(|_| Ok(Vec::new())));
    sender.join(&Arc::new(LocalGroup::new(GROUP, &context(), 1)));
    accept(&sender);
    Arc::new(sender)
}

/// The peer accepts the group, as it does on every connection.
fn accept(sender: &PeerSender) {
    let mut queue = sender.queue.lock();
    assert!(queue.introduce(sender.peer, Instant::now()));
    queue.give(&mut Work::default(), Instant::now(), 1 << 20);
    assert!(queue.accept(SLOT, (1, 1)));
}

#[test]
fn no_message_is_left_behind() {
    three_preemptions(|| {
        let sender = sender();
        let (ours, theirs) = pair();
        let writer = writing(&sender, ours);
        let other = thread::spawn({
            let sender = sender.clone();
            move || {
                let (message, len) = message(0);
                assert!(sender.push(GROUP, message, len));
            }
        });
        for number in 1..3 {
            let (message, len) = message(number);
            assert!(sender.push(GROUP, message, len));
        }
        other.join().unwrap();
        await_written(&sender);
        assert_eq!(sender.queue.lock().bytes, 0);
        sender.stop();
        writer.join().unwrap();
        assert_eq!(received(theirs).len(), 3);
    });
}

#[test]
fn a_stop_wakes_the_writer() {
    loom::model(|| {
        let sender = sender();
        let (ours, _theirs) = pair();
        let writer = writing(&sender, ours);
        let (message, len) = message(0);
        sender.push(GROUP, message, len);
        sender.stop();
        writer.join().unwrap();
    });
}

#[test]
fn another_process_of_the_peer_wakes_the_writer() {
    loom::model(|| {
        let sender = sender();
        sender.queue.lock().connected_to = Some(1);
        let (ours, theirs) = pair();
        let writer = writing(&sender, ours);
        sender.peer_introduced(GROUP, 2, (2, 2));
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
fn connected(sender: &PeerSender) -> (TcpStream, TcpStream) {
    let (ours, theirs) = pair();
    let mut queue = sender.queue.lock();
    queue.socket = Some(ours.try_clone().expect("a handle").into());
    queue.connected_to = Some(1);
    (ours, theirs)
}

/// The thread that writes to one connection.
fn writing(sender: &Arc<PeerSender>, stream: TcpStream) -> JoinHandle<()> {
    let sender = sender.clone();
    thread::spawn(move || {
        let mut outbound = Outbound::new(stream, FrameReader::new()).expect("a connection");
        let settings = PortSettings {
            node: NodeId::from(1),
            is_lone: true,
            peers: Vec::new(),
            message_bytes_max: 1 << 20,
            silence: Duration::from_secs(1),
            removed: Default::default(),
            spawner: context().spawner,
        };
        let (port, mut log) = (Port::new(&settings), ConnectionLog::default());
        let _ = sender.write(&mut outbound, &port, &mut log);
    })
}

/// The messages of one thread. The first is so small that one write may take it; the other leaves
/// a rest.
fn messages(thread: u64) -> Vec<Message> {
    let of_size = |(number, bytes)| {
        Message::sample(NodeId::from(1), NodeId::from(2), 10 * thread + number, bytes)
    };
    let messages: Vec<Message> = [(0, 1), (1, 300)].map(of_size).to_vec();
    assert!(
        frame_of(SLOT, &messages[0]).len() <= WRITE_BYTES_MAX
            && frame_of(SLOT, &messages[1]).len() > WRITE_BYTES_MAX
    );
    messages
}

fn push_all(sender: &PeerSender, messages: &[Message]) {
    messages
        .iter()
        .for_each(|message| assert!(sender.push(GROUP, message.clone(), message.encoded_len())));
}

/// Waits until the thread that writes has nothing left.
fn await_written(sender: &PeerSender) {
    let is_done = || {
        let queue = sender.queue.lock();
        queue.is_empty() && !queue.is_busy
    };
    while !is_done() {
        thread::yield_now();
    }
}

/// All that the peer receives until the connection is closed.
fn received(theirs: TcpStream) -> Vec<Message> {
    let (mut reader, mut received) = (FrameReader::new(), Vec::new());
    reader.set_len_max(1 << 10);
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

/// A thread that sends writes small messages itself, beside the thread that writes the queue. Each
/// message arrives complete and once, and those of one thread in order.
#[test]
fn what_is_written_at_once_neither_overtakes_nor_cuts_into_what_waits() {
    three_preemptions(|| {
        let sender = sender();
        let (ours, theirs) = connected(&sender);
        let writer = writing(&sender, ours);
        let (one, other) = (messages(1), messages(2));
        let second = thread::spawn({
            let (sender, other) = (sender.clone(), other.clone());
            move || push_all(&sender, &other)
        });
        push_all(&sender, &one);
        second.join().unwrap();
        await_written(&sender);
        sender.stop();
        writer.join().unwrap();
        drop(sender);
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
        let sender = sender();
        let lost = connected(&sender);
        push_all(&sender, &messages(1)[1..]);
        sender.close_and_clear();
        drop(lost);
        accept(&sender);
        let (ours, theirs) = connected(&sender);
        let writer = writing(&sender, ours);
        push_all(&sender, &messages(2));
        await_written(&sender);
        sender.stop();
        writer.join().unwrap();
        drop(sender);
        assert_eq!(received(theirs), messages(2));
    });
}
