//! Every metric of a node, as one typed, documented group; `docs/METRICS.md` is made from it.
//!
//! Base units (seconds, bytes), `_total` for counters, and one counter for drops with the cause as
//! its label. Hot threads count in plain integers and publish what was added once a second
//! ([`Published`]); nothing here is touched per tick.

use std::sync::OnceLock;

use ::metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Upper bounds of the buckets of every histogram (seconds): from a hop to a slow join.
const BUCKETS: [f64; 14] =
    [0.000_25, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// A state.
    Gauge,
    /// A distribution in fixed buckets.
    Histogram,
}

/// One metric of the group.
#[derive(Debug)]
pub struct Metric {
    /// Its name in `/metrics`.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its unit.
    pub unit: Unit,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it counts.
    pub help: &'static str,
}

macro_rules! metrics_group {
    ($($(#[doc = $help:literal])+ $id:ident = $kind:ident $name:literal $unit:ident [$($label:literal),*];)*) => {
        $(
            $(#[doc = $help])+
            pub static $id: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                unit: Unit::$unit,
                labels: &[$($label),*],
                help: concat!($($help),+),
            };
        )*
        /// Every metric, in the order of the documentation.
        pub static ALL: &[&Metric] = &[$(&$id),*];
    };
}

metrics_group! {
    /// Always 1; the label tells the release.
    BUILD_INFO = Gauge "stentor_build_info" Count ["version"];
    /// When the process started (Unix time).
    START_TIME = Gauge "stentor_start_time_seconds" Seconds [];
    /// 1 when `/readyz` answers 200.
    READY = Gauge "stentor_ready" Count [];

    /// Sessions at present, by role: listener, relay, or all of any role.
    SESSIONS = Gauge "stentor_sessions" Count ["role"];
    /// Listeners by the redundancy that their own path's loss calls for: plain (the current tick
    /// alone), previous (one earlier tick), spread (two).
    LISTENERS = Gauge "stentor_listeners" Count ["variant"];
    /// Listeners on this node and below it through primary parents.
    LISTENERS_BELOW = Gauge "stentor_listeners_below" Count [];
    /// Sessions that the node may carry.
    CAPACITY = Gauge "stentor_capacity" Count [];
    /// Places of the node, or at the origin of the whole tree.
    CAPACITY_PLACES = Gauge "stentor_capacity_places" Count [];
    /// Of them, those in use.
    CAPACITY_USED = Gauge "stentor_capacity_used" Count [];
    /// Places kept for the listeners of a relay that may die.
    CAPACITY_HEADROOM = Gauge "stentor_capacity_headroom" Count [];
    /// Places that newcomers may have; at the origin less those who were called and have not come yet.
    CAPACITY_FREE = Gauge "stentor_capacity_free" Count [];
    /// Those who wait, in the whole tree.
    CAPACITY_WAITING = Gauge "stentor_capacity_waiting" Count [];
    /// Those who come in a second: joins, and those who are told to wait.
    CAPACITY_ARRIVALS = Gauge "stentor_capacity_arrivals_per_second" Count [];
    /// How long the free places last at the present rate of arrivals; +Inf while nobody comes.
    CAPACITY_SECONDS = Gauge "stentor_capacity_seconds_until_full" Seconds [];
    /// At the origin, of the 16 rooms with the most listeners: listeners in the whole tree by region, and
    /// by state: all of them, those who report what they hear (reporting), of them those who hear
    /// well (well).
    AUDIENCE = Gauge "stentor_audience_listeners" Count ["room", "region", "state"];
    /// The same by relay, of the 64 relays with the most trouble, and after them the largest.
    AUDIENCE_RELAYS = Gauge "stentor_audience_relay_listeners" Count ["room", "region", "relay", "state"];
    /// "I hear a glitch", of the last 30 to 60 s, by region.
    AUDIENCE_GLITCHES = Gauge "stentor_audience_glitches" Count ["room", "region"];
    /// The same by relay.
    AUDIENCE_RELAY_GLITCHES = Gauge "stentor_audience_relay_glitches" Count ["room", "region", "relay"];
    /// What listeners hear: how many are in each bucket of lost, late and concealed (per mille) and of
    /// delay (milliseconds), by the bucket's upper bound.
    AUDIENCE_HEARD = Gauge "stentor_audience_heard" Count ["room", "figure", "most"];
    /// Rooms that the node carries at present.
    ROOMS = Gauge "stentor_rooms" Count [];
    /// Parents that are connected.
    PARENTS = Gauge "stentor_parents" Count [];
    /// The node's level in the tree; 0 is the origin.
    LEVEL = Gauge "stentor_level" Count [];
    /// One-way delay of the last tick from the origin's clock, of the room that has the longest;
    /// clocks may differ.
    DELAY = Gauge "stentor_delay_seconds" Seconds [];

    /// Completed QUIC handshakes with sessions of this node.
    HANDSHAKES = Counter "stentor_handshakes_total" Count [];
    /// Of these, sessions over WebTransport.
    WEBTRANSPORT = Counter "stentor_webtransport_sessions_total" Count [];
    /// Retry: first packets answered with one, and times that it was switched on.
    RETRIES = Counter "stentor_retries_total" Count ["event"];
    /// Shards that ask clients to prove their address at present.
    RETRY_ON = Gauge "stentor_retry_on" Count [];
    /// Sessions by what became of them: joined, refused, left, waited (told when to come again; of them
    /// waited_without_ticket: could prove nothing of themselves), redirected (to another relay),
    /// return_over_budget (came with a good pass, as a newcomer after all).
    JOINS = Counter "stentor_joins_total" Count ["result"];
    /// Waiting tickets: redeemed (their bearers came in or were sent elsewhere), exchanged (of a relay
    /// that is gone). Refused ones are drops.
    TICKETS = Counter "stentor_tickets_total" Count ["event"];
    /// Sessions that this node closed, by the close code's name.
    CLOSES = Counter "stentor_closes_total" Count ["code"];
    /// Sessions of this node with its parents and its origin: opened, lost.
    UPLINKS = Counter "stentor_uplinks_total" Count ["result"];

    /// Ticks by what became of them: passed on (or made, at the origin), duplicate (the other
    /// feed's copy), lost, repaired, conflict (two different copies: an alarm).
    TICKS = Counter "stentor_ticks_total" Count ["result"];
    /// How long the origin waited while it collected a tick.
    COLLECT_SECONDS = Histogram "stentor_collect_seconds" Seconds [];
    /// Times that a session's redundancy changed: up (its path loses), down (it is clean), queueing
    /// (down, for its round trip rises together with loss).
    VARIANTS = Counter "stentor_variant_changes_total" Count ["why"];
    /// Ticks asked of parents, and answers to children.
    REPAIRS = Counter "stentor_repairs_total" Count ["direction"];
    /// Control messages read from sessions of this node: at the origin their number follows the
    /// relays and the stage, not the listeners.
    CONTROL_MESSAGES = Counter "stentor_control_messages_total" Count [];
    /// Datagrams with ticks that were offered to connections.
    TICK_DATAGRAMS = Counter "stentor_tick_datagrams_total" Count [];
    /// Beacons: signs of life when there was nothing to send.
    BEACONS = Counter "stentor_beacons_total" Count [];
    /// Re-homing: listeners that came with a good pass (returned), that were asked to move because
    /// this node drains (asked), and probes of silent sessions that were answered (probed).
    REHOMES = Counter "stentor_rehomes_total" Count ["event"];
    /// Times that one parent fell silent while another one delivered.
    FEEDS_SILENT = Counter "stentor_feeds_silent_total" Count [];
    /// UDP payload, by direction: in or out.
    UDP_BYTES = Counter "stentor_udp_bytes_total" Bytes ["direction"];
    /// UDP datagrams, by direction: in or out.
    UDP_DATAGRAMS = Counter "stentor_udp_datagrams_total" Count ["direction"];
    /// Everything that was dropped, by cause.
    DROPS = Counter "stentor_drops_total" Count ["cause"];
    /// Frames of speakers and ticks at the origin, by what became of them.
    INGEST = Counter "stentor_ingest_total" Count ["result"];

    /// Looks at new certificate files, by result: done or bad.
    TLS_RELOADS = Counter "stentor_tls_reloads_total" Count ["result"];
    /// Connections to the public HTTP listener, by what became of them: served, tls_failed, slow.
    HTTP_CONNECTIONS = Counter "stentor_http_connections_total" Count ["result"];
    /// Requests to the HTTP API, by status: 2xx, 3xx, 4xx, 5xx.
    HTTP_REQUESTS = Counter "stentor_http_requests_total" Count ["status"];
    /// Requests to the HTTP API that were refused for their number: of one address (address), or
    /// because control has too many (busy), as many follow rooms as may (followers), or one of
    /// them reads too slowly (slow_follower).
    HTTP_REFUSED = Counter "stentor_http_refused_total" Count ["cause"];

    /// Messages to webhooks, by what became of them: delivered, retried, given_up, dropped (the queue
    /// is full).
    WEBHOOKS = Counter "stentor_webhooks_total" Count ["result"];

    /// Requests to the admin listener, by status.
    ADMIN_REQUESTS = Counter "stentor_admin_requests_total" Count ["status"];
}

impl Metric {
    /// The counter with these label values, in the order of [`Metric::labels`]. Keep the handle:
    /// getting it takes a lookup.
    pub fn counter(&'static self, values: &[&'static str]) -> Counter {
        debug_assert_eq!(self.kind, Kind::Counter, "{}", self.name);
        ::metrics::with_recorder(|r| r.register_counter(&self.key(values), &METADATA))
    }

    /// The gauge with these label values.
    pub fn gauge(&'static self, values: &[&'static str]) -> Gauge {
        debug_assert_eq!(self.kind, Kind::Gauge, "{}", self.name);
        ::metrics::with_recorder(|r| r.register_gauge(&self.key(values), &METADATA))
    }

    /// The histogram with these label values.
    pub fn histogram(&'static self, values: &[&'static str]) -> Histogram {
        debug_assert_eq!(self.kind, Kind::Histogram, "{}", self.name);
        ::metrics::with_recorder(|r| r.register_histogram(&self.key(values), &METADATA))
    }

    fn key(&'static self, values: &[&'static str]) -> Key {
        debug_assert_eq!(self.labels.len(), values.len(), "{}", self.name);
        let pairs = self.labels.iter().zip(values);
        let labels: Vec<Label> = pairs.map(|(k, v)| Label::from_static_parts(k, v)).collect();
        Key::from_parts(self.name, labels)
    }
}

