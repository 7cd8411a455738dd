//! The origin's side of admission: reports in, the watermark out.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::OriginControl;
use crate::node::control::ControlEffect;
use crate::node::messages::ToShard;
use crate::node::redeem::redeemed;
use crate::node::view::CapacityView;
use crate::session::SessionKey;
use crate::tree::ORIGIN;
use crate::wire::{Close, DoorLoad, Load};
use crate::{Time, limits};

impl OriginControl {
    /// The wall clock (milliseconds since 1970).
    pub(super) fn unix_ms(&self, now: Time) -> u64 {
        (self.settings.unix_us_at_zero + now.as_micros()) / 1_000
    }

    /// A report as far as it can be true: nobody has more free places, or joins in a second, than places.
    /// What is beyond it would call people to where there is no room for them.
    pub(super) fn believed<'a>(&self, relay: &str, load: &'a Load) -> Cow<'a, Load> {
        let Some(capacity) = self.planner.relay(relay).map(|view| view.capacity) else {
            return Cow::Borrowed(load);
        };
        let taken = load.listeners.saturating_add(load.children);
        let room = capacity.saturating_sub(taken);
        let likely = |door: &DoorLoad| door.free <= room && door.joins_per_s <= capacity;
        if taken <= capacity && load.joins_per_s <= capacity && load.door.iter().all(likely) {
            return Cow::Borrowed(load);
        }
        let mut load = load.clone();
        load.listeners = load.listeners.min(capacity);
        load.children = load.children.min(capacity - load.listeners);
        load.joins_per_s = load.joins_per_s.min(capacity);
        if let Some(door) = &mut load.door {
            door.free = door.free.min(room);
            door.joins_per_s = door.joins_per_s.min(capacity);
        }
        Cow::Owned(load)
    }

    /// A relay's report says what its door has left, and who has been given tickets below it.
    pub(super) fn door_reported(&mut self, now: Time, relay: &str, load: &Load) {
        match load.door {
            Some(door) => self.watermark.relay(relay, door),
            None => self.watermark.left(relay),
        }
        if let Some(door) = load.door {
            self.room_left(now, relay, door.free);
        }
        // Below the first level they are in the primary parent's report.
        let (most, primary) = (limits::ARRIVALS_S, load.parents.first());
        if primary.is_some_and(|parent| parent == ORIGIN) {
            self.count_arrivals(now, relay, load.arrivals.iter().copied().take(most));
        }
    }

    /// The origin's own shards report theirs.
    pub(super) fn own_door(&mut self, now: Time) {
        // Where there are relays, nobody is sent to the origin: its budgets let nobody in.
        match self.settings.joins_per_s.filter(|_| self.relays.is_empty()) {
            Some(joins_per_s) => {
                let free = self.doors.values().map(|door| door.free).sum();
                let admitted = self.spent.admitted();
                self.watermark.relay(ORIGIN, DoorLoad { free, joins_per_s, admitted });
            }
            None => self.watermark.left(ORIGIN),
        }
        let mut arrivals: BTreeMap<u64, u64> = BTreeMap::new();
        for &(second, tickets) in self.doors.values().flat_map(|door| &door.arrivals) {
            let sum = arrivals.entry(second).or_default();
            *sum = sum.saturating_add(tickets);
        }
        self.count_arrivals(now, ORIGIN, arrivals);
    }

    /// Calls who may come, and tells the first level and the own shards.
    pub(super) fn call_the_queue(&mut self, now: Time) {
        let Some(admission) = self.watermark.handle_timeout(now, self.unix_ms(now)) else { return };
        let first = self
            .relays
            .iter()
            .filter(|(_, id)| self.planner.relay(id).is_some_and(|relay| relay.level == 1));
        let sessions: Vec<SessionKey> = first.map(|(&session, _)| session).collect();
        for session in sessions {
            let admission = admission.clone();
            self.send_to(session, ToShard::RelayAdmission { session, admission });
        }
        self.entrance.told(now, &admission);
        let message = ToShard::Admission { admission, ahead_ms: 0, pass_on: false };
        self.effects.push_back(ControlEffect::ToShards(message));
    }

    /// A relay that has just come learns the origin's clock, and who waits.
    pub(super) fn tell_queue(&mut self, now: Time, session: SessionKey) {
        let admission = self.watermark.document(self.unix_ms(now));
        self.send_to(session, ToShard::RelayAdmission { session, admission });
    }

    /// What there is room for in the whole tree.
    pub(super) fn capacity(&self, own: u64) -> CapacityView {
        let mut view = CapacityView {
            places: self.settings.capacity.into(),
            used: own + self.totals.values().map(|totals| u64::from(totals.1)).sum::<u64>(),
            headroom: self.headroom(),
            free: self.watermark.free(),
            waiting: self.watermark.waiting(),
            arrivals_per_s: self.watermark.arriving(),
        };
        for relay in self.planner.topology() {
            view.places += u64::from(relay.capacity);
            view.used += u64::from(relay.load.listeners) + u64::from(relay.load.children);
            view.arrivals_per_s += f64::from(relay.load.joins_per_s);
        }
        view
    }

    /// Redeems a ticket that is shown to the origin itself.
    pub(super) fn redeem_ticket(&mut self, unix_s: u64, ticket: u64) -> Result<(), Close> {
        // Whoever is let in here is admitted, and counted, where the relay takes it.
        redeemed(&mut self.spent, &mut self.stats, unix_s, ticket, false)
    }

    fn count_arrivals(
        &mut self,
        now: Time,
        reporter: &str,
        arrivals: impl IntoIterator<Item = (u64, u64)>,
    ) {
        // Nobody arrives in the future, whatever a relay's clock says.
        let newest = self.unix_ms(now) / 1_000 + 1;
        for (second, tickets) in arrivals.into_iter().filter(|(second, _)| *second <= newest) {
            self.watermark.arrived(now, reporter, second, tickets);
        }
    }
}
