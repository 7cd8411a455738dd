//! The HTTP API of an origin and the page, on the TCP port of the node's UDP port
//! (`docs/API.md`; `/v1/openapi.json` describes every call).
//!
//! Handlers read and check; what they want of a room goes to the control thread as a command
//! ([`stentor_relay::command`]) and is answered in microseconds.

mod auth;
mod join;
mod json;
mod middleware;
mod openapi;
mod problem;
#[allow(unused_qualifications, reason = "the macro names types of the same module")]
mod rooms;
mod serve;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::ServerConfig;
use stentor_proto::limits;
use stentor_proto::token::{Signer, Verifier, key_id};
use stentor_proto::wire::Role;
use stentor_relay::clock::Clock;
use stentor_relay::command::Commands;
use stentor_relay::exit::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;

use self::middleware::Writers;
pub use self::problem::Problem;
use self::serve::Listener;
use crate::mint::{self, Request as Mint};

/// What the API of one origin is made of.
pub struct Parts {
    /// The way to control.
    pub commands: Commands,
    /// Mints tokens; an origin without a key of its own mints none.
    pub signer: Option<Signer>,
    /// Verifies tokens.
    pub verifier: Verifier,
    /// The origin's name as a relay.
    pub node: String,
    /// `host:port` at which sessions reach the origin.
    pub address: String,
    /// Hashes of the origin's certificate, in development mode.
    pub certificate_hashes: watch::Receiver<Vec<String>>,
    /// The node's clock.
    pub clock: Clock,
    /// Requests that change something, from one address in a second.
    pub writes_per_s: u32,
}

/// The API of one origin; cloned into every request.
#[derive(Clone)]
pub struct Api(Arc<Shared>);

struct Shared {
    parts: Parts,
    writers: Writers,
}

impl Api {
    /// An API of these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let writers = Writers::new(parts.writes_per_s);
        Self(Arc::new(Shared { parts, writers }))
    }

    /// Every call, and the page for all other paths.
    pub fn router(self) -> Router {
        let (calls, description) = openapi::calls().split_for_parts();
        let described = openapi::Described::new(&description);
        Router::new()
            .merge(calls)
            .route("/v1/openapi.json", axum::routing::get(move || described.clone().answer()))
            .route("/v1/{*rest}", axum::routing::any(middleware::no_such_call))
            .fallback(middleware::page)
            .method_not_allowed_fallback(middleware::no_such_method)
            .layer(DefaultBodyLimit::max(limits::HTTP_BODY_BYTES))
            .layer(from_fn_with_state(self.clone(), middleware::guard))
            .with_state(self)
    }

    /// Binds the public listener and serves for ever.
    ///
    /// # Errors
    /// When the address is taken or not this machine's.
    pub async fn bind(
        self,
        address: SocketAddr,
        tls: watch::Receiver<Arc<ServerConfig>>,
        plain: bool,
    ) -> Result<impl Future<Output = Infallible> + Send, Error> {
        let failed = |error| {
            let hint = "name another as `http`, or switch it off: http = \"off\"";
            Error::Runtime(format!("HTTP address {address} (TCP): {error}; {hint}"))
        };
        let socket = TcpListener::bind(address).await.map_err(failed)?;
        let bound = socket.local_addr().map_err(failed)?;
        tracing::info!(address = %bound, plain_on_localhost = plain, "HTTP API and page");
        Ok(Listener { socket, tls, plain }.serve(self.router()))
    }

    fn parts(&self) -> &Parts {
        &self.0.parts
    }

    /// Mints a token for this room.
    fn mint(
        &self,
        room: &str,
        role: Role,
        identity: &str,
        name: Option<&str>,
        seconds: u64,
    ) -> Result<String, Problem> {
        let Some(signer) = &self.parts().signer else {
            let detail = "this origin has no key to sign with; tokens come from elsewhere";
            return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "no_signing_key", detail));
        };
        let request = Mint {
            room: room.to_owned(),
            role,
            identity: identity.to_owned(),
            name: name.map(str::to_owned),
            ttl: Duration::from_secs(seconds),
        };
        mint::mint(signer, &request, auth::unix_s())
            .map_err(|error| Problem::bad("token_invalid", error.to_string()))
    }
}

/// So many random bytes.
fn random<const N: usize>() -> Result<[u8; N], Problem> {
    let mut bytes = [0; N];
    let failed = |_| Problem::unavailable("no_random", "the system gives no random bytes");
    SystemRandom::new().fill(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// A short name that nobody guesses: 11 characters of base64url.
fn random_name() -> Result<String, Problem> {
    Ok(key_id(&random::<32>()?))
}
