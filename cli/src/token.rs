//! `stentor token`: the same as `stentor-origin token`, from a key file or development directory.

use std::path::PathBuf;

use clap::Args;
use stentor_origin::cli::TokenArgs;
use stentor_origin::mint::Request;
use stentor_proto::token::Signer;
use stentor_proto::wire::Role;
use stentor_relay::exit::{self, Error};

use crate::credentials::{configuration, open_dev, sign};

const EXAMPLES: &str = "\
Examples:
  stentor token --dev --room hall --role speaker --identity ann --ttl 2h
  stentor token --key token-key.pem --role relay --identity edge-7 --ttl 365d > edge-7.token";

/// What a token is for, and whose key signs it.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct TokenCommand {
    #[command(flatten)]
    token: TokenArgs,
    /// PEM file with the origin's Ed25519 key (PKCS #8)
    #[arg(long, value_name = "FILE", conflicts_with = "dev", required_unless_present = "dev")]
    key: Option<PathBuf>,
    /// Development directory whose key signs, by default ./stentor-dev
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true,
          default_missing_value = "stentor-dev")]
    dev: Option<PathBuf>,
}

/// Prints a token.
pub(crate) fn run(args: &TokenCommand) -> Result<(), Error> {
    let TokenArgs { room, role, identity, name, ttl } = &args.token;
    if *role != Role::Relay && room.is_empty() {
        return Err(Error::Usage("give --room (only a relay's token has none)".to_owned()));
    }
    let request = Request {
        room: room.clone(),
        role: *role,
        identity: identity.clone(),
        name: name.clone(),
        ttl: *ttl,
    };
    exit::print(&sign(&signer(args)?, &request)?)
}

fn signer(args: &TokenCommand) -> Result<Signer, Error> {
    match (&args.key, &args.dev) {
        (Some(file), _) => {
            let wrong = |problem: String| configuration("--key", file, problem);
            let pem = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
            Signer::from_pkcs8_pem(&pem, None).map_err(|error| wrong(error.to_string()))
        }
        (None, Some(dir)) => Ok(open_dev(dir)?.signer().clone()),
        (None, None) => Err(Error::Usage("give --key or --dev".to_owned())),
    }
}
