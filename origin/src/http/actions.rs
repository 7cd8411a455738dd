//! What hosts do: change and end a room, and decide about its people.

use std::net::IpAddr;

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use stentor_proto::authority::{Action, Actor, allows, allows_to};
use stentor_proto::limits;
use stentor_proto::names::{check_name, check_text};
use stentor_proto::node::{Act, RoomError};
use stentor_proto::revoked::Bearer;
use stentor_proto::token::Claims;
use stentor_proto::wire::Role;
use utoipa::ToSchema;

use super::auth::Caller;
use super::json::{Body, Json, RoomName};
use super::rooms::RoomDocument;
use super::{Api, Problem};
use crate::store::{Change, StoreError};

/// What to change of a room; what is absent stays.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(super) struct Changes {
    /// Its title.
    title: Option<String>,
    /// What it is about.
    topic: Option<String>,
    /// Whether listeners need no token.
    public: Option<bool>,
    /// Whether it takes no further listeners.
    locked: Option<bool>,
}

/// What to do, and to whom.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(super) struct Order {
    /// `invite`, `promote`, `demote`, `mute`, `unmute`, `remove`, `ban`, `unban`, `make_co_host`,
    /// `lower_hand`, `lock`, `unlock` or `end`.
    action: String,
    /// To whom; not for `lock`, `unlock`, `end`.
    identity: Option<String>,
    /// For `ban`: `true`, the person's address is banned with it. Or an address, for `ban` and
    /// `unban`.
    address: Option<Address>,
    /// For `remove`: one token, by its own name, instead of a person.
    jti: Option<String>,
}

/// An address, or whether the person's counts.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged)]
enum Address {
    Whether(bool),
    Text(String),
}

/// That it was done.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(super) struct Done {
    /// Always true.
    done: bool,
}

/// Somebody who waits to speak.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct RaisedHand {
    /// Who.
    identity: String,
    /// The name to show.
    name: String,
    /// Since when (milliseconds since 1970, UTC).
    since_ms: u64,
}

/// Somebody who may come on stage.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Invited {
    /// Who.
    identity: String,
    /// As what.
    role: &'static str,
}

/// A person or an address that is banned.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Banned {
    /// Who.
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    /// Where.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
}

/// Everyone whom a host deals with.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct People {
    /// The room, with its stage.
    room: RoomDocument,
    /// Raised hands, the first one first.
    hands: Vec<RaisedHand>,
    /// Who may come on stage.
    invitations: Vec<Invited>,
    /// Who is banned.
    bans: Vec<Banned>,
}

impl Caller {
    /// Who the caller is in this room, if it may do `action` there. A token that was taken back, or
    /// whose bearer is banned, is good for nothing.
    ///
    /// # Errors
    /// When it may not.
    pub(super) async fn may(
        &self,
        api: &Api,
        room: &str,
        action: Action,
    ) -> Result<(Actor, Claims), Problem> {
        let claims = self.claims()?;
        let actor = Actor::of(Some(claims));
        if actor != Actor::ApiKey && claims.room != room {
            return Err(Problem::forbidden("token_room", "the token is for another room"));
        }
        if !allows(actor, action) {
            let detail = format!("a {} may not {}", actor.name(), action.name());
            return Err(Problem::forbidden("not_allowed", detail));
        }
        self.not_revoked(api, room, claims).await?;
        Ok((actor, claims.clone()))
    }

    /// Refuses a token that the room takes no longer.
    ///
    /// # Errors
    /// When it is such a one.
    pub(super) async fn not_revoked(
        &self,
        api: &Api,
        room: &str,
        claims: &Claims,
    ) -> Result<(), Problem> {
        self.is_welcome(api, room, Some(claims)).await
    }

