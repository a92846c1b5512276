//! One simulated node: a disk, a clock, and one life after another of a real engine between them.
//!
//! A life is put together as the threads of a real node would find it; what the threads do (drive the engine, wait for syncs, run chores, tell
//! roles) is done here, each at its virtual time.

use std::collections::{BTreeSet, VecDeque};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;

use super::agenda::Micros;
use super::chance::Chance;
use super::medium::Medium;
use super::swarm::Swarm;
use super::watch::Watch;
use super::witness::{Fuse, Wire, Witnessed};
use crate::engine::{Backstage, Command, Engine, EngineSettings, Input, Now, SyncJob, inbox, rejoin_empty};
use crate::entry::NodeId;
use crate::primitives::channel::{Receiver, Sender, unbounded};
use crate::replica;
use crate::role::{Membership, Role, Status};
use crate::sequencer::{Limits, Sequencer};
use crate::shared::Shared;
use crate::storage::{Chore, Genesis, Identity, Recovered, Storage, StorageError};
use crate::transport::hello::{Acquaintances, Hello, Stranger, Way};
use crate::transport::{Inbox, Message, Seat, Spawner, Transport};

pub(super) const GROUP: &str = "simulated";
const CLUSTER: u64 = 7;
/// Where every wall clock begins: the first moment of 2024.
const EPOCH_MS: u64 = 1_704_067_200_000;

/// See the [module](self).
pub(super) struct Node {
    pub(super) number: usize,
    pub(super) medium: Medium,
    pub(super) clock: Clock,
    pub(super) life: Option<Life>,
    pub(super) lives: u64,
    /// While the process is stopped nothing happens to it.
    pub(super) asleep_until: Micros,
    /// Its syncs take so many times as long as usual.
    pub(super) slowness: u64,
    /// The power failed since the last life, or a sync did: what was not synced may be gone.
    pub(super) power_failed: bool,
    /// A call of the disk is going to fail, or has failed, and the node with it.
    pub(super) is_doomed: bool,
    /// Its disk was harmed since the last life.
    pub(super) is_harmed: bool,
    /// A call of its disk failed in the last life: it may have been the one that notes how far the log is durable.
    is_unwitnessed: bool,
    /// Its disk was lost, and what is in its place is not complete.
    pub(super) is_lost: bool,
    /// Its disk was put back to an older copy of itself, which says this; the node does not know.
    older: Option<Identity>,
    /// What its log said of itself when the disk was backed up.
    backup: Option<Identity>,
    /// What its log said of itself when it was last opened.
    identity: Option<Identity>,
}

/// A node's idea of time.
pub(super) struct Clock {
    /// How much faster than true time it runs, in millionths.
    drift: i64,
    /// Where the wall clock was put, in milliseconds from the epoch.
    pub(super) wall_ms: i64,
}

impl Clock {
    fn local(&self, real: Micros) -> Micros {
        (i128::from(real) * i128::from(1_000_000 + self.drift) / 1_000_000) as Micros
    }

    fn real(&self, local: Micros) -> Micros {
        (i128::from(local) * 1_000_000 / i128::from(1_000_000 + self.drift)) as Micros + 1
    }
}

/// One process.
pub(super) struct Life {
    pub(super) number: u64,
    pub(super) engine: Engine,
    pub(super) inputs: Sender<Input>,
    pub(super) shared: Arc<Shared>,
    pub(super) inbox: Inbox,
    syncs: Receiver<SyncJob>,
    chores: Receiver<Chore>,
    roles: Receiver<Status>,
    pub(super) outbox: Arc<Mutex<Vec<Message>>>,
    pub(super) fuse: Fuse,
    acquaintances: Acquaintances,
    /// Directory, incarnation and nonce of each peer whose connection is open.
    pub(super) connected: Vec<Option<(u128, u64, u64)>>,
    /// Which peers have said that this is an older copy.
    outlived_by: Vec<bool>,
    /// The newest ones of each peer that was met, on any connection.
    newest: Vec<Option<(u128, u64)>>,
    identity: Arc<Mutex<Identity>>,
    began: Micros,
    /// When the engine is due. Turns for other moments are void.
    pub(super) due: Micros,
    /// It ended in the middle of a turn.
    is_dying: bool,
    syncing: Option<SyncJob>,
    waiting_chores: VecDeque<Chore>,
    /// Up to which raft index the watch has seen what is shown here.
    seen: u64,
    seen_end: u64,
    pub(super) role: Role,
    /// How often it has said what it is to its group.
    standings: u64,
    pub(super) fault: Option<String>,
}

