//! The IO shell of every node: an origin is a relay at the root.
//!
//! The path of a tick through the modules: [`uplink`] (from the parents, through control) →
//! [`fanout`] (one thread a shard) → [`quic`] (the driver: packets in batches).

pub mod clock;
pub mod fanout;
pub mod node;
pub mod quic;
pub mod uplink;
