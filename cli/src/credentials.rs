//! Whom a command trusts, and with what token it comes.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use stentor_client::session::Trust;
use stentor_origin::mint::{Request, mint};
use stentor_proto::limits;
use stentor_proto::token::Signer;
use stentor_proto::wire::Role;
use stentor_relay::config::ConfigError;
use stentor_relay::exit::Error;
use stentor_relay::tls::{DevDir, TlsError};

/// How long a token lives that a command mints for itself.
const TTL: Duration = Duration::from_secs(24 * 3_600);
/// The environment's token.
const TOKEN: &str = "STENTOR_TOKEN";

/// Trust and token.
#[derive(Clone, Debug, Args)]
pub(crate) struct Credentials {
    /// File with the token [env: STENTOR_TOKEN for the token itself]
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// PEM file with the authorities to trust; default the system's
    #[arg(long, value_name = "FILE", conflicts_with = "dev")]
    pub(crate) ca: Option<PathBuf>,
    /// Development mode: trust the nodes of a development directory, by default ./stentor-dev, and
    /// sign a token with its key unless one is given
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true,
          default_missing_value = "stentor-dev")]
    pub(crate) dev: Option<PathBuf>,
}

impl Credentials {
    /// Whom to trust.
    ///
    /// # Errors
    /// When the file or directory is at fault.
    pub(crate) fn trust(&self) -> Result<Trust, Error> {
        if let Some(dev) = &self.dev {
            return Ok(Trust::Authorities(vec![open_dev(dev)?.authority()]));
        }
        let Some(ca) = &self.ca else { return Ok(Trust::System) };
        let wrong = |problem: String| configuration("--ca", ca, problem);
        let found = CertificateDer::pem_file_iter(ca).map_err(|error| wrong(error.to_string()))?;
        let authorities: Vec<_> =
            found.collect::<Result<_, _>>().map_err(|error| wrong(error.to_string()))?;
        if authorities.is_empty() {
            return Err(wrong("holds no certificate".to_owned()));
        }
        Ok(Trust::Authorities(authorities))
    }

    /// The token: of the file, of the environment, or in development mode one of its own.
    ///
    /// # Errors
    /// When the file or directory is at fault.
    pub(crate) fn token(
        &self,
        room: &str,
        role: Role,
        identity: &str,
        name: Option<&str>,
    ) -> Result<Option<String>, Error> {
        if room.len() > limits::NAME_BYTES {
            let problem = format!("the room's name is longer than {} bytes", limits::NAME_BYTES);
            return Err(Error::Usage(problem));
        }
        if let Some(file) = &self.token_file {
            let token = std::fs::read_to_string(file)
                .map_err(|error| configuration("--token-file", file, error.to_string()))?;
            return within_limit("--token-file", token.trim()).map(Some);
        }
        match std::env::var(TOKEN) {
            Ok(token) if !token.trim().is_empty() => {
                return within_limit(TOKEN, token.trim()).map(Some);
            }
            _ => {}
        }
        let Some(dev) = &self.dev else { return Ok(None) };
        let request = Request {
            room: room.to_owned(),
            role,
            identity: identity.to_owned(),
            name: name.map(str::to_owned),
            ttl: TTL,
        };
        sign(open_dev(dev)?.signer(), &request).map(Some)
    }
}

/// A token that any node would read; the text itself is not shown.
fn within_limit(place: &str, token: &str) -> Result<String, Error> {
    if token.len() > limits::TOKEN_BYTES {
        let most = limits::TOKEN_BYTES;
        return Err(Error::Usage(format!("{place}: no token is longer than {most} bytes")));
    }
    Ok(token.to_owned())
}

/// Signs a token at this moment.
///
/// # Errors
/// When every verifier would refuse it.
pub(crate) fn sign(signer: &Signer, request: &Request) -> Result<String, Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    mint(signer, request, now.as_secs()).map_err(|error| Error::Usage(error.to_string()))
}

/// A development directory that a node has made.
///
/// # Errors
/// When there is none: a client that made one would trust nobody but itself.
pub(crate) fn open_dev(dir: &Path) -> Result<DevDir, Error> {
    if !dir.is_dir() {
        let problem = "there is no such directory; start stentor-origin --dev first, in the same \
            folder, or name its directory: --dev=DIR";
        return Err(configuration("--dev", dir, problem.to_owned()));
    }
    Ok(DevDir::open(dir).map_err(|error| ConfigError::from(TlsError::Dev(error)))?)
}

/// A file that the command line names is at fault.
pub(crate) fn configuration(flag: &str, path: &Path, problem: String) -> Error {
    Error::Configuration(ConfigError {
        key: flag.to_owned(),
        value: Some(format!("{path:?}")),
        place: "the command line".to_owned(),
        problem,
    })
}
