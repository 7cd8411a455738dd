//! One listener of a crowd: its reception, what came and when.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use stentor_proto::listen::{HomeId, Listen, ListenSettings};
use stentor_proto::wire::{ControlDecoder, ServerMessage};
use stentor_proto::{Time, limits};
use stentor_relay::quic::ConnId;

use super::copies::Copies;

/// One listener.
pub(super) struct Member {
    pub(super) started: Instant,
    pub(super) listen: Listen,
    pub(super) homes: Vec<Home>,
    /// Sessions that it opened.
    pub(super) sessions: u64,
    pub(super) joined: Option<Duration>,
    pub(super) first_tick: Option<Duration>,
    /// When it is looked at again, as its desk has noted.
    pub(super) timer: Option<Time>,
    /// Every tick that came.
    pub(super) ticks: Ticks,
    /// Those that came by their playout.
    pub(super) in_time: Ticks,
    /// Ticks that came with other bytes than to the first who had them.
    pub(super) altered: u64,
    clock: PlayoutClock,
    /// When the last new tick came, and the longest time between two of them since gaps are watched.
    last_new: Option<Time>,
    longest_gap: Duration,
}

/// One session of a listener.
pub(super) struct Home {
    pub(super) id: HomeId,
    pub(super) conn: ConnId,
    /// Said when the connection is there.
    hello: Option<Bytes>,
    decoder: ControlDecoder,
}

/// What is noted of datagrams beside what each listener has.
pub(super) struct Watch<'a> {
    pub(super) copies: Option<&'a mut Copies>,
    pub(super) delays: Option<&'a mut Histogram<u64>>,
}

/// What a datagram brought.
pub(super) struct Brought {
    /// The newest of the new ticks, if there is one.
    pub(super) newest: Option<u32>,
    /// A new tick that came live, as opposed to a replay.
    pub(super) live: Option<u32>,
}

impl Home {
    pub(super) fn new(id: HomeId, conn: ConnId, hello: Bytes) -> Self {
        Self { id, conn, hello: Some(hello), decoder: ControlDecoder::default() }
    }
}

impl Member {
    pub(super) fn new(started: Instant, now: Time, settings: ListenSettings) -> Self {
        let mut listen = Listen::new(settings, now);
        listen.set_playout(limits::PLAYOUT);
        Self {
            started,
            listen,
            homes: Vec::new(),
            sessions: 0,
            joined: None,
            first_tick: None,
            timer: None,
            ticks: Ticks::default(),
            in_time: Ticks::default(),
            altered: 0,
            clock: PlayoutClock::default(),
            last_new: None,
            longest_gap: Duration::ZERO,
        }
    }

    /// What is said on a session whose connection is there.
    pub(super) fn hello(&mut self, home: HomeId) -> Option<Bytes> {
        self.homes.iter_mut().find(|entry| entry.id == home)?.hello.take()
    }

    /// The control messages that these bytes of a session complete.
    pub(super) fn messages(&mut self, home: HomeId, bytes: &[u8]) -> Vec<ServerMessage> {
        let Some(home) = self.homes.iter_mut().find(|entry| entry.id == home) else {
            return Vec::new();
        };
        home.decoder.push(bytes);
        std::iter::from_fn(|| home.decoder.next_message().ok().flatten()).collect()
    }

    /// Takes a datagram that the kernel received at `received_ns` of its realtime clock.
    pub(super) fn datagram(
        &mut self,
        now: Time,
        home: HomeId,
        bytes: Bytes,
        received_ns: u64,
        mut watch: Watch<'_>,
    ) -> Brought {
        let mut brought = Brought { newest: None, live: None };
        let (ticks, in_time, clock) = (&mut self.ticks, &mut self.in_time, &mut self.clock);
        let altered = &mut self.altered;
        self.listen.datagram(now, home, bytes, |record, replay| {
            brought.newest = brought.newest.max(Some(record.number));
            ticks.mark(record.number);
            if let Some(copies) = &mut watch.copies {
                *altered += u64::from(!copies.alike(record.number, &record.bytes));
            }
            if clock.in_time(received_ns / 1_000, record.clock_us) {
                in_time.mark(record.number);
            }
            if !replay {
                brought.live = Some(record.number);
                if let Some(delays) = &mut watch.delays {
                    // One machine, one clock: what it was set back by between the two counts as no delay.
                    delays.saturating_record((received_ns / 1_000).saturating_sub(record.clock_us));
                }
            }
        });
        if brought.newest.is_some() {
            if let Some(last) = self.last_new {
                self.longest_gap = self.longest_gap.max(now.since(last));
            }
            self.last_new = Some(now);
        }
        brought
    }

