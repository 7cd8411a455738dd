//! What goes in and out of a driver, beside bytes.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn_proto::ConnectionError;

use super::webtransport::Breach;

/// A connection of one driver: a small index, the same as its session's in the shard's machine, so
/// that the fan-out's lists serve both. It is used again only after [`Event::Closed`] for it has been
/// taken.
pub use stentor_proto::fanout::SessionIx as ConnId;

/// What happened on a driver's connections.
#[derive(Debug)]
pub enum Event {
    /// The handshake is complete and the peer takes datagrams of a useful size; over HTTP/3, its
    /// WebTransport session is open.
    Connected {
        /// The connection: a new one on a server, one that `connect` returned on a client.
        conn: ConnId,
        /// Where the peer is.
        peer: SocketAddr,
        /// The application protocol agreed on; empty if none was offered.
        alpn: Bytes,
    },
    /// Bytes of the control stream, in order, cut wherever packets were.
    Control {
        /// The connection.
        conn: ConnId,
        /// Never empty.
        bytes: Bytes,
    },
    /// The peer ended its side of the control stream.
    ControlFinished {
        /// The connection.
        conn: ConnId,
    },
    /// A datagram.
    Datagram {
        /// The connection.
        conn: ConnId,
        /// Its payload.
        bytes: Bytes,
        /// When the kernel received it (ns of the realtime clock).
        received_ns: u64,
    },
    /// Everything that was written to the control stream has gone into the connection's window; asked
    /// for by `Driver::await_control`.
    ControlWritten {
        /// The connection.
        conn: ConnId,
    },
    /// The datagram that waited has been sent; the next one can be handed in.
    Unblocked {
        /// The connection.
        conn: ConnId,
    },
    /// The connection is over: exactly once for each that was `Connected` or that `connect` returned.
    Closed {
        /// The connection; nothing follows for it, and every call on it answers so.
        conn: ConnId,
        /// Why.
        reason: CloseReason,
    },
    /// A packet for another shard of this node: hand it to that shard's `inject`.
    Foreign {
        /// The shard whose connection ID it carries.
        shard: u16,
        /// The packet.
        packet: Packet,
    },
}

/// Why a connection is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseReason {
    /// The application's code (`CloseCode`), if an application closed it.
    pub code: Option<u64>,
    /// What was said about it; from a peer it is anybody's text.
    pub text: String,
    /// Who ended it.
    pub by: ClosedBy,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "closed by {}: {}", self.by.name(), self.text)?;
        match self.code {
            Some(code) => write!(f, " (code {code:#x})"),
            None => Ok(()),
        }
    }
}

impl From<ConnectionError> for CloseReason {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => Self {
                code: Some(close.error_code.into_inner()),
                text: String::from_utf8_lossy(&close.reason).into_owned(),
                by: ClosedBy::Peer,
            },
            ConnectionError::TimedOut => {
                Self { code: None, text: "the peer fell silent".into(), by: ClosedBy::Timeout }
            }
            ConnectionError::LocallyClosed => {
                Self { code: None, text: "closed here".into(), by: ClosedBy::Local }
            }
            other => Self { code: None, text: other.to_string(), by: ClosedBy::Transport },
        }
    }
}

/// Who ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClosedBy {
    /// The peer's application.
    Peer,
    /// This side.
    Local,
    /// Silence.
    Timeout,
    /// QUIC itself: a refused handshake, an offence against the protocol, a stateless reset.
    Transport,
}

impl ClosedBy {
    /// A stable name, for logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Local => "local",
            Self::Timeout => "timeout",
            Self::Transport => "transport",
        }
    }
}

/// A packet off the wire, on its way to another shard.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The UDP payload.
    pub bytes: BytesMut,
    /// Who sent it.
    pub peer: SocketAddr,
    /// The local address that it was sent to.
    pub local_ip: Option<IpAddr>,
    /// The two ECN bits.
    pub ecn: u8,
    /// When the kernel received it (ns of the realtime clock).
    pub received_ns: u64,
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in a packet.
    Sent,
    /// It waits inside the connection for congestion control; [`Event::Unblocked`] follows.
    Waiting,
    /// A former one still waits: this one was not taken.
    Full,
    /// The connection is not established, or no longer: this one was not taken.
    Closed,
    /// It is longer than the peer takes: this one was not taken.
    TooLarge,
}

/// Why a connection cannot be begun.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The driver holds as many connections as it may.
    #[error("this side holds its most of {0} connections")]
    Full(usize),
    /// The name or the address is of no use.
    #[error(transparent)]
    Quic(#[from] quinn_proto::ConnectError),
}

/// Why a control message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendControlError {
    /// The connection is over.
    #[error("the connection is over")]
    Closed,
    /// The peer reads more slowly than it is written to: its backlog is full.
    #[error("the peer reads its control stream too slowly")]
    TooSlow,
    /// The peer refuses to read its control stream.
    #[error("the peer stopped its control stream")]
    Stopped,
}

