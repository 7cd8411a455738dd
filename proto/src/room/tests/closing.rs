//! The closing rule, against a small model and by its promises.

use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000;

/// A speaker's frames: every `period` µs from `phase`, off by at most `jitter` either way.
fn stream(
    slot: u16,
    phase: u64,
    period: u64,
    jitter: u64,
    count: u64,
    chance: &mut Chance,
) -> Vec<(u64, u16, SpeechFrame)> {
    (0..count)
        .map(|i| {
            let at = phase + i * period + chance.below(2 * jitter + 1);
            (at, slot, frame(i as u32 + 1))
        })
        .collect()
}

/// The closing rule over whole lists, for a cadence of 20 ms: times of closes with their slots.
fn model(events: &[(u64, u16)], until: u64) -> Vec<(u64, Vec<u16>)> {
    let mut closes: Vec<(u64, Vec<u16>)> = Vec::new();
    let (mut waiting, mut carried): (Vec<(u64, u16)>, Vec<u16>) = (Vec::new(), Vec::new());
    let (mut opened, mut speech_end, mut beats) = (0, 0, 0);
    let mut events = events.iter().copied().peekable();
    loop {
        let count = |slot| waiting.iter().filter(|w| w.1 == slot).count();
        let opener = waiting.first().map(|w| w.1);
        let expected = closes.iter().rev().take(2).flat_map(|close| &close.1);
        let apart = closes.last().map_or(0, |close| close.0 + 15 * MS);
        let heartbeat =
            [20, 40, 80].get(beats).copied().unwrap_or(80 + 100 * (beats as u64).saturating_sub(2));
        let due = apart.max(match opener {
            None => speech_end + heartbeat * MS,
            Some(opener) => {
                let next = count(opener) > 1 + usize::from(carried.contains(&opener));
                let all = expected.clone().all(|&slot| count(slot) > 0);
                if next || all { opened } else { opened + 25 * MS }
            }
        });
        // What closes is not earlier than what made it close.
        let due = due.max(closes.last().map_or(0, |c| c.0));
        let latest = waiting.iter().map(|w| w.0).max().unwrap_or(0);
        let due = due.max(latest);
        if let Some(&(at, slot)) = events.peek().filter(|event| event.0 < due) {
            events.next();
            if waiting.is_empty() {
                opened = at;
            }
            waiting.push((at, slot));
            continue;
        }
        if due > until {
            return closes;
        }
        let mut slots: Vec<u16> = Vec::new();
        let all = waiting.clone();
        waiting.retain(|w| {
            let many = all.iter().filter(|other| other.1 == w.1).count() > 2;
            let most = 1 + usize::from(many || carried.contains(&w.1));
            let taken = slots.iter().filter(|&&slot| slot == w.1).count() < most;
            if taken {
                slots.push(w.1);
            }
            !taken
        });
        slots.sort_unstable();
        beats = if slots.is_empty() { beats + 1 } else { 0 };
        if !slots.is_empty() {
            speech_end = due + 20 * MS;
        }
        carried = waiting.iter().map(|w| w.1).collect();
        opened = due;
        closes.push((due, slots));
    }
}

/// Frames of up to four speakers: each talks for a while, falls silent, talks again.
fn talks() -> impl Strategy<Value = Vec<(u64, u16, SpeechFrame)>> {
    let speaker = (0..20 * MS, 19_900..20_100_u64, 0..3 * MS, 1..40_u64, 0..400 * MS, any::<u64>());
    proptest::collection::vec(speaker, 1..=4).prop_map(|speakers| {
        let mut events = Vec::new();
        for (i, (phase, period, jitter, count, pause, seed)) in speakers.into_iter().enumerate() {
            let chance = &mut Chance(seed | 1);
            let slot = i as u16 + 1;
            let again = phase + count * period + pause;
            events.extend(stream(slot, phase, period, jitter, count, chance));
            let later = stream(slot, again, period, jitter, 30, chance);
            events.extend(later.into_iter().map(|(at, slot, mut frame)| {
                frame.seq += count as u32;
                (at, slot, frame)
            }));
        }
        // No two at the same microsecond, so that the order is the same for both.
        events.sort_by_key(|event| event.0);
        let mut last = 0;
        for event in &mut events {
            event.0 = event.0.max(last + 1);
            last = event.0;
        }
        events
    })
}

