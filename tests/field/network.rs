//! Networks that stop responding, and rejections that a process reports: connections that lead
//! nowhere, directories that were wiped or copied, lists of members that differ, names that are
//! not resolved.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dledger::transport::TcpTransport;
use dledger::{Builder, DLedger, OpenError, Role};

use crate::group::{addresses, eventually, home, leader, three_over_tcp};

/// A way to a node that can fall silent: from then on the connections that it carries stay open,
/// and nothing comes through them any more. New ones are carried as before once it speaks again.
struct Way {
    address: String,
    silent: Arc<AtomicBool>,
}

impl Way {
    fn to(node: String) -> Way {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, silent) =
            (listener.local_addr().unwrap().to_string(), Arc::new(AtomicBool::new(false)));
        let is_silent = silent.clone();
        std::thread::spawn(move || {
            for inbound in listener.incoming().map_while(Result::ok) {
                let lost = Arc::new(AtomicBool::new(false));
                if is_silent.load(Ordering::Relaxed) {
                    lost.store(true, Ordering::Relaxed);
                }
                let Ok(outbound) = TcpStream::connect(&node) else { continue };
                for (from, to) in [(&inbound, &outbound), (&outbound, &inbound)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (lost, is_silent) = (lost.clone(), is_silent.clone());
                    std::thread::spawn(move || carry(from, to, &lost, &is_silent));
                }
            }
        });
        Way { address, silent }
    }
}

