//! One connection: quinn-proto's state machine, its control stream, and what the driver notes of it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn_proto::crypto::rustls::HandshakeData;
use quinn_proto::{
    Connection, Dir, Event as ProtoEvent, ReadError, SendDatagramError, Side, StreamEvent,
    StreamId, Transmit, WriteError,
};
use stentor_proto::limits::{CONTROL_BACKLOG_BYTES, PEER_DATAGRAM_BYTES};
use stentor_proto::wire::CloseCode;

use super::event::{CloseReason, ClosedBy, ConnId, DriverStats, Event, Outcome, SendControlError};
use super::networks::{Network, Networks};
use super::sys::{Marks, SourceProbe};
use super::webtransport::Breach;
use h3::H3;

mod h3;

/// What connections report to their driver.
pub(super) struct Outbox {
    pub(super) events: VecDeque<Event>,
    pub(super) stats: DriverStats,
    pub(super) handshaking: usize,
    pub(super) open: usize,
    /// Whose handshakes they are.
    pub(super) networks: Networks,
}

impl Outbox {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            events: VecDeque::new(),
            stats: DriverStats::default(),
            handshaking: 0,
            open: 0,
            networks: Networks::new(now),
        }
    }
}

/// Where a connection is in its life: handshaking → open → closed, or handshaking → closed. The
/// opening of a WebTransport session counts as part of the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Handshaking,
    Open,
    /// quinn-proto still answers stray packets until it is drained; before that, a WebTransport
    /// session lingers until the peer has its reason.
    Closed,
}

/// A connection and what the driver notes of it.
pub(super) struct Entry {
    pub(super) quic: Connection,
    state: State,
    /// The peer's, of a handshake that the peer began.
    network: Option<Network>,
    /// In the driver's list of connections to poll for packets.
    pub(super) dirty: bool,
    /// A datagram waits inside quinn-proto.
    waiting: bool,
    /// When a peer's handshake is given up, or the farewell of its WebTransport session; none in
    /// between, and for our own.
    pub(super) due: Option<Instant>,
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
    /// Whether somebody wants to know when the backlog is empty.
    awaited: bool,
    /// What a WebTransport session has beside its control stream.
    h3: Option<Box<H3>>,
    /// `send_buffer_space()` of an empty datagram buffer.
    empty_space: usize,
    /// The peer address towards which the routing table chooses this connection's source by itself.
    routed_to: Option<SocketAddr>,
    /// When that is looked at next.
    route_check: Option<Instant>,
}

