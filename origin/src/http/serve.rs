//! Connections of the public listener: TLS by the certificate in force, HTTP/1.1, bounded in
//! number, time and size. In development mode plain HTTP is spoken too, on this machine's own
//! addresses and on the same port: the first byte of a connection tells the two apart.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use stentor_proto::limits;
use stentor_relay::metrics;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

/// The first byte of a TLS connection: a handshake record (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// After a failed accept (descriptors exhausted), wait that long instead of spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The public listener.
pub(super) struct Listener {
    /// Bound already.
    pub(super) socket: TcpListener,
    /// The certificate in force.
    pub(super) tls: watch::Receiver<Arc<ServerConfig>>,
    /// Whether plain HTTP is spoken on this machine's own addresses.
    pub(super) plain: bool,
}

impl Listener {
    /// Serves for ever.
    pub(super) async fn serve(self, router: Router) -> Infallible {
        let places = Arc::new(Semaphore::new(limits::HTTP_CONNECTIONS));
        loop {
            // The semaphore is never closed; a connection beyond the bound waits in the backlog.
            let place = Arc::clone(&places).acquire_owned().await;
            let (stream, peer) = match self.socket.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "http: a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let router = router.clone();
            let plain = self.plain && is_local(&stream, peer);
            let tls = TlsAcceptor::from(for_http(&self.tls.borrow()));
            tokio::spawn(async move {
                let _place = place;
                connection(stream, peer, plain, tls, router).await;
            });
        }
    }
}

/// The node's TLS with HTTP's protocol name in the place of QUIC's.
fn for_http(config: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

fn is_local(stream: &TcpStream, peer: SocketAddr) -> bool {
    let own = stream.local_addr().is_ok_and(|own| own.ip().to_canonical().is_loopback());
    own && peer.ip().to_canonical().is_loopback()
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    plain: bool,
    tls: TlsAcceptor,
    router: Router,
) {
    let opening = async {
        let mut first = [0];
        let read = stream.peek(&mut first).await;
        if plain && matches!(read, Ok(1)) && first[0] != TLS_HANDSHAKE {
            return Ok(Opened::Plain(stream));
        }
        tls.accept(stream).await.map(|stream| Opened::Tls(Box::new(stream)))
    };
    match tokio::time::timeout(limits::HTTP_HEAD_TIME, opening).await {
        Ok(Ok(Opened::Plain(stream))) => http(stream, peer, router).await,
        Ok(Ok(Opened::Tls(stream))) => http(*stream, peer, router).await,
        Ok(Err(error)) => {
            metrics::HTTP_CONNECTIONS.counter(&["tls_failed"]).increment(1);
            tracing::debug!(%error, "http: no TLS");
        }
        Err(_) => metrics::HTTP_CONNECTIONS.counter(&["slow"]).increment(1),
    }
}

enum Opened {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

async fn http<S>(stream: S, peer: SocketAddr, router: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    metrics::HTTP_CONNECTIONS.counter(&["served"]).increment(1);
    let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let router = router.clone();
        async move {
            use tower::ServiceExt as _;
            router.oneshot(request.map(axum::body::Body::new)).await
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HTTP_HEAD_TIME)
        .max_buf_size(limits::HTTP_HEAD_BYTES)
        .max_headers(limits::HTTP_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let ended = tokio::time::timeout(limits::HTTP_CONNECTION_TIME, serving).await;
    if let Ok(Err(error)) = ended {
        tracing::debug!(%error, "http: a connection broke");
    }
}
