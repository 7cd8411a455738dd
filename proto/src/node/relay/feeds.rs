//! A relay's rooms: subscriptions, the merge of the feeds, repair.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::RelayControl;
use super::people::RoomPeople;
use crate::node::control::{ControlEffect, LinkId};
use crate::node::messages::{Asker, Tick, ToShard};
use crate::node::stats::ControlStats;
use crate::receive::{Arrival, FeedIx, Window};
use crate::wire::{
    Beacon, ClientMessage, Close, CloseCode, Datagram, Framing, RoomState, Subscribed, TickKey,
    encode_control, probe_bytes, repair_bytes,
};
use crate::{Time, limits};

/// A room that the relay carries or is about to.
#[derive(Debug, Default)]
pub(super) struct RelayRoom {
    /// What the first parent said; absent until then.
    up: Option<Up>,
    /// Shards that have someone in it. Before the room is up: those that wait do not count.
    busy: BTreeSet<u16>,
    idle_since: Option<Time>,
    /// Links that refused it, and when.
    refused: BTreeMap<LinkId, Time>,
    document: u64,
    news: RoomNews,
    pub(super) people: RoomPeople,
}

/// What the shards are still to be told of a room. A parent may change its word as often as it likes;
/// each change would be a message to everyone here.
#[derive(Debug, Default)]
struct RoomNews {
    /// Title, or who may listen.
    described: bool,
    described_at: Option<Time>,
    document: Option<RoomState>,
    document_at: Option<Time>,
}

impl RoomNews {
    fn due(&self) -> Time {
        let described = self.described.then(|| described_due(self.described_at));
        let document = self.document.as_ref().map(|_| document_due(self.document_at));
        described.into_iter().chain(document).min().unwrap_or(Time::MAX)
    }
}

fn described_due(last: Option<Time>) -> Time {
    last.map_or(Time::ZERO, |at| at + limits::DESCRIBED_APART)
}

fn document_due(last: Option<Time>) -> Time {
    last.map_or(Time::ZERO, |at| at + limits::DOCUMENT_APART)
}

#[derive(Debug)]
struct Up {
    info: Subscribed,
    window: Window,
    /// What each parent says of its own upstream's silence, in milliseconds.
    silent: [u32; limits::FEEDS],
    /// When each feed last brought something.
    heard: [Time; limits::FEEDS],
    /// When the feeds were last looked at.
    watched: Time,
    /// What the shards were told last.
    told: (u32, u32),
    silence_told: Time,
    delay_us: i64,
}

impl RelayControl {
    /// A datagram from an uplink.
    pub fn handle_link_datagram(&mut self, now: Time, link: LinkId, bytes: Bytes) {
        let Some(feed) = self.links.get(&link).map(|entry| entry.feed) else { return };
        match Datagram::parse(bytes.clone()) {
            Ok(Datagram::Ticks { room, epoch, replay, pending, records }) => {
                let clock = self.settings.unix_us_at_zero;
                let Some(name) = self.names.get(&room).cloned() else {
                    return self.keep_early(link, bytes, records.len());
                };
                let Some(up) = self.rooms.get_mut(&name).and_then(|room| room.up.as_mut()) else {
                    return;
                };
                if up.info.epoch != epoch {
                    self.stats.drop_foreign_tick += records.len() as u64;
                    return;
                }
                up.silent[feed] = 0;
                up.heard[feed] = now;
                up.info.tick_ms = records[0].tick_ms;
                for record in &records {
                    if replay {
                        up.window.answered(now, record.number);
                    }
                    match up.window.arrive(now, feed, record) {
                        Arrival::New => {}
                        // The first, and then ever fewer: a forger is not to fill the log.
                        Arrival::Conflict if up.window.stats().conflict.is_power_of_two() => {
                            let parent = self.links.get(&link).map_or("?", |l| l.to.relay());
                            let text = format!(
                                "two copies of tick {} of the room {name} differ; the second one \
                                 came from the parent {parent}: one of the parents forges",
                                record.number
                            );
                            self.effects.push_back(ControlEffect::Note { warn: true, text });
                            continue;
                        }
                        _ => continue,
                    }
                    if !replay {
                        let wall = i64::try_from(clock + now.as_micros()).unwrap_or(i64::MAX);
                        up.delay_us = wall.saturating_sub_unsigned(record.clock_us);
                    }
                    self.ticks.push_back(Tick {
                        key: TickKey { room, epoch, number: record.number },
                        record: record.bytes.clone(),
                        tick_ms: record.tick_ms,
                        pending: up.window.pending_before(record.number),
                        replay,
                    });
                    self.stats.ticks += 1;
                }
                if !replay {
                    up.window.pending(feed, records[0].number, pending);
                }
                self.after_feed(now, &name);
            }
            Ok(Datagram::Beacon(beacon)) => self.feed_beacon(now, feed, &beacon),
            Ok(_) | Err(_) => self.stats.drop_bad_datagram += 1,
        }
    }

