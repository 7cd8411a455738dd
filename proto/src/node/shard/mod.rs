//! The machine of one shard: its sessions, its copy of each room, and who gets what.

mod admit;
mod hello;
mod owed;
mod path;
mod people;
mod rehome;
mod room;
mod serve;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use self::admit::Redirect;
use self::owed::{Debt, Owed};
use self::people::Who;
use self::rehome::Pushes;
use self::room::ShardRoom;
use super::messages::{Tick, ToControl, ToShard};
use super::stats::{Closes, ShardStats};
use crate::admission::{Door, DoorSettings, Egress};
use crate::fanout::{Choice, Class, Place, SessionIx};
use crate::pass::{PassKey, PassVerifier};
use crate::session::{Budget, SessionKey, State, Step};
use crate::token::{Signer, Verifier};
use crate::wire::{
    Close, CloseCode, ControlDecoder, Datagram, Framing, Role, ServerMessage, Siblings,
    speech_request_bytes, try_encode_control,
};
use crate::{Time, limits};

/// What a shard is told when it starts.
#[derive(Clone, Debug)]
pub struct ShardSettings {
    /// The node's name in the tree.
    pub name: String,
    /// The shard's number within its node.
    pub shard: u16,
    /// The shards that the node has.
    pub shards: u16,
    /// Whether this node is an origin: stage roles join here only.
    pub origin: bool,
    /// The software and its version, for the welcome.
    pub agent: String,
    /// Sessions that this shard may carry.
    pub capacity: u32,
    /// Whether relays without a token may be children (a tree without keys, in tests only).
    pub open_relays: bool,
    /// The wall clock at [`Time::ZERO`]: microseconds since the Unix epoch.
    pub unix_us_at_zero: u64,
    /// The relay's key for re-home passes; `None` where none are given.
    pub pass_key: Option<PassKey>,
    /// Randomness: the identities of anonymous listeners and the door's draws come from it, one way.
    pub seed: u64,
    /// Whether sessions with loss are sent earlier ticks beside the current one.
    pub redundancy: bool,
    /// Whether repair requests are answered.
    pub repair: bool,
    /// This shard's share of what the node admits.
    pub door: DoorSettings,
    /// Signs waiting tickets at an origin; a relay signs with its pass key.
    pub signer: Option<Signer>,
}

/// What a shard asks of its shell, besides the fan-out.
#[derive(Clone, Debug, PartialEq)]
pub enum ShardEffect {
    /// Write to the session's control stream.
    SendControl {
        /// The session.
        session: SessionIx,
        /// A whole message with its length prefix.
        bytes: Bytes,
    },
    /// Say by [`NodeShard::handle_control_written`] when all that was written to the session's control
    /// stream has left this node's own queue; at once, if it has.
    AwaitControl {
        /// The session.
        session: SessionIx,
    },
    /// Send a datagram to one session; it is shed where the connection is busy.
    SendDatagram {
        /// The session.
        session: SessionIx,
        /// The datagram, its framing's prefix included.
        bytes: Bytes,
    },
    /// Close the session's connection.
    Close {
        /// The session.
        session: SessionIx,
        /// The code and the sentence that the peer is told.
        close: Close,
    },
    /// Put a message into the queue to control.
    ToControl(ToControl),
}

/// What [`NodeShard::fanout`] is to send: a tick or a beacon of one room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fanout {
    room: usize,
    kind: Kind,
    /// The tick's number; for a beacon the newest tick's.
    pub number: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tick,
    Beacon,
}

/// How a session gets a room's ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// From the fan-out.
    Live(Place),
    /// From the ring, because its connection was busy: `next` is the tick to send.
    Lagging { next: u32 },
}

#[derive(Clone, Copy, Debug)]
struct Membership {
    room: usize,
    standing: Standing,
    debt: Debt,
}

struct Session {
    key: SessionKey,
    state: State,
    framing: Framing,
    role: Role,
    /// A speaker's room number and slot.
    slot: Option<(u32, u16)>,
    /// One room; more for a child relay, at most [`limits::ROOMS_PER_CHILD`].
    rooms: Vec<Membership>,
    decoder: ControlDecoder,
    /// When the message began of which the decoder holds a part.
    partial_since: Option<Time>,
    messages: Budget,
    repairs: Budget,
    speech: Budget,
    bad: Budget,
    owed: Owed,
    /// How much redundancy its path needs.
    choice: Choice,
    /// What is needed once only, or by few.
    greeting: Option<Box<Greeting>>,
    who: Option<Box<Who>>,
    address: Option<IpAddr>,
    expires: Option<Time>,
    registered: bool,
    /// Whether a listener's place is kept for it while it waits for its room.
    reserved: bool,
}

