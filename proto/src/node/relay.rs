//! Control of a relay: its place in the tree, its feeds, repair, the rooms that it carries.

mod asking;
mod feeds;
mod links;
mod people;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use self::asking::Asking;
use self::feeds::RelayRoom;
use self::links::Link;
use super::control::{ControlEffect, LinkId};
use super::messages::{Tick, ToControl, ToShard};
use super::redeem::redeem;
use super::stats::ControlStats;
use super::view::{CapacityView, NodeView, ParentView, RoomView};
use crate::admission::{DoorTotals, Spent};
use crate::random::Random;
use crate::session::{Budget, SessionKey};
use crate::tree::{Attach, RoomSums, Sums};
use crate::wire::{
    Admission, ClientMessage, Close, CloseCode, DoorLoad, Hand, Load, REDACTED, RelayInfo,
    encode_control,
};
use crate::{Time, limits};

/// What a relay's control is told when it starts.
#[derive(Clone)]
pub struct RelaySettings {
    /// What the relay says of itself.
    pub info: RelayInfo,
    /// Its token.
    pub token: Option<String>,
    /// The origin's `host:port`.
    pub origin: String,
    /// The software and its version.
    pub agent: String,
    /// The wall clock at [`Time::ZERO`]: microseconds since the Unix epoch.
    pub unix_us_at_zero: u64,
    /// Randomness for the spread of retries.
    pub seed: u64,
    /// Newcomers that the relay admits in a second; `None` where its door stops nobody.
    pub joins_per_s: Option<u32>,
}

/// All but the token.
impl fmt::Debug for RelaySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { info, token, origin, agent, unix_us_at_zero, seed, joins_per_s } = self;
        f.debug_struct("RelaySettings")
            .field("info", info)
            .field("token", &token.as_ref().map(|_| REDACTED))
            .field("origin", origin)
            .field("agent", agent)
            .field("unix_us_at_zero", unix_us_at_zero)
            .field("seed", seed)
            .field("joins_per_s", joins_per_s)
            .finish()
    }
}

/// Control of a relay.
pub struct RelayControl {
    settings: RelaySettings,
    attach: Attach,
    links: BTreeMap<LinkId, Link>,
    next_link: u32,
    origin: links::OriginLink,
    rooms: BTreeMap<String, RelayRoom>,
    names: BTreeMap<u32, String>,
    /// What each shard carries: listeners, children, joins in the last second; and its door.
    totals: BTreeMap<u16, (u32, u32, u32)>,
    doors: BTreeMap<u16, DoorTotals>,
    /// Tickets redeemed here.
    spent: Spent,
    /// The origin's last word on those who wait, and its clock.
    queue: Option<Admission>,
    clock: links::OriginClock,
    /// Places that the origin wants kept.
    headroom: u32,
    sums: Sums,
    children: BTreeMap<SessionKey, String>,
    /// Rooms that no parent has: until when that is believed, and what those who ask are told.
    absent: BTreeMap<String, (Time, Close)>,
    /// Rooms that may be asked for.
    asking: Asking,
    /// When silent parents are to be asked for a sign of life; never while none is.
    probe_due: Time,
    load_due: Time,
    reported: Time,
    /// Hands that wait for their turn, and when it comes.
    hands: VecDeque<Hand>,
    hands_due: Option<Time>,
    /// What may be said of people who were met: they knock as often as they like.
    meets: Budget,
    room_sums: RoomSums,
    load_sequence: u64,
    draining: bool,
    ticks: VecDeque<Tick>,
    effects: VecDeque<ControlEffect>,
    stats: ControlStats,
    random: Random,
}

impl RelayControl {
    /// A relay that has no place yet and is about to call its origin.
    #[must_use]
    pub fn new(settings: RelaySettings, now: Time) -> Self {
        let mut control = Self {
            attach: Attach::new(settings.origin.clone()),
            sums: Sums::new(settings.info.id.clone()),
            room_sums: RoomSums::new(settings.info.id.clone()),
            random: Random::new(settings.seed),
            settings,
            links: BTreeMap::new(),
            next_link: 0,
            origin: links::OriginLink::default(),
            rooms: BTreeMap::new(),
            names: BTreeMap::new(),
            totals: BTreeMap::new(),
            doors: BTreeMap::new(),
            spent: Spent::default(),
            queue: None,
            clock: links::OriginClock::default(),
            headroom: 0,
            children: BTreeMap::new(),
            absent: BTreeMap::new(),
            asking: Asking::new(now),
            probe_due: Time::MAX,
            load_due: now + limits::LOAD_EVERY,
            reported: now,
            hands: VecDeque::new(),
            hands_due: None,
            meets: Budget::new(limits::MEETS_PER_S, now),
            load_sequence: 0,
            draining: false,
            ticks: VecDeque::new(),
            effects: VecDeque::new(),
            stats: ControlStats::default(),
        };
        control.call_origin(now);
        control
    }

