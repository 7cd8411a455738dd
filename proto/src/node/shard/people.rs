//! The people in a shard's rooms: who may not be there, who is invited, what they say of
//! themselves and of what they hear.

use std::net::IpAddr;
use std::sync::Arc;

use super::NodeShard;
use crate::fanout::SessionIx;
use crate::names::{check_name, clean};
use crate::node::messages::ToControl;
use crate::pass::Pass;
use crate::revoked::{Bearer, Revoked};
use crate::session::{Budget, State};
use crate::token::Claims;
use crate::wire::{
    ClientMessage, Close, CloseCode, Hand, Heard, Hello, Invitations, LoweredHands, Report, Role,
    ServerMessage, Tally,
};
use crate::{Time, limits};

/// Who a session is; for all but relays.
#[derive(Debug)]
pub(super) struct Who {
    identity: String,
    name: String,
    /// When its token, its pass or its anonymous identity was made (seconds since 1970, UTC).
    minted: u64,
    jti: Option<String>,
    /// Whether a re-home pass was shown.
    returning: bool,
    /// Whether it came in before the room's document, which may say that the room is locked.
    pub(super) early: bool,
    /// Whether its hand is raised.
    hand: bool,
    /// The number of its last word on its hand.
    hand_sequence: u64,
    hand_at: Option<Time>,
    heard: Option<Heard>,
    heard_at: Option<Time>,
    reactions: Budget,
}

impl Who {
    /// Identity, when its token or pass was made, and the token's own name.
    pub(super) fn proven(&self) -> (String, u64, Option<String>) {
        (self.identity.clone(), self.minted, self.jti.clone())
    }
}

/// The people's part of a room.
#[derive(Debug, Default)]
pub(super) struct People {
    revoked: Arc<Revoked>,
    invitations: Option<Arc<Invitations>>,
    lowered_hands: Option<Arc<LoweredHands>>,
    tally: Tally,
}

impl People {
    pub(super) fn revoked(&self) -> &Revoked {
        &self.revoked
    }

    pub(super) const fn invitations(&self) -> Option<&Arc<Invitations>> {
        self.invitations.as_ref()
    }

    pub(super) const fn lowered_hands(&self) -> Option<&Arc<LoweredHands>> {
        self.lowered_hands.as_ref()
    }
}

impl NodeShard {
    /// Where a session comes from; to be told right after [`Self::handle_open`]. A session without
    /// an address is met by no ban of one.
    pub fn handle_address(&mut self, ix: SessionIx, address: IpAddr) {
        if let Some(session) = self.session_mut(ix) {
            session.address = Some(address.to_canonical());
        }
    }

    /// Notes who a session is, and refuses whom the room takes no longer, where the room is here.
    pub(super) fn is_welcome(
        &mut self,
        now: Time,
        ix: SessionIx,
        hello: &Hello,
        claims: Option<&Claims>,
        pass: Option<&Pass>,
    ) -> Result<(), Close> {
        let names = self.names;
        // By the clock of whoever says until when tokens and identities are taken back.
        let unix_s = self.door.origin_ms(now) / 1_000;
        let Some(session) = self.session_mut(ix).filter(|_| hello.role != Role::Relay) else {
            return Ok(());
        };
        let (identity, minted) = match (claims, pass) {
            (Some(claims), _) => (claims.sub.clone(), claims.iat),
            (None, Some(pass)) => (pass.sub.clone(), pass.iat),
            (None, None) => {
                let generation = session.key.generation;
                (format!("anonymous-{names:016x}-{generation:x}"), unix_s)
            }
        };
        let name = hello.name.as_deref().or_else(|| claims?.name.as_deref());
        session.role = hello.role;
        session.who = Some(Box::new(Who {
            identity,
            name: clean(name.unwrap_or_default(), limits::NAME_BYTES),
            minted,
            jti: claims.map(|claims| claims.jti.clone()),
            returning: pass.is_some(),
            early: false,
            hand: false,
            hand_sequence: 0,
            hand_at: None,
            heard: None,
            heard_at: None,
            reactions: Budget::new(limits::REACTIONS_PER_S, now),
        }));
        let here = self.by_name.get(&hello.room).copied();
        let refused = here.and_then(|at| self.refusal(ix, at).or_else(|| self.locked(ix, at)));
        refused.map_or(Ok(()), Err)
    }

