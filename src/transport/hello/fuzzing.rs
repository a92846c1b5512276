//! Fuzzing: any bytes as a sequence of hellos.

use std::collections::HashMap;

use super::slots::ConnectionHello;
use super::{HandshakeRejection, Hello, PROTOCOL, PeerRegistry, Way};
use crate::entry::NodeId;
use crate::fuzzing::FuzzInput;
use crate::role::check_advertised;
use crate::transport::{Inbox, Spawner, TransportContext};

const KNOWN: u128 = 0x0123_4567_89ab_cdef;

/// Bytes either are rejected, or decode to a hello that encodes to the same bytes and advertises
/// nothing that could forge a log line. A hello is rejected if its sender is no peer, it is for
/// another cluster, group or node, or it has another directory than before, an earlier incarnation,
/// or the same incarnation and another process. So is one from an incomplete directory, if no
/// directory of its sender is known.
///
/// An input is hellos: u8 length, u8 bits of the fields to correct (1 protocol, 2 cluster, 4 group,
/// 8 receiver, 16 sender, 32 directory, 64 members), then the bytes.
pub fn hello(input: &[u8]) {
    let (mut fuzz_input, context) = (FuzzInput(input), context());
    let mut registry = PeerRegistry::new(&context, 1);
    let mut known_peers = HashMap::from([(NodeId::from(3), (KNOWN, 0, 0))]);
    while !fuzz_input.0.is_empty() {
        let (len, right) = (usize::from(fuzz_input.byte()), fuzz_input.byte());
        let mut bytes = fuzz_input.bytes(len).to_vec();
        if let (true, Some(protocol)) = (right & 1 == 1, bytes.first_chunk_mut()) {
            *protocol = PROTOCOL.to_le_bytes();
        }
        if let Ok(hello) = ConnectionHello::decode(&bytes) {
            assert_eq!(hello.encode(), bytes, "a hello is written in one way");
        }
        match Hello::decode(&bytes) {
            Err(refusal) => assert_eq!(
                (refusal, HandshakeRejection::from_code(refusal as u8)),
                (HandshakeRejection::Protocol, Some(HandshakeRejection::Protocol))
            ),
            Ok(hello) => {
                assert!(check_advertised(&hello.advertised).is_ok(), "{:?}", hello.advertised);
                assert_eq!(hello.encode(), bytes, "a hello is written in one way");
                receive(correct(hello, &context, right), &context, &mut registry, &mut known_peers);
            }
        }
    }
}

fn context() -> TransportContext {
    let addresses = (1..=3).map(|id| (NodeId::from(id), String::new())).collect();
    let no_threads = Spawner::new(|_, _| Err(std::io::ErrorKind::Unsupported.into()));
    let mut context = TransportContext::new(
        NodeId::from(1),
        "orders",
        addresses,
        Inbox::new(|_| true),
        no_threads,
    );
    (context.cluster, context.known) = (7, vec![(NodeId::from(3), KNOWN)]);
    context
}

fn correct(mut hello: Hello, context: &TransportContext, right: u8) -> Hello {
    if right & 2 != 0 {
        hello.cluster = context.cluster;
    }
    if right & 4 != 0 {
        hello.group.clone_from(&context.group);
    }
    if right & 8 != 0 {
        hello.to = context.node;
    }
    if right & 16 != 0 {
        hello.from = NodeId::from(2 + hello.from.get() % 2);
    }
    if right & 32 != 0 {
        hello.identity.directory = KNOWN;
    }
    if right & 64 != 0 {
        hello.members = Hello::new(context, context.node, 0).members;
    }
    hello
}

/// The known peers: the directory, and the incarnation and nonce of the newest process.
type Known = HashMap<NodeId, (u128, u64, u64)>;

fn receive(
    hello: Hello,
    context: &TransportContext,
    registry: &mut PeerRegistry,
    known_peers: &mut Known,
) {
    let Hello { from, nonce, .. } = hello;
    let (directory, incarnation) = (hello.identity.directory, hello.identity.incarnation);
    let is_peer = [2, 3].contains(&from.get());
    let is_for_here = (hello.cluster, hello.group.as_str(), hello.to)
        == (context.cluster, context.group.as_str(), context.node);
    let is_for_here = is_for_here && hello.members.iter().map(|id| id.get()).eq(1..=3);
    let is_same_directory = match known_peers.get(&from) {
        Some(&(known, ..)) => known == directory,
        None => hello.identity.complete,
    };
    let is_newest = match known_peers.get(&from).copied().unwrap_or_default() {
        (_, newest, process) if newest == incarnation => process == nonce,
        (_, newest, _) => newest < incarnation,
    };
    let admitted = registry.admit(&hello, Way::In);
    assert_eq!(
        admitted.is_ok(),
        is_peer && is_for_here && is_same_directory && is_newest,
        "{hello:?} got {admitted:?}"
    );
    if admitted.is_ok() {
        known_peers.insert(from, (directory, incarnation, nonce));
    }
}

#[cfg(test)]
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    use crate::storage::DirectoryIdentity;

    let good = |directory, incarnation, nonce| {
        let identity = DirectoryIdentity { directory, incarnation, complete: true };
        Hello { to: 1.into(), from: 2.into(), identity, ..Hello::new(&context(), 1.into(), nonce) }
    };
    let first = good(5, 2, 9);
    let then = [
        first.clone(),
        good(5, 3, 1),
        good(5, 2, 8),
        good(5, 1, 9),
        good(6, 4, 9),
        good(5, u64::MAX, u64::MAX),
        Hello { cluster: 8, ..first.clone() },
        Hello { group: String::new(), ..first.clone() },
        Hello { to: 2.into(), ..first.clone() },
        Hello { from: 1.into(), ..first.clone() },
        Hello { from: 0.into(), ..first.clone() },
        Hello { from: 3.into(), ..first.clone() },
        Hello { group: "x".repeat(140), ..first.clone() },
        Hello { members: [1, 2].map(NodeId::from).into(), ..first.clone() },
        Hello { advertised: "broker-2:9876".into(), ..first.clone() },
        Hello { advertised: "two\nlines".into(), ..first.clone() },
    ];
    let said = |hello: &Hello, right: u8| {
        [&[hello.encode().len() as u8, right][..], &hello.encode()].concat()
    };
    let pairs = then.iter().flat_map(|second| {
        [0, 127].map(|right| [said(&first, 0), said(second, right), said(&first, 0)].concat())
    });
    let connection = ConnectionHello { from: 2.into(), to: 1.into(), process: 7 }.encode();
    let connection = [&[connection.len() as u8, 0][..], &connection].concat();
    pairs.chain([first.encode(), connection]).collect()
}
