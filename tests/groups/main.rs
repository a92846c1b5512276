//! Hosts with many groups, as a process has them: a network in memory, directories on disk.

#![expect(clippy::unwrap_used, reason = "every part of this is a test")]

mod removal;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use dledger::transport::MemoryNetwork;
use dledger::{DLedger, Host, NodeId, OpenError, RemoveError, Role, ShutdownError};

const LONG: Duration = Duration::from_secs(60);

/// Three hosts of one network.
struct Hosts {
    home: tempfile::TempDir,
    network: MemoryNetwork,
    sleep_after: Duration,
}

impl Hosts {
    fn new() -> Hosts {
        let (home, network) = (tempfile::tempdir().unwrap(), MemoryNetwork::new());
        Hosts { home, network, sleep_after: Duration::from_secs(3) }
    }

    fn open(&self, id: u64) -> Host {
        let peers = [(1, "one:1"), (2, "two:1"), (3, "three:1")];
        let dir = self.home.path().join(id.to_string());
        let transport = self.network.host(id);
        let builder = Host::builder(id).dir(dir).peers(peers).transport(transport).threads(2);
        builder.sleep_after(self.sleep_after).open().unwrap()
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
    let infos = hosts[0].groups();
    assert_eq!(infos.len(), 100);
    assert!(infos.iter().all(|info| info.open && info.leader.is_some()));
    drop(groups);
    hosts.iter().for_each(|host| host.shutdown().unwrap());
    let again = all.open(1);
    assert!(again.groups().iter().all(|info| !info.open && info.role.is_none()));
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
    let names: Vec<String> = host.groups().into_iter().map(|info| info.name).collect();
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

struct Once(std::sync::Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl std::task::Wake for Once {
    fn wake(self: Arc<Self>) {
        let work = self.0.lock().unwrap().take();
        work.into_iter().for_each(|work| work());
    }
}

/// Runs `work` in the waker of an append, on a thread that runs engines.
fn within_a_waker(ledger: &DLedger, work: impl FnOnce() + Send + 'static) {
    let waker: Waker = Arc::new(Once(std::sync::Mutex::new(Some(Box::new(work))))).into();
    loop {
        let mut append = ledger.append_async("x");
        match Future::poll(Pin::new(&mut append), &mut Context::from_waker(&waker)) {
            std::task::Poll::Pending => return std::mem::forget(append),
            // It was committed before it was polled: nothing is woken.
            std::task::Poll::Ready(Ok(_)) => {}
            // Another one has stopped the node.
            std::task::Poll::Ready(Err(_)) => return waker.wake(),
        }
    }
}

/// Fails if `work` takes longer than a minute.
fn within_a_minute<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(work()));
    told.recv_timeout(LONG).unwrap_or_else(|_| panic!("hangs: {what}"))
}

#[test]
fn the_last_handle_may_be_dropped_in_a_waker() {
    let home = tempfile::tempdir().unwrap();
    let ledger = alone(home.path()).group("a").open().unwrap();
    ledger.append("one").unwrap();
    let last = ledger.clone();
    within_a_waker(&ledger, move || drop(last));
    drop(ledger);
    let open = || Host::builder(1).dir(home.path().join("host")).open();
    wait_until("the directory is unlocked", || open().is_ok());
}

#[test]
fn a_waker_may_shut_down_any_group() {
    let home = tempfile::tempdir().unwrap();
    let host = Host::builder(1).dir(home.path().join("host")).threads(1).open().unwrap();
    // More than there can be threads, and each group shuts down the next one.
    let groups: Vec<DLedger> =
        (0..20).map(|number| host.group(format!("g{number}")).open().unwrap()).collect();
    for (number, ledger) in groups.iter().enumerate() {
        let next = groups[(number + 1) % groups.len()].clone();
        within_a_waker(ledger, move || next.shutdown().unwrap());
    }
    wait_until("all have stopped", || groups.iter().all(|ledger| ledger.status().stopped));
    within_a_minute("the shutdown of the host", move || host.shutdown()).unwrap();
}

#[test]
fn observers_of_several_groups_may_shut_the_host_down() {
    let home = tempfile::tempdir().unwrap();
    for round in 0..10 {
        let host = Host::builder(1).dir(home.path().join(round.to_string())).open().unwrap();
        let (tells, told) = std::sync::mpsc::channel();
        let both = Arc::new(std::sync::Barrier::new(2));
        let open = |name: &str, pause: u64| {
            let (stops, tells, both) = (host.clone(), tells.clone(), both.clone());
            let observer = move |status: &dledger::Status| {
                if status.role == Role::Leader {
                    both.wait();
                    // The second one finds that its own group is closed already.
                    std::thread::sleep(Duration::from_millis(pause));
                    tells.send(stops.shutdown().is_ok()).unwrap();
                }
            };
            host.group(name).on_role_change(observer).open().unwrap()
        };
        let _groups = [open("a", 0), open("b", 2)];
        for _ in 0..2 {
            assert!(told.recv_timeout(LONG).expect("a shutdown within an observer hangs"));
        }
        host.shutdown().unwrap();
    }
}

#[test]
fn a_group_sleeps_while_a_host_has_not_opened_it() {
    let home = tempfile::tempdir().unwrap();
    let hosts = over_tcp(home.path(), Duration::from_millis(500));
    let nodes = on_all(&hosts[..2], "a");
    append_at_leader(&nodes, "one");
    wait_until("two of three sleep", || nodes.iter().all(|node| node.status().asleep));
    let third = hosts[2].group("a").open().unwrap();
    wait_until("the third one has what it missed", || third.committed() == (0..1));
    hosts.iter().for_each(|host| host.shutdown().unwrap());
}

/// Runs `work` in a forked child, which then ends at once. Returns its exit code, or less than zero
/// for a signal.
#[cfg(target_os = "linux")]
fn in_child(work: impl FnOnce() -> bool) -> i32 {
    // SAFETY: the child calls what is examined, and the allocator, which survives a fork.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: neither touches memory of this process, and nothing runs at the end of the child.
        unsafe { libc::alarm(20) };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        // SAFETY: as above.
        unsafe { libc::_exit(i32::from(!outcome.unwrap_or(false))) };
    }
    assert!(child > 0);
    let mut status = 0;
    // SAFETY: the status is a place of its own.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -libc::WTERMSIG(status) }
}

