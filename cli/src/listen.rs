//! `stentor listen`.

mod output;

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use stentor_client::audio::{Block, Format, SILENT};
use stentor_client::listen::{Ear, ListenError, ListenSettings, ListenStats, Listener};
use stentor_client::session::{Connector, Join, SessionError};
use stentor_lab::report::Report;
use stentor_proto::limits;
use stentor_proto::listen::{MoveCause, QueuePlace};
use stentor_proto::wire::{Record, Role, RoomState, frames};
use stentor_relay::exit::Error;

use crate::console::{Meter, bar, say};
use crate::credentials::Credentials;
use crate::ending::{Signals, parse_seconds, runtime};

use self::output::{Ended, Writer};

const EXAMPLES: &str = "\
Examples:
  stentor listen relay.example:4433 hall | aplay
  stentor listen --dev 127.0.0.1:4434 hall --format ogg --output hall.opus --seconds 60
  stentor listen --dev 127.0.0.1:4434 hall --format raw | ffplay -f s16le -ar 48000 -i -
  stentor listen --dev 127.0.0.1:4434 hall --seconds 10 --json
      decodes and counts, and writes no sound

Sound is mono, 48 kHz. Ctrl-C ends a file in good order. When a player at the end of the pipe
goes, the command is over (exit code 0), unless --seconds asked for more (exit code 1).";
/// How often the meter is written anew.
const METER_EVERY: Duration = Duration::from_millis(200);
/// A speaker who sent nothing for this time is not shown.
const SHOWN_FOR: Duration = Duration::from_secs(1);

/// What to listen to, and where the sound goes.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ListenArgs {
    /// The origin or relay
    #[arg(value_name = "HOST:PORT")]
    address: String,
    /// The room
    room: String,
    /// How long; default until Ctrl-C
    #[arg(long, value_name = "N", value_parser = parse_seconds)]
    seconds: Option<f64>,
    /// File to write, or - for standard output, which is the default unless --json is given
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// How to write it; default what the file's name says, or wav
    #[arg(long, value_enum)]
    format: Option<Written>,
    /// The delay to begin with; it follows the network
    #[arg(long, value_name = "MS", default_value_t = limits::PLAYOUT.as_millis() as u64,
          value_parser = clap::value_parser!(u64).range(20..=limits::PLAYOUT_MOST.as_millis() as u64))]
    playout_ms: u64,
    #[command(flatten)]
    credentials: Credentials,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
}

/// How sound is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Written {
    /// 16-bit samples with a header
    Wav,
    /// Ogg Opus
    Ogg,
    /// 16-bit little-endian samples
    Raw,
}

impl Written {
    const fn format(self) -> Format {
        match self {
            Self::Wav => Format::Wav,
            Self::Ogg => Format::OggOpus,
            Self::Raw => Format::Raw,
        }
    }
}

impl ListenArgs {
    /// Where sound goes; `None` for nowhere.
    fn writer(&self) -> Result<Option<Writer>, Error> {
        let given = self.format.map(Written::format);
        match &self.output {
            Some(path) if path.as_os_str() != "-" => {
                let format = given.or(Format::of_path(path)).unwrap_or(Format::Wav);
                Writer::file(path, format).map(Some)
            }
            Some(_) if self.json => {
                let problem = "--json and the sound cannot both have standard output; name a file \
                    with --output";
                Err(Error::Usage(problem.to_owned()))
            }
            None if self.json => Ok(None),
            _ if std::io::stdout().is_terminal() => {
                let problem = "standard output is a terminal, and sound is no text; pipe it into a \
                    player (| aplay) or name a file with --output";
                Err(Error::Usage(problem.to_owned()))
            }
            _ => Writer::stdout(given.unwrap_or(Format::Wav)).map(Some),
        }
    }
}

