//! The origin's configuration as it is written: the keys of every node
//! ([`stentor_relay::config::NodeConfig`]) and these.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What an origin is told beside `NodeConfig`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct OriginConfig {
    /// Rooms that exist from the start.
    pub rooms: Vec<RoomConfig>,
    /// Whether a room comes into being when a host or speaker joins it.
    /// Default: in development mode only.
    pub rooms_on_first_use: Option<bool>,
    /// Keys that sign tokens; the first one signs, all of them verify.
    /// Default: the development directory's key.
    pub keys: Vec<KeyConfig>,
    /// Public keys that verify tokens and sign none: those of another service that mints.
    pub verify: Vec<VerifyConfig>,
    /// The tree below this origin.
    pub tree: TreeConfig,
    /// UDP address for the stage and relays alone, which newcomers are never told and cannot use.
    /// Default: none.
    pub stage_listen: Option<String>,
    /// TCP address of the HTTP API and the page, or `off`. Default: the address of `listen`.
    pub http: Option<String>,
    /// File that keeps rooms and bans. Default: in development mode `store.db` in its directory,
    /// else none, and calls whose effect must be kept are refused.
    pub store: Option<PathBuf>,
    /// Requests to the HTTP API that change something, from one address in a second. Default: 50.
    pub http_writes_per_s: Option<u32>,
}

/// `[[rooms]]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoomConfig {
    /// The room's name, as in tokens and hellos. Required.
    pub name: String,
    /// A title for people. Default: the name.
    #[serde(default)]
    pub title: Option<String>,
    /// Whether listeners need no token. Default: false.
    #[serde(default)]
    pub public: Option<bool>,
    /// `voice`, `music`, or `{ custom = { ... } }`. Default: `voice`.
    #[serde(default)]
    pub profile: ProfileConfig,
    /// Speakers that are heard at once. Default: what the profile says.
    #[serde(default)]
    pub audible: Option<u8>,
    /// The cadence: 20, 40 or 60 milliseconds. Default: 20.
    #[serde(default)]
    pub tick_ms: Option<u8>,
}

/// What speakers may send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProfileConfig {
    /// Speech with redundancy.
    #[default]
    Voice,
    /// Music: larger frames, repair instead of redundancy.
    Music,
    /// Numbers of one's own.
    Custom(CustomProfile),
}

/// A profile in numbers; all are required.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustomProfile {
    /// Average rate of a speaker (kbit/s of Opus).
    pub kbit_s: u16,
    /// Bytes of one frame at most.
    pub frame_bytes: u16,
    /// Bytes of one tick record at most.
    pub tick_bytes: u16,
    /// Earlier ticks behind the current one in a datagram: 0, 1 or 2.
    pub redundancy: u8,
}

/// `[[keys]]`: a key that signs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// The key id in tokens. Default: derived from the public key.
    #[serde(default)]
    pub kid: Option<String>,
    /// PEM file with an Ed25519 private key (PKCS#8). Required.
    pub path: PathBuf,
}

/// `[[verify]]`: a key that verifies.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyConfig {
    /// The key id in tokens. Default: derived from the public key.
    #[serde(default)]
    pub kid: Option<String>,
    /// The Ed25519 public key: 32 bytes in base64url without padding. Required.
    pub key: String,
}

/// `[tree]`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TreeConfig {
    /// Relays directly below the origin at most. Default: 16.
    pub origin_children: Option<u32>,
    /// Part of a relay's capacity that child relays may take, 0 to 1. Default: 0.1.
    pub children_share: Option<f64>,
    /// Sessions that one relay may say it carries; more are not counted with. Default: 131072.
    pub relay_capacity: Option<u32>,
}
