//! The HTTP door as a page uses it: a TLS connection and a request for each who asks, from a thread on
//! the storm's own core.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use serde_json::json;
use stentor_relay::quic::config::client_tls;
use tokio::net::TcpSocket;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsConnector;

/// An answer takes this long at most.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of an answer at most.
const ANSWER_BYTES: usize = 64 * 1024;
/// Requests under way at once; further ones wait their turn, and their latency grows by it.
const AT_ONCE: usize = 256;

/// Somebody asks.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) visit: usize,
    pub(super) client_key: String,
    pub(super) ticket: Option<String>,
}

/// What the door answers.
#[derive(Clone, Debug)]
pub(super) enum Answered {
    /// To go to a relay.
    GoTo(GoTo),
    /// To wait: until when (milliseconds), at which place, with which ticket.
    Wait { retry_ms: u64, place: u64, ticket: Option<String> },
    /// No, by a problem's code.
    Refused(String),
    /// There was no answer.
    Silent,
}

/// Where to go, and with what.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct GoTo {
    pub(super) token: String,
    pub(super) relays: Vec<Place>,
    pub(super) ticket: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Place {
    pub(super) address: String,
}

#[derive(Deserialize)]
struct ComeAgain {
    waiting: InLine,
}

#[derive(Deserialize)]
struct InLine {
    ticket: Option<String>,
    place: u64,
    retry_ms: u64,
}

/// The HTTP door.
pub(super) struct HttpDoor {
    asked: Option<mpsc::UnboundedSender<Asked>>,
    answers: Receiver<(usize, Answered)>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl HttpDoor {
    pub(super) fn open(
        address: SocketAddr,
        room: &str,
        roots: rustls::RootCertStore,
    ) -> Result<Self> {
        let tls = TlsConnector::from(Arc::new(client_tls(roots, &[b"http/1.1"])?));
        let (asked, mut questions) = mpsc::unbounded_channel::<Asked>();
        let (answer, answers) = std::sync::mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let path: Arc<str> = format!("/v1/rooms/{room}/join").into();
        let serve = async move {
            let places = Arc::new(Semaphore::new(AT_ONCE));
            while let Some(question) = questions.recv().await {
                let Ok(place) = places.clone().acquire_owned().await else { return };
                let (tls, path, answer) = (tls.clone(), path.clone(), answer.clone());
                tokio::spawn(async move {
                    let visit = question.visit;
                    let asked =
                        tokio::time::timeout(ANSWER_WITHIN, ask(address, &tls, &path, question));
                    let answered = match asked.await {
                        Ok(Ok(answered)) => answered,
                        Ok(Err(_)) | Err(_) => Answered::Silent,
                    };
                    // A storm that is over wants no answer.
                    let _ = answer.send((visit, answered));
                    drop(place);
                });
            }
        };
        let thread = std::thread::Builder::new()
            .name("http-door".into())
            .spawn(move || runtime.block_on(serve))?;
        Ok(Self { asked: Some(asked), answers, thread: Some(thread) })
    }

    pub(super) fn ask(&self, question: Asked) {
        if let Some(asked) = &self.asked {
            // The thread lives as long as this does.
            let _ = asked.send(question);
        }
    }

    pub(super) fn answer(&self) -> Option<(usize, Answered)> {
        self.answers.try_recv().ok()
    }
}

impl Drop for HttpDoor {
    fn drop(&mut self) {
        drop(self.asked.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing more to say.
            let _ = thread.join();
        }
    }
}

async fn ask(
    address: SocketAddr,
    tls: &TlsConnector,
    path: &str,
    question: Asked,
) -> Result<Answered> {
    let socket = TcpSocket::new_v4()?;
    // The door counts by address, and people do not share one: each has its own of 127.0.0.0/8.
    let [_, b, c, d] = (question.visit as u32 + 2).to_be_bytes();
    socket.bind((Ipv4Addr::new(127, b | 0x40, c, d.max(1)), 0).into())?;
    let stream = socket.connect(address).await?;
    let name = ServerName::from(address.ip());
    let stream = tls.connect(name, stream).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let body = json!({ "client_key": question.client_key, "ticket": question.ticket });
    let request = Request::post(path)
        .header("host", address.to_string())
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())))?;
    let answer = sender.send_request(request).await?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await?.to_bytes();
    connection.abort();
    if body.len() > ANSWER_BYTES {
        bail!("an answer of {} bytes", body.len());
    }
    Ok(match status {
        200 => Answered::GoTo(serde_json::from_slice(&body)?),
        202 => {
            let ComeAgain { waiting } = serde_json::from_slice(&body)?;
            let InLine { ticket, place, retry_ms } = waiting;
            Answered::Wait { retry_ms, place, ticket }
        }
        _ => {
            let problem: serde_json::Value = serde_json::from_slice(&body)?;
            Answered::Refused(problem["code"].as_str().context("no code")?.to_owned())
        }
    })
}
