//! Certificate, key and trust: the operator's PEM files, reloaded when they change, or
//! development mode with an authority of its own.
//!
//! TLS 1.3 alone, with ring; every shard shares one configuration and one ticket key, so a
//! session resumes on any of them, and across a reload.

mod dev;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use stentor_proto::wire::{ALPN, ALPN_WEBTRANSPORT};
use tokio::sync::watch;

use crate::config::ConfigError;
use crate::metrics;
use crate::quic::config as quic;
use crate::settings::{HostPort, TlsSettings};

pub use dev::{DevDir, DevError};

/// How often the PEM files are looked at.
pub const RELOAD_EVERY: Duration = Duration::from_secs(5);
/// Bytes of a PEM file at most: a chain of a few certificates has 2 to 8 kB.
const PEM_BYTES: u64 = 256 * 1024;
/// A development certificate is replaced at this age; it is valid for far longer.
const DEV_RENEW: Duration = Duration::from_secs(24 * 3_600);

/// Why there is no certificate, key or trust. The operator's files are at fault.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing, unreadable or holds something else.
    #[error("{key} = {path:?}: {problem}")]
    File {
        /// The key of the configuration that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The system has no trusted authorities.
    #[error("the system has no trusted authorities ({0}); name a PEM file as tls.ca")]
    NoRoots(String),
    /// Development mode could not make or read its directory.
    #[error(transparent)]
    Dev(#[from] DevError),
    /// The TLS library refused its parameters.
    #[error("TLS: {0}")]
    Library(#[from] rustls::Error),
}

impl From<TlsError> for ConfigError {
    fn from(error: TlsError) -> Self {
        let key = match &error {
            TlsError::File { key, .. } => key,
            TlsError::NoRoots(_) => "tls.ca",
            TlsError::Dev(_) => "tls.dev",
            TlsError::Library(_) => "tls",
        };
        Self {
            key: key.to_owned(),
            value: None,
            place: "TLS".to_owned(),
            problem: error.to_string(),
        }
    }
}

/// What a node shows and whom it trusts.
pub struct Tls {
    server: watch::Sender<Arc<ServerConfig>>,
    hashes: watch::Sender<Vec<String>>,
    client: Arc<ClientConfig>,
    source: Source,
}

enum Source {
    Files {
        cert: PathBuf,
        key: PathBuf,
        /// Of the files that were last tried, whether they were good or not.
        tried: digest::Digest,
    },
    Dev {
        dir: Box<DevDir>,
        hosts: Vec<String>,
        issued: SystemTime,
    },
}

/// What a look at the files has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// The same files as before.
    Unchanged,
    /// New files are in use.
    Done,
    /// New files are bad; the old ones stay in use. Logged.
    Bad,
}

impl Tls {
    /// Reads the PEM files, or opens (and if need be makes) the development directory.
    ///
    /// `advertise` is the host that others use for this node; a development certificate names it
    /// beside `localhost`, `127.0.0.1` and `::1`.
    ///
    /// # Errors
    /// When a file or the directory is at fault.
    pub fn load(settings: &TlsSettings, advertise: Option<&HostPort>) -> Result<Self, TlsError> {
        let mut hashes = Vec::new();
        let (config, client, source) = match settings {
            TlsSettings::Files { cert, key, ca } => {
                let (bytes, tried) = read_pair(cert, key)?;
                let config = from_pem(cert, key, &bytes)?;
                let roots = match ca {
                    Some(ca) => roots_from_file(ca)?,
                    None => roots_of_system()?,
                };
                let (cert, key) = (cert.clone(), key.clone());
                (config, roots, Source::Files { cert, key, tried })
            }
            TlsSettings::Dev { dir } => {
                let dir = Box::new(DevDir::open(dir)?);
                let hosts = dev_hosts(advertise);
                let issued = SystemTime::now();
                let (chain, key) = dir.issue(&hosts, issued)?;
                hashes = hashes_of(&chain);
                let config = server_config(chain, key)?;
                let mut roots = RootCertStore::empty();
                roots.add(dir.authority())?;
                let source = Source::Dev { dir, hosts, issued };
                (config, roots, source)
            }
        };
        let (server, hashes) = (watch::Sender::new(config), watch::Sender::new(hashes));
        Ok(Self { server, hashes, client: client_config(client)?, source })
    }

    /// The configuration to serve with; each change of the channel is a fresh one.
    #[must_use]
    pub fn server(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.server.subscribe()
    }

    /// In development mode the SHA-256 hash (base64url) of the certificate that is shown, for pages
    /// (`serverCertificateHashes`); else none. Each change of the channel goes with a change of
    /// [`Self::server`].
    #[must_use]
    pub fn certificate_hashes(&self) -> watch::Receiver<Vec<String>> {
        self.hashes.subscribe()
    }

    /// The configuration to connect to other nodes with.
    #[must_use]
    pub fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }

    /// The development directory, in development mode.
    #[must_use]
    pub fn dev(&self) -> Option<&DevDir> {
        match &self.source {
            Source::Dev { dir, .. } => Some(&**dir),
            Source::Files { .. } => None,
        }
    }

    /// Looks at the files (or at the age of the development certificate) and takes what is new.
    ///
    /// A pair that is being replaced file by file does not fit for a moment: it is reported as
    /// bad, the old one stays, and the next look finds the whole new pair.
    pub fn reload(&mut self) -> Reload {
        let fresh = match &mut self.source {
            Source::Files { cert, key, tried } => match read_pair(cert, key) {
                Ok((_, new)) if new.as_ref() == tried.as_ref() => return Reload::Unchanged,
                Ok((bytes, new)) => {
                    *tried = new;
                    from_pem(cert, key, &bytes)
                }
                Err(error) => Err(error),
            },
            Source::Dev { dir, hosts, issued } => {
                let now = SystemTime::now();
                if now.duration_since(*issued).is_ok_and(|age| age < DEV_RENEW) {
                    return Reload::Unchanged;
                }
                *issued = now;
                dir.issue(hosts, now).map_err(TlsError::from).and_then(|(chain, key)| {
                    let hashes = hashes_of(&chain);
                    let config = server_config(chain, key)?;
                    self.hashes.send_replace(hashes);
                    Ok(config)
                })
            }
        };
        match fresh {
            Ok(config) => {
                self.server.send_replace(config);
                metrics::TLS_RELOADS.counter(&["done"]).increment(1);
                tracing::info!("certificate and key reloaded; new sessions use them");
                Reload::Done
            }
            Err(error) => {
                metrics::TLS_RELOADS.counter(&["bad"]).increment(1);
                tracing::error!(%error, "the operator's new certificate or key is bad; \
                    the old one stays in use");
                Reload::Bad
            }
        }
    }

    /// Reloads every [`RELOAD_EVERY`] and on SIGHUP, for ever.
    ///
    /// # Errors
    /// When the process may not listen to signals.
    pub async fn keep_fresh(mut self) -> std::io::Result<std::convert::Infallible> {
        let kind = tokio::signal::unix::SignalKind::hangup();
        let mut hangup = tokio::signal::unix::signal(kind)?;
        let mut every = tokio::time::interval(RELOAD_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = every.tick() => {}
                _ = hangup.recv() => tracing::info!("SIGHUP: looking at certificate and key"),
            }
            self.reload();
        }
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mode = self.dev().map_or("files", |_| "development");
        write!(f, "Tls({mode})")
    }
}

