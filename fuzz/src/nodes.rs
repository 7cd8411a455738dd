//! Targets for the two machines of a node.

use std::collections::{BTreeMap, BTreeSet};

use arbitrary::{Arbitrary, Result, Unstructured};
use bytes::Bytes;
use stentor_proto::Time;
use stentor_proto::admission::{DoorSettings, DoorTotals};
use stentor_proto::fanout::SessionIx;
use stentor_proto::node::{
    Asker, ControlEffect, LinkId, NodeShard, OriginControl, OriginSettings, RelayControl,
    RelaySettings, RoomSetup, ShardEffect, ShardSettings, Tick, ToControl, ToShard,
};
use stentor_proto::room::Profile;
use stentor_proto::session::SessionKey;
use stentor_proto::token::Verifier;
use stentor_proto::tree::PlannerSettings;
use stentor_proto::wire::{
    Admission, Alternate, Beacon, ClientMessage, Close, CloseCode, DoorLoad, Framing, Hand, Hello,
    Load, Parent, Placement, RelayInfo, RepairRequest, RevokedEntry, RevokedPage, Role, RoomState,
    ServerMessage, Siblings, SpeechFrame, Subscribed, Tally, TickFlags, TickKey, Welcome,
    beacon_bytes, encode_control, record_bytes, repair_bytes, speech_bytes, ticks_bytes,
};

use crate::machines::later;

const ROOMS: [&str; 3] = ["hall", "yard", "barn"];
/// Effects that one input may have: a close, a message or a datagram for each of a few sessions
/// and rooms.
const EFFECTS: usize = 200;

fn room_name(n: u8) -> String {
    ROOMS[usize::from(n) % ROOMS.len()].into()
}

fn subscribed(n: u8, epoch: u8) -> Subscribed {
    Subscribed {
        name: room_name(n),
        // The number does not always belong to the name.
        id: u32::from(n >> 2) % 4,
        title: String::new(),
        public: n & 0x80 == 0,
        epoch: u32::from(epoch % 4),
        newest: u32::from(epoch),
        tick_ms: if epoch == 0xff { 0 } else { 20 },
        redundancy: 2,
    }
}

fn relay_info(n: u8) -> RelayInfo {
    RelayInfo {
        id: format!("r{}", n % 5),
        address: format!("r{}:1", n % 7),
        region: String::new(),
        capacity: u32::from(n),
        level: (n & 1 == 0).then_some(n >> 6),
        incarnation: u64::from(n >> 6),
        pass_key: None,
        certificate_hashes: Vec::new(),
    }
}

fn load(n: u8, sequence: u8) -> Load {
    Load {
        incarnation: u64::from(n >> 6),
        sequence: u64::from(sequence),
        listeners: u32::from(n),
        listeners_below: if n == 0xff { u64::MAX } else { u64::from(n) },
        children: u32::from(sequence),
        parents: vec![format!("r{}", sequence % 5), "origin".into()],
        arrivals: vec![(1_700_000_000 + u64::from(n % 16), u64::from(sequence))],
        door: (!n.is_multiple_of(3)).then(|| DoorLoad {
            free: u32::from(n),
            joins_per_s: u32::from(n % 7),
            admitted: u64::from(sequence),
        }),
        ..Load::default()
    }
}

/// The queue as an honest origin or another may tell it.
fn admission(a: u8, b: u8) -> Admission {
    let start = 1_700_000_000_000 + u64::from(a) * 100;
    let sound = !a.is_multiple_of(4);
    let curve =
        vec![(start, 0), (if sound { start + 1 + u64::from(b) } else { start }, u64::from(b))];
    Admission {
        now_ms: if a == 0xff { u64::MAX } else { start },
        watermark_ms: start,
        rate_per_s: u32::from(b % 9),
        waiting: u64::from(b),
        curve,
    }
}

