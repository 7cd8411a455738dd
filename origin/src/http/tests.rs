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
    pub(super) router: Router,
    pub(super) signer: Signer,
    pub(super) dir: tempfile::TempDir,
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
        let news = broadcast::Sender::new(limits::NEWS);
        let told = news.clone();
        thread::spawn(move || control(clock, queue, told));
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&dir.path().join("store.db"), 0).unwrap();
        let api = Api::new(Parts {
            commands,
            signer: Some(signer.clone()),
            verifier,
            node: "origin".to_owned(),
            address: "origin.example:4433".to_owned(),
            stage_address: "origin.example:4434".to_owned(),
            certificate_hashes: watch::channel(vec!["hash".to_owned()]).1,
            clock,
            writes_per_s: 1_000,
            store,
            news,
            outside: Outside { tls: no_tls(), local: true },
        });
        Self { router: api.clone().router(), api, signer, dir }
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

/// Webhooks of these tests are plain.
fn no_tls() -> Arc<rustls::ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}

/// What the control thread does, without its sockets.
fn control(clock: Clock, queue: Receiver<Command>, told: broadcast::Sender<Arc<News>>) {
    let settings = OriginSettings {
        name: "origin".to_owned(),
        rooms: Vec::new(),
        first_use: Some(crate::start::first_use()),
        planner: PlannerSettings::default(),
        epoch: 1,
        capacity: 100,
        keys: Vec::new(),
        signer: None,
        unix_us_at_zero: clock.unix_us_at_zero(),
        joins_per_s: None,
    };
    let now = || clock.time(Instant::now());
    let mut origin = OriginControl::new(settings, now()).unwrap();
    for command in queue {
        command(&mut origin, now());
        while origin.poll_effect().is_some() {}
        while let Some(news) = origin.poll_news() {
            let _ = told.send(Arc::new(news));
        }
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

    let path = format!("/v1/rooms/{room}/join");
    let mut guests = Vec::new();
    for key in ["k1", "k1", "k2"] {
        let known = bench.post(&path, None, json!({"client_key": key})).await;
        guests.push(known.body["identity"].as_str().unwrap().to_owned());
    }
    assert!(guests[0] == guests[1] && guests[1] != guests[2], "{guests:?}");
    bench.post(&path, None, json!({"ticket": "forged"})).await.is(403, "ticket_invalid");
    let called = bench.get("/v1/watermark", None).await;
    assert_eq!((called.status, &called.body["waiting"]), (200, &json!(0)), "{}", called.body);
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

#[tokio::test]
async fn every_call_that_is_described_is_there() {
    let bench = Bench::new();
    let described = bench.get("/v1/openapi.json", None).await.body;
    let paths = described["paths"].as_object().unwrap();
    let mut calls = 0;
    for (path, methods) in paths {
        let real = path.replace("{room}", "none").replace("{id}", "none");
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let is_described = methods.get(method.to_lowercase()).is_some();
            let answer = bench.call(method.parse().unwrap(), &real, None, Some(json!({}))).await;
            let code = answer.body["code"].as_str().unwrap_or_default();
            assert_ne!(code, "no_such_call", "{method} {path}");
            assert_eq!(code != "no_such_method", is_described, "{method} {path}: {code}");
            calls += usize::from(is_described);
            for (status, says) in
                methods[method.to_lowercase()]["responses"].as_object().into_iter().flatten()
            {
                let named = says["description"].is_string() || says["content"].is_object();
                assert!(named, "{method} {path} {status} says nothing");
            }
        }
    }
    assert_eq!((paths.len(), calls), (13, 17), "a call is missing from this test's count");
}

/// Puts somebody on stage, as a shard would say it.
pub(super) async fn on_stage(bench: &Bench, room: &str, identity: &str, role: Role, n: u32) {
    use stentor_proto::fanout::SessionIx;
    use stentor_proto::node::ToControl;
    use stentor_proto::session::SessionKey;
    let session = SessionKey { shard: 0, ix: SessionIx(n), generation: n };
    let (room, identity) = (room.to_owned(), identity.to_owned());
    let name = identity.clone();
    let (minted, jti, address) = (u64::MAX, None, None);
    let join = ToControl::StageJoin { session, room, identity, name, role, minted, jti, address };
    bench
        .api
        .parts()
        .commands
        .ask(move |origin, now| origin.handle_message(now, join))
        .await
        .unwrap();
}

#[tokio::test]
async fn hosts_decide_and_what_must_last_is_kept() {
    let bench = Bench::new();
    let host = bench.room("a", true).await;
    let act = async |token: &str, order: Value| {
        bench.post("/v1/rooms/a/actions", Some(token), order).await
    };
    on_stage(&bench, "a", "ann", Role::Host, 1).await;
    on_stage(&bench, "a", "cy", Role::CoHost, 2).await;
    on_stage(&bench, "a", "bo", Role::Speaker, 3).await;
    let mute = act(&host, json!({"action": "mute", "identity": "bo"})).await;
    assert_eq!((mute.status, &mute.body["done"]), (200, &json!(true)), "{}", mute.body);
    let people = bench.get("/v1/rooms/a/participants", Some(&host)).await.body;
    assert_eq!(people["room"]["state"], "live");
    assert_eq!(people["room"]["stage"][2]["muted"], true);

    let co_host = bench.token("a", Role::CoHost, "cy");
    act(&co_host, json!({"action": "ban", "identity": "ann"})).await.is(403, "not_allowed");
    act(&co_host, json!({"action": "make_co_host", "identity": "bo"})).await.is(403, "not_allowed");
    act(&co_host, json!({"action": "end"})).await.is(403, "not_allowed");
    act(&bench.token("a", Role::Speaker, "bo"), json!({"action": "mute", "identity": "cy"}))
        .await
        .is(403, "not_allowed");
    let elsewhere = bench.token("b", Role::Host, "x");
    act(&elsewhere, json!({"action": "mute", "identity": "bo"})).await.is(403, "token_room");

    // A listener is invited, comes on stage with a fresh token, is put out, and stays out.
    let joined = bench.post("/v1/rooms/a/join", None, json!({})).await.body;
    let (who, token) = (joined["identity"].clone(), joined["token"].as_str().unwrap());
    bench.post("/v1/rooms/a/stage", Some(token), json!({})).await.is(403, "not_invited");
    assert_eq!(act(&co_host, json!({"action": "promote", "identity": who})).await.status, 200);
    let stage = bench.post("/v1/rooms/a/stage", Some(token), json!({})).await;
    assert_eq!((stage.status, &stage.body["role"]), (200, &json!("speaker")), "{}", stage.body);
    assert_eq!(stage.body["address"], "origin.example:4434", "the address of the stage");
    assert_eq!(act(&host, json!({"action": "remove", "identity": who})).await.status, 200);
    bench.post("/v1/rooms/a/join", Some(token), json!({})).await.is(403, "removed");
    bench.get("/v1/rooms/a", Some(token)).await.is(403, "removed");
    let again =
        bench.post("/v1/rooms/a/tokens", Some(&host), json!({"role": "listener", "identity": who}));
    let again = again.await.body["token"].as_str().unwrap().to_owned();
    assert_eq!(bench.post("/v1/rooms/a/join", Some(&again), json!({})).await.status, 200);
    assert_eq!(
        act(&host, json!({"action": "ban", "identity": who, "address": true})).await.status,
        200
    );
    bench.post("/v1/rooms/a/join", Some(&again), json!({})).await.is(403, "banned");
    let people = bench.get("/v1/rooms/a/participants", Some(&host)).await.body;
    assert_eq!(people["bans"], json!([{"identity": who}]));

    let (_, kept) = Store::open(&bench.dir.path().join("store.db"), 0).unwrap();
    assert_eq!(kept.rooms.len(), 1);
    assert_eq!(kept.revoked.iter().filter(|(_, entry)| entry.is_ban()).count(), 1);
    assert_eq!(act(&host, json!({"action": "unban", "identity": who})).await.status, 200);
    assert_eq!(bench.post("/v1/rooms/a/join", Some(&again), json!({})).await.status, 200);
    assert_eq!(act(&host, json!({"action": "end"})).await.status, 200);
    bench.get("/v1/rooms/a", None).await.is(404, "no_room");
    let (_, kept) = Store::open(&bench.dir.path().join("store.db"), 0).unwrap();
    assert_eq!(kept.rooms.len(), 0);
    // The ban was lifted; the token that was taken back is no good for the next room of the name.
    assert!(kept.revoked.len() == 1 && !kept.revoked[0].1.is_ban(), "{:?}", kept.revoked);
}

#[tokio::test]
async fn every_call_of_a_host_is_refused_to_the_others() {
    let bench = Bench::new();
    bench.room("a", false).await;
    let calls = [
        (Method::PATCH, "/v1/rooms/a", json!({"title": "x"})),
        (Method::DELETE, "/v1/rooms/a", json!({})),
        (Method::GET, "/v1/rooms/a/participants", json!({})),
        (Method::GET, "/v1/rooms/a/stats", json!({})),
        (Method::GET, "/v1/rooms/a/events", json!({})),
        (Method::POST, "/v1/rooms/a/tokens", json!({"role": "listener"})),
        (Method::POST, "/v1/rooms/a/actions", json!({"action": "lock"})),
    ];
    for (method, path, body) in calls {
        let call = async |token: Option<&str>| {
            bench.call(method.clone(), path, token, Some(body.clone())).await
        };
        call(None).await.is(401, "token_missing");
        for role in [Role::Listener, Role::Speaker] {
            call(Some(&bench.token("a", role, "x"))).await.is(403, "not_allowed");
        }
        call(Some(&bench.token("b", Role::Host, "x"))).await.is(403, "token_room");
    }
    let co_host = bench.token("a", Role::CoHost, "cy");
    for role in ["co-host", "host"] {
        let minting = json!({"role": role});
        bench.post("/v1/rooms/a/tokens", Some(&co_host), minting).await.is(403, "not_allowed");
    }
    let locked =
        bench.call(Method::PATCH, "/v1/rooms/a", Some(&co_host), Some(json!({"locked": true})));
    assert_eq!(locked.await.body["locked"], true);
    let changed = json!({"title": "a\u{202e}b"});
    let bad = bench.call(Method::PATCH, "/v1/rooms/a", Some(&co_host), Some(changed));
    bad.await.is(400, "name_direction_character");
}

#[tokio::test]
async fn a_host_follows_what_happens() {
    let bench = Bench::new();
    let host = bench.room("a", true).await;
    let other = bench.room("b", true).await;
    let request = Request::get("/v1/rooms/a/events")
        .header(header::AUTHORIZATION, format!("Bearer {host}"))
        .body(Body::empty());
    let answer = bench.router.clone().oneshot(request.unwrap()).await.unwrap();
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/event-stream");
    on_stage(&bench, "a", "bo", Role::Speaker, 1).await;
    on_stage(&bench, "b", "not here", Role::Speaker, 2).await;
    let end = json!({"action": "end"});
    assert_eq!(bench.post("/v1/rooms/b/actions", Some(&other), end.clone()).await.status, 200);
    assert_eq!(bench.post("/v1/rooms/a/actions", Some(&host), end).await.status, 200);
    let body = tokio::time::timeout(Duration::from_secs(5), answer.into_body().collect());
    let body = body.await.expect("the stream ends with the room").unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    let kinds: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!((kinds.first(), kinds.last()), (Some(&"room"), Some(&"ended")), "{text}");
    assert!(kinds.contains(&"stage"), "{kinds:?}");
    assert!(text.contains("\"identity\":\"bo\"") && !text.contains("not here"), "{text}");
}

#[tokio::test]
async fn a_disk_in_trouble_is_a_503_and_no_panic() {
    let bench = Bench::new();
    let host = bench.room("a", true).await;
    let file = bench.dir.path().join("store.db");
    rusqlite::Connection::open(&file).unwrap().execute_batch("DROP TABLE revoked").unwrap();
    let ban = json!({"action": "ban", "identity": "x"});
    let answer = bench.post("/v1/rooms/a/actions", Some(&host), ban).await;
    answer.is(503, "store");
    assert_eq!(answer.headers[header::RETRY_AFTER], "5");
    assert_eq!(bench.get("/v1/rooms/a", None).await.status, 200);
}

#[tokio::test]
async fn a_replayed_call_makes_one_room() {
    let bench = Bench::new();
    let key = bench.api_key();
    let make = async |title: &str| {
        let body = json!({"title": title}).to_string();
        let request = Request::post("/v1/rooms")
            .header(header::AUTHORIZATION, format!("Bearer {key}"))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONTENT_LENGTH, body.len())
            .header("idempotency-key", "7");
        bench.send(request.body(Body::from(body)).unwrap()).await
    };
    let (first, again) = (make("Once").await, make("Once").await);
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(first.body, again.body);
    make("Twice").await.is(422, "idempotency_key_reused");
    let order = json!({"action": "lock"});
    let path = format!("/v1/rooms/{}/actions", first.body["room"].as_str().unwrap());
    for _ in 0..2 {
        assert_eq!(bench.post(&path, Some(&key), order.clone()).await.status, 200, "harmless");
    }
}

