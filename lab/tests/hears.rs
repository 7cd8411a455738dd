//! From a speaker's file to the verdict on what a listener played, the network being simulated.

use std::time::{Duration, Instant};

use stentor_client::audio::{
    BLOCK, Encoder, EncoderSettings, Mixer, MixerStats, Source, default_speech, input,
};
use stentor_lab::hears::{Block, HEARD, Heard, Judge, Reference, Verdict, verdict};
use stentor_proto::Time;
use stentor_proto::wire::{Frame, TickKey};

/// A small generator, so that each run is the same.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
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
    settings: EncoderSettings {
        bitrate: 28_000,
        loss_percent: 5,
        dtx: true,
        constant: false,
    },
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
        .map(|i| Block {
            at: START + Duration::from_millis(20 * i as u64),
            audible: true,
        })
        .collect();
    Reference { pcm, blocks }
}

/// Sends the speakers' sound through a network and mixes what arrives.
fn listen(speakers: &[Reference], network: Network) -> (Heard, MixerStats) {
    let mut dice = Dice(4);
    let mut encoders: Vec<Encoder> = speakers
        .iter()
        .map(|_| Encoder::new(network.settings).unwrap())
        .collect();
    let blocks = speakers.iter().map(|r| r.blocks.len()).max().unwrap();
    let mut arrivals = Vec::new();
    for i in 0..blocks {
        let mut frames = Vec::new();
        for (slot, (speaker, encoder)) in speakers.iter().zip(&mut encoders).enumerate() {
            let Some(pcm) = speaker.pcm.get(i * BLOCK..(i + 1) * BLOCK) else {
                continue;
            };
            let frame = encoder.encode(pcm.try_into().unwrap()).unwrap();
            frames.extend(frame.map(|speech| Frame {
                slot: slot as u16,
                speech,
            }));
        }
        let at = START.as_micros() + 20_000 * i as u64;
        let jitter = 1 + dice.below(1 + network.jitter_ms * 1_000);
        if !frames.is_empty() && dice.below(100) >= network.loss_percent {
            arrivals.push((
                Time::from_micros(at + 15_000 + jitter),
                i as u32 + 1,
                at,
                frames,
            ));
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
            let key = TickKey {
                room: 1,
                epoch: 1,
                number,
            };
            mixer.push_tick(arrived, key, clock, frames);
        }
        let mut block = [0.0; BLOCK];
        mixer.pull(now, &mut block);
        assert!(block.iter().all(|sample| sample.abs() <= 1.0));
        pcm.extend_from_slice(&block);
    }
    (Heard { pcm, start: START }, mixer.stats())
}

fn show(name: &str, verdict: &Verdict, stats: MixerStats) {
    println!("{name}: {verdict:?}\n  {stats:?}");
}

#[test]
fn bitrates() {
    let speech = speech();
    for bitrate in [16_000, 24_000, 28_000, 32_000, 48_000] {
        let mut network = CLEAN;
        network.settings.bitrate = bitrate;
        let references = [reference(part(&speech, 0, 20))];
        let (heard, stats) = listen(&references, network);
        show(&format!("{bitrate}"), &verdict(&references, &heard), stats);
    }
}

#[test]
fn networks() {
    let speech = speech();
    for (jitter_ms, loss_percent) in [(0, 0), (40, 0), (0, 2), (40, 2), (80, 5)] {
        let network = Network {
            jitter_ms,
            loss_percent,
            ..CLEAN
        };
        let references = [reference(part(&speech, 20, 50))];
        let (heard, stats) = listen(&references, network);
        show(
            &format!("{jitter_ms} ms {loss_percent} %"),
            &verdict(&references, &heard),
            stats,
        );
    }
}

#[test]
fn together() {
    let speech = speech();
    let references = [
        reference(part(&speech, 0, 20)),
        reference(part(&speech, 20, 40)),
        reference(part(&speech, 40, 60)),
    ];
    for n in [2, 3] {
        let (heard, stats) = listen(&references[..n], CLEAN);
        show(
            &format!("{n} at once"),
            &verdict(&references[..n], &heard),
            stats,
        );
    }
    let (heard, stats) = listen(&references[..1], CLEAN);
    show("another", &verdict(&references[1..2], &heard), stats);
    show("one missing", &verdict(&references[..2], &heard), stats);
    let judge = Judge::new(&references);
    let start = Instant::now();
    for _ in 0..10 {
        let _ = judge.verdict(&heard);
    }
    println!("{:?} a listener; {HEARD}", start.elapsed() / 10);
}
