//! The private admin listener: health, metrics and topology over HTTP/1.1.
//!
//! It is meant for the operator's own network and asks for no password. All that it changes is
//! whether the node drains, and that only for a request that no web page can make.
//! Connections, header bytes and time are bounded all the same.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::{
    Router,
    routing::{get, post},
};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};

use crate::metrics;

/// Connections at once; one scraper and a few people need a handful.
const CONNECTIONS: usize = 32;
/// Bytes of a request's head at most (hyper's least is 8 KiB).
const HEAD_BYTES: usize = 16 * 1024;
/// Header fields of a request at most.
const HEADERS: usize = 64;
/// A request's head has arrived by then.
const HEAD_TIME: Duration = Duration::from_secs(5);
/// A connection is closed by then, whatever it is doing.
const CONNECTION_TIME: Duration = Duration::from_secs(30);
/// After a failed accept (descriptors exhausted), wait that long instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the admin listener shows; the node keeps it up to date.
#[derive(Debug)]
pub struct AdminState {
    starting: AtomicBool,
    draining: AtomicBool,
    no_parent: AtomicBool,
    full: AtomicBool,
    topology: ArcSwap<serde_json::Value>,
    /// A part of `/metrics`.
    audience: ArcSwap<String>,
    drain: Notify,
}

impl Default for AdminState {
    /// Starting, with a parent, not full: an origin needs no parent, a relay says that it has
    /// none yet.
    fn default() -> Self {
        Self {
            starting: AtomicBool::new(true),
            draining: AtomicBool::new(false),
            no_parent: AtomicBool::new(false),
            full: AtomicBool::new(false),
            topology: ArcSwap::from_pointee(serde_json::json!({})),
            audience: ArcSwap::from_pointee(String::new()),
            drain: Notify::new(),
        }
    }
}

impl AdminState {
    /// The node serves sessions.
    pub fn set_started(&self) {
        self.set(&self.starting, false);
    }

    /// The node is being emptied.
    pub fn set_draining(&self) {
        self.set(&self.draining, true);
    }

    /// Waits until somebody asks for a drain by `POST /drain`.
    pub async fn drain_asked(&self) {
        self.drain.notified().await;
    }

    /// Whether the node has a parent whose feed is alive.
    pub fn set_has_parent(&self, has: bool) {
        self.set(&self.no_parent, !has);
    }

    /// Whether the node has no place left.
    pub fn set_full(&self, full: bool) {
        self.set(&self.full, full);
    }

    /// What `/topology` answers.
    pub fn set_topology(&self, topology: serde_json::Value) {
        self.topology.store(Arc::new(topology));
    }

    /// What `/metrics` says of the rooms' audiences.
    pub fn set_audience(&self, text: String) {
        self.audience.store(Arc::new(text));
    }

    /// Why new sessions should go elsewhere; empty when the node is ready.
    #[must_use]
    pub fn not_ready(&self) -> Vec<&'static str> {
        [
            (&self.starting, "starting"),
            (&self.draining, "draining"),
            (&self.no_parent, "no parent"),
            (&self.full, "full"),
        ]
        .into_iter()
        .filter_map(|(flag, why)| flag.load(Ordering::Relaxed).then_some(why))
        .collect()
    }

    fn set(&self, flag: &AtomicBool, value: bool) {
        if flag.swap(value, Ordering::Relaxed) != value {
            let why = self.not_ready();
            metrics::READY.gauge(&[]).set(f64::from(u8::from(why.is_empty())));
            tracing::info!(ready = why.is_empty(), why = why.join(", "), "readiness");
        }
    }
}

/// Binds the admin listener.
///
/// # Errors
/// When the address is taken or not this machine's.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves the admin listener for ever.
pub async fn serve(
    listener: TcpListener,
    state: Arc<AdminState>,
    metrics: PrometheusHandle,
) -> Infallible {
    let mut router = router(state, metrics);
    if listener.local_addr().is_ok_and(|address| address.ip().is_loopback()) {
        router = router.layer(from_fn(by_a_local_name));
    }
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed; a connection beyond the bound waits in the backlog.
        let place = Arc::clone(&places).acquire_owned().await;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "admin: a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let router = router.clone();
        tokio::spawn(async move {
            let _place = place;
            connection(stream, router).await;
        });
    }
}

async fn connection(stream: TcpStream, router: Router) {
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let ended = tokio::time::timeout(CONNECTION_TIME, serving).await;
    if let Ok(Err(error)) = ended {
        tracing::debug!(%error, "admin: a connection broke");
    }
}

fn router(state: Arc<AdminState>, metrics: PrometheusHandle) -> Router {
    let render = move |State(state): State<Arc<AdminState>>| async move {
        metrics.run_upkeep();
        let kind = "text/plain; version=0.0.4; charset=utf-8";
        ([(header::CONTENT_TYPE, kind)], metrics.render() + state.audience.load().as_str())
    };
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/topology", get(topology))
        .route("/drain", post(drain))
        .route("/metrics", get(render))
        .layer(from_fn(count))
        .with_state(state)
}

