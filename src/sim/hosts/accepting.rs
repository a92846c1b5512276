//! The side of a connection that is dialled: what arrives, and which group it is for.

use bytes::Bytes;

use super::Hosts;
use super::event::{HostEvent, Way};
use super::groups::hash_of;
use super::host::node_id;
use crate::message::Message;
use crate::sim::time::Micros;
use crate::transport::frame::{self, Frame, Kind, beats};
use crate::transport::hello::slots::{self, ConnectionHello};
use crate::transport::hello::{HandshakeRejection, Hello, Rejection, Way as HelloWay};
use crate::transport::tcp::LocalGroup;

impl Hosts {
    /// Bytes or the end of a connection arrive. They wait while their link is cut or their reader
    /// is paused.
    pub(super) fn arrive(&mut self, id: u64, way: Way) {
        let now = self.queue.now;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let (from, to) = connection.ends(way);
        let again = HostEvent::Arrive { connection: id, way };
        if !self.links.carries(from.host, to.host, now) {
            let pause = self.rng.around(self.config.base.heartbeat) + 1;
            return self.queue.put_in(pause, again);
        }
        let paused = self.hosts[to.host].paused_until;
        if paused > now && !to.is_closed {
            return self.queue.put(paused, again);
        }
        let Some(part) = connection.stream(way).take(now) else { return };
        if to.is_closed {
            let is_over = from.is_closed && part.is_none();
            if is_over {
                self.connections.remove(&id);
            }
            return;
        }
        match part {
            Some(bytes) => self.read(id, way, &bytes),
            None => self.close(id, way),
        }
        if way == Way::Forward {
            self.wake_writer(from.host, to.host, now);
        }
    }

    /// The reader of this way closes the connection.
    pub(super) fn close(&mut self, id: u64, way: Way) {
        match way {
            Way::Forward => self.close_accepted(id),
            Way::Back => self.close_dialled(id),
        }
    }

    fn read(&mut self, id: u64, way: Way, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let frames = match connection.read(way, bytes) {
            Ok(frames) => frames,
            Err(error) => return self.broken(id, way, &error.to_string()),
        };
        if way == Way::Forward {
            self.hear(id);
        }
        for frame in frames {
            let handled = match way {
                Way::Forward => self.handle_frame(id, &frame),
                Way::Back => self.handle_answer(id, &frame),
            };
            if let Err(why) = handled {
                return self.broken(id, way, &why);
            }
            let is_open = |connection: &super::wire::Connection| !connection.ends(way).1.is_closed;
            if !self.connections.get(&id).is_some_and(is_open) || self.violation.is_some() {
                return;
            }
        }
        if way == Way::Forward {
            self.tell_given_up(id);
        }
    }

    /// What was read is none of the protocol. Nothing here sends such a thing.
    fn broken(&mut self, id: u64, way: Way, why: &str) {
        let Some(connection) = self.connections.get(&id) else { return };
        let (from, to) = connection.ends(way);
        if !connection.may_break {
            self.violated(format!(
                "A15: host {} breaks a connection with host {}: {why}",
                to.host + 1,
                from.host + 1
            ));
        }
        self.close(id, way);
    }

    fn say(&mut self, id: u64, kind: Kind, content: Vec<u8>) {
        self.transmit(id, Way::Back, Some(Bytes::from(frame::encode(kind, content))));
    }

    /// Tells the peer which slots this process has given up.
    pub(super) fn tell_given_up(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.acceptor.is_closed {
            return;
        }
        for slot in connection.slots.take_given_up() {
            self.coverage.hit("slots given up");
            self.say(id, Kind::Withdrawal, slots::with_bytes(slot, &[]));
        }
    }

    /// Ends the slots of a group on all connections that a process was dialled on.
    pub(super) fn give_up_slots(&mut self, host: usize, number: u64) {
        let Some(process) = self.hosts[host].process.as_ref().map(|it| it.id) else { return };
        let mut told = Vec::new();
        for (id, connection) in &mut self.connections {
            let end = connection.acceptor;
            if end.host == host
                && end.process == process
                && !end.is_closed
                && connection.slots.give_up(number)
            {
                told.push(*id);
            }
        }
        told.into_iter().for_each(|id| self.tell_given_up(id));
    }

