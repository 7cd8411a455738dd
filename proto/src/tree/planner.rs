//! The planner: gives every relay a level and, below the first level, two parents.

use std::collections::{BTreeMap, BTreeSet};

use super::paths::Paths;
use super::table::{Index, Node, Table};
use super::why::Cause;
use super::{ORIGIN, view};
use crate::Time;
use crate::limits;
use crate::wire::{Alternate, Load, Parent, Placement, RelayInfo};

/// What the operator of the origin decides for the planner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannerSettings {
    /// First-level relays that the origin feeds; at least [`limits::ORIGIN_CHILDREN_LEAST`].
    pub origin_children: u32,
    /// One session in this many of a relay's capacity is for child relays; at least 1.
    pub children_one_in: u32,
    /// Sessions that one relay may say it carries: what is beyond it is not counted with, for newcomers
    /// are sent, and places kept, by what relays say.
    pub relay_capacity: u32,
    /// Placement versions start above this. It must rise with every start of the origin (its
    /// start time in microseconds will do), for relays ignore versions that do not rise.
    pub generation: u64,
}

impl Default for PlannerSettings {
    fn default() -> Self {
        Self {
            origin_children: limits::ORIGIN_CHILDREN,
            children_one_in: limits::CHILDREN_ONE_IN,
            relay_capacity: limits::RELAY_CAPACITY,
            generation: 0,
        }
    }
}

/// Child relays that a relay of `capacity` sessions carries: one session in `one_in`, at least
/// [`limits::CHILDREN_LEAST`], at most its capacity.
///
/// A relay keeps as many of its sessions from listeners, so that a child finds its place.
#[must_use]
pub fn children_limit(capacity: u32, one_in: u32) -> u32 {
    (capacity / one_in.max(1)).max(limits::CHILDREN_LEAST).min(capacity)
}

/// Why the planner refuses a relay's message; each names the guilty relay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The name, the address or the region is empty, too long, or reserved.
    #[error("relay `{id}`: its {what} is empty, longer than 128 bytes or reserved")]
    Name {
        /// The relay's name, cut to its limit.
        id: String,
        /// Which of them it is.
        what: &'static str,
    },
    /// The level that the operator wants does not exist.
    #[error("relay `{id}`: level {level} is wanted; levels are 1 to {}", limits::LEVELS)]
    Level {
        /// The relay's name.
        id: String,
        /// The level wanted.
        level: u8,
    },
    /// A relay of this name started later than the one that asks.
    #[error("relay `{id}`: incarnation {given} is older than {known}, which holds this name")]
    Former {
        /// The relay's name.
        id: String,
        /// The incarnation in the tree.
        known: u64,
        /// The incarnation that asks.
        given: u64,
    },
    /// The tree holds [`limits::RELAYS`] relays.
    #[error("relay `{id}`: the tree holds {} relays, its limit", limits::RELAYS)]
    TooMany {
        /// The relay's name.
        id: String,
    },
    /// Neither the origin nor any relay has room for a child.
    #[error("relay `{id}`: neither the origin nor any relay has room for a child")]
    NoRoom {
        /// The relay's name.
        id: String,
    },
    /// The relay is not in the tree; it has to join (again).
    #[error("relay `{id}` is not in the tree")]
    Unknown {
        /// The relay's name, cut to its limit.
        id: String,
    },
}

/// What the planner has counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanCounts {
    /// Relays that joined, returning ones included.
    pub joined: u64,
    /// Relays that left, expired ones included.
    pub left: u64,
    /// Relays that fell silent for [`limits::REPORT_EXPIRY`].
    pub expired: u64,
    /// Joins refused.
    pub refused: u64,
    /// Relays whose level or parents changed after their first placement.
    pub moved: u64,
    /// Reports dropped: out of order or of another incarnation.
    pub stale_loads: u64,
    /// Reports dropped: of relays that are not in the tree.
    pub unknown_loads: u64,
}

