//! Where a person sits: a window of Chromium or of Firefox, and what differs between the two.

use fantoccini::wd::{WebDriverCompatibleCommand, WindowHandle};
use fantoccini::{Client, Locator};
use serde_json::{Value, json};
use stentor_tests::browser::{Browser, artefact};
use stentor_tests::firefox::Firefox;

use super::cast::WITHIN;

/// How high the page is, and how much wider than its window.
const WHOLE: &str =
    "[document.documentElement.scrollHeight, document.documentElement.scrollWidth - innerWidth]";
/// Clicks the first button that is there; whether there was one.
const CLICK: &str = "const found = document.evaluate(arguments[0], document, null, 7, null);
    for (let i = 0; i < found.snapshotLength; i++) {
        const node = found.snapshotItem(i);
        if (node.checkVisibility() && !node.disabled) {
            node.click();
            return true;
        }
    }
    return false;";
const FILL: &str = "const field = document.querySelector(arguments[0]);
    field.focus();
    field.value = arguments[1];
    field.dispatchEvent(new Event('input', { bubbles: true }));
    field.dispatchEvent(new Event('change', { bubbles: true }));";

/// A window.
pub(super) enum Seat<'a> {
    Chromium(&'a Browser, WindowHandle),
    Firefox(&'a Firefox, String),
}

impl<'a> Seat<'a> {
    /// Chromium's driver, with this window in front.
    pub(super) async fn chromium(&self) -> &'a Client {
        let Self::Chromium(browser, window) = self else { panic!("this is Chromium's alone") };
        browser.page().switch_to_window(window.clone()).await.unwrap();
        browser.page()
    }

    pub(super) async fn open(&self, url: &str) {
        match self {
            Self::Chromium(..) => self.chromium().await.goto(url).await.unwrap(),
            Self::Firefox(firefox, window) => firefox.open(window, url),
        }
    }

    /// Runs the body of an asynchronous function in the page.
    pub(super) async fn run(&self, body: &str, arguments: Vec<Value>) -> Value {
        match self {
            Self::Chromium(browser, _) => {
                self.chromium().await;
                browser.run(body, arguments).await
            }
            Self::Firefox(firefox, window) => firefox.run(window, body, &arguments),
        }
    }

    /// Clicks the first element of this path that is shown; whether there is one.
    pub(super) async fn click(&self, path: &str) -> bool {
        if let Self::Firefox(firefox, window) = self {
            return firefox.run(window, CLICK, &[json!(path)]) == json!(true);
        }
        for element in self.chromium().await.find_all(Locator::XPath(path)).await.unwrap() {
            if element.is_displayed().await.unwrap_or(false) && element.click().await.is_ok() {
                return true;
            }
        }
        false
    }

    /// Writes into a field that is there.
    pub(super) async fn fill(&self, selector: &str, text: &str) {
        if let Self::Firefox(firefox, window) = self {
            firefox.run(window, FILL, &[json!(selector), json!(text)]);
            return;
        }
        let page = self.chromium().await;
        let field = page.wait().at_most(WITHIN).for_element(Locator::Css(selector)).await.unwrap();
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// Keeps a picture of the whole page at this width; how much wider than that it is.
    pub(super) async fn picture(&self, name: &str, (width, height): (u32, u32)) -> i64 {
        self.size(width, height).await;
        let whole = self.run(&format!("return {WHOLE};"), vec![]).await;
        let tall = u32::try_from(whole[0].as_u64().unwrap_or_default()).unwrap_or(height);
        self.size(width, tall.max(height)).await;
        let png = match self {
            Self::Chromium(..) => self.chromium().await.screenshot().await.unwrap(),
            Self::Firefox(firefox, window) => firefox.picture(window),
        };
        std::fs::write(artefact(&format!("page-{name}.png")), png).unwrap();
        whole[1].as_i64().unwrap_or_default()
    }

    async fn size(&self, width: u32, height: u32) {
        match self {
            Self::Chromium(..) => {
                let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
                self.cdp("Emulation.setDeviceMetricsOverride", size).await;
            }
            Self::Firefox(firefox, window) => firefox.resize(window, Some((width, height))),
        }
    }

    /// The window has its own size again.
    pub(super) async fn own_size(&self) {
        match self {
            Self::Chromium(..) => {
                self.cdp("Emulation.clearDeviceMetricsOverride", json!({})).await;
            }
            Self::Firefox(firefox, window) => firefox.resize(window, None),
        }
    }

    /// A command of the DevTools protocol.
    pub(super) async fn cdp(&self, cmd: &str, params: Value) -> Value {
        let body = json!({"cmd": cmd, "params": params});
        self.chromium().await.issue_cmd(Command("goog/cdp/execute", body)).await.unwrap()
    }

    /// What the page has written to its console since the last call, and what the browser has: of
    /// Firefox, errors.
    pub(super) async fn console(&self) -> Vec<String> {
        let body = json!({"type": "browser"});
        match self {
            Self::Firefox(firefox, window) => firefox.errors(window),
            Self::Chromium(..) => {
                let said = self.chromium().await.issue_cmd(Command("se/log", body)).await.unwrap();
                let entries = said.as_array().into_iter().flatten();
                entries.map(|entry| format!("{}", entry["message"])).collect()
            }
        }
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
