//! `docs/AUTHORITY.md` on sessions of real processes: what each role may do at the origin and at a relay,
//! who is cut when a host decides so, and what a token is good for.
//!
//! Times are asserted at ten times the figure, and printed.
#![allow(clippy::unwrap_used, reason = "helpers of tests unwrap as tests do")]
#![allow(clippy::print_stdout, reason = "figures that were seen are shown with the test")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use stentor_lab::bed::{Bed, RelayPlan};
use stentor_origin::mint::{Request, mint};
use stentor_proto::authority::{Action, Actor, allows};
use stentor_proto::limits;
use stentor_proto::token::ANY_ROOM;
use stentor_proto::wire::{
    ClientMessage, Datagram, Framing, Report, Role, ServerMessage, SpeechFrame, frames,
    speech_bytes,
};
use stentor_tests::peer::{Peer, hello};

const HALL: &str = "hall";
const CLOSED: &str = "closed";
const ROOMS: &str = "http_writes_per_s = 1000\n[[rooms]]\nname = \"hall\"\npublic = true\n\
    [[rooms]]\nname = \"closed\"\n";
/// A decision is in force everywhere within a second.
const DECISION: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3_600);
/// What a session that says something forbidden is given to be closed in, and another to stay open.
const STAYS: Duration = Duration::from_millis(300);

/// An origin, a relay, and a relay below it.
struct Scene {
    bed: Bed,
}

impl Scene {
    fn start(what: &str) -> Self {
        let mut bed = Bed::start(what, ROOMS, None).unwrap();
        for level in [1, 2] {
            bed.add_relay(&RelayPlan::new(&format!("relay-{level}"), level)).unwrap();
            bed.wait_ready().unwrap();
        }
        Self { bed }
    }

    /// The origin first, the deepest relay last.
    fn nodes(&self) -> Vec<(&str, SocketAddr)> {
        let nodes = std::iter::once(&self.bed.origin).chain(&self.bed.relays);
        nodes.map(|node| (node.name.as_str(), node.address)).collect()
    }

    fn token(&self, room: &str, role: Role, identity: &str, ttl: Duration) -> String {
        let (room, identity) = (room.to_owned(), identity.to_owned());
        let request = Request { room, role, identity, name: None, ttl };
        mint(self.bed.dev().signer(), &request, unix_s()).unwrap()
    }

    /// The actor's token of a room, and the role in it.
    fn held(&self, actor: Actor, room: &str, identity: &str) -> Option<(Role, String)> {
        let role = match actor {
            Actor::Anonymous => return None,
            Actor::Listener => Role::Listener,
            Actor::Speaker => Role::Speaker,
            Actor::CoHost => Role::CoHost,
            Actor::Host | Actor::ApiKey => Role::Host,
        };
        let room = if actor == Actor::ApiKey { ANY_ROOM } else { room };
        Some((role, self.token(room, role, identity, HOUR)))
    }

    /// Opens a session: the peer and its slot, or the name of the close.
    async fn join(
        &self,
        node: SocketAddr,
        room: &str,
        role: Role,
        token: Option<String>,
    ) -> Result<(Peer, Option<u16>), &'static str> {
        let mut peer = Peer::connect(&self.bed.trust(), node).await.unwrap();
        peer.say(&ClientMessage::Hello(hello(room, role, token))).await.unwrap();
        loop {
            match peer.message().await {
                Ok(ServerMessage::Welcome(welcome)) => return Ok((peer, welcome.slot)),
                Ok(_) => {}
                Err(_) => return Err(peer.closed().await.unwrap()),
            }
        }
    }

    /// A call of the API, as the operator: status and answer.
    fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let key = self.token(ANY_ROOM, Role::Host, "operator", HOUR);
        let mut stream = TcpStream::connect(self.bed.origin.address).unwrap();
        let body = body.to_string();
        write!(
            stream,
            "{method} /v1/rooms/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Authorization: Bearer {key}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }

    fn act(&self, order: Value) {
        let (status, answer) = self.call("POST", "hall/actions", &order);
        assert!(status < 300, "{order}: {status} {answer}");
    }
}

