//! The people of the origin's rooms: what hosts decide about them, what they say, how many they are.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use super::api::{RoomError, RoomInfo};
use super::hosts::{Hosts, is_host};
use super::rooms::OriginRoom;
use super::{ControlEffect, OriginControl};
use crate::node::messages::ToShard;
use crate::revoked::{Bearer, Revoked};
use crate::session::SessionKey;
use crate::wire::{
    Close, CloseCode, Hand, Invitation, Invitations, LoweredHand, LoweredHands, RevokedEntry, Role,
};
use crate::{Time, limits};

/// What a host decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Somebody may come on stage; a raised hand is lowered.
    Invite {
        /// Who.
        identity: String,
        /// As what.
        role: Role,
    },
    /// Somebody leaves the stage, or may no longer come: its stage tokens end, it may listen.
    Demote {
        /// Who.
        identity: String,
    },
    /// Somebody on stage is muted until that is lifted, or no longer.
    Mute {
        /// Who.
        identity: String,
        /// Which.
        muted: bool,
    },
    /// Somebody is put out: every token until here ends.
    Remove {
        /// Who.
        identity: String,
    },
    /// One token ends.
    RevokeToken {
        /// Its own name.
        jti: String,
    },
    /// Somebody, or an address, is put out for good.
    Ban {
        /// Who.
        identity: Option<String>,
        /// An address.
        address: Option<IpAddr>,
        /// Whether the address at which the person is met is banned, too.
        with_address: bool,
    },
    /// A ban is lifted.
    Unban {
        /// Whose.
        identity: Option<String>,
        /// An address.
        address: Option<IpAddr>,
    },
    /// A hand is lowered.
    LowerHand {
        /// Whose.
        identity: String,
    },
    /// The room takes no newcomers, or takes them again.
    Lock(bool),
}

/// Something that happened in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The room's name.
    pub room: String,
    /// What.
    pub what: NewsKind,
}

/// What happened in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewsKind {
    /// Its document changed.
    Room(Box<RoomInfo>),
    /// A hand was raised or lowered.
    Hand(Hand),
    /// Somebody came on stage, or left it.
    Stage {
        /// Who.
        identity: String,
        /// As what; absent: it left.
        role: Option<Role>,
    },
    /// An address was banned with a person: to be kept.
    AddressBanned(IpAddr),
    /// It ended.
    Ended,
}

/// Everyone of a room whom its hosts see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Participants {
    /// Raised hands, the first one first.
    pub hands: Vec<Hand>,
    /// Who may come on stage.
    pub invited: Vec<Invitation>,
    /// Whom it takes no longer.
    pub revoked: Vec<RevokedEntry>,
}

/// The origin's part of a room's people.
#[derive(Debug, Default)]
pub(super) struct OriginPeople {
    revoked: Arc<Revoked>,
    invited: BTreeMap<String, Role>,
    version: u64,
    hands: Vec<Hand>,
    /// The last ones that were lowered here.
    lowered: VecDeque<LoweredHand>,
    /// Hosts and co-hosts who were on stage, there or not.
    hosts: Hosts,
    /// Muted by a host.
    muted: BTreeSet<String>,
    /// Addresses that a ban has come to.
    met: BTreeMap<String, usize>,
}

impl OriginPeople {
    /// Lists begin above those of any former life of the room.
    pub(super) fn new(unix_us: u64) -> Self {
        let revoked = Arc::new(Revoked::new(unix_us));
        Self { revoked, version: unix_us, ..Self::default() }
    }

    fn invitations(&self, room: &str) -> Arc<Invitations> {
        let invited = self.invited.iter();
        let invited =
            invited.map(|(who, &role)| Invitation { identity: who.clone(), role }).collect();
        Arc::new(Invitations { room: room.to_owned(), version: self.version, invited })
    }
}

