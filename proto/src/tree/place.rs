//! How the planner places one relay: new ones, those that want for a parent, and those that
//! measured a much nearer one.

use super::paths::{Apart, Choice};
use super::planner::Planner;
use super::table::{Index, Table};
use super::why::{Cause, sentence};
use crate::Time;
use crate::limits;

impl Planner {
    /// Gives a new relay its first place; false if there is room for it nowhere.
    pub(super) fn place_new(&mut self, now: Time, index: Index) -> bool {
        let pinned = self.table.node(index).info.level;
        if let Some(level) = pinned.filter(|&level| level > 1) {
            let choice = self.paths.choose(&self.table, index, level, &[]);
            self.apply(now, index, level, choice, Cause::Joined);
            return true;
        }
        if self.table.origin_has_room() {
            self.apply(now, index, 1, under_origin(), Cause::Joined);
            return true;
        }
        let Some(level) = lowest_level(&self.table) else {
            return false;
        };
        let choice = self.paths.choose(&self.table, index, level, &[]);
        if choice.parents.is_empty() {
            return false;
        }
        let level = right_below(&self.table, &choice.parents);
        let cause = if pinned.is_some() { Cause::OriginFull } else { Cause::Joined };
        self.apply(now, index, level, choice, cause);
        true
    }

    /// Places anew whoever is due, and whoever wants for a parent when room has appeared; at
    /// most [`limits::PLAN_STEPS`] relays.
    pub(super) fn settle(&mut self, now: Time) {
        for _ in 0..limits::PLAN_STEPS {
            if let Some(level) = self.table.take_room() {
                self.call_wanting(level);
            }
            let Some((index, cause)) = self.due.pop_first() else {
                return;
            };
            self.repair(now, index, cause);
        }
    }

    /// A relay that has long not heard a parent who is well by its own reports is given another one. A
    /// parent who is well to nobody leaves by its expiry instead.
    pub(super) fn unreached(&mut self, now: Time, index: Index) {
        let node = self.table.node(index);
        let silent: Vec<Index> =
            node.load.silent.iter().filter_map(|id| self.table.find(id)).collect();
        let silent: Vec<Index> =
            silent.into_iter().filter(|parent| node.parents.contains(parent)).collect();
        let node = self.table.node_mut(index);
        node.shunned.retain(|(_, until)| now < *until);
        node.blamed.retain(|(parent, _)| silent.contains(parent));
        for &parent in &silent {
            if node.blamed.iter().all(|(blamed, _)| *blamed != parent) {
                node.blamed.push((parent, now));
            }
        }
        let long = node.blamed.iter().filter(|(_, since)| now >= *since + limits::BLAME_AFTER);
        let long: Vec<Index> = long.map(|(parent, _)| *parent).collect();
        for parent in long {
            let other = self.table.node(parent);
            if now.since(other.reported) > 3 * limits::LOAD_EVERY {
                continue;
            }
            let name = other.info.id.clone();
            let node = self.table.node_mut(index);
            node.blamed.retain(|(blamed, _)| *blamed != parent);
            if node.shunned.len() >= limits::SHUNNED {
                node.shunned.remove(0);
            }
            node.shunned.push((parent, now + limits::SHUN_FOR));
            self.table.wanting.insert(index);
            self.due.insert(index, Cause::Unreached(name));
        }
    }

    /// Exchanges a parent for one that the relay itself measured to be much nearer, if that does
    /// not bring its paths closer together.
    pub(super) fn nearer(&mut self, now: Time, index: Index) {
        let node = self.table.node(index);
        let &[a, b] = node.parents.as_slice() else {
            return;
        };
        if self.table.wanting.contains(&index) || now < node.moved + limits::NEARER_APART {
            return;
        }
        for (at, from, other) in [(0, a, b), (1, b, a)] {
            let Some((to, was_us, is_us)) = self.much_nearer(index, from, other) else {
                continue;
            };
            let mut parents = vec![other, other];
            parents[at] = to;
            let apart = self.paths.apart(&self.table, &parents);
            if apart <= self.paths.apart(&self.table, &[from, other]) {
                let level = self.table.node(index).level;
                let cause = Cause::Nearer { was_us, is_us };
                self.apply(now, index, level, Choice { parents, apart }, cause);
                return;
            }
        }
    }

    /// The nearest relay on the level of `from` that has room, with both round trips, if it is
    /// so much nearer that a move is worth it.
    fn much_nearer(&self, index: Index, from: Index, other: Index) -> Option<(Index, u32, u32)> {
        let measured = &self.table.node(index).load.round_trips;
        let from_id = &self.table.node(from).info.id;
        let (_, was_us) = measured.iter().find(|(id, _)| id == from_id)?;
        let open = self.table.open(self.table.node(from).level);
        let (is_us, to) = measured
            .iter()
            .filter_map(|(id, micros)| Some((*micros, self.table.find(id)?)))
            .filter(|(_, to)| ![index, from, other].contains(to) && open.contains(to))
            .filter(|(_, to)| !self.table.node(index).shuns(*to))
            .min()?;
        let worth = is_us.saturating_mul(limits::NEARER_TIMES) <= *was_us
            && is_us.saturating_add(limits::NEARER_BY_US) <= *was_us;
        worth.then_some((to, *was_us, is_us))
    }

    /// Makes those due that can use room on `level`.
    fn call_wanting(&mut self, level: u8) {
        for &index in &self.table.wanting {
            let node = self.table.node(index);
            if node.level > level || node.info.level.is_none() {
                self.due.entry(index).or_insert(Cause::Room);
            }
        }
    }

