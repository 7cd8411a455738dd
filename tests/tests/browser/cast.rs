//! People in real browsers, in a room of a real tree.

use std::f32::consts::TAU;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fantoccini::wd::{WebDriverCompatibleCommand, WindowHandle};
use fantoccini::{Client, Locator};
use serde_json::{Value, json};
use stentor_client::audio::{BLOCK, Format, Sink};
use stentor_tests::browser::{Browser, artefact};
use stentor_tests::{Process, Tree};

/// Whatever is waited for may take ten times as long as it should, on a machine that is busy.
pub(super) const WITHIN: Duration = Duration::from_secs(40);
/// Between two looks at a page.
const LOOK: Duration = Duration::from_millis(100);
/// Samples a second.
const RATE: f32 = 48_000.0;
/// The width and height of a phone's screen, and of a desktop's window.
const PHONE: (u32, u32) = (390, 844);
const DESKTOP: (u32, u32) = (1280, 900);
/// Makes a room by the API: its name.
const MAKE: &str = "const [key, title] = arguments;
    const answer = await fetch('/v1/rooms', {
        method: 'POST', body: JSON.stringify({ title, topic: title, public: true }),
        headers: { Authorization: `Bearer ${key}`, 'Content-Type': 'application/json' },
    });
    return (await answer.json()).room ?? `${answer.status}`;";
const EAR: &str = include_str!("ear.js");

/// A name that no page may ask for is not found; so a request to anybody else shows on the console.
pub(super) const ALONE: &str =
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1";

/// A tree whose first rooms are made by its API.
pub(super) struct Scene {
    pub(super) tree: Tree,
}

impl Scene {
    /// An origin and `relays` below it.
    pub(super) fn start(relays: usize) -> Self {
        let levels = std::iter::repeat_n(1, relays);
        // A room that has ended stays so, whoever comes back to it.
        Self { tree: Tree::of_levels(levels, &["--rooms-on-first-use=false"]) }
    }

    /// A page of the origin.
    pub(super) fn url(&self, path: &str) -> String {
        format!("http://localhost:{}{path}", self.tree.origin.port())
    }

    /// The key with which rooms are made.
    pub(super) fn api_key(&self) -> String {
        self.token("*", "host", "operator")
    }

    /// A token, as an operator makes it.
    pub(super) fn token(&self, room: &str, role: &str, identity: &str) -> String {
        let mut token = self.tree.stentor("token");
        token.args(["--room", room, "--role", role, "--identity", identity]);
        let output = Process::start(&mut token).output();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Somebody who speaks without a browser: a tone of this frequency.
    pub(super) fn speaker(&self, room: &str, identity: &str, hertz: f32) -> Process {
        let token = self.tree.dir.path().join(format!("{identity}.token"));
        std::fs::write(&token, self.token(room, "speaker", identity)).unwrap();
        let mut speak = self.tree.stentor("speak");
        speak.arg(format!("--token-file={}", token.display()));
        speak.args([&self.tree.origin.to_string(), room]).arg(self.tone(hertz, 120));
        Process::start(&mut speak)
    }

    /// A WAV file with a tone that swells and fades as syllables do, for suppressors of noise take an
    /// even one for noise.
    pub(super) fn tone(&self, hertz: f32, seconds: usize) -> PathBuf {
        let path = self.tree.dir.path().join(format!("tone-{hertz}.wav"));
        let mut sink = Sink::create(&path, Format::Wav).unwrap();
        let mut block = [0.0; BLOCK];
        for at in 0..seconds * 50 {
            for (i, sample) in block.iter_mut().enumerate() {
                #[allow(clippy::cast_precision_loss, reason = "a minute's samples fit")]
                let t = (at * BLOCK + i) as f32 / RATE;
                let swell = 0.55 - 0.45 * (TAU * 4.0 * t).cos();
                *sample = 0.4 * swell * (TAU * hertz * t).sin();
            }
            sink.write(&block).unwrap();
        }
        sink.finish().unwrap();
        path
    }
}

/// Somebody at a page: a window of a browser.
pub(super) struct Person<'a> {
    pub(super) name: &'static str,
    browser: &'a Browser,
    window: WindowHandle,
}

