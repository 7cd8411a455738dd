//! `stentor sim`.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use stentor_lab::sim::{self, Fault, Setup};
use stentor_relay::exit::{self, Error};

use crate::console::say;
use crate::ending::parse_seconds;

const EXAMPLES: &str = "\
Examples:
  stentor sim
      one world with a fault of every kind, in seconds
  stentor sim --seeds 20 --relays 100
      twenty worlds, of which the first that breaks a rule is named
  stentor sim --seed 7 --faults kill:r12@3,partition@20+5
      one world with these faults: what, whom, seconds after all have set out, for how long
  stentor sim --seed 7 --faults kill:r3@open:8 --join-s 30
      a relay dies while listeners come: seconds after the doors opened
  stentor sim --listeners 1330000 --relays 400 --virtual-s 600 --json
      ten minutes of a large room
  stentor sim --listeners 100000 --relays 60 --joins-per-s 100 --arrivals 0:0,10:9000,20:9000,40:0
      a crowd that comes faster than the doors let in: those who wait are told their place
  stentor sim --report sim.html
      with charts

Virtual time: the same seed, options and commit make the same world on any machine.
Exit code 3 when a world breaks a rule; the command that replays it is printed.";

/// How to simulate.
#[derive(Clone, Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct SimArgs {
    /// What decides all chance
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Worlds, with seeds from --seed on
    #[arg(long, value_name = "N", default_value_t = 1)]
    seeds: u64,
    /// Relays below the origin
    #[arg(long, value_name = "N", default_value_t = 40)]
    relays: usize,
    /// Relays that the origin feeds; any other has twice as many children
    #[arg(long, value_name = "N", default_value_t = 4)]
    fan_out: u32,
    /// Shards of each node
    #[arg(long, value_name = "N", default_value_t = 2)]
    shards: u16,
    /// Listeners
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    listeners: usize,
    /// Within how many seconds they join
    #[arg(long, value_name = "T", default_value = "5", value_parser = parse_seconds)]
    join_s: f64,
    /// How they join instead: SECONDS:RATE,… (listeners a second, changing evenly in between)
    #[arg(long, value_name = "CURVE")]
    arrivals: Option<String>,
    /// Newcomers that a relay lets in each second
    #[arg(long, value_name = "N")]
    joins_per_s: Option<u32>,
    /// Sessions that a relay may carry; twice those that fall to it by default
    #[arg(long, value_name = "N")]
    places: Option<u32>,
    /// The share of the listeners that leaves and comes anew in a second
    #[arg(long, value_name = "SHARE", default_value_t = 0.001)]
    churn: f64,
    /// The share of the listeners that are full receivers throughout
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    sample: f64,
    /// What hops between nodes lose: a share of their datagrams
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    loss: f64,
    /// Faults: `all` (one of every kind), `none`, or a list of KIND[:rN][@[open:]SECONDS][+SECONDS]
    #[arg(long, value_name = "FAULTS", default_value = "all")]
    faults: String,
    /// How long the world lives, in virtual seconds; as long as its faults need by default
    #[arg(long = "virtual-s", visible_alias = "seconds", value_name = "T", value_parser = parse_seconds)]
    virtual_s: Option<f64>,
    /// Write a page with charts (HTML)
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Lets worlds live.
pub(crate) fn run(args: &SimArgs) -> Result<(), Error> {
    let mut worlds = sim::Worlds::start();
    for seed in args.seed..args.seed.saturating_add(args.seeds.max(1)) {
        let setup = args.setup(seed)?;
        let command = setup.command();
        let outcome = sim::run(setup).map_err(Error::Usage)?;
        let violations = outcome.violated;
        if args.seeds > 1 {
            say(&format!("seed {seed}: {violations} violations"));
        }
        for violation in &outcome.violations {
            let at = Duration::from_micros(violation.at_us).as_secs_f64();
            say(&format!("seed {seed} at {at:.3} s: {}", violation.what));
        }
        worlds.add(outcome);
        if violations > 0 {
            say(&format!("run it again: {command}"));
            break;
        }
    }
    if let Some(path) = &args.report {
        let page = worlds.page();
        let written =
            std::fs::File::create(path).and_then(|mut file| file.write_all(page.as_bytes()));
        written.map_err(|error| Error::Runtime(format!("{}: {error}", path.display())))?;
    }
    let violated = worlds.violated();
    let report = worlds.report();
    match args.json {
        true => report.print().map_err(|error| Error::Runtime(format!("standard output: {error}"))),
        false => exit::print(&report.table()),
    }?;
    match violated {
        0 => Ok(()),
        n => Err(Error::Violated(format!("{n} violations; the first are named above"))),
    }
}

impl SimArgs {
    fn setup(&self, seed: u64) -> Result<Setup, Error> {
        let faults = match self.faults.as_str() {
            "all" => sim::all_faults(seed),
            "none" => Vec::new(),
            list => list
                .split(',')
                .map(str::parse)
                .collect::<Result<Vec<Fault>, _>>()
                .map_err(|error| Error::Usage(format!("--faults: {error}")))?,
        };
        let standard = Setup::new(seed);
        let join = Duration::from_secs_f64(self.join_s);
        let curve = self.curve()?;
        let joins_per_s = self.joins_per_s.unwrap_or(standard.door.joins_per_s);
        let door = sim::Door { joins_per_s, ..standard.door };
        let standard = Setup { join, curve, door, places: self.places, ..standard };
        let needed = Duration::from_secs(5) + sim::fault_span(&faults, standard.gathering());
        let loss = if self.loss > 0.0 { sim::Loss::Random(self.loss) } else { sim::Loss::None };
        Ok(Setup {
            relays: self.relays,
            fan_out: self.fan_out,
            shards: self.shards,
            listeners: self.listeners,
            churn: self.churn,
            sample: self.sample,
            backbone: sim::Line { loss, ..standard.backbone },
            virtual_time: self.virtual_s.map_or(needed, Duration::from_secs_f64),
            faults,
            ..standard
        })
    }

    /// The times and rates of `--arrivals`.
    fn curve(&self) -> Result<Vec<(f64, f64)>, Error> {
        let point = |text: &str| {
            let (at, rate) = text.split_once(':')?;
            Some((at.trim().parse().ok()?, rate.trim().parse().ok()?))
        };
        let points = self.arrivals.as_deref().map(|list| list.split(',').map(point).collect());
        let points: Option<Option<Vec<(f64, f64)>>> = points;
        points.unwrap_or(Some(Vec::new())).ok_or_else(|| {
            Error::Usage("--arrivals: SECONDS:RATE,SECONDS:RATE,… is expected".to_owned())
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{Cli, Command};

    fn parse(line: &str) -> SimArgs {
        match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
            Command::Sim(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_that_is_printed_makes_the_same_world() {
        for line in [
            "stentor sim",
            "stentor sim --faults none --arrivals 0:0,10:200.5 --joins-per-s 9 --places 400",
            "stentor sim --loss 0.02 --faults kill:r3@2 --virtual-s 30.5",
            "stentor sim --faults kill@open:2.5+9,stop@3",
        ] {
            let setup = parse(line).setup(9).unwrap();
            let again = parse(&setup.command());
            assert_eq!(again.setup(again.seed).unwrap(), setup, "{}", setup.command());
        }
    }

    #[test]
    fn unknown_faults_are_refused_by_name() {
        let error = parse("stentor sim --faults flood").setup(1).unwrap_err();
        assert!(error.to_string().contains("flood"), "{error}");
    }
}
