//! The HTTP door: relays to go to for whoever may come in, a place in the queue for the rest
//! (`docs/PROTOCOL.md` section 3.14).

use std::collections::BTreeMap;

use super::OriginControl;
use crate::admission::{Door, DoorSettings, DoorTotals, Ticket, Verdict, Wait, bearer, read};
use crate::pass::PassVerifier;
use crate::token::Verifier;
use crate::wire::{Admission, Alternate, Close, CloseCode, Load, Secret, Waiting};
use crate::{Time, limits};

/// The origin's own door for those who ask by HTTP, and what it verifies tickets with.
pub(super) struct Entrance {
    door: Door,
    verifier: Verifier,
    certificates: PassVerifier,
    /// By relay: newcomers sent there in the present and in the former half of
    /// [`limits::REDIRECT_MEMORY`], for its own report comes later.
    sent: BTreeMap<String, [u32; 2]>,
    turned: Time,
}

/// Somebody who asks to come in by HTTP.
#[derive(Clone, Debug)]
pub struct Asking {
    /// The room.
    pub room: String,
    /// The identity in the token that is minted for, or was shown by, whoever asks.
    pub identity: String,
    /// The ticket of the last time, if any.
    pub ticket: Option<String>,
    /// Relays that are wanted at most.
    pub most: usize,
    /// Randomness, another for each who asks.
    pub seed: u64,
}

/// What whoever asks is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Where to go, with a ticket for the first of them if there was a queue. No relays: the tree has
    /// none, and the origin itself is the place.
    GoTo {
        /// Relays with room, drawn by how much.
        relays: Vec<Alternate>,
        /// For the first of them, or for the origin.
        ticket: Option<Secret>,
    },
    /// To come again later.
    Wait(Waiting),
}

/// The number under which the HTTP door reports, besides the shards.
const HTTP_DOOR: u16 = u16::MAX;

impl Entrance {
    pub(super) fn new(
        now: Time,
        keys: &[(String, String)],
        unix_us_at_zero: u64,
        on: bool,
    ) -> Self {
        // Who is sent to a relay is charged there.
        let settings = DoorSettings { on, ..DoorSettings::default() };
        let seed = unix_us_at_zero ^ u64::from(HTTP_DOOR);
        Self {
            door: Door::new(settings, 1, unix_us_at_zero, seed, now),
            verifier: Verifier::from_published(keys),
            certificates: PassVerifier::default(),
            sent: BTreeMap::new(),
            turned: now,
        }
    }

    /// Somebody goes to a relay.
    fn sent_to(&mut self, relay: &str) {
        self.sent.entry(relay.to_owned()).or_default()[0] += 1;
    }

    /// Forgets whom the relays' own reports hold by now.
    fn turn(&mut self, now: Time) {
        let half = limits::REDIRECT_MEMORY / 2;
        if now.since(self.turned) < half {
            return;
        }
        let long = now.since(self.turned) >= 2 * half;
        self.sent.retain(|_, sent| {
            *sent = [0, if long { 0 } else { sent[0] }];
            sent[1] > 0
        });
        self.turned = now;
    }

    pub(super) fn set_clock(&mut self, unix_us_at_zero: u64) {
        self.door.set_clock(unix_us_at_zero, true);
    }

    pub(super) fn told(&mut self, now: Time, admission: &Admission) {
        self.door.told(now, admission.clone(), 0);
    }
}

impl OriginControl {
    /// Decides about somebody who asks to come in by HTTP: while nobody waits, or when the ticket has
    /// been called, the relays to go to; else a place in the queue.
    ///
    /// # Errors
    /// A ticket that is forged, expired, spent, another's or another place's, by its close code.
    pub fn ask_in(&mut self, now: Time, asking: &Asking) -> Result<Answer, Close> {
        let ticket = match &asking.ticket {
            Some(text) => Some(self.entrance_ticket(now, asking, text)?),
            None => None,
        };
        let verdict = match &ticket {
            Some(ticket) => self.entrance.door.holder(now, ticket, true),
            None => self.entrance.door.newcomer(now, true),
        };
        match verdict {
            Verdict::Wait(wait) => Ok(Answer::Wait(self.entrance_wait(now, asking, ticket, wait))),
            Verdict::Admit | Verdict::Redirect(_) => self.entrance_open(now, asking, ticket),
        }
    }

    /// Relays for somebody who comes in: at most `most`, drawn by the places that they have for newcomers
    /// less those who were sent there of late; where none has any, by their size, and people wait there.
    /// Empty where the tree has no relay: then the origin itself is the place to go to.
    #[must_use]
    pub fn entrances(&self, most: usize, seed: u64) -> Vec<Alternate> {
        let sent = |id: &str| self.entrance.sent.get(id).map_or(0, |sent| sent[0] + sent[1]);
        let room = |id: &str, load: &Load, free: u32| {
            let free = load.door.map_or(free, |door| door.free);
            free.saturating_sub(sent(id))
        };
        let relays = self.planner.entrances(most, seed, room);
        if !relays.is_empty() {
            return relays;
        }
        let size = |_: &str, load: &Load, free: u32| {
            free.saturating_add(load.listeners).saturating_add(load.children).max(1)
        };
        self.planner.entrances(most, seed, size)
    }

