//! Calls of an origin's HTTP API.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use stentor_client::session::client_crypto;
use stentor_proto::token::ANY_ROOM;
use stentor_proto::wire::Role;
use stentor_relay::exit::Error;
use tokio_rustls::TlsConnector;

use crate::credentials::Credentials;
use crate::ending::runtime;

/// How long one call may take.
const WITHIN: Duration = Duration::from_secs(20);
/// Bytes of an answer at most.
const ANSWER: usize = 16 * 1024 * 1024;

/// Which origin, and who asks.
#[derive(Clone, Debug, Args)]
pub(crate) struct ApiArgs {
    /// HOST:PORT of the origin's API (HTTPS)
    #[arg(long, value_name = "HOST:PORT", default_value = "localhost:4433", env = "STENTOR_API")]
    api: String,
    #[command(flatten)]
    credentials: Credentials,
}

impl ApiArgs {
    /// Makes one call and returns its answer.
    ///
    /// # Errors
    /// When the origin cannot be reached, or says no: in its own words.
    pub(crate) fn call(&self, method: Method, path: &str, body: &Value) -> Result<Value, Error> {
        let token = self.credentials.token(ANY_ROOM, Role::Host, "operator", None)?;
        let crypto = client_crypto(&self.credentials.trust()?).map_err(Error::runtime)?;
        let failed = |error: String| Error::Runtime(format!("{}: {error}", self.api));
        let call = self.ask(crypto, method, path, token.as_deref(), body);
        let answered = runtime()?.block_on(async { tokio::time::timeout(WITHIN, call).await });
        let (status, body) = answered
            .map_err(|_| failed(format!("no answer within {} s", WITHIN.as_secs())))?
            .map_err(failed)?;
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status.is_success() {
            return Ok(value);
        }
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        Err(failed(match text("code").as_str() {
            "" => format!("it answers {status}"),
            code => format!("{} ({code})", text("detail")),
        }))
    }

    async fn ask(
        &self,
        mut crypto: rustls::ClientConfig,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: &Value,
    ) -> Result<(hyper::StatusCode, Bytes), String> {
        let (host, _) = self.api.rsplit_once(':').ok_or("write --api HOST:PORT")?;
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
        let name = name.map_err(|error| error.to_string())?;
        let stream = tokio::net::TcpStream::connect(&self.api).await.map_err(|e| e.to_string())?;
        crypto.alpn_protocols = vec![b"http/1.1".to_vec()];
        let connector = TlsConnector::from(Arc::new(crypto));
        let stream = connector.connect(name, stream).await.map_err(|e| e.to_string())?;
        let opened = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = opened.map_err(|e| e.to_string())?;
        let connection = tokio::spawn(connection);
        let mut request =
            Request::builder().method(method).uri(path).header(header::HOST, &self.api);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = match body {
            Value::Null => Bytes::new(),
            body => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                body.to_string().into()
            }
        };
        let request = request.body(Full::new(body)).map_err(|e| e.to_string())?;
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER).collect().await;
        connection.abort();
        Ok((status, body.map_err(|e| e.to_string())?.to_bytes()))
    }
}
