//! WAV of any rate, width and channel count.

use std::io::{Chain, Cursor, Read, Seek, SeekFrom};

use hound::{SampleFormat, WavReader, WavSpec};
use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Indexing, Resampler};

use super::{Decode, InputProblem};
use crate::audio::RATE;

/// The rates that are played, in Hz. Beyond them a header is taken for damaged.
const RATES: std::ops::RangeInclusive<u32> = 1_000..=768_000;
/// Channels that are mixed down at most.
const CHANNELS: u16 = 64;
/// Samples of each channel read at once.
const CHUNK: usize = 1_024;
/// From this length on a header means "until the end": what a pipe's writer puts there.
const UNKNOWN_BYTES: u32 = 0xffff_ff00;
/// Bytes before the samples at most (pictures and texts may stand there).
const HEADER_BYTES: u64 = 16 * 1024 * 1024;

pub(super) struct Wav<R: Read> {
    reader: WavReader<Chain<Cursor<Vec<u8>>, R>>,
    spec: WavSpec,
    /// Samples of each channel that the header promises, and that were read.
    promised: u32,
    read: u32,
    resampler: Option<Resample>,
}

impl<R: Read + Seek> Wav<R> {
    pub(super) fn new(mut reader: R) -> Result<Self, InputProblem> {
        let header = header(&mut reader)?;
        let reader = WavReader::new(Cursor::new(header).chain(reader)).map_err(header_problem)?;
        let spec = reader.spec();
        if !(1..=CHANNELS).contains(&spec.channels) {
            let what = format!("its header says {} channels", spec.channels);
            return Err(InputProblem::Corrupt(what));
        }
        if !RATES.contains(&spec.sample_rate) {
            let what = format!("its header says {} Hz", spec.sample_rate);
            return Err(InputProblem::Corrupt(what));
        }
        if !(1..=32).contains(&spec.bits_per_sample) {
            let what = format!("samples of {} bits", spec.bits_per_sample);
            return Err(InputProblem::Unsupported(what));
        }
        let resampler = match spec.sample_rate {
            RATE => None,
            rate => Some(Resample::new(rate)?),
        };
        Ok(Self { promised: reader.duration(), reader, spec, read: 0, resampler })
    }
}

impl<R: Read> Wav<R> {
    /// One sample of one channel, full scale at ±1.
    fn sample(&mut self) -> Result<f32, InputProblem> {
        let sample = match self.spec.sample_format {
            SampleFormat::Float => self.reader.samples::<f32>().next(),
            SampleFormat::Int => {
                let scale = (1_u64 << (self.spec.bits_per_sample - 1)) as f32;
                let sample = self.reader.samples::<i32>().next();
                sample.map(|sample| sample.map(|sample| sample as f32 / scale))
            }
        };
        let (read, promised) = (self.read, self.promised);
        match sample {
            Some(Ok(sample)) if sample.is_finite() => Ok(sample),
            Some(Ok(_)) => Err(InputProblem::Corrupt(format!("sample {read} is not a number"))),
            None | Some(Err(hound::Error::IoError(_))) => {
                Err(InputProblem::Corrupt(format!("it ends after {read} of {promised} samples")))
            }
            Some(Err(error)) => Err(InputProblem::Unsupported(error.to_string())),
        }
    }

    /// Reads a chunk, mixed down. Fewer samples than [`CHUNK`] mean the end.
    fn chunk(&mut self) -> Result<Vec<f32>, InputProblem> {
        let channels = self.spec.channels;
        let mut mono = Vec::with_capacity(CHUNK);
        while mono.len() < CHUNK && self.read < self.promised {
            let mut sum = 0.0;
            for _ in 0..channels {
                sum += self.sample()?;
            }
            mono.push(sum / f32::from(channels));
            self.read += 1;
        }
        Ok(mono)
    }
}

impl<R: Read + Send> Decode for Wav<R> {
    fn decode(&mut self, out: &mut Vec<f32>) -> Result<(), InputProblem> {
        let before = out.len();
        while out.len() == before {
            let chunk = self.chunk()?;
            match &mut self.resampler {
                None => out.extend_from_slice(&chunk),
                Some(resampler) => resampler.push(&chunk, out)?,
            }
            if chunk.is_empty() {
                return match &mut self.resampler {
                    None => Ok(()),
                    Some(resampler) => resampler.flush(out),
                };
            }
        }
        Ok(())
    }
}

/// Reads up to the samples and makes a header of what matters in it: hound knows neither the byte
/// that pads a chunk of odd length nor a writer who did not know the length.
fn header(reader: &mut (impl Read + Seek)) -> Result<Vec<u8>, InputProblem> {
    let mut header = Vec::new();
    take(reader, 12, &mut header)?;
    let mut block_align = 0;
    loop {
        let mut chunk = Vec::new();
        take(reader, 8, &mut chunk)?;
        let length = u32::from_le_bytes(array(&chunk, 4));
        match &chunk[..4] {
            b"data" if block_align == 0 => {
                let what = "its fmt chunk is missing".to_owned();
                return Err(InputProblem::Corrupt(what));
            }
            b"data" => {
                let length = if length >= UNKNOWN_BYTES {
                    let here = reader.stream_position()?;
                    let left = reader.seek(SeekFrom::End(0))?.saturating_sub(here);
                    reader.seek(SeekFrom::Start(here))?;
                    let left = u32::try_from(left).unwrap_or(UNKNOWN_BYTES);
                    left - left % block_align
                } else {
                    length
                };
                header.extend_from_slice(b"data");
                header.extend_from_slice(&length.to_le_bytes());
                return Ok(header);
            }
            b"fmt " => {
                take(reader, u64::from(length), &mut chunk)?;
                block_align = check_format(&chunk[8..])?;
                header.truncate(12);
                header.extend_from_slice(&chunk);
            }
            _ => take(reader, u64::from(length), &mut chunk)?,
        }
        if length % 2 == 1 {
            take(reader, 1, &mut chunk)?;
        }
    }
}

