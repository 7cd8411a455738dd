//! The first hop: one speaker's frames, checked, deduplicated, and asked for where they are missing.
//!
//! Frames are passed on in order within a datagram and at once; a frame that was asked for follows
//! out of order when it comes. Nobody waits for a missing frame: listeners order by its number.

use std::time::Duration;

use super::opus::is_opus_20ms;
use super::profile::Profile;
use super::stats::RoomStats;
use crate::wire::{SpeechFrame, SpeechRequest};
use crate::{Time, limits};

/// A frame that passed.
#[derive(Clone, Debug)]
pub(super) struct Fresh {
    /// The frame.
    pub(super) frame: SpeechFrame,
    /// Whether the frame's own datagram did not bring it: a copy or an answer did.
    pub(super) late: bool,
}

/// One speaker's side of the first hop.
///
/// `handle` and `handle_timeout` take input; after each, `poll_request` is drained, and
/// `handle_timeout` is due at `poll_timeout`.
#[derive(Debug)]
pub(super) struct Ingest {
    slot: u16,
    frame_bytes: usize,
    frame_rate: Bucket,
    byte_rate: Bucket,
    heard: Option<Heard>,
    jump: Option<Jump>,
    missing: Vec<Missing>,
    now: Time,
}

/// Which frames around the newest are had.
#[derive(Clone, Copy, Debug)]
struct Heard {
    newest: u32,
    /// Bit i: frame `newest − i` is had, or is not worth having.
    had: u64,
    /// Bit i: frame `newest − i` was given up.
    lost: u64,
}

/// Another count than the one followed, with how often it was seen in a row.
#[derive(Clone, Copy, Debug)]
struct Jump {
    seq: u32,
    proofs: u8,
}

#[derive(Clone, Copy, Debug)]
struct Missing {
    seq: u32,
    since: Time,
    due: Time,
    tries: u8,
}

/// Where a frame's number stands.
enum Place {
    /// It is the newest.
    Ahead,
    /// It fills a gap.
    Gap,
    /// It is had.
    Had,
    /// It is older than the window, or was given up.
    Old,
    /// It belongs to another count.
    Far,
}

impl Ingest {
    pub(super) fn new(slot: u16, profile: &Profile, now: Time) -> Self {
        let per_s = limits::FRAMES_PER_S * (1_000 + limits::FRAME_RATE_MARGIN_PERMILLE);
        let bytes = profile.bytes_per_s();
        Self {
            slot,
            frame_bytes: usize::from(profile.frame_bytes),
            // Counted in thousandths of a frame.
            frame_rate: Bucket::new(per_s.into(), u64::from(limits::FRAME_BURST) * 1_000, now),
            byte_rate: Bucket::new(bytes, bytes, now),
            heard: None,
            jump: None,
            missing: Vec::new(),
            now,
        }
    }

    /// Takes the frames of one datagram, the newest first; returns what passed, the oldest first.
    pub(super) fn handle(
        &mut self,
        now: Time,
        mut frames: Vec<SpeechFrame>,
        stats: &mut RoomStats,
    ) -> Vec<Fresh> {
        self.handle_timeout(now, stats);
        let Some(head) = frames.first().map(|frame| frame.seq) else {
            return Vec::new();
        };
        frames.truncate(limits::FRAMES_PER_SPEECH);
        frames.sort_by_key(|frame| std::cmp::Reverse(head.wrapping_sub(frame.seq)));
        if !self.follows(head, &frames, stats) {
            stats.jumped += frames.len() as u64;
            return Vec::new();
        }
        let copies = frames.len() - 1;
        let mut fresh = Vec::with_capacity(frames.len());
        for frame in frames {
            let copy = frame.seq != head;
            let Some(late) = self.settle(frame.seq, copy, stats) else {
                continue;
            };
            if self.passes(&frame, stats) {
                fresh.push(Fresh { frame, late });
            }
        }
        self.hasten(head, copies);
        fresh
    }

