use std::time::Duration;

use super::*;
use crate::wire::{
    Beacon, FEATURES, Role, TickFlags, TickKey, VERSION, beacon_bytes, record_bytes, ticks_bytes,
};

/// A listener of the room 7 that joins at `entry` and is told of the alternates `a` and `b`.
struct Scene {
    listen: Listen,
    now: Time,
    got: Vec<u32>,
}

fn hello() -> Hello {
    Hello {
        version: VERSION,
        features: FEATURES.map(str::to_owned).to_vec(),
        role: Role::Listener,
        room: "hall".into(),
        token: None,
        name: None,
        agent: None,
        playout_ms: None,
        last: None,
        pass: None,
        ticket: None,
        client_key: None,
        relay: None,
    }
}

fn room() -> Subscribed {
    Subscribed {
        name: "hall".into(),
        id: 7,
        title: String::new(),
        public: true,
        epoch: 1,
        newest: 0,
        tick_ms: 20,
        redundancy: 2,
    }
}

fn welcome(alternates: &[&str]) -> ServerMessage {
    let named = |a: &&str| Alternate {
        relay: (*a).to_owned(),
        address: (*a).to_owned(),
        certificate_hashes: Vec::new(),
    };
    ServerMessage::Welcome(Welcome {
        version: VERSION,
        features: FEATURES.map(str::to_owned).to_vec(),
        agent: String::new(),
        identity: "ann".into(),
        role: Role::Listener,
        room: Some(room()),
        slot: None,
        frame_bytes: None,
        repair_ms: None,
        alternates: alternates.iter().map(named).collect(),
        pass: Some(Secret("pass".into())),
        keys: Vec::new(),
    })
}

impl Scene {
    fn outside() -> Self {
        let settings = ListenSettings {
            hello: hello(),
            entries: vec!["entry".into()],
            framing: Framing::Quic,
            repair: true,
            seed: 2,
        };
        let listen = Listen::new(settings, Time::ZERO);
        Self { listen, now: Time::ZERO, got: Vec::new() }
    }

    /// On the relay `entry`, with ticks up to number 10, one each 20 ms.
    fn inside() -> Self {
        let mut scene = Self::outside();
        assert_eq!(scene.connects(), [(HomeId(0), "entry".to_owned())]);
        scene.say(0, welcome(&["a", "b"]));
        scene.ticks(0, 1, 10);
        assert_eq!(scene.actions(), []);
        scene
    }

    fn say(&mut self, home: u32, message: ServerMessage) {
        self.listen.handle_message(self.now, HomeId(home), message);
    }

    fn tick(&mut self, home: u32, number: u32, replay: bool) {
        let record = record_bytes(number, 0, 20, TickFlags::default(), &[0]);
        let bytes = ticks_bytes(Framing::Quic, 7, 1, replay, 0, &[record]);
        let got = &mut self.got;
        self.listen.datagram(self.now, HomeId(home), bytes, |record, _| got.push(record.number));
    }

    fn ticks(&mut self, home: u32, from: u32, to: u32) {
        for number in from..=to {
            self.pass(20);
            self.tick(home, number, false);
        }
    }

    fn beacon(&mut self, home: u32, number: u32, upstream_silent_ms: u32) {
        let newest = TickKey { room: 7, epoch: 1, number };
        let beacon = Beacon { newest, pending: 0, upstream_silent_ms };
        let bytes = beacon_bytes(Framing::Quic, &beacon);
        self.listen.datagram(self.now, HomeId(home), bytes, |_, _| panic!("a beacon is no tick"));
    }

    /// Lets time pass, with every timeout on the way.
    fn pass(&mut self, millis: u64) {
        let until = self.now + Duration::from_millis(millis);
        let mut again = 0;
        while let Some(at) = self.listen.poll_timeout().filter(|&at| at <= until) {
            again = if at > self.now { 0 } else { again + 1 };
            assert!(again < 10, "the same instant again and again");
            self.now = self.now.max(at);
            self.listen.handle_timeout(self.now);
        }
        self.now = until;
    }

    fn actions(&mut self) -> Vec<ListenAction> {
        std::iter::from_fn(|| self.listen.poll_action()).collect()
    }

