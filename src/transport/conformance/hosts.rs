//! The same for the transport of hosts: what one group does leaves the others alone.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::{MESSAGE_BYTES_MAX, RESEND, RecordingInbox, Spawned, TIMEOUT, WATCH};
use crate::entry::NodeId;
use crate::transport::{
    HostContext, HostTransport, Inbox, Message, Spawner, Transport, TransportContext,
};

/// The groups of the largest test.
const MANY: u64 = 100;
/// Threads of one host, whatever its groups: it has two peers at most.
const THREADS_MAX: usize = 8;

/// A fresh network of hosts: their addresses, and how to make their transports.
pub struct HostHarness {
    addresses: Vec<(NodeId, String)>,
    transport: Box<dyn FnMut(NodeId) -> Box<dyn HostTransport>>,
}

impl HostHarness {
    /// A network of hosts 1, 2, 3 and so on, with these addresses. `transport` makes the transport
    /// of a host, and another one when the host restarts.
    pub fn new(
        addresses: Vec<String>,
        transport: impl FnMut(NodeId) -> Box<dyn HostTransport> + 'static,
    ) -> HostHarness {
        let addresses = (1..).map(NodeId::from).zip(addresses).collect();
        HostHarness { addresses, transport: Box::new(transport) }
    }
}

impl fmt::Debug for HostHarness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostHarness").field("addresses", &self.addresses).finish()
    }
}

/// Runs the suite for hosts. `harness` makes a fresh network of a given number of hosts; `spawner`
/// starts the threads of the transports. Takes some seconds, most of them waiting.
///
/// # Panics
/// If the transport breaks the contract. The text names the part.
pub fn run_hosts(spawner: &Spawner, mut harness: impl FnMut(usize) -> HostHarness) {
    messages_stay_within_their_group(Hosts::new(harness(3), spawner));
    nothing_is_altered_whatever_its_kind(Hosts::new(harness(2), spawner));
    a_group_that_is_refused_leaves_the_others_alone(Hosts::new(harness(2), spawner));
    a_group_that_stops_leaves_the_others_alone_and_comes_back(Hosts::new(harness(2), spawner));
    a_host_that_comes_back_is_reached_by_all_groups(Hosts::new(harness(2), spawner));
    a_hundred_groups_share_a_few_threads(Hosts::new(harness(2), spawner));
    a_group_that_cannot_be_carried_is_an_error(Hosts::new(harness(2), spawner));
    after_a_stop_no_group_delivers_and_every_thread_ends(Hosts::new(harness(2), spawner));
}

fn sample(from: u64, to: u64, number: u64) -> Message {
    Message::sample(from.into(), to.into(), number, 100)
}

fn messages_stay_within_their_group(mut hosts: Hosts) {
    hosts.start_all();
    let groups = ["one", "other", "third"];
    for (group, host) in groups.iter().flat_map(|group| (1..=3).map(move |host| (group, host))) {
        hosts.open(host, group);
    }
    let pairs = [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)];
    for (place, group) in (1..).zip(groups) {
        for (from, to) in pairs {
            hosts.send_until_it_arrives(group, &sample(from, to, place * 1000));
        }
    }
    for (place, group) in (1..).zip(groups) {
        for host in 1..=3 {
            for message in hosts.arrived(host, group) {
                let sent = sample(message.from().get(), host, place * 1000);
                assert_eq!(message, sent, "host {host} got in {group} what was not sent there");
            }
        }
    }
    hosts.close();
}

fn nothing_is_altered_whatever_its_kind(mut hosts: Hosts) {
    hosts.start_all();
    for group in ["one", "other"] {
        hosts.open_at_both(group);
        hosts.send_until_it_arrives(group, &sample(1, 2, 0));
    }
    let samples = Message::samples(1.into(), 2.into());
    for message in &samples {
        for group in ["one", "other"] {
            hosts.send_until_it_arrives(group, message);
        }
    }
    for message in hosts.arrived(2, "one") {
        let was_sent = samples.contains(&message) || message == sample(1, 2, 0);
        assert!(was_sent, "{message:?} was delivered, but nobody sent it like that");
    }
    hosts.close();
}

fn a_group_that_is_refused_leaves_the_others_alone(mut hosts: Hosts) {
    hosts.start_all();
    hosts.open_at_both("sound");
    hosts.open(1, "split");
    hosts.open_with(2, "split", |context| context.cluster = 99);
    for number in 0..20 {
        hosts.send(1, "split", sample(1, 2, number));
        hosts.send(2, "split", sample(2, 1, number));
        hosts.send_until_it_arrives("sound", &sample(1, 2, number));
        hosts.send_until_it_arrives("sound", &sample(2, 1, number));
    }
    for host in [1, 2] {
        assert_eq!(hosts.arrived(host, "split"), [], "two clusters were connected");
    }
    hosts.close();
}

