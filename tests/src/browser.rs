//! A real browser for tests, and pages for it on localhost, where a page may use WebTransport,
//! WebCodecs and a microphone without HTTPS.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use fantoccini::Client;
use serde_json::Value;
use stentor_lab::browser::{self, CHROMIUM};

/// A browser with a profile of its own, whose failures are the test's. When it is dropped it is closed,
/// in a test that fails, too.
#[derive(Debug)]
pub struct Browser(browser::Browser);

impl Browser {
    /// Starts a browser, with `flags` beside its usual ones (`--use-fake-device-for-media-stream`, …).
    /// It is Debian's Chromium, unless `TESTS_CHROMIUM` names another.
    ///
    /// # Panics
    /// When chromedriver or Chromium is not installed or does not start.
    pub async fn start(flags: &[&str]) -> Self {
        let binary =
            std::env::var_os("TESTS_CHROMIUM").map_or_else(|| CHROMIUM.into(), PathBuf::from);
        Self(browser::Browser::start(&binary, flags).await.unwrap_or_else(|e| panic!("{e:#}")))
    }

    /// The page: `goto`, `find`, `wait`, `set_window_size` and whatever else WebDriver knows.
    #[must_use]
    pub const fn page(&self) -> &Client {
        self.0.page()
    }

    /// Runs the body of an asynchronous function in the page, where `arguments` are `args`, and gives
    /// what it returns.
    ///
    /// # Panics
    /// With the script's error, and with what the page said on its console.
    pub async fn run(&self, body: &str, args: Vec<Value>) -> Value {
        self.0.run(body, args).await.unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// What the page has written to its console since the last call: a list of `level`, `message`.
    ///
    /// # Panics
    /// When the driver does not answer.
    #[must_use]
    pub fn console(&self) -> Value {
        self.0.console().unwrap()
    }

    /// Keeps a picture of the page as `NAME.png` among the tests' artefacts.
    ///
    /// # Panics
    /// When it cannot be taken or written.
    pub async fn screenshot(&self, name: &str) -> PathBuf {
        let file = artefact(&format!("{name}.png"));
        std::fs::write(&file, self.0.screenshot().await.unwrap()).unwrap();
        file
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
