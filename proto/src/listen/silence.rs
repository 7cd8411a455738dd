//! When a session counts as silent: by what came on it, and by the gaps that its path has shown.

use std::time::Duration;

use crate::{Time, limits};

/// The silence of one listener's session.
///
/// A relay that has no tick to send sends beacons, so a living hop is never silent for longer than
/// two cadences and its jitter. The threshold follows the longest gap seen of late.
#[derive(Clone, Debug)]
pub(super) struct Silence {
    heard: Time,
    tick_ms: u8,
    /// The longest gap of the present and of the former stretch of [`limits::JITTER_MEMORY`].
    gaps: [Duration; 2],
    turned: Time,
    /// The round trip of the path as the transport knows it; zero while it does not.
    round_trip: Duration,
}

impl Silence {
    pub(super) fn new(now: Time, tick_ms: u8) -> Self {
        Self {
            heard: now,
            tick_ms,
            gaps: [Duration::ZERO; 2],
            turned: now,
            round_trip: Duration::ZERO,
        }
    }

    pub(super) fn set_cadence(&mut self, tick_ms: u8) {
        self.tick_ms = tick_ms;
    }

    pub(super) fn set_round_trip(&mut self, round_trip: Duration) {
        self.round_trip = round_trip.min(limits::ROUND_TRIP_MOST);
    }

    /// Something came.
    pub(super) fn heard(&mut self, now: Time) {
        let gap = now.since(self.heard);
        if now.since(self.turned) >= limits::JITTER_MEMORY {
            self.gaps = [Duration::ZERO, self.gaps[0]];
            self.turned = now;
        }
        self.gaps[0] = self.gaps[0].max(gap);
        self.heard = self.heard.max(now);
    }

    /// Another session is listened to from here on; its path is as jittery as the last one's, for
    /// most of the jitter is the listener's own.
    pub(super) fn restart(&mut self, now: Time) {
        self.heard = now;
    }

    /// Takes over the gaps and the round trip that a path has shown to another one who shares it.
    pub(super) fn share_path(&mut self, other: &Self) {
        (self.gaps, self.turned) = (other.gaps, other.turned);
        self.round_trip = other.round_trip;
    }

    /// When the session becomes silent.
    pub(super) fn silent_at(&self) -> Time {
        self.heard + self.threshold().max(self.answered_after())
    }

    /// When another relay is looked for: a probe has had a third of the time that was left to be
    /// answered, and its round trip at least, and a handshake takes its time. The session is left only
    /// when it is silent.
    pub(super) fn doubtful_at(&self) -> Time {
        self.heard + (self.threshold() * 2 / 3).max(self.answered_after())
    }

    /// How long after the last sign of life the answer to a probe has come, where the node is alive and
    /// nothing but its knowledge of the listener's address is missing.
    fn answered_after(&self) -> Duration {
        match self.round_trip {
            Duration::ZERO => Duration::ZERO,
            known => self.threshold() / 2 + known * 5 / 4 + limits::REPAIR_SKEW / 2,
        }
    }

    /// When it is to be asked for a sign of life: well before it is left.
    pub(super) fn probe_at(&self) -> Time {
        self.heard + self.threshold() / 2
    }

    fn threshold(&self) -> Duration {
        let least = limits::SILENT_AFTER + 2 * Duration::from_millis(self.tick_ms.into());
        let worst = self.gaps[0].max(self.gaps[1]);
        (2 * worst).clamp(least, limits::SILENT_MOST.max(least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    #[test]
    fn the_threshold_follows_the_gaps_that_the_path_shows() {
        let mut silence = Silence::new(ms(0), 20);
        assert_eq!(silence.silent_at(), ms(150));
        assert_eq!(silence.probe_at(), ms(75));
        assert_eq!(silence.doubtful_at(), ms(100));
        silence.heard(ms(100));
        assert_eq!(silence.silent_at(), ms(300));
        silence.heard(ms(2_100));
        assert_eq!(silence.silent_at(), ms(2_700), "never above the most that jitter explains");
        // Two stretches later the gap is forgotten.
        for at in (2_120..40_000).step_by(20) {
            silence.heard(ms(at));
        }
        assert_eq!(silence.silent_at(), ms(39_980 + 150));
    }

    #[test]
    fn a_probe_has_its_round_trip_to_be_answered() {
        let mut silence = Silence::new(ms(0), 20);
        silence.set_round_trip(Duration::from_millis(10));
        assert_eq!((silence.doubtful_at(), silence.silent_at()), (ms(100), ms(150)), "near");
        silence.set_round_trip(Duration::from_millis(40));
        assert_eq!((silence.doubtful_at(), silence.silent_at()), (ms(130), ms(150)), "far");
        silence.set_round_trip(Duration::from_millis(80));
        assert_eq!((silence.doubtful_at(), silence.silent_at()), (ms(180), ms(180)), "further");
        silence.set_round_trip(Duration::from_secs(3));
        assert_eq!(silence.silent_at(), ms(75 + 125 + 5), "no further than the most");
        assert_eq!(silence.probe_at(), ms(75));
    }

    #[test]
    fn a_slow_cadence_has_a_longer_patience_than_its_beacons() {
        assert_eq!(Silence::new(ms(0), 60).silent_at(), ms(230));
    }
}
