//! A listener's ear: the client's side of one session, on the production reception.

use std::time::Duration;

use bytes::Bytes;
use stentor_proto::Time;
use stentor_proto::receive::{Reception, ReceptionStats};
use stentor_proto::wire::{
    ClientMessage, ControlDecoder, Framing, Hello, Role, ServerMessage, VERSION, encode_control,
};

use super::had::Had;
use super::link::Weather;
use super::model::Truth;

/// Datagrams that overtake the welcome and are kept for it: a late-join burst.
const EARLY: usize = 8;

/// A session's reception: one listener's, or that of all in a cohort.
#[derive(Debug, Default)]
pub(super) struct Ear {
    decoder: ControlDecoder,
    pub(super) reception: Option<Reception>,
    early: Vec<Bytes>,
    pub(super) had: Had,
    /// When its timer is set for.
    pub(super) armed: Option<Time>,
    /// The good and bad times of a path of its own, down and up.
    pub(super) weather: [Weather; 2],
    /// When the last new tick came; before the first, when the listener came, or was cut off.
    pub(super) heard: Option<Time>,
    /// When the welcome came.
    pub(super) welcomed: Option<Time>,
}

/// What an ear has to say of what arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// The welcome came.
    pub(super) welcomed: bool,
    /// Ticks passed on that had been passed on before.
    pub(super) twice: u32,
    /// Ticks passed on that are not what the origin sent.
    pub(super) altered: u32,
    /// The server breaks the protocol.
    pub(super) broken: bool,
    /// A time without new ticks has ended that was longer than any silence is.
    pub(super) gap: Option<Duration>,
}

/// In silence a tick comes every 100 ms.
const GAP: Duration = Duration::from_millis(200);

impl Ear {
    /// An ear that has heard nothing yet; since when, if its listener was cut off.
    pub(super) fn silent_since(heard: Option<Time>) -> Self {
        Self { heard, ..Self::default() }
    }

    /// Takes bytes of the control stream.
    pub(super) fn control(&mut self, now: Time, bytes: &[u8], truth: &Truth) -> Heard {
        let mut heard = Heard::default();
        self.decoder.push(bytes);
        loop {
            match self.decoder.next_message() {
                Ok(None) => return heard,
                Ok(Some(ServerMessage::Welcome(welcome))) => {
                    let Some(room) = welcome.room else {
                        heard.broken = true;
                        continue;
                    };
                    heard.welcomed = true;
                    self.welcomed = Some(now);
                    self.heard.get_or_insert(now);
                    self.reception = Some(Reception::new(Framing::Quic, &room));
                    for bytes in std::mem::take(&mut self.early) {
                        self.datagram(now, bytes, truth, &mut heard);
                    }
                }
                Ok(Some(ServerMessage::Subscribed(room))) => match &mut self.reception {
                    Some(reception) => {
                        reception.renew(&room);
                    }
                    None => heard.broken = true,
                },
                Ok(Some(
                    ServerMessage::Room(_)
                    | ServerMessage::Alternates { .. }
                    | ServerMessage::Move { .. }
                    | ServerMessage::Waiting(_)
                    | ServerMessage::Redirect { .. }
                    | ServerMessage::Invited { .. }
                    | ServerMessage::InvitationWithdrawn
                    | ServerMessage::Closing { .. }
                    | ServerMessage::Unknown,
                )) => {}
                Ok(Some(
                    ServerMessage::Refused { .. }
                    | ServerMessage::Placement(_)
                    | ServerMessage::Siblings(_)
                    | ServerMessage::Admission(_)
                    | ServerMessage::Revoked(_)
                    | ServerMessage::Invitations(_),
                ))
                | Err(_) => {
                    heard.broken = true;
                    return heard;
                }
            }
        }
    }

    /// Takes a datagram.
    pub(super) fn datagram(&mut self, now: Time, bytes: Bytes, truth: &Truth, heard: &mut Heard) {
        let Some(reception) = &mut self.reception else {
            if self.early.len() < EARLY {
                self.early.push(bytes);
            }
            return;
        };
        let had = &mut self.had;
        let mut fresh = false;
        reception.datagram(now, bytes, |record, _| {
            fresh = true;
            heard.twice += u32::from(!had.note(record.number));
            heard.altered += u32::from(!truth.is(record.number, &record.bytes));
        });
        if fresh {
            let gap = self.heard.replace(now).map(|heard| now.since(heard));
            heard.gap = heard.gap.max(gap.filter(|&gap| gap > GAP));
        }
    }

    /// Another ear that has heard the same, for a session that had none of its own.
    pub(super) fn twin(&self) -> Self {
        Self {
            decoder: ControlDecoder::default(),
            reception: self.reception.clone(),
            early: Vec::new(),
            had: self.had.clone(),
            armed: None,
            ..*self
        }
    }

    /// The next repair request.
    pub(super) fn request(&mut self, now: Time) -> Option<Bytes> {
        self.reception.as_mut()?.poll_request(now)
    }

    /// When [`Self::request`] is to be asked.
    pub(super) fn timeout(&self) -> Option<Time> {
        self.reception.as_ref()?.poll_timeout()
    }

    /// What the production window counted.
    pub(super) fn stats(&self) -> ReceptionStats {
        self.reception.as_ref().map(Reception::stats).unwrap_or_default()
    }

    /// Takes over what the cohort has learned of the path that all in it share.
    pub(super) fn share_path(&mut self, other: &Self) {
        if let (Some(own), Some(other)) = (&mut self.reception, &other.reception) {
            own.share_path(other);
        }
    }

    /// Whether nothing is missing or under way.
    pub(super) fn settled(&self) -> bool {
        let newest = self.had.newest();
        let whole = self.reception.as_ref().is_some_and(|r| r.newest() == newest);
        newest > 0 && whole && self.timeout().is_none()
    }
}

/// A listener's first message.
pub(super) fn hello(last: Option<(u32, u32)>) -> Bytes {
    encode_control(&ClientMessage::Hello(Hello {
        version: VERSION,
        features: Vec::new(),
        role: Role::Listener,
        room: super::ROOM.into(),
        token: None,
        pass: None,
        ticket: None,
        client_key: None,
        name: None,
        agent: None,
        playout_ms: None,
        last,
        relay: None,
    }))
}
