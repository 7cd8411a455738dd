//! A stranger's client, written from `docs/PROTOCOL.md` alone, hears at the third level.
#![allow(clippy::unwrap_used, reason = "helpers of tests unwrap as tests do")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use stentor_tests::{Process, Tree, assert_heard, json, sound};

/// Seconds of listening.
const LISTENED: usize = 6;

/// A Python that has the client's packages: `TESTS_PYTHON`, or the environment that `./test`
/// makes beside the programs.
fn python() -> PathBuf {
    if let Some(python) = std::env::var_os("TESTS_PYTHON") {
        return python.into();
    }
    let own = std::env::current_exe().unwrap();
    let venv = own.ancestors().nth(3).unwrap().join("venv/bin/python");
    assert!(
        venv.is_file(),
        "set TESTS_PYTHON to a Python with the packages of tests/third_party/requirements.txt, \
         or let ./test make one"
    );
    venv
}

#[test]
fn a_stranger_hears_at_the_third_level() {
    let python = python();
    let tree = Tree::start(3);
    let (input, path) = tree.speech(LISTENED + 8);
    let mut speak = tree.stentor("speak");
    speak.args([tree.origin.to_string().as_str(), "hall", "--json"]).arg(&path);
    let speaker = Process::start(&mut speak);
    std::thread::sleep(Duration::from_secs(2));
    let mut token = tree.stentor("token");
    token.args(["--room", "hall", "--role", "listener", "--identity", "stranger"]);
    let token = Process::start(&mut token).output();
    assert!(token.status.success(), "{}", String::from_utf8_lossy(&token.stderr));
    let token = String::from_utf8(token.stdout).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("third_party/listener.py");
    let file = tree.dir.path().join("stranger.opus");
    let deepest = tree.relays[2];
    let mut listen = Command::new(&python);
    listen
        .arg(&script)
        .args([deepest.ip().to_string(), deepest.port().to_string(), "hall".into()])
        .arg(LISTENED.to_string())
        .arg(&file)
        .arg("--ca")
        .arg(tree.dev().join("ca.pem"))
        .args(["--token", token.trim()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let report = json(&Process::start(&mut listen).output());
    assert_eq!(report["missing"], 0, "{report:#}");
    assert!(report["ticks"].as_u64().unwrap() > 40 * LISTENED as u64, "{report:#}");
    assert!(report["frames"].as_u64().unwrap() > 0, "{report:#}");
    assert_heard("stranger", &input, &sound(&file), LISTENED - 1);
    drop(speaker);
}
