//! Correlation: by FFT at 8 kHz to find a lag, by sums at 48 kHz to judge.

use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};

/// 48 kHz to 8 kHz.
pub(super) const DECIMATION: usize = 6;
/// Taps of the low-pass before decimation.
const TAPS: usize = 73;
/// Its corner as a share of the rate: 3.6 kHz.
const CORNER: f32 = 3_600.0 / 48_000.0;

/// Brings 48 kHz to 8 kHz; sample i of the result stands where sample 6 i stood.
pub(super) fn decimate(samples: &[f32]) -> Vec<f32> {
    let taps = low_pass();
    let half = TAPS / 2;
    (0..samples.len().div_ceil(DECIMATION))
        .map(|i| {
            let centre = i * DECIMATION;
            let first = centre.saturating_sub(half);
            let last = (centre + half + 1).min(samples.len());
            dot(&samples[first..last], &taps[first + half - centre..])
        })
        .collect()
}

/// A sinc under a Hann window, with a gain of 1.
fn low_pass() -> [f32; TAPS] {
    let half = (TAPS / 2) as f32;
    let mut taps: [f32; TAPS] = std::array::from_fn(|i| {
        let x = (i as f32 - half) * std::f32::consts::TAU * CORNER;
        let sinc = if x == 0.0 { 1.0 } else { x.sin() / x };
        let turn = std::f32::consts::TAU * (i as f32 + 1.0) / (TAPS as f32 + 1.0);
        sinc * (0.5 - 0.5 * turn.cos())
    });
    let sum: f32 = taps.iter().sum();
    taps.iter_mut().for_each(|tap| *tap /= sum);
    taps
}

/// The sum of products over the shorter length.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [0.0_f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let len = a.len().min(b.len());
    let whole = len - len % LANES;
    for (a, b) in a_chunks.zip(b_chunks) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    let rest: f32 = a[whole..len].iter().zip(&b[whole..len]).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

/// The correlation of two pieces, −1 to 1; 0 where one of them is silent.
pub(super) fn correlation(a: &[f32], b: &[f32]) -> f32 {
    let energies = dot(a, a) * dot(b, b);
    if energies > 1e-12 { dot(a, b) / energies.sqrt() } else { 0.0 }
}

/// Where a piece fits best within a longer one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peak {
    /// The place of the piece's first sample in the longer one, in fractions of a sample.
    pub(super) place: f32,
    /// The correlation there.
    pub(super) height: f32,
}

/// Finds pieces of one length by FFT.
pub(super) struct Finder {
    forward: Arc<dyn RealToComplex<f32>>,
    backward: Arc<dyn ComplexToReal<f32>>,
    size: usize,
    piece: usize,
}

/// A piece, prepared once and found in many outputs.
pub(super) struct Piece {
    spectrum: Vec<Complex<f32>>,
    energy: f32,
}

impl Finder {
    /// For pieces of `piece` samples in ranges of at most `range`.
    pub(super) fn new(piece: usize, range: usize) -> Self {
        let size = range.next_power_of_two();
        let mut planner = RealFftPlanner::new();
        Self {
            forward: planner.plan_fft_forward(size),
            backward: planner.plan_fft_inverse(size),
            size,
            piece,
        }
    }

    pub(super) fn prepare(&self, piece: &[f32]) -> Piece {
        Piece { spectrum: self.spectrum(piece), energy: dot(piece, piece) }
    }

    /// Correlations of the piece at every place in `range` where it fits whole.
    pub(super) fn correlations(&self, piece: &Piece, range: &[f32]) -> Vec<f32> {
        let range = &range[..range.len().min(self.size)];
        let mut product = self.spectrum(range);
        for (value, piece) in product.iter_mut().zip(&piece.spectrum) {
            *value *= piece.conj();
        }
        // Rounding leaves a trace of an imaginary part where a real signal has none.
        let last = product.len() - 1;
        product[0].im = 0.0;
        product[last].im = 0.0;
        let mut sums = self.backward.make_output_vec();
        if self.backward.process(&mut product, &mut sums).is_err() {
            return Vec::new();
        }
        let places = (range.len() + 1).saturating_sub(self.piece);
        let mut energy: f64 = range.iter().take(self.piece).map(|&x| square(x)).sum();
        (0..places)
            .map(|place| {
                let sum = sums[place] / self.size as f32;
                let energies = energy.max(0.0) * f64::from(piece.energy);
                if place + 1 < places {
                    energy += square(range[place + self.piece]) - square(range[place]);
                }
                if energies > 1e-9 { sum / energies.sqrt() as f32 } else { 0.0 }
            })
            .collect()
    }

    fn spectrum(&self, samples: &[f32]) -> Vec<Complex<f32>> {
        let mut input = self.forward.make_input_vec();
        let len = samples.len().min(input.len());
        input[..len].copy_from_slice(&samples[..len]);
        let mut output = self.forward.make_output_vec();
        match self.forward.process(&mut input, &mut output) {
            Ok(()) => output,
            Err(_) => self.forward.make_output_vec(),
        }
    }
}

fn square(x: f32) -> f64 {
    f64::from(x) * f64::from(x)
}

/// The highest of the correlations, its place made finer by a parabola through its neighbours.
pub(super) fn peak(correlations: &[f32]) -> Option<Peak> {
    let (index, &height) = correlations.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?;
    let mut place = index as f32;
    if index > 0 && index + 1 < correlations.len() {
        let (left, right) = (correlations[index - 1], correlations[index + 1]);
        let bend = left - 2.0 * height + right;
        if bend < 0.0 {
            place += (0.5 * (left - right) / bend).clamp(-0.5, 0.5);
        }
    }
    Some(Peak { place, height })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, mut state: u32) -> Vec<f32> {
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }

    #[test]
    fn a_piece_is_found_where_it_lies() {
        let range = noise(900, 7);
        let finder = Finder::new(500, 900);
        let piece = finder.prepare(&range[123..623]);
        let peak = peak(&finder.correlations(&piece, &range)).unwrap();
        assert!((peak.place - 123.0).abs() < 0.1, "{peak:?}");
        assert!(peak.height > 0.999);
    }

    #[test]
    fn decimation_keeps_what_is_low_and_its_place() {
        let tone = |rate: f32, i: usize| (i as f32 * 500.0 / rate * std::f32::consts::TAU).sin();
        let samples: Vec<f32> = (0..4_800).map(|i| tone(48_000.0, i)).collect();
        let low = decimate(&samples);
        assert_eq!(low.len(), 800);
        for (i, sample) in low.iter().enumerate().skip(10).take(780) {
            assert!((sample - tone(8_000.0, i)).abs() < 0.02);
        }
    }
}
