//! How many listen to the origin's rooms, where, and what they hear: sums of what relays report.

use super::OriginControl;
use super::api::RoomError;
use crate::wire::{Load, Tally};
use crate::{Time, limits};

/// One relay's part of a room's audience.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audience {
    /// The relay.
    pub relay: String,
    /// Where it stands.
    pub region: String,
    /// Listeners on it.
    pub listeners: u32,
    /// Of them, those who report what they hear.
    pub reporting: u32,
    /// Of them, those who hear well.
    pub well: u32,
}

impl OriginControl {
    /// A room's audience: the whole, and each relay's part.
    ///
    /// # Errors
    /// When there is no such room.
    pub fn audience(&self, room: &str) -> Result<(Tally, Vec<Audience>), RoomError> {
        let id = self.room_id(room)?;
        let own = self.room_sums.own(id);
        let mut parts = vec![Audience {
            relay: self.settings.name.clone(),
            region: String::new(),
            listeners: own.listeners,
            reporting: own.experience.reporting,
            well: own.experience.well,
        }];
        for (relay, rooms) in &self.audience {
            let Some((_, part)) = rooms.get(&id) else { continue };
            let region = self.planner.relay(relay).map(|view| view.region.to_owned());
            let region = region.unwrap_or_default();
            parts.push(Audience { region, ..part.clone() });
        }
        Ok((self.room_sums.total(id), parts))
    }

    /// A relay's own listeners by room.
    pub(super) fn relay_audience(&mut self, now: Time, relay: &str, load: &Load) {
        if load.rooms.is_empty() && !self.audience.contains_key(relay) {
            return;
        }
        let rooms = self.audience.entry(relay.to_owned()).or_default();
        rooms.retain(|_, (expires, _)| now < *expires);
        for sum in load.rooms.iter().take(limits::LOAD_ROOMS) {
            if rooms.len() >= limits::ROOMS && !rooms.contains_key(&sum.room) {
                continue;
            }
            let reporting = sum.reporting.min(sum.listeners);
            let part = Audience {
                relay: relay.to_owned(),
                region: String::new(),
                listeners: sum.listeners,
                reporting,
                well: sum.well.min(reporting),
            };
            rooms.insert(sum.room, (now + limits::ROOM_SUM_EXPIRY, part));
        }
    }

    /// Brings the documents' counts up to date.
    pub(super) fn counts_timeout(&mut self, now: Time) {
        if now < self.counts_due {
            return;
        }
        self.counts_due = now + limits::COUNTS_EVERY;
        self.room_sums.expire(now);
        let waiting = self.watermark.waiting();
        let ids: Vec<u32> = self.rooms.keys().copied().collect();
        for id in ids {
            let sum = self.room_sums.total(id);
            let Some(entry) = self.rooms.get_mut(&id) else { continue };
            let reactions = sum.reactions.into_iter().map(|(kind, n)| (kind, n.into())).collect();
            entry.room.edit(|state| {
                state.listeners = sum.listeners.into();
                state.waiting = waiting;
                state.reactions = reactions;
            });
            self.drain_room(id);
        }
    }
}
