//! Any bytes, said as hellos, one after the other.

use std::collections::HashMap;

use super::{HandshakeRejection, Hello, PROTOCOL, PeerRegistry, Way};
use crate::entry::NodeId;
use crate::fuzzing::FuzzInput;
use crate::role::check_advertised;
use crate::transport::{Inbox, Spawner, TransportContext};

const KNOWN: u128 = 0x0123_4567_89ab_cdef;

/// Any bytes either are refused as a hello, or would be written as they came, and advertise nothing
/// that could forge a line of a log; and nobody comes in who is not a peer, speaks to another
/// cluster, group or node, comes with another directory than before, in an earlier life, or as the
/// second one of the same life.
///
/// An input is hellos: u8 length, u8 bits of what is put right (1 protocol, 2 cluster, 4 group, 8
/// receiver, 16 sender, 32 directory, 64 members), then the bytes.
pub fn hello(input: &[u8]) {
    let (mut fuzz_input, context) = (FuzzInput(input), context());
    let mut acquaintances = PeerRegistry::new(&context, 1);
    let mut met = HashMap::from([(NodeId::from(3), (KNOWN, 0, 0))]);
    while !fuzz_input.0.is_empty() {
        let (len, right) = (usize::from(fuzz_input.byte()), fuzz_input.byte());
        let mut bytes = fuzz_input.bytes(len).to_vec();
        if let (true, Some(protocol)) = (right & 1 == 1, bytes.first_chunk_mut()) {
            *protocol = PROTOCOL.to_le_bytes();
        }
        match Hello::decode(&bytes) {
            Err(refusal) => assert_eq!(
                (refusal, HandshakeRejection::from_code(refusal as u8)),
                (HandshakeRejection::Protocol, Some(HandshakeRejection::Protocol))
            ),
            Ok(hello) => {
                assert!(check_advertised(&hello.advertised).is_ok(), "{:?}", hello.advertised);
                assert_eq!(hello.encode(), bytes, "a hello is written in one way");
                say(put_right(hello, &context, right), &context, &mut acquaintances, &mut met);
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

fn put_right(mut hello: Hello, context: &TransportContext, right: u8) -> Hello {
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

/// What is known of a peer: its directory, and the incarnation and nonce of its newest life.
type PeerIdentified = HashMap<NodeId, (u128, u64, u64)>;

fn say(
    hello: Hello,
    context: &TransportContext,
    acquaintances: &mut PeerRegistry,
    met: &mut PeerIdentified,
) {
    let Hello { from, nonce, .. } = hello;
    let (directory, incarnation) = (hello.identity.directory, hello.identity.incarnation);
    let is_peer = [2, 3].contains(&from.get());
    let is_for_here = (hello.cluster, hello.group.as_str(), hello.to)
        == (context.cluster, context.group.as_str(), context.node);
    let is_for_here = is_for_here && hello.members.iter().map(|id| id.get()).eq(1..=3);
    let is_itself = met.get(&from).is_none_or(|&(known, ..)| known == directory);
    let is_newest = match met.get(&from).copied().unwrap_or_default() {
        (_, newest, twin) if newest == incarnation => twin == nonce,
        (_, newest, _) => newest < incarnation,
    };
    let admitted = acquaintances.admit(&hello, Way::In);
    assert_eq!(
        admitted.is_ok(),
        is_peer && is_for_here && is_itself && is_newest,
        "{hello:?} was met with {admitted:?}"
    );
    if admitted.is_ok() {
        met.insert(from, (directory, incarnation, nonce));
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
        Hello { group: "x".repeat(160), ..first.clone() },
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
    pairs.chain([first.encode()]).collect()
}
