//! Which first packets of clients become handshakes: budgets of handshakes a second and in flight, and
//! Retry (RFC 9000 section 8.1.2) while there are more than those of honest clients would be.

use std::time::{Duration, Instant};

use quinn_proto::Incoming;
use stentor_proto::Time;
use stentor_proto::session::Budget;

use super::networks::{Network, Networks};

/// What a driver accepts at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateSettings {
    /// Handshakes started in a second; first packets beyond it are ignored.
    pub per_s: u32,
    /// Handshakes under way; first packets beyond it are ignored.
    pub in_flight: usize,
    /// With this many handshakes under way, clients prove their address first (Retry).
    pub retry_above: usize,
    /// Of both, the part that one network has while the gate is pressed (percent).
    pub network_percent: u32,
}

impl GateSettings {
    /// A gate that is always open.
    pub const OPEN: Self = Self {
        per_s: u32::MAX,
        in_flight: usize::MAX,
        retry_above: usize::MAX,
        network_percent: 100,
    };

    /// A network's part of `whole`.
    fn part(&self, whole: u64) -> u64 {
        (whole.saturating_mul(self.network_percent.into()) / 100).max(1)
    }
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
    /// It is ignored, for the gate is pressed and its network has its part.
    OverShare,
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

    /// What becomes of a first packet from this network; a handshake that begins is counted for it.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        handshaking: usize,
        incoming: &Incoming,
        (networks, network): (&mut Networks, Network),
    ) -> Pass {
        let proven = incoming.remote_address_validated() || !incoming.may_retry();
        self.pass(now, handshaking, proven, (networks, network))
    }

    fn pass(
        &mut self,
        now: Instant,
        handshaking: usize,
        proven: bool,
        (networks, network): (&mut Networks, Network),
    ) -> Pass {
        if self.look(now, handshaking).0 && !proven {
            return Pass::Retry;
        }
        if handshaking >= self.settings.in_flight {
            return Pass::OverFlight;
        }
        if self.over_share(now, handshaking, (networks, network)) {
            return Pass::OverShare;
        }
        let pass = self.spend(now);
        if pass == Pass::Accept {
            networks.begins(network);
        }
        pass
    }

    /// Whether a network has had its part. Nobody is held to it before half of the budgets are used: many
    /// may share one address.
    fn over_share(
        &self,
        now: Instant,
        handshaking: usize,
        (networks, network): (&mut Networks, Network),
    ) -> bool {
        let GateSettings { per_s, in_flight, .. } = self.settings;
        let (all, own) = networks.started(now, network);
        let rate_pressed = self.retries || all >= per_s / 2;
        let flight_pressed = self.retries || handshaking >= in_flight / 2;
        let in_flight = u64::try_from(in_flight).unwrap_or(u64::MAX);
        (rate_pressed && u64::from(own) >= self.settings.part(per_s.into()))
            || (flight_pressed
                && u64::from(networks.under_way(network)) >= self.settings.part(in_flight))
    }

    fn spend(&mut self, now: Instant) -> Pass {
        let time = Time::ZERO + now.saturating_duration_since(self.zero);
        if self.budget.spend(time) { Pass::Accept } else { Pass::OverRate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: GateSettings =
        GateSettings { per_s: 100, in_flight: 40, retry_above: 20, network_percent: 100 };

    /// What becomes of a first packet from the network `n`.
    fn comes(
        gate: &mut Gate,
        networks: &mut Networks,
        (now, handshaking, proven): (Instant, usize, bool),
        n: u8,
    ) -> Pass {
        let network = networks.of([192, 0, n, 1].into());
        gate.pass(now, handshaking, proven, (networks, network))
    }

    #[test]
    fn handshakes_stay_within_their_budgets() {
        let now = Instant::now();
        let (mut gate, mut networks) = (Gate::new(SETTINGS, now), Networks::new(now));
        let mut pass = |now, under_way| comes(&mut gate, &mut networks, (now, under_way, true), 1);
        let passes: Vec<Pass> = (0..300).map(|_| pass(now, 0)).collect();
        assert_eq!(passes.iter().filter(|pass| **pass == Pass::Accept).count(), 100);
        assert_eq!(passes.last(), Some(&Pass::OverShare), "all of it is one network's part");
        let later = now + Duration::from_secs(1);
        assert_eq!(pass(later, 40), Pass::OverFlight);
        let mut pass = |n| comes(&mut gate, &mut networks, (later, 0, true), n);
        assert_eq!((0..200).filter(|&n| pass(n) == Pass::Accept).count(), 100);
        assert_eq!(pass(201), Pass::OverRate);
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
        let mut networks = Networks::new(now);
        assert_eq!(comes(&mut gate, &mut networks, (now, 0, false), 1), Pass::Retry);
        let proven = comes(&mut gate, &mut networks, (now, 0, true), 1);
        assert_eq!(proven, Pass::Accept, "who has proven its address comes in");
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
        let (mut gate, networks) = (Gate::new(SETTINGS, now), &mut Networks::new(now));
        assert_eq!(comes(&mut gate, networks, (now, 19, false), 1), Pass::Accept);
        assert_eq!(comes(&mut gate, networks, (now, 20, false), 1), Pass::Retry);
        let open = &mut Gate::new(GateSettings::OPEN, now);
        assert_eq!(comes(open, networks, (now, 1_000_000, false), 1), Pass::Accept);
    }

    #[test]
    fn one_network_does_not_take_the_whole_gate() {
        let mut now = Instant::now();
        let settings = GateSettings { network_percent: 20, retry_above: 1_000, ..SETTINGS };
        let (mut gate, mut networks) = (Gate::new(settings, now), Networks::new(now));
        let mut pass = |at, under_way, n| comes(&mut gate, &mut networks, (at, under_way, true), n);
        // Alone it has half of the second's handshakes: many people may share its address.
        assert_eq!((0..300).filter(|_| pass(now, 0, 1) == Pass::Accept).count(), 50);
        assert_eq!(pass(now, 0, 1), Pass::OverShare);
        // What is left is shared out in parts of a fifth.
        assert_eq!((0..300).filter(|_| pass(now, 0, 2) == Pass::Accept).count(), 20);
        assert_eq!((0..100).filter(|&n| pass(now, 0, 3 + n) == Pass::Accept).count(), 30);
        // With half of the handshakes under way, it has no more than a fifth of them; others have.
        now += Duration::from_secs(1);
        assert_eq!(pass(now, 20, 1), Pass::OverShare, "50 of its are under way");
        assert_eq!(pass(now, 20, 9), Pass::Accept);
        assert_eq!(pass(now, 19, 1), Pass::Accept, "while the gate is not pressed it comes in");
        let network = networks.of([192, 0, 1, 1].into());
        (0..50).for_each(|_| networks.ended(network));
        assert_eq!(comes(&mut gate, &mut networks, (now, 20, true), 1), Pass::Accept);
    }
}
