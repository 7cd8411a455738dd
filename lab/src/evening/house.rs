//! The tree of an evening: an origin with an address for the stage, and two levels of relays with as
//! many places as the evening had listeners.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};
use stentor_client::audio::EncoderSettings;
use stentor_proto::admission::{headroom, share};

use crate::bed::{Bed, Choir, RelayPlan};
use crate::nodes;
use crate::storm::{Storm, StormPlan};

const ROOM: &str = "evening";
/// The origin admits nobody itself. Its HTTP door counts by address, and each who asks has one. A small
/// relay's children are more than a tenth of its sessions.
const ORIGIN: &str = "[[rooms]]\nname = \"evening\"\npublic = true\n[limits]\nlisteners = 0\n\
                      [tree]\nchildren_share = 0.5\n";
/// Relays by their level, from the first on.
const LEVELS: [usize; 2] = [2, 4];
/// Those below have all of those above as parents.
const CHILDREN: u32 = LEVELS[1] as u32;
/// The core of the tree, and that of those who come.
const TREE_CORE: usize = 0;
const CROWD_CORE: usize = 1;
/// The origin is asked this often what it sees.
const LOOK: Duration = Duration::from_millis(500);

/// What the tree takes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budgets {
    /// Listeners that each relay may carry.
    pub(super) capacity: u32,
    /// Newcomers in a second, each relay.
    pub(super) joins_per_s: u32,
    /// Whether joins are shaped at all.
    pub(super) admission: bool,
}

impl Budgets {
    /// For `places` listeners and the headroom that makes one relay's death bearable, all of them let
    /// in within `fill` at the soonest.
    pub(super) fn of(places: f64, fill: Duration, admission: bool) -> Self {
        let relays: usize = LEVELS.iter().sum();
        let each = (places / relays as f64).ceil() as u32;
        // Those of the first level are the largest: they have places for children, too.
        let kept = |capacity| headroom(capacity, share(capacity + CHILDREN, relays - 1));
        let mut capacity = each;
        while capacity - kept(capacity) < each {
            capacity += 1;
        }
        let joins = places / fill.as_secs_f64() / relays as f64;
        Self { capacity, joins_per_s: (joins.round() as u32).max(1), admission }
    }

    /// Newcomers in a second, the whole tree.
    pub(super) const fn joins_in_all(self) -> u32 {
        self.joins_per_s * (LEVELS[0] + LEVELS[1]) as u32
    }

    fn toml(self) -> String {
        let on = if self.admission { "on" } else { "off" };
        // All of a sibling's share at once, and a word for each who waits.
        format!(
            "admission = \"{on}\"\n[limits]\njoins_per_s = {}\nreturns_per_s = {}\n\
             tickets_per_s = {}\n",
            self.joins_per_s,
            self.capacity,
            self.capacity.max(100)
        )
    }
}

/// The tree, and those who speak.
pub(super) struct House {
    bed: Bed,
    plans: Vec<RelayPlan>,
    host: Choir,
    speaker: Option<Choir>,
    admins: SocketAddr,
    core: Option<usize>,
}

impl House {
    pub(super) fn open(budgets: Budgets, cores: usize) -> Result<Self> {
        let core = (cores > 1).then_some(TREE_CORE);
        if cores > 1 {
            stentor_relay::quic::sys::pin_to_core(CROWD_CORE)?;
        }
        let mut bed = Bed::start_with_stage("evening", ORIGIN, core)?;
        let mut plans = Vec::new();
        for (level, relays) in (1..).zip(LEVELS) {
            for n in 1..=relays {
                let plan = RelayPlan::new(&format!("relay-{level}-{n}"), level);
                let children = if level == 1 { CHILDREN } else { 0 };
                let (capacity, config) = (budgets.capacity + children, budgets.toml());
                plans.push(RelayPlan { core, capacity, config, ..plan });
            }
            for plan in plans.iter().filter(|plan| plan.level == level) {
                bed.add_relay(plan)?;
            }
            bed.wait_ready()?;
        }
        // Somebody holds the room before the speaker comes, and says nothing.
        let host = Choir::start(bed.trust(), vec![bed.stage(ROOM)?], voice(), core)?;
        let admins = bed.origin.admin;
        Ok(Self { bed, plans, host, speaker: None, admins, core })
    }

    /// Those who come: half of them by the HTTP door, and each with some relays' addresses.
    pub(super) fn storm(&self, dwell: Duration, seed: u64) -> Result<Storm> {
        let mut plan = StormPlan::new(self.entries(None), self.bed.roots()?, ROOM);
        plan.http = Some((self.bed.origin.address, 0.5));
        plan.dwell = Some(dwell);
        plan.entries_each = 3;
        plan.seed = seed;
        let mut storm = Storm::new(plan)?;
        storm.watch_hearing()?;
        Ok(storm)
    }

    /// The addresses that are given out, but for one relay's.
    pub(super) fn entries(&self, without: Option<usize>) -> Vec<SocketAddr> {
        let relays = self.bed.relays.iter().enumerate();
        relays.filter(|(n, _)| Some(*n) != without).map(|(_, relay)| relay.address).collect()
    }

