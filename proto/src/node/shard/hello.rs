//! From the hello to the welcome: version, token, role, room, slot.

use std::time::Duration;

use super::admit::Entry;
use super::{Greeting, NodeShard};
use crate::fanout::{Class, SessionIx};
use crate::names::clean;
use crate::node::messages::{Asker, ToControl};
use crate::session::{Budget, SessionKey, State, Step};
use crate::token::{ANY_RELAY, Claims};
use crate::wire::{
    ClientMessage, Close, CloseCode, FEATURES, Hello, Load, Role, Secret, ServerMessage,
    Subscribed, VERSION, Welcome,
};
use crate::{Time, limits};

impl NodeShard {
    /// Acts on a control message.
    pub(super) fn message(
        &mut self,
        now: Time,
        ix: SessionIx,
        message: ClientMessage,
    ) -> Result<(), Close> {
        let state = self.session_mut(ix).map_or(State::Closed, |s| s.state);
        match (state, message) {
            (State::Closed, _) => Ok(()),
            (State::Greeting, ClientMessage::Hello(hello)) => self.hello(now, ix, hello),
            (State::Greeting, _) => {
                Err(Close::new(CloseCode::Protocol, "the first message of a session is its hello"))
            }
            (_, ClientMessage::Hello(_)) => {
                Err(Close::new(CloseCode::Protocol, "a session says hello once"))
            }
            (_, ClientMessage::Leave) => Err(Close::new(CloseCode::Done, "goodbye")),
            (_, ClientMessage::Subscribe { room }) => self.subscribe(now, ix, room),
            (_, ClientMessage::Unsubscribe { room }) => {
                self.unsubscribe(ix, &room);
                Ok(())
            }
            (_, ClientMessage::Load(load)) => self.load(ix, load),
            (_, message @ (ClientMessage::Hands { .. } | ClientMessage::Met { .. })) => {
                self.child_says(ix, message)
            }
            (
                _,
                message @ (ClientMessage::Hand { .. }
                | ClientMessage::React { .. }
                | ClientMessage::Report(_)
                | ClientMessage::Mute { .. }),
            ) => self.person_says(now, ix, message),
            (_, ClientMessage::Unknown) => {
                self.stats.unknown_messages += 1;
                Ok(())
            }
        }
    }

    fn hello(&mut self, now: Time, ix: SessionIx, hello: Hello) -> Result<(), Close> {
        check_hello(&hello, self.settings.origin)?;
        if self.draining {
            return Err(Close::new(CloseCode::Draining, "this node is draining; go to another"));
        }
        let claims = match &hello.token {
            Some(token) => Some(self.verify(now, token)?),
            None => None,
        };
        if let Some(claims) = &claims {
            claims.allow(&hello.room, hello.role)?;
            bound_to(claims, &hello, self.settings.origin)?;
        } else if hello.role != Role::Listener
            && !(hello.role == Role::Relay && self.settings.open_relays)
        {
            let reason = format!("the role {} needs a token", hello.role.name());
            return Err(Close::new(CloseCode::TokenMissing, reason));
        }
        let pass = self.returning(now, &hello, claims.as_ref());
        self.is_welcome(now, ix, &hello, claims.as_ref(), pass.as_ref())?;
        let entry = self.entry(now, ix, &hello, claims.as_ref(), pass.is_some())?;
        self.authorize(now, ix, hello, claims, entry)
    }

    /// Verifies a token, or finds it verified before.
    fn verify(&mut self, now: Time, token: &str) -> Result<Claims, Close> {
        let unix_s = self.unix_s(now);
        if let Some(claims) = self.tokens.get(token).filter(|claims| claims.ends() > unix_s) {
            return Ok(claims.clone());
        }
        let claims = self.verifier.verify(token, unix_s)?;
        if self.tokens.len() >= limits::TOKEN_CACHE {
            self.tokens.clear();
        }
        self.tokens.insert(token.to_owned(), claims.clone());
        Ok(claims)
    }

