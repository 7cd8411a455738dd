//! The small simulation: real quinn-proto connections under the same virtual clock.
//!
//! One origin and some clients, each with its own endpoint, over links that lose and delay whole
//! QUIC packets: handshakes, streams, acknowledgements and datagrams alike. It shows that hello,
//! join, ticks and repair hold through the real transport, which the large world leaves out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, Event, StreamEvent,
    StreamId,
};
use stentor_proto::Time;
use stentor_proto::wire::Close;
use stentor_relay::quic::config::{
    SharedKeys, TransportSettings, client_config, client_tls, endpoint_config, server_config,
    server_tls,
};

use super::chance::mix;
use super::link::{Line, Link, Passage};
use super::quic_ends::{Client, Core};

/// What the small simulation is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuicSetup {
    /// What decides the fate of packets.
    pub seed: u64,
    /// Listeners, beside one speaker; 198 at most.
    pub listeners: usize,
    /// Every client's way to the origin and back.
    pub line: Line,
    /// How long the world lives.
    pub virtual_time: Duration,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuicOutcome {
    /// Listeners that were welcomed.
    pub joined: usize,
    /// Ticks that the origin issued.
    pub ticks: u64,
    /// Ticks that listeners were to have by the end, from the first that each had.
    pub due: u64,
    /// Those of them that never came.
    pub missing: u64,
    /// Ticks that came because they were asked for.
    pub repaired: u64,
    /// Ticks that were passed on twice, or are not what the origin issued.
    pub wrong: u64,
    /// QUIC packets that were sent, and those of them that were lost.
    pub packets: (u64, u64),
}

/// Nodes of the small simulation at most.
const NODES: usize = 200;
/// Clients come this far apart.
const APART: Duration = Duration::from_millis(5);
/// A tick that is younger than this at the end may be on its way.
const ON_THE_WAY: Duration = Duration::from_millis(600);

/// Lets the small world live.
///
/// # Errors
/// When the setup asks for too many, or TLS cannot be set up.
pub fn run_quic(setup: &QuicSetup) -> Result<QuicOutcome, String> {
    if setup.listeners + 2 > NODES {
        return Err(format!("{} listeners; {} are possible", setup.listeners, NODES - 2));
    }
    let mut world = QuicWorld::new(setup)?;
    let end = START + setup.virtual_time;
    while let Some(at) = world.next().filter(|&at| at <= end) {
        world.now = world.now.max(at);
        world.turn()?;
    }
    Ok(world.outcome(end))
}

const START: Time = Time::from_millis(1_000);

/// One end of the network: an endpoint and its connections.
pub(super) struct Peer {
    endpoint: Endpoint,
    pub(super) conns: BTreeMap<usize, Conn>,
}

/// A connection with its control stream.
pub(super) struct Conn {
    quic: Connection,
    control: Option<StreamId>,
    /// Bytes of the control stream that flow control has not let go.
    waiting: BytesMut,
    /// What the other side is told when it is closed next.
    closing: Option<Close>,
}

/// What a connection brought.
pub(super) enum Brought {
    Connected,
    Control(Bytes),
    Datagram(Bytes),
    Unblocked,
    Closed,
}

struct QuicWorld {
    now: Time,
    /// The instant that stands for [`Time::ZERO`]: quinn-proto counts in instants.
    zero: Instant,
    peers: Vec<Peer>,
    core: Core,
    clients: Vec<Client>,
    config: ClientConfig,
    packets: BTreeMap<(Time, u64), (usize, usize, BytesMut)>,
    /// From and to each client.
    links: Vec<[Link; 2]>,
    sent: u64,
    lost: u64,
}

