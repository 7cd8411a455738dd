//! What sessions are still to be told of their rooms: documents, and for child relays whole rooms with
//! their lists. It is written as fast as it is read, and what changes meanwhile is said once.
//!
//! A connection takes little more than its window at once, and closes a session that reads too slowly.
//! So what comes in bursts (256 rooms for a child that has come back, the document of a room for
//! everyone in it) is not a queue of messages but a debt for each session, paid by the piece: the next
//! piece when the shell says that the last one has left.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use super::{NodeShard, Session, ShardEffect};
use crate::fanout::{Class, SessionIx};
use crate::session::{SessionKey, State};
use crate::wire::{Role, ServerMessage, try_encode_control};
use crate::{Time, limits};

/// What a session is to be told of one room.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Debt {
    pub(super) document: bool,
    pub(super) invitations: bool,
    pub(super) lowered_hands: bool,
    /// Generation and length of the list of those whom the room takes no longer, as it was told to a
    /// child relay.
    revoked: (u64, usize),
}

/// What a session waits for.
#[derive(Debug, Default)]
pub(super) struct Owed {
    /// Rooms that a child relay has asked for, and that are here.
    pub(super) asked: VecDeque<usize>,
    /// Whether something was written of which the shell has not said that it has left.
    waits: bool,
}

/// The members of a room who are to be told its document, spread over time.
#[derive(Debug, Default)]
pub(super) struct Telling {
    queue: VecDeque<SessionKey>,
    each_turn: usize,
    pub(super) due: Option<Time>,
}

impl Telling {
    /// Whoever waits from an earlier change keeps its turn.
    fn start(&mut self, members: Vec<SessionKey>) {
        let waits: BTreeSet<SessionKey> = self.queue.iter().copied().collect();
        self.queue.extend(members.into_iter().filter(|key| !waits.contains(key)));
        let turns = limits::DOCUMENT_SPREAD.as_micros() / limits::PUSH_EVERY.as_micros();
        let turns = usize::try_from(turns).unwrap_or(1).max(1);
        self.each_turn = self.queue.len().div_ceil(turns).max(limits::PUSHES_LEAST);
    }

    fn turn(&mut self, now: Time) -> Vec<SessionKey> {
        let few = self.queue.len().min(self.each_turn);
        let few = self.queue.drain(..few).collect();
        self.due = (!self.queue.is_empty()).then(|| now + limits::PUSH_EVERY);
        few
    }
}

impl NodeShard {
    /// All that was written to a session's control stream has left; asked for by
    /// [`ShardEffect::AwaitControl`].
    pub fn handle_control_written(&mut self, now: Time, ix: SessionIx) {
        if let Some(session) = self.session_mut(ix).filter(|s| s.state != State::Closed) {
            session.owed.waits = false;
            self.settle(now, ix);
        }
    }

    /// A child relay gets a room when its turn comes.
    pub(super) fn subscribed(&mut self, now: Time, key: SessionKey, at: usize) {
        let Some(session) = self.by_key(key) else { return };
        if !session.owed.asked.contains(&at) {
            session.owed.asked.push_back(at);
        }
        self.settle(now, key.ix);
    }

    /// Notes what a session is to be told of a room that it is in, and tells it as soon as it reads.
    pub(super) fn owe(
        &mut self,
        now: Time,
        ix: SessionIx,
        at: usize,
        note: impl FnOnce(&mut Debt),
    ) {
        let Some(session) = self.session_mut(ix) else { return };
        let Some(membership) = session.rooms.iter_mut().find(|m| m.room == at) else { return };
        note(&mut membership.debt);
        self.settle(now, ix);
    }

    /// Tells everyone in a room its document: children and the stage at once, listeners spread.
    pub(super) fn tell_document(&mut self, now: Time, at: usize) {
        let (mut first, mut listeners) = (Vec::new(), Vec::new());
        for session in self.sessions.iter().flatten() {
            let inside = session.rooms.iter().any(|m| m.room == at);
            if session.state == State::Closed || !inside {
                continue;
            }
            match session.role {
                Role::Listener | Role::Recorder => listeners.push(session.key),
                _ => first.push(session.key.ix),
            }
        }
        for ix in first {
            self.owe(now, ix, at, |debt| debt.document = true);
        }
        if let Some(room) = self.rooms[at].as_mut() {
            room.telling.start(listeners);
        }
        self.tell_turn(now, at);
    }

    pub(super) fn telling_due(&self) -> Time {
        let due = self.rooms.iter().flatten().filter_map(|room| room.telling.due);
        due.min().unwrap_or(Time::MAX)
    }