    fn authorize(
        &mut self,
        now: Time,
        ix: SessionIx,
        hello: Hello,
        claims: Option<Claims>,
        entry: Entry,
    ) -> Result<(), Close> {
        let anonymous = claims.is_none();
        let token_expires = claims.as_ref().map(|c| self.time_of(c.ends()));
        let Some(session) = self.session_mut(ix) else {
            return Ok(());
        };
        session.state = session.state.after(Step::Authorize).unwrap_or(State::Closed);
        session.role = hello.role;
        let (identity, minted, jti) = match &session.who {
            Some(who) => who.proven(),
            None => (String::new(), 0, None),
        };
        let playout =
            hello.playout_ms.map_or(limits::PLAYOUT, |ms| Duration::from_millis(ms.into()));
        let greeting = Greeting {
            room: hello.room.clone(),
            identity: identity.clone(),
            playout: playout.min(limits::PLAYOUT_MOST),
            last: hello.last,
            anonymous,
            token_expires,
            redirect: None,
        };
        let (key, address) = (session.key, session.address);
        session.greeting = Some(Box::new(greeting));
        let join_by = now + limits::JOIN_DEADLINE;
        self.deadline(key, Some(token_expires.map_or(join_by, |at| at.min(join_by))));
        match hello.role {
            Role::Relay => {
                self.relay_joined(now, key, hello, token_expires);
                Ok(())
            }
            role if role.speaks() => {
                let name = hello.name.or_else(|| claims.and_then(|c| c.name)).unwrap_or_default();
                let room = hello.room;
                let name = clean(&name, limits::NAME_BYTES);
                self.tell(ToControl::StageJoin {
                    session: key,
                    room,
                    identity,
                    name,
                    role,
                    minted,
                    jti,
                    address,
                });
                Ok(())
            }
            _ => self.enter(now, key, entry),
        }
    }

    /// A listener joins at once where the room is there; else it waits for it.
    pub(super) fn listen(&mut self, now: Time, key: SessionKey) -> Result<(), Close> {
        let Some(room) = self.greeting(key).map(|g| g.room.clone()) else {
            return Ok(());
        };
        if let Some(&at) = self.by_name.get(&room) {
            return self.join_room(now, key, at);
        }
        self.wait_for(key, room)
    }

    /// Puts a session among those who wait for a room, and asks control for the room.
    pub(super) fn wait_for(&mut self, key: SessionKey, room: String) -> Result<(), Close> {
        if self.waiting_count >= limits::PENDING_JOINS {
            return Err(Close::new(CloseCode::Full, "too many wait for rooms that are not here"));
        }
        let session = self.by_key(key);
        let by = match session.map(|s| (s.role, s.greeting.as_ref().is_some_and(|g| g.anonymous))) {
            Some((Role::Relay, _)) => Asker::Child(key),
            Some((_, false)) => Asker::Token,
            _ => Asker::Anonymous,
        };
        let waiting = self.waiting.entry(room.clone()).or_default();
        waiting.push(key);
        self.waiting_count += 1;
        // A token asks again: those before it may be over their budget.
        if waiting.len() == 1 || by == Asker::Token {
            self.tell(ToControl::WantRoom { room, by });
        }
        Ok(())
    }

    pub(super) fn forget_waiting(&mut self, room: &str, key: SessionKey) {
        if let Some(waiting) = self.waiting.get_mut(room) {
            let before = waiting.len();
            waiting.retain(|&k| k != key);
            self.waiting_count -= before - waiting.len();
            if waiting.is_empty() {
                self.waiting.remove(room);
            }
        }
    }

    /// A child relay may wait for many rooms.
    pub(super) fn forget_waiting_everywhere(&mut self, key: SessionKey) {
        for waiting in self.waiting.values_mut() {
            let before = waiting.len();
            waiting.retain(|&k| k != key);
            self.waiting_count -= before - waiting.len();
        }
        self.waiting.retain(|_, waiting| !waiting.is_empty());
    }

    /// Lets a listener in: welcome, place in the fan-out, the last ticks.
    pub(super) fn join_room(&mut self, now: Time, key: SessionKey, at: usize) -> Result<(), Close> {
        let Some(room) = self.rooms[at].as_ref().map(|room| room.info.clone()) else {
            return Ok(());
        };
        if let Some(close) = self.refusal(key.ix, at).or_else(|| self.locked(key.ix, at)) {
            return Err(close);
        }
        let Some(session) = self.by_key(key) else {
            return Ok(());
        };
        let Some(greeting) = session.greeting.take() else {
            return Ok(());
        };
        if greeting.anonymous && !room.public {
            let reason = format!("the room {} is not public; a token is needed", room.name);
            return Err(Close::new(CloseCode::TokenMissing, reason));
        }
        session.state = session.state.after(Step::Join).unwrap_or(State::Closed);
        let role = session.role;
        let reserved = std::mem::take(&mut session.reserved);
        self.deadline(key, greeting.token_expires);
        self.reserved -= u32::from(reserved);
        self.listeners += 1;
        let pass = self.pass_for(now, &room.name, &greeting.identity, greeting.anonymous);
        self.welcomed(key, role, &greeting.identity, Some(room), None, pass);
        self.enter_room(now, key.ix, at, Class::Listener);
        self.person_joined(key.ix, at);
        self.replay(now, key.ix, at, greeting.playout, greeting.last);
        self.joined_while_draining(now, key);
        Ok(())
    }

