//! A shard's copy of a room: who is in it, its ring, its ticks and beacons.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::owed::{Debt, Telling};
use super::people::People;
use super::{Fanout, Kind, Membership, NodeShard, ShardEffect, Standing};
use crate::fanout::{Class, Ring, SessionIx, Targets, Variant, Variants};
use crate::node::messages::{Tick, ToControl};
use crate::session::{SessionKey, State};
use crate::wire::{
    Close, Framing, Role, RoomState, ServerMessage, Subscribed, TickKey, beacon_bytes,
    try_encode_control,
};
use crate::{Time, limits};

/// A shard's copy of a room.
pub(super) struct ShardRoom {
    pub(super) info: Subscribed,
    pub(super) ring: Ring,
    pub(super) targets: Targets,
    variants: Variants,
    beacons: [Bytes; Framing::ALL.len()],
    /// When a tick or a beacon last went out.
    sent: Time,
    /// What the feeds are like, as control told it.
    pub(super) pending: u32,
    pub(super) upstream_silent_ms: u32,
    pub(super) announced: u32,
    /// The oldest tick that a replay brings to those inside: fixed when the room came up, so that
    /// what they get has no hole.
    pub(super) since: u32,
    pub(super) state: Option<RoomState>,
    /// The same as a message: written once, for a room may have thousands of listeners here.
    pub(super) document: Option<Bytes>,
    pub(super) telling: Telling,
    /// Sessions in the room, live or lagging.
    members: u32,
    pub(super) people: People,
}

impl NodeShard {
    /// Takes a tick from control: keeps it and builds its datagrams. What is returned is to be
    /// given to [`Self::fanout`].
    pub fn handle_tick(&mut self, now: Time, tick: &Tick) -> Option<Fanout> {
        let at = self.by_id.get(&tick.key.room).copied();
        let room = at.and_then(|at| self.rooms[at].as_mut());
        let (Some(at), Some(room)) = (at, room) else {
            self.keep_early(tick);
            return None;
        };
        match tick.key.epoch.cmp(&room.info.epoch) {
            Ordering::Equal => {}
            Ordering::Greater => {
                self.keep_early(tick);
                return None;
            }
            Ordering::Less => {
                self.stats.drop_foreign_tick += 1;
                return None;
            }
        }
        self.stats.ticks += 1;
        let number = tick.key.number;
        room.ring.insert(number, tick.record.clone());
        room.info.newest = room.ring.newest();
        room.info.tick_ms = tick.tick_ms;
        room.announced = room.announced.max(number);
        // What was too old for anyone's playout when the room came up is kept for those who ask, and
        // goes to nobody.
        let old = tick.replay && number < room.since;
        if old || room.ring.record(number).is_none() {
            self.stats.replays_kept += 1;
            return None;
        }
        room.pending = tick.pending;
        room.sent = now;
        let key = (room.info.id, room.info.epoch, number);
        let targets = &room.targets;
        let wanted = |framing, variant| targets.wants(framing, variant);
        room.variants.build(key, tick.replay, tick.pending, &room.ring, wanted);
        Some(Fanout { room: at, kind: Kind::Tick, number })
    }

    /// Whom a tick or a beacon goes to, as slices with the bytes that each slice gets, in the
    /// order of sending.
    pub fn fanout(&self, fanout: Fanout) -> impl Iterator<Item = (&[SessionIx], &Bytes)> {
        self.fanout_by_variant(fanout).map(|(_, list, bytes)| (list, bytes))
    }

    /// The same, with the variant that each slice is sent.
    pub fn fanout_by_variant(
        &self,
        fanout: Fanout,
    ) -> impl Iterator<Item = (Variant, &[SessionIx], &Bytes)> {
        let room = self.rooms[fanout.room].as_ref();
        room.into_iter().flat_map(move |room| {
            room.targets.lists().map(move |(framing, variant, list)| {
                let bytes = match fanout.kind {
                    Kind::Tick => room.variants.datagram(framing, variant),
                    Kind::Beacon => &room.beacons[framing.index()],
                };
                (variant, list, bytes)
            })
        })
    }

    /// The next beacon that is due. To be called until `None` when time has come to
    /// [`Self::poll_timeout`].
    pub fn poll_beacon(&mut self, now: Time) -> Option<Fanout> {
        let due = |room: &ShardRoom| room.beacon_due().is_some_and(|at| at <= now);
        let at = self.rooms.iter().position(|room| room.as_ref().is_some_and(due))?;
        let room = self.rooms[at].as_mut()?;
        room.sent = now;
        let beacon = room.beacon();
        room.beacons = Framing::ALL.map(|framing| beacon_bytes(framing, &beacon));
        self.stats.beacons += 1;
        Some(Fanout { room: at, kind: Kind::Beacon, number: beacon.newest.number })
    }