impl<'a> Person<'a> {
    /// At the browser's first window.
    pub(super) async fn first(name: &'static str, browser: &'a Browser) -> Self {
        let window = browser.page().window().await.unwrap();
        Self { name, browser, window }
    }

    /// At a new window of the browser.
    pub(super) async fn another(name: &'static str, browser: &'a Browser) -> Self {
        let window = browser.page().new_window(false).await.unwrap().handle;
        Self { name, browser, window }
    }

    /// The browser, with this person's window in front.
    pub(super) async fn page(&self) -> &'a Client {
        let page = self.browser.page();
        page.switch_to_window(self.window.clone()).await.unwrap();
        page
    }

    pub(super) async fn open(&self, url: &str) {
        self.page().await.goto(url).await.unwrap();
    }

    /// The value of an expression in the page.
    pub(super) async fn get(&self, expression: &str) -> Value {
        self.run(&format!("return {expression};"), vec![]).await
    }

    pub(super) async fn run(&self, body: &str, arguments: Vec<Value>) -> Value {
        self.page().await;
        self.browser.run(body, arguments).await
    }

    /// Waits until an expression in the page is true.
    pub(super) async fn wait(&self, what: &str, condition: &str) {
        let until = Instant::now() + WITHIN;
        while self.get(&format!("Boolean({condition})")).await != json!(true) {
            if Instant::now() > until {
                self.picture("failed", PHONE).await;
                let text = self.get("document.body.innerText").await;
                let console = self.console().await;
                panic!(
                    "{}: {what} does not come; the page: {text}; the console: {console:#}",
                    self.name
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until the page says this.
    pub(super) async fn wait_text(&self, text: &str) {
        let shown = format!("document.body.innerText.includes({})", json!(text));
        self.wait(&format!("\"{text}\""), &shown).await;
    }

    /// Clicks the button or link of this label.
    pub(super) async fn click(&self, label: &str) {
        self.click_in("", label).await;
    }

    /// Clicks that button in the row of this person.
    pub(super) async fn click_at(&self, who: &str, label: &str) {
        self.click_in(&format!("//li[.//*[normalize-space(.)='{who}']]"), label).await;
    }

    async fn click_in(&self, row: &str, label: &str) {
        let named = format!("normalize-space(.)='{label}' or @aria-label='{label}'");
        let path = format!("{row}//*[self::button or self::a or self::summary][{named}]");
        let page = self.page().await;
        let until = Instant::now() + WITHIN;
        loop {
            for element in page.find_all(Locator::XPath(&path)).await.unwrap() {
                if element.is_displayed().await.unwrap_or(false) && element.click().await.is_ok() {
                    return;
                }
            }
            if Instant::now() > until {
                self.picture("failed", PHONE).await;
                panic!(
                    "{}: no button {label}: {}",
                    self.name,
                    self.get("document.body.innerText").await
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(super) async fn fill(&self, selector: &str, text: &str) {
        let page = self.page().await;
        let field = page.wait().at_most(WITHIN).for_element(Locator::Css(selector)).await.unwrap();
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// Makes a public room by the API, from a page of the origin: its name, or the status of a refusal.
    pub(super) async fn make_room(&self, scene: &Scene, title: &str) -> String {
        let made = self.run(MAKE, vec![json!(scene.api_key()), json!(title)]).await;
        made.as_str().unwrap().to_owned()
    }

    /// Presses Listen and waits until the session is there.
    pub(super) async fn listen(&self) {
        self.click("Listen").await;
        self.wait("a session", "stentor.visitor.model.state.phase === 'live'").await;
        self.run(EAR, vec![]).await;
    }

    /// The relay that serves the page.
    pub(super) async fn relay(&self) -> String {
        let relay = self.get("stentor.visitor.model.me?.relay ?? ''").await;
        relay.as_str().unwrap().to_owned()
    }

    /// Waits until a tone of this frequency is what is played.
    pub(super) async fn hears(&self, hertz: f32) {
        // Speech codecs at 24 kbit/s leave a tone where it is, within a bin or two of 1.5 Hz.
        let tone = format!("(h => h.level > -45 && Math.abs(h.hertz - {hertz}) < 8)(hear())");
        self.wait(&format!("a tone of {hertz} Hz"), &tone).await;
    }

    /// Waits until nothing is played.
    pub(super) async fn hears_nothing(&self) {
        self.wait("silence", "hear().level < -70").await;
    }

    /// Pictures of the page at a phone's and a desktop's width, light and dark, and a look at what is
    /// wrong with it for those who do not see it.
    pub(super) async fn pictures(&self, state: &str) {
        for (kind, size) in [("phone", PHONE), ("desktop", DESKTOP)] {
            let overflow = self.picture(&format!("{state}-{kind}"), size).await;
            assert!(overflow <= 0, "{}: {state} is {overflow} px wider than a {kind}", self.name);
        }
        self.is_accessible(state).await;
        self.dark(true).await;
        self.picture(&format!("{state}-dark"), PHONE).await;
        self.dark(false).await;
        self.cdp("Emulation.clearDeviceMetricsOverride", json!({})).await;
    }

    /// What axe finds of contrast, light on dark.
    pub(super) async fn is_accessible_in_the_dark(&self, state: &str) {
        self.dark(true).await;
        self.is_accessible(state).await;
        self.dark(false).await;
    }

    async fn dark(&self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
        self.cdp("Emulation.setEmulatedMedia", media).await;
    }

    /// Asserts that axe finds nothing wrong with names, roles, contrast, order and labels.
    async fn is_accessible(&self, state: &str) {
        if self.get("typeof axe").await == "undefined" {
            let path =
                concat!(env!("CARGO_MANIFEST_DIR"), "/page/node_modules/axe-core/axe.min.js");
            let axe = std::fs::read_to_string(path).unwrap_or_else(|error| {
                panic!("{path}: {error}; run ./test, or npm ci in tests/page")
            });
            self.run(&axe, vec![]).await;
        }
        let found = "axe.run().then(({ violations }) => violations.map(({ id, help, nodes }) =>
            ({ id, help, nodes: nodes.map(({ html, failureSummary }) => [html, failureSummary]) })))";
        let violations = self.get(&format!("await {found}")).await;
        assert_eq!(violations, json!([]), "{}: {state}: {violations:#}", self.name);
    }

    /// One picture; how much wider than the screen the page is.
    async fn picture(&self, name: &str, (width, height): (u32, u32)) -> i64 {
        let size = |height| json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.cdp("Emulation.setDeviceMetricsOverride", size(i64::from(height))).await;
        let whole = "[document.documentElement.scrollHeight, document.documentElement.scrollWidth - innerWidth]";
        let whole = self.get(whole).await;
        let tall = whole[0].as_i64().unwrap_or_default().max(i64::from(height));
        self.cdp("Emulation.setDeviceMetricsOverride", size(tall)).await;
        let png = self.page().await.screenshot().await.unwrap();
        std::fs::write(artefact(&format!("page-{}-{name}.png", self.name)), png).unwrap();
        whole[1].as_i64().unwrap_or_default()
    }

    /// A command of the DevTools protocol.
    pub(super) async fn cdp(&self, cmd: &str, params: Value) -> Value {
        let body = json!({"cmd": cmd, "params": params});
        self.page().await.issue_cmd(Command("goog/cdp/execute", body)).await.unwrap()
    }

    /// What the browser has written to its console since the last call.
    async fn console(&self) -> Value {
        let body = json!({"type": "browser"});
        self.page().await.issue_cmd(Command("se/log", body)).await.unwrap()
    }

    /// Asserts that the browser's console holds nothing but what `expected` names.
    pub(super) async fn console_is_clean(&self, expected: &[&str]) {
        let console = self.console().await;
        let entries = console.as_array().into_iter().flatten();
        let bad: Vec<_> = entries
            .filter(|entry| {
                let said = entry["message"].as_str().unwrap_or_default();
                !expected.iter().any(|expected| said.contains(expected))
            })
            .collect();
        assert!(bad.is_empty(), "{}: the console: {bad:#?}", self.name);
    }
}

/// A command of chromedriver's own: its path, and what goes with it.
#[derive(Debug)]
struct Command(&'static str, Value);

impl WebDriverCompatibleCommand for Command {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.0))
    }

    fn method_and_body(&self, _: &url::Url) -> (axum::http::Method, Option<String>) {
        (axum::http::Method::POST, Some(self.1.to_string()))
    }
}
