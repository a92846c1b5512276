//! The segmented log by itself, under power cuts: every kind of change, syncs and background tasks
//! on threads of their own.

use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel, sync_channel};
use std::thread;

use dledger::NodeId;
use dledger::storage::{
    BackgroundTask, Batch, HardState, LogPoint, LogReader, PendingSync, Recovered, SegmentOptions,
    SegmentedLog, Storage,
};

use crate::actor::{acknowledge, newest, say, stand_still};
use crate::log_script::{Change, LogState, Script, batch_after, owner};
use crate::power_cut::{Acknowledged, Subject};
use crate::rng::Rng;
use crate::volume::clear;

/// So many syncs may wait for their turn.
const SYNCS_WAITING: usize = 3;

/// A log with the smallest segments that there are.
pub(crate) fn log_in(dir: &Path) -> SegmentedLog {
    let mut options = SegmentOptions::default();
    options.segment_bytes = SegmentOptions::SEGMENT_BYTES_MIN;
    SegmentedLog::new(dir, options)
}

/// The other process: makes the changes of a script until it is killed.
pub(crate) fn play(words: &[&str]) {
    let number = |at: usize| words[at].parse::<u64>().expect("a number");
    let mut log = log_in(Path::new(words[0]));
    let opened = log
        .open(&owner())
        .and_then(|recovered| LogState::of(&recovered, &*log.reader(), number(2)));
    let state = match opened {
        Ok(state) => state,
        Err(error) => return fail(&error.to_string()),
    };
    say("opened");
    let mut script = Script::new(number(1), state);
    let mut rng = Rng::from_seed(!number(1));
    let (syncs, waiting) = sync_channel(SYNCS_WAITING);
    let (background_tasks, to_do) = channel::<BackgroundTask>();
    thread::spawn(move || wait_for_syncs(&waiting));
    thread::spawn(move || to_do.iter().for_each(|background_task| background_task()));
    for change in 1.. {
        say(&format!("begun {change}"));
        if let Err(error) = script.next().make(&mut log) {
            return fail(&error.to_string());
        }
        while let Some(background_task) = log.next_task() {
            background_tasks.send(background_task).expect("that thread only ends with this one");
        }
        if !rng.once_in(3) {
            syncs.send((change, log.begin_sync())).expect("that thread only ends with this one");
        }
    }
}

fn wait_for_syncs(syncs: &Receiver<(u64, Box<dyn PendingSync>)>) {
    for (change, sync) in syncs {
        match sync.wait() {
            Ok(()) => acknowledge(&format!("synced {change}")),
            Err(error) => fail(&error.to_string()),
        }
    }
}

fn fail(error: &str) {
    say(&format!("failed: {error}"));
    stand_still();
}

/// What is known of the log between two cuts.
pub(crate) struct LogSubject {
    seed: u64,
    state: LogState,
    /// Every batch that may be in the log, under the log point after it.
    known: HashMap<u64, Vec<(LogPoint, Batch)>>,
    peers: Vec<(NodeId, u128)>,
    incarnation: u64,
}

impl Default for LogSubject {
    fn default() -> LogSubject {
        LogSubject {
            seed: 0,
            state: LogState::fresh(),
            known: HashMap::new(),
            peers: Vec::new(),
            incarnation: 0,
        }
    }
}

/// What the log may be after a crash: as it was after the newest sync, or any later step.
struct Outcomes {
    lasts: Vec<LogPoint>,
    bases: Vec<LogPoint>,
    votes: Vec<(u64, Option<NodeId>)>,
    peers: Vec<Vec<(NodeId, u128)>>,
    changes: u64,
    entries: u64,
}

impl Subject for LogSubject {
    fn role(&mut self, dir: &Path, rng: &mut Rng) -> String {
        if rng.once_in(12) {
            clear(dir);
            *self = LogSubject::default();
        }
        self.seed = rng.draw();
        format!("log {} {} {}", dir.display(), self.seed, self.state.hard_state.commit)
    }

    fn check(&mut self, dir: &Path, said: &[String]) -> Acknowledged {
        let outcomes =
            self.outcomes(newest(said, "begun").unwrap_or(0), newest(said, "synced").unwrap_or(0));
        let mut log = log_in(dir);
        let recovered =
            log.open(&owner()).unwrap_or_else(|error| panic!("{error}; seed {}", self.seed));
        self.compare(&outcomes, &recovered, &*log.reader());
        self.go_on(&mut log, &recovered);
        Acknowledged { changes: outcomes.changes, entries: outcomes.entries }
    }
}

impl LogSubject {
    /// Follows the script through `begun` changes, of which the first `synced` are safe.
    fn outcomes(&mut self, begun: u64, synced: u64) -> Outcomes {
        let state = self.state.hard_state;
        let mut outcomes = Outcomes {
            lasts: vec![self.state.last()],
            bases: self.state.points.clone(),
            votes: vec![(state.term, state.vote)],
            peers: vec![self.peers.clone()],
            changes: synced,
            entries: 0,
        };
        let floor = self.state.points[0].raft_index;
        let mut purged = floor;
        let mut script = Script::new(self.seed, self.state.clone());
        let mut entries = 0;
        for number in 1..=begun {
            match script.next() {
                Change::Append(batches, _) => entries += self.note_batches(&mut outcomes, &batches),
                Change::Save(state) => outcomes.votes.push((state.term, state.vote)),
                Change::Remember(peer, directory) => {
                    let mut peers = outcomes.peers.last().expect("never empty").clone();
                    peers.retain(|(other, _)| *other != peer);
                    peers.push((peer, directory));
                    peers.sort_unstable();
                    outcomes.peers.push(peers);
                }
                Change::Purge(_, commit) => purged = purged.max(commit),
                Change::Reset(base) => {
                    purged = purged.max(base.point.raft_index);
                    outcomes.lasts.push(base.point);
                    outcomes.bases.push(base.point);
                }
            }
            if number == synced {
                outcomes.settle();
                outcomes.entries = entries;
            }
        }
        outcomes.bases.retain(|point| (floor..=purged).contains(&point.raft_index));
        outcomes
    }