    pub(super) fn beacon_due(&self) -> Time {
        let due = self.rooms.iter().flatten().filter_map(ShardRoom::beacon_due);
        due.min().unwrap_or(Time::MAX)
    }

    /// Ticks wait for no message: one of a room that this shard does not know may have overtaken the
    /// message that brings the room.
    fn keep_early(&mut self, tick: &Tick) {
        if self.early.len() >= limits::EARLY_TICKS {
            self.early.pop_front();
            self.stats.drop_foreign_tick += 1;
        }
        self.early.push_back(tick.clone());
    }

    /// Puts into a room's ring what overtook the word of it: what is too old for anyone's playout is
    /// kept for those who ask, and what is older than the ring is of a former life of the room.
    fn take_early(&mut self, at: usize) {
        let Some(room) = self.rooms[at].as_mut() else {
            return;
        };
        let here = (room.info.id, room.info.epoch);
        let (early, others) = std::mem::take(&mut self.early)
            .into_iter()
            .partition::<VecDeque<Tick>, _>(|tick| (tick.key.room, tick.key.epoch) == here);
        self.early = others;
        for tick in early {
            if tick.key.number.saturating_add(limits::RING_TICKS as u32) <= room.info.newest {
                self.stats.drop_foreign_tick += 1;
                continue;
            }
            self.stats.replays_kept += u64::from(tick.key.number < room.since);
            self.stats.ticks += 1;
            room.ring.insert(tick.key.number, tick.record);
            room.announced = room.announced.max(tick.key.number);
        }
        room.info.newest = room.info.newest.max(room.ring.newest());
    }

    pub(super) fn room_up(&mut self, now: Time, info: Subscribed) {
        let at = match self.by_name.get(&info.name) {
            Some(&at) => {
                self.room_renewed(now, at, info);
                at
            }
            None => self.room_made(now, info),
        };
        self.take_early(at);
        let Some(name) = self.rooms[at].as_ref().map(|room| room.info.name.clone()) else {
            return;
        };
        let Some(waiting) = self.waiting.remove(&name) else {
            return;
        };
        self.waiting_count -= waiting.len();
        for key in waiting {
            let role = self.by_key(key).map(|session| session.role);
            match role {
                Some(Role::Relay) => self.subscribed(now, key, at),
                Some(_) => {
                    if let Err(close) = self.join_room(now, key, at) {
                        self.close(key.ix, close);
                    }
                }
                None => {}
            }
        }
    }

    fn room_made(&mut self, now: Time, info: Subscribed) -> usize {
        let free = self.rooms.iter().position(Option::is_none);
        let at = free.unwrap_or_else(|| {
            self.rooms.push(None);
            self.rooms.len() - 1
        });
        self.by_id.insert(info.id, at);
        self.by_name.insert(info.name.clone(), at);
        self.rooms[at] = Some(ShardRoom {
            announced: info.newest,
            since: since(&info),
            info,
            ring: Ring::default(),
            targets: Targets::default(),
            variants: Variants::default(),
            beacons: Default::default(),
            sent: now,
            pending: 0,
            upstream_silent_ms: 0,
            state: None,
            document: None,
            telling: Telling::default(),
            members: 0,
            people: People::default(),
        });
        at
    }

    /// The room has another epoch or cadence: whoever is in it is told. Of a newer tick alone they
    /// are not: each room that another shard asks for would be a message to everyone here.
    fn room_renewed(&mut self, now: Time, at: usize, info: Subscribed) {
        let Some(room) = self.rooms[at].as_mut() else {
            return;
        };
        if room.info == (Subscribed { newest: room.info.newest, ..info.clone() }) {
            return;
        }
        if room.info.epoch != info.epoch {
            room.ring.clear();
            room.announced = info.newest;
            room.since = since(&info);
            room.pending = 0;
            // Versions of the document count anew in a new epoch.
            room.state = None;
            room.document = None;
        }
        // An origin that started again may have numbered its rooms in another order.
        let former = std::mem::replace(&mut room.info, info.clone());
        if self.by_id.get(&former.id) == Some(&at) {
            self.by_id.remove(&former.id);
        }
        self.by_id.insert(info.id, at);
        for ix in self.members(at) {
            let Some(session) = self.session_mut(ix) else { continue };
            match session.role {
                // It may be in many rooms that are renewed at once.
                Role::Relay => {
                    let key = session.key;
                    self.subscribed(now, key, at);
                }
                _ => self.send(ix, &ServerMessage::Subscribed(info.clone())),
            }
        }
    }