/// Why a life did not begin.
pub(super) enum NotOpen {
    /// The fuse burnt down.
    Died,
    /// The disk has no room for what is written at every opening.
    Full,
    Wrong(String),
}

impl From<String> for NotOpen {
    fn from(why: String) -> NotOpen {
        NotOpen::Wrong(why)
    }
}

/// How a life can end by itself.
pub(super) enum End {
    /// The fuse has burnt down.
    Crash,
    /// It was asked to.
    Stopped,
    /// It must not happen.
    Panic(String),
}

impl Node {
    pub(super) fn new(number: usize, seed: u64, swarm: &Swarm) -> Node {
        Node {
            number,
            medium: Medium::new(seed, swarm.segments_of(number)),
            clock: Clock { drift: swarm.drifts[number], wall_ms: 0 },
            life: None,
            lives: 0,
            asleep_until: 0,
            slowness: 1,
            power_failed: false,
            is_doomed: false,
            is_harmed: false,
            is_unwitnessed: false,
            is_lost: false,
            older: None,
            backup: None,
            identity: None,
        }
    }

    /// The next sync fails, whoever asks for it.
    pub(super) fn doom_next_sync(&mut self) {
        self.is_doomed = true;
        self.medium.fail_next_sync();
    }

    pub(super) fn doom_some_call(&mut self, chance: &mut Chance) {
        self.is_doomed |= self.medium.fail_some_call(chance);
    }

    /// Whether not all that it has promised can be read from its disk.
    pub(super) fn is_at_risk(&self, watch: &Watch) -> bool {
        self.is_harmed || self.is_lost || watch.books[self.number].is_damaged
    }

    /// Whether it may fail by itself.
    pub(super) fn may_fail(&self) -> bool {
        self.is_doomed && self.medium.has_failed()
    }

    pub(super) fn cut_power(&mut self, is_thorough: bool) {
        self.medium.cut_power(is_thorough);
        (self.power_failed, self.is_doomed) = (true, false);
    }

    pub(super) fn kill(&mut self) {
        self.is_unwitnessed |= self.medium.has_failed();
        // What tells damage from a torn write may be in the cache only, after a failed sync, and is written once more when the log is opened.
        if self.is_harmed {
            self.medium.kill_after_failure(false);
        } else {
            self.medium.kill();
        }
        self.is_doomed = false;
    }

    /// The process is gone, and a kernel stays that takes what a failed sync has lost for written.
    pub(super) fn kill_after_failure(&mut self, is_forgetful: bool) {
        self.medium.kill_after_failure(is_forgetful);
        (self.power_failed, self.is_doomed) = (true, false);
    }

    /// Does the oldest of the chores that wait.
    pub(super) fn do_chore(&mut self) -> Result<(), End> {
        let chore = self.life.as_mut().and_then(|life| life.waiting_chores.pop_front());
        self.medium.begin_work();
        let done = chore.map_or(Ok(()), survive);
        self.medium.end_work();
        done
    }

    fn id(&self) -> NodeId {
        NodeId::from(self.number as u64 + 1)
    }

    /// What the log of this node is made of.
    pub(super) fn genesis(&self, nodes: usize) -> Genesis {
        let membership = Membership::of_voters((1..=nodes as u64).map(NodeId::from));
        Genesis { group: GROUP.to_owned(), node: self.id(), cluster: CLUSTER, membership }
    }

    /// Changes something on the disk of a node that is down, so that its log says itself what it has lost by that, if there is such a thing.
    ///
    /// # Errors
    /// What was lost and is not said.
    pub(super) fn harm(&mut self, nodes: usize, watch: &Watch, chance: &mut Chance) -> Result<(), String> {
        let (book, genesis) = (&watch.books[self.number], self.genesis(nodes));
        let mut overlooked = None;
        // What bears witness to a durable batch may itself be gone with the power.
        let witnessed = if self.power_failed || self.is_unwitnessed { 0 } else { book.witnessed() };
        let is_noticed = |storage: &mut dyn Storage| match storage.open(&genesis) {
            Ok(recovered) if recovered.damage.is_empty() => {
                let last = recovered.last.raft_index;
                if last < witnessed {
                    overlooked.get_or_insert(format!("damage is cut off: the log ends at batch {last}, and was durable up to {witnessed}"));
                }
                false
            }
            Ok(recovered) => book.is_accounted_for(&recovered, &*storage.reader()),
            Err(_) => false,
        };
        self.is_harmed |= self.medium.harm(chance, is_noticed);
        overlooked.map_or(Ok(()), Err)
    }

