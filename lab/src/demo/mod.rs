//! The demo: a whole tree on loopback with real speech, and the verdict whether everyone heard.
//!
//! Origin and relays are processes of their own ([`crate::bed`]). Speakers and listeners are real
//! sessions over quinn in this process: up to [`DECODED_MOST`] listeners decode, mix and record,
//! and what they played is judged beside what was said ([`crate::hears`]); further ones compare
//! tick by tick ([`crate::crowd`]).

mod audience;
mod court;
mod figures;
mod hops;
mod stage;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use stentor_client::session::Join;
use stentor_proto::{limits, wire::Role};

use crate::bed::{Bed, RelayPlan};
use crate::report::{Events, Report};

use self::audience::{Audience, Door, House};
use self::court::Court;
use self::stage::Stage;
use self::watch::Watch;

pub use self::watch::{NodeState, Picture, VoiceState};

/// Listeners that are decoded; further ones are compared tick by tick.
pub const DECODED_MOST: usize = 200;
/// Speakers, so that what nobody says keeps its distance from all of them.
pub const SPEAKERS_MOST: usize = 8;
/// Relays in all: each is a process.
pub const RELAYS_MOST: usize = 64;
/// The room.
const ROOM: &str = "demo";
/// How long a picture is shown before the next.
const FRAME: Duration = Duration::from_millis(100);
/// How long all joins may take.
const JOIN_WITHIN: Duration = Duration::from_secs(90);
/// The shortest demo from which a verdict is to be had.
const SECONDS_LEAST: f64 = 3.0;

/// What to show.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// Listeners.
    pub listeners: usize,
    /// Levels of relays, the origin not counted.
    pub levels: u8,
    /// Relays on each level.
    pub relays_per_level: usize,
    /// Speakers.
    pub speakers: usize,
    /// Files that they say, in turn; none for the built-in speech.
    pub inputs: Vec<PathBuf>,
    /// How long all listeners stay; without it until [`Wish::Quit`].
    pub seconds: Option<f64>,
    /// Where events go.
    pub events: Option<PathBuf>,
}

/// Who looks on.
pub trait Watcher {
    /// A line of progress.
    fn say(&mut self, text: &str);

    /// Shows a picture for about `time` and returns what is wished.
    ///
    /// # Errors
    /// When it cannot be shown.
    fn look(&mut self, picture: &Picture, time: Duration) -> Result<Wish>;
}

/// What whoever looks on wishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Go on.
    GoOn,
    /// Come to the end: the verdict follows.
    Quit,
    /// Kill a relay, as a crash would.
    Kill(String),
}

/// How the demo went.
#[derive(Debug)]
pub struct Outcome {
    /// The figures.
    pub report: Report,
    /// What stands against success; empty when every listener heard.
    pub failures: Vec<String>,
}

/// The running demo; parts are dropped in this order on an error.
struct Show {
    watch: Watch,
    audience: Audience,
    stage: Stage,
    relief: Relief,
    bed: Bed,
    house: House,
    court: Arc<Court>,
}

/// Runs the demo.
///
/// # Errors
/// When it cannot be set up, or a speaker fails. A listener that does not hear is no error but a
/// failure in the [`Outcome`].
pub fn run(options: &DemoOptions, watcher: &mut dyn Watcher) -> Result<Outcome> {
    check(options)?;
    let report = Report::start();
    let mut events = Events::to(options.events.as_deref())?;
    let mut show = set_up(options, watcher)?;
    play(options, &mut show, watcher)?;
    watcher.say("the listeners leave");
    let memories = show.audience.finish()?;
    show.stage.finish()?;
    let tree = figures::Tree::read(&show.bed)?;
    drop(show.watch);
    drop(show.bed);
    watcher.say("judging what was heard");
    drop(show.relief);
    drop(show.house);
    let court = Arc::into_inner(show.court).context("the court is this thread's alone by now")?;
    let files = court.finish();
    let outcome = figures::outcome(options, report, &tree, &memories, &files, &mut events)?;
    events.finish().context("the file of events")?;
    Ok(outcome)
}

