//! The reference model: who must have received which ticks.
//!
//! It follows hops, not machines. A tick that the origin passes on must reach every relay that has
//! had at least one parent, throughout the tick's way, which must have it too and whose hop no
//! fault was on; and every listener of a lossless class must have what its relay has.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use stentor_proto::Time;

use super::crowd::Person;
use super::events::{ConnIx, NodeIx};
use super::fault::SETTLED;
use super::link::Loss;
use super::node::Hop;
use super::wires::Opener;
use super::world::World;

/// A tick must have arrived everywhere this long after it was issued: any path and its repair.
const GRACE: Duration = Duration::from_millis(1_000);
/// Whoever came to a relay within this after a tick was issued has it: a replay brings the last
/// second, less the way of the hello.
const REPLAYED: Duration = Duration::from_millis(800);
/// What was held back by a fault arrives within this after its end.
pub(super) const SETTLES: Duration = Duration::from_millis(500);
/// Ticks that the origin's record keeps: more than any window spans.
const KEPT: usize = 1_024;
/// Violations that are kept in words; more are counted.
const WORDS: usize = 50;

/// What the origin issued.
#[derive(Debug, Default)]
pub(super) struct Truth {
    /// The first number of `kept`.
    first: u32,
    kept: VecDeque<(Time, Bytes)>,
}

impl Truth {
    pub(super) fn issue(&mut self, now: Time, number: u32, record: &Bytes) {
        if self.kept.is_empty() {
            self.first = number;
        }
        self.kept.push_back((now, record.clone()));
        if self.kept.len() > KEPT {
            self.kept.pop_front();
            self.first += 1;
        }
    }

    /// Whether this is what the origin issued under that number, as far as it is kept.
    pub(super) fn is(&self, number: u32, record: &[u8]) -> bool {
        match self.at(number) {
            Some((_, issued)) => issued == record,
            None => number < self.first,
        }
    }

    pub(super) fn issued(&self, number: u32) -> Option<Time> {
        self.at(number).map(|&(at, _)| at)
    }

    pub(super) fn newest(&self) -> u32 {
        self.first + self.kept.len() as u32 - u32::from(!self.kept.is_empty())
    }

    fn at(&self, number: u32) -> Option<&(Time, Bytes)> {
        self.kept.get(number.checked_sub(self.first)? as usize)
    }
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// When it was seen: microseconds of virtual time.
    pub at_us: u64,
    /// What it is.
    pub what: String,
}

/// A tick that must have arrived, and the nodes that must have it.
#[derive(Debug)]
struct Due {
    number: u32,
    issued: Time,
    must: Vec<bool>,
}

/// The reference model's state.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) truth: Truth,
    /// Ticks up to this one have been compared.
    compared: u32,
    pub(super) violations: Vec<Violation>,
    pub(super) violated: u64,
    /// Ticks that must have reached a relay, and those of them that did not, over hops that lose.
    pub(super) lossy: (u64, u64),
    /// Ticks that lossy listeners must have received, and those that they have not, by class.
    pub(super) by_class: Vec<(u64, u64)>,
    /// Which nodes must have had the tick that is being compared.
    must: Vec<bool>,
    /// Relays in the order of their levels.
    order: Vec<NodeIx>,
}

impl Model {
    pub(super) fn violation(&mut self, now: Time, what: String) {
        self.violated += 1;
        if self.violations.len() < WORDS {
            self.violations.push(Violation { at_us: now.as_micros(), what });
        }
    }
}

impl World {
    /// Compares the ticks that must have arrived by this time.
    pub(super) fn check(&mut self) {
        let upto = self.model.truth.newest();
        let due = |world: &Self, number: u32| {
            world.model.truth.issued(number).is_none_or(|at| at + GRACE <= world.now)
        };
        let from = self.model.compared + 1;
        let Some(last) = (from..=upto).rev().find(|&number| due(self, number)) else { return };
        self.model.order = (1..self.nodes.len()).collect();
        let level = |node: &NodeIx| (self.nodes[*node].level, *node);
        self.model.order.sort_by_key(level);
        let mut due = Vec::new();
        for number in from..=last {
            if let Some(issued) = self.model.truth.issued(number) {
                self.check_relays(number, issued);
                self.check_cohorts(number, issued);
                due.push(Due { number, issued, must: self.model.must.clone() });
            }
        }
        self.check_samples(&due);
        self.model.compared = last;
    }