    /// The disk is gone. In its place comes an empty one, or, if there is one, a backup of it that says that it is no more than that.
    ///
    /// # Errors
    /// If the backup cannot be opened.
    pub(super) fn lose(&mut self, nodes: usize, seed: u64, watch: &mut Watch) -> Result<(), String> {
        let is_backup = self.replace(seed, watch);
        watch.sightings.saw(if is_backup { "disks replaced by a backup" } else { "disks replaced by an empty one" });
        watch.gone.extend(self.identity.take().map(|identity| identity.directory));
        if is_backup {
            self.mark_incomplete(nodes).map_err(|error| format!("a backup cannot be opened: {error}"))?;
        }
        Ok(())
    }

    fn replace(&mut self, seed: u64, watch: &mut Watch) -> bool {
        watch.books[self.number].lose();
        (self.is_lost, self.power_failed, self.is_unwitnessed) = (true, false, false);
        self.medium.replace(seed)
    }

    fn mark_incomplete(&self, nodes: usize) -> Result<(), StorageError> {
        let mut storage = self.medium.storage(&Fuse::new());
        storage.open(&self.genesis(nodes))?;
        storage.set_complete(false)?;
        storage.begin_sync().wait()
    }

    /// Keeps what the disk of a node that is down holds, for a day on which it is lost.
    pub(super) fn back_up(&mut self) {
        self.backup = self.identity;
        self.medium.back_up();
    }

    /// What the backup says, if it is one of the directory that the node speaks from.
    pub(super) fn backup(&self) -> Option<Identity> {
        let directory = self.identity?.directory;
        self.backup.filter(|backup| backup.directory == directory && self.medium.is_backed_up())
    }

    /// Somebody copies the backup into place, and the log does not know that it is one.
    pub(super) fn put_back(&mut self, seed: u64, watch: &mut Watch) {
        self.older = self.backup.take().filter(|_| self.replace(seed, watch));
        watch.sightings.saw("disks put back to an older copy");
        self.identity = None;
    }

    /// Not all others can tell the node that its log is older. So whoever copied it says that.
    pub(super) fn own_up(&mut self, nodes: usize, seed: u64, watch: &mut Watch) {
        self.identity = None;
        watch.gone.extend(self.older.take().map(|identity| identity.directory));
        watch.sightings.saw("older copies that nobody could have told");
        // What finds no room for that is replaced.
        if self.mark_incomplete(nodes).is_err() {
            self.replace(seed, watch);
        }
    }

    /// The engine may have learned, in its last turn, that its log is older: then it speaks from
    /// another directory, and from the one of before nobody does any more.
    pub(super) fn follow_identity(&mut self, watch: &mut Watch) {
        let Some(life) = &mut self.life else { return };
        let now = *life.identity.lock();
        if !life.acquaintances.introduce(now) {
            return;
        }
        life.connected.fill(None);
        watch.gone.extend(self.identity.replace(now).map(|identity| identity.directory));
        watch.sightings.saw("older copies that were told so");
        watch.demand(self.older.take().is_some(), || format!("node {} disowns a log that is what it was", self.number + 1));
    }

    pub(super) fn is_older(&self) -> bool {
        self.older.is_some()
    }

    /// Begins a life: opens the log, compares it with the books, and puts an engine on it.
    pub(super) fn open(&mut self, now: Micros, seed: u64, fuse: Fuse, swarm: &Swarm, watch: &Arc<Mutex<Watch>>) -> Result<(), NotOpen> {
        self.lives += 1;
        survive(|| self.try_open(now, seed, fuse, swarm, watch)).unwrap_or_else(|end| match end {
            End::Crash => Err(NotOpen::Died),
            End::Stopped => Err(NotOpen::Wrong("it was stopped while it was opened".to_owned())),
            End::Panic(text) => Err(NotOpen::Wrong(format!("opening it panicked: {text}"))),
        })
    }

