//! Messages over TCP: one connection to every peer, and one from every peer.
//!
//! Each direction of a pair of nodes has a connection of its own, opened by the node that sends. A thread for each peer connects,
//! writes whatever has queued up, and connects anew when the connection breaks ([`link`]). A thread accepts, and
//! each connection that was accepted has a thread that reads ([`listener`]). Nothing polls: an idle transport sleeps, but for two
//! looks a second at each connection ([`outbound`]).
//!
//! A connection opens with a hello in both directions; who is turned away is told why, and so are the log and the node's status
//! ([`refusals`]). There is no encryption and no proof of identity here: the network between the nodes must be trusted.
//!
//! # Slow connections
//!
//! Heartbeats, votes and acknowledgements go before batches, and a batch of more than 64 KiB goes in pieces of that size. So none of
//! them waits behind more than 256 KiB of batches: a round of 128 KiB at most that is being written, 64 KiB that the operating system
//! has taken and not sent, and what it takes at once beyond that. A connection that is slow is kept as long as anything arrives; one
//! on which nothing is heard for two seconds is given up, as is an attempt to connect after one. So nodes whose network has come back
//! are connected within two seconds.
//!
//! # Two processes that speak for one node
//!
//! A directory that was copied, and started twice, is two processes of one node. Whoever comes second is refused while the first one's
//! connection is open and answers, whatever its incarnation says: it is asked, and has two seconds. The connection of a process that
//! has ended is closed by its operating system at once, so its successor does not wait; after a loss of power it waits until those two
//! seconds are over. If nobody can reach the first one any more, the second is let in: nothing tells it from a restart.
//!
//! # What it costs to be attacked
//!
//! Strangers are bounded by the [`lobby`]: less than 1 MiB and 128 threads, whatever their number. Each member of the group has one
//! connection in: 64 KiB of buffer, and one message of at most [`Message::BYTES_MAX`], for which room is made as it arrives, never more
//! than as much again, or 2 MiB; and 14 MiB more while it is taken apart. It may keep that as long as its connection lasts. What waits for
//! the node is at most 128 MiB for all members together, counted as it lies in memory; what waits to go out is at most 64 MiB of batches,
//! or one that is larger, and 8,192 small messages for each.

mod address;
mod link;
mod listener;
mod lobby;
mod outbound;
mod refusals;
mod resolver;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;

use self::address::check_address;
use self::link::Link;
use self::listener::{Doorbell, Guest, Listener};
use self::lobby::Lobby;
use self::refusals::{By, Refusals};
use self::resolver::{Lookup, system_lookup};
use super::frame::{Frame, FrameReader, HELLO_BYTES_MAX};
use super::hello::{Acquaintances, GROUP_BYTES_MAX, Hello, MEMBERS_MAX, Rejection, Stranger, Way, claim};
use super::{Identity, Inbox, Message, Seat, Spawner, Transport};
use crate::entry::NodeId;
use crate::owner::owner;
use crate::primitives::atomic::{AtomicU64, Ordering};
use crate::primitives::{Condvar, Instant, Mutex};

/// Bytes that may wait for one peer, and how many messages. Beyond that, messages to it are dropped.
const QUEUE_BYTES_MAX: usize = 64 << 20;
const QUEUE_MESSAGES_MAX: usize = 8192;

/// A frame of a stranger is refused by its length before it is read. Every hello that is said fits.
const _: () = assert!(super::hello::BYTES_MAX <= HELLO_BYTES_MAX);