    /// Gives up what has been missing for too long.
    pub(super) fn handle_timeout(&mut self, now: Time, stats: &mut RoomStats) {
        self.now = self.now.max(now);
        while let Some(i) = (self.missing.iter())
            .position(|missing| self.now >= missing.since + limits::FIRST_HOP_REPAIR)
        {
            let seq = self.missing.remove(i).seq;
            self.give_up(seq, stats);
        }
    }

    /// When `handle_timeout` is due, if ever.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let times = self.missing.iter().map(|missing| {
            let lost = missing.since + limits::FIRST_HOP_REPAIR;
            let asks = missing.tries < limits::FIRST_HOP_TRIES && missing.due > self.now;
            if asks { lost.min(missing.due) } else { lost }
        });
        times.min()
    }

    /// The next request to the speaker, if one is due.
    pub(super) fn poll_request(&mut self) -> Option<SpeechRequest> {
        let now = self.now;
        let due = |missing: &Missing| missing.due <= now && missing.tries < limits::FIRST_HOP_TRIES;
        let first = self.missing.iter().find(|missing| due(missing))?.seq;
        let mut mask = 0_u32;
        for missing in &mut self.missing {
            let offset = missing.seq.wrapping_sub(first);
            let full = mask.count_ones() as usize == limits::FRAMES_PER_SPEECH;
            if due(missing) && offset < u32::BITS && !full {
                mask |= 1 << offset;
                missing.tries += 1;
                missing.due = now + limits::FIRST_HOP_RETRY;
            }
        }
        Some(SpeechRequest { slot: self.slot, first, mask })
    }

    /// Whether the datagram belongs to the count that is followed. A count far away is followed
    /// once it has shown itself in a few datagrams in a row: one forged number moves nothing.
    fn follows(&mut self, head: u32, frames: &[SpeechFrame], stats: &mut RoomStats) -> bool {
        if let Some(heard) = &self.heard {
            if heard.distance(head).unsigned_abs() <= limits::SEQ_AHEAD {
                self.jump = None;
                return true;
            }
            let near = 1..=limits::FRAMES_PER_SPEECH as u32;
            let proofs = match self.jump {
                Some(jump) if near.contains(&head.wrapping_sub(jump.seq)) => jump.proofs + 1,
                _ => 1,
            };
            self.jump = Some(Jump { seq: head, proofs });
            if proofs < limits::SEQ_JUMP_PROOFS {
                return false;
            }
            stats.restarts += 1;
            stats.lost += self.missing.len() as u64;
        }
        self.jump = None;
        self.missing.clear();
        let behind = |frame: &SpeechFrame| head.wrapping_sub(frame.seq);
        let repeated = (frames.iter().map(behind))
            .filter(|&behind| behind < limits::FRAMES_PER_SPEECH as u32)
            .max()
            .unwrap_or(0);
        self.heard = Some(Heard {
            newest: head.wrapping_sub(repeated).wrapping_sub(1),
            had: u64::MAX,
            lost: 0,
        });
        true
    }

    /// Counts a number as had. Returns whether it is late if the frame is new, else `None`.
    fn settle(&mut self, seq: u32, copy: bool, stats: &mut RoomStats) -> Option<bool> {
        let late = match self.place(seq, stats) {
            Place::Ahead => copy,
            Place::Gap => true,
            Place::Had => {
                let counter = if copy { &mut stats.redundant } else { &mut stats.duplicate };
                *counter += 1;
                return None;
            }
            Place::Old => {
                stats.old += 1;
                return None;
            }
            Place::Far => {
                stats.jumped += 1;
                return None;
            }
        };
        let asked = (self.missing.iter().position(|missing| missing.seq == seq))
            .is_some_and(|i| self.missing.remove(i).tries > 0);
        stats.repaired += u64::from(asked);
        stats.recovered += u64::from(late && !asked);
        Some(late)
    }

    /// Finds a number's place and marks it as had.
    fn place(&mut self, seq: u32, stats: &mut RoomStats) -> Place {
        let Some(heard) = &mut self.heard else {
            return Place::Far;
        };
        let distance = heard.distance(seq);
        if distance.unsigned_abs() > limits::SEQ_AHEAD {
            return Place::Far;
        }
        if distance > 0 {
            self.advance(seq, distance.unsigned_abs(), stats);
            return Place::Ahead;
        }
        let Some(bit) = heard.bit(seq) else {
            return Place::Old;
        };
        if heard.lost & bit != 0 {
            return Place::Old;
        }
        if heard.had & bit != 0 {
            return Place::Had;
        }
        heard.had |= bit;
        Place::Gap
    }

    /// Moves the newest to `seq`, `by` frames ahead; what lies between is missing.
    fn advance(&mut self, seq: u32, by: u32, stats: &mut RoomStats) {
        if let Some(heard) = &mut self.heard {
            heard.newest = seq;
            heard.had = heard.had.checked_shl(by).unwrap_or(0) | 1;
            heard.lost = heard.lost.checked_shl(by).unwrap_or(0);
        }
        for back in (1..by).rev() {
            let seq = seq.wrapping_sub(back);
            // An outage leaves more than a speaker keeps, and more than is worth hearing.
            if back as usize > limits::FRAMES_PER_SPEECH {
                self.give_up(seq, stats);
                continue;
            }
            if self.missing.len() == limits::FIRST_HOP_MISSING {
                let oldest = self.missing.remove(0).seq;
                self.give_up(oldest, stats);
            }
            self.missing.push(Missing {
                seq,
                since: self.now,
                due: self.now + limits::FIRST_HOP_PATIENCE,
                tries: 0,
            });
        }
    }

    /// Makes a gap due at once when no datagram after that of `head` carries it, going by the
    /// `copies` of earlier frames that this one held (two, where they fit).
    fn hasten(&mut self, head: u32, copies: usize) {
        let carried_until = (copies as u32).clamp(1, limits::EARLIER_FRAMES);
        for missing in &mut self.missing {
            let behind = head.wrapping_sub(missing.seq);
            let passed = (carried_until..=limits::SEQ_AHEAD).contains(&behind);
            if passed && missing.tries == 0 {
                missing.due = missing.due.min(self.now);
            }
        }
    }

    fn give_up(&mut self, seq: u32, stats: &mut RoomStats) {
        stats.lost += 1;
        if let Some(heard) = &mut self.heard
            && let Some(bit) = heard.bit(seq)
        {
            heard.lost |= bit;
        }
    }

    fn passes(&mut self, frame: &SpeechFrame, stats: &mut RoomStats) -> bool {
        if frame.opus.len() > self.frame_bytes {
            stats.oversized += 1;
        } else if !is_opus_20ms(&frame.opus) {
            stats.bad_opus += 1;
        } else if !self.frame_rate.take(1_000, self.now) {
            stats.too_fast += 1;
        } else if !self.byte_rate.take(frame.opus.len() as u64, self.now) {
            stats.over_rate += 1;
        } else {
            stats.frames_in += 1;
            return true;
        }
        false
    }
}

