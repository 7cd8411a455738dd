//! The IO shell of every node: an origin is a relay at the root.
//!
//! The path of a tick through the modules: [`uplink`] (from the parents, through control) →
//! [`fanout`] (one thread a shard) → [`quic`] (the driver: packets in batches).
//!
//! The operator's side: [`cli`] → [`config`] → [`settings`] → [`start`], beside which run
//! [`admin`], [`observe`], [`metrics`], [`logging`] and [`tls`]; [`exit`] ends it. [`web`] holds the page.

pub mod admin;
pub mod audience;
pub mod cli;
pub mod clock;
pub mod command;
pub mod config;
pub mod exit;
pub mod fanout;
pub mod logging;
pub mod metrics;
pub mod node;
pub mod observe;
pub mod quic;
pub mod settings;
pub mod start;
pub mod tls;
pub mod uplink;
pub mod web;
