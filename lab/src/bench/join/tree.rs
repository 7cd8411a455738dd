//! The crowd at a tree of several relays: one that is full, one that dies, one that is new.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::attacks::labelled;
use super::rig::{Budgets, Rig, ms, relay};
use crate::nodes::Node;
use crate::report::quantile;
use crate::storm::{Curve, Figures, Storm, Visit};

const OPEN: Budgets =
    Budgets { joins_per_s: 2_000, returns_per_s: 2_000, tickets_per_s: 2_000, admission: true };
/// Places of the relay that everybody comes to, and of its siblings: a quarter is kept for those who
/// return, and what is left is shared out among the three who name each.
const FULL: u32 = 100;
const SIBLINGS: [u32; 3] = [600; 3];
/// How many come beyond what it takes: in a burst, which no report is in time for, and then steadily.
const BURST: usize = 300;
const STEADY: (f64, Duration) = (60.0, Duration::from_secs(5));
/// Relays know each other by then.
const SETTLE: Duration = Duration::from_secs(3);
/// What is late is waited for.
const GRACE: Duration = Duration::from_secs(2);

/// One relay is full and its siblings are not: everybody who comes to it is sent on.
pub(super) fn full(say: &mut dyn FnMut(&str)) -> Result<Value> {
    say("full: one relay is full, its siblings are not");
    let mut plans = vec![relay("edge-1", FULL, OPEN)];
    for (n, capacity) in SIBLINGS.into_iter().enumerate() {
        plans.push(relay(&format!("edge-{}", n + 2), capacity, OPEN));
    }
    let mut rig = Rig::start("full", &plans)?;
    let mut storm = rig.storm(&[0], |_| {})?;
    storm.until(SETTLE, |_| false)?;
    // Until it takes nobody: some places are kept for those who return.
    let mut taken = 0;
    while storm.inside_by_relay().len() < 2 && taken < FULL {
        storm.come()?;
        taken += 1;
        storm.until(Duration::from_secs(1), |s| s.opening() == 0)?;
    }
    let from = storm.now();
    for _ in 0..BURST {
        storm.come()?;
    }
    storm.until(Duration::from_secs(10), |s| s.opening() == 0)?;
    storm.until(Duration::from_millis(300), |_| false)?;
    let burst = Figures::over(storm.visits(), from, storm.now());
    let burst_spread = spread(&rig, &storm);
    let (from, until) = storm.run(&Curve::steady(STEADY.0), STEADY.1)?;
    storm.until(GRACE, |_| false)?;
    rig.check()?;
    let steady = Figures::over(storm.visits(), from, until);
    let sent_on = |visit: &&Visit| visit.scheduled >= from && visit.redirects > 0;
    let mut sounds: Vec<f64> = storm
        .visits()
        .iter()
        .filter(sent_on)
        .filter_map(|visit| Some(ms(visit.first_sound()?)))
        .collect();
    let row = json!({
        "row": "full",
        "burst": BURST,
        "burst_admitted": burst.admitted,
        "burst_waiting": burst.waiting,
        "burst_redirects": burst.redirects,
        "burst_load_off_mean_percent": burst_spread,
        "arrivals": steady.arrivals,
        "admitted": steady.admitted,
        "redirects": steady.redirects,
        "first_sound_ms_p50_redirected": quantile(&mut sounds, 0.5).unwrap_or(0.0),
        "first_sound_ms_p99_redirected": quantile(&mut sounds, 0.99).unwrap_or(0.0),
        "load_off_mean_percent": spread(&rig, &storm),
        "inside": loads(&rig, &storm),
    });
    say(&row.to_string());
    storm.leave();
    rig.end()?;
    Ok(row)
}

/// Those inside by relay.
fn loads(rig: &Rig, storm: &Storm) -> BTreeMap<String, usize> {
    let inside = storm.inside_by_relay();
    let count = |address: &SocketAddr| inside.get(address).copied().unwrap_or(0);
    rig.bed.relays.iter().map(|relay| (relay.name.clone(), count(&relay.address))).collect()
}

/// How far the siblings' loads are off their mean by capacity, at most (percent).
fn spread(rig: &Rig, storm: &Storm) -> f64 {
    let inside = storm.inside_by_relay();
    let siblings = rig.bed.relays[1..].iter().zip(SIBLINGS);
    let sum: usize =
        rig.bed.relays[1..].iter().filter_map(|relay| inside.get(&relay.address)).sum();
    let mean = sum as f64 / f64::from(SIBLINGS.iter().sum::<u32>());
    let off = siblings.map(|(relay, capacity)| {
        let load = inside.get(&relay.address).copied().unwrap_or(0) as f64 / f64::from(capacity);
        100.0 * (load / mean.max(1e-9) - 1.0).abs()
    });
    off.fold(0.0, f64::max)
}

/// Relays of the row in which one dies, and the places of each.
const DEATH: (usize, u32) = (3, 300);
/// How fast the tree fills.
const FILL_PER_S: u32 = 60;

