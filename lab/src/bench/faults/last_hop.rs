//! Faults between a relay and its own listeners.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;

use super::scene::{Heard, Place, Scene, Stand, joined};
use super::{FaultsOptions, Row, SETTLE};
use crate::bed::RelayPlan;
use crate::shaper::{Loss, Path, Rate, Shaper, Way};

/// A relay that protects its listeners.
const GUARDED: &str = "guarded";
/// The same with redundancy and repair switched off: the control.
const BARE: &str = "bare";
/// One way.
const DELAY: Duration = Duration::from_millis(20);
/// Listeners on the guarded relay whose path has no fault.
const BYSTANDERS: usize = 20;
/// The share of packets that the row `burst_5` loses, in bursts of this many on average.
const BURSTS: Loss = Loss::Bursts { share: 0.05, mean: 5.0 };
/// How long the row `bottleneck_64k` lets listeners not read: well beyond what a window holds.
const ASLEEP: Duration = Duration::from_secs(12);

pub(super) fn loss_5(options: &FaultsOptions, name: &str) -> Result<Row> {
    lossy(options, name, Way { loss: Loss::Random(0.05), ..idle() }, false)
}

pub(super) fn loss_10(options: &FaultsOptions, name: &str) -> Result<Row> {
    lossy(options, name, Way { loss: Loss::Random(0.10), ..idle() }, false)
}

pub(super) fn loss_20(options: &FaultsOptions, name: &str) -> Result<Row> {
    lossy(options, name, Way { loss: Loss::Random(0.20), ..idle() }, false)
}

/// Each listener has a path of its own: bursts of a path that many share would be one lost packet
/// for each of them.
pub(super) fn burst_5(options: &FaultsOptions, name: &str) -> Result<Row> {
    lossy(options, name, Way { loss: BURSTS, ..idle() }, true)
}

fn idle() -> Way {
    Way { delay: DELAY, ..Way::default() }
}

/// Two relays, one that protects its last hop and one that does not, behind the same path.
struct Pair {
    scene: Scene,
    paths: [Shaper; 2],
}

impl Pair {
    fn start(options: &FaultsOptions, name: &str) -> Result<Self> {
        let bare = RelayPlan { protects: false, ..RelayPlan::new(BARE, 1) };
        let scene = Scene::start(name, &[RelayPlan::new(GUARDED, 1), bare])?;
        let path = |relay: usize| {
            let seed = options.seed.wrapping_add(relay as u64);
            Shaper::start(scene.bed.relays[relay].address, Path::both(idle()), seed)
        };
        let paths = [path(0)?, path(1)?];
        Ok(Self { scene, paths })
    }

    fn stand(&self, relay: usize, listeners: usize, apart: bool) -> Result<Stand> {
        let address = self.paths[relay].address();
        Stand::start(&self.scene.bed, Place { address, listeners, apart, rehomes: false })
    }

    fn bystanders(&self) -> Result<Stand> {
        let address = self.scene.bed.relays[0].address;
        let place = Place { address, listeners: BYSTANDERS, apart: false, rehomes: false };
        Stand::start(&self.scene.bed, place)
    }

    /// Listeners of the guarded relay by what they are sent.
    fn by_variant(&self) -> Result<[f64; 3]> {
        let relay = &self.scene.bed.relays[0];
        let of = |name: &str| relay.metric(&format!("stentor_listeners{{variant=\"{name}\"}}"));
        Ok([of("plain")?, of("previous")?, of("spread")?])
    }
}

/// A path that loses packets in both directions.
fn lossy(options: &FaultsOptions, name: &str, way: Way, apart: bool) -> Result<Row> {
    let pair = Pair::start(options, name)?;
    let guarded = pair.stand(0, options.listeners, apart)?;
    let bare = pair.stand(1, options.listeners, apart)?;
    let bystanders = pair.bystanders()?;
    joined(&[&guarded, &bare, &bystanders])?;
    pair.paths.iter().for_each(|path| path.set(Path::both(way)));
    sleep(SETTLE);
    let before = pair.paths[0].counts();
    [&guarded, &bare, &bystanders].into_iter().for_each(Stand::watch);
    sleep(Duration::from_secs_f64(options.seconds));
    let (after, variants) = (pair.paths[0].counts(), pair.by_variant()?);
    let repaired =
        pair.scene.bed.relays[0].metric("stentor_repairs_total{direction=\"answered\"}")?;
    let heard = [guarded.finish()?, bare.finish()?, bystanders.finish()?];
    let mut row = row(&heard);
    row.fired = after.lost > before.lost;
    row.control_missing_percent = heard[1].missing_percent();
    row.note("lost_packets", after.lost - before.lost);
    row.note("control_listener_ticks", heard[1].expected);
    row.note("repaired", repaired);
    row.note("listeners_plain", variants[0]);
    row.note("listeners_previous", variants[1]);
    row.note("listeners_spread", variants[2]);
    pair.scene.end()?;
    Ok(row)
}