#[cfg(target_os = "linux")]
#[test]
fn a_forked_child_is_refused_and_disturbs_nothing() {
    let home = tempfile::tempdir().unwrap();
    let mut hosts = over_tcp(home.path(), Duration::from_millis(500));
    let nodes = on_all(&hosts, "a");
    append_at_leader(&nodes, "one");
    assert_eq!(in_child(|| matches!(hosts[0].group("b").open(), Err(OpenError::Forked))), 0);
    assert_eq!(in_child(|| matches!(hosts[0].open_all(), Err(OpenError::Forked))), 0);
    assert_eq!(in_child(|| matches!(hosts[0].remove("a"), Err(RemoveError::Forked))), 0);
    assert_eq!(in_child(|| hosts[0].groups().is_empty()), 0);
    assert_eq!(in_child(|| matches!(hosts[0].shutdown(), Err(ShutdownError::Forked))), 0);
    let is_told = |host: &Host| format!("{host:?}") == "Host { id: node 1 }";
    assert_eq!(in_child(|| is_told(&hosts[0])), 0);
    let mut nodes = nodes;
    let dropped = in_child(|| {
        nodes.clear();
        hosts.clear();
        true
    });
    assert_eq!(dropped, 0);
    let lone = Host::builder(9).dir(home.path().join("9")).open().unwrap();
    let mut owned = Some(lone);
    assert_eq!(in_child(|| owned.take().is_some()), 0);
    let again = Host::builder(9).dir(home.path().join("9")).open();
    assert!(again.is_err(), "the child has unlocked the directory");
    assert!(!home.path().join("1/groups/b").exists());
    append_at_leader(&nodes, "two");
    hosts.iter().for_each(|host| host.shutdown().unwrap());
}

