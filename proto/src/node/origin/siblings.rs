//! Where each relay's listeners may go: lists that stay the same while their relays live, and the
//! places that are kept free for them.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::OriginControl;
use crate::admission::{headroom, share};
use crate::node::messages::ToShard;
use crate::pass::certify;
use crate::wire::{Alternate, Siblings};
use crate::{Time, limits};

/// The lists that were given out.
#[derive(Debug, Default)]
pub(super) struct Lists {
    told: BTreeMap<String, Told>,
    /// By relay: who names it, and how many listeners each of them may send it at most.
    shares: BTreeMap<String, BTreeMap<String, u32>>,
    /// By relay: those whose shares have an entry of its.
    names: BTreeMap<String, Vec<String>>,
    /// Relays whose lists are to be looked at.
    due: BTreeSet<String>,
    /// Relays that name fewer than they may.
    short: BTreeSet<String>,
    /// By relay: its free places when those who name it were last told.
    room: BTreeMap<String, u32>,
    /// The last relay that was looked at in turn.
    cursor: String,
    /// When a relay has left the last time: places are kept for its listeners, who are on their way.
    left: Option<Time>,
    turn: Option<Time>,
    every: Option<Time>,
}

#[derive(Debug)]
struct Told {
    siblings: Siblings,
    certified: Time,
}

impl Lists {
    pub(super) fn timeout(&self) -> Time {
        let due = if self.due.is_empty() { None } else { self.turn };
        due.into_iter().chain(self.every).min().unwrap_or(Time::MAX)
    }

    /// `id` names these relays, and may send each of them so many listeners: those for whom that is new
    /// are to keep other places. The work does not grow with the tree.
    fn name(&mut self, id: &str, relays: &[Alternate], each: u32) {
        for former in self.names.remove(id).unwrap_or_default() {
            let named = relays.iter().any(|relay| relay.relay == former);
            if let Some(shares) = self.shares.get_mut(&former).filter(|_| !named) {
                shares.remove(id);
                if shares.is_empty() {
                    self.shares.remove(&former);
                }
                self.due.insert(former);
            }
        }
        for relay in relays {
            let shares = self.shares.entry(relay.relay.clone()).or_default();
            if shares.insert(id.to_owned(), each) != Some(each) {
                self.due.insert(relay.relay.clone());
            }
        }
        if !relays.is_empty() {
            let names = relays.iter().map(|relay| relay.relay.clone()).collect();
            self.names.insert(id.to_owned(), names);
        }
    }

    fn wake(&mut self, now: Time) {
        self.turn.get_or_insert(now);
        self.every.get_or_insert(now + limits::SIBLINGS_EVERY);
    }
}

impl OriginControl {
    /// A relay has come, or come back: it gets a list, and is named by those that lack one.
    pub(super) fn sibling_joined(&mut self, now: Time, id: &str) {
        self.lists.told.remove(id);
        self.lists.due.insert(id.to_owned());
        let short = std::mem::take(&mut self.lists.short);
        self.lists.due.extend(short);
        self.lists.wake(now);
    }

    /// A relay has gone or drains: those that name it get another.
    pub(super) fn sibling_left(&mut self, now: Time, id: &str) {
        let named_by = self.lists.shares.remove(id).unwrap_or_default();
        self.lists.due.extend(named_by.into_keys());
        self.lists.left = Some(now);
        // If it is gone for good, what is known of it is forgotten.
        self.lists.due.insert(id.to_owned());
        self.lists.wake(now);
    }

    /// A relay reports its free places: if it has filled up, or has room again, those who name it are
    /// told soon.
    pub(super) fn room_left(&mut self, now: Time, id: &str, free: u32) {
        let Some(&known) = self.lists.room.get(id) else {
            self.lists.room.insert(id.to_owned(), free);
            return;
        };
        if alike(known, free) {
            return;
        }
        self.lists.room.insert(id.to_owned(), free);
        let named_by = self.lists.shares.get(id).into_iter().flat_map(|shares| shares.keys());
        self.lists.due.extend(named_by.cloned());
        self.lists.wake(now);
    }

    /// Places that relays were told to keep.
    pub(super) fn headroom(&self) -> u64 {
        self.lists.told.values().map(|told| u64::from(told.siblings.headroom)).sum()
    }

