//! Which two parents: candidates in the order of preference, and how far their paths are apart.

use std::collections::{BTreeMap, BTreeSet};

use super::table::{Index, Table};
use crate::limits;

/// How far apart the paths through a relay's parents are; less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Apart {
    /// The parents have no ancestor in common on any path.
    Fully,
    /// They have some, but any one relay may die and the other parent is still fed.
    AnyOne,
    /// One relay's death cuts both.
    Shared,
    /// There are not two parents.
    Single,
}

/// Parents chosen for a relay.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    /// The kept ones first, then the new ones in the order of preference.
    pub(super) parents: Vec<Index>,
    pub(super) apart: Apart,
}

/// The scratch space of a search; it holds no state between calls.
#[derive(Debug, Default)]
pub(super) struct Paths {
    first: Walk,
    second: Walk,
}

impl Paths {
    /// The best parents on levels below `level` for `child`, of which `kept` stay.
    ///
    /// The level right above is preferred. Lower ones are looked at when it does not hold two
    /// parents of which either survives the death of any one relay.
    pub(super) fn choose(
        &mut self,
        table: &Table,
        child: Index,
        level: u8,
        kept: &[Index],
    ) -> Choice {
        let near = candidates(table, child, level.saturating_sub(1)..level, kept);
        let choice = self.pick(table, kept, &near);
        if choice.apart <= Apart::AnyOne {
            return choice;
        }
        let all = candidates(table, child, 1..level, kept);
        let wider = self.pick(table, kept, &all);
        if wider.apart < choice.apart || wider.parents.len() > choice.parents.len() {
            wider
        } else {
            choice
        }
    }

    /// How far apart the paths through these parents are.
    pub(super) fn apart(&mut self, table: &Table, parents: &[Index]) -> Apart {
        let &[a, b] = parents else {
            return Apart::Single;
        };
        self.first.mark(table, a);
        if !self.second.meets(table, b, &self.first) {
            Apart::Fully
        } else if disjoint(cuts(table, a).as_ref(), cuts(table, b).as_ref()) {
            Apart::AnyOne
        } else {
            Apart::Shared
        }
    }

    /// The first pair in the order of preference that is fully apart, else the first that
    /// survives any one death, else the first.
    fn pick(&mut self, table: &Table, kept: &[Index], candidates: &[Index]) -> Choice {
        let firsts = if kept.is_empty() { candidates } else { kept };
        let mut walks = 0;
        for (at, &a) in firsts.iter().enumerate() {
            let rest = if kept.is_empty() { at + 1 } else { 0 };
            self.first.mark(table, a);
            for &b in &candidates[rest..] {
                walks += 1;
                if !self.second.meets(table, b, &self.first) {
                    return Choice { parents: vec![a, b], apart: Apart::Fully };
                }
            }
            if walks >= limits::PLAN_PAIRS {
                break;
            }
        }
        pick_surviving(table, kept, candidates)
    }
}

/// The relays with room on `levels`, best first, at most [`limits::PLAN_CANDIDATES`].
fn candidates(
    table: &Table,
    child: Index,
    levels: std::ops::Range<u8>,
    kept: &[Index],
) -> Vec<Index> {
    let near = levels.end.saturating_sub(1);
    let to = &table.node(child).info;
    let mut round_trips: Vec<(Index, u32)> = table
        .node(child)
        .load
        .round_trips
        .iter()
        .filter_map(|(id, micros)| Some((table.find(id)?, *micros)))
        .collect();
    round_trips.sort_unstable();
    let mut ranked = Vec::new();
    for level in levels.start.max(1)..levels.end {
        for &index in table.open(level) {
            let shunned = table.node(child).shuns(index);
            if index == child || shunned || kept.contains(&index) || !table.reached(index) {
                continue;
            }
            let node = table.node(index);
            let measured = round_trips.binary_search_by_key(&index, |(i, _)| *i);
            let micros = measured.map_or(limits::ROUND_TRIP_UNKNOWN_US, |at| round_trips[at].1);
            ranked.push((
                near - level,
                table.wanting.contains(&index),
                node.info.region != to.region,
                micros / limits::ROUND_TRIP_STEP_US,
                table.used_permille(index),
                index,
            ));
        }
    }
    if ranked.len() > limits::PLAN_CANDIDATES {
        ranked.select_nth_unstable(limits::PLAN_CANDIDATES);
        ranked.truncate(limits::PLAN_CANDIDATES);
    }
    ranked.sort_unstable();
    ranked.into_iter().map(|(.., index)| index).collect()
}

