//! Firefox for tests, driven by WebDriver BiDi over a WebSocket: it needs no driver beside it.
//!
//! Firefox plays nothing without a loudspeaker, so a PulseAudio of its own stands for one.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use crate::Process;

/// Where Debian's and Mozilla's packages put it; `TESTS_FIREFOX` names another.
const PLACES: [&str; 2] = ["/usr/bin/firefox-esr", "/usr/bin/firefox"];
/// The loudspeaker.
const PULSE: &str = "/usr/bin/pulseaudio";
/// A page of sound without a click, microphones that play a tone, and no traffic of the browser's own.
const PREFS: [(&str, &str); 11] = [
    ("media.autoplay.default", "0"),
    ("media.navigator.streams.fake", "true"),
    ("media.navigator.permission.disabled", "true"),
    ("app.update.enabled", "false"),
    ("app.normandy.enabled", "false"),
    ("browser.safebrowsing.update.enabled", "false"),
    ("browser.shell.checkDefaultBrowser", "false"),
    ("datareporting.policy.dataSubmissionEnabled", "false"),
    ("extensions.update.enabled", "false"),
    ("network.captive-portal-service.enabled", "false"),
    ("toolkit.telemetry.enabled", "false"),
];
/// A busy machine's Firefox takes its time to start.
const START: Duration = Duration::from_secs(60);
/// An answer may take as long as a script's promise.
const ANSWER: Duration = Duration::from_secs(60);

/// A Firefox without a window, with a profile of its own. It is killed when this is dropped.
#[derive(Debug)]
pub struct Firefox {
    wire: Mutex<Wire>,
    _browser: Process,
    _pulse: Process,
    _profile: tempfile::TempDir,
}

#[derive(Debug)]
struct Wire {
    socket: WebSocket<TcpStream>,
    calls: u64,
    /// What pages have written to their consoles as an error: the page, the text.
    errors: Vec<(String, String)>,
}

impl Firefox {
    /// What is not installed that these tests need, as a sentence; none where all is there.
    #[must_use]
    pub fn lack() -> Option<String> {
        let browser = binary().is_none().then_some("firefox-esr");
        let sound = (!Path::new(PULSE).is_file()).then_some("pulseaudio");
        let lack: Vec<&str> = browser.into_iter().chain(sound).collect();
        (!lack.is_empty()).then(|| format!("{} is not installed", lack.join(" and ")))
    }

    /// Starts it, with a fake microphone that plays a tone of this frequency.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    #[must_use]
    pub fn start(microphone_hz: u32) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut prefs: String = PREFS
            .iter()
            .map(|(name, value)| format!("user_pref(\"{name}\", {value});\n"))
            .collect();
        let tone = "media.navigator.audio.fake_frequency";
        prefs.push_str(&format!("user_pref(\"{tone}\", {microphone_hz});\n"));
        std::fs::write(profile.path().join("user.js"), prefs).unwrap();
        let server = profile.path().join("loudspeaker");
        let pulse = Process::start(&mut loudspeaker(profile.path(), &server));
        let until = Instant::now() + START;
        while !server.exists() {
            assert!(Instant::now() < until, "pulseaudio does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut command = Command::new(binary().expect("Firefox is not installed"));
        command.args(["--headless", "--no-remote", "--remote-debugging-port", "0", "--profile"]);
        command.arg(profile.path()).arg("about:blank");
        command.env("PULSE_SERVER", format!("unix:{}", server.display()));
        command.env("HOME", profile.path()).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let address = address(&mut child);
        let browser = Process::from(child);
        let stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(ANSWER)).unwrap();
        let (socket, _) = tungstenite::client(format!("ws://{address}/session"), stream).unwrap();
        let wire = Mutex::new(Wire { socket, calls: 0, errors: Vec::new() });
        let firefox = Self { wire, _browser: browser, _pulse: pulse, _profile: profile };
        firefox.call("session.new", &json!({"capabilities": {}}));
        firefox.call("session.subscribe", &json!({"events": ["log.entryAdded"]}));
        firefox
    }

