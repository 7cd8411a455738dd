//! A congestion controller for a stream of small datagrams at a steady rate.
//!
//! Such a stream cannot fill a window and does not grow with it: a controller made for bulk transfer
//! shrinks on random loss until audio is blocked, exactly when redundancy is called for. This one
//! keeps room for twice the rate that is observed, whatever the loss; what sustained loss means for a
//! listener (less redundancy, another relay, the end) is decided above, from
//! [`ConnStats`](super::ConnStats).

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory};
use stentor_proto::limits::{WINDOW_MOST_BYTES, WINDOW_START_BYTES};

/// Makes the controllers of an endpoint's connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct SteadyFactory {
    /// The longest that a peer may wait before it acknowledges.
    pub(super) ack_delay: Duration,
}

impl ControllerFactory for SteadyFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Steady {
            window: WINDOW_START_BYTES,
            floor: least(current_mtu),
            mtu: current_mtu,
            ack_delay: self.ack_delay,
            rtt: Duration::ZERO,
            measured_from: now,
            measured_bytes: 0,
            bytes_per_s: 0,
            recovery_from: None,
        })
    }
}

/// The controller of one connection.
#[derive(Clone, Debug)]
struct Steady {
    window: u64,
    /// Twice what the observed rate has in flight, four packets at least.
    floor: u64,
    mtu: u16,
    ack_delay: Duration,
    rtt: Duration,
    measured_from: Instant,
    measured_bytes: u64,
    bytes_per_s: u64,
    /// Losses of packets sent before this belong to an event that was answered already.
    recovery_from: Option<Instant>,
}

impl Steady {
    /// Closes a measuring interval and raises or lowers the floor with the rate.
    fn measure(&mut self, now: Instant, elapsed: Duration) {
        let micros = elapsed.as_micros().clamp(1, u128::from(u64::MAX)) as u64;
        let rate = self.measured_bytes.saturating_mul(1_000_000) / micros;
        // A rise counts at once, a fall by a quarter: a pause in speech is no change of rate.
        self.bytes_per_s = rate.max(self.bytes_per_s - self.bytes_per_s / 4);
        self.measured_from = now;
        self.measured_bytes = 0;
        let waiting = (self.rtt + self.ack_delay).as_micros().min(10_000_000) as u64;
        let in_flight = self.bytes_per_s.saturating_mul(waiting) / 1_000_000;
        self.floor = (2 * in_flight).clamp(least(self.mtu), WINDOW_MOST_BYTES);
        self.window = self.window.max(self.floor);
    }
}

impl Controller for Steady {
    #[inline]
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet_number: u64) {
        self.measured_bytes += bytes;
        let elapsed = now.saturating_duration_since(self.measured_from);
        if elapsed >= MEASURE {
            self.measure(now, elapsed);
        }
    }

    #[inline]
    fn on_ack(
        &mut self,
        _now: Instant,
        sent: Instant,
        bytes: u64,
        _app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.rtt = rtt.get();
        if self.window < WINDOW_START_BYTES && self.recovery_from.is_none_or(|from| sent > from) {
            self.window = (self.window + bytes).min(WINDOW_START_BYTES);
        }
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        _lost_bytes: u64,
    ) {
        if is_persistent_congestion {
            self.recovery_from = Some(now);
            self.window = self.floor;
        } else if self.recovery_from.is_none_or(|from| sent > from) {
            // One step for each round trip with loss, and never under the floor: a room's rate is
            // not what fills a queue.
            self.recovery_from = Some(now);
            self.window = (self.window - self.window / 8).max(self.floor);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.floor = self.floor.max(least(new_mtu));
        self.window = self.window.max(self.floor);
    }

    #[inline]
    fn window(&self) -> u64 {
        self.window
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        WINDOW_START_BYTES
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// The smallest window: four packets.
const fn least(mtu: u16) -> u64 {
    4 * mtu as u64
}

/// The rate is measured over intervals of this: some ticks of every cadence.
const MEASURE: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    fn controller(now: Instant) -> Box<dyn Controller> {
        let factory = SteadyFactory { ack_delay: Duration::from_millis(25) };
        Arc::new(factory).build(now, 1200)
    }

    /// Sends `bytes` every 20 ms for `seconds`.
    fn send(controller: &mut dyn Controller, from: Instant, seconds: u64, bytes: u64) -> Instant {
        for tick in 0..seconds * 50 {
            controller.on_sent(from + Duration::from_millis(20 * tick), bytes, tick);
        }
        from + Duration::from_secs(seconds)
    }

    #[test]
    fn loss_does_not_collapse_the_window() {
        let start = Instant::now();
        let mut controller = controller(start);
        assert_eq!(controller.window(), WINDOW_START_BYTES);
        let mut now = send(&mut *controller, start, 2, 1100);
        for _ in 0..1_000 {
            now += Duration::from_millis(20);
            controller.on_congestion_event(now, now, false, 1100);
        }
        // 55 kB/s over 25 ms, twice, is 2,750 bytes: four packets are more.
        assert_eq!(controller.window(), 4_800);
    }

    #[test]
    fn persistent_congestion_goes_to_the_floor_and_acknowledgements_lead_back() {
        let start = Instant::now();
        let mut controller = controller(start);
        let now = send(&mut *controller, start, 1, 100_000);
        // 5 MB/s over 25 ms, twice, is beyond the most.
        assert_eq!(controller.window(), WINDOW_MOST_BYTES);
        let now = send(&mut *controller, now, 20, 100);
        controller.on_congestion_event(now, now, true, 1);
        assert_eq!(controller.window(), 4_800);
        controller.on_mtu_update(1_400);
        assert_eq!(controller.window(), 5_600);
        assert_eq!(controller.clone_box().window(), 5_600);
    }

    #[test]
    fn losses_of_one_round_trip_count_once() {
        let start = Instant::now();
        let mut controller = controller(start);
        let now = start + Duration::from_secs(1);
        for _ in 0..10 {
            controller.on_congestion_event(now, start, false, 100);
        }
        assert_eq!(controller.window(), WINDOW_START_BYTES / 8 * 7);
    }
}