/// A row about the first of these, with the last as those whom the fault does not touch.
fn row(heard: &[Heard]) -> Row {
    let (own, elsewhere) = (&heard[0], &heard[heard.len() - 1]);
    let mut row = Row {
        listeners: heard.iter().map(|heard| heard.listeners).sum(),
        affected: own.listeners,
        returned_percent: own.returned_percent(),
        gaps_ms: own.gaps_ms.clone(),
        missing_after_replay: own.lost(),
        lost_elsewhere: elsewhere.lost(),
        missing_percent: own.missing_percent(),
        ..Row::default()
    };
    row.note("listener_ticks", own.expected);
    row
}

/// A path of 64 kbit/s under a room that needs 67, with and without protection; and listeners who do
/// not read for a while.
pub(super) fn bottleneck_64k(options: &FaultsOptions, name: &str) -> Result<Row> {
    let pair = Pair::start(options, name)?;
    let few = options.listeners.min(50);
    let (narrow, bare) = (pair.stand(0, few, true)?, pair.stand(1, few, true)?);
    let (asleep, bystanders) = (pair.bystanders()?, pair.bystanders()?);
    let stands = [&narrow, &bare, &asleep, &bystanders];
    joined(&stands)?;
    let rate = Rate { bits_per_s: 64_000, queue: Duration::from_millis(80) };
    let way = Way { rate: Some(rate), ..idle() };
    pair.paths.iter().for_each(|path| path.set(Path::both(way)));
    sleep(Duration::from_secs(2));
    stands.into_iter().for_each(Stand::watch);
    sleep(Duration::from_millis(200));
    asleep.sleep();
    sleep(ASLEEP);
    asleep.watch();
    sleep(Duration::from_secs(2));
    let skipped = pair.scene.metrics_sum("stentor_drops_total{cause=\"stale\"}", &[])?;
    let (counts, variants) = (pair.paths[0].counts(), pair.by_variant()?);
    let heard = [narrow.finish()?, bare.finish()?, asleep.finish()?, bystanders.finish()?];
    let mut row = row(&heard);
    row.fired = counts.queue_full > 0 && skipped > 0.0;
    row.control_missing_percent = heard[1].missing_percent();
    row.note("queue_full", counts.queue_full);
    row.note("listeners_plain", variants[0]);
    row.note("asleep_listeners", heard[2].listeners);
    row.note("asleep_moves", heard[2].moves);
    row.note("asleep_ticks_missing", heard[2].lost());
    row.note("skipped_stale", skipped);
    pair.scene.end()?;
    Ok(row)
}

/// A NAT that forgets its bindings: every listener's address changes at once.
pub(super) fn rebind(options: &FaultsOptions, name: &str) -> Result<Row> {
    let pair = Pair::start(options, name)?;
    let few = options.listeners.min(100);
    let rebound = pair.stand(0, few, true)?;
    let control = pair.stand(1, few, true)?;
    let bystanders = pair.bystanders()?;
    joined(&[&rebound, &control, &bystanders])?;
    sleep(Duration::from_secs(2));
    [&rebound, &control, &bystanders].into_iter().for_each(Stand::watch);
    sleep(Duration::from_secs(1));
    pair.paths[0].rebind();
    sleep(Duration::from_secs(4));
    let counts = pair.paths[0].counts();
    let heard = [rebound.finish()?, control.finish()?, bystanders.finish()?];
    let mut row = row(&heard);
    row.fired = counts.rebound == few as u64;
    row.lost_elsewhere += heard[1].lost();
    row.control_missing_percent = heard[1].missing_percent();
    row.note("moves", heard[0].moves);
    pair.scene.end()?;
    Ok(row)
}
