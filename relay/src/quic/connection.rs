//! One connection: quinn-proto's state machine, its control stream, and what the driver notes of it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn_proto::crypto::rustls::HandshakeData;
use quinn_proto::{
    Connection, Dir, Event as ProtoEvent, ReadError, SendDatagramError, Side, StreamEvent,
    StreamId, Transmit, VarInt, WriteError,
};
use stentor_proto::limits::{CONTROL_BACKLOG_BYTES, PEER_DATAGRAM_BYTES};
use stentor_proto::wire::CloseCode;

use super::event::{CloseReason, ClosedBy, ConnId, DriverStats, Event, Outcome, SendControlError};
use super::sys::{Marks, SourceProbe};

/// What connections report to their driver.
#[derive(Default)]
pub(super) struct Outbox {
    pub(super) events: VecDeque<Event>,
    pub(super) stats: DriverStats,
    pub(super) handshaking: usize,
    pub(super) open: usize,
}

/// Where a connection is in its life: handshaking → open → closed, or handshaking → closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Handshaking,
    Open,
    /// quinn-proto still answers stray packets until it is drained.
    Closed,
}

/// A connection and what the driver notes of it.
pub(super) struct Entry {
    pub(super) quic: Connection,
    state: State,
    /// In the driver's list of connections to poll for packets.
    pub(super) dirty: bool,
    /// A datagram waits inside quinn-proto.
    waiting: bool,
    /// When a peer's handshake is given up; none once it is over, and for our own.
    pub(super) handshake_due: Option<Instant>,
    /// The caller knows this connection, and is to be told its end.
    known: bool,
    /// `Event::Closed` has been taken, or is not owed.
    pub(super) farewell: bool,
    /// quinn-proto is done with it.
    pub(super) drained: bool,
    control_stopped: bool,
    control: Option<StreamId>,
    backlog: VecDeque<Bytes>,
    backlog_bytes: usize,
    /// `send_buffer_space()` of an empty datagram buffer.
    empty_space: usize,
    /// The peer address towards which the routing table chooses this connection's source by itself.
    routed_to: Option<SocketAddr>,
    /// When that is looked at next.
    route_check: Option<Instant>,
}

impl Entry {
    pub(super) fn new(mut quic: Connection, outbox: &mut Outbox) -> Self {
        outbox.handshaking += 1;
        let empty_space = quic.datagrams().send_buffer_space();
        Self {
            known: quic.side() == Side::Client,
            quic,
            state: State::Handshaking,
            dirty: false,
            waiting: false,
            handshake_due: None,
            farewell: false,
            drained: false,
            control_stopped: false,
            control: None,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            empty_space,
            routed_to: None,
            route_check: None,
        }
    }

    /// Whether quinn-proto ended the connection without the caller having been told.
    pub(super) fn died(&self) -> bool {
        self.state != State::Closed && self.quic.is_closed()
    }

    /// Whether the handshake is under way.
    pub(super) fn handshakes(&self) -> bool {
        self.state == State::Handshaking
    }

    /// Takes over what quinn-proto has to tell the application.
    pub(super) fn poll(
        &mut self,
        now: Instant,
        conn: ConnId,
        received_ns: u64,
        outbox: &mut Outbox,
    ) {
        while let Some(event) = self.quic.poll() {
            match event {
                ProtoEvent::Connected => self.connected(now, conn, outbox),
                ProtoEvent::ConnectionLost { reason } => self.closed(conn, reason.into(), outbox),
                ProtoEvent::DatagramReceived => self.receive(conn, received_ns, outbox),
                ProtoEvent::Stream(event) => self.stream(conn, event, outbox),
                // Whether a datagram waits is seen in the buffer itself, after each transmit.
                ProtoEvent::DatagramsUnblocked | ProtoEvent::HandshakeDataReady => {}
            }
        }
    }

    /// Hands a datagram to quinn-proto, which is polled for its packet next.
    #[inline]
    pub(super) fn offer(&mut self, bytes: Bytes) -> Result<(), Outcome> {
        if self.state != State::Open {
            return Err(Outcome::Closed);
        }
        if self.waiting {
            return Err(Outcome::Full);
        }
        match self.quic.datagrams().send(bytes, false) {
            Ok(()) => Ok(()),
            Err(SendDatagramError::Blocked(_)) => Err(Outcome::Full),
            Err(SendDatagramError::TooLarge) => Err(Outcome::TooLarge),
            Err(SendDatagramError::UnsupportedByPeer | SendDatagramError::Disabled) => {
                Err(Outcome::Closed)
            }
        }
    }

