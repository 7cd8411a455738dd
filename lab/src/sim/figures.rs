//! What a world counts, and what is said of it at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use stentor_proto::node::ToControl;
use stentor_proto::wire::CloseCode;

use super::chance::mix;
use super::crowd::Tally;
use super::events::{Event, NodeIx};
use super::model::Violation;
use super::world::{BEGIN, OPENS, World};

/// What a world counts as it lives.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// Listeners that set out, those of them that came in, and sessions that were opened for it.
    pub(super) set_out: u64,
    pub(super) joins: u64,
    pub(super) attempts: u64,
    /// Moves to another relay, by their cause.
    pub(super) moved_silent: u64,
    pub(super) moved_lost: u64,
    pub(super) moved_asked: u64,
    /// Sessions whose listener's address changed.
    pub(super) rebound: u64,
    /// Answers that told a listener to wait.
    pub(super) told_to_wait: u64,
    /// Sessions of listeners that ended against their will.
    pub(super) cut_off: u64,
    /// Datagrams that the fan-outs offered to sessions.
    pub(super) offered: u64,
    /// Fan-outs that were compared with all of their shard's sessions.
    pub(super) full_checks: u64,
    /// Messages that came to the origin's control, speech apart.
    origin_messages: u64,
    /// Listeners whose machine gave up, by the code that it named.
    gave_up: BTreeMap<&'static str, u64>,
    /// Of them, those who had been inside.
    gave_up_inside: u64,
    /// From setting out to the first tick, in milliseconds.
    first_sound: BTreeMap<u64, u64>,
    /// Times without new ticks that moves cost, in milliseconds.
    move_gaps: BTreeMap<u64, u64>,
    pub(super) seconds: Vec<Second>,
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

    pub(super) fn gave_up(&mut self, code: CloseCode, inside: bool) {
        self.gave_up_inside += u64::from(inside);
        *self.gave_up.entry(code.name()).or_default() += 1;
    }

    pub(super) fn first_sound(&mut self, took: Duration) {
        *self.first_sound.entry(ms(took)).or_default() += 1;
    }

    /// A move to another relay cost its listener so long without new ticks.
    pub(super) fn moved(&mut self, gap: Duration) {
        *self.move_gaps.entry(ms(gap)).or_default() += 1;
    }

    /// So many listeners had no new tick for so long.
    pub(super) fn gap(&mut self, gap: Duration, listeners: u32) {
        *self.gaps.entry(ms(gap)).or_default() += u64::from(listeners);
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

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What this share of those who are counted did not exceed; 0 for none.
fn quantile(counts: &BTreeMap<u64, u64>, share: f64) -> u64 {
    let all: u64 = counts.values().sum();
    let mut left = (all as f64 * share).ceil() as u64;
    let reached = |(_, count): &(&u64, &u64)| {
        left = left.saturating_sub(**count);
        left == 0
    };
    counts.iter().find(reached).map_or(0, |(&ms, _)| ms)
}

/// Who was where at a second of the world's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Second {
    /// Seconds since the doors opened.
    pub at: u64,
    /// Listeners that have set out so far, those who came again counted again.
    pub set_out: u64,
    /// Listeners whom a session serves.
    pub inside: usize,
    /// Those outside who were told to wait.
    pub waiting: usize,
}

/// How listeners came in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doors {
    /// Listeners that set out, those who came again counted again.
    pub set_out: u64,
    /// Sessions that were opened, those of moves included.
    pub attempts: u64,
    /// Answers that told a listener to wait.
    pub told_to_wait: u64,
    /// The most that waited at once, at a full second.
    pub waiting_most: usize,
    /// From setting out to the first tick, the wait included (ms).
    pub first_sound_ms_p50: u64,
    /// See above.
    pub first_sound_ms_p99: u64,
    /// Listeners whose machine found nobody who took them, by the code that it named; they came again.
    pub gave_up: Vec<(&'static str, u64)>,
}

/// How listeners went from relay to relay.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moves {
    /// Because their relay had fallen silent.
    pub silent: u64,
    /// Because their session had ended.
    pub lost: u64,
    /// Because their relay asked them to.
    pub asked: u64,
    /// Of those who had to leave their relay, how many another one took.
    pub returned_percent: f64,
    /// The time without new ticks that a move cost (ms); 0 without any.
    pub gap_ms_p50: u64,
    /// See above.
    pub gap_ms_p99: u64,
    /// Sessions whose listener's address changed.
    pub rebound: u64,
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
    /// Ticks that they passed on, and those that they gave up.
    pub ticks: u64,
    /// See above.
    pub lost: u64,
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
    /// What all listeners of the class have received, and have given up.
    pub tally: Tally,
}