    fn connects(&mut self) -> Vec<(HomeId, String)> {
        let connect = |action| match action {
            ListenAction::Connect { home, address, .. } => Some((home, address)),
            _ => None,
        };
        self.actions().into_iter().filter_map(connect).collect()
    }
}

#[test]
fn a_dead_relay_is_left_for_an_alternate_and_nothing_is_lost() {
    let mut scene = Scene::inside();
    scene.pass(99);
    let probes = scene.actions();
    let probe = ListenAction::SendDatagram { home: HomeId(0), bytes: probe_bytes(Framing::Quic) };
    assert_eq!(probes, [probe], "asked for a sign of life before it is left");
    scene.pass(1 + 40);
    let connect = scene.actions().into_iter().find_map(|action| match action {
        ListenAction::Connect { home, address, hello } => Some((home, address, hello)),
        _ => None,
    });
    let (home, address, hello) = connect.expect("it looks for another relay");
    assert_eq!((home, address.as_str()), (HomeId(1), "a"));
    assert_eq!((hello.last, hello.pass), (Some((1, 10)), Some(Secret("pass".into()))));
    scene.say(1, welcome(&["b", "c"]));
    assert_eq!(scene.listen.current(), Some(HomeId(0)), "it has played nothing yet");
    for number in 11..=20 {
        scene.tick(1, number, true);
    }
    scene.pass(20);
    assert_eq!(scene.listen.current(), Some(HomeId(1)), "the former one is silent");
    let actions = scene.actions();
    let moved = ListenAction::Moved { address: "a".into(), cause: MoveCause::Silent };
    assert!(actions.contains(&ListenAction::Leave { home: HomeId(0) }) && actions.contains(&moved));
    scene.ticks(1, 21, 30);
    assert_eq!(scene.got, (1..=30).collect::<Vec<_>>());
    assert_eq!(scene.listen.reception().window.lost, 0);
    assert_eq!(scene.listen.stats().moved_silent, 1);
}

#[test]
fn a_starved_relay_that_answers_is_not_left() {
    let mut scene = Scene::inside();
    for n in 0..100 {
        scene.pass(40);
        scene.beacon(0, 10, 100 + n * 40);
    }
    assert_eq!(scene.actions(), []);
    assert_eq!(scene.listen.stats().moved_silent, 0);
}

#[test]
fn a_relay_that_is_heard_again_in_time_is_kept() {
    let mut scene = Scene::inside();
    scene.pass(100 + 40);
    assert_eq!(scene.connects(), [(HomeId(1), "a".to_owned())]);
    scene.tick(0, 11, false);
    assert!(scene.actions().contains(&ListenAction::Leave { home: HomeId(1) }));
    assert_eq!((scene.listen.current(), scene.listen.stats().resumed), (Some(HomeId(0)), 1));
    // A welcome that was on its way finds nobody.
    scene.say(1, welcome(&[]));
    assert_eq!(scene.actions(), []);
}

#[test]
fn ticks_come_from_a_new_relay_before_the_former_one_counts_as_silent() {
    let mut scene = Scene::inside();
    while scene.connects().is_empty() {
        scene.pass(1);
    }
    scene.say(1, welcome(&["b"]));
    scene.tick(1, 11, true);
    let in_time = scene.now < Time::from_millis(10 * 20 + 150);
    assert!(in_time && scene.got.last() == Some(&11), "{:?}", scene.now);
    assert_eq!(scene.listen.current(), Some(HomeId(0)), "it may still be heard");
    scene.tick(0, 11, false);
    let left = ListenAction::Leave { home: HomeId(1) };
    assert!(scene.actions().contains(&left), "it was");
    while scene.connects().is_empty() {
        scene.pass(1);
    }
    scene.say(2, welcome(&["b"]));
    scene.tick(2, 12, true);
    scene.pass(100);
    assert_eq!(scene.listen.current(), Some(HomeId(2)), "nothing came in time");
    assert_eq!(scene.got, (1..=12).collect::<Vec<_>>());
}

