//! The closing rule: which frames leave as one tick, and when.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::phases::Phases;
use super::stats::RoomStats;
use crate::wire::{Frame, SpeechFrame};
use crate::{Time, limits};

/// A tick that has closed.
#[derive(Debug)]
pub(super) struct Closed {
    /// Its frames; none in a heartbeat.
    pub(super) frames: Vec<Frame>,
    /// How long the first of them waited.
    pub(super) collect: Duration,
}

/// Collects the frames of a room's speakers into ticks.
///
/// `push` takes frames; `poll` closes a tick when one is due, and is called after each push and
/// at `deadline`. Both take the audible slots, the first to be served first.
#[derive(Debug)]
pub(super) struct Collector {
    /// Frames of one speaker that a tick holds: 1, 2 or 3.
    frames: usize,
    /// Bytes of a tick's frames at most.
    bytes: usize,
    voices: BTreeMap<u16, Voice>,
    open: Option<Open>,
    /// Ticks closed so far.
    closed: u64,
    last_close: Option<Time>,
    phases: Phases,
    heartbeat: Heartbeat,
}

/// What waits of one speaker.
#[derive(Debug, Default)]
struct Voice {
    /// In the order of the speaker's count.
    waiting: VecDeque<Waiting>,
    /// Those of `waiting` that came in their own time, not as a copy or an answer.
    current: usize,
    /// Those of `current` that the last tick left behind.
    carried: usize,
    /// The number of the last tick that held a frame of this speaker.
    last_tick: Option<u64>,
    /// The newest frame says that a pause begins.
    pauses: bool,
}

#[derive(Debug)]
struct Waiting {
    speech: SpeechFrame,
    at: Time,
    late: bool,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    at: Time,
    /// Whose current frame opened the tick; none while it holds only late ones.
    opener: Option<u16>,
}

/// When the next heartbeat is due in silence.
#[derive(Debug)]
struct Heartbeat {
    /// When the last speech ended.
    since: Time,
    sent: usize,
    next: Time,
}

impl Collector {
    /// A collector whose ticks hold `frames` frames of a speaker and `bytes` bytes of frames.
    pub(super) fn new(frames: usize, bytes: usize, now: Time) -> Self {
        Self {
            frames,
            bytes,
            voices: BTreeMap::new(),
            open: None,
            closed: 0,
            last_close: None,
            phases: Phases::default(),
            heartbeat: Heartbeat {
                since: now,
                sent: 0,
                next: now + scaled(limits::HEARTBEATS[0], frames),
            },
        }
    }

    /// Takes a frame. A `late` one is a copy or an answer: it rides along and decides nothing.
    pub(super) fn push(
        &mut self,
        now: Time,
        slot: u16,
        speech: SpeechFrame,
        late: bool,
        stats: &mut RoomStats,
    ) {
        let voice = self.voices.entry(slot).or_default();
        if voice.waiting.len() == limits::PENDING_FRAMES {
            stats.surplus_full += 1;
            return;
        }
        if !late {
            voice.current += 1;
            voice.pauses = speech.opus.len() <= limits::PAUSE_BYTES;
        }
        voice.insert(Waiting { speech, at: now, late });
        let open = self.open.get_or_insert(Open { at: now, opener: None });
        if !late {
            open.opener.get_or_insert(slot);
        }
    }

    /// Drops what waits of a slot; returns how many frames that were.
    pub(super) fn clear(&mut self, slot: u16) -> usize {
        let dropped = (self.voices.remove(&slot)).map_or(0, |voice| voice.waiting.len());
        if dropped > 0 {
            self.reopen(self.open.map_or(Time::ZERO, |open| open.at));
        }
        dropped
    }