impl OriginControl {
    /// Does what a host decides. It is in force everywhere within a second.
    ///
    /// # Errors
    /// When there is no such room or person, or a list is full.
    pub fn act(&mut self, now: Time, room: &str, act: &Act) -> Result<(), RoomError> {
        let id = self.room_id(room)?;
        let unix_s = (self.settings.unix_us_at_zero + now.as_micros()) / 1_000_000;
        let entry = self.rooms.get_mut(&id).ok_or_else(|| RoomError::NoRoom(room.to_owned()))?;
        match act {
            Act::Invite { identity, role } => self.invite(id, identity, *role)?,
            Act::LowerHand { identity } => self.lower_hand(id, identity),
            Act::Lock(locked) => {
                entry.card.locked = *locked;
                entry.room.edit(|state| state.locked = *locked);
            }
            Act::Mute { identity, muted } => {
                let slot = entry.room.slot_of(identity);
                let slot = slot.ok_or_else(|| RoomError::NotOnStage(identity.clone()))?;
                match muted {
                    true => entry.people.muted.insert(identity.clone()),
                    false => entry.people.muted.remove(identity),
                };
                entry.room.set_muted(now, slot, *muted);
            }
            Act::Demote { identity } => {
                entry.people.hosts.forget(identity);
                self.withdraw(id, identity);
                self.revoke(id, RevokedEntry::tokens_of(identity, unix_s, true))?;
            }
            Act::Remove { identity } => {
                self.forget_person(id, identity);
                self.revoke(id, RevokedEntry::tokens_of(identity, unix_s, false))?;
            }
            Act::RevokeToken { jti } => self.revoke(id, RevokedEntry::token(jti))?,
            Act::Ban { identity, address, with_address } => {
                if let Some(identity) = identity {
                    self.forget_person(id, identity);
                    self.revoke(id, RevokedEntry::ban(identity, *with_address))?;
                }
                if let Some(address) = address {
                    self.revoke(id, RevokedEntry::ban_address(*address))?;
                }
            }
            Act::Unban { identity, address } => {
                let list = Arc::make_mut(&mut entry.people.revoked);
                list.lift(identity.as_deref(), address.map(crate::revoked::network));
                // A next ban of the person comes to addresses again.
                if let Some(identity) = identity {
                    entry.people.met.remove(identity);
                }
                self.push_revoked(id);
            }
        }
        self.drain_room(id);
        Ok(())
    }

