//! How many arrived when, of those who wait: seconds, coarser the longer they are ago.

use std::collections::VecDeque;

use crate::limits;

/// Those who wait, by their time of arrival; bounded in memory however many and however long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// In order of time, none overlapping another.
    stretches: VecDeque<Stretch>,
    waiting: u64,
}

/// Arrivals that count as evenly spread over a stretch of time.
///
/// What has been called is a number beside them rather than a later beginning: of a hundred thousand
/// in one second five are called at a time, which is less than a millisecond each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    from_ms: u64,
    until_ms: u64,
    count: u64,
    /// Of `count`, those who have been called.
    called: u64,
}

impl Stretch {
    const fn waiting(&self) -> u64 {
        self.count - self.called
    }

    /// Up to when they have been called.
    fn called_ms(&self) -> u64 {
        self.from_ms + self.part(self.until_ms - self.from_ms, self.called, self.count)
    }

    /// Of those who were called or not, how many arrived before `at_ms`, which is within the stretch.
    fn arrived_before(&self, at_ms: u64) -> u64 {
        let into = at_ms.saturating_sub(self.from_ms);
        self.part(self.count, into, self.until_ms - self.from_ms)
    }

    /// Leaves out those who have been called.
    fn settle(&mut self) {
        self.from_ms = self.called_ms();
        self.count = self.waiting();
        self.called = 0;
    }

    /// `whole · of / all`, without an overflow.
    fn part(&self, whole: u64, of: u64, all: u64) -> u64 {
        let part = u128::from(whole) * u128::from(of) / u128::from(all.max(1));
        u64::try_from(part).unwrap_or(whole).min(whole)
    }
}

impl Arrivals {
    /// Adds `count` arrivals within the second `unix_s` (seconds since 1970).
    pub fn add(&mut self, unix_s: u64, count: u64) {
        if count == 0 {
            return;
        }
        let (from_ms, until_ms) =
            (unix_s.saturating_mul(1_000), unix_s.saturating_add(1).saturating_mul(1_000));
        let count = count.min(u64::MAX - self.waiting);
        self.waiting += count;
        let at = self.stretches.partition_point(|s| s.until_ms <= from_ms);
        if let Some(stretch) = self.stretches.get_mut(at).filter(|s| s.from_ms < until_ms) {
            stretch.settle();
            stretch.count += count;
            return;
        }
        self.stretches.insert(at, Stretch { from_ms, until_ms, count, called: 0 });
        if self.stretches.len() > limits::ARRIVAL_STRETCHES {
            self.coarsen();
        }
    }

    /// Those who wait.
    #[must_use]
    pub const fn waiting(&self) -> u64 {
        self.waiting
    }

    /// Calls the first `count`; returns up to when (milliseconds since 1970), `None` if nobody
    /// waits.
    pub fn call(&mut self, mut count: u64) -> Option<u64> {
        let mut called = None;
        while count > 0 {
            let Some(first) = self.stretches.front_mut() else { break };
            let taken = count.min(first.waiting());
            first.called += taken;
            called = Some(first.called_ms());
            self.waiting -= taken;
            count -= taken;
            if first.waiting() == 0 {
                self.stretches.pop_front();
            }
        }
        called
    }

    /// Forgets all who arrived until `until_ms`.
    pub fn pass(&mut self, until_ms: u64) {
        let before = self.before(until_ms);
        self.call(before);
        while self.stretches.front().is_some_and(|first| first.until_ms <= until_ms) {
            let first = self.stretches.pop_front();
            self.waiting -= first.map_or(0, |first| first.waiting());
        }
    }

    /// Forgets `part` of each `all` who wait, wherever they stand: whoever reported them is gone.
    pub fn thin(&mut self, part: u64, all: u64) {
        for stretch in &mut self.stretches {
            stretch.settle();
            let gone = stretch.part(stretch.count, part.min(all), all);
            stretch.count -= gone;
            self.waiting -= gone;
        }
        self.stretches.retain(|stretch| stretch.count > 0);
    }

    /// How many of those who wait arrived before `arrival_ms`.
    #[must_use]
    pub fn before(&self, arrival_ms: u64) -> u64 {
        let mut sum = 0_u64;
        for stretch in &self.stretches {
            if arrival_ms >= stretch.until_ms {
                sum = sum.saturating_add(stretch.waiting());
                continue;
            }
            let part = stretch.arrived_before(arrival_ms).saturating_sub(stretch.called);
            return sum.saturating_add(part);
        }
        sum
    }