/// How long a connection may take to be made. The operating system tries again after a second, so an
/// attempt that was begun while the network was cut is worth no more than that.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the two hellos may take.
const HELLO_TIMEOUT: Duration = if cfg!(test) { Duration::from_secs(1) } else { Duration::from_secs(5) };
/// How long another process of a node may take to answer before it is taken to be gone.
const RIVAL_TIMEOUT: Duration = if cfg!(test) { Duration::from_millis(700) } else { Duration::from_secs(2) };
/// How often it is looked whether the peer is there that this node is connected to. (Where every
/// schedule is tried, never.)
const LOOK_INTERVAL: Duration = Duration::from_millis(if cfg!(all(test, loom)) { 3_600_000 } else { 500 });
/// How long a peer that was let in may stay silent: it says something twice a second.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(5);
/// After how long without any acknowledgement the operating system gives a connection up. Behind our
/// own rule, which it backs; it also ends one whose other end has taken nothing for that long.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);
/// How much the operating system may hold that it has not sent.
const UNSENT_BYTES_MAX: u32 = 64 << 10;
/// Least time between two complaints of the same kind.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// The transport of a group whose nodes are processes of their own.
///
/// A node listens on its own address of the [`Seat`]; host names are resolved whenever a connection is made, but not more than once in
/// five seconds. What waits for one peer is
/// bounded at 64 MiB and 8,192 messages; what does not fit is dropped, and so is what waits when a connection breaks or cannot be made.
/// Broken connections are made anew after 50 ms, then after longer pauses of up to 500 ms, or at once when the peer itself connects.
///
/// A connection whose packets vanish is given up after two seconds, so a group whose network is whole again has a leader within three
/// election timeouts, or five seconds if that is more, however long it was cut. Heartbeats and votes never wait behind more than
/// 256 KiB of batches, so a link that carries those well within an election timeout carries batches of any size.
///
/// If two processes speak for one node, from copies of one directory, the one that comes second is refused as long as the first one's
/// connection is open and answers.
pub struct TcpTransport {
    listen: Option<String>,
    lookup: Lookup,
    station: Option<Arc<Station>>,
    /// Emptied with every batch; kept for its room.
    lost: Vec<NodeId>,
}

impl TcpTransport {
    /// Whether this transport can reach such an address of a peer, or listen at such one of its own.
    pub(crate) fn check_address(address: &str, is_own: bool) -> Result<(), String> {
        check_address(address, is_own)
    }

    /// A transport that listens on this node's address of the group.
    pub fn new() -> TcpTransport {
        TcpTransport::made(None, system_lookup())
    }

    /// A transport that listens on `address` instead, where the peers know this node by an address that is not its own: behind a
    /// translation of addresses, or to listen on all interfaces (`"0.0.0.0:7001"`).
    pub fn listening_on(address: impl Into<String>) -> TcpTransport {
        TcpTransport::made(Some(address.into()), system_lookup())
    }

    fn made(listen: Option<String>, lookup: Lookup) -> TcpTransport {
        TcpTransport { listen, lookup, station: None, lost: Vec::new() }
    }
}

impl Default for TcpTransport {
    fn default() -> TcpTransport {
        TcpTransport::new()
    }
}

impl Transport for TcpTransport {
    fn start(&mut self, seat: Seat) -> io::Result<()> {
        if self.station.is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the transport was started already"));
        }
        if seat.group.len() > GROUP_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the name of a group has at most 63 bytes"));
        }
        seat.check_advertised()?;
        if seat.addresses.len() > MEMBERS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a group has at most 63 members"));
        }
        for (peer, address) in seat.addresses.iter().filter(|(node, _)| *node != seat.node) {
            let told = |why| io::Error::new(io::ErrorKind::InvalidInput, format!("the address of node {peer}: {why}"));
            check_address(address, false).map_err(told)?;
        }
        let own = seat.addresses.iter().find(|(node, _)| *node == seat.node).map(|(_, address)| address.clone());
        let address = self.listen.clone().or(own).unwrap_or_default();
        let listener = Listener::bind(&address)
            .map_err(|error| io::Error::new(error.kind(), format!("node {} could not listen on {address:?}: {error}", seat.node)))?;
        if listener.address().is_ok_and(|listens| address::is_reached_from_here_only(&address, listens)) {
            log::warn!(
                "{}listens on {address:?}, which stands here for an address that only this \
                 machine reaches: peers \
                 elsewhere cannot connect. Correct what the name stands for, or listen elsewhere (TcpTransport::listening_on)",
                owner()
            );
        }
        let station = Arc::new(Station::new(&seat, &self.lookup, listener.doorbell()?));
        self.station = Some(station.clone());
        self.spawn_threads(&station, listener).inspect_err(|_| station.stop())
    }

    fn send(&mut self, messages: &mut Vec<Message>) {
        let Some(station) = &self.station else { return messages.clear() };
        for message in messages.drain(..) {
            let to = message.to();
            if !station.send(message) && !self.lost.contains(&to) {
                self.lost.push(to);
            }
        }
        for peer in self.lost.drain(..) {
            station.inbox.unreachable(peer);
        }
    }

    fn introduce(&mut self, identity: Identity) {
        if let Some(station) = &self.station {
            station.introduce(identity);
        }
    }

    fn stop(&mut self) {
        if let Some(station) = &self.station {
            station.stop();
        }
    }
}

