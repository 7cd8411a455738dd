//! What a room's speakers may send, and what a tick may weigh.

use crate::limits;

/// A room's budget of bytes. The origin owns it: frames above it are refused at ingest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    /// What a speaker may send on average (kbit/s of Opus), checked over a second.
    pub kbit_s: u16,
    /// Bytes of one frame at most.
    pub frame_bytes: u16,
    /// Audible speakers at most.
    pub slots: u8,
    /// Bytes of one tick record of 20 ms at most, its header included. A room of 40 or 60 ms has
    /// two or three times as much, as far as a datagram holds it.
    pub tick_bytes: u16,
    /// How many earlier ticks fit behind the current one in a datagram.
    pub redundancy: u8,
}

/// Why a profile is refused. Whoever configured it is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// The rate is zero, or its average frame exceeds the largest frame.
    #[error("kbit_s must be above 0, and its average frame within frame_bytes")]
    Rate,
    /// A frame is empty or larger than the protocol allows.
    #[error("frame_bytes must be 1 to {}", limits::FRAME_BYTES)]
    Frame,
    /// Nobody or too many are audible.
    #[error("slots must be 1 to {}", limits::AUDIBLE_MOST)]
    Slots,
    /// The tick does not hold every slot's average frame, or not one largest frame.
    #[error("tick_bytes must hold every slot's average frame, and one of frame_bytes")]
    Tick,
    /// The tick and the earlier ones exceed a datagram.
    #[error("a tick and its redundancy must fit into {} bytes", limits::DATAGRAM_BYTES)]
    Redundancy,
}

impl Profile {
    /// Speech: 32 kbit/s a speaker, three audible; two earlier ticks fit into a datagram.
    ///
    /// A frame has 80 bytes on average and may have twice as many (variable bit rate).
    #[must_use]
    pub const fn voice() -> Self {
        Self {
            kbit_s: 32,
            frame_bytes: 160,
            slots: limits::AUDIBLE as u8,
            tick_bytes: 350,
            redundancy: 2,
        }
    }

    /// Music: 160 kbit/s, two audible, no redundancy: lost ticks are repaired only.
    ///
    /// Two of the largest frames fit into a tick: 17 + 2 × (9 + 480) = 995 bytes.
    #[must_use]
    pub const fn music() -> Self {
        Self { kbit_s: 160, frame_bytes: 480, slots: 2, tick_bytes: 1000, redundancy: 0 }
    }

    /// A profile of one's own.
    ///
    /// # Errors
    /// When it breaks a limit; see [`Profile::check`].
    pub fn custom(
        kbit_s: u16,
        frame_bytes: u16,
        slots: u8,
        tick_bytes: u16,
        redundancy: u8,
    ) -> Result<Self, ProfileError> {
        let profile = Self { kbit_s, frame_bytes, slots, tick_bytes, redundancy };
        profile.check().map(|()| profile)
    }

    /// Whether the profile keeps the protocol's limits.
    ///
    /// # Errors
    /// The first limit that it breaks.
    pub fn check(&self) -> Result<(), ProfileError> {
        let (frame, tick) = (usize::from(self.frame_bytes), usize::from(self.tick_bytes));
        let average = usize::from(self.kbit_s) * 1_000 / 8 / limits::FRAMES_PER_S as usize;
        if frame == 0 || frame > limits::FRAME_BYTES {
            return Err(ProfileError::Frame);
        }
        if self.kbit_s == 0 || average > frame {
            return Err(ProfileError::Rate);
        }
        if self.slots == 0 || usize::from(self.slots) > limits::AUDIBLE_MOST {
            return Err(ProfileError::Slots);
        }
        let head = limits::RECORD_HEADER_BYTES + 1;
        let all = head + usize::from(self.slots) * (limits::FRAME_HEADER_BYTES + average);
        if all.max(head + limits::FRAME_HEADER_BYTES + frame) > tick {
            return Err(ProfileError::Tick);
        }
        let datagram = limits::DATAGRAM_HEADER_BYTES + tick * (1 + usize::from(self.redundancy));
        let earlier = usize::from(self.redundancy);
        if earlier > limits::EARLIER_TICKS || datagram > limits::DATAGRAM_BYTES {
            return Err(ProfileError::Redundancy);
        }
        Ok(())
    }

    /// Bytes that the frames of one tick may take, headers of frames included, in a room whose
    /// tick holds `frames` frames of a speaker.
    pub(super) fn frames_bytes(&self, frames: usize) -> usize {
        let record = (usize::from(self.tick_bytes) * frames).min(limits::RECORD_BYTES);
        record - limits::RECORD_HEADER_BYTES - 1
    }

    /// Bytes of Opus that a speaker may send in a second.
    pub(super) fn bytes_per_s(&self) -> u64 {
        u64::from(self.kbit_s) * 1_000 / 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_profiles_keep_the_limits() {
        assert_eq!(Profile::voice().check(), Ok(()));
        assert_eq!(Profile::music().check(), Ok(()));
        // The bench: four audible speakers with frames of 120 bytes.
        assert!(Profile::custom(48, 120, 4, 560, 0).is_ok());
    }

    #[test]
    fn names_the_limit_that_is_broken() {
        let custom = Profile::custom;
        assert_eq!(custom(0, 120, 4, 560, 0), Err(ProfileError::Rate));
        assert_eq!(custom(64, 120, 4, 560, 0), Err(ProfileError::Rate));
        assert_eq!(custom(48, 0, 4, 560, 0), Err(ProfileError::Frame));
        assert_eq!(custom(48, 1001, 1, 1080, 0), Err(ProfileError::Frame));
        assert_eq!(custom(48, 120, 0, 560, 0), Err(ProfileError::Slots));
        assert_eq!(custom(48, 120, 17, 560, 0), Err(ProfileError::Slots));
        assert_eq!(custom(48, 120, 4, 532, 0), Err(ProfileError::Tick));
        assert_eq!(custom(48, 600, 4, 560, 0), Err(ProfileError::Tick));
        assert_eq!(custom(48, 120, 4, 560, 1), Err(ProfileError::Redundancy));
        assert_eq!(custom(8, 40, 1, 80, 3), Err(ProfileError::Redundancy));
        assert_eq!(custom(48, 120, 4, 1085, 0), Err(ProfileError::Redundancy));
    }
}
