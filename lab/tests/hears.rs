//! From a speaker's file to the verdict on what a listener played, the network being simulated.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::time::{Duration, Instant};

use stentor_client::audio::{
    BLOCK, Encoder, EncoderSettings, Mixer, MixerStats, Source, default_speech, input,
};
use stentor_lab::hears::{Block, Heard, Judge, Reference, verdict};
use stentor_proto::Time;
use stentor_proto::wire::{Frame, TickKey};

/// A small generator, so that each run is the same.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

#[derive(Clone, Copy)]
struct Network {
    jitter_ms: u64,
    loss_percent: u64,
    settings: EncoderSettings,
    /// The listener's clock against the speakers', in millionths.
    drift_ppm: i64,
}

const CLEAN: Network = Network {
    jitter_ms: 0,
    loss_percent: 0,
    settings: EncoderSettings { bitrate: 28_000, loss_percent: 5, dtx: true, constant: false },
    drift_ppm: 0,
};

fn speech() -> Vec<f32> {
    input::collect(Source::from_bytes("speech.opus", default_speech()).unwrap()).unwrap()
}

/// Blocks `from..to` of the speech, in seconds.
fn part(speech: &[f32], from: usize, to: usize) -> Vec<f32> {
    speech[from * 50 * BLOCK..to * 50 * BLOCK].to_vec()
}

const START: Time = Time::from_millis(10_000);

fn reference(pcm: Vec<f32>) -> Reference {
    let blocks = (0..pcm.len() / BLOCK)
        .map(|i| Block { at: START + Duration::from_millis(20 * i as u64), audible: true })
        .collect();
    Reference { pcm, blocks }
}

/// Sends the speakers' sound through a network and mixes what arrives.
fn listen(speakers: &[Reference], network: Network) -> (Heard, MixerStats) {
    let mut dice = Dice(4);
    let mut encoders: Vec<Encoder> =
        speakers.iter().map(|_| Encoder::new(network.settings).unwrap()).collect();
    let blocks = speakers.iter().map(|r| r.blocks.len()).max().unwrap();
    let mut arrivals = Vec::new();
    for i in 0..blocks {
        let mut frames = Vec::new();
        for (slot, (speaker, encoder)) in speakers.iter().zip(&mut encoders).enumerate() {
            let Some(pcm) = speaker.pcm.get(i * BLOCK..(i + 1) * BLOCK) else {
                continue;
            };
            let frame = encoder.encode(pcm.try_into().unwrap()).unwrap();
            frames.extend(frame.map(|speech| Frame { slot: slot as u16, speech }));
        }
        let at = START.as_micros() + 20_000 * i as u64;
        let jitter = 1 + dice.below(1 + network.jitter_ms * 1_000);
        if !frames.is_empty() && dice.below(100) >= network.loss_percent {
            arrivals.push((Time::from_micros(at + 15_000 + jitter), i as u32 + 1, at, frames));
        }
    }
    arrivals.sort_by_key(|arrival| arrival.0);
    let mut arrivals = arrivals.into_iter().peekable();
    let mut mixer = Mixer::new(Duration::from_millis(100));
    let mut pcm = Vec::new();
    for i in 0..blocks as u64 + 20 {
        let at = 20_000 * i as i64;
        let at = START.as_micros() as i64 + at + at * network.drift_ppm / 1_000_000;
        let now = Time::from_micros(at as u64);
        while let Some((arrived, number, clock, frames)) =
            arrivals.next_if(|arrival| arrival.0 <= now)
        {
            let key = TickKey { room: 1, epoch: 1, number };
            mixer.push_tick(arrived, key, clock, frames);
        }
        let mut block = [0.0; BLOCK];
        mixer.pull(now, &mut block);
        assert!(block.iter().all(|sample| sample.abs() <= 1.0));
        pcm.extend_from_slice(&block);
    }
    (Heard { pcm, start: START }, mixer.stats())
}

/// Three speakers that talk at once for 20 s.
fn three() -> [Reference; 3] {
    let speech = speech();
    [(0, 20), (20, 40), (40, 60)].map(|(from, to)| reference(part(&speech, from, to)))
}

