//! `stentor bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use stentor_lab::bench::fanout::{self, FanoutOptions, Stage};
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
    let meter = Meter::start();
    let mut progress = |text: &str| match meter.is_seen() {
        true => meter.show(text.to_owned()),
        false => say(text),
    };
    let report = fanout::run(&options, &mut progress);
    drop(meter);
    let report = report.map_err(|error| Error::Runtime(format!("{error:#}")))?;
    match args.json {
        true => report.print().map_err(|error| Error::Runtime(format!("standard output: {error}"))),
        false => exit::print(&report.table()),
    }
}

fn parse_stage(text: &str) -> Result<Stage, String> {
    let names = Stage::ALL.map(Stage::name).join(", ");
    let stage = Stage::ALL.into_iter().find(|stage| stage.name() == text);
    stage.ok_or_else(|| format!("there is no stage {text}; there are {names}"))
}
