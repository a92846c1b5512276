//! Hellos, the checks on them, and what both sides of a rejection say.

use super::*;
use crate::transport::{Inbox, Spawner};

pub(crate) fn context(node: u64) -> TransportContext {
    let addresses = (1..=3).map(|id| (NodeId::from(id), String::new())).collect();
    let no_threads = Spawner::new(|_, _| Err(std::io::ErrorKind::Unsupported.into()));
    TransportContext::new(NodeId::from(node), "orders", addresses, Inbox::new(|_| true), no_threads)
}

fn hello() -> Hello {
    Hello { advertised: "broker-2:9876".into(), ..Hello::new(&context(2), NodeId::from(1), 77) }
}

/// A registry that checks inbound hellos only.
struct Incoming(PeerRegistry);

impl Incoming {
    fn admit(&mut self, hello: &Hello) -> Result<(), HandshakeRejection> {
        self.0.admit(hello, Way::In)
    }
}

#[test]
fn a_hello_comes_back_as_it_was_and_nothing_shorter_or_longer_does() {
    let bytes = hello().encode();
    assert_eq!(Hello::decode(&bytes), Ok(hello()));
    for len in 0..bytes.len() {
        assert_eq!(Hello::decode(&bytes[..len]), Err(HandshakeRejection::Protocol), "{len} bytes");
    }
    assert_eq!(Hello::decode(&[&bytes[..], b"x"].concat()), Err(HandshakeRejection::Protocol));
    for protocol in [1, 2, 4] {
        assert_eq!(
            Hello::decode(&[&[protocol], &bytes[1..]].concat()),
            Err(HandshakeRejection::Protocol)
        );
    }
    for members in [&[3, 2, 1][..], &[1, 1, 2], &[1; 64]] {
        let members = members.iter().map(|id| NodeId::from(*id)).collect();
        assert_eq!(
            Hello::decode(&Hello { members, ..hello() }.encode()),
            Err(HandshakeRejection::Protocol)
        );
    }
    for advertised in ["", "ä", &"x".repeat(ADVERTISED_BYTES_MAX)] {
        let said = Hello { advertised: advertised.into(), ..hello() };
        assert_eq!(Hello::decode(&said.encode()), Ok(said));
    }
    for forged in ["two\nlines", "\u{1b}[31m", "\u{85}", "\0", "\u{2028}", "\u{202E}"] {
        let said = Hello { advertised: forged.into(), ..hello() };
        assert_eq!(Hello::decode(&said.encode()), Err(HandshakeRejection::Protocol), "{forged:?}");
    }
    let mut not_utf8 = bytes.clone();
    *not_utf8.last_mut().unwrap() = 0xff;
    assert_eq!(Hello::decode(&not_utf8), Err(HandshakeRejection::Protocol));
    let mut unknown_flag = bytes;
    unknown_flag[76] |= 1 << 7;
    assert_eq!(Hello::decode(&unknown_flag), Err(HandshakeRejection::Protocol));
}

#[test]
fn only_the_peer_itself_is_admitted() {
    let mut known = Incoming(PeerRegistry::new(&context(1), 1));
    assert_eq!(known.admit(&Hello { cluster: 9, ..hello() }), Err(HandshakeRejection::Cluster));
    assert_eq!(
        known.admit(&Hello { group: "other".into(), ..hello() }),
        Err(HandshakeRejection::Group)
    );
    let others: Arc<[NodeId]> = [2, 3].map(NodeId::from).into();
    let differs = Hello { members: others, cluster: 9, ..hello() };
    assert_eq!(known.admit(&differs), Err(HandshakeRejection::Members));
    assert_eq!(
        known.admit(&Hello { to: NodeId::from(3), ..hello() }),
        Err(HandshakeRejection::WrongNode)
    );
    assert_eq!(
        known.admit(&Hello { from: NodeId::from(4), ..hello() }),
        Err(HandshakeRejection::NotAMember)
    );
    assert_eq!(
        known.admit(&Hello { from: NodeId::from(1), ..hello() }),
        Err(HandshakeRejection::NotAMember)
    );
    assert_eq!(known.admit(&hello()), Ok(()));
    assert_eq!(known.admit(&hello()), Ok(()));
}

