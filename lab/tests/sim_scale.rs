//! Cohorts stand for their listeners, and what costs the origin does not grow with them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use stentor_lab::sim::{self, Fault, FaultKind, Outcome, Setup, Tally, World};

fn setup(listeners: usize) -> Setup {
    Setup {
        relays: 24,
        fan_out: 3,
        listeners,
        join: Duration::from_secs(2),
        virtual_time: Duration::from_secs(12),
        ..Setup::new(11)
    }
}

/// What each of 10,000 listeners received, with cohorts or one by one. The paths are the classes'
/// in both worlds.
fn tallies(cohorts: bool) -> (Vec<Tally>, Outcome) {
    let kinds = [FaultKind::Loss, FaultKind::Kill, FaultKind::Drain];
    let faults = (1..).zip(kinds).map(|(at, kind)| Fault::new(kind).at(at)).collect();
    let churn = 0.0;
    let virtual_time = Duration::from_secs(14);
    let (own_paths, sample) = (false, 0.0);
    let setup = Setup { cohorts, faults, own_paths, churn, sample, virtual_time, ..setup(10_000) };
    let mut world = World::new(setup).unwrap();
    world.run();
    (world.tallies(), world.outcome())
}

#[test]
fn a_cohort_hears_what_its_listeners_would_hear_one_by_one() {
    let (folded, outcome) = tallies(true);
    let (alone, one_by_one) = tallies(false);
    assert_eq!((outcome.violated, one_by_one.violated), (0, 0), "{:?}", one_by_one.violations);
    assert!(outcome.folded > 9_000 && one_by_one.folded == 0, "{}", outcome.folded);
    // Where relays die and drain, one in a hundred ends a tick or two apart: why is not known.
    let off = |(a, b): &(&Tally, &Tally)| {
        let apart = [(a.received, b.received), (a.repaired, b.repaired), (a.lost, b.lost)];
        apart.into_iter().map(|(a, b)| a.abs_diff(b)).max().unwrap_or(0)
    };
    let differ: Vec<_> = folded.iter().zip(&alone).filter(|pair| off(pair) > 0).collect();
    assert!(differ.len() <= 250, "{} differ, the first: {:?}", differ.len(), differ.first());
    assert!(differ.iter().all(|pair| off(pair) <= 25), "{differ:?}");
    let (folded, single) = (&outcome.rehomed, &one_by_one.rehomed);
    assert!(folded.silent.abs_diff(single.silent) <= 5, "{folded:?} {single:?}");
    assert!(folded.asked.abs_diff(single.asked) <= 5, "{folded:?} {single:?}");
    assert!(alone.iter().any(|tally| tally.repaired > 0));
}

#[test]
fn messages_at_the_origin_do_not_grow_with_the_listeners() {
    let messages = |listeners| {
        let outcome = sim::run(setup(listeners)).unwrap();
        assert_eq!(outcome.violations, []);
        assert_eq!(outcome.listeners, listeners);
        outcome.origin_messages_per_s
    };
    let (few, many) = (messages(100), messages(20_000));
    assert!((few - many).abs() <= 0.02 * few, "{few} and {many} a second");
}

#[test]
fn the_tree_deepens_as_the_logarithm_of_its_relays() {
    for (relays, levels) in [(3, 1), (12, 2), (39, 3), (120, 4)] {
        let setup = Setup { relays, listeners: 0, churn: 0.0, ..setup(0) };
        let outcome = sim::run(setup).unwrap();
        assert_eq!(outcome.violations, []);
        assert_eq!((outcome.relays, outcome.levels), (relays, levels), "3 + 9 + 27 + 81 relays");
    }
}