    /// The relay at the deepest level that serves most of them.
    pub(super) fn fullest(&self, inside: &BTreeMap<SocketAddr, usize>) -> usize {
        let serves = |n: &usize| inside.get(&self.bed.relays[*n].address).copied().unwrap_or(0);
        (LEVELS[0]..self.bed.relays.len()).max_by_key(serves).unwrap_or(LEVELS[0])
    }

    /// The UDP ports of the origin and the relays that run.
    pub(super) fn ports(&self) -> Vec<u16> {
        let nodes = self.bed.relays.iter().chain([&self.bed.origin]);
        nodes.map(|node| node.address.port()).collect()
    }

    pub(super) fn address(&self, relay: usize) -> SocketAddr {
        self.bed.relays[relay].address
    }

    pub(super) fn name(&self, relay: usize) -> &str {
        &self.bed.relays[relay].name
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self, relay: usize) -> Result<()> {
        self.bed.relays[relay].kill()
    }

    /// Starts a relay that was killed again, where it was; does not wait for it.
    pub(super) fn bring_back(&mut self, relay: usize) -> Result<()> {
        let former = &self.bed.relays[relay];
        let ports = Some((former.address, former.admin));
        let plan = RelayPlan { ports, ..self.plans[relay].clone() };
        self.bed.add_relay(&plan)?;
        let last = self.bed.relays.len() - 1;
        self.bed.relays.swap(relay, last);
        self.bed.relays.truncate(last);
        Ok(())
    }

    /// The speaker joins, and says nothing yet.
    pub(super) fn speaker_joins(&mut self) -> Result<()> {
        let joins = vec![self.bed.stage(ROOM)?];
        self.speaker = Some(Choir::start(self.bed.trust(), joins, voice(), self.core)?);
        Ok(())
    }

    pub(super) fn speech_begins(&self) {
        if let Some(speaker) = &self.speaker {
            speaker.speak(1);
        }
    }

    /// Looks whether host and speaker still go on.
    pub(super) fn check(&mut self) -> Result<()> {
        self.host.check()?;
        self.speaker.as_mut().map_or(Ok(()), Choir::check)
    }

    /// What the origin's operator sees, from now on.
    pub(super) fn operator(&self) -> Result<Operator> {
        Operator::start(self.admins, self.core)
    }

    pub(super) fn close(self) -> Result<()> {
        self.host.finish()?;
        self.speaker.map_or(Ok(()), |speaker| speaker.finish().map(drop))
    }
}

/// 28 kbit/s without pauses, a speaker's default.
fn voice() -> EncoderSettings {
    EncoderSettings { bitrate: 28_000, constant: true, dtx: false, ..EncoderSettings::default() }
}

/// The origin's own figures, read as Prometheus does, from a thread of its own.
pub(super) struct Operator {
    seen: Arc<Mutex<BTreeMap<String, f64>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Operator {
    fn start(admin: SocketAddr, core: Option<usize>) -> Result<Self> {
        let (seen, stop) =
            (Arc::new(Mutex::new(BTreeMap::new())), Arc::new(AtomicBool::new(false)));
        let (shown, ended) = (seen.clone(), stop.clone());
        let look = move || {
            if let Some(core) = core {
                // Where it cannot be pinned it looks from anywhere.
                let _ = stentor_relay::quic::sys::pin_to_core(core);
            }
            while !ended.load(Ordering::Relaxed) {
                // Whoever does not answer is asked again.
                if let Ok(metrics) = nodes::metrics(admin) {
                    *shown.lock().unwrap_or_else(PoisonError::into_inner) = metrics;
                }
                std::thread::sleep(LOOK);
            }
        };
        let thread = std::thread::Builder::new().name("operator".into()).spawn(look)?;
        Ok(Self { seen, stop, thread: Some(thread) })
    }

    /// A metric of the origin as it was last seen; 0 where it has none yet.
    pub(super) fn sees(&self, metric: &str) -> f64 {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(metric).copied().unwrap_or(0.0)
    }

    pub(super) fn goes(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or_else(|| anyhow!("an operator goes once"))?;
        thread.join().map_err(|_| anyhow!("the operator's thread panicked"))
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_holds_the_evening_and_a_dead_relay_s_listeners() {
        let budgets = Budgets::of(678.0, Duration::from_secs(60), true);
        let relays = (LEVELS[0] + LEVELS[1]) as u32;
        let kept = headroom(budgets.capacity, share(budgets.capacity + CHILDREN, 5));
        let listeners = budgets.capacity - kept;
        assert!((678..690).contains(&(listeners * relays)), "{listeners} of {budgets:?}");
        assert!(listeners <= kept * (relays - 1), "one relay's death is survived");
        assert_eq!((budgets.joins_per_s, budgets.joins_in_all()), (2, 12));
        let tiny = Budgets::of(10.0, Duration::from_secs(60), false);
        assert!(tiny.joins_per_s == 1 && tiny.toml().contains("admission = \"off\""));
    }
}
