//! Figures over those who came within a stretch of time.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use stentor_proto::Time;

use super::Visit;
use crate::report::quantile;

/// What somebody who was never answered counts as (milliseconds).
pub const NEVER_MS: f64 = 1e9;

/// Figures over those who were to come within a stretch of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Those who came.
    pub arrivals: u64,
    /// Of them, those who were offered as a first packet alone, for the generator had no time for more.
    /// They are in no other figure.
    pub flights_only: u64,
    /// First packets of visits that left the sockets, in a second.
    pub offered_per_s: f64,
    /// Those whose first handshake (or request to the HTTP door) was completed.
    pub completed_handshakes: u64,
    /// Those who were let in.
    pub admitted: u64,
    /// Those who were let in and whose first tick was decoded, in a second.
    pub complete_joins_per_s: f64,
    /// Of those admitted, those who had waited.
    pub admitted_with_ticket: u64,
    /// Those who were told to wait and are not inside yet.
    pub waiting: u64,
    /// Those who were refused, by name.
    pub refused: BTreeMap<String, u64>,
    /// Those who were neither let in, nor told to wait, nor refused by name.
    pub never_answered: u64,
    /// Times that somebody was sent to another relay.
    pub redirects: u64,
    /// From when somebody was to come (the last time, if it waited) to the welcome.
    pub join_ms: (f64, f64),
    /// From then to the first decoded tick.
    pub first_sound_ms: (f64, f64),
    /// From the scheduled arrival to the first word on a place in the queue; who was never answered
    /// counts as [`NEVER_MS`].
    pub told_ms: (f64, f64),
    /// Of those admitted with a ticket: how much later somebody arrived who was admitted before.
    pub order_error_ms: (f64, f64),
}

impl Figures {
    /// Figures over the visits that were scheduled from `from` to before `until`.
    #[must_use]
    pub fn over<'a>(visits: impl IntoIterator<Item = &'a Visit>, from: Time, until: Time) -> Self {
        let within = |visit: &&Visit| visit.scheduled >= from && visit.scheduled < until;
        let visits: Vec<&Visit> = visits.into_iter().filter(within).collect();
        let seconds = until.since(from).as_secs_f64().max(1e-9);
        let mut figures = Self { arrivals: visits.len() as u64, ..Self::default() };
        let offered = visits.iter().filter(|visit| visit.sent.is_some()).count();
        figures.offered_per_s = offered as f64 / seconds;
        figures.flights_only = visits.iter().filter(|visit| visit.flight_only).count() as u64;
        let visits: Vec<&Visit> = visits.into_iter().filter(|visit| !visit.flight_only).collect();
        let (mut joins, mut sounds, mut told) = (Vec::new(), Vec::new(), Vec::new());
        for visit in &visits {
            figures.completed_handshakes += u64::from(visit.connected);
            figures.redirects += u64::from(visit.redirects);
            if let Some(time) = visit.join() {
                figures.admitted += 1;
                figures.admitted_with_ticket += u64::from(visit.waits > 0);
                joins.push(ms(time));
                // Whoever was let in and heard nothing was not answered.
                sounds.push(visit.first_sound().map_or(NEVER_MS, ms));
            } else if let Some(why) = visit.refused.as_ref().filter(|_| visit.answered()) {
                *figures.refused.entry(why.clone()).or_default() += 1;
            } else if visit.told.is_some() {
                figures.waiting += 1;
            } else {
                figures.never_answered += 1;
                told.push(NEVER_MS);
            }
            told.extend(visit.told.map(|at| ms(at.since(visit.scheduled))));
        }
        let heard = sounds.iter().filter(|&&time| time < NEVER_MS).count();
        figures.complete_joins_per_s = heard as f64 / seconds;
        figures.join_ms = halves(&mut joins);
        figures.first_sound_ms = halves(&mut sounds);
        figures.told_ms = halves(&mut told);
        figures.order_error_ms = halves(&mut order_errors(&visits));
        figures
    }

    /// Those who were refused, whatever the name.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.refused.values().sum()
    }

    /// The figures as an object.
    #[must_use]
    pub fn json(&self) -> Value {
        let round = |value: f64| (value * 1_000.0).round() / 1_000.0;
        json!({
            "arrivals": self.arrivals,
            "flights_only": self.flights_only,
            "offered_per_s": round(self.offered_per_s),
            "completed_handshakes": self.completed_handshakes,
            "admitted": self.admitted,
            "admitted_with_ticket": self.admitted_with_ticket,
            "complete_joins_per_s": round(self.complete_joins_per_s),
            "waiting": self.waiting,
            "refused": self.refusals(),
            "refused_by_name": self.refused,
            "never_answered": self.never_answered,
            "redirects": self.redirects,
            "join_ms_p50": round(self.join_ms.0),
            "join_ms_p99": round(self.join_ms.1),
            "first_sound_ms_p50": round(self.first_sound_ms.0),
            "first_sound_ms_p99": round(self.first_sound_ms.1),
            "told_ms_p50": round(self.told_ms.0),
            "told_ms_p99": round(self.told_ms.1),
            "order_error_ms_p99": round(self.order_error_ms.1),
        })
    }
}

