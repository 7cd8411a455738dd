//! Control messages: length-prefixed JSON on the session's one bidirectional stream
//! (`docs/PROTOCOL.md` section 3).

use std::collections::BTreeMap;
use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::close::{Close, CloseCode};
use super::people::{Hand, Invitations, LoweredHands, Report, RevokedPage, RoomSum};
use crate::limits;

/// What a session may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Runs the room.
    Host,
    /// Runs the room with the host.
    CoHost,
    /// Speaks.
    Speaker,
    /// Listens.
    Listener,
    /// Carries rooms to others.
    Relay,
    /// Listens and keeps what it hears.
    Recorder,
}

impl Role {
    /// Whether the role holds a slot on the stage.
    #[must_use]
    pub const fn speaks(self) -> bool {
        matches!(self, Self::Host | Self::CoHost | Self::Speaker)
    }

    /// The role's name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::CoHost => "co-host",
            Self::Speaker => "speaker",
            Self::Listener => "listener",
            Self::Relay => "relay",
            Self::Recorder => "recorder",
        }
    }
}

/// What a client or a child says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientMessage {
    /// The first message of every session.
    Hello(Hello),
    /// A relay asks its parent for a room.
    Subscribe {
        /// The room's name.
        room: String,
    },
    /// A relay needs a room no longer.
    Unsubscribe {
        /// The room's name.
        room: String,
    },
    /// A relay's load, as a state; it replaces the former one.
    Load(Load),
    /// A listener raises or lowers its hand.
    Hand {
        /// Which.
        raised: bool,
    },
    /// A listener reacts.
    React {
        /// One of [`limits::REACTIONS`].
        kind: String,
        /// How often; 1 if absent.
        #[serde(default = "one")]
        count: u32,
    },
    /// What a listener has heard since its last report.
    Report(Report),
    /// Somebody on stage mutes or unmutes itself.
    Mute {
        /// Which.
        muted: bool,
    },
    /// A relay passes raised and lowered hands on.
    Hands {
        /// At most [`limits::HANDS_PER_MESSAGE`].
        hands: Vec<Hand>,
    },
    /// A relay has met somebody whose ban covers the address.
    Met {
        /// The room's name.
        room: String,
        /// Who.
        identity: String,
        /// Where.
        address: std::net::IpAddr,
    },
    /// The session ends.
    Leave,
    /// A message of a later release; ignored.
    #[serde(other)]
    Unknown,
}

/// The first message of every session.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// The protocol version that the client speaks: [`super::VERSION`].
    pub version: u32,
    /// What the client can do beyond the version.
    #[serde(default)]
    pub features: Vec<String>,
    /// What the client wants to be.
    pub role: Role,
    /// The room's name; empty for a relay.
    #[serde(default)]
    pub room: String,
    /// The token (JWT); absent for an anonymous listener of a public room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// A name to show; the token's identity counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The client and its version, for the operator's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The client's playout target in milliseconds: how much of the ring it wants at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub playout_ms: Option<u32>,
    /// The epoch and the last tick that the client has: what follows is replayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<(u32, u32)>,
    /// The re-home pass that the former relay gave: a place among those who return.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass: Option<Secret>,
    /// The waiting ticket, when the client comes again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<Secret>,
    /// A secret that an anonymous client made (32 bytes, base64url): its tickets are bound to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key: Option<Secret>,
    /// What a relay says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelayInfo>,
}

/// All but the secrets: whoever reads a log must not be able to join with them.
impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            version,
            features,
            role,
            room,
            token,
            name,
            agent,
            playout_ms,
            last,
            pass,
            ticket,
            client_key,
            relay,
        } = self;
        f.debug_struct("Hello")
            .field("version", version)
            .field("features", features)
            .field("role", role)
            .field("room", room)
            .field("token", &token.as_ref().map(|_| REDACTED))
            .field("name", name)
            .field("agent", agent)
            .field("playout_ms", playout_ms)
            .field("last", last)
            .field("pass", pass)
            .field("ticket", ticket)
            .field("client_key", client_key)
            .field("relay", relay)
            .finish()
    }
}

/// What stands for a secret where a value is shown.
pub(crate) const REDACTED: &str = "[redacted]";

