//! The demo, as `./run demo` starts it.
#![allow(clippy::unwrap_used, reason = "helpers of tests unwrap as tests do")]

use std::process::Stdio;

use stentor_tests::{Process, command, json};

#[test]
fn everyone_hears_at_the_third_level_and_the_control_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let events = dir.path().join("events.jsonl");
    // Of 13 s a speaker has 20 windows or more: one that the machine spoils is not a failure.
    let mut demo = command("stentor");
    demo.args(["demo", "--seconds", "13", "--listeners", "6", "--speakers", "2", "--levels", "3"])
        .args(["--json", "--events"])
        .arg(&events)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = Process::start(&mut demo).output();
    let report = json(&output);
    let told = String::from_utf8_lossy(&output.stderr);
    for (field, wanted) in [("listeners", 6), ("listeners_hearing", 6), ("decoded", 6)] {
        assert_eq!(report[field], wanted, "{field}: {report:#} {told}");
    }
    assert_eq!((&report["levels"], &report["ticks_lost"]), (&3.into(), &0.into()), "{report:#}");
    assert_eq!(report["control_passed"], false);
    assert!(report["ticks_sent"].as_u64().unwrap() >= 600, "{report:#}");
    for field in ["join_ms", "one_way_ms", "per_hop_ms"] {
        let figure = |end: &str| report[format!("{field}_{end}")].as_f64().unwrap();
        let (p50, p99) = (figure("p50"), figure("p99"));
        assert!(p50 > 0.0 && p50 <= p99 && p99 < 2_000.0, "{field}: {report:#}");
    }
    for field in ["collect_ms_p50", "commit", "cores", "kernel", "seconds"] {
        assert!(!report[field].is_null(), "{field}: {report:#}");
    }
    let events = std::fs::read_to_string(events).unwrap();
    let listeners = events.lines().filter(|line| line.contains("\"event\":\"listener\"")).count();
    assert_eq!(listeners, 6);
}

#[test]
fn a_demo_that_cannot_be_is_refused_before_anything_starts() {
    for args in [&["--levels", "0"][..], &["--speakers", "9"], &["--seconds", "0.5"]] {
        let output = command("stentor").arg("demo").args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
    let mut demo = command("stentor");
    demo.args(["demo", "--json", "--input", "no-such-file.wav"]);
    let output = demo.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no-such-file.wav"));
    assert!(output.stdout.is_empty());
}