/// The close of a session that asks for a role, by the words of the table and of PROTOCOL 3.2; none
/// where it is welcome.
fn refusal(
    origin: bool,
    held: Option<Role>,
    api_key: bool,
    room: &str,
    asked: Role,
) -> Option<&'static str> {
    match held {
        _ if asked.speaks() && !origin => Some("origin_only"),
        Some(_) if api_key && asked == Role::Listener => Some("token_room"),
        Some(held) if held.speaks() && !origin => Some("origin_only"),
        None if asked.speaks() || room == CLOSED => Some("token_missing"),
        Some(held) if held != asked && asked != Role::Listener => Some("token_role"),
        Some(_) if api_key => Some("token_room"),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_does_on_a_session_what_the_table_says() {
    let scene = Scene::start("authority-roles");
    let nodes = scene.nodes();
    let (mut tried, mut welcome) = (0, 0);
    for &(node, address) in [nodes[0], nodes[2]].iter() {
        for actor in Actor::ALL {
            for room in [HALL, CLOSED] {
                for asked in [Role::Listener, Role::Speaker, Role::CoHost, Role::Host] {
                    let cell = format!("{} as {} in {room} at {node}", actor.name(), asked.name());
                    let who = format!("{}-{}-{node}", actor.name().replace(' ', "-"), asked.name());
                    let held = scene.held(actor, room, &who);
                    let (role, token) = held.clone().unzip();
                    let api_key = actor == Actor::ApiKey;
                    let expected = refusal(node == "origin", role, api_key, room, asked);
                    tried += 1;
                    match (scene.join(address, room, asked, token).await, expected) {
                        (Ok((peer, slot)), None) => {
                            welcome += 1;
                            let join = [Action::JoinPublicRoom, Action::JoinRoom];
                            assert!(allows(actor, join[usize::from(room == CLOSED)]), "{cell}");
                            assert_eq!(slot.is_some(), asked.speaks(), "{cell}");
                            peer.connection.close(0_u32.into(), b"");
                            says(&scene, address, room, asked, actor, &who).await;
                        }
                        (Err(said), Some(code)) => assert_eq!(said, code, "{cell}"),
                        (Ok(_), Some(code)) => panic!("{cell} is welcome, wanted {code}"),
                        (Err(error), None) => panic!("{cell}: {error}"),
                    }
                }
            }
        }
    }
    println!("{tried} sessions tried, {welcome} welcome");
    assert_eq!(tried, 96);
}

/// Each message of a session: what the role may say has its effect, anything else closes the session.
async fn says(scene: &Scene, node: SocketAddr, room: &str, asked: Role, actor: Actor, who: &str) {
    let token = |session: &str| {
        let (role, _) = scene.held(actor, room, who)?;
        Some(scene.token(room, role, &format!("{who}-{session}"), HOUR))
    };
    let report =
        Report { ticks: 100, lost: 0, late: 0, concealed_ms: 0, delay_ms: 80, glitches: 0 };
    let words = [
        (Action::RaiseHand, ClientMessage::Hand { raised: true }, asked == Role::Listener),
        (Action::React, ClientMessage::React { kind: "clap".into(), count: 1 }, true),
        (Action::React, ClientMessage::Report(report), true),
        (Action::MuteSelf, ClientMessage::Mute { muted: true }, asked.speaks()),
    ];
    for (n, (action, message, may)) in words.into_iter().enumerate() {
        assert!(!may || allows(actor, action), "{who}: {}", action.name());
        let cell = format!("{who} in {room} says {message:?}");
        let token = token(&n.to_string());
        let (mut peer, slot) = scene.join(node, room, asked, token).await.unwrap();
        peer.say(&message).await.unwrap();
        if !may {
            assert_eq!(peer.closed().await.unwrap(), "protocol", "{cell}");
            continue;
        }
        match (action, slot) {
            (Action::RaiseHand, _) => document(&mut peer, &cell, |room| room.hands > 0).await,
            (Action::MuteSelf, Some(slot)) => {
                let muted =
                    |entry: &stentor_proto::wire::StageEntry| entry.slot == slot && entry.muted;
                document(&mut peer, &cell, |room| room.stage.iter().any(muted)).await;
            }
            _ => {
                let end = tokio::time::timeout(STAYS, peer.connection.closed()).await;
                assert!(end.is_err(), "{cell}: {end:?}");
            }
        }
        peer.connection.close(0_u32.into(), b"");
    }
    speaks(scene, node, room, asked, actor, token("voice")).await;
}

/// Frames in one's own slot are heard at the other end of the tree; those of a listener nowhere.
async fn speaks(
    scene: &Scene,
    node: SocketAddr,
    room: &str,
    asked: Role,
    actor: Actor,
    token: Option<String>,
) {
    let deepest = scene.nodes()[2].1;
    let ear = scene.token(room, Role::Listener, "ear", HOUR);
    let (ear, _) = scene.join(deepest, room, Role::Listener, Some(ear)).await.unwrap();
    let (peer, slot) = scene.join(node, room, asked, token).await.unwrap();
    assert_eq!(slot.is_some(), asked.speaks());
    assert!(slot.is_none() || allows(actor, Action::Speak));
    let until = Instant::now() + slot.map_or(STAYS, |_| DECISION);
    let mut heard = false;
    for seq in 0.. {
        // A listener has no slot; it tries one all the same.
        peer.datagram(speech_bytes(Framing::Quic, slot.unwrap_or(1), [frame(seq)].iter()));
        let next = tokio::time::timeout(Duration::from_millis(20), ear.connection.read_datagram());
        if let Ok(datagram) = next.await
            && let Ok(Datagram::Ticks { records, .. }) = Datagram::parse(datagram.unwrap())
        {
            let all = records.iter().flat_map(|record| frames(&record.payload).unwrap());
            heard =
                heard || all.into_iter().any(|frame| slot.is_none_or(|slot| frame.slot == slot));
        }
        if heard || Instant::now() > until {
            break;
        }
    }
    assert_eq!(heard, slot.is_some(), "{} as {} in {room}", actor.name(), asked.name());
    for peer in [peer, ear] {
        peer.connection.close(0_u32.into(), b"");
    }
    // Whoever has left is not heard in the next test.
    tokio::time::sleep(STAYS).await;
}

/// A frame of 20 ms, loud.
fn frame(seq: u32) -> SpeechFrame {
    // SILK, wide band, 20 ms.
    let mut opus = vec![0x5a; 60];
    opus[0] = 9 << 3;
    SpeechFrame { seq, level: 10, voice: true, opus: opus.into() }
}

/// Waits for a document of the room of which this is true.
async fn document(
    peer: &mut Peer,
    cell: &str,
    mut wanted: impl FnMut(&stentor_proto::wire::RoomState) -> bool,
) {
    let looking = async {
        loop {
            if let ServerMessage::Room(state) = peer.message().await.unwrap()
                && wanted(&state)
            {
                return;
            }
        }
    };
    let found = tokio::time::timeout(DECISION, looking).await;
    assert!(found.is_ok(), "{cell}: without effect");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_put_out_is_cut_everywhere_and_stays_out() {
    let scene = Scene::start("authority-cut");
    for (order, code) in [("remove", "removed"), ("ban", "banned")] {
        let who = format!("mal-{order}");
        let listener = scene.token(HALL, Role::Listener, &who, HOUR);
        let speaker = scene.token(HALL, Role::Speaker, &who, HOUR);
        let [origin, first, second] = scene.nodes()[..] else { panic!("three nodes") };
        let seats = [
            (origin, Role::Speaker, &speaker),
            (origin, Role::Listener, &listener),
            (first, Role::Listener, &listener),
            (second, Role::Listener, &listener),
        ];
        let mut sessions = Vec::new();
        for ((name, node), role, token) in seats {
            let joined = scene.join(node, HALL, role, Some(token.clone())).await;
            sessions.push((name, joined.unwrap().0));
        }
        let bystander = scene.join(second.1, HALL, Role::Listener, None).await.unwrap().0;
        let asked = Instant::now();
        scene.act(json!({"action": order, "identity": who}));
        for (node, peer) in &sessions {
            assert_eq!(peer.closed().await.unwrap(), code, "{order} at {node}");
            println!("{order}: cut at {node} within {} ms", asked.elapsed().as_millis());
        }
        assert!(asked.elapsed() < DECISION, "{:?}", asked.elapsed());
        for ((name, node), role, token) in seats {
            let again = scene.join(node, HALL, role, Some(token.clone())).await;
            assert_eq!(again.map(|_| ()), Err(code), "{order} at {name}");
        }
        let other = tokio::time::timeout(STAYS, bystander.connection.closed()).await;
        assert!(other.is_err(), "another person: {other:?}");
        // A token's time has whole seconds: the next one is minted later.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let fresh = scene.token(HALL, Role::Listener, &who, HOUR);
        let back = scene.join(second.1, HALL, Role::Listener, Some(fresh)).await;
        assert_eq!(
            back.is_ok(),
            order == "remove",
            "a removal ends with the next token: {:?}",
            back.err()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_good_for_its_time_and_its_room() {
    let scene = Scene::start("authority-token");
    let [origin, _, second] = scene.nodes()[..] else { panic!("three nodes") };
    let ttl = Duration::from_secs(3);
    // Clocks of nodes may differ by the leeway.
    let ends = unix_s() + ttl.as_secs() + limits::TOKEN_LEEWAY_S;
    let short = |role: Role| scene.token(CLOSED, role, role.name(), ttl);
    let (listener, speaker) = (short(Role::Listener), short(Role::Speaker));
    let seats = [(second, Role::Listener, listener), (origin, Role::Speaker, speaker)];
    let mut sessions = Vec::new();
    for ((name, node), role, token) in &seats {
        let joined = scene.join(*node, CLOSED, *role, Some(token.clone())).await;
        sessions.push((*name, joined.unwrap().0));
    }
    for (node, peer) in &sessions {
        assert_eq!(peer.closed().await.unwrap(), "token_expired", "at {node}");
        let late = SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_secs(ends));
        let late = late.expect("not before the token's end");
        println!("expiry: closed at {node} {} ms after the token's end", late.as_millis());
        assert!(late < DECISION, "{late:?}");
    }
    for ((name, node), role, token) in &seats {
        let again = scene.join(*node, CLOSED, *role, Some(token.clone())).await;
        assert_eq!(again.map(|_| ()), Err("token_expired"), "at {name}");
    }
    // A token of one room opens no other, whatever the role.
    for (name, node) in scene.nodes() {
        for role in [Role::Listener, Role::Speaker, Role::Host] {
            let other = scene.token(HALL, role, "eve", HOUR);
            let refused = scene.join(node, CLOSED, role, Some(other)).await.map(|_| ());
            let elsewhere = role.speaks() && name != "origin";
            let code = if elsewhere { "origin_only" } else { "token_room" };
            assert_eq!(refused, Err(code), "{} at {name}", role.name());
        }
    }
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
