//! The crowd at the door of one relay: quiet, ten and a hundred times the budget, the same without
//! admission, and with budgets that stop nobody.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::inside::{Inside, Window};
use super::rig::{Budgets, Busy, ROOM, Rig, relay};
use super::stage::StageJoins;
use super::{JoinOptions, SERVER_CORE};
use crate::bed::Bed;
use crate::report::quantile;
use crate::storm::{Curve, Figures, Storm, Visit};

/// Stage joins while a storm goes on.
const STAGE_JOINS: usize = 220;
/// Those inside come in at this rate, as those who return.
const RETURNS_PER_S: u32 = 200;
/// How long it is quiet.
const QUIET: Duration = Duration::from_secs(10);
/// What is late is waited for, so that late and never are told apart.
const GRACE: Duration = Duration::from_secs(2);
/// Those who wait are followed for so long after the storm.
const AFTER: Duration = Duration::from_secs(10);
/// Places in the relay of the raised run, and how long people stay there: long enough to hear, so short
/// that the relay's time goes into joins.
const RAISED: (u32, Duration) = (10_000, Duration::from_millis(150));
/// Seconds of each step of the raised run.
const RAISED_STEP: Duration = Duration::from_secs(5);
/// What one generator core aims at (joins a second).
const AIM: f64 = 2_500.0;

/// One storm over those inside.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) figures: Figures,
    pub(super) visits: Vec<Visit>,
    pub(super) inside: Window,
    pub(super) quiet: Window,
    pub(super) quiet_figures: Figures,
    stage_ms: Vec<f64>,
    busy: (f64, f64),
}

/// What a storm is.
pub(super) struct Plan {
    pub(super) name: &'static str,
    pub(super) per_s: f64,
    pub(super) time: Duration,
    pub(super) admission: bool,
    /// Whether those who wait are followed for a while.
    pub(super) follow: bool,
}

impl Row {
    /// What of the promise did not hold, each by its figure's name.
    pub(super) fn failures(&self) -> Vec<&'static str> {
        let figures = &self.figures;
        let times = |window: &Window| window.delay_ms_p99;
        let checks = [
            ("inside_ticks_lost", self.inside.lost > 0),
            ("inside_delay_ms_p99", times(&self.inside) > 3.0 * times(&self.quiet)),
            ("stage_joins", self.stage_ms.len() < 200),
            ("stage_join_ms_p99", self.stage_join_ms() > 200.0),
            ("told_ms_p99", figures.told_ms.1 > 1_000.0),
            ("never_answered", figures.never_answered > 0),
            ("refused", figures.refusals() > 0),
            ("first_sound_ms_p99", figures.first_sound_ms.1 > 1_000.0),
            ("order_error_ms_p99", figures.order_error_ms.1 > 1_000.0),
        ];
        checks.into_iter().filter(|(_, failed)| *failed).map(|(name, _)| name).collect()
    }

    pub(super) fn stage_join_ms(&self) -> f64 {
        quantile(&mut self.stage_ms.clone(), 0.99).unwrap_or(0.0)
    }

    /// What kept more people from coming in.
    pub(super) fn bottleneck(&self) -> &'static str {
        bottleneck(self.busy, self.figures.flights_only)
    }

    pub(super) fn json(&self) -> Value {
        let mut row = self.figures.json();
        let more = json!({
            "row": self.name,
            "stage_joins": self.stage_ms.len(),
            "stage_join_ms_p99": self.stage_join_ms(),
            "inside_listeners": self.inside.listeners,
            "inside_ticks_lost": self.inside.lost,
            "inside_delay_ms_p99_quiet": self.quiet.delay_ms_p99,
            "inside_delay_ms_p99_storm": self.inside.delay_ms_p99,
            "server_busy": self.busy.0,
            "generator_busy": self.busy.1,
            "bottleneck": self.bottleneck(),
            "failed": self.failures(),
        });
        if let (Some(row), Some(more)) = (row.as_object_mut(), more.as_object()) {
            row.extend(more.clone());
        }
        row
    }
}

fn bottleneck(busy: (f64, f64), flights_only: u64) -> &'static str {
    match busy {
        (_, generator) if flights_only > 0 || generator > 0.95 => "generator",
        (server, _) if server > 0.95 => "server",
        _ => "budget",
    }
}

