//! What the rows stand on: a tree on one core with a voice, and how busy the cores are.

use std::time::Duration;

use anyhow::{Context, Result};
use stentor_client::audio::EncoderSettings;

use super::{GENERATOR_CORE, SERVER_CORE};
use crate::bed::{Bed, Choir, RelayPlan};
use crate::storm::{Storm, StormPlan};

pub(super) const ROOM: &str = "door";
/// The origin admits nobody itself: the budgets of the tree are those of its relays. Its HTTP door counts
/// writes by address, and each who asks has an address of its own.
const ORIGIN: &str = "[[rooms]]\nname = \"door\"\npublic = true\n[limits]\nlisteners = 0\n";

/// A tree in which somebody speaks without a pause.
pub(super) struct Rig {
    pub(super) bed: Bed,
    choir: Choir,
}

/// What a relay admits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budgets {
    pub(super) joins_per_s: u32,
    pub(super) returns_per_s: u32,
    pub(super) tickets_per_s: u32,
    pub(super) admission: bool,
}

impl Budgets {
    fn toml(self) -> String {
        let Self { joins_per_s, returns_per_s, tickets_per_s, admission } = self;
        let on = if admission { "on" } else { "off" };
        format!(
            "admission = \"{on}\"\n[limits]\njoins_per_s = {joins_per_s}\nreturns_per_s = \
             {returns_per_s}\ntickets_per_s = {tickets_per_s}\n"
        )
    }
}

/// A relay with a core of everybody but the generator.
pub(super) fn relay(name: &str, capacity: u32, budgets: Budgets) -> RelayPlan {
    let config = budgets.toml();
    RelayPlan { core: Some(SERVER_CORE), capacity, config, ..RelayPlan::new(name, 1) }
}

impl Rig {
    /// An origin with an address for the stage, these relays, and one voice.
    pub(super) fn start(what: &str, relays: &[RelayPlan]) -> Result<Self> {
        let mut bed = Bed::start_with_stage(what, ORIGIN, Some(SERVER_CORE))?;
        for relay in relays {
            bed.add_relay(relay)?;
        }
        bed.wait_ready()?;
        let settings = EncoderSettings { constant: true, dtx: false, ..EncoderSettings::default() };
        let joins = vec![bed.stage(ROOM)?];
        let choir = Choir::start(bed.trust(), joins, settings, Some(SERVER_CORE))?;
        choir.speak(1);
        Ok(Self { bed, choir })
    }

    /// A storm that comes straight to these relays.
    pub(super) fn storm(
        &self,
        relays: &[usize],
        change: impl FnOnce(&mut StormPlan),
    ) -> Result<Storm> {
        let entries = relays.iter().map(|&n| self.bed.relays[n].address).collect();
        let mut plan = StormPlan::new(entries, self.bed.roots()?, ROOM);
        change(&mut plan);
        Storm::new(plan)
    }

    /// Looks whether the voice still speaks.
    pub(super) fn check(&mut self) -> Result<()> {
        self.choir.check()
    }

    /// Ends the voice and the tree.
    pub(super) fn end(self) -> Result<()> {
        self.choir.finish().map(drop)
    }
}

/// How busy both sides' cores were since it was made.
pub(super) struct Busy([(u64, u64); 2]);

impl Busy {
    pub(super) fn start() -> Result<Self> {
        Ok(Self([core(SERVER_CORE)?, core(GENERATOR_CORE)?]))
    }

    /// The parts of the time that the server's and the generator's cores were busy (0 to 1).
    pub(super) fn parts(&self) -> Result<(f64, f64)> {
        let part = |before: (u64, u64), after: (u64, u64)| {
            (after.0 - before.0) as f64 / (after.1 - before.1).max(1) as f64
        };
        Ok((part(self.0[0], core(SERVER_CORE)?), part(self.0[1], core(GENERATOR_CORE)?)))
    }
}

/// Ticks of the kernel's clock that a core was busy, and all of them.
fn core(number: usize) -> Result<(u64, u64)> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let name = format!("cpu{number} ");
    let line = stat.lines().find_map(|line| line.strip_prefix(&name));
    let line = line.with_context(|| format!("there is no core {number}"))?;
    let ticks: Vec<u64> =
        line.split_ascii_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?;
    // user nice system idle iowait irq softirq steal
    let all = ticks.iter().take(8).sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    Ok((all - idle, all))
}

/// Time in milliseconds.
pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