    /// Whether every datagram that was handed in has left.
    #[inline]
    pub(super) fn datagrams_left(&mut self) -> bool {
        self.quic.datagrams().send_buffer_space() == self.empty_space
    }

    /// Notes that a datagram could not leave.
    pub(super) fn wait(&mut self) {
        self.waiting = true;
    }

    /// After packets left: reports that the datagram that waited is gone.
    #[inline]
    pub(super) fn transmitted(&mut self, conn: ConnId, outbox: &mut Outbox) {
        if self.waiting && self.datagrams_left() {
            self.waiting = false;
            if self.state == State::Open {
                outbox.events.push_back(Event::Unblocked { conn });
            }
        }
    }

    /// The marks of one of this connection's packets: its source is named only where the routing
    /// table would choose another.
    #[inline]
    pub(super) fn marks(&self, transmit: &Transmit) -> Marks {
        let mut marks = marks(transmit);
        if self.routed_to == Some(transmit.destination) {
            marks.source = None;
        }
        marks
    }

    /// Asks the routing table about this connection's path, when it is established and then once in
    /// [`ROUTE_CHECK`]; any packet or timeout of the connection leads here.
    #[inline]
    pub(super) fn check_source(&mut self, now: Instant, probe: &mut SourceProbe) {
        if self.state == State::Open && self.route_check.is_none_or(|at| at <= now) {
            self.route_check = Some(now + ROUTE_CHECK);
            let peer = self.quic.remote_address();
            self.routed_to = match (self.quic.local_ip(), probe.source_to(peer)) {
                (Some(local), Ok(source)) if local == source => Some(peer),
                _ => None,
            };
        }
    }

    /// Queues bytes on the control stream.
    pub(super) fn send_control(&mut self, bytes: Bytes) -> Result<(), SendControlError> {
        if self.state == State::Closed {
            return Err(SendControlError::Closed);
        }
        if self.control_stopped {
            return Err(SendControlError::Stopped);
        }
        if self.backlog_bytes + bytes.len() > CONTROL_BACKLOG_BYTES {
            return Err(SendControlError::TooSlow);
        }
        if !bytes.is_empty() {
            self.backlog_bytes += bytes.len();
            self.backlog.push_back(bytes);
            self.write_control();
        }
        Ok(())
    }

    /// Closes the connection from this side.
    pub(super) fn close(
        &mut self,
        now: Instant,
        conn: ConnId,
        code: u32,
        reason: &str,
        outbox: &mut Outbox,
    ) {
        let text = Bytes::copy_from_slice(reason.as_bytes());
        self.quic.close(now, VarInt::from_u32(code), text);
        let reason =
            CloseReason { code: Some(code.into()), text: reason.to_owned(), by: ClosedBy::Local };
        self.closed(conn, reason, outbox);
    }

    fn connected(&mut self, now: Instant, conn: ConnId, outbox: &mut Outbox) {
        let most = self.quic.datagrams().max_size().unwrap_or(0);
        if most < PEER_DATAGRAM_BYTES {
            outbox.stats.datagrams_too_small += 1;
            let reason = format!(
                "datagrams of {PEER_DATAGRAM_BYTES} bytes are needed, the peer or its path takes \
                 {most}; raise max_datagram_frame_size and max_udp_payload_size"
            );
            let code = CloseCode::DatagramsTooSmall as u32;
            self.close(now, conn, code, &reason, outbox);
            return;
        }
        self.state = State::Open;
        self.known = true;
        outbox.handshaking -= 1;
        outbox.open += 1;
        outbox.stats.connected += 1;
        let alpn = self
            .quic
            .crypto_session()
            .handshake_data()
            .and_then(|data| data.downcast::<HandshakeData>().ok())
            .and_then(|data| data.protocol)
            .map_or_else(Bytes::new, Bytes::from);
        outbox.events.push_back(Event::Connected { conn, peer: self.quic.remote_address(), alpn });
        self.open_control();
    }

