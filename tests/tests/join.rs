//! The crowd at the door on real processes: both doors, the queue, redirects.
//!
//! Outcomes are asserted as they must be, times at several times the figure: the figures are the bench's
//! (`stentor bench join`), on a quiet machine.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use serde_json::Value;
use stentor_client::audio::EncoderSettings;
use stentor_lab::bed::{Bed, Choir, RelayPlan};
use stentor_lab::bench::join::{JoinOptions, Stage, run};
use stentor_lab::storm::{Curve, Figures, Storm, StormPlan};

const ROOM: &str = "[[rooms]]\nname = \"door\"\npublic = true\n";

/// An origin that admits nobody itself, relays with these settings, and a voice.
fn bed(what: &str, relays: &[(u32, &str)]) -> (Bed, Choir) {
    let config = format!("http_writes_per_s = 10000\n{ROOM}[limits]\nlisteners = 0\n");
    let mut bed = Bed::start_with_stage(what, &config, None).unwrap();
    for (n, (capacity, config)) in relays.iter().enumerate() {
        let plan = RelayPlan::new(&format!("edge-{}", n + 1), 1);
        let config = (*config).to_owned();
        bed.add_relay(&RelayPlan { capacity: *capacity, config, ..plan }).unwrap();
    }
    bed.wait_ready().unwrap();
    let voice = EncoderSettings { constant: true, dtx: false, ..EncoderSettings::default() };
    let choir = Choir::start(bed.trust(), vec![bed.stage("door").unwrap()], voice, None).unwrap();
    choir.speak(1);
    (bed, choir)
}

fn storm(bed: &Bed, change: impl FnOnce(&mut StormPlan)) -> Storm {
    let entries = bed.relays.iter().map(|relay| relay.address).collect();
    let mut plan = StormPlan::new(entries, bed.roots().unwrap(), "door");
    change(&mut plan);
    Storm::new(plan).unwrap()
}

#[test]
fn both_doors_lead_in() {
    let (bed, choir) = bed("both-doors", &[(1_000, "")]);
    let mut storm = storm(&bed, |plan| plan.http = Some((bed.origin.address, 0.5)));
    let (from, until) = storm.run(&Curve::steady(40.0), Duration::from_secs(2)).unwrap();
    assert!(
        storm
            .until(Duration::from_secs(10), |s| s.visits().iter().all(|v| v.sound.is_some()))
            .unwrap()
    );
    let figures = Figures::over(storm.visits(), from, until);
    assert!(figures.arrivals > 50 && figures.admitted == figures.arrivals, "{figures:?}");
    let asked = storm.visits().iter().filter(|visit| visit.http).count();
    assert!(asked > 10 && asked < storm.visits().len(), "{asked} asked by HTTP");
    choir.finish().unwrap();
}

#[test]
fn a_crowd_waits_in_order_and_comes_in() {
    let limits = "[limits]\njoins_per_s = 10\nreturns_per_s = 10\ntickets_per_s = 2000\n";
    let (bed, choir) = bed("queue", &[(1_000, limits)]);
    let mut storm = storm(&bed, |_| {});
    let (from, until) = storm.run(&Curve::steady(60.0), Duration::from_secs(2)).unwrap();
    let all = |s: &Storm| s.inside() == s.visits().len();
    assert!(storm.until(Duration::from_secs(60), all).unwrap(), "{} wait", storm.waiting());
    let figures = Figures::over(storm.visits(), from, until);
    assert_eq!((figures.refusals(), figures.never_answered), (0, 0), "{figures:?}");
    assert!(figures.admitted_with_ticket > 60, "{figures:?}");
    assert!(figures.told_ms.1 < 5_000.0 && figures.order_error_ms.1 < 1_000.0, "{figures:?}");
    choir.finish().unwrap();
}

/// Measures one row of the bench.
fn row(stage: Stage) -> Value {
    let options = JoinOptions {
        arrivals_per_s: 1_500.0,
        seconds: 5.0,
        capacity: 400,
        join_budget: 20,
        dwell: Duration::from_secs(5),
        stages: vec![stage],
        chart: None,
        events: None,
    };
    let report = run(&options, &mut |_| {}).unwrap().finish();
    report["rows"][0].clone()
}

#[test]
fn who_comes_to_a_full_relay_is_sent_to_its_siblings() {
    let row = row(Stage::Full);
    assert_eq!(row["burst_admitted"], row["burst"], "{row:#}");
    assert_eq!(row["admitted"], row["arrivals"], "{row:#}");
    assert!(row["load_off_mean_percent"].as_f64().unwrap() <= 20.0, "{row:#}");
    assert!(row["first_sound_ms_p99_redirected"].as_f64().unwrap() <= 2_000.0, "{row:#}");
}

#[test]
fn listeners_of_a_dead_relay_come_back_before_newcomers() {
    let row = row(Stage::Death);
    let figure = |name: &str| row[name].as_f64().unwrap();
    // 300 places each, of which headroom is kept: the rest was full, and people waited.
    assert!(figure("affected") >= 150.0 && figure("waiting") > 0.0, "{row:#}");
    assert_eq!(figure("returned"), figure("affected"), "{row:#}");
    assert_eq!(figure("newcomers_before_the_last_returned"), 0.0, "{row:#}");
    assert_eq!(figure("returns_over_budget"), 0.0, "{row:#}");
    assert!(figure("returned_ms_p99") <= 5_000.0, "{row:#}");
}

#[test]
fn a_new_relay_takes_load_while_people_wait() {
    let row = row(Stage::Grow);
    assert!(row["waiting_before"].as_u64().unwrap() >= 100, "{row:#}");
    assert!(row["joined_within_6_s"].as_u64().unwrap() >= 20, "{row:#}");
    assert!(row["refused"] == 0 && row["never_answered"] == 0, "{row:#}");
}

#[test]
fn a_ticket_admits_once_and_bad_ones_are_refused_by_name() {
    let row = row(Stage::Tickets);
    for name in ["forged", "anothers", "expired"] {
        assert_eq!(row[format!("{name}_refused")], 10.0, "{row:#}");
        assert_eq!(row[format!("{name}_admitted")], 0.0, "{row:#}");
    }
    assert_eq!((&row["copied_admitted"], &row["copied_refused"]), (&1.0.into(), &999.0.into()));
}
