//! Faults on real processes: relays that are killed, stopped, starved and drained.
//!
//! The outcomes are asserted as they must be (nobody missing, nothing lost elsewhere), times at ten
//! times the figure: the figures are the bench's (`stentor bench faults`), on a quiet machine.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use stentor_lab::bench::faults::{FaultsOptions, run};

/// Measures one fault.
fn row(name: &str) -> Value {
    let options = FaultsOptions { only: vec![name.to_owned()], ..FaultsOptions::default() };
    let report = run(&options, &mut |_| {}).unwrap().finish();
    let row = report["faults"][0].clone();
    assert_eq!(row["fired"], true, "{row:#}");
    assert_eq!(row["ticks_lost_elsewhere"], 0, "{row:#}");
    assert_eq!(row["returned_percent"], 100.0, "{row:#}");
    assert_eq!(row["ticks_missing_after_replay"], 0, "{row:#}");
    row
}

/// Everyone on the relay goes to a sibling, within ten times what the bench allows.
fn moves(name: &str) {
    let row = row(name);
    assert!(row["affected"].as_u64().unwrap() >= 500, "{row:#}");
    assert!(row["moves"].as_u64() >= row["affected"].as_u64(), "{row:#}");
    assert_eq!(row["moves_elsewhere"], 0, "{row:#}");
    assert!(row["gap_ms_p50"].as_f64().unwrap() <= 2_500.0, "{row:#}");
    assert!(row["gap_ms_p99"].as_f64().unwrap() <= 6_000.0, "{row:#}");
}

#[test]
fn listeners_of_a_killed_relay_go_on_at_its_siblings() {
    moves("kill_own_relay");
}

#[test]
fn listeners_of_a_stopped_relay_go_on_at_its_siblings() {
    moves("stop_own_relay");
}

#[test]
fn listeners_of_a_draining_relay_move_without_a_gap() {
    moves("drain");
}

#[test]
fn a_relay_that_feeds_others_may_die() {
    let row = row("kill_other_relay");
    assert_eq!((&row["affected"], &row["moves"]), (&0.into(), &0.into()), "{row:#}");
}

#[test]
fn nobody_leaves_while_the_origin_stands_still() {
    let row = row("starve_level");
    assert_eq!(row["reconnects"], 0.0, "{row:#}");
    assert_eq!(row["starved_listeners"], row["listeners"], "{row:#}");
    assert!(row["gap_ms_p99"].as_f64().unwrap() <= 2_000.0, "{row:#}");
}
