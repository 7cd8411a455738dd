//! What relay and origin share.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use stentor_proto::admission::DoorSettings;
use stentor_proto::limits;

use super::parse::{HostPort, name, socket_addr, within};
use crate::config::{ConfigError, LimitsConfig, LogConfig, NodeConfig, Sources, TlsConfig};
use crate::quic::GateSettings;

/// Shards of one process at most: connection ids carry the shard in one byte.
const SHARDS: usize = 64;
/// The highest core number that Linux's affinity mask of the usual size holds.
const CORES: usize = 1_023;

/// Which program validates: what it may leave out differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A relay: others must be able to reach it at an address that it can name.
    Relay,
    /// An origin: those who come have its address already.
    Origin,
}

/// What relay and origin share.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// The node's name, unique in the tree.
    pub id: String,
    /// UDP address to serve on; port 0 takes any.
    pub listen: SocketAddr,
    /// Where others reach this node; see [`NodeSettings::advertised`].
    pub advertise: Option<HostPort>,
    /// Where the node stands; empty if nowhere in particular.
    pub region: String,
    /// Sessions that it may carry.
    pub capacity: u32,
    /// Threads that carry sessions.
    pub shards: usize,
    /// The core of each shard; not pinned if absent.
    pub cores: Option<Vec<usize>>,
    /// Private HTTP address; off if absent.
    pub admin: Option<SocketAddr>,
    /// How long a draining node waits for its sessions.
    pub drain: Duration,
    /// Whether sessions with loss are sent earlier ticks beside the current one.
    pub redundancy: bool,
    /// Whether requests for missing ticks are answered.
    pub repair: bool,
    /// Whether joins are shaped.
    pub admission: bool,
    /// File for one JSON line per event.
    pub events: Option<PathBuf>,
    /// Certificate, key and trust.
    pub tls: TlsSettings,
    /// Logging.
    pub log: LogSettings,
    /// What the node accepts at most.
    pub limits: LimitSettings,
}

/// Where certificate, key and trust come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsSettings {
    /// The operator's PEM files.
    Files {
        /// Certificate chain.
        cert: PathBuf,
        /// Private key.
        key: PathBuf,
        /// Trusted authorities; the system's if absent.
        ca: Option<PathBuf>,
    },
    /// Development mode: an authority of one's own.
    Dev {
        /// The directory that holds it.
        dir: PathBuf,
    },
}

impl TlsSettings {
    /// Whether this is development mode.
    #[must_use]
    pub const fn is_dev(&self) -> bool {
        matches!(self, Self::Dev { .. })
    }
}

/// How to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Text for people or JSON for machines.
    pub format: LogFormat,
    /// Level or directives, already found valid.
    pub level: String,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What the node accepts at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// Listeners at once.
    pub listeners: u32,
    /// What may leave for listeners (Mbit/s); without a bound if absent.
    pub egress_mbit_s: Option<u32>,
    /// Child relays at once.
    pub children: u32,
    /// Newcomers admitted in a second.
    pub joins_per_s: u32,
    /// Returning listeners admitted in a second.
    pub returns_per_s: u32,
    /// Answers in a second to those who wait.
    pub tickets_per_s: u32,
    /// Handshakes in flight.
    pub handshakes: u32,
    /// The part of its handshakes that one network has while they are short (percent).
    pub network_percent: u32,
}

impl NodeSettings {
    /// Validates the shared half of a configuration.
    ///
    /// # Errors
    /// The first mistake, with its key, value and place.
    pub fn validate(
        sources: &Sources,
        config: &NodeConfig,
        kind: NodeKind,
    ) -> Result<Self, ConfigError> {
        let at = |key: &'static str| move |problem: String| sources.wrong(key, problem);
        let listen = config.listen.as_deref().unwrap_or("[::]:4433");
        let listen = socket_addr(listen).map_err(at("listen"))?;
        let tls = validate_tls(sources, &config.tls)?;
        let advertise = config.advertise.as_deref().map(HostPort::parse);
        let advertise = advertise.transpose().map_err(at("advertise"))?;
        let unreachable = advertise.is_none() && listen.ip().is_unspecified();
        if kind == NodeKind::Relay && unreachable && !tls.is_dev() {
            let problem = format!(
                "is missing; {listen} is every address and none that others \
                can be sent to: write the host:port at which they reach this relay"
            );
            return Err(sources.wrong("advertise", problem));
        }
        let (shards, cores) = validate_cores(sources, config)?;
        let carried = u32::try_from(shards).unwrap_or(u32::MAX) * limits::SESSIONS_PER_SHARD;
        let capacity = within(config.capacity.unwrap_or(10_000), 1, carried);
        let capacity = capacity.map_err(at("capacity"))?;
        let admin = match config.admin.as_deref().unwrap_or("127.0.0.1:9433") {
            "off" => None,
            text => Some(socket_addr(text).map_err(|e| sources.wrong("admin", e + ", or off"))?),
        };
        let region = match config.region.as_deref() {
            None | Some("") => String::new(),
            Some(region) => name(region).map_err(at("region"))?,
        };
        let id = match &config.id {
            Some(id) => name(id).map_err(at("id"))?,
            None => default_id(listen),
        };
        let drain_s = within(config.drain_s.unwrap_or(30), 0, 3_600).map_err(at("drain_s"))?;
        Ok(Self {
            id,
            listen,
            advertise,
            region,
            capacity,
            shards,
            cores,
            admin,
            drain: Duration::from_secs(drain_s),
            redundancy: config.redundancy.unwrap_or(true),
            repair: config.repair.unwrap_or(true),
            admission: match config.admission.as_deref() {
                None | Some("on") => true,
                Some("off") => false,
                Some(_) => return Err(sources.wrong("admission", "must be on or off")),
            },
            events: config.events.clone(),
            tls,
            log: validate_log(sources, &config.log)?,
            limits: validate_limits(sources, &config.limits, capacity)?,
        })
    }

