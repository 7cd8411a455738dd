//! Who is audible: decided once, at the origin, for everyone.
//!
//! A place is taken by the first who speak, kept through pauses between words, and given to
//! another when its holder has been silent for [`limits::AUDIBLE_HOLD`], when a host speaks, or
//! when the other has been clearly louder for a while.

use crate::{Time, limits};

/// The speakers of a room and which of them are audible: at most `places`.
#[derive(Debug)]
pub(super) struct Audible {
    places: usize,
    speakers: Vec<Speaker>,
}

#[derive(Clone, Copy, Debug)]
struct Speaker {
    slot: u16,
    host: bool,
    muted: bool,
    /// Since when the speaker is audible.
    since: Option<Time>,
    /// Until when the speaker counts as talking.
    talks_until: Time,
    /// Smoothed over voiced frames: sixteenths of a dB above silence.
    loudness: i32,
    /// Voiced frames in a row.
    voiced: u8,
    /// Voiced frames in a row that were louder than the weakest place by the margin.
    louder: u8,
}

impl Audible {
    pub(super) fn new(places: usize) -> Self {
        Self { places: places.clamp(1, limits::AUDIBLE_MOST), speakers: Vec::new() }
    }

    /// Someone takes a slot.
    pub(super) fn join(&mut self, now: Time, slot: u16, host: bool) {
        self.speakers.push(Speaker {
            slot,
            host,
            muted: false,
            since: None,
            talks_until: Time::ZERO,
            loudness: 0,
            voiced: 0,
            louder: 0,
        });
        self.fill(now);
    }

    /// Someone gives a slot back.
    pub(super) fn leave(&mut self, now: Time, slot: u16) {
        self.speakers.retain(|speaker| speaker.slot != slot);
        self.fill(now);
    }

    /// Mutes or unmutes a slot; a muted one is never audible.
    pub(super) fn set_muted(&mut self, now: Time, slot: u16, muted: bool) {
        if let Some(speaker) = self.speakers.iter_mut().find(|s| s.slot == slot) {
            speaker.muted = muted;
            speaker.since = speaker.since.filter(|_| !muted);
            (speaker.voiced, speaker.louder) = (0, 0);
            speaker.talks_until = Time::ZERO;
        }
        self.fill(now);
    }

    /// Whether the slot is muted.
    pub(super) fn is_muted(&self, slot: u16) -> bool {
        self.speakers.iter().any(|s| s.slot == slot && s.muted)
    }

    /// Whether the slot is audible.
    pub(super) fn is_audible(&self, slot: u16) -> bool {
        (self.speakers.iter()).any(|s| s.slot == slot && s.since.is_some())
    }

    /// The audible slots: hosts first, then the louder ones.
    pub(super) fn ranked(&self) -> Vec<u16> {
        let mut audible: Vec<&Speaker> =
            (self.speakers.iter().filter(|s| s.since.is_some())).collect();
        audible.sort_by_key(|s| (!s.host, -s.loudness, s.slot));
        audible.iter().map(|s| s.slot).collect()
    }

    /// Hears a frame: `voice` and `level` (−dBov) as its speaker says.
    pub(super) fn observe(&mut self, now: Time, slot: u16, voice: bool, level: u8) {
        let weakest = self.weakest(now);
        let Some(speaker) = self.speakers.iter_mut().find(|s| s.slot == slot) else {
            return;
        };
        if speaker.muted {
            return;
        }
        if !voice {
            (speaker.voiced, speaker.louder) = (0, 0);
            return;
        }
        speaker.hear(now, level);
        if speaker.since.is_some() || speaker.voiced < limits::AUDIBLE_ATTACK {
            return;
        }
        let challenger = *speaker;
        let Some(holder) = weakest else {
            speaker.since = Some(now);
            return;
        };
        let margin = i32::from(limits::CHALLENGE_DB) * SIXTEENTHS;
        if challenger.loudness >= holder.loudness + margin {
            speaker.louder = speaker.louder.saturating_add(1);
        } else {
            speaker.louder = 0;
        }
        if speaker.displaces(&holder, now) {
            speaker.since = Some(now);
            speaker.louder = 0;
            self.dismiss(holder.slot);
        }
    }

    /// The place that is given away first; none while a place is free.
    fn weakest(&self, now: Time) -> Option<Speaker> {
        let holders = || self.speakers.iter().filter(|s| s.since.is_some());
        if holders().count() < self.places {
            return None;
        }
        (holders().copied())
            .min_by_key(|s| (s.talks(now), s.host, s.loudness, std::cmp::Reverse(s.slot)))
    }

    fn dismiss(&mut self, slot: u16) {
        if let Some(speaker) = self.speakers.iter_mut().find(|s| s.slot == slot) {
            speaker.since = None;
            speaker.louder = 0;
        }
    }

    /// Makes everyone audible while there are no more speakers than places.
    fn fill(&mut self, now: Time) {
        let places = self.places;
        if self.speakers.iter().filter(|s| !s.muted).count() <= places {
            for speaker in self.speakers.iter_mut().filter(|s| !s.muted) {
                speaker.since = speaker.since.or(Some(now));
            }
        }
    }
}

