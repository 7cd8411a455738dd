//! The driver: QUIC (RFC 9000) with datagrams (RFC 9221) for thousands of connections on one UDP
//! socket, owned by one thread.
//!
//! It stands on quinn-proto, quinn's sans-IO core. What it adds is the IO of a node whose work is one
//! small packet to each of many peers, fifty times a second: packets gathered into `sendmmsg` and
//! taken by `recvmmsg`, timers that cost one comparison, connection IDs that name their shard, no
//! lock, no task and no waker. It serves a shard's downlink, a relay's uplinks and the load
//! generator.
//!
//! A peer that chooses HTTP/3 (ALPN `h3`) is a browser: its WebTransport session looks from outside
//! like any other connection ([`webtransport`]).
//!
//! Start at [`Driver`] for how to drive it, at [`config`] for what it is made of.

pub mod cid;
pub mod config;
mod congestion;
mod connection;
mod driver;
mod engine;
mod event;
mod gate;
mod networks;
pub mod sys;
mod timers;
pub mod webtransport;

pub use driver::{Driver, DriverSettings};
pub use event::{
    CloseReason, ClosedBy, ConnId, ConnStats, ConnectError, DriverStats, Event, Outcome, Packet,
    Received, SendControlError,
};
pub use gate::GateSettings;
