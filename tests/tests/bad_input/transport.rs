//! Below the protocol: floods, half-open handshakes, peers that stand still.

use std::net::UdpSocket;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use stentor_proto::wire::{ALPN, Role};
use stentor_relay::quic::config::{SharedKeys, TransportSettings, client_config, client_tls};
use stentor_relay::quic::sys::{BindOptions, bind};
use stentor_relay::quic::{Driver, DriverSettings};

use crate::datagrams::{next_tick, noise};
use crate::peer::{Peer, close_name, endpoint, hello};
use crate::scene::{Counter, Hand, Scene};

const FLOOD_PACKETS: u64 = 20_000;
/// Three times the handshakes that a node has under way by default.
const HALF_OPEN: usize = 3_072;
/// At 50 ticks of some 180 bytes a second, the largest congestion window is full before.
const STALL: Duration = Duration::from_secs(12);

pub(crate) async fn all(scene: &Scene) -> Result<()> {
    small_datagrams(scene).await.context("a client without datagrams")?;
    flood(scene).await.context("a flood of garbage")
}

/// A client that takes no datagrams is refused by name.
async fn small_datagrams(scene: &Scene) -> Result<()> {
    let counter = Counter::drops(scene.relay(), "datagrams_too_small")?;
    let mut transport = quinn::TransportConfig::default();
    transport.datagram_receive_buffer_size(None);
    let endpoint = endpoint(&scene.bed.trust(), transport, ALPN)?;
    let to = scene.level_2();
    let end = match endpoint.connect(to, &to.ip().to_string())?.await {
        Ok(connection) => connection.closed().await,
        Err(end) => end,
    };
    let code = close_name(end)?;
    ensure!(code == "datagrams_too_small", "closed with {code}");
    counter.rose(1.0).await?;
    Ok(())
}

/// Packets that belong to no connection; the node takes newcomers all the same.
async fn flood(scene: &Scene) -> Result<()> {
    let socket = UdpSocket::bind(("127.0.0.1", 0))?;
    for number in 0..FLOOD_PACKETS {
        let packet: Vec<u8> = noise(number, 20 + (number % 1_200) as usize).collect();
        // A queue of the kernel's that is full is part of the flood.
        let _ = socket.send_to(&packet, scene.level_2());
        if number % 500 == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    newcomer(scene).await
}

/// First flights of clients that never answer: above its limit the node keeps nothing of them.
pub(crate) async fn half_open(scene: &Scene) -> Result<()> {
    let retried = Counter::retries(scene.relay())?;
    let now = Instant::now();
    let socket = bind(([127, 0, 0, 1], 0).into(), BindOptions::default())?;
    let keys = SharedKeys::random()?;
    let mut driver = Driver::new(socket, DriverSettings::client(&keys), now)?;
    let tls = client_tls(scene.bed.roots()?, &[ALPN])?;
    let config = client_config(tls, &TransportSettings::default())?;
    let to = scene.level_2();
    let host = to.ip().to_string();
    for number in 0..HALF_OPEN {
        if driver.connect(now, config.clone(), to, &host).is_err() {
            bail!("no connection could be opened");
        }
        driver.flush(now);
        if number % 50 == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    newcomer(scene).await?;
    retried.rose(1_000.0).await?;
    Ok(())
}

/// Someone honest joins and hears.
async fn newcomer(scene: &Scene) -> Result<()> {
    let hello = hello(Role::Listener, None);
    let (peer, _) = Peer::join(&scene.bed.trust(), scene.level_2(), hello).await?;
    next_tick(&peer, false).await?;
    Ok(())
}

/// A client whose thread stands still, so that it reads nothing and acknowledges nothing. What it
/// cannot take is dropped and counted; it goes on where the room is when it wakes.
pub(crate) fn stall(hand: Hand) -> JoinHandle<Result<()>> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let hello = hello(Role::Listener, None);
            let (peer, _) = Peer::join(&hand.trust, hand.relay, hello).await?;
            let before = next_tick(&peer, false).await?;
            std::thread::sleep(STALL);
            let expected = before + 50 * (STALL.as_secs() as u32 - 2);
            let until = Instant::now() + Duration::from_secs(20);
            while next_tick(&peer, false).await? < expected {
                ensure!(Instant::now() < until, "it does not catch up");
            }
            anyhow::Ok(())
        })
    })
}
