//! The operator's way: nodes by their flags three levels deep, one speaks, others listen.
#![allow(clippy::unwrap_used, reason = "helpers of tests unwrap as tests do")]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use stentor_tests::{Process, Tree, assert_heard, json, sound};

/// Seconds of speech.
const SPOKEN: usize = 12;
/// Seconds of listening, which begin and end within the speech.
const LISTENED: usize = 6;

#[test]
fn what_is_spoken_at_the_origin_is_heard_at_the_third_level_in_every_format() {
    let tree = Tree::start(3);
    let (input, path) = tree.speech(SPOKEN);
    let origin = tree.origin.to_string();
    let mut speak = tree.stentor("speak");
    speak.args([origin.as_str(), "hall", "--json", "--name", "Ann"]).arg(&path);
    let speaker = Process::start(&mut speak);
    std::thread::sleep(Duration::from_secs(2));
    let deepest = tree.relays[2].to_string();
    let listen = |more: &[&str]| {
        let mut listen = tree.stentor("listen");
        listen.args([&deepest, "hall", "--seconds", &LISTENED.to_string()]).args(more);
        Process::start(&mut listen)
    };
    let ogg = listen(&["--format", "ogg", "--output", "heard.opus", "--json"]);
    let raw = listen(&["--output", "heard.raw"]);
    // Into a pipe, which is read as a player would.
    let wav = listen(&["--format", "wav"]);
    let wav = std::thread::spawn(|| wav.output());
    let report = json(&ogg.output());
    assert_eq!((&report["ticks_lost"], &report["frames_malformed"]), (&0.into(), &0.into()));
    assert!(report["ticks"].as_u64().unwrap() > 250, "{report:#}");
    let file = |name: &str| tree.dir.path().join(name);
    assert_heard("ogg", &input, &sound(&file("heard.opus")), LISTENED);
    let raw = raw.output();
    assert!(raw.status.success() && raw.stdout.is_empty(), "{raw:?}");
    assert_heard("raw", &input, &sound(&file("heard.raw")), LISTENED);
    let wav = wav.join().unwrap();
    assert!(wav.status.success(), "{}", String::from_utf8_lossy(&wav.stderr));
    std::fs::write(file("heard.wav"), &wav.stdout).unwrap();
    assert_heard("wav", &input, &sound(&file("heard.wav")), LISTENED);
    let report = json(&speaker.output());
    assert_eq!(report["spoken_s"], SPOKEN as f64, "{report:#}");
}

#[test]
fn what_goes_wrong_is_said_with_its_exit_code() {
    let tree = Tree::start(1);
    let relay = tree.relays[0].to_string();
    let run = |command: &str, args: &[&str]| {
        let output = tree.stentor(command).args(args).stdin(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    // A relay takes no speakers.
    let (code, said) = run("speak", &[&relay, "hall"]);
    assert_eq!(code, Some(1), "{said}");
    std::fs::write(tree.dir.path().join("bad.wav"), "RIFF????WAVEnothing").unwrap();
    let (code, said) = run("speak", &[&tree.origin.to_string(), "hall", "bad.wav"]);
    assert!(code == Some(1) && said.contains("bad.wav"), "{said}");
    let (code, said) = run("listen", &[&relay, "hall", "--token-file", "absent"]);
    assert!(code == Some(78) && said.contains("absent"), "{said}");
    let (code, said) = run("listen", &[&relay, "hall", "--output", "/no/such/folder/x.wav"]);
    assert!(code == Some(1) && said.contains("/no/such/folder/x.wav"), "{said}");
    let (code, said) = run("listen", &[&relay, "hall", "--json", "--output", "-"]);
    assert!(code == Some(2) && said.contains("--output"), "{said}");
    let (code, _) = run("listen", &[]);
    assert_eq!(code, Some(2));
}

#[test]
fn a_full_disk_ends_the_listener_alone() {
    if !Path::new("/dev/full").exists() {
        return;
    }
    let tree = Tree::start(1);
    let (_, path) = tree.speech(SPOKEN);
    let mut speak = tree.stentor("speak");
    speak.args([tree.origin.to_string().as_str(), "hall", "--json"]).arg(&path);
    let speaker = Process::start(&mut speak);
    std::thread::sleep(Duration::from_secs(1));
    let relay = tree.relays[0].to_string();
    let mut other = tree.stentor("listen");
    let other = Process::start(other.args([&relay, "hall", "--seconds", "3", "--json"]));
    let mut full = tree.stentor("listen");
    let full = full.args([&relay, "hall", "--format", "raw", "--output", "/dev/full"]);
    let full = Process::start(full).output();
    let said = String::from_utf8_lossy(&full.stderr);
    assert_eq!(full.status.code(), Some(1), "{said}");
    assert!(said.contains("/dev/full: the disk is full"), "{said}");
    assert_eq!(json(&other.output())["ticks_lost"], 0);
    drop(speaker);
}
