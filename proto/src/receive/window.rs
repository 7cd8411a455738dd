//! The receive window: the merge of one or two feeds of one room and epoch.
//!
//! A tick is passed on the first time it arrives, in whatever order; its second copy is dropped
//! by key. This is the idea of SMPTE ST 2022-7 (seamless protection switching) in software. A gap
//! becomes a request only when every live feed has passed it, or the skew between the feeds has
//! gone by; a tick that the parent itself still waits for is not asked for.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

use crate::wire::{Beacon, Record, RepairRequest, TickKey};
use crate::{Time, limits};

/// One of a window's feeds; the lowest is asked for repair first.
pub type FeedIx = usize;

const FEEDS: usize = limits::FEEDS;
const SPAN: usize = limits::WINDOW_TICKS as usize;

/// What became of an arrived tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The first copy: pass it on.
    New,
    /// A copy of one that is here.
    Duplicate,
    /// Older than the window.
    Late,
    /// Further ahead than an honest sender can be: refused.
    TooFarAhead,
    /// Differs from the copy that is here, under the same key: an alarm, not a duplicate.
    Conflict,
}

/// What a window counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowStats {
    /// Ticks passed on.
    pub received: u64,
    /// Second copies.
    pub duplicate: u64,
    /// Ticks older than the window, or that came after they were given up.
    pub late: u64,
    /// Refused: further ahead than an honest sender can be.
    pub too_far_ahead: u64,
    /// Two different copies of one key.
    pub conflict: u64,
    /// Ticks that were missing and came after a request.
    pub repaired: u64,
    /// Ticks asked for.
    pub requested: u64,
    /// Ticks given up.
    pub lost: u64,
}

/// The digests of the copies that came first, and which of them are here. Not the copies themselves:
/// each would keep the whole packet that it came in. What is neither here nor missing is not expected:
/// before the first tick that the window saw, or given up.
#[derive(Clone, Debug)]
struct Slots {
    have: [u64; SPAN / 64],
    digests: Box<[u64]>,
}

impl Slots {
    fn new() -> Self {
        Self { have: [0; SPAN / 64], digests: vec![0; SPAN].into() }
    }

    fn digest(&self, number: u32) -> Option<u64> {
        let at = number as usize % SPAN;
        (self.have[at / 64] & (1 << (at % 64)) != 0).then(|| self.digests[at])
    }

    fn put(&mut self, number: u32, digest: u64) {
        let at = number as usize % SPAN;
        self.have[at / 64] |= 1 << (at % 64);
        self.digests[at] = digest;
    }

    const fn clear(&mut self, number: u32) {
        let at = number as usize % SPAN;
        self.have[at / 64] &= !(1 << (at % 64));
    }
}

#[derive(Clone, Copy, Debug)]
struct Missing {
    since: Time,
    asked: u8,
    /// When the last request went out.
    asked_at: Time,
    /// When the next request may go out, once the first is due.
    next: Time,
    last_feed: u8,
}

#[derive(Clone, Copy, Debug, Default)]
struct Feed {
    live: bool,
    silent: bool,
    newest: u32,
    /// The tick that bit 0 of `pending` speaks of, plus one.
    pending_from: u32,
    pending: u32,
}

impl Feed {
    /// Whether the feed is waited for and asked.
    const fn counts(&self) -> bool {
        self.live && !self.silent
    }

    fn waits_for(&self, number: u32) -> bool {
        let behind = self.pending_from.wrapping_sub(number).wrapping_sub(1);
        number < self.pending_from && behind < 32 && self.pending & (1 << behind) != 0
    }
}

/// The merge of a room's feeds in one epoch: two in steady state, more while parents change.
///
/// Drive it so: [`Window::arrive`] for every tick and [`Window::beacon`] for every beacon; then
/// [`Window::poll_request`] until `None`; call that again at [`Window::poll_timeout`].
#[derive(Clone, Debug)]
pub struct Window {
    room: u32,
    epoch: u32,
    /// 0 before the first tick.
    newest: u32,
    last_arrival: Time,
    /// What the parent said was the newest when the room came up; 0 if it had none.
    seed: u32,
    /// What was left of the credit when the newest last advanced.
    ahead: u64,
    advanced_at: Time,
    slots: Slots,
    /// What is waited for: at most the window's span.
    missing: BTreeMap<u32, Missing>,
    feeds: [Feed; FEEDS],
    /// How far one feed runs behind the other: a peak that decays.
    skew: Duration,
    /// When a new tick was first seen, to measure the skew by its second copy.
    first_seen: [(u32, Time, FeedIx); 4],
    /// A missing tick is played when it is this old: an answer is of use before.
    playout: Duration,
    /// How long a request takes to be answered, smoothed; `None` before the first answer.
    answer: Option<Duration>,
    stats: WindowStats,
}

