//! A listener: a session's datagrams become ticks, and ticks become sound.

use std::time::{Duration, Instant};

use bytes::Bytes;
use stentor_proto::listen::{
    self as proto, HomeId, Listen, ListenAction, MoveCause, Played, QueuePlace,
};
use stentor_proto::receive::ReceptionStats;
use stentor_proto::wire::{CloseCode, Framing, Record, RoomState, ServerMessage, TickKey, frames};
use stentor_proto::{Time, limits};
use tokio::time::MissedTickBehavior;

use crate::audio::{BLOCK, Block, Mixer, MixerStats};
use crate::homes::{HomeEvent, Homes, close_of};
use crate::session::{Connector, Join, Session, SessionError, hello};

/// How often a listener that waits is told how long it still takes.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// Who follows what a listener hears.
pub trait Ear {
    /// A tick that is new, in the order of arrival.
    fn tick(&mut self, _at: Instant, _record: &Record, _replay: bool) {}

    /// 20 ms of sound to be played at `at`. An error ends the listening.
    ///
    /// # Errors
    /// When the sound cannot be kept.
    fn block(&mut self, _at: Instant, _block: &Block) -> Result<(), String> {
        Ok(())
    }

    /// The room's document changed.
    fn room(&mut self, _state: &RoomState) {}

    /// The session has ended, and another relay is looked for.
    fn lost(&mut self, _why: &SessionError) {}

    /// There is no place yet; the listener comes again by itself. Called once a second, the time
    /// that has passed taken off.
    fn waiting(&mut self, _place: &QueuePlace) {}

    /// Another relay serves the listener from here on.
    fn moved(&mut self, _address: &str, _cause: MoveCause) {}
}

/// How to listen.
#[derive(Clone, Copy, Debug)]
pub struct ListenSettings {
    /// The playout delay to begin with.
    pub playout: Duration,
    /// Whether ticks are decoded; without it they are received and counted only.
    pub decode: bool,
}

impl Default for ListenSettings {
    fn default() -> Self {
        Self { playout: limits::PLAYOUT, decode: true }
    }
}

/// What a listener counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListenStats {
    /// Ticks.
    pub reception: ReceptionStats,
    /// Sessions: moves from relay to relay, and probes.
    pub homes: proto::ListenStats,
    /// Sound.
    pub mixer: MixerStats,
    /// Ticks whose frames could not be read.
    pub bad_ticks: u64,
    /// From the call that opened the session to its first tick.
    pub first_tick_in: Option<Duration>,
    /// The playout delay at the end.
    pub delay: Duration,
}

/// Why a listener stopped before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The session ended.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The sound could not be kept.
    #[error("{0}")]
    Output(String),
}

/// A listener: it begins on one session, and goes to another relay when its own falls silent.
pub struct Listener {
    listen: Listen,
    homes: Homes,
    mixer: Mixer,
    settings: ListenSettings,
    zero: Instant,
    address: String,
    joined_in: Duration,
    /// What became of the last session that could not be opened, until one could.
    why: Option<SessionError>,
    /// The last word on a place in the queue, when it was said, and when it is told again.
    queue: Option<(QueuePlace, [Instant; 2])>,
    stats: ListenStats,
}

impl Listener {
    /// A listener on a session that has joined a room.
    ///
    /// # Errors
    /// When the welcome names no room: the server is at fault.
    pub fn new(session: Session, settings: ListenSettings) -> Result<Self, SessionError> {
        let (address, joined_in) = (session.address().to_owned(), session.joined_in);
        if session.welcome.room.is_none() {
            return Err(SessionError::Server {
                address,
                reason: "its welcome names no room".into(),
            });
        }
        let (welcome, link, connector, join) = session.into_parts();
        // Those on stage have their session with the origin, and no relay takes them.
        let entries = if join.role.speaks() { Vec::new() } else { vec![address.clone()] };
        let seed = rand::random();
        let (hello, framing) = (hello(&join), Framing::Quic);
        let plan = proto::ListenSettings { hello, entries, framing, repair: true, seed };
        let listen = Listen::joined(plan, Time::ZERO, &address, welcome);
        let mut homes = Homes::new(connector);
        if let Some(home) = listen.current() {
            homes.adopt(home, link);
        }
        let mixer = Mixer::new(settings.playout);
        let (zero, stats) = (Instant::now(), ListenStats::default());
        Ok(Self {
            listen,
            homes,
            mixer,
            settings,
            zero,
            address,
            joined_in,
            why: None,
            queue: None,
            stats,
        })
    }

