//! Disks that are replaced, directories that are wiped, put back to an older copy, or restored from
//! a backup.

use std::path::Path;
use std::time::Duration;

use dledger::transport::{MemoryNetwork, TcpTransport};
use dledger::{AppendError, BarrierError, Builder, DLedger, OpenError, Role, Status, tools};

use crate::group::{addresses, eventually, home, leader};

/// Nodes over TCP in directories of `home`, opened one by one.
struct Group<'a> {
    home: &'a Path,
    addresses: Vec<String>,
}

impl Group<'_> {
    fn new(home: &Path, nodes: usize) -> Group<'_> {
        Group { home, addresses: addresses(nodes) }
    }

    fn builder(&self, id: u64) -> Builder {
        let peers = (1..).zip(self.addresses.iter().cloned());
        DLedger::builder(id).dir(self.home.join(id.to_string())).peers(peers)
    }

    fn open(&self, id: u64) -> DLedger {
        self.builder(id).open().unwrap()
    }

    fn open_all(&self) -> Vec<DLedger> {
        (1..=self.addresses.len() as u64).map(|id| self.open(id)).collect()
    }

    fn wipe(&self, id: u64) {
        std::fs::remove_dir_all(self.home.join(id.to_string())).unwrap();
    }
}

fn append(nodes: &[&DLedger], count: u64) {
    for at in 0..count {
        let payload = at.to_le_bytes();
        eventually("an append", || nodes.iter().any(|node| node.append(payload).is_ok()));
    }
}

fn has_all(node: &DLedger, entries: u64) -> bool {
    node.committed() == (0..entries)
}

