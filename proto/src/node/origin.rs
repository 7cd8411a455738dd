//! Control of an origin: rooms, the stage, the planner.

mod admission;
mod api;
mod audience;
mod entrance;
mod hosts;
mod people;
mod rooms;
mod siblings;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

pub use self::api::{RoomCard, RoomError, RoomInfo};
use self::audience::Said;
pub use self::audience::{Audience, RoomAudience};
use self::entrance::Entrance;
pub use self::entrance::{Answer, Asking};
pub use self::people::{Act, News, NewsKind, Participants};
use self::rooms::OriginRoom;
use self::siblings::Lists;
use super::control::ControlEffect;
use super::messages::{Tick, ToControl, ToShard};
use super::redeem::redeem;
use super::stats::ControlStats;
use super::view::{NodeView, RelayView};
use crate::admission::{DoorTotals, Spent, Watermark};
use crate::revoked::Bearer;
use crate::room::{Profile, RoomStats};
use crate::session::SessionKey;
use crate::token::Signer;
use crate::tree::{ORIGIN, PlanError, Planner, PlannerSettings, RoomSums, Sums};
use crate::wire::{Close, CloseCode, Load, RelayInfo, RevokedEntry, SpeechFrame};
use crate::{Time, limits};

/// What an origin's control is told when it starts.
#[derive(Clone, Debug)]
pub struct OriginSettings {
    /// The node's name.
    pub name: String,
    /// The rooms that exist from the start.
    pub rooms: Vec<RoomSetup>,
    /// What a room looks like that is made by the first one to join it; `None`: none is made.
    pub first_use: Option<RoomSetup>,
    /// The tree's settings.
    pub planner: PlannerSettings,
    /// The epoch of the first rooms, higher than in any former life of this origin: in seconds, which
    /// a life's rooms cannot overtake ([`limits::ROOM_UNUSED`]).
    pub epoch: u32,
    /// Listeners that the origin itself may carry, for its readiness.
    pub capacity: u32,
    /// The public keys that relays are told: key id and Ed25519 key (base64url).
    pub keys: Vec<(String, String)>,
    /// Certifies the keys under which relays sign re-home passes; without it there are none.
    pub signer: Option<Signer>,
    /// The wall clock at [`Time::ZERO`]: microseconds since the Unix epoch.
    pub unix_us_at_zero: u64,
    /// Newcomers that the origin itself admits in a second; `None` where its door stops nobody.
    pub joins_per_s: Option<u32>,
}

/// A room as it is configured.
#[derive(Clone, Debug, PartialEq)]
pub struct RoomSetup {
    /// Its name.
    pub name: String,
    /// Its title.
    pub title: String,
    /// Whether anonymous listeners are admitted.
    pub public: bool,
    /// What speakers may send.
    pub profile: Profile,
    /// How many speakers are audible at once.
    pub audible: usize,
    /// The cadence in milliseconds.
    pub tick_ms: u8,
}

/// Control of an origin.
pub struct OriginControl {
    settings: OriginSettings,
    rooms: BTreeMap<u32, OriginRoom>,
    names: BTreeMap<String, u32>,
    next_room: u32,
    /// The epoch of the rooms that are made from here on.
    epoch: u32,
    /// What the rooms counted that have ended.
    past: RoomStats,
    /// Stage sessions: their room and slot.
    stage: BTreeMap<SessionKey, (u32, u16)>,
    planner: Planner,
    relays: BTreeMap<SessionKey, String>,
    sessions: BTreeMap<String, SessionKey>,
    /// The relays' keys for re-home passes.
    pass_keys: BTreeMap<String, String>,
    lists: Lists,
    sums: Sums,
    room_sums: RoomSums,
    /// By relay and room: the relay's own listeners.
    audience: BTreeMap<String, BTreeMap<u32, Said>>,
    /// When the documents' counts are next brought up to date.
    counts_due: Time,
    news: VecDeque<News>,
    /// Whom rooms that are not here take no longer.
    absent: BTreeMap<String, Vec<RevokedEntry>>,
    totals: BTreeMap<u16, (u32, u32)>,
    doors: BTreeMap<u16, DoorTotals>,
    watermark: Watermark,
    entrance: Entrance,
    /// Tickets redeemed at the origin.
    spent: Spent,
    draining: bool,
    ticks: VecDeque<Tick>,
    /// How long the newest frame took from its shard to here.
    handover: Duration,
    /// How long ticks collected, in microseconds, for the shell's histogram.
    collected: VecDeque<(u32, u8)>,
    effects: VecDeque<ControlEffect>,
    stats: ControlStats,
    /// Whether the control plane is held still: rooms go on, the tree is not looked after.
    #[cfg(feature = "fault-injection")]
    parked: bool,
}

