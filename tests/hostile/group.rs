//! The group under attack: nodes 1, 2 and 3 of five run and hold entries; 4 is hostile; 5 is down.
//!
//! A majority of three has at least two honest nodes, so the hostile one cannot elect a second
//! leader or commit by itself.

use std::collections::HashMap;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dledger::transport::{TcpTransport, Transport};
use dledger::{DLedger, Role};

use crate::wire::{ACCEPTANCE, ANYWHERE, HELLO, Hello, Line, TIMEOUT};

pub(crate) const LIAR: u64 = 4;

pub(crate) struct Group {
    nodes: Mutex<Vec<DLedger>>,
    pub(crate) addresses: Vec<String>,
    /// The hellos of the nodes to the hostile one.
    overheard: Arc<Mutex<HashMap<u64, Hello>>>,
    honest: Mutex<Vec<(u64, Vec<u8>)>>,
    appended: Mutex<u64>,
    home: tempfile::TempDir,
}

impl Group {
    pub(crate) fn open() -> Group {
        Group::over(5, |_| Box::new(TcpTransport::new()))
    }

    /// A group of `size` members.
    pub(crate) fn over(size: usize, transport: impl Fn(u64) -> Box<dyn Transport>) -> Group {
        let home = tempfile::tempdir().expect("there is room for temporary files");
        let mut listeners: Vec<TcpListener> =
            (0..size).map(|_| TcpListener::bind(ANYWHERE).expect("a free port")).collect();
        let addresses: Vec<String> = listeners
            .iter()
            .map(|listener| listener.local_addr().expect("it is bound").to_string())
            .collect();
        let overheard = Arc::new(Mutex::new(HashMap::new()));
        if size as u64 >= LIAR {
            overhear(listeners.swap_remove(LIAR as usize - 1), overheard.clone());
        }
        drop(listeners);
        let group = Group {
            nodes: Mutex::default(),
            addresses,
            overheard,
            honest: Mutex::default(),
            appended: Mutex::new(0),
            home,
        };
        let nodes = (1..=3).map(|id| group.start(id, transport(id))).collect();
        *group.nodes.lock().expect("no test thread panics with it") = nodes;
        group
    }

    fn start(&self, id: u64, transport: Box<dyn Transport>) -> DLedger {
        let ms = Duration::from_millis;
        let builder = DLedger::builder(id)
            .dir(self.home.path().join(id.to_string()))
            .group("besieged")
            .segment_bytes(1 << 20);
        let builder = builder
            .peers((1..).zip(self.addresses.iter().cloned()))
            .heartbeat_interval(ms(20))
            .election_timeout(ms(1000));
        builder.transport(Boxed(transport)).open().expect("a node opens")
    }

    /// Lets every node lead once, so that each has connected to each.
    pub(crate) fn introduce(&self) {
        for id in 1..=3 {
            until("a node to lead", || {
                let leader = self.leader();
                if leader != id {
                    let _ = self.node(leader).transfer_leadership(id);
                }
                (leader == id).then_some(())
            });
            self.check();
        }
    }

    /// Closes a node that does not lead, and opens it again over TCP.
    pub(crate) fn reopen_follower(&self) {
        let id = self.leader() % 3 + 1;
        self.node(id).shutdown().expect("a sound node closes in good order");
        self.nodes.lock().expect("no test thread panics with it")[id as usize - 1] =
            self.start(id, Box::new(TcpTransport::new()));
    }

    fn all(&self) -> Vec<DLedger> {
        self.nodes.lock().expect("no test thread panics with it").clone()
    }

    pub(crate) fn address(&self, id: u64) -> &str {
        &self.addresses[id as usize - 1]
    }

    pub(crate) fn node(&self, id: u64) -> DLedger {
        self.all()[id as usize - 1].clone()
    }

    /// The leader, as soon as there is one.
    pub(crate) fn leader(&self) -> u64 {
        until("a leader", || {
            self.all()
                .iter()
                .map(DLedger::status)
                .find(|status| status.role == Role::Leader)
                .map(|status| status.id.get())
        })
    }

