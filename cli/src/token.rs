//! `stentor token`: what a token says, one minted by an origin's API, or else the same as `stentor-origin token`, from a key file or development directory.

use std::path::PathBuf;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Value, json};
use stentor_origin::cli::TokenArgs;
use stentor_origin::mint::Request;
use stentor_proto::token::Signer;
use stentor_proto::wire::Role;
use stentor_relay::exit::{self, Error};

use crate::api::ApiArgs;
use crate::credentials::{configuration, open_dev, sign};
use crate::room::print;

const EXAMPLES: &str = "\
Examples:
  stentor token --dev --room hall --role speaker --identity ann --ttl 2h
  stentor token --key token-key.pem --role relay --identity edge-7 --ttl 365d > edge-7.token
  stentor token mint --api origin.example:4433 --token-file host.token town-hall --role speaker
      asks the origin, as a host, for somebody else's token
  stentor token inspect \"$(cat edge-7.token)\"
      what it says; the signature is the verifier's matter";

/// What a token is for, and whose key signs it.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct TokenCommand {
    #[command(subcommand)]
    command: Option<TokenAction>,
    #[command(flatten)]
    token: Option<TokenArgs>,
    /// PEM file with the origin's Ed25519 key (PKCS #8)
    #[arg(long, value_name = "FILE", conflicts_with = "dev", required_unless_present = "dev")]
    key: Option<PathBuf>,
    /// Development directory whose key signs, by default ./stentor-dev
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true,
          default_missing_value = "stentor-dev")]
    dev: Option<PathBuf>,
}

/// What else can be done with tokens.
#[derive(Clone, Debug, Subcommand)]
enum TokenAction {
    /// Have an origin's API mint one
    Mint(MintArgs),
    /// Show what a token says, without trusting it
    Inspect {
        /// The token
        token: String,
    },
}

/// What the origin is asked for.
#[derive(Clone, Debug, Args)]
struct MintArgs {
    #[command(flatten)]
    api: ApiArgs,
    /// The room's name
    room: String,
    /// host, co-host, speaker or listener
    #[arg(long)]
    role: String,
    /// Who the bearer is; made up if absent
    #[arg(long)]
    identity: Option<String>,
    /// A name to show
    #[arg(long)]
    name: Option<String>,
    /// How long it is good
    #[arg(long, default_value_t = 14_400)]
    seconds: u64,
}

/// Prints a token, or what it says.
pub(crate) fn run(args: &TokenCommand) -> Result<(), Error> {
    match (&args.command, &args.token) {
        (Some(TokenAction::Mint(args)), _) => mint(args),
        (Some(TokenAction::Inspect { token }), _) => inspect(token),
        (None, Some(token)) => made(args, token),
        (None, None) => Err(Error::Usage("say what the token is for: --role, --identity".into())),
    }
}

fn mint(args: &MintArgs) -> Result<(), Error> {
    let MintArgs { api, room, role, identity, name, seconds } = args;
    let body = json!({ "role": role, "identity": identity, "name": name, "seconds": seconds });
    let path = format!("/v1{}/tokens", stentor_relay::web::room_path(room));
    let answer = api.call(Method::POST, &path, &body)?;
    exit::print(answer["token"].as_str().unwrap_or_default())
}

fn inspect(token: &str) -> Result<(), Error> {
    let wrong = || Error::Usage("this is no token: three parts of base64url with dots".to_owned());
    let part = |part: &str| -> Option<Value> {
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).ok()?).ok()
    };
    let parts: Vec<&str> = token.trim().split('.').collect();
    let [header, claims, _] = parts[..] else { return Err(wrong()) };
    let (header, claims) = part(header).zip(part(claims)).ok_or_else(wrong)?;
    print(&json!({ "header": header, "claims": claims }))
}

fn made(args: &TokenCommand, token: &TokenArgs) -> Result<(), Error> {
    let TokenArgs { room, role, identity, name, ttl } = token;
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
