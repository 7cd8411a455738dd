//! The demo's speakers: real speech over real sessions, and a record of what each said when.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use stentor_client::audio::{
    BLOCK, Block, EncoderSettings, InputError, SILENT, Source, dbov, default_speech,
};
use stentor_client::listen::{Ear, ListenSettings, Listener};
use stentor_client::session::{Connector, Join, Trust};
use stentor_client::speak::{Mouth, Speaker};
use stentor_proto::wire::{Record, frames};
use stentor_proto::{Time, limits};
use tokio::sync::watch;

use crate::hears::{self, Reference};

/// Names for the speakers, in turn.
const NAMES: [&str; 8] = ["Ann", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hal"];
/// Blocks of the built-in speech: a minute.
pub(super) const SPEECH_BLOCKS: usize = 3_000;
/// Each further speaker on the same file begins this many blocks later: 7 s.
const FILE_SHIFT: usize = 350;
/// How long the speakers may take until all of them are on stage.
const STAGE_WITHIN: Duration = Duration::from_secs(15);
/// Quieter than this (in −dBov) a block need not be carried by a tick.
const LOUD: u8 = 45;
/// So many loud blocks in a row that no tick carried: the speaker was not audible.
const UNHEARD: usize = 3;
/// A block is carried by a tick that reaches the witness within this time.
const CARRIED_WITHIN: Duration = Duration::from_millis(150);
/// No slot was given yet.
const NO_SLOT: u32 = u32::MAX;

/// One speaker, shared between its thread, the view and the judge.
pub(super) struct Voice {
    /// The name that is shown.
    pub(super) name: String,
    slot: AtomicU32,
    level: AtomicU8,
    said: Mutex<Said>,
}

/// What one speaker said; old parts are forgotten when they have been judged.
#[derive(Default)]
struct Said {
    blocks: VecDeque<(Time, Box<[i16; BLOCK]>)>,
    /// When ticks with the speaker's frames reached the witness.
    carried: VecDeque<Time>,
}

/// What one speaker has to say.
#[derive(Clone)]
pub(super) enum Part {
    /// The built-in speech, from this block on, around and around.
    BuiltIn(usize),
    /// A file, from this block on, around and around.
    File(PathBuf, usize),
}

/// The speakers, on a thread of their own.
pub(super) struct Stage {
    /// One for each speaker.
    pub(super) voices: Arc<Vec<Voice>>,
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<Result<()>>>,
}

/// Which part each of `speakers` says, and what nobody says: the control's.
pub(super) fn parts(speakers: usize, inputs: &[PathBuf]) -> (Vec<Part>, Part) {
    if inputs.is_empty() {
        let apart = SPEECH_BLOCKS / speakers.max(1);
        let parts = (0..speakers).map(|i| Part::BuiltIn(i * apart)).collect();
        return (parts, Part::BuiltIn(apart / 2));
    }
    let file =
        |i: usize| Part::File(inputs[i % inputs.len()].clone(), i / inputs.len() * FILE_SHIFT);
    ((0..speakers).map(file).collect(), Part::BuiltIn(SPEECH_BLOCKS / 2))
}

impl Part {
    /// Opens the sound; it never ends.
    pub(super) fn open(&self) -> Result<impl Iterator<Item = Result<Block, InputError>> + use<>> {
        let (source, skip) = match self {
            Self::BuiltIn(skip) => {
                (Source::from_bytes("the built-in speech", default_speech())?, *skip)
            }
            Self::File(path, skip) => (Source::open(path)?, *skip),
        };
        Ok(source.looped(true).skip(skip))
    }
}

impl Stage {
    /// Brings the speakers onto the stage and lets them talk. With `witness`, a session that
    /// listens at the origin, it is noted whom the origin made audible when.
    pub(super) fn start(
        trust: Trust,
        joins: Vec<Join>,
        parts: &[Part],
        witness: Option<Join>,
        zero: Instant,
    ) -> Result<Self> {
        let voices: Arc<Vec<Voice>> = Arc::new((0..joins.len()).map(Voice::new).collect());
        let (stop, stopped) = watch::channel(false);
        // Files are opened here, so that a bad one is named before anybody speaks.
        let sources = parts.iter().map(Part::open).collect::<Result<Vec<_>>>()?;
        let shared = voices.clone();
        let talk = move || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let local = tokio::task::LocalSet::new();
            let cast = joins.into_iter().zip(sources);
            runtime.block_on(local.run_until(talk(trust, cast, witness, shared, stopped, zero)))
        };
        let thread = std::thread::Builder::new().name("stage".into()).spawn(talk)?;
        let mut stage = Self { voices, stop, thread: Some(thread) };
        let until = Instant::now() + STAGE_WITHIN;
        while stage.voices.iter().any(|voice| voice.slot().is_none()) {
            stage.check()?;
            if Instant::now() > until {
                bail!("the speakers are not on stage after {} s", STAGE_WITHIN.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(stage)
    }

    /// Looks whether everyone still talks.
    pub(super) fn check(&mut self) -> Result<()> {
        if self.thread.as_ref().is_some_and(std::thread::JoinHandle::is_finished) {
            self.end()?;
            bail!("the speakers ended before the demo did");
        }
        Ok(())
    }

    /// Ends all of them.
    pub(super) fn finish(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.stop.send_replace(true);
        let thread = self.thread.take().context("a stage ends once")?;
        thread.join().map_err(|_| anyhow::anyhow!("the speakers panicked"))?
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A stage that is dropped on an error has an error to report already.
        if self.thread.is_some() {
            let _ = self.end();
        }
    }
}

impl Voice {
    fn new(number: usize) -> Self {
        let round = number / NAMES.len();
        let name = NAMES[number % NAMES.len()];
        let name = if round == 0 { name.to_owned() } else { format!("{name} {}", round + 1) };
        let (slot, level) = (AtomicU32::new(NO_SLOT), AtomicU8::new(SILENT));
        Self { name, slot, level, said: Mutex::default() }
    }

    /// The slot, once the speaker is on stage.
    pub(super) fn slot(&self) -> Option<u16> {
        u16::try_from(self.slot.load(Ordering::Relaxed)).ok()
    }

    /// The loudness at the moment, in −dBov.
    pub(super) fn level(&self) -> u8 {
        self.level.load(Ordering::Relaxed)
    }

    /// What was said from `from` until before `to`; with `witnessed`, blocks that no tick carried
    /// count as not audible.
    pub(super) fn reference(&self, from: Time, to: Time, witnessed: bool) -> Reference {
        let said = self.said();
        let inside = said.blocks.iter().filter(|(at, _)| (from..to).contains(at));
        let mut pcm = Vec::new();
        let mut blocks = Vec::new();
        let mut carried = Vec::new();
        for (at, samples) in inside {
            let samples = samples.map(|sample| f32::from(sample) / 32_767.0);
            carried.push(!witnessed || dbov(&samples) > LOUD || said.carries(*at));
            pcm.extend_from_slice(&samples);
            blocks.push(hears::Block { at: *at, audible: true });
        }
        for run in runs(&carried) {
            // What no tick carried covers nobody else either.
            pcm[run.start * BLOCK..run.end * BLOCK].fill(0.0);
            blocks[run].iter_mut().for_each(|block| block.audible = false);
        }
        Reference { pcm, blocks }
    }

    /// Forgets what was said before `before`.
    pub(super) fn forget(&self, before: Time) {
        let mut said = self.said();
        while said.blocks.front().is_some_and(|(at, _)| *at < before) {
            said.blocks.pop_front();
        }
        while said.carried.front().is_some_and(|at| *at < before) {
            said.carried.pop_front();
        }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        // What was noted before a panic elsewhere is still true.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Said {
    fn carries(&self, at: Time) -> bool {
        let next = self.carried.partition_point(|carried| *carried < at);
        self.carried.get(next).is_some_and(|carried| carried.since(at) <= CARRIED_WITHIN)
    }
}

/// Where [`UNHEARD`] blocks or more in a row are false.
fn runs(carried: &[bool]) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    let mut first = 0;
    for (end, heard) in carried.iter().copied().chain([true]).enumerate() {
        if heard {
            if end - first >= UNHEARD {
                found.push(first..end);
            }
            first = end + 1;
        }
    }
    found
}

/// Waits until the demo's end.
pub(super) async fn ended(mut stop: watch::Receiver<bool>) {
    // A sender that is gone has ended the demo as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn talk<S>(
    trust: Trust,
    cast: impl Iterator<Item = (Join, S)>,
    witness: Option<Join>,
    voices: Arc<Vec<Voice>>,
    stop: watch::Receiver<bool>,
    zero: Instant,
) -> Result<()>
where
    S: Iterator<Item = Result<Block, InputError>> + 'static,
{
    let connector = Connector::new(&trust)?;
    let mut tasks = tokio::task::JoinSet::new();
    for (number, (join, source)) in cast.enumerate() {
        let session = connector.join(&join).await?;
        let mut speaker = Speaker::new(session, EncoderSettings::default())?;
        voices[number].slot.store(speaker.slot().into(), Ordering::Relaxed);
        let mut mouth = Talker { source, voices: voices.clone(), number, zero };
        let stop = stop.clone();
        tasks.spawn_local(async move {
            speaker.run(&mut mouth, ended(stop)).await?;
            anyhow::Ok(())
        });
    }
    if let Some(join) = witness {
        let session = connector.join(&join).await?;
        let settings = ListenSettings { decode: false, ..ListenSettings::default() };
        let mut listener = Listener::new(session, settings)?;
        let mut ear = Witness { voices, zero };
        tasks.spawn_local(async move {
            listener.run(&mut ear, ended(stop)).await?;
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    connector.finish().await;
    Ok(())
}

struct Talker<S> {
    source: S,
    voices: Arc<Vec<Voice>>,
    number: usize,
    zero: Instant,
}

impl<S: Iterator<Item = Result<Block, InputError>>> Mouth for Talker<S> {
    async fn block(&mut self, at: Instant) -> Result<Option<Block>, String> {
        let Some(block) = self.source.next() else { return Ok(None) };
        let block = block.map_err(|error| error.to_string())?;
        let voice = &self.voices[self.number];
        voice.level.store(dbov(&block), Ordering::Relaxed);
        let samples = Box::new(block.map(|sample| (sample * 32_767.0).round() as i16));
        let at = Time::ZERO + at.saturating_duration_since(self.zero);
        voice.said().blocks.push_back((at, samples));
        Ok(Some(block))
    }
}

/// Notes at the origin who is audible.
struct Witness {
    voices: Arc<Vec<Voice>>,
    zero: Instant,
}

impl Ear for Witness {
    fn tick(&mut self, at: Instant, record: &Record, _replay: bool) {
        // A payload that cannot be read carries nobody.
        for frame in frames(&record.payload).unwrap_or_default() {
            let voice = self.voices.iter().find(|voice| voice.slot() == Some(frame.slot));
            if let Some(voice) = voice {
                let at = Time::ZERO + at.saturating_duration_since(self.zero);
                voice.said().carried.push_back(at);
            }
        }
    }
}

/// Whether more speakers are on stage than are audible at once.
pub(super) const fn needs_witness(speakers: usize) -> bool {
    speakers > limits::AUDIBLE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_pauses_count_as_not_audible() {
        let (t, f) = (true, false);
        let ends = |carried: &[bool]| -> Vec<(usize, usize)> {
            runs(carried).into_iter().map(|run| (run.start, run.end)).collect()
        };
        assert_eq!(ends(&[t, f, f, t, f, f, f]), [(4, 7)]);
        assert_eq!(ends(&[f, f, f, f, t]), [(0, 4)]);
        assert!(ends(&[]).is_empty());
    }

    #[test]
    fn nobody_says_what_the_control_listens_for() {
        let (parts, control) = parts(4, &[]);
        let at = |part: &Part| match part {
            Part::BuiltIn(block) => *block,
            Part::File(..) => panic!("no file was given"),
        };
        let apart = parts.iter().map(|part| at(part).abs_diff(at(&control))).min().unwrap();
        // Further than any delay that the verdict searches.
        assert!(apart >= 200, "{apart}");
    }
}