#[test]
fn a_relay_that_asks_is_left_only_when_the_new_one_plays() {
    let mut scene = Scene::inside();
    scene.say(0, ServerMessage::Move { alternates: Vec::new(), reason: String::new() });
    // The list that came with the request is in force: nobody to go to but the entry, which is
    // the relay itself.
    assert_eq!(scene.connects(), []);
    let alternates =
        vec![Alternate { relay: "a".into(), address: "a".into(), certificate_hashes: Vec::new() }];
    scene.say(0, ServerMessage::Move { alternates, reason: String::new() });
    scene.ticks(0, 11, 40);
    assert_eq!(scene.connects(), [(HomeId(1), "a".to_owned())]);
    scene.say(1, welcome(&["b"]));
    scene.tick(1, 20, true);
    assert_eq!(scene.listen.current(), Some(HomeId(0)), "the new relay is far behind");
    scene.ticks(0, 41, 42);
    scene.tick(1, 42, false);
    assert_eq!(scene.listen.current(), Some(HomeId(1)));
    assert_eq!(scene.got, (1..=42).collect::<Vec<_>>());
    assert_eq!(scene.listen.stats().moved_asked, 1);
}

#[test]
fn a_starved_alternate_is_waited_for_without_haste() {
    let mut scene = Scene::inside();
    let alternates =
        vec![Alternate { relay: "a".into(), address: "a".into(), certificate_hashes: Vec::new() }];
    scene.say(0, ServerMessage::Move { alternates, reason: String::new() });
    scene.say(1, welcome(&["b"]));
    scene.tick(1, 1, true);
    scene.ticks(0, 11, 200);
    assert_eq!(scene.listen.current(), Some(HomeId(0)), "the new relay is far behind");
}

#[test]
fn a_dead_alternate_is_joined_by_the_next_and_a_refusal_does_not_wait() {
    let mut scene = Scene::inside();
    scene.pass(100 + 40 + 250);
    let tried = scene.connects();
    assert_eq!(tried, [(HomeId(1), "a".to_owned()), (HomeId(2), "b".to_owned())]);
    let full = Close::new(CloseCode::Full, "no place");
    scene.listen.handle_down(scene.now, HomeId(2), Some(full));
    assert_eq!(scene.connects(), [], "the entry is the dead relay itself");
    scene.say(1, welcome(&[]));
    scene.tick(1, 11, true);
    assert_eq!(scene.listen.current(), Some(HomeId(1)));
    assert_eq!(scene.listen.stats().attempts_failed, 1);
}

#[test]
fn rounds_have_pauses_and_an_end() {
    let mut scene = Scene::inside();
    scene.listen.handle_down(scene.now, HomeId(0), None);
    let mut attempts = 0;
    for _ in 0..10_000 {
        scene.pass(50);
        for (home, _) in scene.connects() {
            attempts += 1;
            scene.listen.handle_down(scene.now, home, None);
        }
    }
    assert!((60..1_000).contains(&attempts), "{attempts} attempts in 300 s");
    assert_eq!(scene.listen.poll_timeout(), None);
}

#[test]
fn a_close_for_good_ends_the_listening() {
    for (code, over) in [
        (CloseCode::RoomEnded, true),
        (CloseCode::TokenExpired, true),
        (CloseCode::Replaced, true),
        (CloseCode::Draining, false),
        (CloseCode::Internal, false),
    ] {
        let mut scene = Scene::inside();
        let (number, name) = (code as u32, code.name().to_owned());
        scene.say(0, ServerMessage::Closing { code: number, name, reason: String::new() });
        scene.pass(100);
        let actions = scene.actions();
        let ended = actions.iter().any(|action| matches!(action, ListenAction::Ended(_)));
        assert_eq!(ended, over, "{code:?}: {actions:?}");
    }
}

#[test]
fn a_first_join_that_is_refused_says_why() {
    let mut scene = Scene::outside();
    scene.connects();
    let close = Close::new(CloseCode::Full, "no place");
    scene.listen.handle_down(scene.now, HomeId(0), Some(close.clone()));
    assert_eq!(scene.actions(), [ListenAction::Ended(close)]);
}

fn waits(place: u64, retry_ms: u32, ticket: &str) -> ServerMessage {
    let ticket = Some(Secret(ticket.into()));
    let waiting = 2 * place;
    let told = crate::wire::Waiting { ticket, place, waiting, retry_ms, ..Default::default() };
    ServerMessage::Waiting(told)
}

