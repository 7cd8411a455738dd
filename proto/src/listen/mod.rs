//! A listener's side of its sessions: it joins, notices when its relay falls silent, and goes to
//! another without losing a tick (`docs/PROTOCOL.md` sections 6.7 and 6.9).
//!
//! ```text
//!            welcome                 silent, lost or asked to move           plays
//!   joining ────────▶ on one relay ───────────────────────────────▶ moving ───────▶ on another
//!                          ▲                 heard again              │
//!                          └──────────────────────────────────────────┘
//! ```

mod alike;
mod moving;
mod queue;
mod report;
mod silence;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

pub use self::alike::Own;
use self::moving::Moving;
pub use self::queue::QueuePlace;
use self::queue::{Queue, refuses_ticket};
pub use self::report::Played;
use self::report::Reporter;
use self::silence::Silence;
use crate::random::Random;
use crate::receive::{FeedIx, Reception, ReceptionStats};
use crate::wire::{
    Alternate, ClientMessage, Close, CloseCode, Framing, Hello, Record, Secret, ServerMessage,
    Side, Subscribed, Welcome, probe_bytes,
};
use crate::{Time, limits};

/// What a listener is told when it starts.
#[derive(Clone, Debug)]
pub struct ListenSettings {
    /// What every hello says; `last` and `pass` are filled in here. A `ticket`, as the HTTP door gives it,
    /// is for the first of `entries`.
    pub hello: Hello,
    /// Addresses to enter by (`host:port`), the first tried first; [`limits::ENTRIES`] at most.
    pub entries: Vec<String>,
    /// How datagrams lie on the transport.
    pub framing: Framing,
    /// Whether missing ticks are asked for.
    pub repair: bool,
    /// Randomness: it spreads the listeners of a relay that dies.
    pub seed: u64,
}

/// A session that a listener holds or opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HomeId(pub u32);

/// Why a listener goes to another relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveCause {
    /// Nothing came, not even an answer to a probe.
    Silent,
    /// The session ended.
    Lost,
    /// The relay asked for it.
    Asked,
}

/// What a listener asks of its shell.
#[derive(Clone, Debug, PartialEq)]
pub enum ListenAction {
    /// Open a session and say `hello` on it; answer by [`Listen::handle_message`] or
    /// [`Listen::handle_down`].
    Connect {
        /// The session's name from here on.
        home: HomeId,
        /// `host:port`.
        address: String,
        /// The first message.
        hello: Box<Hello>,
    },
    /// Send a datagram.
    SendDatagram {
        /// On which session.
        home: HomeId,
        /// The datagram, its framing's prefix included.
        bytes: Bytes,
    },
    /// Say something on a session's control stream.
    Say {
        /// On which session.
        home: HomeId,
        /// What.
        message: Box<ClientMessage>,
    },
    /// Close a session, or give its opening up. No answer follows.
    Leave {
        /// Which.
        home: HomeId,
    },
    /// Another relay serves the listener from here on.
    Moved {
        /// Its address.
        address: String,
        /// Why.
        cause: MoveCause,
    },
    /// There is no place yet: the listener comes again by itself.
    Waiting(QueuePlace),
    /// The listener is outside for good. Nothing follows.
    Ended(Close),
}

/// What a listener counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenStats {
    /// Moves because a session fell silent, ended, or because the relay asked.
    pub moved_silent: u64,
    /// See above.
    pub moved_lost: u64,
    /// See above.
    pub moved_asked: u64,
    /// Moves that were begun and not needed: the session was heard again.
    pub resumed: u64,
    /// Sessions that were opened, the first included.
    pub attempts: u64,
    /// Of them, those that did not come about.
    pub attempts_failed: u64,
    /// Probes.
    pub probes: u64,
    /// Times that a relay told the listener to wait.
    pub waited: u64,
    /// Times that a relay named another one that has room.
    pub redirected: u64,
    /// Reports of what is heard.
    pub reports: u64,
}

