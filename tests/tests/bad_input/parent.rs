//! A relay that is in the tree by right and lies to its child: ticks and beacons from the future, and
//! other bytes under the numbers of real ticks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use quinn::crypto::rustls::QuicServerConfig;
use stentor_proto::limits;
use stentor_proto::wire::{
    ALPN, Beacon, ClientMessage, ControlDecoder, Datagram, FEATURES, Framing, Load, RelayInfo,
    Role, ServerMessage, Subscribed, TickFlags, TickKey, VERSION, Welcome, beacon_bytes,
    encode_control, record_bytes, ticks_bytes,
};
use stentor_relay::quic::config::server_tls;

use crate::peer::{Peer, hello};
use crate::scene::{Counter, ROOM, Scene, token, unix_s};

const NAME: &str = "mallory";
/// The lie comes after the truth: unsigned, the first copy counts.
const AFTER: Duration = Duration::from_millis(40);
/// How long the tree may take to make the liar a parent.
const PLACED_WITHIN: Duration = Duration::from_secs(30);
/// What the child is to count of each lie.
const LIES: f64 = 20.0;

/// The child counts each lie, keeps its other parent's ticks, and is not fooled into waiting for what
/// does not exist. That its listeners miss nothing is for the bystanders to say.
pub(crate) async fn all(scene: &Scene) -> Result<()> {
    let relay = scene.relay();
    let conflicts = Counter::ticks(relay, "conflict")?;
    let ahead = Counter::drops(relay, "too_far_ahead")?;
    let lost = Counter::ticks(relay, "lost")?;
    let endpoint = server(scene)?;
    let (mut registered, room) = register(scene, endpoint.local_addr()?).await?;
    let accepted = async {
        let incoming = endpoint.accept().await.context("the server is open")?;
        child(incoming.await?, &room).await
    };
    let child = tokio::time::timeout(PLACED_WITHIN, accepted).await;
    let child = child.context("the tree did not make the liar a parent")??;
    let (source, _) =
        Peer::join(&scene.bed.trust(), scene.bed.origin.address, hello(Role::Listener, None))
            .await?;
    let counted = async {
        let risen = (conflicts.rose(LIES).await?, ahead.rose(2.0 * LIES).await?);
        anyhow::Ok(risen)
    };
    tokio::select! {
        end = lie(&source, &child) => end.context("the liar")?,
        end = report(&mut registered) => end.context("the liar's reports")?,
        risen = counted => drop(risen?),
    }
    ensure!(lost.rose(0.0).await? == 0.0, "the child lost ticks");
    endpoint.close(0_u32.into(), b"enough");
    Ok(())
}

/// Forwards each tick too late and altered, with a tick and a beacon from the future.
async fn lie(source: &Peer, child: &Child) -> Result<()> {
    loop {
        let datagram = Datagram::parse(source.connection.read_datagram().await?)?;
        let Datagram::Ticks { room, epoch, replay: false, records, .. } = datagram else {
            continue;
        };
        let Some(record) = records.first().filter(|record| !record.payload.is_empty()) else {
            continue;
        };
        let mut bytes = record.bytes.to_vec();
        *bytes.last_mut().context("a record has a header")? ^= 1;
        let other = ticks_bytes(Framing::Quic, room, epoch, false, 0, &[bytes.into()]);
        let number = record.number + 2 * limits::TICKS_AHEAD;
        let future = record_bytes(number, record.clock_us, 20, TickFlags::default(), &[]);
        let future = ticks_bytes(Framing::Quic, room, epoch, false, u32::MAX, &[future]);
        let newest = TickKey { room, epoch, number };
        let beacon = Beacon { newest, pending: u32::MAX, upstream_silent_ms: 0 };
        let lies = [future, beacon_bytes(Framing::Quic, &beacon), other];
        let connection = child.connection.clone();
        tokio::spawn(async move {
            tokio::time::sleep(AFTER).await;
            for lie in lies {
                // A child that has left has been lied to enough.
                let _ = connection.send_datagram(lie);
            }
        });
    }
}

/// Reports once a second, as the tree expects it.
async fn report(registered: &mut Peer) -> Result<()> {
    for sequence in 1.. {
        let load = Load { incarnation: 1, sequence, ..Load::default() };
        registered.say(&ClientMessage::Load(load)).await?;
        tokio::time::sleep(limits::LOAD_EVERY).await;
    }
    Ok(())
}

/// A place on the first level, by a good token, and the room as an honest node describes it.
async fn register(scene: &Scene, at: SocketAddr) -> Result<(Peer, Subscribed)> {
    let (trust, origin) = (scene.bed.trust(), scene.bed.origin.address);
    let (_, welcome) = Peer::join(&trust, origin, hello(Role::Listener, None)).await?;
    let room = welcome.room.context("a listener's welcome names the room")?;
    let mut hello = hello(Role::Relay, Some(token(scene.signer(), "", Role::Relay, unix_s())?));
    hello.relay = Some(RelayInfo {
        // The token that the scene mints is bound to this name.
        id: format!("{NAME}-relay"),
        address: at.to_string(),
        region: String::new(),
        capacity: 100,
        level: Some(1),
        incarnation: 1,
        pass_key: None,
        certificate_hashes: Vec::new(),
    });
    let (registered, _) = Peer::join(&trust, origin, hello).await?;
    Ok((registered, room))
}

/// A child relay that has subscribed to the room.
struct Child {
    connection: quinn::Connection,
    /// Kept: the control stream lasts as long as the session.
    _control: (quinn::SendStream, quinn::RecvStream),
}

/// Greets a child as a parent does, and waits until it follows the room.
async fn child(connection: quinn::Connection, room: &Subscribed) -> Result<Child> {
    let (mut send, mut recv) = connection.accept_bi().await?;
    let mut decoder = ControlDecoder::default();
    loop {
        while let Some(message) = decoder.next_message::<ClientMessage>()? {
            let answer = match message {
                ClientMessage::Hello(hello) => {
                    let id = hello.relay.context("a child says who it is")?.id;
                    ServerMessage::Welcome(welcome(id))
                }
                ClientMessage::Subscribe { room: name } if name == ROOM => {
                    let answer = ServerMessage::Subscribed(room.clone());
                    send.write_all(&encode_control(&answer)).await?;
                    return Ok(Child { connection, _control: (send, recv) });
                }
                ClientMessage::Load(_) => continue,
                other => bail!("a child says {other:?}"),
            };
            send.write_all(&encode_control(&answer)).await?;
        }
        let chunk = recv.read_chunk(limits::CONTROL_BYTES, true).await?;
        decoder.push(&chunk.context("the control stream ended")?.bytes);
    }
}

fn welcome(identity: String) -> Welcome {
    Welcome {
        version: VERSION,
        features: FEATURES.map(str::to_owned).to_vec(),
        agent: NAME.into(),
        identity,
        role: Role::Relay,
        room: None,
        slot: None,
        frame_bytes: None,
        repair_ms: None,
        alternates: Vec::new(),
        pass: None,
        keys: Vec::new(),
    }
}

/// A server with a good certificate of the bed's authority.
fn server(scene: &Scene) -> Result<quinn::Endpoint> {
    let (chain, key) = scene.dev().issue(&["127.0.0.1".to_owned()], SystemTime::now())?;
    let crypto = QuicServerConfig::try_from(server_tls(chain, key, &[ALPN])?)?;
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    Ok(quinn::Endpoint::server(config, ([127, 0, 0, 1], 0).into())?)
}
