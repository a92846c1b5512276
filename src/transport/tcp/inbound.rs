//! Inbound connections: the handshake, then a thread per connection that reads messages and
//! delivers them.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::connection::InboundConnection;
use super::context::TcpContext;
use super::peer_sender::PeerSenders;
use super::pending::PendingConnections;
use super::refusals::By;
use super::stream::{
    ConnectError, HELLO_TIMEOUT, SILENCE_TIMEOUT, configure_stream, read_frame, write_frame,
};
use crate::entry::NodeId;
use crate::primitives::Instant;
use crate::transport::frame::{self, Frame, FrameReader, Kind};
use crate::transport::hello::{HandshakeRejection, Hello};
use crate::transport::{Message, MessageError};

/// The longest pause before a message is offered to a full inbox again.
const INBOX_RETRY_MAX: Duration = Duration::from_millis(20);
/// The least time between two pongs that answer no ping.
const PONG_INTERVAL: Duration = Duration::from_millis(250);

/// Accepts and reads the connections that peers open.
pub(super) struct Inbound {
    pub(super) context: Arc<TcpContext>,
    senders: Arc<PeerSenders>,
    /// The connections that have not completed the handshake.
    pending: PendingConnections,
}

impl Inbound {
    pub(super) fn new(context: Arc<TcpContext>, senders: Arc<PeerSenders>) -> Inbound {
        Inbound { context, senders, pending: PendingConnections::default() }
    }

    /// Gives a new connection a thread, once [`PendingConnections`] has room for it.
    pub(super) fn accept_connection(self: &Arc<Inbound>, stream: TcpStream, address: SocketAddr) {
        let connection = Arc::new(InboundConnection::new(stream));
        self.pending.enter(&connection, address);
        let (shared, own) = (self.clone(), connection.clone());
        if let Err(error) = self.context.spawner.spawn("from", move || shared.run(&own, address)) {
            self.pending.leave(&connection);
            self.context.log_rejection(&address.to_string(), &error.into());
        }
    }

    /// The thread of one connection: handshake, then messages until either side closes it.
    fn run(&self, connection: &Arc<InboundConnection>, address: SocketAddr) {
        let context = &*self.context;
        context.connections.lock().push(connection.clone());
        // A stop closes the connections of the list. One that is added later sees the stop here.
        if context.is_stopped() {
            connection.close();
        }
        let mut reader = FrameReader::new();
        let admitted = self.admit(connection, &mut reader);
        self.pending.leave(connection);
        let end = admitted.and_then(|peer| Ok(self.read(connection, peer, &mut reader)?));
        if let Err(why) = end
            && !connection.is_closed()
        {
            context.log_rejection(&address.to_string(), &why);
        }
        connection.close();
        context.connections.lock().retain(|other| !Arc::ptr_eq(other, connection));
    }

    /// The handshake. Returns the peer, or sends it the reason of the rejection.
    fn admit(
        &self,
        connection: &InboundConnection,
        reader: &mut FrameReader,
    ) -> Result<NodeId, ConnectError> {
        let (context, stream) = (&*self.context, &connection.stream);
        configure_stream(stream)?;
        let frame = read_frame(stream, reader, Instant::now() + HELLO_TIMEOUT)?;
        let judged = match frame.kind {
            Kind::Hello => context.judge(&frame.content, None, |hello, deadline| {
                self.senders
                    .to(hello.from)
                    .is_some_and(|sender| sender.is_answered_by_another(hello.process(), deadline))
            }),
            _ => Err(context.registry.lock().rejection(HandshakeRejection::Protocol, &[])),
        };
        let hello = match judged {
            Ok(hello) => hello,
            Err(why) => {
                let refusal = context.registry.lock().refusal(why.reason);
                let _ = write_frame(stream, &frame::encode(Kind::Refusal, refusal));
                return Err(why.into());
            }
        };
        self.replace_earlier(connection, &hello);
        let response = context.registry.lock().hello_to(hello.from);
        write_frame(stream, &frame::encode(Kind::Hello, response.encode()))?;
        context.refusals.clear(hello.from, By::Us);
        if let Some(sender) = self.senders.to(hello.from) {
            sender.peer_connected(hello.process());
        }
        reader.set_len_max(context.message_bytes_max);
        stream.set_read_timeout(Some(SILENCE_TIMEOUT))?;
        Ok(hello.from)
    }

