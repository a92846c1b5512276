//! Power that fails, again and again, under a process that writes: whatever was acknowledged is
//! there afterwards.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::actor::{Actor, acknowledged_before, moment};
use crate::log_subject::LogSubject;
use crate::node_subject::NodeSubject;
use crate::rng::Rng;
use crate::volume::Volume;

/// Something that loses power. It knows what it must find afterwards.
pub(crate) trait Subject {
    /// Gets ready for one more run in `dir`, and says what the other process plays.
    fn role(&mut self, dir: &Path, rng: &mut Rng) -> String;

    /// Opens what the cut left in `dir`, and compares it with what the process `said`. Returns how
    /// much had been acknowledged in this run.
    fn check(&mut self, dir: &Path, said: &[String]) -> Acknowledged;
}

/// What one run was told is safe.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Acknowledged {
    pub(crate) changes: u64,
    pub(crate) entries: u64,
}

#[test]
#[ignore = "needs root; see main.rs"]
fn ext4_loses_nothing_that_was_acknowledged() {
    cut_again_and_again(Volume::ext4(64 << 20));
}

#[test]
#[ignore = "needs root; see main.rs"]
fn xfs_loses_nothing_that_was_acknowledged() {
    cut_again_and_again(Volume::xfs());
}

fn cut_again_and_again(mut volume: Volume) {
    let cuts = std::env::var("DLEDGER_CUTS").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(200);
    let mut rng = Rng::new();
    let mut subjects: [(&str, Box<dyn Subject>); 2] =
        [("log", Box::default() as Box<LogSubject>), ("node", Box::<NodeSubject>::default())];
    let mut total = [Acknowledged::default(); 2];
    let began = Instant::now();
    for cut in 1..=cuts {
        let which = usize::from(rng.once_in(3));
        let (name, subject) = &mut subjects[which];
        let dir = volume.path().join(&**name);
        let said = work_until_the_cut(&mut volume, &subject.role(&dir, &mut rng), &mut rng);
        let acknowledged = subject.check(&dir, &said);
        total[which].changes += acknowledged.changes;
        total[which].entries += acknowledged.entries;
        if cut % 100 == 0 || cut == cuts {
            println!("{cut} cuts, {:.3} s each", began.elapsed().as_secs_f64() / cut as f64);
        }
    }
    let [log, node] = total;
    println!("log:  {} entries acknowledged in {} changes, 0 lost", log.entries, log.changes);
    println!("node: {} entries acknowledged, 0 lost", node.entries);
    assert!(
        log.changes + node.entries >= cuts,
        "hardly anything was acknowledged: this tried nothing"
    );
}

/// Lets another process work for a while, cuts the power, and gives back what the process said.
fn work_until_the_cut(volume: &mut Volume, role: &str, rng: &mut Rng) -> Vec<String> {
    let mut actor = Actor::start(role);
    if rng.once_in(6) {
        // While it opens its log, or makes it.
        thread::sleep(Duration::from_micros(rng.below(15_000)));
    } else {
        actor.wait_for("opened");
        thread::sleep(Duration::from_micros(rng.below(40_000)));
    }
    let early = actor.said().iter().find(|line| line.starts_with("failed"));
    assert_eq!(early, None, "it failed before the power did: {role}");
    let cut = moment();
    volume.cut_power();
    thread::sleep(Duration::from_micros(rng.below(2_000)));
    let said = actor.kill();
    volume.unmount();
    volume.mount();
    // A sync that was under way when the file system was shut down may return without an error, and
    // without having done anything. After a real power failure no process is left to see it.
    acknowledged_before(cut, said)
}