/// What is lost once stays lost.
fn carry(mut from: TcpStream, mut to: TcpStream, lost: &AtomicBool, is_silent: &AtomicBool) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer).unwrap_or(0);
        lost.fetch_or(is_silent.load(Ordering::Relaxed), Ordering::Relaxed);
        if lost.load(Ordering::Relaxed) {
            // Neither an end nor a reset gets through.
            if read == 0 {
                std::thread::sleep(Duration::from_secs(600));
            }
            continue;
        }
        if read == 0 || to.write_all(&buffer[..read]).is_err() {
            let _ = to.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

fn open(id: u64, home: &Path, peers: &[String]) -> DLedger {
    builder(id, home, peers).open().unwrap()
}

fn builder(id: u64, home: &Path, peers: &[String]) -> Builder {
    DLedger::builder(id).dir(home.join(id.to_string())).peers((1_u64..).zip(peers.iter().cloned()))
}

fn refusals(node: &DLedger) -> Vec<(u64, String)> {
    node.status().refused.iter().map(|refusal| (refusal.peer.get(), refusal.to_string())).collect()
}

/// Appends at the leader of the moment until it is acknowledged.
fn append(nodes: &[DLedger], payload: &str) {
    eventually("an append", || nodes.iter().any(|node| node.append(payload).is_ok()));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

facts! {
    fn connections_that_lead_nowhere_any_more_are_made_anew() {
        let (home, real) = (home(), addresses(3));
        let ways: Vec<Vec<Way>> =
            (0..3).map(|_| real.iter().cloned().map(Way::to).collect()).collect();
        let nodes: Vec<DLedger> = (0..3)
            .map(|at| {
                let peers: Vec<String> = (0..3)
                    .map(
                        |to| if to == at { real[to].clone() } else { ways[at][to].address.clone() },
                    )
                    .collect();
                open(at as u64 + 1, home.path(), &peers)
            })
            .collect();
        append(&nodes, "before");
        let silence = |silent: bool| {
            ways.iter().flatten().for_each(|way| way.silent.store(silent, Ordering::Relaxed))
        };
        silence(true);
        eventually("no leader", || {
            nodes.iter().all(|node| node.status().role != Role::Leader)
        });
        silence(false);
        leader(&nodes);
        append(&nodes, "after");
        let ends = || nodes.iter().map(|node| node.committed().end);
        eventually("all to have it", || ends().all(|end| end > 1 && Some(end) == ends().next()));
    }

    fn a_node_whose_disk_was_wiped_is_told_who_refuses_it_and_its_appends_fail_with_that() {
        let (home, peers) = (home(), addresses(3));
        let nodes: Vec<DLedger> = (1..=3).map(|id| open(id, home.path(), &peers)).collect();
        append(&nodes, "all have met");
        eventually("all to have it", || nodes.iter().all(|node| node.committed().end >= 1));
        nodes[2].shutdown().unwrap();
        std::fs::remove_dir_all(home.path().join("3")).unwrap();
        let wiped =
            builder(3, home.path(), &peers).append_timeout(Duration::from_secs(1)).open().unwrap();
        let why = "it speaks from another data directory than before";
        eventually("the wiped node to know who refuses it", || {
            let told = refusals(&wiped);
            let begins = |peer: u64| format!("node {peer} refuses this node: {why}");
            let by = |peer: u64| {
                told.iter().any(|(by, text)| *by == peer && text.starts_with(&begins(peer)))
            };
            by(1) && by(2)
        });
        eventually("those that refuse it to say so", || {
            nodes[..2].iter().all(|node| {
                refusals(node).iter().any(|(peer, text)| {
                    *peer == 3 && text.contains(&format!("this node refuses node 3: {why}"))
                })
            })
        });
        eventually("an append there to say so", || {
            let error = wiped.append("in vain").unwrap_err().to_string();
            error.contains("nodes 1 and 2 refuse this node")
        });
        let barrier = wiped.barrier().unwrap_err().to_string();
        assert!(barrier.contains("nodes 1 and 2 refuse this node"), "{barrier}");
        append(&nodes[..2], "the others go on");
        assert!(nodes[..2].iter().all(|node| refusals(node).iter().all(|(peer, _)| *peer == 3)));
    }

    fn lists_of_members_that_differ_are_called_so() {
        let (home, peers) = (home(), addresses(4));
        let of_three = [1, 2].map(|id| open(id, home.path(), &peers[..3]));
        let of_four = open(3, home.path(), &peers);
        let differs = "its list of members differs (1, 2, 3, 4 instead of 1, 2, 3)";
        eventually("both ends to say so", || {
            refusals(&of_four).iter().any(|(peer, text)| *peer == 1 && text.contains(differs))
                && refusals(&of_three[0])
                    .iter()
                    .any(|(peer, text)| *peer == 3 && text.contains(differs))
        });
        append(&of_three, "two of three go on");
    }

    fn a_refusal_is_forgotten_when_neither_side_tries_any_more() {
        let home = home();
        let addresses = addresses(3);
        let open = |id: u64, members: usize| {
            let peers = (1u64..).zip(addresses.iter().cloned()).take(members);
            DLedger::builder(id)
                .dir(home.path().join(format!("{id}-of-{members}")))
                .peers(peers)
                .open()
                .unwrap()
        };
        let nodes = [1, 2].map(|id| open(id, 2));
        leader(&nodes);
        let rejection = open(3, 3);
        eventually("both say so", || nodes.iter().all(|node| !node.status().refused.is_empty()));
        rejection.shutdown().unwrap();
        // Though their own connection is in good order all the time.
        eventually("both have forgotten", || {
            nodes.iter().all(|node| node.status().refused.is_empty())
        });
    }

    fn the_second_process_of_a_copied_directory_does_not_turn_the_first_one_out() {
        let (home, peers) = (home(), addresses(3));
        let mut nodes: Vec<DLedger> = (1..=3).map(|id| open(id, home.path(), &peers)).collect();
        append(&nodes, "all have met");
        eventually("all to have it", || nodes.iter().all(|node| node.committed().end >= 1));
        nodes.pop().unwrap().shutdown().unwrap();
        let copied = home.path().join("copy");
        copy(&home.path().join("3"), &copied);
        nodes.push(open(3, home.path(), &peers));
        let original = &nodes[2];
        append(&nodes, "the original is back");
        let everything = |node: &DLedger| {
            node.committed().end == nodes.iter().map(|node| node.committed().end).max().unwrap()
        };
        eventually("the original to have it", || {
            everything(original) && original.committed().end >= 2
        });
        // Opened so often that it counts as the newer one.
        for _ in 0..5 {
            let elsewhere = TcpTransport::listening_on("127.0.0.1:0");
            let builder =
                DLedger::builder(3).dir(&copied).peers((1_u64..).zip(peers.iter().cloned()));
            let clone = builder.transport(elsewhere).open().unwrap();
            eventually("both to refuse the clone", || {
                let told = refusals(&clone);
                [1, 2].iter().all(|by| {
                    told.iter().any(|(peer, text)| {
                        peer == by && text.contains("another process speaks for it")
                    })
                })
            });
            append(&nodes, "while the clone is there");
            eventually("the original to follow", || everything(original));
            assert_eq!(clone.committed(), 0..1, "nothing came to the clone");
            clone.shutdown().unwrap();
        }
        assert_eq!(refusals(original), []);
    }

    fn a_peer_address_without_a_port_is_refused_before_anything_runs() {
        let home = home();
        for wrong in ["10.0.0.2", "10.0.0.2:", "node-2:http", "::1:7001", ":7001", "node-2:0", ""] {
            let error = open_with(home.path(), wrong).unwrap_err();
            assert!(
                matches!(error, OpenError::Setting { setting: "peer", .. }),
                "{wrong}: {error}"
            );
            assert!(
                error.to_string().contains("node 2") && error.to_string().contains("10.0.0.1:7001"),
                "{error}"
            );
        }
        assert!(!home.path().join("1").exists());
    }

    #[ignore = "needs root, Linux, ip and unshare: cargo test --test field -- --ignored"]
    fn a_shutdown_does_not_wait_for_names() {
        in_namespace_with_a_mute_name_server("network::a_shutdown_does_not_wait_for_names", || {
            let (home, own) = (home(), addresses(1));
            let node = DLedger::builder(1).dir(home.path().join("1")).peer(1, &own[0]);
            let node = node
                .peer(2, "no-such-host.example.org:7001")
                .peer(3, "nor-this.example.org:7001")
                .open()
                .unwrap();
            std::thread::sleep(Duration::from_millis(500));
            let began = Instant::now();
            node.shutdown().unwrap();
            assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        });
    }

    #[ignore = "needs root, Linux, ip and unshare: cargo test --test field -- --ignored"]
    fn a_group_has_a_leader_soon_after_a_cut_of_twenty_seconds() {
        after_a_cut(20);
    }

    #[ignore = "needs root, Linux, ip and unshare, 3 minutes: cargo test --test field -- --ignored"]
    fn a_group_has_a_leader_soon_after_a_cut_of_two_minutes() {
        after_a_cut(120);
    }

    #[ignore = "needs root, Linux, ip, tc and unshare: cargo test --test field -- --ignored"]
    fn entries_that_take_longer_than_an_election_timeout_are_committed_by_one_leader() {
        over_a_slow_link("20mbit", 4 << 20, 30);
    }

    #[ignore = "needs root, Linux, ip, tc and unshare: cargo test --test field -- --ignored"]
    fn the_largest_batch_of_the_defaults_is_committed_at_a_hundred_megabits() {
        over_a_slow_link("100mbit", 16 << 20, 40);
    }

    #[ignore = "needs root, Linux, ip, tc and unshare: cargo test --test field -- --ignored"]
    fn the_largest_batch_of_the_defaults_is_committed_at_ten_megabits() {
        over_a_slow_link("10mbit", 16 << 20, 100);
    }
}

fn open_with(home: &Path, peer: &str) -> Result<DLedger, OpenError> {
    DLedger::builder(1)
        .dir(home.join("1"))
        .peer(1, "127.0.0.1:0")
        .peer(2, peer)
        .peer(3, "10.0.0.3:7001")
        .open()
}

#[test]
fn healthy_nodes_over_tcp_refuse_no_peer() {
    let home = home();
    let nodes = three_over_tcp(home.path());
    append(&nodes, "one");
    eventually("all to have it", || nodes.iter().all(|node| node.committed().end >= 1));
    assert!(nodes.iter().all(|node| refusals(node).is_empty()));
}

/// Set where a fact runs in namespaces of its own, and for a node of one.
const IN_NAMESPACE: &str = "DLEDGER_FIELD_NAMESPACE";
const NODE: &str = "DLEDGER_FIELD_NODE";

/// Runs `fact`, the body of the test `name`, where the only name server never answers.
fn in_namespace_with_a_mute_name_server(name: &str, fact: impl FnOnce()) {
    if std::env::var_os(IN_NAMESPACE).is_some() {
        let _mute = std::net::UdpSocket::bind("127.0.0.1:53").unwrap();
        return fact();
    }
    let script = r#"set -e; ip link set lo up; echo "nameserver 127.0.0.1" >"$DATA/resolv.conf"
        mount --bind "$DATA/resolv.conf" /etc/resolv.conf
        exec "$EXE" --exact "$NAME" --include-ignored --nocapture"#;
    run(script, &[("NAME", name), (IN_NAMESPACE, "1")]);
}

/// Runs a script in namespaces of its own. Returns what it printed.
fn run(script: &str, variables: &[(&str, &str)]) -> String {
    let data = home();
    let mut command = std::process::Command::new("unshare");
    command.args([
        "--mount",
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "bash",
        "-c",
        script,
    ]);
    command
        .env("EXE", std::env::current_exe().unwrap())
        .env("DATA", data.path())
        .envs(variables.iter().copied());
    let output =
        command.stderr(std::process::Stdio::inherit()).output().expect("unshare can be run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{text}");
    assert!(output.status.success(), "{}", output.status);
    text
}

/// Three network namespaces on one bridge, `n1` to `n3`, and a way to start a node in each. What
/// the nodes say goes to the output.
const THREE_HOSTS: &str = r#"
set -eu; mount -t tmpfs tmpfs /run
ip link set lo up; ip link add hub type bridge; ip link set hub up
for n in 1 2 3; do
  ip netns add n$n; ip link add v$n type veth peer name eth0 netns n$n
  ip link set v$n master hub up
  ip -n n$n link set lo up; ip -n n$n addr add 10.9.0.$n/24 dev eth0; ip -n n$n link set eth0 up
done
for n in 1 2 3; do for m in 1 2 3; do
  [ $n = $m ] || ip -n n$n neigh replace 10.9.0.$m dev eth0 nud permanent \
    lladdr "$(ip -n n$m -br link show eth0 | awk '{print $3}')"
done; done
start() { for n in 1 2 3; do
  DLEDGER_FIELD_NODE="$n $1 $2" ip netns exec n$n \
    "$EXE" --exact network::node --include-ignored --nocapture &
done; }
"#;

/// A node of a group in namespaces: does nothing unless the variable says which.
#[test]
#[ignore = "a part of others"]
fn node() {
    let Ok(told) = std::env::var(NODE) else { return };
    let numbers: Vec<u64> = told.split(' ').map(|number| number.parse().unwrap()).collect();
    let [id, seconds, bytes] = numbers[..] else { panic!("{told}") };
    let (data, began) = (std::env::var("DATA").unwrap(), Instant::now());
    let peers: Vec<String> = (1..=3).map(|id| format!("10.9.0.{id}:7000")).collect();
    let changes = move |status: &dledger::Status| {
        println!(
            "{:.3} node {id} {} term {}",
            began.elapsed().as_secs_f64(),
            status.role,
            status.term
        );
    };
    let node = builder(id, Path::new(&data), &peers)
        .max_entry_bytes(64 << 20)
        .on_role_change(changes)
        .open()
        .unwrap();
    if bytes > 0 {
        let node = node.clone();
        std::thread::spawn(move || {
            loop {
                if node.append(vec![5; bytes as usize]).is_err() {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        });
    }
    std::thread::sleep(Duration::from_secs(seconds));
    println!(
        "{:.3} node {id} committed {} fault {:?}",
        began.elapsed().as_secs_f64(),
        node.committed().end,
        node.status().fault
    );
    std::process::exit(0);
}

/// When somebody came to lead, in seconds since the nodes were started.
fn leaderships(output: &str) -> Vec<f64> {
    let leads = |line: &str| {
        line.contains(" leader term ").then(|| line.split(' ').next()?.parse().ok()).flatten()
    };
    output.lines().filter_map(leads).collect()
}

/// All packets between three nodes vanish for so long; then the network is whole again.
fn after_a_cut(seconds: u64) {
    let script = format!(
        r#"{THREE_HOSTS}
        start {end} 0; sleep 6; for n in 1 2 3; do ip link set v$n nomaster; done; sleep {seconds}
        for n in 1 2 3; do ip link set v$n master hub; done; wait"#,
        end = seconds + 30,
    );
    let output = run(&script, &[]);
    let healed = 6.0 + seconds as f64;
    let first = leaderships(&output).into_iter().filter(|&at| at > healed).fold(f64::MAX, f64::min);
    assert!(
        first < healed + 5.0,
        "the network was whole at {healed} s; the first leader after that at {first} s"
    );
}

/// Three nodes whose ports carry so much; the leader appends entries of so many bytes, one at a
/// time, for so long.
fn over_a_slow_link(rate: &str, bytes: u64, seconds: u64) {
    let script = format!(
        r#"{THREE_HOSTS}
        for n in 1 2 3; do
          tc qdisc add dev v$n root tbf rate {rate} burst 128k latency 100ms
          ip netns exec n$n tc qdisc add dev eth0 root tbf rate {rate} burst 128k latency 100ms
        done
        start {seconds} {bytes}; wait"#
    );
    let output = run(&script, &[]);
    let committed =
        |line: &str| line.split_once(" committed ")?.1.split(' ').next()?.parse::<u64>().ok();
    let most = output.lines().filter_map(committed).max().unwrap_or(0);
    assert_eq!(leaderships(&output).len(), 1, "no leader is lost");
    assert!(most >= 3, "{most} entries were committed");
}
