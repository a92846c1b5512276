//! The settings of a host.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{GroupSettings, Host};
use crate::builder::Builder;
use crate::entry::NodeId;
use crate::error::OpenError;
use crate::host_parts::HostParts;
use crate::spin::{SPIN_DEFAULT, SPIN_MAX, processors};
use crate::storage::Create;
use crate::storage::segmented::HostDirectory;
use crate::threads::HostThreads;
use crate::transport::{HostContext, HostTransport, TcpHostTransport, TcpTransport};

/// The most threads that turn engines.
const THREADS_MAX: usize = 64;

const SLEEP_AFTER_MIN: Duration = Duration::from_millis(100);
/// As long as CockroachDB waits before it quiesces a range: less makes groups that are used now and
/// then fall asleep and wake all the time.
const SLEEP_AFTER_DEFAULT: Duration = Duration::from_secs(3);

/// Sets up a [`Host`]. Made by [`Host::builder`].
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use dledger::Host;
///
/// let host = Host::builder(1)
///     .dir("/var/lib/broker")
///     .peers([(1, "10.0.0.1:7001"), (2, "10.0.0.2:7001"), (3, "10.0.0.3:7001")])
///     .open()?;
/// let orders = host.group("orders").open()?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a builder does nothing until it is opened"]
pub struct HostBuilder {
    id: NodeId,
    dir: Option<PathBuf>,
    create: Create,
    listen: Option<String>,
    peers: Vec<(NodeId, String)>,
    threads: usize,
    spin: Duration,
    sleep_after: Duration,
    transport: Option<Box<dyn HostTransport>>,
    group_settings: GroupSettings,
}

impl HostBuilder {
    pub(super) fn new(id: NodeId) -> HostBuilder {
        HostBuilder {
            id,
            dir: None,
            create: Create::IfMissing,
            listen: None,
            peers: Vec::new(),
            threads: processors().clamp(2, 4),
            spin: SPIN_DEFAULT,
            sleep_after: SLEEP_AFTER_DEFAULT,
            transport: None,
            group_settings: Arc::new(|builder| builder),
        }
    }