    pub(super) fn room_refused(&mut self, name: &str, close: &Close) {
        // Someone joined while the room was being given back, and it cannot be had again.
        if let Some(&at) = self.by_name.get(name) {
            self.room_ends(at, close);
        }
        let Some(waiting) = self.waiting.remove(name) else {
            return;
        };
        self.waiting_count -= waiting.len();
        for key in waiting {
            let Some(role) = self.by_key(key).map(|session| session.role) else {
                continue;
            };
            if role == Role::Relay {
                let refused = ServerMessage::Refused {
                    room: name.to_owned(),
                    code: close.code as u32,
                    name: close.code.name().to_owned(),
                    reason: close.reason.clone(),
                };
                self.send(key.ix, &refused);
            } else {
                self.close(key.ix, close.clone());
            }
        }
    }

    pub(super) fn room_down(&mut self, id: u32, close: &Close) {
        if let Some(&at) = self.by_id.get(&id) {
            self.room_ends(at, close);
        }
    }

    /// Tells those who are in a room that it is gone, and forgets it.
    fn room_ends(&mut self, at: usize, close: &Close) {
        let Some(name) = self.rooms[at].as_ref().map(|room| room.info.name.clone()) else {
            return;
        };
        for ix in self.members(at) {
            let Some(session) = self.session_mut(ix) else {
                continue;
            };
            if session.role == Role::Relay {
                session.rooms.retain(|membership| membership.room != at);
                let refused = ServerMessage::Refused {
                    room: name.clone(),
                    code: close.code as u32,
                    name: close.code.name().to_owned(),
                    reason: close.reason.clone(),
                };
                self.send(ix, &refused);
            } else {
                self.close(ix, close.clone());
            }
        }
        for key in self.asked_for(at) {
            if let Some(session) = self.by_key(key) {
                session.owed.asked.retain(|&asked| asked != at);
            }
            let refused = ServerMessage::Refused {
                room: name.clone(),
                code: close.code as u32,
                name: close.code.name().to_owned(),
                reason: close.reason.clone(),
            };
            self.send(key.ix, &refused);
        }
        self.drop_room(at);
    }

    /// Child relays that are about to get a room.
    fn asked_for(&self, at: usize) -> Vec<SessionKey> {
        let asked = self.sessions.iter().flatten().filter(|s| s.owed.asked.contains(&at));
        asked.map(|session| session.key).collect()
    }

    /// Nobody in the whole node is in the room, as far as control knows.
    pub(super) fn room_forget(&mut self, id: u32) {
        let Some(&at) = self.by_id.get(&id) else {
            return;
        };
        let Some(room) = self.rooms[at].as_ref() else {
            return;
        };
        if room.members > 0 || !self.asked_for(at).is_empty() {
            let (shard, room) = (self.settings.shard, room.info.name.clone());
            return self.tell(ToControl::RoomBusy { shard, room });
        }
        self.drop_room(at);
    }

    fn drop_room(&mut self, at: usize) {
        if let Some(room) = self.rooms[at].take() {
            if self.by_id.get(&room.info.id) == Some(&at) {
                self.by_id.remove(&room.info.id);
            }
            self.by_name.remove(&room.info.name);
        }
    }

    pub(super) fn room_state(&mut self, now: Time, id: u32, state: RoomState) {
        let Some(&at) = self.by_id.get(&id) else {
            return;
        };
        let Some(room) = self.rooms[at].as_mut() else {
            return;
        };
        let Some(bytes) = try_encode_control(&ServerMessage::Room(state.clone())) else {
            self.stats.drop_oversize_message += 1;
            return;
        };
        room.document = Some(bytes);
        if room.state.replace(state).is_none() {
            self.close_early(at);
        }
        self.tell_document(now, at);
    }

    pub(super) fn feed_state(&mut self, newest: TickKey, pending: u32, upstream_silent_ms: u32) {
        let Some(&at) = self.by_id.get(&newest.room) else {
            return;
        };
        let Some(room) = self.rooms[at].as_mut() else {
            return;
        };
        if room.info.epoch == newest.epoch {
            room.announced = room.announced.max(newest.number);
            room.pending = pending;
            room.upstream_silent_ms = upstream_silent_ms;
        }
    }