/// Blocks observers until it is dropped.
struct Gate(Arc<(AtomicUsize, AtomicBool)>);

impl Gate {
    /// Opens that many groups whose observers block, and waits until all of them do.
    fn with_blocked(host: &Host, groups: usize) -> (Gate, Vec<DLedger>) {
        let gate = Gate(Arc::default());
        let open = |number| {
            let shared = gate.0.clone();
            let blocks = move |_: &dledger::Status| {
                shared.0.fetch_add(1, Ordering::Relaxed);
                while !shared.1.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(1));
                }
            };
            host.group(format!("blocked-{number}")).on_role_change(blocks).open().unwrap()
        };
        let blocked = (0..groups).map(open).collect();
        let shared = gate.0.clone();
        wait_until("all observers block", || shared.0.load(Ordering::Relaxed) >= groups);
        (gate, blocked)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.0.1.store(true, Ordering::Relaxed);
    }
}

#[test]
fn observers_that_block_all_threads_keep_no_other_group_from_its_end() {
    let home = tempfile::tempdir().unwrap();
    let host = alone(home.path());
    let (gate, blocked) = Gate::with_blocked(&host, 16); // as many as there are threads for them
    let open = |name: &str| host.group(name).on_role_change(|_| {}).open().unwrap();
    let [plain, task, removed] = ["plain", "task", "removed"].map(open);
    within_a_minute("a shutdown", move || plain.shutdown()).unwrap();
    within_a_minute("a shutdown", move || pollster(task.shutdown_async())).unwrap();
    let removes = host.clone();
    within_a_minute("a removal", move || removes.remove("removed")).unwrap();
    assert!(removed.status().stopped);
    drop(removed);
    blocked[0].append("their groups go on").unwrap();
    drop(gate);
    within_a_minute("the shutdown of the host", move || host.shutdown()).unwrap();
}