/// What a hello said, kept until the room is there.
#[derive(Clone, Debug)]
struct Greeting {
    room: String,
    identity: String,
    playout: Duration,
    last: Option<(u32, u32)>,
    anonymous: bool,
    token_expires: Option<Time>,
    /// Where it goes once its ticket has been redeemed; `None` for one that comes in.
    redirect: Option<Redirect>,
}

/// The machine of one shard.
///
/// Drive it so: `handle_*` with what came; after each, drain [`Self::poll_effect`]; hand what
/// [`Self::handle_tick`] and [`Self::poll_beacon`] return to [`Self::fanout`] and send it; call
/// [`Self::handle_timeout`] at [`Self::poll_timeout`]. The shell gives each connection the index
/// that its session has here, and reports a connection that could not take a datagram by
/// [`Self::handle_busy`].
pub struct NodeShard {
    settings: ShardSettings,
    verifier: Verifier,
    /// Verified tokens: so that a storm of re-joins costs no second verification.
    tokens: BTreeMap<String, crate::token::Claims>,
    sessions: Vec<Option<Session>>,
    open: u32,
    generation: u32,
    rooms: Vec<Option<ShardRoom>>,
    by_name: BTreeMap<String, usize>,
    by_id: BTreeMap<u32, usize>,
    /// Ticks that overtook the word of their room or epoch.
    early: VecDeque<Tick>,
    /// Who waits for a room, by its name.
    waiting: BTreeMap<String, Vec<SessionKey>>,
    waiting_count: usize,
    /// Deadlines of sessions: hello, join, token expiry.
    deadlines: BTreeSet<(Time, SessionKey)>,
    siblings: Siblings,
    door: Door,
    /// What tells this shard's anonymous identities from any other's.
    names: u64,
    egress: Egress,
    /// Listeners whose places are kept while they wait for their rooms.
    reserved: u32,
    passes: PassVerifier,
    pushes: Pushes,
    draining: bool,
    effects: VecDeque<ShardEffect>,
    keys: Vec<(String, String)>,
    listeners: u32,
    children: u32,
    joins: u32,
    /// When totals were last told.
    totals_told: Time,
    totals_due: Time,
    tallies_due: Time,
    stats: ShardStats,
    closes: Closes,
}

/// What is shown in the names of anonymous listeners, and what the door draws from: neither tells
/// the other.
fn seeds(seed: u64) -> (u64, u64) {
    let of = |what: &[u8]| {
        let digest = Sha256::new().chain_update(what).chain_update(seed.to_be_bytes()).finalize();
        digest.iter().take(8).fold(0, |sum, &byte| sum << 8 | u64::from(byte))
    };
    (of(b"names"), of(b"door"))
}

impl NodeShard {
    /// A shard without sessions or rooms.
    #[must_use]
    pub fn new(settings: ShardSettings, verifier: Verifier, now: Time) -> Self {
        let (clock, seed) = (settings.unix_us_at_zero, settings.seed);
        let (names, draws) = seeds(seed);
        let door = Door::new(settings.door, settings.shards, clock, draws, now);
        Self {
            door,
            names,
            egress: Egress::new(settings.door.egress_kbit_s, now),
            reserved: 0,
            settings,
            verifier,
            tokens: BTreeMap::new(),
            sessions: Vec::new(),
            open: 0,
            generation: 0,
            rooms: Vec::new(),
            by_name: BTreeMap::new(),
            by_id: BTreeMap::new(),
            early: VecDeque::new(),
            waiting: BTreeMap::new(),
            waiting_count: 0,
            deadlines: BTreeSet::new(),
            siblings: Siblings::default(),
            passes: PassVerifier::default(),
            pushes: Pushes::default(),
            draining: false,
            effects: VecDeque::new(),
            keys: Vec::new(),
            listeners: 0,
            children: 0,
            joins: 0,
            totals_told: now,
            totals_due: now + limits::TOTALS_EVERY,
            tallies_due: now + limits::TOTALS_EVERY,
            stats: ShardStats::default(),
            closes: Closes::default(),
        }
    }

    /// What was counted.
    #[must_use]
    pub const fn stats(&self) -> &ShardStats {
        &self.stats
    }

    /// Sessions that this shard closed, by code.
    #[must_use]
    pub const fn closes(&self) -> &Closes {
        &self.closes
    }