/// The first pair of which either survives the death of any one relay, else the first pair.
fn pick_surviving(table: &Table, kept: &[Index], candidates: &[Index]) -> Choice {
    let mut all = kept.to_vec();
    all.extend_from_slice(candidates);
    if all.len() < limits::PARENTS {
        return Choice { parents: all, apart: Apart::Single };
    }
    let firsts = if kept.is_empty() { all.len() } else { 1 };
    let mut known: BTreeMap<Index, Option<Vec<Index>>> = BTreeMap::new();
    for a in 0..firsts {
        for b in a + 1..all.len() {
            for index in [all[a], all[b]] {
                known.entry(index).or_insert_with(|| cuts(table, index));
            }
            if disjoint(known[&all[a]].as_ref(), known[&all[b]].as_ref()) {
                return Choice { parents: vec![all[a], all[b]], apart: Apart::AnyOne };
            }
        }
    }
    Choice { parents: vec![all[0], all[1]], apart: Apart::Shared }
}

/// The relays whose death silences `index`, itself included; `None` if it is silent as it is.
///
/// On the first level that is itself alone; elsewhere itself and what cuts all of its parents.
/// While every relay has two parents it is always itself alone, so the walk is skipped.
fn cuts(table: &Table, index: Index) -> Option<Vec<Index>> {
    if table.wanting.is_empty() {
        return Some(vec![index]);
    }
    let mut ancestors = vec![index];
    let mut seen = BTreeSet::from([index]);
    let mut at = 0;
    while at < ancestors.len() {
        for &parent in &table.node(ancestors[at]).parents {
            if seen.insert(parent) {
                ancestors.push(parent);
            }
        }
        at += 1;
    }
    ancestors.sort_unstable_by_key(|&i| (table.node(i).level, i));
    let mut known: BTreeMap<Index, Vec<Index>> = BTreeMap::new();
    for &relay in &ancestors {
        let node = table.node(relay);
        let mut above = node.parents.iter().filter_map(|p| known.get(p));
        let mut own = match (node.level, above.next(), above.next()) {
            (1, ..) => Vec::new(),
            (_, None, _) => continue,
            (_, Some(only), None) => only.clone(),
            (_, Some(a), Some(b)) => a.iter().filter(|i| b.contains(i)).copied().collect(),
        };
        own.push(relay);
        known.insert(relay, own);
    }
    known.remove(&index)
}

/// Whether no one relay's death silences both.
fn disjoint(a: Option<&Vec<Index>>, b: Option<&Vec<Index>>) -> bool {
    matches!((a, b), (Some(a), Some(b)) if a.iter().all(|i| !b.contains(i)))
}

/// A walk over a relay and its ancestors, each visited once.
#[derive(Debug, Default)]
struct Walk {
    /// The round in which a relay was last visited.
    seen: Vec<u64>,
    round: u64,
    stack: Vec<Index>,
}

impl Walk {
    /// Marks a relay and all of its ancestors.
    fn mark(&mut self, table: &Table, from: Index) {
        self.visit(table, from, |_| false);
    }

    /// Whether a relay or an ancestor of it is marked by `other`.
    fn meets(&mut self, table: &Table, from: Index, other: &Self) -> bool {
        self.visit(table, from, |i| other.seen[i as usize] == other.round)
    }

    fn visit(&mut self, table: &Table, from: Index, stop: impl Fn(Index) -> bool) -> bool {
        self.round += 1;
        self.seen.resize(table.span(), 0);
        self.stack.clear();
        self.stack.push(from);
        while let Some(index) = self.stack.pop() {
            if std::mem::replace(&mut self.seen[index as usize], self.round) == self.round {
                continue;
            }
            if stop(index) {
                return true;
            }
            self.stack.extend_from_slice(&table.node(index).parents);
        }
        false
    }
}
