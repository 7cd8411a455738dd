//! The origin's rooms: those of its configuration, and those that are made by whoever joins first
//! and end when nobody is in them.

use std::collections::{BTreeMap, BTreeSet};

use super::api::RoomCard;
use super::audience::Glitches;
use super::people::{NewsKind, OriginPeople};
use super::{ControlEffect, OriginControl, RoomSetup};
use crate::node::messages::ToShard;
use crate::node::view::RoomView;
use crate::room::{Room, RoomSettings};
use crate::session::SessionKey;
use crate::wire::{Close, CloseCode, Subscribed};
use crate::{Time, limits};

/// A room of the origin.
pub(super) struct OriginRoom {
    pub(super) room: Room,
    /// Who holds which slot.
    pub(super) stage: BTreeMap<u16, SessionKey>,
    /// The version of the document that the shards have.
    pub(super) told: u64,
    pub(super) card: RoomCard,
    pub(super) people: OriginPeople,
    /// Heard on the origin itself.
    pub(super) glitches: Glitches,
    /// It is in the configuration or was made by name, and stays.
    stays: bool,
    /// Shards with sessions in it.
    busy: BTreeSet<u16>,
    /// When it was last asked for or left.
    left: Time,
}

impl OriginControl {
    /// Finds a room by its name, or makes it where rooms are made on first use.
    pub(super) fn find_room(&mut self, now: Time, name: &str) -> Result<u32, Close> {
        if let Some(&id) = self.names.get(name) {
            // Someone waits for it: it is not ended under them.
            if let Some(entry) = self.rooms.get_mut(&id) {
                entry.left(now);
            }
            return Ok(id);
        }
        let Some(first_use) = &self.settings.first_use else {
            let reason =
                format!("there is no room {name}; rooms are named in the origin's configuration");
            return Err(Close::new(CloseCode::NoRoom, reason));
        };
        if self.rooms.len() >= limits::ROOMS {
            self.stats.drop_room_table += 1;
            return Err(Close::new(CloseCode::Full, "this origin carries no more rooms"));
        }
        let setup = RoomSetup { name: name.to_owned(), ..first_use.clone() };
        self.make_room(now, &setup, false)
    }

    pub(super) fn make_room(
        &mut self,
        now: Time,
        setup: &RoomSetup,
        stays: bool,
    ) -> Result<u32, Close> {
        let id = self.next_room;
        self.next_room += 1;
        let settings = RoomSettings {
            id,
            name: setup.name.clone(),
            title: setup.title.clone(),
            public: setup.public,
            profile: setup.profile,
            audible: setup.audible,
            tick_ms: setup.tick_ms,
            epoch: self.epoch,
        };
        let room = Room::new(settings, now, self.settings.unix_us_at_zero)
            .map_err(|error| Close::new(CloseCode::NoRoom, format!("{}: {error}", setup.name)))?;
        let info = room.subscribed();
        let room = OriginRoom {
            room,
            stage: BTreeMap::new(),
            told: 0,
            card: RoomCard::default(),
            people: OriginPeople::new(self.settings.unix_us_at_zero + now.as_micros())
                .resume(self.absent.remove(&setup.name).unwrap_or_default()),
            glitches: Glitches::default(),
            stays,
            busy: BTreeSet::new(),
            left: now,
        };
        self.rooms.insert(id, room);
        self.names.insert(setup.name.clone(), id);
        self.effects.push_back(ControlEffect::ToShards(ToShard::RoomUp(info)));
        self.tell_people(id);
        self.drain_room(id);
        Ok(id)
    }

    pub(super) fn room_busy(&mut self, shard: u16, name: &str) {
        let id = self.names.get(name);
        if let Some(entry) = id.and_then(|id| self.rooms.get_mut(id)) {
            entry.busy.insert(shard);
        }
    }

    pub(super) fn room_idle(&mut self, now: Time, shard: u16, name: &str) {
        let id = self.names.get(name);
        if let Some(entry) = id.and_then(|id| self.rooms.get_mut(id)) {
            entry.busy.remove(&shard);
            entry.left(now);
        }
    }

    /// Ends rooms that were made on first use and that nobody is in. Rooms that are made later, perhaps
    /// under the same name, have a higher epoch: whoever knew the former one starts anew.
    pub(super) fn end_unused(&mut self, now: Time) {
        let unused = self.rooms.iter().filter(|(_, entry)| entry.is_unused(now));
        let unused: Vec<u32> = unused.map(|(&id, _)| id).collect();
        for id in unused {
            // Who has joined meanwhile finds the next room of this name by joining again.
            let close = Close::new(CloseCode::RoomTimeout, "the room was empty; join again");
            self.keep_revoked(id);
            self.drop_room(id, close);
        }
    }

    /// A room that may come again does not forget whom it takes no longer.
    pub(super) fn keep_revoked(&mut self, id: u32) {
        let Some(entry) = self.rooms.get(&id) else { return };
        let lasting = entry.people.lasting();
        if !lasting.is_empty() && self.absent.len() < limits::ABSENT_ROOMS {
            self.absent.insert(entry.room.settings().name.clone(), lasting);
        }
    }

    /// Takes a room away; whoever is in it is told `close`.
    pub(super) fn drop_room(&mut self, id: u32, close: Close) {
        let Some(entry) = self.rooms.remove(&id) else { return };
        let name = &entry.room.settings().name;
        self.names.remove(name);
        self.past += *entry.room.stats();
        self.epoch = self.epoch.saturating_add(1);
        for session in entry.stage.values() {
            self.stage.remove(session);
        }
        let text = format!("the room {name} has ended: {}", close.reason);
        self.effects.push_back(ControlEffect::Note { warn: false, text });
        let room = name.clone();
        let message = ToShard::RoomDown { room: id, close };
        self.effects.push_back(ControlEffect::ToShards(message));
        self.tell_news(&room, NewsKind::Ended);
    }

    /// Tells the shards what has changed of a room beside its document.
    pub(super) fn room_changed(&mut self, room: Subscribed) {
        self.effects.push_back(ControlEffect::ToShards(ToShard::RoomUp(room)));
    }
}

impl OriginRoom {
    /// Someone asked for it, or left it.
    pub(super) fn left(&mut self, now: Time) {
        self.left = now;
    }

    /// Makes it stay; false if it did already.
    pub(super) fn keep(&mut self) -> bool {
        !std::mem::replace(&mut self.stays, true)
    }

    /// It ends when nobody is in it, as before [`Self::keep`].
    pub(super) fn give_back(&mut self) {
        self.stays = false;
    }

    fn is_unused(&self, now: Time) -> bool {
        let empty = self.busy.is_empty() && self.stage.is_empty();
        empty && !self.stays && now.since(self.left) >= limits::ROOM_UNUSED
    }

    pub(super) fn view(&self) -> RoomView {
        let settings = self.room.settings();
        let audible = self.room.audible();
        let stage = self.room.state().stage.iter();
        RoomView {
            room: settings.name.clone(),
            id: settings.id,
            epoch: settings.epoch,
            newest: self.room.newest().number,
            delay_ms: 0.0,
            lost: 0,
            stage: stage.map(|e| (e.slot, e.identity.clone(), audible.contains(&e.slot))).collect(),
            counters: self.room.stats().entries().collect(),
        }
    }
}
