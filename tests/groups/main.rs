//! Hosts with many groups, as a process has them: a network in memory, directories on disk.

#![expect(clippy::unwrap_used, reason = "every part of this is a test")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dledger::transport::MemoryNetwork;
use dledger::{DLedger, Host, NodeId, OpenError, RemoveError, Role};

const LONG: Duration = Duration::from_secs(60);

/// Three hosts of one network.
struct Hosts {
    home: tempfile::TempDir,
    network: MemoryNetwork,
}

impl Hosts {
    fn new() -> Hosts {
        Hosts { home: tempfile::tempdir().unwrap(), network: MemoryNetwork::new() }
    }

    fn open(&self, id: u64) -> Host {
        let peers = [(1, "one:1"), (2, "two:1"), (3, "three:1")];
        let dir = self.home.path().join(id.to_string());
        let transport = self.network.host(id);
        Host::builder(id).dir(dir).peers(peers).transport(transport).threads(2).open().unwrap()
    }
}

/// Three hosts that listen on ports of this machine.
fn over_tcp(home: &Path, sleep_after: Duration) -> Vec<Host> {
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ports: Vec<_> = (0..3).map(|_| free()).collect();
    let addresses = ports.iter().map(|port| port.local_addr().unwrap().to_string());
    let peers: Vec<(u64, String)> = (1..).zip(addresses).collect();
    drop(ports);
    let open = |id: u64| {
        let builder = Host::builder(id).dir(home.join(id.to_string())).peers(peers.clone());
        builder.sleep_after(sleep_after).open().unwrap()
    };
    (1..=3).map(open).collect()
}

