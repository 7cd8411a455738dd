//! The verdict whether a listener hears, from the sound that it plays.
//!
//! Each speaker's input is cut into windows of half a second. A window in which the speaker speaks
//! and is audible is heard if the listener's output, aligned, correlates with it at
//! [`HEARD`] or more. The alignment is one lag in a bounded range, followed from window to
//! window, since a jitter buffer moves it a little. Where several speak at once the output is
//! freed of the others first (partial correlation): of their least-squares projection.
//!
//! A listener hears when for every speaker [`SHARE`] of the windows are heard.

mod correlate;

use stentor_proto::Time;

use correlate::{DECIMATION, Finder, Piece, correlation, decimate, dot, peak};

/// A window is heard at this correlation.
pub const HEARD: f32 = 0.8;
/// The share of its windows that a listener must have heard of every speaker.
pub const SHARE: f64 = 0.95;
/// Blocks of 20 ms in a window: 500 ms.
pub const WINDOW_BLOCKS: usize = 25;
/// A window is judged where the speaker's root mean square is above this (−45 dBov).
pub const FLOOR: f32 = 0.005_6;
/// A window is not judged where the others together have more than this times the speaker's
/// energy (6 dB), and is counted as masked.
///
/// Opus at 20 to 40 kbit/s leaves 6 to 8 % of a loud speaker's energy as distortion, more in
/// sibilants, which no projection takes off: delivered without a loss, two speakers at once
/// correlate at 0.74 in a window of 4.3 times and at 0.82 to 0.88 in those of 2.5 to 3.3 times;
/// three speakers at 0.66 to 0.72 in windows of 7.9 to 9.4 times.
pub const MASKED: f32 = 4.0;

const RATE: f64 = 48_000.0;
const BLOCK: usize = 960;
const WINDOW: usize = WINDOW_BLOCKS * BLOCK;
const LOW_WINDOW: usize = WINDOW / DECIMATION;
/// The range of the first lag, in samples at 8 kHz: −0.1 to 1.4 s.
const LAG_LEAST: i64 = -800;
const LAG_RANGE: usize = 12_000;
/// How far the lag moves from one window to the next: ±30 ms at 8 kHz.
const STEP: i64 = 240;
/// A lag that jumps further, up to ±150 ms, counts only where the window is heard there.
const STEP_MOST: i64 = 1_200;
/// A fit as good as this moves the lag: where several speak, each is but a part of the output.
const FOLLOWED: f32 = HEARD / 2.0;
/// A window that correlates worse than this is not tried with the others' changing delays.
const WORTH_IT: f32 = 0.5;
/// Windows, spread over the speech, that the first lag is sought with.
const SEEDS: usize = 12;

/// One block of 20 ms of a speaker's input.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// When it was handed to the encoder, on the clock of the machine that judges.
    pub at: Time,
    /// Whether the room let it be heard: false while the speaker is muted or not among the
    /// audible.
    pub audible: bool,
}

/// What one speaker said.
#[derive(Clone, Debug)]
pub struct Reference {
    /// Samples at 48 kHz, mono: 960 for each of `blocks`.
    pub pcm: Vec<f32>,
    /// The blocks in order.
    pub blocks: Vec<Block>,
}

/// What one listener played.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Samples at 48 kHz, mono.
    pub pcm: Vec<f32>,
    /// When the first of them was played, on the clock of the machine that judges.
    pub start: Time,
}

/// How well one speaker was heard.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Hearing {
    /// Windows that were judged.
    pub windows: usize,
    /// Those among them that were heard.
    pub windows_heard: usize,
    /// Windows that were not judged because others were far louder.
    pub windows_masked: usize,
    /// Heard windows of those judged; 0 where there is none.
    pub share: f64,
    /// The median lag from input to output in milliseconds; 0 where nothing was heard.
    pub lag_ms: f64,
}

/// How well a listener heard all speakers, in the order of the references.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// One for each reference.
    pub speakers: Vec<Hearing>,
}

