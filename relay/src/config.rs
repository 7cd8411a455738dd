//! Configuration as it is written: a TOML file, `STENTOR_*` variables and flags.
//!
//! The structures here are raw; nothing but [`crate::settings`] reads them. A flag wins over the
//! environment, the environment over the file, the file over the default. A key that no program
//! knows is refused. Paths are relative to the working directory.

mod sources;

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

pub use sources::{ConfigError, Secret, Sources};

/// What every node is told, relay and origin alike: the top-level keys that both share.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeConfig {
    /// The node's name, unique in the tree. Default: host name and port.
    #[serde(deserialize_with = "text")]
    pub id: Option<String>,
    /// UDP address to serve on. Default: `[::]:4433` (IPv6 and IPv4).
    pub listen: Option<String>,
    /// `host:port` at which others reach this node. Default: the listen address.
    pub advertise: Option<String>,
    /// Where the node stands; relays of one region are preferred as parents. Default: empty.
    #[serde(deserialize_with = "text")]
    pub region: Option<String>,
    /// Sessions (listeners and children) that the node may carry. Default: 10000.
    pub capacity: Option<u32>,
    /// Threads that carry sessions. Default: one for each core.
    pub shards: Option<usize>,
    /// Core numbers to pin the shards to, one for each. Default: not pinned.
    pub cores: Option<Vec<usize>>,
    /// Private HTTP address for health, metrics and topology, or `off`.
    /// Default: `127.0.0.1:9433`.
    pub admin: Option<String>,
    /// Seconds that a draining node gives its sessions to leave. Default: 30.
    pub drain_s: Option<u64>,
    /// Whether sessions with loss are sent earlier ticks beside the current one. Default: true.
    pub redundancy: Option<bool>,
    /// Whether requests for missing ticks are answered. Default: true.
    pub repair: Option<bool>,
    /// `on`, or `off`: everybody is admitted at once who finds a place. Default: `on`.
    pub admission: Option<String>,
    /// File that gets one JSON line for each event, for analysis. Default: none.
    pub events: Option<PathBuf>,
    /// Certificate, key and trust.
    pub tls: TlsConfig,
    /// Logging.
    pub log: LogConfig,
    /// What the node accepts at most.
    pub limits: LimitsConfig,
}

/// `[tls]`: the operator's PEM files, or a development directory.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the certificate chain, the node's own first. Reloaded when it changes.
    pub cert: Option<PathBuf>,
    /// PEM file with the private key. Reloaded when it changes.
    pub key: Option<PathBuf>,
    /// PEM file with the authorities that other nodes are trusted by. Default: the system's.
    pub ca: Option<PathBuf>,
    /// Development mode: a directory in which authority, keys and token are made when absent.
    pub dev: Option<PathBuf>,
}

/// `[log]`: to standard error.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// `text` or `json`. Default: `text`.
    pub format: Option<String>,
    /// A level (`error`, `warn`, `info`, `debug`, `trace`) or directives for single modules
    /// (`info,stentor_relay=debug`). Default: `info`.
    pub level: Option<String>,
}

/// `[limits]`: what the node accepts at most.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Listeners at once. Default: the capacity.
    pub listeners: Option<u32>,
    /// What may leave for listeners, in Mbit/s. Default: no bound but the listeners.
    pub egress_mbit_s: Option<u32>,
    /// Sessions beside the listeners', for child relays. Default: 64.
    pub children: Option<u32>,
    /// Newcomers admitted in a second. Default: 2000.
    pub joins_per_s: Option<u32>,
    /// Listeners that return with a pass, admitted in a second. Default: 2000.
    pub returns_per_s: Option<u32>,
    /// Answers in a second to those who wait. Default: 1000.
    pub tickets_per_s: Option<u32>,
    /// Handshakes in flight. Default: 1024.
    pub handshakes: Option<u32>,
    /// The part of its handshakes that one network has while they are short, in percent. Default: 25.
    pub network_percent: Option<u32>,
}

/// What a relay is told beside [`NodeConfig`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RelayConfig {
    /// `host:port` of the origin. Required.
    pub origin: Option<String>,
    /// The relay's token, minted by the origin's operator.
    pub token: Option<Secret>,
    /// File that holds the relay's token.
    pub token_file: Option<PathBuf>,
    /// The level that the operator wants. Default: the origin's planner chooses.
    pub level: Option<u8>,
}

/// A name that may be written as a number, too: `STENTOR_ID=7`.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a text")]
    enum Text {
        Text(String),
        Number(i64),
    }
    Option::<Text>::deserialize(deserializer).map(|text| {
        text.map(|text| match text {
            Text::Text(text) => text,
            Text::Number(number) => number.to_string(),
        })
    })
}
