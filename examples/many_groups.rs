//! A hundred groups on three hosts, and what becomes of them when one host is gone.
//!
//! The hosts are in one process here, to have it all on one page. In earnest each is a process of
//! its own, on a machine of its own, and nothing else changes: they speak over TCP in either case.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use dledger::{AppendFuture, DLedger, Host, NodeId, Role};

const GROUPS: usize = 100;
const APPENDS: usize = 10;
/// More than anything here takes.
const LONG: Duration = Duration::from_secs(30);

/// What one group acknowledged: payloads by their index.
type Acknowledged = BTreeMap<u64, String>;

fn main() -> Result<(), Box<dyn Error>> {
    let home = tempfile::tempdir()?;
    let peers = free_addresses()?;
    // One directory, one port and a few threads for all groups of a host.
    let open = |id: u64| {
        Host::builder(id).dir(home.path().join(id.to_string())).peers(peers.clone()).open()
    };
    let mut hosts = vec![open(1)?, open(2)?, open(3)?];

    // A group is a `DLedger` on each host, with the hosts as its members.
    let began = Instant::now();
    let mut groups: Vec<Vec<DLedger>> = Vec::new();
    for number in 0..GROUPS {
        let open = |host: &Host| host.group(format!("orders-{number}")).open();
        groups.push(hosts.iter().map(open).collect::<Result<_, _>>()?);
    }
    println!("{GROUPS} groups on three hosts are open after {:?}", began.elapsed());

    // Groups elect whom they like. Spread evenly, no host has more to do than another.
    for (number, nodes) in groups.iter().enumerate() {
        spread(nodes, NodeId::from(number as u64 % 3 + 1))?;
    }
    println!("leaders on hosts 1, 2 and 3: {:?}", leaders(&groups));

    // Appends to all groups are under way at the same time. A future is ready once its entry is on
    // the disks of two hosts.
    let mut acknowledged = vec![Acknowledged::new(); GROUPS];
    let began = Instant::now();
    for (number, payload, future) in append_to_all(&groups) {
        acknowledged[number].insert(future.wait()?.index, payload);
    }
    println!("{} appends to all groups took {:?}", GROUPS * APPENDS, began.elapsed());

    // Host 3 ends in the midst of appends. `Host::shutdown` would hand its groups over; a host that
    // is only dropped, with all its handles, does not: the others have to notice.
    let in_flight = append_to_all(&groups);
    let gone = Instant::now();
    groups.iter_mut().for_each(|nodes| drop(nodes.pop()));
    drop(hosts.pop());
    for (number, payload, future) in in_flight {
        match future.wait() {
            Ok(appended) => drop(acknowledged[number].insert(appended.index, payload)),
            Err(error) if error.may_have_committed() => {} // nothing was promised
            Err(error) => println!("group {number} refused an append: {error}"),
        }
    }
    // A thread for each group tries until it is back. Those that the host led have to elect another
    // leader first, within an election timeout or two, which is a second by default.
    let mut took: Vec<Duration> = thread::scope(|scope| {
        let mut waiting = Vec::new();
        for (nodes, acknowledged) in groups.iter().zip(&mut acknowledged) {
            waiting.push(scope.spawn(move || append_again(nodes, acknowledged)));
        }
        let back = waiting.into_iter().map(|back| back.join().expect("it does not panic"));
        back.enumerate().filter(|(number, _)| number % 3 == 2).map(|(_, at)| at - gone).collect()
    });
    took.sort();
    println!(
        "host 3 is gone: the groups that it led took {:?} to take appends again, the last {:?}",
        took[took.len() / 2],
        took[took.len() - 1]
    );
    println!("leaders on hosts 1, 2 and 3: {:?}", leaders(&groups));

    // It comes back, with all groups that lie in its directory.
    hosts.push(open(3)?);
    let mut returned: BTreeMap<String, DLedger> = BTreeMap::new();
    for (name, opened) in hosts[2].open_all()? {
        returned.insert(name, opened?);
    }
    for (number, nodes) in groups.iter_mut().enumerate() {
        nodes.extend(returned.remove(&format!("orders-{number}")));
    }

    // Is everything there, on every host? After a barrier, all that was acknowledged can be read.
    let mut lost = 0;
    for (nodes, acknowledged) in groups.iter().zip(&acknowledged) {
        for node in nodes {
            // One that has just come back may not have heard of its leader yet.
            node.wait_for_leader(LONG);
            node.barrier()?;
            for (index, payload) in acknowledged {
                let entry = node.get(*index)?;
                lost += usize::from(entry.is_none_or(|entry| entry[..] != *payload.as_bytes()));
            }
        }
    }
    let count: usize = acknowledged.iter().map(BTreeMap::len).sum();
    println!("acknowledged {count}, on {} hosts, lost {lost}", hosts.len());
    for host in &hosts {
        host.shutdown()?; // closes all groups at the same time
    }
    if lost == 0 { Ok(()) } else { Err("acknowledged entries are lost".into()) }
}

/// The node that takes the appends of a group, once there is one.
fn leader(nodes: &[DLedger]) -> &DLedger {
    let began = Instant::now();
    loop {
        if let Some(leader) = nodes.iter().find(|node| node.status().role == Role::Leader) {
            return leader;
        }
        assert!(began.elapsed() < LONG, "a group without a leader: {nodes:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Hands the leadership of a group to node `to`.
fn spread(nodes: &[DLedger], to: NodeId) -> Result<(), Box<dyn Error>> {
    let began = Instant::now();
    while leader(nodes).status().id != to {
        // It fails where the group elects another leader at the same time.
        if let Err(error) = leader(nodes).transfer_leadership(to)
            && began.elapsed() > LONG
        {
            return Err(error.into());
        }
    }
    Ok(())
}

/// How many groups are led by which host.
fn leaders(groups: &[Vec<DLedger>]) -> [usize; 3] {
    let ids: Vec<NodeId> = groups.iter().map(|nodes| leader(nodes).status().id).collect();
    [1, 2, 3].map(|id| ids.iter().filter(|leader| **leader == NodeId::from(id)).count())
}

/// Begins appends to every group: the number of the group, the payload, and what will come of it.
fn append_to_all(groups: &[Vec<DLedger>]) -> Vec<(usize, String, AppendFuture)> {
    let append = |(number, nodes): (usize, &Vec<DLedger>)| {
        let leader = leader(nodes);
        let payload = move |append| format!("order {append} of group {number}");
        let begin = |payload: String| (number, payload.clone(), leader.append_async(payload));
        (0..APPENDS).map(payload).map(begin).collect::<Vec<_>>()
    };
    groups.iter().enumerate().flat_map(append).collect()
}

/// Appends as soon as the group takes it. Returns when it was acknowledged.
fn append_again(nodes: &[DLedger], acknowledged: &mut Acknowledged) -> Instant {
    let (payload, began) = ("the first one of the next leader".to_owned(), Instant::now());
    loop {
        match leader(nodes).append(&payload) {
            Ok(index) => {
                acknowledged.insert(index, payload);
                return Instant::now();
            }
            // Whoever minds an entry that is there twice looks for the first one before this.
            Err(error) => assert!(began.elapsed() < LONG, "not in {LONG:?}: {error}"),
        }
    }
}

/// Three addresses on which nobody listened a moment ago.
fn free_addresses() -> std::io::Result<Vec<(u64, String)>> {
    let ports = [1, 2, 3].map(|id| (id, TcpListener::bind("127.0.0.1:0")));
    ports.into_iter().map(|(id, port)| Ok((id, port?.local_addr()?.to_string()))).collect()
}
