//! Who gets a tick, in which variant, and what is kept for those who ask later.
//!
//! [`Choice`] picks a session's variant from the loss of its own path. The path of a tick: [`Ring::insert`] keeps the record, [`Variants::build`] makes each variant's datagram
//! once per framing, [`Targets::lists`] says who gets which, as slices.

mod choice;
mod ring;
mod targets;
mod variants;

pub use choice::{Change, Choice, PathSample};
pub use ring::Ring;
pub use targets::{Class, Place, SessionIx, Targets};
pub use variants::{Variant, Variants};
