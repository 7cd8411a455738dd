//! A shard's door: budgets, the queue as the origin told it, and which sibling has room.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Arrivals, Ticket};
use crate::random::Random;
use crate::session::Budget;
use crate::wire::{Admission, DoorLoad, Siblings};
use crate::{Time, limits};

/// What a node, or a shard of it, admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoorSettings {
    /// Whether joins are shaped at all. Without it everybody is admitted at once who finds a place.
    pub on: bool,
    /// Listeners at once.
    pub listeners: u32,
    /// What may leave for listeners (kbit/s): it bears as many as their ticks of the last second say.
    pub egress_kbit_s: u32,
    /// Newcomers admitted in a second, those who waited included.
    pub joins_per_s: u32,
    /// Listeners that return with a pass, admitted in a second.
    pub returns_per_s: u32,
    /// Answers in a second to those who wait: who waits comes so often at most.
    pub tickets_per_s: u32,
    /// Whether this address is for the stage, relays, and those who return.
    pub stage_only: bool,
}

impl Default for DoorSettings {
    /// A door that stops nobody but by the capacity.
    fn default() -> Self {
        Self {
            on: true,
            listeners: u32::MAX,
            egress_kbit_s: u32::MAX,
            joins_per_s: 1_000_000,
            returns_per_s: 1_000_000,
            tickets_per_s: 1_000_000,
            stage_only: false,
        }
    }
}

/// What becomes of somebody at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Comes in; the budget has been charged.
    Admit,
    /// Goes to this one of the siblings; its room has been charged.
    Redirect(usize),
    /// Waits.
    Wait(Wait),
}

/// What somebody who waits is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// When to come again.
    pub retry: Duration,
    /// The number in the queue, from 1.
    pub place: u64,
    /// Those who wait.
    pub waiting: u64,
    /// How long it is expected to take, if that can be told.
    pub eta: Option<Duration>,
}

/// What a shard reports of its door.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DoorTotals {
    /// Places that newcomers may have.
    pub free: u32,
    /// Tickets by second of arrival (origin's clock), of the last [`limits::ARRIVALS_S`] seconds in
    /// which there were any.
    pub arrivals: Vec<(u64, u64)>,
}

/// A shard's door. It is asked about each newcomer and each who shows a ticket; the origin's word on
/// the queue and the list of siblings are told to it as they come.
#[derive(Debug)]
pub struct Door {
    settings: DoorSettings,
    shards: u32,
    joins: Budget,
    returns: Budget,
    view: Option<View>,
    /// How far this node's wall clock is ahead of the origin's (milliseconds).
    ahead_ms: i64,
    unix_us_at_zero: u64,
    /// Tickets issued here whose bearers have not been called.
    own: Arrivals,
    recent: VecDeque<(u64, u64)>,
    siblings: Vec<Sibling>,
    near: usize,
    turned: Time,
    random: Random,
}

#[derive(Debug)]
struct View {
    admission: Admission,
    heard: Time,
}

#[derive(Debug)]
struct Sibling {
    relay: String,
    /// Newcomers that this shard may send it in [`limits::REDIRECT_MEMORY`].
    free: u32,
    /// Newcomers sent in the present and in the former half of that time.
    sent: [u32; 2],
}

impl Door {
    /// A door of one of `shards` shards, with this shard's share of the budgets.
    #[must_use]
    pub fn new(
        settings: DoorSettings,
        shards: u16,
        unix_us_at_zero: u64,
        seed: u64,
        now: Time,
    ) -> Self {
        Self {
            settings,
            shards: u32::from(shards.max(1)),
            joins: Budget::new(settings.joins_per_s, now),
            returns: Budget::new(settings.returns_per_s, now),
            view: None,
            ahead_ms: 0,
            unix_us_at_zero,
            own: Arrivals::default(),
            recent: VecDeque::new(),
            siblings: Vec::new(),
            near: 0,
            turned: now,
            random: Random::new(seed),
        }
    }

    /// The settings.
    #[must_use]
    pub const fn settings(&self) -> &DoorSettings {
        &self.settings
    }

    /// A number that no other ticket of this shard has.
    pub fn number(&mut self) -> u64 {
        self.random.next()
    }

    /// The origin's clock (milliseconds since 1970), as far as it is known here.
    #[must_use]
    pub fn origin_ms(&self, now: Time) -> u64 {
        let own = (self.unix_us_at_zero.saturating_add(now.as_micros())) / 1_000;
        own.saturating_add_signed(self.ahead_ms.saturating_neg())
    }