fn frames(n: u8) -> Vec<SpeechFrame> {
    let opus = Bytes::from_static(&[31 << 3, 1, 2]);
    vec![SpeechFrame { seq: u32::from(n), level: n & 0x7f, voice: true, opus }]
}

fn placement(a: u8, b: u8) -> Placement {
    let parent = |n: u8| {
        let (relay, address) = (format!("r{}", n % 5), format!("r{}:1", n % 7));
        Parent { relay, address }
    };
    let parents = [a, b].map(parent).into_iter().take(usize::from(a >> 6)).collect();
    Placement { version: u64::from(b), level: (a >> 4) % 4, parents, why: String::new() }
}

/// A piece of raw bytes, for what no builder makes.
fn raw(steps: &mut Unstructured<'_>) -> Result<Bytes> {
    let len = usize::from(u8::arbitrary(steps)? % 64).min(steps.len());
    steps.bytes(len).map(Bytes::copy_from_slice)
}

fn a_tick(room: u32, epoch: u8, number: u8) -> Tick {
    let number = u32::from(number).max(1);
    let record = record_bytes(number, 0, 20, TickFlags::default(), &[0]);
    let key = TickKey { room, epoch: u32::from(epoch % 4), number };
    Tick { key, record, tick_ms: 20, pending: u32::from(epoch), replay: number % 2 == 0 }
}

/// A shard with what the fuzzer knows of it.
struct Shard {
    node: NodeShard,
    now: Time,
    /// Sessions that the shell has open, and those among them that the shard wants closed.
    open: BTreeSet<u32>,
    closing: BTreeSet<u32>,
    keys: Vec<SessionKey>,
}

/// A shard under any sequence of sessions, messages, datagrams and ticks: what it carries never
/// falls below nothing, a closed session is in no list, every input has a bounded effect.
pub fn shard(data: &[u8]) {
    let mut steps = Unstructured::new(data);
    let now = Time::from_millis(1_000);
    let settings = ShardSettings {
        name: "r".into(),
        shards: 1,
        pass_key: None,
        shard: 0,
        origin: data.len().is_multiple_of(2),
        agent: "fuzz".into(),
        capacity: 6,
        open_relays: true,
        unix_us_at_zero: 1_700_000_000_000_000,
        seed: 1,
        redundancy: true,
        repair: true,
        door: DoorSettings { joins_per_s: 2, listeners: 4, ..DoorSettings::default() },
        signer: None,
    };
    let node = NodeShard::new(settings, Verifier::default(), now);
    let (open, closing, keys) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    let mut shard = Shard { node, now, open, closing, keys };
    while !steps.is_empty() && shard.step(&mut steps).is_ok() {
        shard.check();
    }
}

impl Shard {
    fn step(&mut self, steps: &mut Unstructured<'_>) -> Result<()> {
        let (op, a, b) = steps.arbitrary::<(u8, u8, u8)>()?;
        let (ix, now) = (u32::from(a % 8), self.now);
        let session = SessionIx(ix);
        match op % 12 {
            0 if self.open.insert(ix) => {
                self.node.handle_open(now, session, Framing::ALL[usize::from(b % 2)]);
            }
            1 if self.open.remove(&ix) => {
                self.closing.remove(&ix);
                self.node.handle_closed(now, session);
            }
            2 | 3 => self.node.handle_control(now, session, &client_message(a, b)),
            4 => self.node.handle_control(now, session, &raw(steps)?),
            5 => self.node.handle_datagram(now, session, client_datagram(a, b)),
            6 => self.node.handle_datagram(now, session, raw(steps)?),
            7 => {
                if let Some(fanout) = self.node.handle_tick(now, &a_tick(u32::from(a % 4), b, b)) {
                    for (list, bytes) in self.node.fanout(fanout) {
                        assert!(!bytes.is_empty() && !list.is_empty());
                    }
                }
            }
            8 | 9 => self.control_says(a, b),
            10 => match b % 4 {
                0 => {
                    let tick = a_tick(u32::from(a % 4), b, b);
                    if let Some(fanout) = self.node.handle_tick(now, &tick) {
                        self.node.handle_busy(session, fanout, u32::from(b));
                    }
                }
                1 => drop(self.node.handle_ready(session)),
                2 => self.node.handle_unsent(session, u32::from(b)),
                _ => self.node.handle_control_finished(session),
            },
            _ => {
                self.now = later(now, steps)?;
                self.node.handle_timeout(self.now);
            }
        }
        Ok(())
    }

