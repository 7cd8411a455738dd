//! The first hop under loss, and speakers that break its rules.

use std::collections::BTreeMap;

use super::*;
use crate::limits;
use crate::wire::SpeechRequest;

enum Flight {
    Speech(Vec<SpeechFrame>),
    Request(SpeechRequest),
}

/// A speaker of `count` frames behind a path that loses one datagram in twenty each way, 20 ms
/// long; returns the room and the numbers that left in ticks.
fn lossy(copies: u32, count: u32, seed: u64) -> (Room, Vec<u32>) {
    let mut room = room(settings(3, 20), 1);
    let mut chance = Chance(seed);
    let mut flights: BTreeMap<(u64, u64), Flight> = BTreeMap::new();
    let (mut sent, mut heard) = (0, Vec::new());
    let mut fly = |flights: &mut BTreeMap<_, _>, now: u64, flight| {
        sent += 1;
        if chance.below(100) >= 5 {
            flights.insert((now + 20, sent), flight);
        }
    };
    for now in 0..u64::from(count) * 20 + 200 {
        let seq = (now / 20) as u32;
        if now % 20 == 0 && seq < count {
            let oldest = seq.saturating_sub(copies);
            fly(&mut flights, now, Flight::Speech((oldest..=seq).rev().map(frame).collect()));
        }
        room.handle_timeout(Time::from_millis(now));
        while let Some(entry) = flights.first_entry().filter(|entry| entry.key().0 <= now) {
            match entry.remove() {
                Flight::Speech(frames) => room.handle_speech(Time::from_millis(now), 1, frames),
                Flight::Request(request) => {
                    let asked = (0..32).filter(|i| request.mask & (1 << i) != 0);
                    let frames = asked.map(|i| frame(request.first + i)).rev().collect();
                    fly(&mut flights, now, Flight::Speech(frames));
                }
            }
        }
        while let Some(request) = room.poll_request() {
            assert!(request.mask & 1 == 1 && request.slot == 1);
            assert!(request.mask.count_ones() as usize <= limits::FRAMES_PER_SPEECH);
            fly(&mut flights, now, Flight::Request(request));
        }
        while let Some(tick) = room.poll_tick() {
            heard.extend(frames(&tick).iter().map(|frame| frame.speech.seq));
        }
    }
    heard.sort_unstable();
    (room, heard)
}

#[test]
fn one_in_twenty_lost_is_one_in_ten_thousand_missing_at_most() {
    let (room, heard) = lossy(limits::EARLIER_FRAMES, 40_000, 11);
    assert!(heard.windows(2).all(|pair| pair[0] < pair[1]), "a frame left twice");
    let missing = 40_000 - heard.len();
    assert!(missing <= 4, "{missing} missing, {:?}", room.stats());
    assert!(room.stats().recovered > 1_500 && room.stats().requests > 0);
    assert!(room.stats().repaired > 0, "{:?}", room.stats());
}

#[test]
fn repair_alone_brings_most_of_what_is_lost() {
    let (room, heard) = lossy(0, 20_000, 12);
    // A thousand are lost; a request or its answer fails one time in ten, and there are two.
    let missing = 20_000 - heard.len();
    assert!(missing <= 40, "{missing} missing, {:?}", room.stats());
    assert!(room.stats().repaired > 900, "{:?}", room.stats());
}

#[test]
fn a_gap_is_asked_for_a_bounded_number_of_times_and_then_lost() {
    let mut room = room(settings(3, 20), 1);
    let at = Time::from_millis;
    room.handle_speech(at(0), 1, vec![frame(1)]);
    room.handle_speech(at(80), 1, vec![frame(5), frame(4), frame(3)]);
    let request = SpeechRequest { slot: 1, first: 2, mask: 1 };
    assert_eq!(room.poll_request(), Some(request));
    assert_eq!(room.poll_request(), None);
    let mut asked = 1;
    for ms in 81..140 {
        room.handle_timeout(at(ms));
        asked += std::iter::from_fn(|| room.poll_request()).count();
    }
    assert_eq!((asked, room.stats().lost), (3, 0));
    room.handle_timeout(at(140));
    assert_eq!(room.stats().lost, 1);
    room.handle_speech(at(141), 1, vec![frame(2)]);
    assert_eq!((room.stats().old, room.stats().repaired), (1, 0));
}

