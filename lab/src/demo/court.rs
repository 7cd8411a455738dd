//! Where the demo's listeners are judged: what each played, beside what was said.
//!
//! Time is cut into intervals. A listener hands in what it played during one (with the time before
//! and after that a delay needs) and goes on. Sound waits in memory, up to a budget, and
//! is judged when the demo is over, so that the verdict takes no processor from what it judges;
//! beyond the budget the oldest is judged at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use stentor_client::audio::{BLOCK, RATE};
use stentor_proto::Time;

use super::stage::{Part, SPEECH_BLOCKS, Voice, needs_witness};
use crate::hears::{Heard, Hearing, Judge, Reference, Verdict};

/// How long an interval is.
pub(super) const INTERVAL: Duration = Duration::from_secs(10);
/// What belongs to an interval of output before it begins.
pub(super) const HEAD: Duration = Duration::from_millis(200);
/// And after it ends: the longest delay that the verdict finds.
pub(super) const TAIL: Duration = Duration::from_millis(1_600);
/// Listeners hand in their intervals in turn, in so many blocks.
const TURNS: usize = 100;
/// Sound that waits for its verdict: 20 listeners for two minutes, or 200 for 13 s.
const BUDGET_BYTES: usize = 256 * 1024 * 1024;
/// Intervals of references that are kept behind the oldest that waits.
const KEPT_INTERVALS: u32 = 3;

/// What a listener played during an interval.
pub(super) struct Segment {
    /// Whose it is.
    pub(super) listener: usize,
    /// Which interval.
    pub(super) interval: u32,
    /// When its first sample was played.
    pub(super) start: Time,
    /// 48 kHz, mono.
    pub(super) pcm: Vec<i16>,
}

/// The court; shared by all who record.
pub(super) struct Court {
    voices: Arc<Vec<Voice>>,
    /// A minute that nobody says at its time.
    unspoken: Vec<f32>,
    waiting: Mutex<Waiting>,
    files: Mutex<Files>,
}

#[derive(Default)]
struct Waiting {
    intervals: BTreeMap<u32, Vec<Segment>>,
    bytes: usize,
}

/// The verdicts so far, by listener; and the control's.
#[derive(Default)]
pub(super) struct Files {
    /// Per listener, per speaker.
    pub(super) listeners: BTreeMap<usize, Vec<Hearing>>,
    /// Listener 0, compared with what nobody said.
    pub(super) control: Vec<Hearing>,
}

impl Court {
    /// A court that knows who speaks, and what nobody says.
    pub(super) fn new(voices: Arc<Vec<Voice>>, unspoken: &Part) -> Result<Self> {
        let blocks = unspoken.open()?.take(SPEECH_BLOCKS).collect::<Result<Vec<_>, _>>()?;
        let unspoken = blocks.concat();
        Ok(Self { voices, unspoken, waiting: Mutex::default(), files: Mutex::default() })
    }

    /// Takes what a listener played.
    pub(super) fn hand_in(&self, segment: Segment) {
        let mut waiting = lock(&self.waiting);
        waiting.bytes += size(&segment);
        waiting.intervals.entry(segment.interval).or_default().push(segment);
    }

    /// Judges the oldest interval if more waits than the budget allows. Returns whether it did.
    pub(super) fn relieve(&self) -> bool {
        if lock(&self.waiting).bytes <= BUDGET_BYTES {
            return false;
        }
        let Some((interval, segments)) = self.take() else { return false };
        self.judge(interval, &segments);
        let first = Time::ZERO + INTERVAL * interval.saturating_sub(KEPT_INTERVALS);
        self.voices.iter().for_each(|voice| voice.forget(first));
        true
    }

    /// Judges all that waits, on every core.
    pub(super) fn finish(self) -> Files {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        while let Some((interval, mut segments)) = self.take() {
            let share = segments.len().div_ceil(threads).max(1);
            std::thread::scope(|scope| {
                while !segments.is_empty() {
                    let rest = segments.split_off(share.min(segments.len()));
                    let part = std::mem::replace(&mut segments, rest);
                    let court = &self;
                    scope.spawn(move || court.judge(interval, &part));
                }
            });
        }
        self.files.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<(u32, Vec<Segment>)> {
        let mut waiting = lock(&self.waiting);
        let (interval, segments) = waiting.intervals.pop_first()?;
        waiting.bytes -= segments.iter().map(size).sum::<usize>();
        Some((interval, segments))
    }

    fn judge(&self, interval: u32, segments: &[Segment]) {
        let from = Time::ZERO + INTERVAL * interval;
        let witnessed = needs_witness(self.voices.len());
        let reference = |voice: &Voice| voice.reference(from, from + INTERVAL, witnessed);
        let references: Vec<Reference> = self.voices.iter().map(reference).collect();
        let judge = Judge::new(&references);
        for segment in segments {
            let heard = Heard {
                pcm: segment.pcm.iter().map(|sample| f32::from(*sample) / 32_767.0).collect(),
                start: segment.start,
            };
            let verdict = judge.verdict(&heard);
            let control =
                (segment.listener == 0).then(|| self.control(interval, &references, &heard));
            let mut files = lock(&self.files);
            add(files.listeners.entry(segment.listener).or_default(), &verdict);
            if let Some(control) = control {
                add(&mut files.control, &control);
            }
        }
    }

    /// The same sound beside another speech at the same times.
    fn control(&self, interval: u32, references: &[Reference], heard: &Heard) -> Verdict {
        // It goes on as the speakers do, each part as far from them as the first.
        let apart = SPEECH_BLOCKS / references.len().max(1);
        let begun = interval as usize * (INTERVAL.as_millis() as usize / 20);
        let other = |(number, reference): (usize, &Reference)| {
            let first = (begun + number * apart) % SPEECH_BLOCKS * BLOCK;
            let blocks = reference.blocks.clone();
            let samples = self.unspoken.iter().copied().cycle().skip(first);
            Reference { pcm: samples.take(blocks.len() * BLOCK).collect(), blocks }
        };
        let references: Vec<Reference> = references.iter().enumerate().map(other).collect();
        Judge::new(&references).verdict(heard)
    }
}

impl Files {
    /// Whether a listener hears, over all intervals.
    pub(super) fn hears(&self, listener: usize) -> bool {
        self.listeners.get(&listener).is_some_and(|speakers| hears(speakers))
    }