    /// Why a listener may not come in, if the room is locked; one who returns may.
    pub(super) fn locked(&self, ix: SessionIx, at: usize) -> Option<Close> {
        let session = self.sessions.get(ix.0 as usize)?.as_ref()?;
        let new = session.who.as_ref().is_some_and(|who| !who.returning);
        let listens = matches!(session.role, Role::Listener | Role::Recorder);
        let locked = self.rooms.get(at)?.as_ref()?.state.as_ref()?.locked;
        (locked && new && listens).then(|| {
            let reason = "the host has locked the room; nobody new comes in";
            Close::new(CloseCode::RoomLocked, reason)
        })
    }

    /// The room's document is here: whoever came in before it goes, if the room was locked.
    pub(super) fn close_early(&mut self, at: usize) {
        for ix in self.members(at) {
            let who = self.session_mut(ix).and_then(|session| session.who.as_mut());
            if who.is_some_and(|who| std::mem::take(&mut who.early))
                && let Some(close) = self.locked(ix, at)
            {
                self.close(ix, close);
            }
        }
    }

    /// Why a session may not be in a room, if it may not. Where the ban covers the address, control
    /// is told which one it is.
    pub(super) fn refusal(&mut self, ix: SessionIx, at: usize) -> Option<Close> {
        let list = Arc::clone(&self.rooms.get(at)?.as_ref()?.people.revoked);
        self.refused_by(ix, at, &list)
    }

    fn refused_by(&mut self, ix: SessionIx, at: usize, list: &Revoked) -> Option<Close> {
        let session = self.sessions.get(ix.0 as usize)?.as_ref()?;
        let who = session.who.as_ref()?;
        let bearer = Bearer {
            identity: &who.identity,
            minted: who.minted,
            jti: who.jti.as_deref(),
            address: session.address,
            role: session.role,
        };
        let close = list.refuses(bearer)?;
        let room = self.rooms.get(at)?.as_ref()?;
        let new = |address: &IpAddr| {
            list.bans_address_of(&who.identity) && !room.people.revoked.bans_address(*address)
        };
        if let Some(address) = session.address.filter(new) {
            let room = room.info.name.clone();
            let identity = who.identity.clone();
            self.tell(ToControl::Met { room, identity, address });
        }
        Some(close)
    }

    /// The room takes somebody no longer: who is here is cut, children are told.
    pub(super) fn revoked(&mut self, now: Time, id: u32, list: Arc<Revoked>) {
        let Some(&at) = self.by_id.get(&id) else { return };
        let Some(room) = self.rooms[at].as_mut() else { return };
        let (generation, len) = room.people.revoked.mark();
        if list.mark() == (generation, len) {
            return;
        }
        let pages = list.pages(&room.info.name, generation, len);
        room.people.revoked = list;
        let added = Revoked::of_pages(&pages);
        for ix in self.members(at) {
            if self.session_mut(ix).is_some_and(|session| session.role == Role::Relay) {
                self.owe(now, ix, at, |_| {});
            } else if let Some(close) = self.refused_by(ix, at, &added) {
                self.close(ix, close);
            }
        }
    }

    /// Others may come on stage than before.
    pub(super) fn invitations(&mut self, now: Time, id: u32, list: Arc<Invitations>) {
        let Some(&at) = self.by_id.get(&id) else { return };
        let Some(room) = self.rooms[at].as_mut() else { return };
        let former = room.people.invitations.replace(Arc::clone(&list));
        let role = |list: Option<&Invitations>, identity: &str| {
            let invited = list.map(|list| list.invited.as_slice()).unwrap_or_default();
            invited.iter().find(|entry| entry.identity == identity).map(|entry| entry.role)
        };
        for ix in self.members(at) {
            let Some(session) = self.session_mut(ix) else { continue };
            let message = match &session.who {
                None => {
                    self.owe(now, ix, at, |debt| debt.invitations = true);
                    continue;
                }
                Some(who) => {
                    let was = role(former.as_deref(), &who.identity);
                    match (was, role(Some(&list), &who.identity)) {
                        (was, Some(role)) if was != Some(role) => ServerMessage::Invited { role },
                        (Some(_), None) => ServerMessage::InvitationWithdrawn,
                        _ => continue,
                    }
                }
            };
            self.send(ix, &message);
        }
    }

