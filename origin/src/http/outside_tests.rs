//! Others' servers and readers: webhooks whose receiver fails, followers who read too slowly.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, header};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use http_body_util::BodyExt as _;
use ring::hmac;
use serde_json::{Value, json};
use stentor_proto::limits;
use stentor_proto::node::{News, NewsKind};
use stentor_proto::wire::Role;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt as _;

use super::tests::{Bench, on_stage};

/// A message as a receiver has it.
struct Received {
    id: String,
    timestamp: String,
    signature: String,
    body: String,
}

/// The next message, and the connection on which it is to be answered.
async fn receive(listener: &TcpListener) -> (Received, TcpStream) {
    let accepted = tokio::time::timeout(Duration::from_secs(10), listener.accept()).await;
    let (mut stream, _) = accepted.expect("it is told again").unwrap();
    let mut text = String::new();
    let mut bytes = vec![0; 8_192];
    loop {
        let count = stream.read(&mut bytes).await.unwrap();
        assert_ne!(count, 0, "it hangs up: {text}");
        text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let field = |name: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim_start_matches(':').trim().to_owned()
        };
        if body.len() >= field("content-length").parse().unwrap() {
            let received = Received {
                id: field("webhook-id"),
                timestamp: field("webhook-timestamp"),
                signature: field("webhook-signature"),
                body: body.to_owned(),
            };
            return (received, stream);
        }
    }
}

async fn answer(mut stream: TcpStream, status: &str) {
    let text = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
}

impl Received {
    /// As a receiver checks it: with the secret that it was given, and nothing of the sender's code.
    fn is_signed(&self, secret: &str) -> bool {
        let secret = BASE64_STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let signed = format!("{}.{}.{}", self.id, self.timestamp, self.body);
        let signature = BASE64_STANDARD.decode(self.signature.strip_prefix("v1,").unwrap());
        hmac::verify(&key, signed.as_bytes(), &signature.unwrap()).is_ok()
    }

    fn kind(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap();
        body["type"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_receiver_that_fails_is_told_again_and_in_order() {
    let bench = Bench::new();
    let host = bench.room("a", true).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let hook = json!({"url": format!("http://127.0.0.1:{port}/hook")});
    let made = bench.post("/v1/rooms/a/webhooks", Some(&host), hook).await.body;
    let secret = made["secret"].as_str().unwrap();
    tokio::spawn(bench.api.clone().follow_rooms());
    tokio::time::sleep(Duration::from_millis(50)).await;
    on_stage(&bench, "a", "bo", Role::Speaker, 1).await;
    let remove = json!({"action": "end"});
    assert_eq!(bench.post("/v1/rooms/a/actions", Some(&host), remove).await.status, 200);

    // It hangs up without a word, sends elsewhere, breaks off, and takes it at last.
    let (first, stream) = receive(&listener).await;
    drop(stream);
    let (second, stream) = receive(&listener).await;
    answer(stream, "302 Found\r\nlocation: http://127.0.0.1:1/").await;
    let (third, mut stream) = receive(&listener).await;
    stream.write_all(b"HTTP/1.1 2").await.unwrap();
    drop(stream);
    let (fourth, stream) = receive(&listener).await;
    answer(stream, "204 No Content").await;
    let tries = [&first, &second, &third, &fourth];
    for message in tries {
        assert!(message.is_signed(secret), "{}", message.body);
        assert_eq!((&message.id, &message.body), (&first.id, &first.body), "one message");
        assert_eq!(message.kind(), "stage.joined");
    }
    assert!(first.timestamp < fourth.timestamp, "each try is signed with its own time");
    let mut forged = fourth;
    forged.body = forged.body.replace("bo", "eve");
    assert!(!forged.is_signed(secret));

    // What came behind it has waited, and the last word is that the room has ended.
    let mut kinds = Vec::new();
    while kinds.last().is_none_or(|kind| kind != "room.ended") {
        let (message, stream) = receive(&listener).await;
        assert!(message.is_signed(secret) && message.id != first.id);
        kinds.push(message.kind());
        answer(stream, "200 OK").await;
    }
    assert!(kinds.len() <= 2, "{kinds:?}");
    let key = bench.api_key();
    let left = bench.call(Method::GET, "/v1/rooms/a/webhooks", Some(&key), None).await.body;
    assert_eq!(left["webhooks"], json!([]), "a webhook ends with its room");
}

#[tokio::test]
async fn a_follower_who_reads_too_slowly_is_let_go_and_nobody_waits_for_it() {
    let bench = Bench::new();
    let host = bench.room("a", true).await;
    let follow = || {
        let request = Request::get("/v1/rooms/a/events")
            .header(header::AUTHORIZATION, format!("Bearer {host}"))
            .body(Body::empty());
        bench.router.clone().oneshot(request.unwrap())
    };
    let slow = follow().await.unwrap();
    let mut quick = follow().await.unwrap().into_body().into_data_stream();
    let hand = |n: usize| {
        let hand = stentor_proto::wire::Hand {
            room: "a".to_owned(),
            identity: format!("p-{n}"),
            name: String::new(),
            raised: true,
            sequence: n as u64,
        };
        Arc::new(News { room: "a".to_owned(), what: NewsKind::Hand(hand) })
    };
    let (mut read, last) = (String::new(), 2 * limits::NEWS);
    for n in 0..=last {
        bench.api.parts().news.send(hand(n)).unwrap();
        // Whoever reads at once misses nothing.
        while !read.contains(&format!("\"p-{n}\"")) {
            use futures_util::StreamExt as _;
            let next = tokio::time::timeout(Duration::from_secs(5), quick.next()).await;
            read = String::from_utf8(next.unwrap().unwrap().unwrap().to_vec()).unwrap();
        }
    }
    let body = tokio::time::timeout(Duration::from_secs(5), slow.into_body().collect());
    let body = body.await.expect("the stream of the slow one ends").unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    assert!(text.starts_with("event: room") && !text.contains(&format!("p-{last}")), "{text}");
    assert_eq!(follow().await.unwrap().status(), 200, "it may open the stream again");
}
