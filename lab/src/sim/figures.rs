//! What a world counts, and what is said of it at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use stentor_proto::node::ToControl;
use stentor_proto::wire::CloseCode;

use super::chance::mix;
use super::crowd::Tally;
use super::events::NodeIx;
use super::model::Violation;
use super::world::{BEGIN, World};

/// What a world counts as it lives.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) joins: u64,
    /// Sessions of listeners that ended against their will.
    pub(super) cut_off: u64,
    /// Datagrams that the fan-outs offered to sessions.
    pub(super) offered: u64,
    /// Fan-outs that were compared with all of their shard's sessions.
    pub(super) full_checks: u64,
    /// Messages that came to the origin's control, speech apart.
    origin_messages: u64,
    closes: BTreeMap<&'static str, u64>,
    /// From the origin's control to a relay's, in microseconds, by level.
    delays: Vec<Histogram<u64>>,
    /// Times without new ticks, in milliseconds, by the listeners that had them.
    gaps: BTreeMap<u64, u64>,
}

impl Counted {
    pub(super) fn message(&mut self, node: NodeIx, message: &ToControl) {
        self.origin_messages +=
            u64::from(node == 0 && !matches!(message, ToControl::Speech { .. }));
    }

    pub(super) fn closed(&mut self, code: CloseCode) {
        *self.closes.entry(code.name()).or_default() += 1;
    }

    /// So many listeners had no new tick for so long.
    pub(super) fn gap(&mut self, gap: Duration, listeners: u32) {
        let ms = u64::try_from(gap.as_millis()).unwrap_or(u64::MAX);
        *self.gaps.entry(ms).or_default() += u64::from(listeners);
    }

    /// The gap that this share of those who had one did not exceed.
    fn gap_ms(&self, share: f64) -> u64 {
        let all: u64 = self.gaps.values().sum();
        let mut left = (all as f64 * share).ceil() as u64;
        let reached = |(_, count): &(&u64, &u64)| {
            left = left.saturating_sub(**count);
            left == 0
        };
        self.gaps.iter().find(reached).map_or(0, |(&ms, _)| ms)
    }

    /// A relay on `level` passed a live tick on so long after the origin did.
    pub(super) fn passed(&mut self, level: u8, delay: Duration) {
        /// The longest delay that is told apart: one minute.
        const MOST_US: u64 = 60_000_000;
        let level = usize::from(level);
        while self.delays.len() <= level {
            let histogram = Histogram::new_with_max(MOST_US, 3);
            self.delays.push(histogram.expect("a minute in microseconds fits three digits"));
        }
        let us = u64::try_from(delay.as_micros()).unwrap_or(MOST_US);
        self.delays[level].saturating_record(us);
    }
}

/// How long ticks took to the relays of one level.
#[derive(Clone, Debug, PartialEq)]
pub struct LevelDelay {
    /// The level.
    pub level: u8,
    /// Relays on it at the end.
    pub relays: usize,
    /// The median, in milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 took no longer.
    pub p99_ms: f64,
}

/// What the listeners of a class have missed.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassLoss {
    /// The class.
    pub class: &'static str,
    /// Ticks of full receivers that were compared.
    pub ticks: u64,
    /// Those of them that never came.
    pub missing: u64,
}

/// What became of a world.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Listeners in the room at the end.
    pub listeners: usize,
    /// Those of them for whom a cohort's reception stands.
    pub folded: usize,
    /// Joins in all.
    pub joins: u64,
    /// Sessions of listeners that a fault ended.
    pub cut_off: u64,
    /// Relays in the tree at the end.
    pub relays: usize,
    /// The deepest level.
    pub levels: u8,
    /// How long the world lived.
    pub virtual_time: Duration,
    /// Ticks that the origin issued.
    pub ticks: u64,
    /// Datagrams that fan-outs offered to sessions.
    pub offered: u64,
    /// What happened: events of the simulator.
    pub events: u64,
    /// Fan-outs that were compared with all of their sessions.
    pub full_checks: u64,
    /// Messages that the origin's control got in a second.
    pub origin_messages_per_s: f64,
    /// Placements after a relay's first.
    pub moves: u64,
    /// The most of them at once.
    pub moved_most: usize,
    /// Relays that one more death would leave unfed until the planner has placed them anew.
    pub exposed: usize,
    /// Faults that struck.
    pub fired: usize,
    /// Ticks that were to reach a relay over lossy hops alone, and those that did not.
    pub lossy_hops: (u64, u64),
    /// Delays by level.
    pub delays: Vec<LevelDelay>,
    /// Losses by class.
    pub losses: Vec<ClassLoss>,
    /// What all listeners received, repaired and gave up.
    pub tally: Tally,
    /// Times without new ticks of more than 200 ms: milliseconds, and how many listeners had them.
    pub gaps: Vec<(u64, u64)>,
    /// 99 of 100 of them were no longer (ms); 0 without any.
    pub gap_ms_p99: u64,
    /// Listeners by relay, in the order of their levels: the relay's level and its listeners.
    pub loads: Vec<(u8, usize)>,
    /// What must not have been, the first of it.
    pub violations: Vec<Violation>,
    /// How often something was that must not have been.
    pub violated: u64,
    /// What tells two outcomes apart: all that was counted.
    pub fingerprint: u64,
}

