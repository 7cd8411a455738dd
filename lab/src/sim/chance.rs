//! Chance that a seed decides: the same seed makes the same world.

use std::time::Duration;

/// A sequence of numbers that starts at a seed (SplitMix64).
#[derive(Clone, Debug)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(mix(seed, 0))
    }

    pub(super) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        scramble(self.0)
    }

    /// A number below `n`; 0 for an empty range.
    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.draw() % (n.max(1) as u64)) as usize
    }

    /// A time below `most`.
    pub(super) fn within(&mut self, most: Duration) -> Duration {
        most.mul_f64(share(self.draw()))
    }

    /// Whether an event of this probability happens.
    pub(super) fn happens(&mut self, probability: f64) -> bool {
        share(self.draw()) < probability
    }
}

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A number that both `a` and `b` decide: chance without a sequence, for what may be asked in any
/// order.
pub(super) const fn mix(a: u64, b: u64) -> u64 {
    scramble(scramble(a.wrapping_add(STEP)).wrapping_add(b).wrapping_add(STEP))
}

/// A drawn number as a share of 1.
pub(super) fn share(drawn: u64) -> f64 {
    (drawn >> 11) as f64 / (1_u64 << 53) as f64
}

const fn scramble(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
