//! The driver: its public face. What happens inside is in [`engine`](super::engine).

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn_proto::{ClientConfig, EndpointConfig, ServerConfig};
use stentor_proto::limits::{DRIVER_EVENTS, HANDSHAKES_PER_TURN, PACKET_BATCH, SESSIONS_PER_SHARD};

use super::cid::CidKey;
use super::config::{SharedKeys, endpoint_config};
use super::engine::Engine;
use super::event::{
    ConnId, ConnStats, ConnectError, DriverStats, Event, Outcome, Packet, Received,
    SendControlError,
};
use super::gate::GateSettings;
use super::sys::ReceiveBatch;

/// What a driver is made of, beside its socket.
#[derive(Clone)]
pub struct DriverSettings {
    /// Accepts connections with this; `None` for a client.
    pub server: Option<Arc<ServerConfig>>,
    /// The endpoint's configuration, with the connection IDs of `shard`.
    pub endpoint: Arc<EndpointConfig>,
    /// The key that all shards of this node share.
    pub cid_key: CidKey,
    /// The shard that this driver is.
    pub shard: u16,
    /// The shards that there are on this node.
    pub shards: u16,
    /// Connections held at most, those that are closing included.
    pub connections: usize,
    /// Handshakes started in one call of [`Driver::receive`].
    pub handshakes_per_turn: usize,
    /// Handshakes a second and under way, and when clients prove their address first.
    pub gate: GateSettings,
}

impl DriverSettings {
    /// Settings for a shard that accepts connections.
    #[must_use]
    pub fn server(server: Arc<ServerConfig>, keys: &SharedKeys, shard: u16, shards: u16) -> Self {
        Self {
            server: Some(server),
            endpoint: endpoint_config(keys, shard),
            cid_key: keys.cid(),
            shard,
            shards,
            connections: SESSIONS_PER_SHARD as usize,
            handshakes_per_turn: HANDSHAKES_PER_TURN,
            gate: GateSettings::OPEN,
        }
    }

    /// Settings for a driver that only connects.
    #[must_use]
    pub fn client(keys: &SharedKeys) -> Self {
        Self {
            server: None,
            endpoint: endpoint_config(keys, 0),
            cid_key: keys.cid(),
            shard: 0,
            shards: 1,
            connections: SESSIONS_PER_SHARD as usize,
            handshakes_per_turn: 0,
            gate: GateSettings::OPEN,
        }
    }
}

/// Many QUIC connections on one UDP socket, owned by one thread.
///
/// # How to drive it
/// In a loop: [`handle_timeouts`](Self::handle_timeouts) when [`next_timeout`](Self::next_timeout)
/// has come, [`receive`](Self::receive) when the socket has input, then
/// [`poll_event`](Self::poll_event) until `None`, act on the events, then [`flush`](Self::flush);
/// sleep on [`socket`](Self::socket) and the time of `next_timeout`. Nothing leaves before `flush`,
/// except from full batches.
///
/// Events are drained after each `receive`: `receive` takes no further packet while
/// [`DRIVER_EVENTS`] events wait, which bounds the queue however fast peers send. Any other call adds
/// one event at most for each connection that it touches.
///
/// Each [`ConnId`] seen in [`Event::Connected`] or returned by [`connect`](Self::connect) ends with
/// exactly one [`Event::Closed`]; until that has been taken, its index is not used again.
///
/// `now` never goes backwards from call to call.
///
/// Architecture invariant: no lock, no task, no clock, and no thread of its own; it does not know
/// what a tick or a room is.
pub struct Driver {
    engine: Engine,
    input: ReceiveBatch,
}

