//! The links between the nodes: a proxy for each direction of each pair, which delays, reorders,
//! repeats, damages and loses what passes, and can be shut.
//!
//! A node opens a connection to each peer and sends on it; what comes back is the answer to its
//! hello. So what node `a` sends to node `b` passes the link from `a` to `b`, frame by frame, and
//! the answers of `b` pass the same connection the other way, as bytes. TCP repeats and reorders
//! nothing by itself: the proxy cuts the stream into frames by their length, and does it to whole
//! ones.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use socket2::{Domain, Protocol, Socket, Type};

use crate::figures::Figures;
use crate::rng::Rng;

const FRAME_HEADER_BYTES: usize = 20;
/// Frames that wait for their time. Beyond that nothing is read, and the sender has to wait.
const QUEUE_BYTES_MAX: usize = 8 << 20;
/// How often something that was shut is tried again.
const PAUSE: Duration = Duration::from_millis(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether anything passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Passage {
    #[default]
    Open,
    /// Connections stay, and nothing comes out of them.
    Silent,
    /// Connections break, and new ones end at once.
    Shut,
}

/// What happens to frames. The chances are in one of a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Noise {
    /// The longest delay of a frame, in milliseconds. Each has its own, so that they overtake one
    /// another if `overtake` is set.
    pub(crate) delay_ms: u64,
    pub(crate) overtake: bool,
    pub(crate) repeat: u64,
    pub(crate) corruption: u64,
    pub(crate) lose: u64,
    /// The connection breaks in the middle of a frame.
    pub(crate) tear: u64,
}

/// One direction of a pair.
pub(crate) struct Link {
    state: Mutex<(Passage, Noise)>,
    streams: Mutex<Vec<TcpStream>>,
    rng: Mutex<Rng>,
    figures: Arc<Figures>,
}

/// Where a link begins and where it leads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) listen: SocketAddr,
    /// What the target sees as the source.
    pub(crate) source: SocketAddr,
    pub(crate) target: SocketAddr,
}

impl Link {
    pub(crate) fn new(seed: u64, figures: Arc<Figures>) -> Arc<Link> {
        let rng = Mutex::new(Rng::from_seed(seed));
        Arc::new(Link { state: Mutex::default(), streams: Mutex::default(), rng, figures })
    }

    pub(crate) fn set_passage(&self, passage: Passage) {
        self.state.lock().0 = passage;
        if passage == Passage::Shut {
            self.reset();
        }
    }

    pub(crate) fn set_noise(&self, noise: Noise) {
        self.state.lock().1 = noise;
    }

    /// Breaks every connection.
    pub(crate) fn reset(&self) {
        for stream in self.streams.lock().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn passage(&self) -> Passage {
        self.state.lock().0
    }

    /// Accepts connections for as long as the test runs. Answers pass while `back` lets them.
    pub(crate) fn open(self: &Arc<Link>, back: &Arc<Link>, route: Route) {
        let listener = TcpListener::bind(route.listen)
            .unwrap_or_else(|error| panic!("{}: {error}", route.listen));
        let (link, back) = (self.clone(), back.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (link, back) = (link.clone(), back.clone());
                thread::spawn(move || link.carry(&back, stream, route));
            }
        });
    }

    fn carry(self: &Arc<Link>, back: &Arc<Link>, near: TcpStream, route: Route) {
        if self.passage() == Passage::Shut {
            return;
        }
        let Ok(far) = dial(route) else { return };
        let ends = [&near, &far].map(|stream| stream.try_clone().expect("there are descriptors"));
        self.streams.lock().extend(ends);
        let queue = Arc::new(Queue::default());
        let (Ok(near_back), Ok(far_back)) = (near.try_clone(), far.try_clone()) else { return };
        let (answers, tail, waiting) = (back.clone(), self.clone(), queue.clone());
        thread::spawn(move || answers.carry_back(&far_back, &near_back));
        let writer = thread::spawn(move || {
            let _ = waiting.drain(&tail, &far);
            let _ = far.shutdown(Shutdown::Both);
        });
        let _ = self.read_frames(&near, &queue);
        queue.close();
        let _ = writer.join();
        let _ = near.shutdown(Shutdown::Both);
        self.streams.lock().retain(|stream| stream.peer_addr().is_ok());
    }

    fn carry_back(&self, mut from: &TcpStream, mut to: &TcpStream) {
        let mut bytes = [0; 4096];
        while let Ok(read @ 1..) = from.read(&mut bytes) {
            while self.passage() == Passage::Silent {
                thread::sleep(PAUSE);
            }
            if to.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }

    fn read_frames(&self, mut stream: &TcpStream, queue: &Queue) -> io::Result<()> {
        loop {
            let mut frame = vec![0; FRAME_HEADER_BYTES];
            stream.read_exact(&mut frame)?;
            let len = u32::from_le_bytes([frame[8], frame[9], frame[10], frame[11]]) as usize;
            frame.resize(FRAME_HEADER_BYTES + len, 0);
            stream.read_exact(&mut frame[FRAME_HEADER_BYTES..])?;
            let (copies, tears) = self.mishandle(frame);
            for (frame, delay, overtakes) in copies {
                queue.push(frame, delay, overtakes)?;
            }
            if tears {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
        }
    }

    /// What becomes of a frame: how often it arrives and how late, and whether the connection
    /// breaks.
    fn mishandle(&self, mut frame: Vec<u8>) -> (Vec<(Vec<u8>, Duration, bool)>, bool) {
        let noise = self.state.lock().1;
        let mut rng = self.rng.lock();
        let mut falls = |chance: u64, what: &'static str| {
            let falls = chance > 0 && rng.below(1000) < chance;
            if falls {
                self.figures.fault(what);
            }
            falls
        };
        if falls(noise.lose, "frames lost") {
            return (Vec::new(), false);
        }
        let tears = falls(noise.tear, "connections broken within a frame");
        let repeats = falls(noise.repeat, "frames repeated");
        let damages = falls(noise.corruption, "frames damaged");
        if damages {
            let at = rng.below(frame.len() as u64) as usize;
            frame[at] ^= 1 << rng.below(8);
        }
        if tears {
            frame.truncate(frame.len() / 2);
        }
        let mut late = || {
            if noise.delay_ms == 0 {
                Duration::ZERO
            } else {
                Duration::from_micros(rng.below(noise.delay_ms * 1000))
            }
        };
        if noise.delay_ms > 0 {
            self.figures.fault("frames delayed");
        }
        let mut copies = vec![(frame.clone(), late(), noise.overtake)];
        if repeats {
            copies.push((frame, late(), noise.overtake));
        }
        (copies, tears)
    }
}

