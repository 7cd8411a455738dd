//! One direction of a shaped path: when a packet arrives at the other end, if it does.

use std::time::Duration;

/// What one direction of a path does to packets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Way {
    /// How long every packet takes.
    pub delay: Duration,
    /// What a packet may take beyond that, evenly spread. Order is kept, as one queue keeps it.
    pub jitter: Duration,
    /// Which packets are lost on the way.
    pub loss: Loss,
    /// How fast packets leave, if that is limited.
    pub rate: Option<Rate>,
}

/// Which packets are lost on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Loss {
    /// None.
    #[default]
    None,
    /// Each with this chance (0 to 1), whatever became of the others.
    Random(f64),
    /// In bursts (Gilbert–Elliott: in the bad state every packet is lost, in the good one none).
    Bursts {
        /// The share of packets that is lost in the long run (0 to 1, below 1).
        share: f64,
        /// The mean length of a burst in packets, 1 or more.
        mean: f64,
    },
}

/// A bottleneck: a rate, and a queue before it whose tail is dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Bits a second, the headers of UDP and IPv4 included.
    pub bits_per_s: u64,
    /// What waits longer than this is not queued.
    pub queue: Duration,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It arrives at this time (ns).
    Arrives(u64),
    /// It is lost on the way.
    Lost,
    /// The queue before the bottleneck is full.
    QueueFull,
}

/// The state of one direction of one flow.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    chance: Chance,
    /// In the bad state of [`Loss::Bursts`].
    bad: bool,
    /// When the bottleneck has sent what is queued (ns).
    free_at: u64,
    /// When the last packet arrives (ns).
    last: u64,
}

/// Headers of IPv4 and UDP.
const HEADER_BYTES: u64 = 28;

impl Lane {
    pub(super) const fn new(seed: u64) -> Self {
        Self { chance: Chance(seed), bad: false, free_at: 0, last: 0 }
    }

    /// What becomes of a packet of `bytes` that is sent at `now` (ns).
    pub(super) fn packet(&mut self, way: &Way, now: u64, bytes: usize) -> Fate {
        let mut leaves = now;
        if let Some(rate) = way.rate {
            let from = self.free_at.max(now);
            if from - now > nanos(rate.queue) {
                return Fate::QueueFull;
            }
            let bits = (bytes as u64 + HEADER_BYTES) * 8;
            leaves = from + bits * 1_000_000_000 / rate.bits_per_s.max(1);
            self.free_at = leaves;
        }
        if self.is_lost(way.loss) {
            return Fate::Lost;
        }
        let jitter = (nanos(way.jitter) as f64 * self.chance.share()) as u64;
        self.last = self.last.max(leaves + nanos(way.delay) + jitter);
        Fate::Arrives(self.last)
    }

    fn is_lost(&mut self, loss: Loss) -> bool {
        match loss {
            Loss::None => false,
            Loss::Random(share) => self.chance.share() < share,
            Loss::Bursts { share, mean } => {
                let leave = 1.0 / mean.max(1.0);
                // In the long run `enter` out of `enter + leave` packets meet the bad state.
                let enter = share * leave / (1.0 - share).max(f64::EPSILON);
                let turn = if self.bad { leave } else { enter };
                if self.chance.share() < turn {
                    self.bad = !self.bad;
                }
                self.bad
            }
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A small generator (SplitMix64): the same seed draws the same numbers.
#[derive(Clone, Debug)]
pub(super) struct Chance(pub(super) u64);

impl Chance {
    /// The next number.
    pub(super) const fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next number between 0 and 1.
    fn share(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn fates(way: &Way, packets: u64, every_ms: u64) -> Vec<Fate> {
        let mut lane = Lane::new(7);
        (0..packets).map(|n| lane.packet(way, n * every_ms * MS, 100)).collect()
    }

    fn lost(fates: &[Fate]) -> f64 {
        fates.iter().filter(|f| **f == Fate::Lost).count() as f64 / fates.len() as f64
    }

    #[test]
    fn a_lane_draws_the_same_from_the_same_seed() {
        let way = Way { loss: Loss::Random(0.5), ..Way::default() };
        assert_eq!(fates(&way, 100, 20), fates(&way, 100, 20));
        let other = (0..100).map(|n| Lane::new(8).packet(&way, n, 100)).collect::<Vec<_>>();
        assert_ne!(fates(&way, 100, 20), other);
    }

    #[test]
    fn random_loss_and_bursts_lose_their_share() {
        let random = fates(&Way { loss: Loss::Random(0.1), ..Way::default() }, 20_000, 20);
        assert!((0.09..0.11).contains(&lost(&random)), "{}", lost(&random));
        let loss = Loss::Bursts { share: 0.1, mean: 5.0 };
        let bursts = fates(&Way { loss, ..Way::default() }, 50_000, 20);
        assert!((0.08..0.12).contains(&lost(&bursts)), "{}", lost(&bursts));
        let begins = bursts.windows(2).filter(|w| w[0] != Fate::Lost && w[1] == Fate::Lost);
        let mean = lost(&bursts) * bursts.len() as f64 / begins.count() as f64;
        assert!((4.5..5.5).contains(&mean), "{mean}");
    }

    #[test]
    fn delay_and_jitter_keep_the_order() {
        let (delay, jitter) = (Duration::from_millis(20), Duration::from_millis(50));
        let mut last = 0;
        let way = Way { delay, jitter, ..Way::default() };
        for (n, fate) in (0..1_000).zip(fates(&way, 1_000, 5)) {
            let Fate::Arrives(at) = fate else { panic!("{fate:?}") };
            assert!(at >= last && at >= n * 5 * MS + 20 * MS && at <= n * 5 * MS + 70 * MS);
            last = at;
        }
    }

    #[test]
    fn a_bottleneck_delays_up_to_its_queue_and_drops_the_tail() {
        let rate = Some(Rate { bits_per_s: 64_000, queue: Duration::from_millis(200) });
        // 128 bytes take 16 ms at 64 kbit/s; one comes every 8 ms.
        let fates = fates(&Way { rate, ..Way::default() }, 1_000, 8);
        let dropped = fates.iter().filter(|f| **f == Fate::QueueFull).count();
        assert!((450..500).contains(&dropped), "{dropped}");
        let delays = fates.iter().enumerate().filter_map(|(n, fate)| match fate {
            Fate::Arrives(at) => Some(at - n as u64 * 8 * MS),
            _ => None,
        });
        assert!(delays.max().unwrap() <= 216 * MS);
    }
}
