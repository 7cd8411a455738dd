//! The simulator: fixed seeds, fresh seeds, and that it sees what it is to see.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use stentor_lab::sim::{self, Fault, FaultKind, Outcome, Setup};

/// A small world: some twenty relays on three levels.
fn small(seed: u64) -> Setup {
    Setup {
        relays: 24,
        fan_out: 3,
        listeners: 2_000,
        join: Duration::from_secs(2),
        virtual_time: Duration::from_secs(20),
        ..Setup::new(seed)
    }
}

fn run(setup: Setup) -> Outcome {
    sim::run(setup).unwrap()
}

fn assert_sound(outcome: &Outcome) {
    assert_eq!(outcome.violations, [], "of {} with seed {}", outcome.violated, outcome.seed);
}

#[test]
fn a_world_without_faults_keeps_every_rule() {
    let outcome = run(small(1));
    assert_sound(&outcome);
    assert_eq!((outcome.listeners, outcome.relays), (2_000, 24));
    println!("{outcome:#?}");
}

#[test]
fn one() {
    for kind in FaultKind::ALL {
        let t = std::time::Instant::now();
        let setup = Setup {
            faults: vec![Fault::new(kind).at(2)],
            virtual_time: Duration::from_secs(45),
            ..small(1)
        };
        let outcome = run(setup);
        println!("{kind:?} {:?} fired {} cut_off {} moves {} most {} violated {}", t.elapsed(), outcome.fired, outcome.cut_off, outcome.moves, outcome.moved_most, outcome.violated);
        for v in outcome.violations.iter().take(6) { println!("   {} {}", v.at_us as f64/1e6, v.what); }
    }
}
