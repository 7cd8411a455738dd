//! From one relay to another: make before break.

use std::time::Duration;

use super::{Home, HomeId, Listen, ListenAction, MoveCause, is_final};
use crate::wire::{Close, CloseCode};
use crate::{Time, limits};

/// A listener that looks for a relay.
#[derive(Clone)]
pub(super) struct Moving {
    /// Why; `None` for the first join.
    pub(super) cause: Option<MoveCause>,
    /// Since when nobody has answered.
    pub(super) since: Time,
    /// When the next attempt may begin.
    pub(super) next: Time,
    /// Attempts of this round so far.
    tried: usize,
    round: u32,
    /// What the last one that refused said, and whether all of the round did so for good.
    refusal: Option<Close>,
    refused_for_good: usize,
}

impl Moving {
    pub(super) fn join(now: Time) -> Self {
        Self { cause: None, ..Self::leave(now, now, MoveCause::Lost) }
    }

    pub(super) fn leave(now: Time, at: Time, cause: MoveCause) -> Self {
        Self {
            cause: Some(cause),
            since: now,
            next: at,
            tried: 0,
            round: 0,
            refusal: None,
            refused_for_good: 0,
        }
    }

    /// Another reason to move came up: it begins as soon as either says.
    pub(super) fn hurry(&mut self, at: Time, cause: MoveCause) {
        if self.tried == 0 {
            self.next = self.next.min(at);
        }
        // A session that is lost cannot be heard again.
        if self.cause == Some(MoveCause::Silent) || cause == MoveCause::Lost {
            self.cause = self.cause.map(|_| cause);
        }
    }

    /// An attempt came to nothing: the next one need not wait.
    pub(super) fn refused(&mut self, close: Option<Close>) {
        self.next = Time::ZERO;
        self.refused_for_good += usize::from(close.as_ref().is_some_and(|c| is_final(c.code)));
        self.refusal = close.or(self.refusal.take());
    }

    /// When [`Listen::try_next`] has something to do.
    pub(super) fn due(&self, attempts: usize) -> Time {
        let give_up = self.since + limits::REHOME_GIVE_UP;
        if attempts >= limits::REHOME_ATTEMPTS { give_up } else { self.next.min(give_up) }
    }
}

impl Listen {
    pub(super) fn add_home(&mut self, now: Time, address: String) -> HomeId {
        let id = HomeId(self.next_home);
        self.next_home += 1;
        let (feed, probed, newest, early) = (None, false, 0, Vec::new());
        self.homes.push(Home { id, address, opened: now, feed, probed, newest, early });
        id
    }

    /// Forgets a session; its feed is not waited for.
    pub(super) fn drop_home(&mut self, id: HomeId) {
        let Some(at) = self.homes.iter().position(|home| home.id == id) else { return };
        let home = self.homes.remove(at);
        if let (Some(feed), Some(reception)) = (home.feed, self.reception.as_mut()) {
            reception.set_feed(feed, false);
        }
    }

    /// Leaves the sessions that do not serve the listener.
    pub(super) fn leave_attempts(&mut self) {
        let ids: Vec<HomeId> = self.attempts().map(|home| home.id).collect();
        for home in ids {
            self.drop_home(home);
            self.actions.push_back(ListenAction::Leave { home });
        }
    }

    /// Gives up attempts that hang.
    pub(super) fn give_attempts_up(&mut self, now: Time) {
        let over = |home: &&Home| now >= home.opened + limits::REHOME_ATTEMPT;
        let hung: Vec<HomeId> = self.attempts().filter(over).map(|home| home.id).collect();
        for home in hung {
            self.drop_home(home);
            self.stats.attempts_failed += 1;
            self.actions.push_back(ListenAction::Leave { home });
            if let Some(moving) = &mut self.moving {
                moving.refused(None);
            }
        }
    }

    /// Goes over to an attempt that plays: it has been welcomed, and it knows of the newest tick or
    /// nearly so. A relay that is starved itself does not take over from one that is not.
    pub(super) fn switch(&mut self, now: Time) {
        let newest = self.newest();
        // Before its first datagram a session plays nothing, unless there is nothing to play.
        let plays = |home: &&Home| {
            home.feed.is_some()
                && (home.newest > 0 || newest == 0)
                && home.newest.saturating_add(limits::REHOME_BEHIND) >= newest
        };
        let doubtful = |moving: &Moving| moving.cause == Some(MoveCause::Silent);
        if self.moving.as_ref().is_some_and(doubtful) && now < self.silence.silent_at() {
            return;
        }
        // A starved relay that answers is better than one that does not.
        let silent = self.moving.as_ref().is_some_and(|m| m.cause == Some(MoveCause::Silent));
        let waited = |home: &&Home| {
            silent && home.feed.is_some() && now >= home.opened + limits::REHOME_STARVED
        };
        let found = self.attempts().find(|home| plays(home) || waited(home)).map(|home| home.id);
        if let Some(home) = found {
            self.arrive(now, home);
        }
    }

