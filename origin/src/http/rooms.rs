//! Rooms: listed, made, shown.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use stentor_proto::limits;
use stentor_proto::names::{check_name, check_text};
use stentor_proto::node::{RoomCard, RoomInfo};
use stentor_proto::token::{ANY_ROOM, Claims};
use stentor_proto::wire::Role;
use stentor_relay::web::room_path;
use utoipa::{IntoParams, ToSchema};

use super::auth::{Caller, unix_s};
use super::json::{Body, Json, Public, Query, RoomName};
use super::replay::Turn;
use super::{Api, Problem, random_name};
use crate::config::ProfileConfig;
use crate::settings::RoomSettings;
use crate::start::room_setup;
use crate::store::{Change, StoredRoom};

/// A room's document.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct RoomDocument {
    /// The room's name.
    room: String,
    /// The title.
    title: String,
    /// What it is about.
    topic: String,
    /// Whether listeners need no token.
    public: bool,
    /// `live` while somebody is on stage, `scheduled` before its time, else `open`.
    state: &'static str,
    /// When it is to begin (seconds since 1970, UTC).
    starts_at: Option<u64>,
    /// When somebody first came on stage (milliseconds since 1970, UTC).
    started_ms: Option<u64>,
    /// Rises with every change.
    version: u64,
    /// Who is on stage.
    stage: Vec<OnStage>,
    /// How many are heard at once.
    audible: usize,
    /// Listeners in the whole tree.
    listeners: u64,
    /// Those who wait to be let in.
    waiting: u64,
    /// Raised hands.
    hands: u64,
    /// Reactions of the last second, by kind.
    reactions: BTreeMap<String, u64>,
    /// Whether it takes no further listeners.
    locked: bool,
    /// Reserved: null.
    captions: Option<String>,
}

/// Somebody on stage.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct OnStage {
    /// The slot in ticks.
    slot: u16,
    /// Who it is.
    identity: String,
    /// The name to show.
    name: String,
    /// `host`, `co-host` or `speaker`.
    role: &'static str,
    /// Whether the microphone is muted.
    muted: bool,
}

impl From<RoomInfo> for RoomDocument {
    fn from(info: RoomInfo) -> Self {
        let RoomInfo { state, card, public, audible, live } = info;
        let later = card.starts_at.is_some_and(|at| at > unix_s());
        let on_stage = state.stage.into_iter().map(|entry| OnStage {
            slot: entry.slot,
            identity: entry.identity,
            name: entry.name,
            role: entry.role.name(),
            muted: entry.muted,
        });
        Self {
            room: state.room,
            title: state.title,
            topic: card.topic,
            public,
            state: match (live, later) {
                (true, _) => "live",
                (false, true) => "scheduled",
                (false, false) => "open",
            },
            starts_at: card.starts_at,
            started_ms: state.started_ms,
            version: state.version,
            stage: on_stage.collect(),
            audible,
            listeners: state.listeners,
            waiting: state.waiting,
            hands: state.hands,
            reactions: state.reactions,
            locked: state.locked,
            captions: None,
        }
    }
}

/// Which rooms to list.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// Rooms of this topic alone.
    topic: Option<String>,
    /// `live`, `scheduled`, `open`, separated by commas. Default: `live,scheduled`.
    state: Option<String>,
    /// Where the former page ended: its `next`.
    after: Option<String>,
}

/// A page of rooms.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct RoomList {
    /// The rooms, by name.
    rooms: Vec<RoomDocument>,
    /// Present where there are more: `after` of the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Public rooms
#[utoipa::path(get, path = "/v1/rooms", params(Which), responses(
    (status = 200, description = "a page of public rooms", body = RoomList),
    (status = "4XX", body = Problem), (status = "5XX", body = Problem)))]
