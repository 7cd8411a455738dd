//! The command line of `stentor-relay`, and the flags that it shares with `stentor-origin`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use crate::config::ConfigError;
use crate::exit::{self, Error};
use crate::settings::Settings;
use crate::tls::Tls;
use crate::{logging, start};

const EXAMPLES: &str = "\
Examples:
  stentor-relay --dev --origin 127.0.0.1:4433 --listen [::]:4434 --admin 127.0.0.1:9434
      joins the origin of a development directory (./stentor-dev) on this machine
  stentor-relay --config /etc/stentor/relay.toml
      runs with a configuration file
  STENTOR_LIMITS__LISTENERS=500 stentor-relay --config relay.toml check-config
      says whether the configuration is right, and binds nothing

A flag wins over the environment (STENTOR_LISTEN, STENTOR_TLS__CERT, ...), the environment over
the file, the file over the default. A token is given by STENTOR_TOKEN or --token-file.
Exit codes: 0 success, 1 failure at run time, 2 wrong usage, 78 wrong configuration.";

/// Carries live audio rooms from an origin to listeners and to other relays.
#[derive(Debug, Parser)]
#[command(name = "stentor-relay", version, about, after_help = EXAMPLES)]
pub struct Cli {
    /// Configuration file (TOML)
    #[arg(long, short, global = true, value_name = "FILE", env = "STENTOR_CONFIG")]
    pub config: Option<PathBuf>,
    /// The flags.
    #[command(flatten)]
    pub flags: Flags,
    /// What to do; running is the default.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Run the relay (the default)
    Run,
    /// Check configuration and certificate files, then exit (0, or 78 with the mistake)
    CheckConfig,
}

impl Cli {
    /// Does what the command line asks for.
    ///
    /// # Errors
    /// Whatever ends the program; [`exit::report`] maps it to an exit code.
    pub fn run(&self) -> Result<(), Error> {
        let settings = Settings::load(self.config.as_deref(), &self.flags)?;
        match self.command.unwrap_or(Command::Run) {
            Command::Run => {
                logging::start(&settings.node.log).map_err(Error::runtime)?;
                start::start(settings)
            }
            Command::CheckConfig => {
                check_tls(&settings.node)?;
                exit::print(&settings.summary())
            }
        }
    }
}

/// Reads the certificate files; a development directory is left alone, for it is made at start.
///
/// # Errors
/// When a file is at fault.
pub fn check_tls(node: &crate::settings::NodeSettings) -> Result<(), ConfigError> {
    if node.tls.is_dev() {
        return Ok(());
    }
    Tls::load(&node.tls, None).map(drop).map_err(ConfigError::from)
}

/// The flags of a relay.
#[derive(Clone, Debug, Default, Args, Serialize)]
pub struct Flags {
    /// What relay and origin share.
    #[command(flatten)]
    #[serde(flatten)]
    pub node: NodeFlags,
    /// The origin's host:port [env: STENTOR_ORIGIN]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// File with the relay's token [env: STENTOR_TOKEN_FILE, or STENTOR_TOKEN for the token]
    #[arg(long, global = true, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// The level in the tree that this relay should have [env: STENTOR_LEVEL]
    #[arg(long, global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<u8>,
}

/// The flags that relay and origin share; each is the key of the same name in the file.
#[derive(Clone, Debug, Default, Args, Serialize)]
pub struct NodeFlags {
    /// The node's name, unique in the tree [env: STENTOR_ID]
    #[arg(long, global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// UDP address to serve on; default `[::]:4433` [env: STENTOR_LISTEN]
    #[arg(long, global = true, value_name = "ADDR:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// host:port at which others reach this node [env: STENTOR_ADVERTISE]
    #[arg(long, global = true, value_name = "HOST:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// Where the node stands [env: STENTOR_REGION]
    #[arg(long, global = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Sessions that the node may carry; default 10000 [env: STENTOR_CAPACITY]
    #[arg(long, global = true, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u32>,
    /// Threads that carry sessions; default one a core [env: STENTOR_SHARDS]
    #[arg(long, global = true, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shards: Option<usize>,
    /// Core numbers to pin the shards to: 0,2 [env: STENTOR_CORES, `[0,2]`]
    #[arg(long, global = true, value_name = "N,...", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<Vec<usize>>,
    /// Private HTTP address, or off; default 127.0.0.1:9433 [env: STENTOR_ADMIN]
    #[arg(long, global = true, value_name = "ADDR:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<String>,
    /// Seconds to drain; default 30 [env: STENTOR_DRAIN_S]
    #[arg(long, global = true, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_s: Option<u64>,
    /// on, or off: everybody is admitted at once; default on [env: STENTOR_ADMISSION]
    #[arg(long, global = true, value_name = "ON|OFF")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admission: Option<String>,
    /// File for one JSON line per event [env: STENTOR_EVENTS]
    #[arg(long, global = true, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<PathBuf>,
    /// Certificates.
    #[command(flatten)]
    pub tls: TlsFlags,
    /// Logging.
    #[command(flatten)]
    pub log: LogFlags,
    /// Limits.
    #[command(flatten)]
    pub limits: LimitFlags,
}