fn a_group_that_stops_leaves_the_others_alone_and_comes_back(mut hosts: Hosts) {
    hosts.start_all();
    for group in ["stays", "leaves"] {
        hosts.open_at_both(group);
        hosts.send_until_it_arrives(group, &sample(1, 2, 0));
    }
    for round in 1..=3 {
        (0..50).for_each(|number| hosts.send(1, "leaves", sample(1, 2, round * 100 + number)));
        hosts.stop_group(2, "leaves");
        hosts.watch();
        let before = hosts.arrived(2, "leaves").len();
        hosts.send(1, "leaves", sample(1, 2, round * 100 + 50));
        hosts.send_until_it_arrives("stays", &sample(1, 2, round));
        hosts.send_until_it_arrives("stays", &sample(2, 1, round));
        hosts.watch();
        assert_eq!(
            hosts.arrived(2, "leaves").len(),
            before,
            "messages were delivered to a group that had stopped"
        );
        hosts.open(2, "leaves");
        hosts.send_until_it_arrives("leaves", &sample(1, 2, round * 100 + 60));
        hosts.send_until_it_arrives("leaves", &sample(2, 1, round * 100 + 60));
    }
    assert!(
        hosts.arrived(2, "stays").iter().all(|message| (0..4).any(|n| *message == sample(1, 2, n))),
        "a message for a group that had stopped was delivered to another one"
    );
    hosts.close();
}

fn a_host_that_comes_back_is_reached_by_all_groups(mut hosts: Hosts) {
    hosts.start_all();
    let groups = ["one", "other"];
    for round in 0..2 {
        for group in groups {
            if round == 0 {
                hosts.open(1, group);
            }
            hosts.open(2, group);
            hosts.send_until_it_arrives(group, &sample(1, 2, round));
            hosts.send_until_it_arrives(group, &sample(2, 1, round));
        }
        hosts.stop_host(2);
        hosts.send(1, "one", sample(1, 2, 50));
        hosts.start(2);
    }
    hosts.close();
}

fn a_hundred_groups_share_a_few_threads(mut hosts: Hosts) {
    hosts.start_all();
    let names: Vec<String> = (0..MANY).map(|number| format!("group-{number}")).collect();
    for name in &names {
        hosts.open_at_both(name);
    }
    for (number, name) in (0..).zip(&names) {
        hosts.send_until_it_arrives(name, &sample(1, 2, number));
        hosts.send_until_it_arrives(name, &sample(2, 1, number));
    }
    let running = hosts.spawned.running(0);
    assert!(running <= THREADS_MAX, "{running} threads for {MANY} groups of a host");
    for (number, name) in (0..).zip(&names) {
        let arrived = hosts.arrived(2, name);
        assert!(arrived.iter().all(|message| *message == sample(1, 2, number)), "in {name}");
    }
    hosts.close();
}

fn a_group_that_cannot_be_carried_is_an_error(mut hosts: Hosts) {
    let mut early = (hosts.harness.transport)(1.into()).group();
    assert!(early.start(hosts.context(1, "early", 1)).is_err(), "the host is not started");
    early.send(&mut vec![sample(1, 2, 1)]);
    early.stop();
    hosts.start_all();
    hosts.open(1, "here");
    let mut second = hosts.transports[&1].group();
    assert!(second.start(hosts.context(1, "here", 2)).is_err(), "two of one name are open");
    let mut foreign = hosts.transports[&1].group();
    let mut context = hosts.context(1, "foreign", 1);
    context.addresses.push((NodeId::from(77), String::new()));
    assert!(foreign.start(context).is_err(), "a member is no peer of the host");
    hosts.open(2, "here");
    hosts.send_until_it_arrives("here", &sample(1, 2, 1));
    hosts.transports[&1].stop();
    let mut late = hosts.transports[&1].group();
    assert!(late.start(hosts.context(1, "late", 1)).is_err(), "the host is stopped");
    hosts.close();
}

fn after_a_stop_no_group_delivers_and_every_thread_ends(mut hosts: Hosts) {
    hosts.start_all();
    for group in ["one", "other"] {
        hosts.open_at_both(group);
        hosts.send_until_it_arrives(group, &sample(1, 2, 0));
    }
    hosts.transports[&2].stop();
    hosts.transports[&2].stop();
    // A message that was being delivered at that moment is allowed.
    hosts.watch();
    let before = ["one", "other"].map(|group| hosts.arrived(2, group).len());
    for group in ["one", "other"] {
        (1..50).for_each(|number| hosts.send(1, group, sample(1, 2, number)));
    }
    hosts.watch();
    let after = ["one", "other"].map(|group| hosts.arrived(2, group).len());
    assert_eq!(after, before, "messages were delivered to a host that had stopped");
    hosts.close();
}

