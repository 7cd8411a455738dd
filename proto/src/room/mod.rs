//! The origin's rooms: speakers' frames in, ticks out.
//!
//! ```text
//! frames ─▶ ingest (checked, deduplicated, asked for) ─▶ audible (or pre-roll) ─▶ collect ─▶ ticks
//! ```

mod audible;
mod collect;
mod ingest;
mod opus;
mod phases;
mod profile;
mod stage;
mod stats;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use audible::Audible;
use collect::{Closed, Collector};
use ingest::Ingest;
use stage::Stage;

use crate::wire::{
    Close, Frame, Record, Role, RoomState, SpeechFrame, SpeechRequest, Subscribed, TickFlags,
    TickKey, record_bytes,
};
use crate::{Time, limits};

pub use opus::is_opus_20ms;
pub use profile::{Profile, ProfileError};
pub use stats::RoomStats;

/// What a room is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomSettings {
    /// The room's number in datagrams, unique at its origin.
    pub id: u32,
    /// The room's name, at most [`limits::NAME_BYTES`].
    pub name: String,
    /// The title, at most [`limits::TITLE_BYTES`].
    pub title: String,
    /// Whether anonymous listeners are admitted.
    pub public: bool,
    /// What speakers may send.
    pub profile: Profile,
    /// How many speakers are audible; the profile's slots bound it.
    pub audible: usize,
    /// The cadence in milliseconds: one of [`limits::TICK_MS`].
    pub tick_ms: u8,
    /// The epoch of the room's ticks.
    pub epoch: u32,
}

/// Why a room cannot be made. Whoever configured it is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The cadence is none of the three.
    #[error("tick_ms must be 20, 40 or 60")]
    Cadence,
    /// The room's name or title is too long, or the name is empty.
    #[error(
        "a room's name must have 1 to {} bytes, its title at most {}",
        limits::NAME_BYTES,
        limits::TITLE_BYTES
    )]
    Name,
    /// Nobody would be audible.
    #[error("audible must be 1 to {}", limits::AUDIBLE_MOST)]
    Audible,
    /// The profile breaks a limit.
    #[error(transparent)]
    Profile(#[from] ProfileError),
}

/// A tick that has closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tick {
    /// Its key.
    pub key: TickKey,
    /// Its bytes, ready for the ring.
    pub record: Record,
    /// How long the first frame in it waited for the others; zero for a heartbeat.
    pub collect: Duration,
    /// Frames in it; none in a heartbeat.
    pub frames: u8,
}

/// One room at its origin.
///
/// Sans-IO. Input: [`join`](Self::join), [`leave`](Self::leave), [`set_muted`](Self::set_muted),
/// [`handle_speech`](Self::handle_speech) and [`handle_timeout`](Self::handle_timeout), the last
/// one whenever [`poll_timeout`](Self::poll_timeout) has passed. After **every** input drain
/// [`poll_tick`](Self::poll_tick) and [`poll_request`](Self::poll_request) until they return
/// `None`, then ask `poll_timeout` anew. Time never goes backwards: an earlier `now` counts as the
/// latest one given.
///
/// An input closes at most one tick, and two ticks are never closer than
/// [`limits::CLOSE_APART`]. A caller that comes late gets one tick, not several.
#[derive(Debug)]
pub struct Room {
    settings: RoomSettings,
    unix_us_at_zero: u64,
    now: Time,
    stage: Stage,
    speakers: BTreeMap<u16, Speaker>,
    audible: Audible,
    collector: Collector,
    newest: u32,
    ticks: VecDeque<Tick>,
    stats: RoomStats,
}

#[derive(Debug)]
struct Speaker {
    ingest: Ingest,
    /// The last frames from before the speaker becomes audible, at most [`limits::PRE_ROLL`].
    pre_roll: VecDeque<(Time, SpeechFrame)>,
}

impl Room {
    /// A room without speakers. `unix_us_at_zero` is the Unix time, in microseconds, of
    /// [`Time::ZERO`]: ticks carry the origin's clock.
    ///
    /// # Errors
    /// When a setting is outside its range.
    pub fn new(
        settings: RoomSettings,
        now: Time,
        unix_us_at_zero: u64,
    ) -> Result<Self, SettingsError> {
        settings.check()?;
        let places = settings.audible.min(usize::from(settings.profile.slots));
        let frames = usize::from(settings.tick_ms) / limits::TICK.as_millis() as usize;
        let bytes = settings.profile.frames_bytes(frames);
        Ok(Self {
            stage: Stage::new(&settings.name, &settings.title),
            unix_us_at_zero,
            now,
            speakers: BTreeMap::new(),
            audible: Audible::new(places),
            collector: Collector::new(frames, bytes, now),
            newest: 0,
            ticks: VecDeque::new(),
            stats: RoomStats::default(),
            settings,
        })
    }