    /// The session serves the listener from here on.
    pub(super) fn arrive(&mut self, now: Time, id: HomeId) {
        let former = self.current.replace(id);
        if let Some(home) = former.filter(|&former| former != id) {
            self.drop_home(home);
            self.actions.push_back(ListenAction::Leave { home });
        }
        self.leave_attempts();
        self.silence.restart(now);
        self.probes = 0;
        self.queue.leave();
        let Some(cause) = self.moving.take().and_then(|moving| moving.cause) else { return };
        match cause {
            MoveCause::Silent => self.stats.moved_silent += 1,
            MoveCause::Lost => self.stats.moved_lost += 1,
            MoveCause::Asked => self.stats.moved_asked += 1,
        }
        let address = self.home(id).map(|home| home.address.clone()).unwrap_or_default();
        self.actions.push_back(ListenAction::Moved { address, cause });
    }

    /// Begins the next attempt when its time has come: alternates first, then the entries.
    pub(super) fn try_next(&mut self, now: Time) {
        let attempts = self.attempts().count();
        let Some(moving) = &mut self.moving else { return };
        if now >= moving.since + limits::REHOME_GIVE_UP {
            let reason = "no relay has taken this listener back; join again";
            let close = moving.refusal.take();
            return self.end(close.unwrap_or_else(|| Close::new(CloseCode::NoParent, reason)));
        }
        if now < moving.next || attempts >= limits::REHOME_ATTEMPTS {
            return;
        }
        if let Some(address) = self.queue.next() {
            moving.tried = 0;
            return self.attempt(now, address);
        }
        let (round, tried) = (moving.round, moving.tried);
        match self.targets(round).into_iter().nth(tried) {
            Some(address) => self.attempt(now, address),
            // The round ends when its last attempt has.
            None if attempts == 0 => self.end_round(now),
            None => {
                if let Some(moving) = &mut self.moving {
                    moving.next = now + limits::REHOME_NEXT;
                }
            }
        }
    }

    fn attempt(&mut self, now: Time, address: String) {
        if let Some(moving) = &mut self.moving {
            moving.tried += 1;
            moving.next = now + limits::REHOME_NEXT;
        }
        if self.homes.iter().any(|home| home.address == address) {
            // It is being tried already; the next one is.
            if let Some(moving) = &mut self.moving {
                moving.next = now;
            }
            return self.try_next(now);
        }
        let home = self.add_home(now, address.clone());
        self.stats.attempts += 1;
        let hello = crate::wire::Hello {
            last: self.reception.as_ref().and_then(crate::receive::Reception::last),
            pass: self.pass.clone(),
            ticket: self.queue.ticket(),
            ..self.settings.hello.clone()
        };
        self.actions.push_back(ListenAction::Connect { home, address, hello: Box::new(hello) });
    }

    /// Every relay that is known has been tried.
    fn end_round(&mut self, now: Time) {
        let (targets, outside) = (self.targets(1).len(), self.current.is_none());
        let Some(moving) = &mut self.moving else { return };
        let all_for_good = moving.tried > 0 && moving.refused_for_good == moving.tried;
        // Whoever was told to wait is known here, and goes on.
        let joining = moving.cause.is_none() && !self.queue.has_answered();
        let nowhere = targets == 0 && outside;
        if joining || all_for_good || nowhere {
            let close = moving.refusal.take().unwrap_or_else(|| {
                Close::new(CloseCode::NoParent, "no relay could be reached; check the address")
            });
            return self.end(close);
        }
        let doubled = limits::REHOME_PAUSE * 2_u32.saturating_pow(moving.round.min(8));
        let most = doubled.min(limits::REHOME_PAUSE_MOST);
        let pause: Duration = most / 2 + self.random.up_to(most / 2);
        moving.round = moving.round.saturating_add(1);
        moving.tried = 0;
        moving.refused_for_good = 0;
        moving.next = now + pause;
    }

    /// Where to try, in order: the alternates, then the entries. In the first round the relay that
    /// is being left is not among them.
    fn targets(&self, round: u32) -> Vec<String> {
        let current = self.current.and_then(|id| self.home(id)).map(|home| home.address.as_str());
        let named = self.alternates.iter().map(|alternate| alternate.address.as_str());
        let entries = self.settings.entries.iter().map(String::as_str);
        let mut targets: Vec<String> = Vec::new();
        for address in self.queue.place().into_iter().chain(named).chain(entries) {
            let left = round == 0 && current == Some(address);
            if !left && !targets.iter().any(|known| known == address) {
                targets.push(address.to_owned());
            }
        }
        targets
    }
}
