//! Sound: what a speaker's client sends and what a listener's client plays.
//!
//! A speaker: [`Source`] (a file or a pipe) → [`Encoder`] → frames for the wire.
//! A listener: ticks → [`Mixer`] (for each speaker a [`JitterBuffer`] and a [`Voice`]) → [`Sink`].
//!
//! All of it is mono, 48 kHz, in blocks of 20 ms, and takes time as an argument.

mod decode;
mod delay;
mod encode;
pub mod input;
mod jitter;
mod level;
mod limiter;
mod mixer;
mod output;

pub use decode::{FirstSound, Voice, VoiceStats};
pub use encode::{EncodeError, Encoder, Settings as EncoderSettings};
pub use input::{InputError, InputProblem, Source, collect, load};
pub use jitter::{Adjust, JitterBuffer, JitterStats, Playout};
pub use level::{SILENT, dbov};
pub use mixer::{Mixer, MixerStats};
pub use output::{Format, OutputError, OutputProblem, Sink};

/// Samples in a second.
pub const RATE: u32 = 48_000;
/// Samples in a block: 20 ms.
pub const BLOCK: usize = 960;

/// A block of sound: 20 ms, mono, 48 kHz, full scale at ±1.
pub type Block = [f32; BLOCK];

/// A minute of speech made for the project, as Ogg Opus; `assets/README.md` says how.
#[must_use]
pub fn default_speech() -> &'static [u8] {
    include_bytes!("../../../assets/speech.opus")
}