    /// A stage role has its slot: it hears the room as a listener of the origin.
    pub(super) fn stage_joined(
        &mut self,
        now: Time,
        key: SessionKey,
        room: &Subscribed,
        slot: u16,
        frame_bytes: u16,
    ) {
        let Some(&at) = self.by_id.get(&room.id) else {
            return;
        };
        let Some(session) = self.by_key(key) else {
            return;
        };
        let Some(greeting) = session.greeting.take() else {
            return;
        };
        session.state = session.state.after(Step::Join).unwrap_or(State::Closed);
        session.slot = Some((room.id, slot));
        let role = session.role;
        self.deadline(key, greeting.token_expires);
        self.welcomed(
            key,
            role,
            &greeting.identity,
            Some(room.clone()),
            Some((slot, frame_bytes)),
            None,
        );
        self.enter_room(now, key.ix, at, Class::Stage);
        self.replay(now, key.ix, at, greeting.playout, greeting.last);
        self.joined_while_draining(now, key);
    }

    fn relay_joined(&mut self, now: Time, key: SessionKey, hello: Hello, expires: Option<Time>) {
        let Some(session) = self.by_key(key) else {
            return;
        };
        session.messages = Budget::new(limits::CHILD_CONTROL_PER_S, now);
        session.state = session.state.after(Step::Join).unwrap_or(State::Closed);
        session.greeting = None;
        let info = hello.relay;
        session.registered = info.is_some();
        self.children += 1;
        self.deadline(key, expires);
        let identity = info.as_ref().map(|info| info.id.clone()).unwrap_or_default();
        self.welcomed(key, Role::Relay, &identity, None, None, None);
        if let Some(info) = info {
            self.tell(ToControl::RelayJoin { session: key, info });
        }
    }

    fn welcomed(
        &mut self,
        key: SessionKey,
        role: Role,
        identity: &str,
        room: Option<Subscribed>,
        slot: Option<(u16, u16)>,
        pass: Option<Secret>,
    ) {
        self.stats.joined += 1;
        self.joins += 1;
        let repair_ms = u32::try_from(limits::REPAIR_DEADLINE.as_millis()).ok();
        let welcome = Welcome {
            version: VERSION,
            features: FEATURES.map(str::to_owned).to_vec(),
            agent: self.settings.agent.clone(),
            identity: identity.to_owned(),
            role,
            room,
            slot: slot.map(|(slot, _)| slot),
            frame_bytes: slot.map(|(_, bytes)| bytes),
            repair_ms,
            alternates: if role == Role::Listener { self.alternates_of(key) } else { Vec::new() },
            pass,
            keys: if role == Role::Relay { self.keys.clone() } else { Vec::new() },
        };
        self.send(key.ix, &ServerMessage::Welcome(welcome));
    }

    /// A child relay asks for a room.
    fn subscribe(&mut self, now: Time, ix: SessionIx, room: String) -> Result<(), Close> {
        let Some(session) = self.session_mut(ix) else {
            return Ok(());
        };
        if session.role != Role::Relay {
            return Err(Close::new(CloseCode::Protocol, "only a relay subscribes"));
        }
        let rooms = session.rooms.len() + session.owed.asked.len();
        if room.len() > limits::NAME_BYTES || rooms >= limits::ROOMS_PER_CHILD {
            return Err(Close::new(CloseCode::Protocol, "too many rooms, or too long a name"));
        }
        let key = session.key;
        match self.by_name.get(&room) {
            Some(&at) => self.subscribed(now, key, at),
            None if self.waiting.get(&room).is_some_and(|w| w.contains(&key)) => {}
            None => self.wait_for(key, room)?,
        }
        Ok(())
    }