impl Entry {
    pub(super) fn new(mut quic: Connection, network: Option<Network>, outbox: &mut Outbox) -> Self {
        outbox.handshaking += 1;
        let empty_space = quic.datagrams().send_buffer_space();
        Self {
            known: quic.side() == Side::Client,
            quic,
            state: State::Handshaking,
            network,
            dirty: false,
            waiting: false,
            due: None,
            farewell: false,
            drained: false,
            control_stopped: false,
            control: None,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            awaited: false,
            h3: None,
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
                ProtoEvent::Stream(event) => {
                    if let Err(breach) = self.stream(now, conn, event, outbox) {
                        self.breach(now, conn, breach, outbox);
                    }
                }
                ProtoEvent::HandshakeDataReady => self.protocol_known(),
                // Whether a datagram waits is seen in the buffer itself, after each transmit.
                ProtoEvent::DatagramsUnblocked => {}
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

    /// Reports when the backlog is empty: now, or when the peer has read.
    pub(super) fn await_control(&mut self, conn: ConnId, outbox: &mut Outbox) {
        self.awaited = true;
        self.written(conn, outbox);
    }

    fn written(&mut self, conn: ConnId, outbox: &mut Outbox) {
        if self.state == State::Open && self.backlog.is_empty() && std::mem::take(&mut self.awaited)
        {
            outbox.events.push_back(Event::ControlWritten { conn });
        }
    }

    /// Closes the connection from this side. A WebTransport session is told why first, and `due` then
    /// says for how long.
    pub(super) fn close(
        &mut self,
        now: Instant,
        conn: ConnId,
        code: u32,
        reason: &str,
        outbox: &mut Outbox,
    ) {
        if self.state == State::Closed {
            return;
        }
        if !self.say_farewell(now, code, reason) {
            let code = self.wire_code(code);
            self.quic.close(now, code, Bytes::copy_from_slice(reason.as_bytes()));
        }
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
        if self.h3.is_none() {
            self.open(conn, outbox);
            self.open_control();
        }
    }

    /// The session can be used from here on.
    fn open(&mut self, conn: ConnId, outbox: &mut Outbox) {
        self.state = State::Open;
        self.known = true;
        self.handshake_ended(outbox);
        outbox.open += 1;
        outbox.stats.connected += 1;
        outbox.stats.webtransport += u64::from(self.h3.is_some());
        let alpn = self.alpn();
        outbox.events.push_back(Event::Connected { conn, peer: self.quic.remote_address(), alpn });
    }

    fn handshake_ended(&mut self, outbox: &mut Outbox) {
        outbox.handshaking -= 1;
        if let Some(network) = self.network.take() {
            outbox.networks.ended(network);
        }
    }

    fn alpn(&self) -> Bytes {
        let data = self.quic.crypto_session().handshake_data();
        let data = data.and_then(|data| data.downcast::<HandshakeData>().ok());
        data.and_then(|data| data.protocol).map_or_else(Bytes::new, Bytes::from)
    }

    /// Tells the end of the connection, once, to a caller who knows it.
    fn closed(&mut self, conn: ConnId, reason: CloseReason, outbox: &mut Outbox) {
        match self.state {
            State::Closed => return,
            State::Open => outbox.open -= 1,
            State::Handshaking => {
                self.handshake_ended(outbox);
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

    fn stream(
        &mut self,
        now: Instant,
        conn: ConnId,
        event: StreamEvent,
        outbox: &mut Outbox,
    ) -> Result<(), Breach> {
        match event {
            StreamEvent::Readable { id } if self.control == Some(id) => {
                self.read_control(conn, outbox)?;
            }
            StreamEvent::Writable { id } if self.control == Some(id) => {
                self.write_control();
                self.written(conn, outbox);
            }
            StreamEvent::Stopped { id, .. } if self.control == Some(id) => {
                self.control_lost();
                self.written(conn, outbox);
            }
            event if self.h3.is_some() => self.h3_stream(now, conn, event, outbox)?,
            StreamEvent::Opened { dir } => self.accept_streams(conn, dir, outbox)?,
            StreamEvent::Available { dir: Dir::Bi } => self.open_control(),
            _ => {}
        }
        Ok(())
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
    fn accept_streams(
        &mut self,
        conn: ConnId,
        dir: Dir,
        outbox: &mut Outbox,
    ) -> Result<(), Breach> {
        while let Some(id) = self.quic.streams().accept(dir) {
            match dir == Dir::Bi && self.quic.side() == Side::Server && self.control.is_none() {
                true => self.accept_control(conn, id, outbox)?,
                false => self.refuse_stream(id, outbox),
            }
        }
        Ok(())
    }

    fn accept_control(
        &mut self,
        conn: ConnId,
        id: StreamId,
        outbox: &mut Outbox,
    ) -> Result<(), Breach> {
        self.control = Some(id);
        self.read_control(conn, outbox)?;
        self.write_control();
        Ok(())
    }

    fn refuse_stream(&mut self, id: StreamId, outbox: &mut Outbox) {
        outbox.stats.streams_refused += 1;
        let code = self.wire_code(CloseCode::Protocol as u32);
        // Either fails only on a stream that is closed already, which is what is wanted.
        let _ = self.quic.recv_stream(id).stop(code);
        if id.dir() == Dir::Bi {
            let _ = self.quic.send_stream(id).reset(code);
        }
    }

    fn read_control(&mut self, conn: ConnId, outbox: &mut Outbox) -> Result<(), Breach> {
        let Some(id) = self.control else { return Ok(()) };
        if self.h3.is_some() && self.state == State::Handshaking {
            // It waits, within its flow-control window, for the session to open.
            return Ok(());
        }
        let (state, h3) = (self.state, &mut self.h3);
        let finished = read(&mut self.quic, id, |bytes| {
            let bytes = match h3 {
                Some(h3) if state == State::Open => h3.control(bytes)?,
                _ => Some(bytes),
            };
            if let Some(bytes) = bytes.filter(|_| state == State::Open) {
                outbox.events.push_back(Event::Control { conn, bytes });
            }
            Ok(())
        })?;
        if finished && state == State::Open {
            outbox.events.push_back(Event::ControlFinished { conn });
        }
        Ok(())
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

/// Hands all that waits in a stream to `each`, in order; whether the stream has ended.
fn read(
    quic: &mut Connection,
    id: StreamId,
    mut each: impl FnMut(Bytes) -> Result<(), Breach>,
) -> Result<bool, Breach> {
    let mut stream = quic.recv_stream(id);
    let Ok(mut chunks) = stream.read(true) else { return Ok(false) };
    let finished = loop {
        // As much as waits: the flow-control window bounds it.
        match chunks.next(usize::MAX) {
            Ok(Some(chunk)) if chunk.bytes.is_empty() => {}
            Ok(Some(chunk)) => each(chunk.bytes)?,
            Ok(None) | Err(ReadError::Reset(_)) => break true,
            Err(ReadError::Blocked) => break false,
        }
    };
    // The connection is polled for packets after every input anyway.
    let _ = chunks.finalize();
    Ok(finished)
}

/// The marks that quinn-proto wants on a packet.
#[inline]
pub(super) fn marks(transmit: &Transmit) -> Marks {
    Marks { ecn: transmit.ecn.map_or(0, |ecn| ecn as u8), source: transmit.src_ip }
}

/// How long a route is taken to stay as it is.
const ROUTE_CHECK: Duration = Duration::from_secs(5);
