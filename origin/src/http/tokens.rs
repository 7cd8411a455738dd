//! Tokens that hosts mint, and the one with which an invited listener comes on stage.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use stentor_proto::authority::Action;
use stentor_proto::limits;
use stentor_proto::names::{check_name, check_text};
use stentor_proto::wire::Role;
use utoipa::ToSchema;

use super::auth::Caller;
use super::join::Place;
use super::json::{Body, Json, RoomName};
use super::{Api, Problem, random_name};

/// What a token is to be for.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(super) struct Minting {
    /// `listener`, `speaker`, `co-host` or `host`.
    role: String,
    /// Who the bearer is; made up if absent.
    identity: Option<String>,
    /// A name to show.
    name: Option<String>,
    /// How long it is good. Default: 14400.
    seconds: Option<u64>,
}

/// A token.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Minted {
    /// Who the bearer is.
    identity: String,
    /// The token.
    token: String,
    /// When it ends (seconds since 1970, UTC).
    expires: u64,
}

/// The way onto the stage.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct StagePass {
    /// As what.
    role: &'static str,
    /// A token of that role, for the origin alone.
    token: String,
    /// Where to go: the origin.
    #[serde(flatten)]
    place: Place,
}

/// Mint a token
#[utoipa::path(post, path = "/v1/rooms/{room}/tokens", params(("room" = String, Path)),
    request_body = Minting, security(("token" = [])),
    responses((status = 200, body = Minted),
    (status = "4XX", body = Problem), (status = "5XX", body = Problem)))]
pub(super) async fn mint(
    State(api): State<Api>,
    caller: Caller,
    RoomName(room): RoomName,
    Body(minting): Body<Minting>,
) -> Result<Json<Minted>, Problem> {
    let (role, action) = match minting.role.as_str() {
        "listener" => (Role::Listener, Action::MintListener),
        "speaker" => (Role::Speaker, Action::MintSpeaker),
        "co-host" => (Role::CoHost, Action::MintCoHost),
        "host" => (Role::Host, Action::MintHost),
        _ => {
            let detail = "role is listener, speaker, co-host or host";
            return Err(Problem::bad("bad_setting", detail));
        }
    };
    caller.may(&api, &room, action).await?;
    let identity = match minting.identity {
        Some(identity) => identity,
        None => format!("{}-{}", role.name(), random_name()?),
    };
    check_name("the identity", &identity)?;
    check_text("the name", minting.name.as_deref().unwrap_or_default(), limits::NAME_BYTES)?;
    let seconds = minting.seconds.unwrap_or(limits::MINT_TOKEN_S);
    if !(1..=limits::MINT_TOKEN_MOST_S).contains(&seconds) {
        let detail = format!("seconds is 1 to {}", limits::MINT_TOKEN_MOST_S);
        return Err(Problem::bad("bad_setting", detail));
    }
    let name = minting.name.filter(|name| !name.is_empty());
    let token = api.mint_fresh(&room, role, &identity, name.as_deref(), seconds).await?;
    Ok(Json(Minted { identity, token, expires: super::auth::unix_s() + seconds }))
}

/// Come on stage, when invited
#[utoipa::path(post, path = "/v1/rooms/{room}/stage", params(("room" = String, Path)),
    security(("token" = [])), responses((status = 200, body = StagePass),
    (status = "4XX", body = Problem), (status = "5XX", body = Problem)))]
pub(super) async fn accept(
    State(api): State<Api>,
    caller: Caller,
    RoomName(room): RoomName,
) -> Result<Json<StagePass>, Problem> {
    let (_, claims) = caller.may(&api, &room, Action::AcceptInvitation).await?;
    let (name, who) = (room.clone(), claims.sub.clone());
    let role = api.parts().commands.ask(move |origin, _| origin.invited(&name, &who)).await?;
    let Some(role) = role else {
        let detail = "the host has not invited you onto the stage, or has taken it back";
        return Err(Problem::forbidden("not_invited", detail));
    };
    let name = claims.name.as_deref();
    let token = api.mint_fresh(&room, role, &claims.sub, name, limits::MINT_TOKEN_S).await?;
    let address = api.parts().stage_address.clone();
    let place = Place { address, ..api.place() };
    Ok(Json(StagePass { role: role.name(), token, place }))
}