    /// A parent's answer goes another way than the replay behind it, and may be sent again: what
    /// overtakes it waits for it.
    fn keep_early(&mut self, link: LinkId, bytes: Bytes, ticks: usize) {
        let waits = self.rooms.values().any(|room| room.up.is_none());
        match self.links.get_mut(&link) {
            Some(entry) if waits && entry.early.len() < limits::EARLY_DATAGRAMS => {
                entry.early.push(bytes);
            }
            _ => self.stats.drop_foreign_tick += ticks as u64,
        }
    }

    fn feed_beacon(&mut self, now: Time, feed: FeedIx, beacon: &Beacon) {
        let Some(name) = self.names.get(&beacon.newest.room).cloned() else { return };
        let Some(up) = self.rooms.get_mut(&name).and_then(|room| room.up.as_mut()) else { return };
        if up.info.epoch != beacon.newest.epoch {
            return;
        }
        up.window.beacon(now, feed, beacon);
        up.window.pending(feed, beacon.newest.number, beacon.pending);
        up.silent[feed] = beacon.upstream_silent_ms;
        up.heard[feed] = now;
        self.after_feed(now, &name);
    }

    /// Asks for what is missing, and tells the shards what their beacons are to say.
    fn after_feed(&mut self, now: Time, name: &str) {
        let live: Vec<(LinkId, FeedIx)> = self.feeding_links().collect();
        let Some(up) = self.rooms.get_mut(name).and_then(|room| room.up.as_mut()) else { return };
        self.stats.feeds_silent += up.watch(now, &live);
        while let Some((feed, request)) = up.window.poll_request(now) {
            if let Some(&(link, _)) = live.iter().find(|(_, f)| *f == feed) {
                let bytes = repair_bytes(Framing::Quic, &request);
                self.effects.push_back(ControlEffect::SendDatagram { link, bytes });
            }
        }
        let pending = up.window.pending_before(up.window.newest());
        let silent = up.silent_ms(now, &live);
        let (was_pending, was_silent) = up.told;
        let again = silent > 0 && now >= up.silence_told + limits::UPSTREAM_SILENT;
        if pending != was_pending || (silent == 0) != (was_silent == 0) || again {
            up.told = (pending, silent);
            up.silence_told = now;
            let (room, epoch) = (up.info.id, up.info.epoch);
            let newest = TickKey { room, epoch, number: up.window.newest() };
            let feed = ToShard::Feed { newest, pending, upstream_silent_ms: silent };
            self.effects.push_back(ControlEffect::ToShards(feed));
        }
    }

    /// Asks parents that bring nothing for a sign of life: a probe mends an address that has
    /// changed on the way, and tells a dead hop from a starved one.
    pub(super) fn probe_parents(&mut self, now: Time) {
        let silent = self.silent_feeds(now);
        if silent.is_empty() {
            self.probe_due = Time::MAX;
            return;
        }
        if self.probe_due == Time::MAX {
            self.probe_due = now;
        }
        if now < self.probe_due {
            return;
        }
        self.probe_due = now + limits::PARENT_PROBE_EVERY;
        for link in silent {
            if self.links.get(&link).is_none_or(|entry| !entry.probed) {
                continue;
            }
            let bytes = probe_bytes(Framing::Quic);
            self.effects.push_back(ControlEffect::SendDatagram { link, bytes });
        }
    }

