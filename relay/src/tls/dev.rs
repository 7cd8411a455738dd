//! Development mode: an authority, a token key and a relay token in one directory, shared by all
//! processes that are started on it.
//!
//! Several processes may start at once on an empty directory. Each file is written under a name
//! of its own and then linked to its final name, which only the first succeeds in; all then read
//! the final file. What belongs together is in one file.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use stentor_proto::token::{ANY_RELAY, ANY_ROOM, Claims, Signer, Verifier, private_pem};
use stentor_proto::wire::Role;

use crate::config::Secret;

/// The authority's certificate and key; for this directory's processes alone.
const AUTHORITY: &str = "authority.pem";
/// The authority's certificate; for clients.
const CA: &str = "ca.pem";
/// The origin's key for signing tokens.
const TOKEN_KEY: &str = "token-key.pem";
/// The relays' token.
const RELAY_TOKEN: &str = "relay.token";

const DAY: Duration = Duration::from_secs(24 * 3_600);
/// A browser that is given a certificate's hash accepts 14 days at most (W3C WebTransport).
const CERTIFICATE: Duration = Duration::from_secs(13 * 24 * 3_600);
/// Certificates are valid from an hour ago, for clocks that are behind.
const BACKDATE: Duration = Duration::from_secs(3_600);
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);
const RELAY_TOKEN_LIFE: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Why a development directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// The file system said no.
    #[error("development directory: {path:?}: {error}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file holds something else than this program wrote.
    #[error("development directory: {path:?} is damaged ({problem}); remove it to have a new one")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Others than this user may write into it, and so have these keys for theirs.
    #[error("development directory: {path:?} {problem}; the keys in it would be anyone's")]
    Open {
        /// The directory.
        path: PathBuf,
        /// Who may write, and what to do.
        problem: String,
    },
    /// Keys or certificates could not be made.
    #[error("development directory: {0}")]
    Crypto(String),
}

/// A development directory with everything in it.
#[derive(Debug)]
pub struct DevDir {
    path: PathBuf,
    authority: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    signer: Signer,
    relay_token: Secret,
}

impl DevDir {
    /// Opens the directory; what is missing is made, with keys readable by the owner alone.
    ///
    /// # Errors
    /// When the directory cannot be written, or a file in it is damaged.
    pub fn open(path: &Path) -> Result<Self, DevError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| io_error(path, error))?;
        check_owner(path)?;
        let file = path.join(AUTHORITY);
        let pem = publish(&file, 0o600, make_authority)?;
        let key = KeyPair::from_pem(&pem).map_err(|e| damaged(&file, e))?;
        let authority =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| damaged(&file, e))?;
        let certificate = pem.find(CERTIFICATE_BEGIN).map_or("", |at| &pem[at..]);
        let ca = path.join(CA);
        if fs::read_to_string(&ca).ok().as_deref() != Some(certificate) {
            replace(&ca, 0o644, certificate)?;
        }
        let file = path.join(TOKEN_KEY);
        let pem = publish(&file, 0o600, || Ok(private_pem(random_bytes()?)))?;
        let signer = Signer::from_pkcs8_pem(&pem, None).map_err(|e| damaged(&file, e))?;
        Ok(Self {
            relay_token: relay_token(&path.join(RELAY_TOKEN), &signer)?,
            path: path.to_owned(),
            authority,
            issuer: Issuer::new(authority_params(), key),
            signer,
        })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that clients name to trust this directory's nodes.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.path.join(CA)
    }

    /// The authority's certificate.
    #[must_use]
    pub fn authority(&self) -> CertificateDer<'static> {
        self.authority.clone()
    }

    /// The origin's key for signing tokens.
    #[must_use]
    pub const fn signer(&self) -> &Signer {
        &self.signer
    }

    /// The token with which relays register at the origin of this directory.
    #[must_use]
    pub const fn relay_token(&self) -> &Secret {
        &self.relay_token
    }

    /// A fresh server certificate (ECDSA P-256) for these hosts with its key.
    ///
    /// # Errors
    /// When a host is no valid name.
    pub fn issue(
        &self,
        hosts: &[String],
        now: SystemTime,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), DevError> {
        let key = KeyPair::generate().map_err(crypto)?;
        let mut params = CertificateParams::new(hosts.to_vec()).map_err(crypto)?;
        params.distinguished_name.push(DnType::CommonName, "Stentor development node");
        params.not_before = (now - BACKDATE).into();
        params.not_after = (now + CERTIFICATE).into();
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).map_err(crypto)?;
        let secret = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok((vec![certificate.der().clone()], secret.into()))
    }
}

