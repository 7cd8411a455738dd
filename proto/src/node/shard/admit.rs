//! Who comes in at once, who is sent to another relay, and who waits (`docs/PROTOCOL.md` section
//! 3.14).

use super::NodeShard;
use crate::Time;
use crate::admission::{Ticket, TicketError, Verdict, Wait, bearer, read};
use crate::fanout::SessionIx;
use crate::limits;
use crate::node::messages::ToControl;
use crate::session::{SessionKey, State};
use crate::token::Claims;
use crate::wire::{
    Admission, Alternate, Close, CloseCode, Hello, Role, Secret, ServerMessage, Waiting,
};

/// How a session comes in.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    /// At once.
    Now,
    /// Once its ticket has been redeemed; whether it waited with it.
    Redeem(u64, bool),
    /// Not here: once its ticket has been redeemed it is sent to another relay.
    Elsewhere(u64, Redirect),
}

/// Where somebody is sent, and the ticket for there.
#[derive(Clone, Debug)]
pub(super) struct Redirect {
    to: Alternate,
    ticket: Option<Secret>,
}

/// Somebody at the door.
struct Comer<'a> {
    ix: SessionIx,
    room: &'a str,
    bearer: Option<String>,
    ticket: Option<Ticket>,
    /// The ticket as it was shown.
    shown: Option<&'a Secret>,
}

impl NodeShard {
    /// Decides about somebody whose token is good.
    ///
    /// # Errors
    /// Whoever waits or is sent elsewhere is told so, and closed with [`CloseCode::Waiting`] or
    /// [`CloseCode::Redirect`]; whoever is at fault is closed by name.
    pub(super) fn entry(
        &mut self,
        now: Time,
        ix: SessionIx,
        hello: &Hello,
        claims: Option<&Claims>,
        returning: bool,
    ) -> Result<Entry, Close> {
        match hello.role {
            Role::Relay => return self.has_place(hello.role, true).map(|()| Entry::Now),
            role if role.speaks() => return Ok(Entry::Now),
            _ => {}
        }
        if self.settings.door.stage_only && !returning {
            let reason = "this address is for the stage and for relays; listeners have another";
            return Err(Close::new(CloseCode::StageOnly, reason));
        }
        let ticket = match &hello.ticket {
            Some(text) => Some(self.ticket(now, hello, claims, text)?),
            None => None,
        };
        if !self.settings.door.on {
            return self.has_place(hello.role, returning).map(|()| Entry::Now);
        }
        if returning && self.has_place(hello.role, true).is_ok() {
            if self.door.returning(now) {
                return Ok(Entry::Now);
            }
            self.stats.returns_over_budget += 1;
        }
        let bearer = bearer_of(hello, claims);
        let shown = hello.ticket.as_ref();
        let comer = Comer { ix, room: &hello.room, bearer, ticket, shown };
        self.newcomer(now, hello.role, comer)
    }

    /// Lets a session in that has been decided about, or asks whether its ticket is used for the
    /// first time.
    pub(super) fn enter(&mut self, now: Time, key: SessionKey, entry: Entry) -> Result<(), Close> {
        let Some(session) = self.by_key(key) else { return Ok(()) };
        let (ticket, admits, redirect) = match entry {
            Entry::Now => {
                session.reserved = true;
                self.reserved += 1;
                return self.listen(now, key);
            }
            Entry::Redeem(ticket, waited) => {
                session.reserved = true;
                self.reserved += 1;
                (ticket, waited, None)
            }
            Entry::Elsewhere(ticket, redirect) => (ticket, false, Some(redirect)),
        };
        if let Some(greeting) = self.by_key(key).and_then(|session| session.greeting.as_mut()) {
            greeting.redirect = redirect;
        }
        self.tell(ToControl::Redeem { session: key, ticket, admits });
        Ok(())
    }

    /// Control says whether a ticket was used for the first time.
    pub(super) fn redeemed(&mut self, now: Time, key: SessionKey, refused: Option<Close>) {
        let Some(session) = self.by_key(key).filter(|s| s.state == State::Authorized) else {
            return;
        };
        let redirect = session.greeting.as_mut().and_then(|greeting| greeting.redirect.take());
        let done = match (refused, redirect) {
            (Some(close), _) => Err(close),
            (None, Some(redirect)) => Err(self.sent_elsewhere(key.ix, redirect)),
            (None, None) => self.listen(now, key),
        };
        if let Err(close) = done {
            self.close(key.ix, close);
        }
    }

    /// The origin's word on the queue: for this shard's door and, at a relay, for its children.
    pub(super) fn admission(
        &mut self,
        now: Time,
        admission: Admission,
        ahead_ms: i64,
        pass_on: bool,
    ) {
        if pass_on {
            let child = |s: &&super::Session| s.registered && s.state != State::Closed;
            let children: Vec<SessionIx> =
                self.sessions.iter().flatten().filter(child).map(|s| s.key.ix).collect();
            let message = ServerMessage::Admission(admission.clone());
            for ix in children {
                self.send(ix, &message);
            }
        }
        self.door.told(now, admission, ahead_ms);
    }