/// A node that follows like any other.
fn is_whole(node: &DLedger) -> bool {
    let Status { fault, repair, full, refused, .. } = node.status();
    assert_eq!(fault, None);
    repair.is_none() && full.is_none() && refused.is_empty()
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

facts! {
    fn a_wiped_node_is_told_why_it_is_refused_and_comes_back_when_it_is_wished() {
        let home = home();
        let group = Group::new(home.path(), 3);
        let mut nodes = group.open_all();
        append(&nodes.iter().collect::<Vec<_>>(), 100);
        eventually("all have it", || nodes.iter().all(|node| has_all(node, 100)));
        nodes.remove(2).shutdown().unwrap();
        group.wipe(3);

        let wiped = group.builder(3).append_timeout(Duration::from_millis(300)).open().unwrap();
        eventually("it is told by both", || wiped.status().refused.len() == 2);
        let reason = wiped.status().refused[0].reason.clone();
        assert!(
            reason.contains("refuses this node")
                && reason.contains("set `rejoin_empty` at its builder, with an empty directory"),
            "{reason}"
        );
        let refusal = wiped.append("x").unwrap_err();
        assert!(
            matches!(&refusal, AppendError::NotLeader { refused, .. } if refused.len() == 2),
            "{refusal:?}"
        );
        assert!(matches!(wiped.barrier(), Err(BarrierError::Refused { .. })));
        assert!(nodes.iter().all(|node| node.status().refused.len() == 1));
        wiped.shutdown().unwrap();
        drop(wiped);

        let back = group.builder(3).rejoin_empty(true).open().unwrap();
        eventually("it has everything", || has_all(&back, 100) && is_whole(&back));
        eventually("no peer refuses it", || nodes.iter().all(is_whole));
        // Now it counts: with one other it is a majority, and loses nothing.
        nodes.remove(0).shutdown().unwrap();
        append(&[&nodes[0], &back], 20);
        eventually("both have it", || has_all(&nodes[0], 120) && has_all(&back, 120));
        back.shutdown().unwrap();
        drop(back);
        // Without effect by now, and so is its absence.
        for rejoin in [true, false] {
            let back = group.builder(3).rejoin_empty(rejoin).open().unwrap();
            eventually("it follows", || has_all(&back, 120) && is_whole(&back));
            back.shutdown().unwrap();
        }
    }

    fn a_directory_that_was_put_back_is_remembered_and_no_node_leads_without_what_it_lost() {
        let home = home();
        let network = MemoryNetwork::new();
        let dir = |id: u64| home.path().join(id.to_string());
        let open = |id: u64| {
            let builder = DLedger::builder(id).dir(dir(id)).transport(network.transport(id.into()));
            builder.peers([1u64, 2, 3].map(|id| (id, ""))).open().unwrap()
        };
        let mut nodes = [1, 2, 3].map(open).into_iter().collect::<Vec<_>>();
        append(&nodes.iter().collect::<Vec<_>>(), 100);
        eventually("all have it", || nodes.iter().all(|node| has_all(node, 100)));
        let led = leader(&nodes);
        let first = nodes.remove(led);
        let [second, third] = <[DLedger; 2]>::try_from(nodes).unwrap();
        let (id, backup) = (second.status().id.get(), home.path().join("backup"));
        second.shutdown().unwrap();
        drop(second);
        copy(&dir(id), &backup);
        let second = open(id);
        network.isolate(third.status().id);
        append(&[&first], 50);
        second.shutdown().unwrap();
        drop(second);
        copy(&backup, &dir(id));

        let second = open(id);
        eventually("it learns of it", || second.status().repair.is_some());
        let told = second.status().repair.unwrap();
        assert!(
            told.contains("its log is not complete") && told.contains("has not answered"),
            "{told}"
        );
        second.shutdown().unwrap();
        drop((second, first));
        network.heal();
        // With the leader away: two of three, of which one has forgotten what it acknowledged.
        let second = open(id);
        std::thread::sleep(Duration::from_secs(4));
        assert!(second.status().repair.is_some(), "it still knows");
        assert!(
            [&second, &third]
                .iter()
                .all(|node| node.status().role != Role::Leader && node.committed().end <= 100)
        );
        let first = open(6 - id - third.status().id.get());
        eventually("nothing is lost", || {
            [&first, &second, &third].iter().all(|node| has_all(node, 150) && is_whole(node))
        });
    }

    fn two_that_were_wiped_at_once_are_not_let_in_and_say_why() {
        let home = home();
        let group = Group::new(home.path(), 3);
        let nodes = group.open_all();
        append(&nodes.iter().collect::<Vec<_>>(), 10);
        nodes.iter().for_each(|node| node.shutdown().unwrap());
        drop(nodes);
        [2, 3].iter().for_each(|id| group.wipe(*id));
        let intact = group.open(1);
        let wiped = [2, 3].map(|id| group.builder(id).rejoin_empty(true).open().unwrap());
        let says_why = |node: &DLedger| {
            node.status().repair.is_some_and(|why| why.contains("cannot vouch for each other"))
        };
        eventually("both say why", || wiped.iter().all(says_why));
        std::thread::sleep(Duration::from_secs(3));
        assert!(
            wiped
                .iter()
                .chain([&intact])
                .all(|node| node.status().role != Role::Leader && node.status().leader.is_none())
        );
        assert!(wiped.iter().all(|node| node.committed().is_empty()));
    }

    fn of_two_voters_one_comes_back_from_the_other() {
        let home = home();
        let group = Group::new(home.path(), 2);
        let mut nodes = group.open_all();
        append(&nodes.iter().collect::<Vec<_>>(), 30);
        eventually("both have it", || nodes.iter().all(|node| has_all(node, 30)));
        nodes.remove(0).shutdown().unwrap();
        group.wipe(1);
        let back = group.builder(1).rejoin_empty(true).open().unwrap();
        append(&[&back, &nodes[0]], 5);
        eventually("both have it", || {
            has_all(&back, 35) && has_all(&nodes[0], 35) && is_whole(&back)
        });
    }

    fn one_node_is_restored_from_a_backup_and_the_whole_group_is() {
        let home = home();
        let group = Group::new(home.path(), 3);
        let mut nodes = group.open_all();
        append(&nodes.iter().collect::<Vec<_>>(), 60);
        eventually("all have it", || nodes.iter().all(|node| has_all(node, 60)));
        let backup = home.path().join("backup");
        nodes[0].backup(&backup).unwrap();
        append(&nodes.iter().collect::<Vec<_>>(), 40);
        nodes.remove(1).shutdown().unwrap();
        group.wipe(2);
        tools::restore(&backup, home.path().join("2"), 2, tools::Restore::OneNode).unwrap();
        let restored = group.open(2);
        eventually("it has what came since", || has_all(&restored, 100) && is_whole(&restored));
        nodes.insert(1, restored);
        nodes.iter().for_each(|node| node.shutdown().unwrap());
        drop(nodes);

        for id in 1..=3 {
            group.wipe(id);
            tools::restore(
                &backup,
                home.path().join(id.to_string()),
                id,
                tools::Restore::WholeGroup,
            )
            .unwrap();
        }
        let nodes = group.open_all();
        append(&nodes.iter().collect::<Vec<_>>(), 1);
        eventually("it goes on from the backup", || {
            nodes.iter().all(|node| has_all(node, 61) && is_whole(node))
        });
    }

    fn a_copy_that_is_opened_beside_its_original_is_told_so_and_does_not_take_its_place() {
        let home = home();
        let group = Group::new(home.path(), 3);
        let mut nodes = group.open_all();
        append(&nodes.iter().collect::<Vec<_>>(), 20);
        eventually("all have it", || nodes.iter().all(|node| has_all(node, 20)));
        nodes.remove(2).shutdown().unwrap();
        let older = home.path().join("older");
        copy(&home.path().join("3"), &older);
        // The original is opened twice since, the copy once.
        group.open(3).shutdown().unwrap();
        nodes.push(group.open(3));
        append(&nodes.iter().collect::<Vec<_>>(), 20);
        eventually("all have it", || nodes.iter().all(|node| has_all(node, 40)));
        let beside = || TcpTransport::listening_on(addresses(1).remove(0));
        let copied = group.builder(3).dir(&older).transport(beside()).open().unwrap();
        eventually("it is told by both", || copied.status().refused.len() == 2);
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(copied.status().repair, None, "nothing was lost: the original is there");
        assert!(
            copied
                .status()
                .refused
                .iter()
                .all(|refusal| refusal.reason.contains("stop one of the two"))
        );
        // Every other node that comes back finds the original.
        nodes.remove(0).shutdown().unwrap();
        copied.shutdown().unwrap();
        nodes.insert(0, group.open(1));
        append(&nodes.iter().collect::<Vec<_>>(), 20);
        eventually("no node refuses another", || {
            nodes.iter().all(|node| has_all(node, 60) && is_whole(node))
        });
    }

    fn a_copy_that_is_opened_elsewhere_while_its_node_is_down_does_not_take_its_place() {
        let home = home();
        let group = Group::new(home.path(), 3);
        let mut nodes = group.open_all();
        append(&nodes.iter().collect::<Vec<_>>(), 20);
        eventually("all have it", || nodes.iter().all(|node| has_all(node, 20)));
        nodes.remove(2).shutdown().unwrap();
        let older = home.path().join("older");
        copy(&home.path().join("3"), &older);
        let third = group.open(3);
        append(&[&nodes[0], &nodes[1], &third], 20);
        eventually("it has it", || has_all(&third, 40));
        third.shutdown().unwrap();
        drop(third);

        let elsewhere = TcpTransport::listening_on(addresses(1).remove(0));
        let copied = group.builder(3).dir(&older).transport(elsewhere).open().unwrap();
        let is_told = |node: &DLedger, refusals: usize| {
            let refused = node.status().refused;
            refused.len() == refusals
                && refused.iter().all(|refusal| {
                    refusal.reason.contains("a copy that was opened elsewhere, stop it")
                })
        };
        eventually("it is told by both", || is_told(&copied, 2));
        let unanswered = "node 1 has not answered, node 2 has not answered";
        assert!(copied.status().repair.is_some_and(|why| why.contains(unanswered)));
        eventually("and so are they", || nodes.iter().all(|node| is_told(node, 1)));
        // While the copy runs, and after.
        let third = group.open(3);
        append(&[&nodes[0], &nodes[1], &third], 20);
        eventually("it has it", || has_all(&third, 60) && third.status().repair.is_none());
        assert!(is_told(&copied, 2) && copied.committed().end <= 20);
        copied.shutdown().unwrap();
        nodes.push(third);
        append(&nodes.iter().collect::<Vec<_>>(), 20);
        eventually("all are whole", || {
            nodes.iter().all(|node| has_all(node, 80) && is_whole(node))
        });
        nodes.iter().for_each(|node| node.shutdown().unwrap());
        drop(nodes);
        let known = tools::inspect(home.path().join("3")).unwrap().identity;
        assert!(
            known.complete && known.incarnation == 3,
            "it is the directory that it was: {known:?}"
        );
    }

    fn a_copy_that_comes_in_before_its_node_does_not_become_it_for_one_that_has_lost_its_disk() {
        let home = home();
        let group = Group::new(home.path(), 3);
        let mut nodes = group.open_all();
        append(&nodes.iter().collect::<Vec<_>>(), 20);
        eventually("all have it", || nodes.iter().all(|node| has_all(node, 20)));
        nodes.remove(2).shutdown().unwrap();
        let older = home.path().join("older");
        copy(&home.path().join("3"), &older);
        let third = group.open(3);
        append(&[&nodes[0], &nodes[1], &third], 20);
        eventually("all have that too", || {
            has_all(&third, 40) && nodes.iter().all(|node| has_all(node, 40))
        });
        third.shutdown().unwrap();
        drop(third);
        // It learns that it was outlived, and speaks from a directory of its own from then on.
        let elsewhere = TcpTransport::listening_on(addresses(1).remove(0));
        let copied = group.builder(3).dir(&older).transport(elsewhere).open().unwrap();
        eventually("both refuse it", || copied.status().refused.len() == 2);

        nodes.remove(0).shutdown().unwrap();
        group.wipe(1);
        let first = group.builder(1).rejoin_empty(true).open().unwrap();
        let lets_it_in = || copied.status().refused.iter().all(|refusal| refusal.peer.get() != 1);
        eventually("the one without records of peers lets it in", lets_it_in);
        copied.shutdown().unwrap();
        drop(copied);
        nodes.extend([first, group.open(3)]);
        let is_ready = |node: &DLedger| has_all(node, 40) && is_whole(node);
        eventually("all are whole", || nodes.iter().all(is_ready));
        append(&nodes.iter().collect::<Vec<_>>(), 20);
        eventually("all have everything", || nodes.iter().all(|node| has_all(node, 60)));
    }

    fn five_lose_one_disk_after_the_other_and_one_of_them_once_more_before_it_is_complete() {
        let home = home();
        let group = Group::new(home.path(), 5);
        let mut nodes: Vec<Option<DLedger>> = group.open_all().into_iter().map(Some).collect();
        append(&nodes.iter().flatten().collect::<Vec<_>>(), 200);
        for (round, id) in [(0, 1), (1, 2), (2, 3), (3, 3), (4, 4), (5, 5)] {
            nodes[id as usize - 1].take().unwrap().shutdown().unwrap();
            group.wipe(id);
            // Appends go on meanwhile.
            append(&nodes.iter().flatten().collect::<Vec<_>>(), 20);
            let back = group.builder(id).rejoin_empty(true).open().unwrap();
            if round == 2 {
                back.shutdown().unwrap();
                drop(back);
                group.wipe(id);
                nodes[id as usize - 1] = Some(group.builder(id).rejoin_empty(true).open().unwrap());
                continue;
            }
            // The leadership is offered to it as soon as it listens: it takes none that it may not
            // have.
            for node in nodes.iter().flatten() {
                let _ = node.transfer_leadership(id);
            }
            nodes[id as usize - 1] = Some(back);
            let end = 200 + 20 * (round + 1);
            let all = || nodes.iter().flatten();
            eventually("all are whole", || all().all(|node| has_all(node, end) && is_whole(node)));
        }
    }

    fn a_directory_that_is_put_back_as_often_as_it_was_opened_comes_back() {
        let home = home();
        let group = Group::new(home.path(), 3);
        let mut nodes = group.open_all();
        append(&nodes.iter().collect::<Vec<_>>(), 20);
        eventually("all have it", || nodes.iter().all(|node| has_all(node, 20)));
        nodes.remove(2).shutdown().unwrap();
        let older = home.path().join("older");
        copy(&home.path().join("3"), &older);
        // Each opening is the second one of the directory.
        let third = group.open(3);
        append(&[&nodes[0], &nodes[1]], 20);
        eventually("it has it", || has_all(&third, 40) && is_whole(&third));
        third.shutdown().unwrap();
        drop(third);
        copy(&older, &home.path().join("3"));
        let third = group.open(3);
        eventually("it has it", || has_all(&third, 40) && is_whole(&third));
        third.shutdown().unwrap();
        drop(third);
        let ids = [home.path().join("3"), older]
            .map(|dir| tools::inspect(dir).unwrap().identity.directory);
        assert_ne!(ids[0], ids[1], "it knows that it had forgotten something");
    }

    fn a_backup_that_is_copied_into_place_twice_comes_back_twice() {
        let home = home();
        let group = Group::new(home.path(), 3);
        let mut nodes = group.open_all();
        append(&nodes.iter().collect::<Vec<_>>(), 20);
        eventually("all have it", || nodes.iter().all(|node| has_all(node, 20)));
        let backup = home.path().join("backup");
        nodes[2].backup(&backup).unwrap();
        nodes.remove(2).shutdown().unwrap();
        for round in 1..=3 {
            copy(&backup, &home.path().join("3"));
            let third = group.open(3);
            append(&[&nodes[0], &nodes[1]], 20);
            eventually("it has it", || has_all(&third, 20 + 20 * round) && is_whole(&third));
            third.shutdown().unwrap();
        }
    }

    fn a_group_of_one_cannot_rejoin() {
        let home = home();
        let refused =
            DLedger::builder(1).dir(home.path().join("1")).rejoin_empty(true).open().unwrap_err();
        assert!(
            matches!(&refused, OpenError::Setting { setting: "rejoin_empty", .. }),
            "{refused}"
        );
    }
}