    /// The same in seconds: tickets are dated by it, for relays' own clocks differ.
    #[must_use]
    pub fn origin_s(&self, now: Time) -> u64 {
        self.origin_ms(now) / 1_000
    }

    /// The machine's clock has been set. At the `origin` that is the clock by which people wait; at a relay
    /// the origin's goes on as it was.
    pub fn set_clock(&mut self, unix_us_at_zero: u64, origin: bool) {
        let former = std::mem::replace(&mut self.unix_us_at_zero, unix_us_at_zero);
        if !origin {
            let by = clock_step_ms(former, unix_us_at_zero);
            self.ahead_ms = self.ahead_ms.saturating_add(by);
        }
    }

    /// The origin says how far the queue has been called; this node's clock is `ahead_ms` ahead of
    /// its own.
    pub fn told(&mut self, now: Time, admission: Admission, ahead_ms: i64) {
        self.own.pass(admission.watermark_ms);
        self.ahead_ms = ahead_ms;
        self.view = Some(View { admission, heard: now });
    }

    /// The relays that newcomers may be sent to, and how many.
    pub fn siblings(&mut self, siblings: &Siblings) {
        let former = std::mem::take(&mut self.siblings);
        let sent = |name: &str| former.iter().find(|s| s.relay == name).map(|s| s.sent);
        let free = |at: usize| siblings.free.get(at).map_or(0, |free| free.div_ceil(self.shards));
        let relays = siblings.relays.iter().enumerate().map(|(at, sibling)| Sibling {
            relay: sibling.relay.clone(),
            free: free(at),
            sent: sent(&sibling.relay).unwrap_or_default(),
        });
        self.siblings = relays.collect();
        self.near = usize::from(siblings.near).min(self.siblings.len());
    }

    /// Whether one who returns with a pass comes in.
    pub fn returning(&mut self, now: Time) -> bool {
        !self.settings.on || self.returns.spend(now)
    }

    /// A newcomer without a ticket. `place` says whether there is a place.
    pub fn newcomer(&mut self, now: Time, place: bool) -> Verdict {
        if self.nobody_waits(now) {
            if place && self.joins.spend(now) {
                return Verdict::Admit;
            }
            if let Some(at) = self.pick(now) {
                return Verdict::Redirect(at);
            }
        }
        Verdict::Wait(self.wait(now, self.origin_ms(now)))
    }

    /// Somebody with a good ticket.
    pub fn holder(&mut self, now: Time, ticket: &Ticket, place: bool) -> Verdict {
        if !self.called(now, ticket.arrival_ms) {
            return Verdict::Wait(self.wait(now, ticket.arrival_ms));
        }
        if place && self.joins.spend(now) {
            return Verdict::Admit;
        }
        if self.origin_s(now) >= ticket.moved.saturating_add(limits::REDIRECT_APART_S)
            && let Some(at) = self.pick(now)
        {
            return Verdict::Redirect(at);
        }
        let retry = limits::RETRY_LEAST + self.random.up_to(limits::RETRY_SPREAD);
        Verdict::Wait(Wait { retry, ..self.wait(now, ticket.arrival_ms) })
    }

    /// Somebody who arrived at `arrival_ms` has been given a ticket to wait with. Another node's word
    /// on the time of arrival counts within the seconds that are reported.
    pub fn issued(&mut self, now: Time, arrival_ms: u64) {
        let newest = self.origin_ms(now) / 1_000;
        let oldest = newest.saturating_sub(limits::ARRIVALS_S as u64 - 1);
        let second = (arrival_ms / 1_000).clamp(oldest, newest);
        self.own.add(second, 1);
        match self.recent.iter_mut().find(|(at, _)| *at == second) {
            Some((_, count)) => *count = count.saturating_add(1),
            None => {
                let at = self.recent.partition_point(|(at, _)| *at < second);
                self.recent.insert(at, (second, 1));
                if self.recent.len() > limits::ARRIVALS_S {
                    self.recent.pop_front();
                }
            }
        }
    }

    /// What is to be reported, with `free` places for newcomers. Once nobody has been given a ticket
    /// for [`limits::ARRIVALS_S`] seconds there is nothing to report often.
    #[must_use]
    pub fn totals(&mut self, now: Time, free: u32) -> DoorTotals {
        let oldest = (self.origin_ms(now) / 1_000).saturating_sub(limits::ARRIVALS_S as u64);
        self.recent.retain(|(second, _)| *second >= oldest);
        DoorTotals { free, arrivals: self.recent.iter().copied().collect() }
    }

