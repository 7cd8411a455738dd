//! A small game day, as `stentor game-day` plays it: outcomes as they must be, times with room for a
//! machine that does other things. The figures are those of a quiet one (docs/decisions/0017).
#![allow(clippy::unwrap_used, reason = "helpers of tests unwrap as tests do")]

use std::process::Stdio;

use serde_json::Value;
use stentor_tests::{Process, command};

/// An evening of half a minute; its exit code, its report, and its page.
fn evening(scale: &str, admission: &str) -> (Option<i32>, Value, String) {
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("evening.html");
    let mut day = command("stentor");
    day.args(["game-day", "2023", "--scale", scale, "--seconds", "30", "--admission", admission])
        .args(["--json", "--report"])
        .arg(&page)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = Process::start(&mut day).output();
    let said = String::from_utf8_lossy(&output.stderr);
    // A failed verdict is a report, too.
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    (output.status.code(), report, std::fs::read_to_string(page).unwrap())
}

#[test]
fn an_evening_begins_on_time_and_everybody_outlives_a_relay() {
    let (code, report, page) = evening("0.0001", "on");
    let figure = |name: &str| report[name].as_f64().unwrap_or(f64::NAN);
    assert!(figure("arrivals") > 60.0 && figure("admitted") > 40.0, "{report:#}");
    assert!(figure("killed_listeners") > 0.0, "{report:#}");
    // What a socket of this machine had no room for, while other tests ran, is no loss of the tree's.
    let dropped = figure("kernel_drops_crowd") + figure("kernel_drops_tree");
    assert!(figure("inside_ticks_lost") == 0.0 || dropped > 0.0, "{report:#}");
    assert_eq!(figure("returned_percent"), 100.0, "{report:#}");
    assert_eq!((figure("never_answered"), figure("refused")), (0.0, 0.0), "{report:#}");
    assert!(figure("late_start_s") < 10.0, "{report:#}");
    for name in ["first_sound_ms_p99", "told_ms_p99"] {
        assert!(figure(name) < 10_000.0, "{name}: {report:#}");
    }
    for name in ["scale", "pace", "verdict", "commit", "cores", "kernel", "seconds"] {
        assert!(!report[name].is_null(), "{name}: {report:#}");
    }
    // The exit code follows the verdict, whose bounds are those of a quiet machine.
    let verdict = if code == Some(0) { "passed" } else { "failed" };
    assert_eq!(report["verdict"], verdict, "{report:#}");
    assert!(code == Some(0) || code == Some(3), "{code:?}");
    assert!(page.matches("<svg").count() >= 6 && page.contains(verdict));
    for step in ["doors", "speech", "kill", "back"] {
        assert!(page.contains(&format!("<td>{step}</td>")), "{step}");
    }
}

#[test]
fn without_a_door_the_verdict_is_that_it_failed() {
    let (code, report, _) = evening("0.0005", "off");
    assert_eq!((code, &report["verdict"]), (Some(3), &"failed".into()), "{report:#}");
    assert!(!report["failures"].as_array().unwrap().is_empty(), "{report:#}");
}
