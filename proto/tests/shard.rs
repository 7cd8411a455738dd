//! The shard's machine, driven by hand.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use bytes::Bytes;
use stentor_proto::admission::{DoorSettings, Ticket, bearer};
use stentor_proto::fanout::{PathSample, SessionIx};
use stentor_proto::node::{
    Asker, Fanout, NodeShard, ShardEffect, ShardSettings, Tick, ToControl, ToShard,
};
use stentor_proto::pass::{Pass, PassKey, certify};
use stentor_proto::revoked::Revoked;
use stentor_proto::session::SessionKey;
use stentor_proto::token::{Signer, Verifier, private_pem};
use stentor_proto::wire::{
    Admission, Alternate, ClientMessage, Close, CloseCode, ControlDecoder, Datagram, Framing,
    Hello, RepairRequest, RevokedEntry, Role, RoomState, Secret, ServerMessage, Siblings,
    SpeechFrame, Subscribed, TickFlags, TickKey, encode_control, probe_bytes, record_bytes,
    repair_bytes, speech_bytes,
};
use stentor_proto::{Time, limits};

struct Bench {
    shard: NodeShard,
    now: Time,
}

fn room(id: u32, name: &str) -> Subscribed {
    Subscribed {
        name: name.into(),
        id,
        title: String::new(),
        public: true,
        epoch: 1,
        newest: 0,
        tick_ms: 20,
        redundancy: 2,
    }
}

fn hello(role: Role, room: &str) -> Hello {
    Hello {
        version: 1,
        features: Vec::new(),
        role,
        room: room.into(),
        token: None,
        name: None,
        agent: None,
        playout_ms: Some(100),
        last: None,
        pass: None,
        ticket: None,
        client_key: None,
        relay: None,
    }
}

fn listener() -> Hello {
    hello(Role::Listener, "hall")
}

impl Bench {
    fn new() -> Self {
        Self::with_settings(|_| {})
    }

    fn with_settings(change: impl FnOnce(&mut ShardSettings)) -> Self {
        let mut settings = ShardSettings {
            name: "r".into(),
            shards: 1,
            pass_key: None,
            shard: 0,
            origin: true,
            agent: "test".into(),
            capacity: 10,
            open_relays: true,
            unix_us_at_zero: 1_700_000_000_000_000,
            seed: 7,
            redundancy: true,
            repair: true,
            door: DoorSettings::default(),
            signer: None,
        };
        change(&mut settings);
        let now = Time::from_millis(1_000);
        Self { shard: NodeShard::new(settings, Verifier::default(), now), now }
    }

    /// A shard that has the room.
    fn with_room() -> Self {
        let mut bench = Self::new();
        bench.shard.handle_message(bench.now, ToShard::RoomUp(room(1, "hall")));
        bench.effects();
        bench
    }

    fn effects(&mut self) -> Vec<ShardEffect> {
        let mut effects = Vec::new();
        while let Some(effect) = self.shard.poll_effect() {
            match effect {
                ShardEffect::AwaitControl { session } => {
                    self.shard.handle_control_written(self.now, session);
                }
                effect => effects.push(effect),
            }
        }
        effects
    }

    fn say(&mut self, ix: u32, message: &ClientMessage) -> Vec<ShardEffect> {
        self.shard.handle_control(self.now, SessionIx(ix), &encode_control(message));
        self.effects()
    }

    /// A session that has said hello.
    fn open(&mut self, ix: u32, hello: Hello) -> Vec<ShardEffect> {
        self.shard.handle_open(self.now, SessionIx(ix), Framing::Quic);
        self.say(ix, &ClientMessage::Hello(hello))
    }

    fn hand_over(&mut self, number: u32) -> Option<Fanout> {
        let record = record_bytes(number, 5, 20, TickFlags::default(), &[0; 40]);
        let key = TickKey { room: 1, epoch: 1, number };
        let tick = Tick { key, record, tick_ms: 20, pending: 0, replay: false };
        self.shard.handle_tick(self.now, &tick)
    }

    /// A tick, and who gets it with which bytes.
    fn tick(&mut self, number: u32) -> Vec<(u32, Bytes)> {
        let Some(fanout) = self.hand_over(number) else { return Vec::new() };
        let lists = self.shard.fanout(fanout);
        lists.flat_map(|(list, bytes)| list.iter().map(|ix| (ix.0, bytes.clone()))).collect()
    }

    fn repair(&mut self, ix: u32, first: u32, mask: u32) -> Vec<u32> {
        let first = TickKey { room: 1, epoch: 1, number: first };
        let bytes = repair_bytes(Framing::Quic, &RepairRequest { first, mask });
        self.shard.handle_datagram(self.now, SessionIx(ix), bytes);
        self.effects().iter().flat_map(numbers).collect()
    }
}

/// The ticks in a datagram effect.
fn numbers(effect: &ShardEffect) -> Vec<u32> {
    let ShardEffect::SendDatagram { bytes, .. } = effect else { return Vec::new() };
    match Datagram::parse(bytes.clone()).unwrap() {
        Datagram::Ticks { records, .. } => records.iter().map(|r| r.number).collect(),
        other => panic!("not ticks: {other:?}"),
    }
}

fn messages(effects: &[ShardEffect]) -> Vec<ServerMessage> {
    let mut decoder = ControlDecoder::default();
    for effect in effects {
        if let ShardEffect::SendControl { bytes, .. } = effect {
            decoder.push(bytes);
        }
    }
    std::iter::from_fn(|| decoder.next_message().unwrap()).collect()
}

