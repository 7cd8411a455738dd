//! The room as a whole, by topic. Time and chance are made by the tests.

mod closing;
mod first_hop;
mod hostile;
mod speakers;

use bytes::Bytes;

use super::{Profile, Room, RoomSettings, Tick};
use crate::Time;
use crate::wire::{self, Frame, Role, SpeechFrame};

/// A room with wide limits, so that only the rule under test acts.
fn settings(audible: usize, tick_ms: u8) -> RoomSettings {
    RoomSettings {
        id: 7,
        name: "room".to_owned(),
        title: String::new(),
        public: true,
        profile: Profile::custom(16, 40, 16, 1_084, 0).unwrap(),
        audible,
        tick_ms,
        epoch: 1,
    }
}

/// A room with `speakers` on stage, in slots from 1.
fn room(settings: RoomSettings, speakers: u16) -> Room {
    let mut room = Room::new(settings, Time::ZERO, 1_000_000).unwrap();
    for i in 0..speakers {
        room.join(Time::ZERO, &format!("id{i}"), "", Role::Speaker).unwrap();
    }
    room
}

/// A well-formed frame of 20 ms and `len` bytes.
fn frame_of(seq: u32, level: u8, len: usize) -> SpeechFrame {
    let mut opus = vec![seq as u8; len];
    opus[0] = 31 << 3;
    SpeechFrame { seq, level, voice: true, opus: Bytes::from(opus) }
}

fn frame(seq: u32) -> SpeechFrame {
    frame_of(seq, 40, 40)
}

/// A tick with the time of its close (µs).
type At = (u64, Tick);

/// Runs the room's timers up to `until` (µs) exactly when they are due.
fn run(room: &mut Room, until: u64) -> Vec<At> {
    let mut ticks = Vec::new();
    loop {
        drain(room, &mut ticks);
        let due = room.poll_timeout().unwrap();
        if due.as_micros() > until {
            return ticks;
        }
        room.handle_timeout(due);
    }
}

fn drain(room: &mut Room, ticks: &mut Vec<At>) {
    while let Some(tick) = room.poll_tick() {
        assert_eq!(tick.record, wire::Record::parse(&mut tick.record.bytes.clone()).unwrap());
        ticks.push((tick.record.clock_us - 1_000_000, tick));
    }
    while room.poll_request().is_some() {}
}

/// Plays frames, each at its time (µs), and lets the room run until `until`.
fn play(room: &mut Room, mut events: Vec<(u64, u16, SpeechFrame)>, until: u64) -> Vec<At> {
    events.sort_by_key(|&(at, slot, _)| (at, slot));
    let mut ticks = Vec::new();
    for (at, slot, frame) in events {
        ticks.extend(run(room, at));
        room.handle_speech(Time::from_micros(at), slot, vec![frame]);
    }
    ticks.extend(run(room, until));
    ticks
}

fn frames(tick: &Tick) -> Vec<Frame> {
    wire::frames(&tick.record.payload).unwrap()
}

fn spoken(ticks: &[At]) -> Vec<&At> {
    ticks.iter().filter(|(_, tick)| tick.frames > 0).collect()
}

/// A small generator (xorshift64*), seeded, for tests that need many draws.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}
