//! A real browser: headless Chromium, driven through chromedriver (W3C WebDriver).

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use fantoccini::wd::{Capabilities, TimeoutConfiguration};
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

/// Where Debian's Chromium is.
pub const CHROMIUM: &str = "/usr/bin/chromium";
/// What a machine without a browser lacks.
const INSTALL: &str = "on Debian: apt install chromium chromium-driver";
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

/// A browser with a profile of its own. When it is dropped it is closed, also after a failure.
#[derive(Debug)]
pub struct Browser {
    client: Client,
    driver: Driver,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts the browser `chromium` with `flags` beside its usual ones
    /// (`--use-fake-device-for-media-stream`, …).
    ///
    /// # Errors
    /// When chromedriver or Chromium is not installed, with what to install, or does not start.
    pub async fn start(chromium: &Path, flags: &[&str]) -> Result<Self> {
        if !chromium.is_file() {
            bail!("there is no Chromium at {}; {INSTALL}", chromium.display());
        }
        let driver = Driver::start()?;
        let profile = tempfile::tempdir()?;
        let own = format!("--user-data-dir={}", profile.path().display());
        let args: Vec<&str> = FLAGS.iter().chain(flags).copied().chain([own.as_str()]).collect();
        let mut wanted = Capabilities::new();
        wanted.insert("goog:chromeOptions".into(), json!({ "binary": chromium, "args": args }));
        wanted.insert("goog:loggingPrefs".into(), json!({ "browser": "ALL" }));
        let address = format!("http://{}", driver.address);
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(wanted)
            .connect(&address)
            .await
            .context("chromedriver starts no browser")?;
        let session = client.session_id().await?.context("a session has a name")?;
        let timeouts = TimeoutConfiguration::new(Some(SCRIPT), Some(SCRIPT), None);
        client.update_timeouts(timeouts).await?;
        // Closed by `drop`, which does not hang on a runtime.
        client.persist().await?;
        Ok(Self { client, driver, session, _profile: profile })
    }

    /// The page: `goto`, `find`, `wait`, `set_window_size` and whatever else WebDriver knows.
    #[must_use]
    pub const fn page(&self) -> &Client {
        &self.client
    }

    /// Runs the body of an asynchronous function in the page, where `arguments` are `args`, and gives
    /// what it returns.
    ///
    /// # Errors
    /// The script's own, with what the page said on its console.
    pub async fn run(&self, body: &str, args: Vec<Value>) -> Result<Value> {
        let script = format!("return (async function () {{ {body} }}).apply(null, arguments);");
        match self.client.execute(&script, args).await {
            Ok(value) => Ok(value),
            Err(error) => bail!("{error}\nthe console: {:#}", self.console()?),
        }
    }

    /// What the page has written to its console since the last call: a list of `level`, `message`.
    ///
    /// # Errors
    /// When the driver does not answer.
    pub fn console(&self) -> Result<Value> {
        let path = format!("/session/{}/se/log", self.session);
        let answer = self.driver.request("POST", &path, r#"{"type":"browser"}"#)?;
        Ok(serde_json::from_slice::<Value>(&answer)?["value"].take())
    }

    /// A picture of the page (PNG).
    ///
    /// # Errors
    /// When it cannot be taken.
    pub async fn screenshot(&self) -> Result<Vec<u8>> {
        Ok(self.client.screenshot().await?)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // A driver that is gone has taken its browser along.
        let _ = self.driver.request("DELETE", &format!("/session/{}", self.session), "");
    }
}

/// chromedriver, on a port of its choice.
#[derive(Debug)]
struct Driver {
    child: Child,
    /// Open as long as it runs: it may have more to say.
    output: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Driver {
    fn start() -> Result<Self> {
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let started = command.spawn();
        let mut child =
            started.with_context(|| format!("chromedriver does not start; {INSTALL}"))?;
        let output = child.stdout.take().context("its output is piped")?;
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        let mut driver = Self { child, output: BufReader::new(output), address };
        let port = driver.port()?;
        driver.address.set_port(port);
        Ok(driver)
    }

    /// The port that it names once it serves.
    fn port(&mut self) -> Result<u16> {
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line)? == 0 {
                bail!("chromedriver ends without naming its port");
            }
            let said = line.trim_end().trim_end_matches('.');
            let port = said.strip_prefix("ChromeDriver was started successfully on port ");
            if let Some(port) = port.and_then(|port| port.parse().ok()) {
                return Ok(port);
            }
        }
    }

    /// The body of the answer to one request, without a runtime: whoever fails has none left.
    fn request(&self, method: &str, path: &str, body: &str) -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(FAREWELL))?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        // As long as its head says: chromedriver may keep the connection open.
        let mut answer = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            answer.read_line(&mut line)?;
            match line.trim_end().split_once(':') {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().map_err(std::io::Error::other)?;
                }
                None if line.trim_end().is_empty() => break,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        answer.read_exact(&mut body)?;
        Ok(body)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // One that has ended cannot be ended again.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
