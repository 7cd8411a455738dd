//! `stentor game-day`.

use std::path::PathBuf;

use clap::Args;
use stentor_lab::evening::{self, Evening, EveningOptions};
use stentor_relay::exit::{self, Error};

use crate::console::{Meter, say};
use crate::ending::parse_seconds;

const EXAMPLES: &str = "\
Examples:
  stentor game-day 2023 --report evening.html
      678,000 listeners and those who did not get in, one for a thousand, in three minutes
  stentor game-day 2024 --json > evening.json
      1.33 million listeners
  stentor game-day 2023 --admission off
      the same without a door: the verdict is to be that it failed

Plays the evening on this machine: an origin and six relays as processes, a speaker, and everybody who
came, by both doors, over real QUIC. A relay is killed at the worst moment and comes back.
Exit codes: 0 passed, 1 it could not be played, 2 wrong usage, 3 the verdict is that it failed.";

/// Which evening, and how large.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct GameDayArgs {
    /// The evening
    #[arg(value_name = "YEAR", value_parser = parse_evening)]
    evening: Evening,
    /// Listeners here for each listener of the evening
    #[arg(long, value_name = "SHARE", default_value_t = 0.001)]
    scale: f64,
    /// How long it takes here; an hour in truth
    #[arg(long, value_name = "T", default_value = "180", value_parser = parse_seconds)]
    seconds: f64,
    /// What decides who comes when
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// `off` lets everybody in at once who finds a place: what the evening is without a door
    #[arg(long, value_name = "on|off", default_value = "on", value_parser = ["on", "off"])]
    admission: String,
    /// Write a page with charts (HTML)
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

fn parse_evening(year: &str) -> Result<Evening, String> {
    let known = evening::EVENINGS.map(|evening| evening.name).join(" and ");
    Evening::of(year).ok_or_else(|| format!("there are {known}"))
}

/// Plays it.
pub(crate) fn run(args: &GameDayArgs) -> Result<(), Error> {
    let options = EveningOptions {
        scale: args.scale,
        seconds: args.seconds,
        seed: args.seed,
        admission: args.admission == "on",
        report: args.report.clone(),
        ..EveningOptions::new(args.evening.clone())
    };
    options.check().map_err(|error| Error::Usage(error.to_string()))?;
    let meter = Meter::start();
    let mut progress = |text: &str| match meter.is_seen() {
        true => meter.show(text.to_owned()),
        false => say(text),
    };
    let report = evening::run(&options, &mut progress);
    drop(meter);
    let report = report.map_err(|error| Error::Runtime(format!("{error:#}")))?;
    let failures: Vec<String> = report
        .get("failures")
        .and_then(|failures| serde_json::from_value(failures.clone()).ok())
        .unwrap_or_default();
    match args.json {
        true => report.print().map_err(|error| Error::Runtime(format!("standard output: {error}"))),
        false => exit::print(&report.table()),
    }?;
    match failures.is_empty() {
        true => Ok(()),
        false => Err(Error::Violated(format!("the evening failed: {}", failures.join("; ")))),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::Cli;

    #[test]
    fn evenings_that_never_were_are_refused_by_name() {
        let error = Cli::try_parse_from(["stentor", "game-day", "1066"]).unwrap_err();
        assert!(error.to_string().contains("there are 2023 and 2024"), "{error}");
        let many = Cli::try_parse_from(["stentor", "game-day", "2023", "--scale", "1"]).unwrap();
        let error = many.run().unwrap_err();
        assert!(error.to_string().contains("678000 listeners"), "{error}");
    }
}
