//! The simulator: fixed seeds, fresh seeds, and that a seed makes one world.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use stentor_lab::sim::{self, Fault, FaultKind, Line, Loss, Outcome, Setup};

/// Seeds whose worlds are looked at each time.
const FIXED: [u64; 3] = [1, 2, 3];
/// Seeds of worlds with one fault.
const SOME: [u64; 2] = [1, 2];
/// The variable that replays a fresh seed in this test.
const SEED: &str = "TESTS_SEED";

/// A small world: two dozen relays on three levels.
fn small(seed: u64) -> Setup {
    Setup {
        relays: 24,
        fan_out: 3,
        listeners: 1_500,
        join: Duration::from_secs(2),
        virtual_time: Duration::from_secs(20),
        ..Setup::new(seed)
    }
}

/// The same with faults, until the last has settled.
fn struck(seed: u64, faults: Vec<Fault>) -> Setup {
    let setup = small(seed);
    let virtual_time = Duration::from_secs(5) + sim::fault_span(&faults, setup.join);
    Setup { faults, virtual_time, ..setup }
}

fn run(setup: Setup) -> Outcome {
    sim::run(setup).unwrap()
}

#[track_caller]
fn assert_sound(outcome: &Outcome) {
    let (violated, command) = (outcome.violated, &outcome.command);
    assert_eq!(outcome.violations, [], "of {violated}; run it again: {command}");
}

/// One fault of every kind, one after the other.
fn every_fault(seed: u64) {
    let outcome = run(struck(seed, sim::all_faults(seed)));
    assert_sound(&outcome);
    assert_eq!(outcome.fired, FaultKind::ALL.len(), "every fault found whom to strike");
    assert_eq!((outcome.listeners, outcome.relays), (1_500, 24), "everybody is back");
}

#[test]
fn a_world_without_faults_keeps_every_rule() {
    let outcome = run(small(1));
    assert_sound(&outcome);
    assert_eq!((outcome.listeners, outcome.relays), (1_500, 24));
    assert_eq!((outcome.moves, outcome.cut_off), (0, 0), "nobody is moved who is well");
    assert!(outcome.ticks > 700 && outcome.offered > 500_000, "{outcome:?}");
}

#[test]
fn the_first_fixed_seed_survives_every_fault() {
    every_fault(FIXED[0]);
}

#[test]
fn the_second_fixed_seed_survives_every_fault() {
    every_fault(FIXED[1]);
}

#[test]
fn the_third_fixed_seed_survives_every_fault() {
    every_fault(FIXED[2]);
}

#[test]
fn a_fresh_seed_survives_every_fault() {
    let given = std::env::var(SEED).ok().map(|seed| seed.parse().unwrap());
    let seed = given.unwrap_or_else(|| RandomState::new().hash_one(0) >> 16);
    let command = struck(seed, sim::all_faults(seed)).command();
    println!("a fresh seed: {SEED}={seed}, or {command}");
    every_fault(seed);
}

#[test]
fn one_seed_makes_one_world() {
    let outcome = |seed| run(struck(seed, vec![Fault::new(FaultKind::Kill).at(1)]));
    assert_eq!(outcome(5), outcome(5));
    assert_ne!(outcome(5).fingerprint, outcome(6).fingerprint);
}

#[test]
fn a_death_moves_only_children_and_nobody_else_loses() {
    for seed in FIXED {
        let outcome = run(struck(seed, vec![Fault::new(FaultKind::Kill).at(1)]));
        assert_sound(&outcome);
        // A relay has 2 × 3 children at most; they are moved, and whoever takes the place that
        // has become free.
        assert!(outcome.moved_most <= 7, "{outcome:?}");
    }
}

/// A world whose paths lose nothing, with one fault or none.
fn lossless(seed: u64, kind: Option<FaultKind>) -> Outcome {
    let mut setup = struck(seed, kind.map(|kind| Fault::new(kind).at(1)).into_iter().collect());
    setup.churn = 0.0;
    setup.virtual_time = setup.virtual_time.max(Duration::from_secs(10));
    setup.classes.iter_mut().for_each(|class| class.line.loss = Loss::None);
    let outcome = run(setup);
    assert_sound(&outcome);
    assert_eq!(outcome.listeners, 1_500, "{kind:?}: everybody is back");
    assert_eq!(outcome.doors.gave_up, [], "{kind:?}");
    outcome
}

