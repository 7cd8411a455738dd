//! Sound that goes out: WAV, Ogg Opus or raw samples, to a file or a pipe.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Seek, SeekFrom, Write};
use std::path::Path;

use ogg::{PacketWriteEndInfo, PacketWriter};
use stentor_proto::limits;

use super::{BLOCK, Block, RATE};

/// How sound is written. All of them are mono, 48 kHz.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// WAV of 16-bit samples. In a pipe its header says "until the end" (`0xFFFFFFFF`).
    Wav,
    /// Ogg Opus (RFC 7845) at 64 kbit/s.
    OggOpus,
    /// 16-bit little-endian samples without a header.
    Raw,
}

impl Format {
    /// The format that a file's name asks for: `.wav`, `.opus` or `.ogg`, `.raw` or `.pcm`.
    #[must_use]
    pub fn of_path(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "wav" => Some(Self::Wav),
            "opus" | "ogg" | "oga" => Some(Self::OggOpus),
            "raw" | "pcm" => Some(Self::Raw),
            _ => None,
        }
    }
}

/// Why sound could not be written: where to, and what stands against it.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {problem}")]
pub struct OutputError {
    /// The file's path, or the name that the caller gave the output.
    pub name: String,
    /// What stands against it.
    #[source]
    pub problem: OutputProblem,
}

/// What stands against writing.
#[derive(Debug, thiserror::Error)]
pub enum OutputProblem {
    /// There is no room left where the file lies.
    #[error("the disk is full")]
    DiskFull(#[source] io::Error),
    /// The program that read the pipe has ended.
    #[error("the reader of the pipe has gone")]
    BrokenPipe(#[source] io::Error),
    /// The operating system refused otherwise.
    #[error("cannot be written: {0}")]
    Io(#[source] io::Error),
    /// libopus refused its settings.
    #[error("cannot be encoded: {0}")]
    Encode(#[source] opus::Error),
}

impl From<io::Error> for OutputProblem {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::DiskFull(error),
            ErrorKind::BrokenPipe => Self::BrokenPipe(error),
            _ => Self::Io(error),
        }
    }
}

impl From<opus::Error> for OutputProblem {
    fn from(error: opus::Error) -> Self {
        Self::Encode(error)
    }
}

/// Writes blocks of 20 ms. Call [`finish`](Self::finish) at the end: only then is a file complete.
pub struct Sink {
    name: String,
    writer: Writer,
}

enum Writer {
    Pcm(Pcm),
    Ogg(Box<OggOpus>),
}

impl Sink {
    /// Creates a file, or empties the one that is there.
    ///
    /// # Errors
    /// When it cannot be created or written.
    pub fn create(path: impl AsRef<Path>, format: Format) -> Result<Self, OutputError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let open = || Ok(Target::File(BufWriter::new(File::create(path)?)));
        Self::start(name, format, open)
    }

    /// Writes into a pipe (standard output, say), block by block. `name` is what errors call it.
    ///
    /// # Errors
    /// When the header cannot be written.
    pub fn stream(
        name: &str,
        writer: impl Write + Send + 'static,
        format: Format,
    ) -> Result<Self, OutputError> {
        let target = Target::Pipe(BufWriter::new(Box::new(writer)));
        Self::start(name.to_owned(), format, || Ok(target))
    }

    fn start(
        name: String,
        format: Format,
        open: impl FnOnce() -> Result<Target, OutputProblem>,
    ) -> Result<Self, OutputError> {
        let writer = || {
            let target = open()?;
            Ok(match format {
                Format::Wav => Writer::Pcm(Pcm::new(target, true)?),
                Format::Raw => Writer::Pcm(Pcm::new(target, false)?),
                Format::OggOpus => Writer::Ogg(Box::new(OggOpus::new(target)?)),
            })
        };
        match writer() {
            Ok(writer) => Ok(Self { name, writer }),
            Err(problem) => Err(OutputError { name, problem }),
        }
    }

    /// Writes 20 ms. What is beyond ±1 is cut off.
    ///
    /// # Errors
    /// When the disk is full, the pipe's reader is gone, or the operating system refuses.
    pub fn write(&mut self, block: &Block) -> Result<(), OutputError> {
        match &mut self.writer {
            Writer::Pcm(pcm) => pcm.write(block),
            Writer::Ogg(ogg) => ogg.write(block),
        }
        .map_err(|problem| self.error(problem))
    }

    /// Writes what is held back, and a file's length into its header.
    ///
    /// # Errors
    /// As for [`write`](Self::write).
    pub fn finish(mut self) -> Result<(), OutputError> {
        match &mut self.writer {
            Writer::Pcm(pcm) => pcm.finish(),
            Writer::Ogg(ogg) => ogg.finish(),
        }
        .map_err(|problem| self.error(problem))
    }

    fn error(&self, problem: OutputProblem) -> OutputError {
        OutputError { name: self.name.clone(), problem }
    }
}

/// Where the bytes go; only a file can be gone back in.
enum Target {
    File(BufWriter<File>),
    Pipe(BufWriter<Box<dyn Write + Send>>),
}

impl Target {
    /// Passes on what a listener at a pipe's end waits for.
    fn flush_pipe(&mut self) -> io::Result<()> {
        match self {
            Self::File(_) => Ok(()),
            Self::Pipe(pipe) => pipe.flush(),
        }
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.write(bytes),
            Self::Pipe(pipe) => pipe.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.flush(),
            Self::Pipe(pipe) => pipe.flush(),
        }
    }
}

