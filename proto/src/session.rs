//! Sessions: their states and what one may spend.
//!
//! ```text
//!            hello, token            room, slot            drain
//!   Greeting ───────────▶ Authorized ──────────▶ Joined ─────────▶ Draining
//!      │                      │                     │                  │
//!      └──────────────────────┴───────close─────────┴──────────────────┴──▶ Closed
//! ```

use std::time::Duration;

use crate::Time;
use crate::fanout::SessionIx;

/// Names a session across the queue between shards and control: an index that is reused, and a
/// generation that is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey {
    /// The shard that owns the session.
    pub shard: u16,
    /// Its place in the shard's slab.
    pub ix: SessionIx,
    /// Rises with every session of the shard.
    pub generation: u32,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Connected; its hello is awaited.
    Greeting,
    /// Its token is good; the room or the slot is awaited.
    Authorized,
    /// In the room, or registered as a relay.
    Joined,
    /// Told to leave; what it gets goes on until it does.
    Draining,
    /// To be forgotten.
    Closed,
}

/// What moves a session from one state to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A hello with a good token.
    Authorize,
    /// The room is there and, for the stage, a slot.
    Join,
    /// The node drains.
    Drain,
    /// Either side ends it.
    Close,
}

impl State {
    /// The state after `step`; `None` where the chart above has no such arrow.
    #[must_use]
    pub const fn after(self, step: Step) -> Option<Self> {
        match (self, step) {
            (Self::Closed, _) => None,
            (_, Step::Close) => Some(Self::Closed),
            (Self::Greeting, Step::Authorize) => Some(Self::Authorized),
            (Self::Authorized, Step::Join) => Some(Self::Joined),
            (Self::Joined, Step::Drain) => Some(Self::Draining),
            _ => None,
        }
    }
}

/// A budget that refills with time: so many a second, and as many at once.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    per_s: u32,
    /// What is left, in millionths.
    left_micro: u64,
    at: Time,
}

impl Budget {
    /// A full budget of `per_s` a second, of which as many may be spent at once.
    #[must_use]
    pub const fn new(per_s: u32, now: Time) -> Self {
        Self { per_s, left_micro: per_s as u64 * 1_000_000, at: now }
    }

    /// Spends one, if there is one.
    pub fn spend(&mut self, now: Time) -> bool {
        let elapsed = now.since(self.at).min(Duration::from_secs(1));
        let full = u64::from(self.per_s) * 1_000_000;
        let refill = u64::try_from(elapsed.as_micros()).unwrap_or(0) * u64::from(self.per_s);
        self.left_micro = (self.left_micro + refill).min(full);
        self.at = self.at.max(now);
        let enough = self.left_micro >= 1_000_000;
        if enough {
            self.left_micro -= 1_000_000;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_has_these_arrows_and_no_others() {
        use State::{Authorized, Closed, Draining, Greeting, Joined};
        let states = [Greeting, Authorized, Joined, Draining, Closed];
        let steps = [Step::Authorize, Step::Join, Step::Drain, Step::Close];
        let arrows: Vec<_> = states
            .iter()
            .flat_map(|&from| steps.iter().map(move |&step| (from, step)))
            .filter_map(|(from, step)| from.after(step).map(|to| (from, to)))
            .collect();
        let expected = [
            (Greeting, Authorized),
            (Greeting, Closed),
            (Authorized, Joined),
            (Authorized, Closed),
            (Joined, Draining),
            (Joined, Closed),
            (Draining, Closed),
        ];
        assert_eq!(arrows, expected);
    }

    #[test]
    fn a_budget_refills_with_time_and_never_beyond_its_size() {
        let mut budget = Budget::new(10, Time::ZERO);
        let spent = (0..20).filter(|_| budget.spend(Time::ZERO)).count();
        assert_eq!(spent, 10);
        assert!(!budget.spend(Time::from_millis(99)));
        assert!(budget.spend(Time::from_millis(200)));
        let spent = (0..99).filter(|_| budget.spend(Time::from_millis(900_000))).count();
        assert_eq!(spent, 10);
    }
}