/// One fault costs nobody a tick, nor does coming first to a relay that has yet to bring the room up.
fn one_fault(seed: u64, kind: FaultKind) -> Outcome {
    let outcome = lossless(seed, Some(kind));
    let without = lossless(seed, None);
    assert_eq!((outcome.fired, without.fired), (1, 0), "{kind:?}");
    let (lost, before) = (outcome.tally.lost, without.tally.lost);
    assert_eq!((lost, before), (0, 0), "{kind:?} with seed {seed}: {:?}", outcome.rehomed);
    outcome
}

#[test]
fn whoever_loses_a_relay_is_taken_by_another_and_lacks_nothing() {
    for seed in SOME {
        for kind in [FaultKind::Kill, FaultKind::Stop, FaultKind::BlackHole] {
            let moves = one_fault(seed, kind).rehomed;
            assert!(moves.silent >= 20 && moves.asked == 0, "{kind:?}: {moves:?}");
            // Six times the figure of the bench on real processes.
            assert!(moves.gap_ms_p99 <= 600, "{kind:?}: {moves:?}");
        }
    }
}

#[test]
fn a_draining_relay_is_left_without_a_gap() {
    for seed in SOME {
        let moves = one_fault(seed, FaultKind::Drain).rehomed;
        assert!(moves.asked >= 20, "{moves:?}");
        assert!(moves.gap_ms_p99 <= 200, "no longer than a silence has: {moves:?}");
    }
}

#[test]
fn nobody_leaves_a_relay_that_answers() {
    for seed in SOME {
        for kind in [FaultKind::StarveOrigin, FaultKind::ControlGone] {
            let moves = one_fault(seed, kind).rehomed;
            assert_eq!((moves.silent, moves.lost, moves.asked), (0, 0, 0), "{kind:?}");
        }
    }
}

#[test]
fn an_address_that_changes_is_found_again_by_a_probe() {
    for seed in SOME {
        let outcome = one_fault(seed, FaultKind::Rebind);
        let moves = outcome.rehomed;
        assert!(moves.rebound >= 20, "{moves:?}");
        assert_eq!(outcome.doors.attempts, 1_500, "nobody looked for another relay");
        assert_eq!((moves.silent, moves.lost), (0, 0), "the session is kept");
    }
}

#[test]
fn what_strikes_while_a_crowd_comes_keeps_nobody_out() {
    for kind in [FaultKind::Kill, FaultKind::StarveOrigin, FaultKind::Drain] {
        let gathering = Duration::from_secs(8);
        let faults = vec![Fault::new(kind).opened(gathering / 2)];
        let virtual_time = Duration::from_secs(5) + sim::fault_span(&faults, gathering);
        let outcome = run(Setup { join: gathering, faults, virtual_time, ..small(4) });
        assert_sound(&outcome);
        let struck = outcome.seconds.iter().find(|second| second.at == 4).unwrap();
        assert!((600..900).contains(&struck.set_out), "{kind:?} strikes amid them: {struck:?}");
        assert_eq!((outcome.fired, outcome.listeners), (1, 1_500), "{kind:?}");
    }
}

#[test]
fn a_crowd_before_the_doors_waits_in_order_and_comes_in() {
    let setup = Setup {
        curve: vec![(0.0, 0.0), (2.0, 700.0), (4.0, 0.0)],
        door: sim::Door { joins_per_s: 8, ..sim::door() },
        churn: 0.0,
        virtual_time: Duration::from_secs(60),
        ..small(2)
    };
    let outcome = run(setup);
    assert_sound(&outcome);
    let doors = &outcome.doors;
    assert!(doors.told_to_wait > 300 && doors.waiting_most > 100, "{doors:?}");
    assert_eq!((outcome.listeners, outcome.cut_off), (1_500, 0), "{doors:?}");
}

#[test]
fn loss_on_every_hop_of_the_tree_is_repaired() {
    let lossy = |share| {
        let setup = small(3);
        let backbone = Line { loss: Loss::Random(share), ..setup.backbone };
        run(Setup { backbone, virtual_time: Duration::from_secs(40), ..setup })
    };
    let outcome = lossy(0.02);
    assert_sound(&outcome);
    let (must, missing) = outcome.lossy_hops;
    assert!(must > 30_000, "{outcome:?}");
    assert!(missing * 10_000 <= must, "{missing} of {must} ticks did not reach a relay");
}
