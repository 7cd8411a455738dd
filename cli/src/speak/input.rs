//! What a speaker says: files one after the other, standard input, or the built-in speech.

use std::path::{Path, PathBuf};
use std::time::Duration;

use stentor_client::audio::{BLOCK, Block, InputError, Source, default_speech};
use stentor_relay::exit::Error;
use tokio::sync::mpsc::{Receiver, channel};

/// Blocks of standard input that are read ahead: half a second.
const AHEAD: usize = 25;
/// So long is waited for standard input before silence is said instead.
const PATIENCE: Duration = Duration::from_millis(100);

/// What is said, in order.
pub(super) struct Playlist {
    items: Vec<Item>,
    at: usize,
    now: Option<Open>,
    looped: bool,
    /// Whether anything was said since the first item began: an endless loop over nothing is none.
    said: bool,
}

enum Item {
    BuiltIn,
    File(PathBuf),
    Stdin,
}

enum Open {
    Source(Box<Source>),
    Pipe(Receiver<Result<Block, InputError>>),
}

impl Playlist {
    /// The files, of which each is looked at; without any the built-in speech.
    pub(super) fn open(files: &[PathBuf], looped: bool) -> Result<Self, Error> {
        let stdin = files.iter().filter(|file| is_stdin(file)).count();
        if stdin > 1 || (stdin == 1 && looped) {
            let problem = "standard input is read once; leave out --loop and the second -";
            return Err(Error::Usage(problem.to_owned()));
        }
        let mut items = Vec::new();
        for file in files {
            if is_stdin(file) {
                items.push(Item::Stdin);
                continue;
            }
            // A file that is not sound is named before anybody hears the one before it.
            Source::open(file).map_err(Error::runtime)?;
            items.push(Item::File(file.clone()));
        }
        if items.is_empty() {
            items.push(Item::BuiltIn);
        }
        Ok(Self { items, at: 0, now: None, looped, said: false })
    }

    /// The name of what is said now.
    pub(super) fn name(&self) -> String {
        match self.items.get(self.at) {
            Some(Item::File(path)) => path.display().to_string(),
            Some(Item::Stdin) => "standard input".to_owned(),
            Some(Item::BuiltIn) => "the built-in speech".to_owned(),
            None => String::new(),
        }
    }

    /// The next 20 ms; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Block>, String> {
        loop {
            let Some(item) = self.items.get(self.at) else {
                if !self.looped || !self.said {
                    return Ok(None);
                }
                self.at = 0;
                continue;
            };
            let open = match self.now.take() {
                Some(open) => open,
                None => item.open().map_err(|error| error.to_string())?,
            };
            let open = self.now.insert(open);
            let block = match open {
                Open::Source(source) => source.next(),
                Open::Pipe(blocks) => match tokio::time::timeout(PATIENCE, blocks.recv()).await {
                    Ok(block) => block,
                    // Whoever writes the pipe pauses.
                    Err(_) => Some(Ok([0.0; BLOCK])),
                },
            };
            match block {
                Some(block) => {
                    self.said = true;
                    return block.map(Some).map_err(|error| error.to_string());
                }
                None => {
                    self.now = None;
                    self.at += 1;
                }
            }
        }
    }
}

impl Item {
    fn open(&self) -> Result<Open, InputError> {
        let source = match self {
            Self::BuiltIn => Source::from_bytes("the built-in speech", default_speech())?,
            Self::File(path) => Source::open(path)?,
            Self::Stdin => return Ok(Open::Pipe(read_stdin())),
        };
        Ok(Open::Source(Box::new(source)))
    }
}

/// Reads standard input on a thread, for reading waits as long as whoever writes.
fn read_stdin() -> Receiver<Result<Block, InputError>> {
    let (blocks, waiting) = channel(AHEAD);
    let read = move || {
        for block in Source::raw("standard input", std::io::stdin()) {
            if blocks.blocking_send(block).is_err() {
                return;
            }
        }
    };
    // Without a thread the channel is closed, which is the end of the input.
    let _ = std::thread::Builder::new().name("stdin".into()).spawn(read);
    waiting
}

fn is_stdin(file: &Path) -> bool {
    file.as_os_str() == "-"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_follow_one_another_and_begin_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.wav");
        let write = || {
            use stentor_client::audio::{Format, Sink};
            let mut sink = Sink::create(&path, Format::Wav).unwrap();
            for _ in 0..3 {
                sink.write(&[0.25; BLOCK]).unwrap();
            }
            sink.finish().unwrap();
        };
        write();
        let files = [path.clone(), path.clone()];
        let mut once = Playlist::open(&files, false).unwrap();
        let mut blocks = 0;
        while once.next().await.unwrap().is_some() {
            blocks += 1;
        }
        assert_eq!(blocks, 6);
        let mut looped = Playlist::open(&files, true).unwrap();
        for _ in 0..20 {
            assert!(looped.next().await.unwrap().is_some());
        }
    }

    #[test]
    fn what_is_no_sound_is_named_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.txt");
        std::fs::write(&path, "no sound at all").unwrap();
        let error = Playlist::open(&[path], false).err().unwrap();
        assert!(error.to_string().contains("notes.txt"), "{error}");
        let twice = [PathBuf::from("-"), PathBuf::from("-")];
        assert_eq!(Playlist::open(&twice, false).err().unwrap().code(), 2);
        assert_eq!(Playlist::open(&twice[..1], true).err().unwrap().code(), 2);
    }
}