impl Window {
    /// A window for one room and epoch, with no feed live.
    #[must_use]
    pub fn new(room: u32, epoch: u32) -> Self {
        Self {
            room,
            epoch,
            newest: 0,
            last_arrival: Time::ZERO,
            seed: 0,
            ahead: u64::from(limits::TICKS_AHEAD),
            advanced_at: Time::ZERO,
            slots: Slots::new(),
            missing: BTreeMap::new(),
            feeds: [Feed::default(); FEEDS],
            skew: Duration::ZERO,
            first_seen: [(0, Time::ZERO, 0); 4],
            playout: limits::REPAIR_DEADLINE,
            answer: None,
            stats: WindowStats::default(),
        }
    }

    /// The same, for a room whose newest tick is said to be `newest`: the first tick to arrive is
    /// held to it as later ones are to each other. `now` starts the time that passes meanwhile.
    #[must_use]
    pub fn seeded(room: u32, epoch: u32, newest: u32, now: Time) -> Self {
        Self { seed: newest, advanced_at: now, ..Self::new(room, epoch) }
    }

    /// The epoch that the window is of.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The newest tick seen or announced; number 0 before the first.
    #[must_use]
    pub const fn newest(&self) -> u32 {
        self.newest
    }

    /// The last tick before the first gap; 0 before the first.
    #[must_use]
    pub fn contiguous(&self) -> u32 {
        self.missing.first_key_value().map_or(self.newest, |(missing, _)| missing - 1)
    }

    /// What was counted.
    #[must_use]
    pub const fn stats(&self) -> &WindowStats {
        &self.stats
    }

    /// When the last tick or beacon came, from any feed.
    #[must_use]
    pub const fn last_arrival(&self) -> Time {
        self.last_arrival
    }

    /// Says whether a feed is connected. A feed that is not is neither waited for nor asked.
    pub fn set_live(&mut self, feed: FeedIx, live: bool) {
        self.feeds[feed] = Feed { live, ..Feed::default() };
    }

    /// Notes that a live feed brings nothing while another one does: it is neither waited for nor
    /// asked until it is heard again.
    pub fn set_silent(&mut self, feed: FeedIx) {
        self.feeds[feed].silent = true;
    }

    /// Whether a feed is connected and not silent.
    #[must_use]
    pub const fn delivers(&self, feed: FeedIx) -> bool {
        self.feeds[feed].counts()
    }

    /// Says how old a tick is when it is played: where answers take longer than that, none is asked
    /// for. A second request is made all the same: a feed that broke off is made good in full.
    pub fn set_playout(&mut self, playout: Duration) {
        self.playout = playout.min(limits::REPAIR_DEADLINE);
    }

    /// How old a tick is when it is played.
    #[must_use]
    pub const fn playout(&self) -> Duration {
        self.playout
    }

    /// Takes over how long answers take, and how far feeds run apart, from a window that is fed over
    /// the same path.
    pub fn share_path(&mut self, other: &Self) {
        (self.answer, self.skew) = (other.answer, other.skew);
    }

    /// Notes that a tick comes in an answer to a request or in a replay, before it is given to
    /// [`Self::arrive`]: how long answers take decides when it is worth asking again.
    pub fn answered(&mut self, now: Time, number: u32) {
        let asked = self.missing.get(&number).filter(|missing| missing.asked == 1);
        let Some(took) = asked.map(|missing| now.since(missing.asked_at)) else { return };
        self.answer = Some(match self.answer {
            None => took,
            Some(before) => before - before / 4 + took / 4,
        });
    }

    /// Takes the bitmap of a datagram's header: what its sender itself still waits for.
    pub fn pending(&mut self, feed: FeedIx, current: u32, pending: u32) {
        let feed = &mut self.feeds[feed];
        if current >= feed.pending_from {
            feed.pending_from = current;
            feed.pending = pending;
        }
    }

