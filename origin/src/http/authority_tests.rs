//! Who may do what (`docs/AUTHORITY.md`), each cell of the API's actions tried.

use axum::body::Body;
use axum::http::{Method, Request, header};
use serde_json::{Value, json};
use stentor_proto::authority::{Action, Actor, allows};
use stentor_proto::token::ANY_ROOM;
use stentor_proto::wire::Role;
use tower::ServiceExt as _;

use super::tests::{Bench, on_stage};

/// What is done on a session, and no call.
const ON_A_SESSION: [Action; 4] =
    [Action::RaiseHand, Action::React, Action::Speak, Action::MuteSelf];

/// The calls of an action in `room`, all of which it takes.
fn calls(action: Action, room: &str) -> Vec<(Method, String, Option<Value>)> {
    let own = |end: &str| format!("/v1/rooms/{room}{end}");
    let get = |end: &str| vec![(Method::GET, own(end), None)];
    let post = |end: &str, body: Value| vec![(Method::POST, own(end), Some(body))];
    let order = |body: Value| post("/actions", body);
    let about_bo = || order(json!({"action": action.name(), "identity": "bo"}));
    let mint = |role: &str| post("/tokens", json!({"role": role}));
    match action {
        Action::ListRooms => vec![(Method::GET, "/v1/rooms".to_owned(), None)],
        Action::ReadPublicRoom | Action::ReadRoom => [get(""), get("/relays")].concat(),
        Action::JoinPublicRoom | Action::JoinRoom => post("/join", json!({})),
        Action::AcceptInvitation => post("/stage", json!({})),
        Action::CreateRoom => {
            let new = json!({"title": "New", "name": format!("{room}-new")});
            vec![(Method::POST, "/v1/rooms".to_owned(), Some(new))]
        }
        Action::ChangeRoom => vec![(Method::PATCH, own(""), Some(json!({"topic": "t"})))],
        Action::Lock | Action::Unlock => order(json!({"action": action.name()})),
        Action::SeeParticipants => get("/participants"),
        Action::SeeStats => get("/stats"),
        Action::FollowEvents => get("/events"),
        Action::MintListener => mint("listener"),
        Action::MintSpeaker => mint("speaker"),
        Action::MintCoHost => mint("co-host"),
        Action::MintHost => mint("host"),
        Action::Webhooks => {
            [get("/webhooks"), post("/webhooks", json!({"url": "https://example.org/"}))].concat()
        }
        Action::End => vec![(Method::DELETE, own(""), None)],
        _ => about_bo(),
    }
}

/// The actor's token of `room`.
fn token(bench: &Bench, actor: Actor, room: &str) -> Option<String> {
    let role = match actor {
        Actor::Anonymous => return None,
        Actor::ApiKey => return Some(bench.token(ANY_ROOM, Role::Host, "operator")),
        Actor::Listener => Role::Listener,
        Actor::Speaker => Role::Speaker,
        Actor::CoHost => Role::CoHost,
        Actor::Host => Role::Host,
    };
    Some(bench.token(room, role, "ann"))
}

/// Status and code of a call; its body is not waited for where it has no end.
async fn answer(
    bench: &Bench,
    (method, path, body): (Method, String, Option<Value>),
    token: Option<&str>,
) -> (u16, String) {
    if path.ends_with("/events") {
        let mut request = Request::get(&path);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Body::empty()).unwrap();
        let answer = bench.router.clone().oneshot(request).await.unwrap();
        if answer.status().is_success() {
            return (200, String::new());
        }
    }
    let answer = bench.call(method, &path, token, body).await;
    (answer.status, answer.body["code"].as_str().unwrap_or_default().to_owned())
}

/// A room in which "bo" speaks, and "ann" is invited.
async fn room(bench: &Bench, name: &str, public: bool) {
    let host = bench.room(name, public).await;
    on_stage(bench, name, "bo", Role::Speaker, 1).await;
    let invite = json!({"action": "invite", "identity": "ann"});
    let path = format!("/v1/rooms/{name}/actions");
    assert_eq!(bench.post(&path, Some(&host), invite).await.status, 200);
}