proptest! {
    #[test]
    fn follows_the_model(events in talks()) {
        let until = 2_000 * MS;
        let plain: Vec<(u64, u16)> = events.iter().map(|event| (event.0, event.1)).collect();
        let mut room = room(settings(4, 20), 4);
        let ticks = play(&mut room, events, until);
        let closes: Vec<(u64, Vec<u16>)> = (ticks.iter())
            .map(|(at, tick)| {
                let mut slots: Vec<u16> = frames(tick).iter().map(|frame| frame.slot).collect();
                slots.sort_unstable();
                (*at, slots)
            })
            .collect();
        prop_assert_eq!(closes, model(&plain, until));
        prop_assert_eq!(room.stats().frames_out, plain.len() as u64);
        prop_assert!(ticks.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 15 * MS));
        prop_assert!((1..).zip(&ticks).all(|(number, (_, tick))| tick.key.number == number));
    }

    #[test]
    fn one_speaker_alone_waits_for_nobody(phase in 100 * MS..120 * MS, seed: u64) {
        let events = stream(1, phase, 20 * MS, 2 * MS, 100, &mut Chance(seed | 1));
        let arrivals: Vec<u64> = events.iter().map(|event| event.0).collect();
        let ticks = play(&mut room(settings(4, 20), 4), events, phase + 2_050 * MS);
        // The first frame may have to keep its distance to a heartbeat; the others leave at once.
        let closes: Vec<u64> = spoken(&ticks).iter().map(|(at, _)| *at).collect();
        prop_assert_eq!(closes.len(), arrivals.len());
        prop_assert_eq!(&closes[3..], &arrivals[3..]);
    }

    #[test]
    fn four_unaligned_speakers_share_ticks(phases in prop::array::uniform4(0..20 * MS), seed: u64) {
        let chance = &mut Chance(seed | 1);
        let events = (phases.iter().zip(1..))
            .flat_map(|(&phase, slot)| stream(slot, phase, 20 * MS, 2 * MS, 500, chance))
            .collect();
        let mut room = room(settings(4, 20), 4);
        let ticks = play(&mut room, events, 10_030 * MS);
        let spoken = spoken(&ticks);
        prop_assert_eq!(room.stats().frames_out, 2_000);
        let per_tick = 2_000.0 / spoken.len() as f64;
        prop_assert!(per_tick >= 3.95, "{} frames a tick", per_tick);
        prop_assert!(spoken.len().abs_diff(500) <= 4, "{} ticks", spoken.len());
        prop_assert!(spoken.iter().all(|(_, tick)| tick.collect.as_millis() <= 40));
    }
}

#[test]
fn ticks_come_to_begin_after_the_widest_gap() {
    let mut mean_of_all = 0;
    for phase in 0..20 {
        let chance = &mut Chance(phase + 1);
        let mut events = stream(1, 100 * MS, 20 * MS, 300, 1_000, chance);
        events.extend(stream(2, (100 + phase) * MS, 20 * MS, 300, 1_000, chance));
        let mut room = room(settings(4, 20), 2);
        let ticks = play(&mut room, events, 20_200 * MS);
        assert_eq!(room.stats().frames_out, 2_000);
        let spoken = spoken(&ticks);
        assert!(spoken.len() <= 1_004, "{phase} ms apart: {} ticks", spoken.len());
        let waits = spoken[500..900].iter().map(|(_, tick)| tick.collect.as_micros() as u64);
        let mean = waits.sum::<u64>() / 400;
        mean_of_all += mean / 20;
        // Where both orders wait 7.5 to 12.5 ms, neither is worth an extra tick.
        let best = phase.min(20 - phase) * MS;
        let most = if best < 7_500 { best } else { 12_500 };
        assert!(mean <= most + 700, "{phase} ms apart: {mean} µs");
    }
    assert!(mean_of_all < 6_500, "{mean_of_all} µs over all phases");
}

