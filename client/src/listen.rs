//! A listener: a session's datagrams become ticks, and ticks become sound.

use std::time::{Duration, Instant};

use stentor_proto::receive::{Reception, ReceptionStats};
use stentor_proto::wire::{
    Close, CloseCode, Framing, Record, RoomState, ServerMessage, TickKey, frames,
};
use stentor_proto::{Time, limits};
use tokio::time::MissedTickBehavior;

use crate::audio::{BLOCK, Block, Mixer, MixerStats};
use crate::session::{Incoming, Session, SessionError};

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

/// A session that listens.
pub struct Listener {
    session: Session,
    reception: Reception,
    mixer: Mixer,
    settings: ListenSettings,
    zero: Instant,
    stats: ListenStats,
}

impl Listener {
    /// A listener on a session that has joined a room.
    ///
    /// # Errors
    /// When the welcome names no room: the server is at fault.
    pub fn new(session: Session, settings: ListenSettings) -> Result<Self, SessionError> {
        let Some(room) = session.welcome.room.as_ref() else {
            let address = session.address().to_owned();
            return Err(SessionError::Server {
                address,
                reason: "its welcome names no room".into(),
            });
        };
        let reception = Reception::new(Framing::Quic, room);
        let mixer = Mixer::new(settings.playout);
        let (zero, stats) = (Instant::now(), ListenStats::default());
        Ok(Self { session, reception, mixer, settings, zero, stats })
    }

    /// Listens until `stop` completes, then leaves.
    ///
    /// # Errors
    /// When the session ends before, or the sound cannot be kept. What was counted until then is
    /// in [`Self::stats`].
    pub async fn run(
        &mut self,
        ear: &mut impl Ear,
        stop: impl Future<Output = ()>,
    ) -> Result<(), ListenError> {
        let mut stop = std::pin::pin!(stop);
        let mut playout = tokio::time::interval(limits::TICK);
        playout.set_missed_tick_behavior(MissedTickBehavior::Burst);
        loop {
            let repair = self.reception.poll_timeout().map(|at| self.instant(at));
            let repair_at = repair.unwrap_or_else(|| Instant::now() + Duration::from_secs(60));
            tokio::select! {
                biased;
                () = &mut stop => {
                    self.session.leave();
                    return Ok(());
                }
                incoming = self.session.next() => self.take(ear, incoming?)?,
                due = playout.tick(), if self.settings.decode => {
                    let at = due.into_std();
                    let mut block: Block = [0.0; BLOCK];
                    self.mixer.pull(self.time(at), &mut block);
                    ear.block(at, &block).map_err(ListenError::Output)?;
                }
                () = tokio::time::sleep_until(repair_at.into()), if repair.is_some() => {}
            }
            self.request_repair();
        }
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> ListenStats {
        ListenStats {
            reception: self.reception.stats(),
            mixer: self.mixer.stats(),
            delay: self.mixer.delay(),
            ..self.stats
        }
    }

    fn take(&mut self, ear: &mut impl Ear, incoming: Incoming) -> Result<(), ListenError> {
        match incoming {
            Incoming::Datagram(bytes) => {
                let at = Instant::now();
                let now = self.time(at);
                let key = self.session.welcome.room.as_ref().map_or((0, 0), |r| (r.id, r.epoch));
                let (mixer, stats) = (&mut self.mixer, &mut self.stats);
                let (zero, joined_in) = (self.zero, self.session.joined_in);
                let decode = self.settings.decode;
                self.reception.datagram(now, bytes, |record, replay| {
                    let since = joined_in + at.saturating_duration_since(zero);
                    stats.first_tick_in.get_or_insert(since);
                    ear.tick(at, &record, replay);
                    if !decode {
                        return;
                    }
                    match frames(&record.payload) {
                        Ok(frames) => {
                            let key = TickKey { room: key.0, epoch: key.1, number: record.number };
                            mixer.push_tick(now, key, record.clock_us, frames);
                        }
                        Err(_) => stats.bad_ticks += 1,
                    }
                });
            }
            Incoming::Message(ServerMessage::Subscribed(room)) => {
                self.reception.renew(&room);
                self.session.welcome.room = Some(room);
            }
            Incoming::Message(ServerMessage::Room(state)) => ear.room(&state),
            Incoming::Message(ServerMessage::Closing { code, reason, .. }) => {
                let code = CloseCode::from_code(code.into()).unwrap_or(CloseCode::Internal);
                let address = self.session.address().to_owned();
                return Err(
                    SessionError::Closed { address, close: Close::new(code, reason) }.into()
                );
            }
            Incoming::Message(_) => {}
        }
        Ok(())
    }

    fn request_repair(&mut self) {
        let now = self.time(Instant::now());
        while let Some(request) = self.reception.poll_request(now) {
            self.session.send_datagram(request);
        }
    }

    fn time(&self, at: Instant) -> Time {
        Time::ZERO + at.saturating_duration_since(self.zero)
    }

    fn instant(&self, at: Time) -> Instant {
        self.zero + at.since(Time::ZERO)
    }
}