    fn control_says(&mut self, a: u8, b: u8) {
        let room = u32::from(b % 4);
        let close = Close::new(CloseCode::NoRoom, "no");
        let key = self.keys.get(usize::from(b) % self.keys.len().max(1)).copied();
        let message = match (a % 10, key) {
            (0..=2, _) => ToShard::RoomUp(Subscribed { tick_ms: 20, ..subscribed(b, a) }),
            (3, _) => ToShard::RoomRefused { room: room_name(b), close },
            (4, _) => ToShard::RoomForget { room },
            (5, _) => ToShard::RoomDown { room, close },
            (7, Some(session)) => ToShard::Close { session, close },
            (8, Some(session)) => {
                let room = Subscribed { tick_ms: 20, ..subscribed(b, a) };
                ToShard::StageJoined { session, room, slot: 1, frame_bytes: 100 }
            }
            (6, Some(session)) if b & 1 == 0 => {
                let refused = (b & 2 == 0).then_some(close);
                ToShard::Redeemed { session, refused }
            }
            (6, _) => ToShard::RoomState { room, state: RoomState::default() },
            (9, _) if b & 1 == 0 => ToShard::Admission {
                admission: admission(a, b),
                ahead_ms: i64::from(a) - i64::from(b),
                pass_on: b & 2 == 0,
            },
            (9, _) if b & 3 == 1 => ToShard::Siblings(siblings(a, b)),
            (9, _) if b == 0xff => ToShard::Drain { within: std::time::Duration::from_secs(1) },
            _ => {
                let newest = TickKey { room, epoch: u32::from(a >> 6), number: u32::from(b) };
                ToShard::Feed { newest, pending: 1, upstream_silent_ms: 1 }
            }
        };
        self.node.handle_message(self.now, message);
    }

    /// Drains the shard and looks at what it carries.
    fn check(&mut self) {
        let mut count = 0;
        while let Some(effect) = self.node.poll_effect() {
            count += 1;
            assert!(count <= EFFECTS, "one input has effects without end");
            match effect {
                ShardEffect::Close { session, .. } => {
                    assert!(self.open.contains(&session.0), "a session that is not there");
                    assert!(self.closing.insert(session.0), "a session is closed twice");
                }
                ShardEffect::SendDatagram { session, .. } => {
                    assert!(!self.closing.contains(&session.0), "a datagram after the close");
                }
                ShardEffect::ToControl(ToControl::RelayJoin { session, .. }) => {
                    self.keys.push(session);
                }
                ShardEffect::AwaitControl { session } => {
                    self.node.handle_control_written(self.now, session);
                }
                ShardEffect::SendControl { .. } | ShardEffect::ToControl(_) => {}
            }
        }
        while let Some(fanout) = self.node.poll_beacon(self.now) {
            self.check_lists(fanout);
        }
        let (listeners, children, open) = self.node.carried();
        assert_eq!(open as usize, self.open.len());
        assert!((listeners + children) as usize <= self.open.len() - self.closing.len());
        assert!(self.node.poll_timeout() > self.now, "the same instant again");
        let members: u32 = self.node.room_members().map(|(_, members)| members).sum();
        assert!(members as usize <= self.open.len() * ROOMS.len());
        for room in 0..4 {
            for epoch in 0..4 {
                // A tick that is old for every ring shows the lists and changes little else.
                if let Some(fanout) = self.node.handle_tick(self.now, &a_tick(room, epoch, 1)) {
                    self.check_lists(fanout);
                }
            }
        }
    }

