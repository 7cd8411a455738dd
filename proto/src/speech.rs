//! The speaker's side of the first hop: redundancy with every frame, and answers to the origin.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::limits;
use crate::wire::{Framing, SpeechFrame, SpeechRequest, speech_bytes};

/// Frames that a speaker keeps for the origin's requests: 320 ms, five times as long as it asks.
const KEPT: usize = 16;

/// What a speaker sends: each frame with the two before it, and what the origin asks for again.
#[derive(Clone, Debug)]
pub struct SpeechSender {
    framing: Framing,
    slot: u16,
    /// The newest first.
    kept: VecDeque<SpeechFrame>,
    repaired: u64,
}

impl SpeechSender {
    /// A sender for the slot that the origin gave.
    #[must_use]
    pub fn new(framing: Framing, slot: u16) -> Self {
        Self { framing, slot, kept: VecDeque::with_capacity(KEPT), repaired: 0 }
    }

    /// The datagram for a new frame: the frame and as many of the previous two as fit.
    pub fn push(&mut self, frame: SpeechFrame) -> Bytes {
        self.kept.truncate(KEPT - 1);
        self.kept.push_front(frame);
        let count = self.fitting(self.kept.iter().take(1 + limits::EARLIER_FRAMES as usize));
        speech_bytes(self.framing, self.slot, self.kept.iter().take(count))
    }

    /// The datagram that answers a request, if any of what is asked for is still kept.
    pub fn answer(&mut self, request: &SpeechRequest) -> Option<Bytes> {
        if request.slot != self.slot {
            return None;
        }
        let asked = |frame: &&SpeechFrame| {
            let offset = frame.seq.wrapping_sub(request.first);
            offset < 32 && request.mask & (1 << offset) != 0
        };
        let found: Vec<&SpeechFrame> = self.kept.iter().filter(asked).collect();
        let count = self.fitting(found.iter().copied().take(limits::FRAMES_PER_SPEECH));
        self.repaired += count as u64;
        let frames = found[..count].iter().copied();
        (count > 0).then(|| speech_bytes(self.framing, self.slot, frames))
    }

    /// Frames sent again because the origin asked.
    #[must_use]
    pub const fn repaired(&self) -> u64 {
        self.repaired
    }

    /// How many of `frames` fit into one datagram; the first always does.
    fn fitting<'a>(&self, frames: impl Iterator<Item = &'a SpeechFrame>) -> usize {
        let mut left = limits::DATAGRAM_BYTES - limits::SPEECH_HEADER_BYTES;
        let fits = |frame: &&SpeechFrame| {
            let size = limits::SPEECH_FRAME_HEADER_BYTES + frame.opus.len();
            left.checked_sub(size).inspect(|rest| left = *rest).is_some()
        };
        frames.take_while(fits).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Datagram;

    fn frame(seq: u32, bytes: usize) -> SpeechFrame {
        SpeechFrame { seq, level: 20, voice: true, opus: Bytes::from(vec![8; bytes]) }
    }

    fn seqs(bytes: Bytes) -> Vec<u32> {
        match Datagram::parse(bytes).unwrap() {
            Datagram::Speech { slot: 3, frames } => frames.iter().map(|f| f.seq).collect(),
            other => panic!("not speech: {other:?}"),
        }
    }

    #[test]
    fn every_frame_carries_the_two_before_it() {
        let mut sender = SpeechSender::new(Framing::Quic, 3);
        assert_eq!(seqs(sender.push(frame(1, 80))), [1]);
        assert_eq!(seqs(sender.push(frame(2, 80))), [2, 1]);
        assert_eq!(seqs(sender.push(frame(3, 80))), [3, 2, 1]);
        assert_eq!(seqs(sender.push(frame(4, 80))), [4, 3, 2]);
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let mut sender = SpeechSender::new(Framing::Quic, 3);
        sender.push(frame(1, 600));
        assert_eq!(seqs(sender.push(frame(2, 600))), [2]);
    }

    #[test]
    fn requests_are_answered_from_what_is_kept() {
        let mut sender = SpeechSender::new(Framing::Quic, 3);
        for seq in 0..40 {
            sender.push(frame(u32::MAX.wrapping_add(seq).wrapping_sub(20), 40));
        }
        let first = 10;
        let request = SpeechRequest { slot: 3, first, mask: 0b1011 };
        assert_eq!(seqs(sender.answer(&request).unwrap()), [13, 11, 10]);
        assert!(sender.answer(&SpeechRequest { slot: 4, ..request }).is_none());
        assert!(sender.answer(&SpeechRequest { first: 1_000, ..request }).is_none());
        assert_eq!(sender.repaired(), 3);
    }
}
