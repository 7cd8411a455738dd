//! `stentor relay`: what an operator does to a running relay, by its admin listener.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Subcommand};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use stentor_relay::admin::DRAIN_HEADER;
use stentor_relay::exit::Error;

use crate::console::Meter;
use crate::ending::runtime;

const EXAMPLES: &str = "\
Examples:
  stentor relay drain --admin 127.0.2.1:9433
      its listeners go to other relays without missing a tick, its children get other parents,
      and it ends

Exit codes: 0 the relay has ended, 1 it could not be reached or has not ended in time.";

/// How long one request may take.
const WITHIN: Duration = Duration::from_secs(5);
/// How often the relay is asked who is left.
const EVERY: Duration = Duration::from_millis(250);
/// Bytes of an answer at most.
const ANSWER: usize = 16 * 1024 * 1024;

/// What to do with a relay.
#[derive(Debug, Subcommand)]
pub enum RelayCommand {
    /// Empty a relay and end it: nobody on it misses a tick
    #[command(after_help = EXAMPLES)]
    Drain(DrainArgs),
}

/// Which relay is drained.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// The relay's admin address
    #[arg(long, value_name = "ADDRESS")]
    admin: SocketAddr,
    /// Seconds to wait for its end
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,
}

/// Does it.
pub(crate) fn run(command: &RelayCommand) -> Result<(), Error> {
    let RelayCommand::Drain(args) = command;
    runtime()?.block_on(drain(args))
}

async fn drain(args: &DrainArgs) -> Result<(), Error> {
    let (status, body) = ask(args.admin, "POST", "/drain").await?;
    if status != StatusCode::ACCEPTED {
        let why = String::from_utf8_lossy(&body).trim().to_owned();
        return Err(Error::Runtime(format!("{}: POST /drain answers {status}: {why}", args.admin)));
    }
    let meter = Meter::start();
    let until = tokio::time::Instant::now() + Duration::from_secs(args.seconds);
    while tokio::time::Instant::now() < until {
        let body = match ask(args.admin, "GET", "/topology").await {
            Ok((_, body)) => body,
            // It has ended when nobody is there any more. A relay that answers late, or a path that is
            // cut, is no reason to switch it off.
            Err(_) if is_gone(args.admin).await => {
                meter.say(&format!("the relay at {} has ended", args.admin));
                return Ok(());
            }
            Err(error) => {
                meter.show(format!("draining: {error}"));
                tokio::time::sleep(EVERY).await;
                continue;
            }
        };
        let view: Value = serde_json::from_slice(&body).unwrap_or_default();
        let left = |what: &str| view[what].as_u64().unwrap_or_default();
        let (listeners, children) = (left("listeners"), left("children"));
        meter.show(format!("draining: {listeners} listeners and {children} child relays left"));
        tokio::time::sleep(EVERY).await;
    }
    Err(Error::Runtime(format!("the relay has not ended within {} s", args.seconds)))
}

/// Whether nothing listens at an admin address: the machine itself says so, and says so twice.
async fn is_gone(admin: SocketAddr) -> bool {
    for _ in 0..2 {
        let connecting = tokio::net::TcpStream::connect(admin);
        let Ok(Err(error)) = tokio::time::timeout(WITHIN, connecting).await else { return false };
        if error.kind() != std::io::ErrorKind::ConnectionRefused {
            return false;
        }
        tokio::time::sleep(EVERY).await;
    }
    true
}

/// One request to an admin listener: status and body.
async fn ask(admin: SocketAddr, method: &str, path: &str) -> Result<(StatusCode, Bytes), Error> {
    let failed = |error: String| Error::Runtime(format!("the admin address {admin}: {error}"));
    let asking = async {
        let stream = tokio::net::TcpStream::connect(admin).await.map_err(|e| e.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
                .await
                .map_err(|e| e.to_string())?;
        // It ends with the answer, and an error shows there.
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", admin.to_string())
            .header(DRAIN_HEADER, "1")
            .body(Empty::new())
            .map_err(|e| e.to_string())?;
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER).collect().await;
        let body = body.map_err(|e| e.to_string())?.to_bytes();
        connection.abort();
        Ok((status, body))
    };
    match tokio::time::timeout(WITHIN, asking).await {
        Ok(answer) => answer.map_err(failed),
        Err(_) => Err(failed(format!("no answer within {} s", WITHIN.as_secs()))),
    }
}
