//! Control: one machine per node, at the origin or at a relay.

use std::time::Duration;

use bytes::Bytes;

use super::messages::{Tick, ToControl, ToShard};
use super::origin::OriginControl;
use super::relay::RelayControl;
use super::stats::ControlStats;
use super::view::NodeView;
use crate::Time;
use crate::wire::Close;

/// An uplink: a session of this node with its origin or with a parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u32);

/// What control asks of its shell.
#[derive(Clone, Debug, PartialEq)]
pub enum ControlEffect {
    /// Open a session to `address` (`host:port`); answer by `handle_link_up` or
    /// `handle_link_down`.
    Connect {
        /// The uplink's name from here on.
        link: LinkId,
        /// Where to.
        address: String,
    },
    /// Close an uplink. No answer follows.
    Disconnect {
        /// The uplink.
        link: LinkId,
        /// What the other side is told.
        close: Close,
    },
    /// Write to an uplink's control stream.
    SendControl {
        /// The uplink.
        link: LinkId,
        /// A whole message with its length prefix.
        bytes: Bytes,
    },
    /// Send a datagram on an uplink.
    SendDatagram {
        /// The uplink.
        link: LinkId,
        /// The datagram.
        bytes: Bytes,
    },
    /// Put a message into one shard's queue.
    ToShard {
        /// The shard.
        shard: u16,
        /// The message.
        message: ToShard,
    },
    /// Put a message into every shard's queue.
    ToShards(ToShard),
    /// Tell the operator's log.
    Note {
        /// Whether something is wrong.
        warn: bool,
        /// One sentence. Holds no secret.
        text: String,
    },
}

/// The machine of a node that is not its shards.
///
/// Drive it so: `handle_*` with what came; after each, [`Self::poll_tick`] until `None` (into
/// every shard's tick queue), then [`Self::poll_effect`] until `None`; [`Self::handle_timeout`] at
/// [`Self::poll_timeout`]. The shell owns the sockets; links are named by control.
pub enum NodeControl {
    /// The root: rooms, speakers, the planner.
    Origin(Box<OriginControl>),
    /// Any other node: feeds, repair, its place in the tree.
    Relay(Box<RelayControl>),
}

macro_rules! both {
    ($self:ident, $control:ident => $body:expr) => {
        match $self {
            NodeControl::Origin($control) => $body,
            NodeControl::Relay($control) => $body,
        }
    };
}

impl NodeControl {
    /// The machine's clock has been set: what it says at [`Time::ZERO`] now (microseconds since the Unix
    /// epoch). Tokens, tickets and bans follow it; the origin's clock in ticks goes on as it was, for
    /// delays are measured by it.
    pub fn handle_clock(&mut self, unix_us_at_zero: u64) {
        both!(self, control => control.handle_clock(unix_us_at_zero));
    }

    /// An uplink is connected; control says hello on it.
    pub fn handle_link_up(&mut self, now: Time, link: LinkId) {
        if let Self::Relay(relay) = self {
            relay.handle_link_up(now, link);
        }
    }

    /// An uplink is gone or could not be opened.
    pub fn handle_link_down(&mut self, now: Time, link: LinkId, reason: &str) {
        if let Self::Relay(relay) = self {
            relay.handle_link_down(now, link, reason);
        }
    }

    /// Bytes of an uplink's control stream, in order.
    pub fn handle_link_control(&mut self, now: Time, link: LinkId, bytes: &[u8]) {
        if let Self::Relay(relay) = self {
            relay.handle_link_control(now, link, bytes);
        }
    }

    /// A datagram from an uplink.
    pub fn handle_link_datagram(&mut self, now: Time, link: LinkId, bytes: Bytes) {
        if let Self::Relay(relay) = self {
            relay.handle_link_datagram(now, link, bytes);
        }
    }

    /// A message from a shard.
    pub fn handle_message(&mut self, now: Time, message: ToControl) {
        both!(self, control => control.handle_message(now, message));
    }

    /// The node shows a certificate with these SHA-256 hashes (base64url), in development mode.
    pub fn handle_certificate_hashes(&mut self, hashes: Vec<String>) {
        if let Self::Relay(relay) = self {
            relay.handle_certificate_hashes(hashes);
        }
    }

    /// The node is to drain, and ends `within` this time: it takes no newcomers and asks its
    /// listeners to move.
    pub fn handle_drain(&mut self, now: Time, within: Duration) {
        both!(self, control => control.handle_drain(now, within));
    }

    /// See [`OriginControl::park`]; a relay has no control plane to hold.
    #[cfg(feature = "fault-injection")]
    pub fn park(&mut self, park: bool) {
        if let Self::Origin(origin) = self {
            origin.park(park);
        }
    }

    /// Time has come to [`Self::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Time) {
        both!(self, control => control.handle_timeout(now));
    }

    /// When [`Self::handle_timeout`] is to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Time {
        both!(self, control => control.poll_timeout())
    }

    /// The next tick for every shard.
    pub fn poll_tick(&mut self) -> Option<Tick> {
        both!(self, control => control.poll_tick())
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<ControlEffect> {
        both!(self, control => control.poll_effect())
    }

    /// What was counted.
    #[must_use]
    pub fn stats(&self) -> ControlStats {
        both!(self, control => control.stats())
    }

    /// What the node looks like.
    #[must_use]
    pub fn view(&self, now: Time) -> NodeView {
        both!(self, control => control.view(now))
    }
}