    /// The node shows another certificate from here on, or its first. The hello names its hashes, and
    /// so does each report of load, for hellos are said once.
    pub fn handle_certificate_hashes(&mut self, hashes: Vec<String>) {
        self.settings.info.certificate_hashes = hashes;
    }

    /// See [`super::NodeControl::handle_clock`].
    pub(super) fn handle_clock(&mut self, unix_us_at_zero: u64) {
        let former = std::mem::replace(&mut self.settings.unix_us_at_zero, unix_us_at_zero);
        self.clock.set(former, unix_us_at_zero);
    }

    /// A message from a shard.
    pub fn handle_message(&mut self, now: Time, message: ToControl) {
        match message {
            ToControl::WantRoom { room, by } => self.want_room(now, room, by),
            ToControl::RoomIdle { shard, room } => self.room_idle(now, shard, &room),
            ToControl::RoomBusy { shard, room } => self.room_busy(now, shard, room),
            ToControl::RelayJoin { session, info } => {
                self.children.insert(session, info.id);
            }
            ToControl::RelayLoad { session, load } => match self.children.get(&session) {
                Some(child) if self.sums.handle(now, child, &load).is_ok() => {
                    self.room_sums.child(now, child, &load);
                    self.report_soon(now, !load.arrivals.is_empty());
                }
                Some(_) | None => self.stats.stale_messages += 1,
            },
            ToControl::RelayLeave { session } => {
                self.asking.left(session);
                // A child that came back on another session before this one ended counts on.
                if let Some(child) = self.children.remove(&session)
                    && !self.children.values().any(|other| *other == child)
                {
                    self.sums.remove(&child);
                    self.room_sums.remove(&child);
                }
            }
            ToControl::Totals { shard, listeners, children, joins, door } => {
                self.report_soon(now, !door.arrivals.is_empty());
                self.totals.insert(shard, (listeners, children, joins));
                self.doors.insert(shard, door);
            }
            ToControl::Redeem { session, ticket, admits } => {
                let unix_s = (self.settings.unix_us_at_zero + now.as_micros()) / 1_000_000;
                let ticket = (ticket, admits);
                let message = redeem(&mut self.spent, &mut self.stats, unix_s, session, ticket);
                self.effects.push_back(ControlEffect::ToShard { shard: session.shard, message });
            }
            ToControl::StageJoin { session, .. } => {
                let reason = "stage roles join at the origin, not at a relay";
                let close = Close::new(CloseCode::OriginOnly, reason);
                let message = ToShard::Close { session, close };
                self.effects.push_back(ControlEffect::ToShard { shard: session.shard, message });
            }
            ToControl::Rooms { shard, tallies } => self.room_sums.shard(shard, tallies),
            ToControl::Hands { hands } => self.hands(now, hands),
            ToControl::Met { room, identity, address } => self.met(now, room, identity, address),
            ToControl::StageLeave { .. }
            | ToControl::Speech { .. }
            | ToControl::SelfMute { .. } => {
                self.stats.stale_messages += 1;
            }
        }
    }

    /// The node is to drain, and ends `within` this time: it takes no newcomers and asks its
    /// listeners to move.
    pub fn handle_drain(&mut self, now: Time, within: Duration) {
        self.draining = true;
        self.effects.push_back(ControlEffect::ToShards(ToShard::Drain { within }));
        // The planner gives the children other parents as soon as it is told.
        self.report_load(now);
    }

