//! The driver's inside: packets in, connections, packets out.
//!
//! After any input a connection is digested at once, while it is in the cache: its endpoint events
//! (and the endpoint's answers), its events, its datagrams. It is then noted as dirty, and polled for
//! packets and its deadline at the next flush, once for however many packets arrived.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::mem;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use quinn_proto::{
    AcceptError, ClientConfig, Connection, ConnectionHandle, DatagramEvent, EcnCodepoint, Endpoint,
    EndpointEvent, Incoming, Transmit,
};
use stentor_proto::limits::{HANDSHAKE_DEADLINE, INCOMING, INCOMING_PER_TURN};
use stentor_proto::wire::CloseCode;

use super::cid::CID_BYTES;
use super::connection::{Entry, Outbox, marks};
use super::driver::DriverSettings;
use super::event::{ConnId, ConnectError, Event, Outcome, Packet, SendControlError};
use super::gate::{Gate, Pass};
use super::networks::Network;
use super::sys::{Arrival, SendBatch, SourceProbe, family, mark_ecn};
use super::timers::Timers;

/// Everything of a driver but its receive buffers, which packets are borrowed from.
pub(super) struct Engine {
    pub(super) socket: UdpSocket,
    /// The socket takes packets to any of the host's addresses, so replies must name theirs.
    any_address: bool,
    settings: DriverSettings,
    pub(super) endpoint: Endpoint,
    entries: Vec<Option<Box<Entry>>>,
    held: usize,
    dirty: Vec<u32>,
    due: Vec<u32>,
    pub(super) timers: Timers,
    /// Deadlines of the handshakes that peers began, and of the farewells of WebTransport sessions.
    deadlines: BTreeSet<(Instant, u32)>,
    batch: SendBatch,
    probe: SourceProbe,
    pub(super) outbox: Outbox,
    pub(super) incoming: VecDeque<Incoming>,
    pub(super) refuse_new: bool,
    gate: Gate,
}

impl Engine {
    pub(super) fn new(
        socket: UdpSocket,
        settings: DriverSettings,
        now: Instant,
    ) -> io::Result<Self> {
        let batch = batch_for(&socket)?;
        let endpoint = settings.endpoint.clone();
        Ok(Self {
            any_address: socket.local_addr()?.ip().is_unspecified(),
            gate: Gate::new(settings.gate, now),
            endpoint: Endpoint::new(endpoint, settings.server.clone(), false, None),
            socket,
            settings,
            entries: Vec::new(),
            held: 0,
            dirty: Vec::new(),
            due: Vec::new(),
            timers: Timers::new(now),
            deadlines: BTreeSet::new(),
            batch,
            probe: SourceProbe::default(),
            outbox: Outbox::new(now),
            incoming: VecDeque::new(),
            refuse_new: false,
        })
    }

    pub(super) fn rebind(&mut self, socket: UdpSocket) -> io::Result<()> {
        let batch = batch_for(&socket)?;
        self.any_address = socket.local_addr()?.ip().is_unspecified();
        self.batch = batch;
        self.socket = socket;
        Ok(())
    }

    pub(super) fn connect(
        &mut self,
        now: Instant,
        config: ClientConfig,
        remote: SocketAddr,
        server_name: &str,
    ) -> Result<ConnId, ConnectError> {
        if self.held >= self.settings.connections {
            return Err(ConnectError::Full(self.settings.connections));
        }
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        let (handle, quic) = self.endpoint.connect(now, config, remote, server_name)?;
        Ok(self.insert(handle, quic, None))
    }

    /// A packet from the socket: another shard's is passed on, before the endpoint would answer a
    /// connection that it does not know with a stateless reset.
    #[inline]
    pub(super) fn arrived(&mut self, now: Instant, arrival: &Arrival<'_>) {
        self.outbox.stats.packets_in += 1;
        self.outbox.stats.bytes_in += arrival.bytes.len() as u64;
        let packet = Packet {
            bytes: BytesMut::from(arrival.bytes),
            peer: arrival.peer,
            local_ip: arrival.local_ip.filter(|_| self.any_address),
            ecn: arrival.ecn,
            received_ns: arrival.received_ns,
        };
        match self.foreign(arrival.bytes) {
            Some(shard) => {
                self.outbox.stats.foreign += 1;
                let event = Event::Foreign { shard, packet };
                self.outbox.events.push_back(event);
            }
            None => self.handle(now, packet),
        }
    }

