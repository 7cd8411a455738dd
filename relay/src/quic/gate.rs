//! Which first packets of clients become handshakes: budgets of handshakes a second and in flight, and
//! Retry (RFC 9000 section 8.1.2) while there are more than those of honest clients would be.

use std::time::{Duration, Instant};

use quinn_proto::Incoming;
use stentor_proto::Time;
use stentor_proto::session::Budget;

/// What a driver accepts at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateSettings {
    /// Handshakes started in a second; first packets beyond it are ignored.
    pub per_s: u32,
    /// Handshakes under way; first packets beyond it are ignored.
    pub in_flight: usize,
    /// With this many handshakes under way, clients prove their address first (Retry).
    pub retry_above: usize,
}

impl GateSettings {
    /// A gate that is always open.
    pub const OPEN: Self = Self { per_s: u32::MAX, in_flight: usize::MAX, retry_above: usize::MAX };
}

/// What becomes of a client's first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// Its handshake begins.
    Accept,
    /// It is to prove its address.
    Retry,
    /// It is ignored, for the second's handshakes are spent; the client tries again by itself, ever
    /// more slowly.
    OverRate,
    /// It is ignored, for as many handshakes are under way as may be.
    OverFlight,
}

/// How often the rate of first packets is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Retry goes off after so many looks in a row that showed less than half of what it goes on for.
const CALM_LOOKS: u32 = 8;

/// The gate of one driver.
#[derive(Debug)]
pub(super) struct Gate {
    settings: GateSettings,
    zero: Instant,
    budget: Budget,
    /// When the present look began, and the first packets since.
    look: (Instant, u32),
    calm: u32,
    retries: bool,
    /// Times that Retry went on.
    switched: u64,
}

impl Gate {
    pub(super) fn new(settings: GateSettings, now: Instant) -> Self {
        Self {
            settings,
            zero: now,
            budget: Budget::new(settings.per_s, Time::ZERO),
            look: (now, 0),
            calm: 0,
            retries: false,
            switched: 0,
        }
    }

    /// A client's first packet has come.
    pub(super) fn arrived(&mut self) {
        self.look.1 = self.look.1.saturating_add(1);
    }

    /// Looks whether Retry is called for; returns whether it is on, and how often it went on.
    pub(super) fn look(&mut self, now: Instant, handshaking: usize) -> (bool, u64) {
        let since = now.saturating_duration_since(self.look.0);
        let many = handshaking >= self.settings.retry_above;
        if since < LOOK_EVERY && !many {
            return (self.retries, self.switched);
        }
        let rate = f64::from(self.look.1) / since.as_secs_f64().max(LOOK_EVERY.as_secs_f64());
        let most = f64::from(self.settings.per_s);
        if many || rate > most {
            self.switched += u64::from(!self.retries);
            self.retries = true;
            self.calm = 0;
        } else if rate <= most / 2.0 && handshaking <= self.settings.retry_above / 2 {
            self.calm += 1;
            self.retries &= self.calm < CALM_LOOKS;
        } else {
            self.calm = 0;
        }
        if since >= LOOK_EVERY {
            self.look = (now, 0);
        }
        (self.retries, self.switched)
    }

    pub(super) fn judge(&mut self, now: Instant, handshaking: usize, incoming: &Incoming) -> Pass {
        let proven = incoming.remote_address_validated() || !incoming.may_retry();
        self.pass(now, handshaking, proven)
    }

    fn pass(&mut self, now: Instant, handshaking: usize, proven: bool) -> Pass {
        if self.look(now, handshaking).0 && !proven {
            return Pass::Retry;
        }
        if handshaking >= self.settings.in_flight {
            return Pass::OverFlight;
        }
        let time = Time::ZERO + now.saturating_duration_since(self.zero);
        if self.budget.spend(time) { Pass::Accept } else { Pass::OverRate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: GateSettings = GateSettings { per_s: 100, in_flight: 40, retry_above: 20 };

    #[test]
    fn handshakes_stay_within_their_budgets() {
        let now = Instant::now();
        let mut gate = Gate::new(SETTINGS, now);
        let passes: Vec<Pass> = (0..300).map(|_| gate.pass(now, 0, true)).collect();
        assert_eq!(passes.iter().filter(|pass| **pass == Pass::Accept).count(), 100);
        assert_eq!(passes.last(), Some(&Pass::OverRate));
        let later = now + Duration::from_secs(1);
        assert_eq!(gate.pass(later, 40, true), Pass::OverFlight);
        assert_eq!(gate.pass(later, 39, true), Pass::Accept);
    }

    #[test]
    fn retry_goes_on_under_a_flood_and_off_when_it_is_over() {
        let mut now = Instant::now();
        let mut gate = Gate::new(SETTINGS, now);
        for _ in 0..4 {
            (0..100).for_each(|_| gate.arrived());
            now += LOOK_EVERY;
            gate.look(now, 0);
        }
        assert_eq!(gate.look(now, 0), (true, 1));
        assert_eq!(gate.pass(now, 0, false), Pass::Retry);
        assert_eq!(gate.pass(now, 0, true), Pass::Accept, "who has proven its address comes in");
        // Three quarters of the limit do not end it: it would go on again in a moment.
        for _ in 0..40 {
            (0..18).for_each(|_| gate.arrived());
            now += LOOK_EVERY;
            assert!(gate.look(now, 0).0);
        }
        for _ in 0..CALM_LOOKS {
            assert!(gate.look(now, 0).0);
            now += LOOK_EVERY;
            gate.look(now, 0);
        }
        assert_eq!(gate.look(now, 0), (false, 1));
    }

    #[test]
    fn retry_goes_on_at_once_when_many_handshakes_hang() {
        let now = Instant::now();
        let mut gate = Gate::new(SETTINGS, now);
        assert_eq!(gate.pass(now, 19, false), Pass::Accept);
        assert_eq!(gate.pass(now, 20, false), Pass::Retry);
        let open = &mut Gate::new(GateSettings::OPEN, now);
        assert_eq!(open.pass(now, 1_000_000, false), Pass::Accept);
    }
}
