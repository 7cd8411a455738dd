//! The jitter buffer and the mixer over minutes of simulated network.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::time::Duration;

use bytes::Bytes;
use stentor_client::audio::{BLOCK, Encoder, EncoderSettings, JitterBuffer, Mixer, Playout, Voice};
use stentor_proto::wire::{Frame, SpeechFrame, TickKey};
use stentor_proto::{Time, limits};

struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn frame(seq: u32) -> SpeechFrame {
    SpeechFrame { seq, level: 30, voice: true, opus: Bytes::from_static(&[0x48; 40]) }
}

/// (arrival, clock, seq) of frames that are sent every 20 ms, in the order of arrival.
fn arrivals(
    frames: u32,
    first: u32,
    delay_us: impl Fn(u32, &mut Dice) -> Option<u64>,
) -> Vec<(u64, u64, u32)> {
    let mut dice = Dice(9);
    let mut arrivals: Vec<(u64, u64, u32)> = (0..frames)
        .filter_map(|i| {
            let clock = 1_000_000 + u64::from(i) * 20_000;
            Some((clock + 10_000 + delay_us(i, &mut dice)?, clock, first.wrapping_add(i)))
        })
        .collect();
    arrivals.sort_unstable();
    arrivals
}

#[derive(Default, Debug)]
struct Count {
    frames: u32,
    fec: u32,
    conceal: u32,
    silence: u32,
    in_order: bool,
}

/// Plays `frames` frames' time, with a pull every 20 ms.
fn play(buffer: &mut JitterBuffer, arrivals: &[(u64, u64, u32)], pulls: u64) -> Count {
    let mut count = Count { in_order: true, ..Count::default() };
    let mut arrivals = arrivals.iter().peekable();
    let mut last = None;
    for pull in 0..pulls {
        let now = 1_000_000 + pull * 20_000;
        while let Some(&(at, clock, seq)) = arrivals.next_if(|arrival| arrival.0 <= now) {
            buffer.push(Time::from_micros(at), clock, frame(seq));
        }
        assert!(buffer.len() <= limits::JITTER_FRAMES);
        match buffer.pop(Time::from_micros(now)) {
            Playout::Frame(frame) => {
                count.frames += 1;
                let after = last.is_none_or(|last: u32| frame.seq.wrapping_sub(last) as i32 > 0);
                count.in_order &= after;
                last = Some(frame.seq);
            }
            Playout::Fec { .. } => count.fec += 1,
            Playout::Conceal => count.conceal += 1,
            Playout::Silence => count.silence += 1,
        }
    }
    count
}

fn buffer() -> JitterBuffer {
    JitterBuffer::new(Duration::from_millis(100))
}

#[test]
fn a_steady_network_loses_nothing_and_the_target_shrinks() {
    let mut buffer = buffer();
    // The count wraps on the way.
    let count = play(&mut buffer, &arrivals(9_000, u32::MAX - 4_000, |_, _| Some(0)), 9_000);
    assert!(count.frames > 8_985 && count.in_order, "{count:?}");
    assert_eq!(count.conceal + count.fec, 0, "{count:?}");
    assert!(buffer.target() < Duration::from_millis(30), "{:?}", buffer.target());
}

#[test]
fn jitter_loss_reordering_and_duplicates_for_minutes() {
    let mut buffer = buffer();
    let mut network =
        arrivals(9_000, 0, |_, dice| (dice.below(100) >= 2).then(|| dice.below(60_000)));
    let doubled: Vec<_> = network.iter().step_by(7).map(|a| (a.0 + 5_000, a.1, a.2)).collect();
    network.extend(doubled);
    network.sort_unstable();
    let count = play(&mut buffer, &network, 9_010);
    let stats = buffer.stats();
    assert!(count.in_order, "{count:?}");
    assert!(stats.late * 100 < stats.pushed, "{stats:?}");
    assert!(stats.duplicate > 1_000, "{stats:?}");
    // 2 % of 9,000 are lost; nearly all of them have their next packet at hand.
    assert!((120..=240).contains(&count.fec), "{count:?}");
    assert!(count.conceal < 60, "{count:?}");
    assert!(buffer.target() < Duration::from_millis(90), "{:?}", buffer.target());
}

#[test]
fn a_stall_grows_the_delay_at_once_and_loses_nothing_after() {
    let mut buffer = buffer();
    let network = arrivals(6_000, 0, |i, _| {
        // From the fortieth second on every other second holds a stall of 150 ms.
        let phase = u64::from(i % 100);
        Some(if i > 2_000 && phase < 7 { (7 - phase) * 20_000 } else { 0 })
    });
    let count = play(&mut buffer, &network, 6_020);
    assert!(count.in_order);
    assert!(count.conceal < 40, "{count:?} {:?}", buffer.stats());
    assert!(buffer.target() > Duration::from_millis(100));
}