impl Heard {
    /// How far `seq` is ahead of the newest; negative behind it. Numbers wrap around.
    fn distance(&self, seq: u32) -> i32 {
        seq.wrapping_sub(self.newest).cast_signed()
    }

    /// The bit of `seq`, which is not ahead of the newest, if the window reaches so far back.
    fn bit(&self, seq: u32) -> Option<u64> {
        1_u64.checked_shl(self.newest.wrapping_sub(seq))
    }
}

/// A token bucket: `per_s` units a second, at most `most` at once.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    per_s: u64,
    /// Capacity and level in millionths of a unit, so that microseconds refill whole numbers.
    most: u64,
    level: u64,
    at: Time,
}

const MILLIONTHS: Duration = Duration::from_secs(1);

impl Bucket {
    fn new(per_s: u64, most: u64, now: Time) -> Self {
        let most = most * MILLIONTHS.as_micros() as u64;
        Self { per_s, most, level: most, at: now }
    }

    fn take(&mut self, units: u64, now: Time) -> bool {
        let micros = now.as_micros().saturating_sub(self.at.as_micros());
        self.at = self.at.max(now);
        let refill = micros.saturating_mul(self.per_s);
        self.level = self.level.saturating_add(refill).min(self.most);
        let cost = units * MILLIONTHS.as_micros() as u64;
        let enough = self.level >= cost;
        if enough {
            self.level -= cost;
        }
        enough
    }
}