impl World {
    /// What has become of the world so far.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let tallies = self.tallies();
        let sum = |pick: fn(&Tally) -> i64| tallies.iter().map(pick).sum();
        let tally = Tally {
            received: sum(|t| t.received),
            repaired: sum(|t| t.repaired),
            lost: sum(|t| t.lost),
        };
        let levels: Vec<u8> =
            self.nodes.iter().skip(1).filter(|n| n.is_running()).map(|n| n.level).collect();
        let lived = self.now.since(BEGIN);
        let mut fingerprint = mix(self.events.happened, self.counted.offered);
        for tally in &tallies {
            fingerprint = mix(fingerprint, tally.received as u64 ^ (tally.lost as u64) << 32);
        }
        Outcome {
            seed: self.setup.seed,
            listeners: self.crowd.joined,
            folded: self.crowd.folded(),
            joins: self.counted.joins,
            cut_off: self.counted.cut_off,
            relays: levels.iter().filter(|&&level| level > 0).count(),
            levels: levels.iter().copied().max().unwrap_or(0),
            virtual_time: lived,
            ticks: self.nodes[0].had.count(),
            offered: self.counted.offered,
            events: self.events.happened,
            full_checks: self.counted.full_checks,
            origin_messages_per_s: self.counted.origin_messages as f64
                / lived.as_secs_f64().max(1.0),
            moves: self.tree.moves,
            moved_most: self.tree.moved_most,
            exposed: self.exposed().len(),
            fired: self.struck.iter().filter(|struck| struck.fired).count(),
            lossy_hops: self.model.lossy,
            delays: self.level_delays(&levels),
            losses: self.class_losses(),
            tally,
            gaps: self.counted.gaps.iter().map(|(&ms, &count)| (ms, count)).collect(),
            gap_ms_p99: self.counted.gap_ms(0.99),
            loads: self.loads(),
            violations: self.model.violations.clone(),
            violated: self.model.violated,
            fingerprint,
        }
    }

    fn loads(&self) -> Vec<(u8, usize)> {
        let carried = |node: &super::node::Node| {
            let shards = node.shards.iter();
            (node.level, shards.map(|shard| shard.machine.carried().0 as usize).sum())
        };
        let mut loads: Vec<(u8, usize)> = self.nodes.iter().skip(1).map(carried).collect();
        loads.sort_by_key(|&(level, _)| level);
        loads
    }

    fn level_delays(&self, levels: &[u8]) -> Vec<LevelDelay> {
        let delays = self.counted.delays.iter().enumerate().skip(1);
        let delay = |(level, histogram): (usize, &Histogram<u64>)| LevelDelay {
            level: level as u8,
            relays: levels.iter().filter(|&&l| usize::from(l) == level).count(),
            p50_ms: histogram.value_at_quantile(0.5) as f64 / 1_000.0,
            p99_ms: histogram.value_at_quantile(0.99) as f64 / 1_000.0,
        };
        delays.map(delay).collect()
    }

    fn class_losses(&self) -> Vec<ClassLoss> {
        let counts = self.model.by_class.iter().zip(&self.setup.classes);
        let loss = |(&(ticks, missing), class): (&(u64, u64), &super::setup::Class)| ClassLoss {
            class: class.name,
            ticks,
            missing,
        };
        counts.map(loss).collect()
    }
}
