//! Webhooks: what happens in a room, told to a server of the host's, signed and retried
//! (Standard Webhooks: the headers `webhook-id`, `webhook-timestamp`, `webhook-signature`).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use ring::hmac;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stentor_proto::authority::Action;
use stentor_proto::limits;
use stentor_proto::names::check_text;
use stentor_proto::node::{News, NewsKind};
use stentor_relay::metrics;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use utoipa::ToSchema;

use super::auth::{Caller, unix_s};
use super::json::{Body, Json, RoomName};
use super::{Api, Problem, random, random_name};
use crate::store::{Change, Webhook};

/// Bytes of a webhook's URL.
const URL_BYTES: usize = 1_024;

/// Where to tell what happens.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(super) struct NewHook {
    /// An https URL; in development mode http on this machine, too.
    url: String,
}

/// A webhook.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Hook {
    /// Its id.
    id: String,
    /// Where to.
    url: String,
    /// Signs what is sent; shown once, when it is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

/// A room's webhooks.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Hooks {
    /// All of them.
    webhooks: Vec<Hook>,
}

/// A message on its way: its id and body.
type Message = (String, Bytes);

/// Webhooks by id, each with its own queue and task.
#[derive(Default)]
pub(super) struct Dispatch(Mutex<BTreeMap<String, Running>>);

/// Dropped, its task empties the queue and ends.
struct Running {
    hook: Webhook,
    queue: mpsc::Sender<Message>,
    task: AbortHandle,
}

/// How webhooks are reached.
#[derive(Clone)]
pub struct Outside {
    /// Whom to trust.
    pub tls: Arc<rustls::ClientConfig>,
    /// Whether http and this machine's own addresses are allowed: development mode.
    pub local: bool,
}

/// Tell a server what happens
#[utoipa::path(post, path = "/v1/rooms/{room}/webhooks", params(("room" = String, Path)),
    request_body = NewHook, security(("token" = [])),
    responses((status = 201, description = "with its secret", body = Hook),
    (status = "4XX", body = Problem), (status = "5XX", body = Problem)))]
pub(super) async fn make(
    State(api): State<Api>,
    caller: Caller,
    RoomName(room): RoomName,
    Body(new): Body<NewHook>,
) -> Result<Response, Problem> {
    caller.may(&api, &room, Action::Webhooks).await?;
    check_text("the URL", &new.url, URL_BYTES)?;
    target(&new.url, api.parts().outside.local)?;
    let name = room.clone();
    api.parts().commands.ask(move |origin, _| origin.room_info(&name)).await??;
    let secret = random::<32>()?.to_vec();
    let hook = Webhook { id: random_name()?, room, url: new.url, secret };
    if !api.has_place_for_hook(&hook.room) {
        let most = limits::WEBHOOKS_PER_ROOM;
        let detail = format!("a room has {most} webhooks at most; remove one first");
        return Err(Problem::new(StatusCode::CONFLICT, "webhooks_full", detail));
    }
    api.keep(Change::WebhookMade(hook.clone())).await?;
    let secret = format!("whsec_{}", BASE64_STANDARD.encode(&hook.secret));
    let made = Hook { id: hook.id.clone(), url: hook.url.clone(), secret: Some(secret) };
    api.run_hook(hook);
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

/// A room's webhooks
#[utoipa::path(get, path = "/v1/rooms/{room}/webhooks", params(("room" = String, Path)),
    security(("token" = [])), responses((status = 200, body = Hooks),
    (status = "4XX", body = Problem), (status = "5XX", body = Problem)))]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    RoomName(room): RoomName,
) -> Result<Json<Hooks>, Problem> {
    caller.may(&api, &room, Action::Webhooks).await?;
    let held = api.0.hooks.0.lock().unwrap_or_else(PoisonError::into_inner);
    let own = held.values().filter(|running| running.hook.room == room).map(|running| Hook {
        id: running.hook.id.clone(),
        url: running.hook.url.clone(),
        secret: None,
    });
    Ok(Json(Hooks { webhooks: own.collect() }))
}