/// 16-bit samples, with the header of a WAV file or without.
struct Pcm {
    target: Target,
    wav: bool,
    data_bytes: u64,
}

/// Bytes of a WAV header before its samples.
const WAV_HEADER_BYTES: u32 = 44;
/// The length that says "until the end".
const UNKNOWN: u32 = u32::MAX;

impl Pcm {
    fn new(mut target: Target, wav: bool) -> Result<Self, OutputProblem> {
        if wav {
            target.write_all(&wav_header(UNKNOWN, UNKNOWN))?;
            target.flush_pipe()?;
        }
        Ok(Self { target, wav, data_bytes: 0 })
    }

    fn write(&mut self, block: &Block) -> Result<(), OutputProblem> {
        let mut bytes = [0; 2 * BLOCK];
        for (bytes, sample) in bytes.chunks_exact_mut(2).zip(block) {
            // The cast saturates, and takes what is no number for silence.
            let sample = (sample * 32_767.0).round() as i16;
            bytes.copy_from_slice(&sample.to_le_bytes());
        }
        self.target.write_all(&bytes)?;
        self.target.flush_pipe()?;
        self.data_bytes += bytes.len() as u64;
        Ok(())
    }

    fn finish(&mut self) -> Result<(), OutputProblem> {
        self.target.flush()?;
        let Target::File(file) = &mut self.target else {
            return Ok(());
        };
        // A named pipe or a terminal opens like a file but cannot be gone back in.
        if self.wav && file.get_ref().metadata()?.is_file() {
            let data = u32::try_from(self.data_bytes).unwrap_or(UNKNOWN);
            let riff = data.checked_add(WAV_HEADER_BYTES - 8).unwrap_or(UNKNOWN);
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&wav_header(riff, data))?;
            file.flush()?;
        }
        Ok(())
    }
}

fn wav_header(riff: u32, data: u32) -> Vec<u8> {
    let mut header = Vec::with_capacity(WAV_HEADER_BYTES as usize);
    header.extend_from_slice(b"RIFF");
    header.extend_from_slice(&riff.to_le_bytes());
    header.extend_from_slice(b"WAVEfmt ");
    header.extend_from_slice(&16_u32.to_le_bytes());
    header.extend_from_slice(&1_u16.to_le_bytes());
    header.extend_from_slice(&1_u16.to_le_bytes());
    header.extend_from_slice(&RATE.to_le_bytes());
    header.extend_from_slice(&(2 * RATE).to_le_bytes());
    header.extend_from_slice(&2_u16.to_le_bytes());
    header.extend_from_slice(&16_u16.to_le_bytes());
    header.extend_from_slice(b"data");
    header.extend_from_slice(&data.to_le_bytes());
    header
}