    fn check_lists(&self, fanout: stentor_proto::node::Fanout) {
        for (list, _) in self.node.fanout(fanout) {
            for session in list {
                let lives = self.open.contains(&session.0) && !self.closing.contains(&session.0);
                assert!(lives, "{session:?} is closed, and in a list");
            }
            let once: BTreeSet<_> = list.iter().collect();
            assert_eq!(once.len(), list.len(), "a session is twice in a list");
        }
    }
}

fn siblings(a: u8, b: u8) -> Siblings {
    let named = |n: u8| Alternate {
        relay: format!("r{n}"),
        address: format!("r{n}:1"),
        certificate_hashes: Vec::new(),
    };
    let (free, near) = (vec![u32::from(b); usize::from(a % 3)], a % 5);
    Siblings { relays: (0..a % 4).map(named).collect(), free, near, ..Siblings::default() }
}

fn client_message(a: u8, b: u8) -> Bytes {
    let room = room_name(b);
    encode_control(&match b >> 5 {
        0..=2 => {
            let role = if b & 4 == 0 { Role::Listener } else { Role::Relay };
            ClientMessage::Hello(Hello {
                version: 1,
                features: Vec::new(),
                role,
                room,
                token: None,
                name: None,
                agent: None,
                playout_ms: Some(u32::from(a) * 4),
                last: (b & 8 != 0).then_some((u32::from(a % 4), u32::from(a))),
                pass: None,
                ticket: None,
                client_key: None,
                relay: (b & 16 != 0).then(|| relay_info(a)),
            })
        }
        3 | 4 => ClientMessage::Subscribe { room },
        5 => ClientMessage::Unsubscribe { room },
        6 => ClientMessage::Load(load(a, b)),
        _ => ClientMessage::Leave,
    })
}

fn client_datagram(a: u8, b: u8) -> Bytes {
    if b & 1 == 0 {
        let first = TickKey { room: u32::from(a % 4), epoch: u32::from(b >> 6), number: 1 };
        return repair_bytes(Framing::Quic, &RepairRequest { first, mask: u32::MAX });
    }
    speech_bytes(Framing::Quic, u16::from(b >> 6), frames(a).iter())
}

/// A relay's control under anything that its uplinks and shards may say: every input has a
/// bounded effect, only open uplinks are written to, and it never asks for the same instant again.
pub fn relay(data: &[u8]) {
    let mut steps = Unstructured::new(data);
    let mut now = Time::from_millis(1_000);
    let settings = RelaySettings {
        info: relay_info(4),
        token: None,
        origin: "origin:1".into(),
        agent: "fuzz".into(),
        unix_us_at_zero: 1_700_000_000_000_000,
        seed: 1,
        joins_per_s: Some(2),
    };
    let mut control = RelayControl::new(settings, now);
    let mut links: BTreeSet<LinkId> = BTreeSet::new();
    while !steps.is_empty() {
        check_relay(&mut control, now, &mut links);
        if relay_step(&mut control, &mut now, &mut steps, &mut links).is_err() {
            return;
        }
    }
}

fn relay_step(
    control: &mut RelayControl,
    now: &mut Time,
    steps: &mut Unstructured<'_>,
    links: &mut BTreeSet<LinkId>,
) -> Result<()> {
    let (op, a, b) = steps.arbitrary::<(u8, u8, u8)>()?;
    let link = links.iter().nth(usize::from(op >> 4) % links.len().max(1));
    let link = link.copied().unwrap_or(LinkId(u32::from(a)));
    match op % 10 {
        0 => control.handle_link_up(*now, link),
        1 if a & 3 == 0 => {
            links.remove(&link);
            control.handle_link_down(*now, link, "fuzz");
        }
        2 | 3 => control.handle_link_control(*now, link, &server_message(a, b)),
        4 => control.handle_link_control(*now, link, &raw(steps)?),
        5 | 6 => control.handle_link_datagram(*now, link, server_datagram(a, b)),
        7 => control.handle_link_datagram(*now, link, raw(steps)?),
        8 => control.handle_message(*now, to_control(a, b)),
        _ => {
            *now = later(*now, steps)?;
            control.handle_timeout(*now);
        }
    }
    Ok(())
}

