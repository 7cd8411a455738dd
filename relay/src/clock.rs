//! The node's clock: the one place where the shell reads time for the protocol.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use stentor_proto::Time;

/// Turns the machine's clocks into the protocol's [`Time`]; copied into every thread of a node.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    zero: Instant,
    unix_us_at_zero: u64,
}

impl Clock {
    /// A clock whose zero is this moment.
    #[must_use]
    pub fn start() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_us_at_zero = u64::try_from(unix.as_micros()).unwrap_or(u64::MAX);
        Self { zero: Instant::now(), unix_us_at_zero }
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