    /// The names of the parents that bring nothing and do not answer, and of those that cannot be
    /// reached at all.
    pub(super) fn silent_parents(&self, now: Time) -> Vec<String> {
        let silent = self.silent_feeds(now).into_iter();
        let silent = silent.filter_map(|link| Some(self.links.get(&link)?.relay().to_owned()));
        silent.chain(self.attach.unreached().map(str::to_owned)).take(limits::PARENTS).collect()
    }

    /// Feeding links on which no room that is up has heard anything.
    fn silent_feeds(&self, now: Time) -> Vec<LinkId> {
        let rooms = || self.rooms.values().filter_map(|room| room.up.as_ref());
        let quiet = |feed: FeedIx| rooms().all(|up| now >= up.heard[feed] + up.patience());
        if rooms().next().is_none() {
            return Vec::new();
        }
        self.feeding_links().filter(|&(_, feed)| quiet(feed)).map(|(link, _)| link).collect()
    }

    /// A shard has someone who wants a room.
    pub(super) fn want_room(&mut self, now: Time, name: String, by: Asker) {
        if let Some(room) = self.rooms.get_mut(&name) {
            if let Some(up) = &room.up {
                let message = ToShard::RoomUp(up.current());
                let messages = std::iter::once(message).chain(room.people_messages());
                self.effects.extend(messages.map(ControlEffect::ToShards));
            }
            // Someone waits for it anew: it is not given back under them.
            room.idle_since = room.idle_since.map(|_| now);
            return;
        }
        if self.rooms.len() >= limits::ROOMS {
            self.stats.drop_room_table += 1;
            let close = Close::new(CloseCode::Full, "this node carries no more rooms");
            let message = ToShard::RoomRefused { room: name, close };
            self.effects.push_back(ControlEffect::ToShards(message));
            return;
        }
        self.absent.retain(|_, (until, _)| *until > now);
        if let Some((_, close)) = self.absent.get(&name) {
            let message = ToShard::RoomRefused { room: name, close: close.clone() };
            self.effects.push_back(ControlEffect::ToShards(message));
            return;
        }
        if !self.asking.spend(now, by) {
            self.stats.drop_room_budget += 1;
            let close = Close::new(CloseCode::Full, "too many new rooms are asked for; try again");
            let message = ToShard::RoomRefused { room: name, close };
            self.effects.push_back(ControlEffect::ToShards(message));
            return;
        }
        let room = RelayRoom { idle_since: Some(now), ..RelayRoom::default() };
        self.rooms.insert(name.clone(), room);
        let links: Vec<LinkId> = self.feeding_links().map(|(link, _)| link).collect();
        for link in links {
            self.subscribe(link, &name);
        }
    }

    pub(super) fn room_idle(&mut self, now: Time, shard: u16, name: &str) {
        if let Some(room) = self.rooms.get_mut(name) {
            room.busy.remove(&shard);
            if room.busy.is_empty() {
                room.idle_since = Some(now);
            }
        }
    }

    pub(super) fn room_busy(&mut self, now: Time, shard: u16, name: String) {
        self.want_room_quietly(now, &name);
        if let Some(room) = self.rooms.get_mut(&name) {
            room.busy.insert(shard);
            room.idle_since = None;
        }
    }

    /// A shard kept someone in a room that was being given back: it is wanted again.
    fn want_room_quietly(&mut self, now: Time, name: &str) {
        if !self.rooms.contains_key(name) {
            // Somebody who was let in is in it: the name is none that was made up.
            self.want_room(now, name.to_owned(), Asker::Token);
        }
    }

