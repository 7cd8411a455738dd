//! What control messages say of the people in a room: hands, reactions, what they hear, whom the
//! host has put out or invited (`docs/PROTOCOL.md` sections 3.16 to 3.19).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::control::Role;
use crate::limits;

/// What a listener has heard since its last report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Ticks that were due.
    pub ticks: u32,
    /// Of them, those that never came.
    #[serde(default)]
    pub lost: u32,
    /// Of them, those that came too late to be played.
    #[serde(default)]
    pub late: u32,
    /// Sound that was made up (milliseconds).
    #[serde(default)]
    pub concealed_ms: u32,
    /// How far behind the origin's clock what is heard is (milliseconds).
    #[serde(default)]
    pub delay_ms: u32,
    /// Times that the listener said "I hear a glitch".
    #[serde(default)]
    pub glitches: u32,
}

/// A hand that was raised or lowered, on its way up the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hand {
    /// The room's name.
    pub room: String,
    /// Whose it is.
    pub identity: String,
    /// The name to show.
    #[serde(default)]
    pub name: String,
    /// Raised or lowered.
    pub raised: bool,
    /// When (milliseconds since 1970, by the clock of the listener's node): of two about one person
    /// the later one counts.
    pub sequence: u64,
}

/// Somebody, a token or an address that a room takes no longer; one of `identity`, `jti` and
/// `address` is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedEntry {
    /// An identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Tokens of the identity that were minted at this time or before (seconds since 1970, UTC);
    /// absent: all of them, the identity is banned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// Only tokens of the stage: the bearer may listen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stage: bool,
    /// Whether the address at which the identity is met is banned too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub with_address: bool,
    /// A token's own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// An IPv4 address, or the first address of an IPv6 /64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<std::net::IpAddr>,
}

/// Entries of a room's list of those whom it takes no longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedPage {
    /// The room's name.
    pub room: String,
    /// Rises when an entry is taken off; the list begins anew.
    pub generation: u64,
    /// So many entries of the generation come before these.
    pub since: u32,
    /// At most [`limits::REVOKED_PER_PAGE`].
    #[serde(default)]
    pub entries: Vec<RevokedEntry>,
}

/// Somebody who may come on stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// Who.
    pub identity: String,
    /// As what.
    pub role: Role,
}

/// Everyone who may come on stage; it replaces the former list if its version is higher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitations {
    /// The room's name.
    pub room: String,
    /// Rises with every change.
    pub version: u64,
    /// At most [`limits::INVITATIONS`].
    #[serde(default)]
    pub invited: Vec<Invitation>,
}

/// A raised hand that a host has lowered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoweredHand {
    /// Whose it was.
    pub identity: String,
    /// The number under which it was raised last ([`Hand::sequence`]): one that is raised later stays.
    pub sequence: u64,
}

/// The hands of a room that a host has lowered last; it replaces the former list if its version is
/// higher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoweredHands {
    /// The room's name.
    pub room: String,
    /// Rises with every change.
    pub version: u64,
    /// At most [`limits::LOWERED_HANDS`], the latest last.
    #[serde(default)]
    pub hands: Vec<LoweredHand>,
}

/// What listeners hear, as counts in fixed buckets: as large for one as for a million.
///
/// Bucket i of `lost`, `late` and `concealed` holds those at most at [`limits::HEARD_PERMILLE`]\[i\],
/// of `delay` those at most at [`limits::HEARD_DELAY_MS`]\[i\]; the last one holds the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Experience {
    /// Listeners whose last report is in here.
    pub reporting: u32,
    /// Of them, those who hear well ([`limits::HEARS_WELL_PERMILLE`]).
    pub well: u32,
    /// Ticks that never came.
    pub lost: [u32; limits::HEARD_BUCKETS],
    /// Ticks that came too late.
    pub late: [u32; limits::HEARD_BUCKETS],
    /// Time that was made up.
    pub concealed: [u32; limits::HEARD_BUCKETS],
    /// Delay.
    pub delay: [u32; limits::HEARD_BUCKETS],
    /// "I hear a glitch" within the last second.
    #[serde(default)]
    pub glitches: u32,
}

/// The bucket of each figure of one report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    places: [u8; 4],
    well: bool,
}

impl Heard {
    /// The buckets of a report; a report about no tick says nothing.
    #[must_use]
    pub fn of(report: &Report) -> Option<Self> {
        if report.ticks == 0 {
            return None;
        }
        let share = |part: u32| {
            let share = u64::from(part) * 1_000 / u64::from(report.ticks);
            u32::try_from(share).unwrap_or(u32::MAX)
        };
        // A tick stands for 20 ms or more; a cadence of 60 ms makes the share a third.
        let tick_ms = u32::try_from(limits::TICK.as_millis()).unwrap_or(20);
        let figures =
            [share(report.lost), share(report.late), share(report.concealed_ms / tick_ms)];
        let place = |bounds: &[u32], figure| {
            let at = bounds.partition_point(|&bound| bound < figure);
            u8::try_from(at).expect("there are few buckets")
        };
        let [lost, late, concealed] = figures.map(|f| place(&limits::HEARD_PERMILLE, f));
        let delay = place(&limits::HEARD_DELAY_MS, report.delay_ms);
        Some(Self {
            places: [lost, late, concealed, delay],
            well: figures[2] <= limits::HEARS_WELL_PERMILLE,
        })
    }
}

impl Experience {
    /// Counts a listener's last report.
    pub fn add(&mut self, heard: Heard) {
        self.reporting = self.reporting.saturating_add(1);
        self.well = self.well.saturating_add(heard.well.into());
        for (counts, place) in self.histograms().into_iter().zip(heard.places) {
            if let Some(count) = counts.get_mut(usize::from(place)) {
                *count = count.saturating_add(1);
            }
        }
    }