fn closed_with(effects: &[ShardEffect]) -> Option<CloseCode> {
    effects.iter().find_map(|effect| match effect {
        ShardEffect::Close { close, .. } => Some(close.code),
        _ => None,
    })
}

#[test]
fn the_first_listener_waits_for_the_room_and_the_second_does_not() {
    let mut bench = Bench::new();
    let effects = bench.open(0, listener());
    let want =
        ShardEffect::ToControl(ToControl::WantRoom { room: "hall".into(), by: Asker::Anonymous });
    assert_eq!(effects, [want]);
    bench.shard.handle_message(bench.now, ToShard::RoomUp(room(1, "hall")));
    let effects = bench.effects();
    assert!(matches!(messages(&effects)[..], [ServerMessage::Welcome(_)]));
    let effects = bench.open(1, listener());
    assert!(matches!(messages(&effects)[..], [ServerMessage::Welcome(_)]));
    assert_eq!(bench.shard.carried(), (2, 0, 2));
}

#[test]
fn a_tick_goes_to_everyone_as_the_same_bytes_and_relays_come_first() {
    let mut bench = Bench::with_room();
    for ix in 0..3 {
        bench.open(ix, listener());
    }
    bench.open(3, hello(Role::Relay, ""));
    bench.say(3, &ClientMessage::Subscribe { room: "hall".into() });
    let sent = bench.tick(1);
    let order: Vec<u32> = sent.iter().map(|(ix, _)| *ix).collect();
    assert_eq!(order, [3, 0, 1, 2]);
    let first = sent[0].1.as_ptr();
    assert!(sent.iter().all(|(_, bytes)| bytes.as_ptr() == first), "one copy for all");
}

#[test]
fn a_late_listener_gets_its_playout_target_of_the_ring_at_once() {
    let mut bench = Bench::with_room();
    for number in 1..=30 {
        bench.tick(number);
    }
    let effects = bench.open(0, listener());
    let burst: Vec<u32> = effects.iter().flat_map(numbers).collect();
    assert_eq!(burst, [26, 27, 28, 29, 30], "100 ms at 20 ms");
    let effects = bench.open(1, Hello { last: Some((1, 10)), ..listener() });
    let burst: Vec<u32> = effects.iter().flat_map(numbers).collect();
    assert_eq!(burst, (11..=30).collect::<Vec<u32>>(), "all that followed the last tick it had");
    let datagrams = effects.iter().filter(|e| matches!(e, ShardEffect::SendDatagram { .. }));
    assert!(datagrams.count() <= 2, "packed into few datagrams");
}

#[test]
fn whoever_waits_for_its_room_when_the_node_drains_is_asked_to_move() {
    let mut bench = Bench::new();
    bench.open(0, listener());
    let within = Duration::from_secs(10);
    bench.shard.handle_message(bench.now, ToShard::Drain { within });
    bench.shard.handle_message(bench.now, ToShard::RoomUp(room(1, "hall")));
    bench.effects();
    assert_eq!(bench.tick(1).len(), 1, "it is served");
    bench.now = bench.shard.poll_timeout();
    assert!(bench.now < Time::from_millis(1_000) + limits::DRAIN_SPREAD);
    bench.shard.handle_timeout(bench.now);
    assert_eq!(bench.shard.stats().asked_to_move, 1);
}

/// What a shell reads that takes a piece at a time: the messages of each piece, and its bytes.
fn piece(bench: &mut Bench, ix: u32) -> (Vec<ServerMessage>, usize, bool) {
    let (mut effects, mut awaited) = (Vec::new(), false);
    while let Some(effect) = bench.shard.poll_effect() {
        match effect {
            ShardEffect::AwaitControl { session } => awaited |= session == SessionIx(ix),
            ShardEffect::SendControl { session, .. } if session == SessionIx(ix) => {
                effects.push(effect);
            }
            _ => {}
        }
    }
    let bytes = effects.iter().map(|effect| match effect {
        ShardEffect::SendControl { bytes, .. } => bytes.len(),
        _ => 0,
    });
    (messages(&effects), bytes.sum(), awaited)
}

#[test]
fn a_child_that_comes_back_to_every_room_is_answered_as_fast_as_it_reads() {
    let mut bench = Bench::new();
    let rooms = u32::try_from(limits::ROOMS_PER_CHILD).unwrap();
    let name = |id: u32| format!("r{id}");
    for id in 1..=rooms {
        bench.shard.handle_message(bench.now, ToShard::RoomUp(room(id, &name(id))));
        let title = "t".repeat(1_000);
        let state = RoomState { room: name(id), version: 1, title, ..RoomState::default() };
        bench.shard.handle_message(bench.now, ToShard::RoomState { room: id, state });
    }
    let mut list = Revoked::new(1);
    for n in 0..1_000 {
        assert!(list.add(RevokedEntry::ban(&format!("{n}{}", "x".repeat(100)), false)));
    }
    let list = ToShard::Revoked { room: 1, list: list.into() };
    bench.shard.handle_message(bench.now, list);
    bench.effects();
    bench.open(9, hello(Role::Relay, ""));
    for id in 1..=rooms {
        let bytes = encode_control(&ClientMessage::Subscribe { room: name(id) });
        bench.shard.handle_control(bench.now, SessionIx(9), &bytes);
    }
    let (mut subscribed, mut documents, mut banned) = (0, 0, 0);
    loop {
        let (messages, bytes, awaited) = piece(&mut bench, 9);
        assert!(bytes <= limits::CONTROL_BACKLOG_BYTES, "{bytes} bytes at once");
        for message in messages {
            match message {
                ServerMessage::Subscribed(_) => subscribed += 1,
                ServerMessage::Room(_) => documents += 1,
                ServerMessage::Revoked(page) => banned += page.entries.len(),
                other => panic!("{other:?}"),
            }
        }
        if !awaited {
            break;
        }
        bench.shard.handle_control_written(bench.now, SessionIx(9));
    }
    assert_eq!((subscribed, documents, banned), (rooms, rooms, 1_000));
}