#[test]
fn drifting_speakers_never_settle_on_a_long_wait() {
    let chance = &mut Chance(5);
    // 1 ms in 10 s: in 200 s the second passes through every phase of the first.
    let mut events = stream(1, 100 * MS, 20 * MS, 500, 10_000, chance);
    events.extend(stream(2, 103 * MS, 20_002, 500, 10_000, chance));
    let mut room = room(settings(4, 20), 2);
    let ticks = play(&mut room, events, 200_000 * MS);
    let spoken = spoken(&ticks);
    let mut waits: Vec<_> = spoken.iter().map(|(_, tick)| tick.collect.as_micros()).collect();
    waits.sort_unstable();
    let half = waits[waits.len() / 2];
    assert!(half <= 6_000, "p50 {half} µs");
    let per_tick = room.stats().frames_out as f64 / spoken.len() as f64;
    assert!(per_tick >= 1.995, "{per_tick} frames a tick");
}

#[test]
fn one_who_falls_silent_delays_nobody_for_long() {
    let chance = &mut Chance(1);
    let mut events = stream(1, 0, 20 * MS, 0, 100, chance);
    events.extend(stream(2, 5 * MS, 20 * MS, 0, 20, chance));
    let ticks = play(&mut room(settings(4, 20), 2), events, 2_000 * MS);
    let waits = |tick: &Tick| tick.collect.as_millis();
    let late = spoken(&ticks).iter().filter(|(_, tick)| waits(tick) > 15).count();
    assert!(late <= 2, "{late} ticks waited for a silent speaker");
    let last = spoken(&ticks).last().unwrap().0;
    assert_eq!(last, 99 * 20 * MS);
}

#[test]
fn a_pause_that_is_announced_delays_nobody_at_all() {
    let chance = &mut Chance(1);
    let mut events = stream(1, 0, 20 * MS, 0, 100, chance);
    events.extend(stream(2, 5 * MS, 20 * MS, 0, 20, chance));
    events.push((405 * MS, 2, frame_of(21, 127, 1)));
    let ticks = play(&mut room(settings(4, 20), 2), events, 2_000 * MS);
    let waited = |&&&(at, ref tick): &&&At| at > 430 * MS && tick.collect.as_micros() > 0;
    assert_eq!(spoken(&ticks).iter().filter(waited).count(), 0);
}

#[test]
fn drift_yields_ticks_with_none_or_two_and_loses_nothing() {
    for period in [19_960, 20_040] {
        let chance = &mut Chance(3);
        let mut events = stream(1, 3 * MS, 20 * MS, 500, 3_000, chance);
        events.extend(stream(2, 9 * MS, period, 500, 3_000, chance));
        let mut room = room(settings(4, 20), 2);
        let ticks = play(&mut room, events, 59_900 * MS);
        let stats = room.stats();
        assert_eq!(stats.causes().map(|(_, n)| n).sum::<u64>(), 0, "{stats:?}");
        let of = |tick: &Tick, slot| frames(tick).iter().filter(|f| f.slot == slot).count();
        let spoken = spoken(&ticks);
        let odd = spoken.iter().filter(|(_, tick)| of(tick, 1) != 1 || of(tick, 2) != 1).count();
        assert!((1..60).contains(&odd), "{odd} ticks");
    }
}

#[test]
fn the_bench_profile_packs_four_frames_of_120_bytes() {
    let mut settings = settings(4, 20);
    settings.profile = Profile::custom(48, 120, 4, 560, 0).unwrap();
    let mut room = room(settings, 4);
    let chance = &mut Chance(9);
    let mut events: Vec<_> = [(1, 2), (2, 3), (3, 13), (4, 19)]
        .into_iter()
        .flat_map(|(slot, ms)| stream(slot, ms * MS, 20 * MS, 2 * MS, 500, chance))
        .collect();
    events.iter_mut().for_each(|event| event.2 = frame_of(event.2.seq, 40, 120));
    let ticks = play(&mut room, events, 10_030 * MS);
    assert_eq!(room.stats().frames_out, 2_000);
    assert!(2_000.0 / spoken(&ticks).len() as f64 >= 3.95);
    assert!(ticks.iter().all(|(_, tick)| tick.record.bytes.len() <= 560));
}