    /// Bans and lists as they were kept, when the origin starts.
    ///
    /// # Errors
    /// When there are more than a room holds, or of more rooms than are kept.
    pub fn restore_revoked(
        &mut self,
        room: &str,
        entries: impl IntoIterator<Item = RevokedEntry>,
    ) -> Result<(), RoomError> {
        match self.room_id(room) {
            Ok(id) => {
                // One message to the shards for all, for a full list of entries is as long.
                let all =
                    entries.into_iter().try_for_each(|entry| self.keep_revoked_entry(id, entry));
                self.push_revoked(id);
                all?;
            }
            // It comes into being on first use, and finds them.
            Err(_) if self.absent.len() < limits::ABSENT_ROOMS => {
                self.absent.entry(room.to_owned()).or_default().extend(entries);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The epoch of the rooms that are made from here on: to be kept, so that a next life of this
    /// origin begins above it.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Why a room does not take this bearer, if it does not. A room that has ended does not forget
    /// whom it took no longer: its name may be used again.
    ///
    /// # Errors
    /// When there is no such room.
    pub fn refusal(&self, room: &str, bearer: Bearer<'_>) -> Result<Option<Close>, RoomError> {
        match self.room_id(room) {
            Ok(id) => {
                let entry = self.rooms.get(&id);
                Ok(entry.and_then(|entry| entry.people.revoked.refuses(bearer)))
            }
            Err(error) => match self.absent.get(room) {
                Some(entries) => Ok(Revoked::refusal_of(entries, bearer)),
                None => Err(error),
            },
        }
    }

    /// The earliest time that a fresh token of somebody may carry (seconds since 1970, UTC): those
    /// that were minted before it are taken back. 0 where none is.
    #[must_use]
    pub fn fresh_after(&self, room: &str, identity: &str) -> u64 {
        let entry = self.room_id(room).ok().and_then(|id| self.rooms.get(&id));
        let entries = entry.map(|entry| entry.people.revoked.entries()).unwrap_or_default();
        let own = entries.iter().filter(|entry| entry.identity.as_deref() == Some(identity));
        own.filter_map(|entry| entry.before).max().map_or(0, |before| before + 1)
    }

    /// What somebody is on stage, or was there as a host or co-host, or is invited to be.
    #[must_use]
    pub fn stage_role(&self, room: &str, identity: &str) -> Option<Role> {
        let entry = self.room_id(room).ok().and_then(|id| self.rooms.get(&id))?;
        let stage = &entry.room.state().stage;
        let there = stage.iter().find(|entry| entry.identity == identity).map(|entry| entry.role);
        let invited = entry.people.invited.get(identity).copied();
        there
            .filter(|role| is_host(*role))
            .or_else(|| entry.people.hosts.role(identity))
            .or_else(|| invited.filter(|role| is_host(*role)))
            .or(there)
    }

    /// The role of whoever a decision falls on: of the person, the token or the address.
    #[must_use]
    pub fn falls_on(&self, room: &str, act: &Act) -> Option<Role> {
        let entry = self.room_id(room).ok().and_then(|id| self.rooms.get(&id))?;
        let hosts = &entry.people.hosts;
        match act {
            Act::RevokeToken { jti } => hosts.of_token(jti),
            Act::Ban { identity, address, .. } => {
                let person = identity.as_ref().and_then(|who| self.stage_role(room, who));
                let place = address.and_then(|address| hosts.at(address));
                person.filter(|role| is_host(*role)).or(place).or(person)
            }
            Act::Demote { identity } | Act::Mute { identity, .. } | Act::Remove { identity } => {
                self.stage_role(room, identity)
            }
            Act::Invite { .. } | Act::Unban { .. } | Act::LowerHand { .. } | Act::Lock(_) => None,
        }
    }

    /// As what somebody may come on stage.
    #[must_use]
    pub fn invited(&self, room: &str, identity: &str) -> Option<Role> {
        let entry = self.room_id(room).ok().and_then(|id| self.rooms.get(&id))?;
        entry.people.invited.get(identity).copied()
    }

    /// Hands, invitations and bans of a room.
    ///
    /// # Errors
    /// When there is no such room.
    pub fn participants(&self, room: &str) -> Result<Participants, RoomError> {
        let id = self.room_id(room)?;
        let entry = self.rooms.get(&id).ok_or_else(|| RoomError::NoRoom(room.to_owned()))?;
        Ok(Participants {
            hands: entry.people.hands.clone(),
            invited: entry.people.invitations(room).invited.clone(),
            revoked: entry.people.revoked.entries().to_vec(),
        })
    }

    /// Addresses that rooms take no longer, each with its room.
    pub fn banned_addresses(&self) -> impl Iterator<Item = (String, RevokedEntry)> {
        self.rooms.values().flat_map(|entry| {
            let banned = entry.people.revoked.entries().iter().filter(|e| e.address.is_some());
            banned.map(|e| (entry.room.settings().name.clone(), e.clone()))
        })
    }

    /// The next thing that happened; at most [`limits::NEWS`] wait.
    pub fn poll_news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    pub(super) fn tell_news(&mut self, room: &str, what: NewsKind) {
        if self.news.len() >= limits::NEWS {
            self.news.pop_front();
            self.stats.drop_news += 1;
        }
        self.news.push_back(News { room: room.to_owned(), what });
    }

    /// Hands from listeners here and from relays.
    pub(super) fn hands(&mut self, hands: Vec<Hand>) {
        for hand in hands {
            let id = self.room_id(&hand.room).ok();
            let Some(entry) = id.and_then(|id| self.rooms.get_mut(&id)) else {
                self.stats.drop_hands += 1;
                continue;
            };
            let bearer = Bearer {
                identity: &hand.identity,
                minted: u64::MAX,
                jti: None,
                address: None,
                role: Role::Listener,
            };
            let banned = entry.people.revoked.refuses(bearer).is_some();
            let list = &mut entry.people.hands;
            let known = list.iter().position(|other| other.identity == hand.identity);
            match known {
                Some(at) if !hand.raised && hand.sequence >= list[at].sequence => {
                    list.remove(at);
                }
                None if hand.raised && !banned && list.len() < limits::HANDS_PER_ROOM => {
                    list.push(hand.clone());
                }
                // It has moved to another relay: what the former one says of it afterwards is old.
                Some(at) if hand.raised => {
                    list[at].sequence = list[at].sequence.max(hand.sequence);
                    continue;
                }
                None if hand.raised => {
                    self.stats.drop_hands += 1;
                    continue;
                }
                _ => continue,
            }
            entry.told_hands();
            let room = hand.room.clone();
            self.tell_news(&room, NewsKind::Hand(hand));
        }
    }

    /// Somebody was met whose ban covers the address: the address is banned, too.
    pub(super) fn met(&mut self, room: &str, identity: &str, address: IpAddr) {
        let Ok(id) = self.room_id(room) else { return };
        let Some(entry) = self.rooms.get_mut(&id) else { return };
        if !entry.people.revoked.bans_address_of(identity) {
            return;
        }
        let count = entry.people.met.entry(identity.to_owned()).or_default();
        if *count >= limits::ADDRESSES_PER_BAN {
            return;
        }
        *count += 1;
        let address = crate::revoked::network(address);
        if self.revoke(id, RevokedEntry::ban_address(address)).is_ok() {
            self.tell_news(room, NewsKind::AddressBanned(address));
        }
    }

    /// Whether somebody may take a slot; an invitation is used up by it.
    pub(super) fn comes_on_stage(&mut self, id: u32, bearer: Bearer<'_>) -> Result<(), Close> {
        let Some(entry) = self.rooms.get_mut(&id) else { return Ok(()) };
        if let Some(close) = entry.people.revoked.refuses(bearer) {
            return Err(close);
        }
        self.withdraw(id, bearer.identity);
        Ok(())
    }

    /// Somebody has its slot: a host's mute still holds.
    pub(super) fn came_on_stage(&mut self, now: Time, id: u32, bearer: Bearer<'_>, slot: u16) {
        let unix_ms = (self.settings.unix_us_at_zero + now.as_micros()) / 1_000;
        let Some(entry) = self.rooms.get_mut(&id) else { return };
        entry.people.hosts.saw(bearer);
        if entry.people.muted.contains(bearer.identity) {
            entry.room.set_muted(now, slot, true);
        }
        entry.room.edit(|state| {
            state.started_ms.get_or_insert(unix_ms);
        });
    }

    /// Somebody on stage mutes itself; it does not lift a host's mute.
    pub(super) fn self_mute(&mut self, now: Time, session: SessionKey, muted: bool) {
        let Some(&(id, slot)) = self.stage.get(&session) else {
            self.stats.stale_messages += 1;
            return;
        };
        let Some(entry) = self.rooms.get_mut(&id) else { return };
        let stage = &entry.room.state().stage;
        let identity = stage.iter().find(|e| e.slot == slot).map(|e| e.identity.clone());
        let held = identity.is_some_and(|identity| entry.people.muted.contains(&identity));
        if muted || !held {
            entry.room.set_muted(now, slot, muted);
        }
        self.drain_room(id);
    }

    fn invite(&mut self, id: u32, identity: &str, role: Role) -> Result<(), RoomError> {
        let Some(entry) = self.rooms.get_mut(&id) else { return Ok(()) };
        let invited = &mut entry.people.invited;
        if invited.len() >= limits::INVITATIONS && !invited.contains_key(identity) {
            return Err(RoomError::InvitationsFull);
        }
        if invited.insert(identity.to_owned(), role) != Some(role) {
            self.push_invitations(id);
        }
        self.lower_hand(id, identity);
        Ok(())
    }

    fn withdraw(&mut self, id: u32, identity: &str) {
        let Some(entry) = self.rooms.get_mut(&id) else { return };
        if entry.people.invited.remove(identity).is_some() {
            self.push_invitations(id);
        }
        self.lower_hand(id, identity);
    }

    /// Who is put out has no hand, no invitation and no mute.
    fn forget_person(&mut self, id: u32, identity: &str) {
        self.withdraw(id, identity);
        if let Some(entry) = self.rooms.get_mut(&id) {
            entry.people.muted.remove(identity);
            entry.people.hosts.forget(identity);
        }
    }

    fn lower_hand(&mut self, id: u32, identity: &str) {
        let Some(entry) = self.rooms.get_mut(&id) else { return };
        let hands = &mut entry.people.hands;
        let Some(at) = hands.iter().position(|hand| hand.identity == identity) else { return };
        let hand = Hand { raised: false, ..hands.remove(at) };
        entry.told_hands();
        let room = hand.room.clone();
        let people = &mut entry.people;
        if people.lowered.len() >= limits::LOWERED_HANDS {
            people.lowered.pop_front();
        }
        people
            .lowered
            .push_back(LoweredHand { identity: hand.identity.clone(), sequence: hand.sequence });
        people.version += 1;
        let list = Arc::new(LoweredHands {
            room: room.clone(),
            version: people.version,
            hands: people.lowered.iter().cloned().collect(),
        });
        let message = ToShard::LoweredHands { room: id, list };
        self.effects.push_back(ControlEffect::ToShards(message));
        self.tell_news(&room, NewsKind::Hand(hand));
    }

    fn revoke(&mut self, id: u32, entry: RevokedEntry) -> Result<(), RoomError> {
        self.keep_revoked_entry(id, entry)?;
        self.push_revoked(id);
        Ok(())
    }

    fn keep_revoked_entry(&mut self, id: u32, entry: RevokedEntry) -> Result<(), RoomError> {
        let Some(room) = self.rooms.get_mut(&id) else { return Ok(()) };
        match Arc::make_mut(&mut room.people.revoked).add(entry) {
            true => Ok(()),
            false => Err(RoomError::BansFull),
        }
    }

    fn push_revoked(&mut self, id: u32) {
        let Some(entry) = self.rooms.get(&id) else { return };
        let list = Arc::clone(&entry.people.revoked);
        let message = ToShard::Revoked { room: id, list };
        self.effects.push_back(ControlEffect::ToShards(message));
    }

    fn push_invitations(&mut self, id: u32) {
        let Some(entry) = self.rooms.get_mut(&id) else { return };
        entry.people.version += 1;
        let list = entry.people.invitations(&entry.room.settings().name);
        let message = ToShard::Invitations { room: id, list };
        self.effects.push_back(ControlEffect::ToShards(message));
    }

    /// What the shards are told of a room's people behind the room itself.
    pub(super) fn tell_people(&mut self, id: u32) {
        let Some(entry) = self.rooms.get(&id) else { return };
        let revoked = ToShard::Revoked { room: id, list: Arc::clone(&entry.people.revoked) };
        let list = entry.people.invitations(&entry.room.settings().name);
        self.effects.push_back(ControlEffect::ToShards(revoked));
        if !list.invited.is_empty() {
            let message = ToShard::Invitations { room: id, list };
            self.effects.push_back(ControlEffect::ToShards(message));
        }
    }
}

impl OriginRoom {
    fn told_hands(&mut self) {
        let hands = self.people.hands.len() as u64;
        self.room.edit(|state| state.hands = hands);
    }
}

impl OriginPeople {
    /// With what was decided in a former life of the room.
    pub(super) fn resume(mut self, entries: Vec<RevokedEntry>) -> Self {
        let list = Arc::make_mut(&mut self.revoked);
        for entry in entries {
            list.add(entry);
        }
        self
    }

    /// What holds in the next life of the room.
    pub(super) fn lasting(&self) -> Vec<RevokedEntry> {
        self.revoked.entries().to_vec()
    }
}

/// What a room that is refused is told.
pub(super) fn no_room(room: &str) -> Close {
    Close::new(CloseCode::NoRoom, format!("there is no room {room}"))
}
