//! What several worlds have come to: one report, and a page with charts.

use std::time::Instant;

use plotters::prelude::*;
use serde_json::{Value, json};

use super::figures::Outcome;
use crate::report::Report;

/// The outcomes of worlds, and how long they took.
#[derive(Debug)]
pub struct Worlds {
    started: Instant,
    report: Report,
    outcomes: Vec<Outcome>,
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

impl Worlds {
    /// No world yet; the time counts from here.
    #[must_use]
    pub fn start() -> Self {
        Self { started: Instant::now(), report: Report::start(), outcomes: Vec::new() }
    }

    /// Adds a world.
    pub fn add(&mut self, outcome: Outcome) {
        self.outcomes.push(outcome);
    }

    /// Violations in all.
    #[must_use]
    pub fn violated(&self) -> u64 {
        self.outcomes.iter().map(|outcome| outcome.violated).sum()
    }

    /// The figures: those of the last world, times and counts of violations of all.
    #[must_use]
    pub fn report(self) -> Report {
        let violated = self.violated();
        let worlds = self.outcomes.len();
        let wall_s = self.started.elapsed().as_secs_f64();
        let virtual_s: f64 = self.outcomes.iter().map(|o| o.virtual_time.as_secs_f64()).sum();
        let events: u64 = self.outcomes.iter().map(|o| o.events).sum();
        let mut report = self.report;
        report.set("worlds", worlds);
        if let Some(last) = self.outcomes.last() {
            of_world(&mut report, last);
        }
        report.set("virtual_s", virtual_s);
        report.set("wall_s", wall_s);
        report.set("events", events);
        report.set("events_per_s", events as f64 / wall_s.max(1e-9));
        report.set("violations", violated);
        report.set("peak_rss_mib", peak_rss_mib());
        report
    }

