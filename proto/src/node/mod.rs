//! The two machines of a node: control and [`NodeShard`].
//!
//! ```text
//!   speakers ─▶ NodeShard ─ToControl─▶ NodeControl ─Tick─▶ every NodeShard ─▶ children, listeners
//!   parents  ────────uplinks─────────▶ NodeControl ─ToShard─▶
//! ```
//!
//! A node has one control and one or more shards. They speak by two message types over bounded
//! queues; ticks go one way on a queue of their own and never wait for control messages. The hot
//! path returns values ([`NodeShard::handle_tick`], [`NodeShard::fanout`]); only control effects
//! are queued.

mod messages;
mod shard;
mod stats;

pub use messages::{Tick, ToControl, ToShard};
pub use shard::{Fanout, NodeShard, ShardEffect, ShardSettings};
pub use stats::{ControlStats, ShardStats};
