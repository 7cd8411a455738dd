//! How many listen to the origin's rooms, where, and what they hear: sums of what relays report.

use super::OriginControl;
use super::api::RoomError;
use crate::wire::{Experience, Load, RoomSum, Tally};
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
    /// "I hear a glitch" of late: [`limits::GLITCHES_OVER`] to twice that.
    pub glitches: u32,
}

/// A room's whole audience, for metrics; its size is bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomAudience {
    /// The room's name.
    pub room: String,
    /// What they hear.
    pub experience: Experience,
    /// By region.
    pub regions: Vec<Audience>,
    /// The relays with the most trouble, and after them the largest.
    pub relays: Vec<Audience>,
}

/// What a relay said of a room last.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    expires: Time,
    listeners: u32,
    reporting: u32,
    well: u32,
    glitches: Glitches,
}

/// How often a glitch was heard of late, from a total that only rises.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Glitches {
    total: Option<u32>,
    /// Of this stretch of [`limits::GLITCHES_OVER`], and of the former one.
    recent: [u32; 2],
    turned: Time,
}

impl Glitches {
    /// Takes a new total; what it has risen by counts for `listeners` at most, and the first one for
    /// nothing: it may be old.
    pub(super) fn note(&mut self, now: Time, total: u32, listeners: u32) {
        self.turn(now);
        let before = self.total.replace(total).unwrap_or(total);
        // A relay that begins anew begins with 0.
        let added = total.checked_sub(before).unwrap_or(total).min(listeners);
        self.recent[0] = self.recent[0].saturating_add(added);
    }

    fn turn(&mut self, now: Time) {
        while now.since(self.turned) >= limits::GLITCHES_OVER {
            if self.recent == [0; 2] {
                self.turned = now;
                return;
            }
            self.recent = [0, self.recent[0]];
            self.turned += limits::GLITCHES_OVER;
        }
    }

    /// How many there were of late.
    pub(super) const fn recent(&self) -> u32 {
        self.recent[0].saturating_add(self.recent[1])
    }
}

impl OriginControl {
    /// A room's audience: the whole, and each relay's part.
    ///
    /// # Errors
    /// When there is no such room.
    pub fn audience(&self, room: &str) -> Result<(Tally, Vec<Audience>), RoomError> {
        Ok(self.audience_of(self.room_id(room)?))
    }

    fn audience_of(&self, id: u32) -> (Tally, Vec<Audience>) {
        let own = self.room_sums.own(id);
        let mut parts = vec![Audience {
            relay: self.settings.name.clone(),
            region: String::new(),
            listeners: own.listeners,
            reporting: own.experience.reporting,
            well: own.experience.well,
            glitches: self.rooms.get(&id).map_or(0, |entry| entry.glitches.recent()),
        }];
        for (relay, rooms) in &self.audience {
            let Some(said) = rooms.get(&id) else { continue };
            let region = self.planner.relay(relay).map(|view| view.region.to_owned());
            parts.push(Audience {
                relay: relay.clone(),
                region: region.unwrap_or_default(),
                listeners: said.listeners,
                reporting: said.reporting,
                well: said.well,
                glitches: said.glitches.recent(),
            });
        }
        (self.room_sums.total(id), parts)
    }

    /// The audiences of the rooms with the most listeners, for metrics.
    pub(super) fn audiences(&self) -> Vec<RoomAudience> {
        let mut rooms: Vec<(u64, u32)> =
            self.rooms.iter().map(|(&id, entry)| (entry.room.state().listeners, id)).collect();
        rooms.retain(|(listeners, _)| *listeners > 0);
        rooms.sort_unstable_by_key(|&(listeners, id)| (std::cmp::Reverse(listeners), id));
        rooms.truncate(limits::METRIC_ROOMS);
        let view = |(_, id)| {
            let (tally, parts) = self.audience_of(id);
            let room = self.rooms.get(&id).map(|entry| entry.room.settings().name.clone());
            RoomAudience {
                room: room.unwrap_or_default(),
                experience: tally.experience,
                regions: Audience::by_region(&parts),
                relays: Audience::worst(parts),
            }
        };
        rooms.into_iter().map(view).collect()
    }