#[test]
fn hostile_counts_and_clocks_neither_panic_nor_grow() {
    let mut buffer = buffer();
    let mut dice = Dice(3);
    for i in 0..20_000_u64 {
        let clock = match dice.below(4) {
            0 => u64::MAX,
            1 => 0,
            _ => dice.below(u64::MAX >> 34) << dice.below(34),
        };
        let seq = dice.below(1 << 31) as u32 * 2 + dice.below(2) as u32;
        let seq = if dice.below(2) == 0 { seq } else { i as u32 };
        buffer.push(Time::from_micros(i * 10_000), clock, frame(seq));
        let _ = buffer.pop(Time::from_micros(i * 10_000));
        assert!(buffer.len() <= limits::JITTER_FRAMES);
        assert!((0.999..=1.001).contains(&buffer.rate()));
    }
    let _ = buffer.pop(Time::MAX);
    buffer.push(Time::MAX, 0, frame(1));
    let _ = buffer.pop(Time::ZERO);
}

fn sweep(i: usize) -> f32 {
    let t = i as f32 / 48_000.0;
    0.2 * (t * 300.0 * std::f32::consts::TAU).sin()
        + 0.1 * (t * (500.0 + 20.0 * (t * 0.7).sin()) * std::f32::consts::TAU).sin()
}

/// Clocks that differ: the delay stays near its target, nothing is lost, nothing is invented.
#[test]
fn drift_of_200_ppm_is_followed_for_minutes() {
    for ppm in [-200_i64, 200] {
        let mut encoder =
            Encoder::new(EncoderSettings { dtx: false, ..Default::default() }).unwrap();
        let mut voice = Voice::new(Duration::from_millis(100));
        let frames = 50 * 180;
        let sent = |i: u64| {
            let at = i as i64 * 20_000;
            (1_000_000 + at + at * ppm / 1_000_000) as u64
        };
        let mut next = 0;
        for pull in 0..frames {
            let now = 1_000_000 + pull * 20_000;
            while next < frames && sent(next) + 10_000 <= now {
                let block = std::array::from_fn(|s| sweep(next as usize * BLOCK + s));
                let speech = encoder.encode(&block).unwrap().unwrap();
                // The origin's clock is the speaker's here, the listener's is the other.
                voice.push(
                    Time::from_micros(sent(next) + 10_000),
                    1_000_000 + next * 20_000,
                    speech,
                );
                next += 1;
            }
            let _ = voice.pull(Time::from_micros(now));
        }
        let (stats, jitter) = (voice.stats(), voice.jitter_stats());
        assert!(stats.concealed <= 2 && jitter.late == 0, "{ppm}: {stats:?} {jitter:?}");
        assert!(jitter.skipped <= 4, "{ppm}: {jitter:?}");
        assert!(voice.delay() < Duration::from_millis(130), "{ppm}: {:?}", voice.delay());
    }
}

fn key(number: u32) -> TickKey {
    TickKey { room: 1, epoch: 1, number }
}

#[test]
fn many_loud_voices_stay_within_full_scale_and_leave() {
    let mut mixer = Mixer::new(Duration::from_millis(60));
    let mut encoders: Vec<Encoder> =
        (0..5).map(|_| Encoder::new(EncoderSettings::default()).unwrap()).collect();
    mixer.skip(Some(4));
    let mut out = [0.0; BLOCK];
    let mut loudest = 0.0_f32;
    for i in 0..150_u64 {
        let block = std::array::from_fn(|s| 4.5 * sweep(i as usize * BLOCK + s));
        let frames = encoders
            .iter_mut()
            .enumerate()
            .map(|(slot, encoder)| Frame {
                slot: slot as u16,
                speech: encoder.encode(&block).unwrap().unwrap(),
            })
            .collect();
        let now = Time::from_millis(1_000 + 20 * i);
        mixer.push_tick(now, key(i as u32 + 1), 20_000 * i, frames);
        mixer.pull(now, &mut out);
        loudest = out.iter().fold(loudest, |peak, sample| peak.max(sample.abs()));
    }
    assert!(loudest <= 1.0 && loudest > 0.9, "{loudest}");
    assert_eq!(mixer.levels().count(), 4);
    assert!(mixer.levels().all(|(slot, level)| slot < 4 && level < 20));
    assert_eq!(mixer.stats().own, 150);
    assert!(mixer.stats().decoded > 500);
    let decoded = mixer.stats().decoded;
    for i in 150..500_u64 {
        mixer.pull(Time::from_millis(1_000 + 20 * i), &mut out);
    }
    assert_eq!(mixer.levels().count(), 0, "who is gone gives its decoder back");
    assert!(mixer.stats().decoded >= decoded);
    assert_eq!(out, [0.0; BLOCK]);
}

#[test]
fn malformed_packets_are_counted_and_slots_are_bounded() {
    let mut mixer = Mixer::new(Duration::from_millis(40));
    let mut dice = Dice(5);
    let mut out = [0.0; BLOCK];
    for i in 0..400_u64 {
        let frames = (0..3)
            .map(|_| Frame {
                slot: dice.below(if i < 300 { 3 } else { 60_000 }) as u16,
                speech: SpeechFrame {
                    seq: i as u32,
                    level: 0,
                    voice: true,
                    opus: (0..1 + dice.below(200)).map(|_| dice.below(256) as u8).collect(),
                },
            })
            .collect();
        let now = Time::from_millis(20 * i);
        mixer.push_tick(now, key(i as u32 + 1), 20_000 * i, frames);
        mixer.pull(now, &mut out);
        assert!(out.iter().all(|sample| sample.abs() <= 1.0));
        assert!(mixer.levels().count() <= limits::VOICES);
    }
    let stats = mixer.stats();
    assert!(stats.malformed > 50 && stats.evicted > 50, "{stats:?}");
}