    /// A host has lowered hands: their owners are told, and may raise them again.
    pub(super) fn lowered_hands(&mut self, now: Time, id: u32, list: Arc<LoweredHands>) {
        let Some(&at) = self.by_id.get(&id) else { return };
        let Some(room) = self.rooms[at].as_mut() else { return };
        room.people.lowered_hands = Some(Arc::clone(&list));
        for ix in self.members(at) {
            let Some(session) = self.session_mut(ix) else { continue };
            let Some(who) = &mut session.who else {
                self.owe(now, ix, at, |debt| debt.lowered_hands = true);
                continue;
            };
            let lowered = who.hand
                && list.hands.iter().any(|hand| {
                    hand.identity == who.identity && hand.sequence >= who.hand_sequence
                });
            if lowered {
                who.hand = false;
                self.send(ix, &ServerMessage::HandLowered);
            }
        }
    }

    /// A listener is in the room: it counts, and learns whether it is invited.
    pub(super) fn person_joined(&mut self, ix: SessionIx, at: usize) {
        let Some(room) = self.rooms[at].as_mut() else { return };
        room.people.tally.listeners += 1;
        let invitations = room.people.invitations.clone();
        let early = room.state.is_none();
        let who = self.session_mut(ix).and_then(|session| session.who.as_mut());
        let who = who.map(|who| {
            who.early = early;
            &*who
        });
        let invited = invitations.zip(who).and_then(|(list, who)| {
            list.invited.iter().find(|entry| entry.identity == who.identity).map(|e| e.role)
        });
        if let Some(role) = invited {
            self.send(ix, &ServerMessage::Invited { role });
        }
    }

    /// A session is about to be taken out of its room.
    pub(super) fn person_leaves(&mut self, ix: SessionIx) {
        let Some(session) = self.session_mut(ix) else { return };
        let inside = matches!(session.state, State::Joined | State::Draining);
        let listens = matches!(session.role, Role::Listener | Role::Recorder);
        let Some(at) = session.rooms.first().map(|m| m.room).filter(|_| inside && listens) else {
            return;
        };
        let (heard, raised) = match &mut session.who {
            Some(who) => {
                let raised = std::mem::take(&mut who.hand).then_some(who.hand_sequence);
                (who.heard.take(), raised)
            }
            None => (None, None),
        };
        if let Some(room) = self.rooms[at].as_mut() {
            let tally = &mut room.people.tally;
            tally.listeners = tally.listeners.saturating_sub(1);
            if let Some(heard) = heard {
                tally.experience.remove(heard);
            }
        }
        // The raise's own number: whoever has moved to another relay and raised its hand there keeps it.
        if let Some(sequence) = raised {
            self.tell_hand(ix, at, false, sequence);
        }
    }

    /// What somebody in a room says.
    pub(super) fn person_says(
        &mut self,
        now: Time,
        ix: SessionIx,
        message: ClientMessage,
    ) -> Result<(), Close> {
        let Some(session) = self.session_mut(ix) else { return Ok(()) };
        let (role, key) = (session.role, session.key);
        let joined = matches!(session.state, State::Joined | State::Draining);
        let Some(at) = session.rooms.first().map(|m| m.room).filter(|_| joined) else {
            return Err(Close::new(CloseCode::Protocol, "first the welcome, then the room"));
        };
        match message {
            ClientMessage::Mute { muted } if role.speaks() => {
                self.tell(ToControl::SelfMute { session: key, muted });
            }
            ClientMessage::Hand { raised } if role == Role::Listener => {
                self.hand(now, ix, at, raised);
            }
            ClientMessage::React { kind, count } if role != Role::Relay => {
                self.react(now, ix, at, &kind, count);
            }
            ClientMessage::Report(report) if role != Role::Relay => {
                self.report(now, ix, at, &report);
            }
            _ => {
                let reason = format!("a {} does not say this", role.name());
                return Err(Close::new(CloseCode::Protocol, reason));
            }
        }
        Ok(())
    }