/// What became of a world.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The command that makes this world again.
    pub command: String,
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
    /// How listeners came in.
    pub doors: Doors,
    /// How they went from relay to relay.
    pub rehomed: Moves,
    /// Who was where, by the second.
    pub seconds: Vec<Second>,
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
    /// What moves cost: milliseconds without new ticks, and how many had them.
    pub move_gaps: Vec<(u64, u64)>,
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
            command: self.setup.command(),
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
            doors: self.doors(),
            rehomed: self.rehomed(),
            seconds: self.counted.seconds.clone(),
            moves: self.tree.moves,
            moved_most: self.tree.moved_most,
            exposed: self.exposed().len(),
            fired: self.struck.iter().filter(|struck| struck.fired).count(),
            lossy_hops: self.model.lossy,
            delays: self.level_delays(&levels),
            losses: self.class_losses(&tallies),
            tally,
            gaps: self.counted.gaps.iter().map(|(&ms, &count)| (ms, count)).collect(),
            gap_ms_p99: quantile(&self.counted.gaps, 0.99),
            move_gaps: self.counted.move_gaps.iter().map(|(&ms, &count)| (ms, count)).collect(),
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
        let relays = |level: usize| {
            let relays = self.nodes.iter().skip(1);
            relays.filter(move |node| node.is_running() && usize::from(node.level) == level)
        };
        let delay = |(level, histogram): (usize, &Histogram<u64>)| LevelDelay {
            level: level as u8,
            relays: levels.iter().filter(|&&l| usize::from(l) == level).count(),
            p50_ms: histogram.value_at_quantile(0.5) as f64 / 1_000.0,
            p99_ms: histogram.value_at_quantile(0.99) as f64 / 1_000.0,
            ticks: relays(level).map(|node| node.had.count()).sum(),
            lost: relays(level).map(|node| node.control.stats().lost).sum(),
        };
        delays.map(delay).collect()
    }

    fn class_losses(&self, tallies: &[Tally]) -> Vec<ClassLoss> {
        let classes = self.setup.classes.iter().enumerate();
        let loss = |(at, class): (usize, &super::setup::Class)| {
            let (ticks, missing) = self.model.by_class.get(at).copied().unwrap_or_default();
            let listeners = self.crowd.listeners.iter().zip(tallies);
            let here = listeners.filter(|(listener, _)| usize::from(listener.class) == at);
            let tally = here.fold(Tally::default(), |sum, (_, tally)| sum.plus(*tally));
            ClassLoss { class: class.name, ticks, missing, tally }
        };
        classes.map(loss).collect()
    }

    fn doors(&self) -> Doors {
        let counted = &self.counted;
        Doors {
            set_out: counted.set_out,
            attempts: counted.attempts,
            told_to_wait: counted.told_to_wait,
            waiting_most: counted.seconds.iter().map(|second| second.waiting).max().unwrap_or(0),
            first_sound_ms_p50: quantile(&counted.first_sound, 0.5),
            first_sound_ms_p99: quantile(&counted.first_sound, 0.99),
            gave_up: counted.gave_up.iter().map(|(&code, &count)| (code, count)).collect(),
        }
    }

    fn rehomed(&self) -> Moves {
        let counted = &self.counted;
        let (silent, lost) = (counted.moved_silent, counted.moved_lost);
        // Whoever set out anew after the first time was taken by nobody.
        let given_up: u64 = counted.gave_up_inside;
        let all = silent + lost + given_up;
        Moves {
            silent,
            lost,
            asked: counted.moved_asked,
            returned_percent: match all {
                0 => 100.0,
                all => 100.0 * (silent + lost) as f64 / all as f64,
            },
            gap_ms_p50: quantile(&counted.move_gaps, 0.5),
            gap_ms_p99: quantile(&counted.move_gaps, 0.99),
            rebound: counted.rebound,
        }
    }

    /// Notes who is where.
    pub(super) fn on_second(&mut self) {
        let second = Second {
            at: self.now.since(BEGIN + OPENS).as_secs(),
            set_out: self.counted.set_out,
            inside: self.crowd.joined,
            waiting: self.crowd.waiting,
        };
        self.counted.seconds.push(second);
        self.events.push(self.now + Duration::from_secs(1), Event::Second);
    }
}
