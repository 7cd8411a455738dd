//! Those at the ends: a listener and a speaker.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use stentor_proto::Time;
use stentor_proto::receive::Reception;
use stentor_proto::speech::SpeechSender;
use stentor_proto::token::{Claims, Signer};
use stentor_proto::wire::{
    Alternate, ClientMessage, Close, CloseCode, ControlDecoder, Datagram, Framing, Hello, Role,
    RoomState, ServerMessage, SpeechFrame, Subscribed, encode_control, frames,
};

use super::link::Conn;
use super::node::UNIX_S;

pub fn hello(role: Role, room: &str) -> Hello {
    Hello {
        version: 1,
        features: Vec::new(),
        role,
        room: room.into(),
        token: None,
        name: None,
        agent: None,
        playout_ms: None,
        last: None,
        pass: None,
        ticket: None,
        client_key: None,
        relay: None,
    }
}

/// A listener on one session.
pub struct Listener {
    pub conn: Conn,
    room: String,
    decoder: ControlDecoder,
    reception: Option<Reception>,
    pub identity: String,
    /// Invitations and their end.
    pub invited: Vec<Option<Role>>,
    /// How often it was told that the host has lowered its hand.
    pub lowered: u32,
    pub subscribed: Vec<Subscribed>,
    pub documents: Vec<RoomState>,
    /// How often each tick was passed on, by epoch and number.
    pub heard: BTreeMap<(u32, u32), u32>,
    /// Frames by slot: their sequence numbers in the order of arrival.
    pub frames: BTreeMap<u16, Vec<u32>>,
    pub heartbeats: u32,
    pub alternates: Vec<Alternate>,
    pub asked_to_move: u32,
    pub welcomed: Option<Time>,
    pub closed: Option<(Time, CloseCode)>,
}

impl Listener {
    pub fn new(conn: Conn, room: &str) -> Self {
        Self {
            conn,
            room: room.into(),
            decoder: ControlDecoder::default(),
            reception: None,
            identity: String::new(),
            invited: Vec::new(),
            lowered: 0,
            subscribed: Vec::new(),
            documents: Vec::new(),
            heard: BTreeMap::new(),
            alternates: Vec::new(),
            asked_to_move: 0,
            frames: BTreeMap::new(),
            heartbeats: 0,
            welcomed: None,
            closed: None,
        }
    }

    pub fn hello(&self) -> Bytes {
        encode_control(&ClientMessage::Hello(hello(Role::Listener, &self.room)))
    }

    pub fn control(&mut self, now: Time, bytes: &[u8]) {
        self.decoder.push(bytes);
        while let Some(message) = self.decoder.next_message().unwrap() {
            match message {
                ServerMessage::Welcome(welcome) => {
                    let room = welcome.room.unwrap();
                    self.alternates = welcome.alternates;
                    self.identity = welcome.identity;
                    self.welcomed = Some(now);
                    self.reception = Some(Reception::new(Framing::Quic, &room));
                    self.subscribed.push(room);
                }
                ServerMessage::Subscribed(room) => {
                    self.reception.as_mut().unwrap().renew(&room);
                    self.subscribed.push(room);
                }
                ServerMessage::Room(state) => self.documents.push(state),
                ServerMessage::Closing { .. } => {}
                ServerMessage::Invited { role } => self.invited.push(Some(role)),
                ServerMessage::InvitationWithdrawn => self.invited.push(None),
                ServerMessage::HandLowered => self.lowered += 1,
                ServerMessage::Alternates { alternates } => self.alternates = alternates,
                ServerMessage::Move { .. } => self.asked_to_move += 1,
                other => panic!("not for a listener: {other:?}"),
            }
        }
    }

