//! Builders of the QUIC and TLS configurations that all of this project's endpoints use.
//!
//! Lean by intent: one control stream, one waiting datagram, no MTU discovery, no 0-RTT, no session
//! tickets. What is fixed here is fixed for memory and cost per listener; what differs between nodes
//! is in [`TransportSettings`].

use std::sync::Arc;
use std::time::Duration;

use quinn_proto::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    AckFrequencyConfig, ClientConfig, EndpointConfig, IdleTimeout, ServerConfig, TransportConfig,
    ValidationTokenConfig, VarInt,
};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{hkdf, hmac};
use rustls::crypto::CryptoProvider;
use rustls::crypto::{aws_lc_rs, ring as provider};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use stentor_proto::limits::{
    CONTROL_WINDOW_BYTES, DATAGRAM_RECEIVE_BYTES, DATAGRAM_WAIT_BYTES, IDLE_TIMEOUT, INCOMING,
    INCOMING_BYTES, INCOMING_BYTES_TOTAL,
};

use super::cid::{CidKey, ShardCids};
use super::congestion::SteadyFactory;

/// Why a configuration cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The certificate, its key or the trusted roots are refused.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The TLS configuration was built with a provider that lacks QUIC's initial cipher.
    #[error("TLS: {0}")]
    Cipher(#[from] NoInitialCipherSuite),
    /// A duration is beyond what the wire can carry (2^62 ms).
    #[error("the idle timeout of {0:?} is beyond what QUIC can carry")]
    IdleTimeout(Duration),
    /// The system gives no random bytes for keys.
    #[error("the system's source of randomness failed")]
    Randomness,
}

/// The secrets that all shards of a node share.
#[derive(Clone)]
pub struct SharedKeys {
    reset: hmac::Key,
    token: Arc<hkdf::Prk>,
    cid: CidKey,
}

impl SharedKeys {
    /// Fresh keys.
    ///
    /// # Errors
    /// [`ConfigError::Randomness`].
    pub fn random() -> Result<Self, ConfigError> {
        let mut secret = [0; 64];
        SystemRandom::new().fill(&mut secret).map_err(|_| ConfigError::Randomness)?;
        Ok(Self::from_secret(&secret))
    }

    /// Keys derived from a secret, so that a node that restarts keeps them: it can then end the
    /// sessions of its former self by stateless reset (RFC 9000 section 10.3).
    #[must_use]
    pub fn from_secret(secret: &[u8]) -> Self {
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"stentor quic keys").extract(secret);
        let derive = |label: &[u8]| {
            let mut key = [0; 32];
            prk.expand(&[label], hkdf::HKDF_SHA256)
                .and_then(|okm| okm.fill(&mut key))
                .expect("32 bytes is the length of the hash's own output");
            key
        };
        let [cid @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = derive(b"connection ids");
        Self {
            reset: hmac::Key::new(hmac::HMAC_SHA256, &derive(b"stateless reset")),
            token: Arc::new(
                hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&derive(b"handshake token")),
            ),
            cid: CidKey::new(cid),
        }
    }

    /// The key of the connection IDs.
    #[must_use]
    pub const fn cid(&self) -> CidKey {
        self.cid
    }
}

impl std::fmt::Debug for SharedKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedKeys(..)")
    }
}

/// What differs between the transports of different nodes.
#[derive(Clone, Copy, Debug)]
pub struct TransportSettings {
    /// A connection that hears nothing for this long is dead.
    pub idle: Duration,
    /// Sends a PING after this much silence.
    pub keep_alive: Option<Duration>,
    /// Unidirectional streams that a peer may open: 0, or the 3 of HTTP/3, which a peer must be
    /// granted before its ALPN is known. One that speaks raw QUIC has them refused.
    pub uni_streams: u32,
    /// How often datagrams are acknowledged, where the peer knows the ACK frequency extension.
    pub acks: Acks,
}

impl Default for TransportSettings {
    fn default() -> Self {
        Self { idle: IDLE_TIMEOUT, keep_alive: None, uni_streams: 0, acks: Acks::default() }
    }
}

/// How often a receiver of ticks acknowledges (draft-ietf-quic-ack-frequency).
#[derive(Clone, Copy, Debug)]
pub struct Acks {
    /// A sender asks that this many packets may stay unacknowledged.
    pub packets: u32,
    /// A client announces that it waits this long, and a sender asks no less of it.
    ///
    /// Of a stranger's client quinn-proto asks for the larger of a round trip and 25 ms at most.
    pub delay: Duration,
}

impl Default for Acks {
    /// An ACK for every tenth packet (the one after nine), or after 230 ms: a tenth of the packets at
    /// 50 Hz, where every other one is what QUIC does by itself. Loss still shows in time for repair by
    /// ticks, which does not hang on ACKs, and for choosing a variant, which looks at seconds. Not
    /// rarer, for quinn-proto keeps eleven unacknowledged packets in one node of its table.
    fn default() -> Self {
        Self { packets: 9, delay: Duration::from_millis(230) }
    }
}