    /// How far the queue has been called, for the public document.
    #[must_use]
    pub fn queue(&self, now: Time) -> Admission {
        self.watermark.document(self.unix_ms(now))
    }

    fn entrance_ticket(&mut self, now: Time, asking: &Asking, text: &str) -> Result<Ticket, Close> {
        let unix_s = self.unix_ms(now) / 1_000;
        let Entrance { verifier, certificates, .. } = &mut self.entrance;
        let ticket = read(certificates, verifier, text, &asking.room, unix_s)?;
        ticket.check_bearer(bearer(Some(&asking.identity), None).as_deref())?;
        let lives = self.sessions.contains_key(&ticket.place);
        if lives && ticket.place != self.settings.name {
            let reason = format!("the ticket is for the relay {}; go there", ticket.place);
            return Err(Close::new(CloseCode::TicketPlace, reason));
        }
        Ok(ticket)
    }

    fn entrance_open(
        &mut self,
        now: Time,
        asking: &Asking,
        ticket: Option<Ticket>,
    ) -> Result<Answer, Close> {
        self.entrance.turn(now);
        let relays = self.entrances(asking.most, asking.seed);
        if let Some(first) = relays.first() {
            self.entrance.sent_to(&first.relay);
        }
        let Some(former) = ticket else { return Ok(Answer::GoTo { relays, ticket: None }) };
        let unix_s = self.unix_ms(now) / 1_000;
        let number = former.number().unwrap_or_default();
        self.redeem_ticket(unix_s, number)?;
        let place = relays.first().map_or(self.settings.name.clone(), |relay| relay.relay.clone());
        let ticket = self.entrance_sign(now, asking, |ticket| {
            ticket.arrival_ms = former.arrival_ms;
            ticket.waits = former.waits;
            ticket.place = place;
            ticket.moved = unix_s;
        });
        Ok(Answer::GoTo { relays, ticket })
    }