async fn ready(State(state): State<Arc<AdminState>>) -> Response {
    let why = state.not_ready();
    if why.is_empty() {
        return "ready\n".into_response();
    }
    let body = why.join(", ") + "\n";
    (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
}

/// The header that a drain must carry: a page in a browser of the operator's network cannot set it
/// for another origin (Fetch standard, CORS-safelisted request headers).
pub const DRAIN_HEADER: &str = "stentor-drain";

async fn drain(State(state): State<Arc<AdminState>>, headers: HeaderMap) -> Response {
    if !headers.contains_key(DRAIN_HEADER) {
        let body = format!("the header {DRAIN_HEADER} is missing\n");
        return (StatusCode::FORBIDDEN, body).into_response();
    }
    state.set_draining();
    state.drain.notify_one();
    (StatusCode::ACCEPTED, "draining\n").into_response()
}

async fn topology(State(state): State<Arc<AdminState>>) -> impl IntoResponse {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (kind, state.topology.load().to_string())
}

/// A listener on this machine's own address is called by such a name. A web page whose name was made to
/// lead here (DNS rebinding) would otherwise read what is shown, and could drain.
async fn by_a_local_name(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).map(|host| host.to_str().unwrap_or_default());
    if host.is_none_or(is_local) {
        return next.run(request).await;
    }
    (StatusCode::MISDIRECTED_REQUEST, "ask for localhost or its address\n").into_response()
}

/// `localhost`, `127.0.0.1`, `[::1]`, with or without a port.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

async fn count(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = match response.status().as_u16() {
        200..=299 => "2xx",
        400..=499 => "4xx",
        _ => "5xx",
    };
    metrics::ADMIN_REQUESTS.counter(&[status]).increment(1);
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn start() -> (SocketAddr, Arc<AdminState>) {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(AdminState::default());
        tokio::spawn(serve(listener, Arc::clone(&state), metrics::install().unwrap()));
        (address, state)
    }

    async fn send(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A refused request may end in a reset behind the answer.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let close = "host: localhost:9433\r\nconnection: close";
        send(address, &format!("GET {path} HTTP/1.1\r\n{close}\r\n\r\n")).await
    }

    #[tokio::test]
    async fn readiness_says_why() {
        let (address, state) = start().await;
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nstarting\n"), "{answer}");
        state.set_started();
        let answer = get(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ready\n"), "{answer}");
        state.set_has_parent(false);
        state.set_full(true);
        state.set_draining();
        let answer = get(address, "/readyz").await;
        assert!(answer.ends_with("\r\n\r\ndraining, no parent, full\n"), "{answer}");
        state.set_has_parent(true);
        state.set_full(false);
        assert!(get(address, "/readyz").await.ends_with("\r\n\r\ndraining\n"));
    }

    #[tokio::test]
    async fn metrics_and_topology_are_shown() {
        let (address, state) = start().await;
        state.set_topology(serde_json::json!({"relay": "a", "parents": ["b"]}));
        let answer = get(address, "/topology").await;
        assert!(answer.contains("application/json"), "{answer}");
        assert!(answer.ends_with(r#"{"parents":["b"],"relay":"a"}"#), "{answer}");
        metrics::DROPS.counter(&["stale"]).increment(3);
        let answer = get(address, "/metrics").await;
        assert!(answer.contains("stentor_drops_total{cause=\"stale\"} 3"), "{answer}");
        assert!(get(address, "/nothing").await.starts_with("HTTP/1.1 404"));
        let answer = get(address, "/metrics").await;
        assert!(answer.contains("stentor_admin_requests_total{status=\"4xx\"}"), "{answer}");
    }

    #[tokio::test]
    async fn a_page_whose_name_leads_here_reads_nothing() {
        let (address, _state) = start().await;
        let ask = async |host: &str| {
            let head =
                format!("GET /topology HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
            send(address, &head).await
        };
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1:9433", "127.8.8.8", "[::1]", "[::1]:1"]
        {
            assert!(ask(host).await.starts_with("HTTP/1.1 200"), "{host}");
        }
        for host in ["evil.example", "evil.example:9433", "localhost.evil.example", "192.0.2.1", ""]
        {
            assert!(ask(host).await.starts_with("HTTP/1.1 421"), "{host}");
        }
    }

    #[tokio::test]
    async fn large_heads_are_refused_and_connections_bounded() {
        let (address, _state) = start().await;
        let long = format!("GET /livez HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(2 * HEAD_BYTES));
        assert!(!send(address, &long).await.starts_with("HTTP/1.1 200"));
        let many = format!("GET /livez HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(HEADERS + 1));
        assert!(!send(address, &many).await.starts_with("HTTP/1.1 200"));

        let mut held = Vec::new();
        for _ in 0..CONNECTIONS {
            held.push(TcpStream::connect(address).await.unwrap());
        }
        let waits = tokio::time::timeout(Duration::from_millis(200), get(address, "/livez"));
        assert!(waits.await.is_err(), "one more than the bound waits");
        held.clear();
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
    }
}
