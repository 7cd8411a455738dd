//! Sums of what happens in each room, along primary parents only.

use std::collections::{BTreeMap, BTreeSet};

use crate::Time;
use crate::limits;
use crate::wire::{Load, RoomSum, Tally};

/// One node's sums by room: of its shards, and of the children whose primary parent it is. Its size
/// depends on rooms and children, never on listeners.
#[derive(Clone, Debug)]
pub struct RoomSums {
    own: String,
    shards: BTreeMap<u16, BTreeMap<u32, Tally>>,
    children: BTreeMap<String, BTreeMap<u32, (Time, Tally)>>,
    /// Times that a glitch was heard on this node, by room; of rooms that are here.
    glitches: BTreeMap<u32, u32>,
    /// The last room that a report spoke of.
    cursor: u32,
}

impl RoomSums {
    /// The sums of relay `own`, or of the origin with [`super::ORIGIN`].
    #[must_use]
    pub fn new(own: impl Into<String>) -> Self {
        Self {
            own: own.into(),
            shards: BTreeMap::new(),
            children: BTreeMap::new(),
            glitches: BTreeMap::new(),
            cursor: 0,
        }
    }

    /// What a shard carries; it replaces what the shard said before.
    pub fn shard(&mut self, shard: u16, tallies: Vec<(u32, Tally)>) {
        let tallies: BTreeMap<u32, Tally> = tallies.into_iter().take(limits::ROOMS).collect();
        for (&room, tally) in &tallies {
            let sum = self.glitches.entry(room).or_default();
            *sum = sum.saturating_add(tally.experience.glitches);
        }
        self.shards.insert(shard, tallies);
        let here = |room: &u32| self.shards.values().any(|tallies| tallies.contains_key(room));
        self.glitches.retain(|room, _| here(room));
    }

    /// Times that "I hear a glitch" was said on this node, since it has had the room.
    #[must_use]
    pub fn glitches(&self, room: u32) -> u32 {
        self.glitches.get(&room).copied().unwrap_or(0)
    }

    /// Takes a child's report, clipped to what its listeners can have done. The caller has checked
    /// that it is the child's newest ([`super::Sums::handle`]).
    pub fn child(&mut self, now: Time, child: &str, load: &Load) {
        if load.parents.first() != Some(&self.own) {
            self.children.remove(child);
            return;
        }
        if load.rooms.is_empty() && !self.children.contains_key(child) {
            return;
        }
        let held = self.children.entry(child.to_owned()).or_default();
        for sum in load.rooms.iter().take(limits::LOAD_ROOMS) {
            if held.len() < limits::ROOMS || held.contains_key(&sum.room) {
                let mut tally = sum.below.clone();
                tally.clip();
                held.insert(sum.room, (now + limits::ROOM_SUM_EXPIRY, tally));
            }
        }
    }

    /// Forgets a child whose session ended.
    pub fn remove(&mut self, child: &str) {
        self.children.remove(child);
    }

    /// Forgets what was not said again.
    pub fn expire(&mut self, now: Time) {
        for rooms in self.children.values_mut() {
            rooms.retain(|_, (expires, _)| now < *expires);
        }
        self.children.retain(|_, rooms| !rooms.is_empty());
    }

    /// What this node's own shards carry of a room.
    #[must_use]
    pub fn own(&self, room: u32) -> Tally {
        let mut sum = Tally::default();
        let shards = self.shards.values().filter_map(|tallies| tallies.get(&room));
        shards.for_each(|tally| sum.merge(tally));
        sum
    }

    /// This node and everything below it.
    #[must_use]
    pub fn total(&self, room: u32) -> Tally {
        let mut sum = self.own(room);
        let children = self.children.values().filter_map(|rooms| rooms.get(&room));
        children.for_each(|(_, tally)| sum.merge(tally));
        sum
    }

    /// The rooms of the next report: [`limits::LOAD_ROOMS`] at most, the others in their turn.
    pub fn next_report(&mut self) -> Vec<RoomSum> {
        let shards = self.shards.values().flat_map(BTreeMap::keys);
        let below = self.children.values().flat_map(BTreeMap::keys);
        let rooms: BTreeSet<u32> = shards.chain(below).copied().collect();
        let behind =
            rooms.range((std::ops::Bound::Excluded(self.cursor), std::ops::Bound::Unbounded));
        let turn: Vec<u32> =
            behind.chain(rooms.range(..=self.cursor)).take(limits::LOAD_ROOMS).copied().collect();
        self.cursor = turn.last().copied().unwrap_or(0);
        let sum = |room| {
            let (own, below) = (self.own(room), self.total(room));
            let (reporting, well) = (own.experience.reporting, own.experience.well);
            let glitches = self.glitches(room);
            RoomSum { room, listeners: own.listeners, reporting, well, glitches, below }
        };
        turn.into_iter().map(sum).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(listeners: u32) -> Tally {
        Tally { listeners, ..Tally::default() }
    }

    fn load(parent: &str, rooms: Vec<RoomSum>) -> Load {
        Load { parents: vec![parent.to_owned()], rooms, ..Load::default() }
    }

    #[test]
    fn a_child_counts_at_its_primary_alone_and_expires() {
        let mut sums = RoomSums::new("a");
        sums.shard(0, vec![(1, tally(3))]);
        sums.shard(1, vec![(1, tally(4))]);
        let room = RoomSum { room: 1, below: tally(10), ..RoomSum::default() };
        sums.child(Time::ZERO, "c", &load("a", vec![room.clone()]));
        assert_eq!((sums.own(1).listeners, sums.total(1).listeners), (7, 17));
        sums.child(Time::ZERO, "c", &load("b", vec![room.clone()]));
        assert_eq!(sums.total(1).listeners, 7);
        sums.child(Time::ZERO, "c", &load("a", vec![room]));
        sums.expire(Time::ZERO + limits::ROOM_SUM_EXPIRY);
        assert_eq!(sums.total(1).listeners, 7);
    }

    #[test]
    fn many_rooms_take_turns_and_a_report_has_a_size() {
        let mut sums = RoomSums::new("a");
        let worst = Tally {
            listeners: u32::MAX,
            reactions: limits::REACTIONS.iter().map(|k| ((*k).to_owned(), u32::MAX)).collect(),
            experience: crate::wire::Experience {
                reporting: u32::MAX,
                well: u32::MAX,
                lost: [u32::MAX; limits::HEARD_BUCKETS],
                late: [u32::MAX; limits::HEARD_BUCKETS],
                concealed: [u32::MAX; limits::HEARD_BUCKETS],
                delay: [u32::MAX; limits::HEARD_BUCKETS],
                glitches: u32::MAX,
            },
        };
        let rooms = u32::try_from(limits::ROOMS).unwrap();
        sums.shard(0, (1..=rooms).map(|room| (room, worst.clone())).collect());
        let mut seen = BTreeSet::new();
        for _ in 0..limits::ROOMS / limits::LOAD_ROOMS {
            let report = sums.next_report();
            assert!(serde_json::to_vec(&report).unwrap().len() < limits::CONTROL_BYTES * 3 / 4);
            seen.extend(report.iter().map(|sum| sum.room));
        }
        assert_eq!(seen.len(), limits::ROOMS);
    }
}