impl Verdict {
    /// Whether the listener hears: something was said, and [`SHARE`] of it was heard of everyone
    /// who spoke, nobody being masked more often than not.
    #[must_use]
    pub fn hears(&self) -> bool {
        let mut spoke = self.speakers.iter().filter(|hearing| hearing.spoke()).peekable();
        spoke.peek().is_some()
            && spoke
                .all(|hearing| hearing.share >= SHARE && hearing.windows >= hearing.windows_masked)
    }
}

impl Hearing {
    /// Whether the speaker said anything audible while the listener played.
    fn spoke(&self) -> bool {
        self.windows + self.windows_masked > 0
    }
}

/// Judges one listener. For many listeners of the same speakers make one [`Judge`].
#[must_use]
pub fn verdict(references: &[Reference], heard: &Heard) -> Verdict {
    Judge::new(references).verdict(heard)
}

/// The references, prepared once for any number of listeners.
pub struct Judge<'a> {
    speakers: Vec<Speaker<'a>>,
    wide: Finder,
    narrow: Finder,
}

struct Speaker<'a> {
    pcm: &'a [f32],
    windows: Vec<Window>,
    seeds: Vec<(usize, Piece)>,
}

struct Window {
    /// The first sample in the speaker's input.
    first: usize,
    /// When it was said, in microseconds.
    at_us: f64,
    piece: Piece,
}

/// Where one window of a speaker lies in the output (in samples), and how well it fits there.
#[derive(Clone, Copy)]
struct Fit {
    place: i64,
    height: f32,
}

/// A listener's output at both rates.
struct Output<'a> {
    pcm: &'a [f32],
    low: Vec<f32>,
    start_us: f64,
}

impl<'a> Judge<'a> {
    /// Prepares the references.
    #[must_use]
    pub fn new(references: &'a [Reference]) -> Self {
        let wide = Finder::new(LOW_WINDOW, LOW_WINDOW + LAG_RANGE);
        let narrow = Finder::new(LOW_WINDOW, LOW_WINDOW + 2 * STEP_MOST as usize + 1);
        let speakers =
            references.iter().map(|reference| Speaker::new(reference, &wide, &narrow)).collect();
        Self { speakers, wide, narrow }
    }

    /// Judges one listener.
    #[must_use]
    pub fn verdict(&self, heard: &Heard) -> Verdict {
        let output = Output {
            pcm: &heard.pcm,
            low: decimate(&heard.pcm),
            start_us: heard.start.as_micros() as f64,
        };
        let tracks: Vec<Vec<Option<Fit>>> =
            self.speakers.iter().map(|speaker| self.track(speaker, &output)).collect();
        let speakers =
            (0..self.speakers.len()).map(|index| self.hearing(index, &tracks, &output)).collect();
        Verdict { speakers }
    }

    /// Finds every window of a speaker in the output; `None` for those outside of it.
    fn track(&self, speaker: &Speaker<'_>, output: &Output<'_>) -> Vec<Option<Fit>> {
        let mut track = vec![None; speaker.windows.len()];
        // Without a trace of the speaker its windows are judged where they would lie, unheard.
        let (seed, lag) = self.first_lag(speaker, output).unwrap_or((0, 0));
        self.follow(speaker, output, seed..speaker.windows.len(), lag, &mut track);
        self.follow(speaker, output, (0..seed).rev(), lag, &mut track);
        track
    }

    fn follow(
        &self,
        speaker: &Speaker<'_>,
        output: &Output<'_>,
        order: impl Iterator<Item = usize>,
        mut lag: i64,
        track: &mut [Option<Fit>],
    ) {
        for index in order {
            let window = &speaker.windows[index];
            let expected = output.low_place(window) + lag;
            let Some(mut fit) = self.fit(&window.piece, &output.low, expected, STEP_MOST) else {
                continue;
            };
            if fit.height >= FOLLOWED {
                let own = &speaker.pcm[window.first..window.first + WINDOW];
                fit.place = finest(own, output.pcm, fit.place);
                let place = (fit.place as f64 / DECIMATION as f64).round() as i64;
                lag = place - output.low_place(window);
            } else {
                // An unfound window keeps the lag of its neighbour: a chance fit is none.
                fit.place = expected * DECIMATION as i64;
            }
            track[index] = Some(fit);
        }
    }