    fn check_relays(&mut self, number: u32, issued: Time) {
        let mut must = std::mem::take(&mut self.model.must);
        must.clear();
        must.resize(self.nodes.len(), false);
        must[0] = true;
        let mut absent = Vec::new();
        for &node in &self.model.order {
            let held =
                |hop: &&Hop| must[hop.parent] && hop.since.is_some_and(|since| since <= issued);
            let hops: Vec<&Hop> = self.nodes[node].hops.iter().filter(held).collect();
            must[node] = !hops.is_empty();
            if !must[node] {
                continue;
            }
            let had = self.nodes[node].had.has(number);
            let lossy = |hop: &&Hop| {
                let link = self.wires.links.get(&(hop.parent, node));
                link.is_some_and(|link| link.line.loss != Loss::None)
            };
            if hops.iter().all(lossy) {
                self.model.lossy.0 += 1;
                self.model.lossy.1 += u64::from(!had);
                must[node] = had;
            } else if !had {
                absent.push(node);
            }
        }
        self.model.must = must;
        for node in absent {
            let name = &self.nodes[node].name;
            let what = format!("{name} did not get tick {number} that a parent passed on");
            self.model.violation(self.now, what);
        }
    }

    fn check_cohorts(&mut self, number: u32, issued: Time) {
        let mut absent = Vec::new();
        for (node, must) in self.nodes.iter().zip(&self.model.must) {
            if !must || node.well_since > issued || !node.had.has(number) {
                continue;
            }
            for shard in &node.shards {
                let classes = shard.cohorts.iter().enumerate();
                let cohorts = classes.flat_map(|(class, slots)| {
                    slots.iter().flatten().map(move |cohort| (class, cohort))
                });
                for (class, cohort) in cohorts {
                    let Some(had) = cohort.ear.as_ref().map(|ear| &ear.had) else { continue };
                    let lossless = self.setup.classes[class].line.loss == Loss::None;
                    if lossless && number >= had.first() && !had.has(number) {
                        absent.push((node.name.clone(), cohort.members, class));
                    }
                }
            }
        }
        for (name, members, class) in absent {
            let class = self.setup.classes[class].name;
            let what = format!("{members} {class} listeners of {name} did not get tick {number}");
            self.model.violation(self.now, what);
        }
    }

    /// Those whose reception is their own: each is looked at once for all ticks that are due.
    fn check_samples(&mut self, due: &[Due]) {
        let mut absent = Vec::new();
        let mut by_class = std::mem::take(&mut self.model.by_class);
        by_class.resize(self.setup.classes.len(), (0, 0));
        for (at, node) in self.nodes.iter().enumerate() {
            let owed = |due: &&Due| {
                due.must[at] && node.well_since <= due.issued && node.had.has(due.number)
            };
            let owed: Vec<&Due> = due.iter().filter(owed).collect();
            if owed.is_empty() {
                continue;
            }
            for shard in &node.shards {
                for (class, alone) in shard.alone.iter().enumerate() {
                    let lossless = self.setup.classes[class].line.loss == Loss::None;
                    for &ix in alone {
                        let Some(seat) = shard.seats[ix as usize].filter(|seat| seat.joined) else {
                            continue;
                        };
                        let Some(listener) = self.wires.listener(seat.conn) else { continue };
                        let Some((must, missing)) = self.lacks(listener, seat.conn, &owed) else {
                            continue;
                        };
                        by_class[class].0 += must;
                        by_class[class].1 += missing.len() as u64;
                        if lossless && !missing.is_empty() {
                            absent.push((node.name.clone(), listener, missing));
                        }
                    }
                }
            }
        }
        self.model.by_class = by_class;
        for (name, listener, missing) in absent {
            for number in missing {
                let what = format!("listener {listener} of {name} did not get tick {number}");
                self.model.violation(self.now, what);
            }
        }
    }