    /// Takes a datagram; what is returned is to be sent.
    pub fn datagram(&mut self, now: Time, bytes: Bytes) -> Vec<Bytes> {
        let Some(reception) = &mut self.reception else { return Vec::new() };
        let epoch = self.subscribed.last().unwrap().epoch;
        reception.datagram(now, bytes, |record, _| {
            *self.heard.entry((epoch, record.number)).or_default() += 1;
            let frames = frames(&record.payload).unwrap();
            self.heartbeats += u32::from(frames.is_empty());
            for frame in frames {
                self.frames.entry(frame.slot).or_default().push(frame.speech.seq);
            }
        });
        self.requests(now)
    }

    pub fn requests(&mut self, now: Time) -> Vec<Bytes> {
        let Some(reception) = &mut self.reception else { return Vec::new() };
        std::iter::from_fn(|| reception.poll_request(now)).collect()
    }

    pub fn timeout(&self) -> Time {
        self.reception.as_ref().and_then(Reception::poll_timeout).unwrap_or(Time::MAX)
    }

    pub fn closed(&mut self, now: Time, close: Option<Close>) {
        self.closed = Some((now, close.map_or(CloseCode::Internal, |close| close.code)));
    }

    pub fn stats(&self) -> stentor_proto::receive::ReceptionStats {
        self.reception.as_ref().unwrap().stats()
    }
}

/// A speaker: a frame every 20 ms while talking.
pub struct Speaker {
    pub conn: Conn,
    pub identity: String,
    pub room: String,
    decoder: ControlDecoder,
    sender: Option<SpeechSender>,
    pub slot: u16,
    pub talks: bool,
    pub closed: Option<CloseCode>,
    seq: u32,
    next: Time,
}

const FRAME: Duration = Duration::from_millis(20);

impl Speaker {
    pub fn new(conn: Conn, room: &str, identity: &str, now: Time) -> Self {
        Self {
            conn,
            identity: identity.into(),
            room: room.into(),
            decoder: ControlDecoder::default(),
            sender: None,
            slot: 0,
            talks: true,
            closed: None,
            seq: 0,
            next: now,
        }
    }

    /// The hello, with a token of the signer whose key the origin publishes.
    pub fn hello(&self, signer: &Signer) -> Bytes {
        let claims = Claims {
            sub: self.identity.clone(),
            room: self.room.clone(),
            role: Role::Speaker,
            exp: UNIX_S + 3_600,
            iat: UNIX_S,
            jti: self.identity.clone(),
            nbf: None,
            iss: None,
            name: None,
        };
        let token = Some(signer.sign(&claims).unwrap());
        let hello = Hello { token, ..hello(Role::Speaker, &self.room) };
        encode_control(&ClientMessage::Hello(hello))
    }

    pub fn control(&mut self, now: Time, bytes: &[u8]) {
        self.decoder.push(bytes);
        while let Some(message) = self.decoder.next_message().unwrap() {
            if let ServerMessage::Welcome(welcome) = message {
                self.slot = welcome.slot.unwrap();
                self.sender = Some(SpeechSender::new(Framing::Quic, self.slot));
                self.next = now;
            }
        }
    }

    /// Takes a datagram; what is returned is to be sent.
    pub fn datagram(&mut self, bytes: Bytes) -> Option<Bytes> {
        match Datagram::parse(bytes).unwrap() {
            Datagram::SpeechRequest(request) => self.sender.as_mut()?.answer(&request),
            // What the speaker hears of the room is a listener's part.
            _ => None,
        }
    }

    pub fn timeout(&self) -> Time {
        if self.talks && self.sender.is_some() { self.next } else { Time::MAX }
    }

    /// The datagram with the next frame, when it is due.
    pub fn frame(&mut self, now: Time) -> Option<Bytes> {
        let due = self.timeout() <= now;
        let sender = self.sender.as_mut().filter(|_| due)?;
        self.next = now + FRAME;
        self.seq += 1;
        let mut opus = vec![self.seq as u8; 40];
        // CELT, 20 ms, one frame (RFC 6716 section 3.1).
        opus[0] = 31 << 3;
        let frame = SpeechFrame { seq: self.seq, level: 40, voice: true, opus: opus.into() };
        Some(sender.push(frame))
    }
}
