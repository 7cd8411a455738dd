//! What a crowd measured.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use stentor_proto::Time;

use super::Crowd;
use super::member::Member;

/// How the crowd's joins went.
#[derive(Clone, Debug, Default)]
pub struct Joins {
    /// From the first packet to the welcome, in milliseconds.
    pub join_ms: Vec<f64>,
    /// From the first packet to the first tick, in milliseconds.
    pub first_tick_ms: Vec<f64>,
}

/// What one listener of a crowd received.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Count {
    /// The first tick.
    pub first: u32,
    /// The last tick.
    pub last: u32,
    /// Distinct ticks.
    pub ticks: u64,
    /// Ticks that came with other bytes than to the first of the crowd who had them, if copies are
    /// compared.
    pub altered: u64,
    /// From the first packet to the welcome, in milliseconds.
    pub join_ms: f64,
    /// From the first packet to the first tick, in milliseconds.
    pub first_tick_ms: f64,
}

impl Crowd {
    /// Listeners inside.
    #[must_use]
    pub const fn joined(&self) -> usize {
        self.joined
    }

    /// Whether each listener heard anything at all, and how many did.
    #[must_use]
    pub fn hearing(&self) -> usize {
        self.members().filter(|m| m.first_tick.is_some()).count()
    }

    /// Datagrams that reached the crowd.
    #[must_use]
    pub const fn datagrams(&self) -> u64 {
        self.datagrams
    }

    /// The newest tick that reached anyone.
    #[must_use]
    pub const fn newest(&self) -> u32 {
        self.newest
    }

    /// Packets and bytes that the crowd's sockets received.
    #[must_use]
    pub fn input(&self) -> (u64, u64) {
        let stats = self.desks.iter().map(|desk| *desk.driver.stats());
        stats.fold((0, 0), |sum, s| (sum.0 + s.packets_in, sum.1 + s.bytes_in))
    }

    /// Distinct ticks with numbers above `after` up to `last` that reached the listeners, in sum.
    #[must_use]
    pub fn distinct(&self, after: u32, last: u32) -> u64 {
        self.members().map(|member| member.ticks.within(after, last)).sum()
    }

    /// The same, of those that arrived by their playout: 100 ms after the moment at which the
    /// listener's soonest tick would have come in their place.
    #[must_use]
    pub fn in_time(&self, after: u32, last: u32) -> u64 {
        self.members().map(|member| member.in_time.within(after, last)).sum()
    }

    /// Listeners who were told that their node itself hears nothing.
    #[must_use]
    pub fn starved(&self) -> usize {
        self.members().filter(|member| member.starved() > 0).count()
    }

    /// Listeners who heard something new within the last `time`.
    #[must_use]
    pub fn served(&self, time: Duration) -> usize {
        let now = self.time();
        let served = |member: &&Member| member.last_new().is_some_and(|at| now.since(at) <= time);
        self.members().filter(served).count()
    }

    /// How often listeners went to another relay.
    #[must_use]
    pub fn moves(&self) -> u64 {
        self.members().map(Member::moves).sum()
    }

    /// From here on, notes how long listeners are without a new tick.
    pub fn watch_gaps(&mut self) {
        let now = self.time();
        for member in self.desks.iter_mut().flat_map(|desk| desk.members.iter_mut().flatten()) {
            member.watch_gaps(now);
        }
    }

    /// The longest time that each listener was without a new tick, in milliseconds.
    #[must_use]
    pub fn gaps_ms(&self) -> Vec<f64> {
        let now = self.time();
        self.members().map(|member| member.gap(now).as_secs_f64() * 1_000.0).collect()
    }

    /// What each listener that is inside received.
    #[must_use]
    pub fn counts(&self) -> Vec<Count> {
        let ms = |time: Option<Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1_000.0);
        let count = |member: &Member| {
            let (first, last, ticks) = member.ticks.span();
            let (join_ms, first_tick_ms) = (ms(member.joined), ms(member.first_tick));
            Count { first, last, ticks, altered: member.altered, join_ms, first_tick_ms }
        };
        let inside = |member: &&Member| member.joined.is_some();
        self.members().filter(inside).map(count).collect()
    }

    /// From here on, compares every copy of a tick that reaches anyone.
    pub fn compare_copies(&mut self) {
        self.copies.get_or_insert_default();
    }

    /// The fingerprint of the first copy of each tick that was compared, by number.
    #[must_use]
    pub fn first_copies(&self) -> BTreeMap<u32, u64> {
        self.copies.as_ref().map(|copies| copies.first().clone()).unwrap_or_default()
    }

    /// From here on, notes how long each live tick takes from the origin's clock to the kernel of each
    /// listener (µs), for crowds on the origin's own machine. Returns what was noted before.
    pub fn watch_delays(&mut self) -> Option<Histogram<u64>> {
        // A minute, to a thousandth: fixed bounds that are in order.
        self.delays.replace(Histogram::new_with_bounds(1, 60_000_000, 3).ok()?)
    }

    /// From here on, notes for some listeners when the kernel received their ticks.
    pub fn note_arrivals(&mut self, note: bool) {
        self.keep_arrivals = note;
    }

    /// Ticks and the kernel's receive times (ns of the realtime clock), as noted.
    pub fn take_arrivals(&mut self) -> Vec<(u32, u64)> {
        std::mem::take(&mut self.arrivals)
    }

    /// How the joins went so far.
    #[must_use]
    pub fn joins(&self) -> Joins {
        let ms = |d: Duration| d.as_secs_f64() * 1_000.0;
        let inside = self.members().map(|m| (m.joined, m.first_tick));
        let all: Vec<_> = inside.chain(self.done.iter().copied()).collect();
        Joins {
            join_ms: all.iter().filter_map(|times| times.0).map(ms).collect(),
            first_tick_ms: all.iter().filter_map(|times| times.1).map(ms).collect(),
        }
    }

    /// Listeners that are outside for good, and why.
    #[must_use]
    pub fn lost(&self) -> &[String] {
        &self.failed
    }

    fn time(&self) -> Time {
        self.time_at(Instant::now())
    }
}