    /// A listener that comes to the relay or origin of `join`, waits if it is told to, and goes where
    /// it is sent: see [`Self::come_in`].
    #[must_use]
    pub fn outside(connector: Connector, join: &Join, settings: ListenSettings) -> Self {
        let (hello, entries, framing) = (hello(join), vec![join.address.clone()], Framing::Quic);
        let seed = rand::random();
        let plan = proto::ListenSettings { hello, entries, framing, repair: true, seed };
        Self {
            listen: Listen::new(plan, Time::ZERO),
            homes: Homes::new(connector),
            mixer: Mixer::new(settings.playout),
            settings,
            zero: Instant::now(),
            address: join.address.clone(),
            joined_in: Duration::ZERO,
            why: None,
            queue: None,
            stats: ListenStats::default(),
        }
    }

    /// Waits until some relay serves the listener, or until `stop` completes; how long it took, or
    /// `None` if it was stopped.
    ///
    /// # Errors
    /// When no relay takes it.
    pub async fn come_in(
        &mut self,
        ear: &mut impl Ear,
        stop: impl Future<Output = ()>,
    ) -> Result<Option<Duration>, ListenError> {
        self.follow(ear, stop, |listen| listen.current().is_some()).await?;
        self.queue = None;
        Ok(self.listen.current().map(|_| self.zero.elapsed()))
    }

    /// Where the listener is, or comes to: `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Listens until `stop` completes, then leaves.
    ///
    /// # Errors
    /// When no relay serves the listener any more, or the sound cannot be kept. What was counted
    /// until then is in [`Self::stats`].
    pub async fn run(
        &mut self,
        ear: &mut impl Ear,
        stop: impl Future<Output = ()>,
    ) -> Result<(), ListenError> {
        self.follow(ear, stop, |_| false).await
    }

    async fn follow(
        &mut self,
        ear: &mut impl Ear,
        stop: impl Future<Output = ()>,
        until: impl Fn(&Listen) -> bool,
    ) -> Result<(), ListenError> {
        let mut stop = std::pin::pin!(stop);
        let mut playout = tokio::time::interval(limits::TICK);
        playout.set_missed_tick_behavior(MissedTickBehavior::Burst);
        loop {
            // Who does not decode plays nothing, and takes what comes within the room's deadline.
            self.listen.set_playout(match self.settings.decode {
                true => self.mixer.delay(),
                false => limits::REPAIR_DEADLINE,
            });
            self.act(ear)?;
            if until(&self.listen) {
                return Ok(());
            }
            let due = self.listen.poll_timeout().map(|at| self.instant(at));
            let due_at = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(60));
            let count_at = self.queue.as_ref().map_or(due_at, |(_, [_, next])| *next);
            tokio::select! {
                biased;
                () = &mut stop => {
                    self.homes.leave_all();
                    return Ok(());
                }
                (home, event) = self.homes.next() => self.take(ear, home, event),
                due = playout.tick(), if self.settings.decode && self.listen.room().is_some() => {
                    let at = due.into_std();
                    let mut block: Block = [0.0; BLOCK];
                    self.mixer.pull(self.time(at), &mut block);
                    self.played();
                    ear.block(at, &block).map_err(ListenError::Output)?;
                }
                () = tokio::time::sleep_until(count_at.into()), if self.queue.is_some() => {
                    self.count(ear);
                }
                () = tokio::time::sleep_until(due_at.into()), if due.is_some() => {
                    self.listen.handle_timeout(self.time(Instant::now()));
                }
            }
        }
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> ListenStats {
        ListenStats {
            reception: self.listen.reception(),
            homes: self.listen.stats(),
            mixer: self.mixer.stats(),
            delay: self.mixer.delay(),
            ..self.stats
        }
    }

