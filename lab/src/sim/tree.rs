//! What the planner must hold: no cycle, two parents on paths of their own, few moves, a low tree.

use std::collections::{BTreeMap, BTreeSet};

use stentor_proto::limits;
use stentor_proto::node::ToShard;
use stentor_proto::wire::{Parent, Placement};

use super::chance::mix;
use super::events::{ConnIx, NodeIx};
use super::fault::SETTLED;
use super::node::Node;
use super::setup::Planted;
use super::world::World;

/// Where a relay was placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    level: u8,
    parents: Vec<NodeIx>,
}

/// The tree as the origin's control has told it.
#[derive(Debug, Default)]
pub(super) struct Tree {
    placed: BTreeMap<NodeIx, Place>,
    /// Relays that were placed anew after their first placement.
    pub(super) moves: u64,
    /// The most that one change moved.
    pub(super) moved_most: usize,
}

/// Deaths that are tried when the whole tree is looked at.
const DEATHS: usize = 256;

impl World {
    /// Notes a placement on its way to a relay, and plants a bug into it if one is asked for.
    pub(super) fn placing(
        &mut self,
        message: ToShard,
        placed: &mut Vec<(NodeIx, u8, Vec<NodeIx>)>,
    ) -> ToShard {
        let ToShard::Placement { session, mut placement } = message else { return message };
        let shard = &self.nodes[0].shards[usize::from(session.shard)];
        let conn = shard.seat(session.ix).map(|seat| seat.conn);
        let Some(relay) = conn.and_then(|conn| self.wires.child(conn)) else {
            return ToShard::Placement { session, placement };
        };
        if self.setup.planted == Some(Planted::EqualLevels) {
            self.plant_equal_levels(relay, &mut placement);
        }
        let parents = placement.parents.iter().filter_map(|p| Node::at(&p.address)).collect();
        placed.push((relay, placement.level, parents));
        ToShard::Placement { session, placement }
    }

    /// The planted bug of a planner that lets a parent stand on its child's level.
    fn plant_equal_levels(&self, relay: NodeIx, placement: &mut Placement) {
        let sibling = |(&other, place): (&NodeIx, &Place)| {
            (other != relay && place.level == placement.level).then_some(other)
        };
        let sibling = self.tree.placed.iter().find_map(sibling);
        if let (Some(parent), Some(other)) = (placement.parents.last_mut(), sibling) {
            *parent = Parent { relay: format!("r{other}"), address: format!("r{other}:1") };
        }
    }

    /// Compares what the origin has decided in one go with the tree before it.
    pub(super) fn check_placements(&mut self, placed: Vec<(NodeIx, u8, Vec<NodeIx>)>) {
        let relays = self.nodes[0].control.view(self.now).relays;
        let here: BTreeSet<NodeIx> = relays.iter().filter_map(|r| Node::at(&r.address)).collect();
        let before = std::mem::take(&mut self.tree.placed);
        let mut after = before.clone();
        after.retain(|relay, _| here.contains(relay));
        for (relay, level, parents) in placed {
            after.insert(relay, Place { level, parents });
        }
        let changed: Vec<NodeIx> = after
            .iter()
            .filter(|(relay, place)| before.get(relay) != Some(place))
            .map(|(&relay, _)| relay)
            .collect();
        let mut wrong = Vec::new();
        let mut moved = 0;
        for &relay in &changed {
            self.check_place(&after, relay, &mut wrong);
            if let Some(was) = before.get(&relay) {
                moved += 1;
                if let Some(what) = self.unasked(&before, &after, relay, was) {
                    wrong.push(what);
                }
            }
        }
        self.tree.moves += moved as u64;
        self.tree.moved_most = self.tree.moved_most.max(moved);
        self.tree.placed = after;
        for what in wrong {
            self.model.violation(self.now, what);
        }
    }

    /// A relay stands below all of its parents, and above all of its children.
    fn check_place(&self, tree: &BTreeMap<NodeIx, Place>, relay: NodeIx, wrong: &mut Vec<String>) {
        let place = &tree[&relay];
        let mut edge = |child: NodeIx, parent: NodeIx| {
            let (Some(below), Some(above)) = (tree.get(&child), tree.get(&parent)) else { return };
            if above.level >= below.level {
                let (child, parent) = (&self.nodes[child].name, &self.nodes[parent].name);
                let levels = (below.level, above.level);
                let what = format!(
                    "{child} on level {} is given the parent {parent} on level {}",
                    levels.0, levels.1
                );
                wrong.push(what);
            }
        };
        for &parent in &place.parents {
            edge(relay, parent);
        }
        for (&child, _) in tree.iter().filter(|(_, place)| place.parents.contains(&relay)) {
            edge(child, relay);
        }
        if place.level > 1 && place.parents.len() == 2 && place.parents[0] == place.parents[1] {
            wrong.push(format!("{} is given one parent twice", self.nodes[relay].name));
        }
    }

    /// A relay is moved only when it has lost a parent, or wanted for one.
    fn unasked(
        &self,
        before: &BTreeMap<NodeIx, Place>,
        after: &BTreeMap<NodeIx, Place>,
        relay: NodeIx,
        was: &Place,
    ) -> Option<String> {
        let wanted = was.level > 1 && was.parents.len() < limits::PARENTS;
        let gone = |parent: &NodeIx| !after.contains_key(parent) || !before.contains_key(parent);
        let lost = was.parents.iter().any(|p| gone(p) || self.nodes[*p].draining);
        // Who comes back as another life has a place of its own.
        let returned = self.nodes[relay].level == 0;
        let asked = wanted || lost || returned;
        (!asked)
            .then(|| format!("{} was moved though its parents were well", self.nodes[relay].name))
    }