    /// Refuses whom the room takes no longer: a person, a token, or anyone at an address.
    ///
    /// # Errors
    /// When it is such a one.
    pub(super) async fn is_welcome(
        &self,
        api: &Api,
        room: &str,
        claims: Option<&Claims>,
    ) -> Result<(), Problem> {
        let (room, claims, address) = (room.to_owned(), claims.cloned(), self.address);
        let asked = api.parts().commands.ask(move |origin, _| {
            let claims = claims.as_ref();
            let bearer = Bearer {
                identity: claims.map_or("", |claims| &claims.sub),
                minted: claims.map_or(u64::MAX, |claims| claims.iat),
                jti: claims.map(|claims| claims.jti.as_str()),
                address,
                role: claims.map_or(Role::Listener, |claims| claims.role),
            };
            origin.refusal(&room, bearer)
        });
        match asked.await? {
            Ok(Some(close)) => Err(Problem::forbidden(close.code.name(), close.reason)),
            Ok(None) | Err(RoomError::NoRoom(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Change a room
#[utoipa::path(patch, path = "/v1/rooms/{room}", params(("room" = String, Path)),
    request_body = Changes, security(("token" = [])),
    responses((status = 200, body = RoomDocument),
    (status = "4XX", body = Problem), (status = "5XX", body = Problem)))]
pub(super) async fn change(
    State(api): State<Api>,
    caller: Caller,
    RoomName(room): RoomName,
    Body(changes): Body<Changes>,
) -> Result<Json<RoomDocument>, Problem> {
    caller.may(&api, &room, Action::ChangeRoom).await?;
    for (field, text) in [("the title", &changes.title), ("the topic", &changes.topic)] {
        check_text(field, text.as_deref().unwrap_or_default(), limits::TITLE_BYTES)?;
    }
    let name = room.clone();
    let asked = api.parts().commands.ask(move |origin, _| {
        let mut info = origin.room_info(&name)?;
        let title = changes.title.unwrap_or(info.state.title);
        info.card.topic = changes.topic.unwrap_or(info.card.topic);
        info.card.locked = changes.locked.unwrap_or(info.card.locked);
        origin.describe_room(&name, &title, changes.public.unwrap_or(info.public), info.card)
    });
    let info = asked.await??;
    api.keep(Change::describe(&info)).await?;
    Ok(Json(info.into()))
}

/// End a room
#[utoipa::path(delete, path = "/v1/rooms/{room}", params(("room" = String, Path)),
    security(("token" = [])), responses((status = 200, body = Done),
    (status = "4XX", body = Problem), (status = "5XX", body = Problem)))]
pub(super) async fn end(
    State(api): State<Api>,
    caller: Caller,
    RoomName(room): RoomName,
) -> Result<Json<Done>, Problem> {
    caller.may(&api, &room, Action::End).await?;
    end_room(&api, room).await?;
    Ok(Json(Done { done: true }))
}

/// Ends a room. One whose end could not be written down is gone all the same, and would be there again
/// after a restart: who calls again has that written down.
async fn end_room(api: &Api, room: String) -> Result<(), Problem> {
    let name = room.clone();
    let ended = api.parts().commands.ask(move |origin, _| {
        let ended = origin.end_room(&name);
        (ended, origin.epoch())
    });
    let (ended, epoch) = ended.await?;
    match ended {
        Ok(()) => {
            let mut unkept = api.0.unkept_ends();
            unkept.len() < limits::ROOMS && unkept.insert(room.clone())
        }
        Err(RoomError::NoRoom(_)) if api.0.unkept_ends().contains(&room) => true,
        Err(error) => return Err(error.into()),
    };
    api.keep(Change::Ended { room: room.clone(), epoch }).await?;
    api.0.unkept_ends().remove(&room);
    Ok(())
}

/// Decide about somebody, or about the room
#[utoipa::path(post, path = "/v1/rooms/{room}/actions", params(("room" = String, Path)),
    request_body = Order, security(("token" = [])),
    responses((status = 200, description = "it is done, and kept", body = Done),
    (status = "4XX", body = Problem), (status = "5XX", body = Problem)))]
pub(super) async fn act(
    State(api): State<Api>,
    caller: Caller,
    RoomName(room): RoomName,
    Body(order): Body<Order>,
) -> Result<Json<Done>, Problem> {
    let named = |action: &&Action| action.name() == order.action;
    let action = ACTIONS.iter().find(named).copied().ok_or_else(|| {
        let names = ACTIONS.map(Action::name).join(", ");
        Problem::bad(
            "no_such_action",
            format!("there is no action {}; there are {names}", order.action),
        )
    })?;
    let (actor, _) = caller.may(&api, &room, action).await?;
    if action == Action::End {
        end_room(&api, room).await?;
        return Ok(Json(Done { done: true }));
    }
    let act = order.act(action)?;
    may_target(&api, &room, actor, action, act.clone()).await?;
    let changes = Change::of(&room, &act, super::auth::unix_s());
    let locks = matches!(act, Act::Lock(_));
    let asked = api.parts().commands.ask(move |origin, now| {
        origin.act(now, &room, &act)?;
        origin.room_info(&room)
    });
    let info = asked.await??;
    // It is in force at once, and answered when it is on the disk.
    for change in changes {
        api.keep(change).await?;
    }
    if locks {
        api.keep(Change::describe(&info)).await?;
    }
    Ok(Json(Done { done: true }))
}