const CERTIFICATE_BEGIN: &str = "-----BEGIN CERTIFICATE-----";

/// What the issuer of a certificate repeats of the authority's own: its name and use.
fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Stentor development authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Key first, certificate behind it, in one file, so that no process sees one without the other.
fn make_authority() -> Result<String, DevError> {
    let key = KeyPair::generate().map_err(crypto)?;
    let mut params = authority_params();
    let now = SystemTime::now();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + AUTHORITY_LIFE).into();
    let certificate = params.self_signed(&key).map_err(crypto)?;
    Ok(key.serialize_pem() + &certificate.pem())
}

/// The relays' token; made anew when it is about to expire or belongs to another key.
fn relay_token(file: &Path, signer: &Signer) -> Result<Secret, DevError> {
    let now_s = unix_s();
    let make = || {
        let jti: [u8; 32] = random_bytes()?;
        let claims = Claims {
            sub: ANY_RELAY.to_owned(),
            room: ANY_ROOM.to_owned(),
            role: Role::Relay,
            exp: now_s + RELAY_TOKEN_LIFE.as_secs(),
            iat: now_s,
            jti: stentor_proto::token::key_id(&jti),
            nbf: None,
            iss: None,
            name: None,
        };
        signer.sign(&claims).map_err(crypto)
    };
    let token = publish(file, 0o600, make)?;
    let verifier = Verifier::new([(signer.kid().to_owned(), signer.public())]).map_err(crypto)?;
    let token = match verifier.verify(token.trim(), now_s + DAY.as_secs()) {
        Ok(_) => token,
        Err(_) => {
            let token = make()?;
            replace(file, 0o600, &token)?;
            token
        }
    };
    Ok(Secret::new(token.trim().to_owned()))
}

/// Reads a file, which is made if there is none; of several makers the first one wins.
fn publish(
    file: &Path,
    mode: u32,
    make: impl FnOnce() -> Result<String, DevError>,
) -> Result<String, DevError> {
    match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        read => return read.map_err(|error| io_error(file, error)),
    }
    let draft = write_draft(file, mode, &make()?)?;
    let linked = fs::hard_link(&draft, file);
    fs::remove_file(&draft).map_err(|error| io_error(&draft, error))?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(io_error(file, error)),
        _ => fs::read_to_string(file).map_err(|error| io_error(file, error)),
    }
}

/// Writes a file so that a reader sees the old or the new content, never a part.
fn replace(file: &Path, mode: u32, content: &str) -> Result<(), DevError> {
    let draft = write_draft(file, mode, content)?;
    fs::rename(&draft, file).map_err(|error| io_error(file, error))
}

fn write_draft(file: &Path, mode: u32, content: &str) -> Result<PathBuf, DevError> {
    static DRAFTS: AtomicU32 = AtomicU32::new(0);
    let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
    let draft = file.with_extension(format!("draft-{}-{number}", std::process::id()));
    let write = || {
        // Of a dead process with the same id.
        let _ = fs::remove_file(&draft);
        let mut out = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
        out.write_all(content.as_bytes())?;
        out.sync_all()
    };
    write().map_err(|error| io_error(&draft, error))?;
    Ok(draft)
}

/// Whether the directory is this user's, and writable by nobody else.
fn check_owner(path: &Path) -> Result<(), DevError> {
    let stat = |path: &Path| fs::metadata(path).map_err(|error| io_error(path, error));
    let (found, own) = (stat(path)?, stat(Path::new("/proc/self"))?.uid());
    let open = |problem| Err(DevError::Open { path: path.to_owned(), problem });
    if found.uid() != own {
        return open(format!("belongs to user {}, and this is user {own}", found.uid()));
    }
    match found.mode() & 0o022 {
        0 => Ok(()),
        _ => open(format!("is writable by others (mode {:o}): chmod go-w", found.mode() & 0o777)),
    }
}

fn random_bytes() -> Result<[u8; 32], DevError> {
    let mut bytes = [0; 32];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| DevError::Crypto("the system gives no random bytes".to_owned()))?;
    Ok(bytes)
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn io_error(path: &Path, error: io::Error) -> DevError {
    DevError::Io { path: path.to_owned(), error }
}

fn damaged(path: &Path, problem: impl ToString) -> DevError {
    DevError::Damaged { path: path.to_owned(), problem: problem.to_string() }
}

fn crypto(error: impl ToString) -> DevError {
    DevError::Crypto(error.to_string())
}