    pub(super) fn room_subscribed(&mut self, now: Time, link: LinkId, info: Subscribed) {
        let Some(feed) = self.links.get(&link).map(|entry| entry.feed) else { return };
        if !is_sound(&info) || u64::from(info.epoch) * 1_000_000 > self.latest_us(now) {
            self.stats.bad_messages += 1;
            return;
        }
        let name = info.name.clone();
        let Some(room) = self.rooms.get_mut(&name) else { return };
        room.refused.remove(&link);
        let renewed = match &room.up {
            // An older epoch is what a parent says that has not heard of the new one yet.
            Some(up) if info.epoch < up.info.epoch => return,
            Some(up) => info.epoch > up.info.epoch,
            None => true,
        };
        let mut changed = false;
        if let Some(up) = room.up.as_mut().filter(|_| !renewed) {
            changed = up.info.title != info.title || up.info.public != info.public;
            up.info.title.clone_from(&info.title);
            up.info.public = info.public;
        }
        if renewed {
            // An origin that started again may have numbered its rooms in another order.
            if let Some(old) = &room.up
                && self.names.get(&old.info.id) == Some(&info.name)
            {
                self.names.remove(&old.info.id);
            }
            if let Some(old) = room.up.take() {
                old.count_into(&mut self.stats);
            }
            // Versions of the document count anew in a new epoch.
            room.document = 0;
            room.news = RoomNews::default();
            self.names.insert(info.id, info.name.clone());
            let window = Window::seeded(info.id, info.epoch, info.newest, now);
            let (silent, heard) = ([0; limits::FEEDS], [now; limits::FEEDS]);
            let (told, silence_told, watched, delay_us) = ((0, 0), now, now, 0);
            room.up =
                Some(Up { info, window, silent, heard, watched, told, silence_told, delay_us });
        }
        if let Some(up) = &mut room.up {
            up.window.set_live(feed, true);
            up.heard[feed] = now;
            room.news.described |= changed;
            if renewed {
                let message = ToShard::RoomUp(up.current());
                let messages = std::iter::once(message).chain(room.people_messages());
                self.effects.extend(messages.map(ControlEffect::ToShards));
            }
        }
        self.tell_news(now, &name);
        let early = self.links.get_mut(&link).map(|entry| std::mem::take(&mut entry.early));
        for bytes in early.unwrap_or_default() {
            self.handle_link_datagram(now, link, bytes);
        }
    }