impl OriginControl {
    /// An origin with its configured rooms.
    ///
    /// # Errors
    /// When a configured room breaks a limit.
    pub fn new(settings: OriginSettings, now: Time) -> Result<Self, Close> {
        let (keys, clock) = (&settings.keys, settings.unix_us_at_zero);
        let entrance = Entrance::new(now, keys, clock, settings.joins_per_s.is_some());
        let mut control = Self {
            planner: Planner::new(settings.planner),
            epoch: settings.epoch,
            past: RoomStats::default(),
            settings,
            rooms: BTreeMap::new(),
            names: BTreeMap::new(),
            next_room: 1,
            stage: BTreeMap::new(),
            relays: BTreeMap::new(),
            sessions: BTreeMap::new(),
            pass_keys: BTreeMap::new(),
            lists: Lists::default(),
            sums: Sums::new(ORIGIN),
            room_sums: RoomSums::new(ORIGIN),
            audience: BTreeMap::new(),
            counts_due: now + limits::COUNTS_EVERY,
            news: VecDeque::new(),
            absent: BTreeMap::new(),
            totals: BTreeMap::new(),
            doors: BTreeMap::new(),
            watermark: Watermark::new(now),
            entrance,
            spent: Spent::default(),
            draining: false,
            ticks: VecDeque::new(),
            handover: Duration::ZERO,
            collected: VecDeque::new(),
            effects: VecDeque::new(),
            stats: ControlStats::default(),
            #[cfg(feature = "fault-injection")]
            parked: false,
        };
        let keys = ToShard::Keys(control.settings.keys.clone());
        control.effects.push_back(ControlEffect::ToShards(keys));
        for setup in control.settings.rooms.clone() {
            control.make_room(now, &setup, true)?;
        }
        Ok(control)
    }

    /// A message from a shard.
    pub fn handle_message(&mut self, now: Time, message: ToControl) {
        #[cfg(feature = "fault-injection")]
        if self.parked
            && matches!(
                message,
                ToControl::RelayJoin { .. }
                    | ToControl::RelayLoad { .. }
                    | ToControl::RelayLeave { .. }
            )
        {
            return;
        }
        match message {
            ToControl::WantRoom { room, .. } => {
                let asked = Some(room.clone());
                let found = self.find_room(now, &room).map(|id| self.rooms.get(&id));
                let message = match found {
                    Ok(Some(entry)) => ToShard::RoomUp(entry.room.subscribed()),
                    Ok(None) => return,
                    Err(close) => ToShard::RoomRefused { room, close },
                };
                self.effects.push_back(ControlEffect::ToShards(message));
                if let Some(&id) = asked.as_ref().and_then(|room| self.names.get(room)) {
                    self.tell_people(id);
                }
            }
            ToControl::RoomIdle { shard, room } => self.room_idle(now, shard, &room),
            ToControl::RoomBusy { shard, room } => self.room_busy(shard, &room),
            ToControl::StageJoin { session, room, identity, name, role, minted, jti, address } => {
                let jti = jti.as_deref();
                let bearer = Bearer { identity: &identity, minted, jti, address, role };
                self.stage_join(now, session, &room, bearer, &name);
            }
            ToControl::SelfMute { session, muted } => self.self_mute(now, session, muted),
            ToControl::Hands { hands } => self.hands(hands),
            ToControl::Met { room, identity, address } => self.met(&room, &identity, address),
            ToControl::Rooms { shard, tallies } => self.room_sums.shard(shard, tallies),
            ToControl::StageLeave { session } => self.stage_leave(now, session),
            ToControl::Speech { room, slot, frames, at } => {
                self.handover = now.since(at);
                self.speech(now, room, slot, frames);
            }
            ToControl::RelayJoin { session, info } => self.relay_join(now, session, info),
            ToControl::RelayLoad { session, load } => self.relay_load(now, session, &load),
            ToControl::RelayLeave { session } => self.relay_leave(now, session),
            ToControl::Totals { shard, listeners, children, door, .. } => {
                self.totals.insert(shard, (listeners, children));
                self.doors.insert(shard, door);
                self.own_door(now);
            }
            ToControl::Redeem { session, ticket, admits } => {
                let unix_s = self.unix_ms(now) / 1_000;
                let ticket = (ticket, admits);
                let message = redeem(&mut self.spent, &mut self.stats, unix_s, session, ticket);
                self.send_to(session, message);
            }
        }
    }