    /// Takes a tick from a feed and says what becomes of it.
    pub fn arrive(&mut self, now: Time, feed: FeedIx, record: &Record) -> Arrival {
        let number = record.number;
        if !self.plausible(now, number) {
            self.stats.too_far_ahead += 1;
            return Arrival::TooFarAhead;
        }
        self.heard(now, feed, number);
        if self.newest.saturating_sub(number) >= limits::WINDOW_TICKS {
            self.stats.late += 1;
            return Arrival::Late;
        }
        self.advance(now, number);
        let digest = digest(&record.bytes);
        match self.slots.digest(number) {
            Some(first) if first == digest => {
                self.stats.duplicate += 1;
                self.measure_skew(now, feed, number);
                Arrival::Duplicate
            }
            Some(_) => {
                self.stats.conflict += 1;
                Arrival::Conflict
            }
            None => {
                let missing = self.missing.remove(&number);
                self.stats.repaired += u64::from(missing.is_some_and(|m| m.asked > 0));
                self.slots.put(number, digest);
                self.stats.received += 1;
                self.first_seen[(number % 4) as usize] = (number, now, feed);
                Arrival::New
            }
        }
    }

    /// Takes a beacon from a feed: it may announce ticks that were lost at the end of speech.
    pub fn beacon(&mut self, now: Time, feed: FeedIx, beacon: &Beacon) {
        let number = beacon.newest.number;
        if !self.plausible(now, number) {
            self.stats.too_far_ahead += 1;
            return;
        }
        self.heard(now, feed, number);
        if number == 0 {
            return;
        }
        self.pending(feed, number, beacon.pending);
        // Before the first tick a beacon sets no expectation: the window starts with a tick.
        if self.newest != 0 && number > self.newest {
            self.advance(now, number);
            self.expect(now, number);
        }
    }

    /// The ticks before `number` that are still expected here, as a bitmap for the children:
    /// bit i is tick `number − 1 − i`.
    #[must_use]
    pub fn pending_before(&self, number: u32) -> u32 {
        let from = number.saturating_sub(32);
        self.missing
            .range(from..number)
            .fold(0, |bits, (missing, _)| bits | 1 << (number - 1 - missing))
    }

    /// The next request to send, with the feed to send it to.
    pub fn poll_request(&mut self, now: Time) -> Option<(FeedIx, RepairRequest)> {
        self.give_up(now);
        let (feed, first) = self
            .missing
            .keys()
            .find_map(|&number| self.ask_whom(now, number).map(|feed| (feed, number)))?;
        let mut mask = 0;
        for offset in 0..32 {
            let Some(number) = first.checked_add(offset) else {
                break;
            };
            if self.ask_whom(now, number) == Some(feed) {
                mask |= 1 << offset;
                self.asked(now, number, feed);
            }
        }
        let first = TickKey { room: self.room, epoch: self.epoch, number: first };
        Some((feed, RepairRequest { first, mask }))
    }