    /// The directory of this host, with the logs of all its groups. Made if it does not exist; its
    /// parent must exist. Required. One process has it at a time.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> HostBuilder {
        self.dir = Some(dir.into());
        self
    }

    /// What to do about a directory that is missing, or is there. Default [`Create::IfMissing`].
    pub fn create(mut self, create: Create) -> HostBuilder {
        self.create = create;
        self
    }

    /// The address to listen on, a host and a port, if it is another one than that at which the
    /// [peers](Self::peer) reach this host: behind a translation of addresses, or on all interfaces
    /// (`0.0.0.0:7001`). Default: that one.
    pub fn listen(mut self, address: impl Into<String>) -> HostBuilder {
        self.listen = Some(address.into());
        self
    }

    /// Names one host and where it is reached: `10.0.0.1:7001`, `node-1:7001`,
    /// `[2001:db8::1]:7001`. This host may be left out if [`listen`](Self::listen) says where it is
    /// reached. Without any peer, each group has this host as its only member.
    pub fn peer(mut self, id: impl Into<NodeId>, address: impl Into<String>) -> HostBuilder {
        self.peers.push((id.into(), address.into()));
        self
    }

    /// Names several hosts at once.
    pub fn peers<I, A>(mut self, peers: impl IntoIterator<Item = (I, A)>) -> HostBuilder
    where
        I: Into<NodeId>,
        A: Into<String>,
    {
        self.peers.extend(peers.into_iter().map(|(id, address)| (id.into(), address.into())));
        self
    }

    /// How many threads run the groups: 1 to 64. Default: as many as there are processors, at least
    /// 2, at most 4. Those for syncs, background tasks, observers and connections come to them.
    pub fn threads(mut self, threads: usize) -> HostBuilder {
        self.threads = threads;
        self
    }

    /// How long threads may spin before they sleep, as [`Builder::spin`] says: zero to 10 ms.
    pub fn spin(mut self, spin: Duration) -> HostBuilder {
        self.spin = spin;
        self
    }

    /// How long a group has nothing to do before it sleeps: at least 100 ms, default 3 s.
    /// [`Duration::MAX`] is never.
    ///
    /// A group that sleeps sends nothing and wakes no thread. What stands for its leader is that
    /// its process is heard; if it is not, the groups that it led wake and elect others, spread
    /// over an election timeout. Whatever is asked of a group, or arrives for it, wakes it; reads
    /// and [`DLedger::status`](crate::DLedger::status) do not. With a
    /// [`transport`](Self::transport) that does not [report](HostTransport::reports_presence) which
    /// peers are heard, no group sleeps.
    pub fn sleep_after(mut self, idle: Duration) -> HostBuilder {
        self.sleep_after = idle;
        self
    }

    /// A transport of the host's own instead of TCP. Addresses may then be anything that it
    /// understands.
    pub fn transport(mut self, transport: impl HostTransport + 'static) -> HostBuilder {
        self.transport = Some(Box::new(transport));
        self
    }

    /// Settings for all groups: changes every builder that [`Host::group`] gives, also those of
    /// [`Host::open_all`]. Default: none.
    pub fn group_settings(
        mut self,
        settings: impl Fn(Builder) -> Builder + Send + Sync + 'static,
    ) -> HostBuilder {
        self.group_settings = Arc::new(settings);
        self
    }

    /// Locks the directory, starts the threads, and listens. Opens no group: see [`Host::group`]
    /// and [`Host::open_all`].
    ///
    /// # Errors
    /// Any [`OpenError`]. Nothing runs and nothing is locked afterwards.
    pub fn open(mut self) -> Result<Host, OpenError> {
        self.check()?;
        let dir = self.dir.take().unwrap_or_default();
        let listen = self.name_itself();
        // First of all: it is refused without a thread, also in a forked child of its owner, where
        // locks of the runtime that threads need may be lost.
        let directory = HostDirectory::open(&dir, self.id, self.create)?;
        let threads = HostThreads::new(self.threads, self.spin).map_err(OpenError::Thread)?;
        let threads = Arc::new(threads);
        let transport = self.transport.take().unwrap_or_else(|| Box::new(TcpHostTransport::new()));
        let parts =
            HostParts::new(self.id, self.peers, directory, threads, transport, self.sleep_after);
        if parts.peers.len() > 1 {
            let spawner = parts.threads.spawner(self.id);
            let context = HostContext::new(self.id, listen, parts.peers.clone(), spawner);
            parts.transport.start(context).map_err(OpenError::Transport)?;
        }
        Ok(Host { parts: Arc::new(parts), group_settings: self.group_settings })
    }

    /// Adds this host to the list of all hosts. Returns the address to listen on.
    fn name_itself(&mut self) -> String {
        let own = self.peers.iter().find(|(id, _)| *id == self.id).map(|(_, own)| own.clone());
        let listen = self.listen.clone().or_else(|| own.clone()).unwrap_or_default();
        if own.is_none() && !self.peers.is_empty() {
            self.peers.push((self.id, listen.clone()));
            self.peers.sort_by_key(|(id, _)| *id);
        }
        listen
    }

    fn check(&self) -> Result<(), OpenError> {
        if self.dir.as_ref().is_none_or(|dir| dir.as_os_str().is_empty()) {
            return refuse("dir", "a host needs a directory");
        }
        if self.id.get() == 0 || self.peers.iter().any(|(id, _)| id.get() == 0) {
            return refuse("peer", "an id is at least 1");
        }
        let mut ids: Vec<NodeId> = self.peers.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return refuse("peer", &format!("host {} is named twice", twice[0]));
        }
        let is_named = ids.is_empty() || ids.contains(&self.id);
        if !is_named && self.listen.is_none() {
            return refuse("listen", "this host needs an address, here or among the peers");
        }
        if !(1..=THREADS_MAX).contains(&self.threads) {
            return refuse(
                "threads",
                &format!("{} is not within 1 and {THREADS_MAX}", self.threads),
            );
        }
        if self.spin > SPIN_MAX {
            return refuse("spin", &format!("{:?} is more than {SPIN_MAX:?}", self.spin));
        }
        if self.sleep_after < SLEEP_AFTER_MIN {
            return refuse(
                "sleep_after",
                &format!("{:?} is less than {SLEEP_AFTER_MIN:?}", self.sleep_after),
            );
        }
        self.check_addresses()
    }

    /// A transport of the host's own may understand anything.
    fn check_addresses(&self) -> Result<(), OpenError> {
        if self.transport.is_some() || self.peers.is_empty() {
            return Ok(());
        }
        let listen = self.listen.iter().map(|address| (self.id, address, true));
        let peers = self.peers.iter().map(|(id, address)| (*id, address, *id == self.id));
        let wrong = |(id, address, is_own): (NodeId, &String, bool)| {
            TcpTransport::check_address(address, is_own).err().map(|why| (id, why))
        };
        match listen.chain(peers).find_map(wrong) {
            Some((id, why)) => refuse("peer", &format!("host {id}: {why}")),
            None => Ok(()),
        }
    }
}

fn refuse(setting: &'static str, reason: &str) -> Result<(), OpenError> {
    Err(OpenError::HostSetting { setting, reason: reason.to_owned() })
}

impl fmt::Debug for HostBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostBuilder")
            .field("id", &self.id)
            .field("dir", &self.dir)
            .field("listen", &self.listen)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused_by_the_name_of_its_setting() {
        let good = || HostBuilder::new(1.into()).dir("somewhere");
        good().check().unwrap();
        good().listen("a:1").peer(2, "b:2").check().unwrap();
        good().peers([(1, "a:1"), (2, "b:2")]).check().unwrap();
        for (setting, builder) in [
            ("dir", HostBuilder::new(1.into())),
            ("dir", good().dir("")),
            ("peer", HostBuilder::new(0.into()).dir("x")),
            ("peer", good().peers([(1, "a:1"), (2, "b:2"), (2, "c:3")])),
            ("peer", good().peers([(1, "a:1"), (2, "b")])),
            ("peer", good().listen("a").peer(2, "b:2")),
            ("listen", good().peer(2, "b:2")),
            ("threads", good().threads(0)),
            ("threads", good().threads(65)),
            ("sleep_after", good().sleep_after(SLEEP_AFTER_MIN - Duration::from_nanos(1))),
            ("spin", good().spin(SPIN_MAX + Duration::from_nanos(1))),
        ] {
            match builder.check() {
                Err(OpenError::HostSetting { setting: refused, .. }) => {
                    assert_eq!(refused, setting);
                }
                other => panic!("expected a refusal of {setting}, got {other:?}"),
            }
        }
    }
}