/// The mix, encoded.
struct OggOpus {
    encoder: opus::Encoder,
    packets: PacketWriter<'static, Target>,
    /// The last packet is held back: the end of the stream is written with it.
    held: Option<Vec<u8>>,
    /// Samples of silence that the encoder puts before the sound.
    pre_skip: u64,
    /// Samples handed in.
    samples: u64,
    /// Packets written.
    written: u64,
}

/// The stream's number; a file holds but one.
const SERIAL: u32 = 0x5354_4e52;
/// Packets in a page: 200 ms, so that a pipe's reader does not wait for long.
const PACKETS_PER_PAGE: u64 = 10;
/// Bits a second.
const BITRATE: i32 = 64_000;

impl OggOpus {
    fn new(target: Target) -> Result<Self, OutputProblem> {
        let mut encoder = opus::Encoder::new(RATE, opus::Channels::Mono, opus::Application::Audio)?;
        encoder.set_bitrate(opus::Bitrate::Bits(BITRATE))?;
        let pre_skip = u16::try_from(encoder.get_lookahead()?).unwrap_or(0);
        let mut packets = PacketWriter::new(target);
        let page = PacketWriteEndInfo::EndPage;
        packets.write_packet(opus_head(pre_skip), SERIAL, page, 0)?;
        packets.write_packet(opus_tags(), SERIAL, page, 0)?;
        packets.inner_mut().flush_pipe()?;
        Ok(Self {
            encoder,
            packets,
            held: None,
            pre_skip: u64::from(pre_skip),
            samples: 0,
            written: 0,
        })
    }

    fn write(&mut self, block: &Block) -> Result<(), OutputProblem> {
        self.samples += BLOCK as u64;
        self.push(block)
    }

    fn push(&mut self, block: &Block) -> Result<(), OutputProblem> {
        let packet = self.encoder.encode_vec_float(block, limits::FRAME_BYTES)?;
        if let Some(held) = self.held.replace(packet) {
            self.written += 1;
            let page_ends = self.written.is_multiple_of(PACKETS_PER_PAGE);
            let end = match page_ends {
                true => PacketWriteEndInfo::EndPage,
                false => PacketWriteEndInfo::NormalPacket,
            };
            let granule = self.written * BLOCK as u64;
            self.packets.write_packet(held, SERIAL, end, granule)?;
            if page_ends {
                self.packets.inner_mut().flush_pipe()?;
            }
        }
        Ok(())
    }

    /// The last granule position leaves out what the last packet has too much (RFC 7845, 4.4).
    fn finish(&mut self) -> Result<(), OutputProblem> {
        let end = self.samples + self.pre_skip;
        while self.held.is_none() || (self.written + 1) * (BLOCK as u64) < end {
            self.push(&[0.0; BLOCK])?;
        }
        if let Some(held) = self.held.take() {
            let last = PacketWriteEndInfo::EndStream;
            self.packets.write_packet(held, SERIAL, last, end)?;
        }
        self.packets.inner_mut().flush()?;
        Ok(())
    }
}

fn opus_head(pre_skip: u16) -> Vec<u8> {
    let mut head = b"OpusHead\x01\x01".to_vec();
    head.extend_from_slice(&pre_skip.to_le_bytes());
    head.extend_from_slice(&RATE.to_le_bytes());
    // No gain; mapping family 0.
    head.extend_from_slice(&[0, 0, 0]);
    head
}

fn opus_tags() -> Vec<u8> {
    let vendor = opus::version();
    let mut tags = b"OpusTags".to_vec();
    for text in [vendor, "ENCODER=stentor"] {
        let len = u32::try_from(text.len()).expect("both texts are a line long");
        tags.extend_from_slice(&len.to_le_bytes());
        tags.extend_from_slice(text.as_bytes());
        if text == vendor {
            // One comment follows.
            tags.extend_from_slice(&1_u32.to_le_bytes());
        }
    }
    tags
}
