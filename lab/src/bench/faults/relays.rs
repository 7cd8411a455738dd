//! Faults of relays and of whole levels.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::scene::{Heard, Place, Scene, Stand, finish_all, joined};
use super::{FaultsOptions, Row, SETTLE};
use crate::bed::RelayPlan;
use crate::nodes::{Node, free_ports};
use crate::shaper::{Loss, Path, Shaper, Way};

/// Listeners at each of several relays.
const EACH: usize = 100;
/// How long a process stands still.
const STOPPED: Duration = Duration::from_secs(3);
/// Counting begins this long before the fault.
const BEFORE: Duration = Duration::from_secs(1);
/// And ends this long after it.
const AFTER: Duration = Duration::from_secs(3);

/// Two relays on level 1, two below them with both as parents.
struct Diamond {
    scene: Scene,
    /// On the second relay of level 1 and on those of level 2.
    stands: Vec<Stand>,
}

/// The relay that fails: nobody listens on it, two relays are fed by it.
const VICTIM: &str = "top-1";

impl Diamond {
    fn start(name: &str) -> Result<Self> {
        let plans = [
            RelayPlan::new(VICTIM, 1),
            RelayPlan::new("top-2", 1),
            RelayPlan::new("low-1", 2),
            RelayPlan::new("low-2", 2),
        ];
        let scene = Scene::start(name, &plans)?;
        let two = |relay: &Node| -> Result<bool> { Ok(parents_up(relay)? == 2) };
        wait(|| Ok(two(&scene.bed.relays[2])? && two(&scene.bed.relays[3])?))?;
        let stands = scene.bed.relays[1..]
            .iter()
            .map(|relay| stand(&scene, relay.address, EACH))
            .collect::<Result<Vec<_>>>()?;
        joined(&stands.iter().collect::<Vec<_>>())?;
        sleep(Duration::from_secs(1));
        Ok(Self { scene, stands })
    }

    fn victim(&self) -> &Node {
        &self.scene.bed.relays[0]
    }

    /// Whether the two relays below had one feed instead of two for most of the time since there
    /// were `before` second copies: fewer came than half of what two feeds bring.
    fn lacks_a_feed(&self, before: f64, time: Duration) -> Result<bool> {
        let copies = self.scene.relays_sum("ticks_duplicate", &[VICTIM])? - before;
        Ok(copies < 0.5 * 2.0 * 50.0 * time.as_secs_f64())
    }

    /// Ends the row: nothing may be lost at any relay but the victim, nor by anyone.
    fn finish(self, lost_before: f64, fired: bool) -> Result<Row> {
        let lost = self.scene.relays_sum("ticks_lost", &[VICTIM])? - lost_before;
        let heard = Heard::sum(finish_all(self.stands)?);
        let mut row = Row {
            listeners: heard.listeners,
            fired,
            returned_percent: 100.0,
            lost_elsewhere: lost as u64 + heard.lost(),
            ..Row::default()
        };
        let gaps = heard.gaps_ms.clone();
        row.note("relays_lost", lost);
        row.note("gap_elsewhere_ms_max", gaps.iter().copied().fold(0.0, f64::max));
        row.note("moves", heard.moves);
        self.scene.end()?;
        Ok(row)
    }
}

/// A relay dies that feeds others and has no listener.
pub(super) fn kill_other(_: &FaultsOptions, name: &str) -> Result<Row> {
    let mut diamond = Diamond::start(name)?;
    let lost = diamond.scene.relays_sum("ticks_lost", &[VICTIM])?;
    diamond.stands.iter().for_each(Stand::watch);
    sleep(BEFORE);
    let before = diamond.scene.relays_sum("ticks_duplicate", &[VICTIM])?;
    diamond.scene.bed.relays[0].kill()?;
    sleep(AFTER);
    let fired = diamond.lacks_a_feed(before, AFTER)?;
    diamond.finish(lost, fired)
}

/// The same relay stands still and goes on.
pub(super) fn stop_other(_: &FaultsOptions, name: &str) -> Result<Row> {
    let diamond = Diamond::start(name)?;
    let lost = diamond.scene.relays_sum("ticks_lost", &[VICTIM])?;
    diamond.stands.iter().for_each(Stand::watch);
    sleep(BEFORE);
    let before = diamond.scene.relays_sum("ticks_duplicate", &[VICTIM])?;
    diamond.victim().stop(true)?;
    sleep(STOPPED);
    let fired = diamond.lacks_a_feed(before, STOPPED)?;
    diamond.victim().stop(false)?;
    sleep(AFTER);
    diamond.finish(lost, fired)
}