impl TcpTransport {
    fn spawn_threads(&self, station: &Arc<Station>, listener: Listener) -> io::Result<()> {
        for at in 0..station.links.len() {
            let (name, shared) = (format!("to-{}", station.links[at].peer), station.clone());
            station.spawner.spawn(name, move || shared.links[at].run(&shared))?;
        }
        let shared = station.clone();
        station.spawner.spawn("accept", move || listener.run(&shared))
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for TcpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node = self.station.as_ref().map(|station| station.node);
        f.debug_struct("TcpTransport").field("listen", &self.listen).field("node", &node).finish()
    }
}

/// What all threads of one transport share.
struct Station {
    node: NodeId,
    message_bytes_max: usize,
    inbox: Inbox,
    spawner: Spawner,
    acquaintances: Mutex<Acquaintances>,
    links: Vec<Link>,
    /// The connections that were accepted and are still open.
    guests: Mutex<Vec<Arc<Guest>>>,
    /// Those of them that have not been admitted yet.
    lobby: Lobby,
    refusals: Refusals,
    /// The number of the next ping that asks whether somebody is there.
    next_ping: AtomicU64,
    doorbell: Doorbell,
    stopped: Mutex<bool>,
    stopping: Condvar,
    /// One for every reason to turn somebody away, and one for what is not even a hello.
    complaints: [Throttle; Stranger::ALL.len() + 1],
    oversize: Throttle,
}

impl Station {
    fn new(seat: &Seat, lookup: &Lookup, doorbell: Doorbell) -> Station {
        let peers = seat.addresses.iter().filter(|(node, _)| *node != seat.node);
        Station {
            node: seat.node,
            message_bytes_max: seat.message_bytes_max,
            inbox: seat.inbox.clone(),
            spawner: seat.spawner.clone(),
            acquaintances: Mutex::new(Acquaintances::new(seat, random())),
            links: peers.map(|(node, address)| Link::new(*node, address.clone(), lookup.clone())).collect(),
            guests: Mutex::default(),
            lobby: Lobby::default(),
            refusals: Refusals::new(seat),
            next_ping: AtomicU64::new(1),
            doorbell,
            stopped: Mutex::new(false),
            stopping: Condvar::new(),
            complaints: Default::default(),
            oversize: Throttle::default(),
        }
    }

    fn link_to(&self, peer: NodeId) -> Option<&Link> {
        self.links.iter().find(|link| link.peer == peer)
    }

    /// Judges who says this hello, in answer to that of this node if somebody was `expected`.
    fn judge(&self, hello: &[u8], expected: Option<NodeId>) -> Result<Hello, Rejection> {
        self.admit(hello, expected).map_err(|reason| {
            let why = self.acquaintances.lock().rejection(reason, hello);
            if let Some(peer) = expected.or_else(|| Some(claim(hello)?.1)) {
                self.refusals.set(peer, By::Us, why.clone());
            }
            why
        })
    }

    fn admit(&self, hello: &[u8], expected: Option<NodeId>) -> Result<Hello, Stranger> {
        let hello = Hello::decode(hello)?;
        if expected.is_some_and(|peer| peer != hello.from) {
            return Err(Stranger::Misdirected);
        }
        let way = if expected.is_some() { Way::Out } else { Way::In };
        let checked = self.acquaintances.lock().check(&hello, way);
        // Also beside an older copy: whoever learns that it was outlived takes the place of a node that has lost its directory, and this
        // one has not, for it is there.
        if matches!(checked, Ok(()) | Err(Stranger::Outlived)) && self.has_rival(&hello, expected.is_none()) {
            return Err(Stranger::Twin);
        }
        checked?;
        let mut acquaintances = self.acquaintances.lock();
        acquaintances.admit(&hello, way)?;
        // Reported in the order in which they are let in: a peer may come from another directory than a moment ago.
        if acquaintances.knows(&hello) {
            self.inbox.met(hello.from, hello.identity.directory);
        }
        self.inbox.advertised(hello.from, &hello.advertised);
        drop(acquaintances);
        Ok(hello)
    }

    /// Whether another process of that node is connected, and answers. On a connection from there, or
    /// also on the one to there.
    fn has_rival(&self, hello: &Hello, looks_both_ways: bool) -> bool {
        let deadline = Instant::now() + RIVAL_TIMEOUT;
        let guests = self.guests.lock().clone();
        let number = || self.next_ping.fetch_add(1, Ordering::Relaxed);
        if guests.iter().filter(|guest| guest.is_rival_of(hello)).any(|guest| guest.is_there(number(), deadline)) {
            return true;
        }
        let life = (hello.identity.incarnation, hello.nonce);
        looks_both_ways && self.link_to(hello.from).is_some_and(|link| link.is_answered_by_another(life, deadline))
    }