    /// A relay learns its place.
    pub(super) fn told(&mut self, node: NodeIx, placement: &Placement) {
        let parents = placement.parents.iter().filter_map(|p| Node::at(&p.address));
        let mut parents: Vec<NodeIx> = parents.collect();
        if placement.level == 1 {
            parents = vec![0];
        }
        self.nodes[node].level = placement.level;
        if !parents.is_empty() {
            self.nodes[node].planned = parents;
        }
    }

    /// No relay is fed by itself, over however many hops of the plan.
    pub(super) fn check_edges(&mut self, from: NodeIx) {
        let mut seen = vec![false; self.nodes.len()];
        let mut stack = vec![from];
        while let Some(node) = stack.pop() {
            let relay = &self.nodes[node];
            for hop in relay.hops.iter().filter(|hop| relay.planned.contains(&hop.parent)) {
                if hop.parent == from {
                    let what = format!("{} is fed by itself", self.nodes[from].name);
                    return self.model.violation(self.now, what);
                }
                if !std::mem::replace(&mut seen[hop.parent], true) {
                    stack.push(hop.parent);
                }
            }
        }
    }

    /// A relay closes an uplink: not that to a parent by plan which answers.
    pub(super) fn left(&mut self, node: NodeIx, conn: ConnIx) {
        let relay = &self.nodes[node];
        let well = |hop: &&super::node::Hop| hop.conn == conn && hop.since.is_some();
        if let Some(hop) = relay.hops.iter().find(well)
            && relay.planned.contains(&hop.parent)
        {
            let (name, parent) = (&relay.name, &self.nodes[hop.parent].name);
            let what = format!("{name} leaves its parent {parent}, which answers");
            self.model.violation(self.now, what);
        }
        self.unhop(node, conn);
    }

    /// The whole tree, when all has settled.
    pub(super) fn check_whole_tree(&mut self) {
        if self.quiet_since.is_none_or(|at| at + SETTLED > self.now) {
            return;
        }
        let mut wrong = Vec::new();
        let deepest = self.depth_bound();
        for (&relay, place) in &self.tree.placed {
            let node = &self.nodes[relay];
            if place.level > deepest {
                wrong.push(format!(
                    "{} stands on level {}; {deepest} are enough",
                    node.name, place.level
                ));
            }
            let mut feeding: Vec<NodeIx> = node.hops.iter().map(|hop| hop.parent).collect();
            feeding.sort_unstable();
            feeding.dedup();
            let mut planned = node.planned.clone();
            planned.sort_unstable();
            // Who has no listener need not follow the room.
            let busy = node.shards.iter().any(|shard| shard.machine.carried().0 > 0);
            if busy && feeding != planned {
                wrong.push(format!("{} is fed by {feeding:?}, planned {planned:?}", node.name));
            }
        }
        // A relay that has lost a parent takes what there is, and keeps it when there is better.
        if self.tree.moves == 0
            && let Some((dead, unfed)) = self.exposed().first()
        {
            let (dead, unfed) = (&self.nodes[*dead].name, &self.nodes[*unfed].name);
            wrong.push(format!("the death of {dead} leaves {unfed} unfed"));
        }
        for what in wrong {
            self.model.violation(self.now, what);
        }
    }

    /// The levels that so many relays need at this fan-out, and one more for what moved.
    fn depth_bound(&self) -> u8 {
        let fan_out = self.setup.fan_out as usize;
        let (mut levels, mut wide, mut room) = (1, fan_out, fan_out);
        while room < self.setup.relays {
            wide *= fan_out;
            room += wide;
            levels += 1;
        }
        levels + 1
    }

    /// Pairs of relays of which the death of the first would leave the second unfed.
    pub(super) fn exposed(&self) -> Vec<(NodeIx, NodeIx)> {
        let unfed = |dead| self.unfed_without(dead).into_iter().map(move |relay| (dead, relay));
        self.deaths().into_iter().flat_map(unfed).collect()
    }

    /// Relays whose deaths are tried: all, or a drawn part of a large tree.
    fn deaths(&self) -> Vec<NodeIx> {
        let relays: Vec<NodeIx> = self.tree.placed.keys().copied().collect();
        if relays.len() <= DEATHS {
            return relays;
        }
        let drawn = |n: usize| relays[(mix(self.setup.seed, n as u64) as usize) % relays.len()];
        (0..DEATHS).map(drawn).collect()
    }

    /// The relays that no path of the plan reaches while one is dead.
    fn unfed_without(&self, dead: NodeIx) -> Vec<NodeIx> {
        let mut by_level: Vec<(u8, NodeIx)> =
            self.tree.placed.iter().map(|(&relay, place)| (place.level, relay)).collect();
        by_level.sort_unstable();
        let mut fed = vec![false; self.nodes.len()];
        let mut unfed = Vec::new();
        for (level, relay) in by_level.into_iter().filter(|&(_, relay)| relay != dead) {
            let parents = &self.tree.placed[&relay].parents;
            fed[relay] = level == 1 || parents.iter().any(|&p| p != dead && fed[p]);
            if !fed[relay] {
                unfed.push(relay);
            }
        }
        unfed
    }
}

impl super::wires::Wires {
    /// The relay that opened a connection.
    fn child(&self, conn: ConnIx) -> Option<NodeIx> {
        match self.conns[conn as usize].opener {
            super::wires::Opener::Uplink(node, _) => Some(node),
            super::wires::Opener::Listener(_) | super::wires::Opener::Speaker(_) => None,
        }
    }
}
