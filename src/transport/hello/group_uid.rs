//! The unique id of the group in a hello: two copies of one name that are not of one group refuse
//! each other, and a copy of a group that was removed from a host is refused there.

use super::{HandshakeRejection, Hello, PeerRecord, PeerRegistry};

impl PeerRegistry {
    /// The id of the group is known now. Returns whether a peer has presented another one: it was
    /// accepted while this node knew none.
    pub(crate) fn set_group_uid(&mut self, uid: u128) -> bool {
        self.me.group_uid = uid;
        let differs = |peer: &PeerRecord| peer.group_uid != 0 && peer.group_uid != uid;
        uid != 0 && self.peers.values().any(differs)
    }

    /// A node that knows the id takes no other one. One that does not know it takes any, but for
    /// one that was removed from this host: it would follow a copy that is left of it. A node that
    /// has asked to be a copy of a living group again (its log is not complete) takes that as well.
    pub(super) fn check_group_uid(&self, hello: &Hello) -> Result<(), HandshakeRejection> {
        let (ours, theirs) = (self.me.group_uid, hello.group_uid);
        let is_joining = ours == 0 && !self.me.identity.complete;
        if theirs == 0 || theirs == ours || is_joining {
            Ok(())
        } else if self.removed.contains(theirs) {
            Err(HandshakeRejection::RemovedGroup)
        } else if ours != 0 {
            Err(HandshakeRejection::OtherGroup)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::context;
    use super::*;
    use crate::storage::DirectoryIdentity;
    use crate::transport::hello::Way;
    use crate::transport::{RemovedGroups, TransportContext};

    const REMOVED: u128 = 66;

    /// Node 1, which knows `ours`, and has removed one group.
    fn registry(ours: u128) -> PeerRegistry {
        let removed = RemovedGroups::new(|uid| uid == REMOVED);
        let context = TransportContext { group_uid: ours, removed, ..context(1) };
        PeerRegistry::new(&context, 1)
    }

    fn hello(theirs: u128) -> Hello {
        Hello { group_uid: theirs, ..Hello::new(&context(2), 1.into(), 77) }
    }

    #[test]
    fn copies_of_two_groups_refuse_each_other() {
        use HandshakeRejection::{OtherGroup, RemovedGroup};
        let judged = |ours, theirs| registry(ours).admit(&hello(theirs), Way::In);
        for (ours, theirs, outcome) in [
            (0, 0, Ok(())),
            (0, 7, Ok(())),
            (7, 0, Ok(())),
            (7, 7, Ok(())),
            (7, 8, Err(OtherGroup)),
            (7, REMOVED, Err(RemovedGroup)),
            (0, REMOVED, Err(RemovedGroup)),
            (REMOVED, REMOVED, Ok(())),
        ] {
            assert_eq!(judged(ours, theirs), outcome, "{ours} hears {theirs}");
        }
    }

    #[test]
    fn a_node_that_asked_to_join_again_takes_a_group_that_was_removed() {
        let mut joining = registry(0);
        joining.me.identity = DirectoryIdentity { complete: false, ..joining.me.identity };
        assert_eq!(joining.admit(&hello(REMOVED), Way::Out), Ok(()));
        assert!(!joining.set_group_uid(REMOVED));
        assert_eq!(joining.admit(&hello(8), Way::Out), Err(HandshakeRejection::OtherGroup));
        joining.me.identity.complete = true;
        assert_eq!(joining.admit(&hello(REMOVED), Way::Out), Ok(()));
    }

    #[test]
    fn an_id_that_is_learned_ends_what_was_accepted_with_another_one() {
        for (theirs, differs) in [(0, false), (7, false), (8, true)] {
            let mut registry = registry(0);
            assert_eq!(registry.admit(&hello(theirs), Way::In), Ok(()));
            assert_eq!(registry.set_group_uid(7), differs, "{theirs}");
            assert_eq!(registry.admit(&hello(theirs), Way::In).is_err(), differs, "{theirs}");
            assert_eq!(registry.hello_to(2.into()).group_uid, 7);
        }
    }

    #[test]
    fn both_sides_name_both_ids_and_say_what_to_do() {
        let (ours, theirs) = (registry(7), registry(8));
        let hello = theirs.hello_to(1.into()).encode();
        let text = ours.rejection(HandshakeRejection::OtherGroup, &hello).to_string();
        let (a, b) = (format!("{:032x}", 8), format!("{:032x}", 7));
        assert!(text.contains(&format!("({a} instead of {b}): ")), "{text}");
        assert!(text.contains("remove"), "{text}");
        let told = theirs.refused_by(&ours.refusal(HandshakeRejection::OtherGroup)).to_string();
        assert_eq!(told, text);
        let text = ours.rejection(HandshakeRejection::RemovedGroup, &hello).to_string();
        assert!(text.contains(&a) && text.contains("remove"), "{text}");
        let told = theirs.refused_by(&ours.refusal(HandshakeRejection::RemovedGroup)).to_string();
        assert_eq!(told, text);
    }
}
