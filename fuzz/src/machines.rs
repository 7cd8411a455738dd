//! Targets for the machines of delivery: the receive window, a room, the planner.

use std::collections::BTreeMap;
use std::time::Duration;

use arbitrary::{Arbitrary, Result, Unstructured};
use bytes::Bytes;
use stentor_proto::receive::{Arrival, Reception, Window};
use stentor_proto::room::{Profile, Room, RoomSettings};
use stentor_proto::tree::{Planner, PlannerSettings};
use stentor_proto::wire::{
    Beacon, Framing, Load, Record, RelayInfo, Role, SpeechFrame, Subscribed, TickFlags, TickKey,
    beacon_bytes, frames, record_bytes, ticks_bytes,
};
use stentor_proto::{Time, limits};

/// A point in time that moves on by up to 65 ms, or seldom by up to 65 s.
pub(crate) fn later(now: Time, steps: &mut Unstructured<'_>) -> Result<Time> {
    let by = u64::from(u16::arbitrary(steps)?);
    let unit = if u8::arbitrary(steps)? < 8 { 1_000 } else { 1 };
    Ok(now + Duration::from_micros(by * unit))
}

fn tick_record(number: u32, mark: u8) -> Record {
    let mut bytes = record_bytes(number, 0, 20, TickFlags::default(), &[mark]);
    Record::parse(&mut bytes).expect("the number is not 0 and the cadence is 20 ms")
}

/// A window under any sequence of ticks, beacons, feeds and times: no tick is passed on twice
/// while the window holds it, requests ask for what is missing from feeds that are there, and a
/// caller that drains it is never sent back to the same instant.
pub fn window(data: &[u8]) {
    let mut steps = Unstructured::new(data);
    let mut window = Window::new(1, 1);
    let mut live = [false; limits::FEEDS];
    let mut passed: BTreeMap<u32, u32> = BTreeMap::new();
    let mut now = Time::from_millis(1_000);
    while let (false, Ok((op, feed, by))) = (steps.is_empty(), steps.arbitrary::<(u8, u8, i16)>()) {
        let feed = usize::from(feed) % limits::FEEDS;
        let base = if op & 0x80 == 0 { window.newest() } else { u32::MAX - 40_000 };
        let number = base.saturating_add_signed(i32::from(by % 400)).max(1);
        match op & 7 {
            0..=2 => {
                if window.arrive(now, feed, &tick_record(number, op & 8)) == Arrival::New {
                    let floor = window.newest().saturating_sub(limits::WINDOW_TICKS - 1);
                    let times = passed.entry(number).or_default();
                    *times += 1;
                    assert!(*times == 1, "tick {number} was passed on {times} times");
                    passed.retain(|&n, _| n >= floor);
                }
            }
            3 => {
                let newest = TickKey { room: 1, epoch: 1, number: number - u32::from(by == 0) };
                let pending = u32::from(op) << 3;
                window.beacon(now, feed, &Beacon { newest, pending, upstream_silent_ms: 0 });
            }
            4 => {
                live[feed] = op & 8 == 0;
                window.set_live(feed, live[feed]);
            }
            5 => window.set_silent(feed),
            6 => window.pending(feed, number, u32::from(by as u16) << 8),
            _ => now = later(now, &mut steps).unwrap_or(now),
        }
        drain(&mut window, now, &live);
    }
}

fn drain(window: &mut Window, now: Time, live: &[bool; limits::FEEDS]) {
    for asked in 0.. {
        assert!(asked <= limits::WINDOW_TICKS, "the window asks without end");
        let Some((feed, request)) = window.poll_request(now) else { break };
        assert!(live[feed], "a feed that is not there is asked");
        assert!(request.mask & 1 == 1 && request.first.number <= window.newest());
    }
    assert!(window.poll_timeout().is_none_or(|at| at > now), "the same instant again");
}

/// A client's reception under any datagrams, its own kind among them: no tick is passed on twice
/// within the window, and its counts add up.
pub fn reception(data: &[u8]) {
    let mut steps = Unstructured::new(data);
    let room = |epoch: u32| Subscribed {
        name: "hall".into(),
        id: 1,
        title: String::new(),
        public: true,
        epoch,
        newest: 0,
        tick_ms: 20,
        redundancy: 2,
    };
    let framing = Framing::ALL[data.len() % 2];
    let mut reception = Reception::new(framing, &room(1));
    let (mut now, mut epoch, mut passed) = (Time::from_millis(1_000), 1, 0_u64);
    while let (false, Ok((op, by))) = (steps.is_empty(), steps.arbitrary::<(u8, i8)>()) {
        let number = reception.newest().saturating_add_signed(i32::from(by)).max(1);
        let bytes = match op & 3 {
            0 => {
                let records = [number, number.saturating_sub(1).max(1)];
                let records = records.map(|n| tick_record(n, 0).bytes);
                ticks_bytes(framing, 1, epoch, op & 4 != 0, u32::from(op), &records)
            }
            1 => {
                let newest = TickKey { room: 1, epoch, number };
                let beacon = Beacon { newest, pending: u32::from(op), upstream_silent_ms: 0 };
                beacon_bytes(framing, &beacon)
            }
            2 => {
                let Ok(len) = steps.int_in_range(0..=40) else { return };
                Bytes::copy_from_slice(steps.bytes(usize::from(len as u8)).unwrap_or_default())
            }
            _ if op & 4 != 0 => {
                epoch += 1;
                reception.renew(&room(epoch));
                continue;
            }
            _ => {
                now = later(now, &mut steps).unwrap_or(now);
                Bytes::new()
            }
        };
        reception.datagram(now, bytes, |_, _| passed += 1);
        while reception.poll_request(now).is_some() {}
        assert!(reception.poll_timeout().is_none_or(|at| at > now));
        assert_eq!(reception.stats().window.received, passed);
    }
}