    /// The best place of a piece within [`STEP`] of `expected` (at 8 kHz) in `low`, or within
    /// `reach` if it is heard only there, as samples at 48 kHz; `None` where the piece reaches
    /// beyond the output.
    fn fit(&self, piece: &Piece, low: &[f32], expected: i64, reach: i64) -> Option<Fit> {
        let end = expected + LOW_WINDOW as i64;
        if expected < 0 || end > low.len() as i64 {
            return None;
        }
        let first = (expected - reach).max(0);
        let last = ((end + reach) as usize).min(low.len());
        let correlations = self.narrow.correlations(piece, &low[first as usize..last]);
        let near = (expected - STEP - first).max(0) as usize;
        let far = ((expected + STEP + 1 - first) as usize).min(correlations.len());
        let mut found = peak(correlations.get(near..far)?)?;
        found.place += near as f32;
        if found.height < HEARD {
            let wide = peak(&correlations)?;
            if wide.height >= HEARD {
                found = wide;
            }
        }
        let place = (first as f64 + f64::from(found.place)) * DECIMATION as f64;
        Some(Fit { place: place.round() as i64, height: found.height })
    }

    /// The lag (at 8 kHz) to begin with, and the window that it was found at.
    fn first_lag(&self, speaker: &Speaker<'_>, output: &Output<'_>) -> Option<(usize, i64)> {
        let mut sums = vec![0.0; LAG_RANGE + 1];
        let mut best: Option<(usize, i64, f32)> = None;
        for (index, piece) in &speaker.seeds {
            let first = output.low_place(&speaker.windows[*index]) + LAG_LEAST;
            // Lags that point before the output's start are not there to be searched.
            let cut = (-first).clamp(0, LAG_RANGE as i64) as usize;
            let from = first.max(0) as usize;
            let to = (from + LOW_WINDOW + LAG_RANGE - cut).min(output.low.len());
            if from + LOW_WINDOW > to {
                continue;
            }
            let correlations = self.wide.correlations(piece, &output.low[from..to]);
            for (sum, height) in sums[cut..].iter_mut().zip(&correlations) {
                *sum += height.max(0.0) * height;
            }
            let Some(peak) = peak(&correlations) else {
                continue;
            };
            let lag = LAG_LEAST + cut as i64 + peak.place.round() as i64;
            if best.is_none_or(|(_, _, height)| peak.height > height) {
                best = Some((*index, lag, peak.height));
            }
        }
        let (index, lag, height) = best?;
        if height >= HEARD {
            return Some((index, lag));
        }
        let together = peak(&sums)?;
        Some((index, LAG_LEAST + together.place.round() as i64))
    }

    /// Judges one speaker's windows, the others' places being known.
    fn hearing(&self, index: usize, tracks: &[Vec<Option<Fit>>], output: &Output<'_>) -> Hearing {
        let speaker = &self.speakers[index];
        let mut hearing = Hearing::default();
        let mut lags = Vec::new();
        for (number, window) in speaker.windows.iter().enumerate() {
            let track = &tracks[index];
            let Some(fit) = track[number] else {
                continue;
            };
            let own = &speaker.pcm[window.first..window.first + WINDOW];
            let others = self.others(index, tracks, fit.place);
            let loudness: f32 = others.iter().map(|other| dot(other, other)).sum();
            if loudness > MASKED * dot(own, own) {
                hearing.windows_masked += 1;
                continue;
            }
            hearing.windows += 1;
            let place = self
                .best_place(index, window, &others, tracks, fit, output)
                .or_else(|| spliced(&speaker.windows, track, number, own, output));
            if let Some(place) = place {
                hearing.windows_heard += 1;
                lags.push(place as f64 / (RATE / 1_000.0) - output.due_ms(window));
            }
        }
        if hearing.windows > 0 {
            hearing.share = hearing.windows_heard as f64 / hearing.windows as f64;
        }
        lags.sort_by(f64::total_cmp);
        hearing.lag_ms = lags.get(lags.len() / 2).copied().unwrap_or(0.0);
        hearing
    }

