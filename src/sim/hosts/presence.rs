//! Presence of processes: pings, silence, and what the groups are told of it.

use std::sync::Arc;

use super::Hosts;
use super::event::{HostEvent, Way};
use super::host::node_id;
use crate::transport::frame::{self, Kind};
use crate::transport::tcp::LocalGroup;

/// After so many silences a connection is closed by the process that was dialled.
const SILENCES: u64 = 4;
/// After so many silences without a pong a connection is closed by the process that dialled.
const UNANSWERED: u64 = 2;

impl Hosts {
    /// A process sends pings, and looks which peers are silent.
    pub(super) fn probe(&mut self, host: usize, process: u64) {
        if !self.is_running(host, process, HostEvent::Probe { host, process }) {
            return;
        }
        let (now, silence) = (self.queue.now, self.config.silence);
        self.queue.put_in(silence / 4, HostEvent::Probe { host, process });
        let open: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.is_open_at(host, process))
            .map(|(id, _)| *id)
            .collect();
        for id in open {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            if connection.dialler.host == host {
                if now > connection.answered + UNANSWERED * silence {
                    self.coverage.hit("connections without an answer");
                    self.close_dialled(id);
                } else if connection.hello.is_some() {
                    let ping = frame::numbered(Kind::Ping, 0);
                    self.transmit(id, Way::Forward, Some(ping.into()));
                }
            } else {
                self.tell_given_up(id);
                self.look_for_silence(id);
            }
        }
    }

    fn look_for_silence(&mut self, id: u64) {
        let (now, silence) = (self.queue.now, self.config.silence);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let (me, peer) = (connection.acceptor.host, connection.dialler.host);
        if now > connection.heard + SILENCES * silence {
            return self.close_accepted(id);
        }
        if now > connection.heard + silence && !connection.is_silent {
            connection.is_silent = true;
            let groups = connection.slots.groups();
            self.coverage.hit("peers that fell silent");
            groups.iter().for_each(|group| self.report_down(me, peer, group));
        }
    }

    /// A connection has ended a while ago, and the peer may have made another one.
    pub(super) fn report_end(
        &mut self,
        host: usize,
        process: u64,
        peer: usize,
        groups: Vec<Arc<LocalGroup>>,
    ) {
        if self.hosts[host].process.as_ref().is_some_and(|it| it.id == process) {
            groups.iter().for_each(|group| self.report_down(host, peer, group));
        }
    }

    /// Tells a group that nothing comes from a peer any more, unless a connection brings it.
    pub(super) fn report_down(&mut self, host: usize, peer: usize, local: &LocalGroup) {
        let Some(process) = self.hosts[host].process.as_ref().map(|it| it.id) else { return };
        let carries = self.connections.values().any(|connection| {
            let end = connection.acceptor;
            (end.host, end.process, end.is_closed) == (host, process, false)
                && connection.dialler.host == peer
                && !connection.is_silent
                && connection.slots.has(local.number)
        });
        local.set_down(node_id(peer), || carries);
        let numbers = [46, host as u64, peer as u64, local.number, u64::from(carries)];
        self.note(&numbers, || {
            let seen = if carries { "is heard" } else { "is down" };
            format!("host {}: {}: host {} {seen}", host + 1, local.name, peer + 1)
        });
        self.coverage.hit("peers reported down");
        self.wake_groups(host);
    }
}