    /// Listeners by the variant that they are sent, in the order of `Variant::ALL`; one that lags
    /// is sent none.
    #[must_use]
    pub fn listeners_by_variant(&self) -> [u32; 3] {
        let mut sums = [0; 3];
        for room in self.rooms.iter().flatten() {
            let counts = room.targets.by_variant(Class::Listener);
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        sums
    }

    /// Listeners, child relays and open sessions, in this order.
    #[must_use]
    pub const fn carried(&self) -> (u32, u32, u32) {
        (self.listeners, self.children, self.open)
    }

    /// A connection is up; it has until [`limits::HELLO_DEADLINE`] to say hello.
    pub fn handle_open(&mut self, now: Time, ix: SessionIx, framing: Framing) {
        self.generation = self.generation.wrapping_add(1);
        let key = SessionKey { shard: self.settings.shard, ix, generation: self.generation };
        let at = ix.0 as usize;
        if at >= self.sessions.len() {
            self.sessions.resize_with(at + 1, || None);
        }
        debug_assert!(self.sessions[at].is_none(), "the shell reuses an index after its close");
        let expires = now + limits::HELLO_DEADLINE;
        self.sessions[at] = Some(Session {
            key,
            state: State::Greeting,
            framing,
            role: Role::Listener,
            slot: None,
            rooms: Vec::new(),
            decoder: ControlDecoder::default(),
            partial_since: None,
            messages: Budget::new(limits::CONTROL_PER_S, now),
            repairs: Budget::new(limits::REPAIRS_PER_S, now),
            speech: Budget::new(limits::SPEECH_DATAGRAMS_PER_S, now),
            bad: Budget::new(limits::BAD_PER_S, now),
            owed: Owed::default(),
            choice: Choice::default(),
            greeting: None,
            who: None,
            address: None,
            expires: Some(expires),
            registered: false,
            reserved: false,
        });
        self.deadlines.insert((expires, key));
        self.open += 1;
    }

    /// A connection is gone, for whatever reason.
    pub fn handle_closed(&mut self, _now: Time, ix: SessionIx) {
        self.retire(ix);
        if self.sessions.get_mut(ix.0 as usize).and_then(Option::take).is_some() {
            self.open -= 1;
        }
    }

    /// Bytes of a session's control stream, in order.
    pub fn handle_control(&mut self, now: Time, ix: SessionIx, bytes: &[u8]) {
        let Some(session) = self.session_mut(ix) else {
            return;
        };
        if session.state == State::Closed {
            return;
        }
        session.decoder.push(bytes);
        loop {
            let Some(session) = self.session_mut(ix) else {
                return;
            };
            match session.decoder.next_message() {
                Ok(None) => return self.partial(now, ix),
                Ok(Some(_)) if !session.messages.spend(now) => {
                    let reason = "more control messages in a second than allowed";
                    return self.close(ix, Close::new(CloseCode::TooManyMessages, reason));
                }
                Ok(Some(message)) => {
                    session.partial_since = None;
                    self.stats.control_messages += 1;
                    if let Err(close) = self.message(now, ix, message) {
                        return self.close(ix, close);
                    }
                }
                Err(close) => return self.close(ix, close),
            }
        }
    }

    /// Closes a session whose message does not end: it would hold its bytes for ever. A byte that
    /// comes too late shows it, so that no timer is needed.
    fn partial(&mut self, now: Time, ix: SessionIx) {
        let Some(session) = self.session_mut(ix) else {
            return;
        };
        if session.decoder.held() == 0 {
            return;
        }
        let since = *session.partial_since.get_or_insert(now);
        if now >= since + limits::MESSAGE_DEADLINE {
            let reason = "a control message does not end";
            self.close(ix, Close::new(CloseCode::MessageTooLarge, reason));
        }
    }

    /// A session's control stream has ended: the client leaves.
    pub fn handle_control_finished(&mut self, ix: SessionIx) {
        self.close(ix, Close::new(CloseCode::Done, "the control stream has ended"));
    }

    /// A datagram of a session, as the transport delivered it (framing's prefix included).
    pub fn handle_datagram(&mut self, now: Time, ix: SessionIx, mut bytes: Bytes) {
        let Some(session) = self.session_mut(ix) else {
            return;
        };
        let prefix = session.framing.prefix();
        if !matches!(session.state, State::Joined | State::Draining) || !bytes.starts_with(prefix) {
            self.stats.drop_unauthorised += 1;
            return;
        }
        let bytes = bytes.split_off(prefix.len());
        match Datagram::parse(bytes) {
            Ok(Datagram::Repair(request)) => self.answer_repair(now, ix, &request),
            Ok(Datagram::Speech { slot, frames }) => self.pass_speech(now, ix, slot, frames),
            Ok(Datagram::Probe) => self.answer_probe(now, ix),
            Ok(Datagram::Ticks { .. } | Datagram::Beacon(_) | Datagram::SpeechRequest(_)) => {
                self.stats.drop_unauthorised += 1;
                self.blame(now, ix, "a listener or child sends no ticks and no beacons");
            }
            Err(error) => {
                self.stats.drop_bad_datagram += 1;
                self.blame(now, ix, &error.to_string());
            }
        }
    }

    /// See [`super::NodeControl::handle_clock`]. Those who are inside stay for as long as their tokens were
    /// good by the clock as it was when they came.
    pub fn handle_clock(&mut self, unix_us_at_zero: u64) {
        self.settings.unix_us_at_zero = unix_us_at_zero;
        self.door.set_clock(unix_us_at_zero, self.settings.signer.is_some());
    }

    /// A message from control.
    pub fn handle_message(&mut self, now: Time, message: ToShard) {
        match message {
            ToShard::RoomUp(room) => self.room_up(now, room),
            ToShard::RoomRefused { room, close } => self.room_refused(&room, &close),
            ToShard::RoomForget { room } => self.room_forget(room),
            ToShard::RoomDown { room, close } => self.room_down(room, &close),
            ToShard::RoomState { room, state } => self.room_state(now, room, state),
            ToShard::Feed { newest, pending, upstream_silent_ms } => {
                self.feed_state(newest, pending, upstream_silent_ms);
            }
            ToShard::StageJoined { session, room, slot, frame_bytes } => {
                self.stage_joined(now, session, &room, slot, frame_bytes);
            }
            ToShard::Close { session, close } => {
                if self.by_key(session).is_some() {
                    self.close(session.ix, close);
                }
            }
            ToShard::SpeechRequest { session, request } => {
                if let Some(s) = self.by_key(session) {
                    let bytes = speech_request_bytes(s.framing, &request);
                    self.effects
                        .push_back(ShardEffect::SendDatagram { session: session.ix, bytes });
                }
            }
            ToShard::Placement { session, placement } => {
                if self.by_key(session).is_some() {
                    self.send(session.ix, &ServerMessage::Placement(placement));
                }
            }
            ToShard::RelaySiblings { session, siblings } => {
                if self.by_key(session).is_some() {
                    self.send(session.ix, &ServerMessage::Siblings(siblings));
                }
            }
            ToShard::Keys(keys) => {
                // What an earlier key verified is verified again under the keys in force.
                self.tokens.clear();
                self.passes.forget();
                self.verifier = Verifier::from_published(&keys);
                self.keys = keys;
            }
            ToShard::Revoked { room, list } => self.revoked(now, room, list),
            ToShard::Invitations { room, list } => self.invitations(now, room, list),
            ToShard::LoweredHands { room, list } => self.lowered_hands(now, room, list),
            ToShard::Siblings(siblings) => self.siblings(now, siblings),
            ToShard::Admission { admission, ahead_ms, pass_on } => {
                self.admission(now, admission, ahead_ms, pass_on);
            }
            ToShard::RelayAdmission { session, admission } => {
                if self.by_key(session).is_some() {
                    self.send(session.ix, &ServerMessage::Admission(admission));
                }
            }
            ToShard::Redeemed { session, refused } => self.redeemed(now, session, refused),
            ToShard::Drain { within } => self.drain(now, within),
        }
    }

    /// Time has come to [`Self::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Time) {
        while let Some(&(at, key)) = self.deadlines.first() {
            if at > now {
                break;
            }
            self.deadlines.pop_first();
            self.expired(key);
        }
        self.push(now);
        self.tell_on(now);
        if now >= self.totals_due {
            self.tell_totals(now);
        }
        if now >= self.tallies_due {
            self.tallies_due = now + limits::TOTALS_EVERY;
            let (shard, tallies) = (self.settings.shard, self.take_tallies());
            self.tell(ToControl::Rooms { shard, tallies });
        }
    }

