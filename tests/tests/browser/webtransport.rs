//! A listener in a page, over WebTransport to a relay of a real tree.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use ring::digest::{SHA256, digest};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use stentor_proto::wire::ALPN;
use stentor_relay::quic::config::client_tls;
use stentor_tests::browser::{Browser, Pages};
use stentor_tests::{Process, Tree};

/// Milliseconds of listening.
const LISTENED: u64 = 2_000;

const IMPORT: &str = "const page = await import('/webtransport.js');
    const [relay, hash, token] = arguments;";

async fn page() -> (Pages, Browser) {
    let script = include_bytes!("webtransport.js").to_vec();
    let pages =
        Pages::serve([("index.html", b"<!doctype html>".to_vec()), ("webtransport.js", script)]);
    let pages = pages.await;
    let browser = Browser::start(&[]).await;
    browser.page().goto(&pages.url("index.html")).await.unwrap();
    (pages, browser)
}

#[tokio::test]
async fn a_page_hears_a_relay_and_learns_why_a_session_ends() {
    let tree = Tree::start(2);
    let (_, path) = tree.speech(20);
    let mut speak = tree.stentor("speak");
    speak.args([tree.origin.to_string().as_str(), "hall", "--json"]).arg(&path);
    let speaker = Process::start(&mut speak);
    let relay = tree.relays[1];
    let hash = certificate_hash(&tree, relay).await;
    let token = token(&tree);
    let (_pages, browser) = page().await;
    let run = async |body: &str, token: &str| -> Value {
        let arguments = vec![json!(relay.to_string()), json!(hash), json!(token)];
        browser.run(&format!("{IMPORT}\n{body}"), arguments).await
    };

    let heard = run(
        &format!(
            "const transport = await page.open(relay, hash);
             const reader = await page.hello(transport, 'hall', token);
             const welcome = await page.message(reader, 'welcome');
             const ticks = await page.ticks(transport, {LISTENED});
             transport.close({{ closeCode: 0, reason: 'done' }});
             return {{ room: welcome.room.name, ticks }};"
        ),
        &token,
    )
    .await;
    assert_eq!(heard["room"], "hall");
    let ticks: Vec<u64> =
        heard["ticks"].as_array().unwrap().iter().map(|tick| tick.as_u64().unwrap()).collect();
    let (first, last) = (*ticks.iter().min().unwrap(), *ticks.iter().max().unwrap());
    assert_eq!(last - first + 1, ticks.len() as u64, "ticks are missing: {ticks:?}");
    // Speech is 50 ticks a second; half of it allows for a browser that starts slowly.
    assert!(ticks.len() as u64 > LISTENED / 20 / 2, "{ticks:?}");

    let closed = run(
        "const transport = await page.open(relay, hash);
         await page.hello(transport, 'hall', 'no.real.token');
         const { closeCode, reason } = await transport.closed;
         return { closeCode, reason };",
        "",
    )
    .await;
    assert_eq!(closed["closeCode"], 0x21, "{closed}");
    assert!(closed["reason"].as_str().is_some_and(|reason| reason.contains("token")), "{closed}");

    let elsewhere = run(
        "try { await page.open(relay, hash, '/elsewhere'); return 'opened'; }
         catch (error) { return error.name; }",
        "",
    )
    .await;
    assert_eq!(elsewhere, "WebTransportError");
    drop(speaker);
}

fn token(tree: &Tree) -> String {
    let mut token = tree.stentor("token");
    token.args(["--room", "hall", "--role", "listener", "--identity", "page"]);
    let token = Process::start(&mut token).output();
    String::from_utf8(token.stdout).unwrap().trim().to_owned()
}

/// The SHA-256 hash of the certificate that a node shows.
async fn certificate_hash(tree: &Tree, node: SocketAddr) -> Vec<u8> {
    let ca = std::fs::read(tree.dev().join("ca.pem")).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&ca).unwrap()).unwrap();
    let tls = client_tls(roots, &[ALPN]).unwrap();
    let crypto = QuicClientConfig::try_from(tls).unwrap();
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    let connection = endpoint.connect(node, "localhost").unwrap().await.unwrap();
    let chain = connection.peer_identity().unwrap().downcast::<Vec<CertificateDer>>().unwrap();
    digest(&SHA256, &chain[0]).as_ref().to_vec()
}
