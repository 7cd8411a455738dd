//! Waiting tickets that are none, and one that a thousand show.

use anyhow::{Context, Result, ensure};
use stentor_proto::admission::{Ticket, bearer, client_key};
use stentor_proto::limits;
use stentor_proto::token::{Signer, private_pem};
use stentor_proto::wire::{ClientMessage, Hello, Role, Secret};

use crate::peer::{Peer, hello};
use crate::scene::{Counter, ROOM, Scene, unix_s};

/// Copies of one ticket that are shown, a few at once.
const COPIES: usize = 200;
const AT_ONCE: usize = 20;

pub(crate) async fn all(scene: &Scene) -> Result<()> {
    let (signer, now) = (scene.signer(), unix_s());
    let stranger = Signer::from_pkcs8_pem(&private_pem([7; 32]), Some(signer.kid()))?;
    let good = ticket(&scene.relay().name, now);
    let by_origin = |change: &dyn Fn(&mut Ticket)| {
        let mut ticket = good.clone();
        change(&mut ticket);
        ticket.by_origin(signer)
    };
    let sibling = scene.bed.relays[0].name.clone();
    for (text, code) in [
        ("garbage".to_owned(), "ticket_invalid"),
        ("x".repeat(limits::TICKET_BYTES + 1), "ticket_invalid"),
        (good.by_origin(&stranger)?, "ticket_invalid"),
        (by_origin(&|ticket| ticket.room = "closed".into())?, "ticket_invalid"),
        (by_origin(&|ticket| ticket.exp = now - 3_600)?, "ticket_expired"),
        (by_origin(&|ticket| ticket.sub = "sub:ann".into())?, "ticket_identity"),
        (by_origin(&|ticket| ticket.place.clone_from(&sibling))?, "ticket_place"),
    ] {
        let counter = Counter::closes(scene.relay(), code)?;
        let mut peer = Peer::connect(&scene.bed.trust(), scene.level_2()).await?;
        peer.say(&ClientMessage::Hello(with(text))).await?;
        let closed = peer.closed().await?;
        ensure!(closed == code, "{closed}, not {code}");
        counter.rose(1.0).await?;
    }
    copied(scene, good.by_origin(signer)?).await.context("a ticket that many show")
}

/// One of those who show the same ticket comes in, and the others are told that it is spent.
async fn copied(scene: &Scene, text: String) -> Result<()> {
    let counter = Counter::closes(scene.relay(), "ticket_spent")?;
    let mut inside = Vec::new();
    for _ in 0..COPIES / AT_ONCE {
        let shown = (0..AT_ONCE).map(|_| {
            let (trust, to, hello) = (scene.bed.trust(), scene.level_2(), with(text.clone()));
            tokio::spawn(async move { Peer::join(&trust, to, hello).await })
        });
        for shown in shown.collect::<Vec<_>>() {
            inside.extend(shown.await?.ok());
        }
    }
    ensure!(inside.len() == 1, "{} came in with one ticket", inside.len());
    counter.rose(COPIES as f64 - 1.0).await?;
    Ok(())
}

fn ticket(place: &str, now: u64) -> Ticket {
    Ticket {
        room: ROOM.into(),
        sub: bearer(None, Some(&client_key([1; 32]).0)).unwrap_or_default(),
        arrival_ms: now * 1_000,
        place: place.to_owned(),
        jti: "00000000000000ff".into(),
        iat: now,
        exp: now + limits::TICKET_S,
        by: "origin".into(),
        waits: true,
        moved: 0,
    }
}

fn with(ticket: String) -> Hello {
    let (ticket, client_key) = (Some(Secret(ticket)), Some(client_key([1; 32])));
    Hello { ticket, client_key, ..hello(Role::Listener, None) }
}