impl Scene {
    /// The next attempt: its session, its address and the ticket that it shows.
    fn attempt(&mut self) -> Option<(u32, String, Option<String>)> {
        self.actions().into_iter().find_map(|action| match action {
            ListenAction::Connect { home, address, hello } => {
                Some((home.0, address, hello.ticket.map(|ticket| ticket.0)))
            }
            _ => None,
        })
    }

    fn close(&mut self, home: u32, code: CloseCode) {
        self.listen.handle_down(self.now, HomeId(home), Some(Close::new(code, "")));
    }
}

#[test]
fn who_is_told_to_wait_comes_again_as_told_with_the_ticket() {
    let mut scene = Scene::outside();
    assert_eq!(scene.attempt(), Some((0, "entry".into(), None)));
    scene.say(0, waits(1_204, 8_000, "t1"));
    let actions = scene.actions();
    let told = actions.iter().find_map(|action| match action {
        ListenAction::Waiting(place) => Some((place.place, place.waiting)),
        _ => None,
    });
    assert_eq!(told, Some((1_204, 2_408)));
    // The close that follows finds nobody.
    scene.close(0, CloseCode::Waiting);
    scene.pass(7_999);
    assert_eq!(scene.attempt(), None, "not before it was told");
    scene.pass(1 + 250);
    assert_eq!(scene.attempt(), Some((1, "entry".into(), Some("t1".into()))));
    scene.say(1, waits(600, 1_000, "t2"));
    scene.pass(1_100);
    assert_eq!(scene.attempt(), Some((2, "entry".into(), Some("t2".into()))));
    scene.say(2, welcome(&["a"]));
    assert_eq!(scene.listen.current(), Some(HomeId(2)));
    assert_eq!((scene.listen.stats().waited, scene.listen.stats().moved_lost), (2, 0));
}

#[test]
fn who_is_sent_elsewhere_goes_there_at_once_and_not_for_ever() {
    let mut scene = Scene::outside();
    scene.attempt();
    let redirect = |to: &str| {
        let relays = vec![Alternate {
            relay: to.into(),
            address: to.into(),
            certificate_hashes: Vec::new(),
        }];
        ServerMessage::Redirect { relays, ticket: Some(Secret(to.into())) }
    };
    scene.say(0, redirect("a"));
    assert_eq!(scene.attempt(), Some((1, "a".into(), Some("a".into()))));
    let mut home = 1;
    while let Some((next, ..)) = {
        scene.say(home, redirect(if home % 2 == 0 { "a" } else { "b" }));
        scene.attempt()
    } {
        home = next;
        assert!(home < 20, "relays that send each other everybody are followed for ever");
    }
}

#[test]
fn a_refused_ticket_is_forgotten_and_the_listener_stays() {
    let mut scene = Scene::outside();
    scene.attempt();
    scene.say(0, waits(5, 500, "old"));
    scene.pass(600);
    assert_eq!(scene.attempt(), Some((1, "entry".into(), Some("old".into()))));
    scene.close(1, CloseCode::TicketSpent);
    assert_eq!(scene.attempt(), None, "it does not hammer");
    scene.pass(500);
    assert_eq!(scene.attempt(), Some((2, "entry".into(), None)));
}

#[test]
fn a_relay_that_dies_while_its_queue_waits_is_tried_again_and_given_up_in_the_end() {
    let mut scene = Scene::outside();
    scene.attempt();
    scene.say(0, waits(5, 500, "t"));
    let mut attempts = 0;
    for _ in 0..10_000 {
        scene.pass(50);
        if let Some((home, address, ticket)) = scene.attempt() {
            assert_eq!((address.as_str(), ticket.as_deref()), ("entry", Some("t")));
            attempts += 1;
            scene.listen.handle_down(scene.now, HomeId(home), None);
        }
    }
    assert!((50..500).contains(&attempts), "{attempts} attempts in 300 s");
    assert_eq!(scene.listen.poll_timeout(), None);
}

