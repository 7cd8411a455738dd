//! A real browser: headless Chromium, driven through chromedriver (W3C WebDriver), and pages for it on
//! localhost, where a page may use WebTransport, WebCodecs and a microphone without HTTPS.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use fantoccini::wd::{Capabilities, TimeoutConfiguration};
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

/// The browser that is driven, unless `TESTS_CHROMIUM` names another.
const CHROMIUM: &str = "/usr/bin/chromium";
/// A script may take this long until its promise is settled.
const SCRIPT: Duration = Duration::from_secs(60);
/// The browser may take this long to go.
const FAREWELL: Duration = Duration::from_secs(5);
/// What each browser is started with: no window, no sandbox (tests may run as root), and no traffic
/// of its own.
const FLAGS: [&str; 8] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
];

/// A browser with a profile of its own. When it is dropped it is closed, in a test that fails, too.
#[derive(Debug)]
pub struct Browser {
    client: Client,
    driver: Driver,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts a browser, with `flags` beside its usual ones (`--use-fake-device-for-media-stream`, …).
    ///
    /// # Panics
    /// When chromedriver or Chromium is not installed or does not start.
    pub async fn start(flags: &[&str]) -> Self {
        let driver = Driver::start();
        let profile = tempfile::tempdir().unwrap();
        let own = format!("--user-data-dir={}", profile.path().display());
        let args: Vec<&str> = FLAGS.iter().chain(flags).copied().chain([own.as_str()]).collect();
        let binary = std::env::var("TESTS_CHROMIUM").unwrap_or_else(|_| CHROMIUM.to_owned());
        let mut wanted = Capabilities::new();
        wanted.insert("goog:chromeOptions".into(), json!({ "binary": binary, "args": args }));
        wanted.insert("goog:loggingPrefs".into(), json!({ "browser": "ALL" }));
        let address = format!("http://{}", driver.address);
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(wanted)
            .connect(&address)
            .await
            .unwrap_or_else(|error| panic!("chromedriver starts no browser: {error}"));
        let session = client.session_id().await.unwrap().expect("a session was just made");
        let timeouts = TimeoutConfiguration::new(Some(SCRIPT), Some(SCRIPT), None);
        client.update_timeouts(timeouts).await.unwrap();
        // Closed by `drop`, which does not hang on a runtime.
        client.persist().await.unwrap();
        Self { client, driver, session, _profile: profile }
    }

    /// The page: `goto`, `find`, `wait`, `set_window_size` and whatever else WebDriver knows.
    #[must_use]
    pub const fn page(&self) -> &Client {
        &self.client
    }

    /// Runs the body of an asynchronous function in the page, where `arguments` are `args`, and gives
    /// what it returns.
    ///
    /// # Panics
    /// With the script's error, and with what the page said on its console.
    pub async fn run(&self, body: &str, args: Vec<Value>) -> Value {
        let script = format!("return (async function () {{ {body} }}).apply(null, arguments);");
        match self.client.execute(&script, args).await {
            Ok(value) => value,
            Err(error) => panic!("{error}\nthe console: {:#}", self.console()),
        }
    }

    /// What the page has written to its console since the last call: a list of `level`, `message`.
    ///
    /// # Panics
    /// When the driver does not answer.
    #[must_use]
    pub fn console(&self) -> Value {
        let path = format!("/session/{}/se/log", self.session);
        let answer = self.driver.request("POST", &path, r#"{"type":"browser"}"#).unwrap();
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str::<Value>(body).map_or(Value::Null, |mut log| log["value"].take())
    }

    /// Keeps a picture of the page as `NAME.png` among the tests' artefacts.
    ///
    /// # Panics
    /// When it cannot be taken or written.
    pub async fn screenshot(&self, name: &str) -> PathBuf {
        let file = artefact(&format!("{name}.png"));
        std::fs::write(&file, self.client.screenshot().await.unwrap()).unwrap();
        file
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // A driver that is gone has taken its browser along.
        let _ = self.driver.request("DELETE", &format!("/session/{}", self.session), "");
    }
}

/// Where a test leaves what a person may look at: `artefacts` beside the folder of the programs.
///
/// # Panics
/// When the folder cannot be made.
#[must_use]
pub fn artefact(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let dir = own.ancestors().nth(3).unwrap().join("test-artefacts");
    std::fs::create_dir_all(&dir).unwrap();
    dir.join(name)
}

/// chromedriver, on a port of its choice.
#[derive(Debug)]
struct Driver {
    child: Child,
    /// Open as long as it runs: it may have more to say.
    _output: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Driver {
    fn start() -> Self {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap_or_else(|error| {
            panic!("chromedriver: {error}; install chromium and chromium-driver, or run ./test")
        });
        let mut output = BufReader::new(child.stdout.take().expect("its output is piped"));
        let port = loop {
            let mut line = String::new();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "chromedriver names no port");
            let said = line.trim_end().trim_end_matches('.');
            let port = said.strip_prefix("ChromeDriver was started successfully on port ");
            if let Some(port) = port.and_then(|port| port.parse().ok()) {
                break port;
            }
        };
        Self { child, _output: output, address: (Ipv4Addr::LOCALHOST, port).into() }
    }

    /// One request without a runtime: a test that fails has none left.
    fn request(&self, method: &str, path: &str, body: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(FAREWELL))?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // One that has ended cannot be ended again.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Files served on localhost, until this is dropped.
#[derive(Debug)]
pub struct Pages {
    address: SocketAddr,
    server: tokio::task::JoinHandle<()>,
}

impl Pages {
    /// Serves these files: a path such as `page/index.html`, and what is in it.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn serve<'a>(files: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> Self {
        let files: BTreeMap<String, Vec<u8>> =
            files.into_iter().map(|(path, bytes)| (path.to_owned(), bytes)).collect();
        let router = Router::new().route("/{*path}", axum::routing::get(file));
        let router = router.with_state(Arc::new(files));
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("it serves until it is aborted");
        });
        Self { address, server }
    }

    /// The address of a file: `http://localhost:PORT/PATH`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://localhost:{}/{path}", self.address.port())
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn file(
    State(files): State<Arc<BTreeMap<String, Vec<u8>>>>,
    UrlPath(path): UrlPath<String>,
) -> impl IntoResponse {
    let kind = match Path::new(&path).extension().and_then(|extension| extension.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    };
    let headers = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")];
    match files.get(&path) {
        Some(bytes) => (StatusCode::OK, headers, bytes.clone()),
        None => (StatusCode::NOT_FOUND, headers, Vec::new()),
    }
}
