//! Clients that break HTTP/3 or WebTransport, as plain bytes on quinn's streams.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use quinn::{ConnectionError, VarInt};
use stentor_proto::limits::{H3_FAREWELL, H3_OTHER_BYTES};
use stentor_proto::wire::{ALPN_WEBTRANSPORT, CloseCode, WEBTRANSPORT_PATH};
use stentor_relay::quic::webtransport::{Breach, NO_ERROR};

use crate::peer::endpoint;
use crate::scene::{Counter, Scene};

/// Many times what the node takes, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(50);

/// A control stream with SETTINGS that enable datagrams and WebTransport: those of Chromium 156.
const SETTINGS: [u8; 28] = [
    0x00, 0x04, 0x19, 0x01, 0x80, 0x01, 0x00, 0x00, 0x06, 0x80, 0x00, 0x40, 0x00, 0x07, 0x40, 0x64,
    0x33, 0x01, 0x80, 0xff, 0xd2, 0x77, 0x01, 0xab, 0x60, 0x37, 0x42, 0x01,
];
/// The header of the session's control stream.
const HEADER: [u8; 3] = [0x40, 0x41, 0x00];

pub(crate) async fn all(scene: &Scene) -> Result<()> {
    let junk = vec![0; H3_OTHER_BYTES];
    let uni: [(&[&[u8]], Breach); 6] = [
        (&[&[0x01]], Breach::Stream),
        (&[&SETTINGS, &SETTINGS], Breach::Stream),
        (&[&[0x00, 0x07, 0x01, 0x00]], Breach::NoSettings),
        (&[&[0x00, 0x04, 0x00]], Breach::Settings),
        (&[&[0x00, 0x04, 0x80, 0x02, 0x00, 0x00]], Breach::Excess),
        (&[&SETTINGS, &[&[0x02], &junk[..]].concat()], Breach::Excess),
    ];
    for (streams, breach) in uni {
        closed_for(scene, streams, &[], breach).await?;
    }
    let dynamic = [0x01, 0x03, 0x02, 0x00, 0x80];
    let bidi: [(&[&[u8]], Breach); 5] = [
        (&[&[0x00, 0x01, 0x00]], Breach::Frame),
        (&[&dynamic], Breach::Fields),
        (&[&[&[0x01, 0x7f, 0xff][..], &junk[..8_000]].concat()], Breach::Excess),
        (&[&request(WEBTRANSPORT_PATH), &request(WEBTRANSPORT_PATH)], Breach::Frame),
        (&[&request(WEBTRANSPORT_PATH), &[0x40, 0x41, 0x04]], Breach::Session),
    ];
    for (streams, breach) in bidi {
        closed_for(scene, &[&SETTINGS], streams, breach).await?;
    }
    not_found(scene).await.context("another path")?;
    farewell(scene).await.context("a session that is closed")?;
    never_opened(scene).await.context("an opening that does not end")
}

/// Streams that no browser opens are a breach, which closes the connection and is counted.
async fn closed_for(scene: &Scene, uni: &[&[u8]], bidi: &[&[u8]], breach: Breach) -> Result<()> {
    let counter = Counter::drops(scene.relay(), breach.name())?;
    let connection = Connection::open(scene).await?;
    // The node may close before all is written.
    let _written = connection.write(uni, bidi).await;
    let code = connection.closed().await.with_context(|| breach.name())?;
    ensure!(code == breach.code(), "{} was closed with {code:#x}", breach.name());
    counter.rose(1.0).await?;
    Ok(())
}

/// The connection goes on, for the client's to close.
async fn not_found(scene: &Scene) -> Result<()> {
    let counter = Counter::drops(scene.relay(), "webtransport_not_found")?;
    let connection = Connection::open(scene).await?;
    let mut streams = connection.write(&[&SETTINGS], &[&request("/v1/rooms")]).await?;
    let (_, answer) = streams.bidi.pop().context("the request's stream")?;
    let answer = tokio::time::timeout(PATIENCE, whole(answer)).await??;
    // ":status 404" of the static table (RFC 9204 appendix A).
    ensure!(answer.contains(&(0xc0 | 27)), "{answer:02x?}");
    counter.rose(1.0).await?;
    Ok(())
}

