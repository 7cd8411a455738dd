//! What leaves a shard in a second, and whether it bears another listener.

use std::time::Duration;

use crate::Time;

/// Over how long egress is measured: as long as reports of load are apart.
const WINDOW: Duration = Duration::from_secs(1);

/// Bytes that leave for listeners. The last whole second says what one of them costs; how many there are is
/// known at once, so that a burst of joins is counted before its bytes have left.
#[derive(Debug)]
pub(crate) struct Egress {
    /// Bytes in a second at most.
    most: u64,
    begun: Time,
    bytes: u64,
    /// Bytes a second of one listener, by the last window.
    each: u64,
}

impl Egress {
    pub(crate) const fn new(most_kbit_s: u32, now: Time) -> Self {
        Self { most: most_kbit_s as u64 * 1_000 / 8, begun: now, bytes: 0, each: 0 }
    }

    /// So many bytes have left, to `listeners` in all.
    pub(crate) fn left(&mut self, now: Time, bytes: u64, listeners: u32) {
        self.bytes = self.bytes.saturating_add(bytes);
        let passed = now.since(self.begun);
        if passed < WINDOW {
            return;
        }
        let micros = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX);
        let per_s = self.bytes.saturating_mul(1_000_000) / micros;
        self.each = per_s.checked_div(listeners.into()).unwrap_or(self.each);
        (self.begun, self.bytes) = (now, 0);
    }

    /// Listeners that the budget bears, at what one of them costs.
    pub(crate) fn bears(&self) -> u32 {
        let bears = self.most.checked_div(self.each);
        bears.map_or(u32::MAX, |bears| u32::try_from(bears).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_bears_as_many_as_their_share_of_a_second_says() {
        let mut egress = Egress::new(80, Time::ZERO);
        assert_eq!(egress.bears(), u32::MAX, "nothing has left yet");
        // Ten listeners, 50 datagrams of 200 bytes each: 10,000 bytes a second is one of them.
        for tick in 1..=51 {
            egress.left(Time::from_millis(20 * tick), 10 * 200, 10);
        }
        assert_eq!(egress.bears(), 1);
        let mut wide = Egress::new(u32::MAX, Time::ZERO);
        wide.left(Time::from_millis(1_000), 1_000, 0);
        assert_eq!(wide.bears(), u32::MAX, "without listeners nobody knows what one costs");
    }
}