    fn try_open(&mut self, now: Micros, seed: u64, fuse: Fuse, swarm: &Swarm, watch: &Arc<Mutex<Watch>>) -> Result<(), NotOpen> {
        let id = self.id();
        let addresses: Vec<(NodeId, String)> = (1..=swarm.nodes as u64).map(|id| (NodeId::from(id), format!("host-{id}"))).collect();
        let genesis = self.genesis(swarm.nodes);
        let sync_failed = Arc::new(AtomicBool::new(false));
        let mut storage =
            Witnessed::new(self.number, self.medium.storage(&fuse), watch.clone(), fuse.clone(), sync_failed, self.power_failed);
        let not_open = |error: StorageError| match error {
            error if error.is_temporary() => NotOpen::Full,
            error => NotOpen::Wrong(format!("it cannot be opened: {error}")),
        };
        let mut recovered = storage.open(&genesis).map_err(not_open)?;
        if self.is_lost && self.older.is_none() {
            // A process that ends in there closes nothing: to close is to write, and it would end once more.
            let mut open = ManuallyDrop::new(storage);
            let outcome = rejoin_empty(&mut *open, &mut recovered);
            storage = ManuallyDrop::into_inner(open);
            outcome.map_err(not_open)?;
        }
        let reader = storage.reader();
        self.judge_opening(&recovered, seed, &genesis, watch)?;
        (self.is_harmed, self.is_unwitnessed) = (false, false);
        if recovered.damage.is_empty() {
            watch.lock().books[self.number].reopen(&recovered, &*reader, self.power_failed)?;
            self.power_failed = false;
        } else {
            let mut watch = watch.lock();
            watch.books[self.number].open_damaged(recovered.base.mark);
            watch.sightings.saw("damaged logs opened");
            watch.note(&[12, id.get()], || format!("node {id}: its log is damaged: {:?}", recovered.damage));
        }
        {
            let mut watch = watch.lock();
            watch.recovered_vote(self.number, recovered.hard_state);
            let (life, last, term) = (self.lives, recovered.last.raft_index, recovered.hard_state.term);
            watch.note(&[1, id.get(), life, last, term], || format!("node {id}: life {life} begins, term {term}, log up to batch {last}"));
        }
        let (inputs, engine_inputs) = unbounded();
        let limits = Limits { entry: swarm.entry_bytes, batch: 2 * swarm.entry_bytes, window: swarm.window_of(self.number) };
        let doorbell = inputs.clone();
        let sequencer = Sequencer::new(limits, move || drop(doorbell.send(Input::Appends)));
        let shared = Shared::new(GROUP, id, &addresses, "", sequencer, &recovered, reader).map_err(|error| error.to_string())?;
        let shared = Arc::new(shared);
        let inbox = inbox(shared.clone(), inputs.clone());
        let spawner = Spawner::new(|_, _| Err(std::io::ErrorKind::Unsupported.into()));
        let seat = Seat {
            cluster: CLUSTER,
            identity: recovered.identity,
            known: recovered.peers.clone(),
            ..Seat::new(id, GROUP, addresses.clone(), inbox.clone(), spawner)
        };
        let acquaintances = Acquaintances::new(&seat, self.lives);
        let (outbox, identity) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(recovered.identity)));
        let mut wire = Wire {
            node: self.number,
            outbox: outbox.clone(),
            watch: watch.clone(),
            fuse: fuse.clone(),
            stopped: false,
            identity: identity.clone(),
        };
        wire.start(seat).map_err(|error| error.to_string())?;
        let (sync_jobs, syncs) = unbounded();
        let (chore_jobs, chores) = unbounded();
        let (role_changes, roles) = unbounded();
        let backstage = Backstage { syncs: sync_jobs, chores: chore_jobs, roles: role_changes };
        let settings = engine_settings(id, seed, swarm, addresses);
        let engine = Engine::new(settings, engine_inputs, shared.clone(), backstage, &recovered, Box::new(storage), Box::new(wire))
            .map_err(|error| error.to_string())?;
        self.life = Some(Life {
            number: self.lives,
            engine,
            inputs,
            inbox,
            syncs,
            chores,
            roles,
            outbox,
            fuse,
            acquaintances,
            connected: vec![None; swarm.nodes],
            outlived_by: vec![false; swarm.nodes],
            newest: vec![None; swarm.nodes],
            identity,
            began: now,
            due: now,
            is_dying: false,
            syncing: None,
            waiting_chores: VecDeque::new(),
            seen: 0,
            seen_end: u64::MAX,
            role: Role::Follower,
            standings: 0,
            fault: None,
            shared,
        });
        Ok(())
    }

    /// Compares what a log says of itself at its opening with what it said before, and with what is on the disk.
    fn judge_opening(&mut self, recovered: &Recovered, seed: u64, genesis: &Genesis, watch: &Mutex<Watch>) -> Result<(), String> {
        let identity = recovered.identity;
        if let Some(before) = self.identity.replace(identity)
            && (identity.directory != before.directory || identity.incarnation <= before.incarnation)
        {
            return Err(format!("{before:?} came back as {identity:?}"));
        }
        let is_whole = recovered.damage.is_empty();
        if !is_whole && !self.is_harmed && !watch.lock().books[self.number].is_damaged {
            return Err(format!("nobody has harmed its log, which says that it is damaged: {:?}", recovered.damage));
        }
        // What is shown to Raft as durable must be. Looking costs another opening, so not every one is looked at.
        if is_whole && seed.is_multiple_of(8) && !self.medium.would_have(&recovered.last, genesis, true) {
            return Err(format!("its log ends with {:?}, which is not durable", recovered.last));
        }
        Ok(())
    }

    /// Drives the engine once. Says when it is due again, or how it ended.
    pub(super) fn turn(&mut self, now: Micros) -> Result<Micros, End> {
        let Some(life) = &mut self.life else { return Err(End::Stopped) };
        let local = self.clock.local(now - life.began);
        let wall = (EPOCH_MS + now / 1000) as i64 + self.clock.wall_ms;
        let moment = Now { elapsed: Duration::from_micros(local), unix_ms: wall.max(0) as u64 };
        let engine = &mut life.engine;
        self.medium.begin_work();
        let turned = survive(|| engine.turn(moment));
        self.medium.end_work();
        // Nothing else happens to it meanwhile.
        self.asleep_until = self.asleep_until.max(now + self.medium.time_to_read());
        if let Err(end) = turned {
            life.is_dying = true;
            return Err(end);
        }
        self.is_lost &= self.older.is_some() || !life.engine.is_complete();
        if life.engine.is_stopped() {
            return Err(End::Stopped);
        }
        let wake = life.engine.wake_at();
        if wake == Duration::MAX {
            return Ok(Micros::MAX);
        }
        Ok(life.began + self.clock.real(wake.as_micros() as Micros))
    }
}

