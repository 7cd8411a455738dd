//! What a listener hears: all voices of the ticks, mixed.

use std::collections::BTreeMap;
use std::time::Duration;

use stentor_proto::wire::{Frame, TickKey};
use stentor_proto::{Time, limits};

use super::decode::Voice;
use super::level::{SILENT, dbov};
use super::limiter::Limiter;
use super::{BLOCK, Block};

/// What the mixer heard; each counts from the start, over all voices, those that left included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MixerStats {
    /// Ticks handed in.
    pub ticks: u64,
    /// Frames decoded from their own packet.
    pub decoded: u64,
    /// Lost frames taken from in-band FEC.
    pub fec: u64,
    /// Milliseconds that decoders invented.
    pub concealed_ms: u64,
    /// Frames that came too late to be played.
    pub late: u64,
    /// Frames that came twice.
    pub duplicate: u64,
    /// Frames left out to shorten a delay, or because a buffer was full.
    pub skipped: u64,
    /// Packets that are no Opus of 20 ms.
    pub malformed: u64,
    /// Voices given up for another because there were [`limits::VOICES`].
    pub evicted: u64,
    /// Frames of the listener's own slot, left out.
    pub own: u64,
}

impl MixerStats {
    fn add(&mut self, voice: &Voice) {
        let (stats, jitter) = (voice.stats(), voice.jitter_stats());
        self.decoded += stats.decoded;
        self.fec += stats.fec;
        self.concealed_ms += stats.concealed * limits::TICK.as_millis() as u64;
        self.malformed += stats.malformed;
        self.late += jitter.late;
        self.duplicate += jitter.duplicate;
        self.skipped += jitter.skipped;
    }
}

/// Decodes and mixes the speakers of one room.
///
/// Hand in ticks as they come ([`push_tick`](Self::push_tick)), take 20 ms of sound every 20 ms
/// ([`pull`](Self::pull)). The sound never exceeds full scale.
pub struct Mixer {
    start: Duration,
    own: Option<u16>,
    room: Option<(u32, u32)>,
    voices: BTreeMap<u16, Speaker>,
    limiter: Limiter,
    /// Sums of the voices that left.
    left: MixerStats,
}

struct Speaker {
    voice: Voice,
    heard: Time,
    level: u8,
}

impl Mixer {
    /// A mixer whose voices start with the delay `start`, the client's playout target.
    #[must_use]
    pub fn new(start: Duration) -> Self {
        Self {
            start,
            own: None,
            room: None,
            voices: BTreeMap::new(),
            limiter: Limiter::new(),
            left: MixerStats::default(),
        }
    }

    /// Leaves `slot` out of the mix: a speaker does not hear itself.
    pub fn skip(&mut self, slot: Option<u16>) {
        self.own = slot;
        if let Some(slot) = slot {
            self.remove(slot);
        }
    }

    /// Hands in a tick's frames. `clock_us` is the record's clock; heartbeats need not come here.
    pub fn push_tick(&mut self, now: Time, key: TickKey, clock_us: u64, frames: Vec<Frame>) {
        self.left.ticks += 1;
        let room = (key.room, key.epoch);
        if self.room.is_some_and(|known| known != room) {
            // Slots of another epoch are other people.
            let slots: Vec<u16> = self.voices.keys().copied().collect();
            for slot in slots {
                self.remove(slot);
            }
        }
        self.room = Some(room);
        for frame in frames {
            if self.own == Some(frame.slot) {
                self.left.own += 1;
                continue;
            }
            let speaker = self.speaker(now, frame.slot);
            speaker.heard = now;
            speaker.voice.push(now, clock_us, frame.speech);
        }
    }

    /// Mixes the next 20 ms, whose first sample is heard at `now`, into `out`.
    pub fn pull(&mut self, now: Time, out: &mut [f32; BLOCK]) {
        let gone: Vec<u16> = self
            .voices
            .iter()
            .filter(|(_, speaker)| now.since(speaker.heard) > limits::VOICE_LINGER)
            .map(|(slot, _)| *slot)
            .collect();
        for slot in gone {
            self.remove(slot);
        }
        let mut mix: Block = [0.0; BLOCK];
        for speaker in self.voices.values_mut() {
            let block = speaker.voice.pull(now);
            speaker.level = dbov(&block);
            for (sum, sample) in mix.iter_mut().zip(&block) {
                *sum += sample;
            }
        }
        self.limiter.apply(&mut mix);
        *out = mix;
    }

    /// How loud each voice is at the moment, in −dBov, by slot: for meters.
    pub fn levels(&self) -> impl Iterator<Item = (u16, u8)> + '_ {
        self.voices.iter().map(|(slot, speaker)| (*slot, speaker.level))
    }

    /// The longest delay of the voices that speak; the starting delay while nobody does.
    #[must_use]
    pub fn delay(&self) -> Duration {
        self.voices
            .values()
            .filter(|speaker| !speaker.voice.is_silent())
            .map(|speaker| speaker.voice.delay())
            .max()
            .unwrap_or(self.start)
    }

    /// What was heard so far.
    #[must_use]
    pub fn stats(&self) -> MixerStats {
        let mut stats = self.left;
        for speaker in self.voices.values() {
            stats.add(&speaker.voice);
        }
        stats
    }

    fn speaker(&mut self, now: Time, slot: u16) -> &mut Speaker {
        if !self.voices.contains_key(&slot) && self.voices.len() >= limits::VOICES {
            let longest = self.voices.iter().min_by_key(|(_, speaker)| speaker.heard);
            if let Some(slot) = longest.map(|(slot, _)| *slot) {
                self.remove(slot);
                self.left.evicted += 1;
            }
        }
        let start = self.start;
        self.voices.entry(slot).or_insert_with(|| Speaker {
            voice: Voice::new(start),
            heard: now,
            level: SILENT,
        })
    }

    fn remove(&mut self, slot: u16) {
        if let Some(speaker) = self.voices.remove(&slot) {
            self.left.add(&speaker.voice);
        }
    }
}
