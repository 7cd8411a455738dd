//! Loudness as RFC 6464 writes it: −dBov, 0 (loudest) to 127 (silence).

/// The level of silence.
pub const SILENT: u8 = 127;

/// The level of `samples`: the root of their mean square against full scale (±1), in −dBov.
#[must_use]
pub fn dbov(samples: &[f32]) -> u8 {
    let rms = rms(samples);
    if rms <= 0.0 {
        return SILENT;
    }
    // The cast saturates; the clamp is what RFC 6464 allows.
    (-20.0 * rms.log10()).round().clamp(0.0, f32::from(SILENT)) as u8
}

/// The root of the mean square, 0 for no samples.
pub(super) fn rms(samples: &[f32]) -> f32 {
    if samples.is_empty() {
        return 0.0;
    }
    let sum: f32 = samples.iter().map(|sample| sample * sample).sum();
    (sum / samples.len() as f32).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_and_full_scale_are_the_ends() {
        assert_eq!(dbov(&[0.0; 960]), 127);
        assert_eq!(dbov(&[1.0; 960]), 0);
        assert_eq!(dbov(&[9.0; 960]), 0);
        assert_eq!(dbov(&[]), 127);
        assert_eq!(dbov(&[0.1; 960]), 20);
    }
}