    /// Gives `identity` a slot. Slots are never reused within an epoch. Whoever holds a slot under
    /// the same identity leaves it: ask [`slot_of`](Self::slot_of) before, and close that session.
    ///
    /// # Errors
    /// When the role does not speak, the identity is too long, or the stage is full.
    pub fn join(
        &mut self,
        now: Time,
        identity: &str,
        name: &str,
        role: Role,
    ) -> Result<u16, Close> {
        self.handle_timeout(now);
        let former = self.stage.slot_of(identity);
        let slot = self.stage.join(identity, name, role)?;
        if let Some(former) = former {
            self.remove(former);
        }
        let host = matches!(role, Role::Host | Role::CoHost);
        self.audible.join(self.now, slot, host);
        let speaker = Speaker {
            ingest: Ingest::new(slot, &self.settings.profile, self.now),
            pre_roll: VecDeque::new(),
        };
        self.speakers.insert(slot, speaker);
        Ok(slot)
    }

    /// Takes a slot back. What its speaker has said still leaves in ticks.
    pub fn leave(&mut self, now: Time, slot: u16) {
        self.handle_timeout(now);
        if self.stage.leave(slot) {
            self.remove(slot);
        }
    }

    /// Mutes a slot, at once and whatever waits of it, or unmutes it.
    pub fn set_muted(&mut self, now: Time, slot: u16, muted: bool) {
        self.handle_timeout(now);
        self.audible.set_muted(self.now, slot, muted);
        self.stage.set_muted(slot, muted);
        if let Some(speaker) = self.speakers.get_mut(&slot).filter(|_| muted) {
            let dropped = speaker.pre_roll.len() + self.collector.clear(slot);
            speaker.pre_roll.clear();
            self.stats.muted += dropped as u64;
        }
        self.close_tick();
    }

    /// Takes the frames of a speech datagram, the newest first. The caller has checked that the
    /// session holds `slot`.
    pub fn handle_speech(&mut self, now: Time, slot: u16, frames: Vec<SpeechFrame>) {
        self.handle_timeout(now);
        let now = self.now;
        let Some(speaker) = self.speakers.get_mut(&slot) else {
            self.stats.unknown_slot += frames.len() as u64;
            return;
        };
        for fresh in speaker.ingest.handle(now, frames, &mut self.stats) {
            let (frame, late) = (fresh.frame, fresh.late);
            if self.audible.is_muted(slot) {
                self.stats.muted += 1;
                continue;
            }
            if !late {
                self.audible.observe(now, slot, frame.voice, frame.level);
            }
            if !self.audible.is_audible(slot) {
                speaker.keep(now, frame, &mut self.stats);
                continue;
            }
            for (at, early) in speaker.pre_roll.drain(..) {
                if now.since(at) <= limits::SURPLUS_WAIT {
                    (self.collector).push(now, slot, early, true, &mut self.stats);
                } else {
                    self.stats.not_audible += 1;
                }
            }
            (self.collector).push(now, slot, frame, late, &mut self.stats);
        }
        self.close_tick();
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Time) {
        self.now = self.now.max(now);
        for speaker in self.speakers.values_mut() {
            speaker.ingest.handle_timeout(self.now, &mut self.stats);
        }
        self.close_tick();
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due. Never `None`: silence has heartbeats.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        let ingests = (self.speakers.values()).filter_map(|speaker| speaker.ingest.poll_timeout());
        let tick = self.collector.deadline(&self.audible.ranked());
        ingests.chain([tick]).min()
    }

    /// The next closed tick.
    pub fn poll_tick(&mut self) -> Option<Tick> {
        self.ticks.pop_front()
    }

    /// The next request to a speaker, to be sent to the session that holds its slot.
    pub fn poll_request(&mut self) -> Option<SpeechRequest> {
        let mut ingests = self.speakers.values_mut().map(|speaker| &mut speaker.ingest);
        let request = ingests.find_map(Ingest::poll_request);
        self.stats.requests += u64::from(request.is_some());
        request
    }

    /// Changes what the document says beside the stage: counts, title, lock. Spacing such changes
    /// is the caller's part.
    pub fn edit(&mut self, edit: impl FnOnce(&mut RoomState)) {
        self.stage.edit(edit);
    }