    /// When [`Self::handle_timeout`] and [`Self::poll_beacon`] are to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Time {
        let deadline = self.deadlines.first().map_or(Time::MAX, |&(at, _)| at);
        deadline
            .min(self.totals_due)
            .min(self.tallies_due)
            .min(self.beacon_due())
            .min(self.push_due())
            .min(self.telling_due())
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<ShardEffect> {
        self.effects.pop_front()
    }

    fn expired(&mut self, key: SessionKey) {
        let Some(session) = self.by_key(key) else {
            return;
        };
        session.expires = None;
        let close = match session.state {
            State::Greeting => Close::new(CloseCode::NoHello, "no hello came in time"),
            State::Authorized => {
                Close::new(CloseCode::RoomTimeout, "the room could not be brought up in time")
            }
            State::Joined | State::Draining => {
                Close::new(CloseCode::TokenExpired, "the token has expired; get a fresh one")
            }
            State::Closed => return,
        };
        self.close(key.ix, close);
    }

    /// Tells a session why, and closes it. What it holds is freed when the shell reports the
    /// connection closed.
    fn close(&mut self, ix: SessionIx, close: Close) {
        let Some(session) = self.session_mut(ix) else {
            return;
        };
        if session.state == State::Closed {
            return;
        }
        // Who waits or is sent elsewhere has not been refused.
        let turned = matches!(close.code, CloseCode::Waiting | CloseCode::Redirect);
        if matches!(session.state, State::Greeting | State::Authorized) && !turned {
            self.stats.refused += 1;
        }
        self.closes.count(close.code);
        let code = close.code as u32;
        let (name, reason) = (close.code.name().to_owned(), close.reason.clone());
        self.send(ix, &ServerMessage::Closing { code, name, reason });
        self.effects.push_back(ShardEffect::Close { session: ix, close });
        self.retire(ix);
    }