/// Remove a webhook
#[utoipa::path(delete, path = "/v1/rooms/{room}/webhooks/{id}",
    params(("room" = String, Path), ("id" = String, Path)),
    security(("token" = [])), responses((status = 204, description = "it is gone"),
    (status = "4XX", body = Problem), (status = "5XX", body = Problem)))]
pub(super) async fn remove(
    State(api): State<Api>,
    caller: Caller,
    Path((room, id)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    caller.may(&api, &room, Action::Webhooks).await?;
    let known = {
        let held = api.0.hooks.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(&id).is_some_and(|running| running.hook.room == room)
    };
    if !known {
        let detail = "the room has no such webhook";
        return Err(Problem::new(StatusCode::NOT_FOUND, "no_webhook", detail));
    }
    api.keep(Change::WebhookGone { room, id: id.clone() }).await?;
    let removed = api.0.hooks.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    if let Some(running) = removed {
        running.task.abort();
    }
    Ok(StatusCode::NO_CONTENT)
}

impl Api {
    /// Starts webhooks as they were kept.
    pub fn run_hooks(&self, hooks: &[Webhook]) {
        hooks.iter().take(limits::WEBHOOKS).cloned().for_each(|hook| self.run_hook(hook));
    }

    fn has_place_for_hook(&self, room: &str) -> bool {
        let held = self.0.hooks.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = held.values().filter(|running| running.hook.room == room).count();
        held.len() < limits::WEBHOOKS && own < limits::WEBHOOKS_PER_ROOM
    }

    fn run_hook(&self, hook: Webhook) {
        let (queue, messages) = mpsc::channel(limits::WEBHOOK_QUEUE);
        let task = tokio::spawn(deliver(hook.clone(), self.parts().outside.clone(), messages));
        let running = Running { hook, queue, task: task.abort_handle() };
        let mut held = self.0.hooks.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.insert(running.hook.id.clone(), running);
    }

    /// Puts what happened into the queues of its room's webhooks; those of a room that has ended
    /// end behind it.
    pub(super) fn tell_hooks(&self, news: &News) {
        let Some((kind, data)) = told(&news.what) else { return };
        let mut held = self.0.hooks.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = held.values().filter(|running| running.hook.room == news.room);
        for running in own {
            let Ok(id) = random_name() else { return };
            let body = json!({
                "type": kind, "timestamp": unix_s(), "data": {"room": news.room, "about": data},
            });
            let message = (format!("msg_{id}"), Bytes::from(body.to_string()));
            if running.queue.try_send(message).is_err() {
                metrics::WEBHOOKS.counter(&["dropped"]).increment(1);
            }
        }
        if news.what == NewsKind::Ended {
            held.retain(|_, running| running.hook.room != news.room);
        }
    }
}

/// The event's type and what it is about; nothing of what changes by the second.
fn told(what: &NewsKind) -> Option<(&'static str, Value)> {
    Some(match what {
        NewsKind::Hand(hand) => {
            let kind = if hand.raised { "hand.raised" } else { "hand.lowered" };
            (kind, json!({"identity": hand.identity, "name": hand.name}))
        }
        NewsKind::Stage { identity, role: Some(role) } => {
            ("stage.joined", json!({"identity": identity, "role": role.name()}))
        }
        NewsKind::Stage { identity, role: None } => ("stage.left", json!({"identity": identity})),
        NewsKind::Ended => ("room.ended", json!({})),
        NewsKind::Room(_) | NewsKind::AddressBanned(_) => return None,
    })
}

/// Sends one webhook's messages in their order, each until it is taken or given up.
async fn deliver(hook: Webhook, outside: Outside, mut messages: mpsc::Receiver<Message>) {
    while let Some((id, body)) = messages.recv().await {
        let mut pause = limits::WEBHOOK_PAUSE;
        for attempt in 1..=limits::WEBHOOK_TRIES {
            let sent = tokio::time::timeout(
                limits::WEBHOOK_TIME,
                send(&hook, &outside, &id, body.clone()),
            );
            let problem = match sent.await {
                Ok(Ok(())) => {
                    metrics::WEBHOOKS.counter(&["delivered"]).increment(1);
                    break;
                }
                Ok(Err(problem)) => problem,
                Err(_) => "no answer in time".to_owned(),
            };
            tracing::info!(room = hook.room, id = hook.id, attempt, problem, "webhook");
            if attempt == limits::WEBHOOK_TRIES {
                metrics::WEBHOOKS.counter(&["given_up"]).increment(1);
                break;
            }
            metrics::WEBHOOKS.counter(&["retried"]).increment(1);
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
}

/// The signature of a message: HMAC-SHA256 over its id, time and body.
fn signature(secret: &[u8], id: &str, timestamp: u64, body: &[u8]) -> String {
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    format!("v1,{}", BASE64_STANDARD.encode(mac.sign()))
}

async fn send(hook: &Webhook, outside: &Outside, id: &str, body: Bytes) -> Result<(), String> {
    let (uri, tls) = target(&hook.url, outside.local).map_err(|p| p.code().to_owned())?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let found = tokio::net::lookup_host((host, port)).await.map_err(|e| e.to_string())?;
    let allowed = |at: &SocketAddr| outside.local || is_public(at.ip());
    let address = found.into_iter().find(allowed).ok_or("the name leads to no public address")?;
    let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
    let timestamp = unix_s();
    let request = Request::post(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header("host", uri.authority().map_or(host, |authority| authority.as_str()))
        .header("content-type", "application/json")
        .header("user-agent", stentor_relay::start::AGENT)
        .header("webhook-id", id)
        .header("webhook-timestamp", timestamp)
        .header("webhook-signature", signature(&hook.secret, id, timestamp, &body))
        .body(Full::new(body))
        .map_err(|e| e.to_string())?;
    if !tls {
        return exchange(stream, request).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
    let connector = TlsConnector::from(Arc::clone(&outside.tls));
    exchange(connector.connect(name, stream).await.map_err(|e| e.to_string())?, request).await
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let opened = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = opened.map_err(|e| e.to_string())?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await;
    connection.abort();
    match answer {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => Err(format!("it answers {}", answer.status())),
        Err(error) => Err(error.to_string()),
    }
}

/// A webhook's URL, and whether it takes TLS.
fn target(url: &str, local: bool) -> Result<(Uri, bool), Problem> {
    let bad = |detail: &str| Problem::bad("bad_url", detail);
    let uri: Uri = url.parse().map_err(|_| bad("this is no URL"))?;
    let host = uri.host().ok_or_else(|| bad("the URL names no host"))?;
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(bad("a URL with a password is logged somewhere; leave it out"));
    }
    match uri.scheme_str() {
        Some("https") => Ok((uri, true)),
        Some("http") if local && matches!(host, "localhost" | "127.0.0.1" | "[::1]") => {
            Ok((uri, false))
        }
        _ => Err(bad("a webhook's URL begins with https://")),
    }
}

/// Whether an address is one of the public network: a webhook is not a way into the operator's own.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            !(address.is_private()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_broadcast()
                || first == 0
                || (first == 100 && (64..128).contains(&second)))
        }
        IpAddr::V6(address) => {
            !(address.is_loopback()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_unique_local()
                || address.is_unicast_link_local())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_signed_as_the_standard_says() {
        // The example of the Standard Webhooks specification.
        let secret = BASE64_STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        let signed = signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn only_public_https_is_told() {
        let ok = |url, local| target(url, local).is_ok();
        assert!(ok("https://example.org/hook?a=b", false));
        assert!(ok("http://localhost:99/", true) && !ok("http://localhost:99/", false));
        for bad in ["http://example.org/", "ftp://a", "https://", "https://a:b@example.org/", "x"] {
            assert!(!ok(bad, true), "{bad}");
        }
        for inside in ["10.0.0.1", "127.0.0.1", "169.254.169.254", "::1", "fd00::1", "fe80::1"] {
            assert!(!is_public(inside.parse().unwrap()), "{inside}");
        }
        assert!(is_public("192.0.32.10".parse().unwrap()));
    }
}
