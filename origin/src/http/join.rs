//! The HTTP door: a listener comes in by a link, and is told where to go and with what token.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use stentor_proto::limits;
use stentor_proto::names::check_text;
use stentor_proto::node::{Answer, Asking};
use stentor_proto::token::key_id;
use stentor_proto::wire::{Alternate, Close, Role, Waiting};
use utoipa::ToSchema;

use super::auth::Caller;
use super::json::{Body, Json, Public, RoomName};
use super::rooms::readable;
use super::{Api, Problem, random, random_name};

/// Who comes.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub(super) struct Joining {
    /// A name to show, when a hand is raised.
    name: Option<String>,
    /// A secret of the client's own making: who comes again with it, and without a token, is known as
    /// before.
    client_key: Option<String>,
    /// The waiting ticket of the last answer.
    ticket: Option<String>,
}

/// Where to go, and with what.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Joined {
    /// The name by which the room knows the listener.
    identity: String,
    /// A listener's token of this identity; joining with it again gives a fresh one.
    token: String,
    /// When the token ends (seconds since 1970, UTC).
    expires: u64,
    /// Relays to go to, the first one first.
    relays: Vec<Relay>,
    /// Where stage roles go.
    origin: Place,
    /// To be shown in the hello to the first of `relays`, where people wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    ticket: Option<String>,
}

/// To come again later.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ComeAgain {
    /// Where one stands.
    waiting: InLine,
    /// The name by which the room knows the listener: come again with `token` or `client_key`, the
    /// ticket is its.
    identity: String,
    /// A listener's token of this identity.
    token: String,
}

/// A place in the queue.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct InLine {
    /// To be shown the next time.
    #[serde(skip_serializing_if = "Option::is_none")]
    ticket: Option<String>,
    /// The number in the queue, from 1.
    place: u64,
    /// How many wait.
    waiting: u64,
    /// When to come again (milliseconds from here), and a little at random.
    retry_ms: u32,
    /// When this one arrived (milliseconds since 1970, by the origin's clock).
    arrival_ms: u64,
    /// How long it is expected to take (milliseconds).
    #[serde(skip_serializing_if = "Option::is_none")]
    eta_ms: Option<u64>,
}

/// How far the queue has been called.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Called {
    /// The origin's clock (milliseconds since 1970).
    now_ms: u64,
    /// Whoever arrived until then has been called.
    watermark_ms: u64,
    /// People called in a second of late.
    rate_per_s: u32,
    /// Those who wait.
    waiting: u64,
    /// Time of arrival, and how many wait who arrived before it.
    curve: Vec<(u64, u64)>,
}

/// A relay.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Relay {
    /// Its name.
    relay: String,
    /// Its `host:port`.
    address: String,
    /// SHA-256 hashes (base64url) of its certificate, in development mode: what a page gives its
    /// browser as `serverCertificateHashes`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    certificate_hashes: Vec<String>,
}

/// An address of sessions.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Place {
    /// `host:port`.
    pub(super) address: String,
    /// As a relay's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) certificate_hashes: Vec<String>,
}

/// Relays to go to.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Relays {
    /// The first one first.
    relays: Vec<Relay>,
}

/// Come in as a listener
#[utoipa::path(post, path = "/v1/rooms/{room}/join", params(("room" = String, Path)),
    request_body = Joining, security((), ("token" = [])),
    responses((status = 200, description = "come in", body = Joined),
    (status = 202, description = "wait, and come again", body = ComeAgain),
    (status = "4XX", body = Problem), (status = "5XX", body = Problem)))]
pub(super) async fn join(
    State(api): State<Api>,
    caller: Caller,
    RoomName(room): RoomName,
    Body(joining): Body<Joining>,
) -> Result<Response, Problem> {
    if let Some(name) = &joining.name {
        check_text("the name", name, limits::NAME_BYTES)?;
    }
    let info = readable(&api, &caller, &room).await?;
    let known = caller.claims.as_ref().filter(|claims| claims.room == room);
    caller.is_welcome(&api, &room, known).await?;
    if info.state.locked && known.is_none() {
        let detail = "the host has locked the room; nobody new comes in";
        return Err(Problem::forbidden("room_locked", detail));
    }
    let identity = match known {
        Some(claims) => claims.sub.clone(),
        None => guest(joining.client_key.as_deref())?,
    };
    let name = joining.name.filter(|name| !name.is_empty());
    let name = name.or_else(|| known.and_then(|claims| claims.name.clone()));
    let seconds = limits::JOIN_TOKEN_S;
    let role = Role::Listener;
    let token = api.mint_fresh(&room, role, &identity, name.as_deref(), seconds).await?;
    let asking = Asking {
        room,
        identity: identity.clone(),
        ticket: joining.ticket.filter(|ticket| !ticket.is_empty()),
        most: limits::JOIN_RELAYS,
        seed: u64::from_ne_bytes(random()?),
    };
    let asked = api.parts().commands.ask(move |origin, now| origin.ask_in(now, &asking));
    let refused = |close: Close| Problem::forbidden(close.code.name(), close.reason);
    Ok(match asked.await?.map_err(refused)? {
        Answer::GoTo { relays, ticket } => Json(Joined {
            identity,
            token,
            expires: super::auth::unix_s() + seconds,
            relays: or_origin(&api, relays),
            origin: api.place(),
            ticket: ticket.map(|ticket| ticket.0),
        })
        .into_response(),
        Answer::Wait(waiting) => {
            let again = ComeAgain { waiting: waiting.into(), identity, token };
            (StatusCode::ACCEPTED, Json(again)).into_response()
        }
    })
}