/// A relay dies while all are as full as they take newcomers, and people wait.
pub(super) fn death(say: &mut dyn FnMut(&str)) -> Result<Value> {
    say("death: the tree fills until people wait");
    let (relays, capacity) = DEATH;
    let budgets = Budgets { joins_per_s: FILL_PER_S, ..OPEN };
    let plans: Vec<_> =
        (1..=relays).map(|n| relay(&format!("edge-{n}"), capacity, budgets)).collect();
    let mut rig = Rig::start("death", &plans)?;
    let all: Vec<usize> = (0..relays).collect();
    let mut storm = rig.storm(&all, |_| {})?;
    storm.until(SETTLE, |_| false)?;
    let rate = 0.9 * f64::from(FILL_PER_S) * relays as f64;
    storm.run(&Curve::steady(rate), Duration::from_secs(5))?;
    // Until nobody comes in any more.
    let mut last = (storm.inside(), storm.now());
    storm.until(Duration::from_secs(15), |s| {
        if s.inside() != last.0 {
            last = (s.inside(), s.now());
        }
        s.now().since(last.1) > Duration::from_secs(4)
    })?;
    let (before, waiting) = (storm.inside(), storm.waiting());
    let victim = rig.bed.relays[0].address;
    let affected: Vec<usize> =
        (0..storm.visits().len()).filter(|&n| storm.address_of(n) == Some(victim)).collect();
    let full = loads(&rig, &storm);
    say(&format!("death: {before} inside {full:?}, {waiting} wait; one of {relays} relays dies"));
    let killed = storm.now();
    rig.bed.relays[0].kill()?;
    let entries = rig.bed.relays[1..].iter().map(|relay| relay.address).collect();
    storm.set_entries(entries);
    let back = |s: &Storm, n: usize| s.visits()[n].moved.is_some_and(|at| at > killed);
    storm.run(&Curve::steady(20.0), Duration::from_secs(2))?;
    storm.until(Duration::from_secs(10), |s| affected.iter().all(|&n| back(s, n)))?;
    let returned = affected.iter().filter(|&&n| back(&storm, n)).count();
    let mut took: Vec<f64> = affected
        .iter()
        .filter_map(|&n| storm.visits()[n].moved.filter(|&at| at > killed))
        .map(|at| ms(at.since(killed)))
        .collect();
    let last_back = took.iter().copied().fold(0.0, f64::max);
    let newcomers = storm
        .visits()
        .iter()
        .filter_map(|visit| visit.joined.map(|(at, _)| at))
        .filter(|&at| at > killed && ms(at.since(killed)) <= last_back)
        .count();
    rig.check()?;
    let late = |relay: &Node| labelled(relay, "stentor_joins_total", "return_over_budget");
    let over_budget = rig.bed.relays[1..].iter().map(late).sum::<Result<f64>>()?;
    let row = json!({
        "row": "death",
        "inside": before,
        "inside_by_relay": full,
        "waiting": waiting,
        "affected": affected.len(),
        "returned": returned,
        "returned_ms_p50": quantile(&mut took, 0.5).unwrap_or(0.0),
        "returned_ms_p99": quantile(&mut took, 0.99).unwrap_or(0.0),
        "newcomers_before_the_last_returned": newcomers,
        "returns_over_budget": over_budget,
        "inside_after": loads(&rig, &storm),
    });
    say(&row.to_string());
    storm.leave();
    rig.end()?;
    Ok(row)
}

/// A relay starts while people wait.
pub(super) fn grow(say: &mut dyn FnMut(&str)) -> Result<Value> {
    say("grow: a relay starts while people wait");
    let budgets = Budgets { joins_per_s: 50, ..OPEN };
    let mut rig = Rig::start("grow", &[relay("edge-1", 150, budgets)])?;
    let mut storm = rig.storm(&[0], |_| {})?;
    let (from, _) = storm.run(&Curve::steady(100.0), Duration::from_secs(5))?;
    storm.until(GRACE, |_| false)?;
    let (inside, waiting) = (storm.inside(), storm.waiting());
    let begun = Instant::now();
    rig.bed.add_relay(&relay("edge-2", 400, budgets))?;
    let started = storm.now();
    // The other one is full, and says so.
    rig.bed.relays[1].wait_ready()?;
    let (ready, ready_ms) = (storm.now(), ms(begun.elapsed()));
    let new = rig.bed.relays[1].address;
    storm.run(&Curve::steady(20.0), Duration::from_secs(6))?;
    rig.check()?;
    let there: Vec<&Visit> = storm
        .visits()
        .iter()
        .filter(|visit| visit.joined.is_some_and(|(_, address)| address == new))
        .collect();
    let at = |visit: &&Visit| visit.joined.map(|(at, _)| at);
    let first = there.iter().filter_map(at).min();
    let within = there.iter().filter_map(at).filter(|at| at.since(ready) <= Duration::from_secs(3));
    let figures = Figures::over(storm.visits(), from, storm.now());
    let first = first.context("the new relay took nobody")?;
    let row = json!({
        "row": "grow",
        "inside_before": inside,
        "waiting_before": waiting,
        "ready_ms": ready_ms,
        "first_join_ms_after_ready": ms(first.since(ready)),
        "first_join_ms_after_start": ms(first.since(started)),
        "joined_within_3_s": within.count(),
        "joined_within_6_s": there.len(),
        "order_error_ms_p99": figures.order_error_ms.1,
        "refused": figures.refusals(),
        "never_answered": figures.never_answered,
    });
    say(&row.to_string());
    storm.leave();
    rig.end()?;
    Ok(row)
}