/// A storm over those inside, on a tree of its own, after a quiet while.
pub(super) fn storm(
    options: &JoinOptions,
    plan: &Plan,
    say: &mut dyn FnMut(&str),
) -> Result<(Row, Rig, Storm)> {
    let budgets = Budgets {
        joins_per_s: options.join_budget,
        returns_per_s: RETURNS_PER_S,
        tickets_per_s: options.tickets_per_s(),
        admission: plan.admission,
    };
    let mut rig = Rig::start(plan.name, &[relay("edge-1", options.capacity, budgets)])?;
    let half = (options.capacity / 2) as usize;
    say(&format!("{}: {half} listeners come in", plan.name));
    let mut inside = Inside::start(&rig.bed, 0, ROOM, half, SERVER_CORE)?;
    let mut storm = rig.storm(&[0], |storm| storm.dwell = Some(options.dwell))?;
    storm.until(Duration::from_secs(2), |_| false)?;
    say(&format!("{}: quiet", plan.name));
    inside.mark()?;
    let quiet_rate = Curve::steady(f64::from(options.join_budget) / 2.0);
    let (from, until) = storm.run(&quiet_rate, QUIET)?;
    storm.until(GRACE, |_| false)?;
    let quiet_figures = Figures::over(storm.visits(), from, until);
    let (wanted, every) = (STAGE_JOINS, plan.time / STAGE_JOINS as u32);
    let joins = stage_joins(&mut rig.bed, wanted)?;
    say(&format!("{}: {:.0} arrivals a second", plan.name, plan.per_s));
    inside.mark()?;
    let busy = Busy::start()?;
    let stage = StageJoins::start(rig.bed.trust(), joins, every, SERVER_CORE)?;
    let (from, until) = storm.run(&Curve::steady(plan.per_s), plan.time)?;
    let busy = busy.parts()?;
    storm.until(GRACE, |_| false)?;
    inside.mark()?;
    if plan.follow {
        storm.until(AFTER, |_| false)?;
    }
    rig.check()?;
    let figures = Figures::over(storm.visits(), from, until);
    let visits = storm.visits().iter().filter(|visit| visit.scheduled >= from).cloned().collect();
    let stage_ms = stage.finish()?;
    let windows = inside.finish()?;
    let (quiet, inside) = windows.first().zip(windows.get(1)).context("two windows were marked")?;
    let (quiet, inside) = (*quiet, *inside);
    let name = plan.name;
    let row = Row { name, figures, visits, inside, quiet, quiet_figures, stage_ms, busy };
    say(&summary(&row));
    Ok((row, rig, storm))
}

fn stage_joins(bed: &mut Bed, count: usize) -> Result<Vec<stentor_client::session::Join>> {
    (0..count).map(|_| bed.stage(ROOM)).collect()
}

fn summary(row: &Row) -> String {
    let figures = &row.figures;
    format!(
        "{}: {} came, {} admitted, {} wait, {} refused, {} unanswered; told p99 {:.0} ms, sound p99 \
         {:.0} ms, order {:.0} ms; stage p99 {:.0} ms; inside {} lost, p99 {:.1} ms (quiet {:.1}); failed: \
         {:?}",
        row.name,
        figures.arrivals,
        figures.admitted,
        figures.waiting,
        figures.refusals(),
        figures.never_answered,
        figures.told_ms.1,
        figures.first_sound_ms.1,
        figures.order_error_ms.1,
        row.stage_join_ms(),
        row.inside.lost,
        row.inside.delay_ms_p99,
        row.quiet.delay_ms_p99,
        row.failures(),
    )
}

/// How many joins one generator core completes, with budgets that stop nobody.
pub(super) fn raised(options: &JoinOptions, say: &mut dyn FnMut(&str)) -> Result<(f64, Value)> {
    let budgets = Budgets {
        joins_per_s: 1_000_000,
        returns_per_s: 1_000,
        tickets_per_s: 1_000,
        admission: true,
    };
    let (capacity, dwell) = RAISED;
    let rig = Rig::start("raised", &[relay("edge-1", capacity, budgets)])?;
    let mut storm = rig.storm(&[0], |storm| storm.dwell = Some(dwell))?;
    let (mut best, mut steps) = (0.0_f64, Vec::new());
    let mut rates = vec![options.arrivals_per_s];
    if options.arrivals_per_s < AIM {
        rates.push(AIM);
    }
    for rate in rates {
        say(&format!("raised: {rate:.0} arrivals a second"));
        let busy = Busy::start()?;
        let (from, until) = storm.run(&Curve::steady(rate), RAISED_STEP)?;
        let busy = busy.parts()?;
        storm.until(GRACE, |_| false)?;
        let figures = Figures::over(storm.visits(), from, until);
        best = best.max(figures.complete_joins_per_s);
        say(&format!(
            "raised: {:.0} complete joins a second, sound p99 {:.1} ms; server {:.0} %, generator {:.0} %",
            figures.complete_joins_per_s,
            figures.first_sound_ms.1,
            100.0 * busy.0,
            100.0 * busy.1
        ));
        let mut step = figures.json();
        step["server_busy"] = json!(busy.0);
        step["generator_busy"] = json!(busy.1);
        step["bottleneck"] = json!(bottleneck(busy, figures.flights_only));
        steps.push(step);
    }
    storm.leave();
    rig.end()?;
    Ok((best, json!({ "row": "raised", "complete_joins_per_s": best, "steps": steps })))
}
