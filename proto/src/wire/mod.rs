//! The bytes on the wire: datagrams (binary), control messages (JSON), close codes.
//!
//! `docs/PROTOCOL.md` is normative; the golden vectors in `proto/vectors` hold both to it.

mod bytes;
mod close;
mod control;
mod datagram;
mod people;
mod tick;

pub use close::{Close, CloseCode, Side};
pub(crate) use control::REDACTED;
pub use control::{
    Admission, Alternate, ClientMessage, ControlDecoder, DoorLoad, Hello, Load, Parent, Placement,
    RelayInfo, Role, RoomState, Secret, ServerMessage, Siblings, StageEntry, Subscribed, Waiting,
    Welcome, encode_control, try_encode_control,
};
pub use datagram::{
    Beacon, Datagram, DatagramError, Framing, RepairRequest, SpeechRequest, beacon_bytes,
    probe_bytes, repair_bytes, speech_bytes, speech_request_bytes, ticks_bytes,
};
pub use people::{
    Experience, Hand, Heard, Invitation, Invitations, LoweredHand, LoweredHands, Report,
    RevokedEntry, RevokedPage, RoomSum, Tally,
};
pub use tick::{Frame, Record, SpeechFrame, TickFlags, TickKey, frames, record_bytes};

/// The version of this protocol (`docs/PROTOCOL.md` section 2).
pub const VERSION: u32 = 1;
/// ALPN of raw QUIC.
pub const ALPN: &[u8] = b"stentor/1";
/// ALPN of WebTransport, which is HTTP/3's.
pub const ALPN_WEBTRANSPORT: &[u8] = b"h3";
/// The path of a WebTransport session's URL.
pub const WEBTRANSPORT_PATH: &str = "/v1/session";
/// Features of this release, as named in the hello.
pub const FEATURES: [&str; 5] = ["ticks", "repair", "replay", "probe", "move"];
