//! The environment of the group: on the loopback with a directory for each node, or in network
//! namespaces with a small volume for each.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use parking_lot::Mutex;
use tempfile::TempDir;

use crate::namespaces;
use crate::volume::{Ballast, Volume};

/// How many nodes a group has.
pub(crate) const NODES: u64 = 5;
/// Where nodes listen.
const PORT: u16 = 7000;

/// Addresses and disks of the nodes, 1 to [`NODES`].
///
/// Node `n` has the address `n` below the prefix, and a face `100 + n` that the others see of it
/// beyond the proxies: its peers reach it there, and what it sends comes from there. So a rule
/// against a node and its face hits all that comes from it.
pub(crate) struct Environment {
    prefix: String,
    disks: Disks,
    /// The share of packets that are dropped, in percent, from each node to each other.
    losses: Mutex<Vec<(u64, u64, u64)>>,
}

enum Disks {
    Directory(TempDir),
    Volumes(Vec<Mutex<Disk>>),
}

struct Disk {
    volume: Volume,
    ballast: Option<Ballast>,
}

impl Environment {
    /// On the loopback, under addresses that no other process uses: outgoing connections of others
    /// come from 127.0.0.1.
    pub(crate) fn loopback() -> Environment {
        let pid = std::process::id();
        let prefix = format!("127.{}.{}", 1 + pid / 250 % 250, 1 + pid % 250);
        let disks = Disks::Directory(tempfile::tempdir().expect("there is room for the test"));
        Environment { prefix, disks, losses: Mutex::default() }
    }

    /// Each node in a namespace of its own, on a volume of `bytes`. For a process in namespaces of
    /// its own.
    pub(crate) fn namespaces(bytes: u64) -> Environment {
        let prefix = "10.77.0".to_owned();
        namespaces::build(&prefix, NODES);
        let disks = (1..=NODES)
            .map(|_| Mutex::new(Disk { volume: Volume::ext4(bytes), ballast: None }))
            .collect();
        Environment { prefix, disks: Disks::Volumes(disks), losses: Mutex::default() }
    }

    pub(crate) fn has_volumes(&self) -> bool {
        matches!(self.disks, Disks::Volumes(_))
    }

    /// Where `node` listens.
    pub(crate) fn address(&self, node: u64) -> SocketAddr {
        self.host(node, PORT)
    }

    /// The address of node `to` in the configuration of node `from`.
    pub(crate) fn proxy(&self, from: u64, to: u64) -> SocketAddr {
        self.host(100 + to, PORT + from as u16)
    }

    /// Where connections that the proxies make for `node` come from.
    pub(crate) fn face(&self, node: u64) -> SocketAddr {
        self.host(100 + node, 0)
    }

    fn host(&self, host: u64, port: u16) -> SocketAddr {
        format!("{}.{host}:{port}", self.prefix).parse().expect("an address")
    }

    pub(crate) fn dir(&self, node: u64) -> PathBuf {
        match &self.disks {
            Disks::Directory(home) => home.path().join(node.to_string()),
            Disks::Volumes(disks) => disks[node as usize - 1].lock().volume.path().join("log"),
        }
    }

    /// What a process of `node` is started with.
    pub(crate) fn program(&self, node: u64) -> Vec<String> {
        if self.has_volumes() { namespaces::entry(node) } else { Vec::new() }
    }

    /// Drops this share of the packets from one node to another, in percent.
    pub(crate) fn drop_packets(&self, from: u64, to: u64, percent: u64) {
        let mut losses = self.losses.lock();
        losses.retain(|loss| (loss.0, loss.1) != (from, to));
        if percent > 0 {
            losses.push((from, to, percent));
        }
        let at_the_target: Vec<(u64, u64)> =
            losses.iter().filter(|loss| loss.1 == to).map(|loss| (loss.0, loss.2)).collect();
        namespaces::set_losses(&self.prefix, to, &at_the_target);
    }

    /// The power of `node` fails and comes back. Its process has ended, so nothing is acknowledged
    /// in between.
    pub(crate) fn cut_power(&self, node: u64) {
        self.with_disk(node, |disk| {
            disk.volume.cut_power();
            disk.volume.unmount();
            disk.volume.mount();
            // Removing it was not synced, perhaps.
            let ballast = disk.volume.path().join("ballast");
            if disk.ballast.is_none() && ballast.exists() {
                fs::remove_file(ballast).expect("a file can be removed");
            }
        });
    }

    /// Leaves about `room` bytes on the disk of `node`.
    pub(crate) fn fill(&self, node: u64, room: u64) {
        self.with_disk(node, |disk| {
            if disk.ballast.is_none() {
                disk.ballast = Some(disk.volume.fill_but(room));
            }
        });
    }

    pub(crate) fn make_room(&self, node: u64) {
        self.with_disk(node, |disk| disk.ballast = None);
    }

    fn with_disk(&self, node: u64, act: impl FnOnce(&mut Disk)) {
        if let Disks::Volumes(disks) = &self.disks {
            act(&mut disks[node as usize - 1].lock());
        }
    }
}