/// Waits for a future.
fn pollster<T>(future: impl Future<Output = T>) -> T {
    struct Thread(std::thread::Thread);
    impl std::task::Wake for Thread {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker: Waker = Arc::new(Thread(std::thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        if let std::task::Poll::Ready(output) =
            future.as_mut().poll(&mut Context::from_waker(&waker))
        {
            return output;
        }
        std::thread::park();
    }
}

/// Every pair of nodes that two observers shut down crosswise: of one host, of two, alone.
#[test]
fn two_observers_may_shut_down_the_nodes_of_each_other() {
    let home = tempfile::tempdir().unwrap();
    let host = |name: &str| Host::builder(1).dir(home.path().join(name)).open().unwrap();
    let hosts = [host("a"), host("b")];
    let lone = |name: &str| DLedger::builder(1).dir(home.path().join(name));
    let pairs = [
        [hosts[0].group("one"), hosts[0].group("two")],
        [hosts[0].group("three"), hosts[1].group("three")],
        [lone("c"), lone("d")],
        [hosts[0].group("four"), lone("e")],
    ];
    let ways = [(false, false), (false, true), (true, false)].into_iter();
    for ((is_async, is_own_first), pair) in
        ways.flat_map(|how| pairs.iter().map(move |pair| (how, pair)))
    {
        let nodes: [Arc<std::sync::OnceLock<DLedger>>; 2] = Default::default();
        let both = Arc::new(std::sync::Barrier::new(2));
        let (tells, told) = std::sync::mpsc::channel();
        let open = |which: usize, builder: &dledger::Builder| {
            let (own, other) = (nodes[which].clone(), nodes[1 - which].clone());
            let (both, tells) = (both.clone(), tells.clone());
            let has_begun = AtomicBool::new(false);
            let stops = move |status: &dledger::Status| {
                if status.role != Role::Leader || has_begun.swap(true, Ordering::Relaxed) {
                    return;
                }
                if is_own_first {
                    own.wait().shutdown().unwrap();
                }
                both.wait();
                let other = other.wait();
                let outcome = match is_async {
                    true => pollster(other.shutdown_async()),
                    false => other.shutdown(),
                };
                tells.send(outcome.is_ok()).unwrap();
            };
            let node = builder.clone().on_role_change(stops).open().unwrap();
            nodes[which].set(node).unwrap();
        };
        open(0, &pair[0]);
        open(1, &pair[1]);
        for _ in 0..2 {
            assert!(told.recv_timeout(LONG).expect("two observers wait for each other"));
        }
        for node in nodes {
            let node = node.get().unwrap().clone();
            within_a_minute("its own end", move || node.shutdown()).unwrap();
        }
    }
    for host in hosts {
        within_a_minute("the shutdown of a host", move || host.shutdown()).unwrap();
    }
}

#[test]
fn observers_may_shut_down_the_hosts_of_each_other() {
    let home = tempfile::tempdir().unwrap();
    let host = |name: &str| Host::builder(1).dir(home.path().join(name)).open().unwrap();
    let hosts = [host("a"), host("b")];
    let (all, (tells, told)) = (Arc::new(std::sync::Barrier::new(3)), std::sync::mpsc::channel());
    let open = |which: usize| {
        let (other, all, tells) = (hosts[1 - which].clone(), all.clone(), tells.clone());
        let stops = move |status: &dledger::Status| {
            if status.role == Role::Leader {
                all.wait();
                tells.send(other.shutdown().is_ok()).unwrap();
            }
        };
        hosts[which].group("a").on_role_change(stops).open().unwrap()
    };
    let _groups = [open(0), open(1)];
    all.wait(); // a group whose host is shut down while it is opened is refused
    for _ in 0..2 {
        assert!(told.recv_timeout(LONG).expect("two observers wait for each other's host"));
    }
    for host in hosts {
        within_a_minute("the shutdown of a host", move || host.shutdown()).unwrap();
    }
}

/// Whatever a waker or an observer calls is done, or refused by an error of its own: it never
/// waits for the thread that it is on.
#[test]
fn what_a_waker_or_an_observer_may_not_do_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let host = Host::builder(1).dir(home.path().join("host")).threads(1).open().unwrap();
    host.group("closed").open().unwrap().shutdown().unwrap();
    let groups: Vec<DLedger> =
        (0..20).map(|number| host.group(format!("g{number}")).open().unwrap()).collect();
    let (tells, told) = std::sync::mpsc::channel();
    let refused = || (host.clone(), tells.clone());
    for (number, ledger) in groups.iter().enumerate() {
        let (host, tells) = refused();
        within_a_waker(ledger, move || {
            let open = host.group(format!("new-{number}")).open();
            let is_refused = matches!(open, Err(OpenError::CalledFromWaker))
                && matches!(host.open_all(), Err(OpenError::CalledFromWaker))
                && matches!(host.remove("g0"), Err(RemoveError::CalledFromWaker));
            tells.send(is_refused && !host.groups().is_empty()).unwrap();
        });
    }
    for _ in &groups {
        assert!(told.recv_timeout(LONG).expect("a call within a waker hangs"));
    }
    // More than there can be threads for.
    let owner = host.clone();
    let watched = (0..20).map(|number| {
        let (host, tells) = refused();
        let acts = move |status: &dledger::Status| {
            if status.role == Role::Leader {
                let name = format!("by-{number}");
                let is_done = host.group(&*name).open().is_ok_and(|node| node.append("x").is_ok())
                    && host.open_all().is_ok()
                    && host.remove(&name).is_ok();
                tells.send(is_done).unwrap();
            }
        };
        owner.group(format!("watched-{number}")).on_role_change(acts).open().unwrap()
    });
    let watched: Vec<DLedger> = watched.collect();
    for _ in &watched {
        assert!(told.recv_timeout(LONG).expect("a call within an observer hangs"));
    }
    within_a_minute("the shutdown of the host", move || host.shutdown()).unwrap();
}

/// How long these nodes take to fall asleep.
fn time_to_sleep(nodes: &[DLedger]) -> Duration {
    let began = Instant::now();
    wait_until("all sleep", || nodes.iter().all(|node| node.status().asleep));
    began.elapsed()
}

/// A group needs little more than `sleep_after`, also if it is opened while its hosts run, by one
/// after the other.
#[test]
fn a_group_that_is_opened_late_sleeps_as_soon_as_others() {
    let home = tempfile::tempdir().unwrap();
    let idle = Duration::from_secs(2);
    let hosts = over_tcp(home.path(), idle);
    time_to_sleep(&on_all(&hosts, "first"));
    let mut took = Vec::new();
    for number in 0..4 {
        let mut nodes = on_all(&hosts[..2], &format!("late-{number}"));
        if number % 2 == 1 {
            append_at_leader(&nodes, "x");
        }
        took.push(("opened by two", time_to_sleep(&nodes)));
        nodes.push(hosts[2].group(format!("late-{number}")).open().unwrap());
        took.push(("opened by the third", time_to_sleep(&nodes)));
    }
    println!("{took:?}");
    // An election, a connection of the group, and its time.
    assert!(took.iter().all(|(_, took)| *took < idle + Duration::from_secs(4)), "{took:?}");
    hosts.iter().for_each(|host| host.shutdown().unwrap());
}

#[test]
fn groups_over_a_network_in_memory_sleep_and_outlive_a_cut() {
    let mut all = Hosts::new();
    all.sleep_after = Duration::from_millis(300);
    let hosts = [all.open(1), all.open(2), all.open(3)];
    let groups: Vec<Vec<DLedger>> =
        (0..5).map(|number| on_all(&hosts, &format!("g{number}"))).collect();
    for nodes in &groups {
        append_at_leader(nodes, "one");
    }
    let all_sleep = || groups.iter().flatten().all(|node| node.status().asleep);
    wait_until("all groups sleep", all_sleep);
    all.network.isolate(1.into());
    for nodes in &groups {
        append_at_leader(&nodes[1..], "two");
        assert_ne!(nodes[1].status().leader, Some(1.into()));
    }
    wait_until("the others sleep without it", || {
        groups.iter().all(|nodes| nodes[1..].iter().all(|node| node.status().asleep))
    });
    assert!(groups.iter().all(|nodes| !nodes[0].status().asleep), "it hears no quorum");
    all.network.heal();
    wait_until("all groups sleep again", all_sleep);
    assert!(groups.iter().flatten().all(|node| node.committed() == (0..2)));
    hosts[2].shutdown().unwrap();
    for nodes in &groups {
        append_at_leader(&nodes[..2], "three");
    }
    hosts.iter().for_each(|host| host.shutdown().unwrap());
}

/// A forked child that opens the directory of its parent is refused before it starts a thread: in
/// the child of a process with threads, locks that threads need may be lost.
#[cfg(target_os = "linux")]
#[test]
fn forked_children_that_open_the_directory_of_their_parent_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let host = alone(home.path());
    let busy: Vec<DLedger> =
        (0..4).map(|number| host.group(format!("g{number}")).open().unwrap()).collect();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for ledger in &busy {
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    ledger.append("x").unwrap();
                }
            });
        }
        let outcomes: Vec<i32> = (0..50)
            .map(|_| in_child(|| Host::builder(1).dir(home.path().join("host")).open().is_err()))
            .collect();
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(outcomes, [0; 50], "-14 is a child that hangs");
    });
    host.shutdown().unwrap();
}
