//! Datagrams: ticks, beacons, repair requests, speech (`docs/PROTOCOL.md` section 4).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::bytes::Reader;
use super::tick::{Record, SpeechFrame, TickKey};
use crate::limits;

const TICKS: u8 = 0x01;
const BEACON: u8 = 0x02;
const REPAIR: u8 = 0x03;
const SPEECH: u8 = 0x04;
const SPEECH_REQUEST: u8 = 0x05;
const PROBE: u8 = 0x06;

/// How datagrams lie on a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Framing {
    /// Raw QUIC: the datagram as it is.
    Quic,
    /// WebTransport session 0: one zero byte before it (RFC 9297 section 2.1).
    WebTransport,
}

impl Framing {
    /// Both framings, in the order of [`Framing::index`].
    pub const ALL: [Self; 2] = [Self::Quic, Self::WebTransport];

    /// Bytes before the datagram.
    #[must_use]
    pub const fn prefix(self) -> &'static [u8] {
        match self {
            Self::Quic => &[],
            Self::WebTransport => &[0],
        }
    }

    /// 0 or 1, to index a table by.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Quic => 0,
            Self::WebTransport => 1,
        }
    }
}

/// Why a datagram was refused. The sender is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// It ends before its fields do.
    #[error("the datagram is cut short")]
    Truncated,
    /// It, or a part of it, is longer than the protocol allows.
    #[error("the datagram is larger than the protocol allows")]
    Oversized,
    /// Its first byte names no kind that this release knows.
    #[error("the datagram is of the unknown kind {0:#04x}")]
    UnknownKind(u8),
    /// A field is outside its range.
    #[error("the datagram is malformed: {0}")]
    Malformed(&'static str),
}

/// "Alive; this is the newest tick; my own upstream has been silent for so long."
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beacon {
    /// The newest tick that the sender has; number 0 before the first.
    pub newest: TickKey,
    /// Bit i: the sender itself still waits for tick `newest − 1 − i`.
    pub pending: u32,
    /// How long the sender's own upstream has been silent, in milliseconds; 0 if it is not.
    pub upstream_silent_ms: u32,
}

/// A child asks for ticks that it lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepairRequest {
    /// The oldest tick asked for.
    pub first: TickKey,
    /// Bit i: tick `first + i` is asked for; bit 0 is always set.
    pub mask: u32,
}

/// The origin asks a speaker for frames that it lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpeechRequest {
    /// The speaker's slot.
    pub slot: u16,
    /// The oldest frame asked for.
    pub first: u32,
    /// Bit i: frame `first + i` is asked for; bit 0 is always set.
    pub mask: u32,
}

/// A datagram, parsed and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datagram {
    /// One or more ticks of one room and epoch.
    Ticks {
        /// The room's number.
        room: u32,
        /// The epoch of every record in the datagram.
        epoch: u32,
        /// An answer to a repair request or a replay, not a live tick.
        replay: bool,
        /// Bit i: the sender itself still waits for tick `records[0].number − 1 − i`.
        pending: u32,
        /// The current tick first, then earlier ones. Never empty.
        records: Vec<Record>,
    },
    /// A sign of life when there is nothing to send.
    Beacon(Beacon),
    /// A child asks its parent.
    Repair(RepairRequest),
    /// A speaker's frames, the newest first. Never empty.
    Speech {
        /// The slot that the origin gave the speaker.
        slot: u16,
        /// The newest frame and the ones before it.
        frames: Vec<SpeechFrame>,
    },
    /// The origin asks a speaker.
    SpeechRequest(SpeechRequest),
    /// A child asks whether its parent lives; the answer is a beacon.
    Probe,
}

