//! Where each relay's listeners may go: lists that stay the same while their relays live, and the
//! places that are kept free for them.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::OriginControl;
use crate::node::messages::ToShard;
use crate::pass::certify;
use crate::wire::{Alternate, Siblings};
use crate::{Time, limits};

/// The lists that were given out.
#[derive(Debug, Default)]
pub(super) struct Lists {
    told: BTreeMap<String, Told>,
    /// By relay: who names it, and how many listeners each of them would send it.
    shares: BTreeMap<String, BTreeMap<String, u32>>,
    /// Relays whose lists are to be looked at.
    due: BTreeSet<String>,
    /// Relays that name fewer than they may.
    short: BTreeSet<String>,
    /// The last relay that was looked at in turn.
    cursor: String,
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
        self.lists.wake(now);
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
        let (listeners, capacity) = (view.load.listeners, view.capacity);
        let former = self.lists.told.get(id).map(|told| told.siblings.relays.clone());
        let relays = self.list_for(id, former.unwrap_or_default());
        if relays.len() < limits::SIBLINGS {
            self.lists.short.insert(id.to_owned());
        }
        let each = listeners.div_ceil(u32::try_from(relays.len()).unwrap_or(1).max(1));
        for shares in self.lists.shares.values_mut() {
            shares.remove(id);
        }
        for relay in &relays {
            let shares = self.lists.shares.entry(relay.relay.clone()).or_default();
            shares.insert(id.to_owned(), each);
        }
        self.lists.shares.retain(|_, shares| !shares.is_empty());
        let largest = self.lists.shares.get(id).and_then(|shares| shares.values().max().copied());
        // Half of a relay is for newcomers, however large its siblings are.
        let headroom = largest.unwrap_or(0).min(capacity / 2);
        self.tell_siblings(now, id, relays, headroom);
    }

    /// The former list without those that are gone, and others for them.
    fn list_for(&self, id: &str, former: Vec<Alternate>) -> Vec<Alternate> {
        let lives = |alternate: &Alternate| {
            let view = self.planner.relay(&alternate.relay);
            view.is_some_and(|v| !v.draining && v.address == alternate.address)
        };
        let mut relays: Vec<Alternate> = former.into_iter().filter(lives).collect();
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

    /// Sends a relay what changed. A headroom that changes little is not worth a message.
    fn tell_siblings(&mut self, now: Time, id: &str, relays: Vec<Alternate>, headroom: u32) {
        let Some(&session) = self.sessions.get(id) else { return };
        let half = Duration::from_secs(limits::CERTIFICATE_S / 2);
        if let Some(told) = self.lists.told.get(id) {
            let changed = told.siblings.headroom.abs_diff(headroom);
            let same = changed <= (told.siblings.headroom / 8).max(8);
            if told.siblings.relays == relays && same && now < told.certified + half {
                return;
            }
        }
        let unix_s = (self.settings.unix_us_at_zero + now.as_micros()) / 1_000_000;
        let key = self.pass_keys.get(id);
        let certificate = self.settings.signer.as_ref().zip(key).and_then(|(signer, key)| {
            // A relay without a good key gives no passes; its listeners return as newcomers.
            certify(signer, id, key, unix_s).ok()
        });
        let siblings = Siblings { relays, headroom, certificate };
        let told = Told { siblings: siblings.clone(), certified: now };
        self.lists.told.insert(id.to_owned(), told);
        self.send_to(session, ToShard::RelaySiblings { session, siblings });
    }

    fn forget_lists(&mut self, id: &str) {
        self.lists.told.remove(id);
        self.lists.short.remove(id);
        for shares in self.lists.shares.values_mut() {
            shares.remove(id);
        }
    }
}