    /// Looks at the lists that are due, and at some others in turn, for loads change.
    pub(super) fn siblings_timeout(&mut self, now: Time) {
        if self.lists.every.is_some_and(|at| now >= at) {
            self.lists.every = Some(now + limits::SIBLINGS_EVERY);
            let after = (std::ops::Bound::Excluded(&self.lists.cursor), std::ops::Bound::Unbounded);
            let next = self.sessions.range::<String, _>(after).take(limits::SIBLINGS_TURN);
            let next: Vec<String> = next.map(|(id, _)| id.clone()).collect();
            self.lists.cursor = match next.last() {
                Some(last) if next.len() == limits::SIBLINGS_TURN => last.clone(),
                _ => String::new(),
            };
            self.lists.due.extend(next);
            self.lists.turn.get_or_insert(now);
        }
        if self.lists.turn.is_some_and(|at| now >= at) {
            for _ in 0..limits::SIBLINGS_TURN {
                let Some(id) = self.lists.due.pop_first() else { break };
                self.look_at(now, &id);
            }
            let more = !self.lists.due.is_empty();
            self.lists.turn = more.then_some(now + limits::PUSH_EVERY);
        }
    }

    fn look_at(&mut self, now: Time, id: &str) {
        let Some(view) = self.planner.relay(id) else {
            self.forget_lists(id);
            return;
        };
        let capacity = view.capacity;
        let former = self.lists.told.get(id).map(|told| told.siblings.relays.clone());
        let region = view.region.to_owned();
        let mut relays = self.list_for(id, former.unwrap_or_default());
        let away = |a: &Alternate| self.planner.relay(&a.relay).is_none_or(|v| v.region != region);
        relays.sort_by_key(away);
        let near = relays.iter().filter(|relay| !away(relay)).count();
        if relays.len() < limits::SIBLINGS {
            self.lists.short.insert(id.to_owned());
        }
        let each = share(capacity, relays.len());
        self.lists.name(id, &relays, each);
        let largest = self.lists.shares.get(id).and_then(|shares| shares.values().max().copied());
        let mut kept = headroom(capacity, largest.unwrap_or(0).max(each));
        // The share of a relay that has just gone is still to come.
        if self.lists.left.is_some_and(|left| now < left + limits::HEADROOM_HELD) {
            let former = self.lists.told.get(id).map_or(0, |told| told.siblings.headroom);
            kept = kept.max(former);
        }
        let free = relays.iter().map(|relay| self.room_of(&relay.relay)).collect();
        // The list is short, so that a byte holds its length.
        let near = u8::try_from(near).unwrap_or(u8::MAX);
        let siblings = Siblings { relays, headroom: kept, free, near, certificate: None };
        self.tell_siblings(now, id, siblings);
    }

    /// Newcomers that one of those who name a relay may send it in a second: its free places and what
    /// is left of its budget, shared out among them.
    fn room_of(&self, id: &str) -> u32 {
        let Some(view) = self.planner.relay(id).filter(|view| !view.draining) else { return 0 };
        let load = view.load;
        let room = match load.door {
            Some(door) => door.free.min(door.joins_per_s.saturating_sub(load.joins_per_s)),
            None => view.capacity.saturating_sub(load.listeners.saturating_add(load.children)),
        };
        let named_by = self.lists.shares.get(id).map_or(1, BTreeMap::len);
        room.div_ceil(u32::try_from(named_by).unwrap_or(u32::MAX).max(1))
    }

    /// The former list without those that are gone, and others for them.
    fn list_for(&self, id: &str, former: Vec<Alternate>) -> Vec<Alternate> {
        let lives = |mut alternate: Alternate| {
            let view = self.planner.relay(&alternate.relay)?;
            alternate.certificate_hashes = view.certificate_hashes.to_vec();
            (!view.draining && view.address == alternate.address).then_some(alternate)
        };
        let mut relays: Vec<Alternate> = former.into_iter().filter_map(lives).collect();
        // A list of full relays helps no newcomer: one of them gives its place to one with room.
        if relays.len() >= limits::SIBLINGS && relays.iter().all(|r| self.room_of(&r.relay) == 0) {
            relays.pop();
        }
        if relays.len() < limits::SIBLINGS {
            let mut hasher = DefaultHasher::new();
            (id, self.planner.counts().joined).hash(&mut hasher);
            let more = self.planner.alternates(id, 2 * limits::SIBLINGS, hasher.finish());
            for alternate in more {
                let known = relays.iter().any(|known| known.relay == alternate.relay);
                if !known && relays.len() < limits::SIBLINGS {
                    relays.push(alternate);
                }
            }
        }
        relays
    }

