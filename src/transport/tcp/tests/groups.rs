//! Several groups on one port: what one does, or suffers, leaves the others alone.

use socket2::{Domain, Socket, Type};

use super::silence::keep_answering;
use super::*;
use crate::message::{Beat, BeatKind};
use crate::transport::frame::{Frames, beats};
use crate::transport::{HostContext, HostTransport, TcpHostTransport};

/// A host, and the groups that it opens. Its node is 1, as in `addresses`.
struct Host {
    transport: TcpHostTransport,
    node: Node,
}

/// A group of a host, with what has arrived.
struct Group {
    transport: Box<dyn Transport>,
    node: Node,
}

impl Host {
    fn new(addresses: &[(NodeId, String)]) -> Host {
        let (transport, node) = (TcpHostTransport::new(), Node::new(1, addresses));
        let spawner = node.context.spawner.clone();
        let context = HostContext::new(1.into(), node.address(), addresses.to_vec(), spawner);
        transport.start(context).unwrap();
        Host { transport, node }
    }

    fn open(&self, name: &str) -> Group {
        let mut node = Node::new(1, &self.node.context.addresses);
        node.context.group = name.to_owned();
        let mut transport = self.transport.group();
        transport.start(node.context.clone()).unwrap();
        Group { transport, node }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.transport.stop();
    }
}

/// The hello of node 2 to the host, for a group.
fn hello(addresses: &[(NodeId, String)], group: &str) -> Hello {
    let mut peer = Node::new(2, addresses);
    peer.context.group = group.to_owned();
    Hello::new(&peer.context, 1.into(), 7)
}

/// Node 2, connected to the host.
fn peer(host: &Host) -> RawClient {
    RawClient::greeting(&host.node, &hello(&host.node.context.addresses, "any"))
}

/// Introduces a group. Returns the kind of the answer, and what follows the slot.
fn introduce(client: &mut RawClient, host: &Host, slot: u32, group: &str) -> (Kind, Vec<u8>) {
    let hello = hello(&host.node.context.addresses, group);
    client.say(Kind::Introduction, slot, &hello.encode());
    answer(client, slot)
}

fn answer(client: &mut RawClient, slot: u32) -> (Kind, Vec<u8>) {
    let answer = client.read_frame().unwrap();
    let (about, content) = slots::split(&answer.content).unwrap();
    assert_eq!(about, slot);
    (answer.kind, content.to_vec())
}

fn to_host(number: u64) -> Message {
    Message::sample(2.into(), 1.into(), number, 10)
}

fn say(client: &mut RawClient, slot: u32, message: &Message) {
    client.say(Kind::Message, slot, &message.encode().concat());
}

/// Waits until the host has read all that the client has sent.
fn await_read(client: &mut RawClient) {
    client.write_frame(Kind::Ping, 77_u64.to_le_bytes().to_vec());
    // It hears other pongs too, also of a host that reads no further.
    until("all is read", || client.hear_any().unwrap().number() == Some(77));
}

#[test]
fn a_group_that_is_not_open_is_declined_and_takes_nothing_from_the_others() {
    let host = Host::new(&addresses());
    let open = host.open("open");
    let mut client = peer(&host);
    let (kind, reason) = introduce(&mut client, &host, 1, "closed");
    assert_eq!((kind, reason[0]), (Kind::Decline, HandshakeRejection::NoSuchGroup as u8));
    assert_eq!(introduce(&mut client, &host, 2, "open").0, Kind::Acceptance);
    say(&mut client, 1, &to_host(1));
    say(&mut client, 2, &to_host(2));
    await_read(&mut client);
    assert_eq!(open.node.arrived.lock().messages, [to_host(2)]);
    let closed = host.open("closed");
    assert_eq!(introduce(&mut client, &host, 3, "closed").0, Kind::Acceptance);
    say(&mut client, 1, &to_host(3));
    say(&mut client, 3, &to_host(4));
    await_read(&mut client);
    assert_eq!(closed.node.arrived.lock().messages, [to_host(4)], "a slot is used once");
}

#[test]
fn a_slot_that_was_used_or_not_introduced_ends_the_connection() {
    let host = Host::new(&addresses());
    let _groups = ["one", "other"].map(|name| host.open(name));
    for slot in [0, 4, 5] {
        let mut client = peer(&host);
        assert_eq!(introduce(&mut client, &host, 5, "one").0, Kind::Acceptance);
        let hello = hello(&host.node.context.addresses, "other");
        client.say(Kind::Introduction, slot, &hello.encode());
        assert_eq!(client.read_frame(), None, "slot {slot}");
    }
    let mut client = peer(&host);
    assert_eq!(introduce(&mut client, &host, 5, "one").0, Kind::Acceptance);
    say(&mut client, 6, &to_host(1));
    assert_eq!(client.read_frame(), None);
}

