//! A session with an origin or a relay: connect, hello, welcome, control messages, datagrams.
//!
//! It is built on quinn, not on the relay's own driver, so that the two ends of every test are
//! two implementations of the shell.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::CertificateDer;
use stentor_proto::admission::client_key;
use stentor_proto::limits;
use stentor_proto::wire::{
    ALPN, ClientMessage, Close, CloseCode, ControlDecoder, FEATURES, Hello, Role, ServerMessage,
    VERSION, Welcome, encode_control,
};

use crate::patience::{PATIENCE, patient};

/// How long a connection and its welcome may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// What keeps a client from its session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The address does not resolve.
    #[error("{address}: {reason}; check the host and the port")]
    Address {
        /// What was asked for.
        address: String,
        /// The resolver's words.
        reason: String,
    },
    /// Certificates or the local socket.
    #[error("{0}")]
    Setup(String),
    /// No QUIC connection.
    #[error("no connection to {address}: {reason}")]
    Connect {
        /// Where to.
        address: String,
        /// quinn's words.
        reason: String,
    },
    /// The server closed the session and said why.
    #[error("{address} closed the session: {close}")]
    Closed {
        /// Whose session it was.
        address: String,
        /// Its code and sentence.
        close: Close,
    },
    /// The connection ended without a close of ours.
    #[error("the session with {address} ended: {reason}")]
    Lost {
        /// Whose session it was.
        address: String,
        /// quinn's words.
        reason: String,
    },
    /// The server does not follow the protocol.
    #[error("{address} breaks the protocol: {reason}")]
    Server {
        /// Whose fault it is.
        address: String,
        /// What it did.
        reason: String,
    },
}

/// Whom a client believes to be its server.
#[derive(Clone, Debug)]
pub enum Trust {
    /// The certificate authorities of the system.
    System,
    /// These certificate authorities and no others.
    Authorities(Vec<CertificateDer<'static>>),
}

/// A local QUIC endpoint from which sessions are opened; cheap to clone.
#[derive(Clone, Debug)]
pub struct Connector {
    endpoint: quinn::Endpoint,
}

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct Join {
    /// `host:port` of the origin or relay.
    pub address: String,
    /// The room's name.
    pub room: String,
    /// The role.
    pub role: Role,
    /// The token, if there is one.
    pub token: Option<String>,
    /// The name to show.
    pub name: Option<String>,
    /// How much of the past the client wants at once.
    pub playout: Duration,
    /// The epoch and the last tick that the client has.
    pub last: Option<(u32, u32)>,
}

/// A session that was welcomed.
#[derive(Debug)]
pub struct Session {
    /// What the server said.
    pub welcome: Welcome,
    /// How long it took from the call to the welcome.
    pub joined_in: Duration,
    link: Link,
    connector: Connector,
    join: Join,
}

/// A connection with its control stream.
#[derive(Debug)]
pub(crate) struct Link {
    connection: quinn::Connection,
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    decoder: ControlDecoder,
    address: String,
}

/// What comes from the server.
#[derive(Debug)]
pub enum Incoming {
    /// A datagram.
    Datagram(Bytes),
    /// A control message.
    Message(ServerMessage),
}

impl Connector {
    /// An endpoint on any free port of this machine.
    ///
    /// # Errors
    /// When there are no certificates to trust or no socket is to be had.
    pub fn new(trust: &Trust) -> Result<Self, SessionError> {
        let crypto = client_crypto(trust)?;
        let crypto = QuicClientConfig::try_from(crypto)
            .map_err(|error| SessionError::Setup(error.to_string()))?;
        let mut config = quinn::ClientConfig::new(patient(crypto, PATIENCE));
        let mut transport = quinn::TransportConfig::default();
        transport
            .max_concurrent_uni_streams(0u32.into())
            .max_concurrent_bidi_streams(0u32.into())
            .datagram_receive_buffer_size(Some(256 * 1024))
            .keep_alive_interval(Some(Duration::from_secs(10)));
        config.transport_config(Arc::new(transport));
        let any: [SocketAddr; 2] = [([0u16; 8], 0).into(), ([0u8; 4], 0).into()];
        let mut endpoint = quinn::Endpoint::client(any[0])
            .or_else(|_| quinn::Endpoint::client(any[1]))
            .map_err(|error| SessionError::Setup(format!("no UDP socket: {error}")))?;
        endpoint.set_default_client_config(config);
        Ok(Self { endpoint })
    }