    /// Reports what this shard carries, and again soon while somebody waits.
    pub(super) fn tell_totals(&mut self, now: Time) {
        let every =
            if self.door.is_busy() { limits::ADMISSION_EVERY } else { limits::TOTALS_EVERY };
        self.totals_due = now + every;
        let (listeners, children) = (self.listeners, self.children);
        // While somebody waits totals are told more often, and hold fewer joins each.
        let passed = now.since(self.totals_told).as_micros().clamp(1_000, 1 << 40);
        let joins = u128::from(std::mem::take(&mut self.joins)) * 1_000_000 / passed;
        let joins = u32::try_from(joins).unwrap_or(u32::MAX);
        self.totals_told = now;
        let shard = self.settings.shard;
        let free = self.free();
        let door = self.door.totals(now, free);
        self.tell(ToControl::Totals { shard, listeners, children, joins, door });
    }

    /// Whether the shard has a place. Newcomers are not given those that are kept for the
    /// listeners of a relay that may die.
    fn has_place(&self, role: Role, returning: bool) -> Result<(), Close> {
        let (door, capacity) = (&self.settings.door, self.settings.capacity);
        let kept = if returning { 0 } else { self.kept() };
        let listeners = self.listeners + self.reserved;
        let full = listeners + self.children >= capacity - kept;
        let most = door.listeners.min(self.egress.bears());
        if full || (role != Role::Relay && listeners >= most) {
            let reason = match kept {
                0 => format!("all {capacity} places of this node are taken"),
                _ => format!("{kept} of {capacity} places are kept for those who return"),
            };
            return Err(Close::new(CloseCode::Full, reason));
        }
        Ok(())
    }

    /// Places that newcomers may still have.
    fn free(&self) -> u32 {
        let listeners = self.listeners + self.reserved;
        let here = (self.settings.capacity - self.kept()).saturating_sub(listeners + self.children);
        let most = self.settings.door.listeners.min(self.egress.bears());
        let free = here.min(most.saturating_sub(listeners));
        if self.draining || self.settings.door.stage_only { 0 } else { free }
    }

    /// Places that are kept for those who return.
    fn kept(&self) -> u32 {
        let kept = self.siblings.headroom.div_ceil(u32::from(self.settings.shards.max(1)));
        kept.min(self.settings.capacity)
    }

    /// Reads the ticket that a hello shows: it has to be good, its bearer's own, and for this node,
    /// or for one that is gone.
    fn ticket(
        &mut self,
        now: Time,
        hello: &Hello,
        claims: Option<&Claims>,
        text: &Secret,
    ) -> Result<Ticket, Close> {
        let unix_s = self.door.origin_s(now);
        let seen = read(&mut self.passes, &self.verifier, &text.0, &hello.room, unix_s);
        let bearer = bearer_of(hello, claims);
        let seen = seen.and_then(|ticket| {
            ticket.check_bearer(bearer.as_deref())?;
            let lives = |relay: &Alternate| relay.relay == ticket.place;
            let elsewhere = ticket.place != self.settings.name;
            // Nobody who waits at a relay is sent to the origin: it exchanges no relay's tickets.
            let origin = self.settings.signer.is_some();
            if elsewhere && (origin || self.siblings.relays.iter().any(lives)) {
                return Err(TicketError::Place(ticket.place));
            }
            Ok(ticket)
        });
        match seen {
            Err(error) => {
                self.stats.drop_bad_ticket += 1;
                Err(error.into())
            }
            Ok(ticket) => {
                self.stats.tickets_exchanged += u64::from(ticket.place != self.settings.name);
                Ok(ticket)
            }
        }
    }

    fn newcomer(&mut self, now: Time, role: Role, comer: Comer<'_>) -> Result<Entry, Close> {
        let place = self.has_place(role, false).is_ok();
        let number = comer.ticket.as_ref().and_then(Ticket::number);
        let waited = comer.ticket.as_ref().is_some_and(|ticket| ticket.waits);
        let verdict = match &comer.ticket {
            Some(ticket) => self.door.holder(now, ticket, place),
            None => self.door.newcomer(now, place),
        };
        match (verdict, number) {
            (Verdict::Admit, None) => Ok(Entry::Now),
            (Verdict::Admit, Some(number)) => Ok(Entry::Redeem(number, waited)),
            (Verdict::Redirect(at), number) => {
                let to = self.siblings.relays.get(at).cloned();
                let Some(to) = to else {
                    return Err(Close::new(CloseCode::Full, "no relay has room; come again"));
                };
                let ticket = self.ticket_for(now, &comer, &to);
                let redirect = Redirect { to, ticket };
                match number {
                    Some(number) => Ok(Entry::Elsewhere(number, redirect)),
                    None => Err(self.sent_elsewhere(comer.ix, redirect)),
                }
            }
            (Verdict::Wait(wait), _) => Err(self.waits(now, comer, wait)),
        }
    }

