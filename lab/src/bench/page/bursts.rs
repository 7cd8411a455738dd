//! The microphone's sound, made so that it can be told where in it one is; and what follows from when
//! its bursts were at the mouth and at the ear. Times are milliseconds.

use std::path::Path;

use anyhow::Result;
use stentor_client::audio::{BLOCK, Format, Sink};

const RATE: usize = 48_000;
/// A burst, and the quiet after it.
const BURST: usize = 80;
const QUIET: usize = 40;
/// Bursts a second. The quiet after the last one is longer: the next one is marked by that.
const BURSTS: usize = 7;
const MARK: f64 = 100.0;
const TONE_HZ: f64 = 1_000.0;
const SECONDS: usize = 10;
/// Nothing takes as long as the marks are apart.
const MOST: f64 = 900.0;

/// Writes the sound as a WAV file, for a browser to play over and over as its microphone.
pub(super) fn write(path: &Path) -> Result<()> {
    let mut sink = Sink::create(path, Format::Wav)?;
    for block in 0..SECONDS * RATE / BLOCK {
        let samples: [f32; BLOCK] = std::array::from_fn(|at| sample(block * BLOCK + at));
        sink.write(&samples)?;
    }
    sink.finish()?;
    Ok(())
}

fn sample(at: usize) -> f32 {
    let ms = at * 1_000 / RATE % 1_000;
    let loud = ms % (BURST + QUIET) < BURST && ms / (BURST + QUIET) < BURSTS;
    let phase = at as f64 / RATE as f64 * TONE_HZ * std::f64::consts::TAU;
    if loud { (phase.sin() * 0.5) as f32 } else { 0.0 }
}

/// Those that begin after the long quiet.
fn marked(begins: &[f64]) -> impl Iterator<Item = f64> + '_ {
    let apart = BURST as f64 + MARK;
    begins.windows(2).filter(move |pair| pair[1] - pair[0] > apart).map(|pair| pair[1])
}

/// How long each marked burst took from mouth to ear.
pub(super) fn delays(mouth: &[f64], ear: &[f64]) -> Vec<f64> {
    let said: Vec<f64> = marked(mouth).collect();
    let delay = |heard: f64| {
        let said = said.iter().rev().find(|&&said| said < heard)?;
        Some(heard - said).filter(|delay| *delay < MOST)
    };
    marked(ear).filter_map(delay).collect()
}

/// How long after `order` the ear was spared: until the first burst that it would have heard, `delay`
/// after the mouth, and did not. None if there is none such.
pub(super) fn cut(mouth: &[f64], delay: f64, last_heard: f64, order: f64) -> Option<f64> {
    let would = mouth.iter().map(|said| said + delay);
    let missed = would.filter(|&at| at > order).find(|&at| at > last_heard + QUIET as f64 / 4.0)?;
    Some(missed - order)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When bursts begin in so many seconds.
    fn begins(seconds: usize, from: f64) -> Vec<f64> {
        let begin = |n: usize| (n / BURSTS * 1_000 + n % BURSTS * (BURST + QUIET)) as f64 + from;
        (0..seconds * BURSTS).map(begin).collect()
    }

    #[test]
    fn the_sound_is_bursts_with_a_mark_each_second() {
        let at = |ms: usize| (0..48).map(|n| sample(ms * 48 + n).abs()).fold(0.0, f32::max);
        assert!(
            at(40) > 0.4 && at(100) == 0.0 && at(140) > 0.4 && at(900) == 0.0 && at(1_040) > 0.4
        );
    }

    #[test]
    fn a_delay_is_found_by_the_marks() {
        let (mouth, ear) = (begins(5, 0.0), begins(4, 1_130.0));
        let delays = delays(&mouth, &ear);
        assert_eq!(delays, vec![130.0; 3], "the first mark has no quiet before it");
    }

    #[test]
    fn a_cut_is_the_first_burst_that_is_missing() {
        let mouth = begins(3, 0.0);
        // Heard are the bursts said until 480, the last of which ends at 560 + 100.
        assert_eq!(cut(&mouth, 100.0, 660.0, 500.0), Some(200.0));
        // An order within a quiet: nothing came after it.
        assert_eq!(cut(&mouth, 100.0, 660.0, 680.0), Some(20.0));
        assert_eq!(cut(&mouth, 100.0, 99_999.0, 500.0), None, "it never fell silent");
    }
}
