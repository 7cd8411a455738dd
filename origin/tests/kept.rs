//! The real program, killed at any moment: a ban that was answered is there again.
#![allow(clippy::unwrap_used, reason = "helpers of tests unwrap as tests do")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stentor_origin::mint::{Request, mint};
use stentor_proto::wire::Role;
use stentor_relay::tls::DevDir;

const ORIGIN: &str = env!("CARGO_BIN_EXE_stentor-origin");
/// Times that the program is killed.
const ROUNDS: u32 = 10;
/// When the room is to begin (seconds since 1970): 2100.
const LATER: u64 = 4_102_444_800;

struct Origin(Child, SocketAddr);

impl Origin {
    fn start(dir: &Path) -> Self {
        // A port that is free at this moment, for UDP and TCP.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new(ORIGIN)
            .args(["--dev=d", "--admin", "off", "--listen", &address.to_string()])
            .current_dir(dir)
            .env_clear()
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let origin = Self(child, address);
        let until = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < until, "the origin does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        origin
    }

    /// One call; status and body. None when the connection broke.
    fn call(&self, method: &str, path: &str, token: &str, body: &Value) -> Option<(u16, Value)> {
        let mut stream = TcpStream::connect(self.1).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        let body = body.to_string();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             authorization: Bearer {token}\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
        .ok()?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let status = line.split(' ').nth(1)?.parse().ok()?;
        let mut rest = String::new();
        reader.read_to_string(&mut rest).ok()?;
        let body = rest.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Some((status, serde_json::from_str(body).unwrap_or_default()))
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An API key that the development directory signs.
fn api_key(dir: &Path) -> String {
    let dev = DevDir::open(&dir.join("d")).unwrap();
    let request = Request {
        room: "*".to_owned(),
        role: Role::Host,
        identity: "operator".to_owned(),
        name: None,
        ttl: Duration::from_secs(3_600),
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    mint(dev.signer(), &request, now.as_secs()).unwrap()
}

#[test]
fn a_ban_that_was_answered_survives_a_kill_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    let key = api_key(dir.path());
    let mut answered: Vec<String> = Vec::new();
    for round in 0..ROUNDS {
        let origin = Origin::start(dir.path());
        if round == 0 {
            let room = json!({"name": "hall", "title": "Hall", "public": true, "starts_at": LATER});
            assert_eq!(origin.call("POST", "/v1/rooms", &key, &room).unwrap().0, 201);
        }
        let people = origin.call("GET", "/v1/rooms/hall/participants", &key, &Value::Null);
        let (status, people) = people.unwrap();
        assert_eq!(status, 200, "the room itself is there again: {people}");
        let room = &people["room"];
        assert_eq!(
            (&room["state"], &room["starts_at"], &room["public"], &room["title"]),
            (&json!("scheduled"), &json!(LATER), &json!(true), &json!("Hall"))
        );
        let banned: Vec<&str> = people["bans"]
            .as_array()
            .unwrap()
            .iter()
            .map(|ban| ban["identity"].as_str().unwrap())
            .collect();
        for who in &answered {
            assert!(banned.contains(&who.as_str()), "{who} was lost in round {round}: {banned:?}");
        }
        // Killed while bans are under way, each time a little later.
        let end = Instant::now() + Duration::from_millis(30 + 17 * u64::from(round));
        let pid = origin.0.id();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(end.saturating_duration_since(Instant::now()));
            let killed = Command::new("kill").args(["-9", &pid.to_string()]).status();
            assert!(killed.unwrap().success());
        });
        for n in 0.. {
            let who = format!("p-{round}-{n}");
            let order = json!({"action": "ban", "identity": who});
            match origin.call("POST", "/v1/rooms/hall/actions", &key, &order) {
                Some((200, _)) => answered.push(who),
                Some((429, _)) => std::thread::sleep(Duration::from_millis(20)),
                Some((status, body)) => panic!("{status} {body}"),
                None => break,
            }
        }
        killer.join().unwrap();
    }
    assert!(answered.len() as u32 >= ROUNDS, "only {} bans were answered", answered.len());
}

#[test]
fn a_running_store_can_be_copied() {
    let dir = tempfile::tempdir().unwrap();
    let key = api_key(dir.path());
    let origin = Origin::start(dir.path());
    let room = json!({"name": "hall", "title": "Hall", "public": true});
    assert_eq!(origin.call("POST", "/v1/rooms", &key, &room).unwrap().0, 201);
    let backup = |args: &[&str]| {
        let output = Command::new(ORIGIN).args(args).current_dir(dir.path()).env_clear().output();
        let output = output.unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    // While it is written to: what was answered before is in the copy.
    let ban = |n: u32| {
        let order = json!({"action": "ban", "identity": format!("p-{n}")});
        origin.call("POST", "/v1/rooms/hall/actions", &key, &order).unwrap().0
    };
    let before = (0..8).filter(|&n| ban(n) == 200).count();
    assert!(before > 0);
    let done = std::sync::atomic::AtomicBool::new(false);
    let (during, (code, text)) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let going = |_: &u32| !done.load(std::sync::atomic::Ordering::Relaxed);
            (100..).take_while(going).filter(|&n| ban(n) == 200).count()
        });
        let copied = backup(&["--dev=d", "backup", "copy.db"]);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        (writer.join().unwrap(), copied)
    });
    assert_eq!(code, Some(0), "{text}");
    let kept = stentor_origin::store::Store::open(&dir.path().join("copy.db"), 0).unwrap().1;
    assert_eq!(kept.rooms[0].settings.name, "hall");
    assert!((before..=before + during).contains(&kept.revoked.len()), "{}", kept.revoked.len());
    let (code, text) = backup(&["--dev=none", "backup", "copy.db"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("none/store.db"), "{text}");
}
