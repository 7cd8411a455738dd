//! What a page in a real browser meets.
#![allow(clippy::unwrap_used, reason = "helpers of tests unwrap as tests do")]
#![allow(clippy::print_stdout, reason = "figures that were seen are shown with the test")]

mod access;
mod cast;
mod doors;
mod hostile;
mod room;
mod seat;
mod stage;
mod webtransport;

use serde_json::json;
use stentor_tests::browser::{Browser, Pages};

#[tokio::test]
async fn a_page_on_localhost_has_what_stentor_needs() {
    let pages =
        Pages::serve([("empty.html", b"<!doctype html><title>empty</title>".to_vec())]).await;
    let browser = Browser::start(&[]).await;
    browser.page().goto(&pages.url("empty.html")).await.unwrap();
    let has = browser
        .run(
            "return [isSecureContext, ...arguments[0].map((name) => typeof globalThis[name])];",
            vec![json!(["WebTransport", "AudioDecoder", "AudioEncoder", "AudioWorkletNode"])],
        )
        .await;
    assert_eq!(has, json!([true, "function", "function", "function", "function"]));
}