    /// Time has come to [`Self::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Time) {
        self.origin_timeout(now);
        let random = self.random.next();
        self.attach.handle_timeout(now, random);
        self.follow_attach(now);
        self.rooms_timeout(now);
        self.probe_parents(now);
        self.hands_timeout(now);
        if now >= self.load_due {
            self.load_due = now + limits::LOAD_EVERY;
            self.report_load(now);
        }
    }

    /// When [`Self::handle_timeout`] is to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Time {
        let rooms = self.rooms.values().map(|room| room.timeout()).min().unwrap_or(Time::MAX);
        let attach = self.attach.poll_timeout().unwrap_or(Time::MAX);
        let hands = self.hands_due.unwrap_or(Time::MAX);
        self.load_due
            .min(rooms)
            .min(attach)
            .min(self.origin.timeout())
            .min(self.probe_due)
            .min(hands)
    }

    /// The next tick for every shard.
    pub fn poll_tick(&mut self) -> Option<Tick> {
        self.ticks.pop_front()
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<ControlEffect> {
        self.effects.pop_front()
    }

    /// What was counted, the rooms' windows included.
    #[must_use]
    pub fn stats(&self) -> ControlStats {
        let mut stats = self.stats;
        for room in self.rooms.values() {
            room.count_into(&mut stats);
        }
        stats
    }

    /// What the relay looks like.
    #[must_use]
    pub fn view(&self, _now: Time) -> NodeView {
        let parents = self.parents().into_iter();
        NodeView {
            node: self.settings.info.id.clone(),
            level: Some(self.attach.level()).filter(|&level| level > 0),
            not_ready: self.not_ready(),
            listeners: self.listeners(),
            listeners_below: self.listeners().saturating_add(self.sums.total()),
            children: self.totals.values().map(|t| u64::from(t.1)).sum(),
            parents: parents
                .map(|(relay, address, up)| ParentView { relay, address, up })
                .collect(),
            rooms: self.rooms.iter().filter_map(|(name, room)| room.view(name)).collect(),
            relays: Vec::new(),
            capacity: self.capacity(),
            audience: Vec::new(),
            why: self.attach.why().to_owned(),
        }
    }

    fn capacity(&self) -> CapacityView {
        let joins: u32 = self.totals.values().map(|t| t.2).sum();
        // The newest second is still being counted.
        let tickets = self.doors.values().filter_map(|door| door.arrivals.iter().rev().nth(1));
        let tickets: u64 = tickets.map(|&(_, count)| count).sum();
        let waiting = self.queue.as_ref().map_or(0, |queue| queue.waiting);
        CapacityView {
            places: self.settings.info.capacity.into(),
            used: self.totals.values().map(|t| u64::from(t.0 + t.1)).sum(),
            headroom: self.headroom.into(),
            free: self.doors.values().map(|door| u64::from(door.free)).sum(),
            waiting,
            arrivals_per_s: f64::from(joins) + if waiting > 0 { tickets as f64 } else { 0.0 },
        }
    }

    fn not_ready(&self) -> Option<String> {
        if self.draining {
            return Some("draining".into());
        }
        if self.feeding_links().next().is_none() {
            return Some("no parent".into());
        }
        let carried: u32 = self.totals.values().map(|t| t.0 + t.1).sum();
        (carried >= self.settings.info.capacity).then(|| "full".into())
    }

    fn listeners(&self) -> u64 {
        self.totals.values().map(|t| u64::from(t.0)).sum()
    }

    /// While somebody waits, and for a while after, the origin hears of it more often.
    fn report_soon(&mut self, now: Time, waits: bool) {
        if waits {
            self.load_due = self.load_due.min(now.max(self.reported + limits::ADMISSION_EVERY));
        }
    }

    /// The load goes to the origin, who plans with it, and to every parent: the primary sums it, the
    /// others learn that they are not.
    fn report_load(&mut self, now: Time) {
        self.sums.expire(now);
        self.room_sums.expire(now);
        self.load_sequence += 1;
        self.reported = now;
        let own = self.doors.values().flat_map(|door| door.arrivals.iter().copied());
        let unix_ms = (self.settings.unix_us_at_zero + now.as_micros()) / 1_000;
        let newest = unix_ms.saturating_add_signed(self.clock.ahead().saturating_neg()) / 1_000 + 1;
        let arrivals = self.sums.arrivals(own, newest).into_iter().collect();
        let free = self.doors.values().map(|door| door.free).sum();
        let load = Load {
            incarnation: self.settings.info.incarnation,
            sequence: self.load_sequence,
            listeners: self.totals.values().map(|t| t.0).sum(),
            listeners_below: self.listeners().saturating_add(self.sums.total()),
            children: self.totals.values().map(|t| t.1).sum(),
            joins_per_s: self.totals.values().map(|t| t.2).sum(),
            round_trips: Vec::new(),
            parents: self.attach.in_force(),
            silent: self.silent_parents(now),
            draining: self.draining,
            arrivals,
            door: self.settings.joins_per_s.map(|joins_per_s| DoorLoad {
                free,
                joins_per_s,
                admitted: self.spent.admitted(),
            }),
            certificate_hashes: self.settings.info.certificate_hashes.clone(),
            rooms: self.room_sums.next_report(),
        };
        let bytes = encode_control(&ClientMessage::Load(load));
        let parents = self.feeding_links().map(|(link, _)| link);
        let mut links: Vec<LinkId> = parents.chain(self.origin.up()).collect();
        links.sort_unstable();
        links.dedup();
        for link in links {
            self.effects.push_back(ControlEffect::SendControl { link, bytes: bytes.clone() });
        }
    }
}

