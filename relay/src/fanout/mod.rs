//! The data plane: shards that own their listeners, one thread each.

mod shard;

pub use shard::{Shard, ShardFigures, ShardPorts, ShardReport};