    fn hand(&mut self, now: Time, ix: SessionIx, at: usize, raised: bool) {
        let sequence = self.door.origin_ms(now);
        let Some(who) = self.session_mut(ix).and_then(|session| session.who.as_mut()) else {
            return;
        };
        if who.hand == raised {
            return;
        }
        if who.hand_at.is_some_and(|then| now < then + limits::HAND_APART) {
            self.stats.drop_hand += 1;
            return;
        }
        who.hand = raised;
        who.hand_at = Some(now);
        who.hand_sequence = sequence;
        self.tell_hand(ix, at, raised, sequence);
    }

    fn tell_hand(&mut self, ix: SessionIx, at: usize, raised: bool, sequence: u64) {
        let Some(room) = self.rooms[at].as_ref().map(|room| room.info.name.clone()) else { return };
        let Some(who) = self.session_mut(ix).and_then(|session| session.who.as_ref()) else {
            return;
        };
        let (identity, name) = (who.identity.clone(), who.name.clone());
        let hand = Hand { room, identity, name, raised, sequence };
        self.tell(ToControl::Hands { hands: vec![hand] });
    }

    fn react(&mut self, now: Time, ix: SessionIx, at: usize, kind: &str, count: u32) {
        let Some(who) = self.session_mut(ix).and_then(|session| session.who.as_mut()) else {
            return;
        };
        let asked = count.min(limits::REACTIONS_PER_S);
        let granted = (0..asked).take_while(|_| who.reactions.spend(now)).count();
        let granted = u32::try_from(granted).unwrap_or(0);
        let Some(room) = self.rooms[at].as_mut() else { return };
        let known = room.people.tally.react(kind, granted);
        if granted < count || !known {
            self.stats.drop_reaction += 1;
        }
    }

    fn report(&mut self, now: Time, ix: SessionIx, at: usize, report: &Report) {
        let Some(who) = self.session_mut(ix).and_then(|session| session.who.as_mut()) else {
            return;
        };
        // A little less than what is promised: timers of clients are not exact.
        let apart = limits::REPORT_APART * 9 / 10;
        let early = who.heard_at.is_some_and(|then| now < then + apart);
        let heard = Heard::of(report).filter(|_| !early);
        let Some(heard) = heard else {
            self.stats.drop_report += 1;
            return;
        };
        who.heard_at = Some(now);
        let former = who.heard.replace(heard);
        let Some(room) = self.rooms[at].as_mut() else { return };
        let experience = &mut room.people.tally.experience;
        if let Some(former) = former {
            experience.remove(former);
        }
        experience.add(heard);
        let glitches = report.glitches.min(1);
        experience.glitches = experience.glitches.saturating_add(glitches);
    }

    /// A child relay passes hands on, or says where it met somebody.
    pub(super) fn child_says(
        &mut self,
        ix: SessionIx,
        message: ClientMessage,
    ) -> Result<(), Close> {
        if !self.session_mut(ix).is_some_and(|session| session.registered) {
            return Err(Close::new(CloseCode::Protocol, "only a registered relay says this"));
        }
        match message {
            ClientMessage::Hands { hands } => {
                let sound = |hand: &Hand| {
                    check_name("room", &hand.room).is_ok()
                        && check_name("identity", &hand.identity).is_ok()
                };
                let sound: Vec<Hand> = hands
                    .into_iter()
                    .take(limits::HANDS_PER_MESSAGE)
                    .filter(sound)
                    .map(|hand| Hand { name: clean(&hand.name, limits::NAME_BYTES), ..hand })
                    .collect();
                if !sound.is_empty() {
                    self.tell(ToControl::Hands { hands: sound });
                }
            }
            ClientMessage::Met { room, identity, address } => {
                self.tell(ToControl::Met { room, identity, address });
            }
            _ => {}
        }
        Ok(())
    }

    /// What this shard's rooms carry; what counts by the second begins anew.
    pub(super) fn take_tallies(&mut self) -> Vec<(u32, Tally)> {
        let rooms = self.rooms.iter_mut().flatten();
        let taken = rooms.filter_map(|room| {
            let tally = room.people.tally.clone();
            room.people.tally.reactions.clear();
            room.people.tally.experience.glitches = 0;
            (tally.listeners > 0 || !tally.reactions.is_empty()).then_some((room.info.id, tally))
        });
        taken.collect()
    }
}
