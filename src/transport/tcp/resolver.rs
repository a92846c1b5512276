//! Names to addresses, in a way that keeps nobody waiting who shuts down.
//!
//! The operating system's resolver cannot be interrupted, and may take as long as its name servers
//! let it. So it is asked on a thread that nobody waits for, one for each peer at most; its answer
//! is good for [`FRESH`], and if no new one comes in time the last one is used, whatever its age.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::address::resolve;
use crate::primitives::{Condvar, Instant, Mutex};
use crate::transport::Spawner;

/// How long an answer is used without asking again.
const FRESH: Duration = Duration::from_secs(5);
/// How long an attempt to connect waits for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// What turns a name into addresses.
pub(super) type Lookup = Arc<dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

pub(super) fn system_lookup() -> Lookup {
    Arc::new(resolve)
}

/// The address of one peer.
pub(super) struct Resolver {
    address: String,
    lookup: Lookup,
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    is_asking: bool,
    /// Why the last question has no answer.
    failure: Option<io::Error>,
    answer: Option<(Instant, Vec<SocketAddr>)>,
    stopped: bool,
}

impl Resolver {
    pub(super) fn new(address: String, lookup: Lookup) -> Resolver {
        Resolver { address, lookup, shared: Arc::default() }
    }

    /// Where the peer is. Blocks for 2 s at most, and not after [`stop`](Resolver::stop).
    pub(super) fn resolve(&self, spawner: &Spawner) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = self.address.parse() {
            return Ok(vec![address]);
        }
        let (state, answered) = &*self.shared;
        let mut state = state.lock();
        let is_fresh = |(since, _): &(Instant, _)| since.elapsed() < FRESH;
        if let Some((_, addresses)) = state.answer.as_ref().filter(|answer| is_fresh(answer)) {
            return Ok(addresses.clone());
        }
        if !state.is_asking {
            self.ask(spawner)?;
            (state.is_asking, state.failure) = (true, None);
        }
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        while state.is_asking
            && !state.stopped
            && !answered.wait_until(&mut state, deadline).timed_out()
        {}
        if let Some(failure) = state.failure.take() {
            return Err(failure);
        }
        match &state.answer {
            Some((_, addresses)) if !state.stopped => Ok(addresses.clone()),
            _ => Err(io::Error::new(io::ErrorKind::TimedOut, "its name is not resolved yet")),
        }
    }

    fn ask(&self, spawner: &Spawner) -> io::Result<()> {
        let (shared, lookup, address) =
            (self.shared.clone(), self.lookup.clone(), self.address.clone());
        spawner.spawn_detached("resolve", move || {
            let answer = lookup(&address);
            let (state, answered) = &*shared;
            let mut state = state.lock();
            state.is_asking = false;
            match answer {
                Ok(addresses) => state.answer = Some((Instant::now(), addresses)),
                Err(failure) => state.failure = Some(failure),
            }
            answered.notify_all();
        })
    }

    /// Ends every wait, now and later.
    pub(super) fn stop(&self) {
        self.shared.0.lock().stopped = true;
        self.shared.1.notify_all();
    }
}