/// Whether such a demo can be shown.
///
/// # Errors
/// What is out of bounds.
pub fn check(options: &DemoOptions) -> Result<()> {
    let DemoOptions { listeners, levels, relays_per_level, speakers, .. } = options;
    if *listeners == 0 || *speakers == 0 || *speakers > SPEAKERS_MOST {
        bail!("there must be a listener, and 1 to {SPEAKERS_MOST} speakers");
    }
    if *levels == 0 || *levels > limits::LEVELS || *relays_per_level == 0 {
        bail!("there must be 1 to {} levels, and a relay on each", limits::LEVELS);
    }
    if usize::from(*levels) * relays_per_level > RELAYS_MOST {
        bail!("at most {RELAYS_MOST} relays: each is a process");
    }
    if options.seconds.is_some_and(|seconds| seconds.is_nan() || seconds < SECONDS_LEAST) {
        bail!("at least {SECONDS_LEAST} seconds: less is not enough for a verdict");
    }
    Ok(())
}

fn set_up(options: &DemoOptions, watcher: &mut dyn Watcher) -> Result<Show> {
    let relays = usize::from(options.levels) * options.relays_per_level;
    watcher.say(&format!("starting an origin and {relays} relays on {} levels", options.levels));
    let mut bed =
        Bed::start("demo", &format!("[[rooms]]\nname = \"{ROOM}\"\npublic = true\n"), None)?;
    for level in 1..=options.levels {
        for number in 1..=options.relays_per_level {
            bed.add_relay(&relay(level, number))?;
        }
    }
    bed.wait_ready()?;
    let nodes = std::iter::once((bed.origin.name.clone(), 0, bed.origin.admin));
    let relay_at = |(number, node): (usize, &crate::nodes::Node)| {
        (node.name.clone(), level_of(number, options), node.admin)
    };
    let nodes = nodes.chain(bed.relays.iter().enumerate().map(relay_at)).collect();
    let watch = Watch::start(nodes)?;
    watcher.say(&format!("{} speakers begin", options.speakers));
    let zero = Instant::now();
    let (parts, control) = stage::parts(options.speakers, &options.inputs);
    let stage =
        Stage::start(bed.trust(), joins(options, &mut bed)?, &parts, witness(options, &bed), zero)?;
    let court = Arc::new(Court::new(stage.voices.clone(), &control)?);
    let house = House {
        trust: bed.trust(),
        roots: bed.roots()?,
        zero,
        court: court.clone(),
        inside: Arc::new(AtomicUsize::new(0)),
        gone: Arc::new(AtomicUsize::new(0)),
    };
    let relief = Relief::start(court.clone())?;
    let deepest = bed.relays.iter().skip(relays - options.relays_per_level);
    let doors: Vec<Door> =
        deepest.map(|relay| Door { relay: relay.name.clone(), address: relay.address }).collect();
    let decoded = options.listeners.min(DECODED_MOST);
    watcher.say(&format!("{} listeners join on level {}", options.listeners, options.levels));
    let audience = Audience::start(&house, &doors, decoded, options.listeners - decoded)?;
    Ok(Show { watch, audience, stage, relief, bed, house, court })
}

/// The level of a relay by its place in the bed.
fn level_of(number: usize, options: &DemoOptions) -> u8 {
    u8::try_from(number / options.relays_per_level + 1).unwrap_or(limits::LEVELS)
}

fn relay(level: u8, number: usize) -> RelayPlan {
    RelayPlan { events: true, ..RelayPlan::new(&format!("relay-{level}-{number}"), level) }
}

fn joins(options: &DemoOptions, bed: &mut Bed) -> Result<Vec<Join>> {
    (0..options.speakers).map(|_| bed.stage(ROOM)).collect()
}

/// A session at the origin that sees whom it makes audible.
fn witness(options: &DemoOptions, bed: &Bed) -> Option<Join> {
    stage::needs_witness(options.speakers).then(|| Join {
        address: bed.origin.address.to_string(),
        room: ROOM.into(),
        role: Role::Listener,
        token: None,
        name: None,
        playout: limits::PLAYOUT,
        last: None,
    })
}