impl Life {
    pub(super) fn hello_to(&self, peer: usize) -> Hello {
        let hello = self.acquaintances.hello_to(NodeId::from(peer as u64 + 1));
        Hello { identity: *self.identity.lock(), ..hello }
    }

    pub(super) fn command(&self, command: Command) {
        let _ = self.inputs.send(Input::Command(command));
    }

    pub(super) fn is_connected(&self, from: usize, hello: &Hello) -> bool {
        self.connected.get(from) == Some(&Some(life_of(hello)))
    }

    /// Whether what comes on a connection that opened with this hello is taken; the connection is opened if it was not.
    pub(super) fn meet(&mut self, from: usize, hello: &Hello) -> Result<(), String> {
        if self.is_connected(from, hello) {
            return Ok(());
        }
        // What the network makes up comes from anywhere.
        let way = if from < self.connected.len() { Way::Out } else { Way::In };
        self.acquaintances.admit(hello, way).map_err(|stranger| format!("{stranger:?}"))?;
        if let Some(connected) = self.connected.get_mut(from) {
            *connected = Some(life_of(hello));
        }
        if self.acquaintances.knows(hello) {
            self.inbox.met(hello.from, hello.identity.directory);
        }
        Ok(())
    }

    /// Whether a message that is taken comes from an earlier life of its sender than one that was taken before.
    pub(super) fn is_outlived(&mut self, from: usize, hello: &Hello, gone: &BTreeSet<u128>) -> bool {
        let (directory, incarnation, _) = life_of(hello);
        match self.newest[from].replace((directory, incarnation)) {
            Some((before, newest)) if before == directory => incarnation < newest,
            Some((before, _)) => gone.contains(&directory) && !gone.contains(&before),
            None => false,
        }
    }

    /// Whether this life has met a later opening of the directory that was `backup` once.
    pub(super) fn knows_later(&self, peer: usize, backup: &Identity) -> bool {
        let newest = self.newest[peer];
        newest.is_some_and(|(directory, newest)| directory == backup.directory && newest > backup.incarnation)
    }

    /// Whether this life has met the directory that `hello` comes from, in an opening of the same
    /// count or a later one.
    pub(super) fn knows_better(&self, from: usize, hello: &Hello) -> bool {
        let (directory, incarnation, _) = life_of(hello);
        self.knows_later(from, &Identity { directory, incarnation: incarnation.saturating_sub(1), complete: true })
    }

