//! The real program: precedence, mistakes and their exit codes, start and stop.
#![allow(clippy::unwrap_used, reason = "helpers of tests unwrap as tests do")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const RELAY: &str = env!("CARGO_BIN_EXE_stentor-relay");

/// The program with an environment of its own.
fn relay(dir: &Path) -> Command {
    let mut command = Command::new(RELAY);
    command.current_dir(dir).env_clear().stdin(Stdio::null());
    command
}

fn check(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = command.arg("check-config").output().unwrap();
    let text = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    (status.code(), text)
}

fn dir_with(file: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("relay.toml"), file).unwrap();
    dir
}

const GOOD: &str = "origin = \"o.example:4433\"\nregion = \"file\"\n[tls]\ndev = \"dev\"\n";

#[test]
fn flag_over_environment_over_file_over_default() {
    let dir = dir_with(GOOD);
    let base = || {
        let mut command = relay(dir.path());
        command.args(["--config", "relay.toml"]);
        command
    };
    let (code, text) = check(&mut base());
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("region     file\n"), "{text}");
    assert!(text.contains("capacity   10000 sessions"), "{text}");
    let (_, text) = check(base().env("STENTOR_REGION", "env").env("STENTOR_CAPACITY", "7"));
    assert!(text.contains("region     env\n") && text.contains("capacity   7 sessions"), "{text}");
    let mut command = base();
    command.env("STENTOR_REGION", "env").args(["--region", "flag"]);
    let (_, text) = check(&mut command);
    assert!(text.contains("region     flag\n"), "{text}");

    // Nested keys, addresses that look like lists, names that look like numbers.
    let mut command = base();
    command
        .env("STENTOR_LIMITS__LISTENERS", "500")
        .env("STENTOR_LISTEN", "[::1]:5000")
        .env("STENTOR_CORES", "[3]")
        .env("STENTOR_ID", "12");
    let (code, text) = check(&mut command);
    assert_eq!(code, Some(0), "{text}");
    for part in ["listeners  500 at most", "[::1]:5000", "shards     1\n", "id         12\n"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (_, text) = check(relay(dir.path()).env("STENTOR_CONFIG", "relay.toml"));
    assert!(text.contains("region     file\n"), "{text}");
    assert!(!dir.path().join("dev").exists(), "check-config makes nothing");
}

#[test]
fn unknown_keys_are_refused_wherever_they_are() {
    for (file, key) in [
        ("lisen = \"x\"\n", "lisen"),
        ("[tls]\nkeyy = \"x\"\n", "tls.keyy"),
        ("[nothing]\n", "nothing"),
    ] {
        let dir = dir_with(file);
        let (code, text) = check(relay(dir.path()).args(["--config", "relay.toml"]));
        assert_eq!(code, Some(78), "{text}");
        assert!(text.contains(key) && text.contains("unknown"), "{text}");
        assert!(text.contains("relay.toml"), "{text}");
    }
    let dir = dir_with(GOOD);
    for (variable, key) in [("STENTOR_LISTN", "listn"), ("STENTOR_TLS__KEYY", "tls.keyy")] {
        let mut command = relay(dir.path());
        command.args(["--config", "relay.toml"]).env(variable, "x");
        let (code, text) = check(&mut command);
        assert_eq!(code, Some(78), "{text}");
        assert!(text.contains(key) && text.contains(variable), "{text}");
    }
    // What another program of the project reads is no mistake of this one's environment.
    let mut command = relay(dir.path());
    command.args(["--config", "relay.toml"]).env("STENTOR_ROOMS_ON_FIRST_USE", "true");
    assert_eq!(check(&mut command).0, Some(0));
}