    /// Frames that wait for a tick.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.voices.values().map(|voice| voice.waiting.len()).sum()
    }

    /// When `poll` closes a tick if nothing else comes before.
    pub(super) fn deadline(&self, audible: &[u16]) -> Time {
        let apart = (self.last_close)
            .map_or(Time::ZERO, |at| at + scaled(limits::CLOSE_APART, self.frames));
        let due = match self.open {
            None => self.heartbeat.next,
            Some(open) if self.is_complete(open, audible) => open.at,
            Some(open) => open.at + scaled(limits::CLOSE_AFTER, self.frames),
        };
        due.max(apart)
    }

    /// Closes the tick that is due, if one is.
    pub(super) fn poll(
        &mut self,
        now: Time,
        audible: &[u16],
        stats: &mut RoomStats,
    ) -> Option<Closed> {
        if now < self.deadline(audible) {
            return None;
        }
        self.expire(now, stats);
        let came = self.shares(audible);
        self.phases.closes(came, scaled(limits::TICK, self.frames));
        let closed = self.take(now, audible);
        self.closed += 1;
        self.last_close = Some(now);
        stats.ticks += 1;
        stats.frames_out += closed.frames.len() as u64;
        if closed.frames.is_empty() {
            stats.heartbeats += 1;
            self.heartbeat.beat(now, self.frames);
        } else {
            self.heartbeat.restart(now, self.frames);
        }
        for frame in &closed.frames {
            if let Some(voice) = self.voices.get_mut(&frame.slot) {
                voice.last_tick = Some(self.closed);
            }
        }
        for voice in self.voices.values_mut() {
            voice.carried = voice.current;
        }
        let now_closed = self.closed;
        (self.voices)
            .retain(|_, voice| !voice.waiting.is_empty() || voice.spoke_lately(now_closed));
        self.reopen(now);
        Some(closed)
    }

    /// Whether every expected speaker, and whoever opened the tick, has a frame in it (in a room
    /// of 40 or 60 ms: two or three), or the opener has one more than the tick takes.
    ///
    /// A speaker whose newest frame announces a pause is not waited for.
    fn is_complete(&self, open: Open, audible: &[u16]) -> bool {
        let Some(opener) = open.opener.and_then(|slot| self.voices.get(&slot)) else {
            return false;
        };
        if opener.current > self.frames + usize::from(opener.carried > 0) {
            return true;
        }
        let ready = |voice: &Voice| voice.current >= self.frames || voice.pauses;
        if let Some(early) = self.phases.early()
            && early.iter().all(|slot| self.voices.get(slot).is_some_and(ready))
        {
            return true;
        }
        let expected = |voice: &&Voice| voice.spoke_lately(self.closed);
        let mut audible = audible.iter().filter_map(|slot| self.voices.get(slot));
        ready(opener) && audible.by_ref().filter(expected).all(ready)
    }

    /// When each expected speaker's share of the tick was there; empty if anyone has more or less.
    fn shares(&self, audible: &[u16]) -> Vec<(Time, u16)> {
        let voices = audible.iter().filter_map(|slot| Some((*slot, self.voices.get(slot)?)));
        let expected = voices.filter(|(_, voice)| voice.spoke_lately(self.closed));
        let share = |(slot, voice): (u16, &Voice)| {
            let exact = voice.current == self.frames && voice.waiting.len() == self.frames;
            voice.waiting.back().filter(|_| exact).map(|last| (last.at, slot))
        };
        expected.map(share).collect::<Option<_>>().unwrap_or_default()
    }

    /// Drops what has waited for too long.
    fn expire(&mut self, now: Time, stats: &mut RoomStats) {
        let wait = scaled(limits::SURPLUS_WAIT, self.frames);
        for voice in self.voices.values_mut() {
            let before = voice.waiting.len();
            voice.waiting.retain(|waiting| now <= waiting.at + wait);
            stats.surplus_expired += (before - voice.waiting.len()) as u64;
            voice.recount();
        }
    }

    /// Takes the frames of the closing tick: first those that belong to it, then one more of each
    /// speaker who is behind. What does not fit waits.
    fn take(&mut self, now: Time, audible: &[u16]) -> Closed {
        let others = self.voices.keys().filter(|slot| !audible.contains(slot));
        let behind =
            |slot: &u16| self.voices.get(slot).is_some_and(|voice| voice.is_behind(self.frames));
        let order: Vec<u16> = audible.iter().chain(others).copied().collect();
        let more: Vec<u16> = order.iter().filter(|slot| behind(slot)).copied().collect();
        let mut closed = Closed { frames: Vec::new(), collect: Duration::ZERO };
        let mut bytes = self.bytes;
        for slot in order {
            for _ in 0..self.frames {
                self.take_one(now, slot, &mut bytes, &mut closed);
            }
        }
        for slot in more {
            self.take_one(now, slot, &mut bytes, &mut closed);
        }
        closed
    }

    /// Moves a slot's oldest frame into the closing tick if it fits.
    fn take_one(&mut self, now: Time, slot: u16, bytes: &mut usize, closed: &mut Closed) {
        let Some(voice) = self.voices.get_mut(&slot) else {
            return;
        };
        let fits = |waiting: &Waiting| limits::FRAME_HEADER_BYTES + waiting.speech.opus.len();
        let oldest = voice.waiting.front().map(fits);
        if closed.frames.len() == limits::FRAMES_PER_TICK || oldest.is_none_or(|len| len > *bytes) {
            return;
        }
        if let Some(waiting) = voice.waiting.pop_front() {
            if !waiting.late {
                voice.current -= 1;
                closed.collect = closed.collect.max(now.since(waiting.at));
            }
            let speech = waiting.speech;
            let frame = Frame { slot, speech };
            *bytes -= frame.len();
            closed.frames.push(frame);
        }
    }

    /// Opens the next tick with what the last one left.
    fn reopen(&mut self, now: Time) {
        self.open = None;
        let waits = self.voices.values().any(|voice| !voice.waiting.is_empty());
        if waits {
            let first = (self.voices.iter())
                .filter_map(|(slot, voice)| {
                    let current = voice.waiting.iter().find(|waiting| !waiting.late)?;
                    Some((current.at, *slot))
                })
                .min();
            self.open = Some(Open { at: now, opener: first.map(|(_, slot)| slot) });
        }
    }
}