fn dial(route: Route) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(route.target), Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&route.source.into())?;
    socket.connect_timeout(&route.target.into(), CONNECT_TIMEOUT)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
    Ok(socket.into())
}

/// Frames that wait for their time, on one connection.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    /// By the time at which they are due; what is due at the same time, in the order in which it
    /// came.
    frames: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
    bytes: usize,
    count: u64,
    /// The latest that is due. What may not overtake comes no earlier.
    last_due: Option<Instant>,
    closed: bool,
    broken: bool,
}

impl Queue {
    fn push(&self, frame: Vec<u8>, delay: Duration, overtakes: bool) -> io::Result<()> {
        let mut waiting = self.waiting.lock();
        while waiting.bytes > QUEUE_BYTES_MAX && !waiting.broken {
            self.changed.wait(&mut waiting);
        }
        if waiting.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut due = Instant::now() + delay;
        if !overtakes {
            due = waiting.last_due.map_or(due, |last| due.max(last));
        }
        waiting.last_due = waiting.last_due.max(Some(due));
        waiting.count += 1;
        waiting.bytes += frame.len();
        let number = waiting.count;
        waiting.frames.push(Reverse((due, number, frame)));
        self.changed.notify_all();
        Ok(())
    }

    fn close(&self) {
        self.waiting.lock().closed = true;
        self.changed.notify_all();
    }

    /// Writes what is due, while the link is open, until the other end is gone or nothing more can
    /// come.
    fn drain(&self, link: &Link, mut stream: &TcpStream) -> io::Result<()> {
        let outcome = loop {
            match self.next(link) {
                Some(frame) => {
                    if let Err(error) = stream.write_all(&frame) {
                        break Err(error);
                    }
                }
                None => break Ok(()),
            }
        };
        self.waiting.lock().broken = true;
        self.changed.notify_all();
        outcome
    }

    fn next(&self, link: &Link) -> Option<Vec<u8>> {
        let mut waiting = self.waiting.lock();
        loop {
            let due = waiting.frames.peek().map(|Reverse((due, ..))| *due);
            let now = Instant::now();
            match due {
                _ if link.passage() == Passage::Silent => {
                    _ = self.changed.wait_for(&mut waiting, PAUSE)
                }
                None if waiting.closed => return None,
                None => self.changed.wait(&mut waiting),
                Some(due) if due > now => drop(self.changed.wait_for(&mut waiting, due - now)),
                Some(_) => {
                    let Reverse((_, _, frame)) =
                        waiting.frames.pop().expect("it was there a moment ago");
                    waiting.bytes -= frame.len();
                    self.changed.notify_all();
                    return Some(frame);
                }
            }
        }
    }
}
