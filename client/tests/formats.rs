//! Sound in and out, in every format, whole and damaged.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use hound::{SampleFormat, WavSpec};
use stentor_client::audio::input::{InputError, collect};
use stentor_client::audio::{BLOCK, Block, Format, Sink, Source, default_speech, load};

fn tone(hertz: f64, rate: u32, i: usize) -> f64 {
    0.5 * (i as f64 * hertz / f64::from(rate) * std::f64::consts::TAU).sin()
}

/// A second and a bit of a tone of 440 Hz, the same on all channels.
fn wav(rate: u32, bits: u16, format: SampleFormat, channels: u16) -> Vec<u8> {
    let spec =
        WavSpec { channels, sample_rate: rate, bits_per_sample: bits, sample_format: format };
    let mut bytes = io::Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
    for i in 0..rate as usize + 123 {
        for _ in 0..channels {
            let sample = tone(440.0, rate, i);
            match format {
                SampleFormat::Float => writer.write_sample(sample as f32).unwrap(),
                SampleFormat::Int => {
                    let full = ((1_i64 << (bits - 1)) - 1) as f64;
                    writer.write_sample((sample * full).round() as i32).unwrap();
                }
            }
        }
    }
    writer.finalize().unwrap();
    bytes.into_inner()
}

fn read(bytes: Vec<u8>) -> Result<Vec<f32>, InputError> {
    // Tests hand over a few megabytes that live until the end.
    collect(Source::from_bytes("it", Vec::leak(bytes))?)
}

fn assert_tone(samples: &[f32], tolerance: f64, what: &str) {
    let len = 48_000 * 98 / 100;
    assert!(samples.len() > 48_000 && samples.len() < 51_000, "{what}: {}", samples.len());
    for (i, sample) in samples.iter().enumerate().take(len).skip(960) {
        let want = tone(440.0, 48_000, i);
        assert!(
            (f64::from(*sample) - want).abs() < tolerance,
            "{what} at {i}: {sample}, not {want}"
        );
    }
}

#[test]
fn wav_of_every_width_rate_and_channel_count() {
    for (bits, format) in [
        (8, SampleFormat::Int),
        (16, SampleFormat::Int),
        (24, SampleFormat::Int),
        (32, SampleFormat::Int),
        (32, SampleFormat::Float),
    ] {
        let samples = read(wav(48_000, bits, format, 1)).unwrap();
        assert_tone(&samples, if bits == 8 { 0.01 } else { 1e-3 }, &format!("{bits} {format:?}"));
    }
    for rate in [8_000, 11_025, 22_050, 44_100, 48_000, 96_000] {
        for channels in [1, 2, 6] {
            let samples = read(wav(rate, 16, SampleFormat::Int, channels)).unwrap();
            assert_tone(&samples, 0.01, &format!("{rate} Hz, {channels} channels"));
        }
    }
}

fn temporary(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("stentor-formats-{}-{name}", std::process::id()))
}

fn blocks(seconds: usize) -> impl Iterator<Item = Block> {
    (0..seconds * 50).map(|b| std::array::from_fn(|i| tone(440.0, 48_000, b * BLOCK + i) as f32))
}