    fn entrance_wait(
        &mut self,
        now: Time,
        asking: &Asking,
        former: Option<Ticket>,
        wait: Wait,
    ) -> Waiting {
        let now_ms = self.unix_ms(now);
        let arrival_ms = former.as_ref().map_or(now_ms, |ticket| ticket.arrival_ms);
        let counted = former.as_ref().is_some_and(|ticket| ticket.waits);
        let jti = former.map(|ticket| ticket.jti);
        let ticket = self.entrance_sign(now, asking, |ticket| {
            ticket.arrival_ms = arrival_ms;
            // The same one, renewed: it is used once.
            ticket.jti = jti.unwrap_or_else(|| ticket.jti.clone());
            ticket.waits = true;
        });
        if !counted && ticket.is_some() {
            self.entrance.door.issued(now, arrival_ms);
            let totals = DoorTotals { free: 0, ..self.entrance.door.totals(now, 0) };
            self.doors.insert(HTTP_DOOR, totals);
            self.own_door(now);
        }
        Waiting {
            ticket,
            place: wait.place,
            waiting: wait.waiting,
            retry_ms: u32::try_from(wait.retry.as_millis()).unwrap_or(u32::MAX),
            arrival_ms,
            eta_ms: wait.eta.map(|eta| u64::try_from(eta.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    fn entrance_sign(
        &mut self,
        now: Time,
        asking: &Asking,
        say: impl FnOnce(&mut Ticket),
    ) -> Option<Secret> {
        let iat = self.unix_ms(now) / 1_000;
        let name = self.settings.name.clone();
        let mut ticket = Ticket {
            room: asking.room.clone(),
            sub: bearer(Some(&asking.identity), None)?,
            arrival_ms: 0,
            place: name.clone(),
            jti: format!("{:016x}", self.entrance.door.number()),
            iat,
            exp: iat.saturating_add(limits::TICKET_S),
            by: name,
            waits: false,
            moved: 0,
        };
        say(&mut ticket);
        let text = ticket.by_origin(self.settings.signer.as_ref()?).ok()?;
        (text.len() <= limits::TICKET_BYTES).then_some(Secret(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fanout::SessionIx;
    use crate::node::OriginSettings;
    use crate::node::messages::ToControl;
    use crate::session::SessionKey;
    use crate::token::{Signer, private_pem};
    use crate::tree::PlannerSettings;
    use crate::wire::{DoorLoad, RelayInfo};

    fn origin(now: Time) -> OriginControl {
        let signer = Signer::from_pkcs8_pem(&private_pem([1; 32]), None).unwrap();
        let settings = OriginSettings {
            name: "origin".into(),
            rooms: Vec::new(),
            first_use: None,
            planner: PlannerSettings::default(),
            epoch: 1,
            capacity: 100,
            keys: vec![signer.published()],
            signer: Some(signer),
            unix_us_at_zero: 1_700_000_000_000_000,
            joins_per_s: Some(100),
        };
        OriginControl::new(settings, now).unwrap()
    }

    fn ask(ticket: Option<&Secret>) -> Asking {
        Asking {
            room: "hall".into(),
            identity: "guest-1".into(),
            ticket: ticket.map(|ticket| ticket.0.clone()),
            most: 2,
            seed: 1,
        }
    }

    fn report(origin: &mut OriginControl, now: Time, sequence: u64, arrivals: Vec<(u64, u64)>) {
        let session = SessionKey { shard: 0, ix: SessionIx(1), generation: 1 };
        let door = Some(DoorLoad { free: 100, joins_per_s: 2, admitted: 0 });
        let parents = vec![crate::tree::ORIGIN.to_owned()];
        let load = Load { incarnation: 1, sequence, arrivals, door, parents, ..Load::default() };
        origin.handle_message(now, ToControl::RelayLoad { session, load });
    }

    #[test]
    fn who_asks_by_http_waits_with_the_others_and_is_sent_to_a_relay() {
        let mut now = Time::ZERO;
        let mut origin = origin(now);
        let session = SessionKey { shard: 0, ix: SessionIx(1), generation: 1 };
        let info: RelayInfo = serde_json::from_str(
            r#"{"id":"edge-1","address":"192.0.2.1:4433","capacity":1000,"incarnation":1}"#,
        )
        .unwrap();
        origin.handle_message(now, ToControl::RelayJoin { session, info });
        report(&mut origin, now, 1, Vec::new());
        let Ok(Answer::GoTo { relays, ticket: None }) = origin.ask_in(now, &ask(None)) else {
            panic!("nobody waits")
        };
        assert_eq!(relays[0].relay, "edge-1");
        // A crowd has come to the relay.
        let second = origin.unix_ms(now) / 1_000;
        report(&mut origin, now, 2, vec![(second, 20)]);
        now += limits::ADMISSION_EVERY;
        origin.handle_timeout(now);
        let Ok(Answer::Wait(told)) = origin.ask_in(now, &ask(None)) else { panic!("they wait") };
        assert!(told.place > 1 && told.waiting >= 19, "{told:?}");
        let ticket = told.ticket.unwrap();
        assert_eq!((told.waiting, origin.watermark.waiting()), (20, 21), "they are counted");
        let other = Asking { identity: "guest-2".into(), ..ask(Some(&ticket)) };
        assert_eq!(origin.ask_in(now, &other).unwrap_err().code, CloseCode::TicketIdentity);
        for sequence in 3..100 {
            now += limits::ADMISSION_EVERY;
            let door = vec![(second, 20)];
            report(&mut origin, now, sequence, door);
            origin.handle_timeout(now);
        }
        let Ok(Answer::GoTo { ticket: Some(next), .. }) = origin.ask_in(now, &ask(Some(&ticket)))
        else {
            panic!("it has been called")
        };
        assert_eq!(
            origin.ask_in(now, &ask(Some(&ticket))).unwrap_err().code,
            CloseCode::TicketSpent
        );
        assert_eq!(origin.ask_in(now, &ask(Some(&next))).unwrap_err().code, CloseCode::TicketPlace);
    }

    #[test]
    fn a_burst_is_shared_out_by_room_before_any_report_and_full_relays_are_still_named() {
        let now = Time::ZERO;
        let mut origin = origin(now);
        for (n, free) in [(1, 100), (2, 100), (3, 200), (4, 0)] {
            let session = SessionKey { shard: 0, ix: SessionIx(n), generation: 1 };
            let info: RelayInfo = serde_json::from_str(&format!(
                r#"{{"id":"edge-{n}","address":"192.0.2.{n}:4433","capacity":1000,"incarnation":1}}"#
            ))
            .unwrap();
            origin.handle_message(now, ToControl::RelayJoin { session, info });
            let door = Some(DoorLoad { free, joins_per_s: 1_000, admitted: 0 });
            let parents = vec![crate::tree::ORIGIN.to_owned()];
            let load = Load { incarnation: 1, sequence: 1, door, parents, ..Load::default() };
            origin.handle_message(now, ToControl::RelayLoad { session, load });
        }
        let mut sent = BTreeMap::<String, u32>::new();
        for place in 0..400 {
            let asking = Asking { seed: crate::random::Random::at(7, place), ..ask(None) };
            let Ok(Answer::GoTo { relays, .. }) = origin.ask_in(now, &asking) else { panic!() };
            *sent.entry(relays[0].relay.clone()).or_default() += 1;
        }
        let counts: Vec<u32> = sent.values().copied().collect();
        assert_eq!(counts, [100, 100, 200], "each as many as it has room for");
        let asking = Asking { seed: 9, ..ask(None) };
        let Ok(Answer::GoTo { relays, .. }) = origin.ask_in(now, &asking) else { panic!() };
        assert_eq!(relays.len(), 2, "there are relays, and people wait at them");
    }
}
