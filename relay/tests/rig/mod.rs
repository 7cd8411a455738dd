//! Drivers on loopback sockets, with everything that they report kept for the test.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use quinn_proto::{ClientConfig, ServerConfig, TransportConfig};
use rcgen::CertifiedKey;
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use stentor_proto::wire::ALPN;
use stentor_relay::quic::config::{
    SharedKeys, TransportSettings, client_config, client_tls, server_config, server_tls,
};
use stentor_relay::quic::sys::{BindOptions, Waiter, bind};
use stentor_relay::quic::{CloseReason, ConnId, Driver, DriverSettings, Event, Outcome};

/// One certificate, and the keys of one node.
pub(crate) struct Rig {
    certificate: CertificateDer<'static>,
    server: Arc<ServerConfig>,
    keys: SharedKeys,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let certificate = cert.der().clone();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let tls = server_tls(vec![certificate.clone()], key, &[ALPN]).unwrap();
        let keys = SharedKeys::random().unwrap();
        let server = server_config(tls, &keys, &TransportSettings::default()).unwrap();
        Self { certificate, server, keys }
    }

    pub(crate) fn server(&self, address: &str) -> Node {
        self.server_with(address, |_| {})
    }

    pub(crate) fn server_with(
        &self,
        address: &str,
        change: impl FnOnce(&mut DriverSettings),
    ) -> Node {
        let mut settings = DriverSettings::server(self.server.clone(), &self.keys, 0, 1);
        change(&mut settings);
        Node::new(socket(address), settings)
    }

    /// Two shards on one port; each passes on what belongs to the other through its test.
    pub(crate) fn shards(&self, address: &str) -> [Node; 2] {
        let options = BindOptions { reuse_port: true, ..BindOptions::default() };
        let first = bind(address.parse().unwrap(), options).unwrap();
        let second = bind(first.local_addr().unwrap(), options).unwrap();
        let mut shard = 0;
        [first, second].map(|socket| {
            let settings = DriverSettings::server(self.server.clone(), &self.keys, shard, 2);
            shard += 1;
            Node::new(socket, settings)
        })
    }

    pub(crate) fn client(&self, address: &str) -> Node {
        let keys = SharedKeys::random().unwrap();
        Node::new(socket(address), DriverSettings::client(&keys))
    }

    pub(crate) fn client_config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let tls = client_tls(roots, &[ALPN]).unwrap();
        client_config(tls, &TransportSettings::default()).unwrap()
    }

    /// A client that takes datagrams of 500 bytes.
    pub(crate) fn small_client(&self) -> ClientConfig {
        let mut config = self.client_config();
        let mut transport = TransportConfig::default();
        transport.datagram_receive_buffer_size(Some(500));
        config.transport_config(Arc::new(transport));
        config
    }
}

/// A driver and all that it has reported.
pub(crate) struct Node {
    pub(crate) driver: Driver,
    pub(crate) connected: Vec<(ConnId, Vec<u8>)>,
    pub(crate) received_control: Vec<(ConnId, Bytes)>,
    pub(crate) datagrams: Vec<(ConnId, Bytes, u64)>,
    pub(crate) unblocked: Vec<ConnId>,
    pub(crate) closed: Vec<(ConnId, CloseReason)>,
    pub(crate) foreign: Vec<(u16, stentor_relay::quic::Packet)>,
}

impl Node {
    fn new(socket: UdpSocket, settings: DriverSettings) -> Self {
        Self {
            driver: Driver::new(socket, settings, now()).unwrap(),
            connected: Vec::new(),
            received_control: Vec::new(),
            datagrams: Vec::new(),
            unblocked: Vec::new(),
            closed: Vec::new(),
            foreign: Vec::new(),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.driver.local_addr().unwrap()
    }

    pub(crate) fn connect(&mut self, rig: &Rig, server: SocketAddr) -> ConnId {
        self.connect_with(rig.client_config(), server)
    }

    pub(crate) fn connect_with(&mut self, config: ClientConfig, server: SocketAddr) -> ConnId {
        self.driver.connect(now(), config, server, "localhost").unwrap()
    }

    pub(crate) fn control(&mut self, conn: ConnId, bytes: &[u8]) {
        self.driver.send_control(conn, Bytes::copy_from_slice(bytes)).unwrap();
    }

    pub(crate) fn datagram(&mut self, conn: ConnId, bytes: &[u8]) -> Outcome {
        let outcome = self.driver.send_datagram(now(), conn, Bytes::copy_from_slice(bytes));
        self.driver.flush(now());
        outcome
    }

    /// All control bytes of the connection that connected as number `index`, as text.
    pub(crate) fn text(&self, index: usize) -> String {
        let Some(&(wanted, _)) = self.connected.get(index) else {
            return String::new();
        };
        let bytes: Vec<u8> = self
            .received_control
            .iter()
            .filter(|(conn, _)| *conn == wanted)
            .flat_map(|(_, bytes)| bytes.iter().copied())
            .collect();
        String::from_utf8(bytes).unwrap()
    }

    pub(crate) fn bytes_of_control(&self) -> usize {
        self.received_control.iter().map(|(_, bytes)| bytes.len()).sum()
    }

    /// One turn of the loop that a thread around a driver runs.
    pub(crate) fn turn(&mut self) {
        let now = now();
        if self.driver.next_timeout().is_some_and(|at| at <= now) {
            self.driver.handle_timeouts(now);
        }
        self.driver.receive(now, 1_024).unwrap();
        while let Some(event) = self.driver.poll_event() {
            match event {
                Event::Connected { conn, alpn, .. } => self.connected.push((conn, alpn.to_vec())),
                Event::Control { conn, bytes } => self.received_control.push((conn, bytes)),
                Event::ControlFinished { .. } | Event::ControlWritten { .. } => {}
                Event::Datagram { conn, bytes, received_ns } => {
                    self.datagrams.push((conn, bytes, received_ns))
                }
                Event::Unblocked { conn } => self.unblocked.push(conn),
                Event::Closed { conn, reason } => self.closed.push((conn, reason)),
                Event::Foreign { shard, packet } => self.foreign.push((shard, packet)),
            }
        }
        self.driver.flush(now);
    }
}

/// Runs all nodes until `done` holds; foreign packets go to the node of that number.
pub(crate) fn until<const N: usize>(
    nodes: [&mut Node; N],
    mut done: impl FnMut(&[&mut Node; N]) -> bool,
) {
    let mut waiter = Waiter::new().unwrap();
    let give_up = Instant::now() + Duration::from_secs(30);
    loop {
        for index in 0..N {
            nodes[index].turn();
            for (shard, packet) in std::mem::take(&mut nodes[index].foreign) {
                nodes[shard as usize].driver.inject(now(), packet);
            }
        }
        if done(&nodes) {
            return;
        }
        assert!(Instant::now() < give_up, "what the test waits for does not happen");
        let next = nodes.iter().filter_map(|node| node.driver.next_timeout()).min();
        let timeout = next
            .map_or(Duration::from_secs(1), |at| at.saturating_duration_since(now()))
            .min(Duration::from_millis(50));
        let sockets: Vec<_> = nodes.iter().map(|node| node.driver.socket()).collect();
        waiter.wait(&sockets, Some(timeout)).unwrap();
    }
}

pub(crate) fn socket(address: &str) -> UdpSocket {
    bind(address.parse().unwrap(), BindOptions::default()).unwrap()
}

pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) fn realtime_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_nanos()).unwrap()
}