impl Driver {
    /// A driver on a bound socket (see [`bind`](super::sys::bind)).
    ///
    /// # Errors
    /// When the socket's address cannot be read, or it cannot be made non-blocking.
    pub fn new(socket: UdpSocket, settings: DriverSettings, now: Instant) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { engine: Engine::new(socket, settings, now)?, input: ReceiveBatch::new() })
    }

    /// Begins a connection. Its control stream opens by itself once it is established; what
    /// [`send_control`](Self::send_control) is given before then waits.
    ///
    /// # Errors
    /// A malformed name or address, or as many connections as the settings allow.
    pub fn connect(
        &mut self,
        now: Instant,
        config: ClientConfig,
        remote: SocketAddr,
        server_name: &str,
    ) -> Result<ConnId, ConnectError> {
        self.engine.connect(now, config, remote, server_name)
    }

    /// Takes packets from the socket, `budget_packets` at most (rounded up to a batch), and starts
    /// handshakes, as many as the settings allow in one turn; further ones wait for the next.
    ///
    /// # Errors
    /// What the socket reports. The driver stays usable.
    pub fn receive(&mut self, now: Instant, budget_packets: usize) -> io::Result<Received> {
        let mut received = Received::default();
        let mut empty = false;
        while !empty
            && received.packets < budget_packets
            && self.engine.outbox.events.len() < DRIVER_EVENTS
        {
            let count = self.input.receive(self.engine.socket.as_fd(), PACKET_BATCH)?;
            self.engine.outbox.stats.receive_calls += 1;
            for index in 0..count {
                match self.input.arrival(index) {
                    Some(arrival) => self.engine.arrived(now, &arrival),
                    None => self.engine.outbox.stats.oversized += 1,
                }
            }
            received.packets += count;
            empty = count < PACKET_BATCH;
        }
        received.handshakes = self.engine.start_handshakes(now);
        received.drained = empty && self.engine.incoming.is_empty();
        Ok(received)
    }

    /// Takes a packet that another shard received and that carries this shard's connection ID.
    pub fn inject(&mut self, now: Instant, packet: Packet) {
        self.engine.outbox.stats.injected += 1;
        self.engine.handle(now, packet);
    }

    /// Handles all deadlines up to `now`.
    pub fn handle_timeouts(&mut self, now: Instant) {
        self.engine.handle_timeouts(now);
    }

    /// When [`handle_timeouts`](Self::handle_timeouts) is to be called next; never later than a
    /// connection needs it, often earlier.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.engine.next_timeout()
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.engine.outbox.events.pop_front()?;
        if let Event::Closed { conn, .. } = event {
            self.engine.farewell(conn);
        }
        Some(event)
    }

    /// Hands the same datagram to every connection, in order, and each one's packet to the kernel as
    /// soon as a batch is full; [`flush`](Self::flush) sends the rest.
    ///
    /// `missed` is called for each connection with any other outcome than [`Outcome::Sent`]. Nothing
    /// is allocated here; quinn-proto notes each packet until it is acknowledged.
    pub fn send_to_all(
        &mut self,
        now: Instant,
        conns: &[ConnId],
        bytes: &Bytes,
        missed: &mut dyn FnMut(ConnId, Outcome),
    ) {
        for &conn in conns {
            match self.engine.send_datagram(now, conn, bytes.clone()) {
                Outcome::Sent => {}
                outcome => missed(conn, outcome),
            }
        }
    }

    /// Sends one datagram; several in a row leave as several packets.
    pub fn send_datagram(&mut self, now: Instant, conn: ConnId, bytes: Bytes) -> Outcome {
        self.engine.send_datagram(now, conn, bytes)
    }

    /// Writes bytes to the control stream. Before there is one they wait.
    ///
    /// # Errors
    /// When the connection is over, the peer refuses its control stream, or more than
    /// `CONTROL_BACKLOG_BYTES` would wait: then the caller closes the session.
    pub fn send_control(&mut self, conn: ConnId, bytes: Bytes) -> Result<(), SendControlError> {
        self.engine.send_control(conn, bytes)
    }

    /// Asks for [`Event::ControlWritten`] once nothing waits any more for the control stream's window.
    pub fn await_control(&mut self, conn: ConnId) {
        self.engine.await_control(conn);
    }

    /// Closes a connection: [`Event::Closed`] follows, and a packet to the peer with the next
    /// [`flush`](Self::flush).
    pub fn close(&mut self, now: Instant, conn: ConnId, code: u32, reason: &str) {
        self.engine.close(now, conn, code, reason);
    }

    /// Sends everything that is due on connections that had input, and the last batch.
    pub fn flush(&mut self, now: Instant) {
        self.engine.flush(now);
    }

    /// The socket, to sleep on.
    #[must_use]
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.engine.socket.as_fd()
    }

    /// The socket's address.
    ///
    /// # Errors
    /// When the kernel cannot tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.engine.socket.local_addr()
    }

    /// Goes on with another socket (a client whose network changed); what is in flight on the old one
    /// is lost. The peers see the connections migrate.
    ///
    /// # Errors
    /// As [`new`](Self::new); the old socket then stays.
    pub fn rebind(&mut self, socket: UdpSocket) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        self.engine.rebind(socket)
    }

    /// Whether no connection is left, not even one that is closing, and nothing is to be sent.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.engine.is_idle()
    }

    /// Established connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.engine.outbox.open
    }

    /// Handshakes under way.
    #[must_use]
    pub fn handshaking(&self) -> usize {
        self.engine.outbox.handshaking
    }

    /// Where the peer is; it moves when the connection migrates.
    #[must_use]
    pub fn peer(&self, conn: ConnId) -> Option<SocketAddr> {
        Some(self.engine.entry(conn)?.quic.remote_address())
    }

    /// The smoothed round trip.
    #[must_use]
    pub fn rtt(&self, conn: ConnId) -> Option<Duration> {
        Some(self.engine.entry(conn)?.quic.rtt())
    }

    /// Loss, round trip and window of one connection, for choosing its variant now and then: it
    /// copies some hundred bytes.
    #[must_use]
    pub fn conn_stats(&self, conn: ConnId) -> Option<ConnStats> {
        let path = self.engine.entry(conn)?.quic.stats().path;
        Some(ConnStats {
            rtt: path.rtt,
            min_rtt: path.min_rtt,
            sent_packets: path.sent_packets,
            lost_packets: path.lost_packets,
            congestion_events: path.congestion_events,
            window: path.cwnd,
        })
    }

    /// The driver's counters.
    #[must_use]
    pub const fn stats(&self) -> &DriverStats {
        &self.engine.outbox.stats
    }

    /// Uses another server configuration (reloaded certificates) for new connections.
    pub fn set_server_config(&mut self, config: Option<Arc<ServerConfig>>) {
        self.engine.endpoint.set_server_config(config);
    }

    /// Ignores new connections, or takes them again; those that exist are not touched.
    pub fn refuse_new(&mut self, refuse: bool) {
        self.engine.refuse_new = refuse;
    }
}