    /// What a node of these settings reports with `free` places and so many admitted with a ticket.
    #[must_use]
    pub const fn load(settings: &DoorSettings, free: u32, admitted: u64) -> DoorLoad {
        DoorLoad { free, joins_per_s: settings.joins_per_s, admitted }
    }

    /// Whether somebody has been given a ticket here and was not called yet.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        self.own.waiting() > 0
    }

    fn nobody_waits(&self, now: Time) -> bool {
        let Some(view) = &self.view else { return true };
        view.admission.waiting == 0 || (view.is_stale(now) && self.own.waiting() == 0)
    }

    /// Whether it is the turn of one who arrived then. Where the origin has fallen silent, whoever has
    /// waited for long enough is called.
    fn called(&self, now: Time, arrival_ms: u64) -> bool {
        let Some(view) = &self.view else { return true };
        let patience = u64::try_from(limits::ADMISSION_STALE.as_millis()).unwrap_or(u64::MAX);
        let waited = self.origin_ms(now).saturating_sub(arrival_ms) >= patience;
        view.admission.waiting == 0
            || arrival_ms <= view.admission.watermark_ms
            || (view.is_stale(now) && waited)
    }

    fn wait(&mut self, now: Time, arrival_ms: u64) -> Wait {
        let own = self.own.waiting();
        let (mut before, mut waiting) = (self.own.before(arrival_ms), own);
        let mut rate = u64::from(self.settings.joins_per_s.max(1));
        if let Some(view) = self.view.as_ref().filter(|view| view.admission.waiting > 0) {
            let said = &view.admission;
            rate = said.rate_per_s.into();
            let last = said.curve.last().map_or(said.now_ms, |point| point.0);
            // Those who came since are not in the sum yet; of them this shard knows its own.
            let since = before.saturating_sub(self.own.before(last));
            let called = now.since(view.heard).as_millis() * u128::from(rate) / 1_000;
            before = said.before(arrival_ms).saturating_add(since);
            before = before.saturating_sub(u64::try_from(called).unwrap_or(u64::MAX));
            waiting = said.waiting.max(own);
        }
        let ms = |millis: u64| Duration::from_millis(millis);
        let eta = before.saturating_mul(1_000).checked_div(rate).map(ms);
        // A little early, so that nobody is late: what is left is told then.
        let retry = eta.unwrap_or(limits::RETRY_MOST) * 7 / 8;
        let share = u64::from(self.settings.tickets_per_s.max(1));
        let spread = self.random.up_to(limits::RETRY_SPREAD / 2);
        let least =
            limits::RETRY_LEAST.max(ms(own.saturating_mul(1_000) / share).min(limits::RETRY_MOST));
        let retry = retry.min(limits::RETRY_MOST).max(least + spread);
        Wait {
            retry,
            place: before.saturating_add(1),
            waiting: waiting.max(before.saturating_add(1)),
            eta,
        }
    }

    /// The one of two siblings, drawn at random, that has more room; those of the own region first.
    fn pick(&mut self, now: Time) -> Option<usize> {
        let half = limits::REDIRECT_MEMORY / 2;
        if now.since(self.turned) >= half {
            let long = now.since(self.turned) >= 2 * half;
            for sibling in &mut self.siblings {
                sibling.sent = [0, if long { 0 } else { sibling.sent[0] }];
            }
            self.turned = now;
        }
        let near = self.two_choices(0..self.near);
        let at = near.or_else(|| self.two_choices(self.near..self.siblings.len()))?;
        self.siblings[at].sent[0] += 1;
        Some(at)
    }

    /// Two siblings are drawn, each by its room; the one of which less has been taken since its room was
    /// told is chosen. So they fill alike by what they hold, large and small, and none is taken by
    /// everybody for being the emptiest.
    fn two_choices(&mut self, range: std::ops::Range<usize>) -> Option<usize> {
        let all: u64 = range.clone().map(|at| u64::from(self.siblings[at].room())).sum();
        let mut drawn = [0; 2];
        for at in &mut drawn {
            let mut left = self.random.next().checked_rem(all)?;
            *at = range.clone().find(|&at| {
                let room = u64::from(self.siblings[at].room());
                let found = left < room;
                left = left.saturating_sub(room);
                found
            })?;
        }
        let [one, other] = drawn.map(|at| &self.siblings[at]);
        // room / free, without the division.
        let part = |a: &Sibling, b: &Sibling| u64::from(a.room()) * u64::from(b.free);
        Some(if part(other, one) > part(one, other) { drawn[1] } else { drawn[0] })
    }
}