    /// How many of the ticks a listener must have had, and which of them it has not.
    fn lacks(&self, listener: u32, conn: ConnIx, owed: &[&Due]) -> Option<(u64, Vec<u32>)> {
        let Person::Alone(ear) = &self.crowd.listeners[listener as usize].person else {
            return None;
        };
        let first = ear.had.first();
        if first == 0 || ear.conn() != Some(conn) {
            return None;
        }
        // Whoever came from another relay is brought what it missed; what was too old for a replay by
        // then is what nobody owes it. A listener's ticks begin with the first that came: what is older
        // and comes later is what its relay itself lacked when the listener joined.
        let own = |due: &&&Due| ear.since <= due.issued + REPLAYED && due.number >= first;
        let mut must = 0;
        let lacking = owed.iter().filter(own).filter(|due| {
            must += 1;
            !ear.had.has(due.number)
        });
        let lacking = lacking.map(|due| due.number).collect();
        Some((must, lacking))
    }

    /// A hop is there no more.
    pub(super) fn unhop(&mut self, node: NodeIx, conn: ConnIx) {
        self.nodes[node].hops.retain(|hop| hop.conn != conn);
    }

    /// Notes which of a node's hops no fault is on; what a fault held back comes within `settles`.
    pub(super) fn refresh_hops(&mut self, node: NodeIx, settles: Duration) {
        let now = self.now;
        let mut hops = std::mem::take(&mut self.nodes[node].hops);
        for hop in &mut hops {
            let open = self.wires.conns[hop.conn as usize].open == [true, true];
            match open && self.passes(hop.conn) {
                true => hop.since = hop.since.or(Some(now + settles)),
                false => hop.since = None,
            }
        }
        self.nodes[node].hops = hops;
    }

    /// The same for all nodes, after a fault has struck or ended.
    pub(super) fn refresh_all(&mut self) {
        for node in 0..self.nodes.len() {
            self.refresh_hops(node, SETTLES);
            let well = self.nodes[node].is_well();
            let since = &mut self.nodes[node].well_since;
            *since = match (well, *since) {
                (false, _) => Time::MAX,
                (true, Time::MAX) => self.now + SETTLES,
                (true, since) => since,
            };
        }
    }

    /// What must hold at the end, beside what is compared throughout.
    pub(super) fn last_check(&mut self) {
        self.check();
        // Those whose goodbye was lost are carried until their sessions time out.
        let shards = self.nodes.iter().filter(|node| node.is_running()).flat_map(|n| &n.shards);
        let carried: u64 = shards.map(|shard| u64::from(shard.machine.carried().0)).sum();
        let calm = self.quiet_since.map(|at| at.max(self.crowd.changed));
        let quiet = calm.is_some_and(|at| at + SETTLED <= self.now);
        let view = self.nodes[0].control.view(self.now);
        if quiet && view.listeners_below != carried {
            let below = view.listeners_below;
            let what = format!("the origin counts {below} listeners; the shards carry {carried}");
            self.model.violation(self.now, what);
        }
        for node in 0..self.nodes.len() {
            let stats = self.nodes[node].control.stats();
            let bad = stats.conflict + stats.drop_bad_datagram + stats.bad_messages;
            if bad > 0 && self.nodes[node].is_running() {
                let name = &self.nodes[node].name;
                let what = format!("{name} counts {bad} conflicts, bad datagrams and messages");
                self.model.violation(self.now, what);
            }
        }
        self.check_whole_tree();
    }
}

impl super::wires::Wires {
    /// The listener that opened a connection.
    pub(super) fn listener(&self, conn: ConnIx) -> Option<u32> {
        match self.conns[conn as usize].opener {
            Opener::Listener(listener) => Some(listener),
            Opener::Uplink(..) | Opener::Speaker(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_truth_is_what_the_origin_issued() {
        let mut truth = Truth::default();
        for number in 1..=2_000 {
            let record = Bytes::copy_from_slice(&u32::to_be_bytes(number));
            truth.issue(Time::from_millis(number.into()), number, &record);
        }
        assert_eq!(truth.newest(), 2_000);
        assert!(truth.is(2_000, &2_000_u32.to_be_bytes()));
        assert!(!truth.is(2_000, &1_999_u32.to_be_bytes()));
        assert!(!truth.is(2_001, &2_001_u32.to_be_bytes()), "nobody issued it");
        assert!(truth.is(1, b"whatever"), "it is not kept");
        assert_eq!(truth.issued(1_999), Some(Time::from_millis(1_999)));
    }
}