/// A client that does not answer the close of its session is waited for, and not for long.
async fn farewell(scene: &Scene) -> Result<()> {
    let connection = Connection::open(scene).await?;
    let control = [&HEADER[..], b"\x00\x02no"].concat();
    let request = request(WEBTRANSPORT_PATH);
    let mut streams = connection.write(&[&SETTINGS], &[&request, &control]).await?;
    let (_keeps_it_open, answer) = streams.bidi.swap_remove(0);
    let answer = tokio::time::timeout(PATIENCE, whole(answer)).await??;
    let told = Instant::now();
    let code = (CloseCode::Protocol as u32).to_be_bytes();
    ensure!(answer.windows(4).any(|bytes| bytes == code), "{answer:02x?}");
    let code = connection.closed().await?;
    ensure!(code == NO_ERROR, "closed with {code:#x}");
    ensure!(told.elapsed() < 3 * H3_FAREWELL, "it lasted {:?}", told.elapsed());
    Ok(())
}

/// A client that connects and says nothing is given up like a handshake that does not end.
async fn never_opened(scene: &Scene) -> Result<()> {
    let counter = Counter::drops(scene.relay(), "handshakes_slow")?;
    let connection = Connection::open(scene).await?;
    let _streams = connection.write(&[&SETTINGS], &[]).await?;
    connection.closed().await?;
    counter.rose(1.0).await?;
    Ok(())
}

struct Connection {
    quic: quinn::Connection,
    /// Kept: a connection ends with its endpoint.
    _endpoint: quinn::Endpoint,
}

/// Kept: a stream that is dropped ends.
struct Streams {
    _uni: Vec<quinn::SendStream>,
    bidi: Vec<(quinn::SendStream, quinn::RecvStream)>,
}

impl Connection {
    async fn open(scene: &Scene) -> Result<Self> {
        let transport = quinn::TransportConfig::default();
        let endpoint = endpoint(&scene.bed.trust(), transport, ALPN_WEBTRANSPORT)?;
        let to = scene.level_2();
        let quic = endpoint.connect(to, &to.ip().to_string())?.await?;
        Ok(Self { quic, _endpoint: endpoint })
    }

    async fn write(&self, uni: &[&[u8]], bidi: &[&[u8]]) -> Result<Streams> {
        let mut streams = Streams { _uni: Vec::new(), bidi: Vec::new() };
        for bytes in uni {
            let mut stream = self.quic.open_uni().await?;
            stream.write_all(bytes).await?;
            streams._uni.push(stream);
        }
        for bytes in bidi {
            let (mut stream, answer) = self.quic.open_bi().await?;
            stream.write_all(bytes).await?;
            streams.bidi.push((stream, answer));
        }
        Ok(streams)
    }

    /// The code that the node closes the connection with.
    async fn closed(&self) -> Result<u64> {
        match tokio::time::timeout(PATIENCE, self.quic.closed()).await? {
            ConnectionError::ApplicationClosed(close) => Ok(VarInt::into_inner(close.error_code)),
            other => bail!("the connection ended otherwise: {other}"),
        }
    }
}

/// Everything on a stream until it ends.
async fn whole(mut stream: quinn::RecvStream) -> Result<Vec<u8>> {
    Ok(stream.read_to_end(4_096).await?)
}

/// A CONNECT request, spelt with the static table and literals (RFC 9204 section 4.5).
fn request(path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).expect("a short path");
    let mut fields = vec![0x00, 0x00, 0xc0 | 15, 0xc0 | 23, 0x50, 1, b'a', 0x51, length];
    fields.extend_from_slice(path.as_bytes());
    fields.extend_from_slice(b"\x27\x02:protocol\x0cwebtransport");
    let length = u8::try_from(fields.len()).expect("few and short fields");
    assert!(length < 64, "a length of one byte");
    [&[0x01, length][..], &fields].concat()
}
