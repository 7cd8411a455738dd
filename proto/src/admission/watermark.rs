//! The origin's part: free capacity becomes the watermark, up to which the queue is called.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::Arrivals;
use crate::wire::{Admission, DoorLoad};
use crate::{Time, limits};

/// What one relay has last reported of its door.
pub type DoorReport = DoorLoad;

/// Calls those who wait, in the order of their arrival, as fast as the tree takes them in.
///
/// Drive it so: [`Self::relay`], [`Self::left`] and [`Self::arrived`] with what reports say;
/// [`Self::handle_timeout`] at [`Self::poll_timeout`], which returns what relays are to be told.
#[derive(Debug)]
pub struct Watermark {
    arrivals: Arrivals,
    /// Who has said that people wait.
    reporters: BTreeMap<String, Reporter>,
    relays: BTreeMap<String, DoorReport>,
    /// Sums over `relays`: free places, and newcomers a second of those that have any.
    free: u64,
    joins_per_s: u64,
    watermark_ms: u64,
    /// Calls that have not been answered: when, and how many.
    allowances: VecDeque<(Time, u64)>,
    allowed: u64,
    /// Calls that the budget still has, in parts of one.
    credit: f64,
    /// Calls in a second of late.
    rate: f64,
    /// Arrivals in a second of late.
    arriving: f64,
    arrived: u64,
    stepped: Time,
    due: Option<Time>,
    /// Whether relays do not know yet what there is to know.
    news: bool,
}

/// One of those who report tickets: a first-level relay with all below it, or the origin itself.
#[derive(Debug, Default)]
struct Reporter {
    /// Tickets of the last seconds: counts still rise.
    recent: BTreeMap<u64, u64>,
    /// Of those who have waited since the queue was last empty, the ones that it reported.
    waited: u64,
}

impl Reporter {
    /// What is new in the second `unix_s`, for which `tickets` are reported.
    fn news(&mut self, unix_s: u64, tickets: u64) -> u64 {
        let newest = self.recent.last_key_value().map_or(0, |(&newest, _)| newest);
        if unix_s.saturating_add(2 * limits::ARRIVALS_S as u64) <= newest {
            return 0;
        }
        let known = self.recent.entry(unix_s).or_insert(0);
        let new = tickets.saturating_sub(*known);
        *known += new;
        while self.recent.len() > 2 * limits::ARRIVALS_S {
            self.recent.pop_first();
        }
        new
    }
}

impl Watermark {
    /// Nobody waits.
    #[must_use]
    pub fn new(now: Time) -> Self {
        Self {
            arrivals: Arrivals::default(),
            reporters: BTreeMap::new(),
            relays: BTreeMap::new(),
            free: 0,
            joins_per_s: 0,
            watermark_ms: 0,
            allowances: VecDeque::new(),
            allowed: 0,
            credit: 0.0,
            rate: 0.0,
            arriving: 0.0,
            arrived: 0,
            stepped: now,
            due: None,
            news: false,
        }
    }

    /// What a relay reports of its door replaces what it reported before.
    pub fn relay(&mut self, relay: &str, report: DoorReport) {
        let admitted = match self.relays.get(relay) {
            Some(former) => report.admitted.saturating_sub(former.admitted),
            None => 0,
        };
        self.answered(admitted);
        self.left(relay);
        self.relays.insert(relay.to_owned(), report);
        self.free += u64::from(report.free);
        self.joins_per_s += open_rate(&report);
    }

    /// A relay is gone.
    pub fn left(&mut self, relay: &str) {
        if let Some(former) = self.relays.remove(relay) {
            self.free -= u64::from(former.free);
            self.joins_per_s -= open_rate(&former);
        }
    }

