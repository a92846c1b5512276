//! Which peers the groups of hosts are told to be there: those that are connected, and not cut off.

use std::collections::{BTreeMap, VecDeque};

use super::{Inbox, MemoryNetwork, NetworkState, TransportEvent};
use crate::entry::NodeId;

/// What one endpoint was told.
#[derive(Default)]
pub(super) struct Presence {
    /// The peers that are up, with the numbers of their endpoints: another number is another
    /// process. `None` before the endpoint was told anything.
    up: Option<BTreeMap<NodeId, u64>>,
}

/// What is to be told, in the order in which it happened.
#[derive(Default)]
pub(super) struct Reports {
    waiting: VecDeque<(Inbox, TransportEvent)>,
    /// A thread tells one of them at this moment. It goes on with the others.
    is_reporting: bool,
}

impl NetworkState {
    /// Changes who reaches whom, and notes what is to be reported of that.
    pub(super) fn change<T>(&mut self, change: impl FnOnce(&mut NetworkState) -> T) -> T {
        let outcome = change(self);
        let nodes: BTreeMap<u64, NodeId> =
            self.endpoints.iter().map(|one| (one.number, one.context.node)).collect();
        for at in 0..self.endpoints.len() {
            let endpoint = &self.endpoints[at];
            if endpoint.presence.is_none() {
                continue;
            }
            let connected = endpoint.connected.iter();
            let peers = connected.filter_map(|number| Some((*nodes.get(number)?, *number)));
            let up = peers.filter(|(peer, _)| !self.is_cut(*peer, endpoint.context.node)).collect();
            self.note_presence(at, up);
        }
        outcome
    }

    fn note_presence(&mut self, at: usize, up: BTreeMap<NodeId, u64>) {
        let endpoint = &mut self.endpoints[at];
        let Some(presence) = &mut endpoint.presence else { return };
        let (context, waiting) = (&endpoint.context, &mut self.reports.waiting);
        let mut report = |event| waiting.push_back((context.inbox.clone(), event));
        match presence.up.take() {
            // A group would not sleep while it waits for a peer that was never reported.
            None => {
                let peers = context.addresses.iter().map(|(peer, _)| *peer);
                let others = peers.filter(|peer| *peer != context.node && !up.contains_key(peer));
                others.for_each(|peer| report(TransportEvent::PeerDown(peer)));
            }
            Some(before) => {
                let gone = before.keys().filter(|peer| !up.contains_key(peer));
                gone.for_each(|peer| report(TransportEvent::PeerDown(*peer)));
                let come = up.iter().filter(|(peer, number)| before.get(peer) != Some(number));
                come.for_each(|(peer, _)| report(TransportEvent::PeerUp(*peer)));
            }
        }
        presence.up = Some(up);
    }
}

impl MemoryNetwork {
    /// Tells what is to be told, with no lock held: whoever is told may change the network.
    pub(super) fn report_presence(&self) {
        loop {
            let mut state = self.0.lock();
            if state.reports.is_reporting {
                return;
            }
            let Some((inbox, event)) = state.reports.waiting.pop_front() else { return };
            state.reports.is_reporting = true;
            drop(state);
            inbox.put(event);
            self.0.lock().reports.is_reporting = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::primitives::Mutex;
    use crate::transport::{HostContext, HostTransport, Spawner, Transport, TransportContext};

    type Told = Arc<Mutex<Vec<(u64, bool)>>>;

    fn no_threads() -> Spawner {
        Spawner::new(|_, _| Err(std::io::ErrorKind::Unsupported.into()))
    }

    /// The transport of a group of three on a host, and what it is told.
    fn group(network: &MemoryNetwork, node: u64, incarnation: u64) -> (Box<dyn Transport>, Told) {
        let host = network.host(node);
        let addresses: Vec<_> = (1..=3).map(|id| (NodeId::from(id), String::new())).collect();
        let context = HostContext::new(node.into(), "", addresses.clone(), no_threads());
        host.start(context).unwrap();
        let (told, mut transport) = (Told::default(), host.group());
        let tell = told.clone();
        let inbox = Inbox::new(move |event| {
            match event {
                TransportEvent::PeerDown(peer) => tell.lock().push((peer.get(), false)),
                TransportEvent::PeerUp(peer) => tell.lock().push((peer.get(), true)),
                _ => {}
            }
            true
        });
        let mut context =
            TransportContext::new(node.into(), "orders", addresses, inbox, no_threads());
        context.identity.incarnation = incarnation;
        transport.start(context).unwrap();
        std::mem::forget(host); // it would stop
        (transport, told)
    }

    #[test]
    fn groups_of_hosts_are_told_who_is_there() {
        let network = MemoryNetwork::new();
        let (_one, told) = group(&network, 1, 1);
        let news = || std::mem::take(&mut *told.lock());
        assert_eq!(news(), [(2, false), (3, false)]);
        let (mut two, told_two) = group(&network, 2, 1);
        assert_eq!((news(), &told_two.lock()[..]), (vec![(2, true)], &[(3, false)][..]));
        network.isolate(2.into());
        assert_eq!(news(), [(2, false)]);
        assert_eq!(told_two.lock().last(), Some(&(1, false)));
        network.partition(&[1.into()], &[2.into()]);
        network.rejoin(2.into());
        assert_eq!(news(), [], "it is cut off in two ways");
        network.heal();
        assert_eq!(news(), [(2, true)]);
        two.stop();
        assert_eq!(news(), [(2, false)]);
        let (_again, _) = group(&network, 2, 2);
        assert_eq!(news(), [(2, true)]);
        let (_third, _) = group(&network, 2, 3);
        assert_eq!(news(), [(2, true)], "another process of it, at once");
    }
}