#[derive(Clone)]
struct Home {
    id: HomeId,
    address: String,
    opened: Time,
    /// Set once it is welcomed.
    feed: Option<FeedIx>,
    /// Whether the node answers probes.
    probed: bool,
    /// The newest tick that it spoke of.
    newest: u32,
    /// Datagrams that overtook the welcome.
    early: Vec<Bytes>,
}

/// A listener's sessions and its reception.
///
/// Drive it so: `handle_*` with what came and [`Self::datagram`] with datagrams; after each, drain
/// [`Self::poll_action`]; [`Self::handle_timeout`] at [`Self::poll_timeout`].
#[derive(Clone)]
pub struct Listen {
    settings: ListenSettings,
    /// The one that serves the listener, then those that are tried: one and two at most.
    homes: Vec<Home>,
    current: Option<HomeId>,
    next_home: u32,
    room: Option<Subscribed>,
    reception: Option<Reception>,
    playout: Duration,
    silence: Silence,
    probes: u8,
    probed: Time,
    /// When anything was last handled.
    awake: Time,
    alternates: Vec<Alternate>,
    pass: Option<Secret>,
    queue: Queue,
    moving: Option<Moving>,
    /// Set once the client says what it plays.
    reporter: Option<Reporter>,
    ended: bool,
    actions: VecDeque<ListenAction>,
    random: Random,
    stats: ListenStats,
}

impl Listen {
    /// A listener that is about to join.
    #[must_use]
    pub fn new(settings: ListenSettings, now: Time) -> Self {
        let mut listen = Self::outside(settings, now);
        listen.moving = Some(Moving::join(now));
        listen.try_next(now);
        listen
    }

    /// A listener that the shell has joined to the relay at `address` already; its session is
    /// [`HomeId`] 0.
    #[must_use]
    pub fn joined(settings: ListenSettings, now: Time, address: &str, welcome: Welcome) -> Self {
        let mut listen = Self::outside(settings, now);
        let home = listen.add_home(now, address.to_owned());
        listen.current = Some(home);
        listen.welcomed(now, home, welcome);
        listen
    }

    fn outside(mut settings: ListenSettings, now: Time) -> Self {
        settings.entries.truncate(limits::ENTRIES);
        let queue = Queue::new(&settings.entries, settings.hello.ticket.take());
        Self {
            random: Random::new(settings.seed),
            pass: settings.hello.pass.clone(),
            settings,
            homes: Vec::new(),
            current: None,
            next_home: 0,
            room: None,
            reception: None,
            playout: limits::REPAIR_DEADLINE,
            silence: Silence::new(now, limits::TICK_MS[0]),
            probes: 0,
            probed: now,
            awake: now,
            alternates: Vec::new(),
            queue,
            moving: None,
            reporter: None,
            ended: false,
            actions: VecDeque::new(),
            stats: ListenStats::default(),
        }
    }

    /// Says how long after its turn a tick is played: what would come later is not asked for.
    pub fn set_playout(&mut self, playout: Duration) {
        self.playout = playout;
        if let Some(reception) = &mut self.reception {
            reception.set_playout(playout);
        }
    }

    /// Says how long a round trip of the session that serves the listener takes, as its transport knows:
    /// no other relay is looked for before the answer to a probe can have come.
    pub fn set_round_trip(&mut self, round_trip: Duration) {
        self.silence.set_round_trip(round_trip);
    }

    /// Says what the client plays. From the first call on the listener reports what it hears.
    pub fn set_played(&mut self, now: Time, played: Played) {
        let random = &mut self.random;
        let reporter = self.reporter.get_or_insert_with(|| Reporter::new(now, random));
        reporter.set_played(played);
    }

    /// The person says "I hear a glitch"; the next report tells.
    pub const fn glitch(&mut self) {
        if let Some(reporter) = &mut self.reporter {
            reporter.glitch();
        }
    }