impl Datagram {
    /// Reads a datagram, its framing's prefix already removed.
    ///
    /// # Errors
    /// When it is cut short, too large, of an unknown kind, or a field is outside its range.
    pub fn parse(bytes: Bytes) -> Result<Self, DatagramError> {
        if bytes.len() > limits::DATAGRAM_BYTES {
            return Err(DatagramError::Oversized);
        }
        match bytes.first().copied() {
            None => Err(DatagramError::Truncated),
            Some(TICKS) => parse_ticks(bytes),
            Some(BEACON) => parse_beacon(&bytes).ok_or(DatagramError::Truncated),
            Some(REPAIR) => parse_repair(&bytes),
            Some(SPEECH) => parse_speech(bytes),
            Some(SPEECH_REQUEST) => parse_speech_request(&bytes),
            Some(PROBE) if bytes.len() >= 4 => Ok(Self::Probe),
            Some(PROBE) => Err(DatagramError::Truncated),
            Some(kind) => Err(DatagramError::UnknownKind(kind)),
        }
    }
}

const REPLAY: u8 = 0x01;

fn parse_ticks(mut bytes: Bytes) -> Result<Datagram, DatagramError> {
    let mut reader = Reader::new(&bytes);
    let mut header = || {
        reader.u8()?;
        let flags = reader.u8()?;
        let count = reader.u8()?;
        reader.u8()?;
        Some((flags, count, reader.u32()?, reader.u32()?, reader.u32()?))
    };
    let (flags, count, room, epoch, pending) = header().ok_or(DatagramError::Truncated)?;
    if count == 0 {
        return Err(DatagramError::Malformed("no tick in it"));
    }
    if usize::from(count) > limits::RECORDS_PER_DATAGRAM {
        return Err(DatagramError::Oversized);
    }
    bytes.advance(limits::DATAGRAM_HEADER_BYTES);
    let mut records = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        records.push(Record::parse(&mut bytes)?);
    }
    if bytes.has_remaining() {
        return Err(DatagramError::Malformed("bytes after the last tick"));
    }
    let replay = flags & REPLAY != 0;
    Ok(Datagram::Ticks { room, epoch, replay, pending, records })
}

fn parse_beacon(bytes: &[u8]) -> Option<Datagram> {
    let mut reader = Reader::new(bytes);
    reader.take(4)?;
    let newest = TickKey { room: reader.u32()?, epoch: reader.u32()?, number: reader.u32()? };
    let (pending, upstream_silent_ms) = (reader.u32()?, reader.u32()?);
    Some(Datagram::Beacon(Beacon { newest, pending, upstream_silent_ms }))
}

fn parse_repair(bytes: &[u8]) -> Result<Datagram, DatagramError> {
    let mut reader = Reader::new(bytes);
    let mut fields = || {
        reader.take(4)?;
        let first = TickKey { room: reader.u32()?, epoch: reader.u32()?, number: reader.u32()? };
        Some(RepairRequest { first, mask: reader.u32()? })
    };
    let request = fields().ok_or(DatagramError::Truncated)?;
    if request.mask & 1 == 0 {
        return Err(DatagramError::Malformed("bit 0 of the mask is not set"));
    }
    Ok(Datagram::Repair(request))
}

fn parse_speech(mut bytes: Bytes) -> Result<Datagram, DatagramError> {
    let mut reader = Reader::new(&bytes);
    let mut fields = || {
        reader.take(2)?;
        let slot = reader.u16()?;
        Some((slot, reader.u8()?))
    };
    let (slot, count) = fields().ok_or(DatagramError::Truncated)?;
    if count == 0 {
        return Err(DatagramError::Malformed("no frame in it"));
    }
    if usize::from(count) > limits::FRAMES_PER_SPEECH {
        return Err(DatagramError::Oversized);
    }
    bytes.advance(5);
    let mut frames = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        frames.push(SpeechFrame::parse(&mut bytes)?);
    }
    if bytes.has_remaining() {
        return Err(DatagramError::Malformed("bytes after the last frame"));
    }
    Ok(Datagram::Speech { slot, frames })
}