    /// Where the window is heard, at or near its fit; `None` where it is not.
    fn best_place(
        &self,
        index: usize,
        window: &Window,
        others: &[Vec<f32>],
        tracks: &[Vec<Option<Fit>>],
        fit: Fit,
        output: &Output<'_>,
    ) -> Option<i64> {
        let own = &self.speakers[index].pcm[window.first..window.first + WINDOW];
        let residual = residual(output.around(fit.place), others);
        if let Some(shift) = heard_near(own, &residual, 0) {
            return Some(fit.place + shift);
        }
        if others.is_empty() {
            return None;
        }
        // A codec colours what it passes on: take off the others as a short filter leaves them.
        let coloured: Vec<Vec<f32>> =
            others.iter().flat_map(|other| shifted(other, &[0, 4, 8, 12])).collect();
        let residual = self::residual(residual, &coloured);
        if let Some(shift) = heard_near(own, &residual, 0) {
            return Some(fit.place + shift);
        }
        // Their delay may change within the window as the speaker's own may: more work, where there
        // is something to be won.
        if nearest(own, &residual, 0).is_some_and(|(_, height)| height >= WORTH_IT) {
            let others = self.others_beside(index, tracks, fit.place);
            let residual = residual_in_parts(&output.around(fit.place), &others);
            if let Some(shift) = heard_near(own, &residual, 0) {
                return Some(fit.place + shift);
            }
        }
        // The others may have drawn the fit away: search again in what is left without them.
        let low = decimate(&residual);
        let again = self.fit(&window.piece, &low, STEP, STEP)?;
        let shift = again.place - MARGIN as i64;
        heard_near(own, &residual, shift).map(|shift| fit.place + shift)
    }

    /// What the other speakers said at the output's `place`, with [`MARGIN`] before and after.
    fn others(&self, index: usize, tracks: &[Vec<Option<Fit>>], place: i64) -> Vec<Vec<f32>> {
        let speakers = self.speakers.iter().zip(tracks).enumerate();
        speakers
            .filter(|(other, _)| *other != index)
            .filter_map(|(_, (other, track))| {
                let said = other.piece_at(track, place)?;
                (dot(&said, &said) > FLOOR * FLOOR * WINDOW as f32 / 10.0).then_some(said)
            })
            .collect()
    }

    /// What the others said at the output's `place` and beside it, at the lags of the windows
    /// around, each a little earlier and later as well.
    fn others_beside(
        &self,
        index: usize,
        tracks: &[Vec<Option<Fit>>],
        place: i64,
    ) -> Vec<Vec<f32>> {
        let speakers = self.speakers.iter().zip(tracks).enumerate();
        let others = speakers.filter(|(other, _)| *other != index);
        let pieces = others.flat_map(|(_, (other, track))| other.pieces_at(track, place));
        pieces
            .flat_map(|piece| [piece.clone()].into_iter().chain(shifted(&piece, &[3, 8])))
            .collect()
    }
}

/// Samples before and after a window within which it is sought again: 30 ms.
const MARGIN: usize = STEP as usize * DECIMATION;

/// The shift from the middle of `range`, up to 2 samples beside `near`, at which `own` is heard.
fn heard_near(own: &[f32], range: &[f32], near: i64) -> Option<i64> {
    let (shift, height) = nearest(own, range, near)?;
    (height >= HEARD).then_some(shift)
}

/// The shift at which `own` correlates best, and how well.
fn nearest(own: &[f32], range: &[f32], near: i64) -> Option<(i64, f32)> {
    (-2..=2)
        .filter_map(|fine| {
            let shift = near + fine;
            let first = usize::try_from(MARGIN as i64 + shift).ok()?;
            let piece = range.get(first..first + own.len())?;
            Some((shift, correlation(own, piece)))
        })
        .max_by(|a, b| a.1.total_cmp(&b.1))
}

