//! One speaker's voice as a listener hears it: jitter buffer, decoder, and the clock's correction.

use std::time::Duration;

use stentor_proto::Time;
use stentor_proto::wire::SpeechFrame;

use super::jitter::{Adjust, JitterBuffer, JitterStats, Playout};
use super::level::rms;
use super::{BLOCK, Block, RATE};

/// A frame whose root mean square is below this (−50 dBov) may be left out or played twice.
const QUIET: f32 = 0.003;
/// Frames between two such adjustments: at most 20 ms are put right in half a second.
const ADJUST_EVERY: u32 = 25;
/// Samples that interpolation wants behind the current one.
const AHEAD: usize = 3;

/// What a voice did; each counts from the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VoiceStats {
    /// Frames decoded from their own packet.
    pub decoded: u64,
    /// Lost frames taken from the next packet's in-band FEC.
    pub fec: u64,
    /// Frames that the decoder invented.
    pub concealed: u64,
    /// Packets that are no Opus of 20 ms: concealed.
    pub malformed: u64,
    /// Quiet frames left out or played twice to correct the delay.
    pub adjusted: u64,
}

/// Decodes one speaker. Nothing that a packet holds ends it.
pub struct Voice {
    buffer: JitterBuffer,
    /// None only while libopus has no memory for one.
    decoder: Option<opus::Decoder>,
    /// Decoded samples, the first of which is kept for interpolation only.
    samples: Vec<f32>,
    /// The place in `samples` that is to be played next.
    position: f64,
    silent: bool,
    since_adjust: u32,
    stats: VoiceStats,
}

impl Voice {
    /// A voice whose delay starts at `start`.
    #[must_use]
    pub fn new(start: Duration) -> Self {
        Self {
            buffer: JitterBuffer::new(start),
            decoder: new_decoder(),
            samples: vec![0.0],
            position: 1.0,
            silent: true,
            since_adjust: 0,
            stats: VoiceStats::default(),
        }
    }

    /// Hands in a frame; see [`JitterBuffer::push`].
    pub fn push(&mut self, now: Time, clock_us: u64, speech: SpeechFrame) {
        self.buffer.push(now, clock_us, speech);
    }

    /// The next 20 ms, whose first sample is heard at `now`.
    pub fn pull(&mut self, now: Time) -> Block {
        let rate = self.buffer.rate();
        let wanted = self.position + rate * BLOCK as f64;
        let wanted = wanted.ceil() as usize + AHEAD;
        while self.samples.len() < wanted {
            let ahead = (self.samples.len() as f64 - self.position).max(0.0) / f64::from(RATE);
            self.step(now + Duration::from_secs_f64(ahead));
        }
        let mut block = [0.0; BLOCK];
        for sample in &mut block {
            *sample = interpolate(&self.samples, self.position);
            self.position += rate;
        }
        let used = (self.position as usize).saturating_sub(1);
        self.samples.drain(..used);
        self.position -= used as f64;
        block
    }