    /// Sends somebody to another relay.
    fn sent_elsewhere(&mut self, ix: SessionIx, redirect: Redirect) -> Close {
        self.stats.redirected += 1;
        let reason = format!("{} has room", redirect.to.relay);
        let Redirect { to, ticket } = redirect;
        self.send(ix, &ServerMessage::Redirect { relays: vec![to], ticket });
        Close::new(CloseCode::Redirect, reason)
    }

    /// Tells somebody to wait, with a ticket that says since when.
    fn waits(&mut self, now: Time, comer: Comer<'_>, wait: Wait) -> Close {
        self.stats.waited += 1;
        let (unix_s, name) = (self.door.origin_s(now), self.settings.name.clone());
        let former = comer.ticket;
        let counted = former.as_ref().is_some_and(|ticket| ticket.waits);
        let arrival_ms = former.as_ref().map_or(self.door.origin_ms(now), |t| t.arrival_ms);
        let fresh = |ticket: &Ticket| {
            ticket.waits
                && ticket.place == name
                && unix_s < ticket.iat.saturating_add(limits::TICKET_RENEW_S)
        };
        let ticket = match &former {
            Some(ticket) if fresh(ticket) => comer.shown.cloned(),
            _ => {
                let jti = former.as_ref().map(|ticket| ticket.jti.clone());
                let moved = former.as_ref().map_or(0, |ticket| ticket.moved);
                self.sign(now, comer.room, comer.bearer, |ticket| {
                    ticket.arrival_ms = arrival_ms;
                    // A renewed ticket is the same one: it is used once.
                    ticket.jti = jti.unwrap_or_else(|| ticket.jti.clone());
                    ticket.waits = true;
                    ticket.moved = moved;
                })
            }
        };
        match &ticket {
            Some(_) if !counted => {
                if !self.door.is_busy() {
                    // The origin is to hear of it at once.
                    self.totals_due = self.totals_due.min(now + limits::ADMISSION_EVERY);
                }
                self.door.issued(now, arrival_ms);
            }
            Some(_) => {}
            None => self.stats.waited_without_ticket += 1,
        }
        let millis =
            |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let waiting = Waiting {
            ticket,
            place: wait.place,
            waiting: wait.waiting,
            retry_ms: u32::try_from(wait.retry.as_millis()).unwrap_or(u32::MAX),
            arrival_ms,
            eta_ms: wait.eta.map(millis),
        };
        self.send(comer.ix, &ServerMessage::Waiting(waiting));
        let reason = format!("number {} of those who wait; come again as told", wait.place);
        Close::new(CloseCode::Waiting, reason)
    }

    /// A ticket for somebody who is sent to another relay: with the same time of arrival, and a name
    /// of its own, for the former one is spent.
    fn ticket_for(&mut self, now: Time, comer: &Comer<'_>, to: &Alternate) -> Option<Secret> {
        let arrival_ms = comer.ticket.as_ref().map_or(self.door.origin_ms(now), |t| t.arrival_ms);
        let waits = comer.ticket.as_ref().is_some_and(|ticket| ticket.waits);
        let unix_s = self.door.origin_s(now);
        self.sign(now, comer.room, comer.bearer.clone(), |ticket| {
            ticket.arrival_ms = arrival_ms;
            ticket.place.clone_from(&to.relay);
            ticket.waits = waits;
            ticket.moved = unix_s;
        })
    }

    /// Signs a ticket for `bearer`; none where the node has no key, or the bearer no proof.
    fn sign(
        &mut self,
        now: Time,
        room: &str,
        bearer: Option<String>,
        say: impl FnOnce(&mut Ticket),
    ) -> Option<Secret> {
        let iat = self.door.origin_s(now);
        let name = self.settings.name.clone();
        let mut ticket = Ticket {
            room: room.to_owned(),
            sub: bearer?,
            arrival_ms: 0,
            place: name.clone(),
            jti: format!("{:016x}", self.door.number()),
            iat,
            exp: iat.saturating_add(limits::TICKET_S),
            by: name,
            waits: false,
            moved: 0,
        };
        say(&mut ticket);
        let text = match (&self.settings.signer, &self.settings.pass_key) {
            (Some(signer), _) => ticket.by_origin(signer).ok(),
            (None, Some(key)) => ticket.by_relay(key, self.siblings.certificate.as_ref()?).ok(),
            (None, None) => None,
        };
        text.filter(|text| text.len() <= limits::TICKET_BYTES).map(Secret)
    }
}

fn bearer_of(hello: &Hello, claims: Option<&Claims>) -> Option<String> {
    let identity = claims.map(|claims| claims.sub.as_str());
    bearer(identity, hello.client_key.as_ref().map(|key| key.0.as_str()))
}
