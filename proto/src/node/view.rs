//! What a node looks like from outside, for the operator.

use serde::Serialize;

use super::origin::RoomAudience;

/// What a node looks like from outside, for the operator.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct NodeView {
    /// The node's name.
    pub node: String,
    /// 0 for the origin; absent from JSON before a relay has its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<u8>,
    /// Why the node may not take listeners, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_ready: Option<String>,
    /// Listeners on this node.
    pub listeners: u64,
    /// Listeners on this node and below it through primary parents.
    pub listeners_below: u64,
    /// Child relays on this node.
    pub children: u64,
    /// The parents, the primary first, and whether each feeds.
    pub parents: Vec<ParentView>,
    /// The rooms.
    pub rooms: Vec<RoomView>,
    /// The tree, at the origin.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub relays: Vec<RelayView>,
    /// What there is room for: on this node, or at the origin in the whole tree.
    pub capacity: CapacityView,
    /// Who listens and what they hear, at the origin: for `/metrics`.
    #[serde(skip)]
    pub audience: Vec<RoomAudience>,
    /// Why the relay stands where it stands.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// Room for listeners, and those who want it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct CapacityView {
    /// Sessions that may be carried.
    pub places: u64,
    /// Of them, those in use.
    pub used: u64,
    /// Places kept for the listeners of a relay that may die.
    pub headroom: u64,
    /// Places that newcomers may have.
    pub free: u64,
    /// Those who wait, in the whole tree.
    pub waiting: u64,
    /// Those who come in a second: joins, and those who are told to wait.
    pub arrivals_per_s: f64,
}

impl CapacityView {
    /// How long the free places last at the present rate of arrivals; infinite while nobody comes.
    #[must_use]
    pub fn seconds_until_full(&self) -> f64 {
        if self.free == 0 { 0.0 } else { self.free as f64 / self.arrivals_per_s.max(0.0) }
    }
}

/// One parent of a relay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ParentView {
    /// Its name.
    pub relay: String,
    /// Its `host:port`.
    pub address: String,
    /// Whether it is connected.
    pub up: bool,
}

/// One room.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RoomView {
    /// Its name.
    pub room: String,
    /// Its number.
    pub id: u32,
    /// The epoch.
    pub epoch: u32,
    /// The newest tick.
    pub newest: u32,
    /// The last tick's one-way delay from the origin's clock, in milliseconds.
    pub delay_ms: f64,
    /// Ticks lost here.
    pub lost: u64,
    /// Who is on stage: slot, identity, whether audible in the last tick (at the origin).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stage: Vec<(u16, String, bool)>,
    /// The origin's own counters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub counters: Vec<(&'static str, u64)>,
}

/// One relay in the origin's tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RelayView {
    /// Its name.
    pub relay: String,
    /// Its `host:port`.
    pub address: String,
    /// Its level.
    pub level: u8,
    /// Its parents, the primary first.
    pub parents: Vec<String>,
    /// Child relays that it has been given.
    pub children: u32,
    /// Listeners that it reported.
    pub listeners: u32,
    /// Sessions that it may carry.
    pub capacity: u32,
    /// Why it stands there.
    pub why: String,
}