/// A text that its bearer profits by. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// What a relay says of itself when it registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayInfo {
    /// The relay's name, unique in the tree.
    pub id: String,
    /// `host:port` at which children and listeners reach it.
    pub address: String,
    /// Where it stands; relays of one region are preferred as parents.
    #[serde(default)]
    pub region: String,
    /// Sessions (listeners and children) that it may carry.
    pub capacity: u32,
    /// The level that the operator wants; the planner chooses if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<u8>,
    /// Rises with every start of the process, so that a state of a former life is told apart.
    #[serde(default)]
    pub incarnation: u64,
    /// The Ed25519 key (base64url) under which the relay signs re-home passes; the origin
    /// certifies it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass_key: Option<String>,
    /// SHA-256 hashes (base64url) of the certificate that the relay shows, in development mode alone:
    /// with them a page connects to a node whose authority its browser does not know
    /// (`serverCertificateHashes` of W3C WebTransport).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificate_hashes: Vec<String>,
}

/// A relay's load: a state, not an increment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// The incarnation of the reporter.
    pub incarnation: u64,
    /// The report's number within the incarnation.
    pub sequence: u64,
    /// Listeners on this relay itself.
    pub listeners: u32,
    /// Listeners on it and on everything below it through primary parents.
    pub listeners_below: u64,
    /// Child relays on this relay.
    pub children: u32,
    /// Joins within the last second.
    pub joins_per_s: u32,
    /// Round trips to relays measured by this one: name and microseconds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub round_trips: Vec<(String, u32)>,
    /// What the relay's present parents are, so that the origin sees what is in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<String>,
    /// Parents that bring nothing and do not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<String>,
    /// Whether the relay drains: it is to get no new children, and those it has other parents.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// Waiting tickets by second of arrival (seconds since 1970, by the origin's clock), on the relay
    /// and on everything below it through primary parents; at most [`limits::ARRIVALS_S`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arrivals: Vec<(u64, u64)>,
    /// What the relay's door has left; absent from a relay without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub door: Option<DoorLoad>,
    /// The hashes of [`RelayInfo`] at present, if any: certificates are renewed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificate_hashes: Vec<String>,
    /// Rooms, at most [`limits::LOAD_ROOMS`]; more take turns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rooms: Vec<RoomSum>,
}

const fn one() -> u32 {
    1
}

/// What a relay may still admit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoorLoad {
    /// Places that newcomers may have.
    pub free: u32,
    /// Newcomers that it admits in a second at most.
    pub joins_per_s: u32,
    /// Those who waited and were admitted since the relay started.
    #[serde(default)]
    pub admitted: u64,
}

/// What a server or a parent says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerMessage {
    /// The answer to a hello.
    Welcome(Welcome),
    /// The answer to a subscription.
    Subscribed(Subscribed),
    /// A subscription was refused.
    Refused {
        /// The room's name.
        room: String,
        /// The close code that a client would get.
        code: u32,
        /// The code's name.
        name: String,
        /// One sentence.
        reason: String,
    },
    /// The room's document; it replaces the former one if its version is higher.
    Room(RoomState),
    /// The listener may come on stage: the origin's API gives it a token.
    Invited {
        /// As what.
        role: Role,
    },
    /// It may no longer.
    InvitationWithdrawn,
    /// The host has lowered the listener's hand.
    HandLowered,
    /// Whose hands a host has lowered, for relays.
    LoweredHands(LoweredHands),
    /// Whom a room takes no longer, for relays.
    Revoked(RevokedPage),
    /// Who may come on stage, for relays.
    Invitations(Invitations),
    /// The origin places a relay in the tree.
    Placement(Placement),
    /// The origin tells a relay where its listeners may go.
    Siblings(Siblings),
    /// Other relays to go to when this one fails; the list replaces the former one.
    Alternates {
        /// At most [`limits::ALTERNATES`].
        alternates: Vec<Alternate>,
    },
    /// The listener is to go to another relay, without haste: this one serves it until it has.
    Move {
        /// Where to; the list replaces the former one.
        #[serde(default)]
        alternates: Vec<Alternate>,
        /// One sentence.
        #[serde(default)]
        reason: String,
    },
    /// There is no place yet: when to come again, and where in the queue. A close follows.
    Waiting(Waiting),
    /// Another relay has room. A close follows.
    Redirect {
        /// Where to go; the ticket is for the first.
        relays: Vec<Alternate>,
        /// To be shown there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ticket: Option<Secret>,
    },
    /// How far the queue has been called; for relays, passed on down the tree.
    Admission(Admission),
    /// The session is about to be closed, with the reason in words.
    Closing {
        /// The close code that follows.
        code: u32,
        /// The code's name.
        name: String,
        /// One sentence.
        reason: String,
    },
    /// A message of a later release; ignored.
    #[serde(other)]
    Unknown,
}