    /// Sends a relay what changed. Free places that change little are not worth a message.
    fn tell_siblings(&mut self, now: Time, id: &str, siblings: Siblings) {
        let Some(&session) = self.sessions.get(id) else { return };
        let half = Duration::from_secs(limits::CERTIFICATE_S / 2);
        if let Some(told) = self.lists.told.get(id) {
            let former = &told.siblings;
            let same = former.headroom == siblings.headroom
                && former.relays == siblings.relays
                && former.free.iter().zip(&siblings.free).all(|(&a, &b)| alike(a, b));
            if same && now < told.certified + half {
                return;
            }
        }
        let unix_s = (self.settings.unix_us_at_zero + now.as_micros()) / 1_000_000;
        let key = self.pass_keys.get(id);
        let certificate = self.settings.signer.as_ref().zip(key).and_then(|(signer, key)| {
            // A relay without a good key gives no passes; its listeners return as newcomers.
            certify(signer, id, key, unix_s).ok()
        });
        let siblings = Siblings { certificate, ..siblings };
        let told = Told { siblings: siblings.clone(), certified: now };
        self.lists.told.insert(id.to_owned(), told);
        self.send_to(session, ToShard::RelaySiblings { session, siblings });
    }

    fn forget_lists(&mut self, id: &str) {
        self.lists.room.remove(id);
        self.lists.told.remove(id);
        self.lists.short.remove(id);
        self.lists.name(id, &[], 0);
    }
}