#[tokio::test]
async fn a_webhook_is_told_signed_and_told_again() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let bench = Bench::new();
    let host = bench.room("a", true).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://127.0.0.1:{}/hook", listener.local_addr().unwrap().port());
    let path = "/v1/rooms/a/webhooks";
    bench.post(path, Some(&host), json!({"url": "http://example.org/"})).await.is(400, "bad_url");
    let made = bench.post(path, Some(&host), json!({"url": url})).await;
    assert_eq!(made.status, 201, "{}", made.body);
    assert!(made.body["secret"].as_str().unwrap().starts_with("whsec_"));
    let listed = bench.get(path, Some(&host)).await.body;
    assert_eq!(listed["webhooks"], json!([{"id": made.body["id"], "url": url}]));
    tokio::spawn(bench.api.clone().follow_rooms());
    tokio::time::sleep(Duration::from_millis(50)).await;
    on_stage(&bench, "a", "bo", Role::Speaker, 1).await;
    let mut seen = Vec::new();
    for answer in ["500 No", "200 OK"] {
        let accepted = tokio::time::timeout(Duration::from_secs(5), listener.accept());
        let (mut stream, _) = accepted.await.expect("it is told").unwrap();
        let mut bytes = vec![0; 8_192];
        let mut text = String::new();
        while !text.contains("stage.joined") {
            let count = stream.read(&mut bytes).await.unwrap();
            text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
        let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
        seen.push(text);
    }
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(": ").to_owned()
    };
    assert_eq!(field(&seen[0], "webhook-id"), field(&seen[1], "webhook-id"), "one message");
    assert!(field(&seen[1], "webhook-signature").starts_with("v1,"));
    let id = made.body["id"].as_str().unwrap();
    let gone = bench.call(Method::DELETE, &format!("{path}/{id}"), Some(&host), None).await;
    assert_eq!(gone.status, 204);
    bench
        .call(Method::DELETE, &format!("{path}/{id}"), Some(&host), None)
        .await
        .is(404, "no_webhook");
}