/// The identity of somebody without a token: the same one for the same secret, else another each time.
fn guest(client_key: Option<&str>) -> Result<String, Problem> {
    let Some(key) = client_key.filter(|key| !key.is_empty()) else {
        return Ok(format!("guest-{}", random_name()?));
    };
    if key.len() > limits::NAME_BYTES {
        let detail = format!("client_key has at most {} bytes", limits::NAME_BYTES);
        return Err(Problem::bad("bad_client_key", detail));
    }
    let hash = digest(&SHA256, key.as_bytes());
    let hash = <[u8; 32]>::try_from(hash.as_ref()).unwrap_or_default();
    Ok(format!("guest-{}", key_id(&hash)))
}

/// How far the queue has been called
#[utoipa::path(get, path = "/v1/watermark",
    responses((status = 200, body = Called), (status = "5XX", body = Problem)))]
pub(super) async fn watermark(State(api): State<Api>) -> Result<Public<Called>, Problem> {
    let queue = api.parts().commands.ask(|origin, now| origin.queue(now)).await?;
    Ok(Public(Called {
        now_ms: queue.now_ms,
        watermark_ms: queue.watermark_ms,
        rate_per_s: queue.rate_per_s,
        waiting: queue.waiting,
        curve: queue.curve,
    }))
}

/// Relays that carry the room, or can
#[utoipa::path(get, path = "/v1/rooms/{room}/relays", params(("room" = String, Path)),
    security((), ("token" = [])),
    responses((status = 200, body = Relays),
    (status = "4XX", body = Problem), (status = "5XX", body = Problem)))]
pub(super) async fn relays(
    State(api): State<Api>,
    caller: Caller,
    RoomName(room): RoomName,
) -> Result<Response, Problem> {
    let info = readable(&api, &caller, &room).await?;
    let relays = Relays { relays: entrances(&api).await? };
    Ok(match info.public {
        true => Public(relays).into_response(),
        false => Json(relays).into_response(),
    })
}

/// Relays by their free places, drawn anew for everyone; the origin where the tree has none.
async fn entrances(api: &Api) -> Result<Vec<Relay>, Problem> {
    let seed = u64::from_ne_bytes(random()?);
    let asked = api.parts().commands.ask(move |o, _| o.entrances(limits::JOIN_RELAYS, seed));
    Ok(or_origin(api, asked.await?))
}

/// The origin itself where the tree has no relay.
fn or_origin(api: &Api, mut relays: Vec<Alternate>) -> Vec<Relay> {
    if relays.is_empty() {
        let Place { address, certificate_hashes } = api.place();
        let relay = api.parts().node.clone();
        relays.push(Alternate { relay, address, certificate_hashes });
    }
    relays.into_iter().map(Relay::from).collect()
}

impl From<Waiting> for InLine {
    fn from(waiting: Waiting) -> Self {
        Self {
            ticket: waiting.ticket.map(|ticket| ticket.0),
            place: waiting.place,
            waiting: waiting.waiting,
            retry_ms: waiting.retry_ms,
            arrival_ms: waiting.arrival_ms,
            eta_ms: waiting.eta_ms,
        }
    }
}

impl From<Alternate> for Relay {
    fn from(alternate: Alternate) -> Self {
        let Alternate { relay, address, certificate_hashes } = alternate;
        Self { relay, address, certificate_hashes }
    }
}

impl Api {
    /// Where sessions reach this origin.
    pub(super) fn place(&self) -> Place {
        let parts = self.parts();
        let certificate_hashes = parts.certificate_hashes.borrow().clone();
        Place { address: parts.address.clone(), certificate_hashes }
    }
}
