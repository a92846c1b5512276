//! A leadership that was handed over can be used at once.

use std::sync::atomic::{AtomicBool, Ordering};

use dledger::DLedger;

use crate::group::{home, leader, three, three_over_tcp};

/// Hands the leadership round `nodes`, and gives each new leader an append as soon as it may have
/// one.
fn hand_round(nodes: &[DLedger], times: usize) {
    for _ in 0..times {
        let from = leader(nodes);
        let to = (from + 1) % nodes.len();
        nodes[from].transfer_leadership(to as u64 + 1).expect("it is handed over");
        nodes[to].append("at once").expect("the new leader takes appends");
    }
}

facts! {
    fn a_new_leader_takes_an_append_as_soon_as_the_transfer_has_returned() {
        let home = home();
        hand_round(&three(home.path(), |builder| builder), 100);
    }

    fn a_new_leader_over_tcp_takes_an_append_as_soon_as_the_transfer_has_returned() {
        let home = home();
        hand_round(&three_over_tcp(home.path()), 30);
    }

    fn a_new_leader_takes_an_append_at_once_while_others_append() {
        let home = home();
        let nodes = three(home.path(), |builder| builder);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for node in &nodes {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        // Where the node does not lead, or hands over just now, it is refused.
                        drop(node.append([7; 512]));
                    }
                });
            }
            hand_round(&nodes, 30);
            done.store(true, Ordering::Relaxed);
        });
    }

    fn a_transfer_to_who_leads_already_is_done_at_once() {
        let home = home();
        let nodes = three(home.path(), |builder| builder);
        let at = leader(&nodes);
        nodes[at].transfer_leadership(at as u64 + 1).expect("nothing is to be done");
        nodes[at].append("still here").expect("it still leads");
    }
}