    /// See [`super::NodeControl::handle_clock`].
    pub(super) fn handle_clock(&mut self, unix_us_at_zero: u64) {
        self.settings.unix_us_at_zero = unix_us_at_zero;
        self.entrance.set_clock(unix_us_at_zero);
    }

    /// The node is to drain, and ends `within` this time: it takes no newcomers and asks its
    /// listeners to move.
    pub fn handle_drain(&mut self, _now: Time, within: Duration) {
        self.draining = true;
        self.effects.push_back(ControlEffect::ToShards(ToShard::Drain { within }));
    }

    /// Holds the control plane still, as if it hung, or lets it go on: speakers and ticks are
    /// served, relays are neither heard nor placed. For tests of what stands without it.
    #[cfg(feature = "fault-injection")]
    pub fn park(&mut self, park: bool) {
        self.parked = park;
    }

    /// Time has come to [`Self::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Time) {
        let due: Vec<u32> = self
            .rooms
            .iter()
            .filter(|(_, room)| room.room.poll_timeout().is_some_and(|at| at <= now))
            .map(|(&id, _)| id)
            .collect();
        for id in due {
            if let Some(room) = self.rooms.get_mut(&id) {
                room.room.handle_timeout(now);
            }
            self.drain_room(id);
        }
        self.end_unused(now);
        self.counts_timeout(now);
        #[cfg(feature = "fault-injection")]
        if self.parked {
            return;
        }
        for id in self.planner.expire(now) {
            let text = format!("the relay {id} has not reported for too long and is left out");
            self.watermark.left(&id);
            self.watermark.reporter_left(&id);
            self.effects.push_back(ControlEffect::Note { warn: true, text });
            self.sibling_left(now, &id);
        }
        self.siblings_timeout(now);
        self.sums.expire(now);
        self.call_the_queue(now);
        self.drain_planner();
    }

    /// When [`Self::handle_timeout`] is to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Time {
        let rooms = self.rooms.values().filter_map(|room| room.room.poll_timeout());
        #[cfg(feature = "fault-injection")]
        if self.parked {
            return rooms.min().unwrap_or(Time::MAX).min(self.counts_due);
        }
        let others = self.planner.poll_timeout().into_iter().chain([
            self.lists.timeout(),
            self.watermark.poll_timeout(),
            self.counts_due,
        ]);
        rooms.chain(others).min().unwrap_or(Time::MAX)
    }

    /// The next tick for every shard.
    pub fn poll_tick(&mut self) -> Option<Tick> {
        self.ticks.pop_front()
    }

    /// How long a tick's first frame waited for it to close, in microseconds, and the frames in
    /// it: one entry for each tick with frames.
    pub fn poll_collected(&mut self) -> Option<(u32, u8)> {
        self.collected.pop_front()
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<ControlEffect> {
        self.effects.pop_front()
    }

    /// What was counted.
    #[must_use]
    pub const fn stats(&self) -> ControlStats {
        self.stats
    }

    /// Frames that rooms dropped since the origin started, by cause.
    pub fn room_counters(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        let mut sum = self.past;
        self.rooms.values().for_each(|room| sum += *room.room.stats());
        sum.causes()
    }

    /// What the origin and its tree look like.
    #[must_use]
    pub fn view(&self, _now: Time) -> NodeView {
        let listeners = self.totals.values().map(|t| u64::from(t.0)).sum();
        NodeView {
            node: self.settings.name.clone(),
            level: Some(0),
            not_ready: self.draining.then(|| "draining".into()),
            listeners,
            listeners_below: self.sums.total().saturating_add(listeners),
            children: self.totals.values().map(|t| u64::from(t.1)).sum(),
            parents: Vec::new(),
            rooms: self.rooms.values().map(OriginRoom::view).collect(),
            relays: self.relay_views(),
            capacity: self.capacity(listeners),
            audience: self.audiences(),
            why: String::new(),
        }
    }

    fn relay_views(&self) -> Vec<RelayView> {
        let seat = |relay: crate::tree::RelayView<'_>| RelayView {
            relay: relay.id.to_owned(),
            address: relay.address.to_owned(),
            level: relay.level,
            parents: relay.parents.iter().map(ToString::to_string).collect(),
            children: relay.children,
            listeners: relay.load.listeners,
            capacity: relay.capacity,
            why: relay.why.to_owned(),
        };
        self.planner.topology().map(seat).collect()
    }

    fn stage_join(
        &mut self,
        now: Time,
        session: SessionKey,
        room: &str,
        bearer: Bearer<'_>,
        name: &str,
    ) {
        let (identity, role) = (bearer.identity, bearer.role);
        let joined = self.find_room(now, room).and_then(|id| {
            self.comes_on_stage(id, bearer)?;
            let entry = self.rooms.get_mut(&id).ok_or_else(|| people::no_room(room))?;
            // A speaker who comes again from elsewhere leaves the former session.
            let former = entry.room.slot_of(identity);
            let slot = entry.room.join(now, identity, name, role)?;
            let replaced = former.and_then(|slot| entry.stage.remove(&slot));
            entry.stage.insert(slot, session);
            Ok((id, slot, replaced))
        });
        match joined {
            Err(close) => self.close(session, close),
            Ok((id, slot, replaced)) => {
                self.stage.insert(session, (id, slot));
                self.came_on_stage(now, id, bearer, slot);
                let what = NewsKind::Stage { identity: identity.to_owned(), role: Some(role) };
                self.tell_news(room, what);
                if let Some(former) = replaced {
                    self.stage.remove(&former);
                    let reason = "the same identity joined again from elsewhere";
                    self.close(former, Close::new(CloseCode::Replaced, reason));
                }
                if let Some(entry) = self.rooms.get(&id) {
                    let room = entry.room.subscribed();
                    let frame_bytes = entry.room.settings().profile.frame_bytes;
                    let message = ToShard::StageJoined { session, room, slot, frame_bytes };
                    self.send_to(session, message);
                }
                self.drain_room(id);
            }
        }
    }

    fn stage_leave(&mut self, now: Time, session: SessionKey) {
        let Some((id, slot)) = self.stage.remove(&session) else { return };
        if let Some(entry) = self.rooms.get_mut(&id) {
            entry.stage.remove(&slot);
            let stage = &entry.room.state().stage;
            let who = stage.iter().find(|e| e.slot == slot).map(|e| e.identity.clone());
            entry.room.leave(now, slot);
            entry.left(now);
            let room = entry.room.settings().name.clone();
            if let Some(identity) = who {
                self.tell_news(&room, NewsKind::Stage { identity, role: None });
            }
        }
        self.drain_room(id);
    }

    fn speech(&mut self, now: Time, room: u32, slot: u16, frames: Vec<SpeechFrame>) {
        let Some(entry) = self.rooms.get_mut(&room) else {
            self.stats.stale_messages += 1;
            return;
        };
        entry.room.handle_speech(now, slot, frames);
        self.drain_room(room);
    }

    /// Takes what a room has to say: ticks, requests to speakers, its document.
    fn drain_room(&mut self, id: u32) {
        let Some(entry) = self.rooms.get_mut(&id) else { return };
        while let Some(tick) = entry.room.poll_tick() {
            if tick.frames > 0 && self.collected.len() < limits::TICK_QUEUE {
                // A speaker alone waits for nobody, and yet the frame was handed from thread to thread.
                let waited = (tick.collect + self.handover).as_micros();
                let waited = u32::try_from(waited).unwrap_or(u32::MAX);
                self.collected.push_back((waited, tick.frames));
            }
            self.stats.ticks += 1;
            self.ticks.push_back(Tick {
                key: tick.key,
                tick_ms: tick.record.tick_ms,
                record: tick.record.bytes,
                pending: 0,
                replay: false,
            });
        }
        while let Some(request) = entry.room.poll_request() {
            if let Some(&session) = entry.stage.get(&request.slot) {
                let message = ToShard::SpeechRequest { session, request };
                self.effects.push_back(ControlEffect::ToShard { shard: session.shard, message });
            }
        }
        let state = entry.room.state();
        if state.version != entry.told {
            entry.told = state.version;
            let message = ToShard::RoomState { room: id, state: state.clone() };
            self.effects.push_back(ControlEffect::ToShards(message));
            let info = entry.info();
            let room = info.state.room.clone();
            self.tell_news(&room, NewsKind::Room(Box::new(info)));
        }
    }

    fn relay_join(&mut self, now: Time, session: SessionKey, info: RelayInfo) {
        let id = info.id.clone();
        let pass_key = info.pass_key.clone();
        match self.planner.join(now, info) {
            Ok(()) => {
                let text = format!("the relay {id} has registered");
                self.effects.push_back(ControlEffect::Note { warn: false, text });
                if let Some(former) = self.sessions.insert(id.clone(), session) {
                    self.relays.remove(&former);
                    let reason = "the same relay registered again";
                    self.close(former, Close::new(CloseCode::Replaced, reason));
                }
                match pass_key {
                    Some(key) => drop(self.pass_keys.insert(id.clone(), key)),
                    None => drop(self.pass_keys.remove(&id)),
                }
                self.sibling_joined(now, &id);
                self.relays.insert(session, id);
                self.tell_queue(now, session);
            }
            Err(error) => {
                let text = format!("the relay {id} was refused: {error}");
                self.effects.push_back(ControlEffect::Note { warn: true, text });
                let code = match error {
                    PlanError::NoRoom { .. } | PlanError::TooMany { .. } => CloseCode::Full,
                    _ => CloseCode::Protocol,
                };
                self.close(session, Close::new(code, error.to_string()));
            }
        }
        self.drain_planner();
    }

    fn relay_load(&mut self, now: Time, session: SessionKey, load: &Load) {
        let Some(id) = self.relays.get(&session) else {
            self.stats.stale_messages += 1;
            return;
        };
        let load = &*self.believed(id, load);
        let drained = self.planner.relay(id).is_some_and(|view| view.draining);
        let (summed, planned) = (self.sums.handle(now, id, load), self.planner.load(now, id, load));
        let id = id.clone();
        if summed.is_ok() {
            self.room_sums.child(now, &id, load);
            self.relay_audience(now, &id, load);
        }
        if load.draining && !drained {
            self.sibling_left(now, &id);
        }
        if summed.is_ok() && planned.is_ok() {
            self.door_reported(now, &id, load);
        }
        if summed.is_err() || planned.is_err() {
            self.stats.stale_messages += 1;
        }
        // It was left out while it did not report, and stands nowhere: it is to register again.
        if let Err(error @ PlanError::Unknown { .. }) = planned {
            self.close(session, Close::new(CloseCode::Protocol, error.to_string()));
        }
        self.drain_planner();
    }

    fn relay_leave(&mut self, now: Time, session: SessionKey) {
        let Some(id) = self.relays.remove(&session) else { return };
        self.sessions.remove(&id);
        self.sums.remove(&id);
        self.room_sums.remove(&id);
        self.audience.remove(&id);
        self.pass_keys.remove(&id);
        self.watermark.left(&id);
        self.watermark.reporter_left(&id);
        self.planner.leave(now, &id);
        self.sibling_left(now, &id);
        let text = format!("the relay {id} has left");
        self.effects.push_back(ControlEffect::Note { warn: true, text });
        self.drain_planner();
    }

    fn drain_planner(&mut self) {
        while let Some((id, placement)) = self.planner.poll_placement() {
            if let Some(&session) = self.sessions.get(&id) {
                self.send_to(session, ToShard::Placement { session, placement });
            }
        }
    }

    fn close(&mut self, session: SessionKey, close: Close) {
        self.send_to(session, ToShard::Close { session, close });
    }

    fn send_to(&mut self, session: SessionKey, message: ToShard) {
        self.effects.push_back(ControlEffect::ToShard { shard: session.shard, message });
    }
}
