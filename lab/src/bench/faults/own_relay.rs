//! The listeners' own relay fails or drains, and they go to its siblings.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::relays::stand;
use super::scene::{Heard, Scene, Stand, finish_all, joined};
use super::{FaultsOptions, Row};
use crate::bed::RelayPlan;
use crate::nodes::{Node, signal};
use crate::shaper::{Path, Shaper};

/// The relay that fails.
const VICTIM: &str = "victim";
/// Listeners on it, in two stands: one thread would take as long as all of them for the handshakes
/// that in the world each does alone.
const LISTENERS: [usize; 2] = [250, 250];
/// Listeners on each of its siblings.
const ELSEWHERE: usize = 50;
/// After the joins: everyone has been told of the siblings, and every path has shown its jitter.
const SETTLE: Duration = Duration::from_secs(3);
/// Counting begins this long before the fault.
const BEFORE: Duration = Duration::from_secs(1);
/// And ends this long after it.
const AFTER: Duration = Duration::from_secs(4);
/// Heartbeats are ten a second this long after the last word.
const HUSHED: Duration = Duration::from_millis(500);
/// A drain is given this long.
const DRAIN: Duration = Duration::from_secs(20);

/// A relay with a crowd on it, two siblings with a few listeners each, and a path before the relay.
struct Siblings {
    scene: Scene,
    path: Shaper,
    own: Vec<Stand>,
    elsewhere: Vec<Stand>,
    lost: f64,
}

impl Siblings {
    fn start(options: &FaultsOptions, name: &str) -> Result<Self> {
        let plans = [VICTIM, "sibling-1", "sibling-2"].map(|name| RelayPlan::new(name, 1));
        let scene = Scene::start(name, &plans)?;
        let relays = &scene.bed.relays;
        let path = Shaper::start(relays[0].address, Path::default(), options.seed)?;
        let own = LISTENERS.map(|listeners| stand(&scene, path.address(), listeners));
        let own = own.into_iter().collect::<Result<Vec<_>>>()?;
        let elsewhere = relays[1..].iter().map(|relay| stand(&scene, relay.address, ELSEWHERE));
        let elsewhere = elsewhere.collect::<Result<Vec<_>>>()?;
        joined(&elsewhere.iter().chain(&own).collect::<Vec<_>>())?;
        sleep(SETTLE);
        let lost = scene.relays_sum("ticks_lost", &[VICTIM])?;
        own.iter().chain(&elsewhere).for_each(Stand::watch);
        sleep(BEFORE);
        Ok(Self { scene, path, own, elsewhere, lost })
    }

    fn victim(&mut self) -> &mut Node {
        &mut self.scene.bed.relays[0]
    }

    fn finish(self, fired: bool) -> Result<Row> {
        let lost = self.scene.relays_sum("ticks_lost", &[VICTIM])? - self.lost;
        let own = Heard::sum(finish_all(self.own)?);
        let elsewhere = Heard::sum(finish_all(self.elsewhere)?);
        let mut row = Row {
            listeners: own.listeners + elsewhere.listeners,
            affected: own.listeners,
            fired: fired && own.moves > 0,
            returned_percent: own.returned_percent(),
            gaps_ms: own.gaps_ms.clone(),
            missing_after_replay: own.lost(),
            lost_elsewhere: lost as u64 + elsewhere.lost(),
            missing_percent: own.missing_percent(),
            // Nobody else is without sound: what the same seconds are without the fault.
            control_missing_percent: elsewhere.missing_percent(),
            ..Row::default()
        };
        row.note("moves", own.moves);
        row.note("moves_elsewhere", elsewhere.moves);
        self.scene.end()?;
        Ok(row)
    }
}

pub(super) fn kill(options: &FaultsOptions, name: &str) -> Result<Row> {
    let mut siblings = Siblings::start(options, name)?;
    siblings.victim().kill()?;
    sleep(AFTER);
    let fired = siblings.victim().topology().is_err();
    siblings.finish(fired)
}

/// The same while nobody speaks: ticks come ten times a second, and beacons between them.
pub(super) fn kill_in_silence(options: &FaultsOptions, name: &str) -> Result<Row> {
    let mut siblings = Siblings::start(options, name)?;
    siblings.scene.hush();
    sleep(HUSHED);
    siblings.victim().kill()?;
    sleep(AFTER);
    let fired = siblings.victim().topology().is_err();
    siblings.finish(fired)
}

pub(super) fn stop(options: &FaultsOptions, name: &str) -> Result<Row> {
    let mut siblings = Siblings::start(options, name)?;
    siblings.victim().stop(true)?;
    sleep(AFTER);
    let fired = siblings.victim().is_stopped();
    siblings.finish(fired)
}

pub(super) fn black_hole(options: &FaultsOptions, name: &str) -> Result<Row> {
    let siblings = Siblings::start(options, name)?;
    siblings.path.black_hole(true);
    sleep(AFTER);
    let fired = siblings.path.counts().black_holed > 0;
    siblings.finish(fired)
}

/// SIGTERM: the relay asks its listeners to move, and ends when they have.
pub(super) fn drain(options: &FaultsOptions, name: &str) -> Result<Row> {
    let mut siblings = Siblings::start(options, name)?;
    let begun = Instant::now();
    signal(siblings.victim().pid(), "TERM")?;
    let unready = |node: &Node| node.admin_get("/readyz").map_or(true, |(status, _)| status == 503);
    let mut fired = false;
    while !siblings.victim().has_ended()? {
        fired |= unready(siblings.victim());
        if begun.elapsed() > DRAIN {
            bail!("the relay still drains after {DRAIN:?}");
        }
        sleep(Duration::from_millis(20));
    }
    let took = begun.elapsed();
    sleep(Duration::from_secs(1));
    let mut row = siblings.finish(fired)?;
    row.note("drained_s", (took.as_secs_f64() * 1_000.0).round() / 1_000.0);
    Ok(row)
}