/// A cadence of a 20 ms room in a room whose ticks hold `frames` frames of a speaker.
fn scaled(duration: Duration, frames: usize) -> Duration {
    duration * u32::try_from(frames).unwrap_or(u32::MAX)
}

impl Voice {
    fn insert(&mut self, waiting: Waiting) {
        let seq = waiting.speech.seq;
        let follows = |other: &Waiting| seq.wrapping_sub(other.speech.seq).cast_signed() > 0;
        let at = self.waiting.iter().rposition(follows).map_or(0, |i| i + 1);
        self.waiting.insert(at, waiting);
    }

    fn recount(&mut self) {
        self.current = self.waiting.iter().filter(|waiting| !waiting.late).count();
        self.carried = self.carried.min(self.current);
    }

    /// Whether more waits than one tick's share. One frame beyond it is the next tick's; what was
    /// left behind once, came late, or follows that one is surplus.
    fn is_behind(&self, frames: usize) -> bool {
        let late = self.waiting.iter().any(|waiting| waiting.late);
        late || self.carried > 0 || self.current > frames + 1
    }

    /// Whether one of the last two of `closed` ticks held a frame of this speaker.
    fn spoke_lately(&self, closed: u64) -> bool {
        self.last_tick.is_some_and(|tick| closed - tick < 2)
    }
}

impl Heartbeat {
    /// Speech has been heard; it ends a tick's length after the tick that holds it.
    fn restart(&mut self, now: Time, frames: usize) {
        self.since = now + scaled(limits::TICK, frames);
        self.sent = 0;
        self.next = self.since + scaled(limits::HEARTBEATS[0], frames);
    }

    /// A tick without a frame has gone out.
    fn beat(&mut self, now: Time, frames: usize) {
        self.sent = (self.sent + 1).min(limits::HEARTBEATS.len());
        let next = match limits::HEARTBEATS.get(self.sent) {
            Some(&after) => self.since + scaled(after, frames),
            None => self.next + scaled(limits::HEARTBEAT_EVERY, frames),
        };
        // A caller that comes late is not made to catch up.
        self.next = if next > now { next } else { now + scaled(limits::HEARTBEAT_EVERY, frames) };
    }
}