/// `[tls]`.
#[derive(Clone, Debug, Default, Args, Serialize)]
pub struct TlsFlags {
    /// PEM file with the certificate chain [env: STENTOR_TLS__CERT]
    #[arg(id = "tls-cert", long = "tls-cert", global = true, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// PEM file with the private key [env: STENTOR_TLS__KEY]
    #[arg(id = "tls-key", long = "tls-key", global = true, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// PEM file with the trusted authorities; default the system's [env: STENTOR_TLS__CA]
    #[arg(id = "tls-ca", long = "tls-ca", global = true, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Development mode: makes certificate, keys and relay token in a directory, by default
    /// ./stentor-dev [env: STENTOR_TLS__DEV]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "stentor-dev"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dev: Option<PathBuf>,
}

/// `[log]`.
#[derive(Clone, Debug, Default, Args, Serialize)]
pub struct LogFlags {
    /// text or json [env: STENTOR_LOG__FORMAT]
    #[arg(id = "log-format", long = "log-format", global = true, value_name = "FORMAT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// error, warn, info, debug, trace, or directives [env: STENTOR_LOG__LEVEL]
    #[arg(id = "log-level", long = "log-level", global = true, value_name = "LEVEL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
}

/// `[limits]`.
#[derive(Clone, Debug, Default, Args, Serialize)]
pub struct LimitFlags {
    /// Listeners at once; default the capacity [env: STENTOR_LIMITS__LISTENERS]
    #[arg(id = "limits-listeners", long = "limits-listeners", global = true, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listeners: Option<u32>,
    /// Mbit/s that may leave for listeners; default no bound [env: STENTOR_LIMITS__EGRESS_MBIT_S]
    #[arg(
        id = "limits-egress-mbit-s",
        long = "limits-egress-mbit-s",
        global = true,
        value_name = "N"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_mbit_s: Option<u32>,
    /// Child relays at once; default 64 [env: STENTOR_LIMITS__CHILDREN]
    #[arg(id = "limits-children", long = "limits-children", global = true, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub children: Option<u32>,
    /// Newcomers admitted in a second; default 2000 [env: STENTOR_LIMITS__JOINS_PER_S]
    #[arg(id = "limits-joins-per-s", long = "limits-joins-per-s", global = true, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joins_per_s: Option<u32>,
    /// Returning listeners admitted in a second; default 2000 [env: STENTOR_LIMITS__RETURNS_PER_S]
    #[arg(
        id = "limits-returns-per-s",
        long = "limits-returns-per-s",
        global = true,
        value_name = "N"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub returns_per_s: Option<u32>,
    /// Answers in a second to those who wait; default 1000 [env: STENTOR_LIMITS__TICKETS_PER_S]
    #[arg(
        id = "limits-tickets-per-s",
        long = "limits-tickets-per-s",
        global = true,
        value_name = "N"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tickets_per_s: Option<u32>,
    /// Handshakes in flight; default 1024 [env: STENTOR_LIMITS__HANDSHAKES]
    #[arg(id = "limits-handshakes", long = "limits-handshakes", global = true, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshakes: Option<u32>,
    /// Percent of the handshakes for one network while they are short; default 25 [env: STENTOR_LIMITS__NETWORK_PERCENT]
    #[arg(
        id = "limits-network-percent",
        long = "limits-network-percent",
        global = true,
        value_name = "N"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_percent: Option<u32>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_shows_examples() {
        let help = Cli::command().render_long_help().to_string();
        assert!(help.contains("Examples:") && help.contains("Exit codes:"), "{help}");
    }
}