pub(super) async fn list(
    State(api): State<Api>,
    Query(which): Query<Which>,
) -> Result<Public<RoomList>, Problem> {
    let states = which.state.unwrap_or_else(|| "live,scheduled".to_owned());
    let states: Vec<&str> = states.split(',').collect();
    if let Some(other) = states.iter().find(|s| !["live", "scheduled", "open"].contains(s)) {
        let detail = format!("there is no state {other}; write live, scheduled or open");
        return Err(Problem::bad("bad_query", detail));
    }
    let infos = api.rooms().await?;
    let fits = |info: &&RoomInfo| {
        info.public
            && which.topic.as_ref().is_none_or(|topic| info.card.topic == *topic)
            && which.after.as_ref().is_none_or(|after| info.state.room > *after)
    };
    let documents = infos.iter().filter(fits).cloned().map(RoomDocument::from);
    let mut rooms: Vec<_> = documents.filter(|room| states.contains(&room.state)).collect();
    let more = rooms.len() > limits::ROOMS_PER_PAGE;
    rooms.truncate(limits::ROOMS_PER_PAGE);
    let next = rooms.last().filter(|_| more).map(|room| room.room.clone());
    Ok(Public(RoomList { rooms, next }))
}

/// What a room is made from.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(super) struct NewRoom {
    /// Its name in links; made from the title if absent.
    name: Option<String>,
    /// Its title.
    title: String,
    /// What it is about.
    #[serde(default)]
    topic: String,
    /// Whether listeners need no token. Default: false.
    #[serde(default)]
    public: bool,
    /// When it is to begin (seconds since 1970, UTC).
    starts_at: Option<u64>,
    /// `voice` or `music`. Default: `voice`.
    profile: Option<String>,
    /// How many are heard at once. Default: what the profile says.
    audible: Option<u8>,
}

/// A room that was made.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct MadeRoom {
    /// Its name.
    room: String,
    /// Where its pages are.
    links: Links,
    /// A token with which its host comes on stage and calls this API.
    host_token: String,
}

/// Pages of a room, as paths on the origin.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Links {
    /// For everyone.
    page: String,
    /// For the host: it holds the token.
    host_page: String,
}

/// Make a room
///
/// Who repeats the call with the same `Idempotency-Key` gets the first answer again.
#[utoipa::path(post, path = "/v1/rooms", request_body = NewRoom, security(("token" = [])),
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, description = "the room is there", body = MadeRoom),
    (status = "4XX", body = Problem), (status = "5XX", body = Problem)))]
