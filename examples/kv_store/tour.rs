//! The tour: three nodes, a leader that dies while puts are on their way, and a count of what was
//! promised and what was kept.

use std::collections::BTreeMap;
use std::time::Instant;

use dledger::AppendFuture;

use crate::Result;
use crate::cluster::Cluster;
use crate::map::Command;

/// What a client of the store remembers, to hold the store to it at the end.
struct Tour {
    cluster: Cluster,
    /// The next key to be written. Each is written once.
    next_key: u64,
    /// Every put that was acknowledged, at the index that it was given.
    acknowledged: BTreeMap<u64, Command>,
}

/// What became of puts that were on their way.
#[derive(Default)]
struct Fates {
    acknowledged: usize,
    /// Reported as perhaps written.
    unknown: Vec<Command>,
    /// Reported as not written.
    refused: Vec<Command>,
}

pub(crate) fn run() -> Result<()> {
    let dir = tempfile::tempdir()?;
    println!("Three nodes in one process keep one log, and a key-value map that follows it.");

    let begun = Instant::now();
    let mut tour = Tour {
        cluster: Cluster::start(3, dir.path())?,
        next_key: 1,
        acknowledged: BTreeMap::new(),
    };
    tour.see_who_leads(begun)?;
    tour.put(2, 1_000)?;
    tour.read_from_every_node()?;
    let old_leader = tour.stop_the_leader_while_puts_are_on_their_way(200)?;
    tour.put(5, 500)?;
    tour.restart(old_leader)?;
    tour.compare_and_count()
}

impl Tour {
    fn see_who_leads(&self, begun: Instant) -> Result<()> {
        let (leader, node) = self.cluster.leader()?;
        println!("\n1. The nodes elect a leader");
        println!(
            "   node {leader} leads in term {}, {} ms after the start",
            node.ledger.status().term,
            begun.elapsed().as_millis()
        );
        Ok(())
    }

    fn put(&mut self, step: u64, count: u64) -> Result<()> {
        println!("\n{step}. {count} puts: an acknowledged one is on the disks of a majority");
        let begun = Instant::now();
        let (from, on_their_way) = self.send(count)?;
        let fates = self.wait_for(on_their_way);
        let (found, repeated) = self.settle(fates.unknown, fates.refused, from)?;
        let (sum, ms) = (fates.acknowledged + found + repeated, begun.elapsed().as_millis());
        println!("   acknowledged {sum} in {ms} ms, at the indexes {from} to {}", self.end() - 1);
        Ok(())
    }

    fn read_from_every_node(&self) -> Result<()> {
        println!("\n3. Every node answers reads, and none of them is stale");
        let (key, value) = key_and_value(self.next_key - 1);
        for (id, node) in &self.cluster.nodes {
            let role = node.ledger.status().role;
            let map = node.read()?;
            let read = map.values.get(&key).map_or("missing", String::as_str);
            println!("   node {id}, {role}: {key} = {read}, of {} keys", map.values.len());
            if read != value {
                return Err(format!("node {id} gave a stale answer").into());
            }
        }
        Ok(())
    }

    fn stop_the_leader_while_puts_are_on_their_way(&mut self, count: u64) -> Result<u64> {
        let old_leader = self.cluster.leader()?.0;
        println!("\n4. Node {old_leader} is stopped while {count} puts are on their way");
        let (from, on_their_way) = self.send(count)?;
        let stopped = Instant::now();
        self.cluster.stop_node(old_leader)?;
        let fates = self.wait_for(on_their_way);
        println!(
            "   {} of them were acknowledged, {} may be written or not, {} are not",
            fates.acknowledged,
            fates.unknown.len(),
            fates.refused.len()
        );

        let command = self.next_put();
        let index = self.cluster.write_through(&command, from)?;
        let failover = stopped.elapsed().as_millis();
        self.note(index, command)?;
        println!(
            "   failover took {failover} ms: node {} leads now, and acknowledged the next put",
            self.cluster.leader()?.0
        );

        let (found, repeated) = self.settle(fates.unknown, fates.refused, from)?;
        println!(
            "   of the others, {found} are in the log; {repeated} are not, and were put again"
        );
        Ok(old_leader)
    }

