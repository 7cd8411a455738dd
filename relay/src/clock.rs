//! The node's clock: the one place where the shell reads time for the protocol.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use stentor_proto::Time;

/// The wall clock is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What it may be off before it has been set: the monotonic clock follows what is less, as the machine's
/// time service slews both.
const STEP: Duration = Duration::from_millis(250);

/// Turns the machine's clocks into the protocol's [`Time`]; copied into every thread of a node.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    zero: Instant,
    unix_us_at_zero: u64,
    looked: Instant,
}

impl Clock {
    /// A clock whose zero is this moment.
    #[must_use]
    pub fn start() -> Self {
        let now = Instant::now();
        Self { zero: now, unix_us_at_zero: unix_us(), looked: now }
    }

    /// The wall clock at zero, if the clock has been set since it was last asked: whoever started with a
    /// wrong one would take every token for expired, or for good, until it is started again.
    pub fn set(&mut self, now: Instant) -> Option<u64> {
        if now.saturating_duration_since(self.looked) < LOOK_EVERY {
            return None;
        }
        self.looked = now;
        self.compare(now, unix_us())
    }

    fn compare(&mut self, now: Instant, unix_us: u64) -> Option<u64> {
        let passed = now.saturating_duration_since(self.zero).as_micros();
        let at_zero = unix_us.saturating_sub(u64::try_from(passed).unwrap_or(u64::MAX));
        let off = Duration::from_micros(at_zero.abs_diff(self.unix_us_at_zero));
        (off >= STEP).then(|| {
            self.unix_us_at_zero = at_zero;
            at_zero
        })
    }

    /// The wall clock at zero: microseconds since the Unix epoch.
    #[must_use]
    pub const fn unix_us_at_zero(&self) -> u64 {
        self.unix_us_at_zero
    }

    /// The protocol's time at a point of the machine's monotonic clock.
    #[must_use]
    pub fn time(&self, at: Instant) -> Time {
        Time::ZERO + at.saturating_duration_since(self.zero)
    }

    /// The machine's monotonic clock at a point of the protocol's time; `None` for never.
    #[must_use]
    pub fn instant(&self, time: Time) -> Option<Instant> {
        if time == Time::MAX {
            return None;
        }
        self.zero.checked_add(Duration::from_micros(time.as_micros()))
    }
}

/// The wall clock: microseconds since the Unix epoch.
fn unix_us() -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(unix.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_is_followed_and_one_that_is_slewed_is_not() {
        let mut clock = Clock::start();
        let (zero, start) = (clock.zero, clock.unix_us_at_zero());
        let later = zero + Duration::from_secs(5);
        assert_eq!(clock.compare(later, start + 5_000_000), None);
        assert_eq!(clock.compare(later, start + 5_200_000), None, "as the time service slews");
        let hour = 3_600_000_000;
        assert_eq!(clock.compare(later, start + 5_000_000 + hour), Some(start + hour));
        assert_eq!(clock.unix_us_at_zero(), start + hour);
        assert_eq!(clock.compare(later, start + 5_000_000 + hour), None, "it is told once");
        assert_eq!(clock.compare(later, 1_000), Some(0), "before it ran nothing was");
        assert_eq!(clock.set(zero + LOOK_EVERY / 2), None);
    }
}