    /// What is in force, for people, a line each.
    #[must_use]
    pub fn summary(&self) -> String {
        let tls = match &self.tls {
            TlsSettings::Files { cert, key, .. } => {
                format!("{} and {}", cert.display(), key.display())
            }
            TlsSettings::Dev { dir } => format!("development mode, {}", dir.display()),
        };
        let admin = self.admin.map_or("off".to_owned(), |admin| admin.to_string());
        let lines = [
            ("id", self.id.clone()),
            ("listen", self.listen.to_string()),
            ("advertise", self.advertised(self.listen).to_string()),
            (
                "region",
                if self.region.is_empty() { "none".to_owned() } else { self.region.clone() },
            ),
            ("shards", self.shards.to_string()),
            ("capacity", format!("{} sessions", self.capacity)),
            ("listeners", format!("{} at most", self.limits.listeners)),
            ("children", format!("{} at most", self.limits.children)),
            ("admission", if self.admission { "on".to_owned() } else { "off".to_owned() }),
            ("joins", format!("{} a second at most", self.limits.joins_per_s)),
            ("admin", admin),
            ("tls", tls),
            ("drain", format!("{} s", self.drain.as_secs())),
        ];
        let lines = lines.map(|(key, value)| format!("\n  {key:<10} {value}"));
        format!("the configuration is right:{}", lines.concat())
    }

    /// Sessions that it carries: what its capacity and its limits both allow.
    #[must_use]
    pub fn sessions(&self) -> u32 {
        self.capacity.min(self.limits.listeners.saturating_add(self.limits.children))
    }

    /// What its door lets in.
    #[must_use]
    pub const fn door(&self) -> DoorSettings {
        let limits = self.limits;
        DoorSettings {
            on: self.admission,
            listeners: limits.listeners,
            egress_kbit_s: match limits.egress_mbit_s {
                Some(mbit_s) => mbit_s.saturating_mul(1_000),
                None => u32::MAX,
            },
            joins_per_s: limits.joins_per_s,
            returns_per_s: limits.returns_per_s,
            tickets_per_s: limits.tickets_per_s,
            stage_only: false,
        }
    }

    /// The handshakes that it starts: those that its door answers in a second, whatever becomes of them,
    /// and Retry once half of those that may be under way are.
    #[must_use]
    pub fn gate(&self) -> GateSettings {
        let limits = &self.limits;
        let in_flight = usize::try_from(limits.handshakes).unwrap_or(usize::MAX);
        let retry_above = in_flight.div_ceil(2);
        if !self.admission {
            return GateSettings { retry_above, ..GateSettings::OPEN };
        }
        let per_s = limits.joins_per_s.saturating_add(limits.returns_per_s);
        let per_s = per_s.saturating_add(limits.tickets_per_s);
        let network_percent = limits.network_percent;
        GateSettings { per_s, in_flight, retry_above, network_percent }
    }

    /// Newcomers that it tells the origin it takes in a second; none where joins are not shaped.
    #[must_use]
    pub fn joins_per_s(&self) -> Option<u32> {
        self.admission.then_some(self.limits.joins_per_s)
    }

    /// Where others reach this node once it is bound to `bound`: what the operator says, else
    /// that address, else (bound to every address) this machine.
    #[must_use]
    pub fn advertised(&self, bound: SocketAddr) -> HostPort {
        match &self.advertise {
            Some(advertise) => advertise.clone(),
            None if bound.ip().is_unspecified() => {
                HostPort { host: "127.0.0.1".to_owned(), port: bound.port() }
            }
            None => HostPort::from(bound),
        }
    }
}