    /// A peer that connects again has given up its earlier connection, also if that still looks
    /// open here.
    fn replace_earlier(&self, connection: &InboundConnection, hello: &Hello) {
        let connections = self.context.connections.lock();
        let earlier = connections.iter().filter(|earlier| earlier.is_from(hello.from));
        earlier.for_each(|earlier| earlier.close());
        connection.identify(hello);
    }

    /// Reads until either side closes the connection, or it was silent for [`SILENCE_TIMEOUT`].
    /// Pongs report to the peer that its bytes arrive.
    fn read(
        &self,
        connection: &InboundConnection,
        peer: NodeId,
        reader: &mut FrameReader,
    ) -> io::Result<()> {
        let mut pongs = Pongs(Instant::now());
        loop {
            while let Some(frame) = reader.next()? {
                match frame.kind {
                    Kind::Ping => send_pong(connection, frame.number())?,
                    Kind::Pong => connection.handle_pong(frame.number()),
                    Kind::Refusal => return self.handle_refusal(peer, &frame),
                    _ => self.deliver(connection, peer, &frame, &mut pongs)?,
                }
            }
            match reader.read_from(&mut &connection.stream) {
                Ok(0) => return Ok(()),
                Ok(_) => pongs.send(connection)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn handle_refusal(&self, peer: NodeId, frame: &Frame) -> io::Result<()> {
        let why = self.context.registry.lock().refused_by(&frame.content);
        self.context.refusals.set(peer, By::Peer, why);
        Ok(())
    }

    /// Delivers a message. While the inbox is full nothing more is read, which holds the peer back.
    fn deliver(
        &self,
        connection: &InboundConnection,
        peer: NodeId,
        frame: &Frame,
        pongs: &mut Pongs,
    ) -> io::Result<()> {
        let mut pause = Duration::from_millis(1);
        loop {
            let message = self.message_of(connection, peer, frame)?;
            if self.context.inbox.deliver(message) {
                return Ok(());
            }
            // A busy node is alive.
            pongs.send(connection)?;
            if self.context.wait_or_stopped(pause) || connection.is_closed() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            pause = (pause * 2).min(INBOX_RETRY_MAX);
        }
    }

    /// The message in a frame, if it goes from `peer` to this node. Decoded again for each retry:
    /// retries are rare, and no payload is copied.
    fn message_of(
        &self,
        connection: &InboundConnection,
        peer: NodeId,
        frame: &Frame,
    ) -> io::Result<Message> {
        let invalid = |why: MessageError| io::Error::new(io::ErrorKind::InvalidData, why);
        if frame.kind != Kind::Message {
            return Err(invalid(MessageError("another hello")));
        }
        let decoded = Message::decode(frame.content.clone());
        let message = decoded.inspect_err(|_| self.refuse(connection, peer)).map_err(invalid)?;
        if message.from() != peer || message.to() != self.context.node {
            return Err(invalid(MessageError("it does not go from that peer to this node")));
        }
        Ok(message)
    }

    /// Reports on both sides that this version does not understand the messages of the peer.
    fn refuse(&self, connection: &InboundConnection, peer: NodeId) {
        let (why, refusal) = {
            let registry = self.context.registry.lock();
            let reason = HandshakeRejection::Unreadable;
            (registry.rejection(reason, &[]), registry.refusal(reason))
        };
        self.context.refusals.set(peer, By::Us, why);
        let _ = connection.write_frame(&frame::encode(Kind::Refusal, refusal));
    }
}

/// Answers a ping with a number other than 0 at once.
fn send_pong(connection: &InboundConnection, number: Option<u64>) -> io::Result<()> {
    match number {
        Some(number @ 1..) => connection.write_frame(&frame::numbered(Kind::Pong, number)),
        _ => Ok(()),
    }
}

/// The time of the last pong that answered no ping.
struct Pongs(Instant);

impl Pongs {
    fn send(&mut self, connection: &InboundConnection) -> io::Result<()> {
        let now = Instant::now();
        if now.saturating_duration_since(self.0) < PONG_INTERVAL {
            return Ok(());
        }
        self.0 = now;
        connection.write_frame(&frame::numbered(Kind::Pong, 0))
    }
}