fn on_all(hosts: &[Host], name: &str) -> Vec<DLedger> {
    hosts.iter().map(|host| host.group(name).open().unwrap()).collect()
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in a minute: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn groups_over_one_port_sleep_and_wake_and_outlive_their_leaders() {
    let home = tempfile::tempdir().unwrap();
    let hosts = over_tcp(home.path(), Duration::from_millis(500));
    let groups: Vec<Vec<DLedger>> =
        (0..30).map(|number| on_all(&hosts, &format!("g{number}"))).collect();
    for nodes in &groups {
        append_at_leader(nodes, "one");
    }
    let all_sleep = || groups.iter().flatten().all(|node| node.status().asleep);
    wait_until("all groups sleep", all_sleep);
    let led_by = |id: u64| {
        let leads = |nodes: &&Vec<DLedger>| nodes[0].status().leader == Some(id.into());
        groups.iter().filter(leads).count()
    };
    let gone = (1..=3).max_by_key(|id| led_by(*id)).unwrap();
    assert!(led_by(gone) > 0);
    for nodes in &groups {
        append_at_leader(nodes, "two"); // wakes it
    }
    wait_until("all groups sleep again", all_sleep);
    // What a killed process leaves: connections that end, and nothing is handed over.
    for nodes in &groups {
        assert!(nodes[gone as usize - 1].status().asleep);
    }
    hosts[gone as usize - 1].shutdown().unwrap();
    for nodes in &groups {
        let others: Vec<DLedger> =
            (1..=3).filter(|id| *id != gone).map(|id| nodes[id as usize - 1].clone()).collect();
        assert_eq!(append_at_leader(&others, "three"), 2);
        for node in &others {
            node.barrier().unwrap();
            assert_eq!(node.committed(), 0..3);
        }
    }
    hosts.iter().for_each(|host| host.shutdown().unwrap());
}

fn alone(dir: &Path) -> Host {
    Host::builder(1).dir(dir.join("host")).open().unwrap()
}

/// Appends at whichever node leads.
fn append_at_leader(nodes: &[DLedger], payload: &str) -> u64 {
    let deadline = Instant::now() + LONG;
    loop {
        for node in nodes {
            if node.status().role == Role::Leader
                && let Ok(index) = node.append(payload)
            {
                return index;
            }
        }
        assert!(Instant::now() < deadline, "no leader took {payload}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_hundred_groups_on_three_hosts_keep_what_each_was_given() {
    let all = Hosts::new();
    let hosts = [all.open(1), all.open(2), all.open(3)];
    let names: Vec<String> = (0..100).map(|number| format!("group-{number}")).collect();
    let groups: Vec<Vec<DLedger>> = names
        .iter()
        .map(|name| hosts.iter().map(|host| host.group(name).open().unwrap()).collect())
        .collect();
    for (name, nodes) in names.iter().zip(&groups) {
        for number in 0..5 {
            append_at_leader(nodes, &format!("{name} {number}"));
        }
    }
    for (name, nodes) in names.iter().zip(&groups) {
        for node in nodes {
            node.barrier().unwrap();
            let entries: Vec<String> = node
                .read(0)
                .map(|entry| String::from_utf8(entry.unwrap().to_vec()).unwrap())
                .collect();
            let expected: Vec<String> = (0..5).map(|number| format!("{name} {number}")).collect();
            assert_eq!(entries, expected);
        }
    }
    let infos = hosts[0].groups().unwrap();
    assert_eq!(infos.len(), 100);
    assert!(infos.iter().all(|info| info.open && info.leader.is_some()));
    drop(groups);
    hosts.iter().for_each(|host| host.shutdown().unwrap());
    let again = all.open(1);
    assert!(again.groups().unwrap().iter().all(|info| !info.open && info.role.is_none()));
    let opened = again.open_all().unwrap();
    assert_eq!(opened.len(), 100);
    for (name, ledger) in opened {
        let ledger = ledger.unwrap();
        assert_eq!(ledger.status().group, name);
        assert_eq!(ledger.status().end_index, 5, "of {name}");
    }
    again.shutdown().unwrap();
}

#[test]
fn a_group_is_open_once_and_can_be_opened_again() {
    let home = tempfile::tempdir().unwrap();
    let host = alone(home.path());
    let first = host.group("a").open().unwrap();
    first.append("one").unwrap();
    let twice = host.group("a").open().unwrap_err();
    assert!(matches!(&twice, OpenError::GroupInUse { group, .. } if group == "a"), "{twice}");
    first.shutdown().unwrap();
    let second = host.group("a").open().unwrap();
    assert_eq!(&second.get(0).unwrap().unwrap()[..], b"one");
    drop(second);
    host.group("a").open().unwrap();
    host.shutdown().unwrap();
    assert!(matches!(host.group("a").open().unwrap_err(), OpenError::HostStopped));
    host.shutdown().unwrap();
    alone(home.path()).group("a").open().unwrap();
}

#[test]
fn a_host_lives_as_long_as_its_groups() {
    let home = tempfile::tempdir().unwrap();
    let ledger = alone(home.path()).group("a").open().unwrap();
    ledger.append("one").unwrap();
    drop(ledger);
    alone(home.path()).shutdown().unwrap();
}

#[test]
fn a_removed_group_is_gone_and_its_name_is_free() {
    let home = tempfile::tempdir().unwrap();
    let host = alone(home.path());
    let ledger = host.group("a").open().unwrap();
    ledger.append("one").unwrap();
    host.group("b").open().unwrap().append("two").unwrap();
    host.remove("a").unwrap();
    assert!(ledger.status().stopped);
    assert!(matches!(host.remove("a").unwrap_err(), RemoveError::Unknown { .. }));
    let names: Vec<String> = host.groups().unwrap().into_iter().map(|info| info.name).collect();
    assert_eq!(names, ["b"]);
    let anew = host.group("a").open().unwrap();
    assert_eq!(anew.committed(), 0..0);
    host.remove("b").unwrap(); // one that is not open
    host.shutdown().unwrap();
    assert!(matches!(host.remove("a").unwrap_err(), RemoveError::HostStopped));
}

#[test]
fn settings_of_a_group_that_are_the_hosts_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let host = Host::builder(1)
        .dir(home.path().join("host"))
        .group_settings(|builder| builder.max_entry_bytes(10))
        .open()
        .unwrap();
    let refused = |builder: dledger::Builder| match builder.open().unwrap_err() {
        OpenError::Setting { setting, .. } => setting,
        other => panic!("{other}"),
    };
    assert_eq!(refused(host.group("a").dir("elsewhere")), "dir");
    assert_eq!(refused(host.group("a").node(2)), "node");
    assert_eq!(refused(host.group("a").peers([(1, "a:1"), (2, "b:2")])), "peer");
    assert_eq!(refused(host.group("a/b")), "group");
    let ledger = host.group("a").open().unwrap();
    assert!(ledger.append("more than ten bytes").is_err());
    host.shutdown().unwrap();
}

#[test]
fn an_observer_that_blocks_delays_no_other_group() {
    let all = Hosts::new();
    let host = Host::builder(1).dir(all.home.path().join("a")).open().unwrap();
    let (blocked, release) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (waits, ends) = (blocked.clone(), release.clone());
    let stuck = host
        .group("stuck")
        .on_role_change(move |_| {
            waits.fetch_add(1, Ordering::Relaxed);
            while !ends.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
        })
        .open()
        .unwrap();
    for number in 0..4 {
        let told = Arc::new(AtomicBool::new(false));
        let tells = told.clone();
        let ledger = host
            .group(format!("free-{number}"))
            .on_role_change(move |_| tells.store(true, Ordering::Relaxed))
            .open()
            .unwrap();
        let deadline = Instant::now() + LONG;
        while !told.load(Ordering::Relaxed) {
            assert!(Instant::now() < deadline, "behind the observer of another group");
            std::thread::sleep(Duration::from_millis(1));
        }
        ledger.append("x").unwrap();
    }
    assert_eq!(blocked.load(Ordering::Relaxed), 1, "one at a time for each group");
    stuck.append("its group goes on").unwrap();
    release.store(true, Ordering::Relaxed);
    host.shutdown().unwrap();
}

#[test]
fn an_observer_may_shut_down_any_group() {
    let home = tempfile::tempdir().unwrap();
    let host = alone(home.path());
    let other = host.group("other").open().unwrap();
    let (tells, told) = std::sync::mpsc::channel();
    let stops = other.clone();
    let ledger = host
        .group("a")
        .on_role_change(move |status| {
            if status.role == Role::Leader {
                tells.send(stops.shutdown().is_ok()).unwrap();
            }
        })
        .open()
        .unwrap();
    assert!(told.recv_timeout(LONG).unwrap());
    assert!(other.status().stopped);
    ledger.append("x").unwrap();
    host.shutdown().unwrap();
}

#[test]
fn a_host_that_stops_hands_over_and_the_others_go_on() {
    let all = Hosts::new();
    let hosts = [all.open(1), all.open(2), all.open(3)];
    let groups: Vec<Vec<DLedger>> = (0..20)
        .map(|number| {
            hosts.iter().map(|host| host.group(format!("g{number}")).open().unwrap()).collect()
        })
        .collect();
    for nodes in &groups {
        append_at_leader(nodes, "before");
    }
    hosts[0].shutdown().unwrap();
    for nodes in &groups {
        append_at_leader(&nodes[1..], "after");
        let status = nodes[1].status();
        assert_ne!(status.leader, Some(NodeId::from(1)));
    }
    hosts[1].shutdown().unwrap();
    hosts[2].shutdown().unwrap();
}