    /// When [`Self::poll_request`] is to be called again, if nothing arrives before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.missing.keys().filter_map(|&number| self.due(number)).min()
    }

    /// Whether `number` may come next. Numbers advance at the cadence of a room and no faster: what
    /// a sender runs ahead of it is taken from a credit that refills with time, so that no parent
    /// can walk the window away from the other's ticks, step by step.
    fn plausible(&self, now: Time, number: u32) -> bool {
        let from = if self.newest == 0 { self.seed } else { self.newest };
        from == 0 || u64::from(number.saturating_sub(from)) <= self.credit(now)
    }

    /// Ticks that the newest may advance by at this moment.
    fn credit(&self, now: Time) -> u64 {
        let elapsed = now.since(self.advanced_at).as_micros() / limits::CLOSE_APART.as_micros();
        self.ahead.saturating_add(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }

    fn heard(&mut self, now: Time, feed: FeedIx, number: u32) {
        self.last_arrival = self.last_arrival.max(now);
        let feed = &mut self.feeds[feed];
        feed.silent = false;
        feed.newest = feed.newest.max(number);
    }

    /// Moves the window so that `number` lies in it; what lies between is missing.
    fn advance(&mut self, now: Time, number: u32) {
        if number <= self.newest {
            return;
        }
        let from = if self.newest == 0 { self.seed.max(1) } else { self.newest };
        let used = u64::from(number.saturating_sub(from));
        let most = u64::from(limits::TICKS_AHEAD);
        self.ahead =
            if self.newest == 0 { most } else { self.credit(now).saturating_sub(used).min(most) };
        self.advanced_at = now;
        if self.newest == 0 {
            self.newest = number;
            return;
        }
        let lowest = number.saturating_sub(limits::WINDOW_TICKS - 1);
        // What the window leaves behind unseen is lost; so is what it jumps over.
        let jumped = lowest.saturating_sub(self.newest + 1);
        self.stats.lost += u64::from(jumped);
        while let Some(first) = self.missing.first_entry().filter(|first| *first.key() < lowest) {
            first.remove();
            self.stats.lost += 1;
        }
        for n in (self.newest + 1).max(lowest)..number {
            self.expect(now, n);
        }
        self.slots.clear(number);
        self.newest = number;
    }

    fn expect(&mut self, now: Time, number: u32) {
        let missing = Missing { since: now, asked: 0, asked_at: now, next: now, last_feed: 0 };
        self.slots.clear(number);
        self.missing.insert(number, missing);
    }

    /// How long a gap waits for a slower feed.
    fn patience(&self) -> Duration {
        (self.skew + Duration::from_millis(5)).max(limits::REPAIR_SKEW)
    }

    /// When something is next to be done about a missing tick.
    fn due(&self, number: u32) -> Option<Time> {
        let missing = self.missing.get(&number)?;
        let lost = missing.since + limits::REPAIR_DEADLINE;
        let nobody = !self.feeds.iter().any(Feed::counts);
        let ask = if missing.asked >= limits::REPAIR_TRIES || nobody {
            lost
        } else if missing.asked > 0 {
            missing.next
        } else if self.passed_by_all(number) {
            missing.since
        } else {
            missing.since + self.patience()
        };
        // A tick that every parent waits for itself stays unasked until the deadline; so does one
        // whose answer would come too late.
        let silent = self.feeds.iter().all(|f| !f.counts() || f.waits_for(number));
        let fits = |took| ask + took <= missing.since + self.playout;
        let late = missing.asked == 0 && self.answer.is_some_and(|took| !fits(took));
        Some(if silent || late { lost } else { ask })
    }

    fn passed_by_all(&self, number: u32) -> bool {
        self.feeds.iter().all(|feed| !feed.counts() || feed.newest > number)
    }

    /// The feed to ask for a tick at this time, if it is to be asked for.
    fn ask_whom(&self, now: Time, number: u32) -> Option<FeedIx> {
        let missing = self.missing.get(&number)?;
        let lost = missing.since + limits::REPAIR_DEADLINE;
        let due = self.due(number)?;
        if missing.asked >= limits::REPAIR_TRIES || due > now || due >= lost {
            return None;
        }
        let able = |ix: &FeedIx| self.feeds[*ix].counts() && !self.feeds[*ix].waits_for(number);
        let mut able = (0..FEEDS).filter(able);
        let first = able.next();
        // The second request goes to another parent where there is one.
        match first {
            Some(feed) if missing.asked > 0 && feed == usize::from(missing.last_feed) => {
                able.next().or(first)
            }
            other => other,
        }
    }

    fn asked(&mut self, now: Time, number: u32, feed: FeedIx) {
        let patience = self.patience();
        // A third of the deadline is a round trip of most paths, until one has been measured.
        let answer = self.answer.map_or(limits::REPAIR_DEADLINE / 3, |took| took + took / 4);
        if let Some(missing) = self.missing.get_mut(&number) {
            missing.asked += 1;
            missing.last_feed = feed as u8;
            missing.asked_at = now;
            missing.next = now + (patience + answer);
            self.stats.requested += 1;
        }
    }

    fn give_up(&mut self, now: Time) {
        let over = |missing: &Missing| now >= missing.since + limits::REPAIR_DEADLINE;
        if !self.missing.values().any(over) {
            return;
        }
        let (stats, answer) = (&mut self.stats, &mut self.answer);
        self.missing.retain(|_, missing| {
            if !over(missing) {
                return true;
            }
            // What was not asked for because answers take too long lets that be tried again.
            if let Some(answer) = answer.as_mut().filter(|_| missing.asked == 0) {
                *answer -= *answer / 16;
            }
            stats.lost += 1;
            false
        });
    }

    fn measure_skew(&mut self, now: Time, feed: FeedIx, number: u32) {
        let (seen, at, first) = self.first_seen[(number % 4) as usize];
        if seen != number || first == feed {
            return;
        }
        let sample = now.since(at).min(limits::REPAIR_DEADLINE);
        // A peak that forgets by 1/256 a tick stays near the p99 of the last seconds.
        self.skew =
            if sample > self.skew { sample } else { self.skew - (self.skew - sample) / 256 };
    }
}