/// A server configuration as every shard uses it.
fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, TlsError> {
    Ok(Arc::new(quic::server_tls(chain, key, &[ALPN, ALPN_WEBTRANSPORT])?))
}

/// The hash of a chain's first certificate.
fn hashes_of(chain: &[CertificateDer<'static>]) -> Vec<String> {
    let hash = |certificate: &CertificateDer<'_>| {
        URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, certificate))
    };
    chain.first().map(hash).into_iter().collect()
}

fn client_config(roots: RootCertStore) -> Result<Arc<ClientConfig>, TlsError> {
    Ok(Arc::new(quic::client_tls(roots, &[ALPN])?))
}

type Pair = (Vec<u8>, Vec<u8>);

fn read_pair(cert: &Path, key: &Path) -> Result<(Pair, digest::Digest), TlsError> {
    let pair = (read("tls.cert", cert)?, read("tls.key", key)?);
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(&pair.0);
    hash.update(&[0]);
    hash.update(&pair.1);
    Ok((pair, hash.finish()))
}

fn from_pem(cert: &Path, key: &Path, pair: &Pair) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates("tls.cert", cert, &pair.0)?;
    let secret = PrivateKeyDer::from_pem_slice(&pair.1).map_err(|error| {
        let problem = format!("holds no private key in PEM ({error})");
        wrong("tls.key", key, problem)
    })?;
    server_config(chain, secret).map_err(|error| match error {
        TlsError::Library(rustls::Error::InconsistentKeys(_)) => {
            let problem = format!("does not belong to the certificate in {}", cert.display());
            wrong("tls.key", key, problem)
        }
        TlsError::Library(error) => wrong("tls.cert", cert, error.to_string()),
        error => error,
    })
}

fn roots_from_file(ca: &Path) -> Result<RootCertStore, TlsError> {
    let bytes = read("tls.ca", ca)?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates("tls.ca", ca, &bytes)? {
        roots.add(certificate).map_err(|error| {
            let problem = format!("holds a certificate that is no authority ({error})");
            wrong("tls.ca", ca, problem)
        })?;
    }
    Ok(roots)
}

fn roots_of_system() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        let why = found.errors.first().map_or_else(|| "none found".to_owned(), |e| e.to_string());
        return Err(TlsError::NoRoots(why));
    }
    Ok(roots)
}

fn certificates(
    key: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(wrong(key, path, "holds no certificate in PEM".to_owned())),
        Err(error) => Err(wrong(key, path, format!("is not PEM ({error})"))),
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let cannot = |error| wrong(key, path, format!("cannot be read: {error}"));
    let size = std::fs::metadata(path).map_err(cannot)?.len();
    if size > PEM_BYTES {
        let problem = format!("has {size} bytes; a PEM file has at most {PEM_BYTES}");
        return Err(wrong(key, path, problem));
    }
    std::fs::read(path).map_err(cannot)
}

fn wrong(key: &'static str, path: &Path, problem: String) -> TlsError {
    TlsError::File { key, path: path.to_owned(), problem }
}

fn dev_hosts(advertise: Option<&HostPort>) -> Vec<String> {
    let mut hosts: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    if let Some(HostPort { host, .. }) = advertise {
        let anywhere = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
        if !anywhere && !hosts.contains(host) {
            hosts.push(host.clone());
        }
    }
    hosts
}

#[cfg(test)]
mod tests;
