//! The command line of `stentor-origin`.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use stentor_proto::wire::Role;
use stentor_relay::cli::{NodeFlags, check_tls};
use stentor_relay::exit::{self, Error};
use stentor_relay::tls::{DevDir, TlsError};
use stentor_relay::{config::ConfigError, logging};

use crate::mint::{self, MintError};
use crate::settings::{Settings, load_keys, store_of};
use crate::start;
use crate::store::backup;

const EXAMPLES: &str = "\
Examples:
  stentor-origin --dev
      runs with certificate and keys of its own making in ./stentor-dev; rooms come into being
      when somebody speaks in them
  stentor-origin --config /etc/stentor/origin.toml
      runs with a configuration file
  stentor-origin --config origin.toml check-config
      says whether the configuration is right, and binds nothing
  stentor-origin --dev token --room town-hall --role speaker --identity ann --ttl 2h
      prints a token that the origin of the same directory accepts
  stentor-origin --config /etc/stentor/origin.toml backup rooms.db
      copies rooms and bans while the origin runs

A flag wins over the environment (STENTOR_LISTEN, STENTOR_TLS__CERT, ...), the environment over
the file, the file over the default.
Exit codes: 0 success, 1 failure at run time, 2 wrong usage, 78 wrong configuration.";

const TOKEN_EXAMPLES: &str = "\
Examples:
  stentor-origin --config origin.toml token --room town-hall --role listener --identity bob
  stentor-origin --config origin.toml token --role relay --identity edge-7 --ttl 365d > edge-7.token";

/// Turns the speech of a room into ticks and feeds them to the tree of relays.
#[derive(Debug, Parser)]
#[command(name = "stentor-origin", version, about, after_help = EXAMPLES)]
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
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Run the origin (the default)
    Run,
    /// Check configuration, certificate and key files, then exit (0, or 78 with the mistake)
    CheckConfig,
    /// Print a token, signed with the first key of the configuration or development directory
    #[command(after_help = TOKEN_EXAMPLES)]
    Token(TokenArgs),
    /// Copy the store (rooms, bans, webhooks) into another file, also while the origin runs
    Backup {
        /// The copy; what it holds is replaced
        file: PathBuf,
    },
}

/// The flags of an origin.
#[derive(Clone, Debug, Default, Args, Serialize)]
pub struct Flags {
    /// What relay and origin share.
    #[command(flatten)]
    #[serde(flatten)]
    pub node: NodeFlags,
    /// Whether a room comes into being on first use; default in development mode only
    /// [env: STENTOR_ROOMS_ON_FIRST_USE]
    #[arg(long, global = true, value_name = "BOOL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rooms_on_first_use: Option<bool>,
}

/// What a token is for.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct TokenArgs {
    /// The room that the token is for; not needed for a relay
    #[arg(long, default_value = "", hide_default_value = true)]
    pub room: String,
    /// host, co-host, speaker, listener, recorder or relay
    #[arg(long, value_parser = parse_role)]
    pub role: Role,
    /// Who the bearer is
    #[arg(long)]
    pub identity: String,
    /// A name to show
    #[arg(long)]
    pub name: Option<String>,
    /// How long it is valid: 90s, 15m, 2h, 7d
    #[arg(long, default_value = "1h", value_parser = parse_ttl)]
    pub ttl: Duration,
}

impl Cli {
    /// Does what the command line asks for.
    ///
    /// # Errors
    /// Whatever ends the program; [`exit::report`] maps it to an exit code.
    pub fn run(&self) -> Result<(), Error> {
        let load = || Settings::load(self.config.as_deref(), &self.flags);
        match self.command.as_ref().unwrap_or(&Command::Run) {
            Command::Run => {
                let settings = load()?;
                logging::start(&settings.node.log).map_err(Error::runtime)?;
                start::start(settings)
            }
            Command::CheckConfig => {
                let settings = load()?;
                check_tls(&settings.node)?;
                exit::print(&settings.summary())
            }
            Command::Token(args) => self.token(args),
            Command::Backup { file } => {
                let Some(store) = store_of(self.config.as_deref(), &self.flags)? else {
                    let problem = "the configuration names no `store`; there is nothing to copy";
                    return Err(Error::Usage(problem.to_owned()));
                };
                backup(&store, file).map_err(Error::runtime)
            }
        }
    }

    fn token(&self, args: &TokenArgs) -> Result<(), Error> {
        if args.role != Role::Relay && args.room.is_empty() {
            return Err(Error::Usage("give --room (only a relay's token has none)".to_owned()));
        }
        let (mut keys, dev) = load_keys(self.config.as_deref(), &self.flags)?;
        if keys.signers.is_empty()
            && let Some(dev) = dev
        {
            let dev = DevDir::open(&dev).map_err(|e| ConfigError::from(TlsError::Dev(e)))?;
            keys.add(dev.signer().clone());
        }
        let Some(signer) = keys.signers.first() else {
            let problem = "there is no key to sign with; name the origin's configuration \
                (--config) or its development directory (--dev)";
            return Err(Error::Usage(problem.to_owned()));
        };
        let request = mint::Request {
            room: args.room.clone(),
            role: args.role,
            identity: args.identity.clone(),
            name: args.name.clone(),
            ttl: args.ttl,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let token = mint::mint(signer, &request, now.as_secs()).map_err(|error| match error {
            MintError::Key(error) => Error::Usage(error.to_string()),
            MintError::Random => Error::runtime(error),
        })?;
        exit::print(&token)
    }
}

/// A role by its name on the wire.
fn parse_role(text: &str) -> Result<Role, String> {
    use Role::{CoHost, Host, Listener, Recorder, Relay, Speaker};
    [Host, CoHost, Speaker, Listener, Relay, Recorder]
        .into_iter()
        .find(|role| role.name() == text)
        .ok_or_else(|| "write host, co-host, speaker, listener, recorder or relay".to_owned())
}

/// A whole number with `s`, `m`, `h` or `d` behind it.
fn parse_ttl(text: &str) -> Result<Duration, String> {
    let help = "write a number with s, m, h or d behind it, for example 2h";
    let unit = text.chars().next_back().ok_or(help)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(help.to_owned()),
    };
    let number: u64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| help)?;
    match number.checked_mul(seconds) {
        Some(total @ 1..) => Ok(Duration::from_secs(total)),
        _ => Err(help.to_owned()),
    }
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
    fn times_have_units() {
        assert_eq!(parse_ttl("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_ttl("7d"), Ok(Duration::from_secs(604_800)));
        for bad in ["", "h", "5", "0h", "-1h", "1.5h", "99999999999999999999d", "5é"] {
            assert!(parse_ttl(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_role("co-host"), Ok(Role::CoHost));
        assert!(parse_role("emperor").is_err());
    }
}