#[test]
fn a_document_goes_out_spread_and_whoever_does_not_read_gets_the_last_one() {
    let mut bench = Bench::with_settings(|settings| settings.capacity = 1_000);
    bench.shard.handle_message(bench.now, ToShard::RoomUp(room(1, "hall")));
    for ix in 0..400 {
        bench.open(ix, listener());
    }
    let document = |version| {
        let state = RoomState { room: "hall".into(), version, ..RoomState::default() };
        ToShard::RoomState { room: 1, state }
    };
    // Nobody says that anything has left: each is told one version.
    let told = |bench: &mut Bench| {
        let effects = std::iter::from_fn(|| bench.shard.poll_effect());
        effects.filter(|e| matches!(e, ShardEffect::SendControl { .. })).count()
    };
    bench.shard.handle_message(bench.now, document(1));
    let first = told(&mut bench);
    assert!((8..=40).contains(&first), "{first} at once");
    let mut all = first;
    for version in 2..50 {
        bench.now += limits::PUSH_EVERY;
        bench.shard.handle_timeout(bench.now);
        bench.shard.handle_message(bench.now, document(version));
        all += told(&mut bench);
    }
    assert_eq!(all, 400);
    bench.shard.handle_control_written(bench.now, SessionIx(0));
    let (messages, _, awaited) = piece(&mut bench, 0);
    assert!(awaited);
    assert!(matches!(&messages[..], [ServerMessage::Room(state)] if state.version == 49));
    bench.shard.handle_control_written(bench.now, SessionIx(0));
    assert_eq!(piece(&mut bench, 0), (Vec::new(), 0, false));
}

#[test]
fn a_busy_session_is_served_from_the_ring_and_skips_what_is_stale() {
    let mut bench = Bench::with_room();
    bench.open(0, listener());
    bench.open(1, listener());
    let fanout = bench.hand_over(1).unwrap();
    bench.shard.handle_busy(SessionIx(0), fanout, 1);
    let others: Vec<u32> = (2..=40).flat_map(|n| bench.tick(n)).map(|(ix, _)| ix).collect();
    assert_eq!(others, [1; 39], "the other session notices nothing");
    let mut got = Vec::new();
    while let Some((number, _)) = bench.shard.handle_ready(SessionIx(0)) {
        got.push(number);
    }
    assert_eq!(got, (30..=40).collect::<Vec<u32>>(), "200 ms, and no more");
    assert_eq!(bench.shard.stats().drop_stale, 29);
    assert_eq!(bench.tick(41).len(), 2, "it is in the fan-out again");
}

#[test]
fn repair_is_answered_from_the_ring_within_a_budget() {
    let mut bench = Bench::with_room();
    bench.open(0, listener());
    for number in 1..=40 {
        bench.tick(number);
    }
    assert_eq!(bench.repair(0, 7, 0b101), [7, 9]);
    assert_eq!(bench.repair(0, 99, 1), [0u32; 0], "a tick that is not here");
    let hostile: usize = (0..100).map(|_| bench.repair(0, 1, u32::MAX).len()).sum();
    assert!(hostile <= limits::REPAIRS_PER_S as usize, "no amplification: {hostile}");
    assert!(bench.shard.stats().drop_repair_budget > 0);
}

/// What a path shows that has lost `lost` of `sent` packets.
fn path(sent: u64, lost: u64) -> PathSample {
    let rtt = Duration::from_millis(40);
    PathSample { sent, lost, rtt, min_rtt: rtt }
}

/// Which ticks a session is sent in one datagram.
fn sent_with(ticks: &[(u32, Bytes)], ix: u32) -> Vec<u32> {
    let (_, bytes) = ticks.iter().find(|(to, _)| *to == ix).unwrap();
    numbers(&ShardEffect::SendDatagram { session: SessionIx(ix), bytes: bytes.clone() })
}

#[test]
fn redundancy_follows_each_sessions_own_loss() {
    let mut bench = Bench::with_room();
    bench.open(0, listener());
    bench.open(1, listener());
    for number in 1..=4 {
        bench.tick(number);
    }
    bench.shard.handle_path(bench.now, SessionIx(0), path(50, 0));
    bench.shard.handle_path(bench.now, SessionIx(1), path(50, 5));
    bench.shard.handle_path(bench.now, SessionIx(7), path(50, 5));
    let ticks = bench.tick(5);
    assert_eq!((sent_with(&ticks, 0), sent_with(&ticks, 1)), (vec![5], vec![5, 4, 2]));
    assert_eq!(bench.shard.listeners_by_variant(), [1, 0, 1]);
    assert_eq!(bench.shard.stats().variant_up, 1);
    // Its place in the lists is true: it leaves, and the others go on.
    bench.shard.handle_closed(bench.now, SessionIx(1));
    assert_eq!(bench.tick(6).len(), 1);
}