/// The bytes of one sample of all channels, by a fmt chunk that agrees with itself.
fn check_format(format: &[u8]) -> Result<u32, InputProblem> {
    if format.len() < 16 {
        let what = "its fmt chunk is cut short".to_owned();
        return Err(InputProblem::Corrupt(what));
    }
    let channels = u16::from_le_bytes(array(format, 2));
    let align = u16::from_le_bytes(array(format, 12));
    let bits = u16::from_le_bytes(array(format, 14));
    let fits = channels > 0 && align >= channels && align.is_multiple_of(channels);
    if !fits || u32::from(align / channels) * 8 < u32::from(bits) {
        let what = format!("{channels} channels of {bits} bits do not take {align} bytes");
        return Err(InputProblem::Corrupt(what));
    }
    Ok(u32::from(align))
}

fn take(reader: &mut impl Read, len: u64, to: &mut Vec<u8>) -> Result<(), InputProblem> {
    let before = to.len() as u64;
    if before + len > HEADER_BYTES {
        let what = format!("its header says that {len} bytes stand before the samples");
        return Err(InputProblem::Corrupt(what));
    }
    reader.take(len).read_to_end(to)?;
    if to.len() as u64 - before < len {
        let what = "its header is cut short".to_owned();
        return Err(InputProblem::Corrupt(what));
    }
    Ok(())
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let bytes = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    bytes.copied().unwrap_or([0; N])
}

fn header_problem(error: hound::Error) -> InputProblem {
    match error {
        hound::Error::IoError(_) => InputProblem::Corrupt("its header is cut short".to_owned()),
        hound::Error::FormatError(what) => InputProblem::Corrupt(what.to_owned()),
        other => InputProblem::Unsupported(other.to_string()),
    }
}

/// Brings a stream of another rate to 48 kHz, without the resampler's own delay.
struct Resample {
    rate: u64,
    resampler: Fft<f32>,
    pending: Vec<f32>,
    taken: u64,
    given: u64,
    /// Samples of the resampler's delay still to be left out.
    delay: usize,
    flushed: bool,
}

impl Resample {
    fn new(rate: u32) -> Result<Self, InputProblem> {
        let resampler = Fft::new(rate as usize, RATE as usize, CHUNK, 1, FixedSync::Input)
            .map_err(resample_problem)?;
        Ok(Self {
            rate: u64::from(rate),
            delay: resampler.output_delay(),
            resampler,
            pending: Vec::new(),
            taken: 0,
            given: 0,
            flushed: false,
        })
    }

    fn push(&mut self, samples: &[f32], out: &mut Vec<f32>) -> Result<(), InputProblem> {
        self.taken += samples.len() as u64;
        self.pending.extend_from_slice(samples);
        loop {
            let wanted = self.resampler.input_frames_next();
            if self.pending.len() < wanted {
                return Ok(());
            }
            self.step(wanted, wanted, out)?;
        }
    }

    /// Feeds silence until all that went in has come out.
    fn flush(&mut self, out: &mut Vec<f32>) -> Result<(), InputProblem> {
        if self.flushed {
            return Ok(());
        }
        self.flushed = true;
        let end = (self.taken * u64::from(RATE)).div_ceil(self.rate);
        let mut tail = Vec::new();
        let given = self.given;
        while given + (tail.len() as u64) < end {
            let valid = self.pending.len();
            let wanted = self.resampler.input_frames_next();
            self.pending.resize(wanted.max(valid), 0.0);
            self.step(wanted, valid.min(wanted), &mut tail)?;
        }
        tail.truncate((end - given.min(end)) as usize);
        out.extend_from_slice(&tail);
        Ok(())
    }

    fn step(&mut self, len: usize, valid: usize, out: &mut Vec<f32>) -> Result<(), InputProblem> {
        let input = InterleavedSlice::new(&self.pending[..len], 1, len)
            .map_err(|error| InputProblem::Unsupported(error.to_string()))?;
        let indexing = Indexing::new().partial_len(valid);
        let block =
            self.resampler.process(&input, Some(&indexing)).map_err(resample_problem)?.take_data();
        self.pending.drain(..len);
        let cut = self.delay.min(block.len());
        self.delay -= cut;
        self.given += (block.len() - cut) as u64;
        out.extend_from_slice(&block[cut..]);
        Ok(())
    }
}

fn resample_problem(error: impl std::fmt::Display) -> InputProblem {
    InputProblem::Unsupported(format!("its rate cannot be brought to 48 kHz: {error}"))
}
