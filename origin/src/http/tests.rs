//! The API over its router, with a real control behind it.

use std::thread;

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, header};
use crossbeam_channel::Receiver;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use stentor_proto::node::{OriginControl, OriginSettings};
use stentor_proto::token::{ANY_ROOM, private_pem};
use stentor_proto::tree::PlannerSettings;
use stentor_relay::command::Command;
use stentor_relay::quic::sys::Waiter;
use tower::ServiceExt as _;

use super::*;

pub(super) struct Bench {
    pub(super) api: Api,
    router: Router,
    pub(super) signer: Signer,
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

impl Bench {
    pub(super) fn new() -> Self {
        let signer = Signer::from_pkcs8_pem(&private_pem([1; 32]), None).unwrap();
        let verifier = Verifier::new([(signer.kid().to_owned(), signer.public())]).unwrap();
        let clock = Clock::start();
        let (commands, queue) = Commands::new(Waiter::new().unwrap().waker());
        thread::spawn(move || control(clock, queue));
        let api = Api::new(Parts {
            commands,
            signer: Some(signer.clone()),
            verifier,
            node: "origin".to_owned(),
            address: "origin.example:4433".to_owned(),
            certificate_hashes: watch::channel(vec!["hash".to_owned()]).1,
            clock,
            writes_per_s: 1_000,
        });
        Self { router: api.clone().router(), api, signer }
    }

    pub(super) fn token(&self, room: &str, role: Role, identity: &str) -> String {
        let request = Mint {
            room: room.to_owned(),
            role,
            identity: identity.to_owned(),
            name: None,
            ttl: Duration::from_secs(60),
        };
        mint::mint(&self.signer, &request, auth::unix_s()).unwrap()
    }

    pub(super) fn api_key(&self) -> String {
        self.token(ANY_ROOM, Role::Host, "operator")
    }

    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = match body {
            Some(body) => {
                let body = body.to_string();
                request = request
                    .header(header::CONTENT_TYPE, "application/json")
                    .header(header::CONTENT_LENGTH, body.len());
                Body::from(body)
            }
            None => Body::empty(),
        };
        self.send(request.body(body).unwrap()).await
    }

    pub(super) async fn send(&self, request: Request<Body>) -> Answer {
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = answer.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }

    pub(super) async fn get(&self, path: &str, token: Option<&str>) -> Answer {
        self.call(Method::GET, path, token, None).await
    }

    pub(super) async fn post(&self, path: &str, token: Option<&str>, body: Value) -> Answer {
        self.call(Method::POST, path, token, Some(body)).await
    }

    /// A room with this name, and its host's token.
    pub(super) async fn room(&self, name: &str, public: bool) -> String {
        let body = json!({"name": name, "title": "A title", "public": public});
        let made = self.post("/v1/rooms", Some(&self.api_key()), body).await;
        assert_eq!(made.status, 201, "{}", made.body);
        made.body["host_token"].as_str().unwrap().to_owned()
    }
}

impl Answer {
    #[track_caller]
    pub(super) fn is(&self, status: u16, code: &str) {
        assert_eq!(
            (self.status, self.body["code"].as_str()),
            (status, Some(code)),
            "{}",
            self.body
        );
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(self.body["status"], status);
    }
}

/// What the control thread does, without its sockets.
fn control(clock: Clock, queue: Receiver<Command>) {
    let settings = OriginSettings {
        name: "origin".to_owned(),
        rooms: Vec::new(),
        first_use: None,
        planner: PlannerSettings::default(),
        epoch: 1,
        capacity: 100,
        keys: Vec::new(),
        signer: None,
        unix_us_at_zero: clock.unix_us_at_zero(),
        joins_per_s: None,
    };
    let now = || clock.time(std::time::Instant::now());
    let mut origin = OriginControl::new(settings, now()).unwrap();
    for command in queue {
        command(&mut origin, now());
        while origin.poll_effect().is_some() {}
    }
}