    /// A control message of a session.
    pub fn handle_message(&mut self, now: Time, home: HomeId, message: ServerMessage) {
        if self.home(home).is_none() {
            return;
        }
        let current = self.current == Some(home);
        match message {
            ServerMessage::Welcome(welcome) => self.welcomed(now, home, welcome),
            ServerMessage::Subscribed(room) if current => self.renewed(room),
            ServerMessage::Alternates { alternates } if current => self.told(alternates),
            ServerMessage::Move { alternates, .. } if current => {
                self.told(alternates);
                self.move_at(now, now, MoveCause::Asked);
            }
            ServerMessage::Waiting(waiting) if !current => self.told_to_wait(now, home, waiting),
            ServerMessage::Redirect { relays, ticket } if !current => {
                self.sent_elsewhere(now, home, relays, ticket);
            }
            ServerMessage::Closing { code, reason, .. } => {
                let code = CloseCode::from_code(code.into()).unwrap_or(CloseCode::Internal);
                self.handle_down(now, home, Some(Close::new(code, reason)));
            }
            _ => {}
        }
        self.follow(now);
    }

    /// A datagram of a session, as the transport delivered it. Each tick that is new goes to
    /// `pass` in the order of arrival, with whether it is a replay.
    pub fn datagram(
        &mut self,
        now: Time,
        home: HomeId,
        bytes: Bytes,
        mut pass: impl FnMut(Record, bool),
    ) {
        let Some(at) = self.homes.iter().position(|h| h.id == home) else { return };
        let (Some(feed), Some(reception)) = (self.homes[at].feed, self.reception.as_mut()) else {
            // The welcome goes another way and may be sent again: a replay is not lost to that.
            if self.homes[at].early.len() < limits::EARLY_DATAGRAMS {
                self.homes[at].early.push(bytes);
            }
            return;
        };
        let mut heard = false;
        for bytes in std::mem::take(&mut self.homes[at].early).into_iter().chain([bytes]) {
            if let Some(newest) = reception.feed_datagram(now, feed, bytes, &mut pass) {
                self.homes[at].newest = self.homes[at].newest.max(newest);
                heard = true;
            }
        }
        if !heard {
            return;
        }
        if self.current == Some(home) {
            self.heard(now);
        }
        self.follow(now);
    }

    /// A session has ended or could not be opened: with the other side's close, or without one.
    pub fn handle_down(&mut self, now: Time, home: HomeId, close: Option<Close>) {
        if self.home(home).is_none() {
            return;
        }
        self.drop_home(home);
        if self.current == Some(home) {
            self.current = None;
            match close {
                Some(close) if is_final(close.code) => return self.end(close),
                _ => {
                    // A relay that says goodbye to all leaves them no more time than this.
                    let spread = self.random.up_to(limits::REHOME_SPREAD);
                    self.move_at(now, now + spread, MoveCause::Lost);
                }
            }
        } else if close.as_ref().is_some_and(|close| refuses_ticket(close.code)) {
            self.ticket_refused(now);
        } else {
            self.stats.attempts_failed += 1;
            if let Some(moving) = &mut self.moving {
                moving.refused(close);
            }
        }
        self.follow(now);
    }

