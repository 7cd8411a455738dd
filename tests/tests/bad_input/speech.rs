//! Speakers who do not keep to the protocol, beside one who does.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use stentor_proto::limits;
use stentor_proto::wire::{Datagram, Framing, Role, SpeechFrame, frames, speech_bytes};

use crate::peer::{Peer, hello};
use crate::scene::{Counter, ROOM, Scene, token, unix_s};

pub(crate) async fn all(scene: &Scene) -> Result<()> {
    too_fast(scene).await.context("a speaker faster than real time")?;
    malformed(scene).await.context("frames that are no Opus of 20 ms")?;
    forged_slot(scene).await.context("speech in another's slot")
}

/// 500 frames a second for three seconds: what is too much is dropped and counted, and the frames
/// of the other speaker all arrive.
async fn too_fast(scene: &Scene) -> Result<()> {
    let origin = &scene.bed.origin;
    let budget = Counter::drops(origin, "speech_budget")?;
    let fast = Counter::ingest(origin, "too_fast")?;
    let (listener, _) =
        Peer::join(&scene.bed.trust(), scene.level_2(), hello(Role::Listener, None)).await?;
    let (peer, slot) = speaker(scene).await?;
    let until = Instant::now() + Duration::from_secs(3);
    let shout = async {
        let mut seq = 0;
        while Instant::now() < until {
            for _ in 0..10 {
                peer.datagram(speech_bytes(Framing::Quic, slot, [frame(seq, 60)].iter()));
                seq += 1;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (heard, ()) = tokio::join!(hear(&listener, until), shout);
    let (mut own, mut others) = (0_usize, BTreeSet::new());
    for (number, frame_slot, seq) in heard? {
        if frame_slot == slot {
            own += 1;
        } else {
            others.insert((frame_slot, seq, number));
        }
    }
    let most = 3 * limits::FRAMES_PER_S as usize + 2 * limits::FRAME_BURST as usize;
    ensure!(own <= most, "{own} frames of the fast speaker were heard; {most} are allowed");
    let seqs: BTreeSet<u32> = others.iter().map(|&(_, seq, _)| seq).collect();
    let (first, last) = (seqs.first().context("nothing heard")?, seqs.last().context("nothing")?);
    let expected = (last - first + 1) as usize;
    ensure!(seqs.len() == expected, "{} of the other's {expected} frames came", seqs.len());
    ensure!(expected > 100, "only {expected} frames of the other speaker");
    budget.rose(100.0).await?;
    fast.rose(20.0).await?;
    peer.connection.close(0_u32.into(), b"goodbye");
    Ok(())
}

/// Tick, slot and number of every frame that comes until then.
async fn hear(listener: &Peer, until: Instant) -> Result<Vec<(u32, u16, u32)>> {
    let mut heard = Vec::new();
    let reading = listener.connection.read_datagram();
    let mut reading = std::pin::pin!(reading);
    while let Ok(datagram) = tokio::time::timeout_at(until.into(), &mut reading).await {
        if let Datagram::Ticks { records, .. } = Datagram::parse(datagram?)? {
            for record in records {
                for frame in frames(&record.payload)? {
                    heard.push((record.number, frame.slot, frame.speech.seq));
                }
            }
        }
        reading.set(listener.connection.read_datagram());
    }
    Ok(heard)
}

/// Frames that would close a browser's decoder, and frames larger than the room allows.
async fn malformed(scene: &Scene) -> Result<()> {
    let origin = &scene.bed.origin;
    let bad = Counter::ingest(origin, "bad_opus")?;
    let large = Counter::ingest(origin, "oversized")?;
    let (peer, slot) = speaker(scene).await?;
    for seq in 0..50 {
        let mut bad = frame(seq, 40);
        bad.opus = match seq % 3 {
            // Four frames of 60 ms; a code-3 packet without its count; two frames of 20 ms.
            0 => Bytes::from_static(&[0x1b, 0x04, 0, 0, 0, 0]),
            1 => Bytes::from_static(&[0x4b]),
            _ => Bytes::from_static(&[0x49, 0, 0]),
        };
        if seq % 5 == 0 {
            bad = frame(seq, 900);
        }
        peer.datagram(speech_bytes(Framing::Quic, slot, [bad].iter()));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bad.rose(30.0).await?;
    large.rose(8.0).await?;
    peer.connection.close(0_u32.into(), b"goodbye");
    Ok(())
}

async fn forged_slot(scene: &Scene) -> Result<()> {
    let origin = &scene.bed.origin;
    let forged = Counter::drops(origin, "forged_slot")?;
    let closes = Counter::closes(origin, "too_many_bad_datagrams")?;
    let (peer, slot) = speaker(scene).await?;
    for seq in 0..60 {
        let other = slot.wrapping_sub(1 + seq % 3);
        peer.datagram(speech_bytes(Framing::Quic, other, [frame(seq.into(), 40)].iter()));
    }
    let code = peer.closed().await?;
    ensure!(code == "too_many_bad_datagrams", "closed with {code}");
    forged.rose(f64::from(limits::BAD_PER_S)).await?;
    closes.rose(1.0).await?;
    Ok(())
}

/// A speaker with a token of its own, and its slot.
async fn speaker(scene: &Scene) -> Result<(Peer, u16)> {
    let token = token(scene.signer(), ROOM, Role::Speaker, unix_s())?;
    let hello = hello(Role::Speaker, Some(token));
    let (peer, welcome) = Peer::join(&scene.bed.trust(), scene.bed.origin.address, hello).await?;
    let slot = welcome.slot.context("a speaker's welcome names its slot")?;
    Ok((peer, slot))
}

/// A loud frame of `bytes` bytes: SILK, wide band, 20 ms (RFC 6716 section 3.1).
pub(crate) fn frame(seq: u32, bytes: usize) -> SpeechFrame {
    let mut opus = vec![0x5a; bytes];
    opus[0] = 9 << 3;
    SpeechFrame { seq, level: 10, voice: true, opus: opus.into() }
}