    /// A page with charts of the last world.
    #[must_use]
    pub fn page(&self) -> String {
        let Some(last) = self.outcomes.last() else { return String::new() };
        let charts = [
            bars("Delay from the origin's control, p99", "level", "ms", &delays(last)),
            bars("Ticks that relays gave up", "level", "% of ticks", &lost(last)),
            bars("Ticks that never came, by class", "class", "% of ticks", &losses(last)),
            bars("Time to recover: without new ticks", "ms, up to", "moves", &moves(last)),
            bars(
                "Time without new ticks, of 200 ms and more",
                "ms, up to",
                "listeners",
                &gaps(last),
            ),
            bars("Listeners by relay, the first level first", "relay", "listeners", &loads(last)),
        ];
        let violation = |v: &super::Violation| {
            format!("<li>{:.3} s: {}</li>", v.at_us as f64 / 1e6, escaped(&v.what))
        };
        let violations: String = last.violations.iter().map(violation).collect();
        format!(
            "<!doctype html><meta charset=\"utf-8\"><title>stentor sim</title>\
             <style>body{{font:16px sans-serif;max-width:920px;margin:2em auto}}</style>\
             <h1>stentor sim, seed {}</h1>\
             <p>{} listeners on {} relays ({} levels), {} virtual seconds, {} faults, \
             {} violations.</p><ol>{violations}</ol>{}\n",
            last.seed,
            last.listeners,
            last.relays,
            last.levels,
            last.virtual_time.as_secs(),
            last.fired,
            last.violated,
            charts.concat(),
        )
    }
}

fn of_world(report: &mut Report, last: &Outcome) {
    report.set("seed", last.seed);
    report.set("listeners", last.listeners);
    report.set("folded", last.folded);
    report.set("joins", last.joins);
    report.set("relays", last.relays);
    report.set("levels", last.levels);
    report.set("faults", last.fired);
    report.set("cut_off", last.cut_off);
    report.set("gap_ms_p99", last.gap_ms_p99);
    report.set("ticks", last.ticks);
    report.set("datagrams", last.offered);
    report.set("origin_messages_per_s", last.origin_messages_per_s);
    report.set("moves", last.moves);
    report.set("moved_most", last.moved_most);
    report.set("exposed", last.exposed);
    report.set("full_checks", last.full_checks);
    report.set("received", last.tally.received);
    report.set("repaired", last.tally.repaired);
    report.set("lost", last.tally.lost);
    of_listeners(report, last);
    let level = |l: &super::LevelDelay| json!({"level": l.level, "relays": l.relays, "p50_ms": l.p50_ms, "p99_ms": l.p99_ms, "ticks": l.ticks, "lost": l.lost});
    report.set("delays", last.delays.iter().map(level).collect::<Vec<Value>>());
    let class = |c: &super::ClassLoss| {
        json!({"class": c.class, "ticks": c.ticks, "missing": c.missing,
            "received": c.tally.received, "repaired": c.tally.repaired, "lost": c.tally.lost})
    };
    report.set("classes", last.losses.iter().map(class).collect::<Vec<Value>>());
    report.set("fingerprint", format!("{:016x}", last.fingerprint));
}

fn of_listeners(report: &mut Report, last: &Outcome) {
    let (doors, moves) = (&last.doors, &last.rehomed);
    report.set("set_out", doors.set_out);
    report.set("attempts", doors.attempts);
    report.set("told_to_wait", doors.told_to_wait);
    report.set("waiting_most", doors.waiting_most);
    report.set("first_sound_ms_p50", doors.first_sound_ms_p50);
    report.set("first_sound_ms_p99", doors.first_sound_ms_p99);
    let gave_up = |&(code, count): &(&str, u64)| json!({"code": code, "listeners": count});
    report.set("gave_up", doors.gave_up.iter().map(gave_up).collect::<Vec<Value>>());
    report.set("moved_silent", moves.silent);
    report.set("moved_lost", moves.lost);
    report.set("moved_asked", moves.asked);
    report.set("returned_percent", moves.returned_percent);
    report.set("move_gap_ms_p50", moves.gap_ms_p50);
    report.set("move_gap_ms_p99", moves.gap_ms_p99);
    report.set("rebound", moves.rebound);
}

type Bars = Vec<(String, f64)>;

fn delays(outcome: &Outcome) -> Bars {
    outcome.delays.iter().map(|l| (l.level.to_string(), l.p99_ms)).collect()
}

fn lost(outcome: &Outcome) -> Bars {
    let percent =
        |l: &super::LevelDelay| 100.0 * l.lost as f64 / ((l.ticks + l.lost) as f64).max(1.0);
    outcome.delays.iter().map(|l| (l.level.to_string(), percent(l))).collect()
}

fn losses(outcome: &Outcome) -> Bars {
    let percent = |c: &super::ClassLoss| 100.0 * c.missing as f64 / (c.ticks as f64).max(1.0);
    outcome.losses.iter().map(|c| (c.class.to_owned(), percent(c))).collect()
}

fn loads(outcome: &Outcome) -> Bars {
    let load =
        |(at, &(_, listeners)): (usize, &(u8, usize))| (format!("{}", at + 1), listeners as f64);
    outcome.loads.iter().enumerate().map(load).collect()
}

fn gaps(outcome: &Outcome) -> Bars {
    steps(&outcome.gaps, 250)
}

fn moves(outcome: &Outcome) -> Bars {
    steps(&outcome.move_gaps, 50)
}

/// Times in steps, the last of which holds all that are longer.
fn steps(times: &[(u64, u64)], step_ms: u64) -> Bars {
    const STEPS: usize = 24;
    let mut steps = [0; STEPS];
    for &(ms, listeners) in times {
        let step = usize::try_from(ms / step_ms).unwrap_or(STEPS);
        steps[step.min(STEPS - 1)] += listeners;
    }
    let name = |at: usize| (step_ms * (at as u64 + 1)).to_string();
    steps.iter().enumerate().map(|(at, &count)| (name(at), count as f64)).collect()
}

/// A bar chart as SVG; a sentence in its place if it cannot be drawn.
fn bars(title: &str, x: &str, y: &str, bars: &[(String, f64)]) -> String {
    let mut svg = String::new();
    match paint(&mut svg, title, (x, y), bars) {
        Ok(()) => svg,
        Err(error) => format!("<p>{}: {}</p>", escaped(title), escaped(&error.to_string())),
    }
}

fn paint(svg: &mut String, title: &str, axes: (&str, &str), bars: &[(String, f64)]) -> Drawn {
    let area = SVGBackend::with_string(svg, (900, 320)).into_drawing_area();
    area.fill(&WHITE)?;
    let top = bars.iter().map(|(_, height)| *height).fold(0.001, f64::max) * 1.1;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..bars.len().max(1) as f64, 0.0..top)?;
    let name = |at: &f64| bars.get(*at as usize).map_or(String::new(), |(name, _)| name.clone());
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_desc(axes.0)
        .y_desc(axes.1)
        .x_labels(bars.len().min(25) + 1)
        .x_label_formatter(&name)
        .draw()?;
    let colour = RGBColor(33, 102, 172);
    chart.draw_series(bars.iter().enumerate().map(|(at, (_, height))| {
        let from = at as f64;
        Rectangle::new([(from + 0.1, 0.0), (from + 0.9, *height)], colour.filled())
    }))?;
    area.present()?;
    drop(chart);
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// The most memory that this process has held (MiB); 0 where the system does not say.
fn peak_rss_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1_024.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Setup, run};

    #[test]
    fn a_world_has_a_report_and_a_page() {
        let setup = Setup {
            relays: 3,
            listeners: 20,
            join: std::time::Duration::from_secs(1),
            virtual_time: std::time::Duration::from_secs(10),
            ..Setup::new(1)
        };
        let mut worlds = Worlds::start();
        worlds.add(run(setup).unwrap());
        let page = worlds.page();
        assert_eq!(page.matches("<svg").count(), 6, "{page}");
        let report = worlds.report().finish();
        for name in [
            "seed",
            "listeners",
            "relays",
            "levels",
            "virtual_s",
            "wall_s",
            "violations",
            "gap_ms_p99",
            "origin_messages_per_s",
            "peak_rss_mib",
            "cores",
            "seconds",
            "returned_percent",
        ] {
            assert!(report[name].is_number(), "{name}: {report}");
        }
        assert_eq!((&report["listeners"], &report["violations"]), (&20.into(), &0.into()));
    }
}
