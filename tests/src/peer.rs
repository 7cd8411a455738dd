//! A client that says what the project's own would not: plain quinn and bytes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use stentor_client::session::Trust;
use stentor_proto::limits;
use stentor_proto::wire::{
    ALPN, ClientMessage, CloseCode, ControlDecoder, Hello, Role, ServerMessage, VERSION, Welcome,
    encode_control,
};
use stentor_relay::quic::config::client_tls;

/// Ten times what a deadline of the protocol allows.
const PATIENCE: Duration = Duration::from_secs(50);

/// A connection with its control stream.
#[derive(Debug)]
pub struct Peer {
    /// The connection: its datagrams, its end.
    pub connection: quinn::Connection,
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    decoder: ControlDecoder,
    /// Kept: a connection ends with its endpoint.
    _endpoint: quinn::Endpoint,
}

impl Peer {
    /// Connects and says nothing yet.
    ///
    /// # Errors
    /// When no connection comes about.
    pub async fn connect(trust: &Trust, to: SocketAddr) -> Result<Self> {
        let endpoint = endpoint(trust, quinn::TransportConfig::default(), ALPN)?;
        let connection = endpoint.connect(to, &to.ip().to_string())?.await?;
        let (send, recv) = connection.open_bi().await?;
        let decoder = ControlDecoder::default();
        Ok(Self { connection, send, recv, decoder, _endpoint: endpoint })
    }

    /// Connects and joins.
    ///
    /// # Errors
    /// When the node says no: the name of the close is the error's first word.
    pub async fn join(trust: &Trust, to: SocketAddr, hello: Hello) -> Result<(Self, Welcome)> {
        let mut peer = Self::connect(trust, to).await?;
        peer.say(&ClientMessage::Hello(hello)).await?;
        let welcome = tokio::time::timeout(PATIENCE, peer.welcomed()).await??;
        Ok((peer, welcome))
    }

    /// Says something on the control stream.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn say(&mut self, message: &ClientMessage) -> Result<()> {
        self.write(&encode_control(message)).await
    }

    /// Writes bytes to the control stream, whatever they are.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.send.write_all(bytes).await?)
    }

    /// Sends a datagram; when the peer is closed already, nothing happens.
    pub fn datagram(&self, bytes: Bytes) {
        let _ = self.connection.send_datagram(bytes);
    }

    /// The next control message.
    ///
    /// # Errors
    /// When the connection is closed or the stream has ended.
    pub async fn message(&mut self) -> Result<ServerMessage> {
        loop {
            if let Some(message) = self.decoder.next_message::<ServerMessage>()? {
                return Ok(message);
            }
            let chunk = self.recv.read_chunk(limits::CONTROL_BYTES, true).await?;
            self.decoder.push(&chunk.context("the control stream ended")?.bytes);
        }
    }

    /// Waits until the session is closed: the code's name.
    ///
    /// # Errors
    /// When it is not, or without a code of the protocol.
    pub async fn closed(&self) -> Result<&'static str> {
        let end = tokio::time::timeout(PATIENCE, self.connection.closed()).await;
        close_name(end.context("the session at fault was not closed")?)
    }

    async fn welcomed(&mut self) -> Result<Welcome> {
        loop {
            match self.message().await? {
                ServerMessage::Welcome(welcome) => return Ok(welcome),
                ServerMessage::Closing { name, reason, .. } => bail!("{name}: {reason}"),
                _ => {}
            }
        }
    }
}

/// The name of the code that a connection was closed with.
///
/// # Errors
/// When it ended otherwise, or without a reason in words.
pub fn close_name(end: quinn::ConnectionError) -> Result<&'static str> {
    match end {
        quinn::ConnectionError::ApplicationClosed(close) => {
            let code = CloseCode::from_code(close.error_code.into_inner());
            let code = code.context("a close code that the protocol does not know")?;
            anyhow::ensure!(!close.reason.is_empty(), "{} without a reason", code.name());
            Ok(code.name())
        }
        other => bail!("the connection ended otherwise: {other}"),
    }
}

/// An endpoint with a transport and an ALPN of the misdeed's own.
///
/// # Errors
/// When no socket is to be had.
pub fn endpoint(
    trust: &Trust,
    transport: quinn::TransportConfig,
    alpn: &[u8],
) -> Result<quinn::Endpoint> {
    let Trust::Authorities(authorities) = trust else { bail!("a bed has its own authority") };
    let mut roots = rustls::RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone())?;
    }
    let crypto = QuicClientConfig::try_from(client_tls(roots, &[alpn])?)?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    let mut endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into())?;
    endpoint.set_default_client_config(config);
    Ok(endpoint)
}

/// A good hello of this role.
#[must_use]
pub fn hello(room: &str, role: Role, token: Option<String>) -> Hello {
    Hello {
        version: VERSION,
        features: Vec::new(),
        role,
        room: if role == Role::Relay { String::new() } else { room.into() },
        token,
        name: None,
        agent: Some("mallory".into()),
        playout_ms: Some(100),
        last: None,
        pass: None,
        ticket: None,
        client_key: None,
        relay: None,
    }
}
