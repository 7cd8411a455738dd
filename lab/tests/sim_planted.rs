//! The simulator finds the bugs that are planted into its worlds, and nothing without them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use stentor_lab::sim::{self, Fault, FaultKind, Outcome, Planted, Setup};

/// A world in which each of the bugs has its occasion: the origin stands still for three seconds.
fn outcome(seed: u64, planted: Option<Planted>) -> Outcome {
    let setup = Setup {
        relays: 24,
        fan_out: 3,
        listeners: 600,
        join: Duration::from_secs(2),
        faults: vec![Fault::new(FaultKind::StarveOrigin).at(1)],
        virtual_time: Duration::from_secs(20),
        planted,
        ..Setup::new(seed)
    };
    sim::run(setup).unwrap()
}

/// Every fixed seed finds the bug by what it does, and none finds anything without it.
#[track_caller]
fn is_found(planted: Planted, by: &str) {
    for seed in 1..=3 {
        let found = outcome(seed, Some(planted));
        let said = found.violations.iter().any(|violation| violation.what.contains(by));
        assert!(said, "seed {seed} does not find {planted:?}: {:?}", found.violations);
    }
}

#[test]
fn without_a_bug_nothing_is_found() {
    for seed in 1..=3 {
        let outcome = outcome(seed, None);
        assert_eq!(outcome.violations, []);
        assert_eq!(outcome.fired, 1);
    }
}

#[test]
fn a_merge_that_keeps_the_second_copy_is_found() {
    is_found(Planted::SecondCopy, "twice");
}

#[test]
fn a_planner_that_allows_equal_levels_is_found() {
    is_found(Planted::EqualLevels, "is given the parent");
}

#[test]
fn a_starved_child_that_leaves_is_found() {
    is_found(Planted::StarvedLeaves, "which answers");
}