#[test]
fn a_room_without_room_for_redundancy_sends_none() {
    let mut bench = Bench::new();
    let music = Subscribed { redundancy: 0, ..room(1, "hall") };
    bench.shard.handle_message(bench.now, ToShard::RoomUp(music));
    bench.open(0, listener());
    bench.tick(1);
    bench.shard.handle_path(bench.now, SessionIx(0), path(50, 5));
    assert_eq!(sent_with(&bench.tick(2), 0), [2]);
}

#[test]
fn an_operator_may_switch_redundancy_and_repair_off() {
    let mut bench = Bench::with_settings(|settings| {
        settings.redundancy = false;
        settings.repair = false;
    });
    bench.shard.handle_message(bench.now, ToShard::RoomUp(room(1, "hall")));
    bench.open(0, listener());
    bench.tick(1);
    bench.shard.handle_path(bench.now, SessionIx(0), path(50, 5));
    assert_eq!(sent_with(&bench.tick(2), 0), [2]);
    assert_eq!(bench.repair(0, 1, 0b11), Vec::<u32>::new());
    assert_eq!(bench.shard.stats().drop_repair_off, 2);
}

#[test]
fn who_breaks_the_protocol_is_closed_by_name() {
    let cases: [(ClientMessage, CloseCode); 4] = [
        (ClientMessage::Leave, CloseCode::Protocol),
        (ClientMessage::Hello(Hello { version: 9, ..listener() }), CloseCode::Version),
        (ClientMessage::Hello(hello(Role::Speaker, "hall")), CloseCode::TokenMissing),
        (ClientMessage::Hello(hello(Role::Listener, "")), CloseCode::Protocol),
    ];
    for (message, code) in cases {
        let mut bench = Bench::with_room();
        bench.shard.handle_open(bench.now, SessionIx(0), Framing::Quic);
        assert_eq!(closed_with(&bench.say(0, &message)), Some(code));
        bench.shard.handle_closed(bench.now, SessionIx(0));
        assert_eq!(bench.shard.carried(), (0, 0, 0));
    }
}

#[test]
fn silence_after_the_handshake_and_floods_end_the_session() {
    let mut bench = Bench::new();
    bench.shard.handle_open(bench.now, SessionIx(0), Framing::Quic);
    bench.now += limits::HELLO_DEADLINE;
    assert!(bench.shard.poll_timeout() <= bench.now);
    bench.shard.handle_timeout(bench.now);
    assert_eq!(closed_with(&bench.effects()), Some(CloseCode::NoHello));

    let mut bench = Bench::with_room();
    bench.open(1, listener());
    let flood = (0..100).flat_map(|_| bench.say(1, &ClientMessage::Unknown)).collect::<Vec<_>>();
    assert_eq!(closed_with(&flood), Some(CloseCode::TooManyMessages));

    bench.open(2, listener());
    let mut garbage = Vec::new();
    for _ in 0..100 {
        let bytes = Bytes::from_static(b"\x63garbage");
        bench.shard.handle_datagram(bench.now, SessionIx(2), bytes);
        garbage.extend(bench.effects());
    }
    assert_eq!(closed_with(&garbage), Some(CloseCode::TooManyBadDatagrams));
    assert_eq!(bench.tick(1), [], "the closed are out of the fan-out");
}

#[test]
fn a_listener_cannot_speak() {
    let mut bench = Bench::with_room();
    bench.open(0, listener());
    let frame = SpeechFrame { seq: 1, level: 0, voice: true, opus: Bytes::from_static(&[8, 0]) };
    let bytes = speech_bytes(Framing::Quic, 1, [&frame].into_iter());
    bench.shard.handle_datagram(bench.now, SessionIx(0), bytes);
    assert_eq!(bench.effects(), []);
    assert_eq!(bench.shard.stats().drop_unauthorised, 1);
}

#[test]
fn the_node_takes_no_more_than_its_capacity() {
    let mut bench = Bench::with_room();
    for ix in 0..10 {
        assert_eq!(closed_with(&bench.open(ix, listener())), None);
    }
    assert_eq!(closed_with(&bench.open(10, listener())), Some(CloseCode::Waiting));
    bench.shard.handle_closed(bench.now, SessionIx(3));
    assert_eq!(closed_with(&bench.open(3, listener())), None);
}

#[test]
fn a_beacon_follows_the_last_tick_when_nothing_else_does() {
    let mut bench = Bench::with_room();
    bench.open(0, listener());
    bench.tick(1);
    assert!(bench.shard.poll_beacon(bench.now).is_none());
    bench.now += limits::BEACON_AFTER;
    assert!(bench.shard.poll_timeout() <= bench.now);
    let fanout = bench.shard.poll_beacon(bench.now).unwrap();
    let (list, bytes) = bench.shard.fanout(fanout).next().unwrap();
    assert_eq!(list, [SessionIx(0)]);
    match Datagram::parse(bytes.clone()).unwrap() {
        Datagram::Beacon(beacon) => assert_eq!(beacon.newest.number, 1),
        other => panic!("not a beacon: {other:?}"),
    }
    assert!(bench.shard.poll_beacon(bench.now).is_none());
}