    /// When the last new tick came.
    pub(super) const fn last_new(&self) -> Option<Time> {
        self.last_new
    }

    /// How often it went to another relay.
    pub(super) const fn moves(&self) -> u64 {
        let stats = self.listen.stats();
        stats.moved_silent + stats.moved_lost + stats.moved_asked
    }

    /// Beacons that said that the node's own feeds are silent.
    pub(super) fn starved(&self) -> u64 {
        self.listen.reception().starved
    }

    /// The longest time without a new tick, the present one included.
    pub(super) fn gap(&self, now: Time) -> Duration {
        self.longest_gap.max(self.last_new.map_or(Duration::ZERO, |last| now.since(last)))
    }

    /// Notes gaps from here on.
    pub(super) fn watch_gaps(&mut self, now: Time) {
        self.longest_gap = Duration::ZERO;
        self.last_new = self.last_new.map(|_| now);
    }
}

/// When ticks are played: the soonest arrival sets the clock, the playout delay follows.
#[derive(Clone, Copy, Debug, Default)]
struct PlayoutClock {
    /// The least that a tick took from the origin's clock to this one (µs).
    least: Option<i64>,
}

impl PlayoutClock {
    /// Whether a tick that the origin closed at `clock_us` and that arrived at `received_us` is there
    /// by its playout.
    fn in_time(&mut self, received_us: u64, clock_us: u64) -> bool {
        let took = received_us.cast_signed().wrapping_sub(clock_us.cast_signed());
        let least = self.least.map_or(took, |least| least.min(took));
        self.least = Some(least);
        took - least <= i64::try_from(limits::PLAYOUT.as_micros()).unwrap_or(i64::MAX)
    }
}

/// A set of tick numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ticks {
    /// The number of the first bit: a little before the first tick that came.
    base: Option<u32>,
    words: Vec<u64>,
}

/// Ticks of a replay may be older than the first one that came.
const BEFORE_FIRST: u32 = 128;
/// An hour of ticks: what is further ahead is not this run's.
const WORDS: usize = limits::FRAMES_PER_S as usize * 3_600 / 64;

impl Ticks {
    pub(crate) fn mark(&mut self, number: u32) {
        let base = *self.base.get_or_insert(number.saturating_sub(BEFORE_FIRST));
        let Some(bit) = number.checked_sub(base) else { return };
        let (word, bit) = (bit as usize / 64, bit % 64);
        if word >= WORDS {
            return;
        }
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << bit;
    }

    pub(crate) fn has(&self, number: u32) -> bool {
        let Some(bit) = self.base.and_then(|base| number.checked_sub(base)) else { return false };
        self.words.get(bit as usize / 64).is_some_and(|word| word & (1 << (bit % 64)) != 0)
    }

    /// How many of the numbers above `after`, up to `last`, are in it.
    pub(super) fn within(&self, after: u32, last: u32) -> u64 {
        (after.saturating_add(1)..=last).filter(|&number| self.has(number)).count() as u64
    }

    /// The first, the last, and how many there are.
    pub(crate) fn span(&self) -> (u32, u32, u64) {
        let base = self.base.unwrap_or_default();
        let words = || self.words.iter().enumerate().filter(|(_, word)| **word != 0);
        let first = words().next().map(|(at, word)| at as u32 * 64 + word.trailing_zeros());
        let last = words().next_back().map(|(at, word)| at as u32 * 64 + 63 - word.leading_zeros());
        let count = self.words.iter().map(|word| u64::from(word.count_ones())).sum();
        (first.map_or(0, |bit| base + bit), last.map_or(0, |bit| base + bit), count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_counted_once_however_often_it_comes() {
        let mut ticks = Ticks::default();
        assert_eq!((ticks.has(0), ticks.span()), (false, (0, 0, 0)));
        for number in [205, 205, 400, 60, 150] {
            ticks.mark(number);
        }
        let all = (0..500).filter(|&n| ticks.has(n)).collect::<Vec<u32>>();
        assert_eq!(all, [150, 205, 400]);
        assert_eq!(ticks.span(), (150, 400, 3));
        assert_eq!(ticks.within(150, 400), 2);
    }

    #[test]
    fn a_tick_is_in_time_within_the_playout_delay_of_the_soonest() {
        let mut clock = PlayoutClock::default();
        assert!(clock.in_time(1_030_000, 1_000_000));
        assert!(clock.in_time(1_045_000, 1_020_000), "it took 25 ms, the least from here on");
        assert!(clock.in_time(1_165_000, 1_040_000), "125 ms are just in time");
        assert!(!clock.in_time(1_185_001, 1_060_000));
        // Clocks may differ by anything.
        assert!(PlayoutClock::default().in_time(5, u64::MAX));
    }
}