#[test]
fn every_bitrate_of_the_voice_profile_is_heard() {
    let speech = speech();
    for bitrate in [16_000, 24_000, 28_000, 32_000] {
        let mut network = CLEAN;
        network.settings.bitrate = bitrate;
        let references = [reference(part(&speech, 0, 20))];
        let (heard, stats) = listen(&references, network);
        let verdict = verdict(&references, &heard);
        assert!(verdict.hears(), "{bitrate}: {verdict:?} {stats:?}");
        assert!(verdict.speakers[0].windows >= 38);
    }
}

#[test]
fn jitter_loss_and_drift_are_heard_through() {
    let speech = speech();
    for (jitter_ms, loss_percent, drift_ppm) in
        [(0, 0, 0), (40, 0, 0), (0, 2, 0), (40, 2, 0), (10, 0, 200), (10, 0, -200)]
    {
        let network = Network { jitter_ms, loss_percent, drift_ppm, ..CLEAN };
        let references = [reference(part(&speech, 20, 50))];
        let (heard, stats) = listen(&references, network);
        let verdict = verdict(&references, &heard);
        let case = format!("{jitter_ms} ms, {loss_percent} %, {drift_ppm} ppm");
        assert!(verdict.hears(), "{case}: {verdict:?} {stats:?}");
        let lag_ms = verdict.speakers[0].lag_ms;
        assert!((60.0..200.0).contains(&lag_ms), "{case}: {lag_ms}");
    }
}

#[test]
fn three_at_once_are_each_heard() {
    let references = three();
    let (heard, stats) = listen(&references, CLEAN);
    let verdict = verdict(&references, &heard);
    assert!(verdict.hears(), "{verdict:?} {stats:?}");
}

#[test]
fn another_file_a_missing_speaker_and_silence_are_not_heard() {
    let references = three();
    let (heard, _) = listen(&references[..1], CLEAN);
    let another = verdict(&references[1..2], &heard);
    assert!(!another.hears() && another.speakers[0].share < 0.05, "{another:?}");
    let missing = verdict(&references[..2], &heard);
    assert!(!missing.hears() && missing.speakers[0].share > 0.9, "{missing:?}");
    let silence = Heard { pcm: vec![0.0; heard.pcm.len()], start: START };
    let silent = verdict(&references[..1], &silence);
    assert!(!silent.hears() && silent.speakers[0].windows > 30, "{silent:?}");
    let nothing = Heard { pcm: Vec::new(), start: START };
    assert!(!verdict(&references, &nothing).hears());
}

#[test]
fn who_is_not_audible_need_not_be_heard() {
    let mut references = three();
    let (heard, _) = listen(&references[..1], CLEAN);
    for block in &mut references[1].blocks {
        block.audible = false;
    }
    let verdict = verdict(&references[..2], &heard);
    assert!(verdict.hears() && verdict.speakers[1].windows == 0, "{verdict:?}");
}

#[test]
fn a_gap_of_a_tenth_is_noticed() {
    let references = [reference(part(&speech(), 0, 20))];
    let (mut heard, _) = listen(&references, CLEAN);
    heard.pcm[8 * 48_000..10 * 48_000].fill(0.0);
    let verdict = verdict(&references, &heard);
    assert!(!verdict.hears() && verdict.speakers[0].share > 0.8, "{verdict:?}");
}

#[test]
fn a_judge_is_quick_and_always_of_one_mind() {
    let references = three();
    let judge = Judge::new(&references[..1]);
    let (heard, _) = listen(&references[..1], CLEAN);
    let first = judge.verdict(&heard);
    let start = Instant::now();
    for _ in 0..10 {
        assert_eq!(judge.verdict(&heard), first);
    }
    // Unoptimised and on a busy machine; a release build takes a fraction of it.
    println!("{:?} a listener", start.elapsed() / 10);
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn two_at_once_are_heard_while_their_delays_move() {
    let speech = speech();
    let references = [(0, 20), (30, 50)].map(|(from, to)| reference(part(&speech, from, to)));
    for jitter_ms in [12, 25] {
        let (heard, stats) = listen(&references, Network { jitter_ms, ..CLEAN });
        let verdict = verdict(&references, &heard);
        assert!(verdict.hears(), "{jitter_ms} ms: {verdict:?} {stats:?}");
    }
}