/// Whether two numbers of free places are the same for those who may send someone there.
fn alike(known: u32, free: u32) -> bool {
    (known == 0) == (free == 0) && known.abs_diff(free) <= known / 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fanout::SessionIx;
    use crate::node::messages::ToControl;
    use crate::node::{ControlEffect, OriginSettings};
    use crate::session::SessionKey;
    use crate::tree::PlannerSettings;
    use crate::wire::{DoorLoad, Load, RelayInfo};

    fn key(n: u32) -> SessionKey {
        SessionKey { shard: 0, ix: SessionIx(n), generation: n }
    }

    fn info_of(n: u32) -> RelayInfo {
        RelayInfo {
            id: format!("edge-{n}"),
            address: format!("192.0.2.{n}:4433"),
            region: String::new(),
            capacity: 1_000,
            level: Some(1),
            incarnation: 1,
            pass_key: None,
            certificate_hashes: vec!["a".repeat(limits::CERTIFICATE_HASH_BYTES)],
        }
    }

    fn join(control: &mut OriginControl, now: Time, n: u32) {
        let info = info_of(n);
        control.handle_message(now, ToControl::RelayJoin { session: key(n), info });
    }

    fn load(control: &mut OriginControl, now: Time, n: u32, sequence: u64, listeners: u32) {
        let load = Load { incarnation: 1, sequence, listeners, ..Load::default() };
        control.handle_message(now, ToControl::RelayLoad { session: key(n), load });
    }

    /// What a relay was told last.
    fn told(control: &mut OriginControl, n: u32) -> Option<Siblings> {
        let mut last = None;
        while let Some(effect) = control.poll_effect() {
            if let ControlEffect::ToShard { message, .. } = effect
                && let ToShard::RelaySiblings { session, siblings } = message
                && session == key(n)
            {
                last = Some(siblings);
            }
        }
        last
    }

    fn origin() -> OriginControl {
        let settings = OriginSettings {
            name: "origin".into(),
            rooms: Vec::new(),
            first_use: None,
            planner: PlannerSettings::default(),
            epoch: 1,
            capacity: 100,
            keys: Vec::new(),
            signer: None,
            unix_us_at_zero: 0,
            joins_per_s: None,
        };
        OriginControl::new(settings, Time::ZERO).unwrap()
    }

    #[test]
    fn a_renewed_certificate_is_told() {
        let mut control = origin();
        (1..=2).for_each(|n| join(&mut control, Time::ZERO, n));
        let mut now = Time::ZERO;
        let mut look = |control: &mut OriginControl| {
            for _ in 0..3 {
                now += limits::SIBLINGS_EVERY;
                control.handle_timeout(now);
            }
            let siblings = told(control, 1).map(|told| told.relays);
            (now, siblings.map(|relays| relays[0].certificate_hashes.clone()))
        };
        let (now, hashes) = look(&mut control);
        assert_eq!(hashes, Some(vec!["a".repeat(limits::CERTIFICATE_HASH_BYTES)]));
        // Others than hashes are not passed on, nor more of them than may be.
        let good = ["b", "c", "d"].map(|hash| hash.repeat(limits::CERTIFICATE_HASH_BYTES));
        let mut certificate_hashes = vec!["no hash".to_owned()];
        certificate_hashes.extend(good.iter().cloned());
        let named = Load { incarnation: 1, sequence: 1, certificate_hashes, ..Load::default() };
        control.handle_message(now, ToControl::RelayLoad { session: key(2), load: named });
        let (now, hashes) = look(&mut control);
        assert_eq!(hashes, Some(good[..limits::CERTIFICATE_HASHES].to_vec()));
        // A report that names none says nothing about them.
        load(&mut control, now, 2, 2, 0);
        assert_eq!(look(&mut control).1, None, "nothing has changed");
    }

    #[test]
    fn no_relay_is_believed_to_have_more_room_than_places() {
        let mut control = origin();
        let now = Time::ZERO;
        (1..=2).for_each(|n| join(&mut control, now, n));
        let door = Some(DoorLoad { free: u32::MAX, joins_per_s: u32::MAX, admitted: 0 });
        let boast = |listeners| Load {
            incarnation: 1,
            sequence: u64::from(listeners) + 1,
            listeners,
            joins_per_s: u32::MAX,
            door,
            ..Load::default()
        };
        for (listeners, free) in [(0, 1_000), (400, 600), (5_000, 0)] {
            let load = boast(listeners);
            control.handle_message(now, ToControl::RelayLoad { session: key(1), load });
            let capacity = control.view(now).capacity;
            assert_eq!(capacity.free, free, "with {listeners} listeners");
            assert!(capacity.used <= 1_000);
        }
        let mut info = control.planner.relay("edge-1").map(|view| view.capacity);
        assert_eq!(info, Some(1_000));
        let most = PlannerSettings::default().relay_capacity;
        let large = RelayInfo { capacity: u32::MAX, ..info_of(3) };
        control.handle_message(now, ToControl::RelayJoin { session: key(3), info: large });
        info = control.planner.relay("edge-3").map(|view| view.capacity);
        assert_eq!(info, Some(most));
    }

    #[test]
    fn a_relay_that_is_gone_keeps_no_places_and_no_memory() {
        let mut now = Time::ZERO;
        let mut control = origin();
        (1..=3).for_each(|n| join(&mut control, now, n));
        for (sequence, listeners) in [(1, 300), (2, 400), (3, 400)] {
            now += limits::SIBLINGS_EVERY;
            (1..=3).for_each(|n| load(&mut control, now, n, sequence, listeners));
            control.handle_timeout(now);
        }
        let before = told(&mut control, 1).unwrap();
        let kept = headroom(1_000, share(1_000, 2));
        assert_eq!((before.relays.len(), before.headroom), (2, kept), "whatever they carry now");
        control.handle_message(now, ToControl::RelayLeave { session: key(2) });
        control.handle_message(now, ToControl::RelayLeave { session: key(3) });
        control.handle_timeout(now);
        let after = told(&mut control, 1).unwrap();
        assert_eq!((after.relays.len(), after.headroom), (0, kept), "those who were there return");
        for sequence in 4..7 {
            now += limits::HEADROOM_HELD / 2;
            load(&mut control, now, 1, sequence, 400);
            control.handle_timeout(now);
        }
        let after = told(&mut control, 1).unwrap();
        assert_eq!((after.relays.len(), after.headroom), (0, 0));
        let Lists { told, shares, names, due, .. } = &control.lists;
        assert!(told.keys().eq(["edge-1"]), "{told:?}");
        assert!(shares.is_empty() && names.is_empty() && due.is_empty(), "{shares:?} {names:?}");
    }
}