impl RelayRoom {
    fn view(&self, name: &str) -> Option<RoomView> {
        let info = self.info()?;
        Some(RoomView {
            room: name.to_owned(),
            id: info.id,
            epoch: info.epoch,
            newest: self.newest(),
            delay_ms: self.delay_ms(),
            lost: self.lost(),
            stage: Vec::new(),
            counters: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::messages::Asker;
    use crate::wire::{
        Datagram, Framing, Parent, Placement, RoomState, ServerMessage, Subscribed, TickFlags,
        record_bytes, ticks_bytes,
    };

    fn settings() -> RelaySettings {
        RelaySettings {
            info: serde_json::from_str(r#"{"id":"a","address":"a:1","capacity":1}"#).unwrap(),
            token: Some("ey.secret".to_owned()),
            origin: "origin:7843".to_owned(),
            agent: String::new(),
            unix_us_at_zero: 0,
            seed: 0,
            joins_per_s: Some(100),
        }
    }

    fn say(relay: &mut RelayControl, now: Time, link: u32, message: &ServerMessage) {
        relay.handle_link_control(now, LinkId(link), &encode_control(message));
    }

    fn placement(version: u64, level: u8, parents: &[&str]) -> ServerMessage {
        let parent = |name: &&str| {
            let (relay, address) = ((*name).to_owned(), format!("{name}:1"));
            Parent { relay, address }
        };
        let parents = parents.iter().map(parent).collect();
        ServerMessage::Placement(Placement { version, level, parents, why: "test".to_owned() })
    }

    /// The requests among what the relay wants to send.
    fn requests(relay: &mut RelayControl) -> Vec<LinkId> {
        let effects = std::iter::from_fn(|| relay.poll_effect());
        let request = |effect| match effect {
            ControlEffect::SendDatagram { link, bytes } => {
                matches!(Datagram::parse(bytes), Ok(Datagram::Repair(_))).then_some(link)
            }
            _ => None,
        };
        effects.filter_map(request).collect()
    }

    #[test]
    fn a_room_that_was_given_back_to_the_origin_does_not_wait_for_its_feed() {
        let (now, room) = (Time::from_millis(1_000), "hall".to_owned());
        let mut relay = RelayControl::new(settings(), now);
        relay.handle_link_up(now, LinkId(0));
        let welcome: ServerMessage =
            serde_json::from_str(r#"{"type":"welcome","version":1,"identity":"a","role":"relay"}"#)
                .unwrap();
        say(&mut relay, now, 0, &welcome);
        say(&mut relay, now, 0, &placement(1, 1, &[]));
        relay.handle_message(now, ToControl::WantRoom { room: room.clone(), by: Asker::Token });
        // It moves below a relay before the origin has answered.
        say(&mut relay, now, 0, &placement(2, 2, &["p"]));
        say(&mut relay, now, 1, &welcome);
        let info = Subscribed {
            name: room,
            id: 7,
            title: String::new(),
            public: true,
            epoch: 1,
            newest: 0,
            tick_ms: 20,
            redundancy: 2,
        };
        say(&mut relay, now, 1, &ServerMessage::Subscribed(info.clone()));
        say(&mut relay, now, 0, &ServerMessage::Subscribed(info));
        for number in [1, 3] {
            let record = record_bytes(number, 0, 20, TickFlags::default(), &[0]);
            let bytes = ticks_bytes(Framing::Quic, 7, 1, false, 0, &[record]);
            relay.handle_link_datagram(now, LinkId(1), bytes);
        }
        assert_eq!(requests(&mut relay), [LinkId(1)], "the only feed has passed tick 2");
    }

    #[test]
    fn a_replay_that_overtakes_the_answer_to_a_subscription_is_not_lost() {
        let now = Time::from_millis(1_000);
        let mut relay = placed(now);
        let tick = |room: u32, number| {
            let record = record_bytes(number, 0, 20, TickFlags::default(), &[0]);
            ticks_bytes(Framing::Quic, room, 1, true, 0, &[record])
        };
        relay.handle_link_datagram(now, LinkId(0), tick(7, 1));
        assert_eq!(relay.stats().drop_foreign_tick, 1, "nobody has asked for a room");
        relay.handle_message(now, ToControl::WantRoom { room: "hall".into(), by: Asker::Token });
        for (room, number) in [(7, 2), (9, 3), (7, 4)] {
            relay.handle_link_datagram(now, LinkId(0), tick(room, number));
        }
        assert!(relay.poll_tick().is_none(), "its room is not known yet");
        say(&mut relay, now, 0, &ServerMessage::Subscribed(hall()));
        let passed: Vec<u32> =
            std::iter::from_fn(|| relay.poll_tick()).map(|tick| tick.key.number).collect();
        assert_eq!(passed, [2, 4]);
        assert_eq!(relay.stats().drop_foreign_tick, 2, "no room is waited for any more");
        for number in 0..=limits::EARLY_DATAGRAMS as u32 {
            relay.handle_link_datagram(now, LinkId(0), tick(9, 1 + number));
        }
        assert_eq!(relay.stats().drop_foreign_tick, 3 + limits::EARLY_DATAGRAMS as u64);
    }

    /// A relay on level 1 whose origin has said welcome.
    fn placed(now: Time) -> RelayControl {
        placed_with(now, settings())
    }

    fn placed_with(now: Time, settings: RelaySettings) -> RelayControl {
        let mut relay = RelayControl::new(settings, now);
        relay.handle_link_up(now, LinkId(0));
        let welcome: ServerMessage =
            serde_json::from_str(r#"{"type":"welcome","version":1,"identity":"a","role":"relay"}"#)
                .unwrap();
        say(&mut relay, now, 0, &welcome);
        say(&mut relay, now, 0, &placement(1, 1, &[]));
        relay
    }

    fn hall() -> Subscribed {
        Subscribed {
            name: "hall".to_owned(),
            id: 7,
            title: String::new(),
            public: true,
            epoch: 1,
            newest: 0,
            tick_ms: 20,
            redundancy: 2,
        }
    }

    /// What the relay tells its shards.
    fn to_shards(relay: &mut RelayControl) -> Vec<ToShard> {
        let effects = std::iter::from_fn(|| relay.poll_effect());
        let message = |effect| match effect {
            ControlEffect::ToShards(message) => Some(message),
            _ => None,
        };
        effects.filter_map(message).collect()
    }

    #[test]
    fn a_room_with_the_longest_title_comes_up() {
        let now = Time::from_millis(1_000);
        for (bytes, up) in [(limits::TITLE_BYTES, true), (limits::TITLE_BYTES + 1, false)] {
            let mut relay = placed(now);
            relay.handle_message(
                now,
                ToControl::WantRoom { room: "hall".to_owned(), by: Asker::Token },
            );
            let info = Subscribed { title: "t".repeat(bytes), ..hall() };
            say(&mut relay, now, 0, &ServerMessage::Subscribed(info.clone()));
            let told = to_shards(&mut relay);
            assert_eq!(told.contains(&ToShard::RoomUp(info)), up, "{bytes} bytes");
        }
    }

    #[test]
    fn a_banned_person_that_knocks_costs_the_parent_one_message() {
        let mut now = Time::from_millis(1_000);
        let mut relay = placed(now);
        relay
            .handle_message(now, ToControl::WantRoom { room: "hall".to_owned(), by: Asker::Token });
        say(&mut relay, now, 0, &ServerMessage::Subscribed(hall()));
        let met = |identity: &str, last: u32| ToControl::Met {
            room: "hall".to_owned(),
            identity: identity.to_owned(),
            address: std::net::Ipv4Addr::from(last).into(),
        };
        let sent = |relay: &mut RelayControl| {
            let effects = std::iter::from_fn(|| relay.poll_effect());
            effects.filter(|e| matches!(e, ControlEffect::SendControl { .. })).count()
        };
        sent(&mut relay);
        for _ in 0..1_000 {
            relay.handle_message(now, met("ann", 1));
        }
        assert_eq!(sent(&mut relay), 1);
        for n in 0..1_000 {
            relay.handle_message(now, met(&format!("p{n}"), n));
        }
        assert!(sent(&mut relay) < limits::MEETS_PER_S as usize, "and a crowd no more than this");
        assert!(relay.stats().drop_meets > 900);
        // The word may have been lost: it is said again, a while later.
        now += limits::MET_AGAIN;
        relay.handle_message(now, met("ann", 1));
        assert_eq!(sent(&mut relay), 1);
    }

    #[test]
    fn a_parent_that_changes_its_word_all_the_time_does_not_flood_listeners() {
        let mut now = Time::from_millis(1_000);
        let mut relay = placed(now);
        relay
            .handle_message(now, ToControl::WantRoom { room: "hall".to_owned(), by: Asker::Token });
        say(&mut relay, now, 0, &ServerMessage::Subscribed(hall()));
        to_shards(&mut relay);
        let (mut titles, mut documents) = (Vec::new(), Vec::new());
        for n in 0..2_000_u64 {
            now += Duration::from_millis(1);
            let title = if n < 1_999 { n.to_string() } else { "last".to_owned() };
            say(&mut relay, now, 0, &ServerMessage::Subscribed(Subscribed { title, ..hall() }));
            let state =
                RoomState { room: "hall".to_owned(), version: n + 1, ..RoomState::default() };
            say(&mut relay, now, 0, &ServerMessage::Room(state));
            if n == 1_999 {
                now += limits::DESCRIBED_APART;
                relay.handle_timeout(now);
            }
            for message in to_shards(&mut relay) {
                match message {
                    ToShard::RoomUp(info) => titles.push(info.title),
                    ToShard::RoomState { state, .. } => documents.push(state.version),
                    _ => {}
                }
            }
        }
        assert_eq!((titles.len(), titles.last().map(String::as_str)), (3, Some("last")));
        assert!(documents.len() <= 22, "{} documents in two seconds", documents.len());
        assert_eq!((documents.first(), documents.last()), (Some(&1), Some(&2_000)));
    }

    #[test]
    fn numbers_that_no_clock_has_reached_are_not_taken() {
        let now = Time::from_millis(1_000);
        let unix_us_at_zero = 1_700_000_000_000_000;
        let mut relay = placed_with(now, RelaySettings { unix_us_at_zero, ..settings() });
        relay
            .handle_message(now, ToControl::WantRoom { room: "hall".to_owned(), by: Asker::Token });
        say(
            &mut relay,
            now,
            0,
            &ServerMessage::Subscribed(Subscribed { epoch: u32::MAX, ..hall() }),
        );
        say(&mut relay, now, 0, &ServerMessage::Subscribed(hall()));
        assert!(to_shards(&mut relay).contains(&ToShard::RoomUp(hall())));
        let page = |generation| {
            let entries = vec![crate::wire::RevokedEntry::ban("mal", false)];
            let room = "hall".to_owned();
            ServerMessage::Revoked(crate::wire::RevokedPage { room, generation, since: 0, entries })
        };
        say(&mut relay, now, 0, &page(u64::MAX));
        assert_eq!(to_shards(&mut relay), []);
        say(&mut relay, now, 0, &page(unix_us_at_zero));
        assert_eq!(to_shards(&mut relay).len(), 1, "the honest one is");
        assert_eq!(relay.stats().bad_messages, 2);
    }

    #[test]
    fn settings_do_not_show_their_token() {
        let shown = format!("{:?}", settings());
        assert!(shown.contains("origin:7843") && !shown.contains("secret"), "{shown}");
    }
}