fn parse_speech_request(bytes: &[u8]) -> Result<Datagram, DatagramError> {
    let mut reader = Reader::new(bytes);
    let mut fields = || {
        reader.take(2)?;
        Some(SpeechRequest { slot: reader.u16()?, first: reader.u32()?, mask: reader.u32()? })
    };
    let request = fields().ok_or(DatagramError::Truncated)?;
    if request.mask & 1 == 0 {
        return Err(DatagramError::Malformed("bit 0 of the mask is not set"));
    }
    Ok(Datagram::SpeechRequest(request))
}

/// Builds a ticks datagram: `records` are whole records, the current tick first.
///
/// The caller keeps the sum within [`limits::DATAGRAM_BYTES`].
#[must_use]
pub fn ticks_bytes(
    framing: Framing,
    room: u32,
    epoch: u32,
    replay: bool,
    pending: u32,
    records: &[Bytes],
) -> Bytes {
    let body: usize = records.iter().map(Bytes::len).sum();
    let mut out = BytesMut::with_capacity(1 + limits::DATAGRAM_HEADER_BYTES + body);
    out.put_slice(framing.prefix());
    out.put_u8(TICKS);
    out.put_u8(if replay { REPLAY } else { 0 });
    out.put_u8(u8::try_from(records.len()).expect("bounded by RECORDS_PER_DATAGRAM"));
    out.put_u8(0);
    out.put_u32(room);
    out.put_u32(epoch);
    out.put_u32(pending);
    for record in records {
        out.put_slice(record);
    }
    out.freeze()
}

fn put_key(out: &mut BytesMut, key: TickKey) {
    out.put_u32(key.room);
    out.put_u32(key.epoch);
    out.put_u32(key.number);
}

/// Builds a beacon.
#[must_use]
pub fn beacon_bytes(framing: Framing, beacon: &Beacon) -> Bytes {
    let mut out = BytesMut::with_capacity(25);
    out.put_slice(framing.prefix());
    out.put_slice(&[BEACON, 0, 0, 0]);
    put_key(&mut out, beacon.newest);
    out.put_u32(beacon.pending);
    out.put_u32(beacon.upstream_silent_ms);
    out.freeze()
}

/// Builds a repair request.
#[must_use]
pub fn repair_bytes(framing: Framing, request: &RepairRequest) -> Bytes {
    let mut out = BytesMut::with_capacity(21);
    out.put_slice(framing.prefix());
    out.put_slice(&[REPAIR, 0, 0, 0]);
    put_key(&mut out, request.first);
    out.put_u32(request.mask);
    out.freeze()
}

/// Builds a speech datagram: `frames` are 1 to [`limits::FRAMES_PER_SPEECH`], the newest first.
#[must_use]
pub fn speech_bytes<'a>(
    framing: Framing,
    slot: u16,
    frames: impl ExactSizeIterator<Item = &'a SpeechFrame>,
) -> Bytes {
    let mut out = BytesMut::with_capacity(512);
    out.put_slice(framing.prefix());
    out.put_slice(&[SPEECH, 0]);
    out.put_u16(slot);
    out.put_u8(u8::try_from(frames.len()).expect("bounded by FRAMES_PER_SPEECH"));
    for frame in frames {
        frame.write(&mut out);
    }
    out.freeze()
}

/// Builds the origin's request to a speaker.
#[must_use]
pub fn speech_request_bytes(framing: Framing, request: &SpeechRequest) -> Bytes {
    let mut out = BytesMut::with_capacity(13);
    out.put_slice(framing.prefix());
    out.put_slice(&[SPEECH_REQUEST, 0]);
    out.put_u16(request.slot);
    out.put_u32(request.first);
    out.put_u32(request.mask);
    out.freeze()
}

/// Builds a probe.
#[must_use]
pub fn probe_bytes(framing: Framing) -> Bytes {
    let mut out = BytesMut::with_capacity(5);
    out.put_slice(framing.prefix());
    out.put_slice(&[PROBE, 0, 0, 0]);
    out.freeze()
}