    fn restart(&mut self, old_leader: u64) -> Result<()> {
        println!("\n6. Node {old_leader} starts again, with what it has on disk");
        let begun = Instant::now();
        self.cluster.start_node(old_leader)?;
        let map = self.cluster.nodes[&old_leader].read()?;
        println!(
            "   it caught up and replayed {} entries in {} ms",
            map.next,
            begun.elapsed().as_millis()
        );
        Ok(())
    }

    /// Holds every node to every promise: the entry stands where it was said to stand, and the map
    /// shows it.
    fn compare_and_count(mut self) -> Result<()> {
        println!("\n7. Is everything there, on every node?");
        let mut lost: BTreeMap<u64, &Command> = BTreeMap::new();
        let mut maps = Vec::new();
        for (id, node) in &self.cluster.nodes {
            let map = node.read()?;
            for (index, command) in &self.acknowledged {
                let Command::Put { key, value } = command else { continue };
                let in_the_log =
                    node.ledger.get(*index)?.is_some_and(|entry| *entry == command.bytes());
                if !in_the_log || map.values.get(key) != Some(value) {
                    lost.insert(*index, command);
                }
            }
            println!("   node {id}: {} keys from {} entries", map.values.len(), map.next);
            maps.push(map);
        }
        let equal = maps.windows(2).all(|pair| pair[0] == pair[1]);
        println!("   the three maps are {}", if equal { "equal" } else { "NOT EQUAL" });
        println!("\nacknowledged {}, lost {}", self.acknowledged.len(), lost.len());
        while let Some((_, node)) = self.cluster.nodes.pop_first() {
            node.stop()?;
        }
        if equal && lost.is_empty() { Ok(()) } else { Err("a promise was broken".into()) }
    }

    /// Sends puts to the leader without waiting for each. Returns the first index that they can
    /// have.
    fn send(&mut self, count: u64) -> Result<(u64, Vec<(Command, AppendFuture)>)> {
        let commands: Vec<Command> = (0..count).map(|_| self.next_put()).collect();
        let ledger = &self.cluster.leader()?.1.ledger;
        let from = ledger.committed().end;
        Ok((
            from,
            commands
                .into_iter()
                .map(|command| (command.clone(), ledger.append_async(command.bytes())))
                .collect(),
        ))
    }

    fn wait_for(&mut self, on_their_way: Vec<(Command, AppendFuture)>) -> Fates {
        let mut fates = Fates::default();
        for (command, future) in on_their_way {
            match future.wait() {
                Ok(appended) => {
                    fates.acknowledged += 1;
                    self.acknowledged.insert(appended.index, command);
                }
                Err(error) if error.may_have_committed() => fates.unknown.push(command),
                Err(_) => fates.refused.push(command),
            }
        }
        fates
    }

    /// Looks for what may be written, and puts again what is not. Returns how many were found, and
    /// how many were repeated.
    fn settle(
        &mut self,
        unknown: Vec<Command>,
        refused: Vec<Command>,
        from: u64,
    ) -> Result<(usize, usize)> {
        let (mut found, mut again) = (0, refused);
        for command in unknown {
            match self.cluster.leader()?.1.find(&command, from)? {
                Some(index) => {
                    found += 1;
                    self.note(index, command)?;
                }
                None => again.push(command),
            }
        }
        let repeated = again.len();
        for command in again {
            let index = self.cluster.write_through(&command, from)?;
            self.note(index, command)?;
        }
        Ok((found, repeated))
    }

    fn note(&mut self, index: u64, command: Command) -> Result<()> {
        match self.acknowledged.insert(index, command) {
            None => Ok(()),
            Some(other) => {
                Err(format!("index {index} was given to two puts, one of them {other}").into())
            }
        }
    }

    /// The index after the newest acknowledged put.
    fn end(&self) -> u64 {
        self.acknowledged.last_key_value().map_or(0, |(index, _)| index + 1)
    }

    fn next_put(&mut self) -> Command {
        let (key, value) = key_and_value(self.next_key);
        self.next_key += 1;
        Command::put(key, value)
    }
}

fn key_and_value(number: u64) -> (String, String) {
    (format!("key-{number:04}"), format!("value-{number:04}"))
}