    pub(super) fn handle(&mut self, now: Instant, packet: Packet) {
        self.make_room();
        let event = self.endpoint.handle(
            now,
            packet.peer,
            packet.local_ip,
            EcnCodepoint::from_bits(packet.ecn),
            packet.bytes,
            self.batch.slot(),
        );
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                let index = index(handle);
                if let Some(entry) = self.entry_mut(index) {
                    entry.quic.handle_event(event);
                    self.digest(now, index, packet.received_ns);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.queue_incoming(incoming),
            Some(DatagramEvent::Response(transmit)) => self.commit(&transmit),
            None => {}
        }
    }

    /// Starts handshakes that wait, as many as one turn allows.
    pub(super) fn start_handshakes(&mut self, now: Instant) -> usize {
        let (retries, switched) = self.gate.look(now, self.outbox.handshaking);
        self.outbox.stats.retry_on = retries.into();
        self.outbox.stats.retry_switched = switched;
        // An answer without a handshake costs little; it is bounded all the same.
        let (mut started, mut seen) = (0, 0);
        while started < self.settings.handshakes_per_turn && seen < INCOMING_PER_TURN {
            let Some(incoming) = self.incoming.pop_front() else {
                break;
            };
            seen += 1;
            started += usize::from(self.start_handshake(now, incoming));
        }
        started
    }

    pub(super) fn handle_timeouts(&mut self, now: Instant) {
        let mut due = mem::take(&mut self.due);
        self.timers.expire(now, &mut due);
        for index in due.drain(..) {
            if let Some(entry) = self.entry_mut(index) {
                entry.quic.handle_timeout(now);
                self.digest(now, index, 0);
            }
        }
        self.due = due;
        while let Some(&(at, index)) = self.deadlines.first()
            && at <= now
        {
            self.deadlines.pop_first();
            self.give_up(now, index);
        }
    }

