//! What those inside hear, tick by tick.

use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use stentor_proto::Time;
use stentor_proto::wire::Record;

use crate::crowd::Ticks;

/// What is on its way, or asked for again, at the end of what is counted (ticks).
const UNDER_WAY: u32 = 25;

/// What one who is inside heard.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    ticks: Ticks,
    /// When the last new tick came.
    last_new: Option<Time>,
    /// When the first tick with speech came.
    speech: Option<Time>,
    /// The newest tick of all when it left.
    left_at: Option<u32>,
}

/// What everybody who is inside hears.
#[derive(Clone, Debug)]
pub struct Hearing {
    /// By visit.
    each: Vec<Heard>,
    newest: u32,
    /// How long live ticks took from the origin's clock to the listeners' kernel (µs), since they
    /// were last taken.
    delays: Histogram<u64>,
}

impl Hearing {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            each: Vec::new(),
            newest: 0,
            delays: Histogram::new_with_bounds(1, 60_000_000, 3)?,
        })
    }

    pub(super) fn note(
        &mut self,
        visit: usize,
        now: Time,
        received_ns: u64,
        tick: (&Record, bool),
    ) {
        let (record, replay) = tick;
        if visit >= self.each.len() {
            self.each.resize_with(visit + 1, Heard::default);
        }
        let heard = &mut self.each[visit];
        heard.ticks.mark(record.number);
        heard.last_new = Some(now);
        if heard.speech.is_none() && !record.flags.is_heartbeat() {
            heard.speech = Some(now);
        }
        self.newest = self.newest.max(record.number);
        if !replay {
            // One machine, one clock: what it was set back by between the two counts as no delay.
            self.delays.saturating_record((received_ns / 1_000).saturating_sub(record.clock_us));
        }
    }

    pub(super) fn leaves(&mut self, visit: usize) {
        if let Some(heard) = self.each.get_mut(visit) {
            heard.left_at.get_or_insert(self.newest);
        }
    }

    /// The newest tick that reached anybody.
    #[must_use]
    pub const fn newest(&self) -> u32 {
        self.newest
    }

    /// When somebody first heard speech.
    #[must_use]
    pub fn speech(&self, visit: usize) -> Option<Time> {
        self.each.get(visit)?.speech
    }

    /// When the last new tick came to somebody.
    #[must_use]
    pub fn last_new(&self, visit: usize) -> Option<Time> {
        self.each.get(visit)?.last_new
    }

    /// Whether somebody left of its own accord, or was dismissed.
    #[must_use]
    pub fn left(&self, visit: usize) -> bool {
        self.each.get(visit).is_some_and(|heard| heard.left_at.is_some())
    }

    /// Those inside who heard nothing new for `time` before `now`.
    #[must_use]
    pub fn silent(&self, now: Time, time: Duration) -> usize {
        let silent = |heard: &&Heard| {
            heard.left_at.is_none() && heard.last_new.is_some_and(|at| now.since(at) > time)
        };
        self.each.iter().filter(silent).count()
    }

    /// The 99th percentile of the delays of live ticks since it was last asked (ms).
    pub fn take_delay_ms(&mut self) -> f64 {
        let delay = self.delays.value_at_quantile(0.99) as f64 / 1_000.0;
        self.delays.reset();
        delay
    }

    /// The first tick that somebody had.
    #[must_use]
    pub fn first(&self, visit: usize) -> Option<u32> {
        let heard = self.each.get(visit)?;
        heard.last_new.map(|_| heard.ticks.span().0)
    }

    /// The ticks that somebody never had: between the first and the newest that it should have had.
    pub fn missing(&self, visit: usize) -> impl Iterator<Item = u32> {
        let heard = self.each.get(visit).filter(|heard| heard.last_new.is_some());
        heard.into_iter().flat_map(|heard| {
            let until = heard.left_at.unwrap_or(self.newest).saturating_sub(UNDER_WAY);
            (heard.ticks.span().0..=until).filter(|&number| !heard.ticks.has(number))
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use stentor_proto::wire::TickFlags;

    use super::*;

    fn hears(hearing: &mut Hearing, visit: usize, number: u32, flags: u8) {
        let (payload, bytes) = (Bytes::new(), Bytes::new());
        let flags = TickFlags(flags);
        let record = Record { number, clock_us: 0, tick_ms: 20, flags, payload, bytes };
        hearing.note(visit, Time::from_millis(u64::from(number) * 20), 5_000_000, (&record, false));
    }

    #[test]
    fn what_somebody_never_had_is_named() {
        let mut hearing = Hearing::new().unwrap();
        for number in 100..200 {
            if number != 150 {
                hears(&mut hearing, 3, number, TickFlags::HEARTBEAT);
            }
            hears(&mut hearing, 4, number, 0);
        }
        assert_eq!(hearing.missing(3).collect::<Vec<_>>(), [150]);
        assert_eq!((hearing.missing(4).count(), hearing.missing(9).count()), (0, 0));
        assert_eq!(hearing.speech(4), Some(Time::from_millis(2_000)));
        assert_eq!(hearing.speech(3), None);
        // The histogram keeps three digits.
        assert!((hearing.take_delay_ms() - 5.0).abs() < 0.01);
        // Who leaves misses nothing from there on; who stays and hears nothing misses it.
        hearing.leaves(4);
        for number in 200..300 {
            hears(&mut hearing, 5, number, 0);
        }
        assert_eq!((hearing.missing(4).count(), hearing.missing(3).count()), (0, 1 + 75));
        assert_eq!(hearing.silent(Time::from_millis(6_000), Duration::from_secs(1)), 1);
    }
}