/// The place within 3 samples of `place` (found at 8 kHz) at which the products are largest.
fn finest(own: &[f32], pcm: &[f32], place: i64) -> i64 {
    let product = |place: i64| {
        let first = usize::try_from(place).ok()?;
        Some(dot(own, pcm.get(first..first + own.len())?))
    };
    (place - 3..=place + 3)
        .filter_map(|place| Some((place, product(place)?)))
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map_or(place, |(place, _)| place)
}

/// A window within which the lag changes: heard if the output is, cut where it changes and put
/// together at the lags of the windows before and after.
fn spliced(
    windows: &[Window],
    track: &[Option<Fit>],
    number: usize,
    own: &[f32],
    output: &Output<'_>,
) -> Option<i64> {
    let window = &windows[number];
    let lag = |number: usize| {
        let fit = (*track.get(number)?).filter(|fit| fit.height >= FOLLOWED)?;
        let beside = windows[number].first.abs_diff(window.first) == WINDOW;
        beside.then(|| fit.place + window.first as i64 - windows[number].first as i64)
    };
    let (before, after) = (lag(number.checked_sub(1)?)?, lag(number + 1)?);
    let (before, after) = (output.around(before), output.around(after));
    let (before, after) = (&before[MARGIN..], &after[MARGIN..]);
    let step = WINDOW / 20;
    let heard = (1..20).any(|cut| {
        let cut = cut * step;
        let mut joined = before[..cut].to_vec();
        joined.extend_from_slice(&after[cut..WINDOW]);
        correlation(own, &joined) >= HEARD
    });
    heard.then(|| track[number].map_or(0, |fit| fit.place))
}

/// A speaker's sound shifted by so many samples either way: what a filter is made of.
fn shifted(samples: &[f32], shifts: &[usize]) -> Vec<Vec<f32>> {
    let shift = |&shift: &usize| {
        let later = [&vec![0.0; shift], &samples[..samples.len() - shift]].concat();
        let earlier = [&samples[shift..], &vec![0.0; shift]].concat();
        [later, earlier]
    };
    shifts.iter().flat_map(shift).collect()
}

/// Samples of a part: 100 ms.
const PART: usize = WINDOW / 5;

/// [`residual`] part by part: each takes off what fits it best.
fn residual_in_parts(output: &[f32], others: &[Vec<f32>]) -> Vec<f32> {
    let part = |first: usize| {
        let part = first..(first + PART).min(output.len());
        let others: Vec<Vec<f32>> =
            others.iter().map(|other| other[part.clone()].to_vec()).collect();
        residual(output[part].to_vec(), &others)
    };
    (0..output.len()).step_by(PART).flat_map(part).collect()
}

/// `output` without its least-squares projection on `others`.
fn residual(mut output: Vec<f32>, others: &[Vec<f32>]) -> Vec<f32> {
    // Orthogonal to one another first (Gram-Schmidt), then each can be taken off by itself.
    let mut basis: Vec<Vec<f32>> = Vec::new();
    for other in others {
        let mut axis = other.clone();
        for known in &basis {
            take_off(&mut axis, known);
        }
        if dot(&axis, &axis) > 1e-3 * dot(other, other) {
            take_off(&mut output, &axis);
            basis.push(axis);
        }
    }
    output
}

/// Takes the projection on `axis` off `samples`.
fn take_off(samples: &mut [f32], axis: &[f32]) {
    let energy = dot(axis, axis);
    if energy <= 0.0 {
        return;
    }
    let gain = dot(samples, axis) / energy;
    for (sample, axis) in samples.iter_mut().zip(axis) {
        *sample -= gain * axis;
    }
}

impl Output<'_> {
    /// Where a window would lie without any lag, at 8 kHz.
    fn low_place(&self, window: &Window) -> i64 {
        ((window.at_us - self.start_us) * RATE / 1e6 / DECIMATION as f64).round() as i64
    }

    /// Where a window would lie without any lag, in milliseconds.
    fn due_ms(&self, window: &Window) -> f64 {
        (window.at_us - self.start_us) / 1_000.0
    }

    /// The output from [`MARGIN`] before `place` to [`MARGIN`] after the window that begins there.
    fn around(&self, place: i64) -> Vec<f32> {
        slice(self.pcm, place - MARGIN as i64)
    }
}