    /// When `handle_timeouts` is to be called next.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        self.timers.next().into_iter().chain(deadline).min()
    }

    /// Ends a handshake that takes too long, for it holds as much memory as a listener, or a farewell.
    fn give_up(&mut self, now: Instant, index: u32) {
        let Some(entry) = self.entry_mut(index) else { return };
        entry.due = None;
        if entry.lingers() {
            entry.end(now);
            self.mark(index);
            return;
        }
        self.outbox.stats.handshakes_slow += 1;
        let code = CloseCode::NoHello as u32;
        self.close(now, ConnId(index), code, "the handshake did not end in time");
    }

    /// The hot path: one datagram into one connection, and its packet into the batch.
    #[inline]
    pub(super) fn send_datagram(&mut self, now: Instant, conn: ConnId, bytes: Bytes) -> Outcome {
        self.make_room();
        let Some(Some(entry)) = self.entries.get_mut(conn.0 as usize) else {
            return Outcome::Closed;
        };
        if let Err(outcome) = entry.offer(bytes) {
            self.outbox.stats.datagram_full += u64::from(outcome == Outcome::Full);
            return outcome;
        }
        // One packet nearly always carries it. What else the connection may have to send made it
        // dirty, and leaves at the next flush.
        let slot = self.batch.slot();
        if let Some(transmit) = entry.quic.poll_transmit(now, 1, slot) {
            self.batch.commit(transmit.destination, entry.marks(&transmit));
            if entry.datagrams_left() {
                self.timers.set(conn.0, entry.quic.poll_timeout());
                return Outcome::Sent;
            }
        }
        self.transmit(now, conn.0);
        let Some(entry) = self.entry_mut(conn.0) else {
            return Outcome::Closed;
        };
        if entry.datagrams_left() {
            return Outcome::Sent;
        }
        entry.wait();
        self.outbox.stats.datagram_waited += 1;
        Outcome::Waiting
    }

    pub(super) fn send_control(
        &mut self,
        conn: ConnId,
        bytes: Bytes,
    ) -> Result<(), SendControlError> {
        let entry = self.entry_mut(conn.0).ok_or(SendControlError::Closed)?;
        let result = entry.send_control(bytes);
        match result {
            Ok(()) => self.mark(conn.0),
            Err(SendControlError::TooSlow) => self.outbox.stats.control_too_slow += 1,
            Err(_) => {}
        }
        result
    }

    pub(super) fn await_control(&mut self, conn: ConnId) {
        if let Some(Some(entry)) = self.entries.get_mut(conn.0 as usize) {
            entry.await_control(conn, &mut self.outbox);
        }
    }

    pub(super) fn close(&mut self, now: Instant, conn: ConnId, code: u32, reason: &str) {
        // What was said before goes first: quinn-proto drops whatever waits once it closes, and whoever is
        // told to wait or to go elsewhere is told so in the message before the close.
        if self.entry(conn).is_some_and(|entry| entry.dirty) {
            self.transmit(now, conn.0);
        }
        if let Some(Some(entry)) = self.entries.get_mut(conn.0 as usize) {
            entry.close(now, conn, code, reason, &mut self.outbox);
            if let Some(due) = entry.due {
                self.deadlines.insert((due, conn.0));
            }
            self.mark(conn.0);
        }
    }

    pub(super) fn flush(&mut self, now: Instant) {
        let mut dirty = mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            if let Some(entry) = self.entry_mut(index) {
                entry.dirty = false;
                self.transmit(now, index);
            }
        }
        // What was marked while transmitting stands in the list that took its place.
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
        self.send_batch();
    }

    /// The caller has taken a connection's `Event::Closed`.
    pub(super) fn farewell(&mut self, conn: ConnId) {
        if let Some(entry) = self.entry_mut(conn.0) {
            entry.farewell = true;
            self.release(conn.0);
        }
    }

    pub(super) fn entry(&self, conn: ConnId) -> Option<&Entry> {
        self.entries.get(conn.0 as usize)?.as_deref()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.held == 0 && self.batch.is_empty() && self.incoming.is_empty()
    }

    /// The shard of a packet that is not this one's: by the connection ID of a short header, or of a
    /// long one that is not a client's first (which carries an ID of the client's own making).
    #[inline]
    fn foreign(&self, bytes: &[u8]) -> Option<u16> {
        if self.settings.shards == 1 {
            return None;
        }
        let cid = destination(bytes)?;
        let shard = self.settings.cid_key.shard_of(cid)?;
        (shard != self.settings.shard && shard < self.settings.shards).then_some(shard)
    }

    fn queue_incoming(&mut self, incoming: Incoming) {
        self.gate.arrived();
        let stats = &mut self.outbox.stats;
        if self.refuse_new {
            stats.incoming_refused += 1;
        } else if self.held + self.incoming.len() >= self.settings.connections
            || self.incoming.len() >= INCOMING
        {
            stats.incoming_full += 1;
        } else {
            self.incoming.push_back(incoming);
            return;
        }
        // The client tries again by itself, ever more slowly.
        self.endpoint.ignore(incoming);
    }

    /// Starts a client's handshake, or answers it otherwise; whether it was started.
    fn start_handshake(&mut self, now: Instant, incoming: Incoming) -> bool {
        self.make_room();
        let (handshaking, networks) = (self.outbox.handshaking, &mut self.outbox.networks);
        let network = networks.of(incoming.remote_address().ip());
        match self.gate.judge(now, handshaking, &incoming, (networks, network)) {
            Pass::Accept => {}
            Pass::OverShare => {
                self.outbox.stats.incoming_over_share += 1;
                self.endpoint.ignore(incoming);
                return false;
            }
            Pass::Retry => {
                self.outbox.stats.incoming_retried += 1;
                match self.endpoint.retry(incoming, self.batch.slot()) {
                    Ok(transmit) => self.commit(&transmit),
                    Err(error) => self.endpoint.ignore(error.into_incoming()),
                }
                return false;
            }
            Pass::OverRate => {
                self.outbox.stats.incoming_over_rate += 1;
                self.endpoint.ignore(incoming);
                return false;
            }
            Pass::OverFlight => {
                self.outbox.stats.incoming_over_flight += 1;
                self.endpoint.ignore(incoming);
                return false;
            }
        }
        self.outbox.stats.handshakes += 1;
        match self.endpoint.accept(incoming, now, self.batch.slot(), None) {
            Ok((handle, quic)) => {
                let conn = self.insert(handle, quic, Some(network));
                let due = now + HANDSHAKE_DEADLINE;
                if let Some(entry) = self.entry_mut(conn.0) {
                    entry.due = Some(due);
                    self.deadlines.insert((due, conn.0));
                }
                self.digest(now, conn.0, 0);
            }
            Err(AcceptError { response, .. }) => {
                self.outbox.networks.ended(network);
                self.outbox.stats.handshakes_failed += 1;
                if let Some(transmit) = response {
                    self.commit(&transmit);
                }
            }
        }
        true
    }

    fn insert(
        &mut self,
        handle: ConnectionHandle,
        quic: Connection,
        network: Option<Network>,
    ) -> ConnId {
        let index = index(handle);
        if handle.0 >= self.entries.len() {
            self.entries.resize_with(handle.0 + 1, || None);
        }
        let entry = Entry::new(quic, network, &mut self.outbox);
        self.entries[handle.0] = Some(Box::new(entry));
        self.held += 1;
        self.mark(index);
        ConnId(index)
    }

    /// Takes over what a connection has to tell after input, and notes that it may have packets.
    fn digest(&mut self, now: Instant, index: u32, received_ns: u64) {
        let Some(Some(entry)) = self.entries.get_mut(index as usize) else {
            return;
        };
        let handle = ConnectionHandle(index as usize);
        while let Some(event) = entry.quic.poll_endpoint_events() {
            if event.is_drained() {
                entry.drained = true;
            } else if let Some(answer) = self.endpoint.handle_event(handle, event) {
                entry.quic.handle_event(answer);
            }
        }
        entry.poll(now, ConnId(index), received_ns, &mut self.outbox);
        if !entry.handshakes()
            && !entry.lingers()
            && let Some(due) = entry.due.take()
        {
            self.deadlines.remove(&(due, index));
        }
        if self.any_address {
            entry.check_source(now, &mut self.probe);
        }
        match entry.drained {
            true => self.release(index),
            false => self.mark(index),
        }
    }

    /// Polls a connection for all its packets, and for its deadline.
    fn transmit(&mut self, now: Instant, index: u32) {
        let Some(Some(entry)) = self.entries.get_mut(index as usize) else {
            return;
        };
        loop {
            if self.batch.is_full() {
                send_batch(&self.socket, &mut self.batch, &mut self.outbox);
            }
            let Some(transmit) = entry.quic.poll_transmit(now, 1, self.batch.slot()) else {
                break;
            };
            self.batch.commit(transmit.destination, entry.marks(&transmit));
        }
        entry.transmitted(ConnId(index), &mut self.outbox);
        self.timers.set(index, entry.quic.poll_timeout());
        if entry.died() {
            self.digest(now, index, 0);
        }
    }

    /// Frees a connection that quinn-proto is done with, once the caller has been told of its end.
    fn release(&mut self, index: u32) {
        let Some(slot) = self.entries.get_mut(index as usize) else {
            return;
        };
        if slot.take_if(|entry| entry.drained && entry.farewell).is_some() {
            self.held -= 1;
            self.timers.set(index, None);
            // Only this lets the endpoint use the index again.
            let handle = ConnectionHandle(index as usize);
            self.endpoint.handle_event(handle, EndpointEvent::drained());
        }
    }

    #[inline]
    fn entry_mut(&mut self, index: u32) -> Option<&mut Entry> {
        self.entries.get_mut(index as usize)?.as_deref_mut()
    }

    #[inline]
    fn mark(&mut self, index: u32) {
        if let Some(Some(entry)) = self.entries.get_mut(index as usize)
            && !mem::replace(&mut entry.dirty, true)
        {
            self.dirty.push(index);
        }
    }

    #[inline]
    fn commit(&mut self, transmit: &Transmit) {
        self.batch.commit(transmit.destination, marks(transmit));
    }

    #[inline]
    fn make_room(&mut self) {
        if self.batch.is_full() {
            self.send_batch();
        }
    }

    fn send_batch(&mut self) {
        send_batch(&self.socket, &mut self.batch, &mut self.outbox);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for incoming in self.incoming.drain(..) {
            self.endpoint.ignore(incoming);
        }
    }
}

