//! Resolves the host name of a peer, without delaying a shutdown.
//!
//! The system's resolver cannot be interrupted, and may take as long as its name servers. So a
//! detached thread calls it, at most one for each peer. A result is used for [`FRESH`]. If no new
//! one comes in time, the last one is used, whatever its age.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::address::resolve;
use crate::primitives::{Condvar, Instant, Mutex};
use crate::transport::Spawner;

/// How long a result is used without a new lookup.
const FRESH: Duration = Duration::from_secs(5);
/// How long an attempt to connect waits for a result.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Resolves a name to addresses.
pub(super) type Lookup = Arc<dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

pub(super) fn system_lookup() -> Lookup {
    Arc::new(resolve)
}

/// Resolves the address of one peer.
pub(super) struct Resolver {
    address: String,
    lookup: Lookup,
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    is_resolving: bool,
    /// Why the last lookup failed.
    failure: Option<io::Error>,
    result: Option<(Instant, Vec<SocketAddr>)>,
    stopped: bool,
}

impl Resolver {
    pub(super) fn new(address: String, lookup: Lookup) -> Resolver {
        Resolver { address, lookup, shared: Arc::default() }
    }

    /// The addresses of the peer. Blocks for 2 s at most, and not after [`stop`](Resolver::stop).
    pub(super) fn resolve(&self, spawner: &Spawner) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = self.address.parse() {
            return Ok(vec![address]);
        }
        let (state, resolved) = &*self.shared;
        let mut state = state.lock();
        let is_fresh = |(since, _): &(Instant, _)| since.elapsed() < FRESH;
        if let Some((_, addresses)) = state.result.as_ref().filter(|result| is_fresh(result)) {
            return Ok(addresses.clone());
        }
        if !state.is_resolving {
            self.look_up(spawner)?;
            (state.is_resolving, state.failure) = (true, None);
        }
        let deadline = Instant::now() + LOOKUP_TIMEOUT;
        while state.is_resolving
            && !state.stopped
            && !resolved.wait_until(&mut state, deadline).timed_out()
        {}
        if let Some(failure) = state.failure.take() {
            return Err(failure);
        }
        match &state.result {
            Some((_, addresses)) if !state.stopped => Ok(addresses.clone()),
            _ => Err(io::Error::new(io::ErrorKind::TimedOut, "its name is not resolved yet")),
        }
    }

    fn look_up(&self, spawner: &Spawner) -> io::Result<()> {
        let (shared, lookup, address) =
            (self.shared.clone(), self.lookup.clone(), self.address.clone());
        spawner.spawn_detached("resolve", move || {
            let result = lookup(&address);
            let (state, resolved) = &*shared;
            let mut state = state.lock();
            state.is_resolving = false;
            match result {
                Ok(addresses) => state.result = Some((Instant::now(), addresses)),
                Err(failure) => state.failure = Some(failure),
            }
            resolved.notify_all();
        })
    }

    /// Ends every wait, now and later.
    pub(super) fn stop(&self) {
        self.shared.0.lock().stopped = true;
        self.shared.1.notify_all();
    }
}