/// What one call of `receive` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Packets taken from the socket.
    pub packets: usize,
    /// Handshakes started.
    pub handshakes: usize,
    /// Whether the socket is empty and no client waits for its handshake to start.
    pub drained: bool,
}

/// What is known about one connection's path.
#[derive(Clone, Copy, Debug)]
pub struct ConnStats {
    /// Smoothed round trip.
    pub rtt: Duration,
    /// Smallest round trip.
    pub min_rtt: Duration,
    /// Packets sent so far.
    pub sent_packets: u64,
    /// Of those, packets found lost so far.
    pub lost_packets: u64,
    /// Congestion events so far.
    pub congestion_events: u64,
    /// Congestion window (bytes).
    pub window: u64,
}

/// Counters of one driver, since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriverStats {
    /// Packets received.
    pub packets_in: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Packets sent.
    pub packets_out: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// `sendmmsg` calls.
    pub send_calls: u64,
    /// `recvmmsg` calls.
    pub receive_calls: u64,
    /// Packets dropped because the socket's send buffer stayed full.
    pub send_would_block: u64,
    /// Packets that the kernel refused to send.
    pub send_failed: u64,
    /// Packets received that were longer than any QUIC packet we accept.
    pub oversized: u64,
    /// Packets handed on to another shard.
    pub foreign: u64,
    /// Packets injected by another shard.
    pub injected: u64,
    /// Datagrams not taken because a former one waited.
    pub datagram_full: u64,
    /// Datagrams that waited for congestion control.
    pub datagram_waited: u64,
    /// Handshakes started.
    pub handshakes: u64,
    /// Connections established.
    pub connected: u64,
    /// Handshakes that failed before the connection was established.
    pub handshakes_failed: u64,
    /// Of those, handshakes that did not end in time.
    pub handshakes_slow: u64,
    /// First packets ignored because new connections are refused.
    pub incoming_refused: u64,
    /// First packets ignored because the driver holds as many connections as it may.
    pub incoming_full: u64,
    /// First packets answered with a Retry.
    pub incoming_retried: u64,
    /// First packets ignored because the second's handshakes were spent.
    pub incoming_over_rate: u64,
    /// First packets ignored because as many handshakes were under way as may be.
    pub incoming_over_flight: u64,
    /// First packets ignored because their network had its part of a gate that was pressed.
    pub incoming_over_share: u64,
    /// Drivers that answer first packets with a Retry at present: 1 or 0, or their sum.
    pub retry_on: u64,
    /// Times that Retry went on.
    pub retry_switched: u64,
    /// Peers closed because their datagrams are off or too small.
    pub datagrams_too_small: u64,
    /// Streams refused beyond the control stream.
    pub streams_refused: u64,
    /// Control messages not taken because the peer reads too slowly.
    pub control_too_slow: u64,
    /// Of the connections established, WebTransport sessions.
    pub webtransport: u64,
    /// Requests for anything but a WebTransport session, answered with 404.
    pub webtransport_not_found: u64,
    /// Connections closed because the peer broke HTTP/3, in the order of [`Breach::ALL`].
    pub breaches: [u64; Breach::ALL.len()],
}

impl std::ops::AddAssign for DriverStats {
    fn add_assign(&mut self, other: Self) {
        self.packets_in += other.packets_in;
        self.bytes_in += other.bytes_in;
        self.packets_out += other.packets_out;
        self.bytes_out += other.bytes_out;
        self.send_calls += other.send_calls;
        self.receive_calls += other.receive_calls;
        self.send_would_block += other.send_would_block;
        self.send_failed += other.send_failed;
        self.oversized += other.oversized;
        self.foreign += other.foreign;
        self.injected += other.injected;
        self.datagram_full += other.datagram_full;
        self.datagram_waited += other.datagram_waited;
        self.handshakes += other.handshakes;
        self.connected += other.connected;
        self.handshakes_failed += other.handshakes_failed;
        self.handshakes_slow += other.handshakes_slow;
        self.incoming_refused += other.incoming_refused;
        self.incoming_full += other.incoming_full;
        self.incoming_over_rate += other.incoming_over_rate;
        self.incoming_over_flight += other.incoming_over_flight;
        self.incoming_over_share += other.incoming_over_share;
        self.retry_on += other.retry_on;
        self.retry_switched += other.retry_switched;
        self.incoming_retried += other.incoming_retried;
        self.datagrams_too_small += other.datagrams_too_small;
        self.streams_refused += other.streams_refused;
        self.control_too_slow += other.control_too_slow;
        self.webtransport += other.webtransport;
        self.webtransport_not_found += other.webtransport_not_found;
        self.breaches.iter_mut().zip(other.breaches).for_each(|(sum, more)| *sum += more);
    }
}