    fn handle_frame(&mut self, id: u64, frame: &Frame) -> Result<(), String> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        if connection.hello.is_none() {
            return self.handle_hello(id, frame);
        }
        match frame.kind {
            Kind::Message => {
                let receiver = connection.slots.receiver(frame.slot);
                match receiver.map_err(|why| why.text().to_owned())? {
                    Some(local) => self.handle_message(id, &local, frame),
                    None => self.coverage.hit("late messages of slots that have ended"),
                }
            }
            Kind::Beats => {
                let rows = beats::rows(&frame.content).ok_or("beats of no kind")?;
                let (me, peer) = (connection.acceptor.host, connection.dialler.host);
                let mut receivers = Vec::new();
                for (slot, beat) in rows {
                    let receiver = connection.slots.receiver(slot);
                    let receiver = receiver.map_err(|why| why.text().to_owned())?;
                    receivers.extend(receiver.map(|local| (local, beat)));
                }
                for (local, beat) in receivers {
                    let message = Message::of_beat(node_id(peer), node_id(me), &beat);
                    self.deliver(id, &local, message);
                }
            }
            Kind::Ping | Kind::Pong => {}
            Kind::Introduction => return self.handle_introduction(id, &frame.content),
            Kind::Withdrawal => return self.handle_withdrawal(id, &frame.content),
            kind => return Err(format!("a frame of kind {kind:?}")),
        }
        Ok(())
    }

    fn handle_hello(&mut self, id: u64, frame: &Frame) -> Result<(), String> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let (me, peer) = (connection.acceptor.host, connection.dialler.host);
        let hello = ConnectionHello::decode(&frame.content).map_err(|why| why.to_string())?;
        if frame.kind != Kind::Hello || hello.to != node_id(me) {
            return Err(format!("{hello:?} at host {}", me + 1));
        }
        connection.hello = Some(hello);
        let Some(process) = &self.hosts[me].process else { return Ok(()) };
        let response = process.hello(me, peer).encode();
        self.say(id, Kind::Hello, response);
        Ok(())
    }

    fn handle_message(&mut self, id: u64, local: &LocalGroup, frame: &Frame) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let (me, peer) = (connection.acceptor.host, connection.dialler.host);
        match Message::decode(frame.content.clone()) {
            Ok(message) if message.from() == node_id(peer) && message.to() == node_id(me) => {
                self.deliver(id, local, message);
            }
            _ => self.refuse_messages(id, local, frame.slot),
        }
    }

    /// This process does not understand the messages of a slot: the slot ends. The connection ends
    /// with its last slot.
    fn refuse_messages(&mut self, id: u64, local: &LocalGroup, slot: u32) {
        let reason = HandshakeRejection::Unreadable;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let (me, peer) = (connection.acceptor.host, connection.dialler.host);
        connection.slots.remove(slot);
        connection.reader.forget(slot);
        let is_last = connection.slots.len() == 0;
        self.refuse(me, peer, local, reason);
        let refusal = local.registry.lock().refusal(reason);
        self.say(id, Kind::Decline, slots::with_bytes(slot, &refusal));
        self.coverage.hit("slots that ended with a message that is not understood");
        if is_last {
            self.close_accepted(id);
        }
        self.wake_groups(me);
    }

    /// Gives a group a message, which it must have sent itself.
    fn deliver(&mut self, id: u64, local: &LocalGroup, message: Message) {
        let Some(connection) = self.connections.get(&id) else { return };
        let (me, peer) = (connection.acceptor.host, connection.dialler.host);
        let from_process = connection.dialler.process;
        let Some(process) = &mut self.hosts[me].process else { return };
        let Some(joined) = process.by_number(local.number) else {
            // It has left, and drops it.
            self.coverage.hit("messages to a group that has left");
            local.deliver(message);
            return;
        };
        let (group, generation) = (joined.group, joined.generation);
        let newest = joined.newest.get(&peer).copied().unwrap_or(0);
        let it = &self.groups[group];
        let is_own =
            it.generation == generation && it.sent.contains_key(&(peer, hash_of(&message)));
        if !is_own || from_process < newest {
            let why = if is_own { "an earlier process" } else { "another group" };
            return self.violated(format!(
                "A15: host {} gives group {}.{generation} a message of {why}: {message:?}",
                me + 1,
                group + 1
            ));
        }
        let numbers = [6, peer as u64, me as u64, message.term()];
        it.cluster.monitor().note(&numbers, || format!("receive {message:?}"));
        local.deliver(message);
        self.wake_group(group, me);
    }

    fn handle_introduction(&mut self, id: u64, content: &[u8]) -> Result<(), String> {
        let (slot, hello) = slots::split(content).ok_or("an introduction without a slot")?;
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        connection.slots.introduce(slot).map_err(|why| why.text().to_owned())?;
        let (me, peer) = (connection.acceptor.host, connection.dialler.host);
        let decoded = Hello::decode(hello);
        let process = self.hosts[me].process.as_ref();
        let name = decoded.as_ref().ok().map(|hello| hello.group.clone());
        let local = name.and_then(|name| process?.by_name(&name));
        let Some(local) = local else {
            let removed = self.hosts[me].disk.removed();
            let reason = match decoded {
                Ok(hello) if removed.contains(hello.group_uid) => HandshakeRejection::RemovedGroup,
                Ok(_) => HandshakeRejection::NoSuchGroup,
                Err(reason) => reason,
            };
            let refusal = Rejection::bytes_of(reason);
            self.say(id, Kind::Decline, slots::with_bytes(slot, &refusal));
            return Ok(());
        };
        if decoded.is_ok_and(|hello| self.is_nameless(me, &local, &hello)) {
            let refusal = Rejection::bytes_of(HandshakeRejection::NoSuchGroup);
            self.say(id, Kind::Decline, slots::with_bytes(slot, &refusal));
            return Ok(());
        }
        match self.judge(me, &local, hello, node_id(peer), HelloWay::In) {
            Ok(hello) => self.accept(id, slot, &local, &hello),
            Err(reason) => {
                let refusal = local.registry.lock().refusal(reason);
                self.say(id, Kind::Decline, slots::with_bytes(slot, &refusal));
            }
        }
        Ok(())
    }

    /// Whether this comes from a removed generation of the group, and the unique ids cannot tell:
    /// one of the two does not know its own yet, and no tombstone here names the other. Such an
    /// introduction would have to be under way for longer than it takes to remove the group from
    /// all hosts and to make it again, so nothing is promised then.
    fn is_nameless(&mut self, host: usize, local: &LocalGroup, hello: &Hello) -> bool {
        let removed = self.hosts[host].disk.removed();
        let theirs = self.directories.get(&hello.identity.directory).copied();
        let Some(process) = &mut self.hosts[host].process else { return false };
        let Some(joined) = process.by_number(local.number) else { return false };
        let is_told = hello.group_uid != 0 && joined.group_uid != 0;
        let is_other = theirs != Some((joined.group, joined.generation));
        let is_nameless = is_other && !is_told && !removed.contains(hello.group_uid);
        if is_nameless {
            self.coverage.hit("introductions of a removed group whose id is not known");
        }
        is_nameless
    }

    fn accept(&mut self, id: u64, slot: u32, local: &std::sync::Arc<LocalGroup>, hello: &Hello) {
        let Some(connection) = self.connections.get(&id) else { return };
        let (acceptor, dialler) = (connection.acceptor, connection.dialler);
        let (me, peer) = (acceptor.host, dialler.host);
        self.end_earlier_slots(id, local.number);
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.slots.accept(slot, local, hello.nonce);
        local.meet(node_id(peer), hello.process());
        let response = local.registry.lock().hello_to(node_id(peer));
        self.say(id, Kind::Acceptance, slots::with_hello(slot, &response));
        self.coverage.hit("slots accepted");
        let now = self.instant(self.queue.now);
        let is_late = self.hosts[peer].process.as_ref().is_none_or(|it| it.id != dialler.process);
        let Some(process) = &mut self.hosts[me].process else { return };
        if let Some(joined) = process.by_number(local.number) {
            let newest = joined.newest.entry(peer).or_default();
            *newest = dialler.process.max(*newest);
        }
        if let Some(sender) = process.senders.get_mut(&peer) {
            sender.has_seen_earlier |= is_late;
            sender.queue.see(local.number, dialler.process, hello.process(), now);
        }
        self.wake_writer(me, peer, self.queue.now);
        self.wake_groups(me);
    }

    /// A peer that connects again has given up its earlier connection.
    fn end_earlier_slots(&mut self, id: u64, number: u64) {
        let Some(connection) = self.connections.get(&id) else { return };
        let (acceptor, dialler) = (connection.acceptor, connection.dialler);
        let mut ended = Vec::new();
        for (other, earlier) in &mut self.connections {
            let is_earlier = *other != id
                && earlier.is_open_at(acceptor.host, acceptor.process)
                && earlier.acceptor.host == acceptor.host
                && earlier.dialler.host == dialler.host;
            if is_earlier && earlier.slots.give_up(number) {
                ended.push((*other, earlier.slots.len() == 0));
            }
        }
        for (other, is_empty) in ended {
            self.coverage.hit("slots that ended on an earlier connection");
            match is_empty {
                true => self.close_accepted(other),
                false => self.tell_given_up(other),
            }
        }
    }

    fn handle_withdrawal(&mut self, id: u64, content: &[u8]) -> Result<(), String> {
        let (slot, refusal) = slots::split(content).ok_or("a withdrawal without a slot")?;
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        let (me, peer) = (connection.acceptor.host, connection.dialler.host);
        let local = connection.slots.group(slot);
        connection.slots.remove(slot);
        connection.reader.forget(slot);
        let Some(local) = local else { return Ok(()) };
        self.coverage.hit("slots withdrawn");
        if !refusal.is_empty() {
            let reason = local.registry.lock().refused_by(refusal).reason;
            self.refuse(me, peer, &local, reason);
        }
        self.report_down(me, peer, &local);
        Ok(())
    }

    /// The process that was dialled closes a connection, or finds it closed.
    pub(super) fn close_accepted(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let (acceptor, peer) = (connection.acceptor, connection.dialler.host);
        if acceptor.is_closed {
            return;
        }
        connection.acceptor.is_closed = true;
        let groups = connection.slots.groups();
        self.transmit(id, Way::Back, None);
        if !groups.is_empty() {
            let (host, process) = (acceptor.host, acceptor.process);
            let event = HostEvent::ReportEnd { host, process, peer, groups };
            self.queue.put_in(self.config.reconnect, event);
        }
    }

    /// The connections of a process that has ended. Without power nobody tells the peers.
    pub(super) fn abandon(&mut self, host: usize, process: u64, is_power_cut: bool) {
        let open: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.is_open_at(host, process))
            .map(|(id, _)| *id)
            .collect();
        for id in open {
            let is_silent = is_power_cut && self.rng.percent(50);
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            let way = match connection.dialler.host == host {
                true => Way::Forward,
                false => Way::Back,
            };
            match way {
                Way::Forward => connection.dialler.is_closed = true,
                Way::Back => connection.acceptor.is_closed = true,
            }
            if is_power_cut && self.rng.percent(50) {
                let Some(connection) = self.connections.get_mut(&id) else { continue };
                connection.stream(way).lose();
            }
            if !is_silent {
                self.transmit(id, way, None);
            }
        }
    }

    /// A host starts: it resets the connections of the processes before.
    pub(super) fn reset_stale(&mut self, host: usize) {
        let ends = |connection: &super::wire::Connection| {
            let (dialler, acceptor) = (connection.dialler, connection.acceptor);
            match (dialler.host == host, acceptor.host == host) {
                (true, _) if dialler.is_closed && !acceptor.is_closed => Some(Way::Forward),
                (_, true) if acceptor.is_closed && !dialler.is_closed => Some(Way::Back),
                _ => None,
            }
        };
        let stale = self.connections.iter().filter_map(|(id, it)| Some((*id, ends(it)?)));
        for (id, way) in stale.collect::<Vec<_>>() {
            self.transmit(id, way, None);
        }
    }

    /// Something was read on a connection.
    fn hear(&mut self, id: u64) {
        let now: Micros = self.queue.now;
        let interval = self.config.silence / 4;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let (me, peer) = (connection.acceptor.host, connection.dialler.host);
        connection.heard = now;
        if std::mem::take(&mut connection.is_silent) {
            let groups = connection.slots.groups();
            groups.iter().for_each(|group| group.set_up(node_id(peer)));
            self.wake_groups(me);
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.hello.is_some() && now >= connection.ponged + interval {
            connection.ponged = now;
            self.say_pong(id);
        }
    }

    fn say_pong(&mut self, id: u64) {
        self.transmit(id, Way::Back, Some(frame::numbered(Kind::Pong, 0).into()));
    }
}
