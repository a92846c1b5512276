//! A reader for each node: it reads all that the node shows, life after life, and has it compared
//! with what others have shown.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::life::Life;
use crate::rng::Rng;
use crate::world::{World, nodes};

const PATIENCE: Duration = Duration::from_secs(30);
/// How long a reader that has read all waits.
const PAUSE: Duration = Duration::from_millis(20);
/// How much of what it has read a reader reads again when the node has started anew.
const AGAIN_MAX: u64 = 20_000;

/// Reads until the world is closing.
pub(crate) fn start(world: &Arc<World>, rng: &mut Rng) -> Vec<JoinHandle<()>> {
    let reader = |node| {
        let (world, mut rng) = (world.clone(), Rng::from_seed(rng.draw()));
        thread::spawn(move || {
            let (mut next, mut last_life) = (0, None);
            while !world.is_closing() {
                let Some(life) = world.life(node) else {
                    thread::sleep(PAUSE);
                    continue;
                };
                if last_life.replace(life.number) != Some(life.number) {
                    next = u64::saturating_sub(next, rng.below(AGAIN_MAX));
                }
                match read_some(&world, &life, next) {
                    Some(reached) if reached != next => next = reached,
                    _ => thread::sleep(PAUSE),
                }
            }
        })
    };
    nodes().map(reader).collect()
}

/// Reads on from index `from`. Returns where to read next; `None` if there is no answer.
pub(crate) fn read_some(world: &World, life: &Life, from: u64) -> Option<u64> {
    let answer = life.ask_and_wait(&format!("read {from}"), PATIENCE)?;
    if let Some(first) = answer.strip_prefix("purged ") {
        return Some(first.parse().expect("a number"));
    }
    let mut words = answer.split(' ').skip(1);
    let mut shown = Vec::new();
    while let (Some(payload), Some(stamp)) = (words.next(), words.next()) {
        shown.push((payload.parse().expect("a number"), stamp.parse().expect("a number")));
    }
    if let Err(difference) = world.book.show(life.node, from, &shown) {
        world.violated(difference);
    }
    Some(from + shown.len() as u64)
}