/// A room under any frames and times: ticks rise by one, are apart, fit, and hold only who is on
/// stage; the room never asks for the same instant again and again.
pub fn room(data: &[u8]) {
    let mut steps = Unstructured::new(data);
    let settings = RoomSettings {
        id: 1,
        name: "hall".into(),
        title: String::new(),
        public: true,
        profile: Profile::voice(),
        audible: 1 + data.len() % 3,
        tick_ms: limits::TICK_MS[data.len() % 3],
        epoch: 1,
    };
    let mut now = Time::from_millis(1_000);
    let Ok(mut room) = Room::new(settings, now, 0) else { return };
    let (mut newest, mut closed) = (0, None);
    while let (false, Ok((op, seq))) = (steps.is_empty(), steps.arbitrary::<(u8, u32)>()) {
        let who = op >> 3;
        let slot = u16::from(who);
        match op & 7 {
            0 => {
                let role = if who & 1 == 0 { Role::Speaker } else { Role::Host };
                drop(room.join(now, &format!("id{who}"), "", role));
            }
            1 => room.leave(now, slot),
            2 => room.set_muted(now, slot, seq & 1 == 0),
            3 => now = later(now, &mut steps).unwrap_or(now),
            _ => {
                let near = op & 1 == 0;
                let seq = if near { seq & 0xff } else { seq };
                let opus = vec![31 << 3; 1 + (seq as usize & 0xff)];
                let frame = |n: u32| SpeechFrame {
                    seq: seq.wrapping_sub(n),
                    level: (seq >> 8) as u8 & 0x7f,
                    voice: seq & 0x400 == 0,
                    opus: opus.clone().into(),
                };
                room.handle_speech(now, slot, (0..3).map(frame).collect());
            }
        }
        for _ in 0..4 {
            while let Some(tick) = room.poll_tick() {
                assert_eq!(tick.key.number, newest + 1);
                newest += 1;
                assert!(closed.is_none_or(|at: Time| now.since(at) >= limits::CLOSE_APART));
                closed = Some(now);
                assert!(tick.record.bytes.len() <= limits::RECORD_BYTES);
                let held = frames(&tick.record.payload).expect("the room writes what is read");
                assert_eq!(held.len(), usize::from(tick.frames));
            }
            while room.poll_request().is_some() {}
            if room.poll_timeout().is_none_or(|at| at > now) {
                break;
            }
            room.handle_timeout(now);
        }
        while room.poll_tick().is_some() {}
        assert!(room.poll_timeout().is_some_and(|at| at > now), "silence has heartbeats");
    }
}

/// A planner under any joins, leaves, loads and drains: parents stand on lower levels and are
/// two different ones, so there is no cycle; no relay has more children than it may.
pub fn planner(data: &[u8]) {
    let mut steps = Unstructured::new(data);
    let settings = PlannerSettings {
        origin_children: 3,
        children_one_in: 8,
        relay_capacity: 1_000_000,
        generation: 0,
    };
    let (mut planner, mut now) = (Planner::new(settings), Time::from_millis(1_000));
    let mut version = 0;
    while let (false, Ok((op, a, b))) = (steps.is_empty(), steps.arbitrary::<(u8, u8, u8)>()) {
        let id = format!("r{}", a % 24);
        match op & 7 {
            0..=2 => {
                let info = RelayInfo {
                    address: format!("{id}:1"),
                    id,
                    region: (op >> 6).to_string(),
                    capacity: u32::from(b),
                    level: (op & 8 != 0).then_some(op >> 4),
                    incarnation: u64::from(a >> 6),
                    pass_key: None,
                    certificate_hashes: Vec::new(),
                };
                drop(planner.join(now, info));
            }
            3 => drop(planner.leave(now, &id)),
            4 => drop(planner.drain(now, &id)),
            5 => drop(planner.expire(now)),
            6 => {
                let load = Load {
                    incarnation: u64::from(a >> 6),
                    sequence: now.as_micros(),
                    listeners: u32::from(b),
                    children: u32::from(op >> 3),
                    round_trips: vec![(format!("r{}", b % 24), u32::from(b) * 1_000)],
                    ..Load::default()
                };
                drop(planner.load(now, &id, &load));
            }
            _ => now = later(now, &mut steps).unwrap_or(now),
        }
        while let Some((id, placement)) = planner.poll_placement() {
            assert!(placement.version > version && placement.level <= limits::LEVELS);
            version = placement.version;
            assert!(planner.relay(&id).is_some(), "{id} is told a place that it does not have");
        }
        check_tree(&planner);
    }
}

fn check_tree(planner: &Planner) {
    let mut children: BTreeMap<&str, u32> = BTreeMap::new();
    for relay in planner.topology() {
        assert!((1..=limits::LEVELS).contains(&relay.level), "{relay:?}");
        assert!(relay.parents.len() <= if relay.level == 1 { 0 } else { limits::PARENTS });
        assert!(relay.parents.len() < 2 || relay.parents[0] != relay.parents[1], "{relay:?}");
        for parent in relay.parents {
            let above = planner.relay(parent).expect("a parent is in the tree");
            assert!(above.level < relay.level, "{parent} is not above {}", relay.id);
            *children.entry(above.id).or_default() += 1;
        }
    }
    for relay in planner.topology() {
        let counted = children.get(relay.id).copied().unwrap_or(0);
        assert_eq!(relay.children, counted, "{}", relay.id);
        assert!(counted <= relay.children_limit, "{relay:?}");
    }
}
