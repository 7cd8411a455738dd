//! TLS of crowds: thousands of clients on one core that all meet the same few certificates.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use stentor_proto::wire::ALPN;
use stentor_relay::quic::config::{client_tls, crypto_provider};

/// Certificates whose chains one crowd remembers; a tree of the lab has fewer relays.
const REMEMBERED: usize = 1_024;

/// TLS 1.3 for a crowd that trusts `roots`: as [`client_tls`], but a certificate's chain is checked once, not
/// for each listener. Each handshake's own signature is checked for each.
///
/// In the world every listener checks the chain on a machine of its own; here it would be a quarter of what
/// the crowd's core does for a handshake.
///
/// # Errors
/// When the provider or the roots are refused.
pub fn crowd_tls(roots: RootCertStore) -> Result<ClientConfig> {
    let inner =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots.clone()), crypto_provider())
            .build()?;
    let mut tls = client_tls(roots, &[ALPN])?;
    let seen = Mutex::new(HashSet::new());
    tls.dangerous().set_certificate_verifier(Arc::new(Once { inner, seen }));
    Ok(tls)
}

/// Checks each chain once, through `inner`.
#[derive(Debug)]
struct Once {
    inner: Arc<WebPkiServerVerifier>,
    /// Who was found to be who, in one handshake's very bytes.
    seen: Mutex<HashSet<(ServerName<'static>, Vec<u8>)>>,
}

impl ServerCertVerifier for Once {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let known = (server_name.to_owned(), end_entity.to_vec());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.contains(&known) {
            return Ok(ServerCertVerified::assertion());
        }
        let verified = self.inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        if seen.len() < REMEMBERED {
            seen.insert(known);
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