fn check_relay(control: &mut RelayControl, now: Time, links: &mut BTreeSet<LinkId>) {
    // What is due at this very instant is done first, as a shell does it.
    for _ in 0..4 {
        if control.poll_timeout() <= now {
            control.handle_timeout(now);
        }
    }
    assert!(control.poll_timeout() > now, "the same instant again");
    let mut count = 0;
    while let Some(effect) = control.poll_effect() {
        count += 1;
        assert!(count <= EFFECTS, "one input has effects without end");
        match effect {
            ControlEffect::Connect { link, .. } => assert!(links.insert(link)),
            ControlEffect::Disconnect { link, .. } => assert!(links.remove(&link)),
            ControlEffect::SendControl { link, .. } | ControlEffect::SendDatagram { link, .. } => {
                assert!(links.contains(&link), "an uplink that is closed is written to");
            }
            ControlEffect::ToShards(ToShard::RoomState { state, .. }) => {
                drop(encode_control(&ServerMessage::Room(state)));
            }
            _ => {}
        }
    }
    assert!(links.len() <= stentor_proto::limits::UPLINKS);
    while control.poll_tick().is_some() {}
    drop((control.view(now), control.stats()));
}

fn server_message(a: u8, b: u8) -> Bytes {
    encode_control(&match b % 8 {
        0 | 1 => ServerMessage::Welcome(Welcome {
            version: 1,
            features: Vec::new(),
            agent: String::new(),
            identity: String::new(),
            role: Role::Relay,
            room: None,
            slot: None,
            frame_bytes: None,
            repair_ms: None,
            alternates: Vec::new(),
            pass: None,
            keys: vec![("k".into(), "v".into())],
        }),
        2 | 3 => ServerMessage::Subscribed(subscribed(a, b)),
        4 => ServerMessage::Refused {
            room: room_name(a),
            code: u32::from(b),
            name: String::new(),
            reason: String::new(),
        },
        5 => ServerMessage::Room(RoomState {
            room: room_name(a),
            version: u64::from(b),
            ..RoomState::default()
        }),
        6 if a & 1 == 0 => ServerMessage::Placement(placement(a, b)),
        6 => ServerMessage::Revoked(RevokedPage {
            room: room_name(a),
            generation: u64::from(b >> 6),
            since: u32::from(a >> 6),
            entries: vec![RevokedEntry::ban("mal", a & 2 == 0); usize::from(b % 20)],
        }),
        7 if b & 8 != 0 => ServerMessage::Admission(admission(a, b)),
        _ => ServerMessage::Unknown,
    })
}

fn server_datagram(a: u8, b: u8) -> Bytes {
    let (room, epoch) = (u32::from(a % 4), u32::from(a >> 2) % 4);
    if a & 0x80 == 0 {
        let tick = a_tick(room, 0, b);
        return ticks_bytes(Framing::Quic, room, epoch, a & 0x40 != 0, 1, &[tick.record]);
    }
    let newest = TickKey { room, epoch, number: u32::from(b) };
    let beacon = Beacon { newest, pending: u32::from(a), upstream_silent_ms: u32::from(b) };
    beacon_bytes(Framing::Quic, &beacon)
}

