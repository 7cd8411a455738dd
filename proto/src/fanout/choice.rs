//! Which variant a session is sent: chosen from its own path's loss.
//!
//! Redundancy rises at once with loss and falls slowly when the path is clean. Where the round trip
//! rises together with loss, the path is full rather than bad: more bytes would make it worse, and
//! redundancy falls (in the spirit of the circuit breakers of RFC 8083).

use std::time::Duration;

use super::variants::Variant;
use crate::{Time, limits};

/// What a transport knows of one connection's path, counted since the connection began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathSample {
    /// Packets sent.
    pub sent: u64,
    /// Of those, packets found lost.
    pub lost: u64,
    /// The smoothed round trip.
    pub rtt: Duration,
    /// The smallest round trip.
    pub min_rtt: Duration,
}

/// What a sample led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The variant stays.
    None,
    /// More redundancy, for there is loss.
    Up,
    /// Less redundancy, for the path is clean.
    Down,
    /// Less redundancy, for the round trip rises together with loss.
    Queueing,
}

/// One session's choice. It costs some 50 bytes and no allocation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice {
    variant: Variant,
    /// The counts at the last sample.
    sent: u64,
    lost: u64,
    /// Packets of the last samples, in sixteenths, forgotten by a quarter with each sample: about
    /// 200 packets of a room that speaks.
    recent_sent: u32,
    recent_lost: u32,
    /// The round trip without a queue (µs); 0 before the first sample.
    base_us: u32,
    /// Since when the path is cleaner than the variant is for.
    clean_since: Option<Time>,
    /// No step up before this: the path was full.
    held_until: Time,
}

impl Choice {
    /// The variant in force.
    #[must_use]
    pub const fn variant(&self) -> Variant {
        self.variant
    }

    /// Whether the path was found full of late: then what is sent on top of the ticks, repairs too,
    /// costs more ticks than it brings.
    #[must_use]
    pub fn is_full(&self, now: Time) -> bool {
        now < self.held_until
    }

    /// Takes a sample of the path, about one a second, and says what it changes. Samples of fewer
    /// than [`limits::PATH_PACKETS`] new packets wait for the next.
    pub fn sample(&mut self, now: Time, sample: PathSample) -> Change {
        let sent = sample.sent.saturating_sub(self.sent);
        if sent < limits::PATH_PACKETS {
            return Change::None;
        }
        let lost = sample.lost.saturating_sub(self.lost);
        (self.sent, self.lost) = (sample.sent, sample.lost);
        self.recent_sent = remember(self.recent_sent, sent);
        self.recent_lost = remember(self.recent_lost, lost);
        let queueing = self.queueing(sample);
        let loss = self.loss_permille();
        if queueing && loss >= limits::LOSS_PREVIOUS_PERMILLE {
            self.held_until = now + limits::QUEUE_HOLD;
            return self.step_down(Change::Queueing);
        }
        let wanted = wanted(loss);
        if wanted > self.variant {
            self.clean_since = None;
            if now < self.held_until {
                return Change::None;
            }
            self.variant = wanted;
            return Change::Up;
        }
        self.clean(now, loss)
    }

    /// Steps down by one when the path has been clean for long enough.
    fn clean(&mut self, now: Time, loss: u32) -> Change {
        // Half of what led up, so that a path at the edge does not swing.
        let enough = match self.variant {
            Variant::Plain => return Change::None,
            Variant::Previous => limits::LOSS_PREVIOUS_PERMILLE / 2,
            Variant::Spread => limits::LOSS_SPREAD_PERMILLE / 2,
        };
        if loss >= enough {
            self.clean_since = None;
            return Change::None;
        }
        let since = *self.clean_since.get_or_insert(now);
        if now < since + limits::CLEAN_HOLD {
            return Change::None;
        }
        self.step_down(Change::Down)
    }

    fn step_down(&mut self, why: Change) -> Change {
        self.clean_since = None;
        self.variant = match self.variant {
            Variant::Plain => return Change::None,
            Variant::Previous => Variant::Plain,
            Variant::Spread => Variant::Previous,
        };
        why
    }

    /// The loss of the last samples; 0 while a single packet was lost, which may be chance.
    fn loss_permille(&self) -> u32 {
        if self.recent_lost <= SIXTEENTHS {
            return 0;
        }
        let permille = u64::from(self.recent_lost) * 1_000 / u64::from(self.recent_sent.max(1));
        u32::try_from(permille).unwrap_or(1_000)
    }

    /// Whether the round trip stands well above what it is without a queue. That is forgotten in
    /// minutes, for a path may become longer for good; at once where the connection has moved to another
    /// path, whose least round trip begins anew.
    fn queueing(&mut self, sample: PathSample) -> bool {
        let us = |d: Duration| u32::try_from(d.as_micros()).unwrap_or(u32::MAX).max(1);
        let rtt = us(sample.rtt);
        // The least of a path is never above its own idle round trip: this is another path.
        self.base_us = self.base_us.max(us(sample.min_rtt));
        self.base_us = match rtt.checked_sub(self.base_us) {
            Some(above) => self.base_us + above / 256,
            None => rtt,
        };
        let step = us(limits::QUEUE_STEP).max(self.base_us / 2);
        rtt > self.base_us.saturating_add(step)
    }
}

