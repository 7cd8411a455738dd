//! A speaker: blocks of sound become frames, and frames go to the origin at real-time pace.

use std::time::{Duration, Instant};

use stentor_proto::limits;
use stentor_proto::speech::SpeechSender;
use stentor_proto::wire::{Close, CloseCode, Datagram, Framing, RoomState, ServerMessage};

use crate::audio::{Block, EncodeError, Encoder, EncoderSettings};
use crate::session::{Incoming, Session, SessionError};

/// What a speaker says, and who follows it.
pub trait Mouth {
    /// The next 20 ms, due at `at`; `None` at the end.
    ///
    /// # Errors
    /// When the source is corrupt or cannot be read.
    fn block(&mut self, at: Instant) -> impl Future<Output = Result<Option<Block>, String>>;

    /// The room's document changed.
    fn room(&mut self, _state: &RoomState) {}
}

/// What a speaker counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpeakStats {
    /// Blocks of 20 ms encoded.
    pub blocks: u64,
    /// Frames sent; silence sends none.
    pub frames: u64,
    /// Frames sent again because the origin asked.
    pub repaired: u64,
    /// Frames that were larger than the room's profile allows, and not sent.
    pub oversized: u64,
}

/// Why a speaker stopped before its end.
#[derive(Debug, thiserror::Error)]
pub enum SpeakError {
    /// The session ended.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The sound could not be read.
    #[error("{0}")]
    Input(String),
    /// The sound could not be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// A session that speaks.
pub struct Speaker {
    session: Session,
    encoder: Encoder,
    sender: SpeechSender,
    frame_bytes: usize,
    stats: SpeakStats,
}

impl Speaker {
    /// A speaker on a session that has its slot.
    ///
    /// # Errors
    /// When the welcome names no slot (the server is at fault), or the encoder cannot be made.
    pub fn new(session: Session, settings: EncoderSettings) -> Result<Self, SpeakError> {
        let Some(slot) = session.welcome.slot else {
            let address = session.address().to_owned();
            let reason = "its welcome names no slot".into();
            return Err(SessionError::Server { address, reason }.into());
        };
        let frame_bytes = session.welcome.frame_bytes.map_or(limits::FRAME_BYTES, usize::from);
        let encoder = Encoder::new(settings)?;
        let sender = SpeechSender::new(Framing::Quic, slot);
        Ok(Self { session, encoder, sender, frame_bytes, stats: SpeakStats::default() })
    }

    /// The slot that the origin gave.
    #[must_use]
    pub fn slot(&self) -> u16 {
        self.session.welcome.slot.unwrap_or_default()
    }

    /// Speaks until the source ends or `stop` completes, then leaves.
    ///
    /// # Errors
    /// When the session ends before, or the source fails.
    pub async fn run(
        &mut self,
        mouth: &mut impl Mouth,
        stop: impl Future<Output = ()>,
    ) -> Result<(), SpeakError> {
        let mut stop = std::pin::pin!(stop);
        let mut due = Instant::now();
        let mut next = Some(due);
        while let Some(at) = next {
            tokio::select! {
                biased;
                () = &mut stop => break,
                () = tokio::time::sleep_until(at.into()) => {
                    match mouth.block(at).await.map_err(SpeakError::Input)? {
                        Some(block) => {
                            self.speak(&block)?;
                            // After a stall the pace starts anew: a burst would be refused.
                            due += limits::TICK;
                            let late = Instant::now().saturating_duration_since(due);
                            if late > Duration::from_millis(200) {
                                due = Instant::now();
                            }
                            next = Some(due);
                        }
                        None => next = None,
                    }
                }
                incoming = self.session.next() => self.take(mouth, incoming?)?,
            }
        }
        // Listeners are told that this is a pause, not a loss.
        if let Some(frame) = self.encoder.pause() {
            self.stats.frames += 1;
            self.session.send_datagram(self.sender.push(frame));
        }
        self.linger(mouth).await?;
        self.session.leave();
        Ok(())
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> SpeakStats {
        SpeakStats { repaired: self.sender.repaired(), ..self.stats }
    }

    /// Stays for as long as the origin may ask for the last frames.
    async fn linger(&mut self, mouth: &mut impl Mouth) -> Result<(), SpeakError> {
        let until = Instant::now() + 2 * limits::FIRST_HOP_REPAIR;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until.into()) => return Ok(()),
                incoming = self.session.next() => self.take(mouth, incoming?)?,
            }
        }
    }

    fn speak(&mut self, block: &Block) -> Result<(), SpeakError> {
        self.stats.blocks += 1;
        let Some(frame) = self.encoder.encode(block)? else { return Ok(()) };
        if frame.opus.len() > self.frame_bytes {
            self.stats.oversized += 1;
            return Ok(());
        }
        self.stats.frames += 1;
        self.session.send_datagram(self.sender.push(frame));
        Ok(())
    }

    fn take(&mut self, mouth: &mut impl Mouth, incoming: Incoming) -> Result<(), SpeakError> {
        match incoming {
            // A speaker hears the room too, but this one does not listen to it.
            Incoming::Datagram(bytes) => {
                if let Ok(Datagram::SpeechRequest(request)) = Datagram::parse(bytes)
                    && let Some(answer) = self.sender.answer(&request)
                {
                    self.session.send_datagram(answer);
                }
            }
            Incoming::Message(ServerMessage::Room(state)) => mouth.room(&state),
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
}
