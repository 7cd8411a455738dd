//! A speaker's encoder: Opus frames with their level, silent where the speaker is.

use bytes::Bytes;
use stentor_proto::limits;
use stentor_proto::wire::SpeechFrame;

use super::level::{SILENT, dbov};
use super::{BLOCK, Block, RATE};

/// A packet of at most this many bytes says "not transmitting" (RFC 6716 section 2.1.9).
pub(super) const DTX_BYTES: usize = 2;

/// SILK, wide band, 20 ms, mono, without a frame: "not transmitting" (RFC 6716 section 3.1).
const EMPTY_PACKET: u8 = 9 << 3;

/// How a speaker's voice is encoded.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bits a second. A `voice` room takes at most 32,000.
    pub bitrate: u32,
    /// Loss to expect in percent; it decides how much in-band FEC is worth.
    pub loss_percent: u8,
    /// Whether pauses are left out (DTX). Ignored with `constant`.
    pub dtx: bool,
    /// Every frame has exactly `bitrate / 400` bytes, pauses too: what a bench wants.
    pub constant: bool,
}

impl Default for Settings {
    /// 28 kbit/s, FEC for 5 % loss, pauses left out.
    fn default() -> Self {
        Self { bitrate: 28_000, loss_percent: 5, dtx: true, constant: false }
    }
}

impl Settings {
    /// 48 kbit/s at a constant rate: 120 bytes a frame, the bench's canonical profile.
    #[must_use]
    pub fn bench() -> Self {
        Self { bitrate: 48_000, constant: true, dtx: false, ..Self::default() }
    }
}

/// Why nothing can be encoded: the settings, or libopus itself. No block of sound causes it.
#[derive(Debug, thiserror::Error)]
#[error("the encoder refuses ({function}): {reason}")]
pub struct EncodeError {
    function: &'static str,
    reason: &'static str,
}

impl From<opus::Error> for EncodeError {
    fn from(error: opus::Error) -> Self {
        Self { function: error.function(), reason: error.description() }
    }
}

/// Turns blocks of 20 ms into frames for the wire.
///
/// Hand in every block at its time, speech or not, and send what comes back. In a pause the first
/// DTX packet is sent as the end marker, then nothing but a comfort update about every 400 ms
/// (followed by a marker of its own). `seq` counts the frames that are sent, and those only.
pub struct Encoder {
    opus: opus::Encoder,
    activity: Activity,
    seq: u32,
    /// The last frame sent was an end marker.
    paused: bool,
}

impl Encoder {
    /// An encoder whose first frame has number 0.
    ///
    /// # Errors
    /// When libopus refuses the settings.
    pub fn new(settings: Settings) -> Result<Self, EncodeError> {
        let mut opus = opus::Encoder::new(RATE, opus::Channels::Mono, opus::Application::Voip)?;
        let bitrate = i32::try_from(settings.bitrate).unwrap_or(i32::MAX);
        opus.set_bitrate(opus::Bitrate::Bits(bitrate))?;
        opus.set_vbr(!settings.constant)?;
        // A constrained rate keeps single frames near the room's profile.
        opus.set_vbr_constraint(true)?;
        opus.set_signal(opus::Signal::Voice)?;
        opus.set_inband_fec(true)?;
        opus.set_packet_loss_perc(i32::from(settings.loss_percent.min(100)))?;
        opus.set_dtx(settings.dtx && !settings.constant)?;
        Ok(Self { opus, activity: Activity::default(), seq: 0, paused: false })
    }

    /// Encodes the next 20 ms; `None` where the pause goes on and nothing is to be sent.
    ///
    /// # Errors
    /// Never for a block of finite samples; samples that are not finite are taken for silence.
    pub fn encode(&mut self, block: &Block) -> Result<Option<SpeechFrame>, EncodeError> {
        let finite =
            block.map(|sample| if sample.is_finite() { sample.clamp(-1.0, 1.0) } else { 0.0 });
        let level = dbov(&finite);
        let voice = self.activity.push(level);
        let mut packet = [0; limits::FRAME_BYTES];
        let len = self.opus.encode_float(&finite, &mut packet)?;
        let pause = len <= DTX_BYTES;
        if len == 0 || (pause && self.paused) {
            return Ok(None);
        }
        Ok(Some(self.frame(level, voice, &packet[..len])))
    }

    /// The end marker of a speaker that stops to hand in blocks (muted, or at its end): listeners
    /// then take the silence for a pause. `None` in a pause, which has its marker already.
    pub fn pause(&mut self) -> Option<SpeechFrame> {
        (!self.paused).then(|| self.frame(SILENT, false, &[EMPTY_PACKET]))
    }

