//! The origin's configuration as it is used: validated, keys read.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;
use stentor_proto::limits;
use stentor_proto::token::{Signer, Verifier, decode_public, key_id};
use stentor_relay::config::{ConfigError, NodeConfig, Sources};
use stentor_relay::settings::{NodeKind, NodeSettings, TlsSettings, read_secret};

use crate::config::{CustomProfile, OriginConfig, ProfileConfig, RoomConfig, TreeConfig};

/// Everything an origin needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What relay and origin share.
    pub node: NodeSettings,
    /// Rooms that exist from the start.
    pub rooms: Vec<RoomSettings>,
    /// Whether a room comes into being when a host or speaker joins it.
    pub rooms_on_first_use: bool,
    /// Keys; in development mode without any, the directory's key is added at start.
    pub keys: Keys,
    /// The tree below this origin.
    pub tree: TreeSettings,
    /// The HTTP API and the page.
    pub http: HttpSettings,
    /// UDP address for the stage and relays alone, if there is one.
    pub stage_listen: Option<SocketAddr>,
    /// File that keeps rooms and bans.
    pub store: Option<PathBuf>,
}

/// The HTTP API and the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// Where it listens.
    pub listen: HttpListen,
    /// Requests that change something, from one address in a second.
    pub writes_per_s: u32,
}

/// Where the HTTP API listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpListen {
    /// On the TCP port of the node's UDP port.
    Node,
    /// Elsewhere.
    At(SocketAddr),
    /// Nowhere.
    Off,
}

/// One room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomSettings {
    /// Its name.
    pub name: String,
    /// Its title.
    pub title: String,
    /// Whether listeners need no token.
    pub public: bool,
    /// What speakers may send.
    pub profile: ProfileSettings,
    /// Speakers that are heard at once; what the profile says if absent.
    pub audible: Option<u8>,
    /// The cadence in milliseconds.
    pub tick_ms: u8,
}

/// What speakers of a room may send.
pub type ProfileSettings = ProfileConfig;

/// The tree below an origin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TreeSettings {
    /// Relays directly below the origin at most.
    pub origin_children: u32,
    /// Part of a relay's capacity that child relays may take, 0 to 1.
    pub children_share: f64,
    /// Sessions that one relay may say it carries.
    pub relay_capacity: u32,
}

/// Keys that sign and verify tokens. `Debug` shows key ids alone.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    /// Those that sign; the first one is used.
    pub signers: Vec<Signer>,
    /// Every public key by its id, those of the signers included.
    pub public: BTreeMap<String, [u8; 32]>,
}

impl Keys {
    /// Adds a signing key.
    pub fn add(&mut self, signer: Signer) {
        self.public.insert(signer.kid().to_owned(), signer.public());
        self.signers.push(signer);
    }

    /// A verifier for all of them.
    ///
    /// # Errors
    /// When there are more than a verifier holds.
    pub fn verifier(&self) -> Result<Verifier, stentor_proto::token::KeyError> {
        Verifier::new(self.public.iter().map(|(kid, key)| (kid.clone(), *key)))
    }
}

impl Settings {
    /// Reads file, environment and flags and validates them.
    ///
    /// # Errors
    /// The first mistake, with its key, value and place.
    pub fn load(file: Option<&Path>, flags: impl Serialize) -> Result<Self, ConfigError> {
        let sources = Sources::new(file, flags)?;
        let (node, origin) = sources.read::<NodeConfig, OriginConfig>()?;
        let node = NodeSettings::validate(&sources, &node, NodeKind::Origin)?;
        let keys = validate_keys(&sources, &origin)?;
        if keys.signers.is_empty() && !node.tls.is_dev() {
            let problem = "is missing; name at least one Ed25519 key: [[keys]] path = \"...\" \
                (make one: openssl genpkey -algorithm ed25519)";
            return Err(sources.wrong("keys", problem));
        }
        Ok(Self {
            rooms: validate_rooms(&sources, &origin.rooms)?,
            rooms_on_first_use: origin.rooms_on_first_use.unwrap_or(node.tls.is_dev()),
            keys,
            tree: validate_tree(&sources, &origin.tree)?,
            stage_listen: validate_stage(&sources, &origin, &node)?,
            http: validate_http(&sources, &origin)?,
            store: store_path(&origin, &node.tls),
            node,
        })
    }