    fn unsubscribe(&mut self, ix: SessionIx, room: &str) {
        let relay = self.session_mut(ix).filter(|session| session.role == Role::Relay);
        let Some(key) = relay.map(|session| session.key) else {
            return;
        };
        let Some(&at) = self.by_name.get(room) else {
            return self.forget_waiting(room, key);
        };
        let Some(session) = self.session_mut(ix) else {
            return;
        };
        session.owed.asked.retain(|&asked| asked != at);
        if let Some(found) = session.rooms.iter().position(|m| m.room == at) {
            let membership = session.rooms.swap_remove(found);
            self.leave_room(membership);
        }
    }

    fn load(&mut self, ix: SessionIx, load: Load) -> Result<(), Close> {
        let Some(session) = self.session_mut(ix) else {
            return Ok(());
        };
        if !session.registered {
            return Err(Close::new(
                CloseCode::Protocol,
                "only a registered relay reports its load",
            ));
        }
        let session = session.key;
        self.tell(ToControl::RelayLoad { session, load });
        Ok(())
    }

    /// Replaces a session's deadline.
    fn deadline(&mut self, key: SessionKey, new: Option<Time>) {
        let Some(session) = self.by_key(key) else {
            return;
        };
        let old = std::mem::replace(&mut session.expires, new);
        if let Some(at) = old {
            self.deadlines.remove(&(at, key));
        }
        if let Some(at) = new {
            self.deadlines.insert((at, key));
        }
    }

    fn greeting(&mut self, key: SessionKey) -> Option<&Greeting> {
        self.by_key(key).and_then(|session| session.greeting.as_deref())
    }

    /// The shard's time at a point of the wall clock.
    fn time_of(&self, unix_s: u64) -> Time {
        Time::from_micros(
            (unix_s.saturating_mul(1_000_000)).saturating_sub(self.settings.unix_us_at_zero),
        )
    }
}

/// Whether a token is shown where it belongs: a stage role's to the origin alone, so that nobody who
/// runs a relay can speak with it; a relay's by the relay that it names.
fn bound_to(claims: &Claims, hello: &Hello, origin: bool) -> Result<(), Close> {
    if claims.role.speaks() && !origin {
        let reason = "a token of the stage is for the origin alone; use a listener's token here";
        return Err(Close::new(CloseCode::OriginOnly, reason));
    }
    if let Some(info) = hello.relay.as_ref().filter(|_| hello.role == Role::Relay)
        && claims.sub != ANY_RELAY
        && claims.sub != info.id
    {
        let reason = format!("the token is for the relay {}, not for {}", claims.sub, info.id);
        return Err(Close::new(CloseCode::TokenRole, reason));
    }
    Ok(())
}

/// What can be refused without a token.
fn check_hello(hello: &Hello, origin: bool) -> Result<(), Close> {
    if hello.version != VERSION {
        let reason = format!("protocol version {}; this node speaks {VERSION}", hello.version);
        return Err(Close::new(CloseCode::Version, reason));
    }
    let long = |name: &Option<String>| name.as_ref().is_some_and(|n| n.len() > limits::NAME_BYTES);
    if hello.room.len() > limits::NAME_BYTES || long(&hello.name) || long(&hello.agent) {
        let reason = format!("a name is longer than {} bytes", limits::NAME_BYTES);
        return Err(Close::new(CloseCode::Protocol, reason));
    }
    if hello.token.as_ref().is_some_and(|token| token.len() > limits::TOKEN_BYTES) {
        return Err(Close::new(CloseCode::TokenInvalid, "the token is too long"));
    }
    if hello.role.speaks() && !origin {
        let reason = format!("the role {} joins at the origin, not at a relay", hello.role.name());
        return Err(Close::new(CloseCode::OriginOnly, reason));
    }
    if hello.role != Role::Relay && hello.room.is_empty() {
        return Err(Close::new(CloseCode::Protocol, "the hello names no room"));
    }
    if hello.relay.as_ref().is_some_and(|info| {
        let parts = [&info.id, &info.address, &info.region];
        info.id.is_empty() || parts.iter().any(|part| part.len() > limits::NAME_BYTES)
    }) {
        return Err(Close::new(
            CloseCode::Protocol,
            "the relay's name or address is empty or too long",
        ));
    }
    Ok(())
}