/// The hosts of a network while a test runs.
struct Hosts {
    harness: HostHarness,
    spawned: Spawned,
    transports: BTreeMap<u64, Box<dyn HostTransport>>,
    groups: BTreeMap<(u64, String), Group>,
}

struct Group {
    transport: Box<dyn Transport>,
    inbox: Arc<RecordingInbox>,
    incarnation: u64,
}

impl Hosts {
    fn new(harness: HostHarness, spawner: &Spawner) -> Hosts {
        let spawned = Spawned::new(harness.addresses.len(), spawner);
        Hosts { harness, spawned, transports: BTreeMap::new(), groups: BTreeMap::new() }
    }

    fn start_all(&mut self) {
        (1..=self.harness.addresses.len() as u64).for_each(|host| self.start(host));
    }

    fn start(&mut self, host: u64) {
        let transport = (self.harness.transport)(host.into());
        let peers = self.harness.addresses.clone();
        let listen = peers[host as usize - 1].1.clone();
        let spawner = self.spawned.spawner(host as usize - 1);
        let mut context = HostContext::new(host.into(), listen, peers, spawner);
        context.message_bytes_max = MESSAGE_BYTES_MAX;
        transport
            .start(context)
            .unwrap_or_else(|error| panic!("host {host} could not start: {error}"));
        self.transports.insert(host, transport);
    }

    /// Ends the process of a host.
    fn stop_host(&mut self, host: u64) {
        self.transports[&host].stop();
        self.spawned.wait(|at| at == host as usize - 1);
    }

    fn context(&self, host: u64, group: &str, incarnation: u64) -> TransportContext {
        let inbox = self.groups.get(&(host, group.to_owned())).map(|group| group.inbox.clone());
        let inbox = inbox.unwrap_or_default();
        let recording = Inbox::new(move |event| inbox.take(event));
        let no_threads = Spawner::new(|_, _| Err(std::io::ErrorKind::Unsupported.into()));
        let addresses = self.harness.addresses.clone();
        let mut context =
            TransportContext::new(host.into(), group, addresses, recording, no_threads);
        context.identity.incarnation = incarnation;
        context.message_bytes_max = MESSAGE_BYTES_MAX;
        context
    }

    fn open(&mut self, host: u64, group: &str) {
        self.open_with(host, group, |_| ());
    }

    fn open_at_both(&mut self, group: &str) {
        (1..=2).for_each(|host| self.open(host, group));
    }

    fn open_with(&mut self, host: u64, name: &str, change: impl FnOnce(&mut TransportContext)) {
        let transport = self.transports[&host].group();
        let key = (host, name.to_owned());
        let earlier = self.groups.remove(&key);
        let incarnation = earlier.as_ref().map_or(0, |group| group.incarnation) + 1;
        let inbox = earlier.map_or_else(Arc::default, |group| group.inbox);
        self.groups.insert(key.clone(), Group { transport, inbox, incarnation });
        let mut context = self.context(host, name, incarnation);
        change(&mut context);
        let group = self.groups.get_mut(&key).expect("it was put there");
        group
            .transport
            .start(context)
            .unwrap_or_else(|error| panic!("group {name} could not start on {host}: {error}"));
    }

    fn stop_group(&mut self, host: u64, group: &str) {
        self.group(host, group).transport.stop();
    }

    fn group(&mut self, host: u64, group: &str) -> &mut Group {
        self.groups.get_mut(&(host, group.to_owned())).expect("a test uses what it opened")
    }

    fn arrived(&self, host: u64, group: &str) -> Vec<Message> {
        self.groups[&(host, group.to_owned())].inbox.recorded.lock().messages.clone()
    }

    fn send(&mut self, host: u64, group: &str, message: Message) {
        self.group(host, group).transport.send(&mut vec![message]);
    }

    fn send_until_it_arrives(&mut self, group: &str, message: &Message) {
        let (from, to) = (message.from().get(), message.to().get());
        let inbox = self.group(to, group).inbox.clone();
        let deadline = Instant::now() + TIMEOUT;
        while Instant::now() < deadline {
            self.send(from, group, message.clone());
            if inbox.wait(RESEND, |recorded| recorded.messages.contains(message)) {
                return;
            }
        }
        panic!("{message:?} was sent in {group} for {TIMEOUT:?} and did not arrive");
    }

    /// Waits, for what must not happen.
    fn watch(&self) {
        RecordingInbox::default().wait(WATCH, |_| false);
    }

    /// Ends a test: stops every host and waits for its threads.
    fn close(self) {
        self.transports.values().for_each(|transport| transport.stop());
        self.spawned.wait(|_| true);
    }
}
