//! Groups that are removed and made again under their name, while another host has an old copy.

use super::*;

/// Three hosts that listen on ports of this machine, and may be opened one by one.
struct TcpHosts {
    home: tempfile::TempDir,
    peers: Vec<(u64, String)>,
}

impl TcpHosts {
    fn new() -> TcpHosts {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ports: Vec<_> = (0..3).map(|_| free()).collect();
        let addresses = ports.iter().map(|port| port.local_addr().unwrap().to_string());
        let peers = (1..).zip(addresses).collect();
        TcpHosts { home: tempfile::tempdir().unwrap(), peers }
    }

    fn open(&self, id: u64) -> Host {
        let dir = self.home.path().join(id.to_string());
        let open = || Host::builder(id).dir(&dir).peers(self.peers.clone()).open();
        let deadline = Instant::now() + LONG;
        loop {
            match open() {
                Ok(host) => return host,
                // Its port may be taken for a moment by a connection of this machine.
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn open_all(&self) -> Vec<Host> {
        (1..=3).map(|id| self.open(id)).collect()
    }
}

/// The id of a group, once all these nodes know it.
fn group_uid(nodes: &[DLedger]) -> u128 {
    wait_until("all know the id", || nodes.iter().all(|node| node.status().group_uid.is_some()));
    let uids: Vec<u128> = nodes.iter().filter_map(|node| node.status().group_uid).collect();
    assert!(uids[0] != 0 && uids.iter().all(|uid| *uid == uids[0]), "{uids:x?}");
    uids[0]
}

fn refusal_of(node: &DLedger, peer: u64) -> Option<String> {
    let refused = node.status().refused;
    refused.into_iter().find(|refusal| refusal.peer == NodeId::from(peer)).map(|it| it.reason)
}

fn await_refusal(node: &DLedger, peer: u64, text: &str) {
    let has = || refusal_of(node, peer).is_some_and(|reason| reason.contains(text));
    let deadline = Instant::now() + LONG;
    while !has() {
        let found = refusal_of(node, peer);
        assert!(Instant::now() < deadline, "no {text:?} of node {peer}, but {found:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn payloads(node: &DLedger) -> Vec<String> {
    node.read(0).map(|entry| String::from_utf8_lossy(&entry.unwrap()).into_owned()).collect()
}

/// Hosts 1 and 2 have removed the group, and host 3 was down meanwhile. Returns hosts 1 and 2, and
/// the id of the group.
fn removed_without_host_3(all: &TcpHosts) -> (Vec<Host>, u128) {
    let mut hosts = all.open_all();
    let nodes = on_all(&hosts, "a");
    append_at_leader(&nodes, "old");
    nodes.iter().for_each(|node| assert!(node.barrier().is_ok()));
    let before = group_uid(&nodes);
    drop(nodes);
    hosts.pop().unwrap().shutdown().unwrap();
    hosts.iter().for_each(|host| host.remove("a").unwrap());
    (hosts, before)
}

#[test]
fn an_old_copy_of_a_group_that_was_made_again_is_refused_and_told() {
    let all = TcpHosts::new();
    let (hosts, before) = removed_without_host_3(&all);
    let nodes = on_all(&hosts, "a");
    append_at_leader(&nodes, "new");
    let uid = group_uid(&nodes);
    assert_ne!(uid, before);
    let third = all.open(3);
    let old = third.group("a").open().unwrap();
    assert_eq!(old.status().group_uid, Some(before));
    for (node, id) in nodes.iter().zip(1..) {
        await_refusal(node, 3, "a copy of a group that was removed from the host that refuses");
        await_refusal(node, 3, &format!("({before:032x} instead of {uid:032x})"));
        await_refusal(&old, id, &format!("({before:032x} instead of {uid:032x})"));
    }
    append_at_leader(&nodes, "newer");
    assert_eq!(old.status().leader, None);
    for node in &nodes {
        node.barrier().unwrap();
        assert_eq!(payloads(node), ["new", "newer"]);
    }
    // What it was told to do.
    drop(old);
    third.remove("a").unwrap();
    let third_node = third.group("a").open().unwrap();
    wait_until("it is one of them", || third_node.committed() == (0..2));
    assert_eq!(group_uid(std::slice::from_ref(&third_node)), uid);
    let info = third.groups();
    assert_eq!((info[0].name.as_str(), info[0].group_uid), ("a", Some(uid)));
    hosts.iter().chain([&third]).for_each(|host| host.shutdown().unwrap());
}

#[test]
fn an_old_copy_that_is_there_first_does_not_lead_the_group_that_is_made_again() {
    let all = TcpHosts::new();
    let (hosts, before) = removed_without_host_3(&all);
    let third = all.open(3);
    let old = third.group("a").open().unwrap();
    // Its log is longer than theirs, and they do not know their group yet.
    let first = hosts[0].group("a").open().unwrap();
    await_refusal(&first, 3, "a copy of a group that was removed");
    await_refusal(&old, 1, "a copy of a group that was removed");
    assert_eq!(first.status().group_uid, None);
    let nodes = [first, hosts[1].group("a").open().unwrap()];
    append_at_leader(&nodes, "new");
    assert_ne!(group_uid(&nodes), before);
    nodes.iter().for_each(|node| {
        node.barrier().unwrap();
        assert_eq!(payloads(node), ["new"]);
    });
    assert_eq!((payloads(&old), old.status().leader), (vec!["old".to_owned()], None));
    // All are opened again, that host first.
    drop((nodes, old));
    hosts.iter().chain([&third]).for_each(|host| host.shutdown().unwrap());
    drop((hosts, third));
    let third = all.open(3);
    let old = third.group("a").open().unwrap();
    let hosts = [all.open(1), all.open(2)];
    let nodes = on_all(&hosts, "a");
    append_at_leader(&nodes, "newer");
    await_refusal(&old, 1, "instead of");
    await_refusal(&old, 2, "instead of");
    nodes[0].barrier().unwrap();
    assert_eq!(payloads(&nodes[0]), ["new", "newer"]);
    assert_eq!(payloads(&old), ["old"]);
    hosts.iter().chain([&third]).for_each(|host| host.shutdown().unwrap());
}

#[test]
fn a_group_that_one_host_removed_takes_it_back_only_if_it_asks_to_join_again() {
    let all = TcpHosts::new();
    let hosts = all.open_all();
    let nodes = on_all(&hosts, "a");
    append_at_leader(&nodes, "one");
    let uid = group_uid(&nodes);
    hosts[2].remove("a").unwrap();
    let others = &nodes[..2];
    append_at_leader(others, "two");
    let anew = hosts[2].group("a").open().unwrap();
    await_refusal(&others[0], 3, "another data directory than before");
    await_refusal(&anew, 1, "a group that was removed from the host that refuses");
    assert_eq!((anew.status().group_uid, anew.committed()), (None, 0..0));
    drop(anew);
    hosts[2].remove("a").unwrap();
    let joined = hosts[2].group("a").rejoin_empty(true).open().unwrap();
    wait_until("it has all", || joined.committed() == (0..2));
    assert_eq!(group_uid(std::slice::from_ref(&joined)), uid);
    wait_until("its log is complete", || joined.status().repair.is_none());
    // Its own tombstone does not matter any more.
    joined.shutdown().unwrap();
    drop(joined);
    let again = hosts[2].group("a").open().unwrap();
    append_at_leader(others, "three");
    wait_until("it follows", || again.committed() == (0..3));
    wait_until("nobody refuses it", || again.status().refused.is_empty());
    hosts.iter().for_each(|host| host.shutdown().unwrap());
}

#[test]
fn hosts_of_a_network_in_memory_keep_groups_apart_too() {
    let all = Hosts::new();
    let mut hosts: Vec<Host> = (1..=3).map(|id| all.open(id)).collect();
    let nodes = on_all(&hosts, "a");
    append_at_leader(&nodes, "old");
    nodes.iter().for_each(|node| assert!(node.barrier().is_ok()));
    let before = group_uid(&nodes);
    drop(nodes);
    hosts.pop().unwrap().shutdown().unwrap();
    hosts.iter().for_each(|host| host.remove("a").unwrap());
    let third = all.open(3);
    let old = third.group("a").open().unwrap();
    let nodes = on_all(&hosts, "a");
    append_at_leader(&nodes, "new");
    assert_ne!(group_uid(&nodes), before);
    nodes.iter().for_each(|node| {
        node.barrier().unwrap();
        assert_eq!(payloads(node), ["new"]);
    });
    assert_eq!((payloads(&old), old.status().leader), (vec!["old".to_owned()], None));
    hosts.iter().chain([&third]).for_each(|host| host.shutdown().unwrap());
}

#[test]
fn every_group_has_an_id_of_its_own_and_keeps_it() {
    let home = tempfile::tempdir().unwrap();
    let host = alone(home.path());
    let uid_of = |host: &Host, name: &str| group_uid(&[host.group(name).open().unwrap()]);
    let (a, b) = (uid_of(&host, "a"), uid_of(&host, "b"));
    assert_ne!(a, b);
    host.shutdown().unwrap();
    drop(host);
    let host = alone(home.path());
    assert_eq!((uid_of(&host, "a"), uid_of(&host, "b")), (a, b));
    host.remove("a").unwrap();
    let again = uid_of(&host, "a");
    assert!(again != a && again != b);
    host.shutdown().unwrap();
}