    /// Puts a session into a room's fan-out, and tells it the room's document.
    pub(super) fn enter_room(&mut self, _now: Time, ix: SessionIx, at: usize, class: Class) {
        let found = self.session_mut(ix).map(|session| (session.framing, session.choice.variant()));
        let Some((framing, variant)) = found else {
            return;
        };
        let Some(room) = self.rooms[at].as_mut() else {
            return;
        };
        let variant = variant.at_most(room.info.redundancy);
        let place = room.targets.add(ix, class, framing, variant);
        room.members += 1;
        let (first, name) = (room.members == 1, room.info.name.clone());
        let document = room.document.clone();
        if let Some(session) = self.session_mut(ix) {
            session.rooms.push(Membership {
                room: at,
                standing: Standing::Live(place),
                debt: Debt::default(),
            });
        }
        if let Some(bytes) = document {
            self.effects.push_back(ShardEffect::SendControl { session: ix, bytes });
        }
        if first {
            self.tell(ToControl::RoomBusy { shard: self.settings.shard, room: name });
        }
    }

    /// Takes a session out of a room, wherever it stands.
    pub(super) fn leave_room(&mut self, membership: Membership) {
        let at = membership.room;
        self.off_the_list(membership);
        let Some(room) = self.rooms[at].as_mut() else {
            return;
        };
        room.members -= 1;
        if room.members == 0 {
            let room = room.info.name.clone();
            self.tell(ToControl::RoomIdle { shard: self.settings.shard, room });
        }
    }

    /// Takes a session out of its list; whoever takes its place there is told so.
    pub(super) fn off_the_list(&mut self, membership: Membership) {
        let Standing::Live(place) = membership.standing else {
            return;
        };
        let Some(room) = self.rooms[membership.room].as_mut() else {
            return;
        };
        let Some(moved) = room.targets.remove(place) else {
            return;
        };
        if let Some(session) = self.session_mut(moved)
            && let Some(m) = session.rooms.iter_mut().find(|m| m.room == membership.room)
        {
            m.standing = Standing::Live(place);
        }
    }

    /// Puts a session into its list again: it lagged, or its variant is another.
    pub(super) fn on_the_list(&mut self, ix: SessionIx, at: usize) {
        let Some(session) = self.session_mut(ix) else {
            return;
        };
        let class = match session.role {
            Role::Relay => Class::Relay,
            Role::Listener | Role::Recorder => Class::Listener,
            Role::Host | Role::CoHost | Role::Speaker => Class::Stage,
        };
        let (framing, variant) = (session.framing, session.choice.variant());
        let Some(room) = self.rooms[at].as_mut() else {
            return;
        };
        let variant = variant.at_most(room.info.redundancy);
        let place = room.targets.add(ix, class, framing, variant);
        if let Some(session) = self.session_mut(ix)
            && let Some(m) = session.rooms.iter_mut().find(|m| m.room == at)
        {
            m.standing = Standing::Live(place);
        }
    }

    /// Everyone in a room, live or lagging.
    pub(super) fn members(&self, at: usize) -> Vec<SessionIx> {
        let inside = |session: &&super::Session| {
            session.state != State::Closed && session.rooms.iter().any(|m| m.room == at)
        };
        self.sessions.iter().flatten().filter(inside).map(|session| session.key.ix).collect()
    }

    /// Members of every room by name, for the node's own view: live and lagging sessions.
    pub fn room_members(&self) -> impl Iterator<Item = (&str, u32)> {
        self.rooms.iter().flatten().map(|room| (room.info.name.as_str(), room.members))
    }
}

/// The oldest tick worth playing in a room that has come up.
fn since(info: &Subscribed) -> u32 {
    let span = limits::REPAIR_DEADLINE.as_millis() / u128::from(info.tick_ms.max(1));
    info.newest.saturating_sub(u32::try_from(span).unwrap_or(u32::MAX))
}

impl ShardRoom {
    /// When the next beacon is due: twice the cadence after the last tick or beacon.
    fn beacon_due(&self) -> Option<Time> {
        if self.targets.is_empty() {
            return None;
        }
        let scale = u32::from(self.info.tick_ms).max(20);
        let after: Duration = limits::BEACON_AFTER * scale / 20;
        Some(self.sent + after)
    }
}