/// Listens.
pub(crate) fn run(args: &ListenArgs) -> Result<(), Error> {
    let report = Report::start();
    let trust = args.credentials.trust()?;
    let identity = format!("listener-{}", std::process::id());
    let token = args.credentials.token(&args.room, Role::Listener, &identity, None)?;
    let writer = args.writer()?;
    let join = Join {
        address: args.address.clone(),
        room: args.room.clone(),
        role: Role::Listener,
        token,
        name: None,
        playout: Duration::from_millis(args.playout_ms),
        last: None,
    };
    let mut ear = Listening::new(writer);
    let listened = runtime()?.block_on(async {
        let mut signals = Signals::new()?;
        let connector = Connector::new(&trust).map_err(Error::runtime)?;
        let settings = ListenSettings { playout: join.playout, decode: true };
        let mut listener = Listener::outside(connector.clone(), &join, settings);
        let came_in =
            listener.come_in(&mut ear, signals.end(None)).await.map_err(Error::runtime)?;
        let Some(joined_in) = came_in else {
            return Err(Error::Runtime("ended before it joined".into()));
        };
        ear.queue = None;
        ear.meter.say(&format!("listening to {} at {}", join.room, listener.address()));
        let result = listener.run(&mut ear, signals.end(args.seconds)).await;
        connector.finish().await;
        Ok((result, listener.stats(), joined_in))
    });
    // A file is brought to its end whatever ended the session.
    let written = ear.writer.take().map(Writer::finish).transpose();
    let (result, stats, joined_in) = listened?;
    drop(ear.meter);
    if args.json {
        let report = figures(report, args, &ear.count, &stats, joined_in);
        report.print().map_err(|error| Error::Runtime(format!("standard output: {error}")))?;
    }
    conclude(args, result, written, ear.count.ticks)
}

/// What the end means for the exit code.
fn conclude(
    args: &ListenArgs,
    result: Result<(), ListenError>,
    written: Result<Option<Ended>, Error>,
    ticks: u64,
) -> Result<(), Error> {
    let ended = written?;
    if ended == Some(Ended::ReaderGone) {
        return match args.seconds {
            None => {
                say("the reader of the pipe has gone");
                Ok(())
            }
            Some(_) => {
                let problem =
                    "standard output: the reader of the pipe went before the time was over";
                Err(Error::Runtime(problem.to_owned()))
            }
        };
    }
    result.map_err(Error::runtime)?;
    if let Some(Ended::Dropped(time)) = ended {
        let problem = format!("the output was too slow: {} ms were left out", time.as_millis());
        return Err(Error::Runtime(problem));
    }
    match ticks {
        0 => Err(Error::Runtime(format!("nothing was heard: no tick of {} arrived", args.room))),
        _ => Ok(()),
    }
}

fn figures(
    mut report: Report,
    args: &ListenArgs,
    count: &Count,
    stats: &ListenStats,
    joined_in: Duration,
) -> Report {
    let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
    let (window, mixer) = (stats.reception.window, stats.mixer);
    report.set("room", args.room.as_str());
    report.set("address", args.address.as_str());
    report.set("ticks", count.ticks);
    report.set("ticks_lost", count.lost());
    report.set("ticks_repaired", window.repaired);
    report.set("ticks_bad", stats.bad_ticks + stats.reception.bad);
    report.set("join_ms", ms(joined_in));
    report.set("first_tick_ms", stats.first_tick_in.map_or(0.0, ms));
    report.set("playout_delay_ms", ms(stats.delay));
    report.set("frames_decoded", mixer.decoded);
    report.set("frames_fec", mixer.fec);
    report.set("frames_late", mixer.late);
    report.set("frames_malformed", mixer.malformed);
    report.set("concealed_ms", mixer.concealed_ms);
    let homes = stats.homes;
    report.set("moves", homes.moved_silent + homes.moved_lost + homes.moved_asked);
    report.set("probes", homes.probes);
    report.set("waited", homes.waited);
    report.set("redirected", homes.redirected);
    report.set("played_s", count.blocks as f64 / 50.0);
    report
}

/// Ticks and blocks.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    first: u32,
    last: u32,
    ticks: u64,
    blocks: u64,
}

impl Count {
    fn tick(&mut self, number: u32) {
        self.first = if self.ticks == 0 { number } else { self.first.min(number) };
        self.last = self.last.max(number);
        self.ticks += 1;
    }

    /// Ticks that did not come between the first and the last that did.
    fn lost(&self) -> u64 {
        let span = u64::from(self.last - self.first) + 1;
        if self.ticks == 0 { 0 } else { span.saturating_sub(self.ticks) }
    }
}

/// What the command follows.
struct Listening {
    writer: Option<Writer>,
    meter: Meter,
    count: Count,
    names: BTreeMap<u16, String>,
    levels: BTreeMap<u16, (u8, Instant)>,
    /// The least difference between the clocks, in microseconds; delays are told above it.
    least_us: Option<i64>,
    zero: Instant,
    shown: Instant,
    /// What was said of the place in the queue, last.
    queue: Option<String>,
}

impl Listening {
    fn new(writer: Option<Writer>) -> Self {
        let zero = Instant::now();
        Self {
            writer,
            meter: Meter::start(),
            count: Count::default(),
            names: BTreeMap::new(),
            levels: BTreeMap::new(),
            least_us: None,
            zero,
            shown: zero,
            queue: None,
        }
    }