    /// What is told of what is played; a listener that does not decode plays nothing, and is silent
    /// about it.
    fn played(&mut self) {
        let MixerStats { late, concealed_ms, .. } = self.mixer.stats();
        let played = Played { late, concealed_ms, delay: self.mixer.delay() };
        self.listen.set_played(self.time(Instant::now()), played);
    }

    /// Tells the place in the queue again, the time that has passed taken off.
    fn count(&mut self, ear: &mut impl Ear) {
        if let Some((place, [said, next])) = &mut self.queue {
            *next += COUNT_EVERY;
            let eta = place.eta.map(|eta| eta.saturating_sub(said.elapsed()));
            ear.waiting(&QueuePlace { eta, ..place.clone() });
        }
    }

    fn take(&mut self, ear: &mut impl Ear, home: HomeId, event: HomeEvent) {
        let at = Instant::now();
        let now = self.time(at);
        match event {
            HomeEvent::Up(_) => {}
            HomeEvent::Datagram(bytes) => self.datagram(ear, at, home, bytes),
            HomeEvent::Message(message) => {
                if let ServerMessage::Room(state) = &message
                    && self.listen.current() == Some(home)
                {
                    ear.room(state);
                }
                self.listen.handle_message(now, home, message);
                let serves = self.listen.current() == Some(home);
                if let Some(round_trip) = self.homes.round_trip(home).filter(|_| serves) {
                    self.listen.set_round_trip(round_trip);
                }
            }
            HomeEvent::Down(error) => {
                if self.listen.current() == Some(home) {
                    ear.lost(&error);
                }
                self.listen.handle_down(now, home, close_of(&error));
                if self.listen.room().is_none() {
                    self.why = Some(error);
                }
            }
        }
    }

    fn datagram(&mut self, ear: &mut impl Ear, at: Instant, home: HomeId, bytes: Bytes) {
        let now = self.time(at);
        let (room, epoch) = self.listen.room().map_or((0, 0), |r| (r.id, r.epoch));
        let (mixer, stats, decode) = (&mut self.mixer, &mut self.stats, self.settings.decode);
        let since = self.joined_in + at.saturating_duration_since(self.zero);
        self.listen.datagram(now, home, bytes, |record, replay| {
            stats.first_tick_in.get_or_insert(since);
            ear.tick(at, &record, replay);
            if !decode {
                return;
            }
            match frames(&record.payload) {
                Ok(frames) => {
                    let key = TickKey { room, epoch, number: record.number };
                    mixer.push_tick(now, key, record.clock_us, frames);
                }
                Err(_) => stats.bad_ticks += 1,
            }
        });
    }

    /// Does what the protocol's machine asks for.
    fn act(&mut self, ear: &mut impl Ear) -> Result<(), ListenError> {
        while let Some(action) = self.listen.poll_action() {
            match action {
                ListenAction::Connect { home, address, hello } => {
                    self.homes.connect(home, address, *hello);
                }
                ListenAction::SendDatagram { home, bytes } => {
                    self.homes.send_datagram(home, bytes);
                }
                ListenAction::Say { home, message } => self.homes.say(home, *message),
                ListenAction::Leave { home } => self.homes.leave(home),
                ListenAction::Moved { address, cause } => {
                    ear.moved(&address, cause);
                    self.address = address;
                }
                ListenAction::Waiting(place) => {
                    ear.waiting(&place);
                    self.address.clone_from(&place.address);
                    let now = Instant::now();
                    self.queue = Some((place, [now, now + COUNT_EVERY]));
                }
                ListenAction::Ended(close) => {
                    self.homes.leave_all();
                    // What a session could not be opened for says more than that none could be.
                    let why = self.why.take().filter(|_| close.code == CloseCode::NoParent);
                    if let Some(why) = why {
                        return Err(why.into());
                    }
                    let address = self.address.clone();
                    return Err(SessionError::Closed { address, close }.into());
                }
            }
        }
        Ok(())
    }

    fn time(&self, at: Instant) -> Time {
        Time::ZERO + at.saturating_duration_since(self.zero)
    }

    fn instant(&self, at: Time) -> Instant {
        self.zero + at.since(Time::ZERO)
    }
}
