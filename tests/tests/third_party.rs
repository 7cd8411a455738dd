//! A stranger's client, written from `docs/PROTOCOL.md` alone, hears at the third level, over raw QUIC
//! and over WebTransport.
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

/// The token of a listener of the hall.
fn token(tree: &Tree) -> String {
    let mut token = tree.stentor("token");
    token.args(["--room", "hall", "--role", "listener", "--identity", "stranger"]);
    let token = Process::start(&mut token).output();
    assert!(token.status.success(), "{}", String::from_utf8_lossy(&token.stderr));
    String::from_utf8(token.stdout).unwrap().trim().to_owned()
}

/// Starts a script at the last relay.
fn start(tree: &Tree, script: &str, file: &Path, token: &str) -> Process {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("third_party").join(script);
    let deepest = tree.relays.last().unwrap();
    let mut listen = Command::new(python());
    listen
        .arg(script)
        .args([deepest.ip().to_string(), deepest.port().to_string(), "hall".into()])
        .arg(LISTENED.to_string())
        .arg(file)
        .arg("--ca")
        .arg(tree.dev().join("ca.pem"))
        .args(["--token", token])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Process::start(&mut listen)
}

#[test]
fn strangers_hear_at_the_third_level() {
    let tree = Tree::start(3);
    let (input, path) = tree.speech(LISTENED + 8);
    let mut speak = tree.stentor("speak");
    speak.args([tree.origin.to_string().as_str(), "hall", "--json"]).arg(&path);
    let speaker = Process::start(&mut speak);
    std::thread::sleep(Duration::from_secs(2));
    let token = token(&tree);
    let scripts = ["listener.py", "webtransport.py"];
    let listeners = scripts.map(|script| {
        let file = tree.dir.path().join(script).with_extension("opus");
        (script, start(&tree, script, &file, &token), file)
    });
    for (script, listener, file) in listeners {
        let report = json(&listener.output());
        assert_eq!(report["missing"], 0, "{script}: {report:#}");
        assert!(report["ticks"].as_u64().unwrap() > 40 * LISTENED as u64, "{script}: {report:#}");
        assert!(report["frames"].as_u64().unwrap() > 0, "{script}: {report:#}");
        assert_heard(script, &input, &sound(&file), LISTENED - 1);
    }
    drop(speaker);
}

#[test]
fn a_stranger_over_webtransport_is_told_why_it_is_refused() {
    let tree = Tree::start(1);
    let output =
        start(&tree, "webtransport.py", &tree.dir.path().join("none.opus"), "no.real.token");
    let output = output.output();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("closed with 0x21: "), "{said}");
}