    /// Tells the shards what has changed of a room, if the last change was long enough ago.
    fn tell_news(&mut self, now: Time, name: &str) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        let Some(up) = &room.up else { return };
        let news = &mut room.news;
        if news.described && described_due(news.described_at) <= now {
            news.described = false;
            news.described_at = Some(now);
            let message = ToShard::RoomUp(up.current());
            self.effects.push_back(ControlEffect::ToShards(message));
        }
        if document_due(news.document_at) <= now
            && let Some(state) = news.document.take()
        {
            news.document_at = Some(now);
            let message = ToShard::RoomState { room: up.info.id, state };
            self.effects.push_back(ControlEffect::ToShards(message));
        }
    }

    /// The latest time (microseconds since 1970) that numbers may hold which began as the origin's
    /// clock: a forged one above it would put an honest parent's word off for ever.
    pub(super) fn latest_us(&self, now: Time) -> u64 {
        let own = self.settings.unix_us_at_zero.saturating_add(now.as_micros());
        // A node whose clock was never set judges nobody by it.
        match own < limits::CLOCK_SET_US {
            true => u64::MAX,
            false => own.saturating_add(limits::CLOCK_AHEAD_US),
        }
    }

    /// A parent does not have the room. When no parent is left that may, those who wait are told.
    pub(super) fn room_refused(&mut self, now: Time, link: LinkId, name: &str, close: &Close) {
        let feeding: Vec<LinkId> = self.feeding_links().map(|(link, _)| link).collect();
        let Some(room) = self.rooms.get_mut(name) else { return };
        room.refused.insert(link, now);
        if !feeding.iter().all(|link| room.refused.contains_key(link)) {
            return;
        }
        let message = match &room.up {
            Some(up) => ToShard::RoomDown { room: up.info.id, close: close.clone() },
            None => ToShard::RoomRefused { room: name.to_owned(), close: close.clone() },
        };
        self.effects.push_back(ControlEffect::ToShards(message));
        self.forget(name);
        if self.absent.len() < limits::ROOMS {
            self.absent.insert(name.to_owned(), (now + limits::ABSENT_ROOM, close.clone()));
        }
    }

    pub(super) fn room_document(&mut self, now: Time, state: RoomState) {
        // The document goes out again with every field written out.
        let size = serde_json::to_vec(&state).map_or(usize::MAX, |json| json.len());
        if size > limits::ROOM_DOCUMENT_BYTES {
            self.stats.bad_messages += 1;
            return;
        }
        let Some(room) = self.rooms.get_mut(&state.room) else { return };
        if room.up.is_some() && state.version > room.document {
            let name = state.room.clone();
            room.document = state.version;
            room.news.document = Some(state);
            self.tell_news(now, &name);
        }
    }

    /// A feed is gone: no window waits for it or asks it.
    pub(super) fn feed_down(&mut self, feed: FeedIx) {
        for up in self.rooms.values_mut().filter_map(|room| room.up.as_mut()) {
            up.window.set_live(feed, false);
            up.silent[feed] = 0;
        }
    }

    pub(super) fn subscribe_all(&mut self, link: LinkId) {
        let names: Vec<String> = self.rooms.keys().cloned().collect();
        for name in names {
            self.subscribe(link, &name);
        }
    }

    pub(super) fn unsubscribe_all(&mut self, link: LinkId) {
        let names: Vec<String> = self.rooms.keys().cloned().collect();
        for room in names {
            let bytes = encode_control(&ClientMessage::Unsubscribe { room });
            self.effects.push_back(ControlEffect::SendControl { link, bytes });
        }
    }

    pub(super) fn rooms_timeout(&mut self, now: Time) {
        let names: Vec<String> = self.rooms.keys().cloned().collect();
        for name in names {
            self.after_feed(now, &name);
            self.ask_again(now, &name);
            self.tell_news(now, &name);
            let idle = self.rooms.get(&name).and_then(|room| room.idle_since);
            if idle.is_some_and(|since| now >= since + limits::ROOM_LINGER) {
                self.give_back(&name);
            }
        }
    }

    fn give_back(&mut self, name: &str) {
        let links: Vec<LinkId> = self.feeding_links().map(|(link, _)| link).collect();
        for link in links {
            let bytes = encode_control(&ClientMessage::Unsubscribe { room: name.to_owned() });
            self.effects.push_back(ControlEffect::SendControl { link, bytes });
        }
        let Some(room) = self.rooms.get(name) else { return };
        let message = match &room.up {
            Some(up) => ToShard::RoomForget { room: up.info.id },
            None => {
                let reason = format!("no parent brought the room {name} in time");
                let close = Close::new(CloseCode::RoomTimeout, reason);
                ToShard::RoomRefused { room: name.to_owned(), close }
            }
        };
        self.effects.push_back(ControlEffect::ToShards(message));
        self.forget(name);
    }

    /// Asks parents that refused a room again: while another parent has it, it exists.
    fn ask_again(&mut self, now: Time, name: &str) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        let due = |at: Time| now >= at + limits::RESUBSCRIBE;
        let again = room.refused.iter().filter(|&(_, &at)| due(at));
        let again: Vec<LinkId> = again.map(|(&link, _)| link).collect();
        room.refused.retain(|_, &mut at| !due(at));
        for link in again {
            if self.feeding_links().any(|(feeding, _)| feeding == link) {
                self.subscribe(link, name);
            }
        }
    }

    fn forget(&mut self, name: &str) {
        if let Some(room) = self.rooms.remove(name) {
            // The room's counts outlive it.
            room.count_into(&mut self.stats);
            if let Some(up) = room.up
                && self.names.get(&up.info.id).is_some_and(|held| held == name)
            {
                self.names.remove(&up.info.id);
            }
        }
    }

    fn subscribe(&mut self, link: LinkId, room: &str) {
        let bytes = encode_control(&ClientMessage::Subscribe { room: room.to_owned() });
        self.effects.push_back(ControlEffect::SendControl { link, bytes });
    }
}