/// Loudness is kept in sixteenths of a dB, so that smoothing does not stick.
const SIXTEENTHS: i32 = 16;
/// A louder frame moves the loudness by a half of the difference, a quieter one by an eighth.
const RISE: i32 = 2;
const FALL: i32 = 8;

impl Speaker {
    fn talks(&self, now: Time) -> bool {
        now < self.talks_until
    }

    fn hear(&mut self, now: Time, level: u8) {
        let loudness = (127 - i32::from(level.min(127))) * SIXTEENTHS;
        let change = loudness - self.loudness;
        if !self.talks(now) {
            self.loudness = loudness;
        } else {
            self.loudness += change / if change > 0 { RISE } else { FALL };
        }
        self.talks_until = now + limits::AUDIBLE_HOLD;
        self.voiced = self.voiced.saturating_add(1);
    }

    /// Whether this talking speaker takes the place of `holder`, the weakest one.
    fn displaces(&self, holder: &Self, now: Time) -> bool {
        if !holder.talks(now) || (self.host && !holder.host) {
            return true;
        }
        let settled = holder.since.is_some_and(|since| now >= since + limits::AUDIBLE_HOLD);
        self.host == holder.host && settled && self.louder >= limits::CHALLENGE_FRAMES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Talks at 50 frames a second and returns whether `watch` was audible after each.
    fn talk(a: &mut Audible, from: u64, ms: u64, levels: &[(u16, u8)], watch: u16) -> Vec<bool> {
        let mut seen = Vec::new();
        for i in 0..ms / 20 {
            for &(slot, level) in levels {
                a.observe(Time::from_millis(from + i * 20), slot, true, level);
            }
            seen.push(a.is_audible(watch));
        }
        seen
    }

    fn room(places: usize, slots: u16) -> Audible {
        let mut audible = Audible::new(places);
        for slot in 1..=slots {
            audible.join(Time::ZERO, slot, false);
        }
        audible
    }

    #[test]
    fn everyone_is_audible_while_there_are_places() {
        let mut a = room(3, 3);
        assert_eq!(a.ranked(), [1, 2, 3]);
        a.join(Time::ZERO, 4, false);
        assert_eq!(a.ranked(), [1, 2, 3]);
        a.leave(Time::ZERO, 2);
        assert_eq!(a.ranked(), [1, 3, 4]);
    }

    #[test]
    fn a_talker_takes_the_place_of_a_silent_one_at_the_second_voiced_frame() {
        let mut a = room(1, 2);
        assert_eq!(talk(&mut a, 0, 60, &[(2, 40)], 2), [false, true, true]);
        // The first one comes back: the other holds through a pause of 400 ms, not longer.
        assert_eq!(talk(&mut a, 100, 300, &[(1, 40)], 1), [false; 15]);
        assert_eq!(talk(&mut a, 440, 20, &[(1, 40)], 1), [true]);
    }

    #[test]
    fn two_equal_talkers_do_not_flap() {
        let mut a = room(1, 2);
        let seen = talk(&mut a, 0, 20_000, &[(1, 40), (2, 40)], 1);
        assert!(seen.iter().all(|&audible| audible));
        // Nor do two who differ by less than the margin.
        let seen = talk(&mut a, 20_000, 20_000, &[(1, 40), (2, 35)], 1);
        assert!(seen.iter().all(|&audible| audible));
    }

    #[test]
    fn a_clearly_louder_one_wins_after_a_while() {
        let mut a = room(1, 2);
        talk(&mut a, 0, 1_000, &[(1, 40)], 1);
        let seen = talk(&mut a, 1_000, 400, &[(1, 40), (2, 30)], 2);
        let first = seen.iter().position(|&audible| audible).unwrap();
        assert_eq!(first + 1, usize::from(limits::CHALLENGE_FRAMES) + 1);
        assert!(seen[first..].iter().all(|&audible| audible));
    }

    #[test]
    fn hosts_come_first_and_keep_the_place() {
        let mut a = room(1, 2);
        a.join(Time::ZERO, 3, true);
        talk(&mut a, 0, 1_000, &[(1, 10)], 1);
        assert_eq!(talk(&mut a, 1_000, 40, &[(1, 10), (3, 60)], 3), [false, true]);
        let seen = talk(&mut a, 1_040, 2_000, &[(1, 10), (3, 60)], 3);
        assert!(seen.iter().all(|&audible| audible));
        a.leave(Time::from_millis(3_040), 3);
        a.leave(Time::from_millis(3_040), 2);
        assert_eq!(a.ranked(), [1]);
    }

    #[test]
    fn the_muted_are_never_audible() {
        let mut a = room(2, 2);
        a.set_muted(Time::ZERO, 1, true);
        talk(&mut a, 0, 400, &[(1, 0), (2, 50)], 1);
        assert!(a.is_muted(1));
        assert_eq!(a.ranked(), [2]);
        a.set_muted(Time::from_millis(400), 1, false);
        assert_eq!(a.ranked(), [2, 1]);
    }
}