#[test]
fn a_room_that_cannot_be_had_is_refused_by_name() {
    let mut bench = Bench::new();
    bench.open(0, hello(Role::Listener, "nowhere"));
    let close = Close::new(CloseCode::NoRoom, "there is no room nowhere");
    bench.shard.handle_message(bench.now, ToShard::RoomRefused { room: "nowhere".into(), close });
    let effects = bench.effects();
    assert_eq!(closed_with(&effects), Some(CloseCode::NoRoom));
    assert!(matches!(messages(&effects)[..], [ServerMessage::Closing { code: 0x30, .. }]));
}

#[test]
fn ticks_of_another_epoch_do_not_pass() {
    let mut bench = Bench::with_room();
    bench.open(0, listener());
    let record = record_bytes(1, 5, 20, TickFlags::default(), &[0]);
    let key = TickKey { room: 1, epoch: 0, number: 1 };
    let tick = Tick { key, record, tick_ms: 20, pending: 0, replay: false };
    assert!(bench.shard.handle_tick(bench.now, &tick).is_none());
    assert_eq!(bench.shard.stats().drop_foreign_tick, 1);
}

#[test]
fn ticks_that_overtake_the_word_of_their_room_are_kept_for_those_who_wait_for_it() {
    let mut bench = Bench::new();
    bench.open(0, listener());
    let newest = 100;
    // One of a former life of the room, and two that control passed on after it said the word.
    for number in [9, newest + 1, newest + 2] {
        assert!(bench.hand_over(number).is_none());
    }
    let up = Subscribed { newest, ..room(1, "hall") };
    bench.shard.handle_message(bench.now, ToShard::RoomUp(up));
    let replayed: Vec<u32> = bench.effects().iter().flat_map(numbers).collect();
    assert_eq!(replayed, [newest + 1, newest + 2]);
    assert_eq!(bench.tick(newest + 3).len(), 1);
    assert_eq!(bench.repair(0, newest + 1, 0b11), [newest + 1, newest + 2]);
    assert_eq!(bench.shard.stats().drop_foreign_tick, 1);
}

#[test]
fn a_newcomer_is_brought_nothing_that_lies_before_a_hole_which_nobody_fills() {
    let mut bench = Bench::new();
    bench.open(0, listener());
    let newest = 100;
    // 300 ms before the newest are what those inside are brought, whatever comes late.
    for number in [newest - 17, newest - 16] {
        assert!(bench.hand_over(number).is_none());
    }
    bench
        .shard
        .handle_message(bench.now, ToShard::RoomUp(Subscribed { newest, ..room(1, "hall") }));
    let replayed: Vec<u32> = bench.effects().iter().flat_map(numbers).collect();
    assert!(replayed.is_empty(), "their successors may never come: {replayed:?}");
    assert_eq!(
        bench.repair(0, newest - 17, 0b11),
        [newest - 17, newest - 16],
        "who asks gets them"
    );
    assert_eq!(bench.tick(newest + 1).len(), 1);
}

#[test]
fn a_control_stream_that_ends_is_a_goodbye() {
    let mut bench = Bench::with_room();
    bench.open(0, listener());
    bench.shard.handle_control_finished(SessionIx(0));
    assert_eq!(closed_with(&bench.effects()), Some(CloseCode::Done));
    assert_eq!(bench.tick(1), []);
    bench.shard.handle_control_finished(SessionIx(0));
    assert_eq!(closed_with(&bench.effects()), None);
}

#[test]
fn a_child_takes_all_of_its_rooms_at_once_and_waits_for_none_that_it_gave_up() {
    let mut bench = Bench::new();
    bench.open(0, hello(Role::Relay, ""));
    for n in 0..limits::ROOMS_PER_CHILD {
        let room = format!("room {n}");
        assert_eq!(closed_with(&bench.say(0, &ClientMessage::Subscribe { room })), None);
    }
    bench.say(0, &ClientMessage::Unsubscribe { room: "room 7".into() });
    bench.shard.handle_message(bench.now, ToShard::RoomUp(room(7, "room 7")));
    assert_eq!(bench.effects(), []);
    bench.shard.handle_closed(bench.now, SessionIx(0));
    bench.effects();
    bench.shard.handle_message(bench.now, ToShard::RoomUp(room(8, "room 8")));
    assert_eq!(bench.effects(), []);
}

#[test]
fn who_joined_a_room_that_was_given_back_is_told_when_it_cannot_be_had_again() {
    let mut bench = Bench::with_room();
    bench.open(0, listener());
    bench.shard.handle_message(bench.now, ToShard::RoomForget { room: 1 });
    let busy = ToControl::RoomBusy { shard: 0, room: "hall".into() };
    assert_eq!(bench.effects(), [ShardEffect::ToControl(busy)]);
    let close = Close::new(CloseCode::NoRoom, "there is no room hall");
    bench.shard.handle_message(bench.now, ToShard::RoomRefused { room: "hall".into(), close });
    assert_eq!(closed_with(&bench.effects()), Some(CloseCode::NoRoom));
}

