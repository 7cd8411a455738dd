//! `stentor demo`.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use stentor_lab::demo::{self, DemoOptions, Picture, SPEAKERS_MOST, Watcher, Wish};
use stentor_relay::exit::{self, Error};

use crate::console::{Meter, say};
use crate::ending::{flag, parse_seconds};
use crate::view::View;

const EXAMPLES: &str = "\
Examples:
  stentor demo
      two levels of relays, two speakers, 20 listeners, drawn live until q
  stentor demo --levels 3 --relays-per-level 4 --listeners 500
  stentor demo --input interview.wav --input music.opus --speakers 2
  stentor demo --seconds 20 --json
      one JSON object at the end; progress on standard error

Exit code 0 only if every listener heard every speaker that was audible to it.";
/// How long a demo runs that nobody looks at.
const SECONDS: f64 = 20.0;
/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// What to show.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DemoArgs {
    /// Listeners, spread over the deepest level; above 200 the first 200 are decoded, the others
    /// compare tick by tick
    #[arg(long, value_name = "N", default_value_t = 20)]
    listeners: usize,
    /// Levels of relays, the origin not counted
    #[arg(long, value_name = "L", default_value_t = 2)]
    levels: u8,
    /// Relays on each level, each a process of its own
    #[arg(long, value_name = "N", default_value_t = 2)]
    relays_per_level: usize,
    /// Speakers, who talk all the time; three at once are audible, the origin chooses whom
    #[arg(long, value_name = "S", default_value_t = 2,
          value_parser = clap::value_parser!(u8).range(1..=SPEAKERS_MOST as i64))]
    speakers: u8,
    /// Ogg Opus or WAV file that a speaker says, around and around; repeatable; default a minute
    /// of speech made for the project, each speaker beginning elsewhere
    #[arg(long, value_name = "FILE")]
    input: Vec<PathBuf>,
    /// How long all listeners stay; default until q or Ctrl-C, with --json or without a terminal
    /// 20
    #[arg(long, value_name = "N", value_parser = parse_seconds)]
    seconds: Option<f64>,
    /// Print one JSON object at the end instead of the view
    #[arg(long)]
    json: bool,
    /// Write one JSON line for each event: a listener's verdict, a tick's hop
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
}

/// Runs the demo.
pub(crate) fn run(args: &DemoArgs) -> Result<(), Error> {
    let drawn = !args.json && std::io::stdout().is_terminal();
    let options = DemoOptions {
        listeners: args.listeners,
        levels: args.levels,
        relays_per_level: args.relays_per_level,
        speakers: args.speakers.into(),
        inputs: args.input.clone(),
        seconds: args.seconds.or((!drawn).then_some(SECONDS)),
        events: args.events.clone(),
    };
    demo::check(&options).map_err(|error| Error::Usage(error.to_string()))?;
    let stop = flag()?;
    let outcome = if drawn {
        let mut view = View::start(stop).map_err(Error::runtime)?;
        demo::run(&options, &mut view)
    } else {
        demo::run(&options, &mut Lines::new(stop))
    };
    let outcome = outcome.map_err(|error| Error::Runtime(format!("{error:#}")))?;
    let failures = outcome.failures;
    let printed = match args.json {
        true => outcome.report.print().map_err(|e| Error::Runtime(format!("standard output: {e}"))),
        false => exit::print(&outcome.report.table()),
    };
    for failure in &failures {
        say(&format!("stentor: {failure}"));
    }
    printed?;
    match failures.is_empty() {
        true => Ok(()),
        false => Err(Error::Runtime("not every listener heard".to_owned())),
    }
}

/// Progress as lines, where there is no terminal to draw on.
struct Lines {
    stop: Arc<AtomicBool>,
    meter: Meter,
    said: Option<Instant>,
}

impl Lines {
    fn new(stop: Arc<AtomicBool>) -> Self {
        Self { stop, meter: Meter::start(), said: None }
    }
}

impl Watcher for Lines {
    fn say(&mut self, text: &str) {
        self.meter.say(text);
    }

    fn look(&mut self, picture: &Picture, time: Duration) -> anyhow::Result<Wish> {
        let up = picture.nodes.iter().filter(|node| node.up).count();
        let lost: u64 = picture.nodes.iter().map(|node| node.lost).sum();
        let text = format!(
            "{}: {:.0} s, {} of {} listeners inside, {up} nodes, {lost} ticks lost",
            picture.phase,
            picture.elapsed.as_secs_f64(),
            picture.inside,
            picture.listeners,
        );
        if self.meter.is_seen() {
            self.meter.show(text);
        } else if self.said.is_none_or(|at| at.elapsed() >= LINE_EVERY) {
            self.said = Some(Instant::now());
            say(&text);
        }
        std::thread::sleep(time);
        Ok(if self.stop.load(Ordering::Relaxed) { Wish::Quit } else { Wish::GoOn })
    }
}