/// Over those admitted with a ticket, in the order of admission: by how much the latest arrival that
/// was admitted before lies after the own one.
fn order_errors(visits: &[&Visit]) -> Vec<f64> {
    let waited = visits.iter().filter(|visit| visit.waits > 0);
    let mut admitted: Vec<(Time, Time)> =
        waited.filter_map(|visit| Some((visit.joined?.0, visit.scheduled))).collect();
    admitted.sort_unstable();
    let mut latest = Time::ZERO;
    let error = |(_, arrival): (Time, Time)| {
        let error = latest.since(arrival);
        latest = latest.max(arrival);
        ms(error)
    };
    admitted.into_iter().map(error).collect()
}

/// The median and the 99th percentile; zeros where there is nothing.
fn halves(samples: &mut [f64]) -> (f64, f64) {
    let median = quantile(samples, 0.5).unwrap_or(0.0);
    (median, quantile(samples, 0.99).unwrap_or(0.0))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(scheduled: u64) -> Visit {
        let at = Time::from_millis(scheduled);
        Visit { scheduled: at, due: at, sent: Some(at), ..Visit::default() }
    }

    fn joined(scheduled: u64, due: u64, at: u64) -> Visit {
        let address = ([127, 0, 0, 1], 1).into();
        let waits = u32::from(due > scheduled);
        Visit {
            due: Time::from_millis(due),
            joined: Some((Time::from_millis(at), address)),
            sound: Some(Time::from_millis(at + 5)),
            told: (waits > 0).then(|| Time::from_millis(scheduled + 40)),
            waits,
            connected: true,
            ..visit(scheduled)
        }
    }

    #[test]
    fn everyone_who_comes_is_in_one_of_the_figures() {
        let waiting = Visit { told: Some(Time::from_millis(70)), waits: 1, ..visit(20) };
        let refused = Visit { refused: Some("token_invalid".into()), ..visit(30) };
        let silent = Visit { refused: Some("none".into()), ..visit(40) };
        let flight = Visit { flight_only: true, ..visit(50) };
        let visits =
            [joined(10, 10, 30), waiting, refused, silent, flight, visit(60), visit(5_000)];
        let figures = Figures::over(&visits, Time::ZERO, Time::from_millis(1_000));
        assert_eq!((figures.arrivals, figures.flights_only, figures.admitted), (6, 1, 1));
        assert_eq!((figures.waiting, figures.refusals(), figures.never_answered), (1, 1, 2));
        assert_eq!(figures.told_ms.1, NEVER_MS);
        assert_eq!((figures.join_ms.0, figures.first_sound_ms.0), (20.0, 25.0));
        assert_eq!(figures.offered_per_s, 6.0);
    }

    #[test]
    fn whoever_overtakes_is_seen_in_those_who_were_overtaken() {
        let visits =
            [joined(100, 2_000, 2_010), joined(500, 2_000, 2_020), joined(200, 2_000, 2_030)];
        let figures = Figures::over(&visits, Time::ZERO, Time::from_millis(1_000));
        assert_eq!(figures.order_error_ms.1, 300.0);
        assert_eq!(figures.admitted_with_ticket, 3);
        assert_eq!(figures.join_ms.1, 30.0, "who waited is late by the time that it was told");
    }
}
