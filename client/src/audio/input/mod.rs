//! Sound that comes in: Ogg Opus, WAV and raw samples, as blocks of 20 ms.
//!
//! A format is one implementation of `Decode` and one line in `sniff`, which looks at the first
//! bytes and not at the name. Files are read as they are played, so their length is no matter.

mod ogg;
mod raw;
mod wav;

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use stentor_proto::limits;

use super::{BLOCK, Block, RATE};

/// Why sound could not be read: which input, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {problem}")]
pub struct InputError {
    /// The file's path, or the name that the caller gave the input.
    pub name: String,
    /// What is wrong.
    #[source]
    pub problem: InputProblem,
}

/// What is wrong with an input.
#[derive(Debug, thiserror::Error)]
pub enum InputProblem {
    /// The operating system refused.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The first bytes belong to no format that this release reads.
    #[error("is neither Ogg Opus nor WAV (it begins with {0:02x?})")]
    UnknownFormat(Vec<u8>),
    /// The bytes break the rules of their format.
    #[error("is corrupt: {0}")]
    Corrupt(String),
    /// A sound file of a kind that this release does not read.
    #[error("cannot be played: {0}")]
    Unsupported(String),
    /// There is not one sample in it.
    #[error("holds no sound")]
    Empty,
    /// More than [`limits::LOAD_SECONDS`], which only a stream may be.
    #[error("is longer than {} s, the most that is loaded at once", limits::LOAD_SECONDS)]
    TooLong,
}

/// A format's reader: samples at 48 kHz, mono.
trait Decode: Send {
    /// Appends some samples to `out`; appends none at the end, and then never again.
    ///
    /// # Errors
    /// When the input cannot be read or is corrupt.
    fn decode(&mut self, out: &mut Vec<f32>) -> Result<(), InputProblem>;
}

/// Where a source can be opened from again when it loops.
enum Origin {
    File(PathBuf),
    Bytes(&'static [u8]),
    /// A pipe is read once.
    Pipe,
}

/// Sound as blocks of 960 samples, mono, 48 kHz; the last block is filled up with silence.
///
/// Iterate over it. After an error it ends.
pub struct Source {
    name: String,
    origin: Origin,
    decoder: Option<Box<dyn Decode>>,
    ready: Vec<f32>,
    looped: bool,
    heard_any: bool,
}

impl Source {
    /// Opens a file of any known format.
    ///
    /// # Errors
    /// When it cannot be read, or its header is of no known format or corrupt.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, InputError> {
        let path = path.as_ref().to_path_buf();
        Self::start(path.display().to_string(), Origin::File(path))
    }

    /// Reads a file that lies in memory. `name` is what errors call it.
    ///
    /// # Errors
    /// When its header is of no known format or corrupt.
    pub fn from_bytes(name: &str, bytes: &'static [u8]) -> Result<Self, InputError> {
        Self::start(name.to_owned(), Origin::Bytes(bytes))
    }

    /// Reads raw samples (16-bit little-endian, mono, 48 kHz) as they come, from a pipe say.
    #[must_use]
    pub fn raw(name: &str, reader: impl Read + Send + 'static) -> Self {
        Self {
            name: name.to_owned(),
            origin: Origin::Pipe,
            decoder: Some(Box::new(raw::Raw::new(reader))),
            ready: Vec::new(),
            looped: false,
            heard_any: false,
        }
    }

    /// Begins again at the end, for ever. A pipe cannot, and ends.
    #[must_use]
    pub fn looped(mut self, looped: bool) -> Self {
        self.looped = looped;
        self
    }

    fn start(name: String, origin: Origin) -> Result<Self, InputError> {
        let mut source = Self {
            name,
            origin,
            decoder: None,
            ready: Vec::new(),
            looped: false,
            heard_any: false,
        };
        source.rewind().map_err(|problem| source.error(problem))?;
        Ok(source)
    }

    fn rewind(&mut self) -> Result<(), InputProblem> {
        self.decoder = match &self.origin {
            Origin::File(path) => Some(sniff(BufReader::new(File::open(path)?))?),
            Origin::Bytes(bytes) => Some(sniff(Cursor::new(*bytes))?),
            Origin::Pipe => None,
        };
        Ok(())
    }

    fn error(&self, problem: InputProblem) -> InputError {
        InputError { name: self.name.clone(), problem }
    }

    /// Decodes until a block is ready or the input has ended.
    fn fill(&mut self) -> Result<(), InputProblem> {
        while self.ready.len() < BLOCK {
            let Some(decoder) = &mut self.decoder else {
                return Ok(());
            };
            let before = self.ready.len();
            decoder.decode(&mut self.ready)?;
            if self.ready.len() > before {
                self.heard_any = true;
                continue;
            }
            self.decoder = None;
            if !self.heard_any {
                return Err(InputProblem::Empty);
            }
            if self.looped {
                self.rewind()?;
            }
        }
        Ok(())
    }
}

impl Iterator for Source {
    type Item = Result<Block, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(problem) = self.fill() {
            self.decoder = None;
            self.ready.clear();
            return Some(Err(self.error(problem)));
        }
        if self.ready.is_empty() {
            return None;
        }
        let mut block = [0.0; BLOCK];
        let len = self.ready.len().min(BLOCK);
        block[..len].copy_from_slice(&self.ready[..len]);
        self.ready.drain(..len);
        Some(Ok(block))
    }
}

/// Reads a whole file of any known format: mono, 48 kHz, whole blocks.
///
/// # Errors
/// When it cannot be read, is of no known format, corrupt, empty, or longer than
/// [`limits::LOAD_SECONDS`].
pub fn load(path: impl AsRef<Path>) -> Result<Vec<f32>, InputError> {
    collect(Source::open(path)?)
}

/// Reads the whole of a source that does not loop; the rest is as for [`load`].
///
/// # Errors
/// As for [`load`].
pub fn collect(source: Source) -> Result<Vec<f32>, InputError> {
    let mut samples = Vec::new();
    let name = source.name.clone();
    for block in source {
        samples.extend_from_slice(&block?);
        if samples.len() > limits::LOAD_SECONDS * RATE as usize {
            let problem = InputProblem::TooLong;
            return Err(InputError { name, problem });
        }
    }
    Ok(samples)
}

/// Chooses the format by the first bytes.
fn sniff(mut reader: impl Read + Seek + Send + 'static) -> Result<Box<dyn Decode>, InputProblem> {
    let mut magic = Vec::with_capacity(12);
    reader.by_ref().take(12).read_to_end(&mut magic)?;
    reader.seek(SeekFrom::Start(0))?;
    match magic.as_slice() {
        [] => Err(InputProblem::Empty),
        [b'O', b'g', b'g', b'S', ..] => Ok(Box::new(ogg::OggOpus::new(reader)?)),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E'] => {
            Ok(Box::new(wav::Wav::new(reader)?))
        }
        _ => Err(InputProblem::UnknownFormat(magic)),
    }
}
