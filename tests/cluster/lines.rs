//! What an operator reads in the log.

use std::sync::Once;

use dledger::{NodeId, Role};
use parking_lot::Mutex;

use crate::cluster_of::{Disk, cluster_of, until};

/// What the nodes of this process logged at INFO and above.
struct Lines(Mutex<Vec<String>>);

static LINES: Lines = Lines(Mutex::new(Vec::new()));

impl log::Log for Lines {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Info && metadata.target().starts_with("dledger")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.lock().push(format!("{} {}", record.level(), record.args()));
        }
    }

    fn flush(&self) {}
}

/// Takes note of what is logged from now on.
pub(crate) fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&LINES).expect("there is no other logger in this process");
        log::set_max_level(log::LevelFilter::Info);
    });
}

/// The lines so far that have this in them.
pub(crate) fn of(what: &str) -> Vec<String> {
    LINES.0.lock().iter().filter(|line| line.contains(what)).cloned().collect()
}

#[test]
fn every_change_in_the_life_of_a_node_is_a_line_with_its_group_and_number() {
    listen();
    let plan = cluster_of(3).patient().on(Disk::Directory);
    let cluster = plan.with(|builder| builder.group("lines").segment_bytes(64 << 10)).open();
    let first = cluster.leader();
    for _ in 0..50 {
        cluster.append(&[7; 8 << 10]);
    }
    let kept = cluster.node(first).purge(40).unwrap();
    let second = cluster.others(first)[0];
    let hand_over = || cluster.node(first).transfer_leadership(second).ok();
    until("the leadership to be handed over", hand_over);
    until("it to follow", || {
        let status = cluster.node(first).status();
        (status.role == Role::Follower && status.leader == Some(NodeId::from(second))).then_some(())
    });
    let term = cluster.node(first).status().term;
    cluster.stop(first);

    let lines = of(&format!("group lines node {first}: "));
    let mut rest = lines.iter();
    for expected in [
        "opened in term 1, with entries 0 to below 0, committed to below 0".to_owned(),
        "asks for votes in term ".to_owned(),
        "leads in term ".to_owned(),
        format!("purged: its log begins at entry {kept}, and did at 0"),
        format!("hands the leadership to node {second}"),
        "leads no longer: ".to_owned(),
        format!("follows node {second} in term {term}"),
        "stopped".to_owned(),
    ] {
        let expected = format!("INFO group lines node {first}: {expected}");
        assert!(rest.any(|line| line.starts_with(&expected)), "{expected}: {lines:#?}");
    }
    let strays: Vec<_> = of("").into_iter().filter(|line| !line.contains(" group ")).collect();
    assert!(strays.is_empty(), "lines of no node: {strays:#?}");
}

#[test]
fn a_follower_that_falls_behind_catches_up_or_is_moved_forward_is_told_of_at_its_leader() {
    listen();
    let plan = cluster_of(3).patient().on(Disk::Directory);
    let cluster = plan.with(|builder| builder.group("laggards").segment_bytes(64 << 10)).open();
    let leader = cluster.leader();
    let late = cluster.others(leader)[0];
    cluster.append(b"all have this");
    cluster.agree();
    let told = |node: u64, what: &str| {
        let line = format!("INFO group laggards node {node}: {what}");
        until(&line, || of(&line).pop())
    };
    cluster.isolate(late);
    for _ in 0..50 {
        cluster.append(&[7; 8 << 10]);
    }
    let lags = told(leader, &format!("node {late} lags: "));
    assert!(
        lags.contains("it has what lies below entry 1, and lacks ") && lags.ends_with(" bytes)"),
        "{lags}"
    );
    cluster.heal();
    told(leader, &format!("node {late} has caught up"));

    cluster.stop(late);
    for _ in 0..50 {
        cluster.append(&[7; 8 << 10]);
    }
    let kept = cluster.node(leader).purge(90).unwrap();
    cluster.start(late);
    let moves = format!(
        "moves node {late} forward: what it lacks was purged here, and its log begins anew at \
         entry {kept}"
    );
    told(leader, &moves);
    told(
        late,
        &format!(
            "moved forward: its log begins anew at entry {kept}, the first that its leader keeps"
        ),
    );
}