#[test]
fn what_is_written_to_a_file_is_read_again() {
    for (format, name, tolerance) in
        [(Format::Wav, "a.wav", 1e-3), (Format::OggOpus, "a.opus", 0.05)]
    {
        let path = temporary(name);
        assert_eq!(Format::of_path(&path), Some(format));
        let mut sink = Sink::create(&path, format).unwrap();
        for block in blocks(1) {
            sink.write(&block).unwrap();
        }
        sink.finish().unwrap();
        let samples = load(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        // Pre-skip and the last granule position make the length exact.
        assert_eq!(samples.len(), 48_000, "{format:?}");
        for (i, sample) in samples.iter().enumerate().skip(2_000).take(44_000) {
            let want = tone(440.0, 48_000, i) as f32;
            assert!((sample - want).abs() < tolerance, "{format:?} {i}: {sample} {want}");
        }
    }
}

#[derive(Clone, Default)]
struct Pipe(Arc<Mutex<Vec<u8>>>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_is_written_to_a_pipe_is_read_even_unfinished() {
    for (format, finished) in [
        (Format::Wav, true),
        (Format::Wav, false),
        (Format::Raw, true),
        (Format::OggOpus, true),
        (Format::OggOpus, false),
    ] {
        let pipe = Pipe::default();
        let mut sink = Sink::stream("stdout", pipe.clone(), format).unwrap();
        for block in blocks(1) {
            sink.write(&block).unwrap();
        }
        if finished {
            sink.finish().unwrap();
        } else {
            drop(sink);
        }
        let bytes = pipe.0.lock().unwrap().clone();
        let samples = match format {
            Format::Raw => collect(Source::raw("pipe", io::Cursor::new(bytes))).unwrap(),
            _ => read(bytes).unwrap(),
        };
        assert!((38_400..=48_000).contains(&samples.len()), "{format:?} {}", samples.len());
    }
}

/// Gives way after some bytes.
struct Full(usize, io::ErrorKind);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(self.1)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_and_a_broken_pipe_are_named() {
    for (kind, says) in [
        (io::ErrorKind::StorageFull, "take.wav: the disk is full"),
        (io::ErrorKind::BrokenPipe, "take.wav: the reader of the pipe has gone"),
    ] {
        for format in [Format::Wav, Format::OggOpus, Format::Raw] {
            let mut sink = Sink::stream("take.wav", Full(4_000, kind), format).unwrap();
            let error = blocks(10).find_map(|block| sink.write(&block).err());
            assert_eq!(error.unwrap().to_string(), says, "{format:?}");
        }
    }
    assert!(Sink::create("/nowhere/at/all.wav", Format::Wav).is_err());
}

#[test]
fn the_default_speech_is_a_minute_and_loops() {
    let samples = collect(Source::from_bytes("speech.opus", default_speech()).unwrap()).unwrap();
    assert_eq!(samples.len(), 60 * 48_000);
    let looped = Source::from_bytes("speech.opus", default_speech()).unwrap().looped(true);
    assert_eq!(looped.take(3_500).filter(|block| block.is_ok()).count(), 3_500);
}

#[test]
fn damage_is_an_error_or_sound_and_never_a_panic() {
    let speech = &default_speech()[..30_000];
    let wave = wav(44_100, 16, SampleFormat::Int, 2);
    let wave = &wave[..30_000];
    let mut state = 1_u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as usize
    };
    for whole in [speech, wave] {
        for len in (0..200).chain((200..whole.len()).step_by(1_777)) {
            if let Err(error) = read(whole[..len].to_vec()) {
                assert!(error.to_string().starts_with("it: "), "{error}");
            }
        }
        for _ in 0..400 {
            let mut damaged = whole[..8_000].to_vec();
            for _ in 0..1 + random() % 4 {
                let at = random() % if random() % 2 == 0 { 120 } else { 8_000 };
                damaged[at] = random() as u8;
            }
            let _ = read(damaged);
        }
    }
    for len in [1, 11, 12, 500] {
        for magic in [&b""[..], b"OggS", b"RIFF\0\0\0\0WAVE"] {
            let mut bytes = magic.to_vec();
            bytes.extend((0..len).map(|_| random() as u8));
            assert!(read(bytes).is_err());
        }
    }
    let says = |bytes: &[u8]| read(bytes.to_vec()).unwrap_err().to_string();
    assert_eq!(says(b""), "it: holds no sound");
    assert!(says(b"ID3 and so on").contains("is neither Ogg Opus nor WAV"));
    assert!(says(&wave[..20_000]).contains("it ends after 4989 of"), "{}", says(&wave[..20_000]));
    assert!(says(&speech[..29_999]).contains("is corrupt: it ends within the page after packet"));
    let error = load("/nowhere/at/all.opus").unwrap_err().to_string();
    assert!(error.starts_with("/nowhere/at/all.opus: cannot be read"), "{error}");
}
