//! What was seen of an evening, and what it came to.

use serde_json::{Value, json};

use super::Outcome;
use crate::report::Report;
use crate::storm::Figures;

/// A second of the evening.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    /// Minutes from the hour.
    pub(super) minute: f64,
    pub(super) arrivals_per_s: f64,
    pub(super) inside: f64,
    pub(super) waiting: f64,
    pub(super) first_sound_ms: f64,
    pub(super) delay_ms: f64,
    /// Listeners without sound, for a quarter of a second or longer.
    pub(super) silent: f64,
    /// Listener-ticks of this second that never came.
    pub(super) lost: f64,
    /// Free places, those who wait and those who come in a second, as the origin's metrics say.
    pub(super) free: f64,
    pub(super) origin_waiting: f64,
    pub(super) origin_arrivals: f64,
    /// The newest tick at its end.
    pub(super) newest: u32,
}

/// What an evening came to.
pub(super) struct Told {
    pub(super) samples: Vec<Sample>,
    /// The steps, and their minutes from the hour.
    pub(super) marks: Vec<(&'static str, f64)>,
    pub(super) figures: Figures,
    pub(super) outcome: Outcome,
    pub(super) more: Vec<(&'static str, Value)>,
}

impl Told {
    /// Puts the figures into the report.
    pub(super) fn tell(&self, report: &mut Report) -> Outcome {
        let (outcome, figures) = (self.outcome, &self.figures);
        report.set("arrivals", figures.arrivals);
        report.set("admitted", figures.admitted);
        report.set("admitted_with_ticket", figures.admitted_with_ticket);
        report.set("waiting_at_the_end", figures.waiting);
        report.set("inside_ticks_lost", outcome.inside_ticks_lost);
        report.set("returned_percent", outcome.returned_percent);
        report.set("late_start_s", outcome.late_start_s);
        report.set("first_sound_ms_p50", figures.first_sound_ms.0);
        report.set("first_sound_ms_p99", outcome.first_sound_ms_p99);
        report.set("told_ms_p50", figures.told_ms.0);
        report.set("told_ms_p99", outcome.told_ms_p99);
        report.set("order_error_ms_p99", figures.order_error_ms.1);
        report.set("never_answered", outcome.never_answered);
        report.set("refused", outcome.refused);
        report.set("refused_by_name", json!(figures.refused));
        report.set("redirects", figures.redirects);
        for (name, value) in &self.more {
            report.set(name, value.clone());
        }
        outcome
    }
}
