//! `stentor bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use stentor_lab::bench::fanout::{self, FanoutOptions, Stage};
use stentor_lab::bench::faults::{self, FaultsOptions};
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
    /// What faults cost listeners: loss, narrow paths, relays that die, stop or starve
    Faults(FaultsArgs),
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
