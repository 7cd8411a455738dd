//! What the HTTP API asks of an origin's rooms.

use super::rooms::OriginRoom;
use super::{OriginControl, RoomSetup};
use crate::wire::{Close, CloseCode, RoomState};
use crate::{Time, limits};

/// What people say of a room beside what it is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomCard {
    /// What it is about; at most [`limits::TITLE_BYTES`].
    pub topic: String,
    /// When it is to begin (seconds since 1970, UTC).
    pub starts_at: Option<u64>,
    /// Whether it takes no further listeners.
    pub locked: bool,
}

/// A room as the HTTP API shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomInfo {
    /// Its document.
    pub state: RoomState,
    /// Its card.
    pub card: RoomCard,
    /// Whether listeners need no token.
    pub public: bool,
    /// How many are heard at once.
    pub audible: usize,
    /// Whether somebody is on stage.
    pub live: bool,
}

/// Why a room cannot do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoomError {
    /// There is none of this name.
    #[error("there is no room {0}")]
    NoRoom(String),
    /// There is one of this name.
    #[error("there is a room {0} already")]
    Exists(String),
    /// The origin carries [`limits::ROOMS`] rooms.
    #[error("this origin carries {} rooms, and no more", limits::ROOMS)]
    Full,
    /// A setting is outside its range.
    #[error("{0}")]
    Setting(String),
    /// Nobody on stage has this identity.
    #[error("nobody on stage is {0}")]
    NotOnStage(String),
    /// [`limits::INVITATIONS`] are out.
    #[error("{} invitations are out; take one back first", limits::INVITATIONS)]
    InvitationsFull,
    /// [`limits::REVOKED_PER_ROOM`] bans are in force.
    #[error("{} bans are in force; lift one first", limits::REVOKED_PER_ROOM)]
    BansFull,
}

impl RoomError {
    /// The error's stable name.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoRoom(_) => "no_room",
            Self::Exists(_) => "room_exists",
            Self::Full => "rooms_full",
            Self::Setting(_) => "bad_setting",
            Self::NotOnStage(_) => "not_on_stage",
            Self::InvitationsFull => "invitations_full",
            Self::BansFull => "bans_full",
        }
    }
}

impl OriginControl {
    /// Makes a room that stays until it is ended.
    ///
    /// # Errors
    /// When there is one of this name, no place for it, or a setting is outside its range.
    pub fn create_room(
        &mut self,
        now: Time,
        setup: &RoomSetup,
        card: RoomCard,
    ) -> Result<RoomInfo, RoomError> {
        if let Some(&id) = self.names.get(&setup.name) {
            // What was made on first use is taken over while nobody has made it by name.
            let taken = self.rooms.get_mut(&id).is_some_and(OriginRoom::keep);
            if !taken {
                return Err(RoomError::Exists(setup.name.clone()));
            }
        } else {
            if self.rooms.len() >= limits::ROOMS {
                self.stats.drop_room_table += 1;
                return Err(RoomError::Full);
            }
            self.make_room(now, setup, true).map_err(|close| RoomError::Setting(close.reason))?;
        }
        self.describe_room(&setup.name, &setup.title, setup.public, card)
    }

    /// Undoes [`Self::create_room`] where the room had been made on first use: it is as it was before,
    /// and whoever is in it stays.
    ///
    /// # Errors
    /// When there is no such room.
    pub fn give_back_room(&mut self, former: RoomInfo) -> Result<(), RoomError> {
        let RoomState { room, title, .. } = former.state;
        self.describe_room(&room, &title, former.public, former.card)?;
        let id = self.room_id(&room)?;
        if let Some(entry) = self.rooms.get_mut(&id) {
            entry.give_back();
        }
        Ok(())
    }

    /// Gives a room another title, card, or rule for anonymous listeners.
    ///
    /// # Errors
    /// When there is no such room, or a setting is outside its range.
    pub fn describe_room(
        &mut self,
        name: &str,
        title: &str,
        public: bool,
        card: RoomCard,
    ) -> Result<RoomInfo, RoomError> {
        let id = self.room_id(name)?;
        let entry = self.rooms.get_mut(&id).ok_or_else(|| RoomError::NoRoom(name.to_owned()))?;
        let former = entry.room.subscribed();
        entry
            .room
            .describe(title, public)
            .map_err(|error| RoomError::Setting(error.to_string()))?;
        entry.room.edit(|state| state.locked = card.locked);
        entry.card = card;
        let info = entry.info();
        let subscribed = entry.room.subscribed();
        if subscribed != former {
            self.room_changed(subscribed);
        }
        self.drain_room(id);
        Ok(info)
    }

    /// Ends a room: whoever is in it is told so.
    ///
    /// # Errors
    /// When there is no such room.
    pub fn end_room(&mut self, name: &str) -> Result<(), RoomError> {
        let id = self.room_id(name)?;
        self.keep_revoked(id);
        self.drop_room(id, Close::new(CloseCode::RoomEnded, "the host has ended the room"));
        Ok(())
    }

    /// What there is to say of a room.
    ///
    /// # Errors
    /// When there is no such room.
    pub fn room_info(&self, name: &str) -> Result<RoomInfo, RoomError> {
        let id = self.room_id(name)?;
        let entry = self.rooms.get(&id).ok_or_else(|| RoomError::NoRoom(name.to_owned()))?;
        Ok(entry.info())
    }

    /// Every room, by its name.
    pub fn room_infos(&self) -> impl Iterator<Item = RoomInfo> {
        self.names.values().filter_map(|id| self.rooms.get(id)).map(OriginRoom::info)
    }

    pub(super) fn room_id(&self, name: &str) -> Result<u32, RoomError> {
        self.names.get(name).copied().ok_or_else(|| RoomError::NoRoom(name.to_owned()))
    }
}

impl OriginRoom {
    pub(super) fn info(&self) -> RoomInfo {
        RoomInfo {
            state: self.room.state().clone(),
            card: self.card.clone(),
            public: self.room.settings().public,
            audible: self.room.settings().audible,
            live: !self.stage.is_empty(),
        }
    }
}