/// Tells two copies of a tick apart. A forger who finds two records of one digest gains nothing:
/// the first copy is passed on either way; signatures, not digests, stop forgery.
fn digest(record: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(record);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{TickFlags, record_bytes};

    fn record(number: u32) -> Record {
        let mut bytes = record_bytes(number, 0, 20, TickFlags(0), &number.to_be_bytes());
        Record::parse(&mut bytes).unwrap()
    }

    fn window() -> Window {
        let mut window = Window::new(1, 1);
        window.set_live(0, true);
        window.set_live(1, true);
        window
    }

    fn ms(millis: u64) -> Time {
        Time::from_millis(1_000 + millis)
    }

    #[test]
    fn the_first_copy_passes_and_the_second_does_not() {
        let mut w = window();
        assert_eq!(w.arrive(ms(0), 0, &record(7)), Arrival::New);
        assert_eq!(w.arrive(ms(1), 1, &record(7)), Arrival::Duplicate);
        assert_eq!(w.arrive(ms(20), 1, &record(8)), Arrival::New);
        assert_eq!(w.arrive(ms(21), 0, &record(8)), Arrival::Duplicate);
        assert_eq!(w.poll_request(ms(500)), None);
        assert_eq!(w.stats().lost, 0);
    }

    #[test]
    fn two_different_copies_are_an_alarm() {
        let mut w = window();
        w.arrive(ms(0), 0, &record(7));
        let mut forged = record_bytes(7, 1, 20, TickFlags(0), b"forged");
        let forged = Record::parse(&mut forged).unwrap();
        assert_eq!(w.arrive(ms(1), 1, &forged), Arrival::Conflict);
        assert_eq!(w.stats().conflict, 1);
    }

    #[test]
    fn a_gap_waits_for_the_other_feed_and_then_for_the_skew() {
        let mut w = window();
        w.arrive(ms(0), 0, &record(1));
        w.arrive(ms(0), 1, &record(1));
        w.arrive(ms(40), 0, &record(3));
        assert_eq!(w.poll_request(ms(41)), None, "the other feed may still bring it");
        assert_eq!(w.poll_timeout(), Some(ms(50)));
        let (feed, request) = w.poll_request(ms(50)).unwrap();
        assert_eq!((feed, request.first.number, request.mask), (0, 2, 1));
        // The second request goes to the other parent, and there is no third.
        let next = w.poll_timeout().unwrap();
        assert_eq!(w.poll_request(next).unwrap().0, 1);
        assert_eq!(w.poll_timeout(), Some(ms(40) + limits::REPAIR_DEADLINE));
        assert_eq!(w.arrive(ms(200), 1, &record(2)), Arrival::New);
        assert_eq!(w.stats().repaired, 1);
        assert_eq!(w.poll_timeout(), None);
    }

    #[test]
    fn a_gap_that_both_feeds_passed_is_asked_for_at_once() {
        let mut w = window();
        for feed in 0..2 {
            w.arrive(ms(0), feed, &record(1));
        }
        for feed in 0..2 {
            w.arrive(ms(40), feed, &record(3));
        }
        assert!(w.poll_request(ms(40)).is_some());
    }

    #[test]
    fn what_the_parent_waits_for_itself_is_not_asked_for() {
        let mut w = window();
        w.set_live(1, false);
        w.arrive(ms(0), 0, &record(1));
        w.arrive(ms(40), 0, &record(3));
        w.pending(0, 3, 0b1);
        assert_eq!(w.poll_request(ms(41)), None);
        assert_eq!(w.pending_before(3), 0b1, "and the children are told in turn");
        w.arrive(ms(60), 0, &record(4));
        w.pending(0, 4, 0);
        assert!(w.poll_request(ms(60)).is_some(), "the parent gave up or got it: ask");
    }

    /// A window with one feed that lost tick 2, which is missed at `ms(40)`.
    fn gap() -> Window {
        let mut w = window();
        w.set_live(1, false);
        w.arrive(ms(0), 0, &record(1));
        w.arrive(ms(40), 0, &record(3));
        w
    }

    #[test]
    fn the_second_request_follows_when_the_answer_to_the_first_is_overdue() {
        let mut w = gap();
        assert!(w.poll_request(ms(40)).is_some());
        w.answered(ms(80), 2);
        w.arrive(ms(80), 0, &record(2));
        w.arrive(ms(120), 0, &record(5));
        assert!(w.poll_request(ms(120)).is_some());
        assert_eq!(w.poll_timeout(), Some(ms(180)), "40 ms, a quarter of it, and 10 ms");
        assert!(w.poll_request(ms(179)).is_none());
        assert!(w.poll_request(ms(180)).is_some());
        assert!(w.poll_request(ms(400)).is_none(), "and there is no third");
    }

    #[test]
    fn where_answers_come_after_the_playout_nothing_is_asked_for() {
        let mut w = gap();
        assert!(w.poll_request(ms(40)).is_some());
        w.answered(ms(160), 2);
        w.arrive(ms(160), 0, &record(2));
        w.set_playout(Duration::from_millis(100));
        w.arrive(ms(180), 0, &record(5));
        assert_eq!(w.poll_timeout(), Some(ms(480)), "120 ms are too long");
        assert!(w.poll_request(ms(479)).is_none());
        assert!(w.poll_request(ms(480)).is_none());
        assert_eq!(w.stats().lost, 1);
    }

    #[test]
    fn a_path_whose_answers_come_too_late_is_tried_again_now_and_then() {
        let mut w = gap();
        w.poll_request(ms(40));
        w.answered(ms(240), 2);
        w.arrive(ms(240), 0, &record(2));
        w.set_playout(Duration::from_millis(100));
        let asked = (0..20).filter(|&n| {
            let at = ms(300 + 400 * n);
            w.arrive(at, 0, &record(5 + 2 * n as u32));
            let asked = w.poll_request(at).is_some();
            w.poll_request(at + limits::REPAIR_DEADLINE);
            asked
        });
        assert!((1..19).contains(&asked.count()));
    }

    #[test]
    fn a_beacon_reveals_the_loss_of_the_last_tick() {
        let mut w = window();
        w.arrive(ms(0), 0, &record(1));
        let newest = TickKey { room: 1, epoch: 1, number: 2 };
        w.beacon(ms(40), 0, &Beacon { newest, pending: 0, upstream_silent_ms: 0 });
        assert!(w.poll_request(ms(60)).is_some());
        assert_eq!(w.pending_before(3), 1);
    }

    #[test]
    fn a_tick_from_the_future_is_refused_unless_time_has_passed() {
        let mut w = window();
        w.arrive(ms(0), 0, &record(1));
        assert_eq!(w.arrive(ms(1), 0, &record(1 + limits::TICKS_AHEAD + 1)), Arrival::TooFarAhead);
        assert_eq!(w.arrive(ms(60_000), 0, &record(3_000)), Arrival::New);
        assert_eq!(w.stats().lost, u64::from(3_000 - limits::WINDOW_TICKS - 1));
        assert_eq!(w.arrive(ms(60_001), 0, &record(5)), Arrival::Late);
    }

    #[test]
    fn a_forged_jump_that_is_just_allowed_makes_no_honest_tick_late() {
        let mut w = window();
        w.arrive(ms(0), 0, &record(1));
        assert_eq!(w.arrive(ms(1), 1, &record(1 + limits::TICKS_AHEAD)), Arrival::New);
        assert_eq!(w.arrive(ms(2), 1, &record(1 + 2 * limits::TICKS_AHEAD)), Arrival::TooFarAhead);
        for number in 2..10 {
            let at = ms(20 * u64::from(number));
            assert_eq!(w.arrive(at, 0, &record(number)), Arrival::New, "{number}");
        }
    }

    #[test]
    fn numbers_at_the_end_of_their_range_do_not_overflow() {
        let mut w = window();
        assert_eq!(w.arrive(ms(0), 0, &record(u32::MAX - 2)), Arrival::New);
        assert_eq!(w.arrive(ms(1), 0, &record(u32::MAX)), Arrival::New);
        assert!(w.poll_request(ms(100)).is_some());
    }
}