static METADATA: Metadata<'static> =
    Metadata::new("stentor_relay", Level::INFO, Some(module_path!()));

/// A counter that another thread counts in a plain integer.
pub struct Published {
    handle: Counter,
    last: u64,
}

impl Published {
    /// Publishes to `metric` with these label values.
    #[must_use]
    pub fn new(metric: &'static Metric, values: &[&'static str]) -> Self {
        Self { handle: metric.counter(values), last: 0 }
    }

    /// Adds what the total has risen by since the last call. Several threads may publish their
    /// own totals to one metric; the metric is their sum.
    pub fn publish(&mut self, total: u64) {
        let added = total.saturating_sub(self.last);
        if added > 0 {
            self.handle.increment(added);
        }
        self.last = total;
    }
}

/// The metrics of this process could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The buckets were refused.
    #[error("metrics: {0}")]
    Buckets(#[from] metrics_exporter_prometheus::BuildError),
    /// The process has another recorder, so this one would stay empty.
    #[error("metrics: the process has another recorder already")]
    Taken,
}

/// Installs the process's recorder, once; later calls return the same one.
///
/// # Errors
/// When the process has another recorder already.
pub fn install() -> Result<PrometheusHandle, MetricsError> {
    static INSTALLED: OnceLock<PrometheusHandle> = OnceLock::new();
    static INSTALLING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = INSTALLING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(handle) = INSTALLED.get() {
        return Ok(handle.clone());
    }
    let mut builder = PrometheusBuilder::new();
    for metric in ALL.iter().filter(|m| m.kind == Kind::Histogram) {
        let name = Matcher::Full(metric.name.to_owned());
        builder = builder.set_buckets_for_metric(name, &BUCKETS)?;
    }
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    ::metrics::set_global_recorder(recorder).map_err(|_| MetricsError::Taken)?;
    describe();
    let _ = INSTALLED.set(handle.clone());
    Ok(handle)
}

