//! Ticks and frames (`docs/PROTOCOL.md` sections 4 and 5).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::bytes::Reader;
use super::datagram::DatagramError;
use crate::limits;

/// What names a tick everywhere: fan-out, ring, repair, merge and accounting work on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TickKey {
    /// The room's number, unique at its origin.
    pub room: u32,
    /// Rises when another origin takes the room over.
    pub epoch: u32,
    /// The tick's number within its epoch, from 1.
    pub number: u32,
}

/// What the origin says of a tick in its clear header (one byte).
///
/// Bits that this release does not know are carried on unchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TickFlags(pub u8);

impl TickFlags {
    /// No one speaks: the tick holds no frame.
    pub const HEARTBEAT: u8 = 0x01;
    /// Reserved: frames are sealed by their speakers.
    pub const SEALED: u8 = 0x02;
    /// Reserved: a signature block follows the frames.
    pub const SIGNED: u8 = 0x04;

    /// Whether the tick is a heartbeat.
    #[must_use]
    pub const fn is_heartbeat(self) -> bool {
        self.0 & Self::HEARTBEAT != 0
    }
}

/// One tick as it lies in a datagram and in the ring: a 16-byte clear header and opaque bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The tick's number within its epoch.
    pub number: u32,
    /// The origin's clock when the tick closed: microseconds since the Unix epoch.
    pub clock_us: u64,
    /// The room's cadence in milliseconds: 20, 40 or 60.
    pub tick_ms: u8,
    /// What the origin says of the tick.
    pub flags: TickFlags,
    /// The frames; see [`frames`]. A relay does not look inside.
    pub payload: Bytes,
    /// The whole record as received, header included: what a relay passes on.
    pub bytes: Bytes,
}

impl Record {
    /// Reads the record at the start of `rest` and moves past it.
    ///
    /// # Errors
    /// When the bytes are short, or a field is outside its range.
    pub fn parse(rest: &mut Bytes) -> Result<Self, DatagramError> {
        let mut reader = Reader::new(rest);
        let header = || DatagramError::Truncated;
        let number = reader.u32().ok_or_else(header)?;
        let clock_us = reader.u64().ok_or_else(header)?;
        let tick_ms = reader.u8().ok_or_else(header)?;
        let flags = TickFlags(reader.u8().ok_or_else(header)?);
        let len = usize::from(reader.u16().ok_or_else(header)?);
        if number == 0 {
            return Err(DatagramError::Malformed("tick number 0"));
        }
        if !limits::TICK_MS.contains(&tick_ms) {
            return Err(DatagramError::Malformed("cadence is not 20, 40 or 60 ms"));
        }
        if len > limits::RECORD_BYTES - limits::RECORD_HEADER_BYTES {
            return Err(DatagramError::Oversized);
        }
        if reader.left() < len {
            return Err(DatagramError::Truncated);
        }
        let bytes = rest.split_to(limits::RECORD_HEADER_BYTES + len);
        let payload = bytes.slice(limits::RECORD_HEADER_BYTES..);
        Ok(Self { number, clock_us, tick_ms, flags, payload, bytes })
    }
}

/// Builds a record from its parts. `payload` is at most [`limits::RECORD_BYTES`] less the header.
#[must_use]
pub fn record_bytes(
    number: u32,
    clock_us: u64,
    tick_ms: u8,
    flags: TickFlags,
    payload: &[u8],
) -> Bytes {
    let mut out = BytesMut::with_capacity(limits::RECORD_HEADER_BYTES + payload.len());
    out.put_u32(number);
    out.put_u64(clock_us);
    out.put_u8(tick_ms);
    out.put_u8(flags.0);
    let len = u16::try_from(payload.len()).expect("a payload is bounded by RECORD_BYTES");
    out.put_u16(len);
    out.put_slice(payload);
    out.freeze()
}

/// One Opus packet of one speaker within a tick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The speaker's slot, never reused within an epoch.
    pub slot: u16,
    /// The speaker and its packet.
    pub speech: SpeechFrame,
}

/// One Opus packet with what its speaker says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpeechFrame {
    /// The speaker's own count of frames sent; it does not advance while the speaker is silent.
    pub seq: u32,
    /// Loudness in −dBov, 0 (loudest) to 127 (silence), as RFC 6464.
    pub level: u8,
    /// Whether the speaker's encoder takes it for voice, as RFC 6464.
    pub voice: bool,
    /// The Opus packet of 20 ms (RFC 6716), or sealed bytes.
    pub opus: Bytes,
}

impl SpeechFrame {
    const VOICE: u8 = 0x80;

    pub(super) fn write(&self, out: &mut BytesMut) {
        out.put_u32(self.seq);
        out.put_u8((self.level & 0x7f) | if self.voice { Self::VOICE } else { 0 });
        let len = u16::try_from(self.opus.len()).expect("a frame is bounded by FRAME_BYTES");
        out.put_u16(len);
        out.put_slice(&self.opus);
    }

    pub(super) fn parse(rest: &mut Bytes) -> Result<Self, DatagramError> {
        let mut reader = Reader::new(rest);
        let seq = reader.u32().ok_or(DatagramError::Truncated)?;
        let level = reader.u8().ok_or(DatagramError::Truncated)?;
        let len = usize::from(reader.u16().ok_or(DatagramError::Truncated)?);
        if len == 0 {
            return Err(DatagramError::Malformed("an empty frame"));
        }
        if len > limits::FRAME_BYTES {
            return Err(DatagramError::Oversized);
        }
        if reader.left() < len {
            return Err(DatagramError::Truncated);
        }
        rest.advance(7);
        let opus = rest.split_to(len);
        Ok(Self { seq, level: level & 0x7f, voice: level & Self::VOICE != 0, opus })
    }
}

impl Frame {
    /// Bytes that the frame takes within a tick's payload.
    #[must_use]
    pub fn len(&self) -> usize {
        limits::FRAME_HEADER_BYTES + self.speech.opus.len()
    }

    /// Whether the Opus packet is empty, which the wire refuses.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.speech.opus.is_empty()
    }

    /// Builds a tick's payload: a count and the frames.
    #[must_use]
    pub fn payload(frames: &[Self]) -> Bytes {
        let mut out = BytesMut::with_capacity(1 + frames.iter().map(Self::len).sum::<usize>());
        out.put_u8(u8::try_from(frames.len()).expect("frames are bounded by FRAMES_PER_TICK"));
        for frame in frames {
            out.put_u16(frame.slot);
            frame.speech.write(&mut out);
        }
        out.freeze()
    }
}

/// Reads the frames of a tick's payload.
///
/// # Errors
/// When the bytes are short or a field is outside its range. Bytes after the last frame are
/// skipped: a later release may put a signature block there.
pub fn frames(payload: &Bytes) -> Result<Vec<Frame>, DatagramError> {
    let mut rest = payload.clone();
    if !rest.has_remaining() {
        return Err(DatagramError::Truncated);
    }
    let count = usize::from(rest.get_u8());
    if count > limits::FRAMES_PER_TICK {
        return Err(DatagramError::Oversized);
    }
    let mut frames = Vec::with_capacity(count);
    for _ in 0..count {
        if rest.remaining() < 2 {
            return Err(DatagramError::Truncated);
        }
        let slot = rest.get_u16();
        frames.push(Frame { slot, speech: SpeechFrame::parse(&mut rest)? });
    }
    Ok(frames)
}