#[test]
fn late_frames_of_a_slot_that_has_ended_go_nowhere() {
    let host = Host::new(&addresses());
    let (mut leaves, stays) = (host.open("leaves"), host.open("stays"));
    let mut client = peer(&host);
    assert_eq!(introduce(&mut client, &host, 1, "leaves").0, Kind::Acceptance);
    assert_eq!(introduce(&mut client, &host, 2, "stays").0, Kind::Acceptance);
    // The first part of a message that is never ended.
    let large = Message::sample(2.into(), 1.into(), 1, 300_000).encode();
    let mut parts = Vec::new();
    Frames::of(1, large).next(&mut parts);
    client.0.write_all(&parts.concat()).unwrap();
    leaves.transport.stop();
    say(&mut client, 1, &to_host(2));
    assert_eq!(answer(&mut client, 1), (Kind::Withdrawal, vec![]), "the peer is told");
    client.say(Kind::Withdrawal, 1, &[]);
    say(&mut client, 1, &to_host(3));
    let again = host.open("leaves");
    say(&mut client, 1, &to_host(4));
    say(&mut client, 2, &to_host(5));
    await_read(&mut client);
    assert_eq!(leaves.node.arrived.lock().messages, []);
    assert_eq!(again.node.arrived.lock().messages, []);
    assert_eq!(stays.node.arrived.lock().messages, [to_host(5)]);
}

#[test]
fn what_is_not_understood_ends_its_slot_alone() {
    let host = Host::new(&addresses());
    let (one, other) = (host.open("one"), host.open("other"));
    let mut client = peer(&host);
    introduce(&mut client, &host, 1, "one");
    introduce(&mut client, &host, 2, "other");
    let forged = Message::sample(3.into(), 1.into(), 1, 10).encode().concat();
    for (slot, nonsense) in [(1, &b"words"[..]), (3, &forged)] {
        client.say(Kind::Message, slot, nonsense);
        let (kind, reason) = answer(&mut client, slot);
        assert_eq!((kind, reason[0]), (Kind::Decline, HandshakeRejection::Unreadable as u8));
        say(&mut client, slot, &to_host(1));
        say(&mut client, 2, &to_host(2));
        introduce(&mut client, &host, 3 * slot, "one");
    }
    await_read(&mut client);
    assert_eq!(one.node.arrived.lock().messages, []);
    assert_eq!(other.node.arrived.lock().messages.len(), 2);
    let told = one.node.arrived.lock().refused[&NodeId::from(2)].clone();
    assert!(told.contains("it sends what is not understood here"), "{told}");
    assert!(other.node.arrived.lock().refused.is_empty());
}

#[test]
fn a_group_that_is_busy_loses_its_own_messages_only() {
    let host = Host::new(&addresses());
    let (busy, other) = (host.open("busy"), host.open("other"));
    let mut client = peer(&host);
    introduce(&mut client, &host, 1, "busy");
    introduce(&mut client, &host, 2, "other");
    busy.node.arrived.lock().is_full = true;
    (0..100).for_each(|number| say(&mut client, 1, &to_host(number)));
    say(&mut client, 2, &to_host(1));
    await_read(&mut client);
    assert_eq!(other.node.arrived.lock().messages, [to_host(1)]);
    busy.node.arrived.lock().is_full = false;
    say(&mut client, 1, &to_host(200));
    await_read(&mut client);
    assert_eq!(busy.node.arrived.lock().messages, [to_host(200)]);
}

#[test]
fn a_peer_without_the_group_is_reported_after_a_while_and_not_at_once() {
    let addresses = addresses();
    let host = Host::new(&addresses);
    let group = host.open("orders");
    let listener = TcpListener::bind(&addresses[1].1).unwrap();
    let mut client = RawClient::called(&listener, &hello(&addresses, "orders"));
    let mut declined = |times: usize| {
        for _ in 0..times {
            let frame = loop {
                let frame = client.read_frame().unwrap();
                if frame.kind == Kind::Introduction {
                    break frame;
                }
            };
            let (slot, _) = slots::split(&frame.content).unwrap();
            client.say(Kind::Decline, slot, &[HandshakeRejection::NoSuchGroup as u8]);
        }
    };
    declined(2);
    assert!(group.node.arrived.lock().refused.is_empty(), "it may be opened a moment later");
    until("the group is told", || {
        declined(1);
        !group.node.arrived.lock().refused.is_empty()
    });
    let told = group.node.arrived.lock().refused[&NodeId::from(2)].clone();
    assert!(told.starts_with("node 2 refuses this node: the group is not open there"), "{told}");
}