    fn show(&mut self, at: Instant, delay_us: i64) {
        self.levels.retain(|_, (_, heard)| at.saturating_duration_since(*heard) < SHOWN_FOR);
        let who = |(slot, (level, _)): (&u16, &(u8, Instant))| {
            let name = self.names.get(slot).cloned().unwrap_or_else(|| format!("speaker {slot}"));
            format!("{name} {}", bar(*level))
        };
        let who: Vec<String> = self.levels.iter().map(who).collect();
        let who = if who.is_empty() { "nobody speaks".to_owned() } else { who.join("  ") };
        let (ms, lost) = (delay_us as f64 / 1_000.0, self.count.lost());
        self.meter.show(format!("{who}  |  delay +{ms:.1} ms  |  {lost} ticks lost"));
    }
}

impl Ear for Listening {
    fn tick(&mut self, at: Instant, record: &Record, replay: bool) {
        self.count.tick(record.number);
        if replay || !self.meter.is_seen() {
            return;
        }
        for frame in frames(&record.payload).unwrap_or_default() {
            let level = if frame.speech.voice { frame.speech.level } else { SILENT };
            self.levels.insert(frame.slot, (level, at));
        }
        let local = at.saturating_duration_since(self.zero).as_micros() as i64;
        let difference = local - record.clock_us as i64;
        let least = self.least_us.map_or(difference, |least| least.min(difference));
        self.least_us = Some(least);
        if at.saturating_duration_since(self.shown) >= METER_EVERY {
            self.shown = at;
            self.show(at, difference - least);
        }
    }

    fn block(&mut self, _at: Instant, block: &Block) -> Result<(), String> {
        self.count.blocks += 1;
        self.writer.as_mut().map_or(Ok(()), |writer| writer.push(block))
    }

    fn room(&mut self, state: &RoomState) {
        let name = |entry: &stentor_proto::wire::StageEntry| match entry.name.is_empty() {
            true => entry.identity.clone(),
            false => entry.name.clone(),
        };
        self.names = state.stage.iter().map(|entry| (entry.slot, name(entry))).collect();
    }

    fn lost(&mut self, why: &SessionError) {
        self.meter.say(&format!("{why}; looking for another relay"));
    }

    fn waiting(&mut self, place: &QueuePlace) {
        let words = queue_words(place);
        self.meter.show(words.clone());
        if !self.meter.is_seen() && self.queue.as_ref() != Some(&words) {
            self.meter.say(&words);
        }
        self.queue = Some(words);
    }

    fn moved(&mut self, address: &str, cause: MoveCause) {
        let why = match cause {
            MoveCause::Silent => "the former one fell silent",
            MoveCause::Lost => "the session with the former one ended",
            MoveCause::Asked => "the former one drains",
        };
        self.meter.say(&format!("{address} serves this listener: {why}"));
    }
}

/// A place in the queue, for a person.
fn queue_words(place: &QueuePlace) -> String {
    let number = thousands(place.place);
    let about = |eta: Duration| match eta.as_secs() {
        0..10 => "any moment now".to_owned(),
        seconds @ 10..90 => format!("about {} seconds", seconds.div_ceil(10) * 10),
        seconds => match (seconds + 30) / 60 {
            minutes @ 0..90 => format!("about {minutes} minutes"),
            minutes => format!("about {} hours", (minutes + 30) / 60),
        },
    };
    let when = place.eta.map_or("nobody can tell how long".to_owned(), about);
    format!("You are number {number}; {when}")
}

/// A number with commas.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut words = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            words.push(',');
        }
        words.push(digit);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_the_queue_is_told_in_words() {
        let place = |place, seconds: Option<u64>| QueuePlace {
            address: String::new(),
            place,
            waiting: 0,
            retry: Duration::ZERO,
            eta: seconds.map(Duration::from_secs),
        };
        for (number, seconds, words) in [
            (1_204, Some(120), "You are number 1,204; about 2 minutes"),
            (7, Some(3), "You are number 7; any moment now"),
            (1_000_000, Some(7_300), "You are number 1,000,000; about 2 hours"),
            (42, Some(31), "You are number 42; about 40 seconds"),
            (999, None, "You are number 999; nobody can tell how long"),
        ] {
            assert_eq!(queue_words(&place(number, seconds)), words);
        }
    }

    #[test]
    fn ticks_between_the_first_and_the_last_are_missed() {
        let mut count = Count::default();
        assert_eq!(count.lost(), 0);
        for number in [12, 10, 11, 15] {
            count.tick(number);
        }
        assert_eq!((count.lost(), count.first, count.last), (2, 10, 15));
    }
}
