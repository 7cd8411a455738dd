//! Those who should not get in.

use anyhow::{Context, Result, bail, ensure};
use stentor_client::session::{Join, SessionError};
use stentor_lab::nodes::Node;
use stentor_proto::limits;
use stentor_proto::token::{Signer, private_pem};
use stentor_proto::wire::{ClientMessage, RelayInfo, Role};

use crate::peer::{Peer, hello};
use crate::scene::{Counter, ROOM, Scene, token, unix_s};

pub(crate) async fn all(scene: &Scene) -> Result<()> {
    let (relay, origin) = (scene.relay(), &scene.bed.origin);
    let listener = scene.listener();
    let with = |token: String| Join { token: Some(token), ..listener.clone() };
    let now = unix_s();
    let good = scene.signer();
    // A key of one's own, and the same under the id of the key that counts.
    let stranger = Signer::from_pkcs8_pem(&private_pem([7; 32]), None)?;
    let forger = Signer::from_pkcs8_pem(&private_pem([7; 32]), Some(good.kid()))?;
    let listens = |signer: &Signer, at| token(signer, ROOM, Role::Listener, at);
    for (join, code) in [
        (with("garbage".into()), "token_invalid"),
        (with(listens(&stranger, now)?), "token_invalid"),
        (with(listens(&forger, now)?), "token_invalid"),
        (with(cut(&listens(good, now)?)), "token_invalid"),
        (with("x".repeat(limits::TOKEN_BYTES + 1)), "token_invalid"),
        (with(listens(good, now - 7_200)?), "token_expired"),
        (with(listens(good, now + 7_200)?), "token_invalid"),
        (with(token(good, "another", Role::Listener, now)?), "token_room"),
        (Join { room: "closed".into(), ..listener.clone() }, "token_missing"),
        (Join { room: "x".repeat(limits::NAME_BYTES + 1), ..listener.clone() }, "protocol"),
        (Join { room: String::new(), ..listener.clone() }, "protocol"),
        (
            Join { role: Role::Speaker, ..with(token(good, ROOM, Role::Speaker, now)?) },
            "origin_only",
        ),
        (Join { role: Role::Recorder, ..with(listens(good, now)?) }, "token_role"),
    ] {
        refused(scene, relay, &join, code).await?;
    }
    let address = origin.address.to_string();
    let speaker = Join { role: Role::Speaker, address, ..listener.clone() };
    let speaks = |token| Join { token, ..speaker.clone() };
    for (join, code) in [
        (speaks(None), "token_missing"),
        (speaks(Some(listens(good, now)?)), "token_role"),
        (speaks(Some(token(&stranger, ROOM, Role::Speaker, now)?)), "token_invalid"),
        (speaks(Some(token(good, "another", Role::Speaker, now)?)), "token_room"),
        (speaks(Some(token(good, ROOM, Role::Speaker, now - 7_200)?)), "token_expired"),
    ] {
        refused(scene, origin, &join, code).await?;
    }
    relays(scene, &stranger).await
}

/// A relay with a wrong key, at the origin and at a relay that it would have for a parent.
async fn relays(scene: &Scene, stranger: &Signer) -> Result<()> {
    let trust = scene.bed.trust();
    let forged = token(stranger, "", Role::Relay, unix_s())?;
    let listener = token(scene.signer(), ROOM, Role::Listener, unix_s())?;
    for node in [&scene.bed.origin, &scene.bed.relays[0]] {
        for (token, code) in [
            (Some(forged.clone()), "token_invalid"),
            (Some(listener.clone()), "token_role"),
            (None, "token_missing"),
        ] {
            let counter = Counter::closes(node, code)?;
            let mut peer = Peer::connect(&trust, node.address).await?;
            let mut hello = hello(Role::Relay, token);
            hello.relay = Some(RelayInfo {
                id: "mallory".into(),
                address: "127.0.0.1:9".into(),
                region: String::new(),
                capacity: u32::MAX,
                level: Some(1),
                incarnation: u64::MAX,
                pass_key: None,
                certificate_hashes: Vec::new(),
            });
            peer.say(&ClientMessage::Hello(hello)).await?;
            let closed = peer.closed().await?;
            ensure!(closed == code, "a relay with a wrong key: {closed}, not {code}");
            counter.rose(1.0).await?;
        }
    }
    let topology = scene.bed.origin.topology()?.to_string();
    ensure!(!topology.contains("mallory"), "the tree has a relay with a wrong key: {topology}");
    Ok(())
}

/// A token without its last bytes.
fn cut(token: &str) -> String {
    token[..token.len() - 10].to_owned()
}

async fn refused(scene: &Scene, node: &Node, join: &Join, code: &str) -> Result<()> {
    let counter = Counter::closes(node, code)?;
    match scene.connector.join(join).await {
        Err(SessionError::Closed { close, .. }) => {
            let got = close.code.name();
            ensure!(got == code, "{join:?}: {got} ({}), not {code}", close.reason);
        }
        Err(other) => bail!("{join:?}: {other}, not {code}"),
        Ok(_) => bail!("{join:?} was let in, not refused with {code}"),
    }
    counter.rose(1.0).await.map(|_| ()).with_context(|| format!("{join:?}"))
}
