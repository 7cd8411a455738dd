//! A speaker at the origin: a frame every 20 ms while talking, and pauses.

use std::time::Duration;

use bytes::Bytes;
use stentor_proto::Time;
use stentor_proto::speech::SpeechSender;
use stentor_proto::token::{Claims, Signer};
use stentor_proto::wire::{
    ClientMessage, ControlDecoder, Datagram, Framing, Hello, Role, ServerMessage, SpeechFrame,
    VERSION, encode_control,
};

use super::events::ConnIx;
use super::node::UNIX_S;

const FRAME: Duration = Duration::from_millis(20);
/// Frames of a turn: the two speakers take turns of this length…
const TURN: u32 = 400;
/// …of which the last frames are a pause: half a second of silence in the room.
const PAUSE: u32 = 25;

/// A speaker.
#[derive(Debug)]
pub(super) struct Speaker {
    identity: &'static str,
    /// Whose turn it is first.
    order: u32,
    pub(super) conn: Option<ConnIx>,
    decoder: ControlDecoder,
    sender: Option<SpeechSender>,
    seq: u32,
    ticks: u32,
}

impl Speaker {
    pub(super) fn new(identity: &'static str, order: u32) -> Self {
        let decoder = ControlDecoder::default();
        Self { identity, order, conn: None, decoder, sender: None, seq: 0, ticks: 0 }
    }

    /// The hello, with a token of the signer whose key the origin publishes.
    pub(super) fn hello(&self, signer: &Signer) -> Option<Bytes> {
        let claims = Claims {
            sub: self.identity.into(),
            room: super::ROOM.into(),
            role: Role::Speaker,
            exp: UNIX_S + 7 * 86_400,
            iat: UNIX_S,
            jti: self.identity.into(),
            nbf: None,
            iss: None,
            name: None,
        };
        let hello = Hello {
            version: VERSION,
            features: Vec::new(),
            role: Role::Speaker,
            room: super::ROOM.into(),
            token: Some(signer.sign(&claims).ok()?),
            pass: None,
            ticket: None,
            client_key: None,
            name: None,
            agent: None,
            playout_ms: None,
            last: None,
            relay: None,
        };
        Some(encode_control(&ClientMessage::Hello(hello)))
    }

    /// Takes bytes of the control stream; whether the speaker has been welcomed by them.
    pub(super) fn control(&mut self, bytes: &[u8]) -> bool {
        self.decoder.push(bytes);
        let mut welcomed = false;
        while let Ok(Some(message)) = self.decoder.next_message() {
            if let ServerMessage::Welcome(welcome) = message
                && let Some(slot) = welcome.slot
            {
                self.sender = Some(SpeechSender::new(Framing::Quic, slot));
                welcomed = true;
            }
        }
        welcomed
    }

    /// Takes a datagram; what is returned is to be sent. What the speaker hears of the room is a
    /// listener's part.
    pub(super) fn datagram(&mut self, bytes: Bytes) -> Option<Bytes> {
        match Datagram::parse(bytes) {
            Ok(Datagram::SpeechRequest(request)) => self.sender.as_mut()?.answer(&request),
            _ => None,
        }
    }

    /// When the next frame is due, after the one at `now`.
    pub(super) fn next(&self, now: Time) -> Time {
        if self.sender.is_some() { now + FRAME } else { Time::MAX }
    }

    /// The datagram with the frame that is due, if the speaker does not pause.
    pub(super) fn frame(&mut self) -> Option<Bytes> {
        let sender = self.sender.as_mut()?;
        let (turn, within) = (self.ticks / TURN, self.ticks % TURN);
        self.ticks += 1;
        if turn % 2 != self.order || within >= TURN - PAUSE {
            return None;
        }
        self.seq += 1;
        let mut opus = vec![0; 40];
        opus[1..5].copy_from_slice(&self.seq.to_be_bytes());
        // CELT, 20 ms, one frame (RFC 6716 section 3.1).
        opus[0] = 31 << 3;
        let frame = SpeechFrame { seq: self.seq, level: 40, voice: true, opus: opus.into() };
        Some(sender.push(frame))
    }
}