#[test]
fn a_wiped_disk_and_an_old_process_are_rejected() {
    let mut remembering = context(1);
    remembering.known = vec![(NodeId::from(2), 55)];
    assert_eq!(
        PeerRegistry::new(&remembering, 1).admit(&hello(), Way::Out),
        Err(HandshakeRejection::DirectoryChanged)
    );

    let mut known = Incoming(PeerRegistry::new(&context(1), 1));
    let of_process = |incarnation, nonce| Hello {
        identity: DirectoryIdentity { directory: 2, incarnation, complete: true },
        nonce,
        ..hello()
    };
    assert_eq!(known.admit(&of_process(5, 77)), Ok(()));
    assert_eq!(known.admit(&of_process(5, 78)), Err(HandshakeRejection::OutdatedDirectory));
    assert_eq!(known.admit(&of_process(6, 79)), Ok(()));
    assert_eq!(known.admit(&of_process(5, 77)), Err(HandshakeRejection::OutdatedDirectory));
    let from = |directory, complete| Hello {
        identity: DirectoryIdentity { directory, incarnation: 1, complete },
        ..hello()
    };
    assert_eq!(known.admit(&from(3, true)), Err(HandshakeRejection::DirectoryChanged));
    assert_eq!(
        known.admit(&from(3, false)),
        Err(HandshakeRejection::Elsewhere),
        "it may be a copy"
    );
    assert_eq!(known.admit(&of_process(6, 79)), Ok(()), "and replaces none");
    assert_eq!(
        known.0.admit(&from(3, false), Way::Out),
        Ok(()),
        "it is found where it should be, and takes no part yet"
    );
    assert_eq!(known.admit(&from(3, false)), Ok(()), "by now it is known");
    assert_eq!(
        known.admit(&of_process(7, 80)),
        Err(HandshakeRejection::DirectoryChanged),
        "its place is taken"
    );
    assert_eq!(known.admit(&from(3, true)), Ok(()), "by now it is complete");
}

/// A copy that came in first was the known one, and the peer itself was refused from then on.
#[test]
fn a_copy_that_comes_in_before_its_node_does_not_keep_the_node_out() {
    let from = |directory, complete| Hello {
        identity: DirectoryIdentity { directory, incarnation: 9, complete },
        ..hello()
    };
    let (node, copy) = (from(2, true), from(3, false));
    let mut known = PeerRegistry::new(&context(1), 1);
    assert_eq!(known.admit(&copy, Way::In), Err(HandshakeRejection::Elsewhere));
    assert_eq!(known.admit(&node, Way::In), Ok(()), "as in a group that begins");
    assert!(known.knows(&node) && !known.knows(&copy));

    // One that has lost its log lets all in, so that they find it, and knows whom it has found.
    let mut lost = PeerRegistry::new(&context(1), 1);
    lost.me.identity.complete = false;
    for other in [&copy, &from(4, true), &node] {
        assert_eq!(lost.admit(other, Way::In), Ok(()));
        assert!(!lost.knows(other));
    }
    assert_eq!(lost.admit(&node, Way::Out), Ok(()));
    assert!(lost.knows(&node));
    assert_eq!(lost.admit(&from(4, true), Way::In), Err(HandshakeRejection::DirectoryChanged));
    assert_eq!(lost.admit(&copy, Way::In), Err(HandshakeRejection::Elsewhere));
    assert_eq!(lost.admit(&node, Way::In), Ok(()));
    let earlier = Hello { identity: DirectoryIdentity { incarnation: 8, ..node.identity }, ..node };
    assert_eq!(lost.admit(&earlier, Way::In), Err(HandshakeRejection::OutdatedDirectory));
}

#[test]
fn every_reason_survives_the_wire() {
    for rejection in HandshakeRejection::ALL {
        assert_eq!(HandshakeRejection::from_code(rejection as u8), Some(rejection));
    }
    assert_eq!(HandshakeRejection::from_code(0), None);
}

#[test]
fn both_sides_of_a_refusal_say_what_differs() {
    let mut other = context(2);
    other.addresses.push((NodeId::from(9), String::new()));
    let (ours, theirs) = (PeerRegistry::new(&context(1), 1), PeerRegistry::new(&other, 2));
    let hello = theirs.hello_to(NodeId::from(1)).encode();
    let text = "its list of members differs (1, 2, 3, 9 instead of 1, 2, 3): \
                name the same members in the builder of every node";
    assert_eq!(ours.rejection(HandshakeRejection::Members, &hello).to_string(), text);
    assert_eq!(theirs.refused_by(&ours.refusal(HandshakeRejection::Members)).to_string(), text);
    let old = [&1_u32.to_le_bytes()[..], &hello[4..]].concat();
    assert_eq!(claim(&old), Some((1, NodeId::from(2))));
    assert!(
        ours.rejection(HandshakeRejection::Protocol, &old)
            .to_string()
            .contains("protocol (1 instead of 3): bring")
    );
    let mut from_later = ours.refusal(HandshakeRejection::Protocol);
    from_later[1] = 4;
    assert!(
        theirs.refused_by(&from_later).to_string().contains("protocol (3 instead of 4): bring")
    );
    let endless = [&ours.refusal(HandshakeRejection::Members)[..], &[7; 60 << 10]].concat();
    assert!(
        theirs.refused_by(&endless).to_string().len() < 2000,
        "a peer that was admitted may send much"
    );
    assert_eq!(theirs.refused_by(&[99]).reason, HandshakeRejection::Protocol);
    assert_eq!(
        theirs.refused_by(&[6]).to_string(),
        HandshakeRejection::DirectoryChanged.to_string()
    );
}
