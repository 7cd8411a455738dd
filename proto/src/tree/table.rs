//! The planner's relays: facts, edges, and which of them have room for a child.

use std::collections::{BTreeMap, BTreeSet};

use super::planner::{PlannerSettings, children_limit};
use crate::Time;
use crate::limits;
use crate::wire::{Load, Parent, RelayInfo};

/// A relay's place in the table; valid until the relay leaves.
pub(super) type Index = u32;

/// One relay as the planner knows it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) info: RelayInfo,
    pub(super) load: Load,
    /// 0 until it is placed.
    pub(super) level: u8,
    /// The primary first; both on lower levels.
    pub(super) parents: Vec<Index>,
    pub(super) children: BTreeSet<Index>,
    pub(super) draining: bool,
    pub(super) joined: Time,
    /// When its parents or level last changed.
    pub(super) moved: Time,
    /// When it last reported.
    pub(super) reported: Time,
    /// When it counts as gone unless it reports.
    pub(super) expires: Time,
    pub(super) why: String,
    /// Parents that it says it does not hear, and since when; at most PARENTS.
    pub(super) blamed: Vec<(Index, Time)>,
    /// Relays that it is not given as parents, and until when; at most SHUNNED.
    pub(super) shunned: Vec<(Index, Time)>,
    /// The level and the parents that it was last told.
    pub(super) told: Option<(u8, Vec<Parent>)>,
}

impl Node {
    pub(super) fn new(now: Time, info: RelayInfo) -> Self {
        Self {
            info,
            load: Load::default(),
            level: 0,
            parents: Vec::new(),
            children: BTreeSet::new(),
            draining: false,
            joined: now,
            moved: now,
            reported: now,
            expires: now + limits::REPORT_EXPIRY,
            why: String::new(),
            blamed: Vec::new(),
            shunned: Vec::new(),
            told: None,
        }
    }

    /// Sessions in use or about to be: planned children count before they report.
    pub(super) fn sessions(&self) -> u32 {
        let children = u32::try_from(self.children.len()).unwrap_or(u32::MAX);
        self.load
            .listeners
            .saturating_add(self.load.joins_per_s)
            .saturating_add(children.max(self.load.children))
    }

    /// Sessions that it may still take.
    pub(super) fn free(&self) -> u32 {
        self.info.capacity.saturating_sub(self.sessions())
    }

    /// Whether it is kept from this parent.
    pub(super) fn shuns(&self, parent: Index) -> bool {
        self.shunned.iter().any(|(shunned, _)| *shunned == parent)
    }

    /// Whether it has anyone to be fed by.
    pub(super) fn fed(&self) -> bool {
        self.level == 1 || !self.parents.is_empty()
    }
}

/// All relays, their edges, and the sets that make a placement cheap.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) settings: PlannerSettings,
    slots: Vec<Option<Node>>,
    free: Vec<Index>,
    by_id: BTreeMap<String, Index>,
    /// By level: fed relays that have room for another child.
    open: Vec<BTreeSet<Index>>,
    first_level: u32,
    expiries: BTreeSet<(Time, Index)>,
    /// The lowest level on which room appeared since it was last asked for; 0 is the origin.
    room_at: Option<u8>,
    /// Relays below level 1 without any parent; what hangs below them alone has no ticks either.
    unfed: BTreeSet<Index>,
    /// Relays that want for a parent.
    pub(super) wanting: BTreeSet<Index>,
}

impl Table {
    pub(super) fn new(settings: PlannerSettings) -> Self {
        Self {
            settings,
            slots: Vec::new(),
            free: Vec::new(),
            by_id: BTreeMap::new(),
            open: vec![BTreeSet::new(); usize::from(limits::LEVELS) + 1],
            first_level: 0,
            expiries: BTreeSet::new(),
            room_at: None,
            unfed: BTreeSet::new(),
            wanting: BTreeSet::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// One more than the largest index in use.
    pub(super) fn span(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn find(&self, id: &str) -> Option<Index> {
        self.by_id.get(id).copied()
    }

    /// The relay in a slot, if there is one.
    pub(super) fn slot(&self, index: Index) -> Option<&Node> {
        self.slots.get(index as usize)?.as_ref()
    }

    /// All relays by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Index, &Node)> {
        self.by_id.values().map(|&i| (i, self.node(i)))
    }

    pub(super) fn node(&self, index: Index) -> &Node {
        self.slots[index as usize]
            .as_ref()
            .expect("an index is held only while its relay is in the table")
    }

    pub(super) fn node_mut(&mut self, index: Index) -> &mut Node {
        self.slots[index as usize]
            .as_mut()
            .expect("an index is held only while its relay is in the table")
    }

    pub(super) fn insert(&mut self, node: Node) -> Index {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            Index::try_from(self.slots.len() - 1).expect("the table holds at most RELAYS relays")
        });
        self.by_id.insert(node.info.id.clone(), index);
        self.expiries.insert((node.expires, index));
        self.slots[index as usize] = Some(node);
        index
    }