/// Shows the tree until the time is over or whoever looks on has had enough.
fn play(options: &DemoOptions, show: &mut Show, watcher: &mut dyn Watcher) -> Result<()> {
    let begun = Instant::now();
    let mut joined: Option<Instant> = None;
    let seconds = options.seconds.map(Duration::from_secs_f64);
    loop {
        let picture = show.picture(options, joined, seconds);
        match watcher.look(&picture, FRAME)? {
            Wish::GoOn => {}
            Wish::Quit => return Ok(()),
            Wish::Kill(relay) => show.kill(&relay, watcher)?,
        }
        show.stage.check()?;
        if joined.is_none() && picture.inside + picture.gone >= options.listeners {
            joined = Some(Instant::now());
            watcher.say(&format!("{} listeners are inside", picture.inside));
        }
        if joined.is_none() && begun.elapsed() > JOIN_WITHIN {
            bail!("{} of {} listeners joined", picture.inside, options.listeners);
        }
        if picture.gone >= options.listeners {
            // Nobody is left; the outcome says why.
            return Ok(());
        }
        if joined.zip(seconds).is_some_and(|(at, seconds)| at.elapsed() >= seconds) {
            return Ok(());
        }
    }
}

impl Show {
    fn picture(
        &self,
        options: &DemoOptions,
        joined: Option<Instant>,
        seconds: Option<Duration>,
    ) -> Picture {
        let audible = self.watch.audible();
        let voice = |voice: &stage::Voice| VoiceState {
            name: voice.name.clone(),
            level: voice.level(),
            audible: voice.slot().is_some_and(|slot| audible.contains(&slot)),
        };
        Picture {
            phase: if joined.is_some() { "on air" } else { "listeners join" }.to_owned(),
            elapsed: joined.map_or(Duration::ZERO, |at| at.elapsed()),
            seconds,
            nodes: self.watch.states(),
            voices: self.stage.voices.iter().map(voice).collect(),
            listeners: options.listeners,
            inside: self.house.inside.load(Ordering::Relaxed),
            gone: self.house.gone.load(Ordering::Relaxed),
        }
    }

    fn kill(&mut self, relay: &str, watcher: &mut dyn Watcher) -> Result<()> {
        if let Some(relay) = self.bed.relays.iter_mut().find(|node| node.name == relay) {
            watcher.say(&format!("killing {}", relay.name));
            relay.kill()?;
        }
        Ok(())
    }
}

/// A thread that judges early when too much sound waits.
struct Relief {
    stop: Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Relief {
    fn start(court: Arc<Court>) -> Result<Self> {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = stop.clone();
        let relieve = move || {
            while !stopped.load(Ordering::Relaxed) {
                if !court.relieve() {
                    std::thread::sleep(FRAME);
                }
            }
        };
        let thread = std::thread::Builder::new().name("court".into()).spawn(relieve)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Relief {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A judge that panicked leaves windows unjudged, which the verdict shows.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_shown_is_refused() {
        let good = DemoOptions {
            listeners: 20,
            levels: 2,
            relays_per_level: 2,
            speakers: 2,
            inputs: Vec::new(),
            seconds: None,
            events: None,
        };
        assert!(check(&good).is_ok());
        for bad in [
            DemoOptions { listeners: 0, ..good.clone() },
            DemoOptions { levels: 0, ..good.clone() },
            DemoOptions { levels: 13, ..good.clone() },
            DemoOptions { relays_per_level: 0, ..good.clone() },
            DemoOptions { relays_per_level: 33, ..good.clone() },
            DemoOptions { speakers: 9, ..good.clone() },
            DemoOptions { seconds: Some(f64::NAN), ..good.clone() },
            DemoOptions { seconds: Some(1.0), ..good.clone() },
        ] {
            assert!(check(&bad).is_err(), "{bad:?}");
        }
        assert_eq!((level_of(1, &good), level_of(2, &good)), (1, 2));
    }
}
