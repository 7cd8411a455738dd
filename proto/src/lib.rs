//! Stentor's wire format and every protocol decision.
//!
//! Nothing here reads a clock, draws a random number, opens a socket or starts a thread: time
//! ([`Time`]) and randomness are arguments. The shells (`relay`, `origin`, `client`) move bytes
//! between these machines and the network; the simulator drives the same machines.
//!
//! The path of a tick through the modules:
//! [`room`] (a speaker's frames become ticks) → [`node`] (control hands a tick to its shards) →
//! [`fanout`] (who gets it, in which variant) → [`wire`] (its bytes) → [`receive`] (the next
//! node's merge of two feeds, or a listener's window).
#![warn(missing_docs)]

pub mod admission;
pub mod authority;
pub mod fanout;
pub mod limits;
pub mod listen;
pub mod names;
pub mod node;
pub mod pass;
mod random;
pub mod receive;
pub mod revoked;
pub mod room;
pub mod session;
pub mod speech;
mod time;
pub mod token;
pub mod tree;
pub mod wire;

pub use time::Time;