/// A window with its margins from `first` on, silent where `pcm` does not reach.
fn slice(pcm: &[f32], first: i64) -> Vec<f32> {
    let mut piece = vec![0.0; WINDOW + 2 * MARGIN];
    let skip = usize::try_from(-first).unwrap_or(0).min(piece.len());
    let first = usize::try_from(first).unwrap_or(0).min(pcm.len());
    let len = (piece.len() - skip).min(pcm.len() - first);
    piece[skip..skip + len].copy_from_slice(&pcm[first..first + len]);
    piece
}

impl<'a> Speaker<'a> {
    fn new(reference: &'a Reference, wide: &Finder, narrow: &Finder) -> Self {
        let pcm = &reference.pcm;
        let blocks = reference.blocks.len().min(pcm.len() / BLOCK);
        let low = decimate(pcm);
        let mut windows = Vec::new();
        let mut loudest = Vec::new();
        for (index, blocks) in reference.blocks[..blocks].chunks_exact(WINDOW_BLOCKS).enumerate() {
            let first = index * WINDOW;
            let energy = dot(&pcm[first..first + WINDOW], &pcm[first..first + WINDOW]);
            let audible = blocks.iter().all(|block| block.audible);
            if !audible || energy < FLOOR * FLOOR * WINDOW as f32 {
                continue;
            }
            let low = &low[first / DECIMATION..first / DECIMATION + LOW_WINDOW];
            loudest.push((energy, windows.len(), first));
            windows.push(Window { first, at_us: begin_us(blocks), piece: narrow.prepare(low) });
        }
        // One seed, the loudest, out of each twelfth of the speech.
        let seeds = loudest
            .chunks(loudest.len().div_ceil(SEEDS).max(1))
            .filter_map(|part| part.iter().max_by(|a, b| a.0.total_cmp(&b.0)))
            .map(|&(_, index, first)| {
                let low = &low[first / DECIMATION..first / DECIMATION + LOW_WINDOW];
                (index, wide.prepare(low))
            })
            .collect();
        Self { pcm, windows, seeds }
    }

    /// What this speaker said where the output's window at `place` lies, with its margins.
    fn piece_at(&self, track: &[Option<Fit>], place: i64) -> Option<Vec<f32>> {
        // The nearest window that was found tells the lag.
        let (window, fit) = self
            .windows
            .iter()
            .zip(track)
            .filter_map(|(window, fit)| Some((window, (*fit)?)))
            .min_by_key(|(_, fit)| (fit.place - place).abs())?;
        let first = window.first as i64 + place - fit.place;
        Some(slice(self.pcm, first - MARGIN as i64))
    }

    /// The same at the lags of the three windows around, those that are alike taken once.
    fn pieces_at(&self, track: &[Option<Fit>], place: i64) -> Vec<Vec<f32>> {
        let found = self.windows.iter().zip(track).filter_map(|(w, fit)| Some((w, (*fit)?)));
        let mut near: Vec<(i64, i64)> = found
            .map(|(window, fit)| ((fit.place - place).abs(), window.first as i64 - fit.place))
            .collect();
        near.sort_unstable();
        near.truncate(3);
        let mut lags: Vec<i64> = near.into_iter().map(|(_, lag)| lag).collect();
        lags.sort_unstable();
        lags.dedup_by_key(|lag| *lag / 2);
        lags.into_iter().map(|lag| slice(self.pcm, place + lag - MARGIN as i64)).collect()
    }
}

/// When a window began, from the times of all of its blocks: single ones are unpunctual.
fn begin_us(blocks: &[Block]) -> f64 {
    let sum: f64 = blocks
        .iter()
        .enumerate()
        .map(|(i, block)| block.at.as_micros() as f64 - i as f64 * 20_000.0)
        .sum();
    sum / blocks.len().max(1) as f64
}