#[tokio::test]
async fn a_room_is_made_shown_listed_and_entered() {
    let bench = Bench::new();
    let key = bench.api_key();
    let new = json!({"title": "Town <b>hall</b>", "topic": "talk", "public": true, "audible": 2});
    let made = bench.post("/v1/rooms", Some(&key), new).await;
    assert_eq!(made.status, 201, "{}", made.body);
    let room = made.body["room"].as_str().unwrap();
    assert!(room.starts_with("town-b-hall-b-"), "{room}");
    assert_eq!(made.body["links"]["page"], format!("/rooms/{room}"));

    let shown = bench.get(&format!("/v1/rooms/{room}"), None).await;
    assert_eq!(shown.status, 200);
    assert_eq!(shown.body["title"], "Town <b>hall</b>", "text is text");
    assert_eq!((&shown.body["state"], &shown.body["audible"]), (&json!("open"), &json!(2)));
    assert_eq!(shown.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    assert_eq!(shown.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");

    let list = bench.get("/v1/rooms?state=open&topic=talk", None).await;
    assert_eq!(list.body["rooms"][0]["room"], room);
    assert_eq!(bench.get("/v1/rooms?topic=other", None).await.body["rooms"], json!([]));

    let joined = bench.post(&format!("/v1/rooms/{room}/join"), None, json!({"name": "Bo"})).await;
    assert_eq!(joined.status, 200, "{}", joined.body);
    let token = joined.body["token"].as_str().unwrap();
    let claims = bench.api.parts().verifier.verify(token, auth::unix_s()).unwrap();
    assert_eq!((claims.role, claims.name.as_deref()), (Role::Listener, Some("Bo")));
    assert_eq!(joined.body["identity"], claims.sub);
    assert_eq!(joined.body["relays"][0]["address"], "origin.example:4433");

    let again = bench.post(&format!("/v1/rooms/{room}/join"), Some(token), json!({})).await;
    assert_eq!(again.body["identity"], claims.sub, "the same person");
    assert_ne!(again.body["token"], token);
}

#[tokio::test]
async fn a_listeners_token_reads_no_other_room() {
    let bench = Bench::new();
    bench.room("a", false).await;
    bench.room("b", false).await;
    let token = bench.token("a", Role::Listener, "ann");
    assert_eq!(bench.get("/v1/rooms/a", Some(&token)).await.status, 200);
    for path in ["/v1/rooms/b", "/v1/rooms/b/relays", "/v1/rooms/none"] {
        bench.get(path, Some(&token)).await.is(403, "token_room");
    }
    bench.post("/v1/rooms/b/join", Some(&token), json!({})).await.is(403, "token_room");
    bench.get("/v1/rooms/b", None).await.is(401, "token_missing");
    bench.get("/v1/rooms/b", Some("ey.no.token")).await.is(401, "token_invalid");
    bench.get("/v1/rooms/none", None).await.is(404, "no_room");
    bench.post("/v1/rooms/b/join", None, json!({})).await.is(401, "token_missing");
}

#[tokio::test]
async fn rooms_are_made_by_their_hosts_alone() {
    let bench = Bench::new();
    let new = json!({"name": "a", "title": ""});
    let post =
        async |token: Option<String>, body| bench.post("/v1/rooms", token.as_deref(), body).await;
    post(None, new.clone()).await.is(401, "token_missing");
    for role in [Role::Listener, Role::Speaker, Role::CoHost] {
        post(Some(bench.token("a", role, "x")), new.clone()).await.is(403, "token_role");
    }
    post(Some(bench.token("b", Role::Host, "x")), new.clone()).await.is(403, "token_room");
    assert_eq!(post(Some(bench.token("a", Role::Host, "x")), new.clone()).await.status, 201);
    post(Some(bench.api_key()), new).await.is(409, "room_exists");
}

#[tokio::test]
async fn bad_input_is_named() {
    let bench = Bench::new();
    let key = bench.api_key();
    for (body, code) in [
        (json!({"title": "a\u{202e}b"}), "name_direction_character"),
        (json!({"title": "a\nb"}), "name_control_character"),
        (json!({"title": "x".repeat(10_000)}), "name_too_long"),
        (json!({"title": "x", "name": "y".repeat(129)}), "name_too_long"),
        (json!({"title": "x", "name": "*"}), "bad_setting"),
        (json!({"title": "x", "name": "a", "audible": 99}), "bad_setting"),
        (json!({"title": "x", "name": "a", "profile": "loud"}), "bad_setting"),
        (json!({"title": 7}), "bad_body"),
        (json!([]), "bad_body"),
    ] {
        bench.post("/v1/rooms", Some(&key), body).await.is(400, code);
    }
    bench.get("/v1/rooms?state=dead", None).await.is(400, "bad_query");
    bench.get("/v1/nothing", None).await.is(404, "no_such_call");
    bench.call(Method::DELETE, "/v1/rooms", Some(&key), None).await.is(405, "no_such_method");
    let large = json!({"title": "x".repeat(limits::HTTP_BODY_BYTES)});
    bench.post("/v1/rooms", Some(&key), large).await.is(413, "body_too_large");
    let form = Request::post("/v1/rooms")
        .header(header::AUTHORIZATION, format!("Bearer {key}"))
        .header(header::CONTENT_LENGTH, 2)
        .header(header::CONTENT_TYPE, "text/plain");
    bench.send(form.body(Body::from("{}")).unwrap()).await.is(415, "not_json");
}

#[tokio::test]
async fn the_page_and_the_description_are_served() {
    let bench = Bench::new();
    let page = bench.get("/", None).await;
    assert_eq!(page.status, 200);
    let policy = page.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let described = bench.get("/v1/openapi.json", None).await;
    assert!(described.body["openapi"].as_str().unwrap().starts_with("3.1"), "{}", described.body);
    assert!(described.body["paths"]["/v1/rooms/{room}/join"]["post"].is_object());
}