fn validate_tls(sources: &Sources, tls: &TlsConfig) -> Result<TlsSettings, ConfigError> {
    let wrong = |key, problem: &str| Err(sources.wrong(key, problem));
    match (&tls.dev, &tls.cert, &tls.key) {
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => wrong(
            "tls.dev",
            "is development mode, and tls.cert and tls.key are not; keep one of the two",
        ),
        (Some(_), ..) if tls.ca.is_some() => wrong(
            "tls.ca",
            "is not used in development mode, which trusts its own authority; leave it out",
        ),
        (Some(dir), ..) => Ok(TlsSettings::Dev { dir: dir.clone() }),
        (None, Some(cert), Some(key)) => {
            Ok(TlsSettings::Files { cert: cert.clone(), key: key.clone(), ca: tls.ca.clone() })
        }
        (None, None, _) => wrong(
            "tls.cert",
            "is missing; name the PEM files tls.cert and tls.key, or give --dev to try things out",
        ),
        (None, Some(_), None) => wrong("tls.key", "is missing; name the PEM file of the key"),
    }
}

fn validate_cores(
    sources: &Sources,
    config: &NodeConfig,
) -> Result<(usize, Option<Vec<usize>>), ConfigError> {
    let at = |key: &'static str| move |problem: String| sources.wrong(key, problem);
    let Some(cores) = &config.cores else {
        let available = std::thread::available_parallelism().map_or(1, usize::from);
        let shards = config.shards.unwrap_or(available.min(SHARDS));
        return Ok((within(shards, 1, SHARDS).map_err(at("shards"))?, None));
    };
    let shards = config.shards.unwrap_or(cores.len());
    if shards != cores.len() || cores.is_empty() {
        let problem = format!("names {} cores for {shards} shards; name one each", cores.len());
        return Err(sources.wrong("cores", problem));
    }
    within(shards, 1, SHARDS).map_err(at("cores"))?;
    for (i, core) in cores.iter().enumerate() {
        within(*core, 0, CORES).map_err(at("cores"))?;
        if cores[..i].contains(core) {
            return Err(sources.wrong("cores", format!("names core {core} twice")));
        }
    }
    Ok((shards, Some(cores.clone())))
}

fn validate_log(sources: &Sources, log: &LogConfig) -> Result<LogSettings, ConfigError> {
    let format = match log.format.as_deref() {
        None | Some("text") => LogFormat::Text,
        Some("json") => LogFormat::Json,
        Some(_) => return Err(sources.wrong("log.format", "must be text or json")),
    };
    let level = log.level.clone().unwrap_or_else(|| "info".to_owned());
    if let Err(error) = tracing_subscriber::EnvFilter::try_new(&level) {
        let problem = format!(
            "is no level ({error}); write error, warn, info, debug, trace, \
             or directives like info,stentor_relay=debug"
        );
        return Err(sources.wrong("log.level", problem));
    }
    Ok(LogSettings { format, level })
}

fn validate_limits(
    sources: &Sources,
    config: &LimitsConfig,
    capacity: u32,
) -> Result<LimitSettings, ConfigError> {
    let at = |key: &'static str| move |problem: String| sources.wrong(key, problem);
    let relays = u32::try_from(limits::RELAYS).unwrap_or(u32::MAX);
    let handshakes = u32::try_from(limits::PENDING_JOINS).unwrap_or(u32::MAX);
    let rate = |value: Option<u32>, default, key| {
        within(value.unwrap_or(default), 1, 1_000_000).map_err(at(key))
    };
    Ok(LimitSettings {
        listeners: within(config.listeners.unwrap_or(capacity), 0, capacity)
            .map_err(at("limits.listeners"))?,
        egress_mbit_s: config
            .egress_mbit_s
            .map(|mbit_s| within(mbit_s, 1, 1_000_000))
            .transpose()
            .map_err(at("limits.egress_mbit_s"))?,
        children: within(config.children.unwrap_or(64), 0, relays)
            .map_err(at("limits.children"))?,
        joins_per_s: rate(config.joins_per_s, 2_000, "limits.joins_per_s")?,
        returns_per_s: rate(config.returns_per_s, 2_000, "limits.returns_per_s")?,
        tickets_per_s: rate(config.tickets_per_s, 1_000, "limits.tickets_per_s")?,
        handshakes: within(config.handshakes.unwrap_or(1_024), 1, handshakes)
            .map_err(at("limits.handshakes"))?,
        network_percent: within(config.network_percent.unwrap_or(25), 1, 100)
            .map_err(at("limits.network_percent"))?,
    })
}

/// Several nodes may share a machine, so the port belongs to the name.
fn default_id(listen: SocketAddr) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = name(host.trim()).unwrap_or_else(|_| "node".to_owned());
    format!("{host}-{}", listen.port())
}
