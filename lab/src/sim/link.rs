//! Links as nodes of their own: delay, jitter, loss, bursts, a queue with a tail, a cut.

use std::time::Duration;

use stentor_proto::Time;

use super::chance::{mix, share};

/// How a link loses datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Loss {
    /// It loses none.
    #[default]
    None,
    /// Each with the same probability.
    Random(f64),
    /// In bursts (Gilbert-Elliott): a share of the time is bad, and all that is sent then is lost.
    Bursts {
        /// The share of the time that is bad.
        share: f64,
        /// How many ticks a bad time lasts on average.
        mean: f64,
    },
}

impl Loss {
    /// The share of datagrams that are lost in the long run.
    #[must_use]
    pub const fn share(self) -> f64 {
        match self {
            Self::None => 0.0,
            Self::Random(share) | Self::Bursts { share, .. } => share,
        }
    }
}

/// What a link is like.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Line {
    /// The least that a packet takes.
    pub delay: Duration,
    /// What it may take longer.
    pub jitter: Duration,
    /// How it loses datagrams.
    pub loss: Loss,
    /// Bits a second, and bytes that wait for their turn at most: what comes beyond is dropped.
    pub rate: Option<(u64, u64)>,
}

impl Line {
    /// What a transport measures: both ways, and half of what either may take longer.
    pub(super) fn round_trip(&self) -> Duration {
        2 * self.delay + self.jitter
    }
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    Arrives(Time),
    Lost,
    /// The queue was full.
    Dropped,
    /// The link is cut.
    Cut,
}

/// The good and bad times of a path: a chain of slots of one tick's length that the path's key
/// decides, whoever asks and however often.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weather {
    slot: u64,
    bad: bool,
}

/// The length of a slot: one tick, so that the mean is in ticks.
const SLOT_US: u64 = 20_000;

impl Weather {
    /// Whether a datagram that is sent at `now` is lost on the path `key`; `nth` tells apart those
    /// of one instant that do not share their fate.
    pub(super) fn loses(&mut self, loss: Loss, key: u64, now: Time, nth: u64) -> bool {
        match loss {
            Loss::None => false,
            Loss::Random(probability) => {
                share(mix(key ^ nth.rotate_left(32), now.as_micros())) < probability
            }
            Loss::Bursts { share: bad, mean } => {
                let slot = now.as_micros() / SLOT_US;
                while self.slot < slot {
                    self.slot += 1;
                    let (ends, begins) = (1.0 / mean, bad / (1.0 - bad) / mean);
                    let drawn = share(mix(key, self.slot));
                    self.bad = if self.bad { drawn >= ends } else { drawn < begins };
                }
                self.bad
            }
        }
    }
}

/// When what is sent at `now` arrives, its turn not counted.
pub(super) fn arrival(line: &Line, key: u64, now: Time, nth: u64) -> Time {
    let drawn = share(mix(key ^ nth.rotate_left(32), now.as_micros() ^ u64::MAX));
    now + line.delay + line.jitter.mul_f64(drawn)
}

/// One direction between two nodes.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) line: Line,
    key: u64,
    /// Packets that it was given: each has a fate of its own.
    count: u64,
    weather: Weather,
    /// When what waits has been sent.
    free: Time,
    pub(super) lost: u64,
    pub(super) dropped: u64,
}

impl Link {
    pub(super) fn new(line: Line, key: u64) -> Self {
        Self {
            line,
            key,
            count: 0,
            weather: Weather::default(),
            free: Time::ZERO,
            lost: 0,
            dropped: 0,
        }
    }

    /// Sends a datagram of so many bytes.
    pub(super) fn datagram(&mut self, now: Time, bytes: usize) -> Passage {
        self.count += 1;
        if self.weather.loses(self.line.loss, self.key, now, self.count) {
            self.lost += 1;
            return Passage::Lost;
        }
        match self.turn(now, bytes) {
            Some(turn) => Passage::Arrives(arrival(&self.line, self.key, turn, self.count)),
            None => {
                self.dropped += 1;
                Passage::Dropped
            }
        }
    }

    /// Sends bytes of a stream: what is lost is sent again after a round trip.
    pub(super) fn stream(&mut self, now: Time, bytes: usize) -> Time {
        /// Sending again at most.
        const TRIES: u32 = 16;
        let mut sent = now;
        for _ in 0..TRIES {
            match self.datagram(sent, bytes) {
                Passage::Arrives(at) => return at,
                Passage::Lost | Passage::Dropped | Passage::Cut => {
                    sent += 2 * (self.line.delay + self.line.jitter) + Duration::from_millis(25);
                }
            }
        }
        sent
    }

    /// When the last bit leaves, or `None` if the queue is full.
    fn turn(&mut self, now: Time, bytes: usize) -> Option<Time> {
        let Some((bits_per_s, queue_bytes)) = self.line.rate else { return Some(now) };
        let waits = self.free.since(now);
        let queued = waits.as_micros() * u128::from(bits_per_s) / 8_000_000;
        if queued + bytes as u128 > u128::from(queue_bytes) {
            return None;
        }
        let takes = Duration::from_micros(bytes as u64 * 8_000_000 / bits_per_s.max(1));
        self.free = now.max(self.free) + takes;
        Some(self.free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(loss: Loss, ticks: u64) -> Vec<bool> {
        let mut weather = Weather::default();
        let at = |tick: u64| Time::from_millis(20 * tick);
        (0..ticks).map(|tick| weather.loses(loss, 7, at(tick), 0)).collect()
    }

    #[test]
    fn losses_have_their_share_and_bursts_their_length() {
        let random = lost(Loss::Random(0.05), 100_000);
        let share = random.iter().filter(|&&l| l).count() as f64 / 100_000.0;
        assert!((0.045..0.055).contains(&share), "{share}");
        let bursts = lost(Loss::Bursts { share: 0.05, mean: 5.0 }, 200_000);
        let bad = bursts.iter().filter(|&&l| l).count() as f64;
        let begun = bursts.windows(2).filter(|pair| !pair[0] && pair[1]).count() as f64;
        assert!((0.045..0.055).contains(&(bad / 200_000.0)), "{bad}");
        assert!((4.5..5.5).contains(&(bad / begun)), "{}", bad / begun);
    }

    #[test]
    fn a_full_queue_drops_its_tail() {
        let line = Line { rate: Some((64_000, 500)), ..Line::default() };
        let mut link = Link::new(line, 1);
        let passages: Vec<Passage> = (0..4).map(|_| link.datagram(Time::ZERO, 200)).collect();
        let ms = Time::from_millis;
        let arrives = [Passage::Arrives(ms(25)), Passage::Arrives(ms(50))];
        assert_eq!(passages, [&arrives[..], &[Passage::Dropped; 2]].concat());
        assert_eq!(link.datagram(ms(25), 200), Passage::Arrives(ms(75)));
    }

    #[test]
    fn a_stream_loses_nothing_and_takes_longer() {
        let line = Line { loss: Loss::Random(0.5), ..Line::default() };
        let mut link = Link::new(line, 3);
        let late = (0..100).filter(|&n| {
            let now = Time::from_millis(1_000 * n);
            link.stream(now, 100) > now
        });
        assert!((30..70).contains(&late.count()));
    }
}
