//! The game day: one of two real evenings played again at the scale of this machine, on real processes
//! over real QUIC, with a relay killed at the worst moment, and a verdict.
//!
//! What is known of the evenings and what is assumed is in `docs/decisions/0017-game-day.md`.

mod curve;
mod house;
mod night;
mod page;
mod told;
mod verdict;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub use self::curve::{EVENINGS, Evening};
pub use self::verdict::Outcome;

use self::house::Budgets;
use self::night::Night;
use crate::report::Report;

/// The steps of an evening and what happens in each, in their order; `docs/OPERATING.md` names them.
pub const STEPS: [(&str, &str); 6] = [
    ("doors", "the doors open"),
    ("speech", "the speaker joins, and begins on the hour"),
    ("crowd", "more come than the doors let in at once"),
    ("kill", "the fullest relay is killed"),
    ("back", "it is started again"),
    ("ebb", "people leave, and those who waited come in"),
];

/// What to play.
#[derive(Clone, Debug)]
pub struct EveningOptions {
    /// Which evening.
    pub evening: Evening,
    /// Listeners here for each listener of the evening.
    pub scale: f64,
    /// Seconds that the evening takes; an hour in truth.
    pub seconds: f64,
    /// What decides all chance on the side of those who come.
    pub seed: u64,
    /// Whether joins are shaped; without it the evening is to fail.
    pub admission: bool,
    /// Where the page with the charts goes.
    pub report: Option<PathBuf>,
}

impl EveningOptions {
    /// One for a thousand, in three minutes.
    #[must_use]
    pub const fn new(evening: Evening) -> Self {
        Self { evening, scale: 0.001, seconds: 180.0, seed: 1, admission: true, report: None }
    }

    /// How many times faster than in truth the evening goes.
    #[must_use]
    pub fn pace(&self) -> f64 {
        let (from, to) = self.evening.span();
        (to - from) * 60.0 / self.seconds
    }

    /// Seconds here for a minute of the evening.
    fn minute(&self) -> f64 {
        60.0 / self.pace()
    }

    /// Places that newcomers may have: the listeners of the evening's peak.
    fn places(&self) -> f64 {
        f64::from(self.evening.listening) * self.scale
    }

    /// What is wrong with it, if anything.
    ///
    /// # Errors
    /// A sentence for whoever asked for it.
    pub fn check(&self) -> Result<()> {
        let (listening, seconds) = (self.places(), self.seconds);
        if !(10.0..=20_000.0).contains(&listening) {
            bail!(
                "--scale makes {listening:.0} listeners of the evening; 10 to 20000 are possible"
            );
        }
        if !(20.0..=3_600.0).contains(&seconds) {
            bail!("--seconds must be 20 to 3600");
        }
        Ok(())
    }
}

/// Plays an evening and returns its report. Progress goes to `say`.
///
/// # Errors
/// When it could not be played; that it went badly is in the report's `verdict`.
pub fn run(options: &EveningOptions, say: &mut dyn FnMut(&str)) -> Result<Report> {
    options.check()?;
    let mut report = Report::start();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let fill = Duration::from_secs_f64(options.seconds / 3.0);
    let budgets = Budgets::of(options.places(), fill, options.admission);
    describe(&mut report, options, budgets);
    let told = Night::play(options, budgets, cores, say)?;
    let outcome = told.tell(&mut report);
    pass(&mut report, &outcome);
    if let Some(path) = &options.report {
        let page = page::page(options, &report, &told);
        std::fs::write(path, page).with_context(|| path.display().to_string())?;
        say(&format!("report: {}", path.display()));
    }
    Ok(report)
}

fn describe(report: &mut Report, options: &EveningOptions, budgets: Budgets) {
    let evening = &options.evening;
    report.set("evening", evening.name);
    report.set("listening", evening.listening);
    report.set("tried", evening.tried);
    report.set("scale", options.scale);
    report.set("pace", options.pace());
    report.set("admission", if options.admission { "on" } else { "off" });
    report.set("places", options.places().round() as u64);
    report.set("join_budget", budgets.joins_in_all());
}

/// Sets `verdict` and what it failed for.
fn pass(report: &mut Report, outcome: &Outcome) {
    let failures = outcome.failures();
    report.set("verdict", if failures.is_empty() { "passed" } else { "failed" });
    report.set("failures", failures);
}