    fn note_batches(&mut self, outcomes: &mut Outcomes, batches: &[Batch]) -> u64 {
        // The log point in front may be any of those that were there: a cut goes back.
        let first = &batches[0];
        let before = outcomes.bases.iter().rev().find(|point| first.point_after(point).is_ok());
        let mut point = *before.expect("the script continues a log point that was there");
        for batch in batches {
            point = batch.point_after(&point).expect("the script continues its own batches");
            self.known.entry(point.raft_index).or_default().push((point, batch.clone()));
            outcomes.lasts.push(point);
            outcomes.bases.push(point);
        }
        batches.iter().map(|batch| u64::from(batch.count())).sum()
    }

    fn compare(&mut self, outcomes: &Outcomes, recovered: &Recovered, reader: &dyn LogReader) {
        let seed = self.seed;
        let Recovered { base, last, hard_state, .. } = recovered;
        assert!(
            outcomes.lasts.contains(last),
            "the log ends at {last:?}, not at one of {:#?}; seed {seed}",
            outcomes.lasts
        );
        assert!(
            outcomes.bases.contains(&base.point),
            "the log begins at {:?}, not at one of {:#?}; seed {seed}",
            base.point,
            outcomes.bases
        );
        let vote = (hard_state.term, hard_state.vote);
        assert!(
            outcomes.votes.contains(&vote),
            "term and vote are {vote:?}, not one of {:?}; seed {seed}",
            outcomes.votes
        );
        assert!(
            outcomes.peers.contains(&recovered.peers),
            "peers are {:?}, of {:?}; seed {seed}",
            recovered.peers,
            outcomes.peers
        );
        assert!(
            recovered.identity.incarnation > self.incarnation,
            "incarnations only grow; seed {seed}"
        );
        assert!(
            (base.point.raft_index..=last.raft_index).contains(&hard_state.commit),
            "{recovered:?}; seed {seed}"
        );
        self.compare_batches(recovered, reader);
    }

    /// Reads the whole log: each batch as it was appended, each behind the one that it followed.
    fn compare_batches(&mut self, recovered: &Recovered, reader: &dyn LogReader) {
        let (seed, mut point) = (self.seed, recovered.base.point);
        let mut here = HashMap::new();
        for raft_index in point.raft_index + 1..=recovered.last.raft_index {
            let batch = reader
                .batches(raft_index, raft_index + 1, 0)
                .unwrap_or_else(|error| panic!("{error}; seed {seed}"))
                .remove(0);
            batch
                .verify()
                .unwrap_or_else(|error| panic!("batch {raft_index}: {error}; seed {seed}"));
            point = batch
                .point_after(&point)
                .unwrap_or_else(|error| panic!("batch {raft_index}: {error}; seed {seed}"));
            let known = self
                .known
                .remove(&raft_index)
                .unwrap_or_default()
                .into_iter()
                .find(|(known, _)| *known == point);
            let (_, appended) = known.unwrap_or_else(|| {
                panic!("batch {raft_index} was never appended as it is; seed {seed}")
            });
            assert!(appended.body() == batch.body(), "batch {raft_index} has changed; seed {seed}");
            here.insert(raft_index, vec![(point, appended)]);
        }
        assert_eq!(point, recovered.last, "seed {seed}");
        self.known = here;
    }

    /// Appends once more, and takes what is there now for the beginning of the next run.
    fn go_on(&mut self, log: &mut SegmentedLog, recovered: &Recovered) {
        let (state, last) = (recovered.hard_state, recovered.last);
        // A batch may have come through without the term that it was written in.
        let newer = HardState::new(last.term, None, state.commit);
        let state = if state.term < last.term { newer } else { state };
        let batch = batch_after(&last, state.term, &[b"after the cut".to_vec()]);
        let last = batch.point_after(&last).expect("it was made to continue the log");
        let gone_on = log
            .save_hard_state(state)
            .and_then(|()| log.append(std::slice::from_ref(&batch), state.commit));
        gone_on.and_then(|()| log.begin_sync().wait()).expect("a log goes on after a power cut");
        while let Some(background_task) = log.next_task() {
            background_task();
        }
        self.known.insert(last.raft_index, vec![(last, batch)]);
        let mut now = recovered.clone();
        (now.last, now.hard_state) = (last, state);
        self.state =
            LogState::of(&now, &*log.reader(), state.commit).expect("what was just compared");
        (self.peers, self.incarnation) = (recovered.peers.clone(), recovered.identity.incarnation);
    }
}

impl Outcomes {
    /// All changes so far are safe: of what could be, only the newest is left.
    fn settle(&mut self) {
        self.lasts.drain(..self.lasts.len() - 1);
        self.votes.drain(..self.votes.len() - 1);
        self.peers.drain(..self.peers.len() - 1);
    }
}
