//! Slots, muting, pre-roll and who is audible, through the whole room.

use super::*;
use crate::room::SettingsError;

const MS: u64 = 1_000;

fn talk(
    slot: u16,
    from_ms: u64,
    first: u32,
    count: u32,
    level: u8,
) -> Vec<(u64, u16, SpeechFrame)> {
    (0..count)
        .map(|i| {
            let at = from_ms * MS + u64::from(i) * 20 * MS + u64::from(slot);
            (at, slot, frame_of(first + i, level, 40))
        })
        .collect()
}

fn heard(ticks: &[At], slot: u16) -> Vec<u32> {
    let frames = ticks.iter().flat_map(|(_, tick)| frames(tick));
    frames.filter(|frame| frame.slot == slot).map(|frame| frame.speech.seq).collect()
}

#[test]
fn settings_outside_their_range_are_refused() {
    let new = |settings| Room::new(settings, Time::ZERO, 0).unwrap_err();
    assert_eq!(new(RoomSettings { tick_ms: 30, ..settings(3, 20) }), SettingsError::Cadence);
    assert_eq!(new(settings(0, 20)), SettingsError::Audible);
    assert_eq!(new(RoomSettings { name: String::new(), ..settings(3, 20) }), SettingsError::Name);
    let mut bad = settings(3, 20);
    bad.profile.tick_bytes = 2_000;
    assert!(matches!(new(bad), SettingsError::Profile(_)));
}

#[test]
fn pre_roll_comes_along_when_someone_becomes_audible() {
    let mut room = room(settings(1, 20), 2);
    let mut quiet = talk(2, 0, 1, 4, 100);
    quiet.iter_mut().for_each(|event| event.2.voice = false);
    let mut events = quiet;
    events.extend(talk(2, 80, 5, 50, 40));
    let ticks = play(&mut room, events, 1_500 * MS);
    // Audible at the second voiced frame (6); the two before it come along, in order, and early.
    assert_eq!(heard(&ticks, 2), (4..=54).collect::<Vec<_>>());
    assert_eq!(room.stats().not_audible, 3);
    let with_two = spoken(&ticks).iter().filter(|(_, tick)| tick.frames == 2).count();
    assert!((1..=3).contains(&with_two), "{with_two}");
    // Caught up after a few ticks: the delay is not kept.
    let late = |&&&(at, ref tick): &&&At| at > 200 * MS && tick.collect.as_micros() > 0;
    assert_eq!(spoken(&ticks).iter().filter(late).count(), 0);
}

#[test]
fn pre_roll_from_before_a_pause_is_not_played() {
    let mut room = room(settings(1, 20), 2);
    let mut events = talk(2, 0, 1, 1, 40);
    events.extend(talk(2, 900, 2, 10, 40));
    let ticks = play(&mut room, events, 1_500 * MS);
    assert_eq!(heard(&ticks, 2), (2..=11).collect::<Vec<_>>());
}

#[test]
fn never_more_than_the_places_are_heard_at_once_and_none_flaps() {
    let mut room = room(settings(3, 20), 13);
    let events = (1..=13).flat_map(|slot| talk(slot, 0, 1, 500, 40)).collect();
    let ticks = play(&mut room, events, 10_000 * MS);
    let mut slots: Vec<u16> =
        ticks.iter().flat_map(|(_, tick)| frames(tick)).map(|frame| frame.slot).collect();
    slots.sort_unstable();
    slots.dedup();
    assert_eq!(slots.len(), 3);
    assert_eq!(room.audible().len(), 3);
}

#[test]
fn a_host_is_heard_over_louder_speakers() {
    let mut room = room(settings(1, 20), 1);
    let host = room.join(Time::ZERO, "host", "Host", Role::Host).unwrap();
    let mut events = talk(1, 0, 1, 100, 5);
    events.extend(talk(host, 1_000, 1, 50, 70));
    let ticks = play(&mut room, events, 2_100 * MS);
    assert_eq!(heard(&ticks, host), (1..=50).collect::<Vec<_>>());
    assert!(heard(&ticks, 1).len() <= 52);
}

#[test]
fn the_muted_are_silent_at_once() {
    let mut room = room(settings(3, 20), 2);
    play(&mut room, talk(1, 0, 1, 10, 40), 200 * MS);
    room.set_muted(Time::from_millis(200), 1, true);
    let ticks = play(&mut room, talk(1, 200, 11, 10, 40), 400 * MS);
    assert!(heard(&ticks, 1).is_empty() && room.is_muted(1));
    assert_eq!(room.stats().muted, 10);
    room.set_muted(Time::from_millis(400), 1, false);
    let ticks = play(&mut room, talk(1, 400, 21, 10, 40), 700 * MS);
    assert_eq!(heard(&ticks, 1), (21..=30).collect::<Vec<_>>());
}

#[test]
fn a_new_session_takes_over_and_a_leaver_is_forgotten() {
    let mut room = room(settings(3, 20), 2);
    let version = room.state().version;
    let slot = room.join(Time::ZERO, "id0", "", Role::Speaker).unwrap();
    assert_eq!((slot, room.slot_of("id0")), (3, Some(3)));
    assert_eq!(room.state().stage.len(), 2);
    assert!(room.state().version > version);
    room.handle_speech(Time::from_millis(5), 1, vec![frame(1)]);
    assert_eq!(room.stats().unknown_slot, 1);
    room.leave(Time::from_millis(5), 3);
    room.leave(Time::from_millis(5), 3);
    assert_eq!(room.slot_of("id0"), None);
    assert_eq!(room.subscribed().newest, room.newest().number);
    room.edit(|state| state.listeners = 9);
    assert_eq!(room.state().listeners, 9);
}