const SIXTEENTHS: u32 = 16;

fn remember(recent: u32, new: u64) -> u32 {
    let new = u32::try_from(new).unwrap_or(u32::MAX).saturating_mul(SIXTEENTHS);
    (recent - recent / 4).saturating_add(new)
}

const fn wanted(loss_permille: u32) -> Variant {
    if loss_permille >= limits::LOSS_SPREAD_PERMILLE {
        Variant::Spread
    } else if loss_permille >= limits::LOSS_PREVIOUS_PERMILLE {
        Variant::Previous
    } else {
        Variant::Plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path that sends 50 packets a second and is sampled once a second.
    struct Path {
        choice: Choice,
        now: Time,
        sample: PathSample,
    }

    impl Path {
        fn new() -> Self {
            let rtt = Duration::from_millis(40);
            let sample = PathSample { rtt, min_rtt: rtt, ..PathSample::default() };
            Self { choice: Choice::default(), now: Time::ZERO, sample }
        }

        fn second(&mut self, lost: u64) -> Change {
            self.now += Duration::from_secs(1);
            self.sample.sent += 50;
            self.sample.lost += lost;
            self.choice.sample(self.now, self.sample)
        }
    }

    #[test]
    fn a_clean_path_and_one_lost_packet_bring_no_redundancy() {
        let mut path = Path::new();
        for second in 0..300 {
            assert_eq!(path.second(u64::from(second % 30 == 29)), Change::None);
        }
        assert_eq!(path.choice.variant(), Variant::Plain);
    }

    #[test]
    fn loss_brings_redundancy_at_once_and_a_clean_path_takes_it_back_slowly() {
        let mut path = Path::new();
        path.second(0);
        assert_eq!(path.second(2), Change::Up);
        assert_eq!(path.second(4), Change::Up);
        assert_eq!(path.choice.variant(), Variant::Spread);
        let downs: Vec<usize> = (0..60).filter(|_| path.second(0) == Change::Down).collect();
        assert_eq!(downs.len(), 2, "{downs:?}");
        assert!(downs[0] >= 10 && downs[1] >= downs[0] + 10, "{downs:?}");
        assert_eq!(path.choice.variant(), Variant::Plain);
    }

    #[test]
    fn a_path_at_the_edge_does_not_swing() {
        let mut path = Path::new();
        let changes: usize = (0..600)
            .filter(|second| path.second(1 + u64::from(second % 2 == 0)) != Change::None)
            .count();
        assert_eq!((changes, path.choice.variant()), (1, Variant::Spread));
    }

    #[test]
    fn a_round_trip_that_rises_with_loss_takes_redundancy_back() {
        let mut path = Path::new();
        path.second(5);
        assert_eq!(path.choice.variant(), Variant::Spread);
        path.sample.rtt = Duration::from_millis(200);
        assert_eq!((path.second(10), path.second(10)), (Change::Queueing, Change::Queueing));
        assert!(path.choice.is_full(path.now));
        for _ in 0..30 {
            assert_eq!(path.second(10), Change::None, "it stays at the least while it queues");
        }
        path.sample.rtt = Duration::from_millis(40);
        let up = (1..60).find(|_| path.second(5) == Change::Up);
        assert_eq!(up, Some(10), "once the queue is gone, loss counts again, a while later");
        assert!(!path.choice.is_full(path.now));
    }

    #[test]
    fn a_handover_to_a_longer_path_is_no_queue() {
        let mut path = Path::new();
        path.second(0);
        (path.sample.rtt, path.sample.min_rtt) =
            (Duration::from_millis(200), Duration::from_millis(190));
        assert_eq!(path.second(5), Change::Up, "its loss counts at once");
        assert!(!path.choice.is_full(path.now));
    }

    #[test]
    fn a_longer_path_is_learnt_in_minutes() {
        let mut path = Path::new();
        path.second(0);
        path.sample.rtt = Duration::from_millis(400);
        let up = (1..).find(|_| path.second(5) == Change::Up);
        assert!((60..600).contains(&up.unwrap()), "{up:?}");
    }

    #[test]
    fn counters_that_stand_still_or_run_back_change_nothing() {
        let mut path = Path::new();
        path.second(5);
        let now = path.now + Duration::from_secs(1);
        for sample in [path.sample, PathSample { sent: 1, ..path.sample }, PathSample::default()] {
            assert_eq!(path.choice.sample(now, sample), Change::None);
        }
        assert_eq!(path.choice.variant(), Variant::Spread);
    }
}
