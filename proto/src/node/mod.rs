//! The two machines of a node: [`NodeControl`] and [`NodeShard`].
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

mod control;
mod messages;
mod origin;
mod redeem;
mod relay;
mod shard;
mod stats;
mod view;

pub use control::{ControlEffect, LinkId, NodeControl};
pub use messages::{Asker, Tick, ToControl, ToShard};
pub use origin::{
    Act, Answer, Asking, Audience, News, NewsKind, OriginControl, OriginSettings, Participants,
    RoomAudience, RoomCard, RoomError, RoomInfo, RoomSetup,
};
pub use relay::{RelayControl, RelaySettings};
pub use shard::{Fanout, NodeShard, ShardEffect, ShardSettings};
pub use stats::{Closes, ControlStats, ShardStats};
pub use view::{CapacityView, NodeView, ParentView, RelayView, RoomView};