    /// A reporter says that `tickets` in all have been issued to those who arrived within the second
    /// `unix_s` of the origin's clock; a higher count replaces the former one.
    pub fn arrived(&mut self, now: Time, reporter: &str, unix_s: u64, tickets: u64) {
        if !self.reporters.contains_key(reporter) {
            if self.reporters.len() >= limits::SUM_CHILDREN {
                return;
            }
            self.reporters.insert(reporter.to_owned(), Reporter::default());
        }
        let Some(known) = self.reporters.get_mut(reporter) else { return };
        let most = limits::ARRIVALS_PER_RELAY_S.saturating_mul(self.relays.len().max(1) as u64);
        let new = known.news(unix_s, tickets.min(most).min(limits::ARRIVALS_PER_S));
        if new == 0 {
            return;
        }
        known.waited = known.waited.saturating_add(new);
        self.arrived = self.arrived.saturating_add(new);
        self.news = true;
        if unix_s.saturating_add(1).saturating_mul(1_000) <= self.watermark_ms {
            // The queue has been called beyond them already: they come without a further call.
            self.allow(now, new);
        } else {
            if self.arrivals.waiting() == 0 {
                self.rate = self.rate.max(self.joins_per_s as f64);
            }
            self.arrivals.add(unix_s, new);
        }
        self.wake(now);
    }

    /// A reporter is gone, and those whom it reported with it: whoever of them there is comes to
    /// another relay with a ticket, and is called with those who arrived when they did.
    pub fn reporter_left(&mut self, reporter: &str) {
        let Some(gone) = self.reporters.remove(reporter) else { return };
        let others = self.reporters.values().map(|other| other.waited);
        let all = others.fold(gone.waited, u64::saturating_add);
        self.arrivals.thin(gone.waited, all);
    }

    /// Time has come to [`Self::poll_timeout`]: calls who may come, `now_ms` by the origin's clock.
    /// Returns what the relays are to be told, if it is anything new.
    pub fn handle_timeout(&mut self, now: Time, now_ms: u64) -> Option<Admission> {
        if self.due.is_none_or(|due| now < due) {
            return None;
        }
        self.step(now, now_ms);
        let waiting = self.arrivals.waiting();
        let idle = waiting == 0 && self.allowed == 0 && self.arriving < 0.01;
        self.due = (!idle).then(|| now + limits::ADMISSION_EVERY);
        let said = self.document(now_ms);
        // Once all have been called, relays are told so once more after each new ticket.
        if waiting == 0 && !std::mem::replace(&mut self.news, false) {
            return None;
        }
        self.news = waiting > 0;
        Some(said)
    }

    /// When [`Self::handle_timeout`] is to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Time {
        self.due.unwrap_or(Time::MAX)
    }

    /// How far the queue has been called, for a relay that has just come, and for the HTTP door.
    #[must_use]
    pub fn document(&self, now_ms: u64) -> Admission {
        let waiting = self.arrivals.waiting();
        Admission {
            now_ms,
            watermark_ms: if waiting == 0 { now_ms } else { self.watermark_ms.min(now_ms) },
            rate_per_s: self.rate.ceil().clamp(1.0, 1e9) as u32,
            waiting,
            curve: self.arrivals.curve(limits::CURVE_POINTS),
        }
    }

    /// Places that newcomers may have in the whole tree, calls that were not answered yet taken off.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.free.saturating_sub(self.allowed)
    }

    /// Those who wait.
    #[must_use]
    pub const fn waiting(&self) -> u64 {
        self.arrivals.waiting()
    }

    /// Tickets issued in a second, averaged over the last seconds.
    #[must_use]
    pub const fn arriving(&self) -> f64 {
        self.arriving
    }

    fn wake(&mut self, now: Time) {
        let next = (self.stepped + limits::ADMISSION_EVERY).max(now);
        self.due = Some(self.due.map_or(next, |due| due.min(next)));
    }

    fn step(&mut self, now: Time, now_ms: u64) {
        while self.allowances.front().is_some_and(|(at, _)| now >= *at + limits::ALLOWANCE) {
            let (_, count) = self.allowances.pop_front().unwrap_or_default();
            self.allowed -= count;
        }
        // After a rest the budget is full, and no fuller.
        let passed = now.since(self.stepped).min(Duration::from_secs(1)).as_secs_f64();
        self.stepped = now;
        let budget = self.joins_per_s as f64;
        self.credit = (self.credit + budget * passed).min((budget / 2.0).max(1.0)).max(-budget);
        let unanswered = (budget * limits::ALLOWANCES.as_secs_f64()) as u64;
        let unanswered = unanswered.max(limits::ALLOWANCES_LEAST).saturating_sub(self.allowed);
        let count = (self.credit.max(0.0) as u64).min(self.free()).min(unanswered);
        let count = count.min(self.arrivals.waiting());
        if let Some(called) = self.arrivals.call(count) {
            self.watermark_ms = self.watermark_ms.max(called);
            self.credit -= count as f64;
            self.allow(now, count);
        }
        if self.arrivals.waiting() == 0 {
            self.watermark_ms = self.watermark_ms.max(now_ms);
            self.reporters.values_mut().for_each(|reporter| reporter.waited = 0);
        }
        if passed > 0.0 {
            let part = 1.0 - (-passed / limits::ADMISSION_RATE_OVER.as_secs_f64()).exp();
            if self.arrivals.waiting() > 0 || count > 0 {
                self.rate += (count as f64 / passed - self.rate) * part;
            }
            self.arriving += (self.arrived as f64 / passed - self.arriving) * part;
            self.arrived = 0;
        }
    }

    fn allow(&mut self, now: Time, count: u64) {
        self.allowances.push_back((now, count));
        self.allowed += count;
        if self.allowances.len() > limits::ARRIVAL_STRETCHES {
            let (_, lapsed) = self.allowances.pop_front().unwrap_or_default();
            self.allowed -= lapsed;
        }
    }

    /// So many came who were called.
    fn answered(&mut self, mut count: u64) {
        while count > 0 {
            let Some((_, oldest)) = self.allowances.front_mut() else { return };
            let taken = count.min(*oldest);
            *oldest -= taken;
            self.allowed -= taken;
            count -= taken;
            if *oldest == 0 {
                self.allowances.pop_front();
            }
        }
    }
}

