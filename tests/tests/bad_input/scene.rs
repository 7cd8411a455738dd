//! An origin, two levels of relays, a speaker, and what the misdeeds share.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use stentor_client::audio::EncoderSettings;
use stentor_client::session::{Connector, Join, Trust};
use stentor_lab::bed::{Bed, Choir, RelayPlan};
use stentor_lab::nodes::Node;
use stentor_origin::mint::{Request, mint};
use stentor_proto::limits;
use stentor_proto::token::Signer;
use stentor_proto::wire::Role;
use stentor_relay::tls::DevDir;

/// The room of the test; anonymous listeners may join it.
pub(crate) const ROOM: &str = "hall";
/// The configuration of the room; its frames are those of the bench's speakers.
const ROOMS: &str = "[[rooms]]\nname = \"hall\"\npublic = true\naudible = 4\nprofile = { custom = \
    { kbit_s = 48, frame_bytes = 120, tick_bytes = 560, redundancy = 0 } }\n\
    [[rooms]]\nname = \"closed\"\n";
/// A counter is read this long until it shows what happened.
const COUNTED_WITHIN: Duration = Duration::from_secs(15);

/// The bed and its keys.
pub(crate) struct Scene {
    pub(crate) bed: Bed,
    pub(crate) connector: Connector,
    /// The directory with the keys that the bed's nodes trust.
    dev: DevDir,
}

/// What a misdeed of its own thread needs of the scene.
#[derive(Clone)]
pub(crate) struct Hand {
    pub(crate) trust: Trust,
    pub(crate) relay: SocketAddr,
}

impl Scene {
    pub(crate) fn set_up() -> Result<(Self, Choir)> {
        let mut bed = Bed::start("bad-input", ROOMS, None)?;
        for level in 1..=2 {
            bed.add_relay(&RelayPlan::new(&format!("relay-{level}"), level))?;
        }
        bed.wait_ready()?;
        let dir = bed.events("origin").parent().context("events lie in a folder")?.join("dev");
        let dev = DevDir::open(&dir)?;
        let joins = vec![bed.stage(ROOM)?];
        let choir = Choir::start(bed.trust(), joins, EncoderSettings::bench(), None)?;
        let connector = Connector::new(&bed.trust())?;
        Ok((Self { bed, connector, dev }, choir))
    }

    pub(crate) fn hand(&self) -> Hand {
        let relay = &self.bed.relays[1];
        Hand { trust: self.bed.trust(), relay: relay.address }
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        std::iter::once(&self.bed.origin).chain(&self.bed.relays)
    }

    /// The relay below a relay: where listeners are.
    pub(crate) fn relay(&self) -> &Node {
        &self.bed.relays[1]
    }

    pub(crate) fn level_2(&self) -> SocketAddr {
        self.relay().address
    }

    /// The key that the bed's nodes trust.
    pub(crate) fn signer(&self) -> &Signer {
        self.dev.signer()
    }

    /// The directory with the bed's authority.
    pub(crate) fn dev(&self) -> &DevDir {
        &self.dev
    }

    /// What an anonymous listener of the level-2 relay says.
    pub(crate) fn listener(&self) -> Join {
        Join {
            address: self.level_2().to_string(),
            room: ROOM.into(),
            role: Role::Listener,
            token: None,
            name: None,
            playout: limits::PLAYOUT,
            last: None,
        }
    }
}

/// Seconds since 1970.
pub(crate) fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A token of an hour, minted at `at`.
pub(crate) fn token(signer: &Signer, room: &str, role: Role, at: u64) -> Result<String> {
    let identity = format!("mallory-{}", role.name());
    let ttl = Duration::from_secs(3_600);
    let request = Request { room: room.into(), role, identity, name: None, ttl };
    Ok(mint(signer, &request, at)?)
}

/// A counter of a node that a misdeed is to raise.
pub(crate) struct Counter<'a> {
    node: &'a Node,
    key: String,
    before: f64,
}

impl<'a> Counter<'a> {
    /// Drops with this cause.
    pub(crate) fn drops(node: &'a Node, cause: &str) -> Result<Self> {
        Self::new(node, format!("stentor_drops_total{{cause=\"{cause}\"}}"))
    }

    /// Ticks with this result.
    pub(crate) fn ticks(node: &'a Node, result: &str) -> Result<Self> {
        Self::new(node, format!("stentor_ticks_total{{result=\"{result}\"}}"))
    }

    /// Frames at the origin with this result.
    pub(crate) fn ingest(node: &'a Node, result: &str) -> Result<Self> {
        Self::new(node, format!("stentor_ingest_total{{result=\"{result}\"}}"))
    }

    /// Sessions closed with this code.
    pub(crate) fn closes(node: &'a Node, code: &str) -> Result<Self> {
        Self::new(node, format!("stentor_closes_total{{code=\"{code}\"}}"))
    }

    /// First packets answered with a Retry.
    pub(crate) fn retries(node: &'a Node) -> Result<Self> {
        Self::new(node, "stentor_retries_total{event=\"answered\"}".to_owned())
    }

    fn new(node: &'a Node, key: String) -> Result<Self> {
        let before = node.metric(&key)?;
        Ok(Self { node, key, before })
    }

    /// Waits until the counter has risen by `by`; returns by how much it has.
    pub(crate) async fn rose(&self, by: f64) -> Result<f64> {
        let until = Instant::now() + COUNTED_WITHIN;
        loop {
            let risen = self.node.metric(&self.key)? - self.before;
            if risen >= by {
                return Ok(risen);
            }
            if Instant::now() > until {
                bail!("{} of {} rose by {risen}, not by {by}", self.key, self.node.name);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