    /// Appends a unique payload at the leader, and retries until it is acknowledged.
    pub(crate) fn append(&self) {
        until("an append to be acknowledged", || {
            let mut appended = self.appended.lock().expect("no test thread panics with it");
            *appended += 1;
            let payload =
                format!("honest entry {appended}").repeat(*appended as usize % 30).into_bytes();
            drop(appended);
            let index = self.node(self.leader()).append(&payload).ok()?;
            self.honest.lock().expect("no test thread panics with it").push((index, payload));
            Some(())
        });
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.honest.lock().expect("no test thread panics with it").len()
    }

    /// Checks that every acknowledged entry is at its place on every node, and that no node has
    /// stopped.
    #[track_caller]
    pub(crate) fn check(&self) {
        self.append();
        let honest = self.honest.lock().expect("no test thread panics with it");
        for node in &self.all() {
            until("a node to know all commits", || {
                (node.committed().end > honest.last()?.0).then_some(())
            });
            for (index, payload) in honest.iter() {
                let entry = node
                    .get(*index)
                    .expect("it can be read")
                    .expect("what was acknowledged is there");
                assert!(entry[..] == payload[..], "entry {index} has changed");
            }
            let status = node.status();
            assert!(status.fault.is_none(), "{status:?}");
        }
    }

    /// The last hello of node `id`.
    pub(crate) fn hello_of(&self, id: u64) -> Hello {
        until("a node to introduce itself", || {
            self.overheard.lock().expect("no test thread panics with it").get(&id).cloned()
        })
    }

    /// The hello of the hostile member to node `id`.
    pub(crate) fn own_hello(&self, id: u64) -> Hello {
        own_hello(&self.hello_of(id))
    }

    /// A connection on which the hostile member has completed the handshake.
    pub(crate) fn admitted(&self, id: u64) -> Line {
        until("the liar to be let in", || {
            let mut line = Line::to(self.address(id), Ipv4Addr::LOCALHOST).ok()?;
            line.send(&self.own_hello(id).opening()).ok()?;
            line.hear().filter(|(kind, _)| *kind == HELLO)?;
            line.hear().filter(|(kind, _)| *kind == ACCEPTANCE).map(|_| line)
        })
    }
}

fn own_hello(theirs: &Hello) -> Hello {
    Hello {
        from: LIAR,
        to: theirs.from,
        directory: 44,
        incarnation: 4,
        nonce: 444,
        ..theirs.clone()
    }
}

/// Listens at the address of the hostile member: records the hellos of the nodes, answers them, and
/// discards all messages.
fn overhear(listener: TcpListener, overheard: Arc<Mutex<HashMap<u64, Hello>>>) {
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let overheard = overheard.clone();
            thread::spawn(move || {
                let mut line = Line(stream);
                let Some(hello) = line.answer(|hello| Some(own_hello(hello))) else { return };
                overheard.lock().expect("no test thread panics with it").insert(hello.from, hello);
                let _ = std::io::copy(&mut line.0, &mut std::io::sink());
            });
        }
    });
}

/// An honest client beside an attack.
pub(crate) struct Client(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Client {
    pub(crate) fn of(group: &Arc<Group>) -> Client {
        let (stop, group) = (Arc::new(AtomicBool::new(false)), group.clone());
        let stopped = stop.clone();
        let work = move || {
            while !stopped.load(Ordering::Relaxed) {
                group.append();
                thread::sleep(Duration::from_millis(2));
            }
        };
        Client(stop, Some(thread::spawn(work)))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let outcome = self.1.take().map(JoinHandle::join);
        if !thread::panicking() {
            outcome.expect("it was started").expect("the honest client was served");
        }
    }
}

/// Any transport, as a builder takes it.
struct Boxed(Box<dyn Transport>);

impl Transport for Boxed {
    fn start(&mut self, context: dledger::transport::TransportContext) -> std::io::Result<()> {
        self.0.start(context)
    }

    fn send(&mut self, messages: &mut Vec<dledger::transport::Message>) {
        self.0.send(messages);
    }

    fn set_group_uid(&mut self, uid: u128) {
        self.0.set_group_uid(uid);
    }

    fn stop(&mut self) {
        self.0.stop();
    }
}

/// Waits until `probe` returns a value.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {TIMEOUT:?} in vain for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}