    fn frame(&mut self, level: u8, voice: bool, packet: &[u8]) -> SpeechFrame {
        self.paused = packet.len() <= DTX_BYTES;
        let seq = self.seq;
        self.seq = seq.wrapping_add(1);
        SpeechFrame {
            seq,
            level,
            voice: voice && !self.paused,
            opus: Bytes::copy_from_slice(packet),
        }
    }
}

const _: () = assert!(BLOCK as u64 * 1_000 == limits::TICK.as_millis() as u64 * RATE as u64);

/// Tells voice from background by level: so much above a floor that follows the quietest blocks.
struct Activity {
    /// The background's level, in −dBov.
    floor: f32,
    /// Blocks that still count as voice after the last loud one.
    hang_over: u32,
}

impl Default for Activity {
    fn default() -> Self {
        Self { floor: Self::QUIETEST, hang_over: 0 }
    }
}

impl Activity {
    /// Louder than the floor by this is voice, in dB.
    const ABOVE: f32 = 9.0;
    /// Nothing quieter than this is voice, in −dBov.
    const QUIETEST: f32 = 60.0;
    /// The floor rises by this in a block: 3 dB a second, far slower than speech does.
    const RISE: f32 = 0.06;
    /// 200 ms: the gaps between words are part of the voice.
    const HANG_OVER: u32 = 10;

    fn push(&mut self, level: u8) -> bool {
        let level = f32::from(level);
        self.floor = (self.floor - Self::RISE).max(level.min(Self::QUIETEST));
        if level < self.floor - Self::ABOVE {
            self.hang_over = Self::HANG_OVER;
            return true;
        }
        self.hang_over = self.hang_over.saturating_sub(1);
        self.hang_over > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sine(amplitude: f32, hertz: f32, block: usize) -> Block {
        std::array::from_fn(|i| {
            let t = (block * BLOCK + i) as f32 / RATE as f32;
            amplitude * (t * hertz * std::f32::consts::TAU).sin()
        })
    }

    #[test]
    fn a_sine_has_its_level_within_one_db() {
        let mut encoder = Encoder::new(Settings::default()).unwrap();
        // −20 dBov is a root mean square of 0.1.
        for block in 0..10 {
            let sine = sine(0.1 * 2.0_f32.sqrt(), 440.0, block);
            let frame = encoder.encode(&sine).unwrap().unwrap();
            assert!((19..=21).contains(&frame.level), "{}", frame.level);
            assert!(frame.voice);
        }
    }

    #[test]
    fn a_constant_rate_gives_exactly_120_bytes_even_in_silence() {
        let mut encoder = Encoder::new(Settings::bench()).unwrap();
        for block in 0..200 {
            let sound = if block % 50 < 25 { sine(0.3, 300.0, block) } else { [0.0; BLOCK] };
            let frame = encoder.encode(&sound).unwrap().unwrap();
            assert_eq!(frame.opus.len(), 120);
            assert_eq!(frame.seq as usize, block);
        }
    }

    #[test]
    fn a_pause_sends_a_marker_and_comfort_updates_only() {
        let mut encoder = Encoder::new(Settings::default()).unwrap();
        let mut sent = Vec::new();
        for block in 0..50 {
            sent.extend(encoder.encode(&sine(0.3, 300.0, block)).unwrap());
        }
        assert_eq!(sent.len(), 50);
        let mut pause = Vec::new();
        for _ in 0..150 {
            pause.extend(encoder.encode(&[0.0; BLOCK]).unwrap());
        }
        let markers: Vec<usize> =
            (0..pause.len()).filter(|&i| pause[i].opus.len() <= DTX_BYTES).collect();
        assert!(!markers.is_empty());
        // 3 s: what Opus sends before it believes in the pause, then two packets every 400 ms.
        assert!(pause.len() < 45, "{} frames in the pause", pause.len());
        for pair in markers.windows(2) {
            assert!(pair[1] > pair[0] + 1, "two markers in a row");
        }
        for (i, frame) in sent.iter().chain(&pause).enumerate() {
            assert_eq!(frame.seq as usize, i, "seq counts what is sent");
        }
        assert!(!pause[markers[0]].voice);
    }

    #[test]
    fn samples_that_are_not_finite_are_silence() {
        let mut encoder = Encoder::new(Settings::default()).unwrap();
        let frame = encoder.encode(&[f32::NAN; BLOCK]).unwrap().unwrap();
        assert_eq!(frame.level, 127);
    }
}