    /// Opens a session: QUIC handshake, hello, welcome.
    ///
    /// # Errors
    /// When the address does not resolve, no connection comes about, or the server refuses.
    pub async fn join(&self, join: &Join) -> Result<Session, SessionError> {
        let started = std::time::Instant::now();
        let address = join.address.clone();
        match tokio::time::timeout(CONNECT_DEADLINE, self.open(join)).await {
            Ok(Ok((welcome, link))) => {
                let (connector, join) = (self.clone(), join.clone());
                Ok(Session { welcome, joined_in: started.elapsed(), link, connector, join })
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let reason = format!("no answer within {} s", CONNECT_DEADLINE.as_secs());
                Err(SessionError::Connect { address, reason })
            }
        }
    }

    async fn open(&self, join: &Join) -> Result<(Welcome, Link), SessionError> {
        let mut link = self.dial(&join.address, hello(join)).await?;
        loop {
            match link.next_message().await? {
                ServerMessage::Welcome(welcome) => return Ok((welcome, link)),
                ServerMessage::Closing { code, reason, .. } => {
                    return Err(link.closed(code.into(), reason));
                }
                _ => {}
            }
        }
    }

    /// Connects and says hello; the answer is the caller's to await.
    pub(crate) async fn dial(&self, address: &str, hello: Hello) -> Result<Link, SessionError> {
        let address = address.to_owned();
        let connect = |reason: String| SessionError::Connect { address: address.clone(), reason };
        let remote = resolve(&address).await?;
        let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let connecting = self.endpoint.connect(remote, host).map_err(|e| connect(e.to_string()))?;
        let connection = connecting.await.map_err(|error| refused(&address, error))?;
        if connection.max_datagram_size().is_none_or(|size| size < limits::DATAGRAM_BYTES) {
            let reason = "it does not accept datagrams of 1100 bytes".to_owned();
            return Err(SessionError::Server { address, reason });
        }
        let (send, recv) = connection.open_bi().await.map_err(|e| refused(&address, e))?;
        let decoder = ControlDecoder::default();
        let mut link = Link { connection, send, recv, decoder, address };
        link.say(&ClientMessage::Hello(hello)).await?;
        Ok(link)
    }

    /// Waits until every session's close has been sent, at most for a second.
    pub async fn finish(&self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), self.endpoint.wait_idle()).await;
    }
}

impl Session {
    /// Whose session it is: `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.link.address
    }

    /// The next datagram or control message.
    ///
    /// # Errors
    /// When the session has ended; the error says who ended it and why.
    pub async fn next(&mut self) -> Result<Incoming, SessionError> {
        self.link.next().await
    }

    /// Sends a datagram; one that the transport cannot take is dropped, as on the network.
    pub fn send_datagram(&self, bytes: Bytes) {
        self.datagrams().send(bytes);
    }

    /// A handle that sends datagrams while another part of the program awaits [`Self::next`].
    #[must_use]
    pub fn datagrams(&self) -> DatagramSender {
        self.link.datagrams()
    }

    /// Leaves; what was sent before is still delivered by QUIC's closing.
    pub fn leave(&self) {
        self.link.datagrams().leave();
    }

    /// What a listener that may change its relay needs.
    pub(crate) fn into_parts(self) -> (Welcome, Link, Connector, Join) {
        (self.welcome, self.link, self.connector, self.join)
    }
}

impl Link {
    pub(crate) fn datagrams(&self) -> DatagramSender {
        DatagramSender(self.connection.clone())
    }

    pub(crate) async fn next(&mut self) -> Result<Incoming, SessionError> {
        loop {
            if let Some(message) = self.whole_message()? {
                return Ok(Incoming::Message(message));
            }
            tokio::select! {
                datagram = self.connection.read_datagram() => {
                    return match datagram {
                        Ok(bytes) => Ok(Incoming::Datagram(bytes)),
                        Err(error) => Err(refused(&self.address, error)),
                    };
                }
                chunk = self.recv.read_chunk(limits::CONTROL_BYTES, true) => {
                    self.take_chunk(chunk)?;
                }
            }
        }
    }

    /// Says something on the control stream.
    pub(crate) async fn say(&mut self, message: &ClientMessage) -> Result<(), SessionError> {
        let bytes = encode_control(message);
        self.send.write_all(&bytes).await.map_err(|error| match error {
            quinn::WriteError::ConnectionLost(lost) => refused(&self.address, lost),
            other => self.lost(other.to_string()),
        })
    }