/// A batch for a socket that marks packets ECT(0) by itself, as quinn-proto wants nearly all.
fn batch_for(socket: &UdpSocket) -> io::Result<SendBatch> {
    let ecn = EcnCodepoint::Ect0 as u8;
    mark_ecn(socket, ecn)?;
    Ok(SendBatch::new(family(socket)?, ecn))
}

fn send_batch(socket: &UdpSocket, batch: &mut SendBatch, outbox: &mut Outbox) {
    let flushed = batch.flush(socket.as_fd());
    let stats = &mut outbox.stats;
    stats.packets_out += flushed.sent as u64;
    stats.bytes_out += flushed.bytes as u64;
    stats.send_calls += flushed.calls as u64;
    stats.send_would_block += flushed.would_block as u64;
    stats.send_failed += flushed.failed as u64;
}

fn index(handle: ConnectionHandle) -> u32 {
    u32::try_from(handle.0).expect("connections are bounded far below 2^32")
}

/// The destination connection ID of a packet (RFC 8999), where it can be one of ours.
#[inline]
fn destination(bytes: &[u8]) -> Option<&[u8]> {
    const LONG: u8 = 0x80;
    const KIND: u8 = 0x30;
    let &first = bytes.first()?;
    if first & LONG == 0 {
        return bytes.get(1..1 + CID_BYTES);
    }
    // First byte, version (4), length of the ID (1). Kind 0 of version 1 is Initial.
    let initial = first & KIND == 0;
    let ours = bytes.get(5).is_some_and(|&length| usize::from(length) == CID_BYTES);
    (!initial && ours).then(|| bytes.get(6..6 + CID_BYTES)).flatten()
}