    /// Takes a relay out; its children lose it as a parent and are returned.
    pub(super) fn remove(&mut self, index: Index) -> (Node, Vec<Index>) {
        self.set_place(index, 0, Vec::new());
        let node = self.slots[index as usize]
            .take()
            .expect("an index is held only while its relay is in the table");
        let children: Vec<Index> = node.children.iter().copied().collect();
        for &child in &children {
            let child_node = self.node_mut(child);
            child_node.parents.retain(|&p| p != index);
            child_node.blamed.retain(|(p, _)| *p != index);
            self.refresh(child);
        }
        self.by_id.remove(&node.info.id);
        self.expiries.remove(&(node.expires, index));
        self.wanting.remove(&index);
        self.free.push(index);
        (node, children)
    }

    /// Gives a relay its level and parents, and keeps every set in step.
    pub(super) fn set_place(&mut self, index: Index, level: u8, parents: Vec<Index>) {
        let node = self.node_mut(index);
        let was_level = std::mem::replace(&mut node.level, level);
        let was_parents = std::mem::replace(&mut node.parents, parents.clone());
        if was_level != level {
            self.open[usize::from(was_level)].remove(&index);
        }
        if was_level == 1 && level != 1 {
            self.first_level -= 1;
            self.room_at = Some(0);
        } else if was_level != 1 && level == 1 {
            self.first_level += 1;
        }
        for &parent in was_parents.iter().filter(|p| !parents.contains(p)) {
            self.node_mut(parent).children.remove(&index);
            self.refresh(parent);
        }
        for &parent in &parents {
            self.node_mut(parent).children.insert(index);
            self.refresh(parent);
        }
        self.refresh(index);
        if !self.unfed.is_empty() && parents.iter().any(|p| !was_parents.contains(p)) {
            // Its other parent may have been without ticks: whatever hangs below gets them with this one.
            self.room_appeared(level);
        }
    }

    /// Puts a relay into the open set of its level, or takes it out, after its facts changed.
    pub(super) fn refresh(&mut self, index: Index) {
        let node = self.node(index);
        let (level, fed) = (node.level, node.fed());
        let open = level > 0 && !node.draining && fed && self.room(index) > 0;
        if level > 0 && !fed {
            self.unfed.insert(index);
        } else if self.unfed.remove(&index) && level > 0 {
            // Ticks reach whatever hangs below it again, on levels that are further down.
            self.room_appeared(level);
        }
        let set = &mut self.open[usize::from(level)];
        if !open {
            set.remove(&index);
        } else if set.insert(index) {
            self.room_appeared(level);
        }
    }

    fn room_appeared(&mut self, level: u8) {
        self.room_at = Some(self.room_at.map_or(level, |l| l.min(level)));
    }

    /// Whether the origin's ticks reach the relay by any path.
    pub(super) fn reached(&self, index: Index) -> bool {
        if self.unfed.is_empty() {
            return true;
        }
        let mut seen = BTreeSet::from([index]);
        let mut stack = vec![index];
        while let Some(index) = stack.pop() {
            let node = self.node(index);
            if node.level == 1 {
                return true;
            }
            stack.extend(node.parents.iter().filter(|&&p| seen.insert(p)));
        }
        false
    }

    /// Children that the relay may still take.
    pub(super) fn room(&self, index: Index) -> u32 {
        let node = self.node(index);
        let children = u32::try_from(node.children.len()).unwrap_or(u32::MAX);
        let limit = children_limit(node.info.capacity, self.settings.children_one_in);
        limit.saturating_sub(children).min(node.free())
    }

    /// The share of its children's places or of its sessions that is in use, whichever is larger
    /// (thousandths).
    pub(super) fn used_permille(&self, index: Index) -> u32 {
        let node = self.node(index);
        let limit = children_limit(node.info.capacity, self.settings.children_one_in);
        let share = |used: u64, of: u32| used.saturating_mul(1000) / u64::from(of.max(1));
        let most = share(node.children.len() as u64, limit)
            .max(share(u64::from(node.sessions()), node.info.capacity));
        u32::try_from(most).unwrap_or(u32::MAX)
    }

    /// Relays on `level` that have room for another child.
    pub(super) fn open(&self, level: u8) -> &BTreeSet<Index> {
        &self.open[usize::from(level)]
    }

    /// Whether the origin may feed another relay.
    pub(super) fn origin_has_room(&self) -> bool {
        self.first_level < self.settings.origin_children
    }

    /// Relays under the origin.
    pub(super) fn first_level(&self) -> u32 {
        self.first_level
    }

    /// Takes the lowest level on which room appeared since the last call; 0 is the origin.
    pub(super) fn take_room(&mut self) -> Option<u8> {
        self.room_at.take()
    }

    /// Puts a relay's expiry off.
    pub(super) fn reported(&mut self, index: Index, now: Time) {
        self.node_mut(index).reported = now;
        self.expire_at(index, now + limits::REPORT_EXPIRY);
    }

    /// A child says that the relay is silent: it is missed sooner.
    pub(super) fn suspect(&mut self, index: Index) {
        let node = self.node(index);
        let expires = node.expires.min(node.reported + limits::SUSPECT_EXPIRY);
        self.expire_at(index, expires);
    }

    fn expire_at(&mut self, index: Index, expires: Time) {
        let before = std::mem::replace(&mut self.node_mut(index).expires, expires);
        self.expiries.remove(&(before, index));
        self.expiries.insert((expires, index));
    }

    /// The relay that expires first, and when.
    pub(super) fn first_expiry(&self) -> Option<(Time, Index)> {
        self.expiries.first().copied()
    }
}