/// Gives every relay a level and parents.
///
/// Level 1 stands under the origin. A relay below it holds two parents on lower levels, so there
/// is no cycle by construction. A relay's death moves its own children only, and of those only
/// the parent that is gone; a return moves nobody.
///
/// Drive it with [`join`](Self::join), [`leave`](Self::leave), [`load`](Self::load),
/// [`drain`](Self::drain) and [`expire`](Self::expire); after each, drain
/// [`poll_placement`](Self::poll_placement) and ask [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct Planner {
    pub(super) table: Table,
    pub(super) paths: Paths,
    /// Relays to place anew, and why.
    pub(super) due: BTreeMap<Index, Cause>,
    /// Relays whose placement may differ from what they were told.
    pub(super) changed: BTreeSet<Index>,
    pub(super) counts: PlanCounts,
    version: u64,
    /// The last time anything was handled.
    awake: Time,
    /// Nobody expires before this: the planner itself was asleep.
    amnesty: Time,
}

impl Planner {
    /// An empty tree. Limits below their least are raised to it.
    #[must_use]
    pub fn new(settings: PlannerSettings) -> Self {
        let settings = PlannerSettings {
            origin_children: settings.origin_children.max(limits::ORIGIN_CHILDREN_LEAST),
            children_one_in: settings.children_one_in.max(1),
            ..settings
        };
        Self {
            table: Table::new(settings),
            paths: Paths::default(),
            due: BTreeMap::new(),
            changed: BTreeSet::new(),
            counts: PlanCounts::default(),
            version: settings.generation,
            awake: Time::ZERO,
            amnesty: Time::ZERO,
        }
    }

    /// A relay registers, for the first time or again.
    ///
    /// The same or a newer incarnation of a known relay keeps its place and its children where
    /// its new facts allow it, ends a drain, and is told its placement again.
    ///
    /// # Errors
    /// When the facts are invalid, a newer incarnation holds the name, or there is no room.
    pub fn join(&mut self, now: Time, mut info: RelayInfo) -> Result<(), PlanError> {
        self.wake(now);
        info.capacity = info.capacity.min(self.table.settings.relay_capacity);
        let joined = check(&info).and_then(|()| self.admit(now, info));
        match joined {
            Ok(()) => self.counts.joined += 1,
            Err(_) => self.counts.refused += 1,
        }
        self.settle(now);
        joined
    }

    /// A relay is gone; false if it was not in the tree.
    pub fn leave(&mut self, now: Time, id: &str) -> bool {
        self.wake(now);
        let Some(index) = self.table.find(id) else {
            return false;
        };
        self.take_out(index);
        self.settle(now);
        true
    }

    /// A relay reports its load, which also says that it lives.
    ///
    /// # Errors
    /// When the relay is not in the tree: it has to join again.
    pub fn load(&mut self, now: Time, id: &str, load: &Load) -> Result<(), PlanError> {
        self.wake(now);
        let Some(index) = self.table.find(id) else {
            self.counts.unknown_loads += 1;
            return Err(PlanError::Unknown { id: cut(id) });
        };
        let node = self.table.node(index);
        let first = node.load == Load::default();
        if load.incarnation != node.info.incarnation
            || (!first && load.sequence <= node.load.sequence)
        {
            self.counts.stale_loads += 1;
            return Ok(());
        }
        let mut load = load.clone();
        load.round_trips.retain(|(id, _)| self.table.find(id).is_some());
        load.round_trips.truncate(limits::ROUND_TRIPS);
        load.parents.retain(|id| id == ORIGIN || self.table.find(id).is_some());
        load.parents.truncate(limits::PARENTS + limits::FORMER_PARENTS);
        load.silent.truncate(limits::PARENTS);
        for silent in &load.silent {
            if let Some(parent) = self.table.find(silent)
                && self.table.node(index).parents.contains(&parent)
            {
                self.table.suspect(parent);
            }
        }
        let hashes = std::mem::take(&mut load.certificate_hashes);
        if !hashes.is_empty() {
            self.table.node_mut(index).info.certificate_hashes = kept_hashes(hashes);
        }
        let drains = load.draining && !self.table.node(index).draining;
        self.table.node_mut(index).load = load;
        self.table.reported(index, now);
        if drains {
            return self.drain(now, id).then_some(()).ok_or(PlanError::Unknown { id: cut(id) });
        }
        self.table.refresh(index);
        self.unreached(now, index);
        self.nearer(now, index);
        self.settle(now);
        Ok(())
    }