#[test]
fn mistakes_name_key_value_place_and_remedy() {
    let dir = dir_with(GOOD);
    let cases: &[(&str, &str, &[&str])] = &[
        ("STENTOR_LISTEN", "here", &["listen = \"here\"", "is not an address"]),
        ("STENTOR_ADMIN", "9433", &["admin", "STENTOR_ADMIN"]),
        ("STENTOR_ORIGIN", "o.example", &["origin = \"o.example\"", "has no port"]),
        ("STENTOR_CAPACITY", "0", &["capacity = 0", "must be 1 to"]),
        ("STENTOR_CAPACITY", "many", &["capacity = \"many\"", "write"]),
        ("STENTOR_SHARDS", "1000", &["shards = 1000", "must be 1 to 64"]),
        ("STENTOR_CORES", "[1,1]", &["cores", "names core 1 twice"]),
        ("STENTOR_LEVEL", "0", &["level = 0", "must be 1 to"]),
        ("STENTOR_LOG__FORMAT", "xml", &["log.format = \"xml\"", "text or json"]),
        ("STENTOR_LOG__LEVEL", "a=b=c", &["log.level", "is no level"]),
        ("STENTOR_DRAIN_S", "-1", &["drain_s = -1", "write"]),
        ("STENTOR_TOKEN_FILE", "absent", &["token_file", "cannot be read"]),
        ("STENTOR_TLS__CERT", "c.pem", &["tls.dev", "keep one"]),
    ];
    for (variable, value, parts) in cases {
        let mut command = relay(dir.path());
        command.args(["--config", "relay.toml"]).env(variable, value);
        let (code, text) = check(&mut command);
        assert_eq!(code, Some(78), "{variable}: {text}");
        for part in *parts {
            assert!(text.contains(part), "{variable}: {part}: {text}");
        }
    }
    let (code, text) = check(relay(dir.path()).args(["--config", "absent.toml"]));
    assert_eq!(code, Some(78));
    assert!(text.contains("absent.toml"), "{text}");
    let mut command = relay(dir.path());
    command.args(["--config", "relay.toml", "--listen", "here"]);
    let (_, text) = check(&mut command);
    assert!(text.contains("(flag --listen)"), "{text}");
    let dir = dir_with("listen = \n");
    let (code, text) = check(relay(dir.path()).args(["--config", "relay.toml"]));
    assert_eq!(code, Some(78));
    assert!(text.contains("relay.toml") && text.contains("line 1"), "{text}");
}

#[test]
fn production_needs_files_that_are_right() {
    let dir = dir_with("origin = \"o.example:4433\"\n");
    let (code, text) = check(relay(dir.path()).args(["--config", "relay.toml"]));
    assert_eq!(code, Some(78));
    assert!(text.contains("tls.cert") && text.contains("--dev"), "{text}");
    let production = |advertise: &[&str]| {
        let mut command = relay(dir.path());
        command
            .args(["--config", "relay.toml", "--tls-cert", "c.pem", "--tls-key", "k.pem"])
            .args(advertise)
            .env("STENTOR_TOKEN", "a.secret.token");
        check(&mut command)
    };
    let (code, text) = production(&[]);
    assert_eq!(code, Some(78));
    assert!(text.contains("advertise"), "{text}");
    let (code, text) = production(&["--advertise", "r.example:4433"]);
    assert_eq!(code, Some(78));
    assert!(text.contains("c.pem") && text.contains("cannot be read"), "{text}");
    assert!(!text.contains("secret"), "{text}");

    let pair = rcgen::generate_simple_self_signed(vec!["r.example".to_owned()]).unwrap();
    std::fs::write(dir.path().join("c.pem"), pair.cert.pem()).unwrap();
    std::fs::write(dir.path().join("k.pem"), pair.signing_key.serialize_pem()).unwrap();
    let ca = ["--advertise", "r.example:4433", "--tls-ca", "c.pem"];
    let (code, text) = production(&ca);
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains("secret") && text.contains("***"), "{text}");
}

#[test]
fn usage_errors_end_with_2_and_help_with_0() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["--nothing"][..], &["fly"], &["--capacity", "x"]] {
        let output = relay(dir.path()).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
    for args in [&["--help"][..], &["--version"]] {
        let output = relay(dir.path()).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(String::from_utf8(output.stdout).unwrap().contains("stentor-relay"));
    }
}

/// Ends the process whatever the test does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads JSON log lines until one has `field`; returns its value.
fn logged(lines: &mut impl Iterator<Item = String>, field: &str) -> serde_json::Value {
    lines
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(&line).expect("one JSON object a line")
        })
        .find_map(|line| line.get(field).cloned())
        .expect("the field is logged")
}

#[test]
fn runs_until_sigterm_and_answers_the_operator() {
    let dir = dir_with(GOOD);
    let mut command = relay(dir.path());
    command.args(["--config", "relay.toml", "--log-format", "json"]);
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let mut running = Running(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(running.0.stderr.take().unwrap()).lines().map_while(Result::ok);
    let ca = logged(&mut lines, "ca");
    assert!(dir.path().join(ca.as_str().unwrap()).exists());
    let address = logged(&mut lines, "address");
    // A page of another name that was made to lead here is turned away.
    for (host, status) in [("localhost", 503), ("a.example", 421)] {
        let mut stream = TcpStream::connect(address.as_str().unwrap()).unwrap();
        write!(stream, "GET /readyz HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }

    // A second process on the same admin address fails at run time.
    let mut second = relay(dir.path());
    second.args(["--config", "relay.toml", "--listen", "127.0.0.1:0"]);
    let output = second.args(["--admin", address.as_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));

    let id = running.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
    assert_eq!(logged(&mut lines, "signal"), "SIGTERM");
}