pub(super) async fn create(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    Body(new): Body<NewRoom>,
) -> Result<Response, Problem> {
    let claims = caller.claims()?;
    // Whose call it is: another service's tokens may have the same names of their own.
    let caller_key = [&claims.jti, &claims.sub, &claims.room].map(String::as_str).join("\n");
    let under_way = match api.0.made.turn(&caller_key, &headers, &format!("{new:?}"))? {
        Turn::First(under_way) => under_way,
        Turn::Again(made) => return Ok((StatusCode::CREATED, Json(made)).into_response()),
    };
    let (settings, card) = checked(claims, new)?;
    let room = settings.name.clone();
    // A token that a former room of this name has taken back makes no new one.
    caller.not_revoked(&api, &room, claims).await?;
    let setup = room_setup(&settings).map_err(|e| Problem::bad("bad_setting", e.to_string()))?;
    let (name, seconds) = (claims.name.as_deref(), limits::MINT_TOKEN_S);
    let host_token = api.mint_fresh(&room, Role::Host, &claims.sub, name, seconds).await?;
    let stored = Box::new(StoredRoom { settings, card: card.clone() });
    let commands = &api.parts().commands;
    let made = commands.ask(move |origin, now| {
        let former = origin.room_info(&setup.name).ok();
        origin.create_room(now, &setup, card).map(|_| former)
    });
    let former = made.await??;
    if let Err(problem) = api.keep(Change::Made(stored)).await {
        // A room that would be gone after a restart is none; people may be in one that was there before.
        let name = room.clone();
        let undone = commands.ask(move |origin, _| match former {
            Some(former) => origin.give_back_room(former),
            None => origin.end_room(&name),
        });
        undone.await??;
        return Err(problem);
    }
    api.0.unkept_ends().remove(&room);
    let page = room_path(&room);
    let host_page = format!("{page}#token={host_token}");
    let made = MadeRoom { room, links: Links { page, host_page }, host_token };
    under_way.done(made.clone());
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

/// What is asked for, checked, and whether the caller may ask for it.
fn checked(claims: &Claims, new: NewRoom) -> Result<(RoomSettings, RoomCard), Problem> {
    if claims.role != Role::Host {
        let detail = "a room is made by its host, or with an API key";
        return Err(Problem::forbidden("token_role", detail));
    }
    check_text("the title", &new.title, limits::TITLE_BYTES)?;
    check_text("the topic", &new.topic, limits::TITLE_BYTES)?;
    let name = match new.name {
        Some(name) => name,
        None if claims.is_api_key() => name_from(&new.title)?,
        None => claims.room.clone(),
    };
    check_name("the room's name", &name)?;
    if name == ANY_ROOM {
        return Err(Problem::bad("bad_setting", "a room cannot be called *"));
    }
    if !claims.is_api_key() && claims.room != name {
        return Err(Problem::forbidden("token_room", "the token is for another room"));
    }
    let profile = match new.profile.as_deref() {
        None | Some("voice") => ProfileConfig::Voice,
        Some("music") => ProfileConfig::Music,
        Some(_) => return Err(Problem::bad("bad_setting", "profile is voice or music")),
    };
    if new.audible.is_some_and(|n| n == 0 || usize::from(n) > limits::AUDIBLE_MOST) {
        let detail = format!("audible is 1 to {}", limits::AUDIBLE_MOST);
        return Err(Problem::bad("bad_setting", detail));
    }
    let settings = RoomSettings {
        name,
        title: new.title,
        public: new.public,
        profile,
        audible: new.audible,
        tick_ms: limits::TICK_MS[0],
    };
    Ok((settings, RoomCard { topic: new.topic, starts_at: new.starts_at, locked: false }))
}

/// A name for links: the title's letters and digits, and what nobody guesses.
fn name_from(title: &str) -> Result<String, Problem> {
    let mut name = String::new();
    for letter in title.chars().flat_map(char::to_lowercase).take(40) {
        match letter {
            'a'..='z' | '0'..='9' => name.push(letter),
            _ if name.ends_with('-') || name.is_empty() => {}
            _ => name.push('-'),
        }
    }
    let end = random_name()?;
    let name = name.trim_end_matches('-');
    Ok(if name.is_empty() { format!("room-{end}") } else { format!("{name}-{end}") })
}

/// A room's document
#[utoipa::path(get, path = "/v1/rooms/{room}", params(("room" = String, Path)),
    security((), ("token" = [])),
    responses((status = 200, body = RoomDocument),
    (status = "4XX", body = Problem), (status = "5XX", body = Problem)))]
pub(super) async fn show(
    State(api): State<Api>,
    caller: Caller,
    RoomName(room): RoomName,
) -> Result<Response, Problem> {
    let info = readable(&api, &caller, &room).await?;
    Ok(match info.public {
        true => Public(RoomDocument::from(info)).into_response(),
        false => Json(RoomDocument::from(info)).into_response(),
    })
}

/// A room that the caller may read: a public one, or that of the token. Who holds another room's
/// token does not learn whether this one exists.
pub(super) async fn readable(api: &Api, caller: &Caller, room: &str) -> Result<RoomInfo, Problem> {
    let name = room.to_owned();
    let info = api.parts().commands.ask(move |origin, _| origin.room_info(&name)).await?;
    if let Some(claims) = caller.claims.as_ref().filter(|claims| claims.room == room) {
        caller.not_revoked(api, room, claims).await?;
    }
    let held = caller.claims.as_ref().is_some_and(|c| c.room == room || c.is_api_key());
    match (info, &caller.claims) {
        (Ok(info), _) if info.public || held => Ok(info),
        (Err(error), _) if held => Err(error.into()),
        (_, Some(_)) => Err(Problem::forbidden("token_room", "the token is for another room")),
        (Err(error), None) => Err(error.into()),
        (Ok(_), None) => {
            let detail = "the room is not public; a token is needed";
            Err(Problem::new(StatusCode::UNAUTHORIZED, "token_missing", detail))
        }
    }
}
