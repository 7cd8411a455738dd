//! The jitter buffer of one speaker (sans-IO).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use stentor_proto::wire::SpeechFrame;
use stentor_proto::{Time, limits};

use super::delay::DelayEstimator;
use super::encode::DTX_BYTES;

const FRAME_US: i64 = limits::TICK.as_micros() as i64;
/// A frame whose tick closed this much later than its number says begins a new spurt of speech:
/// more than the origin lets a surplus frame wait.
const NEW_SPURT_US: i64 = limits::SURPLUS_WAIT.as_micros() as i64 + FRAME_US;
/// Frames concealed in a row at most; what a decoder invents beyond is no speech.
const CONCEALED_IN_A_ROW: i64 = 5;
/// Frames from another place of the count in a row that mean that the count has begun again.
const STRAYS: u32 = 10;
/// The most that speech is stretched: 0.025 %. Half a second of it keeps its waveform (its ends
/// move by 60 µs, where ten times as much takes a fifth of the correlation away), and clocks that
/// differ by 0.02 % are followed.
const MOST_STRETCH: f64 = 0.000_25;
/// A delay wrong by less than this is not corrected.
const GOOD_US: i64 = 5_000;
/// A delay wrong by this more is corrected by the most stretching.
const STRETCH_US: i64 = 10_000;
/// A delay wrong by this is put right where a pause ends.
const PAUSE_US: i64 = 25_000;
/// A delay wrong by this is put right by a whole frame where it is quiet.
const ADJUST_US: i64 = 60_000;

/// What to play next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Playout {
    /// This frame.
    Frame(SpeechFrame),
    /// The frame is lost; the packet after it may hold a copy (in-band FEC).
    Fec {
        /// The packet after the lost one. It is played in its own turn too.
        next_packet: Bytes,
    },
    /// The frame is lost, or late and waited for: let the decoder conceal it.
    Conceal,
    /// The speaker is silent.
    Silence,
}

/// Whether a quiet frame is to be left out or played twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adjust {
    /// The delay is as it should be.
    Keep,
    /// The delay is too long: leave a quiet frame out.
    Shrink,
    /// The delay is too short: play a quiet frame twice.
    Grow,
}

/// What became of the frames of one speaker; each counts from the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JitterStats {
    /// Frames handed in.
    pub pushed: u64,
    /// Frames played.
    pub played: u64,
    /// Frames that came after they had been concealed: dropped.
    pub late: u64,
    /// Frames that came while their concealment was played: the delay grew.
    pub stretched: u64,
    /// Frames handed in twice: dropped.
    pub duplicate: u64,
    /// Frames left out to shorten the delay or because the buffer was full.
    pub skipped: u64,
    /// Lost frames for which the next packet was at hand.
    pub fec: u64,
    /// Frames of silence in place of speech that the decoder was to invent.
    pub concealed: u64,
    /// The speaker's count jumped: the buffer began again.
    pub resets: u64,
}

/// Puts one speaker's frames in order and holds them just long enough.
///
/// Hand in frames as they come ([`push`](Self::push)); ask every 20 ms of sound what to play
/// ([`pop`](Self::pop)). The delay starts at the playout target and follows the measured variation
/// of arrival: it grows at once when a frame is late and shrinks slowly, by
/// [`rate`](Self::rate) during speech, by [`adjust`](Self::adjust) where it is quiet, and by the
/// start of playing after a pause.
pub struct JitterBuffer {
    frames: BTreeMap<i64, Entry>,
    /// The frame that is to be played next, once playing has begun.
    next: Option<i64>,
    playing: bool,
    /// Bit i: frame `next − 1 − i` was played, not concealed.
    played: u64,
    /// Frames concealed in a row while nothing was in the buffer.
    stretched: i64,
    strays: u32,
    anchor: Option<Anchor>,
    /// The newest end marker: what follows is another spurt.
    marker: Option<i64>,
    estimator: DelayEstimator,
    delay_us: i64,
    stats: JitterStats,
}