    /// Takes a session out of everything that speaks of it; its slab entry stays until its
    /// connection is gone.
    fn retire(&mut self, ix: SessionIx) {
        let Some(session) = self.session_mut(ix) else {
            return;
        };
        let (was, key, role) = (session.state, session.key, session.role);
        let Some(closed) = was.after(Step::Close) else {
            return;
        };
        self.person_leaves(ix);
        let Some(session) = self.session_mut(ix) else {
            return;
        };
        session.state = closed;
        session.owed = Owed::default();
        let expires = session.expires.take();
        let rooms = std::mem::take(&mut session.rooms);
        let registered = std::mem::take(&mut session.registered);
        let waited = session.greeting.take().map(|greeting| greeting.room);
        let reserved = std::mem::take(&mut session.reserved);
        self.reserved -= u32::from(reserved);
        if let Some(at) = expires {
            self.deadlines.remove(&(at, key));
        }
        match (role, waited) {
            (Role::Relay, _) => self.forget_waiting_everywhere(key),
            (_, Some(room)) => self.forget_waiting(&room, key),
            (_, None) => {}
        }
        for membership in rooms {
            self.leave_room(membership);
        }
        if matches!(was, State::Joined | State::Draining) {
            self.stats.left += 1;
            match role {
                Role::Relay => self.children -= 1,
                Role::Listener | Role::Recorder => self.listeners -= 1,
                Role::Host | Role::CoHost | Role::Speaker => {}
            }
        }
        if registered {
            self.tell(ToControl::RelayLeave { session: key });
        } else if role.speaks() && was != State::Greeting {
            self.tell(ToControl::StageLeave { session: key });
        }
    }

    fn session_mut(&mut self, ix: SessionIx) -> Option<&mut Session> {
        self.sessions.get_mut(ix.0 as usize)?.as_mut()
    }

    fn by_key(&mut self, key: SessionKey) -> Option<&mut Session> {
        self.session_mut(key.ix).filter(|s| s.key == key && s.state != State::Closed)
    }

    fn send(&mut self, ix: SessionIx, message: &ServerMessage) {
        // What a parent said is within its bounds and is written out larger: no such message is
        // known, and one would be a defect here, of one message.
        match try_encode_control(message) {
            Some(bytes) => {
                self.effects.push_back(ShardEffect::SendControl { session: ix, bytes });
            }
            None => self.stats.drop_oversize_message += 1,
        }
    }

    fn tell(&mut self, message: ToControl) {
        self.effects.push_back(ShardEffect::ToControl(message));
    }

    /// Counts a bad datagram against its session, and closes the session when there are many.
    fn blame(&mut self, now: Time, ix: SessionIx, what: &str) {
        let Some(session) = self.session_mut(ix) else {
            return;
        };
        if !session.bad.spend(now) {
            let most = limits::BAD_PER_S;
            let reason = format!("more than {most} bad datagrams in a second; the last: {what}");
            self.close(ix, Close::new(CloseCode::TooManyBadDatagrams, reason));
        }
    }
}