    /// Gives the room another title, or another rule for anonymous listeners.
    ///
    /// # Errors
    /// [`SettingsError::Name`] when the title is too long, or fills the document together with the
    /// names on the stage.
    pub fn describe(&mut self, title: &str, public: bool) -> Result<(), SettingsError> {
        if title.len() > limits::TITLE_BYTES || !self.stage.set_title(title) {
            return Err(SettingsError::Name);
        }
        title.clone_into(&mut self.settings.title);
        self.settings.public = public;
        Ok(())
    }

    /// The room's document; its version rises with every change.
    #[must_use]
    pub fn state(&self) -> &RoomState {
        self.stage.state()
    }

    /// What a session that joins is told of the room.
    #[must_use]
    pub fn subscribed(&self) -> Subscribed {
        Subscribed {
            name: self.settings.name.clone(),
            id: self.settings.id,
            title: self.settings.title.clone(),
            public: self.settings.public,
            epoch: self.settings.epoch,
            newest: self.newest,
            tick_ms: self.settings.tick_ms,
            redundancy: self.settings.profile.redundancy,
        }
    }

    /// What the room was made from.
    #[must_use]
    pub fn settings(&self) -> &RoomSettings {
        &self.settings
    }

    /// The slot that `identity` holds.
    #[must_use]
    pub fn slot_of(&self, identity: &str) -> Option<u16> {
        self.stage.slot_of(identity)
    }

    /// Whether the slot is muted.
    #[must_use]
    pub fn is_muted(&self, slot: u16) -> bool {
        self.audible.is_muted(slot)
    }

    /// The audible slots: hosts first, then the louder ones.
    #[must_use]
    pub fn audible(&self) -> Vec<u16> {
        self.audible.ranked()
    }

    /// The newest tick's key; number 0 before the first.
    #[must_use]
    pub fn newest(&self) -> TickKey {
        TickKey { room: self.settings.id, epoch: self.settings.epoch, number: self.newest }
    }

    /// The room's counters.
    #[must_use]
    pub fn stats(&self) -> &RoomStats {
        &self.stats
    }

    fn remove(&mut self, slot: u16) {
        if let Some(speaker) = self.speakers.remove(&slot) {
            self.stats.not_audible += speaker.pre_roll.len() as u64;
        }
        self.audible.leave(self.now, slot);
        self.close_tick();
    }

    fn close_tick(&mut self) {
        let ranked = self.audible.ranked();
        if let Some(closed) = self.collector.poll(self.now, &ranked, &mut self.stats) {
            let tick = self.tick(closed);
            if self.ticks.len() == limits::TICKS_UNPOLLED {
                self.ticks.pop_front();
                self.stats.unpolled += 1;
            }
            self.ticks.push_back(tick);
        }
    }

    fn tick(&mut self, closed: Closed) -> Tick {
        // At 67 ticks a second at most the numbers last for two years.
        self.newest = self.newest.saturating_add(1);
        let heartbeat = closed.frames.is_empty();
        let flags = TickFlags(if heartbeat { TickFlags::HEARTBEAT } else { 0 });
        let clock_us = self.unix_us_at_zero.saturating_add(self.now.as_micros());
        let (number, tick_ms) = (self.newest, self.settings.tick_ms);
        let payload = Frame::payload(&closed.frames);
        let bytes = record_bytes(number, clock_us, tick_ms, flags, &payload);
        Tick {
            key: self.newest(),
            record: Record {
                number,
                clock_us,
                tick_ms,
                flags,
                payload: bytes.slice(limits::RECORD_HEADER_BYTES..),
                bytes,
            },
            collect: closed.collect,
            frames: u8::try_from(closed.frames.len()).expect("bounded by FRAMES_PER_TICK"),
        }
    }
}

impl RoomSettings {
    fn check(&self) -> Result<(), SettingsError> {
        if !limits::TICK_MS.contains(&self.tick_ms) {
            return Err(SettingsError::Cadence);
        }
        let long = self.name.len() > limits::NAME_BYTES || self.title.len() > limits::TITLE_BYTES;
        if self.name.is_empty() || long {
            return Err(SettingsError::Name);
        }
        if self.audible == 0 || self.audible > limits::AUDIBLE_MOST {
            return Err(SettingsError::Audible);
        }
        Ok(self.profile.check()?)
    }
}

impl Speaker {
    /// Keeps a frame of someone who is not audible, in case that changes.
    fn keep(&mut self, now: Time, frame: SpeechFrame, stats: &mut RoomStats) {
        if self.pre_roll.len() == limits::PRE_ROLL {
            self.pre_roll.pop_front();
            stats.not_audible += 1;
        }
        self.pre_roll.push_back((now, frame));
    }
}