    /// Time has come to [`Self::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Time) {
        // The listener itself was asleep: what came meanwhile has not been read yet.
        if now.since(self.awake) > limits::ASLEEP {
            self.silence.restart(now);
        }
        self.give_attempts_up(now);
        self.follow(now);
    }

    /// When [`Self::handle_timeout`] is to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.ended {
            return None;
        }
        let repair = self.reception.as_ref().filter(|_| self.settings.repair);
        let repair = repair.and_then(Reception::poll_timeout);
        let silence = self.current.map(|_| self.silence_due());
        let attempts = self.attempts().map(|home| home.opened + limits::REHOME_ATTEMPT);
        let welcomed = self.attempts().filter(|home| home.feed.is_some());
        let starved = welcomed.map(|home| home.opened + limits::REHOME_STARVED);
        let starved = starved.filter(|&at| at > self.awake);
        let moving = self.moving.as_ref().map(|moving| moving.due(self.attempts().count()));
        // An attempt that plays already takes over as soon as the former session is silent.
        let ready = self.attempts().any(|home| home.feed.is_some());
        let silent = Some(self.silence.silent_at()).filter(|&at| ready && at > self.awake);
        let report = self.reporter.as_ref().filter(|_| self.current.is_some()).map(Reporter::due);
        let attempts = attempts.chain(starved).chain(silent).chain(report);
        repair.into_iter().chain(silence).chain(attempts).chain(moving).min()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<ListenAction> {
        self.actions.pop_front()
    }

    /// The room as the listener was told of it last.
    #[must_use]
    pub const fn room(&self) -> Option<&Subscribed> {
        self.room.as_ref()
    }

    /// The session that serves the listener, if any does.
    #[must_use]
    pub const fn current(&self) -> Option<HomeId> {
        self.current
    }

    /// The relays that the listener may go to.
    #[must_use]
    pub fn alternates(&self) -> &[Alternate] {
        &self.alternates
    }

    /// What was counted.
    #[must_use]
    pub const fn stats(&self) -> ListenStats {
        self.stats
    }

    /// What the reception counted.
    #[must_use]
    pub fn reception(&self) -> ReceptionStats {
        self.reception.as_ref().map(Reception::stats).unwrap_or_default()
    }

    /// The newest tick seen or announced; 0 before the first.
    #[must_use]
    pub fn newest(&self) -> u32 {
        self.reception.as_ref().map_or(0, Reception::newest)
    }

    fn welcomed(&mut self, now: Time, id: HomeId, welcome: Welcome) {
        let Some(room) = welcome.room else {
            // Only a relay is welcomed without a room.
            return self.handle_down(now, id, None);
        };
        let free = |feed: &FeedIx| self.homes.iter().all(|home| home.feed != Some(*feed));
        let Some(feed) = (0..limits::FEEDS).find(free) else { return };
        let Some(home) = self.homes.iter_mut().find(|home| home.id == id) else { return };
        if home.feed.is_some() {
            return;
        }
        home.feed = Some(feed);
        home.probed = welcome.features.iter().any(|feature| feature == "probe");
        self.told(welcome.alternates);
        self.pass =
            welcome.pass.filter(|pass| pass.0.len() <= limits::PASS_BYTES).or(self.pass.take());
        match &mut self.reception {
            Some(reception) => reception.set_feed(feed, true),
            None => {
                let mut reception = Reception::new(self.settings.framing, &room);
                reception.set_playout(self.playout);
                self.reception = Some(reception);
            }
        }
        self.renewed(room);
        if self.current.is_none() {
            self.arrive(now, id);
        }
    }

    fn renewed(&mut self, room: Subscribed) {
        self.silence.set_cadence(room.tick_ms);
        if let Some(reception) = &mut self.reception
            && reception.renew(&room)
        {
            for feed in self.homes.iter().filter_map(|home| home.feed) {
                reception.set_feed(feed, true);
            }
        }
        self.room = Some(room);
    }

    /// Takes a list of alternates, unless it is longer than allowed or holds names that are.
    fn told(&mut self, alternates: Vec<Alternate>) {
        if sound(&alternates) {
            self.alternates = alternates;
        }
    }

    /// The session that serves the listener has brought something.
    fn heard(&mut self, now: Time) {
        let in_time = now < self.silence.silent_at();
        self.silence.heard(now);
        self.probes = 0;
        let silent = |moving: &Moving| moving.cause == Some(MoveCause::Silent);
        // Once it was silent, whoever has been welcomed elsewhere goes there: it is done in a moment.
        let outside = in_time || self.attempts().all(|home| home.feed.is_none());
        if self.moving.as_ref().is_some_and(silent) && outside {
            self.moving = None;
            let begun = self.attempts().next().is_some();
            self.stats.resumed += u64::from(begun);
            self.leave_attempts();
        }
    }

    /// Everything that follows from a change: probes, a move, a switch, repair.
    fn follow(&mut self, now: Time) {
        self.awake = now;
        if self.ended {
            return;
        }
        self.watch(now);
        self.switch(now);
        self.try_next(now);
        self.report(now);
        if !self.settings.repair {
            return;
        }
        let Some(reception) = &mut self.reception else { return };
        while let Some((feed, bytes)) = reception.poll_feed_request(now) {
            if let Some(home) = self.homes.iter().find(|home| home.feed == Some(feed)) {
                self.actions.push_back(ListenAction::SendDatagram { home: home.id, bytes });
            }
        }
    }

    /// Reports what is heard when it is time, to the node that serves the listener.
    fn report(&mut self, now: Time) {
        let (Some(home), Some(reporter)) = (self.current, &mut self.reporter) else { return };
        let heard = self.reception.as_ref().map(Reception::stats).unwrap_or_default();
        if let Some(report) = reporter.poll(now, &mut self.random, &heard) {
            self.stats.reports += 1;
            let message = Box::new(ClientMessage::Report(report));
            self.actions.push_back(ListenAction::Say { home, message });
        }
    }

    /// Probes a session that falls silent, and looks for another relay when no answer comes.
    fn watch(&mut self, now: Time) {
        let Some(home) = self.current else { return };
        if now >= self.silence_due() && self.probes < limits::PROBES {
            self.probes += 1;
            self.probed = now;
            if self.home(home).is_some_and(|home| home.probed) {
                self.stats.probes += 1;
                let bytes = probe_bytes(self.settings.framing);
                self.actions.push_back(ListenAction::SendDatagram { home, bytes });
            }
        }
        if now >= self.silence.doubtful_at() && self.moving.is_none() {
            let spread = self.random.up_to(limits::REHOME_SPREAD);
            self.move_at(now, now + spread, MoveCause::Silent);
        }
    }

    /// When [`Self::watch`] has something to do.
    fn silence_due(&self) -> Time {
        let probe = match self.probes {
            0 => self.silence.probe_at(),
            n if n < limits::PROBES => self.probed + limits::PROBE_EVERY,
            _ => Time::MAX,
        };
        if self.moving.is_none() { probe.min(self.silence.doubtful_at()) } else { probe }
    }

    fn move_at(&mut self, now: Time, at: Time, cause: MoveCause) {
        match &mut self.moving {
            Some(moving) => moving.hurry(at, cause),
            None => self.moving = Some(Moving::leave(now, at, cause)),
        }
    }

    fn end(&mut self, close: Close) {
        for home in std::mem::take(&mut self.homes) {
            self.actions.push_back(ListenAction::Leave { home: home.id });
        }
        self.moving = None;
        self.ended = true;
        self.actions.push_back(ListenAction::Ended(close));
    }

    fn home(&self, id: HomeId) -> Option<&Home> {
        self.homes.iter().find(|home| home.id == id)
    }

    /// The sessions that do not serve the listener yet.
    fn attempts(&self) -> impl Iterator<Item = &Home> {
        self.homes.iter().filter(|home| Some(home.id) != self.current)
    }
}

/// Whether a list of alternates is within the limits.
fn sound(alternates: &[Alternate]) -> bool {
    let fits = |s: &str| !s.is_empty() && s.len() <= limits::NAME_BYTES;
    let sound = |a: &Alternate| fits(&a.relay) && fits(&a.address);
    alternates.len() <= limits::SIBLINGS && alternates.iter().all(sound)
}

/// Whether a close ends the listening, and not only the session: the listener is at fault, or the
/// room is over.
fn is_final(code: CloseCode) -> bool {
    let over = [CloseCode::Done, CloseCode::RoomEnded, CloseCode::Replaced];
    code.side() == Side::Peer || over.contains(&code)
}

#[cfg(test)]
mod tests;