impl RelayRoom {
    pub(super) fn timeout(&self) -> Time {
        let linger = self.idle_since.map_or(Time::MAX, |since| since + limits::ROOM_LINGER);
        let refused = self.refused.values().min();
        let linger = linger.min(refused.map_or(Time::MAX, |&at| at + limits::RESUBSCRIBE));
        let Some(up) = &self.up else { return linger };
        let linger = linger.min(self.news.due());
        linger.min(up.watch_due()).min(up.window.poll_timeout().unwrap_or(Time::MAX))
    }

    pub(super) fn info(&self) -> Option<&Subscribed> {
        self.up.as_ref().map(|up| &up.info)
    }

    pub(super) fn newest(&self) -> u32 {
        self.up.as_ref().map_or(0, |up| up.window.newest())
    }

    pub(super) fn lost(&self) -> u64 {
        self.up.as_ref().map_or(0, |up| up.window.stats().lost)
    }

    pub(super) fn delay_ms(&self) -> f64 {
        self.up.as_ref().map_or(0.0, |up| up.delay_us as f64 / 1_000.0)
    }

    pub(super) fn count_into(&self, stats: &mut ControlStats) {
        if let Some(up) = &self.up {
            up.count_into(stats);
        }
    }
}

impl Up {
    fn count_into(&self, stats: &mut ControlStats) {
        let window = self.window.stats();
        stats.duplicate += window.duplicate;
        stats.drop_late += window.late;
        stats.drop_too_far_ahead += window.too_far_ahead;
        stats.conflict += window.conflict;
        stats.repair_requested += window.requested;
        stats.repaired += window.repaired;
        stats.lost += window.lost;
    }

    /// Finds the feeds that have fallen silent while another one delivers, so that no gap waits
    /// for them; returns how many.
    fn watch(&mut self, now: Time, live: &[(LinkId, FeedIx)]) -> u64 {
        self.watched = now;
        let patience = self.patience();
        let quiet = |up: &Self, feed: FeedIx| now >= up.heard[feed] + patience;
        if live.iter().all(|&(_, feed)| quiet(self, feed)) {
            return 0;
        }
        let mut fallen = 0;
        for feed in 0..limits::FEEDS {
            if self.window.delivers(feed) && quiet(self, feed) {
                self.window.set_silent(feed);
                fallen += 1;
            }
        }
        fallen
    }

    /// When [`Self::watch`] and the silence are to be looked at again.
    fn watch_due(&self) -> Time {
        let patience = self.patience();
        let turns = (0..limits::FEEDS).filter(|&feed| self.window.delivers(feed));
        let turns = turns.map(|feed| self.heard[feed] + patience).filter(|&at| at > self.watched);
        turns.min().unwrap_or(self.watched + patience)
    }

    /// The room as a newcomer is told of it.
    fn current(&self) -> Subscribed {
        Subscribed { newest: self.window.newest(), ..self.info.clone() }
    }

    fn patience(&self) -> Duration {
        limits::UPSTREAM_SILENT * u32::from(self.info.tick_ms) / 20
    }

    /// How long this node has been without a living upstream, in milliseconds: its own silence,
    /// or what all its parents say of theirs.
    fn silent_ms(&self, now: Time, live: &[(LinkId, FeedIx)]) -> u32 {
        let heard = self.heard.iter().copied().max().unwrap_or(self.watched);
        let own = now.since(heard);
        if own >= self.patience() {
            return u32::try_from(own.as_millis()).unwrap_or(u32::MAX);
        }
        live.iter().map(|&(_, feed)| self.silent[feed]).min().unwrap_or(0)
    }
}

/// Whether what a parent says of a room is within the limits: it is passed on, and divided by.
fn is_sound(info: &Subscribed) -> bool {
    let short = info.name.len() <= limits::NAME_BYTES && info.title.len() <= limits::TITLE_BYTES;
    short && limits::TICK_MS.contains(&info.tick_ms)
}
