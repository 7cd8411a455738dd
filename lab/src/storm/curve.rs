//! When people come: an open-loop process whose rate follows a curve.

use std::time::Duration;

use stentor_proto::Time;

/// Arrivals a second over time: points, a line between two, and the last one from there on.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve(Vec<(Duration, f64)>);

impl Curve {
    /// The same rate at all times.
    #[must_use]
    pub fn steady(per_s: f64) -> Self {
        Self(vec![(Duration::ZERO, per_s)])
    }

    /// A curve through these points, in the order of time; before the first one nobody comes.
    #[must_use]
    pub fn through(points: Vec<(Duration, f64)>) -> Self {
        Self(points)
    }

    /// The same curve, so many times as high.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        Self(self.0.iter().map(|&(at, rate)| (at, rate * factor)).collect())
    }

    /// Arrivals a second at a time.
    #[must_use]
    pub fn rate(&self, at: Duration) -> f64 {
        let next = self.0.partition_point(|&(from, _)| from <= at);
        let Some(&(from, rate)) = next.checked_sub(1).and_then(|last| self.0.get(last)) else {
            return 0.0;
        };
        let Some(&(until, then)) = self.0.get(next) else { return rate };
        let part = (at - from).as_secs_f64() / (until - from).as_secs_f64().max(1e-9);
        rate + (then - rate) * part
    }
}

/// Arrivals of a curve, a Poisson process: the same seed gives the same ones.
#[derive(Clone, Debug)]
pub(super) struct Arrivals {
    curve: Curve,
    from: Time,
    /// How far the process has been followed.
    at: Duration,
    /// What is left of the unit of expectation until the next arrival.
    left: f64,
    chance: Chance,
}

/// The curve is followed in steps of this.
const STEP: Duration = Duration::from_millis(10);

impl Arrivals {
    pub(super) fn new(curve: Curve, from: Time, mut chance: Chance) -> Self {
        let left = chance.exponential();
        Self { curve, from, at: Duration::ZERO, left, chance }
    }

    /// The next arrival that is due at `now`: its scheduled time.
    pub(super) fn due(&mut self, now: Time) -> Option<Time> {
        loop {
            if self.from + self.at > now {
                return None;
            }
            let rate = self.curve.rate(self.at);
            let expected = rate * STEP.as_secs_f64();
            if expected >= self.left && rate > 0.0 {
                let part = Duration::from_secs_f64(self.left / rate);
                let came = self.from + self.at + part;
                if came > now {
                    return None;
                }
                // What is left of the step is followed anew, from the arrival on.
                self.at += part;
                self.left = self.chance.exponential();
                return Some(came);
            }
            if self.from + self.at + STEP > now {
                return None;
            }
            self.left -= expected;
            self.at += STEP;
        }
    }
}

/// Chance from a seed.
#[derive(Clone, Debug)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// `SplitMix64` (Steele, Lea, Flood 2014).
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = self.0;
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1, neither of them.
    pub(super) fn part(&mut self) -> f64 {
        ((self.next() >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
    }

    /// The time between two events of a Poisson process of one a second.
    pub(super) fn exponential(&mut self) -> f64 {
        -self.part().ln()
    }

    pub(super) fn bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for part in bytes.chunks_exact_mut(8) {
            part.copy_from_slice(&self.next().to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(curve: Curve, seconds: u64) -> usize {
        let mut arrivals = Arrivals::new(curve, Time::ZERO, Chance::new(1));
        let mut last = Time::ZERO;
        let mut count = 0;
        for ms in 0..=seconds * 1_000 {
            while let Some(at) = arrivals.due(Time::from_millis(ms)) {
                assert!(at >= last && at <= Time::from_millis(ms));
                last = at;
                count += 1;
            }
        }
        count
    }

    #[test]
    fn as_many_come_as_the_curve_says() {
        let steady = count(Curve::steady(200.0), 50);
        assert!((9_700..=10_300).contains(&steady), "{steady}");
        let ramp = vec![(Duration::from_secs(10), 0.0), (Duration::from_secs(30), 1_000.0)];
        let ramp = Curve::through(ramp);
        assert_eq!((ramp.rate(Duration::ZERO), ramp.rate(Duration::from_secs(20))), (0.0, 500.0));
        assert_eq!(ramp.scaled(0.1).rate(Duration::from_secs(60)), 100.0);
        let came = count(ramp, 40);
        assert!((19_500..=20_500).contains(&came), "{came}");
    }
}