    /// Tells the end of the connection, once, to a caller who knows it.
    fn closed(&mut self, conn: ConnId, reason: CloseReason, outbox: &mut Outbox) {
        match self.state {
            State::Closed => return,
            State::Open => outbox.open -= 1,
            State::Handshaking => {
                outbox.handshaking -= 1;
                outbox.stats.handshakes_failed += 1;
            }
        }
        self.state = State::Closed;
        self.backlog = VecDeque::new();
        self.backlog_bytes = 0;
        match self.known {
            true => outbox.events.push_back(Event::Closed { conn, reason }),
            false => self.farewell = true,
        }
    }

    fn receive(&mut self, conn: ConnId, received_ns: u64, outbox: &mut Outbox) {
        while let Some(bytes) = self.quic.datagrams().recv() {
            // Datagrams may overtake the end of the handshake; nobody knows the connection yet.
            if self.state == State::Open {
                outbox.events.push_back(Event::Datagram { conn, bytes, received_ns });
            }
        }
    }

    fn stream(&mut self, conn: ConnId, event: StreamEvent, outbox: &mut Outbox) {
        match event {
            StreamEvent::Opened { dir } => self.accept_streams(conn, dir, outbox),
            StreamEvent::Readable { id } if self.control == Some(id) => {
                self.read_control(conn, outbox);
            }
            StreamEvent::Writable { id } if self.control == Some(id) => self.write_control(),
            StreamEvent::Stopped { id, .. } if self.control == Some(id) => self.control_lost(),
            StreamEvent::Available { dir: Dir::Bi } => self.open_control(),
            _ => {}
        }
    }

    /// A client opens the control stream as soon as the server allows one.
    fn open_control(&mut self) {
        if self.state == State::Open
            && self.quic.side() == Side::Client
            && self.control.is_none()
            && let Some(id) = self.quic.streams().open(Dir::Bi)
        {
            self.control = Some(id);
            self.write_control();
        }
    }

    /// A server takes the first bidirectional stream for control; every other stream is refused.
    fn accept_streams(&mut self, conn: ConnId, dir: Dir, outbox: &mut Outbox) {
        while let Some(id) = self.quic.streams().accept(dir) {
            if dir == Dir::Bi && self.quic.side() == Side::Server && self.control.is_none() {
                self.control = Some(id);
                self.read_control(conn, outbox);
                self.write_control();
                continue;
            }
            outbox.stats.streams_refused += 1;
            let code = VarInt::from_u32(CloseCode::Protocol as u32);
            // Either fails only on a stream that is closed already, which is what is wanted.
            let _ = self.quic.recv_stream(id).stop(code);
            if dir == Dir::Bi {
                let _ = self.quic.send_stream(id).reset(code);
            }
        }
    }

    fn read_control(&mut self, conn: ConnId, outbox: &mut Outbox) {
        let Some(id) = self.control else { return };
        let mut stream = self.quic.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else {
            return;
        };
        loop {
            // As much as waits: the flow-control window bounds it.
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) if self.state == State::Open => {
                    if !chunk.bytes.is_empty() {
                        let bytes = chunk.bytes;
                        outbox.events.push_back(Event::Control { conn, bytes });
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(ReadError::Reset(_)) => {
                    if self.state == State::Open {
                        outbox.events.push_back(Event::ControlFinished { conn });
                    }
                    break;
                }
                Err(ReadError::Blocked) => break,
            }
        }
        // The connection is polled for packets after every input anyway.
        let _ = chunks.finalize();
    }

    fn write_control(&mut self) {
        let Some(id) = self.control else { return };
        while let Some(front) = self.backlog.front_mut() {
            match self.quic.send_stream(id).write_chunks(std::slice::from_mut(front)) {
                Ok(written) => {
                    self.backlog_bytes -= written.bytes;
                    if front.is_empty() {
                        self.backlog.pop_front();
                    }
                }
                Err(WriteError::Blocked) => return,
                Err(WriteError::Stopped(_) | WriteError::ClosedStream) => {
                    self.control_lost();
                    return;
                }
            }
        }
    }

    fn control_lost(&mut self) {
        self.control_stopped = true;
        self.backlog = VecDeque::new();
        self.backlog_bytes = 0;
    }
}

/// The marks that quinn-proto wants on a packet.
#[inline]
pub(super) fn marks(transmit: &Transmit) -> Marks {
    Marks { ecn: transmit.ecn.map_or(0, |ecn| ecn as u8), source: transmit.src_ip }
}

/// How long a route is taken to stay as it is.
const ROUTE_CHECK: Duration = Duration::from_secs(5);
