//! Where a listener's sound goes: a thread writes, so that a slow reader stops no session.

use std::path::Path;
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SyncSender, TrySendError, channel, sync_channel,
};
use std::time::Duration;

use stentor_client::audio::{Block, Format, OutputError, OutputProblem, Sink};
use stentor_proto::limits;
use stentor_relay::exit::Error;

/// Blocks that wait for the writer: 5 s. What comes beyond is left out.
const WAITING: usize = 250;
/// How long the writer may take for the end.
const FINISH_WITHIN: Duration = Duration::from_secs(3);
/// What errors call standard output.
const STDOUT: &str = "standard output";

/// How the output ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// With all that was played.
    Whole,
    /// So much was left out because the output was too slow.
    Dropped(Duration),
    /// The program at the other end of the pipe has gone.
    ReaderGone,
}

/// An output with its thread.
pub(super) struct Writer {
    blocks: SyncSender<Block>,
    result: Receiver<Result<(), OutputError>>,
    name: String,
    dropped: u32,
}

impl Writer {
    /// A file, which is made, or emptied if it is there.
    pub(super) fn file(path: &Path, format: Format) -> Result<Self, Error> {
        let sink = Sink::create(path, format).map_err(Error::runtime)?;
        Self::start(path.display().to_string(), sink)
    }

    /// Standard output.
    pub(super) fn stdout(format: Format) -> Result<Self, Error> {
        let sink = Sink::stream(STDOUT, std::io::stdout(), format).map_err(Error::runtime)?;
        Self::start(STDOUT.to_owned(), sink)
    }

    fn start(name: String, mut sink: Sink) -> Result<Self, Error> {
        let (blocks, waiting) = sync_channel::<Block>(WAITING);
        let (done, result) = channel();
        let write = move || {
            let written = waiting.iter().try_for_each(|block| sink.write(&block));
            // What is not taken any more is dropped with the channel: `push` tells.
            drop(waiting);
            let ended = match written {
                Ok(()) => sink.finish(),
                Err(error) => Err(error),
            };
            // Whoever asked has gone.
            let _ = done.send(ended);
        };
        std::thread::Builder::new().name("output".into()).spawn(write).map_err(Error::runtime)?;
        Ok(Self { blocks, result, name, dropped: 0 })
    }

    /// Hands over 20 ms. An error ends the listening; [`Self::finish`] says why.
    pub(super) fn push(&mut self, block: &Block) -> Result<(), String> {
        match self.blocks.try_send(*block) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => {
                self.dropped += 1;
                Ok(())
            }
            Err(TrySendError::Disconnected(_)) => Err(format!("{} has ended", self.name)),
        }
    }

    /// Brings the output to its end.
    pub(super) fn finish(self) -> Result<Ended, Error> {
        let Self { blocks, result, name, dropped } = self;
        drop(blocks);
        match result.recv_timeout(FINISH_WITHIN) {
            Ok(Ok(())) if dropped > 0 => Ok(Ended::Dropped(limits::TICK * dropped)),
            Ok(Ok(())) => Ok(Ended::Whole),
            Ok(Err(OutputError { problem: OutputProblem::BrokenPipe(_), .. })) => {
                Ok(Ended::ReaderGone)
            }
            Ok(Err(error)) => Err(Error::runtime(error)),
            Err(RecvTimeoutError::Timeout) => {
                Err(Error::Runtime(format!("{name}: nobody takes what is written")))
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(Error::Runtime(format!("{name}: the writer panicked")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named_and_a_reader_that_goes_is_told_apart() {
        let full = Path::new("/dev/full");
        let mut writer = Writer::file(full, Format::Raw).unwrap();
        let mut said = Ok(());
        for _ in 0..20_000 {
            said = writer.push(&[0.1; stentor_client::audio::BLOCK]);
            if said.is_err() {
                break;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        assert!(said.is_err());
        let error = writer.finish().unwrap_err();
        assert_eq!(error.code(), stentor_relay::exit::RUNTIME);
        assert!(error.to_string().contains("/dev/full: the disk is full"), "{error}");
        let (reader, pipe) = std::io::pipe().unwrap();
        let sink = Sink::stream("a pipe", pipe, Format::Raw).unwrap();
        let mut writer = Writer::start("a pipe".into(), sink).unwrap();
        drop(reader);
        while writer.push(&[0.1; stentor_client::audio::BLOCK]).is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(writer.finish().unwrap(), Ended::ReaderGone);
    }

    #[test]
    fn a_file_is_whole_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.raw");
        let mut writer = Writer::file(&path, Format::Raw).unwrap();
        for _ in 0..10 {
            writer.push(&[0.5; stentor_client::audio::BLOCK]).unwrap();
        }
        assert_eq!(writer.finish().unwrap(), Ended::Whole);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 10 * 1_920);
    }
}
