//! What the threads report becomes readiness, `/topology` and metrics, four times a second.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use stentor_proto::fanout::Variant;
use stentor_proto::node::{CapacityView, Closes, ControlStats, ShardStats};

use crate::admin::AdminState;
use crate::audience;
use crate::fanout::ShardReport;
use crate::metrics::{self, Metric, Published};
use crate::node::RunningNode;
use crate::quic::DriverStats;
use crate::quic::webtransport::Breach;
use crate::uplink::{ControlReport, ControlReportStats};

/// How often the threads' reports are read.
pub const EVERY: Duration = Duration::from_millis(250);

/// Reads the reports of a node's threads.
pub struct Observer {
    shards: Vec<Arc<ShardReport>>,
    control: Arc<ControlReport>,
    admin: Arc<AdminState>,
    counters: BTreeMap<(&'static str, &'static str), Published>,
}

/// The sums over all shards.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    shard: ShardStats,
    closes: Closes,
    driver: DriverStats,
    listeners: u32,
    children: u32,
    open: u32,
    by_variant: [u32; Variant::ALL.len()],
    drop_foreign: u64,
}

impl Observer {
    /// An observer of `node` that fills `admin`.
    #[must_use]
    pub fn new(node: &RunningNode, admin: Arc<AdminState>) -> Self {
        let (shards, control) = (node.shards.clone(), node.control.clone());
        Self { shards, control, admin, counters: BTreeMap::new() }
    }

    /// Observes for ever.
    pub async fn run(mut self) -> Infallible {
        let mut interval = tokio::time::interval(EVERY);
        loop {
            interval.tick().await;
            self.observe();
        }
    }

    /// Sessions at present, of any role.
    #[must_use]
    pub fn sessions(&self) -> u32 {
        self.sums().open
    }

    fn observe(&mut self) {
        let (sums, control) = (self.sums(), self.control.stats.load_full());
        self.topology(&sums, &control);
        self.publish(&sums, &control);
    }

    fn topology(&self, sums: &Sums, control: &ControlReportStats) {
        let view = self.control.view.load();
        // Control has not reported yet: what it will say is not known.
        if view.node.is_empty() {
            return;
        }
        let reason = view.not_ready.as_deref();
        self.admin.set_has_parent(reason != Some("no parent"));
        self.admin.set_full(reason == Some("full"));
        let Ok(mut topology) = serde_json::to_value(&**view) else { return };
        let ms = |us: u32| f64::from(us) / 1_000.0;
        for (name, value) in [
            ("ticks_in", json!(control.control.ticks)),
            ("ticks_duplicate", json!(control.control.duplicate)),
            ("ticks_lost", json!(control.control.lost)),
            ("ticks_out", json!(sums.shard.offered)),
            ("spoken_ticks", json!(control.spoken.0)),
            ("spoken_frames", json!(control.spoken.1)),
            ("collect_ms_p50", json!(ms(control.collect_us.0))),
            ("collect_ms_p99", json!(ms(control.collect_us.1))),
        ] {
            topology[name] = value;
        }
        self.admin.set_topology(topology);
        self.admin.set_audience(audience::render(&view.audience));
    }

