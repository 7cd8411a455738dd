//! Ogg Opus (RFC 7845), channel mapping family 0.

use std::io::{ErrorKind, Read, Seek};

use ogg::{OggReadError, Packet, PacketReader};

use super::{Decode, InputProblem};
use crate::audio::RATE;

/// Samples of the longest Opus packet: 120 ms.
const PACKET_SAMPLES: usize = 5_760;

pub(super) struct OggOpus<R: Read + Seek> {
    packets: PacketReader<R>,
    stream: Stream,
    ended: bool,
}

/// One logical stream; a chained file holds several, one after the other.
struct Stream {
    serial: u32,
    decoder: opus::Decoder,
    /// Decoded samples still to be left out at the start (RFC 7845 section 4.2).
    skip: u64,
    /// The granule position at which the stream begins, known from its first page.
    start: Option<u64>,
    /// Samples of the packets of the first page, while it is read.
    first_page: u64,
    /// Samples decoded, the skipped ones included.
    decoded: u64,
    packets: u64,
}

impl<R: Read + Seek> OggOpus<R> {
    pub(super) fn new(reader: R) -> Result<Self, InputProblem> {
        let mut packets = PacketReader::new(reader);
        let head =
            packets.read_packet().map_err(|error| problem(error, 0))?.ok_or(InputProblem::Empty)?;
        let stream = Stream::new(&head)?;
        Ok(Self { packets, stream, ended: false })
    }

    fn next_packet(&mut self) -> Result<Option<Packet>, InputProblem> {
        loop {
            let decoded = self.stream.packets;
            match self.packets.read_packet() {
                Ok(None) => return Ok(None),
                Err(error) => return Err(problem(error, decoded)),
                Ok(Some(packet)) if packet.stream_serial() == self.stream.serial => {
                    return Ok(Some(packet));
                }
                // A chained stream begins; what belongs to other streams is passed over.
                Ok(Some(packet)) if packet.first_in_stream() && is_head(&packet.data) => {
                    self.stream = Stream::new(&packet)?;
                }
                Ok(Some(_)) => {}
            }
        }
    }
}

impl<R: Read + Seek + Send> Decode for OggOpus<R> {
    fn decode(&mut self, out: &mut Vec<f32>) -> Result<(), InputProblem> {
        let before = out.len();
        while !self.ended && out.len() == before {
            match self.next_packet()? {
                None => self.ended = true,
                Some(packet) => self.stream.decode(&packet, out)?,
            }
        }
        Ok(())
    }
}

fn is_head(data: &[u8]) -> bool {
    data.starts_with(b"OpusHead")
}

impl Stream {
    /// Reads the identification header (RFC 7845 section 5.1).
    fn new(packet: &Packet) -> Result<Self, InputProblem> {
        let data = &packet.data;
        if !is_head(data) {
            let what = "its Ogg stream is not Opus".to_owned();
            return Err(InputProblem::Unsupported(what));
        }
        let [version, channels, skip_low, skip_high, _, _, _, _, gain_low, gain_high, family] =
            *data
                .get(8..19)
                .and_then(|fields| fields.first_chunk::<11>())
                .ok_or_else(|| corrupt("its OpusHead is cut short"))?;
        if version & 0xf0 != 0 {
            let what = format!("version {version} of Ogg Opus");
            return Err(InputProblem::Unsupported(what));
        }
        if family != 0 {
            let what = format!("Opus channel mapping family {family} (only mono and stereo are)");
            return Err(InputProblem::Unsupported(what));
        }
        if !(1..=2).contains(&channels) {
            let what = format!("its OpusHead says {channels} channels where 1 or 2 can be");
            return Err(InputProblem::Corrupt(what));
        }
        // A mono decoder mixes a stereo stream down by itself.
        let mut decoder = opus::Decoder::new(RATE, opus::Channels::Mono).map_err(opus_problem)?;
        let gain = i16::from_le_bytes([gain_low, gain_high]);
        decoder.set_gain(i32::from(gain)).map_err(opus_problem)?;
        Ok(Self {
            serial: packet.stream_serial(),
            decoder,
            skip: u64::from(u16::from_le_bytes([skip_low, skip_high])),
            start: None,
            first_page: 0,
            decoded: 0,
            packets: 0,
        })
    }

    fn decode(&mut self, packet: &Packet, out: &mut Vec<f32>) -> Result<(), InputProblem> {
        self.packets += 1;
        // The packet after the head holds the tags, which do not matter here.
        if self.packets == 1 {
            if packet.data.starts_with(b"OpusTags") {
                return Ok(());
            }
            return Err(corrupt("its OpusTags are missing"));
        }
        let mut samples = [0.0; PACKET_SAMPLES];
        let number = self.packets - 1;
        if packet.data.is_empty() {
            let what = format!("Opus packet {number} is empty");
            return Err(InputProblem::Corrupt(what));
        }
        let len =
            self.decoder.decode_float(&packet.data, &mut samples, false).map_err(|error| {
                InputProblem::Corrupt(format!("Opus packet {number}: {}", error.description()))
            })?;
        self.decoded += len as u64;
        let mut play = &samples[..len];
        let skipped = self.skip.min(len as u64);
        self.skip -= skipped;
        play = &play[skipped as usize..];
        let surplus = self.surplus(packet, len as u64).min(play.len() as u64);
        out.extend_from_slice(&play[..play.len() - surplus as usize]);
        Ok(())
    }

    /// How many samples at the end of this packet lie behind the end of the stream, which the
    /// granule position of the last page tells (RFC 7845 section 4.4).
    fn surplus(&mut self, packet: &Packet, len: u64) -> u64 {
        let granule = packet.absgp_page();
        if self.start.is_none() {
            self.first_page += len;
            if packet.last_in_page() && !packet.last_in_stream() {
                self.start = Some(granule.saturating_sub(self.first_page));
            }
        }
        if !packet.last_in_stream() {
            return 0;
        }
        let end = granule.saturating_sub(self.start.unwrap_or(0));
        self.decoded.saturating_sub(end)
    }
}

fn corrupt(what: &str) -> InputProblem {
    InputProblem::Corrupt(what.to_owned())
}

fn opus_problem(error: opus::Error) -> InputProblem {
    InputProblem::Unsupported(format!("libopus: {}", error.description()))
}

fn problem(error: OggReadError, packets: u64) -> InputProblem {
    match error {
        OggReadError::ReadError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            InputProblem::Corrupt(format!("it ends within the page after packet {packets}"))
        }
        OggReadError::ReadError(error) => InputProblem::Io(error),
        other => InputProblem::Corrupt(format!("after Ogg packet {packets}: {other}")),
    }
}