    /// Tells the next few listeners of each room whose turn it is.
    pub(super) fn tell_on(&mut self, now: Time) {
        for at in 0..self.rooms.len() {
            let due = self.rooms[at].as_ref().and_then(|room| room.telling.due);
            if due.is_some_and(|due| due <= now) {
                self.tell_turn(now, at);
            }
        }
    }

    fn tell_turn(&mut self, now: Time, at: usize) {
        let Some(room) = self.rooms[at].as_mut() else { return };
        for key in room.telling.turn(now) {
            if self.by_key(key).is_some() {
                self.owe(now, key.ix, at, |debt| debt.document = true);
            }
        }
    }

    /// Writes a piece of what a session is owed, if the piece before it has left.
    fn settle(&mut self, now: Time, ix: SessionIx) {
        let mut written = 0;
        while written < limits::OWED_BYTES {
            let Some(session) = self.session_mut(ix) else { return };
            if session.owed.waits || session.state == State::Closed {
                return;
            }
            let before = self.effects.len();
            if !self.pay(now, ix) {
                break;
            }
            written += self.effects.range(before..).map(control_bytes).sum::<usize>();
        }
        if written > 0
            && let Some(session) = self.session_mut(ix)
        {
            session.owed.waits = true;
            self.effects.push_back(ShardEffect::AwaitControl { session: ix });
        }
    }

    /// Writes one message, or the answer to one subscription; false when nothing is owed.
    fn pay(&mut self, now: Time, ix: SessionIx) -> bool {
        let Some(session) = self.session_mut(ix) else { return false };
        let key = session.key;
        if let Some(at) = session.owed.asked.pop_front() {
            self.answer_subscription(now, key, at);
            return true;
        }
        let Some(session) = self.sessions.get(ix.0 as usize).and_then(Option::as_ref) else {
            return false;
        };
        let Some((place, bytes, debt)) = self.next_debt(session) else { return false };
        let membership = self.session_mut(ix).and_then(|session| session.rooms.get_mut(place));
        if let Some(membership) = membership {
            membership.debt = debt;
        }
        match bytes {
            Some(bytes) => {
                self.effects.push_back(ShardEffect::SendControl { session: ix, bytes });
            }
            None => self.stats.drop_oversize_message += 1,
        }
        true
    }

    /// The next thing that a session is owed: the place of its room among the session's, the message,
    /// and what is owed after it.
    fn next_debt(&self, session: &Session) -> Option<(usize, Option<Bytes>, Debt)> {
        session.rooms.iter().enumerate().find_map(|(place, membership)| {
            let room = self.rooms.get(membership.room)?.as_ref()?;
            let debt = membership.debt;
            if debt.document
                && let Some(bytes) = &room.document
            {
                return Some((place, Some(bytes.clone()), Debt { document: false, ..debt }));
            }
            if session.role != Role::Relay {
                return None;
            }
            let (generation, len) = debt.revoked;
            if let Some(page) = room.people.revoked().next_page(&room.info.name, generation, len) {
                let since = usize::try_from(page.since).unwrap_or(usize::MAX);
                let revoked = (page.generation, since.saturating_add(page.entries.len()));
                let bytes = try_encode_control(&ServerMessage::Revoked(page));
                return Some((place, bytes, Debt { revoked, ..debt }));
            }
            if let Some(list) = room.people.invitations().filter(|_| debt.invitations) {
                let bytes = try_encode_control(&ServerMessage::Invitations((**list).clone()));
                return Some((place, bytes, Debt { invitations: false, ..debt }));
            }
            let list = room.people.lowered_hands().filter(|_| debt.lowered_hands)?;
            let bytes = try_encode_control(&ServerMessage::LoweredHands((**list).clone()));
            Some((place, bytes, Debt { lowered_hands: false, ..debt }))
        })
    }

    /// A child relay gets a room: its answer, its place in the fan-out, a second of the ring.
    fn answer_subscription(&mut self, now: Time, key: SessionKey, at: usize) {
        let Some(room) = self.rooms[at].as_ref().map(|room| room.info.clone()) else { return };
        let Some(session) = self.by_key(key) else { return };
        let here = session.rooms.iter().any(|membership| membership.room == at);
        self.send(key.ix, &ServerMessage::Subscribed(room));
        if !here {
            self.enter_room(now, key.ix, at, Class::Relay);
            if let Some(session) = self.session_mut(key.ix)
                && let Some(membership) = session.rooms.iter_mut().find(|m| m.room == at)
            {
                membership.debt.invitations = true;
            }
            self.replay(now, key.ix, at, limits::TICK * limits::REPLAY_TICKS, None);
        }
    }
}

fn control_bytes(effect: &ShardEffect) -> usize {
    match effect {
        ShardEffect::SendControl { bytes, .. } => bytes.len(),
        _ => 0,
    }
}