    fn publish(&mut self, sums: &Sums, control: &ControlReportStats) {
        let view = self.control.view.load();
        metrics::SESSIONS.gauge(&["listener"]).set(f64::from(sums.listeners));
        metrics::SESSIONS.gauge(&["relay"]).set(f64::from(sums.children));
        metrics::SESSIONS.gauge(&["all"]).set(f64::from(sums.open));
        for (name, count) in ["plain", "previous", "spread"].into_iter().zip(sums.by_variant) {
            metrics::LISTENERS.gauge(&[name]).set(f64::from(count));
        }
        metrics::LISTENERS_BELOW.gauge(&[]).set(view.listeners_below as f64);
        metrics::ROOMS.gauge(&[]).set(view.rooms.len() as f64);
        let up = view.parents.iter().filter(|parent| parent.up).count();
        metrics::PARENTS.gauge(&[]).set(up as f64);
        if let Some(level) = view.level {
            metrics::LEVEL.gauge(&[]).set(f64::from(level));
        }
        // The worst of the rooms: an alarm is about that one, and `/topology` names it.
        let worst = view.rooms.iter().map(|room| room.delay_ms / 1_000.0).reduce(f64::max);
        metrics::DELAY.gauge(&[]).set(worst.unwrap_or(0.0));
        publish_capacity(&view.capacity);
        self.publish_ticks(sums, &control.control);
        self.publish_transport(&sums.driver);
        self.publish_drops(sums, control);
        for &(cause, count) in &control.rooms {
            self.count(&metrics::INGEST, cause, count);
        }
    }

    fn publish_ticks(&mut self, sums: &Sums, control: &ControlStats) {
        for (what, count) in [
            ("passed", control.ticks),
            ("duplicate", control.duplicate),
            ("lost", control.lost),
            ("repaired", control.repaired),
            ("conflict", control.conflict),
        ] {
            self.count(&metrics::TICKS, what, count);
        }
        self.count(&metrics::REPAIRS, "requested", control.repair_requested);
        self.count(&metrics::REPAIRS, "answered", sums.shard.repaired);
        self.count(&metrics::VARIANTS, "up", sums.shard.variant_up);
        self.count(&metrics::VARIANTS, "down", sums.shard.variant_down);
        self.count(&metrics::VARIANTS, "queueing", sums.shard.variant_queueing);
        self.count(&metrics::REHOMES, "returned", sums.shard.returned);
        self.count(&metrics::REHOMES, "asked", sums.shard.asked_to_move);
        self.count(&metrics::REHOMES, "probed", sums.shard.probed);
        self.count(&metrics::FEEDS_SILENT, "", control.feeds_silent);
        self.count(&metrics::CONTROL_MESSAGES, "", sums.shard.control_messages);
        self.count(&metrics::TICK_DATAGRAMS, "", sums.shard.offered);
        self.count(&metrics::BEACONS, "", sums.shard.beacons);
        self.count(&metrics::JOINS, "joined", sums.shard.joined);
        self.count(&metrics::JOINS, "refused", sums.shard.refused);
        self.count(&metrics::JOINS, "left", sums.shard.left);
        self.count(&metrics::JOINS, "waited", sums.shard.waited);
        self.count(&metrics::JOINS, "waited_without_ticket", sums.shard.waited_without_ticket);
        self.count(&metrics::JOINS, "redirected", sums.shard.redirected);
        self.count(&metrics::JOINS, "return_over_budget", sums.shard.returns_over_budget);
        self.count(&metrics::TICKETS, "redeemed", control.tickets_redeemed);
        self.count(&metrics::TICKETS, "exchanged", sums.shard.tickets_exchanged);
        for (code, count) in sums.closes.entries() {
            self.count(&metrics::CLOSES, code, count);
        }
        self.count(&metrics::UPLINKS, "opened", control.uplinks_opened);
        self.count(&metrics::UPLINKS, "lost", control.uplinks_lost);
    }

    fn publish_transport(&mut self, driver: &DriverStats) {
        self.count(&metrics::UDP_BYTES, "in", driver.bytes_in);
        self.count(&metrics::UDP_BYTES, "out", driver.bytes_out);
        self.count(&metrics::UDP_DATAGRAMS, "in", driver.packets_in);
        self.count(&metrics::UDP_DATAGRAMS, "out", driver.packets_out);
        self.count(&metrics::HANDSHAKES, "", driver.connected);
        self.count(&metrics::RETRIES, "answered", driver.incoming_retried);
        self.count(&metrics::RETRIES, "switched_on", driver.retry_switched);
        metrics::RETRY_ON.gauge(&[]).set(driver.retry_on as f64);
        self.count(&metrics::WEBTRANSPORT, "", driver.webtransport);
    }

