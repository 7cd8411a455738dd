//! The target for what a browser's connection sends around its control stream.

use bytes::Bytes;
use stentor_relay::quic::webtransport::{Breach, Step, WebTransport};

/// The opening and the end of a WebTransport session: whatever comes on whichever stream, the outcome
/// is the same wherever the bytes are cut, unless they are too many.
///
/// A piece has one step at most: what comes with a breach or with the session's end in one piece may
/// go without its own answer, for the connection closes with either.
pub fn webtransport(data: &[u8]) {
    let whole = run(data, usize::MAX);
    let cut = run(data, 1);
    if whole.breach == Some(Breach::Excess) || cut.breach == Some(Breach::Excess) {
        return;
    }
    assert_eq!(whole.breach, cut.breach);
    let mut steps = cut.steps.iter();
    assert!(whole.steps.iter().all(|step| steps.any(|other| other == step)), "{whole:?}\n{cut:?}");
    if whole.breach.is_some() {
        assert!(cut.control.starts_with(&whole.control), "{whole:?}\n{cut:?}");
    } else {
        assert_eq!((whole.steps.last(), &whole.control), (cut.steps.last(), &cut.control));
    }
}

#[derive(Debug, Default, PartialEq)]
struct Outcome {
    steps: Vec<Step>,
    control: Vec<u8>,
    breach: Option<Breach>,
}

/// Bytes as a script: which stream, how many bytes, the bytes. Each piece is handed in `at_once` bytes
/// at a time.
fn run(mut data: &[u8], at_once: usize) -> Outcome {
    let (mut machine, mut outcome) = (WebTransport::new(), Outcome::default());
    let mut refused = [false; 4];
    while let [which, length, rest @ ..] = data {
        let (piece, later) = rest.split_at(rest.len().min(usize::from(*length)));
        data = later;
        let stream = usize::from(which >> 4 & 3);
        for bytes in piece.chunks(at_once) {
            let step = match which & 3 {
                0 if refused[stream] => Ok(Step::Nothing),
                0 => machine.handle_uni(stream as u64, bytes),
                1 => machine.handle_connect(bytes),
                _ => machine.handle_control(Bytes::copy_from_slice(bytes)).map(|bytes| {
                    outcome.control.extend_from_slice(&bytes.unwrap_or_default());
                    Step::Nothing
                }),
            };
            refused[stream] |= step == Ok(Step::Refuse);
            if over(&mut outcome, step) {
                return outcome;
            }
        }
        let end = match which & 0b1100 {
            0b0100 => machine.handle_uni_finished(stream as u64).map(|()| Step::Nothing),
            0b1000 => machine.handle_connect_finished(),
            _ => Ok(Step::Nothing),
        };
        if over(&mut outcome, end) {
            return outcome;
        }
    }
    outcome
}

/// Notes a step; whether it was the last.
fn over(outcome: &mut Outcome, step: Result<Step, Breach>) -> bool {
    match step {
        Ok(Step::Nothing) => false,
        Ok(step) => {
            let over = matches!(step, Step::Ended { .. });
            outcome.steps.push(step);
            over
        }
        Err(breach) => {
            outcome.breach = Some(breach);
            true
        }
    }
}
