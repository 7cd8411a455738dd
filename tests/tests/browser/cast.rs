//! People in real browsers, in a room of a real tree.

use std::f32::consts::TAU;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use fantoccini::Client;
use serde_json::{Value, json};
use stentor_client::audio::{BLOCK, Format, Sink, Source};
use stentor_tests::browser::Browser;
use stentor_tests::firefox::Firefox;
use stentor_tests::{Process, Tree};

use super::seat::Seat;

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
pub(super) const EAR: &str = include_str!("ear.js");

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

    /// An origin alone that takes so many listeners.
    pub(super) fn small(listeners: u32) -> Self {
        let limit = format!("--capacity={listeners}");
        Self { tree: Tree::of_levels([], &["--rooms-on-first-use=false", &limit]) }
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

    /// The same tone for so long, then so many seconds of nothing.
    pub(super) fn tone_and_silence(&self, hertz: f32, seconds: usize, silence: usize) -> PathBuf {
        let sounds = self.tone(hertz, seconds);
        let path = sounds.with_extension("silence.wav");
        let mut sink = Sink::create(&path, Format::Wav).unwrap();
        for block in Source::open(&sounds).unwrap() {
            sink.write(&block.unwrap()).unwrap();
        }
        for _ in 0..silence * 50 {
            sink.write(&[0.0; BLOCK]).unwrap();
        }
        sink.finish().unwrap();
        path
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
    seat: Seat<'a>,
}

impl<'a> Person<'a> {
    /// At the browser's first window.
    pub(super) async fn first(name: &'static str, browser: &'a Browser) -> Self {
        let window = browser.page().window().await.unwrap();
        Self { name, seat: Seat::Chromium(browser, window) }
    }

    /// At a new window of the browser.
    pub(super) async fn another(name: &'static str, browser: &'a Browser) -> Self {
        let window = browser.page().new_window(false).await.unwrap().handle;
        Self { name, seat: Seat::Chromium(browser, window) }
    }

    /// At a window of Firefox, which shares nothing with the others.
    pub(super) fn at_firefox(name: &'static str, firefox: &'a Firefox) -> Self {
        Self { name, seat: Seat::Firefox(firefox, firefox.window()) }
    }

    /// Chromium's driver, with this person's window in front.
    pub(super) async fn page(&self) -> &'a Client {
        self.seat.chromium().await
    }

    pub(super) async fn open(&self, url: &str) {
        self.seat.open(url).await;
    }

    /// The value of an expression in the page.
    pub(super) async fn get(&self, expression: &str) -> Value {
        self.run(&format!("return {expression};"), vec![]).await
    }

    pub(super) async fn run(&self, body: &str, arguments: Vec<Value>) -> Value {
        self.seat.run(body, arguments).await
    }

    /// Waits until an expression in the page is true.
    pub(super) async fn wait(&self, what: &str, condition: &str) {
        let until = Instant::now() + WITHIN;
        while self.get(&format!("Boolean({condition})")).await != json!(true) {
            if Instant::now() > until {
                self.fail(&format!("{what} does not come")).await;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Keeps a picture of what went wrong, and panics with what the page says.
    async fn fail(&self, what: &str) {
        self.picture("failed", PHONE).await;
        let text = self.get("document.body.innerText").await;
        let console = self.seat.console().await;
        panic!("{}: {what}; the page: {text}; the console: {console:#?}", self.name);
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
        let until = Instant::now() + WITHIN;
        while !self.seat.click(&path).await {
            if Instant::now() > until {
                self.fail(&format!("there is no button {label}")).await;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(super) async fn fill(&self, selector: &str, text: &str) {
        let there = format!("document.querySelector({})?.checkVisibility()", json!(selector));
        self.wait(selector, &there).await;
        self.seat.fill(selector, text).await;
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
        if let Seat::Chromium(..) = self.seat {
            self.dark(true).await;
            self.picture(&format!("{state}-dark"), PHONE).await;
            self.dark(false).await;
        }
        self.seat.own_size().await;
    }

    /// What axe finds of contrast, light on dark; Firefox is not asked for it.
    pub(super) async fn is_accessible_in_the_dark(&self, state: &str) {
        if let Seat::Chromium(..) = self.seat {
            self.dark(true).await;
            self.is_accessible(state).await;
            self.dark(false).await;
        }
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
    async fn picture(&self, name: &str, size: (u32, u32)) -> i64 {
        self.seat.picture(&format!("{}-{name}", self.name), size).await
    }

    /// A command of the DevTools protocol.
    pub(super) async fn cdp(&self, cmd: &str, params: Value) -> Value {
        self.seat.cdp(cmd, params).await
    }

    /// Asserts that the browser's console holds nothing but what `expected` names.
    pub(super) async fn console_is_clean(&self, expected: &[&str]) {
        let mut console = self.seat.console().await;
        console.retain(|said| !expected.iter().any(|expected| said.contains(expected)));
        assert!(console.is_empty(), "{}: the console: {console:#?}", self.name);
    }
}