    /// A command of WebDriver BiDi; what it results in.
    ///
    /// # Panics
    /// When Firefox refuses it or does not answer.
    pub fn call(&self, method: &str, params: &Value) -> Value {
        let mut wire = self.wire.lock().unwrap_or_else(PoisonError::into_inner);
        wire.calls += 1;
        let id = wire.calls;
        let command = json!({"id": id, "method": method, "params": params});
        wire.socket.send(Message::text(command.to_string())).unwrap();
        loop {
            let Message::Text(text) = wire.socket.read().unwrap() else { continue };
            let mut said: Value = serde_json::from_str(&text).unwrap();
            if said["id"] == id {
                assert_eq!(said["type"], "success", "{method}: {said:#}");
                return said["result"].take();
            }
            let entry = &said["params"];
            if said["method"] == "log.entryAdded" && entry["level"] == "error" {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let error = (text(&entry["source"]["context"]), text(&entry["text"]));
                wire.errors.push(error);
            }
        }
    }

    /// A window that shares nothing with the others, as another browser: its name.
    ///
    /// # Panics
    /// When Firefox opens none.
    #[must_use]
    pub fn window(&self) -> String {
        let own = self.call("browser.createUserContext", &json!({}));
        let wanted = json!({"type": "window", "userContext": own["userContext"]});
        let made = self.call("browsingContext.create", &wanted);
        made["context"].as_str().unwrap().to_owned()
    }

    /// Goes to a page.
    ///
    /// # Panics
    /// When it does not come.
    pub fn open(&self, window: &str, url: &str) {
        let params = json!({"context": window, "url": url, "wait": "complete"});
        self.call("browsingContext.navigate", &params);
    }

    /// Runs the body of an asynchronous function in the page as if somebody had just clicked, where
    /// `arguments` are `args`, and gives what it returns.
    ///
    /// # Panics
    /// With the script's error.
    pub fn run(&self, window: &str, body: &str, args: &[Value]) -> Value {
        let function = format!(
            "async (text) => JSON.stringify(await (async function () {{ {body} }})
                .apply(null, JSON.parse(text)) ?? null)"
        );
        let said = self.call(
            "script.callFunction",
            &json!({
                "functionDeclaration": function, "awaitPromise": true, "userActivation": true,
                "target": {"context": window},
                "arguments": [{"type": "string", "value": Value::from(args).to_string()}],
            }),
        );
        let result = &said["result"]["value"];
        let text = result.as_str().unwrap_or_else(|| panic!("{body}: {said:#}"));
        serde_json::from_str(text).unwrap()
    }

    /// The page at a width and a height; without them at the window's own.
    pub fn resize(&self, window: &str, size: Option<(u32, u32)>) {
        let viewport = size.map(|(width, height)| json!({"width": width, "height": height}));
        self.call("browsingContext.setViewport", &json!({"context": window, "viewport": viewport}));
    }

    /// A picture of the page as it is shown (PNG).
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn picture(&self, window: &str) -> Vec<u8> {
        let shot = self.call("browsingContext.captureScreenshot", &json!({"context": window}));
        STANDARD.decode(shot["data"].as_str().unwrap()).unwrap()
    }

    /// Errors on the page's console since the last call.
    #[must_use]
    pub fn errors(&self, window: &str) -> Vec<String> {
        // Whatever was written before is told before the answer.
        self.call("session.status", &json!({}));
        let mut wire = self.wire.lock().unwrap_or_else(PoisonError::into_inner);
        let (own, others) = wire.errors.drain(..).partition(|(page, _)| page == window);
        wire.errors = others;
        let own: Vec<(String, String)> = own;
        own.into_iter().map(|(_, text)| text).collect()
    }
}

fn binary() -> Option<std::path::PathBuf> {
    let named = std::env::var_os("TESTS_FIREFOX").map(std::path::PathBuf::from);
    let known = PLACES.iter().map(std::path::PathBuf::from);
    named.into_iter().chain(known).find(|path| path.is_file())
}

/// A PulseAudio that plays into nothing, for whoever knows its socket.
fn loudspeaker(home: &Path, server: &Path) -> Command {
    let mut command = Command::new(PULSE);
    command.args(["-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1"]);
    command.args(["--disable-shm=yes", "--log-level=error", "--load=module-null-sink"]);
    let socket = format!("socket={} auth-anonymous=1", server.display());
    command.arg(format!("--load=module-native-protocol-unix {socket}"));
    command.env("HOME", home).env("XDG_RUNTIME_DIR", home);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Where it listens, as it says when it has started; what it says further is not wanted.
fn address(child: &mut Child) -> String {
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let said = "WebDriver BiDi listening on ws://";
    let line = lines.by_ref().map_while(Result::ok).find(|line| line.starts_with(said));
    let line = line.unwrap_or_else(|| panic!("Firefox ends without naming its port"));
    std::thread::spawn(move || lines.for_each(drop));
    line[said.len()..].trim().to_owned()
}