    /// A relay's own listeners by room.
    pub(super) fn relay_audience(&mut self, now: Time, relay: &str, load: &Load) {
        if load.rooms.is_empty() && !self.audience.contains_key(relay) {
            return;
        }
        let rooms = self.audience.entry(relay.to_owned()).or_default();
        rooms.retain(|_, said| now < said.expires);
        for sum in load.rooms.iter().take(limits::LOAD_ROOMS) {
            if rooms.len() >= limits::ROOMS && !rooms.contains_key(&sum.room) {
                continue;
            }
            rooms.entry(sum.room).or_default().update(now, sum);
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
            let own = (self.room_sums.glitches(id), self.room_sums.own(id).listeners);
            let Some(entry) = self.rooms.get_mut(&id) else { continue };
            entry.glitches.note(now, own.0, own.1);
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

impl Said {
    fn update(&mut self, now: Time, sum: &RoomSum) {
        self.expires = now + limits::ROOM_SUM_EXPIRY;
        self.listeners = sum.listeners;
        self.reporting = sum.reporting.min(sum.listeners);
        self.well = sum.well.min(self.reporting);
        self.glitches.note(now, sum.glitches, sum.listeners);
    }
}

impl Audience {
    /// Those who report that they do not hear well.
    #[must_use]
    pub const fn trouble(&self) -> u32 {
        self.reporting.saturating_sub(self.well)
    }

    fn add(&mut self, other: &Self) {
        self.listeners = self.listeners.saturating_add(other.listeners);
        self.reporting = self.reporting.saturating_add(other.reporting);
        self.well = self.well.saturating_add(other.well);
        self.glitches = self.glitches.saturating_add(other.glitches);
    }

    /// Sums by region, the one with the most listeners first; what is beyond
    /// [`limits::STATS_REGIONS`] is one region more, `*`.
    #[must_use]
    pub fn by_region(parts: &[Self]) -> Vec<Self> {
        let mut regions = std::collections::BTreeMap::<&str, Self>::new();
        for part in parts {
            let sum = regions.entry(&part.region).or_default();
            sum.region.clone_from(&part.region);
            sum.add(part);
        }
        let mut regions: Vec<Self> = regions.into_values().collect();
        regions.sort_by_key(|sum| std::cmp::Reverse(sum.listeners));
        if regions.len() > limits::STATS_REGIONS {
            let mut rest = Self { region: "*".to_owned(), ..Self::default() };
            regions.drain(limits::STATS_REGIONS..).for_each(|sum| rest.add(&sum));
            regions.push(rest);
        }
        regions
    }

    /// The [`limits::STATS_RELAYS`] with the most trouble, and after them the largest.
    #[must_use]
    pub fn worst(mut parts: Vec<Self>) -> Vec<Self> {
        parts
            .sort_by_key(|part| std::cmp::Reverse((part.trouble(), part.glitches, part.listeners)));
        parts.truncate(limits::STATS_RELAYS);
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glitches_are_counted_for_a_while_and_for_no_more_than_there_are_listeners() {
        let mut glitches = Glitches::default();
        let at = |s: u64| Time::from_millis(1_000_000 + s * 1_000);
        glitches.note(at(0), 500, 10);
        assert_eq!(glitches.recent(), 0, "what was before is not of late");
        glitches.note(at(1), 503, 10);
        glitches.note(at(2), 503, 10);
        assert_eq!(glitches.recent(), 3);
        glitches.note(at(3), 1_000_000, 10);
        assert_eq!(glitches.recent(), 13);
        glitches.note(at(4), 2, 10);
        assert_eq!(glitches.recent(), 15, "the relay began anew");
        glitches.note(at(29), 2, 10);
        assert_eq!(glitches.recent(), 15);
        glitches.note(at(65), 2, 10);
        assert_eq!(glitches.recent(), 0);
    }

    #[test]
    fn regions_are_sums_and_bounded() {
        let part = |n: u32| Audience {
            relay: format!("r{n}"),
            region: format!("region-{}", n % 100),
            listeners: 1,
            reporting: 1,
            well: n % 2,
            glitches: 1,
        };
        let parts: Vec<Audience> = (0..1_000).map(part).collect();
        let regions = Audience::by_region(&parts);
        assert_eq!(regions.len(), limits::STATS_REGIONS + 1);
        assert_eq!(regions.iter().map(|sum| sum.listeners).sum::<u32>(), 1_000);
        assert_eq!(regions.iter().map(|sum| sum.trouble()).sum::<u32>(), 500);
        let worst = Audience::worst(parts);
        assert_eq!(worst.len(), limits::STATS_RELAYS);
        assert!(worst.iter().all(|part| part.trouble() == 1));
    }
}