/// Newcomers a second that a relay takes: none if it has no place.
fn open_rate(report: &DoorReport) -> u64 {
    if report.free > 0 { report.joins_per_s.into() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_S: u64 = 1_700_000_000;

    /// A tree with one relay; what is told is kept.
    struct Tree {
        watermark: Watermark,
        now: Time,
        door: DoorReport,
        told: Vec<Admission>,
    }

    impl Tree {
        fn new(free: u32, joins_per_s: u32) -> Self {
            let door = DoorReport { free, joins_per_s, admitted: 0 };
            let mut watermark = Watermark::new(Time::ZERO);
            watermark.relay("edge-1", door);
            Self { watermark, now: Time::ZERO, door, told: Vec::new() }
        }

        fn now_ms(&self) -> u64 {
            START_S * 1_000 + self.now.as_micros() / 1_000
        }

        /// Lets time pass; `come` says how many of those who were called come in each quarter second.
        fn pass(&mut self, seconds: u64, mut come: impl FnMut(u64) -> u64) {
            for _ in 0..seconds * 4 {
                self.now += limits::ADMISSION_EVERY;
                if self.watermark.poll_timeout() <= self.now {
                    let said = self.watermark.handle_timeout(self.now, self.now_ms());
                    self.told.extend(said);
                }
                let come = come(self.watermark.allowed);
                self.door.admitted += come;
                self.door.free = self.door.free.saturating_sub(u32::try_from(come).unwrap());
                self.watermark.relay("edge-1", self.door);
            }
        }

        fn waiting(&self) -> u64 {
            self.watermark.waiting()
        }
    }

    #[test]
    fn the_queue_is_called_at_the_budgets_rate() {
        let mut tree = Tree::new(10_000, 20);
        (0..10).for_each(|s| tree.watermark.arrived(tree.now, "edge-1", START_S + s, 100));
        tree.now = Time::from_millis(10_000);
        tree.pass(10, |called| called);
        assert!((780..=800).contains(&tree.waiting()), "{} wait", tree.waiting());
        let last = tree.told.last().unwrap().clone();
        assert_eq!((last.rate_per_s, last.waiting), (20, tree.waiting()));
        assert!(last.watermark_ms.abs_diff((START_S + 2) * 1_000) <= 250, "{last:?}");
        assert!(tree.told.len() <= 41, "four a second");
        assert!(tree.told.iter().all(Admission::is_sound));
        assert!(tree.told.is_sorted_by_key(|said| said.watermark_ms));
        tree.pass(60, |called| called);
        assert_eq!(tree.waiting(), 0);
        let said = tree.told.len();
        tree.pass(60, |called| called);
        assert_eq!(tree.told.len(), said, "nobody waits, and nothing is said");
        assert_eq!(tree.watermark.poll_timeout(), Time::MAX);
    }

    #[test]
    fn nobody_is_called_beyond_the_places() {
        let mut tree = Tree::new(30, 1_000);
        tree.watermark.arrived(tree.now, "edge-1", START_S, 500);
        tree.pass(3, |called| called);
        assert_eq!(tree.waiting(), 470);
        let called = tree.told.last().unwrap().watermark_ms;
        assert_eq!(called, START_S * 1_000 + 60, "interpolated within the second");
        tree.door.free = 10;
        tree.pass(3, |called| called);
        assert_eq!(tree.waiting(), 460);
    }

    #[test]
    fn places_of_those_who_do_not_come_are_given_to_the_next() {
        let mut tree = Tree::new(40, 1_000);
        tree.watermark.arrived(tree.now, "edge-1", START_S, 500);
        tree.pass(3, |_| 0);
        assert_eq!((tree.waiting(), tree.watermark.free()), (460, 0), "they are waited for");
        tree.pass(4, |_| 0);
        assert_eq!(tree.waiting(), 420);
    }

    #[test]
    fn a_flood_of_those_who_left_does_not_run_ahead_of_those_who_stay() {
        let mut tree = Tree::new(1_000_000, 10);
        tree.watermark.arrived(tree.now, "edge-1", START_S, 10_000);
        tree.pass(20, |_| 0);
        let most = 10 * (20 / limits::ALLOWANCE.as_secs() + 1) * limits::ALLOWANCES.as_secs();
        assert!(10_000 - tree.waiting() <= most, "{} were called", 10_000 - tree.waiting());
    }

    #[test]
    fn what_is_reported_late_has_been_called_already() {
        let mut tree = Tree::new(100, 20);
        tree.watermark.arrived(tree.now, "edge-1", START_S, 1);
        tree.pass(4, |called| called);
        assert_eq!(tree.waiting(), 0);
        tree.watermark.arrived(tree.now, "edge-1", START_S + 1, 7);
        assert_eq!((tree.waiting(), tree.watermark.allowed), (0, 7));
        // The same report again, and one of long ago.
        tree.watermark.arrived(tree.now, "edge-1", START_S + 1, 7);
        assert_eq!(tree.watermark.allowed, 7);
        tree.watermark.arrived(tree.now, "edge-1", START_S + 100, 1);
        tree.watermark.arrived(tree.now, "edge-1", START_S + 50, 1_000);
        assert_eq!(tree.watermark.allowed, 7);
        let told = tree.told.len();
        tree.pass(1, |_| 0);
        assert!(tree.told.len() > told, "relays learn that these have been called");
    }

    #[test]
    fn what_a_relay_made_up_goes_with_it() {
        let mut tree = Tree::new(1_000, 20);
        tree.watermark.arrived(tree.now, "edge-1", START_S, 30);
        tree.watermark.arrived(tree.now, "liar", START_S, u64::MAX);
        assert_eq!(tree.waiting(), 30 + limits::ARRIVALS_PER_RELAY_S);
        tree.pass(2, |called| called);
        tree.watermark.reporter_left("liar");
        assert!(tree.waiting() <= 31, "{} wait", tree.waiting());
        tree.pass(5, |called| called);
        assert_eq!(tree.waiting(), 0, "those who are there have been called");
    }

    #[test]
    fn a_small_budget_calls_one_by_one_and_a_relay_that_leaves_calls_nobody() {
        let mut tree = Tree::new(100, 1);
        tree.watermark.arrived(tree.now, "edge-1", START_S, 10);
        tree.pass(5, |called| called);
        assert!((4..=6).contains(&tree.waiting()), "{}", tree.waiting());
        tree.watermark.left("edge-1");
        let waiting = tree.waiting();
        for _ in 0..8 {
            tree.now += limits::ADMISSION_EVERY;
            tree.watermark.handle_timeout(tree.now, tree.now_ms());
        }
        assert_eq!(tree.waiting(), waiting);
    }
}
