//! The walk through the HTTP API in `docs/API.md`: its commands are run as they stand there, in the
//! folder of an origin in development mode.
#![allow(clippy::unwrap_used, reason = "helpers of tests unwrap as tests do")]

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;
use stentor_tests::{Process, Tree, command, program};

const PAGE: &str = include_str!("../../docs/API.md");
/// An answer that is no success ends the walk.
const STRICT: &str =
    "set -eu\ncurl() { command curl --silent --show-error --fail-with-body \"$@\"; }\n";

#[test]
fn the_walk_of_the_api_page_leads_where_it_says() {
    let tree = Tree::start(0);
    // The folder of an origin that was started with a bare `--dev`.
    std::os::unix::fs::symlink(tree.dev(), tree.dir.path().join("stentor-dev")).unwrap();
    let walk = PAGE.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let asked = walk.matches("curl ").count();
    let origin = format!("localhost:{}", tree.origin.port());
    assert!(walk.contains("localhost:4433"), "the page's own port");
    let script = format!("{STRICT}{}", walk.replace("localhost:4433", &origin));
    let mut shell = Command::new("sh");
    let programs = program("stentor").parent().unwrap().display().to_string();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap());
    shell.args(["-c", &script]).env("PATH", path).current_dir(tree.dir.path());
    let mut child = shell.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let walking = Process::from(child);

    // Answers stand one behind the other; the last call is the stream of events, until the room ends.
    let mut said = String::new();
    for line in lines.by_ref() {
        said += &line;
        if line.contains("event: ") {
            break;
        }
    }
    let (answers, event) = said.rsplit_once("event:").unwrap_or_else(|| panic!("{said}"));
    assert_eq!(event.trim(), "room", "the first event");
    let answers: Vec<Value> = serde_json::Deserializer::from_str(answers)
        .into_iter()
        .map(|answer| answer.unwrap_or_else(|error| panic!("{error}: {said}")))
        .collect();
    let [made, joined, .., participants] = &answers[..] else { panic!("{said}") };
    assert!(made["host_token"].is_string() && made["links"]["page"].is_string(), "{made}");
    assert!(joined["token"].is_string() && joined["relays"].is_array(), "{joined}");
    let bo = &joined["identity"];
    assert!(bo.as_str().unwrap().starts_with("guest-"), "{joined}");
    assert_eq!(&participants["invitations"][0]["identity"], bo, "Bo is invited: {participants}");
    assert!(asked >= 5, "{asked} calls");

    let mut end = command("stentor");
    end.args(["room", "end", "--dev", "--api", &origin, "hall"]).current_dir(tree.dir.path());
    let ended = Process::start(&mut end).output();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let rest: Vec<String> = lines.collect();
    assert!(rest.iter().any(|line| line == "event: ended"), "{rest:#?}");
    assert!(walking.output().status.success(), "the walk ends well");
}