impl QuicWorld {
    fn new(setup: &QuicSetup) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        let pair = rcgen::generate_simple_self_signed(vec![HOST.into()]).map_err(|e| failed(&e))?;
        let (certificate, key) = (pair.cert.der().clone(), pair.signing_key.serialize_der());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.clone()).map_err(|e| failed(&e))?;
        let alpn = [stentor_proto::wire::ALPN];
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key).into();
        let tls = server_tls(vec![certificate], key, &alpn).map_err(|e| failed(&e))?;
        let keys = SharedKeys::from_secret(&setup.seed.to_be_bytes());
        let transport = TransportSettings::default();
        let server = server_config(tls, &keys, &transport).map_err(|e| failed(&e))?;
        let tls = client_tls(roots, &alpn).map_err(|e| failed(&e))?;
        let config = client_config(tls, &transport).map_err(|e| failed(&e))?;
        let clients = setup.listeners + 1;
        let peer = |at: usize| {
            let server = (at == 0).then(|| server.clone());
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&mix(setup.seed, at as u64).to_be_bytes());
            let endpoint = Endpoint::new(endpoint_config(&keys, 0), server, false, Some(seed));
            Peer { endpoint, conns: BTreeMap::new() }
        };
        let link = |at: usize| {
            let key = |way: u64| mix(setup.seed ^ way, at as u64);
            [Link::new(setup.line, key(1)), Link::new(setup.line, key(2))]
        };
        Ok(Self {
            now: START,
            zero: Instant::now(),
            peers: (0..=clients).map(peer).collect(),
            core: Core::new(START)?,
            clients: (0..clients).map(|at| Client::new(at, START + APART * at as u32)).collect(),
            config,
            packets: BTreeMap::new(),
            links: (0..=clients).map(link).collect(),
            sent: 0,
            lost: 0,
        })
    }

    fn instant(&self) -> Instant {
        self.zero + self.now.since(Time::ZERO)
    }

    /// When something is next to be done.
    fn next(&mut self) -> Option<Time> {
        let packet = self.packets.first_key_value().map(|(&(at, _), _)| at);
        let zero = self.zero;
        let time = |at: Instant| {
            let us = at.saturating_duration_since(zero).as_nanos().div_ceil(1_000);
            Time::from_micros(u64::try_from(us).unwrap_or(u64::MAX))
        };
        let conns = self.peers.iter_mut().flat_map(|peer| peer.conns.values_mut());
        let timer = conns.filter_map(|conn| conn.quic.poll_timeout()).map(time).min();
        let clients = self.clients.iter().map(Client::timeout);
        let machines = clients.chain([self.core.timeout()]).min();
        [packet, timer, machines].into_iter().flatten().min()
    }

    fn turn(&mut self) -> Result<(), String> {
        while let Some(entry) = self.packets.first_entry().filter(|e| e.key().0 <= self.now) {
            let (from, to, bytes) = entry.remove();
            self.arrived(from, to, bytes);
            self.settle(to);
        }
        for at in 0..self.peers.len() {
            let now = self.instant();
            let mut due = false;
            for conn in self.peers[at].conns.values_mut() {
                if conn.quic.poll_timeout().is_some_and(|timeout| timeout <= now) {
                    conn.quic.handle_timeout(now);
                    due = true;
                }
            }
            if due {
                self.settle(at);
            }
        }
        self.core.handle_timeout(self.now, &mut self.peers[0]);
        self.settle(0);
        for client in 0..self.clients.len() {
            if self.clients[client].timeout() <= self.now {
                self.client_timeout(client)?;
                self.settle(client + 1);
            }
        }
        Ok(())
    }

    fn client_timeout(&mut self, at: usize) -> Result<(), String> {
        let now = self.instant();
        let peer = &mut self.peers[at + 1];
        if self.clients[at].is_due_to_connect() {
            let connected = peer.endpoint.connect(now, self.config.clone(), address(0), HOST);
            let (handle, quic) = connected.map_err(|error| error.to_string())?;
            peer.conns.insert(handle.0, Conn::new(quic));
        }
        self.clients[at].handle_timeout(self.now, peer);
        Ok(())
    }

    /// A packet has come through.
    fn arrived(&mut self, from: usize, to: usize, bytes: BytesMut) {
        let (now, mut buffer) = (self.instant(), Vec::new());
        let peer = &mut self.peers[to];
        let event = peer.endpoint.handle(now, address(from), None, None, bytes, &mut buffer);
        match event {
            Some(DatagramEvent::ConnectionEvent(ConnectionHandle(at), event)) => {
                if let Some(conn) = peer.conns.get_mut(&at) {
                    conn.quic.handle_event(event);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                match peer.endpoint.accept(incoming, now, &mut buffer, None) {
                    Ok((handle, quic)) => {
                        peer.conns.insert(handle.0, Conn::new(quic));
                    }
                    Err(error) => {
                        if let Some(transmit) = error.response {
                            self.send(to, from, &buffer[..transmit.size]);
                        }
                    }
                }
            }
            Some(DatagramEvent::Response(transmit)) => {
                self.send(to, from, &buffer[..transmit.size]);
            }
            None => {}
        }
    }

    /// Takes from a peer's connections whatever they bring, hands it on, and sends what follows.
    fn settle(&mut self, at: usize) {
        loop {
            let mut brought = Vec::new();
            let Peer { endpoint, conns } = &mut self.peers[at];
            for (&handle, conn) in conns.iter_mut() {
                conn.poll(endpoint, handle, at != 0, &mut brought);
            }
            self.transmit(at);
            if brought.is_empty() {
                return;
            }
            for (handle, brought) in brought {
                let closed = matches!(brought, Brought::Closed);
                match at {
                    0 => self.core.handle(self.now, &mut self.peers[0], handle, brought),
                    _ => self.clients[at - 1].handle(
                        self.now,
                        &mut self.peers[at],
                        brought,
                        self.core.truth(),
                    ),
                }
                if closed {
                    self.peers[at].conns.remove(&handle);
                }
            }
        }
    }

    fn transmit(&mut self, at: usize) {
        let now = self.instant();
        let mut out = Vec::new();
        for conn in self.peers[at].conns.values_mut() {
            let mut buffer = Vec::new();
            while let Some(transmit) = conn.quic.poll_transmit(now, 1, &mut buffer) {
                out.push((index(transmit.destination), buffer.split_off(0)));
            }
            if let Some(close) = conn.closing.take() {
                let reason = Bytes::from(close.reason);
                conn.quic.close(now, (close.code as u32).into(), reason);
            }
        }
        for (to, bytes) in out {
            self.send(at, to, &bytes);
        }
    }

    fn send(&mut self, from: usize, to: usize, bytes: &[u8]) {
        let link = match from {
            0 => &mut self.links[to][0],
            client => &mut self.links[client][1],
        };
        self.sent += 1;
        match link.datagram(self.now, bytes.len()) {
            Passage::Arrives(at) => {
                self.packets.insert((at, self.sent), (from, to, BytesMut::from(bytes)));
            }
            Passage::Lost | Passage::Dropped | Passage::Cut => self.lost += 1,
        }
    }

    fn outcome(&self, end: Time) -> QuicOutcome {
        let truth = self.core.truth();
        let mut outcome = QuicOutcome {
            ticks: u64::from(truth.newest()),
            packets: (self.sent, self.lost),
            ..QuicOutcome::default()
        };
        for client in &self.clients {
            client.count_into(&mut outcome, truth, end - ON_THE_WAY);
        }
        outcome
    }
}

