//! `stentor bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use stentor_lab::bench::fanout::{self, FanoutOptions, Stage};
use stentor_lab::bench::faults::{self, FaultsOptions};
use stentor_lab::bench::join::{self, InsideOptions, JoinOptions};
use stentor_lab::bench::page::{self, PageOptions};
use stentor_lab::browser::CHROMIUM;
use stentor_lab::report::Report;
use stentor_relay::exit::{self, Error};

use crate::console::{Meter, say};
use crate::ending::parse_seconds;

const EXAMPLES: &str = "\
Examples:
  stentor bench fanout --json > fanout.json
  stentor bench fanout --listeners 500 --speakers 1,4 --chart fanout.svg
  stentor bench fanout --listeners 200 --rounds 5 --seconds 2 --stages cost

Ends within 5 minutes with its defaults. Needs two cores: the relay has one to itself.
Exit code 0 when it has measured, whatever the figures; 1 when it could not.";

/// What to measure.
#[derive(Clone, Debug, Subcommand)]
pub enum Bench {
    /// What a relay's fan-out costs, beside the floor (raw sendmmsg and AES) in the same run
    Fanout(FanoutArgs),
    /// What a storm of joins costs those inside, and what those outside are told
    Join(JoinArgs),
    /// Those inside while `join` measures, in a process of their own
    #[command(hide = true)]
    Inside(InsideArgs),
    /// What faults cost listeners: loss, narrow paths, relays that die, stop or starve
    Faults(FaultsArgs),
    /// What people in browsers wait for: first sound, mouth to ear, a mute, a ban
    Page(PageArgs),
}

/// How to measure the fan-out.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct FanoutArgs {
    /// Listeners
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    listeners: usize,
    /// Ticks a second: 50, 25 or 16
    #[arg(long, value_name = "HZ", default_value_t = 50)]
    rate: u32,
    /// Speakers in a tick, 1 to 4; several numbers alternate
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1")]
    speakers: Vec<usize>,
    /// Seconds of one measurement within a round
    #[arg(long, value_name = "T", default_value = "4", value_parser = parse_seconds)]
    seconds: f64,
    /// Rounds, of which the median counts
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Measure these parts alone: hop, cost, plain-acks, joins, memory
    #[arg(long, value_name = "STAGE,...", value_delimiter = ',', value_parser = parse_stage)]
    stages: Vec<Stage>,
    /// Draw a chart (SVG)
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
    /// Write one JSON line for each measurement
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

const JOIN_EXAMPLES: &str = "\
Examples:
  stentor bench join --json > join.json
  stentor bench join --arrivals-per-s 3000 --seconds 30 --chart join.svg
  stentor bench join --stages full,death,grow

Ends within 5 minutes with its defaults. Needs two cores: the generator has one to itself.
Exit code 0 when it has measured, whatever the figures; 1 when it could not.";

/// How to measure the door.
#[derive(Clone, Debug, Args)]
#[command(after_help = JOIN_EXAMPLES)]
pub struct JoinArgs {
    /// Arrivals a second with budgets that stop nobody; and of the storm, if a hundred times the budget
    /// is less
    #[arg(long, value_name = "N", default_value_t = 1_500.0)]
    arrivals_per_s: f64,
    /// Seconds of a storm
    #[arg(long, value_name = "T", default_value = "20", value_parser = parse_seconds)]
    seconds: f64,
    /// Places of the tree; half of them are taken before
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    capacity: u32,
    /// Newcomers a second that the tree takes
    #[arg(long, value_name = "N", default_value_t = 20)]
    join_budget: u32,
    /// How long those who come in stay, on average
    #[arg(long, value_name = "T", default_value = "5", value_parser = parse_seconds)]
    dwell: f64,
    /// Measure these parts alone: storm-10x, storm-100x, control, raised, attacks, tickets, full, death,
    /// grow
    #[arg(long, value_name = "STAGE,...", value_delimiter = ',', value_parser = parse_join_stage)]
    stages: Vec<join::Stage>,
    /// Draw a chart of the storm (SVG)
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
    /// Write one JSON line for each who came in a storm, and for each row
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Those inside.
#[derive(Clone, Debug, Args)]
pub struct InsideArgs {
    /// The relay
    #[arg(long)]
    address: std::net::SocketAddr,
    /// The development directory
    #[arg(long)]
    dev: PathBuf,
    /// The room
    #[arg(long)]
    room: String,
    /// Listeners
    #[arg(long)]
    listeners: usize,
    /// The core to run on
    #[arg(long)]
    core: Option<usize>,
}

/// Measures the door.
pub(crate) fn join(args: &JoinArgs) -> Result<(), Error> {
    let options = JoinOptions {
        arrivals_per_s: args.arrivals_per_s,
        seconds: args.seconds,
        capacity: args.capacity,
        join_budget: args.join_budget,
        dwell: Duration::from_secs_f64(args.dwell),
        stages: match args.stages.as_slice() {
            [] => join::Stage::ALL.to_vec(),
            stages => stages.to_vec(),
        },
        chart: args.chart.clone(),
        events: args.events.clone(),
    };
    measured(args.json, |progress| join::run(&options, progress))
}

/// Listens inside, and says at the end what was heard.
pub(crate) fn inside(args: &InsideArgs) -> Result<(), Error> {
    let options = InsideOptions {
        address: args.address,
        dev: args.dev.clone(),
        room: args.room.clone(),
        listeners: args.listeners,
        core: args.core,
    };
    let heard = join::inside(&options, || {
        // Whoever started this process waits for the line; if it has gone, the end of input ends this.
        let _ = exit::print("inside");
    });
    exit::print(&heard.map_err(|error| Error::Runtime(format!("{error:#}")))?)
}

fn parse_join_stage(text: &str) -> Result<join::Stage, String> {
    let names = join::Stage::ALL.map(join::Stage::name).join(", ");
    let stage = join::Stage::ALL.into_iter().find(|stage| stage.name() == text);
    stage.ok_or_else(|| format!("there is no stage {text}; there are {names}"))
}

const FAULTS_EXAMPLES: &str = "\
Examples:
  stentor bench faults --json > faults.json
  stentor bench faults --only loss_5,burst_5 --chart faults.svg
  stentor bench faults --only loss_20 --listeners 400 --seconds 20 --seed 7

Ends within 5 minutes with its defaults. Paths are shaped on loopback, by this program.
Exit code 0 when it has measured, whatever the figures; 1 when it could not.";

/// How to measure faults.
#[derive(Clone, Debug, Args)]
#[command(after_help = FAULTS_EXAMPLES)]
pub struct FaultsArgs {
    /// Measure these faults alone
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = fault_names())]
    only: Vec<String>,
    /// Listeners on a lossy path
    #[arg(long, value_name = "N", default_value_t = 200)]
    listeners: usize,
    /// Seconds that a lossy path is measured for, after it has settled for 10
    #[arg(long, value_name = "T", default_value = "11", value_parser = parse_seconds)]
    seconds: f64,
    /// Seed of the paths' chance
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Draw a chart (SVG)
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