struct Entry {
    speech: SpeechFrame,
    media_us: i64,
    spurt: u32,
}

/// Ties a speaker's count to the origin's clock within one spurt of speech.
#[derive(Clone, Copy)]
struct Anchor {
    seq: i64,
    media_us: i64,
    spurt: u32,
    /// The frame that the spurt was seen to begin with.
    first: i64,
}

impl JitterBuffer {
    /// An empty buffer whose delay starts at `start` (within [`limits::JITTER_LEAST`] and
    /// [`limits::JITTER_MOST`]).
    #[must_use]
    pub fn new(start: Duration) -> Self {
        let estimator = DelayEstimator::new(start);
        Self {
            frames: BTreeMap::new(),
            next: None,
            playing: false,
            played: 0,
            stretched: 0,
            strays: 0,
            anchor: None,
            marker: None,
            delay_us: estimator.target_us(),
            estimator,
            stats: JitterStats::default(),
        }
    }

    /// Hands in a frame that arrived at `now` in a tick that closed at `clock_us`, the origin's
    /// clock in microseconds.
    pub fn push(&mut self, now: Time, clock_us: u64, speech: SpeechFrame) {
        self.stats.pushed += 1;
        // A quarter of the range, so that no sum or difference of times overflows.
        let clock_us = i64::try_from(clock_us).unwrap_or(i64::MAX).min(i64::MAX / 4);
        let Some(seq) = self.place(speech.seq) else {
            return;
        };
        let (media_us, spurt) = self.media(seq, clock_us);
        if speech.opus.len() <= DTX_BYTES {
            self.marker = self.marker.max(Some(seq));
        }
        self.estimator.arrived(now, media_us);
        if let Some(next) = self.next
            && seq < next
        {
            self.overdue(now, next - 1 - seq, media_us);
            return;
        }
        if self.frames.contains_key(&seq) {
            self.stats.duplicate += 1;
            return;
        }
        if self.playing && self.stretched > 0 && self.next == Some(seq) {
            self.stats.stretched += 1;
            self.estimator.late(now, media_us);
        }
        let entry = Entry { speech, media_us, spurt };
        self.frames.insert(seq, entry);
        while self.frames.len() > limits::JITTER_FRAMES {
            self.skip_first();
        }
    }

    /// What to play at `at`, the time at which its first sample will be heard.
    pub fn pop(&mut self, at: Time) -> Playout {
        if !self.playing && !self.begin(at) {
            return Playout::Silence;
        }
        self.catch_up(at);
        let Some((&head, entry)) = self.frames.first_key_value() else {
            return self.starve();
        };
        let mut next = self.next.unwrap_or(head);
        // What was concealed while waiting counts for what turns out to be missing.
        let gap = head - next;
        next += gap.min(self.stretched);
        self.stretched = 0;
        let gap = head - next;
        let delay_us = self.estimator.delay_us(at, self.entry_media(head, entry));
        let early = self.estimator.target_us().saturating_sub(delay_us);
        if gap > 0 && early > gap * FRAME_US + NEW_SPURT_US {
            // The end marker was lost: what follows is another spurt, whose time has not come.
            self.playing = false;
            self.advance_to(head);
            return Playout::Silence;
        }
        if gap > CONCEALED_IN_A_ROW {
            next = head;
        }
        self.advance_to(next);
        if next == head {
            return self.play(at);
        }
        let next_packet = entry_packet(&self.frames, next + 1);
        self.advance_to(next + 1);
        match next_packet {
            Some(next_packet) => {
                self.stats.fec += 1;
                Playout::Fec { next_packet }
            }
            None => {
                self.stats.concealed += 1;
                Playout::Conceal
            }
        }
    }