    /// Finds what a relay wants for: keeps its well parents, and keeps its level if it can.
    fn repair(&mut self, now: Time, index: Index, cause: Cause) {
        if !wants(&self.table, now, index) {
            self.table.wanting.remove(&index);
            return;
        }
        let node = self.table.node(index);
        let (level, free) = (node.level, node.info.level.is_none());
        let well = well_parents(&self.table, index);
        if settling(&self.table, now, index) && self.move_right_below(now, index, &well) {
            return;
        }
        if well.len() >= limits::PARENTS {
            return;
        }
        let choice = self.paths.choose(&self.table, index, level, &well);
        if choice.parents.len() >= limits::PARENTS {
            return self.apply(now, index, level, choice, cause);
        }
        if free && self.table.origin_has_room() {
            return self.apply(now, index, 1, under_origin(), cause);
        }
        if free && let Some(deeper) = self.deeper(index, &well, choice.parents.len()) {
            let level = right_below(&self.table, &deeper.parents);
            return self.apply(now, index, level, deeper, cause);
        }
        self.apply_what_there_is(now, index, choice, cause);
    }

    /// More than `had` parents on the highest of the deeper levels that hold them: each level that a
    /// relay goes down, whoever comes to hang below it does too.
    fn deeper(&mut self, index: Index, well: &[Index], had: usize) -> Option<Choice> {
        let level = self.table.node(index).level;
        let mut deeper = level + 1..=deepest_level(&self.table, index);
        deeper.find_map(|level| {
            let choice = self.paths.choose(&self.table, index, level, well);
            (choice.parents.len() > had).then_some(choice)
        })
    }

    /// Moves a pinned relay of a starting tree to parents right above it, if there are two.
    fn move_right_below(&mut self, now: Time, index: Index, well: &[Index]) -> bool {
        let level = self.table.node(index).level;
        let above = |table: &Table, p: Index| table.node(p).level + 1 == level;
        let mut kept = well.to_vec();
        kept.retain(|&p| above(&self.table, p));
        if kept.len() >= limits::PARENTS {
            return false;
        }
        let choice = self.paths.choose(&self.table, index, level, &kept);
        let found = choice.parents.len() == limits::PARENTS
            && choice.parents.iter().all(|&p| above(&self.table, p));
        if found {
            self.apply(now, index, level, choice, Cause::RightAbove);
        }
        found
    }

    /// Fewer than two well parents: those, and parents that drain as long as they last.
    fn apply_what_there_is(&mut self, now: Time, index: Index, mut choice: Choice, cause: Cause) {
        let node = self.table.node(index);
        let level = node.level;
        for &parent in &node.parents {
            if choice.parents.len() < limits::PARENTS && !choice.parents.contains(&parent) {
                choice.parents.push(parent);
            }
        }
        choice.apart = self.paths.apart(&self.table, &choice.parents);
        self.apply(now, index, level, choice, cause);
    }

    /// Puts a relay where it was decided to stand, and notes why.
    fn apply(&mut self, now: Time, index: Index, level: u8, choice: Choice, cause: Cause) {
        let node = self.table.node(index);
        let was_placed = node.level > 0;
        let lost_one = matches!(cause, Cause::ParentLeft(_));
        if node.level != level || node.parents != choice.parents || lost_one {
            self.table.set_place(index, level, choice.parents);
            let why = sentence(&self.table, index, &cause, choice.apart);
            let node = self.table.node_mut(index);
            node.why = why;
            node.moved = now;
            self.changed.insert(index);
            self.counts.moved += u64::from(was_placed);
        }
        if wants(&self.table, now, index) {
            self.table.wanting.insert(index);
        } else {
            self.table.wanting.remove(&index);
        }
    }
}

/// The first level's place: the origin is the feed.
fn under_origin() -> Choice {
    Choice { parents: Vec::new(), apart: Apart::Single }
}

/// Whether a relay wants for a parent, or for one right above it while the tree starts.
fn wants(table: &Table, now: Time, index: Index) -> bool {
    table.node(index).level > 1
        && (well_parents(table, index).len() < limits::PARENTS || settling(table, now, index))
}

/// Whether a pinned relay joined so recently that it may still move to the level right above it.
fn settling(table: &Table, now: Time, index: Index) -> bool {
    let node = table.node(index);
    node.info.level == Some(node.level)
        && now < node.joined + limits::SETTLING
        && node.parents.iter().any(|&p| table.node(p).level + 1 != node.level)
}

/// A relay's parents that do not drain, and that it reaches.
fn well_parents(table: &Table, index: Index) -> Vec<Index> {
    let node = table.node(index);
    let parents = node.parents.iter().copied();
    parents.filter(|&p| !table.node(p).draining && !node.shuns(p)).collect()
}

/// The highest place in the tree below two relays with room, else below one.
fn lowest_level(table: &Table) -> Option<u8> {
    let mut open = 0;
    let mut one = None;
    for level in 1..limits::LEVELS {
        let reached = table.open(level).iter().filter(|&&i| table.reached(i));
        open += reached.take(limits::PARENTS).count();
        if open >= limits::PARENTS {
            return Some(level + 1);
        }
        if open == 1 && one.is_none() {
            one = Some(level + 1);
        }
    }
    one
}

/// The deepest level on which a relay still stands above all of its children.
fn deepest_level(table: &Table, index: Index) -> u8 {
    let children = table.node(index).children.iter();
    let highest = children.map(|&c| table.node(c).level).min();
    highest.map_or(limits::LEVELS, |level| level - 1)
}

/// The level right below the lowest of these parents.
fn right_below(table: &Table, parents: &[Index]) -> u8 {
    let deepest = parents.iter().map(|&p| table.node(p).level).max();
    deepest.unwrap_or(0) + 1
}