/// Whether the target's role allows it.
async fn may_target(
    api: &Api,
    room: &str,
    actor: Actor,
    action: Action,
    act: Act,
) -> Result<(), Problem> {
    let room = room.to_owned();
    let role = api.parts().commands.ask(move |origin, _| origin.falls_on(&room, &act)).await?;
    let role = role.unwrap_or(Role::Listener);
    if allows_to(actor, action, role) {
        return Ok(());
    }
    let detail = format!("a {} may not {} a {}", actor.name(), action.name(), role.name());
    Err(Problem::forbidden("not_allowed", detail))
}

/// Stage, raised hands, invitations and bans
#[utoipa::path(get, path = "/v1/rooms/{room}/participants", params(("room" = String, Path)),
    security(("token" = [])), responses((status = 200, body = People),
    (status = "4XX", body = Problem), (status = "5XX", body = Problem)))]
pub(super) async fn participants(
    State(api): State<Api>,
    caller: Caller,
    RoomName(room): RoomName,
) -> Result<Json<People>, Problem> {
    caller.may(&api, &room, Action::SeeParticipants).await?;
    let asked = api.parts().commands.ask(move |origin, _| {
        Ok::<_, RoomError>((origin.room_info(&room)?, origin.participants(&room)?))
    });
    let (info, people) = asked.await??;
    let hands = people.hands.into_iter().map(|hand| RaisedHand {
        identity: hand.identity,
        name: hand.name,
        since_ms: hand.sequence,
    });
    let invited = people.invited.into_iter();
    let bans = people.revoked.into_iter().filter(stentor_proto::wire::RevokedEntry::is_ban);
    Ok(Json(People {
        room: info.into(),
        hands: hands.collect(),
        invitations: invited
            .map(|entry| Invited { identity: entry.identity, role: entry.role.name() })
            .collect(),
        bans: bans
            .map(|ban| Banned {
                identity: ban.identity,
                address: ban.address.map(|address| address.to_string()),
            })
            .collect(),
    }))
}

/// What can be asked for by an order.
const ACTIONS: [Action; 13] = [
    Action::Invite,
    Action::Promote,
    Action::Demote,
    Action::Mute,
    Action::Unmute,
    Action::Remove,
    Action::Ban,
    Action::Unban,
    Action::MakeCoHost,
    Action::LowerHand,
    Action::Lock,
    Action::Unlock,
    Action::End,
];

impl Order {
    /// The order as control takes it.
    fn act(&self, action: Action) -> Result<Act, Problem> {
        let identity = || {
            let who = self.identity.clone();
            let who = who.ok_or_else(|| Problem::bad("no_identity", "say to whom: identity"))?;
            check_name("the identity", &who)?;
            Ok::<_, Problem>(who)
        };
        let invite = |role| Ok(Act::Invite { identity: identity()?, role });
        match action {
            Action::Invite | Action::Promote => invite(Role::Speaker),
            Action::MakeCoHost => invite(Role::CoHost),
            Action::Demote => Ok(Act::Demote { identity: identity()? }),
            Action::Mute => Ok(Act::Mute { identity: identity()?, muted: true }),
            Action::Unmute => Ok(Act::Mute { identity: identity()?, muted: false }),
            Action::LowerHand => Ok(Act::LowerHand { identity: identity()? }),
            Action::Lock => Ok(Act::Lock(true)),
            Action::Unlock => Ok(Act::Lock(false)),
            Action::Remove => match &self.jti {
                Some(jti) => {
                    check_name("the token's name", jti)?;
                    Ok(Act::RevokeToken { jti: jti.clone() })
                }
                None => Ok(Act::Remove { identity: identity()? }),
            },
            Action::Ban => Ok(Act::Ban {
                identity: self.whom(&identity)?,
                address: self.address()?,
                with_address: matches!(self.address, Some(Address::Whether(true))),
            }),
            _ => Ok(Act::Unban { identity: self.whom(&identity)?, address: self.address()? }),
        }
    }

    /// A person, where an address alone is enough.
    fn whom(
        &self,
        identity: &impl Fn() -> Result<String, Problem>,
    ) -> Result<Option<String>, Problem> {
        let alone = self.identity.is_none() && matches!(self.address, Some(Address::Text(_)));
        if alone { Ok(None) } else { identity().map(Some) }
    }

    fn address(&self) -> Result<Option<IpAddr>, Problem> {
        let Some(Address::Text(text)) = &self.address else { return Ok(None) };
        let address = text.parse().map(Some);
        address.map_err(|_| Problem::bad("bad_address", format!("{text} is no IP address")))
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store");
        let detail = match error {
            StoreError::Busy | StoreError::None => error.to_string(),
            // What SQLite says, and of which file, is the operator's.
            StoreError::File { .. } | StoreError::Version { .. } => {
                "the origin cannot write this down; its log says why".to_owned()
            }
        };
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "store", detail).retry_after(5)
    }
}
