//! Datagrams that break the protocol, or that their sender may not send.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use stentor_proto::limits;
use stentor_proto::wire::{
    Beacon, Datagram, Framing, RepairRequest, Role, TickFlags, TickKey, beacon_bytes, record_bytes,
    repair_bytes, speech_bytes, ticks_bytes,
};

use crate::peer::{Peer, hello};
use crate::scene::{Counter, Scene};
use crate::speech::frame;

pub(crate) async fn all(scene: &Scene) -> Result<()> {
    let (peer, room) = listener(scene).await?;
    drop(peer);
    let garbage: Vec<Bytes> =
        (0..60).map(|seed| noise(seed, 10 + seed as usize * 18).collect()).collect();
    closed(scene, "bad_datagram", &garbage).await.context("random datagrams")?;
    let whole = tick(room, 1);
    let cut: Vec<Bytes> = (1..whole.len()).map(|len| whole.slice(..len)).collect();
    closed(scene, "bad_datagram", &cut).await.context("truncated datagrams")?;
    let ticks: Vec<Bytes> = (0..60).map(|number| tick(room, 1_000_000 + number)).collect();
    closed(scene, "unauthorised", &ticks).await.context("a listener's ticks")?;
    let newest = TickKey { number: u32::MAX, ..room };
    let beacon = Beacon { newest, pending: u32::MAX, upstream_silent_ms: u32::MAX };
    let beacons = vec![beacon_bytes(Framing::Quic, &beacon); 60];
    closed(scene, "unauthorised", &beacons).await.context("a listener's beacons")?;
    let speech: Vec<Bytes> =
        (0..60).map(|seq| speech_bytes(Framing::Quic, 0, [frame(seq, 40)].iter())).collect();
    closed(scene, "unauthorised", &speech).await.context("a listener's speech")?;
    repairs(scene).await.context("a flood of repair requests")
}

/// Sends all of them and is closed for it; each one that came before is counted.
async fn closed(scene: &Scene, cause: &str, datagrams: &[Bytes]) -> Result<()> {
    let counter = Counter::drops(scene.relay(), cause)?;
    let closes = Counter::closes(scene.relay(), "too_many_bad_datagrams")?;
    let (peer, _) = listener(scene).await?;
    for datagram in datagrams {
        peer.datagram(datagram.clone());
    }
    let code = peer.closed().await?;
    ensure!(code == "too_many_bad_datagrams", "closed with {code}");
    counter.rose(f64::from(limits::BAD_PER_S)).await?;
    closes.rose(1.0).await?;
    Ok(())
}

/// Requests are answered within the session's budget, the rest is counted; the session goes on.
async fn repairs(scene: &Scene) -> Result<()> {
    let over = Counter::drops(scene.relay(), "repair_budget")?;
    let unknown = Counter::drops(scene.relay(), "repair_unknown")?;
    let (peer, room) = listener(scene).await?;
    let live = next_tick(&peer, false).await?;
    let first = TickKey { number: live.saturating_sub(20).max(1), ..room };
    let started = Instant::now();
    let mut answered = 0_usize;
    let mut of: BTreeMap<u32, usize> = BTreeMap::new();
    for round in 0..40_u32 {
        for _ in 0..25 {
            let request = RepairRequest { first, mask: 0x000f_ffff };
            peer.datagram(repair_bytes(Framing::Quic, &request));
        }
        let far = TickKey { number: u32::MAX - round, ..room };
        let request = RepairRequest { first: far, mask: u32::MAX };
        peer.datagram(repair_bytes(Framing::Quic, &request));
        let until = tokio::time::Instant::now() + Duration::from_millis(50);
        while let Ok(datagram) =
            tokio::time::timeout_at(until, peer.connection.read_datagram()).await
        {
            if let Datagram::Ticks { replay: true, records, .. } = Datagram::parse(datagram?)? {
                answered += records.len();
                records.iter().for_each(|record| *of.entry(record.number).or_default() += 1);
            }
        }
    }
    let budget = (started.elapsed().as_secs_f64() + 2.0) * f64::from(limits::REPAIRS_PER_S);
    ensure!(answered > 0, "an honest request within the flood was not answered");
    ensure!(answered as f64 <= budget, "{answered} answers; the budget is {budget}: {of:?}");
    over.rose(1_000.0).await?;
    unknown.rose(1_000.0).await?;
    next_tick(&peer, false).await?;
    Ok(())
}

/// A listener of the level-2 relay, and its room with the number left open.
async fn listener(scene: &Scene) -> Result<(Peer, TickKey)> {
    let hello = hello(Role::Listener, None);
    let (peer, welcome) = Peer::join(&scene.bed.trust(), scene.level_2(), hello).await?;
    let room = welcome.room.context("a listener's welcome names the room")?;
    Ok((peer, TickKey { room: room.id, epoch: room.epoch, number: 0 }))
}

/// The number of the next tick of this kind that comes.
pub(crate) async fn next_tick(peer: &Peer, replays: bool) -> Result<u32> {
    let next = async {
        loop {
            let datagram = Datagram::parse(peer.connection.read_datagram().await?)?;
            match datagram {
                Datagram::Ticks { replay, records, .. } if replay == replays => {
                    return anyhow::Ok(records[0].number);
                }
                _ => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), next).await.context("no tick came")?
}

fn tick(room: TickKey, number: u32) -> Bytes {
    let record = record_bytes(number, 0, 20, TickFlags::default(), &[0; 40]);
    ticks_bytes(Framing::Quic, room.room, room.epoch, false, 0, &[record])
}

/// Bytes of a fixed sequence (Knuth's MMIX generator); none begins like a datagram of a listener.
pub(crate) fn noise(seed: u64, len: usize) -> impl Iterator<Item = u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::once(0x80 | seed as u8).chain(std::iter::repeat_with(next)).take(len)
}