#[tokio::test]
async fn every_cell_of_the_api_is_as_written() {
    let mut tried = 0;
    for &action in Action::ALL.iter().filter(|action| !ON_A_SESSION.contains(action)) {
        for actor in Actor::ALL {
            let bench = Bench::new();
            let public = matches!(action, Action::ReadPublicRoom | Action::JoinPublicRoom);
            room(&bench, "a", public).await;
            // A token of the room that is to be made.
            let held = if action == Action::CreateRoom { "a-new" } else { "a" };
            let token = token(&bench, actor, held);
            for call in calls(action, "a") {
                let what = format!("{} {} {}", actor.name(), call.0, call.1);
                let (status, code) = answer(&bench, call, token.as_deref()).await;
                match (allows(actor, action), actor) {
                    (true, _) => assert!((200..300).contains(&status), "{what}: {status} {code}"),
                    (false, Actor::Anonymous) => {
                        assert_eq!((status, code.as_str()), (401, "token_missing"), "{what}");
                    }
                    (false, _) => {
                        assert_eq!(status, 403, "{what}: {code}");
                        let refused = ["not_allowed", "token_role"].contains(&code.as_str());
                        assert!(refused, "{what}: {code}");
                    }
                }
                tried += 1;
            }
        }
    }
    assert!(tried >= 6 * (Action::ALL.len() - ON_A_SESSION.len()), "{tried}");
}

#[tokio::test]
async fn a_token_of_another_room_does_nothing_here() {
    let bench = Bench::new();
    room(&bench, "a", false).await;
    room(&bench, "b", false).await;
    for &action in Action::ALL.iter().filter(|action| !ON_A_SESSION.contains(action)) {
        if matches!(action, Action::ListRooms | Action::CreateRoom) {
            continue;
        }
        for actor in [Actor::Listener, Actor::Speaker, Actor::CoHost, Actor::Host] {
            let elsewhere = token(&bench, actor, "b");
            for call in calls(action, "a") {
                let what = format!("{} {} {}", actor.name(), call.0, call.1);
                let refused = answer(&bench, call, elsewhere.as_deref()).await;
                assert_eq!(refused, (403, "token_room".to_owned()), "{what}");
            }
        }
    }
}

#[tokio::test]
async fn who_was_put_out_has_no_role_at_all() {
    for (put_out, code) in [("remove", "removed"), ("ban", "banned")] {
        let bench = Bench::new();
        room(&bench, "a", false).await;
        let tokens: Vec<_> = [Actor::Listener, Actor::Speaker, Actor::CoHost, Actor::Host]
            .map(|actor| (actor, token(&bench, actor, "a")))
            .into();
        let key = bench.api_key();
        let order = json!({"action": put_out, "identity": "ann"});
        assert_eq!(bench.post("/v1/rooms/a/actions", Some(&key), order).await.status, 200);
        for &action in Action::ALL.iter().filter(|action| !ON_A_SESSION.contains(action)) {
            if matches!(action, Action::ListRooms | Action::CreateRoom) {
                continue;
            }
            for (actor, token) in &tokens {
                let is_known = matches!(
                    action,
                    Action::ReadPublicRoom
                        | Action::ReadRoom
                        | Action::JoinPublicRoom
                        | Action::JoinRoom
                );
                let code = match is_known || allows(*actor, action) {
                    true => code,
                    false => "not_allowed",
                };
                for call in calls(action, "a") {
                    let what = format!("{put_out}: {} {} {}", actor.name(), call.0, call.1);
                    let refused = answer(&bench, call, token.as_deref()).await;
                    assert_eq!(refused, (403, code.to_owned()), "{what}");
                }
            }
        }
        // A host's decision is not undone by the one whom it concerns.
        let unban = json!({"action": "unban", "identity": "ann"});
        let own = tokens[3].1.as_deref();
        assert_eq!(bench.post("/v1/rooms/a/actions", own, unban).await.status, 403);
    }
}