#[test]
fn a_listener_that_moves_does_not_queue_while_other_relays_may_take_it() {
    let mut scene = Scene::inside();
    scene.close(0, CloseCode::Internal);
    scene.pass(40);
    assert_eq!(scene.attempt().map(|(home, address, _)| (home, address)), Some((1, "a".into())));
    scene.say(1, waits(9, 20_000, "t"));
    assert_eq!(scene.attempt().map(|(home, address, _)| (home, address)), Some((2, "b".into())));
}

#[test]
fn a_listener_that_plays_reports_to_the_relay_that_serves_it() {
    let mut scene = Scene::inside();
    let reports = |scene: &mut Scene| {
        let said = |action| match action {
            ListenAction::Say { home, message } => Some((home, *message)),
            _ => None,
        };
        scene.actions().into_iter().filter_map(said).collect::<Vec<_>>()
    };
    scene.ticks(0, 11, 400);
    assert_eq!(reports(&mut scene), [], "who plays nothing says nothing");
    let played = Played { late: 1, concealed_ms: 20, delay: Duration::from_millis(80) };
    scene.listen.set_played(scene.now, played);
    scene.listen.glitch();
    scene.ticks(0, 401, 700);
    let said = reports(&mut scene);
    let [(home, ClientMessage::Report(report))] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!((*home, scene.listen.stats().reports), (HomeId(0), 1));
    assert!((600..=700).contains(&report.ticks), "all until here: {report:?}");
    assert_eq!((report.lost, report.late, report.glitches), (0, 1, 1));
    assert_eq!((report.concealed_ms, report.delay_ms), (20, 80));
}

#[test]
fn a_replay_that_overtakes_the_welcome_is_not_lost() {
    let mut scene = Scene::inside();
    scene.pass(400);
    let moves = scene.connects();
    assert_eq!(moves.len(), 2, "{moves:?}");
    let (home, _) = moves[0].clone();
    for number in 11..=limits::EARLY_DATAGRAMS as u32 + 10 {
        scene.tick(home.0, number, true);
    }
    assert_eq!(scene.got.last(), Some(&10), "nobody has let the listener in yet");
    scene.say(home.0, welcome(&["b", "c"]));
    scene.tick(home.0, limits::EARLY_DATAGRAMS as u32 + 11, false);
    let all: Vec<u32> = (1..=limits::EARLY_DATAGRAMS as u32 + 11).collect();
    assert_eq!(scene.got, all);
    assert_eq!(scene.listen.current(), Some(home));
}

#[test]
fn a_twin_goes_on_with_what_is_its_own() {
    let mut one = Scene::inside();
    let mut other = Scene::inside();
    assert!(one.listen.is_calm());
    let mut own = other.listen.own();
    let named = |name: &str| Alternate {
        relay: name.to_owned(),
        address: name.to_owned(),
        certificate_hashes: Vec::new(),
    };
    assert!(own.handle_message(&ServerMessage::Alternates { alternates: vec![named("z")] }));
    let moved = ServerMessage::Move { alternates: Vec::new(), reason: String::new() };
    assert!(!own.handle_message(&moved), "its machine has to see this");
    one.ticks(0, 11, 20);
    assert_eq!(one.listen.doubts_at(), one.now + Duration::from_millis(100));
    let settings = ListenSettings {
        hello: hello(),
        entries: vec!["entry".into()],
        framing: Framing::Quic,
        repair: true,
        seed: 0,
    };
    other.listen = one.listen.twin(settings, own);
    other.now = one.now;
    assert_eq!((other.listen.newest(), other.listen.reception()), (20, one.listen.reception()));
    // Its relay dies: it goes to the alternate that only it was told of, with what both have heard.
    other.pass(200);
    let connect = other.actions().into_iter().find_map(|action| match action {
        ListenAction::Connect { address, hello, .. } => Some((address, hello.last)),
        _ => None,
    });
    assert_eq!(connect, Some(("z".to_owned(), Some((1, 20)))));
    assert_eq!(one.connects(), [], "the other one is asked nothing");
}

#[test]
fn who_misses_a_tick_is_not_calm() {
    let mut scene = Scene::inside();
    scene.pass(40);
    scene.tick(0, 12, false);
    assert!(!scene.listen.is_calm());
    scene.tick(0, 11, true);
    scene.actions();
    assert!(scene.listen.is_calm());
}