impl Conn {
    fn new(quic: Connection) -> Self {
        Self { quic, control: None, waiting: BytesMut::new(), closing: None }
    }

    /// Writes to the control stream.
    pub(super) fn control(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
        self.write();
    }

    /// Sends a datagram; false if one waits already.
    pub(super) fn datagram(&mut self, bytes: Bytes) -> bool {
        self.quic.datagrams().send(bytes, false).is_ok()
    }

    /// Closes once what has been written is sent.
    pub(super) fn close(&mut self, close: Close) {
        self.closing = Some(close);
    }

    fn poll(
        &mut self,
        endpoint: &mut Endpoint,
        handle: usize,
        opens: bool,
        brought: &mut Vec<(usize, Brought)>,
    ) {
        while let Some(event) = self.quic.poll_endpoint_events() {
            if let Some(event) = endpoint.handle_event(ConnectionHandle(handle), event) {
                self.quic.handle_event(event);
            }
        }
        while let Some(event) = self.quic.poll() {
            match event {
                Event::Connected => {
                    if opens {
                        self.control = self.quic.streams().open(Dir::Bi);
                    }
                    brought.push((handle, Brought::Connected));
                }
                Event::ConnectionLost { .. } => brought.push((handle, Brought::Closed)),
                Event::Stream(StreamEvent::Opened { dir: Dir::Bi }) => {
                    self.control = self.quic.streams().accept(Dir::Bi);
                    self.read(handle, brought);
                }
                Event::Stream(StreamEvent::Readable { .. }) => self.read(handle, brought),
                Event::Stream(StreamEvent::Writable { .. }) => self.write(),
                Event::DatagramReceived => {
                    while let Some(bytes) = self.quic.datagrams().recv() {
                        brought.push((handle, Brought::Datagram(bytes)));
                    }
                }
                Event::DatagramsUnblocked => brought.push((handle, Brought::Unblocked)),
                Event::HandshakeDataReady | Event::Stream(_) => {}
            }
        }
    }

    fn read(&mut self, handle: usize, brought: &mut Vec<(usize, Brought)>) {
        let Some(control) = self.control else { return };
        let mut stream = self.quic.recv_stream(control);
        let Ok(mut chunks) = stream.read(true) else { return };
        while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
            brought.push((handle, Brought::Control(chunk.bytes)));
        }
        // What it asks to transmit is transmitted in any case.
        let _ = chunks.finalize();
    }

    fn write(&mut self) {
        let Some(control) = self.control else { return };
        while !self.waiting.is_empty() {
            match self.quic.send_stream(control).write(&self.waiting) {
                Ok(written) => drop(self.waiting.split_to(written)),
                Err(_) => return,
            }
        }
    }
}

const HOST: &str = "sim.test";
/// The first client's port; the origin's is the one before.
const PORT: u16 = 1_000;

fn address(at: usize) -> SocketAddr {
    let port = PORT + u16::try_from(at).expect("there are 200 nodes at most");
    SocketAddr::from(([10, 0, 0, 1], port))
}

fn index(address: SocketAddr) -> usize {
    usize::from(address.port() - PORT)
}