#[test]
fn redundancy_that_is_on_its_way_is_waited_for() {
    let mut room = room(settings(3, 20), 1);
    let at = Time::from_millis;
    room.handle_speech(at(0), 1, vec![frame(2), frame(1)]);
    // The speaker left frame 4 out, which the next datagram may still hold.
    room.handle_speech(at(60), 1, vec![frame(5), frame(3), frame(2)]);
    assert_eq!(room.poll_request(), None);
    room.handle_speech(at(80), 1, vec![frame(6), frame(5), frame(4)]);
    room.handle_timeout(at(200));
    assert_eq!((room.poll_request(), room.stats().lost), (None, 0));
}

#[test]
fn silence_is_not_a_gap() {
    let mut room = room(settings(3, 20), 1);
    room.handle_speech(Time::from_millis(0), 1, vec![frame_of(1, 127, 1)]);
    room.handle_speech(Time::from_millis(5_000), 1, vec![frame(2), frame_of(1, 127, 1)]);
    room.handle_timeout(Time::from_millis(6_000));
    assert_eq!((room.poll_request(), room.stats().lost, room.stats().frames_in), (None, 0, 2));
}

#[test]
fn a_fast_speaker_is_held_to_its_rate() {
    let mut room = room(settings(3, 20), 1);
    let events = (0..5_000).map(|i| (u64::from(i) * 2_000, 1, frame(i))).collect();
    play(&mut room, events, 10_000_000);
    let stats = room.stats();
    assert!((505..=516).contains(&stats.frames_in), "{stats:?}");
    assert_eq!(stats.frames_in + stats.too_fast, 5_000);
    assert_eq!((stats.lost, stats.requests), (0, 0));
}

#[test]
fn a_speaker_above_the_bit_rate_is_held_to_it() {
    let mut settings = settings(3, 20);
    settings.profile = Profile::voice();
    let mut room = room(settings, 1);
    let events = (0..500).map(|i| (u64::from(i) * 20_000, 1, frame_of(i, 40, 160))).collect();
    play(&mut room, events, 10_000_000);
    let stats = room.stats();
    // 32 kbit/s over 10 s and a second's burst, in frames of 160 bytes.
    assert!(stats.frames_in <= 44_000 / 160, "{stats:?}");
    assert_eq!(stats.frames_in + stats.over_rate, 500);
}

#[test]
fn a_restarted_count_is_followed_without_loss_and_one_forged_number_is_not() {
    let mut room = room(settings(3, 20), 1);
    let at = Time::from_millis;
    let datagram =
        |seq: u32| vec![frame(seq), frame(seq.wrapping_sub(1)), frame(seq.wrapping_sub(2))];
    for i in 0..10 {
        room.handle_speech(at(u64::from(i) * 20), 1, datagram(1_000 + i));
    }
    room.handle_speech(at(200), 1, vec![frame(u32::MAX)]);
    room.handle_speech(at(200), 1, datagram(1_010));
    assert_eq!((room.stats().restarts, room.stats().jumped), (0, 1));
    let before = room.stats().frames_in;
    for i in 0..10 {
        room.handle_speech(at(220 + u64::from(i) * 20), 1, datagram(7 + i));
    }
    // The first two datagrams only prove the new count; the third one repeats their frames.
    assert_eq!(room.stats().restarts, 1);
    assert_eq!(room.stats().frames_in - before, 10);
}

#[test]
fn numbers_wrap_around() {
    let mut room = room(settings(3, 20), 1);
    for i in 0..20_u32 {
        let seq = (u32::MAX - 9).wrapping_add(i);
        room.handle_speech(Time::from_millis(u64::from(i) * 20), 1, vec![frame(seq)]);
    }
    assert_eq!((room.stats().frames_in, room.stats().lost), (20, 0));
    assert_eq!(room.stats().restarts, 0);
}

#[test]
fn every_refusal_has_its_cause() {
    let mut room = room(settings(3, 20), 1);
    let at = Time::from_millis;
    let mut bad = frame(1);
    bad.opus = Bytes::from_static(&[3 << 3, 1]);
    room.handle_speech(at(0), 1, vec![frame_of(2, 40, 41), bad]);
    room.handle_speech(at(20), 1, vec![frame(3), frame(2)]);
    room.handle_speech(at(40), 1, vec![frame(3)]);
    room.handle_speech(at(60), 1, vec![frame(200)]);
    room.handle_speech(at(60), 1, vec![frame(4)]);
    let stats = room.stats();
    assert_eq!((stats.bad_opus, stats.oversized, stats.redundant), (1, 1, 1));
    assert_eq!((stats.duplicate, stats.old, stats.frames_in), (1, 1, 2));
    // All but one answer's worth of the outage is given up at once.
    assert_eq!(stats.lost, 196 - limits::FRAMES_PER_SPEECH as u64);
    assert_eq!(stats.causes().filter(|&(_, n)| n > 0).count(), 6);
}