    /// At most `points` points of the curve: a time of arrival (milliseconds since 1970), and how
    /// many of those who wait arrived before it. Between two points it is a line.
    #[must_use]
    pub fn curve(&self, points: usize) -> Vec<(u64, u64)> {
        let Some(first) = self.stretches.front() else { return Vec::new() };
        let mut curve = vec![(first.called_ms(), 0)];
        let steps = points.saturating_sub(1).max(1) as u64;
        let (mut sum, mut step) = (0_u64, 1);
        for (at, stretch) in self.stretches.iter().enumerate() {
            sum = sum.saturating_add(stretch.waiting());
            let last = at + 1 == self.stretches.len();
            // Evenly by count: where many wait, their places are told apart.
            if last || (u128::from(sum) * u128::from(steps) >= u128::from(self.waiting) * step) {
                curve.push((stretch.until_ms, sum));
                step = u128::from(sum) * u128::from(steps) / u128::from(self.waiting.max(1)) + 1;
            }
        }
        curve.truncate(points.max(2));
        curve
    }

    /// Joins the two neighbours that span the least time for how long they are ago.
    fn coarsen(&mut self) {
        let newest = self.stretches.back().map_or(0, |last| last.until_ms);
        let cost = |at: usize| {
            let (from, until) = (self.stretches[at].from_ms, self.stretches[at + 1].until_ms);
            u128::from(until - from) * 1_000_000 / u128::from((newest - from).max(1))
        };
        let Some(at) = (0..self.stretches.len() - 1).min_by_key(|&at| cost(at)) else { return };
        if let Some(mut next) = self.stretches.remove(at + 1) {
            next.settle();
            let stretch = &mut self.stretches[at];
            stretch.settle();
            stretch.until_ms = next.until_ms;
            // The sum of all fits, so these two do.
            stretch.count += next.count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_called_in_order_and_within_a_second() {
        let mut arrivals = Arrivals::default();
        arrivals.add(11, 100);
        arrivals.add(10, 50);
        arrivals.add(11, 100);
        assert_eq!((arrivals.waiting(), arrivals.before(11_500)), (250, 150));
        assert_eq!(arrivals.call(25), Some(10_500));
        assert_eq!(arrivals.call(75), Some(11_250));
        assert_eq!(
            (arrivals.waiting(), arrivals.before(11_250), arrivals.before(99_000)),
            (150, 0, 150)
        );
        assert_eq!(arrivals.call(1_000), Some(12_000));
        assert_eq!((arrivals.call(1), arrivals.waiting()), (None, 0));
    }

    #[test]
    fn a_hundred_thousand_in_one_second_are_called_one_after_another() {
        let mut arrivals = Arrivals::default();
        arrivals.add(10, 100_000);
        for step in 1..=20_000_u64 {
            assert_eq!(arrivals.call(5), Some(10_000 + step / 20), "after {step} steps");
            assert_eq!(arrivals.waiting(), 100_000 - 5 * step);
        }
        assert_eq!(arrivals, Arrivals::default());
    }

    #[test]
    fn who_was_reported_by_one_who_is_gone_is_forgotten_in_proportion() {
        let mut arrivals = Arrivals::default();
        arrivals.add(10, 100);
        arrivals.add(11, u64::MAX);
        arrivals.add(12, 1);
        assert_eq!(arrivals.waiting(), u64::MAX, "sums do not overflow");
        arrivals.call(50);
        arrivals.thin(u64::MAX - 100, u64::MAX);
        assert!(arrivals.waiting() <= 101, "{arrivals:?}");
        arrivals.thin(1, 1);
        assert_eq!(arrivals, Arrivals::default());
    }

    #[test]
    fn what_has_been_passed_is_forgotten() {
        let mut arrivals = Arrivals::default();
        (10..20).for_each(|s| arrivals.add(s, 10));
        arrivals.pass(15_500);
        assert_eq!((arrivals.waiting(), arrivals.before(16_000)), (45, 5));
        arrivals.pass(99_000);
        assert_eq!(arrivals, Arrivals::default());
    }

    #[test]
    fn memory_is_bounded_and_nobody_is_forgotten() {
        let mut arrivals = Arrivals::default();
        (0..10_000).for_each(|s| arrivals.add(s, 7));
        assert_eq!(arrivals.stretches.len(), limits::ARRIVAL_STRETCHES);
        assert_eq!(arrivals.waiting(), 70_000);
        let minute = arrivals.stretches.iter().rev().take(60);
        assert!(minute.clone().all(|s| s.until_ms - s.from_ms == 1_000));
        assert_eq!(arrivals.before(5_000_000), 35_000);
    }

    #[test]
    fn the_curve_has_few_points_and_ends_at_the_sum() {
        let mut arrivals = Arrivals::default();
        (0..300).for_each(|s| arrivals.add(s, s % 17));
        let curve = arrivals.curve(limits::CURVE_POINTS);
        assert!(curve.len() <= limits::CURVE_POINTS && curve.len() > 20, "{}", curve.len());
        assert_eq!(curve.last(), Some(&(300_000, arrivals.waiting())));
        assert!(curve.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1));
        for &(at, before) in &curve {
            assert_eq!(arrivals.before(at), before);
        }
        assert_eq!(Arrivals::default().curve(32), []);
    }
}