/// By how many milliseconds a clock was set forward.
pub(crate) fn clock_step_ms(former_us: u64, us: u64) -> i64 {
    let by = (i128::from(us) - i128::from(former_us)) / 1_000;
    i64::try_from(by).unwrap_or(0)
}

impl View {
    fn is_stale(&self, now: Time) -> bool {
        now.since(self.heard) >= limits::ADMISSION_STALE
    }
}

impl Sibling {
    fn room(&self) -> u32 {
        self.free.saturating_sub(self.sent[0]).saturating_sub(self.sent[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Alternate;

    /// The origin's clock is a second behind.
    const UNIX_MS: u64 = 1_700_000_000_000;

    fn door(joins_per_s: u32) -> Door {
        let settings = DoorSettings { joins_per_s, tickets_per_s: 10, ..DoorSettings::default() };
        Door::new(settings, 1, (UNIX_MS + 1_000) * 1_000, 1, Time::ZERO)
    }

    fn ticket(arrival_ms: u64) -> Ticket {
        Ticket {
            room: "hall".into(),
            sub: "sub:ann".into(),
            arrival_ms,
            place: "edge-1".into(),
            jti: "1".into(),
            iat: 0,
            exp: 0,
            by: "edge-1".into(),
            waits: true,
            moved: 0,
        }
    }

    fn admission(watermark_ms: u64, waiting: u64) -> Admission {
        let curve = vec![(watermark_ms, 0), (watermark_ms + 10_000, waiting)];
        Admission { now_ms: UNIX_MS, watermark_ms, rate_per_s: 20, waiting, curve }
    }

    fn waits(verdict: Verdict) -> Wait {
        let Verdict::Wait(wait) = verdict else { panic!("{verdict:?}") };
        wait
    }

    #[test]
    fn newcomers_come_in_at_the_budgets_rate_while_nobody_waits() {
        let mut door = door(20);
        let admitted = (0..100).filter(|_| door.newcomer(Time::ZERO, true) == Verdict::Admit);
        assert_eq!(admitted.count(), 20);
        let wait = waits(door.newcomer(Time::ZERO, true));
        assert_eq!((wait.place, wait.waiting), (1, 1));
        assert!(wait.retry >= limits::RETRY_LEAST && wait.retry < Duration::from_secs(1));
        assert_eq!(door.newcomer(Time::from_millis(50), true), Verdict::Admit);
        waits(door.newcomer(Time::from_millis(200), false));
    }

    #[test]
    fn nobody_overtakes_those_who_wait() {
        let mut door = door(20);
        let now = Time::from_millis(10);
        door.told(now, admission(UNIX_MS - 30_000, 600), 1_000);
        waits(door.newcomer(now, true));
        assert_eq!(door.origin_ms(now), UNIX_MS + 10);
        assert_eq!(door.holder(now, &ticket(UNIX_MS - 30_000), true), Verdict::Admit);
        let wait = waits(door.holder(now, &ticket(UNIX_MS - 25_000), true));
        assert_eq!((wait.place, wait.waiting), (301, 600));
        assert_eq!(wait.eta, Some(Duration::from_secs(15)));
        assert!((12..=14).contains(&wait.retry.as_secs()), "{:?}", wait.retry);
        // A quarter of a second later five more have been called.
        let wait =
            waits(door.holder(now + limits::ADMISSION_EVERY, &ticket(UNIX_MS - 25_000), true));
        assert_eq!(wait.place, 296);
        door.told(now, admission(UNIX_MS - 20_000, 0), 1_000);
        assert_eq!(door.newcomer(now, true), Verdict::Admit);
    }

    #[test]
    fn who_is_called_and_finds_the_budget_spent_comes_again_soon() {
        let mut door = door(1);
        door.told(Time::ZERO, admission(UNIX_MS, 5), 0);
        assert_eq!(door.holder(Time::ZERO, &ticket(UNIX_MS), true), Verdict::Admit);
        let wait = waits(door.holder(Time::ZERO, &ticket(UNIX_MS), true));
        assert!((200..=500).contains(&wait.retry.as_millis()), "{:?}", wait.retry);
    }

    #[test]
    fn returns_stay_within_their_share() {
        let mut door = door(1_000);
        for _ in 0..100 {
            door.issued(Time::ZERO, UNIX_MS);
        }
        let wait = waits(door.newcomer(Time::ZERO, false));
        assert!(wait.retry >= Duration::from_secs(10), "100 of 10 a second: {:?}", wait.retry);
        let arrivals = vec![(UNIX_MS / 1_000, 100)];
        assert_eq!(door.totals(Time::ZERO, 3), DoorTotals { free: 3, arrivals });
        let later = Time::ZERO + Duration::from_secs(limits::ARRIVALS_S as u64 + 1);
        assert_eq!(door.totals(later, 3), DoorTotals { free: 3, arrivals: vec![] });
        assert!(door.is_busy());
        door.told(Time::ZERO, admission(UNIX_MS + 1_000, 7), 0);
        assert!(!door.is_busy(), "all of them have been called");
    }

    #[test]
    fn an_origin_that_is_silent_does_not_hold_the_door_for_ever() {
        let mut door = door(10);
        door.told(Time::ZERO, admission(UNIX_MS - 9_000, 50), 1_000);
        let ticket = ticket(UNIX_MS);
        waits(door.holder(Time::from_millis(4_000), &ticket, true));
        assert_eq!(door.holder(Time::from_millis(5_000), &ticket, true), Verdict::Admit);
        assert_eq!(door.newcomer(Time::from_millis(5_000), true), Verdict::Admit);
    }

    fn siblings(free: &[u32], near: u8) -> Siblings {
        let named = |n: usize| {
            let name = format!("edge-{n}");
            Alternate { relay: name.clone(), address: name, certificate_hashes: Vec::new() }
        };
        let relays = (0..free.len()).map(named).collect();
        Siblings { relays, free: free.to_vec(), near, ..Siblings::default() }
    }

    #[test]
    fn a_burst_is_spread_by_room_and_counted_at_once() {
        let mut door = door(1);
        door.siblings(&siblings(&[0, 100, 100, 200, 5_000], 4));
        let mut sent = [0; 5];
        for _ in 0..400 {
            if let Verdict::Redirect(at) = door.newcomer(Time::ZERO, false) {
                sent[at] += 1;
            }
        }
        assert_eq!(
            sent,
            [0, 100, 100, 200, 0],
            "no more than there is room for, the own region first"
        );
        let Verdict::Redirect(4) = door.newcomer(Time::ZERO, false) else {
            panic!("another region")
        };
        // The same list again: what was sent a moment ago still counts.
        door.siblings(&siblings(&[0, 100, 100, 200, 0], 4));
        waits(door.newcomer(Time::ZERO, false));
        let later = Time::ZERO + limits::REDIRECT_MEMORY;
        assert!(matches!(door.newcomer(later, false), Verdict::Redirect(1..=3)));
    }

    #[test]
    fn large_and_small_siblings_fill_alike() {
        let mut door = door(1);
        let free = [300, 300, 600];
        door.siblings(&siblings(&free, 3));
        let mut sent = [0_u32; 3];
        for _ in 0..400 {
            let Verdict::Redirect(at) = door.newcomer(Time::ZERO, false) else { panic!() };
            sent[at] += 1;
        }
        for (sent, free) in sent.into_iter().zip(free) {
            let part = f64::from(sent) / f64::from(free) * 3.0;
            assert!((0.95..=1.05).contains(&part), "{sent} of {free}");
        }
    }

    #[test]
    fn who_waits_does_not_feel_that_a_relays_clock_is_set() {
        let mut door = door(20);
        let now = Time::from_millis(10);
        door.told(now, admission(UNIX_MS - 30_000, 600), 1_000);
        let hour_earlier = (UNIX_MS + 1_000 - 3_600_000) * 1_000;
        door.set_clock(hour_earlier, false);
        assert_eq!(door.origin_ms(now), UNIX_MS + 10);
        door.set_clock(hour_earlier + 7_000, true);
        assert_eq!(door.origin_ms(now), UNIX_MS + 17, "the origin's own clock is the origin's");
    }

    #[test]
    fn nobody_is_sent_to_and_fro() {
        let mut door = door(1);
        door.siblings(&siblings(&[100], 1));
        let moved = Ticket { moved: door.origin_s(Time::ZERO), ..ticket(UNIX_MS) };
        waits(door.holder(Time::ZERO, &moved, false));
        let later = Time::from_millis(limits::REDIRECT_APART_S * 1_000);
        assert_eq!(door.holder(later, &moved, false), Verdict::Redirect(0));
    }
}