    /// Takes a listener's former report back.
    pub fn remove(&mut self, heard: Heard) {
        self.reporting = self.reporting.saturating_sub(1);
        self.well = self.well.saturating_sub(heard.well.into());
        for (counts, place) in self.histograms().into_iter().zip(heard.places) {
            if let Some(count) = counts.get_mut(usize::from(place)) {
                *count = count.saturating_sub(1);
            }
        }
    }

    fn histograms(&mut self) -> [&mut [u32; limits::HEARD_BUCKETS]; 4] {
        [&mut self.lost, &mut self.late, &mut self.concealed, &mut self.delay]
    }

    fn merge(&mut self, mut other: Self) {
        self.reporting = self.reporting.saturating_add(other.reporting);
        self.well = self.well.saturating_add(other.well);
        self.glitches = self.glitches.saturating_add(other.glitches);
        for (own, others) in self.histograms().into_iter().zip(other.histograms()) {
            own.iter_mut().zip(others).for_each(|(own, other)| *own = own.saturating_add(*other));
        }
    }

    /// Cuts every count to what so many listeners can have said.
    fn clip(&mut self, listeners: u32) {
        self.reporting = self.reporting.min(listeners);
        self.well = self.well.min(self.reporting);
        self.glitches = self.glitches.min(listeners);
        let most = self.reporting;
        for counts in self.histograms() {
            let mut left = most;
            for count in counts {
                *count = (*count).min(left);
                left -= *count;
            }
        }
    }
}

/// What is summed up of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Listeners.
    pub listeners: u32,
    /// Reactions of the last second, by kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reactions: BTreeMap<String, u32>,
    /// What they hear.
    #[serde(default)]
    pub experience: Experience,
}

impl Tally {
    /// Counts a reaction; false for a kind that there is not.
    pub fn react(&mut self, kind: &str, count: u32) -> bool {
        let known = limits::REACTIONS.contains(&kind);
        if known && count > 0 {
            let sum = self.reactions.entry(kind.to_owned()).or_default();
            *sum = sum.saturating_add(count);
        }
        known
    }

    /// Adds another node's.
    pub fn merge(&mut self, other: &Self) {
        self.listeners = self.listeners.saturating_add(other.listeners);
        for (kind, &count) in &other.reactions {
            self.react(kind, count);
        }
        self.experience.merge(other.experience);
    }

    /// Cuts what a child says to what its listeners can have done: nobody is counted who was not
    /// admitted.
    pub fn clip(&mut self) {
        let listeners = self.listeners;
        self.experience.clip(listeners);
        let most = listeners.saturating_mul(limits::REACTIONS_PER_S);
        self.reactions.retain(|kind, count| {
            *count = (*count).min(most);
            *count > 0 && limits::REACTIONS.contains(&kind.as_str())
        });
    }
}

/// One room in a relay's report of load.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomSum {
    /// The room's number.
    pub room: u32,
    /// Listeners on the relay itself.
    pub listeners: u32,
    /// Of them, those who report.
    #[serde(default)]
    pub reporting: u32,
    /// Of them, those who hear well.
    #[serde(default)]
    pub well: u32,
    /// Times that they said "I hear a glitch", since the relay began with the room.
    #[serde(default)]
    pub glitches: u32,
    /// The relay and everything below it through primary parents.
    pub below: Tally,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lost: u32, concealed_ms: u32, delay_ms: u32) -> Report {
        Report { ticks: 100, lost, concealed_ms, delay_ms, ..Report::default() }
    }

    #[test]
    fn reports_fall_into_their_buckets_and_can_be_taken_back() {
        let mut sum = Experience::default();
        let good = Heard::of(&report(0, 0, 80)).unwrap();
        let bad = Heard::of(&report(50, 1_000, 5_000)).unwrap();
        sum.add(good);
        sum.add(bad);
        assert_eq!((sum.reporting, sum.well), (2, 1));
        assert_eq!((sum.lost[0], sum.delay[0], sum.delay[limits::HEARD_BUCKETS - 1]), (1, 1, 1));
        sum.remove(bad);
        sum.remove(good);
        assert_eq!(sum, Experience::default());
        assert_eq!(Heard::of(&Report::default()), None);
        let hostile = Report { ticks: 1, lost: u32::MAX, late: u32::MAX, ..report(0, u32::MAX, 0) };
        assert!(Heard::of(&hostile).is_some());
    }

    #[test]
    fn a_child_counts_for_no_more_than_it_has() {
        let mut lie = Tally { listeners: 2, ..Tally::default() };
        lie.experience = Experience {
            reporting: 1_000_000,
            well: 1_000_000,
            lost: [9; limits::HEARD_BUCKETS],
            glitches: 77,
            ..Experience::default()
        };
        lie.reactions.insert("clap".to_owned(), 1_000_000);
        lie.reactions.insert("spam".to_owned(), 1);
        lie.clip();
        assert_eq!(
            (lie.experience.reporting, lie.experience.well, lie.experience.glitches),
            (2, 2, 2)
        );
        assert_eq!(lie.experience.lost.iter().sum::<u32>(), 2);
        assert_eq!(lie.reactions.get("clap"), Some(&(2 * limits::REACTIONS_PER_S)));
        assert!(!lie.reactions.contains_key("spam"));
        let mut most = Tally { listeners: u32::MAX, ..Tally::default() };
        most.merge(&lie);
        assert_eq!(most.listeners, u32::MAX, "sums do not overflow");
    }
}