#[test]
fn heartbeats_follow_the_end_of_speech() {
    for (tick_ms, scale) in [(20, 1), (40, 2), (60, 3)] {
        let mut room = room(settings(4, tick_ms), 1);
        let events = (0..6).map(|i| (1_000 * MS + i * 20 * MS, 1, frame(i as u32))).collect();
        let ticks = play(&mut room, events, 3_000 * MS);
        let last = spoken(&ticks).last().unwrap().0;
        let end = last + scale * 20 * MS;
        let beats: Vec<u64> =
            ticks.iter().filter(|tick| tick.0 > last).map(|tick| (tick.0 - end) / MS).collect();
        let expected = [20, 40, 80, 180, 280, 380].map(|ms| ms * scale);
        assert_eq!(beats[..6], expected);
        assert!(ticks.iter().all(|(_, t)| t.record.flags.is_heartbeat() == (t.frames == 0)));
        assert!(ticks.iter().all(|(_, t)| t.record.tick_ms == tick_ms));
    }
}

#[test]
fn a_room_of_longer_ticks_holds_more_frames_of_each() {
    for (tick_ms, each) in [(40, 2), (60, 3)] {
        let chance = &mut Chance(5);
        let events = (0..4)
            .flat_map(|i| stream(i + 1, u64::from(i) * 4 * MS, 20 * MS, MS, 600, chance))
            .collect();
        let mut settings = settings(4, tick_ms);
        settings.profile = Profile::custom(8, 20, 4, 1_000, 0).unwrap();
        let mut room = room(settings, 4);
        let mut events: Vec<(u64, u16, SpeechFrame)> = events;
        events.iter_mut().for_each(|event| event.2 = frame_of(event.2.seq, 40, 20));
        let ticks = play(&mut room, events, 12_100 * MS);
        assert_eq!(room.stats().frames_out, 2_400);
        let per_tick = 2_400.0 / spoken(&ticks).len() as f64;
        assert!(per_tick >= 3.95 * f64::from(each), "{per_tick} frames a tick of {tick_ms} ms");
    }
}

#[test]
fn a_burst_is_spread_and_what_is_too_old_is_dropped() {
    let mut room = room(settings(4, 20), 1);
    let events = (0..10).map(|i| (1_000 * MS, 1, frame(i))).collect();
    let ticks = play(&mut room, events, 1_500 * MS);
    let counts: Vec<u8> = spoken(&ticks).iter().map(|(_, tick)| tick.frames).collect();
    assert_eq!(counts, [1, 2, 2, 2, 2]);
    assert_eq!(room.stats().surplus_expired, 1);
}

#[test]
fn a_tick_keeps_its_budget_and_serves_the_loudest_first() {
    let mut settings = settings(4, 20);
    settings.profile = Profile::voice();
    settings.audible = 3;
    let mut room = room(settings, 3);
    // Three of the largest frames do not fit into 350 bytes: two do.
    let events = (0..25_u64)
        .flat_map(|i| {
            let len = if i < 3 { 150 } else { 60 };
            (1..=3_u16).map(move |slot| {
                let at = i * 20 * MS + u64::from(slot);
                (at, slot, frame_of(i as u32, 60 - 10 * slot as u8, len))
            })
        })
        .collect();
    let ticks = play(&mut room, events, 1_000 * MS);
    assert!(ticks.iter().all(|(_, tick)| tick.record.bytes.len() <= 350));
    let first: Vec<u16> = frames(&spoken(&ticks)[1].1).iter().map(|f| f.slot).collect();
    assert_eq!(first[0], 3);
    assert_eq!(room.stats().frames_out + room.stats().surplus_expired, 75);
    assert!(room.stats().frames_out >= 73);
}