    /// How fast to play: samples of the speaker per sample played, within 1 ± 0.000 25.
    #[must_use]
    pub fn rate(&self) -> f64 {
        if !self.playing {
            return 1.0;
        }
        let error = self.error_us();
        let beyond = (error.saturating_abs() - GOOD_US).clamp(0, STRETCH_US);
        1.0 + error.signum() as f64 * MOST_STRETCH * beyond as f64 / STRETCH_US as f64
    }

    /// What to do with the frame just played if it is quiet.
    #[must_use]
    pub fn adjust(&self) -> Adjust {
        match self.error_us() {
            _ if !self.playing => Adjust::Keep,
            error if error > ADJUST_US => Adjust::Shrink,
            error if error < -ADJUST_US => Adjust::Grow,
            _ => Adjust::Keep,
        }
    }

    /// How long the last frame was held, above the least that its way took of late.
    #[must_use]
    pub fn delay(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.delay_us).unwrap_or(0))
    }

    /// The delay that is aimed at.
    #[must_use]
    pub fn target(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.estimator.target_us()).unwrap_or(0))
    }

    /// What became of the frames.
    #[must_use]
    pub fn stats(&self) -> JitterStats {
        self.stats
    }

    /// Frames that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether no frame waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    fn error_us(&self) -> i64 {
        self.delay_us.saturating_sub(self.estimator.target_us())
    }

    /// The place of a frame in a count that does not wrap; `None` for a stray.
    fn place(&mut self, seq: u32) -> Option<i64> {
        let Some(newest) = self.anchor.map(|anchor| anchor.seq) else {
            return Some(i64::from(seq));
        };
        // The low 32 bits of the count are the speaker's own; the difference wraps as they do.
        let ahead = i64::from(seq.wrapping_sub(newest as u32) as i32);
        let span = limits::JITTER_FRAMES as i64;
        if ahead < -span {
            self.strays += 1;
            if self.strays < STRAYS {
                self.stats.late += 1;
                return None;
            }
        }
        if ahead.abs() > span {
            self.restart();
        } else {
            self.strays = 0;
        }
        Some(newest + ahead)
    }

    fn restart(&mut self) {
        self.stats.resets += 1;
        self.stats.skipped += self.frames.len() as u64;
        self.frames.clear();
        self.next = None;
        self.playing = false;
        self.played = 0;
        self.stretched = 0;
        self.strays = 0;
        self.anchor = None;
        self.marker = None;
    }

    /// When the frame was made, on the origin's clock, and to which spurt it belongs.
    ///
    /// A frame cannot be in a tick that closed before it was made, so the earliest tick counts;
    /// a slow leak the other way follows a speaker whose clock is slow.
    fn media(&mut self, seq: i64, clock_us: i64) -> (i64, u32) {
        let Some(anchor) = self.anchor else {
            self.estimator.new_clock();
            let anchor = Anchor { seq, media_us: clock_us, spurt: 0, first: seq };
            self.anchor = Some(anchor);
            return (clock_us, 0);
        };
        let predicted = anchor.media_us + (seq - anchor.seq) * FRAME_US;
        let off = clock_us - predicted;
        let marked = |marker: i64| marker >= anchor.first && seq > marker;
        if off.abs() > NEW_SPURT_US || self.marker.is_some_and(marked) {
            let spurt = anchor.spurt.wrapping_add(u32::from(seq > anchor.seq));
            if seq > anchor.seq {
                self.anchor = Some(Anchor { seq, media_us: clock_us, spurt, first: seq });
                return (clock_us, spurt);
            }
            // A straggler of the spurt before.
            return (clock_us, spurt.wrapping_sub(1));
        }
        let media_us = predicted + if off < 0 { off } else { off / 256 };
        let seq_newest = seq.max(anchor.seq);
        self.anchor = Some(Anchor {
            seq: seq_newest,
            media_us: media_us + (seq_newest - seq) * FRAME_US,
            ..anchor
        });
        (media_us, anchor.spurt)
    }

    /// A waiting frame's time, which later frames of its spurt may have put right.
    fn entry_media(&self, seq: i64, entry: &Entry) -> i64 {
        match self.anchor {
            Some(anchor) if anchor.spurt == entry.spurt => {
                anchor.media_us + (seq - anchor.seq) * FRAME_US
            }
            _ => entry.media_us,
        }
    }

    /// A frame came after its turn; `back` frames before the last one played or concealed.
    fn overdue(&mut self, now: Time, back: i64, media_us: i64) {
        let bit = u32::try_from(back).ok().and_then(|back| 1_u64.checked_shl(back));
        if bit.is_some_and(|bit| self.played & bit != 0) {
            self.stats.duplicate += 1;
        } else {
            self.stats.late += 1;
            self.estimator.late(now, media_us);
        }
    }

    /// Begins to play if the first frame's time has come.
    fn begin(&mut self, at: Time) -> bool {
        let Some(delay) = self.head_delay(at) else {
            return false;
        };
        // A delay that is nearly right stays as it is: the next frame's end is then nearest to it.
        let due = if self.next.is_some() && self.error_us().abs() <= PAUSE_US {
            self.delay_us - FRAME_US / 2
        } else {
            self.estimator.target_us()
        };
        if delay < due {
            return false;
        }
        self.playing = true;
        self.stretched = 0;
        self.skip_until(at, due + FRAME_US);
        if let Some((&head, _)) = self.frames.first_key_value() {
            self.advance_to(head);
        }
        true
    }

    /// Leaves out what is so old that no stretching would catch up.
    fn catch_up(&mut self, at: Time) {
        let most = limits::JITTER_MOST.as_micros() as i64 + 5 * FRAME_US;
        if self.head_delay(at).is_some_and(|delay| delay > most) {
            self.skip_until(at, self.estimator.target_us() + FRAME_US);
        }
    }

    fn skip_until(&mut self, at: Time, delay_us: i64) {
        while self.frames.len() > 1 && self.head_delay(at).is_some_and(|delay| delay >= delay_us) {
            self.skip_first();
        }
    }

    fn skip_first(&mut self) {
        if let Some((seq, _)) = self.frames.pop_first() {
            self.stats.skipped += 1;
            if self.next.is_some_and(|next| next <= seq) {
                self.advance_to(seq + 1);
            }
        }
    }

    fn head_delay(&self, at: Time) -> Option<i64> {
        let (&seq, entry) = self.frames.first_key_value()?;
        Some(self.estimator.delay_us(at, self.entry_media(seq, entry)))
    }

    /// Nothing is there: conceal without advancing, for what is late is waited for.
    fn starve(&mut self) -> Playout {
        if self.stretched >= CONCEALED_IN_A_ROW {
            self.playing = false;
            self.stretched = 0;
            return Playout::Silence;
        }
        self.stretched += 1;
        self.stats.concealed += 1;
        Playout::Conceal
    }

    fn play(&mut self, at: Time) -> Playout {
        let Some((seq, entry)) = self.frames.pop_first() else {
            return Playout::Silence;
        };
        self.delay_us = self.estimator.delay_us(at, self.entry_media(seq, &entry));
        self.advance_to(seq + 1);
        self.played |= 1;
        self.stats.played += 1;
        if entry.speech.opus.len() <= DTX_BYTES {
            self.playing = false;
        }
        Playout::Frame(entry.speech)
    }

    /// Moves on to `seq`; what is passed over counts as not played.
    fn advance_to(&mut self, seq: i64) {
        let by = self.next.map_or(64, |next| seq - next);
        let by = u32::try_from(by).unwrap_or(0);
        self.played = self.played.checked_shl(by).unwrap_or(0);
        self.next = Some(seq);
    }
}

fn entry_packet(frames: &BTreeMap<i64, Entry>, seq: i64) -> Option<Bytes> {
    let packet = &frames.get(&seq)?.speech.opus;
    (packet.len() > DTX_BYTES).then(|| packet.clone())
}
