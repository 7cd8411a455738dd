//! Which speaker a tick had better begin with.
//!
//! Speakers send every 20 ms, each in a phase of its own. A tick that begins with one and waits
//! 19 ms for the other would wait 1 ms if it began with the other, but the closing rule by itself
//! keeps the order that it started with. So a tick is closed early once: those who came before the
//! widest gap leave in it, and from there on ticks begin with whoever comes after the gap.

use std::time::Duration;

use crate::{Time, limits};

/// How a room's ticks wait, and what is to be done about it.
#[derive(Debug, Default)]
pub(super) struct Phases {
    /// Ticks that would have waited less in another order, less those that would not.
    badly: u32,
    /// Those whom the open tick is not to wait beyond; empty nearly always.
    early: Vec<u16>,
}

impl Phases {
    /// The speakers with whom the open tick closes early, if it is to.
    pub(super) fn early(&self) -> Option<&[u16]> {
        Some(self.early.as_slice()).filter(|early| !early.is_empty())
    }

    /// A tick closes that holds exactly one tick's share of each speaker: `came` says when each share
    /// was there. Other ticks say nothing about phases, and `came` is empty.
    pub(super) fn closes(&mut self, mut came: Vec<(Time, u16)>, cadence: Duration) {
        if !self.early.is_empty() {
            *self = Self::default();
            return;
        }
        came.sort_unstable();
        let gaps = came.windows(2).map(|pair| pair[1].0.since(pair[0].0)).zip(1..);
        let (Some((widest, cut)), Some(first), Some(last)) =
            (gaps.max(), came.first(), came.last())
        else {
            return;
        };
        let around = cadence.saturating_sub(last.0.since(first.0));
        if widest < around + limits::REGROUP_GAIN {
            self.badly = self.badly.saturating_sub(1);
            return;
        }
        self.badly += 1;
        if self.badly >= limits::REGROUP_AFTER {
            self.early = came[..cut].iter().map(|(_, slot)| *slot).collect();
        }
    }
}
