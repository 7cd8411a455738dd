//! The crowd at the door: what a storm of joins costs those inside, what those outside are told, and what
//! becomes of those who mean harm. Everything runs on one core but the generator, which has its own.

mod attacks;
mod chart;
mod inside;
mod rig;
mod stage;
mod storms;
mod tree;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use self::storms::{Plan, Row};
use crate::report::{Events, Report};

pub use self::inside::{InsideOptions, Window, inside};

/// The core of origin, relays, those inside, and the stage.
const SERVER_CORE: usize = 0;
/// The generator's.
const GENERATOR_CORE: usize = 1;
/// Seconds of the control run: what it shows shows at once.
const CONTROL: Duration = Duration::from_secs(10);

/// A part of the bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Ten times the budget.
    Storm10,
    /// A hundred times the budget, or what is asked for if that is more.
    Storm100,
    /// The same without admission.
    Control,
    /// Budgets that stop nobody.
    Raised,
    /// Spoofed first packets, and bad tokens.
    Attacks,
    /// Bad tickets.
    Tickets,
    /// One relay is full, its siblings are not.
    Full,
    /// A relay dies.
    Death,
    /// A relay starts.
    Grow,
}

impl Stage {
    /// All of them, in the order in which they run.
    pub const ALL: [Self; 9] = [
        Self::Storm10,
        Self::Storm100,
        Self::Control,
        Self::Raised,
        Self::Attacks,
        Self::Tickets,
        Self::Full,
        Self::Death,
        Self::Grow,
    ];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Storm10 => "storm-10x",
            Self::Storm100 => "storm-100x",
            Self::Control => "control",
            Self::Raised => "raised",
            Self::Attacks => "attacks",
            Self::Tickets => "tickets",
            Self::Full => "full",
            Self::Death => "death",
            Self::Grow => "grow",
        }
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct JoinOptions {
    /// Arrivals a second: of the raised run, and of the storm if a hundred times the budget is less.
    pub arrivals_per_s: f64,
    /// Seconds of a storm.
    pub seconds: f64,
    /// Places of the tree; half of them are taken before.
    pub capacity: u32,
    /// Newcomers a second that the tree takes.
    pub join_budget: u32,
    /// How long those who come in stay, on average.
    pub dwell: Duration,
    /// What is measured.
    pub stages: Vec<Stage>,
    /// Where the chart goes.
    pub chart: Option<PathBuf>,
    /// Where events go.
    pub events: Option<PathBuf>,
}

impl JoinOptions {
    fn storm_per_s(&self) -> f64 {
        self.arrivals_per_s.max(100.0 * f64::from(self.join_budget))
    }

    /// Everybody who comes in a second of the storm, and as many who come again.
    fn tickets_per_s(&self) -> u32 {
        (2.0 * self.storm_per_s()).clamp(1_000.0, 1e6) as u32
    }
}

/// Runs the bench and returns its report. Progress goes to `say`.
///
/// # Errors
/// When it could not measure.
pub fn run(options: &JoinOptions, say: &mut dyn FnMut(&str)) -> Result<Report> {
    check(options)?;
    let mut report = Report::start();
    let mut events = Events::to(options.events.as_deref())?;
    stentor_relay::quic::sys::pin_to_core(GENERATOR_CORE).context("the bench needs two cores")?;
    report.set("arrivals_per_s", options.arrivals_per_s);
    report.set("capacity", options.capacity);
    report.set("join_budget", options.join_budget);
    report.set("dwell_s", options.dwell.as_secs_f64());
    let mut rows = Vec::new();
    let mut headline = false;
    for stage in Stage::ALL.into_iter().filter(|stage| options.stages.contains(stage)) {
        let name = stage.name();
        match stage {
            Stage::Storm10 | Stage::Storm100 | Stage::Control => {
                let (row, rig, storm) = storms::storm(options, &plan(options, stage), say)
                    .with_context(|| name.to_owned())?;
                drop(storm);
                rig.end()?;
                visits(&mut events, &row)?;
                match stage {
                    Stage::Control => report.set("control_failed", !row.failures().is_empty()),
                    _ => {
                        set(&mut report, &row);
                        headline = true;
                        if let Some(path) = &options.chart {
                            chart::draw(path, &row)?;
                            say(&format!("chart: {}", path.display()));
                        }
                    }
                }
                rows.push(row.json());
            }
            Stage::Raised => {
                let (best, row) = storms::raised(options, say).context(name)?;
                report.set("generator_joins_per_s", best);
                rows.push(row);
            }
            Stage::Attacks => rows.extend(attacks::run(options, say).context(name)?),
            Stage::Tickets => rows.push(attacks::tickets(say).context(name)?),
            Stage::Full => rows.push(tree::full(say).context(name)?),
            Stage::Death => rows.push(tree::death(say).context(name)?),
            Stage::Grow => rows.push(tree::grow(say).context(name)?),
        }
    }
    for row in &rows {
        events.write(row)?;
    }
    if options.chart.is_some() && !headline {
        bail!("--chart shows a storm, and --stages leaves both out");
    }
    report.set("rows", rows);
    Ok(report)
}

fn check(options: &JoinOptions) -> Result<()> {
    let rate = options.arrivals_per_s;
    if !(1.0..=100_000.0).contains(&rate) || !(1.0..=120.0).contains(&options.seconds) {
        bail!("--arrivals-per-s must be 1 to 100000, and --seconds 1 to 120");
    }
    if !(10..=10_000).contains(&options.capacity) || !(1..=10_000).contains(&options.join_budget) {
        bail!("--capacity must be 10 to 10000, and --join-budget 1 to 10000");
    }
    if options.stages.is_empty() {
        bail!("--stages names nothing to measure");
    }
    Ok(())
}

fn plan(options: &JoinOptions, stage: Stage) -> Plan {
    let time = Duration::from_secs_f64(options.seconds);
    let per_s = match stage {
        Stage::Storm10 => 10.0 * f64::from(options.join_budget),
        _ => options.storm_per_s(),
    };
    let admission = stage != Stage::Control;
    let time = if admission { time } else { time.min(CONTROL) };
    Plan { name: stage.name(), per_s, time, admission, follow: admission }
}

/// The figures of a storm as the bench's own: the last storm that ran is the strongest.
fn set(report: &mut Report, row: &Row) {
    if let Value::Object(fields) = row.json() {
        let rows_own = ["row", "failed", "arrivals", "server_busy", "generator_busy"];
        for (name, value) in fields.into_iter().filter(|(n, _)| !rows_own.contains(&n.as_str())) {
            report.set(&name, value);
        }
    }
    report.set("first_sound_ms_p50_quiet", row.quiet_figures.first_sound_ms.0);
    report.set("first_sound_ms_p99_quiet", row.quiet_figures.first_sound_ms.1);
    report.set("verdict", if row.failures().is_empty() { "held" } else { "failed" });
    report.set("failed", row.failures());
}

/// A line for everyone who came in a storm.
fn visits(events: &mut Events, row: &Row) -> Result<()> {
    let ms = |at: stentor_proto::Time| at.as_micros() as f64 / 1_000.0;
    for visit in &row.visits {
        events.write(&json!({
            "row": row.name,
            "scheduled_ms": ms(visit.scheduled),
            "connected": visit.connected,
            "told_ms": visit.told.map(ms),
            "place": visit.place,
            "waits": visit.waits,
            "due_ms": ms(visit.due),
            "joined_ms": visit.joined.map(|(at, _)| ms(at)),
            "sound_ms": visit.sound.map(ms),
            "left_ms": visit.left.map(ms),
            "refused": visit.refused,
        }))?;
    }
    Ok(())
}