const PAGE_EXAMPLES: &str = "\
Examples:
  stentor bench page --json > page.json
  stentor bench page --visits 5 --mutes 5

Needs Chromium and chromedriver; on Debian: apt install chromium chromium-driver.
Ends within 5 minutes with its defaults. Pages play to a sound card of the browser's own making.
Exit code 0 when it has measured, whatever the figures; 1 when it could not.";

/// How to measure the page.
#[derive(Clone, Debug, Args)]
#[command(after_help = PAGE_EXAMPLES)]
pub struct PageArgs {
    /// Listeners who come, one after the other, listen, and are banned
    #[arg(long, value_name = "N", default_value_t = 16)]
    visits: usize,
    /// How many times the speaker is muted
    #[arg(long, value_name = "N", default_value_t = 16)]
    mutes: usize,
    /// The browser
    #[arg(long, value_name = "FILE", default_value = CHROMIUM)]
    chromium: PathBuf,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Measures the page.
pub(crate) fn page(args: &PageArgs) -> Result<(), Error> {
    let options =
        PageOptions { visits: args.visits, mutes: args.mutes, chromium: args.chromium.clone() };
    measured(args.json, |progress| page::run(&options, progress))
}

fn fault_names() -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(faults::names())
}

/// Measures faults.
pub(crate) fn faults(args: &FaultsArgs) -> Result<(), Error> {
    let options = FaultsOptions {
        only: args.only.clone(),
        listeners: args.listeners,
        seconds: args.seconds,
        seed: args.seed,
        chart: args.chart.clone(),
    };
    measured(args.json, |progress| faults::run(&options, progress))
}

/// Measures the fan-out.
pub(crate) fn fanout(args: &FanoutArgs) -> Result<(), Error> {
    let options = FanoutOptions {
        listeners: args.listeners,
        rate_hz: args.rate,
        speakers: args.speakers.clone(),
        seconds: args.seconds,
        rounds: args.rounds,
        stages: match args.stages.as_slice() {
            [] => Stage::ALL.to_vec(),
            stages => stages.to_vec(),
        },
        chart: args.chart.clone(),
        events: args.events.clone(),
    };
    measured(args.json, |progress| fanout::run(&options, progress))
}

/// Runs a bench, shows its progress, and prints its report.
fn measured(
    json: bool,
    run: impl FnOnce(&mut dyn FnMut(&str)) -> anyhow::Result<Report>,
) -> Result<(), Error> {
    let meter = Meter::start();
    let mut progress = |text: &str| match meter.is_seen() {
        true => meter.show(text.to_owned()),
        false => say(text),
    };
    let report = run(&mut progress);
    drop(meter);
    let report = report.map_err(|error| Error::Runtime(format!("{error:#}")))?;
    match json {
        true => report.print().map_err(|error| Error::Runtime(format!("standard output: {error}"))),
        false => exit::print(&report.table()),
    }
}

fn parse_stage(text: &str) -> Result<Stage, String> {
    let names = Stage::ALL.map(Stage::name).join(", ");
    let stage = Stage::ALL.into_iter().find(|stage| stage.name() == text);
    stage.ok_or_else(|| format!("there is no stage {text}; there are {names}"))
}