fn describe() {
    for metric in ALL {
        let (name, unit, help) = (metric.name.into(), Some(metric.unit), metric.help.trim().into());
        ::metrics::with_recorder(|r| match metric.kind {
            Kind::Counter => r.describe_counter(name, unit, help),
            Kind::Gauge => r.describe_gauge(name, unit, help),
            Kind::Histogram => r.describe_histogram(name, unit, help),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use super::*;

    fn table() -> String {
        let mut out = String::from(
            "# Metrics\n\n\
             What `/metrics` on the admin listener shows. Made from `relay/src/metrics.rs`;\n\
             `UPDATE_DOCS=1 cargo test -p stentor-relay metrics` writes it anew.\n\n\
             | name | kind | labels | what |\n|---|---|---|---|\n",
        );
        for m in ALL {
            let labels: Vec<String> = m.labels.iter().map(|l| format!("`{l}`")).collect();
            let kind = format!("{:?}", m.kind).to_lowercase();
            let (name, labels, help) = (m.name, labels.join(", "), m.help.trim());
            writeln!(out, "| `{name}` | {kind} | {labels} | {help} |").unwrap();
        }
        out
    }

    #[test]
    fn the_documentation_lists_every_metric() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/METRICS.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&file, table()).unwrap();
        }
        let written = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(written, table(), "run UPDATE_DOCS=1 cargo test -p stentor-relay metrics");
    }

    #[test]
    fn names_follow_the_rules() {
        for m in ALL {
            assert!(m.name.starts_with("stentor_"), "{}", m.name);
            assert_eq!(m.name.ends_with("_total"), m.kind == Kind::Counter, "{}", m.name);
            let seconds = m.name.contains("_seconds");
            assert_eq!(seconds, matches!(m.unit, Unit::Seconds), "{}", m.name);
            assert!(m.name.contains("_bytes") == matches!(m.unit, Unit::Bytes), "{}", m.name);
            assert!(!m.help.contains('|'), "{}", m.name);
        }
        let mut names: Vec<_> = ALL.iter().map(|m| m.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn threads_publish_what_was_added() {
        let handle = install().unwrap();
        install().unwrap();
        let mut first = Published::new(&DROPS, &["test"]);
        let mut second = Published::new(&DROPS, &["test"]);
        first.publish(10);
        first.publish(10);
        first.publish(25);
        second.publish(5);
        COLLECT_SECONDS.histogram(&[]).record(0.003);
        let text = handle.render();
        assert!(text.contains("stentor_drops_total{cause=\"test\"} 30"), "{text}");
        assert!(text.contains("# HELP stentor_drops_total Everything that"), "{text}");
        assert!(text.contains("stentor_collect_seconds_bucket{le=\"0.005\"} 1"), "{text}");
    }
}