/// The answer to a hello.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version that the session speaks.
    pub version: u32,
    /// What the server can do beyond the version.
    #[serde(default)]
    pub features: Vec<String>,
    /// The server's software and version.
    #[serde(default)]
    pub agent: String,
    /// The name by which the session is known in the room.
    pub identity: String,
    /// The session's role.
    pub role: Role,
    /// The room; absent for a relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room: Option<Subscribed>,
    /// A speaker's slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u16>,
    /// A speaker's limit: bytes of one frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame_bytes: Option<u16>,
    /// A missing tick is worth asking for until it is this old (milliseconds).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair_ms: Option<u32>,
    /// Other relays to go to when this one fails.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alternates: Vec<Alternate>,
    /// A re-home pass: with it the listener returns to a relay of `alternates` before newcomers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass: Option<Secret>,
    /// The origin's public keys, for a relay: key id and Ed25519 key (base64url).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<(String, String)>,
}

/// Where a client stands in the queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// To be shown at the next attempt; absent for a client that can prove nothing of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<Secret>,
    /// The client's number in the queue, counted from 1.
    pub place: u64,
    /// Those who wait, in the whole tree.
    pub waiting: u64,
    /// When to come again (milliseconds from here); the client adds a little at random.
    pub retry_ms: u32,
    /// When the client arrived, by the origin's clock (milliseconds since 1970).
    pub arrival_ms: u64,
    /// How long it is expected to take (milliseconds); absent if nobody can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<u64>,
}

/// How far the queue has been called, from the origin to all relays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// The origin's clock (milliseconds since 1970).
    pub now_ms: u64,
    /// Whoever arrived until then has been called (milliseconds since 1970).
    pub watermark_ms: u64,
    /// People called in a second of late; rounded up.
    pub rate_per_s: u32,
    /// Those who wait, in the whole tree.
    pub waiting: u64,
    /// Time of arrival (milliseconds since 1970), and how many wait who arrived before it; at most
    /// [`limits::CURVE_POINTS`], a line between two of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<(u64, u64)>,
}

impl Admission {
    /// Whether its numbers can be true.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.curve.len() <= limits::CURVE_POINTS
            && self.curve.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1)
    }

    /// How many of those who wait arrived before `arrival_ms`, as of when this was said.
    #[must_use]
    pub fn before(&self, arrival_ms: u64) -> u64 {
        let at = self.curve.partition_point(|point| point.0 <= arrival_ms);
        let Some(&(from, low)) = at.checked_sub(1).and_then(|at| self.curve.get(at)) else {
            return 0;
        };
        let Some(&(until, high)) = self.curve.get(at) else { return low };
        let part =
            u128::from(high - low) * u128::from(arrival_ms - from) / u128::from(until - from);
        low + u64::try_from(part).unwrap_or(high - low)
    }
}

/// Another relay that a client may go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alternate {
    /// The relay's name.
    pub relay: String,
    /// Its `host:port`.
    pub address: String,
    /// See [`RelayInfo::certificate_hashes`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificate_hashes: Vec<String>,
}

/// Where a relay's listeners may go when it fails, and what it needs to send them there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Siblings {
    /// Relays to name to listeners; at most [`limits::SIBLINGS`].
    #[serde(default)]
    pub relays: Vec<Alternate>,
    /// Places of this relay that newcomers do not get: the largest of those relays that name this
    /// one may die.
    #[serde(default)]
    pub headroom: u32,
    /// Newcomers that each of `relays` may be sent in a second, in their order: less than its free
    /// places where others send it some too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub free: Vec<u32>,
    /// So many of `relays`, the first, stand in this relay's region.
    #[serde(default, skip_serializing_if = "is_none")]
    pub near: u8,
    /// The origin's certificate for the relay's pass key ([`crate::pass`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_none(number: &u8) -> bool {
    *number == 0
}

/// A room that a session is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribed {
    /// The room's name.
    pub name: String,
    /// The room's number in datagrams.
    pub id: u32,
    /// The room's title.
    #[serde(default)]
    pub title: String,
    /// Whether anonymous listeners are admitted.
    #[serde(default)]
    pub public: bool,
    /// The current epoch.
    pub epoch: u32,
    /// The newest tick; 0 before the first.
    pub newest: u32,
    /// The cadence in milliseconds.
    pub tick_ms: u8,
    /// How many earlier ticks a live datagram may carry: 0, 1 or 2.
    pub redundancy: u8,
}