#[test]
fn many_processes_may_claim_a_node_and_keep_nobody_out() {
    let host = Host::new(&addresses());
    let group = host.open("one");
    let addresses = &host.node.context.addresses;
    let claimed = |nonce| Hello { nonce, ..hello(addresses, "one") };
    let mut claims: Vec<RawClient> =
        (0..30).map(|nonce| RawClient::greeting(&host.node, &claimed(100 + nonce))).collect();
    let mut client = peer(&host);
    assert_eq!(introduce(&mut client, &host, 1, "one").0, Kind::Acceptance);
    say(&mut client, 1, &to_host(1));
    await_read(&mut client);
    assert_eq!(group.node.arrived.lock().messages, [to_host(1)]);
    let is_open = |claim: &mut RawClient| {
        claim.write_frame(Kind::Ping, 5_u64.to_le_bytes().to_vec());
        claim.hear_any().is_some()
    };
    let open = claims.iter_mut().filter_map(|claim| is_open(claim).then_some(())).count();
    assert!(open < 8, "{open} connections claim to be of one node");
}

/// A host that is connected to node 2, with these groups. The connection buffers little.
fn called_by_a_host(names: &[&str]) -> (Host, Vec<Group>, RawClient) {
    let addresses = addresses();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.bind(&addresses[1].1.parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.listen(8).unwrap();
    let host = Host::new(&addresses);
    let groups: Vec<Group> = names.iter().map(|name| host.open(name)).collect();
    let mut client = RawClient::called(&TcpListener::from(socket), &hello(&addresses, names[0]));
    for _ in names {
        let frame = client.read_frame().unwrap();
        let (_, bytes) = slots::split(&frame.content).unwrap();
        let group = Hello::decode(bytes).unwrap().group;
        let (slot, _) = slots::split(&frame.content).unwrap();
        client.say(Kind::Acceptance, slot, &hello(&addresses, &group).encode());
    }
    until("all groups are accepted", || {
        groups.iter().all(|group| !group.node.arrived.lock().identified.is_empty())
    });
    client.1.set_len_max(64 << 20);
    keep_answering(&client);
    (host, groups, client)
}

/// The slots and messages that the host sends, in order.
fn next_message(client: &mut RawClient) -> (u32, Message) {
    loop {
        let frame = client.read_frame().unwrap();
        if frame.kind == Kind::Message {
            return (frame.slot, Message::decode(frame.content).unwrap());
        }
    }
}

#[test]
fn bulk_of_one_group_delays_neither_what_is_urgent_nor_the_bulk_of_others() {
    let (_host, mut groups, mut client) = called_by_a_host(&["one", "other"]);
    let bulk = |number, len| Message::sample(1.into(), 2.into(), number, len);
    let large = |number| bulk(number, 4 << 20);
    groups[0].transport.send(&mut (1..=4).map(large).collect());
    std::thread::sleep(Duration::from_millis(100));
    let urgent = Message::samples(1.into(), 2.into()).remove(0);
    let small: Vec<Message> = (1..=20).map(|number| bulk(number, 3000)).collect();
    groups[1].transport.send(&mut small.clone());
    groups[1].transport.send(&mut vec![bulk(30, 300_000)]);
    groups[1].transport.send(&mut vec![urgent.clone()]);
    assert_eq!(next_message(&mut client).1, urgent);
    let others: Vec<Message> = (0..21).map(|_| next_message(&mut client).1).collect();
    assert_eq!(others[..20], small, "all of it before the first large message of the other group");
    assert_eq!(others[20], bulk(30, 300_000));
    for number in 1..=4 {
        assert_eq!(next_message(&mut client).1, large(number), "bulk keeps its order");
    }
}

#[test]
fn beats_of_several_groups_travel_together_and_that_of_one_by_itself() {
    let beat = |term| Beat { kind: BeatKind::Heartbeat, term, commit: 5, commit_term: 1 };
    let message = |term| Message::of_beat(1.into(), 2.into(), &beat(term));
    let names = ["one", "two", "three"];
    let (_host, mut groups, mut client) = called_by_a_host(&names);
    let mut rows = Vec::new();
    for round in 0..3 {
        for (group, number) in groups.iter_mut().zip(0..) {
            group.transport.send(&mut vec![message(10 * round + number)]);
        }
    }
    let mut frames = 0;
    while rows.len() < 9 {
        let frame = client.read_frame().unwrap();
        assert_eq!(frame.kind, Kind::Beats);
        rows.extend(beats::rows(&frame.content).unwrap());
        frames += 1;
    }
    assert!(frames < 9, "at least two went together");
    rows.sort_by_key(|(_, beat)| beat.term);
    let expected: Vec<Beat> =
        (0..3).flat_map(|round| (0..3).map(move |number| beat(10 * round + number))).collect();
    assert_eq!(rows.iter().map(|(_, beat)| *beat).collect::<Vec<_>>(), expected);
    assert!((0..3).all(|at| rows[at].0 == rows[at + 3].0 && rows[at].0 == rows[at + 6].0));
    let (_host, mut groups, mut client) = called_by_a_host(&names[..1]);
    groups[0].transport.send(&mut vec![message(1)]);
    assert_eq!(next_message(&mut client).1, message(1));
}

#[test]
fn beats_reach_the_groups_of_their_slots() {
    let host = Host::new(&addresses());
    let (one, other) = (host.open("one"), host.open("other"));
    let mut client = peer(&host);
    introduce(&mut client, &host, 1, "one");
    introduce(&mut client, &host, 2, "other");
    introduce(&mut client, &host, 3, "closed");
    let beat = |term| Beat { kind: BeatKind::Response, term, commit: 0, commit_term: 0 };
    let rows = [(1, beat(1)), (3, beat(3)), (2, beat(2)), (1, beat(4))];
    client.0.write_all(&beats::frames(&rows)).unwrap();
    await_read(&mut client);
    let message = |term| Message::of_beat(2.into(), 1.into(), &beat(term));
    assert_eq!(one.node.arrived.lock().messages, [message(1), message(4)]);
    assert_eq!(other.node.arrived.lock().messages, [message(2)]);
    client.0.write_all(&beats::frames(&[(4, beat(1))])).unwrap();
    assert_eq!(client.read_frame(), None, "that slot was not introduced");
}

#[test]
fn one_group_takes_half_of_a_queue_while_others_wait() {
    let (sender, one) = sender();
    let other = Arc::new(LocalGroup::new(2, &Node::new(1, &addresses()).context, 1));
    sender.join(&other);
    let message = |number| Message::sample(1.into(), 2.into(), number, 10);
    // Each message has a number of its own: a repeated one is not taken again.
    let push = |group, numbers: std::ops::Range<u64>| {
        numbers.filter(|number| sender.push(group, message(*number), 1 << 20)).count()
    };
    let all = QUEUE_BYTES_MAX >> 20;
    assert_eq!(push(one, 0..all as u64 + 10), all, "it is alone");
    assert_eq!(push(other.number, 0..10), 1, "who has none gets one, beyond the bound");
    assert_eq!(push(one, 1000..1010), 0);
    sender.leave(&other);
    let (sender, one) = super::sender();
    sender.join(&other);
    assert!(sender.push(other.number, message(0), 1 << 20));
    let taken = (0..100).filter(|n| sender.push(one, message(*n), 1 << 20)).count();
    assert_eq!(taken, all / 2);
}

#[test]
fn a_group_that_leaves_takes_its_messages_along() {
    let (host, mut groups, mut client) = called_by_a_host(&["one", "other"]);
    let bulk = |number| Message::sample(1.into(), 2.into(), number, 4 << 20);
    groups[0].transport.send(&mut (1..=4).map(bulk).collect());
    std::thread::sleep(Duration::from_millis(100));
    groups[0].transport.stop();
    let last = Message::sample(1.into(), 2.into(), 9, 5 << 20);
    groups[1].transport.send(&mut vec![last.clone()]);
    let mut withdrawn = false;
    loop {
        let frame = client.read_frame().unwrap();
        match frame.kind {
            Kind::Withdrawal => {
                let (slot, _) = slots::split(&frame.content).unwrap();
                client.1.forget(slot);
                withdrawn = true;
            }
            Kind::Message => {
                assert_eq!(Message::decode(frame.content).unwrap(), last);
                break;
            }
            _ => {}
        }
    }
    assert!(withdrawn, "the peer is told before it gets more");
    drop(host);
}
