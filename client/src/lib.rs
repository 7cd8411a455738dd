//! A client of a room: what a speaker sends and what a listener plays.
//!
//! A speaker's path: [`audio::Source`] → [`audio::Encoder`] → [`speak::Speaker`] → the origin. A
//! listener's: a relay → [`session::Session`] → [`listen::Listener`] → [`audio::Mixer`] →
//! [`audio::Sink`].
#![warn(missing_docs)]

pub mod audio;
mod homes;
pub mod listen;
pub mod patience;
pub mod session;
pub mod speak;
