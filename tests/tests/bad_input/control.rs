//! Control streams that break the protocol.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stentor_proto::limits;
use stentor_proto::wire::{ClientMessage, Hello, Load, Role, encode_control};

use crate::peer::{Peer, hello};
use crate::scene::{Counter, Hand, Scene};

pub(crate) async fn all(scene: &Scene) -> Result<()> {
    let first: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a first message that is no hello", whole(&ClientMessage::Leave), "protocol"),
        ("two hellos", [whole(&good()), whole(&good())].concat(), "protocol"),
        ("version 9", whole(&ClientMessage::Hello(Hello { version: 9, ..listener() })), "version"),
        ("no JSON", text("not JSON at all"), "protocol"),
        ("JSON that is no message", text("[1, 2, 3]"), "protocol"),
        ("JSON that nests without end", text(&"[".repeat(10_000)), "protocol"),
        ("a message of no bytes", text(""), "protocol"),
        ("a length of 65,535", vec![0xff, 0xff], "message_too_large"),
        ("a length of 16,385", vec![0x40, 0x01], "message_too_large"),
        ("random bytes", random(4_000), "message_too_large"),
        (
            "a token that is no text",
            text(r#"{"type":"hello","version":1,"role":"listener","token":7}"#),
            "protocol",
        ),
        (
            "a role that there is not",
            text(r#"{"type":"hello","version":1,"role":"king"}"#),
            "protocol",
        ),
    ];
    for (what, bytes, code) in first {
        closed(scene, what, &bytes, code).await.context(what)?;
    }
    let joined: Vec<(&str, Vec<u8>, &str)> = vec![
        ("100 messages at once", text(r#"{"type":"dance"}"#).repeat(100), "too_many_messages"),
        (
            "a listener that subscribes",
            whole(&ClientMessage::Subscribe { room: "x".into() }),
            "protocol",
        ),
        ("a listener that reports load", whole(&ClientMessage::Load(Load::default())), "protocol"),
        (
            "a cut message, then another",
            [&whole(&good())[..9], &whole(&good())].concat(),
            "protocol",
        ),
    ];
    for (what, bytes, code) in joined {
        let bytes = [whole(&good()), bytes].concat();
        closed(scene, what, &bytes, code).await.context(what)?;
    }
    Ok(())
}

/// Streams that are closed by a deadline: no hello, and messages that never end.
pub(crate) async fn slow(hand: Hand) -> Result<()> {
    let silent = async {
        let peer = Peer::connect(&hand.trust, hand.relay).await?;
        expect(peer.closed().await?, "no_hello").context("no hello")
    };
    let hello_without_end = async {
        let peer = Peer::connect(&hand.trust, hand.relay).await?;
        expect(trickle(peer).await?, "no_hello").context("a hello without end")
    };
    let message_without_end = async {
        let (peer, _) = Peer::join(&hand.trust, hand.relay, listener()).await?;
        expect(trickle(peer).await?, "message_too_large").context("a message without end")
    };
    tokio::try_join!(silent, hello_without_end, message_without_end)?;
    Ok(())
}

/// Announces the longest message there is and sends a byte of it now and then.
async fn trickle(mut peer: Peer) -> Result<&'static str> {
    let len = u16::try_from(limits::CONTROL_BYTES)?;
    peer.write(&len.to_be_bytes()).await?;
    for _ in 0..limits::CONTROL_BYTES {
        // A session that is closed takes no more bytes.
        if peer.write(b" ").await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    peer.closed().await
}

async fn closed(scene: &Scene, what: &str, bytes: &[u8], code: &str) -> Result<()> {
    let relay = scene.relay();
    let counter = Counter::closes(relay, code)?;
    let mut peer = Peer::connect(&scene.bed.trust(), relay.address).await?;
    peer.write(bytes).await?;
    expect(peer.closed().await?, code).with_context(|| what.to_owned())?;
    counter.rose(1.0).await?;
    Ok(())
}

fn expect(closed: &str, code: &str) -> Result<()> {
    ensure!(closed == code, "closed with {closed}, not {code}");
    Ok(())
}

fn listener() -> Hello {
    hello(Role::Listener, None)
}

fn good() -> ClientMessage {
    ClientMessage::Hello(listener())
}

fn whole(message: &ClientMessage) -> Vec<u8> {
    encode_control(message).to_vec()
}

fn text(text: &str) -> Vec<u8> {
    let len = u16::try_from(text.len()).expect("texts of this test are short");
    [&len.to_be_bytes(), text.as_bytes()].concat()
}

/// Bytes of a fixed sequence that begin with a length beyond all bounds.
fn random(len: usize) -> Vec<u8> {
    std::iter::once(0xf7).chain(crate::datagrams::noise(1, len)).collect()
}