/// The room's document, pushed down the tree and cached by every relay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomState {
    /// The room's name.
    pub room: String,
    /// Rises with every change.
    pub version: u64,
    /// The title.
    #[serde(default)]
    pub title: String,
    /// Who is on stage.
    #[serde(default)]
    pub stage: Vec<StageEntry>,
    /// Listeners in the whole tree at the time of the last sum.
    #[serde(default)]
    pub listeners: u64,
    /// Those who wait to be let in, in the whole tree, at the time of the last sum.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub waiting: u64,
    /// Raised hands.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hands: u64,
    /// Reactions of the last second, by kind ([`limits::REACTIONS`]).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reactions: BTreeMap<String, u64>,
    /// Whether the room takes no further listeners.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub locked: bool,
    /// When somebody first came on stage (milliseconds since 1970, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<u64>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One microphone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageEntry {
    /// The slot in ticks.
    pub slot: u16,
    /// The speaker's identity.
    pub identity: String,
    /// The name to show.
    #[serde(default)]
    pub name: String,
    /// Host, co-host or speaker.
    pub role: Role,
    /// Whether the microphone is muted.
    #[serde(default)]
    pub muted: bool,
}

/// Where the origin wants a relay to stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Rises with every plan that changed; an older one is ignored.
    pub version: u64,
    /// The relay's level: 1 stands under the origin.
    pub level: u8,
    /// The parents, the primary first; empty on level 1 (the origin itself is the feed).
    pub parents: Vec<Parent>,
    /// Why the planner chose so, for people.
    #[serde(default)]
    pub why: String,
}

/// One parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// The relay's name.
    pub relay: String,
    /// Its `host:port`.
    pub address: String,
}

/// Encodes a message with its length prefix (16-bit, big-endian).
///
/// # Panics
/// When the message is larger than [`limits::CONTROL_BYTES`], which the limits on names and lists
/// exclude; a room's document is measured before someone joins the stage. What holds lists that
/// come from a peer goes through [`try_encode_control`].
#[must_use]
pub fn encode_control<M: Serialize>(message: &M) -> Bytes {
    try_encode_control(message).expect("a control message exceeds its bound")
}

/// Encodes a message with its length prefix; `None` if it is larger than [`limits::CONTROL_BYTES`].
#[must_use]
pub fn try_encode_control<M: Serialize>(message: &M) -> Option<Bytes> {
    let json = serde_json::to_vec(message).expect("control messages hold only plain data");
    let len = u16::try_from(json.len()).ok().filter(|_| json.len() <= limits::CONTROL_BYTES)?;
    let mut out = BytesMut::with_capacity(2 + json.len());
    out.put_u16(len);
    out.put_slice(&json);
    Some(out.freeze())
}

/// Cuts a control stream into messages. Holds at most one message's bytes.
#[derive(Debug, Default)]
pub struct ControlDecoder {
    buffer: BytesMut,
}

impl ControlDecoder {
    /// Takes bytes as they come from the stream, in order.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    /// When a length exceeds [`limits::CONTROL_BYTES`] or the bytes are not a message; the
    /// session is to be closed, for its stream cannot be read on.
    pub fn next_message<M: for<'de> Deserialize<'de>>(&mut self) -> Result<Option<M>, Close> {
        let Some(&[a, b]) = self.buffer.first_chunk::<2>() else {
            return Ok(None);
        };
        let len = usize::from(u16::from_be_bytes([a, b]));
        if len > limits::CONTROL_BYTES {
            let reason =
                format!("a control message of {len} bytes; {} are allowed", limits::CONTROL_BYTES);
            return Err(Close::new(CloseCode::MessageTooLarge, reason));
        }
        if self.buffer.len() < 2 + len {
            return Ok(None);
        }
        self.buffer.advance(2);
        let message = self.buffer.split_to(len);
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        serde_json::from_slice(&message).map(Some).map_err(|e| {
            Close::new(CloseCode::Protocol, format!("a control message is not valid: {e}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_does_not_show_its_token() {
        let json =
            r#"{"version":1,"role":"listener","room":"r","token":"ey.secret","pass":"ey.secret"}"#;
        let hello: Hello = serde_json::from_str(json).unwrap();
        let shown = format!("{:?}", ClientMessage::Hello(hello));
        assert!(shown.contains("[redacted]") && !shown.contains("secret"), "{shown}");
    }
}