/// The crypto provider of every endpoint: ring, with AES-128-GCM first; the key exchange and the
/// signature of a handshake are AWS-LC's.
///
/// X25519 is the largest part of a join, and AWS-LC's takes 33 µs where ring's takes 59
/// (docs/decisions/0007).
///
/// AES-128 is QUIC's own initial cipher, costs the least per packet with hardware AES and keeps the
/// smallest key schedule in each connection.
#[must_use]
pub fn crypto_provider() -> Arc<CryptoProvider> {
    let mut provider = provider::default_provider();
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519};
    provider.kx_groups = vec![X25519, SECP256R1, SECP384R1];
    provider.key_provider = aws_lc_rs::default_provider().key_provider;
    provider.cipher_suites = vec![
        provider::cipher_suite::TLS13_AES_128_GCM_SHA256,
        provider::cipher_suite::TLS13_AES_256_GCM_SHA384,
        provider::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(provider)
}

/// TLS 1.3 for a server.
///
/// # Errors
/// When the key does not belong to the certificate or is of an unknown kind.
pub fn server_tls(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    alpns: &[&[u8]],
) -> Result<rustls::ServerConfig, rustls::Error> {
    let mut tls = rustls::ServerConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    tls.alpn_protocols = alpns.iter().map(|alpn| alpn.to_vec()).collect();
    // The cipher is chosen for this node's cost per packet.
    tls.ignore_client_order = true;
    // A listener that comes back meets another relay; a ticket would be made for nothing.
    tls.send_tls13_tickets = 0;
    Ok(tls)
}

/// TLS 1.3 for a client that trusts `roots`.
///
/// # Errors
/// When the provider is refused, which it is not.
pub fn client_tls(
    roots: rustls::RootCertStore,
    alpns: &[&[u8]],
) -> Result<rustls::ClientConfig, rustls::Error> {
    let mut tls = rustls::ClientConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = alpns.iter().map(|alpn| alpn.to_vec()).collect();
    tls.resumption = rustls::client::Resumption::disabled();
    Ok(tls)
}

/// The QUIC configuration of a server.
///
/// # Errors
/// When `tls` lacks TLS 1.3 with AES-128-GCM, or the idle timeout is out of range.
pub fn server_config(
    tls: rustls::ServerConfig,
    keys: &SharedKeys,
    settings: &TransportSettings,
) -> Result<Arc<ServerConfig>, ConfigError> {
    let crypto = Arc::new(QuicServerConfig::try_from(tls)?);
    let mut config = ServerConfig::new(crypto, keys.token.clone());
    let mut tokens = ValidationTokenConfig::default();
    tokens.sent(0);
    config
        .transport_config(Arc::new(transport(settings)?))
        .validation_token_config(tokens)
        .migration(true)
        .max_incoming(INCOMING)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_BYTES_TOTAL);
    Ok(Arc::new(config))
}

/// The QUIC configuration of a client; it is cheap to clone, one for each connection.
///
/// # Errors
/// When `tls` lacks TLS 1.3 with AES-128-GCM, or the idle timeout is out of range.
pub fn client_config(
    tls: rustls::ClientConfig,
    settings: &TransportSettings,
) -> Result<ClientConfig, ConfigError> {
    client_config_over(Arc::new(QuicClientConfig::try_from(tls)?), settings)
}

/// The same over a session cryptography of the caller's.
///
/// # Errors
/// When the idle timeout is out of range.
pub fn client_config_over(
    crypto: Arc<dyn quinn_proto::crypto::ClientConfig>,
    settings: &TransportSettings,
) -> Result<ClientConfig, ConfigError> {
    let mut config = ClientConfig::new(crypto);
    config.transport_config(Arc::new(transport(settings)?));
    Ok(config)
}

/// The configuration of one shard's endpoint.
#[must_use]
pub fn endpoint_config(keys: &SharedKeys, shard: u16) -> Arc<EndpointConfig> {
    let cid = keys.cid;
    let mut config = EndpointConfig::new(Arc::new(keys.reset.clone()));
    config
        .supported_versions(vec![VERSION_1])
        // A random bit in every header would cost a call of the generator for each packet.
        .grease_quic_bit(false)
        .cid_generator(move || Box::new(ShardCids::new(cid, shard)));
    Arc::new(config)
}

fn transport(settings: &TransportSettings) -> Result<TransportConfig, ConfigError> {
    let idle = IdleTimeout::try_from(settings.idle)
        .map_err(|_| ConfigError::IdleTimeout(settings.idle))?;
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(settings.acks.packets))
        .max_ack_delay(Some(settings.acks.delay))
        .reordering_threshold(VarInt::from_u32(REORDERED));
    let congestion = SteadyFactory { ack_delay: settings.acks.delay };
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(settings.keep_alive)
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(settings.uni_streams))
        .stream_receive_window(VarInt::from_u32(CONTROL_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONTROL_WINDOW_BYTES))
        .send_window(CONTROL_WINDOW_BYTES.into())
        .datagram_send_buffer_size(DATAGRAM_WAIT_BYTES)
        .datagram_receive_buffer_size(Some(DATAGRAM_RECEIVE_BYTES))
        .initial_mtu(MTU)
        .mtu_discovery_config(None)
        .ack_frequency_config(Some(acks))
        .congestion_controller_factory(Arc::new(congestion))
        .enable_segmentation_offload(false);
    Ok(config)
}

/// QUIC version 1 (RFC 9000).
const VERSION_1: u32 = 1;
/// Packets of this size (bytes) pass every path that carries QUIC (RFC 9000 section 14).
const MTU: u16 = 1_200;
/// A peer acknowledges at once when packets arrive out of order by this many.
const REORDERED: u32 = 3;