    async fn next_message(&mut self) -> Result<ServerMessage, SessionError> {
        loop {
            if let Some(message) = self.whole_message()? {
                return Ok(message);
            }
            let chunk = self.recv.read_chunk(limits::CONTROL_BYTES, true).await;
            self.take_chunk(chunk)?;
        }
    }

    fn take_chunk(
        &mut self,
        chunk: Result<Option<quinn::Chunk>, quinn::ReadError>,
    ) -> Result<(), SessionError> {
        match chunk {
            Ok(Some(chunk)) => {
                self.decoder.push(&chunk.bytes);
                Ok(())
            }
            Ok(None) => Err(self.lost("the control stream ended".into())),
            Err(quinn::ReadError::ConnectionLost(lost)) => Err(refused(&self.address, lost)),
            Err(error) => Err(self.lost(error.to_string())),
        }
    }

    fn whole_message(&mut self) -> Result<Option<ServerMessage>, SessionError> {
        self.decoder.next_message().map_err(|close| SessionError::Server {
            address: self.address.clone(),
            reason: close.reason,
        })
    }

    fn closed(&self, code: u64, reason: String) -> SessionError {
        let code = CloseCode::from_code(code).unwrap_or(CloseCode::Internal);
        SessionError::Closed { address: self.address.clone(), close: Close::new(code, reason) }
    }

    fn lost(&self, reason: String) -> SessionError {
        SessionError::Lost { address: self.address.clone(), reason }
    }
}

/// Sends datagrams on a session.
#[derive(Clone, Debug)]
pub struct DatagramSender(quinn::Connection);

impl DatagramSender {
    /// Sends a datagram; one that the transport cannot take is dropped, as on the network.
    pub fn send(&self, bytes: Bytes) {
        // A datagram that is not sent is a loss, which the protocol repairs; a dead connection
        // shows where the session is read.
        let _ = self.0.send_datagram(bytes);
    }

    pub(crate) fn round_trip(&self) -> Duration {
        self.0.rtt()
    }

    pub(crate) fn leave(&self) {
        self.0.close((CloseCode::Done as u32).into(), b"goodbye");
    }
}

pub(crate) fn hello(join: &Join) -> Hello {
    Hello {
        version: VERSION,
        features: FEATURES.map(str::to_owned).to_vec(),
        role: join.role,
        room: join.room.clone(),
        token: join.token.clone(),
        name: join.name.clone(),
        agent: Some(concat!("stentor/", env!("CARGO_PKG_VERSION")).to_owned()),
        playout_ms: u32::try_from(join.playout.as_millis()).ok(),
        last: join.last,
        pass: None,
        ticket: None,
        // Without a token it is what a place in the queue is bound to.
        client_key: join.token.is_none().then(|| client_key(rand::random())),
        relay: None,
    }
}

async fn resolve(address: &str) -> Result<SocketAddr, SessionError> {
    let error = |reason: String| SessionError::Address { address: address.to_owned(), reason };
    let mut found = tokio::net::lookup_host(address).await.map_err(|e| error(e.to_string()))?;
    found.next().ok_or_else(|| error("the name has no address".into()))
}

/// A connection's end as this crate's error: the server's close code and reason where it gave them.
fn refused(address: &str, error: quinn::ConnectionError) -> SessionError {
    let address = address.to_owned();
    match error {
        quinn::ConnectionError::ApplicationClosed(close) => {
            let code = CloseCode::from_code(close.error_code.into_inner());
            let reason = String::from_utf8_lossy(&close.reason).into_owned();
            match code {
                Some(code) => SessionError::Closed { address, close: Close::new(code, reason) },
                None => SessionError::Lost { address, reason: format!("unknown close: {reason}") },
            }
        }
        quinn::ConnectionError::TransportError(error) => {
            SessionError::Connect { address, reason: error.to_string() }
        }
        other => SessionError::Lost { address, reason: other.to_string() },
    }
}

/// TLS 1.3 for a client that trusts `trust`; ALPN is that of sessions.
///
/// # Errors
/// When there is nobody to trust, or a certificate cannot be read.
pub fn client_crypto(trust: &Trust) -> Result<rustls::ClientConfig, SessionError> {
    let setup = |error: String| SessionError::Setup(error);
    let mut roots = rustls::RootCertStore::empty();
    match trust {
        Trust::System => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let reason = "this system has no certificate authorities; name one with --ca FILE";
                return Err(setup(reason.into()));
            }
        }
        Trust::Authorities(authorities) => {
            for authority in authorities {
                roots.add(authority.clone()).map_err(|e| setup(format!("certificate: {e}")))?;
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| setup(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}
