//! The HTTP API of an origin and the page, on the TCP port of the node's UDP port
//! (`docs/API.md`; `/v1/openapi.json` describes every call).
//!
//! Handlers read and check; what they want of a room goes to the control thread as a command
//! ([`stentor_relay::command`]) and is answered in microseconds.

mod actions;
mod auth;
#[cfg(test)]
mod authority_tests;
mod events;
mod join;
mod json;
mod middleware;
mod openapi;
#[cfg(test)]
mod outside_tests;
mod problem;
mod replay;
#[allow(unused_qualifications, reason = "the macro names types of the same module")]
mod rooms;
mod serve;
mod stats;
#[cfg(test)]
mod store_tests;
#[cfg(test)]
mod tests;
mod tokens;
mod webhooks;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::ServerConfig;
use stentor_proto::limits;
use stentor_proto::node::{News, NewsKind, RoomInfo};
use stentor_proto::token::{Signer, Verifier, key_id};
use stentor_proto::wire::{RevokedEntry, Role};
use stentor_relay::clock::Clock;
use stentor_relay::command::Commands;
use stentor_relay::exit::Error;
use tokio::net::TcpListener;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, broadcast, watch};

use self::middleware::Callers;
pub use self::problem::Problem;
use self::replay::Replays;
use self::serve::Listener;
use self::webhooks::Dispatch;
pub use self::webhooks::Outside;
use crate::mint::{self, Request as Mint};
use crate::store::{Change, Store, StoreError};

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
    /// The same for stage roles, who alone are told it; often another one.
    pub stage_address: String,
    /// Hashes of the origin's certificate, in development mode.
    pub certificate_hashes: watch::Receiver<Vec<String>>,
    /// The node's clock.
    pub clock: Clock,
    /// Requests that change something, from one address in a second.
    pub writes_per_s: u32,
    /// Keeps rooms and bans.
    pub store: Store,
    /// What happens in the rooms.
    pub news: broadcast::Sender<Arc<News>>,
    /// How webhooks are reached.
    pub outside: Outside,
}

/// The API of one origin; cloned into every request.
#[derive(Clone)]
pub struct Api(Arc<Shared>);

struct Shared {
    parts: Parts,
    writers: Callers,
    readers: Callers,
    followers: Arc<Semaphore>,
    made: Replays<rooms::MadeRoom>,
    hooks: Dispatch,
    listed: tokio::sync::Mutex<Option<(Instant, Arc<Vec<RoomInfo>>)>>,
    /// Rooms that have ended, but not yet on the disk. One for each that could not be kept: as many as
    /// hosts have ended since the disk failed.
    unkept_ends: Mutex<BTreeSet<String>>,
}

impl Shared {
    fn unkept_ends(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.unkept_ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Api {
    /// An API of these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let writers = Callers::new(parts.writes_per_s);
        let readers = Callers::new(parts.writes_per_s.saturating_mul(limits::HTTP_READS_PER_WRITE));
        let followers = Arc::new(Semaphore::new(limits::FOLLOWERS));
        Self(Arc::new(Shared {
            parts,
            writers,
            readers,
            followers,
            made: Replays::default(),
            hooks: Dispatch::default(),
            listed: tokio::sync::Mutex::default(),
            unkept_ends: Mutex::default(),
        }))
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

    /// Passes what happens in rooms on to webhooks, and keeps what the tree finds out by itself:
    /// addresses that a ban has come to. For ever.
    pub async fn follow_rooms(self) -> Infallible {
        let mut news = self.parts().news.subscribe();
        // When to look for addresses that are not on the disk.
        let mut look: Option<Instant> = None;
        loop {
            if look.is_some_and(|at| at <= Instant::now()) {
                let kept = self.keep_addresses().await;
                look = (!kept).then(|| Instant::now() + limits::STORE_AGAIN);
            }
            let next = match look {
                None => news.recv().await,
                Some(at) => match tokio::time::timeout_at(at.into(), news.recv()).await {
                    Ok(next) => next,
                    Err(_) => continue,
                },
            };
            let kept = match next {
                Ok(news) => {
                    self.tell_hooks(&news);
                    match news.what {
                        NewsKind::AddressBanned(address) => {
                            let entry = RevokedEntry::ban_address(address);
                            self.keep_address(news.room.clone(), entry).await
                        }
                        _ => true,
                    }
                }
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "what happened in rooms came faster than the store");
                    false
                }
                Err(RecvError::Closed) => std::future::pending().await,
            };
            if !kept {
                look.get_or_insert_with(|| Instant::now() + limits::STORE_AGAIN);
            }
        }
    }

    /// Keeps every address that a room takes no longer; whether all of them are on the disk. One that is
    /// there already stays as it is.
    async fn keep_addresses(&self) -> bool {
        let asked = self.parts().commands.ask(|origin, _| origin.banned_addresses().collect());
        let Ok(all) = asked.await else { return false };
        let all: Vec<(String, RevokedEntry)> = all;
        for (room, entry) in all {
            if !self.keep_address(room, entry).await {
                return false;
            }
        }
        true
    }

    /// Keeps one; an origin without a store keeps none, and has nothing to try again.
    async fn keep_address(&self, room: String, entry: RevokedEntry) -> bool {
        let change = Change::Revoked { room: room.clone(), entry, at: auth::unix_s() };
        match self.parts().store.keep(change).await {
            Ok(()) | Err(StoreError::None) => true,
            Err(error) => {
                tracing::error!(room, %error, "an address's ban is not kept; it is tried again");
                false
            }
        }
    }

    fn parts(&self) -> &Parts {
        &self.0.parts
    }

    /// Every room, as of a second ago at most: whoever lists them over and over costs control
    /// nothing.
    async fn rooms(&self) -> Result<Arc<Vec<RoomInfo>>, Problem> {
        let mut listed = self.0.listed.lock().await;
        if let Some((at, rooms)) = &*listed
            && at.elapsed() < limits::COUNTS_EVERY
        {
            return Ok(Arc::clone(rooms));
        }
        let asked = self.parts().commands.ask(|origin, _| origin.room_infos().collect::<Vec<_>>());
        let rooms = Arc::new(asked.await?);
        *listed = Some((Instant::now(), Arc::clone(&rooms)));
        Ok(rooms)
    }

    /// Keeps a change; it is on the disk when this returns.
    async fn keep(&self, change: Change) -> Result<(), Problem> {
        Ok(self.parts().store.keep(change).await?)
    }

    /// Mints a token that no earlier word about this person takes back.
    async fn mint_fresh(
        &self,
        room: &str,
        role: Role,
        identity: &str,
        name: Option<&str>,
        seconds: u64,
    ) -> Result<String, Problem> {
        let (of, who) = (room.to_owned(), identity.to_owned());
        let after = self.parts().commands.ask(move |origin, _| origin.fresh_after(&of, &who));
        self.mint(room, role, identity, name, seconds, after.await?)
    }

    /// Mints a token for this room.
    fn mint(
        &self,
        room: &str,
        role: Role,
        identity: &str,
        name: Option<&str>,
        seconds: u64,
        not_before: u64,
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
        mint::mint(signer, &request, auth::unix_s().max(not_before))
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