fn to_control(a: u8, b: u8) -> ToControl {
    let session =
        SessionKey { shard: u16::from(a & 1), ix: SessionIx(u32::from(a >> 5)), generation: 1 };
    let (room, shard) = (room_name(b), u16::from(a & 1));
    match a % 16 {
        0 => {
            let askers = [Asker::Token, Asker::Anonymous, Asker::Child(session)];
            ToControl::WantRoom { room, by: askers[usize::from(b % 3)] }
        }
        1 => ToControl::RoomIdle { shard, room },
        2 => ToControl::RoomBusy { shard, room },
        3 | 4 => ToControl::StageJoin {
            session,
            room,
            identity: format!("id{}", b % 6),
            name: String::new(),
            role: [Role::Speaker, Role::Host, Role::Listener][usize::from(b % 3)],
            minted: 1_700_000_000 + u64::from(b),
            jti: None,
            address: None,
        },
        11 => {
            let (identity, name) = (format!("id{}", b % 6), String::new());
            let hand = Hand { room, identity, name, raised: b & 8 == 0, sequence: u64::from(b) };
            ToControl::Hands { hands: vec![hand] }
        }
        12 => ToControl::Met {
            room,
            identity: format!("id{}", b % 6),
            address: [192, 0, 2, b].into(),
        },
        13 => {
            let tally = Tally { listeners: u32::from(b), ..Tally::default() };
            ToControl::Rooms { shard, tallies: vec![(u32::from(b % 4), tally)] }
        }
        14 => ToControl::SelfMute { session, muted: b & 1 == 0 },
        5 => ToControl::StageLeave { session },
        6 => {
            let slot = u16::from(b >> 4);
            ToControl::Speech { room: u32::from(b % 4), slot, frames: frames(b), at: Time::ZERO }
        }
        7 => ToControl::RelayJoin { session, info: relay_info(b) },
        8 => ToControl::RelayLoad { session, load: load(a, b) },
        9 => ToControl::RelayLeave { session },
        10 => ToControl::Redeem { session, ticket: u64::from(b), admits: b.is_multiple_of(2) },
        _ => {
            let arrivals = vec![(1_700_000_000 + u64::from(a), u64::from(b))];
            let door = DoorTotals { free: u32::from(b), arrivals };
            ToControl::Totals { shard, listeners: u32::from(b), children: 1, joins: 1, door }
        }
    }
}

/// An origin's control under any messages of its shards: every input has a bounded effect, ticks
/// of a room rise by one, and it never asks for the same instant again.
pub fn origin(data: &[u8]) {
    let mut steps = Unstructured::new(data);
    let mut now = Time::from_millis(1_000);
    let setup = RoomSetup {
        name: "hall".into(),
        title: String::new(),
        public: true,
        profile: Profile::voice(),
        audible: 2,
        tick_ms: 20,
    };
    let settings = OriginSettings {
        signer: None,
        name: "origin".into(),
        first_use: data.len().is_multiple_of(2).then(|| setup.clone()),
        rooms: vec![setup],
        planner: PlannerSettings::default(),
        epoch: 1,
        capacity: 10,
        keys: Vec::new(),
        unix_us_at_zero: 1_700_000_000_000_000,
        joins_per_s: Some(2),
    };
    let Ok(mut control) = OriginControl::new(settings, now) else { return };
    // Rooms made on first use end, and come again under another number.
    let mut newest: BTreeMap<u32, u32> = BTreeMap::new();
    while let (false, Ok((op, a, b))) = (steps.is_empty(), steps.arbitrary::<(u8, u8, u8)>()) {
        if op & 3 == 0 {
            now = later(now, &mut steps).unwrap_or(now);
            control.handle_timeout(now);
        } else {
            control.handle_message(now, to_control(a, b));
        }
        for _ in 0..4 {
            if control.poll_timeout() <= now {
                control.handle_timeout(now);
            }
        }
        assert!(control.poll_timeout() > now, "the same instant again");
        while let Some(tick) = control.poll_tick() {
            let before = newest.entry(tick.key.room).or_default();
            assert_eq!(tick.key.number, *before + 1);
            *before += 1;
        }
        while control.poll_collected().is_some() {}
        let effects = std::iter::from_fn(|| control.poll_effect()).take(EFFECTS + 1).count();
        assert!(effects <= EFFECTS, "one input has effects without end");
        drop(control.view(now));
    }
}
