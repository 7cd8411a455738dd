//! How long to wait for frames: measured from how their arrival varies.
//!
//! Clocks of two machines differ by an unknown amount, so a delay is relative: arrival less media
//! time, above the least that was seen of late. Round trips do not enter.

use std::time::Duration;

use stentor_proto::{Time, limits};

/// The variation of arrival, and the delay that covers nearly all of it.
pub(super) struct DelayEstimator {
    minima: Minima,
    /// Shares of the frames by variation, in buckets of [`BUCKET_US`]; the sum is 1.
    shares: [f64; BUCKETS],
    target_us: f64,
    last: Option<Time>,
}

const BUCKET_US: i64 = 5_000;
const BUCKETS: usize = (limits::JITTER_MOST.as_micros() as i64 / BUCKET_US) as usize + 1;
/// The share of frames that are to be in time.
const QUANTILE: f64 = 0.97;
/// What a frame's share is worth after the next one: half of it is forgotten in 4 s.
const FORGET: f64 = 0.9965;
/// The delay shrinks by half of its excess in about 7 s.
const SHRINK_S: f64 = 10.0;
/// What the player's own pace may vary by.
const MARGIN_US: i64 = 5_000;

impl DelayEstimator {
    pub(super) fn new(start: Duration) -> Self {
        let target_us = start.clamp(limits::JITTER_LEAST, limits::JITTER_MOST).as_micros() as i64;
        let mut shares = [0.0; BUCKETS];
        shares[bucket(target_us - MARGIN_US - BUCKET_US)] = 1.0;
        Self { minima: Minima::default(), shares, target_us: target_us as f64, last: None }
    }

    /// Notes a frame of media time `media_us` that arrived at `now`.
    pub(super) fn arrived(&mut self, now: Time, media_us: i64) {
        let relative = micros(now).saturating_sub(media_us);
        self.minima.push(now, relative);
        let variation = relative.saturating_sub(self.minima.least());
        for share in &mut self.shares {
            *share *= FORGET;
        }
        self.shares[bucket(variation)] += 1.0 - FORGET;
        let wanted = self.wanted_us();
        let elapsed = self.last.map_or(0.0, |last| now.since(last).as_secs_f64());
        self.last = Some(now);
        if wanted >= self.target_us {
            self.target_us = wanted;
        } else {
            self.target_us -= (self.target_us - wanted) * (elapsed / SHRINK_S).min(1.0);
        }
    }

    /// A frame of media time `media_us` arrived at `now`, after its turn: grow at once.
    pub(super) fn late(&mut self, now: Time, media_us: i64) {
        let variation = self.delay_us(now, media_us);
        let most = limits::JITTER_MOST.as_micros() as i64;
        if variation <= most {
            self.target_us = self.target_us.max((variation.saturating_add(MARGIN_US)) as f64);
        }
        self.target_us = self.target_us.min(most as f64);
    }

    /// How long after the earliest possible arrival a frame is to be played, in microseconds.
    pub(super) fn target_us(&self) -> i64 {
        self.target_us as i64
    }

    /// The delay that a frame of media time `media_us` has when it is played at `at`.
    pub(super) fn delay_us(&self, at: Time, media_us: i64) -> i64 {
        micros(at).saturating_sub(media_us).saturating_sub(self.minima.least())
    }

    /// Forgets which arrival was the earliest: the media's clock is another.
    pub(super) fn new_clock(&mut self) {
        self.minima = Minima::default();
    }

    fn wanted_us(&self) -> f64 {
        let mut sum = 0.0;
        let total: f64 = self.shares.iter().sum();
        let index = self
            .shares
            .iter()
            .position(|share| {
                sum += share;
                sum >= QUANTILE * total
            })
            .unwrap_or(BUCKETS - 1);
        let wanted = (index as i64 + 1) * BUCKET_US + MARGIN_US;
        let least = limits::JITTER_LEAST.as_micros() as f64;
        (wanted as f64).clamp(least, limits::JITTER_MOST.as_micros() as f64)
    }
}

fn bucket(variation_us: i64) -> usize {
    usize::try_from(variation_us / BUCKET_US).map_or(0, |index| index.min(BUCKETS - 1))
}

pub(super) fn micros(time: Time) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

/// The least of the last 10 to 12 s, so that a changed route or clock is followed.
#[derive(Default)]
struct Minima {
    /// The least of each span of 2 s, the newest last.
    spans: Vec<(u64, i64)>,
}

impl Minima {
    const SPAN_US: u64 = 2_000_000;
    const SPANS: usize = 6;

    fn push(&mut self, now: Time, relative: i64) {
        let span = now.as_micros() / Self::SPAN_US;
        match self.spans.last_mut() {
            Some((last, least)) if *last == span => *least = relative.min(*least),
            _ => self.spans.push((span, relative)),
        }
        if self.spans.len() > Self::SPANS {
            self.spans.remove(0);
        }
    }

    fn least(&self) -> i64 {
        self.spans.iter().map(|&(_, least)| least).min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(
        estimator: &mut DelayEstimator,
        from: u64,
        frames: u64,
        jitter_us: impl Fn(u64) -> u64,
    ) {
        for i in from..from + frames {
            let media = i as i64 * 20_000;
            let now = Time::from_micros(5_000_000 + i * 20_000 + jitter_us(i));
            estimator.arrived(now, media);
        }
    }

    #[test]
    fn the_target_covers_the_variation_and_shrinks_slowly() {
        let mut estimator = DelayEstimator::new(Duration::from_millis(100));
        feed(&mut estimator, 0, 50 * 60, |_| 0);
        assert!(estimator.target_us() <= 25_000, "{}", estimator.target_us());
        feed(&mut estimator, 3_000, 100, |i| (i * 7_919 % 60) * 1_000);
        let grown = estimator.target_us();
        assert!((55_000..75_000).contains(&grown), "{grown}");
        feed(&mut estimator, 3_100, 100, |_| 0);
        assert!(estimator.target_us() > 45_000, "it shrinks slowly");
    }

    #[test]
    fn a_late_frame_grows_it_at_once_within_its_bound() {
        let mut estimator = DelayEstimator::new(Duration::from_millis(20));
        feed(&mut estimator, 0, 50, |_| 0);
        estimator.late(Time::from_micros(5_000_000 + 150_000), 0);
        assert!(estimator.target_us() >= 150_000);
        estimator.late(Time::from_micros(5_000_000 + 3_000_000), 0);
        assert!(estimator.target_us() <= 400_000);
    }

    #[test]
    fn extreme_clocks_do_not_overflow() {
        let mut estimator = DelayEstimator::new(Duration::ZERO);
        for media in [0, i64::MAX / 4, i64::MIN / 4] {
            estimator.arrived(Time::MAX, media);
            estimator.arrived(Time::ZERO, media);
            estimator.late(Time::MAX, media);
            let _ = estimator.delay_us(Time::ZERO, media);
        }
    }
}
