//! The HTTP door: a listener comes in by a link, and is told where to go and with what token.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use stentor_proto::limits;
use stentor_proto::names::check_text;
use stentor_proto::wire::{Alternate, Role};
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
    if info.state.locked && known.is_none() {
        let detail = "the host has locked the room; nobody new comes in";
        return Err(Problem::forbidden("room_locked", detail));
    }
    let identity = match known {
        Some(claims) => claims.sub.clone(),
        None => format!("guest-{}", random_name()?),
    };
    let name = joining.name.filter(|name| !name.is_empty());
    let name = name.or_else(|| known.and_then(|claims| claims.name.clone()));
    let seconds = limits::JOIN_TOKEN_S;
    let token = api.mint(&room, Role::Listener, &identity, name.as_deref(), seconds)?;
    let joined = Joined {
        identity,
        token,
        expires: super::auth::unix_s() + seconds,
        relays: entrances(&api).await?,
        origin: api.place(),
    };
    Ok(Json(joined).into_response())
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
    let mut relays = asked.await?;
    if relays.is_empty() {
        let Place { address, certificate_hashes } = api.place();
        let relay = api.parts().node.clone();
        relays.push(Alternate { relay, address, certificate_hashes });
    }
    Ok(relays.into_iter().map(Relay::from).collect())
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