    /// What becomes of a connection on which this life says `hello`, as far as that is asked.
    pub(super) fn judge(&self, hello: &Hello) -> Result<(), Stranger> {
        self.acquaintances.check(hello, Way::Out)
    }

    /// A peer refuses this life, for it has met a later one. It is told so once.
    pub(super) fn be_outlived(&mut self, by: usize) {
        if !std::mem::replace(&mut self.outlived_by[by], true) {
            self.inbox.outlived(NodeId::from(by as u64 + 1));
        }
    }

    /// Takes the syncs that wait, if none is under way: the newest covers the others.
    pub(super) fn begin_sync(&mut self) -> bool {
        if self.syncing.is_some() {
            return false;
        }
        let jobs = self.syncs.try_iter();
        self.syncing = jobs.reduce(|older, newer| SyncJob { number: older.number.with(newer.number), ..newer });
        self.syncing.is_some()
    }

    /// The sync under way ends now.
    pub(super) fn end_sync(&mut self) -> Result<(), End> {
        if let Some(job) = self.syncing.take() {
            let outcome = survive(|| job.pending.wait())?;
            let _ = self.inputs.send(Input::Synced(job.number, outcome));
        }
        Ok(())
    }

    /// Takes the chores that were handed out. Returns how many are new.
    pub(super) fn take_chores(&mut self) -> usize {
        let before = self.waiting_chores.len();
        self.waiting_chores.extend(self.chores.try_iter());
        self.waiting_chores.len() - before
    }

    pub(super) fn chores_waiting(&self) -> usize {
        self.waiting_chores.len()
    }

    /// Looks at what the node shows and says after a turn.
    pub(super) fn look(&mut self, node: usize, watch: &mut Watch) {
        let (end, commit) = (self.shared.watermark.end(), self.engine.commit());
        // What a damaged node shows is looked at when it is whole again. What it gives to hosts is looked at there.
        if (end, commit) != (self.seen_end, self.seen) && !watch.books[node].is_damaged {
            self.seen = watch.show(node, &*self.shared.reader, end, commit, self.seen, self.is_dying);
            self.seen_end = end;
            watch.note(&[2, node as u64, end], || format!("node {}: shows {end} entries", node + 1));
        }
        for status in self.roles.try_iter() {
            let (role, term) = (status.role, status.term);
            watch.note(&[3, node as u64, role as u64, term], || {
                format!("node {}: {role} in term {term}, leader {:?}", node + 1, status.leader)
            });
            if role == Role::Leader {
                watch.sightings.saw("leaders announced");
                watch.announce_leader(node, term, status.committed.end);
            }
            self.role = role;
            self.standings += 1;
            self.fault = status.fault;
        }
        if self.shared.status.read(|status| status.full.is_some()) {
            watch.sightings.saw("turns spent stepped back from a full disk");
        }
        for refusal in self.engine.refusals.drain(..) {
            watch.sightings.saw(&format!("refused: {refusal}"));
        }
    }

    /// How often it has said what it is to its group. `None` if it died before it could.
    pub(super) fn standings(&self) -> Option<u64> {
        Some(self.standings).filter(|_| !self.is_dying)
    }
}

/// Which opening of which directory speaks.
fn life_of(hello: &Hello) -> (u128, u64, u64) {
    (hello.identity.directory, hello.identity.incarnation, hello.nonce)
}

fn engine_settings(node: NodeId, seed: u64, swarm: &Swarm, addresses: Vec<(NodeId, String)>) -> EngineSettings {
    let tick = swarm.heartbeat / 2;
    EngineSettings {
        replica: replica::Settings {
            group: GROUP.to_owned(),
            node,
            election_ticks: swarm.election.div_ceil(tick) as usize,
            heartbeat_ticks: 2,
            message_bytes: swarm.message_bytes,
            counts_unsynced: swarm.flush_interval.is_some(),
            catch_up_bytes: swarm.catch_up_bytes,
            seed,
        },
        tick: Duration::from_micros(tick),
        flush_interval: swarm.flush_interval.map(Duration::from_micros),
        append_timeout: Duration::from_micros(swarm.append_timeout),
        addresses,
    }
}

/// Does what may burn a fuse down.
fn survive<T>(act: impl FnOnce() -> T) -> Result<T, End> {
    catch_unwind(AssertUnwindSafe(act)).map_err(|panic| if Fuse::ended(&*panic) { End::Crash } else { End::Panic(text_of(&*panic)) })
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without text").to_owned()
}