/// The origin, and with it a whole level's feed, stands still: relays say that they are starved, and
/// nobody leaves.
pub(super) fn starve_level(_: &FaultsOptions, name: &str) -> Result<Row> {
    let plans =
        [RelayPlan::new("top-1", 1), RelayPlan::new("top-2", 1), RelayPlan::new("low-1", 2)];
    let scene = Scene::start(name, &plans)?;
    wait(|| Ok(parents_up(&scene.bed.relays[2])? == 2))?;
    let stands = scene.bed.relays.iter().map(|relay| stand(&scene, relay.address, EACH));
    let stands = stands.collect::<Result<Vec<_>>>()?;
    joined(&stands.iter().collect::<Vec<_>>())?;
    sleep(Duration::from_secs(1));
    let uplinks = scene.metrics_sum("stentor_uplinks_total", &[])?;
    let joins = scene.metrics_sum("stentor_joins_total", &[])?;
    scene.bed.origin.stop(true)?;
    // What was under way is heard before the silence is measured.
    sleep(Duration::from_millis(500));
    stands.iter().for_each(Stand::watch);
    sleep(STOPPED - Duration::from_millis(500));
    let stopped = Instant::now();
    scene.bed.origin.stop(false)?;
    sleep(AFTER);
    let after = stopped.elapsed();
    let uplinks = scene.metrics_sum("stentor_uplinks_total", &[])? - uplinks;
    let joins = scene.metrics_sum("stentor_joins_total", &[])? - joins;
    let heard = Heard::sum(finish_all(stands)?);
    let listeners = heard.listeners;
    let silence = (STOPPED - Duration::from_millis(500)).as_secs_f64() * 1_000.0;
    let mut row = Row {
        listeners,
        affected: listeners,
        fired: heard.starved == listeners,
        returned_percent: heard.returned_percent(),
        // From the origin's return to the first new tick.
        gaps_ms: heard.gaps_ms.iter().map(|gap| (gap - silence).max(0.0)).collect(),
        missing_after_replay: heard.lost(),
        ..Row::default()
    };
    row.note("starved_listeners", heard.starved);
    row.note("reconnects", uplinks + joins + heard.moves as f64);
    row.note("ticks_after_return", heard.ticks);
    row.note("seconds_after_return", after.as_secs_f64());
    scene.end()?;
    Ok(row)
}

/// 2 % loss on each of 4 hops: what listeners miss after one of them, and after all four.
pub(super) fn loss_hops_2(options: &FaultsOptions, name: &str) -> Result<Row> {
    let mut scene = Scene::start(name, &[])?;
    let way = Way { delay: Duration::from_millis(5), ..Way::default() };
    let mut paths = Vec::new();
    let hop = |to: SocketAddr, number: u64| {
        Shaper::start(to, Path::both(way), options.seed.wrapping_add(number))
    };
    // Level 1 reaches the origin through the first path, and each level the one above by the path
    // that is advertised for it.
    paths.push(hop(scene.bed.origin.address, 0)?);
    for level in 1..=3u8 {
        let ports = free_ports()?;
        paths.push(hop(ports.0, level.into())?);
        let plan = RelayPlan {
            ports: Some(ports),
            advertise: paths.last().map(Shaper::address),
            origin: (level == 1).then(|| paths[0].address()),
            ..RelayPlan::new(&format!("hop-{level}"), level)
        };
        scene.bed.add_relay(&plan)?;
        scene.bed.wait_ready()?;
    }
    let shallow = stand(&scene, paths[0].address(), EACH)?;
    let deep = stand(&scene, paths[3].address(), EACH)?;
    joined(&[&shallow, &deep])?;
    let lossy = Way { loss: Loss::Random(0.02), ..way };
    paths.iter().for_each(|path| path.set(Path::both(lossy)));
    sleep(SETTLE);
    [&shallow, &deep].into_iter().for_each(Stand::watch);
    sleep(Duration::from_secs_f64(2.0 * options.seconds));
    let fired = paths.iter().all(|path| path.counts().lost > 0);
    let relays_lost = scene.relays_sum("ticks_lost", &[])?;
    let (shallow, deep) = (shallow.finish()?, deep.finish()?);
    let (one, four) = (Interval::of(&shallow.batches), Interval::of(&deep.batches));
    let mut row = Row {
        listeners: shallow.listeners + deep.listeners,
        affected: shallow.listeners + deep.listeners,
        fired,
        returned_percent: 100.0,
        missing_after_replay: shallow.lost() + deep.lost(),
        missing_percent: deep.missing_percent(),
        control_missing_percent: shallow.missing_percent(),
        ..Row::default()
    };
    row.note("depth_1_low_percent", one.low);
    row.note("depth_1_high_percent", one.high);
    row.note("depth_4_low_percent", four.low);
    row.note("depth_4_high_percent", four.high);
    row.note("intervals_overlap", one.low <= four.high && four.low <= one.high);
    row.note("relays_lost", relays_lost);
    scene.end()?;
    Ok(row)
}

/// A 95 % interval of a mean.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Interval {
    low: f64,
    high: f64,
}

impl Interval {
    /// Of the mean of independent samples, by the normal distribution.
    fn of(samples: &[f64]) -> Self {
        let count = samples.len().max(2) as f64;
        let mean = samples.iter().sum::<f64>() / samples.len().max(1) as f64;
        let squares: f64 = samples.iter().map(|sample| (sample - mean).powi(2)).sum();
        let half = 1.96 * (squares / (count - 1.0) / count).sqrt();
        Self { low: mean - half, high: mean + half }
    }
}

pub(super) fn stand(scene: &Scene, address: SocketAddr, listeners: usize) -> Result<Stand> {
    Stand::start(&scene.bed, Place { address, listeners, apart: false, rehomes: true })
}

/// Parents of a relay that are connected.
fn parents_up(relay: &Node) -> Result<usize> {
    let topology = relay.topology()?;
    let parents = topology["parents"].as_array().context("the relay names no parents")?;
    Ok(parents.iter().filter(|parent| parent["up"] == true).count())
}

pub(super) fn wait(mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(20);
    while !done()? {
        if Instant::now() > until {
            bail!("the tree does not take its shape");
        }
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_holds_its_mean_and_shrinks_with_samples() {
        let few = Interval::of(&[0.0, 1.0]);
        let many = Interval::of(&[0.0, 1.0].repeat(50));
        assert!(few.low < many.low && many.low < 0.5 && 0.5 < many.high && many.high < few.high);
        assert_eq!(Interval::of(&[]), Interval { low: 0.0, high: 0.0 });
    }
}