#[test]
fn the_room_of_another_shard_is_no_news_to_those_who_are_inside() {
    let mut bench = Bench::with_room();
    bench.open(0, listener());
    bench
        .shard
        .handle_message(bench.now, ToShard::RoomUp(Subscribed { newest: 9, ..room(1, "hall") }));
    assert_eq!(bench.effects(), []);
    // The same room under another number, as an origin that started again may give it.
    bench
        .shard
        .handle_message(bench.now, ToShard::RoomUp(Subscribed { epoch: 2, ..room(5, "hall") }));
    assert!(matches!(messages(&bench.effects())[..], [ServerMessage::Subscribed(_)]));
    assert_eq!(bench.tick(1), [], "the former number has no room");
}

#[test]
fn a_peer_s_words_in_a_close_do_not_break_it() {
    let mut bench = Bench::new();
    bench.shard.handle_open(bench.now, SessionIx(0), Framing::Quic);
    let json = format!(r#"{{"type":"hello","version":1,"role":"{}"}}"#, "x".repeat(16_000));
    let mut bytes = u16::try_from(json.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(json.as_bytes());
    bench.shard.handle_control(bench.now, SessionIx(0), &bytes);
    assert_eq!(closed_with(&bench.effects()), Some(CloseCode::Protocol));
}

/// The relay `edge-1` with a key that the origin has certified, ten places, and six kept.
fn certified() -> (Bench, impl Fn(&str, &str, u8) -> Option<Secret>) {
    let origin = Signer::from_pkcs8_pem(&private_pem([1; 32]), None).unwrap();
    let (mut bench, unix_s) = (Bench::with_room(), 1_700_000_001);
    bench.shard.handle_message(bench.now, ToShard::Keys(vec![origin.published()]));
    let siblings = Siblings { headroom: 6, ..Siblings::default() };
    bench.shard.handle_message(bench.now, ToShard::Siblings(siblings));
    let pass = move |sub: &str, room: &str, key: u8| {
        let key = PassKey::from_seed([key; 32]);
        let certified = PassKey::from_seed([7; 32]).published();
        let certificate = certify(&origin, "edge-1", &certified, unix_s).unwrap();
        let (sub, room, relay) = (sub.to_owned(), room.to_owned(), "edge-1".to_owned());
        let pass = Pass { sub, room, relay, iat: unix_s, exp: unix_s + 60, anonymous: true };
        Some(Secret(key.give(&certificate, &pass).unwrap()))
    };
    (bench, pass)
}

#[test]
fn places_are_kept_for_those_who_return_with_a_good_pass() {
    let (mut bench, pass) = certified();
    for ix in 0..4 {
        assert_eq!(closed_with(&bench.open(ix, listener())), None);
    }
    assert_eq!(closed_with(&bench.open(4, listener())), Some(CloseCode::Waiting));
    let with = |pass| Hello { pass, ..listener() };
    for (ix, bad) in [(5, pass("ann", "hall", 8)), (6, pass("ann", "barn", 7))] {
        assert_eq!(closed_with(&bench.open(ix, with(bad))), Some(CloseCode::Waiting));
    }
    assert_eq!((bench.shard.stats().returned, bench.shard.stats().drop_bad_pass), (0, 2));
    for ix in 7..13 {
        let effects = bench.open(ix, with(pass("ann", "hall", 7)));
        assert_eq!(closed_with(&effects), None);
        let welcomed = |message| match message {
            ServerMessage::Welcome(welcome) => Some(welcome.identity),
            _ => None,
        };
        let identity = messages(&effects).into_iter().find_map(welcomed);
        assert_eq!(identity.as_deref(), Some("ann"), "it keeps its identity");
    }
    // All ten places are taken: a pass opens no further one.
    let full = closed_with(&bench.open(13, with(pass("ann", "hall", 7))));
    assert_eq!((full, bench.shard.stats().returned), (Some(CloseCode::Waiting), 7));
}

/// The relay `edge-1` that admits one newcomer a second, and tickets of whatever content.
struct Waiting {
    bench: Bench,
    certificate: String,
}

impl Waiting {
    fn new() -> Self {
        let origin = Signer::from_pkcs8_pem(&private_pem([1; 32]), None).unwrap();
        let key = PassKey::from_seed([7; 32]);
        let certificate = certify(&origin, "edge-1", &key.published(), UNIX_S).unwrap();
        let mut bench = Bench::with_settings(|settings| {
            settings.name = "edge-1".into();
            settings.pass_key = Some(key);
            settings.capacity = 1_000;
            settings.door.joins_per_s = 1;
        });
        let relay = |n: &str| Alternate {
            relay: n.into(),
            address: format!("{n}:1"),
            certificate_hashes: Vec::new(),
        };
        let siblings = Siblings {
            relays: vec![relay("edge-2"), relay("edge-3")],
            free: vec![0, 0],
            near: 2,
            certificate: Some(certificate.clone()),
            ..Siblings::default()
        };
        bench.shard.handle_message(bench.now, ToShard::Keys(vec![origin.published()]));
        bench.shard.handle_message(bench.now, ToShard::Siblings(siblings));
        bench.shard.handle_message(bench.now, ToShard::RoomUp(room(1, "hall")));
        // The first newcomer takes the only join.
        assert_eq!(closed_with(&bench.open(0, listener())), None);
        Self { bench, certificate }
    }

    /// The origin has called everybody who arrived until `called_ms`; others wait.
    fn called(&mut self, called_ms: u64) {
        let admission = Admission {
            now_ms: UNIX_S * 1_000,
            watermark_ms: called_ms,
            rate_per_s: 1,
            waiting: 100,
            curve: Vec::new(),
        };
        let message = ToShard::Admission { admission, ahead_ms: 0, pass_on: true };
        self.bench.shard.handle_message(self.bench.now, message);
        self.bench.effects();
    }

    fn ticket(&self, change: impl FnOnce(&mut Ticket)) -> Ticket {
        let mut ticket = Ticket {
            room: "hall".into(),
            sub: bearer(None, Some(&secret(1))).unwrap(),
            arrival_ms: UNIX_S * 1_000 - 500,
            place: "edge-1".into(),
            jti: "ff".into(),
            iat: UNIX_S,
            exp: UNIX_S + limits::TICKET_S,
            by: "edge-1".into(),
            waits: true,
            moved: 0,
        };
        change(&mut ticket);
        ticket
    }

    fn show(&mut self, ix: u32, ticket: &Ticket) -> Vec<ShardEffect> {
        let text = ticket.by_relay(&PassKey::from_seed([7; 32]), &self.certificate).unwrap();
        self.bench.open(ix, with_ticket(text))
    }

    fn later(&mut self, millis: u64) {
        self.bench.now += Duration::from_millis(millis);
    }
}

/// The shards' clock at the start of the bench, in seconds.
const UNIX_S: u64 = 1_700_000_001;

fn secret(n: u8) -> String {
    // 43 letters are 32 bytes; the last letter has two bits that say nothing.
    format!("{}A", char::from(b'A' + n).to_string().repeat(42))
}

fn with_ticket(text: String) -> Hello {
    let client_key = Some(Secret(secret(1)));
    Hello { ticket: Some(Secret(text)), client_key, ..listener() }
}

fn told_to_wait(effects: &[ShardEffect]) -> Option<stentor_proto::wire::Waiting> {
    messages(effects).into_iter().find_map(|message| match message {
        ServerMessage::Waiting(waiting) => Some(waiting),
        _ => None,
    })
}

fn redeems(effects: &[ShardEffect]) -> Option<(SessionKey, u64)> {
    effects.iter().find_map(|effect| match effect {
        ShardEffect::ToControl(ToControl::Redeem { session, ticket, .. }) => {
            Some((*session, *ticket))
        }
        _ => None,
    })
}

#[test]
fn who_cannot_come_in_is_told_a_place_and_comes_in_with_the_ticket() {
    let mut scene = Waiting::new();
    let newcomer = Hello { client_key: Some(Secret(secret(1))), ..listener() };
    let effects = scene.bench.open(1, newcomer.clone());
    assert_eq!(closed_with(&effects), Some(CloseCode::Waiting));
    let told = told_to_wait(&effects).unwrap();
    assert_eq!((told.place, told.arrival_ms), (1, UNIX_S * 1_000));
    let ticket = told.ticket.unwrap();
    scene.called(UNIX_S * 1_000 - 1);
    scene.later(1_000);
    let effects = scene.bench.open(2, with_ticket(ticket.0.clone()));
    assert_eq!(told_to_wait(&effects).unwrap().ticket, Some(ticket.clone()), "not its turn yet");
    assert_eq!(
        closed_with(&scene.bench.open(3, newcomer)),
        Some(CloseCode::Waiting),
        "nor a newcomer's"
    );
    scene.called(UNIX_S * 1_000);
    let effects = scene.bench.open(4, with_ticket(ticket.0.clone()));
    let (session, _) = redeems(&effects).expect("it is redeemed");
    assert_eq!(messages(&effects), [], "before control has said so nobody comes in");
    let yes = ToShard::Redeemed { session, refused: None };
    scene.bench.shard.handle_message(scene.bench.now, yes);
    assert!(matches!(messages(&scene.bench.effects())[..], [ServerMessage::Welcome(_)]));
    // A copy: control remembers it.
    scene.later(1_000);
    let effects = scene.bench.open(5, with_ticket(ticket.0));
    let (session, _) = redeems(&effects).unwrap();
    let spent = Some(Close::new(CloseCode::TicketSpent, "spent"));
    let no = ToShard::Redeemed { session, refused: spent };
    scene.bench.shard.handle_message(scene.bench.now, no);
    assert_eq!(closed_with(&scene.bench.effects()), Some(CloseCode::TicketSpent));
    assert_eq!(scene.bench.shard.carried().0, 2);
    let stats = scene.bench.shard.stats();
    assert_eq!((stats.waited, stats.refused, stats.waited_without_ticket), (3, 1, 0));
}

#[test]
fn bad_tickets_are_refused_by_name_before_anything_is_charged() {
    let mut scene = Waiting::new();
    scene.called(UNIX_S * 1_000);
    scene.later(1_000);
    let good = scene.ticket(|_| {});
    let cases = [
        (
            scene.ticket(|t| t.sub = bearer(None, Some(&secret(2))).unwrap()),
            CloseCode::TicketIdentity,
        ),
        (scene.ticket(|t| t.sub = "sub:ann".into()), CloseCode::TicketIdentity),
        (scene.ticket(|t| t.exp = UNIX_S - 60), CloseCode::TicketExpired),
        (scene.ticket(|t| t.room = "barn".into()), CloseCode::TicketInvalid),
        (scene.ticket(|t| t.by = "edge-2".into()), CloseCode::TicketInvalid),
        (scene.ticket(|t| t.place = "edge-2".into()), CloseCode::TicketPlace),
    ];
    for (ix, (ticket, code)) in (10..).zip(&cases) {
        assert_eq!(closed_with(&scene.show(ix, ticket)), Some(*code), "{ticket:?}");
    }
    let effects = scene.bench.open(20, with_ticket("ey.forged".into()));
    assert_eq!(closed_with(&effects), Some(CloseCode::TicketInvalid));
    assert_eq!(scene.bench.shard.stats().drop_bad_ticket, 7);
    assert!(redeems(&scene.show(21, &good)).is_some(), "the budget is untouched");
}

#[test]
fn a_ticket_of_a_relay_that_is_gone_is_good_here_under_the_same_number() {
    let mut scene = Waiting::new();
    scene.called(UNIX_S * 1_000);
    scene.later(1_000);
    let orphan = scene.ticket(|ticket| ticket.place = "edge-9".into());
    assert_eq!(redeems(&scene.show(1, &orphan)).map(|(_, number)| number), Some(0xff));
    // Where it has to wait, it is given one for this relay, with the same arrival.
    let told = told_to_wait(&scene.show(2, &orphan)).unwrap();
    assert_eq!(told.arrival_ms, orphan.arrival_ms);
    assert_ne!(told.ticket, None);
    assert_eq!(scene.bench.shard.stats().tickets_exchanged, 2);
}

#[test]
fn who_finds_a_full_relay_is_sent_to_a_sibling_with_room() {
    let mut scene = Waiting::new();
    let relay = |n: &str| Alternate {
        relay: n.into(),
        address: format!("{n}:1"),
        certificate_hashes: Vec::new(),
    };
    let siblings = Siblings {
        relays: vec![relay("edge-2"), relay("edge-3")],
        free: vec![0, 2],
        near: 2,
        certificate: Some(scene.certificate.clone()),
        ..Siblings::default()
    };
    scene.bench.shard.handle_message(scene.bench.now, ToShard::Siblings(siblings));
    scene.bench.effects();
    let newcomer = Hello { client_key: Some(Secret(secret(1))), ..listener() };
    let effects = scene.bench.open(1, newcomer);
    assert_eq!(closed_with(&effects), Some(CloseCode::Redirect));
    let [ServerMessage::Redirect { relays, ticket: Some(_) }, _] = &messages(&effects)[..] else {
        panic!("{effects:?}")
    };
    assert_eq!(relays, &[relay("edge-3")]);
    // A ticket that is called is spent here before its bearer goes.
    scene.called(UNIX_S * 1_000);
    let ticket = scene.ticket(|_| {});
    let effects = scene.show(2, &ticket);
    let (session, 0xff) = redeems(&effects).unwrap() else { panic!() };
    let yes = ToShard::Redeemed { session, refused: None };
    scene.bench.shard.handle_message(scene.bench.now, yes);
    assert_eq!(closed_with(&scene.bench.effects()), Some(CloseCode::Redirect));
    // Both of the sibling's places are taken, as far as this relay knows.
    let waits = scene.ticket(|ticket| ticket.jti = "fe".into());
    assert_eq!(closed_with(&scene.show(3, &waits)), Some(CloseCode::Waiting));
}

#[test]
fn without_admission_everybody_comes_in_who_finds_a_place() {
    let mut bench = Bench::with_settings(|settings| {
        settings.door.on = false;
        settings.door.joins_per_s = 1;
    });
    bench.shard.handle_message(bench.now, ToShard::RoomUp(room(1, "hall")));
    for ix in 0..10 {
        assert_eq!(closed_with(&bench.open(ix, listener())), None);
    }
    assert_eq!(closed_with(&bench.open(10, listener())), Some(CloseCode::Full));
}

#[test]
fn the_stages_address_is_not_for_newcomers() {
    let mut bench = Bench::with_settings(|settings| settings.door.stage_only = true);
    bench.shard.handle_message(bench.now, ToShard::RoomUp(room(1, "hall")));
    assert_eq!(closed_with(&bench.open(0, listener())), Some(CloseCode::StageOnly));
    assert_eq!(closed_with(&bench.open(1, hello(Role::Relay, ""))), None);
}

#[test]
fn a_limit_on_listeners_leaves_places_for_relays() {
    let mut bench = Bench::with_settings(|settings| settings.door.listeners = 2);
    bench.shard.handle_message(bench.now, ToShard::RoomUp(room(1, "hall")));
    for ix in 0..2 {
        assert_eq!(closed_with(&bench.open(ix, listener())), None);
    }
    assert_eq!(closed_with(&bench.open(2, listener())), Some(CloseCode::Waiting));
    assert_eq!(closed_with(&bench.open(3, hello(Role::Relay, ""))), None);
}

#[test]
fn a_probe_is_answered_with_a_beacon_and_within_the_budget() {
    let mut bench = Bench::with_room();
    bench.open(0, listener());
    bench.tick(1);
    let mut answers = 0;
    for _ in 0..2 * limits::REPAIRS_PER_S {
        bench.shard.handle_datagram(bench.now, SessionIx(0), probe_bytes(Framing::Quic));
        for effect in bench.effects() {
            let ShardEffect::SendDatagram { bytes, .. } = effect else { panic!("{effect:?}") };
            let Datagram::Beacon(beacon) = Datagram::parse(bytes).unwrap() else { panic!() };
            assert_eq!(beacon.newest.number, 1);
            answers += 1;
        }
    }
    assert_eq!(answers, limits::REPAIRS_PER_S);
}
