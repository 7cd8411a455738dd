//! A listener before the door: it waits as told, or goes where it is sent (`docs/PROTOCOL.md`
//! section 3.14).

use std::time::Duration;

use super::{HomeId, Listen, ListenAction};
use crate::wire::{Alternate, CloseCode, Secret, Waiting};
use crate::{Time, limits};

/// Where a listener stands in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuePlace {
    /// The relay that said so (`host:port`).
    pub address: String,
    /// The number in the queue, from 1.
    pub place: u64,
    /// Those who wait.
    pub waiting: u64,
    /// When the listener comes again.
    pub retry: Duration,
    /// How long it is expected to take, if the relay can tell.
    pub eta: Option<Duration>,
}

/// What a listener knows of the queue.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    ticket: Option<Secret>,
    /// Where the ticket is redeemed.
    place: Option<String>,
    /// Where the next attempt goes, instead of the next of the relays that are known.
    next: Option<String>,
    /// Redirects since the last word on a place in the queue.
    redirects: u8,
    answered: bool,
}

impl Queue {
    /// Whoever comes with a ticket shows it at the first of the entries.
    pub(super) fn new(entries: &[String], ticket: Option<Secret>) -> Self {
        let fits = |ticket: &Secret| ticket.0.len() <= limits::TICKET_BYTES;
        let ticket = ticket.filter(fits);
        let place = entries.first().filter(|_| ticket.is_some()).cloned();
        Self { ticket, place, ..Self::default() }
    }

    pub(super) fn ticket(&self) -> Option<Secret> {
        self.ticket.clone()
    }

    pub(super) fn place(&self) -> Option<&str> {
        self.place.as_deref()
    }

    pub(super) fn next(&mut self) -> Option<String> {
        self.next.take()
    }

    /// Whether some relay has told the listener to wait or to go elsewhere.
    pub(super) const fn has_answered(&self) -> bool {
        self.answered
    }

    /// The listener is inside.
    pub(super) fn leave(&mut self) {
        *self = Self::default();
    }

    fn keep(&mut self, address: &str, ticket: Option<Secret>) {
        self.answered = true;
        self.place = Some(address.to_owned());
        let fits = |ticket: &Secret| ticket.0.len() <= limits::TICKET_BYTES;
        self.ticket = ticket.filter(fits);
        self.next = Some(address.to_owned());
    }
}

impl Listen {
    /// A relay has no place yet. Whoever is moving tries the other relays first; whoever is outside
    /// comes again when it was told.
    pub(super) fn told_to_wait(&mut self, now: Time, home: HomeId, waiting: Waiting) {
        let Some(address) = self.turned_away(home) else { return };
        self.stats.waited += 1;
        let moves = self.current.is_some() || self.reception.is_some();
        let Some(moving) = &mut self.moving else { return };
        moving.since = now;
        self.queue.keep(&address, waiting.ticket);
        self.queue.redirects = 0;
        if moves {
            self.queue.next = None;
            return moving.refused(None);
        }
        let retry = Duration::from_millis(waiting.retry_ms.into());
        let retry = retry.clamp(limits::RETRY_LEAST, 2 * limits::RETRY_MOST);
        let retry = retry + self.random.up_to((retry / 16).min(limits::RETRY_JITTER));
        moving.next = now + retry;
        let eta = waiting.eta_ms.map(Duration::from_millis);
        let (place, waiting) = (waiting.place, waiting.waiting);
        let place = QueuePlace { address, place, waiting, retry, eta };
        self.actions.push_back(ListenAction::Waiting(place));
    }

    /// A relay names another one that has room.
    pub(super) fn sent_elsewhere(
        &mut self,
        now: Time,
        home: HomeId,
        relays: Vec<Alternate>,
        ticket: Option<Secret>,
    ) {
        if self.turned_away(home).is_none() {
            return;
        }
        self.stats.redirected += 1;
        let Some(moving) = &mut self.moving else { return };
        let fits = |s: &str| !s.is_empty() && s.len() <= limits::NAME_BYTES;
        let sound = relays.into_iter().next().filter(|relay| fits(&relay.address));
        let Some(relay) = sound.filter(|_| self.queue.redirects < limits::REDIRECTS) else {
            return moving.refused(None);
        };
        self.queue.redirects += 1;
        self.queue.keep(&relay.address, ticket);
        moving.since = now;
        moving.next = now;
    }

    /// A ticket was refused: the listener comes without one, after a moment.
    pub(super) fn ticket_refused(&mut self, now: Time) {
        self.stats.attempts_failed += 1;
        let place = self.queue.place.take();
        self.queue.ticket = None;
        let Some(moving) = &mut self.moving else { return };
        if self.current.is_none() && self.reception.is_none() {
            self.queue.next = place;
            moving.next = now + limits::RETRY_LEAST + self.random.up_to(limits::RETRY_SPREAD);
        } else {
            moving.refused(None);
        }
    }

    /// Leaves a session that has turned the listener away; its address.
    fn turned_away(&mut self, home: HomeId) -> Option<String> {
        let address = self.home(home).map(|home| home.address.clone())?;
        self.drop_home(home);
        self.actions.push_back(ListenAction::Leave { home });
        Some(address)
    }
}

/// Whether a close says that the ticket is no good.
pub(super) const fn refuses_ticket(code: CloseCode) -> bool {
    matches!(
        code,
        CloseCode::TicketInvalid
            | CloseCode::TicketExpired
            | CloseCode::TicketIdentity
            | CloseCode::TicketSpent
            | CloseCode::TicketPlace
    )
}
