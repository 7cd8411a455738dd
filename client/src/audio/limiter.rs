//! Keeps a mix within full scale: gain 1 unless it is too loud.

use super::{BLOCK, Block};

/// Peaks up to here pass unchanged.
const THRESHOLD: f32 = 0.95;
/// Samples over which the gain falls before a peak: 1 ms.
const ATTACK: usize = 48;
/// What the gain regains of its distance to 1 in a block: half in about 140 ms.
const RELEASE: f32 = 0.1;

/// A limiter that works block by block, and therefore knows a peak before it comes.
pub(super) struct Limiter {
    gain: f32,
}

impl Limiter {
    pub(super) fn new() -> Self {
        Self { gain: 1.0 }
    }

    /// Brings every sample within ±1.
    pub(super) fn apply(&mut self, block: &mut Block) {
        let peak = block.iter().fold(0.0_f32, |peak, sample| peak.max(sample.abs()));
        let needed = if peak > THRESHOLD { THRESHOLD / peak } else { 1.0 };
        let start = self.gain;
        if start >= 1.0 && needed >= 1.0 {
            return;
        }
        let (end, over) = if needed < start {
            (needed, ATTACK)
        } else {
            ((start + (1.0 - start) * RELEASE).min(needed), BLOCK)
        };
        for (i, sample) in block.iter_mut().enumerate() {
            let share = ((i + 1) as f32 / over as f32).min(1.0);
            *sample = round_off(*sample * (start + (end - start) * share));
        }
        self.gain = if end > 0.9999 { 1.0 } else { end };
    }
}

/// What is above the threshold while the gain falls is bent below 1.
fn round_off(sample: f32) -> f32 {
    let over = sample.abs() - THRESHOLD;
    if over <= 0.0 {
        return sample;
    }
    let room = 1.0 - THRESHOLD;
    (THRESHOLD + room * (over / room).tanh()).min(1.0).copysign(sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_too_loud_passes_unchanged() {
        let mut limiter = Limiter::new();
        let block: Block = std::array::from_fn(|i| (i as f32 * 0.05).sin() * 0.94);
        let mut limited = block;
        limiter.apply(&mut limited);
        assert_eq!(block, limited);
    }

    #[test]
    fn overload_stays_below_full_scale_and_passes() {
        let mut limiter = Limiter::new();
        for round in 0..100 {
            let loud = if round < 10 { 3.0 } else { 0.5 };
            let mut block: Block = std::array::from_fn(|i| (i as f32 * 0.05).sin() * loud);
            limiter.apply(&mut block);
            assert!(block.iter().all(|sample| sample.abs() <= 1.0));
        }
        assert!(limiter.gain > 0.99);
    }
}