    /// Queues a message. False if it was dropped because its peer does not keep up.
    fn send(&self, message: Message) -> bool {
        let (to, len) = (message.to(), message.encoded_len());
        let Some(link) = self.link_to(to).filter(|_| message.from() == self.node) else { return true };
        if len <= self.message_bytes_max {
            return link.push(message, len);
        }
        if self.oversize.permits() {
            let limit = self.message_bytes_max;
            let owner = owner();
            let what = format!("a message of {len} bytes to node {to}");
            log::warn!("{owner}dropped {what}, for the limit is {limit}");
        }
        true
    }

    fn introduce(&self, identity: Identity) {
        let is_new = self.acquaintances.lock().introduce(identity);
        if is_new {
            self.links.iter().for_each(Link::hang_up);
            self.guests.lock().iter().for_each(|guest| guest.close());
        }
    }

    fn stop(&self) {
        if std::mem::replace(&mut *self.stopped.lock(), true) {
            return;
        }
        self.stopping.notify_all();
        self.doorbell.ring();
        self.links.iter().for_each(Link::stop);
        self.guests.lock().iter().for_each(|guest| guest.close());
    }

    fn is_stopped(&self) -> bool {
        *self.stopped.lock()
    }

    /// Sleeps for `pause`, or less if the transport is stopped meanwhile. Returns whether it is.
    fn rest(&self, pause: Duration) -> bool {
        let mut stopped = self.stopped.lock();
        if !*stopped {
            self.stopping.wait_for(&mut stopped, pause);
        }
        *stopped
    }

    /// Says, not too often, why a connection was closed. That somebody just hung up is nothing to complain of.
    fn complain(&self, about: &str, why: &Refused) {
        let kind = match why {
            Refused::Stranger(why) => why.reason as usize,
            Refused::Io(error) if error.kind() == io::ErrorKind::InvalidData => 0,
            Refused::Io(error) => return log::debug!("{}lost {about}: {error}", owner()),
        };
        // Of a member that is where it should be, all is told with the refusals of the node. Of others it helps to know where they are.
        let is_told = matches!(why, Refused::Stranger(why) if why.reason.is_of_a_member());
        if !is_told && self.complaints[kind].permits() {
            log::warn!("{}refused a connection from {about}: {why}", owner());
        }
    }
}

/// Why two nodes that are connected do not talk.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0}")]
    Stranger(Rejection),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<Rejection> for Refused {
    fn from(why: Rejection) -> Refused {
        Refused::Stranger(why)
    }
}

/// Lets one through, and then none for a while.
#[derive(Debug, Default)]
struct Throttle(Mutex<Option<Instant>>);

impl Throttle {
    fn permits(&self) -> bool {
        let (mut last, now) = (self.0.lock(), Instant::now());
        let permitted = last.is_none_or(|last| now.duration_since(last) >= COMPLAINT_INTERVAL);
        if permitted {
            *last = Some(now);
        }
        permitted
    }
}

/// Sets what both ends of a connection want of it.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(LOOK_INTERVAL))?;
    let socket = SockRef::from(stream);
    #[cfg(target_os = "linux")]
    {
        socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
        // Not a bound of what was sent and is not acknowledged: that grows with the way.
        socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    }
    #[cfg(not(target_os = "linux"))]
    socket.set_send_buffer_size(2 * UNSENT_BYTES_MAX as usize)?;
    Ok(())
}

fn say(mut stream: &TcpStream, frame: &[u8]) -> io::Result<()> {
    stream.write_all(frame)
}

/// Waits for one frame until `deadline`, however slowly it drips.
fn hear(mut stream: &TcpStream, reader: &mut FrameReader, deadline: Instant) -> io::Result<Frame> {
    loop {
        if let Some(frame) = reader.next()? {
            return Ok(frame);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it did not introduce itself in time"));
        }
        stream.set_read_timeout(Some(left))?;
        match reader.read_from(&mut stream) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it hung up before it introduced itself")),
            Err(error) if !is_timeout(&error) => return Err(error),
            _ => {}
        }
    }
}

/// Whether a read ended only because it took long. Not in itself a reason to give a connection up.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// A number that nobody else draws.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