    /// A relay drains: it gets no new children, and those that it has are given other parents.
    /// False if it is not in the tree.
    pub fn drain(&mut self, now: Time, id: &str) -> bool {
        self.wake(now);
        let Some(index) = self.table.find(id) else {
            return false;
        };
        self.table.node_mut(index).draining = true;
        self.table.refresh(index);
        let children: Vec<Index> = self.table.node(index).children.iter().copied().collect();
        for child in children {
            self.table.wanting.insert(child);
            self.due.insert(child, Cause::ParentDrains(id.to_owned()));
        }
        self.settle(now);
        true
    }

    /// Lets relays that have not reported for [`limits::REPORT_EXPIRY`] leave, and goes on with
    /// what one call did not finish. Returns the names of those that left.
    ///
    /// If the planner itself was asleep, nobody is judged by the reports that it missed.
    pub fn expire(&mut self, now: Time) -> Vec<String> {
        self.wake(now);
        let mut gone = Vec::new();
        while let Some((at, index)) = self.table.first_expiry() {
            if at > now || now < self.amnesty {
                break;
            }
            gone.push(self.take_out(index));
            self.counts.expired += 1;
        }
        self.settle(now);
        gone
    }

    /// When [`expire`](Self::expire) is to be called next; `None` for an empty tree.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let (expiry, _) = self.table.first_expiry()?;
        if !self.due.is_empty() {
            return Some(self.awake);
        }
        Some(expiry.max(self.amnesty).min(self.awake + limits::REPORT_EXPIRY / 4))
    }

    /// The next placement that its relay has not been told: the relay's name and where to stand.
    pub fn poll_placement(&mut self) -> Option<(String, Placement)> {
        while let Some(index) = self.changed.pop_first() {
            let now_is = self.place_of(index);
            let node = self.table.node_mut(index);
            if node.told.as_ref() == Some(&now_is) {
                continue;
            }
            node.told = Some(now_is.clone());
            self.version += 1;
            let placement = Placement {
                version: self.version,
                level: now_is.0,
                parents: now_is.1,
                why: node.why.clone(),
            };
            return Some((node.info.id.clone(), placement));
        }
        None
    }

    /// Every relay, by name.
    pub fn topology(&self) -> impl Iterator<Item = view::RelayView<'_>> {
        self.table.iter().map(|(i, _)| view::relay_view(&self.table, i))
    }

    /// One relay.
    #[must_use]
    pub fn relay(&self, id: &str) -> Option<view::RelayView<'_>> {
        let index = self.table.find(id)?;
        Some(view::relay_view(&self.table, index))
    }

    /// At most `n` relays that listeners of relay `id` may go to when it dies: with free
    /// sessions, of its region first. `seed` spreads them in proportion to free sessions; give
    /// every listener (or small group) another one.
    #[must_use]
    pub fn alternates(&self, id: &str, n: usize, seed: u64) -> Vec<Alternate> {
        view::alternates(&self.table, id, n, seed)
    }

    /// At most `n` fed relays for somebody who comes from outside, drawn in proportion to the room that
    /// `room` says they have (of a relay's name, its last report, and its free sessions by that report).
    #[must_use]
    pub fn entrances(
        &self,
        n: usize,
        seed: u64,
        room: impl Fn(&str, &Load, u32) -> u32,
    ) -> Vec<Alternate> {
        view::entrances(&self.table, n, seed, room)
    }

    /// Relays in the tree.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether the tree holds no relay.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.len() == 0
    }

    /// What has been counted since the start.
    #[must_use]
    pub fn counts(&self) -> PlanCounts {
        self.counts
    }

    fn admit(&mut self, now: Time, mut info: RelayInfo) -> Result<(), PlanError> {
        info.certificate_hashes = kept_hashes(info.certificate_hashes);
        if let Some(index) = self.table.find(&info.id) {
            let known = &self.table.node(index).info;
            if info.incarnation < known.incarnation {
                return Err(PlanError::Former {
                    id: info.id,
                    known: known.incarnation,
                    given: info.incarnation,
                });
            }
            if self.keeps_its_place(index, &info) {
                self.return_in_place(now, index, info);
                return Ok(());
            }
            self.take_out(index);
        }
        if self.table.len() >= limits::RELAYS {
            return Err(PlanError::TooMany { id: info.id });
        }
        let id = info.id.clone();
        let index = self.table.insert(Node::new(now, info));
        if !self.place_new(now, index) {
            self.table.remove(index);
            return Err(PlanError::NoRoom { id });
        }
        Ok(())
    }

    fn keeps_its_place(&self, index: Index, info: &RelayInfo) -> bool {
        let node = self.table.node(index);
        let limit = children_limit(info.capacity, self.table.settings.children_one_in);
        info.level == node.info.level && node.children.len() as u64 <= u64::from(limit)
    }

    /// A known relay came back before it was missed: nobody moves.
    fn return_in_place(&mut self, now: Time, index: Index, info: RelayInfo) {
        let node = self.table.node_mut(index);
        let moved_house = node.info.address != info.address;
        if node.info.incarnation != info.incarnation {
            node.load = Load::default();
        }
        node.info = info;
        let was_draining = std::mem::replace(&mut node.draining, false);
        node.told = None;
        let children: Vec<Index> = node.children.iter().copied().collect();
        if was_draining {
            let due = children.iter().map(|&child| (child, Cause::Room));
            self.due.extend(due);
        }
        self.table.reported(index, now);
        self.table.refresh(index);
        self.changed.insert(index);
        if moved_house {
            self.changed.extend(children);
        }
    }

    /// Takes a relay out of the tree; its children are due for another parent.
    fn take_out(&mut self, index: Index) -> String {
        let (node, children) = self.table.remove(index);
        self.changed.remove(&index);
        self.due.remove(&index);
        for child in children {
            self.table.wanting.insert(child);
            self.due.insert(child, Cause::ParentLeft(node.info.id.clone()));
        }
        self.counts.left += 1;
        node.info.id
    }

    /// Notes the time. After a gap that only the planner's own sleep explains (its timeout comes
    /// four times as often), relays get a whole period to report.
    fn wake(&mut self, now: Time) {
        if now.since(self.awake) > limits::REPORT_EXPIRY / 2 {
            self.amnesty = now + limits::REPORT_EXPIRY;
        }
        self.awake = now;
    }

    fn place_of(&self, index: Index) -> (u8, Vec<Parent>) {
        let node = self.table.node(index);
        let parents = node.parents.iter().map(|&p| {
            let info = &self.table.node(p).info;
            Parent { relay: info.id.clone(), address: info.address.clone() }
        });
        (node.level, parents.collect())
    }
}

fn check(info: &RelayInfo) -> Result<(), PlanError> {
    let fits = |s: &str| s.len() <= limits::NAME_BYTES;
    let name = |what| PlanError::Name { id: cut(&info.id), what };
    if info.id.is_empty() || !fits(&info.id) || info.id == ORIGIN {
        return Err(name("name"));
    }
    if info.address.is_empty() || !fits(&info.address) {
        return Err(name("address"));
    }
    if !fits(&info.region) {
        return Err(name("region"));
    }
    match info.level {
        Some(level) if level == 0 || level > limits::LEVELS => {
            Err(PlanError::Level { id: info.id.clone(), level })
        }
        _ => Ok(()),
    }
}

/// A relay's hashes, as far as they are within their limits.
fn kept_hashes(mut hashes: Vec<String>) -> Vec<String> {
    hashes.retain(|hash| hash.len() == limits::CERTIFICATE_HASH_BYTES);
    hashes.truncate(limits::CERTIFICATE_HASHES);
    hashes
}

/// A name from a peer, cut to its limit.
fn cut(id: &str) -> String {
    let mut end = id.len().min(limits::NAME_BYTES);
    while !id.is_char_boundary(end) {
        end -= 1;
    }
    id[..end].to_owned()
}
