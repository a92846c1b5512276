//! Random histories of a group, under the invariants of [`Group`]: the scripts show what was
//! thought of, this looks for what was not.

use super::group::Group;
use crate::replica::splitmix64;

struct Rng(u64);

impl Rng {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = splitmix64(self.0);
        self.0 % limit
    }
}

/// What may happen in a history beyond ticks, messages and appends.
#[derive(Clone, Copy)]
struct Troubles {
    purges: bool,
    crashes: bool,
}

fn run(seed: u64, members: &[&str], troubles: Troubles) {
    let mut chance = Rng(seed);
    let mut group = Group::with_seed(seed);
    group.begin(members);
    let ids: Vec<u64> = members.iter().filter_map(|word| word.parse().ok()).collect();
    for step in 0..600 {
        let id = ids[chance.below(ids.len() as u64) as usize];
        let other = ids[chance.below(ids.len() as u64) as usize];
        match chance.below(100) {
            0..35 => group.tick(id, 1),
            35..60 => deliver_some(&mut group, &mut chance),
            60..72 if group.leads(id) => group.append(id, &[&format!("{step}")]),
            72..76 => group.barrier(id),
            76..79 => group.hold(id),
            79..84 => group.synced(id),
            84..88 => group.release(id),
            88 => group.transfer(id, other),
            89 => group.cut(id, other),
            90..92 => group.heal(),
            92 if troubles.purges => group.purge(id, step),
            93 if troubles.crashes => group.crash(id),
            94 if troubles.crashes => disturb_disk(&mut group, &mut chance, id),
            95..98 => group.restart(id),
            98 => group.unreachable(id, other),
            99 => group.time_out(id),
            _ => {}
        }
        group.shown();
    }
    group.end_faults();
    group.live(120);
    let leader = *ids
        .iter()
        .find(|id| group.leads(**id))
        .unwrap_or_else(|| panic!("seed {seed}: no node leads in the end"));
    group.append(leader, &["the end"]);
    ids.iter().for_each(|id| group.barrier(*id));
    group.live(10);
    group.check_end();
}

fn disturb_disk(group: &mut Group, chance: &mut Rng, id: u64) {
    match chance.below(3) {
        0 => group.kill(id),
        1 => group.tear(id),
        _ => group.fill(id),
    }
}

/// Some of the messages on the way arrive: out of order, twice, never, or several in one turn of
/// their receiver.
fn deliver_some(group: &mut Group, chance: &mut Rng) {
    for _ in 0..1 + chance.below(6) {
        let count = group.on_the_way() as u64;
        if count == 0 {
            return;
        }
        let at = if chance.below(3) == 0 { chance.below(count) } else { 0 };
        let message = group.pick(at as usize).expect("counted");
        match chance.below(20) {
            0 => {}
            1 => {
                group.put_back(message.clone());
                group.arrive(message);
            }
            2..6 => {
                let to = message.to().get();
                let mut together = vec![message];
                together.extend(group.pick_all_to(to));
                group.arrive_together(together);
            }
            _ => group.arrive(message),
        }
    }
}

fn run_all(members: &[&str], troubles: Troubles) {
    let rounds =
        std::env::var("DLEDGER_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(40);
    for seed in 0..rounds {
        let outcome = std::panic::catch_unwind(|| run(seed, members, troubles));
        outcome.unwrap_or_else(|_| panic!("seed {seed} of {members:?}"));
    }
}

#[test]
fn three_voters_survive_a_bad_network_and_crashes() {
    run_all(&["1", "2", "3"], Troubles { purges: false, crashes: true });
}

#[test]
fn five_voters_survive_a_bad_network_crashes_and_purges() {
    run_all(&["1", "2", "3", "4", "5"], Troubles { purges: true, crashes: true });
}

#[test]
fn a_sole_voter_and_its_learners_agree_whatever_crashes() {
    run_all(&["1", "learners", "2", "3"], Troubles { purges: true, crashes: true });
}

#[test]
fn three_voters_that_count_unsynced_batches_survive_a_bad_network() {
    run_all(&["1", "2", "3", "unsynced"], Troubles { purges: true, crashes: false });
}
