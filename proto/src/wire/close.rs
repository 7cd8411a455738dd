//! Close codes: the one place where an error becomes a code on the wire.

use std::fmt;

use crate::limits;

/// Whose fault a close is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Nobody's: the session ended as it should.
    Nobody,
    /// The peer that is being closed.
    Peer,
    /// This node, or what it depends on.
    Node,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nobody => "nobody",
            Self::Peer => "peer",
            Self::Node => "node",
        })
    }
}

macro_rules! close_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal, $side:ident;)*) => {
        /// Why a session is closed: the QUIC application error code (RFC 9000 section 19.19).
        ///
        /// Codes are stable; a new reason gets a new code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum CloseCode {
            $($(#[$doc])* $name = $code,)*
        }

        impl CloseCode {
            /// Every code, in order.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code's stable name, for messages, logs and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Whose fault it is.
            #[must_use]
            pub const fn side(self) -> Side {
                match self { $(Self::$name => Side::$side,)* }
            }

            /// The code that `code` stands for, if this release knows it.
            #[must_use]
            pub const fn from_code(code: u64) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
        }
    };
}

close_codes! {
    /// The session ended as it should.
    Done = 0x00, "done", Nobody;
    /// The room ended.
    RoomEnded = 0x01, "room_ended", Nobody;
    /// The node is draining; go to an alternate.
    Draining = 0x02, "draining", Nobody;
    /// The same identity joined again from elsewhere.
    Replaced = 0x03, "replaced", Nobody;
    /// There is no place yet; a place in the queue was told before.
    Waiting = 0x04, "waiting", Nobody;
    /// Another relay has room; it was named before.
    Redirect = 0x05, "redirect", Nobody;

    /// The host has taken the person from the stage; it may listen.
    Demoted = 0x06, "demoted", Nobody;

    /// A datagram or control message breaks the protocol.
    Protocol = 0x10, "protocol", Peer;
    /// A control message is longer than allowed, or does not end.
    MessageTooLarge = 0x11, "message_too_large", Peer;
    /// More messages than allowed.
    TooManyMessages = 0x12, "too_many_messages", Peer;
    /// No hello within its deadline.
    NoHello = 0x13, "no_hello", Peer;
    /// A protocol version that this node does not speak.
    Version = 0x14, "version", Peer;
    /// The peer's datagrams are off or too small.
    DatagramsTooSmall = 0x15, "datagrams_too_small", Peer;
    /// Many bad datagrams in a short time.
    TooManyBadDatagrams = 0x16, "too_many_bad_datagrams", Peer;

    /// The token is missing.
    TokenMissing = 0x20, "token_missing", Peer;
    /// The token is malformed or its signature is wrong.
    TokenInvalid = 0x21, "token_invalid", Peer;
    /// The token has expired.
    TokenExpired = 0x22, "token_expired", Peer;
    /// The token is for another room.
    TokenRoom = 0x23, "token_room", Peer;
    /// The token does not allow the role that was asked for.
    TokenRole = 0x24, "token_role", Peer;
    /// This role joins at the origin only.
    OriginOnly = 0x25, "origin_only", Peer;
    /// The waiting ticket is forged, malformed, or for another room.
    TicketInvalid = 0x26, "ticket_invalid", Peer;
    /// The waiting ticket has expired.
    TicketExpired = 0x27, "ticket_expired", Peer;
    /// The waiting ticket was issued to somebody else.
    TicketIdentity = 0x28, "ticket_identity", Peer;
    /// The waiting ticket has been used.
    TicketSpent = 0x29, "ticket_spent", Peer;
    /// The waiting ticket is to be used at another relay.
    TicketPlace = 0x2a, "ticket_place", Peer;
    /// This address is for the stage and for relays.
    StageOnly = 0x2b, "stage_only", Peer;

    /// The host has put the bearer out, or taken the token back.
    Removed = 0x2c, "removed", Peer;
    /// The host has banned the person or the address from the room.
    Banned = 0x2d, "banned", Peer;

    /// There is no such room.
    NoRoom = 0x30, "no_room", Peer;
    /// All slots of the room are taken.
    StageFull = 0x31, "stage_full", Nobody;
    /// The host has locked the room: it takes no newcomers.
    RoomLocked = 0x32, "room_locked", Nobody;

    /// The node has no place left.
    Full = 0x40, "full", Node;
    /// The node has no parent to bring the room from.
    NoParent = 0x41, "no_parent", Node;
    /// The room could not be brought up in time.
    RoomTimeout = 0x42, "room_timeout", Node;
    /// The node met an error of its own.
    Internal = 0x43, "internal", Node;
}

/// A close with what is to be said about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", code.name())]
pub struct Close {
    /// The code on the wire.
    pub code: CloseCode,
    /// One sentence for a person: what is wrong and what to do. Holds no secret.
    pub reason: String,
}

impl Close {
    /// A close with its sentence, cut to [`limits::REASON_BYTES`]: it may repeat what a peer sent.
    #[must_use]
    pub fn new(code: CloseCode, reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        if reason.len() > limits::REASON_BYTES {
            let fits = |&at: &usize| at <= limits::REASON_BYTES;
            let ends = reason.char_indices().map(|(at, _)| at).take_while(fits);
            reason.truncate(ends.last().unwrap_or(0));
        }
        Self { code, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_map_back_and_are_unique() {
        for &code in CloseCode::ALL {
            assert_eq!(CloseCode::from_code(u64::from(code as u32)), Some(code));
        }
        assert!(CloseCode::ALL.is_sorted());
        assert_eq!(CloseCode::from_code(0xffff), None);
    }

    #[test]
    fn a_reason_is_cut_between_two_characters() {
        let close = Close::new(CloseCode::Protocol, format!("x{}", "é".repeat(1_000)));
        assert_eq!(close.reason.len(), limits::REASON_BYTES - 1);
    }
}