    /// Every drop by its cause: the machines' counters that begin with `drop_`, the driver's, and
    /// the queues'.
    fn publish_drops(&mut self, sums: &Sums, control: &ControlReportStats) {
        let machines = sums.shard.entries().chain(control.control.entries());
        let drops: Vec<(&'static str, u64)> = machines
            .filter_map(|(name, count)| Some((name.strip_prefix("drop_")?, count)))
            .collect();
        for (cause, count) in drops {
            self.count(&metrics::DROPS, cause, count);
        }
        let mut driver = sums.driver;
        driver += control.uplinks;
        for (cause, count) in [
            ("tick_queue", control.drop_tick_queue),
            ("shard_queue", control.drop_shard_queue),
            ("foreign_queue", sums.drop_foreign),
            ("events", control.drop_events),
            ("send_would_block", driver.send_would_block),
            ("send_failed", driver.send_failed),
            ("oversized", driver.oversized),
            ("datagram_full", driver.datagram_full),
            ("incoming_refused", driver.incoming_refused),
            ("incoming_full", driver.incoming_full),
            ("incoming_over_rate", driver.incoming_over_rate),
            ("incoming_over_flight", driver.incoming_over_flight),
            ("incoming_over_share", driver.incoming_over_share),
            ("handshakes_failed", driver.handshakes_failed - driver.handshakes_slow),
            ("handshakes_slow", driver.handshakes_slow),
            ("datagrams_too_small", driver.datagrams_too_small),
            ("streams_refused", driver.streams_refused),
            ("control_too_slow", driver.control_too_slow),
            ("webtransport_not_found", driver.webtransport_not_found),
            ("unknown_messages", sums.shard.unknown_messages),
            ("bad_messages", control.control.bad_messages),
            ("stale_messages", control.control.stale_messages),
        ] {
            self.count(&metrics::DROPS, cause, count);
        }
        for (breach, count) in Breach::ALL.into_iter().zip(driver.breaches) {
            self.count(&metrics::DROPS, breach.name(), count);
        }
    }

    /// Publishes a total; an empty label is none.
    fn count(&mut self, metric: &'static Metric, label: &'static str, total: u64) {
        let labels = [label];
        let labels = if label.is_empty() { &[][..] } else { &labels[..] };
        let counter = self.counters.entry((metric.name, label));
        counter.or_insert_with(|| Published::new(metric, labels)).publish(total);
    }

    fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for report in &self.shards {
            let figures = report.figures();
            sums.shard += figures.shard;
            sums.closes += figures.closes;
            sums.driver += figures.driver;
            sums.listeners += figures.carried.0;
            sums.children += figures.carried.1;
            sums.open += figures.carried.2;
            sums.by_variant.iter_mut().zip(figures.by_variant).for_each(|(sum, n)| *sum += n);
            sums.drop_foreign += report.drop_foreign.load(std::sync::atomic::Ordering::Relaxed);
        }
        sums
    }
}

/// What there is room for, for those who add relays.
fn publish_capacity(capacity: &CapacityView) {
    metrics::CAPACITY_PLACES.gauge(&[]).set(capacity.places as f64);
    metrics::CAPACITY_USED.gauge(&[]).set(capacity.used as f64);
    metrics::CAPACITY_HEADROOM.gauge(&[]).set(capacity.headroom as f64);
    metrics::CAPACITY_FREE.gauge(&[]).set(capacity.free as f64);
    metrics::CAPACITY_WAITING.gauge(&[]).set(capacity.waiting as f64);
    metrics::CAPACITY_ARRIVALS.gauge(&[]).set(capacity.arrivals_per_s);
    let full_in = capacity.seconds_until_full();
    metrics::CAPACITY_SECONDS.gauge(&[]).set(full_in);
}