    /// What is in force, for people: no secret is in it.
    #[must_use]
    pub fn summary(&self) -> String {
        let rooms = self.rooms.iter().map(|room| {
            let who = if room.public { "public" } else { "by token" };
            format!("\n  room       {} ({who}, ticks of {} ms)", room.name, room.tick_ms)
        });
        let rooms: String = rooms.collect();
        let first_use = if self.rooms_on_first_use { "made on first use" } else { "as listed" };
        let signers: Vec<&str> = self.keys.signers.iter().map(Signer::kid).collect();
        let keys = if signers.is_empty() { "made at start".to_owned() } else { signers.join(", ") };
        let node = self.node.summary();
        format!("{node}\n  keys       {keys}\n  rooms      {first_use}{rooms}")
    }
}

/// Reads the keys alone, as the minting of tokens needs them: a certificate is none of its
/// business.
///
/// # Errors
/// The first mistake, with its key, value and place.
pub fn load_keys(
    file: Option<&Path>,
    flags: impl Serialize,
) -> Result<(Keys, Option<PathBuf>), ConfigError> {
    let sources = Sources::new(file, flags)?;
    let (node, origin) = sources.read::<NodeConfig, OriginConfig>()?;
    Ok((validate_keys(&sources, &origin)?, node.tls.dev))
}

fn validate_keys(sources: &Sources, origin: &OriginConfig) -> Result<Keys, ConfigError> {
    let mut keys = Keys::default();
    for (i, key) in origin.keys.iter().enumerate() {
        let wrong = |problem: String| {
            let problem = format!("{}: {problem}", key.path.display());
            sources.wrong(&format!("keys.{i}.path"), problem)
        };
        let pem = read_secret(&key.path).map_err(wrong)?;
        let signer = Signer::from_pkcs8_pem(pem.expose(), key.kid.as_deref());
        let signer = signer.map_err(|error| wrong(error.to_string()))?;
        if keys.public.contains_key(signer.kid()) {
            return Err(wrong(format!("its key id {} is there already", signer.kid())));
        }
        keys.add(signer);
    }
    for (i, key) in origin.verify.iter().enumerate() {
        let wrong = |problem: String| sources.wrong(&format!("verify.{i}.key"), problem);
        let public = decode_public(&key.key).map_err(|error| wrong(error.to_string()))?;
        let kid = key.kid.clone().unwrap_or_else(|| key_id(&public));
        if keys.public.insert(kid.clone(), public).is_some() {
            return Err(wrong(format!("its key id {kid} is there already")));
        }
    }
    if keys.public.len() > limits::TOKEN_KEYS {
        let problem = format!("has too many; {} keys are allowed", limits::TOKEN_KEYS);
        return Err(sources.wrong("keys", problem));
    }
    keys.verifier().map_err(|error| sources.wrong("keys", error.to_string()))?;
    Ok(keys)
}

fn validate_rooms(
    sources: &Sources,
    rooms: &[RoomConfig],
) -> Result<Vec<RoomSettings>, ConfigError> {
    if rooms.len() > limits::ROOMS {
        let problem = format!("has {} rooms; {} are allowed", rooms.len(), limits::ROOMS);
        return Err(sources.wrong("rooms", problem));
    }
    let mut valid: Vec<RoomSettings> = Vec::new();
    for (i, room) in rooms.iter().enumerate() {
        let wrong = |key: &str, problem: String| {
            let problem = format!("room {:?}: {problem}", room.name);
            Err(sources.wrong(&format!("rooms.{i}.{key}"), problem))
        };
        let len_ok = (1..=limits::NAME_BYTES).contains(&room.name.len());
        if !len_ok || room.name == "*" || room.name.contains(char::is_control) {
            let most = limits::NAME_BYTES;
            return wrong("name", format!("write 1 to {most} bytes, and not *"));
        }
        if valid.iter().any(|other| other.name == room.name) {
            return wrong("name", "is there twice".to_owned());
        }
        let title = room.title.clone().unwrap_or_else(|| room.name.clone());
        if title.len() > limits::NAME_BYTES || title.contains(char::is_control) {
            return wrong("title", format!("write at most {} bytes", limits::NAME_BYTES));
        }
        let tick_ms = room.tick_ms.unwrap_or(limits::TICK_MS[0]);
        if !limits::TICK_MS.contains(&tick_ms) {
            return wrong("tick_ms", "must be 20, 40 or 60".to_owned());
        }
        if room.audible.is_some_and(|n| n == 0 || usize::from(n) > limits::AUDIBLE_MOST) {
            return wrong("audible", format!("must be 1 to {}", limits::AUDIBLE_MOST));
        }
        if let ProfileConfig::Custom(profile) = &room.profile
            && let Err(problem) = check_profile(profile)
        {
            return wrong("profile", problem);
        }
        valid.push(RoomSettings {
            name: room.name.clone(),
            title,
            public: room.public.unwrap_or(false),
            profile: room.profile,
            audible: room.audible,
            tick_ms,
        });
    }
    Ok(valid)
}