    /// Whether the last frame was silence: nobody speaks and no frame waits.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.silent && self.buffer.is_empty()
    }

    /// How long frames are held at the moment.
    #[must_use]
    pub fn delay(&self) -> Duration {
        self.buffer.delay()
    }

    /// What the decoder did.
    #[must_use]
    pub fn stats(&self) -> VoiceStats {
        self.stats
    }

    /// What became of the frames before they were decoded.
    #[must_use]
    pub fn jitter_stats(&self) -> JitterStats {
        self.buffer.stats()
    }

    /// Decodes one more frame, heard at `at`.
    fn step(&mut self, at: Time) {
        self.since_adjust = self.since_adjust.saturating_add(1);
        let playout = self.buffer.pop(at);
        let was_silent = self.silent;
        self.silent = playout == Playout::Silence;
        let block = match playout {
            Playout::Frame(speech) => self.decode(&speech.opus, false),
            Playout::Fec { next_packet } => self.decode(&next_packet, true),
            Playout::Conceal => self.conceal(),
            Playout::Silence if was_silent => [0.0; BLOCK],
            Playout::Silence => self.fade_out(),
        };
        match self.buffer.adjust() {
            _ if self.since_adjust < ADJUST_EVERY || rms(&block) > QUIET => {}
            Adjust::Keep => {}
            Adjust::Shrink => {
                self.adjusted();
                return;
            }
            Adjust::Grow => {
                self.adjusted();
                self.samples.extend_from_slice(&block);
            }
        }
        self.samples.extend_from_slice(&block);
    }

    fn adjusted(&mut self) {
        self.since_adjust = 0;
        self.stats.adjusted += 1;
    }

    fn decode(&mut self, packet: &[u8], fec: bool) -> Block {
        let mut block = [0.0; BLOCK];
        let whole = opus::packet::get_nb_samples(packet, RATE).is_ok_and(|len| len == BLOCK);
        let decoded = whole
            && self.decoder.as_mut().is_some_and(|decoder| {
                decoder.decode_float(packet, &mut block, fec).is_ok_and(|len| len == BLOCK)
            });
        if !decoded {
            self.stats.malformed += 1;
            if whole {
                self.decoder = new_decoder();
            }
            return self.conceal();
        }
        if fec {
            self.stats.fec += 1;
        } else {
            self.stats.decoded += 1;
        }
        tame(&mut block);
        block
    }

    fn conceal(&mut self) -> Block {
        self.stats.concealed += 1;
        self.invent()
    }

    fn invent(&mut self) -> Block {
        let mut block = [0.0; BLOCK];
        let invented = self
            .decoder
            .as_mut()
            .is_some_and(|decoder| decoder.decode_float(&[], &mut block, false).is_ok());
        if !invented {
            self.decoder = new_decoder();
            block = [0.0; BLOCK];
        }
        tame(&mut block);
        block
    }

    /// The first frame of a silence runs out, so that it begins without a click.
    fn fade_out(&mut self) -> Block {
        let mut block = self.invent();
        for (i, sample) in block.iter_mut().enumerate() {
            *sample *= 1.0 - i as f32 / BLOCK as f32;
        }
        block
    }
}

/// Whether a packet is sound: what a listener's first frame is asked, one after the other, by whoever
/// measures when many of them begin to hear.
pub struct FirstSound {
    decoder: Option<opus::Decoder>,
}

impl Default for FirstSound {
    fn default() -> Self {
        Self { decoder: new_decoder() }
    }
}

impl FirstSound {
    /// Decodes a packet as the first one of a speaker; whether it holds 20 ms of sound.
    pub fn hears(&mut self, packet: &[u8]) -> bool {
        let mut block = [0.0; BLOCK];
        self.decoder.as_mut().is_some_and(|decoder| {
            decoder.reset_state().is_ok()
                && decoder.decode_float(packet, &mut block, false).is_ok_and(|len| len == BLOCK)
        })
    }
}

fn new_decoder() -> Option<opus::Decoder> {
    opus::Decoder::new(RATE, opus::Channels::Mono).ok()
}

/// A forged packet may decode to any number; none of them reaches the mix.
fn tame(block: &mut Block) {
    for sample in block {
        *sample = if sample.is_finite() { sample.clamp(-4.0, 4.0) } else { 0.0 };
    }
}

/// Cubic (Catmull-Rom) interpolation at `position`, which is at least 1.
fn interpolate(samples: &[f32], position: f64) -> f32 {
    let index = position as usize;
    let t = (position - index as f64) as f32;
    let (a, b, c, d) = (samples[index - 1], samples[index], samples[index + 1], samples[index + 2]);
    b + 0.5 * t * (c - a + t * (2.0 * a - 5.0 * b + 4.0 * c - d + t * (3.0 * (b - c) + d - a)))
}