    /// Whether the control passed, which it must not.
    pub(super) fn control_passed(&self) -> bool {
        hears(&self.control)
    }

    /// Masked windows of all, over all listeners.
    pub(super) fn masked_share(&self) -> f64 {
        let all = || self.listeners.values().flatten();
        let masked: usize = all().map(|hearing| hearing.windows_masked).sum();
        let windows: usize = all().map(|hearing| hearing.windows).sum();
        masked as f64 / (masked + windows).max(1) as f64
    }
}

fn hears(speakers: &[Hearing]) -> bool {
    Verdict { speakers: speakers.to_vec() }.hears()
}

/// Adds the counts of one interval.
fn add(sums: &mut Vec<Hearing>, verdict: &Verdict) {
    sums.resize(verdict.speakers.len(), Hearing::default());
    for (sum, hearing) in sums.iter_mut().zip(&verdict.speakers) {
        let before = sum.windows_heard as f64;
        sum.windows += hearing.windows;
        sum.windows_heard += hearing.windows_heard;
        sum.windows_masked += hearing.windows_masked;
        if sum.windows > 0 {
            sum.share = sum.windows_heard as f64 / sum.windows as f64;
        }
        if sum.windows_heard > 0 {
            let lags = before * sum.lag_ms + hearing.windows_heard as f64 * hearing.lag_ms;
            sum.lag_ms = lags / sum.windows_heard as f64;
        }
    }
}

fn size(segment: &Segment) -> usize {
    2 * segment.pcm.len()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each entry is whole before the lock is given back.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one listener plays, cut into segments.
pub(super) struct Recording {
    listener: usize,
    court: Arc<Court>,
    pcm: Vec<i16>,
    /// When the first sample of `pcm` was played.
    start: Option<Time>,
    interval: u32,
    blocks: u64,
}

impl Recording {
    /// The recording of a listener.
    pub(super) fn new(listener: usize, court: Arc<Court>) -> Self {
        Self { listener, court, pcm: Vec::new(), start: None, interval: 0, blocks: 0 }
    }

    /// Adds 20 ms that are played at `at`.
    pub(super) fn push(&mut self, at: Time, block: &[f32; BLOCK]) {
        let start = *self.start.get_or_insert_with(|| {
            self.interval = interval_of(at);
            at
        });
        self.pcm.extend(block.iter().map(|sample| (sample * 32_767.0).round() as i16));
        self.blocks += 1;
        // Not all in the same block: a hundred copies of ten seconds would hold up whom they judge.
        let turn = Duration::from_millis(20) * (self.listener % TURNS) as u32;
        if start + length(self.pcm.len()) >= begin(self.interval + 1) + TAIL + turn {
            self.cut();
        }
    }

    /// How much was played.
    pub(super) fn played(&self) -> Duration {
        Duration::from_millis(20 * self.blocks)
    }

    /// Hands in what is left.
    pub(super) fn finish(mut self) -> Duration {
        while let Some(start) = self.start
            && start + length(self.pcm.len()) > begin(self.interval)
        {
            self.cut();
        }
        self.played()
    }

    /// Hands in an interval and keeps what the next one needs.
    fn cut(&mut self) {
        let Some(start) = self.start else { return };
        let (listener, interval) = (self.listener, self.interval);
        let end = (begin(interval + 1) + TAIL).since(start).as_micros() as usize / 20_000 * BLOCK;
        let pcm = self.pcm[..end.min(self.pcm.len())].to_vec();
        self.court.hand_in(Segment { listener, interval, start, pcm });
        self.interval += 1;
        let keep = begin(self.interval).as_micros() - HEAD.as_micros() as u64;
        let blocks = keep.saturating_sub(start.as_micros()) / 20_000;
        let drop = (blocks as usize * BLOCK).min(self.pcm.len());
        self.pcm.drain(..drop);
        self.start = Some(start + length(drop));
    }
}

fn begin(interval: u32) -> Time {
    Time::ZERO + INTERVAL * interval
}

fn interval_of(at: Time) -> u32 {
    u32::try_from(at.as_micros() / INTERVAL.as_micros() as u64).unwrap_or(u32::MAX)
}

fn length(samples: usize) -> Duration {
    Duration::from_secs_f64(samples as f64 / f64::from(RATE))
}