/// What can be said of a profile by itself: each number is within what a datagram holds.
fn check_profile(profile: &CustomProfile) -> Result<(), String> {
    let record = limits::RECORD_HEADER_BYTES + 1 + limits::FRAME_HEADER_BYTES;
    let (frame, tick) = (usize::from(profile.frame_bytes), usize::from(profile.tick_bytes));
    let average = usize::from(profile.kbit_s) * 1_000 / 8 / 50;
    if frame == 0 || frame > limits::FRAME_BYTES {
        return Err(format!("frame_bytes must be 1 to {}", limits::FRAME_BYTES));
    }
    if average == 0 || average > frame {
        return Err(format!(
            "kbit_s = {} means frames of {average} bytes on average; write 1 to {} kbit/s \
             or a larger frame_bytes",
            profile.kbit_s,
            frame * 8 * 50 / 1_000
        ));
    }
    if tick < record + frame {
        return Err(format!("tick_bytes must be at least {}", record + frame));
    }
    if usize::from(profile.redundancy) > limits::EARLIER_TICKS {
        return Err(format!("redundancy must be 0 to {}", limits::EARLIER_TICKS));
    }
    let sum = limits::DATAGRAM_HEADER_BYTES + tick * (1 + usize::from(profile.redundancy));
    if sum > limits::DATAGRAM_BYTES {
        return Err(format!(
            "a tick and its redundancy take {sum} bytes; a datagram has {}",
            limits::DATAGRAM_BYTES
        ));
    }
    Ok(())
}

fn validate_stage(
    sources: &Sources,
    origin: &OriginConfig,
    node: &NodeSettings,
) -> Result<Option<SocketAddr>, ConfigError> {
    let Some(text) = origin.stage_listen.as_deref() else { return Ok(None) };
    let wrong = |problem: &str| sources.wrong("stage_listen", problem.to_owned());
    let address: SocketAddr = text.parse().map_err(|_| wrong("must be ADDRESS:PORT"))?;
    if address == node.listen && address.port() != 0 {
        return Err(wrong("is the address of listen; name another"));
    }
    Ok(Some(address))
}

/// Where the configuration keeps rooms and bans, if anywhere.
///
/// # Errors
/// When the configuration cannot be read.
pub fn store_of(
    file: Option<&Path>,
    flags: impl Serialize,
) -> Result<Option<PathBuf>, ConfigError> {
    let sources = Sources::new(file, flags)?;
    let (node, origin) = sources.read::<NodeConfig, OriginConfig>()?;
    Ok(origin.store.or_else(|| node.tls.dev.map(|dir| dir.join("store.db"))))
}

fn store_path(origin: &OriginConfig, tls: &TlsSettings) -> Option<PathBuf> {
    match (&origin.store, tls) {
        (Some(path), _) => Some(path.clone()),
        (None, TlsSettings::Dev { dir }) => Some(dir.join("store.db")),
        (None, TlsSettings::Files { .. }) => None,
    }
}

fn validate_http(sources: &Sources, origin: &OriginConfig) -> Result<HttpSettings, ConfigError> {
    let listen = match origin.http.as_deref() {
        None => HttpListen::Node,
        Some("off") => HttpListen::Off,
        Some(text) => match text.parse() {
            Ok(address) => HttpListen::At(address),
            Err(_) => return Err(sources.wrong("http", "must be ADDRESS:PORT, or off")),
        },
    };
    let writes_per_s = origin.http_writes_per_s.unwrap_or(limits::HTTP_WRITES_PER_S);
    if !(1..=1_000_000).contains(&writes_per_s) {
        return Err(sources.wrong("http_writes_per_s", "must be 1 to 1000000"));
    }
    Ok(HttpSettings { listen, writes_per_s })
}

fn validate_tree(sources: &Sources, tree: &TreeConfig) -> Result<TreeSettings, ConfigError> {
    let origin_children = tree.origin_children.unwrap_or(limits::ORIGIN_CHILDREN);
    let most = limits::RELAYS;
    if origin_children == 0 || origin_children as usize > most {
        let problem = format!("must be 1 to {most}");
        return Err(sources.wrong("tree.origin_children", problem));
    }
    let children_share = tree.children_share.unwrap_or(0.1);
    if !(0.0..=1.0).contains(&children_share) {
        return Err(sources.wrong("tree.children_share", "must be 0 to 1"));
    }
    let relay_capacity = tree.relay_capacity.unwrap_or(limits::RELAY_CAPACITY);
    if relay_capacity == 0 {
        return Err(sources.wrong("tree.relay_capacity", "must be 1 or more"));
    }
    Ok(TreeSettings { origin_children, children_share, relay_capacity })
}
