//! Bad input against real processes over real QUIC: each peer at fault is closed with its code and
//! counted, and nobody else loses a tick.

mod bystanders;
mod control;
mod datagrams;
mod joins;
mod parent;
mod peer;
mod scene;
mod speech;
mod tickets;
mod transport;
mod webtransport;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stentor_lab::nodes::Node;

use self::bystanders::Bystanders;
use self::scene::Scene;

/// What a process may grow by while it is misused (KiB).
const GROWTH_KIB: f64 = 20_000.0;
/// What half-open handshakes may add (KiB): 1,024 of some 27 KiB, which `limits.handshakes` allows.
const HALF_OPEN_KIB: f64 = 36_000.0;

#[test]
fn every_peer_at_fault_is_named_and_nobody_else_loses_a_tick() -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let inside = runtime.enter();
    let (scene, choir) = Scene::set_up()?;
    drop(inside);
    choir.speak(1);
    let bystanders = Bystanders::start(&scene)?;
    let acts = runtime.block_on(misdeeds(&scene));
    let heard = bystanders.finish();
    acts?;
    let heard = heard.context("the well-behaved listeners")?;
    ensure!(heard.lost.is_empty(), "well-behaved listeners were closed: {:?}", heard.lost);
    ensure!(heard.ticks > 500, "only {} ticks were listened to", heard.ticks);
    let expected = u64::from(heard.ticks) * heard.listeners as u64;
    ensure!(heard.distinct == expected, "{} of {expected} ticks arrived", heard.distinct);
    for node in scene.nodes() {
        ensure!(
            node.admin_get("/livez")?.0 == 200,
            "{} does not live: {}",
            node.name,
            node.log_end()
        );
    }
    choir.finish()?;
    Ok(())
}

/// Each misdeed in turn; those that take seconds run beside the others.
async fn misdeeds(scene: &Scene) -> Result<()> {
    let before = memory(scene)?;
    let slow = tokio::spawn(control::slow(scene.hand()));
    let stale = scene::Counter::drops(scene.relay(), "stale")?;
    let stalled = transport::stall(scene.hand());
    joins::all(scene).await.context("joins")?;
    tickets::all(scene).await.context("waiting tickets")?;
    control::all(scene).await.context("control messages")?;
    datagrams::all(scene).await.context("datagrams")?;
    speech::all(scene).await.context("speech")?;
    parent::all(scene).await.context("a parent that lies")?;
    webtransport::all(scene).await.context("WebTransport")?;
    slow.await?.context("slow control streams")?;
    tokio::task::spawn_blocking(move || stalled.join())
        .await?
        .map_err(|_| anyhow::anyhow!("the stalled client panicked"))?
        .context("a client that stops reading")?;
    stale.rose(1.0).await?;
    transport::all(scene).await.context("transport")?;
    grown(scene, &before, GROWTH_KIB)?;
    let before = memory(scene)?;
    transport::half_open(scene).await.context("half-open handshakes")?;
    grown(scene, &before, HALF_OPEN_KIB)?;
    // What was provoked late still reaches the bystanders' window.
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(())
}

fn grown(scene: &Scene, before: &[(String, f64)], most: f64) -> Result<()> {
    for ((name, was), (_, is)) in before.iter().zip(memory(scene)?) {
        ensure!(is - was < most, "{name} grew from {was} to {is} KiB; {most} more are allowed");
    }
    Ok(())
}

fn memory(scene: &Scene) -> Result<Vec<(String, f64)>> {
    scene.nodes().map(|node: &Node| Ok((node.name.clone(), node.rss_kib()?))).collect()
}
